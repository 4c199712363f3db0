//! What the function needs of a store: one suite, held over the S3 in this process always,
//! and over the one at `S3_TEST_ENDPOINT` where that is set (`AWS_ACCESS_KEY_ID` and
//! `AWS_SECRET_ACCESS_KEY` say as whom).
//!
//! `S3_TEST_STORE` names what is there (`moto`, `ceph`): what that store is known not to do
//! is not asked of it, and the test says so. Show it with `-- --nocapture store::`.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::types::ChecksumMode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use save_draft::error::ErrorKind;
use save_draft::store::{CreateOutcome, Document, NewObject, Store};
use sha2::{Digest as _, Sha256};
use test_support::fixtures::{draft_of_size, sha256_hex};
use test_support::s3::S3;
use time::OffsetDateTime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::common::{self, Endpoint};

/// What a store is asked for, by the name that [`UNABLE`] has for it.
const ONE_WINNER: &str = "one winner of a race";
const CHECKED_UPLOAD: &str = "an upload that is not what its SHA-256 says is refused";
const KEPT_CHECKSUM: &str = "the SHA-256 of an upload comes back";
const SIGNATURE: &str = "a wrong secret key is refused";
pub(crate) const COPY_IF_MATCH: &str = "a copy honours x-amz-copy-source-if-match";
pub(crate) const COPY_IF_NONE_MATCH: &str = "a copy honours If-None-Match";
pub(crate) const COPY_WITHOUT_TAGS: &str = "a copy has no tags";
pub(crate) const CONTROL_CHARACTERS: &str = "a key has control characters";

/// What stores do not do, as measured, and what that means.
#[rustfmt::skip]
const UNABLE: [(&str, &str, &str); 12] = [
    ("moto", ONE_WINNER,     "moto 5.2.5 looks for the object and then sets it, without a lock: now and then two win"),
    ("moto", CHECKED_UPLOAD, "moto 5.2.5 stores it"),
    ("moto", KEPT_CHECKSUM,  "moto 5.2.5 keeps one only with x-amz-sdk-checksum-algorithm beside it"),
    ("moto", SIGNATURE,      "moto 5.2.5 checks no signature unless it is told to"),
    ("moto", COPY_IF_MATCH,  "moto 5.2.5 ignores the condition"),
    ("moto", COPY_IF_NONE_MATCH, "moto 5.2.5 ignores the condition"),
    ("moto", CONTROL_CHARACTERS, "moto 5.2.5 answers 404 to a key with a line break"),
    ("ceph", CHECKED_UPLOAD, "Ceph's gateway 16.2 does not know SHA-256 checksums"),
    ("ceph", KEPT_CHECKSUM,  "Ceph's gateway 16.2 does not know SHA-256 checksums"),
    ("ceph", COPY_IF_MATCH,  "Ceph's gateway 16.2 ignores the condition"),
    ("ceph", COPY_IF_NONE_MATCH, "Ceph's gateway 16.2 ignores the condition"),
    ("ceph", COPY_WITHOUT_TAGS, "Ceph's gateway 16.2 ignores x-amz-tagging-directive"),
];

/// A store, and a bucket of its own in it.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) bucket: String,
    /// Ends with the test.
    _s3: Option<S3>,
}

/// A store over a bucket of `endpoint`, with these variables beside.
fn store(endpoint: &Endpoint, bucket: &str, variables: &[(&str, &str)]) -> Store {
    Store::new(&endpoint.sdk(), &common::config(bucket, variables))
}

/// A new object with the bytes of `document`.
fn new_object(document: &Document, metadata: &[(&'static str, String)]) -> NewObject {
    NewObject {
        bytes: document.bytes.clone(),
        sha256: document.sha256,
        metadata: metadata.to_vec(),
    }
}

/// The stores that the suite is held over.
pub(crate) async fn targets() -> Vec<Target> {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let here = Endpoint::of(&s3);
    let mut targets = vec![Target::new("embedded".to_owned(), here, Some(s3)).await];
    if let Some(there) = Endpoint::external() {
        let name = env::var("S3_TEST_STORE").unwrap_or_else(|_| "external".to_owned());
        targets.push(Target::new(name, there, None).await);
    }
    targets
}

impl Target {
    async fn new(name: String, endpoint: Endpoint, s3: Option<S3>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let bucket = format!("store-{}-{count}", now.as_micros());
        let sdk = endpoint.sdk();
        let client = common::client(&sdk);
        let create = client.create_bucket().bucket(&bucket);
        create.send().await.expect("the bucket is made");
        let store = Store::new(&sdk, &common::config(&bucket, &[]));
        Self {
            name,
            endpoint,
            client,
            store,
            bucket,
            _s3: s3,
        }
    }

    /// Whether the store is known to do this; says so if not.
    pub(crate) fn can(&self, what: &str) -> bool {
        let unable = UNABLE
            .iter()
            .find(|(name, it, _)| *name == self.name && *it == what);
        if let Some((name, _, why)) = unable {
            println!("not asked of {name}: {what} ({why})");
        }
        unable.is_none()
    }

    pub(crate) async fn put(&self, key: &str, bytes: Vec<u8>) {
        let put = self.client.put_object().bucket(&self.bucket).key(key);
        put.body(bytes.into()).send().await.expect("it is put");
    }

    pub(crate) async fn get(&self, key: &str) -> Vec<u8> {
        let get = self.client.get_object().bucket(&self.bucket).key(key);
        let body = get.send().await.expect("it is there").body;
        body.collect().await.expect("it is readable").to_vec()
    }

    pub(crate) async fn exists(&self, key: &str) -> bool {
        let head = self.client.head_object().bucket(&self.bucket).key(key);
        match head.send().await {
            Ok(_) => true,
            Err(error)
                if error
                    .raw_response()
                    .is_some_and(|r| r.status().as_u16() == 404) =>
            {
                false
            }
            Err(error) => panic!("{key}: {error:?}"),
        }
    }

    /// A document with these bytes, as the function gets one: by reading it.
    async fn document(&self, bytes: &[u8]) -> Document {
        let key = format!("documents/{}", sha256_hex(bytes));
        self.put(&key, bytes.to_vec()).await;
        self.store.read(&key).await.expect("it is there")
    }
}

#[tokio::test]
async fn an_object_is_read_whole_with_what_is_known_of_it() {
    for target in targets().await {
        for (size, bytes) in [0, 1, 4_137, 5 << 20].map(|n| (n, vec![b'x'; n])) {
            let key = format!("drafts/{size}/draft_content.json");
            let before = SystemTime::now();
            target.put(&key, bytes.clone()).await;
            let document = target.store.read(&key).await.expect("it is there");
            assert!(document.bytes == bytes, "{}: {size} bytes", target.name);
            assert_eq!(document.sha256.to_string(), sha256_hex(&bytes));

            let head = target.client.head_object().bucket(&target.bucket).key(&key);
            let head = head.send().await.expect("it is there");
            assert_eq!(Some(document.etag.as_str()), head.e_tag());
            let modified = head.last_modified().expect("it has one").secs();
            assert_eq!(document.last_modified.unix_timestamp(), modified);
            assert_eq!(document.last_modified.nanosecond(), 0, "to the second");
            // The clocks are those of one machine, or are kept together.
            let off = (OffsetDateTime::from(before) - document.last_modified).abs();
            assert!(off < Duration::from_mins(1), "{}: {off}", target.name);
        }
    }
}

#[tokio::test]
async fn the_newest_state_is_read() {
    for target in targets().await {
        for number in 0..20 {
            let bytes = draft_of_size(500, number);
            target.put("drafts/a", bytes.clone()).await;
            let document = target.store.read("drafts/a").await.expect("it is there");
            assert!(document.bytes == bytes, "{}: an older state", target.name);
        }
    }
}

#[tokio::test]
async fn a_state_is_read_whole_while_it_is_overwritten() {
    const STATES: usize = 40;
    for target in targets().await {
        // Of several lengths, so that a mixture would not even parse.
        let state =
            |number: usize| draft_of_size([60_000, 70_000, 80_000][number % 3], number as u64);
        let known: Vec<String> = (0..STATES)
            .map(|number| sha256_hex(&state(number)))
            .collect();
        target.put("drafts/a", state(0)).await;
        let write = async {
            for number in 1..STATES {
                target.put("drafts/a", state(number)).await;
            }
        };
        let read = async {
            for _ in 0..STATES {
                let document = target.store.read("drafts/a").await.expect("it is there");
                let digest = document.sha256.to_string();
                assert_eq!(digest, sha256_hex(&document.bytes));
                assert!(known.contains(&digest), "{}: a mixture", target.name);
            }
        };
        tokio::join!(write, read, read_again(&target, &known, STATES));
    }
}

/// A second reader, beside the first.
async fn read_again(target: &Target, known: &[String], times: usize) {
    for _ in 0..times {
        let document = target.store.read("drafts/a").await.expect("it is there");
        assert!(
            known.contains(&sha256_hex(&document.bytes)),
            "{}",
            target.name
        );
    }
}

#[tokio::test]
async fn a_missing_object_is_told_from_a_missing_bucket() {
    for target in targets().await {
        let error = target
            .store
            .read("drafts/none")
            .await
            .expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::DraftNotFound, "{}", target.name);

        let document = target.document(b"{}").await;
        let store = store(&target.endpoint, "no-such-bucket-here", &[]);
        let error = store.read("drafts/none").await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}: read", target.name);
        let error = store.create("saved/a", &new_object(&document, &[])).await;
        let error = error.expect_err("there is no bucket");
        assert_eq!(
            error.kind(),
            ErrorKind::SaveFailed,
            "{}: create",
            target.name
        );
        assert!(
            error.cause_chain().contains("NoSuchBucket"),
            "{}",
            error.cause_chain()
        );
    }
}

#[tokio::test]
async fn an_object_over_the_limit_is_refused() {
    for target in targets().await {
        target.put("drafts/a", vec![b'x'; 1001]).await;
        target.put("drafts/b", vec![b'x'; 1000]).await;
        let limit = [("MAX_DRAFT_BYTES", "1000")];
        let store = store(&target.endpoint, &target.bucket, &limit);
        let error = store.read("drafts/a").await.expect_err("it is too large");
        assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}", target.name);
        let document = store.read("drafts/b").await.expect("it is not too large");
        assert_eq!(document.bytes.len(), 1000);
    }
}

#[tokio::test]
async fn an_object_is_created_once_and_stays_as_it_is() {
    for target in targets().await {
        let first = target.document(b"{\"first\": true}").await;
        let second = target.document(b"{\"second\": true}").await;
        let metadata = |of: &str| [("from", of.to_owned())];
        let (store, key) = (&target.store, "saved/a/1/draft_content.json");

        let created = store
            .create(key, &new_object(&first, &metadata("first")))
            .await;
        assert_eq!(created.expect("it is stored"), CreateOutcome::Created);
        let head = || {
            target
                .client
                .head_object()
                .bucket(&target.bucket)
                .key(key)
                .send()
        };
        let before = head().await.expect("it is there");

        // The same again, as a retry is, and another.
        for (document, from) in [(&first, "retry"), (&second, "second")] {
            let created = store
                .create(key, &new_object(document, &metadata(from)))
                .await;
            let created = created.expect("it is there");
            assert_eq!(created, CreateOutcome::AlreadyExists, "{}", target.name);
        }
        assert_eq!(target.get(key).await, first.bytes, "{}", target.name);
        let after = head().await.expect("it is there");
        assert_eq!(after.metadata(), before.metadata(), "{}", target.name);
        assert_eq!(after.last_modified(), before.last_modified());
        assert_eq!(after.e_tag(), before.e_tag());
    }
}

#[tokio::test]
async fn an_object_may_be_created_again_once_it_is_deleted() {
    for target in targets().await {
        let document = target.document(b"{}").await;
        for _ in 0..2 {
            let created = target
                .store
                .create("saved/a", &new_object(&document, &[]))
                .await;
            assert_eq!(
                created.expect("it is stored"),
                CreateOutcome::Created,
                "{}",
                target.name
            );
            let delete = target.client.delete_object().bucket(&target.bucket);
            delete.key("saved/a").send().await.expect("it is deleted");
        }
    }
}

#[tokio::test]
async fn an_object_has_the_metadata_type_and_checksum_it_was_created_with() {
    for target in targets().await {
        let bytes = draft_of_size(10_000, 7);
        let document = target.document(&bytes).await;
        let metadata = [
            (
                "draft-id",
                "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c".to_owned(),
            ),
            ("source-etag", document.etag.clone()),
            ("saved-at", "2025-09-28T11:47:30.123Z".to_owned()),
        ];
        let created = target
            .store
            .create("saved/a", &new_object(&document, &metadata))
            .await;
        assert_eq!(created.expect("it is stored"), CreateOutcome::Created);

        let head = target
            .client
            .head_object()
            .bucket(&target.bucket)
            .key("saved/a");
        let head = head.checksum_mode(ChecksumMode::Enabled).send().await;
        let head = head.expect("it is there");
        assert_eq!(
            head.content_type(),
            Some("application/json"),
            "{}",
            target.name
        );
        assert_eq!(head.content_length(), Some(10_000), "{}", target.name);
        let stored = head.metadata().expect("it has some");
        for (name, value) in &metadata {
            assert_eq!(stored.get(*name), Some(value), "{}: {name}", target.name);
        }
        assert_eq!(stored.len(), metadata.len(), "{}: {stored:?}", target.name);
        if target.can(KEPT_CHECKSUM) {
            let digest = BASE64_STANDARD.encode(Sha256::digest(&bytes));
            assert_eq!(
                head.checksum_sha256(),
                Some(digest.as_str()),
                "{}",
                target.name
            );
        }
    }
}

#[tokio::test]
async fn an_upload_that_is_not_what_its_checksum_says_leaves_nothing() {
    for target in targets().await {
        if !target.can(CHECKED_UPLOAD) {
            continue;
        }
        let wrong = BASE64_STANDARD.encode(Sha256::digest(b"other bytes"));
        let put = target
            .client
            .put_object()
            .bucket(&target.bucket)
            .key("saved/a");
        let put = put
            .checksum_sha256(wrong)
            .if_none_match("*")
            .body(b"{}".to_vec().into());
        let error = put.send().await.expect_err("it is refused");
        let status = error
            .raw_response()
            .map(|response| response.status().as_u16());
        assert_eq!(status, Some(400), "{}: {:?}", target.name, error.code());
        assert!(!target.exists("saved/a").await, "{}", target.name);

        // And the key is free for what is right.
        let document = target.document(b"{}").await;
        let created = target
            .store
            .create("saved/a", &new_object(&document, &[]))
            .await;
        assert_eq!(
            created.expect("it is stored"),
            CreateOutcome::Created,
            "{}",
            target.name
        );
    }
}

#[tokio::test]
async fn a_wrong_secret_key_is_refused_and_changes_nothing() {
    for target in targets().await {
        if !target.can(SIGNATURE) {
            continue;
        }
        let document = target.document(b"{}").await;
        let stranger = Endpoint {
            secret_key: "of-somebody-else".to_owned(),
            ..target.endpoint.clone()
        };
        let store = store(&stranger, &target.bucket, &[]);
        let error = store
            .read("documents/any")
            .await
            .expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::SaveFailed, "{}: read", target.name);
        let error = store.create("saved/a", &new_object(&document, &[])).await;
        let error = error.expect_err("it is refused");
        assert_eq!(
            error.kind(),
            ErrorKind::SaveFailed,
            "{}: create",
            target.name
        );
        assert!(!target.exists("saved/a").await, "{}", target.name);
    }
}

#[tokio::test]
async fn of_32_racing_creates_one_wins_and_its_bytes_are_stored() {
    const WRITERS: usize = 32;
    const ROUNDS: usize = 20;
    for target in targets().await {
        if !target.can(ONE_WINNER) {
            continue;
        }
        // Each has bytes of its own, of a length of its own.
        let mut documents = Vec::new();
        for writer in 0..WRITERS {
            let bytes = draft_of_size(2_000 + writer, writer as u64);
            documents.push(Arc::new(target.document(&bytes).await));
        }
        for round in 0..ROUNDS {
            let key = format!("saved/race/{round}/draft_content.json");
            let start = Arc::new(Barrier::new(WRITERS));
            let mut writers = JoinSet::new();
            for (writer, document) in documents.iter().enumerate() {
                let (store, key) = (target.store.clone(), key.clone());
                let (start, document) = (Arc::clone(&start), Arc::clone(document));
                writers.spawn(async move {
                    start.wait().await;
                    let metadata = [("writer", writer.to_string())];
                    let created = store.create(&key, &new_object(&document, &metadata)).await;
                    (writer, created.expect("nothing is wrong"))
                });
            }
            let ends = writers.join_all().await;
            let winners = ends
                .iter()
                .filter(|(_, end)| *end == CreateOutcome::Created);
            let winners: Vec<usize> = winners.map(|(writer, _)| *writer).collect();
            let [winner] = winners[..] else {
                panic!("{}: winners {winners:?} in round {round}", target.name);
            };
            let stored = target.get(&key).await;
            assert!(
                stored == documents[winner].bytes,
                "{}: {round}",
                target.name
            );
            let head = target.client.head_object().bucket(&target.bucket).key(&key);
            let head = head.send().await.expect("it is there");
            let from = head.metadata().and_then(|metadata| metadata.get("writer"));
            assert_eq!(from, Some(&winner.to_string()), "{}: {round}", target.name);
        }
        println!(
            "{}: {ROUNDS} rounds of {WRITERS} racing creates, one winner in each",
            target.name
        );
    }
}
