//! The local endpoint under load, while 1% of its requests to S3 go wrong: how many saves it
//! does, how long they take, what memory it has, and that nothing is lost.
//!
//! `cargo build --example local && cargo test -- --ignored --nocapture load::`

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use save_draft::draft::Sha256Digest;
use serde_json::{Value, json};
use test_support::fixtures::draft_of_size;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// How long it lasts, in seconds, where `LOAD_SECONDS` does not say.
const SECONDS: u64 = 60;
/// How many clients there are, each with one request at a time, where `LOAD_CLIENTS` does not say.
const CLIENTS: u64 = 16;
/// How many requests there are at most.
const MOST: u64 = 1_000_000;
/// Each client has as many drafts, which no other client edits, though all may save them.
const DRAFTS_EACH: u64 = 8;
/// A draft is edited before every so many-th save.
const EDIT_EVERY: u64 = 4;
/// The size of a draft: a new one's.
const BYTES: usize = 4_096;

/// The SHA-256 of each state that was written of each draft.
type States = Arc<Mutex<HashMap<String, HashSet<String>>>>;

/// A running `examples/local`. It is killed when this is dropped.
struct Local {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    /// `127.0.0.1` and its port.
    address: String,
}

impl Local {
    async fn start(data_dir: &Path) -> Self {
        let tests = env::current_exe().expect("this process has a file");
        // Beside `deps`, where the tests are.
        let binary = tests
            .ancestors()
            .nth(2)
            .expect("a folder")
            .join("examples/local");
        assert!(
            binary.exists(),
            "{} is missing: cargo build --example local",
            binary.display()
        );
        let mut process = Command::new(binary)
            .args([
                "--port",
                "0",
                "--s3-port",
                "0",
                "--faults",
                "1",
                "--data-dir",
            ])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let stdout = process.stdout.take().expect("it is a pipe");
        let mut output = BufReader::new(stdout).lines();
        // Its first line is a call of it.
        let line = output.next_line().await.expect("it is UTF-8");
        let line = line.expect("it says where it is");
        let (_, url) = line.split_once("http://").expect("a URL");
        let (address, _) = url.split_once('/').expect("a path");
        Self {
            process,
            output,
            address: address.to_owned(),
        }
    }
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    /// How long each answer took.
    took: Vec<Duration>,
    /// How many of each status there were.
    statuses: BTreeMap<u16, u64>,
    /// What is said to be saved: draft and version.
    saved: HashSet<(String, String)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "lasts a minute"]
async fn a_minute_of_load_loses_nothing() {
    let seconds = number("LOAD_SECONDS").unwrap_or(SECONDS);
    let clients = number("LOAD_CLIENTS").unwrap_or(CLIENTS);
    let folder = tempfile::tempdir().expect("there is room");
    let mut local = Local::start(folder.path()).await;
    let pid = local.process.id().expect("it runs");
    // Two lines for each save, which have to go somewhere.
    let mut output = local.output;
    let lines = tokio::spawn(async move {
        let mut lines = 0_u64;
        while output.next_line().await.is_ok_and(|line| line.is_some()) {
            lines += 1;
        }
        lines
    });

    let states = States::default();
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let count = Arc::new(AtomicU64::new(0));
    let runs: Vec<_> = (0..clients)
        .map(|client| Run {
            client,
            clients,
            address: local.address.clone(),
            bucket: folder.path().join("drafts"),
            states: Arc::clone(&states),
            count: Arc::clone(&count),
            end,
        })
        .collect();
    for run in &runs {
        (0..DRAFTS_EACH).for_each(|draft| edit(run, draft, 0));
    }
    let mut running: JoinSet<_> = runs.into_iter().map(run).collect();
    let mut resident = Vec::new();
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            _ = tick.tick() => resident.push(resident_kib(pid)),
            ended = running.join_next() => match ended {
                None => break,
                Some(one) => {
                    let one = one.expect("no client panics");
                    seen.took.extend(one.took);
                    seen.saved.extend(one.saved);
                    for (status, count) in one.statuses {
                        *seen.statuses.entry(status).or_default() += count;
                    }
                }
            },
        }
    }
    let lasted = begin.elapsed();
    local.process.kill().await.expect("it is ours");
    let lines = lines.await.expect("it does not panic");

    report(&mut seen, lasted, &resident, clients);
    println!("log: {lines} lines");
    nothing_is_lost(folder.path(), &seen, &states);

    let only = |status: &u16| matches!(status, 200 | 503);
    assert!(seen.statuses.keys().all(only), "{:?}", seen.statuses);
    assert!(seen.statuses[&200] > 0);
    // Flat: what there is after a third of the time is what there is at the end.
    let (third, last) = (resident[resident.len() / 3], resident[resident.len() - 1]);
    assert!(last < third + third / 4, "{third} KiB came to {last} KiB");
}

fn report(seen: &mut Seen, lasted: Duration, resident: &[u64], clients: u64) {
    seen.took.sort();
    let all = seen.took.len();
    let quantile = |per_mille: usize| seen.took[(all * per_mille / 1_000).min(all - 1)];
    println!(
        "{clients} clients, {:.1} s: {all} answers, {:.0} a second",
        lasted.as_secs_f64(),
        f64::from(u32::try_from(all).expect("at most a million")) / lasted.as_secs_f64()
    );
    println!("statuses: {:?}", seen.statuses);
    println!(
        "latency: p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, longest {:.1?}",
        quantile(500),
        quantile(990),
        quantile(999),
        quantile(1_000)
    );
    let at = |third: usize| resident[(resident.len() * third / 3).min(resident.len() - 1)];
    println!(
        "resident: {} KiB after a third, {} after two, {} at the end, {} at most",
        at(1),
        at(2),
        at(3),
        resident.iter().max().expect("there is one")
    );
}

/// Every version that a client was told of is there, and is one state of its draft, whole;
/// and so is every other version.
fn nothing_is_lost(data_dir: &Path, seen: &Seen, states: &States) {
    let states = states.lock().expect("no client panicked");
    let saved = data_dir.join("drafts/saved");
    let mut versions = HashSet::new();
    for draft in fs::read_dir(&saved).expect("something was saved") {
        let draft = draft.expect("it is readable");
        for version in fs::read_dir(draft.path()).expect("a draft is a folder") {
            let version = version.expect("it is readable");
            let document = fs::read(version.path().join("draft_content.json"));
            let digest = Sha256Digest::of(&document.expect("a version has a document")).to_string();
            let (id, name) = (draft.file_name(), version.file_name());
            let (id, name) = (id.to_string_lossy(), name.to_string_lossy());
            let (_, hash) = name.split_once('-').expect("a time and a hash");
            assert_eq!(digest, hash, "{id}/{name} is another state");
            assert!(
                states[&*id].contains(&digest),
                "{id}/{name} was never written"
            );
            versions.insert((id.into_owned(), name.into_owned()));
        }
    }
    let lost: Vec<_> = seen.saved.difference(&versions).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    println!(
        "versions: {} there, {} told of, 0 lost",
        versions.len(),
        seen.saved.len()
    );
}

/// What a client has to know.
struct Run {
    client: u64,
    clients: u64,
    address: String,
    bucket: PathBuf,
    states: States,
    count: Arc<AtomicU64>,
    end: Instant,
}

/// Edits drafts of its own, and saves them and those of others.
async fn run(run: Run) -> Seen {
    let mut seen = Seen::default();
    let mut connection = connect(&run.address).await;
    let mut turn = 0;
    while Instant::now() < run.end && run.count.fetch_add(1, Ordering::Relaxed) < MOST {
        turn += 1;
        let draft = turn / EDIT_EVERY % DRAFTS_EACH;
        let mut owner = run.client;
        if turn % EDIT_EVERY == 0 {
            edit(&run, draft, turn);
        } else if turn % 2 == 0 {
            owner = (run.client + 1) % run.clients;
        }
        let id = id(owner, draft);
        let begin = Instant::now();
        let (status, version) = save(&mut connection, &id).await;
        seen.took.push(begin.elapsed());
        *seen.statuses.entry(status).or_default() += 1;
        seen.saved.extend(version.map(|version| (id, version)));
    }
    seen
}

fn id(client: u64, draft: u64) -> String {
    format!("{client}-{draft}")
}

/// Writes a new state of a draft, in one step.
fn edit(run: &Run, draft: u64, turn: u64) {
    let id = id(run.client, draft);
    let document = draft_of_size(BYTES, (run.client << 32) + (draft << 24) + turn);
    let mut states = run.states.lock().expect("no client panics");
    states
        .entry(id.clone())
        .or_default()
        .insert(Sha256Digest::of(&document).to_string());
    drop(states);
    let folder = run.bucket.join("drafts").join(&id);
    fs::create_dir_all(&folder).expect("there is room");
    let whole = run.bucket.join(format!("{id}.new"));
    fs::write(&whole, document).expect("there is room");
    fs::rename(whole, folder.join("draft_content.json")).expect("it is one file system");
}

async fn connect(address: &str) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("it listens");
    stream.set_nodelay(true).expect("it is TCP");
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .expect("it speaks HTTP");
    tokio::spawn(connection);
    sender
}

/// The status of a save, and the version where there is one.
async fn save(connection: &mut SendRequest<Full<Bytes>>, id: &str) -> (u16, Option<String>) {
    let body = json!({"draft_url": format!("https://example.com/?draft_id={id}")}).to_string();
    let request = Request::post("/openapi/capcut-mate/v1/save_draft")
        .header("host", "127.0.0.1")
        .body(Full::from(body.clone()))
        .expect("it is a request");
    let (head, answer) = connection
        .send_request(request)
        .await
        .expect("an answer")
        .into_parts();
    let answer = answer.collect().await.expect("the whole answer").to_bytes();
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    let version = head.headers.get("draft-version");
    if head.status == 200 {
        assert_eq!(answer.to_string(), body);
        assert!(version.is_some(), "a save has a version");
    } else {
        assert!(answer["detail"].is_string() && version.is_none());
    }
    let version = version.map(|version| version.to_str().expect("ASCII").to_owned());
    (head.status.as_u16(), version)
}

/// The memory of a process, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs, on Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("it has memory").parse().expect("it is a number")
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("the variable is a number"))
}
