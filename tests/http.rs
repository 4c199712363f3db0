//! HTTP requests, and the responses that each gateway and its client get.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, method_mut, post, post_id,
    post_url, sample_draft, sha256_hex,
};
use test_support::function::InProcess;
use test_support::s3::{Fault, Op, When};

use crate::common::{self, TestEnv};
use crate::events::Form::{self, HttpApi};
use crate::events::http_events;

/// Returns a response in the form that a gateway expects ("Lambda proxy integrations in API Gateway"
/// and "Create AWS Lambda proxy integrations for HTTP APIs", API Gateway Developer Guide; "Use Lambda
/// functions as targets of an Application Load Balancer", Elastic Load Balancing User Guide).
/// `headers` are those that not all responses have.
fn response(form: Form, status: u64, body: &Value, headers: &[(&str, &str)]) -> Value {
    let common = [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
    ];
    let headers: BTreeMap<_, _> = common.iter().chain(headers).copied().collect();
    let lists = headers.iter().map(|(name, value)| (name, [value]));
    let lists: BTreeMap<_, _> = lists.collect();
    let mut response = json!({
        "statusCode": status,
        "headers": headers,
        "multiValueHeaders": {},
        "body": body.to_string(),
        "isBase64Encoded": false,
    });
    match form {
        Form::RestApi => {
            response["headers"] = json!({});
            response["multiValueHeaders"] = json!(lists);
        }
        Form::LoadBalancer => {
            response["multiValueHeaders"] = json!(lists);
            response["statusDescription"] = match status {
                200 => json!("200 OK"),
                503 => json!("503 Service Unavailable"),
                other => panic!("the test has no description for status {other}"),
            };
        }
        _ => response["cookies"] = json!([]),
    }
    response
}

/// Returns the response to a request that has saved the example draft.
pub fn saved(form: Form, version: &str, saved: &str) -> Value {
    let headers = [("draft-version", version), ("draft-saved", saved)];
    response(form, 200, &json!({"draft_url": DRAFT_URL}), &headers)
}

/// Returns the response to a request that failed.
pub fn error(form: Form, status: u64, detail: &str) -> Value {
    let headers: &[_] = match status {
        405 => &[("allow", "POST")],
        503 => &[("retry-after", "1")],
        _ => &[],
    };
    response(form, status, &json!({"detail": detail}), headers)
}

impl TestEnv {
    /// Sends an HTTP request; returns the response.
    async fn send(&self, event: &Value) -> Value {
        self.invoke(event).await.response()
    }

    /// Returns the bytes of the only version of the draft `id`.
    #[track_caller]
    fn only_version(&self, id: &str) -> Vec<u8> {
        let versions = self.versions(id);
        assert_eq!(versions.len(), 1, "{id} has one version: {versions:?}");
        let bytes = self.s3.get(BUCKET, &versions[0]);
        bytes.expect("a listed version exists")
    }
}

#[tokio::test]
async fn a_post_to_a_path_that_ends_in_save_draft_is_a_save() {
    let test_env = TestEnv::start().await;
    let long = format!("/{}/save_draft", "x".repeat(100_000));
    for (path, is_found) in [
        ("/save_draft", true),
        ("/草稿/save_draft", true),
        ("//a b/%ff/../|^`{}<>\"\\/\u{0}/save_draft", true),
        ("", false),
        ("/", false),
        ("/save_drafts", false),
        ("/a_save_draft", false),
        ("/save_draft/", false),
        ("/Save_Draft", false),
        ("/x?y=/save_draft", true),
        ("/%", false),
        ("http://[::1", false),
        (&long, true),
    ] {
        for method in ["POST", "GET", "OPTIONS", "BREW"] {
            let mut event = event("api-gateway-http");
            event["rawPath"] = json!(path);
            *method_mut(&mut event) = json!(method);
            let response = test_env.send(&event).await;
            if !is_found {
                let expected = error(HttpApi, 404, "Not Found");
                assert_eq!(response, expected, "{method} {path:.99}");
            } else if method == "POST" {
                assert_eq!(response["statusCode"], 200, "{method} {path:.99}");
            } else {
                let expected = error(HttpApi, 405, "Method Not Allowed");
                assert_eq!(response, expected, "{method} {path:.99}");
            }
        }
    }
}

/// The log has the cause.
#[tokio::test]
async fn returns_400_when_the_body_does_not_name_a_draft() {
    let required = |cause: &'static str| ("draft_url is required", cause);
    let not_an_object = |cause: &'static str| ("The request body must be a JSON object", cause);
    let invalid = |cause: &'static str| ("Invalid draft_url format", cause);
    let no_body = required("the request has no body");
    let no_url = required("the body has no draft_url");
    let empty_url = required("draft_url is empty");
    let no_object = not_an_object("the text is not a JSON object");
    let no_string = invalid("draft_url must be a string");
    let too_long = invalid("the URL is longer than 2048 characters");
    let no_id = invalid("the URL has no draft_id parameter");
    let base64 = |body: &str| {
        let mut event = post(body);
        event["isBase64Encoded"] = json!(true);
        event
    };
    let not_utf8 = BASE64_STANDARD.encode(b"{\"draft_url\": \"\xff\"}");
    let twice = r#"{"draft_url": "a", "draft_url": "b"}"#;
    let surrogate = r#"{"draft_url": "https://example.com/?draft_id=1&x=\ud800"}"#;
    let mut without_body = post("");
    without_body["body"] = Value::Null;
    let test_env = TestEnv::start().await;
    for (event, (detail, cause)) in [
        (without_body, no_body),
        (post(""), no_body),
        (post("\u{feff}"), no_body),
        (post(" \r\n\t"), no_body),
        (post(" {} "), no_url),
        (post(r#"{"draft_id": "1"}"#), no_url),
        (post(r#"{"Draft_Url": "1"}"#), no_url),
        (post_url(Value::Null), no_url),
        (post_url(""), empty_url),
        (post_url("\t\u{3000}\u{a0}"), empty_url),
        (post("null"), no_object),
        (post("\"{}\""), no_object),
        (post("[{}]"), no_object),
        (post("draft_url=1"), no_object),
        (post("\u{0}"), no_object),
        (base64("===="), no_object),
        (base64(&not_utf8), not_an_object("invalid JSON")),
        (post(r#"{"a": 1"#), not_an_object("incomplete JSON")),
        (post("{} {}"), not_an_object("invalid JSON")),
        (post("{'a': 1}"), not_an_object("invalid JSON")),
        (post(r#"{"\ud800": 1}"#), not_an_object("invalid JSON")),
        (post(twice), not_an_object("unexpected JSON value")),
        (post_url(42), no_string),
        (post_url(json!([DRAFT_URL])), no_string),
        (post_url(json!({"a": DRAFT_URL})), no_string),
        (post(surrogate), no_string),
        (post_url(long_url(2049, 'x')), too_long),
        (post_url("https://a.example/"), no_id),
    ] {
        let (outcome, lines) = test_env.invoke_logged(&event).await;
        let expected = error(HttpApi, 400, detail);
        assert_eq!(outcome.response(), expected, "{}", event["body"]);
        let error = lines[0]["error"].as_str().expect("a cause");
        assert!(error.starts_with(cause), "{}: {error}", event["body"]);
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");
}

#[tokio::test]
async fn the_format_code_has_the_version_in_the_body() {
    let test_env = TestEnv::with(&[("RESPONSE_FORMAT", "code")]).await;
    let version = test_env.put_dated(DRAFT_ID, &sample_draft());
    for saved in ["created", "unchanged"] {
        let body = json!({"code": 0, "message": "success", "draft_url": DRAFT_URL,
            "version": version, "saved": saved});
        let headers = [("draft-version", version.as_str()), ("draft-saved", saved)];
        let expected = response(HttpApi, 200, &body, &headers);
        assert_eq!(test_env.send(&post_url(DRAFT_URL)).await, expected);
    }
    // Results of events do not depend on the format.
    let result = test_env.invoke(&event("direct-id")).await;
    let expected = json!({"draft_id": DRAFT_ID, "version": version, "saved": "unchanged"});
    assert_eq!(result.response(), expected);

    test_env.s3.fault(When::any(), Fault::SLOW_DOWN);
    let body = json!({"code": 9998, "message": "Service unavailable"});
    let expected = response(HttpApi, 200, &body, &[("retry-after", "1")]);
    assert_eq!(test_env.send(&post_url(DRAFT_URL)).await, expected);
}

/// Returns a URL of `chars` characters.
fn long_url(chars: usize, filler: char) -> String {
    let url = format!("https://example.com/get_draft?draft_id={DRAFT_ID}&x=");
    let rest = chars - url.chars().count();
    url + &filler.to_string().repeat(rest)
}

#[tokio::test]
async fn the_draft_url_is_returned_unchanged() {
    let test_env = TestEnv::start().await;
    for url in [
        DRAFT_URL,
        "HTTPS://user:word@EXAMPLE.com?draft_id=2025092811473036584258",
        r"http://[::1]:8080/?draft_id=2025092811473036584258&path=C:\drafts",
        "http://my_service.example:30000/?draft_id=2025092811473036584258",
        "https://example.com/?x=1&draft_id=2025092811473036584258&y=%20%zz&#draft_id=other",
        "https://example.com/?%64raft%5fid=%32025092811473036584258",
        "https://例え.jp/草稿/ё?名=Ж&draft_id=2025092811473036584258#ﻩ",
        "https://example.com/?x=😀\"<>\\^`{|}'&draft_id=2025092811473036584258",
        &long_url(2048, 'x'),
        &long_url(2048, '长'),
        &format!("\r\n {DRAFT_URL}\t\u{3000}"),
        &format!("{DRAFT_URL}&x=1&draft_id={DRAFT_ID}"),
    ] {
        let response = test_env.send(&post_url(url)).await;
        assert_eq!(response["statusCode"], 200, "{url}: {response}");
        assert_eq!(response["body"], json!({"draft_url": url}).to_string());
    }
    // JSON has several forms of the same text, and other fields are ignored.
    let expected = r#"{"draft_url":"https://example.com/?draft_id=2025092811473036584258"}"#;
    for body in [
        r#"{"draft_url":"https:\/\/example.com\/?draft_id=\u0032025092811473036584258"}"#,
        r#"{"a":[{"draft_url":1}],"\u0064raft_url":"https://example.com/?draft_id=2025092811473036584258","b":1e999,"c":"\ud800"}"#,
        "\u{feff}\n {\t\"draft_url\" : \"https://example.com/?draft_id=2025092811473036584258\" }\r\n",
    ] {
        let response = test_env.send(&post(body)).await;
        assert_eq!(response["statusCode"], 200, "{body}: {response}");
        assert_eq!(response["body"], expected, "{body}");
    }
}

#[tokio::test]
async fn a_save_makes_one_get_and_one_conditional_put() {
    let test_env = TestEnv::start().await;
    let document = sample_draft();
    let version = test_env.put_dated(DRAFT_ID, &document);
    let response = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(response, saved(HttpApi, &version, "created"));

    let requests = test_env.s3.requests();
    assert_eq!(test_env.gets_and_puts(), (1, 1));
    let (get, put) = (&requests[0], &requests[1]);
    // Path-style: the host is the store itself.
    let host = test_env.s3.endpoint().replace("http://", "");
    assert_eq!((get.header("host"), put.header("host")), (&*host, &*host));
    assert_eq!((&*get.bucket, &*get.key), (BUCKET, &*draft_key(DRAFT_ID)));
    let key = format!("saved/{DRAFT_ID}/{version}/draft_content.json");
    assert_eq!((&*put.bucket, &*put.key), (BUCKET, &*key));

    let etag = test_env.s3.metadata(BUCKET, &draft_key(DRAFT_ID));
    let etag = format!("\"{}\"", etag.expect("the draft exists").etag);
    for (name, value) in [
        ("if-none-match", "*"),
        ("content-type", "application/json"),
        ("content-length", &document.len().to_string()),
        (
            "x-amz-checksum-sha256",
            &BASE64_STANDARD.encode(Sha256::digest(&document)),
        ),
        ("x-amz-meta-draft-id", DRAFT_ID),
        ("x-amz-meta-sha256", &sha256_hex(&document)),
        ("x-amz-meta-source-etag", &etag),
        (
            "x-amz-meta-source-last-modified",
            "2025-09-28T11:47:30.000Z",
        ),
        // The checksum is a header and not a trailer.
        ("x-amz-trailer", ""),
        ("content-encoding", ""),
        ("transfer-encoding", ""),
    ] {
        assert_eq!(put.header(name), value, "{name}");
    }
    let saved_at = put.header("x-amz-meta-saved-at");
    let shape = saved_at.replace(|c: char| c.is_ascii_digit(), "#");
    assert_eq!(shape, "####-##-##T##:##:##.###Z", "{saved_at}");
    let names = put.headers.keys().map(hyper::header::HeaderName::as_str);
    let metadata = names.filter(|name| name.starts_with("x-amz-meta-"));
    assert_eq!(metadata.count(), 5, "there is no other metadata");
    assert_eq!(test_env.only_version(DRAFT_ID), document);
}

#[tokio::test]
async fn documents_are_saved_byte_for_byte() {
    let test_env = TestEnv::start().await;
    let encrypted = "a3e6VQ4f/+Zm9v7x".repeat(100) + "Zg==";
    let documents: [&[u8]; 6] = [
        encrypted.as_bytes(),
        b" {\r\n\t} \n",
        b"\xef\xbb\xbf{\"fps\": NaN, \"a\": -Infinity, \"a\": 1e400}",
        br#"{"text": "\ud83d", "path": "C:\\drafts\\1"}"#,
        r#"{"文字": "你好 \u0000 😀"}"#.as_bytes(),
        &draft_of_size(200_000, 3),
    ];
    for (number, document) in documents.into_iter().enumerate() {
        let id = format!("draft-{number}");
        let version = test_env.put_dated(&id, document);
        let response = test_env.send(&post_id(&id)).await;
        assert_eq!(response["statusCode"], 200, "document {number}: {response}");
        assert_eq!(response["headers"]["draft-version"], version);
        assert!(test_env.only_version(&id) == document, "document {number}");
    }
}

#[tokio::test]
async fn cors_origin_may_call_the_api_from_a_page() {
    let origin = "https://editor.example";
    let test_env = TestEnv::with(&[("CORS_ORIGIN", origin)]).await;
    for event in [post_url(DRAFT_URL), post("{}")] {
        let response = test_env.send(&event).await;
        let header = |name: &str| response["headers"][name].clone();
        assert_eq!(header("access-control-allow-origin"), origin);
        let exposed = "Draft-Version, Draft-Saved, Retry-After";
        assert_eq!(header("access-control-expose-headers"), exposed);
    }

    // HTTP APIs, function URLs and load balancers pass preflight requests on. These may ask for any header.
    for (name, _) in http_events() {
        let mut preflight = event(&name);
        *method_mut(&mut preflight) = json!("OPTIONS");
        preflight["body"] = Value::Null;
        let response = test_env.send(&preflight).await;
        assert_eq!(response["statusCode"], 204, "{name}");
        // A gateway may refuse a response whose body is not a string.
        assert_eq!(response["body"], "", "{name}");
        for (header, expected) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "POST"),
            ("access-control-allow-headers", "Authorization, *"),
        ] {
            let value = response["headers"][header].as_str();
            let value = value.or(response["multiValueHeaders"][header][0].as_str());
            assert_eq!(value, Some(expected), "{name}");
        }
    }
}

/// API Gateway stops waiting after 29 seconds. The save takes longer than that: of three attempts to read
/// the document, each is stalled until the limit of a request or of a body.
#[tokio::test]
async fn an_http_request_ends_within_28_seconds_and_an_event_uses_its_whole_time() {
    let test_env = TestEnv::with(&[("AWS_LAMBDA_MAX_CONCURRENCY", "2")]).await;
    for id in ["http", "event"] {
        test_env.put_draft(id, "{}");
    }
    for id in ["http", "event"] {
        let count = AtomicUsize::new(0);
        let gets = When::op(Op::GetObject).key_starts_with(format!("drafts/{id}/"));
        let third = gets.and(move |_| count.fetch_add(1, Ordering::Relaxed) % 3 == 2);
        test_env.s3.fault(third, Fault::StallBody(0));
    }
    test_env.s3.fault(When::op(Op::GetObject), Fault::Stall);
    // The start of the process is not part of an invocation.
    test_env.function.invoke(&json!({})).await;
    let quarter = Duration::from_mins(15);
    let start = Instant::now();
    let http = post_id("http").to_string();
    let http = test_env.function.begin_within(http, quarter).outcome();
    let event = json!({"draft_id": "event"}).to_string();
    let event = test_env.function.begin_within(event, quarter).outcome();
    tokio::select! {
        outcome = http => {
            let expected = error(HttpApi, 503, "Service unavailable");
            assert_eq!(outcome.response(), expected);
        }
        outcome = event => panic!("the event has time left: {outcome:?}"),
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!((27.0..28.0).contains(&seconds), "{seconds} seconds");
}

/// `cargo lambda watch` sends the remaining milliseconds as the deadline.
#[tokio::test]
async fn the_deadline_may_be_the_remaining_time() {
    let function = InProcess::start().await;
    function
        .s3
        .put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    let payload = post_url(DRAFT_URL).to_string();
    for (remaining_ms, status) in [(600_000, 200), (100, 503), (0, 503)] {
        let outcome = function
            .invoke_until(payload.as_bytes(), remaining_ms)
            .await;
        let response = outcome.expect("the payload is JSON").response();
        assert_eq!(response["statusCode"], status, "{remaining_ms} ms");
    }
    let saves = common::gets_and_puts(&function.s3);
    assert_eq!(saves, (1, 1), "no save is started without time");
}
