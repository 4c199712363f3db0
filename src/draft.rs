//! What a draft is: its URL, its id, its document and the versions of it.
//! Nothing here does I/O.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use url::Url;

use crate::json::{self, NotJson};

/// The identifier of a draft: 1 to 64 ASCII letters, digits, `_` and `-`,
/// which makes it safe inside an object key and inside a log line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DraftId(String);

impl DraftId {
    /// The longest id, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Whether `byte` may be part of an id.
    #[must_use]
    pub const fn allows(byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not a draft id.
#[derive(Debug, Error)]
#[error("a draft id is 1 to 64 of A-Z a-z 0-9 _ -")]
pub struct InvalidDraftId;

impl FromStr for DraftId {
    type Err = InvalidDraftId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(Self::allows) {
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

/// Why a text is not the URL of a draft.
#[derive(Debug, Error)]
pub enum InvalidDraftUrl {
    /// Over [`DraftUrl::MAX_CHARS`].
    #[error("the URL is longer than {} characters", DraftUrl::MAX_CHARS)]
    TooLong,
    /// A control character or white space, which no URL contains (RFC 3986, section 2)
    /// and which URL parsers quietly drop.
    #[error("the URL contains white space or a control character")]
    NotPrintable,
    /// Not `http://` or `https://` at its start.
    #[error("the URL is not an absolute http or https URL")]
    NotHttp,
    /// Not a URL.
    #[error("the URL is not well formed")]
    Malformed(#[from] url::ParseError),
    /// A host that is not in `DRAFT_URL_HOSTS`.
    #[error("the URL's host is not one of those allowed")]
    HostNotAllowed,
    /// No `draft_id` in the query, or more than one.
    #[error("the URL has {0} draft_id parameters, not one")]
    NotOneId(usize),
    /// A `draft_id` that is none.
    #[error(transparent)]
    Id(#[from] InvalidDraftId),
}

/// The URL of a draft, of which only the draft's id is of use: it is never fetched.
#[derive(Debug)]
pub struct DraftUrl {
    id: DraftId,
}

impl DraftUrl {
    /// The longest URL, in characters.
    pub const MAX_CHARS: usize = 2048;

    /// Reads `text`; where `hosts` is not empty, the URL's host has to be in it
    /// (lower case, as [`Url::host_str`] gives them).
    ///
    /// # Errors
    ///
    /// If `text` is not an absolute `http` or `https` URL (WHATWG URL Standard)
    /// with a host and exactly one usable `draft_id` in its query.
    pub fn parse(text: &str, hosts: &[String]) -> Result<Self, InvalidDraftUrl> {
        if text.chars().nth(Self::MAX_CHARS).is_some() {
            return Err(InvalidDraftUrl::TooLong);
        }
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(InvalidDraftUrl::NotPrintable);
        }
        // The URL Standard also reads `http:host` and `http:\\host`; nobody means those.
        let (scheme, rest) = text.split_once("://").ok_or(InvalidDraftUrl::NotHttp)?;
        let http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        if !http || rest.starts_with(['/', '\\', '?', '#']) {
            return Err(InvalidDraftUrl::NotHttp);
        }
        let url = Url::parse(text)?;
        let host = url.host_str().unwrap_or_default();
        if !hosts.is_empty() && !hosts.iter().any(|allowed| allowed == host) {
            return Err(InvalidDraftUrl::HostNotAllowed);
        }
        let mut ids = url.query_pairs().filter(|(name, _)| name == "draft_id");
        match (ids.next(), ids.count()) {
            (Some((_, id)), 0) => Ok(Self { id: id.parse()? }),
            (first, more) => Err(InvalidDraftUrl::NotOneId(
                usize::from(first.is_some()) + more,
            )),
        }
    }

    /// The id of the draft that the URL names.
    #[must_use]
    pub fn into_id(self) -> DraftId {
        self.id
    }
}

/// Why bytes are not the document of a draft.
#[derive(Debug, Error)]
pub enum InvalidDocument {
    /// Nothing in it, as an editor leaves it that overwrites in place.
    #[error("the document is empty")]
    Empty,
    /// Not UTF-8.
    #[error("the document is not UTF-8")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// JSON, but no object.
    #[error("the document is not a JSON object")]
    NotAnObject,
    /// Cut short or mangled.
    #[error("the document is not JSON: {0}")]
    NotJson(#[from] NotJson),
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Checks that `bytes` are one complete JSON object, as Python's `json` reads it:
/// `NaN`, `Infinity` and lone surrogate escapes pass, because editors write them.
///
/// # Errors
///
/// If the document is empty, cut short, mangled, or no object.
pub fn check_document(bytes: &[u8]) -> Result<(), InvalidDocument> {
    // Python drops a byte order mark; it is stored all the same.
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes)?;
    match text.trim_ascii_start().bytes().next() {
        None => Err(InvalidDocument::Empty),
        Some(b'{') => Ok(json::check(text)?),
        Some(_) => Err(InvalidDocument::NotAnObject),
    }
}

/// The SHA-256 of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of what `hasher` was fed.
    #[must_use]
    pub fn from_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The digest's 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256Digest {
    /// All 64 hexadecimal digits, lower case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The name of a version: when its state was written, and what that state is.
///
/// `{YYYYMMDDTHHMMSSZ}-{first 16 hex digits of the SHA-256}`: names sort as their
/// times, and equal states have equal names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(String);

const SECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
const HASH_DIGITS: usize = 16;

impl Version {
    /// How long a name is, in bytes.
    pub const BYTES: usize = "YYYYMMDDTHHMMSSZ-".len() + HASH_DIGITS;

    /// The version of a draft whose object was last modified at `last_modified`
    /// (exact to the second, which is what S3 tells) and has the digest `sha256`.
    ///
    /// # Errors
    ///
    /// None for the years 0 to 9999, which are all that S3 can tell.
    pub fn new(
        last_modified: OffsetDateTime,
        sha256: &Sha256Digest,
    ) -> Result<Self, time::error::Format> {
        let mut name = last_modified
            .to_offset(time::UtcOffset::UTC)
            .format(SECONDS)?;
        name.push('-');
        name.push_str(&sha256.to_string()[..HASH_DIGITS]);
        Ok(Self(name))
    }

    /// The name as text.
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
