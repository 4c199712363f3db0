//! The operations of S3 over [`Objects`], behind the protocol of `s3s`.
//!
//! The rules are those of the Amazon S3 API Reference, and of "Add preconditions to S3 operations with conditional
//! requests" in the Amazon S3 User Guide.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
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
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, dto, s3_error};
use tempfile::NamedTempFile;

use super::checksum;
use super::objects::{self, Headers, ObjectInfo, Objects, Precondition, Refused, VERSION_ID, hex};

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
    created: SystemTime,
    headers: Headers,
    parts: BTreeMap<i32, Part>,
}

struct Part {
    md5: String,
    size: u64,
    modified: SystemTime,
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

    /// Opens an object, or a version of it, that has the given `ETag`.
    fn find(
        &self,
        (bucket, key): (&str, &str),
        version: Option<&str>,
        etag: Option<ETagCondition>,
    ) -> S3Result<(ObjectInfo, File)> {
        self.require_bucket(bucket)?;
        let (info, file) = if let Some(id) = version {
            let found = io_result(self.objects.find_version(bucket, key, id))?;
            let found = found
                .ok_or_else(|| s3_error!(NoSuchVersion, "The specified version does not exist."))?;
            if found.is_marker {
                let error = s3_error!(MethodNotAllowed, "The version is a delete marker");
                return Err(with_marker(error, &found.id));
            }
            (found.info, found.file)
        } else if let Some(found) = io_result(self.objects.find(bucket, key))? {
            found
        } else {
            let versions = io_result(self.objects.versions_locked(bucket, key))?;
            let marker = versions.first().filter(|newest| newest.is_marker);
            return Err(match marker {
                Some(marker) => with_marker(no_such_key(), &marker.id),
                None => no_such_key(),
            });
        };
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
        let mut file = io_result(self.objects.temporary_file())?;
        let (md5, _) = io_result(objects::copy(content, file.as_file_mut()))?;
        let etag = ETag::Strong(md5.clone());
        let part = Part {
            md5,
            size: io_result(file.as_file().metadata())?.len(),
            modified: SystemTime::now(),
            file,
        };
        self.with_upload(upload, name, |upload| {
            upload.parts.insert(number, part);
            Ok(etag)
        })
    }

    /// Deletes an object or a version.
    fn delete(&self, bucket: &str, key: &str, version: Option<String>) -> S3Result<DeletedObject> {
        let mut deleted = DeletedObject {
            key: Some(key.to_owned()),
            ..DeletedObject::default()
        };
        if let Some(id) = version {
            let is_marker = io_result(self.objects.delete_version(bucket, key, &id))?;
            deleted.delete_marker = is_marker.then_some(true);
            deleted.delete_marker_version_id = is_marker.then(|| id.clone());
            deleted.version_id = Some(id);
        } else if let Some(marker) = io_result(self.objects.delete(bucket, key))? {
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
        let name = (&*input.bucket, &*input.key);
        let (info, _) = self.find(name, input.version_id.as_deref(), input.if_match)?;
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
        let info = self.write(name, &mut file, None, headers, &precondition)?;
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
        let deleted = self.delete(&input.bucket, &input.key, input.version_id)?;
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
            deleted.push(self.delete(&input.bucket, &object.key, object.version_id)?);
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
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        // The token is the last entry of the page before, without characters that XML or a query cannot contain.
        let token = input.continuation_token.as_ref();
        let token = token.map(|token| percent_decode_str(token).decode_utf8_lossy().into_owned());
        let after = token.or_else(|| input.start_after.clone());
        let encoding = Encoding::new(input.encoding_type.as_ref());
        let page = io_result(list_page(
            &self.objects,
            &input.bucket,
            input.prefix.as_deref(),
            input.delimiter.as_deref(),
            after,
            input.max_keys,
            encoding,
        ))?;
        let token = |last: &String| utf8_percent_encode(last, NON_ALPHANUMERIC).to_string();
        Ok(S3Response::new(ListObjectsV2Output {
            next_continuation_token: page.next.as_ref().map(token),
            key_count: i32::try_from(page.contents.len() + page.common_prefixes.len()).ok(),
            is_truncated: Some(page.next.is_some()),
            prefix: Some(encoding.of(&input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(|delimiter| encoding.of(&delimiter)),
            start_after: input.start_after.map(|key| encoding.of(&key)),
            max_keys: Some(max_keys(input.max_keys)),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            contents: Some(page.contents),
            common_prefixes: Some(page.common_prefixes),
            ..ListObjectsV2Output::default()
        }))
    }

    /// s3cmd and s3fs use version 1.
    async fn list_objects(
        &self,
        request: Request<ListObjectsInput>,
    ) -> Response<ListObjectsOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        let encoding = Encoding::new(input.encoding_type.as_ref());
        let page = io_result(list_page(
            &self.objects,
            &input.bucket,
            input.prefix.as_deref(),
            input.delimiter.as_deref(),
            input.marker.clone(),
            input.max_keys,
            encoding,
        ))?;
        Ok(S3Response::new(ListObjectsOutput {
            is_truncated: Some(page.next.is_some()),
            next_marker: page.next.map(|last| encoding.of(&last)),
            marker: Some(encoding.of(&input.marker.unwrap_or_default())),
            prefix: Some(encoding.of(&input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(|delimiter| encoding.of(&delimiter)),
            max_keys: Some(max_keys(input.max_keys)),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            contents: Some(page.contents),
            common_prefixes: Some(page.common_prefixes),
            ..ListObjectsOutput::default()
        }))
    }

    async fn list_object_versions(
        &self,
        request: Request<ListObjectVersionsInput>,
    ) -> Response<ListObjectVersionsOutput> {
        self.require_bucket(&request.input.bucket)?;
        let page = list_versions(&self.objects, request.input);
        Ok(S3Response::new(io_result(page)?))
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

    async fn put_bucket_versioning(
        &self,
        request: Request<PutBucketVersioningInput>,
    ) -> Response<PutBucketVersioningOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        let status = input.versioning_configuration.status;
        if status.is_none_or(|status| status.as_str() != BucketVersioningStatus::ENABLED) {
            return Err(s3_error!(NotImplemented, "Versioning cannot be suspended"));
        }
        io_result(self.objects.enable_versioning(&input.bucket))?;
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
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
            created: SystemTime::now(),
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
        io_result(file.seek(SeekFrom::Start(range.start)))?;
        let mut content = file.take(range.end - range.start);
        let name = (&*input.bucket, &*input.key);
        let etag = self.add_part(&input.upload_id, name, input.part_number, &mut content)?;
        io_result(objects::check_unchanged(&source, &content.into_inner()))?;
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
        let mut whole = io_result(self.objects.temporary_file())?;
        let (etag, headers) = self.with_upload(&input.upload_id, name, |upload| {
            check_parts(&upload.parts, &listed.unwrap_or_default())?;
            let mut md5 = Md5::new();
            for part in upload.parts.values_mut() {
                let digest = u128::from_str_radix(&part.md5, 16).unwrap_or_default();
                md5.update(&digest.to_be_bytes());
                io_result(part.file.rewind())?;
                io_result(io::copy(part.file.as_file_mut(), whole.as_file_mut()))?;
            }
            let etag = format!("{}-{}", hex(&md5.finalize()), upload.parts.len());
            Ok((etag, upload.headers.clone()))
        })?;
        io_result(whole.rewind())?;
        // A refused upload can be completed later, or aborted.
        let info = self.write(name, &mut whole, Some(etag), headers, &precondition)?;
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

    async fn list_parts(&self, request: Request<ListPartsInput>) -> Response<ListPartsOutput> {
        let input = request.input;
        let marker = input.part_number_marker.unwrap_or_default();
        let max = input.max_parts.unwrap_or(MAX_KEYS).clamp(1, MAX_KEYS);
        let name = (&*input.bucket, &*input.key);
        let parts = self.with_upload(&input.upload_id, name, |upload| {
            let parts = upload.parts.iter();
            let parts = parts.filter(|(number, _)| **number > marker);
            let parts = parts.map(|(number, part)| dto::Part {
                part_number: Some(*number),
                e_tag: Some(ETag::Strong(part.md5.clone())),
                size: i64::try_from(part.size).ok(),
                last_modified: Some(whole_seconds(part.modified)),
                ..dto::Part::default()
            });
            Ok(parts.collect::<Vec<_>>())
        })?;
        let (parts, is_truncated) = first(parts, max);
        let last = parts.last().and_then(|part| part.part_number);
        Ok(S3Response::new(ListPartsOutput {
            next_part_number_marker: last.filter(|_| is_truncated),
            is_truncated: Some(is_truncated),
            part_number_marker: input.part_number_marker,
            max_parts: Some(max),
            parts: Some(parts),
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            ..ListPartsOutput::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        request: Request<ListMultipartUploadsInput>,
    ) -> Response<ListMultipartUploadsOutput> {
        let input = request.input;
        self.require_bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let max = input.max_uploads.unwrap_or(MAX_KEYS).clamp(1, MAX_KEYS);
        let marker = (
            input.key_marker.clone().unwrap_or_default(),
            input.upload_id_marker.clone(),
        );
        let name = |upload: &MultipartUpload| {
            (
                upload.key.clone().unwrap_or_default(),
                upload.upload_id.clone(),
            )
        };
        let uploads = self.uploads.lock();
        let uploads = uploads.iter();
        let uploads = uploads
            .filter(|(_, upload)| upload.bucket == input.bucket && upload.key.starts_with(&prefix));
        let uploads = uploads.map(|(id, upload)| MultipartUpload {
            key: Some(upload.key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(whole_seconds(upload.created)),
            ..MultipartUpload::default()
        });
        // Without an id, the marker follows all uploads of its key.
        let mut uploads: Vec<_> = uploads
            .filter(|upload| match &marker {
                (key, None) => name(upload).0 > *key,
                marker => name(upload) > *marker,
            })
            .collect();
        uploads.sort_by_key(name);
        let (uploads, is_truncated) = first(uploads, max);
        let last = uploads.last().filter(|_| is_truncated);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            next_key_marker: last.and_then(|last| last.key.clone()),
            next_upload_id_marker: last.and_then(|last| last.upload_id.clone()),
            is_truncated: Some(is_truncated),
            key_marker: input.key_marker,
            upload_id_marker: input.upload_id_marker,
            max_uploads: Some(max),
            prefix: input.prefix,
            bucket: Some(input.bucket),
            uploads: Some(uploads),
            ..ListMultipartUploadsOutput::default()
        }))
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

/// The maximum number of entries of a page.
fn max_keys(asked: Option<i32>) -> i32 {
    asked.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS)
}

/// Returns at most `max` of the entries, and whether there are more.
fn first<T>(mut entries: Vec<T>, max: i32) -> (Vec<T>, bool) {
    let max = usize::try_from(max).unwrap_or_default();
    let is_truncated = entries.len() > max;
    entries.truncate(max);
    (entries, is_truncated)
}

/// The encoding of keys in a listing.
#[derive(Clone, Copy)]
struct Encoding {
    is_url: bool,
}

impl Encoding {
    fn new(asked: Option<&EncodingType>) -> Self {
        let is_url = asked.is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
        Self { is_url }
    }

    fn of(self, text: &str) -> String {
        let encoded = self
            .is_url
            .then(|| utf8_percent_encode(text, URL).to_string());
        encoded.unwrap_or_else(|| text.to_owned())
    }
}

/// A page of a listing.
struct Page {
    contents: Vec<Object>,
    common_prefixes: Vec<CommonPrefix>,
    /// The last entry, if others follow.
    next: Option<String>,
}

/// Returns the objects and common prefixes that follow `after`, as they were at one moment.
fn list_page(
    objects: &Objects,
    bucket: &str,
    prefix: Option<&str>,
    delimiter: Option<&str>,
    after: Option<String>,
    asked: Option<i32>,
    encoding: Encoding,
) -> io::Result<Page> {
    let prefix = prefix.unwrap_or_default();
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
    let max = usize::try_from(max_keys(asked)).unwrap_or_default();
    let mut page = Page {
        contents: Vec::new(),
        common_prefixes: Vec::new(),
        next: None,
    };
    let after = after.unwrap_or_default();
    let mut last = after.clone();
    let _lock = objects.lock();
    objects.visit_keys(bucket, prefix, &after, &mut |key| {
        let folder = delimiter.and_then(|delimiter| {
            let end = key[prefix.len()..].find(delimiter)?;
            Some(&key[..prefix.len() + end + delimiter.len()])
        });
        let entry = folder.unwrap_or(key);
        if entry <= last.as_str() {
            return Ok(ControlFlow::Continue(()));
        }
        if page.contents.len() + page.common_prefixes.len() == max {
            page.next = Some(last.clone()).filter(|_| max > 0);
            return Ok(ControlFlow::Break(()));
        }
        if let Some(folder) = folder {
            let prefix = Some(encoding.of(folder));
            page.common_prefixes.push(CommonPrefix { prefix });
        } else if let Some((info, _)) = objects.find_locked(bucket, key)? {
            page.contents.push(Object {
                key: Some(encoding.of(key)),
                e_tag: Some(ETag::Strong(info.etag)),
                last_modified: Some(whole_seconds(info.modified)),
                size: i64::try_from(info.size).ok(),
                ..Object::default()
            });
        }
        entry.clone_into(&mut last);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(page)
}

/// Returns the versions and delete markers that follow the markers.
fn list_versions(
    objects: &Objects,
    input: ListObjectVersionsInput,
) -> io::Result<ListObjectVersionsOutput> {
    let encoding = Encoding::new(input.encoding_type.as_ref());
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
    let max = usize::try_from(max_keys(input.max_keys)).unwrap_or_default();
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    let mut common_prefixes: Vec<String> = Vec::new();
    let mut last = None;
    let mut is_truncated = false;
    let _lock = objects.lock();
    'keys: for key in objects.list_versioned(&input.bucket, &prefix)? {
        let folder = delimiter.as_ref().and_then(|delimiter| {
            let end = key[prefix.len()..].find(delimiter)?;
            Some(key[..prefix.len() + end + delimiter.len()].to_owned())
        });
        if let Some(folder) = folder {
            let is_new = common_prefixes.last() != Some(&folder) && folder > key_marker;
            if is_new && versions.len() + markers.len() + common_prefixes.len() == max {
                is_truncated = true;
                break;
            }
            if is_new {
                last = Some((folder.clone(), None));
                common_prefixes.push(folder);
            }
            continue;
        }
        // Without an id, the marker follows all versions of its key.
        let after = match &input.version_id_marker {
            Some(id) if key == key_marker => Some(id),
            _ if key <= key_marker => continue,
            _ => None,
        };
        let mut follows = after.is_none();
        for version in objects.versions_locked(&input.bucket, &key)? {
            if !follows {
                follows = after == Some(&version.id);
                continue;
            }
            if versions.len() + markers.len() + common_prefixes.len() == max {
                is_truncated = true;
                break 'keys;
            }
            last = Some((key.clone(), Some(version.id.clone())));
            let (key, modified) = (encoding.of(&key), whole_seconds(version.info.modified));
            if version.is_marker {
                markers.push(DeleteMarkerEntry {
                    key: Some(key),
                    version_id: Some(version.id),
                    is_latest: Some(version.is_latest),
                    last_modified: Some(modified),
                    ..DeleteMarkerEntry::default()
                });
            } else {
                versions.push(ObjectVersion {
                    key: Some(key),
                    version_id: Some(version.id),
                    is_latest: Some(version.is_latest),
                    last_modified: Some(modified),
                    e_tag: Some(ETag::Strong(version.info.etag)),
                    size: i64::try_from(version.info.size).ok(),
                    ..ObjectVersion::default()
                });
            }
        }
    }
    let (next_key, next_id) = last.filter(|_| is_truncated).unzip();
    let common_prefixes = common_prefixes.iter().map(|prefix| CommonPrefix {
        prefix: Some(encoding.of(prefix)),
    });
    Ok(ListObjectVersionsOutput {
        common_prefixes: Some(common_prefixes.collect()),
        versions: Some(versions),
        delete_markers: Some(markers),
        is_truncated: Some(is_truncated),
        next_key_marker: next_key.map(|key| encoding.of(&key)),
        next_version_id_marker: next_id.flatten(),
        key_marker: input.key_marker.map(|key| encoding.of(&key)),
        version_id_marker: input.version_id_marker,
        prefix: Some(encoding.of(&prefix)),
        delimiter: delimiter.map(|delimiter| encoding.of(&delimiter)),
        max_keys: Some(max_keys(input.max_keys)),
        encoding_type: input.encoding_type,
        name: Some(input.bucket),
        ..ListObjectVersionsOutput::default()
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
        if error.kind() == io::ErrorKind::InvalidFilename {
            // No retry helps.
            log::error!("a file of the bucket cannot be an object: rename it: {error}");
            let code = S3ErrorCode::Custom("InvalidFileName".into());
            let mut error = S3Error::with_message(code, error.to_string());
            error.set_status_code(hyper::StatusCode::BAD_REQUEST);
            return error;
        }
        log::error!("the S3 server cannot read or write its files: {error}");
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

/// Adds the headers that name a delete marker.
fn with_marker(mut error: S3Error, id: &str) -> S3Error {
    let marker = ("x-amz-delete-marker".to_owned(), "true".to_owned());
    let id = (VERSION_ID.to_owned(), id.to_owned());
    error.set_headers(header_map(&[marker, id].into()));
    error
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
