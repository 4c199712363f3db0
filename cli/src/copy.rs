//! Copies and deletes on conditions, for objects that others may change at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, MetadataDirective, TaggingDirective,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use save_draft::config::{MAX_COPY_BYTES, MIN_PART_BYTES};
use save_draft::s3::{copy_source, part_bytes};
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::store::{Bucket, Object, Request, Store};

/// Number of parts of an object that are copied at the same time.
const CONCURRENT_PARTS: usize = 8;

/// Maximum number of attempts after `409 ConditionalRequestConflict`.
const MAX_CONFLICTS: u32 = 5;

/// The state of the target in which a copy may replace it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does not exist.
    Absent,
    /// It has this `ETag`, without quotes.
    Unchanged(String),
}

/// Copies objects of versions into the folder of a draft.
#[derive(Clone, Debug)]
pub struct Copier {
    store: Store,
    /// The multipart uploads that were begun: ids and keys.
    uploads: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Condition {
    fn if_match(&self) -> Option<String> {
        match self {
            Self::Absent => None,
            Self::Unchanged(etag) => Some(quoted(etag)),
        }
    }

    fn if_none_match(&self) -> Option<String> {
        (*self == Self::Absent).then(|| "*".to_owned())
    }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    Some(error.raw_response()?.status().as_u16())
}

/// The error for an object that changed between the look at it and its replacement.
fn changed(store: &Store, key: &str) -> Error {
    let url = store.url(Bucket::Drafts, key);
    Error::new(format!("{url} was changed during the restore"))
        .advise("Run the same command again when nobody edits the draft.")
}

impl Copier {
    /// Creates a copier.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            uploads: Arc::default(),
        }
    }

    /// Copies `source`, if it still has its `ETag`, to the key `target` of the drafts, if that is as `condition`
    /// says. The copy has no tags; with `content_type` it has no metadata but this, else that of the source.
    pub async fn copy(
        &self,
        source: &Object,
        target: &str,
        condition: &Condition,
        content_type: Option<&str>,
    ) -> Result<()> {
        for attempt in 1.. {
            // A save copies in the same parts, so that the copy of a copy has the same `ETag`.
            let copied = if source.size > MAX_COPY_BYTES {
                self.copy_in_parts(source, target, condition, content_type)
                    .await?
            } else {
                self.copy_whole(source, target, condition, content_type)
                    .await?
            };
            match copied {
                Copied::Done => return Ok(()),
                Copied::Conflict if attempt < MAX_CONFLICTS => pause(attempt).await,
                Copied::Conflict => break,
                // A repeated request meets what the first one wrote, if its response was lost.
                Copied::Refused => {
                    let head = self.store.head(Bucket::Drafts, target).await?;
                    let is_copy =
                        |object: &Object| object.size == source.size && object.etag == source.etag;
                    if head.is_some_and(|head| is_copy(&head.object)) {
                        return Ok(());
                    }
                    break;
                }
            }
        }
        Err(changed(&self.store, target))
    }

    fn request<'a>(&'a self, operation: &'static str, target: &'a str) -> Request<'a> {
        Request {
            operation,
            permission: "s3:GetObject on the source and s3:PutObject",
            bucket: self.store.name(Bucket::Drafts),
            key: target,
        }
    }

    async fn copy_whole(
        &self,
        source: &Object,
        target: &str,
        condition: &Condition,
        content_type: Option<&str>,
    ) -> Result<Copied> {
        let request = self.request("CopyObject", target);
        let copy = self
            .store
            .client()
            .copy_object()
            .copy_source(copy_source(self.store.name(Bucket::Saved), &source.key))
            .copy_source_if_match(quoted(&source.etag))
            .bucket(request.bucket)
            .key(target)
            .set_if_match(condition.if_match())
            .set_if_none_match(condition.if_none_match())
            .set_metadata_directive(content_type.map(|_| MetadataDirective::Replace))
            .set_content_type(content_type.map(str::to_owned))
            // Copying tags would need permissions to read and write tags.
            .tagging_directive(TaggingDirective::Replace);
        match copy.send().await {
            Ok(_) => Ok(Copied::Done),
            Err(error) => {
                refusal(&error).map_or_else(|| Err(self.failed(source, &request, &error)), Ok)
            }
        }
    }

    async fn copy_in_parts(
        &self,
        source: &Object,
        target: &str,
        condition: &Condition,
        content_type: Option<&str>,
    ) -> Result<Copied> {
        let request = self.request("CreateMultipartUpload", target);
        let client = self.store.client();
        let head = self.store.head(Bucket::Saved, &source.key).await?;
        let head = head.ok_or_else(|| missing(&self.store, source))?;
        let upload = client
            .create_multipart_upload()
            .bucket(request.bucket)
            .key(target)
            .set_content_type(content_type.map(str::to_owned).or(head.content_type))
            .set_metadata(content_type.is_none().then_some(head.metadata))
            .send()
            .await
            .map_err(|error| self.store.failed(&request, &error))?;
        let id = upload.upload_id().unwrap_or_default().to_owned();
        self.uploads().insert(id.clone(), target.to_owned());
        let result = self.copy_parts(source, target, condition, &id).await;
        if !matches!(result, Ok(Copied::Done)) {
            self.abort(&id, target).await;
        }
        self.uploads().remove(&id);
        result
    }

    async fn copy_parts(
        &self,
        source: &Object,
        target: &str,
        condition: &Condition,
        upload: &str,
    ) -> Result<Copied> {
        let client = self.store.client();
        let part_bytes = part_bytes(source.size, MIN_PART_BYTES);
        let from = copy_source(self.store.name(Bucket::Saved), &source.key);
        let (from, request) = (&from, &self.request("UploadPartCopy", target));
        let parts = stream::iter(0..source.size.div_ceil(part_bytes))
            .map(|index| async move {
                let begin = index * part_bytes;
                let end = source.size.min(begin + part_bytes) - 1;
                let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
                let part = client
                    .upload_part_copy()
                    .copy_source(from)
                    .copy_source_if_match(quoted(&source.etag))
                    .copy_source_range(format!("bytes={begin}-{end}"))
                    .bucket(request.bucket)
                    .key(target)
                    .upload_id(upload)
                    .part_number(number)
                    .send()
                    .await
                    .map_err(|error| self.failed(source, request, &error))?;
                let etag = part.copy_part_result().and_then(|part| part.e_tag());
                let part = CompletedPart::builder().part_number(number);
                Ok::<_, Error>(part.set_e_tag(etag.map(str::to_owned)).build())
            })
            .buffered(CONCURRENT_PARTS)
            .try_collect()
            .await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let request = self.request("CompleteMultipartUpload", target);
        let complete = client
            .complete_multipart_upload()
            .bucket(request.bucket)
            .key(target)
            .upload_id(upload)
            .multipart_upload(parts.build())
            .set_if_match(condition.if_match())
            .set_if_none_match(condition.if_none_match());
        match complete.send().await {
            Ok(_) => Ok(Copied::Done),
            // A repeated request meets the upload that the first one completed.
            Err(error) if error.code() == Some("NoSuchUpload") => Ok(Copied::Refused),
            Err(error) => {
                refusal(&error).map_or_else(|| Err(self.store.failed(&request, &error)), Ok)
            }
        }
    }

    fn failed<E>(
        &self,
        source: &Object,
        request: &Request<'_>,
        error: &SdkError<E, HttpResponse>,
    ) -> Error
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match error.code() {
            Some("NoSuchKey") => missing(&self.store, source),
            Some("InvalidObjectState") => {
                let url = self.store.url(Bucket::Saved, &source.key);
                Error::new(format!("{url} is in an archive, from which S3 cannot copy"))
                    .advise("Restore the object from the archive first: aws s3api restore-object.")
            }
            _ => self.store.failed(request, error),
        }
    }

    /// Aborts all uploads that were begun and not completed: copies that were cancelled.
    pub async fn abort_all(&self) {
        let uploads = std::mem::take(&mut *self.uploads());
        for (id, key) in uploads {
            self.abort(&id, &key).await;
        }
    }

    /// Deletes the parts of an upload. If that fails, they stay until a lifecycle rule deletes them.
    async fn abort(&self, id: &str, target: &str) {
        let abort = self.store.client().abort_multipart_upload();
        let abort = abort.bucket(self.store.name(Bucket::Drafts)).key(target);
        let _ = abort.upload_id(id).send().await;
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that the object `key` of the drafts still has this `ETag`.
    pub async fn check_unchanged(&self, key: &str, etag: &str) -> Result<()> {
        let head = self.store.head(Bucket::Drafts, key).await?;
        if head.is_some_and(|head| head.object.etag == etag) {
            return Ok(());
        }
        Err(changed(&self.store, key))
    }

    /// Deletes the object `key` of the drafts, if it still has this `ETag`.
    pub async fn delete(&self, key: &str, etag: &str) -> Result<()> {
        let request = Request {
            operation: "DeleteObject",
            permission: "s3:DeleteObject",
            bucket: self.store.name(Bucket::Drafts),
            key,
        };
        for attempt in 1.. {
            let delete = self.store.client().delete_object();
            let delete = delete.bucket(request.bucket).key(key);
            let Err(error) = delete.if_match(quoted(etag)).send().await else {
                return Ok(());
            };
            match refusal(&error) {
                Some(Copied::Conflict) if attempt < MAX_CONFLICTS => pause(attempt).await,
                Some(_) => break,
                // It is gone already.
                None if status(&error) == Some(404) && error.code() != Some("NoSuchBucket") => {
                    return Ok(());
                }
                None => return Err(self.store.failed(&request, &error)),
            }
        }
        Err(changed(&self.store, key))
    }
}

/// Waits after a conflict with another writer.
async fn pause(attempt: u32) {
    sleep(Duration::from_millis(100) * attempt).await;
}

/// The result of one attempt to copy.
enum Copied {
    Done,
    /// The source or the target is not as it was.
    Refused,
    /// Another write of the target was in progress.
    Conflict,
}

fn refusal<E>(error: &SdkError<E, HttpResponse>) -> Option<Copied> {
    match status(error) {
        Some(412) => Some(Copied::Refused),
        Some(409) => Some(Copied::Conflict),
        _ => None,
    }
}

/// The error for a copy that was there when the restore began.
fn missing(store: &Store, source: &Object) -> Error {
    let url = store.url(Bucket::Saved, &source.key);
    Error::problem(format!("{url} was deleted during the restore")).advise(
        "The draft may have files of two states. Restore another version with --discard-current.",
    )
}
