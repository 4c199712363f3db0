//! S3 operations: reads a document, creates an object that must not exist, lists and copies files.

pub mod client;
mod response;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{EncodingType, Object, TaggingDirective};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::response::{
    InvalidResponse, RequestName, already_exists, check_created, is_missing, is_not_created, status,
};
use crate::config::StorageConfig;
use crate::draft::Sha256Digest;
use crate::error::{BoxError, Error};
use crate::s3::client::{BACKOFF, MAX_ATTEMPTS, SanitizeResponses, attempt_timeouts};

/// Maximum number of PUT attempts after `409 ConditionalRequestConflict`.
const MAX_CONFLICT_ATTEMPTS: u32 = 8;

/// Maximum number of objects in a listing, which limits its memory.
pub const MAX_OBJECTS: usize = 10_000;

const KIB: u64 = 1024;

/// A draft's document, read completely.
#[derive(Debug)]
pub struct Document {
    /// The bytes of the object.
    pub bytes: Bytes,
    /// SHA-256 of the bytes.
    pub sha256: Sha256Digest,
    /// `ETag` of the object, as sent by S3.
    pub etag: String,
    /// `Last-Modified` of the object, to the second.
    pub last_modified: OffsetDateTime,
    /// Released when the document is dropped.
    _memory: OwnedSemaphorePermit,
}

/// An object to be created.
#[derive(Debug)]
pub struct NewObject {
    /// The bytes of the object.
    pub bytes: Bytes,
    /// SHA-256 of the bytes.
    pub sha256: Sha256Digest,
    /// User-defined metadata: names and values.
    pub metadata: Vec<(&'static str, String)>,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The key of the object.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// `ETag`, as sent by S3.
    pub etag: String,
    /// `Last-Modified`; S3 sends whole seconds.
    pub last_modified: OffsetDateTime,
}

/// A listing of all objects with a prefix.
#[derive(Debug)]
pub struct Listing {
    /// The objects, in the order of their keys.
    pub objects: Vec<ListedObject>,
    /// True if the listing was one response. The pages of a longer one are read one after the other,
    /// and may show different moments.
    pub is_one_page: bool,
}

/// The result of a copy.
#[derive(Debug)]
pub enum CopyOutcome {
    /// The copy was created.
    Created,
    /// The source has changed, or the copy exists: the caller has to list both again. Contains the
    /// response, for the log.
    NotCreated(BoxError),
}

/// The result of a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// The object was created.
    Created,
    /// The object existed and was not changed.
    AlreadyExists,
}

impl CreateOutcome {
    /// Returns `created` or `unchanged`, as reported to callers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::AlreadyExists => "unchanged",
        }
    }
}

/// The buckets of drafts and versions.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    draft_bucket: String,
    saved_bucket: String,
    max_draft_bytes: u64,
    /// One permit for each KiB of memory available for documents.
    memory: Arc<Semaphore>,
}

/// The reason why a document was not read.
enum ReadError {
    /// The transfer failed, and another attempt may succeed.
    Retryable(BoxError),
    /// Another attempt would fail too.
    Fatal(BoxError),
}

impl From<InvalidResponse> for ReadError {
    fn from(error: InvalidResponse) -> Self {
        Self::Fatal(error.into())
    }
}

impl Store {
    /// Creates a store for the buckets in `config`. Makes no request.
    pub fn new(sdk_config: &SdkConfig, config: StorageConfig) -> Self {
        let s3_config = aws_sdk_s3::config::Builder::from(sdk_config)
            // Stores other than S3 have no host name for each bucket.
            .force_path_style(sdk_config.endpoint_url().is_some())
            .interceptor(SanitizeResponses)
            .build();
        let memory_kib = usize::try_from(config.memory_bytes / KIB).unwrap_or(usize::MAX);
        Self {
            client: Client::from_conf(s3_config),
            draft_bucket: config.draft_bucket,
            saved_bucket: config.saved_bucket,
            max_draft_bytes: config.max_draft_bytes,
            memory: Arc::new(Semaphore::new(memory_kib.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Reads the object `key` of the draft bucket into memory and hashes it. Waits until the memory
    /// of the function has room for it beside the documents of other saves.
    ///
    /// # Errors
    ///
    /// - `DraftNotFound` if the object does not exist.
    /// - `ServiceUnavailable` if S3 could not be reached, or the transfer failed in all attempts.
    /// - `SaveFailed` for any other error, such as an object over the limit or denied access.
    pub async fn read(&self, key: &str) -> Result<Document, Error> {
        let name = RequestName {
            operation: "GetObject",
            bucket: &self.draft_bucket,
            key,
        };
        let mut attempt = 1;
        loop {
            let output = self.get(&name).await?;
            let request_id = output.request_id().map(str::to_owned);
            let failed = |cause| name.failed(cause, request_id.as_deref());
            // The SDK retries until it has the head of the response, but not while the body is read.
            match self.read_body(output).await {
                Ok(document) => return Ok(document),
                Err(ReadError::Fatal(cause)) => return Err(Error::save_failed(failed(cause))),
                Err(ReadError::Retryable(cause)) if attempt == MAX_ATTEMPTS => {
                    return Err(Error::unavailable(failed(cause)));
                }
                Err(ReadError::Retryable(_)) => tokio::time::sleep(backoff(attempt)).await,
            }
            attempt += 1;
        }
    }

    async fn get(&self, name: &RequestName<'_>) -> Result<GetObjectOutput, Error> {
        let request = self.client.get_object().bucket(name.bucket).key(name.key);
        request.send().await.map_err(|error| {
            if is_missing(&error) {
                Error::draft_not_found(name.failed_with(error))
            } else {
                name.classify(error)
            }
        })
    }

    async fn read_body(&self, output: GetObjectOutput) -> Result<Document, ReadError> {
        if let Some(range) = output.content_range() {
            return Err(InvalidResponse::Partial(range.to_owned()).into());
        }
        let expected = output
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .ok_or(InvalidResponse::MissingHeader("Content-Length"))?;
        if expected > self.max_draft_bytes {
            let (bytes, limit) = (expected, self.max_draft_bytes);
            return Err(InvalidResponse::TooLarge { bytes, limit }.into());
        }
        let last_modified = output
            .last_modified()
            .and_then(|time| OffsetDateTime::from_unix_timestamp(time.secs()).ok())
            .ok_or(InvalidResponse::MissingHeader("Last-Modified"))?;
        let etag = output.e_tag().unwrap_or_default().to_owned();

        let memory = self.acquire_memory(expected).await?;
        let capacity = usize::try_from(expected).map_err(|error| ReadError::Fatal(error.into()))?;
        let mut bytes = BytesMut::with_capacity(capacity);
        let mut hasher = Sha256::new();
        let mut body = output.body;
        while let Some(chunk) = body.next().await {
            // `SanitizeResponses` ends a body that is longer than announced with an error.
            let chunk = chunk.map_err(|error| ReadError::Retryable(error.into()))?;
            hasher.update(&chunk);
            bytes.extend_from_slice(&chunk);
        }
        let received = bytes.len() as u64;
        if received != expected {
            let error = InvalidResponse::WrongLength { received, expected };
            return Err(ReadError::Retryable(error.into()));
        }
        Ok(Document {
            bytes: bytes.freeze(),
            sha256: Sha256Digest::from_hasher(hasher),
            etag,
            last_modified,
            _memory: memory,
        })
    }

    /// Waits until `bytes` fit into the memory beside the documents of other saves. One document
    /// never needs more than all of it: [`StorageConfig`] limits `max_draft_bytes` to `memory_bytes`.
    async fn acquire_memory(&self, bytes: u64) -> Result<OwnedSemaphorePermit, ReadError> {
        let kib =
            u32::try_from(bytes.div_ceil(KIB)).map_err(|error| ReadError::Fatal(error.into()))?;
        let memory = Arc::clone(&self.memory).acquire_many_owned(kib).await;
        memory.map_err(|error| ReadError::Fatal(error.into()))
    }

    /// Creates the object `key` in the saved bucket, or leaves it unchanged if it exists. S3 verifies
    /// the bytes that it stores with their SHA-256.
    ///
    /// # Errors
    ///
    /// - `ServiceUnavailable` if S3 could not be reached, or other writers of the key were in
    ///   conflict in all attempts.
    /// - `SaveFailed` for any other error, such as denied access, or a store that does not support
    ///   conditional writes.
    pub async fn create(&self, key: &str, object: &NewObject) -> Result<CreateOutcome, Error> {
        let name = RequestName {
            operation: "PutObject",
            bucket: &self.saved_bucket,
            key,
        };
        let checksum = BASE64_STANDARD.encode(object.sha256.as_bytes());
        let mut attempt = 1;
        loop {
            let error = match self.put(key, object, &checksum).await {
                Ok(output) => {
                    let created = check_created(&output, &checksum);
                    created.map_err(|error| {
                        Error::save_failed(name.failed(error, output.request_id()))
                    })?;
                    return Ok(CreateOutcome::Created);
                }
                Err(error) => error,
            };
            if already_exists(&error) {
                return Ok(CreateOutcome::AlreadyExists);
            }
            let is_conflict = status(&error) == Some(409);
            if !is_conflict || attempt == MAX_CONFLICT_ATTEMPTS {
                return Err(name.classify(error));
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    async fn put(
        &self,
        key: &str,
        object: &NewObject,
        checksum: &str,
    ) -> Result<PutObjectOutput, SdkError<PutObjectError, HttpResponse>> {
        let mut request = self
            .client
            .put_object()
            .bucket(&self.saved_bucket)
            .key(key)
            // "How to prevent object overwrites with conditional writes" (Amazon S3 User Guide).
            .if_none_match("*")
            // Sent in a header: other stores do not support it in a trailer.
            .checksum_sha256(checksum)
            .content_type("application/json")
            .body(ByteStream::from(object.bytes.clone()));
        for (name, value) in &object.metadata {
            request = request.metadata(*name, value);
        }
        // The body is protected by the checksum, which is signed. Without this the SDK would hash it
        // once more.
        let mut request = request.customize().disable_payload_signing();
        if let Some(timeouts) = attempt_timeouts(object.bytes.len() as u64) {
            request = request
                .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts));
        }
        request.send().await
    }

    /// Lists all objects of the draft bucket whose keys begin with `prefix`.
    ///
    /// # Errors
    ///
    /// - `ServiceUnavailable` if S3 could not be reached.
    /// - `SaveFailed` for any other error, such as more than [`MAX_OBJECTS`] objects.
    pub async fn list_drafts(&self, prefix: &str) -> Result<Listing, Error> {
        self.list(&self.draft_bucket, prefix, None).await
    }

    /// Lists the objects of the saved bucket whose keys begin with `prefix` and are in `keys`.
    ///
    /// # Errors
    ///
    /// See [`Self::list_drafts`].
    pub async fn list_saved(&self, prefix: &str, keys: &HashSet<&str>) -> Result<Listing, Error> {
        self.list(&self.saved_bucket, prefix, Some(keys)).await
    }

    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        keys: Option<&HashSet<&str>>,
    ) -> Result<Listing, Error> {
        let name = RequestName {
            operation: "ListObjectsV2",
            bucket,
            key: prefix,
        };
        let request = self
            .client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            // XML cannot express all characters of a key.
            .encoding_type(EncodingType::Url);
        let mut pages = request.into_paginator().send();
        let mut objects = Vec::new();
        let mut page_count = 0;
        let mut is_truncated = false;
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| name.classify(error))?;
            is_truncated = page.is_truncated() == Some(true);
            let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
            page_count += 1;
            for object in page.contents() {
                let object = ListedObject::new(object, is_encoded).ok_or_else(|| {
                    let error = InvalidResponse::IncompleteListing;
                    Error::save_failed(name.failed(error, page.request_id()))
                })?;
                if keys.is_some_and(|keys| !keys.contains(object.key.as_str())) {
                    continue;
                }
                if objects.len() == MAX_OBJECTS {
                    let error = InvalidResponse::TooManyObjects;
                    return Err(Error::save_failed(name.failed(error, page.request_id())));
                }
                objects.push(object);
            }
        }
        // The paginator ends without an error if a page has no continuation token, or the last one.
        if is_truncated {
            return Err(Error::save_failed(
                name.failed(InvalidResponse::TruncatedListing, None),
            ));
        }
        Ok(Listing {
            objects,
            is_one_page: page_count <= 1,
        })
    }

    /// Copies `source` from the draft bucket to the object `key` of the saved bucket, if the source
    /// still has the listed `ETag` and the object does not exist. The store copies the bytes, the
    /// content type and the metadata, but no tags.
    ///
    /// # Errors
    ///
    /// - `ServiceUnavailable` if S3 could not be reached.
    /// - `SaveFailed` for any other error, such as denied access.
    pub async fn copy(&self, source: &ListedObject, key: &str) -> Result<CopyOutcome, Error> {
        let name = RequestName {
            operation: "CopyObject",
            bucket: &self.saved_bucket,
            key,
        };
        let mut request = self
            .client
            .copy_object()
            .copy_source(copy_source(&self.draft_bucket, &source.key))
            .copy_source_if_match(&source.etag)
            .bucket(&self.saved_bucket)
            .key(key)
            .if_none_match("*")
            // Copying tags would need permissions to read and write tags.
            .tagging_directive(TaggingDirective::Replace)
            .customize();
        if let Some(timeouts) = attempt_timeouts(source.size) {
            request = request
                .config_override(aws_sdk_s3::config::Builder::new().timeout_config(timeouts));
        }
        let Err(error) = request.send().await else {
            return Ok(CopyOutcome::Created);
        };
        if is_not_created(&error) {
            Ok(CopyOutcome::NotCreated(name.failed_with(error).into()))
        } else {
            Err(name.classify(error))
        }
    }
}

impl ListedObject {
    /// Converts an entry of a listing, or returns `None` if a field is missing.
    fn new(object: &Object, is_encoded: bool) -> Option<Self> {
        let key = object.key()?;
        let key = if is_encoded {
            // A space is encoded as `+`.
            let key = key.replace('+', " ");
            percent_decode_str(&key).decode_utf8().ok()?.into_owned()
        } else {
            key.to_owned()
        };
        let last_modified = object.last_modified()?.secs();
        Some(Self {
            key,
            size: object.size()?.try_into().ok()?,
            etag: object.e_tag()?.to_owned(),
            last_modified: OffsetDateTime::from_unix_timestamp(last_modified).ok()?,
        })
    }
}

/// Maximum size of the source of `CopyObject`, in bytes: 5 GiB ("CopyObject", Amazon S3 API
/// Reference).
pub(crate) const MAX_COPY_BYTES: u64 = 5 << 30;

/// Characters that are not encoded in `x-amz-copy-source`: unreserved ones (RFC 3986, section 2.3)
/// and the separator.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'/')
    .remove(b'_')
    .remove(b'~');

fn copy_source(bucket: &str, key: &str) -> String {
    // "CopyObject" (Amazon S3 API Reference) names objects of access points in another form.
    let separator = if bucket.starts_with("arn:") {
        "/object/"
    } else {
        "/"
    };
    format!(
        "{bucket}{separator}{}",
        utf8_percent_encode(key, COPY_SOURCE)
    )
}

/// Returns the delay after the attempt number `attempt`, with jitter so that writers in conflict
/// do not meet again.
pub(crate) fn backoff(attempt: u32) -> Duration {
    BACKOFF.mul_f64(f64::from(attempt) * (0.5 + fastrand::f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_between_attempts_grow_and_have_jitter() {
        for attempt in 1..=MAX_CONFLICT_ATTEMPTS {
            let mean = BACKOFF * attempt;
            let delays: Vec<_> = (0..100).map(|_| backoff(attempt)).collect();
            for &delay in &delays {
                assert!((mean / 2..=mean * 3 / 2).contains(&delay), "{delay:?}");
            }
            let equal = delays.iter().filter(|&&delay| delay == delays[0]).count();
            assert!(equal < 10, "{equal} of 100 delays are equal");
        }
    }
}
