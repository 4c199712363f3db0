//! The requests that the server received.

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

/// An operation of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as in the Amazon S3 API Reference")]
pub enum Op {
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    ListBuckets,
    CreateBucket,
    HeadBucket,
    GetBucketVersioning,
    PutBucketVersioning,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListMultipartUploads,
    ListParts,
    /// Any other.
    Other,
}

/// A request.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The number of the request, which is its `x-amz-request-id`.
    pub number: u64,
    /// The operation.
    pub op: Op,
    /// The method.
    pub method: Method,
    /// The bucket, or an empty string.
    pub bucket: String,
    /// The decoded key, or an empty string.
    pub key: String,
    /// The query, as it was sent.
    pub query: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The status of the response; `None` until there is one.
    pub status: Option<u16>,
    /// `true` if a fault was applied.
    pub faulted: bool,
}

impl RecordedRequest {
    /// Reads the head of a path-style request.
    pub(super) fn new(number: u64, head: &Parts) -> Self {
        let path = head.uri.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let query = head.uri.query().unwrap_or_default();
        let has = |name: &str| {
            let mut names = query.split('&').map(|pair| pair.split('=').next());
            names.any(|found| found == Some(name))
        };
        let copy = head.headers.contains_key("x-amz-copy-source");
        let op = match (head.method.as_str(), bucket.is_empty(), key.is_empty()) {
            ("GET", true, _) => Op::ListBuckets,
            ("GET", _, true) if has("list-type") => Op::ListObjectsV2,
            ("GET", _, true) if has("versions") => Op::ListObjectVersions,
            ("GET", _, true) if has("versioning") => Op::GetBucketVersioning,
            ("PUT", _, true) if has("versioning") => Op::PutBucketVersioning,
            ("GET", _, true) if has("uploads") => Op::ListMultipartUploads,
            ("GET", _, true) if !has("location") => Op::ListObjects,
            ("HEAD", false, true) => Op::HeadBucket,
            ("PUT", false, true) if query.is_empty() => Op::CreateBucket,
            ("POST", false, true) if has("delete") => Op::DeleteObjects,
            ("GET", _, false) if has("uploadId") => Op::ListParts,
            ("GET", _, false) if !has("tagging") => Op::GetObject,
            ("HEAD", _, false) => Op::HeadObject,
            ("PUT", _, false) if has("uploadId") && copy => Op::UploadPartCopy,
            ("PUT", _, false) if has("uploadId") => Op::UploadPart,
            ("PUT", _, false) if copy => Op::CopyObject,
            ("PUT", _, false) => Op::PutObject,
            ("POST", _, false) if has("uploads") => Op::CreateMultipartUpload,
            ("POST", _, false) if has("uploadId") => Op::CompleteMultipartUpload,
            ("DELETE", _, false) if has("uploadId") => Op::AbortMultipartUpload,
            ("DELETE", _, false) => Op::DeleteObject,
            _ => Op::Other,
        };
        Self {
            number,
            op,
            method: head.method.clone(),
            bucket: decode(bucket),
            key: decode(key),
            query: query.to_owned(),
            headers: head.headers.clone(),
            status: None,
            faulted: false,
        }
    }

    /// The value of a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// All requests since the start, or since the log was cleared.
#[derive(Default)]
pub struct Log(watch::Sender<Vec<RecordedRequest>>);

impl Log {
    /// Adds a request.
    pub fn add(&self, request: RecordedRequest) {
        self.0.send_modify(|requests| requests.push(request));
    }

    /// Records the status of a response.
    pub fn set_status(&self, number: u64, status: u16) {
        self.0.send_modify(|requests| {
            let found = requests.iter_mut().rfind(|found| found.number == number);
            if let Some(found) = found {
                found.status = Some(status);
            }
        });
    }

    /// Returns all requests, in the order in which they arrived.
    pub fn list(&self) -> Vec<RecordedRequest> {
        self.0.borrow().clone()
    }

    /// Removes all requests.
    pub fn clear(&self) {
        self.0.send_modify(Vec::clear);
    }

    /// Waits until there is a request that `matches`; returns the first.
    pub async fn wait_for(&self, matches: impl Fn(&RecordedRequest) -> bool) -> RecordedRequest {
        let mut receiver = self.0.subscribe();
        let requests = receiver.wait_for(|requests| requests.iter().any(&matches));
        let requests = requests.await.expect("the sender is part of `self`");
        let found = requests.iter().find(|request| matches(request));
        found.expect("it was just found").clone()
    }
}
