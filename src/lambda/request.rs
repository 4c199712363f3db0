//! HTTP events of API Gateway, load balancers and function URLs, reduced to what a save reads, and
//! responses in their form.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lambda_http::http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::parser::{as_string, read_object};

/// An HTTP request.
pub(super) struct HttpRequest {
    pub gateway: Gateway,
    pub method: Method,
    pub path: String,
    pub body: Vec<u8>,
}

/// A response to an HTTP request.
pub(super) struct HttpResponse {
    pub status: StatusCode,
    /// An object of texts.
    pub headers: Value,
    pub body: String,
}

/// The gateways, by the form of their events and responses.
pub(super) enum Gateway {
    /// A REST API.
    RestApi,
    /// An HTTP API or a function URL.
    HttpApi,
    LoadBalancer,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpEvent<'a> {
    #[serde(borrow)]
    request_context: Option<&'a RawValue>,
    http_method: Option<&'a RawValue>,
    path: Option<&'a RawValue>,
    raw_path: Option<&'a RawValue>,
    body: Option<&'a RawValue>,
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

impl HttpRequest {
    /// Parses an HTTP event, or returns `None` for any other payload.
    pub(super) fn parse(payload: &str) -> Option<Self> {
        // A cheap test that spares large batches a second parse.
        if !payload.contains("requestContext") {
            return None;
        }
        let event: HttpEvent<'_> = read_object(payload.as_bytes()).ok()?;
        let context: RequestContext = read_object(event.request_context?.get().as_bytes()).ok()?;
        let (gateway, method, path) = if let Some(http) = context.http {
            (Gateway::HttpApi, Some(http.method), event.raw_path)
        } else {
            let gateway = match context.elb {
                Some(_) => Gateway::LoadBalancer,
                None => Gateway::RestApi,
            };
            (gateway, as_string(event.http_method), event.path)
        };
        Some(Self {
            gateway,
            method: method?.parse().ok()?,
            path: as_string(path).unwrap_or_default(),
            body: read_body(event.body, event.is_base64_encoded),
        })
    }
}

/// Reads a body that is text, or Base64 if it is marked as such and valid. A body that is not a string, as
/// in hand-written test events, is replaced by its JSON text.
fn read_body(body: Option<&RawValue>, is_base64: Option<&RawValue>) -> Vec<u8> {
    let json = body.map(RawValue::get).unwrap_or_default();
    let text = as_string(body).unwrap_or_else(|| json.to_owned());
    let is_base64 = is_base64.is_some_and(|flag| flag.get() == "true");
    let decoded = is_base64.then(|| BASE64_STANDARD.decode(&text).ok());
    decoded.flatten().unwrap_or_else(|| text.into_bytes())
}

impl HttpResponse {
    /// Returns the response in the form that `gateway` expects ("Lambda proxy integrations in API Gateway"
    /// and "Create AWS Lambda proxy integrations for HTTP APIs", API Gateway Developer Guide; "Use Lambda
    /// functions as targets of an Application Load Balancer", Elastic Load Balancing User Guide).
    pub(super) fn to_json(&self, gateway: &Gateway) -> Value {
        let headers = self.headers.as_object().into_iter().flatten();
        let lists: Map<_, _> = headers
            .map(|(name, value)| (name.clone(), json!([value])))
            .collect();
        let mut response = json!({
            "statusCode": self.status.as_u16(),
            "headers": self.headers,
            "multiValueHeaders": lists,
            "body": self.body,
            "isBase64Encoded": false,
        });
        match gateway {
            // It would merge `headers` and `multiValueHeaders`.
            Gateway::RestApi => response["headers"] = json!({}),
            Gateway::HttpApi => {
                response["multiValueHeaders"] = json!({});
                response["cookies"] = json!([]);
            }
            // The target group determines which of the headers it reads.
            Gateway::LoadBalancer => response["statusDescription"] = self.status.to_string().into(),
        }
        response
    }
}
