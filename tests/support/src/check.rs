//! Checks that hold for every invocation while S3 is available. The fuzz targets and the tests with bad input use them.

use std::cell::OnceCell;
use std::collections::HashSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::s3::RecordedRequest;

/// The response to an invocation, or the type and the message of its error.
pub type InvocationResult = Result<Value, (String, String)>;

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

/// Checks that `result` is a documented one, and names only drafts, URLs and messages that are in `input`.
#[track_caller]
pub fn result(input: &InputStrings<'_>, result: &InvocationResult) {
    match result {
        Err((error_type, message)) => assert!(
            ERRORS.contains(&(error_type, message)),
            "expected a documented error, got {error_type}: {message}"
        ),
        Ok(response) if response.get("statusCode").is_some() => http_response(input, response),
        Ok(response) => event_response(input, response),
    }
}

#[track_caller]
fn http_response(input: &InputStrings<'_>, response: &Value) {
    let status = response["statusCode"].as_u64().expect("a status");
    let body = response["body"].as_str().expect("a body");
    let body: Value = serde_json::from_str(body).expect("a JSON body");
    let header = |name: &str| {
        // REST APIs and some load balancers get lists of values.
        let (one, all) = (
            &response["headers"][name],
            &response["multiValueHeaders"][name],
        );
        one.as_str().or(all[0].as_str()).map(str::to_owned)
    };
    assert_eq!(response["isBase64Encoded"], false);
    assert_eq!(header("content-type").as_deref(), Some("application/json"));
    assert_eq!(header("cache-control").as_deref(), Some("no-store"));
    if status == 200 {
        let draft_url = body["draft_url"].as_str().expect("a draft_url");
        assert_eq!(body, json!({"draft_url": draft_url}));
        assert!(
            input.contain(draft_url),
            "expected the draft_url of the request, got {draft_url:?}"
        );
        version(&header("draft-version").expect("a Draft-Version header"));
        outcome(&header("draft-saved").expect("a Draft-Saved header"));
        return;
    }
    let detail = body["detail"].as_str().expect("a detail");
    assert_eq!(body, json!({"detail": detail}));
    assert!(
        DETAILS.contains(&(status, detail)),
        "expected a documented response, got {status} {detail}"
    );
    let allow = (status == 405).then_some("POST");
    assert_eq!(header("allow").as_deref(), allow);
}

#[track_caller]
fn event_response(input: &InputStrings<'_>, response: &Value) {
    let fields = response.as_object().expect("a JSON object");
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    match names.as_slice() {
        ["batchItemFailures"] => {
            for item in response["batchItemFailures"].as_array().expect("a list") {
                let id = item["itemIdentifier"].as_str().expect("an itemIdentifier");
                assert!(
                    input.contain(id),
                    "expected the messageId of a message, got {id:?}"
                );
            }
        }
        ["saves", "skipped"] => {
            assert!(response["skipped"].is_u64(), "skipped must be a number");
            for save in response["saves"].as_array().expect("a list") {
                saved(input, save);
            }
        }
        _ => saved(input, response),
    }
}

#[track_caller]
fn saved(input: &InputStrings<'_>, save: &Value) {
    let field = ["draft_id", "draft_url"]
        .into_iter()
        .find(|name| save.get(name).is_some())
        .expect("a draft_id or draft_url");
    let draft = save[field].as_str().expect("a string");
    assert!(
        input.contain(draft),
        "expected a draft of the event, got {draft:?}"
    );
    version(save["version"].as_str().expect("a version"));
    outcome(save["saved"].as_str().expect("an outcome"));
    assert_eq!(save.as_object().map(serde_json::Map::len), Some(3));
}

#[track_caller]
fn version(name: &str) {
    let class = |c: char| match c {
        '0'..='9' => '0',
        'a'..='f' => 'a',
        other => other,
    };
    let (time, hash) = name.split_once('-').expect("a time and a hash");
    assert_eq!(
        time.chars().map(class).collect::<String>(),
        "00000000T000000Z"
    );
    assert!(
        hash.len() == 64 && hash.chars().all(|c| matches!(class(c), '0' | 'a')),
        "expected 64 hexadecimal digits, got {hash:?}"
    );
}

#[track_caller]
fn outcome(name: &str) {
    assert!(
        matches!(name, "created" | "unchanged"),
        "expected created or unchanged, got {name:?}"
    );
}

/// Checks that `request` belongs to the save of a draft that `input` names, with the default keys.
#[track_caller]
pub fn s3_request(input: &InputStrings<'_>, request: &RecordedRequest) {
    assert_eq!(request.bucket, crate::fixtures::BUCKET);
    let key = &request.key;
    let parts: Vec<_> = key.split('/').collect();
    let id = match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["drafts", id, "draft_content.json" | "draft_info.json"]) => id,
        ("PUT", ["saved", id, name, "draft_content.json" | "draft_info.json"]) => {
            version(name);
            id
        }
        (method, _) => panic!("expected a GET or PUT of a save, got {method} {key:?}"),
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    assert!(
        (1..=64).contains(&id.len()) && id.chars().all(is_allowed),
        "expected a draft id in the key, got {key:?}"
    );
    assert!(
        input.contain(id),
        "expected a draft of the event, got {id:?}"
    );
}

/// The strings in an input, in whatever they are wrapped: JSON, Base64, percent-encoding.
pub struct InputStrings<'a> {
    input: &'a [u8],
    /// Computed when it is first used.
    strings: OnceCell<HashSet<String>>,
}

impl<'a> InputStrings<'a> {
    /// Returns the strings in `input`.
    pub fn of(input: &'a [u8]) -> Self {
        let strings = OnceCell::new();
        Self { input, strings }
    }

    /// Returns whether one of them contains `text`.
    pub fn contain(&self, text: &str) -> bool {
        let strings = self.strings.get_or_init(|| unwrap_strings(self.input));
        strings.iter().any(|string| string.contains(text))
    }
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
