//! The tests, in one binary, so that they are linked once.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod common;
mod credentials;
mod docs;
mod events;
mod faults;
mod files;
mod http;
mod lenient;
mod limits;
mod model;
mod openapi;
mod process;
mod properties;
mod protocol;
mod races;
#[cfg(target_os = "linux")]
mod resources;
mod responses;
mod security;
mod store;
mod telemetry;
mod template;
