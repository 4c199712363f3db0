//! HTTP events of API Gateway, load balancers and function URLs, reduced to what a save reads.
//!
//! `lambda_http` refuses an event for any field that it cannot parse, and panics on hosts, paths and
//! bodies that are not well formed. It therefore gets an event with the method, the path and the
//! body only.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lambda_http::aws_lambda_events::alb::AlbTargetGroupRequest;
use lambda_http::aws_lambda_events::apigw::{ApiGatewayProxyRequest, ApiGatewayV2httpRequest};
use lambda_http::http::Method;
use lambda_http::request::LambdaRequest;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::json::{as_string, read_fields};

/// Maximum length of a path, in bytes. Longer ones are not the path of a save, and `http::Uri`
/// refuses them at 65,534 bytes.
const MAX_PATH_BYTES: usize = 8192;

/// The payload of an invocation: an HTTP request without the fields that a save does not read, or
/// any other event as it was sent.
#[derive(Debug)]
pub struct SanitizedRequest(LambdaRequest);

impl SanitizedRequest {
    /// Returns the request in the form that `lambda_http` handles.
    pub(super) fn into_inner(self) -> LambdaRequest {
        self.0
    }
}

impl<'de> Deserialize<'de> for SanitizedRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = Box::<RawValue>::deserialize(deserializer)?;
        let request = read_http_event(payload.get());
        Ok(Self(request.unwrap_or_else(|| {
            LambdaRequest::PassThrough(Box::<str>::from(payload).into_string())
        })))
    }
}

/// Reads an HTTP event, or returns `None` for any other payload.
///
/// The shape of `requestContext` tells the gateways apart ("Working with Lambda proxy integrations"
/// and "Working with AWS Lambda proxy integrations for HTTP APIs", API Gateway Developer Guide;
/// "Using Lambda functions as targets", Application Load Balancers User Guide).
fn read_http_event(payload: &str) -> Option<LambdaRequest> {
    // A cheap test that spares large batches a second parse.
    if !payload.contains("requestContext") {
        return None;
    }
    let [context, method, path, raw_path, body, is_base64_encoded] = read_fields(
        payload.as_bytes(),
        [
            "requestContext",
            "httpMethod",
            "path",
            "rawPath",
            "body",
            "isBase64Encoded",
        ],
    )
    .ok()?;
    let [http, elb] = read_fields(context?.get().as_bytes(), ["http", "elb"]).ok()?;
    let (body, is_base64_encoded) = sanitize_body(body, is_base64_encoded);

    if let Some(http) = http {
        let [method] = read_fields(http.get().as_bytes(), ["method"]).ok()?;
        let mut event = ApiGatewayV2httpRequest::default();
        event.request_context.http.method = parse_method(method)?;
        event.raw_path = Some(sanitize_path(raw_path));
        event.body = body;
        event.is_base64_encoded = is_base64_encoded;
        return Some(LambdaRequest::ApiGatewayV2(event));
    }
    let method = parse_method(method)?;
    let path = Some(sanitize_path(path));
    Some(if elb.is_some() {
        let mut event = AlbTargetGroupRequest::default();
        event.http_method = method;
        event.path = path;
        event.body = body;
        event.is_base64_encoded = is_base64_encoded;
        LambdaRequest::Alb(event)
    } else {
        let mut event = ApiGatewayProxyRequest::default();
        event.http_method = method;
        event.path = path;
        event.body = body;
        event.is_base64_encoded = is_base64_encoded;
        LambdaRequest::ApiGatewayV1(event)
    })
}

fn parse_method(method: Option<&RawValue>) -> Option<Method> {
    as_string(method)?.parse().ok()
}

/// Returns a path that `http::Uri` accepts; `/` for one that cannot be the path of a save.
fn sanitize_path(path: Option<&RawValue>) -> String {
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
fn sanitize_body(
    body: Option<&RawValue>,
    is_base64_encoded: Option<&RawValue>,
) -> (Option<String>, bool) {
    let text = as_string(body).or_else(|| body.map(|body| body.get().to_owned()));
    let is_flagged = is_base64_encoded.is_some_and(|flag| flag.get() == "true");
    let is_base64 = is_flagged
        && text
            .as_ref()
            .is_some_and(|text| BASE64_STANDARD.decode(text).is_ok());
    (text, is_base64)
}
