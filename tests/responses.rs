//! Responses of stores and proxies that differ from those of S3.

use std::time::{Duration, Instant};

use save_draft::error::ErrorKind::{self, DraftNotFound, SaveFailed, ServiceUnavailable};
use save_draft::s3::CreateOutcome::{self, AlreadyExists, Created};
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, sample_draft};
use test_support::s3::{Fault, Op, RawResponse, S3, When};

use crate::common::drafts::save;
use crate::common::{Endpoint, TestEnv, saver};
use crate::resources::peak_memory_mib;

/// Saves a draft while each request for `operation` gets `response`. Returns the result, or the kind and the cause of
/// its error; and the number of requests with the response.
async fn save_with(
    operation: Op,
    response: RawResponse,
) -> (Result<CreateOutcome, (ErrorKind, String)>, usize) {
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    s3.put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    let fault = s3.fault(When::op(operation), Fault::Respond(response));
    let saver = saver(&Endpoint::of(&s3).sdk(), BUCKET);
    let deadline = Instant::now() + Duration::from_secs(30);
    let report = saver
        .save(DRAFT_ID.parse().expect("a valid id"), deadline)
        .await;
    let result = report.result.map(|saved| saved.outcome);
    let result = result.map_err(|error| (error.kind(), error.cause_chain()));
    (result, fault.hits())
}

/// Expects that a save fails with this kind and cause, if each request for `operation` gets `response`; and that this
/// request is made `requests` times.
async fn assert_fails(
    case: &str,
    operation: Op,
    response: RawResponse,
    (kind, cause, requests): (ErrorKind, &str, usize),
) {
    let (result, hits) = save_with(operation, response).await;
    let (actual_kind, actual_cause) = result.expect_err(case);
    assert_eq!(actual_kind, kind, "{case}: {actual_cause}");
    let has_cause = actual_cause.contains(cause);
    assert!(has_cause, "{case}: {cause:?} is not in {actual_cause:?}");
    assert_eq!(hits, requests, "{case}: number of requests");
}

fn xml(status: u16, code: &str) -> RawResponse {
    let body = format!("<Error><Code>{code}</Code><Message>text</Message></Error>");
    RawResponse::new(status)
        .header("Content-Type", "application/xml")
        .body(body)
}

fn html(status: u16) -> RawResponse {
    RawResponse::new(status)
        .header("Content-Type", "text/html")
        .body("<!DOCTYPE html><html><body><hr>A proxy</body></html>")
}

/// A response to a GET with the sample draft.
fn document(status: u16) -> RawResponse {
    RawResponse::new(status)
        .header("ETag", "\"0123456789abcdef0123456789abcdef\"")
        .header("Last-Modified", "Sun, 28 Sep 2025 11:47:30 GMT")
        .body(sample_draft())
}

#[tokio::test]
async fn errors_of_a_read_are_temporary_permanent_or_a_missing_draft() {
    // Both names of a document.
    let missing = (DraftNotFound, "", 2);
    let unsupported = "the store does not support the request or one of its headers";
    let no_bucket = || xml(404, "NoSuchBucket");
    let incomplete = no_bucket().header("Content-Length", "1000");
    for (case, response, expected) in [
        ("NoSuchKey", xml(404, "NoSuchKey"), missing),
        ("code NotFound", xml(404, "NotFound"), missing),
        ("404 with HTML", html(404), missing),
        ("404 without a body", RawResponse::new(404), missing),
        ("no bucket", no_bucket(), (SaveFailed, "NoSuchBucket", 1)),
        ("incomplete 404", incomplete, (ServiceUnavailable, "", 3)),
        ("409", xml(409, "Aborted"), (ServiceUnavailable, "", 1)),
        ("501", xml(501, "No"), (SaveFailed, unsupported, 1)),
    ] {
        assert_fails(case, Op::GetObject, response, expected).await;
    }
}

#[tokio::test]
async fn a_store_without_conditional_writes_is_a_permanent_error() {
    let cause = "the store does not support the request or one of its headers";
    for (case, response) in [
        ("501 with a code", xml(501, "NotImplemented")),
        ("501 with HTML", html(501)),
        ("501 without a body", RawResponse::new(501)),
        ("505", html(505)),
    ] {
        assert_fails(case, Op::PutObject, response, (SaveFailed, cause, 1)).await;
    }
}

#[tokio::test]
async fn headers_that_no_save_reads_may_have_any_value() {
    for (name, value) in [
        ("x-amz-meta-name", &b"\xe4\xf6\xfc"[..]),
        ("x-amz-missing-meta", b"x"),
        ("x-amz-object-lock-retain-until-date", b"28 Sep 2025"),
        ("x-amz-mp-parts-count", b"many"),
        ("Expires", b"never"),
        ("Content-Disposition", "filename=草稿.json".as_bytes()),
    ] {
        let response = document(200).header(name, value);
        let (result, _) = save_with(Op::GetObject, response).await;
        assert_eq!(result, Ok(Created), "{name}: {value:?}");
    }
}

#[tokio::test]
async fn only_the_responses_of_s3_to_an_existing_key_count_as_unchanged() {
    for (case, response) in [
        ("412", xml(412, "PreconditionFailed")),
        ("304", RawResponse::new(304)),
    ] {
        let result = save_with(Op::PutObject, response).await;
        assert_eq!(result, (Ok(AlreadyExists), 1), "{case}");
    }
    let chunked = RawResponse::new(304).header("Transfer-Encoding", "chunked");
    for (case, response) in [
        ("412 with HTML", html(412)),
        ("412 without a body", RawResponse::new(412)),
        ("412 with another code", xml(412, "InvalidURI")),
        ("304 with a body", html(304)),
        ("304 with chunks", chunked.body("1\r\nx\r\n0\r\n\r\n")),
    ] {
        assert_fails(case, Op::PutObject, response, (SaveFailed, "", 1)).await;
    }
}

#[tokio::test]
async fn only_a_response_with_an_etag_and_the_right_checksum_counts_as_created() {
    let with_etag = |etag: &str| RawResponse::new(200).header("ETag", etag);
    let created = || with_etag("\"0123456789abcdef\"");
    let checksum_of_nothing = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let other = created().header("x-amz-checksum-sha256", checksum_of_nothing);
    let no_etag = "no valid ETag header";
    for (case, response, cause) in [
        ("200 without ETag", RawResponse::new(200), no_etag),
        ("204 without ETag", RawResponse::new(204), no_etag),
        ("200 with HTML", html(200), no_etag),
        ("empty ETag", with_etag(""), no_etag),
        ("another checksum", other, "a SHA-256 that differs"),
    ] {
        assert_fails(case, Op::PutObject, response, (SaveFailed, cause, 1)).await;
    }
    let (result, _) = save_with(Op::PutObject, created()).await;
    assert_eq!(result, Ok(Created), "200 without a checksum");
}

#[tokio::test]
async fn a_partial_or_unlimited_document_is_refused() {
    let with_range = |status| document(status).header("Content-Range", "bytes 0-99/100");
    let partial = "the response is partial";
    let chunked = document(200).header("Transfer-Encoding", "chunked");
    let chunked = chunked.body("2\r\n{}\r\n0\r\n\r\n");
    let undated = RawResponse::new(200).body("{}");
    for (case, response, cause) in [
        ("206", with_range(206), partial),
        ("206 without Content-Range", document(206), partial),
        ("200 with Content-Range", with_range(200), partial),
        ("chunked", chunked, "no valid Content-Length header"),
        ("no Last-Modified", undated, "no valid Last-Modified header"),
    ] {
        assert_fails(case, Op::GetObject, response, (SaveFailed, cause, 1)).await;
    }
}

#[tokio::test]
async fn endless_bodies_end_at_their_limit() {
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    let endless = |response: RawResponse| {
        let response = response.header("Transfer-Encoding", "chunked");
        response.then_endless(chunk.clone())
    };
    let announced = document(200).body("").header("Content-Length", "42");
    for (case, operation, response) in [
        ("document", Op::GetObject, announced),
        ("404 of a GET", Op::GetObject, RawResponse::new(404)),
        ("500 of a GET", Op::GetObject, RawResponse::new(500)),
        ("200 of a PUT", Op::PutObject, RawResponse::new(200)),
        ("403 of a PUT", Op::PutObject, RawResponse::new(403)),
        ("412 of a PUT", Op::PutObject, RawResponse::new(412)),
    ] {
        let test_env = TestEnv::start().await;
        let response = Fault::Respond(endless(response));
        let fault = test_env.s3.fault(When::op(operation), response);
        let failed = save(&test_env.function, DRAFT_ID).await;
        assert_eq!(failed.status, 503, "{case}: {}", failed.line);
        assert!(fault.hits() <= 3, "{case}: {} requests", fault.hits());
        let peak = peak_memory_mib(test_env.function.pid());
        assert!(peak < 100, "{case}: the function used {peak} MiB");
    }
}

#[tokio::test]
async fn the_time_that_the_store_asks_to_wait_is_waited() {
    let test_env = TestEnv::start().await;
    let slow_down = xml(503, "SlowDown").header("x-amz-retry-after", "1500");
    let get = When::op(Op::GetObject).once();
    test_env.s3.fault(get, Fault::Respond(slow_down));
    let start = Instant::now();
    let saved = save(&test_env.function, DRAFT_ID).await;
    assert_eq!(saved.status, 200, "{}", saved.line);
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1500), "{elapsed:?}");
}
