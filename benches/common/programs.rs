//! The measured programs: the baselines and the function, each built alone with the release profile.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use test_support::fixtures::{BUCKET, draft_key, in_repository};
use test_support::runtime::Bootstrap;

use super::{DRAFT_ID, Store};

/// Path of another build of the function, to be measured in the same run.
const OTHER_PROGRAM: &str = "BENCH_OTHER";

/// File of the system's root certificates: Amazon Linux, Debian.
const SYSTEM_ROOTS: [&str; 2] = [
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",
];

/// Returns the file of the system's root certificates.
pub fn system_roots() -> PathBuf {
    let roots = SYSTEM_ROOTS.map(PathBuf::from);
    let roots = roots.into_iter().find(|path| path.is_file());
    roots.expect("the system's root certificates")
}

/// A measured program.
pub struct Program {
    /// Name in the tables.
    pub name: &'static str,
    /// Path of the executable.
    pub path: PathBuf,
    /// True for a build of the function, false for a baseline.
    pub is_function: bool,
    /// True for a program that makes requests to the store.
    pub uses_store: bool,
}

/// Builds the programs and returns them: `hello`, `bare`, `save-draft`, and `other` if the
/// environment variable `BENCH_OTHER` is set.
pub fn programs() -> Vec<Program> {
    let mut programs = vec![
        baseline("hello", build("baseline-hello"), false),
        baseline("bare", build("baseline-bare"), true),
    ];
    programs.extend(functions());
    programs
}

/// Builds the function and returns it: `save-draft`, and `other` if the environment variable
/// `BENCH_OTHER` is set.
pub fn functions() -> Vec<Program> {
    let mut functions = vec![function("save-draft", build("save-draft"))];
    functions.extend(env::var_os(OTHER_PROGRAM).map(|path| function("other", path.into())));
    functions
}

fn baseline(name: &'static str, path: PathBuf, uses_store: bool) -> Program {
    Program {
        name,
        path,
        is_function: false,
        uses_store,
    }
}

fn function(name: &'static str, path: PathBuf) -> Program {
    Program {
        name,
        path,
        is_function: true,
        uses_store: true,
    }
}

impl Program {
    /// Returns the environment that all measurements have in common.
    pub fn env() -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local-secret".to_owned()),
            ("AWS_SESSION_TOKEN", "token".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("DRAFT_BUCKET", BUCKET.to_owned()),
            ("SOURCE_KEY", draft_key(DRAFT_ID)),
            ("TARGET_KEY", "saved/bench".to_owned()),
        ];
        // Amazon Linux has a single file of root certificates. Other systems have a folder too, which
        // the SDK would read in addition.
        env.push(("SSL_CERT_FILE", system_roots().display().to_string()));
        env
    }

    /// Starts the program with a Runtime API and `store`.
    pub async fn start(&self, store: &Store, env: &[(&str, &str)]) -> Bootstrap {
        let mut all = Self::env();
        all.push(("AWS_ENDPOINT_URL_S3", store.url().to_owned()));
        all.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Bootstrap::start(&self.path, all).await
    }
}

/// Builds the executable of `package` and returns its path. Each package is built by a command of
/// its own: Cargo unites the features of the packages that it builds together.
fn build(package: &str) -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    cargo
        .current_dir(in_repository(""))
        .args(["build", "--locked", "--bins", "--package", package])
        .args(["--release", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let output = cargo.output().expect("Cargo");
    assert!(output.status.success(), "{package} was not built");
    let messages = String::from_utf8(output.stdout).expect("UTF-8");
    let executable = messages.lines().find_map(|message| {
        let message: Value = serde_json::from_str(message).expect("JSON");
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    executable.expect("an executable")
}
