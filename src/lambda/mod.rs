//! The Lambda side: dispatches an invocation to the HTTP or the event handler, and computes its
//! deadline.

mod events;
mod http;
mod parser;
mod request;
pub mod telemetry;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_config::SdkConfig;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lambda_http::lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::Value;
use serde_json::value::RawValue;

use self::request::HttpRequest;
use self::telemetry::{InvocationLog, Telemetry};
use crate::config::Config;
use crate::draft::DraftId;
use crate::error::Error;
use crate::save::{SaveReport, Saver};

/// Time reserved for the response at the end of an invocation.
const RESPONSE_MARGIN: Duration = Duration::from_millis(500);

/// Maximum duration of an HTTP request: API Gateway waits for 29 seconds ("Amazon API Gateway quotas").
const MAX_HTTP_DURATION: Duration = Duration::from_secs(28);

/// The Lambda function.
pub struct Function {
    saver: Saver,
    config: Arc<Config>,
    telemetry: Telemetry,
}

/// One invocation of the function.
struct Invocation<'a> {
    saver: &'a Saver,
    config: &'a Config,
    /// The time by which a save must be done.
    deadline: Instant,
    log: InvocationLog<'a>,
}

impl Function {
    /// Creates the function. Makes no request.
    pub fn new(sdk_config: &SdkConfig, config: Config, telemetry: Telemetry) -> Self {
        let config = Arc::new(config);
        Self {
            saver: Saver::new(sdk_config, Arc::clone(&config)),
            config,
            telemetry,
        }
    }

    /// Handles an invocation, and returns the response in the form that the trigger expects.
    ///
    /// # Errors
    ///
    /// Returns the error of a failed invocation.
    pub async fn handle(&self, event: LambdaEvent<Box<RawValue>>) -> Result<Value, Diagnostic> {
        let (payload, context) = event.into_parts();
        if let Some(request) = HttpRequest::parse(payload.get()) {
            let invocation = self.invocation(&context, MAX_HTTP_DURATION);
            return Ok(http::handle(&request, &invocation).await);
        }
        let invocation = self.invocation(&context, Duration::MAX);
        let handler = Box::pin(events::handle(payload.get(), &invocation));
        let result = invocation.catch_panic(handler).await;
        result.unwrap_or_else(|error| Err(Diagnostic::from(&error)))
    }

    fn invocation<'a>(&'a self, context: &'a Context, max: Duration) -> Invocation<'a> {
        Invocation {
            saver: &self.saver,
            config: &self.config,
            deadline: deadline(context.deadline, max),
            log: self.telemetry.invocation(&context.request_id),
        }
    }
}

impl Invocation<'_> {
    /// Saves the draft `id`, and logs the result.
    async fn save(&self, id: DraftId) -> SaveReport {
        let report = self.saver.save(id, self.deadline).await;
        self.log.save(&report);
        report
    }

    /// Returns the result of `handler`, or an error if it panics. The runtime would send the text of the
    /// panic to the caller.
    async fn catch_panic<T>(&self, handler: BoxFuture<'_, T>) -> Result<T, Error> {
        let result = AssertUnwindSafe(handler).catch_unwind().await;
        result.map_err(|_| {
            let error = Error::save_failed("panic");
            self.log.failed(1, &error);
            error
        })
    }
}

/// The year 2000, in milliseconds since the epoch.
const YEAR_2000_MS: u64 = 946_684_800_000;

/// Returns the time by which a save must be done, for an invocation that ends at `end_ms`
/// milliseconds since the epoch, as sent by the Runtime API, and takes at most `max`.
/// `cargo lambda watch` sends the remaining milliseconds instead.
fn deadline(end_ms: u64, max: Duration) -> Instant {
    let end = Duration::from_millis(end_ms);
    let remaining = if end_ms < YEAR_2000_MS {
        end
    } else {
        let end = SystemTime::UNIX_EPOCH + end;
        end.duration_since(SystemTime::now()).unwrap_or_default()
    };
    Instant::now() + remaining.min(max).saturating_sub(RESPONSE_MARGIN)
}
