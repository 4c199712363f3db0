//! Lenient reading: a field that no save reads changes nothing, and a message of a batch that
//! cannot be read fails alone.

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use test_support::check::{self, InputStrings};
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, event, event_names};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, Op, S3, When};

use crate::common::{self, gets_and_puts};

/// The fields that a save reads, by their path from the beginning of an event or of a message in
/// it, without the indexes of lists.
const READ: &[&str] = &[
    // HTTP.
    "/requestContext",
    "/requestContext/http",
    "/requestContext/http/method",
    "/requestContext/elb",
    "/httpMethod",
    "/path",
    "/rawPath",
    "/body",
    "/isBase64Encoded",
    // S3, SNS and SQS.
    "/Records",
    "/Records/eventSource",
    "/Records/eventName",
    "/Records/s3",
    "/Records/s3/bucket",
    "/Records/s3/bucket/name",
    "/Records/s3/object",
    "/Records/s3/object/key",
    "/Records/EventSource",
    "/Records/Sns",
    "/Records/Sns/Message",
    "/Records/messageId",
    "/Records/body",
    "/Message",
    "/Event",
    // EventBridge.
    "/source",
    "/detail-type",
    "/detail",
    "/detail/bucket",
    "/detail/bucket/name",
    "/detail/object",
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
        let replaced = |value: Value| {
            let mut event = original.clone();
            *event.pointer_mut(&pointer).expect("the field exists") = value;
            event.to_string()
        };
        let reads_this = READ.contains(&path.join("/").as_str());
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
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    s3.fault(When::any(), Fault::ACCESS_DENIED);
    let function = common::function(&s3);
    let invoke = async |text: &str| common::invoke(&function, text.as_bytes()).await;
    let mut count = 0;
    for name in event_names() {
        let text = event(&name).to_string();
        s3.clear_requests();
        let expected = invoke(&text).await;
        let (lookups, _) = gets_and_puts(&s3);
        assert_eq!(
            lookups,
            usize::from(name != "s3-test-event"),
            "events/{name}.json names one draft"
        );

        let variants = variants(&text, false, &REPLACEMENTS.map(str::to_owned));
        let variant_count = variants.len();
        count += variant_count;
        let mut outcomes = stream::iter(variants)
            .map(async |(change, text)| (invoke(&text).await, change))
            .buffer_unordered(16);
        while let Some((outcome, change)) = outcomes.next().await {
            assert_eq!(outcome, expected, "events/{name}.json: {change}");
        }
        assert_eq!(
            gets_and_puts(&s3),
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

#[tokio::test(flavor = "multi_thread")]
async fn any_text_in_a_field_that_is_read_gets_a_documented_result() {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    for id in ["a", "drafts", DRAFT_ID] {
        s3.put(BUCKET, &draft_key(id), "{}");
    }
    let function = common::function(&s3);
    let long = [100, 9_000].map(|length| "x".repeat(length));
    let texts = SPECIAL.iter().map(|text| (*text).to_owned()).chain(long);
    let replacements: Vec<_> = texts.map(|text| json!(text).to_string()).collect();
    for name in event_names() {
        for (_, variant) in variants(&event(&name).to_string(), true, &replacements) {
            let outcome = common::invoke(&function, variant.as_bytes()).await;
            let answer = match outcome.expect("the event is JSON") {
                Outcome::Response(response) => Ok(response),
                outcome => Err(outcome.error()),
            };
            let strings = InputStrings::of(variant.as_bytes());
            check::result(&strings, &answer);
            let requests = s3.requests();
            for request in &requests {
                check::s3_request(&strings, request);
            }
            s3.clear_requests();
        }
    }
}

/// Returns a batch like `events/{name}.json` with three messages, of which each has the number of
/// its draft in its `messageId`.
fn batch(name: &str) -> Value {
    let template = event(name)["Records"][0].clone();
    let messages = (0..3).map(|number| {
        let mut message = template.clone();
        message["messageId"] = json!(format!("message-{number}"));
        message["body"] = json!(json!({"draft_id": format!("draft-{number}")}).to_string());
        message
    });
    json!({"Records": messages.collect::<Vec<_>>()})
}

#[tokio::test]
async fn a_message_that_cannot_be_read_fails_alone() {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    for number in 0..3 {
        s3.put(BUCKET, &draft_key(&format!("draft-{number}")), "{}");
    }
    let function = common::function(&s3);
    let unknown = Outcome::Error {
        error_type: "InvalidRequest".to_owned(),
        error_message: "The event is not one that this function knows".to_owned(),
    };
    let bodies = [
        "null",
        "7",
        "true",
        "[]",
        "{}",
        r#"{"draft_id": "draft-0"}"#,
        r#""""#,
        r#"" ""#,
        r#""Hello, World!""#,
        r#""{""#,
        r#""null""#,
        r#""[]""#,
        r#""{\"draft_id\": null}""#,
        r#""{\"draft_id\": {}}""#,
        r#""{\"Records\": [{}]}""#,
        r#""\ud800""#,
    ];
    let with_id = bodies.map(|body| format!(r#"{{"messageId": "message-N", "body": {body}}}"#));
    let without_body = r#"{"messageId": "message-N"}"#.to_owned();
    let without_id = [
        "null",
        "7",
        r#""text""#,
        "[]",
        "{}",
        r#"{"body": "{\"draft_id\": \"draft-0\"}"}"#,
        r#"{"messageId": null, "body": "{}"}"#,
        r#"{"messageId": 7, "body": "{}"}"#,
        r#"{"messageId": "\ud800", "body": "{}"}"#,
    ];
    let messages = with_id.into_iter().chain([without_body]);
    let messages = messages.chain(without_id.map(str::to_owned));
    for message in messages {
        for number in 0..3 {
            let mut batch = batch("sqs");
            batch["Records"][number] = json!(PLACEHOLDER);
            let garbage = message.replace('N', &number.to_string());
            let has_id = garbage.contains(&format!("message-{number}"));
            let batch = batch.to_string();
            let batch = batch.replace(&format!("\"{PLACEHOLDER}\""), &garbage);
            s3.clear_requests();
            let outcome = common::invoke(&function, batch.as_bytes()).await;
            let expected = if has_id {
                let id = format!("message-{number}");
                Outcome::Response(json!({"batchItemFailures": [{"itemIdentifier": id}]}))
            } else {
                unknown.clone()
            };
            assert_eq!(outcome, Some(expected), "message {number} is {garbage}");
            for other in (0..3).filter(|other| *other != number) {
                let prefix = format!("saved/draft-{other}/");
                let is_saved = s3
                    .requests()
                    .iter()
                    .any(|request| request.op == Op::PutObject && request.key.starts_with(&prefix));
                assert!(
                    is_saved,
                    "draft-{other} is saved beside message {number}: {garbage}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_message_with_any_attributes_is_saved() {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    for number in 0..3 {
        s3.put(BUCKET, &draft_key(&format!("draft-{number}")), "{}");
    }
    let function = common::function(&s3);
    for name in ["sqs", "sqs-fifo", "sqs-raw-sns"] {
        let mut batch = batch(name);
        batch["Records"][0]["messageAttributes"] = json!({"a": {"binaryValue": "Hello, World!"}});
        let outcome = common::invoke(&function, batch.to_string().as_bytes()).await;
        let saved = Outcome::Response(json!({"batchItemFailures": []}));
        assert_eq!(outcome, Some(saved), "{name}");
        assert_eq!(gets_and_puts(&s3), (3, 3), "{name}: all three are saved");
    }
}
