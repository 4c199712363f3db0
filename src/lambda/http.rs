//! Handles HTTP requests: parses the request, saves the draft, and builds the response.

use lambda_http::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Invocation;
use super::parser::{as_string, invalid_draft_url, read_object};
use super::request::{HttpRequest, HttpResponse};
use crate::config::ResponseFormat;
use crate::draft::DraftId;
use crate::draft::document::BYTE_ORDER_MARK;
use crate::error::{Error, ErrorKind};

/// End of the path of a save. Stages and base paths before it differ between gateways.
const PATH: &str = "/save_draft";

/// The body of a request.
#[derive(Deserialize)]
struct SaveRequest<'a> {
    #[serde(borrow)]
    draft_url: Option<&'a RawValue>,
}

/// The values of `code` in the format of that name: those of the editing service.
mod code {
    pub(super) const SUCCESS: u16 = 0;
    /// A parameter is missing, or has another type.
    pub(super) const INVALID_PARAMETER: u16 = 1001;
    /// `draft_url` does not name a draft, or one that does not exist.
    pub(super) const INVALID_DRAFT_URL: u16 = 2001;
    pub(super) const INTERNAL: u16 = 9998;
}

/// Returns the response to `request`, in the form that its gateway expects.
pub(super) async fn handle(request: &HttpRequest, invocation: &Invocation<'_>) -> Value {
    let config = invocation.config;
    let response = Box::pin(respond(request, invocation));
    let response = invocation.catch_panic(response).await;
    let mut response = response.unwrap_or_else(|error| failed(config.response_format, &error));
    // Allows pages of the configured origin to read the response (Fetch Standard, "CORS protocol").
    // With a proxy integration, a gateway does not add headers to it.
    if let Some(origin) = &config.cors_origin {
        response.headers["access-control-allow-origin"] = json!(origin);
        let exposed = "Draft-Version, Draft-Saved, Retry-After";
        response.headers["access-control-expose-headers"] = json!(exposed);
    }
    response.to_json(&request.gateway)
}

async fn respond(request: &HttpRequest, invocation: &Invocation<'_>) -> HttpResponse {
    let format = invocation.config.response_format;
    if !request.path.ends_with(PATH) {
        return error(format, StatusCode::NOT_FOUND, 404, "Not Found");
    }
    match request.method {
        Method::POST => save(&request.body, invocation).await,
        Method::OPTIONS if invocation.config.cors_origin.is_some() => preflight(),
        _ => {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut response = error(format, status, 405, "Method Not Allowed");
            response.headers["allow"] = json!("POST");
            response
        }
    }
}

async fn save(body: &[u8], invocation: &Invocation<'_>) -> HttpResponse {
    let format = invocation.config.response_format;
    let invalid = |code, cause: &Error| {
        invocation.log.invalid(cause);
        error(format, StatusCode::BAD_REQUEST, code, cause.detail())
    };
    let draft_url = match read_draft_url(body) {
        Ok(draft_url) => draft_url,
        Err(cause) => return invalid(code::INVALID_PARAMETER, &cause),
    };
    let id = match DraftId::from_url(&draft_url, &invocation.config.draft_url_hosts) {
        Ok(id) => id,
        Err(cause) => return invalid(code::INVALID_DRAFT_URL, &invalid_draft_url(cause)),
    };
    match invocation.save(id).await.result {
        Err(cause) => failed(format, &cause),
        Ok(saved) => {
            let (version, outcome) = (saved.version.as_str(), saved.outcome.as_str());
            let body = match format {
                ResponseFormat::Detail => json!({"draft_url": draft_url}),
                ResponseFormat::Code => json!({
                    "code": code::SUCCESS,
                    "message": "success",
                    "draft_url": draft_url,
                    "version": version,
                    "saved": outcome,
                }),
            };
            let mut response = json_response(StatusCode::OK, &body);
            response.headers["draft-version"] = json!(version);
            response.headers["draft-saved"] = json!(outcome);
            response
        }
    }
}

/// Returns the `draft_url` in the body of a request, which is not empty.
fn read_draft_url(body: &[u8]) -> Result<String, Error> {
    let required = |cause: &str| Error::invalid_request("draft_url is required", cause);
    // RFC 8259, section 8.1 allows a parser to ignore a byte order mark.
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    if body.trim_ascii().is_empty() {
        return Err(required("the request has no body"));
    }
    let body: SaveRequest<'_> = read_object(body)
        .map_err(|cause| Error::invalid_request("The request body must be a JSON object", cause))?;
    if body.draft_url.is_none() {
        return Err(required("the body has no draft_url"));
    }
    let draft_url =
        as_string(body.draft_url).ok_or_else(|| invalid_draft_url("draft_url must be a string"))?;
    if draft_url.trim().is_empty() {
        return Err(required("draft_url is empty"));
    }
    Ok(draft_url)
}

/// Returns the response to a save that failed.
fn failed(format: ResponseFormat, cause: &Error) -> HttpResponse {
    let (status, code) = match cause.kind() {
        ErrorKind::InvalidRequest => (StatusCode::BAD_REQUEST, code::INVALID_PARAMETER),
        ErrorKind::DraftNotFound => (StatusCode::NOT_FOUND, code::INVALID_DRAFT_URL),
        ErrorKind::SaveFailed => (StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL),
        ErrorKind::ServiceUnavailable => (StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL),
    };
    let mut response = error(format, status, code, cause.detail());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers["retry-after"] = json!("1");
    }
    response
}

fn error(format: ResponseFormat, status: StatusCode, code: u16, text: &str) -> HttpResponse {
    match format {
        ResponseFormat::Detail => json_response(status, &json!({"detail": text})),
        ResponseFormat::Code => {
            json_response(StatusCode::OK, &json!({"code": code, "message": text}))
        }
    }
}

fn json_response(status: StatusCode, body: &Value) -> HttpResponse {
    HttpResponse {
        status,
        headers: json!({"content-type": "application/json", "cache-control": "no-store"}),
        body: body.to_string(),
    }
}

/// Returns the response to a CORS preflight request, for triggers that do not answer it themselves. Only
/// the configured origin may send headers of its own, for example those that trace a request.
fn preflight() -> HttpResponse {
    HttpResponse {
        status: StatusCode::NO_CONTENT,
        headers: json!({
            "access-control-allow-methods": "POST",
            // The wildcard does not cover `Authorization` (Fetch Standard, "CORS protocol").
            "access-control-allow-headers": "Authorization, *",
            "access-control-max-age": "3600",
        }),
        body: String::new(),
    }
}
