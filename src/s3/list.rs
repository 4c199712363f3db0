//! Listings, one page at a time.

use aws_sdk_s3::operation::RequestId as _;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{EncodingType, Object};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use tokio::sync::OwnedSemaphorePermit;

use super::{Store, time_of};
use crate::error::{BoxError, Error};

/// Maximum number of pages in memory, each of up to 7 MB while it is parsed. They are part of the
/// memory that is not available for the data of saves.
pub(super) const MAX_PAGES: usize = 4;

/// Maximum number of entries of a page ("ListObjectsV2", Amazon S3 API Reference).
pub(super) const MAX_ENTRIES: usize = 1000;

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

/// A page of a listing. The pages are read one after the other, and may show different moments.
#[derive(Debug)]
pub struct Page {
    /// The objects, in the order of their keys.
    pub objects: Vec<ListedObject>,
    /// Token of the next page, if this is not the last one. A page that is not the last may be empty.
    pub next: Option<String>,
    _permit: OwnedSemaphorePermit,
}

impl Store {
    /// Lists objects of the draft bucket whose keys begin with `prefix`. `token` is that of the page before.
    ///
    /// # Errors
    ///
    /// Also `ServiceUnavailable` if the listing may be incomplete.
    pub async fn list_drafts(&self, prefix: &str, token: Option<&str>) -> Result<Page, Error> {
        self.list(&self.config.draft_bucket, prefix, None, token)
            .await
    }

    /// Lists objects of the saved bucket whose keys begin with `prefix` and sort after `after`.
    ///
    /// # Errors
    ///
    /// See [`Self::list_drafts`].
    pub async fn list_saved(&self, prefix: &str, after: &str) -> Result<Page, Error> {
        self.list(&self.config.saved_bucket, prefix, Some(after), None)
            .await
    }

    async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page, Error> {
        let request = self.request("ListObjectsV2", bucket, prefix);
        let permit = self.pages.clone().acquire_owned().await;
        let permit = permit.map_err(Error::save_failed)?;
        let page = self
            .client()
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .set_continuation_token(token.map(str::to_owned))
            // XML cannot express all characters of a key.
            .encoding_type(EncodingType::Url)
            .send()
            .await;
        let mut page = page.map_err(|error| request.save_error(error))?;
        let id = page.request_id().map(str::to_owned);
        let failed = |cause: BoxError| request.error(cause, id.as_deref());
        let is_truncated =
            check_complete(&page).map_err(|problem| Error::unavailable(failed(problem.into())))?;
        let next = page.next_continuation_token.take();
        let next = next.filter(|next| is_truncated && Some(&**next) != token);
        if is_truncated && next.is_none() {
            let problem = "the page is not the last one, and has no new continuation token";
            return Err(Error::save_failed(failed(problem.into())));
        }
        let objects = objects(page, prefix).map_err(|cause| Error::save_failed(failed(cause)))?;
        Ok(Page {
            objects,
            next,
            _permit: permit,
        })
    }
}

/// Checks that `page` is complete: the parser accepts one that was cut off. Returns whether it is
/// truncated.
///
/// # Errors
///
/// Returns the reason why the page may be incomplete.
pub fn check_complete(page: &ListObjectsV2Output) -> Result<bool, &'static str> {
    let Some(is_truncated) = page.is_truncated() else {
        return Err("the listing may be incomplete: it has no IsTruncated");
    };
    let count = page.contents().len() + page.common_prefixes().len();
    match page.key_count().map(usize::try_from) {
        None => Err("the listing may be incomplete: it has no KeyCount"),
        Some(Ok(expected)) if expected == count => Ok(is_truncated),
        Some(_) => Err("the listing is incomplete: it has not as many entries as its KeyCount"),
    }
}

/// Returns the objects of `page`, which must be below `prefix`.
fn objects(page: ListObjectsV2Output, prefix: &str) -> Result<Vec<ListedObject>, BoxError> {
    let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
    let contents = page.contents.unwrap_or_default();
    if contents.len() > MAX_ENTRIES {
        return Err(format!("the listing has a page of more than {MAX_ENTRIES} objects").into());
    }
    let objects = contents.into_iter().map(|object| {
        let object = ListedObject::new(object, is_encoded)
            .ok_or("the listing has an entry without a valid key, size, ETag or Last-Modified")?;
        if !object.key.starts_with(prefix) {
            return Err(format!("the listing has another key: {:?}", object.key).into());
        }
        Ok(object)
    });
    objects.collect()
}

impl ListedObject {
    /// Converts an entry of a listing, or returns `None` if a field is missing.
    fn new(object: Object, is_encoded: bool) -> Option<Self> {
        let mut key = object.key?;
        if is_encoded {
            // A space is encoded as `+`.
            key = key.replace('+', " ");
            key = percent_decode_str(&key).decode_utf8().ok()?.into_owned();
        }
        Some(Self {
            key,
            size: object.size?.try_into().ok()?,
            etag: object.e_tag?,
            last_modified: time_of(&object.last_modified?)?,
        })
    }
}
