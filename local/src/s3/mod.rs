//! An S3 server for tests and for the local endpoint: the real protocol, objects as plain files, faults on demand.
//!
//! ```no_run
//! # use local::s3::{Fault, Op, S3, S3Options, When};
//! # async fn example() -> std::io::Result<()> {
//! let s3 = S3::start(S3Options::new("data")).await?;
//! println!("{} with {}", s3.endpoint(), s3.options().access_key);
//! let lost = s3.fault(When::op(Op::PutObject).once(), Fault::LoseResponse);
//! // … a client puts an object, gets no response, and tries again …
//! lost.wait_for_hits(1).await;
//! assert_eq!(s3.count(Op::PutObject), 2);
//! s3.stop().await;
//! # Ok(())
//! # }
//! ```

mod checksum;
mod faults;
mod objects;
mod requests;
mod response;
mod service;

use std::future::{pending, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use save_draft::s3::client::config_from_env;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use self::faults::{Fault, RawResponse, ScriptedFault, When};
pub use self::objects::ObjectInfo;
pub use self::requests::{Op, RecordedRequest};

use self::faults::Script;
use self::objects::{Headers, Objects, Precondition};
use self::response::{ResponseBody, broken, connection_closed, stalled, whole};
use self::service::Service;
use crate::web::check_local;

/// Number of connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Maximum size of a request's body in bytes. Larger objects take a multipart upload.
const MAX_BODY_BYTES: usize = 1 << 30;

/// The bucket that is created if it does not exist, also later.
pub const BUCKET: &str = "drafts";
/// The only region.
pub const REGION: &str = "us-east-1";
/// Allows what a browser needs to show an image or to play a video.
const POLICY: &str =
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'";

/// Options of an [`S3`].
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The folder that contains a folder for each bucket.
    pub data_dir: PathBuf,
    /// The IPv4 address to listen on; by default a free port of 127.0.0.1.
    pub addr: SocketAddr,
    /// The access key; by default `local`.
    pub access_key: String,
    /// The secret key; by default `local-secret`.
    pub secret_key: String,
    /// Objects with this prefix can be created with `If-None-Match: *`; any other write gets 403. By default none.
    pub create_only: Option<String>,
    /// The bucket keeps versions; by default it does not, unless it did before.
    pub versioned: bool,
    /// Records the requests, which takes memory for each; by default `true`.
    pub record: bool,
    /// Names in `Host` that are allowed besides 127.0.0.1 and localhost.
    pub allowed_hosts: Vec<String>,
}

impl S3Options {
    /// The defaults, with a folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            access_key: "local".to_owned(),
            secret_key: "local-secret".to_owned(),
            create_only: None,
            versioned: false,
            record: true,
            allowed_hosts: Vec::new(),
        }
    }
}

/// A running S3 server. It stops when it is dropped.
pub struct S3 {
    options: S3Options,
    server: Arc<Server>,
    /// Deleted when this is dropped.
    _folder: Option<TempDir>,
}

impl S3 {
    /// Starts a server.
    ///
    /// The error for a port in use has the kind [`io::ErrorKind::AddrInUse`].
    pub async fn start(options: S3Options) -> io::Result<Self> {
        Self::start_in(options, None).await
    }

    async fn start_in(mut options: S3Options, folder: Option<TempDir>) -> io::Result<Self> {
        let reserved = bind(options.addr)?;
        options.addr = reserved.local_addr()?;
        let listener = bind(options.addr)?.listen(BACKLOG)?;
        let (root, versioned) = (options.data_dir.clone(), options.versioned);
        let objects = tokio::task::spawn_blocking(move || Objects::open(root, versioned)).await?;
        let objects = objects.map_err(|error| io::Error::other(format!("{error:?}")))?;
        let objects = Arc::new(objects);
        let service = Service::new(Arc::clone(&objects), options.create_only.clone());
        let mut service = S3ServiceBuilder::new(service);
        let (access_key, secret_key) = (options.access_key.clone(), options.secret_key.clone());
        service.set_auth(SimpleAuth::from_single(access_key, secret_key));
        let server = Arc::new(Server {
            objects,
            service: service.build(),
            options: options.clone(),
            count: AtomicU64::default(),
            requests: watch::Sender::default(),
            script: Script::default(),
            _reserved: reserved,
            listening: Mutex::default(),
        });
        server.listen(listener);
        Ok(Self {
            options,
            server,
            _folder: folder,
        })
    }

    /// Starts a server with a new folder, which is deleted at the end.
    pub async fn start_empty() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = S3Options::new(folder.path());
        Self::start_in(options, Some(folder)).await
    }

    /// The options, and in `addr` the port.
    pub fn options(&self) -> &S3Options {
        &self.options
    }

    /// The endpoint, `http://127.0.0.1:…`. It needs path-style requests.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.options.addr)
    }

    /// The SDK configuration of the function, for this server.
    pub fn sdk_config(&self) -> SdkConfig {
        let options = &self.options;
        sdk_config(&self.endpoint(), &options.access_key, &options.secret_key)
    }

    /// Puts an object, without a request; returns its `ETag`, without quotes.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl AsRef<[u8]>) -> String {
        let (content, always) = (&mut bytes.as_ref(), &Precondition::Always);
        let objects = &self.server.objects;
        let written = objects.write((bucket, key), content, None, Headers::new(), always);
        written.expect("the object is written").etag
    }

    /// Returns the bytes of an object, without a request.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let found = self.server.objects.find(bucket, key);
        let (info, file) = found.expect("the object is readable")?;
        let bytes = objects::read(&info, &file, 0..info.size);
        Some(bytes.expect("the object is readable"))
    }

    /// Lets a bucket keep versions from now on, without a request.
    pub fn enable_versioning(&self, bucket: &str) {
        let enabled = self.server.objects.enable_versioning(bucket);
        enabled.expect("the bucket keeps versions");
    }

    /// Deletes an object, without a request. In a bucket with versions this adds a delete marker.
    pub fn delete(&self, bucket: &str, key: &str) {
        let objects = &self.server.objects;
        let deleted = objects.delete(bucket, key, &Precondition::Always);
        deleted.expect("the object is deleted");
    }

    /// Returns an object without its bytes, without a request.
    pub fn metadata(&self, bucket: &str, key: &str) -> Option<ObjectInfo> {
        let found = self.server.objects.find(bucket, key);
        let (info, _) = found.expect("the object is readable")?;
        Some(info)
    }

    /// Creates a bucket, without a request.
    pub fn create_bucket(&self, bucket: &str) {
        let created = self.server.objects.create_bucket(bucket);
        created.expect("the bucket is created");
    }

    /// Returns the keys with this prefix in their order, without a request.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let keys = self.server.objects.list(bucket, prefix, "", usize::MAX);
        keys.expect("the bucket is readable")
    }

    /// Changes the `Last-Modified` of an object.
    pub fn set_last_modified(&self, bucket: &str, key: &str, time: SystemTime) {
        let changed = self.server.objects.set_modified(bucket, key, time);
        assert!(changed.expect("the time is set"), "there is no {key}");
    }

    /// Stops the clock at `time`: objects that are written from now on have it as `Last-Modified`, or the earliest
    /// later time that keeps their order.
    pub fn set_clock(&self, time: SystemTime) {
        self.server.objects.set_clock(time);
    }

    /// Returns all requests so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.server.requests.borrow().clone()
    }

    /// Returns the number of requests for an operation so far.
    pub fn count(&self, op: Op) -> usize {
        let requests = self.requests().into_iter();
        requests.filter(|request| request.op == op).count()
    }

    /// Removes the requests so far.
    pub fn clear_requests(&self) {
        self.server.requests.send_modify(Vec::clear);
    }

    /// Waits until there is a request that `matches`; returns the first.
    pub async fn wait_for(&self, matches: impl Fn(&RecordedRequest) -> bool) -> RecordedRequest {
        let mut receiver = self.server.requests.subscribe();
        let requests = receiver.wait_for(|requests| requests.iter().any(&matches));
        let requests = requests.await.expect("the sender is part of `self`");
        let found = requests.iter().find(|request| matches(request));
        found.expect("it was just found").clone()
    }

    /// Adds a fault. If several apply to a request, the first that was added is used.
    pub fn fault(&self, when: When, fault: Fault) -> ScriptedFault {
        self.server.script.add(when, fault)
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.server.script.clear();
    }

    /// Listens again, on the same port.
    pub async fn reopen(&self) {
        self.server.close().await;
        let listener = bind(self.options.addr).and_then(|socket| socket.listen(BACKLOG));
        self.server.listen(listener.expect("the port is reserved"));
    }

    /// Closes all connections and stops.
    pub async fn stop(self) {
        self.server.close().await;
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.stop_listening();
    }
}

/// The SDK configuration of the function, for an S3 server with these keys.
pub fn sdk_config(endpoint: &str, access_key: &str, secret_key: &str) -> SdkConfig {
    let credentials = Credentials::new(access_key, secret_key, None, None, "local");
    config_from_env()
        .expect("valid variables of the SDK")
        .into_builder()
        .endpoint_url(endpoint)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .region(Region::from_static(REGION))
        .build()
}

struct Server {
    objects: Arc<Objects>,
    service: S3Service,
    options: S3Options,
    /// The number of requests so far.
    count: AtomicU64,
    /// All requests since the start, or since they were cleared.
    requests: watch::Sender<Vec<RecordedRequest>>,
    script: Script,
    /// Keeps the port while nothing listens on it.
    _reserved: TcpSocket,
    /// Accepts connections.
    listening: Mutex<Option<JoinHandle<()>>>,
}

/// The end of a connection after an error.
#[derive(Default)]
enum End {
    #[default]
    Close,
    Reset,
    Send(RawResponse),
}

/// The end that a request chooses for its connection.
type SharedEnd = Arc<Mutex<End>>;

impl Server {
    fn listen(self: &Arc<Self>, listener: TcpListener) {
        let accept = tokio::spawn(Arc::clone(self).accept(listener));
        *self.listening.lock() = Some(accept);
    }

    /// Closes the port and all connections.
    fn stop_listening(&self) -> Option<JoinHandle<()>> {
        let accept = self.listening.lock().take();
        accept.inspect(JoinHandle::abort)
    }

    /// Closes the port and all connections; returns when the port is closed.
    async fn close(&self) {
        if let Some(accept) = self.stop_listening() {
            // The error is that it was stopped.
            let _ = accept.await;
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        // Dropped before the connections, so that a client that sees its connection close cannot open a new one.
        let listener = listener;
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn(Arc::clone(&self).serve(stream));
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        // Otherwise a response in two pieces waits for the client's delayed acknowledgement, 40 ms on Linux.
        let _ = stream.set_nodelay(true);
        let end = SharedEnd::default();
        let service = service_fn(|request| Box::pin(self.respond(request, &end)));
        let http = hyper::server::conn::http1::Builder::new();
        let mut connection = http.serve_connection(TokioIo::new(stream), service);
        // It fails if the client disconnects, or by a fault.
        let _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let mut stream = connection.into_parts().io.into_inner();
        let end = std::mem::take(&mut *end.lock());
        match end {
            End::Close => drop(stream.shutdown().await),
            End::Reset => drop(stream.set_zero_linger()),
            End::Send(response) => {
                let (bytes, repeated) = response.into_bytes();
                let mut sent = stream.write_all(&bytes).await;
                while sent.is_ok() && !repeated.is_empty() {
                    sent = stream.write_all(&repeated).await;
                }
                let _ = stream.shutdown().await;
            }
        }
    }

    async fn respond(
        self: &Arc<Self>,
        request: Request<Incoming>,
        end: &SharedEnd,
    ) -> io::Result<Response<ResponseBody>> {
        let (head, body) = request.into_parts();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let recorded = RecordedRequest::new(number, &head);
        let fault = self.script.choose(&recorded);
        if self.options.record {
            let recorded = recorded.clone();
            self.requests
                .send_modify(|requests| requests.push(recorded));
        }
        let form = head.headers.get(CONTENT_TYPE);
        let is_form = form.is_some_and(|value| value.as_bytes().starts_with(b"multipart/form"));
        let mut response = if check_local(&head.headers, &self.options.allowed_hosts, None).is_err()
        {
            error(&head.method, 403, "AccessDenied")
        } else if is_form {
            // Uploads by HTML forms.
            error(&head.method, 501, "NotImplemented")
        } else {
            let body = Limited::new(body, MAX_BODY_BYTES);
            let request = Request::from_parts(head, body);
            self.apply(request, &recorded, fault, end).await?
        };
        let headers = response.headers_mut();
        headers.insert("x-amz-request-id", HeaderValue::from(number));
        // A browser must not run what a draft contains.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        Ok(response)
    }

    /// Serves a request, with a fault.
    async fn apply(
        self: &Arc<Self>,
        request: Request<Limited<Incoming>>,
        recorded: &RecordedRequest,
        fault: Option<ScriptedFault>,
        end: &SharedEnd,
    ) -> io::Result<Response<ResponseBody>> {
        let Some(scripted) = fault else {
            // The signature is checked before the body is read.
            let (head, body) = self.call(request.map(s3s::Body::http_body)).await?;
            return Ok(Response::from_parts(head, whole(body)));
        };
        if let Fault::Refuse = scripted.fault() {
            self.stop_listening();
            // This connection is closed with all others.
            pending::<()>().await;
        }
        let set_end = |to| *end.lock() = to;
        let cleared = || scripted.clone().cleared();
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?;
        let mut body = body.to_bytes().to_vec();
        match scripted.fault() {
            Fault::Error(status, code) => return Ok(error(&head.method, *status, code)),
            Fault::Respond(response) => {
                set_end(End::Send(response.clone()));
                return Err(connection_closed());
            }
            Fault::Cut => return Err(connection_closed()),
            Fault::Reset => {
                set_end(End::Reset);
                return Err(connection_closed());
            }
            Fault::Stall => cleared().await,
            Fault::Run(run) => run(recorded),
            Fault::CorruptRequest => corrupt(&mut body),
            _ => {}
        }
        let request = Request::from_parts(head, s3s::Body::from(body));
        let (mut head, bytes) = self.call(request).await?;
        let body = match scripted.fault() {
            Fault::LoseResponse => return Err(connection_closed()),
            Fault::StallResponse => {
                cleared().await;
                whole(bytes)
            }
            Fault::CutBody(after) => {
                set_end(End::Reset);
                broken(&bytes, *after)
            }
            Fault::ShortBody(after) => broken(&bytes, *after),
            Fault::StallBody(after) => stalled(&bytes, *after, cleared()),
            Fault::CorruptBody => {
                let mut bytes = bytes.to_vec();
                corrupt(&mut bytes);
                whole(bytes.into())
            }
            Fault::WrongChecksum => {
                for (name, value) in &mut head.headers {
                    if checksum::NAMES.contains(&name.as_str()) {
                        let wrong = checksum::of(name.as_str(), b"another body");
                        *value = HeaderValue::try_from(wrong).expect("Base64 is valid");
                    }
                }
                whole(bytes)
            }
            _ => whole(bytes),
        };
        Ok(Response::from_parts(head, body))
    }

    async fn call(
        &self,
        request: Request<s3s::Body>,
    ) -> io::Result<(hyper::http::response::Parts, Bytes)> {
        let response = self.service.call(request).await.map_err(io::Error::other)?;
        let (head, mut body) = response.into_parts();
        let bytes = body.store_all_limited(usize::MAX).await;
        Ok((head, bytes.map_err(io::Error::other)?))
    }
}

/// Binds a socket, without listening on it.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Changes one bit in the middle.
fn corrupt(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
}

fn error(method: &Method, status: u16, code: &str) -> Response<ResponseBody> {
    let body = if *method == Method::HEAD {
        String::new()
    } else {
        faults::error_xml(code)
    };
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/xml")
        .body(whole(body.into()))
        .expect("the status is valid")
}
