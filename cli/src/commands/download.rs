//! `drafts download`.

use super::Context;
use crate::args;
use crate::error::{Error, Outcome, Result};
use save_draft::draft::DraftId;

/// Download a version as a complete folder, or as a zip
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  drafts download 2025092811473036584258")]
pub struct Args {
    /// Id or URL of the draft
    #[arg(value_parser = args::draft_id)]
    id: DraftId,
}

/// Runs the command.
pub async fn run(_context: &Context, args: Args) -> Result<Outcome> {
    Err(Error::new(format!("not done yet: {}", args.id)))
}
