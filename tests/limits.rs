//! Limits that hold against hostile input: memory for the largest payloads, and lists of records.

use std::path::Path;

use serde_json::{Value, json};
use test_support::fixtures::{DRAFT_ID, DRAFT_URL, event, post};
use test_support::runtime::{Outcome, TIMEOUT};

use crate::common::TestEnv;
use test_support::runtime::memory_kib;
use test_support::skip_or_fail;

/// Maximum size of the payload of a synchronous invocation, in bytes ("Lambda quotas", AWS Lambda
/// Developer Guide).
const MAX_PAYLOAD_BYTES: usize = 6 << 20;

/// Maximum memory of the process for any payload, in KiB: the smallest memory of a function.
const MAX_MEMORY_KIB: u64 = 128 << 10;

/// Fields that a save reads, for events of each kind. A `>` leads into the JSON text of the field
/// before it.
const FIELDS: [(&str, &[&str]); 10] = [
    (
        "api-gateway-http",
        &["/requestContext/http", "/body", "/body>/draft_url"],
    ),
    ("api-gateway-rest", &["/httpMethod", "/body>/draft_url"]),
    ("alb", &["/body>/draft_url"]),
    ("direct-url", &["/draft_url"]),
    ("direct-id", &["/draft_id"]),
    (
        "s3",
        &[
            "/Records",
            "/Records/0/eventSource",
            "/Records/0/s3",
            "/Records/0/s3/object/key",
        ],
    ),
    ("eventbridge-s3", &["/detail-type", "/detail"]),
    ("eventbridge-draft-url", &["/detail/draft_url"]),
    (
        "sns",
        &[
            "/Records/0/Sns",
            "/Records/0/Sns/Message",
            "/Records/0/Sns/Message>/Records",
        ],
    ),
    (
        "sqs",
        &[
            "/Records/0/messageId",
            "/Records/0/body",
            "/Records/0/body>/draft_url",
            "/Records/2/body>/Records",
        ],
    ),
];

/// Repeats `unit` in a list of about `bytes` bytes.
fn list_of(unit: &str, bytes: usize) -> String {
    let units = vec![unit; bytes / (unit.len() + 1)];
    format!("[{}]", units.join(","))
}

/// Returns the event `events/{name}.json` with `value` in the field `path`, as large as a payload
/// may be. `value` gets a size in bytes.
fn payload(name: &str, path: &str, value: impl Fn(usize) -> String) -> String {
    let text = event(name).to_string();
    let length = |bytes| replaced(&text, path, &value(bytes)).len();
    // Escapes in nested JSON texts make the payload longer than its value.
    let (empty, sample) = (length(0), length(100_000) - length(0));
    replaced(
        &text,
        path,
        &value(99_000 * (MAX_PAYLOAD_BYTES - empty) / sample),
    )
}

/// Replaces the field `path` of the JSON text `text` by the JSON text `value`.
fn replaced(text: &str, path: &str, value: &str) -> String {
    const PLACEHOLDER: &str = "placeholder";
    let (pointer, rest) = path.split_once('>').unwrap_or((path, ""));
    let mut event: Value = serde_json::from_str(text).expect("the event is JSON");
    let field = event.pointer_mut(pointer).expect("the field exists");
    if rest.is_empty() {
        *field = json!(PLACEHOLDER);
        return event
            .to_string()
            .replace(&format!("\"{PLACEHOLDER}\""), value);
    }
    let inner = field.as_str().expect("the field is text");
    *field = json!(replaced(inner, rest, value));
    event.to_string()
}

#[tokio::test]
async fn the_largest_payload_of_each_kind_fits_into_the_smallest_memory() {
    if !Path::new("/proc/self/status").exists() {
        return skip_or_fail("the peak of the memory is in /proc, which exists only on Linux");
    }
    let test_env = TestEnv::start().await;
    let pid = test_env.function.pid();
    // `serde_json` needs about 100 bytes for each byte of this text as a `Value`.
    let nested = format!("{}0{}", r#"{"":"#.repeat(120), "}".repeat(120));
    for (name, paths) in FIELDS {
        for path in paths {
            let is_list = path.ends_with("/Records");
            for unit in [nested.as_str()].into_iter().chain(is_list.then_some("{}")) {
                let payload = payload(name, path, |bytes| list_of(unit, bytes));
                assert!(
                    (MAX_PAYLOAD_BYTES * 9 / 10..=MAX_PAYLOAD_BYTES).contains(&payload.len()),
                    "the payload has its maximum size, got {}",
                    payload.len()
                );
                let pending = test_env.function.begin_within(payload, TIMEOUT);
                let outcome = pending.outcome().await;
                let peak = memory_kib(pid, "VmHWM");
                assert!(
                    outcome != Outcome::Exited && peak < MAX_MEMORY_KIB,
                    "{name}: {path} as a list of {unit:.9}: peak of {peak} KiB, {outcome:?}"
                );
            }
        }
    }
    let outcome = test_env.function.invoke(&event("direct-id")).await;
    assert_eq!(
        outcome.response()["draft_id"],
        DRAFT_ID,
        "the function goes on"
    );
}

#[tokio::test]
async fn an_event_of_more_records_than_any_trigger_sends_is_refused() {
    let test_env = TestEnv::start().await;
    let record = event("s3")["Records"][0].clone();
    for (count, is_accepted) in [(10_000, true), (10_001, false)] {
        let event = json!({"Records": vec![&record; count]});
        let (outcome, lines) = test_env.invoke_logged(&event).await;
        if is_accepted {
            assert_eq!(outcome.response()["saves"][0]["draft_id"], DRAFT_ID);
        } else {
            assert_eq!(outcome.error().0, "InvalidRequest");
            let expected = "Records must be a list of at most 10000 records";
            assert_eq!(lines[0]["error"], expected, "the log names the limit");
        }
        assert_eq!(lines.len(), 1, "one line is logged");
    }
}

#[tokio::test]
async fn records_that_cannot_be_parsed_are_one_line_for_each_message() {
    let test_env = TestEnv::start().await;
    let mut batch = event("sqs");
    let body = json!({"Records": vec![json!({}); 10_000]}).to_string();
    batch["Records"][0]["body"] = json!(body);
    let (outcome, lines) = test_env.invoke_logged(&batch).await;
    let failures = outcome.response()["batchItemFailures"].clone();
    assert_eq!(failures.as_array().map(Vec::len), Some(1), "{failures}");
    let invalid = lines
        .iter()
        .filter(|line| line["outcome"] == "InvalidRequest");
    let invalid: Vec<_> = invalid.collect();
    assert_eq!(invalid.len(), 1, "the first of the records is logged");
    assert_eq!(invalid[0]["Invalid"], 1);
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
