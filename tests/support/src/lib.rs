//! An S3 server, a Lambda Runtime API and fixtures, for the tests, the benches, the fuzz targets and the local endpoint.

#![allow(
    clippy::expect_used,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "it serves tests, where a panic is a failure"
)]

pub mod check;
pub mod fixtures;
pub mod local;
pub mod runtime;
pub mod s3;
