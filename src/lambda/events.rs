//! Handles all events that are not HTTP: direct invocations, S3, EventBridge, SNS and SQS.
//!
//! A failed save fails the invocation, so that the trigger retries it or sends the event to its
//! dead-letter queue. For an SQS batch, the response names the messages that failed.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use lambda_http::lambda_runtime::Diagnostic;
use serde_json::{Value, json};

use super::parser::{self, EventContent, EventParser, Message, Origin, ParsedEvent, add_drafts};
use super::telemetry::InvocationLog;
use crate::draft::DraftId;
use crate::error::{Error, ErrorKind};
use crate::save::{Saved, Saver};

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

/// Saves the drafts that `payload` names, and returns by `deadline`.
///
/// # Errors
///
/// Returns an error if one of them was not saved. A batch of SQS fails as a whole only if a message
/// has no `messageId`.
pub(super) async fn handle(
    payload: &str,
    parser: &EventParser,
    saver: &Saver,
    deadline: Instant,
    log: &InvocationLog<'_>,
) -> Result<Value, Diagnostic> {
    let event = parser.parse(payload).map_err(|error| {
        log.invalid(&error);
        Diagnostic::from(&error)
    })?;
    match event {
        ParsedEvent::Direct(request) => {
            let report = saver.save(request.id, deadline).await;
            log.save(&report);
            let saved = report.result.as_ref().map_err(Diagnostic::from)?;
            Ok(saved_json(request.field, &request.value, saved))
        }
        ParsedEvent::Notification(content) => {
            log_content(&content, log);
            let saves = BatchSaves::run(content.drafts.clone(), saver, deadline, log).await;
            match saves.error(&content) {
                Some(error) => Err(error),
                None => Ok(saves.to_json(&content)),
            }
        }
        ParsedEvent::Batch(messages) => handle_batch(messages, saver, deadline, log).await,
    }
}

/// Saves the drafts of an SQS batch, and reports the failed messages ("Reporting batch item
/// failures for Lambda functions with an Amazon SQS trigger", AWS Lambda Developer Guide).
async fn handle_batch(
    messages: Vec<Message>,
    saver: &Saver,
    deadline: Instant,
    log: &InvocationLog<'_>,
) -> Result<Value, Diagnostic> {
    let mut drafts = BTreeMap::new();
    for message in &messages {
        log_content(&message.content, log);
        add_drafts(&mut drafts, message.content.drafts.clone());
    }
    let saves = BatchSaves::run(drafts, saver, deadline, log).await;
    let mut failures = Vec::new();
    let mut has_unidentified = false;
    for message in messages {
        match message.id {
            Some(id) if saves.error(&message.content).is_some() => {
                failures.push(json!({"itemIdentifier": id}));
            }
            Some(_) => {}
            None => has_unidentified = true,
        }
    }
    // SQS cannot be told whether that message was saved, so that it has to deliver all again.
    if has_unidentified {
        let error = parser::invalid_event("a message has no messageId");
        log.invalid(&error);
        return Err(Diagnostic::from(&error));
    }
    Ok(json!({"batchItemFailures": failures}))
}

/// Returns the result of one save for the caller.
fn saved_json(field: &str, draft: &str, saved: &Saved) -> Value {
    json!({
        field: draft,
        "version": saved.version.as_str(),
        "saved": saved.outcome.as_str(),
    })
}

/// Logs the records that were skipped, and the first that could not be parsed. This is done before the
/// saves: there may be many, and no time is left for them after the deadline.
fn log_content(content: &EventContent, log: &InvocationLog<'_>) {
    for skipped in &content.skipped {
        let name = skipped.key.as_deref().map(|key| ("key", key));
        log.skipped(skipped.reason, name);
    }
    if let Some(error) = &content.error {
        log.invalid(error);
    }
}

/// The results of the saves of one event.
struct BatchSaves {
    /// By draft. A draft that is not here was not started before the deadline.
    saves: HashMap<DraftId, Result<Saved, Error>>,
    not_started: Error,
}

impl BatchSaves {
    /// Saves each of `drafts`.
    async fn run(
        drafts: BTreeMap<DraftId, Origin>,
        saver: &Saver,
        deadline: Instant,
        log: &InvocationLog<'_>,
    ) -> Self {
        let count = drafts.len();
        // An event may have more drafts than can be logged one by one after the deadline.
        let mut reports = stream::iter(drafts)
            .take_while(|_| ready(Instant::now() < deadline))
            .map(async |(id, origin)| (saver.save(id, deadline).await, origin))
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
    fn error(&self, content: &EventContent) -> Option<Diagnostic> {
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
            .map(Diagnostic::from)
    }

    fn to_json(&self, content: &EventContent) -> Value {
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
