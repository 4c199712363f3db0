//! Saves for everything that is not HTTP: direct invocations, S3 notifications,
//! EventBridge, SNS, and SQS batches of any of these.
//!
//! Over `pass_through` a failure has to be an error of the invocation: then the trigger
//! tries it again, or hands it to its dead-letter queue. Only an SQS batch says in its
//! answer which of its messages failed.

mod payload;

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use aws_lambda_events::sqs::SqsBatchResponse;
use futures_util::{StreamExt as _, stream};
use lambda_http::lambda_runtime::Diagnostic;
use serde_json::{Value, json};

pub use self::payload::Source;
use self::payload::{Drafts, Event};
use crate::draft::DraftId;
use crate::error::{Error, Kind};
use crate::save::{Attempt, Saved, Saver};
use crate::telemetry::Invocation;

/// How many saves of one event run at a time.
const SIDE_BY_SIDE: usize = 16;

/// A failed invocation, as its caller sees it. What caused it has been logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    detail: &'static str,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind(),
            detail: error.detail(),
        }
    }
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        Self {
            error_type: failure.kind.name().to_owned(),
            error_message: failure.detail.to_owned(),
        }
    }
}

/// Saves the drafts that `payload` names, and answers by `deadline`.
///
/// # Errors
///
/// If any of them was not saved, except for an SQS batch: its answer names the messages
/// that are to come again.
pub async fn handle(
    payload: &str,
    source: &Source,
    saver: &Saver,
    deadline: Instant,
    invocation: &mut Invocation,
) -> Result<Value, Failure> {
    let event = source.read(payload).map_err(|error| {
        invocation.refused(&error);
        Failure::from(&error)
    })?;
    match event {
        Event::Direct(draft) => {
            let attempt = saver.save(draft.id, deadline).await;
            invocation.saved(&attempt);
            let saved = attempt.result.as_ref().map_err(Failure::from)?;
            Ok(answer(draft.field, &draft.text, saved))
        }
        Event::Notification(drafts) => {
            let saves = Saves::run(&drafts.ids, saver, deadline, invocation).await;
            note(&drafts, invocation);
            saves
                .failure(&drafts)
                .map_or_else(|| Ok(saves.answer(&drafts)), Err)
        }
        Event::Queue(messages) => {
            let ids = messages
                .iter()
                .flat_map(|message| message.drafts.ids.clone());
            let saves = Saves::run(&ids.collect(), saver, deadline, invocation).await;
            let mut response = SqsBatchResponse::default();
            for message in messages {
                note(&message.drafts, invocation);
                if saves.failure(&message.drafts).is_some() {
                    response.add_failure(message.id);
                }
            }
            Ok(json!(response))
        }
    }
}

/// What is told of one save.
fn answer(field: &str, draft: &str, saved: &Saved) -> Value {
    json!({field: draft, "version": saved.version.as_str(), "saved": saved.word()})
}

/// Logs what was in an event beside drafts.
fn note(drafts: &Drafts, invocation: &mut Invocation) {
    for skipped in &drafts.skipped {
        invocation.skipped(skipped.reason, skipped.key.as_deref());
    }
    for error in &drafts.errors {
        invocation.refused(error);
    }
}

/// The saves of one event, one for each draft.
struct Saves(HashMap<DraftId, Attempt>);

impl Saves {
    /// Saves each of `ids`. Those whose turn comes after the deadline have failed.
    async fn run(
        ids: &BTreeSet<DraftId>,
        saver: &Saver,
        deadline: Instant,
        invocation: &mut Invocation,
    ) -> Self {
        let mut attempts = stream::iter(ids.clone())
            .map(|id| saver.save(id, deadline))
            .buffer_unordered(SIDE_BY_SIDE);
        let mut saves = HashMap::with_capacity(ids.len());
        while let Some(attempt) = attempts.next().await {
            invocation.saved(&attempt);
            saves.insert(attempt.draft_id.clone(), attempt);
        }
        Self(saves)
    }

    /// Why not all of `drafts` was saved: what may work on the next try comes first.
    fn failure(&self, drafts: &Drafts) -> Option<Failure> {
        let attempts = drafts.ids.iter().filter_map(|id| self.0.get(id));
        let failed = attempts.filter_map(|attempt| attempt.result.as_ref().err());
        let first = failed
            .chain(&drafts.errors)
            .max_by_key(|error| error.kind());
        first.map(Failure::from)
    }

    fn answer(&self, drafts: &Drafts) -> Value {
        let attempts = drafts.ids.iter().filter_map(|id| self.0.get(id));
        let saves: Vec<_> = attempts
            .filter_map(|attempt| {
                let saved = attempt.result.as_ref().ok()?;
                Some(answer("draft_id", attempt.draft_id.as_str(), saved))
            })
            .collect();
        json!({"saves": saves, "skipped": drafts.skipped.len()})
    }
}
