//! The tests, in one binary: they share an S3, a Lambda and the function between them.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod bad_input;
mod common;
mod events;
mod faults;
mod http;
mod load;
mod model;
mod properties;
mod races;
mod resources;
mod responses;
mod security;
mod store;
mod telemetry;
mod template;
