//! Standard output and standard error: tables, sizes, times, colours, progress and JSON.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Color, Style};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use serde::Serialize;

use crate::error::{Error, Result};

/// Column headers.
pub const HEADER: Style = Style::new().bold();
/// Added.
pub const GREEN: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Green)));
/// Removed, and problems.
pub const RED: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Red)));
/// Changed, and warnings.
pub const YELLOW: Style = Style::new().fg_color(Some(Color::Ansi(AnsiColor::Yellow)));

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Prints what a command found, on standard output, and all else on standard error.
#[derive(Debug)]
pub struct Output {
    is_json: bool,
    zone: TimeZone,
}

#[allow(
    clippy::unused_self,
    reason = "whatever a command prints goes through its output"
)]
impl Output {
    /// Creates an output that prints JSON if `is_json`, and times in UTC if `is_utc`.
    pub fn new(is_json: bool, is_utc: bool) -> Self {
        let zone = if is_utc {
            TimeZone::UTC
        } else {
            TimeZone::system()
        };
        Self { is_json, zone }
    }

    /// Returns whether the result is one JSON value.
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// Prints `value` as JSON.
    pub fn json(&self, value: &impl Serialize) -> Result<()> {
        let failed = |error: io::Error| Error::io("cannot write the output", &error);
        let mut stdout = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer_pretty(&mut stdout, value).map_err(|error| failed(error.into()))?;
        writeln!(stdout).map_err(failed)?;
        stdout.flush().map_err(failed)
    }

    /// Prints `text`, which may have styles and ends in a line feed, on standard output. The styles are removed
    /// where standard output is no terminal.
    pub fn print(&self, text: &str) -> Result<()> {
        let failed = |error: io::Error| Error::io("cannot write the output", &error);
        let mut stdout = anstream::stdout().lock();
        stdout.write_all(text.as_bytes()).map_err(failed)?;
        stdout.flush().map_err(failed)
    }

    /// Prints a line on standard error.
    pub fn note(&self, text: &str) {
        // The command goes on if nobody reads its notes.
        let _ = writeln!(anstream::stderr().lock(), "{text}");
    }

    /// Prints a warning on standard error.
    pub fn warn(&self, text: &str) {
        self.note(&format!("{YELLOW}warning:{YELLOW:#} {text}"));
    }

    /// Returns a table as text, with these columns.
    pub fn table(
        &self,
        columns: &[(&str, Align)],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(columns.iter().map(|(name, _)| *name));
        table.add_rows(rows);
        for (index, (_, align)) in columns.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                column.set_cell_alignment(match align {
                    Align::Left => CellAlignment::Left,
                    Align::Right => CellAlignment::Right,
                });
            }
        }
        let mut text = String::new();
        for (index, line) in table.lines().enumerate() {
            let line = line.trim_end();
            if index == 0 {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{HEADER}{line}{HEADER:#}");
            } else {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    /// Returns `time` in the zone of the output, like `2025-09-28 13:47:30 CEST`.
    pub fn time(&self, time: Timestamp) -> String {
        let time = time.to_zoned_datetime(self.zone.clone());
        time.strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// Returns `time` with the zone of the output.
    pub fn zoned(&self, time: Timestamp) -> ZonedDateTime {
        time.to_zoned_datetime(self.zone.clone())
    }

    /// Returns a progress bar for the transfer of `bytes` bytes, with rate and time left.
    pub fn bytes_bar(&self, action: &'static str, bytes: u64) -> ProgressBar {
        const TEMPLATE: &str =
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        self.bar(action, bytes, TEMPLATE)
    }

    /// Returns a progress bar for `count` items.
    pub fn count_bar(&self, action: &'static str, count: u64) -> ProgressBar {
        self.bar(
            action,
            count,
            "{msg} {wide_bar} {human_pos}/{human_len} {eta}",
        )
    }

    /// The bar is only shown if standard error is a terminal.
    fn bar(&self, action: &'static str, length: u64, template: &str) -> ProgressBar {
        let bar = ProgressBar::new(length).with_message(action);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// Returns a size like `1.21 MiB`.
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// Returns a count with its noun, like `1 file` or `1,000 files`.
pub fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", indicatif::HumanCount(count))
}

/// Returns a time in a video, like `1:02:03.500`.
pub fn video_time(microseconds: u64) -> String {
    let milliseconds = microseconds / 1000;
    let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes}:{seconds:02}.{milliseconds:03}"),
        (hours, minutes) => format!("{hours}:{minutes:02}:{seconds:02}.{milliseconds:03}"),
    }
}

/// Returns `text` without characters that a terminal would act on: a file name may contain any.
pub fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    // Control characters, and those that change the direction of the text.
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.contains(is_unsafe) {
        let escape = |c: char| {
            if is_unsafe(c) {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        };
        text.chars().map(escape).collect::<String>().into()
    } else {
        text.into()
    }
}
