//! Names of versions, and the digests in them.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

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
    /// Length of the time in a name, in bytes.
    const TIME_BYTES: usize = "YYYYMMDDTHHMMSSZ".len();

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

    /// Returns the time in the name, to the second: that of the state. It is never `None`.
    pub fn time(&self) -> Option<OffsetDateTime> {
        let time = PrimitiveDateTime::parse(&self.0[..Self::TIME_BYTES], VERSION_TIME_FORMAT);
        Some(time.ok()?.assume_utc())
    }

    /// Returns the digest in the name: 64 lower-case hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.0[Self::TIME_BYTES + "-".len()..]
    }
}

/// The error for a string that is not the name of a version.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the name of a version is YYYYMMDDTHHMMSSZ- and 64 lower-case hexadecimal digits")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (time, digest) = text.split_once('-').ok_or(InvalidVersion)?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_valid = time.len() == Self::TIME_BYTES
            && PrimitiveDateTime::parse(time, VERSION_TIME_FORMAT).is_ok()
            && digest.len() == Sha256Digest::HEX_DIGITS
            && digest.bytes().all(is_hex);
        is_valid
            .then(|| Self(text.to_owned()))
            .ok_or(InvalidVersion)
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
        assert_eq!(expected.parse(), Ok(version.clone()));
        assert_eq!(version.time(), Some(time));
        assert_eq!(version.digest(), Sha256Digest::of(b"{}").to_string());
    }

    #[test]
    fn names_sort_by_time() {
        let times: [i64; 5] = [-62_167_219_200, -1, 0, 1_759_060_050, 253_402_300_799];
        let names = times.map(|seconds| {
            let time = OffsetDateTime::from_unix_timestamp(seconds).expect("a valid time");
            Version::new(time, &Sha256Digest::of(&seconds.to_be_bytes())).expect("a valid year")
        });
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn refuses_strings_that_are_not_the_name_of_a_version() {
        let digest = Sha256Digest::of(b"{}").to_string();
        for name in [
            "",
            "20250928T114730Z",
            &format!("20250928T114730Z-{}", &digest[1..]),
            &format!("20250928T114730Z-{}", digest.to_uppercase()),
            &format!("20251328T114730Z-{digest}"),
            &format!("20250928T114760Z-{digest}"),
            &format!("+2025928T114730Z-{digest}"),
            &format!("20250928T114730-{digest}"),
            &format!("20250928T114730Z-{digest}/"),
            &format!("20250928T114730Z-{digest}0"),
        ] {
            assert_eq!(name.parse::<Version>(), Err(InvalidVersion), "{name:?}");
        }
    }
}
