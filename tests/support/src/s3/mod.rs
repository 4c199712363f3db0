//! An S3 for tests and for the local endpoint: the real protocol, objects as plain files, faults on demand.
//!
//! ```no_run
//! # use test_support::s3::{Fault, Op, S3, S3Options, When};
//! # async fn example() -> std::io::Result<()> {
//! let s3 = S3::start(S3Options::new("data")).await?;
//! println!("{} with {}", s3.endpoint(), s3.options().access_key);
//! let lost = s3.fault(When::op(Op::PutObject).once(), Fault::LoseResponse);
//! // … a client puts an object, gets no answer, and tries again …
//! lost.wait_for_hits(1).await;
//! assert_eq!(s3.count(Op::PutObject), 2);
//! s3.stop().await;
//! # Ok(())
//! # }
//! ```

mod backend;
mod digest;
mod faults;
mod files;
mod headers;
mod record;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use self::faults::{Fault, ScriptedFault, When};
pub use self::files::{Files, ObjectMetadata, Precondition, Refused, Stat};
pub use self::record::{Op, RecordedRequest};

use self::backend::{Backend, User};
use self::faults::Script;
use self::record::Log;
use self::wire::{Broken, Reply, Socket};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How much memory a request gets for its body before it has sent any of it.
const MAX_RESERVED_BYTES: u64 = 64 << 20;

/// How to start an [`S3`].
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The folder that holds the buckets, as folders.
    pub data_dir: PathBuf,
    /// Where to listen, in IPv4; by default on a free port of 127.0.0.1.
    pub addr: SocketAddr,
    /// Buckets to make where they are missing; by default `drafts`.
    pub buckets: Vec<String>,
    /// The one user's access key; by default `local`.
    pub access_key: String,
    /// The user's secret key; by default `local-secret`.
    pub secret_key: String,
    /// Keys with this prefix can be created, and nothing else: any other write is 403. By default there is no such rule.
    pub create_only: Option<String>,
    /// Whether requests are recorded, which takes memory for each; by default they are.
    pub record: bool,
}

impl S3Options {
    /// The defaults, over a folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            buckets: vec!["drafts".to_owned()],
            access_key: "local".to_owned(),
            secret_key: "local-secret".to_owned(),
            create_only: None,
            record: true,
        }
    }
}

/// A running S3. It ends when it is dropped.
pub struct S3 {
    options: S3Options,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    /// Deleted with everything in it, at the end.
    folder: Option<TempDir>,
}

struct Shared {
    files: Arc<Files>,
    service: S3Service,
    log: Log,
    script: Script,
    wanted: watch::Sender<(u64, Wanted)>,
    /// The number of the wish that has come true.
    done: watch::Sender<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Listen,
    Refuse,
    Stop,
}

impl S3 {
    /// Starts an S3 over a folder.
    ///
    /// An address in use is an error of the kind [`io::ErrorKind::AddrInUse`].
    pub async fn start(mut options: S3Options) -> io::Result<Self> {
        // The port stays ours while nobody listens on it.
        let reserved = bind(options.addr)?;
        options.addr = reserved.local_addr()?;
        let listener = bind(options.addr)?.listen(BACKLOG)?;

        let (folder, buckets) = (options.data_dir.clone(), options.buckets.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let files = Files::open(folder)?;
            for bucket in &buckets {
                files.create_bucket(bucket)?;
            }
            io::Result::Ok(files)
        });
        let files = Arc::new(opened.await??);
        let backend = Backend {
            files: Arc::clone(&files),
            create_only: options.create_only.clone(),
        };
        let mut service = S3ServiceBuilder::new(backend);
        service.set_auth(User {
            access_key: options.access_key.clone(),
            secret_key: options.secret_key.clone(),
        });
        let shared = Arc::new(Shared {
            files,
            service: service.build(),
            log: Log::new(options.record),
            script: Script::default(),
            wanted: watch::Sender::new((0, Wanted::Listen)),
            done: watch::Sender::new(0),
        });
        let server = tokio::spawn(Arc::clone(&shared).run(reserved, options.addr, listener));
        Ok(Self {
            options,
            shared,
            server,
            folder: None,
        })
    }

    /// Starts an S3 over a new folder, which is deleted at the end.
    pub async fn start_empty() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut s3 = Self::start(S3Options::new(folder.path())).await?;
        s3.folder = Some(folder);
        Ok(s3)
    }

    /// The options it was started with, and in `addr` the port it got.
    pub fn options(&self) -> &S3Options {
        &self.options
    }

    /// The endpoint, `http://127.0.0.1:…`; it wants path-style access.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.options.addr)
    }

    /// The objects, without a request.
    pub fn files(&self) -> &Arc<Files> {
        &self.shared.files
    }

    /// Puts an object, without a request; returns its `ETag`, without quotes.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl AsRef<[u8]>) -> String {
        let bytes = bytes.as_ref();
        let written = self.files().write(
            bucket,
            key,
            bytes,
            ObjectMetadata::of_bytes(bytes),
            &Precondition::Always,
        );
        let stat = written
            .expect("the object is written")
            .expect("no rule refuses it");
        stat.meta.etag.clone()
    }

    /// The bytes of an object, without a request.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let object = self
            .files()
            .read(bucket, key)
            .expect("the object is readable");
        object.map(|(_, bytes)| bytes)
    }

    /// Deletes an object, without a request.
    pub fn delete(&self, bucket: &str, key: &str) {
        let deleted = self.files().delete(bucket, key, &Precondition::Always);
        deleted
            .expect("the object is deleted")
            .expect("there is no precondition");
    }

    /// The `ETag` and the headers of an object, without a request.
    pub fn metadata(&self, bucket: &str, key: &str) -> Option<ObjectMetadata> {
        let stat = self.files().stat(bucket, key);
        let stat = stat.expect("the object is readable");
        stat.map(|stat| ObjectMetadata::clone(&stat.meta))
    }

    /// Creates a bucket, without a request.
    pub fn create_bucket(&self, bucket: &str) {
        let created = self.files().create_bucket(bucket);
        created.expect("the bucket is created");
    }

    /// Stops the clock at `time`: objects written from now on have it as `Last-Modified`, or
    /// the earliest later time that keeps their order.
    pub fn set_clock(&self, time: SystemTime) {
        self.files().set_clock(time);
    }

    /// The keys that start like this, in order, without a request.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        self.files()
            .list(bucket, prefix, "")
            .expect("the bucket is readable")
    }

    /// Changes the `Last-Modified` of an object.
    ///
    /// # Panics
    ///
    /// When there is no such object.
    pub fn set_last_modified(&self, bucket: &str, key: &str, time: SystemTime) {
        let changed = self
            .files()
            .set_modified(bucket, key, time)
            .expect("the time is set");
        assert!(changed, "there is no {key} in {bucket}");
    }

    /// All requests so far, in the order in which they arrived.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.log.list()
    }

    /// How many requests for an operation there were so far.
    pub fn count(&self, op: Op) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.op == op)
            .count()
    }

    /// Forgets the requests so far.
    pub fn clear_requests(&self) {
        self.shared.log.clear();
    }

    /// Waits until there is such a request; returns the first.
    pub async fn wait_for(&self, is_it: impl Fn(&RecordedRequest) -> bool) -> RecordedRequest {
        self.shared.log.wait_for(is_it).await
    }

    /// Scripts a fault. Of all that fit a request, the one that was scripted first is played.
    pub fn fault(&self, when: When, fault: Fault) -> ScriptedFault {
        self.shared.script.add(when, fault)
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.shared.script.clear();
    }

    /// Closes all connections and refuses new ones, from when it returns until [`S3::reopen`].
    pub async fn refuse(&self) {
        self.shared.make(Wanted::Refuse).await;
    }

    /// Listens again, on the same port.
    pub async fn reopen(&self) {
        self.shared.make(Wanted::Listen).await;
    }

    /// Closes all connections and ends.
    pub async fn stop(self) {
        self.shared.make(Wanted::Stop).await;
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    /// Tells the server what to do; returns the number of this wish.
    fn want(&self, wanted: Wanted) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|now| {
            number = now.0 + 1;
            *now = (number, wanted);
        });
        number
    }

    /// Tells the server what to do; returns when it is done.
    async fn make(&self, wanted: Wanted) {
        let number = self.want(wanted);
        // The sender is `self`.
        let _ = self.done.subscribe().wait_for(|done| *done >= number).await;
    }

    async fn run(self: Arc<Self>, _reserved: TcpSocket, addr: SocketAddr, listener: TcpListener) {
        let mut wanted = self.wanted.subscribe();
        let mut listener = Some(listener);
        loop {
            let (number, now) = *wanted.borrow_and_update();
            if now == Wanted::Listen {
                let listen = || bind(addr)?.listen(BACKLOG);
                let listener = listener
                    .take()
                    .map_or_else(listen, Ok)
                    .expect("the port is still ours");
                self.done.send_replace(number);
                self.accept(listener, &mut wanted).await;
                continue;
            }
            self.done.send_replace(number);
            if now == Wanted::Stop || wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// Serves connections until something else is wanted; then closes them.
    async fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        wanted: &mut watch::Receiver<(u64, Wanted)>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn(Arc::clone(self).serve(stream));
                },
                Some(_) = connections.join_next() => {}
                _ = wanted.changed() => break,
            }
        }
        // First the port, so that a client that sees its connection close cannot make a new one.
        drop(listener);
        connections.shutdown().await;
    }

    async fn serve(self: Arc<Self>, stream: tokio::net::TcpStream) {
        let reset = Arc::new(AtomicBool::new(false));
        let Ok(socket) = Socket::new(stream, Arc::clone(&reset)) else {
            return;
        };
        let service = service_fn(|request| Arc::clone(&self).answer(request, Arc::clone(&reset)));
        // A connection that ends with an error is the client's doing, or a fault.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(socket), service)
            .await;
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        reset: Arc<AtomicBool>,
    ) -> Result<Response<Reply>, Broken> {
        let (head, body) = request.into_parts();
        let mut recorded = RecordedRequest::new(&head);
        let number = self.log.add(recorded.clone());
        let (body, complete) = read(body).await;
        recorded.body_bytes = body.len();
        let scripted = self.script.pick(&recorded);
        recorded.faulted = scripted.is_some();
        self.log.update(number, |logged| *logged = recorded.clone());

        let mut reply = if complete {
            let request = Request::from_parts(head, body);
            self.reply(request, &recorded, scripted, &reset).await?
        } else {
            error(&head.method, 400, "IncompleteBody")
        };
        let id = HeaderValue::try_from(format!("{number:016X}"));
        let id = id.expect("digits are a header's value");
        reply.headers_mut().insert("x-amz-request-id", id);
        let status = reply.status().as_u16();
        self.log
            .update(number, |logged| logged.status = Some(status));
        Ok(reply)
    }

    /// Has a request done, and plays a fault before and after.
    async fn reply(
        &self,
        mut request: Request<Vec<u8>>,
        recorded: &RecordedRequest,
        scripted: Option<ScriptedFault>,
        reset: &AtomicBool,
    ) -> Result<Response<Reply>, Broken> {
        let played = scripted
            .as_ref()
            .map(|scripted| (scripted.fault(), scripted));
        match played {
            Some((Fault::Error(status, code), _)) => {
                return Ok(error(request.method(), *status, code));
            }
            Some((Fault::Cut, _)) => return Err(Broken),
            Some((Fault::Reset, _)) => {
                reset.store(true, Ordering::Relaxed);
                return Err(Broken);
            }
            Some((Fault::Refuse, _)) => {
                self.want(Wanted::Refuse);
                // Until this connection is closed with all the others.
                std::future::pending::<()>().await;
            }
            Some((Fault::Stall, scripted)) => scripted.clone().cleared().await,
            Some((Fault::Run(run), _)) => run(recorded),
            Some((Fault::CorruptRequest, _)) => corrupt(request.body_mut()),
            _ => {}
        }
        let answer = self.service.call(request.map(s3s::Body::from)).await;
        let (mut head, mut body) = answer.map_err(|_| Broken)?.into_parts();
        let bytes = body
            .store_all_limited(usize::MAX)
            .await
            .map_err(|_| Broken)?;
        let body = match played {
            Some((Fault::LoseResponse, _)) => return Err(Broken),
            Some((Fault::StallResponse, scripted)) => {
                scripted.clone().cleared().await;
                Reply::whole(bytes)
            }
            Some((Fault::CutBody(after), _)) => {
                reset.store(true, Ordering::Relaxed);
                Reply::broken(&bytes, *after)
            }
            Some((Fault::ShortBody(after), _)) => Reply::broken(&bytes, *after),
            Some((Fault::StallBody(after), scripted)) => {
                Reply::stalled(&bytes, *after, scripted.clone().cleared())
            }
            Some((Fault::CorruptBody, _)) => {
                let mut bytes = bytes.to_vec();
                corrupt(&mut bytes);
                Reply::whole(bytes.into())
            }
            Some((Fault::WrongChecksum, _)) => {
                for algorithm in digest::ALGORITHMS {
                    if let Some(value) = head.headers.get_mut(format!("x-amz-checksum-{algorithm}"))
                    {
                        let wrong = HeaderValue::try_from(digest::checksum(algorithm, b"another"));
                        *value = wrong.expect("Base64 is a header's value");
                    }
                }
                Reply::whole(bytes)
            }
            _ => Reply::whole(bytes),
        };
        Ok(Response::from_parts(head, body))
    }
}

/// Takes a port, without listening on it.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// What there is of a body, and whether it is complete.
async fn read(mut body: Incoming) -> (Vec<u8>, bool) {
    let length = body.size_hint().lower().min(MAX_RESERVED_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Err(_) => return (bytes, false),
        }
    }
    (bytes, true)
}

/// Changes one bit in the middle.
fn corrupt(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
}

/// An error in the form of S3 ("REST error responses").
fn error(method: &Method, status: u16, code: &str) -> Response<Reply> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    let text = if method == Method::HEAD {
        String::new()
    } else {
        text
    };
    let mut response = Response::new(Reply::whole(text.into()));
    *response.status_mut() = status.try_into().expect("a fault has a status of HTTP");
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
