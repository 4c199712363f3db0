//! `files.json`, the manifest of a version with other files: written by a save, read by the command
//! `drafts`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::draft::Sha256Digest;

/// The manifest of a version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Manifest<'a, Files = Vec<ManifestFile<'a>>> {
    /// Id of the draft.
    pub draft_id: Cow<'a, str>,
    /// The files beside the document, sorted by path.
    pub files: Files,
}

/// A file in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ManifestFile<'a> {
    /// Path within the draft's folder.
    #[serde(borrow)]
    pub path: Cow<'a, str>,
    /// Size in bytes.
    pub size: u64,
    /// `ETag` of the file, without quotes.
    #[serde(borrow)]
    pub etag: Cow<'a, str>,
    /// `Last-Modified` of the file.
    #[serde(with = "time::serde::rfc3339")]
    pub last_modified: OffsetDateTime,
    /// Key of the copy.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
}

/// Returns the digest that names the state with this digest of the document and these files, each a path and an
/// `ETag` without quotes, sorted by path: the SHA-256 of the compact JSON
/// `["{SHA-256 of the document}",[["{path}","{ETag}"],…]]`.
pub fn state_digest(document: &Sha256Digest, files: &[(&str, &str)]) -> Sha256Digest {
    // Texts and lists are always valid JSON.
    let json = serde_json::to_vec(&(document.to_string(), files)).unwrap_or_default();
    Sha256Digest::of(&json)
}

/// Returns whether `position` is in the line of a `Last-Modified` in the JSON of a manifest. In JSON, a line
/// never ends within a string.
pub(super) fn is_in_time(json: &[u8], position: usize) -> bool {
    let start = json[..position].iter().rposition(|byte| *byte == b'\n');
    let line = &json[start.map_or(0, |start| start + 1)..position];
    line.trim_ascii_start()
        .starts_with(b"\"last_modified\": \"")
}
