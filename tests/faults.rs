//! Faults between the function and S3: each fault in each request, once, twice and in all attempts. The response is
//! correct and in time, and the store contains the whole version or nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use save_draft::error::ErrorKind;
use save_draft::s3::CreateOutcome;
use save_draft::save::Saver;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, post_id, sha256_hex};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, Op, S3, ScriptedFault, When};
use tokio::task::JoinSet;

use crate::common::{self, Endpoint, TestEnv, saver};

/// The request in which the fault occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Write,
}

use Step::{Read, Write};

/// The expected result of a save, and of the store after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// 200, `created`.
    Created,
    /// 200, `unchanged`: an earlier attempt has created the version.
    Unchanged,
    /// 200, `created` or `unchanged`: the store may still execute an attempt that was given up.
    Saved,
    /// 500, and no version.
    Failed,
    /// 503, and no version.
    Unavailable,
    /// 503, and the version exists.
    UnavailableButSaved,
}

use Expected::{Created, Failed, Saved, Unavailable, UnavailableButSaved, Unchanged};

impl Expected {
    fn status(self) -> u64 {
        match self {
            Created | Unchanged | Saved => 200,
            Failed => 500,
            Unavailable | UnavailableButSaved => 503,
        }
    }

    fn has_version(self) -> bool {
        !matches!(self, Failed | Unavailable)
    }
}

/// A fault and its effect.
#[derive(Clone)]
struct Row {
    name: &'static str,
    step: Step,
    fault: Fault,
    /// The result with the fault in one attempt, in two, and in all.
    expected: [Expected; 3],
    /// The number of attempts if all have the fault.
    attempts: usize,
}

impl Row {
    /// Returns the result of another save without the fault, after one with the result `previous`.
    fn expected_after(&self, previous: Expected) -> Expected {
        match (self.step, &self.fault) {
            _ if previous.has_version() => Unchanged,
            (Write, Fault::Stall) => Saved,
            _ => Created,
        }
    }

    /// Returns the description of a case, for the messages of assertions.
    fn case(&self, count: &str) -> String {
        format!("{} in {:?}, {count}", self.name, self.step)
    }
}

fn row(
    name: &'static str,
    step: Step,
    fault: Fault,
    expected: [Expected; 3],
    attempts: usize,
) -> Row {
    Row {
        name,
        step,
        fault,
        expected,
        attempts,
    }
}

/// Faults that end the request.
#[rustfmt::skip]
fn errors() -> Vec<Row> {
    vec![
        row("500",                           Read,  Fault::INTERNAL_ERROR,             [Created,   Created,   Unavailable],         3),
        row("503 SlowDown",                  Read,  Fault::SLOW_DOWN,                  [Created,   Created,   Unavailable],         3),
        row("403",                           Read,  Fault::ACCESS_DENIED,              [Failed,    Failed,    Failed],              1),
        row("closed before the response",    Read,  Fault::Cut,                        [Created,   Created,   Unavailable],         3),
        row("reset before the response",     Read,  Fault::Reset,                      [Created,   Created,   Unavailable],         3),
        row("reset in the body",             Read,  Fault::CutBody(PART_BYTES),        [Created,   Created,   Unavailable],         3),
        row("reset before the body",         Read,  Fault::CutBody(0),                 [Created,   Created,   Unavailable],         3),
        row("incomplete body",               Read,  Fault::ShortBody(PART_BYTES),      [Created,   Created,   Unavailable],         3),
        row("last byte missing",             Read,  Fault::ShortBody(DRAFT_BYTES - 1), [Created,   Created,   Unavailable],         3),
        row("corrupt body",                  Read,  Fault::CorruptBody,                [Created,   Created,   Unavailable],         3),
        row("wrong checksum",                Read,  Fault::WrongChecksum,              [Created,   Created,   Unavailable],         3),
        row("500",                           Write, Fault::INTERNAL_ERROR,             [Created,   Created,   Unavailable],         3),
        row("503 SlowDown",                  Write, Fault::SLOW_DOWN,                  [Created,   Created,   Unavailable],         3),
        row("403",                           Write, Fault::ACCESS_DENIED,              [Failed,    Failed,    Failed],              1),
        row("409",                           Write, Fault::CONFLICT,                   [Created,   Created,   Unavailable],         8),
        row("closed before the response",    Write, Fault::Cut,                        [Created,   Created,   Unavailable],         3),
        row("reset before the response",     Write, Fault::Reset,                      [Created,   Created,   Unavailable],         3),
        // The SDK does not retry BadDigest.
        row("corrupt upload",                Write, Fault::CorruptRequest,             [Unavailable; 3],                            1),
        row("response lost",                 Write, Fault::LoseResponse,               [Unchanged, Unchanged, UnavailableButSaved], 3),
    ]
}

/// Faults after which nothing is sent.
#[rustfmt::skip]
fn stalls() -> Vec<Row> {
    vec![
        row("stalled",                       Read,  Fault::Stall,                      [Created,   Created,   Unavailable],         3),
        row("body stalled",                  Read,  Fault::StallBody(PART_BYTES),      [Created,   Created,   Unavailable],         3),
        row("stalled",                       Write, Fault::Stall,                      [Created,   Created,   Unavailable],         3),
        row("response stalled",              Write, Fault::StallResponse,              [Unchanged, Unchanged, UnavailableButSaved], 3),
    ]
}

const COUNTS: [(&str, usize); 3] = [("once", 1), ("twice", 2), ("always", usize::MAX)];

/// Size of a draft in bytes: several packets.
const DRAFT_BYTES: usize = 100_000;
const PART_BYTES: usize = DRAFT_BYTES / 4;

/// More time than all attempts need.
const LONG_TIME: Duration = Duration::from_mins(1);
/// Less time than a stalled attempt takes.
const SHORT_TIME: Duration = Duration::from_millis(2500);
/// Time limit of an attempt in [`saver_with_short_timeouts`].
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Applies `fault` to `times` requests for the draft `id` at `step`.
fn apply(s3: &S3, step: Step, id: &str, times: usize, fault: Fault) -> ScriptedFault {
    let requests = match step {
        Read => When::op(Op::GetObject).key_starts_with(draft_key(id)),
        Write => When::op(Op::PutObject).key_starts_with(format!("saved/{id}/")),
    };
    s3.fault(requests.times(times), fault)
}

fn put_draft(s3: &S3, id: &str) -> Vec<u8> {
    let document = draft_of_size(DRAFT_BYTES, id.len() as u64);
    s3.put(BUCKET, &draft_key(id), &document);
    document
}

/// Checks that the store contains only the draft and, if it is expected, one version with its bytes.
#[track_caller]
fn assert_stored(s3: &S3, id: &str, document: &[u8], expected: Expected, case: &str) {
    let all = s3.keys(BUCKET, "");
    let keys = all.iter().filter(|key| key.contains(id));
    let keys: Vec<_> = keys.filter(|key| **key != draft_key(id)).collect();
    assert_eq!(
        keys.len(),
        usize::from(expected.has_version()),
        "{case}: {keys:?}"
    );
    for key in keys {
        let suffix = format!("Z-{}/draft_content.json", sha256_hex(document));
        assert!(
            key.starts_with(&format!("saved/{id}/")) && key.ends_with(&suffix),
            "{case}: {key}"
        );
        let stored = s3.get(BUCKET, key).expect("the version exists");
        assert!(stored == document, "{case}: {key} has other bytes");
    }
}

/// Saves a draft over HTTP by the real process, and checks the response, its time and the store.
async fn assert_save(
    env: &TestEnv,
    id: &str,
    document: &[u8],
    (expected, time_limit): (Expected, Duration),
    case: &str,
) {
    let start = Instant::now();
    let event = post_id(id).to_string();
    let pending = env.function.begin_within(event, time_limit);
    let response = pending.outcome().await.response();
    let elapsed = start.elapsed();
    assert!(elapsed < time_limit, "{case}: {elapsed:?}");
    assert_eq!(response["statusCode"], expected.status(), "{case}");
    let outcome = response["headers"]["draft-saved"].as_str();
    let expected_outcomes: &[_] = match expected {
        Created => &[Some("created")],
        Unchanged => &[Some("unchanged")],
        Saved => &[Some("created"), Some("unchanged")],
        Failed | Unavailable | UnavailableButSaved => &[None],
    };
    assert!(expected_outcomes.contains(&outcome), "{case}: {outcome:?}");
    if let Some(version) = response["headers"]["draft-version"].as_str() {
        let prefix = format!("saved/{id}/{version}/");
        assert_eq!(env.s3.keys(BUCKET, &prefix).len(), 1, "{case}: {version}");
    }
    assert_stored(&env.s3, id, document, expected, case);
}

#[tokio::test]
async fn each_fault_is_retried_or_reported_and_leaves_the_whole_version_or_nothing() {
    let mut cases = JoinSet::new();
    for (number, row) in errors().into_iter().enumerate() {
        // A process for each fault, because the SDK makes fewer attempts after many errors.
        cases.spawn(async move {
            let env = TestEnv::start().await;
            for ((count, times), expected) in COUNTS.into_iter().zip(row.expected) {
                let case = row.case(count);
                let id = format!("fault-{number}-{times:x}");
                let document = put_draft(&env.s3, &id);
                let fault = apply(&env.s3, row.step, &id, times, row.fault.clone());
                assert_save(&env, &id, &document, (expected, LONG_TIME), &case).await;
                assert_eq!(fault.hits(), times.min(row.attempts), "{case}: attempts");

                fault.clear();
                let expected = row.expected_after(expected);
                let case = format!("{case}, second save");
                assert_save(&env, &id, &document, (expected, LONG_TIME), &case).await;
            }
        });
    }
    cases.join_all().await;
}

#[tokio::test]
async fn the_response_comes_before_the_deadline_while_a_request_stalls_or_conflicts() {
    let mut cases = JoinSet::new();
    let conflict = errors().into_iter().filter(|row| row.name == "409");
    for (number, row) in stalls().into_iter().chain(conflict).enumerate() {
        cases.spawn(async move {
            let env = TestEnv::start().await;
            let case = row.case("until the deadline");
            // The start of the process is not part of the time.
            let document = put_draft(&env.s3, "first");
            assert_save(&env, "first", &document, (Created, LONG_TIME), &case).await;

            let id = format!("late-{number}");
            let document = put_draft(&env.s3, &id);
            let fault = apply(&env.s3, row.step, &id, usize::MAX, row.fault.clone());
            let expected = row.expected[2];
            assert_save(&env, &id, &document, (expected, SHORT_TIME), &case).await;

            fault.clear();
            let expected = row.expected_after(expected);
            let case = format!("{case}, second save");
            assert_save(&env, &id, &document, (expected, LONG_TIME), &case).await;
        });
    }
    cases.join_all().await;
}

fn saver_with_short_timeouts(s3: &S3) -> Saver {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT);
    let stalls = StalledStreamProtectionConfig::enabled().grace_period(ATTEMPT_TIMEOUT);
    let sdk_config = Endpoint::of(s3).sdk().into_builder();
    let sdk_config = sdk_config
        .timeout_config(timeouts.build())
        .stalled_stream_protection(stalls.build());
    saver(&sdk_config.build(), BUCKET)
}

/// Saves a draft by `saver`, and checks the result and the store.
async fn assert_save_by(
    saver: &Saver,
    s3: &S3,
    id: &str,
    document: &[u8],
    expected: Expected,
    case: &str,
) {
    let deadline = Instant::now() + LONG_TIME;
    let report = saver.save(id.parse().expect("a valid id"), deadline).await;
    let result = report.result.map(|saved| saved.outcome);
    let is_expected = match &result {
        Ok(CreateOutcome::Created) => matches!(expected, Created | Saved),
        Ok(CreateOutcome::AlreadyExists) => matches!(expected, Unchanged | Saved),
        Err(error) if error.kind() == ErrorKind::ServiceUnavailable => {
            matches!(expected, Unavailable | UnavailableButSaved)
        }
        Err(_) => false,
    };
    assert!(is_expected, "{case}: expected {expected:?}, got {result:?}");
    assert_stored(s3, id, document, expected, case);
}

#[tokio::test]
async fn a_stalled_request_is_retried() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 server starts"));
    // Created before the requests: in a debug build it blocks the thread.
    let saver = saver_with_short_timeouts(&s3);
    let mut cases = JoinSet::new();
    for (number, row) in stalls().into_iter().enumerate() {
        for ((count, times), expected) in COUNTS.into_iter().zip(row.expected) {
            let (row, s3, saver) = (row.clone(), Arc::clone(&s3), saver.clone());
            cases.spawn(async move {
                let case = row.case(count);
                let id = format!("stalled-{number}-{times:x}");
                let document = put_draft(&s3, &id);
                let fault = apply(&s3, row.step, &id, times, row.fault.clone());
                assert_save_by(&saver, &s3, &id, &document, expected, &case).await;
                assert_eq!(fault.hits(), times.min(row.attempts), "{case}: attempts");

                fault.clear();
                let expected = row.expected_after(expected);
                let case = format!("{case}, second save");
                assert_save_by(&saver, &s3, &id, &document, expected, &case).await;
            });
        }
    }
    cases.join_all().await;
}

#[tokio::test]
async fn refused_connections_are_unavailable_until_the_store_is_back() {
    for step in [Read, Write] {
        let env = TestEnv::start().await;
        let document = put_draft(&env.s3, "refused");
        let case = format!("refused in {step:?}");
        let fault = apply(&env.s3, step, "refused", usize::MAX, Fault::Refuse);
        for _ in 0..2 {
            assert_save(&env, "refused", &document, (Unavailable, LONG_TIME), &case).await;
        }
        assert_eq!(fault.hits(), 1, "{case}: requests before the refusal");
        fault.clear();
        env.s3.reopen().await;
        assert_save(&env, "refused", &document, (Created, LONG_TIME), &case).await;
    }
}

#[tokio::test]
async fn a_short_refusal_of_connections_is_retried() {
    for step in [Read, Write] {
        let s3 = S3::start_empty().await.expect("the S3 server starts");
        // The time until the store is back depends on the machine.
        let retries = RetryConfig::standard()
            .with_max_attempts(20)
            .with_initial_backoff(Duration::from_millis(50));
        let sdk_config = Endpoint::of(&s3).sdk().into_builder();
        let saver = saver(&sdk_config.retry_config(retries).build(), BUCKET);
        let document = put_draft(&s3, "refused");
        let fault = apply(&s3, step, "refused", 1, Fault::Refuse);
        let case = format!("refused once in {step:?}");
        let reopen = async {
            fault.wait_for_hits(1).await;
            s3.reopen().await;
        };
        let save = assert_save_by(&saver, &s3, "refused", &document, Created, &case);
        tokio::join!(save, reopen);
    }
}

#[tokio::test]
async fn a_killed_process_leaves_the_whole_version_or_nothing() {
    for (step, fault, expected, expected_after) in [
        (Read, Fault::Stall, Unavailable, Created),
        (Read, Fault::StallBody(PART_BYTES), Unavailable, Created),
        (Write, Fault::Stall, Unavailable, Saved),
        (Write, Fault::StallResponse, UnavailableButSaved, Unchanged),
    ] {
        let env = TestEnv::start().await;
        let document = put_draft(&env.s3, "killed");
        let fault = apply(&env.s3, step, "killed", usize::MAX, fault);
        let case = format!("killed in {step:?}");
        let pending = env.function.begin(&post_id("killed"));
        fault.wait_for_hits(1).await;
        while expected.has_version() && env.versions("killed").is_empty() {
            tokio::task::yield_now().await;
        }
        env.function.kill().await;
        assert_eq!(pending.outcome().await, Outcome::Exited, "{case}");
        assert_stored(&env.s3, "killed", &document, expected, &case);

        fault.clear();
        let function = common::start_function(&env.s3, &[]).await;
        let env = TestEnv { function, ..env };
        let expected = (expected_after, LONG_TIME);
        assert_save(&env, "killed", &document, expected, &case).await;
    }
}
