//! Values of arguments.

use save_draft::draft::keys::{DraftPrefix, InvalidDraftPrefix};
use save_draft::draft::{DraftId, InvalidDraftId};

/// Parses the id of a draft, or the URL that has it.
pub fn draft_id(text: &str) -> Result<DraftId, String> {
    if text.contains("://") {
        DraftId::from_url(text, &[]).map_err(|error| error.to_string())
    } else {
        text.parse()
            .map_err(|error: InvalidDraftId| error.to_string())
    }
}

/// Parses the prefix of all drafts.
pub fn draft_prefix(text: &str) -> Result<DraftPrefix, String> {
    text.parse()
        .map_err(|error: InvalidDraftPrefix| error.to_string())
}
