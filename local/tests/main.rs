//! The tests of the local endpoint and its S3 server, in one binary.

#![allow(clippy::expect_used, reason = "a test fails by a panic")]

mod documentation;
mod endpoint;
mod s3;
