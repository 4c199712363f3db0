//! Tests of the command `drafts`: the real executable, the versions of real saves, and S3 over HTTP.

#![allow(clippy::expect_used, reason = "it is a test")]

mod common;
mod download;
mod errors;
mod look;
mod other_store;
mod prune;
mod restore;
mod speed;
mod verify;
