//! The operations of S3 over [`Objects`], behind the protocol of `s3s`.
//!
//! The rules are those of the Amazon S3 API Reference, and of "Add preconditions to S3 operations with conditional
//! requests" in the Amazon S3 User Guide.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::crypto::{Checksum as _, Md5};
#[allow(clippy::wildcard_imports, reason = "three types for each operation")]
use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use tempfile::NamedTempFile;

use super::checksum;
use super::objects::{self, Error, Headers, ObjectInfo, Objects, Precondition, VERSION_ID};

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
    bucket: String,
    key: String,
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
        if self.objects.has_bucket(bucket)? {
            return Ok(());
        }
        Err(s3_error!(
            NoSuchBucket,
            "The specified bucket does not exist"
        ))
    }

    /// Opens an object, or a version of it, that has the given `ETag`.
    fn find(
        &self,
        (bucket, key): (&str, &str),
        version: Option<&str>,
        etag: Option<ETagCondition>,
    ) -> S3Result<(ObjectInfo, File)> {
        self.require_bucket(bucket)?;
        let (info, file) = if let Some(id) = version {
            let found = self.objects.find_version(bucket, key, id)?;
            let found = found
                .ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))?;
            if found.is_marker {
                return Err(s3_error!(
                    MethodNotAllowed,
                    "The version is a delete marker"
                ));
            }
            (found.info, found.file)
        } else {
            self.objects.find(bucket, key)?.ok_or(Error::NoSuchKey)?
        };
        match etag {
            Some(ETagCondition::ETag(etag)) if etag.value() != info.etag => {
                Err(Error::PreconditionFailed.into())
            }
            _ => Ok((info, file)),
        }
    }

    /// Opens the source of a copy.
    fn find_source(
        &self,
        headers: &HeaderMap,
        etag: Option<ETagCondition>,
    ) -> S3Result<(ObjectInfo, File)> {
        let source = headers.get("x-amz-copy-source");
        let source = source
            .and_then(|source| source.to_str().ok())
            .unwrap_or_default();
        // S3 decodes it like a form, and s3s does not.
        match CopySource::parse(&source.replace('+', "%20")) {
            Ok(CopySource::Bucket {
                bucket,
                key,
                version_id,
            }) => self.find((&bucket, &key), version_id.as_deref(), etag),
            Ok(_) => Err(s3_error!(NotImplemented, "There are no access points")),
            Err(error) => Err(s3_error!(error, InvalidArgument, "Invalid copy source")),
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

    /// Calls `use_upload` with a multipart upload.
    fn with_upload<T>(
        &self,
        id: &str,
        (bucket, key): (&str, &str),
        use_upload: impl FnOnce(&mut Upload) -> S3Result<T>,
    ) -> S3Result<T> {
        let mut uploads = self.uploads.lock();
        let upload = uploads.get_mut(id);
        let upload = upload.filter(|upload| upload.bucket == bucket && upload.key == key);
        use_upload(upload.ok_or_else(no_such_upload)?)
    }

    /// Stores a part of a multipart upload.
    fn add_part(
        &self,
        upload: &str,
        name: (&str, &str),
        number: i32,
        content: &mut dyn io::Read,
    ) -> S3Result<ETag> {
        self.with_upload(upload, name, |_| Ok(()))?;
        let mut file = self.objects.temporary_file()?;
        let (md5, _) = objects::copy(content, file.as_file_mut())?;
        let etag = ETag::Strong(md5.clone());
        let part = Part {
            md5,
            size: file.as_file().metadata().map_err(Error::Io)?.len(),
            file,
        };
        self.with_upload(upload, name, |upload| {
            upload.parts.insert(number, part);
            Ok(etag)
        })
    }

    /// Deletes an object or a version.
    fn delete(
        &self,
        (bucket, key): (&str, &str),
        version: Option<String>,
        precondition: &Precondition,
    ) -> S3Result<DeletedObject> {
        let mut deleted = DeletedObject {
            key: Some(key.to_owned()),
            ..DeletedObject::default()
        };
        if let Some(id) = version {
            let is_marker = self.objects.delete_version(bucket, key, &id)?;
            deleted.delete_marker = is_marker.then_some(true);
            deleted.delete_marker_version_id = is_marker.then(|| id.clone());
            deleted.version_id = Some(id);
        } else if let Some(marker) = self.objects.delete(bucket, key, precondition)? {
            deleted.delete_marker = Some(true);
            deleted.delete_marker_version_id = Some(marker);
        }
        Ok(deleted)
    }
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_object(&self, request: Request<GetObjectInput>) -> Response<GetObjectOutput> {
        let input = request.input;
        let name = (&*input.bucket, &*input.key);
        let (info, file) = self.find(name, input.version_id.as_deref(), input.if_match)?;
        let part = input
            .range
            .map(|range| range.check(info.size))
            .transpose()?;
        let content_range = part.as_ref().map(|part| {
            let last = part.end - 1;
            format!("bytes {}-{last}/{}", part.start, info.size)
        });
        let headers = response_headers(&info, input.checksum_mode.is_some() && part.is_none());
        let bytes = objects::read(&info, &file, part.unwrap_or(0..info.size))?;
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(bytes.len()).ok(),
            content_range,
            body: Some(Body::from(bytes).into()),
            e_tag: Some(ETag::Strong(info.etag)),
            last_modified: Some(whole_seconds(info.modified)),
            ..GetObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    async fn head_object(&self, request: Request<HeadObjectInput>) -> Response<HeadObjectOutput> {
        let input = request.input;
        let name = (&*input.bucket, &*input.key);
        let (info, _) = self.find(name, input.version_id.as_deref(), input.if_match)?;
        let headers = response_headers(&info, input.checksum_mode.is_some());
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: i64::try_from(info.size).ok(),
            e_tag: Some(ETag::Strong(info.etag)),
            last_modified: Some(whole_seconds(info.modified)),
            ..HeadObjectOutput::default()
        };
        Ok(S3Response::with_headers(output, headers))
    }

    async fn put_object(&self, mut request: Request<PutObjectInput>) -> Response<PutObjectOutput> {
        let name = (&*request.input.bucket.clone(), &*request.input.key.clone());
        let precondition = self.check_write(name.0, name.1, &request.headers)?;
        let body = request.input.body.take();
        let (bytes, checksums) = read_body(body, &mut request).await?;
        let mut headers = stored_headers(&request.headers);
        headers.extend(checksums);
        let objects = &self.objects;
        let info = objects.write(name, &mut &*bytes, None, headers, &precondition)?;
        let output = PutObjectOutput {
            e_tag: Some(ETag::Strong(info.etag)),
            ..PutObjectOutput::default()
        };
        let mut headers = info.headers;
        headers.retain(|name, _| name.starts_with(checksum::PREFIX) || name == VERSION_ID);
        Ok(S3Response::with_headers(output, header_map(&headers)))
    }

    async fn copy_object(&self, request: Request<CopyObjectInput>) -> Response<CopyObjectOutput> {
        let input = request.input;
        let precondition = self.check_write(&input.bucket, &input.key, &request.headers)?;
        let source = self.find_source(&request.headers, input.copy_source_if_match);
        let (source, mut file) = source?;
        let replaces = input
            .metadata_directive
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let headers = if replaces {
            stored_headers(&request.headers)
        } else {
            source.headers
        };
        let name = (&*input.bucket, &*input.key);
        let objects = &self.objects;
        let info = objects.write(name, &mut file, None, headers, &precondition)?;
        let result = CopyObjectResult {
            e_tag: Some(ETag::Strong(info.etag)),
            last_modified: Some(whole_seconds(info.modified)),
            ..CopyObjectResult::default()
        };
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(result),
            version_id: info.headers.get(VERSION_ID).cloned(),
            ..CopyObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: Request<DeleteObjectInput>,
    ) -> Response<DeleteObjectOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        let name = (&*input.bucket, &*input.key);
        let deleted = self.delete(name, input.version_id, &precondition(&request.headers)?)?;
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker: deleted.delete_marker,
            version_id: deleted.version_id.or(deleted.delete_marker_version_id),
            ..DeleteObjectOutput::default()
        }))
    }

    async fn delete_objects(
        &self,
        request: Request<DeleteObjectsInput>,
    ) -> Response<DeleteObjectsOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            let name = (&*input.bucket, &*object.key);
            deleted.push(self.delete(name, object.version_id, &Precondition::Always)?);
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: Request<ListObjectsV2Input>,
    ) -> Response<ListObjectsV2Output> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        // The token is the last entry of the page before, without characters that XML or a query cannot contain.
        let token = input.continuation_token.as_deref().map(decode);
        let after = token.or_else(|| input.start_after.clone());
        let after = after.unwrap_or_default();
        let encode = encoder(input.encoding_type.as_ref());
        let mut page = Page::new(input.prefix, input.delimiter, input.max_keys);
        let mut last = after.clone();
        let mut contents = Vec::new();
        let _lock = self.objects.lock();
        // Several keys can have one common prefix.
        let limit = page.delimiter.as_ref().map_or(page.max + 1, |_| usize::MAX);
        let keys = self
            .objects
            .list(&input.bucket, &page.prefix, &after, limit);
        for key in keys? {
            let folder = page.folder(&key);
            let entry = folder.unwrap_or(&key);
            if *entry <= *last {
                continue;
            }
            if !page.takes_one_more() {
                break;
            }
            if let Some(folder) = folder {
                page.common_prefixes.push(encode(folder));
            } else if let Some(info) = self.objects.info_locked(&input.bucket, &key)? {
                contents.push(Object {
                    key: Some(encode(&key)),
                    e_tag: Some(ETag::Strong(info.etag)),
                    last_modified: Some(whole_seconds(info.modified)),
                    size: i64::try_from(info.size).ok(),
                    ..Object::default()
                });
            }
            entry.clone_into(&mut last);
        }
        let next = page
            .is_truncated
            .then(|| utf8_percent_encode(&last, NON_ALPHANUMERIC));
        Ok(S3Response::new(ListObjectsV2Output {
            next_continuation_token: next.map(|token| token.to_string()),
            key_count: i32::try_from(page.count).ok(),
            is_truncated: Some(page.is_truncated),
            prefix: Some(encode(&page.prefix)),
            delimiter: page.delimiter.as_deref().map(encode),
            start_after: input.start_after.as_deref().map(encode),
            max_keys: i32::try_from(page.max).ok(),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            contents: Some(contents),
            common_prefixes: Some(page.common_prefixes()),
            ..ListObjectsV2Output::default()
        }))
    }

    /// s3cmd and s3fs use version 1.
    async fn list_objects(
        &self,
        request: Request<ListObjectsInput>,
    ) -> Response<ListObjectsOutput> {
        let listed = self.list_objects_v2(request.map_input(Into::into)).await?;
        Ok(listed.map_output(|page| {
            let next = page.next_continuation_token;
            // A token is an encoded key.
            let next = next.map(|token| match &page.encoding_type {
                Some(_) => token,
                None => decode(&token),
            });
            ListObjectsOutput {
                is_truncated: page.is_truncated,
                next_marker: next,
                marker: page.start_after.or_else(|| Some(String::new())),
                prefix: page.prefix,
                delimiter: page.delimiter,
                max_keys: page.max_keys,
                encoding_type: page.encoding_type,
                name: page.name,
                contents: page.contents,
                common_prefixes: page.common_prefixes,
                ..ListObjectsOutput::default()
            }
        }))
    }

    async fn list_object_versions(
        &self,
        request: Request<ListObjectVersionsInput>,
    ) -> Response<ListObjectVersionsOutput> {
        self.require_bucket(&request.input.bucket)?;
        let page = list_versions(&self.objects, request.input);
        Ok(S3Response::new(page?))
    }

    async fn get_bucket_versioning(
        &self,
        request: Request<GetBucketVersioningInput>,
    ) -> Response<GetBucketVersioningOutput> {
        let bucket = request.input.bucket;
        self.require_bucket(&bucket)?;
        let enabled = || BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED);
        Ok(S3Response::new(GetBucketVersioningOutput {
            status: self.objects.is_versioned(&bucket).then(enabled),
            ..GetBucketVersioningOutput::default()
        }))
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
            bucket: input.bucket.clone(),
            key: input.key.clone(),
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
        let name = (&*input.bucket, &*input.key);
        let etag = self.add_part(&input.upload_id, name, input.part_number, &mut &*bytes)?;
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
        let source = self.find_source(&request.headers, input.copy_source_if_match);
        let (source, mut file) = source?;
        let range = input.copy_source_range.map(|range| Range::parse(&range));
        let range = range
            .transpose()
            .map_err(|_| S3ErrorCode::InvalidArgument)?;
        let range = range.map(|range| range.check(source.size)).transpose()?;
        let range = range.unwrap_or(0..source.size);
        file.seek(SeekFrom::Start(range.start)).map_err(Error::Io)?;
        let mut content = file.take(range.end - range.start);
        let name = (&*input.bucket, &*input.key);
        let etag = self.add_part(&input.upload_id, name, input.part_number, &mut content)?;
        objects::check_unchanged(&source, &content.into_inner())?;
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
        let name = (&*input.bucket, &*input.key);
        let mut whole = self.objects.temporary_file()?;
        let (etag, headers) = self.with_upload(&input.upload_id, name, |upload| {
            check_parts(&upload.parts, &listed.unwrap_or_default())?;
            let mut md5 = Md5::new();
            for part in upload.parts.values_mut() {
                let digest = u128::from_str_radix(&part.md5, 16).unwrap_or_default();
                md5.update(&digest.to_be_bytes());
                part.file.rewind().map_err(Error::Io)?;
                io::copy(part.file.as_file_mut(), whole.as_file_mut()).map_err(Error::Io)?;
            }
            let etag = format!("{}-{}", hex::encode(md5.finalize()), upload.parts.len());
            Ok((etag, upload.headers.clone()))
        })?;
        whole.rewind().map_err(Error::Io)?;
        // A refused upload can be completed later, or aborted.
        let objects = &self.objects;
        let info = objects.write(name, &mut whole, Some(etag), headers, &precondition)?;
        self.uploads.lock().remove(&input.upload_id);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            e_tag: Some(ETag::Strong(info.etag)),
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            version_id: info.headers.get(VERSION_ID).cloned(),
            bucket: Some(input.bucket),
            key: Some(input.key),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: Request<AbortMultipartUploadInput>,
    ) -> Response<AbortMultipartUploadOutput> {
        let input = request.input;
        self.with_upload(&input.upload_id, (&input.bucket, &input.key), |_| Ok(()))?;
        self.uploads.lock().remove(&input.upload_id);
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    /// `aws s3 cp` asks for the tags of large objects that it copies.
    async fn get_object_tagging(
        &self,
        request: Request<GetObjectTaggingInput>,
    ) -> Response<GetObjectTaggingOutput> {
        let input = request.input;
        let name = (&*input.bucket, &*input.key);
        self.find(name, input.version_id.as_deref(), None)?;
        Ok(S3Response::new(GetObjectTaggingOutput::default()))
    }

    async fn list_buckets(&self, _: Request<ListBucketsInput>) -> Response<ListBucketsOutput> {
        let buckets = self.objects.buckets()?.into_iter();
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
        if !self.objects.create_bucket(&bucket)? {
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

/// Decodes a token of a listing.
fn decode(token: &str) -> String {
    percent_decode_str(token).decode_utf8_lossy().into_owned()
}

/// Returns the encoding of keys in a listing.
fn encoder(asked: Option<&EncodingType>) -> fn(&str) -> String {
    match asked.map(EncodingType::as_str) {
        Some(EncodingType::URL) => |text| utf8_percent_encode(text, URL).to_string(),
        _ => str::to_owned,
    }
}

/// A page of a listing.
struct Page {
    prefix: String,
    delimiter: Option<String>,
    /// Maximum number of entries.
    max: usize,
    /// Number of entries.
    count: usize,
    common_prefixes: Vec<String>,
    /// More entries follow.
    is_truncated: bool,
}

impl Page {
    fn new(prefix: Option<String>, delimiter: Option<String>, max: Option<i32>) -> Self {
        let max = max.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS);
        Self {
            prefix: prefix.unwrap_or_default(),
            delimiter: delimiter.filter(|delimiter| !delimiter.is_empty()),
            max: usize::try_from(max).unwrap_or_default(),
            count: 0,
            common_prefixes: Vec::new(),
            is_truncated: false,
        }
    }

    /// Returns the common prefix of a key that starts with the prefix of the listing.
    fn folder<'a>(&self, key: &'a str) -> Option<&'a str> {
        let delimiter = self.delimiter.as_ref()?;
        let end = key[self.prefix.len()..].find(delimiter)?;
        Some(&key[..self.prefix.len() + end + delimiter.len()])
    }

    /// Counts one more entry, unless the page is full.
    fn takes_one_more(&mut self) -> bool {
        if self.count == self.max {
            self.is_truncated = self.max > 0;
            return false;
        }
        self.count += 1;
        true
    }

    fn common_prefixes(self) -> Vec<CommonPrefix> {
        let prefixes = self.common_prefixes.into_iter().map(Some);
        prefixes.map(|prefix| CommonPrefix { prefix }).collect()
    }
}

/// Returns the versions and delete markers that follow the markers.
fn list_versions(
    objects: &Objects,
    input: ListObjectVersionsInput,
) -> Result<ListObjectVersionsOutput, Error> {
    let encode = encoder(input.encoding_type.as_ref());
    let key_marker = input.key_marker.unwrap_or_default();
    let mut page = Page::new(input.prefix, input.delimiter, input.max_keys);
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    let mut last = (key_marker.clone(), None);
    let _lock = objects.lock();
    'keys: for key in objects.list_versioned(&input.bucket, &page.prefix)? {
        if let Some(folder) = page.folder(&key) {
            if *folder <= *last.0 {
                continue;
            }
            if !page.takes_one_more() {
                break;
            }
            page.common_prefixes.push(encode(folder));
            last = (folder.to_owned(), None);
            continue;
        }
        // Without an id, the marker follows all versions of its key.
        let after = input.version_id_marker.as_ref();
        let after = after.filter(|_| key == key_marker);
        if key <= key_marker && after.is_none() {
            continue;
        }
        let found = objects.versions_locked(&input.bucket, &key)?;
        let seen = after.map_or(0, |id| {
            let seen = found.iter().position(|version| version.id == *id);
            seen.map_or(found.len(), |index| index + 1)
        });
        for (index, version) in found.into_iter().enumerate().skip(seen) {
            if !page.takes_one_more() {
                break 'keys;
            }
            last = (key.clone(), Some(version.id.clone()));
            let key = Some(encode(&key));
            let version_id = Some(version.id);
            let is_latest = Some(index == 0);
            let last_modified = Some(whole_seconds(version.info.modified));
            if version.is_marker {
                markers.push(DeleteMarkerEntry {
                    key,
                    version_id,
                    is_latest,
                    last_modified,
                    ..DeleteMarkerEntry::default()
                });
            } else {
                versions.push(ObjectVersion {
                    key,
                    version_id,
                    is_latest,
                    last_modified,
                    e_tag: Some(ETag::Strong(version.info.etag)),
                    size: i64::try_from(version.info.size).ok(),
                    ..ObjectVersion::default()
                });
            }
        }
    }
    let (next_key, next_id) = Some(last).filter(|_| page.is_truncated).unzip();
    Ok(ListObjectVersionsOutput {
        versions: Some(versions),
        delete_markers: Some(markers),
        is_truncated: Some(page.is_truncated),
        next_key_marker: next_key.as_deref().map(encode),
        next_version_id_marker: next_id.flatten(),
        key_marker: Some(encode(&key_marker)),
        version_id_marker: input.version_id_marker,
        prefix: Some(encode(&page.prefix)),
        delimiter: page.delimiter.as_deref().map(encode),
        max_keys: i32::try_from(page.max).ok(),
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        common_prefixes: Some(page.common_prefixes()),
        ..ListObjectVersionsOutput::default()
    })
}

/// Checks the list of parts with which an upload is completed: all that were uploaded, in order, and none too small.
fn check_parts(uploaded: &BTreeMap<i32, Part>, listed: &[CompletedPart]) -> S3Result {
    let numbers = listed.iter().filter_map(|part| part.part_number.as_ref());
    let has_etag = |(part, listed): (&Part, &CompletedPart)| {
        listed.e_tag.as_ref().map(ETag::value) == Some(part.md5.as_str())
    };
    if !uploaded.keys().eq(numbers) || !uploaded.values().zip(listed).all(has_etag) {
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
    let bytes = body.store_all_limited(usize::MAX).await;
    // The body does not have its signature or its digest.
    let bytes = bytes.map_err(|error| S3Error::with_source(S3ErrorCode::BadDigest, error))?;
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
    let mut stored = Headers::new();
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

/// Returns the stored headers of an object for a response.
fn response_headers(info: &ObjectInfo, checksums: bool) -> HeaderMap {
    let mut headers = info.headers.clone();
    headers.retain(|name, _| checksums || !name.starts_with(checksum::PREFIX));
    let content_type = headers.entry("content-type".to_owned());
    content_type.or_insert_with(|| "binary/octet-stream".to_owned());
    header_map(&headers)
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

impl From<Error> for S3Error {
    fn from(error: Error) -> Self {
        match error {
            Error::PreconditionFailed => s3_error!(
                PreconditionFailed,
                "At least one of the preconditions did not hold"
            ),
            Error::NoSuchKey => s3_error!(NoSuchKey, "The specified key does not exist."),
            // No retry helps.
            Error::Io(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                log::error!("a file of the bucket cannot be an object: rename it: {error}");
                S3Error::with_message(S3ErrorCode::InvalidRequest, error.to_string())
            }
            Error::Io(error) => {
                log::error!("the S3 server cannot read or write its files: {error}");
                S3Error::internal_error(error)
            }
        }
    }
}

/// The time without fractions of a second.
fn whole_seconds(time: SystemTime) -> Timestamp {
    let age = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = age.unwrap_or_default().as_secs();
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn no_such_upload() -> S3Error {
    s3_error!(NoSuchUpload, "The specified upload does not exist")
}
