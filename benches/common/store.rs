//! A store that moves bytes and does nothing else, so that it does not hide the work of the function.
//!
//! The S3 server of `test-support` verifies signatures and checksums and writes files, which takes
//! longer than a save.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::sleep_until;
use tokio_rustls::TlsAcceptor;

use super::single_threaded_runtime;

/// Bytes that the store sends at once if it has a bandwidth.
const CHUNK_BYTES: usize = 256 << 10;

/// The speed of a store.
#[derive(Clone, Copy)]
pub struct Speed {
    /// Time before a response.
    pub latency: Duration,
    /// Bytes of one request or response in a second.
    pub bytes_per_second: Option<f64>,
}

impl Speed {
    /// As fast as the machine.
    pub const AT_ONCE: Self = Self {
        latency: Duration::ZERO,
        bytes_per_second: None,
    };

    /// Returns the time at which this many bytes have been moved since `start`.
    fn time_of(self, start: Instant, bytes: usize) -> Instant {
        let bytes = f64::from(u32::try_from(bytes).expect("less than 4 GB"));
        let rate = self.bytes_per_second.unwrap_or(f64::INFINITY);
        start + Duration::from_secs_f64(bytes / rate)
    }
}

/// A store that sends the same document for every GET and accepts every PUT. It runs on a thread of
/// its own until the process ends.
pub struct Store {
    url: String,
    requests: Arc<AtomicU32>,
}

struct Server {
    document: Bytes,
    speed: Speed,
    tls: Option<TlsAcceptor>,
    requests: Arc<AtomicU32>,
}

impl Store {
    /// Starts a store of this speed, which uses TLS if `tls` is given.
    pub fn start(document: Vec<u8>, speed: Speed, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("a bound socket").port();
        let url = match &tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        };
        let requests = Arc::new(AtomicU32::new(0));
        let server = Arc::new(Server {
            document: document.into(),
            speed,
            tls,
            requests: Arc::clone(&requests),
        });
        thread::spawn(move || single_threaded_runtime().block_on(server.run(listener)));
        Self { url, requests }
    }

    /// Returns the endpoint of the store.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the number of requests so far.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Server {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(Arc::clone(&self).accept(stream));
        }
    }

    async fn accept(self: Arc<Self>, stream: TcpStream) {
        stream.set_nodelay(true).expect("a TCP connection");
        let Some(tls) = &self.tls else {
            return self.serve(TokioIo::new(stream)).await;
        };
        // The handshake fails when a measured process is killed.
        if let Ok(stream) = tls.accept(stream).await {
            self.serve(TokioIo::new(stream)).await;
        }
    }

    async fn serve(&self, stream: impl Read + Write + Unpin) {
        let service = service_fn(|request| self.answer(request));
        let http = hyper::server::conn::http1::Builder::new();
        // The connection breaks when a measured process is killed.
        let _ = http.serve_connection(stream, service).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (start, speed) = (Instant::now(), self.speed);
        let is_get = request.method() == Method::GET;
        let mut body = request.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.ok().and_then(|frame| frame.into_data().ok());
            received += data.map_or(0, |data| data.len());
            let time = speed.time_of(start, received);
            // A timer has the resolution of a millisecond.
            if time > Instant::now() + Duration::from_millis(1) {
                sleep_until(time.into()).await;
            }
        }
        if !speed.latency.is_zero() {
            sleep_until((speed.time_of(start, received) + speed.latency).into()).await;
        }
        let body = match (is_get, speed.bytes_per_second) {
            (true, None) => Full::new(self.document.clone()).boxed_unsync(),
            (true, Some(_)) => paced(self.document.clone(), speed),
            (false, _) => Full::new(Bytes::new()).boxed_unsync(),
        };
        let length = if is_get { self.document.len() } else { 0 };
        let response = Response::builder()
            .header("etag", "\"0\"")
            .header("last-modified", "Sun, 28 Sep 2025 11:47:30 GMT")
            .header("content-length", length)
            .body(body);
        Ok(response.expect("valid headers"))
    }
}

/// A body that is sent with the bandwidth of `speed`.
fn paced(bytes: Bytes, speed: Speed) -> UnsyncBoxBody<Bytes, Infallible> {
    let state = (bytes, Instant::now(), 0);
    let chunks = stream::unfold(state, move |(mut rest, start, sent)| async move {
        if rest.is_empty() {
            return None;
        }
        sleep_until(speed.time_of(start, sent).into()).await;
        let chunk = rest.split_to(CHUNK_BYTES.min(rest.len()));
        let sent = sent + chunk.len();
        Some((Ok(Frame::data(chunk)), (rest, start, sent)))
    });
    StreamBody::new(chunks).boxed_unsync()
}
