//! HTTP events of API Gateway, load balancers and function URLs, reduced to what a save reads.
//!
//! `lambda_http` refuses an event for any field that it cannot parse, and panics on hosts, paths and
//! bodies that are not well formed. It therefore gets an event with the method, the path, the body
//! and one header only.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lambda_http::aws_lambda_events::alb::AlbTargetGroupRequest;
use lambda_http::aws_lambda_events::apigw::{ApiGatewayProxyRequest, ApiGatewayV2httpRequest};
use lambda_http::http::header::ACCESS_CONTROL_REQUEST_HEADERS;
use lambda_http::http::{HeaderMap, HeaderValue, Method};
use lambda_http::request::LambdaRequest;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::parser::{as_string, read_object};

/// Maximum length of a path, in bytes. Longer ones are not the path of a save, and `http::Uri`
/// refuses them at 65,534 bytes.
const MAX_PATH_BYTES: usize = 8192;

/// The payload of an invocation: an HTTP request without the fields that a save does not read, or
/// any other event as it was sent.
#[derive(Debug)]
pub struct Payload(pub(super) LambdaRequest);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = Box::<RawValue>::deserialize(deserializer)?;
        let request = read_http_event(payload.get());
        Ok(Self(request.unwrap_or_else(|| {
            LambdaRequest::PassThrough(Box::<str>::from(payload).into_string())
        })))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpEvent<'a> {
    #[serde(borrow)]
    request_context: Option<&'a RawValue>,
    #[serde(borrow)]
    http_method: Option<&'a RawValue>,
    #[serde(borrow)]
    path: Option<&'a RawValue>,
    #[serde(borrow)]
    raw_path: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    multi_value_headers: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    is_base64_encoded: Option<&'a RawValue>,
}

/// The shape of the context tells the gateways apart ("Working with Lambda proxy integrations" and
/// "Working with AWS Lambda proxy integrations for HTTP APIs", API Gateway Developer Guide; "Using
/// Lambda functions as targets", Application Load Balancers User Guide).
#[derive(Deserialize)]
struct RequestContext {
    /// HTTP APIs and function URLs.
    http: Option<Http>,
    /// Load balancers.
    elb: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Http {
    method: String,
}

/// The header of CORS preflight requests that is read. HTTP APIs, function URLs and load balancers send
/// names in lower case, REST APIs as the client wrote them.
#[derive(Deserialize)]
struct Headers<'a> {
    #[serde(
        borrow,
        rename = "access-control-request-headers",
        alias = "Access-Control-Request-Headers"
    )]
    requested: Option<&'a RawValue>,
}

/// Reads an HTTP event, or returns `None` for any other payload.
fn read_http_event(payload: &str) -> Option<LambdaRequest> {
    // A cheap test that spares large batches a second parse.
    if !payload.contains("requestContext") {
        return None;
    }
    let event: HttpEvent<'_> = read_object(payload.as_bytes()).ok()?;
    let context = event.request_context?.get();
    let context: RequestContext = read_object(context.as_bytes()).ok()?;
    let (body, is_base64_encoded) = body_text(event.body, event.is_base64_encoded);
    let requested =
        requested_headers(event.headers).or_else(|| requested_headers(event.multi_value_headers));
    let headers: HeaderMap = requested
        .map(|value| (ACCESS_CONTROL_REQUEST_HEADERS, value))
        .into_iter()
        .collect();

    if let Some(http) = context.http {
        let mut request = ApiGatewayV2httpRequest::default();
        request.request_context.http.method = http.method.parse().ok()?;
        request.raw_path = Some(uri_path(event.raw_path));
        request.headers = headers;
        request.body = body;
        request.is_base64_encoded = is_base64_encoded;
        return Some(LambdaRequest::ApiGatewayV2(request));
    }
    let method: Method = as_string(event.http_method)?.parse().ok()?;
    let path = Some(uri_path(event.path));
    Some(if context.elb.is_some() {
        let mut request = AlbTargetGroupRequest::default();
        request.http_method = method;
        request.path = path;
        request.headers = headers;
        request.body = body;
        request.is_base64_encoded = is_base64_encoded;
        LambdaRequest::Alb(request)
    } else {
        let mut request = ApiGatewayProxyRequest::default();
        request.http_method = method;
        request.path = path;
        request.headers = headers;
        request.body = body;
        request.is_base64_encoded = is_base64_encoded;
        LambdaRequest::ApiGatewayV1(request)
    })
}

/// Reads the only header that is needed. Load balancers may send a list of values.
fn requested_headers(headers: Option<&RawValue>) -> Option<HeaderValue> {
    let headers: Headers<'_> = read_object(headers?.get().as_bytes()).ok()?;
    let value = as_string(headers.requested).or_else(|| {
        let [value]: [String; 1] = serde_json::from_str(headers.requested?.get()).ok()?;
        Some(value)
    });
    value?.try_into().ok()
}

/// Returns a path that `http::Uri` accepts; `/` for one that cannot be the path of a save.
fn uri_path(path: Option<&RawValue>) -> String {
    let path = as_string(path).unwrap_or_default();
    if path.len() > MAX_PATH_BYTES {
        "/".to_owned()
    } else if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    }
}

/// Returns the body, and whether it has to be decoded: it is marked as Base64 and is valid. A body
/// that is not a string, as in hand-written test events, is replaced by its JSON text.
fn body_text(
    body: Option<&RawValue>,
    is_base64_encoded: Option<&RawValue>,
) -> (Option<String>, bool) {
    let text = as_string(body).or_else(|| body.map(|body| body.get().to_owned()));
    let is_base64 = is_base64_encoded.is_some_and(|flag| flag.get() == "true")
        && text
            .as_ref()
            .is_some_and(|text| BASE64_STANDARD.decode(text).is_ok());
    (text, is_base64)
}
