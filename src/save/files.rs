//! Saves the draft's other files: lists the draft's folder until a listing is consistent, and copies
//! the files that have no copy yet.
//!
//! A copy is named by the draft, the `ETag` and the path of a file, so that versions share it. The
//! store copies it; no file passes through the memory of the function.

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use thiserror::Error as ThisError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

use crate::draft::keys::{self, DocumentName, DraftPrefix, MAX_KEY_BYTES};
use crate::draft::{DraftId, Sha256Digest};
use crate::error::{BoxError, Error};
use crate::s3::{CopyOutcome, Document, ListedObject, MAX_COPY_BYTES, Store, backoff};

/// Maximum number of concurrent copies.
const MAX_CONCURRENT_COPIES: usize = 16;

/// Maximum number of listings of the draft's folder for one read of the document. A draft that is
/// edited all the time needs more than two.
const MAX_LISTINGS: u32 = 10;

/// Saves the files of drafts beside their documents.
#[derive(Clone, Debug)]
pub struct FileSaver {
    store: Store,
    draft_prefix: DraftPrefix,
}

/// The files of a draft at one moment, all of which have copies.
#[derive(Debug)]
pub struct FolderState {
    /// The files, sorted by path.
    files: Vec<File>,
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

#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    /// Path within the draft's folder.
    path: String,
    source: ListedObject,
    /// Key of the copy.
    copy_key: String,
}

/// An error that is specific to the files of a draft.
#[derive(Debug, ThisError)]
enum FilesError {
    #[error("the path {0:?} contains a control character")]
    ControlCharacter(String),
    #[error("the store sends no ETag of the document")]
    NoEtag,
    #[error("the key of the copy of {0:?} would be longer than {MAX_KEY_BYTES} bytes")]
    KeyTooLong(String),
    #[error("{path:?} has {bytes} bytes, more than the limit of {MAX_COPY_BYTES} for a copy")]
    TooLarge { path: String, bytes: u64 },
    #[error("the object {0:?} is not a copy of the file: its size differs")]
    WrongCopy(String),
    #[error("the draft's folder changed during {MAX_LISTINGS} attempts to save it")]
    Unstable(#[source] Option<BoxError>),
}

impl FileSaver {
    /// Creates a saver that lists and copies through `store`.
    pub fn new(store: Store, draft_prefix: DraftPrefix) -> Self {
        Self {
            store,
            draft_prefix,
        }
    }

    /// Copies the files of the draft `id` until a listing of its folder shows the document in the
    /// state that was read as `document`, and a listing of the copies shows all files. Returns that
    /// state, or `None` if the document has changed and must be read again.
    ///
    /// Requests: one listing without other files; two if all files have copies; else four, and one
    /// for each new file.
    ///
    /// # Errors
    ///
    /// - `ServiceUnavailable` if S3 could not be reached, or the folder changed all the time.
    /// - `SaveFailed` if a file cannot be copied, or an object with the key of a copy is not one.
    pub async fn save(
        &self,
        id: &DraftId,
        document: &Document,
        report: &mut FilesReport,
    ) -> Result<Option<FolderState>, Error> {
        let mut previous = None;
        let mut last_response = None;
        for attempt in 1..=MAX_LISTINGS {
            let Some((files, is_one_page)) = self.list_files(id, document).await? else {
                return Ok(None);
            };
            report.files = files.len() as u64;
            // Pages are read one after the other: only two equal listings show one moment.
            let is_consistent = is_one_page || previous.as_ref() == Some(&files);
            let missing = self.missing_copies(id, &files).await?;
            if missing.is_empty() && is_consistent {
                return Ok(Some(FolderState { files }));
            }
            last_response = self.copy(missing, report).await?;
            if last_response.is_some() {
                sleep(backoff(attempt)).await;
            }
            previous = Some(files);
        }
        Err(Error::unavailable(FilesError::Unstable(last_response)))
    }

    /// Lists the files in the draft's folder, and returns them with whether the listing was one page.
    /// `None` if the listing does not show the document as it was read.
    async fn list_files(
        &self,
        id: &DraftId,
        document: &Document,
    ) -> Result<Option<(Vec<File>, bool)>, Error> {
        let folder = self.draft_prefix.folder(id);
        let document_key = self.draft_prefix.document(id, DocumentName::Content);
        let etag = document.etag.trim_matches('"');
        if etag.is_empty() {
            return Err(Error::save_failed(FilesError::NoEtag));
        }
        let listing = self.store.list_drafts(&folder).await?;
        let mut has_document = false;
        let mut files = Vec::new();
        for object in listing.objects {
            if object.key == document_key {
                // The same bytes written again are another state.
                has_document = object.etag.trim_matches('"') == etag
                    && object.last_modified == document.last_modified;
                continue;
            }
            // An empty object that stands for a folder in the S3 console.
            if object.key.ends_with('/') && object.size == 0 {
                continue;
            }
            files.push(Self::file(id, &folder, object)?);
        }
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(has_document.then_some((files, listing.is_one_page)))
    }

    fn file(id: &DraftId, folder: &str, source: ListedObject) -> Result<File, Error> {
        let path = source
            .key
            .strip_prefix(folder)
            .unwrap_or(&source.key)
            .to_owned();
        // A restore with a shell reads paths from lines.
        if path.contains(char::is_control) {
            return Err(Error::save_failed(FilesError::ControlCharacter(path)));
        }
        let copy_key = keys::copy(id, &source.etag, &path);
        if copy_key.len() > MAX_KEY_BYTES {
            return Err(Error::save_failed(FilesError::KeyTooLong(path)));
        }
        if source.size > MAX_COPY_BYTES {
            let bytes = source.size;
            return Err(Error::save_failed(FilesError::TooLarge { path, bytes }));
        }
        Ok(File {
            path,
            source,
            copy_key,
        })
    }

    /// Returns the files of which there is no copy.
    async fn missing_copies(&self, id: &DraftId, files: &[File]) -> Result<Vec<File>, Error> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let prefix = keys::copies(id);
        let keys = files.iter().map(|file| file.copy_key.as_str()).collect();
        let listing = self.store.list_saved(&prefix, &keys).await?;
        let copies: HashMap<_, _> = listing
            .objects
            .into_iter()
            .map(|copy| (copy.key.clone(), copy))
            .collect();
        let mut missing = Vec::new();
        for file in files {
            match copies.get(&file.copy_key) {
                None => missing.push(file.clone()),
                Some(copy) if copy.size == file.source.size => {}
                Some(_) => {
                    let error = FilesError::WrongCopy(file.copy_key.clone());
                    return Err(Error::save_failed(error));
                }
            }
        }
        Ok(missing)
    }

    /// Copies `files`. Returns the response of the store if one of them was not copied.
    async fn copy(
        &self,
        files: Vec<File>,
        report: &mut FilesReport,
    ) -> Result<Option<BoxError>, Error> {
        let mut last_response = None;
        let mut copies = stream::iter(files)
            .map(|file| self.copy_file(file))
            .buffer_unordered(MAX_CONCURRENT_COPIES);
        while let Some((outcome, size)) = copies.try_next().await? {
            match outcome {
                CopyOutcome::Created => {
                    report.copied += 1;
                    report.copied_bytes += size;
                }
                CopyOutcome::NotCreated(response) => last_response = Some(response),
            }
        }
        Ok(last_response)
    }

    async fn copy_file(&self, file: File) -> Result<(CopyOutcome, u64), Error> {
        let outcome = self.store.copy(&file.source, &file.copy_key).await?;
        Ok((outcome, file.source.size))
    }
}

/// The manifest of a version.
#[derive(Serialize)]
struct Manifest<'a> {
    draft_id: &'a str,
    files: Vec<ManifestFile<'a>>,
}

/// A file in the manifest.
#[derive(Serialize)]
struct ManifestFile<'a> {
    path: &'a str,
    size: u64,
    etag: &'a str,
    last_modified: String,
    key: &'a str,
}

impl FolderState {
    /// Returns whether the draft has no other files than the document.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the time at which the last file of the state was written; `document` is that of the
    /// document.
    pub fn last_modified(&self, document: OffsetDateTime) -> OffsetDateTime {
        let times = self.files.iter().map(|file| file.source.last_modified);
        times.fold(document, OffsetDateTime::max)
    }

    /// Returns the digest that names the state: the SHA-256 of the compact JSON
    /// `["{SHA-256 of the document}",[["{path}","{ETag without quotes}"],…]]`, sorted by path.
    ///
    /// # Errors
    ///
    /// None: strings and lists are always valid JSON.
    pub fn state_digest(&self, document: &Sha256Digest) -> Result<Sha256Digest, Error> {
        let files: Vec<_> = self
            .files
            .iter()
            .map(|file| (&file.path, file.source.etag.trim_matches('"')))
            .collect();
        let state = (document.to_string(), files);
        let json = serde_json::to_vec(&state).map_err(Error::save_failed)?;
        Ok(Sha256Digest::of(&json))
    }

    /// Returns the manifest of the version as JSON: the path, size, `ETag`, `Last-Modified` (RFC 3339)
    /// and the key of the copy of each file.
    ///
    /// # Errors
    ///
    /// Returns an error for times that RFC 3339 cannot express.
    pub fn manifest(&self, id: &DraftId) -> Result<Vec<u8>, Error> {
        let files = self.files.iter().map(|file| {
            let last_modified = file.source.last_modified.format(&Rfc3339);
            Ok(ManifestFile {
                path: &file.path,
                size: file.source.size,
                etag: file.source.etag.trim_matches('"'),
                last_modified: last_modified.map_err(Error::save_failed)?,
                key: &file.copy_key,
            })
        });
        let manifest = Manifest {
            draft_id: id.as_str(),
            files: files.collect::<Result<_, Error>>()?,
        };
        serde_json::to_vec_pretty(&manifest).map_err(Error::save_failed)
    }
}
