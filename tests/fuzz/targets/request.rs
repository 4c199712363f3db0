//! Invokes the function with HTTP events: the parts that a client or the configuration of a gateway determines are
//! arbitrary.

#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

#[derive(Arbitrary, Debug)]
struct Request<'a> {
    gateway: Gateway,
    method: Method<'a>,
    /// Replaces the path of a save.
    path: Option<&'a str>,
    stage: Option<&'a str>,
    query: Option<&'a str>,
    host: Option<&'a str>,
    body: Body<'a>,
}

#[derive(Arbitrary, Debug)]
enum Gateway {
    RestApi,
    HttpApi,
    LoadBalancer,
}

#[derive(Arbitrary, Debug)]
enum Method<'a> {
    Post,
    Get,
    Other(&'a str),
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
    let draft_url = |url: String| (json!({"draft_url": url}).to_string().into(), false);
    let (body, is_base64): (Value, bool) = match request.body {
        Body::None => (Value::Null, false),
        Body::Text(text) => (text.into(), false),
        Body::Base64(bytes) => (BASE64_STANDARD.encode(bytes).into(), true),
        Body::NotBase64(text) => (text.into(), true),
        Body::DraftUrl(url) => draft_url(url.to_owned()),
        Body::DraftUrlQuery(query) => draft_url(format!("https://example.com/?{query}")),
        Body::DraftId(id) => draft_url(format!("https://example.com/?draft_id={id}")),
    };
    let path = request.path.unwrap_or("/v1/save_draft");
    let method = match request.method {
        Method::Post => "POST",
        Method::Get => "GET",
        Method::Other(method) => method,
    };
    let context = match request.gateway {
        Gateway::RestApi => {
            json!({"httpMethod": method, "stage": request.stage, "domainName": request.host})
        }
        Gateway::HttpApi => json!({
            "http": {"method": method, "path": path},
            "stage": request.stage,
            "domainName": request.host,
        }),
        Gateway::LoadBalancer => json!({"elb": {"targetGroupArn": "arn"}}),
    };
    let mut event = json!({
        "requestContext": context,
        "headers": {"host": request.host},
        "body": body,
        "isBase64Encoded": is_base64,
    });
    if let Gateway::HttpApi = request.gateway {
        event["rawPath"] = path.into();
        event["rawQueryString"] = request.query.into();
    } else {
        event["httpMethod"] = method.into();
        event["path"] = path.into();
        event["queryStringParameters"] = json!(request.query.map(|query| json!({query: query})));
    }
    save_draft_fuzz::invoke(event.to_string().as_bytes());
});
