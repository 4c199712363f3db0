//! The commands, one module for each.

pub mod diff;
pub mod download;
pub mod link;
pub mod prune;
pub mod restore;
pub mod show;
pub mod verify;
pub mod versions;

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use save_draft::draft::keys::DraftPrefix;

use crate::args::{Cli, Command, GlobalArgs};
use crate::error::{Error, Outcome, Result};
use crate::output::Output;
use crate::store::Store;
use crate::values::draft_prefix;

/// The buckets, options and output of a command.
pub struct Context {
    /// The buckets.
    pub store: Store,
    /// Prefix of all drafts.
    pub prefix: DraftPrefix,
    /// Standard output and standard error.
    pub output: Output,
}

/// Runs the command of `cli`.
pub async fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        Command::Completions { shell } => return print_completions(shell),
        Command::Man { folder } => return write_man_pages(&folder),
        _ => {}
    }
    let context = Context::new(cli.global).await?;
    match cli.command {
        Command::Versions(args) => versions::run(&context, args).await,
        Command::Show(args) => show::run(&context, args).await,
        Command::Diff(args) => diff::run(&context, args).await,
        Command::Download(args) => Box::pin(download::run(&context, args)).await,
        Command::Restore(args) => restore::run(&context, args).await,
        Command::Link(args) => link::run(&context, args).await,
        Command::Verify(args) => verify::run(&context, args).await,
        Command::Prune(args) => prune::run(&context, args).await,
        Command::Completions { .. } | Command::Man { .. } => Ok(Outcome::Success),
    }
}

fn print_completions(shell: Shell) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "drafts", &mut script);
    let written = io::stdout().write_all(&script);
    written.map_err(|error| Error::io("cannot write the completions", &error))?;
    Ok(Outcome::Success)
}

fn write_man_pages(folder: &Path) -> Result<Outcome> {
    let written = clap_mangen::generate_to(Cli::command(), folder);
    let name = folder.display();
    written.map_err(|error| Error::io(format!("cannot write man pages to {name}"), &error))?;
    Ok(Outcome::Success)
}

impl Context {
    async fn new(args: GlobalArgs) -> Result<Self> {
        let output = Output::new(args.json, args.utc);
        // As for the function, an empty variable counts as unset.
        let is_set = |text: &String| !text.is_empty();
        let draft_bucket = args.bucket.filter(is_set).ok_or_else(|| {
            Error::new("the bucket of the drafts is missing")
                .advise("Pass --bucket NAME, or set DRAFT_BUCKET.")
        })?;
        let saved_bucket = args.saved_bucket.filter(is_set);
        let saved_bucket = saved_bucket.unwrap_or_else(|| draft_bucket.clone());
        let prefix = match args.prefix.filter(is_set) {
            None => DraftPrefix::default(),
            Some(text) => draft_prefix(&text)
                .map_err(|problem| Error::new(format!("--prefix {problem}, got {text}")))?,
        };
        if draft_bucket == saved_bucket && prefix.overlaps_versions() {
            return Err(Error::new(format!(
                "--prefix must not overlap saved/ and saved-files/ in the same bucket, got {}",
                prefix.as_str()
            )));
        }
        let endpoint_url = args.endpoint_url.filter(is_set);
        let store = Store::connect(draft_bucket, saved_bucket, endpoint_url).await?;
        Ok(Self {
            store,
            prefix,
            output,
        })
    }
}
