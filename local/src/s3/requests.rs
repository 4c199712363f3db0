//! The requests that the server received.

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use percent_encoding::percent_decode_str;

/// An operation of S3 that tests count or make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as in the Amazon S3 API Reference")]
pub enum Op {
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    ListObjectsV2,
    ListObjectVersions,
    GetBucketVersioning,
    CreateMultipartUpload,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
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
            ("GET", false, true) if has("list-type") => Op::ListObjectsV2,
            ("GET", false, true) if has("versions") => Op::ListObjectVersions,
            ("GET", false, true) if has("versioning") => Op::GetBucketVersioning,
            ("POST", false, true) if has("delete") => Op::DeleteObjects,
            ("PUT", _, false) if has("uploadId") && copy => Op::UploadPartCopy,
            ("POST", _, false) if has("uploads") => Op::CreateMultipartUpload,
            ("POST", _, false) if has("uploadId") => Op::CompleteMultipartUpload,
            ("DELETE", _, false) if has("uploadId") => Op::AbortMultipartUpload,
            (_, _, false) if has("uploadId") || has("tagging") => Op::Other,
            ("GET", _, false) => Op::GetObject,
            ("HEAD", _, false) => Op::HeadObject,
            ("PUT", _, false) if copy => Op::CopyObject,
            ("PUT", _, false) => Op::PutObject,
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
