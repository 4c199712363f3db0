//! Drafts and events for tests.

use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The draft of the contract's example.
pub const DRAFT_ID: &str = "2025092811473036584258";
/// The URL of that draft.
pub const DRAFT_URL: &str = "https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id=2025092811473036584258";
/// The bucket of the drafts and the versions.
pub const BUCKET: &str = "drafts";

/// The key of the document of a draft, by default.
pub fn draft_key(id: &str) -> String {
    format!("drafts/{id}/draft_content.json")
}

/// The path of a file of the repository.
pub fn in_repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// Reads a YAML file of the repository without its tags: `!Ref X` is `"X"`, `!If [C, A, B]` is a list.
pub fn read_yaml(path: &str) -> Value {
    let text = fs::read_to_string(in_repository(path));
    let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The document of the example draft.
pub fn sample_draft() -> Vec<u8> {
    fs::read(in_repository("local/sample/draft_content.json")).expect("the sample is there")
}

/// Returns a document of exactly `bytes` bytes. Another `seed` makes another document.
pub fn draft_of_size(bytes: usize, seed: u64) -> Vec<u8> {
    let begin = format!(r#"{{"id":"{seed:016x}","duration":5000000,"tracks":["#);
    let end = r#"],"fps":30.0}"#;
    let segment = format!(r#"{{"id":"{seed:016x}","type":"text","text":"你好"}},"#);
    let room = bytes.checked_sub(begin.len() + end.len() + 2);
    let mut room = room.expect("a document has about 100 bytes");
    let mut document = Vec::with_capacity(bytes);
    document.extend_from_slice(begin.as_bytes());
    while room >= segment.len() {
        document.extend_from_slice(segment.as_bytes());
        room -= segment.len();
    }
    document.push(b'"');
    document.resize(document.len() + room, b'-');
    document.push(b'"');
    document.extend_from_slice(end.as_bytes());
    assert_eq!(document.len(), bytes);
    document
}

/// The SHA-256 digest of `bytes` in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Returns whether `LONG=1` asks for the long variants of tests.
pub fn long_tests() -> bool {
    env::var("LONG").is_ok_and(|value| value == "1")
}

/// Returns the event in `events/{name}.json`.
pub fn event(name: &str) -> Value {
    let text = fs::read(in_repository(format!("events/{name}.json")));
    let text = text.unwrap_or_else(|error| panic!("events/{name}.json: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("events/{name}.json: {error}"))
}

/// Returns the names of all events in `events/`.
pub fn event_names() -> Vec<String> {
    let files = fs::read_dir(in_repository("events")).expect("the folder is there");
    let paths = files.map(|file| file.expect("the folder is readable").path());
    let names = paths.map(|path| {
        path.file_stem()
            .expect("it is a file")
            .to_string_lossy()
            .into()
    });
    let mut names: Vec<String> = names.filter(|name| name != "env").collect();
    names.sort();
    names
}

/// Returns an SQS batch with one message for each of the drafts `0` to `count - 1`.
pub fn batch(count: usize) -> Value {
    sqs_batch((0..count).map(|number| json!({"draft_id": number.to_string()})))
}

/// Returns an event of API Gateway (HTTP API) that posts `body`.
pub fn post(body: impl Into<String>) -> Value {
    let mut event = event("api-gateway-http");
    event["body"] = Value::String(body.into());
    event
}

/// Returns an event of API Gateway (HTTP API) that saves the draft at `draft_url`, which may be invalid.
pub fn post_url(draft_url: impl Into<Value>) -> Value {
    post(json!({"draft_url": draft_url.into()}).to_string())
}

/// Returns an event of API Gateway (HTTP API) that saves the draft `id`.
pub fn post_id(id: &str) -> Value {
    post_url(format!("https://example.com/get_draft?draft_id={id}"))
}

/// Returns the method of an HTTP event.
pub fn method_mut(event: &mut Value) -> &mut Value {
    if event["httpMethod"].is_string() {
        &mut event["httpMethod"]
    } else {
        &mut event["requestContext"]["http"]["method"]
    }
}

/// Returns the event `name` with a copy of its record for each of `items`. `change` takes the copy, the number of the item
/// and the item.
fn with_records<T>(
    name: &str,
    items: impl IntoIterator<Item = T>,
    change: impl Fn(&mut Value, usize, T),
) -> Value {
    let mut event = event(name);
    let record = event["Records"][0].take();
    let records = items.into_iter().enumerate().map(|(number, item)| {
        let mut record = record.clone();
        change(&mut record, number, item);
        record
    });
    event["Records"] = records.collect();
    event
}

/// Returns an S3 notification with a record for each of `keys`, which must be URL-encoded.
pub fn s3_notification(keys: impl IntoIterator<Item = impl Into<String>>) -> Value {
    with_records("s3", keys, |record, _, key| {
        record["s3"]["object"]["key"] = Value::String(key.into());
    })
}

/// Returns an EventBridge event of S3 for `key`.
pub fn eventbridge_event(key: &str) -> Value {
    let mut event = event("eventbridge-s3");
    event["detail"]["object"]["key"] = json!(key);
    event
}

/// Returns an SNS notification with this message.
pub fn sns_notification(message: &Value) -> Value {
    let mut event = event("sns");
    event["Records"][0]["Sns"]["Message"] = json!(message.to_string());
    event
}

/// Returns an SQS batch with these bodies, texts or JSON, and the ids `message-0`, `message-1` and so on.
pub fn sqs_batch(bodies: impl IntoIterator<Item = Value>) -> Value {
    with_records("sqs", bodies, |message, number, body| {
        message["messageId"] = json!(format!("message-{number}"));
        message["body"] = match body {
            Value::String(text) => json!(text),
            body => json!(body.to_string()),
        };
    })
}
