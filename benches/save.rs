//! Warm saves beside the baseline `bare`: duration, CPU time, requests, peak memory and throughput.
//!
//! `docs/performance.md` describes the method.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot run ends with a panic"
)]

mod common;

use std::time::{Duration, Instant};
use std::{env, thread};

use test_support::runtime::{Bootstrap, TIMEOUT};

use self::common::{
    Budget, Program, Speed, Store, cpu_time, document, median, memory, payload, programs,
    single_threaded_runtime,
};

const KB: usize = 1000;
const MB: usize = 1000 * KB;

/// Number of processes of each program. The speed of a process depends on the addresses that the
/// system gives it.
const PROCESSES: usize = 10;
/// Latency of the fastest storage class: single-digit milliseconds ("S3 Express One Zone", Amazon
/// S3 User Guide). S3 Standard takes 100 to 200 ms ("Best practices design patterns: optimizing
/// Amazon S3 performance").
const S3_LATENCY: Duration = Duration::from_millis(5);
/// Bandwidth of one request: "Make one concurrent request for each 85-90 MB/s of desired network
/// throughput" ("Performance design patterns for Amazon S3", Amazon S3 User Guide).
const S3_BYTES_PER_SECOND: f64 = 90e6;
/// The fastest store that a user can have.
const S3: Speed = Speed {
    latency: S3_LATENCY,
    bytes_per_second: Some(S3_BYTES_PER_SECOND),
};

/// Maximum duration of a save beside `bare`, with a store that answers at once.
const MAX_RATIO_AT_ONCE: f64 = 1.30;
/// Maximum duration of a save beside `bare`, with [`S3`] and documents up to 5 MB.
const MAX_RATIO_S3: f64 = 1.05;
/// Maximum duration of a save beside `bare`, with [`S3`] and larger documents.
const MAX_RATIO_S3_LARGE: f64 = 1.08;
/// Maximum number of requests of a save.
const MAX_REQUESTS: f64 = 2.0;
/// Maximum of the peak memory for a document of 50 MB beside `bare`.
const MAX_MEMORY_RATIO: f64 = 0.6;

/// Names of document sizes, bytes, and the number of measured saves.
const SIZES: [(&str, usize, usize); 4] = [
    ("4 KB", 4 * KB, 2000),
    ("200 KB", 200 * KB, 1000),
    ("5 MB", 5 * MB, 100),
    ("50 MB", 50 * MB, 30),
];

fn main() {
    // `cargo test --benches` only checks that it compiles and starts.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let mut programs = programs();
    programs.retain(|program| program.uses_store);
    measure_durations(&programs);
    measure_memory(&programs);
    measure_throughput(&programs);
}

/// Durations and CPU times of the saves of one program.
#[derive(Default)]
struct Samples {
    wall: Vec<Duration>,
    cpu: Vec<Duration>,
    /// Requests of the last save.
    requests: u32,
}

fn measure_durations(programs: &[Program]) {
    println!("\n## Warm saves beside bare, medians\n");
    println!(
        "| document | store | program | CPU | CPU / bare | duration | duration / bare \
         | budget | | requests | budget | |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, speed, max_saves, [small, large]) in [
        (
            "at once",
            Speed::AT_ONCE,
            usize::MAX,
            [MAX_RATIO_AT_ONCE; 2],
        ),
        ("5 ms, 90 MB/s", S3, 300, [MAX_RATIO_S3, MAX_RATIO_S3_LARGE]),
    ] {
        for (size, bytes, saves) in SIZES {
            let max_ratio = if bytes > 5 * MB { large } else { small };
            let store = Store::start(document(bytes), speed, None);
            let samples = sample_saves(programs, &store, saves.min(max_saves));
            let samples = single_threaded_runtime().block_on(samples);
            print_durations(&format!("{size} | {name}"), max_ratio, programs, &samples);
        }
    }
}

/// Measures `saves` saves of each program, in turns.
async fn sample_saves(programs: &[Program], store: &Store, saves: usize) -> Vec<Samples> {
    let mut samples: Vec<Samples> = programs.iter().map(|_| Samples::default()).collect();
    for _ in 0..PROCESSES {
        let mut processes = Vec::new();
        for program in programs {
            let process = program.start(store, &[]).await;
            // The first save opens the connection.
            save(&process).await;
            processes.push(process);
        }
        for round in 0..saves / PROCESSES {
            for turn in 0..programs.len() {
                let index = (round + turn) % programs.len();
                sample_save(&processes[index], store, &mut samples[index]).await;
            }
        }
    }
    samples
}

async fn sample_save(process: &Bootstrap, store: &Store, samples: &mut Samples) {
    let requests = store.requests();
    let cpu = cpu_time(process.pid());
    let start = Instant::now();
    save(process).await;
    samples.wall.push(start.elapsed());
    samples
        .cpu
        .push(cpu_time(process.pid()).saturating_sub(cpu));
    samples.requests = store.requests() - requests;
}

async fn save(process: &Bootstrap) {
    let response = process
        .begin_within(payload(), TIMEOUT)
        .outcome()
        .await
        .response();
    assert_eq!(response["statusCode"], 200, "{response}");
}

fn print_durations(case: &str, max: f64, programs: &[Program], samples: &[Samples]) {
    let medians = samples
        .iter()
        .map(|samples| (median(&samples.wall), median(&samples.cpu)));
    let medians: Vec<_> = medians.collect();
    let bare = programs.iter().position(|program| program.name == "bare");
    let (bare_wall, bare_cpu) = medians[bare.expect("the baseline")];
    for (index, program) in programs.iter().enumerate() {
        let (wall, cpu) = medians[index];
        print!(
            "| {case} | {} | {cpu:.2?} | {:.2} | {wall:.2?} |",
            program.name,
            ratio(cpu, bare_cpu)
        );
        let duration = Budget {
            figure: ratio(wall, bare_wall),
            max,
        };
        let requests = Budget {
            figure: samples[index].requests.into(),
            max: MAX_REQUESTS,
        };
        if program.is_function {
            println!(" {duration} | {requests:.0} |");
        } else {
            println!(" 1.00 | | | {:.0} | | |", requests.figure);
        }
    }
}

fn measure_memory(programs: &[Program]) {
    println!("\n## Peak memory of three saves\n");
    println!("| document | program | peak, MB | peak / bare | budget | |");
    println!("|---|---|---|---|---|---|");
    for megabytes in [5, 50] {
        let store = Store::start(document(megabytes * MB), Speed::AT_ONCE, None);
        let peak =
            |program| single_threaded_runtime().block_on(sample_peak_memory(program, &store));
        let peaks: Vec<_> = programs.iter().map(peak).collect();
        let bare = programs.iter().position(|program| program.name == "bare");
        let bare = peaks[bare.expect("the baseline")];
        for (program, peak) in programs.iter().zip(peaks) {
            print!("| {megabytes} MB | {} | {peak:.1} |", program.name);
            let ratio = Budget {
                figure: peak / bare,
                max: MAX_MEMORY_RATIO,
            };
            if program.is_function && megabytes == 50 {
                println!(" {ratio} |");
            } else {
                println!(" {:.2} | | |", ratio.figure);
            }
        }
    }
}

async fn sample_peak_memory(program: &Program, store: &Store) -> f64 {
    let process = program.start(store, &[]).await;
    for _ in 0..3 {
        save(&process).await;
    }
    memory(process.pid(), "VmHWM")
}

fn measure_throughput(programs: &[Program]) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!(
        "\n## Saves per second of one process, on {cores} cores that it shares with store and \
         Runtime API (no budget)\n"
    );
    println!("| document | program | concurrency | saves per second |");
    println!("|---|---|---|---|");
    for (size, bytes, saves) in [("4 KB", 4 * KB, 4000), ("200 KB", 200 * KB, 1000)] {
        let store = Store::start(document(bytes), Speed::AT_ONCE, None);
        // `bare` handles one invocation at a time.
        for program in programs.iter().filter(|program| program.name != "bare") {
            for concurrency in ["1", "8", "64"] {
                let env = [("AWS_LAMBDA_MAX_CONCURRENCY", concurrency)];
                let rate = sample_throughput(program, &store, &env, saves);
                let rate = single_threaded_runtime().block_on(rate);
                println!("| {size} | {} | {concurrency} | {rate:.0} |", program.name);
            }
        }
    }
}

async fn sample_throughput(
    program: &Program,
    store: &Store,
    env: &[(&str, &str)],
    saves: u32,
) -> f64 {
    let process = program.start(store, env).await;
    save(&process).await;
    let start = Instant::now();
    let pending: Vec<_> = (0..saves)
        .map(|_| process.begin_within(payload(), TIMEOUT))
        .collect();
    for save in pending {
        let response = save.outcome().await.response();
        assert_eq!(response["statusCode"], 200, "{response}");
    }
    f64::from(saves) / start.elapsed().as_secs_f64()
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
