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
use crate::config::RequestConfig;
use crate::draft::DraftId;
use crate::draft::document::BYTE_ORDER_MARK;
use crate::error::{BoxError, Error, ErrorKind};
use crate::save::Saver;

/// End of the path of a save. Stages and base paths before it differ between gateways.
const PATH: &str = "/save_draft";

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
}

impl HttpHandler {
    /// Creates a handler with the hosts and the origin in `config`.
    pub(super) fn new(config: &RequestConfig) -> Self {
        // `Config` accepts only origins, which are valid header values.
        let origin = config.cors_origin.as_deref();
        Self {
            draft_url_hosts: config.draft_url_hosts.clone(),
            cors_origin: origin.and_then(|origin| HeaderValue::from_str(origin).ok()),
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
            json_response(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}))
        } else if request.method() == Method::OPTIONS && self.cors_origin.is_some() {
            preflight(request.headers())
        } else if request.method() == Method::POST {
            self.save(request.body(), saver, deadline, log).await
        } else {
            let body = json!({"detail": "Method Not Allowed"});
            let mut response = json_response(StatusCode::METHOD_NOT_ALLOWED, &body);
            insert(response.headers_mut(), ALLOW, "POST");
            response
        };
        self.allow_origin(&mut response);
        response
    }

    /// Returns the response to a request that failed outside of [`Self::handle`].
    pub(super) fn error_response(&self, error: &Error) -> Response<Body> {
        let mut response = error_response(error);
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
            Err(error) => {
                log.invalid(&error);
                return error_response(&error);
            }
        };
        let report = saver.save(id, deadline).await;
        log.save(&report);
        match &report.result {
            Err(error) => error_response(error),
            Ok(saved) => {
                let mut response = json_response(StatusCode::OK, &json!({"draft_url": draft_url}));
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

    /// Returns the `draft_url` in `body`, unchanged, and the id of its draft.
    fn read_body(&self, body: &[u8]) -> Result<(String, DraftId), Error> {
        let required = |cause| Error::invalid_request("draft_url is required", cause);
        let invalid = |cause: BoxError| Error::invalid_request("Invalid draft_url format", cause);
        // RFC 8259, section 8.1 allows a parser to ignore a byte order mark.
        let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
        if body.trim_ascii().is_empty() {
            return Err(required("the request has no body"));
        }
        let body: SaveRequest<'_> = read_object(body).map_err(|cause| {
            Error::invalid_request("The request body must be a JSON object", cause)
        })?;
        if body.draft_url.is_none() {
            return Err(required("the body has no draft_url"));
        }
        let draft_url = as_string(body.draft_url)
            .ok_or_else(|| invalid("draft_url must be a string".into()))?;
        if draft_url.trim().is_empty() {
            return Err(required("draft_url is empty"));
        }
        let id = DraftId::from_url(&draft_url, &self.draft_url_hosts).map_err(invalid)?;
        Ok((draft_url, id))
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

fn error_response(error: &Error) -> Response<Body> {
    let status = match error.kind() {
        ErrorKind::InvalidRequest => StatusCode::BAD_REQUEST,
        ErrorKind::DraftNotFound => StatusCode::NOT_FOUND,
        ErrorKind::SaveFailed => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = json_response(status, &json!({"detail": error.detail()}));
    if error.kind() == ErrorKind::ServiceUnavailable {
        insert(response.headers_mut(), RETRY_AFTER, "1");
    }
    response
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
