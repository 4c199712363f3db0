//! `drafts restore`: the version, from any state, after any interruption.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use local::s3::{Fault, Op, RecordedRequest, S3, When};
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, long_tests};

use crate::common::contents::{Files, draft, files, plant, put_all, sample};
use crate::common::{
    ID, Run, command, copy_key, delete, drafts, drafts_json, put, save, save_document, start,
    version_key,
};

const DOCUMENT: &str = "draft_content.json";

async fn restore(s3: &S3, args: &[&str]) -> Run {
    drafts(s3, &[&["restore", ID], args].concat()).await
}

/// The operations that change something.
fn writes(s3: &S3) -> Vec<RecordedRequest> {
    let requests = s3.requests().into_iter();
    requests.filter(is_write).collect()
}

fn is_write(request: &RecordedRequest) -> bool {
    !matches!(
        request.op,
        Op::GetObject | Op::HeadObject | Op::ListObjectsV2 | Op::GetBucketVersioning
    )
}

/// Two versions of a draft: the files differ in all ways. The draft has the second.
async fn two_versions() -> (S3, [(String, Files); 2]) {
    let s3 = start().await;
    put_all(&s3, &sample());
    let old = save(&s3).await;
    put(&s3, DOCUMENT, br#"{"duration":7}"#);
    put(&s3, "Timelines/project.json", b"{\"other\":1}");
    put(&s3, ".backup/x.bak", b"old, and longer");
    put(&s3, "assets/new.mp4", b"new");
    delete(&s3, "assets/empty");
    delete(&s3, "draft_meta_info.json");
    let new = save(&s3).await;
    let present = draft(&s3, ID);
    (s3, [(old, sample()), (new, present)])
}

/// The old version, restored over the new one without `--exact`.
fn merged() -> Files {
    let mut files = sample();
    files.insert("assets/new.mp4".to_owned(), b"new".to_vec());
    files
}

#[tokio::test]
async fn copies_what_differs_and_the_document_last() {
    let (s3, [(old, _), (new, present)]) = two_versions().await;
    s3.clear_requests();
    let args = ["restore", ID, &old];
    let planned = drafts_json(&s3, &[&args[..], &["--dry-run"]].concat()).await;
    assert_eq!(writes(&s3).len(), 0);
    assert_eq!(draft(&s3, ID), present);
    let file = |path: &str| json!({"path": path, "size": sample()[path].len()});
    let mut expected = json!({
        "draft_id": ID, "version": old, "to": ID, "dry_run": true,
        "document": [DOCUMENT, "replace"],
        "add": [file("assets/empty"), file("draft_meta_info.json")],
        "replace": [file(".backup/x.bak"), file("Timelines/project.json")],
        "remove": [], "unchanged": 3, "left": 1,
    });
    assert_eq!(planned, expected);

    let done = drafts_json(&s3, &args).await;
    expected["dry_run"] = false.into();
    assert_eq!(done, expected);
    assert_eq!(draft(&s3, ID), merged());
    let writes = writes(&s3);
    assert!(writes.iter().all(|request| request.op == Op::CopyObject));
    let keys: Vec<_> = writes
        .iter()
        .map(|request| request.key.rsplit('/').next())
        .collect();
    assert_eq!(keys.len(), 5, "{keys:?}");
    assert_eq!(keys.last(), Some(&Some(DOCUMENT)));
    assert!(writes.iter().all(|request| {
        let condition = |name| !request.header(name).is_empty();
        condition("if-match") != condition("if-none-match")
    }));

    // The restored draft is a new state with the same hash, but for the file that stayed.
    delete(&s3, "assets/new.mp4");
    let again = save(&s3).await;
    let digest = |version: &str| version.split_once('-').map(|(_, digest)| digest.to_owned());
    assert_eq!(digest(&again), digest(&old));

    // Once more there is nothing to do. The other version comes back too.
    s3.clear_requests();
    let run = restore(&s3, &[&old]).await;
    run.expect_output("0 files added, 0 replaced, 0 removed, 7 unchanged; document unchanged");
    assert_eq!(self::writes(&s3).len(), 0);
    restore(&s3, &[&new, "--exact"]).await.expect_status(0);
    assert_eq!(draft(&s3, ID), present);
}

#[tokio::test]
async fn exact_removes_what_the_version_does_not_have() {
    let (s3, [(old, files), _]) = two_versions().await;
    s3.clear_requests();
    let run = restore(&s3, &[&old, "--dry-run"]).await;
    run.expect_error(0, "1 other file of the draft stays; --exact deletes it\n");
    let run = restore(&s3, &[&old, "--exact", "--dry-run"]).await;
    run.expect_output("remove   assets/new.mp4");
    restore(&s3, &[&old, "--exact"]).await.expect_status(0);
    assert_eq!(draft(&s3, ID), files);
    let writes = writes(&s3);
    let last = writes.last().expect("a write");
    assert_eq!(
        (last.op, &*last.key),
        (Op::DeleteObject, &*format!("drafts/{ID}/assets/new.mp4"))
    );
}

#[tokio::test]
async fn a_version_without_files_leaves_them_alone() {
    let s3 = start().await;
    put(&s3, DOCUMENT, b"{}");
    put(&s3, "assets/a.mp4", b"a");
    let old = save_document(&s3).await;
    put(&s3, DOCUMENT, b"{\"a\":1}");
    save_document(&s3).await;
    put(&s3, "assets/a.mp4", b"changed");
    let run = restore(&s3, &[&old, "--exact"]).await;
    run.expect_error(2, "--exact needs a version with files");
    restore(&s3, &[&old]).await.expect_status(0);
    let expected = files(&[(DOCUMENT, b"{}"), ("assets/a.mp4", b"changed")]);
    assert_eq!(draft(&s3, ID), expected);
}

#[tokio::test]
async fn refuses_to_overwrite_a_state_that_no_version_has() {
    type Change = fn(&S3);
    let changes: [Change; 5] = [
        |s3| put(s3, DOCUMENT, br#"{"unsaved":1}"#),
        |s3| put(s3, "Timelines/project.json", b"unsaved"),
        |s3| put(s3, "assets/unsaved.mp4", b"unsaved"),
        // A state of which each part is saved.
        |s3| put(s3, DOCUMENT, &sample()[DOCUMENT]),
        |s3| {
            delete(s3, DOCUMENT);
            put(s3, "Timelines/project.json", b"unsaved");
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (s3, [old, new]) = two_versions().await;
        // With the old one, the fourth change could be the trace of an interrupted restore.
        let (version, files) = if number == 3 { new } else { old };
        put(&s3, DOCUMENT, br#"{"third":1}"#);
        put(&s3, ".backup/x.bak", b"third");
        save(&s3).await;
        change(&s3);
        let present = draft(&s3, ID);
        for args in [
            &[&*version][..],
            &[&*version, "--exact"],
            &[&*version, "--dry-run"],
        ] {
            let run = restore(&s3, args).await;
            run.expect_error(2, "is in no version");
            assert_eq!(draft(&s3, ID), present);
        }
        let run = restore(&s3, &[&version, "--exact", "--discard-current"]).await;
        run.expect_status(0);
        assert_eq!(draft(&s3, ID), files, "{number}");
    }
}

#[tokio::test]
async fn checks_first_that_all_of_the_version_is_there() {
    let (s3, [(old, _), (_, present)]) = two_versions().await;
    let copy = copy_key(&s3, "draft_meta_info.json");
    let document = version_key(&old, DOCUMENT);
    for (key, bytes) in [
        (&copy, None),
        (&copy, Some(b"longer".as_slice())),
        (&document, Some(b"{}")),
    ] {
        let before = s3.get(BUCKET, key).expect("an object");
        match bytes {
            None => s3.delete(BUCKET, key),
            Some(bytes) => drop(s3.put(BUCKET, key, bytes)),
        }
        s3.clear_requests();
        let name = if *key == document {
            ""
        } else {
            "draft_meta_info.json"
        };
        restore(&s3, &[&old]).await.expect_error(1, name);
        assert_eq!(writes(&s3).len(), 0);
        assert_eq!(draft(&s3, ID), present);
        s3.put(BUCKET, key, before);
    }
}

#[tokio::test]
async fn restores_as_another_draft() {
    let (s3, [(old, files), (_, present)]) = two_versions().await;
    let run = restore(&s3, &[&old, "--as", "copy-1"]).await;
    run.expect_output("to the draft copy-1: 7 files added");
    assert_eq!(draft(&s3, "copy-1"), files);
    assert_eq!(draft(&s3, ID), present);
    // It exists now, and is in none of its own versions.
    s3.put(BUCKET, "drafts/copy-1/draft_content.json", b"{\"mine\":1}");
    let run = restore(&s3, &[&old, "--as", "copy-1"]).await;
    run.expect_status(2);
}

#[tokio::test]
async fn warns_of_paths_with_the_id_of_the_draft_that_was_saved() {
    for (path, has_id) in [
        (format!("/app/output/{ID}/a.mp4"), true),
        (format!("/app/output/{ID}"), true),
        (format!(r"C:\\drafts\\{ID}\\a.mp4"), true),
        (format!("/app/output/{ID}1/a.mp4"), false),
        (format!("/app/output/1{ID}/a.mp4"), false),
    ] {
        let s3 = start().await;
        put(&s3, DOCUMENT, format!(r#"{{"path":"{path}"}}"#));
        let version = save(&s3).await;
        let run = restore(&s3, &[&version, "--as", "copy-1"]).await;
        assert_eq!(run.stderr.contains("the old id"), has_id, "{path}: {run:?}");
    }
}

#[tokio::test]
async fn folders_of_editors_come_back_whole_plain_and_encrypted() {
    let encrypted = "a3e6VQ4f/+Zm9v7x".repeat(100) + "Zg==";
    for document in [br#"{"duration":5000000}"#.as_slice(), encrypted.as_bytes()] {
        let s3 = start().await;
        // As desktop editors of today lay them out: many files are copies of the document.
        let paths = [
            "draft_info.json",
            "draft_info.json.bak",
            "template-2.tmp",
            "Timelines/2F52A63B-8C6A-4417-8B01/draft_info.json",
            "subdraft/7E0C/draft_info.json",
            "common_attachment/attachment_script_video.json",
            "Resources/audioAlg/\u{97f3}\u{6548} 1.wav",
            ".backup/20251126220753.save.bak",
        ];
        let saved = files(&paths.map(|path| (path, document)));
        put_all(&s3, &saved);
        let version = save(&s3).await;
        for path in saved.keys() {
            delete(&s3, path);
        }
        restore(&s3, &[&version]).await.expect_status(0);
        assert_eq!(draft(&s3, ID), saved);
    }
}

#[tokio::test]
async fn a_document_that_saves_would_not_read_is_never_the_result() {
    let s3 = start().await;
    let document = ("draft_info.json", b"{\"a\":1}".as_slice());
    let with_files = plant(&s3, "20250928T114730Z", document, &[("a", b"b")]);
    let alone = plant(&s3, "20250928T114731Z", document, &[]);
    put(&s3, DOCUMENT, b"{}");
    save(&s3).await;
    for (version, advice) in [
        (&with_files, "Pass --exact"),
        (&alone, "Delete draft_content.json"),
    ] {
        restore(&s3, &[version]).await.expect_error(2, advice);
        assert_eq!(draft(&s3, ID), files(&[(DOCUMENT, b"{}")]));
    }
    let run = restore(&s3, &[&with_files, "--exact"]).await;
    run.expect_status(0);
    assert_eq!(draft(&s3, ID), files(&[document, ("a", b"b")]));
}

/// Runs `drafts` until it makes its write number `number`, and kills it there; returns false if it made fewer.
async fn kill_at_write(s3: &S3, args: &[&str], number: usize, fault: Fault) -> bool {
    let fault = s3.fault(When::any().and(is_write).after(number).once(), fault);
    let mut child = command(s3).args(args).spawn().expect("drafts starts");
    let is_killed = tokio::select! {
        () = fault.wait_for_hits(1) => true,
        status = child.wait() => {
            assert!(status.expect("it ends").success());
            false
        }
    };
    // Kills it with SIGKILL.
    child.kill().await.expect("it ends");
    s3.clear_faults();
    is_killed
}

#[tokio::test]
async fn killed_at_any_write_and_run_again_it_ends_in_the_same_state() {
    for (is_served, exact) in [(false, true), (true, false), (true, true)] {
        for number in 0.. {
            let (s3, [(old, files), _]) = two_versions().await;
            let mut args = vec!["restore", ID, &old];
            args.extend(exact.then_some("--exact"));
            let served = is_served.then_some(Fault::StallResponse);
            let fault = served.unwrap_or(Fault::Stall);
            let is_killed = kill_at_write(&s3, &args, number, fault).await;
            let run = drafts(&s3, &args).await;
            assert_eq!(run.status, 0, "killed at write {number}: {run:?}");
            let expected = if exact { files } else { merged() };
            assert_eq!(draft(&s3, ID), expected, "killed at write {number}");
            if !is_killed {
                assert_eq!(number, if exact { 6 } else { 5 });
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_state_before_an_interrupted_restore_comes_back() {
    for number in 0..6 {
        let (s3, [(old, _), (new, present)]) = two_versions().await;
        let args = ["restore", ID, &old, "--exact"];
        assert!(kill_at_write(&s3, &args, number, Fault::StallResponse).await);
        let run = restore(&s3, &[&new, "--exact"]).await;
        assert_eq!(run.status, 0, "killed at write {number}: {run:?}");
        assert_eq!(draft(&s3, ID), present, "killed at write {number}");
    }
}

#[tokio::test]
async fn a_lost_response_or_a_failure_of_s3_does_not_stop_it() {
    for fault in [
        Fault::LoseResponse,
        Fault::SLOW_DOWN,
        Fault::CONFLICT,
        Fault::Reset,
    ] {
        for number in 0..6 {
            let (s3, [(old, files), _]) = two_versions().await;
            let write = When::any().and(is_write).after(number).once();
            let fault = s3.fault(write, fault.clone());
            let run = restore(&s3, &[&old, "--exact"]).await;
            assert_eq!(run.status, 0, "{number}: {run:?}");
            assert_eq!(fault.hits(), 1);
            assert_eq!(draft(&s3, ID), files);
        }
    }
}

#[tokio::test]
async fn a_change_by_an_editor_meanwhile_is_not_overwritten() {
    for (path, op) in [
        ("Timelines/project.json", Op::CopyObject),
        ("assets/empty", Op::CopyObject),
        (DOCUMENT, Op::CopyObject),
        ("assets/new.mp4", Op::DeleteObject),
    ] {
        let (s3, [(old, _), _]) = two_versions().await;
        let s3 = Arc::new(s3);
        let key = format!("drafts/{ID}/{path}");
        let edit = {
            let (s3, key) = (Arc::downgrade(&s3), key.clone());
            move |_: &RecordedRequest| {
                let s3 = s3.upgrade().expect("the server runs");
                s3.put(BUCKET, &key, b"{\"edited\":1}");
            }
        };
        let write = When::op(op).key_starts_with(&key).once();
        s3.fault(write, Fault::Run(Arc::new(edit)));
        let run = restore(&s3, &[&old, "--exact"]).await;
        run.expect_error(2, "was changed during the restore");
        assert_eq!(s3.get(BUCKET, &key).expect("a file"), b"{\"edited\":1}");
    }
}

#[tokio::test]
async fn a_version_that_is_pruned_meanwhile_leaves_a_way_back() {
    let (s3, [(old, _), (new, state)]) = two_versions().await;
    let s3 = Arc::new(s3);
    let copies = |version: &str| {
        let manifest = s3.get(BUCKET, &version_key(version, "files.json"));
        let manifest: Value = serde_json::from_slice(&manifest.expect("it exists")).expect("JSON");
        let files = manifest["files"].as_array().expect("a list").clone();
        let keys = files.into_iter().map(|file| file["key"].to_string());
        keys.map(|key| key.trim_matches('"').to_owned())
            .collect::<BTreeSet<_>>()
    };
    let (pruned, server) = (&copies(&old) - &copies(&new), Arc::downgrade(&s3));
    let prune = move |_: &RecordedRequest| {
        let s3 = server.upgrade().expect("the server runs");
        for key in &pruned {
            s3.delete(BUCKET, key);
        }
    };
    let copy = When::op(Op::CopyObject).after(1).once();
    s3.fault(copy, Fault::Run(Arc::new(prune)));
    let run = restore(&s3, &[&old, "--exact"]).await;
    run.expect_error(1, "Restore another version with --discard-current");
    let run = restore(&s3, &[&new, "--exact", "--discard-current"]).await;
    run.expect_status(0);
    assert_eq!(draft(&s3, ID), state);
}

#[tokio::test]
async fn a_new_document_is_not_mixed_with_the_files_of_a_version_that_has_the_old_one() {
    let s3 = Arc::new(start().await);
    put(&s3, DOCUMENT, b"{}");
    put(&s3, "a.txt", b"old");
    let old = save(&s3).await;
    put(&s3, "a.txt", b"new");
    put(&s3, "added.txt", b"new");
    save(&s3).await;
    let server = Arc::downgrade(&s3);
    let edit = move |_: &RecordedRequest| {
        let s3 = server.upgrade().expect("the server runs");
        put(&s3, DOCUMENT, br#"{"edited":1}"#);
    };
    let copy = When::op(Op::CopyObject).once();
    s3.fault(copy, Fault::Run(Arc::new(edit)));
    let run = restore(&s3, &[&old, "--exact"]).await;
    run.expect_error(2, "was changed during the restore");
    let added = s3.get(BUCKET, &format!("drafts/{ID}/added.txt"));
    assert!(added.is_some(), "nothing is deleted");
}

#[tokio::test]
async fn an_unsaved_document_of_the_other_name_is_not_deleted() {
    let s3 = start().await;
    put(&s3, "draft_info.json", br#"{"v":1}"#);
    put(&s3, "a.txt", b"a");
    let old = save(&s3).await;
    put(&s3, DOCUMENT, br#"{"v":2}"#);
    save(&s3).await;
    put(&s3, DOCUMENT, br#"{"unsaved":1}"#);
    let present = draft(&s3, ID);
    let run = restore(&s3, &[&old, "--exact"]).await;
    run.expect_error(2, "is in no version");
    assert_eq!(draft(&s3, ID), present);
}

#[tokio::test]
async fn a_version_without_its_copies_does_not_count_as_the_present_state() {
    let (s3, [(old, _), (_, present)]) = two_versions().await;
    let keys = s3.keys(BUCKET, &format!("saved-files/{ID}/"));
    let file = present["Timelines/project.json"].clone();
    let copy = keys
        .iter()
        .find(|key| s3.get(BUCKET, key) == Some(file.clone()));
    s3.delete(BUCKET, copy.expect("a copy"));
    let run = restore(&s3, &[&old]).await;
    run.expect_error(2, "is in no version");
    assert_eq!(draft(&s3, ID), present);
}

#[tokio::test]
async fn files_that_were_uploaded_in_parts_can_be_restored_there_and_back() {
    let s3 = start().await;
    put(&s3, DOCUMENT, b"{}");
    let client = aws_sdk_s3::Client::new(&s3.sdk_config());
    let key = format!("drafts/{ID}/a.mp4");
    let upload = async |content: &'static [u8]| {
        let create = client.create_multipart_upload().bucket(BUCKET).key(&key);
        let id = create.send().await.expect("an upload").upload_id;
        let id = id.expect("an id");
        let part = client.upload_part().bucket(BUCKET).key(&key).upload_id(&id);
        let part = part
            .part_number(1)
            .body(content.to_vec().into())
            .send()
            .await;
        let etag = part.expect("it is written").e_tag.expect("an ETag");
        let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
        let parts = CompletedMultipartUpload::builder().parts(part).build();
        let complete = client.complete_multipart_upload().bucket(BUCKET).key(&key);
        let complete = complete.upload_id(id).multipart_upload(parts).send();
        complete.await.expect("it is complete");
        save(&s3).await
    };
    let old = upload(b"old").await;
    let new = upload(b"new").await;
    for (version, content) in [(&old, b"old"), (&new, b"new"), (&old, b"old")] {
        restore(&s3, &[version]).await.expect_status(0);
        assert_eq!(s3.get(BUCKET, &key).as_deref(), Some(&content[..]));
    }
}

#[tokio::test]
async fn a_denied_request_names_the_permission() {
    let (s3, [(old, _), _]) = two_versions().await;
    for (op, permission) in [
        (Op::CopyObject, "s3:PutObject"),
        (Op::DeleteObject, "s3:DeleteObject"),
        (Op::ListObjectsV2, "s3:ListBucket"),
    ] {
        let fault = s3.fault(When::op(op), Fault::ACCESS_DENIED);
        let run = restore(&s3, &[&old, "--exact"]).await;
        run.expect_error(2, permission);
        fault.clear();
    }
}

#[tokio::test]
async fn a_large_file_is_copied_in_parts() {
    const PATH: &str = "assets/large.mp4";
    if !long_tests() {
        println!("skipped: LONG is not 1");
        return;
    }
    let s3 = start().await;
    let bytes = vec![5; (256 << 20) + 1];
    put(&s3, DOCUMENT, b"{}");
    put(&s3, PATH, &bytes);
    let version = save(&s3).await;
    delete(&s3, PATH);
    put(&s3, "a", b"a");
    save(&s3).await;
    // A part fails for good: the parts are deleted.
    let part = When::op(Op::UploadPartCopy).after(3);
    let fault = s3.fault(part, Fault::ACCESS_DENIED);
    restore(&s3, &[&version]).await.expect_status(2);
    assert_eq!(s3.count(Op::AbortMultipartUpload), 1);
    fault.clear();
    // The response to the last step is lost.
    let complete = When::op(Op::CompleteMultipartUpload).once();
    s3.fault(complete, Fault::LoseResponse);
    s3.clear_requests();
    let report = drafts_json(&s3, &["restore", ID, &version]).await;
    assert_eq!(report["add"], json!([{"path": PATH, "size": bytes.len()}]));
    assert_eq!(s3.count(Op::UploadPartCopy), 5);
    assert!(s3.get(BUCKET, &format!("drafts/{ID}/{PATH}")) == Some(bytes));
    // Once more, there is nothing to copy, whatever ETag the parts made.
    let report: Value = drafts_json(&s3, &["restore", ID, &version]).await;
    assert_eq!(report["unchanged"], 1);
}
