//! Baseline: the Lambda runtime client in a handler that returns its event.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let handler = async |event: LambdaEvent<Value>| Ok::<_, Error>(event.payload);
    run(service_fn(handler)).await
}
