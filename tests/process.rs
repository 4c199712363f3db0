//! The process of the function: its start, its end, and panics.

use std::process::Command;

use serde_json::{Value, json};
use test_support::fixtures::{DRAFT_ID, event, post_id};
use test_support::runtime::Outcome;
use test_support::s3::S3;

use crate::common::{self, BOOTSTRAP, TestEnv};

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
        let status = function.wait_for_exit().await;
        assert_eq!(status.code(), Some(1), "{variable}: the start is a failure");
        let lines = function.lines();
        assert_eq!(lines.len(), 1, "{variable}: one line is logged: {lines:#?}");
        let line: Value = serde_json::from_str(&lines[0]).expect("the line is JSON");
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "the function stopped");
        let error = line["error"].as_str().expect("an error");
        assert!(error.starts_with(variable), "{variable} is named: {error}");
        assert!(!error.contains("secret"), "a password is logged: {error}");
    }
}

#[tokio::test]
async fn the_path_of_an_endpoint_is_part_of_each_request() {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    for path in ["", "/", "/storage/v1", "/storage/v1/"] {
        let url = format!("{}{path}", s3.endpoint());
        let function = common::start_function(&s3, &[("AWS_ENDPOINT_URL_S3", &url)]).await;
        function.invoke(&post_id(DRAFT_ID)).await.response();
        let request = &s3.requests()[0];
        let path = path.trim_matches('/');
        let expected = format!("{path}/drafts/drafts/{DRAFT_ID}/draft_content.json");
        let requested = format!("{}/{}", request.bucket, request.key);
        assert_eq!(requested, expected.trim_start_matches('/'), "{url}");
        s3.clear_requests();
    }
}

/// Headers of a direct invocation that the runtime library cannot read.
const INVALID_CONTEXTS: [(&str, &str); 4] = [
    (
        "Lambda-Runtime-Client-Context",
        r#"{"custom":{"caller-text":{}}}"#,
    ),
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
        let pending = test_env
            .function
            .begin_with_headers(&event("direct-id"), &[header]);
        assert_eq!(pending.outcome().await, Outcome::Exited, "{header:?}");
        let status = test_env.function.wait_for_exit().await;
        assert_eq!(status.code(), Some(1), "{header:?}");
        let lines = test_env.function.lines();
        assert_eq!(lines.len(), 1, "{header:?}: one line is logged: {lines:#?}");
        let line: Value = serde_json::from_str(&lines[0]).expect("the line is JSON");
        assert_eq!(line["message"], "the function stopped", "{header:?}");
        let error = line["error"].as_str().expect("an error");
        assert!(
            error.contains("client context") && !error.contains("caller-text"),
            "{header:?}: the cause is named without the caller's text: {error}"
        );
    }
}

#[tokio::test]
async fn each_worker_lost_to_an_invalid_client_context_is_logged() {
    let test_env = TestEnv::with(&[("AWS_LAMBDA_MAX_CONCURRENCY", "4")]).await;
    let is_lost = |line: &Value, remaining: u64| {
        line["level"] == "ERROR"
            && line["message"].as_str().is_some_and(|message| {
                message.starts_with("Concurrent worker exited with error")
                    && message.contains(&format!("remaining_workers={remaining}"))
            })
    };
    for remaining in (0..4).rev() {
        // The function goes on with the workers that remain.
        let outcome = test_env.function.invoke(&event("direct-id")).await;
        assert_eq!(outcome.response()["draft_id"], DRAFT_ID);
        let pending = test_env
            .function
            .begin_with_headers(&event("direct-id"), &[INVALID_CONTEXTS[0]]);
        let line = test_env
            .function
            .wait_for_line(|line| is_lost(line, remaining))
            .await;
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
    let check_log = |lines: &[Value]| {
        assert_eq!(lines.len(), 1, "{lines:#?}");
        let line = &lines[0];
        assert_eq!(line["level"], "ERROR", "{line}");
        assert_eq!(line["outcome"], "SaveFailed", "{line}");
        assert_eq!(line["Failed"], 1, "a panic counts as a failure: {line}");
    };
    let (outcome, lines) = test_env.invoke_logged(&event("direct-id")).await;
    let expected = Outcome::Error {
        error_type: "SaveFailed".to_owned(),
        error_message: "Save failed".to_owned(),
    };
    assert_eq!(outcome, expected);
    check_log(&lines);

    let (outcome, lines) = test_env.invoke_logged(&post_id(DRAFT_ID)).await;
    let response = outcome.response();
    assert_eq!(response["statusCode"], 500);
    assert_eq!(
        response["body"],
        json!({"detail": "Save failed"}).to_string()
    );
    check_log(&lines);

    let lines = test_env.function.lines();
    let lines = lines.iter().map(|line| serde_json::from_str(line));
    let lines: Vec<Value> = lines.collect::<Result<_, _>>().expect("lines of JSON");
    let panics: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "panicked")
        .collect();
    assert_eq!(panics.len(), 2, "each panic is logged: {lines:#?}");
    for line in panics {
        assert_eq!(line["level"], "ERROR", "{line}");
        assert!(line["error"].is_string(), "the panic's text: {line}");
        assert!(line["location"].is_string(), "the panic's place: {line}");
        assert!(line.get("_aws").is_none(), "it is counted once: {line}");
    }
}
