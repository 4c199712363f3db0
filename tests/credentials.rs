//! Credentials from a container endpoint, as functions with SnapStart have them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::json;
use test_support::check;
use test_support::fixtures::DRAFT_ID;
use test_support::s3::{Fault, When};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::common::TestEnv;
use crate::common::drafts::save;

const NO_KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")];

/// Starts a container endpoint that answers the first requests with this status and body, and a function that uses it.
/// Returns the number of the requests, too.
async fn start(status: &'static str, body: String, failures: usize) -> (TestEnv, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let credentials = json!({"AccessKeyId": "local", "SecretAccessKey": "local-secret",
        "Token": "token", "Expiration": "2100-01-01T00:00:00Z"});
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let (status, body) = if count.fetch_add(1, SeqCst) < failures {
                (status, body.clone())
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
    let [key, secret] = NO_KEYS;
    let endpoint = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "token");
    let test_env = TestEnv::with(&[key, secret, endpoint, token]).await;
    (test_env, requests)
}

#[tokio::test]
async fn credentials_that_are_not_available_now_are_a_503() {
    for status in ["500 Internal Server Error", "429 Too Many Requests"] {
        // More than the attempts of one save.
        let (test_env, requests) = start(status, String::new(), 100).await;
        let failed = save(&test_env.function, DRAFT_ID).await;
        assert_eq!(failed.status, 503, "{status}: {}", failed.line);
        assert!(test_env.s3.requests().is_empty());
        requests.store(100, SeqCst);
        let saved = save(&test_env.function, DRAFT_ID).await;
        assert_eq!(saved.outcome, "created", "{status}: {}", saved.line);
    }
}

#[tokio::test]
async fn no_credentials_are_a_500() {
    let test_env = TestEnv::with(&NO_KEYS).await;
    let failed = save(&test_env.function, DRAFT_ID).await;
    assert_eq!(failed.status, 500, "{}", failed.line);
}

#[tokio::test]
async fn expired_credentials_are_a_503_and_are_fetched_again() {
    let (test_env, requests) = start("", String::new(), 0).await;
    assert_eq!(save(&test_env.function, DRAFT_ID).await.status, 200);
    assert_eq!(save(&test_env.function, DRAFT_ID).await.status, 200);
    assert_eq!(requests.load(SeqCst), 1, "they are kept");

    let expired = Fault::Error(400, "ExpiredToken");
    let fault = test_env.s3.fault(When::any(), expired);
    let failed = save(&test_env.function, DRAFT_ID).await;
    assert_eq!(failed.status, 503, "{}", failed.line);
    fault.clear();
    assert_eq!(save(&test_env.function, DRAFT_ID).await.status, 200);
    assert_eq!(requests.load(SeqCst), 2, "they are fetched again");
}

#[tokio::test]
async fn texts_of_the_endpoint_are_short_and_without_invisible_characters() {
    let text = "\u{9b}\u{202e}".repeat(4_000);
    let body = json!({"Code": text, "Message": text}).to_string();
    let (test_env, _) = start("200 OK", body, usize::MAX).await;
    let failed = save(&test_env.function, DRAFT_ID).await;
    failed.assert_error(failed.status, "failed to load credentials");
    for line in test_env.function.lines() {
        check::log_text(&line);
    }
}
