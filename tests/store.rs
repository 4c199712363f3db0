//! The operations of the function on a store. Each test runs against the S3 server of `test_support`, and against the
//! store at `S3_TEST_ENDPOINT` if it is set, with the credentials in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
//!
//! `S3_TEST_STORE` is the name of that store: `moto` or `ceph`. A test for a feature that it does not support is skipped.

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
use save_draft::s3::{CreateOutcome, Document, NewObject, Store};
use test_support::fixtures::draft_of_size;
use test_support::s3::S3;
use time::OffsetDateTime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::common::{self, Endpoint};

// Features that some stores do not support.
const ATOMIC_CREATE: &str = "of concurrent conditional writes one succeeds";
const SHA256: &str = "an upload is verified with its SHA-256, which is stored";
const SIGNATURE: &str = "signatures are verified";
pub(crate) const COPY_IF_MATCH: &str = "a copy supports x-amz-copy-source-if-match";
pub(crate) const COPY_IF_NONE_MATCH: &str = "a copy supports If-None-Match";
pub(crate) const COPY_WITHOUT_TAGS: &str = "a copy has no tags";
pub(crate) const CONTROL_CHARACTERS: &str = "keys may contain control characters";

/// Features that stores do not support, and what they do instead.
#[rustfmt::skip]
const UNSUPPORTED: [(&str, &str, &str); 10] = [
    ("moto", ATOMIC_CREATE,      "moto 5.2.5 looks for the object and writes it without a lock"),
    ("moto", SHA256,             "moto 5.2.5 does not verify it"),
    ("moto", SIGNATURE,          "moto 5.2.5 does not verify them by default"),
    ("moto", COPY_IF_MATCH,      "moto 5.2.5 ignores the condition"),
    ("moto", COPY_IF_NONE_MATCH, "moto 5.2.5 ignores the condition"),
    ("moto", CONTROL_CHARACTERS, "moto 5.2.5 answers 404 to a key with a line break"),
    ("ceph", SHA256,             "Ceph 16.2 ignores it"),
    ("ceph", COPY_IF_MATCH,      "Ceph 16.2 ignores the condition"),
    ("ceph", COPY_IF_NONE_MATCH, "Ceph 16.2 ignores the condition"),
    ("ceph", COPY_WITHOUT_TAGS,  "Ceph 16.2 ignores x-amz-tagging-directive"),
];

/// A new bucket in a store.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) bucket: String,
    /// Stops when the test ends.
    _s3: Option<S3>,
}

/// Returns the stores to test.
pub(crate) async fn targets() -> Vec<Target> {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    let endpoint = Endpoint::of(&s3);
    let mut targets = vec![Target::new("embedded".to_owned(), endpoint, Some(s3)).await];
    if let Some(endpoint) = Endpoint::external() {
        let name = env::var("S3_TEST_STORE").unwrap_or_else(|_| "external".to_owned());
        targets.push(Target::new(name, endpoint, None).await);
    }
    targets
}

impl Target {
    async fn new(name: String, endpoint: Endpoint, s3: Option<S3>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let now = SystemTime::UNIX_EPOCH.elapsed();
        let now = now.expect("a time after 1970").as_micros();
        let bucket = format!("store-{now}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let sdk_config = endpoint.sdk();
        let client = common::client(&sdk_config);
        let created = client.create_bucket().bucket(&bucket).send().await;
        created.expect("the bucket is created");
        Self {
            store: Store::new(&sdk_config, common::config(&bucket, &[]).storage),
            name,
            endpoint,
            client,
            bucket,
            _s3: s3,
        }
    }

    /// Returns whether the store supports `feature`, and prints the reason if not.
    pub(crate) fn can(&self, feature: &str) -> bool {
        let unsupported = UNSUPPORTED
            .iter()
            .find(|(store, missing, _)| *store == self.name && *missing == feature);
        if let Some((store, _, reason)) = unsupported {
            println!("skipped for {store}: {feature}: {reason}");
        }
        unsupported.is_none()
    }

    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) {
        let put = self.client.put_object().bucket(&self.bucket).key(key);
        let put = put.body(bytes.into()).send().await;
        put.expect("the object is written");
    }

    pub(crate) async fn delete(&self, key: &str) {
        let delete = self.client.delete_object().bucket(&self.bucket).key(key);
        delete.send().await.expect("the object is deleted");
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
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
            assert_eq!(status, Some(404), "{}: {error:?}", self.name);
        })
        .ok()
    }

    pub(crate) async fn exists(&self, key: &str) -> bool {
        self.head(key).await.is_some()
    }

    async fn create(&self, key: &str, object: &NewObject) -> CreateOutcome {
        let created = self.store.create(key, object).await;
        created.unwrap_or_else(|error| panic!("{}: {}", self.name, error.cause_chain()))
    }
}

/// Reads an object, with as much memory as there is.
async fn read(store: &Store, key: &str) -> Result<Document, Error> {
    let memory = store.reserve(0).await?;
    store.read(key, &memory).await
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
    for target in targets().await {
        for size in [0, 1, 4_137, 5 << 20] {
            let key = format!("drafts/{size}/draft_content.json");
            let bytes = vec![b'x'; size];
            let before = OffsetDateTime::now_utc();
            target.put(&key, bytes.clone()).await;
            let document = read(&target.store, &key).await.expect("the object exists");
            assert!(document.bytes == bytes, "{}: {size} bytes", target.name);
            assert_eq!(document.sha256, Sha256Digest::of(&bytes));
            let head = target.head(&key).await.expect("the object exists");
            assert_eq!(Some(document.etag.as_str()), head.e_tag());
            let modified = head.last_modified().expect("a Last-Modified header");
            assert_eq!(document.last_modified.unix_timestamp(), modified.secs());
            assert_eq!(document.last_modified.nanosecond(), 0);
            // The clocks of an external store may differ.
            let difference = (before - document.last_modified).abs();
            assert!(difference < Duration::from_mins(1), "{}", target.name);
        }
    }
}

#[tokio::test]
async fn reads_the_newest_state() {
    for target in targets().await {
        for number in 0..20 {
            let bytes = draft_of_size(500, number);
            target.put("drafts/a", bytes.clone()).await;
            let document = read(&target.store, "drafts/a").await;
            let document = document.expect("the object exists");
            assert!(document.bytes == bytes, "{}: an older state", target.name);
        }
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
    for target in targets().await {
        target.put("drafts/a", state(0)).await;
        let write = async {
            for number in 1..STATES {
                target.put("drafts/a", state(number)).await;
            }
        };
        let read = || async {
            for _ in 0..STATES {
                let document = read(&target.store, "drafts/a").await;
                let document = document.expect("the object exists");
                assert_eq!(document.sha256, Sha256Digest::of(&document.bytes));
                assert!(digests.contains(&document.sha256), "{}", target.name);
            }
        };
        tokio::join!(write, read(), read());
    }
}

#[tokio::test]
async fn a_missing_object_is_not_found_and_a_missing_bucket_is_an_error() {
    for target in targets().await {
        let error = read(&target.store, "drafts/none").await;
        let error = error.expect_err("the object does not exist");
        assert_eq!(error.kind(), ErrorKind::DraftNotFound, "{}", target.name);

        let config = common::config("no-such-bucket-here", &[]);
        let store = Store::new(&target.endpoint.sdk(), config.storage);
        let read = read(&store, "drafts/none").await.map(|_| ());
        let created = store.create("saved/a", &new_object(b"{}", &[])).await;
        for result in [read, created.map(|_| ())] {
            let error = result.expect_err("the bucket does not exist");
            assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
            let cause = error.cause_chain();
            assert!(cause.contains("NoSuchBucket"), "{}: {cause}", target.name);
        }
    }
}

#[tokio::test]
async fn an_object_over_the_limit_is_refused() {
    for target in targets().await {
        target.put("drafts/a", vec![b'x'; 1001]).await;
        target.put("drafts/b", vec![b'x'; 1000]).await;
        let config = common::config(&target.bucket, &[("MAX_DRAFT_BYTES", "1000")]);
        let store = Store::new(&target.endpoint.sdk(), config.storage);
        let error = read(&store, "drafts/a").await.expect_err("it is too large");
        assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
        let document = read(&store, "drafts/b").await.expect("it fits");
        assert_eq!(document.bytes.len(), 1000);
    }
}

#[tokio::test]
async fn an_object_is_created_once_and_never_changed() {
    for target in targets().await {
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
            assert_eq!(outcome, CreateOutcome::AlreadyExists, "{}", target.name);
        }
        assert_eq!(target.get(key).await, bytes, "{}", target.name);
        let after = target.head(key).await.expect("the object exists");
        assert_eq!(after.metadata(), before.metadata(), "{}", target.name);
        assert_eq!(after.last_modified(), before.last_modified());
        assert_eq!(after.e_tag(), before.e_tag());
    }
}

#[tokio::test]
async fn an_object_can_be_created_again_after_it_was_deleted() {
    for target in targets().await {
        for _ in 0..2 {
            let outcome = target.create("saved/a", &new_object(b"{}", &[])).await;
            assert_eq!(outcome, CreateOutcome::Created, "{}", target.name);
            let delete = target.client.delete_object().bucket(&target.bucket);
            let deleted = delete.key("saved/a").send().await;
            deleted.expect("the object is deleted");
        }
    }
}

#[tokio::test]
async fn a_created_object_has_its_metadata_type_and_checksum() {
    for target in targets().await {
        let bytes = draft_of_size(10_000, 7);
        let metadata = [
            ("draft-id", "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c"),
            ("source-etag", "\"0123456789abcdef\""),
            ("saved-at", "2025-09-28T11:47:30.123Z"),
        ];
        let outcome = target
            .create("saved/a", &new_object(&bytes, &metadata))
            .await;
        assert_eq!(outcome, CreateOutcome::Created, "{}", target.name);
        let head = target.head("saved/a").await.expect("the object exists");
        assert_eq!(head.content_type(), Some("application/json"));
        assert_eq!(head.content_length(), Some(10_000), "{}", target.name);
        let stored = head.metadata().expect("metadata");
        assert_eq!(stored.len(), metadata.len(), "{}: {stored:?}", target.name);
        for (name, value) in metadata {
            let stored = stored.get(name).map(String::as_str);
            assert_eq!(stored, Some(value), "{}: {name}", target.name);
        }
        if target.can(SHA256) {
            let checksum = BASE64_STANDARD.encode(Sha256Digest::of(&bytes).as_bytes());
            assert_eq!(head.checksum_sha256(), Some(checksum.as_str()));
        }
    }
}

#[tokio::test]
async fn an_upload_with_another_checksum_is_not_stored() {
    for target in targets().await {
        if !target.can(SHA256) {
            continue;
        }
        let mut object = new_object(b"{}", &[]);
        object.sha256 = Sha256Digest::of(b"other bytes");
        let result = target.store.create("saved/a", &object).await;
        result.expect_err("the store refuses it");
        assert!(!target.exists("saved/a").await, "{}", target.name);
        let outcome = target.create("saved/a", &new_object(b"{}", &[])).await;
        assert_eq!(outcome, CreateOutcome::Created, "{}", target.name);
    }
}

#[tokio::test]
async fn requests_with_a_wrong_secret_key_are_refused() {
    for target in targets().await {
        if !target.can(SIGNATURE) {
            continue;
        }
        let endpoint = Endpoint {
            secret_key: "another-secret".to_owned(),
            ..target.endpoint.clone()
        };
        let store = Store::new(&endpoint.sdk(), common::config(&target.bucket, &[]).storage);
        let read = read(&store, "drafts/a").await.map(|_| ());
        let created = store.create("saved/a", &new_object(b"{}", &[])).await;
        for result in [read, created.map(|_| ())] {
            let error = result.expect_err("the store refuses it");
            assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
        }
        assert!(!target.exists("saved/a").await, "{}", target.name);
    }
}

#[tokio::test]
async fn of_concurrent_creates_one_succeeds_and_its_bytes_are_stored() {
    const WRITERS: usize = 32;
    const ROUNDS: usize = 20;
    for target in targets().await {
        if !target.can(ATOMIC_CREATE) {
            continue;
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
                panic!("{}: created by {created:?}", target.name);
            };
            assert!(target.get(&key).await == bytes(writer), "{}", target.name);
            let head = target.head(&key).await.expect("the object exists");
            let stored = head.metadata().and_then(|metadata| metadata.get("writer"));
            assert_eq!(stored, Some(&writer.to_string()), "{}", target.name);
        }
    }
}
