//! Lenient reading: a field that no save reads changes nothing, and a message of a batch that
//! cannot be read fails alone.

use std::collections::HashSet;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use test_support::check;
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, event, event_names, sqs_batch};
use test_support::function::InProcess;
use test_support::runtime::Outcome;
use test_support::s3::{Fault, When};

use crate::common::gets_and_puts;

/// The fields that a save reads, by their path from the beginning of an event or of a message in
/// it, without the indexes of lists. The objects and lists around them are read too.
const READ: &[&str] = &[
    // HTTP.
    "/requestContext/http/method",
    "/requestContext/elb",
    "/httpMethod",
    "/path",
    "/rawPath",
    "/body",
    "/isBase64Encoded",
    // S3, SNS and SQS.
    "/Records/eventSource",
    "/Records/eventName",
    "/Records/s3/bucket/name",
    "/Records/s3/object/key",
    "/Records/EventSource",
    "/Records/Sns/Message",
    "/Records/messageId",
    "/Records/body",
    "/Message",
    "/Event",
    // EventBridge.
    "/source",
    "/detail-type",
    "/detail/bucket/name",
    "/detail/object/key",
    "/detail/draft_url",
    // Direct invocations, and messages with their form.
    "/draft_url",
    "/draft_id",
];

/// JSON texts that take the place of a field, beside its absence. Some cannot be held by a `Value`.
const REPLACEMENTS: [&str; 5] = [
    "null",
    "-1e999",
    // A lone surrogate, which is not valid Unicode.
    r#""Hello, World! \ud800""#,
    "[1, [2]]",
    r#"{"draft_id": {"draft_url": 1}, "draft_id": 2}"#,
];

/// Takes the place of a field in a `Value`.
const PLACEHOLDER: &str = "placeholder";

/// Appends the JSON pointers of all values in `value` to `pointers`.
fn collect_pointers(value: &Value, pointer: &str, pointers: &mut Vec<String>) {
    let mut child = |name: &str, value: &Value| {
        let name = name.replace('~', "~0").replace('/', "~1");
        let pointer = format!("{pointer}/{name}");
        collect_pointers(value, &pointer, pointers);
        pointers.push(pointer);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| child(name, value)),
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                child(&index.to_string(), value);
            }
        }
        _ => {}
    }
}

/// Returns variants of the event or message in `text`, in each of which one of the fields that a save reads, or one of those
/// that no save reads, is missing or has one of the JSON texts in `replacements`. Each comes with a description of the change.
fn variants(text: &str, is_read: bool, replacements: &[String]) -> Vec<(String, String)> {
    let original: Value = serde_json::from_str(text).expect("the event is JSON");
    let mut pointers = Vec::new();
    collect_pointers(&original, "", &mut pointers);
    let mut changed = Vec::new();
    for pointer in pointers {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer has a slash");
        let is_index = |name: &&str| name.parse::<usize>().is_ok();
        let path: Vec<_> = pointer.split('/').filter(|name| !is_index(name)).collect();
        let (path, folder) = (path.join("/"), path.join("/") + "/");
        let replaced = |value: Value| {
            let mut event = original.clone();
            *event.pointer_mut(&pointer).expect("the field exists") = value;
            event.to_string()
        };
        let mut read = READ.iter();
        let reads_this = read.any(|field| *field == path || field.starts_with(&folder));
        // Text that is read may be a message with fields of its own.
        let message = original.pointer(&pointer).and_then(Value::as_str);
        if let Some(message) = message.filter(|text| reads_this && text.starts_with('{')) {
            for (change, message) in variants(message, is_read, replacements) {
                changed.push((format!("{pointer}: {change}"), replaced(json!(message))));
            }
        }
        if reads_this != is_read {
            continue;
        }
        for replacement in replacements {
            let event = replaced(json!(PLACEHOLDER));
            let event = event.replacen(&format!("\"{PLACEHOLDER}\""), replacement, 1);
            changed.push((format!("{pointer} is {replacement}"), event));
        }
        let mut event = original.clone();
        if let Some(Value::Object(fields)) = event.pointer_mut(parent) {
            fields.remove(&name.replace("~1", "/").replace("~0", "~"));
            changed.push((format!("{pointer} is missing"), event.to_string()));
        }
    }
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_no_save_reads_changes_nothing() {
    // No draft can be read: this is faster than a save, and a batch names each message whose draft was
    // looked up.
    let function = InProcess::start().await;
    function.s3.fault(When::any(), Fault::ACCESS_DENIED);
    let mut count = 0;
    for name in event_names() {
        let text = event(&name).to_string();
        let expected = function.invoke(text.as_bytes()).await;
        let (lookups, _) = gets_and_puts(&function.s3);
        let is_save = name != "s3-test-event";
        assert_eq!(lookups, usize::from(is_save), "{name} names one draft");

        let variants = variants(&text, false, &REPLACEMENTS.map(str::to_owned));
        let variant_count = variants.len();
        count += variant_count;
        let mut outcomes = stream::iter(variants)
            .map(async |(change, text)| (function.invoke(text.as_bytes()).await, change))
            .buffer_unordered(16);
        while let Some((outcome, change)) = outcomes.next().await {
            assert_eq!(outcome, expected, "events/{name}.json: {change}");
        }
        assert_eq!(
            gets_and_puts(&function.s3),
            (variant_count * lookups, 0),
            "each of the variants of events/{name}.json looks up the draft as often"
        );
    }
    assert!(count > 3000, "there are thousands of variants, got {count}");
}

/// Texts that are special in a host, a path, a key, an id, Base64 or JSON.
const SPECIAL: [&str; 32] = [
    "",
    " \0\r\n\u{2028}\u{feff}\u{202e}\u{7f}",
    "２０２５０９２８👩‍👩‍👧‍👦é",
    "../../..\\etc",
    "%zz%00%ff%fe%252e%252e%252f",
    "/save_draft",
    "/a b/?x=1#y/save_draft",
    "http://[::1]:99999/",
    "https://user:password@exa mple.com/?draft_id=a",
    "javascript:alert(1)//?draft_id=a",
    "https://example.com/?draft_id=%61",
    "https://example.com/?draft_id=a#draft_id=b",
    "https://example.com/?draft_id=..%2Fsaved",
    "{draft_id}",
    "[{}]",
    "null",
    "{\"draft_url\":{}}",
    "{\"draft_id\":\"a\",\"draft_id\":\"drafts\"}",
    "{\"Records\":[{}]}",
    "{\"Message\":\"{}\"}",
    "====",
    "e30=",
    "drafts/a/../b/draft_content.json",
    "drafts/a%2Fdraft_content.json",
    "saved/a/20250928T114730Z-44136fa355b3678a/draft_content.json",
    "ObjectRemoved:Delete",
    "s3:TestEvent",
    "aws:sqs",
    "aws.s3",
    "Object Created",
    "P O S T",
    "1e999",
];

/// So does the log, and no text of an input is part of a header or a record of its own.
#[tokio::test(flavor = "multi_thread")]
async fn any_text_in_a_field_that_is_read_gets_a_documented_result() {
    let function = InProcess::start().await;
    for id in ["a", "drafts", DRAFT_ID] {
        function.s3.put(BUCKET, &draft_key(id), "{}");
    }
    let long = [100, 9_000].map(|length| "x".repeat(length));
    let texts = SPECIAL.iter().map(|text| (*text).to_owned()).chain(long);
    let replacements: Vec<_> = texts.map(|text| json!(text).to_string()).collect();
    let mut changes = HashSet::new();
    for name in event_names() {
        for (change, variant) in variants(&event(&name).to_string(), true, &replacements) {
            // The same field of another event, or of another record of a list, is read in the same way.
            let change: String = change.chars().filter(|c| !c.is_ascii_digit()).collect();
            if changes.insert(change) {
                check::invocation(&function, variant.as_bytes()).await;
            }
        }
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_fails_alone() {
    let function = InProcess::start().await;
    for id in ["first", "last"] {
        function.s3.put(BUCKET, &draft_key(id), "{}");
    }
    // Invokes the function with these messages, JSON texts, between two about drafts.
    let invoke = async |messages: &str| {
        let good = ["first", "last"].map(|id| json!({"draft_id": id}));
        let batch = sqs_batch(good).to_string();
        let batch = batch.replacen("},{", &format!("}},{messages},{{"), 1);
        let outcome = function.invoke(batch.as_bytes()).await;
        let saves = gets_and_puts(&function.s3);
        assert_eq!(saves, (2, 2), "the other messages are saved: {messages}");
        outcome.expect("the batch is JSON")
    };
    let bodies = [
        "null",
        "7",
        "[]",
        "{}",
        r#"{"draft_id": "first"}"#,
        r#""""#,
        r#"" ""#,
        r#""Hello, World!""#,
        r#""{""#,
        r#""null""#,
        r#""[]""#,
        r#""{\"draft_id\": {}}""#,
        r#""{\"Records\": [{}]}""#,
        r#""\ud800""#,
    ];
    let messages =
        bodies.map(|body| format!(r#"{{"messageId": {}, "body": {body}}}"#, json!(body)));
    let without_body = r#"{"messageId": "without a body"}"#.to_owned();
    let messages: Vec<_> = messages.into_iter().chain([without_body]).collect();
    let failures = bodies.into_iter().chain(["without a body"]);
    let failures = failures.map(|id| json!({"itemIdentifier": id}));
    let expected = json!({"batchItemFailures": failures.collect::<Vec<_>>()});
    let outcome = invoke(&messages.join(",")).await;
    assert_eq!(outcome, Outcome::Response(expected));

    // SQS cannot be told whether such a message was saved.
    for without_id in [
        "null",
        "7",
        r#""text""#,
        "[]",
        "{}",
        r#"{"body": "{\"draft_id\": \"first\"}"}"#,
        r#"{"messageId": null, "body": "{}"}"#,
        r#"{"messageId": 7, "body": "{}"}"#,
        r#"{"messageId": "\ud800", "body": "{}"}"#,
    ] {
        let (error_type, _) = invoke(without_id).await.error();
        assert_eq!(error_type, "InvalidRequest", "{without_id}");
    }
}
