//! `SAVE_FILES=true`: a version covers all objects in the draft's folder.

pub mod large;
mod listings;
pub mod multipart;
mod restore;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, draft_key, draft_of_size};
use test_support::s3::{Fault, Op, RecordedRequest, S3, ScriptedFault, When};

use crate::common::TestEnv;
use crate::common::drafts::{
    Files, SAVE_FILES, file_key, put_document, put_files, read_folder, read_version, save, versions,
};

/// 2100-01-01T00:00:00Z, since the epoch.
const YEAR_2100: Duration = Duration::from_hours(24 * 47_482);

/// Paths with characters that URLs, XML and shells treat specially.
pub const UNUSUAL_PATHS: [&str; 10] = [
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

    for number in 1..=25 {
        files.extend(put_files(s3, id, [&*format!("assets/{number}.mp4")]));
    }
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    let requests = s3.requests();
    let mut expected = vec![Get, List, List];
    expected.extend([Copy; 25]);
    expected.extend([Put, Put]);
    assert_eq!(operations(s3), expected, "with 25 new files");
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
async fn the_version_has_the_latest_time_and_the_manifest_that_of_each_file() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "named");
    let document = put_document(s3, id);
    let files = put_files(s3, id, ["b", "a", "assets/ä"]);
    for (path, minutes) in [
        ("draft_content.json", 0),
        ("a", 3),
        ("b", 2),
        ("assets/ä", 1),
    ] {
        let time = SystemTime::UNIX_EPOCH + YEAR_2100 + Duration::from_mins(minutes);
        s3.set_last_modified(BUCKET, &file_key(id, path), time);
    }
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert!(
        saved.version.starts_with("21000101T000300Z-"),
        "{}",
        saved.version
    );
    let key = format!("saved/{id}/{}/files.json", saved.version);
    let manifest = s3.get(BUCKET, &key).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let files = manifest["files"].as_array().expect("a list").iter();
    let times: Vec<_> = files
        .map(|file| json!([file["path"], file["last_modified"]]))
        .collect();
    let expected = [
        json!(["a", "2100-01-01T00:03:00Z"]),
        json!(["assets/ä", "2100-01-01T00:01:00Z"]),
        json!(["b", "2100-01-01T00:02:00Z"]),
    ];
    assert_eq!(times, expected);
}

#[tokio::test]
async fn versions_and_copies_can_be_in_a_bucket_of_their_own() {
    let test_env = TestEnv::with(&[SAVE_FILES, ("SAVED_BUCKET", "versions")]).await;
    let (s3, id) = (&test_env.s3, "other-bucket");
    s3.create_bucket("versions");
    let document = put_document(s3, id);
    let files = put_files(s3, id, ["cover.jpg", "assets/a.mp4"]);
    let saved = save(&test_env.function, id).await;
    assert_eq!((saved.status, &*saved.outcome), (200, "created"));
    assert!(read_version(s3, "versions", id, &saved.version) == (document, files));
    assert_eq!(s3.keys(BUCKET, "saved"), [""; 0]);
}

/// Writes an object of the folder of the draft `id`, with another content than before.
fn put(s3: &S3, id: &str, path: &str) {
    s3.put(BUCKET, &file_key(id, path), draft_of_size(4_000, 2));
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
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "pages");
    let document = put_document(s3, id);
    let mut files = Files::new();
    for number in 0..1003 {
        let (path, content) = (format!("{number:04}"), format!("content {number}"));
        let etag = s3.put(BUCKET, &file_key(id, &path), &content);
        s3.put(BUCKET, &format!("saved-files/{id}/{etag}/{path}"), &content);
        files.insert(path, content.into_bytes());
    }
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    let (folder, copies) = ([List; 4], [List, Head, Head, Head]);
    let expected = [&[Get][..], &folder, &copies, &[Put, Put]].concat();
    assert_eq!(operations(s3), expected);

    // The first file is replaced, and one is added at the end, before the second page is read. The
    // two pages together show a state that never existed: the old first file beside the new last one.
    let paths = ["0000", "9999"];
    let second_page = When::op(List).and(|request| request.query.contains("continuation-token"));
    change_at(s3, second_page.once(), move |s3| {
        for path in paths {
            s3.put(BUCKET, &file_key(id, path), b"new");
        }
    });
    files.extend(paths.map(|path| (path.to_owned(), b"new".to_vec())));
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert_eq!(versions(s3, BUCKET, id).len(), 2);
}

#[tokio::test]
async fn a_document_of_either_name_is_saved_under_its_name() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let s3 = &test_env.s3;
    let [content, info] = ["draft_content.json", "draft_info.json"];
    for (id, names, expected) in [
        ("content", &[content][..], content),
        ("info", &[info], info),
        ("both", &[info, content], content),
    ] {
        let document = |name: &str| draft_of_size(3_000, name.len() as u64);
        for name in names {
            s3.put(BUCKET, &file_key(id, name), document(name));
        }
        s3.clear_requests();
        let saved = save(&test_env.function, id).await;
        // The other document is a file like any other.
        let others = names.iter().filter(|name| **name != expected);
        let files = others.map(|name| ((*name).to_owned(), document(name)));
        saved.assert_saved(s3, id, &document(expected), &files.collect());
        assert_eq!(saved.line["document"], expected);
        let key = format!("saved/{id}/{}/{expected}", saved.version);
        assert!(s3.metadata(BUCKET, &key).is_some(), "{key}");
        let gets = if id == "info" { 2 } else { 1 };
        assert_eq!(s3.count(Get), gets, "{id}");
    }
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
        "not empty/",
    ]);
    let files = put_files(s3, id, paths);
    // Objects that stand for folders, and another draft, whose id begins with this one.
    for folder in ["", "assets/", "empty/"] {
        s3.put(BUCKET, &file_key(id, folder), b"");
    }
    put_files(s3, "paths-2", ["assets/b"]);
    for _ in 0..2 {
        let saved = save(&test_env.function, id).await;
        saved.assert_saved(s3, id, &document, &files);
        assert_eq!(s3.count(Copy), files.len(), "each file is copied once");
    }
}

#[tokio::test]
async fn a_path_that_cannot_be_copied_or_restored_is_a_500_that_names_it() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "long");
    // `saved-files/{id}/`, 32 digits, `/` and the path: 1,024 bytes.
    let room = 1024 - format!("saved-files/{id}/").len() - 33;
    let path = |bytes: usize| {
        let folders = "directory/".repeat(bytes / 10 - 2);
        let name = "n".repeat(bytes - folders.len());
        folders + &name
    };
    let document = put_document(s3, id);
    let files = put_files(s3, id, [&*path(room)]);
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert_eq!(s3.keys(BUCKET, "saved-files/")[0].len(), 1024);

    let too_long = path(room + 1);
    let error = format!("the key of the copy of \"{}", &too_long[..500]);
    for (path, error) in [
        (&*too_long, &*error),
        (
            "x\ndrafts/other/draft_content.json",
            r"x\ndrafts/other/draft_content.json",
        ),
    ] {
        put_files(s3, id, [path]);
        save(&test_env.function, id).await.assert_error(500, error);
        s3.delete(BUCKET, &file_key(id, path));
    }
    assert_eq!(versions(s3, BUCKET, id), [saved.version]);
}

#[tokio::test]
async fn an_object_that_is_not_a_copy_of_the_file_is_named_and_never_in_a_version() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function) = (&test_env.s3, &test_env.function);
    // The copies of few files are found one by one, those of many in a listing.
    for (id, count) in [("few", 1), ("many", 30)] {
        let document = put_document(s3, id);
        let paths: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        let files = put_files(s3, id, paths.iter().map(String::as_str));
        let file = s3.metadata(BUCKET, &file_key(id, "0"));
        let etag = file.expect("the file exists").etag;
        let copy = format!("saved-files/{id}/{etag}/0");
        s3.put(BUCKET, &copy, b"another size");
        save(function, id).await.assert_error(500, &copy);
        assert_eq!(versions(s3, BUCKET, id), [""; 0]);

        s3.delete(BUCKET, &copy);
        let saved = save(function, id).await;
        saved.assert_saved(s3, id, &document, &files);
    }
}

/// A change of a draft, by its id.
type Change = fn(&S3, &str);

#[tokio::test]
async fn a_draft_that_changes_while_it_is_saved_is_saved_in_one_state() {
    const CONTENT: &str = "draft_content.json";
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let s3 = &test_env.s3;
    let copy_of_a = || When::op(Copy).and(|request| request.key.ends_with("/a.mp4"));
    let list_drafts = || When::op(List).and(|request| request.query.contains("prefix=drafts"));
    let replace: Change = |s3, id| put(s3, id, "a.mp4");
    let delete: Change = |s3, id| s3.delete(BUCKET, &file_key(id, "a.mp4"));
    let edit: Change = |s3, id| put(s3, id, CONTENT);
    let edit_and_add: Change = |s3, id| {
        put(s3, id, CONTENT);
        put(s3, id, "c.mp4");
    };
    // The same bytes, so that only the time differs.
    let write_again: Change =
        |s3, id| s3.set_last_modified(BUCKET, &draft_key(id), SystemTime::UNIX_EPOCH + YEAR_2100);
    for (id, name, when, change, is_in_version) in [
        ("replaced", CONTENT, copy_of_a(), replace, true),
        ("deleted", CONTENT, copy_of_a(), delete, true),
        // The listing has shown the state before.
        ("copying", CONTENT, copy_of_a(), edit_and_add, false),
        ("edited", CONTENT, list_drafts(), edit, true),
        ("written-again", CONTENT, list_drafts(), write_again, true),
        ("appears", "draft_info.json", list_drafts(), edit, true),
    ] {
        let document = draft_of_size(3_000, 1);
        s3.put(BUCKET, &file_key(id, name), &document);
        let before = put_files(s3, id, ["a.mp4", "b.mp4"]);
        let id_of_change = id.to_owned();
        change_at(s3, when.once(), move |s3| change(s3, &id_of_change));
        let saved = save(&test_env.function, id).await;
        if is_in_version {
            let document = s3.get(BUCKET, &draft_key(id)).expect("a document");
            saved.assert_saved(s3, id, &document, &read_folder(s3, id));
        } else {
            saved.assert_saved(s3, id, &document, &before);
        }
        let is_later = saved.version.starts_with("2100");
        assert_eq!(is_later, id == "written-again", "{}", saved.version);
        // The old state of a file was not copied under any name.
        let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
        let (_, files) = read_version(s3, BUCKET, id, &saved.version);
        assert_eq!(copies.len(), files.len(), "{copies:?}");
        assert_eq!(versions(s3, BUCKET, id), [saved.version]);
    }
}

#[tokio::test]
async fn a_document_that_changes_all_the_time_is_a_503() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "edited");
    put_document(s3, id);
    let count = AtomicUsize::new(0);
    change_at(s3, When::op(List), move |s3| {
        let seed = count.fetch_add(1, SeqCst) as u64;
        s3.put(BUCKET, &draft_key(id), draft_of_size(4_000, seed));
    });
    let failed = save(&test_env.function, id).await;
    failed.assert_error(503, "the document changed");
    assert_eq!(operations(s3), [Get, List].repeat(5));
}
