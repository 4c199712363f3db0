//! SDK configuration: credentials, endpoint, TLS, timeouts, retries, and limits on responses.
//!
//! Set up from the environment that Lambda provides instead of `aws_config::load_defaults`: profile
//! files and the instance metadata service do not exist there, and the defaults make the start
//! slower (`docs/design.md` has the figures).

use std::fs::File;
use std::time::Duration;
use std::{env, mem};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use url::Url;

use super::list::MAX_ENTRIES;
use crate::config::ConfigError;
use crate::error::BoxError;

/// Time limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for one attempt of a request without a large body.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// Slowest transfer that an attempt still allows for, in bytes per second. Its limit grows with
/// the body, so that large drafts can be saved over slow links.
const MIN_BYTES_PER_SECOND: u64 = 1_000_000;
/// Time without progress after which the transfer of a body fails.
const STALL_GRACE_PERIOD: Duration = Duration::from_secs(3);
/// Maximum number of attempts of a request.
pub(super) const MAX_ATTEMPTS: u32 = 3;
/// Base of the delays between attempts. The SDK doubles it for each attempt, [`crate::s3`] adds it,
/// and both apply jitter.
pub(super) const BACKOFF: Duration = Duration::from_millis(50);

/// Creates the SDK configuration from the environment. The root certificates are those of the system,
/// or those in `SSL_CERT_FILE` and `SSL_CERT_DIR`.
///
/// # Errors
///
/// Returns an error for an endpoint that is not a URL, and for a file of certificates that cannot be
/// opened.
pub fn config_from_env() -> Result<SdkConfig, ConfigError> {
    let region = env_var("AWS_REGION")
        .or_else(|| env_var("AWS_DEFAULT_REGION"))
        .unwrap_or_default();
    let endpoint = match endpoint("AWS_ENDPOINT_URL_S3")? {
        None => endpoint("AWS_ENDPOINT_URL")?,
        endpoint => endpoint,
    };
    if let Some(file) = env_var("SSL_CERT_FILE") {
        File::open(&file).map_err(|error| ConfigError {
            variable: "SSL_CERT_FILE",
            problem: format!("must be a file of certificates, got {file:?}: {error}"),
        })?;
    }
    // Smaller and faster to start than aws-lc, the default of the SDK.
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    // Lambda sets either the keys or, for functions with SnapStart, the container endpoint
    // ("Defined runtime environment variables", AWS Lambda Developer Guide).
    let container = EcsCredentialsProvider::builder()
        .configure(&ProviderConfig::without_region().with_http_client(http_client.clone()))
        .build();
    let credentials = CredentialsProviderChain::first_try(
        "Environment",
        EnvironmentVariableCredentialsProvider::new(),
    )
    .or_else("Container", container);
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .use_fips(is_true("AWS_USE_FIPS_ENDPOINT"))
        .use_dual_stack(is_true("AWS_USE_DUALSTACK_ENDPOINT"))
        .http_client(http_client)
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        )
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(MAX_ATTEMPTS)
                .with_initial_backoff(BACKOFF),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(STALL_GRACE_PERIOD)
                .build(),
        );
    config.set_endpoint_url(endpoint);
    Ok(config.build())
}

/// Returns the URL in `variable`. Without a slash at the end of its path, the SDK would leave out the
/// last part of the path. The error does not repeat the URL, which may contain a password.
fn endpoint(variable: &'static str) -> Result<Option<String>, ConfigError> {
    let Some(text) = env_var(variable) else {
        return Ok(None);
    };
    let url = Url::parse(&text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.query().is_none());
    let Some(mut url) = url else {
        let problem = "must be a URL like https://s3.example.com, without a query".to_owned();
        return Err(ConfigError { variable, problem });
    };
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(Some(url.into()))
}

/// Returns the timeouts for a request that transfers `bytes` bytes.
pub(super) fn attempt_timeouts(bytes: u64) -> aws_sdk_s3::config::Builder {
    let timeout = Duration::from_secs(bytes / MIN_BYTES_PER_SECOND);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(timeout.max(ATTEMPT_TIMEOUT));
    aws_sdk_s3::config::Builder::new().timeout_config(timeouts.build())
}

/// Returns the value of the variable `name`; an empty value counts as unset.
fn env_var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_true(name: &str) -> bool {
    env_var(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Maximum size of a response body that the SDK reads into memory, in bytes: an error or a listing of
/// 1,000 keys of 1,024 bytes, URL-encoded.
const MAX_XML_BYTES: usize = 4 << 20;

/// Maximum number of tags in such a body, which limits the memory of the parsed listing. An entry has
/// up to 28.
const MAX_XML_TAGS: usize = 40 * MAX_ENTRIES;

/// Prepares responses for the SDK: removes the headers that a save does not use, because one in an
/// unexpected format would fail the request, and limits the bodies.
#[derive(Debug)]
pub(super) struct LimitResponses;

impl LimitResponses {
    /// Headers that the SDK or a save reads, beside the checksums and the metadata.
    const HEADERS: [&'static str; 16] = [
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-range",
        "content-type",
        "date",
        "etag",
        "last-modified",
        "transfer-encoding",
        "x-amz-bucket-region",
        "x-amz-id-2",
        "x-amz-request-id",
        "x-amz-retry-after",
        "x-amzn-requestid",
    ];

    fn limit_headers(response: &mut HttpResponse) {
        let is_used = |header| {
            Self::HEADERS.contains(&header)
                || header.starts_with("x-amz-checksum-")
                || header.starts_with("x-amz-meta-")
        };
        let unused: Vec<String> = response
            .headers()
            .iter_bytes()
            .filter(|(name, value)| !is_used(name) || str::from_utf8(value).is_err())
            .map(|(name, _)| name.to_owned())
            .collect();
        for name in unused {
            response.headers_mut().remove(name);
        }
        // A partial response is recognized by its Content-Range (RFC 9110, section 15.3.7).
        if response.status().as_u16() == 206 && !response.headers().contains_key("content-range") {
            response.headers_mut().insert("content-range", "missing");
        }
    }

    /// Limits a stream to its announced length, and any other body to [`MAX_XML_BYTES`].
    fn limit_body(response: &mut HttpResponse, is_stream: bool) {
        let length = response.headers().get("content-length");
        let length = length.and_then(|length| length.parse().ok());
        let body = mem::replace(response.body_mut(), SdkBody::taken());
        *response.body_mut() = match length {
            Some(length) if is_stream => SdkBody::from_body_1_x(Limited::new(body, length)),
            _ => {
                let mut tags = 0;
                // Drops the rest: a listing without its end is refused.
                let body = body.map_frame(move |frame| {
                    frame.map_data(|data: Bytes| {
                        tags += data
                            .iter()
                            .map(|byte| usize::from(*byte == b'<'))
                            .sum::<usize>();
                        if tags > MAX_XML_TAGS {
                            Bytes::new()
                        } else {
                            data
                        }
                    })
                });
                SdkBody::from_body_1_x(Limited::new(body, MAX_XML_BYTES))
            }
        };
    }
}

impl Intercept for LimitResponses {
    fn name(&self) -> &'static str {
        "LimitResponses"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let is_get_object = config
            .load::<Metadata>()
            .is_some_and(|operation| operation.name() == "GetObject");
        let response = context.response_mut();
        let is_stream = is_get_object && response.status().is_success();
        Self::limit_headers(response);
        Self::limit_body(response, is_stream);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_of_large_uploads_get_more_time() {
        for (bytes, seconds) in [(8_000_000, 8), (64_000_000, 64)] {
            let config = attempt_timeouts(bytes).behavior_version_latest().build();
            let timeouts = config.timeout_config().expect("timeouts");
            let expected = Some(Duration::from_secs(seconds));
            assert_eq!(timeouts.operation_attempt_timeout(), expected);
        }
    }
}
