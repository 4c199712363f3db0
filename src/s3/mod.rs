//! S3 operations: reads a document, creates an object that must not exist, lists and copies files.
//!
//! An operation returns `ServiceUnavailable` if S3 could not be reached or the transfer failed in all
//! attempts, and `SaveFailed` for any other error, such as denied access.

pub mod client;
mod copy;
mod list;
mod memory;
mod response;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::sync::Semaphore;

pub use self::copy::{CopyError, CopySource, MAX_REQUESTS, Refusal, copy_source, part_bytes};
pub use self::list::{ListedObject, Page, check_complete};
pub use self::memory::{Memory, Pool};

use self::client::{BACKOFF, LimitResponses, MAX_ATTEMPTS, attempt_timeouts};
use self::copy::MAX_PARTS;
use self::list::MAX_PAGES;
use self::response::{Request, already_exists, check_created, is_missing, status};
use crate::config::Config;
use crate::draft::Sha256Digest;
use crate::error::{BoxError, Error};

/// Maximum number of PUT attempts after `409 ConditionalRequestConflict`.
const MAX_CONFLICT_ATTEMPTS: u32 = 8;

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
    /// Replaced when its credentials have expired.
    client: Arc<RwLock<Client>>,
    config: Arc<Config>,
    /// Limits of the whole process: pages of listings in memory, requests for copies, and parts of
    /// copies.
    pages: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    parts: Arc<Semaphore>,
}

impl Store {
    /// Creates a store for the buckets in `config`. Makes no request.
    pub fn new(sdk_config: &SdkConfig, config: Arc<Config>) -> Self {
        let s3_config = aws_sdk_s3::config::Builder::from(sdk_config)
            // Stores other than S3 have no host name for each bucket.
            .force_path_style(sdk_config.endpoint_url().is_some())
            .interceptor(LimitResponses)
            .build();
        Self {
            client: Arc::new(RwLock::new(Client::from_conf(s3_config))),
            config,
            pages: Arc::new(Semaphore::new(MAX_PAGES)),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            parts: Arc::new(Semaphore::new(MAX_PARTS as usize)),
        }
    }

    fn client(&self) -> Client {
        let client = self.client.read();
        client.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gets the credentials again for the next request.
    fn renew_credentials(&self) {
        let config = self.client().config().to_builder();
        let config = config.identity_cache(IdentityCache::lazy().build());
        let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
        *client = Client::from_conf(config.build());
    }

    fn request<'a>(
        &'a self,
        operation: &'static str,
        bucket: &'a str,
        key: &'a str,
    ) -> Request<'a> {
        Request {
            store: self,
            operation,
            bucket,
            key,
        }
    }

    /// Reads the object `key` of the draft bucket into memory and hashes it.
    ///
    /// # Errors
    ///
    /// Also `DraftNotFound` if the object does not exist, and `ServiceUnavailable` if `memory` cannot be
    /// enlarged to the size of the document.
    pub async fn read(&self, key: &str, memory: &Memory) -> Result<Document, Error> {
        let request = self.request("GetObject", &self.config.draft_bucket, key);
        let mut attempt = 1;
        loop {
            let output = self.get(&request).await.map_err(|error| {
                if is_missing(&error) {
                    Error::draft_not_found(request.sdk_error(error))
                } else {
                    request.save_error(error)
                }
            })?;
            let id = output.request_id().map(str::to_owned);
            let failed = |cause: BoxError| request.error(cause, id.as_deref());
            let head = self.check_head(&output);
            let (size, last_modified) = head.map_err(|cause| Error::save_failed(failed(cause)))?;
            memory.require(size)?;
            // The SDK retries until it has the head of the response, but not while the body is read.
            match read_body(output, size, last_modified).await {
                Ok(document) => return Ok(document),
                Err(cause) if attempt == MAX_ATTEMPTS => {
                    return Err(Error::unavailable(failed(cause)));
                }
                Err(_) => tokio::time::sleep(backoff(attempt)).await,
            }
            attempt += 1;
        }
    }

    async fn get(
        &self,
        request: &Request<'_>,
    ) -> Result<GetObjectOutput, SdkError<GetObjectError, HttpResponse>> {
        let client = self.client();
        let get = client.get_object().bucket(request.bucket);
        get.key(request.key).send().await
    }

    /// Returns the size and the `Last-Modified` of a document from the head of its response.
    fn check_head(&self, output: &GetObjectOutput) -> Result<(u64, OffsetDateTime), BoxError> {
        if let Some(range) = output.content_range() {
            return Err(format!("the response is partial, with Content-Range {range:?}").into());
        }
        let length = output.content_length();
        let length = length.and_then(|length| u64::try_from(length).ok());
        let length = length.ok_or("the response has no valid Content-Length header")?;
        let limit = self.config.max_draft_bytes;
        if length > limit {
            let problem = format!("the object has {length} bytes, more than the limit of {limit}");
            return Err(problem.into());
        }
        let last_modified = output.last_modified().and_then(time_of);
        let last_modified =
            last_modified.ok_or("the response has no valid Last-Modified header")?;
        Ok((length, last_modified))
    }

    /// Creates the object `key` in the saved bucket, or leaves it unchanged if it exists. S3 verifies
    /// the bytes that it stores with their SHA-256.
    ///
    /// # Errors
    ///
    /// Also `ServiceUnavailable` if other writers of the key were in conflict in all attempts.
    pub async fn create(&self, key: &str, object: &NewObject) -> Result<CreateOutcome, Error> {
        let request = self.request("PutObject", &self.config.saved_bucket, key);
        let checksum = BASE64_STANDARD.encode(object.sha256.as_bytes());
        let mut attempt = 1;
        loop {
            let error = match self.put(key, object, &checksum).await {
                Ok(output) => {
                    check_created(&output, &checksum).map_err(|problem| {
                        Error::save_failed(request.error(problem, output.request_id()))
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
                return Err(request.save_error(error));
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
            .client()
            .put_object()
            .bucket(&self.config.saved_bucket)
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
        let request = request.customize().disable_payload_signing();
        let timeouts = attempt_timeouts(object.bytes.len() as u64);
        request.config_override(timeouts).send().await
    }

    /// Returns whether the object `key` of the saved bucket consists of `bytes`, or `None` if it does
    /// not exist. Digits at positions for which `is_ignored` returns true may differ. Holds only pieces of the
    /// object in memory.
    ///
    /// # Errors
    ///
    /// See [`crate::s3`].
    pub async fn is_equal(
        &self,
        key: &str,
        bytes: &[u8],
        is_ignored: impl Fn(usize) -> bool,
    ) -> Result<Option<bool>, Error> {
        let request = self.request("GetObject", &self.config.saved_bucket, key);
        let mut attempt = 1;
        loop {
            let output = match self.get(&request).await {
                Err(error) if is_missing(&error) => return Ok(None),
                result => result.map_err(|error| request.save_error(error))?,
            };
            let length = i64::try_from(bytes.len()).ok();
            if output.content_range().is_some() || output.content_length() != length {
                return Ok(Some(false));
            }
            match has_body(output.body, bytes, &is_ignored).await {
                Ok(is_equal) => return Ok(Some(is_equal)),
                Err(cause) if attempt == MAX_ATTEMPTS => {
                    return Err(Error::unavailable(request.error(cause, None)));
                }
                Err(_) => tokio::time::sleep(backoff(attempt)).await,
            }
            attempt += 1;
        }
    }
}

/// Reads the body of a document of `size` bytes.
async fn read_body(
    output: GetObjectOutput,
    size: u64,
    last_modified: OffsetDateTime,
) -> Result<Document, BoxError> {
    let mut bytes = BytesMut::with_capacity(usize::try_from(size)?);
    let mut hasher = Sha256::new();
    let mut body = output.body;
    while let Some(chunk) = body.next().await {
        // `LimitResponses` ends a body that is longer than announced with an error.
        let chunk = chunk?;
        hasher.update(&chunk);
        bytes.extend_from_slice(&chunk);
    }
    if bytes.len() as u64 != size {
        return Err(format!("the body has {} bytes instead of {size}", bytes.len()).into());
    }
    Ok(Document {
        bytes: bytes.freeze(),
        sha256: Sha256Digest::from_hasher(hasher),
        etag: output.e_tag.unwrap_or_default(),
        last_modified,
    })
}

/// Returns whether `body` consists of `bytes`, but for digits at positions that are ignored.
async fn has_body(
    mut body: ByteStream,
    bytes: &[u8],
    is_ignored: impl Fn(usize) -> bool,
) -> Result<bool, BoxError> {
    let mut position = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        let Some(expected) = bytes.get(position..position + chunk.len()) else {
            return Ok(false);
        };
        for (index, (found, expected)) in chunk.iter().zip(expected).enumerate() {
            let are_digits = found.is_ascii_digit() && expected.is_ascii_digit();
            if found != expected && !(are_digits && is_ignored(position + index)) {
                return Ok(false);
            }
        }
        position += chunk.len();
    }
    if position == bytes.len() {
        Ok(true)
    } else {
        Err("the body is shorter than announced".into())
    }
}

fn time_of(time: &aws_sdk_s3::primitives::DateTime) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(time.secs()).ok()
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
