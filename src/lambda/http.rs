//! A save over HTTP: request, use case, response. The only place that builds
//! `{"detail": …}`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Instant;

use lambda_http::http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW, CACHE_CONTROL, CONTENT_TYPE,
    RETRY_AFTER,
};
use lambda_http::http::{HeaderValue, Method, StatusCode};
use lambda_http::{Body, Request, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::draft::{DraftId, DraftUrl};
use crate::error::{Cause, Error, Kind, unread};
use crate::save::Saver;
use crate::telemetry::Invocation;

/// What the path of a save ends in: stages and base paths differ between gateways.
const PATH: &str = "/save_draft";

/// The client may try again at once: it is the store that was busy, not the function.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Answers `request` by `deadline`.
pub async fn handle(
    request: &Request,
    saver: &Saver,
    hosts: &[String],
    deadline: Instant,
    invocation: &mut Invocation,
) -> Response<Body> {
    if !request.uri().path().ends_with(PATH) {
        return respond(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}));
    }
    if request.method() != Method::POST {
        let body = json!({"detail": "Method Not Allowed"});
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, &body);
        let allow = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, allow);
        return response;
    }
    let (draft_url, id) = match draft_url(request.body(), hosts) {
        Ok(draft) => draft,
        Err(error) => {
            invocation.refused(&error);
            return failure(&error);
        }
    };
    let attempt = saver.save(id, deadline).await;
    invocation.saved(&attempt);
    match &attempt.result {
        Err(error) => failure(error),
        Ok(saved) => {
            let mut response = respond(StatusCode::OK, &json!({"draft_url": draft_url}));
            let headers = response.headers_mut();
            if let Ok(version) = HeaderValue::from_str(saved.version.as_str()) {
                headers.insert("draft-version", version);
            }
            headers.insert("draft-saved", HeaderValue::from_static(saved.word()));
            response
        }
    }
}

/// The draft that a request's body names: its URL as the client wrote it, and its id.
fn draft_url(body: &[u8], hosts: &[String]) -> Result<(String, DraftId), Error> {
    let required = |cause: &'static str| Error::invalid_request("draft_url is required", cause);
    let invalid = |cause: Cause| Error::invalid_request("Invalid draft_url format", cause);
    if body.trim_ascii().is_empty() {
        return Err(required("the request has no body"));
    }
    // Raw values: what the API does not know may be anything, and costs nothing.
    let mut fields: HashMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(body).map_err(|error| {
            Error::invalid_request("The request body must be a JSON object", unread(&error))
        })?;
    let Some(value) = fields.remove("draft_url") else {
        return Err(required("the request has no draft_url"));
    };
    match serde_json::from_str(value.get()) {
        Ok(Value::Null) => Err(required("draft_url is null")),
        Ok(Value::String(text)) if text.trim().is_empty() => Err(required("draft_url is empty")),
        Ok(Value::String(text)) => match DraftUrl::parse(&text, hosts) {
            Ok(url) => Ok((text, url.into_id())),
            Err(error) => Err(invalid(error.into())),
        },
        Ok(_) => Err(invalid("draft_url is not a string".into())),
        Err(error) => Err(invalid(unread(&error))),
    }
}

/// Lets the pages of `origin` read `response` (Fetch Standard, "CORS protocol"): a gateway
/// passes on what the function sends, and can add no header to it.
pub fn allow_origin(response: &mut Response<Body>, origin: Option<&str>) {
    let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(origin).ok()) else {
        return;
    };
    let readable = HeaderValue::from_static("Draft-Version, Draft-Saved, Retry-After");
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, readable);
}

fn failure(error: &Error) -> Response<Body> {
    let status = match error.kind() {
        Kind::InvalidRequest => StatusCode::BAD_REQUEST,
        Kind::DraftNotFound => StatusCode::NOT_FOUND,
        Kind::SaveFailed => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = respond(status, &json!({"detail": error.detail()}));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    response
}

fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Text(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
