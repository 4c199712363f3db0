//! Saves with `SAVE_FILES=true` beside bare copies with the same SDK: duration, requests and peak memory.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot run ends with a panic"
)]

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::types::TaggingDirective;
use futures_util::{StreamExt as _, stream};
use save_draft::aws;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, post_id};
use test_support::runtime::{Bootstrap, TIMEOUT};
use test_support::s3::{Op, S3, S3Options};

const KB: usize = 1000;
const MB: usize = 1000 * KB;

/// Number of files of a draft.
const FILES: usize = 20;
/// Number of concurrent copies, as in the function.
const CONCURRENCY: usize = 16;
/// Number of measured saves.
const ROUNDS: usize = 9;

/// Maximum duration of a save beside the bare copies.
const MAX_RATIO: f64 = 1.15;
/// Maximum number of requests of a save.
const MAX_REQUESTS: usize = FILES + 7;
/// Maximum difference of the peak memory between small and large files, in MB.
const MAX_MEMORY_DIFFERENCE_MB: f64 = 1.0;

#[tokio::main]
async fn main() {
    // `cargo test --benches` only checks that it compiles and starts.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("\n## A save with {FILES} new files beside {FILES} bare copies, medians\n");
    println!("| file | bare copies | save | save / bare | budget | | requests | budget | |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut peaks = Vec::new();
    for (name, bytes) in [("5 KB", 5 * KB), ("5 MB", 5 * MB)] {
        peaks.push((name, measure(name, bytes).await));
    }
    println!("\n## Peak memory of the function in these saves, MB\n");
    println!("| file | peak | difference | budget | |");
    println!("|---|---|---|---|---|");
    let (_, smallest) = peaks[0];
    for (name, peak) in peaks {
        let difference = peak - smallest;
        let verdict = verdict(difference <= MAX_MEMORY_DIFFERENCE_MB);
        println!(
            "| {name} | {peak:.1} | {difference:.1} | {MAX_MEMORY_DIFFERENCE_MB:.1} | {verdict} |"
        );
    }
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

/// Measures saves of files of `bytes` bytes, and prints a row. Returns the peak memory of the
/// function in MB.
async fn measure(name: &str, bytes: usize) -> f64 {
    // In memory, where there is such a folder: the speed of a disk varies.
    let shared_memory = Path::new("/dev/shm");
    let folder = if shared_memory.is_dir() {
        tempfile::tempdir_in(shared_memory)
    } else {
        tempfile::tempdir()
    };
    let folder = folder.expect("a folder");
    let s3 = S3::start(S3Options::new(folder.path()))
        .await
        .expect("the S3 starts");
    let client = client(&s3);
    let function = start_function(&s3).await;
    let (mut saves, mut copies, mut requests) = (Vec::new(), Vec::new(), 0);
    for round in 0..=ROUNDS {
        let id = format!("round-{round}");
        put_draft(&s3, &id, bytes, round);
        let copied = copy_files(&s3, &client, &id).await;
        s3.clear_requests();
        let saved = save(&function, &id).await;
        requests = requests.max(s3.requests().len());
        assert_eq!(s3.count(Op::CopyObject), FILES);
        // The first round opens the connections.
        if round > 0 {
            copies.push(copied);
            saves.push(saved);
        }
        for key in s3.keys(BUCKET, "") {
            s3.delete(BUCKET, &key);
        }
    }
    let (copied, saved) = (median(copies), median(saves));
    let ratio = saved.as_secs_f64() / copied.as_secs_f64();
    // Other requests dominate the time of small files.
    let budget = if bytes >= MB {
        format!("{MAX_RATIO:.2} | {}", verdict(ratio <= MAX_RATIO))
    } else {
        "- |".to_owned()
    };
    let within = verdict(requests <= MAX_REQUESTS);
    println!(
        "| {name} | {copied:.1?} | {saved:.1?} | {ratio:.2} | {budget} | {requests} \
         | {MAX_REQUESTS} | {within} |"
    );
    peak_memory(&function)
}

fn client(s3: &S3) -> Client {
    let user = s3.options();
    let credentials = Credentials::new(&user.access_key, &user.secret_key, None, None, "bench");
    let sdk = aws::config_from_env().expect("a valid environment");
    let sdk = sdk
        .into_builder()
        .endpoint_url(s3.endpoint())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .region(Region::from_static("us-east-1"))
        .build();
    let config = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true);
    Client::from_conf(config.build())
}

async fn start_function(s3: &S3) -> Bootstrap {
    let (endpoint, user) = (s3.endpoint(), s3.options());
    let environment = [
        ("AWS_ENDPOINT_URL_S3", &*endpoint),
        ("AWS_ACCESS_KEY_ID", &user.access_key),
        ("AWS_SECRET_ACCESS_KEY", &user.secret_key),
        ("DRAFT_BUCKET", BUCKET),
        ("SAVE_FILES", "true"),
    ];
    Bootstrap::start(env!("CARGO_BIN_EXE_bootstrap"), environment).await
}

/// Creates a draft with a document of 200 KB and [`FILES`] files.
fn put_draft(s3: &S3, id: &str, bytes: usize, round: usize) {
    s3.put(
        BUCKET,
        &draft_key(id),
        draft_of_size(200 * KB, round as u64),
    );
    let mut content = vec![b'x'; bytes];
    for number in 0..FILES {
        let seed = format!("{round} {number}");
        content[..seed.len()].copy_from_slice(seed.as_bytes());
        s3.put(
            BUCKET,
            &format!("drafts/{id}/assets/{number}.mp4"),
            &content,
        );
    }
}

/// Copies the files of the draft `id` with the requests of a save, and nothing else.
async fn copy_files(s3: &S3, client: &Client, id: &str) -> Duration {
    let keys = s3.keys(BUCKET, &format!("drafts/{id}/assets/"));
    let sources = keys.into_iter().map(|key| {
        let etag = s3.metadata(BUCKET, &key).expect("a file").etag;
        (key, etag)
    });
    let sources: Vec<_> = sources.collect();
    let start = Instant::now();
    let copies = stream::iter(sources).map(|(key, etag)| {
        let copy = client
            .copy_object()
            .bucket(BUCKET)
            .key(format!("bare/{key}"));
        copy.copy_source(format!("{BUCKET}/{key}"))
            .copy_source_if_match(format!("\"{etag}\""))
            .if_none_match("*")
            .tagging_directive(TaggingDirective::Replace)
            .send()
    });
    let mut copies = copies.buffer_unordered(CONCURRENCY);
    while let Some(copy) = copies.next().await {
        copy.expect("the file is copied");
    }
    start.elapsed()
}

async fn save(function: &Bootstrap, id: &str) -> Duration {
    let payload = post_id(id).to_string();
    let start = Instant::now();
    let outcome = function.begin_within(payload, TIMEOUT).outcome().await;
    let elapsed = start.elapsed();
    let response = outcome.response();
    assert_eq!(response["statusCode"], 200, "{response}");
    elapsed
}

fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort();
    durations[durations.len() / 2]
}

/// Returns the peak of the resident memory of the function in MB.
fn peak_memory(function: &Bootstrap) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", function.pid()));
    let status = status.expect("a running process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next());
    let kib: f64 = kib.and_then(|kib| kib.parse().ok()).expect("a size in KiB");
    kib * 1024.0 / 1e6
}
