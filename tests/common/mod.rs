//! The function over the S3 server of `test_support`: as a process, and in this process.

pub mod drafts;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use save_draft::config::Config;
use save_draft::save::Saver;
use serde_json::Value;
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, sample_draft, sha256_hex};
use test_support::runtime::{Bootstrap, Outcome};
use test_support::s3::{Op, S3, sdk_config};

/// Path of the function's executable.
pub const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_bootstrap");

/// An S3 endpoint and the credentials for it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub url: String,
    pub access_key: String,
    pub secret_key: String,
}

impl Endpoint {
    /// Returns the endpoint of the server in this process.
    pub fn of(s3: &S3) -> Self {
        Self {
            url: s3.endpoint(),
            access_key: s3.options().access_key.clone(),
            secret_key: s3.options().secret_key.clone(),
        }
    }

    /// Returns the endpoint in `S3_TEST_ENDPOINT`, if it is set, with the credentials of the
    /// environment.
    pub fn external() -> Option<Self> {
        let variable = |name: &str, default: &str| env::var(name).unwrap_or(default.to_owned());
        Some(Self {
            url: env::var("S3_TEST_ENDPOINT").ok()?,
            access_key: variable("AWS_ACCESS_KEY_ID", "local"),
            secret_key: variable("AWS_SECRET_ACCESS_KEY", "local-secret"),
        })
    }

    /// Returns the SDK configuration of the function for this endpoint.
    pub fn sdk(&self) -> SdkConfig {
        sdk_config(&self.url, &self.access_key, &self.secret_key)
    }
}

/// Returns an S3 client for the test itself.
pub fn client(sdk: &SdkConfig) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::config::Builder::from(sdk).force_path_style(true);
    aws_sdk_s3::Client::from_conf(config.build())
}

/// Returns a configuration with `bucket` for drafts and versions, and these variables.
pub fn config(bucket: &str, variables: &[(&str, &str)]) -> Config {
    let config = Config::from_lookup(|name| {
        let set = variables.iter().find(|(variable, _)| *variable == name);
        let bucket = (name == "DRAFT_BUCKET").then_some(bucket);
        set.map(|(_, value)| *value).or(bucket).map(Into::into)
    });
    config.expect("a valid configuration")
}

/// Returns the names of the variables that the function reads, without those that Lambda sets and those
/// that are no longer read.
pub fn variables() -> BTreeSet<&'static str> {
    let names = RefCell::new(BTreeSet::new());
    let lookup = |name: &'static str| {
        names.borrow_mut().insert(name);
        (name == "DRAFT_BUCKET").then(|| "drafts".into())
    };
    Config::from_lookup(lookup).expect("a valid configuration");
    let is_current =
        |name: &&str| match Config::from_lookup(|variable| (variable == *name).then(|| "x".into()))
        {
            Ok(_) => true,
            Err(error) => !error.problem.starts_with("is no longer read"),
        };
    let names = names.into_inner().into_iter();
    names
        .filter(|name| !name.starts_with("AWS_LAMBDA_"))
        .filter(is_current)
        .collect()
}

/// Returns a saver with a store of its own.
pub fn saver(sdk: &SdkConfig, bucket: &str) -> Saver {
    saver_with(sdk, config(bucket, &[]))
}

/// Returns a saver with this configuration and a store of its own.
pub fn saver_with(sdk: &SdkConfig, config: Config) -> Saver {
    Saver::new(sdk, Arc::new(config))
}

/// An S3 server, and a process of the function that uses it.
pub struct TestEnv {
    pub s3: Arc<S3>,
    pub function: Bootstrap,
}

impl TestEnv {
    /// Starts both. The example draft exists.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts both, the function with these environment variables beside the required ones.
    pub async fn with(env: &[(&str, &str)]) -> Self {
        let s3 = S3::start_empty().await.expect("the S3 server starts");
        s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
        let function = start_function(&s3, env).await;
        let s3 = Arc::new(s3);
        Self { s3, function }
    }

    /// Puts the document of the draft `id`.
    pub fn put_draft(&self, id: &str, document: impl AsRef<[u8]>) {
        self.s3.put(BUCKET, &draft_key(id), document);
    }

    /// Returns the keys of all versions of the draft `id`.
    pub fn versions(&self, id: &str) -> Vec<String> {
        self.s3.keys(BUCKET, &format!("saved/{id}/"))
    }

    /// Puts the document of the draft `id` with a fixed `Last-Modified`; returns the name of its version.
    pub fn put_dated(&self, id: &str, document: &[u8]) -> String {
        self.put_draft(id, document);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050);
        self.s3.set_last_modified(BUCKET, &draft_key(id), time);
        format!("20250928T114730Z-{}", sha256_hex(document))
    }

    /// Invokes the function, and waits for the result.
    pub async fn invoke(&self, event: &Value) -> Outcome {
        self.function.invoke(event).await
    }

    /// Invokes the function; returns the outcome and the records of the invocation.
    pub async fn invoke_logged(&self, event: &Value) -> (Outcome, Vec<Value>) {
        let pending = self.function.begin(event);
        let request_id = pending.request_id.clone();
        let outcome = pending.outcome().await;
        (outcome, self.function.logs_for(&request_id).await)
    }

    /// See [`gets_and_puts`].
    #[track_caller]
    pub fn gets_and_puts(&self) -> (usize, usize) {
        gets_and_puts(&self.s3)
    }
}

/// Returns the number of GETs and PUTs since the last call.
///
/// # Panics
///
/// If there was any other request.
#[track_caller]
pub fn gets_and_puts(s3: &S3) -> (usize, usize) {
    let (gets, puts) = (s3.count(Op::GetObject), s3.count(Op::PutObject));
    assert_eq!(
        s3.requests().len(),
        gets + puts,
        "a save makes no requests but GET and PUT"
    );
    s3.clear_requests();
    (gets, puts)
}

/// Starts a function that uses `s3`, with these environment variables beside the required ones.
pub async fn start_function(s3: &S3, env: &[(&str, &str)]) -> Bootstrap {
    start_function_with(&Endpoint::of(s3), env).await
}

/// Starts a function that uses the store at `endpoint`, with these environment variables beside the required ones.
/// `.ci/arm64` names the program of another architecture in the variable `BOOTSTRAP`.
pub async fn start_function_with(endpoint: &Endpoint, env: &[(&str, &str)]) -> Bootstrap {
    let required = [
        ("AWS_ENDPOINT_URL_S3", &*endpoint.url),
        ("AWS_ACCESS_KEY_ID", &endpoint.access_key),
        ("AWS_SECRET_ACCESS_KEY", &endpoint.secret_key),
        ("DRAFT_BUCKET", BUCKET),
    ];
    let program = env::var_os("BOOTSTRAP").unwrap_or_else(|| BOOTSTRAP.into());
    Bootstrap::start(program, required.iter().chain(env).copied()).await
}
