//! `SAVE_FILES=true`: a version covers all objects in the draft's folder.

pub mod large;
mod listings;
mod multipart;
mod restore;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, draft_of_size};
use test_support::s3::{Fault, Op, RecordedRequest, S3, ScriptedFault, When};

use crate::common::drafts::{
    Files, SAVE_FILES, file_key, put_document, put_files, read_folder, read_version, save, versions,
};
use crate::common::{self, Endpoint, TestEnv};

/// Paths with characters that URLs, XML and shells treat specially.
const UNUSUAL_PATHS: [&str; 10] = [
    "a b/c d.mp4",
    "a+b",
    "100%",
    "%41%2F%",
    "剪映/素材 1.mp4",
    "e\u{301} and \u{e9}",
    "?versionId=1&x=y#z",
    "<&>\"'`\\|^{}[]~!$()*,;:=@",
    "a//b",
    "😀",
];

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

    for number in 1..=30 {
        files.extend(put_files(s3, id, [&*format!("assets/{number}.mp4")]));
    }
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    let requests = s3.requests();
    let mut expected = vec![Get, List, List];
    expected.extend([Copy; 30]);
    expected.extend([Put, Put]);
    assert_eq!(operations(s3), expected, "with 30 new files");
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
    // The manifest is there already, and is compared.
    let no_copies = [Get, List, List, Put, Get, Put];
    assert_eq!(operations(s3), no_copies, "without new files");

    // One file more: the others are shared with the version before.
    files.extend(put_files(s3, id, ["cover.jpg"]));
    let next = save(function, id).await;
    next.assert_saved(s3, id, &document, &files);
    let expected = [Get, List, List, Copy, Put, Put];
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
async fn the_copies_of_a_few_files_are_asked_for_one_by_one() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function, id) = (&test_env.s3, &test_env.function, "few");
    let document = put_document(s3, id);
    let paths: Vec<_> = (0..24).map(|number| number.to_string()).collect();
    let files = put_files(s3, id, paths.iter().map(String::as_str));
    save(function, id)
        .await
        .assert_saved(s3, id, &document, &files);
    let mut requests = operations(s3);
    assert_eq!(requests.drain(..2).collect::<Vec<_>>(), [Get, List]);
    assert_eq!(requests.split_off(48), [Put, Put]);
    requests.sort_by_key(|operation| *operation == Copy);
    assert_eq!(requests, [[Head; 24], [Copy; 24]].concat());

    save(function, id)
        .await
        .assert_saved(s3, id, &document, &files);
    let expected = [&[Get, List][..], &[Head; 24], &[Put, Get, Put]].concat();
    assert_eq!(operations(s3), expected, "all have copies");
}

#[tokio::test]
async fn a_document_of_either_name_is_saved_under_its_name() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let s3 = &test_env.s3;
    let (content, info) = (draft_of_size(3_000, 1), draft_of_size(3_000, 2));
    for (id, names, expected) in [
        ("content", &["draft_content.json"][..], "draft_content.json"),
        ("info", &["draft_info.json"], "draft_info.json"),
        (
            "both",
            &["draft_info.json", "draft_content.json"],
            "draft_content.json",
        ),
    ] {
        for name in names {
            let document = if *name == "draft_info.json" {
                &info
            } else {
                &content
            };
            s3.put(BUCKET, &file_key(id, name), document);
        }
        s3.clear_requests();
        let saved = save(&test_env.function, id).await;
        assert_eq!((saved.status, &*saved.outcome), (200, "created"), "{id}");
        assert_eq!(saved.line["document"], expected);
        let gets = s3.count(Get);
        assert_eq!(gets, if id == "info" { 2 } else { 1 }, "{id}");
        let folder = format!("saved/{id}/{}", saved.version);
        let document = s3.get(BUCKET, &format!("{folder}/{expected}"));
        let source = if id == "info" { &info } else { &content };
        assert!(document.as_ref() == Some(source), "{id}");
        // The other document is a file like any other.
        let manifest = s3.get(BUCKET, &format!("{folder}/files.json"));
        let files = manifest.map(|manifest| {
            let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
            manifest["files"][0]["path"].clone()
        });
        assert_eq!(
            files,
            (id == "both").then(|| json!("draft_info.json")),
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_document_that_appears_in_the_place_of_the_other_is_read() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    let id = "appears";
    let (content, info) = (draft_of_size(3_000, 1), draft_of_size(3_000, 2));
    s3.put(BUCKET, &file_key(id, "draft_info.json"), &info);
    let written = content.clone();
    change_at(&s3, When::op(List).once(), move |s3| {
        s3.put(BUCKET, &draft_key(id), &written);
    });
    let saved = save(&function, id).await;
    let files = Files::from([("draft_info.json".to_owned(), info)]);
    saved.assert_saved(&s3, id, &content, &files);
    assert_eq!(versions(&s3, BUCKET, id), [saved.version]);
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
        for field in ["Files", "FilesCopied", "CopiedBytes"] {
            assert!(saved.line.get(field).is_none(), "{}", saved.line);
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
    let paths = UNUSUAL_PATHS.into_iter().chain([
        " leading and trailing ",
        "{etag}/{path}",
        "../draft_content.json",
        "./x",
        "draft_content.json.bak",
        "nested/draft_content.json",
        "files.json",
    ]);
    let files = put_files(s3, id, paths);
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
        let line = &saved.line;
        assert_eq!(line["Files"], files, "{line}");
        assert_eq!(line["FilesCopied"], copied, "{line}");
        assert_eq!(line["CopiedBytes"], bytes, "{line}");
        let declared = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array();
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

/// Calls `change` with the server before each request at `when` is served.
fn change_at(
    s3: &Arc<S3>,
    when: When,
    change: impl Fn(&S3) + Send + Sync + 'static,
) -> ScriptedFault {
    // The server owns its faults.
    let server = Arc::downgrade(s3);
    let run = move |_: &RecordedRequest| change(&server.upgrade().expect("the S3 runs"));
    s3.fault(when, Fault::Run(Arc::new(run)))
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
    let (folder, copies) = ([List; 4], [List, Head, Head, Head]);
    let expected = [&[Get][..], &folder, &copies, &[Put, Put]].concat();
    assert_eq!(operations(&s3), expected);

    // The first file is replaced, and one is added at the end, before the second page is read. The
    // two pages together show a state that never existed: the old first file beside the new last one.
    let paths = ["0000", "9999"];
    let second_page = When::op(List).and(|request| request.query.contains("continuation-token"));
    change_at(&s3, second_page.once(), move |s3| {
        for path in paths {
            s3.put(BUCKET, &file_key(id, path), b"new");
        }
    });
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
    change_at(&s3, When::op(List).once(), move |s3| {
        s3.set_last_modified(BUCKET, &draft_key(id), time(20));
    });
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

    // The ETags cannot be compared, but the sizes can.
    let copy = format!("saved-files/{id}/{etag}/a.mp4");
    s3.put(BUCKET, &copy, b"longer content");
    save(&test_env.function, id).await.assert_error(500, &copy);
}

#[tokio::test]
async fn an_object_that_is_not_a_copy_of_the_file_is_named_and_never_in_a_version() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function) = (&test_env.s3, &test_env.function);
    let id = "wrong-size";
    put_document(s3, id);
    let etag = s3.put(BUCKET, &file_key(id, "a.mp4"), b"content");
    let copy = format!("saved-files/{id}/{etag}/a.mp4");
    s3.put(BUCKET, &copy, b"longer content");
    let failed = save(function, id).await;
    failed.assert_error(500, &copy);
    assert_eq!(s3.keys(BUCKET, &format!("saved/{id}/")), [""; 0]);

    s3.delete(BUCKET, &copy);
    let saved = save(function, id).await;
    assert_eq!((saved.status, &*saved.outcome), (200, "created"));
}

/// Writes the object `key`, or deletes it without a content.
fn replace_file(s3: &S3, key: &str, content: Option<&[u8]>) {
    match content {
        Some(content) => drop(s3.put(BUCKET, key, content)),
        None => s3.delete(BUCKET, key),
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_copied_is_listed_again() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    for (id, content) in [("replaced", Some(&b"changed"[..])), ("deleted", None)] {
        let document = put_document(&s3, id);
        put_files(&s3, id, ["a.mp4", "b.mp4"]);
        let copy = When::op(Copy).and(|request| request.key.ends_with("/a.mp4"));
        change_at(&s3, copy.once(), move |s3| {
            replace_file(s3, &file_key(id, "a.mp4"), content);
        });
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
    // Before the first listing, and before each listing of the folder.
    let list = || When::op(List).and(|request| request.query.contains("prefix=drafts"));
    for (number, when, reads) in [(0, list().once(), 2), (1, list(), 5)] {
        put_files(&s3, id, [&*format!("{number}.mp4")]);
        let count = AtomicUsize::new(0);
        let fault = change_at(&s3, when, move |s3| {
            let seed = number * 1000 + count.fetch_add(1, SeqCst);
            s3.put(BUCKET, &draft_key(id), draft_of_size(4_000, seed as u64));
        });
        s3.clear_requests();
        let response = save(&function, id).await;
        if reads == 2 {
            let document = s3.get(BUCKET, &draft_key(id)).expect("a document");
            response.assert_saved(&s3, id, &document, &read_folder(&s3, id));
        } else {
            response.assert_error(503, "the document changed");
        }
        let documents = s3.requests().into_iter();
        let documents =
            documents.filter(|request| request.op == Get && request.key == draft_key(id));
        assert_eq!(documents.count(), reads);
        fault.clear();
    }
}

#[tokio::test]
async fn a_change_while_files_are_copied_belongs_to_the_next_version() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let function = common::start_function(&s3, &[SAVE_FILES]).await;
    let id = "copying";
    let document = put_document(&s3, id);
    let files = put_files(&s3, id, ["a.mp4", "b.mp4"]);
    let next = draft_of_size(4_000, 1);
    let written = next.clone();
    change_at(&s3, When::op(Copy).once(), move |s3| {
        s3.put(BUCKET, &draft_key(id), &written);
        s3.put(BUCKET, &file_key(id, "c.mp4"), b"new");
    });
    save(&function, id)
        .await
        .assert_saved(&s3, id, &document, &files);
    save(&function, id)
        .await
        .assert_saved(&s3, id, &next, &read_folder(&s3, id));
}
