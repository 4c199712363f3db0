//! Log records and metrics. A record is one JSON object a line, and its figures are metrics in
//! CloudWatch's embedded metric format. Each save writes one.
//!
//! Records contain no content of a draft, no URL and no credential.

use std::fmt;
use std::io::{self, Write as _};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Log};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::draft::document::DocumentKind;
use crate::error::{Error, ErrorKind};
use crate::s3::CreateOutcome;
use crate::save::SaveReport;

/// CloudWatch namespace of the metrics.
const NAMESPACE: &str = "SaveDraft";
/// The only dimension of the metrics.
const DIMENSION: &str = "FunctionName";

/// Maximum length of a text in a record, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// Maximum number of skipped parts of one invocation that have a record of their own. A payload may
/// have tens of thousands.
const MAX_SKIPPED_RECORDS: u64 = 10;

/// Writes records.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

/// Takes a record with its line break.
type Output = dyn Fn(&[u8]) + Send + Sync;

struct Inner {
    function_name: String,
    /// True until the first record of an invocation is written.
    is_cold_start: AtomicBool,
    output: Box<Output>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Creates telemetry of the function `function_name` that writes to standard output.
    pub fn to_stdout(function_name: &str) -> Self {
        // A single write, because invocations and threads share standard output. Nothing can be done
        // about a record that cannot be written.
        Self::new(function_name, |line| drop(io::stdout().write_all(line)))
    }

    /// Creates telemetry of the function `function_name`. `output` takes each record with its line
    /// break.
    pub fn new(function_name: &str, output: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            function_name: function_name.to_owned(),
            is_cold_start: AtomicBool::new(true),
            output: Box::new(output),
        }))
    }

    /// Also writes the warnings and errors of libraries, and panics. Only the first call in a process
    /// has an effect on the records of libraries.
    pub fn capture_process(&self) {
        // `tracing`, which the libraries use, passes its records to `log`.
        if log::set_boxed_logger(Box::new(self.clone())).is_ok() {
            log::set_max_level(LevelFilter::Warn);
        }
        let telemetry = self.clone();
        panic::set_hook(Box::new(move |panic| {
            let mut record = Record::new(Level::Error, "panicked");
            if let Some(location) = panic.location() {
                record.text("location", &location.to_string());
            }
            record.text("error", panic.payload_as_str().unwrap_or_default());
            telemetry.write(record);
        }));
    }

    /// Records an error that ends the process.
    pub fn record_stop(&self, error: &str) {
        let mut record = Record::new(Level::Error, "the function stopped");
        record.text("error", error);
        self.write(record);
    }

    /// Returns the log of the invocation `request_id`.
    pub(super) fn invocation<'a>(&'a self, request_id: &'a str) -> InvocationLog<'a> {
        InvocationLog {
            telemetry: self,
            request_id,
            skipped: AtomicU64::new(0),
        }
    }

    fn write(&self, mut record: Record) {
        if !record.metrics.is_empty() {
            record.text(DIMENSION, &self.0.function_name);
        }
        // The values are texts, numbers and lists, which are always valid JSON.
        if let Ok(mut line) = serde_json::to_vec(&record) {
            line.push(b'\n');
            (self.0.output)(&line);
        }
    }
}

/// Receives the records of libraries.
impl Log for Telemetry {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // That layer repeats panics and the errors of invocations.
        metadata.level() <= Level::Warn && metadata.target() != "lambda_runtime::layers::panic"
    }

    fn log(&self, library_record: &log::Record<'_>) {
        if self.enabled(library_record.metadata()) {
            let message = library_record.args().to_string();
            let mut record = Record::new(library_record.level(), &message);
            record.text("target", library_record.target());
            self.write(record);
        }
    }

    fn flush(&self) {}
}

/// A record: its fields in order, and the metrics among them.
struct Record {
    time: OffsetDateTime,
    fields: Vec<(&'static str, Value)>,
    metrics: Vec<Value>,
}

impl Record {
    fn new(level: Level, message: &str) -> Self {
        let time = OffsetDateTime::from(SystemTime::now());
        let mut record = Self {
            time,
            fields: Vec::new(),
            metrics: Vec::new(),
        };
        let timestamp = time.format(&Rfc3339);
        record.text("timestamp", &timestamp.unwrap_or_default());
        // Lambda drops records below the function's log level ("Log-level filtering", AWS Lambda
        // Developer Guide), and their metrics with them.
        record.text("level", level.as_str());
        record.text("message", message);
        record
    }

    fn text(&mut self, name: &'static str, text: &str) {
        self.fields.push((name, log_text(text).into()));
    }

    fn metric(&mut self, name: &'static str, unit: &str, value: impl Into<Value>) {
        self.fields.push((name, value.into()));
        self.metrics.push(json!({"Name": name, "Unit": unit}));
    }

    fn count(&mut self, name: &'static str, value: u64) {
        self.metric(name, "Count", value);
    }

    fn bytes(&mut self, name: &'static str, value: u64) {
        self.metric(name, "Bytes", value);
    }

    /// Adds a duration with a precision of microseconds.
    fn milliseconds(&mut self, name: &'static str, value: Duration) {
        let milliseconds = (value.as_secs_f64() * 1e6).round() / 1e3;
        self.metric(name, "Milliseconds", milliseconds);
    }

    /// Adds the error of a number of saves.
    fn error(&mut self, error: &Error, saves: u64) {
        self.text("outcome", error.kind().as_str());
        let retryable = error.kind() == ErrorKind::ServiceUnavailable;
        self.fields.push(("retryable", retryable.into()));
        self.text("error", &error.cause_chain());
        self.count(counter(error.kind()), saves);
    }
}

/// Returns the metric that counts errors of this kind.
fn counter(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidRequest => "Invalid",
        ErrorKind::DraftNotFound => "NotFound",
        ErrorKind::SaveFailed => "Failed",
        ErrorKind::ServiceUnavailable => "Unavailable",
    }
}

/// Problems of the caller are warnings, all others are errors.
fn level(kind: ErrorKind) -> Level {
    match kind {
        ErrorKind::InvalidRequest | ErrorKind::DraftNotFound => Level::Warn,
        ErrorKind::SaveFailed | ErrorKind::ServiceUnavailable => Level::Error,
    }
}

impl Serialize for Record {
    /// Adds the metadata that makes metrics of fields ("Specification: Embedded metric format",
    /// Amazon CloudWatch User Guide).
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metadata = (!self.metrics.is_empty()).then(|| {
            let milliseconds =
                1000 * self.time.unix_timestamp() + i64::from(self.time.millisecond());
            let directive = json!({
                "Namespace": NAMESPACE,
                "Dimensions": [[DIMENSION]],
                "Metrics": self.metrics,
            });
            let aws = json!({"Timestamp": milliseconds, "CloudWatchMetrics": [directive]});
            ("_aws", aws)
        });
        let fields = self.fields.iter().chain(&metadata);
        serializer.collect_map(fields.map(|(name, value)| (name, value)))
    }
}

/// Writes the records of one invocation.
pub(super) struct InvocationLog<'a> {
    telemetry: &'a Telemetry,
    request_id: &'a str,
    /// Number of skipped parts.
    skipped: AtomicU64,
}

impl InvocationLog<'_> {
    fn record(&self, level: Level, message: &str) -> Record {
        let mut record = Record::new(level, message);
        record.text("request_id", self.request_id);
        record
    }

    fn write(&self, mut record: Record) {
        if self
            .telemetry
            .0
            .is_cold_start
            .swap(false, Ordering::Relaxed)
        {
            record.count("ColdStart", 1);
        }
        self.telemetry.write(record);
    }

    /// Records a request or message that does not name a draft.
    pub(super) fn invalid(&self, error: &Error) {
        let mut record = self.record(level(error.kind()), "invalid request");
        record.text("detail", error.detail());
        record.error(error, 1);
        self.write(record);
    }

    /// Records a part of an event that does not require a save. `name` is a field that names it.
    pub(super) fn skipped(&self, reason: &str, name: Option<(&'static str, &str)>) {
        if self.skipped.fetch_add(1, Ordering::Relaxed) >= MAX_SKIPPED_RECORDS {
            return;
        }
        let mut record = self.record(Level::Info, "skipped");
        record.text("outcome", "skipped");
        record.text("reason", reason);
        if let Some((field, name)) = name {
            record.text(field, name);
        }
        self.write(record);
    }

    /// Records `saves` saves that have no report, because they were not started or panicked.
    pub(super) fn failed(&self, saves: u64, error: &Error) {
        let mut record = self.record(level(error.kind()), "not saved");
        record.error(error, saves);
        self.write(record);
    }

    /// Records a save, successful or not.
    pub(super) fn save(&self, report: &SaveReport) {
        let mut record = match &report.result {
            Ok(_) => self.record(Level::Info, "saved"),
            Err(error) => self.record(level(error.kind()), "not saved"),
        };
        record.text("draft_id", report.draft_id.as_str());
        if let Some(document) = report.document {
            record.text("document", document.as_str());
        }
        if report.kind == Some(DocumentKind::Encrypted) {
            record.fields.push(("encrypted", true.into()));
        }
        match &report.result {
            Ok(saved) => {
                record.text("version", saved.version.as_str());
                record.text("outcome", saved.outcome.as_str());
                let counter = match saved.outcome {
                    CreateOutcome::Created => "Created",
                    CreateOutcome::AlreadyExists => "Unchanged",
                };
                record.count(counter, 1);
            }
            Err(error) => record.error(error, 1),
        }
        record.milliseconds("SaveMs", report.elapsed);
        if let Some(read) = report.read {
            record.milliseconds("ReadMs", read);
        }
        if let Some(write) = report.write {
            record.milliseconds("WriteMs", write);
        }
        if let Some(bytes) = report.bytes {
            record.bytes("DraftBytes", bytes);
        }
        if let Some(files) = report.files {
            record.count("Files", files.files);
            record.count("FilesCopied", files.copied);
            record.bytes("CopiedBytes", files.copied_bytes);
        }
        self.write(record);
    }
}

impl Drop for InvocationLog<'_> {
    fn drop(&mut self) {
        let skipped = *self.skipped.get_mut();
        if skipped > MAX_SKIPPED_RECORDS {
            let mut record = self.record(Level::Info, "more skipped");
            record.fields.push(("skipped", skipped.into()));
            self.write(record);
        }
    }
}

/// Returns `text` in a form that is safe in a log: truncated, and with control, format and other
/// invisible characters escaped.
fn log_text(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        if safe.len() >= MAX_TEXT_BYTES {
            safe.push_str("...");
            break;
        }
        // `escape_debug` also escapes quotes and backslashes, which are harmless here.
        if matches!(c, ' '..='~') {
            safe.push(c);
        } else {
            safe.extend(c.escape_debug());
        }
    }
    safe
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
    fn log_text_is_truncated_after_it_is_escaped() {
        assert_eq!(log_text(&"a".repeat(1024)).len(), 1024);
        assert_eq!(log_text(&"a".repeat(1025)), "a".repeat(1024) + "...");
        assert_eq!(log_text(&"你".repeat(1000)), "你".repeat(342) + "...");
        assert!(log_text(&"\u{7f}".repeat(1025)).len() < 1040);
    }
}
