//! A Lambda Runtime API, the function in this process, and fixtures, for the tests, the benches, the fuzz targets and the local endpoint.

#![allow(
    clippy::expect_used,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "it serves tests, where a panic is a failure"
)]

use std::io::{Write as _, stderr};
use std::{env, thread};

pub mod check;
pub mod fixtures;
pub mod function;
pub mod runtime;
pub mod sizes;

pub use local::s3;

/// Skips a test that cannot run, with its reason. Where `CI` is `true`, the test fails instead.
pub fn skip_or_fail(reason: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{reason}");
    let test = thread::current().name().unwrap_or_default().to_owned();
    // Unlike `eprintln`, it also writes to the terminal if the output of tests is captured.
    let _ = writeln!(stderr(), "skipped {test}: {reason}");
}
