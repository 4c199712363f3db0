//! The use case: read a draft, write an immutable version of it.
//! Knows no event and no HTTP.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::time::timeout_at;

use crate::config::Config;
use crate::draft::{self, DraftId, Version};
use crate::error::Error;
use crate::keys::{DraftKey, SavedKey};
use crate::store::{Creation, Document, Store};

/// A draft that is safe now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The version that holds the draft's state.
    pub version: Version,
    /// Whether this save made it, or found it.
    pub creation: Creation,
}

impl Saved {
    /// `created` or `unchanged`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.creation {
            Creation::Created => "created",
            Creation::AlreadyExists => "unchanged",
        }
    }
}

/// A save, however it ended, with what there is to say about it.
#[derive(Debug)]
pub struct Attempt {
    /// The draft.
    pub draft_id: DraftId,
    /// What became of it.
    pub result: Result<Saved, Error>,
    /// How long all of it took.
    pub elapsed: Duration,
    /// The size of the document, once it was read.
    pub bytes: Option<u64>,
    /// How long S3 took to deliver the document.
    pub read: Option<Duration>,
    /// How long S3 took to store the version.
    pub write: Option<Duration>,
}

/// Saves drafts.
#[derive(Clone, Debug)]
pub struct Saver {
    store: Store,
    draft_key: DraftKey,
    saved_key: SavedKey,
    maintenance: bool,
}

impl Saver {
    /// A saver over `store` that finds and names things as `config` says.
    #[must_use]
    pub fn new(store: Store, config: &Config) -> Self {
        Self {
            store,
            draft_key: config.draft_key.clone(),
            saved_key: config.saved_key.clone(),
            maintenance: config.maintenance,
        }
    }

    /// Saves the draft `draft_id` as it is now, and answers by `deadline`.
    ///
    /// Two requests to S3. Saving the same state again finds the version that is there,
    /// so this may be repeated, raced and cut off at any point.
    pub async fn save(&self, draft_id: DraftId, deadline: Instant) -> Attempt {
        let begin = Instant::now();
        let mut attempt = Attempt {
            draft_id,
            result: Err(Error::unavailable("the save was put off for maintenance")),
            elapsed: Duration::ZERO,
            bytes: None,
            read: None,
            write: None,
        };
        if !self.maintenance {
            attempt.result = if begin < deadline {
                // In its place from the beginning: it is large to be moved.
                let saved = pin!(self.run(&mut attempt));
                let in_time = timeout_at(deadline.into(), saved).await;
                in_time.unwrap_or_else(|_| Err(Error::unavailable("the time ran out")))
            } else {
                Err(Error::unavailable("there was no time left to begin"))
            };
        }
        attempt.elapsed = begin.elapsed();
        attempt
    }

    async fn run(&self, attempt: &mut Attempt) -> Result<Saved, Error> {
        let id = &attempt.draft_id;
        let begin = Instant::now();
        let document = self.store.read(&self.draft_key.of(id)).await;
        attempt.read = Some(begin.elapsed());
        let document = document?;
        attempt.bytes = Some(document.bytes.len() as u64);
        draft::check_document(&document.bytes).map_err(Error::save_failed)?;

        let version =
            Version::new(document.last_modified, &document.sha256).map_err(Error::save_failed)?;
        let metadata = metadata(id, &document)?;
        let key = self.saved_key.of(id, &version);
        let begin = Instant::now();
        let creation = self.store.create(&key, &document, &metadata).await;
        attempt.write = Some(begin.elapsed());
        Ok(Saved {
            version,
            creation: creation?,
        })
    }
}

/// RFC 3339 in UTC, with milliseconds.
const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// What a version says about itself.
fn metadata(id: &DraftId, document: &Document) -> Result<[(&'static str, String); 5], Error> {
    let time = |time: OffsetDateTime| time.format(MILLISECONDS).map_err(Error::save_failed);
    Ok([
        ("draft-id", id.to_string()),
        ("source-etag", document.etag.clone()),
        ("source-last-modified", time(document.last_modified)?),
        ("saved-at", time(SystemTime::now().into())?),
        ("sha256", document.sha256.to_string()),
    ])
}
