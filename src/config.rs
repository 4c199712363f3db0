//! Configuration from environment variables, validated at start.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use url::{Host, Url};

use crate::draft::keys::{DraftKey, FilesKey, SavedKey, prefixes_overlap};

const CORS_ORIGIN: &str = "CORS_ORIGIN";
const DRAFT_BUCKET: &str = "DRAFT_BUCKET";
const DRAFT_KEY: &str = "DRAFT_KEY";
const DRAFT_URL_HOSTS: &str = "DRAFT_URL_HOSTS";
const FILES_KEY: &str = "FILES_KEY";
const MAINTENANCE: &str = "MAINTENANCE";
const MAX_DRAFT_BYTES: &str = "MAX_DRAFT_BYTES";
const SAVE_FILES: &str = "SAVE_FILES";
const SAVED_BUCKET: &str = "SAVED_BUCKET";
const SAVED_KEY: &str = "SAVED_KEY";

/// The environment variables that [`Config`] reads, without those of Lambda and of the SDK.
pub const VARIABLES: &[&str] = &[
    CORS_ORIGIN,
    DRAFT_BUCKET,
    DRAFT_KEY,
    DRAFT_URL_HOSTS,
    FILES_KEY,
    MAINTENANCE,
    MAX_DRAFT_BYTES,
    SAVE_FILES,
    SAVED_BUCKET,
    SAVED_KEY,
];

/// Default of `DRAFT_KEY`.
pub const DEFAULT_DRAFT_KEY: &str = "drafts/{draft_id}/draft_content.json";
/// Default of `SAVED_KEY`.
pub const DEFAULT_SAVED_KEY: &str = "saved/{draft_id}/{version}/draft_content.json";
/// Default of `FILES_KEY`.
pub const DEFAULT_FILES_KEY: &str = "saved-files/{draft_id}/{etag}/{path}";
/// Default of `MAX_DRAFT_BYTES`, in bytes: 64 MiB.
pub const DEFAULT_MAX_DRAFT_BYTES: u64 = 64 << 20;

/// Maximum size of one `PutObject`, in bytes ("Uploading objects", Amazon S3 User Guide: 5 GB).
const MAX_PUT_BYTES: u64 = 5_000_000_000;

/// Memory of the function, in MiB, set by Lambda ("Defined runtime environment variables", AWS
/// Lambda Developer Guide).
const FUNCTION_MEMORY: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
/// Used where Lambda does not set the memory, in MiB.
const DEFAULT_FUNCTION_MEMORY_MIB: u64 = 512;
/// Memory reserved for the process without documents, in MiB.
const PROCESS_MEMORY_MIB: u64 = 64;

/// The configuration of the function.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bucket of the drafts.
    pub draft_bucket: String,
    /// Key template of a draft's document.
    pub draft_key: DraftKey,
    /// Bucket of the versions.
    pub saved_bucket: String,
    /// Key template of a version.
    pub saved_key: SavedKey,
    /// Key template of the copies of a draft's other files; `None` if only the document is saved.
    pub files_key: Option<FilesKey>,
    /// Maximum size of a document, in bytes. Never larger than `memory_bytes`.
    pub max_draft_bytes: u64,
    /// Hosts allowed in a `draft_url`, in the form of [`Url::host_str`]; empty for any.
    pub draft_url_hosts: Vec<String>,
    /// True if every save is answered with `ServiceUnavailable`.
    pub maintenance: bool,
    /// Value of `Access-Control-Allow-Origin`.
    pub cors_origin: Option<String>,
    /// Memory available for documents, in bytes.
    pub memory_bytes: u64,
}

/// The error for a missing or invalid environment variable.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{variable} {problem}")]
pub struct ConfigError {
    /// Name of the variable.
    pub variable: &'static str,
    /// The problem, and the values that are allowed.
    pub problem: String,
}

impl ConfigError {
    fn new(variable: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { variable, problem }
    }

    fn expected(variable: &'static str, expected: impl fmt::Display, got: &str) -> Self {
        Self::new(variable, format!("must be {expected}, got {got:?}"))
    }
}

impl Config {
    /// Reads the environment of the process.
    ///
    /// # Errors
    ///
    /// Returns an error for the first variable that is missing or invalid.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(env::var_os)
    }

    /// Reads the variables that `lookup` returns by name. An empty value counts as unset.
    ///
    /// # Errors
    ///
    /// Returns an error for the first variable that is missing or invalid.
    pub fn from_lookup(
        lookup: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let read = |variable| match lookup(variable).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
            Some(Err(_)) => Err(ConfigError::new(variable, "must be UTF-8")),
        };
        let draft_bucket = read(DRAFT_BUCKET)?.ok_or_else(|| {
            ConfigError::new(
                DRAFT_BUCKET,
                "must be set to the name of the drafts' bucket",
            )
        })?;
        let draft_bucket = parse_bucket(DRAFT_BUCKET, draft_bucket)?;
        let saved_bucket = match read(SAVED_BUCKET)? {
            Some(name) => parse_bucket(SAVED_BUCKET, name)?,
            None => draft_bucket.clone(),
        };
        let draft_key: DraftKey =
            parse_key(DRAFT_KEY, read(DRAFT_KEY)?.as_deref(), DEFAULT_DRAFT_KEY)?;
        let saved_key: SavedKey =
            parse_key(SAVED_KEY, read(SAVED_KEY)?.as_deref(), DEFAULT_SAVED_KEY)?;
        let is_one_bucket = draft_bucket == saved_bucket;
        if is_one_bucket {
            let (saved, draft) = (saved_key.literal_prefix(), draft_key.literal_prefix());
            check_prefixes(SAVED_KEY, saved, DRAFT_KEY, draft)?;
        }
        let files_key = if parse_bool(SAVE_FILES, read(SAVE_FILES)?.as_deref())? {
            let key = read(FILES_KEY)?;
            Some(parse_key(FILES_KEY, key.as_deref(), DEFAULT_FILES_KEY)?)
        } else {
            None
        };
        if let Some(files_key) = &files_key {
            check_files_key(files_key, &draft_key, &saved_key, is_one_bucket)?;
        }
        let memory_mib = read(FUNCTION_MEMORY)?
            .and_then(|text| text.parse().ok())
            .unwrap_or(DEFAULT_FUNCTION_MEMORY_MIB);
        let memory_bytes = memory_mib.saturating_sub(PROCESS_MEMORY_MIB) << 20;
        let max_draft_bytes = parse_max_draft_bytes(read(MAX_DRAFT_BYTES)?)?;
        if max_draft_bytes > memory_bytes {
            return Err(ConfigError::new(
                MAX_DRAFT_BYTES,
                format!(
                    "is {max_draft_bytes}, but {FUNCTION_MEMORY} is {memory_mib} MiB, which leaves \
                     {memory_bytes} bytes for a draft: lower {MAX_DRAFT_BYTES} or raise the \
                     function's memory"
                ),
            ));
        }
        Ok(Self {
            draft_bucket,
            draft_key,
            saved_bucket,
            saved_key,
            files_key,
            max_draft_bytes,
            draft_url_hosts: parse_hosts(&read(DRAFT_URL_HOSTS)?.unwrap_or_default())?,
            maintenance: parse_bool(MAINTENANCE, read(MAINTENANCE)?.as_deref())?,
            cors_origin: read(CORS_ORIGIN)?.map(parse_origin).transpose()?,
            memory_bytes,
        })
    }
}

fn parse_bool(variable: &'static str, value: Option<&str>) -> Result<bool, ConfigError> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(ConfigError::expected(variable, "true or false", other)),
    }
}

/// Checks that the literal prefixes of two templates do not overlap.
fn check_prefixes(
    variable: &'static str,
    prefix: &str,
    other: &str,
    other_prefix: &str,
) -> Result<(), ConfigError> {
    if !prefixes_overlap(prefix, other_prefix) {
        return Ok(());
    }
    let problem = format!(
        "must have a prefix of its own: neither {variable} nor {other} may begin with the literal \
         prefix of the other, got {prefix:?} and {other_prefix:?}"
    );
    Err(ConfigError::new(variable, problem))
}

/// Checks that `FILES_KEY` overlaps with no other template, and that `DRAFT_KEY` and `SAVED_KEY` have
/// the folders that `SAVE_FILES` needs.
fn check_files_key(
    files_key: &FilesKey,
    draft_key: &DraftKey,
    saved_key: &SavedKey,
    is_one_bucket: bool,
) -> Result<(), ConfigError> {
    let prefix = files_key.literal_prefix();
    let (draft, saved) = (draft_key.literal_prefix(), saved_key.literal_prefix());
    check_prefixes(FILES_KEY, prefix, SAVED_KEY, saved)?;
    if is_one_bucket {
        check_prefixes(FILES_KEY, prefix, DRAFT_KEY, draft)?;
    }
    if !draft_key.has_folder() {
        let problem = "must have a folder for each draft if SAVE_FILES is true, like";
        return Err(ConfigError::new(
            DRAFT_KEY,
            format!("{problem} {DEFAULT_DRAFT_KEY}"),
        ));
    }
    if !saved_key.has_room_for_manifest() {
        let problem = "must have a folder for each version if SAVE_FILES is true, in which files.json \
                       can be a key of its own, like";
        return Err(ConfigError::new(
            SAVED_KEY,
            format!("{problem} {DEFAULT_SAVED_KEY}"),
        ));
    }
    Ok(())
}

/// Accepts any name or access point without white space. S3 checks whether the bucket exists.
fn parse_bucket(variable: &'static str, name: String) -> Result<String, ConfigError> {
    if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(ConfigError::expected(
            variable,
            "the name of an S3 bucket",
            &name,
        ));
    }
    Ok(name)
}

fn parse_key<T>(
    variable: &'static str,
    value: Option<&str>,
    default: &'static str,
) -> Result<T, ConfigError>
where
    T: FromStr<Err: fmt::Display>,
{
    let value = value.unwrap_or(default);
    value.parse().map_err(|error| {
        ConfigError::new(variable, format!("{error}, like {default}, got {value:?}"))
    })
}

fn parse_max_draft_bytes(value: Option<String>) -> Result<u64, ConfigError> {
    let Some(text) = value else {
        return Ok(DEFAULT_MAX_DRAFT_BYTES);
    };
    match text.parse() {
        Ok(bytes) if (1..=MAX_PUT_BYTES).contains(&bytes) => Ok(bytes),
        _ => {
            let expected = format!("an integer between 1 and {MAX_PUT_BYTES}");
            Err(ConfigError::expected(MAX_DRAFT_BYTES, expected, &text))
        }
    }
}

/// Parses a comma-separated list of hosts.
fn parse_hosts(list: &str) -> Result<Vec<String>, ConfigError> {
    if list.trim().is_empty() {
        return Ok(Vec::new());
    }
    list.split(',')
        .map(str::trim)
        .map(|name| match Host::parse(name) {
            // The URL Standard allows `*` in a host, but this is not a pattern.
            Ok(host) if !name.contains('*') => Ok(host.to_string()),
            _ => {
                let expected = "host names without scheme and port, separated by commas";
                Err(ConfigError::expected(DRAFT_URL_HOSTS, expected, list))
            }
        })
        .collect()
}

/// Accepts `*` and serialized origins (RFC 6454, section 6.2), the values that are valid in
/// `Access-Control-Allow-Origin`.
fn parse_origin(value: String) -> Result<String, ConfigError> {
    let is_origin = |value: &str| {
        Url::parse(value).is_ok_and(|url| url.origin().ascii_serialization() == value)
    };
    if value == "*" || is_origin(&value) {
        return Ok(value);
    }
    let expected = "an origin like https://example.com, or *";
    Err(ConfigError::expected(CORS_ORIGIN, expected, &value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            let variable = variables
                .iter()
                .rev()
                .find(|(variable, _)| *variable == name);
            variable.map(|(_, value)| OsString::from(value))
        })
    }

    fn read_with(variable: &str, value: &str) -> Result<Config, ConfigError> {
        read(&[("DRAFT_BUCKET", "drafts"), (variable, value)])
    }

    #[test]
    fn needs_only_the_bucket() {
        let config = read(&[("DRAFT_BUCKET", "drafts")]).expect("a valid configuration");
        assert_eq!(config.draft_bucket, "drafts");
        assert_eq!(config.saved_bucket, "drafts");
        assert_eq!(Ok(config.draft_key), DEFAULT_DRAFT_KEY.parse());
        assert_eq!(Ok(config.saved_key), DEFAULT_SAVED_KEY.parse());
        assert_eq!(config.max_draft_bytes, 64 << 20);
        assert_eq!(config.memory_bytes, 448 << 20);
        assert!(config.draft_url_hosts.is_empty());
        assert!(!config.maintenance);
        assert_eq!(config.cors_origin, None);
    }

    #[test]
    fn reads_each_variable() {
        let config = read(&[
            ("DRAFT_BUCKET", "drafts"),
            ("DRAFT_KEY", "a/{draft_id}"),
            ("SAVED_BUCKET", "saved"),
            ("SAVED_KEY", "a/{draft_id}/{version}"),
            ("MAX_DRAFT_BYTES", "1000"),
            ("DRAFT_URL_HOSTS", " Example.com, 用户.example,[::1] "),
            ("MAINTENANCE", "true"),
            ("SAVE_FILES", "false"),
            ("CORS_ORIGIN", "https://example.com:8443"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ])
        .expect("a valid configuration");
        assert_eq!(config.saved_bucket, "saved");
        assert_eq!(Ok(config.draft_key), "a/{draft_id}".parse());
        assert_eq!(Ok(config.saved_key), "a/{draft_id}/{version}".parse());
        assert_eq!(config.max_draft_bytes, 1000);
        let hosts = ["example.com", "xn--zouo53b.example", "[::1]"];
        assert_eq!(config.draft_url_hosts, hosts);
        assert!(config.maintenance);
        assert_eq!(
            config.cors_origin.as_deref(),
            Some("https://example.com:8443")
        );
        assert_eq!(config.memory_bytes, 192 << 20);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        for variable in VARIABLES {
            let result = read_with(variable, "");
            if *variable == "DRAFT_BUCKET" {
                let error = result.expect_err("the bucket is required");
                assert_eq!(error.variable, "DRAFT_BUCKET");
            } else {
                assert!(result.is_ok(), "{variable}");
            }
        }
    }

    #[test]
    fn an_invalid_value_is_named_with_what_is_expected() {
        for (variable, value, message) in [
            (
                "DRAFT_BUCKET",
                "my drafts",
                r#"must be the name of an S3 bucket, got "my drafts""#,
            ),
            (
                "SAVED_BUCKET",
                "a\nb",
                r#"must be the name of an S3 bucket, got "a\nb""#,
            ),
            (
                "DRAFT_KEY",
                "drafts/x",
                r#"must contain {draft_id} exactly once, like drafts/{draft_id}/draft_content.json, got "drafts/x""#,
            ),
            (
                "SAVED_KEY",
                "saved/{draft_id}",
                r#"must contain {version} exactly once, like saved/{draft_id}/{version}/draft_content.json, got "saved/{draft_id}""#,
            ),
            (
                "SAVED_KEY",
                "drafts/{draft_id}/{version}",
                r#"must have a prefix of its own: neither SAVED_KEY nor DRAFT_KEY may begin with the literal prefix of the other, got "drafts/" and "drafts/""#,
            ),
            (
                "MAX_DRAFT_BYTES",
                "x",
                r#"must be an integer between 1 and 5000000000, got "x""#,
            ),
            (
                "MAX_DRAFT_BYTES",
                "0",
                r#"must be an integer between 1 and 5000000000, got "0""#,
            ),
            (
                "MAX_DRAFT_BYTES",
                "5000000001",
                r#"must be an integer between 1 and 5000000000, got "5000000001""#,
            ),
            (
                "MAX_DRAFT_BYTES",
                "469762049",
                "is 469762049, but AWS_LAMBDA_FUNCTION_MEMORY_SIZE is 512 MiB, which leaves 469762048 bytes for a draft: lower MAX_DRAFT_BYTES or raise the function's memory",
            ),
            (
                "DRAFT_URL_HOSTS",
                "https://a.example",
                r#"must be host names without scheme and port, separated by commas, got "https://a.example""#,
            ),
            (
                "DRAFT_URL_HOSTS",
                "a.example,,b.example",
                r#"must be host names without scheme and port, separated by commas, got "a.example,,b.example""#,
            ),
            (
                "DRAFT_URL_HOSTS",
                "*.example",
                r#"must be host names without scheme and port, separated by commas, got "*.example""#,
            ),
            ("MAINTENANCE", "yes", r#"must be true or false, got "yes""#),
            (
                "CORS_ORIGIN",
                "nonsense",
                r#"must be an origin like https://example.com, or *, got "nonsense""#,
            ),
            (
                "CORS_ORIGIN",
                "https://a.example,https://b.example",
                r#"must be an origin like https://example.com, or *, got "https://a.example,https://b.example""#,
            ),
            (
                "CORS_ORIGIN",
                "https://a.example/",
                r#"must be an origin like https://example.com, or *, got "https://a.example/""#,
            ),
        ] {
            let error = read_with(variable, value).expect_err(value);
            assert_eq!(error.to_string(), format!("{variable} {message}"));
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_value_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;

        let error = Config::from_lookup(|_| Some(OsString::from_vec(vec![0xff])))
            .expect_err("the value is not UTF-8");
        assert_eq!(error.to_string(), "DRAFT_BUCKET must be UTF-8");
    }

    #[test]
    fn saving_files_needs_a_folder_for_each_draft_and_version() {
        let read = |variables: &[(&str, &str)]| {
            let required = [("DRAFT_BUCKET", "drafts"), ("SAVE_FILES", "true")];
            read(&[&required, variables].concat())
        };
        let config = read(&[]).expect("a valid configuration");
        assert_eq!(config.files_key.map(Ok), Some(DEFAULT_FILES_KEY.parse()));
        for (variable, value, problem) in [
            (
                "DRAFT_KEY",
                "drafts/{draft_id}.json",
                "must have a folder for each draft",
            ),
            (
                "SAVED_KEY",
                "saved/{draft_id}/{version}.json",
                "must have a folder for each version",
            ),
            (
                "FILES_KEY",
                "files/{draft_id}/{path}",
                "must contain {etag} exactly once",
            ),
            (
                "FILES_KEY",
                "saved/{draft_id}/{etag}/{path}",
                "must have a prefix of its own",
            ),
            (
                "FILES_KEY",
                "drafts/{draft_id}/{etag}/{path}",
                "must have a prefix of its own",
            ),
        ] {
            let error = read(&[(variable, value)]).expect_err(value);
            assert_eq!(error.variable, variable, "{value}");
            assert!(error.problem.starts_with(problem), "{error}");
        }
        let other_bucket = read(&[
            ("SAVED_BUCKET", "saved"),
            ("FILES_KEY", "drafts/{draft_id}/{etag}/{path}"),
        ]);
        assert!(other_bucket.is_ok(), "buckets do not share keys");
    }

    #[test]
    fn the_largest_draft_fills_the_memory() {
        assert!(read_with("MAX_DRAFT_BYTES", "469762048").is_ok());
    }
}
