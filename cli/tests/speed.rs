//! Time and memory with many versions and many files. `LONG=1` runs these tests in full size; a time is only checked
//! in a release build.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use local::s3::S3;
use test_support::fixtures::long_tests;
use tokio::time::{MissedTickBehavior, interval};

use crate::common::contents::{entry, plant, plant_version};
use crate::common::{ID, command, start};

const DOCUMENT: (&str, &[u8]) = ("draft_content.json", b"{}");

/// A run of `drafts`, measured.
struct Measured {
    stdout: String,
    time: Duration,
    /// The highest memory that was seen, in KiB.
    memory_kib: u64,
}

/// Runs `drafts`, and looks at its memory all the time.
async fn measure(s3: &S3, args: &[&str]) -> Measured {
    let mut command = command(s3);
    command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let child = command.spawn().expect("drafts starts");
    let pid = child.id().expect("it runs");
    let mut output = std::pin::pin!(child.wait_with_output());
    let mut ticks = interval(Duration::from_millis(5));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory_kib = 0;
    let output = loop {
        tokio::select! {
            output = &mut output => break output.expect("it ends"),
            _ = ticks.tick() => memory_kib = memory_kib.max(peak_kib(pid)),
        }
    };
    let time = start.elapsed();
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    assert!(
        output.status.success(),
        "{}{}",
        text(output.stdout),
        text(output.stderr)
    );
    let stdout = text(output.stdout);
    println!("drafts {}: {time:?}, {memory_kib} KiB", args.join(" "));
    Measured {
        stdout,
        time,
        memory_kib,
    }
}

/// Returns the highest memory of a process so far, or 0 if it has ended.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
    value.map_or(0, |value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_versions_are_listed_in_two_seconds() {
    let s3 = start().await;
    let count: u32 = if long_tests() { 10_000 } else { 500 };
    for number in 0..count {
        let (day, hour, minute) = (1 + number / 1440, number / 60 % 24, number % 60);
        let time = format!("202501{day:02}T{hour:02}{minute:02}00Z");
        // One file is another in each version.
        let etags = (0..20).map(|file| if file == 0 { number } else { file });
        let files = etags.enumerate().map(|(file, etag)| {
            let path = format!("assets/{file}.mp4");
            entry(&path, 1000, &format!("{etag:032x}"))
        });
        let files: Vec<_> = files.collect();
        plant_version(&s3, &time, DOCUMENT, &files);
    }
    let run = measure(&s3, &["versions", ID]).await;
    let rows = run.stdout.lines().filter(|line| line.starts_with("2025"));
    assert_eq!(rows.count(), count as usize);
    assert!(run.memory_kib < 100 << 10, "{} KiB", run.memory_kib);
    if long_tests() && !cfg!(debug_assertions) {
        assert!(run.time < Duration::from_secs(2), "{:?}", run.time);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_files_take_less_than_100_mb() {
    let s3 = start().await;
    let count = if long_tests() { 100_000 } else { 2000 };
    let paths = (0..count).map(|number| {
        format!("Resources/matting/2f52a63b-8c6a-4417-8b01-1b2a569ccb6c/{number:06}.png")
    });
    let paths: Vec<_> = paths.collect();
    let files = paths.iter().map(|path| (&**path, path.as_bytes()));
    let files: Vec<_> = files.collect();
    plant(&s3, "20250928T114730Z", DOCUMENT, &files);
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("draft");
    let to = to.to_str().expect("UTF-8");
    for args in [
        &["show", ID][..],
        &["verify"],
        &["versions", ID],
        &["show", ID, "--json"],
        &["download", ID, "--to", to],
    ] {
        let run = measure(&s3, args).await;
        let memory = run.memory_kib;
        assert!(memory < 100_000_000 / 1024, "{args:?}: {memory} KiB");
        if args == ["verify"] {
            let expected = format!("1 draft, 1 version, {} files", thousands(count));
            assert!(run.stdout.starts_with(&expected), "{}", run.stdout);
        } else if args == ["show", ID] {
            // The lines before the files are about the version.
            assert_eq!(run.stdout.lines().count(), 5 + count);
        }
    }
}

fn thousands(number: usize) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}
