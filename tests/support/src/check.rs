//! Checks that hold for every invocation while S3 is available. The fuzz targets and the tests with bad input use them.

use std::cell::LazyCell;
use std::collections::HashSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use save_draft::draft::Version;
use serde_json::{Value, json};

use crate::function::InProcess;
use crate::runtime::Outcome;
use crate::s3::RecordedRequest;

/// Maximum length of a record of the log, in bytes. It has several texts of 1 KiB.
const MAX_RECORD_BYTES: usize = 4_000;

/// The documented responses with a `detail`.
const DETAILS: [(u64, &str); 6] = [
    (400, "draft_url is required"),
    (400, "Invalid draft_url format"),
    (400, "The request body must be a JSON object"),
    (404, "Draft does not exist"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
];

/// The documented errors of failed invocations.
const ERRORS: [(&str, &str); 5] = [
    (
        "InvalidRequest",
        "The event is not one that this function knows",
    ),
    (
        "InvalidRequest",
        "Only one of draft_url and draft_id is allowed",
    ),
    ("InvalidRequest", "Invalid draft_url format"),
    ("InvalidRequest", "Invalid draft_id format"),
    ("DraftNotFound", "Draft does not exist"),
];

/// Sends `payload` to the function as the Lambda runtime does, and checks the result, the requests to S3 and the log.
///
/// # Panics
///
/// If the result is not a documented one, or names a draft, URL or message that is not in `payload`; or if a request does
/// not belong to the save of a draft that `payload` names.
pub async fn invocation(function: &InProcess, payload: &[u8]) {
    function.s3.clear_requests();
    let Some(outcome) = function.invoke(payload).await else {
        // The Lambda runtime refuses it.
        return;
    };
    let strings = LazyCell::new(|| unwrap_strings(payload));
    let is_in_input = |text: &str| strings.iter().any(|string| string.contains(text));
    match &outcome {
        Outcome::Error {
            error_type,
            error_message,
        } => assert!(
            ERRORS.contains(&(error_type, error_message)),
            "expected a documented error, got {outcome:?}"
        ),
        Outcome::Response(response) if response.get("statusCode").is_some() => {
            http_response(&is_in_input, response);
        }
        Outcome::Response(response) => event_response(&is_in_input, response),
        Outcome::Exited => panic!("the process ended"),
    }
    for request in function.s3.requests() {
        s3_request(&is_in_input, &request);
    }
    for line in function.take_log().split_terminator('\n') {
        log_line(line);
    }
}

/// Checks that a line of the log is a record of an invocation, and not a text of the input.
#[track_caller]
pub fn log_line(line: &str) {
    let record: Value = serde_json::from_str(line).unwrap_or_default();
    let message = record["message"].as_str().unwrap_or_default();
    let messages = [
        "saved",
        "not saved",
        "invalid request",
        "skipped",
        "more skipped",
    ];
    assert!(
        record["request_id"].is_string() && messages.contains(&message),
        "expected a record of an invocation, got {line}"
    );
    log_text(line);
}

/// Checks that a line of the log is short, and has no invisible characters.
#[track_caller]
pub fn log_text(line: &str) {
    let bytes = line.len();
    assert!(bytes < MAX_RECORD_BYTES, "{bytes} bytes in {line:.300}");
    let is_visible = |c: char| matches!(c, ' '..='~') || c.escape_debug().eq([c]);
    let are_visible = line.chars().all(is_visible);
    assert!(are_visible, "an invisible character in {line:?}");
}

#[track_caller]
fn http_response(is_in_input: &dyn Fn(&str) -> bool, response: &Value) {
    let status = response["statusCode"].as_u64().expect("a status");
    let body = response["body"].as_str().expect("a body");
    let body: Value = serde_json::from_str(body).expect("a JSON body");
    assert_eq!(response["isBase64Encoded"], false);
    // REST APIs and load balancers get lists of values.
    let lists = response["multiValueHeaders"].as_object();
    let lists = lists.filter(|lists| !lists.is_empty());
    let headers = lists.or(response["headers"].as_object()).expect("headers");
    let header = |name: &str| {
        let value = headers.get(name)?;
        value.as_str().or(value[0].as_str())
    };
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(header("cache-control"), Some("no-store"));
    let count = match status {
        200 => {
            let draft_url = body["draft_url"].as_str().expect("a draft_url");
            assert_eq!(body, json!({"draft_url": draft_url}));
            let is_that_of_the_request = is_in_input(draft_url);
            assert!(is_that_of_the_request, "another draft_url: {draft_url:?}");
            let version = header("draft-version").expect("a Draft-Version header");
            let saved = header("draft-saved").expect("a Draft-Saved header");
            check_saved(version, saved);
            4
        }
        405 => {
            assert_eq!(header("allow"), Some("POST"));
            3
        }
        _ => 2,
    };
    assert_eq!(headers.len(), count, "no other headers: {headers:?}");
    if status != 200 {
        let detail = body["detail"].as_str().expect("a detail");
        assert_eq!(body, json!({"detail": detail}));
        assert!(
            DETAILS.contains(&(status, detail)),
            "expected a documented response, got {status} {detail}"
        );
    }
}

#[track_caller]
fn event_response(is_in_input: &dyn Fn(&str) -> bool, response: &Value) {
    let fields = response.as_object().expect("a JSON object");
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    match names.as_slice() {
        ["batchItemFailures"] => {
            for item in response["batchItemFailures"].as_array().expect("a list") {
                let id = item["itemIdentifier"].as_str().expect("an itemIdentifier");
                assert!(is_in_input(id), "expected a messageId, got {id:?}");
            }
        }
        ["saves", "skipped"] => {
            assert!(response["skipped"].is_u64(), "skipped must be a number");
            for save in response["saves"].as_array().expect("a list") {
                event_response(is_in_input, save);
            }
        }
        [field @ ("draft_id" | "draft_url"), "saved", "version"] => {
            let [draft, saved, version] =
                [field, "saved", "version"].map(|name| response[name].as_str().expect("a string"));
            assert!(
                is_in_input(draft),
                "expected a draft of the event, got {draft:?}"
            );
            check_saved(version, saved);
        }
        _ => panic!("expected a documented response, got {response}"),
    }
}

#[track_caller]
fn check_saved(version: &str, saved: &str) {
    assert!(version.parse::<Version>().is_ok(), "version {version:?}");
    assert!(["created", "unchanged"].contains(&saved), "saved {saved:?}");
}

/// Checks that `request` belongs to the save of a draft that the input names, with the default keys.
#[track_caller]
fn s3_request(is_in_input: &dyn Fn(&str) -> bool, request: &RecordedRequest) {
    assert_eq!(request.bucket, crate::fixtures::BUCKET);
    let key = &request.key;
    let parts: Vec<_> = key.split('/').collect();
    let id = match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["drafts", id, "draft_content.json" | "draft_info.json"]) => id,
        ("PUT", ["saved", id, version, "draft_content.json"]) => {
            check_saved(version, "created");
            id
        }
        (method, _) => panic!("expected a GET or PUT of a save, got {method} {key:?}"),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let is_id = (1..=64).contains(&id.len()) && id.chars().all(is_allowed);
    assert!(
        is_id && is_in_input(id),
        "expected a draft of the event, got {id:?}"
    );
}

/// Finds strings in invalid JSON too.
fn unwrap_strings(input: &[u8]) -> HashSet<String> {
    /// More than an SQS message with an SNS message with an S3 event needs.
    const MAX_DEPTH: u8 = 8;

    let mut strings = HashSet::new();
    let mut queue = vec![(String::from_utf8_lossy(input).into_owned(), 0)];
    while let Some((text, depth)) = queue.pop() {
        if strings.contains(&text) {
            continue;
        }
        if depth < MAX_DEPTH {
            let mut inner = json_strings(&text);
            if let Ok(bytes) = BASE64_STANDARD.decode(&text) {
                inner.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            let with_spaces = text.replace('+', " ");
            for text in [text.as_str(), &with_spaces] {
                let decoded = percent_decode_str(text).decode_utf8_lossy();
                inner.push(decoded.into_owned());
            }
            inner.retain(|inner| !inner.is_empty() && *inner != text);
            queue.extend(inner.into_iter().map(|inner| (inner, depth + 1)));
        }
        strings.insert(text);
    }
    strings
}

/// Returns the JSON strings in `text`, decoded.
fn json_strings(text: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('"') {
        rest = &rest[start..];
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        match stream.next() {
            Some(Ok(string)) => {
                strings.push(string);
                rest = &rest[stream.byte_offset()..];
            }
            _ => rest = &rest[1..],
        }
    }
    strings
}
