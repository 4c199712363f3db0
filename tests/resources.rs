//! Memory and time for the largest drafts: the real process stays within the function's memory, and answers in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use test_support::fixtures::{batch, draft_key, draft_of_size, post_id};
use test_support::runtime::{Bootstrap, memory_kib};
use test_support::s3::{Fault, Op, RawResponse, When};
use test_support::sizes::{SizeStore, Speed};

use crate::common::TestEnv;
use crate::files::large;

/// Default of `MAX_DRAFT_BYTES`.
const MAX_DRAFT_BYTES: usize = 64 << 20;
/// Long enough for documents to be read and their validation to start.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// Returns the maximum memory that the process `pid` has had, in MiB.
pub fn peak_memory_mib(pid: u32) -> u64 {
    memory_kib(pid, "VmHWM") / 1024
}

/// Returns a response to a GET with a document of the maximum size: `start`, and `repeated` up to that size.
fn largest_document(start: &str, repeated: &str) -> Fault {
    let response = RawResponse::new(200)
        .header("Content-Length", MAX_DRAFT_BYTES.to_string())
        .header("ETag", "\"0123456789abcdef0123456789abcdef\"")
        .header("Last-Modified", "Sun, 28 Sep 2025 11:47:30 GMT")
        .body(start)
        .then_endless(repeated.repeat((64 << 10) / repeated.len()));
    Fault::Respond(response)
}

#[tokio::test]
async fn large_drafts_side_by_side_fit_into_the_memory() {
    const DRAFTS: usize = 10;
    let env = TestEnv::with(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")]).await;
    for number in 0..DRAFTS {
        let document = format!(r#"{{"text":"{}"}}"#, number.to_string().repeat(60_000_000));
        env.put_draft(&number.to_string(), document);
    }
    let pending = env
        .function
        .begin_within(batch(DRAFTS).to_string(), Duration::from_mins(2));
    let response = pending.outcome().await.response();
    assert_eq!(response, json!({"batchItemFailures": []}));
    let peak = peak_memory_mib(env.function.pid());
    assert!(peak < 256, "the function used {peak} MiB of 256");
}

#[tokio::test]
async fn a_deeply_nested_document_does_not_take_more_memory_than_its_size() {
    let env = TestEnv::with(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")]).await;
    for (start, repeated) in [(r#"{"a":"#, "["), (r#"{"a":"#, r#"{"a":"#)] {
        let fault = env
            .s3
            .fault(When::op(Op::GetObject), largest_document(start, repeated));
        let response = env.function.invoke(&post_id("nested")).await.response();
        assert_eq!(response["statusCode"], 500, "{repeated}");
        fault.clear();
    }
    let peak = peak_memory_mib(env.function.pid());
    assert!(peak < 128, "the function used {peak} MiB of 128");
}

/// Gives a process a part of one processor, as Lambda does: stops it for the rest of each period of 100 ms.
struct CpuShare {
    pid: Pid,
    is_over: Arc<AtomicBool>,
}

impl CpuShare {
    fn limit(pid: u32, percent: u64) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.expect("the id of a process");
        let is_over = Arc::new(AtomicBool::new(false));
        let limit = Arc::clone(&is_over);
        thread::spawn(move || {
            while !limit.load(SeqCst) {
                // It fails when the process has ended.
                let _ = kill_process(pid, Signal::CONT);
                thread::sleep(Duration::from_millis(percent));
                let _ = kill_process(pid, Signal::STOP);
                thread::sleep(Duration::from_millis(100 - percent));
            }
        });
        Self { pid, is_over }
    }
}

impl Drop for CpuShare {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
        let _ = kill_process(self.pid, Signal::CONT);
    }
}

/// Lambda gives a function of 1,769 MB one processor ("Configure Lambda function memory", AWS Lambda Developer Guide).
#[tokio::test]
#[ignore = "takes half a minute"]
async fn the_slowest_documents_are_answered_before_the_deadline_with_little_cpu() {
    let smallest = save_slowest_documents("256", 14);
    let default = save_slowest_documents("512", 29);
    tokio::join!(smallest, default);
}

/// Saves the slowest documents in one batch, with this memory in MB and this part of one processor.
async fn save_slowest_documents(memory: &str, percent: u64) {
    let documents = [
        (r#"{"a":"#, "["),
        (r#"{"a":["#, "[],"),
        (r#"{"a":["#, r#"{"a":1},"#),
        (r#"{"a":["#, "NaN,"),
        (r#"{"a":["#, "-Infinity,"),
        (r#"{"a":["#, "1.5e-10,"),
        (r#"{"a":["#, "\"\\ud800\","),
        (r#"{"a":""#, r"\n"),
        (r#"{"a":""#, "你"),
        ("{", " "),
    ];
    let env = TestEnv::with(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)]).await;
    for (number, (start, repeated)) in documents.into_iter().enumerate() {
        let key = format!("drafts/{number}/");
        let requests = When::op(Op::GetObject).key_starts_with(key);
        env.s3.fault(requests, largest_document(start, repeated));
    }
    assert_answers_in_time(
        &env.function,
        documents.len(),
        (memory, percent),
        TIME_LIMIT,
    )
    .await;
}

/// Invokes `function` with a batch of the drafts `0` to `count - 1`, with this part of one processor, and expects an answer
/// before the deadline, which comes before the saves are done.
async fn assert_answers_in_time(
    function: &Bootstrap,
    count: usize,
    (memory, percent): (&str, u64),
    limit: Duration,
) {
    // The start is not part of the measurement.
    let missing = function.invoke(&post_id("missing")).await.response();
    assert_eq!(missing["statusCode"], 404);
    let share = CpuShare::limit(function.pid(), percent);
    let start = Instant::now();
    let pending = function.begin_within(batch(count).to_string(), limit);
    let response = pending.outcome().await.response();
    let elapsed = start.elapsed();
    println!("{count} drafts, {memory} MB: {elapsed:?} of {limit:?}, {response}");
    let failures = response["batchItemFailures"].as_array().map(Vec::len);
    assert!(failures > Some(0), "{memory} MB: all saves ended in time");
    assert!(elapsed < limit, "{memory} MB: {elapsed:?} of {limit:?}");
    drop(share);
}

/// Documents that are validated one after the other, and folders of many files with long paths.
#[tokio::test]
#[ignore = "long: tests/soak.sh cpu"]
async fn many_saves_are_answered_before_the_deadline_with_little_cpu() {
    let env = TestEnv::with(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")]).await;
    let document = format!("{{\"a\":[{}0]}}", "NaN,".repeat(1 << 18));
    for number in 0..16 {
        env.put_draft(&number.to_string(), &document);
    }
    let limit = Duration::from_secs(5);
    assert_answers_in_time(&env.function, 16, ("256", 14), limit).await;

    for (drafts, size, seconds) in [(1, ("256", 14), 3), (5, ("512", 29), 5)] {
        let store = SizeStore::start(Speed::default());
        for number in 0..drafts {
            let id = number.to_string();
            store.put(&draft_key(&id), draft_of_size(4_000, 1));
            let folder = "f".repeat(940);
            let paths = (0..9_999).map(|number| (format!("{folder}/{number:05}"), 1));
            store.put_files(&id, paths, true);
        }
        let variables = [("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", size.0)];
        let function = large::start(&store, &variables).await;
        let limit = Duration::from_secs(seconds);
        assert_answers_in_time(&function, drafts, size, limit).await;
    }
}

/// 10 MB get 10 seconds: one second for each MB, where small documents get 8 seconds.
#[tokio::test]
async fn an_upload_of_a_large_draft_may_take_longer_than_that_of_a_small_one() {
    let env = TestEnv::start().await;
    let document = format!(r#"{{"text":"{}"}}"#, "x".repeat(10_000_000));
    env.put_draft("large", document);
    let fault = env.s3.fault(When::op(Op::PutObject).once(), Fault::Stall);
    let pending = env.function.begin(&post_id("large"));
    fault.wait_for_hits(1).await;
    tokio::time::sleep(Duration::from_millis(8_500)).await;
    fault.clear();
    let response = pending.outcome().await.response();
    assert_eq!(response["headers"]["draft-saved"], "created", "{response}");
    assert_eq!(env.s3.count(Op::PutObject), 1, "number of uploads");
}
