//! Names of versions, and the digests in them.

use std::fmt;

use sha2::{Digest as _, Sha256};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// Number of hexadecimal digits of a digest.
    pub const HEX_DIGITS: usize = 64;

    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Finishes `hasher`.
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Returns the 32 bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256Digest {
    /// Writes 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of a version: `{YYYYMMDDTHHMMSSZ}-{SHA-256, 64 hexadecimal digits}`.
///
/// Names sort by the time at which the state was written, and equal states have equal names. (With
/// `SAVE_FILES`, that time is the newest of the files: the deletion of a file does not change it.) All
/// digits of the hash are part of the name: with fewer, two documents with the same prefix can be
/// found on purpose, and the second would count as saved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(String);

const VERSION_TIME_FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

impl Version {
    /// Length of a name, in bytes.
    pub const BYTES: usize = "YYYYMMDDTHHMMSSZ-".len() + Sha256Digest::HEX_DIGITS;

    /// Creates the name for a state written at `last_modified` (to the second, the precision of
    /// `Last-Modified`) with the digest `sha256`.
    ///
    /// # Errors
    ///
    /// Returns an error for years outside 0 to 9999, which an HTTP date cannot express.
    pub fn new(
        last_modified: OffsetDateTime,
        sha256: &Sha256Digest,
    ) -> Result<Self, time::error::Format> {
        let time = last_modified
            .to_offset(UtcOffset::UTC)
            .format(VERSION_TIME_FORMAT)?;
        Ok(Self(format!("{time}-{sha256}")))
    }

    /// Returns the name as a string slice.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_has_the_time_and_all_digits_of_the_hash() {
        let time = OffsetDateTime::from_unix_timestamp(1_759_060_050).expect("a valid time");
        let version = Version::new(time, &Sha256Digest::of(b"{}")).expect("a valid year");
        let expected =
            "20250928T114730Z-44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(version.as_str(), expected);
        assert_eq!(expected.len(), Version::BYTES);
    }
}
