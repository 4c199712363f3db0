//! Handles HTTP requests: parses the request, saves the draft, and builds the response.

use std::time::Instant;

use lambda_http::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ALLOW,
    CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER,
};
use lambda_http::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use lambda_http::{Body, Request, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::parser::{as_string, read_object};
use super::telemetry::InvocationLog;
use crate::config::{RequestConfig, ResponseFormat};
use crate::draft::DraftId;
use crate::draft::document::BYTE_ORDER_MARK;
use crate::error::{BoxError, Error, ErrorKind};
use crate::save::Saver;

/// End of the path of a save. Stages and base paths before it differ between gateways.
const PATH: &str = "/save_draft";

/// The text of an error about `draft_url`, for the caller.
const INVALID_DRAFT_URL: &str = "Invalid draft_url format";

/// The body of a request.
#[derive(Deserialize)]
struct SaveRequest<'a> {
    #[serde(borrow)]
    draft_url: Option<&'a RawValue>,
}

/// Handles HTTP requests.
#[derive(Debug)]
pub(super) struct HttpHandler {
    draft_url_hosts: Vec<String>,
    cors_origin: Option<HeaderValue>,
    format: ResponseFormat,
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

impl HttpHandler {
    /// Creates a handler with the hosts and the origin in `config`.
    pub(super) fn new(config: &RequestConfig) -> Self {
        // `Config` accepts only origins, which are valid header values.
        let origin = config.cors_origin.as_deref();
        Self {
            draft_url_hosts: config.draft_url_hosts.clone(),
            cors_origin: origin.and_then(|origin| HeaderValue::from_str(origin).ok()),
            format: config.response_format,
        }
    }

    /// Returns the response to `request`, by `deadline`.
    pub(super) async fn handle(
        &self,
        request: &Request,
        saver: &Saver,
        deadline: Instant,
        log: &InvocationLog<'_>,
    ) -> Response<Body> {
        let mut response = if !request.uri().path().ends_with(PATH) {
            self.failure(StatusCode::NOT_FOUND, 404, "Not Found")
        } else if request.method() == Method::OPTIONS && self.cors_origin.is_some() {
            preflight(request.headers())
        } else if request.method() == Method::POST {
            self.save(request.body(), saver, deadline, log).await
        } else {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            let mut response = self.failure(status, 405, "Method Not Allowed");
            insert(response.headers_mut(), ALLOW, "POST");
            response
        };
        self.allow_origin(&mut response);
        response
    }

    /// Returns the response to a request that failed outside of [`Self::handle`].
    pub(super) fn error_response(&self, error: &Error) -> Response<Body> {
        let mut response = self.save_failure(error);
        self.allow_origin(&mut response);
        response
    }

    async fn save(
        &self,
        body: &[u8],
        saver: &Saver,
        deadline: Instant,
        log: &InvocationLog<'_>,
    ) -> Response<Body> {
        let (draft_url, id) = match self.read_body(body) {
            Ok(draft) => draft,
            Err((code, error)) => {
                log.invalid(&error);
                return self.failure(StatusCode::BAD_REQUEST, code, error.detail());
            }
        };
        let report = saver.save(id, deadline).await;
        log.save(&report);
        match &report.result {
            Err(error) => self.save_failure(error),
            Ok(saved) => {
                let body = match self.format {
                    ResponseFormat::Detail => json!({"draft_url": draft_url}),
                    ResponseFormat::Code => json!({
                        "code": code::SUCCESS,
                        "message": "success",
                        "draft_url": draft_url,
                        "version": saved.version.as_str(),
                        "saved": saved.outcome.as_str(),
                    }),
                };
                let mut response = json_response(StatusCode::OK, &body);
                let headers = response.headers_mut();
                // A version consists of digits, letters and `-`.
                if let Ok(version) = HeaderValue::from_str(saved.version.as_str()) {
                    headers.insert("draft-version", version);
                }
                let outcome = HeaderValue::from_static(saved.outcome.as_str());
                headers.insert("draft-saved", outcome);
                response
            }
        }
    }

    /// Returns the `draft_url` in `body`, unchanged, and the id of its draft; or an error and its code.
    fn read_body(&self, body: &[u8]) -> Result<(String, DraftId), (u16, Error)> {
        let invalid = |detail, cause: BoxError| {
            (
                code::INVALID_PARAMETER,
                Error::invalid_request(detail, cause),
            )
        };
        let required = |cause: &str| invalid("draft_url is required", cause.into());
        // RFC 8259, section 8.1 allows a parser to ignore a byte order mark.
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        if body.trim_ascii().is_empty() {
            return Err(required("the request has no body"));
        }
        let body: SaveRequest<'_> = read_object(body)
            .map_err(|cause| invalid("The request body must be a JSON object", cause))?;
        if body.draft_url.is_none() {
            return Err(required("the body has no draft_url"));
        }
        let draft_url = as_string(body.draft_url)
            .ok_or_else(|| invalid(INVALID_DRAFT_URL, "draft_url must be a string".into()))?;
        if draft_url.trim().is_empty() {
            return Err(required("draft_url is empty"));
        }
        match DraftId::from_url(&draft_url, &self.draft_url_hosts) {
            Ok(id) => Ok((draft_url, id)),
            Err(cause) => {
                let error = Error::invalid_request(INVALID_DRAFT_URL, cause);
                Err((code::INVALID_DRAFT_URL, error))
            }
        }
    }

    fn save_failure(&self, error: &Error) -> Response<Body> {
        let (status, code) = match error.kind() {
            ErrorKind::InvalidRequest => (StatusCode::BAD_REQUEST, code::INVALID_PARAMETER),
            ErrorKind::DraftNotFound => (StatusCode::NOT_FOUND, code::INVALID_DRAFT_URL),
            ErrorKind::SaveFailed => (StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL),
            ErrorKind::ServiceUnavailable => (StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL),
        };
        let mut response = self.failure(status, code, error.detail());
        if error.kind() == ErrorKind::ServiceUnavailable {
            insert(response.headers_mut(), RETRY_AFTER, "1");
        }
        response
    }

    fn failure(&self, status: StatusCode, code: u16, text: &str) -> Response<Body> {
        match self.format {
            ResponseFormat::Detail => json_response(status, &json!({"detail": text})),
            ResponseFormat::Code => {
                json_response(StatusCode::OK, &json!({"code": code, "message": text}))
            }
        }
    }

    /// Allows pages of the configured origin to read `response` (Fetch Standard, "CORS protocol").
    /// With a proxy integration, a gateway does not add headers to it.
    fn allow_origin(&self, response: &mut Response<Body>) {
        if let Some(origin) = &self.cors_origin {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            insert(
                headers,
                ACCESS_CONTROL_EXPOSE_HEADERS,
                "Draft-Version, Draft-Saved, Retry-After",
            );
        }
    }
}

/// Returns the response to a CORS preflight request, for triggers that do not answer it themselves.
fn preflight(request: &HeaderMap) -> Response<Body> {
    // Clients send headers of their own, for example those that trace a request. Only the configured
    // origin may send them.
    let requested = request
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .filter(|names| are_header_names(names.as_bytes()));
    let default = HeaderValue::from_static(
        "Authorization, Content-Type, X-Amz-Date, X-Amz-Security-Token, X-Api-Key",
    );
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    insert(headers, ACCESS_CONTROL_ALLOW_METHODS, "POST");
    let allowed = requested.cloned().unwrap_or(default);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    insert(headers, ACCESS_CONTROL_MAX_AGE, "3600");
    response
}

/// Returns whether `list` is a list of names, separated by commas.
fn are_header_names(list: &[u8]) -> bool {
    list.split(|byte| *byte == b',')
        .all(|name| HeaderName::from_bytes(name.trim_ascii()).is_ok())
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Text(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    insert(headers, CONTENT_TYPE, "application/json");
    insert(headers, CACHE_CONTROL, "no-store");
    response
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}
