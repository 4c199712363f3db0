//! What somebody may try who means harm: ids that are paths, line breaks for headers and for
//! logs, questions for causes and secrets. Through the real binary.

use std::io::ErrorKind;
use std::net::TcpListener;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, event, post, post_id, post_url,
};
use test_support::s3::{Fault, Op, When};

use crate::common::TestEnv;

/// A JSON object on a line of its own, as the log has them.
const FORGED: &str = "\r\n{\"level\":\"INFO\",\"message\":\"forged\"}\n";

/// Ids that are none, as the text that is looked up.
fn tricks() -> Vec<String> {
    let tricks = [
        "",
        ".",
        "..",
        "...",
        "../secret",
        "..\\secret",
        "./2025092811473036584258",
        "/secret",
        "2025092811473036584258/../secret",
        "2025092811473036584258/",
        "2025092811473036584258.",
        "2025092811473036584258\0",
        "2025092811473036584258\0.json",
        "\0",
        "2025092811473036584258\r\nx: y",
        "2025092811473036584258\n",
        "2025092811473036584258\u{85}",
        "2025092811473036584258\u{2028}",
        " 2025092811473036584258",
        "2025092811473036584258 ",
        "2025 092811473036584258",
        "２０２５０９２８１１４７３０３６５８４２５８",
        "．．／secret",
        "٢٠٢٥",
        "2025092811473036584258\u{301}",
        "\u{202e}8524",
        "é",
        "%2e%2e%2fsecret",
        "%252e%252e%252fsecret",
        "%c0%ae%c0%ae%c0%afsecret",
        "2025092811473036584258%00",
        "{draft_id}",
        "*",
        "?",
        "a:b",
        "a;b",
        "a,b",
        "a=b",
        "a&b",
        "~",
        "$(id)",
        "<script>",
    ];
    let mut tricks: Vec<_> = tricks.iter().map(|&trick| trick.to_owned()).collect();
    tricks.extend([65, 1_000, 1_900].map(|length| "9".repeat(length)));
    tricks
}

#[tokio::test]
async fn no_trick_with_an_id_reaches_the_store() {
    let test_env = TestEnv::start().await;
    for bait in [
        "secret",
        "drafts/secret",
        "draft_content.json",
        "drafts/draft_content.json",
    ] {
        test_env.s3.put(BUCKET, bait, "{}");
    }
    let invalid = json!({"detail": "Invalid draft_url format"});
    let invalid_id = (
        "InvalidRequest".to_owned(),
        "Invalid draft_id format".to_owned(),
    );
    for trick in tricks() {
        let encoded = utf8_percent_encode(&trick, NON_ALPHANUMERIC).to_string();
        let twice = utf8_percent_encode(&encoded, NON_ALPHANUMERIC).to_string();
        for id in [&encoded, &twice] {
            let answer = test_env.function.invoke(&post_id(id)).await.response();
            assert_eq!(answer["statusCode"], 400, "{trick:?} as {id}");
            assert_eq!(body(&answer), invalid, "{trick:?} as {id}");
        }
        let direct = test_env.function.invoke(&json!({"draft_id": trick})).await;
        assert_eq!(direct.error(), invalid_id, "{trick:?}");

        let mut notification = event("s3");
        notification["Records"][0]["s3"]["object"]["key"] = draft_key(&encoded).into();
        let answer = test_env.function.invoke(&notification).await.response();
        assert_eq!(answer, json!({"saves": [], "skipped": 1}), "{trick:?}");

        let mut bridge = event("eventbridge-s3");
        bridge["detail"]["object"]["key"] = draft_key(&trick).into();
        let answer = test_env.function.invoke(&bridge).await.response();
        assert_eq!(answer, json!({"saves": [], "skipped": 1}), "{trick:?}");
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

/// What a URL has beside a good id, written as it is: nothing of it becomes a part of a key.
#[tokio::test]
async fn only_the_configured_keys_are_asked_for() {
    let test_env = TestEnv::start().await;
    for url in [
        format!("https://example.com/../../{DRAFT_ID}x?draft_id={DRAFT_ID}"),
        format!("https://example.com/%2e%2e/?draft_id={DRAFT_ID}"),
        format!("https://user:password@example.com:8443/?a=../b&draft_id={DRAFT_ID}#../c"),
        format!("https://example.com/?draft_id=%32{}", &DRAFT_ID[1..]),
        format!("https://example.com/?draft_id=20250928{}", "0".repeat(56)),
        "https://example.com/?draft_id=-".to_owned(),
        "https://example.com/?draft_id=__proto__".to_owned(),
        "https://example.com/?draft_id=CON".to_owned(),
    ] {
        let answer = test_env
            .function
            .invoke(&post_url(url.as_str()))
            .await
            .response();
        let status = &answer["statusCode"];
        assert!(*status == 200 || *status == 404, "{status} for {url}");
    }
    // Keys that only look like a draft's.
    for key in [
        "drafts/2025092811473036584258/draft_content.json.bak",
        "Drafts/2025092811473036584258/draft_content.json",
        "drafts/2025092811473036584258/assets/draft_content.json",
        "/drafts/2025092811473036584258/draft_content.json",
        "saved/2025092811473036584258/20250928T114730Z-1f3a5c7e9b2d4a60/draft_content.json",
        "saved/drafts/2025092811473036584258/draft_content.json",
        "drafts/2025092811473036584258%2Fdraft_content.json%00",
    ] {
        let mut notification = event("s3");
        notification["Records"][0]["s3"]["object"]["key"] = key.into();
        let answer = test_env.function.invoke(&notification).await.response();
        assert_eq!(answer, json!({"saves": [], "skipped": 1}), "{key}");
    }
    let requests = test_env.s3.requests();
    assert!(requests.len() > 8);
    for request in requests {
        let (bucket, key) = (&request.bucket, &request.key);
        let id = match request.op {
            Op::GetObject => key.strip_prefix("drafts/"),
            Op::PutObject => key.strip_prefix("saved/"),
            _ => None,
        };
        let (id, rest) = id.and_then(|rest| rest.split_once('/')).expect(key);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        assert!(id.len() <= 64 && id.chars().all(plain), "{key}");
        assert!(rest.ends_with("draft_content.json"), "{key}");
        assert!(rest.matches('/').count() <= 1, "{key}");
        assert_eq!(bucket, BUCKET);
    }
}

#[tokio::test]
async fn a_draft_url_is_never_fetched() {
    let test_env = TestEnv::start().await;
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    server.set_nonblocking(true).expect("it is a socket");
    let address = server.local_addr().expect("it is bound");
    let url = format!("http://{address}/get_draft?draft_id={DRAFT_ID}");
    let answer = test_env.function.invoke(&post_url(url)).await.response();
    assert_eq!(answer["statusCode"], 200);
    let visit = server.accept().map_err(|error| error.kind());
    assert!(matches!(visit, Err(ErrorKind::WouldBlock)), "{visit:?}");
}

#[tokio::test]
async fn nothing_of_a_request_becomes_a_header() {
    let test_env = TestEnv::start().await;
    let injected = "a\r\nX-Injected: yes\r\n\r\n<p>";
    let encoded = utf8_percent_encode(injected, NON_ALPHANUMERIC);
    let good = format!("https://example.com/{encoded}?x={encoded}&draft_id={DRAFT_ID}#{encoded}");
    let mut requests = vec![
        (200, post_url(good.as_str())),
        (
            400,
            post_url(format!(
                "https://example.com/{injected}?draft_id={DRAFT_ID}"
            )),
        ),
        (
            400,
            post_url(format!(
                "https://example.com/?draft_id={DRAFT_ID}{injected}"
            )),
        ),
        (
            400,
            post_url(format!("https://example.com/?draft_id={DRAFT_ID}{encoded}")),
        ),
        (400, post(injected)),
        (404, post_id("missing")),
    ];
    // Where a client's text comes to the gateway as its own.
    for path in [
        ["headers", "host"],
        ["headers", "x-note"],
        ["requestContext", "domainName"],
    ] {
        let mut request = post_url(DRAFT_URL);
        request[path[0]][path[1]] = injected.into();
        requests.push((200, request));
    }
    let mut request = post_url(DRAFT_URL);
    request["rawPath"] = format!("/openapi/{injected}/save_draft").into();
    requests.push((200, request));

    for (status, request) in requests {
        let answer = test_env.function.invoke(&request).await.response();
        assert_eq!(answer["statusCode"], status, "{request}");
        let headers = answer["headers"].as_object().expect("headers");
        let names: Vec<_> = headers.keys().map(String::as_str).collect();
        let expected: &[&str] = match status {
            200 => &[
                "cache-control",
                "content-type",
                "draft-saved",
                "draft-version",
            ],
            _ => &["cache-control", "content-type"],
        };
        assert_eq!(names, expected);
        for value in headers.values() {
            let value = value.as_str().expect("a text");
            assert!(!value.contains(['\r', '\n', '<']), "{value:?}");
        }
        assert_eq!(answer["cookies"], json!([]));
    }
}

#[tokio::test]
async fn nothing_of_an_input_becomes_a_line_of_the_log() {
    let test_env = TestEnv::start().await;
    let encoded = utf8_percent_encode(FORGED, NON_ALPHANUMERIC).to_string();
    let mut inputs = vec![
        post(FORGED),
        post(format!("{{\"draft_url\":{FORGED}")),
        post(json!(FORGED).to_string()),
        post(json!({FORGED: FORGED, "draft_url": FORGED}).to_string()),
        post_url(FORGED),
        post_url(format!("https://example.com/{FORGED}?draft_id={DRAFT_ID}")),
        post_url(format!("https://{FORGED}/?draft_id={DRAFT_ID}")),
        post_id(FORGED),
        post_id(&encoded),
        json!({"draft_id": FORGED}),
        json!({"draft_url": FORGED}),
        json!({"draft_id": {FORGED: FORGED}}),
        json!({FORGED: FORGED}),
        json!(FORGED),
        json!({"Records": [{"eventSource": FORGED}]}),
        json!({"Records": [{"eventSource": format!("{FORGED}:s3")}]}),
        json!({"Records": FORGED}),
        json!({"Event": FORGED}),
        json!({"Message": FORGED}),
        json!({"detail-type": FORGED, "source": FORGED, "detail": FORGED}),
    ];
    for (name, pointers) in [
        (
            "api-gateway-http",
            &[
                "/rawPath",
                "/headers/host",
                "/requestContext/stage",
                "/requestContext/requestId",
            ][..],
        ),
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
            &[
                "/source",
                "/detail-type",
                "/detail/bucket/name",
                "/detail/object/key",
            ],
        ),
        (
            "sns",
            &["/Records/0/Sns/Message", "/Records/0/Sns/MessageId"],
        ),
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
        test_env.function.invoke(input).await;
    }
    // What is written comes in order: when this one's is here, all is.
    let last = test_env.function.begin(&post_url(DRAFT_URL));
    let request_id = last.request_id.clone();
    last.outcome().await;
    test_env.function.logs_for(&request_id).await;

    let lines = test_env.function.lines();
    assert!(lines.len() > inputs.len());
    for line in lines {
        let entry: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}, in the line {line}"));
        assert_ne!(entry["message"], "forged");
        let ours = entry["target"] == "save_draft::telemetry" || entry.get("_aws").is_some();
        assert!(ours, "{line}");
    }
}

/// What must not be in a log: each is where the function has to do with it.
const SECRETS: [&str; 9] = [
    "local-secret",
    "local-session-token",
    // In the drafts.
    "secret-caption",
    // In URLs.
    "secret-user",
    "secret-password",
    "secret-query",
    "secret.example.com",
    // In what S3 says of a wrong signature.
    "secret-string-to-sign",
    // How a request is signed.
    "AWS4-HMAC-SHA256",
];

#[tokio::test]
async fn logs_hold_no_secret_and_nothing_of_a_draft() {
    const REPEATED: &str = "SignatureDoesNotMatch</Code><Message>no</Message>\
        <StringToSign>secret-string-to-sign</StringToSign><Code>SignatureDoesNotMatch";
    let draft = r#"{"id":"secret-caption","tracks":["secret-caption"]"#;
    for level in ["INFO", "TRACE"] {
        let test_env = TestEnv::with(&[
            ("AWS_LAMBDA_LOG_LEVEL", level),
            ("AWS_SESSION_TOKEN", "local-session-token"),
            ("MAX_DRAFT_BYTES", "1000"),
        ])
        .await;
        test_env.put_draft("whole", format!("{draft}}}"));
        test_env.put_draft("short", draft);
        test_env.put_draft("mangled", format!("{draft} secret-caption}}"));
        test_env.put_draft("list", format!("[{draft}}}]"));
        test_env.put_draft("large", format!("{draft}}}{}", " ".repeat(1_000)));
        test_env.put_draft("refused", format!("{draft}}}"));
        test_env.put_draft("cut", format!("{draft}}}"));
        test_env.put_draft("unsigned", format!("{draft}}}"));
        let for_id = |id: &str| {
            let id = format!("/{id}/");
            When::any().and(move |request| request.key.contains(&id))
        };
        test_env.s3.fault(for_id("refused"), Fault::ACCESS_DENIED);
        test_env.s3.fault(for_id("cut"), Fault::CutBody(20));
        test_env
            .s3
            .fault(for_id("unsigned"), Fault::Error(403, REPEATED));

        let url = |id: &str| {
            format!(
                "https://secret-user:secret-password@secret.example.com/?t=secret-query&draft_id={id}"
            )
        };
        let ids = [
            "whole", "short", "mangled", "list", "large", "refused", "cut", "unsigned", "missing",
        ];
        let mut inputs: Vec<Value> = ids.iter().map(|id| post_url(url(id))).collect();
        inputs.extend(ids.iter().map(|id| json!({"draft_url": url(id)})));
        inputs.push(post_url(url("..")));
        inputs.push(post_url(format!("ftp{}", url("whole"))));
        inputs.push(post_url(json!([url("whole")])));
        inputs.push(post(json!(url("whole")).to_string()));
        inputs.push(post(json!([url("whole")]).to_string()));
        inputs.push(json!({"draft_url": [url("whole")]}));
        inputs.push(json!({"draft_id": url("whole")}));
        inputs.push(json!(url("whole")));
        inputs.push(json!({"Records": url("whole")}));
        inputs.push(json!({"Records": [url("whole")]}));
        inputs.push(json!({"Message": json!(url("whole")).to_string()}));
        inputs.push(json!({"Event": url("whole")}));
        inputs.push(json!({"detail-type": "x", "source": "x", "detail": url("whole")}));
        let mut batch = event("sqs");
        for (message, input) in batch["Records"]
            .as_array_mut()
            .expect("a list")
            .iter_mut()
            .zip([
                json!(url("whole")).to_string(),
                url("whole"),
                json!({"draft_url": url("..")}).to_string(),
                json!({"draft_url": url("short")}).to_string(),
            ])
        {
            message["body"] = input.into();
        }
        inputs.push(batch);
        for input in &inputs {
            let pending = test_env.function.begin(input);
            let request_id = pending.request_id.clone();
            pending.outcome().await;
            let told = test_env.function.logs_for(&request_id).await;
            // Who has to look into it finds what it was.
            assert!(told.len() > 1, "{input} left no line");
        }
        assert_eq!(
            test_env.versions("whole").len(),
            1,
            "they were saved at all"
        );
        for line in test_env.function.lines() {
            for secret in SECRETS {
                assert!(!line.contains(secret), "{secret} is in the line {line}");
            }
        }
    }
}

#[tokio::test]
async fn answers_tell_no_causes() {
    let test_env = TestEnv::with(&[("MAX_DRAFT_BYTES", "1000")]).await;
    test_env.put_draft("short", "{\"id\":");
    test_env.put_draft("empty", "");
    test_env.put_draft("large", format!("{{}}{}", " ".repeat(1_000)));
    test_env.put_draft("refused", "{}");
    test_env.put_draft("busy", "{}");
    test_env.put_draft("unwritten", "{}");
    let for_id = |op: Op, id: &str| When::op(op).key_starts_with(format!("drafts/{id}/"));
    test_env
        .s3
        .fault(for_id(Op::GetObject, "refused"), Fault::ACCESS_DENIED);
    test_env
        .s3
        .fault(for_id(Op::GetObject, "busy"), Fault::SLOW_DOWN);
    let write = When::op(Op::PutObject).key_starts_with("saved/unwritten/");
    test_env.s3.fault(write, Fault::ACCESS_DENIED);

    let failed = ("SaveFailed", "Save failed");
    for (id, status, (kind, detail)) in [
        ("short", 500, failed),
        ("empty", 500, failed),
        ("large", 500, failed),
        ("refused", 500, failed),
        ("unwritten", 500, failed),
        ("busy", 503, ("ServiceUnavailable", "Service unavailable")),
        ("missing", 404, ("DraftNotFound", "Draft does not exist")),
    ] {
        let answer = test_env.function.invoke(&post_id(id)).await.response();
        assert_eq!(answer["statusCode"], status, "{id}");
        assert_eq!(body(&answer), json!({"detail": detail}), "{id}");
        let mut names = vec!["cache-control", "content-type"];
        names.extend((status == 503).then_some("retry-after"));
        let headers = answer["headers"].as_object().expect("headers");
        assert!(headers.keys().eq(names), "{headers:?}");
        // The causes are known, and the log has them.
        let outcome = test_env.function.invoke(&json!({"draft_id": id})).await;
        assert_eq!(
            outcome.error(),
            (kind.to_owned(), detail.to_owned()),
            "{id}"
        );
        let told = |line: &Value| line["draft_id"] == id && line["error"].is_string();
        test_env.function.wait_for_line(told).await;
    }
}

/// The body of an answer.
fn body(answer: &Value) -> Value {
    let text = answer["body"].as_str().expect("a body");
    serde_json::from_str(text).expect("the body is JSON")
}
