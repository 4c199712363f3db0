//! Memory and time for the largest drafts: the real process stays within the function's memory, and answers in time.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::fixtures::{draft_key, draft_of_size, event, post_id};
use test_support::runtime::{Bootstrap, memory_kib};
use test_support::s3::{Fault, Op, RawResponse, When};
use test_support::sizes::{SizeStore, Speed};
use test_support::skip_or_fail;

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

/// Returns an SQS event with one message for each of the drafts `0` to `count - 1`, whose `messageId` is the draft id.
fn batch(count: usize) -> Value {
    let mut event = event("sqs");
    let message = event["Records"][0].take();
    let messages = (0..count).map(|number| {
        let mut message = message.clone();
        message["messageId"] = number.to_string().into();
        message["body"] = json!({"draft_id": number.to_string()}).to_string().into();
        message
    });
    event["Records"] = messages.collect();
    event
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

/// A control group that limits the processor time of the process `pid`.
struct CpuQuota {
    pid: u32,
    root: PathBuf,
    group: PathBuf,
}

impl CpuQuota {
    /// Limits the process `pid` to this part of one processor, or returns the reason why it is not possible.
    ///
    /// Needs root, or `sudo` without a password where `CI` is `true`.
    fn limit(pid: u32, percent: u32) -> Result<Self, String> {
        let version_1 = PathBuf::from("/sys/fs/cgroup/cpu");
        let is_version_1 = version_1.join("cpu.cfs_quota_us").exists();
        let root = if is_version_1 {
            version_1
        } else {
            PathBuf::from("/sys/fs/cgroup")
        };
        let group = root.join(format!("save-draft-{pid}"));
        let path = group.display();
        let quota = percent * 1000;
        // The period is 100 ms. The weight guarantees the quota beside other processes, as Lambda does.
        let limit = if is_version_1 {
            format!("echo {quota} > {path}/cpu.cfs_quota_us && echo 200000 > {path}/cpu.shares")
        } else {
            format!("echo {quota} 100000 > {path}/cpu.max && echo 10000 > {path}/cpu.weight")
        };
        run_as_root(&format!(
            "mkdir {path} && {limit} && echo {pid} > {path}/cgroup.procs"
        ))?;
        Ok(Self { pid, root, group })
    }
}

impl Drop for CpuQuota {
    fn drop(&mut self) {
        // A group with processes cannot be removed.
        let (root, group) = (self.root.display(), self.group.display());
        let remove = format!("echo {} > {root}/cgroup.procs; rmdir {group}", self.pid);
        if let Err(error) = run_as_root(&remove) {
            println!("{error}");
        }
    }
}

fn run_as_root(script: &str) -> Result<(), String> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let is_ci = env::var("CI").as_deref() == Ok("true");
    let mut command = if is_ci && !is_root {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    } else {
        Command::new("sh")
    };
    let output = command.arg("-c").arg(script).output();
    let output = output.map_err(|error| format!("a CPU quota needs root: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("a CPU quota needs root: {}", error.trim()))
}

/// Lambda gives a function of 1,769 MB one processor ("Configure Lambda function memory", AWS Lambda Developer Guide).
#[tokio::test]
#[ignore = "needs root: tests/soak.sh cpu"]
async fn the_slowest_documents_are_answered_before_the_deadline_with_little_cpu() {
    let smallest = save_slowest_documents("256", 14);
    let default = save_slowest_documents("512", 29);
    tokio::join!(smallest, default);
}

/// Saves the slowest documents in one batch, with this memory in MB and this part of one processor.
async fn save_slowest_documents(memory: &str, percent: u32) {
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
    assert_answers_in_time(&env.function, documents.len(), memory, percent).await;
}

/// Invokes `function` with a batch of the drafts `0` to `count - 1`, with this part of one processor, and expects an answer
/// before the deadline, which comes before the saves are done.
async fn assert_answers_in_time(function: &Bootstrap, count: usize, memory: &str, percent: u32) {
    // The start is not part of the measurement.
    let missing = function.invoke(&post_id("missing")).await.response();
    assert_eq!(missing["statusCode"], 404);
    let quota = match CpuQuota::limit(function.pid(), percent) {
        Ok(quota) => quota,
        Err(reason) => return skip_or_fail(&reason),
    };
    let start = Instant::now();
    let pending = function.begin_within(batch(count).to_string(), TIME_LIMIT);
    let response = pending.outcome().await.response();
    let elapsed = start.elapsed();
    println!("{count} drafts, {memory} MB: {elapsed:?} of {TIME_LIMIT:?}, {response}");
    let failures = response["batchItemFailures"].as_array().map(Vec::len);
    assert!(failures > Some(0), "{memory} MB: all saves ended in time");
    assert!(
        elapsed < TIME_LIMIT,
        "{memory} MB: {elapsed:?} of {TIME_LIMIT:?}"
    );
    function.kill().await;
    drop(quota);
}

/// Documents that are validated one after the other, and folders of many files with long paths.
#[tokio::test]
#[ignore = "needs root: tests/soak.sh cpu"]
async fn many_saves_are_answered_before_the_deadline_with_little_cpu() {
    let env = TestEnv::with(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")]).await;
    let document = format!("{{\"a\":[{}0]}}", "NaN,".repeat(1 << 18));
    for number in 0..16 {
        env.put_draft(&number.to_string(), &document);
    }
    assert_answers_in_time(&env.function, 16, "256", 14).await;

    for (drafts, memory, percent) in [(1, "256", 14), (5, "512", 29)] {
        let store = SizeStore::start(Speed::default());
        for number in 0..drafts {
            let id = number.to_string();
            store.put(&draft_key(&id), draft_of_size(4_000, 1));
            let folder = "f".repeat(940);
            let paths = (0..9_999).map(|number| (format!("{folder}/{number:05}"), 1));
            store.put_files(&id, paths, true);
        }
        let variables = [("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)];
        let function = large::start(&store, &variables).await;
        assert_answers_in_time(&function, drafts, memory, percent).await;
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
