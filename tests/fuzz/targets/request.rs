//! What a client, or who configures a gateway, has in hand of an HTTP event.

#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

#[derive(Arbitrary, Debug)]
struct Request<'a> {
    gateway: Gateway,
    get: bool,
    /// In place of the path, the stage and the query of a save.
    path: Option<&'a str>,
    stage: Option<&'a str>,
    query: Option<&'a str>,
    host: Option<&'a str>,
    header: Option<(&'a str, &'a str)>,
    body: Body<'a>,
}

#[derive(Arbitrary, Debug)]
enum Gateway {
    Rest,
    Http,
    Alb,
}

#[derive(Arbitrary, Debug)]
enum Body<'a> {
    None,
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Said to be Base64.
    Mislabelled(&'a str),
    DraftUrl(&'a str),
    /// The query of a URL.
    DraftUrlQuery(&'a str),
    DraftId(&'a str),
}

fuzz_target!(|request: Request| {
    let (body, is_base64) = match request.body {
        Body::None => (Value::Null, false),
        Body::Text(text) => (text.into(), false),
        Body::Bytes(bytes) => (BASE64_STANDARD.encode(bytes).into(), true),
        Body::Mislabelled(text) => (text.into(), true),
        Body::DraftUrl(url) => (json!({"draft_url": url}).to_string().into(), false),
        Body::DraftUrlQuery(query) => url("https://example.com/?", query),
        Body::DraftId(id) => url("https://example.com/?draft_id=", id),
    };
    let path = request.path.unwrap_or("/v1/save_draft");
    let method = if request.get { "GET" } else { "POST" };
    let mut headers = serde_json::Map::new();
    headers.insert(
        "host".to_owned(),
        request.host.unwrap_or("example.com").into(),
    );
    if let Some((name, value)) = request.header {
        headers.insert(name.to_owned(), value.into());
    }
    let mut event = json!({"headers": headers, "body": body, "isBase64Encoded": is_base64});
    match request.gateway {
        Gateway::Rest => {
            event["httpMethod"] = method.into();
            event["path"] = path.into();
            event["requestContext"] =
                json!({"httpMethod": method, "stage": request.stage, "domainName": request.host});
            event["queryStringParameters"] =
                json!(request.query.map(|query| json!({query: query})));
        }
        Gateway::Http => {
            event["rawPath"] = path.into();
            event["rawQueryString"] = request.query.into();
            event["requestContext"] = json!({
                "http": {"method": method, "path": path},
                "stage": request.stage,
                "domainName": request.host,
            });
        }
        Gateway::Alb => {
            event["httpMethod"] = method.into();
            event["path"] = path.into();
            event["requestContext"] = json!({"elb": {"targetGroupArn": "arn"}});
            event["queryStringParameters"] =
                json!(request.query.map(|query| json!({query: query})));
        }
    }
    save_draft_fuzz::invoke(event.to_string().as_bytes());
});

fn url(begin: &str, rest: &str) -> (Value, bool) {
    let body = json!({"draft_url": format!("{begin}{rest}")});
    (body.to_string().into(), false)
}
