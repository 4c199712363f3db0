//! Configuration from environment variables, validated at start.

use std::ffi::OsString;
use std::fmt::Display;
use std::str::FromStr;

use thiserror::Error;
use url::{Host, Url};

use crate::draft::keys::{DraftPrefix, InvalidDraftPrefix};

/// Default of `MAX_DRAFT_BYTES`: 64 MiB.
const DEFAULT_MAX_DRAFT_BYTES: u64 = 64 << 20;
/// Largest file that is copied by one request, in bytes: 256 MiB.
pub const MAX_COPY_BYTES: u64 = 256 << 20;
/// Minimum size of the parts of a larger file, in bytes: 64 MiB.
pub const MIN_PART_BYTES: u64 = 64 << 20;
/// Maximum size of one `PutObject`, in bytes ("Uploading objects", Amazon S3 User Guide: 5 GB).
const MAX_PUT_BYTES: u64 = 5_000_000_000;

/// Memory of the function in MiB, set by Lambda ("Defined runtime environment variables", AWS Lambda
/// Developer Guide).
const FUNCTION_MEMORY: &str = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE";
/// Used where Lambda does not set the memory, in MiB.
const DEFAULT_FUNCTION_MEMORY_MIB: u64 = 512;
/// Memory reserved for the process without documents, in MiB.
const PROCESS_MEMORY_MIB: u64 = 64;

/// Variables of earlier releases, and what to do in their place.
const REMOVED: [(&str, &str); 4] = [
    ("AWS_CA_BUNDLE", "use SSL_CERT_FILE"),
    ("DRAFT_KEY", "use DRAFT_PREFIX"),
    ("FILES_KEY", "remove it, copies are below saved-files/"),
    ("SAVED_KEY", "remove it, versions are below saved/"),
];

/// The configuration of the function.
#[derive(Debug)]
pub struct Config {
    /// Bucket of the drafts.
    pub draft_bucket: String,
    /// Bucket of the versions.
    pub saved_bucket: String,
    /// Prefix of all drafts.
    pub draft_prefix: DraftPrefix,
    /// True if a version has all files of a draft.
    pub save_files: bool,
    /// Maximum size of a document, in bytes. Never larger than `memory_bytes`.
    pub max_draft_bytes: u64,
    /// Memory available for the data of saves, in bytes.
    pub memory_bytes: u64,
    /// Largest file that is copied by one request, in bytes.
    pub max_copy_bytes: u64,
    /// Minimum size of the parts of a larger file, in bytes.
    pub min_part_bytes: u64,
    /// Hosts allowed in a `draft_url`, in the form of [`Url::host_str`]; empty for any.
    pub draft_url_hosts: Vec<String>,
    /// True if every save is answered with `ServiceUnavailable`.
    pub maintenance: bool,
    /// Value of `Access-Control-Allow-Origin`.
    pub cors_origin: Option<String>,
    /// Form of the responses over HTTP.
    pub response_format: ResponseFormat,
}

/// The form of the responses over HTTP (`docs/api.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseFormat {
    /// A status, and errors as `detail`.
    #[default]
    Detail,
    /// Status 200, and the result as `code` and `message`.
    Code,
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

impl Config {
    /// Reads the variables that `lookup` returns by name. An empty value counts as unset.
    ///
    /// # Errors
    ///
    /// Returns an error for the first variable that is missing or invalid.
    pub fn from_lookup(
        lookup: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let env = Environment(lookup);
        for (removed, advice) in REMOVED {
            if env.read(removed)?.is_some() {
                let problem = format!("is no longer read: {advice}");
                return Err(error(removed, problem));
            }
        }
        let bucket = "must be the name of an S3 bucket";
        let hosts = "must be host names without scheme and port, separated by commas";
        let origin = "must be an origin like https://example.com, or *";
        let format = "must be detail or code";
        let boolean = "must be true or false";
        let bytes = format!("must be an integer between 1 and {MAX_PUT_BYTES}");

        let draft_bucket = env.parse("DRAFT_BUCKET", bucket, parse_bucket)?;
        let missing = "must be set to the name of the drafts' bucket";
        let draft_bucket = draft_bucket.ok_or_else(|| error("DRAFT_BUCKET", missing))?;
        let saved_bucket = env.parse("SAVED_BUCKET", bucket, parse_bucket)?;
        let draft_prefix = env.parse("DRAFT_PREFIX", InvalidDraftPrefix, parse)?;
        let save_files = env.parse("SAVE_FILES", boolean, parse)?;
        let max_draft_bytes = env.parse("MAX_DRAFT_BYTES", bytes, parse_max_draft_bytes)?;
        let draft_url_hosts = env.parse("DRAFT_URL_HOSTS", hosts, parse_hosts)?;
        let maintenance = env.parse("MAINTENANCE", boolean, parse)?;
        let cors_origin = env.parse("CORS_ORIGIN", origin, parse_origin)?;
        let response_format = env.parse("RESPONSE_FORMAT", format, parse_response_format)?;
        let memory_mib = env.parse(FUNCTION_MEMORY, "must be the memory in MiB", parse)?;

        let saved_bucket = saved_bucket.unwrap_or_else(|| draft_bucket.clone());
        let draft_prefix: DraftPrefix = draft_prefix.unwrap_or_default();
        if draft_bucket == saved_bucket && draft_prefix.overlaps_versions() {
            let problem = format!(
                "must not overlap saved/ and saved-files/ in the same bucket, got {:?}",
                draft_prefix.as_str()
            );
            return Err(error("DRAFT_PREFIX", problem));
        }
        let max_draft_bytes = max_draft_bytes.unwrap_or(DEFAULT_MAX_DRAFT_BYTES);
        let memory_mib = memory_mib.unwrap_or(DEFAULT_FUNCTION_MEMORY_MIB);
        let memory_bytes = memory_mib.saturating_sub(PROCESS_MEMORY_MIB) << 20;
        if max_draft_bytes > memory_bytes {
            let problem = format!(
                "is {max_draft_bytes}, but {FUNCTION_MEMORY} is {memory_mib} MiB, which leaves \
                 {memory_bytes} bytes for a draft: lower MAX_DRAFT_BYTES or raise the function's memory"
            );
            return Err(error("MAX_DRAFT_BYTES", problem));
        }
        Ok(Self {
            draft_bucket,
            saved_bucket,
            draft_prefix,
            save_files: save_files.unwrap_or_default(),
            max_draft_bytes,
            memory_bytes,
            max_copy_bytes: MAX_COPY_BYTES,
            min_part_bytes: MIN_PART_BYTES,
            draft_url_hosts: draft_url_hosts.unwrap_or_default(),
            maintenance: maintenance.unwrap_or_default(),
            cors_origin,
            response_format: response_format.unwrap_or_default(),
        })
    }
}

fn error(variable: &'static str, problem: impl Into<String>) -> ConfigError {
    let problem = problem.into();
    ConfigError { variable, problem }
}

/// The variables that `lookup` returns by name.
struct Environment<F>(F);

impl<F: Fn(&'static str) -> Option<OsString>> Environment<F> {
    fn read(&self, variable: &'static str) -> Result<Option<String>, ConfigError> {
        match (self.0)(variable).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
            Some(Err(_)) => Err(error(variable, "must be UTF-8")),
        }
    }

    /// Parses a variable, or returns `None` if it is not set. `expected` describes the values that `parse`
    /// accepts.
    fn parse<T>(
        &self,
        variable: &'static str,
        expected: impl Display,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.read(variable)? else {
            return Ok(None);
        };
        let parsed = parse(&value).map(Some);
        parsed.ok_or_else(|| error(variable, format!("{expected}, got {value:?}")))
    }
}

fn parse<T: FromStr>(value: &str) -> Option<T> {
    value.parse().ok()
}

/// Accepts any name, and the ARN of an access point. S3 checks whether the bucket exists.
fn parse_bucket(name: &str) -> Option<String> {
    let is_invalid = |c: char| c.is_whitespace() || c.is_control();
    let is_name = name.starts_with("arn:") || !name.contains(['/', ':']);
    (is_name && !name.contains(is_invalid)).then(|| name.to_owned())
}

fn parse_max_draft_bytes(value: &str) -> Option<u64> {
    parse(value).filter(|bytes| (1..=MAX_PUT_BYTES).contains(bytes))
}

/// Parses a comma-separated list of hosts.
fn parse_hosts(list: &str) -> Option<Vec<String>> {
    if list.trim().is_empty() {
        return Some(Vec::new());
    }
    let hosts = list.split(',').map(|name| {
        // The URL Standard allows `*` in a host, but this is not a pattern.
        let host = Host::parse(name.trim()).ok();
        let host = host.filter(|_| !name.contains('*'))?;
        Some(host.to_string())
    });
    hosts.collect()
}

/// Accepts `*` and serialized origins (RFC 6454, section 6.2), the values that are valid in
/// `Access-Control-Allow-Origin`.
fn parse_origin(value: &str) -> Option<String> {
    let is_origin = Url::parse(value).is_ok_and(|url| url.origin().ascii_serialization() == value);
    let is_one = is_origin && !value.contains('*');
    (value == "*" || is_one).then(|| value.to_owned())
}

fn parse_response_format(value: &str) -> Option<ResponseFormat> {
    match value {
        "detail" => Some(ResponseFormat::Detail),
        "code" => Some(ResponseFormat::Code),
        _ => None,
    }
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
        assert_eq!(config.max_draft_bytes, 64 << 20);
        assert_eq!(config.memory_bytes, 448 << 20);
        assert_eq!(config.draft_prefix.as_str(), "drafts/");
        assert!(!config.save_files);
        assert!(!config.maintenance);
        assert!(config.draft_url_hosts.is_empty());
        assert_eq!(config.cors_origin, None);
        assert_eq!(config.response_format, ResponseFormat::Detail);
    }

    #[test]
    fn reads_each_variable() {
        let config = read(&[
            ("DRAFT_BUCKET", "drafts"),
            ("DRAFT_PREFIX", "a/b/"),
            ("SAVED_BUCKET", "saved"),
            ("MAX_DRAFT_BYTES", "1000"),
            ("DRAFT_URL_HOSTS", " Example.com, 用户.example,[::1] "),
            ("MAINTENANCE", "true"),
            ("SAVE_FILES", "true"),
            ("CORS_ORIGIN", "https://example.com:8443"),
            ("RESPONSE_FORMAT", "code"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ])
        .expect("a valid configuration");
        assert_eq!(config.saved_bucket, "saved");
        assert_eq!(config.max_draft_bytes, 1000);
        assert_eq!(config.memory_bytes, 192 << 20);
        assert_eq!(config.draft_prefix.as_str(), "a/b/");
        assert!(config.save_files);
        assert!(config.maintenance);
        assert_eq!(config.draft_bucket, "drafts");
        let hosts = ["example.com", "xn--zouo53b.example", "[::1]"];
        assert_eq!(config.draft_url_hosts, hosts);
        let origin = config.cors_origin.as_deref();
        assert_eq!(origin, Some("https://example.com:8443"));
        assert_eq!(config.response_format, ResponseFormat::Code);
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let config = Config::from_lookup(|name| {
            Some(if name == "DRAFT_BUCKET" { "drafts" } else { "" }.into())
        });
        assert!(config.is_ok(), "{config:?}");
        let error = read(&[("DRAFT_BUCKET", "")]).expect_err("the bucket is required");
        assert_eq!(error.variable, "DRAFT_BUCKET");
    }

    #[test]
    fn an_invalid_value_is_named_with_what_is_expected() {
        let bucket = "must be the name of an S3 bucket";
        let prefix = "must end in / and have at most 512 bytes and no control characters";
        let overlap = "must not overlap saved/ and saved-files/ in the same bucket";
        let bytes = "must be an integer between 1 and 5000000000";
        let hosts = "must be host names without scheme and port, separated by commas";
        let origin = "must be an origin like https://example.com, or *";
        for (variable, value, expected) in [
            ("DRAFT_BUCKET", "my drafts", bucket),
            ("SAVED_BUCKET", "a\nb", bucket),
            ("DRAFT_BUCKET", "s3://drafts", bucket),
            ("SAVED_BUCKET", "drafts/saved", bucket),
            ("DRAFT_PREFIX", "drafts", prefix),
            ("DRAFT_PREFIX", "saved/x/", overlap),
            ("MAX_DRAFT_BYTES", "x", bytes),
            ("MAX_DRAFT_BYTES", "0", bytes),
            ("MAX_DRAFT_BYTES", "5000000001", bytes),
            ("DRAFT_URL_HOSTS", "https://a.example", hosts),
            ("DRAFT_URL_HOSTS", "a.example,,b.example", hosts),
            ("DRAFT_URL_HOSTS", "*.example", hosts),
            ("MAINTENANCE", "yes", "must be true or false"),
            ("SAVE_FILES", "1", "must be true or false"),
            ("RESPONSE_FORMAT", "Code", "must be detail or code"),
            ("CORS_ORIGIN", "nonsense", origin),
            ("CORS_ORIGIN", "https://a.example,https://b.example", origin),
            ("CORS_ORIGIN", "https://a.example/", origin),
            ("CORS_ORIGIN", "https://*.example", origin),
        ] {
            let error = read_with(variable, value).expect_err(value).to_string();
            assert_eq!(error, format!("{variable} {expected}, got {value:?}"));
        }
    }

    #[test]
    fn a_variable_of_an_earlier_release_is_refused() {
        for (variable, advice) in REMOVED {
            let error = read_with(variable, "x").expect_err(variable).to_string();
            let expected = format!("{variable} is no longer read: {advice}");
            assert_eq!(error, expected);
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_value_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;

        let error = Config::from_lookup(|_| Some(OsString::from_vec(vec![0xff])))
            .expect_err("the value is not UTF-8");
        assert_eq!(error.problem, "must be UTF-8");
    }

    #[test]
    fn prefixes_may_overlap_in_two_buckets() {
        assert!(
            read(&[
                ("DRAFT_BUCKET", "drafts"),
                ("SAVED_BUCKET", "saved"),
                ("DRAFT_PREFIX", "saved/"),
            ])
            .is_ok()
        );
    }

    #[test]
    fn the_largest_draft_fills_the_memory() {
        assert!(read_with("MAX_DRAFT_BYTES", "469762048").is_ok());
        let error = read_with("MAX_DRAFT_BYTES", "469762049").expect_err("too large");
        let expected = "MAX_DRAFT_BYTES is 469762049, but AWS_LAMBDA_FUNCTION_MEMORY_SIZE is 512 MiB, \
             which leaves 469762048 bytes for a draft: lower MAX_DRAFT_BYTES or raise the function's memory";
        assert_eq!(error.to_string(), expected);
    }
}
