//! Many saves of one draft at once, while it is being overwritten, and while the function
//! is killed: through real HTTP, and against other stores too.

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
use save_draft::save::Saver;
use save_draft::store::CreateOutcome;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, long_tests, post_id, sha256_hex};
use test_support::runtime::{Bootstrap, Outcome};
use test_support::s3::{Fault, Op, S3, ScriptedFault, When};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::common::{self, Endpoint};

/// How many save at once.
const SAVERS: usize = 200;
/// How often the draft is overwritten meanwhile.
const WRITES: usize = 500;
/// The draft.
const ID: &str = "raced";
/// How long a save may take where nothing stands still: far more than it does.
const AMPLE: Duration = Duration::from_mins(2);

/// A draft, who writes it, and all that was ever said about it.
struct Race {
    client: Client,
    bucket: String,
    /// The S3 in this process, whose clock we set; `None` for another.
    s3: Option<Arc<S3>>,
    size: usize,
    /// How many states are being written, or have been.
    begun: AtomicUsize,
    /// How many states have been written.
    written: watch::Sender<usize>,
}

/// What a saver was told, and which states it may have been told of.
#[derive(Debug)]
struct Told {
    answer: Answer,
    /// How many states had been written when the save began.
    from: usize,
    /// How many had been begun when it ended.
    to: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// 200.
    Saved { version: String, created: bool },
    /// 503.
    Busy,
    /// 404.
    Missing,
    /// None: the function's process was gone.
    Exited,
}

impl Race {
    /// One in this process: seconds pass as states are written, five states in each.
    async fn here(size: usize) -> (Arc<Self>, Arc<S3>) {
        let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
        let client = writer(&Endpoint::of(&s3));
        let race = Self::new(client, BUCKET.to_owned(), size, Some(Arc::clone(&s3)));
        (Arc::new(race), s3)
    }

    /// One in a bucket of its own at `S3_TEST_ENDPOINT`.
    async fn there(size: usize) -> (Arc<Self>, Endpoint) {
        let endpoint = Endpoint::external().expect("S3_TEST_ENDPOINT is set");
        let client = writer(&endpoint);
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970");
        let bucket = format!("races-{}", now.as_micros());
        let create = client.create_bucket().bucket(&bucket);
        create.send().await.expect("the bucket is made");
        (Arc::new(Self::new(client, bucket, size, None)), endpoint)
    }

    fn new(client: Client, bucket: String, size: usize, s3: Option<Arc<S3>>) -> Self {
        Self {
            client,
            bucket,
            s3,
            size,
            begun: AtomicUsize::new(0),
            written: watch::Sender::new(0),
        }
    }

    /// The document of a state: no two share a segment.
    fn state(&self, number: usize) -> Vec<u8> {
        // Not all of one length, so that a mixture would be seen by that too.
        draft_of_size(self.size + number % 97, number as u64)
    }

    /// Overwrites the draft with its next state.
    async fn write(&self) {
        let number = self.begun.fetch_add(1, Ordering::SeqCst);
        if let Some(s3) = &self.s3 {
            let start = Duration::from_secs(1_759_060_050); // 2025-09-28T11:47:30Z
            let tick = Duration::from_millis(200) * u32::try_from(number).expect("not so many");
            s3.set_clock(SystemTime::UNIX_EPOCH + start + tick);
        }
        let put = self.client.put_object().bucket(&self.bucket);
        let put = put.key(draft_key(ID)).body(self.state(number).into());
        put.send().await.expect("the draft is written");
        self.written.send_replace(number + 1);
    }

    /// Overwrites the draft with its next states.
    async fn write_times(&self, times: usize) {
        for _ in 0..times {
            self.write().await;
        }
    }

    /// Waits until so many states have been written.
    async fn wrote(&self, number: usize) {
        let mut written = self.written.subscribe();
        let reached = written.wait_for(|written| *written >= number).await;
        drop(reached.expect("its sender is here"));
    }

    /// One save, and what there is to hold it against.
    async fn save(&self, by: &By) -> Told {
        let from = *self.written.borrow();
        let answer = by.save(ID).await;
        let to = self.begun.load(Ordering::SeqCst);
        Told { answer, from, to }
    }

    /// The versions that are there, by name, and their bytes.
    async fn versions(&self) -> BTreeMap<String, Vec<u8>> {
        let list = self.client.list_objects_v2().bucket(&self.bucket);
        let mut pages = list.prefix(format!("saved/{ID}/")).into_paginator().send();
        let mut versions = BTreeMap::new();
        while let Some(page) = pages.next().await {
            for object in page.expect("the bucket can be listed").contents() {
                let key = object.key().expect("an object has one");
                let get = self.client.get_object().bucket(&self.bucket).key(key);
                let body = get.send().await.expect("what is listed is there").body;
                let bytes = body.collect().await.expect("it is readable").to_vec();
                let name = key.split('/').nth(2).expect("a version's key has one");
                versions.insert(name.to_owned(), bytes);
            }
        }
        versions
    }

    /// Holds what was told against what is there. `exact` is whether each save was seen
    /// to its end, so that each version has the one save that made it.
    async fn judge(&self, told: &[Told], exact: bool) -> Verdict {
        let states: HashMap<String, usize> = (0..*self.written.borrow())
            .map(|number| (sha256_hex(&self.state(number)), number))
            .collect();
        let versions = self.versions().await;

        // Every version is one of the states, whole, under the name it has to have.
        let mut found = BTreeMap::new();
        for (name, bytes) in &versions {
            let digits = sha256_hex(bytes);
            let state = states.get(&digits);
            let state = *state.unwrap_or_else(|| panic!("{name} is none of the states written"));
            assert!(*bytes == self.state(state), "{name} is a mixture");
            let (second, hash) = name.split_once('-').expect("time and hash");
            assert_eq!(hash, digits, "{name} has another hash");
            let before = found.insert(state, second);
            assert_eq!(before, None, "state {state} was saved twice");
        }

        // They sort as the states were written.
        let seconds: Vec<&str> = found.values().copied().collect();
        assert!(seconds.is_sorted(), "not in order: {found:?}");

        // Every success names one of them, and none that was over before the save began.
        let numbers: HashMap<&str, usize> = versions
            .iter()
            .map(|(name, bytes)| (name.as_str(), states[&sha256_hex(bytes)]))
            .collect();
        let mut makers = HashMap::new();
        for one in told {
            if let Answer::Saved { version, created } = &one.answer {
                let state = numbers.get(version.as_str());
                let state = *state.unwrap_or_else(|| panic!("a 200 named {version}: not there"));
                assert!(
                    (one.from..=one.to).contains(&(state + 1)),
                    "state {state} is none of those between {} and {}",
                    one.from,
                    one.to,
                );
                *makers.entry(state).or_insert(0) += usize::from(*created);
            }
        }
        let told_of = makers.len();
        makers.retain(|_, makers| *makers > 1 || (exact && *makers == 0));
        assert!(
            makers.is_empty(),
            "not created by one save each: {makers:?}"
        );
        assert!(!exact || told_of == versions.len(), "a version of nobody");

        let count =
            |is_it: fn(&Answer) -> bool| told.iter().filter(|one| is_it(&one.answer)).count();
        Verdict {
            writes: *self.written.borrow(),
            saved: count(|answer| matches!(answer, Answer::Saved { .. })),
            busy: count(|answer| *answer == Answer::Busy),
            missing: count(|answer| *answer == Answer::Missing),
            exited: count(|answer| *answer == Answer::Exited),
            versions: versions.len(),
            untold: versions.len() - told_of,
        }
    }
}

/// What came of a race, once nothing was found wrong.
#[derive(Debug)]
#[allow(dead_code, reason = "it is printed")]
struct Verdict {
    writes: usize,
    saved: usize,
    busy: usize,
    missing: usize,
    exited: usize,
    versions: usize,
    /// Of the versions, those that nobody was told of: the process or the answer was lost.
    untold: usize,
}

/// A client that writes each state once: what is tried again may be written twice, and is
/// then two states.
fn writer(endpoint: &Endpoint) -> Client {
    let sdk = endpoint.sdk().into_builder();
    let sdk = sdk
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    common::client(&sdk.build())
}

/// Who saves.
#[derive(Clone)]
enum By {
    /// The use case, in this process.
    Saver(Saver, Duration),
    /// The real binary, over its Runtime API.
    Binary(Arc<Bootstrap>),
}

impl By {
    async fn save(&self, id: &str) -> Answer {
        match self {
            Self::Saver(saver, left) => {
                let deadline = Instant::now() + *left;
                let attempt = saver.save(id.parse().expect("an id"), deadline).await;
                match attempt.result {
                    Ok(saved) => Answer::Saved {
                        version: saved.version.to_string(),
                        created: saved.outcome == CreateOutcome::Created,
                    },
                    Err(error) => match error.kind() {
                        ErrorKind::ServiceUnavailable => Answer::Busy,
                        ErrorKind::DraftNotFound => Answer::Missing,
                        other => panic!("{other:?}: {}", error.cause_chain()),
                    },
                }
            }
            Self::Binary(function) => {
                let pending = function.begin_within(post_id(id).to_string(), AMPLE);
                let response = match pending.outcome().await {
                    Outcome::Exited => return Answer::Exited,
                    outcome => outcome.response(),
                };
                let header = |name: &str| response["headers"][name].as_str();
                match response["statusCode"].as_u64() {
                    Some(200) => Answer::Saved {
                        version: header("draft-version").expect("it is there").to_owned(),
                        created: header("draft-saved") == Some("created"),
                    },
                    Some(503) => Answer::Busy,
                    Some(404) => Answer::Missing,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

/// Overwrites the draft [`WRITES`] times while [`SAVERS`] save it: in waves, some all at once
/// and some one by one, or with `LONG=1` again and again to the end of the writing. After
/// that, each saves the last state.
async fn race(race: &Arc<Race>, by: &By) -> Vec<Told> {
    let waves = if long_tests() { WRITES } else { 2 };
    race.write().await;
    let mut savers = JoinSet::new();
    for saver in 0..SAVERS {
        let (race, by) = (Arc::clone(race), by.clone());
        savers.spawn(async move {
            let mut told = Vec::new();
            for wave in 0..waves {
                // The odd waves are as long as there is time to the next.
                let part = if wave % 2 == 1 {
                    saver * WRITES / SAVERS
                } else {
                    0
                };
                race.wrote((wave * WRITES + part) / waves).await;
                if !long_tests() || *race.written.borrow() < WRITES {
                    told.push(race.save(&by).await);
                }
            }
            race.wrote(WRITES).await;
            told.push(race.save(&by).await);
            told
        });
    }
    race.write_times(WRITES - 1).await;
    savers.join_all().await.into_iter().flatten().collect()
}

/// The function with as many invocations at a time as there are savers.
async fn binary(s3: &S3) -> By {
    let concurrency = SAVERS.to_string();
    let variables = [("AWS_LAMBDA_MAX_CONCURRENCY", concurrency.as_str())];
    By::Binary(Arc::new(common::start_function(s3, &variables).await))
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_savers_save_each_state_that_they_name() {
    let (here, s3) = Race::here(4_000).await;
    let by = binary(&s3).await;
    let told = race(&here, &by).await;
    let verdict = here.judge(&told, true).await;
    println!("{SAVERS} savers: {verdict:?}");
    assert_eq!(verdict.saved, told.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_savers_lose_nothing_to_faults() {
    let (here, s3) = Race::here(4_000).await;
    let read = || When::op(Op::GetObject).key_starts_with("drafts/");
    let write = || When::op(Op::PutObject).key_starts_with("saved/");
    let rate = 0.02;
    let faults = [
        s3.fault(read().rate(rate, 1), Fault::INTERNAL_ERROR),
        s3.fault(read().rate(rate, 2), Fault::Cut),
        s3.fault(read().rate(rate, 3), Fault::CutBody(1_000)),
        s3.fault(read().rate(rate, 4), Fault::CorruptBody),
        s3.fault(write().rate(rate, 5), Fault::SLOW_DOWN),
        s3.fault(write().rate(rate, 6), Fault::CONFLICT),
        s3.fault(write().rate(rate, 7), Fault::Reset),
        s3.fault(write().rate(rate, 8), Fault::CorruptRequest),
        s3.fault(write().rate(rate, 9), Fault::LoseResponse),
    ];
    let by = binary(&s3).await;
    let told = race(&here, &by).await;
    s3.clear_faults();
    let verdict = here.judge(&told, false).await;
    let hits: usize = faults.iter().map(ScriptedFault::hits).sum();
    println!("{SAVERS} savers and {hits} faults: {verdict:?}");
    assert!(hits > 0 && verdict.saved > 0);
    assert_eq!(verdict.saved + verdict.busy, told.len());
}

/// A number below `limit`, another each time.
fn random(limit: usize) -> usize {
    let bits = RandomState::new().hash_one(limit);
    usize::try_from(bits % limit as u64).expect("it is below the limit")
}

/// Starts the binary, has it save while the draft is overwritten, and kills it at a random
/// point; 20 times, or 200 times with `LONG=1`.
#[tokio::test(flavor = "multi_thread")]
async fn saves_that_are_killed_leave_whole_versions() {
    const AT_ONCE: usize = 8;
    let kills = if long_tests() { 200 } else { 20 };
    // Large enough that many a kill meets a body on its way.
    let (here, s3) = Race::here(400_000).await;
    here.write().await;
    let concurrency = AT_ONCE.to_string();
    let variables = [("AWS_LAMBDA_MAX_CONCURRENCY", concurrency.as_str())];
    let mut told = Vec::new();
    for _ in 0..kills {
        let function = Arc::new(common::start_function(&s3, &variables).await);
        let by = By::Binary(Arc::clone(&function));
        let mut saves = JoinSet::new();
        for _ in 0..AT_ONCE {
            let (race, by) = (Arc::clone(&here), by.clone());
            saves.spawn(async move { race.save(&by).await });
        }
        // At one of the requests that the saves make, and a bit later.
        let due = Arc::new(Notify::new());
        let point = {
            let due = Arc::clone(&due);
            let from_function = When::any()
                .and(|request| request.op == Op::GetObject || request.key.starts_with("saved/"));
            let when = from_function.after(random(2 * AT_ONCE)).once();
            s3.fault(when, Fault::Run(Arc::new(move |_| due.notify_one())))
        };
        let kill = async {
            due.notified().await;
            for _ in 0..random(400) {
                tokio::task::yield_now().await;
            }
            function.kill().await;
        };
        let ((), ()) = tokio::join!(here.write_times(2), kill);
        point.clear();
        told.extend(saves.join_all().await);
    }
    // The next function finds nothing in its way.
    let by = By::Binary(Arc::new(common::start_function(&s3, &[]).await));
    let last = here.save(&by).await;
    assert!(matches!(last.answer, Answer::Saved { .. }), "{last:?}");
    told.push(last);

    let verdict = here.judge(&told, false).await;
    println!("{kills} kills: {verdict:?}");
    assert_eq!(verdict.saved + verdict.exited, told.len());
    assert!(verdict.exited > 0, "nothing was killed: {verdict:?}");
}

/// The same race against another store: `S3_TEST_ENDPOINT`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the S3 at S3_TEST_ENDPOINT"]
async fn racing_savers_against_another_store() {
    let (there, endpoint) = Race::there(4_000).await;
    let sdk = endpoint.sdk();
    let by = By::Saver(common::saver(&sdk, &there.bucket), AMPLE);
    let told = race(&there, &by).await;
    let verdict = there.judge(&told, true).await;
    println!("{SAVERS} savers at {}: {verdict:?}", endpoint.url);
    assert_eq!(verdict.saved, told.len());
}

/// Sends a signal to the OSD of `tests/ceph.sh`.
fn signal_osd(signal: &str) {
    let pid = env::var("CEPH_OSD_PID").expect("CEPH_OSD_PID is set, by tests/ceph.sh");
    let kill = Command::new("kill").args([signal, &pid]).status();
    assert!(kill.expect("kill runs").success(), "the OSD is there");
}

/// Stops Ceph's OSD while the savers race, and lets it go on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the Ceph of tests/ceph.sh"]
async fn racing_savers_outlast_an_outage_of_the_store() {
    let (there, endpoint) = Race::there(4_000).await;
    let sdk = endpoint.sdk();
    let left = Duration::from_secs(5);
    let by = By::Saver(common::saver(&sdk, &there.bucket), left);

    // Savers that save again and again, a writer, and the outage in the middle.
    there.write_times(10).await;
    let (over, _) = watch::channel(false);
    let over = Arc::new(over);
    let mut savers = JoinSet::new();
    for _ in 0..SAVERS {
        let (race, by, over) = (Arc::clone(&there), by.clone(), Arc::clone(&over));
        savers.spawn(async move {
            let mut told = Vec::new();
            let mut longest = Duration::ZERO;
            while !*over.borrow() {
                let begin = Instant::now();
                let one = race.save(&by).await;
                longest = longest.max(begin.elapsed());
                let busy = one.answer == Answer::Busy;
                told.push(one);
                if busy {
                    // As `Retry-After: 1` tells a client.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            (told, longest)
        });
    }
    let writer = tokio::spawn({
        let race = Arc::clone(&there);
        async move { race.write_times(WRITES / 10).await }
    });
    there.wrote(20).await;
    signal_osd("-STOP");
    let begin = Instant::now();
    // One save that begins and ends while nothing is stored or read.
    let during = there.save(&by).await;
    let took = begin.elapsed();
    signal_osd("-CONT");
    assert_eq!(during.answer, Answer::Busy);
    assert!(took < left + Duration::from_secs(1), "it took {took:?}");

    writer.await.expect("the draft is written");
    let after = there
        .save(&By::Saver(common::saver(&sdk, &there.bucket), AMPLE))
        .await;
    assert!(matches!(after.answer, Answer::Saved { .. }), "{after:?}");
    over.send_replace(true);
    let mut told = vec![during, after];
    let mut longest = took;
    for (some, time) in savers.join_all().await {
        told.extend(some);
        longest = longest.max(time);
    }
    let verdict = there.judge(&told, false).await;
    println!(
        "an outage of {took:.1?} at {}: the longest save took {longest:.1?}; {verdict:?}",
        endpoint.url
    );
    assert_eq!(verdict.saved + verdict.busy, told.len());
    assert!(
        verdict.busy > SAVERS / 2,
        "the outage was not felt: {verdict:?}"
    );
    assert!(longest < left + Duration::from_secs(1), "{longest:?}");
}
