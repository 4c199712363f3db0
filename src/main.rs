//! Lambda entry point: sets up logs, configuration and clients, and runs the function.

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use lambda_http::lambda_runtime::{run_concurrent, service_fn};
use save_draft::config::Config;
use save_draft::error::{BoxError, redact_json_error};
use save_draft::lambda::Function;
use save_draft::lambda::telemetry::Telemetry;
use save_draft::s3::client;
use tokio::runtime;

fn main() -> ExitCode {
    if env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        eprintln!(
            "This program runs on AWS Lambda. To run the function on this machine, use: \
             cargo run -p local"
        );
        return ExitCode::FAILURE;
    }
    let telemetry = Telemetry::to_stdout(&env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default());
    telemetry.capture_process();
    match run(telemetry.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry.record_stop(&describe(error));
            ExitCode::FAILURE
        }
    }
}

/// Returns the text of an error that ends the function. The runtime library returns errors of
/// `serde_json` only for headers of an invocation; their texts may quote what the caller sent.
fn describe(error: BoxError) -> String {
    match error.downcast::<serde_json::Error>() {
        Ok(error) => format!(
            "the client context or the Cognito identity of an invocation is not valid: {}",
            redact_json_error(&error)
        ),
        Err(error) => error.to_string(),
    }
}

fn run(telemetry: Telemetry) -> Result<(), BoxError> {
    let config = Config::from_lookup(env::var_os)?;
    // A single thread starts faster.
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let sdk_config = client::config_from_env()?;
        let function = Arc::new(Function::new(&sdk_config, config, telemetry));
        let service = service_fn(move |event| {
            let function = Arc::clone(&function);
            async move { function.handle(event).await }
        });
        run_concurrent(service).await
    })
}
