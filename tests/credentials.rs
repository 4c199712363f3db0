//! Credentials from a container endpoint, as functions with SnapStart have them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::json;
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, sample_draft};
use test_support::runtime::Bootstrap;
use test_support::s3::{Fault, Op, RawResponse, S3, When};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::common::drafts::save;
use crate::common::{BOOTSTRAP, TestEnv};

/// A container endpoint that answers the first requests with an error.
struct Endpoint {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Endpoint {
    async fn start(s3: &S3, status: &'static str, failures: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let credentials = json!({
            "AccessKeyId": s3.options().access_key, "SecretAccessKey": s3.options().secret_key,
            "Token": "token", "Expiration": "2100-01-01T00:00:00Z",
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let (status, body) = if count.fetch_add(1, SeqCst) < failures {
                    (status, String::new())
                } else {
                    ("200 OK", credentials.to_string())
                };
                let length = body.len();
                let response = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        let url = format!("http://{address}/credentials");
        Self { url, requests }
    }

    async fn start_function(&self, s3: &S3) -> Bootstrap {
        let endpoint = s3.endpoint();
        let env = [
            ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &self.url),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token"),
            ("DRAFT_BUCKET", BUCKET),
        ];
        Bootstrap::start(BOOTSTRAP, env).await
    }
}

async fn start_s3() -> S3 {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    s3
}

#[tokio::test]
async fn credentials_that_are_not_available_now_are_a_503() {
    for status in ["500 Internal Server Error", "429 Too Many Requests"] {
        let s3 = start_s3().await;
        // More than the attempts of one save.
        let endpoint = Endpoint::start(&s3, status, 100).await;
        let function = endpoint.start_function(&s3).await;
        let failed = save(&function, DRAFT_ID).await;
        assert_eq!(failed.status, 503, "{status}: {}", failed.line);
        assert!(s3.requests().is_empty());
        endpoint.requests.store(100, SeqCst);
        let saved = save(&function, DRAFT_ID).await;
        assert_eq!(
            (saved.status, &*saved.outcome),
            (200, "created"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn no_credentials_are_a_500() {
    let s3 = start_s3().await;
    let endpoint = s3.endpoint();
    let env = [
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
        ("DRAFT_BUCKET", BUCKET),
    ];
    let function = Bootstrap::start(BOOTSTRAP, env).await;
    let failed = save(&function, DRAFT_ID).await;
    assert_eq!(failed.status, 500, "{}", failed.line);
}

#[tokio::test]
async fn expired_credentials_are_a_503_and_are_fetched_again() {
    let s3 = start_s3().await;
    let endpoint = Endpoint::start(&s3, "", 0).await;
    let function = endpoint.start_function(&s3).await;
    assert_eq!(save(&function, DRAFT_ID).await.status, 200);
    assert_eq!(save(&function, DRAFT_ID).await.status, 200);
    assert_eq!(endpoint.requests.load(SeqCst), 1, "they are kept");

    let fault = s3.fault(When::any(), Fault::Error(400, "ExpiredToken"));
    let failed = save(&function, DRAFT_ID).await;
    assert_eq!(failed.status, 503, "{}", failed.line);
    fault.clear();
    assert_eq!(save(&function, DRAFT_ID).await.status, 200);
    assert_eq!(endpoint.requests.load(SeqCst), 2, "they are fetched again");
}

#[tokio::test]
async fn the_time_that_the_store_asks_to_wait_is_waited() {
    let test_env = TestEnv::start().await;
    let slow_down = RawResponse::new(503)
        .header("x-amz-retry-after", "1500")
        .body("<Error><Code>SlowDown</Code></Error>");
    let get = When::op(Op::GetObject).once();
    test_env.s3.fault(get, Fault::Respond(slow_down));
    let start = Instant::now();
    let saved = save(&test_env.function, DRAFT_ID).await;
    assert_eq!(saved.status, 200);
    assert!(
        start.elapsed() >= Duration::from_millis(1500),
        "{:?}",
        start.elapsed()
    );
}
