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
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::crypto::{Checksum as _, Md5};
#[allow(clippy::wildcard_imports, reason = "three types for each operation")]
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tempfile::NamedTempFile;

use super::checksum;
use super::objects::{self, Headers, ObjectInfo, Objects, Precondition, Refused, hex};

const MAX_KEYS: i32 = 1000;
/// Minimum size of a part that is not the last ("Amazon S3 multipart upload limits").
const MIN_PART_BYTES: u64 = 5 << 20;
/// Headers that are stored with an object, besides `x-amz-meta-…`.
const STORED: [&str; 4] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-type",
];
/// Characters that are not escaped in a listing with `encoding-type=url`.
const URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'/');

type Request<T> = S3Request<T>;
type Response<T> = S3Result<S3Response<T>>;

/// S3 over a folder. Its operations block on files, as they are short.
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

    fn require_bucket(&self, bucket: &str) -> S3Result {
        if io_result(self.objects.has_bucket(bucket))? {
            return Ok(());
        }
        Err(s3_error!(
            NoSuchBucket,
            "The specified bucket does not exist"
        ))
    }

    /// Opens an object that has the given `ETag`.
    fn find(
        &self,
        bucket: &str,
        key: &str,
        etag: Option<ETagCondition>,
    ) -> S3Result<(ObjectInfo, File)> {
        self.require_bucket(bucket)?;
        let found = io_result(self.objects.find(bucket, key))?;
        let (info, file) = found.ok_or_else(no_such_key)?;
        match etag {
            Some(ETagCondition::ETag(etag)) if etag.value() != info.etag => {
                Err(precondition_failed())
            }
            _ => Ok((info, file)),
        }
    }

    /// Opens the source of a copy.
    fn find_source(
        &self,
        source: &CopySource,
        etag: Option<ETagCondition>,
    ) -> S3Result<(ObjectInfo, File)> {
        match source {
            CopySource::Bucket {
                bucket,
                key,
                version_id: None,
            } => self.find(bucket, key, etag),
            _ => Err(s3_error!(
                NotImplemented,
                "There are no versions and no access points"
            )),
        }
    }

    /// Returns the condition of a write, if the bucket and its policy allow the write.
    fn check_write(&self, bucket: &str, key: &str, headers: &HeaderMap) -> S3Result<Precondition> {
        self.require_bucket(bucket)?;
        let precondition = precondition(headers)?;
        let create_only = self.create_only.as_ref();
        let create_only = create_only.is_some_and(|prefix| key.starts_with(prefix));
        if create_only && precondition != Precondition::Absent {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        }
        Ok(precondition)
    }

    fn write(
        &self,
        name: (&str, &str),
        content: &mut dyn io::Read,
        etag: Option<String>,
        headers: Headers,
        precondition: &Precondition,
    ) -> S3Result<ObjectInfo> {
        let written = self
            .objects
            .write(name, content, etag, headers, precondition);
        io_result(written)?.map_err(|refused| match refused {
            Refused::PreconditionFailed => precondition_failed(),
            Refused::NoSuchKey => no_such_key(),
        })
    }

    /// Stores a part of a multipart upload.
    fn add_part(&self, upload: &str, number: i32, bytes: &[u8]) -> S3Result<ETag> {
        let mut file = io_result(self.objects.temporary_file())?;
        let (md5, _) = io_result(objects::copy(&mut &*bytes, file.as_file_mut()))?;
        let etag = ETag::Strong(md5.clone());
        let size = bytes.len() as u64;
        let mut uploads = self.uploads.lock();
        let upload = uploads.get_mut(upload).ok_or_else(no_such_upload)?;
        upload.parts.insert(number, Part { md5, size, file });
        Ok(etag)
    }
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_object(&self, request: Request<GetObjectInput>) -> Response<GetObjectOutput> {
        let input = request.input;
        let (info, file) = self.find(&input.bucket, &input.key, input.if_match)?;
        let part = input
            .range
            .map(|range| range.check(info.size))
            .transpose()?;
        let content_range = part.as_ref().map(|part| {
            let last = part.end - 1;
            format!("bytes {}-{last}/{}", part.start, info.size)
        });
        let checksums = input.checksum_mode.is_some() && part.is_none();
        let bytes = io_result(objects::read(&info, &file, part.unwrap_or(0..info.size)))?;
        let output = GetObjectOutput {
            content_length: i64::try_from(bytes.len()).ok(),
            content_range,
            body: Some(Body::from(bytes).into()),
            ..GetObjectOutput::default()
        };
        Ok(S3Response::with_headers(
            output,
            response_headers(&info, checksums)?,
        ))
    }

    async fn head_object(&self, request: Request<HeadObjectInput>) -> Response<HeadObjectOutput> {
        let input = request.input;
        let (info, _) = self.find(&input.bucket, &input.key, input.if_match)?;
        let output = HeadObjectOutput {
            content_length: i64::try_from(info.size).ok(),
            ..HeadObjectOutput::default()
        };
        let headers = response_headers(&info, input.checksum_mode.is_some())?;
        Ok(S3Response::with_headers(output, headers))
    }

    async fn put_object(&self, mut request: Request<PutObjectInput>) -> Response<PutObjectOutput> {
        let name = (&*request.input.bucket.clone(), &*request.input.key.clone());
        let precondition = self.check_write(name.0, name.1, &request.headers)?;
        let body = request.input.body.take();
        let (bytes, checksums) = read_body(body, &mut request).await?;
        let mut headers = stored_headers(&request.headers);
        headers.extend(checksums);
        let info = self.write(name, &mut &*bytes, None, headers, &precondition)?;
        let output = PutObjectOutput {
            e_tag: Some(ETag::Strong(info.etag)),
            ..PutObjectOutput::default()
        };
        let mut headers = info.headers;
        headers.retain(|name, _| name.starts_with(checksum::PREFIX));
        Ok(S3Response::with_headers(output, header_map(&headers)))
    }

    async fn copy_object(&self, request: Request<CopyObjectInput>) -> Response<CopyObjectOutput> {
        let input = request.input;
        let precondition = self.check_write(&input.bucket, &input.key, &request.headers)?;
        let directive = input.metadata_directive;
        if directive.is_some_and(|directive| directive.as_str() != MetadataDirective::COPY) {
            return Err(s3_error!(NotImplemented, "Metadata can only be copied"));
        }
        let source = self.find_source(&input.copy_source, input.copy_source_if_match);
        let (source, mut file) = source?;
        let name = (&*input.bucket, &*input.key);
        let info = self.write(name, &mut file, None, source.headers, &precondition)?;
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
        request: Request<DeleteObjectInput>,
    ) -> Response<DeleteObjectOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        io_result(self.objects.delete(&input.bucket, &input.key))?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: Request<DeleteObjectsInput>,
    ) -> Response<DeleteObjectsOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            io_result(self.objects.delete(&input.bucket, &object.key))?;
            let key = Some(object.key);
            deleted.push(DeletedObject {
                key,
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
        request: Request<ListObjectsV2Input>,
    ) -> Response<ListObjectsV2Output> {
        self.require_bucket(&request.input.bucket)?;
        let page = list_page(&self.objects, request.input);
        Ok(S3Response::new(io_result(page)?))
    }

    async fn create_multipart_upload(
        &self,
        request: Request<CreateMultipartUploadInput>,
    ) -> Response<CreateMultipartUploadOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        let id = self
            .upload_count
            .fetch_add(1, Ordering::Relaxed)
            .to_string();
        let upload = Upload {
            headers: stored_headers(&request.headers),
            parts: BTreeMap::new(),
        };
        self.uploads.lock().insert(id.clone(), upload);
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        mut request: Request<UploadPartInput>,
    ) -> Response<UploadPartOutput> {
        let body = request.input.body.take();
        let (bytes, checksums) = read_body(body, &mut request).await?;
        let input = request.input;
        let etag = self.add_part(&input.upload_id, input.part_number, &bytes)?;
        let output = UploadPartOutput {
            e_tag: Some(etag),
            ..UploadPartOutput::default()
        };
        Ok(S3Response::with_headers(output, header_map(&checksums)))
    }

    async fn upload_part_copy(
        &self,
        request: Request<UploadPartCopyInput>,
    ) -> Response<UploadPartCopyOutput> {
        let input = request.input;
        let source = self.find_source(&input.copy_source, input.copy_source_if_match);
        let (source, file) = source?;
        let range = input.copy_source_range.map(|range| Range::parse(&range));
        let range = range
            .transpose()
            .map_err(|_| S3ErrorCode::InvalidArgument)?;
        let range = range.map(|range| range.check(source.size)).transpose()?;
        let bytes = io_result(objects::read(
            &source,
            &file,
            range.unwrap_or(0..source.size),
        ))?;
        let etag = self.add_part(&input.upload_id, input.part_number, &bytes)?;
        let result = CopyPartResult {
            e_tag: Some(etag),
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
        request: Request<CompleteMultipartUploadInput>,
    ) -> Response<CompleteMultipartUploadOutput> {
        let input = request.input;
        let precondition = self.check_write(&input.bucket, &input.key, &request.headers)?;
        let listed = input.multipart_upload.and_then(|upload| upload.parts);
        let upload = {
            let mut uploads = self.uploads.lock();
            let upload = uploads.get(&input.upload_id).ok_or_else(no_such_upload)?;
            check_parts(&upload.parts, &listed.unwrap_or_default())?;
            uploads
                .remove(&input.upload_id)
                .ok_or_else(no_such_upload)?
        };
        let mut md5 = Md5::new();
        let mut whole = io_result(self.objects.temporary_file())?;
        let count = upload.parts.len();
        for (_, mut part) in upload.parts {
            let digest = u128::from_str_radix(&part.md5, 16).unwrap_or_default();
            md5.update(&digest.to_be_bytes());
            io_result(part.file.rewind())?;
            io_result(io::copy(part.file.as_file_mut(), whole.as_file_mut()))?;
        }
        io_result(whole.rewind())?;
        let etag = Some(format!("{}-{count}", hex(&md5.finalize())));
        let name = (&*input.bucket, &*input.key);
        let info = self.write(name, &mut whole, etag, upload.headers, &precondition)?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            e_tag: Some(ETag::Strong(info.etag)),
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: Request<AbortMultipartUploadInput>,
    ) -> Response<AbortMultipartUploadOutput> {
        let removed = self.uploads.lock().remove(&request.input.upload_id);
        removed.ok_or_else(no_such_upload)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    /// `aws s3 cp` asks for the tags of large objects that it copies.
    async fn get_object_tagging(
        &self,
        request: Request<GetObjectTaggingInput>,
    ) -> Response<GetObjectTaggingOutput> {
        self.find(&request.input.bucket, &request.input.key, None)?;
        Ok(S3Response::new(GetObjectTaggingOutput::default()))
    }

    async fn list_buckets(&self, _: Request<ListBucketsInput>) -> Response<ListBucketsOutput> {
        let buckets = io_result(self.objects.buckets())?.into_iter();
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
        request: Request<CreateBucketInput>,
    ) -> Response<CreateBucketOutput> {
        let bucket = request.input.bucket;
        if !io_result(self.objects.create_bucket(&bucket))? {
            return Err(s3_error!(
                BucketAlreadyOwnedByYou,
                "The bucket exists already"
            ));
        }
        let location = Some(format!("/{bucket}"));
        Ok(S3Response::new(CreateBucketOutput { location }))
    }

    async fn head_bucket(&self, request: Request<HeadBucketInput>) -> Response<HeadBucketOutput> {
        self.require_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        request: Request<GetBucketLocationInput>,
    ) -> Response<GetBucketLocationOutput> {
        self.require_bucket(&request.input.bucket)?;
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
        None => String::new(),
    };
    let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
    let mut count = 0;
    let mut is_truncated = false;
    // A page shows the objects as they were at one moment.
    let _lock = objects.lock();
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
        } else if let Some((info, _)) = objects.find_locked(&input.bucket, &key)? {
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

/// Reads the body of a request; returns it with its checksums, which may be in a trailer.
async fn read_body<T>(
    body: Option<StreamingBlob>,
    request: &mut Request<T>,
) -> S3Result<(Bytes, Headers)> {
    let headers = &mut request.headers;
    let mut body = body.map(Body::from).unwrap_or_default();
    let bytes = body.store_all_limited(usize::MAX).await.map_err(|error| {
        let signed = headers.get("x-amz-content-sha256");
        let in_chunks = signed.is_some_and(|it| it.as_bytes().starts_with(b"STREAMING-"));
        if in_chunks {
            return S3Error::with_source(S3ErrorCode::SignatureDoesNotMatch, error);
        }
        let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
        let mut error = S3Error::with_source(code, error);
        error.set_status_code(hyper::StatusCode::BAD_REQUEST);
        error
    })?;
    if let Some(trailer) = request.trailing_headers.take() {
        headers.extend(trailer.take().unwrap_or_default());
    }
    let checksums = verify(headers, &bytes)?;
    Ok((bytes, checksums))
}

/// Compares the checksums of a request with its body, and returns those to store.
fn verify(headers: &HeaderMap, bytes: &[u8]) -> S3Result<Headers> {
    let mut checksums = Headers::new();
    for name in checksum::NAMES {
        let Some(given) = headers.get(name) else {
            continue;
        };
        let right = checksum::of(name, bytes);
        if given.as_bytes() != right.as_bytes() {
            return Err(s3_error!(BadDigest, "{name} is not that of the body"));
        }
        checksums.insert(name.to_owned(), right);
    }
    checksums.remove(checksum::CONTENT_MD5);
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
    stored.retain(|name, value| name != "content-encoding" || value != "aws-chunked");
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

/// Logs an I/O error, and makes it an error of S3.
fn io_result<T>(result: io::Result<T>) -> S3Result<T> {
    result.map_err(|error| {
        tracing::error!(%error, "the S3 server cannot read or write its files");
        S3Error::internal_error(error)
    })
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
