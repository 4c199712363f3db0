//! Responses of stores and proxies that differ from those of S3.

use std::time::{Duration, Instant};

use save_draft::error::ErrorKind;
use save_draft::s3::CreateOutcome;
use test_support::fixtures::{BUCKET, DRAFT_ID, draft_key, post_id, sample_draft};
use test_support::s3::{Fault, Op, RawResponse, S3, When};

use crate::common::{Endpoint, TestEnv, saver};
use crate::resources::peak_memory_mib;

/// The result of a save, or the kind and the cause of its error; and the number of requests with the response.
type SaveResult = (Result<CreateOutcome, (ErrorKind, String)>, usize);

/// Saves a draft while each request for `operation` gets `response`.
async fn save_with(operation: Op, response: RawResponse) -> SaveResult {
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

/// Expects that the save fails with this kind and cause, and that the request was made `requests` times.
#[track_caller]
fn assert_fails(case: &str, actual: SaveResult, kind: ErrorKind, cause: &str, requests: usize) {
    let (result, hits) = actual;
    let (actual_kind, actual_cause) = result.expect_err(case);
    assert_eq!(actual_kind, kind, "{case}: {actual_cause}");
    assert!(
        actual_cause.contains(cause),
        "{case}: expected {cause:?} in the cause, got {actual_cause:?}"
    );
    assert_eq!(hits, requests, "{case}: number of requests");
}

#[tokio::test]
async fn any_404_but_no_such_bucket_is_a_missing_draft() {
    for (case, response) in [
        ("code NoSuchKey", xml(404, "NoSuchKey")),
        ("code NotFound", xml(404, "NotFound")),
        ("code 404", xml(404, "404")),
        ("HTML", html(404)),
        ("no body", RawResponse::new(404)),
    ] {
        let actual = save_with(Op::GetObject, response).await;
        // Both names of a document.
        assert_fails(case, actual, ErrorKind::DraftNotFound, "", 2);
    }
    let actual = save_with(Op::GetObject, xml(404, "NoSuchBucket")).await;
    let kind = ErrorKind::SaveFailed;
    assert_fails("code NoSuchBucket", actual, kind, "NoSuchBucket", 1);
    let incomplete = xml(404, "NoSuchBucket").header("Content-Length", "1000");
    let actual = save_with(Op::GetObject, incomplete).await;
    let kind = ErrorKind::ServiceUnavailable;
    assert_fails("incomplete body", actual, kind, "", 3);
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
        let actual = save_with(Op::PutObject, response).await;
        assert_fails(case, actual, ErrorKind::SaveFailed, cause, 1);
    }
    let actual = save_with(Op::GetObject, xml(501, "NotImplemented")).await;
    assert_fails("read", actual, ErrorKind::SaveFailed, cause, 1);
}

#[tokio::test]
async fn a_conflict_of_a_read_is_retryable() {
    let actual = save_with(Op::GetObject, xml(409, "OperationAborted")).await;
    let kind = ErrorKind::ServiceUnavailable;
    assert_fails("409", actual, kind, "OperationAborted", 1);
}

#[tokio::test]
async fn headers_that_no_save_reads_may_have_any_value() {
    for (name, value) in [
        ("x-amz-meta-name", &b"\xe4\xf6\xfc"[..]),
        ("x-amz-meta-name", b"\xb2\xdd\xb8\xe5"),
        ("x-amz-missing-meta", b"x"),
        (
            "x-amz-object-lock-retain-until-date",
            b"28 Sep 2025 11:47:30",
        ),
        ("x-amz-mp-parts-count", b"many"),
        ("Expires", b"never"),
        (
            "Content-Disposition",
            "attachment; filename=草稿.json".as_bytes(),
        ),
    ] {
        let response = document(200).header(name, value);
        let (result, _) = save_with(Op::GetObject, response).await;
        assert_eq!(result, Ok(CreateOutcome::Created), "{name}: {value:?}");
    }
}

#[tokio::test]
async fn only_the_responses_of_s3_to_an_existing_key_count_as_unchanged() {
    for (case, response) in [
        ("412", xml(412, "PreconditionFailed")),
        ("304", RawResponse::new(304)),
    ] {
        let (result, requests) = save_with(Op::PutObject, response).await;
        assert_eq!(result, Ok(CreateOutcome::AlreadyExists), "{case}");
        assert_eq!(requests, 1, "{case}: number of requests");
    }
    for (case, response) in [
        ("412 with HTML", html(412)),
        ("412 without a body", RawResponse::new(412)),
        ("412 with another code", xml(412, "InvalidURI")),
        ("304 with a body", html(304)),
        (
            "304 with a chunked body",
            RawResponse::new(304)
                .header("Transfer-Encoding", "chunked")
                .body("1\r\nx\r\n0\r\n\r\n"),
        ),
    ] {
        let actual = save_with(Op::PutObject, response).await;
        assert_fails(case, actual, ErrorKind::SaveFailed, "", 1);
    }
}

#[tokio::test]
async fn only_a_response_with_an_etag_and_the_right_checksum_counts_as_created() {
    let created = || RawResponse::new(200).header("ETag", "\"0123456789abcdef\"");
    let checksum = "x-amz-checksum-sha256";
    let no_etag = "no valid ETag header";
    for (case, response, cause) in [
        ("200 without ETag", RawResponse::new(200), no_etag),
        ("202 without ETag", RawResponse::new(202), no_etag),
        ("204 without ETag", RawResponse::new(204), no_etag),
        ("200 with HTML", html(200), no_etag),
        (
            "empty ETag",
            RawResponse::new(200).header("ETag", ""),
            no_etag,
        ),
        (
            "checksum of the empty string",
            created().header(checksum, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
            "a SHA-256 that differs",
        ),
    ] {
        let actual = save_with(Op::PutObject, response).await;
        assert_fails(case, actual, ErrorKind::SaveFailed, cause, 1);
    }
    let (result, _) = save_with(Op::PutObject, created()).await;
    assert_eq!(result, Ok(CreateOutcome::Created), "200 without a checksum");
}

#[tokio::test]
async fn a_partial_or_unlimited_document_is_refused() {
    let range = "bytes 0-99/100";
    for (case, response, cause) in [
        (
            "206",
            document(206).header("Content-Range", range),
            "the response is partial",
        ),
        (
            "206 without Content-Range",
            document(206),
            "the response is partial",
        ),
        (
            "200 with Content-Range",
            document(200).header("Content-Range", range),
            "the response is partial",
        ),
        (
            "chunked without Content-Length",
            document(200)
                .header("Transfer-Encoding", "chunked")
                .body("2\r\n{}\r\n0\r\n\r\n"),
            "no valid Content-Length header",
        ),
        (
            "no Last-Modified",
            RawResponse::new(200).body("{}"),
            "no valid Last-Modified header",
        ),
    ] {
        let actual = save_with(Op::GetObject, response).await;
        assert_fails(case, actual, ErrorKind::SaveFailed, cause, 1);
    }
}

#[tokio::test]
async fn endless_bodies_end_at_their_limit() {
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    let endless = |response: RawResponse| {
        let response = response.header("Transfer-Encoding", "chunked");
        response.then_endless(chunk.clone())
    };
    let announced = || document(200).body("").header("Content-Length", "42");
    for (case, operation, response, status) in [
        ("document", Op::GetObject, announced(), 503),
        ("404 of a GET", Op::GetObject, RawResponse::new(404), 503),
        ("500 of a GET", Op::GetObject, RawResponse::new(500), 503),
        ("200 of a PUT", Op::PutObject, RawResponse::new(200), 503),
        ("403 of a PUT", Op::PutObject, RawResponse::new(403), 503),
        ("412 of a PUT", Op::PutObject, RawResponse::new(412), 503),
    ] {
        let env = TestEnv::start().await;
        let response = Fault::Respond(endless(response));
        let fault = env.s3.fault(When::op(operation), response);
        let response = env.function.invoke(&post_id(DRAFT_ID)).await.response();
        assert_eq!(response["statusCode"], status, "{case}: {response}");
        assert!(fault.hits() <= 3, "{case}: {} requests", fault.hits());
        let peak = peak_memory_mib(env.function.pid());
        assert!(peak < 100, "{case}: the function used {peak} MiB");
    }
}
