//! Saves with `SAVE_FILES=true`: duration, requests and peak memory, beside bare copies with the same SDK.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot run ends with a panic"
)]

#[allow(dead_code, unused_imports, reason = "the other benches use the rest")]
mod common;

use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::types::TaggingDirective;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use test_support::fixtures::{BUCKET, draft_key};
use test_support::runtime::Bootstrap;
use test_support::s3::{S3, S3Options, sdk_config};
use test_support::sizes::{SizeStore, Speed};

use self::common::programs::functions;
use self::common::{Budget, Program, document, median, memory};

const KB: usize = 1000;
const MB: usize = 1000 * KB;

/// Number of concurrent copies, as in the function.
const CONCURRENCY: usize = 16;
/// Number of measured saves.
const ROUNDS: usize = 9;
/// Latency of the store that only keeps sizes.
const LATENCY: Duration = Duration::from_millis(5);
/// Bytes that it copies in a second, for each request.
const COPY_BYTES_PER_SECOND: u64 = 100_000_000;

#[tokio::main]
async fn main() {
    // `cargo test --benches` only checks that it compiles and starts.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let functions = functions();
    println!("\n## Saves of whole drafts\n");
    println!("| save | program | figure | | budget | |");
    println!("|---|---|---|---|---|---|");
    for function in &functions {
        new_files(function).await;
        older_copies(function).await;
        large_file(function).await;
        many_new_files(function).await;
        many_objects(function).await;
    }
}

fn row(save: &str, program: &Program, figure: &str, value: f64, max: f64) {
    let budget = Budget { figure: value, max };
    println!("| {save} | {} | {figure} | {budget} |", program.name);
}

/// 20 new files of 5 MB, in a store that copies their bytes.
async fn new_files(program: &Program) {
    const FILES: usize = 20;
    // In memory, where there is such a folder: the speed of a disk varies.
    let shared_memory = Path::new("/dev/shm");
    let folder = if shared_memory.is_dir() {
        tempfile::tempdir_in(shared_memory)
    } else {
        tempfile::tempdir()
    };
    let folder = folder.expect("a folder");
    let s3 = S3::start(S3Options::new(folder.path()));
    let s3 = s3.await.expect("the S3 starts");
    let client = client(&s3.endpoint());
    let function = start(&s3.endpoint(), program).await;
    let (mut saves, mut copies, mut requests) = (Vec::new(), Vec::new(), 0);
    for round in 0..=ROUNDS {
        let id = format!("round-{round}");
        s3.put(BUCKET, &draft_key(&id), document(200 * KB));
        let mut content = vec![b'x'; 5 * MB];
        let mut sources = Vec::new();
        for number in 0..FILES {
            let seed = format!("{id} {number}");
            content[..seed.len()].copy_from_slice(seed.as_bytes());
            let key = format!("drafts/{id}/assets/{number}.mp4");
            let etag = s3.put(BUCKET, &key, &content);
            sources.push((key, etag));
        }
        let copied = copy_files(&client, sources).await;
        s3.clear_requests();
        let saved = save(&function, &id).await;
        requests = s3.requests().len();
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
    let name = format!(
        "{FILES} new files of 5 MB: {saved:.0?}, bare copies {copied:.0?}, {requests} requests"
    );
    let ratio = saved.as_secs_f64() / copied.as_secs_f64();
    row(&name, program, "save / bare", ratio, 1.15);
    let peak = memory(function.pid(), "VmHWM");
    row("the same", program, "peak memory, MB", peak, 12.0);
}

/// 20 files with copies in a new state, without and with many older copies.
async fn older_copies(program: &Program) {
    let speed = Speed {
        latency: LATENCY,
        copy_bytes_per_second: 0,
    };
    let store = SizeStore::start(speed);
    let function = start(store.url(), program).await;
    let mut medians = Vec::new();
    for (id, older) in [("few", 20_u64), ("many", 100_000)] {
        store.put_files(id, files(20, 5_000_000), true);
        for number in 0..older {
            let hash = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            store.put_file(&format!("saved-files/{id}/{hash:032x}/old.mp4"), 1);
        }
        let mut saves = Vec::new();
        let mut requests = 0;
        for round in 0..=ROUNDS {
            // Another document is another state.
            store.put(&draft_key(id), document(200 * KB + round));
            store.take_requests();
            let saved = save(&function, id).await;
            requests = store.take_requests().len();
            if round > 0 {
                saves.push(saved);
            }
        }
        let saved = median(&saves);
        medians.push(saved.as_secs_f64());
        let name = format!("20 files with copies, {older} older copies: {saved:.1?}");
        let requests = u32::try_from(requests).expect("few requests");
        row(&name, program, "requests", requests.into(), 25.0);
    }
    let ratio = medians[1] / medians[0];
    row("the same", program, "many / few older copies", ratio, 1.2);
}

/// One new file of 4 GB.
async fn large_file(program: &Program) {
    let store = SizeStore::start(Speed {
        latency: LATENCY,
        copy_bytes_per_second: COPY_BYTES_PER_SECOND,
    });
    let function = start(store.url(), program).await;
    store.put(&draft_key("large"), document(200 * KB));
    store.put_files("large", [("clip.mp4".to_owned(), 4_000_000_000)], false);
    let saved = save(&function, "large").await.as_secs_f64();
    let requests = store.take_requests().len();
    let name = format!("one new file of 4 GB, at 100 MB/s for each request: {requests} requests");
    row(&name, program, "seconds", saved, 6.0);
}

/// 10,000 new files of 10 KB.
async fn many_new_files(program: &Program) {
    let latency = Duration::from_millis(30);
    let store = SizeStore::start(Speed {
        latency,
        copy_bytes_per_second: 0,
    });
    let function = start(store.url(), program).await;
    store.put(&draft_key("many"), document(200 * KB));
    store.put_files("many", files(10_000, 10_000), false);
    let sources = store.keys("drafts/many/assets/").into_iter();
    let sources = sources.map(|key| {
        let etag = store.put_file(&key, 10_000);
        (key, etag)
    });
    let copied = copy_files(&client(store.url()), sources.collect()).await;
    store.take_requests();
    let saved = save(&function, "many").await.as_secs_f64();
    let requests = store.take_requests().len();
    let name = format!(
        "10,000 new files of 10 KB, store at 30 ms: bare copies {copied:.1?}, {requests} requests"
    );
    row(&name, program, "seconds", saved, 25.0);
}

/// 100,000 objects that all have copies.
async fn many_objects(program: &Program) {
    let store = SizeStore::start(Speed {
        latency: LATENCY,
        copy_bytes_per_second: 0,
    });
    let function = start(store.url(), program).await;
    store.put(&draft_key("all"), document(200 * KB));
    store.put_files("all", files(99_999, 1_000_000), true);
    let saved = save(&function, "all").await.as_secs_f64();
    let requests = store.take_requests().len();
    let name = format!("100,000 objects with copies: {requests} requests");
    row(&name, program, "seconds", saved, 300.0);
    let listed = listing_memory(&store, "drafts/all/").await;
    let peak = memory(function.pid(), "VmHWM");
    let figure = format!("peak memory, MB (the listing twice: {listed:.1})");
    row("the same", program, &figure, peak, listed + 24.0);
}

/// Returns the memory of a listing of this prefix, twice, as the SDK parses it, in MB.
async fn listing_memory(store: &SizeStore, prefix: &str) -> f64 {
    let client = client(store.url());
    let mut bytes = 0;
    for _ in 0..2 {
        let mut token = None;
        loop {
            let list = client.list_objects_v2().bucket(BUCKET).prefix(prefix);
            let page = list.set_continuation_token(token).send().await;
            let page = page.expect("a page");
            for object in page.contents() {
                let texts = [object.key(), object.e_tag()].map(|text| text.map_or(0, str::len));
                bytes += size_of_val(object) + texts.iter().sum::<usize>();
            }
            token = page.next_continuation_token;
            if token.is_none() {
                break;
            }
        }
    }
    f64::from(u32::try_from(bytes).expect("less than 4 GB")) / 1e6
}

fn client(endpoint: &str) -> Client {
    let sdk = sdk_config(endpoint, "local", "local-secret");
    let config = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true);
    Client::from_conf(config.build())
}

async fn start(endpoint: &str, program: &Program) -> Bootstrap {
    let mut environment = Program::env();
    environment.push(("AWS_ENDPOINT_URL_S3", endpoint.to_owned()));
    environment.push(("SAVE_FILES", "true".to_owned()));
    Bootstrap::start(&program.path, environment).await
}

fn files(count: usize, bytes: u64) -> impl Iterator<Item = (String, u64)> {
    (0..count).map(move |number| (format!("assets/{number:06}.mp4"), bytes))
}

/// Copies objects, keys and `ETag`s, with the requests of a save, and nothing else.
async fn copy_files(client: &Client, sources: Vec<(String, String)>) -> Duration {
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
    // An event, which may take longer than a request.
    let payload = json!({"draft_id": id}).to_string();
    let start = Instant::now();
    let pending = function.begin_within(payload, Duration::from_mins(5));
    let outcome = pending.outcome().await;
    let elapsed = start.elapsed();
    let response = outcome.response();
    assert_eq!(response["draft_id"], id, "{response}");
    elapsed
}
