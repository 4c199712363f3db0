//! The local endpoint under load, while 1% of its requests to S3 fail: throughput, latency, memory, and that no version
//! is lost.
//!
//! `cargo test -p local -- --ignored --nocapture load::`

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use test_support::fixtures::{draft_of_size, sha256_hex};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::endpoint::{self, Local};
use test_support::runtime::memory_kib;

/// Default of `LOAD_SECONDS`, the duration.
const DEFAULT_SECONDS: u64 = 60;
/// Default of `LOAD_CLIENTS`, the number of clients, each with one request at a time.
const DEFAULT_CLIENTS: u64 = 16;
/// Number of drafts that each client writes.
const DRAFTS_PER_CLIENT: u64 = 8;
/// Number of requests between two writes of a client.
const REQUESTS_PER_WRITE: u64 = 4;
/// Size of a draft in bytes: that of a new one.
const DRAFT_BYTES: usize = 4_096;

/// The SHA-256 digests of the written states, by draft id.
type States = Arc<Mutex<HashMap<String, HashSet<String>>>>;

/// The responses to the requests of clients.
#[derive(Default)]
struct Responses {
    latencies: Vec<Duration>,
    /// Number of responses by status.
    statuses: BTreeMap<u16, u64>,
    /// Draft ids and versions in successful responses.
    saved: HashSet<(String, String)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn no_version_is_lost_under_load() {
    let seconds = number("LOAD_SECONDS").unwrap_or(DEFAULT_SECONDS);
    let connections = number("LOAD_CLIENTS").unwrap_or(DEFAULT_CLIENTS);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = endpoint::command(folder.path());
    command.args(["--faults", "1"]);
    let mut endpoint = Local::start(command).await;
    let pid = endpoint.process.id().expect("the process runs");
    // The pipe of its log must not fill up.
    let mut log = endpoint.output;
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });

    let states = States::default();
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..connections {
        let client = Client {
            number,
            connections,
            connection: connect(&endpoint.address).await,
            bucket: folder.path().join("drafts"),
            states: Arc::clone(&states),
            responses: Responses::default(),
        };
        (0..DRAFTS_PER_CLIENT).for_each(|draft| client.write(draft, 0));
        clients.spawn(client.run(start + Duration::from_secs(seconds)));
    }
    let mut memory = Vec::new();
    let mut tick = interval(Duration::from_secs(1));
    let mut all = Responses::default();
    loop {
        tokio::select! {
            _ = tick.tick() => memory.push(memory_kib(pid, "VmRSS")),
            ended = clients.join_next() => match ended {
                None => break,
                Some(responses) => {
                    let responses = responses.expect("the client does not panic");
                    all.latencies.extend(responses.latencies);
                    all.saved.extend(responses.saved);
                    for (status, count) in responses.statuses {
                        *all.statuses.entry(status).or_default() += count;
                    }
                }
            },
        }
    }
    let elapsed = start.elapsed();
    endpoint.process.kill().await.expect("the process runs");

    print_figures(&mut all, elapsed, &memory);
    assert_versions(&folder.path().join("drafts/saved"), &all, &states);
    let statuses: Vec<_> = all.statuses.keys().copied().collect();
    assert!(matches!(*statuses, [200] | [200, 503]), "{statuses:?}");
    let (third, last) = (memory[memory.len() / 3], memory[memory.len() - 1]);
    assert!(
        last < third + third / 4,
        "memory grew from {third} KiB to {last} KiB"
    );
}

fn print_figures(responses: &mut Responses, elapsed: Duration, memory: &[u64]) {
    let latencies = &mut responses.latencies;
    latencies.sort();
    let count = latencies.len();
    let quantile = |per_mille: usize| latencies[(count * per_mille / 1_000).min(count - 1)];
    let count_f64 = f64::from(u32::try_from(count).expect("fewer than 4 billion"));
    println!(
        "{count} responses in {elapsed:.1?}, {:.0} a second: {:?}",
        count_f64 / elapsed.as_secs_f64(),
        responses.statuses
    );
    println!(
        "latency: p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, maximum {:.1?}",
        quantile(500),
        quantile(990),
        quantile(999),
        quantile(1_000)
    );
    println!("memory: at most {:?} KiB", memory.iter().max());
}

/// Checks that each version in a response exists, and that each stored version is a written state.
fn assert_versions(folder: &Path, responses: &Responses, states: &States) {
    let states = states.lock().expect("no client has panicked");
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("a readable folder").file_name());
        names
            .map(|name| name.into_string().expect("UTF-8"))
            .collect::<Vec<_>>()
    };
    let mut versions = HashSet::new();
    for id in names(folder) {
        for name in names(&folder.join(&id)) {
            let document = folder.join(&id).join(&name).join("draft_content.json");
            let digest = sha256_hex(&fs::read(document).expect("a document"));
            let is_named = name.split_once('-').is_some_and(|(_, hash)| hash == digest);
            assert!(is_named, "{id}/{name} has another state");
            assert!(
                states[&id].contains(&digest),
                "{id}/{name} was never written"
            );
            versions.insert((id.clone(), name));
        }
    }
    let lost: Vec<_> = responses.saved.difference(&versions).collect();
    assert!(lost.is_empty(), "lost versions: {lost:?}");
    println!(
        "{} versions, {} in responses",
        versions.len(),
        responses.saved.len()
    );
}

/// Writes drafts of its own, and saves them and those of another client.
struct Client {
    number: u64,
    connections: u64,
    connection: SendRequest<Full<Bytes>>,
    /// The folder of the bucket.
    bucket: PathBuf,
    states: States,
    responses: Responses,
}

impl Client {
    async fn run(mut self, end: Instant) -> Responses {
        let mut turn = 0;
        while Instant::now() < end {
            turn += 1;
            let draft = turn / REQUESTS_PER_WRITE % DRAFTS_PER_CLIENT;
            let mut writer = self.number;
            if turn % REQUESTS_PER_WRITE == 0 {
                self.write(draft, turn);
            } else if turn % 2 == 0 {
                writer = (self.number + 1) % self.connections;
            }
            self.save(draft_id(writer, draft)).await;
        }
        self.responses
    }

    /// Writes a new state of a draft atomically.
    fn write(&self, draft: u64, turn: u64) {
        let id = draft_id(self.number, draft);
        let seed = (self.number << 32) + (draft << 24) + turn;
        let document = draft_of_size(DRAFT_BYTES, seed);
        let mut states = self.states.lock().expect("no client has panicked");
        let digests = states.entry(id.clone()).or_default();
        digests.insert(sha256_hex(&document));
        drop(states);
        let folder = self.bucket.join("drafts").join(&id);
        fs::create_dir_all(&folder).expect("the folder is created");
        let new = self.bucket.join(format!("{id}.new"));
        fs::write(&new, document).expect("the draft is written");
        fs::rename(new, folder.join("draft_content.json")).expect("the draft is replaced");
    }

    async fn save(&mut self, id: String) {
        let url = format!("https://example.com/?draft_id={id}");
        let body = json!({"draft_url": url}).to_string();
        let request = Request::post("/openapi/capcut-mate/v1/save_draft")
            .header("host", "127.0.0.1")
            .body(Full::from(body.clone()))
            .expect("a valid request");
        let start = Instant::now();
        let response = self.connection.send_request(request).await;
        let (head, response) = response.expect("a response").into_parts();
        let response = response.collect().await.expect("the whole body").to_bytes();
        self.responses.latencies.push(start.elapsed());
        let response: Value = serde_json::from_slice(&response).expect("JSON");
        let version = head.headers.get("draft-version");
        if head.status == 200 {
            assert_eq!(response.to_string(), body);
            let version = version.and_then(|version| version.to_str().ok());
            let version = version.expect("a version").to_owned();
            self.responses.saved.insert((id, version));
        } else {
            assert!(response["detail"].is_string(), "{response}");
        }
        let status = head.status.as_u16();
        *self.responses.statuses.entry(status).or_default() += 1;
    }
}

fn draft_id(client: u64, draft: u64) -> String {
    format!("{client}-{draft}")
}

async fn connect(address: &str) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a TCP connection");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("the variable must be a number"))
}
