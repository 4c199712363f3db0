//! `drafts download`: all of a version, or nothing.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use local::s3::{Fault, Op, S3, When};
use serde_json::json;
use tempfile::TempDir;
use test_support::fixtures::BUCKET;

use crate::common::contents::{Files, files, folder, plant, put_all, sample};
use crate::common::{
    ID, Run, command, copy_key, drafts, put, run, save, save_document, send, start, version_key,
};

/// A folder for downloads.
fn parent() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs a download in the folder `parent`.
async fn download(s3: &S3, parent: &Path, args: &[&str]) -> Run {
    let mut command = command(s3);
    run(command.arg("download").args(args).current_dir(parent)).await
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// The version of the sample draft.
async fn saved_sample() -> (S3, String) {
    let s3 = start().await;
    put_all(&s3, &sample());
    let version = save(&s3).await;
    (s3, version)
}

#[tokio::test]
async fn a_folder_has_all_files_with_their_times() {
    let (s3, version) = saved_sample().await;
    let parent = parent();
    let time = SystemTime::now() - Duration::from_mins(1);
    let args = [ID, "--to", "to/../my draft", "--json"];
    let failed = download(&s3, parent.path(), &args).await;
    assert_eq!(failed.status, 2, "there is no folder to/: {failed:?}");

    let args = [ID, "--to", "my draft", "--json"];
    let report = download(&s3, parent.path(), &args).await;
    let report = report.expect_status(0).json();
    let target = parent.path().canonicalize().expect("a folder");
    let target = target.join("my draft");
    let bytes: usize = sample().values().map(Vec::len).sum();
    assert_eq!(
        report,
        json!({
            "draft_id": ID, "version": version, "path": target.to_str(),
            "files": 8, "bytes": bytes, "hashes": 8,
        })
    );
    assert_eq!(folder(&target), sample());
    assert_eq!(names(parent.path()), ["my draft"]);
    for path in ["draft_content.json", "assets/empty"] {
        let modified = fs::metadata(target.join(path)).expect("a file").modified();
        assert!(modified.expect("a time") > time, "{path}");
    }

    // A second download does not touch it. An empty folder is as good as none.
    let again = download(&s3, parent.path(), &[ID, "--to", "my draft"]).await;
    again.expect_error(2, "my draft exists");
    assert_eq!(folder(&target), sample());
    fs::create_dir(parent.path().join("empty")).expect("a folder");
    let run = download(&s3, parent.path(), &[ID, &version[..20], "--to", "empty/"]).await;
    let expected = format!("downloaded 8 files (97.72 KiB) of version {version} to ");
    run.expect_output(&expected);
    assert_eq!(folder(&parent.path().join("empty")), sample());
}

#[tokio::test]
async fn documents_of_all_kinds_come_back_byte_for_byte() {
    let encrypted = "QUJD".repeat(300);
    for (name, document, file) in [
        (
            "draft_content.json",
            b"\xef\xbb\xbf{\"a\": NaN}".as_slice(),
            None,
        ),
        ("draft_content.json", encrypted.as_bytes(), None),
        ("draft_info.json", b"{}", Some(("a", b"b".as_slice()))),
    ] {
        let s3 = start().await;
        let file = file.as_slice();
        plant(&s3, "20250928T114730Z", (name, document), file);
        let parent = parent();
        let run = download(&s3, parent.path(), &[ID, "--to", "draft"]).await;
        run.expect_status(0);
        let expected = files(&[&[(name, document)], file].concat());
        assert_eq!(folder(&parent.path().join("draft")), expected);
    }
}

#[tokio::test]
async fn relink_adapts_the_paths_of_the_versions_files_in_the_documents() {
    let s3 = start().await;
    let document = format!(
        r#"{{"materials":{{"videos":[{{"path":"/app/output/draft/{ID}/assets/x.mp4"}},
        {{"path":"C:\\drafts\\{ID}\\assets\\x.mp4"}},{{"path":"/app/output/draft/{ID}/assets/y.mp4"}}]}}}}"#
    );
    put(&s3, "draft_content.json", &document);
    put(&s3, "draft_info.json", &document);
    put(&s3, "assets/x.mp4", b"x");
    save(&s3).await;
    let parent = parent();
    let args = [ID, "--to", "draft", "--relink", "--json"];
    let report = download(&s3, parent.path(), &args).await;
    let relinked = json!({"draft_content.json": 2, "draft_info.json": 2});
    assert_eq!(report.expect_status(0).json()["relinked"], relinked);
    let target = parent.path().canonicalize().expect("a folder");
    let target = target.join("draft");
    let path = target.join("assets/x.mp4");
    let path = path.to_str().expect("UTF-8");
    let expected = document
        .replace(&format!("/app/output/draft/{ID}/assets/x.mp4"), path)
        .replace(&format!(r"C:\\drafts\\{ID}\\assets\\x.mp4"), path);
    for name in ["draft_content.json", "draft_info.json"] {
        let text = fs::read_to_string(target.join(name)).expect("a document");
        assert_eq!(text, expected, "{name}");
    }
}

#[tokio::test]
async fn relink_of_an_encrypted_document_is_refused() {
    let s3 = start().await;
    put(&s3, "draft_content.json", "QUJD".repeat(300));
    save_document(&s3).await;
    let parent = parent();
    let run = download(&s3, parent.path(), &[ID, "--to", "draft", "--relink"]).await;
    run.expect_error(2, "it is encrypted");
    assert_eq!(names(parent.path()), [""; 0]);
}

#[tokio::test]
async fn a_zip_has_the_files_of_the_folder() {
    let (s3, _) = saved_sample().await;
    let parent = parent();
    let large = vec![9; 3 << 20];
    put(&s3, "assets/large.mp4", &large);
    save(&s3).await;
    let run = download(&s3, parent.path(), &[ID, "--zip", "draft.zip"]).await;
    run.expect_status(0);
    assert_eq!(names(parent.path()), ["draft.zip"]);
    let file = fs::File::open(parent.path().join("draft.zip")).expect("a zip");
    let mut zip = zip::ZipArchive::new(file).expect("a zip");
    let mut unzipped = Files::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).expect("an entry");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("it is readable");
        let name = entry.name().expect("a name in UTF-8").into_owned();
        unzipped.insert(name, bytes);
    }
    let mut expected = sample();
    expected.insert("assets/large.mp4".to_owned(), large);
    assert!(unzipped == expected, "{:?}", unzipped.keys());

    let again = download(&s3, parent.path(), &[ID, "--zip", "draft.zip"]).await;
    again.expect_status(2);
    assert_eq!(names(parent.path()), ["draft.zip"]);
}

#[tokio::test]
async fn a_wrong_or_missing_file_is_named_and_nothing_is_created() {
    let (s3, version) = saved_sample().await;
    let copy = copy_key(&s3, "Timelines/project.json");
    let keys = ["draft_content.json", "files.json"].map(|name| version_key(&version, name));
    let [document, manifest] = &keys;
    let text = s3.get(BUCKET, manifest).expect("a manifest");
    let text = String::from_utf8(text).expect("UTF-8");
    let renamed = text.replacen("Timelines/project.json", "Timelines/projecT.json", 2);
    let other = br#"{"duration":5000001}"#;
    let file = "Timelines/project.json";
    let not_saved = "is not what was saved";
    for (key, bytes, problem, name) in [
        (&copy, None, "is missing", file),
        (&copy, Some(b"{ }".as_slice()), "3 bytes", file),
        (&copy, Some(b"[]"), "its MD5", file),
        (document, Some(other), not_saved, ""),
        (manifest, None, not_saved, ""),
        (manifest, Some(renamed.as_bytes()), not_saved, ""),
        (manifest, Some(b"{}"), "is not a manifest", manifest),
    ] {
        let before = s3.get(BUCKET, key).expect("the object exists");
        match bytes {
            Some(bytes) => drop(s3.put(BUCKET, key, bytes)),
            None => s3.delete(BUCKET, key),
        }
        for target in [["--to", "draft"], ["--zip", "draft.zip"]] {
            let parent = parent();
            let args = [&[ID], &target[..]].concat();
            let run = download(&s3, parent.path(), &args).await;
            run.expect_error(1, problem).expect_error(1, name);
            assert_eq!(names(parent.path()), [""; 0], "{key}: {problem}");
        }
        s3.put(BUCKET, key, before);
    }
}

#[tokio::test]
async fn no_path_in_a_manifest_leads_out_of_the_target() {
    let (to, zip) = (["--to", "draft"], ["--zip", "draft.zip"]);
    let twice = "draft_content.json";
    for (path, target, problem) in [
        ("../evil", to, "a part . or .."),
        ("../evil", zip, "a part . or .."),
        ("/tmp/evil", to, "an empty part"),
        ("/tmp/evil", zip, "an empty part"),
        ("a\0b", to, "a NUL character"),
        ("..\\evil", zip, "a backslash or a drive letter"),
        ("C:\\evil", zip, "a backslash or a drive letter"),
        ("draft_content.json", to, twice),
        ("draft_content.json", zip, twice),
        // A zip can have both.
        ("draft_content.json/a", to, twice),
    ] {
        let s3 = start().await;
        let document = ("draft_content.json", b"{}".as_slice());
        plant(&s3, "20250928T114730Z", document, &[(path, b"evil")]);
        let parent = parent();
        let run = download(&s3, parent.path(), &[&[ID], &target[..]].concat()).await;
        run.expect_error(1, problem);
        assert_eq!(names(parent.path()), [""; 0], "{path:?}");
    }
}

#[tokio::test]
async fn an_interrupted_download_leaves_nothing_at_the_target() {
    let (s3, _) = saved_sample().await;
    for (target, signal) in [
        (["--to", "draft"], "INT"),
        (["--to", "draft"], "TERM"),
        (["--to", "draft"], "HUP"),
        (["--zip", "draft.zip"], "INT"),
        (["--to", "draft"], "KILL"),
    ] {
        let parent = parent();
        let get = When::op(Op::GetObject).key_starts_with("saved-files/");
        let fault = s3.fault(get.after(2), Fault::StallBody(1));
        let mut command = command(&s3);
        command.args(["download", ID]).args(target);
        command.current_dir(parent.path());
        let mut child = command.spawn().expect("drafts starts");
        fault.wait_for_hits(1).await;
        send(&child, signal).await;
        let status = child.wait().await.expect("it ends");
        fault.clear();
        if signal == "KILL" {
            assert!(!parent.path().join("draft").exists());
            let left = names(parent.path());
            let mut others = left.iter().filter(|name| !name.starts_with(".drafts-"));
            assert_eq!(others.next(), None, "{left:?}");
        } else {
            assert_eq!(status.code(), Some(2), "{signal}");
            assert_eq!(names(parent.path()), [""; 0], "{target:?} {signal}");
        }
        s3.clear_faults();
    }
}

#[tokio::test]
async fn a_download_survives_broken_transfers_and_ends_without_a_target_if_a_request_is_refused() {
    let (s3, _) = saved_sample().await;
    let gets = || When::op(Op::GetObject).key_starts_with("saved-files/");
    for fault in [
        Fault::CutBody(10_000),
        Fault::ShortBody(10),
        Fault::Cut,
        Fault::SLOW_DOWN,
    ] {
        let parent = parent();
        s3.fault(gets().once(), fault);
        let run = download(&s3, parent.path(), &[ID, "--to", "draft"]).await;
        run.expect_status(0);
        assert_eq!(folder(&parent.path().join("draft")), sample());
        s3.clear_faults();
    }
    s3.clear_requests();
    let parent = parent();
    let args = [ID, "--to", "draft"];
    download(&s3, parent.path(), &args).await.expect_status(0);
    fs::remove_dir_all(parent.path().join("draft")).expect("it is removed");
    let requests = s3.requests().len();
    // A listing, the manifest, the document and 7 files.
    assert_eq!(requests, 10);
    for number in 0..requests {
        s3.fault(When::any().after(number).once(), Fault::ACCESS_DENIED);
        let run = download(&s3, parent.path(), &args).await;
        run.expect_error(2, "access denied");
        assert_eq!(names(parent.path()), [""; 0], "{number}");
        s3.clear_faults();
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_created_is_named_before_anything_is_read() {
    let (s3, _) = saved_sample().await;
    s3.clear_requests();
    let run = drafts(&s3, &["download", ID, "--to", "/no-such-folder/draft"]).await;
    run.expect_error(2, "/no-such-folder");
    assert_eq!(s3.requests().len(), 0);
}
