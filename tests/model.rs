//! Any sequence of what clients, editors and triggers do, with faults in between, against
//! a model of what should be there: after each step the bucket equals the model.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use proptest::prelude::{BoxedStrategy, Just, ProptestConfig, Strategy as _, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, draft_key, draft_of_size, event, long_tests, post_id, sha256_hex,
};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, Op, S3, When};
use tokio::runtime::{self, Runtime};

use crate::common::{self, TestEnv};
use crate::common::{Endpoint, client};

/// The drafts that there may be.
const DRAFTS: [&str; 3] = [
    "2025092811473036584258",
    "20251126220753b7e35362",
    "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c",
];

/// 2025-09-28T11:00:00Z, when each story begins, in seconds since the epoch.
const BEGIN: u64 = 1_759_057_200;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// An editor writes a draft, in this second or the next.
    Write {
        id: &'static str,
        content: u64,
        later: bool,
    },
    /// An editor dies while it writes a draft in place.
    Spoil { id: &'static str },
    /// A draft is cleaned up.
    Delete { id: &'static str },
    /// A client saves a draft, while this goes wrong.
    Save {
        id: &'static str,
        mishap: Option<Mishap>,
    },
    /// A trigger tells of a draft, as often as this.
    Deliver {
        id: &'static str,
        trigger: &'static str,
        times: usize,
    },
    /// A user copies one of the versions back, if there is any.
    Restore {
        id: &'static str,
        which: Index,
        later: bool,
    },
}

/// What goes wrong during a save, and is over after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    /// The first read is a 500.
    ReadFails,
    /// Every read is a 503.
    ReadsFail,
    /// Every body breaks off.
    ReadsBreakOff,
    /// Two creates are a 409.
    Conflicts,
    /// Every create is a 403.
    CreatesDenied,
    /// Every create is a 500.
    CreatesFail,
    /// The first create is done, and its response lost.
    ResponseLost,
    /// Every create is done, and its response lost.
    ResponsesLost,
}

use Mishap::{
    Conflicts, CreatesDenied, CreatesFail, ReadFails, ReadsBreakOff, ReadsFail, ResponseLost,
    ResponsesLost,
};

impl Mishap {
    fn script(self, s3: &S3) {
        let read = || When::op(Op::GetObject);
        let create = || When::op(Op::PutObject);
        let (when, fault) = match self {
            ReadFails => (read().once(), Fault::INTERNAL_ERROR),
            ReadsFail => (read(), Fault::SLOW_DOWN),
            ReadsBreakOff => (read(), Fault::CutBody(20)),
            Conflicts => (create().times(2), Fault::CONFLICT),
            CreatesDenied => (create(), Fault::ACCESS_DENIED),
            CreatesFail => (create(), Fault::INTERNAL_ERROR),
            ResponseLost => (create().once(), Fault::LoseResponse),
            ResponsesLost => (create(), Fault::LoseResponse),
        };
        s3.fault(when, fault);
    }
}

/// What should be there.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Since [`BEGIN`].
    seconds: u64,
    drafts: BTreeMap<&'static str, Draft>,
    /// The versions of each draft, by name.
    versions: BTreeMap<(&'static str, String), Vec<u8>>,
    /// What the last step should be answered, each time.
    answers: Vec<Answer>,
}

#[derive(Clone, Debug)]
struct Draft {
    document: Vec<u8>,
    is_whole: bool,
    /// When it was written, since [`BEGIN`].
    seconds: u64,
}

impl Draft {
    fn version(&self) -> String {
        let (minute, second) = (self.seconds / 60, self.seconds % 60);
        let digest = sha256_hex(&self.document);
        format!("20250928T11{minute:02}{second:02}Z-{digest}")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Created(String),
    Unchanged(String),
    Missing,
    Failed,
    Busy,
}

impl Model {
    fn tick(&mut self, later: bool) {
        self.seconds += u64::from(later);
    }

    fn write(&mut self, id: &'static str, document: Vec<u8>, is_whole: bool) {
        let seconds = self.seconds;
        self.drafts.insert(
            id,
            Draft {
                document,
                is_whole,
                seconds,
            },
        );
    }

    /// What a save does, and what it is answered.
    fn save(&mut self, id: &'static str, mishap: Option<Mishap>) -> Answer {
        if matches!(mishap, Some(ReadsFail | ReadsBreakOff)) {
            return Answer::Busy;
        }
        let Some(draft) = self.drafts.get(id) else {
            return Answer::Missing;
        };
        if !draft.is_whole || mishap == Some(CreatesDenied) {
            return Answer::Failed;
        }
        if mishap == Some(CreatesFail) {
            return Answer::Busy;
        }
        let version = draft.version();
        let key = (id, version.clone());
        let before = self.versions.insert(key, draft.document.clone());
        match (mishap, before) {
            (Some(ResponsesLost), _) => Answer::Busy,
            // The try whose response was lost had made it.
            (Some(ResponseLost), _) | (_, Some(_)) => Answer::Unchanged(version),
            (_, None) => Answer::Created(version),
        }
    }

    /// The name of the version that `which` means.
    fn version(&self, id: &str, which: Index) -> Option<String> {
        let of_draft = self.versions.keys().filter(|(draft, _)| *draft == id);
        let names: Vec<_> = of_draft.map(|(_, name)| name.clone()).collect();
        (!names.is_empty()).then(|| which.get(&names).clone())
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
        let mishaps = [
            ReadFails,
            ReadsFail,
            ReadsBreakOff,
            Conflicts,
            CreatesDenied,
            CreatesFail,
            ResponseLost,
            ResponsesLost,
        ];
        let triggers = ["s3", "eventbridge-s3", "sns", "sqs"];
        prop_oneof![
            // Few contents, so that a draft comes back to one that it had.
            5 => (id(), 0..4_u64, any::<bool>()).prop_map(|(id, content, later)| Step::Write { id, content, later }),
            1 => id().prop_map(|id| Step::Spoil { id }),
            1 => id().prop_map(|id| Step::Delete { id }),
            4 => id().prop_map(|id| Step::Save { id, mishap: None }),
            4 => (id(), select(mishaps.to_vec()))
                .prop_map(|(id, mishap)| Step::Save { id, mishap: Some(mishap) }),
            3 => (id(), select(triggers.to_vec()), 1..3_usize)
                .prop_map(|(id, trigger, times)| Step::Deliver { id, trigger, times }),
            2 => (id(), any::<Index>(), any::<bool>()).prop_map(|(id, which, later)| Step::Restore { id, which, later }),
        ]
        .boxed()
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        model.answers.clear();
        match *step {
            Step::Write { id, content, later } => {
                model.tick(later);
                model.write(id, draft_of_size(500, content), true);
            }
            Step::Spoil { id } => {
                let document = draft_of_size(500, 0)[..250].to_vec();
                model.write(id, document, false);
            }
            Step::Delete { id } => {
                model.drafts.remove(id);
            }
            Step::Save { id, mishap } => {
                let answer = model.save(id, mishap);
                model.answers.push(answer);
            }
            Step::Deliver { id, times, .. } => {
                for _ in 0..times {
                    let answer = model.save(id, None);
                    model.answers.push(answer);
                }
            }
            Step::Restore { id, which, later } => {
                if let Some(version) = model.version(id, which) {
                    model.tick(later);
                    let document = model.versions[&(id, version)].clone();
                    model.write(id, document, true);
                }
            }
        }
        model
    }
}

/// The real binary, and the bucket that it works on.
struct System {
    test_env: TestEnv,
    client: aws_sdk_s3::Client,
    /// What was in the bucket before the last step.
    versions: Vec<String>,
    runtime: Runtime,
}

impl System {
    fn set_clock(&self, model: &Model) {
        let time = Duration::from_secs(BEGIN + model.seconds);
        self.test_env.s3.set_clock(SystemTime::UNIX_EPOCH + time);
    }

    fn put(&self, id: &str, document: Vec<u8>) {
        let put = self.client.put_object().bucket(BUCKET).key(draft_key(id));
        let put = put.body(document.into()).send();
        self.runtime.block_on(put).expect("the draft is written");
    }

    fn invoke(&self, event: &Value) -> Outcome {
        self.runtime.block_on(self.test_env.function.invoke(event))
    }
}

fn saved_key(id: &str, version: &str) -> String {
    format!("saved/{id}/{version}/draft_content.json")
}

/// What a client is answered.
fn over_http(outcome: Outcome) -> Answer {
    let response = outcome.response();
    let version = || {
        let version = response["headers"]["draft-version"].as_str();
        version.expect("it is there").to_owned()
    };
    match (
        response["statusCode"].as_u64(),
        response["headers"]["draft-saved"].as_str(),
    ) {
        (Some(200), Some("created")) => Answer::Created(version()),
        (Some(200), Some("unchanged")) => Answer::Unchanged(version()),
        (Some(404), None) => Answer::Missing,
        (Some(500), None) => Answer::Failed,
        (Some(503), None) => Answer::Busy,
        _ => panic!("{response}"),
    }
}

/// The event in `events/{trigger}.json`, about the draft `id`.
fn about(trigger: &str, id: &str) -> Value {
    let mut event = event(trigger);
    if trigger == "sqs" {
        // Two messages about the same draft, each in a form of its own.
        let s3 = about("s3", id).to_string();
        let direct = json!({"draft_id": id}).to_string();
        let mut message = event["Records"][0].take();
        event["Records"] = json!([]);
        for (name, body) in [("first", s3), ("second", direct)] {
            message["messageId"] = name.into();
            message["body"] = body.into();
            let records = event["Records"].as_array_mut().expect("it is a list");
            records.push(message.clone());
        }
        return event;
    }
    let text = event
        .to_string()
        .replace(test_support::fixtures::DRAFT_ID, id);
    serde_json::from_str(&text).expect("it is JSON as before")
}

/// Holds what a trigger is told against `answer`.
fn check_event(trigger: &str, outcome: Outcome, answer: &Answer, id: &str) {
    let saved = |version: &String, saved| {
        let save = json!({"draft_id": id, "version": version, "saved": saved});
        Outcome::Response(json!({"saves": [save], "skipped": 0}))
    };
    if trigger == "sqs" {
        let failures: &[_] = match answer {
            Answer::Created(_) | Answer::Unchanged(_) => &[],
            _ => &["first", "second"],
        };
        let failures: Vec<_> = failures
            .iter()
            .map(|id| json!({"itemIdentifier": id}))
            .collect();
        let expected = json!({"batchItemFailures": failures});
        assert_eq!(outcome, Outcome::Response(expected));
        return;
    }
    match answer {
        Answer::Created(version) => assert_eq!(outcome, saved(version, "created")),
        Answer::Unchanged(version) => assert_eq!(outcome, saved(version, "unchanged")),
        Answer::Missing => assert_eq!(outcome.error().0, "DraftNotFound"),
        Answer::Failed => assert_eq!(outcome.error().0, "SaveFailed"),
        Answer::Busy => assert_eq!(outcome.error().0, "ServiceUnavailable"),
    }
}

impl StateMachineTest for System {
    type SystemUnderTest = Self;
    type Reference = Reference;

    fn init_test(model: &Model) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the runtime starts");
        let test_env = runtime.block_on(async {
            let s3 = S3::start_empty().await.expect("the S3 starts");
            let function = common::start_function(&s3, &[]).await;
            TestEnv { s3, function }
        });
        let system = Self {
            client: client(&Endpoint::of(&test_env.s3).sdk()),
            test_env,
            versions: Vec::new(),
            runtime,
        };
        system.set_clock(model);
        system
    }

    fn apply(mut system: Self, model: &Model, step: Step) -> Self {
        system.set_clock(model);
        match step {
            Step::Write { id, .. } | Step::Spoil { id } => {
                system.put(id, model.drafts[id].document.clone());
            }
            Step::Delete { id } => {
                let delete = system.client.delete_object().bucket(BUCKET);
                let delete = delete.key(draft_key(id)).send();
                system.runtime.block_on(delete).expect("it is deleted");
            }
            Step::Save { id, mishap } => {
                if let Some(mishap) = mishap {
                    mishap.script(&system.test_env.s3);
                }
                let answer = over_http(system.invoke(&post_id(id)));
                system.test_env.s3.clear_faults();
                let log = || system.test_env.function.lines().join("\n");
                assert_eq!(model.answers, [answer], "{}", log());
            }
            Step::Deliver { id, trigger, .. } => {
                for answer in &model.answers {
                    let outcome = system.invoke(&about(trigger, id));
                    check_event(trigger, outcome, answer, id);
                }
            }
            Step::Restore { id, which, .. } => {
                if let Some(version) = model.version(id, which) {
                    let copy = system.client.copy_object().bucket(BUCKET);
                    let copy = copy.copy_source(format!("{BUCKET}/{}", saved_key(id, &version)));
                    let copy = copy.key(draft_key(id)).send();
                    system.runtime.block_on(copy).expect("it is copied");
                }
            }
        }
        let versions = system.test_env.s3.keys(BUCKET, "saved/");
        let kept = system.versions.iter().all(|key| versions.contains(key));
        assert!(kept, "a version is gone");
        system.versions = versions;
        system
    }

    fn check_invariants(system: &Self, model: &Model) {
        let s3 = &system.test_env.s3;
        let mut expected: BTreeMap<String, &Vec<u8>> = BTreeMap::new();
        for (id, draft) in &model.drafts {
            expected.insert(draft_key(id), &draft.document);
        }
        for ((id, version), document) in &model.versions {
            let key = saved_key(id, version);
            let metadata = s3.metadata(BUCKET, &key);
            let metadata = metadata.unwrap_or_else(|| panic!("there is no {key}"));
            let header = |name: &str| metadata.headers.get(name).cloned().unwrap_or_default();
            assert_eq!(header("x-amz-meta-draft-id"), *id);
            assert_eq!(header("x-amz-meta-sha256"), sha256_hex(document));
            expected.insert(key, document);
        }
        let keys = s3.keys(BUCKET, "");
        assert_eq!(keys, expected.keys().cloned().collect::<Vec<_>>());
        for (key, document) in expected {
            let stored = s3.get(BUCKET, &key).expect("it is listed");
            assert!(stored == *document, "{key} has other bytes");
        }
    }
}

/// 24 stories, or with `LONG=1` 500.
fn config() -> ProptestConfig {
    ProptestConfig {
        cases: if long_tests() { 500 } else { 24 },
        // What failed is in the message, and there is a file less.
        failure_persistence: None,
        // Each step is real: a few minutes are enough to shrink in.
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn the_bucket_is_as_the_model_says_after_every_step(sequential 1..30 => System);
}
