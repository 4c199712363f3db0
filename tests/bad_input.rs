//! Bad input: the events of `events/`, mutated, into the very service that the Lambda runtime
//! calls. Nothing panics, nothing hangs, no answer is one that is not documented, nothing
//! fails on our side while S3 is well, and no draft is saved that the input does not name.
//!
//! An input is made from the seed and its number, and from nothing else: a failure names
//! both, and `BAD_INPUT_SEED=… BAD_INPUT_FIRST=… BAD_INPUT_COUNT=1` brings it back.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::panic::AssertUnwindSafe;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use lambda_http::lambda_runtime::{Context, Diagnostic, LambdaEvent};
use lambda_http::tower::{Service, ServiceExt as _};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use save_draft::lambda::{Function, InvocationError, SanitizedRequest};
use save_draft::store::Store;
use save_draft::telemetry::{self, Telemetry};
use serde::{Deserialize as _, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::TestEnv;
use crate::common::{self, Endpoint};
use test_support::check::{self, InputStrings, InvocationResult};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, event_names, post, sample_draft,
};
use test_support::runtime::TIMEOUT;
use test_support::s3::S3;

/// The seed, where `BAD_INPUT_SEED` has no other.
const SEED: u64 = 20_250_928;

/// What an invocation has, and then some: an input that takes longer hangs.
const WATCHDOG: Duration = Duration::from_mins(1);
const INVOCATION: Duration = Duration::from_secs(20);

/// The drafts that there are beside the example: none is named in `events/`.
const OTHERS: [&str; 3] = ["a", "20251126220753b7e35362", "drafts"];

#[tokio::test]
async fn five_thousand_bad_inputs_do_no_harm() {
    run("bad_input::five_thousand_bad_inputs_do_no_harm", 5_000).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_hundred_thousand_bad_inputs_do_no_harm() {
    run(
        "bad_input::a_hundred_thousand_bad_inputs_do_no_harm",
        100_000,
    )
    .await;
}

/// Nesting that `serde_json` does not accept in a value, in the fields that are read.
#[tokio::test]
async fn deeply_nested_input_is_refused() {
    let test_env = TestEnv::start().await;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    for (status, body) in [
        (400, deep.clone()),
        (400, format!("{{\"draft_url\":{deep}}}")),
        (
            200,
            format!("{{\"other\":{deep},\"draft_url\":\"{DRAFT_URL}\"}}"),
        ),
    ] {
        let response = test_env.function.invoke(&post(body)).await.response();
        assert_eq!(response["statusCode"], status);
    }
    for payload in [
        deep.clone(),
        format!("{{\"draft_id\":{deep}}}"),
        format!("{{\"Records\":{deep}}}"),
        format!("{{\"requestContext\":{deep}}}"),
        format!("{{\"Records\":[{{\"eventSource\":\"aws:s3\",\"s3\":{deep}}}]}}"),
    ] {
        let pending = test_env.function.begin_within(payload, TIMEOUT);
        assert_eq!(pending.outcome().await.error().0, "InvalidRequest");
    }
}

/// Feeds `count` inputs, in a process of its own: what overflows the stack there ends it and
/// not the tests, and what it logs can be read. `test` is the test that calls this, which is
/// what that process runs.
async fn run(test: &str, count: u64) {
    if env::var_os("BAD_INPUT_COUNT").is_some() {
        return feed().await;
    }
    let mut child = Command::new(env::current_exe().expect("this process has a file"))
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env("BAD_INPUT_COUNT", count.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the tests start");
    let stdout = child.stdout.take().expect("it is a pipe");
    let mut lines = BufReader::new(stdout).lines();
    let (mut logged, mut measured, mut panics) = (0_u64, 0_u64, Vec::new());
    while let Some(line) = lines.next_line().await.expect("it is UTF-8") {
        // What the test harness says is between the lines of the function.
        let line = line
            .strip_prefix(&format!("test {test} ... "))
            .unwrap_or(&line);
        if line.ends_with(" has been running for over 60 seconds") {
            continue;
        }
        let harness = [
            "running ",
            "test result: ",
            "ok",
            "FAILED",
            "failures:",
            "    ",
        ];
        if line.is_empty() || harness.iter().any(|begin| line.starts_with(begin)) {
            continue;
        }
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|error| {
            panic!("the log has a line that is none of ours ({error}): {line}")
        });
        logged += u64::from(entry.get("level").is_some());
        measured += u64::from(entry.get("_aws").is_some());
        if entry["message"] == "panicked" {
            panics.push(entry);
        }
    }
    let status = child.wait().await.expect("it is ours");
    assert!(panics.is_empty(), "{panics:#?}");
    assert!(status.success(), "{status}");
    assert!(logged > count / 2, "{logged} lines tell of {count} inputs");
    assert!(measured > count / 2, "{measured} of {count} were counted");
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("the variable is a number"))
}

async fn feed() {
    let seed = number("BAD_INPUT_SEED").unwrap_or(SEED);
    let first = number("BAD_INPUT_FIRST").unwrap_or_default();
    let count = number("BAD_INPUT_COUNT").unwrap_or_default();
    telemetry::init_logs(io::stdout);

    let s3 = S3::start_empty().await.expect("the S3 starts");
    s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    for (id, seed) in OTHERS.iter().zip(1..) {
        s3.put(BUCKET, &draft_key(id), draft_of_size(500, seed));
    }
    let sdk = Endpoint::of(&s3).sdk();
    let config = common::config(BUCKET, &[("AWS_ENDPOINT_URL_S3", &s3.endpoint())]);
    let telemetry = Telemetry::new("save-draft".to_owned());
    let function = Function::new(&config, Store::new(&sdk, &config), telemetry).into_service();

    let samples: Vec<Value> = event_names().iter().map(|name| event(name)).collect();
    let mut tally = BTreeMap::new();
    for n in first..first + count {
        let input = Mutator::new(seed, n, &samples).input();
        let one = AssertUnwindSafe(one(&function, &s3, &input)).catch_unwind();
        let Ok(Ok(outcome)) = timeout(WATCHDOG, one).await else {
            eprintln!(
                "BAD_INPUT_SEED={seed} BAD_INPUT_FIRST={n}: {}",
                String::from_utf8_lossy(&input)
            );
            panic!("input {n} did harm, or hung");
        };
        *tally.entry(outcome).or_insert(0_u64) += 1;
    }
    eprintln!("{count} inputs from seed {seed}: {tally:#?}");

    // What was saved is what was there, and each state of it once.
    let (mut drafts, mut versions) = (0, 0);
    for id in OTHERS.iter().chain(&[DRAFT_ID]) {
        let document = s3.get(BUCKET, &draft_key(id));
        let saved = s3.keys(BUCKET, &format!("saved/{id}/"));
        assert!(saved.len() <= 1, "{saved:?}");
        for key in &saved {
            assert!(s3.get(BUCKET, key) == document, "{key} is another state");
        }
        drafts += 1;
        versions += saved.len();
    }
    assert_eq!(s3.keys(BUCKET, "").len(), drafts + versions);
    if count > 1_000 {
        // Neither are all refused, nor is one kind of answer never given.
        for outcome in [
            "200",
            "400",
            "404",
            "405",
            "saved",
            "InvalidRequest",
            "DraftNotFound",
        ] {
            assert!(tally.contains_key(outcome), "none came to {outcome}");
        }
    }
}

/// Sends one input, and checks what comes of it; tells in a word what that is.
async fn one<S>(function: &S, s3: &S3, input: &[u8]) -> String
where
    S: Service<LambdaEvent<SanitizedRequest>, Response: Serialize, Error = InvocationError> + Clone,
{
    s3.clear_requests();
    // As the Lambda runtime reads it.
    let payload = SanitizedRequest::deserialize(&mut serde_json::Deserializer::from_slice(input));
    let Ok(payload) = payload else {
        return "no JSON".to_owned();
    };
    let deadline = SystemTime::now() + INVOCATION;
    let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH);
    let mut context = Context::default();
    "8476a536-e9f4-11e8-9739-2dfe598c3fcd".clone_into(&mut context.request_id);
    context.deadline = deadline.expect("it is after 1970").as_secs() * 1000;
    let answer = function.clone().oneshot(LambdaEvent::new(payload, context));
    let answer: InvocationResult = match answer.await {
        Ok(answer) => Ok(serde_json::to_value(answer).expect("an answer is JSON")),
        Err(failure) => {
            let failure = Diagnostic::from(failure);
            Err((failure.error_type, failure.error_message))
        }
    };
    let strings = InputStrings::of(input);
    check::result(&strings, &answer);
    for request in s3.requests() {
        check::s3_request(&strings, &request);
    }
    match answer {
        Err((kind, _)) => kind,
        Ok(answer) => match answer["statusCode"].as_u64() {
            Some(status) => status.to_string(),
            None => "saved".to_owned(),
        },
    }
}

/// Texts that are odd somewhere: as a host, a path, a stage, a key, an id, Base64, JSON.
const ODD: &[&str] = &[
    "",
    " ",
    "\0",
    "\r\n",
    "a\r\nX-Injected: yes",
    "\u{2028}",
    "\u{feff}",
    "\u{202e}gpj.tfard",
    "\u{7f}",
    "é",
    "２０２５０９２８",
    "👩‍👩‍👧‍👦",
    ".",
    "..",
    "../../../etc/passwd",
    "..\\..",
    "%",
    "%zz",
    "%00",
    "%2e%2e%2f",
    "%252e%252e%252f",
    "%ff%fe",
    "+",
    "/",
    "//",
    "/save_draft",
    "save_draft",
    "/v1/save_draft/",
    "/SAVE_DRAFT",
    "/a b/save_draft",
    "/?x=1#y/save_draft",
    "#",
    "?draft_id=a&draft_id=b",
    "http://",
    "http://[::1",
    "http://[::1]:99999/",
    "https://exa mple.com",
    "https://user:password@example.com/?draft_id=a",
    "http:\\\\example.com?draft_id=a",
    "javascript:alert(1)//?draft_id=a",
    "https://example.com/?draft_id=%61",
    "https://example.com/?draft_id=a#draft_id=b",
    "https://example.com/?draft_id=..%2Fsaved",
    "https://example.com/?draft_id=missing",
    "https://пример.рф/?draft_id=a",
    "exa mple.com",
    "[::1]:99999",
    "example.com:port",
    "a@b:c@d",
    "$default",
    "{draft_id}",
    "{}",
    "[]",
    "[{}]",
    "null",
    "\"\"",
    "{\"draft_url\":null}",
    "{\"draft_url\":{}}",
    "{\"draft_id\":\"a\"}",
    "{\"draft_id\":\"missing\"}",
    "{\"draft_id\":\"a\",\"draft_id\":\"drafts\"}",
    "{\"Records\":[]}",
    "{\"Records\":[{}]}",
    "{\"Message\":\"{}\"}",
    "=",
    "====",
    "Zm9v",
    "Zm9vYg",
    "e30=",
    "/w==",
    "a",
    "drafts",
    "missing",
    "20251126220753b7e35362",
    "drafts/a/draft_content.json",
    "drafts/a/../b/draft_content.json",
    "drafts//draft_content.json",
    "drafts/%61/draft_content.json",
    "drafts/a%2Fdraft_content.json",
    "saved/a/20250928T114730Z-1f3a5c7e9b2d4a60/draft_content.json",
    "ObjectCreated:",
    "ObjectRemoved:Delete",
    "s3:ObjectCreated:Put",
    "s3:TestEvent",
    "aws:s3",
    "aws:sns",
    "aws:sqs",
    "ceph:s3",
    "aws.s3",
    "Object Created",
    "GET",
    "post",
    "P O S T",
    "18446744073709551616",
    "-1",
    "1e999",
    "NaN",
    "true",
];

/// Names of fields that mean something somewhere.
const NAMES: &[&str] = &[
    "Records",
    "records",
    "Message",
    "Event",
    "detail-type",
    "detail",
    "source",
    "requestContext",
    "httpMethod",
    "rawPath",
    "path",
    "stage",
    "http",
    "elb",
    "body",
    "isBase64Encoded",
    "headers",
    "multiValueHeaders",
    "Sns",
    "s3",
    "eventSource",
    "EventSource",
    "eventName",
    "bucket",
    "object",
    "key",
    "name",
    "messageId",
    "draft_url",
    "draft_id",
    "Draft_Url",
    "",
];

/// Makes one input out of the samples.
struct Mutator<'a> {
    random: TestRng,
    samples: &'a [Value],
}

impl<'a> Mutator<'a> {
    fn new(seed: u64, n: u64, samples: &'a [Value]) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&n.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self { random, samples }
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("it fits");
        usize::try_from(self.random.next_u64() % end).expect("it is below")
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }

    fn input(mut self) -> Vec<u8> {
        let mut event = self.pick(self.samples);
        for _ in 0..=self.below(4) {
            self.structure(&mut event);
        }
        let mut text = event.to_string();
        if self.one_in(8) {
            self.double_field(&mut text);
        }
        let mut bytes = text.into_bytes();
        if self.one_in(4) {
            for _ in 0..=self.below(3) {
                self.bytes(&mut bytes);
            }
        }
        bytes
    }

    /// Changes something in `event`, or in an event within.
    fn structure(&mut self, event: &mut Value) {
        match self.below(12) {
            0 => *event = self.wrapped(event),
            1 => {
                let other = self.pick(self.samples);
                if let (Some(event), Some(other)) = (event.as_object_mut(), other.as_object()) {
                    event.extend(other.clone());
                }
            }
            _ => {
                let nodes = count(event);
                let node = self.below(nodes);
                let node = nth(event, node).expect("it has as many");
                // A text that is JSON is changed in its inside as often as not.
                if let Value::String(text) = &*node
                    && let Ok(mut inner @ (Value::Object(_) | Value::Array(_))) =
                        serde_json::from_str(text)
                    && !self.one_in(3)
                {
                    self.structure(&mut inner);
                    *node = inner.to_string().into();
                } else {
                    self.node(node);
                }
            }
        }
    }

    /// Changes one value, or what is in it.
    fn node(&mut self, node: &mut Value) {
        match node {
            Value::Object(fields) if !fields.is_empty() && !self.one_in(6) => {
                let names: Vec<_> = fields.keys().cloned().collect();
                let name = self.pick(&names);
                match self.below(4) {
                    0 => drop(fields.remove(&name)),
                    1 => {
                        let value = fields.remove(&name).expect("it is there");
                        fields.insert(self.pick(NAMES).to_owned(), value);
                    }
                    2 => {
                        let value = self.value();
                        fields.insert(self.pick(NAMES).to_owned(), value);
                    }
                    _ => drop(fields.insert(name, self.value())),
                }
            }
            Value::Array(items) if !items.is_empty() && !self.one_in(6) => {
                let item = self.below(items.len());
                match self.below(3) {
                    0 => drop(items.remove(item)),
                    1 => items.push(items[item].clone()),
                    _ => items.insert(item, self.value()),
                }
            }
            Value::String(text) if !self.one_in(6) => self.text(text),
            _ => *node = self.value(),
        }
    }

    fn text(&mut self, text: &mut String) {
        let odd = self.pick(ODD);
        let places: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
        let place = if places.is_empty() {
            0
        } else {
            self.pick(&places)
        };
        match self.below(8) {
            0 => text.truncate(place),
            1 => text.insert_str(place, odd),
            2 => text.push_str(odd),
            3 => {
                let unit = if odd.is_empty() { "x" } else { odd };
                let length = self.pick(&[65, 2_050, 9_000, 70_000]);
                *text = unit.repeat(length / unit.len() + 1);
            }
            _ => odd.clone_into(text),
        }
    }

    /// Any value: of any type, or one from another event.
    fn value(&mut self) -> Value {
        match self.below(10) {
            0 => Value::Null,
            1 => self.one_in(2).into(),
            2 => self.random.next_u64().into(),
            3 => json!(-0.5e300),
            4 => json!([]),
            5 => json!({}),
            6 => {
                let depth = self.pick(&[3, 130, 2_000]);
                let nested = "[".repeat(depth) + &"]".repeat(depth);
                // Past what a value may nest, it goes as a text.
                serde_json::from_str(&nested).unwrap_or(Value::String(nested))
            }
            7 | 8 => self.pick(ODD).into(),
            _ => {
                let mut other = self.pick(self.samples);
                let nodes = count(&other);
                let node = self.below(nodes);
                nth(&mut other, node).expect("it has as many").take()
            }
        }
    }

    /// `event` as the content of another.
    fn wrapped(&mut self, event: &Value) -> Value {
        let text = event.to_string();
        match self.below(6) {
            0 => json!({"Records": [{"eventSource": "aws:sqs", "messageId": "m", "body": text}]}),
            1 => json!({"Type": "Notification", "Message": text}),
            2 => json!({"detail-type": "x", "source": "x", "detail": event}),
            3 => json!({"Records": [event]}),
            4 => json!([event]),
            _ => {
                let mut http = self.pick(self.samples);
                http["body"] = text.into();
                http
            }
        }
    }

    /// Puts a field a second time into one of the objects.
    fn double_field(&mut self, text: &mut String) {
        let ends: Vec<_> = text.match_indices("\":").map(|(at, _)| at).collect();
        let Some(end) = (!ends.is_empty()).then(|| self.pick(&ends)) else {
            return;
        };
        let Some(begin) = text[..end].rfind('"') else {
            return;
        };
        let field = format!("{}{},", &text[begin..end + 2], self.value());
        text.insert_str(begin, &field);
    }

    fn bytes(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let until = (at + self.below(40)).min(bytes.len());
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..until)),
            2 => bytes.insert(at, self.pick(b"\"\\{}[],:\0\n\xff\xc3 0e-")),
            3 => {
                let repeated = bytes[at..until].to_vec();
                bytes.splice(at..at, repeated);
            }
            4 => {
                let other = self.pick(self.samples).to_string();
                let from = self.below(other.len());
                bytes.splice(at..until, other.bytes().skip(from).take(60));
            }
            _ => {
                let flip = 1 << self.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= flip;
                }
            }
        }
    }
}

/// How many values there are in `value`, itself included.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// The value that has as many before it, itself being the first.
fn nth(value: &mut Value, mut n: usize) -> Option<&mut Value> {
    if n == 0 {
        return Some(value);
    }
    n -= 1;
    let inner: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(items) => Box::new(items.iter_mut()),
        Value::Object(fields) => Box::new(fields.values_mut()),
        _ => return None,
    };
    for value in inner {
        let size = count(value);
        if n < size {
            return nth(value, n);
        }
        n -= size;
    }
    None
}
