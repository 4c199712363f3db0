//! All commands, one after the other, on the store at `S3_TEST_ENDPOINT` if it is set, and else on the local S3. Uses
//! nothing but requests to S3.

use std::env;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use local::s3::sdk_config;

use crate::common::{ID, Run, bare_command, get, run, save_in, start};

#[tokio::test]
async fn all_commands_work_one_after_the_other() {
    let local = start().await;
    let variable = |name: &str, default: &str| env::var(name).unwrap_or(default.to_owned());
    let endpoint = variable("S3_TEST_ENDPOINT", &local.endpoint());
    let access_key = variable("AWS_ACCESS_KEY_ID", &local.options().access_key);
    let secret_key = variable("AWS_SECRET_ACCESS_KEY", &local.options().secret_key);
    let sdk = sdk_config(&endpoint, &access_key, &secret_key);
    let config = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true);
    let client = Client::from_conf(config.build());
    let bucket = format!("drafts-{}", std::process::id());
    let created = client.create_bucket().bucket(&bucket).send().await;
    created.expect("the bucket is created");
    let put = async |path: &str, bytes: &'static [u8]| {
        let put = client.put_object().bucket(&bucket);
        let put = put.key(format!("drafts/{ID}/{path}"));
        let put = put.body(ByteStream::from_static(bytes)).send().await;
        put.expect("the object is put");
    };
    let drafts = async |args: &[&str]| -> Run {
        let mut command = bare_command();
        command
            .env("DRAFT_BUCKET", &bucket)
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_ACCESS_KEY_ID", &access_key)
            .env("AWS_SECRET_ACCESS_KEY", &secret_key)
            .args(args);
        run(&mut command).await.expect_status(0)
    };

    put("draft_content.json", br#"{"duration":1}"#).await;
    put("assets/a b.mp4", b"first").await;
    let old = save_in(&sdk, &bucket, "true").await;
    put("draft_content.json", br#"{"duration":2}"#).await;
    put("assets/a b.mp4", b"second").await;
    let new = save_in(&sdk, &bucket, "true").await;

    let versions = drafts(&["versions", ID, "--json"]).await.json();
    assert_eq!(
        (&versions[0]["version"], &versions[1]["version"]),
        (&new.clone().into(), &old.clone().into())
    );
    let shown = drafts(&["show", ID, &old, "--json"]).await.json();
    assert_eq!(shown["files"][0]["bytes"], 5);
    let diff = drafts(&["diff", ID, &old, &new]).await.stdout;
    assert!(diff.contains("~ file  assets/a b.mp4"), "{diff}");
    let verified = drafts(&["verify", "--read", "100", "--json"]).await.json();
    assert_eq!(verified["files_read"], 2);
    let links = drafts(&["link", ID, &old, "--json"]).await.json();
    let url = links["objects"][1]["url"].as_str().expect("a URL");
    assert_eq!(get(url).await, b"first");
    let folder = tempfile::tempdir().expect("a folder");
    let to = folder.path().join("draft");
    drafts(&["download", ID, &old, "--to", to.to_str().expect("UTF-8")]).await;
    let downloaded = std::fs::read(to.join("assets/a b.mp4"));
    assert_eq!(downloaded.expect("a file"), b"first");
    drafts(&["restore", ID, &old]).await;
    let restored = client.get_object().bucket(&bucket);
    let restored = restored.key(format!("drafts/{ID}/assets/a b.mp4"));
    let restored = restored.send().await.expect("the file is there");
    let restored = restored.body.collect().await.expect("it is read");
    assert_eq!(restored.to_vec(), b"first");
    drafts(&["verify", "--read", "100"]).await;
}
