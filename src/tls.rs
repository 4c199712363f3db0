//! The HTTP client that the S3 SDK uses.

use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};

/// A client with TLS by rustls on ring, which starts faster and is smaller than the
/// SDK's default.
#[must_use]
pub fn http_client() -> aws_sdk_s3::config::SharedHttpClient {
    Builder::new()
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https()
}
