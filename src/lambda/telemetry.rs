//! Log records and metrics. A record is one JSON object a line, and its figures are metrics in
//! CloudWatch's embedded metric format. Each save writes one.
//!
//! Records contain no content of a draft, no URL and no credential.

use std::io::{self, Write as _};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use log::{Level, LevelFilter, Log};
use serde::Serializer as _;
use serde_json::{Serializer, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::draft::document::DocumentKind;
use crate::draft::keys::DocumentName;
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

/// A field of a record: its name and its value.
type Field = (&'static str, Value);

/// Takes a record with its line break.
type Output = dyn Fn(&[u8]) + Send + Sync;

/// Writes records.
#[derive(Clone)]
pub struct Telemetry {
    function_name: Arc<str>,
    /// True until the first record of an invocation is written.
    is_cold_start: Arc<AtomicBool>,
    output: Arc<Output>,
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
        Self {
            function_name: function_name.into(),
            is_cold_start: Arc::new(AtomicBool::new(true)),
            output: Arc::new(output),
        }
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
            let location = panic.location().map(ToString::to_string);
            let fields = [
                ("location", text(&location.unwrap_or_default())),
                ("error", text(panic.payload_as_str().unwrap_or_default())),
            ];
            telemetry.write(Level::Error, "panicked", fields);
        }));
    }

    /// Records an error that ends the process.
    pub fn record_stop(&self, error: &str) {
        let fields = [("error", text(error))];
        self.write(Level::Error, "the function stopped", fields);
    }

    /// Returns the log of the invocation `request_id`.
    pub(super) fn invocation<'a>(&'a self, request_id: &'a str) -> InvocationLog<'a> {
        InvocationLog {
            telemetry: self,
            request_id,
            skipped: AtomicU64::new(0),
        }
    }

    /// Writes a record with these fields, and the metadata that makes metrics of some of them
    /// ("Specification: Embedded metric format", Amazon CloudWatch User Guide).
    fn write(&self, level: Level, message: &str, fields: impl IntoIterator<Item = Field>) {
        let time = OffsetDateTime::from(SystemTime::now());
        let timestamp = time.format(&Rfc3339).unwrap_or_default();
        let mut record = vec![
            ("timestamp", text(&timestamp)),
            // Lambda drops records below the function's log level ("Log-level filtering", AWS Lambda
            // Developer Guide), and their metrics with them.
            ("level", text(level.as_str())),
            ("message", text(message)),
        ];
        record.extend(fields);
        let metrics = record
            .iter()
            .filter_map(|(name, _)| Some(json!({"Name": name, "Unit": unit(name)?})));
        let metrics: Vec<_> = metrics.collect();
        if !metrics.is_empty() {
            let milliseconds = 1000 * time.unix_timestamp() + i64::from(time.millisecond());
            let directive = json!({
                "Namespace": NAMESPACE,
                "Dimensions": [[DIMENSION]],
                "Metrics": metrics,
            });
            let metadata = json!({"Timestamp": milliseconds, "CloudWatchMetrics": [directive]});
            record.extend([(DIMENSION, text(&self.function_name)), ("_aws", metadata)]);
        }
        let mut line = Vec::new();
        // The values are texts, numbers and lists, which are always valid JSON.
        if Serializer::new(&mut line).collect_map(record).is_ok() {
            line.push(b'\n');
            (self.output)(&line);
        }
    }
}

/// Returns the unit of the metric `name`, or `None` for a field that is not a metric.
fn unit(name: &str) -> Option<&'static str> {
    match name {
        "Created" | "Unchanged" | "Invalid" | "NotFound" | "Unavailable" | "Failed" | "Files"
        | "FilesCopied" | "ColdStart" => Some("Count"),
        "SaveMs" | "ReadMs" | "WriteMs" => Some("Milliseconds"),
        "DraftBytes" | "CopiedBytes" => Some("Bytes"),
        _ => None,
    }
}

/// Receives the records of libraries.
impl Log for Telemetry {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // This layer logs panics and the errors of invocations once more.
        metadata.level() <= Level::Warn && metadata.target() != "lambda_runtime::layers::panic"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let target = [("target", text(record.target()))];
            self.write(record.level(), &record.args().to_string(), target);
        }
    }

    fn flush(&self) {}
}

/// Writes the records of one invocation.
pub(super) struct InvocationLog<'a> {
    telemetry: &'a Telemetry,
    request_id: &'a str,
    /// Number of skipped parts.
    skipped: AtomicU64,
}

impl InvocationLog<'_> {
    fn write(&self, level: Level, message: &str, fields: impl IntoIterator<Item = Field>) {
        let is_cold_start = self.telemetry.is_cold_start.swap(false, Ordering::Relaxed);
        let request_id = [("request_id", text(self.request_id))];
        let fields = request_id.into_iter().chain(fields);
        let fields = fields.chain(is_cold_start.then(|| ("ColdStart", 1.into())));
        self.telemetry.write(level, message, fields);
    }

    /// Records a request or message that does not name a draft.
    pub(super) fn invalid(&self, error: &Error) {
        let (level, fields) = error_fields(error, 1);
        let detail = [("detail", text(error.detail()))];
        self.write(level, "invalid request", detail.into_iter().chain(fields));
    }

    /// Records a part of an event that does not require a save. `name` is a field that names it.
    pub(super) fn skipped(&self, reason: &str, name: Option<(&'static str, &str)>) {
        if self.skipped.fetch_add(1, Ordering::Relaxed) >= MAX_SKIPPED_RECORDS {
            return;
        }
        let fields = [("outcome", text("skipped")), ("reason", text(reason))];
        let name = name.map(|(field, name)| (field, text(name)));
        self.write(Level::Info, "skipped", fields.into_iter().chain(name));
    }

    /// Records `saves` saves that have no report, because they were not started or panicked.
    pub(super) fn failed(&self, saves: u64, error: &Error) {
        let (level, fields) = error_fields(error, saves);
        self.write(level, "not saved", fields);
    }

    /// Records a save, successful or not.
    pub(super) fn save(&self, report: &SaveReport) {
        let progress = &report.progress;
        let mut fields = vec![("draft_id", text(report.draft_id.as_str()))];
        let document = progress.document.map(DocumentName::as_str);
        fields.extend(document.map(|name| ("document", text(name))));
        let is_encrypted = progress.kind == Some(DocumentKind::Encrypted);
        fields.extend(is_encrypted.then(|| ("encrypted", true.into())));
        let (level, message) = match &report.result {
            Ok(saved) => {
                let counter = match saved.outcome {
                    CreateOutcome::Created => "Created",
                    CreateOutcome::AlreadyExists => "Unchanged",
                };
                fields.extend([
                    ("version", text(saved.version.as_str())),
                    ("outcome", text(saved.outcome.as_str())),
                    (counter, 1.into()),
                ]);
                (Level::Info, "saved")
            }
            Err(error) => {
                let (level, error) = error_fields(error, 1);
                fields.extend(error);
                (level, "not saved")
            }
        };
        fields.push(("SaveMs", milliseconds(report.elapsed)));
        fields.extend(progress.read.map(|read| ("ReadMs", milliseconds(read))));
        fields.extend(progress.write.map(|write| ("WriteMs", milliseconds(write))));
        fields.extend(progress.bytes.map(|bytes| ("DraftBytes", bytes.into())));
        if let Some(files) = progress.files {
            fields.extend([
                ("Files", files.files.into()),
                ("FilesCopied", files.copied.into()),
                ("CopiedBytes", files.copied_bytes.into()),
            ]);
        }
        self.write(level, message, fields);
    }
}

impl Drop for InvocationLog<'_> {
    fn drop(&mut self) {
        let skipped = *self.skipped.get_mut();
        if skipped > MAX_SKIPPED_RECORDS {
            self.write(Level::Info, "more skipped", [("skipped", skipped.into())]);
        }
    }
}

/// Returns the level and the fields for the error of a number of saves.
fn error_fields(error: &Error, saves: u64) -> (Level, [Field; 4]) {
    // Problems of the caller are warnings, all others are errors.
    let (level, counter) = match error.kind() {
        ErrorKind::InvalidRequest => (Level::Warn, "Invalid"),
        ErrorKind::DraftNotFound => (Level::Warn, "NotFound"),
        ErrorKind::SaveFailed => (Level::Error, "Failed"),
        ErrorKind::ServiceUnavailable => (Level::Error, "Unavailable"),
    };
    let is_retryable = error.kind() == ErrorKind::ServiceUnavailable;
    let fields = [
        ("outcome", text(error.kind().as_str())),
        ("retryable", is_retryable.into()),
        ("error", text(&error.cause_chain())),
        (counter, saves.into()),
    ];
    (level, fields)
}

/// Returns a duration with a precision of microseconds.
fn milliseconds(duration: Duration) -> Value {
    ((duration.as_secs_f64() * 1e6).round() / 1e3).into()
}

/// Returns `text` in a form that is safe in a log: truncated, and with control, format and other
/// invisible characters escaped.
fn text(text: &str) -> Value {
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
    safe.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_text_escapes_invisible_characters() {
        for (input, expected) in [
            ("plain \"text\" \\", "plain \"text\" \\"),
            ("drafts/你好", "drafts/你好"),
            ("a\n\t\u{7f}\u{9b}", "a\\n\\t\\u{7f}\\u{9b}"),
            ("\u{2028}\u{202e}\u{feff}", "\\u{2028}\\u{202e}\\u{feff}"),
        ] {
            assert_eq!(text(input), expected, "{input:?}");
        }
    }

    #[test]
    fn log_text_is_truncated_after_it_is_escaped() {
        assert_eq!(text(&"a".repeat(1024)), "a".repeat(1024));
        assert_eq!(text(&"a".repeat(1025)), "a".repeat(1024) + "...");
        assert_eq!(text(&"你".repeat(1000)), "你".repeat(342) + "...");
        assert_eq!(text(&"\u{7f}".repeat(1025)), "\\u{7f}".repeat(171) + "...");
    }
}
