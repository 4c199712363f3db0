//! HTTP requests, and the responses that each gateway and its client get.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, post, post_id, post_url,
    sample_draft, sha256_hex,
};
use test_support::runtime::with_timeout;
use test_support::s3::{Fault, Op, S3, When};

use crate::common::{self, TestEnv};
use crate::events::{EVENTS, Form};

/// A response as the client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    status: u64,
    headers: BTreeMap<String, String>,
    body: String,
}

impl HttpResponse {
    /// A response with these headers, and those that all responses have.
    fn new(status: u64, body: &Value, headers: &[(&str, &str)]) -> Self {
        let common = [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
        ];
        let headers = common.iter().chain(headers);
        Self {
            status,
            headers: headers
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: body.to_string(),
        }
    }

    /// The response to a successful save.
    pub fn saved(draft_url: &str, version: &str, saved: &str) -> Self {
        let headers = [("draft-version", version), ("draft-saved", saved)];
        Self::new(200, &json!({"draft_url": draft_url}), &headers)
    }

    fn error(status: u64, detail: &str) -> Self {
        let headers: &[_] = match status {
            405 => &[("allow", "POST")],
            503 => &[("retry-after", "1")],
            _ => &[],
        };
        Self::new(status, &json!({"detail": detail}), headers)
    }

    fn url_required() -> Self {
        Self::error(400, "draft_url is required")
    }

    fn invalid_url() -> Self {
        Self::error(400, "Invalid draft_url format")
    }

    fn not_an_object() -> Self {
        Self::error(400, "The request body must be a JSON object")
    }

    fn draft_not_found() -> Self {
        Self::error(404, "Draft does not exist")
    }

    fn save_failed() -> Self {
        Self::error(500, "Save failed")
    }

    fn unavailable() -> Self {
        Self::error(503, "Service unavailable")
    }

    /// Reads the response to an event of an HTTP API, which must have no other fields.
    #[track_caller]
    fn from_json(response: &Value) -> Self {
        let parsed = Self {
            status: response["statusCode"].as_u64().expect("a status code"),
            headers: serde_json::from_value(response["headers"].clone()).expect("headers"),
            body: response["body"].as_str().unwrap_or_default().to_owned(),
        };
        let mut expected = parsed.to_json(Form::HttpApi);
        if parsed.status == 204 {
            expected["body"] = Value::Null;
        }
        assert_eq!(
            *response, expected,
            "the response has the form of an HTTP API"
        );
        parsed
    }

    /// Returns the response in the form that a gateway expects ("Lambda proxy integrations in API
    /// Gateway" and "Create AWS Lambda proxy integrations for HTTP APIs", API Gateway Developer
    /// Guide; "Use Lambda functions as targets of an Application Load Balancer", Elastic Load
    /// Balancing User Guide).
    pub fn to_json(&self, form: Form) -> Value {
        let lists = self.headers.iter().map(|(name, value)| (name, [value]));
        let lists: BTreeMap<_, _> = lists.collect();
        let mut response = json!({
            "statusCode": self.status,
            "headers": self.headers,
            "multiValueHeaders": {},
            "body": self.body,
            "isBase64Encoded": false,
        });
        match form {
            Form::RestApi => {
                response["headers"] = json!({});
                response["multiValueHeaders"] = json!(lists);
            }
            Form::LoadBalancer => {
                response["multiValueHeaders"] = json!(lists);
                response["statusDescription"] = match self.status {
                    200 => json!("200 OK"),
                    404 => json!("404 Not Found"),
                    503 => json!("503 Service Unavailable"),
                    other => panic!("the test has no description for status {other}"),
                };
            }
            _ => response["cookies"] = json!([]),
        }
        response
    }
}

impl TestEnv {
    /// Sends an event of an HTTP API.
    async fn send(&self, event: &Value) -> HttpResponse {
        HttpResponse::from_json(&self.function.invoke(event).await.response())
    }

    /// Puts a draft with a fixed `Last-Modified`; returns the name of its version.
    fn put_dated(&self, id: &str, document: &[u8]) -> String {
        self.put_draft(id, document);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050);
        self.s3.set_last_modified(BUCKET, &draft_key(id), time);
        format!("20250928T114730Z-{}", sha256_hex(document))
    }

    /// Returns the bytes of the only version of the draft `id`.
    #[track_caller]
    fn only_version(&self, id: &str) -> Vec<u8> {
        let versions = self.versions(id);
        assert_eq!(versions.len(), 1, "{id} has one version: {versions:?}");
        let bytes = self.s3.get(BUCKET, &versions[0]);
        bytes.expect("a listed version exists")
    }

    #[track_caller]
    fn assert_nothing_saved(&self) {
        let versions = self.s3.keys(BUCKET, "saved/");
        assert_eq!(versions, [""; 0], "no version exists");
    }
}

#[tokio::test]
async fn each_gateway_gets_errors_in_its_form() {
    let test_env = TestEnv::start().await;
    let slow = test_env.s3.fault(When::any(), Fault::SLOW_DOWN);
    for is_slow in [true, false] {
        let expected = if is_slow {
            HttpResponse::unavailable()
        } else {
            slow.clear();
            test_env.s3.delete(BUCKET, &draft_key(DRAFT_ID));
            HttpResponse::draft_not_found()
        };
        for (name, form) in EVENTS.into_iter().filter(|(_, form)| form.is_http()) {
            let response = test_env.function.invoke(&event(name)).await.response();
            assert_eq!(response, expected.to_json(form), "{name}");
        }
    }
}

#[tokio::test]
async fn a_post_to_a_path_that_ends_in_save_draft_is_a_save() {
    let test_env = TestEnv::start().await;
    let long = format!("/{}/save_draft", "x".repeat(100_000));
    for (path, is_found) in [
        ("/save_draft", true),
        ("/openapi/capcut-mate/v1/save_draft", true),
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
        for method in ["POST", "GET", "HEAD", "OPTIONS", "BREW"] {
            let mut event = event("api-gateway-http");
            event["rawPath"] = json!(path);
            event["requestContext"]["http"]["method"] = json!(method);
            let response = test_env.send(&event).await;
            if is_found && method == "POST" {
                assert_eq!(response.status, 200, "{method} {path:.99}");
            } else if is_found {
                let expected = HttpResponse::error(405, "Method Not Allowed");
                assert_eq!(response, expected, "{method} {path:.99}");
            } else {
                let expected = HttpResponse::error(404, "Not Found");
                assert_eq!(response, expected, "{method} {path:.99}");
            }
        }
    }
}

#[tokio::test]
async fn a_base64_body_is_decoded() {
    let test_env = TestEnv::start().await;
    let version = test_env.put_dated(DRAFT_ID, &sample_draft());
    let encoded = |body: &[u8]| {
        let mut event = post(BASE64_STANDARD.encode(body));
        event["isBase64Encoded"] = json!(true);
        event
    };
    let body = json!({"draft_url": DRAFT_URL}).to_string();
    let expected = HttpResponse::saved(DRAFT_URL, &version, "created");
    assert_eq!(test_env.send(&encoded(body.as_bytes())).await, expected);

    let not_utf8 = encoded(b"{\"draft_url\": \"\xff\"}");
    assert_eq!(
        test_env.send(&not_utf8).await,
        HttpResponse::not_an_object()
    );
    let mut not_base64 = post("====");
    not_base64["isBase64Encoded"] = json!(true);
    assert_eq!(
        test_env.send(&not_base64).await,
        HttpResponse::not_an_object()
    );
}

#[tokio::test]
async fn returns_400_when_the_body_has_no_draft_url() {
    let test_env = TestEnv::start().await;
    let mut without_body = event("api-gateway-http");
    without_body["body"] = Value::Null;
    let mut events = vec![without_body];
    for body in [
        "",
        "\u{feff}",
        " \r\n\t",
        " {} ",
        r#"{"draft_id": "2025092811473036584258"}"#,
        r#"{"Draft_Url": "https://example.com/?draft_id=1"}"#,
        r#"{"draft_url": null}"#,
        r#"{"draft_url": ""}"#,
        r#"{"draft_url": "\t\u3000\u00a0"}"#,
    ] {
        events.push(post(body));
    }
    for event in events {
        let response = test_env.send(&event).await;
        assert_eq!(response, HttpResponse::url_required(), "{}", event["body"]);
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");
}

#[tokio::test]
async fn returns_400_when_the_body_is_not_a_json_object() {
    let test_env = TestEnv::start().await;
    for body in [
        "null",
        "1",
        r#""https://example.com/?draft_id=1""#,
        r#"[{"draft_url": "https://example.com/?draft_id=1"}]"#,
        "draft_url=https://example.com/?draft_id=1",
        r#"{"draft_url": "https://example.com/?draft_id=1""#,
        r#"{"draft_url": "https://example.com/?draft_id=1"} {}"#,
        r"{'draft_url': 'https://example.com/?draft_id=1'}",
        r#"{"draft_url": "https://example.com/?draft_id=1",}"#,
        "\u{0}",
    ] {
        let response = test_env.send(&post(body)).await;
        assert_eq!(response, HttpResponse::not_an_object(), "{body}");
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");
}

#[tokio::test]
async fn the_format_code_has_the_version_in_the_body() {
    let env = [
        ("RESPONSE_FORMAT", "code"),
        ("CORS_ORIGIN", "https://editor.example"),
    ];
    let test_env = TestEnv::with(&env).await;
    let version = test_env.put_dated(DRAFT_ID, &sample_draft());
    for saved in ["created", "unchanged"] {
        let response = test_env.send(&post_url(DRAFT_URL)).await;
        assert_eq!(response.status, 200);
        let body = json!({"code": 0, "message": "success", "draft_url": DRAFT_URL,
            "version": version, "saved": saved});
        assert_eq!(response.body, body.to_string());
        assert_eq!(response.headers["draft-version"], version);
        assert_eq!(response.headers["draft-saved"], saved);
    }
    let slow = test_env.s3.fault(When::any(), Fault::SLOW_DOWN);
    let response = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(response.status, 200);
    let body = json!({"code": 9998, "message": "Service unavailable"});
    assert_eq!(response.body, body.to_string());
    assert_eq!(response.headers["retry-after"], "1");
    assert_eq!(
        response.headers["access-control-allow-origin"],
        "https://editor.example"
    );
    slow.clear();

    // Results of events do not depend on the format.
    let result = test_env.function.invoke(&event("direct-id")).await;
    let expected = json!({"draft_id": DRAFT_ID, "version": version, "saved": "unchanged"});
    assert_eq!(result.response(), expected);
}

/// Returns a URL of `chars` characters.
fn long_url(chars: usize, filler: char) -> String {
    let url = format!("https://example.com/get_draft?draft_id={DRAFT_ID}&x=");
    let rest = chars - url.chars().count();
    url + &filler.to_string().repeat(rest)
}

#[tokio::test]
async fn returns_400_when_the_draft_url_is_not_valid() {
    let test_env = TestEnv::start().await;
    for value in [
        json!(42),
        json!([DRAFT_URL]),
        json!({"draft_url": DRAFT_URL}),
        json!(DRAFT_ID),
        json!(format!("{DRAFT_URL} x")),
        json!("https://example.com/?id=1"),
        json!("https://example.com/?draft_id=a&draft_id=b"),
        json!("https://example.com/?draft_id=a.b"),
        json!(long_url(2049, 'x')),
    ] {
        let response = test_env.send(&post_url(value.clone())).await;
        assert_eq!(response, HttpResponse::invalid_url(), "{value}");
    }
    let body = r#"{"draft_url": "https://example.com/?draft_id=1&x=\ud800"}"#;
    let response = test_env.send(&post(body)).await;
    assert_eq!(response, HttpResponse::invalid_url(), "a lone surrogate");
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");
}

#[tokio::test]
async fn returns_400_when_the_host_is_not_allowed() {
    let hosts = " capcut-mate.jcaigc.cn,LOCALHOST , 例え.jp,[::1]";
    let test_env = TestEnv::with(&[("DRAFT_URL_HOSTS", hosts)]).await;
    for (host, status) in [
        ("CAPCUT-mate.jcaigc.cn:8443", 200),
        ("localhost:30000", 200),
        ("xn--r8jz45g.jp", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("jcaigc.cn", 400),
        ("capcut-mate.jcaigc.cn@example.com", 400),
        (r"capcut-mate.jcaigc.cn\@example.com", 400),
        (r"example.com\@capcut-mate.jcaigc.cn", 400),
    ] {
        let url = format!("https://{host}/?draft_id={DRAFT_ID}");
        let response = test_env.send(&post_url(url.as_str())).await;
        assert_eq!(response.status, status, "{url}");
    }
}

#[tokio::test]
async fn the_draft_url_is_returned_unchanged() {
    let test_env = TestEnv::start().await;
    for url in [
        DRAFT_URL,
        "http://localhost:30000/openapi/v1/get_draft?draft_id=2025092811473036584258",
        "HTTPS://user:word@EXAMPLE.com?draft_id=2025092811473036584258",
        "https://example.com/?x=1&draft_id=2025092811473036584258&y=%20%zz&#draft_id=other",
        "https://example.com/?%64raft%5fid=%32025092811473036584258",
        "https://例え.jp/草稿/ё?名=Ж&draft_id=2025092811473036584258#ﻩ",
        "https://example.com/?x=😀\"<>\\^`{|}'&draft_id=2025092811473036584258",
        &long_url(2048, 'x'),
        &long_url(2048, '长'),
        &format!("\r\n {DRAFT_URL}\t\u{3000}"),
        &format!("{DRAFT_URL}&x=1&draft_id={DRAFT_ID}"),
        "HTTP://my_host.example:80/?draft_id=2025092811473036584258",
    ] {
        let response = test_env.send(&post_url(url)).await;
        assert_eq!(response.status, 200, "{url}: {}", response.body);
        assert_eq!(response.body, json!({"draft_url": url}).to_string());
    }
    // JSON has several forms of the same text, and other fields are ignored.
    let url = "https://example.com/?draft_id=2025092811473036584258";
    for body in [
        r#"{"draft_url":"https:\/\/example.com\/?draft_id=\u0032025092811473036584258"}"#,
        r#"{"a":[{"draft_url":1}],"\u0064raft_url":"https://example.com/?draft_id=2025092811473036584258","b":1e999,"c":"\ud800"}"#,
        "\u{feff}\n {\t\"draft_url\" : \"https://example.com/?draft_id=2025092811473036584258\" }\r\n",
    ] {
        let response = test_env.send(&post(body)).await;
        assert_eq!(response.status, 200, "{body}: {}", response.body);
        assert_eq!(
            response.body,
            json!({"draft_url": url}).to_string(),
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_save_makes_one_get_and_one_conditional_put() {
    let test_env = TestEnv::start().await;
    let document = sample_draft();
    let version = test_env.put_dated(DRAFT_ID, &document);
    let response = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(
        response,
        HttpResponse::saved(DRAFT_URL, &version, "created")
    );

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

/// The documents have the same size, and SHA-256 digests that begin with the same 16 digits.
#[tokio::test]
async fn documents_of_one_second_with_a_common_hash_prefix_have_two_versions() {
    let test_env = TestEnv::start().await;
    let documents = [
        br#"{"tracks":["yes"],"n":"8b95041e2e0044fb"}"#,
        br#"{"tracks":["yes"],"n":"aa5df5e8d3ad9ced"}"#,
    ];
    for document in documents {
        let version = test_env.put_dated(DRAFT_ID, document);
        assert!(
            version.starts_with("20250928T114730Z-b8037fa407ac7bc9"),
            "{version}"
        );
        let response = test_env.send(&post_url(DRAFT_URL)).await;
        assert_eq!(
            response,
            HttpResponse::saved(DRAFT_URL, &version, "created")
        );
        let key = format!("saved/{DRAFT_ID}/{version}/draft_content.json");
        assert_eq!(
            test_env.s3.get(BUCKET, &key).as_deref(),
            Some(&document[..])
        );
    }
    assert_eq!(test_env.versions(DRAFT_ID).len(), 2);
}

#[tokio::test]
async fn the_endpoint_may_be_set_for_all_services() {
    let test_env = TestEnv::start().await;
    let endpoint = test_env.s3.endpoint();
    let unused = "http://127.0.0.1:1";
    for (service, all) in [(endpoint.as_str(), unused), ("", endpoint.as_str())] {
        let env = [("AWS_ENDPOINT_URL_S3", service), ("AWS_ENDPOINT_URL", all)];
        let function = common::start_function(&test_env.s3, &env).await;
        let response = function.invoke(&post_url(DRAFT_URL)).await.response();
        assert_eq!(response["statusCode"], 200, "S3: {service}, all: {all}");
    }
}

#[tokio::test]
async fn buckets_and_the_prefix_may_be_configured() {
    let env = [
        ("SAVED_BUCKET", "vault"),
        ("DRAFT_PREFIX", "编辑/my drafts+/"),
    ];
    let test_env = TestEnv::with(&env).await;
    test_env.s3.create_bucket("vault");
    let draft = format!("编辑/my drafts+/{DRAFT_ID}/draft_content.json");
    test_env.s3.put(BUCKET, &draft, sample_draft());

    let response = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let version = &response.headers["draft-version"];
    let key = format!("saved/{DRAFT_ID}/{version}/draft_content.json");
    assert_eq!(test_env.s3.keys("vault", ""), [key.as_str()]);
    assert_eq!(test_env.s3.get("vault", &key), Some(sample_draft()));
    test_env.assert_nothing_saved();
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
        assert_eq!(response.status, 200, "document {number}: {}", response.body);
        assert_eq!(response.headers["draft-version"], version);
        assert!(test_env.only_version(&id) == document, "document {number}");
    }
}

#[tokio::test]
async fn returns_500_when_the_document_is_not_valid() {
    let test_env = TestEnv::start().await;
    for (document, cause) in [
        ("", "the document is empty"),
        ("[]", "the document is not a JSON object"),
        (
            r#"{"a": 1"#,
            "the document is not valid JSON: incomplete JSON at line 1, column 7",
        ),
        (
            "a3e6VQ4f/+Zm9v==",
            "the document is not a JSON object, nor a complete encrypted document: Base64 with padding, \
             of at least 1024 characters, got 16",
        ),
    ] {
        test_env.put_draft(DRAFT_ID, document);
        let (outcome, lines) = test_env.invoke_logged(&post_url(DRAFT_URL)).await;
        let response = HttpResponse::from_json(&outcome.response());
        assert_eq!(response, HttpResponse::save_failed(), "{document}");
        assert_eq!(lines[0]["error"], cause, "{document}");
        assert_eq!(test_env.gets_and_puts(), (1, 0), "{document}");
    }
}

#[tokio::test]
async fn a_document_over_the_limit_is_refused_before_it_is_read() {
    let test_env = TestEnv::with(&[("MAX_DRAFT_BYTES", "5000")]).await;
    let version = test_env.put_dated(DRAFT_ID, &draft_of_size(5000, 1));
    let response = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(
        response,
        HttpResponse::saved(DRAFT_URL, &version, "created")
    );
    test_env.s3.clear_requests();

    test_env.put_draft(DRAFT_ID, draft_of_size(5001, 2));
    // The body never arrives.
    let stalled = When::op(Op::GetObject);
    let stalled = test_env.s3.fault(stalled, Fault::StallBody(0));
    let response = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(response, HttpResponse::save_failed());
    assert_eq!(stalled.hits(), 1, "the request is not retried");
    assert_eq!(test_env.gets_and_puts(), (1, 0));
}

#[tokio::test]
async fn returns_404_when_the_draft_is_missing() {
    let test_env = TestEnv::start().await;
    let id = "20251126220753b7e35362";
    let sidecar = format!("drafts/{id}/draft_meta_info.json");
    test_env.s3.put(BUCKET, &sidecar, b"{}");
    let response = test_env.send(&post_id(id)).await;
    assert_eq!(response, HttpResponse::draft_not_found());
    // Of a document with either name.
    assert_eq!(test_env.gets_and_puts(), (2, 0));
}

/// `faults` has the errors that S3 answers to a request.
#[tokio::test]
async fn returns_500_when_a_retry_would_fail_too() {
    let test_env = TestEnv::start().await;
    for variable in ["DRAFT_BUCKET", "SAVED_BUCKET", "AWS_SECRET_ACCESS_KEY"] {
        let env = [(variable, "does-not-exist")];
        let function = common::start_function(&test_env.s3, &env).await;
        let response = function.invoke(&post_url(DRAFT_URL)).await.response();
        let response = HttpResponse::from_json(&response);
        assert_eq!(response, HttpResponse::save_failed(), "{variable}");
    }
    test_env.assert_nothing_saved();
}

#[tokio::test]
async fn returns_503_in_maintenance_unless_a_retry_would_fail() {
    let maintenance = TestEnv::with(&[("MAINTENANCE", "true")]).await;
    let response = maintenance.send(&post_url(DRAFT_URL)).await;
    assert_eq!(response, HttpResponse::unavailable());
    let response = maintenance.send(&post_url("not a URL")).await;
    assert_eq!(response, HttpResponse::invalid_url());
    assert_eq!(maintenance.gets_and_puts(), (0, 0));
}

/// `faults` has requests that stall.
#[tokio::test]
async fn returns_503_when_too_little_time_is_left() {
    let test_env = TestEnv::start().await;
    let send_within = async |remaining| {
        let event = post_url(DRAFT_URL).to_string();
        let pending = test_env.function.begin_within(event, remaining);
        HttpResponse::from_json(&pending.outcome().await.response())
    };
    for remaining in [0, 100].map(Duration::from_millis) {
        let response = send_within(remaining).await;
        assert_eq!(response, HttpResponse::unavailable());
        assert_eq!(test_env.gets_and_puts(), (0, 0), "no save is started");
    }
    assert_eq!(test_env.send(&post_url(DRAFT_URL)).await.status, 200);
}

#[tokio::test]
async fn invocations_run_concurrently() {
    let test_env = TestEnv::with(&[("AWS_LAMBDA_MAX_CONCURRENCY", "8")]).await;
    let version = test_env.put_dated(DRAFT_ID, &sample_draft());
    let stall = test_env.s3.fault(When::op(Op::GetObject), Fault::Stall);
    let all: Vec<_> = (0..8)
        .map(|_| test_env.function.begin(&post_url(DRAFT_URL)))
        .collect();
    with_timeout(stall.wait_for_hits(8)).await;
    stall.clear();
    let mut created = 0;
    for pending in all {
        let response = HttpResponse::from_json(&pending.outcome().await.response());
        assert_eq!(response.headers["draft-version"], version);
        created += usize::from(response.headers["draft-saved"] == "created");
    }
    assert_eq!(created, 1, "one of them creates the version");
    assert_eq!(test_env.only_version(DRAFT_ID), sample_draft());
}

#[tokio::test]
async fn cors_origin_may_call_the_api_from_a_page() {
    let origin = "https://editor.example";
    let test_env = TestEnv::with(&[("CORS_ORIGIN", origin)]).await;
    for event in [post_url(DRAFT_URL), post("{}")] {
        let headers = test_env.send(&event).await.headers;
        assert_eq!(headers["access-control-allow-origin"], origin);
        assert_eq!(
            headers["access-control-expose-headers"],
            "Draft-Version, Draft-Saved, Retry-After"
        );
    }
    // HTTP APIs, function URLs and load balancers pass preflight requests on.
    for (name, form) in EVENTS.into_iter().filter(|(_, form)| form.is_http()) {
        let mut preflight = event(name);
        if form == Form::HttpApi {
            preflight["requestContext"]["http"]["method"] = json!("OPTIONS");
        } else {
            preflight["httpMethod"] = json!("OPTIONS");
        }
        preflight["body"] = Value::Null;
        let response = test_env.function.invoke(&preflight).await.response();
        assert_eq!(response["statusCode"], 204, "{name}");
        let header = |name: &str| {
            let value = response["headers"][name].as_str();
            value.or_else(|| response["multiValueHeaders"][name][0].as_str())
        };
        for (header_name, value) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "POST"),
            (
                "access-control-allow-headers",
                "Authorization, Content-Type, X-Amz-Date, X-Amz-Security-Token, X-Api-Key",
            ),
        ] {
            assert_eq!(header(header_name), Some(value), "{name}: {header_name}");
        }
    }
}

#[tokio::test]
async fn a_preflight_request_may_ask_for_any_header() {
    let test_env = TestEnv::with(&[("CORS_ORIGIN", "https://editor.example")]).await;
    let allowed = async |name: &str, headers: Value, multi_value_headers: Value| {
        let mut event = event(name);
        if event["httpMethod"].is_string() {
            event["httpMethod"] = json!("OPTIONS");
        } else {
            event["requestContext"]["http"]["method"] = json!("OPTIONS");
        }
        event["headers"] = headers;
        event["multiValueHeaders"] = multi_value_headers;
        let response = test_env.function.invoke(&event).await.response();
        assert_eq!(response["statusCode"], 204, "{name}");
        let header = "access-control-allow-headers";
        let value = response["headers"][header].as_str();
        let value = value.or_else(|| response["multiValueHeaders"][header][0].as_str());
        value.expect("the header").to_owned()
    };
    let requested = "x-amz-content-sha256,traceparent, X-Custom_1";
    for (name, _) in EVENTS.into_iter().filter(|(_, form)| form.is_http()) {
        for header in [
            "access-control-request-headers",
            "Access-Control-Request-Headers",
        ] {
            let single = allowed(name, json!({header: requested}), Value::Null);
            assert_eq!(single.await, requested, "{name}: {header}");
            let multi = allowed(name, Value::Null, json!({header: [requested]}));
            assert_eq!(multi.await, requested, "{name}: {header}");
        }
    }
    let default = "Authorization, Content-Type, X-Amz-Date, X-Amz-Security-Token, X-Api-Key";
    for invalid in [
        json!(""),
        json!("a b"),
        json!("a,,b"),
        json!("a\r\nx: y"),
        json!("名"),
        json!("<script>"),
        json!(1),
        json!(null),
        json!({"a": 1}),
    ] {
        let headers = json!({"access-control-request-headers": invalid});
        let answer = allowed("function-url", headers, Value::Null);
        assert_eq!(answer.await, default, "{invalid}");
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
            let response = HttpResponse::from_json(&outcome.response());
            assert_eq!(response, HttpResponse::unavailable());
        }
        outcome = event => panic!("the event has time left: {outcome:?}"),
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!((27.0..28.0).contains(&seconds), "{seconds} seconds");
}

#[tokio::test]
async fn the_log_names_a_draft_url_that_is_not_a_string() {
    let test_env = TestEnv::start().await;
    for value in [json!(5), json!(true), json!([DRAFT_URL]), json!({})] {
        for event in [post_url(value.clone()), json!({"draft_url": value})] {
            let (_, lines) = test_env.invoke_logged(&event).await;
            assert_eq!(lines[0]["error"], "draft_url must be a string", "{event}");
        }
    }
}

/// `cargo lambda watch` sends the remaining milliseconds as the deadline.
#[tokio::test]
async fn the_deadline_may_be_the_remaining_time() {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    let function = common::function(&s3);
    for (remaining_ms, status) in [(600_000, 200), (1, 503)] {
        let payload = post_url(DRAFT_URL).to_string();
        let outcome = common::invoke_until(&function, payload.as_bytes(), remaining_ms).await;
        let response = outcome.expect("the payload is JSON").response();
        assert_eq!(response["statusCode"], status, "{remaining_ms} ms");
    }
}
