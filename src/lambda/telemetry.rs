//! Logs and metrics: one JSON log line for each save, and one metrics record for each invocation in
//! CloudWatch's embedded metric format.
//!
//! Neither contains the content of a draft, a URL or a credential.

use std::borrow::Cow;
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

use crate::error::{Error, ErrorKind};
use crate::s3::CreateOutcome;
use crate::save::SaveReport;

/// CloudWatch namespace of the metrics.
pub const NAMESPACE: &str = "SaveDraft";
/// The only dimension of the metrics.
pub const DIMENSION: &str = "FunctionName";
/// Names of the metrics. Those of files are only written if `SAVE_FILES` is `true`.
pub const METRICS: &[&str] = &[
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
    "Files",
    "FilesCopied",
    "CopiedBytes",
    "ColdStart",
];

/// Maximum number of values of a metric in one record ("Specification: Embedded metric format",
/// Amazon CloudWatch User Guide). The counters include the saves after that.
const MAX_VALUES: usize = 100;

/// Maximum length of a logged error or key before escaping, in bytes.
const MAX_LOG_TEXT_BYTES: usize = 1024;

/// Sends logs and panics to `output`, one JSON object a line.
///
/// The level is `AWS_LAMBDA_LOG_LEVEL` ("Configuring advanced logging controls for your Lambda
/// function", AWS Lambda Developer Guide), but not below `INFO`: the release build contains no
/// records of lower levels.
pub fn init_logs<W>(output: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = match std::env::var("AWS_LAMBDA_LOG_LEVEL").as_deref() {
        Ok("WARN") => LevelFilter::WARN,
        Ok("ERROR" | "FATAL") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("save_draft", level)
        // Repeats what the panic hook has logged.
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
    let location = panic.location().map(ToString::to_string);
    let text = panic.payload_as_str().map(log_text);
    error!(location, error = text.as_deref(), "panicked");
}

fn is_plain(c: char) -> bool {
    matches!(c, ' '..='~')
}

/// Returns `text` with control, format and other invisible characters escaped.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        // `escape_debug` also escapes quotes, which are harmless here.
        if is_plain(c) {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_debug());
        }
    }
    escaped
}

/// Returns `text` in a form that is safe in a log: truncated, and with control, format and other
/// invisible characters escaped.
fn log_text(text: &str) -> Cow<'_, str> {
    let truncated = &text[..text.floor_char_boundary(MAX_LOG_TEXT_BYTES)];
    if truncated.len() == text.len() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut safe = escape(truncated);
    if truncated.len() < text.len() {
        safe.push_str("...");
    }
    Cow::Owned(safe)
}

/// Writes the metrics of invocations.
#[derive(Debug)]
pub struct Telemetry {
    function_name: String,
    state: Mutex<State>,
}

struct State {
    emf: Emf,
    is_cold_start: bool,
    line: Vec<u8>,
    output: Box<dyn io::Write + Send>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("is_cold_start", &self.is_cold_start)
            .finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Creates telemetry for the function `function_name` that writes metrics to standard output.
    pub fn new(function_name: String) -> Self {
        Self::with_output(function_name, io::stdout())
    }

    /// Creates telemetry for the function `function_name` that writes metrics to `output`.
    pub fn with_output(function_name: String, output: impl io::Write + Send + 'static) -> Self {
        let dimensions = vec![vec![DIMENSION.to_owned()]];
        Self {
            function_name,
            state: Mutex::new(State {
                emf: Emf::no_validations(NAMESPACE.to_owned(), dimensions),
                is_cold_start: true,
                line: Vec::new(),
                output: Box::new(output),
            }),
        }
    }

    /// Starts the metrics of the invocation `request_id`.
    pub fn start_invocation(&self, request_id: String) -> InvocationMetrics {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_cold_start = mem::take(&mut state.is_cold_start);
        InvocationMetrics {
            record: Record {
                timestamp: SystemTime::now(),
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
                files: Distribution::default(),
                files_copied: Distribution::default(),
                copied_bytes: Distribution::default(),
                cold_start: u64::from(is_cold_start).into(),
            },
            measured_saves: 0,
        }
    }

    /// Writes the record of an invocation.
    pub fn emit(&self, metrics: &InvocationMetrics) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            emf, line, output, ..
        } = &mut *state;
        line.clear();
        // A single write, because the log shares standard output.
        let written = emf
            .format(&metrics.record, line)
            .map_err(|error| io::Error::other(error.to_string()))
            .and_then(|()| output.write_all(line));
        if let Err(error) = written {
            warn!(%error, "failed to write the metrics");
        }
    }
}

/// The metrics of one invocation. Each `record_*` and `log_*` method also writes a log line.
#[derive(Debug)]
pub struct InvocationMetrics {
    record: Record,
    /// Number of saves whose durations and sizes are in the record.
    measured_saves: usize,
}

/// The metrics in the order of [`METRICS`], and properties to search for.
#[derive(Debug, Entry)]
#[entry(rename_all = "PascalCase")]
struct Record {
    #[entry(timestamp)]
    timestamp: SystemTime,
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
    files: Distribution<AsCount<u64>>,
    files_copied: Distribution<AsCount<u64>>,
    copied_bytes: Distribution<AsBytes<u64>>,
    cold_start: AsCount<u64>,
}

impl InvocationMetrics {
    /// Records a request or message that does not name a draft.
    pub fn record_invalid(&mut self, error: &Error) {
        *self.count(error.kind()) += 1;
        let cause = error.cause_chain();
        warn!(
            request_id = self.record.request_id,
            outcome = error.kind().as_str(),
            detail = error.detail(),
            error = &*log_text(&cause),
            retryable = false,
            "invalid request"
        );
    }

    /// Logs a record of an event that does not require a save.
    pub fn log_skipped(&self, reason: &str, key: Option<&str>) {
        let key = key.map(log_text);
        info!(
            request_id = self.record.request_id,
            outcome = "skipped",
            reason,
            key = key.as_deref(),
            "skipped"
        );
    }

    /// Records a panic, which the panic hook has logged.
    pub fn record_panic(&mut self) {
        *self.count(ErrorKind::SaveFailed) += 1;
    }

    /// Records a save, successful or not.
    pub fn record_save(&mut self, report: &SaveReport) {
        let record = &mut self.record;
        if self.measured_saves < MAX_VALUES {
            self.measured_saves += 1;
            record.save_ms.extend([report.elapsed]);
            record.read_ms.extend(report.read);
            record.write_ms.extend(report.write);
            record.draft_bytes.extend(report.bytes.map(AsBytes::from));
            if let Some(files) = report.files {
                record.files.extend([AsCount::from(files.files)]);
                record.files_copied.extend([AsCount::from(files.copied)]);
                let copied_bytes = AsBytes::from(files.copied_bytes);
                record.copied_bytes.extend([copied_bytes]);
            }
        }
        match &report.result {
            Ok(saved) if saved.outcome == CreateOutcome::Created => *record.created += 1,
            Ok(_) => *record.unchanged += 1,
            Err(error) => *self.count(error.kind()) += 1,
        }
        self.log_save(report);
    }

    fn log_save(&self, report: &SaveReport) {
        /// Logs the fields that all saves have, and `$field`s.
        macro_rules! log {
            ($level:ident, $message:literal, $($field:tt)*) => {
                $level!(
                    request_id = self.record.request_id,
                    draft_id = report.draft_id.as_str(),
                    $($field)*
                    bytes = report.bytes,
                    files = report.files.map(|files| files.files),
                    files_copied = report.files.map(|files| files.copied),
                    copied_bytes = report.files.map(|files| files.copied_bytes),
                    ms = milliseconds(report.elapsed),
                    read_ms = report.read.map(milliseconds),
                    write_ms = report.write.map(milliseconds),
                    $message
                )
            };
        }
        let error = match &report.result {
            Ok(saved) => {
                let version = saved.version.as_str();
                log!(info, "saved", version, outcome = saved.outcome.as_str(),);
                return;
            }
            Err(error) => error,
        };
        let outcome = error.kind().as_str();
        let retryable = error.kind() == ErrorKind::ServiceUnavailable;
        let cause = error.cause_chain();
        let cause = &*log_text(&cause);
        match error.kind() {
            // Problems of the caller, not of the service.
            ErrorKind::InvalidRequest | ErrorKind::DraftNotFound => {
                log!(warn, "not saved", outcome, retryable, error = cause,);
            }
            ErrorKind::SaveFailed | ErrorKind::ServiceUnavailable => {
                log!(error, "not saved", outcome, retryable, error = cause,);
            }
        }
    }

    fn count(&mut self, kind: ErrorKind) -> &mut u64 {
        match kind {
            ErrorKind::InvalidRequest => &mut self.record.invalid,
            ErrorKind::DraftNotFound => &mut self.record.not_found,
            ErrorKind::SaveFailed => &mut self.record.failed,
            ErrorKind::ServiceUnavailable => &mut self.record.unavailable,
        }
    }
}

/// Converts to milliseconds, rounded to microseconds.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_text_escapes_invisible_characters() {
        for (text, expected) in [
            ("plain \"text\" \\", "plain \"text\" \\"),
            ("drafts/你好", "drafts/你好"),
            ("a\n\t\u{7f}\u{9b}", "a\\n\\t\\u{7f}\\u{9b}"),
            ("\u{2028}\u{202e}\u{feff}", "\\u{2028}\\u{202e}\\u{feff}"),
        ] {
            assert_eq!(log_text(text), expected, "{text:?}");
        }
    }

    #[test]
    fn log_text_is_truncated_at_a_character() {
        assert_eq!(log_text(&"a".repeat(1024)).len(), 1024);
        let long = log_text(&"你".repeat(1000)).into_owned();
        assert_eq!(long, "你".repeat(341) + "...");
    }
}
