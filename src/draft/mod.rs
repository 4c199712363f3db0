//! A draft and its versions, without I/O: ids and URLs, documents, versions, and the keys of objects.

pub mod document;
pub mod keys;
pub mod version;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use url::Url;

pub use self::version::{Sha256Digest, Version};
use crate::error::BoxError;

/// The id of a draft: 1 to 64 ASCII letters, digits, `_` and `-`. Such an id is safe in object
/// keys and in log lines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DraftId(String);

impl DraftId {
    /// Maximum length, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Maximum length of a draft's URL, in characters.
    pub const MAX_URL_CHARS: usize = 2048;

    /// Returns the id in the URL of a draft, as returned by `create_draft`. The URL is never fetched.
    ///
    /// # Errors
    ///
    /// Returns an error unless `url`, without the white space around it, is an absolute `http` or `https`
    /// URL (WHATWG URL Standard) with one valid `draft_id` in its query. If `allowed_hosts` is not empty, it
    /// must contain the URL's host, written as [`Url::host_str`] returns it. The error does not repeat the URL.
    pub fn from_url(url: &str, allowed_hosts: &[String]) -> Result<Self, BoxError> {
        let url = url.trim();
        if url.chars().nth(Self::MAX_URL_CHARS).is_some() {
            return Err(
                format!("the URL is longer than {} characters", Self::MAX_URL_CHARS).into(),
            );
        }
        // RFC 3986, section 2 allows none of these characters, and URL parsers drop or replace them.
        let before_query = url.split(['?', '#']).next().unwrap_or_default();
        if url.chars().any(|c| c.is_control() || c == ' ') || before_query.contains('\\') {
            return Err("the URL contains a space, a control character or a backslash".into());
        }
        // The URL Standard also accepts `http:host`.
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        if !is_http || rest.starts_with(['/', '?', '#']) {
            return Err("the URL is not an absolute http or https URL".into());
        }
        let url = Url::parse(url)?;
        let host = url.host_str().unwrap_or_default();
        if !allowed_hosts.is_empty() && !allowed_hosts.iter().any(|allowed| allowed == host) {
            return Err("the host of the URL is not listed in DRAFT_URL_HOSTS".into());
        }
        let ids = url.query_pairs().filter(|(name, _)| name == "draft_id");
        let mut ids = ids.map(|(_, id)| id);
        let id = ids.next().ok_or("the URL has no draft_id parameter")?;
        if ids.any(|other| other != id) {
            return Err("the URL has different draft_id parameters".into());
        }
        Ok(id.parse()?)
    }

    /// Returns whether an id may contain `byte`.
    pub const fn is_allowed(byte: &u8) -> bool {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
    }

    /// Returns the id as a string slice.
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
        let is_valid = text.as_bytes().iter().all(Self::is_allowed);
        if (1..=Self::MAX_BYTES).contains(&text.len()) && is_valid {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        let id = DraftId::from_url(text, &[]).map_err(|error| error.to_string())?;
        Ok(id.to_string())
    }

    #[test]
    fn accepts_ids_of_all_known_forms() {
        for id in [
            "20251126220753b7e35362",
            "2025092811473036584258",
            "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c",
            "_-",
            &"a".repeat(64),
        ] {
            assert_eq!(id.parse::<DraftId>().expect("a valid id").as_str(), id);
        }
    }

    #[test]
    fn refuses_urls_without_one_draft_id() {
        let (none, different) = (
            "the URL has no draft_id parameter",
            "the URL has different draft_id parameters",
        );
        for (url, expected) in [
            ("https://example.com/", none),
            ("https://example.com/?Draft_id=abc", none),
            ("https://example.com/#?draft_id=abc", none),
            ("https://example.com/?draft_id[]=abc", none),
            ("https://example.com/?x=draft_id=abc", none),
            ("https://example.com/?draft_id=a&draft_id=b", different),
            ("https://example.com/?draft_id=a&draft_id=", different),
            (
                "https://example.com/?draft_id=a&draft_id=a&draft%5Fid=b",
                different,
            ),
        ] {
            assert_eq!(parse(url), Err(expected.to_owned()), "{url}");
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
            "https://example.com/ ?draft_id=abc",
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
        let is_allowed = |url: &str| DraftId::from_url(url, &hosts).is_ok();
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
}
