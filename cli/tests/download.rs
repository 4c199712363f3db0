//! `drafts download`: all of a version, or nothing.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use local::s3::{Fault, Op, S3, When};
use serde_json::json;
use tempfile::TempDir;
use test_support::fixtures::{BUCKET, long_tests};
use test_support::runtime::memory_kib;
use tokio::process::{Child, Command};

use crate::common::contents::{Files, files, folder, plant, put_all, sample};
use crate::common::{
    ID, Run, command, copy_key, drafts, put, run, save, save_document, start, version_key,
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
    put_all(&s3, ID, &sample());
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
    let target = parent
        .path()
        .canonicalize()
        .expect("a folder")
        .join("my draft");
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
    assert_eq!(again.status, 2);
    assert!(again.stderr.contains("my draft exists"), "{again:?}");
    assert_eq!(folder(&target), sample());
    fs::create_dir(parent.path().join("empty")).expect("a folder");
    let run = download(&s3, parent.path(), &[ID, &version[..20], "--to", "empty/"]).await;
    let expected = format!("downloaded 8 files (97.72 KiB) of version {version} to ");
    assert!(run.stdout.starts_with(&expected), "{run:?}");
    assert_eq!(folder(&parent.path().join("empty")), sample());
}

#[tokio::test]
async fn documents_of_all_kinds_come_back_byte_for_byte() {
    let encrypted = "QUJD".repeat(300);
    for document in [b"\xef\xbb\xbf{\"a\": NaN}".as_slice(), encrypted.as_bytes()] {
        let s3 = start().await;
        put(&s3, "draft_content.json", document);
        save_document(&s3).await;
        let parent = parent();
        let run = download(&s3, parent.path(), &[ID, "--to", "draft"]).await;
        run.expect_status(0);
        let expected = files(&[("draft_content.json", document)]);
        assert_eq!(folder(&parent.path().join("draft")), expected);
    }
    let s3 = start().await;
    let document = ("draft_info.json", b"{}".as_slice());
    plant(&s3, "20250928T114730Z", document, &[("a", b"b")]);
    let parent = parent();
    let run = download(&s3, parent.path(), &[ID, "--to", "draft"]).await;
    run.expect_status(0);
    let expected = files(&[document, ("a", b"b")]);
    assert_eq!(folder(&parent.path().join("draft")), expected);
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
    let report = download(&s3, parent.path(), &args)
        .await
        .expect_status(0)
        .json();
    assert_eq!(
        report["relinked"],
        json!({"draft_content.json": 2, "draft_info.json": 2})
    );
    let target = parent
        .path()
        .canonicalize()
        .expect("a folder")
        .join("draft");
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
    assert_eq!(run.status, 2);
    assert!(run.stderr.contains("it is encrypted"), "{run:?}");
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
    assert_eq!(again.status, 2, "{again:?}");
    assert_eq!(names(parent.path()), ["draft.zip"]);
}

#[tokio::test]
async fn a_wrong_or_missing_file_is_named_and_nothing_is_created() {
    type Damage = fn(&S3, &str) -> String;
    let damages: [(Damage, &str); 7] = [
        (
            |s3, _| replace(s3, &copy_key(s3, "Timelines/project.json"), None),
            "is missing",
        ),
        (
            |s3, _| replace(s3, &copy_key(s3, "Timelines/project.json"), Some(b"{ }")),
            "3 bytes",
        ),
        (
            |s3, _| replace(s3, &copy_key(s3, "Timelines/project.json"), Some(b"[]")),
            "its MD5",
        ),
        (
            |s3, version| {
                let key = version_key(version, "draft_content.json");
                replace(s3, &key, Some(br#"{"duration":5000001}"#))
            },
            "is not what was saved",
        ),
        (
            |s3, version| replace(s3, &version_key(version, "files.json"), None),
            "is not what was saved",
        ),
        (
            |s3, version| {
                let key = version_key(version, "files.json");
                let manifest = s3.get(BUCKET, &key).expect("a manifest");
                let manifest = String::from_utf8(manifest).expect("UTF-8");
                let changed =
                    manifest.replacen("Timelines/project.json", "Timelines/projecT.json", 2);
                replace(s3, &key, Some(changed.as_bytes()))
            },
            "is not what was saved",
        ),
        (
            |s3, version| replace(s3, &version_key(version, "files.json"), Some(b"{}")),
            "is not a manifest",
        ),
    ];
    for (number, (damage, problem)) in damages.into_iter().enumerate() {
        for target in [["--to", "draft"], ["--zip", "draft.zip"]] {
            let (s3, version) = saved_sample().await;
            let key = damage(&s3, &version);
            let parent = parent();
            let args = [&[ID], &target[..]].concat();
            let run = download(&s3, parent.path(), &args).await;
            assert_eq!(run.status, 1, "{number}: {run:?}");
            assert!(run.stderr.contains(problem), "{number}: {run:?}");
            let name = if key.contains("saved-files") {
                "Timelines/project.json"
            } else {
                &key
            };
            let is_named = run.stderr.contains(name) || problem.starts_with("is not what");
            assert!(is_named, "{number}: {run:?}");
            assert_eq!(names(parent.path()), [""; 0], "{number}");
        }
    }
}

/// Replaces or deletes an object; returns its key.
fn replace(s3: &S3, key: &str, bytes: Option<&[u8]>) -> String {
    match bytes {
        Some(bytes) => drop(s3.put(BUCKET, key, bytes)),
        None => s3.delete(BUCKET, key),
    }
    key.to_owned()
}

#[tokio::test]
async fn no_path_in_a_manifest_leads_out_of_the_target() {
    for path in [
        "../evil",
        "a/../../evil",
        "/tmp/evil",
        "a//b",
        "./a",
        "a/.",
        "..",
        "a/",
        "a\0b",
        "draft_content.json",
        "draft_content.json/a",
    ] {
        for (number, target) in [["--to", "draft"], ["--zip", "draft.zip"]]
            .into_iter()
            .enumerate()
        {
            let s3 = start().await;
            let document = ("draft_content.json", b"{}".as_slice());
            let hostile = [("a.txt", b"a".as_slice()), (path, b"evil")];
            // The key of such a copy may be none that the server can store.
            if path.starts_with(['/', '.'])
                || path.contains(['\0'])
                || path.contains("/.")
                || path.contains("//")
                || path.ends_with('/')
            {
                plant_manifest(&s3, path);
            } else {
                plant(&s3, "20250928T114730Z", document, &hostile);
            }
            let parent = parent();
            let run = download(&s3, parent.path(), &[&[ID], &target[..]].concat()).await;
            if path == "draft_content.json/a" && number == 1 {
                // A zip can have both.
                continue;
            }
            assert_eq!(run.status, 1, "{path:?}: {run:?}");
            assert_eq!(names(parent.path()), [""; 0], "{path:?}");
        }
    }
    for path in ["..\\evil", "C:\\evil", "c:evil"] {
        let s3 = start().await;
        plant_manifest(&s3, path);
        let parent = parent();
        let run = download(&s3, parent.path(), &[ID, "--zip", "draft.zip"]).await;
        assert_eq!(run.status, 1, "{path:?}: {run:?}");
        assert!(
            run.stderr.contains("backslash or a drive letter"),
            "{run:?}"
        );
    }
}

/// Creates a version with a file at `path`, whose copy does not exist.
fn plant_manifest(s3: &S3, path: &str) {
    let document = ("draft_content.json", b"{}".as_slice());
    let version = plant(s3, "20250928T114730Z", document, &[]);
    let digest = test_support::fixtures::sha256_hex(b"{}");
    let etag = "0cc175b9c0f1b6a831c399e269772661";
    let state = serde_json::to_vec(&json!([digest, [[path, etag]]])).expect("valid JSON");
    let digest = test_support::fixtures::sha256_hex(&state);
    s3.delete(BUCKET, &version_key(&version, "draft_content.json"));
    let version = format!("20250928T114730Z-{digest}");
    let key = format!("saved-files/{ID}/{etag}/{path}");
    let file = json!({"path": path, "size": 1, "etag": etag, "last_modified": "2025-09-28T11:47:30Z", "key": key});
    let manifest = json!({"draft_id": ID, "files": [file]}).to_string();
    s3.put(BUCKET, &version_key(&version, "files.json"), manifest);
    s3.put(BUCKET, &version_key(&version, document.0), document.1);
}

#[tokio::test]
async fn an_interrupted_download_leaves_nothing_at_the_target() {
    let (s3, _) = saved_sample().await;
    for (target, signal) in [
        (["--to", "draft"], "INT"),
        (["--to", "draft"], "TERM"),
        (["--zip", "draft.zip"], "INT"),
        (["--to", "draft"], "KILL"),
    ] {
        let parent = parent();
        let get = When::op(Op::GetObject)
            .key_starts_with("saved-files/")
            .after(2);
        let fault = s3.fault(get, Fault::StallBody(1));
        let mut command = command(&s3);
        command
            .args(["download", ID])
            .args(target)
            .current_dir(parent.path());
        let mut child = command.spawn().expect("drafts starts");
        fault.wait_for_hits(1).await;
        send(&child, signal).await;
        let status = child.wait().await.expect("it ends");
        fault.clear();
        if signal == "KILL" {
            assert!(!parent.path().join("draft").exists());
            let left = names(parent.path());
            assert!(
                left.iter().all(|name| name.starts_with(".draft.")),
                "{left:?}"
            );
        } else {
            assert_eq!(status.code(), Some(2), "{signal}");
            assert_eq!(names(parent.path()), [""; 0], "{target:?} {signal}");
        }
        s3.clear_faults();
    }
}

/// Sends a signal to a process.
async fn send(child: &Child, signal: &str) {
    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill")
        .args(["-s", signal, &pid])
        .status()
        .await;
    assert!(sent.expect("kill runs").success());
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
    assert_eq!(
        requests, 10,
        "a listing, the manifest, the document and 7 files"
    );
    for number in 0..requests {
        s3.fault(When::any().after(number).once(), Fault::ACCESS_DENIED);
        let run = download(&s3, parent.path(), &args).await;
        assert_eq!(run.status, 2, "{number}: {run:?}");
        assert!(run.stderr.contains("access denied"), "{run:?}");
        assert_eq!(names(parent.path()), [""; 0], "{number}");
        s3.clear_faults();
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_created_is_named_before_anything_is_read() {
    let (s3, _) = saved_sample().await;
    s3.clear_requests();
    let run = drafts(&s3, &["download", ID, "--to", "/no-such-folder/draft"]).await;
    assert_eq!(run.status, 2);
    assert!(run.stderr.contains("/no-such-folder"), "{run:?}");
    assert_eq!(s3.requests().len(), 0);
}

/// Takes half a minute.
#[tokio::test]
async fn a_draft_of_100_000_files_takes_less_than_100_mb() {
    const FILES: usize = 100_000;
    if !long_tests() {
        println!("skipped: LONG is not 1");
        return;
    }
    let s3 = start().await;
    let paths: Vec<_> = (0..FILES)
        .map(|number| format!("assets/matting/frames/{number:08}.png"))
        .collect();
    let files: Vec<_> = paths
        .iter()
        .map(|path| (&**path, path.as_bytes()))
        .collect();
    plant(
        &s3,
        "20250928T114730Z",
        ("draft_content.json", b"{}"),
        &files,
    );
    let parent = parent();
    // The last file waits, so that the memory of the process can be read.
    let last = When::op(Op::GetObject)
        .key_starts_with("saved-files/")
        .after(FILES - 1);
    let fault = s3.fault(last, Fault::Stall);
    let mut command = command(&s3);
    command
        .args(["download", ID, "--to", "draft"])
        .current_dir(parent.path());
    let mut child = command.spawn().expect("drafts starts");
    fault.wait_for_hits(1).await;
    let kib = memory_kib(child.id().expect("it runs"), "VmHWM");
    fault.clear();
    assert!(child.wait().await.expect("it ends").success());
    println!("{kib} KiB");
    assert!(kib * 1024 < 100_000_000, "{kib} KiB");
}
