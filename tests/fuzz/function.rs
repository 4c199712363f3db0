//! The function for the fuzz targets.

use test_support::check;
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, sample_draft};
use test_support::function::InProcess;
use tokio::runtime::{Builder, Runtime};

/// Invokes the function with `payload`, and checks what [`check::invocation`] checks. The draft [`DRAFT_ID`] exists.
pub fn invoke(payload: &[u8]) {
    thread_local! {
        static FUNCTION: (Runtime, InProcess) = start();
    }
    FUNCTION.with(|(runtime, function)| runtime.block_on(check::invocation(function, payload)));
}

fn start() -> (Runtime, InProcess) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the runtime starts");
    let function = runtime.block_on(InProcess::start());
    function
        .s3
        .put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    (runtime, function)
}
