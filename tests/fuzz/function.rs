//! The function for the fuzz targets: the service that the Lambda runtime calls, over an S3
//! that is a closure.

pub mod check;

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::test_util::infallible_client_fn;
use aws_smithy_types::body::SdkBody;
use lambda_http::lambda_runtime::{Context, Diagnostic, LambdaEvent};
use lambda_http::tower::ServiceExt as _;
use save_draft::config::Config;
use save_draft::lambda::Function;
use save_draft::store::Store;
use save_draft::telemetry::Telemetry;

use self::check::{Answer, Texts};

/// The one draft that there is.
const DRAFT_ID: &str = "2025092811473036584258";
const DOCUMENT: &str = r#"{"id":"2025092811473036584258","tracks":[]}"#;

/// Sends `payload`, as the Lambda runtime does, and checks what comes of it.
///
/// # Panics
///
/// If it is not what it may be.
pub fn invoke(payload: &[u8]) {
    thread_local! {
        static FUNCTION: RefCell<Box<dyn FnMut(&[u8]) -> Option<Answer>>> = RefCell::new(function());
    }
    let requests = requests();
    requests.lock().expect("no panic before").clear();
    let Some(answer) = FUNCTION.with_borrow_mut(|invoke| invoke(payload)) else {
        // The runtime answers what is no JSON by itself.
        return;
    };
    let texts = Texts::of(payload);
    check::answer(&texts, &answer);
    for (method, path) in requests.lock().expect("no panic before").iter() {
        let (bucket, key) = path[1..].split_once('/').expect("a bucket and a key");
        check::request(&texts, method, bucket, key);
    }
}

/// The requests to S3: method and path.
fn requests() -> Arc<Mutex<Vec<(String, String)>>> {
    static REQUESTS: std::sync::OnceLock<Arc<Mutex<Vec<(String, String)>>>> =
        std::sync::OnceLock::new();
    Arc::clone(REQUESTS.get_or_init(Arc::default))
}

fn function() -> Box<dyn FnMut(&[u8]) -> Option<Answer>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let config = Config::read(|name| {
        Ok(match name {
            "DRAFT_BUCKET" => Some("drafts".to_owned()),
            "AWS_ENDPOINT_URL_S3" => Some("http://s3.test".to_owned()),
            _ => None,
        })
    });
    let config = config.expect("these are values for them");
    let credentials = Credentials::new("local", "local-secret", None, None, "fuzz");
    let sdk = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(infallible_client_fn(s3()))
        .endpoint_url("http://s3.test")
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .region(Region::from_static("us-east-1"))
        .build();
    let telemetry = Telemetry::new("fuzz".to_owned());
    let service = Function::new(&config, Store::new(&sdk, &config), telemetry).into_service();
    Box::new(move |payload| {
        let payload = serde_json::from_slice(payload).ok()?;
        let deadline = SystemTime::now() + Duration::from_secs(20);
        let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH);
        let mut context = Context::default();
        context.deadline = deadline.expect("it is after 1970").as_millis() as u64;
        let answer = service.clone().oneshot(LambdaEvent::new(payload, context));
        let answer = runtime.block_on(answer).map_err(|failure| {
            let Diagnostic {
                error_type,
                error_message,
                ..
            } = failure.into();
            (error_type, error_message)
        });
        Some(answer.map(|answer| serde_json::to_value(answer).expect("an answer is JSON")))
    })
}

/// An S3 with one draft.
fn s3() -> impl Fn(http::Request<SdkBody>) -> http::Response<String> + Send + Sync {
    let versions = Mutex::new(HashSet::new());
    move |request| {
        let (method, path) = (
            request.method().to_string(),
            request.uri().path().to_owned(),
        );
        let response = http::Response::builder();
        let response = match method.as_str() {
            "GET" if path == format!("/drafts/drafts/{DRAFT_ID}/draft_content.json") => response
                .header("content-length", DOCUMENT.len())
                .header("last-modified", "Sun, 28 Sep 2025 11:47:30 GMT")
                .header("etag", "\"0\"")
                .body(DOCUMENT.to_owned()),
            "PUT"
                if versions
                    .lock()
                    .expect("no panic before")
                    .insert(path.clone()) =>
            {
                response.body(String::new())
            }
            "PUT" => response.status(412).body(error("PreconditionFailed")),
            _ => response.status(404).body(error("NoSuchKey")),
        };
        requests()
            .lock()
            .expect("no panic before")
            .push((method, path));
        response.expect("these are headers")
    }
}

fn error(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>")
}
