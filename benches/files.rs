//! Saves with `SAVE_FILES=true` beside bare copies with the same SDK: duration, requests and peak memory.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot run ends with a panic"
)]

#[allow(dead_code, unused_imports, reason = "the other benches use the rest")]
mod common;

use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Region;
use aws_sdk_s3::types::TaggingDirective;
use futures_util::{StreamExt as _, stream};
use save_draft::s3::client;
use test_support::fixtures::{BUCKET, draft_key, post_id};
use test_support::runtime::{Bootstrap, TIMEOUT};
use test_support::s3::{Op, S3, S3Options};

use self::common::{Budget, Program, document, median, memory, programs};

const KB: usize = 1000;
const MB: usize = 1000 * KB;

/// Number of files of a draft.
const FILES: u32 = 20;
/// Number of concurrent copies, as in the function.
const CONCURRENCY: usize = 16;
/// Number of measured saves.
const ROUNDS: usize = 9;

/// Maximum duration of a save beside the bare copies.
const MAX_RATIO: f64 = 1.15;
/// Maximum number of requests of a save.
const MAX_REQUESTS: f64 = FILES as f64 + 7.0;
/// Maximum difference of the peak memory between small and large files, in MB.
const MAX_MEMORY_DIFFERENCE_MB: f64 = 1.0;

#[tokio::main]
async fn main() {
    // `cargo test --benches` only checks that it compiles and starts.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let programs = programs().into_iter();
    let functions: Vec<_> = programs.filter(|program| program.is_function).collect();
    println!("\n## A save with {FILES} new files beside {FILES} bare copies, medians\n");
    println!(
        "| file | program | bare copies | save | save / bare | budget | | requests | budget | |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut peaks = Vec::new();
    for (name, bytes) in [("5 KB", 5 * KB), ("5 MB", 5 * MB)] {
        for function in &functions {
            peaks.push((name, function.name, measure(name, bytes, function).await));
        }
    }
    println!("\n## Peak memory of the function in these saves, MB\n");
    println!("| file | program | peak | beside 5 KB | budget | |");
    println!("|---|---|---|---|---|---|");
    for (name, program, peak) in &peaks {
        let first = peaks.iter().find(|(_, first, _)| first == program);
        let difference = Budget {
            figure: peak - first.map_or(0.0, |(_, _, peak)| *peak),
            max: MAX_MEMORY_DIFFERENCE_MB,
        };
        println!("| {name} | {program} | {peak:.1} | {difference} |");
    }
}

/// Measures saves of files of `bytes` bytes, and prints a row. Returns the peak memory of the
/// function in MB.
async fn measure(name: &str, bytes: usize, program: &Program) -> f64 {
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
    let function = start_function(&s3, program).await;
    let (mut saves, mut copies, mut requests) = (Vec::new(), Vec::new(), 0_u32);
    for round in 0..=ROUNDS {
        let id = format!("round-{round}");
        put_draft(&s3, &id, bytes);
        let copied = copy_files(&s3, &client, &id).await;
        s3.clear_requests();
        let saved = save(&function, &id).await;
        requests = u32::try_from(s3.requests().len()).expect("few requests");
        assert_eq!(s3.count(Op::CopyObject), FILES as usize);
        // The first round opens the connections.
        if round > 0 {
            copies.push(copied);
            saves.push(saved);
        }
        for key in s3.keys(BUCKET, "") {
            s3.delete(BUCKET, &key);
        }
    }
    let (copied, saved) = (median(&copies), median(&saves));
    let figure = saved.as_secs_f64() / copied.as_secs_f64();
    // The other requests of a save take most of the time of small files.
    let ratio = if bytes >= MB {
        let max = MAX_RATIO;
        Budget { figure, max }.to_string()
    } else {
        format!("{figure:.2} | - |")
    };
    let requests = Budget {
        figure: f64::from(requests),
        max: MAX_REQUESTS,
    };
    println!(
        "| {name} | {} | {copied:.1?} | {saved:.1?} | {ratio} | {requests} |",
        program.name
    );
    memory(function.pid(), "VmHWM")
}

fn client(s3: &S3) -> Client {
    let user = s3.options();
    let credentials = Credentials::new(&user.access_key, &user.secret_key, None, None, "bench");
    let sdk = client::config_from_env().expect("a valid environment");
    let sdk = sdk
        .into_builder()
        .endpoint_url(s3.endpoint())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .region(Region::from_static("us-east-1"))
        .build();
    let config = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true);
    Client::from_conf(config.build())
}

async fn start_function(s3: &S3, program: &Program) -> Bootstrap {
    let mut environment = Program::env();
    environment.push(("AWS_ENDPOINT_URL_S3", s3.endpoint()));
    environment.push(("SAVE_FILES", "true".to_owned()));
    Bootstrap::start(&program.path, environment).await
}

/// Creates a draft with a document of 200 KB and [`FILES`] files.
fn put_draft(s3: &S3, id: &str, bytes: usize) {
    s3.put(BUCKET, &draft_key(id), document(200 * KB));
    let mut content = vec![b'x'; bytes];
    for number in 0..FILES {
        let seed = format!("{id} {number}");
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
