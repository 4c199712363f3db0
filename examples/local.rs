//! The function on this machine, with an S3 of its own: nothing else has to be installed.
//!
//! An HTTP request becomes an event of API Gateway, goes through the same service that
//! the Lambda runtime calls, and its answer becomes an HTTP response again.

use std::env;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::Region;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use lambda_http::lambda_runtime::{Context, LambdaEvent};
use lambda_http::tower::ServiceExt as _;
use save_draft::aws;
use save_draft::config::Config;
use save_draft::lambda::Function;
use save_draft::store::Store;
use save_draft::telemetry::{self, Telemetry};
use serde_json::{Map, Value, json};
use test_support::s3::{Fault, S3, S3Options, When};
use tokio::net::TcpListener;
use tokio::signal;

const USAGE: &str = "\
Runs the function at http://127.0.0.1:PORT/openapi/capcut-mate/v1/save_draft

Usage: cargo run --example local -- [OPTIONS]

Options:
  --port PORT       where to serve the function [default: 3000]
  --s3-port PORT    where to serve S3 [default: 9000]
  --data-dir DIR    where the drafts and their versions are [default: .local]
  --faults PERCENT  how many of the requests to S3 go wrong [default: 0]
  --help            this text

A port of 0 is any that is free.
";

const BUCKET: &str = "drafts";
/// The draft of the API's example.
const SAMPLE_ID: &str = "2025092811473036584258";
const SAMPLE: &[u8] = include_bytes!("draft_content.json");
/// What API Gateway gives a REST API by default ("Amazon API Gateway quotas").
const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(29);
/// The most that Lambda takes ("Lambda quotas"): 6 MB.
const MAX_BODY_BYTES: usize = 6 << 20;

struct Options {
    port: u16,
    s3_port: u16,
    data_dir: PathBuf,
    faults_percent: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The command line, or none if it asks for help.
fn options() -> Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;

    let mut options = Options {
        port: 3000,
        s3_port: 9000,
        data_dir: PathBuf::from(".local"),
        faults_percent: 0.0,
    };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("port") => options.port = arguments.value()?.parse()?,
            Long("s3-port") => options.s3_port = arguments.value()?.parse()?,
            Long("data-dir") => options.data_dir = arguments.value()?.into(),
            Long("faults") => options.faults_percent = arguments.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(options))
}

async fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
        .await
        .map_err(|error| in_use(options.port, "--port", &error))?;
    let s3 = S3::start(S3Options {
        addr: SocketAddr::from((Ipv4Addr::LOCALHOST, options.s3_port)),
        create_only: Some("saved/".to_owned()),
        record: false,
        ..S3Options::new(&options.data_dir)
    })
    .await
    .map_err(|error| in_use(options.s3_port, "--s3-port", &error))?;
    let_requests_fail(&s3, options.faults_percent);

    let drafts = options.data_dir.join(BUCKET);
    let sample = drafts
        .join("drafts")
        .join(SAMPLE_ID)
        .join("draft_content.json");
    if !sample.exists() {
        std::fs::create_dir_all(sample.parent().unwrap_or(&drafts))?;
        std::fs::write(&sample, SAMPLE)?;
    }
    let url = format!(
        "http://{}/openapi/capcut-mate/v1/save_draft",
        listener.local_addr()?
    );
    let saved = drafts.join("saved").join(SAMPLE_ID);
    println!(
        "curl -i {url} -d '{{\"draft_url\": \"https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id={SAMPLE_ID}\"}}'\n\
         \n\
         Run that in another terminal. The saved version appears in\n  {}\n\
         To save a draft of your own, put its document at\n  {}\n\
         S3 is at {} (access key {}, secret key {}). Ctrl-C ends both.\n",
        saved.display(),
        drafts
            .join("drafts/<draft id>/draft_content.json")
            .display(),
        s3.endpoint(),
        s3.options().access_key,
        s3.options().secret_key,
    );

    telemetry::init_logs(io::stdout);
    let function = function(&s3)?.into_service();

    let connections = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new());
    let end = signal::ctrl_c();
    tokio::pin!(end);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client is gone again, or this process is out of files for now.
                Err(_) => continue,
            },
            end = &mut end => break end?,
        };
        stream.set_nodelay(true)?;
        let function = function.clone();
        let answer = service_fn(move |request: Request<Incoming>| {
            let function = function.clone();
            async move {
                let Some(event) = event(request).await else {
                    return detail(413, "Request Too Long");
                };
                let payload = serde_json::from_value(event).map_err(io::Error::other)?;
                let answer = function.oneshot(LambdaEvent::new(payload, context())).await;
                match answer {
                    Ok(answer) => response(&serde_json::to_value(answer)?),
                    // As API Gateway does with the failure of a function.
                    Err(_) => detail(503, "Service unavailable"),
                }
            }
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), answer));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(target: "save_draft", %error, "a connection broke");
            }
        });
    }
    // Saves that are under way get their answer; clients that only keep a connection do not hold us up.
    let _ = tokio::time::timeout(INTEGRATION_TIMEOUT, connections.shutdown()).await;
    s3.stop().await;
    Ok(())
}

/// Lets `percent` of the requests to S3 go wrong, in each way as often.
fn let_requests_fail(s3: &S3, percent: f64) {
    let each = percent / 100.0 / 5.0;
    for (seed, fault) in [
        (1, Fault::INTERNAL_ERROR),
        (2, Fault::SLOW_DOWN),
        (3, Fault::Cut),
        (4, Fault::LoseResponse),
        (5, Fault::CutBody(1000)),
    ] {
        s3.fault(When::any().rate(each, seed), fault);
    }
}

/// The function, over `s3`.
fn function(s3: &S3) -> Result<Function, Box<dyn Error>> {
    let config = Config::from_lookup(|name| match name {
        "DRAFT_BUCKET" => Some(BUCKET.into()),
        _ => env::var_os(name),
    })?;
    let user = s3.options();
    let credentials = Credentials::new(&user.access_key, &user.secret_key, None, None, "local");
    let sdk = aws::config_from_env()
        .map_err(|error| error.to_string())?
        .into_builder()
        .endpoint_url(s3.endpoint())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .region(Region::from_static("us-east-1"))
        .build();
    let telemetry = Telemetry::new("local".to_owned());
    Ok(Function::new(&config, Store::new(&sdk, &config), telemetry))
}

fn in_use(port: u16, option: &str, error: &io::Error) -> String {
    if error.kind() == ErrorKind::AddrInUse {
        format!("Port {port} of 127.0.0.1 is in use: choose another with {option}.")
    } else {
        format!("Cannot listen on port {port} of 127.0.0.1: {error}")
    }
}

/// The event that API Gateway would make of `request`, or none where its body is too large.
async fn event(request: Request<Incoming>) -> Option<Value> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.ok()?;
    let body = body.to_bytes();
    let (body, is_base64) = match std::str::from_utf8(&body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (BASE64_STANDARD.encode(&body), true),
    };
    let path = head.uri.path();
    // The stage is a part of the URL, and not of the path within the API.
    let (stage, resource) = match path.strip_prefix("/openapi") {
        Some(rest) if rest.starts_with('/') => ("openapi", rest),
        _ => ("$default", path),
    };
    let (headers, multi_value_headers) = both(&head.headers);
    Some(json!({
        "resource": resource,
        "path": resource,
        "httpMethod": head.method.as_str(),
        "headers": headers,
        "multiValueHeaders": multi_value_headers,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "local",
            "httpMethod": head.method.as_str(),
            "path": path,
            "resourcePath": resource,
            "stage": stage,
        },
        "body": body,
        "isBase64Encoded": is_base64,
    }))
}

/// The last value of each header, and all of them.
fn both(headers: &HeaderMap) -> (Value, Value) {
    let mut last = Map::new();
    let mut all = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values: Vec<_> = values
            .map(|v| String::from_utf8_lossy(v.as_bytes()))
            .collect();
        last.insert(name.to_string(), json!(values.last()));
        all.insert(name.to_string(), json!(values));
    }
    (last.into(), all.into())
}

/// What Lambda tells the function about its invocation.
fn context() -> Context {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let deadline = SystemTime::now() + INTEGRATION_TIMEOUT;
    let deadline = deadline
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mut context = Context::default();
    context.request_id = format!("local-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    context.deadline = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    context
}

/// The HTTP response that API Gateway would make of `answer`.
fn response(answer: &Value) -> io::Result<Response<Full<Bytes>>> {
    let status = answer["statusCode"].as_u64().unwrap_or(502);
    let mut response = Response::builder().status(u16::try_from(status).unwrap_or(502));
    for (name, values) in answer["multiValueHeaders"]
        .as_object()
        .into_iter()
        .flatten()
    {
        for value in values.as_array().into_iter().flatten() {
            response = response.header(name, value.as_str().unwrap_or_default());
        }
    }
    let body = answer["body"].as_str().unwrap_or_default().to_owned();
    response.body(body.into()).map_err(io::Error::other)
}

fn detail(status: u16, text: &str) -> io::Result<Response<Full<Bytes>>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(json!({"detail": text}).to_string().into())
        .map_err(io::Error::other)
}
