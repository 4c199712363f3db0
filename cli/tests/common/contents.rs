//! Contents of drafts, versions and folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use local::s3::S3;
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, sha256_hex};

use super::{ID, put, version_key};

/// Files by path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Returns files with these paths and contents.
pub fn files(files: &[(&str, &[u8])]) -> Files {
    let files = files.iter();
    files
        .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()))
        .collect()
}

/// The files of a draft, with paths that are hard for shells, URLs and file systems.
pub fn sample() -> Files {
    files(&[
        ("draft_content.json", br#"{"duration":5000000}"#),
        ("draft_info.json", br#"{"duration":5000000}"#),
        ("draft_meta_info.json", b"{}"),
        (
            "assets/a b/\u{526a}\u{6620} +%41 '1'.mp4",
            &vec![7; 100_000],
        ),
        ("assets/empty", b""),
        (
            "Timelines/2F52A63B/draft_info.json",
            br#"{"id":"2F52A63B"}"#,
        ),
        ("Timelines/project.json", b"{}"),
        (".backup/x.bak", b"old"),
    ])
}

/// Puts files of the draft.
pub fn put_all(s3: &S3, files: &Files) {
    for (path, bytes) in files {
        put(s3, path, bytes);
    }
}

/// Returns the files of the draft `id`.
pub fn draft(s3: &S3, id: &str) -> Files {
    objects(s3, &format!("drafts/{id}/"))
}

/// Returns the objects with this prefix, by the rest of their keys.
pub fn objects(s3: &S3, prefix: &str) -> Files {
    let keys = s3.keys(BUCKET, prefix).into_iter();
    let objects = keys.map(|key| {
        let bytes = s3.get(BUCKET, &key).expect("the object exists");
        (key[prefix.len()..].to_owned(), bytes)
    });
    objects.collect()
}

/// Returns the files of a folder.
pub fn folder(folder: &Path) -> Files {
    fn add(root: &Path, folder: &Path, files: &mut Files) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                add(root, &path, files);
            } else {
                let name = path.strip_prefix(root).expect("it is below the folder");
                let name = name.to_str().expect("a name in UTF-8").to_owned();
                files.insert(name, fs::read(&path).expect("the file is readable"));
            }
        }
    }
    let mut files = Files::new();
    add(folder, folder, &mut files);
    files
}

/// Creates a version of these files as a save would, but that it checks nothing. The first is the document.
pub fn plant(s3: &S3, time: &str, document: (&str, &[u8]), files: &[(&str, &[u8])]) -> String {
    let files = files.iter().map(|(path, bytes)| {
        let etag = s3.put(BUCKET, "scratch", bytes);
        let file = entry(path, bytes.len(), &etag);
        s3.put(BUCKET, file["key"].as_str().expect("a key"), bytes);
        file
    });
    let files: Vec<_> = files.collect();
    s3.delete(BUCKET, "scratch");
    plant_version(s3, time, document, &files)
}

/// The entry of a file in a manifest.
pub fn entry(path: &str, size: usize, etag: &str) -> Value {
    json!({
        "path": path,
        "size": size,
        "etag": etag,
        "last_modified": "2025-09-28T11:47:30Z",
        "key": format!("saved-files/{ID}/{etag}/{path}"),
    })
}

/// Creates a version with these entries in its manifest, and no copies.
pub fn plant_version(s3: &S3, time: &str, document: (&str, &[u8]), files: &[Value]) -> String {
    let version = format!("{time}-{}", digest(document.1, files));
    if !files.is_empty() {
        let manifest = json!({"draft_id": ID, "files": files}).to_string();
        s3.put(BUCKET, &version_key(&version, "files.json"), manifest);
    }
    s3.put(BUCKET, &version_key(&version, document.0), document.1);
    version
}

/// The digest that names a state, as documented.
fn digest(document: &[u8], files: &[Value]) -> String {
    let document = sha256_hex(document);
    if files.is_empty() {
        return document;
    }
    let files = files.iter().map(|file| json!([file["path"], file["etag"]]));
    let files: Vec<_> = files.collect();
    sha256_hex(json!([document, files]).to_string().as_bytes())
}

/// Checks that each version of the draft is complete and has the hash in its name; returns the names.
pub fn check_versions(s3: &S3) -> Vec<String> {
    let mut names = Vec::new();
    for (path, document) in objects(s3, &format!("saved/{ID}/")) {
        let (name, file) = path.split_once('/').expect("a version and a file");
        if file == "files.json" {
            continue;
        }
        let mut files = Vec::new();
        if let Some(manifest) = s3.get(BUCKET, &version_key(name, "files.json")) {
            let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest");
            files.clone_from(manifest["files"].as_array().expect("a list"));
        }
        for file in &files {
            let copy = file["key"].as_str().expect("a key");
            let bytes = s3.get(BUCKET, copy);
            let bytes = bytes.unwrap_or_else(|| panic!("{name}: {copy} is missing"));
            assert_eq!(file["size"], bytes.len(), "{copy}");
        }
        let digest = digest(&document, &files);
        assert!(name.ends_with(&digest), "{name} has the hash {digest}");
        names.push(name.to_owned());
    }
    names
}

/// Sets the time of a file of the draft.
pub fn set_time(s3: &S3, path: &str, time: SystemTime) {
    s3.set_last_modified(BUCKET, &format!("drafts/{ID}/{path}"), time);
}
