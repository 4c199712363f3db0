//! The function and its parts over the S3 server of `test_support`.

use std::env;

use aws_config::{Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use save_draft::aws;
use save_draft::config::Config;
use save_draft::save::Saver;
use save_draft::store::Store;

use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, sample_draft};
use test_support::runtime::Bootstrap;
use test_support::s3::{Op, S3};

/// Path of the function's executable.
pub const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_bootstrap");

/// Skips a test that cannot run, with its reason. Where `CI` is `true`, the test fails instead.
///
/// # Panics
///
/// If `CI` is `true`.
pub fn skip_or_fail(reason: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{reason}");
    println!("skipped: {reason}");
}

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
        aws::config_from_env()
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
    let config = Config::from_lookup(|name| {
        let set = variables.iter().find(|(variable, _)| *variable == name);
        let bucket = (name == "DRAFT_BUCKET").then_some(bucket);
        set.map(|(_, value)| *value).or(bucket).map(Into::into)
    });
    config.expect("the configuration is valid")
}

/// What saves drafts, over a store of its own.
pub fn saver(sdk: &SdkConfig, bucket: &str) -> Saver {
    let config = config(bucket, &[]);
    Saver::new(Store::new(sdk, &config), &config)
}

/// An S3, and a function that uses it.
pub struct TestEnv {
    /// The S3.
    pub s3: S3,
    /// The function.
    pub function: Bootstrap,
}

impl TestEnv {
    /// Starts both. The example draft is there.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts both, the function with these variables beside what it needs.
    pub async fn with(env: &[(&str, &str)]) -> Self {
        let s3 = S3::start_empty().await.expect("the S3 starts");
        s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
        let function = start_function(&s3, env).await;
        Self { s3, function }
    }

    /// Puts the document of a draft.
    pub fn put_draft(&self, id: &str, document: impl AsRef<[u8]>) {
        self.s3.put(BUCKET, &draft_key(id), document);
    }

    /// The keys of all versions of a draft.
    pub fn versions(&self, id: &str) -> Vec<String> {
        self.s3.keys(BUCKET, &format!("saved/{id}/"))
    }

    /// How many GETs and PUTs there were since the last time, and no other requests.
    ///
    /// # Panics
    ///
    /// If there was another.
    #[track_caller]
    pub fn gets_and_puts(&self) -> (usize, usize) {
        let (gets, puts) = (self.s3.count(Op::GetObject), self.s3.count(Op::PutObject));
        assert_eq!(
            self.s3.requests().len(),
            gets + puts,
            "there was another request"
        );
        self.s3.clear_requests();
        (gets, puts)
    }
}

/// Starts a function that uses `s3`, with these variables beside what it needs.
pub async fn start_function(s3: &S3, env: &[(&str, &str)]) -> Bootstrap {
    let endpoint = s3.endpoint();
    let needed = [
        ("AWS_ENDPOINT_URL_S3", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", &s3.options().access_key),
        ("AWS_SECRET_ACCESS_KEY", &s3.options().secret_key),
        ("DRAFT_BUCKET", BUCKET),
    ];
    Bootstrap::start(BOOTSTRAP, needed.iter().chain(env).copied()).await
}
