//! Errors that say what is missing and what to do.

use std::fs;

use local::s3::{Fault, Op, RawResponse, When};
use test_support::fixtures::BUCKET;

use crate::common::{ID, bare_command, command, drafts, put, run, save, start};

#[tokio::test]
async fn a_missing_bucket_option_is_named() {
    let run = run(bare_command().args(["versions", ID])).await;
    let run = run.expect_status(2);
    let expected =
        "error: the bucket of the drafts is missing\n  Pass --bucket NAME, or set DRAFT_BUCKET.\n";
    assert_eq!((&*run.stderr, &*run.stdout), (expected, ""));
}

#[tokio::test]
async fn invalid_options_are_named_with_what_is_expected() {
    let s3 = start().await;
    for (args, text) in [
        (&["versions", "a b"][..], "the draft id must be 1 to 64"),
        (
            &["versions", "http://x/"],
            "the URL has no draft_id parameter",
        ),
        (&["show", ID, ""], "the name of the version is empty"),
        (&["versions", ID, "--prefix", "x"], "--prefix must end in /"),
        (
            &["versions", ID, "--prefix", "saved/"],
            "--prefix must not overlap saved/",
        ),
        (
            &["verify", "--read", "101"],
            "must be a number between 0 and 100",
        ),
        (
            &["link", ID, "--expires", "8d"],
            "must be a time between 1s and 7d",
        ),
        (&["versions"], "<ID>"),
    ] {
        let run = drafts(&s3, args).await.expect_error(2, text);
        assert_eq!(run.stdout, "");
    }
}

#[tokio::test]
async fn a_missing_region_missing_credentials_and_a_missing_store_are_named() {
    let args = ["versions", ID, "--bucket", BUCKET];
    let no_region = run(bare_command().args(args)).await;
    no_region.expect_error(2, "no AWS region is set\n  Set AWS_REGION");

    let s3 = start().await;
    let endpoint = s3.endpoint();
    let mut command = command(&s3);
    let args = [&args[..], &["--endpoint-url", &endpoint]].concat();
    let no_credentials = run(bare_command().args(args)).await;
    let text = "there are no AWS credentials";
    no_credentials
        .expect_error(2, text)
        .expect_error(2, "aws sso login");

    s3.stop().await;
    command.args(["versions", ID]).env("AWS_MAX_ATTEMPTS", "1");
    let text = format!("cannot reach {endpoint}");
    run(&mut command)
        .await
        .expect_error(2, &text)
        .expect_error(2, "Check --endpoint-url");
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named() {
    let s3 = start().await;
    let run = drafts(&s3, &["versions", ID, "--saved-bucket", "other"]).await;
    let expected = "error: the bucket other does not exist\n  Check --bucket (DRAFT_BUCKET)";
    run.expect_error(2, expected);
}

#[tokio::test]
async fn a_missing_permission_is_named_with_the_object() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    for (op, args, action) in [
        (Op::ListObjectsV2, &["versions", ID][..], "ListBucket"),
        (Op::GetObject, &["verify"], "GetObject"),
    ] {
        let fault = s3.fault(When::op(op), Fault::ACCESS_DENIED);
        let denied = format!("access denied to {op:?} of s3://drafts/saved/");
        let run = drafts(&s3, args).await.expect_error(2, &denied);
        let run = run.expect_error(2, &format!("s3:{action}"));
        assert!(!run.stderr.contains("Some("), "{run:?}");
        fault.clear();
    }
}

#[tokio::test]
async fn responses_of_s3_are_explained() {
    let s3 = start().await;
    let redirect = RawResponse::new(301)
        .header("x-amz-bucket-region", "eu-central-1")
        .header("content-type", "application/xml")
        .body("<Error><Code>PermanentRedirect</Code><Message>Elsewhere</Message></Error>");
    for (fault, texts) in [
        (
            Fault::Respond(redirect),
            [
                "the bucket drafts is in another region",
                "Set AWS_REGION=eu-central-1.",
            ],
        ),
        (
            Fault::Error(403, "InvalidAccessKeyId"),
            [
                "S3 refuses the credentials (InvalidAccessKeyId)",
                "check AWS_PROFILE",
            ],
        ),
        (
            Fault::Error(403, "RequestTimeTooSkewed"),
            ["S3 refuses the time of this machine", "Set the clock."],
        ),
        (
            Fault::SLOW_DOWN,
            [
                "S3 could not answer ListObjectsV2 of s3://drafts/saved/",
                "in a while",
            ],
        ),
        (
            Fault::Error(501, "NotImplemented"),
            ["the store does not support ListObjectsV2", "NotImplemented"],
        ),
        (
            Fault::Error(400, "Strange"),
            ["failed with 400 Strange: Strange", "request id"],
        ),
    ] {
        let fault = s3.fault(When::any(), fault);
        let mut command = command(&s3);
        command.args(["versions", ID]).env("AWS_MAX_ATTEMPTS", "1");
        let run = run(&mut command).await;
        run.expect_error(2, texts[0]).expect_error(2, texts[1]);
        fault.clear();
    }
}

#[tokio::test]
async fn links_of_temporary_credentials_have_a_warning() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    let permanent = drafts(&s3, &["link", ID]).await.expect_status(0);
    assert!(!permanent.stderr.contains("warning"), "{permanent:?}");
    // The local S3 does not check the token.
    let mut temporary = command(&s3);
    temporary.args(["link", ID]);
    let temporary = run(temporary.env("AWS_SESSION_TOKEN", "token")).await;
    temporary.expect_error(0, "the credentials are temporary");
}

#[tokio::test]
async fn the_endpoint_of_s3_in_a_profile_is_used() {
    let s3 = start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let text = format!(
        "[profile store]\nservices = local\n[services local]\ns3 =\n  endpoint_url = {}\n",
        s3.endpoint()
    );
    fs::write(&config, text).expect("it is written");
    let mut command = command(&s3);
    command.env_remove("AWS_ENDPOINT_URL");
    command.env("AWS_CONFIG_FILE", &config);
    command.env("AWS_PROFILE", "store");
    command.args(["versions", ID]);
    run(&mut command)
        .await
        .expect_error(0, "there are no versions");
}

#[tokio::test]
async fn a_listing_that_may_have_been_cut_off_is_an_error() {
    let s3 = start().await;
    s3.enable_versioning(BUCKET);
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    let whole = "<IsTruncated>false</IsTruncated>";
    for (args, op, xml, text) in [
        (
            &["versions", ID][..],
            Op::ListObjectsV2,
            "<KeyCount>0</KeyCount>",
            "it has no IsTruncated",
        ),
        (
            &["versions", ID],
            Op::ListObjectsV2,
            whole,
            "it has no KeyCount",
        ),
        (
            &["verify"],
            Op::ListObjectsV2,
            "<IsTruncated>false</IsTruncated><KeyCount>1</KeyCount>",
            "it has not as many entries as its KeyCount",
        ),
        (
            &["prune", ID, "--keep-last", "1", "--yes", "--max-save", "0"],
            Op::ListObjectVersions,
            "",
            "lacks a field",
        ),
    ] {
        let root = match op {
            Op::ListObjectVersions => "ListVersionsResult",
            _ => "ListBucketResult",
        };
        let xml = format!("<{root}>{xml}</{root}>");
        let response = Fault::Respond(RawResponse::new(200).body(xml));
        let fault = s3.fault(When::op(op), response);
        drafts(&s3, args).await.expect_error(2, text);
        fault.clear();
    }
}
