//! The S3 server of the local endpoint, which the tests and the benches use too.

#![allow(
    clippy::expect_used,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "it serves tests, where a panic is a failure"
)]

pub mod s3;
pub mod web;
