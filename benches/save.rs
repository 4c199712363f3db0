//! What a save costs beside its yardsticks, in one run: `cargo bench`.
//!
//! The store is one that only moves bytes, so that nothing hides the function's own work.
//! Runs alternate; what is compared are medians. `benches/floor.py` has the figures of
//! whole processes: the start, the first invocation, sizes.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot run has nothing to say"
)]
#![allow(
    clippy::cast_precision_loss,
    reason = "figures are printed with three digits"
)]

#[path = "yardsticks/bare.rs"]
mod bare;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use save_draft::config::Config;
use save_draft::events::Source;
use save_draft::lambda::SanitizedRequest;
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, post_id, sample_draft};
use test_support::runtime::{Bootstrap, TIMEOUT};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Path of the function's executable.
const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_bootstrap");
const KB: usize = 1000;
const MB: usize = 1000 * KB;

/// Makes this program the yardstick.
const YARDSTICK: &str = "SAVE_DRAFT_YARDSTICK";
/// How many processes of each program a figure is the median of.
const PROCESSES: usize = 10;
/// "What is S3 Express One Zone?" (Amazon S3 User Guide): single-digit milliseconds. S3
/// itself takes 100 to 200 ("Best practices design patterns: optimizing Amazon S3 performance").
const S3_TAKES: Duration = Duration::from_millis(5);
/// The id of the draft.
const DRAFT: &str = "bench";

fn main() {
    if std::env::var_os(YARDSTICK).is_some() {
        bare::main().expect("the Runtime API is there");
        return;
    }
    // `cargo test --benches` is for whether it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    warm_saves();
    deciding();
    memory();
    throughput();
}

/// A store with one draft, which it sends to whoever asks, and which takes everything.
struct Pipe {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Pipe {
    fn start(document: Vec<u8>, takes: Duration) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("it is a socket");
        let address = listener.local_addr().expect("it is bound");
        let count = Arc::clone(&requests);
        let document = Bytes::from(document);
        // A thread of its own, as a store is a machine of its own; it ends with the process.
        thread::spawn(move || one_thread().block_on(serve(listener, document, takes, count)));
        let url = format!("http://{address}");
        Self { url, requests }
    }

    /// What a function has in its environment to use this.
    fn environment(&self) -> [(&str, &str); 5] {
        [
            ("AWS_ENDPOINT_URL_S3", &self.url),
            ("DRAFT_BUCKET", BUCKET),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local-secret"),
            ("AWS_REGION", "us-east-1"),
        ]
    }

    /// How many requests there were.
    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn serve(
    listener: std::net::TcpListener,
    document: Bytes,
    takes: Duration,
    count: Arc<AtomicUsize>,
) {
    let listener = TcpListener::from_std(listener).expect("it does not block");
    loop {
        let (stream, _) = listener.accept().await.expect("connections come");
        stream.set_nodelay(true).expect("it is TCP");
        let (document, count) = (document.clone(), Arc::clone(&count));
        let answer = service_fn(move |request: Request<Incoming>| {
            let document = document.clone();
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                let get = request.method() == Method::GET;
                let mut body = request.into_body();
                while body.frame().await.is_some() {}
                if !takes.is_zero() {
                    tokio::time::sleep(takes).await;
                }
                let response = Response::builder()
                    .header("etag", "\"0\"")
                    .header("last-modified", "Sun, 28 Sep 2025 11:47:30 GMT");
                let body = if get { document } else { Bytes::new() };
                Ok::<_, Infallible>(response.body(Full::new(body)).expect("it is whole"))
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        let connection = http.serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async move { drop(connection.await) });
    }
}

/// A document of `bytes` bytes, with what the example has in it over and over.
fn draft(bytes: usize) -> Vec<u8> {
    let example = sample_draft();
    let example = example.trim_ascii();
    let mut document = br#"{"id":"bench","parts":["#.to_vec();
    let end = br#""]}"#;
    while document.len() + example.len() + end.len() < bytes {
        document.extend_from_slice(example);
        document.push(b',');
    }
    document.push(b'"');
    document.resize(bytes - end.len(), b'-');
    document.extend_from_slice(end);
    document
}

fn one_thread() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime starts")
}

/// The event of a save, as the Runtime API sends it.
fn event() -> String {
    post_id(DRAFT).to_string()
}

/// The median of what `times` holds.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

/// The function beside the bare handler, each a process with a Runtime API of its own.
fn warm_saves() {
    println!(
        "Warm save beside a bare handler's GET and PUT, medians (bar: 1.10), requests (bar: 2)\n"
    );
    println!(
        "| draft | store takes | save | bare | save / bare | CPU | bare | save / bare | requests |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    // A store that answers at once shows all that the function does, one that takes as long
    // as the fastest S3 does what of that a client sees.
    let sizes = [
        ("4 KB", 4 * KB, 2000),
        ("200 KB", 200 * KB, 1000),
        ("5 MB", 5 * MB, 100),
        ("50 MB", 50 * MB, 30),
    ];
    let at_once = sizes.map(|size| (size, Duration::ZERO));
    let as_s3 = sizes.map(|(name, bytes, rounds)| ((name, bytes, rounds.min(300)), S3_TAKES));
    for ((name, bytes, rounds), takes) in at_once.into_iter().chain(as_s3) {
        let pipe = Pipe::start(draft(bytes), takes);
        one_thread().block_on(async {
            let mut walls = [Vec::new(), Vec::new()];
            let mut cpus = [Vec::new(), Vec::new()];
            let mut requests = 0;
            // Where a process happens to lie in memory makes it faster or slower for good.
            for _ in 0..PROCESSES {
                let programs = [process(&pipe, 1).await, bare_handler(&pipe).await];
                for round in 0..=rounds / PROCESSES {
                    for (index, program) in programs.iter().enumerate() {
                        let (count, cpu) = (pipe.requests(), cpu_time(program.pid()));
                        let begin = Instant::now();
                        let save = program.begin_within(event(), TIMEOUT).outcome().await;
                        let wall = begin.elapsed();
                        assert_eq!(save.response()["statusCode"], 200);
                        // The first round connects.
                        if round > 0 {
                            walls[index].push(wall);
                            cpus[index].push(cpu_time(program.pid()).saturating_sub(cpu));
                        }
                        if index == 0 {
                            requests = pipe.requests() - count;
                        }
                    }
                }
            }
            let [[save, bare], [save_cpu, bare_cpu]] =
                [walls, cpus].map(|figures| figures.map(|mut times| median(&mut times)));
            println!(
                "| {name} | {takes:.0?} | {save:.2?} | {bare:.2?} | {:.2} | {save_cpu:.2?} | {bare_cpu:.2?} | {:.2} | {requests} |",
                ratio(save, bare),
                ratio(save_cpu, bare_cpu),
            );
        });
    }
}

/// The time that all threads of a process have run for.
fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let schedule = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedule.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Telling an event, beside parsing it once.
fn deciding() {
    println!("\nDeciding what an event is, beside one serde_json parse of it (bar: 3)\n");
    println!("| event | deciding | parse | deciding / parse |");
    println!("|---|---|---|---|");
    let bucket = |name: &str| Ok((name == "DRAFT_BUCKET").then(|| BUCKET.to_owned()));
    let config = Config::read(bucket).expect("the configuration is valid");
    let source = Source {
        bucket: BUCKET.to_owned(),
        key: config.draft_key,
        hosts: Vec::new(),
    };
    let message = |index: usize| {
        json!({
            "messageId": format!("059f36b4-87a3-44ab-83d2-{index:012}"),
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a".repeat(4),
            "body": json!({"draft_id": format!("2025092811473036584{index:03}")}).to_string(),
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1545082649183"},
            "messageAttributes": {},
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:autosave",
            "awsRegion": "us-east-1",
        })
    };
    let batch = |messages: usize| {
        json!({"Records": (0..messages).map(message).collect::<Vec<_>>()}).to_string()
    };
    let http = event();
    for (name, event, queue) in [
        ("API Gateway REST", http, false),
        ("SQS batch", batch(3), true),
        ("SQS batch", batch(430), true),
    ] {
        let rounds = 4_000_000 / event.len();
        let (mut deciding, mut parsing) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let begin = Instant::now();
            let payload: SanitizedRequest = serde_json::from_str(&event).expect("it is an event");
            deciding.push(begin.elapsed());
            drop(payload);
            let begin = Instant::now();
            let value: Value = serde_json::from_str(&event).expect("it is JSON");
            parsing.push(begin.elapsed());
            drop(value);
        }
        let reading = queue.then(|| {
            let mut times: Vec<_> = (0..rounds)
                .map(|_| {
                    let begin = Instant::now();
                    assert!(source.read(&event).is_ok());
                    begin.elapsed()
                })
                .collect();
            median(&mut times)
        });
        let deciding = median(&mut deciding) + reading.unwrap_or_default();
        let parsing = median(&mut parsing);
        let (kb, ratio) = (event.len() as f64 / 1e3, ratio(deciding, parsing));
        println!("| {name}, {kb:.0} KB | {deciding:.2?} | {parsing:.2?} | {ratio:.2} |");
    }
}

/// The memory of the process, in MB: now, and at its peak.
fn resident(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.expect("Linux tells it") * 1024.0 / 1e6
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// A process of the function that has nothing to do yet.
async fn process(pipe: &Pipe, concurrency: usize) -> Bootstrap {
    let concurrency = concurrency.to_string();
    let own = [("AWS_LAMBDA_MAX_CONCURRENCY", concurrency.as_str())];
    Bootstrap::start(BOOTSTRAP, pipe.environment().iter().copied().chain(own)).await
}

/// A process of the yardstick, which this program is too.
async fn bare_handler(pipe: &Pipe) -> Bootstrap {
    let own = [
        (YARDSTICK, "1"),
        ("BARE_GET", "drafts/bench"),
        ("BARE_PUT", "saved/bench"),
    ];
    let program = std::env::current_exe().expect("it runs");
    Bootstrap::start(program, pipe.environment().iter().copied().chain(own)).await
}

/// What a save takes of memory, beside the draft itself.
fn memory() {
    println!("\nPeak memory of a save (bar: 1.15 x draft + 24 MB)\n");
    println!("| draft | at rest | peak | bar |");
    println!("|---|---|---|---|");
    for megabytes in [5_u32, 50] {
        let pipe = Pipe::start(draft(megabytes as usize * MB), Duration::ZERO);
        one_thread().block_on(async {
            let function = process(&pipe, 1).await;
            // Refused, but through all of the way that is no save.
            function.invoke(&json!({"draft_id": ""})).await.error();
            let (rest, _) = resident(function.pid());
            for _ in 0..3 {
                let response = function.invoke(&post_id(DRAFT)).await.response();
                assert_eq!(response["statusCode"], 200, "{response}");
            }
            let (_, peak) = resident(function.pid());
            let bar = 1.15 * f64::from(megabytes) + 24.0;
            println!("| {megabytes} MB | {rest:.1} MB | {peak:.1} MB | {bar:.1} MB |");
        });
    }
}

/// How many saves a second one process does, by how many it may do at a time.
fn throughput() {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!(
        "\nSaves a second of one process, which shares {cores} cores with store and Runtime API\n"
    );
    println!("| draft | at a time | saves a second | beside one at a time |");
    println!("|---|---|---|---|");
    for (name, bytes, saves) in [("4 KB", 4 * KB, 4000), ("200 KB", 200 * KB, 1000)] {
        let mut one = None;
        for concurrency in [1, 8, 64] {
            let pipe = Pipe::start(draft(bytes), Duration::ZERO);
            let runtime = one_thread();
            let rate = runtime.block_on(async {
                let function = process(&pipe, concurrency).await;
                let event = post_id(DRAFT);
                function.invoke(&event).await.response();
                let begin = Instant::now();
                let pending: Vec<_> = (0..saves).map(|_| function.begin(&event)).collect();
                for save in pending {
                    assert_eq!(save.outcome().await.response()["statusCode"], 200);
                }
                f64::from(saves) / begin.elapsed().as_secs_f64()
            });
            let one = *one.get_or_insert(rate);
            println!("| {name} | {concurrency} | {rate:.0} | {:.2} |", rate / one);
        }
    }
}
