//! The Lambda side: dispatches an invocation to the HTTP or the event handler, and computes its
//! deadline.

mod events;
mod http;
mod parser;
mod request;
pub mod telemetry;

use std::future::ready;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use lambda_http::lambda_runtime::{Diagnostic, LambdaEvent, Service};
use lambda_http::request::RequestContext;
use lambda_http::tower::{ServiceExt as _, service_fn};
use lambda_http::{Adapter, Body, BoxFuture, IntoResponse, Request, RequestExt as _, Response};
use serde::Serialize;

use self::http::HttpHandler;
use self::parser::EventParser;
pub use self::request::Payload;
use self::telemetry::{InvocationLog, Telemetry};
use crate::config::RequestConfig;
use crate::error::Error;
use crate::save::Saver;

/// Time reserved for the response at the end of an invocation.
const RESPONSE_MARGIN: Duration = Duration::from_millis(500);

/// Maximum duration of an HTTP request: API Gateway waits for 29 seconds ("Amazon API Gateway quotas").
const MAX_HTTP_DURATION: Duration = Duration::from_secs(28);

/// The Lambda function.
#[derive(Debug)]
pub struct Function {
    saver: Saver,
    http: HttpHandler,
    events: EventParser,
    telemetry: Telemetry,
}

impl Function {
    /// Creates the function.
    pub fn new(saver: Saver, config: RequestConfig, telemetry: Telemetry) -> Self {
        Self {
            saver,
            http: HttpHandler::new(&config),
            events: EventParser::new(config),
            telemetry,
        }
    }

    /// Returns the service for the Lambda runtime. It takes the payload of an invocation and returns
    /// the response in the form that the trigger expects, or the error of a failed invocation.
    pub fn into_service(
        self,
    ) -> impl Service<
        LambdaEvent<Payload>,
        Response: Serialize + Send,
        Error = Diagnostic,
        Future: Send,
    > + Clone
    + Send {
        let function = Arc::new(self);
        let handler = service_fn(move |request: Request| {
            let function = Arc::clone(&function);
            async move { function.handle(request).await.map(RawResponse) }
        });
        Adapter::from(handler).map_request(|event: LambdaEvent<Payload>| {
            LambdaEvent::new(event.payload.0, event.context)
        })
    }

    async fn handle(&self, request: Request) -> Result<Response<Body>, Diagnostic> {
        let context = request.lambda_context();
        let log = self.telemetry.invocation(&context.request_id);
        let is_event = matches!(
            request.request_context_ref(),
            Some(RequestContext::PassThrough)
        );
        let deadline = deadline(context.deadline, is_event);
        // The runtime would send the text of a panic to the caller.
        let dispatch = AssertUnwindSafe(self.dispatch(&request, is_event, deadline, &log));
        dispatch.catch_unwind().await.unwrap_or_else(|_| {
            let error = Error::save_failed("panic");
            log.failed(1, &error);
            if is_event {
                Err(Diagnostic::from(&error))
            } else {
                Ok(self.http.error_response(&error))
            }
        })
    }

    async fn dispatch(
        &self,
        request: &Request,
        is_event: bool,
        deadline: Instant,
        log: &InvocationLog<'_>,
    ) -> Result<Response<Body>, Diagnostic> {
        let saver = &self.saver;
        match request.body() {
            Body::Text(payload) if is_event => {
                let result = events::handle(payload, &self.events, saver, deadline, log).await;
                result.map(|result| Response::new(Body::Text(result.to_string())))
            }
            _ => Ok(self.http.handle(request, saver, deadline, log).await),
        }
    }
}

/// A response that `lambda_http` sends as it is. Its own conversion looks for the character set,
/// which adds the tables of all character sets to the executable.
struct RawResponse(Response<Body>);

impl IntoResponse for RawResponse {
    fn into_response(self) -> BoxFuture<'static, Response<Body>> {
        Box::pin(ready(self.0))
    }
}

/// The year 2000, in milliseconds since the epoch.
const YEAR_2000_MS: u64 = 946_684_800_000;

/// Returns the time by which a save must be done, for an invocation that ends at `end_ms`
/// milliseconds since the epoch, as sent by the Runtime API. `cargo lambda watch` sends the
/// remaining milliseconds instead.
fn deadline(end_ms: u64, is_event: bool) -> Instant {
    let end = Duration::from_millis(end_ms);
    let remaining = if end_ms < YEAR_2000_MS {
        end
    } else {
        let end = SystemTime::UNIX_EPOCH + end;
        end.duration_since(SystemTime::now()).unwrap_or_default()
    };
    let remaining = if is_event {
        remaining
    } else {
        remaining.min(MAX_HTTP_DURATION)
    };
    Instant::now() + remaining.saturating_sub(RESPONSE_MARGIN)
}
