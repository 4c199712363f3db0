//! `drafts versions`, `show`, `diff` and `link`, and the help.

use std::process::Stdio;

use local::s3::{Op, S3};
use serde_json::{Value, json};
use test_support::fixtures::{BUCKET, sample_draft};

use crate::common::contents::{entry, plant, plant_version, set_time};
use crate::common::{
    ID, at, bare_command, command, delete, drafts, drafts_json, get, put, run, save, save_document,
    start, version_key,
};

/// Returns a version without other files, as an import makes it.
fn put_version(s3: &S3, time: &str, document: &[u8]) -> String {
    plant(s3, time, ("draft_content.json", document), &[])
}

fn names(versions: &Value) -> Vec<&str> {
    let versions = versions.as_array().expect("a list").iter();
    versions
        .map(|version| version["version"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn versions_are_listed_with_sizes_times_and_unshared_bytes() {
    let s3 = start().await;
    s3.set_clock(at(0));
    put(&s3, "assets/a.mp4", vec![1; 3 << 20]);
    put(&s3, "draft_content.json", br#"{"duration":1}"#);
    let old = save(&s3).await;
    s3.set_clock(at(60));
    put(&s3, "assets/b.mp4", vec![2; 1 << 20]);
    put(&s3, "draft_content.json", br#"{"duration":22}"#);
    let new = save(&s3).await;
    let manifest = |version| {
        let manifest = s3.get(BUCKET, &version_key(version, "files.json"));
        manifest.expect("a manifest").len() as u64
    };

    let listed = drafts_json(&s3, &["versions", ID]).await;
    let saved_at = |index: usize| listed[index]["saved_at"].clone();
    let expected = json!([
        {"version": new, "state_time": "2025-09-28T11:48:30Z", "saved_at": saved_at(0),
         "document": "draft_content.json", "document_bytes": 15, "has_manifest": true,
         "files": 2, "files_bytes": 4 << 20,
         "unshared_bytes": 15 + (1 << 20) + manifest(&new)},
        {"version": old, "state_time": "2025-09-28T11:47:30Z", "saved_at": saved_at(1),
         "document": "draft_content.json", "document_bytes": 14, "has_manifest": true,
         "files": 1, "files_bytes": 3 << 20,
         "unshared_bytes": 14 + manifest(&old)},
    ]);
    assert_eq!(listed, expected);

    let table = drafts(&s3, &["versions", ID]).await.expect_status(0).stdout;
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    let columns: Vec<_> = lines[0].split_whitespace().collect();
    let expected = [
        "VERSION", "STATE", "SAVED", "DOCUMENT", "FILES", "SIZE", "UNSHARED",
    ];
    assert_eq!(columns, expected);
    assert!(lines[1].starts_with(&new[..25]), "{table}");
    assert!(lines[1].contains("2025-09-28 19:48:30 CST"), "{table}");
    assert!(lines[1].contains("15 B      2  4.00 MiB"), "{table}");
    assert!(
        lines[3].starts_with("2 versions, 4.00 MiB stored"),
        "{table}"
    );
    let run = drafts(&s3, &["versions", ID, "--utc"]).await;
    run.expect_output("2025-09-28 11:48:30 UTC");
}

#[tokio::test]
async fn versions_of_one_second_are_in_the_order_of_their_saves() {
    let s3 = start().await;
    let mut expected = Vec::new();
    for number in 0..5 {
        s3.set_clock(at(0));
        put(&s3, "draft_content.json", format!(r#"{{"a":{number}}}"#));
        set_time(&s3, "draft_content.json", at(0));
        expected.insert(0, save_document(&s3).await);
    }
    let listed = drafts_json(&s3, &["versions", ID]).await;
    assert_eq!(names(&listed), expected);
    let shown = drafts_json(&s3, &["show", ID]).await;
    assert_eq!(shown["version"], expected[0]);
}

#[tokio::test]
async fn versions_without_a_manifest_or_with_a_broken_one_are_listed() {
    let s3 = start().await;
    put(&s3, "cover.png", b"cover");
    put(&s3, "draft_content.json", b"{}");
    let broken = save(&s3).await;
    s3.put(BUCKET, &version_key(&broken, "files.json"), b"{");
    let plain = put_version(&s3, "20200101T000000Z", b"{}");
    // Not a version.
    s3.put(BUCKET, &version_key("notes", "draft_content.json"), b"{}");
    s3.put(BUCKET, &version_key("notes", "files.json"), b"{}");
    s3.clear_requests();
    let listed = drafts(&s3, &["versions", ID, "--json"]).await;
    let listed = listed.expect_error(1, "is not a manifest");
    assert_eq!(names(&listed.json()), [&broken, &plain]);
    assert_eq!(s3.count(Op::GetObject), 1, "the manifest of the version");
    let fields = ["has_manifest", "files"].map(|field| listed.json()[0][field].clone());
    assert_eq!(fields, [Value::Bool(true), Value::Null]);
    let table = drafts(&s3, &["versions", ID]).await.expect_status(1).stdout;
    let cells = |line: usize| -> Vec<String> {
        let line = table.lines().nth(line).expect("a line");
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert!(cells(1).contains(&"?".to_owned()), "{table}");
    assert!(cells(2).contains(&"-".to_owned()), "{table}");
}

#[tokio::test]
async fn sizes_that_no_file_has_are_listed_too() {
    let s3 = start().await;
    let etag = "0123456789abcdef0123456789abcdef";
    let files = ["a.mp4", "b.mp4"].map(|path| entry(path, usize::MAX, etag));
    plant_version(
        &s3,
        "20250101T000000Z",
        ("draft_content.json", b"{}"),
        &files,
    );
    let listed = drafts_json(&s3, &["versions", ID]).await;
    assert_eq!(listed[0]["files_bytes"], u64::MAX);
}

#[tokio::test]
async fn a_draft_without_versions_has_an_empty_list() {
    let s3 = start().await;
    let run = drafts(&s3, &["versions", ID]).await;
    let run = run.expect_error(0, "there are no versions in s3://drafts/saved/");
    assert_eq!(run.stdout, "");
    assert_eq!(drafts_json(&s3, &["versions", ID]).await, json!([]));
    let run = drafts(&s3, &["show", ID]).await;
    run.expect_error(2, "has no versions");
}

#[tokio::test]
async fn a_version_is_named_by_a_beginning_that_only_it_has() {
    let s3 = start().await;
    let first = put_version(&s3, "20250101T000000Z", b"{}");
    let second = put_version(&s3, "20250102T000000Z", b"{\"a\":1}");
    let version =
        async |selector: &str| drafts_json(&s3, &["show", ID, selector]).await["version"].clone();
    assert_eq!(version("20250101").await, first);
    assert_eq!(version(&first).await, first);
    assert_eq!(version("latest").await, second);
    let run = drafts(&s3, &["show", ID, "2025"]).await;
    run.expect_error(2, "2 versions begin with 2025");
    let run = drafts(&s3, &["show", ID, "2024"]).await;
    run.expect_error(2, "has no version 2024");
    let url = format!("https://example.com/get_draft?draft_id={ID}");
    let shown = drafts_json(&s3, &["show", &url]).await;
    assert_eq!(shown["version"], second);
}

#[tokio::test]
async fn show_prints_the_files_tracks_and_materials_and_the_missing_media() {
    let s3 = start().await;
    s3.set_clock(at(0));
    put(&s3, "assets/opening.mp4", vec![1; 2048]);
    put(&s3, "draft_content.json", sample_draft());
    let version = save(&s3).await;
    let run = drafts(&s3, &["show", ID, "--utc"]).await.expect_status(0);
    let saved = run.stdout.lines().nth(2).expect("a line").to_owned();
    assert!(saved.starts_with("saved      "), "{saved}");
    let size = f64::from(u32::try_from(sample_draft().len()).expect("a small file")) / 1024.0;
    let expected = format!(
        "version    {version}
state      2025-09-28 11:47:30 UTC
{saved}
document   draft_content.json, {size:.2} KiB
duration   0:05.000
canvas     1080 x 1920, original, 30 fps
tracks     video \"main\": 1 segment
           audio \"music\": 1 segment
           text \"captions\": 1 segment
materials  1 audios, 1 speeds, 1 texts, 1 videos
files      1 file, 2.00 KiB
    2.00 KiB  assets/opening.mp4
1 media file of the document not in the version:
  audios      assets/theme.mp3
"
    );
    assert_eq!(run.stdout, expected);

    let shown = drafts_json(&s3, &["show", ID]).await;
    assert_eq!(shown["document"]["duration_us"], 5_000_000);
    assert_eq!(shown["document"]["tracks"][0]["type"], "video");
    assert_eq!(
        shown["files"],
        json!([{"path": "assets/opening.mp4", "bytes": 2048}])
    );
    let missing = json!([{"material": "audios", "path": "assets/theme.mp3"}]);
    assert_eq!(shown["missing_media"], missing);
}

#[tokio::test]
async fn show_finds_media_by_the_end_of_their_paths() {
    let s3 = start().await;
    put(&s3, "assets/a.mp4", b"a");
    put(&s3, "assets/b.mp4", b"b");
    let document = json!({"materials": {"videos": [
        {"path": format!("/app/output/draft/{ID}/assets/a.mp4")},
        {"path": format!(r"C:\drafts\{ID}\assets\b.mp4")},
        {"path": format!(r"C:\drafts\{ID}\assets\c.mp4")},
    ]}});
    put(&s3, "draft_content.json", document.to_string());
    save(&s3).await;
    let shown = drafts_json(&s3, &["show", ID]).await;
    let missing = json!([{"material": "videos", "path": format!(r"C:\drafts\{ID}\assets\c.mp4")}]);
    assert_eq!(shown["missing_media"], missing);
}

#[tokio::test]
async fn encrypted_documents_are_named_as_such() {
    let s3 = start().await;
    put_version(&s3, "20250101T000000Z", "QUJD".repeat(300).as_bytes());
    put_version(&s3, "20250102T000000Z", "QUJE".repeat(300).as_bytes());
    let run = drafts(&s3, &["show", ID]).await;
    run.expect_output("draft_content.json, 1.17 KiB, encrypted\n");
    let run = drafts(&s3, &["diff", ID, "20250101", "latest"]).await;
    run.expect_output("~ document  1.17 KiB, encrypted\n");
    let diff = drafts_json(&s3, &["diff", ID, "20250101", "latest"]).await;
    assert_eq!(diff["document"]["parts"], Value::Null);
    assert_eq!(diff["document"]["is_changed"], true);
}

#[tokio::test]
async fn diff_lists_files_tracks_segments_and_materials() {
    let s3 = start().await;
    s3.set_clock(at(0));
    put(&s3, "same.png", b"same");
    put(&s3, "changed.png", b"old");
    put(&s3, "removed.png", b"removed");
    let old = json!({
        "duration": 1_000_000, "canvas_config": {"width": 1, "height": 2}, "fps": 30,
        "tracks": [
            {"id": "1", "type": "video", "name": "main", "segments": [{"id": "a"}, {"id": "b", "x": 1}]},
            {"id": "2", "type": "audio", "name": "", "segments": []},
            {"id": "3", "type": "text", "segments": [{"id": "c"}]},
        ],
        "materials": {"texts": [{"id": "t", "content": "old"}], "videos": [{"id": "v", "path": "a.mp4"}]},
    });
    put(&s3, "draft_content.json", old.to_string());
    let old = save(&s3).await;
    s3.set_clock(at(60));
    put(&s3, "changed.png", b"newer");
    put(&s3, "added é.png", b"added");
    delete(&s3, "removed.png");
    let new = json!({
        "duration": 61_500_000, "canvas_config": {"height": 2, "width": 1}, "fps": 30,
        "tracks": [
            {"id": "1", "name": "main", "type": "video", "segments": [{"id": "b", "x": 2}, {"id": "d"}]},
            {"id": "2", "type": "audio", "name": "", "segments": [], "flag": 1},
            {"id": "4", "type": "sticker", "segments": []},
        ],
        "materials": {"texts": [{"id": "t", "content": "new"}], "audios": [{"id": "m", "name": "song"}]},
    });
    put(&s3, "draft_content.json", new.to_string());
    let new = save(&s3).await;

    let run = drafts(&s3, &["diff", ID, &old, &new]).await;
    let run = run.expect_status(0);
    let mut lines = run.stdout.lines();
    let expected = format!("{} -> {}", &old[..25], &new[..25]);
    assert_eq!(lines.next(), Some(expected.as_str()));
    let lines: Vec<_> = lines.collect();
    let sizes = lines[0].strip_prefix("~ document  ").expect("the sizes");
    assert!(sizes.contains(" B -> "), "{sizes}");
    let expected = [
        "~ duration  0:01.000 -> 1:01.500",
        "+ track  sticker",
        "- track  text: 1 segment removed",
        "~ track  video \"main\": 1 segment added, 1 segment removed, 1 segment changed",
        "~ track  audio: properties changed",
        "+ material  audios: song",
        "~ material  texts: t",
        "- material  videos: a.mp4",
        "+ file  added é.png  5 B",
        "- file  removed.png  7 B",
        "~ file  changed.png  3 B -> 5 B",
    ];
    for (line, expected) in lines[1..].iter().zip(expected) {
        assert!(line.starts_with(expected), "{line} is not {expected}");
    }
    assert_eq!(lines.len(), 1 + expected.len(), "{}", run.stdout);

    let diff = drafts_json(&s3, &["diff", ID, &old, &new]).await;
    assert_eq!(
        diff["files"]["added"],
        json!([{"path": "added é.png", "new_bytes": 5}])
    );
    let segments = &diff["document"]["parts"]["tracks"]["changed"][0]["segments"];
    assert_eq!(
        segments,
        &json!({"added": ["d"], "removed": ["a"], "changed": ["b"]})
    );
    let run = drafts(&s3, &["diff", ID, &old, &old]).await;
    run.expect_output("no differences: the same content was written again\n");
}

#[tokio::test]
async fn anyone_can_download_from_a_link() {
    let s3 = start().await;
    put(&s3, "assets/你 好+.mp4", b"video");
    put(&s3, "draft_content.json", b"{}");
    let version = save(&s3).await;
    let links = drafts_json(&s3, &["link", ID, "--expires", "2h"]).await;
    assert_eq!(links["version"], version);
    let mut contents = Vec::new();
    for link in links["objects"].as_array().expect("a list") {
        let url = link["url"].as_str().expect("a URL");
        assert!(url.contains("X-Amz-Expires=7200"), "{url}");
        let body = get(url).await;
        assert_eq!(link["bytes"], body.len());
        contents.push((link["path"].as_str().expect("a path").to_owned(), body));
    }
    let expected = [
        ("draft_content.json", b"{}".to_vec()),
        ("assets/你 好+.mp4", b"video".to_vec()),
    ];
    assert_eq!(
        contents,
        expected.map(|(path, body)| (path.to_owned(), body))
    );

    let run = drafts(&s3, &["link", ID]).await.expect_status(0);
    assert_eq!(run.stdout.lines().count(), 4);
    assert!(run.stdout.contains("\n  http://127.0.0.1:"), "{run:?}");
    assert!(run.stderr.starts_with("valid until "), "{run:?}");
}

#[tokio::test]
async fn the_help_fits_on_a_screen_and_each_command_has_an_example() {
    let help = run(bare_command().arg("--help")).await;
    let help = help.expect_status(0).stdout;
    assert!(help.lines().count() <= 30, "{help}");
    let widths = help.lines().map(|line| line.chars().count());
    assert!(widths.max() <= Some(100), "{help}");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<_> = commands.take_while(|line| !line.is_empty()).collect();
    assert_eq!(commands.len(), 8, "{help}");
    for command in commands {
        let name = command.split_whitespace().next().expect("a name");
        let help = run(bare_command().args([name, "--help"])).await;
        help.expect_output(&format!("\n  drafts {name}"));
    }
}

#[tokio::test]
async fn completions_and_man_pages_need_no_bucket() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let run = run(bare_command().args(["completions", shell])).await;
        run.expect_output("versions");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let pages = run(bare_command().args(["man", path])).await;
    pages.expect_status(0);
    for page in ["drafts.1", "drafts-versions.1", "drafts-verify.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
}

#[tokio::test]
async fn output_that_nobody_reads_to_its_end_is_no_error() {
    let s3 = start().await;
    for number in 0..2000_u32 {
        let (day, hour, minute) = (1 + number / 1440, number / 60 % 24, number % 60);
        let time = format!("202501{day:02}T{hour:02}{minute:02}00Z");
        put_version(&s3, &time, number.to_string().as_bytes());
    }
    s3.enable_versioning(BUCKET);
    let unread = async |args: &[&str]| {
        let mut command = command(&s3);
        command.args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("drafts starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().await.expect("it ends");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(unread(&["versions", ID]).await, (Some(0), String::new()));

    // But what was found, or was not done, is the exit status.
    let keys = s3.keys(BUCKET, "saved/");
    let prune = ["prune", ID, "--keep-last", "1", "--yes", "--min-age", "0"];
    let dry_run = [&prune[..], &["--dry-run"]].concat();
    assert_eq!(unread(&dry_run).await, (Some(0), String::new()));
    let (status, _) = unread(&prune).await;
    assert_eq!((status, s3.keys(BUCKET, "saved/")), (Some(2), keys.clone()));
    s3.put(BUCKET, &keys[0], b"{}");
    let (status, _) = unread(&["verify", ID]).await;
    assert_eq!(status, Some(1));
}

/// Runs `drafts` on a terminal of 100 columns, and returns what it shows.
#[cfg(target_os = "linux")]
async fn on_a_terminal(s3: &S3, args: &str, variables: &[(&str, &str)]) -> Option<String> {
    use tokio::process::Command;

    let version = Command::new("script").arg("--version").output().await;
    if !version.is_ok_and(|output| output.status.success()) {
        test_support::skip_or_fail("script of util-linux is not installed");
        return None;
    }
    let script = format!("stty cols 100; {} {args}", crate::common::DRAFTS);
    let mut shown = Command::new("script");
    shown.args(["-qec", &script, "/dev/null"]);
    for (name, value) in command(s3).as_std().get_envs() {
        shown.env(name, value.unwrap_or_default());
    }
    shown.env("TERM", "xterm-256color");
    let output = shown.envs(variables.iter().copied()).output().await;
    let output = output.expect("script starts");
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn colours_are_shown_only_on_a_terminal_without_no_color() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    let Some(shown) = on_a_terminal(&s3, "verify", &[]).await else {
        return;
    };
    assert!(shown.contains("\u{1b}[32mno problems"), "{shown:?}");
    let shown = on_a_terminal(&s3, "verify", &[("NO_COLOR", "1")]).await;
    let shown = shown.expect("script is installed");
    assert!(shown.contains(": no problems"), "{shown:?}");
    let shown = on_a_terminal(&s3, &format!("versions {ID}"), &[]).await;
    let shown = shown.expect("script is installed");
    assert!(shown.contains("\u{1b}[1mVERSION"), "{shown:?}");
    let plain = drafts(&s3, &["versions", ID]).await.expect_status(0);
    let output = plain.stdout + &plain.stderr;
    assert!(!output.contains('\u{1b}'), "{output:?}");
}
