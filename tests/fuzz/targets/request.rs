//! Invokes the function with HTTP events: the parts that it reads, and that a client or the configuration of a gateway
//! determines, are arbitrary.

#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use test_support::fixtures::{event, method_mut};

#[derive(Arbitrary, Debug)]
struct Request<'a> {
    gateway: Gateway,
    /// Replaces `POST`.
    method: Option<&'a str>,
    /// Replaces the path of a save.
    path: Option<&'a str>,
    body: Body<'a>,
}

#[derive(Arbitrary, Debug)]
enum Gateway {
    RestApi,
    HttpApi,
    LoadBalancer,
}

#[derive(Arbitrary, Debug)]
enum Body<'a> {
    None,
    Text(&'a str),
    Base64(&'a [u8]),
    /// Text that is declared as Base64.
    NotBase64(&'a str),
    DraftUrl(&'a str),
    DraftUrlQuery(&'a str),
    DraftId(&'a str),
}

fuzz_target!(|request: Request| {
    let draft_url = |url: &str| (json!({"draft_url": url}).to_string().into(), false);
    let (body, is_base64): (Value, bool) = match request.body {
        Body::None => (Value::Null, false),
        Body::Text(text) => (text.into(), false),
        Body::Base64(bytes) => (BASE64_STANDARD.encode(bytes).into(), true),
        Body::NotBase64(text) => (text.into(), true),
        Body::DraftUrl(url) => draft_url(url),
        Body::DraftUrlQuery(query) => draft_url(&format!("https://example.com/?{query}")),
        Body::DraftId(id) => draft_url(&format!("https://example.com/?draft_id={id}")),
    };
    let mut event = event(match request.gateway {
        Gateway::RestApi => "api-gateway-rest",
        Gateway::HttpApi => "api-gateway-http",
        Gateway::LoadBalancer => "alb",
    });
    event["body"] = body;
    event["isBase64Encoded"] = is_base64.into();
    if let Some(path) = request.path {
        event["path"] = path.into();
        event["rawPath"] = path.into();
    }
    if let Some(method) = request.method {
        *method_mut(&mut event) = method.into();
    }
    save_draft_fuzz::invoke(event.to_string().as_bytes());
});
