//! Drafts with many or large files, and with many older copies, in a store that keeps sizes in place of bytes.

use std::time::Duration;

use serde_json::{Value, json};
use test_support::fixtures::{batch, draft_key, draft_of_size, long_tests};
use test_support::runtime::{Bootstrap, memory_kib};
use test_support::sizes::{SizeRequest, SizeStore, Speed};

use crate::common::drafts::SAVE_FILES;
use crate::common::{Endpoint, start_function_with};

/// Starts a function that uses `store`, with these environment variables beside the required ones.
pub async fn start(store: &SizeStore, env: &[(&str, &str)]) -> Bootstrap {
    let endpoint = Endpoint {
        url: store.url().to_owned(),
        access_key: "local".to_owned(),
        secret_key: "local-secret".to_owned(),
    };
    start_function_with(&endpoint, &[&[SAVE_FILES][..], env].concat()).await
}

/// Saves the draft `id` by an event, which may take longer than a request; returns the record of the save.
async fn save(function: &Bootstrap, id: &str) -> Value {
    let event = json!({"draft_id": id}).to_string();
    let pending = function.begin_within(event, Duration::from_mins(5));
    let request_id = pending.request_id.clone();
    pending.outcome().await;
    let mut lines = function.logs_for(&request_id).await;
    lines.pop().expect("a record")
}

fn put_document(store: &SizeStore, id: &str) {
    store.put(&draft_key(id), draft_of_size(4_000, 1));
}

fn files(count: usize, bytes: u64) -> impl Iterator<Item = (String, u64)> {
    (0..count).map(move |number| (format!("assets/{number:06}"), bytes))
}

fn count_of(requests: &[SizeRequest], operation: &str) -> usize {
    let requests = requests.iter();
    requests
        .filter(|request| request.operation == operation)
        .count()
}

#[tokio::test]
async fn older_copies_add_no_requests() {
    const OLDER: u64 = 100_000;
    let store = SizeStore::start(Speed::default());
    let function = start(&store, &[]).await;
    for (id, older) in [("new", 0), ("old", OLDER)] {
        put_document(&store, id);
        // The largest number of files whose copies are asked for one by one.
        store.put_files(id, files(24, 1000), false);
        for number in 0..older {
            let hash = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            store.put_file(&format!("saved-files/{id}/{hash:032x}/old"), 1);
        }
        for (outcome, copied, others) in [("created", 24, 4), ("unchanged", 0, 5)] {
            store.take_requests();
            let record = save(&function, id).await;
            assert_eq!(record["outcome"], outcome, "{record}");
            assert_eq!(record["FilesCopied"], copied);
            let requests = store.take_requests();
            assert_eq!(count_of(&requests, "HeadObject"), 24);
            assert_eq!(count_of(&requests, "CopyObject"), copied);
            assert_eq!(requests.len(), 24 + copied + others);
        }
    }
}

#[tokio::test]
async fn a_file_over_256_mib_is_copied_in_parts() {
    const SIZE: u64 = 4_000_000_000;
    let store = SizeStore::start(Speed::default());
    let function = start(&store, &[]).await;
    let id = "large";
    put_document(&store, id);
    store.put_file(&format!("drafts/{id}/clip.mp4"), SIZE);
    store.put_file(&format!("drafts/{id}/small.mp4"), 256 << 20);
    let record = save(&function, id).await;
    assert_eq!(record["outcome"], "created", "{record}");
    assert_eq!(record["CopiedBytes"], SIZE + (256 << 20));
    let requests = store.take_requests();
    assert_eq!(count_of(&requests, "CopyObject"), 1);
    let mut ranges: Vec<(u64, u64)> = requests
        .iter()
        .filter_map(|request| {
            let (first, last) = request.range.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect();
    ranges.sort_unstable();
    assert_eq!(ranges.len(), 60);
    assert_eq!(ranges[0].0, 0);
    assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
    assert_eq!(ranges.last().map(|range| range.1), Some(SIZE - 1));
    let copies = store.keys(&format!("saved-files/{id}/"));
    let sizes: Vec<_> = copies.iter().map(|key| store.size(key)).collect();
    assert_eq!(sizes.iter().flatten().sum::<u64>(), SIZE + (256 << 20));
    assert_eq!(store.uploads(), 0);
}

#[tokio::test]
async fn requests_for_copies_of_all_drafts_have_one_limit() {
    // Much longer than the function needs for a request.
    let latency = Duration::from_millis(200);
    let store = SizeStore::start(Speed {
        latency,
        copy_bytes_per_second: 0,
    });
    let function = start(&store, &[]).await;
    for number in 0..4 {
        let id = number.to_string();
        put_document(&store, &id);
        store.put_files(&id, files(60, 1000), false);
    }
    put_document(&store, "4");
    store.put_file("drafts/4/clip.mp4", 10 << 30);
    let event = batch(5).to_string();
    let response = function.begin_within(event, Duration::from_mins(2));
    let response = response.outcome().await.response();
    assert_eq!(response, json!({"batchItemFailures": []}));
    assert_eq!(store.max_copying(), 16, "copies and parts at a time");
}

#[tokio::test]
async fn a_draft_of_more_than_100_000_objects_is_a_500() {
    let store = SizeStore::start(Speed::default());
    let function = start(&store, &[]).await;
    put_document(&store, "many");
    store.put_files("many", files(100_000, 1), false);
    let record = save(&function, "many").await;
    assert_eq!(record["outcome"], "SaveFailed", "{record}");
    let error = record["error"].as_str().expect("an error");
    assert!(error.contains("more than 100000 objects"), "{error}");
    let requests = store.take_requests();
    assert_eq!(requests.len(), count_of(&requests, "ListObjectsV2") + 1);
}

/// The listings, states and manifests of all drafts of a batch share the memory of the function.
#[tokio::test]
async fn large_folders_side_by_side_fit_into_the_memory() {
    // The memory is that of the process and 3 MiB, or that of a stack.
    let (drafts, count, document, memory) = if long_tests() {
        (6, 9_999, 50_000_000, 512)
    } else {
        (4, 600, 500_000, 67)
    };
    let store = SizeStore::start(Speed::default());
    let max_draft = document.to_string();
    let memory_text = memory.to_string();
    let variables = [
        ("MAX_DRAFT_BYTES", &*max_draft),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory_text),
    ];
    let function = start(&store, &variables).await;
    for number in 0..drafts {
        let id = number.to_string();
        let document = if number == 0 { document } else { 4_000 };
        store.put(&draft_key(&id), draft_of_size(document, 1));
        let folder = "f".repeat(940);
        let paths = (0..count).map(|number| (format!("{folder}/{number:05}"), 1));
        store.put_files(&id, paths, true);
    }
    let event = batch(drafts).to_string();
    let pending = function.begin_within(event, Duration::from_mins(8));
    let response = pending.outcome().await.response();
    assert_eq!(response, json!({"batchItemFailures": []}));
    let peak = memory_kib(function.pid(), "VmHWM") / 1024;
    println!("{drafts} drafts of {count} files: peak {peak} MiB of {memory}");
    assert!(peak < memory, "the function used {peak} MiB of {memory}");
    let reads = count_of(&store.take_requests(), "GetObject");
    assert!(
        // With the memory of a stack, all fit beside each other.
        reads > drafts || long_tests(),
        "a save waited for memory, and started again"
    );
}

#[tokio::test]
async fn a_folder_that_needs_more_than_the_whole_memory_is_a_500_that_says_so() {
    let store = SizeStore::start(Speed::default());
    // 1 MiB more than the process itself.
    let variables = [
        ("MAX_DRAFT_BYTES", "1000000"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "65"),
    ];
    let function = start(&store, &variables).await;
    put_document(&store, "small-memory");
    store.put_files("small-memory", files(5_000, 1), true);
    let record = save(&function, "small-memory").await;
    assert_eq!(record["outcome"], "SaveFailed", "{record}");
    let error = record["error"].as_str().expect("an error");
    assert!(error.contains("raise its memory"), "{error}");
}
