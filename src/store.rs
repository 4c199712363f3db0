//! Drafts and versions in S3: a bounded read, and a create that happens once.
//! The only file that names the S3 SDK.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::SdkConfig;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::endpoint::{
    DefaultResolver, Endpoint, EndpointFuture, Params, ResolveEndpoint,
};
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use thiserror::Error as ThisError;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::draft::Sha256Digest;
use crate::error::{Cause, Error};
use crate::sdk::{ATTEMPTS, BACKOFF};

/// How often a create is tried that another writer is in the way of.
const CONFLICT_ATTEMPTS: u32 = 8;

const KIB: u64 = 1024;

/// A draft's document as it was read: one state, whole.
#[derive(Debug)]
pub struct Document {
    /// The object's bytes.
    pub bytes: Bytes,
    /// Their SHA-256.
    pub sha256: Sha256Digest,
    /// The object's `ETag`, as S3 sent it.
    pub etag: String,
    /// When the object was written, to the second.
    pub last_modified: OffsetDateTime,
    spare: Spare,
    /// Gives the memory back when the document goes.
    _memory: OwnedSemaphorePermit,
}

/// A buffer that is left from an earlier document, for the next: large ones are expensive
/// to get from the system and to give back.
type Spare = Arc<Mutex<Option<BytesMut>>>;

impl Drop for Document {
    fn drop(&mut self) {
        if let Ok(buffer) = mem::take(&mut self.bytes).try_into_mut() {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            // A body that came in one piece brings a buffer too, mostly a small one.
            if spare
                .as_ref()
                .is_none_or(|spare| spare.capacity() < buffer.capacity())
            {
                *spare = Some(buffer);
            }
        }
    }
}

/// What became of a create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The object was not there, and is now.
    Created,
    /// The object was there already, and is as it was.
    AlreadyExists,
}

/// The buckets.
#[derive(Clone, Debug)]
pub struct Store {
    client: Client,
    draft_bucket: String,
    saved_bucket: String,
    max_bytes: u64,
    /// One permit for each KiB that documents may take at a time.
    memory: Arc<Semaphore>,
    memory_kib: u32,
    spare: Spare,
}

/// What S3 sent that it should not have.
#[derive(Debug, ThisError)]
enum Unusable {
    #[error("the document has {bytes} bytes, over the limit of {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the body ended after {read} of {expected} bytes")]
    Short { read: u64, expected: u64 },
    #[error("the response has no {0}")]
    Missing(&'static str),
}

/// An error of the SDK, with what to find the request by.
#[derive(Debug, ThisError)]
#[error("S3 {operation} (request {request_id})")]
struct S3Error {
    operation: &'static str,
    request_id: String,
    source: Cause,
}

impl S3Error {
    fn new<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> Self
    where
        E: StdError + Send + Sync + 'static,
    {
        let response = error.raw_response();
        let id = response.and_then(|response| response.headers().get("x-amz-request-id"));
        Self {
            operation,
            request_id: id.unwrap_or("unknown").to_owned(),
            source: error.into(),
        }
    }
}

/// Signs a request with the hash of its body that is in its headers already, which the SDK
/// would otherwise compute once more.
#[derive(Debug)]
struct SignWithChecksum;

impl Intercept for SignWithChecksum {
    fn name(&self) -> &'static str {
        "SignWithChecksum"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), Cause> {
        if let Some(checksum) = context.request().headers().get("x-amz-checksum-sha256") {
            let hash = hex::encode(BASE64_STANDARD.decode(checksum)?);
            let hash = PayloadSigningOverride::Precomputed(hash);
            config.interceptor_state().store_put(hash);
        }
        Ok(())
    }
}

/// Looks up where a bucket is once. The SDK remembers one answer by bucket and key, which
/// is never that of the request after, and goes through all of S3's rules again.
///
/// Of what the rules look at, only the bucket differs between this client's requests.
#[derive(Debug, Default)]
struct BucketEndpoints {
    rules: DefaultResolver,
    known: Mutex<HashMap<String, Endpoint>>,
}

impl ResolveEndpoint for BucketEndpoints {
    fn resolve_endpoint<'a>(&'a self, params: &'a Params) -> EndpointFuture<'a> {
        let bucket = params.bucket().unwrap_or_default();
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = lock().get(bucket) {
            return EndpointFuture::ready(Ok(endpoint.clone()));
        }
        EndpointFuture::new(async move {
            let endpoint = ResolveEndpoint::resolve_endpoint(&self.rules, params).await?;
            lock().insert(bucket.to_owned(), endpoint.clone());
            Ok(endpoint)
        })
    }
}

impl Store {
    /// The buckets that `config` names, as `sdk` reaches them.
    ///
    /// Makes no request, and never fails: what is wrong shows with the first save.
    #[must_use]
    pub fn new(sdk: &SdkConfig, config: &Config) -> Self {
        let s3 = aws_sdk_s3::config::Builder::from(sdk)
            // Stores other than S3 have no host name for each bucket.
            .force_path_style(sdk.endpoint_url().is_some())
            .interceptor(SignWithChecksum)
            .endpoint_resolver(BucketEndpoints::default())
            .build();
        let memory_kib = u32::try_from(config.memory_bytes / KIB).unwrap_or(u32::MAX);
        Self {
            client: Client::from_conf(s3),
            draft_bucket: config.draft_bucket.clone(),
            saved_bucket: config.saved_bucket.clone(),
            max_bytes: config.max_draft_bytes,
            memory: Arc::new(Semaphore::new(memory_kib as usize)),
            memory_kib,
            spare: Spare::default(),
        }
    }

    /// Reads the object `key` of the draft bucket: at most the configured number of
    /// bytes, once into memory, hashed on the way.
    ///
    /// # Errors
    ///
    /// `DraftNotFound` if there is no such object; `ServiceUnavailable` if S3 could not
    /// be reached, or not to the end of the body; `SaveFailed` otherwise.
    pub async fn read(&self, key: &str) -> Result<Document, Error> {
        let mut attempt = 1;
        loop {
            let output = self.get(key).await?;
            // The SDK tries again up to the response's head; from there on, we do.
            match self.receive(output).await {
                Err(Broken::Again(cause)) if attempt == ATTEMPTS => {
                    return Err(Error::unavailable(cause));
                }
                Err(Broken::Again(_)) => tokio::time::sleep(BACKOFF * attempt).await,
                Err(Broken::Final(error)) => return Err(error),
                Ok(document) => return Ok(document),
            }
            attempt += 1;
        }
    }

    async fn get(&self, key: &str) -> Result<GetObjectOutput, Error> {
        let request = self.client.get_object().bucket(&self.draft_bucket).key(key);
        request.send().await.map_err(|error| {
            let missing = error.code() == Some("NoSuchKey");
            let outlook = outlook(&error);
            let cause = S3Error::new("GetObject", error);
            match outlook {
                _ if missing => Error::draft_not_found(cause),
                Outlook::Transient => Error::unavailable(cause),
                Outlook::Permanent => Error::save_failed(cause),
            }
        })
    }

    async fn receive(&self, output: GetObjectOutput) -> Result<Document, Broken> {
        let missing = |what| Broken::Final(Error::save_failed(Unusable::Missing(what)));
        let length = output.content_length().and_then(|n| u64::try_from(n).ok());
        let expected = length.ok_or_else(|| missing("Content-Length"))?;
        if expected > self.max_bytes {
            return Err(self.too_large(expected));
        }
        let last_modified = output.last_modified();
        let last_modified = last_modified
            .and_then(|time| OffsetDateTime::from_unix_timestamp(time.secs()).ok())
            .ok_or_else(|| missing("Last-Modified"))?;
        let etag = output.e_tag().unwrap_or_default().to_owned();

        let memory = self.reserve(expected).await?;
        let capacity = usize::try_from(expected).map_err(|_| self.too_large(expected))?;
        let (mut whole, mut buffer) = (Bytes::new(), None::<BytesMut>);
        let mut hasher = Sha256::new();
        let mut read = 0;
        let mut body = output.body;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| Broken::Again(error.into()))?;
            hasher.update(&chunk);
            read += chunk.len() as u64;
            if chunk.len() == capacity {
                // All in one piece: it can stay where it is.
                whole = chunk;
            } else {
                let buffer = buffer.get_or_insert_with(|| self.buffer(capacity));
                buffer.extend_from_slice(&chunk);
            }
        }
        if read != expected {
            return Err(Broken::Again(Unusable::Short { read, expected }.into()));
        }
        Ok(Document {
            // Whatever else came beside a whole one was empty, for the length is right.
            bytes: if whole.is_empty() {
                buffer.unwrap_or_default().freeze()
            } else {
                whole
            },
            sha256: Sha256Digest::from_hasher(hasher),
            etag,
            last_modified,
            spare: Arc::clone(&self.spare),
            _memory: memory,
        })
    }

    /// An empty buffer for `capacity` bytes: the spare one, if it is large enough.
    fn buffer(&self, capacity: usize) -> BytesMut {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // One that is too small goes before the larger one comes, not after.
        let spare = spare.filter(|buffer| buffer.capacity() >= capacity);
        let mut buffer = spare.unwrap_or_else(|| BytesMut::with_capacity(capacity));
        buffer.clear();
        buffer
    }

    fn too_large(&self, bytes: u64) -> Broken {
        let limit = self.max_bytes;
        Broken::Final(Error::save_failed(Unusable::TooLarge { bytes, limit }))
    }

    /// Waits until a document of `bytes` fits into the function's memory beside those
    /// that are being saved now. One that never fits is let in when it is alone.
    async fn reserve(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Broken> {
        let kib = u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX);
        let permits = kib.min(self.memory_kib);
        let memory = Arc::clone(&self.memory).acquire_many_owned(permits).await;
        memory.map_err(|closed| Broken::Final(Error::save_failed(closed)))
    }

    /// Creates the object `key` in the saved bucket, or leaves it as it is if it is there.
    ///
    /// S3 verifies what it stores against the document's SHA-256.
    ///
    /// # Errors
    ///
    /// `ServiceUnavailable` if S3 could not be reached or was busy with another writer
    /// of the same key to the end; `SaveFailed` otherwise.
    pub async fn create(
        &self,
        key: &str,
        document: &Document,
        metadata: &[(&str, String)],
    ) -> Result<Creation, Error> {
        let checksum = BASE64_STANDARD.encode(document.sha256.as_bytes());
        let mut attempt = 1;
        loop {
            let mut request = self
                .client
                .put_object()
                .bucket(&self.saved_bucket)
                .key(key)
                // "How to prevent object overwrites with conditional writes" (Amazon S3
                // User Guide): 412 if the key exists, 409 while another writer creates it.
                .if_none_match("*")
                // Sent in a header: other stores do not take it in a trailer.
                .checksum_sha256(&checksum)
                .content_type("application/json")
                .body(ByteStream::from(document.bytes.clone()));
            for (name, value) in metadata {
                request = request.metadata(*name, value);
            }
            let Err(error) = request.send().await else {
                return Ok(Creation::Created);
            };
            let status = error
                .raw_response()
                .map(|response| response.status().as_u16());
            let conflict = status == Some(409);
            if status == Some(412) {
                return Ok(Creation::AlreadyExists);
            } else if conflict && attempt < CONFLICT_ATTEMPTS {
                tokio::time::sleep(BACKOFF * attempt).await;
                attempt += 1;
            } else {
                let outlook = outlook(&error);
                let cause = S3Error::new("PutObject", error);
                return Err(match outlook {
                    Outlook::Permanent if !conflict => Error::save_failed(cause),
                    _ => Error::unavailable(cause),
                });
            }
        }
    }
}

/// Why a document was not read.
enum Broken {
    /// The transfer failed: the next may not.
    Again(Cause),
    /// The next would fail too.
    Final(Error),
}

/// Whether trying again may help.
enum Outlook {
    Transient,
    Permanent,
}

/// "Error responses" (Amazon S3 API Reference): what S3 says of itself or of the
/// connection while the request was right.
const TRANSIENT_CODES: [&str; 9] = [
    "BadDigest",
    "IncompleteBody",
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
];

fn outlook<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Outlook {
    let transient = match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        // A connection that is closed before the response is an "other" failure with a kind.
        SdkError::DispatchFailure(failure) => {
            failure.is_io() || failure.is_timeout() || failure.as_other().is_some()
        }
        SdkError::ServiceError(answer) => {
            let status = answer.raw().status().as_u16();
            let code = answer.err().code();
            status >= 500
                || status == 429
                || code.is_some_and(|code| TRANSIENT_CODES.contains(&code))
        }
        _ => false,
    };
    if transient {
        Outlook::Transient
    } else {
        Outlook::Permanent
    }
}
