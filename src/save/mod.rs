//! The use case: reads a draft's document and creates an immutable version of it.

mod files;
pub mod manifest;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_config::SdkConfig;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

pub use self::files::FilesReport;

use self::files::FolderState;
use crate::config::Config;
use crate::draft::document::{self, DocumentKind};
use crate::draft::keys::{self, DocumentName};
use crate::draft::{DraftId, Sha256Digest, Version};
use crate::error::{Error, ErrorKind};
use crate::s3::{CreateOutcome, Document, Memory, NewObject, Pool, Store};

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
    /// The progress of the save until it ended.
    pub progress: Progress,
}

/// The part of a report that is known while the save runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Name of the document, if there is one.
    pub document: Option<DocumentName>,
    /// Kind of the document, if it is valid.
    pub kind: Option<DocumentKind>,
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
    memory: Pool,
    config: Arc<Config>,
    worker: Worker,
}

/// Maximum number of reads of the document in one save. With `SAVE_FILES`, it is read again if a listing
/// shows another state.
const MAX_READS: u32 = 5;

/// Maximum number of attempts to create a manifest that exists at first, and then does not.
const MAX_MANIFEST_ATTEMPTS: u32 = 3;

impl Saver {
    /// Creates a saver. Makes no request.
    pub fn new(sdk_config: &SdkConfig, config: Arc<Config>) -> Self {
        Self {
            store: Store::new(sdk_config, Arc::clone(&config)),
            memory: Pool::new(config.memory_bytes),
            config,
            worker: Worker(Arc::new(Semaphore::new(1))),
        }
    }

    /// Saves the current state of the draft `draft_id`, and returns by `deadline`.
    ///
    /// May be repeated, run concurrently and interrupted at any point: the same state always has the same
    /// version.
    pub async fn save(&self, draft_id: DraftId, deadline: Instant) -> SaveReport {
        let start = Instant::now();
        let mut progress = Progress::default();
        let result = if self.config.maintenance {
            Err(Error::unavailable("maintenance mode is on"))
        } else if start >= deadline {
            Err(Error::unavailable("no time was left to start the save"))
        } else {
            // Pinned here because the future is large to move.
            let saved = pin!(self.run(&draft_id, &mut progress));
            let saved = timeout_at(deadline.into(), saved).await;
            saved.unwrap_or_else(|_| Err(Error::unavailable("the save ran out of time")))
        };
        SaveReport {
            draft_id,
            result,
            elapsed: start.elapsed(),
            progress,
        }
    }

    /// Saves with the memory that is free, or else waits for what the save needs and starts again.
    async fn run(&self, id: &DraftId, progress: &mut Progress) -> Result<Saved, Error> {
        let mut bytes = 0;
        loop {
            let memory = self.memory.reserve(bytes).await?;
            let result = self.run_with(&memory, id, progress).await;
            match memory.missing() {
                Some(missing) if result.is_err() => bytes = missing,
                _ => return result,
            }
        }
    }

    async fn run_with(
        &self,
        memory: &Memory,
        id: &DraftId,
        progress: &mut Progress,
    ) -> Result<Saved, Error> {
        for _ in 0..MAX_READS {
            let (name, document) = self.read(id, memory, progress).await?;
            let mut files = None;
            if self.config.save_files {
                let report = progress.files.get_or_insert_default();
                let state = self.copy_folder(id, (name, &document), memory, report);
                let Some(state) = state.await? else {
                    continue;
                };
                // Without other files, the version is named by its document alone.
                files = Some(state).filter(|state| !state.files.is_empty());
            }
            let start = Instant::now();
            let saved = self.write(id, name, document, files, memory).await;
            progress.write = Some(start.elapsed());
            return saved;
        }
        let cause = format!("the document changed during {MAX_READS} attempts to save the draft");
        Err(Error::unavailable(cause))
    }

    /// Reads and validates the first document that exists.
    async fn read(
        &self,
        id: &DraftId,
        memory: &Memory,
        progress: &mut Progress,
    ) -> Result<(DocumentName, Document), Error> {
        let start = Instant::now();
        let [first, second] = DocumentName::ALL;
        let mut name = first;
        let key = self.config.draft_prefix.document(id, first);
        let mut document = self.store.read(&key, memory).await;
        if let Err(error) = &document
            && error.kind() == ErrorKind::DraftNotFound
        {
            name = second;
            let key = self.config.draft_prefix.document(id, second);
            document = self.store.read(&key, memory).await;
        }
        progress.read = Some(start.elapsed());
        let document = document?;
        progress.document = Some(name);
        progress.bytes = Some(document.bytes.len() as u64);
        let bytes = document.bytes.clone();
        let validate = move || document::validate(&bytes);
        let size = document.bytes.len() as u64;
        let kind = self.worker.run(size, memory, validate).await?;
        progress.kind = Some(kind.map_err(Error::save_failed)?);
        Ok((name, document))
    }

    /// Creates the version. Its document is written last: the version exists when the document does.
    async fn write(
        &self,
        id: &DraftId,
        name: DocumentName,
        document: Document,
        files: Option<FolderState>,
        memory: &Memory,
    ) -> Result<Saved, Error> {
        let version = match files {
            None => Version::new(document.last_modified, &document.sha256),
            Some(files) => {
                let bytes = files.memory_bytes;
                memory.require(document.bytes.len() as u64 + bytes)?;
                let (sha256, last_modified) = (document.sha256, document.last_modified);
                let draft_id = id.clone();
                let prepare = move || {
                    let time = files.last_modified(last_modified);
                    let version = Version::new(time, &files.state_digest(&sha256));
                    let manifest = files.manifest(&draft_id)?;
                    let manifest = NewObject {
                        sha256: Sha256Digest::of(&manifest),
                        bytes: manifest.into(),
                        metadata: Vec::new(),
                    };
                    Ok((version, manifest))
                };
                let (version, manifest) = self.worker.run(bytes, memory, prepare).await??;
                if let Ok(version) = &version {
                    self.create_manifest(id, version, &manifest).await?;
                }
                version
            }
        };
        let version = version.map_err(Error::save_failed)?;
        let object = NewObject {
            bytes: document.bytes.clone(),
            sha256: document.sha256,
            metadata: metadata(id, &document)?,
        };
        let key = keys::version_document(id, &version, name);
        let outcome = self.store.create(&key, &object).await?;
        Ok(Saved { version, outcome })
    }

    /// Creates the manifest of a version. If there is one, it must have the same files. Their times may
    /// differ: only the newest one is part of the version's name.
    async fn create_manifest(
        &self,
        id: &DraftId,
        version: &Version,
        object: &NewObject,
    ) -> Result<(), Error> {
        let key = keys::manifest(id, version);
        for _ in 0..MAX_MANIFEST_ATTEMPTS {
            if self.store.create(&key, object).await? == CreateOutcome::Created {
                return Ok(());
            }
            let is_time = |position| manifest::is_in_time(&object.bytes, position);
            match self.store.is_equal(&key, &object.bytes, is_time).await? {
                Some(true) => return Ok(()),
                Some(false) => {
                    let problem = format!("the object {key:?} is not the manifest of the version");
                    return Err(Error::save_failed(problem));
                }
                // It was deleted in the meantime.
                None => {}
            }
        }
        let problem = format!("the object {key:?} was created and deleted by others");
        Err(Error::unavailable(problem))
    }
}

/// Does work that takes longer than some milliseconds on a thread of its own, one piece at a time in the
/// process, so that the timer of the deadline is not delayed.
#[derive(Clone, Debug)]
struct Worker(Arc<Semaphore>);

impl Worker {
    /// Maximum size of the data of a piece of work that is not worth another thread, in bytes.
    const MAX_INLINE_BYTES: u64 = 256 << 10;

    /// Runs `work`, which reads `bytes` bytes. `memory` is released only when the work is done, also
    /// after the deadline.
    async fn run<T: Send + 'static>(
        &self,
        bytes: u64,
        memory: &Memory,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if bytes <= Self::MAX_INLINE_BYTES {
            return Ok(work());
        }
        let permit = self.0.clone().acquire_owned().await;
        let permit = permit.map_err(Error::save_failed)?;
        let memory = memory.clone();
        let done = spawn_blocking(move || {
            let result = work();
            drop((permit, memory));
            result
        });
        done.await.map_err(Error::save_failed)
    }
}

/// Returns the user-defined metadata of a version.
fn metadata(id: &DraftId, document: &Document) -> Result<Vec<(&'static str, String)>, Error> {
    // RFC 3339 in UTC, with milliseconds.
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let format = |time: OffsetDateTime| time.format(format).map_err(Error::save_failed);
    Ok(vec![
        ("draft-id", id.to_string()),
        ("source-etag", document.etag.clone()),
        ("source-last-modified", format(document.last_modified)?),
        ("saved-at", format(SystemTime::now().into())?),
        ("sha256", document.sha256.to_string()),
    ])
}
