//! Random sequences of writes, saves, events and restores, with faults, compared with a model: after each step the bucket
//! is equal to the model.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy as _, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, draft_key, draft_of_size, event, long_tests, post_id, sha256_hex,
};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, Op, S3, When};
use tokio::runtime::{self, Runtime};

use crate::common::{self, Endpoint, TestEnv};

const DRAFTS: [&str; 3] = [
    "20251126220753b7e35362",
    "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c",
    DRAFT_ID,
];

/// 2025-09-28T11:00:00Z, the start of each sequence, in seconds since the epoch.
const START: u64 = 1_759_057_200;

#[derive(Clone, Debug)]
enum Step {
    /// Writes a draft, in the same second as the last write or in the next.
    Write {
        id: &'static str,
        content: u64,
        next_second: bool,
    },
    /// Writes an incomplete document.
    WriteIncomplete {
        id: &'static str,
    },
    Delete {
        id: &'static str,
    },
    /// Saves a draft over HTTP.
    Save {
        id: &'static str,
        fault: Option<SaveFault>,
    },
    /// Sends an event about a draft, several times.
    Event {
        id: &'static str,
        trigger: &'static str,
        times: usize,
    },
    /// Copies a version to the draft, if there is one.
    Restore {
        id: &'static str,
        version: Index,
        next_second: bool,
    },
}

/// A fault during one save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SaveFault {
    FirstReadFails,
    ReadsFail,
    ReadsAreCut,
    TwoConflicts,
    WriteDenied,
    WritesFail,
    FirstResponseLost,
    ResponsesLost,
}

use SaveFault::{
    FirstReadFails, FirstResponseLost, ReadsAreCut, ReadsFail, ResponsesLost, TwoConflicts,
    WriteDenied, WritesFail,
};

impl SaveFault {
    const ALL: [Self; 8] = [
        FirstReadFails,
        ReadsFail,
        ReadsAreCut,
        TwoConflicts,
        WriteDenied,
        WritesFail,
        FirstResponseLost,
        ResponsesLost,
    ];

    fn apply(self, s3: &S3) {
        let reads = || When::op(Op::GetObject);
        let writes = || When::op(Op::PutObject);
        let (requests, fault) = match self {
            FirstReadFails => (reads().once(), Fault::INTERNAL_ERROR),
            ReadsFail => (reads(), Fault::SLOW_DOWN),
            ReadsAreCut => (reads(), Fault::CutBody(20)),
            TwoConflicts => (writes().times(2), Fault::CONFLICT),
            WriteDenied => (writes(), Fault::ACCESS_DENIED),
            WritesFail => (writes(), Fault::INTERNAL_ERROR),
            FirstResponseLost => (writes().once(), Fault::LoseResponse),
            ResponsesLost => (writes(), Fault::LoseResponse),
        };
        s3.fault(requests, fault);
    }
}

/// The expected content of the bucket.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Seconds since [`START`].
    time: u64,
    drafts: BTreeMap<&'static str, Draft>,
    /// Versions by draft id and name.
    versions: BTreeMap<(&'static str, String), Vec<u8>>,
    /// Expected results of the saves in the last step.
    results: Vec<SaveResult>,
}

#[derive(Clone, Debug)]
struct Draft {
    document: Vec<u8>,
    is_complete: bool,
    /// Seconds since [`START`].
    written: u64,
}

impl Draft {
    fn version(&self) -> String {
        let (minute, second) = (self.written / 60, self.written % 60);
        let digest = sha256_hex(&self.document);
        format!("20250928T11{minute:02}{second:02}Z-{digest}")
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

impl Model {
    fn write(&mut self, id: &'static str, document: Vec<u8>, is_complete: bool, next_second: bool) {
        self.time += u64::from(next_second);
        let written = self.time;
        let draft = Draft {
            document,
            is_complete,
            written,
        };
        self.drafts.insert(id, draft);
    }

    fn save(&mut self, id: &'static str, fault: Option<SaveFault>) -> SaveResult {
        if matches!(fault, Some(ReadsFail | ReadsAreCut)) {
            return SaveResult::Unavailable;
        }
        let Some(draft) = self.drafts.get(id) else {
            return SaveResult::NotFound;
        };
        if !draft.is_complete || fault == Some(WriteDenied) {
            return SaveResult::Failed;
        }
        if fault == Some(WritesFail) {
            return SaveResult::Unavailable;
        }
        let version = draft.version();
        let key = (id, version.clone());
        let existing = self.versions.insert(key, draft.document.clone());
        match (fault, existing) {
            (Some(ResponsesLost), _) => SaveResult::Unavailable,
            (Some(FirstResponseLost), _) | (_, Some(_)) => SaveResult::Unchanged(version),
            (_, None) => SaveResult::Created(version),
        }
    }

    /// Returns the name of one of the draft's versions.
    fn version(&self, id: &str, index: Index) -> Option<String> {
        let versions = self.versions.keys().filter(|(draft, _)| *draft == id);
        let names: Vec<_> = versions.map(|(_, name)| name.clone()).collect();
        (!names.is_empty()).then(|| index.get(&names).clone())
    }
}

struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::default()).boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Step> {
        let id = || select(&DRAFTS[..]);
        let triggers = ["s3", "eventbridge-s3", "sns", "sqs"];
        prop_oneof![
            // Few contents, so that drafts return to earlier states.
            5 => (id(), 0..4_u64, any::<bool>())
                .prop_map(|(id, content, next_second)| Step::Write { id, content, next_second }),
            1 => id().prop_map(|id| Step::WriteIncomplete { id }),
            1 => id().prop_map(|id| Step::Delete { id }),
            4 => id().prop_map(|id| Step::Save { id, fault: None }),
            4 => (id(), select(&SaveFault::ALL[..]))
                .prop_map(|(id, fault)| Step::Save { id, fault: Some(fault) }),
            3 => (id(), select(triggers.to_vec()), 1..3_usize)
                .prop_map(|(id, trigger, times)| Step::Event { id, trigger, times }),
            2 => (id(), any::<Index>(), any::<bool>())
                .prop_map(|(id, version, next_second)| Step::Restore { id, version, next_second }),
        ]
        .boxed()
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        model.results.clear();
        match *step {
            Step::Write {
                id,
                content,
                next_second,
            } => model.write(id, draft_of_size(500, content), true, next_second),
            Step::WriteIncomplete { id } => {
                let document = draft_of_size(500, 0)[..250].to_vec();
                model.write(id, document, false, false);
            }
            Step::Delete { id } => drop(model.drafts.remove(id)),
            Step::Save { id, fault } => {
                let result = model.save(id, fault);
                model.results.push(result);
            }
            Step::Event { id, times, .. } => {
                for _ in 0..times {
                    let result = model.save(id, None);
                    model.results.push(result);
                }
            }
            Step::Restore {
                id,
                version,
                next_second,
            } => {
                if let Some(version) = model.version(id, version) {
                    let document = model.versions[&(id, version)].clone();
                    model.write(id, document, true, next_second);
                }
            }
        }
        model
    }
}

/// The real process and its bucket.
struct System {
    env: TestEnv,
    client: aws_sdk_s3::Client,
    /// Keys of the versions before the last step.
    versions: Vec<String>,
    runtime: Runtime,
}

impl System {
    fn set_clock(&self, model: &Model) {
        let time = Duration::from_secs(START + model.time);
        self.env.s3.set_clock(SystemTime::UNIX_EPOCH + time);
    }

    fn invoke(&self, event: &Value) -> Outcome {
        self.runtime.block_on(self.env.function.invoke(event))
    }
}

fn saved_key(id: &str, version: &str) -> String {
    format!("saved/{id}/{version}/draft_content.json")
}

fn http_result(outcome: Outcome) -> SaveResult {
    let response = outcome.response();
    let header = |name: &str| response["headers"][name].as_str().map(str::to_owned);
    let version = || header("draft-version").expect("a version");
    let outcome = header("draft-saved");
    match (response["statusCode"].as_u64(), outcome.as_deref()) {
        (Some(200), Some("created")) => SaveResult::Created(version()),
        (Some(200), Some("unchanged")) => SaveResult::Unchanged(version()),
        (Some(404), None) => SaveResult::NotFound,
        (Some(500), None) => SaveResult::Failed,
        (Some(503), None) => SaveResult::Unavailable,
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
        SaveResult::Created(version) => (Some(version), "created"),
        SaveResult::Unchanged(version) => (Some(version), "unchanged"),
        _ => (None, ""),
    };
    if trigger == "sqs" {
        let failed: &[_] = if version.is_some() {
            &[]
        } else {
            &["first", "second"]
        };
        let failures = failed.iter().map(|id| json!({"itemIdentifier": id}));
        let response = json!({"batchItemFailures": failures.collect::<Value>()});
        assert_eq!(outcome, Outcome::Response(response));
        return;
    }
    let error_type = match expected {
        SaveResult::Created(_) | SaveResult::Unchanged(_) => {
            let save = json!({"draft_id": id, "version": version, "saved": saved});
            let response = json!({"saves": [save], "skipped": 0});
            assert_eq!(outcome, Outcome::Response(response));
            return;
        }
        SaveResult::NotFound => "DraftNotFound",
        SaveResult::Failed => "SaveFailed",
        SaveResult::Unavailable => "ServiceUnavailable",
    };
    assert_eq!(outcome.error().0, error_type);
}

impl StateMachineTest for System {
    type SystemUnderTest = Self;
    type Reference = Reference;

    fn init_test(model: &Model) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the runtime starts");
        let env = runtime.block_on(async {
            let s3 = S3::start_empty().await.expect("the S3 server starts");
            let function = common::start_function(&s3, &[]).await;
            TestEnv { s3, function }
        });
        let system = Self {
            client: common::client(&Endpoint::of(&env.s3).sdk()),
            env,
            versions: Vec::new(),
            runtime,
        };
        system.set_clock(model);
        system
    }

    fn apply(mut system: Self, model: &Model, step: Step) -> Self {
        system.set_clock(model);
        match step {
            Step::Write { id, .. } | Step::WriteIncomplete { id } => {
                system.env.put_draft(id, &model.drafts[id].document);
            }
            Step::Delete { id } => system.env.s3.delete(BUCKET, &draft_key(id)),
            Step::Save { id, fault } => {
                if let Some(fault) = fault {
                    fault.apply(&system.env.s3);
                }
                let result = http_result(system.invoke(&post_id(id)));
                system.env.s3.clear_faults();
                let log = || system.env.function.lines().join("\n");
                assert_eq!([result], *model.results, "{}", log());
            }
            Step::Event { id, trigger, .. } => {
                for expected in &model.results {
                    let outcome = system.invoke(&event_for(trigger, id));
                    assert_event_outcome(trigger, outcome, expected, id);
                }
            }
            Step::Restore { id, version, .. } => {
                if let Some(version) = model.version(id, version) {
                    let source = format!("{BUCKET}/{}", saved_key(id, &version));
                    let copy = system.client.copy_object().bucket(BUCKET);
                    let copy = copy.copy_source(source).key(draft_key(id)).send();
                    let copied = system.runtime.block_on(copy);
                    copied.expect("the version is copied");
                }
            }
        }
        let versions = system.env.s3.keys(BUCKET, "saved/");
        let is_kept = |key| versions.contains(key);
        assert!(system.versions.iter().all(is_kept), "a version was deleted");
        system.versions = versions;
        system
    }

    fn check_invariants(system: &Self, model: &Model) {
        let s3 = &system.env.s3;
        let mut expected: BTreeMap<String, &Vec<u8>> = BTreeMap::new();
        for (id, draft) in &model.drafts {
            expected.insert(draft_key(id), &draft.document);
        }
        for ((id, version), document) in &model.versions {
            expected.insert(saved_key(id, version), document);
        }
        let keys = s3.keys(BUCKET, "");
        assert_eq!(keys, expected.keys().cloned().collect::<Vec<_>>());
        for (key, document) in expected {
            let stored = s3.get(BUCKET, &key).expect("the object exists");
            assert!(stored == *document, "{key} has other bytes");
        }
    }
}

/// 24 sequences, or 500 with `LONG=1`.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if long_tests() { 500 } else { 24 },
        failure_persistence: None,
        // Each step takes milliseconds.
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn the_bucket_is_equal_to_the_model_after_each_step(sequential 1..30 => System);
}
