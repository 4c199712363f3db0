//! Hostile input: ids that are paths, line breaks for headers and logs, secrets, causes. Through the
//! real executable.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, event, post, post_id, post_url,
};
use test_support::s3::{Fault, Op, When};

use crate::common::TestEnv;

/// A JSON object on a line of its own, like a line of the log.
const FORGED: &str = "\r\n{\"level\":\"INFO\",\"message\":\"forged\"}\n\u{1b}[31m";

/// Returns texts that are not ids of drafts.
fn invalid_ids() -> Vec<String> {
    let ids = [
        "",
        ".",
        "..",
        "../secret",
        "..\\secret",
        "/secret",
        "2025092811473036584258/../secret",
        "2025092811473036584258/",
        "2025092811473036584258\0",
        "2025092811473036584258\r\nx: y",
        "2025092811473036584258\u{2028}",
        " 2025092811473036584258",
        "２０２５０９２８１１４７３０３６５８４２５８",
        "．．／secret",
        "2025092811473036584258\u{301}",
        "\u{202e}8524",
        "%2e%2e%2fsecret",
        "%c0%ae%c0%ae%c0%afsecret",
        "{draft_id}",
        "*",
        "a:b",
        "a&b",
        "$(id)",
        "<script>",
    ];
    let ids = ids.map(str::to_owned).into_iter();
    ids.chain([65, 1_900].map(|length| "9".repeat(length)))
        .collect()
}

#[tokio::test]
async fn an_invalid_id_never_reaches_the_store() {
    let test_env = TestEnv::start().await;
    let invalid_id = (
        "InvalidRequest".to_owned(),
        "Invalid draft_id format".to_owned(),
    );
    let skipped = json!({"saves": [], "skipped": 1});
    for invalid in invalid_ids() {
        let encoded = utf8_percent_encode(&invalid, NON_ALPHANUMERIC).to_string();
        let twice = utf8_percent_encode(&encoded, NON_ALPHANUMERIC).to_string();
        for id in [&encoded, &twice] {
            let outcome = test_env.function.invoke(&post_id(id)).await;
            assert_eq!(outcome.response()["statusCode"], 400, "{invalid:?} as {id}");
        }
        let direct = json!({"draft_id": invalid});
        let direct = test_env.function.invoke(&direct).await;
        assert_eq!(direct.error(), invalid_id, "{invalid:?}");

        let mut notification = event("s3");
        notification["Records"][0]["s3"]["object"]["key"] = draft_key(&encoded).into();
        let response = test_env.function.invoke(&notification).await.response();
        assert_eq!(response, skipped, "{invalid:?}");

        let mut bridge = event("eventbridge-s3");
        bridge["detail"]["object"]["key"] = draft_key(&invalid).into();
        let response = test_env.function.invoke(&bridge).await.response();
        assert_eq!(response, skipped, "{invalid:?}");
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

#[tokio::test]
async fn only_keys_of_the_templates_are_requested() {
    let test_env = TestEnv::start().await;
    for url in [
        format!("https://example.com/../../{DRAFT_ID}x?draft_id={DRAFT_ID}"),
        format!("https://user:password@example.com:8443/?a=../b&draft_id={DRAFT_ID}#../c"),
        format!("https://example.com/?draft_id=20250928{}", "0".repeat(56)),
        "https://example.com/?draft_id=-".to_owned(),
        "https://example.com/?draft_id=__proto__".to_owned(),
    ] {
        let outcome = test_env.function.invoke(&post_url(url.as_str())).await;
        let status = outcome.response()["statusCode"].clone();
        assert!(status == 200 || status == 404, "{status} for {url}");
    }
    let requests = test_env.s3.requests();
    // A read and a write for each draft that exists, and two reads for each other.
    assert_eq!(requests.len(), 10);
    for request in requests {
        let key = &request.key;
        let rest = match request.op {
            Op::GetObject => key.strip_prefix("drafts/"),
            Op::PutObject => key.strip_prefix("saved/"),
            _ => None,
        };
        let (id, rest) = rest.and_then(|rest| rest.split_once('/')).expect(key);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        assert!(id.len() <= 64 && id.chars().all(is_plain), "{key}");
        let name = rest.rsplit('/').next().unwrap_or_default();
        let is_document = matches!(name, "draft_content.json" | "draft_info.json");
        assert!(is_document, "{key}");
        assert!(rest.matches('/').count() <= 1, "{key}");
        assert_eq!(request.bucket, BUCKET);
    }
}

#[tokio::test]
async fn a_draft_url_is_never_fetched() {
    let test_env = TestEnv::start().await;
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    server.set_nonblocking(true).expect("a socket");
    let address = server.local_addr().expect("a bound socket");
    let url = format!("http://{address}/get_draft?draft_id={DRAFT_ID}");
    let response = test_env.function.invoke(&post_url(url)).await.response();
    assert_eq!(response["statusCode"], 200);
    let connection = server.accept().map_err(|error| error.kind());
    assert!(
        matches!(connection, Err(ErrorKind::WouldBlock)),
        "nobody connected: {connection:?}"
    );
}

#[tokio::test]
async fn no_input_becomes_a_response_header() {
    let test_env = TestEnv::start().await;
    let injected = "a\r\nX-Injected: yes\r\n\r\n<p>";
    let encoded = utf8_percent_encode(injected, NON_ALPHANUMERIC);
    let mut path = post_url(DRAFT_URL);
    path["rawPath"] = format!("/openapi/{injected}/save_draft").into();
    for (status, request) in [
        (
            200,
            post_url(format!(
                "https://example.com/{encoded}?x={encoded}&draft_id={DRAFT_ID}#{encoded}"
            )),
        ),
        (
            400,
            post_url(format!(
                "https://example.com/?draft_id={DRAFT_ID}{injected}"
            )),
        ),
        (400, post(injected)),
        (404, post_id("missing")),
        (200, path),
    ] {
        let response = test_env.function.invoke(&request).await.response();
        assert_eq!(response["statusCode"], status, "{request}");
        let headers = response["headers"].as_object().expect("headers");
        let names: Vec<_> = headers.keys().map(String::as_str).collect();
        let mut expected = vec!["cache-control", "content-type"];
        if status == 200 {
            expected.extend(["draft-saved", "draft-version"]);
        }
        assert_eq!(names, expected, "{request}");
        assert_eq!(response["cookies"], json!([]));
    }
}

#[tokio::test]
async fn no_input_becomes_a_line_of_the_log() {
    let test_env = TestEnv::start().await;
    let encoded = utf8_percent_encode(FORGED, NON_ALPHANUMERIC).to_string();
    let mut inputs = vec![
        post(FORGED),
        post(json!({FORGED: FORGED, "draft_url": FORGED}).to_string()),
        post_url(format!("https://{FORGED}/?draft_id={DRAFT_ID}")),
        post_id(&encoded),
        json!({"draft_id": FORGED}),
        json!({"draft_id": {FORGED: FORGED}}),
        json!(FORGED),
        json!({"Records": [{"eventSource": format!("{FORGED}:s3")}]}),
        json!({"Records": FORGED}),
        json!({"Event": FORGED}),
        json!({"detail-type": FORGED, "source": FORGED, "detail": FORGED}),
    ];
    for (name, pointers) in [
        ("api-gateway-http", &["/rawPath", "/headers/host"][..]),
        (
            "s3",
            &[
                "/Records/0/eventName",
                "/Records/0/eventSource",
                "/Records/0/s3/bucket/name",
                "/Records/0/s3/object/key",
            ],
        ),
        (
            "eventbridge-s3",
            &["/source", "/detail-type", "/detail/object/key"],
        ),
        ("sns", &["/Records/0/Sns/Message"]),
        ("sqs", &["/Records/0/body", "/Records/0/messageId"]),
    ] {
        for pointer in pointers {
            for text in [FORGED, &encoded] {
                let mut input = event(name);
                *input.pointer_mut(pointer).expect(pointer) = text.into();
                inputs.push(input);
            }
        }
    }
    for input in &inputs {
        test_env.invoke_logged(input).await;
    }
    for line in test_env.function.lines() {
        let entry: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("each line is JSON ({error}): {line}"));
        let is_own = entry["request_id"].is_string();
        assert!(is_own && entry["message"] != "forged", "{line}");
    }
}

#[tokio::test]
async fn logged_texts_are_short_and_without_invisible_characters() {
    let test_env = TestEnv::start().await;
    let long = "https://user:secret@example.com/".repeat(8_000);
    let message: &'static str = Box::leak(
        format!("InvalidArgument</Code><Message>{}", "x".repeat(1 << 20)).into_boxed_str(),
    );
    let refused = When::any().and(|request| request.key.contains("/refused/"));
    test_env.s3.fault(refused, Fault::Error(400, message));

    let invisible = "drafts/\u{9b}\u{2028}\u{202e}\u{7f}\u{feff}\n";
    let mut bridge = event("eventbridge-s3");
    bridge["detail"]["object"]["key"] = invisible.into();
    let mut notification = event("s3");
    notification["Records"][0]["s3"]["object"]["key"] = json!("drafts/%C2%9B%E2%80%A8%E2%80%AE%7F");
    let mut long_key = event("eventbridge-s3");
    long_key["detail"]["object"]["key"] = long.as_str().into();
    let unknown = json!({"Records": [{"eventSource": long}]});
    let mut batch = event("sqs");
    batch["Records"] = json!([batch["Records"][0]]);
    batch["Records"][0]["body"] = unknown.to_string().into();
    for event in [
        unknown,
        batch,
        bridge,
        notification,
        long_key,
        json!({"draft_id": "refused"}),
    ] {
        let (_, lines) = test_env.invoke_logged(&event).await;
        assert_eq!(lines.len(), 1, "one line for each input");
    }
    for line in test_env.function.lines() {
        let start: String = line.chars().take(300).collect();
        assert!(
            line.len() < 2_000,
            "{} bytes in a line: {start}",
            line.len()
        );
        assert!(
            line.chars().all(|c| matches!(c, ' '..='~')),
            "no invisible character in a line: {line:?}"
        );
        let is_key = line.contains("\"key\"");
        assert!(
            is_key || !line.contains("secret"),
            "no value of an input: {line}"
        );
    }
}

#[tokio::test]
async fn texts_of_the_credentials_endpoint_are_short_and_without_invisible_characters() {
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = server.local_addr().expect("a bound socket");
    thread::spawn(move || {
        let text = "\u{9b}\u{202e}".repeat(4_000);
        let body = json!({"Code": text, "Message": text}).to_string();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let length = body.len();
        let response = format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        for mut stream in server.incoming().flatten() {
            // The test does not depend on the request, which is one segment.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.as_bytes());
        }
    });
    let endpoint = format!("http://{address}/credentials");
    let test_env = TestEnv::with(&[
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &endpoint),
    ])
    .await;
    let (_, lines) = test_env.invoke_logged(&event("direct-id")).await;
    let error = lines[0]["error"].as_str().expect("a cause");
    assert!(error.contains("failed to load credentials"), "{error}");
    for line in test_env.function.lines() {
        assert!(line.len() < 3_000, "{} bytes in a line", line.len());
        assert!(
            line.chars().all(|c| matches!(c, ' '..='~')),
            "no invisible character in a line: {line:?}"
        );
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
        inputs.push(post_url(value.clone()));
        inputs.push(post(value.to_string()));
        inputs.push(json!({"draft_url": value}));
        inputs.push(json!({"draft_id": value}));
        inputs.push(json!({"Records": value}));
        inputs.push(json!({"Records": [value]}));
        inputs.push(json!({"Message": value}));
        inputs.push(json!({"Message": value.to_string()}));
        inputs.push(json!({"Event": value}));
        inputs.push(json!({"detail-type": "x", "source": "x", "detail": value}));
        inputs.push(json!({"detail-type": "x", "source": value, "detail": {}}));
        for body in [json!(value.to_string()), value.clone()] {
            let message = json!({"eventSource": "aws:sqs", "messageId": "1", "body": body});
            inputs.push(json!({"Records": [message]}));
        }
        inputs.push(json!({"Records": [{"eventSource": "aws:sns", "Sns": value}]}));
        inputs.push(json!({"Records": [{"eventSource": "aws:s3", "s3": value}]}));
        inputs.push(value);
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

#[tokio::test]
async fn callers_get_documented_texts_and_causes_are_only_logged() {
    let test_env = TestEnv::with(&[("MAX_DRAFT_BYTES", "1000")]).await;
    test_env.put_draft("short", "{\"id\":");
    test_env.put_draft("large", format!("{{}}{}", " ".repeat(1_000)));
    for id in ["unreadable", "unwritable", "busy"] {
        test_env.put_draft(id, "{}");
    }
    for (prefix, fault) in [
        ("drafts/unreadable/", Fault::ACCESS_DENIED),
        ("saved/unwritable/", Fault::ACCESS_DENIED),
        ("drafts/busy/", Fault::SLOW_DOWN),
    ] {
        let requests = When::any().key_starts_with(prefix);
        test_env.s3.fault(requests, fault);
    }
    let failed = ("SaveFailed", "Save failed");
    let unavailable = ("ServiceUnavailable", "Service unavailable");
    let not_found = ("DraftNotFound", "Draft does not exist");
    for (id, (kind, detail), cause) in [
        ("short", failed, "incomplete JSON"),
        ("large", failed, "more than the limit of 1000"),
        ("unreadable", failed, "AccessDenied"),
        ("unwritable", failed, "AccessDenied"),
        ("busy", unavailable, "SlowDown"),
        ("missing", not_found, "NoSuchKey"),
    ] {
        let response = test_env.function.invoke(&post_id(id)).await.response();
        let body = json!({"detail": detail}).to_string();
        assert_eq!(response["body"], body, "{id}");
        let headers = response["headers"].as_object().expect("headers");
        let mut names = vec!["cache-control", "content-type"];
        names.extend((kind == "ServiceUnavailable").then_some("retry-after"));
        assert!(headers.keys().eq(names), "{id}: {headers:?}");

        let direct = json!({"draft_id": id});
        let (outcome, lines) = test_env.invoke_logged(&direct).await;
        assert_eq!(
            outcome.error(),
            (kind.to_owned(), detail.to_owned()),
            "{id}"
        );
        let error = lines[0]["error"].as_str().expect("a cause");
        assert!(
            error.contains(cause),
            "{id}: the log has the cause: {error}"
        );
    }
}
