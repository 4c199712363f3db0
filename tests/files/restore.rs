//! Restores a version by the commands in docs/versions.md.

use std::fs;

use test_support::fixtures::{BUCKET, draft_key, in_repository};
use test_support::s3::S3;
use tokio::process::Command;

use crate::common::TestEnv;
use crate::common::drafts::{SAVE_FILES, file_key, put_document, put_files, read_folder, save};

/// Restores the version `version` by the commands in docs/versions.md that restore a version with its files.
async fn run_restore(s3: &S3, id: &str, version: &str) {
    let page = in_repository("docs/versions.md");
    let page = fs::read_to_string(page).expect("the page exists");
    let blocks = page.split("```sh\n").skip(1);
    let mut blocks = blocks.filter_map(|block| block.split("```").next());
    let commands = blocks.find(|block| block.contains("files.json"));
    let commands = commands.expect("the page has the commands");
    let user = s3.options();
    let folder = tempfile::tempdir().expect("a folder is created");
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", commands])
        .current_dir(folder.path())
        .env("DRAFT_BUCKET", BUCKET)
        .env("SAVED_BUCKET", BUCKET)
        .env("DRAFT_ID", id)
        .env("VERSION", version)
        .env("AWS_ENDPOINT_URL", s3.endpoint())
        .env("AWS_ACCESS_KEY_ID", &user.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &user.secret_key)
        .env("AWS_REGION", "us-east-1")
        .output()
        .await
        .expect("bash starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn a_version_is_restored_byte_for_byte_by_the_documented_commands() {
    for program in ["aws", "jq", "bash"] {
        let version = Command::new(program).arg("--version").output().await;
        if !version.is_ok_and(|output| output.status.success()) {
            test_support::skip_or_fail(&format!("{program} is not installed"));
            return;
        }
    }
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function, id) = (&test_env.s3, &test_env.function, "restored");
    let document = put_document(s3, id);
    let files = put_files(
        s3,
        id,
        ["draft_meta_info.json", "assets/a b/剪映 +%41 '1'.mp4"],
    );
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);

    // A file is replaced, one is deleted, and the document too.
    put_files(s3, id, ["assets/a b/剪映 +%41 '1'.mp4"]);
    s3.put(BUCKET, &file_key(id, "draft_meta_info.json"), b"changed");
    s3.delete(BUCKET, &file_key(id, "assets/a b/剪映 +%41 '1'.mp4"));
    s3.delete(BUCKET, &draft_key(id));
    run_restore(s3, id, &saved.version).await;
    assert!(s3.get(BUCKET, &draft_key(id)) == Some(document.clone()));
    assert_eq!(read_folder(s3, id), files);

    // The restored draft has the saved state. Nothing has to be copied.
    let again = save(function, id).await;
    again.assert_saved(s3, id, &document, &files);
    assert_eq!(again.line["FilesCopied"], 0);
    let digest = |version: &str| version.split_once('-').map(|(_, digest)| digest.to_owned());
    assert_eq!(digest(&again.version), digest(&saved.version));
}
