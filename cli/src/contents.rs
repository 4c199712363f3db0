//! The document and the files of a version, checked against the hash in its name.

use bytes::Bytes;
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use save_draft::draft::{DraftId, Sha256Digest, keys};
use save_draft::save::manifest::{Manifest, state_digest};

use crate::error::{Error, Result};
use crate::history::SavedVersion;
use crate::store::{Bucket, Head, Object, Store};

/// A version whose document and manifest have the hash in its name.
#[derive(Debug)]
pub struct Contents {
    pub version: SavedVersion,
    pub document: Bytes,
    /// The headers of the document.
    pub head: Head,
    /// The other files, sorted by path.
    pub files: Vec<VersionFile>,
    /// The draft's objects had MD5 digests as `ETag`s.
    pub has_md5_etags: bool,
}

/// A file of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionFile {
    /// Path within the draft's folder.
    pub path: String,
    pub size: u64,
    /// `ETag` of the draft's object, without quotes.
    pub etag: String,
    pub last_modified: Timestamp,
}

impl VersionFile {
    /// Returns the key of the copy.
    pub fn key(&self, id: &DraftId) -> String {
        keys::copy(id, &self.etag, &self.path)
    }
}

impl Contents {
    /// Reads the document and the manifest of `version`.
    ///
    /// # Errors
    ///
    /// Returns an error, which counts as a found problem, if they are missing or do not have the hash in the
    /// name of the version.
    pub async fn read(store: &Store, id: &DraftId, version: &SavedVersion) -> Result<Self> {
        let files = Self::read_files(store, id, version).await?;
        let key = &version.document.key;
        let document = store.read_all(Bucket::Saved, key).await?;
        let (head, document) = document.ok_or_else(|| missing(store, key))?;
        let digest = Sha256Digest::of(&document);
        let digest = match version.manifest {
            None => digest,
            Some(_) => digest_of(&digest, &files),
        };
        if digest.to_string() != version.name.digest() {
            let url = store.url(Bucket::Saved, key);
            let parts = match version.manifest {
                None => "the document",
                Some(_) => "the document and the manifest beside it",
            };
            return Err(Error::problem(format!(
                "{url} is not what was saved: the hash of {parts} is {digest}"
            ))
            .advise(format!("Check all versions with `drafts verify {id}`.")));
        }
        let has_md5_etags = has_md5_etag(&head, &document);
        Ok(Self {
            version: version.clone(),
            document: document.into(),
            head,
            files,
            has_md5_etags,
        })
    }

    /// Reads the files in the manifest of `version`: none if it has no manifest.
    pub async fn read_files(
        store: &Store,
        id: &DraftId,
        version: &SavedVersion,
    ) -> Result<Vec<VersionFile>> {
        match &version.manifest {
            Some(manifest) => Self::read_manifest(store, id, manifest).await,
            None => Ok(Vec::new()),
        }
    }

    /// Reads the files in a manifest.
    pub async fn read_manifest(
        store: &Store,
        id: &DraftId,
        manifest: &Object,
    ) -> Result<Vec<VersionFile>> {
        let read = store.read_all(Bucket::Saved, &manifest.key).await?;
        let (_, bytes) = read.ok_or_else(|| missing(store, &manifest.key))?;
        parse(&bytes, id).map_err(|problem| {
            let url = store.url(Bucket::Saved, &manifest.key);
            Error::problem(format!("{url} is not a manifest: {problem}"))
        })
    }

    /// Returns the time at which the draft's document was written.
    pub fn document_modified(&self) -> Timestamp {
        let time = self.head.metadata.get("source-last-modified");
        let time = time.and_then(|time| time.parse().ok());
        time.unwrap_or_else(|| self.version.state_time())
    }

    /// Returns the number of bytes of the document and the files.
    pub fn bytes(&self) -> u64 {
        let files = self.files.iter().map(|file| file.size);
        total_bytes(files.chain([self.document.len() as u64]))
    }
}

/// Adds sizes. A damaged manifest may have any.
pub fn total_bytes(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

fn missing(store: &Store, key: &str) -> Error {
    Error::problem(format!("{} is missing", store.url(Bucket::Saved, key)))
}

/// Reads a manifest of the draft `id`. Returns the problem if it is not one.
pub fn parse(bytes: &[u8], id: &DraftId) -> std::result::Result<Vec<VersionFile>, String> {
    let manifest: Manifest<'_> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if manifest.draft_id != id.as_str() {
        return Err(format!("it is of the draft {:?}", manifest.draft_id));
    }
    let mut files = Vec::with_capacity(manifest.files.len());
    for file in manifest.files {
        let last_modified = Timestamp::from_second(file.last_modified.unix_timestamp());
        let parsed = VersionFile {
            size: file.size,
            last_modified: last_modified.map_err(|error| error.to_string())?,
            path: file.path.into_owned(),
            etag: file.etag.into_owned(),
        };
        // A key elsewhere would bring in a file of another draft.
        if file.key != parsed.key(id) {
            return Err(format!(
                "{:?} is not the copy of {:?}",
                file.key, parsed.path
            ));
        }
        files.push(parsed);
    }
    Ok(files)
}

/// Returns the digest in the name of a version with these files, as a save computes it.
pub fn digest_of(document: &Sha256Digest, files: &[VersionFile]) -> Sha256Digest {
    let files = files.iter().map(|file| (&*file.path, &*file.etag));
    state_digest(document, &files.collect::<Vec<_>>())
}

/// Returns true if the bucket of the drafts had MD5 digests as `ETag`s: it does not with KMS, which the form of
/// an `ETag` does not show. The metadata of a version's document has the `ETag` that the document had there.
pub fn has_md5_etag(head: &Head, document: &[u8]) -> bool {
    let etag = head.metadata.get("source-etag");
    let etag = etag.map(|etag| etag.trim_matches('"'));
    let digest = Md5::digest(document);
    etag == Some(&format!("{:032x}", u128::from_be_bytes(digest.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{
  "draft_id": "abc",
  "files": [
    {
      "path": "assets/\u4f60 \"a\".mp4",
      "size": 3,
      "etag": "900150983cd24fb0d6963f7d28e17f72",
      "last_modified": "2025-09-28T11:47:30Z",
      "key": "saved-files/abc/900150983cd24fb0d6963f7d28e17f72/assets/你 \"a\".mp4"
    }
  ]
}"#;

    fn id(text: &str) -> DraftId {
        text.parse().expect("a valid id")
    }

    #[test]
    fn reads_a_manifest() {
        let files = parse(MANIFEST.as_bytes(), &id("abc")).expect("a manifest");
        let expected = VersionFile {
            path: "assets/你 \"a\".mp4".to_owned(),
            size: 3,
            etag: "900150983cd24fb0d6963f7d28e17f72".to_owned(),
            last_modified: "2025-09-28T11:47:30Z".parse().expect("a time"),
        };
        assert_eq!(files, [expected]);
        let document = Sha256Digest::of(b"{}");
        let json = format!(
            r#"["{document}",[["assets/你 \"a\".mp4","900150983cd24fb0d6963f7d28e17f72"]]]"#
        );
        assert_eq!(
            digest_of(&document, &files),
            Sha256Digest::of(json.as_bytes())
        );
    }

    #[test]
    fn refuses_a_manifest_of_another_draft_or_with_other_keys() {
        assert!(parse(MANIFEST.as_bytes(), &id("xyz")).is_err());
        let other = MANIFEST.replace("saved-files/abc/", "saved-files/xyz/");
        let problem = parse(other.as_bytes(), &id("abc")).expect_err("another key");
        assert!(problem.contains("is not the copy of"), "{problem}");
        assert!(parse(b"{}", &id("abc")).is_err());
        assert!(parse(MANIFEST.replace("11:47:30Z", "").as_bytes(), &id("abc")).is_err());
    }
}
