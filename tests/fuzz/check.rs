//! What has to hold for whatever the function is sent, here and in `tests/bad_input.rs`.

use std::cell::OnceCell;
use std::collections::HashSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// The answer to an invocation, or the type and the message of its error.
pub type Answer = Result<Value, (String, String)>;

/// The `detail` of each status that a healthy store leaves room for.
const DETAILS: [(u64, &str); 6] = [
    (400, "draft_url is required"),
    (400, "Invalid draft_url format"),
    (400, "The request body must be a JSON object"),
    (404, "Draft does not exist"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
];

/// The errors that a healthy store leaves room for.
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

/// Checks that `answer` is one that the function may give to `input` over a healthy store.
///
/// # Panics
///
/// If it is not.
#[track_caller]
pub fn answer(input: &Texts<'_>, answer: &Answer) {
    match answer {
        Err((kind, message)) => assert!(
            ERRORS.contains(&(kind, message)),
            "{kind}: {message} is no documented error"
        ),
        Ok(response) if response.get("statusCode").is_some() => http(input, response),
        Ok(response) => event(input, response),
    }
}

#[track_caller]
fn http(input: &Texts<'_>, response: &Value) {
    let status = response["statusCode"].as_u64().expect("a status");
    let body = response["body"].as_str().expect("a body of text");
    let body: Value = serde_json::from_str(body).expect("a body of JSON");
    let header = |name: &str| {
        // API Gateway's REST APIs are answered with lists, the others with texts.
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
        let draft_url = body["draft_url"].as_str().expect("a URL");
        assert_eq!(body, json!({"draft_url": draft_url}));
        assert!(input.contain(draft_url), "the URL is not the one that came");
        version(&header("draft-version").expect("a version"));
        saved(&header("draft-saved").expect("what was done"));
        return;
    }
    let detail = body["detail"].as_str().expect("a detail");
    assert_eq!(body, json!({"detail": detail}));
    assert!(
        DETAILS.contains(&(status, detail)),
        "{status} {detail} is no documented answer"
    );
    let allow = (status == 405).then_some("POST");
    assert_eq!(header("allow").as_deref(), allow);
}

#[track_caller]
fn event(input: &Texts<'_>, response: &Value) {
    let fields = response.as_object().expect("an object");
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    match names.as_slice() {
        ["batchItemFailures"] => {
            for item in response["batchItemFailures"].as_array().expect("a list") {
                let id = item["itemIdentifier"].as_str().expect("an id");
                assert!(input.contain(id), "no message has the id {id:?}");
            }
        }
        ["saves", "skipped"] => {
            assert!(response["skipped"].is_u64());
            for save in response["saves"].as_array().expect("a list") {
                one(input, save);
            }
        }
        _ => one(input, response),
    }
}

#[track_caller]
fn one(input: &Texts<'_>, save: &Value) {
    let field = ["draft_id", "draft_url"]
        .into_iter()
        .find(|name| save.get(name).is_some())
        .expect("a draft");
    let draft = save[field].as_str().expect("a text");
    assert!(input.contain(draft), "nobody asked for {draft:?}");
    version(save["version"].as_str().expect("a version"));
    saved(save["saved"].as_str().expect("what was done"));
    assert_eq!(save.as_object().map(serde_json::Map::len), Some(3));
}

#[track_caller]
fn version(name: &str) {
    let like = |c: char| match c {
        '0'..='9' => '0',
        'a'..='f' => 'a',
        other => other,
    };
    let (time, hash) = name.split_once('-').expect("a time and a hash");
    assert_eq!(
        time.chars().map(like).collect::<String>(),
        "00000000T000000Z"
    );
    assert!(hash.len() == 64 && hash.chars().all(|c| matches!(like(c), '0' | 'a')));
}

#[track_caller]
fn saved(word: &str) {
    assert!(matches!(word, "created" | "unchanged"), "{word:?} is none");
}

/// Checks that a request to the store is one that a save of what `input` names makes.
///
/// # Panics
///
/// If it is not.
#[track_caller]
pub fn request(input: &Texts<'_>, method: &str, bucket: &str, key: &str) {
    assert_eq!(bucket, "drafts");
    let (prefix, version_parts) = match method {
        "GET" => ("drafts", 0),
        "PUT" => ("saved", 1),
        other => panic!("{other} is no part of a save"),
    };
    let parts: Vec<_> = key.split('/').collect();
    assert_eq!(parts.len(), 3 + version_parts, "{key:?}");
    assert_eq!(parts[0], prefix, "{key:?}");
    assert_eq!(parts[parts.len() - 1], "draft_content.json", "{key:?}");
    let id = parts[1];
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    assert!(
        (1..=64).contains(&id.len()) && id.chars().all(plain),
        "{key:?}"
    );
    assert!(input.contain(id), "nobody asked for {id:?}");
    if version_parts == 1 {
        version(parts[2]);
    }
}

/// All the texts in an input, whatever they are wrapped in: strings of JSON, Base64,
/// percent-encoding.
pub struct Texts<'a> {
    input: &'a [u8],
    texts: OnceCell<HashSet<String>>,
}

impl<'a> Texts<'a> {
    /// Those in `input`, which is looked into when somebody asks.
    pub fn of(input: &'a [u8]) -> Self {
        let texts = OnceCell::new();
        Self { input, texts }
    }

    /// Whether `text` is in one of them.
    pub fn contain(&self, text: &str) -> bool {
        let texts = self.texts.get_or_init(|| all(self.input));
        texts.iter().any(|whole| whole.contains(text))
    }
}

/// Reads no JSON as a whole, so that nothing in it is missed for something beside it.
fn all(input: &[u8]) -> HashSet<String> {
    /// More than an event of SQS with one of SNS with one of S3 needs.
    const DEPTH: u8 = 8;

    let mut texts = HashSet::new();
    let mut queue = vec![(String::from_utf8_lossy(input).into_owned(), 0)];
    while let Some((text, depth)) = queue.pop() {
        if texts.contains(&text) {
            continue;
        }
        if depth < DEPTH {
            let mut inner = strings(&text);
            if let Ok(bytes) = BASE64_STANDARD.decode(&text) {
                inner.push(String::from_utf8_lossy(&bytes).into_owned());
            }
            let spaced = text.replace('+', " ");
            for text in [text.as_str(), &spaced] {
                let decoded = percent_decode_str(text).decode_utf8_lossy();
                inner.push(decoded.into_owned());
            }
            inner.retain(|inner| !inner.is_empty() && *inner != text);
            queue.extend(inner.into_iter().map(|inner| (inner, depth + 1)));
        }
        texts.insert(text);
    }
    texts
}

/// The strings of JSON in `text`, decoded.
fn strings(text: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find('"') {
        rest = &rest[begin..];
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
