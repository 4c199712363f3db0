//! What the function says about its work: one JSON line for each save, and one record
//! of metrics for each invocation, in CloudWatch's embedded metric format.
//!
//! Neither ever holds a draft's content, a URL, or a credential.

use std::io;
use std::mem;
use std::panic::{self, PanicHookInfo};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use metrique_writer::Entry;
use metrique_writer::format::Format as _;
use metrique_writer::unit::{AsBytes, AsCount};
use metrique_writer::value::Distribution;
use metrique_writer_format_emf::Emf;
use tracing::{error, info, warn};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::error::{Error, Kind};
use crate::save::Attempt;
use crate::store::Creation;

/// The namespace of the metrics.
pub const NAMESPACE: &str = "SaveDraft";
/// The one dimension of the metrics.
pub const DIMENSION: &str = "FunctionName";
/// The names of the metrics.
pub const METRICS: [&str; 11] = [
    "Created",
    "Unchanged",
    "Invalid",
    "NotFound",
    "Unavailable",
    "Failed",
    "SaveMs",
    "ReadMs",
    "WriteMs",
    "DraftBytes",
    "ColdStart",
];

/// "Specification: Embedded metric format" (Amazon CloudWatch User Guide): a metric has at
/// most 100 values in one record. Of a larger batch, these are the first; its counts are of all.
const MAX_VALUES: usize = 100;

/// Sends logs to `output`, one JSON object a line, and panics along with them.
///
/// The level is that of `AWS_LAMBDA_LOG_LEVEL` ("Configuring advanced logging controls
/// for your Lambda function", AWS Lambda Developer Guide), `INFO` where it is not set. Below
/// that nothing is said: what libraries say there is left out of the release build.
pub fn init_logs<W>(output: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = std::env::var("AWS_LAMBDA_LOG_LEVEL").ok();
    let level = match level.as_deref() {
        Some("WARN") => LevelFilter::WARN,
        Some("ERROR" | "FATAL") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("save_draft", level)
        // Says again what the handler and the panic hook have said.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(output);
    tracing_subscriber::registry()
        .with(targets)
        .with(lines)
        .init();
    panic::set_hook(Box::new(log_panic));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    error!(place, reason = panic.payload_as_str(), "panicked");
}

/// Writes the metrics of invocations.
#[derive(Debug)]
pub struct Telemetry {
    function_name: String,
    state: Mutex<State>,
}

struct State {
    emf: Emf,
    cold: bool,
    line: Vec<u8>,
    output: Box<dyn io::Write + Send>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("cold", &self.cold)
            .finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Telemetry of the function that is called `function_name`, to standard output.
    #[must_use]
    pub fn new(function_name: String) -> Self {
        Self::with_output(function_name, io::stdout())
    }

    /// Telemetry of the function that is called `function_name`, to `output`.
    #[must_use]
    pub fn with_output(function_name: String, output: impl io::Write + Send + 'static) -> Self {
        let dimensions = vec![vec![DIMENSION.to_owned()]];
        Self {
            function_name,
            state: Mutex::new(State {
                emf: Emf::no_validations(NAMESPACE.to_owned(), dimensions),
                cold: true,
                line: Vec::new(),
                output: Box::new(output),
            }),
        }
    }

    /// Begins the invocation `request_id`.
    #[must_use]
    pub fn begin(&self, request_id: String) -> Invocation {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        Invocation {
            record: Record {
                at: SystemTime::now(),
                function_name: self.function_name.clone(),
                request_id,
                created: 0.into(),
                unchanged: 0.into(),
                invalid: 0.into(),
                not_found: 0.into(),
                unavailable: 0.into(),
                failed: 0.into(),
                save_ms: Distribution::default(),
                read_ms: Distribution::default(),
                write_ms: Distribution::default(),
                draft_bytes: Distribution::default(),
                cold_start: u64::from(mem::take(&mut state.cold)).into(),
            },
            measured: 0,
        }
    }

    /// Writes what came together in `invocation`.
    pub fn end(&self, invocation: &Invocation) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            emf, line, output, ..
        } = &mut *state;
        line.clear();
        // One write for the whole line: standard output is shared with the log.
        let written = emf
            .format(&invocation.record, line)
            .map_err(|error| io::Error::other(error.to_string()))
            .and_then(|()| output.write_all(line));
        if let Err(error) = written {
            warn!(%error, "the metrics were not written");
        }
    }
}

/// The saves of one invocation.
#[derive(Debug)]
pub struct Invocation {
    record: Record,
    /// How many saves have their times and sizes in the record.
    measured: usize,
}

/// The fields are the metrics, in [`METRICS`]' order, and what to find them by.
#[derive(Debug, Entry)]
#[entry(rename_all = "PascalCase")]
struct Record {
    #[entry(timestamp)]
    at: SystemTime,
    function_name: String,
    request_id: String,
    created: AsCount<u64>,
    unchanged: AsCount<u64>,
    invalid: AsCount<u64>,
    not_found: AsCount<u64>,
    unavailable: AsCount<u64>,
    failed: AsCount<u64>,
    save_ms: Distribution<Duration>,
    read_ms: Distribution<Duration>,
    write_ms: Distribution<Duration>,
    draft_bytes: Distribution<AsBytes<u64>>,
    cold_start: AsCount<u64>,
}

impl Invocation {
    /// The invocation's request id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.record.request_id
    }

    /// Logs a request or a message that names no draft.
    pub fn refused(&mut self, error: &Error) {
        *self.count(error.kind()) += 1;
        let (outcome, cause) = (error.kind().name(), error.causes());
        let request_id = self.request_id();
        let detail = error.detail();
        warn!(
            request_id,
            outcome,
            detail,
            error = cause,
            retryable = false,
            "refused"
        );
    }

    /// Logs a record that is not for this function, and that it leaves alone.
    pub fn skipped(&self, reason: &str, key: Option<&str>) {
        info!(
            request_id = self.request_id(),
            outcome = "skipped",
            reason,
            key,
            "skipped"
        );
    }

    /// Logs a save, however it ended.
    pub fn saved(&mut self, attempt: &Attempt) {
        let record = &mut self.record;
        if self.measured < MAX_VALUES {
            self.measured += 1;
            record.save_ms.extend([attempt.elapsed]);
            record.read_ms.extend(attempt.read);
            record.write_ms.extend(attempt.write);
            record.draft_bytes.extend(attempt.bytes.map(AsBytes::from));
        }
        match &attempt.result {
            Ok(saved) if saved.creation == Creation::Created => *record.created += 1,
            Ok(_) => *record.unchanged += 1,
            Err(error) => *self.count(error.kind()) += 1,
        }

        let request_id = self.request_id();
        let draft_id = attempt.draft_id.as_str();
        let bytes = attempt.bytes;
        let ms = milliseconds(attempt.elapsed);
        let read_ms = attempt.read.map(milliseconds);
        let write_ms = attempt.write.map(milliseconds);
        match &attempt.result {
            Ok(saved) => {
                let (version, outcome) = (saved.version.as_str(), saved.word());
                info!(
                    request_id,
                    draft_id, version, outcome, bytes, ms, read_ms, write_ms, "saved"
                );
            }
            Err(error) => {
                let outcome = error.kind().name();
                let retryable = error.kind() == Kind::ServiceUnavailable;
                let error = error.causes();
                error!(
                    request_id,
                    draft_id, outcome, retryable, error, bytes, ms, read_ms, write_ms, "not saved"
                );
            }
        }
    }

    fn count(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::InvalidRequest => &mut self.record.invalid,
            Kind::DraftNotFound => &mut self.record.not_found,
            Kind::SaveFailed => &mut self.record.failed,
            Kind::ServiceUnavailable => &mut self.record.unavailable,
        }
    }
}

/// Milliseconds, to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
