//! Saves over HTTP: what each gateway sends, through the real binary, to what it gets back.

use lambda_http::lambda_runtime::{Context, LambdaEvent};
use lambda_http::tower::ServiceExt as _;
use save_draft::lambda::Function;
use save_draft::store::Store;
use save_draft::telemetry::Telemetry;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, post, post_id, post_url,
    sample_draft, sha256_hex,
};
use test_support::runtime::{TIMEOUT, with_timeout};
use test_support::s3::{Fault, Op, S3, When};

use crate::common::{self, TestEnv};

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u64,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    /// An answer with the headers that all have, and these.
    fn new(status: u64, body: impl Into<String>, headers: &[(&str, &str)]) -> Self {
        let all = [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
        ];
        let headers = all.iter().chain(headers);
        Self {
            status,
            headers: headers
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: body.into(),
        }
    }

    fn saved(draft_url: &str, version: &str, saved: &str) -> Self {
        let body = json!({"draft_url": draft_url}).to_string();
        let headers = [("draft-version", version), ("draft-saved", saved)];
        Self::new(200, body, &headers)
    }

    fn failed(status: u64, detail: &str) -> Self {
        let headers: &[_] = match status {
            405 => &[("allow", "POST")],
            503 => &[("retry-after", "1")],
            _ => &[],
        };
        Self::new(status, json!({"detail": detail}).to_string(), headers)
    }

    fn required() -> Self {
        Self::failed(400, "draft_url is required")
    }

    fn invalid() -> Self {
        Self::failed(400, "Invalid draft_url format")
    }

    fn not_an_object() -> Self {
        Self::failed(400, "The request body must be a JSON object")
    }

    fn missing() -> Self {
        Self::failed(404, "Draft does not exist")
    }

    fn broken() -> Self {
        Self::failed(500, "Save failed")
    }

    fn unavailable() -> Self {
        Self::failed(503, "Service unavailable")
    }

    /// Reads the response to an event of an HTTP API, which has to have these fields and
    /// no others.
    #[track_caller]
    fn of(response: &Value) -> Self {
        let answer = Self {
            status: response["statusCode"].as_u64().expect("a status"),
            headers: serde_json::from_value(response["headers"].clone()).expect("headers"),
            body: response["body"].as_str().expect("a body").to_owned(),
        };
        assert_eq!(*response, answer.in_the_form_of("api-gateway-http"));
        answer
    }

    /// The response as the sender of the event `events/{name}.json` takes it ("Lambda
    /// proxy integrations in API Gateway" and "Create AWS Lambda proxy integrations for
    /// HTTP APIs", API Gateway Developer Guide; "Use Lambda functions as targets of an
    /// Application Load Balancer", Elastic Load Balancing User Guide).
    fn in_the_form_of(&self, name: &str) -> Value {
        let lists = self.headers.iter().map(|(name, value)| (name, [value]));
        let lists: BTreeMap<_, _> = lists.collect();
        let mut response = json!({
            "statusCode": self.status,
            "headers": self.headers,
            "multiValueHeaders": {},
            "body": self.body,
            "isBase64Encoded": false,
        });
        match name {
            "api-gateway-rest" => {
                response["headers"] = json!({});
                response["multiValueHeaders"] = json!(lists);
            }
            "api-gateway-http" | "function-url" => response["cookies"] = json!([]),
            "alb" | "alb-multi-value" => {
                response["multiValueHeaders"] = json!(lists);
                response["statusDescription"] = match self.status {
                    200 => json!("200 OK"),
                    404 => json!("404 Not Found"),
                    503 => json!("503 Service Unavailable"),
                    other => panic!("what is {other} called?"),
                };
            }
            other => panic!("{other} is no HTTP event"),
        }
        response
    }
}

const HTTP_EVENTS: [&str; 5] = [
    "alb",
    "alb-multi-value",
    "api-gateway-http",
    "api-gateway-rest",
    "function-url",
];

/// When the drafts of these tests were written.
const WRITTEN: &str = "20250928T114730Z";

impl TestEnv {
    /// Sends an event of an HTTP API.
    async fn send(&self, event: &Value) -> Answer {
        Answer::of(&self.function.invoke(event).await.response())
    }

    /// Puts a draft that was written at [`WRITTEN`]; returns the name of its version.
    fn put_written(&self, id: &str, document: &[u8]) -> String {
        self.put_draft(id, document);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050);
        self.s3.set_last_modified(BUCKET, &draft_key(id), time);
        format!("{WRITTEN}-{}", &sha256_hex(document)[..16])
    }

    /// The bytes of the only version of a draft.
    #[track_caller]
    fn only_version(&self, id: &str) -> Vec<u8> {
        let versions = self.versions(id);
        assert_eq!(versions.len(), 1, "{versions:?}");
        self.s3.get(BUCKET, &versions[0]).expect("it was listed")
    }
}

#[tokio::test]
async fn each_gateway_gets_its_answer_in_its_own_form() {
    let test_env = TestEnv::start().await;
    let version = test_env.put_written(DRAFT_ID, &sample_draft());
    let key = format!("saved/{DRAFT_ID}/{version}/draft_content.json");
    for name in HTTP_EVENTS {
        let send = || async { test_env.function.invoke(&event(name)).await.response() };
        for saved in ["created", "unchanged"] {
            let expected = Answer::saved(DRAFT_URL, &version, saved).in_the_form_of(name);
            assert_eq!(send().await, expected, "{name}");
        }
        assert_eq!(test_env.versions(DRAFT_ID), [key.as_str()], "{name}");
        assert_eq!(
            test_env.s3.get(BUCKET, &key),
            Some(sample_draft()),
            "{name}"
        );

        let slow = test_env.s3.fault(When::any(), Fault::SLOW_DOWN);
        let expected = Answer::unavailable().in_the_form_of(name);
        assert_eq!(send().await, expected, "{name}");
        slow.clear();

        let document = draft_key(DRAFT_ID);
        let bytes = test_env
            .s3
            .get(BUCKET, &document)
            .expect("the draft is there");
        for gone in [&key, &document] {
            test_env.s3.delete(BUCKET, gone);
        }
        assert_eq!(
            send().await,
            Answer::missing().in_the_form_of(name),
            "{name}"
        );
        test_env.put_written(DRAFT_ID, &bytes);
    }
}

#[tokio::test]
async fn a_post_to_any_path_that_ends_in_save_draft_is_a_save() {
    let test_env = TestEnv::start().await;
    for (path, status) in [
        ("/save_draft", 200),
        ("/v1/save_draft", 200),
        ("/openapi/capcut-mate/v1/save_draft", 200),
        ("/stage/openapi/v1/save_draft", 200),
        ("/草稿/save_draft", 200),
        ("", 404),
        ("/", 404),
        ("/save_drafts", 404),
        ("/a_save_draft", 404),
        ("/save_draft/", 404),
        ("/save_draft/x", 404),
        ("/Save_Draft", 404),
        ("/get_draft", 404),
        ("/x?y=/save_draft", 404),
    ] {
        for method in [
            "POST", "GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW",
        ] {
            let mut event = event("api-gateway-http");
            event["rawPath"] = json!(path);
            event["requestContext"]["http"]["path"] = json!(path);
            event["requestContext"]["http"]["method"] = json!(method);
            let answer = test_env.send(&event).await;
            match (status, method) {
                (200, "POST") => assert_eq!(answer.status, 200, "{path}: {}", answer.body),
                (200, _) => {
                    let expected = Answer::failed(405, "Method Not Allowed");
                    assert_eq!(answer, expected, "{method} {path}");
                }
                _ => assert_eq!(answer, Answer::failed(404, "Not Found"), "{method} {path}"),
            }
        }
    }
}

#[tokio::test]
async fn the_stage_in_the_path_does_not_matter() {
    let test_env = TestEnv::start().await;
    for (stage, path) in [
        ("$default", "/save_draft"),
        ("openapi", "/save_draft"),
        ("openapi", "/openapi/save_draft"),
        ("a b", "/v1/save_draft"),
        ("草稿", "/v1/save_draft"),
    ] {
        for name in ["api-gateway-http", "api-gateway-rest"] {
            let mut event = event(name);
            event["requestContext"]["stage"] = json!(stage);
            event["path"] = json!(path);
            event["rawPath"] = json!(path);
            if name == "api-gateway-http" {
                event.as_object_mut().expect("an object").remove("path");
            }
            let response = test_env.function.invoke(&event).await.response();
            assert_eq!(response["statusCode"], 200, "{name} {stage} {path}");
        }
    }
}

#[tokio::test]
async fn the_content_type_of_a_request_is_not_looked_at() {
    let test_env = TestEnv::start().await;
    for content_type in [
        json!("text/plain"),
        json!("application/x-www-form-urlencoded"),
        json!("multipart/form-data"),
        json!("草稿"),
        json!("\u{0}"),
        json!(""),
        Value::Null,
    ] {
        let mut event = event("api-gateway-http");
        event["headers"]["content-type"] = content_type.clone();
        let response = test_env.function.invoke(&event).await;
        assert_eq!(response.response()["statusCode"], 200, "{content_type}");
    }
}

#[tokio::test]
async fn a_body_in_base64_is_decoded() {
    let test_env = TestEnv::start().await;
    let version = test_env.put_written(DRAFT_ID, &sample_draft());
    let body = json!({"draft_url": DRAFT_URL}).to_string();
    let mut event = post(BASE64_STANDARD.encode(&body));
    event["isBase64Encoded"] = json!(true);
    let expected = Answer::saved(DRAFT_URL, &version, "created");
    assert_eq!(test_env.send(&event).await, expected);

    // What is no UTF-8, and what is flagged as Base64 and is none, is no JSON object.
    let mut event = post(BASE64_STANDARD.encode(b"{\"draft_url\": \"\xff\"}"));
    event["isBase64Encoded"] = json!(true);
    assert_eq!(test_env.send(&event).await.status, 400);
    let mut event = post("====");
    event["isBase64Encoded"] = json!(true);
    assert_eq!(test_env.send(&event).await, Answer::not_an_object());
}

#[tokio::test]
async fn a_request_without_a_draft_url_is_told_so() {
    let test_env = TestEnv::start().await;
    let mut events = Vec::new();
    for body in [Value::Null, json!("")] {
        let mut event = event("api-gateway-http");
        event["body"] = body;
        events.push(event);
    }
    let mut without = event("api-gateway-http");
    without.as_object_mut().expect("an object").remove("body");
    events.push(without);
    for body in [
        " ",
        " \r\n\t",
        "{}",
        " {} ",
        r#"{"draft_id": "2025092811473036584258"}"#,
        r#"{"Draft_Url": "https://example.com/?draft_id=1"}"#,
        r#"{"draft_url": null}"#,
        r#"{"draft_url": ""}"#,
        r#"{"draft_url": "   "}"#,
        r#"{"draft_url": "\t\n\r "}"#,
        r#"{"draft_url": "\u3000\u00a0"}"#,
    ] {
        events.push(post(body));
    }
    for event in events {
        let body = event["body"].clone();
        assert_eq!(test_env.send(&event).await, Answer::required(), "{body}");
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_told_so() {
    let test_env = TestEnv::start().await;
    for body in [
        "null",
        "true",
        "1",
        r#""https://example.com/?draft_id=1""#,
        "[]",
        r#"[{"draft_url": "https://example.com/?draft_id=1"}]"#,
        "draft_url=https://example.com/?draft_id=1",
        "{",
        r#"{"draft_url""#,
        r#"{"draft_url": "https://example.com/?draft_id=1""#,
        r#"{"draft_url": "https://example.com/?draft_id=1"} {}"#,
        r"{'draft_url': 'https://example.com/?draft_id=1'}",
        r#"{"draft_url": "https://example.com/?draft_id=1",}"#,
        "\u{0}",
    ] {
        assert_eq!(
            test_env.send(&post(body)).await,
            Answer::not_an_object(),
            "{body}"
        );
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

/// A URL of `chars` characters, all the same but for what a URL of a draft needs.
fn long_url(chars: usize, filler: char) -> String {
    let needed = format!("https://example.com/get_draft?draft_id={DRAFT_ID}&x=");
    let more = chars - needed.chars().count();
    needed + &filler.to_string().repeat(more)
}

/// Texts that are no URL of a draft.
const BAD_URLS: [&str; 64] = [
    // No absolute URL of http or https with a host.
    "2025092811473036584258",
    "draft_id=2025092811473036584258",
    "/get_draft?draft_id=1",
    "//example.com/get_draft?draft_id=1",
    "example.com/get_draft?draft_id=1",
    "ftp://example.com/get_draft?draft_id=1",
    "file:///get_draft?draft_id=1",
    "s3://drafts/?draft_id=1",
    "javascript://example.com/?draft_id=1",
    "data:text/plain,?draft_id=1",
    "httpx://example.com/?draft_id=1",
    "http:example.com/?draft_id=1",
    "http:/example.com/?draft_id=1",
    r"http:\\example.com\?draft_id=1",
    "http://?draft_id=1",
    "http:///get_draft?draft_id=1",
    "http://#?draft_id=1",
    "http://:80/?draft_id=1",
    "http://user@/?draft_id=1",
    "http://exa mple.com/?draft_id=1",
    "http://exa<mple.com/?draft_id=1",
    "http://[::1/?draft_id=1",
    "http://1.2.3.4.5.6.7.0x/?draft_id=1",
    "http://example.com:65536/?draft_id=1",
    "http://example.com:x/?draft_id=1",
    "http://%00/?draft_id=1",
    // White space and control characters, which parsers like to drop.
    " https://example.com/?draft_id=1",
    "https://example.com/?draft_id=1 ",
    "https://example.com/?x=a b&draft_id=1",
    "https://example.com/?draft_id=1\n",
    "ht\ntps://example.com/?draft_id=1",
    "https://example.com/?draft\t_id=1",
    "https://example.com/?draft_id=1\r\nSet-Cookie: x=1",
    "https://example.com/?draft_id=1\0",
    // Not exactly one draft_id in the query.
    "https://example.com",
    "https://example.com/",
    "https://example.com/draft_id=1",
    "https://example.com/?",
    "https://example.com/?id=1",
    "https://example.com/?Draft_id=1",
    "https://example.com/?draft_id[]=1",
    "https://example.com/?x=draft_id=1",
    "https://example.com/#?draft_id=1",
    "https://example.com/?draft_id=1&draft_id=1",
    "https://example.com/?draft_id=1&draft_id=2",
    "https://example.com/?draft_id=1&draft_id=",
    "https://example.com/?draft_id=1&draft%5Fid=2",
    // A draft_id that is none.
    "https://example.com/?draft_id",
    "https://example.com/?draft_id=",
    "https://example.com/?draft_id=&x=1",
    "https://example.com/?draft_id=a.b",
    "https://example.com/?draft_id=..",
    "https://example.com/?draft_id=../1",
    "https://example.com/?draft_id=..%2F1",
    "https://example.com/?draft_id=%252e%252e%252f1",
    "https://example.com/?draft_id=a/b",
    "https://example.com/?draft_id=a+b",
    "https://example.com/?draft_id=a%20b",
    "https://example.com/?draft_id=1%00",
    "https://example.com/?draft_id=1%0A",
    "https://example.com/?draft_id=%FF",
    "https://example.com/?draft_id={draft_id}",
    "https://example.com/?draft_id=草稿",
    // Digits, but full-width ones.
    "https://example.com/?draft_id=１２３",
];

#[tokio::test]
async fn a_draft_url_that_is_none_is_told_so() {
    let test_env = TestEnv::start().await;
    let id_65 = format!("https://example.com/?draft_id={}", "a".repeat(65));
    let mut values = vec![
        json!(id_65),
        json!(true),
        json!(42),
        json!([DRAFT_URL]),
        json!({"draft_url": DRAFT_URL}),
        json!(long_url(2049, 'x')),
        json!(long_url(2049, '长')),
    ];
    values.extend(BAD_URLS.map(|text| json!(text)));
    for value in values {
        let answer = test_env.send(&post_url(value.clone())).await;
        assert_eq!(answer, Answer::invalid(), "{value}");
    }
    // Half a surrogate pair, which no string of ours can hold.
    let body = r#"{"draft_url": "https://example.com/?draft_id=1&x=\ud800"}"#;
    assert_eq!(test_env.send(&post(body)).await, Answer::invalid());
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

#[tokio::test]
async fn a_draft_url_comes_back_byte_for_byte() {
    let test_env = TestEnv::start().await;
    let id_64 = "Az0_-".repeat(13)[..64].to_owned();
    for id in [
        DRAFT_ID,
        "20251126220753b7e35362",
        "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c",
        "1",
        "-",
        &id_64,
    ] {
        test_env.put_draft(id, sample_draft());
        let url = format!("https://example.com/get_draft?draft_id={id}");
        let answer = test_env.send(&post_url(url.as_str())).await;
        assert_eq!(answer.body, json!({"draft_url": url}).to_string());
        assert_eq!(answer.headers["draft-saved"], "created", "{id}");
        assert_eq!(test_env.only_version(id), sample_draft());
    }
    for url in [
        DRAFT_URL,
        "https://cm.jcaigc.cn/openapi/v1/get_draft?draft_id=2025092811473036584258",
        "http://localhost:30000/openapi/v1/get_draft?draft_id=2025092811473036584258",
        "HTTPS://EXAMPLE.com?draft_id=2025092811473036584258",
        "http://127.0.0.1/?draft_id=2025092811473036584258",
        "http://[::1]:8080/?draft_id=2025092811473036584258",
        "https://user:word@example.com/?draft_id=2025092811473036584258",
        "https://example.com/?x=1&draft_id=2025092811473036584258&y=%20%zz&",
        "https://example.com/?draft_id=2025092811473036584258#draft_id=other",
        "https://example.com/?draft_id=2025092811473036584258&DRAFT_ID=other",
        "https://example.com/draft_id=other/../?draft_id=2025092811473036584258",
        "https://example.com/?%64raft%5fid=%32025092811473036584258",
        "https://例え.jp/草稿/ё?名=Ж&draft_id=2025092811473036584258#ﻩ",
        "https://example.com/?x=😀\"<>\\^`{|}'&draft_id=2025092811473036584258",
        "https://example.com/?x=../../etc&draft_id=2025092811473036584258",
        &long_url(2048, 'x'),
        &long_url(2048, '长'),
    ] {
        let answer = test_env.send(&post_url(url)).await;
        assert_eq!(answer.status, 200, "{url}: {}", answer.body);
        assert_eq!(answer.body, json!({"draft_url": url}).to_string());
    }
    // However JSON spells it, and with whatever beside it.
    for body in [
        r#"{"draft_url":"https:\/\/example.com\/?draft_id=\u0032025092811473036584258"}"#,
        r#"{"\u0064raft_url":"https://example.com/?draft_id=2025092811473036584258"}"#,
        r#"{"a":[{"draft_url":1}],"draft_url":"https://example.com/?draft_id=2025092811473036584258","b":1e999,"c":"\ud800"}"#,
        "\n {\t\"draft_url\" : \"https://example.com/?draft_id=2025092811473036584258\" }\r\n",
    ] {
        let answer = test_env.send(&post(body)).await;
        let url = "https://example.com/?draft_id=2025092811473036584258";
        assert_eq!(answer.body, json!({"draft_url": url}).to_string(), "{body}");
        assert_eq!(answer.status, 200, "{body}");
    }
}

#[tokio::test]
async fn draft_url_hosts_are_the_only_ones() {
    let hosts = " capcut-mate.jcaigc.cn,LOCALHOST , 例え.jp,[::1]";
    let test_env = TestEnv::with(&[("DRAFT_URL_HOSTS", hosts)]).await;
    for (host, status) in [
        ("capcut-mate.jcaigc.cn", 200),
        ("CAPCUT-mate.jcaigc.cn", 200),
        ("capcut-mate.jcaigc.cn:8443", 200),
        ("localhost:30000", 200),
        ("例え.jp", 200),
        ("xn--r8jz45g.jp", 200),
        ("[0:0:0:0:0:0:0:1]", 200),
        ("jcaigc.cn", 400),
        ("x.capcut-mate.jcaigc.cn", 400),
        ("capcut-mate.jcaigc.cn.example.com", 400),
        ("capcut-mate.jcaigc.cn@example.com", 400),
        ("example.com#@capcut-mate.jcaigc.cn", 400),
        (r"example.com\@capcut-mate.jcaigc.cn", 400),
        ("127.0.0.1", 400),
    ] {
        let url = format!("https://{host}/?draft_id={DRAFT_ID}");
        let answer = test_env.send(&post_url(url.as_str())).await;
        assert_eq!(answer.status, status, "{url}");
        if status == 400 {
            assert_eq!(answer, Answer::invalid());
        }
    }
}

#[tokio::test]
async fn a_save_is_two_requests_and_a_repeated_one_as_well() {
    let test_env = TestEnv::start().await;
    let document = sample_draft();
    let version = test_env.put_written(DRAFT_ID, &document);
    let answer = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(answer, Answer::saved(DRAFT_URL, &version, "created"));

    let requests = test_env.s3.requests();
    assert_eq!(test_env.gets_and_puts(), (1, 1));
    let (get, put) = (&requests[0], &requests[1]);
    // In the path is the bucket, and the host is the store itself: path-style.
    let host = test_env.s3.endpoint().replace("http://", "");
    assert_eq!((get.header("host"), put.header("host")), (&*host, &*host));
    assert_eq!((&*get.bucket, &*get.key), (BUCKET, &*draft_key(DRAFT_ID)));
    let key = format!("saved/{DRAFT_ID}/{version}/draft_content.json");
    assert_eq!((&*put.bucket, &*put.key), (BUCKET, &*key));

    let sha256 = Sha256::digest(&document);
    assert_eq!(put.header("content-length"), document.len().to_string());
    for (name, value) in [
        ("if-none-match", "*"),
        ("content-type", "application/json"),
        ("content-length", &document.len().to_string()),
        ("x-amz-checksum-sha256", &BASE64_STANDARD.encode(sha256)),
        ("x-amz-meta-draft-id", DRAFT_ID),
        ("x-amz-meta-sha256", &sha256_hex(&document)),
        (
            "x-amz-meta-source-last-modified",
            "2025-09-28T11:47:30.000Z",
        ),
        // Neither of them: the checksum is in the head, and not behind the body.
        ("x-amz-trailer", ""),
        ("content-encoding", ""),
        ("transfer-encoding", ""),
    ] {
        assert_eq!(put.header(name), value, "{name}");
    }
    let draft = test_env.s3.metadata(BUCKET, &draft_key(DRAFT_ID));
    let etag = draft.expect("the draft exists").etag;
    assert_eq!(put.header("x-amz-meta-source-etag"), format!("\"{etag}\""));
    let saved_at = put.header("x-amz-meta-saved-at");
    let pattern = "####-##-##T##:##:##.###Z";
    let shape: String = saved_at
        .chars()
        .map(|c| if c.is_ascii_digit() { '#' } else { c })
        .collect();
    assert_eq!(shape, pattern, "{saved_at}");
    let mut names: Vec<_> = put
        .headers
        .keys()
        .map(hyper::header::HeaderName::as_str)
        .collect();
    names.retain(|name| name.starts_with("x-amz-meta-"));
    assert_eq!(names.len(), 5, "{names:?}");

    let answer = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(answer, Answer::saved(DRAFT_URL, &version, "unchanged"));
    assert_eq!(test_env.gets_and_puts(), (1, 1));
    assert_eq!(test_env.only_version(DRAFT_ID), document);
}

#[tokio::test]
async fn the_endpoint_of_all_services_is_that_of_s3_as_well() {
    let test_env = TestEnv::start().await;
    let endpoint = test_env.s3.endpoint();
    let nowhere = "http://127.0.0.1:1";
    for (service, all) in [(endpoint.as_str(), nowhere), ("", endpoint.as_str())] {
        let env = [("AWS_ENDPOINT_URL_S3", service), ("AWS_ENDPOINT_URL", all)];
        let function = common::start_function(&test_env.s3, &env).await;
        let response = function.invoke(&post_url(DRAFT_URL)).await.response();
        assert_eq!(response["statusCode"], 200, "{service} {all}");
    }
}

#[tokio::test]
async fn each_state_has_a_version_of_its_own() {
    let test_env = TestEnv::start().await;
    let (first, second) = (sample_draft(), draft_of_size(5000, 1));
    let one = test_env.put_written(DRAFT_ID, &first);
    assert_eq!(
        test_env.send(&post_id(DRAFT_ID)).await.headers["draft-version"],
        one
    );
    let two = test_env.put_written(DRAFT_ID, &second);
    let answer = test_env.send(&post_id(DRAFT_ID)).await;
    assert_eq!(answer.headers["draft-version"], two);
    assert_eq!(answer.headers["draft-saved"], "created");
    let key = |version: &str| format!("saved/{DRAFT_ID}/{version}/draft_content.json");
    assert_eq!(test_env.s3.get(BUCKET, &key(&one)), Some(first));
    assert_eq!(test_env.s3.get(BUCKET, &key(&two)), Some(second));
}

#[tokio::test]
async fn other_buckets_and_keys_are_used_where_they_are_set() {
    let env = [
        ("SAVED_BUCKET", "vault"),
        ("DRAFT_KEY", "编辑/draft {draft_id}.json"),
        ("SAVED_KEY", "v1/{version}/{draft_id}+保存.json"),
    ];
    let test_env = TestEnv::with(&env).await;
    test_env.s3.create_bucket("vault");
    let draft = format!("编辑/draft {DRAFT_ID}.json");
    test_env.s3.put(BUCKET, &draft, sample_draft());

    let answer = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let version = &answer.headers["draft-version"];
    let key = format!("v1/{version}/{DRAFT_ID}+保存.json");
    assert_eq!(test_env.s3.keys("vault", ""), [key.as_str()]);
    assert_eq!(test_env.s3.get("vault", &key), Some(sample_draft()));
    assert_eq!(test_env.versions(DRAFT_ID), [""; 0]);
}

#[tokio::test]
async fn the_documents_that_editors_write_are_saved_as_they_are() {
    let test_env = TestEnv::start().await;
    let nested = format!(r#"{{"a":{}1{}}}"#, "[".repeat(899), "]".repeat(899));
    let documents: [&[u8]; 12] = [
        b"{}",
        b" {\r\n\t} \n",
        br#"{"fps": NaN, "a": Infinity, "b": -Infinity}"#,
        br#"{"text": "\ud83d", "more": "\ude00\ud83d"}"#,
        b"\xef\xbb\xbf{\"a\": 1}",
        r#"{"文字": "你好 \u0000 😀"}"#.as_bytes(),
        br#"{"a": 1, "a": 2}"#,
        br#"{"n": 123456789012345678901234567890, "x": 1e400, "y": -0.0}"#,
        br#"{"": {"": [[], {}, [{}]]}}"#,
        br#"{"a": "line\nbreak", "path": "C:\\drafts\\1"}"#,
        nested.as_bytes(),
        &draft_of_size(200_000, 3),
    ];
    for (number, document) in documents.into_iter().enumerate() {
        let id = format!("draft-{number}");
        let version = test_env.put_written(&id, document);
        let answer = test_env.send(&post_id(&id)).await;
        let text = String::from_utf8_lossy(&document[..document.len().min(80)]);
        assert_eq!(answer.status, 200, "{text}: {}", answer.body);
        assert_eq!(answer.headers["draft-version"], version);
        assert!(test_env.only_version(&id) == document, "{text}");
    }
}

#[tokio::test]
async fn a_document_that_is_none_is_never_saved() {
    let test_env = TestEnv::start().await;
    let sample = sample_draft();
    let sample = sample.trim_ascii();
    let documents: [&[u8]; 13] = [
        b"",
        b" \n",
        b"\xef\xbb\xbf",
        b"null",
        b"[]",
        br#""{}""#,
        b"{",
        br#"{"a": 1"#,
        br#"{"a": 1}{"#,
        br#"{"a": nan}"#,
        b"{\"a\": \"\xff\"}",
        &sample[..sample.len() - 1],
        &sample[1..],
    ];
    for document in documents {
        let text = String::from_utf8_lossy(&document[..document.len().min(80)]);
        test_env.put_draft(DRAFT_ID, document);
        let answer = test_env.send(&post_url(DRAFT_URL)).await;
        assert_eq!(answer, Answer::broken(), "{text}");
        assert_eq!(test_env.gets_and_puts(), (1, 0), "{text}");
    }
    assert_eq!(test_env.versions(DRAFT_ID), [""; 0]);
}

#[tokio::test]
async fn a_document_over_the_limit_is_refused_before_it_is_read() {
    let test_env = TestEnv::with(&[("MAX_DRAFT_BYTES", "5000")]).await;
    let version = test_env.put_written(DRAFT_ID, &draft_of_size(5000, 1));
    let answer = test_env.send(&post_url(DRAFT_URL)).await;
    assert_eq!(answer, Answer::saved(DRAFT_URL, &version, "created"));
    test_env.s3.clear_requests();

    test_env.put_draft(DRAFT_ID, draft_of_size(5001, 2));
    // Of the body, nothing ever comes: whoever waits for it is late.
    let stalled = test_env
        .s3
        .fault(When::op(Op::GetObject), Fault::StallBody(0));
    assert_eq!(test_env.send(&post_url(DRAFT_URL)).await, Answer::broken());
    assert_eq!(stalled.hits(), 1);
    assert_eq!(test_env.gets_and_puts(), (1, 0));
}

#[tokio::test]
async fn a_draft_that_is_not_there_is_a_404() {
    let test_env = TestEnv::start().await;
    let url = "https://example.com/?draft_id=20251126220753b7e35362";
    assert_eq!(test_env.send(&post_url(url)).await, Answer::missing());
    assert_eq!(test_env.gets_and_puts(), (1, 0));
    // Its other files are not its document.
    test_env.s3.put(
        BUCKET,
        "drafts/20251126220753b7e35362/draft_meta_info.json",
        b"{}",
    );
    assert_eq!(test_env.send(&post_url(url)).await, Answer::missing());
}

#[tokio::test]
async fn what_will_not_work_is_a_500() {
    let test_env = TestEnv::start().await;
    for op in [Op::GetObject, Op::PutObject] {
        let denied = test_env.s3.fault(When::op(op), Fault::ACCESS_DENIED);
        assert_eq!(test_env.send(&post_url(DRAFT_URL)).await, Answer::broken());
        assert_eq!(denied.hits(), 1, "{op:?} is not tried again");
        denied.clear();
    }
    for variable in ["DRAFT_BUCKET", "SAVED_BUCKET", "AWS_SECRET_ACCESS_KEY"] {
        let env = [(variable, "nowhere-at-all")];
        let function = common::start_function(&test_env.s3, &env).await;
        let response = function.invoke(&post_url(DRAFT_URL)).await.response();
        assert_eq!(Answer::of(&response), Answer::broken(), "{variable}");
    }
    assert_eq!(test_env.versions(DRAFT_ID), [""; 0]);
}

#[tokio::test]
async fn what_may_work_later_is_a_503() {
    let test_env = TestEnv::start().await;
    for op in [Op::GetObject, Op::PutObject] {
        for fault in [Fault::SLOW_DOWN, Fault::INTERNAL_ERROR, Fault::Cut] {
            let fault = test_env.s3.fault(When::op(op), fault);
            assert_eq!(
                test_env.send(&post_url(DRAFT_URL)).await,
                Answer::unavailable()
            );
            assert!(fault.hits() > 1, "{op:?} is tried again");
            fault.clear();
            assert_eq!(test_env.versions(DRAFT_ID), [""; 0]);
        }
    }
    test_env.s3.refuse().await;
    assert_eq!(
        test_env.send(&post_url(DRAFT_URL)).await,
        Answer::unavailable()
    );
    test_env.s3.reopen().await;
    assert_eq!(test_env.send(&post_url(DRAFT_URL)).await.status, 200);
}

#[tokio::test]
async fn maintenance_puts_every_save_off() {
    let test_env = TestEnv::with(&[("MAINTENANCE", "true")]).await;
    assert_eq!(
        test_env.send(&post_url(DRAFT_URL)).await,
        Answer::unavailable()
    );
    assert_eq!(test_env.send(&post_url("no URL")).await, Answer::invalid());
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

#[tokio::test]
async fn a_save_that_runs_out_of_time_is_a_503_before_the_deadline() {
    let test_env = TestEnv::start().await;
    for op in [Op::GetObject, Op::PutObject] {
        let stall = test_env.s3.fault(When::op(op), Fault::Stall);
        let (left, begin) = (Duration::from_secs(2), Instant::now());
        let pending = test_env
            .function
            .begin_within(post_url(DRAFT_URL).to_string(), left);
        let response = pending.outcome().await.response();
        assert!(begin.elapsed() < left, "{op:?}: {:?}", begin.elapsed());
        assert_eq!(Answer::of(&response), Answer::unavailable(), "{op:?}");
        assert_eq!(stall.hits(), 1, "{op:?}");
        stall.clear();
    }
    test_env.s3.clear_requests();
    // Where there is no time to answer in, nothing is begun.
    for left in [0, 100] {
        let left = Duration::from_millis(left);
        let pending = test_env
            .function
            .begin_within(post_url(DRAFT_URL).to_string(), left);
        let response = pending.outcome().await.response();
        assert_eq!(Answer::of(&response), Answer::unavailable());
        assert_eq!(test_env.gets_and_puts(), (0, 0));
    }
    // And the next one is as if nothing had been.
    assert_eq!(test_env.send(&post_url(DRAFT_URL)).await.status, 200);
}

#[tokio::test]
async fn invocations_run_side_by_side_where_lambda_offers_that() {
    let test_env = TestEnv::with(&[("AWS_LAMBDA_MAX_CONCURRENCY", "8")]).await;
    let version = test_env.put_written(DRAFT_ID, &sample_draft());
    let stall = test_env.s3.fault(When::op(Op::GetObject), Fault::Stall);
    let all: Vec<_> = (0..8)
        .map(|_| test_env.function.begin(&post_url(DRAFT_URL)))
        .collect();
    // Each waits for its draft, and none for another to end.
    with_timeout(stall.wait_for_hits(8)).await;
    stall.clear();
    let mut created = 0;
    for pending in all {
        let answer = Answer::of(&pending.outcome().await.response());
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.headers["draft-version"], version);
        created += usize::from(answer.headers["draft-saved"] == "created");
    }
    assert_eq!(created, 1);
    assert_eq!(test_env.only_version(DRAFT_ID), sample_draft());
}

#[tokio::test]
async fn hostile_requests_get_an_answer_like_any_other() {
    let test_env = TestEnv::start().await;
    let long = "x".repeat(100_000);
    let hosts = [
        "", " ", "a b", "::", "[", "exa<mple", "%", "\u{0}", "a/b", "a?b#c", "@", "草稿", &long,
    ];
    let paths = [
        "",
        "x",
        "//",
        "\\",
        "/\u{0}",
        "/%",
        "/%ff",
        "/ ",
        "/#",
        "/?",
        "/|^`{}<>\"",
        "/../..",
        "@",
        ":",
        "http://example.com",
        "/草稿",
        "/\u{d7ff}\u{10ffff}",
        &long,
    ];
    for name in HTTP_EVENTS {
        let path = if name.starts_with("alb") || name.ends_with("rest") {
            "path"
        } else {
            "rawPath"
        };
        for host in hosts {
            let mut event = event(name);
            event["requestContext"]["domainName"] = json!(host);
            if name == "alb-multi-value" {
                event["multiValueHeaders"]["host"] = json!([host]);
                event["multiValueHeaders"]["x-forwarded-proto"] = json!([host]);
            } else {
                event["headers"]["host"] = json!(host);
                event["headers"]["Host"] = json!(host);
                event["headers"]["x-forwarded-proto"] = json!(host);
            }
            let outcome = test_env.function.invoke(&event).await;
            let response = outcome.clone().response();
            assert_eq!(response["statusCode"], 200, "{name} {host:?}: {outcome:?}");
        }
        for hostile in paths {
            for path_and_end in [hostile.to_owned(), format!("{hostile}/save_draft")] {
                let mut event = event(name);
                event[path] = json!(path_and_end);
                let response = test_env.function.invoke(&event).await.response();
                let status = response["statusCode"].as_u64().expect("a status");
                assert!(
                    [200, 404].contains(&status),
                    "{name} {hostile:?}: {response}"
                );
            }
        }
        let mut event = event(name);
        event["queryStringParameters"] = json!({"\u{0}": "%", "草": "稿"});
        event["multiValueQueryStringParameters"] = json!({"\u{0}": ["%", "草稿"]});
        event["rawQueryString"] = json!("\u{0}%&&=草稿");
        event["cookies"] = json!(["\r\n"]);
        event["isBase64Encoded"] = json!(true);
        event["body"] = json!("not=Base64!");
        let response = test_env.function.invoke(&event).await.response();
        assert_eq!(response["statusCode"], 400, "{name}: {response}");
    }
    // None of it has broken anything.
    assert_eq!(test_env.send(&post_url(DRAFT_URL)).await.status, 200);
    let lines = test_env.function.lines();
    assert!(
        !lines.iter().any(|line| line.contains("panicked")),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn fifty_megabytes_are_a_draft_as_well() {
    let test_env = TestEnv::start().await;
    let document = draft_of_size(50 << 20, 7);
    let version = test_env.put_written(DRAFT_ID, &document);
    let event = post_url(DRAFT_URL).to_string();
    let pending = test_env.function.begin_within(event, 4 * TIMEOUT);
    let answer = Answer::of(&pending.outcome().await.response());
    assert_eq!(answer, Answer::saved(DRAFT_URL, &version, "created"));
    assert_eq!(test_env.gets_and_puts(), (1, 1));
    assert!(test_env.only_version(DRAFT_ID) == document);
}

#[tokio::test]
async fn pages_of_another_origin_may_read_the_answers_where_they_are_allowed_to() {
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
}

#[tokio::test]
async fn an_emulator_may_tell_the_time_that_is_left_for_the_deadline() {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    let config = common::config(BUCKET, &[]);
    let store = Store::new(&common::Endpoint::of(&s3).sdk(), &config);
    let telemetry = Telemetry::with_output("test".to_owned(), std::io::sink());
    let function = Function::new(&config, store, telemetry).into_service();
    for (left_ms, status) in [(600_000, 200), (1, 503)] {
        let mut context = Context::default();
        context.deadline = left_ms;
        let payload = serde_json::from_value(post_url(DRAFT_URL)).expect("it is an event");
        let answer = function.clone().oneshot(LambdaEvent::new(payload, context));
        let answer = serde_json::to_value(answer.await.expect("it is HTTP"));
        assert_eq!(answer.expect("it is JSON")["statusCode"], status);
    }
}
