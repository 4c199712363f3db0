//! Classifies the responses of S3: what they mean for a save, and the errors that name the request.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::copy_object::CopyObjectError;
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use thiserror::Error as ThisError;

use super::MAX_OBJECTS;
use crate::error::{BoxError, Error};

/// A response that does not fit the request.
#[derive(Debug, ThisError)]
pub(super) enum InvalidResponse {
    #[error("the object has {bytes} bytes, more than the limit of {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the body has {received} bytes instead of {expected}")]
    WrongLength { received: u64, expected: u64 },
    #[error("the response has no valid {0} header")]
    MissingHeader(&'static str),
    #[error("the response is partial, with Content-Range {0:?}")]
    Partial(String),
    #[error("the store reports a SHA-256 that differs from that of the uploaded object")]
    OtherChecksum,
    #[error("there are more than {MAX_OBJECTS} objects, the limit of a listing")]
    TooManyObjects,
    #[error("the listing has an entry without key, size, ETag or Last-Modified")]
    IncompleteListing,
    #[error("the listing ends without its last page")]
    TruncatedListing,
    #[error("the store does not support the request or one of its headers")]
    NotSupported(#[source] BoxError),
}

/// Names a request in errors.
pub(super) struct RequestName<'a> {
    pub operation: &'static str,
    pub bucket: &'a str,
    pub key: &'a str,
}

impl RequestName<'_> {
    /// Creates the error of the request. `request_id` is that of the response, if there was one.
    pub(super) fn failed(
        &self,
        source: impl Into<BoxError>,
        request_id: Option<&str>,
    ) -> RequestError {
        RequestError {
            operation: self.operation,
            bucket: self.bucket.to_owned(),
            key: self.key.to_owned(),
            request_id: request_id.unwrap_or("unknown").to_owned(),
            source: source.into(),
        }
    }

    /// Creates the error of the request from the SDK's.
    pub(super) fn failed_with<E>(&self, error: SdkError<E, HttpResponse>) -> RequestError
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let request_id = request_id(&error);
        let source: BoxError = match status(&error) {
            Some(501 | 505) => InvalidResponse::NotSupported(error.into()).into(),
            _ => error.into(),
        };
        self.failed(source, request_id.as_deref())
    }

    /// Converts an SDK error into a retryable or a permanent error.
    pub(super) fn classify<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        if is_retryable(&error) {
            Error::unavailable(self.failed_with(error))
        } else {
            Error::save_failed(self.failed_with(error))
        }
    }
}

/// A failed request.
#[derive(Debug, ThisError)]
#[error("{operation} s3://{bucket}/{key} failed (request id {request_id})")]
pub(super) struct RequestError {
    operation: &'static str,
    bucket: String,
    key: String,
    request_id: String,
    source: BoxError,
}

/// Returns whether a document was not read because it does not exist. Stores other than S3 answer
/// with other codes, an HTML page or no body. Without the complete body, a 404 may also be that of a
/// missing bucket.
pub(super) fn is_missing(error: &SdkError<GetObjectError, HttpResponse>) -> bool {
    let code = error.code();
    matches!(error, SdkError::ServiceError(_))
        && (code == Some("NoSuchKey")
            || (status(error) == Some(404) && code != Some("NoSuchBucket")))
}

/// Checks that a successful response to a PUT came from a store that has the object.
pub(super) fn check_created(
    output: &PutObjectOutput,
    checksum: &str,
) -> Result<(), InvalidResponse> {
    if output.e_tag().is_none_or(str::is_empty) {
        return Err(InvalidResponse::MissingHeader("ETag"));
    }
    match output.checksum_sha256() {
        Some(other) if other != checksum => Err(InvalidResponse::OtherChecksum),
        _ => Ok(()),
    }
}

/// Returns whether a PUT was refused because the object exists. A proxy may also answer with these
/// status codes, but not in the form of S3.
pub(super) fn already_exists(error: &SdkError<PutObjectError, HttpResponse>) -> bool {
    match status(error) {
        Some(412) => error.code() == Some("PreconditionFailed"),
        // Some stores apply the rule for GET to PUT (RFC 9110, section 13.1.2).
        Some(304) => error.raw_response().is_some_and(announces_no_body),
        _ => false,
    }
}

/// Returns whether the headers announce no body. The HTTP client never reads the body of a 304.
fn announces_no_body(response: &HttpResponse) -> bool {
    let headers = response.headers();
    let length = headers.get("content-length").unwrap_or("0");
    length == "0" && headers.get("transfer-encoding").is_none()
}

/// Returns whether a copy was refused because the source was replaced or deleted, or the copy exists
/// or is being created. `CopyObject` can also send these errors with status 200 ("CopyObject", Amazon
/// S3 API Reference).
pub(super) fn is_not_created(error: &SdkError<CopyObjectError, HttpResponse>) -> bool {
    match status(error) {
        Some(200) => matches!(
            error.code(),
            Some("ConditionalRequestConflict" | "NoSuchKey" | "PreconditionFailed")
        ),
        Some(404) => error.code() != Some("NoSuchBucket"),
        Some(409 | 412) => true,
        _ => false,
    }
}

/// Returns the status code of the response, if there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    let response = error.raw_response();
    response.map(|response| response.status().as_u16())
}

fn request_id<E>(error: &SdkError<E, HttpResponse>) -> Option<String> {
    let id = error.raw_response()?.headers().get("x-amz-request-id")?;
    Some(id.to_owned())
}

/// Error codes of S3 for problems that are not caused by the request ("Error responses", Amazon S3
/// API Reference), or for a body that was damaged on the way.
const RETRYABLE_CODES: [&str; 9] = [
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

fn is_retryable<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        // A connection that was closed before the response is an "other" failure with a kind.
        SdkError::DispatchFailure(failure) => {
            failure.is_io() || failure.is_timeout() || failure.as_other().is_some()
        }
        SdkError::ServiceError(error) => match error.raw().status().as_u16() {
            // Not implemented, HTTP version not supported.
            501 | 505 => false,
            // Conflict with another request, too many requests.
            409 | 429 | 500.. => true,
            _ => {
                let code = error.err().code();
                code.is_some_and(|code| RETRYABLE_CODES.contains(&code))
            }
        },
        _ => false,
    }
}
