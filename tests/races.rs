//! Concurrent saves of one draft while it is overwritten, while requests fail and while the process is killed.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::hash::{BuildHasher as _, RandomState};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use save_draft::error::ErrorKind;
use save_draft::s3::CreateOutcome;
use save_draft::save::Saver;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, long_tests, post_id, sha256_hex};
use test_support::runtime::{Bootstrap, Outcome};
use test_support::s3::{Fault, Op, S3, ScriptedFault, When};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::common::{self, Endpoint};

/// Number of concurrent savers.
const SAVERS: usize = 200;
/// Number of states that are written during the saves.
const STATES: usize = 500;
const ID: &str = "raced";
const DRAFT_BYTES: usize = 4_000;
/// More time than a save without stalls needs.
const LONG_TIME: Duration = Duration::from_mins(2);

/// A draft, its writer, and the states that were written.
struct Draft {
    client: Client,
    bucket: String,
    /// The S3 server in this process, or `None` for an external store.
    s3: Option<Arc<S3>>,
    size: usize,
    /// Number of writes that have started.
    started: AtomicUsize,
    /// Number of writes that have ended.
    written: watch::Sender<usize>,
}

/// The result of a save, and the states that it may have saved.
#[derive(Debug)]
struct Observation {
    result: SaveResult,
    /// Number of writes that had ended before the save.
    written_before: usize,
    /// Number of writes that had started at the end of the save.
    started_after: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum SaveResult {
    Saved {
        version: String,
        is_created: bool,
    },
    Unavailable,
    /// The process ended before the response.
    Exited,
}

impl Draft {
    /// Creates a draft in the S3 server of this process.
    async fn local(size: usize) -> (Arc<Self>, Arc<S3>) {
        let s3 = Arc::new(S3::start_empty().await.expect("the S3 server starts"));
        let client = client_without_retries(&Endpoint::of(&s3));
        let draft = Self::new(client, BUCKET.to_owned(), size, Some(Arc::clone(&s3)));
        (Arc::new(draft), s3)
    }

    /// Creates a draft in a new bucket of the store at `S3_TEST_ENDPOINT`.
    async fn external(size: usize) -> (Arc<Self>, Endpoint) {
        let endpoint = Endpoint::external().expect("S3_TEST_ENDPOINT is set");
        let client = client_without_retries(&endpoint);
        let now = SystemTime::UNIX_EPOCH.elapsed();
        let bucket = format!("races-{}", now.expect("a time after 1970").as_micros());
        let created = client.create_bucket().bucket(&bucket).send().await;
        created.expect("the bucket is created");
        (Arc::new(Self::new(client, bucket, size, None)), endpoint)
    }

    fn new(client: Client, bucket: String, size: usize, s3: Option<Arc<S3>>) -> Self {
        Self {
            client,
            bucket,
            s3,
            size,
            started: AtomicUsize::new(0),
            written: watch::Sender::new(0),
        }
    }

    /// Returns the document of a state. States differ in size.
    fn state(&self, number: usize) -> Vec<u8> {
        draft_of_size(self.size + number % 97, number as u64)
    }

    /// Overwrites the draft with its next state. In this process, five states have the same second.
    async fn write(&self) {
        let number = self.started.fetch_add(1, Ordering::SeqCst);
        if let Some(s3) = &self.s3 {
            let start = Duration::from_secs(1_759_060_050); // 2025-09-28T11:47:30Z
            let elapsed =
                Duration::from_millis(200) * u32::try_from(number).expect("a small number");
            s3.set_clock(SystemTime::UNIX_EPOCH + start + elapsed);
        }
        let put = self.client.put_object().bucket(&self.bucket);
        let put = put.key(draft_key(ID)).body(self.state(number).into());
        put.send().await.expect("the draft is written");
        self.written.send_replace(number + 1);
    }

    async fn write_states(&self, count: usize) {
        for _ in 0..count {
            self.write().await;
        }
    }

    /// Waits until `count` states have been written.
    async fn wait_for_states(&self, count: usize) {
        let mut written = self.written.subscribe();
        let reached = written.wait_for(|written| *written >= count).await;
        drop(reached.expect("the sender is part of `self`"));
    }

    async fn save(&self, function: &Function) -> Observation {
        let written_before = *self.written.borrow();
        let result = function.save(ID).await;
        let started_after = self.started.load(Ordering::SeqCst);
        Observation {
            result,
            written_before,
            started_after,
        }
    }

    /// Returns the stored versions, by name.
    async fn versions(&self) -> BTreeMap<String, Vec<u8>> {
        let list = self.client.list_objects_v2().bucket(&self.bucket);
        let mut pages = list.prefix(format!("saved/{ID}/")).into_paginator().send();
        let mut versions = BTreeMap::new();
        while let Some(page) = pages.next().await {
            for object in page.expect("the bucket can be listed").contents() {
                let key = object.key().expect("a key");
                let get = self.client.get_object().bucket(&self.bucket).key(key);
                let body = get.send().await.expect("the version exists").body;
                let bytes = body.collect().await.expect("the whole body").to_vec();
                let name = key.split('/').nth(2).expect("the name of a version");
                versions.insert(name.to_owned(), bytes);
            }
        }
        versions
    }

    /// Checks the stored versions and the results of the saves. `all_observed` means that the response of each save is
    /// known, so that each version was created by exactly one of them.
    async fn verify(&self, observations: &[Observation], all_observed: bool) -> Summary {
        let states: HashMap<String, usize> = (0..*self.written.borrow())
            .map(|number| (sha256_hex(&self.state(number)), number))
            .collect();
        let versions = self.versions().await;

        // Each version is one state, with its name.
        let mut times = BTreeMap::new();
        let mut numbers = HashMap::new();
        for (name, bytes) in &versions {
            let digest = sha256_hex(bytes);
            let number = states.get(&digest);
            let number = *number.unwrap_or_else(|| panic!("{name} was never written"));
            let (time, hash) = name.split_once('-').expect("a time and a hash");
            assert_eq!(hash, digest, "{name} has the hash of another state");
            let other = times.insert(number, time);
            assert_eq!(other, None, "state {number} has two versions");
            numbers.insert(name.as_str(), number);
        }
        let sorted: Vec<&str> = times.values().copied().collect();
        assert!(sorted.is_sorted(), "versions are not sorted: {times:?}");

        // Each success names a version, and not of a state that had been overwritten before the save.
        let mut creations = HashMap::new();
        for observation in observations {
            if let SaveResult::Saved {
                version,
                is_created,
            } = &observation.result
            {
                let number = numbers.get(version.as_str());
                let number = *number.unwrap_or_else(|| panic!("{version} does not exist"));
                let (first, last) = (observation.written_before, observation.started_after);
                assert!(
                    (first..=last).contains(&(number + 1)),
                    "state {number} is older than state {first} or newer than {last}"
                );
                *creations.entry(number).or_insert(0) += usize::from(*is_created);
            }
        }
        let reported = creations.len();
        assert!(
            !all_observed || reported == versions.len(),
            "a version that no save reported"
        );
        creations.retain(|_, count| *count > 1 || (all_observed && *count == 0));
        assert!(
            creations.is_empty(),
            "states that were not created by one save: {creations:?}"
        );

        let count = |is_match: fn(&SaveResult) -> bool| {
            let results = observations.iter().map(|observation| &observation.result);
            results.filter(|result| is_match(result)).count()
        };
        let summary = Summary {
            saved: count(|result| matches!(result, SaveResult::Saved { .. })),
            unavailable: count(|result| *result == SaveResult::Unavailable),
            exited: count(|result| *result == SaveResult::Exited),
            versions: versions.len(),
        };
        println!("{summary:?}");
        summary
    }
}

/// The number of saves by result, and of versions.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
struct Summary {
    saved: usize,
    unavailable: usize,
    exited: usize,
    versions: usize,
}

/// Creates a client for the writer. A repeated write would create a second state.
fn client_without_retries(endpoint: &Endpoint) -> Client {
    let sdk_config = endpoint.sdk().into_builder();
    let sdk_config = sdk_config
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    common::client(&sdk_config.build())
}

/// Saves drafts in this process, or in a process of its own over the Runtime API.
#[derive(Clone)]
enum Function {
    Saver(Arc<Saver>, Duration),
    Process(Arc<Bootstrap>),
}

impl Function {
    async fn save(&self, id: &str) -> SaveResult {
        match self {
            Self::Saver(saver, time_limit) => {
                let deadline = Instant::now() + *time_limit;
                let report = saver.save(id.parse().expect("a valid id"), deadline).await;
                match report.result {
                    Ok(saved) => SaveResult::Saved {
                        version: saved.version.to_string(),
                        is_created: saved.outcome == CreateOutcome::Created,
                    },
                    Err(error) => {
                        let cause = error.cause_chain();
                        assert_eq!(error.kind(), ErrorKind::ServiceUnavailable, "{cause}");
                        SaveResult::Unavailable
                    }
                }
            }
            Self::Process(function) => {
                let event = post_id(id).to_string();
                let response = match function.begin_within(event, LONG_TIME).outcome().await {
                    Outcome::Exited => return SaveResult::Exited,
                    outcome => outcome.response(),
                };
                let header = |name: &str| response["headers"][name].as_str();
                match response["statusCode"].as_u64() {
                    Some(200) => SaveResult::Saved {
                        version: header("draft-version").expect("a version").to_owned(),
                        is_created: header("draft-saved") == Some("created"),
                    },
                    Some(503) => SaveResult::Unavailable,
                    other => panic!("expected 200 or 503, got {other:?}"),
                }
            }
        }
    }
}

/// Writes [`STATES`] states while [`SAVERS`] save the draft: some of them at the same time and some one after the
/// other, or with `LONG=1` all the time. Then each saves the last state.
async fn race(draft: &Arc<Draft>, function: &Function) -> Vec<Observation> {
    let waves = if long_tests() { STATES } else { 2 };
    draft.write().await;
    let mut savers = JoinSet::new();
    for saver in 0..SAVERS {
        let (draft, function) = (Arc::clone(draft), function.clone());
        savers.spawn(async move {
            let mut observations = Vec::new();
            for wave in 0..waves {
                // In every other wave the savers start one after the other.
                let offset = wave % 2 * saver * STATES / SAVERS;
                draft
                    .wait_for_states((wave * STATES + offset) / waves)
                    .await;
                if !long_tests() || *draft.written.borrow() < STATES {
                    observations.push(draft.save(&function).await);
                }
            }
            draft.wait_for_states(STATES).await;
            observations.push(draft.save(&function).await);
            observations
        });
    }
    draft.write_states(STATES - 1).await;
    savers.join_all().await.into_iter().flatten().collect()
}

/// Starts a process that runs `concurrency` invocations at the same time.
async fn start_process(s3: &S3, concurrency: usize) -> Arc<Bootstrap> {
    let concurrency = concurrency.to_string();
    let variables = [("AWS_LAMBDA_MAX_CONCURRENCY", concurrency.as_str())];
    Arc::new(common::start_function(s3, &variables).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_saves_report_states_that_are_stored() {
    let (draft, s3) = Draft::local(DRAFT_BYTES).await;
    let function = Function::Process(start_process(&s3, SAVERS).await);
    let observations = race(&draft, &function).await;
    let summary = draft.verify(&observations, true).await;
    assert_eq!(summary.saved, observations.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_saves_with_faults_report_states_that_are_stored() {
    let (draft, s3) = Draft::local(DRAFT_BYTES).await;
    let read = |seed| {
        When::op(Op::GetObject)
            .key_starts_with("drafts/")
            .rate(0.02, seed)
    };
    let write = |seed| {
        When::op(Op::PutObject)
            .key_starts_with("saved/")
            .rate(0.02, seed)
    };
    let faults = [
        s3.fault(read(1), Fault::INTERNAL_ERROR),
        s3.fault(read(2), Fault::Cut),
        s3.fault(read(3), Fault::CutBody(1_000)),
        s3.fault(read(4), Fault::CorruptBody),
        s3.fault(write(5), Fault::SLOW_DOWN),
        s3.fault(write(6), Fault::CONFLICT),
        s3.fault(write(7), Fault::Reset),
        s3.fault(write(8), Fault::CorruptRequest),
        s3.fault(write(9), Fault::LoseResponse),
    ];
    let function = Function::Process(start_process(&s3, SAVERS).await);
    let observations = race(&draft, &function).await;
    s3.clear_faults();
    let summary = draft.verify(&observations, false).await;
    let hits: usize = faults.iter().map(ScriptedFault::hits).sum();
    assert!(hits > 0 && summary.saved > 0, "{hits} faults");
    assert_eq!(summary.saved + summary.unavailable, observations.len());
}

/// Returns a random number below `limit`.
fn random(limit: usize) -> usize {
    let bits = RandomState::new().hash_one(limit);
    usize::try_from(bits % limit as u64).expect("a number below the limit")
}

/// Kills 20 processes, or 200 with `LONG=1`, each at a random request.
#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_leave_whole_versions() {
    const CONCURRENCY: usize = 8;
    let kills = if long_tests() { 200 } else { 20 };
    // Large enough to be killed during the transfer of a body.
    let (draft, s3) = Draft::local(400_000).await;
    draft.write().await;
    let mut observations = Vec::new();
    for _ in 0..kills {
        let process = start_process(&s3, CONCURRENCY).await;
        let function = Function::Process(Arc::clone(&process));
        let mut saves = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (draft, function) = (Arc::clone(&draft), function.clone());
            saves.spawn(async move { draft.save(&function).await });
        }
        let reached = Arc::new(Notify::new());
        let notify = {
            let reached = Arc::clone(&reached);
            Fault::Run(Arc::new(move |_| reached.notify_one()))
        };
        let requests = When::any()
            .and(|request| request.op == Op::GetObject || request.key.starts_with("saved/"));
        let fault = s3.fault(requests.after(random(2 * CONCURRENCY)).once(), notify);
        let kill = async {
            reached.notified().await;
            for _ in 0..random(400) {
                tokio::task::yield_now().await;
            }
            process.kill().await;
        };
        tokio::join!(draft.write_states(2), kill);
        fault.clear();
        observations.extend(saves.join_all().await);
    }
    let function = Function::Process(start_process(&s3, 1).await);
    let last = draft.save(&function).await;
    assert!(matches!(last.result, SaveResult::Saved { .. }), "{last:?}");
    observations.push(last);

    let summary = draft.verify(&observations, false).await;
    assert_eq!(summary.saved + summary.exited, observations.len());
    assert!(summary.exited > 0, "no process was killed during a save");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a store at S3_TEST_ENDPOINT"]
async fn concurrent_saves_in_an_external_store_report_states_that_are_stored() {
    let (draft, endpoint) = Draft::external(DRAFT_BYTES).await;
    let saver = common::saver(&endpoint.sdk(), &draft.bucket);
    let observations = race(&draft, &Function::Saver(Arc::new(saver), LONG_TIME)).await;
    let summary = draft.verify(&observations, true).await;
    assert_eq!(summary.saved, observations.len());
}

/// Sends a signal to the OSD of `tests/ceph.sh`.
fn signal_osd(signal: &str) {
    let pid = env::var("CEPH_OSD_PID").expect("CEPH_OSD_PID is set");
    let kill = Command::new("kill").args([signal, &pid]).status();
    assert!(kill.expect("kill starts").success(), "the OSD runs");
}

/// Stops Ceph's OSD during concurrent saves, and continues it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs tests/ceph.sh"]
async fn saves_during_an_outage_end_before_their_deadline_and_lose_nothing() {
    let (draft, endpoint) = Draft::external(DRAFT_BYTES).await;
    let time_limit = Duration::from_secs(5);
    let saver = common::saver(&endpoint.sdk(), &draft.bucket);
    let function = Function::Saver(Arc::new(saver.clone()), time_limit);

    draft.write_states(10).await;
    let is_over = Arc::new(watch::Sender::new(false));
    let mut savers = JoinSet::new();
    for _ in 0..SAVERS {
        let (draft, function) = (Arc::clone(&draft), function.clone());
        let is_over = Arc::clone(&is_over);
        savers.spawn(async move {
            let mut observations = Vec::new();
            let mut longest = Duration::ZERO;
            while !*is_over.borrow() {
                let start = Instant::now();
                let observation = draft.save(&function).await;
                longest = longest.max(start.elapsed());
                let is_unavailable = observation.result == SaveResult::Unavailable;
                observations.push(observation);
                if is_unavailable {
                    // `Retry-After: 1`
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            (observations, longest)
        });
    }
    let writer = tokio::spawn({
        let draft = Arc::clone(&draft);
        async move { draft.write_states(STATES / 10).await }
    });
    draft.wait_for_states(20).await;
    signal_osd("-STOP");
    let start = Instant::now();
    let during = draft.save(&function).await;
    let mut longest = start.elapsed();
    signal_osd("-CONT");
    assert_eq!(during.result, SaveResult::Unavailable);

    writer.await.expect("the states are written");
    let after = draft
        .save(&Function::Saver(Arc::new(saver), LONG_TIME))
        .await;
    assert!(
        matches!(after.result, SaveResult::Saved { .. }),
        "{after:?}"
    );
    is_over.send_replace(true);
    let mut observations = vec![during, after];
    for (others, time) in savers.join_all().await {
        observations.extend(others);
        longest = longest.max(time);
    }
    let summary = draft.verify(&observations, false).await;
    assert_eq!(summary.saved + summary.unavailable, observations.len());
    assert!(
        summary.unavailable > SAVERS / 2,
        "the outage affected {} saves",
        summary.unavailable
    );
    assert!(longest < time_limit + Duration::from_secs(1), "{longest:?}");
}
