//! Whole processes beside the baselines `bare` and `hello`: size of the executable, start, and first
//! invocation.
//!
//! `docs/performance.md` describes the method.

#![allow(
    clippy::expect_used,
    reason = "a benchmark that cannot run ends with a panic"
)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use test_support::runtime::TIMEOUT;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use self::common::{
    Budget, Program, Speed, Store, cpu_time, document, median, memory, payload, programs,
    single_threaded_runtime,
};

/// Number of rounds. Each measures every program once.
const ROUNDS: usize = 61;
/// Size of the document that the first invocation saves.
const DOCUMENT_BYTES: usize = 4000;

/// A figure, and its maximum beside `bare`.
struct Figure {
    name: &'static str,
    max_ratio: f64,
}

const fn figure(name: &'static str, max_ratio: f64) -> Figure {
    Figure { name, max_ratio }
}

const SIZE: [Figure; 2] = [
    figure("executable, MB", 1.05),
    figure("executable zipped, MB", 1.05),
];
const START: [Figure; 3] = [
    figure("start: exec to first poll, ms", 1.0),
    figure("start: CPU, ms", 1.0),
    figure("start: resident memory, MB", 1.1),
];
const FIRST_INVOCATION: [Figure; 3] = [
    figure("first invocation: exec to response, ms", 1.0),
    figure("first invocation: CPU, ms", 1.0),
    figure("first invocation: requests to the store", 1.0),
];
const FIRST_INVOCATION_TLS: [Figure; 3] = [
    figure("first invocation, TLS: exec to response, ms", 1.0),
    figure("first invocation, TLS: CPU, ms", 1.0),
    figure("first invocation, TLS: requests to the store", 1.0),
];

fn main() {
    // `cargo test --benches` only checks that it compiles and starts.
    if !env::args().any(|argument| argument == "--bench") {
        return;
    }
    let programs = programs();
    println!("\n## Processes, medians of {ROUNDS} rounds\n");
    print_header(&programs);
    let sizes: Vec<_> = programs
        .iter()
        .map(|program| Some(sizes(program)))
        .collect();
    print_rows(&programs, &SIZE, &sizes);

    let starts = sample(&programs, |program| Some(sample_start(program, &[])));
    print_rows(&programs, &START, &starts);

    let document = document(DOCUMENT_BYTES);
    let store = Store::start(document.clone(), Speed::AT_ONCE, None);
    let invocations = sample(&programs, |program| {
        sample_first_invocation(program, &store, &[])
    });
    print_rows(&programs, &FIRST_INVOCATION, &invocations);

    let tls = Tls::new();
    let store = Store::start(document, Speed::AT_ONCE, Some(tls.acceptor()));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bundle = folder.path().join("roots.pem");
    tls.write_bundle(&bundle);
    let bundle = bundle.to_str().expect("UTF-8");
    let invocations = sample(&programs, |program| {
        sample_first_invocation(program, &store, &[("SSL_CERT_FILE", bundle)])
    });
    print_rows(&programs, &FIRST_INVOCATION_TLS, &invocations);
}

/// Returns the medians of the figures of each subject, measured in turns. A subject without a
/// figure has `None`.
fn sample<T, const N: usize>(
    subjects: &[T],
    measure: impl Fn(&T) -> Option<[f64; N]>,
) -> Vec<Option<[f64; N]>> {
    let mut samples: Vec<_> = subjects.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for turn in 0..subjects.len() {
            let index = (round + turn) % subjects.len();
            let figures = measure(&subjects[index]);
            // The first round loads the executable into the page cache.
            if round > 0 {
                samples[index].extend(figures);
            }
        }
    }
    let medians = samples.iter().map(|samples| {
        let has_figures = !samples.is_empty();
        let column = |index| median(&samples.iter().map(|row| row[index]).collect::<Vec<_>>());
        has_figures.then(|| std::array::from_fn(column))
    });
    medians.collect()
}

/// Returns the sizes in MB. The release profile strips the executable.
fn sizes(program: &Program) -> [f64; 2] {
    let executable = fs::read(&program.path).expect("an executable");
    let mut zip = DeflateEncoder::new(Vec::new(), Compression::best());
    zip.write_all(&executable).expect("memory");
    let zipped = zip.finish().expect("memory");
    [executable, zipped].map(|bytes| megabytes(bytes.len()))
}

fn megabytes(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes).expect("less than 4 GB")) / 1e6
}

/// Certificate and key of a store that uses TLS.
struct Tls {
    certificate: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Tls {
    /// Creates a certificate for `localhost`.
    fn new() -> Self {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        Self {
            certificate: certificate.expect("a certificate"),
        }
    }

    /// Writes the file `to`: the system's root certificates, and the certificate of the store.
    fn write_bundle(&self, to: &Path) {
        let mut bundle =
            fs::read_to_string(common::programs::system_roots()).expect("root certificates");
        bundle.push_str(&self.certificate.cert.pem());
        fs::write(to, bundle).expect("a writable folder");
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::Pkcs8(self.certificate.signing_key.serialize_der().into());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.cert.der().clone()], key);
        TlsAcceptor::from(Arc::new(config.expect("a matching key")))
    }
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("a child process");
        self.0.wait().expect("a child process");
    }
}

/// Starts the program and waits for its first poll of the Runtime API.
fn sample_start(program: &Program, env: &[(&str, &str)]) -> [f64; 3] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let mut command = Command::new(&program.path);
    command
        .env_clear()
        .envs(Program::env())
        .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", "save-draft")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let start = Instant::now();
    let process = Running(command.spawn().expect("a process"));
    let (mut connection, _) = listener.accept().expect("a connection");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        let bytes = connection.read(&mut chunk).expect("a request");
        assert!(bytes > 0, "{} closed the connection", program.name);
        request.extend_from_slice(&chunk[..bytes]);
    }
    let wall = start.elapsed();
    let cpu = cpu_time(process.0.id());
    let memory = memory(process.0.id(), "VmRSS");
    assert!(request.starts_with(b"GET /2018-06-01/runtime/invocation/next "));
    [milliseconds(wall), milliseconds(cpu), memory]
}

/// Starts the program with an invocation waiting, as in a cold start, and waits for the response.
fn sample_first_invocation(
    program: &Program,
    store: &Store,
    env: &[(&str, &str)],
) -> Option<[f64; 3]> {
    if !program.uses_store {
        return None;
    }
    let requests = store.requests();
    let figures = single_threaded_runtime().block_on(async {
        let start = Instant::now();
        let process = program.start(store, env).await;
        let outcome = process.begin_within(payload(), TIMEOUT).outcome().await;
        let wall = start.elapsed();
        let cpu = cpu_time(process.pid());
        let response = outcome.response();
        assert_eq!(response["statusCode"], 200, "{response}");
        let requests = f64::from(store.requests() - requests);
        [milliseconds(wall), milliseconds(cpu), requests]
    });
    Some(figures)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn print_header(programs: &[Program]) {
    print!("| figure |");
    for program in programs {
        print!(" {} |", program.name);
    }
    for program in programs_with_budget(programs) {
        print!(" {} / bare | budget | |", program.name);
    }
    println!();
    let columns = 1 + programs.len() + 3 * programs_with_budget(programs).count();
    println!("|{}", "---|".repeat(columns));
}

fn programs_with_budget(programs: &[Program]) -> impl Iterator<Item = &Program> {
    programs.iter().filter(|program| program.is_function)
}

/// Prints the figures of all programs, and the budgets of the function.
fn print_rows<const N: usize>(
    programs: &[Program],
    figures: &[Figure; N],
    values: &[Option<[f64; N]>],
) {
    let bare = programs.iter().zip(values);
    let bare = bare
        .filter(|(program, _)| program.name == "bare")
        .find_map(|(_, values)| *values);
    let bare = bare.expect("the baseline");
    for (index, figure) in figures.iter().enumerate() {
        print!("| {} |", figure.name);
        for values in values {
            match values {
                Some(values) => print!(" {:.2} |", values[index]),
                None => print!(" |"),
            }
        }
        for (program, values) in programs.iter().zip(values) {
            if let (true, Some(values)) = (program.is_function, values) {
                let budget = Budget {
                    figure: values[index] / bare[index],
                    max: figure.max_ratio,
                };
                print!(" {budget} |");
            }
        }
        println!();
    }
}
