//! `drafts verify` finds each kind of damage.

use local::s3::{Fault, Op, S3, When};
use serde_json::Value;
use test_support::fixtures::BUCKET;

use crate::common::{ID, copy_key, drafts, put, save, save_document, start, version_key};

/// A draft with two versions; the second has another document, another file and the cover of the first.
async fn two_versions() -> (S3, [String; 2]) {
    let s3 = start().await;
    put(&s3, "assets/a.mp4", vec![1; 100_000]);
    put(&s3, "cover.png", b"cover");
    put(&s3, "draft_content.json", br#"{"duration":1}"#);
    let old = save(&s3).await;
    put(&s3, "assets/b c.mp4", b"other");
    s3.delete(BUCKET, &format!("drafts/{ID}/assets/a.mp4"));
    put(&s3, "draft_content.json", br#"{"duration":2}"#);
    let new = save(&s3).await;
    (s3, [old, new])
}

/// Verifies all versions, and returns the problems: kinds and keys.
async fn problems(s3: &S3, args: &[&str]) -> Vec<(String, String)> {
    let args = [&["verify", "--json"], args].concat();
    let run = drafts(s3, &args).await;
    let report = run.json();
    let problems = report["problems"].as_array().expect("a list");
    assert_eq!(run.status, i32::from(!problems.is_empty()), "{run:?}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let problems = problems.iter();
    problems
        .map(|problem| (text(&problem["kind"]), text(&problem["key"])))
        .collect()
}

/// Changes an object without its headers.
fn overwrite(s3: &S3, key: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let bytes = s3.get(BUCKET, key).expect("the object exists");
    s3.put(BUCKET, key, change(bytes));
}

fn flip_a_byte(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

#[tokio::test]
async fn unchanged_versions_have_no_problems() {
    let (s3, _) = two_versions().await;
    let run = drafts(&s3, &["verify"]).await.expect_status(0);
    let expected = "1 draft, 2 versions, 3 files (97.67 KiB): no problems\n";
    assert_eq!(run.stdout, expected);
    let run = drafts(&s3, &["verify", ID, "--read", "100"])
        .await
        .expect_status(0);
    let expected =
        "1 draft, 2 versions, 3 files (97.67 KiB); read 3 files (97.67 KiB): no problems\n";
    assert_eq!(run.stdout, expected);
}

#[tokio::test]
async fn finds_a_changed_byte_in_a_document() {
    let (s3, [old, _]) = two_versions().await;
    let key = version_key(&old, "draft_content.json");
    overwrite(&s3, &key, flip_a_byte);
    assert_eq!(problems(&s3, &[]).await, [("document".to_owned(), key)]);
}

#[tokio::test]
async fn finds_a_changed_byte_in_the_document_of_a_version_without_files() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    let version = save_document(&s3).await;
    assert_eq!(problems(&s3, &[]).await, []);
    let key = version_key(&version, "draft_content.json");
    s3.put(BUCKET, &key, b"[]");
    assert_eq!(problems(&s3, &[]).await, [("document".to_owned(), key)]);
}

#[tokio::test]
async fn finds_a_changed_manifest() {
    for (old_text, new_text) in [
        // Another path, another file, another size, another time, another key, another draft.
        ("assets/a.mp4\"", "assets/c.mp4\""),
        ("\"etag\": \"", "\"etag\": \"0"),
        ("\"size\": 100000", "\"size\": 100001"),
        ("\"last_modified\": \"2", "\"last_modified\": \"3"),
        ("\"key\": \"saved-files/", "\"key\": \"saved-files/x/"),
        (ID, "another"),
        ("}", ""),
    ] {
        let (s3, [old, _]) = two_versions().await;
        let key = version_key(&old, "files.json");
        overwrite(&s3, &key, |bytes| {
            let text = String::from_utf8(bytes).expect("UTF-8");
            assert!(text.contains(old_text), "{text}");
            text.replacen(old_text, new_text, 1).into_bytes()
        });
        let problems = problems(&s3, &[]).await;
        let is_size = new_text.contains("size");
        let expected = if is_size {
            ("copy_size".to_owned(), copy_key(&s3, "assets/a.mp4"))
        } else {
            ("manifest".to_owned(), key)
        };
        assert!(problems.contains(&expected), "{new_text}: {problems:?}");
    }
}

#[tokio::test]
async fn finds_a_planted_and_a_removed_manifest() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    let version = save(&s3).await;
    assert_eq!(problems(&s3, &[]).await, []);
    let key = version_key(&version, "files.json");
    s3.put(BUCKET, &key, format!(r#"{{"draft_id":"{ID}","files":[]}}"#));
    assert_eq!(problems(&s3, &[]).await, [("manifest".to_owned(), key)]);

    let (s3, [old, _]) = two_versions().await;
    let key = version_key(&old, "files.json");
    s3.delete(BUCKET, &key);
    assert_eq!(problems(&s3, &[]).await, [("manifest".to_owned(), key)]);
}

#[tokio::test]
async fn finds_a_missing_copy_once_for_all_its_versions() {
    let (s3, _) = two_versions().await;
    let key = copy_key(&s3, "cover.png");
    s3.delete(BUCKET, &key);
    let run = drafts(&s3, &["verify"]).await.expect_status(1);
    assert!(
        run.stdout
            .contains(&format!("{key}: missing (2 versions)\n")),
        "{run:?}"
    );
    assert!(run.stdout.contains(": 1 problem\n"), "{run:?}");
    assert_eq!(problems(&s3, &[]).await, [("missing_copy".to_owned(), key)]);
}

#[tokio::test]
async fn finds_a_copy_of_another_size() {
    let (s3, _) = two_versions().await;
    let key = copy_key(&s3, "assets/b c.mp4");
    s3.put(BUCKET, &key, b"four");
    assert_eq!(problems(&s3, &[]).await, [("copy_size".to_owned(), key)]);
}

#[tokio::test]
async fn finds_a_changed_byte_in_a_file_when_it_reads_it() {
    let (s3, _) = two_versions().await;
    let key = copy_key(&s3, "assets/a.mp4");
    overwrite(&s3, &key, flip_a_byte);
    assert_eq!(problems(&s3, &[]).await, []);
    assert_eq!(
        problems(&s3, &["--read", "100"]).await,
        [("copy_bytes".to_owned(), key)]
    );
}

#[tokio::test]
async fn reads_about_the_given_part_of_the_files() {
    let s3 = start().await;
    for file in 0..200 {
        put(&s3, format!("assets/{file}"), file.to_string());
    }
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    let run = drafts(&s3, &["verify", "--read", "50", "--json"])
        .await
        .expect_status(0);
    let read = run.json()["files_read"].as_u64().expect("a number");
    assert!(
        (50..150).contains(&read),
        "expected about 100 files, got {read}"
    );
}

#[tokio::test]
async fn a_manifest_without_a_document_is_no_version() {
    let (s3, [_, new]) = two_versions().await;
    s3.delete(BUCKET, &version_key(&new, "draft_content.json"));
    let run = drafts(&s3, &["verify"]).await.expect_status(0);
    assert!(run.stdout.contains("1 version,"), "{run:?}");
    assert!(run.stdout.contains("1 object of no version"), "{run:?}");
}

#[tokio::test]
async fn versions_that_are_not_there_are_not_verified() {
    let s3 = start().await;
    let run = drafts(&s3, &["verify"]).await.expect_status(2);
    assert!(
        run.stderr
            .contains("there are no versions in s3://drafts/saved/"),
        "{run:?}"
    );
    let run = drafts(&s3, &["verify", "abc"]).await.expect_status(2);
    assert!(run.stderr.contains("s3://drafts/saved/abc/"), "{run:?}");
}

#[tokio::test]
async fn goes_on_when_a_transfer_stops() {
    let (s3, _) = two_versions().await;
    let cut = s3.fault(
        When::op(Op::GetObject)
            .key_starts_with("saved-files/")
            .times(2),
        Fault::CutBody(50_000),
    );
    let run = drafts(&s3, &["verify", "--read", "100"])
        .await
        .expect_status(0);
    assert!(
        run.stdout.contains("read 3 files (97.67 KiB): no problems"),
        "{run:?}"
    );
    assert_eq!(cut.hits(), 2);
}

#[tokio::test]
async fn bytes_that_do_not_have_the_checksum_of_the_store_are_a_problem() {
    let (s3, [old, _]) = two_versions().await;
    let key = version_key(&old, "draft_content.json");
    s3.fault(
        When::op(Op::GetObject).key_starts_with(&key),
        Fault::CorruptBody,
    );
    let run = drafts(&s3, &["verify"]).await.expect_status(1);
    assert!(run.stdout.contains(&key), "{run:?}");
}
