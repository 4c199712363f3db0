//! `drafts verify` finds each kind of damage.

use std::sync::Arc;
use std::time::Duration;

use local::s3::{Fault, Op, RecordedRequest, S3, When};
use serde_json::Value;
use test_support::fixtures::BUCKET;
use tokio::time::timeout;

use crate::common::contents::plant;
use crate::common::{
    ID, copy_key, delete, drafts, drafts_json, put, save, save_document, start, version_key,
};

const MINUTE: Duration = Duration::from_mins(1);

/// A draft with two versions; the second has another document, another file and the cover of the first.
async fn two_versions() -> (S3, [String; 2]) {
    let s3 = start().await;
    put(&s3, "assets/a.mp4", vec![1; 100_000]);
    put(&s3, "cover.png", b"cover");
    put(&s3, "draft_content.json", br#"{"duration":1}"#);
    let old = save(&s3).await;
    put(&s3, "assets/b c.mp4", b"other");
    delete(&s3, "assets/a.mp4");
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

#[tokio::test]
async fn unchanged_versions_have_no_problems() {
    let (s3, _) = two_versions().await;
    let run = drafts(&s3, &["verify"]).await.expect_status(0);
    let expected = "1 draft, 2 versions, 3 files (97.67 KiB): no problems\n";
    assert_eq!(run.stdout, expected);
    let run = drafts(&s3, &["verify", ID, "--read", "100"]).await;
    let expected =
        "1 draft, 2 versions, 3 files (97.67 KiB); read 3 files (97.67 KiB): no problems\n";
    assert_eq!(run.expect_status(0).stdout, expected);
}

#[tokio::test]
async fn more_manifests_than_fit_into_the_memory_at_once_do_not_block_it() {
    let s3 = start().await;
    for number in 0..40 {
        let time = format!("20250928T1148{number:02}Z");
        let file = ("a.mp4", &[number][..]);
        let version = plant(&s3, &time, ("draft_content.json", b"{}"), &[file]);
        let key = version_key(&version, "files.json");
        let mut manifest = s3.get(BUCKET, &key).expect("it exists");
        manifest.resize(1 << 20, b' ');
        s3.put(BUCKET, &key, manifest);
    }
    for key in s3.keys(BUCKET, "saved") {
        let bytes = s3.get(BUCKET, &key).expect("it exists");
        let text = String::from_utf8(bytes)
            .expect("UTF-8")
            .replace(ID, "other");
        s3.put(BUCKET, &key.replace(ID, "other"), text);
    }
    let run = timeout(MINUTE, drafts(&s3, &["verify", "--read", "100"])).await;
    let run = run.expect("it ends").expect_status(0);
    let expected = "2 drafts, 80 versions, 80 files (80 B); read 80 files (80 B): no problems\n";
    assert_eq!(run.stdout, expected);
}

#[tokio::test]
async fn finds_a_wrong_or_missing_object() {
    let (s3, [old, _]) = two_versions().await;
    let keys = ["draft_content.json", "files.json"].map(|name| version_key(&old, name));
    let [document, manifest] = &keys;
    let copies = ["cover.png", "assets/b c.mp4", "assets/a.mp4"].map(|path| copy_key(&s3, path));
    let [cover, other, video] = &copies;
    let with_another_bit = |key: &str| {
        let mut bytes = s3.get(BUCKET, key).expect("the object exists");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Some(bytes)
    };
    for (key, replacement, kind) in [
        (manifest, None, "manifest"),
        (cover, None, "missing_copy"),
        (other, Some(b"four".to_vec()), "copy_size"),
        (video, with_another_bit(video), "copy_bytes"),
        // The last, as its metadata does not come back.
        (document, with_another_bit(document), "document"),
    ] {
        let before = s3.get(BUCKET, key).expect("the object exists");
        match replacement {
            Some(bytes) => drop(s3.put(BUCKET, key, bytes)),
            None => s3.delete(BUCKET, key),
        }
        let expected = [(kind.to_owned(), key.clone())];
        if kind == "copy_bytes" {
            assert_eq!(problems(&s3, &[]).await, [], "nothing is read");
            assert_eq!(problems(&s3, &["--read", "100"]).await, expected);
        } else {
            assert_eq!(problems(&s3, &[]).await, expected);
        }
        if kind == "missing_copy" {
            let run = drafts(&s3, &["verify"]).await.expect_status(1);
            let expected = format!("{key}: missing (2 versions)\n");
            assert!(run.stdout.contains(&expected), "{run:?}");
            assert!(run.stdout.contains(": 1 problem\n"), "{run:?}");
        }
        s3.put(BUCKET, key, before);
    }
}

#[tokio::test]
async fn finds_a_changed_document_and_a_planted_manifest_of_a_version_without_files() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    let version = save_document(&s3).await;
    assert_eq!(problems(&s3, &[]).await, []);
    let manifest = version_key(&version, "files.json");
    let text = format!(r#"{{"draft_id":"{ID}","files":[]}}"#);
    s3.put(BUCKET, &manifest, text);
    let expected = [("manifest".to_owned(), manifest.clone())];
    assert_eq!(problems(&s3, &[]).await, expected);
    s3.delete(BUCKET, &manifest);
    let document = version_key(&version, "draft_content.json");
    s3.put(BUCKET, &document, b"[]");
    let expected = [("document".to_owned(), document)];
    assert_eq!(problems(&s3, &[]).await, expected);
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
        let text = s3.get(BUCKET, &key).expect("a manifest");
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(text.contains(old_text), "{text}");
        s3.put(BUCKET, &key, text.replacen(old_text, new_text, 1));
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
async fn reads_about_the_given_part_of_the_files() {
    let s3 = start().await;
    for file in 0..200 {
        put(&s3, format!("assets/{file}"), file.to_string());
    }
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    let report = drafts_json(&s3, &["verify", "--read", "50"]).await;
    let read = report["files_read"].as_u64().expect("a number");
    assert!(
        (50..150).contains(&read),
        "expected about 100 files, got {read}"
    );
}

#[tokio::test]
async fn a_manifest_without_a_document_is_no_version() {
    let (s3, [_, new]) = two_versions().await;
    s3.delete(BUCKET, &version_key(&new, "draft_content.json"));
    let run = drafts(&s3, &["verify"]).await;
    run.expect_output("1 version,")
        .expect_output("1 object of no version");
}

#[tokio::test]
async fn versions_that_are_not_there_are_not_verified() {
    let s3 = start().await;
    let run = drafts(&s3, &["verify"]).await;
    run.expect_error(2, "there are no versions in s3://drafts/saved/");
    let run = drafts(&s3, &["verify", "abc"]).await;
    run.expect_error(2, "s3://drafts/saved/abc/");
    let (s3, _) = self::two_versions().await;
    let run = drafts(&s3, &["verify", ID, "abc", ID]).await;
    assert!(run.stdout.starts_with("1 draft, 2 versions"), "{run:?}");
    run.expect_error(2, "s3://drafts/saved/abc/");
}

#[tokio::test]
async fn goes_on_when_a_transfer_stops() {
    let (s3, _) = two_versions().await;
    let gets = When::op(Op::GetObject).key_starts_with("saved-files/");
    let cut = s3.fault(gets.times(2), Fault::CutBody(50_000));
    let run = drafts(&s3, &["verify", "--read", "100"]).await;
    run.expect_output("read 3 files (97.67 KiB): no problems");
    assert_eq!(cut.hits(), 2);
}

#[tokio::test]
async fn bytes_that_do_not_have_the_checksum_of_the_store_are_a_problem() {
    let (s3, [old, _]) = two_versions().await;
    let key = version_key(&old, "draft_content.json");
    let get = When::op(Op::GetObject).key_starts_with(&key);
    s3.fault(get, Fault::CorruptBody);
    let run = drafts(&s3, &["verify"]).await.expect_status(1);
    assert!(run.stdout.contains(&key), "{run:?}");
}

#[tokio::test]
async fn a_version_that_is_pruned_meanwhile_is_no_problem() {
    let (s3, [old, _]) = two_versions().await;
    let s3 = Arc::new(s3);
    let keys = ["draft_content.json", "files.json"].map(|name| version_key(&old, name));
    let copy = copy_key(&s3, "assets/a.mp4");
    let get = When::op(Op::GetObject).key_starts_with(&keys[0]).once();
    let server = Arc::downgrade(&s3);
    let prune = move |_: &RecordedRequest| {
        let s3 = server.upgrade().expect("the server runs");
        for key in keys.iter().chain([&copy]) {
            s3.delete(BUCKET, key);
        }
    };
    s3.fault(get, Fault::Run(Arc::new(prune)));
    let run = drafts(&s3, &["verify", ID]).await;
    run.expect_output("1 draft, 1 version, 2 files");
}
