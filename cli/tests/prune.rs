//! `drafts prune`: what it keeps, and what it deletes beside saves and interruptions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use local::s3::{Fault, Op, RecordedRequest, S3, S3Options, When};
use save_draft::config::Config;
use save_draft::s3::Store;
use save_draft::save::Saver;
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, long_tests};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::common::contents::{check_versions, draft, objects, put_all, sample, set_time};
use crate::common::{ID, Run, at, command, drafts, put, save, start, version_key};

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
        s3.delete(BUCKET, &format!("drafts/{ID}/{path}"));
    }
    put(s3, "shared.mp4", b"shared");
    put(s3, name, name);
    put(s3, DOCUMENT, format!(r#"{{"at":{seconds}}}"#));
    for path in ["shared.mp4", name, DOCUMENT] {
        set_time(s3, ID, path, at(seconds));
    }
    save(s3).await
}

const HOUR: u64 = 3600;

/// Versions of five hours on two days, in Shanghai.
async fn five_versions(s3: &S3) -> Vec<String> {
    let mut versions = Vec::new();
    // 2025-09-28T19:47:30+08:00 and later.
    for (number, seconds) in [0, HOUR, 3 * HOUR, 5 * HOUR, 6 * HOUR]
        .into_iter()
        .enumerate()
    {
        versions.push(save_at(s3, seconds, &format!("{number}.mp4")).await);
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
    numbers
        .iter()
        .map(|&number| versions[number].clone())
        .collect()
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
        assert_eq!(
            draft["remove"].as_array().map(Vec::len),
            Some(removed),
            "{rules:?}"
        );
        assert_eq!(draft["unused_files"], removed, "{rules:?}");

        let args = [rules, &NOW, &["--json"]].concat();
        let mut done = prune(&s3, &args).await.expect_status(0).json();
        assert_eq!(done["dry_run"], false);
        done["dry_run"] = true.into();
        assert_eq!(done, planned);
        assert_eq!(
            check_versions(&s3, ID),
            kept(&versions, numbers),
            "{rules:?}"
        );
        let copies = s3.keys(BUCKET, "saved-files/");
        assert_eq!(copies.len(), numbers.len() + 1, "{copies:?}");
        let manifests = saved(&s3)
            .into_iter()
            .filter(|key| key.ends_with("files.json"));
        assert_eq!(manifests.count(), numbers.len());
    }
}

#[tokio::test]
async fn prints_the_plan() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    let run = prune(
        &s3,
        &[
            "--keep-last",
            "1",
            "--keep-daily",
            "2",
            "--dry-run",
            "--min-age",
            "0",
        ],
    )
    .await;
    let run = run.expect_status(0);
    let expected = format!(
        "keep    {}  2025-09-29 01:47:30 CST  last, daily",
        versions[4]
    );
    assert!(run.stdout.contains(&expected), "{run:?}");
    let expected = format!("delete  {}  2025-09-28 19:47:30 CST\n", versions[0]);
    assert!(run.stdout.contains(&expected), "{run:?}");
    let expected = "would delete 3 versions and 3 files (15 B) that no other version has\n";
    assert!(run.stdout.ends_with(expected), "{run:?}");
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
        let run = prune(&s3, args).await;
        assert_eq!(run.status, 2, "{run:?}");
        assert!(run.stderr.contains(problem), "{args:?}: {run:?}");
    }
    let run = drafts(&s3, &["prune", "--keep-last", "1", "--yes"]).await;
    assert_eq!(run.status, 2, "an id is missing");
    assert_eq!(check_versions(&s3, ID), [version]);
}

#[tokio::test]
async fn young_copies_and_manifests_stay_for_a_save_that_may_be_in_progress() {
    let s3 = start_versioned().await;
    let copy = "saved-files/2025092811473036584258/0cc175b9c0f1b6a831c399e269772661/a.mp4";
    s3.put(BUCKET, copy, b"a");
    let manifest = version_key(
        &format!("20250928T114730Z-{}", "0".repeat(64)),
        "files.json",
    );
    let text = json!({"draft_id": ID, "files": []}).to_string();
    s3.put(BUCKET, &manifest, text);
    let args = ["--keep-last", "1", "--yes", "--max-save", "0"];
    prune(&s3, &args).await.expect_status(0);
    assert_eq!(saved(&s3), [manifest.clone(), copy.to_owned()]);
    // A day later.
    let time = SystemTime::now() - Duration::from_secs(86_401);
    s3.set_last_modified(BUCKET, copy, time);
    s3.set_last_modified(BUCKET, &manifest, time);
    let run = prune(&s3, &args).await.expect_status(0);
    let expected = "deleted 0 versions and 1 file (1 B) that no other version has, and 1 manifest of interrupted saves\n";
    assert!(run.stdout.ends_with(expected), "{run:?}");
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
    assert_eq!(check_versions(&s3, ID), [versions[4].clone()]);
    assert_eq!(s3.keys(BUCKET, "saved/other/").len(), 1);
    assert_eq!(s3.keys(BUCKET, "saved-files/other/").len(), 0);
    assert_eq!(s3.keys(BUCKET, "saved-files/not.an.id/").len(), 1);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_stops_it_before_a_file_is_deleted() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    s3.put(BUCKET, &version_key(&versions[4], "files.json"), b"{");
    let before = saved(&s3);
    let run = prune(&s3, &[&["--keep-last", "1"][..], &NOW].concat()).await;
    assert_eq!(run.status, 1, "{run:?}");
    assert!(run.stderr.contains("is not a manifest"), "{run:?}");
    assert_eq!(saved(&s3), before);
}

/// The requests that delete objects whose keys have this text.
fn deletes(text: &'static str) -> When {
    // The keys are in the body. The order of the requests tells what they delete.
    let number = ["documents", "manifests", "copies"]
        .iter()
        .position(|it| *it == text);
    When::op(Op::DeleteObjects)
        .after(number.expect("a kind of object"))
        .once()
}

#[tokio::test]
async fn recovers_a_copy_that_a_save_used_while_it_was_deleted() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    // The files of the first version come back before its copies are deleted.
    let fault = s3.fault(deletes("copies"), Fault::Stall);
    let mut command = command(&s3);
    command.args(["prune", ID, "--keep-last", "1"]).args(NOW);
    let pruned = tokio::spawn(crate::common::run_owned(command));
    fault.wait_for_hits(1).await;
    let new = save_at(&s3, 10 * HOUR, "0.mp4").await;
    fault.clear();
    let run = pruned.await.expect("it ends").expect_status(0);
    assert!(
        run.stdout
            .ends_with("recovered 1 object that a new version needs\n"),
        "{run:?}"
    );
    assert_eq!(check_versions(&s3, ID), [versions[4].clone(), new]);
}

#[tokio::test]
async fn recovers_a_manifest_that_a_save_met_before_it_was_deleted() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    let fault = s3.fault(deletes("manifests"), Fault::Stall);
    let mut command = command(&s3);
    command.args(["prune", ID, "--keep-last", "1"]).args(NOW);
    let pruned = tokio::spawn(crate::common::run_owned(command));
    fault.wait_for_hits(1).await;
    // The draft has the state of the first version again.
    assert_eq!(save_at(&s3, 0, "0.mp4").await, versions[0]);
    fault.clear();
    pruned.await.expect("it ends").expect_status(0);
    assert_eq!(check_versions(&s3, ID), kept(&versions, &[0, 4]));
}

#[tokio::test]
async fn the_next_run_completes_what_a_killed_one_left() {
    for kind in ["documents", "manifests", "copies"] {
        let s3 = start_versioned().await;
        let versions = five_versions(&s3).await;
        let delete = s3.fault(deletes(kind), Fault::Stall);
        let second_look = s3.fault(When::op(Op::ListObjectVersions), Fault::Stall);
        let mut command = command(&s3);
        command.args(["prune", ID, "--keep-last", "1"]).args(NOW);
        let mut child = command.spawn().expect("drafts starts");
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
        prune(&s3, &[&["--keep-last", "unlimited"][..], &NOW].concat())
            .await
            .expect_status(0);
        let names = check_versions(&s3, ID);
        assert!(names.contains(&new), "{kind}: {names:?}");
        // The document that was deleted after the save is that of a version that was to go.
        assert_eq!(names.contains(&old), kind != "documents", "{names:?}");
        prune(&s3, &[&["--keep-last", "1"][..], &NOW].concat())
            .await
            .expect_status(0);
        assert_eq!(check_versions(&s3, ID), [new]);
    }
}

#[tokio::test]
async fn names_a_copy_that_is_gone() {
    let s3 = start_versioned().await;
    let versions = five_versions(&s3).await;
    let manifest = objects(&s3, &version_key(&versions[4], "files.json"));
    let manifest: Value = serde_json::from_slice(&manifest[""]).expect("a manifest");
    let key = manifest["files"][0]["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    s3.delete(BUCKET, &key);
    let client = aws_client(&s3);
    let listed = client
        .list_object_versions()
        .bucket(BUCKET)
        .prefix(&key)
        .send()
        .await;
    for version in listed.expect("a listing").versions() {
        let delete = client.delete_object().bucket(BUCKET).key(&key);
        let delete = delete.set_version_id(version.version_id().map(str::to_owned));
        delete.send().await.expect("it is deleted for good");
    }
    let run = prune(&s3, &[&["--keep-last", "1"][..], &NOW].concat()).await;
    assert_eq!(run.status, 1, "{run:?}");
    assert!(run.stderr.contains(&key), "{run:?}");
}

fn aws_client(s3: &S3) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(&s3.sdk_config());
    aws_sdk_s3::Client::from_conf(config.force_path_style(true).build())
}

#[tokio::test]
async fn stopped_while_it_waits_it_says_to_run_it_again() {
    let s3 = start_versioned().await;
    five_versions(&s3).await;
    let mut command = command(&s3);
    command.args(["prune", ID, "--keep-last", "1", "--yes", "--min-age", "0"]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("drafts starts");
    // The listings of all markers, after which it waits.
    let list = |request: &RecordedRequest| request.op == Op::ListObjectVersions;
    s3.wait_for(move |request| list(request) && request.query.contains("saved-files"))
        .await;
    sleep(Duration::from_millis(500)).await;
    let pid = child.id().expect("it runs").to_string();
    let kill = tokio::process::Command::new("kill")
        .args(["-s", "INT", &pid])
        .status()
        .await;
    assert!(kill.expect("kill runs").success());
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
            0 => s3.delete(BUCKET, &format!("drafts/{ID}/{path}")),
            number @ 1..=2 => {
                put(s3, path, format!("{path}{number}"));
                set_time(s3, ID, path, at(below(seed, 2)));
            }
            _ => {}
        }
    }
    put(s3, DOCUMENT, format!(r#"{{"a":{}}}"#, below(seed, 3)));
    set_time(s3, ID, DOCUMENT, at(below(seed, 3)));
}

/// Edits and saves the draft until `end`. Some saves are killed.
async fn edit_and_save(s3: Arc<S3>, editing: Arc<Mutex<()>>, mut seed: u64, end: Arc<AtomicBool>) {
    let config = Config::from_lookup(|name| match name {
        "DRAFT_BUCKET" => Some(BUCKET.into()),
        "SAVE_FILES" => Some("true".into()),
        _ => None,
    });
    let config = config.expect("a valid configuration");
    let saver = Saver::new(Store::new(&s3.sdk_config(), config.storage), config.saves);
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
    put_all(&s3, ID, &sample());
    let end = Arc::new(AtomicBool::new(false));
    let editing = Arc::default();
    let mut editors = JoinSet::new();
    for number in 1..=2 {
        let seed = seed.wrapping_mul(7919).wrapping_add(number);
        let editing = Arc::clone(&editing);
        editors.spawn(edit_and_save(
            Arc::clone(&s3),
            editing,
            seed,
            Arc::clone(&end),
        ));
    }
    let mut random = seed;
    let arguments = |keep: u64| {
        let keep = keep.to_string();
        [
            "prune",
            ID,
            "--yes",
            "--json",
            "--min-age",
            "0",
            "--max-save",
            "3",
            "--keep-last",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([keep])
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
        let mut child = command(&s3)
            .args(arguments(1 + below(&mut random, 3)))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
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
    let run = crate::common::run(command(&s3).args(arguments(3))).await;
    assert_eq!(run.status, 0, "seed {seed}: {run:?}");
    let versions = check_versions(&s3, ID);
    assert!(
        (1..=3).contains(&versions.len()),
        "seed {seed}: {versions:?}"
    );
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
