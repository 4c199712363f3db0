//! The requests of `SAVE_FILES` that a store has to support, for all stores of the contract suite.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use save_draft::error::ErrorKind;
use save_draft::s3::{CopyOutcome, CopySource, ListedObject, Store};
use serde_json::Value;
use test_support::fixtures::{draft_key, draft_of_size};
use tokio::task::JoinSet;

use super::UNUSUAL_PATHS;
use crate::common;
use crate::common::drafts::{SAVE_FILES, file_key};
use crate::store::{
    CONTROL_CHARACTERS, COPY_IF_MATCH, COPY_IF_NONE_MATCH, COPY_WITHOUT_TAGS, Target, targets,
};

/// The keys that the store supports.
fn keys(target: &Target) -> Vec<&'static str> {
    let mut keys = UNUSUAL_PATHS.to_vec();
    keys.push("folder/");
    if target.can(CONTROL_CHARACTERS) {
        keys.push("line\nbreak\ttab");
    }
    keys
}

/// Lists the one object `key` of the drafts.
async fn find(target: &Target, key: &str) -> ListedObject {
    let listing = target
        .store
        .list_drafts(key, None)
        .await
        .expect("a listing");
    let mut objects = listing.objects.into_iter();
    objects
        .find(|object| object.key == key)
        .expect("the object")
}

fn source_of(object: &ListedObject) -> CopySource<'_> {
    CopySource {
        key: &object.key,
        etag: &object.etag,
        size: object.size,
    }
}

async fn copy(target: &Target, source: &ListedObject, key: &str) -> CopyOutcome {
    let outcome = target.store.copy(source_of(source), key).await;
    outcome.unwrap_or_else(|error| panic!("{}: {}", target.name, error.cause_chain()))
}

fn is_created(outcome: &CopyOutcome) -> bool {
    matches!(outcome, CopyOutcome::Created)
}

#[tokio::test]
async fn a_listing_has_the_keys_as_they_were_written() {
    for target in targets().await {
        let written = keys(&target);
        for key in &written {
            target.put(&format!("drafts/x/{key}"), (*key).into()).await;
        }
        target.put("drafts/x-2/a", Vec::new()).await;
        target.put("drafts/w", Vec::new()).await;
        let listing = target.store.list_drafts("drafts/x/", None).await;
        let listing = listing.expect("a listing");
        assert!(listing.next.is_none(), "{}", target.name);
        let keys: BTreeSet<_> = listing.objects.iter().map(|object| &*object.key).collect();
        let expected: Vec<_> = written
            .iter()
            .map(|key| format!("drafts/x/{key}"))
            .collect();
        let expected: BTreeSet<_> = expected.iter().map(String::as_str).collect();
        assert_eq!(keys, expected, "{}", target.name);
        for object in &listing.objects {
            let head = target.client.head_object().bucket(&target.bucket);
            let head = head.key(&object.key).send().await.expect("the object");
            let etag = head.e_tag().map(|etag| etag.trim_matches('"'));
            assert_eq!(Some(object.etag.trim_matches('"')), etag, "{}", target.name);
            let time = head.last_modified().expect("a time").secs();
            assert_eq!(
                object.last_modified.unix_timestamp(),
                time,
                "{}",
                target.name
            );
            let size = head.content_length().and_then(|size| size.try_into().ok());
            assert_eq!(Some(object.size), size, "{}", target.name);
        }
        let none = target.store.list_drafts("saved-files/none/", None).await;
        let none = none.expect("a listing");
        assert!(
            none.next.is_none() && none.objects.is_empty(),
            "{}",
            target.name
        );
    }
}

#[tokio::test]
async fn a_listing_of_several_pages_is_complete() {
    const OBJECTS: usize = 1003;
    for target in targets().await {
        let target = Arc::new(target);
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let target = Arc::clone(&target);
            writers.spawn(async move {
                for number in (writer..OBJECTS).step_by(8) {
                    target
                        .put(&format!("drafts/p/{number:04} +%"), b"x".to_vec())
                        .await;
                }
            });
        }
        writers.join_all().await;
        let mut keys: Vec<String> = Vec::new();
        let mut token = None;
        loop {
            let page = target
                .store
                .list_drafts("drafts/p/", token.as_deref())
                .await;
            let page = page.expect("a page");
            keys.extend(page.objects.into_iter().map(|object| object.key));
            token = page.next;
            if token.is_none() {
                break;
            }
            assert_eq!(keys.len(), 1000, "{}", target.name);
        }
        let page = target
            .store
            .list_saved("drafts/p/", "drafts/p/0999 +%")
            .await;
        let after: Vec<_> = page.expect("a page").objects;
        assert_eq!(after[0].key, "drafts/p/1000 +%", "{}", target.name);
        assert_eq!(after.len(), OBJECTS - 1000, "{}", target.name);
        let expected = (0..OBJECTS).map(|number| format!("drafts/p/{number:04} +%"));
        assert!(
            keys.iter().cloned().eq(expected),
            "{}: {keys:?}",
            target.name
        );
    }
}

#[tokio::test]
async fn a_listing_of_a_missing_bucket_is_an_error() {
    for target in targets().await {
        let config = common::config("no-such-bucket-here", &[]);
        let store = Store::new(&target.endpoint.sdk(), config.storage);
        let error = store
            .list_drafts("drafts/x/", None)
            .await
            .expect_err("no bucket");
        assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
    }
}

#[tokio::test]
async fn a_copy_has_the_bytes_the_content_type_and_the_metadata() {
    for target in targets().await {
        // The embedded store has no tags.
        let has_tags = target.name != "embedded" && target.can(COPY_WITHOUT_TAGS);
        for (number, key) in keys(&target).into_iter().enumerate() {
            let (source, copy_key) = (format!("drafts/x/{key}"), format!("copies/{key}"));
            let content = format!("content {number}").into_bytes();
            let put = target
                .client
                .put_object()
                .bucket(&target.bucket)
                .key(&source);
            let put = put.content_type("video/mp4").metadata("made-by", "test");
            let put = put.set_tagging(has_tags.then(|| "a=b".to_owned()));
            let put = put.body(content.clone().into());
            put.send().await.expect("the object is written");

            let source = find(&target, &source).await;
            assert!(
                is_created(&copy(&target, &source, &copy_key).await),
                "{key}"
            );
            assert_eq!(
                target.get(&copy_key).await,
                content,
                "{}: {key}",
                target.name
            );
            let head = target.client.head_object().bucket(&target.bucket);
            let head = head.key(&copy_key).send().await.expect("the copy");
            assert_eq!(head.content_type(), Some("video/mp4"), "{}", target.name);
            let metadata = head.metadata().expect("metadata");
            let made_by = metadata.get("made-by").map(String::as_str);
            assert_eq!(made_by, Some("test"), "{}", target.name);
            assert_eq!(
                head.e_tag().map(|etag| etag.trim_matches('"')),
                Some(source.etag.trim_matches('"')),
                "{}",
                target.name
            );
            if has_tags {
                let tags = target.client.get_object_tagging().bucket(&target.bucket);
                let tags = tags.key(&copy_key).send().await.expect("tags");
                assert!(tags.tag_set().is_empty(), "{}: {tags:?}", target.name);
            }
        }
    }
}

#[tokio::test]
async fn a_copy_is_not_replaced() {
    for target in targets().await {
        if !target.can(COPY_IF_NONE_MATCH) {
            continue;
        }
        target.put("drafts/x/a", b"source".to_vec()).await;
        target.put("copies/a", b"another".to_vec()).await;
        let source = find(&target, "drafts/x/a").await;
        let outcome = copy(&target, &source, "copies/a").await;
        assert!(!is_created(&outcome), "{}", target.name);
        assert_eq!(target.get("copies/a").await, b"another", "{}", target.name);
    }
}

#[tokio::test]
async fn a_source_that_was_replaced_is_not_copied() {
    for target in targets().await {
        target.put("drafts/x/a", b"before".to_vec()).await;
        let source = find(&target, "drafts/x/a").await;
        target.put("drafts/x/a", b"after".to_vec()).await;
        if target.can(COPY_IF_MATCH) {
            let outcome = copy(&target, &source, "copies/a").await;
            assert!(!is_created(&outcome), "{}", target.name);
            assert!(!target.exists("copies/a").await, "{}", target.name);
        }
        let source = find(&target, "drafts/x/a").await;
        let outcome = copy(&target, &source, "copies/b").await;
        assert!(is_created(&outcome), "{}", target.name);
        assert_eq!(target.get("copies/b").await, b"after", "{}", target.name);
    }
}

#[tokio::test]
async fn a_source_that_was_deleted_is_not_copied() {
    for target in targets().await {
        target.put("drafts/x/a", b"before".to_vec()).await;
        let source = find(&target, "drafts/x/a").await;
        target.delete("drafts/x/a").await;
        let outcome = copy(&target, &source, "copies/a").await;
        assert!(!is_created(&outcome), "{}", target.name);
        assert!(!target.exists("copies/a").await, "{}", target.name);
    }
}

#[tokio::test]
async fn a_copy_into_a_missing_bucket_is_an_error() {
    for target in targets().await {
        target.put("drafts/x/a", b"source".to_vec()).await;
        let source = find(&target, "drafts/x/a").await;
        let variables = [("SAVED_BUCKET", "no-such-bucket-here")];
        let config = common::config(&target.bucket, &variables);
        let store = Store::new(&target.endpoint.sdk(), config.storage);
        let error = store
            .copy(source_of(&source), "copies/a")
            .await
            .expect_err("no bucket");
        assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
        let cause = error.cause_chain();
        assert!(cause.contains("NoSuchBucket"), "{}: {cause}", target.name);
    }
}

#[tokio::test]
async fn a_draft_is_saved_as_a_whole() {
    for target in targets().await {
        let id = "whole";
        target.put(&draft_key(id), draft_of_size(3_000, 1)).await;
        let mut paths = keys(&target);
        paths.retain(|path| !path.contains(char::is_control));
        for path in &paths {
            target.put(&file_key(id, path), (*path).into()).await;
        }
        let config = common::config(&target.bucket, &[SAVE_FILES]);
        let saver = common::saver_with(&target.endpoint.sdk(), config);
        let mut saved = Vec::new();
        for copied in [paths.len(), 0] {
            let deadline = Instant::now() + Duration::from_mins(1);
            let report = saver.save(id.parse().expect("an id"), deadline).await;
            let version = report.result.unwrap_or_else(|error| {
                panic!("{}: {}", target.name, error.cause_chain());
            });
            saved.push(version.version.to_string());
            let files = report.files.expect("a report");
            assert_eq!(files.copied, copied as u64, "{}", target.name);
        }
        assert_eq!(saved[0], saved[1], "{}", target.name);
        let manifest = format!("saved/{id}/{}/files.json", saved[0]);
        let manifest = target.get(&manifest).await;
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let files = manifest["files"].as_array().expect("a list");
        assert_eq!(files.len(), paths.len(), "{}", target.name);
        for file in files {
            let (path, key) = (file["path"].as_str(), file["key"].as_str());
            let content = target.get(key.expect("a key")).await;
            assert_eq!(content, path.expect("a path").as_bytes(), "{}", target.name);
        }
    }
}
