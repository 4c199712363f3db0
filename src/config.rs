//! The configuration, from the environment: read and checked once, at start.

use std::env;
use std::str::FromStr;

use thiserror::Error;
use url::Host;

use crate::keys::{DraftKey, SavedKey};

/// The environment variables that this function reads, beside those of the SDK
/// and of Lambda itself.
pub const VARIABLES: [&str; 8] = [
    CORS_ORIGIN,
    DRAFT_BUCKET,
    DRAFT_KEY,
    SAVED_BUCKET,
    SAVED_KEY,
    MAX_DRAFT_BYTES,
    DRAFT_URL_HOSTS,
    MAINTENANCE,
];

const CORS_ORIGIN: &str = "CORS_ORIGIN";
const DRAFT_BUCKET: &str = "DRAFT_BUCKET";
const DRAFT_KEY: &str = "DRAFT_KEY";
const SAVED_BUCKET: &str = "SAVED_BUCKET";
const SAVED_KEY: &str = "SAVED_KEY";
const MAX_DRAFT_BYTES: &str = "MAX_DRAFT_BYTES";
const DRAFT_URL_HOSTS: &str = "DRAFT_URL_HOSTS";
const MAINTENANCE: &str = "MAINTENANCE";

/// The default of `DRAFT_KEY`.
pub const DEFAULT_DRAFT_KEY: &str = "drafts/{draft_id}/draft_content.json";
/// The default of `SAVED_KEY`.
pub const DEFAULT_SAVED_KEY: &str = "saved/{draft_id}/{version}/draft_content.json";
/// The default of `MAX_DRAFT_BYTES`, in bytes: 64 MiB.
pub const DEFAULT_MAX_DRAFT_BYTES: u64 = 64 << 20;

/// "Amazon S3 objects overview" (Amazon S3 User Guide): one PUT takes up to 5 GB.
const LARGEST_PUT_BYTES: u64 = 5_000_000_000;

/// Set by Lambda, in MiB ("Defined runtime environment variables", AWS Lambda Developer Guide).
const FUNCTION_MEMORY: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
/// For where Lambda is not: the template's default.
const DEFAULT_FUNCTION_MEMORY_MIB: u64 = 512;
/// What the process takes beside documents, with room to spare.
const RESIDENT_MIB: u64 = 64;

/// What the function was told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the drafts are.
    pub draft_bucket: String,
    /// The key of a draft's document.
    pub draft_key: DraftKey,
    /// Where the versions go.
    pub saved_bucket: String,
    /// The key of a version.
    pub saved_key: SavedKey,
    /// The largest document that is saved, in bytes.
    pub max_draft_bytes: u64,
    /// The hosts that a `draft_url` may name; empty for any.
    pub draft_url_hosts: Vec<String>,
    /// Whether every save is put off.
    pub maintenance: bool,
    /// The origin whose pages may read the answers, or `*`.
    pub cors_origin: Option<String>,
    /// The memory that documents may take at a time, in bytes.
    pub memory_bytes: u64,
}

/// A variable that is not what it may be.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    /// The variable's name.
    pub variable: &'static str,
    /// What is wrong with it, and what it may be.
    pub problem: String,
}

impl Config {
    /// Reads the environment.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or wrong.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(|name| match env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(env::VarError::NotPresent) => Ok(None),
            Err(env::VarError::NotUnicode(_)) => Err("is not UTF-8".to_owned()),
        })
    }

    /// Reads the variables from `lookup`, which gives a variable's value, or none
    /// where it is not set.
    ///
    /// # Errors
    ///
    /// The first variable that is missing or wrong.
    pub fn read(
        lookup: impl Fn(&'static str) -> Result<Option<String>, String>,
    ) -> Result<Self, ConfigError> {
        let read = |variable: &'static str| {
            lookup(variable).map_err(|problem| ConfigError { variable, problem })
        };
        let draft_bucket = read(DRAFT_BUCKET)?.ok_or_else(|| ConfigError {
            variable: DRAFT_BUCKET,
            problem: "is not set: it names the bucket that the drafts are in".to_owned(),
        })?;
        let draft_bucket = bucket(DRAFT_BUCKET, draft_bucket)?;
        let saved_bucket = match read(SAVED_BUCKET)? {
            Some(name) => bucket(SAVED_BUCKET, name)?,
            None => draft_bucket.clone(),
        };
        let draft_key: DraftKey =
            template(DRAFT_KEY, read(DRAFT_KEY)?.as_deref(), DEFAULT_DRAFT_KEY)?;
        let saved_key: SavedKey =
            template(SAVED_KEY, read(SAVED_KEY)?.as_deref(), DEFAULT_SAVED_KEY)?;
        if saved_key.may_match(&draft_key) {
            return Err(ConfigError {
                variable: SAVED_KEY,
                problem: format!(
                    "gives keys that {DRAFT_KEY} would take for a draft's, so that a save \
                     would set off the next; put the versions under another prefix, \
                     for example {DEFAULT_SAVED_KEY}"
                ),
            });
        }
        let memory_mib = read(FUNCTION_MEMORY)?.and_then(|text| text.parse().ok());
        Ok(Self {
            draft_bucket,
            draft_key,
            saved_bucket,
            saved_key,
            max_draft_bytes: match read(MAX_DRAFT_BYTES)? {
                Some(text) => max_draft_bytes(&text)?,
                None => DEFAULT_MAX_DRAFT_BYTES,
            },
            draft_url_hosts: hosts(&read(DRAFT_URL_HOSTS)?.unwrap_or_default())?,
            maintenance: match read(MAINTENANCE)?.as_deref() {
                None | Some("" | "false") => false,
                Some("true") => true,
                Some(other) => {
                    return Err(ConfigError {
                        variable: MAINTENANCE,
                        problem: format!("is {other:?}, and may be \"true\" or \"false\""),
                    });
                }
            },
            cors_origin: cors_origin(read(CORS_ORIGIN)?)?,
            memory_bytes: memory_mib
                .unwrap_or(DEFAULT_FUNCTION_MEMORY_MIB)
                .saturating_sub(RESIDENT_MIB)
                << 20,
        })
    }
}

/// A bucket's name, or an access point's; S3 itself knows which of them exist.
fn bucket(variable: &'static str, name: String) -> Result<String, ConfigError> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(ConfigError {
            variable,
            problem: format!("is {name:?}, and has to be the name of an S3 bucket"),
        });
    }
    Ok(name)
}

/// An origin is sent as a header, so it is printable; browsers know whether it is theirs.
fn cors_origin(value: Option<String>) -> Result<Option<String>, ConfigError> {
    let origin = value.filter(|origin| !origin.is_empty());
    match origin {
        Some(origin) if !origin.bytes().all(|byte| byte.is_ascii_graphic()) => Err(ConfigError {
            variable: CORS_ORIGIN,
            problem: format!("is {origin:?}, and may be an origin, like https://example.com, or *"),
        }),
        origin => Ok(origin),
    }
}

fn template<T>(
    variable: &'static str,
    value: Option<&str>,
    default: &'static str,
) -> Result<T, ConfigError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    let value = value.unwrap_or(default);
    value.parse().map_err(|error| ConfigError {
        variable,
        problem: format!("is {value:?}, but {error}; its default is {default}"),
    })
}

fn max_draft_bytes(text: &str) -> Result<u64, ConfigError> {
    match text.parse() {
        Ok(bytes) if (1..=LARGEST_PUT_BYTES).contains(&bytes) => Ok(bytes),
        _ => Err(ConfigError {
            variable: MAX_DRAFT_BYTES,
            problem: format!(
                "is {text:?}, and has to be a whole number of bytes from 1 to {LARGEST_PUT_BYTES}"
            ),
        }),
    }
}

/// The hosts in a comma-separated list, as [`Url::host_str`](url::Url::host_str) gives them.
fn hosts(list: &str) -> Result<Vec<String>, ConfigError> {
    let names = list.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty() || !list.trim().is_empty())
        .map(|name| match Host::parse(name) {
            // A pattern would be a host's name to the URL Standard.
            Ok(host) if !name.contains('*') => Ok(host.to_string()),
            _ => Err(ConfigError {
                variable: DRAFT_URL_HOSTS,
                problem: format!(
                    "has {name:?} in it, and has to be a comma-separated list of host names, \
                     without scheme and port"
                ),
            }),
        })
        .collect()
}
