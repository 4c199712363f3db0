//! Limits that hold against hostile input: memory for the largest payloads, and lists of records.

use std::path::Path;

use serde_json::{Value, json};
use test_support::fixtures::{
    DRAFT_ID, DRAFT_URL, draft_key, event, post, s3_notification, sqs_batch,
};
use test_support::runtime::{Outcome, TIMEOUT, memory_kib};
use test_support::skip_or_fail;

use crate::common::TestEnv;

/// Maximum size of the payload of a synchronous invocation, in bytes ("Lambda quotas", AWS Lambda
/// Developer Guide).
const MAX_PAYLOAD_BYTES: usize = 6 << 20;

/// Maximum memory of the process for any payload, in KiB: the smallest memory of a function.
const MAX_MEMORY_KIB: u64 = 128 << 10;

/// Fields that a save reads, with the events that have them. A `>` leads into the JSON text of the field
/// before it.
const FIELDS: [(&str, &str); 21] = [
    ("api-gateway-http", "/requestContext/http"),
    ("api-gateway-http", "/body"),
    ("api-gateway-http", "/body>/draft_url"),
    ("api-gateway-rest", "/httpMethod"),
    ("api-gateway-rest", "/body>/draft_url"),
    ("alb", "/body>/draft_url"),
    ("direct-url", "/draft_url"),
    ("direct-id", "/draft_id"),
    ("s3", "/Records"),
    ("s3", "/Records/0/eventSource"),
    ("s3", "/Records/0/s3"),
    ("s3", "/Records/0/s3/object/key"),
    ("eventbridge-s3", "/detail-type"),
    ("eventbridge-s3", "/detail"),
    ("sns", "/Records/0/Sns"),
    ("sns", "/Records/0/Sns/Message"),
    ("sns", "/Records/0/Sns/Message>/Records"),
    ("sqs", "/Records/0/messageId"),
    ("sqs", "/Records/0/body"),
    ("sqs", "/Records/0/body>/draft_url"),
    ("sqs", "/Records/2/body>/Records"),
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
    for (name, path) in FIELDS {
        let is_list = path.ends_with("/Records");
        for unit in [nested.as_str()].into_iter().chain(is_list.then_some("{}")) {
            let payload = payload(name, path, |bytes| list_of(unit, bytes));
            let sizes = MAX_PAYLOAD_BYTES * 9 / 10..=MAX_PAYLOAD_BYTES;
            assert!(sizes.contains(&payload.len()), "{} bytes", payload.len());
            let pending = test_env.function.begin_within(payload, TIMEOUT);
            let outcome = pending.outcome().await;
            let peak = memory_kib(pid, "VmHWM");
            assert!(
                outcome != Outcome::Exited && peak < MAX_MEMORY_KIB,
                "{name}: {path} as a list of {unit:.9}: peak of {peak} KiB, {outcome:?}"
            );
        }
    }
    let outcome = test_env.invoke(&event("direct-id")).await.response();
    assert_eq!(outcome["draft_id"], DRAFT_ID, "the function goes on");
}

#[tokio::test]
async fn an_event_of_more_records_than_any_trigger_sends_is_refused() {
    let test_env = TestEnv::start().await;
    let keys = |count| s3_notification(vec![draft_key(DRAFT_ID); count]);
    let outcome = test_env.invoke(&keys(10_000)).await.response();
    assert_eq!(outcome["saves"][0]["draft_id"], DRAFT_ID);

    let (outcome, lines) = test_env.invoke_logged(&keys(10_001)).await;
    assert_eq!(outcome.error().0, "InvalidRequest");
    let expected = "Records must be a list of at most 10000 records";
    assert_eq!(lines[0]["error"], expected, "the log names the limit");
}

#[tokio::test]
async fn records_that_cannot_be_parsed_are_one_line_for_each_message() {
    let test_env = TestEnv::start().await;
    let batch = sqs_batch([json!({"Records": vec![json!({}); 10_000]})]);
    let (outcome, lines) = test_env.invoke_logged(&batch).await;
    let failed = json!([{"itemIdentifier": "message-0"}]);
    assert_eq!(outcome.response()["batchItemFailures"], failed);
    assert_eq!(lines.len(), 1, "the first of the records is logged");
    assert_eq!(lines[0]["outcome"], "InvalidRequest");
    assert_eq!(lines[0]["Invalid"], 1);
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
        let response = test_env.invoke(&post(body)).await.response();
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
