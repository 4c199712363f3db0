//! The Lambda Runtime API, and a function's executable that polls it ("Using the Lambda runtime
//! API for custom runtimes", AWS Lambda Developer Guide).

use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Default time between the start of an invocation and its deadline.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits for `future`, and panics after two minutes, which is longer than any invocation takes.
pub async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    let limit = tokio::time::timeout(4 * TIMEOUT, future);
    limit.await.expect("it takes less than two minutes")
}

/// The name of the function.
pub const FUNCTION_NAME: &str = "save-draft";

/// The result of an invocation.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The function's response.
    Response(Value),
    /// The function's error.
    Error {
        /// The name by which a state machine catches it.
        error_type: String,
        /// The text.
        error_message: String,
    },
    /// The process ended without a response.
    Exited,
}

impl Outcome {
    /// Returns an error of the function.
    pub fn from_error(error_type: impl Into<String>, error_message: impl Into<String>) -> Self {
        Self::Error {
            error_type: error_type.into(),
            error_message: error_message.into(),
        }
    }

    /// Returns the function's response, and panics if there is none.
    #[track_caller]
    pub fn response(self) -> Value {
        match self {
            Self::Response(response) => response,
            other => panic!("no response, but {other:?}"),
        }
    }

    /// Returns the type and the message of the function's error, and panics if there is none.
    #[track_caller]
    pub fn error(self) -> (String, String) {
        match self {
            Self::Error {
                error_type,
                error_message,
            } => (error_type, error_message),
            other => panic!("no error, but {other:?}"),
        }
    }
}

/// An invocation that has been queued.
pub struct Pending {
    /// The request id, which is in the log records and metrics of the invocation.
    pub request_id: String,
    outcome: oneshot::Receiver<Outcome>,
}

impl Pending {
    /// Waits for the result.
    pub async fn outcome(self) -> Outcome {
        with_timeout(self.outcome).await.unwrap_or(Outcome::Exited)
    }
}

/// A running executable with its own Runtime API. It is killed when this is dropped.
pub struct Bootstrap {
    api: Arc<Api>,
    output: Arc<watch::Sender<Output>>,
    child: tokio::sync::Mutex<Child>,
    pid: u32,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

/// The output of the process.
#[derive(Default)]
struct Output {
    lines: Vec<String>,
    /// Both streams have ended.
    is_complete: bool,
}

impl Bootstrap {
    /// Starts `program` with the variables that Lambda sets ("Defined runtime environment
    /// variables", AWS Lambda Developer Guide) and `env`, and no others, in its environment.
    /// If a name occurs twice, the last value counts.
    pub async fn start<K, V>(
        program: impl AsRef<OsStr>,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", FUNCTION_NAME)
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_REGION", "us-east-1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (name, value) in env {
            command.env(name.as_ref(), value.as_ref());
        }
        let mut child = command.spawn().expect("the binary starts");
        let pid = child.id().expect("it has just begun");

        let mut tasks = JoinSet::new();
        let api = Arc::new(Api::new());
        tasks.spawn(Arc::clone(&api).serve(listener));
        let output = Arc::new(watch::Sender::<Output>::default());
        let stdout = child.stdout.take().expect("it is a pipe");
        let stderr = child.stderr.take().expect("it is a pipe");
        let (written, closing) = (Arc::clone(&output), Arc::clone(&api));
        tasks.spawn(async move {
            tokio::join!(collect(stdout, &written), collect(stderr, &written));
            // The process has ended, and with it the invocations that it has not answered.
            drop(closing.waiting().take());
            written.send_modify(|output| output.is_complete = true);
        });
        Self {
            api,
            output,
            child: tokio::sync::Mutex::new(child),
            pid,
            _tasks: tasks,
        }
    }

    /// Invokes the function, and waits for the result.
    pub async fn invoke(&self, event: &Value) -> Outcome {
        self.begin(event).outcome().await
    }

    /// Queues an invocation.
    pub fn begin(&self, event: &Value) -> Pending {
        self.begin_within(event.to_string(), TIMEOUT)
    }

    /// Queues an invocation with the payload `event`, which may be invalid, and a deadline `left`
    /// from now. The deadline is not enforced.
    pub fn begin_within(&self, event: String, left: Duration) -> Pending {
        self.api.queue(event, left, &[])
    }

    /// Queues an invocation with more headers than Lambda always sets.
    pub fn begin_with_headers(&self, event: &Value, headers: &[(&'static str, &str)]) -> Pending {
        self.api.queue(event.to_string(), TIMEOUT, headers)
    }

    /// Returns the lines that the process has written to its two streams so far.
    pub fn lines(&self) -> Vec<String> {
        self.output.borrow().lines.clone()
    }

    /// Waits for a line that is a JSON object for which `is_it` is true; returns the first. Panics
    /// if the process ends without such a line.
    pub async fn wait_for_line(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = |lines: &[String]| {
            let objects = lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok());
            objects.filter(Value::is_object).find(&is_it)
        };
        let mut output = self.output.subscribe();
        let output = output.wait_for(|output| output.is_complete || find(&output.lines).is_some());
        let output = with_timeout(output).await.expect("its sender is here");
        find(&output.lines).unwrap_or_else(|| panic!("no such line in {:#?}", output.lines))
    }

    /// Returns the records of an invocation that has been answered.
    pub async fn logs_for(&self, request_id: &str) -> Vec<Value> {
        // Lines are read in the order in which they were written: the record of a later invocation, which
        // is not a known event, comes after all of this one.
        let later = self.begin(&json!({}));
        let later_id = later.request_id.clone();
        later.outcome().await;
        self.wait_for_line(|line| line["request_id"] == later_id)
            .await;
        let lines = self.lines();
        let parsed = lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok());
        parsed
            .filter(|line: &Value| line["request_id"] == request_id)
            .collect()
    }

    /// Waits until the process has ended and its output is complete.
    pub async fn wait_for_exit(&self) -> ExitStatus {
        let mut output = self.output.subscribe();
        let all = with_timeout(output.wait_for(|output| output.is_complete)).await;
        drop(all.expect("its sender is here"));
        let status = with_timeout(self.child.lock().await.wait()).await;
        status.expect("the process is ours")
    }

    /// Kills the process (SIGKILL), and waits for its end. The result of all invocations that it
    /// has not answered is [`Outcome::Exited`].
    pub async fn kill(&self) {
        let killed = self.child.lock().await.start_kill();
        killed.expect("the process is ours");
        self.wait_for_exit().await;
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

/// Collects the lines of a stream until its end.
async fn collect(stream: impl AsyncRead + Unpin, written: &watch::Sender<Output>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream
        .read_until(b'\n', &mut line)
        .await
        .is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\n').to_owned();
        written.send_modify(|output| output.lines.push(text));
        line.clear();
    }
}

/// The Runtime API.
struct Api {
    count: AtomicU64,
    queue: mpsc::UnboundedSender<Response<Full<Bytes>>>,
    queued: tokio::sync::Mutex<mpsc::UnboundedReceiver<Response<Full<Bytes>>>>,
    /// The invocations without a result, by their request ids; `None` after the end of the process.
    waiting: Mutex<Option<HashMap<String, oneshot::Sender<Outcome>>>>,
}

impl Api {
    fn new() -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        Self {
            count: AtomicU64::default(),
            queue,
            queued: tokio::sync::Mutex::new(queued),
            waiting: Mutex::new(Some(HashMap::new())),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<String, oneshot::Sender<Outcome>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, payload: String, left: Duration, headers: &[(&'static str, &str)]) -> Pending {
        let deadline = SystemTime::now() + left;
        let deadline = deadline.duration_since(SystemTime::UNIX_EPOCH);
        let deadline = deadline.expect("it is after 1970").as_millis();
        let number = self.count.fetch_add(1, Relaxed);
        let request_id = format!("8476a536-e9f4-11e8-9739-{number:012x}");
        let arn = format!("arn:aws:lambda:us-east-1:123456789012:function:{FUNCTION_NAME}");
        let trace_id = "Root=1-68d9205a-0f1e2d3c4b5a69788796a5b4;Parent=53995c3f42cd8ad8;Sampled=1";
        let mut response = Response::builder()
            .header("Lambda-Runtime-Aws-Request-Id", &request_id)
            .header("Lambda-Runtime-Deadline-Ms", deadline.to_string())
            .header("Lambda-Runtime-Invoked-Function-Arn", arn)
            .header("Lambda-Runtime-Trace-Id", trace_id)
            .header("Content-Type", "application/json");
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(Full::from(payload));
        let (sender, outcome) = oneshot::channel();
        if let Some(waiting) = &mut *self.waiting() {
            waiting.insert(request_id.clone(), sender);
            let sent = self.queue.send(response.expect("these are headers"));
            sent.expect("its receiver is here");
        }
        Pending {
            request_id,
            outcome,
        }
    }

    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    stream.set_nodelay(true).expect("it is a TCP connection");
                    let api = Arc::clone(&self);
                    let service = service_fn(move |request| Arc::clone(&api).answer(request));
                    let http = hyper::server::conn::http1::Builder::new();
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    // It fails if the process is killed.
                    connections.spawn(async { drop(connection.await) });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().strip_prefix("/2018-06-01/runtime/");
        let path: Vec<_> = path.unwrap_or_default().split('/').collect();
        Ok(match (head.method, path.as_slice()) {
            (Method::GET, ["invocation", "next"]) => {
                let next = self.queued.lock().await.recv().await;
                next.expect("its sender is here")
            }
            (Method::POST, ["invocation", request_id, end @ ("response" | "error")]) => {
                let Ok(body) = body.collect().await else {
                    // The process was killed while it sent the response.
                    return Ok(reply(StatusCode::BAD_REQUEST));
                };
                let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
                let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
                let outcome = match *end {
                    "error" => Outcome::Error {
                        error_type: text("errorType"),
                        error_message: text("errorMessage"),
                    },
                    _ => Outcome::Response(body),
                };
                let waiting = self
                    .waiting()
                    .as_mut()
                    .and_then(|it| it.remove(*request_id));
                match waiting {
                    Some(waiting) => {
                        // The test may have dropped its `Pending`.
                        let _ = waiting.send(outcome);
                        reply(StatusCode::ACCEPTED)
                    }
                    None => reply(StatusCode::BAD_REQUEST),
                }
            }
            // A function with SnapStart is restored at once.
            (Method::GET, ["restore", "next"]) => reply(StatusCode::OK),
            (Method::POST, ["init", "error"]) => reply(StatusCode::ACCEPTED),
            _ => reply(StatusCode::NOT_FOUND),
        })
    }
}

fn reply(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// Returns the field `name` of `/proc/{pid}/status`, in KiB: `VmRSS` is the memory of the process, `VmHWM` its maximum.
pub fn memory_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let prefix = format!("{name}:");
    let value = status.lines().find_map(|line| line.strip_prefix(&prefix));
    let kib = value.and_then(|value| value.trim().strip_suffix(" kB"));
    kib.expect("a size in kB").parse().expect("a number")
}
