//! The function for the fuzz targets, with the S3 server of `test_support`.

use std::time::{Duration, SystemTime};

use lambda_runtime::{Context, LambdaEvent};
use save_draft::config::Config;
use save_draft::lambda::Function;
use save_draft::lambda::telemetry::Telemetry;
use save_draft::s3::Store;
use save_draft::save::Saver;
use test_support::check::{self, InputStrings};
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, sample_draft};
use test_support::s3::S3;
use tokio::runtime::{self, Runtime};

/// Time limit of an invocation.
const INVOCATION_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends `payload` to the function as the Lambda runtime does, and checks the result and the requests to S3.
///
/// # Panics
///
/// If the result is not a documented one, or a request does not belong to the save of a draft that `payload` names.
pub fn invoke(payload: &[u8]) {
    thread_local! {
        static ENV: FuzzEnv = FuzzEnv::start();
    }
    ENV.with(|env| env.invoke(payload));
}

struct FuzzEnv {
    runtime: Runtime,
    /// Contains the draft [`DRAFT_ID`].
    s3: S3,
    function: Function,
}

impl FuzzEnv {
    fn start() -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the runtime starts");
        let s3 = runtime.block_on(S3::start_empty());
        let s3 = s3.expect("the S3 server starts");
        s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
        let function = function(&s3);
        Self {
            runtime,
            s3,
            function,
        }
    }

    fn invoke(&self, payload: &[u8]) {
        let Ok(request) = serde_json::from_slice(payload) else {
            // The Lambda runtime refuses it.
            return;
        };
        let deadline = SystemTime::now() + INVOCATION_TIMEOUT;
        let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH);
        let mut context = Context::default();
        context.deadline = deadline.expect("a time after 1970").as_secs() * 1000;
        let event = LambdaEvent::new(request, context);
        self.s3.clear_requests();
        let result = self.runtime.block_on(self.function.handle(event));
        let result = result.map_err(|error| (error.error_type, error.error_message));
        let input = InputStrings::of(payload);
        check::result(&input, &result);
        for request in self.s3.requests() {
            check::s3_request(&input, &request);
        }
    }
}

fn function(s3: &S3) -> Function {
    let config = Config::from_lookup(|name| (name == "DRAFT_BUCKET").then(|| BUCKET.into()));
    let config = config.expect("a valid configuration");
    let telemetry = Telemetry::new("fuzz", |_| {});
    let saver = Saver::new(Store::new(&s3.sdk_config(), config.storage), config.saves);
    Function::new(saver, config.requests, telemetry)
}
