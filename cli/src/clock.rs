//! The time of the store, by which the ages of its objects count.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::BucketVersioningStatus;
use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};
use crate::store::{Bucket, Request, Store};

/// The clock of the store.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The time of a response, and when it arrived.
    time: Timestamp,
    read: Instant,
}

impl Clock {
    /// Reads the clock, the header `Date` of a response. Also returns whether the bucket of the versions keeps
    /// versions of its objects.
    pub async fn read(store: &Store) -> Result<(Self, bool)> {
        let request = Request {
            operation: "GetBucketVersioning",
            permission: "s3:GetBucketVersioning",
            bucket: store.name(Bucket::Saved),
            key: "",
        };
        let reader = DateReader::default();
        let versioning = store.client().get_bucket_versioning();
        let versioning = versioning.bucket(request.bucket).customize();
        let versioning = versioning.interceptor(reader.clone()).send().await;
        let versioning = versioning.map_err(|error| store.failed(&request, &error))?;
        let time = reader.0.get().copied();
        let time = time.ok_or_else(|| Error::new("the responses of the store have no Date"))?;
        let clock = Self {
            time,
            read: Instant::now(),
        };
        let is_versioned = versioning.status() == Some(&BucketVersioningStatus::Enabled);
        Ok((clock, is_versioned))
    }

    /// Returns the present time of the store. It may not advance while this machine is suspended.
    pub fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.read.elapsed()).unwrap_or_default();
        self.time.saturating_add(elapsed).unwrap_or(self.time)
    }
}

/// Keeps the `Date` of a response.
#[derive(Clone, Debug, Default)]
struct DateReader(Arc<OnceLock<Timestamp>>);

impl Intercept for DateReader {
    fn name(&self) -> &'static str {
        "DateReader"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        let date = date.and_then(|date| Timestamp::from_second(date.secs()).ok());
        if let Some(date) = date {
            // That of the first attempt is as good.
            let _ = self.0.set(date);
        }
        Ok(())
    }
}
