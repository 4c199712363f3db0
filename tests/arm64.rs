//! Compares the function's program for another architecture with the native one.

use std::env;
use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, event, event_names, sample_draft};
use test_support::runtime::{Bootstrap, Outcome};
use test_support::s3::S3;

/// Result of an event, and the saved objects by key.
type EventResult = (String, Outcome, Vec<(String, Option<Vec<u8>>)>);

/// Starts `program`, and invokes it with each event of `events/`.
async fn run_events(program: impl AsRef<OsStr>) -> Vec<EventResult> {
    let s3 = S3::start_empty().await.unwrap();
    // The version's name has the time at which the draft was written.
    s3.set_clock(SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050));
    s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    let endpoint = s3.endpoint();
    let environment = [
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", &s3.options().access_key),
        ("AWS_SECRET_ACCESS_KEY", &s3.options().secret_key),
        ("DRAFT_BUCKET", BUCKET),
    ];
    let function = Bootstrap::start(program, environment).await;
    let mut results = Vec::new();
    for name in event_names() {
        let outcome = function.invoke(&event(&name)).await;
        let keys = s3.keys(BUCKET, "saved/");
        let objects = keys.into_iter().map(|key| {
            let bytes = s3.get(BUCKET, &key);
            s3.delete(BUCKET, &key);
            (key, bytes)
        });
        results.push((name, outcome, objects.collect()));
    }
    results
}

#[tokio::test]
#[ignore = "needs the program of another architecture in the variable BOOTSTRAP: run .ci/arm64"]
async fn another_architecture_gives_the_native_results() {
    let program = env::var_os("BOOTSTRAP").expect("BOOTSTRAP is not set");
    let native = run_events(env!("CARGO_BIN_EXE_bootstrap")).await;
    let other = run_events(program).await;
    assert!(!native.is_empty(), "events/ has no events");
    for (native, other) in native.iter().zip(&other) {
        assert_eq!(native, other);
        println!("{}: the same result, {} saved", native.0, native.2.len());
    }
    assert_eq!(native.len(), other.len());
}
