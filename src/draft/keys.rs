//! Keys of objects. A draft is a folder below a prefix; its versions are below `saved/`, and the copies of
//! its files, which versions share, below `saved-files/`.

use std::borrow::Cow;
use std::str::FromStr;

use thiserror::Error;

use super::{DraftId, Sha256Digest, Version};

/// Prefix of the documents and manifests of all versions.
pub const VERSIONS: &str = "saved/";
/// Prefix of the copies of all files.
pub const COPIES: &str = "saved-files/";

/// File name of the manifest in the folder of a version.
pub const MANIFEST: &str = "files.json";

/// Maximum length of a key, in bytes of UTF-8 ("Naming Amazon S3 objects", Amazon S3 User Guide).
pub const MAX_KEY_BYTES: usize = 1024;

/// File name of a document. Editors and services use one of two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DocumentName {
    /// `draft_content.json`.
    Content,
    /// `draft_info.json`.
    Info,
}

impl DocumentName {
    /// All names, in the order in which a save looks for them.
    pub const ALL: [Self; 2] = [Self::Content, Self::Info];

    /// Returns the file name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Content => "draft_content.json",
            Self::Info => "draft_info.json",
        }
    }
}

/// The prefix of all drafts, `DRAFT_PREFIX`: `drafts/` by default. Ends in `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftPrefix(String);

/// The error for a string that is not a [`DraftPrefix`].
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "must end in / and have at most {} bytes and no control characters",
    DraftPrefix::MAX_BYTES
)]
pub struct InvalidDraftPrefix;

impl Default for DraftPrefix {
    fn default() -> Self {
        Self("drafts/".to_owned())
    }
}

impl FromStr for DraftPrefix {
    type Err = InvalidDraftPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_valid = text.ends_with('/')
            && text.len() <= Self::MAX_BYTES
            && !text.contains(char::is_control);
        is_valid
            .then(|| Self(text.to_owned()))
            .ok_or(InvalidDraftPrefix)
    }
}

impl DraftPrefix {
    /// Maximum length, in bytes, which leaves half of a key for the names of files.
    pub const MAX_BYTES: usize = MAX_KEY_BYTES / 2;

    /// Returns the prefix as a string slice.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the prefix of all objects of the draft `id`.
    pub fn folder(&self, id: &DraftId) -> String {
        format!("{}{id}/", self.0)
    }

    /// Returns the key of the document `name` of the draft `id`.
    pub fn document(&self, id: &DraftId, name: DocumentName) -> String {
        format!("{}{id}/{}", self.0, name.as_str())
    }

    /// Returns the id of the draft whose document has the key `key`, or `None` if `key` is not the
    /// key of a document.
    pub fn parse_document(&self, key: &str) -> Option<DraftId> {
        let (id, name) = key.strip_prefix(self.as_str())?.split_once('/')?;
        let is_document = DocumentName::ALL
            .iter()
            .any(|document| document.as_str() == name);
        if is_document { id.parse().ok() } else { None }
    }

    /// Returns whether drafts and versions in one bucket could have the same keys.
    pub fn overlaps_versions(&self) -> bool {
        let overlaps = |other: &str| self.0.starts_with(other) || other.starts_with(&self.0);
        overlaps(VERSIONS) || overlaps(COPIES)
    }
}

/// Returns the prefix of all versions of the draft `id`.
pub fn versions(id: &DraftId) -> String {
    format!("{VERSIONS}{id}/")
}

/// Returns the key of the document of a version.
pub fn version_document(id: &DraftId, version: &Version, name: DocumentName) -> String {
    format!("{VERSIONS}{id}/{version}/{}", name.as_str())
}

/// Returns the key of the manifest of a version.
pub fn manifest(id: &DraftId, version: &Version) -> String {
    format!("{VERSIONS}{id}/{version}/{MANIFEST}")
}

/// Returns the prefix of all copies for the draft `id`.
pub fn copies(id: &DraftId) -> String {
    format!("{COPIES}{id}/")
}

/// Returns the key of the copy of the file `path` with the `ETag` `etag`.
pub fn copy(id: &DraftId, etag: &str, path: &str) -> String {
    format!("{COPIES}{id}/{}/{path}", etag_text(etag))
}

/// Maximum length of an `ETag` in a key, in bytes.
const MAX_ETAG_BYTES: usize = 64;

/// Returns an `ETag` as key text: without quotes, or its SHA-256 if it has other characters than
/// letters, digits and `-`.
pub(crate) fn etag_text(etag: &str) -> Cow<'_, str> {
    let text = etag.trim_matches('"');
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if (1..=MAX_ETAG_BYTES).contains(&text.len()) && text.bytes().all(is_allowed) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(Sha256Digest::of(etag.as_bytes()).to_string())
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn prefix(text: &str) -> DraftPrefix {
        text.parse().expect("a valid prefix")
    }

    fn id() -> DraftId {
        "abc".parse().expect("a valid id")
    }

    #[test]
    fn documents_are_directly_in_the_folder_of_their_draft() {
        let drafts = prefix("drafts/");
        assert_eq!(drafts.folder(&id()), "drafts/abc/");
        for name in DocumentName::ALL {
            let key = drafts.document(&id(), name);
            assert_eq!(key, format!("drafts/abc/{}", name.as_str()));
            assert_eq!(drafts.parse_document(&key), Some(id()));
        }
        for other in [
            "drafts/abc/draft_meta_info.json",
            "drafts/abc/x/draft_content.json",
            "drafts/abc/Timelines/x/draft_info.json",
            "drafts/draft_content.json",
            "drafts//draft_content.json",
            "saved/abc/draft_content.json",
            "drafts/../draft_content.json",
            "draft_content.json",
        ] {
            assert_eq!(drafts.parse_document(other), None, "{other}");
        }
    }

    #[test]
    fn refuses_prefixes_that_are_not_a_folder() {
        for text in [
            "",
            "drafts",
            "a/b",
            "a\n/",
            &format!("{}/", "a".repeat(512)),
        ] {
            assert_eq!(
                text.parse::<DraftPrefix>(),
                Err(InvalidDraftPrefix),
                "{text:?}"
            );
        }
        prefix(&format!("{}/", "a".repeat(511)));
    }

    #[test]
    fn prefixes_overlap_if_one_begins_with_the_other() {
        for text in ["saved/", "saved/x/", "saved-files/", "saved-files/x/"] {
            assert!(prefix(text).overlaps_versions(), "{text}");
        }
        for text in ["drafts/", "saved-drafts/", "save/", "x/saved/", "/"] {
            assert!(!prefix(text).overlaps_versions(), "{text}");
        }
    }

    #[test]
    fn versions_have_a_folder_of_their_own() {
        let version = Version::new(OffsetDateTime::UNIX_EPOCH, &Sha256Digest::of(b"{}"))
            .expect("a valid year");
        let folder = format!("{}{version}/", versions(&id()));
        assert!(
            folder.starts_with("saved/abc/19700101T000000Z-44136fa3"),
            "{folder}"
        );
        let document = version_document(&id(), &version, DocumentName::Info);
        assert_eq!(document, format!("{folder}draft_info.json"));
        assert_eq!(manifest(&id(), &version), format!("{folder}files.json"));
    }

    #[test]
    fn copies_have_the_state_of_the_file_in_their_key() {
        let path = "assets/{etag} a+b%20/你.mp4";
        let key = copy(&id(), "\"0123456789abcdef-2\"", path);
        assert_eq!(key, format!("saved-files/abc/0123456789abcdef-2/{path}"));
        assert!(key.starts_with(&copies(&id())));
        let hash = Sha256Digest::of(b"\"a/b\"");
        assert_eq!(
            copy(&id(), "\"a/b\"", "x"),
            format!("saved-files/abc/{hash}/x")
        );
    }
}
