//! The commands in the documentation, run against the local endpoint.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use test_support::fixtures::{DRAFT_ID, in_repository, sample_draft, sha256_hex};
use test_support::skip_or_fail;
use tokio::process::Command;

use crate::endpoint::{Local, command};

const BASH: [&str; 4] = ["bash", "-euo", "pipefail", "-c"];

/// Returns the first code block after `heading` in a page that is of this language and contains `text`.
fn block(path: &str, heading: &str, language: &str, text: &str) -> String {
    let page = fs::read_to_string(in_repository(path)).expect("the page exists");
    let section = page.split(&format!("# {heading}\n")).nth(1);
    let section = section.unwrap_or_else(|| panic!("{path} has no section {heading:?}"));
    let start = format!("```{language}\n");
    let blocks = section.split(&start).skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let block = blocks.find(|block| block.contains(text));
    let missing = || panic!("{path}, {heading:?}: there is no {language} with {text:?}");
    block.unwrap_or_else(missing).to_owned()
}

/// Returns whether the programs can be run.
async fn has(programs: &[&str]) -> bool {
    for program in programs {
        let version = Command::new(program).arg("--version").output().await;
        if !version.is_ok_and(|output| output.status.success()) {
            skip_or_fail(&format!("{program} is not installed"));
            return false;
        }
    }
    true
}

/// Runs `code` of the documentation with the addresses of `local`, and returns its output.
async fn run(local: &Local, folder: &TempDir, command: &[&str], code: &str) -> String {
    let code = code.replace("127.0.0.1:3000", &local.address);
    let code = code.replace("127.0.0.1:9000", &local.s3);
    let output = Command::new(command[0])
        .args(&command[1..])
        .arg(&code)
        .current_dir(folder.path())
        .env("NO_PROXY", "127.0.0.1")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env_remove("AWS_PROFILE")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{code}\n{text}\n{errors}");
    text
}

#[tokio::test]
async fn documented_examples_save_the_draft() {
    let folder = tempfile::tempdir().expect("a folder is created");
    let local = Local::start(command(folder.path())).await;
    for (path, heading, language, command) in [
        ("README.md", "Call", "sh", &BASH[..]),
        ("docs/api.md", "curl", "sh", &BASH),
        ("docs/api.md", "Python", "python", &["python3", "-c"]),
        ("docs/api.md", "JavaScript", "javascript", &["node", "-e"]),
    ] {
        if !has(&[if language == "sh" { "curl" } else { command[0] }]).await {
            continue;
        }
        let code = block(path, heading, language, "");
        let output = run(&local, &folder, command, &code).await;
        let is_saved = output.contains("created") || output.contains("unchanged");
        let is_sample = output.contains(&sha256_hex(&sample_draft()));
        assert!(is_saved && is_sample, "{heading:?} in {path}: {output:?}");
    }
}

#[tokio::test]
async fn documented_commands_list_download_and_link_versions() {
    if !has(&["aws", "bash", "curl"]).await {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder is created");
    let local = Local::start(command(folder.path())).await;
    local.save(DRAFT_ID).await;
    let commands = |text: &str| block("docs/versions.md", "With the AWS CLI only", "sh", text);
    let script = format!(
        "export AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_REGION=us-east-1 \
         AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local-secret
         DRAFT_BUCKET=drafts SAVED_BUCKET=drafts DRAFT_ID={DRAFT_ID}
         {list} | tee list
         VERSION=$(awk -F / '{{print $(NF - 1)}}' list)
         {download}
         mv \"$VERSION/draft_content.json\" .
         curl -fsS \"$({link})\" -o linked.json",
        list = commands("aws s3 ls").trim(),
        download = commands("\"$VERSION/\"").trim(),
        link = commands("aws s3 presign").trim(),
    );
    let output = run(&local, &folder, &BASH, &script).await;
    assert!(output.contains(&sha256_hex(&sample_draft())), "{output:?}");
    for file in ["draft_content.json", "linked.json"] {
        let bytes = fs::read(folder.path().join(file)).expect("the file exists");
        assert!(bytes == sample_draft(), "{file} is not the saved document");
    }
}

/// Returns a line of a transcript without what differs from run to run: times, and the width of columns.
fn without_times(line: &str) -> String {
    let words = line.split_whitespace().map(|word| match word.as_bytes() {
        [_, _, _, _, _, _, _, _, b'T', _, _, _, _, _, _, b'Z', ..] => &word[16..],
        [_, _, _, _, b'-', _, _, b'-', _, _] | [_, _, b':', _, _, b':', _, _] => "",
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn the_transcript_in_the_readme_is_what_a_terminal_shows() {
    let drafts = Path::new(env!("CARGO_BIN_EXE_local")).with_file_name("drafts");
    if !drafts.exists() {
        skip_or_fail("the command drafts is not built (cargo build -p drafts)");
        return;
    }
    if !has(&["bash", "curl"]).await {
        return;
    }
    let page = fs::read_to_string(in_repository("README.md")).expect("the page exists");
    let transcript = page.split("```console\n").nth(1).expect("a transcript");
    let transcript = transcript.split("```").next().unwrap_or_default();
    let (commands, output): (Vec<_>, Vec<_>) =
        transcript.lines().partition(|line| line.starts_with("$ "));
    let commands = commands.iter().map(|line| &line[2..]);
    let mut commands: Vec<_> = commands.filter(|it| !it.starts_with("cargo ")).collect();
    let first_save = commands.iter().position(|it| *it == "save");
    // The version that is compared and restored, whose name has the time of this run.
    let first_version = "FIRST=$(ls .local/drafts/saved/$ID)";
    commands.insert(first_save.expect("a save") + 1, first_version);
    let name = transcript
        .split(&['\n', ' '])
        .find(|it| it.len() == 16 && it.ends_with('Z'));
    let script = commands.join("\n").replace(name.expect("a time"), "$FIRST");

    let folder = tempfile::tempdir().expect("a folder is created");
    let local = Local::start(command(&folder.path().join(".local"))).await;
    let script = format!(
        "exec 2>&1
         export AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000 AWS_REGION=us-east-1 \
         AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local-secret DRAFT_BUCKET=drafts TZ=UTC
         drafts() {{ '{}' \"$@\"; }}
         {script}",
        drafts.display()
    );
    let shown = run(&local, &folder, &BASH, &script).await;
    let shown: Vec<_> = shown.lines().map(without_times).collect();
    let output: Vec<_> = output.into_iter().map(without_times).collect();
    assert_eq!(shown, output);
}
