//! What the server was asked, in order.

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

/// An operation of S3, as far as this server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "each has the name that it has in the API reference"
)]
pub enum Op {
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    ListObjectsV2,
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    /// None of these.
    Other,
}

/// One request.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// What it asks for.
    pub op: Op,
    /// Its method.
    pub method: Method,
    /// The bucket in its path, or nothing.
    pub bucket: String,
    /// The key in its path, decoded, or nothing.
    pub key: String,
    /// Its query, as it was sent.
    pub query: String,
    /// All its headers.
    pub headers: HeaderMap,
    /// How much of its body has arrived, in bytes.
    pub body_bytes: usize,
    /// The status of its answer; `None` before there is one, and where there never is.
    pub status: Option<u16>,
    /// Whether a fault was played on it.
    pub faulted: bool,
}

impl RecordedRequest {
    /// Reads the head of a request with the bucket in its path.
    pub fn new(head: &Parts) -> Self {
        let path = head.uri.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let query = head.uri.query().unwrap_or_default();
        let has = |name: &str| {
            query
                .split('&')
                .any(|pair| pair.split('=').next() == Some(name))
        };
        let op = match (head.method.as_str(), bucket.is_empty(), key.is_empty()) {
            ("GET", true, _) => Op::ListBuckets,
            ("GET", _, true) if has("list-type") => Op::ListObjectsV2,
            ("GET", _, true) if has("location") => Op::GetBucketLocation,
            ("HEAD", false, true) => Op::HeadBucket,
            ("PUT", false, true) if query.is_empty() => Op::CreateBucket,
            ("DELETE", false, true) if query.is_empty() => Op::DeleteBucket,
            ("POST", false, true) if has("delete") => Op::DeleteObjects,
            ("GET", _, false) => Op::GetObject,
            ("HEAD", _, false) => Op::HeadObject,
            ("PUT", _, false) if has("uploadId") => Op::Other,
            ("PUT", _, false) if head.headers.contains_key("x-amz-copy-source") => Op::CopyObject,
            ("PUT", _, false) => Op::PutObject,
            ("DELETE", _, false) if !has("uploadId") => Op::DeleteObject,
            _ => Op::Other,
        };
        Self {
            op,
            method: head.method.clone(),
            bucket: decode(bucket),
            key: decode(key),
            query: query.to_owned(),
            headers: head.headers.clone(),
            body_bytes: 0,
            status: None,
            faulted: false,
        }
    }

    /// The value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// All requests since the start, or since the log was cleared.
pub struct Log {
    enabled: bool,
    requests: watch::Sender<Requests>,
}

#[derive(Default)]
struct Requests {
    /// The number of the first in the list.
    first: usize,
    list: Vec<RecordedRequest>,
}

impl Log {
    /// An empty log, which stays empty unless `enabled`.
    pub fn new(enabled: bool) -> Self {
        Self {
            enabled,
            requests: watch::Sender::default(),
        }
    }

    /// Adds a request; returns its number.
    pub fn add(&self, request: RecordedRequest) -> usize {
        let mut number = 0;
        self.requests.send_modify(|requests| {
            if self.enabled {
                requests.list.push(request);
            } else {
                requests.first += 1;
            }
            number = requests.first + requests.list.len();
        });
        number
    }

    /// Changes what is known of a request.
    pub fn update(&self, number: usize, change: impl FnOnce(&mut RecordedRequest)) {
        self.requests.send_if_modified(|requests| {
            let request = number
                .checked_sub(requests.first + 1)
                .and_then(|index| requests.list.get_mut(index));
            request.map(change).is_some()
        });
    }

    /// All requests, in the order in which their heads arrived.
    pub fn list(&self) -> Vec<RecordedRequest> {
        self.requests.borrow().list.clone()
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.requests.send_modify(|requests| {
            requests.first += requests.list.len();
            requests.list.clear();
        });
    }

    /// Waits until there is such a request, now or later; returns the first.
    pub async fn wait_for(&self, is_it: impl Fn(&RecordedRequest) -> bool) -> RecordedRequest {
        let mut receiver = self.requests.subscribe();
        let requests = receiver
            .wait_for(|requests| requests.list.iter().any(&is_it))
            .await;
        let requests = requests.expect("the log is still there");
        requests
            .list
            .iter()
            .find(|request| is_it(request))
            .expect("there is one")
            .clone()
    }
}
