//! The operations of S3 over [`Objects`], behind the protocol of `s3s`.
//!
//! The rules are those of the Amazon S3 API Reference, and of "Add preconditions to S3 operations with conditional
//! requests" in the Amazon S3 User Guide.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Seek as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::{Mutex, MutexGuard};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::crypto::{Checksum as _, Md5};
#[allow(clippy::wildcard_imports, reason = "three types for each operation")]
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tempfile::NamedTempFile;

use super::checksum;
use super::objects::{self, Headers, ObjectInfo, Objects, Precondition, Refused};
use crate::fixtures::hex;

const MAX_KEYS: i32 = 1000;
/// Minimum size of a part that is not the last ("Amazon S3 multipart upload limits").
const MIN_PART_BYTES: u64 = 5 << 20;
/// Headers that are stored with an object, besides `x-amz-meta-…`.
const STORED: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// Characters that are not escaped in a listing with `encoding-type=url`.
const URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

type Response<T> = S3Result<S3Response<T>>;

/// S3 over a folder.
pub struct Service {
    objects: Arc<Objects>,
    /// Objects with this prefix are created with `If-None-Match: *`, and never written otherwise.
    create_only: Option<String>,
    uploads: Mutex<HashMap<String, Upload>>,
    upload_count: AtomicU64,
}

/// A multipart upload. It is lost when the server ends.
struct Upload {
    headers: Headers,
    parts: BTreeMap<i32, Part>,
}

struct Part {
    md5: String,
    size: u64,
    file: NamedTempFile,
}

impl Service {
    pub fn new(objects: Arc<Objects>, create_only: Option<String>) -> Self {
        Self {
            objects,
            create_only,
            uploads: Mutex::default(),
            upload_count: AtomicU64::default(),
        }
    }

    /// Runs a function that blocks. It runs to its end, also if the client disconnects.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Objects) -> io::Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let objects = Arc::clone(&self.objects);
        let result = tokio::task::spawn_blocking(move || work(&objects)).await;
        let result = result.map_err(S3Error::internal_error)?;
        result.map_err(|error| {
            tracing::error!(%error, "the S3 server cannot read or write its files");
            S3Error::internal_error(error)
        })
    }

    async fn require_bucket(&self, bucket: &str) -> S3Result {
        let bucket = bucket.to_owned();
        if self.run(move |objects| objects.has_bucket(&bucket)).await? {
            return Ok(());
        }
        Err(s3_error!(
            NoSuchBucket,
            "The specified bucket does not exist"
        ))
    }

    async fn find(&self, bucket: &str, key: &str) -> S3Result<(ObjectInfo, File)> {
        self.require_bucket(bucket).await?;
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let found = self.run(move |objects| objects.find(&bucket, &key)).await?;
        found.ok_or_else(no_such_key)
    }

    /// Returns the object that a copy reads, if the conditions of the request hold for it.
    async fn find_source(
        &self,
        source: CopySource,
        if_match: Option<ETagCondition>,
        if_none_match: Option<ETagCondition>,
    ) -> S3Result<(ObjectInfo, File)> {
        let CopySource::Bucket {
            bucket,
            key,
            version_id: None,
        } = source
        else {
            return Err(s3_error!(
                NotImplemented,
                "There are no versions and no access points"
            ));
        };
        let (info, file) = self.find(&bucket, &key).await?;
        if !matches(&info, if_match, true) || matches(&info, if_none_match, false) {
            return Err(precondition_failed());
        }
        Ok((info, file))
    }

    /// Returns the condition of a write, if the bucket and its policy allow the write.
    async fn check_write(
        &self,
        bucket: &str,
        key: &str,
        headers: &HeaderMap,
    ) -> S3Result<Precondition> {
        self.require_bucket(bucket).await?;
        let precondition = precondition(headers)?;
        let create_only = self.create_only.as_ref();
        if create_only.is_some_and(|prefix| key.starts_with(prefix))
            && precondition != Precondition::Absent
        {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(precondition)
    }

    async fn write(
        &self,
        (bucket, key): (String, String),
        mut content: impl io::Read + Send + 'static,
        etag: Option<String>,
        headers: Headers,
        precondition: Precondition,
    ) -> S3Result<ObjectInfo> {
        let written = self.run(move |objects| {
            objects.write((&bucket, &key), &mut content, etag, headers, &precondition)
        });
        written.await?.map_err(|refused| match refused {
            Refused::PreconditionFailed => precondition_failed(),
            Refused::NoSuchKey => no_such_key(),
        })
    }

    async fn delete(&self, bucket: &str, key: &str) -> S3Result {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        self.run(move |objects| objects.delete(&bucket, &key)).await
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock()
    }

    /// Stores a part of a multipart upload.
    async fn add_part(&self, upload: &str, number: i32, bytes: Bytes) -> S3Result<ETag> {
        let part = self.run(move |objects| {
            let mut file = objects.temporary_file()?;
            let (md5, _) = objects::copy(&mut &*bytes, file.as_file_mut())?;
            let size = bytes.len() as u64;
            Ok(Part { md5, size, file })
        });
        let part = part.await?;
        let etag = ETag::Strong(part.md5.clone());
        let mut uploads = self.uploads();
        let upload = uploads.get_mut(upload).ok_or_else(no_such_upload)?;
        upload.parts.insert(number, part);
        Ok(etag)
    }
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Response<GetObjectOutput> {
        let input = request.input;
        let (info, file) = self.find(&input.bucket, &input.key).await?;
        check_read(&info, input.if_match, input.if_none_match)?;
        let part = input
            .range
            .map(|range| range.check(info.size))
            .transpose()?;
        let content_range = part.as_ref().map(|part| {
            let last = part.end - 1;
            format!("bytes {}-{last}/{}", part.start, info.size)
        });
        let checksums = input.checksum_mode.is_some() && part.is_none();
        let headers = response_headers(&info, checksums)?;
        let range = part.unwrap_or(0..info.size);
        let bytes = self
            .run(move |_| objects::read(&info, &file, range))
            .await?;
        let output = GetObjectOutput {
            content_length: i64::try_from(bytes.len()).ok(),
            content_range,
            body: Some(Body::from(bytes).into()),
            ..GetObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Response<HeadObjectOutput> {
        let input = request.input;
        let (info, _) = self.find(&input.bucket, &input.key).await?;
        check_read(&info, input.if_match, input.if_none_match)?;
        let headers = response_headers(&info, input.checksum_mode.is_some())?;
        let output = HeadObjectOutput {
            content_length: i64::try_from(info.size).ok(),
            ..HeadObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Response<PutObjectOutput> {
        let S3Request {
            input,
            mut headers,
            trailing_headers,
            ..
        } = request;
        let precondition = self
            .check_write(&input.bucket, &input.key, &headers)
            .await?;
        let bytes = read_body(input.body, &mut headers, trailing_headers).await?;
        let checksums = verify(&headers, &bytes)?;
        let mut stored = stored_headers(&headers);
        stored.extend(checksums);
        let name = (input.bucket, input.key);
        let content = io::Cursor::new(bytes);
        let info = self
            .write(name, content, None, stored, precondition)
            .await?;
        let output = PutObjectOutput {
            e_tag: Some(ETag::Strong(info.etag.clone())),
            ..PutObjectOutput::default()
        };
        let checksums = info.headers.into_iter();
        let checksums = checksums.filter(|(name, _)| name.starts_with(checksum::PREFIX));
        let headers = header_map(&checksums.collect());
        Ok(S3Response::with_headers(output, headers))
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Response<CopyObjectOutput> {
        let S3Request { input, headers, .. } = request;
        let precondition = self
            .check_write(&input.bucket, &input.key, &headers)
            .await?;
        let directive = input.metadata_directive;
        if directive.is_some_and(|directive| directive.as_str() != MetadataDirective::COPY) {
            return Err(s3_error!(NotImplemented, "Metadata can only be copied"));
        }
        let conditions = (input.copy_source_if_match, input.copy_source_if_none_match);
        let source = self.find_source(input.copy_source, conditions.0, conditions.1);
        let (source, file) = source.await?;
        let name = (input.bucket, input.key);
        let info = self.write(name, file, None, source.headers, precondition);
        let info = info.await?;
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(info.etag)),
            last_modified: Some(whole_seconds(info.modified)),
            ..CopyObjectResult::default()
        };
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            ..CopyObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> Response<DeleteObjectOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket).await?;
        self.delete(&input.bucket, &input.key).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> Response<DeleteObjectsOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket).await?;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            self.delete(&input.bucket, &object.key).await?;
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..DeletedObject::default()
            });
        }
        let quiet = input.delete.quiet.unwrap_or_default();
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted).filter(|_| !quiet),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Response<ListObjectsV2Output> {
        let input = request.input;
        self.require_bucket(&input.bucket).await?;
        let page = self.run(move |objects| list_page(objects, input)).await?;
        Ok(S3Response::new(page))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Response<CreateMultipartUploadOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket).await?;
        let number = self.upload_count.fetch_add(1, Ordering::Relaxed);
        let id = format!("upload-{number}");
        let upload = Upload {
            headers: stored_headers(&request.headers),
            parts: BTreeMap::new(),
        };
        self.uploads().insert(id.clone(), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Response<UploadPartOutput> {
        let S3Request {
            input,
            mut headers,
            trailing_headers,
            ..
        } = request;
        let bytes = read_body(input.body, &mut headers, trailing_headers).await?;
        let checksums = header_map(&verify(&headers, &bytes)?);
        let etag = self.add_part(&input.upload_id, input.part_number, bytes);
        let output = UploadPartOutput {
            e_tag: Some(etag.await?),
            ..UploadPartOutput::default()
        };
        Ok(S3Response::with_headers(output, checksums))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> Response<UploadPartCopyOutput> {
        let input = request.input;
        let conditions = (input.copy_source_if_match, input.copy_source_if_none_match);
        let source = self.find_source(input.copy_source, conditions.0, conditions.1);
        let (source, file) = source.await?;
        let range = match input.copy_source_range {
            None => 0..source.size,
            Some(range) => {
                let range = Range::parse(&range).map_err(|_| S3ErrorCode::InvalidArgument)?;
                range.check(source.size)?
            }
        };
        let bytes = self.run(move |_| objects::read(&source, &file, range));
        let bytes = Bytes::from(bytes.await?);
        let etag = self.add_part(&input.upload_id, input.part_number, bytes);
        let result = CopyPartResult {
            e_tag: Some(etag.await?),
            last_modified: Some(whole_seconds(SystemTime::now())),
            ..CopyPartResult::default()
        };
        Ok(S3Response::new(UploadPartCopyOutput {
            copy_part_result: Some(result),
            ..UploadPartCopyOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Response<CompleteMultipartUploadOutput> {
        let S3Request { input, headers, .. } = request;
        let precondition = self
            .check_write(&input.bucket, &input.key, &headers)
            .await?;
        let listed = input.multipart_upload.and_then(|upload| upload.parts);
        let listed = listed.unwrap_or_default();
        let upload = {
            let mut uploads = self.uploads();
            let upload = uploads.get(&input.upload_id).ok_or_else(no_such_upload)?;
            check_parts(&upload.parts, &listed)?;
            uploads
                .remove(&input.upload_id)
                .ok_or_else(no_such_upload)?
        };
        let mut md5 = Md5::new();
        let mut files = Vec::new();
        for (_, part) in upload.parts {
            let digest = u128::from_str_radix(&part.md5, 16).unwrap_or_default();
            md5.update(&digest.to_be_bytes());
            files.push(part.file);
        }
        let etag = format!("{}-{}", hex(&md5.finalize()), files.len());
        let whole = self.run(move |objects| {
            let mut whole = objects.temporary_file()?;
            for mut part in files {
                part.rewind()?;
                io::copy(part.as_file_mut(), whole.as_file_mut())?;
            }
            whole.rewind()?;
            Ok(whole)
        });
        let whole = whole.await?;
        let name = (input.bucket.clone(), input.key.clone());
        let info = self.write(name, whole, Some(etag), upload.headers, precondition);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            e_tag: Some(ETag::Strong(info.await?.etag)),
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Response<AbortMultipartUploadOutput> {
        let removed = self.uploads().remove(&request.input.upload_id);
        removed.ok_or_else(no_such_upload)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    /// `aws s3 cp` asks for the tags of large objects that it copies.
    async fn get_object_tagging(
        &self,
        request: S3Request<GetObjectTaggingInput>,
    ) -> Response<GetObjectTaggingOutput> {
        let input = request.input;
        self.find(&input.bucket, &input.key).await?;
        Ok(S3Response::new(GetObjectTaggingOutput {
            tag_set: Vec::new(),
            version_id: None,
        }))
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Response<ListBucketsOutput> {
        let buckets = self.run(Objects::buckets).await?.into_iter();
        let buckets = buckets.map(|(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(whole_seconds(created)),
            ..Bucket::default()
        });
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            ..ListBucketsOutput::default()
        }))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> Response<CreateBucketOutput> {
        let bucket = request.input.bucket;
        let location = Some(format!("/{bucket}"));
        let created = self.run(move |objects| objects.create_bucket(&bucket));
        if !created.await? {
            return Err(s3_error!(
                BucketAlreadyOwnedByYou,
                "The bucket exists already"
            ));
        }
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Response<HeadBucketOutput> {
        self.require_bucket(&request.input.bucket).await?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> Response<GetBucketLocationOutput> {
        self.require_bucket(&request.input.bucket).await?;
        // An empty constraint is us-east-1.
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint: Some(BucketLocationConstraint::from(String::new())),
        }))
    }
}

/// Returns the objects and common prefixes that follow the continuation token.
fn list_page(objects: &Objects, input: ListObjectsV2Input) -> io::Result<ListObjectsV2Output> {
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let max_keys = input.max_keys.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS);
    let url = input.encoding_type.as_ref();
    let url = url.is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
    let encoded = |text: &str| {
        let encoded = url.then(|| utf8_percent_encode(text, URL).to_string());
        encoded.unwrap_or_else(|| text.to_owned())
    };
    // The token is the last entry of the page before, without characters that XML or a query cannot contain.
    let mut last = match &input.continuation_token {
        Some(token) => percent_decode_str(token).decode_utf8_lossy().into_owned(),
        None => input.start_after.clone().unwrap_or_default(),
    };
    let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
    let mut count = 0;
    let mut is_truncated = false;
    for key in objects.list(&input.bucket, &prefix)? {
        let folder = delimiter.as_ref().and_then(|delimiter| {
            let end = key[prefix.len()..].find(delimiter)?;
            Some(&key[..prefix.len() + end + delimiter.len()])
        });
        let entry = folder.unwrap_or(&key);
        if entry <= last.as_str() {
            continue;
        }
        if count == max_keys {
            is_truncated = count > 0;
            break;
        }
        entry.clone_into(&mut last);
        count += 1;
        if let Some(folder) = folder {
            let prefix = Some(encoded(folder));
            common_prefixes.push(CommonPrefix { prefix });
        } else if let Some((info, _)) = objects.find(&input.bucket, &key)? {
            contents.push(Object {
                key: Some(encoded(&key)),
                e_tag: Some(ETag::Strong(info.etag)),
                last_modified: Some(whole_seconds(info.modified)),
                size: i64::try_from(info.size).ok(),
                ..Object::default()
            });
        }
    }
    let token = || utf8_percent_encode(&last, NON_ALPHANUMERIC).to_string();
    Ok(ListObjectsV2Output {
        next_continuation_token: is_truncated.then(token),
        key_count: Some(count),
        is_truncated: Some(is_truncated),
        prefix: Some(encoded(&prefix)),
        delimiter: delimiter.as_deref().map(encoded),
        start_after: input.start_after.as_deref().map(encoded),
        max_keys: Some(max_keys),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        ..ListObjectsV2Output::default()
    })
}

/// Checks the list of parts with which an upload is completed: all that were uploaded, in order, and none too small.
fn check_parts(uploaded: &BTreeMap<i32, Part>, listed: &[CompletedPart]) -> S3Result {
    let numbers: Vec<_> = listed.iter().filter_map(|part| part.part_number).collect();
    if !numbers.is_sorted() {
        return Err(s3_error!(InvalidPartOrder, "The parts are not in order"));
    }
    let has_etag = |(part, listed): (&Part, &CompletedPart)| {
        listed.e_tag.as_ref().map(ETag::value) == Some(part.md5.as_str())
    };
    if !uploaded.keys().eq(&numbers) || !uploaded.values().zip(listed).all(has_etag) {
        return Err(s3_error!(
            InvalidPart,
            "The list does not match the parts that were uploaded"
        ));
    }
    let mut sizes = uploaded.values().rev().map(|part| part.size).skip(1);
    if sizes.any(|size| size < MIN_PART_BYTES) {
        return Err(s3_error!(EntityTooSmall, "A part is smaller than 5 MB"));
    }
    Ok(())
}

/// Returns whether the condition is about this object, or `default` if there is no condition.
fn matches(info: &ObjectInfo, condition: Option<ETagCondition>, default: bool) -> bool {
    match condition {
        None => default,
        Some(ETagCondition::Any) => true,
        Some(ETagCondition::ETag(etag)) => etag.value() == info.etag,
    }
}

/// Checks the conditions of a read.
fn check_read(
    info: &ObjectInfo,
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> S3Result {
    if !matches(info, if_match, true) {
        return Err(precondition_failed());
    }
    if matches(info, if_none_match, false) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

/// Returns the condition of a write.
fn precondition(headers: &HeaderMap) -> S3Result<Precondition> {
    let condition = |name: &str| {
        let value = headers.get(name).map(HeaderValue::as_bytes);
        let parsed = value.map(ETagCondition::parse_http_header).transpose();
        parsed.map_err(|error| s3_error!(error, InvalidArgument, "{name} is not an ETag"))
    };
    match (condition("if-match")?, condition("if-none-match")?) {
        (None, None) => Ok(Precondition::Always),
        (None, Some(ETagCondition::Any)) => Ok(Precondition::Absent),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Precondition::Matches(etag.into_value())),
        _ => Err(s3_error!(
            NotImplemented,
            "A write takes If-None-Match: * or If-Match with an ETag"
        )),
    }
}

/// Reads the body of a request, and adds its trailer to the headers.
async fn read_body(
    body: Option<StreamingBlob>,
    headers: &mut HeaderMap,
    trailer: Option<s3s::TrailingHeaders>,
) -> S3Result<Bytes> {
    let mut body = body.map(Body::from).unwrap_or_default();
    let bytes = body.store_all_limited(usize::MAX).await.map_err(|error| {
        let signed = headers.get("x-amz-content-sha256");
        let code = match signed {
            Some(value) if value.as_bytes().starts_with(b"STREAMING-") => {
                S3ErrorCode::SignatureDoesNotMatch
            }
            _ => S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into()),
        };
        let status = code.status_code().unwrap_or(hyper::StatusCode::BAD_REQUEST);
        let mut error = S3Error::with_source(code, error);
        error.set_message("The body is not the one that was signed, or is incomplete");
        error.set_status_code(status);
        error
    })?;
    headers.extend(
        trailer
            .and_then(|trailer| trailer.take())
            .unwrap_or_default(),
    );
    Ok(bytes)
}

/// Compares the checksums of a request with its body, and returns them.
fn verify(headers: &HeaderMap, bytes: &[u8]) -> S3Result<Headers> {
    let mut checksums = Headers::new();
    let names = checksum::ALGORITHMS.map(|algorithm| format!("{}{algorithm}", checksum::PREFIX));
    for name in names.into_iter().chain(["content-md5".to_owned()]) {
        let Some(given) = headers.get(&name) else {
            continue;
        };
        let right = checksum::of(&name, bytes);
        if given.as_bytes() != right.as_bytes() {
            return Err(s3_error!(BadDigest, "{name} is not that of the body"));
        }
        if name.starts_with(checksum::PREFIX) {
            checksums.insert(name, right);
        }
    }
    if checksums.len() > 1 {
        return Err(s3_error!(InvalidRequest, "There is more than one checksum"));
    }
    Ok(checksums)
}

/// Returns the headers of a request that are stored with its object.
fn stored_headers(request: &HeaderMap) -> Headers {
    let mut stored = Headers::from([("content-type".to_owned(), "binary/octet-stream".to_owned())]);
    for (name, value) in request {
        let name = name.as_str();
        if STORED.contains(&name) || name.starts_with("x-amz-meta-") {
            let value = String::from_utf8_lossy(value.as_bytes());
            stored.insert(name.to_owned(), value.into_owned());
        }
    }
    // The encoding of the transfer is not stored.
    if let Some(encoding) = stored.remove("content-encoding") {
        let encodings = encoding.split(',').map(str::trim);
        let encodings: Vec<_> = encodings.filter(|name| *name != "aws-chunked").collect();
        if !encodings.is_empty() {
            stored.insert("content-encoding".to_owned(), encodings.join(", "));
        }
    }
    stored
}

/// Returns the headers of a response with an object.
fn response_headers(info: &ObjectInfo, checksums: bool) -> S3Result<HeaderMap> {
    let mut stored = info.headers.clone();
    if !checksums {
        stored.retain(|name, _| !name.starts_with(checksum::PREFIX));
    }
    let mut headers = header_map(&stored);
    let etag = ETag::Strong(info.etag.clone()).to_http_header();
    headers.insert(header::ETAG, etag.map_err(S3Error::internal_error)?);
    let mut time = Vec::new();
    let formatted = whole_seconds(info.modified).format(TimestampFormat::HttpDate, &mut time);
    formatted.map_err(S3Error::internal_error)?;
    let time = HeaderValue::try_from(time).map_err(S3Error::internal_error)?;
    headers.insert(header::LAST_MODIFIED, time);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    Ok(headers)
}

fn header_map(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let parsed = (HeaderName::try_from(name), HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = parsed {
            map.insert(name, value);
        }
    }
    map
}

/// The time without fractions of a second.
fn whole_seconds(time: SystemTime) -> Timestamp {
    let age = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = age.unwrap_or_default().as_secs();
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

fn no_such_upload() -> S3Error {
    s3_error!(NoSuchUpload, "The specified upload does not exist")
}

fn precondition_failed() -> S3Error {
    s3_error!(
        PreconditionFailed,
        "At least one of the preconditions did not hold"
    )
}
