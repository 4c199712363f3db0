//! The requests that the function makes of a store. The tests run against the S3 server of `test_support`, or against the
//! store at `S3_TEST_ENDPOINT` if it is set, with the credentials in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
//!
//! `S3_TEST_STORE` is the name of that store: `moto` or `ceph`. A test for a feature that it does not support is skipped.

use std::collections::BTreeSet;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ChecksumMode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use save_draft::draft::Sha256Digest;
use save_draft::error::{Error, ErrorKind};
use save_draft::s3::{
    CopyError, CopySource, CreateOutcome, Document, ListedObject, NewObject, Pool, Store,
};
use serde_json::Value;
use test_support::fixtures::{draft_key, draft_of_size};
use test_support::s3::S3;
use time::OffsetDateTime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::common::drafts::{SAVE_FILES, file_key, save_by};
use crate::common::{self, Endpoint};
use crate::files::UNUSUAL_PATHS;

// Features that some stores do not support.
const ATOMIC_CREATE: &str = "of concurrent conditional writes one succeeds";
const SHA256: &str = "an upload is verified with its SHA-256, which is stored";
const COPY_IF_MATCH: &str = "a copy supports x-amz-copy-source-if-match";
const COPY_IF_NONE_MATCH: &str = "a copy supports If-None-Match";
const COPY_WITHOUT_TAGS: &str = "a copy has no tags";
const CONTROL_CHARACTERS: &str = "keys may contain control characters";

/// Features that stores do not support, and what they do instead.
#[rustfmt::skip]
const UNSUPPORTED: [(&str, &str, &str); 9] = [
    ("moto", ATOMIC_CREATE,      "moto 5.2.5 looks for the object and writes it without a lock"),
    ("moto", SHA256,             "moto 5.2.5 does not verify it"),
    ("moto", COPY_IF_MATCH,      "moto 5.2.5 ignores the condition"),
    ("moto", COPY_IF_NONE_MATCH, "moto 5.2.5 ignores the condition"),
    ("moto", CONTROL_CHARACTERS, "moto 5.2.5 answers 404 to a key with a line break"),
    ("ceph", SHA256,             "Ceph 16.2 ignores it"),
    ("ceph", COPY_IF_MATCH,      "Ceph 16.2 ignores the condition"),
    ("ceph", COPY_IF_NONE_MATCH, "Ceph 16.2 ignores the condition"),
    ("ceph", COPY_WITHOUT_TAGS,  "Ceph 16.2 ignores x-amz-tagging-directive"),
];

/// A new bucket in a store.
struct Target {
    name: String,
    endpoint: Endpoint,
    client: Client,
    store: Store,
    bucket: String,
    /// Stops when the test ends.
    _s3: Option<S3>,
}

impl Target {
    async fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let (name, endpoint, s3) = if let Some(endpoint) = Endpoint::external() {
            let name = env::var("S3_TEST_STORE").unwrap_or_default();
            (name, endpoint, None)
        } else {
            let s3 = S3::start_empty().await.expect("the S3 server starts");
            ("embedded".to_owned(), Endpoint::of(&s3), Some(s3))
        };
        let now = SystemTime::UNIX_EPOCH.elapsed();
        let now = now.expect("a time after 1970").as_micros();
        let bucket = format!("store-{now}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let sdk_config = endpoint.sdk();
        let client = common::client(&sdk_config);
        let created = client.create_bucket().bucket(&bucket).send().await;
        created.expect("the bucket is created");
        Self {
            store: Store::new(&sdk_config, Arc::new(common::config(&bucket, &[]))),
            name,
            endpoint,
            client,
            bucket,
            _s3: s3,
        }
    }

    /// Returns whether the store supports `feature`, and prints the reason if not.
    fn can(&self, feature: &str) -> bool {
        let unsupported = UNSUPPORTED
            .iter()
            .find(|(store, missing, _)| *store == self.name && *missing == feature);
        if let Some((store, _, reason)) = unsupported {
            println!("skipped for {store}: {feature}: {reason}");
        }
        unsupported.is_none()
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let put = self.client.put_object().bucket(&self.bucket).key(key);
        let put = put.body(bytes.into()).send().await;
        put.expect("the object is written");
    }

    async fn delete(&self, key: &str) {
        let delete = self.client.delete_object().bucket(&self.bucket).key(key);
        delete.send().await.expect("the object is deleted");
    }

    async fn get(&self, key: &str) -> Vec<u8> {
        let get = self.client.get_object().bucket(&self.bucket).key(key);
        let body = get.send().await.expect("the object exists").body;
        body.collect().await.expect("the whole body").to_vec()
    }

    /// Returns the headers of an object, or `None` if it does not exist.
    async fn head(&self, key: &str) -> Option<HeadObjectOutput> {
        let head = self.client.head_object().bucket(&self.bucket).key(key);
        let head = head.checksum_mode(ChecksumMode::Enabled).send().await;
        head.map_err(|error| {
            let status = error
                .raw_response()
                .map(|response| response.status().as_u16());
            assert_eq!(status, Some(404), "{error:?}");
        })
        .ok()
    }

    async fn exists(&self, key: &str) -> bool {
        self.head(key).await.is_some()
    }

    /// Lists the one object `key` of the drafts.
    async fn find(&self, key: &str) -> ListedObject {
        let listing = self.store.list_drafts(key, None).await;
        let mut objects = listing.expect("a listing").objects.into_iter();
        let object = objects.find(|object| object.key == key);
        object.expect("the object is listed")
    }

    /// Returns whether a copy was created.
    async fn copy(&self, source: &ListedObject, key: &str) -> bool {
        let is_created = copy(&self.store, source, key).await;
        is_created.unwrap_or_else(|error| panic!("{}", error.cause_chain()))
    }

    async fn create(&self, key: &str, object: &NewObject) -> CreateOutcome {
        let created = self.store.create(key, object).await;
        created.unwrap_or_else(|error| panic!("{}", error.cause_chain()))
    }
}

/// Reads an object, with as much memory as there is.
async fn read(store: &Store, key: &str) -> Result<Document, Error> {
    let memory = Pool::new(1 << 30).reserve(0).await?;
    store.read(key, &memory).await
}

/// Copies an object, and returns whether the copy was created.
async fn copy(store: &Store, source: &ListedObject, key: &str) -> Result<bool, Error> {
    match store.copy(source_of(source), key).await {
        Ok(()) => Ok(true),
        Err(CopyError::Refused(_)) => Ok(false),
        Err(CopyError::Failed(error)) => Err(error),
    }
}

fn source_of(object: &ListedObject) -> CopySource<'_> {
    CopySource {
        key: &object.key,
        etag: &object.etag,
        size: object.size,
    }
}

/// Returns the paths that the store supports.
fn paths(target: &Target) -> Vec<&'static str> {
    let mut paths = UNUSUAL_PATHS.to_vec();
    paths.push("folder/");
    if target.can(CONTROL_CHARACTERS) {
        paths.push("line\nbreak\ttab");
    }
    paths
}

fn new_object(bytes: &[u8], metadata: &[(&'static str, &str)]) -> NewObject {
    NewObject {
        bytes: bytes.to_vec().into(),
        sha256: Sha256Digest::of(bytes),
        metadata: metadata
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
    }
}

#[tokio::test]
async fn reads_the_bytes_and_headers_of_an_object() {
    let target = Target::new().await;
    for size in [0, 1, 4_137, 5 << 20] {
        let key = format!("drafts/{size}/draft_content.json");
        let bytes = vec![b'x'; size];
        let before = OffsetDateTime::now_utc();
        target.put(&key, bytes.clone()).await;
        let document = read(&target.store, &key).await.expect("the object exists");
        assert!(document.bytes == bytes, "{size} bytes");
        assert_eq!(document.sha256, Sha256Digest::of(&bytes));
        let head = target.head(&key).await.expect("the object exists");
        assert_eq!(Some(document.etag.as_str()), head.e_tag());
        let modified = head.last_modified().expect("a Last-Modified header");
        assert_eq!(document.last_modified.unix_timestamp(), modified.secs());
        assert_eq!(document.last_modified.nanosecond(), 0);
        // The clocks of an external store may differ.
        let difference = (before - document.last_modified).abs();
        assert!(difference < Duration::from_mins(1));
    }
}

#[tokio::test]
async fn reads_one_state_while_the_object_is_overwritten() {
    const STATES: usize = 40;
    // States have different sizes.
    let state = |number: usize| draft_of_size(60_000 + number % 3 * 10_000, number as u64);
    let digests: Vec<_> = (0..STATES)
        .map(|number| Sha256Digest::of(&state(number)))
        .collect();
    let target = Target::new().await;
    target.put("drafts/a", state(0)).await;
    let write = async {
        for number in 1..STATES {
            target.put("drafts/a", state(number)).await;
        }
    };
    let read_all = || async {
        for _ in 0..STATES {
            let document = read(&target.store, "drafts/a").await;
            let document = document.expect("the object exists");
            assert_eq!(document.sha256, Sha256Digest::of(&document.bytes));
            assert!(digests.contains(&document.sha256));
        }
    };
    tokio::join!(write, read_all(), read_all());
    let document = read(&target.store, "drafts/a").await;
    let newest = document.expect("the object exists").sha256;
    assert_eq!(Some(&newest), digests.last());
}

#[tokio::test]
async fn a_missing_object_is_not_found_and_a_missing_bucket_is_an_error() {
    let target = Target::new().await;
    let error = read(&target.store, "drafts/none").await;
    let error = error.expect_err("the object does not exist");
    assert_eq!(error.kind(), ErrorKind::DraftNotFound);

    target.put("drafts/a", b"{}".to_vec()).await;
    let source = target.find("drafts/a").await;
    let store = |bucket: &str| {
        let config = common::config(bucket, &[("SAVED_BUCKET", "no-such-bucket-here")]);
        Store::new(&target.endpoint.sdk(), Arc::new(config))
    };
    let (none, saved) = (store("no-such-bucket-here"), store(&target.bucket));
    for result in [
        read(&none, "drafts/none").await.map(drop),
        none.list_drafts("drafts/", None).await.map(drop),
        saved
            .create("saved/a", &new_object(b"{}", &[]))
            .await
            .map(drop),
        copy(&saved, &source, "copies/a").await.map(drop),
    ] {
        let error = result.expect_err("the bucket does not exist");
        assert_eq!(error.kind(), ErrorKind::SaveFailed);
        let cause = error.cause_chain();
        assert!(cause.contains("NoSuchBucket"), "{cause}");
    }
}

#[tokio::test]
async fn an_object_is_created_once_and_never_changed() {
    let target = Target::new().await;
    let key = "saved/a/1/draft_content.json";
    let bytes = b"{\"first\": true}";
    let first = new_object(bytes, &[("from", "first")]);
    assert_eq!(target.create(key, &first).await, CreateOutcome::Created);
    let before = target.head(key).await.expect("the object exists");
    for other in [
        new_object(bytes, &[("from", "retry")]),
        new_object(b"{\"second\": true}", &[("from", "second")]),
    ] {
        let outcome = target.create(key, &other).await;
        assert_eq!(outcome, CreateOutcome::AlreadyExists);
    }
    assert_eq!(target.get(key).await, bytes);
    let after = target.head(key).await.expect("the object exists");
    assert_eq!(after.metadata(), before.metadata());
    assert_eq!(after.last_modified(), before.last_modified());
    assert_eq!(after.e_tag(), before.e_tag());

    target.delete(key).await;
    let outcome = target.create(key, &first).await;
    assert_eq!(outcome, CreateOutcome::Created);
}

#[tokio::test]
async fn a_created_object_has_its_metadata_type_and_checksum() {
    let target = Target::new().await;
    let bytes = draft_of_size(10_000, 7);
    let metadata = [
        ("draft-id", "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c"),
        ("source-etag", "\"0123456789abcdef\""),
        ("saved-at", "2025-09-28T11:47:30.123Z"),
    ];
    let outcome = target
        .create("saved/a", &new_object(&bytes, &metadata))
        .await;
    assert_eq!(outcome, CreateOutcome::Created);
    let head = target.head("saved/a").await.expect("the object exists");
    assert_eq!(head.content_type(), Some("application/json"));
    assert_eq!(head.content_length(), Some(10_000));
    let stored = head.metadata().expect("metadata");
    assert_eq!(stored.len(), metadata.len(), "{stored:?}");
    for (name, value) in metadata {
        let stored = stored.get(name).map(String::as_str);
        assert_eq!(stored, Some(value), "{name}");
    }
    if target.can(SHA256) {
        let checksum = BASE64_STANDARD.encode(Sha256Digest::of(&bytes).as_bytes());
        assert_eq!(head.checksum_sha256(), Some(checksum.as_str()));
    }
}

#[tokio::test]
async fn an_upload_with_another_checksum_is_not_stored() {
    let target = Target::new().await;
    if !target.can(SHA256) {
        return;
    }
    let mut object = new_object(b"{}", &[]);
    object.sha256 = Sha256Digest::of(b"other bytes");
    let result = target.store.create("saved/a", &object).await;
    result.expect_err("the store refuses it");
    assert!(!target.exists("saved/a").await);
    let outcome = target.create("saved/a", &new_object(b"{}", &[])).await;
    assert_eq!(outcome, CreateOutcome::Created);
}

#[tokio::test]
async fn of_concurrent_creates_one_succeeds_and_its_bytes_are_stored() {
    const WRITERS: usize = 32;
    const ROUNDS: usize = 20;
    let target = Target::new().await;
    if !target.can(ATOMIC_CREATE) {
        return;
    }
    let bytes = |writer: usize| draft_of_size(2_000 + writer, writer as u64);
    for round in 0..ROUNDS {
        let key = format!("saved/race/{round}/draft_content.json");
        let start = Arc::new(Barrier::new(WRITERS));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (store, key) = (target.store.clone(), key.clone());
            let start = Arc::clone(&start);
            writers.spawn(async move {
                let object = new_object(&bytes(writer), &[("writer", &writer.to_string())]);
                start.wait().await;
                let outcome = store.create(&key, &object).await;
                (outcome.expect("a create succeeds"), writer)
            });
        }
        let outcomes = writers.join_all().await;
        let created = outcomes
            .iter()
            .filter(|(outcome, _)| *outcome == CreateOutcome::Created);
        let created: Vec<_> = created.map(|(_, writer)| *writer).collect();
        let &[writer] = created.as_slice() else {
            panic!("created by {created:?}");
        };
        assert!(target.get(&key).await == bytes(writer));
        let head = target.head(&key).await.expect("the object exists");
        let stored = head.metadata().and_then(|metadata| metadata.get("writer"));
        assert_eq!(stored, Some(&writer.to_string()));
    }
}

#[tokio::test]
async fn a_listing_has_the_keys_as_they_were_written() {
    let target = Target::new().await;
    let written = paths(&target);
    for key in &written {
        target.put(&format!("drafts/x/{key}"), (*key).into()).await;
    }
    target.put("drafts/x-2/a", Vec::new()).await;
    target.put("drafts/w", Vec::new()).await;
    let listing = target.store.list_drafts("drafts/x/", None).await;
    let listing = listing.expect("a listing");
    assert!(listing.next.is_none());
    let keys: BTreeSet<_> = listing.objects.iter().map(|object| &*object.key).collect();
    let expected: Vec<_> = written
        .iter()
        .map(|key| format!("drafts/x/{key}"))
        .collect();
    let expected: BTreeSet<_> = expected.iter().map(String::as_str).collect();
    assert_eq!(keys, expected);
    for object in &listing.objects {
        let head = target.client.head_object().bucket(&target.bucket);
        let head = head.key(&object.key).send().await.expect("the object");
        let etag = head.e_tag().map(|etag| etag.trim_matches('"'));
        assert_eq!(Some(object.etag.trim_matches('"')), etag);
        let time = head.last_modified().expect("a time").secs();
        assert_eq!(object.last_modified.unix_timestamp(), time);
        let size = head.content_length().and_then(|size| size.try_into().ok());
        assert_eq!(Some(object.size), size);
    }
    let none = target.store.list_drafts("saved-files/none/", None).await;
    let none = none.expect("a listing");
    assert!(none.next.is_none() && none.objects.is_empty());
}

#[tokio::test]
async fn a_listing_of_several_pages_is_complete() {
    const OBJECTS: usize = 1003;
    let target = Target::new().await;
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
        assert_eq!(keys.len(), 1000);
    }
    let page = target
        .store
        .list_saved("drafts/p/", "drafts/p/0999 +%")
        .await;
    let after: Vec<_> = page.expect("a page").objects;
    assert_eq!(after[0].key, "drafts/p/1000 +%");
    assert_eq!(after.len(), OBJECTS - 1000);
    let expected = (0..OBJECTS).map(|number| format!("drafts/p/{number:04} +%"));
    assert!(keys.iter().cloned().eq(expected), "{keys:?}");
}

#[tokio::test]
async fn a_copy_has_the_bytes_the_content_type_and_the_metadata() {
    let target = Target::new().await;
    // The embedded store has no tags.
    let has_tags = target.name != "embedded" && target.can(COPY_WITHOUT_TAGS);
    for (number, key) in paths(&target).into_iter().enumerate() {
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

        let source = target.find(&source).await;
        assert!(target.copy(&source, &copy_key).await, "{key}");
        let copied = target.get(&copy_key).await;
        assert!(copied == content, "{key}");
        let head = target.head(&copy_key).await.expect("the copy exists");
        assert_eq!(head.content_type(), Some("video/mp4"));
        let metadata = head.metadata().expect("metadata");
        let made_by = metadata.get("made-by").map(String::as_str);
        assert_eq!(made_by, Some("test"));
        assert_eq!(
            head.e_tag().map(|etag| etag.trim_matches('"')),
            Some(source.etag.trim_matches('"'))
        );
        if has_tags {
            let tags = target.client.get_object_tagging().bucket(&target.bucket);
            let tags = tags.key(&copy_key).send().await.expect("tags");
            assert!(tags.tag_set().is_empty(), "{tags:?}");
        }
    }
}

#[tokio::test]
async fn a_copy_is_created_once_and_only_of_the_listed_state_of_its_source() {
    let target = Target::new().await;
    target.put("drafts/a", b"before".to_vec()).await;
    let before = target.find("drafts/a").await;
    if target.can(COPY_IF_NONE_MATCH) {
        target.put("copies/a", b"another".to_vec()).await;
        assert!(!target.copy(&before, "copies/a").await);
        assert_eq!(target.get("copies/a").await, b"another");
    }
    target.put("drafts/a", b"after".to_vec()).await;
    if target.can(COPY_IF_MATCH) {
        assert!(!target.copy(&before, "copies/b").await);
        assert!(!target.exists("copies/b").await);
    }
    let after = target.find("drafts/a").await;
    assert!(target.copy(&after, "copies/c").await);
    assert_eq!(target.get("copies/c").await, b"after");
    target.delete("drafts/a").await;
    assert!(!target.copy(&after, "copies/d").await);
    assert!(!target.exists("copies/d").await);
}

#[tokio::test]
async fn a_draft_is_saved_as_a_whole() {
    let target = Target::new().await;
    let id = "whole";
    target.put(&draft_key(id), draft_of_size(3_000, 1)).await;
    let mut paths = paths(&target);
    paths.retain(|path| !path.contains(char::is_control));
    for path in &paths {
        target.put(&file_key(id, path), (*path).into()).await;
    }
    let config = common::config(&target.bucket, &[SAVE_FILES]);
    let saver = common::saver_with(&target.endpoint.sdk(), config);
    let saved = save_by(&saver, id, Duration::from_mins(1)).await;
    assert_eq!(saved.status, 200, "{}", saved.line);
    let again = save_by(&saver, id, Duration::from_mins(1)).await;
    assert_eq!(
        (&*again.outcome, &again.version),
        ("unchanged", &saved.version)
    );
    let manifest = format!("saved/{id}/{}/files.json", saved.version);
    let manifest = target.get(&manifest).await;
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let files = manifest["files"].as_array().expect("a list");
    assert_eq!(files.len(), paths.len());
    for file in files {
        let (path, key) = (file["path"].as_str(), file["key"].as_str());
        let content = target.get(key.expect("a key")).await;
        assert_eq!(content, path.expect("a path").as_bytes());
    }
}
