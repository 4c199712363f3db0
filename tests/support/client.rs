//! The parts of the function in this process, where a test has to tune or to count them,
//! and an S3 client for the test itself.

use std::env;

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use save_draft::config::Config;
use save_draft::save::Saver;
use save_draft::sdk;
use save_draft::store::Store;

use super::s3::S3;

/// A store that speaks S3, and who we are to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its URL.
    pub url: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

impl Endpoint {
    /// The one in this process.
    pub fn of(s3: &S3) -> Self {
        Self {
            url: s3.endpoint(),
            access_key: s3.options().access_key.clone(),
            secret_key: s3.options().secret_key.clone(),
        }
    }

    /// The one at `S3_TEST_ENDPOINT`, where that is set, with the credentials that the
    /// environment has.
    pub fn external() -> Option<Self> {
        let variable = |name: &str, default: &str| env::var(name).unwrap_or(default.to_owned());
        Some(Self {
            url: env::var("S3_TEST_ENDPOINT").ok()?,
            access_key: variable("AWS_ACCESS_KEY_ID", "local"),
            secret_key: variable("AWS_SECRET_ACCESS_KEY", "local-secret"),
        })
    }

    /// The SDK as the function has it.
    pub fn sdk(&self) -> SdkConfig {
        let credentials = Credentials::new(&self.access_key, &self.secret_key, None, None, "test");
        sdk::config()
            .expect("the environment is right")
            .into_builder()
            .endpoint_url(&self.url)
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .region(Region::from_static("us-east-1"))
            .build()
    }
}

/// A client for the test itself.
pub fn client(sdk: &SdkConfig) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(sdk).force_path_style(true);
    aws_sdk_s3::Client::from_conf(config.build())
}

/// The configuration of a function whose drafts and versions are in `bucket`; with these
/// variables beside it.
pub fn config(bucket: &str, variables: &[(&str, &str)]) -> Config {
    let config = Config::read(|name| {
        let set = variables.iter().find(|(variable, _)| *variable == name);
        let bucket = (name == "DRAFT_BUCKET").then_some(bucket);
        Ok(set.map(|(_, value)| *value).or(bucket).map(str::to_owned))
    });
    config.expect("the configuration is right")
}

/// What saves drafts, over a store of its own.
pub fn saver(sdk: &SdkConfig, bucket: &str) -> Saver {
    let config = config(bucket, &[]);
    Saver::new(Store::new(sdk, &config), &config)
}
