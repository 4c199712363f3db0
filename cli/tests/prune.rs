//! `drafts prune`: what it keeps, and what it deletes beside saves and interruptions.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use local::s3::{Fault, Op, RecordedRequest, S3, S3Options, When};
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, long_tests};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::common::contents::{check_versions, draft, put_all, sample, set_time};
use crate::common::{
    ID, Run, at, command, delete, drafts, put, run, save, saver, send, start, version_key,
};

const DOCUMENT: &str = "draft_content.json";

/// The options with which a copy counts as old at once, and no save takes long.
const NOW: [&str; 5] = ["--yes", "--min-age", "0", "--max-save", "1"];

async fn start_versioned() -> S3 {
    let s3 = start().await;
    s3.enable_versioning(BUCKET);
    s3
}

async fn prune(s3: &S3, args: &[&str]) -> Run {
    drafts(s3, &[&["prune", ID], args].concat()).await
}

/// Saves a state of the draft that was written at this time: a document, and the file `name`. Another file is in all
/// states.
async fn save_at(s3: &S3, seconds: u64, name: &str) -> String {
    for path in draft(s3, ID).keys() {
        delete(s3, path);
    }
    put(s3, "shared.mp4", b"shared");
    put(s3, name, name);
    put(s3, DOCUMENT, format!(r#"{{"at":{seconds}}}"#));
    for path in ["shared.mp4", name, DOCUMENT] {
        set_time(s3, path, at(seconds));
    }
    save(s3).await
}

const HOUR: u64 = 3600;

/// Versions of five hours on two days, in Shanghai.
async fn five_versions(s3: &S3) -> Vec<String> {
    let mut versions = Vec::new();
    // 2025-09-28T19:47:30+08:00 and later.
    for hour in [0, 1, 3, 5, 6] {
        let name = format!("{}.mp4", versions.len());
        versions.push(save_at(s3, hour * HOUR, &name).await);
    }
    versions
}

/// The objects of all versions, and their copies.
fn saved(s3: &S3) -> Vec<String> {
    let mut keys = s3.keys(BUCKET, "saved/");
    keys.extend(s3.keys(BUCKET, "saved-files/"));
    keys
}

fn kept(versions: &[String], numbers: &[usize]) -> Vec<String> {
    let kept = numbers.iter().map(|&number| versions[number].clone());
    kept.collect()
}

#[tokio::test]
async fn keeps_what_the_rules_keep_and_the_files_of_it() {
    for (rules, numbers) in [
        (&["--keep-last", "2"][..], &[3, 4][..]),
        // The day ends at 16:00 in UTC.
        (&["--keep-daily", "2"], &[2, 4]),
        (&["--keep-daily", "2", "--utc"], &[0, 4]),
        (&["--keep-within", "3h"], &[3, 4]),
        (
            &["--keep-hourly", "1", "--keep-monthly", "unlimited"],
            &[0, 4],
        ),
        (&["--keep-last", "unlimited"], &[0, 1, 2, 3, 4]),
    ] {
        let s3 = start_versioned().await;
        let versions = five_versions(&s3).await;
        let before = saved(&s3);
        let args = [rules, &NOW, &["--dry-run", "--json"]].concat();
        let planned = prune(&s3, &args).await.expect_status(0).json();
        assert_eq!(saved(&s3), before);
        let draft = &planned["drafts"][0];
        let removed = versions.len() - numbers.len();
        let planned_removals = draft["remove"].as_array().map(Vec::len);
        assert_eq!(planned_removals, Some(removed), "{rules:?}");
        assert_eq!(draft["unused_files"], removed, "{rules:?}");

        let args = [rules, &NOW, &["--json"]].concat();
        let mut done = prune(&s3, &args).await.expect_status(0).json();
        assert_eq!(done["dry_run"], false);
        done["dry_run"] = true.into();
        assert_eq!(done, planned);
        let expected = kept(&versions, numbers);
        assert_eq!(check_versions(&s3), expected, "{rules:?}");
        let copies = s3.keys(BUCKET, "saved-files/");
        assert_eq!(copies.len(), numbers.len() + 1, "{copies:?}");
        // A document and a manifest each.
        assert_eq!(s3.keys(BUCKET, "saved/").len(), 2 * numbers.len());
    }
}

#[tokio::test]
async fn prints_the_plan() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    let mut args = vec!["--keep-last", "1", "--keep-daily", "2"];
    args.extend(["--dry-run", "--min-age", "0"]);
    let run = prune(&s3, &args).await;
    let expected = format!(
        "keep    {}  2025-09-29 01:47:30 CST  last, daily",
        versions[4]
    );
    let run = run.expect_output(&expected);
    let expected = format!("delete  {}  2025-09-28 19:47:30 CST\n", versions[0]);
    let run = run.expect_output(&expected);
    let expected = "would delete 3 versions and 3 files (15 B) that no other version has\n";
    run.expect_output(expected);
}

#[tokio::test]
async fn refuses_without_versioning_a_rule_or_an_answer() {
    let s3 = start().await;
    let version = save_at(&s3, 0, "a").await;
    for (args, problem) in [
        (&["--keep-last", "1", "--yes"][..], "has no versioning"),
        (&["--yes"], "no rule keeps a version"),
        (&["--keep-last", "0", "--yes"], "no rule keeps a version"),
        (&["--keep-last", "1"], "there is no terminal"),
        (&["--keep-within", "1w", "--yes"], "must be a span"),
        (
            &["--all", "--keep-last", "1", "--yes"],
            "cannot be used with",
        ),
    ] {
        prune(&s3, args).await.expect_error(2, problem);
    }
    let without_id = drafts(&s3, &["prune", "--keep-last", "1", "--yes"]).await;
    without_id.expect_status(2);
    assert_eq!(check_versions(&s3), [version]);
}

#[tokio::test]
async fn young_copies_and_manifests_stay_for_a_save_that_may_be_in_progress() {
    let s3 = start_versioned().await;
    let copy = "saved-files/2025092811473036584258/0cc175b9c0f1b6a831c399e269772661/a.mp4";
    s3.put(BUCKET, copy, b"a");
    let version = format!("20250928T114730Z-{}", "0".repeat(64));
    let manifest = version_key(&version, "files.json");
    let text = json!({"draft_id": ID, "files": []}).to_string();
    s3.put(BUCKET, &manifest, text);
    let args = ["--keep-last", "1", "--yes", "--max-save", "0"];
    prune(&s3, &args).await.expect_status(0);
    assert_eq!(saved(&s3), [manifest.clone(), copy.to_owned()]);
    // A day later.
    let time = SystemTime::now() - Duration::from_secs(86_401);
    s3.set_last_modified(BUCKET, copy, time);
    s3.set_last_modified(BUCKET, &manifest, time);
    let run = prune(&s3, &args).await;
    let expected = "deleted 0 versions and 1 file (1 B) that no other version has, and 1 manifest of interrupted saves\n";
    run.expect_output(expected);
    assert_eq!(saved(&s3), [""; 0]);
}

#[tokio::test]
async fn prunes_all_drafts_each_for_itself() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    for id in ["other", "not.an.id"] {
        for key in [
            format!("saved/{id}/{}/{DOCUMENT}", versions[0]),
            format!("saved-files/{id}/0cc175b9c0f1b6a831c399e269772661/a"),
        ] {
            s3.put(BUCKET, &key, b"a");
        }
    }
    let args = [&["prune", "--all", "--keep-last", "1"][..], &NOW].concat();
    drafts(&s3, &args).await.expect_status(0);
    assert_eq!(check_versions(&s3), [versions[4].clone()]);
    assert_eq!(s3.keys(BUCKET, "saved/other/").len(), 1);
    assert_eq!(s3.keys(BUCKET, "saved-files/other/").len(), 0);
    assert_eq!(s3.keys(BUCKET, "saved-files/not.an.id/").len(), 1);
}

#[tokio::test]
async fn a_draft_with_a_manifest_that_cannot_be_read_stays_as_it_is() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    s3.put(BUCKET, &version_key(&versions[4], "files.json"), b"{");
    let old = "saved-files/other/0123456789abcdef/a.mp4";
    s3.put(BUCKET, old, b"a");
    s3.set_last_modified(BUCKET, old, at(0));
    let damaged = || {
        let mut keys = saved(&s3);
        keys.retain(|key| key.contains(ID));
        keys
    };
    let before = damaged();
    for args in [&NOW[..], &["--yes", "--max-save", "1"], &["--dry-run"]] {
        let alone = prune(&s3, &[&["--keep-last", "1"], args].concat()).await;
        alone.expect_error(1, "is not a manifest");
        assert_eq!(damaged(), before, "{args:?}");
    }
    let args = [&["prune", "--all", "--keep-last", "1"][..], &NOW].concat();
    let all = drafts(&s3, &args).await;
    let all = all.expect_error(1, &format!("nothing of the draft {ID} is deleted"));
    assert!(
        all.stdout.contains("deleted 0 versions and 1 file"),
        "{all:?}"
    );
    assert_eq!(damaged(), before);
    assert_eq!(s3.keys(BUCKET, "saved-files/other/").len(), 0);
    // Nobody reads the plan.
    let mut unread = command(&s3);
    unread.args(["prune", "--all", "--keep-last", "1", "--dry-run"]);
    let mut unread = unread.stdout(Stdio::piped()).spawn().expect("it starts");
    drop(unread.stdout.take());
    let status = unread.wait().await.expect("it ends");
    assert_eq!(status.code(), Some(1));
    let json = drafts(&s3, &[&args[..], &["--json"]].concat()).await;
    let failed = json.expect_status(1).json()["failed"].clone();
    assert_eq!(failed[0]["draft_id"], ID, "{failed}");
}

#[tokio::test]
async fn a_manifest_that_is_damaged_meanwhile_does_not_stop_the_other_drafts() {
    let s3 = Arc::new(start_versioned().await);
    let versions = five_versions(&s3).await;
    let old = "saved-files/other/0123456789abcdef/a.mp4";
    s3.put(BUCKET, old, b"a");
    let manifest = version_key(&versions[4], "files.json");
    let server = Arc::downgrade(&s3);
    let damage = move |_: &RecordedRequest| {
        let s3 = server.upgrade().expect("the server runs");
        s3.put(BUCKET, &manifest, b"{");
    };
    s3.fault(deletes("documents"), Fault::Run(Arc::new(damage)));
    let copies = s3.keys(BUCKET, &format!("saved-files/{ID}/"));
    let args = [&["prune", "--all", "--keep-last", "1"][..], &NOW].concat();
    let run = drafts(&s3, &args).await;
    let run = run.expect_error(1, &format!("no file of the draft {ID} was deleted"));
    let lack = format!("versions of the draft {ID} may lack files");
    assert!(run.stderr.contains(&lack), "{run:?}");
    assert_eq!(s3.keys(BUCKET, &format!("saved-files/{ID}/")), copies);
    assert_eq!(s3.keys(BUCKET, "saved-files/other/").len(), 0);
}

/// The request of a prune that deletes documents, manifests or copies. Their keys are in its body, so that the order
/// tells what it deletes.
fn deletes(kind: &str) -> When {
    let mut kinds = ["documents", "manifests", "copies"].into_iter();
    let number = kinds.position(|it| it == kind);
    let delete = When::op(Op::DeleteObjects);
    delete.after(number.expect("a kind of object")).once()
}

/// Returns a prune that keeps the last version.
fn keep_last(s3: &S3) -> Command {
    let mut command = command(s3);
    command.args(["prune", ID, "--keep-last", "1"]).args(NOW);
    command
}

#[tokio::test]
async fn recovers_what_a_save_used_while_it_was_deleted() {
    // The files of the first version come back before its copies are deleted, and its whole state before its manifest.
    for (kind, time) in [("copies", 10 * HOUR), ("manifests", 0)] {
        let s3 = start_versioned().await;
        let versions = five_versions(&s3).await;
        let fault = s3.fault(deletes(kind), Fault::Stall);
        let mut command = keep_last(&s3);
        let pruned = tokio::spawn(async move { run(&mut command).await });
        fault.wait_for_hits(1).await;
        let new = save_at(&s3, time, "0.mp4").await;
        assert_eq!(new == versions[0], kind == "manifests");
        fault.clear();
        let pruned = pruned.await.expect("it ends").expect_status(0);
        let mut expected = vec![versions[4].clone(), new];
        expected.sort();
        assert_eq!(check_versions(&s3), expected);
        if kind == "copies" {
            pruned.expect_output("recovered 1 object that a new version needs\n");
        }
    }
}

#[tokio::test]
async fn the_next_run_completes_what_a_killed_one_left() {
    for kind in ["documents", "manifests", "copies"] {
        let s3 = start_versioned().await;
        let versions = five_versions(&s3).await;
        let delete = s3.fault(deletes(kind), Fault::Stall);
        let second_look = s3.fault(When::op(Op::ListObjectVersions), Fault::Stall);
        let mut child = keep_last(&s3).spawn().expect("drafts starts");
        delete.wait_for_hits(1).await;
        // Two saves: the state of a version that is being deleted, and one that uses an old copy.
        let old = save_at(&s3, 0, "0.mp4").await;
        assert_eq!(old, versions[0]);
        let new = save_at(&s3, 10 * HOUR, "1.mp4").await;
        delete.clear();
        second_look.wait_for_hits(1).await;
        child.kill().await.expect("it ends");
        s3.clear_faults();
        // It keeps all versions that are left, and so deletes nothing of them itself.
        let all = [&["--keep-last", "unlimited"][..], &NOW].concat();
        prune(&s3, &all).await.expect_status(0);
        let names = check_versions(&s3);
        assert!(names.contains(&new), "{kind}: {names:?}");
        // The document that was deleted after the save is that of a version that was to go.
        assert_eq!(names.contains(&old), kind != "documents", "{names:?}");
        run(&mut keep_last(&s3)).await.expect_status(0);
        assert_eq!(check_versions(&s3), [new]);
    }
}

#[tokio::test]
async fn names_a_copy_that_is_gone() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    let manifest = s3.get(BUCKET, &version_key(&versions[4], "files.json"));
    let manifest: Value = serde_json::from_slice(&manifest.expect("it exists")).expect("JSON");
    let key = manifest["files"][0]["key"].as_str().expect("a key");
    let id = s3.metadata(BUCKET, key).expect("it exists").headers["x-amz-version-id"].clone();
    let config = aws_sdk_s3::config::Builder::from(&s3.sdk_config()).force_path_style(true);
    let client = aws_sdk_s3::Client::from_conf(config.build());
    let delete = client
        .delete_object()
        .bucket(BUCKET)
        .key(key)
        .version_id(id);
    delete.send().await.expect("it is deleted for good");
    run(&mut keep_last(&s3)).await.expect_error(1, key);
}

#[tokio::test]
async fn stopped_while_it_waits_it_says_to_run_it_again() {
    let s3 = start_versioned().await;
    five_versions(&s3).await;
    let mut command = command(&s3);
    command.args(["prune", ID, "--keep-last", "1", "--yes", "--min-age", "0"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("drafts starts");
    // The listings of all markers, after which it waits.
    let is_last = |request: &RecordedRequest| {
        request.op == Op::ListObjectVersions && request.query.contains("saved-files")
    };
    s3.wait_for(is_last).await;
    sleep(Duration::from_millis(500)).await;
    send(&child, "INT").await;
    let output = timeout(Duration::from_secs(20), child.wait_with_output()).await;
    let output = output.expect("it ends at once").expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("waiting until"), "{text}");
    assert!(text.contains("Run the same command again soon"), "{text}");
}

/// A random number below `limit`.
fn below(seed: &mut u64, limit: u64) -> u64 {
    // Xorshift, which is random enough to choose steps.
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % limit
}

/// Changes the draft `ID` at random, to states that come back: few contents, few times.
fn edit(s3: &S3, seed: &mut u64) {
    for path in ["a", "b", "c"] {
        match below(seed, 4) {
            0 => delete(s3, path),
            number @ 1..=2 => {
                put(s3, path, format!("{path}{number}"));
                set_time(s3, path, at(below(seed, 2)));
            }
            _ => {}
        }
    }
    put(s3, DOCUMENT, format!(r#"{{"a":{}}}"#, below(seed, 3)));
    set_time(s3, DOCUMENT, at(below(seed, 3)));
}

/// Edits and saves the draft until `end`. Some saves are killed.
async fn edit_and_save(s3: Arc<S3>, editing: Arc<Mutex<()>>, mut seed: u64, end: Arc<AtomicBool>) {
    let saver = saver(&s3.sdk_config(), BUCKET, "true");
    while !end.load(Ordering::Relaxed) {
        // Without pauses, no save would see one state for long enough.
        if below(&mut seed, 2) == 0 {
            let _one_at_a_time = editing.lock().expect("no editor panics");
            edit(&s3, &mut seed);
        }
        let deadline = Instant::now() + Duration::from_secs(1);
        let saved = saver.save(ID.parse().expect("a valid id"), deadline);
        if below(&mut seed, 3) == 0 {
            let patience = Duration::from_millis(below(&mut seed, 40));
            let _ = timeout(patience, saved).await;
        } else {
            // It may fail: the draft changes all the time.
            drop(saved.await);
        }
        sleep(Duration::from_millis(below(&mut seed, 50))).await;
    }
}

/// One random run: two editors who save, prunes that are killed, and at the end a prune that is not. Returns the
/// number of objects that the last one recovered.
async fn random_run(seed: u64) -> u64 {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = S3Options::new(folder.path());
    (options.versioned, options.record) = (true, false);
    let s3 = Arc::new(S3::start(options).await.expect("the S3 server starts"));
    put_all(&s3, &sample());
    let end = Arc::new(AtomicBool::new(false));
    let editing = Arc::default();
    let mut editors = JoinSet::new();
    for number in 1..=2 {
        let seed = seed.wrapping_mul(7919).wrapping_add(number);
        let editing = Arc::clone(&editing);
        let (s3, end) = (Arc::clone(&s3), Arc::clone(&end));
        editors.spawn(edit_and_save(s3, editing, seed, end));
    }
    let mut random = seed;
    let keep_last = |keep: u64| {
        let mut command = command(&s3);
        command.args(["prune", ID, "--yes", "--json", "--min-age", "0"]);
        command.args(["--max-save", "3", "--keep-last", &keep.to_string()]);
        command
    };
    for _ in 0..3 {
        // The first steps of a prune are single requests, and the last ones too.
        let is_step = |request: &RecordedRequest| {
            matches!(request.op, Op::DeleteObjects | Op::ListObjectVersions)
        };
        let skipped = usize::try_from(below(&mut random, 8)).expect("a number");
        let stall = match below(&mut random, 2) {
            0 => Fault::Stall,
            _ => Fault::StallResponse,
        };
        let fault = s3.fault(When::any().and(is_step).after(skipped).once(), stall);
        let mut child = keep_last(1 + below(&mut random, 3))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("drafts starts");
        let patience = Duration::from_millis(below(&mut random, 3000));
        tokio::select! {
            () = fault.wait_for_hits(1) => {}
            _ = child.wait() => {}
            () = sleep(patience) => {}
        }
        child.kill().await.expect("it ends");
        s3.clear_faults();
    }
    end.store(true, Ordering::Relaxed);
    editors.join_all().await;
    save(&s3).await;
    let run = run(&mut keep_last(3)).await;
    assert_eq!(run.status, 0, "seed {seed}: {run:?}");
    let count = check_versions(&s3).len();
    assert!((1..=3).contains(&count), "seed {seed}: {count} versions");
    let recovered = run.json()["recovered"].as_u64();
    recovered.expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn random_runs_beside_saves_and_kills_leave_complete_versions() {
    const PARALLEL: usize = 12;
    let runs = if long_tests() { 300 } else { 4 };
    let (mut running, mut recovered) = (JoinSet::new(), 0);
    for seed in 1..=runs {
        if running.len() == PARALLEL {
            let run = running.join_next().await.expect("a run");
            recovered += run.expect("it leaves complete versions");
        }
        running.spawn(random_run(seed * 0x9E37_79B9));
    }
    recovered += running.join_all().await.into_iter().sum::<u64>();
    println!("{runs} runs, of which the last prunes recovered {recovered} objects");
}
