//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::commands::{diff, download, link, prune, restore, show, verify, versions};

/// Gets back the versions that save-draft saved
#[derive(Debug, Parser)]
#[command(
    name = "drafts",
    version,
    disable_help_subcommand = true,
    infer_subcommands = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Bucket of the drafts (DRAFT_BUCKET)
    #[arg(
        long,
        global = true,
        env = "DRAFT_BUCKET",
        hide_env = true,
        value_name = "NAME"
    )]
    pub bucket: Option<String>,
    /// Bucket of the versions, if it is another (SAVED_BUCKET)
    #[arg(
        long,
        global = true,
        env = "SAVED_BUCKET",
        hide_env = true,
        value_name = "NAME"
    )]
    pub saved_bucket: Option<String>,
    /// Prefix of all drafts (DRAFT_PREFIX) [default: drafts/]
    #[arg(
        long,
        global = true,
        env = "DRAFT_PREFIX",
        hide_env = true,
        value_name = "PREFIX"
    )]
    pub prefix: Option<String>,
    /// Endpoint of an S3-compatible store (AWS_ENDPOINT_URL_S3)
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// Print one JSON value
    #[arg(long, global = true)]
    pub json: bool,
    /// Print times in UTC instead of the local zone
    #[arg(long, global = true)]
    pub utc: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Versions(versions::Args),
    Show(show::Args),
    Diff(diff::Args),
    Download(download::Args),
    Restore(restore::Args),
    Link(link::Args),
    Verify(verify::Args),
    Prune(prune::Args),
    /// Print the completions for a shell
    #[command(
        hide = true,
        after_help = "Example:\n  drafts completions bash > ~/.local/share/bash-completion/completions/drafts"
    )]
    Completions {
        shell: Shell,
    },
    /// Write the man pages to a folder
    #[command(
        hide = true,
        after_help = "Example:\n  drafts man ~/.local/share/man/man1"
    )]
    Man {
        folder: PathBuf,
    },
}
