#![allow(clippy::expect_used, clippy::unwrap_used, dead_code)]
mod common;
mod files;
mod local;
mod store;
