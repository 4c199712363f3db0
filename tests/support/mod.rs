//! What the tests share: an S3, a Lambda, and the function between them.

#![allow(dead_code, reason = "each group of tests uses a part of it")]

pub mod client;
pub mod runtime;
pub mod s3;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::runtime::Bootstrap;
use self::s3::{Op, S3};

/// The draft of the contract's example.
pub const DRAFT_ID: &str = "2025092811473036584258";
/// Its URL.
pub const DRAFT_URL: &str = "https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id=2025092811473036584258";
/// The bucket, of the drafts and of the versions.
pub const BUCKET: &str = "drafts";

/// An S3, and a function that uses it.
pub struct World {
    /// The S3.
    pub s3: S3,
    /// The function.
    pub function: Bootstrap,
}

impl World {
    /// Starts both. The example draft is there.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts both, the function with these variables beside what it needs.
    pub async fn with(env: &[(&str, &str)]) -> Self {
        let s3 = S3::start_empty().await.expect("the S3 starts");
        s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
        let function = function(&s3, env).await;
        Self { s3, function }
    }

    /// Puts the document of a draft.
    pub fn put_draft(&self, id: &str, document: impl AsRef<[u8]>) {
        self.s3.put(BUCKET, &draft_key(id), document);
    }

    /// The keys of all versions of a draft.
    pub fn versions(&self, id: &str) -> Vec<String> {
        self.s3.keys(BUCKET, &format!("saved/{id}/"))
    }

    /// How many GETs and PUTs there were since the last time, and no other requests.
    ///
    /// # Panics
    ///
    /// If there was another.
    #[track_caller]
    pub fn gets_and_puts(&self) -> (usize, usize) {
        let (gets, puts) = (self.s3.count(Op::GetObject), self.s3.count(Op::PutObject));
        assert_eq!(
            self.s3.requests().len(),
            gets + puts,
            "there was another request"
        );
        self.s3.clear_requests();
        (gets, puts)
    }
}

/// Starts a function that uses `s3`, with these variables beside what it needs.
pub async fn function(s3: &S3, env: &[(&str, &str)]) -> Bootstrap {
    let endpoint = s3.endpoint();
    let needed = [
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", &s3.options().access_key),
        ("AWS_SECRET_ACCESS_KEY", &s3.options().secret_key),
        ("DRAFT_BUCKET", BUCKET),
    ];
    Bootstrap::start(needed.iter().chain(env).copied()).await
}

/// Where the document of a draft is, by default.
pub fn draft_key(id: &str) -> String {
    format!("drafts/{id}/draft_content.json")
}

/// A file of the repository.
pub fn in_repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The document of the example draft.
pub fn sample_draft() -> Vec<u8> {
    fs::read(in_repository("examples/draft_content.json")).expect("the sample is there")
}

/// A document of exactly `bytes` bytes, like no other with another `seed`.
///
/// # Panics
///
/// If it is to be smaller than what every one has in it.
pub fn draft_of(bytes: usize, seed: u64) -> Vec<u8> {
    let begin = format!(r#"{{"id":"{seed:016x}","duration":5000000,"tracks":["#);
    let end = r#"],"fps":30.0}"#;
    let segment = format!(r#"{{"id":"{seed:016x}","type":"text","text":"你好"}},"#);
    let room = bytes.checked_sub(begin.len() + end.len() + 2);
    let mut room = room.expect("a document has its fields");
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

/// The SHA-256 of `bytes`, in hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(bytes) {
        write!(digits, "{byte:02x}").expect("it is a string");
    }
    digits
}

/// Whether the long variant of a test is wanted: `LONG=1`.
pub fn long() -> bool {
    env::var("LONG").is_ok_and(|value| value == "1")
}

/// The event in `events/{name}.json`.
pub fn event(name: &str) -> Value {
    let text = fs::read(in_repository(format!("events/{name}.json")));
    let text = text.unwrap_or_else(|error| panic!("events/{name}.json: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("events/{name}.json: {error}"))
}

/// The names of all files in `events/`, without what is for SAM alone.
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

/// An event of API Gateway (HTTP API) that posts `body`.
pub fn post(body: impl Into<String>) -> Value {
    let mut event = event("api-gateway-http");
    event["body"] = Value::String(body.into());
    event
}

/// An event of API Gateway (HTTP API) that posts a save of `draft_url`, whatever that is.
pub fn post_url(draft_url: impl Into<Value>) -> Value {
    post(json!({"draft_url": draft_url.into()}).to_string())
}

/// An event of API Gateway (HTTP API) that posts a save of the draft `id`.
pub fn post_id(id: &str) -> Value {
    post_url(format!("https://example.com/get_draft?draft_id={id}"))
}
