//! Random sequences of writes, saves, events and restores, with faults, with and without `SAVE_FILES`: after each step the
//! bucket is equal to a model.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, draft_key, draft_of_size, event, long_tests, post_id,
};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, S3};
use tokio::runtime::Runtime;

use crate::common::drafts::{
    Files, SAVE_FILES, file_key, read_folder, read_version, state_digest, versions,
};
use crate::common::{self, TestEnv};
use crate::faults::Step::{self, CreateDocument, ReadDocument};

const DRAFTS: [&str; 3] = [
    "20251126220753b7e35362",
    "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c",
    DRAFT_ID,
];
const PATHS: [&str; 4] = ["a", "b", "assets/c d", "assets/你"];
const TRIGGERS: [&str; 4] = ["s3", "eventbridge-s3", "sns", "sqs"];

/// 2025-09-28T11:00:00Z, the start of each sequence, in seconds since the epoch.
const START: u64 = 1_759_057_200;

#[derive(Clone, Debug)]
enum Change {
    /// Writes the document. Few contents, so that drafts return to earlier states.
    Document(u64),
    IncompleteDocument,
    DeleteDocument,
    /// Writes a file: path, content.
    File(&'static str, u8),
    DeleteFile(&'static str),
    /// Replaces the folder by one of the versions, if there is one.
    Restore(Index),
}

#[derive(Clone, Debug)]
enum Action {
    /// Changes a draft, in the same second as the last change or in the next.
    Change(&'static str, Change, bool),
    /// Saves a draft over HTTP, with a fault.
    Save(&'static str, Option<(Step, SaveFault, usize)>),
    /// Sends an event about a draft, several times.
    Event(&'static str, &'static str, usize),
}

/// A fault during one save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SaveFault {
    InternalError,
    SlowDown,
    Cut,
    ShortBody,
    AccessDenied,
    LostResponse,
}

impl SaveFault {
    const ALL: [Self; 6] = [
        Self::InternalError,
        Self::SlowDown,
        Self::Cut,
        Self::ShortBody,
        Self::AccessDenied,
        Self::LostResponse,
    ];

    fn fault(self) -> Fault {
        match self {
            Self::InternalError => Fault::INTERNAL_ERROR,
            Self::SlowDown => Fault::SLOW_DOWN,
            Self::Cut => Fault::Cut,
            // No response of S3 is shorter.
            Self::ShortBody => Fault::ShortBody(20),
            Self::AccessDenied => Fault::ACCESS_DENIED,
            Self::LostResponse => Fault::LoseResponse,
        }
    }
}

fn actions(save_files: bool) -> impl Strategy<Value = Vec<Action>> {
    let steps = if save_files {
        Step::ALL.to_vec()
    } else {
        vec![ReadDocument, CreateDocument]
    };
    let files = u32::from(save_files) * 3;
    let change = prop_oneof![
        5 => (0..4_u64).prop_map(Change::Document),
        1 => select(vec![Change::IncompleteDocument, Change::DeleteDocument]),
        2 => any::<Index>().prop_map(Change::Restore),
        // A weight must not be 0.
        1 + files => (select(&PATHS[..]), 0..3_u8).prop_map(|(path, content)| Change::File(path, content)),
        1 + files => select(&PATHS[..]).prop_map(Change::DeleteFile),
    ];
    let fault = (
        select(steps),
        select(&SaveFault::ALL[..]),
        select(vec![1, 2, usize::MAX]),
    )
        // Whether a copy exists decides the result of a save that can never see it.
        .prop_map(|(step, fault, times)| match step {
            Step::FindCopy => (step, fault, times.min(2)),
            _ => (step, fault, times),
        });
    let id = || select(&DRAFTS[..]);
    let action = prop_oneof![
        9 => (id(), change, any::<bool>()).prop_map(|(id, change, later)| Action::Change(id, change, later)),
        4 => id().prop_map(|id| Action::Save(id, None)),
        4 => (id(), fault).prop_map(|(id, fault)| Action::Save(id, Some(fault))),
        3 => (id(), select(&TRIGGERS[..]), 1..3_usize)
            .prop_map(|(id, trigger, times)| Action::Event(id, trigger, times)),
    ];
    vec(action, 1..30)
}

#[derive(Debug, Default)]
struct Draft {
    /// The document, and the time at which it was written in seconds since [`START`].
    document: Option<(Vec<u8>, u64)>,
    files: BTreeMap<String, (Vec<u8>, u64)>,
}

impl Draft {
    fn files(&self) -> Files {
        let files = self.files.iter();
        files
            .map(|(path, (content, _))| (path.clone(), content.clone()))
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SaveResult {
    Created(String),
    Unchanged(String),
    NotFound,
    Failed,
    Unavailable,
}

use SaveResult::{Created, Failed, NotFound, Unavailable, Unchanged};

/// The real process and its bucket, and their expected state.
struct Model {
    env: TestEnv,
    save_files: bool,
    /// Seconds since [`START`].
    time: u64,
    drafts: BTreeMap<&'static str, Draft>,
    versions: BTreeMap<(&'static str, String), (Vec<u8>, Files)>,
}

impl Model {
    async fn new(save_files: bool) -> Self {
        let s3 = S3::start_empty().await.expect("the S3 server starts");
        let variables = &[SAVE_FILES][..usize::from(save_files)];
        let function = common::start_function(&s3, variables).await;
        Self {
            env: TestEnv { s3, function },
            save_files,
            time: 0,
            drafts: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    async fn apply(&mut self, action: &Action) {
        match action {
            Action::Change(id, change, later) => {
                self.time += u64::from(*later);
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(START + self.time);
                self.env.s3.set_clock(time);
                self.change(id, change);
            }
            Action::Save(id, fault) => {
                let scripted = fault.map(|(step, fault, times)| {
                    self.env
                        .s3
                        .fault(step.requests(id).times(times), fault.fault())
                });
                let result = http_result(self.env.function.invoke(&post_id(id)).await);
                self.env.s3.clear_faults();
                let is_hit = scripted.is_some_and(|scripted| scripted.hits() > 0);
                let expected = self.expect_save(id, fault.filter(|_| is_hit));
                let log = || self.env.function.lines().join("\n");
                assert_eq!(result, expected, "{fault:?}\n{}", log());
            }
            Action::Event(id, trigger, times) => {
                for _ in 0..*times {
                    let outcome = self.env.function.invoke(&event_for(trigger, id)).await;
                    let expected = self.expect_save(id, None);
                    assert_event_outcome(trigger, outcome, &expected, id);
                }
            }
        }
    }

    fn change(&mut self, id: &'static str, change: &Change) {
        let draft = self.drafts.entry(id).or_default();
        match change {
            Change::Document(seed) => {
                draft.document = Some((draft_of_size(500, *seed), self.time));
            }
            Change::IncompleteDocument => {
                draft.document = Some((draft_of_size(500, 0)[..250].to_vec(), self.time));
            }
            Change::DeleteDocument => draft.document = None,
            Change::File(path, content) => {
                let file = (vec![*content; 100], self.time);
                draft.files.insert((*path).to_owned(), file);
            }
            Change::DeleteFile(path) => drop(draft.files.remove(*path)),
            Change::Restore(index) => {
                let versions = self.versions.iter().filter(|((draft, _), _)| *draft == id);
                let versions: Vec<_> = versions.map(|(_, version)| version).collect();
                if !versions.is_empty() {
                    let (document, files) = index.get(&versions);
                    draft.document = Some((document.clone(), self.time));
                    let files = files.iter();
                    let files = files.map(|(path, file)| (path.clone(), (file.clone(), self.time)));
                    draft.files = files.collect();
                }
            }
        }
        // The folder gets the expected state. What was not written now stays as it is.
        let s3 = &self.env.s3;
        for path in read_folder(s3, id)
            .keys()
            .filter(|path| !draft.files.contains_key(*path))
        {
            s3.delete(BUCKET, &file_key(id, path));
        }
        let files = draft
            .files
            .iter()
            .map(|(path, file)| (file_key(id, path), file));
        let document = draft
            .document
            .as_ref()
            .map(|document| (draft_key(id), document));
        for (key, (content, written)) in files.chain(document) {
            if *written == self.time {
                s3.put(BUCKET, &key, content);
            }
        }
        if draft.document.is_none() {
            s3.delete(BUCKET, &draft_key(id));
        }
    }

    /// Returns the expected result of a save, and adds the version that it creates.
    fn expect_save(
        &mut self,
        id: &'static str,
        fault: Option<(Step, SaveFault, usize)>,
    ) -> SaveResult {
        let is_lost = fault.is_some_and(|(step, fault, _)| {
            let lost = [SaveFault::LostResponse, SaveFault::ShortBody];
            step == CreateDocument && lost.contains(&fault)
        });
        let error = match fault {
            // Without an answer, the file is copied. A copy whose response cannot be read was made.
            Some(
                (Step::FindCopy, SaveFault::AccessDenied | SaveFault::ShortBody, _)
                | (Step::CopyFile, SaveFault::ShortBody, _),
            ) => None,
            Some((_, SaveFault::AccessDenied, _)) => Some(Failed),
            Some((_, _, usize::MAX)) => Some(Unavailable),
            _ => None,
        };
        if let Some(error) = error.clone().filter(|_| !is_lost) {
            return error;
        }
        let draft = self.drafts.entry(id).or_default();
        let Some((document, written)) = draft.document.clone() else {
            return NotFound;
        };
        if serde_json::from_slice::<Value>(&document).is_err() {
            return Failed;
        }
        let files = if self.save_files {
            draft.files()
        } else {
            Files::new()
        };
        let times = draft.files.values().map(|(_, written)| *written);
        let latest = times.filter(|_| self.save_files).fold(written, u64::max);
        let etag = |path: &str| self.env.s3.metadata(BUCKET, &file_key(id, path));
        let etags = files
            .keys()
            .map(|path| (path.clone(), etag(path).expect("it exists").etag));
        let digest = state_digest(&document, &etags.collect());
        let version = format!("20250928T11{:02}{:02}Z-{digest}", latest / 60, latest % 60);
        let name = (id, version.clone());
        let existing = self.versions.insert(name, (document, files));
        match error {
            Some(error) => error,
            None if is_lost || existing.is_some() => Unchanged(version),
            None => Created(version),
        }
    }

    /// Compares the bucket with the model.
    fn check(&self) {
        let s3 = &self.env.s3;
        let mut stored = BTreeMap::new();
        for id in DRAFTS {
            let draft = self.drafts.get(id);
            let document = draft.and_then(|draft| Some(draft.document.as_ref()?.0.clone()));
            assert_eq!(s3.get(BUCKET, &draft_key(id)), document);
            let files = draft.map(Draft::files).unwrap_or_default();
            assert_eq!(read_folder(s3, id), files);
            for name in versions(s3, BUCKET, id) {
                let version = read_version(s3, BUCKET, id, &name);
                stored.insert((id, name), version);
            }
        }
        assert!(stored == self.versions, "{:?}", stored.keys());
        for key in s3.keys(BUCKET, "saved-files/") {
            // The key names the content.
            let etag = s3.metadata(BUCKET, &key).expect("the copy exists").etag;
            assert_eq!(key.split('/').nth(2), Some(&*etag));
        }
    }
}

fn http_result(outcome: Outcome) -> SaveResult {
    let response = outcome.response();
    let header = |name: &str| response["headers"][name].as_str().map(str::to_owned);
    let version = || header("draft-version").expect("a version");
    let outcome = header("draft-saved");
    match (response["statusCode"].as_u64(), outcome.as_deref()) {
        (Some(200), Some("created")) => Created(version()),
        (Some(200), Some("unchanged")) => Unchanged(version()),
        (Some(404), None) => NotFound,
        (Some(500), None) => Failed,
        (Some(503), None) => Unavailable,
        _ => panic!("an unexpected response: {response}"),
    }
}

/// Returns the event in `events/{trigger}.json` with the draft `id`. That of SQS has two messages about it.
fn event_for(trigger: &str, id: &str) -> Value {
    if trigger != "sqs" {
        let text = event(trigger).to_string().replace(DRAFT_ID, id);
        return serde_json::from_str(&text).expect("JSON");
    }
    let mut event = event("sqs");
    let message = event["Records"][0].take();
    let bodies = [event_for("s3", id), json!({"draft_id": id})];
    let messages = bodies.into_iter().zip(["first", "second"]);
    event["Records"] = messages
        .map(|(body, message_id)| {
            let mut message = message.clone();
            message["messageId"] = message_id.into();
            message["body"] = body.to_string().into();
            message
        })
        .collect();
    event
}

/// Checks the outcome of an event about the draft `id`.
fn assert_event_outcome(trigger: &str, outcome: Outcome, expected: &SaveResult, id: &str) {
    let (version, saved) = match expected {
        Created(version) => (Some(version), "created"),
        Unchanged(version) => (Some(version), "unchanged"),
        _ => (None, ""),
    };
    // A draft that was deleted since an event of S3 needs no save.
    let is_skipped = *expected == NotFound;
    if trigger == "sqs" {
        let failed: &[_] = if version.is_some() {
            &[]
        } else if is_skipped {
            &["second"]
        } else {
            &["first", "second"]
        };
        let failures = failed.iter().map(|id| json!({"itemIdentifier": id}));
        let response = json!({"batchItemFailures": failures.collect::<Value>()});
        assert_eq!(outcome, Outcome::Response(response));
        return;
    }
    let error_type = match expected {
        Created(_) | Unchanged(_) => {
            let save = json!({"draft_id": id, "version": version, "saved": saved});
            let response = json!({"saves": [save], "skipped": 0});
            assert_eq!(outcome, Outcome::Response(response));
            return;
        }
        NotFound => {
            let response = json!({"saves": [], "skipped": 1});
            assert_eq!(outcome, Outcome::Response(response));
            return;
        }
        Failed => "SaveFailed",
        Unavailable => "ServiceUnavailable",
    };
    assert_eq!(outcome.error().0, error_type);
}

/// Runs 16 sequences, or 300 with `LONG=1`.
fn check_sequences(save_files: bool) {
    let config = ProptestConfig {
        cases: if long_tests() { 300 } else { 16 },
        failure_persistence: None,
        // Each step takes milliseconds.
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&actions(save_files), |actions| {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut model = Model::new(save_files).await;
            for action in &actions {
                model.apply(action).await;
                model.check();
            }
        });
        Ok(())
    });
    result.expect("the bucket equals the model");
}

#[test]
fn any_sequence_of_changes_saves_and_events_fits_the_model() {
    check_sequences(false);
}

#[test]
fn any_sequence_with_files_fits_the_model() {
    check_sequences(true);
}
