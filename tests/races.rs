//! Many savers of one draft while it changes, while requests fail and while the process is killed, with and without
//! `SAVE_FILES`.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, long_tests, post_id};
use test_support::runtime::{Bootstrap, memory_kib, with_timeout};
use test_support::s3::{Fault, Op, S3, ScriptedFault, When};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::common::drafts::{
    Files, SAVE_FILES, file_key, put_document, put_files, read_version_by, save, versions,
};
use crate::common::{self, Endpoint};
use crate::faults::End::{Saved, Unavailable};
use crate::faults::assert_end;

const ID: &str = "raced";
const DRAFT_BYTES: usize = 4_000;
/// More time than a save without stalls needs.
const LONG_TIME: Duration = Duration::from_mins(2);

/// The document and the files of a draft at one moment.
type State = (Vec<u8>, Files);

/// A draft that one writer changes while many savers save it.
struct Race {
    endpoint: Endpoint,
    client: Client,
    bucket: String,
    /// The S3 server in this process, or `None` for an external store.
    s3: Option<Arc<S3>>,
    save_files: bool,
    /// All states so far. The last may not have been written yet.
    states: Mutex<Vec<State>>,
    /// Number of states that have been written.
    written: watch::Sender<usize>,
    /// The newest state that had been written when a save began that succeeded.
    saved: watch::Sender<usize>,
}

/// The result of a save, and the states that the draft had meanwhile.
#[derive(Debug)]
struct Observation {
    /// `None` after a 503.
    version: Option<String>,
    is_created: bool,
    first: usize,
    last: usize,
    elapsed: Duration,
}

impl Race {
    /// Creates a draft in an S3 server in this process.
    async fn local(save_files: bool) -> (Arc<Self>, Arc<S3>) {
        let s3 = Arc::new(S3::start_empty().await.expect("the S3 server starts"));
        let (endpoint, s3_of_race) = (Endpoint::of(&s3), Some(Arc::clone(&s3)));
        let race = Self::new(endpoint, BUCKET.to_owned(), s3_of_race, save_files);
        (race.await, s3)
    }

    /// Creates a draft in a new bucket of the store at `S3_TEST_ENDPOINT`.
    async fn external() -> Arc<Self> {
        let endpoint = Endpoint::external().expect("S3_TEST_ENDPOINT is set");
        let now = SystemTime::UNIX_EPOCH.elapsed();
        let bucket = format!("races-{}", now.expect("a time after 1970").as_micros());
        let client = client_without_retries(&endpoint);
        let created = client.create_bucket().bucket(&bucket).send().await;
        created.expect("the bucket is created");
        Self::new(endpoint, bucket, None, false).await
    }

    async fn new(
        endpoint: Endpoint,
        bucket: String,
        s3: Option<Arc<S3>>,
        save_files: bool,
    ) -> Arc<Self> {
        let race = Self {
            client: client_without_retries(&endpoint),
            endpoint,
            bucket,
            s3,
            save_files,
            states: Mutex::default(),
            written: watch::Sender::new(0),
            saved: watch::Sender::new(0),
        };
        let first = (document(0), Files::new());
        race.write(first, &draft_key(ID)).await;
        Arc::new(race)
    }

    /// Starts a process that runs `concurrency` invocations at the same time.
    async fn start_process(&self, concurrency: usize) -> Arc<Bootstrap> {
        start_process(&self.endpoint, &self.bucket, concurrency, self.save_files).await
    }

    /// Adds a state, and writes the object in which it differs from the one before.
    async fn write(&self, state: State, key: &str) {
        let path = key
            .strip_prefix(&file_key(ID, ""))
            .expect("a file of the draft");
        let content = if key == draft_key(ID) {
            Some(state.0.clone())
        } else {
            state.1.get(path).cloned()
        };
        let number = {
            let mut states = self.states.lock().expect("not poisoned");
            states.push(state);
            states.len()
        };
        if let Some(s3) = &self.s3 {
            // Five states have the same second.
            let start = Duration::from_secs(1_759_060_050); // 2025-09-28T11:47:30Z
            let elapsed = Duration::from_millis(200) * u32::try_from(number).expect("small");
            s3.set_clock(SystemTime::UNIX_EPOCH + start + elapsed);
        }
        if let Some(content) = content {
            let put = self.client.put_object().bucket(&self.bucket).key(key);
            let put = put.body(content.into()).send().await;
            put.expect("the object is written");
        } else {
            let delete = self.client.delete_object().bucket(&self.bucket).key(key);
            delete.send().await.expect("the object is deleted");
        }
        self.written.send_replace(number);
    }

    /// Waits until the S3 server of this process has received this many requests more.
    async fn wait_for_requests(&self, count: u64) {
        if let Some(s3) = &self.s3 {
            let now = s3.requests().last().map_or(0, |request| request.number);
            s3.clear_requests();
            with_timeout(s3.wait_for(|request| request.number >= now + count)).await;
        }
    }

    /// Changes the document or, with `SAVE_FILES`, perhaps a file: overwrites, adds or deletes it.
    async fn change(&self, random: &mut fastrand::Rng) {
        let (mut state, number) = {
            let states = self.states.lock().expect("not poisoned");
            (states.last().expect("a first state").clone(), states.len())
        };
        let path = format!("assets/{}", random.u8(0..8));
        let mut key = file_key(ID, &path);
        match random.u8(0..6) {
            2 | 3 if self.save_files => drop(state.1.remove(&path)),
            4 | 5 if self.save_files => drop(state.1.insert(path, number.to_string().into())),
            _ => {
                state.0 = document(number);
                key = draft_key(ID);
            }
        }
        self.write(state, &key).await;
    }

    /// Saves the draft within `limit`, and expects 200 or 503.
    async fn save(&self, function: &Bootstrap, limit: Duration) -> Observation {
        let first = *self.written.borrow() - 1;
        let start = Instant::now();
        let pending = function.begin_within(post_id(ID).to_string(), limit);
        let response = pending.outcome().await.response();
        let elapsed = start.elapsed();
        let last = self.states.lock().expect("not poisoned").len() - 1;
        let header = |name: &str| response["headers"][name].as_str().map(str::to_owned);
        let version = header("draft-version");
        if version.is_some() {
            self.saved.send_modify(|saved| *saved = first.max(*saved));
        } else {
            assert_eq!(response["statusCode"], 503, "{response}");
        }
        Observation {
            version,
            is_created: header("draft-saved").as_deref() == Some("created"),
            first,
            last,
            elapsed,
        }
    }

    /// Returns the objects with this prefix.
    async fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let list = self.client.list_objects_v2().bucket(&self.bucket);
        let mut pages = list.prefix(prefix).into_paginator().send();
        let mut objects = BTreeMap::new();
        while let Some(page) = pages.next().await {
            for object in page.expect("the bucket can be listed").contents() {
                let key = object.key().expect("a key");
                let get = self.client.get_object().bucket(&self.bucket).key(key);
                let body = get.send().await.expect("the object exists").body;
                let bytes = body.collect().await.expect("the whole body").to_vec();
                objects.insert(key.to_owned(), bytes);
            }
        }
        objects
    }

    /// Checks the stored versions and the results of the saves. Without faults, the response of each save is known, so that
    /// each version was created by exactly one of them.
    async fn verify(&self, observations: &[Observation], without_faults: bool) {
        let objects = self.objects("saved").await;
        let states = self.states.lock().expect("not poisoned");
        // Each version is complete, and one state.
        let mut numbers = BTreeMap::new();
        for key in objects.keys() {
            let name = key.strip_prefix(&format!("saved/{ID}/"));
            let Some(name) = name.and_then(|name| name.strip_suffix("/draft_content.json")) else {
                continue;
            };
            let saved = read_version_by(|key| objects.get(key).cloned(), ID, name);
            let number = states
                .iter()
                .enumerate()
                .filter(|(_, state)| **state == saved);
            let number: Vec<_> = number.map(|(number, _)| number).collect();
            assert!(!number.is_empty(), "{name} was never a state");
            numbers.insert(name, number);
        }
        if !self.save_files {
            let by_time: Vec<_> = numbers
                .iter()
                .map(|(name, number)| (&name[..16], number))
                .collect();
            let is_sorted = by_time.iter().all(|(time, number)| {
                by_time
                    .iter()
                    .all(|(later, other)| later <= time || other > number)
            });
            assert!(is_sorted, "versions are not sorted: {numbers:?}");
            let distinct: BTreeSet<_> = numbers.values().collect();
            assert_eq!(distinct.len(), numbers.len(), "a state has two versions");
        }
        // The key of a copy names its content.
        for key in objects.keys().filter(|key| key.starts_with("saved-files/")) {
            let s3 = self.s3.as_ref().expect("external stores save no files");
            let copy = s3.metadata(&self.bucket, key).expect("the copy exists");
            assert_eq!(key.split('/').nth(2), Some(&*copy.etag), "{key}");
        }
        // Each success names a version of a state that the draft had during the save.
        let mut creations = BTreeMap::new();
        for observation in observations {
            let Some(version) = &observation.version else {
                continue;
            };
            let number = numbers.get(version.as_str());
            let number = number.unwrap_or_else(|| panic!("{version} does not exist"));
            let window = observation.first..=observation.last;
            let is_current = number.iter().any(|number| window.contains(number));
            assert!(
                is_current,
                "{version} is state {number:?}, not one of {window:?}"
            );
            *creations.entry(version.as_str()).or_insert(0) += usize::from(observation.is_created);
        }
        for name in numbers.keys() {
            let count = creations.get(name).copied().unwrap_or_default();
            let is_expected = count == 1 || (!without_faults && count == 0);
            assert!(is_expected, "{name} was created by {count} saves");
        }
        println!(
            "{} of {} saves succeeded, {} states, {} versions",
            observations.len() - unavailable(observations),
            observations.len(),
            states.len(),
            numbers.len()
        );
    }
}

/// Returns the number of saves that were answered with 503.
fn unavailable(observations: &[Observation]) -> usize {
    let observations = observations.iter();
    observations.filter(|it| it.version.is_none()).count()
}

/// Returns the document of a state. They differ in size.
fn document(number: usize) -> Vec<u8> {
    draft_of_size(DRAFT_BYTES + number % 97, number as u64)
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

/// Many clients that save the draft all the time, each within `limit`.
struct Savers {
    tasks: JoinSet<Vec<Observation>>,
    is_over: Arc<AtomicBool>,
}

impl Savers {
    fn start(race: &Arc<Race>, function: &Arc<Bootstrap>, count: usize, limit: Duration) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (race, function) = (Arc::clone(race), Arc::clone(function));
            let is_over = Arc::clone(&is_over);
            tasks.spawn(async move {
                let mut observations = Vec::new();
                while !is_over.load(SeqCst) {
                    observations.push(race.save(&function, limit).await);
                }
                observations.push(race.save(&function, limit).await);
                observations
            });
        }
        Self { tasks, is_over }
    }

    /// Lets each save the last state.
    async fn end(self) -> Vec<Observation> {
        self.is_over.store(true, SeqCst);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

/// Changes the draft in rounds while `savers` save it.
async fn race(race: &Arc<Race>, function: &Arc<Bootstrap>, savers: usize) -> Vec<Observation> {
    let rounds = if long_tests() { 200 } else { 6 };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let savers = Savers::start(race, function, savers, LONG_TIME);
    let mut memory = Vec::new();
    for _ in 0..rounds {
        // A few changes, with some requests of the savers between them. A save with files needs a pause to succeed.
        for _ in 0..random.usize(1..if race.save_files { 5 } else { 20 }) {
            race.change(&mut random).await;
            race.wait_for_requests(random.u64(0..40)).await;
        }
        // Then none until a state that is not older was saved.
        if random.bool() {
            let state = *race.written.borrow() - 1;
            let mut saved = race.saved.subscribe();
            drop(with_timeout(saved.wait_for(|saved| *saved >= state)).await);
        }
        memory.push(memory_kib(function.pid(), "VmRSS"));
    }
    println!("memory in KiB after each round: {memory:?}");
    let (third, last) = (memory[rounds / 3], memory[rounds - 1]);
    // In the first rounds, connections and buffers are added.
    let is_stable = last < third + third / 4 || !long_tests();
    assert!(is_stable, "memory grew from {third} KiB to {last} KiB");
    savers.end().await
}

async fn start_process(
    endpoint: &Endpoint,
    bucket: &str,
    concurrency: usize,
    save_files: bool,
) -> Arc<Bootstrap> {
    let concurrency = concurrency.to_string();
    let variables = [
        ("AWS_LAMBDA_MAX_CONCURRENCY", concurrency.as_str()),
        ("DRAFT_BUCKET", bucket),
        SAVE_FILES,
    ];
    let variables = &variables[..2 + usize::from(save_files)];
    Arc::new(common::start_function_with(endpoint, variables).await)
}

/// Races savers in a process of their own.
async fn race_locally(save_files: bool, with_faults: bool) {
    let savers = if save_files { 32 } else { 100 };
    let (draft, s3) = Race::local(save_files).await;
    let function = draft.start_process(savers).await;
    let faults = if with_faults {
        add_faults(&s3)
    } else {
        Vec::new()
    };
    let observations = race(&draft, &function, savers).await;
    s3.clear_faults();
    draft.verify(&observations, !with_faults).await;
    let unavailable = unavailable(&observations);
    assert!(unavailable < observations.len(), "no save succeeded");
    if with_faults {
        let hits = faults.iter().map(ScriptedFault::hits);
        assert!(hits.sum::<usize>() > 0, "no fault occurred");
        return;
    }
    if !save_files {
        assert_eq!(unavailable, 0, "a save of a document needs no quiet moment");
    }
    let last = draft.save(&function, LONG_TIME).await;
    assert_eq!(last.first, last.last);
    assert!(last.version.is_some() && !last.is_created, "{last:?}");
}

fn add_faults(s3: &S3) -> Vec<ScriptedFault> {
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
    let copy = |seed| When::op(Op::CopyObject).rate(0.05, seed);
    vec![
        s3.fault(read(1), Fault::INTERNAL_ERROR),
        s3.fault(read(2), Fault::Cut),
        s3.fault(read(3), Fault::CutBody(1_000)),
        s3.fault(read(4), Fault::CorruptBody),
        s3.fault(write(5), Fault::SLOW_DOWN),
        s3.fault(write(6), Fault::CONFLICT),
        s3.fault(write(7), Fault::Reset),
        s3.fault(write(8), Fault::CorruptRequest),
        s3.fault(write(9), Fault::LoseResponse),
        s3.fault(copy(10), Fault::INTERNAL_ERROR),
        s3.fault(copy(11), Fault::LoseResponse),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_savers_save_states_that_existed_at_one_moment() {
    race_locally(false, false).await;
    race_locally(true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_savers_with_faults_save_states_that_existed_at_one_moment() {
    race_locally(false, true).await;
    race_locally(true, true).await;
}

/// Kills processes, 20 or with `LONG=1` 200 of each kind, at a random request of a save.
#[tokio::test]
async fn a_killed_function_leaves_no_version_or_a_complete_one() {
    for save_files in [false, true] {
        kill_processes(save_files, if long_tests() { 200 } else { 20 }).await;
    }
}

async fn kill_processes(save_files: bool, rounds: usize) {
    let paths: &[_] = if save_files {
        &["0.mp4", "1.mp4", "2.mp4"]
    } else {
        &[]
    };
    let requests = if save_files { paths.len() + 7 } else { 2 };
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let endpoint = Endpoint::of(&s3);
    let start = || start_process(&endpoint, BUCKET, 1, save_files);
    let mut function = start().await;
    let mut found = 0;
    for round in 0..rounds {
        let id = format!("killed-{round}");
        let document = put_document(&s3, &id);
        let files = put_files(&s3, &id, paths.iter().copied());

        // Before the request is served, after it, in its body, or while the function goes on.
        let (fault, request) = (random.usize(0..4), random.usize(0..requests));
        let case = format!("seed {seed}, round {round}: fault {fault}, request {request}");
        let fault = match fault {
            0 => Fault::Stall,
            1 => Fault::StallResponse,
            2 => Fault::StallBody(100),
            _ => Fault::Run(Arc::new(|_| {})),
        };
        let fault = s3.fault(When::any().after(request).once(), fault);
        let pending = function.begin(&post_id(&id));
        fault.wait_for_hits(1).await;
        function.kill().await;
        drop(pending);
        let versions = versions(&s3, BUCKET, &id);
        found += versions.len();
        let end = if versions.is_empty() {
            Unavailable
        } else {
            Saved
        };
        assert_end(&s3, &id, &document, &files, end, &case);

        fault.clear();
        function = start().await;
        let next = save(&function, &id).await;
        assert_eq!(next.status, 200, "{case}: {}", next.line);
        next.assert_saved(&s3, &id, &document, &files);
        assert_end(&s3, &id, &document, &files, Saved, &case);
        let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
        assert_eq!(copies.len(), files.len(), "{case}");
    }
    println!("{rounds} kills, {found} of them after the version was created");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a store at S3_TEST_ENDPOINT"]
async fn concurrent_saves_in_an_external_store_report_states_that_are_stored() {
    const SAVERS: usize = 200;
    let draft = Race::external().await;
    let function = draft.start_process(SAVERS).await;
    let observations = race(&draft, &function, SAVERS).await;
    draft.verify(&observations, true).await;
    assert_eq!(unavailable(&observations), 0);
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
    const SAVERS: usize = 200;
    let limit = Duration::from_secs(5);
    let draft = Race::external().await;
    let function = draft.start_process(SAVERS + 1).await;
    let savers = Savers::start(&draft, &function, SAVERS, limit);
    let mut random = fastrand::Rng::new();
    for _ in 0..20 {
        draft.change(&mut random).await;
    }
    signal_osd("-STOP");
    let during = draft.save(&function, limit).await;
    signal_osd("-CONT");
    assert_eq!(during.version, None);
    for _ in 0..40 {
        draft.change(&mut random).await;
    }
    let after = draft.save(&function, LONG_TIME).await;
    assert!(after.version.is_some(), "{after:?}");
    let mut observations = savers.end().await;
    let longest = observations.iter().map(|it| it.elapsed).max();
    observations.extend([during, after]);
    draft.verify(&observations, false).await;
    let unavailable = unavailable(&observations);
    assert!(
        unavailable > SAVERS / 2,
        "the outage affected {unavailable} saves"
    );
    assert!(
        longest < Some(limit + Duration::from_secs(1)),
        "{longest:?}"
    );
}
