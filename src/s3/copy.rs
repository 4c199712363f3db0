//! Copies of files. S3 copies the bytes; a large file is copied in parts, many at a time.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, TaggingDirective};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::SemaphorePermit;

use super::Store;
use super::client::attempt_timeouts;
use super::response::{Request, is_copy_refused, status};
use crate::error::{BoxError, Error};

/// Maximum number of requests for copies at a time, by all saves together.
pub const MAX_REQUESTS: usize = 16;

/// Maximum number of parts of a file ("Amazon S3 multipart upload limits", Amazon S3 User Guide), and
/// of all files that are copied at a time, which limits their memory.
pub(super) const MAX_PARTS: u32 = 10_000;

/// A file of a draft.
#[derive(Clone, Copy, Debug)]
pub struct CopySource<'a> {
    /// The key of the file.
    pub key: &'a str,
    /// Its `ETag`, as listed.
    pub etag: &'a str,
    /// Its size in bytes.
    pub size: u64,
}

/// The response to a copy that was not created.
#[derive(Debug)]
pub struct Refusal {
    /// The response, for the log.
    pub cause: BoxError,
    /// True if a condition of the request did not hold.
    pub is_condition: bool,
}

/// The reason why a copy was not created.
#[derive(Debug)]
pub enum CopyError {
    /// The copy may exist, or the source has changed.
    Refused(Refusal),
    /// Any other reason.
    Failed(Error),
}

impl From<Error> for CopyError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Request<'_> {
    fn copy_error<E>(&self, error: SdkError<E, HttpResponse>) -> CopyError
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if is_copy_refused(&error) {
            CopyError::Refused(Refusal {
                is_condition: status(&error) == Some(412)
                    || error.code() == Some("PreconditionFailed"),
                cause: self.sdk_error(error).into(),
            })
        } else {
            CopyError::Failed(self.save_error(error))
        }
    }
}

impl Store {
    /// Waits until the process may make one more request for a copy.
    async fn permit(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.requests.acquire().await.map_err(Error::save_failed)
    }

    /// Returns the size of the object `key` of the saved bucket. `None` if it does not exist, or S3
    /// does not tell: without the permission to list, a missing object is a 403.
    ///
    /// # Errors
    ///
    /// See [`crate::s3`].
    pub async fn saved_size(&self, key: &str) -> Result<Option<u64>, Error> {
        let request = self.request("HeadObject", &self.config.saved_bucket, key);
        let _permit = self.permit().await?;
        let head = self
            .client()
            .head_object()
            .bucket(&self.config.saved_bucket);
        match head.key(key).send().await {
            Ok(head) => {
                let size = head.content_length().map(u64::try_from);
                let size = size.and_then(Result::ok).ok_or_else(|| {
                    let problem = "the response has no valid Content-Length header";
                    Error::save_failed(request.error(problem, None))
                })?;
                Ok(Some(size))
            }
            Err(error) if matches!(status(&error), Some(403 | 404)) => Ok(None),
            Err(error) => Err(request.save_error(error)),
        }
    }

    /// Copies `source` from the draft bucket to the object `key` of the saved bucket, if the source
    /// still has the listed `ETag` and the object does not exist. The copy has the bytes, the content
    /// type and the metadata, but no tags.
    ///
    /// # Errors
    ///
    /// Also `Refused` if a condition did not hold.
    pub async fn copy(&self, source: CopySource<'_>, key: &str) -> Result<(), CopyError> {
        if source.size <= self.config.max_copy_bytes {
            self.copy_whole(source, key).await
        } else {
            self.copy_in_parts(source, key).await
        }
    }

    async fn copy_whole(&self, source: CopySource<'_>, key: &str) -> Result<(), CopyError> {
        let request = self.request("CopyObject", &self.config.saved_bucket, key);
        let _permit = self.permit().await?;
        let copy = self
            .client()
            .copy_object()
            .copy_source(copy_source(&self.config.draft_bucket, source.key))
            .copy_source_if_match(source.etag)
            .bucket(&self.config.saved_bucket)
            .key(key)
            .if_none_match("*")
            // Copying tags would need permissions to read and write tags.
            .tagging_directive(TaggingDirective::Replace)
            .customize()
            .config_override(attempt_timeouts(source.size));
        let copied = copy.send().await;
        copied.map(drop).map_err(|error| request.copy_error(error))
    }

    /// Creates the copy with a multipart upload. One that is not completed is aborted, here or by the
    /// bucket's lifecycle rule.
    async fn copy_in_parts(&self, source: CopySource<'_>, key: &str) -> Result<(), CopyError> {
        let part_bytes = part_bytes(source.size, self.config.min_part_bytes);
        let count = u32::try_from(source.size.div_ceil(part_bytes)).unwrap_or(MAX_PARTS);
        let parts = self.parts.acquire_many(count).await;
        let _parts = parts.map_err(Error::save_failed)?;

        let upload = self.create_upload(source, key).await?;
        let completed = async {
            let parts = self.copy_parts(source, key, &upload, part_bytes).await?;
            self.complete(key, &upload, parts).await
        };
        let completed = completed.await;
        if completed.is_err() {
            let abort = self.client().abort_multipart_upload();
            let abort = abort.bucket(&self.config.saved_bucket).key(key);
            let _ = abort.upload_id(&upload).send().await;
        }
        completed
    }

    /// Creates an upload with what `CopyObject` copies beside the bytes, and returns its id.
    async fn create_upload(&self, source: CopySource<'_>, key: &str) -> Result<String, CopyError> {
        let request = self.request("HeadObject", &self.config.draft_bucket, source.key);
        let _permit = self.permit().await?;
        let head = self.client().head_object().bucket(request.bucket);
        let head = head.key(source.key).if_match(source.etag).send().await;
        let head = head.map_err(|error| request.copy_error(error))?;
        let request = self.request("CreateMultipartUpload", &self.config.saved_bucket, key);
        let created = self
            .client()
            .create_multipart_upload()
            .bucket(request.bucket)
            .key(key)
            .set_cache_control(head.cache_control)
            .set_content_disposition(head.content_disposition)
            .set_content_encoding(head.content_encoding)
            .set_content_language(head.content_language)
            .set_content_type(head.content_type)
            .set_metadata(head.metadata)
            .send()
            .await
            .map_err(|error| request.copy_error(error))?;
        let missing = || Error::save_failed(request.error("the response has no upload id", None));
        Ok(created.upload_id.ok_or_else(missing)?)
    }

    async fn copy_parts(
        &self,
        source: CopySource<'_>,
        key: &str,
        upload: &str,
        part_bytes: u64,
    ) -> Result<Vec<CompletedPart>, CopyError> {
        let starts = (0..source.size).step_by(usize::try_from(part_bytes).unwrap_or(usize::MAX));
        let parts = stream::iter((1..).zip(starts)).map(|(number, start)| {
            let last = (start + part_bytes).min(source.size) - 1;
            self.copy_part(source, key, upload, number, (start, last))
        });
        parts.buffered(MAX_REQUESTS).try_collect().await
    }

    async fn copy_part(
        &self,
        source: CopySource<'_>,
        key: &str,
        upload: &str,
        number: i32,
        (first, last): (u64, u64),
    ) -> Result<CompletedPart, CopyError> {
        let request = self.request("UploadPartCopy", &self.config.saved_bucket, key);
        let _permit = self.permit().await?;
        let part = self
            .client()
            .upload_part_copy()
            .copy_source(copy_source(&self.config.draft_bucket, source.key))
            .copy_source_if_match(source.etag)
            .copy_source_range(format!("bytes={first}-{last}"))
            .bucket(&self.config.saved_bucket)
            .key(key)
            .upload_id(upload)
            .part_number(number)
            .customize()
            .config_override(attempt_timeouts(last - first));
        let part = part
            .send()
            .await
            .map_err(|error| request.copy_error(error))?;
        let etag = part.copy_part_result.and_then(|result| result.e_tag);
        let missing = || Error::save_failed(request.error("the part has no ETag", None));
        let etag = etag.ok_or_else(missing)?;
        let part = CompletedPart::builder().part_number(number).e_tag(etag);
        Ok(part.build())
    }

    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: Vec<CompletedPart>,
    ) -> Result<(), CopyError> {
        let request = self.request("CompleteMultipartUpload", &self.config.saved_bucket, key);
        let _permit = self.permit().await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let complete = self
            .client()
            .complete_multipart_upload()
            .bucket(&self.config.saved_bucket)
            .key(key)
            .upload_id(upload)
            .multipart_upload(parts.build())
            .if_none_match("*")
            .customize()
            .config_override(attempt_timeouts(COMPLETE_BYTES));
        let completed = complete.send().await;
        completed
            .map(drop)
            .map_err(|error| request.copy_error(error))
    }
}

/// Returns the value of `x-amz-copy-source` for the object `key` of `bucket`.
pub fn copy_source(bucket: &str, key: &str) -> String {
    // "CopyObject" (Amazon S3 API Reference) names objects of access points in another form.
    let separator = if bucket.starts_with("arn:") {
        "/object/"
    } else {
        "/"
    };
    let key = utf8_percent_encode(key, COPY_SOURCE);
    format!("{bucket}{separator}{key}")
}

/// Completing a large upload can take minutes ("CompleteMultipartUpload", Amazon S3 API Reference): as
/// much time as for the transfer of this many bytes.
const COMPLETE_BYTES: u64 = 120_000_000;

/// Characters that are not encoded in `x-amz-copy-source`: unreserved ones (RFC 3986, section 2.3)
/// and the separator.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'/')
    .remove(b'_')
    .remove(b'~');

/// Returns the size of the parts of a file of `size` bytes: `min`, or more for a file of more than 10,000 such
/// parts. All in bytes.
pub fn part_bytes(size: u64, min: u64) -> u64 {
    size.div_ceil(MAX_PARTS.into()).max(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_at_most_10_000_parts() {
        const MIB: u64 = 1 << 20;
        const TIB: u64 = 1 << 40;
        for (size, bytes, count) in [
            (256 * MIB + 1, 64 * MIB, 5),
            (640_000 * MIB, 64 * MIB, 10_000),
            (640_000 * MIB + 1, 64 * MIB + 1, 10_000),
            (5 * TIB, 549_755_814, 10_000),
        ] {
            assert_eq!(part_bytes(size, 64 * MIB), bytes, "{size}");
            assert_eq!(size.div_ceil(bytes), count, "{size}");
        }
    }
}
