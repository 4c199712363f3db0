//! The local endpoint as a user runs it: `cargo run -p local`.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use test_support::fixtures::DRAFT_ID;
use test_support::runtime::with_timeout;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};

pub(crate) fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
    command.args(["--port", "0", "--s3-port", "0", "--data-dir"]);
    command.arg(data_dir).kill_on_drop(true);
    command
}

/// Runs a command that ends by itself.
async fn output(mut command: Command) -> (Output, String) {
    let output = with_timeout(command.output()).await;
    let output = output.expect("the program starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, error)
}

/// A running local endpoint, killed when this is dropped.
pub(crate) struct Local {
    pub(crate) process: Child,
    pub(crate) output: Lines<BufReader<ChildStdout>>,
    /// The address of the function.
    pub(crate) address: String,
    /// The address of the S3 server.
    pub(crate) s3: String,
}

impl Local {
    pub(crate) async fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = process.stdout.take().expect("it is a pipe");
        let mut local = Self {
            process,
            output: BufReader::new(stdout).lines(),
            address: String::new(),
            s3: String::new(),
        };
        let address = |line: &str| {
            let (_, address) = line.split_once("http://").expect("the line has a URL");
            address
                .split(['/', ' '])
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        local.address = address(&local.line_with("The function is at ").await);
        local.s3 = address(&local.line_with("S3 is at ").await);
        local
    }

    /// Returns the next line that contains `text`.
    async fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = with_timeout(self.output.next_line()).await;
            let line = line.expect("it is UTF-8");
            let line = line.unwrap_or_else(|| panic!("the output ended without {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends a request to the function; returns the response.
    async fn post(&self, headers: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "POST /openapi/capcut-mate/v1/save_draft HTTP/1.1\r\n{headers}\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        exchange(&self.address, &request).await
    }

    /// Sends a request without a signature to the S3 server; returns the response, unless the connection breaks.
    async fn get_object(&self, headers: &str) -> io::Result<String> {
        let request = format!("GET /drafts/a HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        try_exchange(&self.s3, &request).await
    }

    pub(crate) async fn save(&self, id: &str) -> String {
        let url = format!("https://example.com/get_draft?draft_id={id}");
        let body = format!(r#"{{"draft_url": "{url}"}}"#);
        self.post("Host: localhost\r\n", &body).await
    }

    async fn interrupt(&self) {
        let id = self.process.id().expect("it runs").to_string();
        let kill = Command::new("kill").args(["-INT", &id]).status().await;
        assert!(kill.expect("kill runs").success());
    }
}

async fn exchange(address: &str, request: &str) -> String {
    let response = try_exchange(address, request).await;
    response.expect("a response is received")
}

async fn try_exchange(address: &str, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    with_timeout(stream.read_to_string(&mut response)).await?;
    Ok(response)
}

#[tokio::test]
async fn prints_one_line_for_each_request() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let mut local = Local::start(command(folder.path())).await;
    let variables = format!("AWS_ENDPOINT_URL_S3=http://{} ", local.s3);
    for line in [
        "1. ",
        "2. ",
        "3. ",
        &variables,
        "export DRAFT_BUCKET=drafts",
        "Ctrl-C",
    ] {
        local.line_with(line).await;
    }
    for outcome in ["created", "unchanged"] {
        let response = local.save(DRAFT_ID).await;
        let version = response
            .split("draft-version: ")
            .nth(1)
            .expect("it is saved");
        let version = version.split("\r\n").next().unwrap_or_default();
        let line = local.line_with("save_draft").await;
        let expected = format!("POST /openapi/capcut-mate/v1/save_draft 200 {outcome} {version} ");
        assert!(
            line.starts_with(&expected) && line.ends_with(" ms"),
            "{line}"
        );
    }
    local.save("missing").await;
    let line = local.line_with("save_draft").await;
    assert!(
        line.contains(" 404 DraftNotFound ") && line.contains("NoSuchKey"),
        "{line}"
    );

    // A link to itself cannot be opened, also by root.
    let draft = folder.path().join("drafts/drafts/unreadable");
    fs::create_dir_all(&draft).expect("the folder is created");
    let link = draft.join("draft_content.json");
    std::os::unix::fs::symlink("draft_content.json", &link).expect("the link is created");
    local.save("unreadable").await;
    let line = local.line_with("ERROR").await;
    assert!(line.contains(&link.display().to_string()), "{line}");
    assert!(line.contains("symbolic links"), "{line}");
    local.line_with(" 503 ServiceUnavailable ").await;

    fs::remove_dir_all(folder.path()).expect("the data folder is removed");
    let response = local.save(DRAFT_ID).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(folder.path().join("drafts/saved").join(DRAFT_ID).is_dir());
}

#[tokio::test]
async fn keeps_an_edited_sample_draft() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let document = folder
        .path()
        .join(format!("drafts/drafts/{DRAFT_ID}/draft_content.json"));
    for edited in ["{\"edited\": 1}", "{\"edited\": 2}"] {
        let mut local = Local::start(command(folder.path())).await;
        fs::write(&document, edited).expect("the sample draft exists");
        local.process.kill().await.expect("it runs");
        Local::start(command(folder.path())).await;
        let kept = fs::read_to_string(&document).expect("the document exists");
        assert_eq!(kept, edited);
    }
}

#[tokio::test]
async fn escapes_control_and_invisible_characters_in_the_path() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let mut local = Local::start(command(folder.path())).await;
    let request =
        "GET /a\u{9b}31m\u{202e}'b' HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    exchange(&local.address, request).await;
    let line = local.line_with("GET ").await;
    let expected = r"GET /a\u{9b}31m\u{202e}\'b\' 404 ";
    assert!(line.starts_with(expected), "{line:?}");
}

#[tokio::test]
async fn invalid_options_are_named_with_what_is_expected() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let percent = "'--faults <PERCENT>': must be a number between 0 and 100";
    let port = "must be an integer between 0 and 65535";
    let host = "'--allow-host <NAME>': must be a name without a port";
    for (option, value, expected) in [
        ("--faults", "-5", percent),
        ("--faults", "NaN", percent),
        ("--faults", "100.1", percent),
        ("--faults", "x", percent),
        ("--faults", "", percent),
        ("--port", "x", &*format!("'--port <PORT>': {port}")),
        (
            "--s3-port",
            "65536",
            &*format!("'--s3-port <PORT>': {port}"),
        ),
        ("--allow-host", "one.example:80", host),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        command.args([option, value]).current_dir(folder.path());
        let (output, error) = output(command).await;
        let message = format!("error: invalid value '{value}' for {expected}");
        assert!(error.starts_with(&message), "{error}");
        assert_eq!(output.status.code(), Some(2), "{error}");
    }
}

#[tokio::test]
async fn the_given_part_of_the_requests_fails() {
    for (percent, expected) in [("0", 0..=0), ("50", 150..=250), ("100", 400..=400)] {
        let folder = tempfile::tempdir().expect("a folder is created");
        let mut command = command(folder.path());
        command.args(["--faults", percent]);
        let local = Local::start(command).await;
        let mut failed = 0;
        for _ in 0..400 {
            // Without a signature, the response is an error whose end a fault cuts off.
            let response = local.get_object("Host: localhost\r\n").await;
            let response = response.unwrap_or_default();
            let is_whole = response.contains("AccessDenied") && response.ends_with("</Error>");
            failed += usize::from(!is_whole);
        }
        assert!(expected.contains(&failed), "{failed} of 400 at {percent}%");
        let status = if percent == "0" { "200" } else { "503" };
        if percent != "50" {
            for _ in 0..5 {
                let response = local.save(DRAFT_ID).await;
                assert_eq!(&response[9..12], status, "{response} at {percent}%");
            }
        }
    }
}

#[tokio::test]
async fn prints_logs_and_metrics_with_json() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let mut command = command(folder.path());
    command.arg("--json");
    let mut local = Local::start(command).await;
    local.save(DRAFT_ID).await;
    let log = local.line_with("\"message\":\"saved\"").await;
    let log: Value = serde_json::from_str(&log).expect("it is JSON");
    assert_eq!(log["outcome"], "created");
    assert!(log["_aws"].is_object(), "the record has metrics: {log}");
}

#[tokio::test]
async fn saves_all_files_of_the_sample_draft_with_save_files() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let mut command = command(folder.path());
    // The layout is always the default.
    command
        .arg("--save-files")
        .env("DRAFT_BUCKET", "other")
        .env("DRAFT_PREFIX", "other/")
        .env("SAVED_BUCKET", "other");
    let mut local = Local::start(command).await;
    let bucket = folder.path().join("drafts");
    let saved = ["saved", "saved-files"].map(|name| bucket.join(name).join(DRAFT_ID));
    let find = local.line_with("find ").await;
    let expected = format!("find {} {}", saved[0].display(), saved[1].display());
    assert_eq!(find.trim(), expected);
    for copied in ["3 files (3 copied)", "3 files (0 copied)"] {
        local.save(DRAFT_ID).await;
        let line = local.line_with("save_draft 200").await;
        assert!(line.contains(copied), "{line}");
    }
    let version = fs::read_dir(&saved[0]).expect("a version").next();
    let version = version.expect("one").expect("readable").path();
    let manifest = fs::read(version.join("files.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let files = manifest["files"].as_array().expect("a list");
    for file in files {
        let read = |key: String| fs::read(bucket.join(key)).expect("the file exists");
        let path = file["path"].as_str().expect("a path");
        let copy = read(file["key"].as_str().expect("a key").to_owned());
        assert_eq!(copy, read(format!("drafts/{DRAFT_ID}/{path}")), "{path}");
    }
    assert_eq!(files.len(), 3);

    // A file that cannot be an object is not left out silently.
    let draft = bucket.join("drafts").join(DRAFT_ID);
    let invalid = draft.join(OsStr::from_bytes(b"\xff.png"));
    fs::write(&invalid, "").expect("the file is written");
    local.save(DRAFT_ID).await;
    let line = local.line_with("ERROR").await;
    assert!(line.contains(&invalid.display().to_string()), "{line}");
    local.line_with(" 500 SaveFailed ").await;
}

#[tokio::test]
async fn refuses_requests_of_web_pages() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let mut command = command(folder.path());
    command.args(["--allow-host", "one.example", "--allow-host", "two.example"]);
    command.env("CORS_ORIGIN", "https://editor.example");
    let local = Local::start(command).await;
    // The function and the S3 server.
    let (both, function, none) = ([true, true], [true, false], [false, false]);
    for (headers, are_allowed) in [
        ("Host: localhost", both),
        ("Host: 127.0.0.1:1", both),
        ("Host: LOCALHOST:1|Origin: http://localhost:8080", both),
        ("Host: localhost|Sec-Fetch-Site: same-site", both),
        // Clients in containers.
        ("Host: host.docker.internal:3000", both),
        ("Host: one.example:3000", both),
        ("Host: two.example|Origin: http://localhost", both),
        // The page of the variable, which calls the function only.
        ("Host: localhost|Origin: https://editor.example", function),
        (
            "Host: localhost|Origin: https://editor.example|Sec-Fetch-Site: cross-site",
            function,
        ),
        ("Origin: http://localhost", none),
        ("Host: attacker.example:3000", none),
        ("Host: localhost.attacker.example", none),
        ("Host: localhost|Host: attacker.example", none),
        ("Host: localhost|Origin: https://attacker.example", none),
        ("Host: localhost|Origin: null", none),
        (
            "Host: localhost|Origin: http://localhost.attacker.example",
            none,
        ),
        ("Host: one.example|Origin: http://one.example", none),
        // A link or an image, which a presigned URL would open.
        ("Host: localhost|Sec-Fetch-Site: cross-site", none),
    ] {
        let lines = headers.replace('|', "\r\n") + "\r\n";
        let response = local.post(&lines, "{}").await;
        let status = if are_allowed[0] { "400" } else { "403" };
        assert_eq!(&response[9..12], status, "{headers}: {response}");
        let response = local.get_object(&lines).await.expect("a response");
        let is_refused = response.contains("<Message>AccessDenied</Message>");
        assert_eq!(is_refused, !are_allowed[1], "{headers}: {response}");
    }
}

#[tokio::test]
async fn stops_at_once_on_the_second_interrupt() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let mut local = Local::start(command(folder.path())).await;
    let mut stream = TcpStream::connect(&local.address)
        .await
        .expect("it listens");
    let half = b"POST /save_draft HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345";
    stream
        .write_all(half)
        .await
        .expect("half a request is sent");
    // Another request is served after the half one has been accepted.
    local.save(DRAFT_ID).await;
    local.interrupt().await;
    local.line_with("Press Ctrl-C again").await;
    assert!(local.process.try_wait().expect("it is ours").is_none());
    local.interrupt().await;
    // Without the second, it would wait 29 seconds for the half request.
    let ended = tokio::time::timeout(Duration::from_secs(20), local.process.wait()).await;
    let status = ended.expect("it does not wait for the half request");
    assert!(status.expect("it is ours").success());
}

#[tokio::test]
async fn reports_what_is_wrong_before_the_instructions() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let mut invalid = command(folder.path());
    invalid.env("MAX_DRAFT_BYTES", "x");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("the file is written");
    let taken = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let with_port = |option: &str| {
        let mut command = command(folder.path());
        command.args([option, &port]);
        command
    };
    let in_use = format!("Port {port} of 127.0.0.1 is in use: choose another with");
    for (command, message) in [
        (invalid, "MAX_DRAFT_BYTES must be".to_owned()),
        (
            command(&file),
            format!("{} cannot be written", file.display()),
        ),
        // Nothing can be created there, also by root.
        (
            command(Path::new("/proc/data")),
            "/proc/data cannot be written".to_owned(),
        ),
        (with_port("--port"), format!("{in_use} --port")),
        (with_port("--s3-port"), format!("{in_use} --s3-port")),
    ] {
        let (output, error) = output(command).await;
        assert!(error.contains(&message), "{message}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}
