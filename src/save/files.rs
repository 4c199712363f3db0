//! Saves the draft's other files: lists the draft's folder until the listing shows one state, and
//! copies the files that have no copy yet.
//!
//! A copy is named by the draft, the `ETag` and the path of a file, so that versions share it. The
//! store copies it; no file passes through the memory of the function.

use std::cmp::Ordering;

use futures_util::{StreamExt as _, stream};
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::Saver;
use super::manifest::{Manifest, ManifestFile, state_digest};
use crate::draft::keys::{self, DocumentName, MAX_KEY_BYTES};
use crate::draft::{DraftId, Sha256Digest};
use crate::error::{Error, chain};
use crate::s3::{
    CopyError, CopySource, Document, ListedObject, MAX_REQUESTS, Memory, Refusal, backoff,
};

/// Maximum number of objects in the folder of a draft.
const MAX_OBJECTS: usize = 100_000;

/// Maximum number of listings of the draft's folder for one read of the document. A draft that is
/// edited all the time needs more than two.
const MAX_LISTINGS: u32 = 10;

/// Number of files about which a page of a listing has to tell whether there is a copy. Fewer are
/// asked for one by one, which costs as much and takes no longer.
const MIN_FILES_OF_PAGE: usize = 25;

/// The files of a draft at one moment, all of which have copies.
#[derive(Debug)]
pub(super) struct FolderState {
    /// Sorted by path.
    pub(super) files: Vec<File>,
    /// Indexes of `files`, sorted by the keys of the copies.
    by_copy: Vec<u32>,
    /// Digest of all fields of all files.
    digest: Sha256Digest,
    /// Memory for the files and the manifest, in bytes.
    pub(super) memory_bytes: u64,
}

/// Counters of a save for the log and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesReport {
    /// Number of files in the state, without the document.
    pub files: u64,
    /// Number of files that this save copied.
    pub copied: u64,
    /// Size of the files that this save copied, in bytes.
    pub copied_bytes: u64,
}

/// A file of a draft. A draft may have many, so that this is small.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Path within the draft's folder.
    path: Box<str>,
    /// As sent by S3.
    etag: Box<str>,
    size: u64,
    last_modified: OffsetDateTime,
}

impl Saver {
    /// Copies the files of the draft `id` as one listing of its folder shows them beside the document
    /// in the state that was read. Returns that state, or `None` if the document has changed and must
    /// be read again.
    ///
    /// # Errors
    ///
    /// `ServiceUnavailable` if the folder changed all the time, and the errors of [`crate::s3`].
    pub(super) async fn copy_folder(
        &self,
        id: &DraftId,
        (name, document): (DocumentName, &Document),
        memory: &Memory,
        report: &mut FilesReport,
    ) -> Result<Option<FolderState>, Error> {
        let mut previous = None;
        let mut has_changed = false;
        let mut refused = None;
        for attempt in 1..=MAX_LISTINGS {
            let Some((state, is_one_page)) = self.list_files(id, name, document, memory).await?
            else {
                return Ok(None);
            };
            report.files = state.files.len() as u64;
            let is_equal = previous == Some(state.digest);
            has_changed |= previous.is_some() && !is_equal;
            previous = Some(state.digest);
            // Pages are read one after the other: only two equal listings show one moment.
            if !is_one_page && !is_equal {
                continue;
            }
            match self.copy_files(id, &state, report).await? {
                None => return Ok(Some(state)),
                refusal => refused = refusal,
            }
            sleep(backoff(attempt)).await;
        }
        let problem = "the draft's folder changed all the time";
        Err(match refused {
            None => Error::unavailable(problem),
            Some(refusal) if refusal.is_condition && !has_changed => {
                let problem = "a copy was refused although nothing had changed: the store does not support \
                               conditional copies, or it denies HeadObject on the copies";
                Error::save_failed(format!("{problem}: {}", chain(&*refusal.cause)))
            }
            Some(refusal) => Error::unavailable(format!("{problem}: {}", chain(&*refusal.cause))),
        })
    }

    /// Lists the files in the draft's folder, and returns whether the listing has one page. `None` if it
    /// does not show the document as it was read.
    async fn list_files(
        &self,
        id: &DraftId,
        name: DocumentName,
        document: &Document,
        memory: &Memory,
    ) -> Result<Option<(FolderState, bool)>, Error> {
        if plain_etag(&document.etag).is_empty() {
            return Err(Error::save_failed(
                "the store sends no ETag of the document",
            ));
        }
        let folder = self.config.draft_prefix.folder(id);
        let mut has_document = false;
        let mut files = Vec::new();
        let mut bytes = document.bytes.len() as u64;
        let (mut token, mut objects, mut pages) = (None, 0, 0);
        loop {
            let page = self.store.list_drafts(&folder, token.as_deref()).await?;
            pages += 1;
            objects += page.objects.len();
            if objects > MAX_OBJECTS {
                let problem = format!("the draft has more than {MAX_OBJECTS} objects");
                return Err(Error::save_failed(problem));
            }
            bytes += page.objects.iter().map(File::memory_bytes).sum::<u64>();
            memory.require(bytes)?;
            for object in page.objects {
                let path = &object.key[folder.len()..];
                if path == name.as_str() {
                    // The same bytes written again are another state.
                    has_document = plain_etag(&object.etag) == plain_etag(&document.etag)
                        && object.last_modified == document.last_modified;
                } else if path == DocumentName::Content.as_str() {
                    // It was written after `draft_info.json` had been read in its place.
                    return Ok(None);
                } else if !(object.key.ends_with('/') && object.size == 0) {
                    // An object that stands for a folder in the S3 console is left out.
                    files.push(File::new(id, path, &object)?);
                }
            }
            token = page.next;
            if token.is_none() {
                break;
            }
        }
        if !has_document {
            return Ok(None);
        }
        let sort = move || FolderState::new(files);
        let size = bytes - document.bytes.len() as u64;
        let state = self.worker.run(size, memory, sort).await??;
        Ok(Some((state, pages == 1)))
    }

    /// Copies the files of `state` that have no copy. Returns the last response to a copy that was
    /// refused.
    async fn copy_files(
        &self,
        id: &DraftId,
        state: &FolderState,
        report: &mut FilesReport,
    ) -> Result<Option<Refusal>, Error> {
        let files = self.find_copies(id, state).await?;
        let mut copies = stream::iter(files)
            .map(|(index, is_missing)| self.copy_file(id, state.file(index), is_missing))
            .buffer_unordered(MAX_REQUESTS);
        let mut refused = None;
        while let Some(copy) = copies.next().await {
            match copy {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    report.copied += 1;
                    report.copied_bytes += bytes;
                }
                Err(CopyError::Refused(refusal)) => refused = Some(refusal),
                Err(CopyError::Failed(error)) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// Lists the copies while a page tells about enough files. Returns the indexes of the files without
    /// a copy, with `true`, and of those about which nothing is known, with `false`. The number of pages
    /// does not depend on the number of older copies.
    async fn find_copies(
        &self,
        id: &DraftId,
        state: &FolderState,
    ) -> Result<Vec<(u32, bool)>, Error> {
        let prefix = keys::copies(id);
        let mut files = Vec::new();
        let mut unknown = &*state.by_copy;
        while unknown.len() >= MIN_FILES_OF_PAGE {
            let count = unknown.len();
            // The key before which the page begins: that of the first file, without its last character.
            let mut after = state.file(unknown[0]).copy_key(id);
            after.pop();
            let page = self.store.list_saved(&prefix, &after).await?;
            for object in &page.objects {
                while let Some((first, rest)) = unknown.split_first() {
                    let file = state.file(*first);
                    match (*file.copy_key(id)).cmp(&object.key) {
                        Ordering::Less => files.push((*first, true)),
                        Ordering::Equal => file.check_copy(&object.key, object.size)?,
                        Ordering::Greater => break,
                    }
                    unknown = rest;
                }
            }
            if page.next.is_none() {
                files.extend(unknown.iter().map(|index| (*index, true)));
                unknown = &[];
            }
            if count - unknown.len() < MIN_FILES_OF_PAGE {
                break;
            }
        }
        files.extend(unknown.iter().map(|index| (*index, false)));
        Ok(files)
    }

    /// Returns the size of the copy in bytes if it was created, and `None` if it existed.
    async fn copy_file(
        &self,
        id: &DraftId,
        file: &File,
        is_missing: bool,
    ) -> Result<Option<u64>, CopyError> {
        let key = file.copy_key(id);
        if !is_missing && self.has_copy(file, &key).await? {
            return Ok(None);
        }
        let source_key = format!("{}{}", self.config.draft_prefix.folder(id), file.path);
        let source = CopySource {
            key: &source_key,
            etag: &file.etag,
            size: file.size,
        };
        match self.store.copy(source, &key).await {
            // Another save may have created it.
            Err(CopyError::Refused(_)) if self.has_copy(file, &key).await? => Ok(None),
            copied => copied.map(|()| Some(file.size)),
        }
    }

    async fn has_copy(&self, file: &File, key: &str) -> Result<bool, Error> {
        match self.store.saved_size(key).await? {
            Some(size) => file.check_copy(key, size).map(|()| true),
            None => Ok(false),
        }
    }
}

/// Returns an `ETag` without quotes and without the mark of a weak one, which a proxy that compresses
/// adds.
fn plain_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

impl File {
    /// Memory for a file beside its texts, in bytes: this struct, the list while it grows, the index,
    /// and what the allocator adds.
    const OVERHEAD_BYTES: u64 = 192;

    fn memory_bytes(object: &ListedObject) -> u64 {
        (object.key.len() + object.etag.len()) as u64 + Self::OVERHEAD_BYTES
    }

    fn memory_with_manifest_bytes(&self) -> u64 {
        let is_escaped = |byte: &u8| matches!(byte, b'"' | b'\\');
        let escaped = self.path.bytes().filter(is_escaped).count();
        // The path and the `ETag` are also part of the key.
        let json = 320 + 2 * (self.path.len() + escaped) + 3 * self.etag.len();
        (self.path.len() + self.etag.len() + json) as u64 + Self::OVERHEAD_BYTES
    }

    fn new(id: &DraftId, path: &str, object: &ListedObject) -> Result<Self, Error> {
        // A restore with a shell reads paths from lines.
        if path.contains(char::is_control) {
            let problem = format!("the path {path:?} contains a control character");
            return Err(Error::save_failed(problem));
        }
        if keys::copy(id, &object.etag, path).len() > MAX_KEY_BYTES {
            let problem = format!(
                "the key of the copy of {path:?} would be longer than {MAX_KEY_BYTES} bytes"
            );
            return Err(Error::save_failed(problem));
        }
        Ok(Self {
            path: path.into(),
            etag: object.etag.as_str().into(),
            size: object.size,
            last_modified: object.last_modified,
        })
    }

    fn copy_key(&self, id: &DraftId) -> String {
        keys::copy(id, &self.etag, &self.path)
    }

    /// Compares the keys of the copies of two files.
    fn cmp_copy_key(&self, other: &Self) -> Ordering {
        let (etag, other_etag) = (keys::etag_text(&self.etag), keys::etag_text(&other.etag));
        let key = etag.bytes().chain([b'/']).chain(self.path.bytes());
        key.cmp(other_etag.bytes().chain([b'/']).chain(other.path.bytes()))
    }

    /// Checks that the object `key`, of `size` bytes, can be the copy of the file.
    fn check_copy(&self, key: &str, size: u64) -> Result<(), Error> {
        if size == self.size {
            return Ok(());
        }
        let problem = format!("the object {key:?} is not a copy of the file: its size differs");
        Err(Error::save_failed(problem))
    }
}

impl FolderState {
    /// Takes the files of a listing, in any order.
    fn new(mut files: Vec<File>) -> Result<Self, Error> {
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        // A store may list an object twice.
        files.dedup();
        if files.windows(2).any(|pair| pair[0].path == pair[1].path) {
            let problem = "the listing has an object in two states";
            return Err(Error::unavailable(problem));
        }
        let mut hasher = Sha256::new();
        for file in &files {
            hasher.update(file.path.as_bytes());
            hasher.update([0]);
            hasher.update(file.etag.as_bytes());
            hasher.update([0]);
            hasher.update(file.size.to_le_bytes());
            hasher.update(file.last_modified.unix_timestamp().to_le_bytes());
        }
        let mut by_copy: Vec<u32> = (0..).take(files.len()).collect();
        by_copy.sort_unstable_by(|a, b| files[*a as usize].cmp_copy_key(&files[*b as usize]));
        Ok(Self {
            memory_bytes: files.iter().map(File::memory_with_manifest_bytes).sum(),
            files,
            by_copy,
            digest: Sha256Digest::from_hasher(hasher),
        })
    }

    fn file(&self, index: u32) -> &File {
        &self.files[index as usize]
    }

    /// Returns the time at which the last file of the state was written; `document` is that of the
    /// document.
    pub(super) fn last_modified(&self, document: OffsetDateTime) -> OffsetDateTime {
        let times = self.files.iter().map(|file| file.last_modified);
        times.fold(document, OffsetDateTime::max)
    }

    /// Returns the digest that names the state.
    pub(super) fn state_digest(&self, document: &Sha256Digest) -> Sha256Digest {
        let files = self.files.iter();
        let files = files.map(|file| (&*file.path, plain_etag(&file.etag)));
        state_digest(document, &files.collect::<Vec<_>>())
    }

    /// Returns the manifest of the version as JSON.
    ///
    /// # Errors
    ///
    /// Returns an error for times that RFC 3339 cannot express.
    pub(super) fn manifest(&self, id: &DraftId) -> Result<Vec<u8>, Error> {
        let manifest = Manifest {
            draft_id: id.as_str().into(),
            files: ManifestFiles(id, &self.files),
        };
        serde_json::to_vec_pretty(&manifest).map_err(Error::save_failed)
    }
}

/// The files as a manifest has them. They are converted one by one, to save memory.
struct ManifestFiles<'a>(&'a DraftId, &'a [File]);

impl Serialize for ManifestFiles<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(id, files) = self;
        serializer.collect_seq(files.iter().map(|file| ManifestFile {
            path: (&*file.path).into(),
            size: file.size,
            etag: plain_etag(&file.etag).into(),
            last_modified: file.last_modified,
            key: file.copy_key(id).into(),
        }))
    }
}
