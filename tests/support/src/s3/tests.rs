//! What the embedded S3 promises, asked with the real SDK.

#![allow(
    clippy::too_many_lines,
    reason = "a promise is one test, with all that belongs to it"
)]

use std::collections::HashSet;
use std::fmt::Debug;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, Delete, MetadataDirective, ObjectIdentifier,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use super::{Fault, Files, ObjectMetadata, Op, Precondition, S3, S3Options, When, digest};

const BUCKET: &str = "drafts";
const WRITERS: usize = 32;
/// 2025-09-28T11:47:30Z.
const SAVED_AT: u64 = 1_759_060_050;

fn client_of(s3: &S3, secret_key: &str) -> Client {
    client_with(
        s3,
        Credentials::new(&s3.options().access_key, secret_key, None, None, "test"),
    )
}

fn client_with(s3: &S3, credentials: Credentials) -> Client {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-central-1"))
        .credentials_provider(credentials)
        .endpoint_url(s3.endpoint())
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

async fn start() -> (S3, Client) {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let client = client_of(&s3, &s3.options().secret_key);
    (s3, client)
}

/// The status and the code of an error of S3, or none of them when there was no answer.
fn failure<T: Debug, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> (u16, String) {
    let error = result.expect_err("it fails");
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    (status, error.code().unwrap_or_default().to_owned())
}

fn failed(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn get(client: &Client, key: &str) -> Vec<u8> {
    let object = client
        .get_object()
        .bucket(BUCKET)
        .key(key)
        .send()
        .await
        .expect("there is an object");
    object
        .body
        .collect()
        .await
        .expect("the body is whole")
        .to_vec()
}

async fn put(client: &Client, key: &str, bytes: &[u8]) {
    let body = ByteStream::from(bytes.to_vec());
    client
        .put_object()
        .bucket(BUCKET)
        .key(key)
        .body(body)
        .send()
        .await
        .expect("the object is put");
}

/// Sends bytes, closes that half of the connection, and returns the answer.
async fn raw(s3: &S3, request: &str) -> String {
    let mut stream = TcpStream::connect(s3.options().addr)
        .await
        .expect("the S3 listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the request goes out");
    stream
        .shutdown()
        .await
        .expect("the connection is half closed");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("an answer comes in");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_creators_one_wins() {
    let (s3, client) = start().await;
    for round in 0..20 {
        let key = format!("saved/{round}");
        let barrier = Arc::new(Barrier::new(WRITERS));
        let writers = (0..WRITERS).map(|writer| {
            let (client, key) = (client.clone(), key.clone());
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                let bytes = vec![b'a' + u8::try_from(writer).unwrap_or_default(); 10_000 + writer];
                let put = client
                    .put_object()
                    .bucket(BUCKET)
                    .key(key)
                    .if_none_match("*");
                let put = put.metadata("by", writer.to_string()).body(bytes.into());
                barrier.wait().await;
                (writer, put.send().await)
            })
        });
        let mut winners = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.expect("no writer panics") {
                (writer, Ok(_)) => winners.push(writer),
                (_, lost) => assert_eq!(failure(lost), failed(412, "PreconditionFailed")),
            }
        }
        let [winner] = winners[..] else {
            panic!("{} of {WRITERS} won", winners.len())
        };
        let stored = client
            .get_object()
            .bucket(BUCKET)
            .key(&key)
            .send()
            .await
            .expect("there is an object");
        assert_eq!(
            stored.metadata().expect("it has metadata")["by"],
            winner.to_string()
        );
        let bytes = stored
            .body
            .collect()
            .await
            .expect("the body is whole")
            .to_vec();
        assert_eq!(
            bytes,
            vec![b'a' + u8::try_from(winner).expect("few writers"); 10_000 + winner]
        );
    }
    assert_eq!(s3.count(Op::PutObject), 20 * WRITERS);
}

/// Two servers over one folder share no lock.
#[test]
fn of_two_creating_processes_one_wins() {
    let folder = tempfile::tempdir().expect("there is a folder");
    let open = || Files::open(folder.path()).expect("the folder opens");
    let processes = [open(), open()];
    processes[0]
        .create_bucket(BUCKET)
        .expect("the bucket is made");
    let barrier = std::sync::Barrier::new(processes.len());
    for round in 0..100 {
        let key = format!("saved/{round}");
        let create = |number: usize| {
            let meta = ObjectMetadata {
                etag: number.to_string(),
                ..ObjectMetadata::default()
            };
            barrier.wait();
            let bytes = [b'0' + u8::try_from(number).unwrap_or_default(); 100];
            processes[number]
                .write(BUCKET, &key, &bytes, meta, &Precondition::Absent)
                .expect("it works")
                .is_ok()
        };
        let won = std::thread::scope(|scope| {
            let create = &create;
            [0, 1]
                .map(|number| scope.spawn(move || create(number)))
                .map(|it| it.join().expect("no panic"))
        });
        let winner = won.iter().position(|won| *won).expect("one wins");
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}");
        for process in &processes {
            let (stat, bytes) = process
                .read(BUCKET, &key)
                .expect("it is readable")
                .expect("it is there");
            assert_eq!(
                (stat.meta.etag.as_str(), bytes[0]),
                [("0", b'0'), ("1", b'1')][winner]
            );
        }
    }
}

/// What is known of an object is known of these very bytes.
#[test]
fn metadata_belongs_to_the_state() {
    let folder = tempfile::tempdir().expect("there is a folder");
    let files = Files::open(folder.path()).expect("the folder opens");
    files.create_bucket(BUCKET).expect("the bucket is made");
    let write = |number: u32| {
        let meta = ObjectMetadata {
            etag: number.to_string(),
            ..ObjectMetadata::default()
        };
        let bytes = number.to_string();
        files
            .write(BUCKET, "a", bytes.as_bytes(), meta, &Precondition::Always)
            .expect("it works")
            .expect("no rule refuses it");
    };
    write(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let (stat, bytes) = files
                        .read(BUCKET, "a")
                        .expect("it is readable")
                        .expect("it is there");
                    assert_eq!(stat.meta.etag.as_bytes(), bytes);
                    assert_eq!(stat.len, bytes.len() as u64);
                }
            });
        }
        (1..500).for_each(write);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_gets_one_state() {
    let (s3, client) = start().await;
    let state = |number: usize| {
        format!("{number:04}")
            .repeat(1 + (number * 7919) % 20_000)
            .into_bytes()
    };
    let write = |number: usize| {
        let put = client
            .put_object()
            .bucket(BUCKET)
            .key("draft")
            .metadata("number", number.to_string());
        put.body(state(number).into()).send()
    };
    write(0).await.expect("the first state is put");
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut last = (0, 0);
                while last.0 < 200 {
                    let object = client
                        .get_object()
                        .bucket(BUCKET)
                        .key("draft")
                        .send()
                        .await
                        .expect("it is there");
                    let number: usize = object.metadata().expect("it has metadata")["number"]
                        .parse()
                        .expect("a number");
                    let time = object.last_modified().expect("it has a time").secs();
                    let etag = object.e_tag().expect("it has an ETag").to_owned();
                    let bytes = object
                        .body
                        .collect()
                        .await
                        .expect("the body is whole")
                        .to_vec();
                    assert_eq!(bytes, state(number), "not the bytes of state {number}");
                    assert_eq!(
                        etag,
                        format!("\"{}\"", digest::md5_hex(&bytes)),
                        "not the ETag of state {number}"
                    );
                    assert!(
                        (number, time) >= last,
                        "went back from {last:?} to {number}, {time}"
                    );
                    last = (number, time);
                }
            })
        })
        .collect();
    for number in 1..=200 {
        write(number).await.expect("the state is put");
    }
    for reader in readers {
        reader.await.expect("no reader panics");
    }
    // Nothing is left of the other states.
    let folders =
        ["tmp", "meta/drafts"].map(|folder| s3.options().data_dir.join(".s3").join(folder));
    assert_eq!(
        folders.map(|folder| fs::read_dir(folder).expect("there is one").count()),
        [0, 1]
    );
}

#[tokio::test]
async fn reads_have_preconditions() {
    let (s3, client) = start().await;
    put(&client, "a", b"one").await;
    s3.set_last_modified(
        BUCKET,
        "a",
        SystemTime::UNIX_EPOCH + Duration::from_millis(SAVED_AT * 1000 + 700),
    );
    let etag = format!("\"{}\"", digest::md5_hex(b"one"));
    let time = |ago: i64| DateTime::from_secs(i64::try_from(SAVED_AT).expect("it fits") - ago);
    let read = || client.get_object().bucket(BUCKET).key("a");
    let head = || client.head_object().bucket(BUCKET).key("a");

    let object = head().send().await.expect("it is there");
    assert_eq!(
        (object.last_modified(), object.e_tag()),
        (Some(&time(0)), Some(etag.as_str()))
    );
    read().if_match(&etag).send().await.expect("it is that one");
    read().if_match("*").send().await.expect("it is there");
    read()
        .if_none_match("\"other\"")
        .send()
        .await
        .expect("it is another");
    read()
        .if_modified_since(time(1))
        .send()
        .await
        .expect("it is newer");
    read()
        .if_unmodified_since(time(0))
        .send()
        .await
        .expect("it is no newer");
    // Of two conditions, the one on the ETag counts.
    read()
        .if_match(&etag)
        .if_unmodified_since(time(1))
        .send()
        .await
        .expect("it is that one");
    read()
        .if_none_match("\"other\"")
        .if_modified_since(time(0))
        .send()
        .await
        .expect("it is another");

    let precondition = failed(412, "PreconditionFailed");
    assert_eq!(
        failure(read().if_match("\"other\"").send().await),
        precondition
    );
    assert_eq!(
        failure(read().if_unmodified_since(time(1)).send().await),
        precondition
    );
    assert_eq!(failure(read().if_none_match(&etag).send().await).0, 304);
    assert_eq!(
        failure(read().if_modified_since(time(0)).send().await).0,
        304
    );
    assert_eq!(failure(head().if_match("\"other\"").send().await).0, 412);
    assert_eq!(failure(head().if_none_match(&etag).send().await).0, 304);
}

#[tokio::test]
async fn writes_have_preconditions() {
    let (s3, client) = start().await;
    let write = |key: &str| {
        client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(ByteStream::from_static(b"new"))
    };
    s3.put(BUCKET, "a", b"old");
    let etag = format!("\"{}\"", digest::md5_hex(b"old"));

    let precondition = failed(412, "PreconditionFailed");
    assert_eq!(
        failure(write("a").if_none_match("*").send().await),
        precondition
    );
    assert_eq!(
        failure(write("a").if_match("\"other\"").send().await),
        precondition
    );
    assert_eq!(
        failure(write("b").if_match(&etag).send().await),
        failed(404, "NoSuchKey")
    );
    assert_eq!(
        failure(write("b").if_none_match(&etag).send().await),
        failed(501, "NotImplemented")
    );
    assert_eq!(s3.get(BUCKET, "a").as_deref(), Some(&b"old"[..]));
    assert_eq!(s3.get(BUCKET, "b"), None);

    let delete = |etag: &str| {
        client
            .delete_object()
            .bucket(BUCKET)
            .key("a")
            .if_match(etag)
            .send()
    };
    assert_eq!(failure(delete("\"other\"").await), precondition);
    write("a")
        .if_match(&etag)
        .send()
        .await
        .expect("it is that one");
    assert_eq!(failure(delete(&etag).await), precondition);
    delete(&format!("\"{}\"", digest::md5_hex(b"new")))
        .await
        .expect("it is that one");
    assert_eq!(s3.get(BUCKET, "a"), None);
    write("a")
        .if_none_match("*")
        .send()
        .await
        .expect("there is none");
}

#[tokio::test]
async fn objects_are_copied() {
    let (s3, client) = start().await;
    let put = client
        .put_object()
        .bucket(BUCKET)
        .key("von/ü b+c")
        .content_type("application/json")
        .metadata("n", "1");
    put.checksum_algorithm(ChecksumAlgorithm::Sha256)
        .body(ByteStream::from_static(b"{}"))
        .send()
        .await
        .expect("it is put");
    let source = "drafts/von/%C3%BC%20b%2Bc";
    let etag = format!("\"{}\"", digest::md5_hex(b"{}"));
    let copy = |key: &str| {
        client
            .copy_object()
            .bucket(BUCKET)
            .key(key)
            .copy_source(source)
    };
    let copied = copy("kept")
        .copy_source_if_match(&etag)
        .send()
        .await
        .expect("it is copied");
    assert_eq!(
        copied
            .copy_object_result()
            .and_then(|result| result.e_tag()),
        Some(etag.as_str())
    );
    let replace = copy("replaced")
        .metadata_directive(MetadataDirective::Replace)
        .metadata("n", "2");
    replace.send().await.expect("it is copied");

    for (key, content_type, n) in [
        ("kept", "application/json", "1"),
        ("replaced", "binary/octet-stream", "2"),
    ] {
        let object = client
            .get_object()
            .bucket(BUCKET)
            .key(key)
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let object = object.expect("there is a copy");
        assert_eq!(object.content_type(), Some(content_type), "{key}");
        assert_eq!(object.metadata().expect("it has metadata")["n"], n, "{key}");
        assert_eq!(
            object.checksum_sha256(),
            Some(digest::checksum("sha256", b"{}").as_str()),
            "{key}"
        );
        assert_eq!(
            object
                .body
                .collect()
                .await
                .expect("the body is whole")
                .to_vec(),
            b"{}",
            "{key}"
        );
    }

    let precondition = failed(412, "PreconditionFailed");
    assert_eq!(
        failure(copy("kept").if_none_match("*").send().await),
        precondition
    );
    assert_eq!(
        failure(copy("x").copy_source_if_match("\"other\"").send().await),
        precondition
    );
    assert_eq!(
        failure(copy("x").copy_source_if_none_match(&etag).send().await),
        precondition
    );
    let future = DateTime::from_secs(i64::from(i32::MAX));
    assert_eq!(
        failure(copy("x").copy_source_if_modified_since(future).send().await),
        precondition
    );
    let past = DateTime::from_secs(0);
    assert_eq!(
        failure(copy("x").copy_source_if_unmodified_since(past).send().await),
        precondition
    );
    assert_eq!(
        failure(copy("x").copy_source("drafts/none").send().await),
        failed(404, "NoSuchKey")
    );
    assert_eq!(
        failure(copy("x").copy_source("nowhere/none").send().await),
        failed(404, "NoSuchBucket")
    );
    assert_eq!(
        failure(copy("von/ü b+c").send().await),
        failed(400, "InvalidRequest")
    );
    assert_eq!(s3.keys(BUCKET, ""), ["kept", "replaced", "von/ü b+c"]);
}

#[tokio::test]
async fn checksums_are_checked_before_anything_is_visible() {
    let (s3, client) = start().await;
    let write = || {
        client
            .put_object()
            .bucket(BUCKET)
            .key("a")
            .body(ByteStream::from_static(b"bytes"))
    };
    let digest_of = |algorithm: &str| digest::checksum(algorithm, b"other bytes");
    let bad = failed(400, "BadDigest");
    assert_eq!(
        failure(write().checksum_crc32(digest_of("crc32")).send().await),
        bad
    );
    assert_eq!(
        failure(write().checksum_crc32_c(digest_of("crc32c")).send().await),
        bad
    );
    assert_eq!(
        failure(
            write()
                .checksum_crc64_nvme(digest_of("crc64nvme"))
                .send()
                .await
        ),
        bad
    );
    assert_eq!(
        failure(write().checksum_sha1(digest_of("sha1")).send().await),
        bad
    );
    assert_eq!(
        failure(write().checksum_sha256(digest_of("sha256")).send().await),
        bad
    );
    assert_eq!(
        failure(
            write()
                .content_md5(digest::md5_base64(b"other bytes"))
                .send()
                .await
        ),
        bad
    );
    assert_eq!(
        failure(write().content_md5("no MD5").send().await),
        failed(400, "InvalidDigest")
    );
    assert_eq!(
        failure(write().checksum_sha256("no SHA").send().await),
        failed(400, "InvalidRequest")
    );
    let two = write()
        .checksum_sha256(digest::checksum("sha256", b"bytes"))
        .checksum_sha1(digest_of("sha1"));
    assert_eq!(failure(two.send().await), failed(400, "InvalidRequest"));
    // The payload of a signed request is signed too.
    s3.fault(When::op(Op::PutObject).once(), Fault::CorruptRequest);
    let right = write().checksum_sha256(digest::checksum("sha256", b"bytes"));
    assert_eq!(
        failure(right.send().await),
        failed(400, "XAmzContentSHA256Mismatch")
    );
    assert!(s3.keys(BUCKET, "").is_empty(), "something was stored");
    assert!(
        s3.requests()
            .iter()
            .all(|request| request.status == Some(400))
    );
}

#[tokio::test]
async fn checksums_come_back() {
    let (s3, client) = start().await;
    for (algorithm, name) in [
        (ChecksumAlgorithm::Crc32, "crc32"),
        (ChecksumAlgorithm::Crc32C, "crc32c"),
        (ChecksumAlgorithm::Crc64Nvme, "crc64nvme"),
        (ChecksumAlgorithm::Sha1, "sha1"),
        (ChecksumAlgorithm::Sha256, "sha256"),
    ] {
        let right = digest::checksum(name, b"bytes");
        let write = client
            .put_object()
            .bucket(BUCKET)
            .key(name)
            .checksum_algorithm(algorithm);
        write
            .body(ByteStream::from_static(b"bytes"))
            .send()
            .await
            .expect("it is put");
        let head = client.head_object().bucket(BUCKET).key(name);
        head.clone()
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await
            .expect("it is there");
        head.send().await.expect("it is there");
        // The SDK compares what it reads with the checksum that comes along.
        assert_eq!(get(&client, name).await, b"bytes");
        let stat = s3
            .files()
            .stat(BUCKET, name)
            .expect("it is readable")
            .expect("it is there");
        assert_eq!(
            stat.meta.headers.get(&format!("x-amz-checksum-{name}")),
            Some(&right)
        );
    }
}

#[tokio::test]
async fn a_streamed_body_has_its_checksum_in_its_trailer() {
    let (s3, client) = start().await;
    let folder = tempfile::tempdir().expect("there is a folder");
    let path = folder.path().join("body");
    let bytes = b"0123456789".repeat(20_000);
    fs::write(&path, &bytes).expect("the file is written");
    let write = async || {
        let body = ByteStream::from_path(&path)
            .await
            .expect("the file is there");
        client
            .put_object()
            .bucket(BUCKET)
            .key("a")
            .body(body)
            .send()
            .await
    };
    s3.fault(When::op(Op::PutObject).once(), Fault::CorruptRequest);
    // Each chunk is signed by itself.
    assert_eq!(failure(write().await), failed(403, "SignatureDoesNotMatch"));
    assert_eq!(s3.get(BUCKET, "a"), None);
    write().await.expect("it is put");
    assert_eq!(get(&client, "a").await, bytes);
    let request = &s3.requests()[1];
    assert_eq!(request.header("x-amz-trailer"), "x-amz-checksum-crc32");
    let stat = s3
        .files()
        .stat(BUCKET, "a")
        .expect("it is readable")
        .expect("it is there");
    let sum = digest::checksum("crc32", &bytes);
    assert_eq!(stat.meta.headers.get("x-amz-checksum-crc32"), Some(&sum));
    assert_eq!(stat.meta.headers.get("content-encoding"), None);
}

#[tokio::test]
async fn what_comes_with_an_object_is_kept() {
    let (s3, client) = start().await;
    let write = client
        .put_object()
        .bucket(BUCKET)
        .key("a")
        .content_type("application/json")
        .cache_control("no-store");
    let write = write
        .content_encoding("gzip")
        .metadata("draft-id", "2025")
        .metadata("saved-at", "now");
    write
        .body(ByteStream::from_static(b"0123456789"))
        .send()
        .await
        .expect("it is put");
    let options = S3Options {
        data_dir: s3.options().data_dir.clone(),
        ..S3Options::new("")
    };
    // Also by another server, after a restart.
    let other = S3::start(options).await.expect("the S3 starts");
    for client in [client, client_of(&other, &other.options().secret_key)] {
        let read = client
            .get_object()
            .bucket(BUCKET)
            .key("a")
            .range("bytes=2-4")
            .send()
            .await
            .expect("it is there");
        assert_eq!(read.content_type(), Some("application/json"));
        assert_eq!(read.cache_control(), Some("no-store"));
        assert_eq!(read.content_encoding(), Some("gzip"));
        assert_eq!(read.content_range(), Some("bytes 2-4/10"));
        let metadata = read.metadata().expect("it has metadata");
        assert_eq!(
            (metadata["draft-id"].as_str(), metadata["saved-at"].as_str()),
            ("2025", "now")
        );
        assert_eq!(
            read.body
                .collect()
                .await
                .expect("the body is whole")
                .to_vec(),
            b"234"
        );
        let beyond = client
            .get_object()
            .bucket(BUCKET)
            .key("a")
            .range("bytes=10-")
            .send()
            .await;
        assert_eq!(failure(beyond), failed(416, "InvalidRange"));
    }
}

#[tokio::test]
async fn errors_tell_what_is_missing() {
    let (s3, client) = start().await;
    let missing = client.get_object().bucket(BUCKET).key("none").send().await;
    assert_eq!(failure(missing), failed(404, "NoSuchKey"));
    assert_eq!(
        failure(client.head_object().bucket(BUCKET).key("none").send().await).0,
        404
    );
    let no_bucket = failed(404, "NoSuchBucket");
    assert_eq!(
        failure(client.get_object().bucket("nowhere").key("a").send().await),
        no_bucket
    );
    assert_eq!(
        failure(client.put_object().bucket("nowhere").key("a").send().await),
        no_bucket
    );
    assert_eq!(
        failure(
            client
                .delete_object()
                .bucket("nowhere")
                .key("a")
                .send()
                .await
        ),
        no_bucket
    );
    assert_eq!(
        failure(client.list_objects_v2().bucket("nowhere").send().await),
        no_bucket
    );
    assert_eq!(
        failure(client.head_bucket().bucket("nowhere").send().await).0,
        404
    );
    client
        .delete_object()
        .bucket(BUCKET)
        .key("none")
        .send()
        .await
        .expect("nothing is to be deleted");

    client
        .create_bucket()
        .bucket("nowhere")
        .send()
        .await
        .expect("it is made");
    assert_eq!(
        failure(client.create_bucket().bucket("nowhere").send().await),
        failed(409, "BucketAlreadyOwnedByYou")
    );
    client
        .put_object()
        .bucket("nowhere")
        .key("a/b")
        .send()
        .await
        .expect("it is put");
    assert_eq!(
        failure(client.delete_bucket().bucket("nowhere").send().await),
        failed(409, "BucketNotEmpty")
    );
    let objects = ObjectIdentifier::builder()
        .key("a/b")
        .build()
        .expect("it has a key");
    let delete = Delete::builder()
        .objects(objects)
        .build()
        .expect("it has an object");
    client
        .delete_objects()
        .bucket("nowhere")
        .delete(delete)
        .send()
        .await
        .expect("it is deleted");
    client
        .delete_bucket()
        .bucket("nowhere")
        .send()
        .await
        .expect("it is empty");
    let buckets = client
        .list_buckets()
        .send()
        .await
        .expect("buckets are listed");
    assert_eq!(
        buckets
            .buckets()
            .iter()
            .filter_map(|bucket| bucket.name())
            .collect::<Vec<_>>(),
        ["drafts"]
    );
    assert_eq!(
        s3.requests()
            .iter()
            .filter(|request| request.status.is_none())
            .count(),
        0
    );
}

#[tokio::test]
async fn requests_are_signed() {
    let (s3, client) = start().await;
    put(&client, "a", b"one").await;
    let stranger = client_of(&s3, "wrong");
    let denied = stranger.get_object().bucket(BUCKET).key("a").send().await;
    assert_eq!(failure(denied), failed(403, "SignatureDoesNotMatch"));
    let stranger = client_with(
        &s3,
        Credentials::new("unknown", "local-secret", None, None, "test"),
    );
    let denied = stranger.put_object().bucket(BUCKET).key("a").send().await;
    assert_eq!(failure(denied), failed(403, "InvalidAccessKeyId"));
    let answer = raw(
        &s3,
        "GET /drafts/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("<Code>AccessDenied</Code>"),
        "{answer}"
    );
    assert_eq!(s3.get(BUCKET, "a").as_deref(), Some(&b"one"[..]));
}

#[tokio::test]
async fn half_a_body_is_no_object() {
    let (s3, _) = start().await;
    let request = "PUT /drafts/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345";
    let answer = raw(&s3, request).await;
    assert!(answer.contains("<Code>IncompleteBody</Code>"), "{answer}");
    let recorded = s3.wait_for(|request| request.status.is_some()).await;
    assert_eq!((recorded.status, recorded.body_bytes), (Some(400), 5));
    assert!(s3.keys(BUCKET, "").is_empty(), "something was stored");
}

#[tokio::test]
async fn any_key_is_a_key() {
    let (s3, client) = start().await;
    let long = "long/".to_owned() + &"x".repeat(256);
    let longest = "y".repeat(1024);
    let keys = [
        "a",
        "a/b",
        "a/b/c",
        "a//b",
        "/",
        "/a",
        "dir/",
        "dir/file",
        ".",
        "..",
        "../../escape",
        "a/../b",
        "%2e%2e",
        "+ +",
        ".s3/tmp",
        "back\\slash",
        "new\nline",
        "nul\0byte",
        "草稿/内容.json",
        "emoji/😀",
        "quote\"&<>'",
        &long,
        &longest,
    ];
    for (number, key) in keys.iter().enumerate() {
        let write = client
            .put_object()
            .bucket(BUCKET)
            .key(*key)
            .metadata("number", number.to_string())
            .if_none_match("*");
        write
            .body(key.as_bytes().to_vec().into())
            .send()
            .await
            .unwrap_or_else(|error| panic!("{key:?}: {error:?}"));
    }
    let mut sorted = keys.map(str::to_owned).to_vec();
    sorted.sort_unstable();
    assert_eq!(s3.keys(BUCKET, ""), sorted);
    for (number, key) in keys.iter().enumerate() {
        let object = client
            .get_object()
            .bucket(BUCKET)
            .key(*key)
            .send()
            .await
            .expect("it is there");
        assert_eq!(
            object.metadata().expect("it has metadata")["number"],
            number.to_string(),
            "{key:?}"
        );
        assert_eq!(
            object
                .body
                .collect()
                .await
                .expect("the body is whole")
                .to_vec(),
            key.as_bytes(),
            "{key:?}"
        );
        let again = client
            .put_object()
            .bucket(BUCKET)
            .key(*key)
            .if_none_match("*")
            .send()
            .await;
        assert_eq!(failure(again), failed(412, "PreconditionFailed"), "{key:?}");
    }
    let too_long = client
        .get_object()
        .bucket(BUCKET)
        .key("z".repeat(1025))
        .send()
        .await;
    assert_eq!(failure(too_long), failed(400, "KeyTooLongError"));
    // Nothing has left the folder, and all that is hidden is in one place.
    let inside: HashSet<_> = fs::read_dir(&s3.options().data_dir)
        .expect("there is a folder")
        .flatten()
        .collect::<Vec<_>>()
        .iter()
        .map(fs::DirEntry::file_name)
        .collect();
    assert_eq!(inside, HashSet::from([".s3".into(), "drafts".into()]));
    for key in keys {
        client
            .delete_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .expect("it is deleted");
    }
    assert!(s3.keys(BUCKET, "").is_empty());
    assert_eq!(
        fs::read_dir(s3.options().data_dir.join("drafts"))
            .expect("there is a folder")
            .count(),
        0
    );
}

#[tokio::test]
async fn a_file_that_a_user_drops_is_an_object() {
    let (s3, client) = start().await;
    let path = s3
        .files()
        .path(BUCKET, "drafts/1/draft_content.json")
        .expect("it is a path");
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder is made");
    fs::write(&path, b"dropped").expect("the file is written");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(SAVED_AT);
    fs::File::options()
        .write(true)
        .open(&path)
        .expect("it is there")
        .set_modified(time)
        .expect("the time is set");

    let key = "drafts/1/draft_content.json";
    let check = async |bytes: &[u8], metadata: usize| {
        let object = client
            .get_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .expect("it is there");
        assert_eq!(
            object.e_tag(),
            Some(format!("\"{}\"", digest::md5_hex(bytes)).as_str())
        );
        assert_eq!(
            object.metadata().map_or(0, std::collections::HashMap::len),
            metadata
        );
        let time = object.last_modified().copied();
        assert_eq!(
            object
                .body
                .collect()
                .await
                .expect("the body is whole")
                .to_vec(),
            bytes
        );
        let head = client
            .head_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await
            .expect("it is there");
        assert_eq!(
            (head.e_tag(), head.last_modified()),
            (
                Some(format!("\"{}\"", digest::md5_hex(bytes)).as_str()),
                time.as_ref()
            )
        );
        time.expect("it has a time").secs()
    };
    assert_eq!(
        check(b"dropped", 0).await,
        i64::try_from(SAVED_AT).expect("it fits")
    );
    let again = client
        .put_object()
        .bucket(BUCKET)
        .key(key)
        .if_none_match("*")
        .send()
        .await;
    assert_eq!(failure(again), failed(412, "PreconditionFailed"));

    let write = client
        .put_object()
        .bucket(BUCKET)
        .key(key)
        .metadata("n", "1")
        .body(ByteStream::from_static(b"put"));
    write
        .if_match(digest::md5_hex(b"dropped"))
        .send()
        .await
        .expect("it is that one");
    check(b"put", 1).await;
    assert_eq!(fs::read(&path).expect("it is there"), b"put");
    // In place, and by another file in its place: what came with the object before is not its own.
    fs::write(&path, b"over").expect("the file is written");
    check(b"over", 0).await;
    put(&client, key, b"put").await;
    let beside = path.with_extension("tmp");
    fs::write(&beside, b"moved").expect("the file is written");
    fs::rename(&beside, &path).expect("the file is moved");
    check(b"moved", 0).await;
    assert_eq!(s3.keys(BUCKET, ""), [key]);
    fs::remove_file(&path).expect("the file is removed");
    assert_eq!(
        failure(client.get_object().bucket(BUCKET).key(key).send().await),
        failed(404, "NoSuchKey")
    );
}

#[tokio::test]
async fn listings_come_in_pages() {
    let (s3, client) = start().await;
    let keys = ["a", "b/1", "b/2", "b/c/3", "b-", "b.", "ü +", "z"];
    for key in keys {
        s3.put(BUCKET, key, key);
    }
    let list = async |prefix: &str, delimiter: Option<&str>, page: i32| {
        let request = client
            .list_objects_v2()
            .bucket(BUCKET)
            .prefix(prefix)
            .set_delimiter(delimiter.map(str::to_owned));
        let mut pages = request.max_keys(page).into_paginator().send();
        let mut names = Vec::new();
        while let Some(found) = pages.next().await {
            let found = found.expect("the page is listed");
            assert!(found.key_count().is_some_and(|count| count <= page));
            names.extend(
                found
                    .contents()
                    .iter()
                    .filter_map(|object| object.key().map(str::to_owned)),
            );
            names.extend(
                found
                    .common_prefixes()
                    .iter()
                    .filter_map(|common| common.prefix().map(|it| format!("[{it}]"))),
            );
        }
        names
    };
    for page in [1, 2, 3, 1000] {
        assert_eq!(
            list("", None, page).await,
            ["a", "b-", "b.", "b/1", "b/2", "b/c/3", "z", "ü +"],
            "{page}"
        );
        assert_eq!(
            list("b/", None, page).await,
            ["b/1", "b/2", "b/c/3"],
            "{page}"
        );
        let mut folders = list("", Some("/"), page).await;
        folders.sort_unstable();
        assert_eq!(folders, ["[b/]", "a", "b-", "b.", "z", "ü +"], "{page}");
        assert_eq!(
            list("b/", Some("/"), page).await,
            ["b/1", "b/2", "[b/c/]"],
            "{page}"
        );
        assert!(list("none", None, page).await.is_empty(), "{page}");
    }
    let after = client
        .list_objects_v2()
        .bucket(BUCKET)
        .start_after("b/2")
        .send()
        .await
        .expect("it is listed");
    assert_eq!(
        after
            .contents()
            .iter()
            .filter_map(|object| object.key())
            .collect::<Vec<_>>(),
        ["b/c/3", "z", "ü +"]
    );
    let object = &after.contents()[0];
    assert_eq!(
        object.e_tag(),
        Some(format!("\"{}\"", digest::md5_hex(b"b/c/3")).as_str())
    );
    assert_eq!(object.size(), Some(5));
}

#[tokio::test]
async fn a_prefix_may_be_for_creates_only() {
    let folder = tempfile::tempdir().expect("there is a folder");
    let options = S3Options {
        create_only: Some("saved/".to_owned()),
        ..S3Options::new(folder.path())
    };
    let s3 = S3::start(options).await.expect("the S3 starts");
    let client = client_of(&s3, &s3.options().secret_key);
    let write = |key: &str| client.put_object().bucket(BUCKET).key(key);
    write("drafts/1").send().await.expect("it is put");
    assert_eq!(
        failure(write("saved/1").send().await),
        failed(403, "AccessDenied")
    );
    let copy = client
        .copy_object()
        .bucket(BUCKET)
        .key("saved/1")
        .copy_source("drafts/drafts/1");
    assert_eq!(
        failure(copy.clone().send().await),
        failed(403, "AccessDenied")
    );
    write("saved/1")
        .if_none_match("*")
        .send()
        .await
        .expect("it is created");
    assert_eq!(
        failure(copy.if_none_match("*").send().await),
        failed(412, "PreconditionFailed")
    );
    assert_eq!(
        failure(write("saved/1").if_match("*").send().await),
        failed(403, "AccessDenied")
    );
}

#[tokio::test]
async fn errors_are_played() {
    let (s3, client) = start().await;
    for (fault, status, code) in [
        (Fault::INTERNAL_ERROR, 500, "InternalError"),
        (Fault::SLOW_DOWN, 503, "SlowDown"),
        (Fault::ACCESS_DENIED, 403, "AccessDenied"),
        (Fault::CONFLICT, 409, "ConditionalRequestConflict"),
    ] {
        let scripted = s3.fault(
            When::op(Op::PutObject)
                .key_starts_with("saved/")
                .after(1)
                .times(2),
            fault,
        );
        let write = async |key: &str| client.put_object().bucket(BUCKET).key(key).send().await;
        write("drafts/1").await.expect("it is not meant");
        write("saved/1").await.expect("the first passes");
        s3.files()
            .delete(BUCKET, "saved/1", &Precondition::Always)
            .expect("it is writable")
            .expect("it is deleted");
        assert_eq!(failure(write("saved/1").await), failed(status, code));
        assert_eq!(failure(write("saved/1").await), failed(status, code));
        assert_eq!((scripted.hits(), s3.get(BUCKET, "saved/1")), (2, None));
        write("saved/1").await.expect("it was played twice");
    }
    s3.fault(When::op(Op::HeadObject), Fault::SLOW_DOWN);
    assert_eq!(
        failure(
            client
                .head_object()
                .bucket(BUCKET)
                .key("saved/1")
                .send()
                .await
        )
        .0,
        503
    );
    s3.clear_faults();
    client
        .head_object()
        .bucket(BUCKET)
        .key("saved/1")
        .send()
        .await
        .expect("it is there");
}

#[tokio::test]
async fn connections_break() {
    let (s3, client) = start().await;
    let no_answer = failed(0, "");
    let write = async |key: &str| client.put_object().bucket(BUCKET).key(key).send().await;
    for (number, fault) in [Fault::Cut, Fault::Reset].into_iter().enumerate() {
        let key = number.to_string();
        s3.fault(When::any().once(), fault);
        assert_eq!(failure(write(&key).await), no_answer);
        assert_eq!(s3.get(BUCKET, &key), None);
        write(&key).await.expect("it was played once");
    }
    // A cut is an end, and a reset an error.
    for (fault, end) in [
        (Fault::Cut, None),
        (Fault::Reset, Some(ErrorKind::ConnectionReset)),
    ] {
        s3.fault(When::any().once(), fault);
        let mut stream = TcpStream::connect(s3.options().addr)
            .await
            .expect("the S3 listens");
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream
            .write_all(request)
            .await
            .expect("the request goes out");
        let read = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(read.map_err(|error| error.kind()).err(), end);
    }
    s3.clear_requests();
    s3.fault(When::any().once(), Fault::LoseResponse);
    assert_eq!(failure(write("lost").await), no_answer);
    assert_eq!(s3.get(BUCKET, "lost"), Some(Vec::new()));
    let again = client
        .put_object()
        .bucket(BUCKET)
        .key("lost")
        .if_none_match("*")
        .send()
        .await;
    assert_eq!(failure(again), failed(412, "PreconditionFailed"));
    let requests = s3.requests();
    let answers: Vec<_> = requests.iter().map(|it| (it.status, it.faulted)).collect();
    assert_eq!(answers, [(None, true), (Some(412), false)]);
}

#[tokio::test]
async fn a_port_refuses_and_opens_again() {
    let (s3, client) = start().await;
    put(&client, "a", b"one").await;
    let refused = async || {
        let error = TcpStream::connect(s3.options().addr)
            .await
            .err()
            .map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::ConnectionRefused));
    };
    s3.refuse().await;
    refused().await;
    assert_eq!(
        failure(client.get_object().bucket(BUCKET).key("a").send().await),
        failed(0, "")
    );
    s3.reopen().await;
    assert_eq!(get(&client, "a").await, b"one");
    // By a request, which gets no answer.
    s3.fault(When::op(Op::GetObject).once(), Fault::Refuse);
    assert_eq!(
        failure(client.get_object().bucket(BUCKET).key("a").send().await),
        failed(0, "")
    );
    refused().await;
    s3.reopen().await;
    assert_eq!(get(&client, "a").await, b"one");

    let addr = s3.options().addr;
    let taken = S3::start(S3Options {
        addr,
        ..S3Options::new(&s3.options().data_dir)
    })
    .await
    .err();
    assert_eq!(taken.map(|error| error.kind()), Some(ErrorKind::AddrInUse));
    s3.stop().await;
    let gone = TcpStream::connect(addr)
        .await
        .err()
        .map(|error| error.kind());
    assert_eq!(gone, Some(ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn bodies_break() {
    let (s3, client) = start().await;
    let bytes = b"0123456789".repeat(100_000);
    s3.put(BUCKET, "a", &bytes);
    for (fault, most) in [
        (Fault::CutBody(1000), 1000),
        (Fault::ShortBody(1000), 1000),
        (Fault::ShortBody(0), 0),
    ] {
        s3.fault(When::op(Op::GetObject).once(), fault);
        let object = client.get_object().bucket(BUCKET).key("a").send().await;
        // A reset may overtake the head.
        let Ok(mut object) = object else { continue };
        assert_eq!(object.content_length(), Some(1_000_000));
        let mut read = Vec::new();
        let error = loop {
            match object.body.next().await {
                Some(Ok(chunk)) => read.extend_from_slice(&chunk),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        assert!(error.is_some(), "a short body passed for a whole one");
        assert!(
            read.len() <= most && bytes.starts_with(&read),
            "{} bytes",
            read.len()
        );
    }
    for fault in [Fault::CorruptBody, Fault::WrongChecksum] {
        s3.fault(When::op(Op::GetObject).once(), fault);
        let object = client
            .get_object()
            .bucket(BUCKET)
            .key("a")
            .send()
            .await
            .expect("the head is right");
        let error = object
            .body
            .collect()
            .await
            .expect_err("the checksum is wrong");
        assert!(
            format!("{error:?}").contains("ChecksumMismatch"),
            "{error:?}"
        );
    }
    assert_eq!(get(&client, "a").await, bytes);
}

#[tokio::test]
async fn stalls_end_when_they_are_cleared() {
    let (s3, client) = start().await;
    s3.put(BUCKET, "a", b"0123456789");
    let read = || {
        let client = client.clone();
        tokio::spawn(async move { get(&client, "a").await })
    };
    for (fault, seen) in [
        (Fault::Stall, &b"other"[..]),
        (Fault::StallResponse, b"0123456789"),
        (Fault::StallBody(5), b"0123456789"),
    ] {
        s3.put(BUCKET, "a", b"0123456789");
        let gate = s3.fault(When::op(Op::GetObject).once(), fault);
        let reader = read();
        gate.wait_for_hits(1).await;
        // Before it is done, or after.
        if seen == b"other" {
            s3.put(BUCKET, "a", b"other");
        }
        tokio::task::yield_now().await;
        assert!(!reader.is_finished(), "it does not wait");
        gate.clear();
        assert_eq!(reader.await.expect("the reader gets it"), seen);
    }
    // A callback runs before the request does.
    let files = Arc::clone(s3.files());
    s3.fault(
        When::op(Op::GetObject).once(),
        Fault::Run(Arc::new(move |request| {
            files
                .set_modified(&request.bucket, &request.key, SystemTime::UNIX_EPOCH)
                .expect("the time is set");
        })),
    );
    let object = client
        .get_object()
        .bucket(BUCKET)
        .key("a")
        .send()
        .await
        .expect("it is there");
    assert_eq!(object.last_modified().map(DateTime::secs), Some(0));
    // One that is never cleared ends with the server.
    let gate = s3.fault(When::op(Op::GetObject), Fault::Stall);
    let client = client.clone();
    let reader =
        tokio::spawn(async move { client.get_object().bucket(BUCKET).key("a").send().await });
    gate.wait_for_hits(1).await;
    s3.stop().await;
    assert_eq!(
        failure(reader.await.expect("no reader panics")),
        failed(0, "")
    );
}

#[tokio::test]
async fn faults_are_drawn_by_lot() {
    let (s3, client) = start().await;
    let draw = async |seed: u64| {
        let scripted = s3.fault(When::op(Op::HeadBucket).rate(0.25, seed), Fault::SLOW_DOWN);
        s3.clear_requests();
        for _ in 0..400 {
            let _ = client.head_bucket().bucket(BUCKET).send().await;
        }
        scripted.clear();
        s3.requests()
            .iter()
            .map(|request| request.faulted)
            .collect::<Vec<_>>()
    };
    let (first, again, other) = (draw(1).await, draw(1).await, draw(2).await);
    assert_eq!(first, again);
    assert_ne!(first, other);
    let played = first.iter().filter(|faulted| **faulted).count();
    assert!((60..=140).contains(&played), "{played} of 400");
}

#[tokio::test]
async fn requests_are_recorded() {
    let (s3, client) = start().await;
    let waiting = s3.wait_for(|request| request.op == Op::HeadObject && request.status.is_some());
    let (recorded, ()) = tokio::join!(waiting, async {
        put(&client, "drafts/ü 1", b"bytes").await;
        let _ = client.head_object().bucket(BUCKET).key("none").send().await;
    });
    assert_eq!(
        (recorded.key.as_str(), recorded.status),
        ("none", Some(404))
    );
    let requests = s3.requests();
    assert_eq!(
        requests
            .iter()
            .map(|request| request.op)
            .collect::<Vec<_>>(),
        [Op::PutObject, Op::HeadObject]
    );
    let write = &requests[0];
    assert_eq!(
        (
            write.bucket.as_str(),
            write.key.as_str(),
            write.method.as_str()
        ),
        (BUCKET, "drafts/ü 1", "PUT")
    );
    assert!(
        write.body_bytes >= 5
            && write
                .header("authorization")
                .starts_with("AWS4-HMAC-SHA256 ")
    );
    assert_eq!((s3.count(Op::PutObject), s3.count(Op::GetObject)), (1, 0));
    s3.clear_requests();
    assert!(s3.requests().is_empty());
}
