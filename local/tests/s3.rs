//! The guarantees of the S3 server on which other tests rely, with the AWS SDK as client.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::copy_object::builders::CopyObjectFluentBuilder;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload,
    CompletedPart, Delete, MetadataDirective, ObjectIdentifier, VersioningConfiguration,
};
use local::s3::{Fault, Op, RawResponse, S3, S3Options, When, sdk_config};
use test_support::runtime::with_timeout;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

const BUCKET: &str = "drafts";
/// The `ETag` of `one`.
const ONE: &str = "\"f97c5d29941bfb1b2fdab0874906ab82\"";
/// The SHA-256 of `one`.
const ONE_SHA256: &str = "dpLDrTVAu4A8Ags67mbNiIcSMjTqDG5xQ8Ct1z/0Me0=";

/// A server and a client of it that does not retry.
struct Env {
    s3: S3,
    client: Client,
}

impl Env {
    async fn start() -> Self {
        let s3 = S3::start_empty().await.expect("the server starts");
        Self::new(s3, "local", "local-secret")
    }

    fn new(s3: S3, access_key: &str, secret_key: &str) -> Self {
        let sdk = sdk_config(&s3.endpoint(), access_key, secret_key);
        let config = Builder::from(&sdk)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled());
        let client = Client::from_conf(config.build());
        Self { s3, client }
    }

    fn get(&self, key: &str) -> GetObjectFluentBuilder {
        self.client.get_object().bucket(BUCKET).key(key)
    }

    fn put(&self, key: &str) -> PutObjectFluentBuilder {
        let put = self.client.put_object().bucket(BUCKET).key(key);
        put.body(ByteStream::from_static(b"one"))
    }

    fn copy(&self, source: &str, key: &str) -> CopyObjectFluentBuilder {
        let copy = self.client.copy_object().bucket(BUCKET).key(key);
        copy.copy_source(format!("{BUCKET}/{source}"))
    }

    async fn read(&self, key: &str) -> Vec<u8> {
        let object = self.get(key).send().await.expect("the object exists");
        let body = object.body.collect().await.expect("the body is complete");
        body.to_vec()
    }

    /// Sends bytes to the server, and returns the response.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await.expect("the server listens");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("the request is sent");
        let mut response = String::new();
        let received = with_timeout(stream.read_to_string(&mut response)).await;
        received.expect("a response is received");
        response
    }

    async fn connect(&self) -> Result<TcpStream, ErrorKind> {
        let stream = TcpStream::connect(self.s3.options().addr).await;
        stream.map_err(|error| error.kind())
    }
}

/// The status and the code of an error, or `0` if there was no response.
#[track_caller]
fn error<T: Debug, E: ProvideErrorMetadata>(result: Result<T, SdkError<E>>) -> String {
    let error = result.expect_err("it fails");
    let status = error.raw_response().map_or(0, |it| it.status().as_u16());
    let code = error.code().unwrap_or_default();
    format!("{status} {code}").trim_end().to_owned()
}

const PRECONDITION_FAILED: &str = "412 PreconditionFailed";

/// Two servers with one folder share no lock, as two processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_writers_creates_an_object_also_in_several_processes() {
    let one = Env::start().await;
    let options = S3Options::new(&one.s3.options().data_dir);
    let other = S3::start(options).await.expect("the server starts");
    let other = Env::new(other, "local", "local-secret");
    for round in 0..25 {
        let key = format!("saved/{round}");
        let barrier = Arc::new(Barrier::new(16));
        let writers = (0..16_u8).map(|writer| {
            let env = if writer % 2 == 0 { &one } else { &other };
            let put = env.put(&key).if_none_match("*");
            let put = put.metadata("by", writer.to_string());
            let put = put.body(vec![writer; 10_000 + usize::from(writer)].into());
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait().await;
                (writer, put.send().await)
            })
        });
        let mut winners = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.expect("no writer panics") {
                (writer, Ok(_)) => winners.push(writer),
                (_, lost) => assert_eq!(error(lost), PRECONDITION_FAILED),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?} created {key}");
        let winner = winners[0];
        let stored = other.get(&key).send().await.expect("the object exists");
        let by = stored.metadata().expect("it has metadata")["by"].clone();
        assert_eq!(by, winner.to_string());
        let bytes = other.read(&key).await;
        assert_eq!(bytes, vec![winner; 10_000 + usize::from(winner)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_gets_one_state_with_its_metadata() {
    let env = Arc::new(Env::start().await);
    let state = |number: usize| format!("{number:04}").repeat(1 + (number * 7919) % 20_000);
    let write = |number: usize| {
        let put = env.put("draft").metadata("number", number.to_string());
        put.body(state(number).into_bytes().into()).send()
    };
    write(0).await.expect("the object is written");
    let read = async |env: Arc<Env>| {
        let mut last = (0, 0);
        while last.0 < 100 {
            let object = env.get("draft").send().await.expect("the object exists");
            let number = &object.metadata().expect("it has metadata")["number"];
            let number: usize = number.parse().expect("it is a number");
            let time = object.last_modified().expect("it has a time").secs();
            let body = object.body.collect().await.expect("the body is complete");
            assert!(body.to_vec() == state(number).as_bytes(), "state {number}");
            assert!((number, time) >= last, "{number} after {last:?}");
            last = (number, time);
        }
    };
    let writer = async {
        for number in 1..=100 {
            write(number).await.expect("the object is written");
        }
    };
    let reader = || read(Arc::clone(&env));
    tokio::join!(writer, reader(), reader(), reader());
    let folder = env.s3.options().data_dir.join(".s3");
    let files = |name: &str| fs::read_dir(folder.join(name)).expect("the folder exists");
    let left = (files("tmp").count(), files("metadata").count());
    assert_eq!(left, (0, 1), "files of other states are left");
}

#[tokio::test]
async fn reads_and_writes_have_preconditions() {
    let env = Env::start().await;
    let missing = env.put("a").if_match(ONE).send().await;
    assert_eq!(error(missing), "404 NoSuchKey");
    let created = env.put("a").if_none_match("*").send().await;
    created.expect("the object does not exist yet");

    let head = |env: &Env| env.client.head_object().bucket(BUCKET).key("a");
    head(&env).if_match(ONE).send().await.expect("it is this");
    env.get("a").if_match(ONE).send().await.expect("it is this");
    let other = env.get("a").if_match("\"other\"").send().await;
    assert_eq!(error(other), PRECONDITION_FAILED);

    let two = || env.put("a").body(ByteStream::from_static(b"two"));
    let exists = two().if_none_match("*").send().await;
    assert_eq!(error(exists), PRECONDITION_FAILED);
    let other = two().if_match("\"other\"").send().await;
    assert_eq!(error(other), PRECONDITION_FAILED);
    let unknown = two().if_none_match(ONE).send().await;
    assert_eq!(error(unknown), "501 NotImplemented");
    assert_eq!(env.read("a").await, b"one");
    two().if_match(ONE).send().await.expect("it is this");
    assert_eq!(env.read("a").await, b"two");
}

#[tokio::test]
async fn a_copy_has_preconditions_and_keeps_the_metadata() {
    let env = Env::start().await;
    let put = env.put("von/ü b+c").content_type("application/json");
    let put = put.metadata("n", "1").checksum_sha256(ONE_SHA256);
    put.send().await.expect("the object is written");
    let source = "von/%C3%BC%20b%2Bc";
    let copy = || env.copy(source, "copy");

    let other = copy().copy_source_if_match("\"other\"").send().await;
    assert_eq!(error(other), PRECONDITION_FAILED);
    assert_eq!(env.s3.keys(BUCKET, "copy").len(), 0);
    let missing = env.copy("none", "copy").send().await;
    assert_eq!(error(missing), "404 NoSuchKey");

    let created = copy().copy_source_if_match(ONE).if_none_match("*");
    let created = created.send().await.expect("both conditions hold");
    let etag = created.copy_object_result().and_then(|it| it.e_tag());
    assert_eq!(etag, Some(ONE));
    let exists = copy().copy_source_if_match(ONE).if_none_match("*");
    assert_eq!(error(exists.send().await), PRECONDITION_FAILED);

    let head = env.client.head_object().bucket(BUCKET).key("copy");
    let head = head.checksum_mode(ChecksumMode::Enabled).send().await;
    let head = head.expect("the object exists");
    assert_eq!(head.content_type(), Some("application/json"));
    assert_eq!(head.metadata().expect("it has metadata")["n"], "1");
    assert_eq!(head.checksum_sha256(), Some(ONE_SHA256));
    assert_eq!(env.read("copy").await, b"one");
}

#[tokio::test]
async fn a_body_with_a_wrong_checksum_is_not_stored() {
    let env = Env::start().await;
    for wrong in [
        env.put("a").checksum_crc32("AAAAAA=="),
        env.put("a").checksum_crc32_c("AAAAAA=="),
        env.put("a").checksum_crc64_nvme("AAAAAAAAAAA="),
        env.put("a").checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        env.put("a").checksum_sha256("AAAA"),
        env.put("a").content_md5("AAAAAAAAAAAAAAAAAAAAAA=="),
    ] {
        assert_eq!(error(wrong.send().await), "400 BadDigest");
    }
    let corrupt = When::op(Op::PutObject).once();
    env.s3.fault(corrupt, Fault::CorruptRequest);
    let corrupted = env.put("a").checksum_sha256(ONE_SHA256).send().await;
    assert_eq!(error(corrupted), "400 XAmzContentSHA256Mismatch");

    // A body from a file is sent in chunks that are signed, with the checksum in a trailer.
    let path = env.s3.options().data_dir.join("body");
    fs::write(&path, "0123456789".repeat(20_000)).expect("the file is written");
    let put = async || {
        let body = ByteStream::from_path(&path).await;
        let put = env.put("a").body(body.expect("the file exists"));
        put.send().await
    };
    let corrupt = When::op(Op::PutObject).once();
    env.s3.fault(corrupt, Fault::CorruptRequest);
    assert_eq!(error(put().await), "403 SignatureDoesNotMatch");
    assert!(env.s3.keys(BUCKET, "").is_empty(), "an object was stored");
    put().await.expect("the object is written");
    let stored = env.s3.metadata(BUCKET, "a").expect("the object exists");
    assert!(stored.headers.contains_key("x-amz-checksum-crc32"));
    assert_eq!(stored.headers.get("content-encoding"), None);
}

/// The SDK compares the body with the checksum of the response.
#[tokio::test]
async fn checksums_are_returned_with_the_object() {
    let env = Env::start().await;
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"] {
        let name = format!("x-amz-checksum-{}", algorithm.to_ascii_lowercase());
        let algorithm = ChecksumAlgorithm::from(algorithm);
        let put = env.put("a").checksum_algorithm(algorithm).send().await;
        put.expect("the object is written");
        let stored = env.s3.metadata(BUCKET, "a").expect("the object exists");
        assert!(stored.headers.contains_key(&name), "there is no {name}");
        assert_eq!(env.read("a").await, b"one", "{name}");
    }
}

#[tokio::test]
async fn listings_come_in_pages() {
    let env = Env::start().await;
    for key in ["a", "b/1", "b/2", "b/c/3", "b-", "b.", "ü +", "z"] {
        env.s3.put(BUCKET, key, key);
    }
    let list = async |prefix: &str, delimiter: Option<&str>, size: i32| {
        let list = env.client.list_objects_v2().bucket(BUCKET).prefix(prefix);
        let list = list.set_delimiter(delimiter.map(str::to_owned));
        let mut pages = list.max_keys(size).into_paginator().send();
        let mut names = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.expect("the page is listed");
            assert!(page.key_count().is_some_and(|count| count <= size));
            let keys = page.contents().iter().filter_map(|object| object.key());
            names.extend(keys.map(str::to_owned));
            let folders = page.common_prefixes().iter();
            names.extend(folders.filter_map(|it| it.prefix().map(|it| format!("[{it}]"))));
        }
        names.sort_unstable();
        names.join(" ")
    };
    for size in [1, 2, 3, 1000] {
        let all = list("", None, size).await;
        assert_eq!(all, "a b- b. b/1 b/2 b/c/3 z ü +", "{size} a page");
        assert_eq!(list("b/", None, size).await, "b/1 b/2 b/c/3");
        assert_eq!(list("", Some("/"), size).await, "[b/] a b- b. z ü +");
        assert_eq!(list("b/", Some("/"), size).await, "[b/c/] b/1 b/2");
        assert_eq!(list("none", None, size).await, "");
    }
    let list = env.client.list_objects_v2().bucket(BUCKET);
    let page = list.prefix("b/c").send().await;
    let page = page.expect("the bucket is listed");
    let first = &page.contents()[0];
    assert_eq!((first.key(), first.size()), (Some("b/c/3"), Some(5)));
    let etag = env.s3.put(BUCKET, "b/c/3", "b/c/3");
    assert_eq!(first.e_tag(), Some(&*format!("\"{etag}\"")));
    let modified = first.last_modified().expect("it has a time").secs();
    assert!(modified > 1_700_000_000);

    let object = ObjectIdentifier::builder().key("z").build();
    let delete = Delete::builder().objects(object.expect("it has a key"));
    let delete = delete.build().expect("it has an object");
    let deleted = env.client.delete_objects().bucket(BUCKET).delete(delete);
    deleted.send().await.expect("the object is deleted");
    assert_eq!(env.s3.keys(BUCKET, "z").len(), 0);
}

#[tokio::test]
async fn a_multipart_upload_creates_one_object() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let options = S3Options {
        create_only: Some("saved/".to_owned()),
        ..S3Options::new(folder.path())
    };
    let s3 = S3::start(options).await.expect("the server starts");
    let env = Env::new(s3, "local", "local-secret");
    let upload = async |key: &str, sizes: &[usize], if_none_match: Option<&str>| {
        let (client, key) = (&env.client, key.to_owned());
        let create = client.create_multipart_upload().bucket(BUCKET).key(&key);
        let created = create.content_type("video/mp4").metadata("n", "1").send();
        let id = created.await.expect("the upload is created").upload_id;
        let mut completed = CompletedMultipartUpload::builder();
        for (number, size) in (1..).zip(sizes) {
            let part = client.upload_part().bucket(BUCKET).key(&key);
            let part = part.set_upload_id(id.clone()).part_number(number);
            let part = part.body(vec![b'x'; *size].into()).send().await;
            let part = part.expect("the part is stored");
            let listed = CompletedPart::builder().part_number(number);
            completed = completed.parts(listed.set_e_tag(part.e_tag).build());
        }
        let complete = client.complete_multipart_upload().bucket(BUCKET).key(&key);
        let complete = complete.set_upload_id(id.clone());
        let complete = complete.multipart_upload(completed.build());
        let result = complete.set_if_none_match(if_none_match.map(str::to_owned));
        let result = result.send().await;
        let abort = client.abort_multipart_upload().bucket(BUCKET).key(&key);
        let aborted = abort.set_upload_id(id).send().await;
        assert!(!(result.is_ok() && aborted.is_ok()), "{aborted:?}");
        result
    };
    let sizes = [5 << 20, 5 << 20, 1000];
    let completed = upload("media.mp4", &sizes, None).await;
    let etag = completed.expect("the upload is completed").e_tag;
    // MD5 of the MD5 digests of the three parts.
    let right = "\"30dc441fb322240b8566da112e94522f-3\"";
    assert_eq!(etag.as_deref(), Some(right));
    let object = env.get("media.mp4").range("bytes=5242870-5242889");
    let object = object.send().await.expect("the object exists");
    assert_eq!(object.content_type(), Some("video/mp4"));
    assert_eq!(
        object.content_range(),
        Some("bytes 5242870-5242889/10486760")
    );
    assert_eq!(object.metadata().expect("it has metadata")["n"], "1");
    assert_eq!(env.read("media.mp4").await, vec![b'x'; 10_486_760]);

    let small = upload("media.mp4", &[1000, 1000], None).await;
    assert_eq!(error(small), "400 EntityTooSmall");
    let refused = upload("saved/1", &sizes, None).await;
    assert_eq!(error(refused), "403 AccessDenied");
    let created = upload("saved/1", &sizes, Some("*")).await;
    created.expect("the object does not exist yet");
    let exists = upload("saved/1", &sizes, Some("*")).await;
    assert_eq!(error(exists), PRECONDITION_FAILED);

    // All other ways to write below the prefix.
    assert_eq!(error(env.put("saved/2").send().await), "403 AccessDenied");
    let replaced = env.put("saved/1").if_match(ONE).send().await;
    assert_eq!(error(replaced), "403 AccessDenied");
    let copied = env.copy("media.mp4", "saved/2").send().await;
    assert_eq!(error(copied), "403 AccessDenied");
}

#[tokio::test]
async fn parts_are_copied_listed_and_aborted() {
    let env = Env::start().await;
    let etag = env.s3.put(BUCKET, "a", b"0123456789");
    let create = env.client.create_multipart_upload().bucket(BUCKET);
    let created = create.key("b").send().await.expect("the upload is created");
    let id = created.upload_id.expect("it has an id");
    let copy = |key: &str, etag: &str| {
        let copy = env.client.upload_part_copy().bucket(BUCKET).key(key);
        let copy = copy.upload_id(&id).part_number(1);
        let copy = copy.copy_source("drafts/a").copy_source_range("bytes=2-4");
        copy.copy_source_if_match(etag)
    };
    let other = copy("b", "\"other\"").send().await;
    assert_eq!(error(other), PRECONDITION_FAILED);
    let other_key = copy("c", &etag).send().await;
    assert_eq!(error(other_key), "404 NoSuchUpload");
    let copied = copy("b", &etag).send().await.expect("the part is copied");
    let etag = copied.copy_part_result.and_then(|result| result.e_tag);

    let parts = env.client.list_parts().bucket(BUCKET).key("b");
    let parts = parts.upload_id(&id).send().await.expect("it exists");
    let listed = &parts.parts()[0];
    let seen = (listed.part_number(), listed.size(), &listed.e_tag);
    assert_eq!(seen, (Some(1), Some(3), &etag));
    let uploads = async || {
        let list = env.client.list_multipart_uploads().bucket(BUCKET);
        let listed = list.prefix("b").send().await.expect("they are listed");
        let keys = listed.uploads().iter().filter_map(|upload| upload.key());
        keys.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(uploads().await, ["b"]);

    let part = CompletedPart::builder().part_number(1).set_e_tag(etag);
    let parts = CompletedMultipartUpload::builder().parts(part.build());
    let parts = parts.build();
    let complete = || {
        let complete = env.client.complete_multipart_upload().bucket(BUCKET);
        let complete = complete.key("b").upload_id(&id).if_none_match("*");
        complete.multipart_upload(parts.clone()).send()
    };
    env.put("b").send().await.expect("the object is written");
    assert_eq!(error(complete().await), PRECONDITION_FAILED);
    env.s3.delete(BUCKET, "b");
    // A refused upload stays.
    complete().await.expect("the upload is completed");
    assert_eq!(env.read("b").await, b"234");
    assert_eq!(error(complete().await), "404 NoSuchUpload");

    let create = env.client.create_multipart_upload().bucket(BUCKET);
    let created = create.key("b/c").send().await.expect("it is created");
    let abort = env.client.abort_multipart_upload().bucket(BUCKET);
    let abort = abort.key("b/c").set_upload_id(created.upload_id);
    assert_eq!(uploads().await, ["b/c"]);
    abort.clone().send().await.expect("the upload is aborted");
    assert_eq!(error(abort.send().await), "404 NoSuchUpload");
    assert_eq!(uploads().await, [""; 0]);
}

#[tokio::test]
async fn a_bucket_keeps_versions() {
    let env = Env::start().await;
    let client = &env.client;
    let status = async || {
        let versioning = client.get_bucket_versioning().bucket(BUCKET).send().await;
        versioning.expect("the bucket exists").status
    };
    assert_eq!(status().await, None);
    env.put("a").send().await.expect("the object is written");
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
    let enable = client.put_bucket_versioning().bucket(BUCKET);
    let enable = enable.versioning_configuration(enabled.build());
    enable.send().await.expect("versioning is enabled");
    assert_eq!(status().await, Some(BucketVersioningStatus::Enabled));

    let put = env.put("a").body(ByteStream::from_static(b"two"));
    let second = put.metadata("n", "2").send().await;
    let second = second.expect("it is written").version_id.expect("an id");
    let delete = || client.delete_object().bucket(BUCKET).key("a");
    let deleted = delete().send().await.expect("the object is deleted");
    assert_eq!(deleted.delete_marker, Some(true));
    let marker = deleted.version_id.expect("the marker has an id");
    let missing = env.get("a").send().await.expect_err("it is deleted");
    let header = missing.raw_response().expect("a response").headers();
    assert_eq!(header.get("x-amz-delete-marker"), Some("true"));
    assert_eq!(error::<(), _>(Err(missing)), "404 NoSuchKey");
    assert_eq!(env.s3.keys(BUCKET, "").len(), 0);

    let version = async |id: &str| {
        let object = env.get("a").version_id(id).send().await?;
        let metadata = object.metadata.unwrap_or_default();
        let bytes = object.body.collect().await.expect("the body is complete");
        Ok::<_, SdkError<_>>((bytes.to_vec(), metadata.get("n").cloned()))
    };
    let two = (b"two".to_vec(), Some("2".to_owned()));
    assert_eq!(version(&second).await.expect("it exists"), two);
    let one = version("null").await.expect("it exists");
    assert_eq!(one, (b"one".to_vec(), None));
    assert_eq!(error(version(&marker).await), "405 MethodNotAllowed");
    assert_eq!(error(version("other").await), "404 NoSuchVersion");

    // A delete marker is no object.
    let third = env.put("a").if_none_match("*").send().await;
    let third = third.expect("it does not exist").version_id.expect("an id");
    let copied = env.copy(&format!("a?versionId={second}"), "b").send().await;
    copied.expect("the version is copied");
    assert_eq!(env.read("b").await, b"two");
    // The first in each page of one entry tells the order.
    let (mut key, mut id, mut listed) = (None, None, Vec::new());
    loop {
        let list = client.list_object_versions().bucket(BUCKET).max_keys(1);
        let page = list.set_key_marker(key).set_version_id_marker(id);
        let page = page.send().await.expect("the bucket is listed");
        let versions = page.versions().iter();
        let versions = versions.map(|it| (it.key.clone(), it.version_id.clone(), it.is_latest));
        let markers = page.delete_markers().iter();
        let markers = markers.map(|it| (it.key.clone(), it.version_id.clone(), it.is_latest));
        listed.extend(versions.chain(markers));
        if page.is_truncated != Some(true) {
            break;
        }
        (key, id) = (page.next_key_marker, page.next_version_id_marker);
    }
    let of_b = env.s3.metadata(BUCKET, "b").expect("the object exists");
    let of_b = of_b.headers["x-amz-version-id"].clone();
    let entry =
        |key: &str, id: &str, is_latest| (Some(key.into()), Some(id.into()), Some(is_latest));
    let expected = [
        entry("a", &third, true),
        entry("a", &marker, false),
        entry("a", &second, false),
        entry("a", "null", false),
        entry("b", &of_b, true),
    ];
    assert_eq!(listed, expected);

    // Without the newest version, the marker is the newest; without it, the one before is the object.
    let delete_version =
        async |id: &str| delete().version_id(id).send().await.expect("it is deleted");
    assert_eq!(delete_version(&third).await.delete_marker, None);
    assert_eq!(error(env.get("a").send().await), "404 NoSuchKey");
    assert_eq!(delete_version(&marker).await.delete_marker, Some(true));
    assert_eq!(env.read("a").await, b"two");
    delete_version(&second).await;
    assert_eq!(env.read("a").await, b"one");
    delete_version("null").await;
    assert_eq!(error(env.get("a").send().await), "404 NoSuchKey");
    let list = client.list_object_versions().bucket(BUCKET).prefix("a");
    let left = list.send().await.expect("the bucket is listed");
    assert_eq!((left.versions().len(), left.delete_markers().len()), (0, 0));
}

/// s3cmd, s3fs, rclone and s5cmd need this.
#[tokio::test]
async fn older_clients_list_and_copy() {
    let env = Env::start().await;
    for key in ["a", "b/1", "b/2", "c d+e", "z"] {
        env.s3.put(BUCKET, key, key);
    }
    let list = async |marker: &str| {
        let list = env.client.list_objects().bucket(BUCKET).delimiter("/");
        let page = list.max_keys(2).marker(marker).send().await;
        let page = page.expect("the bucket is listed");
        let keys = page.contents().iter().filter_map(|object| object.key());
        let folders = page.common_prefixes().iter().filter_map(|it| it.prefix());
        let names: Vec<_> = keys.chain(folders).map(str::to_owned).collect();
        (names.join(" "), page.next_marker)
    };
    assert_eq!(list("").await, ("a b/".to_owned(), Some("b/".to_owned())));
    assert_eq!(list("b/").await, ("c d+e z".to_owned(), None));
    let list = env
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .start_after("b/1");
    let page = list.max_keys(1).send().await.expect("the bucket is listed");
    assert_eq!(page.contents()[0].key(), Some("b/2"));

    let replaced = env.copy("c+d%2Be", "copy").content_type("text/plain");
    let replaced = replaced
        .metadata("n", "2")
        .metadata_directive(MetadataDirective::Replace);
    replaced.send().await.expect("the object is copied");
    let copy = env.get("copy").send().await.expect("the object exists");
    assert_eq!(copy.content_type(), Some("text/plain"));
    assert_eq!(copy.metadata().expect("it has metadata")["n"], "2");
    assert_eq!(env.read("copy").await, b"c d+e");
}

#[tokio::test]
async fn a_file_that_cannot_be_an_object_is_an_error_of_its_listings() {
    let env = Env::start().await;
    env.s3.put(BUCKET, "drafts/1/a", "a");
    env.s3.put(BUCKET, "drafts/2/a", "a");
    let long = "n".repeat(300);
    env.s3.put(BUCKET, &long, "a");
    let folder = env.s3.options().data_dir.join(BUCKET).join("drafts/1");
    let list = async |prefix: &str| {
        let list = env.client.list_objects_v2().bucket(BUCKET).prefix(prefix);
        list.send().await.map(|page| page.key_count)
    };
    assert_eq!(list("").await.expect("all are valid"), Some(3));
    assert_eq!(env.read(&long).await, b"a");
    let put = env.put(&"n".repeat(1025)).send().await;
    assert_eq!(error(put), "400 KeyTooLongError");

    let not_utf8 = folder.join(OsStr::from_bytes(b"\xff"));
    let deep: PathBuf = (0..5).map(|_| "n".repeat(250)).collect();
    let deep = folder.join(deep);
    let dangling = folder.join("link");
    fs::create_dir_all(deep.parent().expect("it has one")).expect("they are created");
    for (path, is_link) in [(not_utf8, false), (deep, false), (dangling, true)] {
        let created = if is_link {
            std::os::unix::fs::symlink("none", &path)
        } else {
            fs::write(&path, "")
        };
        created.expect("it is created");
        let listed = list("drafts/1/").await.expect_err("it cannot be an object");
        let text = listed.message().unwrap_or_default();
        let name = path.display().to_string();
        assert!(text.contains(&name) || is_link, "{text} names {name}");
        let status = if is_link {
            "500 InternalError"
        } else {
            "400 InvalidFileName"
        };
        assert_eq!(error(Err::<(), _>(listed)), status);
        assert_eq!(list("drafts/2/").await.expect("it is valid"), Some(1));
        fs::remove_file(&path).expect("it is removed");
    }
}

#[tokio::test]
async fn buckets_and_keys_are_missing_or_exist() {
    let env = Env::start().await;
    let client = &env.client;
    assert_eq!(error(env.get("none").send().await), "404 NoSuchKey");
    let head = client.head_object().bucket(BUCKET).key("none").send().await;
    assert_eq!(error(head), "404 NotFound");
    let delete = client.delete_object().bucket(BUCKET).key("none").send();
    delete.await.expect("a missing object counts as deleted");

    let no_bucket = "404 NoSuchBucket";
    assert_eq!(error(env.get("a").bucket("new").send().await), no_bucket);
    assert_eq!(error(env.put("a").bucket("new").send().await), no_bucket);
    let list = client.list_objects_v2().bucket("new").send().await;
    assert_eq!(error(list), no_bucket);
    let head = client.head_bucket().bucket("new").send().await;
    assert_eq!(error(head), "404 NotFound");
    let create = || client.create_bucket().bucket("new").send();
    create().await.expect("the bucket is created");
    assert_eq!(error(create().await), "409 BucketAlreadyOwnedByYou");
    let location = client.get_bucket_location().bucket("new").send().await;
    location.expect("the bucket exists");
    let buckets = client.list_buckets().send().await.expect("they are listed");
    let names = buckets.buckets().iter().filter_map(|bucket| bucket.name());
    assert_eq!(names.collect::<Vec<_>>(), ["drafts", "new"]);
}

#[tokio::test]
async fn every_key_has_its_own_object() {
    let env = Env::start().await;
    let keys = "a|a/b|a//b|/|/a|dir/|dir/file|.|..|../../escape|a/../b|%2e%2e|50%|+ +|.s3/tmp|\
                back\\slash|new\nline|nul\0byte|草稿/内容.json|emoji/😀|quote\"&<>'";
    let mut keys: Vec<_> = keys.split('|').collect();
    keys.sort_unstable();
    for key in &keys {
        let put = env
            .put(key)
            .if_none_match("*")
            .body(key.as_bytes().to_vec().into());
        put.send().await.expect("the key is new");
    }
    assert_eq!(env.s3.keys(BUCKET, ""), keys);
    for key in &keys {
        assert_eq!(env.read(key).await, key.as_bytes(), "{key:?}");
    }
    let names = fs::read_dir(&env.s3.options().data_dir).expect("the folder exists");
    let names = names.map(|entry| entry.expect("it is readable").file_name());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    assert_eq!(names, [".s3", "drafts"], "a file is outside of the bucket");
    for key in &keys {
        let delete = env.client.delete_object().bucket(BUCKET).key(*key).send();
        delete.await.expect("the object is deleted");
    }
    let folder = fs::read_dir(env.s3.options().data_dir.join(BUCKET));
    assert_eq!(folder.expect("the folder exists").count(), 0);
}

#[tokio::test]
async fn a_file_of_the_user_is_an_object() {
    let env = Env::start().await;
    let key = "drafts/1/draft_content.json";
    let path = env.s3.options().data_dir.join(BUCKET).join(key);
    fs::create_dir_all(path.parent().expect("it has one")).expect("the folder is created");
    let state = async || {
        let object = env.get(key).send().await.expect("the object exists");
        let head = env
            .client
            .head_object()
            .bucket(BUCKET)
            .key(key)
            .send()
            .await;
        let head = head.expect("the object exists");
        assert_eq!(
            (&object.e_tag, object.last_modified),
            (&head.e_tag, head.last_modified)
        );
        let count = object.metadata().map_or(0, std::collections::HashMap::len);
        (object.e_tag.expect("it has an ETag"), count)
    };
    fs::write(&path, "one").expect("the file is written");
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_759_060_050_700);
    let file = fs::File::options()
        .write(true)
        .open(&path)
        .expect("the file exists");
    file.set_modified(time).expect("the time is set");
    // The second time from the metadata that was stored the first time.
    for _ in 0..2 {
        let object = env.get(key).send().await.expect("the object exists");
        assert_eq!(
            object.last_modified().map(DateTime::secs),
            Some(1_759_060_050)
        );
        assert_eq!(state().await, (ONE.to_owned(), 0));
    }
    let created = env.put(key).if_none_match("*").send().await;
    assert_eq!(error(created), PRECONDITION_FAILED);
    let put = env.put(key).metadata("n", "1").if_match(ONE);
    put.send().await.expect("it is this state");
    assert_eq!(state().await, (ONE.to_owned(), 1));
    // Another file has no metadata of the object before.
    fs::write(&path, "other").expect("the file is written");
    let other = state().await;
    assert!(other.0 != ONE && other.1 == 0, "{other:?}");
    fs::remove_file(&path).expect("the file is removed");
    assert_eq!(error(env.get(key).send().await), "404 NoSuchKey");

    // The folder of the data comes back.
    fs::remove_dir_all(&env.s3.options().data_dir).expect("the folder is removed");
    assert_eq!(error(env.get(key).send().await), "404 NoSuchKey");
    env.put(key).send().await.expect("the object is written");
    // A file that cannot be read is an error, and not a missing object.
    let link = path.with_file_name("link");
    std::os::unix::fs::symlink("link", link).expect("the link is created");
    let unreadable = env.get("drafts/1/link").send().await;
    assert_eq!(error(unreadable), "500 InternalError");
}

#[tokio::test]
async fn requests_are_authenticated_before_the_body_is_read() {
    let env = Env::start().await;
    env.put("a").send().await.expect("the object is written");
    let other = Env::new(
        S3::start_empty().await.expect("it starts"),
        "local",
        "wrong",
    );
    let wrong_secret = other.get("a").send().await;
    assert_eq!(error(wrong_secret), "403 SignatureDoesNotMatch");
    let other = Env::new(
        S3::start_empty().await.expect("it starts"),
        "other",
        "local-secret",
    );
    assert!(error(other.get("a").send().await).starts_with("403"));

    let upload = "PUT /drafts/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n";
    let form = format!(
        "POST /drafts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n{}",
        "Content-Type: multipart/form-data; boundary=x\r\n"
    );
    // No byte of the body is sent, and the response comes.
    let unsigned = env.raw(&format!("{upload}\r\n")).await;
    assert!(unsigned.starts_with("HTTP/1.1 403 "), "{unsigned}");
    let form = env.raw(&format!("{form}\r\n")).await;
    assert!(form.starts_with("HTTP/1.1 501 "), "{form}");
    assert_eq!(env.read("a").await, b"one");
}

#[tokio::test]
async fn requests_of_web_pages_are_refused() {
    let env = Env::start().await;
    let status = async |headers: &str| {
        let request = format!("GET /drafts/a HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        let response = env.raw(&request).await;
        let refused = response.contains("<Message>AccessDenied</Message>");
        (response[9..12].to_owned(), refused)
    };
    let same_site = status("Host: localhost\r\nSec-Fetch-Site: same-site\r\n").await;
    // The authentication refuses these requests too, without this message.
    let passes = ("403".to_owned(), false);
    let refused = ("403".to_owned(), true);
    assert_eq!(same_site, passes);
    for host in ["localhost", "127.0.0.1:9000", "LOCALHOST:1"] {
        assert_eq!(status(&format!("Host: {host}\r\n")).await, passes, "{host}");
        let origin = format!("Host: {host}\r\nOrigin: http://localhost:3000\r\n");
        assert_eq!(status(&origin).await, passes, "{host}");
    }
    for headers in [
        "",
        "Host: attacker.example\r\n",
        "Host: localhost.attacker.example:9000\r\n",
        "Host: localhost\r\nHost: attacker.example\r\n",
        "Host: localhost\r\nOrigin: https://attacker.example\r\n",
        "Host: localhost\r\nOrigin: null\r\n",
        "Host: localhost\r\nOrigin: http://localhost.attacker.example\r\n",
        // A link or an image, which a presigned URL would open.
        "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
    ] {
        assert_eq!(status(headers).await, refused, "{headers:?}");
    }
}

#[tokio::test]
async fn a_browser_does_not_run_an_object() {
    let env = Env::start().await;
    let put = env.put("page").content_type("text/html").send().await;
    put.expect("the object is written");
    let expires = PresigningConfig::expires_in(Duration::from_secs(60));
    let presigned = env
        .get("page")
        .presigned(expires.expect("it is valid"))
        .await;
    let url = presigned
        .expect("the request is presigned")
        .uri()
        .to_owned();
    let (_, path) = url.split_once("/drafts/").expect("the URL has the bucket");
    let get = async |headers: &str| {
        let host = env.s3.options().addr;
        let request = format!(
            "GET /drafts/{path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n"
        );
        env.raw(&request).await
    };
    let page = get("Sec-Fetch-Site: none\r\n").await;
    assert!(
        page.starts_with("HTTP/1.1 200 ") && page.ends_with("one"),
        "{page}"
    );
    assert!(
        page.contains("\r\nx-content-type-options: nosniff\r\n"),
        "{page}"
    );
    assert!(
        page.contains("\r\ncontent-security-policy: sandbox; default-src 'none';"),
        "{page}"
    );
    let foreign = get("Sec-Fetch-Site: cross-site\r\n").await;
    assert!(foreign.starts_with("HTTP/1.1 403 "), "{foreign}");
}

#[tokio::test]
async fn an_allowed_host_is_accepted_in_host_but_not_in_origin() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let s3 = S3::start(S3Options {
        allowed_hosts: vec!["container.example".to_owned()],
        ..S3Options::new(folder.path())
    });
    let env = Env::new(
        s3.await.expect("the server starts"),
        "local",
        "local-secret",
    );
    for (headers, refused) in [
        ("Host: container.example:9000\r\n", false),
        (
            "Host: container.example\r\nOrigin: http://localhost\r\n",
            false,
        ),
        ("Host: other.example\r\n", true),
        (
            "Host: localhost\r\nOrigin: http://container.example\r\n",
            true,
        ),
        (
            "Host: container.example\r\nOrigin: http://container.example\r\n",
            true,
        ),
    ] {
        let request = format!("GET /drafts/a HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        let response = env.raw(&request).await;
        // The authentication refuses the other requests, without this message.
        let is_refused = response.contains("<Message>AccessDenied</Message>");
        assert_eq!(is_refused, refused, "{headers:?}: {response}");
    }
}

#[tokio::test]
async fn a_fault_applies_to_the_chosen_requests() {
    let env = Env::start().await;
    for (fault, response) in [
        (Fault::INTERNAL_ERROR, "500 InternalError"),
        (Fault::SLOW_DOWN, "503 SlowDown"),
        (Fault::ACCESS_DENIED, "403 AccessDenied"),
        (Fault::CONFLICT, "409 ConditionalRequestConflict"),
        (Fault::Error(418, "Teapot"), "418 Teapot"),
        (Fault::Cut, "0"),
        (Fault::Reset, "0"),
    ] {
        let when = When::op(Op::PutObject).key_starts_with("saved/");
        let fault = env.s3.fault(when.after(1).times(2), fault);
        env.put("a").send().await.expect("another prefix");
        env.put("saved/1").send().await.expect("the first");
        env.s3.delete(BUCKET, "saved/1");
        for _ in 0..2 {
            assert_eq!(error(env.put("saved/1").send().await), response);
        }
        assert_eq!((fault.hits(), env.s3.get(BUCKET, "saved/1")), (2, None));
        env.put("saved/1").send().await.expect("after the second");
    }
    let choose = async |seed: u64| {
        let fault = env
            .s3
            .fault(When::op(Op::GetObject).rate(0.25, seed), Fault::SLOW_DOWN);
        let mut chosen = Vec::new();
        for _ in 0..200 {
            chosen.push(env.get("a").send().await.is_err());
        }
        fault.clear();
        chosen
    };
    let first = choose(1).await;
    assert_eq!(first, choose(1).await);
    assert_ne!(first, choose(2).await);
    let hits = first.iter().filter(|chosen| **chosen).count();
    assert!((25..=75).contains(&hits), "{hits} of 200");
}

#[tokio::test]
async fn a_lost_response_is_of_a_request_that_was_served() {
    let env = Env::start().await;
    env.s3.fault(When::any().once(), Fault::LoseResponse);
    assert_eq!(error(env.put("a").send().await), "0");
    let again = env.put("a").if_none_match("*").send().await;
    assert_eq!(error(again), PRECONDITION_FAILED);
    let requests = env.s3.requests();
    let seen = requests.iter().map(|it| (it.op, it.status, it.faulted));
    let expected = [
        (Op::PutObject, None, true),
        (Op::PutObject, Some(412), false),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
    assert_eq!((&*requests[0].bucket, &*requests[0].key), (BUCKET, "a"));
    env.s3.clear_requests();
    assert_eq!(env.s3.count(Op::PutObject), 0);
}

#[tokio::test]
async fn a_raw_response_is_sent_as_it_is() {
    let env = Env::start().await;
    let respond = |response| {
        env.s3.fault(When::any().once(), Fault::Respond(response));
    };
    let latin1 = RawResponse::new(200).header("x-amz-meta-name", b"\xe4\xf6\xfc");
    respond(latin1.body("<html>"));
    let mut stream = env.connect().await.expect("the server listens");
    let request = b"GET /drafts/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("it is sent");
    let mut response = Vec::new();
    let received = stream.read_to_end(&mut response).await;
    received.expect("the response is received");
    let expected = b"HTTP/1.1 200 Status\r\nConnection: close\r\nx-amz-meta-name: \xe4\xf6\xfc\r\nContent-Length: 6\r\n\r\n<html>";
    assert_eq!(response, expected);

    let endless = RawResponse::new(200).header("Content-Length", "3");
    let endless = endless.header("Transfer-Encoding", "chunked");
    respond(endless.then_endless("3\r\nxxx\r\n"));
    stream = env.connect().await.expect("the server listens");
    stream.write_all(request).await.expect("it is sent");
    let mut received = vec![0; 1_000_000];
    let read = stream.read_exact(&mut received).await;
    read.expect("the response does not end");

    env.s3.put(BUCKET, "a", b"one");
    env.s3.fault(
        When::op(Op::CopyObject).once(),
        Fault::error_in_ok("InternalError"),
    );
    let copied = env.copy("a", "b").send().await;
    assert!(!copied.is_ok_and(|it| it.copy_object_result.is_some_and(|it| it.e_tag.is_some())));
    assert_eq!(env.s3.keys(BUCKET, "b").len(), 0);
}

#[tokio::test]
async fn a_body_breaks_where_the_fault_says() {
    let env = Env::start().await;
    let bytes = b"0123456789".repeat(100_000);
    env.s3.put(BUCKET, "a", &bytes);
    let faulty = async |fault| {
        env.s3.fault(When::op(Op::GetObject).once(), fault);
        let get = env.get("a").checksum_mode(ChecksumMode::Enabled);
        get.send().await
    };
    for (fault, most) in [
        (Fault::CutBody(1000), 1000),
        (Fault::ShortBody(1000), 1000),
        (Fault::ShortBody(0), 0),
    ] {
        // A reset may overtake the head.
        let Ok(mut object) = faulty(fault).await else {
            continue;
        };
        assert_eq!(object.content_length(), Some(1_000_000));
        let mut read = Vec::new();
        let failed = loop {
            match object.body.next().await {
                Some(Ok(chunk)) => read.extend_from_slice(&chunk),
                end => break end.is_some(),
            }
        };
        assert!(failed, "a short body was taken for a complete one");
        assert!(read.len() <= most && bytes.starts_with(&read));
    }
    for fault in [Fault::CorruptBody, Fault::WrongChecksum] {
        let object = faulty(fault).await.expect("the head is valid");
        let error = object.body.collect().await.expect_err("it is corrupt");
        assert!(
            format!("{error:?}").contains("ChecksumMismatch"),
            "{error:?}"
        );
    }
    assert_eq!(env.read("a").await, bytes);
}

#[tokio::test]
async fn a_stall_ends_when_it_is_cleared() {
    let env = Arc::new(Env::start().await);
    for (fault, expected) in [
        (Fault::Stall, &b"other"[..]),
        (Fault::StallResponse, b"0123456789"),
        (Fault::StallBody(5), b"0123456789"),
    ] {
        env.s3.put(BUCKET, "a", b"0123456789");
        let stall = env.s3.fault(When::op(Op::GetObject).once(), fault);
        let reader = Arc::clone(&env);
        let reader = tokio::spawn(async move { reader.read("a").await });
        stall.wait_for_hits(1).await;
        if expected == b"other" {
            env.s3.put(BUCKET, "a", b"other");
        }
        tokio::task::yield_now().await;
        assert!(!reader.is_finished(), "it does not wait");
        stall.clear();
        assert_eq!(reader.await.expect("no reader panics"), expected);
    }
    let folder = env.s3.options().data_dir.join(BUCKET);
    let run = Fault::Run(Arc::new(move |request| {
        fs::write(folder.join(&request.key), "before the request").expect("the file is written");
    }));
    env.s3.fault(When::op(Op::GetObject).once(), run);
    assert_eq!(env.read("a").await, b"before the request");
}

#[tokio::test]
async fn a_port_refuses_connections_and_opens_again() {
    let env = Env::start().await;
    env.put("a").send().await.expect("the object is written");
    env.s3.refuse().await;
    assert_eq!(
        env.connect().await.err(),
        Some(ErrorKind::ConnectionRefused)
    );
    assert_eq!(error(env.get("a").send().await), "0");
    env.s3.reopen().await;
    assert_eq!(env.read("a").await, b"one");
    // By a fault. A stall that is never cleared ends too.
    let stall = env.s3.fault(When::op(Op::HeadObject), Fault::Stall);
    let head = env.client.head_object().bucket(BUCKET).key("a").send();
    let head = tokio::spawn(head);
    stall.wait_for_hits(1).await;
    env.s3.fault(When::op(Op::GetObject).once(), Fault::Refuse);
    assert_eq!(error(env.get("a").send().await), "0");
    assert_eq!(error(head.await.expect("no client panics")), "0");
    assert_eq!(
        env.connect().await.err(),
        Some(ErrorKind::ConnectionRefused)
    );
    env.s3.reopen().await;
    assert_eq!(env.read("a").await, b"one");

    let options = S3Options {
        addr: env.s3.options().addr,
        ..S3Options::new(&env.s3.options().data_dir)
    };
    let taken = S3::start(options).await.err().map(|error| error.kind());
    assert_eq!(taken, Some(ErrorKind::AddrInUse));
}
