//! Mutated events, sent to the service that the Lambda runtime library calls. None panics or hangs,
//! every response is documented, and only drafts that the input names are saved.
//!
//! An input depends only on the seed and its number. A failure prints both;
//! `BAD_INPUT_SEED=… BAD_INPUT_FIRST=… BAD_INPUT_COUNT=1` repeats it.

use std::collections::BTreeMap;
use std::env;
use std::panic::AssertUnwindSafe;
use std::process::Stdio;
use std::time::Duration;

use futures_util::FutureExt as _;
use lambda_http::lambda_runtime::Diagnostic;
use lambda_http::lambda_runtime::{LambdaEvent, Service};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use save_draft::lambda::Payload;
use save_draft::lambda::telemetry::Telemetry;
use serde::Serialize;
use serde_json::{Value, json};
use test_support::check::{self, InputStrings};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, event_names, post, sample_draft,
};
use test_support::runtime::{Outcome, TIMEOUT};
use test_support::s3::S3;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::common::{self, TestEnv};

/// Default of `BAD_INPUT_SEED`.
const SEED: u64 = 20_250_928;

/// Time after which an input counts as hanging, longer than any invocation here may take.
const WATCHDOG: Duration = Duration::from_mins(1);

/// Drafts beside the example, which no file in `events/` names.
const OTHER_DRAFTS: [&str; 3] = ["a", "20251126220753b7e35362", "drafts"];

#[tokio::test]
async fn five_thousand_mutated_events_get_documented_responses() {
    run(
        "bad_input::five_thousand_mutated_events_get_documented_responses",
        5_000,
    )
    .await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_hundred_thousand_mutated_events_get_documented_responses() {
    run(
        "bad_input::a_hundred_thousand_mutated_events_get_documented_responses",
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

/// Sends `count` inputs in a process of its own, so that a stack overflow does not end the tests, and
/// its log can be read. The process runs `test`, which calls this function.
async fn run(test: &str, count: u64) {
    if env::var_os("BAD_INPUT_COUNT").is_some() {
        return send_inputs().await;
    }
    let mut child = Command::new(env::current_exe().expect("the path of the tests"))
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env("BAD_INPUT_COUNT", count.to_string())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the tests start");
    let stdout = child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(stdout).lines();
    let (mut logged, mut measured, mut panics) = (0_u64, 0_u64, Vec::new());
    while let Some(line) = lines.next_line().await.expect("the log is UTF-8") {
        // The test harness writes between the lines of the function.
        let Some(start) = line.find('{') else {
            continue;
        };
        let entry: Value = serde_json::from_str(&line[start..])
            .unwrap_or_else(|error| panic!("each line is JSON ({error}): {line}"));
        logged += u64::from(entry.get("level").is_some());
        measured += u64::from(entry.get("_aws").is_some());
        if entry["message"] == "panicked" {
            panics.push(entry);
        }
    }
    let status = child.wait().await.expect("the child process");
    assert!(panics.is_empty(), "nothing panics: {panics:#?}");
    assert!(status.success(), "all inputs are handled: {status}");
    assert!(logged > count / 2, "{logged} log lines for {count} inputs");
    assert!(
        measured > count / 2,
        "{measured} metrics for {count} inputs"
    );
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("the variable is a number"))
}

async fn send_inputs() {
    let seed = number("BAD_INPUT_SEED").unwrap_or(SEED);
    let first = number("BAD_INPUT_FIRST").unwrap_or_default();
    let count = number("BAD_INPUT_COUNT").unwrap_or_default();
    let telemetry = Telemetry::to_stdout("save-draft");
    telemetry.capture_process();

    let s3 = S3::start_empty().await.expect("the S3 server starts");
    s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    for (id, seed) in OTHER_DRAFTS.iter().zip(1..) {
        s3.put(BUCKET, &draft_key(id), draft_of_size(500, seed));
    }
    let service = common::service_with(&s3, telemetry);
    let samples: Vec<Value> = event_names().iter().map(|name| event(name)).collect();
    let mut counts = BTreeMap::new();
    for n in first..first + count {
        let input = Mutator::new(seed, n, &samples).input();
        let checked = AssertUnwindSafe(send_input(&service, &s3, &input)).catch_unwind();
        let Ok(Ok(kind)) = timeout(WATCHDOG, checked).await else {
            eprintln!(
                "BAD_INPUT_SEED={seed} BAD_INPUT_FIRST={n}: {}",
                String::from_utf8_lossy(&input)
            );
            panic!("input {n} failed a check, panicked, or hung");
        };
        *counts.entry(kind).or_insert(0_u64) += 1;
    }
    eprintln!("{count} inputs from seed {seed}: {counts:#?}");

    let mut objects = 0;
    for id in OTHER_DRAFTS.iter().chain(&[DRAFT_ID]) {
        let document = s3.get(BUCKET, &draft_key(id));
        let saved = s3.keys(BUCKET, &format!("saved/{id}/"));
        assert!(saved.len() <= 1, "{id} has one state: {saved:?}");
        for key in &saved {
            assert!(s3.get(BUCKET, key) == document, "{key} is the draft");
        }
        objects += 1 + saved.len();
    }
    assert_eq!(
        s3.keys(BUCKET, "").len(),
        objects,
        "nothing else is written"
    );
    if count > 1_000 {
        for kind in [
            "200",
            "400",
            "404",
            "405",
            "saved",
            "InvalidRequest",
            "DraftNotFound",
        ] {
            assert!(counts.contains_key(kind), "some inputs lead to {kind}");
        }
    }
}

/// Sends one input and checks the result, of which it returns the kind.
async fn send_input<S>(service: &S, s3: &S3, input: &[u8]) -> String
where
    S: Service<LambdaEvent<Payload>, Response: Serialize, Error = Diagnostic> + Clone,
{
    s3.clear_requests();
    let answer = match common::invoke(service, input).await {
        None => return "not JSON".to_owned(),
        Some(Outcome::Response(response)) => Ok(response),
        Some(outcome) => Err(outcome.error()),
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

/// Texts that are special in a host, a path, a key, an id, Base64 or JSON.
const SPECIAL: &[&str] = &[
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
    "saved/a/20250928T114730Z-44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a/draft_content.json",
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

/// Names of fields that are read in some event.
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

/// Makes one input from the samples.
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

    /// Returns a number below `end`.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a length");
        usize::try_from(self.random.next_u64() % end).expect("a length")
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
            self.repeat_field(&mut text);
        }
        let mut bytes = text.into_bytes();
        if self.one_in(4) {
            for _ in 0..=self.below(3) {
                self.bytes(&mut bytes);
            }
        }
        bytes
    }

    /// Changes a value in `event`, or in an event that it contains as text.
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
                let node = nth(event, node).expect("the index of a value");
                // Two of three texts that are JSON are changed inside.
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

    /// Changes one value, or its content.
    fn node(&mut self, node: &mut Value) {
        match node {
            Value::Object(fields) if !fields.is_empty() && !self.one_in(6) => {
                let names: Vec<_> = fields.keys().cloned().collect();
                let name = self.pick(&names);
                match self.below(4) {
                    0 => drop(fields.remove(&name)),
                    1 => {
                        let value = fields.remove(&name).expect("an existing field");
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
        let special = self.pick(SPECIAL);
        let places: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
        let place = if places.is_empty() {
            0
        } else {
            self.pick(&places)
        };
        match self.below(8) {
            0 => text.truncate(place),
            1 => text.insert_str(place, special),
            2 => text.push_str(special),
            3 => {
                let unit = if special.is_empty() { "x" } else { special };
                let length = self.pick(&[65, 2_050, 9_000, 70_000]);
                *text = unit.repeat(length / unit.len() + 1);
            }
            _ => special.clone_into(text),
        }
    }

    /// Returns a value of any type, or one from another event.
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
                // Deeper than `serde_json` accepts: used as text.
                serde_json::from_str(&nested).unwrap_or(Value::String(nested))
            }
            7 | 8 => self.pick(SPECIAL).into(),
            _ => {
                let mut other = self.pick(self.samples);
                let nodes = count(&other);
                let node = self.below(nodes);
                nth(&mut other, node).expect("the index of a value").take()
            }
        }
    }

    /// Returns an event that contains `event`.
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

    /// Repeats a field in one of the objects.
    fn repeat_field(&mut self, text: &mut String) {
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

/// Returns the number of values in `value`, including itself.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Returns the value number `n` in `value`, which is number 0 itself.
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
