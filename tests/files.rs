//! `SAVE_FILES=true`: a version covers all objects in the draft's folder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use save_draft::error::ErrorKind;
use save_draft::save::Saver;
use save_draft::store::{CreateOutcome, Store};
use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, draft_key, draft_of_size, in_repository, long_tests, post_id, sha256_hex,
};
use test_support::runtime::{Bootstrap, with_timeout};
use test_support::s3::{Fault, ObjectInfo, Op, RawResponse, S3, When};
use tokio::process::Command;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::common::{self, Endpoint, TestEnv};

/// The environment variable that turns the feature on.
const SAVE_FILES: (&str, &str) = ("SAVE_FILES", "true");

/// The files of a draft without its document: paths and contents.
type Files = BTreeMap<String, Vec<u8>>;

/// The key of a file in the folder of the draft `id`.
fn file_key(id: &str, path: &str) -> String {
    format!("drafts/{id}/{path}")
}

/// Creates a draft with a document of its own.
fn put_document(s3: &S3, id: &str) -> Vec<u8> {
    let seed = id.bytes().fold(7, |seed: u64, byte| {
        seed.wrapping_mul(31).wrapping_add(byte.into())
    });
    let document = draft_of_size(5_000, seed);
    s3.put(BUCKET, &draft_key(id), &document);
    document
}

/// Sets the `Last-Modified` of a document to that of the listings and responses in these tests.
fn date_document(s3: &S3, id: &str) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050);
    s3.set_last_modified(BUCKET, &draft_key(id), time);
}

/// Creates files in the folder of the draft `id`, each with a content of its own.
fn put_files<'a>(s3: &S3, id: &str, paths: impl IntoIterator<Item = &'a str>) -> Files {
    let mut files = Files::new();
    for path in paths {
        let content = format!("content of {path} in {id}").into_bytes();
        s3.put(BUCKET, &file_key(id, path), &content);
        files.insert(path.to_owned(), content);
    }
    files
}

/// The files that the folder of the draft `id` contains.
fn read_folder(s3: &S3, id: &str) -> Files {
    let keys = s3.keys(BUCKET, &file_key(id, ""));
    let files = keys.iter().filter(|key| **key != draft_key(id));
    let files = files.map(|key| {
        let path = key[file_key(id, "").len()..].to_owned();
        (path, s3.get(BUCKET, key).expect("the file exists"))
    });
    files.collect()
}

/// The names of the versions of the draft `id`: the folders in which there is a document.
fn versions(s3: &S3, bucket: &str, id: &str) -> Vec<String> {
    let prefix = format!("saved/{id}/");
    let keys = s3.keys(bucket, &prefix).into_iter();
    let names = keys.filter_map(|key| {
        let name = key[prefix.len()..].strip_suffix("/draft_content.json");
        name.map(str::to_owned)
    });
    names.collect()
}

/// The digest that names a state, as documented.
fn state_digest(document: &[u8], etags: &BTreeMap<String, String>) -> String {
    let document = sha256_hex(document);
    if etags.is_empty() {
        return document;
    }
    let files: Vec<_> = etags.iter().collect();
    sha256_hex(&serde_json::to_vec(&json!([document, files])).expect("valid JSON"))
}

/// Reads the version `version` of the draft `id` as a user would restore it: returns the document
/// and the files. Checks that the version is complete, and that its name is that of its state.
#[track_caller]
fn read_version(s3: &S3, bucket: &str, id: &str, version: &str) -> (Vec<u8>, Files) {
    let folder = format!("saved/{id}/{version}");
    let document = s3.get(bucket, &format!("{folder}/draft_content.json"));
    let document = document.expect("the version has a document");
    let mut files = Files::new();
    let mut etags = BTreeMap::new();
    if let Some(manifest) = s3.get(bucket, &format!("{folder}/files.json")) {
        let manifest: Value = serde_json::from_slice(&manifest).expect("the manifest is JSON");
        assert_eq!(manifest["draft_id"], id);
        for file in manifest["files"].as_array().expect("a list of files") {
            let text = |field: &str| file[field].as_str().expect("a string").to_owned();
            let (path, etag, key) = (text("path"), text("etag"), text("key"));
            assert_eq!(key, format!("saved-files/{id}/{etag}/{path}"));
            let content = s3.get(bucket, &key);
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
struct Response {
    status: u64,
    /// `created` or `unchanged`; empty for errors.
    outcome: String,
    /// Empty for errors.
    version: String,
    /// The line of the log.
    line: Value,
    metrics: Value,
}

/// Saves the draft `id`, with `left` until the deadline.
async fn save_within(function: &Bootstrap, id: &str, left: Duration) -> Response {
    let pending = function.begin_within(post_id(id).to_string(), left);
    let request_id = pending.request_id.clone();
    let response = pending.outcome().await.response();
    let mut lines = function.logs_for(&request_id).await;
    let metrics = lines.pop().expect("a metrics record");
    let header = |name: &str| response["headers"][name].as_str().unwrap_or_default();
    Response {
        status: response["statusCode"].as_u64().expect("a status code"),
        outcome: header("draft-saved").to_owned(),
        version: header("draft-version").to_owned(),
        line: lines.pop().expect("a log line"),
        metrics,
    }
}

/// Saves the draft `id`.
async fn save(function: &Bootstrap, id: &str) -> Response {
    save_within(function, id, Duration::from_mins(1)).await
}

impl Response {
    /// Checks that the save failed with `status`, and that the log names `text`.
    #[track_caller]
    fn assert_error(&self, status: u64, text: &str) {
        assert_eq!(self.status, status, "{}", self.line);
        let error = self.line["error"].as_str().expect("an error in the log");
        assert!(error.contains(text), "the log has no {text:?}: {error}");
    }

    /// Checks that the save succeeded, and that its version has this content.
    #[track_caller]
    fn assert_saved(&self, s3: &S3, id: &str, document: &[u8], files: &Files) {
        assert_eq!(self.status, 200, "{}", self.line);
        let saved = read_version(s3, BUCKET, id, &self.version);
        assert!(saved.0 == document, "{id}: another document");
        assert_eq!(&saved.1, files, "{id}");
    }
}

/// The operations since the last call, in order.
fn operations(s3: &S3) -> Vec<Op> {
    let operations = s3.requests().iter().map(|request| request.op).collect();
    s3.clear_requests();
    operations
}

use Op::{
    CopyObject as Copy, GetObject as Get, HeadObject as Head, ListObjectsV2 as List,
    PutObject as Put,
};

#[tokio::test]
async fn makes_the_documented_requests() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function, id) = (&test_env.s3, &test_env.function, "requests");
    let document = put_document(s3, id);
    let mut files = Files::new();

    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert_eq!(operations(s3), [Get, List, Put], "without other files");

    for number in 1..=20 {
        files.extend(put_files(s3, id, [&*format!("assets/{number}.mp4")]));
    }
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    let requests = s3.requests();
    let mut expected = vec![Get, List, List];
    expected.extend([Copy; 20]);
    expected.extend([List, List, Put, Put]);
    assert_eq!(operations(s3), expected, "with 20 new files");
    for request in &requests {
        let is_manifest = request.key.ends_with("/files.json");
        match request.op {
            Put => {
                let is_last = request.key.ends_with("/draft_content.json");
                assert!(is_manifest || is_last, "{}", request.key);
                assert_eq!(request.header("if-none-match"), "*", "{}", request.key);
            }
            Copy => {
                let path = request.key.rsplit_once("/assets/").expect("a file").1;
                let key = file_key(id, &format!("assets/{path}"));
                let etag = s3.metadata(BUCKET, &key).expect("the file exists").etag;
                let copy = format!("saved-files/{id}/{etag}/assets/{path}");
                assert_eq!(request.key, copy);
                let source = format!("{BUCKET}/{key}");
                assert_eq!(request.header("x-amz-copy-source"), source);
                let condition = request.header("x-amz-copy-source-if-match");
                assert_eq!(condition.trim_matches('"'), etag);
                assert_eq!(request.header("if-none-match"), "*");
                assert_eq!(request.header("x-amz-tagging-directive"), "REPLACE");
                assert_eq!(request.header("x-amz-tagging"), "");
                assert_eq!(request.header("x-amz-metadata-directive"), "");
            }
            _ => {}
        }
    }
    let last = requests.last().expect("requests");
    assert!(last.key.ends_with("/draft_content.json"), "{}", last.key);

    let again = save(function, id).await;
    assert_eq!(
        (&*again.outcome, &again.version),
        ("unchanged", &saved.version)
    );
    let no_copies = [Get, List, List, Put, Put];
    assert_eq!(operations(s3), no_copies, "without new files");

    // One file more: the others are shared with the version before.
    files.extend(put_files(s3, id, ["cover.jpg"]));
    let next = save(function, id).await;
    next.assert_saved(s3, id, &document, &files);
    let expected = [Get, List, List, Copy, List, List, Put, Put];
    assert_eq!(operations(s3), expected, "with one new file");

    // Back to the state before: its files and its manifest are already there.
    s3.delete(BUCKET, &file_key(id, "cover.jpg"));
    let before = save(function, id).await;
    assert_eq!(
        (&*before.outcome, before.version),
        ("unchanged", saved.version)
    );
    assert_eq!(operations(s3), no_copies, "a state that was saved before");
}

#[tokio::test]
async fn changes_nothing_unless_it_is_turned_on() {
    for variables in [&[][..], &[("SAVE_FILES", "false")], &[("SAVE_FILES", "")]] {
        let test_env = TestEnv::with(variables).await;
        let s3 = &test_env.s3;
        put_files(s3, DRAFT_ID, ["cover.jpg", "assets/a.mp4"]);
        let saved = save(&test_env.function, DRAFT_ID).await;
        assert_eq!((saved.status, &*saved.outcome), (200, "created"));
        assert_eq!(operations(s3), [Get, Put], "{variables:?}");
        let keys = s3.keys(BUCKET, "saved");
        let key = format!("saved/{DRAFT_ID}/{}/draft_content.json", saved.version);
        assert_eq!(keys, [key], "{variables:?}");
        for field in ["files", "files_copied", "copied_bytes"] {
            assert!(saved.line.get(field).is_none(), "{}", saved.line);
        }
        for metric in ["Files", "FilesCopied", "CopiedBytes"] {
            assert!(saved.metrics.get(metric).is_none(), "{}", saved.metrics);
        }
    }
}

#[tokio::test]
async fn a_draft_without_other_files_has_one_version_with_and_without_save_files() {
    let on = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&on.s3, "alone");
    let document = put_document(s3, id);
    // An object that the S3 console shows as a folder is no file.
    s3.put(BUCKET, &file_key(id, "assets/"), b"");
    let off = common::start_function(s3, &[]).await;
    let saved = save(&on.function, id).await;
    saved.assert_saved(s3, id, &document, &Files::new());
    let same = save(&off, id).await;
    assert_eq!((&*same.outcome, same.version), ("unchanged", saved.version));
    let keys = s3.keys(BUCKET, "saved");
    assert_eq!(keys.len(), 1, "no manifest and no copy: {keys:?}");
}

#[tokio::test]
async fn the_version_has_the_latest_time_and_the_digest_of_the_state() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "named");
    let document = put_document(s3, id);
    let files = put_files(s3, id, ["b", "a", "assets/ä"]);
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050);
    for (key, seconds) in [
        ("draft_content.json", 0),
        ("a", 30),
        ("b", 20),
        ("assets/ä", 10),
    ] {
        let time = start + Duration::from_secs(seconds);
        s3.set_last_modified(BUCKET, &file_key(id, key), time);
    }
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    let (time, _) = saved.version.split_once('-').expect("a time and a digest");
    assert_eq!(time, "20250928T114800Z");

    let key = format!("saved/{id}/{}/files.json", saved.version);
    let manifest = s3.get(BUCKET, &key).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let listed = manifest["files"].as_array().expect("a list").iter();
    let listed: Vec<_> = listed
        .map(|file| (file["path"].as_str(), file["last_modified"].as_str()))
        .collect();
    let expected = [
        (Some("a"), Some("2025-09-28T11:48:00Z")),
        (Some("assets/ä"), Some("2025-09-28T11:47:40Z")),
        (Some("b"), Some("2025-09-28T11:47:50Z")),
    ];
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn paths_are_copied_as_they_are() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "paths");
    let document = put_document(s3, id);
    let files = put_files(
        s3,
        id,
        [
            "a b/c d.mp4",
            " leading and trailing ",
            "a+b",
            "100%",
            "%41%2F%",
            "剪映/素材 1.mp4",
            "e\u{301} and \u{e9}",
            "?versionId=1&x=y#z",
            "<&>\"'`\\|^{}[]~!$()*,;:=@",
            "{etag}/{path}",
            "a//b",
            "../draft_content.json",
            "./x",
            "draft_content.json.bak",
            "nested/draft_content.json",
            "files.json",
            "😀",
        ],
    );
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert_eq!(s3.count(Copy), files.len());
    let again = save(&test_env.function, id).await;
    assert_eq!(again.version, saved.version);
    assert_eq!(s3.count(Copy), files.len(), "nothing is copied again");
}

#[tokio::test]
async fn objects_that_stand_for_folders_are_left_out() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "folders");
    let document = put_document(s3, id);
    let files = put_files(s3, id, ["assets/a", "odd/"]);
    for folder in ["", "assets/", "empty/"] {
        s3.put(BUCKET, &file_key(id, folder), b"");
    }
    // Another draft, whose id begins with this one.
    put_files(s3, "folders-2", ["assets/b"]);
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
}

#[tokio::test]
async fn a_copy_whose_key_would_be_too_long_is_a_500_that_names_the_file() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function) = (&test_env.s3, &test_env.function);
    // `saved-files/{id}/`, 32 digits, `/` and the path: 1,024 bytes.
    let id = "long";
    let room = 1024 - format!("saved-files/{id}/").len() - 33;
    let path = |bytes: usize| {
        let folders = "directory/".repeat(bytes / 10 - 2);
        let name = "n".repeat(bytes - folders.len());
        folders + &name
    };
    let longest = path(room);
    let path = path(room + 1);
    let document = put_document(s3, id);
    let files = put_files(s3, id, [&*longest]);
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert_eq!(s3.keys(BUCKET, "saved-files/")[0].len(), 1024);

    put_files(s3, id, [&*path]);
    let failed = save(function, id).await;
    failed.assert_error(500, &format!("the key of the copy of \"{}", &path[..500]));
    assert_eq!(versions(s3, BUCKET, id), [saved.version]);
}

#[tokio::test]
async fn metadata_and_content_type_are_kept() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "metadata");
    put_document(s3, id);
    let client = common::client(&Endpoint::of(s3).sdk());
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key(file_key(id, "a.mp4"));
    let put = put.content_type("video/mp4").metadata("made-by", "test");
    let put = put.cache_control("no-store").body(b"video".to_vec().into());
    put.send().await.expect("the file is written");
    let saved = save(&test_env.function, id).await;
    assert_eq!(saved.status, 200);
    let keys = s3.keys(BUCKET, "saved-files/");
    let head = client.head_object().bucket(BUCKET).key(&keys[0]).send();
    let head = head.await.expect("the copy exists");
    assert_eq!(head.content_type(), Some("video/mp4"));
    assert_eq!(head.cache_control(), Some("no-store"));
    let metadata = head.metadata().expect("metadata");
    assert_eq!(metadata.get("made-by").map(String::as_str), Some("test"));
}

#[tokio::test]
async fn the_log_and_the_metrics_have_the_files() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "logged");
    put_document(s3, id);
    s3.put(BUCKET, &file_key(id, "a"), [b'a'; 1000]);
    s3.put(BUCKET, &file_key(id, "b"), [b'b'; 234]);
    for (files, copied, bytes) in [(2, 2, 1234), (2, 0, 0)] {
        let saved = save(&test_env.function, id).await;
        let (line, metrics) = (&saved.line, &saved.metrics);
        assert_eq!(line["files"], files, "{line}");
        assert_eq!(line["files_copied"], copied, "{line}");
        assert_eq!(line["copied_bytes"], bytes, "{line}");
        assert_eq!(metrics["Files"], files, "{metrics}");
        assert_eq!(metrics["FilesCopied"], copied, "{metrics}");
        assert_eq!(metrics["CopiedBytes"], bytes, "{metrics}");
        let declared = metrics["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array();
        let unit = declared.expect("a list").iter();
        let unit = unit
            .filter(|metric| metric["Name"] == "CopiedBytes")
            .map(|metric| &metric["Unit"]);
        assert_eq!(unit.collect::<Vec<_>>(), ["Bytes"]);
    }
}

#[tokio::test]
async fn versions_and_copies_can_be_in_a_bucket_of_their_own() {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    s3.create_bucket("versions");
    let variables = [SAVE_FILES, ("SAVED_BUCKET", "versions")];
    let function = common::start_function(&s3, &variables).await;
    let id = "other-bucket";
    let document = put_document(&s3, id);
    let files = put_files(&s3, id, ["cover.jpg", "assets/a.mp4"]);
    let saved = save(&function, id).await;
    assert_eq!((saved.status, &*saved.outcome), (200, "created"));
    let (saved_document, saved_files) = read_version(&s3, "versions", id, &saved.version);
    assert!(saved_document == document);
    assert_eq!(saved_files, files);
    assert_eq!(s3.keys(BUCKET, "saved"), [""; 0]);
}

#[tokio::test]
async fn templates_without_room_for_files_are_an_error_at_start() {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    for (variable, value) in [
        ("DRAFT_KEY", "drafts/{draft_id}.json"),
        ("SAVED_KEY", "saved/{draft_id}-{version}.json"),
        ("FILES_KEY", "drafts/{draft_id}/{etag}/{path}"),
        ("FILES_KEY", "saved/{draft_id}/{etag}/{path}"),
        ("FILES_KEY", "saved-files/{draft_id}/{path}"),
    ] {
        let variables = [SAVE_FILES, (variable, value)];
        let function = common::start_function(&s3, &variables).await;
        let status = function.wait_for_exit().await;
        assert!(!status.success(), "{variable}={value}");
        let lines = function.lines().join("\n");
        assert!(lines.contains(variable), "{variable}={value}: {lines}");
        if variable != "FILES_KEY" {
            // Without SAVE_FILES the template is valid.
            let function = common::start_function(&s3, &[(variable, value)]).await;
            let missing = save(&function, "missing").await;
            assert_eq!(missing.status, 404, "{variable}={value}");
        }
    }
}

/// Puts 1,003 files and their copies, so that listings have two pages, and a save copies nothing.
fn put_many_files(s3: &S3, id: &str) -> Files {
    let mut files = Files::new();
    for number in 0..1003 {
        let (path, content) = (format!("{number:04}"), format!("content {number}"));
        let etag = s3.put(BUCKET, &file_key(id, &path), &content);
        s3.put(BUCKET, &format!("saved-files/{id}/{etag}/{path}"), &content);
        files.insert(path, content.into_bytes());
    }
    files
}

#[tokio::test]
async fn listings_of_several_pages_have_to_be_equal_twice() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    let id = "pages";
    let document = put_document(&s3, id);
    let mut files = put_many_files(&s3, id);
    let saved = save(&function, id).await;
    saved.assert_saved(&s3, id, &document, &files);
    let look = [List; 4];
    let expected = [&[Get][..], &look, &look, &[Put, Put]].concat();
    assert_eq!(operations(&s3), expected);

    // The first file is replaced, and one is added at the end, before the second page is read. The
    // two pages together show a state that never existed: the old first file beside the new last one.
    let paths = ["0000", "9999"];
    let server = Arc::downgrade(&s3);
    let write = Fault::Run(Arc::new(move |_| {
        let server = server.upgrade().expect("the S3 runs");
        for path in paths {
            server.put(BUCKET, &file_key(id, path), b"new");
        }
    }));
    let second_page = When::op(List).and(|request| request.query.contains("continuation-token"));
    s3.fault(second_page.once(), write);
    files.extend(paths.map(|path| (path.to_owned(), b"new".to_vec())));
    let saved = save(&function, id).await;
    saved.assert_saved(&s3, id, &document, &files);
    assert_eq!(versions(&s3, BUCKET, id).len(), 2);
}

#[tokio::test]
async fn a_document_that_is_written_again_is_read_again() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    let id = "rewritten";
    let document = put_document(&s3, id);
    let time = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050 + seconds);
    s3.set_last_modified(BUCKET, &draft_key(id), time(0));
    // The same bytes, so that only the time differs.
    let server = Arc::downgrade(&s3);
    let write = Fault::Run(Arc::new(move |_| {
        let server = server.upgrade().expect("the S3 runs");
        server.set_last_modified(BUCKET, &draft_key(id), time(20));
    }));
    s3.fault(When::op(List).once(), write);
    let saved = save(&function, id).await;
    saved.assert_saved(&s3, id, &document, &Files::new());
    assert_eq!(operations(&s3), [Get, List, Get, List, Put]);
    assert!(
        saved.version.starts_with("20250928T114750Z-"),
        "{} has not the time of the listed document",
        saved.version
    );
}

#[tokio::test]
async fn a_path_with_a_control_character_is_a_500_that_names_it() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "control");
    put_document(s3, id);
    put_files(s3, id, ["x\ndrafts/other/draft_content.json"]);
    let response = save(&test_env.function, id).await;
    response.assert_error(500, r"x\ndrafts/other/draft_content.json");
    assert_eq!(s3.keys(BUCKET, "saved"), [""; 0]);
}

#[tokio::test]
async fn more_files_than_a_listing_may_have_are_a_500() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "many");
    put_document(s3, id);
    let entry = "<Contents><Key>a</Key><LastModified>2025-09-28T11:47:30.000Z</LastModified>\
                 <ETag>0</ETag><Size>1</Size></Contents>";
    let entries = entry.repeat(10_001);
    let xml =
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>");
    let listing = Fault::Respond(RawResponse::new(200).body(xml));
    s3.fault(When::op(List), listing);
    let response = save(&test_env.function, id).await;
    response.assert_error(500, "more than 10000 objects");
    assert_eq!(operations(s3), [Get, List]);
}

#[tokio::test]
async fn a_listing_that_ends_too_early_is_a_500() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "truncated");
    put_document(s3, id);
    let page = |rest: &str| {
        let xml =
            format!("<ListBucketResult><IsTruncated>true</IsTruncated>{rest}</ListBucketResult>");
        Fault::Respond(RawResponse::new(200).body(xml))
    };
    for (rest, text) in [
        ("", "last page"),
        ("<Contents><Key>drafts/truncated/a</Key></Contents>", "ETag"),
    ] {
        let fault = s3.fault(When::op(List), page(rest));
        save(&test_env.function, id).await.assert_error(500, text);
        fault.clear();
    }
    assert_eq!(s3.keys(BUCKET, "saved"), [""; 0]);
}

/// A listing of the document and a file of 5 GiB and one byte.
fn listing_with_a_huge_file(s3: &S3, id: &str, path: &str, bytes: u64) -> Fault {
    let etag = s3
        .metadata(BUCKET, &draft_key(id))
        .expect("a document")
        .etag;
    let entry = |key: &str, etag: &str, bytes: u64| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2025-09-28T11:47:30.000Z</LastModified>\
             <ETag>&quot;{etag}&quot;</ETag><Size>{bytes}</Size></Contents>"
        )
    };
    let document = entry(&draft_key(id), &etag, 5000);
    let file = entry(
        &file_key(id, path),
        "0123456789abcdef0123456789abcdef-640",
        bytes,
    );
    let xml = format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated>{file}{document}</ListBucketResult>"
    );
    Fault::Respond(RawResponse::new(200).body(xml))
}

#[tokio::test]
async fn a_file_over_5_gb_is_a_500_that_names_it() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id, path) = (&test_env.s3, "huge", "assets/long.mp4");
    put_document(s3, id);
    date_document(s3, id);
    let list = || When::op(List).and(|request| request.query.contains("prefix=drafts"));
    let limit = 5 << 30;
    let fault = s3.fault(list(), listing_with_a_huge_file(s3, id, path, limit + 1));
    let failed = save(&test_env.function, id).await;
    failed.assert_error(500, "\"assets/long.mp4\" has 5368709121 bytes");
    assert_eq!(s3.count(Copy), 0, "nothing is copied in vain");
    fault.clear();

    // A file of 5 GiB is copied. S3 may still refuse it.
    s3.fault(list(), listing_with_a_huge_file(s3, id, path, limit));
    s3.fault(When::op(Copy), Fault::Error(400, "InvalidRequest"));
    save(&test_env.function, id).await.assert_error(500, path);
    assert_eq!(s3.count(Copy), 1);
    assert_eq!(versions(s3, BUCKET, id), [""; 0]);
}

#[tokio::test]
async fn files_of_multipart_uploads_are_copied() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "multipart");
    let document = put_document(s3, id);
    let client = common::client(&Endpoint::of(s3).sdk());
    let key = file_key(id, "a.mp4");
    let create = client.create_multipart_upload().bucket(BUCKET).key(&key);
    let upload = create.send().await.expect("the upload starts");
    let upload = upload.upload_id().expect("an id");
    let part = client
        .upload_part()
        .bucket(BUCKET)
        .key(&key)
        .upload_id(upload);
    let part = part
        .part_number(1)
        .body(b"content".to_vec().into())
        .send()
        .await;
    let etag = part
        .expect("the part is uploaded")
        .e_tag()
        .map(str::to_owned);
    let part = CompletedPart::builder()
        .part_number(1)
        .set_e_tag(etag)
        .build();
    let parts = CompletedMultipartUpload::builder().parts(part).build();
    let complete = client.complete_multipart_upload().bucket(BUCKET).key(&key);
    let complete = complete.upload_id(upload).multipart_upload(parts).send();
    complete.await.expect("the upload is complete");

    let etag = s3.metadata(BUCKET, &key).expect("the file exists").etag;
    assert!(etag.ends_with("-1"), "{etag}");
    let files = Files::from([("a.mp4".to_owned(), b"content".to_vec())]);
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    let again = save(&test_env.function, id).await;
    assert_eq!(again.version, saved.version);
    assert_eq!(s3.count(Copy), 1);
    assert_eq!(s3.count(Head), 0);

    // The ETags cannot be compared, but the sizes can.
    let copy = format!("saved-files/{id}/{etag}/a.mp4");
    s3.put(BUCKET, &copy, b"longer content");
    save(&test_env.function, id).await.assert_error(500, &copy);
}

#[tokio::test]
async fn keys_in_listings_are_decoded() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "encoded");
    let document = put_document(s3, id);
    date_document(s3, id);
    let files = put_files(s3, id, ["a b+c%2B"]);
    let etag = |key: &str| s3.metadata(BUCKET, key).expect("the object exists").etag;
    // S3 encodes a space as `+`. A store that ignores `encoding-type` does not encode.
    for (encoding, key) in [
        (
            "<EncodingType>url</EncodingType>",
            "drafts/encoded/a+b%2Bc%252B",
        ),
        ("", "drafts/encoded/a b+c%2B"),
    ] {
        let entry = |key: &str, etag: String, bytes: usize| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2025-09-28T11:47:30.000Z</LastModified>\
                 <ETag>&quot;{etag}&quot;</ETag><Size>{bytes}</Size></Contents>"
            )
        };
        let xml = format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated>{encoding}{}{}</ListBucketResult>",
            entry(
                key,
                etag("drafts/encoded/a b+c%2B"),
                files["a b+c%2B"].len()
            ),
            entry(&draft_key(id), etag(&draft_key(id)), document.len()),
        );
        let list = When::op(List).and(|request| request.query.contains("prefix=drafts"));
        let fault = s3.fault(list, Fault::Respond(RawResponse::new(200).body(xml)));
        let saved = save(&test_env.function, id).await;
        saved.assert_saved(s3, id, &document, &files);
        fault.clear();
    }
}

#[tokio::test]
async fn an_object_that_is_not_a_copy_of_the_file_is_named_and_never_in_a_version() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function) = (&test_env.s3, &test_env.function);
    for (id, wrong) in [
        ("wrong-size", &b"longer content"[..]),
        ("wrong-etag", b"CONTENT"),
    ] {
        put_document(s3, id);
        let etag = s3.put(BUCKET, &file_key(id, "a.mp4"), b"content");
        let copy = format!("saved-files/{id}/{etag}/a.mp4");
        s3.put(BUCKET, &copy, wrong);
        let failed = save(function, id).await;
        failed.assert_error(500, &copy);
        assert_eq!(s3.keys(BUCKET, &format!("saved/{id}/")), [""; 0]);

        s3.delete(BUCKET, &copy);
        let saved = save(function, id).await;
        assert_eq!((saved.status, &*saved.outcome), (200, "created"));
    }
}

/// A response of a store that encrypts `object` with AWS KMS.
fn kms_response(object: &ObjectInfo, body: Vec<u8>) -> Fault {
    let response = RawResponse::new(200)
        .header("ETag", format!("\"{}\"", object.etag))
        .header("Last-Modified", "Sun, 28 Sep 2025 11:47:30 GMT")
        .header("x-amz-server-side-encryption", "aws:kms");
    Fault::Respond(response.body(body))
}

#[tokio::test]
async fn etags_are_not_compared_where_aws_kms_encrypts() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function) = (&test_env.s3, &test_env.function);
    // The draft, one file or the copy is encrypted with KMS, so that the ETag of the copy differs.
    for (id, heads) in [("kms-document", 0), ("kms-file", 1), ("kms-copy", 2)] {
        let document = put_document(s3, id);
        date_document(s3, id);
        let etag = s3.put(BUCKET, &file_key(id, "a.mp4"), b"content");
        let copy = format!("saved-files/{id}/{etag}/a.mp4");
        s3.put(BUCKET, &copy, b"CONTENT");
        let object = |key: &str| s3.metadata(BUCKET, key).expect("the object exists");
        let fault = match id {
            "kms-document" => s3.fault(
                When::op(Get),
                kms_response(&object(&draft_key(id)), document),
            ),
            "kms-file" => s3.fault(
                When::op(Head).key_starts_with("drafts/"),
                kms_response(&object(&file_key(id, "a.mp4")), Vec::new()),
            ),
            _ => s3.fault(
                When::op(Head).key_starts_with("saved-files/"),
                kms_response(&object(&copy), Vec::new()),
            ),
        };
        let saved = save(function, id).await;
        assert_eq!(saved.status, 200, "{id}: {}", saved.line);
        assert_eq!(s3.count(Head), heads, "{id}");
        assert_eq!(s3.count(Copy), 0, "{id}");
        fault.clear();
        s3.clear_requests();

        // The same objects without KMS are an error.
        let failed = save(function, id).await;
        failed.assert_error(500, &copy);
        s3.clear_requests();
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_compared_is_listed_again() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    for (id, content) in [("replaced", Some(&b"changed"[..])), ("deleted", None)] {
        let document = put_document(&s3, id);
        let etag = s3.put(BUCKET, &file_key(id, "a.mp4"), b"content");
        s3.put(
            BUCKET,
            &format!("saved-files/{id}/{etag}/a.mp4"),
            b"CONTENT",
        );
        let server = Arc::downgrade(&s3);
        let change = Fault::Run(Arc::new(move |_| {
            let server = server.upgrade().expect("the S3 runs");
            match content {
                Some(content) => drop(server.put(BUCKET, &file_key(id, "a.mp4"), content)),
                None => server.delete(BUCKET, &file_key(id, "a.mp4")),
            }
        }));
        s3.fault(When::op(Head).once(), change);
        let saved = save(&function, id).await;
        saved.assert_saved(&s3, id, &document, &read_folder(&s3, id));
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_copied_is_listed_again() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    for (id, content) in [("replaced", Some(&b"changed"[..])), ("deleted", None)] {
        let document = put_document(&s3, id);
        put_files(&s3, id, ["a.mp4", "b.mp4"]);
        let server = Arc::downgrade(&s3);
        let change = Fault::Run(Arc::new(move |_| {
            let server = server.upgrade().expect("the S3 runs");
            match content {
                Some(content) => drop(server.put(BUCKET, &file_key(id, "a.mp4"), content)),
                None => server.delete(BUCKET, &file_key(id, "a.mp4")),
            }
        }));
        let copy = When::op(Copy).and(|request| request.key.ends_with("/a.mp4"));
        s3.fault(copy.once(), change);
        let saved = save(&function, id).await;
        saved.assert_saved(&s3, id, &document, &read_folder(&s3, id));
        // The old state of the file was not copied under any name.
        let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
        assert_eq!(copies.len(), read_folder(&s3, id).len(), "{copies:?}");
    }
}

#[tokio::test]
async fn a_document_that_changes_meanwhile_is_read_again() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    let id = "edited";
    put_document(&s3, id);
    // Before the first listing, at a copy, and before each listing of the folder.
    let list = || When::op(List).and(|request| request.query.contains("prefix=drafts"));
    for (number, when, reads) in [
        (0, list().once(), 2),
        (1, When::op(Copy).once(), 2),
        (2, list(), 5),
    ] {
        put_files(&s3, id, [&*format!("{number}.mp4")]);
        let server = Arc::downgrade(&s3);
        let count = AtomicUsize::new(0);
        let change = Fault::Run(Arc::new(move |_| {
            let server = server.upgrade().expect("the S3 runs");
            let seed = number * 1000 + count.fetch_add(1, SeqCst);
            server.put(BUCKET, &draft_key(id), draft_of_size(4_000, seed as u64));
        }));
        let fault = s3.fault(when, change);
        s3.clear_requests();
        let response = save(&function, id).await;
        if reads == 2 {
            let document = s3.get(BUCKET, &draft_key(id)).expect("a document");
            response.assert_saved(&s3, id, &document, &read_folder(&s3, id));
        } else {
            response.assert_error(503, "the document changed");
        }
        assert_eq!(s3.count(Get), reads);
        fault.clear();
    }
}

/// A request of a save that meets a fault, in the order in which a save makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    FirstListOfDraft,
    FirstListOfCopies,
    CopyFile,
    SecondListOfDraft,
    SecondListOfCopies,
    CreateManifest,
    CreateDocument,
}

/// The result of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// 200, and the version exists.
    Saved,
    /// 503, and no version exists.
    Busy,
    /// 503, and the version exists.
    BusyButSaved,
    /// 500, and no version exists.
    Failed,
}

use End::{Busy, BusyButSaved, Failed, Saved};
use Step::{
    CopyFile, CreateDocument, CreateManifest, FirstListOfCopies, FirstListOfDraft,
    SecondListOfCopies, SecondListOfDraft,
};

impl Step {
    /// The requests of the draft `id` at this step. Of the copies, that of the file `b`.
    fn requests(self, id: &str) -> When {
        let list = |folder: &str| {
            let prefix = format!("prefix={folder}%2F{id}%2F");
            When::op(List).and(move |request| request.query.contains(&prefix))
        };
        let put = |name: &'static str| {
            let put = When::op(Put).key_starts_with(format!("saved/{id}/"));
            put.and(move |request| request.key.ends_with(name))
        };
        match self {
            FirstListOfDraft => list("drafts"),
            FirstListOfCopies => list("saved-files"),
            SecondListOfDraft => list("drafts").after(1),
            SecondListOfCopies => list("saved-files").after(1),
            CopyFile => When::op(Copy)
                .key_starts_with(format!("saved-files/{id}/"))
                .and(|request| request.key.ends_with("/b")),
            CreateManifest => put("/files.json"),
            CreateDocument => put("/draft_content.json"),
        }
    }
}

/// A fault, and the result of a save that meets it once, twice and at every attempt.
type Row = (&'static str, fn() -> Fault, [End; 3]);

const RETRIED: [End; 3] = [Saved, Saved, Busy];

#[rustfmt::skip]
const LIST_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,                RETRIED),
    ("503 SlowDown",              || Fault::SLOW_DOWN,                     RETRIED),
    ("closed before the response", || Fault::Cut,                          RETRIED),
    ("reset in the body",         || Fault::CutBody(300),                  RETRIED),
    ("body too short",            || Fault::ShortBody(300),                RETRIED),
    ("response lost",             || Fault::LoseResponse,                  RETRIED),
    ("200 with an error",         || Fault::error_in_ok("InternalError"),   RETRIED),
    ("403",                       || Fault::ACCESS_DENIED,                 [Failed; 3]),
    ("404 NoSuchBucket",          || Fault::Error(404, "NoSuchBucket"),    [Failed; 3]),
];

#[rustfmt::skip]
const COPY_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,                RETRIED),
    ("503 SlowDown",              || Fault::SLOW_DOWN,                     RETRIED),
    ("closed before the response", || Fault::Cut,                          RETRIED),
    ("reset before the response", || Fault::Reset,                         RETRIED),
    ("done, response lost",       || Fault::LoseResponse,                  RETRIED),
    ("done, reset in the body",   || Fault::CutBody(100),                  [Saved; 3]),
    ("404",                       || Fault::Error(404, "NoSuchKey"),       RETRIED),
    ("409",                       || Fault::CONFLICT,                      RETRIED),
    ("412",                       || Fault::Error(412, "PreconditionFailed"), RETRIED),
    ("200 with InternalError",    || Fault::error_in_ok("InternalError"),   RETRIED),
    ("200 with SlowDown",         || Fault::error_in_ok("SlowDown"),        RETRIED),
    ("200 with 412",              || Fault::error_in_ok("PreconditionFailed"), RETRIED),
    ("200 with AccessDenied",     || Fault::error_in_ok("AccessDenied"),    [Failed; 3]),
    ("400",                       || Fault::Error(400, "InvalidRequest"),  [Failed; 3]),
    ("403",                       || Fault::ACCESS_DENIED,                 [Failed; 3]),
    ("404 NoSuchBucket",          || Fault::Error(404, "NoSuchBucket"),    [Failed; 3]),
    ("501",                       || Fault::Error(501, "NotImplemented"),  [Failed; 3]),
];

#[rustfmt::skip]
const CREATE_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,                RETRIED),
    ("503 SlowDown",              || Fault::SLOW_DOWN,                     RETRIED),
    ("closed before the response", || Fault::Cut,                          RETRIED),
    ("409",                       || Fault::CONFLICT,                      RETRIED),
    ("403",                       || Fault::ACCESS_DENIED,                 [Failed; 3]),
    // S3 refuses the damaged body, and the client has to repeat the save.
    ("damaged on the way",        || Fault::CorruptRequest,                [Busy; 3]),
];

const LOST_MANIFEST: &[Row] = &[("done, response lost", || Fault::LoseResponse, RETRIED)];

const LOST_DOCUMENT: &[Row] = &[(
    "done, response lost",
    || Fault::LoseResponse,
    [Saved, Saved, BusyButSaved],
)];

/// Checks that the draft `id` has no version, or one that is complete, depending on `end`.
#[track_caller]
fn assert_end(s3: &S3, id: &str, document: &[u8], files: &Files, end: End, case: &str) {
    let versions = versions(s3, BUCKET, id);
    let expected = usize::from(matches!(end, Saved | BusyButSaved));
    assert_eq!(versions.len(), expected, "{case}: versions {versions:?}");
    for version in versions {
        let saved = read_version(s3, BUCKET, id, &version);
        assert!(saved.0 == document && saved.1 == *files, "{case}");
    }
}

#[tokio::test]
async fn each_fault_at_each_step_once_twice_and_for_ever() {
    let steps = [
        (FirstListOfDraft, LIST_FAULTS),
        (FirstListOfCopies, LIST_FAULTS),
        (CopyFile, COPY_FAULTS),
        (SecondListOfDraft, LIST_FAULTS),
        (SecondListOfCopies, LIST_FAULTS),
        (CreateManifest, CREATE_FAULTS),
        (CreateManifest, LOST_MANIFEST),
        (CreateDocument, CREATE_FAULTS),
        (CreateDocument, LOST_DOCUMENT),
    ];
    let mut tasks = JoinSet::new();
    for (step, rows) in steps {
        // Few rows for each function: the SDK retries less after many failures.
        for rows in rows.chunks(3) {
            tasks.spawn(check_faults(step, rows));
        }
    }
    tasks.join_all().await;
}

async fn check_faults(step: Step, rows: &[Row]) {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function) = (&test_env.s3, &test_env.function);
    for (row, (name, fault, ends)) in rows.iter().enumerate() {
        for (times, end) in [1, 2, usize::MAX].into_iter().zip(ends) {
            let id = format!("fault-{row}-{times:x}");
            let case = format!("{name} at {step:?}, {times} times");
            let document = put_document(s3, &id);
            let files = put_files(s3, &id, ["a", "b", "c"]);
            let scripted = s3.fault(step.requests(&id).times(times), fault());
            let first = save(function, &id).await;
            let status = match end {
                Saved => 200,
                Busy | BusyButSaved => 503,
                Failed => 500,
            };
            assert_eq!(first.status, status, "{case}: {}", first.line);
            assert!(scripted.hits() >= 1, "{case}");
            assert_end(s3, &id, &document, &files, *end, &case);
            if step == CopyFile && status != 200 {
                let error = first.line["error"].as_str().expect("an error");
                assert!(
                    error.contains(&format!("saved-files/{id}/")),
                    "{case}: {error}"
                );
                assert!(error.contains("/b failed"), "{case}: {error}");
            }

            scripted.clear();
            let next = save(function, &id).await;
            next.assert_saved(s3, &id, &document, &files);
            assert_end(s3, &id, &document, &files, Saved, &case);
            let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
            assert_eq!(copies.len(), files.len(), "{case}: {copies:?}");
        }
    }
}

#[tokio::test]
async fn a_save_that_runs_out_of_time_is_continued_by_the_next() {
    const FILES: u64 = 20;
    const BEFORE: u64 = 12;
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function, id) = (&test_env.s3, &test_env.function, "late");
    let document = put_document(s3, id);
    let paths: Vec<_> = (0..FILES)
        .map(|number| format!("assets/{number}"))
        .collect();
    let files = put_files(s3, id, paths.iter().map(String::as_str));
    // The start of the function is not part of the time.
    assert_eq!(save(function, "missing").await.status, 404);

    let after = usize::try_from(BEFORE).expect("small");
    let stall = s3.fault(When::op(Copy).after(after), Fault::Stall);
    let late = save_within(function, id, Duration::from_secs(2)).await;
    late.assert_error(503, "time");
    assert_eq!(late.line["files_copied"], BEFORE, "{}", late.line);
    assert_end(s3, id, &document, &files, Busy, "after the deadline");

    stall.clear();
    s3.clear_requests();
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert_eq!(saved.line["files_copied"], FILES - BEFORE, "{}", saved.line);
}

#[tokio::test]
async fn a_killed_function_leaves_no_version_or_a_complete_one() {
    const FILES: usize = 5;
    let rounds = if long_tests() { 200 } else { 20 };
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let mut function = common::start_function(&s3, &[SAVE_FILES]).await;
    let mut found = 0;
    for round in 0..rounds {
        let id = format!("killed-{round}");
        let document = put_document(&s3, &id);
        let paths: Vec<_> = (0..FILES).map(|number| format!("{number}.mp4")).collect();
        let files = put_files(&s3, &id, paths.iter().map(String::as_str));

        // Before the request is served, after it, or while the function goes on.
        let (fault, request) = (random.usize(0..3), random.usize(0..FILES + 7));
        let case = format!("seed {seed}, round {round}: fault {fault}, request {request}");
        let fault = match fault {
            0 => Fault::Stall,
            1 => Fault::StallResponse,
            _ => Fault::Run(Arc::new(|_| {})),
        };
        let fault = s3.fault(When::any().after(request).once(), fault);
        let pending = function.begin(&post_id(&id));
        fault.wait_for_hits(1).await;
        function.kill().await;
        drop(pending);
        let versions = versions(&s3, BUCKET, &id);
        let end = if versions.is_empty() { Busy } else { Saved };
        found += versions.len();
        assert_end(&s3, &id, &document, &files, end, &case);

        fault.clear();
        function = common::start_function(&s3, &[SAVE_FILES]).await;
        let next = save(&function, &id).await;
        assert_eq!(next.status, 200, "{case}: {}", next.line);
        next.assert_saved(&s3, &id, &document, &files);
        assert_end(&s3, &id, &document, &files, Saved, &case);
        let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
        assert_eq!(copies.len(), FILES, "{case}");
    }
    println!("{rounds} kills, {found} of them after the version was created");
}

/// A draft that is changed while it is saved.
struct Race {
    s3: S3,
    /// All states so far. The last may not have been written yet.
    states: Mutex<Vec<(Vec<u8>, Files)>>,
    /// Number of states that have been written.
    written: AtomicUsize,
    /// The last state that had been written when a save began that was successful.
    saved: watch::Sender<usize>,
}

const RACED: &str = "raced";

impl Race {
    /// Changes the document or a file: overwrites, adds or deletes it.
    fn change(&self, random: &mut fastrand::Rng, number: usize) {
        let path = format!("assets/{}", random.u8(0..8));
        let (mut document, mut files) = {
            let states = self.states.lock().expect("not poisoned");
            states.last().expect("a first state").clone()
        };
        // Some contents repeat, so that a file returns to a state of which there is a copy.
        let content = format!("{path} {}", random.u8(0..20)).into_bytes();
        let choice = random.u8(0..8);
        match choice {
            0 | 1 => document = draft_of_size(2_000, number as u64),
            2 | 3 => drop(files.remove(&path)),
            _ => drop(files.insert(path.clone(), content.clone())),
        }
        {
            let mut states = self.states.lock().expect("not poisoned");
            states.push((document.clone(), files));
        }
        match choice {
            0 | 1 => drop(self.s3.put(BUCKET, &draft_key(RACED), document)),
            2 | 3 => self.s3.delete(BUCKET, &file_key(RACED, &path)),
            _ => drop(self.s3.put(BUCKET, &file_key(RACED, &path), content)),
        }
        self.written.fetch_add(1, SeqCst);
    }

    /// Saves once. Returns whether it succeeded; any version must be a state that the draft had
    /// during the save.
    async fn save(&self, saver: &Saver) -> Option<String> {
        let from = self.written.load(SeqCst) - 1;
        let deadline = Instant::now() + Duration::from_mins(1);
        let report = saver.save(RACED.parse().expect("an id"), deadline).await;
        let version = match report.result {
            Ok(saved) => saved.version.to_string(),
            Err(error) => {
                let cause = error.cause_chain();
                assert_eq!(error.kind(), ErrorKind::ServiceUnavailable, "{cause}");
                return None;
            }
        };
        let to = self.states.lock().expect("not poisoned").len();
        let saved = read_version(&self.s3, BUCKET, RACED, &version);
        let states = self.states.lock().expect("not poisoned");
        assert!(
            states[from..to].contains(&saved),
            "{version} is none of the states {from} to {to}; it is one at all: {}",
            states.contains(&saved)
        );
        drop(states);
        self.saved.send_modify(|saved| *saved = from.max(*saved));
        Some(version)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_savers_save_states_that_existed_at_one_moment() {
    const SAVERS: usize = 32;
    let rounds = if long_tests() { 200 } else { 12 };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let sdk = Endpoint::of(&s3).sdk();
    let config = common::config(BUCKET, &[SAVE_FILES]);
    let document = put_document(&s3, RACED);
    let files = put_files(&s3, RACED, ["assets/0", "assets/1", "cover.jpg"]);
    let race = Arc::new(Race {
        s3,
        states: Mutex::new(vec![(document, files)]),
        written: AtomicUsize::new(1),
        saved: watch::Sender::new(0),
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let mut savers = JoinSet::new();
    for _ in 0..SAVERS {
        let (race, is_over) = (Arc::clone(&race), Arc::clone(&is_over));
        let saver = Saver::new(Store::new(&sdk, &config), &config);
        savers.spawn(async move {
            let mut versions = BTreeSet::new();
            while !is_over.load(SeqCst) {
                versions.extend(race.save(&saver).await);
            }
            let last = race.save(&saver).await;
            (versions, last.expect("nothing changes any more"))
        });
    }
    let requests = Arc::new(watch::Sender::new(0));
    let counter = Arc::clone(&requests);
    let count = Fault::Run(Arc::new(move |_| counter.send_modify(|count| *count += 1)));
    race.s3.fault(When::any(), count);
    let mut number = 0;
    for _ in 0..rounds {
        // A few changes, with some requests of the savers between them.
        for _ in 0..random.usize(1..5) {
            race.change(&mut random, number);
            number += 1;
            let pause = *requests.borrow() + random.usize(0..40);
            let mut requests = requests.subscribe();
            drop(with_timeout(requests.wait_for(|count| *count >= pause)).await);
        }
        // Then none until a state that is not older was saved.
        if random.bool() {
            let state = race.written.load(SeqCst) - 1;
            let mut saved = race.saved.subscribe();
            drop(with_timeout(saved.wait_for(|saved| *saved >= state)).await);
        }
    }
    is_over.store(true, SeqCst);
    let (versions, last): (Vec<_>, BTreeSet<_>) = savers.join_all().await.into_iter().unzip();
    assert_eq!(
        last.len(),
        1,
        "all savers end with the same version: {last:?}"
    );
    let reported: BTreeSet<_> = versions.into_iter().flatten().chain(last).collect();
    println!(
        "{number} changes, {} versions, {} requests",
        reported.len(),
        *requests.borrow()
    );
    // Each object that looks like a version is complete, also those of saves that failed.
    let states = race.states.lock().expect("not poisoned");
    let stored: BTreeSet<_> = self::versions(&race.s3, BUCKET, RACED)
        .into_iter()
        .collect();
    for version in &stored {
        let saved = read_version(&race.s3, BUCKET, RACED, version);
        assert!(states.contains(&saved), "{version} is no state");
    }
    assert!(reported.is_subset(&stored));
}

/// An action on the draft of the model.
#[derive(Clone, Debug)]
enum Action {
    WriteDocument(u64),
    DeleteDocument,
    /// Overwrites or adds a file: path, content.
    WriteFile(u8, u8),
    DeleteFile(u8),
    /// Saves without faults.
    Save,
    /// Saves with this fault at this step: the index of a fault, and the number of times.
    SaveWithFault(Step, usize, usize),
    /// Replaces the folder by one of the versions.
    Restore(Index),
}

const MODEL_FAULTS: [Fault; 4] = [
    Fault::INTERNAL_ERROR,
    Fault::ACCESS_DENIED,
    Fault::LoseResponse,
    Fault::Cut,
];

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let steps = select(vec![
        FirstListOfDraft,
        FirstListOfCopies,
        CopyFile,
        SecondListOfDraft,
        SecondListOfCopies,
        CreateManifest,
        CreateDocument,
    ]);
    let times = select(vec![1, 2, usize::MAX]);
    let action = prop_oneof![
        3 => (0..4_u64).prop_map(Action::WriteDocument),
        1 => Just(Action::DeleteDocument),
        4 => (0..4_u8, 0..3_u8).prop_map(|(path, content)| Action::WriteFile(path, content)),
        2 => (0..4_u8).prop_map(Action::DeleteFile),
        4 => Just(Action::Save),
        4 => (steps, 0..MODEL_FAULTS.len(), times)
            .prop_map(|(step, fault, times)| Action::SaveWithFault(step, fault, times)),
        1 => any::<Index>().prop_map(Action::Restore),
    ];
    vec(action, 1..16)
}

/// The expected content of the bucket.
struct Model {
    s3: S3,
    saver: Saver,
    document: Option<Vec<u8>>,
    files: Files,
    versions: BTreeMap<String, (Vec<u8>, Files)>,
}

impl Model {
    const ID: &str = "model";

    async fn new() -> Self {
        let s3 = S3::start_empty().await.expect("the S3 starts");
        let config = common::config(BUCKET, &[SAVE_FILES]);
        let saver = Saver::new(Store::new(&Endpoint::of(&s3).sdk(), &config), &config);
        Self {
            s3,
            saver,
            document: None,
            files: Files::new(),
            versions: BTreeMap::new(),
        }
    }

    async fn apply(&mut self, action: &Action) {
        let path =
            |number: u8| ["a", "b", "assets/c d", "assets/你"][usize::from(number)].to_owned();
        match action {
            Action::WriteDocument(seed) => self.document = Some(draft_of_size(1_000, *seed)),
            Action::DeleteDocument => self.document = None,
            Action::WriteFile(number, content) => {
                self.files.insert(path(*number), vec![*content; 100]);
            }
            Action::DeleteFile(number) => drop(self.files.remove(&path(*number))),
            Action::Save => self.save(None).await,
            Action::SaveWithFault(step, fault, times) => {
                let when = step.requests(Self::ID).times(*times);
                self.s3.fault(when, MODEL_FAULTS[*fault].clone());
                self.save(Some(action)).await;
                self.s3.clear_faults();
            }
            Action::Restore(index) => {
                let versions: Vec<_> = self.versions.values().collect();
                if !versions.is_empty() {
                    let (document, files) = index.get(&versions);
                    (self.document, self.files) = (Some(document.clone()), files.clone());
                }
            }
        }
        if !matches!(action, Action::Save | Action::SaveWithFault(..)) {
            self.write();
        }
    }

    /// Changes the folder to the expected state. Files that are equal are not written again.
    fn write(&self) {
        let stored = read_folder(&self.s3, Self::ID);
        for (path, content) in &self.files {
            if stored.get(path) != Some(content) {
                self.s3.put(BUCKET, &file_key(Self::ID, path), content);
            }
        }
        for path in stored.keys().filter(|path| !self.files.contains_key(*path)) {
            self.s3.delete(BUCKET, &file_key(Self::ID, path));
        }
        match &self.document {
            Some(document) => drop(self.s3.put(BUCKET, &draft_key(Self::ID), document)),
            None => self.s3.delete(BUCKET, &draft_key(Self::ID)),
        }
    }

    async fn save(&mut self, fault: Option<&Action>) {
        let id = Self::ID.parse().expect("an id");
        let report = self
            .saver
            .save(id, Instant::now() + Duration::from_mins(1))
            .await;
        let state = self
            .document
            .clone()
            .map(|document| (document, self.files.clone()));
        let stored: BTreeSet<_> = versions(&self.s3, BUCKET, Self::ID).into_iter().collect();
        let added = stored
            .iter()
            .filter(|name| !self.versions.contains_key(*name));
        let added: Vec<_> = added.cloned().collect();
        match (&report.result, state) {
            (Ok(saved), Some(state)) => {
                let name = saved.version.to_string();
                let is_new = !self.versions.contains_key(&name);
                assert_eq!(added.is_empty(), !is_new, "{added:?}");
                // After a lost response the version may be found instead of created.
                if fault.is_none() {
                    assert_eq!(saved.outcome == CreateOutcome::Created, is_new);
                }
                self.versions.insert(name, state);
            }
            (Err(error), None) => {
                assert_eq!(error.kind(), ErrorKind::DraftNotFound);
                assert_eq!(added, [""; 0]);
            }
            (Err(error), Some(state)) => {
                let expected = match fault {
                    Some(Action::SaveWithFault(_, 1, _)) => ErrorKind::SaveFailed,
                    Some(_) => ErrorKind::ServiceUnavailable,
                    None => panic!("{}", error.cause_chain()),
                };
                assert_eq!(error.kind(), expected, "{}", error.cause_chain());
                // The response to the last request of a complete save was lost.
                if let Some(Action::SaveWithFault(CreateDocument, 2, _)) = fault {
                    self.versions
                        .extend(added.into_iter().map(|name| (name, state.clone())));
                } else {
                    assert_eq!(added, [""; 0]);
                }
            }
            (Ok(saved), None) => panic!("{saved:?} without a document"),
        }
    }

    /// Compares the bucket with the model.
    fn check(&self) {
        assert_eq!(self.s3.get(BUCKET, &draft_key(Self::ID)), self.document);
        assert_eq!(read_folder(&self.s3, Self::ID), self.files);
        let stored = versions(&self.s3, BUCKET, Self::ID).into_iter();
        let stored = stored.map(|name| {
            let state = read_version(&self.s3, BUCKET, Self::ID, &name);
            (name, state)
        });
        assert!(stored.collect::<BTreeMap<_, _>>() == self.versions);
        for key in self.s3.keys(BUCKET, "saved-files/") {
            // The key names the content.
            let etag = self
                .s3
                .metadata(BUCKET, &key)
                .expect("the copy exists")
                .etag;
            assert_eq!(key.split('/').nth(2), Some(&*etag));
        }
    }
}

#[test]
fn any_sequence_of_changes_saves_and_restores_fits_the_model() {
    let config = ProptestConfig {
        cases: if long_tests() { 300 } else { 12 },
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&actions(), |actions| {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut model = Model::new().await;
            for action in &actions {
                model.apply(action).await;
                model.check();
            }
        });
        Ok(())
    });
    result.expect("the bucket equals the model");
}

/// Returns the commands in the README that restore a version with its files: the block that reads
/// `files.json`, and the next one, which copies the document.
fn restore_commands() -> String {
    let readme = std::fs::read_to_string(in_repository("README.md")).expect("the README exists");
    let blocks = readme.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
    let commands = blocks.skip_while(|block| !block.contains("files.json"));
    commands.take(2).collect()
}

/// Restores the version `version` by the commands in the README.
async fn run_restore(s3: &S3, id: &str, version: &str) {
    let user = s3.options();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &restore_commands()])
        .env("DRAFT_BUCKET", BUCKET)
        .env("DRAFT_ID", id)
        .env("VERSION", version)
        .env("AWS_ENDPOINT_URL", s3.endpoint())
        .env("AWS_ACCESS_KEY_ID", &user.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &user.secret_key)
        .env("AWS_REGION", "us-east-1")
        .output()
        .await
        .expect("bash starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn a_version_is_restored_byte_for_byte_by_the_documented_commands() {
    for program in ["aws", "jq", "bash"] {
        let version = Command::new(program).arg("--version").output().await;
        if !version.is_ok_and(|output| output.status.success()) {
            common::skip_or_fail(&format!("{program} is not installed"));
            return;
        }
    }
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function, id) = (&test_env.s3, &test_env.function, "restored");
    let document = put_document(s3, id);
    let files = put_files(
        s3,
        id,
        ["draft_meta_info.json", "assets/a b/剪映 +%41 '1'.mp4"],
    );
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);

    // A file is replaced, one is deleted, and the document too.
    put_files(s3, id, ["assets/a b/剪映 +%41 '1'.mp4"]);
    s3.put(BUCKET, &file_key(id, "draft_meta_info.json"), b"changed");
    s3.delete(BUCKET, &file_key(id, "assets/a b/剪映 +%41 '1'.mp4"));
    s3.delete(BUCKET, &draft_key(id));
    run_restore(s3, id, &saved.version).await;
    assert!(s3.get(BUCKET, &draft_key(id)) == Some(document.clone()));
    assert_eq!(read_folder(s3, id), files);

    // The restored draft has the saved state. Nothing has to be copied.
    let again = save(function, id).await;
    again.assert_saved(s3, id, &document, &files);
    assert_eq!(again.line["files_copied"], 0);
    let digest = |version: &str| version.split_once('-').map(|(_, digest)| digest.to_owned());
    assert_eq!(digest(&again.version), digest(&saved.version));
}

/// The requests of `SAVE_FILES` that a store has to support, for all stores of the contract suite.
mod store {
    use save_draft::store::{CopyOutcome, ListedObject};

    use super::*;
    use crate::store::{
        CONTROL_CHARACTERS, COPY_IF_MATCH, COPY_IF_NONE_MATCH, COPY_WITHOUT_TAGS, Target, targets,
    };

    const KEYS: [&str; 12] = [
        "a b/c d.mp4",
        "a+b",
        "100%",
        "%41%2F%",
        "剪映/素材 1.mp4",
        "e\u{301} and \u{e9}",
        "?versionId=1&x=y#z",
        "<&>\"'`\\|^{}[]~!$()*,;:=@",
        "a//b",
        "folder/",
        "line\nbreak\ttab",
        "😀",
    ];

    /// The keys that the store supports.
    fn keys(target: &Target) -> Vec<&'static str> {
        let control = target.can(CONTROL_CHARACTERS);
        let keys = KEYS.into_iter();
        keys.filter(|key| control || !key.contains(char::is_control))
            .collect()
    }

    /// Lists the one object `key` of the drafts.
    async fn find(target: &Target, key: &str) -> ListedObject {
        let listing = target.store.list_drafts(key).await.expect("a listing");
        let mut objects = listing.objects.into_iter();
        objects
            .find(|object| object.key == key)
            .expect("the object")
    }

    async fn copy(target: &Target, source: &ListedObject, key: &str) -> CopyOutcome {
        let outcome = target.store.copy(source, key).await;
        outcome.unwrap_or_else(|error| panic!("{}: {}", target.name, error.cause_chain()))
    }

    fn is_created(outcome: &CopyOutcome) -> bool {
        matches!(outcome, CopyOutcome::Created)
    }

    #[tokio::test]
    async fn a_listing_has_the_keys_as_they_were_written() {
        for target in targets().await {
            let written = keys(&target);
            for key in &written {
                target.put(&format!("drafts/x/{key}"), (*key).into()).await;
            }
            target.put("drafts/x-2/a", Vec::new()).await;
            target.put("drafts/w", Vec::new()).await;
            let listing = target.store.list_drafts("drafts/x/").await;
            let listing = listing.expect("a listing");
            assert!(listing.is_one_page, "{}", target.name);
            let keys: BTreeSet<_> = listing.objects.iter().map(|object| &*object.key).collect();
            let expected: Vec<_> = written
                .iter()
                .map(|key| format!("drafts/x/{key}"))
                .collect();
            let expected: BTreeSet<_> = expected.iter().map(String::as_str).collect();
            assert_eq!(keys, expected, "{}", target.name);
            for object in &listing.objects {
                let head = target.client.head_object().bucket(&target.bucket);
                let head = head.key(&object.key).send().await.expect("the object");
                let etag = head.e_tag().map(|etag| etag.trim_matches('"'));
                assert_eq!(Some(object.etag.trim_matches('"')), etag, "{}", target.name);
                let time = head.last_modified().expect("a time").secs();
                assert_eq!(
                    object.last_modified.unix_timestamp(),
                    time,
                    "{}",
                    target.name
                );
                let size = head.content_length().and_then(|size| size.try_into().ok());
                assert_eq!(Some(object.size), size, "{}", target.name);
            }
            let none = target.store.list_drafts("saved-files/none/").await;
            let none = none.expect("a listing");
            assert!(
                none.is_one_page && none.objects.is_empty(),
                "{}",
                target.name
            );
        }
    }

    #[tokio::test]
    async fn a_listing_of_several_pages_is_complete() {
        const OBJECTS: usize = 1003;
        for target in targets().await {
            let target = Arc::new(target);
            let mut writers = JoinSet::new();
            for writer in 0..8 {
                let target = Arc::clone(&target);
                writers.spawn(async move {
                    for number in (writer..OBJECTS).step_by(8) {
                        target
                            .put(&format!("drafts/p/{number:04} +%"), b"x".to_vec())
                            .await;
                    }
                });
            }
            writers.join_all().await;
            let listing = target.store.list_drafts("drafts/p/").await;
            let listing = listing.expect("a listing");
            assert!(!listing.is_one_page, "{}", target.name);
            let keys: Vec<_> = listing
                .objects
                .into_iter()
                .map(|object| object.key)
                .collect();
            let expected = (0..OBJECTS).map(|number| format!("drafts/p/{number:04} +%"));
            assert!(
                keys.iter().cloned().eq(expected),
                "{}: {keys:?}",
                target.name
            );
        }
    }

    #[tokio::test]
    async fn a_listing_of_a_missing_bucket_is_an_error() {
        for target in targets().await {
            let config = common::config("no-such-bucket-here", &[]);
            let store = Store::new(&target.endpoint.sdk(), &config);
            let error = store.list_drafts("drafts/x/").await.expect_err("no bucket");
            assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
        }
    }

    #[tokio::test]
    async fn a_copy_has_the_bytes_the_content_type_and_the_metadata() {
        for target in targets().await {
            // The embedded store has no tags.
            let has_tags = target.name != "embedded" && target.can(COPY_WITHOUT_TAGS);
            for (number, key) in keys(&target).into_iter().enumerate() {
                let (source, copy_key) = (format!("drafts/x/{key}"), format!("copies/{key}"));
                let content = format!("content {number}").into_bytes();
                let put = target
                    .client
                    .put_object()
                    .bucket(&target.bucket)
                    .key(&source);
                let put = put.content_type("video/mp4").metadata("made-by", "test");
                let put = put.set_tagging(has_tags.then(|| "a=b".to_owned()));
                let put = put.body(content.clone().into());
                put.send().await.expect("the object is written");

                let source = find(&target, &source).await;
                assert!(
                    is_created(&copy(&target, &source, &copy_key).await),
                    "{key}"
                );
                assert_eq!(
                    target.get(&copy_key).await,
                    content,
                    "{}: {key}",
                    target.name
                );
                let head = target.client.head_object().bucket(&target.bucket);
                let head = head.key(&copy_key).send().await.expect("the copy");
                assert_eq!(head.content_type(), Some("video/mp4"), "{}", target.name);
                let metadata = head.metadata().expect("metadata");
                let made_by = metadata.get("made-by").map(String::as_str);
                assert_eq!(made_by, Some("test"), "{}", target.name);
                assert_eq!(
                    head.e_tag().map(|etag| etag.trim_matches('"')),
                    Some(source.etag.trim_matches('"')),
                    "{}",
                    target.name
                );
                if has_tags {
                    let tags = target.client.get_object_tagging().bucket(&target.bucket);
                    let tags = tags.key(&copy_key).send().await.expect("tags");
                    assert!(tags.tag_set().is_empty(), "{}: {tags:?}", target.name);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_copy_is_not_replaced() {
        for target in targets().await {
            if !target.can(COPY_IF_NONE_MATCH) {
                continue;
            }
            target.put("drafts/x/a", b"source".to_vec()).await;
            target.put("copies/a", b"another".to_vec()).await;
            let source = find(&target, "drafts/x/a").await;
            let outcome = copy(&target, &source, "copies/a").await;
            assert!(!is_created(&outcome), "{}", target.name);
            assert_eq!(target.get("copies/a").await, b"another", "{}", target.name);
        }
    }

    #[tokio::test]
    async fn a_source_that_was_replaced_is_not_copied() {
        for target in targets().await {
            target.put("drafts/x/a", b"before".to_vec()).await;
            let source = find(&target, "drafts/x/a").await;
            target.put("drafts/x/a", b"after".to_vec()).await;
            if target.can(COPY_IF_MATCH) {
                let outcome = copy(&target, &source, "copies/a").await;
                assert!(!is_created(&outcome), "{}", target.name);
                assert!(!target.exists("copies/a").await, "{}", target.name);
            }
            let source = find(&target, "drafts/x/a").await;
            let outcome = copy(&target, &source, "copies/b").await;
            assert!(is_created(&outcome), "{}", target.name);
            assert_eq!(target.get("copies/b").await, b"after", "{}", target.name);
        }
    }

    #[tokio::test]
    async fn a_source_that_was_deleted_is_not_copied() {
        for target in targets().await {
            target.put("drafts/x/a", b"before".to_vec()).await;
            let source = find(&target, "drafts/x/a").await;
            let delete = target.client.delete_object().bucket(&target.bucket);
            delete.key("drafts/x/a").send().await.expect("deleted");
            let outcome = copy(&target, &source, "copies/a").await;
            assert!(!is_created(&outcome), "{}", target.name);
            assert!(!target.exists("copies/a").await, "{}", target.name);
        }
    }

    #[tokio::test]
    async fn a_copy_into_a_missing_bucket_is_an_error() {
        for target in targets().await {
            target.put("drafts/x/a", b"source".to_vec()).await;
            let source = find(&target, "drafts/x/a").await;
            let variables = [("SAVED_BUCKET", "no-such-bucket-here")];
            let config = common::config(&target.bucket, &variables);
            let store = Store::new(&target.endpoint.sdk(), &config);
            let error = store
                .copy(&source, "copies/a")
                .await
                .expect_err("no bucket");
            assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
            let cause = error.cause_chain();
            assert!(cause.contains("NoSuchBucket"), "{}: {cause}", target.name);
        }
    }

    #[tokio::test]
    async fn only_objects_encrypted_with_kms_are_reported_so() {
        for target in targets().await {
            target.put("drafts/x/a", b"before".to_vec()).await;
            let source = find(&target, "drafts/x/a").await;
            for found in [
                target.store.is_draft_kms_encrypted(&source).await,
                target.store.is_saved_kms_encrypted(&source).await,
            ] {
                assert_eq!(found.expect("a response"), Some(false), "{}", target.name);
            }
            target.put("drafts/x/a", b"after".to_vec()).await;
            let found = target.store.is_draft_kms_encrypted(&source).await;
            assert_eq!(found.expect("a response"), None, "{}", target.name);
            let delete = target.client.delete_object().bucket(&target.bucket);
            delete.key("drafts/x/a").send().await.expect("deleted");
            let found = target.store.is_draft_kms_encrypted(&source).await;
            assert_eq!(found.expect("a response"), None, "{}", target.name);
        }
    }

    #[tokio::test]
    async fn a_draft_is_saved_as_a_whole() {
        for target in targets().await {
            let id = "whole";
            target.put(&draft_key(id), draft_of_size(3_000, 1)).await;
            let mut paths = keys(&target);
            paths.retain(|path| !path.contains(char::is_control));
            for path in &paths {
                target.put(&file_key(id, path), (*path).into()).await;
            }
            let config = common::config(&target.bucket, &[SAVE_FILES]);
            let saver = Saver::new(Store::new(&target.endpoint.sdk(), &config), &config);
            let mut saved = Vec::new();
            for copied in [paths.len(), 0] {
                let deadline = Instant::now() + Duration::from_mins(1);
                let report = saver.save(id.parse().expect("an id"), deadline).await;
                let version = report.result.unwrap_or_else(|error| {
                    panic!("{}: {}", target.name, error.cause_chain());
                });
                saved.push(version.version.to_string());
                let files = report.files.expect("a report");
                assert_eq!(files.copied, copied as u64, "{}", target.name);
            }
            assert_eq!(saved[0], saved[1], "{}", target.name);
            let manifest = format!("saved/{id}/{}/files.json", saved[0]);
            let manifest = target.get(&manifest).await;
            let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
            let files = manifest["files"].as_array().expect("a list");
            assert_eq!(files.len(), paths.len(), "{}", target.name);
            for file in files {
                let (path, key) = (file["path"].as_str(), file["key"].as_str());
                let content = target.get(key.expect("a key")).await;
                assert_eq!(content, path.expect("a path").as_bytes(), "{}", target.name);
            }
        }
    }
}
