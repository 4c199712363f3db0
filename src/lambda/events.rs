//! Handles all events that are not HTTP: direct invocations, S3, EventBridge, SNS and SQS.
//!
//! A failed save fails the invocation, so that the trigger retries it or sends the event to its
//! dead-letter queue. For an SQS batch, the response names the messages that failed.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::slice;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use lambda_http::lambda_runtime::Diagnostic;
use serde_json::{Value, json};

use super::Invocation;
use super::parser::{self, EventContent, Origin, ParsedEvent, add_draft};
use crate::draft::DraftId;
use crate::error::{Error, ErrorKind};
use crate::save::Saved;

/// Maximum number of concurrent saves of one event.
const MAX_CONCURRENT_SAVES: usize = 16;

/// The error of a failed invocation, as its caller sees it. The cause is only logged.
impl From<&Error> for Diagnostic {
    fn from(error: &Error) -> Self {
        Self {
            error_type: error.kind().as_str().to_owned(),
            error_message: error.detail().to_owned(),
        }
    }
}

/// Saves the drafts that `payload` names.
///
/// # Errors
///
/// Returns an error if one of them was not saved. A batch of SQS fails as a whole only if a message
/// has no `messageId`.
pub(super) async fn handle(
    payload: &str,
    invocation: &Invocation<'_>,
) -> Result<Value, Diagnostic> {
    let invalid = |error: &Error| {
        invocation.log.invalid(error);
        Diagnostic::from(error)
    };
    let event = parser::parse(payload, invocation.config);
    match event.map_err(|error| invalid(&error))? {
        ParsedEvent::Direct(request) => {
            let result = invocation.save(request.id).await.result;
            let saved = result.map_err(|error| Diagnostic::from(&error))?;
            Ok(saved_json(request.field, &request.value, &saved))
        }
        ParsedEvent::Notification(content) => {
            let saves = BatchSaves::run(slice::from_ref(&content), invocation).await;
            match saves.error(&content) {
                Some(error) => Err(Diagnostic::from(error)),
                None => Ok(saves.to_json(&content)),
            }
        }
        // "Reporting batch item failures for Lambda functions with an Amazon SQS trigger", AWS Lambda
        // Developer Guide.
        ParsedEvent::Batch(messages) => {
            let saves = BatchSaves::run(&messages, invocation).await;
            // SQS cannot be told whether that message was saved, so that it has to deliver all again.
            if messages.iter().any(|message| message.message_id.is_none()) {
                let error = parser::invalid_event("a message has no messageId");
                return Err(invalid(&error));
            }
            let is_failed = |message: &&EventContent<'_>| saves.error(message).is_some();
            let failed = messages.iter().filter(is_failed);
            let failed = failed.map(|message| json!({"itemIdentifier": message.message_id}));
            Ok(json!({"batchItemFailures": failed.collect::<Vec<_>>()}))
        }
    }
}

/// Returns the result of one save for the caller.
fn saved_json(field: &str, draft: &str, saved: &Saved) -> Value {
    json!({
        field: draft,
        "version": saved.version.as_str(),
        "saved": saved.outcome.as_str(),
    })
}

/// The results of the saves of one event.
struct BatchSaves {
    /// By draft. A draft that is not here was not started before the deadline.
    saves: HashMap<DraftId, Result<Saved, Error>>,
    not_started: Error,
}

impl BatchSaves {
    /// Saves each draft of `contents` once, and logs the results, the records that were skipped, and the
    /// first that could not be parsed.
    async fn run(contents: &[EventContent<'_>], invocation: &Invocation<'_>) -> Self {
        let log = &invocation.log;
        let mut drafts = BTreeMap::new();
        for content in contents {
            // Logged before the saves: after the deadline, no time is left for many records.
            for (reason, key) in &content.skipped {
                log.skipped(reason, key.as_deref().map(|key| ("key", key)));
            }
            if let Some(error) = &content.error {
                log.invalid(error);
            }
            for (id, origin) in &content.drafts {
                add_draft(&mut drafts, id.clone(), *origin);
            }
        }
        let count = drafts.len();
        // An event may have more drafts than can be logged one by one after the deadline.
        let mut reports = stream::iter(drafts)
            .take_while(|_| ready(Instant::now() < invocation.deadline))
            .map(async |(id, origin)| {
                (invocation.saver.save(id, invocation.deadline).await, origin)
            })
            .buffer_unordered(MAX_CONCURRENT_SAVES);
        let mut saves = HashMap::with_capacity(count);
        while let Some((report, origin)) = reports.next().await {
            match &report.result {
                Err(error) if is_deleted(error, origin) => {
                    let name = ("draft_id", report.draft_id.as_str());
                    log.skipped("the draft has been deleted", Some(name));
                }
                _ => log.save(&report),
            }
            saves.insert(report.draft_id, report.result);
        }
        let not_started = Error::unavailable("no time was left to start the save");
        if saves.len() < count {
            log.failed((count - saves.len()) as u64, &not_started);
        }
        Self { saves, not_started }
    }

    /// Returns the error of `content`, if there is one. A retryable error takes precedence.
    fn error<'a>(&'a self, content: &'a EventContent<'_>) -> Option<&'a Error> {
        let errors = content.drafts.iter().filter_map(|(id, origin)| {
            let error = match self.saves.get(id) {
                Some(result) => result.as_ref().err()?,
                None => &self.not_started,
            };
            (!is_deleted(error, *origin)).then_some(error)
        });
        errors
            .chain(&content.error)
            .max_by_key(|error| error.kind())
    }

    fn to_json(&self, content: &EventContent<'_>) -> Value {
        let saved = content.drafts.keys().filter_map(|id| {
            let saved = self.saves.get(id)?.as_ref().ok()?;
            Some(saved_json("draft_id", id.as_str(), saved))
        });
        let saved: Vec<_> = saved.collect();
        // Without an error, the others were deleted.
        let deleted = content.drafts.len() - saved.len();
        json!({"saves": saved, "skipped": content.skipped.len() + deleted})
    }
}

/// Returns whether a save failed only because the draft was deleted after its document was written. S3
/// is strongly consistent: there is nothing to save.
fn is_deleted(error: &Error, origin: Origin) -> bool {
    origin == Origin::Object && error.kind() == ErrorKind::DraftNotFound
}
