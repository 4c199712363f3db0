//! Drafts and their versions: ids, URLs, digests and version names. No I/O.

pub mod document;
pub mod keys;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use time::OffsetDateTime;
use time::UtcOffset;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use url::Url;

/// The id of a draft: 1 to 64 ASCII letters, digits, `_` and `-`. Such an id is safe in object
/// keys and in log lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DraftId(String);

impl DraftId {
    /// Maximum length, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Returns the id as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The error for a string that is not a draft id.
#[derive(Debug, Error)]
#[error(
    "the draft id must be 1 to {} ASCII letters, digits, `_` or `-`",
    DraftId::MAX_BYTES
)]
pub struct InvalidDraftId;

impl FromStr for DraftId {
    type Err = InvalidDraftId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidDraftId)
        }
    }
}

impl fmt::Display for DraftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for a string that is not the URL of a draft. No variant repeats the input.
#[derive(Debug, Error)]
pub enum InvalidDraftUrl {
    /// The string has more than [`DraftUrl::MAX_CHARS`] characters.
    #[error("the URL is longer than {} characters", DraftUrl::MAX_CHARS)]
    TooLong,
    /// The string contains a space or a control character, or a backslash before its query. None
    /// is allowed in a URL (RFC 3986, section 2), and URL parsers drop or replace them.
    #[error("the URL contains a space, a control character or a backslash")]
    ForbiddenCharacter,
    /// The string does not start with `http://` or `https://` and a host.
    #[error("the URL is not an absolute http or https URL")]
    NotHttp,
    /// The string is not a URL (WHATWG URL Standard).
    #[error("the URL is not well formed")]
    Malformed(#[from] url::ParseError),
    /// The host is not in `DRAFT_URL_HOSTS`.
    #[error("the host of the URL is not listed in DRAFT_URL_HOSTS")]
    HostNotAllowed,
    /// The query does not contain `draft_id` exactly once.
    #[error("the URL must have one draft_id parameter, got {0}")]
    DraftIdCount(usize),
    /// The `draft_id` is not valid.
    #[error(transparent)]
    InvalidId(#[from] InvalidDraftId),
}

/// The URL of a draft, as returned by `create_draft`. It is never fetched: only the draft id in its
/// query is used.
#[derive(Debug)]
pub struct DraftUrl {
    id: DraftId,
}

impl DraftUrl {
    /// Maximum length, in characters.
    pub const MAX_CHARS: usize = 2048;

    /// Parses `text`. If `allowed_hosts` is not empty, it must contain the URL's host, written as
    /// [`Url::host_str`] returns it.
    ///
    /// # Errors
    ///
    /// Returns an error unless `text` is an absolute `http` or `https` URL (WHATWG URL Standard)
    /// with exactly one valid `draft_id` in its query.
    pub fn parse(text: &str, allowed_hosts: &[String]) -> Result<Self, InvalidDraftUrl> {
        if text.chars().nth(Self::MAX_CHARS).is_some() {
            return Err(InvalidDraftUrl::TooLong);
        }
        let before_query = text.split(['?', '#']).next().unwrap_or_default();
        if text.chars().any(|c| c.is_control() || c == ' ') || before_query.contains('\\') {
            return Err(InvalidDraftUrl::ForbiddenCharacter);
        }
        // The URL Standard also accepts `http:host`.
        let (scheme, rest) = text.split_once("://").ok_or(InvalidDraftUrl::NotHttp)?;
        let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        if !is_http || rest.starts_with(['/', '?', '#']) {
            return Err(InvalidDraftUrl::NotHttp);
        }
        let url = Url::parse(text)?;
        let host = url.host_str().unwrap_or_default();
        if !allowed_hosts.is_empty() && !allowed_hosts.iter().any(|allowed| allowed == host) {
            return Err(InvalidDraftUrl::HostNotAllowed);
        }
        let ids: Vec<_> = url
            .query_pairs()
            .filter(|(name, _)| name == "draft_id")
            .collect();
        match ids.as_slice() {
            [(_, id)] => Ok(Self { id: id.parse()? }),
            ids => Err(InvalidDraftUrl::DraftIdCount(ids.len())),
        }
    }

    /// Returns the id of the draft.
    #[must_use]
    pub fn into_id(self) -> DraftId {
        self.id
    }
}

/// A SHA-256 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// Number of hexadecimal digits of a digest.
    pub const HEX_DIGITS: usize = 64;

    /// Computes the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Finishes `hasher`.
    #[must_use]
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// Returns the 32 bytes of the digest.
    #[must_use]
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
    #[must_use]
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

    fn parse(text: &str) -> Result<String, String> {
        let url = DraftUrl::parse(text, &[]).map_err(|error| error.to_string())?;
        Ok(url.into_id().to_string())
    }

    #[test]
    fn accepts_ids_of_all_known_forms() {
        for id in [
            "20251126220753b7e35362",
            "2025092811473036584258",
            "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c",
            "a",
            &"a".repeat(64),
        ] {
            assert_eq!(id.parse::<DraftId>().expect("a valid id").as_str(), id);
        }
    }

    #[test]
    fn refuses_strings_that_are_unsafe_in_keys() {
        for id in [
            "",
            &"a".repeat(65),
            "a/b",
            "..",
            "a b",
            "a.b",
            "ä",
            "a\n",
            "a%2f",
            "{draft_id}",
            "１２３",
        ] {
            assert!(id.parse::<DraftId>().is_err(), "{id:?} is not an id");
        }
    }

    #[test]
    fn reads_the_draft_id_of_a_url() {
        for url in [
            "https://cm.jcaigc.cn/openapi/v1/get_draft?draft_id=abc",
            "http://localhost:30000/openapi/v1/get_draft?a=1&draft_id=abc#x",
            "HTTPS://[::1]:8080/?draft_id=%61bc",
            "https://用户.example/?draft_id=abc",
            r"https://example.com/?draft_id=abc&path=C:\drafts",
        ] {
            assert_eq!(parse(url).as_deref(), Ok("abc"), "{url}");
        }
    }

    #[test]
    fn refuses_urls_without_exactly_one_draft_id() {
        for (url, count) in [
            ("https://example.com/", 0),
            ("https://example.com/?Draft_id=abc", 0),
            ("https://example.com/#?draft_id=abc", 0),
            ("https://example.com/?draft_id[]=abc", 0),
            ("https://example.com/?x=draft_id=abc", 0),
            ("https://example.com/?draft_id=a&draft_id=a", 2),
            ("https://example.com/?draft_id=a&draft%5Fid=a", 2),
            ("https://example.com/?draft_id=a&draft_id=b&draft_id=c", 3),
        ] {
            let expected = format!("the URL must have one draft_id parameter, got {count}");
            assert_eq!(parse(url), Err(expected), "{url}");
        }
    }

    #[test]
    fn refuses_strings_that_are_not_http_urls() {
        let long = format!("https://example.com/?draft_id=a&x={}", "a".repeat(2048));
        for url in [
            "",
            "draft_id=abc",
            "/get_draft?draft_id=abc",
            "//example.com/?draft_id=abc",
            "ftp://example.com/?draft_id=abc",
            "http:example.com/?draft_id=abc",
            "http:///?draft_id=abc",
            "https://?draft_id=abc",
            "https://exa mple.com/?draft_id=abc",
            "https://example.com/\n?draft_id=abc",
            " https://example.com/?draft_id=abc",
            "https://example.com:99999/?draft_id=abc",
            "http://:80/?draft_id=abc",
            "http://user@/?draft_id=abc",
            "http://[::1/?draft_id=abc",
            "http://exa<mple.com/?draft_id=abc",
            "http://%00/?draft_id=abc",
            "http://1.2.3.4.5.6.7.0x/?draft_id=abc",
            "javascript://example.com/?draft_id=abc",
            r"https:\\example.com\?draft_id=abc",
            &long,
        ] {
            assert!(parse(url).is_err(), "{url:?} is not the URL of a draft");
        }
    }

    #[test]
    fn accepts_only_allowed_hosts() {
        let hosts = ["allowed.example".to_owned()];
        let is_allowed = |url: &str| DraftUrl::parse(url, &hosts).is_ok();
        assert!(is_allowed("https://allowed.example/?draft_id=abc"));
        assert!(is_allowed(
            "https://user:pw@ALLOWED.example:8443/?draft_id=abc"
        ));
        for url in [
            "https://other.example/?draft_id=abc",
            "https://allowed.example@other.example/?draft_id=abc",
            r"https://allowed.example\@other.example/?draft_id=abc",
            r"https://other.example\@allowed.example/?draft_id=abc",
            "https://allowed.example.other.example/?draft_id=abc",
        ] {
            assert!(!is_allowed(url), "{url}");
        }
    }

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
