//! The S3 server with the AWS SDK as client: what the contract suite of the function, `tests/store.rs`, does not use.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::Command;
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
    BucketVersioningStatus, CompletedMultipartUpload, CompletedPart, MetadataDirective,
};
use local::s3::{BUCKET, S3, S3Options};
use test_support::runtime::with_timeout;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The `ETag` of `one`.
const ONE: &str = "\"f97c5d29941bfb1b2fdab0874906ab82\"";

/// A server and a client of it that does not retry.
struct Env {
    s3: S3,
    client: Client,
}

impl Env {
    async fn start() -> Self {
        let s3 = S3::start_empty().await.expect("the server starts");
        Self::new(s3)
    }

    fn new(s3: S3) -> Self {
        let config = Builder::from(&s3.sdk_config())
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
        let stream = TcpStream::connect(self.s3.options().addr).await;
        let mut stream = stream.expect("the server listens");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("the request is sent");
        let mut response = String::new();
        let received = with_timeout(stream.read_to_string(&mut response)).await;
        received.expect("a response is received");
        response
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

#[tokio::test]
async fn objects_with_the_prefix_are_created_once_and_never_replaced() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let options = S3Options {
        create_only: Some("saved/".to_owned()),
        ..S3Options::new(folder.path())
    };
    let env = Env::new(S3::start(options).await.expect("the server starts"));
    let upload = async |key: &str, sizes: &[usize], if_none_match: Option<&str>| {
        let create = env.client.create_multipart_upload().bucket(BUCKET).key(key);
        let created = create.content_type("video/mp4").send().await;
        let id = created.expect("the upload is created").upload_id;
        let mut completed = CompletedMultipartUpload::builder();
        for (number, size) in (1..).zip(sizes) {
            let part = env.client.upload_part().bucket(BUCKET).key(key);
            let part = part.set_upload_id(id.clone()).part_number(number);
            let part = part.body(vec![b'x'; *size].into()).send().await;
            let etag = part.expect("the part is stored").e_tag;
            let listed = CompletedPart::builder().part_number(number);
            completed = completed.parts(listed.set_e_tag(etag).build());
        }
        let complete = env.client.complete_multipart_upload().bucket(BUCKET);
        let complete = complete.key(key).set_upload_id(id);
        let complete = complete.multipart_upload(completed.build());
        let complete = complete.set_if_none_match(if_none_match.map(str::to_owned));
        complete.send().await
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
    let range = "bytes 5242870-5242889/10486760";
    assert_eq!(object.content_range(), Some(range));
    assert_eq!(env.read("media.mp4").await, vec![b'x'; 10_486_760]);

    let small = upload("media.mp4", &[1000, 1000], None).await;
    assert_eq!(error(small), "400 EntityTooSmall");
    let denied = "403 AccessDenied";
    assert_eq!(error(upload("saved/1", &[1], None).await), denied);
    let created = upload("saved/1", &[1], Some("*")).await;
    created.expect("the object does not exist yet");
    let exists = upload("saved/1", &[1], Some("*")).await;
    assert_eq!(error(exists), PRECONDITION_FAILED);
    assert_eq!(error(env.put("saved/2").send().await), denied);
    let replaced = env.put("saved/1").if_match(ONE).send().await;
    assert_eq!(error(replaced), denied);
    let copied = env.copy("media.mp4", "saved/2").send().await;
    assert_eq!(error(copied), denied);
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
    env.s3.enable_versioning(BUCKET);
    assert_eq!(status().await, Some(BucketVersioningStatus::Enabled));

    let put = env.put("a").body(ByteStream::from_static(b"two"));
    let second = put.metadata("n", "2").send().await;
    let second = second.expect("it is written").version_id.expect("an id");
    let delete = || client.delete_object().bucket(BUCKET).key("a");
    let deleted = delete().send().await.expect("the object is deleted");
    assert_eq!(deleted.delete_marker, Some(true));
    let marker = deleted.version_id.expect("the marker has an id");
    assert_eq!(error(env.get("a").send().await), "404 NoSuchKey");
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
        let page = page.prefix("a").send().await.expect("it is listed");
        let versions = page.versions().iter();
        let versions = versions.map(|it| (it.version_id.clone(), it.is_latest));
        let markers = page.delete_markers().iter();
        let markers = markers.map(|it| (it.version_id.clone(), it.is_latest));
        listed.extend(versions.chain(markers));
        if page.is_truncated != Some(true) {
            break;
        }
        (key, id) = (page.next_key_marker, page.next_version_id_marker);
    }
    let ids = [third.clone(), marker.clone(), second.clone(), "null".into()];
    let expected = ids.map(|id| (Some(id.clone()), Some(id == third)));
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
    assert!(left.versions().is_empty() && left.delete_markers().is_empty());
}

/// s3cmd, s3fs, rclone and s5cmd need this.
#[tokio::test]
async fn a_folder_is_one_entry_of_a_listing_of_several_pages() {
    let env = Env::start().await;
    for key in ["a", "b/1", "b/2", "c", "d/1"] {
        env.s3.put(BUCKET, key, key);
    }
    let list = env.client.list_objects_v2().bucket(BUCKET).delimiter("/");
    let mut pages = list.max_keys(1).into_paginator().send();
    let mut names = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.expect("the bucket is listed");
        let keys = page.contents().iter().filter_map(|object| object.key());
        let folders = page.common_prefixes().iter().filter_map(|it| it.prefix());
        names.push(keys.chain(folders).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(names, ["a", "b/", "c", "d/"]);
}

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

    let replaced = env.copy("c+d%2Be", "copy").content_type("text/plain");
    let replaced = replaced
        .metadata("n", "2")
        .metadata_directive(MetadataDirective::Replace);
    replaced.send().await.expect("the object is copied");
    let copy = env.get("copy").send().await.expect("the object exists");
    assert_eq!(copy.content_type(), Some("text/plain"));
    assert_eq!(copy.metadata().expect("it has metadata")["n"], "2");
    assert_eq!(env.read("copy").await, b"c d+e");

    let create = || env.client.create_bucket().bucket("new").send();
    create().await.expect("the bucket is created");
    assert_eq!(error(create().await), "409 BucketAlreadyOwnedByYou");
    let location = env.client.get_bucket_location().bucket("new");
    location.send().await.expect("the bucket exists");
    let buckets = env.client.list_buckets().send().await.expect("a list");
    let names = buckets.buckets().iter().filter_map(|bucket| bucket.name());
    assert_eq!(names.collect::<Vec<_>>(), ["drafts", "new"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_an_object_is_an_error_of_its_listings() {
    let env = Env::start().await;
    env.s3.put(BUCKET, "drafts/1/a", "a");
    env.s3.put(BUCKET, "drafts/2/a", "a");
    let folder = env.s3.options().data_dir.join(BUCKET).join("drafts/1");
    let list = async |prefix: &str| {
        let list = env.client.list_objects_v2().bucket(BUCKET).prefix(prefix);
        list.send().await.map(|page| page.key_count)
    };
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
            "400 InvalidRequest"
        };
        assert_eq!(error(Err::<(), _>(listed)), status);
        assert_eq!(list("drafts/2/").await.expect("it is valid"), Some(1));
        fs::remove_file(&path).expect("it is removed");
    }
}

#[tokio::test]
async fn a_named_pipe_is_no_object_and_the_target_of_a_link_is_kept() {
    let env = Env::start().await;
    env.s3.put(BUCKET, "drafts/1/a", "a");
    let folder = env.s3.options().data_dir.join(BUCKET).join("drafts/1");
    let made = Command::new("mkfifo").arg(folder.join("pipe")).status();
    assert!(made.expect("mkfifo runs").success());
    let (target, key) = (folder.join("../../target"), "drafts/1/link");
    fs::write(&target, "first").expect("it is written");
    std::os::unix::fs::symlink(&target, folder.join("link")).expect("it is created");
    let list = env
        .client
        .list_objects_v2()
        .bucket(BUCKET)
        .prefix("drafts/1/");
    let page = list.send().await.expect("a list");
    let keys: Vec<_> = page.contents().iter().filter_map(|it| it.key()).collect();
    assert_eq!((keys, page.key_count), (vec!["drafts/1/a", key], Some(2)));

    env.s3.enable_versioning(BUCKET);
    env.put(key).send().await.expect("it is written");
    fs::write(&target, "changed").expect("it is written");
    let first = env.get(key).version_id("null").send().await;
    let first = first.expect("it is kept").body.collect().await;
    assert_eq!(first.expect("it is read").into_bytes(), "first");
}

#[tokio::test]
async fn every_key_has_its_own_object() {
    let env = Env::start().await;
    let long = "n".repeat(300);
    let keys = "a|a/b|a//b|/|/a|dir/|dir/file|.|..|../../escape|a/../b|%2e%2e|50%|+ +|.s3/tmp|\
                back\\slash|new\nline|nul\0byte|草稿/内容.json|emoji/😀|quote\"&<>'";
    let mut keys: Vec<_> = keys.split('|').chain([&*long]).collect();
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
    let two = || env.put(key).body(ByteStream::from_static(b"two"));
    let other = two().if_match("\"other\"").send().await;
    assert_eq!(error(other), PRECONDITION_FAILED);
    let unknown = two().if_none_match(ONE).send().await;
    assert_eq!(error(unknown), "501 NotImplemented");
    let put = env.put(key).metadata("n", "1").if_match(ONE);
    put.send().await.expect("it is this state");
    assert_eq!(state().await, (ONE.to_owned(), 1));
    // Another file has no metadata of the object before.
    fs::write(&path, "other").expect("the file is written");
    let other = state().await;
    assert!(other.0 != ONE && other.1 == 0, "{other:?}");
    fs::remove_file(&path).expect("the file is removed");
    let missing = env.put(key).if_match(ONE).send().await;
    assert_eq!(error(missing), "404 NoSuchKey");

    env.put(key).send().await.expect("it is written");
    let other = env.get(key).if_match("\"other\"").send().await;
    assert_eq!(error(other), PRECONDITION_FAILED);
    let get = env.get(key).if_match(ONE).send().await;
    get.expect("it is this state");
    let delete = |etag| {
        env.client
            .delete_object()
            .bucket(BUCKET)
            .key(key)
            .if_match(etag)
    };
    assert_eq!(error(delete("\"other\"").send().await), PRECONDITION_FAILED);
    delete(ONE).send().await.expect("it is this state");
    assert_eq!(error(delete(ONE).send().await), "404 NoSuchKey");

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
async fn a_browser_does_not_run_an_object() {
    let env = Env::start().await;
    let put = env.put("page").content_type("text/html").send().await;
    put.expect("the object is written");
    let expires = PresigningConfig::expires_in(Duration::from_mins(1));
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
