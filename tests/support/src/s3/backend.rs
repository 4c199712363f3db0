//! The operations of S3 over [`Files`], behind the protocol that `s3s` speaks.
//!
//! Rules from the Amazon S3 API Reference, pages `GetObject`, `PutObject`, `CopyObject`, `ListObjectsV2` and "Error
//! responses", and from the user guide, "How to prevent object overwrites with conditional writes".

use std::io;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::auth::{S3Auth, SecretKey};
#[allow(clippy::wildcard_imports, reason = "three types for each operation")]
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::digest;
use super::files::{Files, ObjectMetadata, Precondition, Refused, Stat};
use super::headers::{self, View};

const MAX_KEYS: i32 = 1000;
/// What stays as it is in a listing with `encoding-type=url`.
const URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

type Asked<T> = S3Request<T>;
type Answer<T> = S3Result<S3Response<T>>;

/// S3 over a folder.
pub struct Backend {
    /// The folder.
    pub files: Arc<Files>,
    /// Keys with this prefix are written with `If-None-Match: *` or not at all.
    pub create_only: Option<String>,
}

/// The one user.
pub struct User {
    /// Its name.
    pub access_key: String,
    /// What it signs with.
    pub secret_key: String,
}

#[async_trait::async_trait]
impl S3Auth for User {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if access_key == self.access_key {
            return Ok(SecretKey::from(self.secret_key.as_str()));
        }
        Err(s3_error!(
            InvalidAccessKeyId,
            "There is no such access key."
        ))
    }
}

#[async_trait::async_trait]
impl S3 for Backend {
    async fn get_object(&self, request: Asked<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        let (stat, bytes) = self.read(input.bucket, input.key).await?;
        let mut view = View::of(&stat, input.range, &request.headers)?;
        // A presigned URL may ask for other headers, which have been set already.
        let query = request.uri.query().unwrap_or_default();
        let replaced = |name: &&str| query.contains(&format!("response-{name}="));
        for name in headers::KEPT.into_iter().filter(replaced) {
            view.headers.remove(name);
        }
        let part = Bytes::from(bytes).slice(position(view.range.start)..position(view.range.end));
        let output = GetObjectOutput {
            content_length: view.length(),
            content_range: view.content_range,
            body: Some(Body::from(part).into()),
            ..GetObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, view.headers))
    }

    async fn head_object(&self, request: Asked<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        self.need_bucket(&input.bucket)?;
        let stat = self
            .on_files(move |files| files.stat(&input.bucket, &input.key))
            .await?;
        let stat = stat.ok_or_else(no_such_key)?;
        let view = View::of(&stat, input.range, &request.headers)?;
        let output = HeadObjectOutput {
            content_length: view.length(),
            content_range: view.content_range,
            ..HeadObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, view.headers))
    }

    async fn put_object(&self, request: Asked<PutObjectInput>) -> Answer<PutObjectOutput> {
        let input = request.input;
        let rule = self.may_write(&input.bucket, &input.key, &request.headers)?;
        let mut body = input.body.map(Body::from).unwrap_or_default();
        let bytes = body.store_all_limited(usize::MAX).await;
        let bytes = bytes.map_err(|error| wrong_body(&request.headers, error))?;
        // The checksum of a streamed body comes in its trailer, which is there once the body is.
        let mut headers = request.headers;
        headers.extend(
            request
                .trailing_headers
                .and_then(|trailer| trailer.take())
                .unwrap_or_default(),
        );
        let meta = headers::verify(&headers, &bytes)?;
        let stat = self
            .write(input.bucket, input.key, bytes, meta, rule)
            .await?;
        let e_tag = Some(headers::etag(&stat));
        let output = PutObjectOutput {
            e_tag,
            ..PutObjectOutput::default()
        };
        Ok(S3Response::with_headers(
            output,
            headers::stored(&stat.meta, true),
        ))
    }

    async fn copy_object(&self, request: Asked<CopyObjectInput>) -> Answer<CopyObjectOutput> {
        let input = request.input;
        let rule = self.may_write(&input.bucket, &input.key, &request.headers)?;
        let CopySource::Bucket {
            bucket,
            key,
            version_id: None,
        } = input.copy_source
        else {
            return Err(s3_error!(
                NotImplemented,
                "There are no versions and no access points"
            ));
        };
        let replace = input
            .metadata_directive
            .is_some_and(|it| it.as_str() == "REPLACE");
        if !replace && *bucket == *input.bucket && *key == *input.key {
            return Err(s3_error!(InvalidRequest, "The copy would change nothing"));
        }
        let (source, bytes) = self.read(bucket.into(), key.into()).await?;
        headers::check(&source, &request.headers, "x-amz-copy-source-")?
            .map_err(|_| headers::precondition_failed())?;

        let is_checksum = |name: &String| name.starts_with(headers::CHECKSUM);
        let mut meta = ObjectMetadata::clone(&source.meta);
        if replace {
            meta.headers.retain(|name, _| is_checksum(name));
            meta.headers.extend(headers::kept(&request.headers));
        }
        let algorithm = input
            .checksum_algorithm
            .map(|it| it.as_str().to_ascii_lowercase());
        if let Some(algorithm) = algorithm.filter(|it| digest::ALGORITHMS.contains(&it.as_str())) {
            meta.headers.retain(|name, _| !is_checksum(name));
            let name = format!("{}{algorithm}", headers::CHECKSUM);
            meta.headers
                .insert(name, digest::checksum(&algorithm, &bytes));
        }
        let stat = self
            .write(input.bucket, input.key, bytes.into(), meta, rule)
            .await?;
        let sum = |algorithm: &str| {
            stat.meta
                .headers
                .get(&format!("{}{algorithm}", headers::CHECKSUM))
                .cloned()
        };
        let result = CopyObjectResult {
            checksum_crc32: sum("crc32"),
            checksum_crc32c: sum("crc32c"),
            checksum_crc64nvme: sum("crc64nvme"),
            checksum_sha1: sum("sha1"),
            checksum_sha256: sum("sha256"),
            e_tag: Some(headers::etag(&stat)),
            last_modified: Some(headers::last_modified(&stat)),
            ..CopyObjectResult::default()
        };
        let copy_object_result = Some(result);
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result,
            ..CopyObjectOutput::default()
        }))
    }

    async fn delete_object(&self, request: Asked<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let input = request.input;
        self.need_bucket(&input.bucket)?;
        let rule = headers::rule(&request.headers)?;
        self.delete(input.bucket, input.key, rule).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: Asked<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let input = request.input;
        self.need_bucket(&input.bucket)?;
        let mut output = DeleteObjectsOutput::default();
        for object in input.delete.objects {
            self.delete(
                input.bucket.clone(),
                object.key.clone(),
                Precondition::Always,
            )
            .await?;
            if !input.delete.quiet.unwrap_or_default() {
                let key = Some(object.key);
                let deleted = DeletedObject {
                    key,
                    ..DeletedObject::default()
                };
                output.deleted.get_or_insert_default().push(deleted);
            }
        }
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(
        &self,
        request: Asked<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        self.need_bucket(&input.bucket)?;
        let after = match &input.continuation_token {
            Some(token) => percent_decode_str(token).decode_utf8_lossy().into_owned(),
            None => input.start_after.clone().unwrap_or_default(),
        };
        let max_keys = input.max_keys.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS);
        let listing = Listing {
            bucket: input.bucket.clone(),
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input
                .delimiter
                .clone()
                .filter(|delimiter| !delimiter.is_empty()),
            after,
            max_keys: usize::try_from(max_keys).unwrap_or_default(),
        };
        let (entries, next) = self.on_files(move |files| listing.page(files)).await?;

        let url = input
            .encoding_type
            .as_ref()
            .is_some_and(|it| it.as_str() == EncodingType::URL);
        let name = |text: &str| {
            if url {
                utf8_percent_encode(text, URL).to_string()
            } else {
                text.to_owned()
            }
        };
        let mut output = ListObjectsV2Output {
            key_count: i32::try_from(entries.len()).ok(),
            is_truncated: Some(next.is_some()),
            // It is safe in URLs and in XML.
            next_continuation_token: next
                .map(|next| utf8_percent_encode(&next, NON_ALPHANUMERIC).to_string()),
            prefix: Some(name(input.prefix.as_deref().unwrap_or_default())),
            delimiter: input.delimiter.as_deref().map(name),
            start_after: input.start_after.as_deref().map(name),
            max_keys: Some(max_keys),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            ..ListObjectsV2Output::default()
        };
        for entry in entries {
            let (key, stat) = match entry {
                Entry::Object(key, stat) => (key, stat),
                Entry::Folder(folder) => {
                    let prefix = Some(name(&folder));
                    output
                        .common_prefixes
                        .get_or_insert_default()
                        .push(CommonPrefix { prefix });
                    continue;
                }
            };
            output.contents.get_or_insert_default().push(Object {
                key: Some(name(&key)),
                e_tag: Some(headers::etag(&stat)),
                last_modified: Some(headers::last_modified(&stat)),
                size: i64::try_from(stat.len).ok(),
                ..Object::default()
            });
        }
        Ok(S3Response::new(output))
    }

    async fn list_buckets(&self, _: Asked<ListBucketsInput>) -> Answer<ListBucketsOutput> {
        let buckets = self.on_files(Files::buckets).await?.into_iter();
        let buckets = buckets.map(|(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(headers::whole_second(created)),
            ..Bucket::default()
        });
        let buckets = Some(buckets.collect());
        Ok(S3Response::new(ListBucketsOutput {
            buckets,
            ..ListBucketsOutput::default()
        }))
    }

    async fn create_bucket(&self, request: Asked<CreateBucketInput>) -> Answer<CreateBucketOutput> {
        let bucket = request.input.bucket;
        let location = Some(format!("/{bucket}"));
        if !self
            .on_files(move |files| files.create_bucket(&bucket))
            .await?
        {
            return Err(s3_error!(
                BucketAlreadyOwnedByYou,
                "There is such a bucket already"
            ));
        }
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn head_bucket(&self, request: Asked<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.need_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_bucket(&self, request: Asked<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
        let bucket = request.input.bucket;
        self.need_bucket(&bucket)?;
        if !self
            .on_files(move |files| files.delete_bucket(&bucket))
            .await?
        {
            return Err(s3_error!(BucketNotEmpty, "There are objects in the bucket"));
        }
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: Asked<GetBucketLocationInput>,
    ) -> Answer<GetBucketLocationOutput> {
        self.need_bucket(&request.input.bucket)?;
        // An empty one is us-east-1.
        let location_constraint = Some(BucketLocationConstraint::from(String::new()));
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint,
        }))
    }
}

impl Backend {
    fn need_bucket(&self, bucket: &str) -> S3Result {
        if self.files.has_bucket(bucket) {
            return Ok(());
        }
        Err(s3_error!(
            NoSuchBucket,
            "The specified bucket does not exist"
        ))
    }

    /// The rule under which an object may be written.
    fn may_write(&self, bucket: &str, key: &str, headers: &HeaderMap) -> S3Result<Precondition> {
        self.need_bucket(bucket)?;
        let rule = headers::rule(headers)?;
        let create_only = self
            .create_only
            .as_ref()
            .is_some_and(|prefix| key.starts_with(prefix));
        if create_only && rule != Precondition::Absent {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(rule)
    }

    async fn read(&self, bucket: String, key: String) -> S3Result<(Stat, Vec<u8>)> {
        self.need_bucket(&bucket)?;
        let object = self
            .on_files(move |files| files.read(&bucket, &key))
            .await?;
        object.ok_or_else(no_such_key)
    }

    async fn write(
        &self,
        bucket: String,
        key: String,
        bytes: Bytes,
        meta: ObjectMetadata,
        rule: Precondition,
    ) -> S3Result<Stat> {
        let write = move |files: &Files| files.write(&bucket, &key, &bytes, meta, &rule);
        self.on_files(write).await?.map_err(refused)
    }

    async fn delete(&self, bucket: String, key: String, rule: Precondition) -> S3Result {
        self.on_files(move |files| files.delete(&bucket, &key, &rule))
            .await?
            .map_err(refused)
    }

    /// Does what may block. It goes on when the client does not wait for it any more, as in S3.
    async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let files = Arc::clone(&self.files);
        let done = tokio::task::spawn_blocking(move || work(&files)).await;
        done.map_err(S3Error::internal_error)?
            .map_err(S3Error::internal_error)
    }
}

struct Listing {
    bucket: String,
    prefix: String,
    delimiter: Option<String>,
    after: String,
    max_keys: usize,
}

enum Entry {
    Object(String, Stat),
    Folder(String),
}

impl Listing {
    /// The first entries, and the name of the last of them if there are more.
    fn page(&self, files: &Files) -> io::Result<(Vec<Entry>, Option<String>)> {
        let mut entries = Vec::new();
        let mut last = self.after.clone();
        for key in files.list(&self.bucket, &self.prefix, &self.after)? {
            let folder = self.folder(&key);
            // All that is in one folder is one entry.
            if folder.is_some_and(|folder| folder <= last.as_str()) {
                continue;
            }
            if entries.len() == self.max_keys {
                return Ok((entries, Some(last).filter(|_| self.max_keys > 0)));
            }
            folder.unwrap_or(&key).clone_into(&mut last);
            match folder {
                Some(folder) => entries.push(Entry::Folder(folder.to_owned())),
                // It may have been deleted a moment ago.
                None => entries.extend(
                    files
                        .stat(&self.bucket, &key)?
                        .map(|stat| Entry::Object(key, stat)),
                ),
            }
        }
        Ok((entries, None))
    }

    /// The key up to the delimiter that comes first after the prefix.
    fn folder<'a>(&self, key: &'a str) -> Option<&'a str> {
        let delimiter = self.delimiter.as_ref()?;
        let end = key[self.prefix.len()..].find(delimiter)?;
        Some(&key[..self.prefix.len() + end + delimiter.len()])
    }
}

fn refused(refused: Refused) -> S3Error {
    match refused {
        Refused::Precondition => headers::precondition_failed(),
        Refused::Missing => no_such_key(),
    }
}

fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

/// Why a body was not taken. All of it has arrived, so it is not what its sender has signed, or is badly framed.
fn wrong_body(headers: &HeaderMap, error: s3s::StdError) -> S3Error {
    let signed = headers
        .get("x-amz-content-sha256")
        .map_or(&b""[..], HeaderValue::as_bytes);
    if signed.starts_with(b"STREAMING-") {
        // `s3s` tells the two apart by their texts alone.
        let code = if error.to_string().contains("SignatureMismatch") {
            S3ErrorCode::SignatureDoesNotMatch
        } else {
            S3ErrorCode::IncompleteBody
        };
        return S3Error::with_source(code, error);
    }
    let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
    let mut mismatch = S3Error::with_source(code, error);
    mismatch.set_message("x-amz-content-sha256 is not that of the body");
    mismatch.set_status_code(StatusCode::BAD_REQUEST);
    mismatch
}

fn position(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
