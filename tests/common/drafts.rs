//! Drafts with files, and their versions, for tests with `SAVE_FILES`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use save_draft::error::ErrorKind;
use save_draft::save::Saver;
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, post_id, sha256_hex};
use test_support::runtime::Bootstrap;
use test_support::s3::S3;

/// The environment variable that turns the feature on.
pub const SAVE_FILES: (&str, &str) = ("SAVE_FILES", "true");

/// The files of a draft without its document: paths and contents.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The key of a file in the folder of the draft `id`.
pub fn file_key(id: &str, path: &str) -> String {
    format!("drafts/{id}/{path}")
}

/// Creates a draft with a document of its own.
pub fn put_document(s3: &S3, id: &str) -> Vec<u8> {
    let seed = id.bytes().fold(7, |seed: u64, byte| {
        seed.wrapping_mul(31).wrapping_add(byte.into())
    });
    let document = draft_of_size(5_000, seed);
    s3.put(BUCKET, &draft_key(id), &document);
    document
}

/// Creates files in the folder of the draft `id`, each with a content of its own.
pub fn put_files<'a>(s3: &S3, id: &str, paths: impl IntoIterator<Item = &'a str>) -> Files {
    let mut files = Files::new();
    for path in paths {
        let content = format!("content of {path} in {id}").into_bytes();
        s3.put(BUCKET, &file_key(id, path), &content);
        files.insert(path.to_owned(), content);
    }
    files
}

/// The files that the folder of the draft `id` contains.
pub fn read_folder(s3: &S3, id: &str) -> Files {
    let keys = s3.keys(BUCKET, &file_key(id, ""));
    let files = keys.iter().filter(|key| **key != draft_key(id));
    let files = files.map(|key| {
        let path = key[file_key(id, "").len()..].to_owned();
        (path, s3.get(BUCKET, key).expect("the file exists"))
    });
    files.collect()
}

/// The names of the versions of the draft `id`: the folders in which there is a document.
pub fn versions(s3: &S3, bucket: &str, id: &str) -> Vec<String> {
    let prefix = format!("saved/{id}/");
    let keys = s3.keys(bucket, &prefix).into_iter();
    let names = keys.filter_map(|key| {
        let name = key[prefix.len()..].strip_suffix("/draft_content.json");
        name.map(str::to_owned)
    });
    names.collect()
}

/// The digest that names a state, as documented.
pub fn state_digest(document: &[u8], etags: &BTreeMap<String, String>) -> String {
    let document = sha256_hex(document);
    if etags.is_empty() {
        return document;
    }
    let files: Vec<_> = etags.iter().collect();
    sha256_hex(&serde_json::to_vec(&json!([document, files])).expect("valid JSON"))
}

/// Reads the version `version` of the draft `id` as a user would restore it: returns the document and the files. Checks
/// that the version is complete, and that its name is that of its state.
#[track_caller]
pub fn read_version(s3: &S3, bucket: &str, id: &str, version: &str) -> (Vec<u8>, Files) {
    read_version_by(|key| s3.get(bucket, key), id, version)
}

/// Like [`read_version`], with objects that `get` returns.
#[track_caller]
pub fn read_version_by(
    get: impl Fn(&str) -> Option<Vec<u8>>,
    id: &str,
    version: &str,
) -> (Vec<u8>, Files) {
    let folder = format!("saved/{id}/{version}");
    let names = ["draft_content.json", "draft_info.json"];
    let mut documents = names
        .iter()
        .filter_map(|name| get(&format!("{folder}/{name}")));
    let document = documents.next().expect("the version has a document");
    assert_eq!(documents.next(), None, "the version has one document");
    let mut files = Files::new();
    let mut etags = BTreeMap::new();
    if let Some(manifest) = get(&format!("{folder}/files.json")) {
        let manifest: Value = serde_json::from_slice(&manifest).expect("the manifest is JSON");
        assert_eq!(manifest["draft_id"], id);
        for file in manifest["files"].as_array().expect("a list of files") {
            let text = |field: &str| file[field].as_str().expect("a string").to_owned();
            let (path, etag, key) = (text("path"), text("etag"), text("key"));
            assert_eq!(key, format!("saved-files/{id}/{etag}/{path}"));
            let content = get(&key);
            let content = content.unwrap_or_else(|| panic!("{version}: {key} is missing"));
            assert_eq!(file["size"], content.len(), "{version}: {key}");
            etags.insert(path.clone(), etag);
            files.insert(path, content);
        }
    }
    let digest = state_digest(&document, &etags);
    assert!(
        version.ends_with(&format!("Z-{digest}")),
        "{version} has the digest {digest}"
    );
    (document, files)
}

/// The response to a save.
pub struct Response {
    pub status: u64,
    /// `created` or `unchanged`; empty for errors.
    pub outcome: String,
    /// Empty for errors.
    pub version: String,
    /// The record of the save, of which [`save_by`] only returns `error`.
    pub line: Value,
}

/// Saves the draft `id`, with `left` until the deadline.
pub async fn save_within(function: &Bootstrap, id: &str, left: Duration) -> Response {
    let pending = function.begin_within(post_id(id).to_string(), left);
    let request_id = pending.request_id.clone();
    let response = pending.outcome().await.response();
    let mut lines = function.logs_for(&request_id).await;
    let header = |name: &str| response["headers"][name].as_str().unwrap_or_default();
    Response {
        status: response["statusCode"].as_u64().expect("a status code"),
        outcome: header("draft-saved").to_owned(),
        version: header("draft-version").to_owned(),
        line: lines.pop().expect("a record"),
    }
}

/// Saves the draft `id` by a saver in this process, with `left` until the deadline.
pub async fn save_by(saver: &Saver, id: &str, left: Duration) -> Response {
    let deadline = Instant::now() + left;
    let report = saver.save(id.parse().expect("an id"), deadline).await;
    let (status, outcome, version, error) = match report.result {
        Ok(saved) => {
            let version = saved.version.to_string();
            (200, saved.outcome.as_str(), version, String::new())
        }
        Err(error) if error.kind() == ErrorKind::ServiceUnavailable => {
            (503, "", String::new(), error.cause_chain())
        }
        Err(error) => (500, "", String::new(), error.cause_chain()),
    };
    Response {
        status,
        outcome: outcome.to_owned(),
        version,
        line: json!({"error": error}),
    }
}

/// Saves the draft `id`.
pub async fn save(function: &Bootstrap, id: &str) -> Response {
    save_within(function, id, Duration::from_mins(1)).await
}

impl Response {
    /// Checks that the save failed with `status`, and that the log names `text`.
    #[track_caller]
    pub fn assert_error(&self, status: u64, text: &str) {
        assert_eq!(self.status, status, "{}", self.line);
        let error = self.line["error"].as_str().expect("an error in the log");
        assert!(error.contains(text), "the log has no {text:?}: {error}");
    }

    /// Checks that the save succeeded, and that its version has this content.
    #[track_caller]
    pub fn assert_saved(&self, s3: &S3, id: &str, document: &[u8], files: &Files) {
        assert_eq!(self.status, 200, "{}", self.line);
        let saved = read_version(s3, BUCKET, id, &self.version);
        assert!(saved.0 == document, "{id}: another document");
        assert_eq!(&saved.1, files, "{id}");
    }
}
