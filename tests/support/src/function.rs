//! The function in this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lambda_http::lambda_runtime::{Context, LambdaEvent};
use save_draft::config::Config;
use save_draft::lambda::Function;
use save_draft::lambda::telemetry::Telemetry;

use crate::fixtures::BUCKET;
use crate::runtime::Outcome;
use crate::s3::S3;

/// The function, with an S3 server in this process too.
pub struct InProcess {
    /// The S3 server.
    pub s3: S3,
    function: Function,
    log: Arc<Mutex<Vec<u8>>>,
}

impl InProcess {
    /// Starts both. No draft exists.
    pub async fn start() -> Self {
        let s3 = S3::start_empty().await.expect("the S3 server starts");
        let config = Config::from_lookup(|name| (name == "DRAFT_BUCKET").then(|| BUCKET.into()));
        let config = config.expect("a valid configuration");
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let telemetry = Telemetry::new("save-draft", move |line| {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            written.extend_from_slice(line);
        });
        let function = Function::new(&s3.sdk_config(), config, telemetry);
        Self { s3, function, log }
    }

    /// Invokes the function with `payload`, or returns `None` if it is not JSON.
    pub async fn invoke(&self, payload: &[u8]) -> Option<Outcome> {
        let end = SystemTime::now() + Duration::from_secs(20);
        let end = end.duration_since(SystemTime::UNIX_EPOCH);
        let end_ms = end.expect("a time after 1970").as_secs() * 1000;
        self.invoke_until(payload, end_ms).await
    }

    /// Invokes the function like [`Self::invoke`], with this deadline in milliseconds.
    pub async fn invoke_until(&self, payload: &[u8], deadline_ms: u64) -> Option<Outcome> {
        let payload = serde_json::from_slice(payload).ok()?;
        let mut context = Context::default();
        "8476a536-e9f4-11e8-9739-2dfe598c3fcd".clone_into(&mut context.request_id);
        context.deadline = deadline_ms;
        let event = LambdaEvent::new(payload, context);
        Some(match self.function.handle(event).await {
            Ok(response) => Outcome::Response(response),
            Err(error) => Outcome::from_error(error.error_type, error.error_message),
        })
    }

    /// Returns and removes the text of the log.
    pub fn take_log(&self) -> String {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(std::mem::take(&mut *log)).expect("UTF-8")
    }
}
