//! Figures of processes, their medians, and their budgets.

use std::fmt;
use std::fs;
use std::time::Duration;

/// Maximum of a figure.
pub struct Budget {
    /// The measured figure.
    pub figure: f64,
    /// The maximum.
    pub max: f64,
}

impl fmt::Display for Budget {
    /// Writes the figure, the budget, and whether it is met, as cells of a table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { figure, max } = self;
        let digits = f.precision().unwrap_or(2);
        let verdict = if figure <= max { "met" } else { "MISSED" };
        write!(f, "{figure:.digits$} | {max:.digits$} | {verdict}")
    }
}

/// Returns the median of `values`.
pub fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    let mut values = values.to_vec();
    values.sort_by(|a, b| a.partial_cmp(b).expect("comparable values"));
    values[values.len() / 2]
}

/// Returns the CPU time that the threads of the process `pid` have used.
pub fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Returns the memory of the process `pid` in MB: `VmRSS`, the resident memory, or `VmHWM`, its peak.
pub fn memory(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    let value = fields.into_iter().find(|(name, _)| *name == field);
    let kib = value.and_then(|(_, kib)| kib.split_whitespace().next()?.parse::<f64>().ok());
    kib.expect("a size in KiB") * 1024.0 / 1e6
}
