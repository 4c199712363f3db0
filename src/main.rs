//! The Lambda binary: sets up, and runs the function.

use std::env;
use std::io;
use std::process::ExitCode;

use lambda_http::lambda_runtime;
use mimalloc::MiMalloc;
use save_draft::config::Config;
use save_draft::invocation::Function;
use save_draft::sdk;
use save_draft::store::Store;
use save_draft::telemetry::{self, Telemetry};
use tokio::runtime;

/// The SDK allocates by the hundred for each request.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    telemetry::init_logs(io::stdout);
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(target: "save_draft", %error, "the function did not start");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), lambda_http::Error> {
    let config = Config::from_env()?;
    // One invocation at a time needs one thread, which starts faster; more are only there
    // on Lambda Managed Instances, which set this variable.
    let concurrency = env::var("AWS_LAMBDA_MAX_CONCURRENCY").unwrap_or_default();
    let concurrent = concurrency.parse().is_ok_and(|most: u32| most > 1);
    let mut builder = if concurrent {
        runtime::Builder::new_multi_thread()
    } else {
        runtime::Builder::new_current_thread()
    };
    builder.enable_all().build()?.block_on(async {
        let sdk = sdk::config()?;
        let store = Store::new(&sdk, &config);
        let function_name = env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
        let function = Function::new(&config, store, Telemetry::new(function_name));
        lambda_runtime::run_concurrent(function.into_service()).await
    })
}
