//! Errors that say what is missing and what to do.

use local::s3::{Fault, Op, RawResponse, When};
use test_support::fixtures::BUCKET;

use crate::common::{ID, bare_command, command, drafts, put, run, save, start};

#[tokio::test]
async fn a_missing_bucket_option_is_named() {
    let run = run(bare_command().args(["versions", ID]))
        .await
        .expect_status(2);
    let expected =
        "error: the bucket of the drafts is missing\n  Pass --bucket NAME, or set DRAFT_BUCKET.\n";
    assert_eq!(run.stderr, expected);
    assert_eq!(run.stdout, "");
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
        (&["versions", ID, "--prefix", "x"], "--prefix must end in /"),
        (
            &["versions", ID, "--prefix", "saved/"],
            "--prefix must not overlap saved/",
        ),
        (
            &["verify", "--read", "101"],
            "must be a number between 0 and 100",
        ),
        (&["versions"], "<ID>"),
    ] {
        let run = drafts(&s3, args).await.expect_status(2);
        assert!(run.stderr.contains(text), "{args:?}: {run:?}");
        assert_eq!(run.stdout, "");
    }
}

#[tokio::test]
async fn a_missing_region_is_named() {
    let mut command = bare_command();
    command.args(["versions", ID, "--bucket", "drafts"]);
    let run = run(&mut command).await.expect_status(2);
    assert!(
        run.stderr
            .contains("no AWS region is set\n  Set AWS_REGION"),
        "{run:?}"
    );
}

#[tokio::test]
async fn missing_credentials_are_named() {
    let s3 = start().await;
    let mut command = bare_command();
    command.args([
        "versions",
        ID,
        "--bucket",
        BUCKET,
        "--endpoint-url",
        &s3.endpoint(),
    ]);
    let run = run(&mut command).await.expect_status(2);
    assert!(
        run.stderr.contains("there are no AWS credentials"),
        "{run:?}"
    );
    assert!(run.stderr.contains("aws sso login"), "{run:?}");
}

#[tokio::test]
async fn a_store_that_does_not_run_is_named() {
    let s3 = start().await;
    let mut command = command(&s3);
    let endpoint = s3.endpoint();
    s3.stop().await;
    command.args(["versions", ID]).env("AWS_MAX_ATTEMPTS", "1");
    let run = run(&mut command).await.expect_status(2);
    assert!(
        run.stderr.contains(&format!("cannot reach {endpoint}")),
        "{run:?}"
    );
    assert!(run.stderr.contains("Check --endpoint-url"), "{run:?}");
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named() {
    let s3 = start().await;
    let run = drafts(&s3, &["versions", ID, "--saved-bucket", "other"])
        .await
        .expect_status(2);
    let expected = "error: the bucket other does not exist\n  Check --bucket (DRAFT_BUCKET)";
    assert!(run.stderr.starts_with(expected), "{run:?}");
}

#[tokio::test]
async fn a_missing_permission_is_named_with_the_object() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    for (op, args, texts) in [
        (
            Op::ListObjectsV2,
            &["versions", ID][..],
            [
                "access denied to ListObjectsV2 of s3://drafts/saved/",
                "s3:ListBucket",
            ],
        ),
        (
            Op::GetObject,
            &["verify"],
            [
                "access denied to GetObject of s3://drafts/saved/",
                "s3:GetObject",
            ],
        ),
    ] {
        s3.fault(When::op(op), Fault::ACCESS_DENIED);
        let run = drafts(&s3, args).await.expect_status(2);
        for text in texts {
            assert!(run.stderr.contains(text), "{run:?}");
        }
        assert!(!run.stderr.contains("Some("), "{run:?}");
        s3.clear_faults();
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
        s3.fault(When::any(), fault);
        let mut command = command(&s3);
        command.args(["versions", ID]).env("AWS_MAX_ATTEMPTS", "1");
        let run = run(&mut command).await.expect_status(2);
        for text in texts {
            assert!(run.stderr.contains(text), "{text}: {run:?}");
        }
        s3.clear_faults();
    }
}

#[tokio::test]
async fn links_of_temporary_credentials_have_a_warning() {
    let s3 = start().await;
    put(&s3, "draft_content.json", b"{}");
    save(&s3).await;
    let mut permanent = command(&s3);
    permanent.args(["link", ID]);
    let run_permanent = run(&mut permanent).await.expect_status(0);
    assert!(
        !run_permanent.stderr.contains("warning"),
        "{run_permanent:?}"
    );
    // The local S3 does not check the token.
    let mut temporary = command(&s3);
    temporary
        .args(["link", ID])
        .env("AWS_SESSION_TOKEN", "token");
    let run = run(&mut temporary).await;
    assert!(
        run.stderr.contains("the credentials are temporary"),
        "{run:?}"
    );
}
