//! Runs the function on this machine, with an S3 server of its own.
//!
//! An HTTP request becomes an event of API Gateway, the function handles it, and its answer becomes an HTTP response.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Parser;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use lambda_http::lambda_runtime::{Context, LambdaEvent};
use local::s3::{BUCKET, Fault, REGION, S3, S3Options, When};
use local::web::check_local;
use parking_lot::Mutex;
use save_draft::config::Config;
use save_draft::lambda::Function;
use save_draft::lambda::telemetry::Telemetry;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::signal;

/// The draft of the API's example.
const SAMPLE_ID: &str = "2025092811473036584258";
/// The files of the sample draft: paths and contents. The document is the last.
const SAMPLE: [(&str, &[u8]); 4] = [
    (
        "assets/tone.wav",
        include_bytes!("../sample/assets/tone.wav"),
    ),
    (
        "draft_cover.png",
        include_bytes!("../sample/draft_cover.png"),
    ),
    (
        "draft_meta_info.json",
        include_bytes!("../sample/draft_meta_info.json"),
    ),
    (
        "draft_content.json",
        include_bytes!("../sample/draft_content.json"),
    ),
];
/// Default timeout of API Gateway for a REST API ("Amazon API Gateway quotas").
const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(29);
/// Maximum size of a request ("Lambda quotas"): 6 MB.
const MAX_BODY_BYTES: usize = 6 << 20;
/// The name that Docker gives this machine in containers. It is always allowed.
const CONTAINER_HOST: &str = "host.docker.internal";

/// Runs the function at http://127.0.0.1:PORT/openapi/capcut-mate/v1/save_draft
#[derive(Parser)]
#[command(
    bin_name = "cargo run -p local --",
    args_override_self = true,
    max_term_width = 100,
    after_help = "\
A port of 0 is any that is free. The environment variables of the function apply, except DRAFT_BUCKET, DRAFT_PREFIX \
and SAVED_BUCKET: the folder of the drafts always has the default layout. With MAINTENANCE=true, each save gets a 503."
)]
struct Options {
    /// Port of the function
    #[arg(long, default_value = "3000", value_parser = port)]
    port: u16,
    /// Port of the S3 server
    #[arg(long, value_name = "PORT", default_value = "9000", value_parser = port)]
    s3_port: u16,
    /// Folder of the drafts and their versions
    #[arg(long, value_name = "DIR", default_value = ".local")]
    data_dir: PathBuf,
    /// Part of the requests to S3 that fail; a save tries each request three times
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    #[arg(allow_hyphen_values = true)]
    faults: f64,
    /// Save the other files of a draft too, like SAVE_FILES=true
    #[arg(long)]
    save_files: bool,
    /// Another name of this machine, for clients in containers; repeatable
    #[arg(long, value_name = "NAME", value_parser = host)]
    allow_host: Vec<String>,
    /// Write the logs and metrics of the function instead of one line a request
    #[arg(long)]
    json: bool,
}

fn port(text: &str) -> Result<u16, &'static str> {
    let port = text.parse();
    port.map_err(|_| "must be an integer between 0 and 65535")
}

fn percent(text: &str) -> Result<f64, &'static str> {
    let percent = text.parse().ok();
    percent
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or("must be a number between 0 and 100")
}

fn host(name: &str) -> Result<String, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || !name.chars().all(is_part) {
        return Err(format!(
            "must be a name without a port, like {CONTAINER_HOST}"
        ));
    }
    Ok(name.to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    // The environment first, so that nothing else is printed if a variable is invalid.
    let config = Config::from_lookup(|name| match name {
        "DRAFT_BUCKET" => Some(BUCKET.into()),
        // The sample, the printed folders and `create_only` below need the defaults. Developers may have
        // `AWS_CA_BUNDLE` for the AWS CLI.
        "AWS_CA_BUNDLE" | "DRAFT_PREFIX" | "SAVED_BUCKET" => None,
        "SAVE_FILES" if options.save_files => Some("true".into()),
        _ => env::var_os(name),
    })?;
    check_data_dir(&options.data_dir)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
        .await
        .map_err(|error| cannot_listen(options.port, "--port", &error))?;
    let mut allowed_hosts = options.allow_host;
    allowed_hosts.push(CONTAINER_HOST.to_owned());
    let s3 = S3::start(S3Options {
        addr: SocketAddr::from((Ipv4Addr::LOCALHOST, options.s3_port)),
        // Versions and copies: `saved/` and `saved-files/`.
        create_only: Some("saved".to_owned()),
        record: false,
        // As the bucket of the stack does.
        versioned: true,
        allowed_hosts: allowed_hosts.clone(),
        ..S3Options::new(&options.data_dir)
    })
    .await
    .map_err(|error| cannot_listen(options.s3_port, "--s3-port", &error))?;
    add_faults(&s3, options.faults);
    let drafts = options.data_dir.join(BUCKET);
    write_sample(&drafts)?;
    let folders = if config.save_files {
        &["saved", "saved-files"][..]
    } else {
        &["saved"]
    };
    print_instructions(listener.local_addr()?, &s3, &drafts, folders, options.json);

    let log = Log {
        json: options.json,
        records: Arc::default(),
    };
    let writer = log.clone();
    let telemetry = Telemetry::new("local", move |line| writer.write(line));
    telemetry.capture_process();
    let cors_origin = config.cors_origin.clone();
    let function = Function::new(&s3.sdk_config(), config, telemetry);
    let endpoint = Endpoint {
        cors_origin,
        allowed_hosts,
        log,
        drafts,
    };
    serve(listener, function, Arc::new(endpoint)).await?;
    s3.stop().await;
    Ok(())
}

/// Checks that the data folder can be written.
fn check_data_dir(path: &Path) -> Result<(), String> {
    let writable = std::fs::create_dir_all(path).and_then(|()| tempfile::tempfile_in(path));
    writable.map(drop).map_err(|error| {
        format!(
            "The data folder {} cannot be written: {error}. Choose another with --data-dir.",
            path.display()
        )
    })
}

fn cannot_listen(port: u16, option: &str, error: &io::Error) -> String {
    if error.kind() == ErrorKind::AddrInUse {
        format!("Port {port} of 127.0.0.1 is in use: choose another with {option}.")
    } else {
        format!("Cannot listen on port {port} of 127.0.0.1: {error}")
    }
}

/// Lets `percent` of the requests to S3 fail, in different ways.
fn add_faults(s3: &S3, percent: f64) {
    let each = percent / 100.0 / 5.0;
    let mut rest = 1.0;
    for (seed, fault) in [
        (1, Fault::INTERNAL_ERROR),
        (2, Fault::SLOW_DOWN),
        (3, Fault::Cut),
        (4, Fault::LoseResponse),
        (5, Fault::CutBody(1000)),
    ] {
        // A part of the requests that are left by the faults before.
        s3.fault(When::any().rate(each / rest, seed), fault);
        rest -= each;
    }
}

/// Writes the sample draft, unless it exists.
fn write_sample(drafts: &Path) -> io::Result<()> {
    let folder = drafts.join("drafts").join(SAMPLE_ID);
    if folder.join("draft_content.json").exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder.join("assets"))?;
    SAMPLE
        .into_iter()
        .try_for_each(|(path, content)| std::fs::write(folder.join(path), content))
}

/// Prints the first steps. `folders` are those in which a save creates objects.
fn print_instructions(address: SocketAddr, s3: &S3, drafts: &Path, folders: &[&str], json: bool) {
    let created = folders.iter().map(|folder| {
        let folder = drafts.join(folder).join(SAMPLE_ID);
        format!(" {}", folder.display())
    });
    let url = format!("http://{address}/openapi/capcut-mate/v1/save_draft");
    println!("The function is at {url}");
    println!("S3 is at {}", s3.endpoint());
    println!(
        "
1. Save the sample draft, in another terminal:
   curl -i {url} -d '{{\"draft_url\": \"https://example.com/get_draft?draft_id={SAMPLE_ID}\"}}'
2. Look at the saved version:
   find{}
3. Save a draft of your own: put its document at
   {}
   and repeat step 1 with the id of this folder.
4. Use this S3 with the command `drafts` or the AWS CLI:
   export AWS_ENDPOINT_URL_S3={endpoint} AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key} AWS_REGION={REGION}
   export DRAFT_BUCKET={BUCKET}

Press Ctrl-C to stop.",
        created.collect::<String>(),
        drafts
            .join("drafts/<draft id>/draft_content.json")
            .display(),
        endpoint = s3.endpoint(),
        access_key = s3.options().access_key,
        secret_key = s3.options().secret_key,
    );
    if !json {
        println!("Requests: method, path, status, outcome, version, duration");
    }
}

/// Serves HTTP until Ctrl-C. Requests that have started are answered, unless Ctrl-C is pressed again.
async fn serve(
    listener: TcpListener,
    function: Function,
    endpoint: Arc<Endpoint>,
) -> io::Result<()> {
    let function = Arc::new(function);
    let connections = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new());
    let mut stop = pin!(signal::ctrl_c());
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The client has disconnected, or this process has no file descriptor left.
                Err(_) => continue,
            },
            stopped = &mut stop => break stopped?,
        };
        stream.set_nodelay(true)?;
        let (endpoint, function) = (Arc::clone(&endpoint), Arc::clone(&function));
        let service = service_fn(move |request: Request<Incoming>| {
            let (endpoint, function) = (Arc::clone(&endpoint), Arc::clone(&function));
            async move {
                let started = Instant::now();
                let path = request.uri().path().escape_debug();
                let name = format!("{} {path}", request.method());
                let context = context();
                let id = context.request_id.clone();
                let (response, record) = match endpoint.read(request).await? {
                    Err((status, text, cause)) => {
                        let record = json!({"outcome": "Refused", "error": cause});
                        (refusal(status, text)?, record)
                    }
                    Ok(event) => {
                        let payload = serde_json::from_value(event).map_err(io::Error::other)?;
                        // It fails for events only.
                        let answer = function.handle(LambdaEvent::new(payload, context)).await;
                        let answer =
                            answer.map_err(|error| io::Error::other(error.error_message))?;
                        (response(&answer)?, endpoint.log.take(&id))
                    }
                };
                if !endpoint.log.json {
                    print_request(&name, &response, &record, started.elapsed());
                }
                io::Result::Ok(response)
            }
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // It fails if the client disconnects.
            drop(connection.await);
        });
    }
    // The first poll begins to listen. After the line is printed, an interrupt could come before that.
    let mut again = pin!(signal::ctrl_c());
    if let Some(stopped) = again.as_mut().now_or_never() {
        return stopped;
    }
    println!("Stopping after the requests that have started. Press Ctrl-C again to stop at once.");
    tokio::select! {
        _ = tokio::time::timeout(INTEGRATION_TIMEOUT, connections.shutdown()) => Ok(()),
        stopped = again => stopped,
    }
}

/// The HTTP endpoint in front of the function.
struct Endpoint {
    cors_origin: Option<String>,
    allowed_hosts: Vec<String>,
    log: Log,
    /// The folder of the bucket.
    drafts: PathBuf,
}

/// The status and the text of a response without the function, and the cause for the log.
type Refusal = (u16, &'static str, &'static str);

impl Endpoint {
    /// Returns the event that API Gateway would make of a request.
    async fn read(&self, request: Request<Incoming>) -> io::Result<Result<Value, Refusal>> {
        let allowed_origin = self.cors_origin.as_deref();
        if let Err(cause) = check_local(request.headers(), &self.allowed_hosts, allowed_origin) {
            return Ok(Err((403, "Forbidden", cause)));
        }
        if !self.drafts.exists() {
            // The data folder was removed.
            write_sample(&self.drafts)?;
        }
        let event = event(request).await;
        Ok(event.ok_or((413, "Request Too Long", "The body is larger than 6 MB")))
    }
}

/// The output for the user: log records of the function as they are, or one line a request.
#[derive(Clone)]
struct Log {
    json: bool,
    /// By request id, the last record of the function.
    records: Arc<Mutex<HashMap<String, Value>>>,
}

impl Log {
    /// Returns the last record of a request.
    fn take(&self, id: &str) -> Value {
        self.records.lock().remove(id).unwrap_or_default()
    }

    /// Takes one record of the function.
    fn write(&self, line: &[u8]) {
        let record: Value = serde_json::from_slice(line).unwrap_or_default();
        let text = |field: &str| record[field].as_str();
        if text("target").is_some_and(|target| target.starts_with("s3s")) {
            // The S3 server's own record of each error response.
        } else if self.json {
            drop(io::stdout().write_all(line));
        } else if let Some(id) = text("request_id") {
            self.records.lock().insert(id.to_owned(), record.clone());
        } else {
            let fields = ["level", "message", "error", "location"];
            let fields: Vec<_> = fields.into_iter().filter_map(text).collect();
            println!("{}", fields.join(": "));
        }
    }
}

/// Prints the line of a request. `record` is the function's record of it.
fn print_request<B>(name: &str, response: &Response<B>, record: &Value, duration: Duration) {
    let mut line = format!("{name} {}", response.status().as_u16());
    for field in ["outcome", "version"] {
        if let Some(value) = record[field].as_str() {
            let _ = write!(line, " {value}");
        }
    }
    if let (Some(files), Some(copied)) = (record["Files"].as_u64(), record["FilesCopied"].as_u64())
    {
        let _ = write!(line, " {files} files ({copied} copied)");
    }
    let _ = write!(line, " {} ms", duration.as_millis());
    if let Some(cause) = record["error"].as_str() {
        let _ = write!(line, ": {cause}");
    }
    println!("{line}");
}

/// Returns the event that API Gateway would make of `request`, as far as the function reads it, or `None` if its body is
/// too large.
async fn event(request: Request<Incoming>) -> Option<Value> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await.ok()?;
    let body = body.to_bytes();
    let (body, is_base64) = match std::str::from_utf8(&body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (BASE64_STANDARD.encode(&body), true),
    };
    let path = head.uri.path();
    // The stage is part of the URL, and not of the path within the API.
    let resource = path.strip_prefix("/openapi");
    let resource = resource.filter(|rest| rest.starts_with('/'));
    let headers = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value.into())
    });
    Some(json!({
        "path": resource.unwrap_or(path),
        "httpMethod": head.method.as_str(),
        "headers": headers.collect::<Map<_, _>>(),
        "requestContext": {},
        "body": body,
        "isBase64Encoded": is_base64,
    }))
}

/// Returns the context that Lambda gives a new invocation.
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

/// Returns the HTTP response that API Gateway would make of `answer`.
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

fn refusal(status: u16, text: &str) -> io::Result<Response<Full<Bytes>>> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(json!({"detail": text}).to_string().into())
        .map_err(io::Error::other)
}
