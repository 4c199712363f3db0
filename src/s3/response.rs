//! Meaning of the responses of S3 for a save, and errors that name the request.

use std::error::Error as StdError;
use std::iter::successors;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};
use thiserror::Error as ThisError;

use super::Store;
use crate::error::{BoxError, Error, chain};

/// A request in errors.
pub(super) struct Request<'a> {
    pub store: &'a Store,
    pub operation: &'static str,
    pub bucket: &'a str,
    pub key: &'a str,
}

impl Request<'_> {
    /// Returns an error that names the request. `id` is that of the response, if there was one.
    pub(super) fn error(&self, cause: impl Into<BoxError>, id: Option<&str>) -> RequestError {
        RequestError {
            operation: self.operation,
            bucket: self.bucket.to_owned(),
            key: self.key.to_owned(),
            id: id.unwrap_or("unknown").to_owned(),
            source: cause.into(),
        }
    }

    /// Returns an error that names the request, with an error of the SDK as its cause.
    pub(super) fn sdk_error<E>(&self, error: SdkError<E, HttpResponse>) -> RequestError
    where
        E: StdError + Send + Sync + 'static,
    {
        let headers = error.raw_response().map(HttpResponse::headers);
        let id = headers.and_then(|headers| headers.get("x-amz-request-id"));
        let id = id.map(str::to_owned);
        let cause: BoxError = match status(&error) {
            Some(501 | 505) => {
                let problem = "the store does not support the request or one of its headers";
                format!("{problem}: {}", chain(&error)).into()
            }
            _ => error.into(),
        };
        self.error(cause, id.as_deref())
    }

    /// Converts an error of the SDK into a temporary or a permanent error of the save.
    pub(super) fn save_error<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if error.code() == Some(EXPIRED_TOKEN) {
            self.store.renew_credentials();
        }
        if is_temporary(&error) {
            Error::unavailable(self.sdk_error(error))
        } else {
            Error::save_failed(self.sdk_error(error))
        }
    }
}

/// A failed request.
#[derive(Debug, ThisError)]
#[error("{operation} s3://{bucket}/{key} failed (request id {id})")]
pub(super) struct RequestError {
    operation: &'static str,
    bucket: String,
    key: String,
    id: String,
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
pub(super) fn check_created(output: &PutObjectOutput, checksum: &str) -> Result<(), &'static str> {
    if output.e_tag().is_none_or(str::is_empty) {
        return Err("the response has no valid ETag header");
    }
    match output.checksum_sha256() {
        Some(other) if other != checksum => {
            Err("the store reports a SHA-256 that differs from that of the uploaded object")
        }
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

/// Returns whether a request of a copy was refused because the source was replaced or deleted, or the
/// copy exists, is being created, or its upload has ended. S3 can send these errors with status 200
/// ("CopyObject", Amazon S3 API Reference). After a 200 with a body that cannot be read, the copy may exist.
pub(super) fn is_copy_refused<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    const CODES: [&str; 4] = [
        "ConditionalRequestConflict",
        "NoSuchKey",
        "NoSuchUpload",
        "PreconditionFailed",
    ];
    match status(error) {
        Some(200) => error.code().is_none_or(|code| CODES.contains(&code)),
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

/// Error code for credentials that are too old.
const EXPIRED_TOKEN: &str = "ExpiredToken";

/// Error codes of S3 for problems that are not caused by the request ("Error responses", Amazon S3
/// API Reference), or for a body that was damaged on the way.
const TEMPORARY_CODES: [&str; 10] = [
    "BadDigest",
    EXPIRED_TOKEN,
    "IncompleteBody",
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
];

fn is_temporary<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        // A connection that was closed before the response is an "other" failure with a kind.
        SdkError::DispatchFailure(failure) => {
            failure.is_io()
                || failure.is_timeout()
                || failure.as_other().is_some()
                || is_credentials_failure(error)
        }
        SdkError::ServiceError(error) => match error.raw().status().as_u16() {
            // Not implemented, HTTP version not supported.
            501 | 505 => false,
            // Conflict with another request, too many requests.
            409 | 429 | 500.. => true,
            _ => {
                let code = error.err().code();
                code.is_some_and(|code| TEMPORARY_CODES.contains(&code))
            }
        },
        _ => false,
    }
}

/// Returns whether the source of the credentials failed. One that is missing or set up incorrectly is
/// a permanent error.
fn is_credentials_failure(error: &(dyn StdError + 'static)) -> bool {
    let mut causes = successors(Some(error), |&error| error.source());
    let credentials = causes.find_map(|cause| cause.downcast_ref::<CredentialsError>());
    matches!(
        credentials,
        Some(
            CredentialsError::ProviderError(_)
                | CredentialsError::ProviderTimedOut(_)
                | CredentialsError::Unhandled(_)
        )
    )
}
