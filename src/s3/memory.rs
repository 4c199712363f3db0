//! Memory for the data of saves. Each save reserves what it needs before it uses it, so that all saves
//! of the process together stay within the memory of the function.
//!
//! A save waits only while it holds nothing, so that saves never wait for each other in a circle. One
//! that needs more than is free gives up what it has, waits for all of it, and starts again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::Semaphore;

use crate::error::Error;

const KIB: u64 = 1024;

/// The memory of the function that is available for the data of saves.
#[derive(Clone, Debug)]
pub struct Pool {
    bytes: u64,
    /// One permit for each KiB.
    free: Arc<Semaphore>,
}

/// The memory that one save has reserved. Released with the last clone.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Reservation>);

#[derive(Debug)]
struct Reservation {
    pool: Pool,
    kib: AtomicUsize,
    /// The size in bytes that was not free; 0 if there was none.
    missing: AtomicU64,
}

impl Pool {
    /// Creates a pool of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        let kib = usize::try_from(bytes / KIB).unwrap_or(usize::MAX);
        Self {
            bytes,
            free: Arc::new(Semaphore::new(kib.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Waits until `bytes` are free, and reserves them. Must not be called while a save holds other memory.
    ///
    /// # Errors
    ///
    /// `SaveFailed` if there is less memory than that.
    pub async fn reserve(&self, bytes: u64) -> Result<Memory, Error> {
        let permits = u32::try_from(bytes.div_ceil(KIB)).ok();
        let permits = permits.filter(|_| bytes <= self.bytes).ok_or_else(|| {
            Error::save_failed(format!(
                "the save needs {bytes} bytes of memory, but the function has {} for drafts: raise \
                 its memory",
                self.bytes
            ))
        })?;
        let permit = self.free.acquire_many(permits).await;
        permit.map_err(Error::save_failed)?.forget();
        Ok(Memory(Arc::new(Reservation {
            pool: self.clone(),
            kib: AtomicUsize::new(permits as usize),
            missing: AtomicU64::new(0),
        })))
    }
}

impl Memory {
    /// Enlarges the reservation to `bytes`, unless it is that large already.
    ///
    /// # Errors
    ///
    /// `ServiceUnavailable` if they are not free now. [`Self::missing`] returns them from then on.
    pub fn require(&self, bytes: u64) -> Result<(), Error> {
        let Reservation { pool, kib, missing } = &*self.0;
        let needed = usize::try_from(bytes.div_ceil(KIB)).unwrap_or(usize::MAX);
        let Some(more) = needed.checked_sub(kib.load(Relaxed)) else {
            return Ok(());
        };
        let permit = u32::try_from(more).map(|more| pool.free.try_acquire_many(more));
        if let Ok(Ok(permit)) = permit {
            permit.forget();
            kib.fetch_add(more, Relaxed);
            return Ok(());
        }
        missing.store(bytes, Relaxed);
        Err(Error::unavailable(format!(
            "{bytes} bytes of memory are not free"
        )))
    }

    /// Returns the size that was required last and was not free.
    pub fn missing(&self) -> Option<u64> {
        Some(self.0.missing.load(Relaxed)).filter(|bytes| *bytes > 0)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.free.add_permits(*self.kib.get_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn a_reservation_grows_while_memory_is_free_and_is_released_with_its_last_clone() {
        let pool = Pool::new(10 * MIB);
        let first = pool.reserve(0).await.expect("free");
        first.require(6 * MIB).expect("free");
        first.require(5 * MIB).expect("it is that large already");
        let second = pool.reserve(MIB).await.expect("free");
        let error = second.require(5 * MIB).expect_err("4 MiB are free");
        assert_eq!(error.kind(), ErrorKind::ServiceUnavailable);
        assert_eq!(second.missing(), Some(5 * MIB));
        assert_eq!(first.missing(), None);
        let clone = first.clone();
        drop(first);
        second.require(5 * MIB).expect_err("the clone holds it");
        drop(clone);
        second.require(10 * MIB).expect("free");
        drop(second);
        assert_eq!(pool.free.available_permits(), 10 * 1024);
    }

    #[tokio::test]
    async fn more_than_the_function_has_is_an_error() {
        let pool = Pool::new(10 * MIB);
        let error = pool.reserve(10 * MIB + 1).await.expect_err("too much");
        assert_eq!(error.kind(), ErrorKind::SaveFailed);
        pool.reserve(10 * MIB).await.expect("all of it");
    }
}
