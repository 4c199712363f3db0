//! The process of the function: its start, its end, and panics.

use std::process::Command;

use serde_json::Value;
use test_support::fixtures::{DRAFT_ID, event, post_id};
use test_support::runtime::{Bootstrap, Outcome};
use test_support::s3::S3;

use crate::common::{self, BOOTSTRAP, TestEnv};
use crate::events::Form::HttpApi;
use crate::http;

#[test]
fn outside_lambda_it_says_so_and_exits() {
    let output = Command::new(BOOTSTRAP).env_clear().output();
    let output = output.expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "the start is a failure");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("cargo run -p local") && stderr.lines().count() == 1,
        "one line names the command for this machine: {stderr}"
    );
    assert!(output.stdout.is_empty(), "nothing is logged");
}

/// Waits for the end of a process that fails; returns the error in the only line of its log.
async fn error_of_stop(function: &Bootstrap) -> String {
    let status = function.wait_for_exit().await;
    assert_eq!(status.code(), Some(1), "the end is a failure");
    let lines = function.lines();
    assert_eq!(lines.len(), 1, "one line is logged: {lines:#?}");
    let line: Value = serde_json::from_str(&lines[0]).expect("the line is JSON");
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["message"], "the function stopped");
    line["error"].as_str().expect("an error").to_owned()
}

#[tokio::test]
async fn an_invalid_variable_stops_the_start_with_its_name_in_the_log() {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    for (variable, value) in [
        ("MAX_DRAFT_BYTES", "a lot"),
        ("AWS_CA_BUNDLE", "/any.pem"),
        ("DRAFT_KEY", "any/{draft_id}.json"),
        ("AWS_ENDPOINT_URL_S3", "127.0.0.1:9000"),
        ("AWS_ENDPOINT_URL_S3", "user:secret@store.example.com"),
        ("AWS_ENDPOINT_URL_S3", "ftp://user:secret@store.example.com"),
        ("SSL_CERT_FILE", "/no/such/file.pem"),
    ] {
        let function = common::start_function(&s3, &[(variable, value)]).await;
        let error = error_of_stop(&function).await;
        assert!(error.starts_with(variable), "{variable} is named: {error}");
        assert!(!error.contains("secret"), "a password is logged: {error}");
    }
}

#[tokio::test]
async fn requests_go_to_the_path_of_the_endpoint_for_s3_or_for_all_services() {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    let url = |path: &str| s3.endpoint() + path;
    let unused = "http://127.0.0.1:1".to_owned();
    for (for_s3, for_all, path) in [
        (url(""), unused, ""),
        (String::new(), url("/"), ""),
        (url("/storage/v1"), String::new(), "storage/v1/"),
        (url("/storage/v1/"), String::new(), "storage/v1/"),
    ] {
        let env = [
            ("AWS_ENDPOINT_URL_S3", &*for_s3),
            ("AWS_ENDPOINT_URL", &for_all),
        ];
        let function = common::start_function(&s3, &env).await;
        function.invoke(&post_id(DRAFT_ID)).await.response();
        let request = &s3.requests()[0];
        let requested = format!("{}/{}", request.bucket, request.key);
        let expected = format!("{path}drafts/drafts/{DRAFT_ID}/draft_content.json");
        assert_eq!(requested, expected, "{env:?}");
        s3.clear_requests();
    }
}

/// Headers of a direct invocation that the runtime library cannot read.
const INVALID_CONTEXTS: [(&str, &str); 3] = [
    ("Lambda-Runtime-Client-Context", "caller-text"),
    (
        "Lambda-Runtime-Client-Context",
        r#"{"custom":"caller-text"}"#,
    ),
    (
        "Lambda-Runtime-Cognito-Identity",
        r#"{"cognitoIdentityId":null,"cognitoIdentityPoolId":null}"#,
    ),
];

/// The runtime library fails on such an invocation before the function sees it.
#[tokio::test]
async fn an_invalid_client_context_ends_the_process_with_its_cause_in_the_log() {
    for header in INVALID_CONTEXTS {
        let test_env = TestEnv::start().await;
        let event = event("direct-id");
        let pending = test_env.function.begin_with_headers(&event, &[header]);
        assert_eq!(pending.outcome().await, Outcome::Exited, "{header:?}");
        let error = error_of_stop(&test_env.function).await;
        let is_safe = !error.contains("caller-text");
        assert!(error.contains("client context") && is_safe, "{error}");
    }
}

#[tokio::test]
async fn each_worker_lost_to_an_invalid_client_context_is_logged() {
    let test_env = TestEnv::with(&[("AWS_LAMBDA_MAX_CONCURRENCY", "4")]).await;
    let event = event("direct-id");
    for remaining in (0..4).rev() {
        // The function goes on with the workers that remain.
        let response = test_env.invoke(&event).await.response();
        assert_eq!(response["draft_id"], DRAFT_ID);
        let header = INVALID_CONTEXTS[0];
        let pending = test_env.function.begin_with_headers(&event, &[header]);
        let count = format!("remaining_workers={remaining}");
        let is_lost = |line: &Value| {
            let message = line["message"].as_str().unwrap_or_default();
            message.starts_with("Concurrent worker exited with error") && message.contains(&count)
        };
        let line = test_env.function.wait_for_line(is_lost).await;
        assert_eq!(line["level"], "ERROR", "{line}");
        let message = line["message"].as_str().unwrap_or_default();
        assert!(message.contains("error="), "the cause is logged: {line}");
        drop(pending);
    }
    let status = test_env.function.wait_for_exit().await;
    assert_eq!(status.code(), Some(1), "no worker remains");
    let stopped = |line: &Value| line["message"] == "the function stopped";
    test_env.function.wait_for_line(stopped).await;
}

/// The SDK panics on a line break in the access key id.
#[tokio::test]
async fn a_panic_is_logged_and_the_caller_gets_only_the_documented_text() {
    let test_env = TestEnv::with(&[("AWS_ACCESS_KEY_ID", "a\nb")]).await;
    let response = http::error(HttpApi, 500, "Save failed");
    for (event, expected) in [
        (
            event("direct-id"),
            Outcome::from_error("SaveFailed", "Save failed"),
        ),
        (post_id(DRAFT_ID), Outcome::Response(response)),
    ] {
        let (outcome, lines) = test_env.invoke_logged(&event).await;
        assert_eq!(outcome, expected);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert_eq!(lines[0]["level"], "ERROR", "{lines:#?}");
        assert_eq!(lines[0]["outcome"], "SaveFailed", "{lines:#?}");
        assert_eq!(lines[0]["Failed"], 1, "a panic counts as a failure");
    }
    let panicked = |line: &Value| line["message"] == "panicked";
    let line = test_env.function.wait_for_line(panicked).await;
    assert_eq!(line["level"], "ERROR", "{line}");
    assert!(line["error"].is_string(), "the panic's text: {line}");
    assert!(line["location"].is_string(), "the panic's place: {line}");
    assert!(line.get("_aws").is_none(), "it is counted once: {line}");
}
