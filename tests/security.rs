//! Hostile input: ids that are paths, line breaks for logs, secrets, causes. Through the real executable.

use std::io::ErrorKind;
use std::net::TcpListener;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use test_support::check;
use test_support::fixtures::{
    DRAFT_ID, draft_key, draft_of_size, eventbridge_event, post, post_id, post_url,
    s3_notification, sqs_batch,
};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, When};

use crate::common::TestEnv;
use crate::events::Form::HttpApi;
use crate::http;
use crate::telemetry::assert_record;

#[tokio::test]
async fn an_invalid_id_never_reaches_the_store() {
    let test_env = TestEnv::start().await;
    let invalid_id = Outcome::from_error("InvalidRequest", "Invalid draft_id format");
    let skipped = Outcome::Response(json!({"saves": [], "skipped": 1}));
    for invalid in [
        "",
        "..",
        "../secret",
        "..\\secret",
        "/secret",
        "2025092811473036584258/../secret",
        "2025092811473036584258/",
        "2025092811473036584258\0",
        "2025092811473036584258\r\nx: y",
        " 2025092811473036584258",
        "２０２５０９２８１１４７３０３６５８４２５８",
        "2025092811473036584258\u{301}",
        "\u{202e}8524",
        "%2e%2e%2fsecret",
        "%c0%ae%c0%ae%c0%afsecret",
        "*",
        "<script>",
        &"9".repeat(65),
        &"9".repeat(1_900),
    ] {
        let encoded = utf8_percent_encode(invalid, NON_ALPHANUMERIC).to_string();
        let twice = utf8_percent_encode(&encoded, NON_ALPHANUMERIC).to_string();
        for id in [&encoded, &twice] {
            let response = test_env.invoke(&post_id(id)).await.response();
            assert_eq!(response["statusCode"], 400, "{invalid:?} as {id}");
        }
        let direct = json!({"draft_id": invalid});
        assert_eq!(test_env.invoke(&direct).await, invalid_id, "{invalid:?}");
        let notification = s3_notification([draft_key(&encoded)]);
        assert_eq!(test_env.invoke(&notification).await, skipped, "{invalid:?}");
        let event = eventbridge_event(&draft_key(invalid));
        assert_eq!(test_env.invoke(&event).await, skipped, "{invalid:?}");
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

#[tokio::test]
async fn a_draft_url_is_never_fetched() {
    let test_env = TestEnv::start().await;
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    server.set_nonblocking(true).expect("a socket");
    let address = server.local_addr().expect("a bound socket");
    let url = format!("http://{address}/get_draft?draft_id={DRAFT_ID}");
    let response = test_env.invoke(&post_url(url)).await.response();
    assert_eq!(response["statusCode"], 200);
    let connection = server.accept().map_err(|error| error.kind());
    assert!(
        matches!(connection, Err(ErrorKind::WouldBlock)),
        "nobody connected: {connection:?}"
    );
}

/// `lenient` has the fields of all events.
#[tokio::test]
async fn no_text_of_an_input_or_of_s3_is_a_line_of_the_log() {
    const FORGED: &str =
        "\r\n{\"level\":\"INFO\",\"message\":\"forged\"}\n\u{9b}31m\u{2028}\u{feff}";
    let test_env = TestEnv::start().await;
    let message = format!("InvalidArgument</Code><Message>{}", FORGED.repeat(20_000));
    let refused = When::any().and(|request| request.key.contains("/refused/"));
    test_env
        .s3
        .fault(refused, Fault::Error(400, message.leak()));
    let long = FORGED.repeat(10_000);
    let unknown = json!({"Records": [{"eventSource": long}]});
    for event in [
        post_url(FORGED),
        post(FORGED),
        json!({"draft_id": {FORGED: FORGED}}),
        json!(FORGED),
        sqs_batch([unknown.clone()]),
        unknown,
        s3_notification([utf8_percent_encode(FORGED, NON_ALPHANUMERIC).to_string()]),
        eventbridge_event(&long),
    ] {
        let (_, lines) = test_env.invoke_logged(&event).await;
        assert_eq!(lines.len(), 1, "one line for each input");
    }
    let refused = json!({"draft_id": "refused"});
    let (_, lines) = test_env.invoke_logged(&refused).await;
    assert!(lines[0]["error"].to_string().contains("forged"));
    for line in test_env.function.lines() {
        check::log_line(&line);
    }
}

/// Texts that must not be in the log.
const SECRETS: [&str; 9] = [
    // Credentials.
    "local-secret",
    "local-session-token",
    // The content of drafts.
    "secret-caption",
    // URLs.
    "secret-user",
    "secret-password",
    "secret-query",
    "secret.example.com",
    // The error of S3 for a wrong signature.
    "secret-string-to-sign",
    // The signature of a request.
    "AWS4-HMAC-SHA256",
];

#[tokio::test]
async fn no_secret_and_no_content_of_a_draft_is_logged() {
    const WRONG_SIGNATURE: &str = "SignatureDoesNotMatch</Code><Message>no</Message>\
        <StringToSign>secret-string-to-sign</StringToSign><Code>SignatureDoesNotMatch";
    let draft = r#"{"id":"secret-caption","tracks":["secret-caption"]"#;
    let test_env = TestEnv::with(&[
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
        ("AWS_SESSION_TOKEN", "local-session-token"),
        ("MAX_DRAFT_BYTES", "1000"),
    ])
    .await;
    test_env.put_draft("short", draft);
    test_env.put_draft("damaged", format!("{draft} secret-caption}}"));
    test_env.put_draft("list", format!("[{draft}}}]"));
    test_env.put_draft("large", format!("{draft}}}{}", " ".repeat(1_000)));
    for id in ["complete", "denied", "cut", "unsigned"] {
        test_env.put_draft(id, format!("{draft}}}"));
    }
    for (id, fault) in [
        ("/denied/", Fault::ACCESS_DENIED),
        ("/cut/", Fault::CutBody(20)),
        ("/unsigned/", Fault::Error(403, WRONG_SIGNATURE)),
    ] {
        let requests = When::any().and(move |request| request.key.contains(id));
        test_env.s3.fault(requests, fault);
    }

    let url = |id: &str| {
        format!(
            "https://secret-user:secret-password@secret.example.com/?t=secret-query&draft_id={id}"
        )
    };
    let ids = [
        "complete", "short", "damaged", "list", "large", "denied", "cut", "unsigned", "missing",
        "..",
    ];
    let mut inputs: Vec<Value> = ids.iter().map(|id| post_url(url(id))).collect();
    inputs.extend(ids.iter().map(|id| json!({"draft_url": url(id)})));
    for value in [
        json!(url("complete")),
        json!([url("complete")]),
        json!({url("complete"): url("complete")}),
    ] {
        inputs.extend([
            post_url(value.clone()),
            post(value.to_string()),
            json!({"draft_url": value}),
            json!({"draft_id": value}),
            json!({"Records": value}),
            json!({"Records": [value]}),
            json!({"Records": [{"eventSource": "aws:sns", "Sns": value}]}),
            json!({"Records": [{"eventSource": "aws:s3", "s3": value}]}),
            json!({"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": value}]}),
            sqs_batch([value.clone()]),
            json!({"Message": value}),
            json!({"Event": value}),
            json!({"detail-type": "x", "source": "x", "detail": value}),
            json!({"detail-type": "x", "source": value, "detail": {}}),
            value,
        ]);
    }
    for input in &inputs {
        let (_, lines) = test_env.invoke_logged(input).await;
        assert!(!lines.is_empty(), "{input} is logged");
    }
    let versions = test_env.versions("complete");
    assert_eq!(versions.len(), 1, "the complete draft was saved");
    for line in test_env.function.lines() {
        for secret in SECRETS {
            assert!(!line.contains(secret), "{secret} is in the line {line}");
        }
    }
}

/// The response over HTTP, the error of a direct invocation, and the record of the log.
#[tokio::test]
async fn callers_get_documented_texts_and_causes_are_only_logged() {
    let test_env = TestEnv::with(&[("MAX_DRAFT_BYTES", "1000")]).await;
    test_env.invoke(&json!({})).await;
    for (id, document) in [
        ("empty", ""),
        ("list", "[]"),
        ("cut", "{\"id\":"),
        ("encrypted", "a3e6VQ4f/+Zm9v=="),
        ("large", &" ".repeat(1_001)),
        ("unreadable", "{}"),
        ("unwritable", "{}"),
        ("busy", "{}"),
    ] {
        test_env.put_draft(id, document);
    }
    for (prefix, fault) in [
        // The body never arrives.
        ("drafts/large/", Fault::StallBody(0)),
        ("drafts/unreadable/", Fault::ACCESS_DENIED),
        ("saved/unwritable/", Fault::ACCESS_DENIED),
        ("saved/busy/", Fault::SLOW_DOWN),
    ] {
        let requests = When::any().key_starts_with(prefix);
        test_env.s3.fault(requests, fault);
    }
    let failed = (500, "SaveFailed", "Save failed", "Failed");
    let unavailable = (
        503,
        "ServiceUnavailable",
        "Service unavailable",
        "Unavailable",
    );
    let not_found = (404, "DraftNotFound", "Draft does not exist", "NotFound");
    let not_read = json!({"ReadMs": 0});
    let read =
        |bytes: u64| json!({"ReadMs": 0, "document": "draft_content.json", "DraftBytes": bytes});
    let mut written = read(2);
    written["WriteMs"] = json!(0);
    for (id, (status, kind, detail, counter), cause, fields) in [
        ("empty", failed, "the document is empty", read(0)),
        ("list", failed, "the document is not a JSON object", read(2)),
        (
            "cut",
            failed,
            "incomplete JSON at line 1, column 6",
            read(6),
        ),
        ("encrypted", failed, "nor a complete encrypted", read(16)),
        (
            "large",
            failed,
            "more than the limit of 1000",
            not_read.clone(),
        ),
        ("unreadable", failed, "AccessDenied", not_read.clone()),
        ("unwritable", failed, "AccessDenied", written.clone()),
        ("busy", unavailable, "SlowDown", written),
        ("missing", not_found, "NoSuchKey", not_read),
    ] {
        let response = test_env.invoke(&post_id(id)).await;
        let expected = http::error(HttpApi, status, detail);
        assert_eq!(response, Outcome::Response(expected), "{id}");

        let direct = json!({"draft_id": id});
        let (outcome, records) = test_env.invoke_logged(&direct).await;
        assert_eq!(outcome, Outcome::from_error(kind, detail), "{id}");
        assert_eq!(records.len(), 1, "{records:#?}");
        let error = records[0]["error"].as_str().expect("a cause");
        assert!(error.contains(cause), "{id}: {error}");
        let mut expected = json!({"draft_id": id, "outcome": kind, "retryable": status == 503,
            "error": "", "SaveMs": 0, counter: 1});
        let fields = fields.as_object().expect("an object").clone();
        expected.as_object_mut().expect("an object").extend(fields);
        let level = if status == 404 { "WARN" } else { "ERROR" };
        assert_record(&records[0], level, "not saved", &expected);
    }
    // A document of the maximum size.
    test_env.put_draft("fits", draft_of_size(1_000, 1));
    let response = test_env.invoke(&post_id("fits")).await.response();
    assert_eq!(response["statusCode"], 200, "{response}");
}
