//! Reads the manifest of a version.

use serde::Deserialize;

/// The manifest of a version.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    pub draft_id: String,
    pub files: Vec<ManifestFile>,
}

/// A file in the manifest.
#[derive(Debug, Deserialize)]
pub struct ManifestFile {
    /// Path within the draft's folder.
    pub path: String,
    pub size: u64,
    /// `ETag` without quotes.
    pub etag: String,
    /// RFC 3339.
    pub last_modified: String,
    /// Key of the copy.
    pub key: String,
}
