//! A store that moves bytes and does nothing else, so that it does not hide the work of the function.
//!
//! The S3 server of `test-support` verifies signatures and checksums and writes files, which takes
//! longer than a save.

use std::convert::Infallible;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::single_threaded_runtime;

/// A store that sends the same document for every GET and accepts every PUT. It runs on a thread of
/// its own until the process ends.
pub struct Store {
    url: String,
    requests: Arc<AtomicU32>,
}

struct Server {
    document: Bytes,
    latency: Duration,
    tls: Option<TlsAcceptor>,
    requests: Arc<AtomicU32>,
}

impl Store {
    /// Starts a store that answers each request after `latency`, and uses TLS if `tls` is given.
    pub fn start(document: Vec<u8>, latency: Duration, tls: Option<TlsAcceptor>) -> Self {
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
            latency,
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
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let is_get = request.method() == Method::GET;
        let mut body = request.into_body();
        while body.frame().await.is_some() {}
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let body = if is_get {
            self.document.clone()
        } else {
            Bytes::new()
        };
        let response = Response::builder()
            .header("etag", "\"0\"")
            .header("last-modified", "Sun, 28 Sep 2025 11:47:30 GMT")
            .body(Full::new(body));
        Ok(response.expect("valid headers"))
    }
}
