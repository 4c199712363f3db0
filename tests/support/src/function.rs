//! The function in this process: the service that the Lambda runtime library calls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lambda_http::lambda_runtime::{Context, LambdaEvent};
use lambda_http::tower::ServiceExt as _;
use lambda_http::tower::util::BoxCloneService;
use save_draft::config::Config;
use save_draft::lambda::telemetry::Telemetry;
use save_draft::lambda::{Function, Payload};
use save_draft::s3::Store;
use save_draft::save::Saver;
use serde_json::Value;

use crate::fixtures::BUCKET;
use crate::runtime::Outcome;
use crate::s3::S3;

/// The function, with an S3 server in this process too.
pub struct InProcess {
    /// The S3 server.
    pub s3: S3,
    service: BoxCloneService<LambdaEvent<Payload>, Value, Outcome>,
    log: Arc<Mutex<Vec<u8>>>,
}

impl InProcess {
    /// Starts both. No draft exists.
    pub async fn start() -> Self {
        let s3 = S3::start_empty().await.expect("the S3 server starts");
        let config = Config::from_lookup(|name| (name == "DRAFT_BUCKET").then(|| BUCKET.into()));
        let config = config.expect("a valid configuration");
        let saver = Saver::new(Store::new(&s3.sdk_config(), config.storage), config.saves);
        let log = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&log);
        let telemetry = Telemetry::new("save-draft", move |line| {
            let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
            written.extend_from_slice(line);
        });
        let service = Function::new(saver, config.requests, telemetry).into_service();
        let service = service
            .map_response(|response| serde_json::to_value(response).expect("a JSON response"))
            .map_err(|error| Outcome::from_error(error.error_type, error.error_message))
            .boxed_clone();
        Self { s3, service, log }
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
        let result = self
            .service
            .clone()
            .oneshot(LambdaEvent::new(payload, context));
        Some(result.await.map_or_else(|error| error, Outcome::Response))
    }

    /// Returns and removes the text of the log.
    pub fn take_log(&self) -> String {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(std::mem::take(&mut *log)).expect("UTF-8")
    }
}
