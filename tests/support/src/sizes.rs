//! A store that keeps the sizes of files in place of their bytes, and simulates the time that S3 takes to copy them.
//! For drafts that are too large for [`crate::s3`].

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::runtime::Builder;

use crate::fixtures::BUCKET;

/// `Last-Modified` of all objects.
const MODIFIED: (&str, &str) = ("Sun, 28 Sep 2025 11:47:30 GMT", "2025-09-28T11:47:30.000Z");

/// The time that the store takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    /// For each request.
    pub latency: Duration,
    /// Bytes that one request copies in a second; 0 for all of them at once.
    pub copy_bytes_per_second: u64,
}

/// A request: its method, key and query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeRequest {
    /// The operation, named as in the Amazon S3 API Reference.
    pub operation: &'static str,
    /// The decoded key, or an empty string.
    pub key: String,
    /// The value of `x-amz-copy-source-range`, or an empty string.
    pub range: String,
}

/// A store. It runs on a thread of its own until the process ends.
pub struct SizeStore {
    url: String,
    server: Arc<Server>,
}

struct Server {
    speed: Speed,
    objects: Mutex<BTreeMap<String, Object>>,
    /// Size of the parts of each upload.
    uploads: Mutex<HashMap<String, u64>>,
    requests: Mutex<Vec<SizeRequest>>,
    copying: AtomicUsize,
    max_copying: AtomicUsize,
}

#[derive(Clone)]
struct Object {
    size: u64,
    etag: String,
    /// The bytes of documents and manifests.
    body: Bytes,
}

type Reply = Response<Full<Bytes>>;

impl SizeStore {
    /// Starts a store without objects.
    pub fn start(speed: Speed) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound socket");
        let server = Arc::new(Server {
            speed,
            objects: Mutex::default(),
            uploads: Mutex::default(),
            requests: Mutex::default(),
            copying: AtomicUsize::new(0),
            max_copying: AtomicUsize::new(0),
        });
        let running = Arc::clone(&server);
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(running.run(listener));
        });
        let url = format!("http://{address}");
        Self { url, server }
    }

    /// The endpoint. It needs path-style requests.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Puts an object with these bytes.
    pub fn put(&self, key: &str, body: impl Into<Bytes>) {
        let body = body.into();
        self.server.insert(key, body.len() as u64, body);
    }

    /// Puts a file of `size` bytes; returns its `ETag`, without quotes.
    pub fn put_file(&self, key: &str, size: u64) -> String {
        self.server.insert(key, size, Bytes::new())
    }

    /// Puts the files of the draft `id`: paths and sizes. With `copies`, each has a copy.
    pub fn put_files(
        &self,
        id: &str,
        files: impl IntoIterator<Item = (String, u64)>,
        copies: bool,
    ) {
        for (path, size) in files {
            let etag = self.put_file(&format!("drafts/{id}/{path}"), size);
            if copies {
                self.put_file(&format!("saved-files/{id}/{etag}/{path}"), size);
            }
        }
    }

    /// The size of an object.
    pub fn size(&self, key: &str) -> Option<u64> {
        let objects = lock(&self.server.objects);
        objects.get(key).map(|object| object.size)
    }

    /// The keys with this prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let objects = lock(&self.server.objects);
        let keys = objects.keys().filter(|key| key.starts_with(prefix));
        keys.cloned().collect()
    }

    /// Returns and removes the requests so far.
    pub fn take_requests(&self) -> Vec<SizeRequest> {
        std::mem::take(&mut *lock(&self.server.requests))
    }

    /// The maximum number of copies and parts that were copied at a time.
    pub fn max_copying(&self) -> usize {
        self.server.max_copying.load(SeqCst)
    }

    /// The number of uploads that were neither completed nor aborted.
    pub fn uploads(&self) -> usize {
        lock(&self.server.uploads).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn etag_of(key: &str) -> String {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let first = hasher.finish();
    1.hash(&mut hasher);
    format!("{first:016x}{:016x}", hasher.finish())
}

/// Decodes a part of a URL.
fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    let reply = Response::builder().status(status);
    let reply = reply.header("x-amz-request-id", "sizes");
    reply.body(Full::new(body.into())).expect("a valid status")
}

fn error(status: u16, code: &str) -> Reply {
    reply(status, format!("<Error><Code>{code}</Code></Error>"))
}

impl Server {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a TCP connection");
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                let service = service_fn(|request| server.serve(request));
                let http = hyper::server::conn::http1::Builder::new();
                // The connection breaks when its client is killed.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Reply, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(Collected::to_bytes);
        let body = body.unwrap_or_default();
        let path = head.uri.path().trim_start_matches('/');
        let key = decode(path.split_once('/').map_or("", |(_, key)| key));
        let query = head.uri.query().unwrap_or_default();
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.find(|(found, _)| *found == name);
            found.map(|(_, value)| decode(value))
        };
        let header = |name: &str| text(&head.headers, name);
        let upload = parameter("uploadId").unwrap_or_default();
        let is_copy = head.headers.contains_key("x-amz-copy-source");
        let operation = match (head.method.as_str(), is_copy, upload.is_empty()) {
            ("GET", ..) if key.is_empty() => "ListObjectsV2",
            ("GET", ..) => "GetObject",
            ("HEAD", ..) => "HeadObject",
            ("PUT", true, true) => "CopyObject",
            ("PUT", true, false) => "UploadPartCopy",
            ("PUT", ..) => "PutObject",
            ("POST", _, true) => "CreateMultipartUpload",
            ("POST", ..) => "CompleteMultipartUpload",
            _ => "AbortMultipartUpload",
        };
        lock(&self.requests).push(SizeRequest {
            operation,
            key: key.clone(),
            range: header("x-amz-copy-source-range").to_owned(),
        });
        let source = self.source(&head.headers);
        let bytes = match &source {
            Some(source) => range(header("x-amz-copy-source-range"), source.size),
            None => 0,
        };
        let copying = self.copying.fetch_add(usize::from(is_copy), SeqCst);
        self.max_copying
            .fetch_max(copying + usize::from(is_copy), SeqCst);
        self.wait(bytes).await;
        self.copying.fetch_sub(usize::from(is_copy), SeqCst);
        Ok(match operation {
            "ListObjectsV2" => self.list(
                &parameter("prefix").unwrap_or_default(),
                &parameter("continuation-token")
                    .or(parameter("start-after"))
                    .unwrap_or_default(),
            ),
            "GetObject" | "HeadObject" => self.read(&key, operation == "HeadObject"),
            "AbortMultipartUpload" => {
                lock(&self.uploads).remove(&upload);
                reply(204, "")
            }
            "CreateMultipartUpload" => {
                let mut uploads = lock(&self.uploads);
                let id = format!("upload-{}-{}", uploads.len(), etag_of(&key));
                let xml = format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                uploads.insert(id, 0);
                reply(200, xml)
            }
            _ if is_copy && source.is_none() => error(412, "PreconditionFailed"),
            "UploadPartCopy" => {
                *lock(&self.uploads).entry(upload).or_default() += bytes;
                reply(
                    200,
                    "<CopyPartResult><ETag>\"part\"</ETag></CopyPartResult>",
                )
            }
            "CompleteMultipartUpload" => {
                let size = lock(&self.uploads).get(&upload).copied();
                let size = size.unwrap_or_default();
                let created =
                    self.create(&key, size, Bytes::new(), "CompleteMultipartUploadResult");
                if created.status() == 200 {
                    lock(&self.uploads).remove(&upload);
                }
                created
            }
            "CopyObject" => self.create(&key, bytes, Bytes::new(), "CopyObjectResult"),
            _ => self.create(&key, body.len() as u64, body, "Result"),
        })
    }

    async fn wait(&self, bytes: u64) {
        let Speed {
            latency,
            copy_bytes_per_second,
        } = self.speed;
        let micros = (bytes * 1_000_000).checked_div(copy_bytes_per_second);
        let time = latency + Duration::from_micros(micros.unwrap_or_default());
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }

    /// Returns the source of a copy, if it fulfils the condition.
    fn source(&self, headers: &HeaderMap) -> Option<Object> {
        let source = decode(text(headers, "x-amz-copy-source"));
        let key = source.strip_prefix(BUCKET)?.strip_prefix('/')?;
        let source = lock(&self.objects).get(key).cloned()?;
        let condition = text(headers, "x-amz-copy-source-if-match");
        (condition.trim_matches('"') == source.etag).then_some(source)
    }

    /// Puts an object; returns its `ETag`, without quotes.
    fn insert(&self, key: &str, size: u64, body: Bytes) -> String {
        let etag = etag_of(key);
        let object = Object {
            size,
            etag: etag.clone(),
            body,
        };
        lock(&self.objects).insert(key.to_owned(), object);
        etag
    }

    fn create(&self, key: &str, size: u64, body: Bytes, result: &str) -> Reply {
        if lock(&self.objects).contains_key(key) {
            return error(412, "PreconditionFailed");
        }
        let etag = format!("\"{}\"", self.insert(key, size, body));
        let mut reply = reply(200, format!("<{result}><ETag>\"copy\"</ETag></{result}>"));
        let headers = reply.headers_mut();
        headers.insert("etag", etag.parse().expect("a valid header"));
        reply
    }

    fn read(&self, key: &str, is_head: bool) -> Reply {
        let Some(object) = lock(&self.objects).get(key).cloned() else {
            return error(404, "NoSuchKey");
        };
        let mut reply = Response::builder()
            .header("etag", format!("\"{}\"", object.etag))
            .header("last-modified", MODIFIED.0);
        if is_head {
            reply = reply.header("content-length", object.size);
        }
        reply.body(Full::new(object.body)).expect("valid headers")
    }

    fn list(&self, prefix: &str, after: &str) -> Reply {
        let objects = lock(&self.objects);
        let start = if after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after)
        };
        let mut entries = objects.range::<str, _>((start, Bound::Unbounded));
        let mut xml = String::new();
        let mut last = String::new();
        let mut count = 0;
        let is_truncated = loop {
            let next = entries.next().filter(|(key, _)| key.starts_with(prefix));
            let Some((key, object)) = next else {
                break false;
            };
            if count == 1000 {
                break true;
            }
            count += 1;
            key.clone_into(&mut last);
            let (key, time) = (utf8_percent_encode(key, NON_ALPHANUMERIC), MODIFIED.1);
            let (size, etag) = (object.size, &object.etag);
            let entry = write!(
                xml,
                "<Contents><Key>{key}</Key><LastModified>{time}</LastModified>\
                 <ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>"
            );
            entry.expect("a string takes all");
        };
        let token = if is_truncated {
            format!("<NextContinuationToken>{last}</NextContinuationToken>")
        } else {
            String::new()
        };
        reply(
            200,
            format!(
                "<ListBucketResult>{token}<KeyCount>{count}</KeyCount><IsTruncated>{is_truncated}</IsTruncated>\
                 <EncodingType>url</EncodingType>{xml}</ListBucketResult>"
            ),
        )
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Returns the size of the range `bytes={first}-{last}`, or `size` without a range.
fn range(header: &str, size: u64) -> u64 {
    let range = header.strip_prefix("bytes=").and_then(|range| {
        let (first, last) = range.split_once('-')?;
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
    });
    range.map_or(size, |(first, last)| last + 1 - first)
}
