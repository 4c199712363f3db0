//! What the AWS SDK is told: whom to be, where to go, whom to trust, how long to wait.
//!
//! Lambda gives region and credentials in the environment, so nothing has to be looked
//! for: no profile files, no metadata service.

use std::time::Duration;
use std::{env, fs};

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::Cause;

/// How long a connection may take to stand: in one region it takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one try of a request may take: 64 MiB at the 10 MB/s of a bad day.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a body may stand still, in either direction, before it counts as broken.
const STALL: Duration = Duration::from_secs(3);
/// How often a request is tried.
pub(crate) const ATTEMPTS: u32 = 3;
/// The first pause between two tries; each next one is at most twice as long.
pub(crate) const BACKOFF: Duration = Duration::from_millis(50);

/// The roots that the certificates of AWS in its commercial regions go back to ("Amazon
/// Trust Services Repository"): to read all that a system trusts takes longer than all
/// the rest of the start.
const AMAZON_ROOTS: &[u8] = include_bytes!("amazon_roots.pem");

/// The SDK's configuration, from the environment.
///
/// # Errors
///
/// If `AWS_CA_BUNDLE` names no file of certificates.
pub fn config() -> Result<SdkConfig, Cause> {
    let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
    let region = region.unwrap_or_default();
    let endpoint = variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL"));
    let trust = TlsContext::builder().with_trust_store(trust_store(endpoint.as_deref(), &region)?);
    // Starts faster and is smaller than the SDK's default, aws-lc.
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(trust.build()?)
        .build_https();
    // "Defined runtime environment variables" (AWS Lambda Developer Guide): the keys, or
    // where to fetch them, as functions with SnapStart do.
    let container = ProviderConfig::without_region().with_http_client(http.clone());
    let container = EcsCredentialsProvider::builder()
        .configure(&container)
        .build();
    let environment = EnvironmentVariableCredentialsProvider::new();
    let credentials = CredentialsProviderChain::first_try("Environment", environment)
        .or_else("Container", container);
    let mut sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .use_fips(is_true("AWS_USE_FIPS_ENDPOINT"))
        .use_dual_stack(is_true("AWS_USE_DUALSTACK_ENDPOINT"))
        .http_client(http)
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .build(),
        )
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(ATTEMPTS)
                .with_initial_backoff(BACKOFF),
        )
        .stalled_stream_protection(
            StalledStreamProtectionConfig::enabled()
                .grace_period(STALL)
                .build(),
        );
    sdk.set_endpoint_url(endpoint);
    Ok(sdk.build())
}

/// Whom to trust: whom the user says, or AWS where it is AWS, or whom the system trusts.
fn trust_store(endpoint: Option<&str>, region: &str) -> Result<TrustStore, Cause> {
    if let Some(path) = variable("AWS_CA_BUNDLE") {
        return Ok(TrustStore::empty().with_pem_certificate(bundle(&path)?));
    }
    // Without TLS no roots are needed, so the few that are at hand will do.
    let elsewhere = endpoint.is_some_and(|url| !url.starts_with("http://"));
    // Regions of the other partitions have other names: cn-north-1, us-gov-west-1.
    let commercial = region.split('-').count() == 3 && !region.starts_with("cn-");
    let system = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .any(|name| variable(name).is_some());
    if elsewhere || !commercial || system {
        return Ok(TrustStore::default());
    }
    Ok(TrustStore::empty().with_pem_certificate(AMAZON_ROOTS))
}

/// The certificates in the file `path`, checked, because the SDK panics on what is none.
fn bundle(path: &str) -> Result<Vec<u8>, Cause> {
    let wrong = |problem| format!("AWS_CA_BUNDLE is {path:?}, and has to be a PEM file: {problem}");
    let pem = fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if certificates
        .map_err(|error| wrong(error.to_string()))?
        .is_empty()
    {
        return Err(wrong("it has no certificate".to_owned()).into());
    }
    Ok(pem)
}

/// The value of the variable `name`, unless it is not set or empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_true(name: &str) -> bool {
    variable(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}
