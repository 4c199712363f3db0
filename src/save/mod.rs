//! The use case: reads a draft's document and creates an immutable version of it.

pub mod files;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use self::files::{FileSaver, FilesReport, FolderState};
use crate::config::SaveConfig;
use crate::draft::keys::{self, DocumentName, DraftPrefix};
use crate::draft::{DraftId, Sha256Digest, Version, document};
use crate::error::Error;
use crate::s3::{CreateOutcome, Document, NewObject, Store};

/// A saved draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The version that holds the state of the draft.
    pub version: Version,
    /// The version was created by this save, or it existed.
    pub outcome: CreateOutcome,
}

/// The result of a save, with what is logged and measured about it.
#[derive(Debug)]
pub struct SaveReport {
    /// Id of the draft.
    pub draft_id: DraftId,
    /// The saved version, or the error.
    pub result: Result<Saved, Error>,
    /// Duration of the save.
    pub elapsed: Duration,
    /// Size of the document in bytes, if it was read.
    pub bytes: Option<u64>,
    /// Time to read the document from S3.
    pub read: Option<Duration>,
    /// Time to write the version to S3.
    pub write: Option<Duration>,
    /// The draft's other files, if they are saved too.
    pub files: Option<FilesReport>,
}

/// Saves drafts.
#[derive(Clone, Debug)]
pub struct Saver {
    store: Store,
    draft_prefix: DraftPrefix,
    /// `None` if only the document is saved.
    files: Option<FileSaver>,
    maintenance: bool,
    /// Limits the validations on blocking threads to one at a time, which bounds their memory.
    validation: Arc<Semaphore>,
}

/// Maximum number of reads of the document in one save. With `SAVE_FILES`, it is read again if it has
/// changed when the files have been copied.
const MAX_READS: u32 = 5;

/// Documents up to this size are validated on the thread that serves the invocation, in about a
/// millisecond. Larger ones would delay the deadline's timer.
const MAX_INLINE_VALIDATION_BYTES: usize = 1 << 20;

impl Saver {
    /// Creates a saver that reads and writes through `store`.
    pub fn new(store: Store, config: SaveConfig) -> Self {
        let files = config
            .save_files
            .then(|| FileSaver::new(store.clone(), config.draft_prefix.clone()));
        Self {
            store,
            draft_prefix: config.draft_prefix,
            files,
            maintenance: config.maintenance,
            validation: Arc::new(Semaphore::new(1)),
        }
    }

    /// Saves the current state of the draft `draft_id`, and returns by `deadline`.
    ///
    /// Makes two requests to S3, and more if the draft's other files are saved. May be repeated, run
    /// concurrently and interrupted at any point: the same state always has the same version.
    pub async fn save(&self, draft_id: DraftId, deadline: Instant) -> SaveReport {
        let start = Instant::now();
        let mut report = SaveReport {
            draft_id,
            result: Err(Error::unavailable("maintenance mode is on")),
            elapsed: Duration::ZERO,
            bytes: None,
            read: None,
            write: None,
            files: None,
        };
        if !self.maintenance {
            report.result = if start < deadline {
                // Pinned here because the future is large to move.
                let saved = pin!(self.run(&mut report));
                let saved = timeout_at(deadline.into(), saved).await;
                saved.unwrap_or_else(|_| Err(Error::unavailable("the save ran out of time")))
            } else {
                Err(Error::unavailable("no time was left to start the save"))
            };
        }
        report.elapsed = start.elapsed();
        report
    }

    async fn run(&self, report: &mut SaveReport) -> Result<Saved, Error> {
        for _ in 0..MAX_READS {
            let document = self.read(report).await?;
            let files = match &self.files {
                None => None,
                Some(files) => {
                    let counters = report.files.get_or_insert_default();
                    match files.save(&report.draft_id, &document, counters).await? {
                        // Without other files, the version is named by its document alone.
                        Some(state) => (!state.is_empty()).then_some(state),
                        None => continue,
                    }
                }
            };
            let start = Instant::now();
            let saved = self.write(&report.draft_id, document, files.as_ref()).await;
            report.write = Some(start.elapsed());
            return saved;
        }
        let cause = format!("the document changed during {MAX_READS} attempts to save the draft");
        Err(Error::unavailable(cause))
    }

    /// Reads and validates the document.
    async fn read(&self, report: &mut SaveReport) -> Result<Document, Error> {
        let start = Instant::now();
        let key = self
            .draft_prefix
            .document(&report.draft_id, DocumentName::Content);
        let document = self.store.read(&key).await;
        report.read = Some(start.elapsed());
        let document = document?;
        report.bytes = Some(document.bytes.len() as u64);
        self.validate(document).await
    }

    /// Creates the version. Its document is written last: the version exists when the document does.
    async fn write(
        &self,
        id: &DraftId,
        document: Document,
        files: Option<&FolderState>,
    ) -> Result<Saved, Error> {
        let version = match files {
            None => Version::new(document.last_modified, &document.sha256),
            Some(files) => {
                let last_modified = files.last_modified(document.last_modified);
                Version::new(last_modified, &files.state_digest(&document.sha256)?)
            }
        };
        let version = version.map_err(Error::save_failed)?;
        let object = NewObject {
            bytes: document.bytes.clone(),
            sha256: document.sha256,
            metadata: metadata(id, &document)?,
        };
        if let Some(files) = files {
            let manifest = files.manifest(id)?;
            let manifest = NewObject {
                sha256: Sha256Digest::of(&manifest),
                bytes: manifest.into(),
                metadata: Vec::new(),
            };
            let key = keys::manifest(id, &version);
            self.store.create(&key, &manifest).await?;
        }
        let key = keys::version_document(id, &version, DocumentName::Content);
        let outcome = self.store.create(&key, &object).await?;
        Ok(Saved { version, outcome })
    }

    async fn validate(&self, document: Document) -> Result<Document, Error> {
        if document.bytes.len() <= MAX_INLINE_VALIDATION_BYTES {
            document::validate(&document.bytes).map_err(Error::save_failed)?;
            return Ok(document);
        }
        let permit = Arc::clone(&self.validation).acquire_owned().await;
        let permit = permit.map_err(Error::save_failed)?;
        // Takes the document along, so that its memory is released only when the thread is done.
        let validated = spawn_blocking(move || {
            let result = document::validate(&document.bytes);
            drop(permit);
            result.map(|_| document)
        });
        let validated = validated.await.map_err(Error::save_failed)?;
        validated.map_err(Error::save_failed)
    }
}

/// RFC 3339 in UTC, with milliseconds.
const METADATA_TIME_FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Returns the user-defined metadata of a version.
fn metadata(id: &DraftId, document: &Document) -> Result<Vec<(&'static str, String)>, Error> {
    let format = |time: OffsetDateTime| {
        time.format(METADATA_TIME_FORMAT)
            .map_err(Error::save_failed)
    };
    Ok(vec![
        ("draft-id", id.to_string()),
        ("source-etag", document.etag.clone()),
        ("source-last-modified", format(document.last_modified)?),
        ("saved-at", format(SystemTime::now().into())?),
        ("sha256", document.sha256.to_string()),
    ])
}
