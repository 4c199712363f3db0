//! What goes wrong between the function and S3, at the wire: each fault at each step, once,
//! twice and for ever. Whatever happens, the answer is a right one and comes in time, and
//! the store holds nothing new or one whole version, never a part.

use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use save_draft::error::ErrorKind;
use save_draft::save::Saver;
use save_draft::store::CreateOutcome;
use sha2::{Digest as _, Sha256};
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, post_id, sha256_hex};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, Op, S3, When};
use tokio::task::JoinSet;

use crate::common::{self, TestEnv};
use crate::common::{Endpoint, saver};

/// The step of a save that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Write,
}

use Step::{Read, Write};

/// How a save of a new draft ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// 200, by this save.
    Created,
    /// 200, and the version was found to be there: an earlier try had made it.
    Unchanged,
    /// 200, by this save or by one that had been given up.
    Saved,
    /// 500, and nothing is there.
    Failed,
    /// 503, and nothing is there.
    Busy,
    /// 503, and the version is there: the client's next try finds it.
    BusyButSaved,
}

use End::{Busy, BusyButSaved, Created, Failed, Saved, Unchanged};

impl End {
    fn status(self) -> u64 {
        match self {
            Created | Unchanged | Saved => 200,
            Failed => 500,
            Busy | BusyButSaved => 503,
        }
    }

    fn is_saved(self) -> bool {
        matches!(self, Created | Unchanged | Saved | BusyButSaved)
    }
}

/// A fault, and how a save ends that meets it.
#[derive(Clone)]
struct Row {
    name: &'static str,
    step: Step,
    fault: fn() -> Fault,
    /// When it is met once, twice, and at every try.
    ends: [End; 3],
    /// How many tries are made of the request that always fails.
    tries: usize,
}

impl Row {
    /// What the same save comes to after `end`, once nothing is wrong any more.
    fn next(&self, end: End) -> End {
        match (self.step, (self.fault)()) {
            _ if end.is_saved() => Unchanged,
            // A store may still do what nobody waits for any more.
            (Write, Fault::Stall) => Saved,
            _ => Created,
        }
    }
}

fn row(name: &'static str, step: Step, fault: fn() -> Fault, ends: [End; 3], tries: usize) -> Row {
    Row {
        name,
        step,
        fault,
        ends,
        tries,
    }
}

/// The faults after which S3 says something, or the connection ends.
#[rustfmt::skip]
fn rows() -> Vec<Row> {
    vec![
        //  the fault                        step   it                                     once       twice      for ever       tries
        row("500",                           Read,  || Fault::INTERNAL_ERROR,             [Created,   Created,   Busy],         3),
        row("503 SlowDown",                  Read,  || Fault::SLOW_DOWN,                  [Created,   Created,   Busy],         3),
        row("403",                           Read,  || Fault::ACCESS_DENIED,              [Failed,    Failed,    Failed],       1),
        row("closed before the response",    Read,  || Fault::Cut,                        [Created,   Created,   Busy],         3),
        row("reset before the response",     Read,  || Fault::Reset,                      [Created,   Created,   Busy],         3),
        row("reset in the body",             Read,  || Fault::CutBody(PART),              [Created,   Created,   Busy],         3),
        row("reset before the body",         Read,  || Fault::CutBody(0),                 [Created,   Created,   Busy],         3),
        row("body shorter than its length",  Read,  || Fault::ShortBody(PART),            [Created,   Created,   Busy],         3),
        row("body short by one byte",        Read,  || Fault::ShortBody(DRAFT_BYTES - 1), [Created,   Created,   Busy],         3),
        row("one bit of the body wrong",     Read,  || Fault::CorruptBody,                [Created,   Created,   Busy],         3),
        row("wrong checksum",                Read,  || Fault::WrongChecksum,              [Created,   Created,   Busy],         3),
        row("500",                           Write, || Fault::INTERNAL_ERROR,             [Created,   Created,   Busy],         3),
        row("503 SlowDown",                  Write, || Fault::SLOW_DOWN,                  [Created,   Created,   Busy],         3),
        row("403",                           Write, || Fault::ACCESS_DENIED,              [Failed,    Failed,    Failed],       1),
        row("409 on create",                 Write, || Fault::CONFLICT,                   [Created,   Created,   Busy],         8),
        row("closed before the response",    Write, || Fault::Cut,                        [Created,   Created,   Busy],         3),
        row("reset before the response",     Write, || Fault::Reset,                      [Created,   Created,   Busy],         3),
        // S3 refuses what does not match its checksum; the SDK leaves the next try to the client.
        row("one bit of the upload wrong",   Write, || Fault::CorruptRequest,             [Busy,      Busy,      Busy],         1),
        row("done, and the response lost",   Write, || Fault::LoseResponse,               [Unchanged, Unchanged, BusyButSaved], 3),
    ]
}

/// The faults after which nothing comes any more.
#[rustfmt::skip]
fn stalls() -> Vec<Row> {
    vec![
        row("stalled before the response",   Read,  || Fault::Stall,                      [Created,   Created,   Busy],         3),
        row("stalled body",                  Read,  || Fault::StallBody(PART),            [Created,   Created,   Busy],         3),
        row("stalled before the response",   Write, || Fault::Stall,                      [Created,   Created,   Busy],         3),
        row("done, and the response stalls", Write, || Fault::StallResponse,              [Unchanged, Unchanged, BusyButSaved], 3),
    ]
}

const COUNTS: [(&str, usize); 3] = [("once", 1), ("twice", 2), ("for ever", usize::MAX)];

/// How much a document has, in bytes: several packets of loopback, so that there is a middle.
const DRAFT_BYTES: usize = 100_000;
/// And how much of it is a part.
const PART: usize = DRAFT_BYTES / 4;

/// How long an invocation has that is to see its tries through: far more than they take.
const AMPLE: Duration = Duration::from_mins(1);
/// How long one has that is to run out of time.
const SHORT: Duration = Duration::from_millis(2500);
/// When a saver gives a stall up that is told to be less patient than the function is.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a test says when it fails.
fn case(row: &Row, count: &str) -> String {
    format!("{}, at {:?}, {count}", row.name, row.step)
}

/// The requests of the draft `id` that are made at `step`.
fn requests(step: Step, id: &str) -> When {
    match step {
        Read => When::op(Op::GetObject).key_starts_with(draft_key(id)),
        Write => When::op(Op::PutObject).key_starts_with(format!("saved/{id}/")),
    }
}

/// A draft of its own for one case.
fn put_draft(s3: &S3, id: &str) -> Vec<u8> {
    let seed = u64::from_be_bytes(Sha256::digest(id)[..8].try_into().expect("it has more"));
    let document = draft_of_size(DRAFT_BYTES, seed);
    s3.put(BUCKET, &draft_key(id), &document);
    document
}

/// Holds the store against how a save has ended: one whole version, under the name that its
/// content has, or nothing.
#[track_caller]
fn check_store(s3: &S3, id: &str, document: &[u8], end: End, version: Option<&str>, case: &str) {
    let keys = s3.keys(BUCKET, &format!("saved/{id}/"));
    let digest = sha256_hex(document);
    match &keys[..] {
        [] => assert!(!end.is_saved(), "{case}: there is no version"),
        [key] => {
            assert!(end.is_saved(), "{case}: there is {key}");
            let name = key.split('/').nth(2).expect("a version's key has one");
            assert!(name.ends_with(&format!("Z-{digest}")), "{case}: {name}");
            assert!(version.is_none_or(|version| version == name), "{case}");
            let stored = s3.get(BUCKET, key).expect("it is there");
            assert!(stored == document, "{case}: {key} has other bytes");
        }
        _ => panic!("{case}: there is more than one version: {keys:?}"),
    }
    assert_eq!(end.status() == 200, version.is_some(), "{case}");
    // What is uploaded shows as a whole or not at all, under no other name either.
    let all = s3.keys(BUCKET, "");
    let others = all
        .iter()
        .filter(|key| key.contains(id) && !keys.contains(*key) && **key != draft_key(id));
    assert_eq!(others.count(), 0, "{case}: {all:?}");
}

/// Saves a draft over HTTP by the real binary, and holds the answer, its time and the store
/// against `end`.
async fn save(
    test_env: &TestEnv,
    id: &str,
    document: &[u8],
    (end, left): (End, Duration),
    case: &str,
) {
    let begin = Instant::now();
    let pending = test_env
        .function
        .begin_within(post_id(id).to_string(), left);
    let answer = pending.outcome().await.response();
    let took = begin.elapsed();
    assert!(took < left, "{case}: it took {took:?} of {left:?}");
    assert_eq!(answer["statusCode"], end.status(), "{case}");
    let detail = match end {
        Created | Unchanged | Saved => None,
        Failed => Some(r#"{"detail":"Save failed"}"#),
        Busy | BusyButSaved => Some(r#"{"detail":"Service unavailable"}"#),
    };
    assert!(
        detail.is_none_or(|detail| answer["body"] == detail),
        "{case}: {answer}"
    );
    let saved = answer["headers"]["draft-saved"].as_str();
    let words: &[_] = match end {
        Created => &[Some("created")],
        Unchanged => &[Some("unchanged")],
        Saved => &[Some("created"), Some("unchanged")],
        Failed | Busy | BusyButSaved => &[None],
    };
    assert!(words.contains(&saved), "{case}: {saved:?}");
    let version = answer["headers"]["draft-version"].as_str();
    check_store(&test_env.s3, id, document, end, version, case);
}

#[tokio::test]
async fn each_fault_at_each_step_once_twice_and_for_ever() {
    let mut worlds = JoinSet::new();
    for (number, row) in rows().into_iter().enumerate() {
        // A function of its own for each fault: the SDK tries less often while much fails.
        worlds.spawn(async move {
            let test_env = TestEnv::start().await;
            for ((count, times), end) in COUNTS.into_iter().zip(row.ends) {
                let case = case(&row, count);
                let id = format!("fault-{number}-{times:x}");
                let document = put_draft(&test_env.s3, &id);
                let fault = requests(row.step, &id).times(times);
                let fault = test_env.s3.fault(fault, (row.fault)());

                save(&test_env, &id, &document, (end, AMPLE), &case).await;
                assert_eq!(fault.hits(), times.min(row.tries), "{case}");

                fault.clear();
                let case = format!("{case}, and tried again");
                save(&test_env, &id, &document, (row.next(end), AMPLE), &case).await;
            }
        });
    }
    worlds.join_all().await;
}

/// The deadline is the test's: all that is for ever ends before it.
#[tokio::test]
async fn whatever_lasts_is_answered_before_the_deadline() {
    let mut worlds = JoinSet::new();
    let conflict = rows().into_iter().filter(|row| row.name.starts_with("409"));
    for (number, row) in stalls().into_iter().chain(conflict).enumerate() {
        worlds.spawn(async move {
            let test_env = TestEnv::start().await;
            let case = case(&row, "until the deadline");
            let id = format!("late-{number}");
            // The time is for the save, and not for the function's start.
            let document = put_draft(&test_env.s3, "first");
            save(&test_env, "first", &document, (Created, AMPLE), &case).await;

            let document = put_draft(&test_env.s3, &id);
            let fault = test_env.s3.fault(requests(row.step, &id), (row.fault)());
            let end = row.ends[2];
            save(&test_env, &id, &document, (end, SHORT), &case).await;
            assert!(fault.hits() >= 1, "{case}");

            fault.clear();
            let case = format!("{case}, and tried again");
            save(&test_env, &id, &document, (row.next(end), AMPLE), &case).await;
        });
    }
    worlds.join_all().await;
}

/// A saver that loses patience sooner than the function does.
fn impatient(s3: &S3) -> Saver {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE);
    let stalls = StalledStreamProtectionConfig::enabled().grace_period(PATIENCE);
    let sdk = Endpoint::of(s3).sdk().into_builder();
    let sdk = sdk
        .timeout_config(timeouts.build())
        .stalled_stream_protection(stalls.build());
    saver(&sdk.build(), BUCKET)
}

/// Saves a draft by `saver`, and holds the result and the store against `end`.
async fn save_by(saver: &Saver, s3: &S3, id: &str, document: &[u8], end: End, case: &str) {
    let deadline = Instant::now() + AMPLE;
    let attempt = saver.save(id.parse().expect("an id"), deadline).await;
    assert!(Instant::now() < deadline, "{case}");
    let version = match (&attempt.result, end) {
        (Ok(saved), Created | Unchanged | Saved) => {
            let right = match saved.outcome {
                CreateOutcome::Created => end != Unchanged,
                CreateOutcome::AlreadyExists => end != Created,
            };
            assert!(right, "{case}: {saved:?}");
            Some(saved.version.as_str())
        }
        (Err(error), Failed) => {
            assert_eq!(error.kind(), ErrorKind::SaveFailed, "{case}");
            None
        }
        (Err(error), Busy | BusyButSaved) => {
            assert_eq!(error.kind(), ErrorKind::ServiceUnavailable, "{case}");
            None
        }
        (result, end) => panic!("{case}: {result:?}, and not {end:?}"),
    };
    check_store(s3, id, document, end, version, case);
}

#[tokio::test]
async fn a_stall_is_given_up_and_tried_again() {
    let mut cases = JoinSet::new();
    for (number, row) in stalls().into_iter().enumerate() {
        for ((count, times), end) in COUNTS.into_iter().zip(row.ends) {
            let row = row.clone();
            cases.spawn(async move {
                let case = case(&row, count);
                let id = format!("stall-{number}-{times:x}");
                let s3 = S3::start_empty().await.expect("the S3 starts");
                let saver = impatient(&s3);
                let document = put_draft(&s3, &id);
                let fault = requests(row.step, &id).times(times);
                let fault = s3.fault(fault, (row.fault)());
                save_by(&saver, &s3, &id, &document, end, &case).await;
                assert_eq!(fault.hits(), times.min(row.tries), "{case}");

                fault.clear();
                let case = format!("{case}, and tried again");
                save_by(&saver, &s3, &id, &document, row.next(end), &case).await;
            });
        }
    }
    cases.join_all().await;
}

#[tokio::test]
async fn refused_connections_are_a_503_until_they_are_taken_again() {
    for step in [Read, Write] {
        let test_env = TestEnv::start().await;
        let id = "refused";
        let document = put_draft(&test_env.s3, id);
        let case = format!("refused, from {step:?} on");
        let fault = test_env.s3.fault(requests(step, id), Fault::Refuse);
        save(&test_env, id, &document, (Busy, AMPLE), &case).await;
        assert_eq!(fault.hits(), 1, "{case}: nobody listened");
        let case = format!("{case}, and still");
        save(&test_env, id, &document, (Busy, AMPLE), &case).await;
        fault.clear();
        test_env.s3.reopen().await;
        let case = format!("{case}, and no more");
        save(&test_env, id, &document, (Created, AMPLE), &case).await;
    }
}

/// How many connections are refused meanwhile is the machine's choice, so there are tries
/// in plenty.
#[tokio::test]
async fn a_moment_of_refused_connections_is_not_seen() {
    for step in [Read, Write] {
        let s3 = S3::start_empty().await.expect("the S3 starts");
        let retries = RetryConfig::standard()
            .with_max_attempts(20)
            .with_initial_backoff(Duration::from_millis(50));
        let sdk = Endpoint::of(&s3).sdk().into_builder();
        let saver = saver(&sdk.retry_config(retries).build(), BUCKET);
        let id = "refused-once";
        let document = put_draft(&s3, id);
        let fault = s3.fault(requests(step, id).once(), Fault::Refuse);
        let case = format!("refused for a moment, at {step:?}");
        let reopen = async {
            fault.wait_for_hits(1).await;
            s3.reopen().await;
        };
        tokio::join!(save_by(&saver, &s3, id, &document, Created, &case), reopen);
    }
}

/// What cuts the function itself off: its process is gone at each request it makes.
#[tokio::test]
async fn a_function_that_is_killed_leaves_nothing_or_a_whole_version() {
    let stages = [
        (Read, Fault::Stall, Busy, Created),
        (Read, Fault::StallBody(PART), Busy, Created),
        (Write, Fault::Stall, Busy, Saved),
        (Write, Fault::StallResponse, BusyButSaved, Unchanged),
    ];
    for (step, stall, end, next) in stages {
        let test_env = TestEnv::start().await;
        let id = "killed";
        let document = put_draft(&test_env.s3, id);
        let fault = test_env.s3.fault(requests(step, id), stall);
        let case = format!("killed at {step:?}");
        let pending = test_env.function.begin(&post_id(id));
        fault.wait_for_hits(1).await;
        if end == BusyButSaved {
            while test_env.versions(id).is_empty() {
                tokio::task::yield_now().await;
            }
        }
        test_env.function.kill().await;
        assert_eq!(pending.outcome().await, Outcome::Exited, "{case}");
        check_store(&test_env.s3, id, &document, end, None, &case);

        fault.clear();
        let function = common::start_function(&test_env.s3, &[]).await;
        let test_env = TestEnv {
            function,
            ..test_env
        };
        save(&test_env, id, &document, (next, AMPLE), &case).await;
    }
}
