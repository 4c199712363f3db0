//! The command `drafts`: lists, shows, compares, downloads, restores, links, verifies and prunes the versions that
//! save-draft saved.

mod archive;
mod args;
mod clock;
mod commands;
mod concurrent;
mod contents;
mod copy;
mod document;
mod error;
mod hash;
mod history;
mod output;
mod paths;
mod present;
mod relink;
mod restore_plan;
mod retention;
mod staging;
mod store;
mod values;

use std::process::ExitCode;

use clap::Parser as _;

use self::args::Cli;
use self::error::Outcome;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = commands::run(cli).await;
    result.map_or_else(|error| error.report(), Outcome::exit_code)
}
