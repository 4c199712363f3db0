//! Handles all events that are not HTTP: direct invocations, S3, EventBridge, SNS and SQS.
//!
//! A failed save fails the invocation, so that the trigger retries it or sends the event to its
//! dead-letter queue. For an SQS batch, the response names the messages that failed.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use lambda_http::lambda_runtime::Diagnostic;
use serde_json::{Value, json};

use super::parser::{self, EventContent, EventParser, Message, ParsedEvent};
use super::telemetry::InvocationLog;
use crate::draft::DraftId;
use crate::error::Error;
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
    log: InvocationLog<'_>,
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
            let saves = BatchSaves::run(&content.ids, saver, deadline, log).await;
            log_content(&content, log);
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
    log: InvocationLog<'_>,
) -> Result<Value, Diagnostic> {
    let ids = messages
        .iter()
        .flat_map(|message| message.content.ids.iter().cloned())
        .collect();
    let saves = BatchSaves::run(&ids, saver, deadline, log).await;
    let mut failures = Vec::new();
    let mut has_unidentified = false;
    for message in messages {
        log_content(&message.content, log);
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

/// Logs the records that were skipped, and the first that could not be parsed.
fn log_content(content: &EventContent, log: InvocationLog<'_>) {
    for skipped in &content.skipped {
        log.skipped(skipped.reason, skipped.key.as_deref());
    }
    if let Some(error) = &content.error {
        log.invalid(error);
    }
}

/// The results of the saves of one event, one for each draft.
struct BatchSaves(HashMap<DraftId, Result<Saved, Error>>);

impl BatchSaves {
    /// Saves each of `ids`. A save that is started after the deadline fails.
    async fn run(
        ids: &BTreeSet<DraftId>,
        saver: &Saver,
        deadline: Instant,
        log: InvocationLog<'_>,
    ) -> Self {
        let mut reports = stream::iter(ids.clone())
            .map(|id| saver.save(id, deadline))
            .buffer_unordered(MAX_CONCURRENT_SAVES);
        let mut saves = HashMap::with_capacity(ids.len());
        while let Some(report) = reports.next().await {
            log.save(&report);
            saves.insert(report.draft_id, report.result);
        }
        Self(saves)
    }

    /// Returns the error of `content`, if there is one. A retryable error takes precedence.
    fn error(&self, content: &EventContent) -> Option<Diagnostic> {
        let results = content.ids.iter().filter_map(|id| self.0.get(id));
        results
            .filter_map(|result| result.as_ref().err())
            .chain(&content.error)
            .max_by_key(|error| error.kind())
            .map(Diagnostic::from)
    }

    fn to_json(&self, content: &EventContent) -> Value {
        let saves: Vec<_> = content
            .ids
            .iter()
            .filter_map(|id| {
                let saved = self.0.get(id)?.as_ref().ok()?;
                Some(saved_json("draft_id", id.as_str(), saved))
            })
            .collect();
        json!({"saves": saves, "skipped": content.skipped.len()})
    }
}
