//! Faults that a test applies to requests.

use std::sync::Arc;

use fastrand::Rng;
use hyper::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::requests::{Op, RecordedRequest};

/// A change to the way in which a request is served.
///
/// A stall ends when its [`ScriptedFault`] is cleared; the request then goes on, unless its client has disconnected.
#[derive(Clone)]
pub enum Fault {
    /// Responds with an error of S3 with this status and code; nothing is done.
    Error(u16, &'static str),
    /// Responds with this; nothing is done.
    Respond(RawResponse),
    /// Closes the connection; nothing is done.
    Cut,
    /// Resets the connection; nothing is done.
    Reset,
    /// Closes all connections and refuses new ones until [`super::S3::reopen`]; nothing is done.
    Refuse,
    /// Waits before the request is served.
    Stall,
    /// Calls the function before the request is served.
    Run(Arc<dyn Fn(&RecordedRequest) + Send + Sync>),
    /// Changes one bit of the request's body.
    CorruptRequest,
    /// Serves the request, and closes the connection without a response.
    LoseResponse,
    /// Serves the request, and waits before the response.
    StallResponse,
    /// Sends at most this many bytes of the response's body, then resets the connection.
    CutBody(usize),
    /// Sends this many bytes of the response's body, then closes the connection.
    ShortBody(usize),
    /// Sends this many bytes of the response's body, then waits.
    StallBody(usize),
    /// Changes one bit of the response's body.
    CorruptBody,
    /// Sends checksums of another body, if the client has asked for checksums.
    WrongChecksum,
}

impl Fault {
    /// 500 `InternalError`.
    pub const INTERNAL_ERROR: Self = Self::Error(500, "InternalError");
    /// 503 `SlowDown`.
    pub const SLOW_DOWN: Self = Self::Error(503, "SlowDown");
    /// 403 `AccessDenied`.
    pub const ACCESS_DENIED: Self = Self::Error(403, "AccessDenied");
    /// 409 `ConditionalRequestConflict`.
    pub const CONFLICT: Self = Self::Error(409, "ConditionalRequestConflict");

    /// An error with this code in the body of a `200`, as `CopyObject` and `CompleteMultipartUpload` may respond.
    pub fn error_in_ok(code: &str) -> Self {
        let response = RawResponse::new(200).header("Content-Type", "application/xml");
        Self::Respond(response.body(error_xml(code)))
    }
}

/// The body of an error ("REST error responses", Amazon S3 API Reference).
pub(super) fn error_xml(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    )
}

/// A response that is sent as it is, with any bytes in its headers; then the connection is closed.
#[derive(Clone, Debug)]
pub struct RawResponse {
    head: Vec<u8>,
    has_length: bool,
    body: Vec<u8>,
    repeated: Vec<u8>,
}

impl RawResponse {
    /// A response without headers and body.
    pub fn new(status: u16) -> Self {
        Self {
            head: format!("HTTP/1.1 {status} Status\r\nConnection: close\r\n").into_bytes(),
            has_length: false,
            body: Vec::new(),
            repeated: Vec::new(),
        }
    }

    /// Adds a header. `Content-Length` is added unless it, or `Transfer-Encoding`, is given here.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let lengths = ["content-length", "transfer-encoding"];
        self.has_length |= lengths.contains(&name.to_ascii_lowercase().as_str());
        for part in [name.as_bytes(), b": ", value.as_ref(), b"\r\n"] {
            self.head.extend_from_slice(part);
        }
        self
    }

    /// Sets the body. It is not framed: with `Transfer-Encoding: chunked` it has to contain the chunks.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Repeats these bytes after the body until the client disconnects.
    #[must_use]
    pub fn then_endless(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.repeated = bytes.into();
        self
    }

    /// The bytes to send, and those to repeat after them.
    pub(super) fn into_bytes(mut self) -> (Bytes, Bytes) {
        if !self.has_length {
            let length = self.body.len().to_string();
            self = self.header("Content-Length", length);
        }
        self.head.extend_from_slice(b"\r\n");
        self.head.append(&mut self.body);
        (self.head.into(), self.repeated.into())
    }
}

type Predicate = Box<dyn Fn(&RecordedRequest) -> bool + Send + Sync>;

/// The requests to which a fault is applied; by default all of them.
pub struct When {
    predicates: Vec<Predicate>,
    skip: usize,
    times: usize,
    rate: f64,
    seed: u64,
}

impl When {
    /// All requests.
    pub fn any() -> Self {
        Self {
            predicates: Vec::new(),
            skip: 0,
            times: usize::MAX,
            rate: 1.0,
            seed: 0,
        }
    }

    /// The requests for an operation.
    pub fn op(op: Op) -> Self {
        Self::any().and(move |request| request.op == op)
    }

    /// Only requests whose key starts with `prefix`.
    #[must_use]
    pub fn key_starts_with(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.and(move |request| request.key.starts_with(&prefix))
    }

    /// Only requests for which `predicate` is true.
    #[must_use]
    pub fn and(
        mut self,
        predicate: impl Fn(&RecordedRequest) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.predicates.push(Box::new(predicate));
        self
    }

    /// Not the first `skip` of these requests.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// At most this many of these requests.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// One of these requests.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// A part of these requests, between 0 and 1, chosen at random; the same seed chooses the same.
    #[must_use]
    pub fn rate(mut self, part: f64, seed: u64) -> Self {
        (self.rate, self.seed) = (part, seed);
        self
    }
}

/// A fault that was added with [`super::S3::fault`].
#[derive(Clone)]
pub struct ScriptedFault(Arc<Inner>);

struct Inner {
    when: When,
    fault: Fault,
    state: watch::Sender<State>,
}

struct State {
    seen: usize,
    hits: usize,
    cleared: bool,
    random: Rng,
}

impl ScriptedFault {
    /// Returns the number of requests to which it was applied.
    pub fn hits(&self) -> usize {
        self.0.state.borrow().hits
    }

    /// Waits until it was applied to this many requests.
    pub async fn wait_for_hits(&self, hits: usize) {
        self.wait_for(|state| state.hits >= hits).await;
    }

    /// Ends the fault. Requests that it stalls go on.
    pub fn clear(&self) {
        self.0.state.send_modify(|state| state.cleared = true);
    }

    pub(super) fn fault(&self) -> &Fault {
        &self.0.fault
    }

    pub(super) async fn cleared(self) {
        self.wait_for(|state| state.cleared).await;
    }

    async fn wait_for(&self, condition: impl FnMut(&State) -> bool) {
        let mut receiver = self.0.state.subscribe();
        let reached = receiver.wait_for(condition).await;
        drop(reached.expect("the sender is part of `self`"));
    }

    /// Returns whether it applies to the request, and counts it.
    fn applies_to(&self, request: &RecordedRequest) -> bool {
        let when = &self.0.when;
        self.0.state.send_if_modified(|state| {
            if state.cleared || !when.predicates.iter().all(|matches| matches(request)) {
                return false;
            }
            state.seen += 1;
            let is_chosen = state.random.f64() < when.rate;
            let applies = is_chosen && state.seen > when.skip && state.hits < when.times;
            state.hits += usize::from(applies);
            applies
        })
    }
}

/// The faults, in the order in which they were added.
#[derive(Default)]
pub(super) struct Script(Mutex<Vec<ScriptedFault>>);

impl Script {
    pub fn add(&self, when: When, fault: Fault) -> ScriptedFault {
        let state = watch::Sender::new(State {
            seen: 0,
            hits: 0,
            cleared: false,
            random: Rng::with_seed(when.seed),
        });
        let scripted = ScriptedFault(Arc::new(Inner { when, fault, state }));
        let mut faults = self.0.lock();
        faults.push(scripted.clone());
        scripted
    }

    pub fn clear(&self) {
        let mut faults = self.0.lock();
        faults.drain(..).for_each(|fault| fault.clear());
    }

    /// Returns the first fault that applies to the request.
    pub fn choose(&self, request: &RecordedRequest) -> Option<ScriptedFault> {
        let faults = self.0.lock();
        faults
            .iter()
            .find(|fault| fault.applies_to(request))
            .cloned()
    }
}
