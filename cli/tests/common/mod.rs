//! Drafts, saves and runs of `drafts`.

pub mod contents;

use std::fmt::Display;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_config::SdkConfig;
use local::s3::S3;
use save_draft::config::Config;
use save_draft::save::Saver;
use serde_json::Value;
use test_support::fixtures::BUCKET;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Path of the executable.
pub const DRAFTS: &str = env!("CARGO_BIN_EXE_drafts");

/// The id of a draft.
pub const ID: &str = "2025092811473036584258";

/// A run of `drafts` that has ended.
#[derive(Debug)]
pub struct Run {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Returns the JSON value on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks the exit status.
    #[track_caller]
    pub fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Checks the exit status, and that standard error has this text.
    #[track_caller]
    pub fn expect_error(self, status: i32, text: &str) -> Self {
        let run = self.expect_status(status);
        assert!(run.stderr.contains(text), "{text}: {run:?}");
        run
    }

    /// Checks that the run succeeded, and that standard output has this text.
    #[track_caller]
    pub fn expect_output(self, text: &str) -> Self {
        let run = self.expect_status(0);
        assert!(run.stdout.contains(text), "{text}: {run:?}");
        run
    }
}

/// Returns the command `drafts` for this S3, with no other variables than those for it.
pub fn command(s3: &S3) -> Command {
    let mut command = bare_command();
    command
        .env("DRAFT_BUCKET", BUCKET)
        .env("AWS_ENDPOINT_URL", s3.endpoint())
        .env("AWS_ACCESS_KEY_ID", &s3.options().access_key)
        .env("AWS_SECRET_ACCESS_KEY", &s3.options().secret_key);
    command
}

/// Returns the command `drafts` in an empty environment.
pub fn bare_command() -> Command {
    let mut command = Command::new(DRAFTS);
    command
        .env_clear()
        .env("TZ", "Asia/Shanghai")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub async fn run(command: &mut Command) -> Run {
    let output = command.output().await.expect("drafts starts");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    Run {
        status: output.status.code().expect("an exit status"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Runs `drafts` with these arguments.
pub async fn drafts(s3: &S3, args: &[&str]) -> Run {
    run(command(s3).args(args)).await
}

/// Runs `drafts` with these arguments and `--json`, and returns the value.
pub async fn drafts_json(s3: &S3, args: &[&str]) -> Value {
    let run = run(command(s3).args(args).arg("--json")).await;
    run.expect_status(0).json()
}

/// Starts an S3 server.
pub async fn start() -> S3 {
    S3::start_empty().await.expect("the S3 server starts")
}

/// Returns a time after the beginning of a day.
pub fn at(seconds: u64) -> SystemTime {
    // 2025-09-28T11:47:30Z
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050 + seconds)
}

/// Puts a file of the draft.
pub fn put(s3: &S3, path: impl Display, bytes: impl AsRef<[u8]>) {
    s3.put(BUCKET, &format!("drafts/{ID}/{path}"), bytes);
}

/// Deletes a file of the draft.
pub fn delete(s3: &S3, path: impl Display) {
    s3.delete(BUCKET, &format!("drafts/{ID}/{path}"));
}

/// Saves the draft with its files, as the function does; returns the name of the version.
pub async fn save(s3: &S3) -> String {
    save_in(&s3.sdk_config(), BUCKET, "true").await
}

/// Saves only the document of the draft; returns the name of the version.
pub async fn save_document(s3: &S3) -> String {
    save_in(&s3.sdk_config(), BUCKET, "false").await
}

/// Saves the draft in another store; returns the name of the version.
pub async fn save_in(sdk: &SdkConfig, bucket: &str, save_files: &str) -> String {
    let deadline = Instant::now() + Duration::from_mins(2);
    let saver = saver(sdk, bucket, save_files);
    let report = saver.save(ID.parse().expect("a valid id"), deadline).await;
    let saved = report.result.expect("the draft is saved");
    saved.version.to_string()
}

/// Returns a saver like that of the function.
pub fn saver(sdk: &SdkConfig, bucket: &str, save_files: &str) -> Saver {
    let config = Config::from_lookup(|name| match name {
        "DRAFT_BUCKET" => Some(bucket.into()),
        "SAVE_FILES" => Some(save_files.into()),
        _ => None,
    });
    let config = config.expect("a valid configuration");
    Saver::new(sdk, Arc::new(config))
}

/// Returns the key of an object of a version.
pub fn version_key(version: &str, name: &str) -> String {
    format!("saved/{ID}/{version}/{name}")
}

/// Returns the key of the only copy of the file `path`.
#[track_caller]
pub fn copy_key(s3: &S3, path: &str) -> String {
    let keys = s3.keys(BUCKET, &format!("saved-files/{ID}/"));
    let end = format!("/{path}");
    let mut copies = keys.into_iter().filter(|key| key.ends_with(&end));
    let copy = copies.next().expect("a copy");
    assert_eq!(copies.next(), None, "there is one copy of {path}");
    copy
}

/// Sends a signal to a process.
pub async fn send(child: &Child, signal: &str) {
    let pid = child.id().expect("it runs").to_string();
    let kill = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(kill.await.expect("kill runs").success());
}

/// Gets a URL without credentials.
pub async fn get(url: &str) -> Vec<u8> {
    let rest = url.strip_prefix("http://").expect("an HTTP URL");
    let (host, path) = rest.split_once('/').expect("a path");
    let stream = TcpStream::connect(host).await;
    let mut stream = stream.expect("the server listens");
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("the request is sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.expect("a response");
    let end = response.windows(4).position(|it| it == b"\r\n\r\n");
    let end = end.expect("headers");
    let head = String::from_utf8_lossy(&response[..end]);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    response.split_off(end + 4)
}
