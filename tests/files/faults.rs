//! Each fault at each request of a save, and saves that run out of time.

use std::time::Duration;

use test_support::fixtures::BUCKET;
use test_support::s3::{Fault, S3, When};
use tokio::task::JoinSet;

use super::{
    Copy, Files, List, Put, SAVE_FILES, put_document, put_files, read_version, save, save_within,
    versions,
};
use crate::common::TestEnv;

/// A request of a save that meets a fault, in the order in which a save makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    FirstListOfDraft,
    FirstListOfCopies,
    CopyFile,
    SecondListOfDraft,
    SecondListOfCopies,
    CreateManifest,
    CreateDocument,
}

/// The result of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// 200, and the version exists.
    Saved,
    /// 503, and no version exists.
    Unavailable,
    /// 503, and the version exists.
    UnavailableButSaved,
    /// 500, and no version exists.
    Failed,
}

use End::{Failed, Saved, Unavailable, UnavailableButSaved};
use Step::{
    CopyFile, CreateDocument, CreateManifest, FirstListOfCopies, FirstListOfDraft,
    SecondListOfCopies, SecondListOfDraft,
};

impl Step {
    pub const ALL: [Self; 7] = [
        FirstListOfDraft,
        FirstListOfCopies,
        CopyFile,
        SecondListOfDraft,
        SecondListOfCopies,
        CreateManifest,
        CreateDocument,
    ];

    /// The requests of the draft `id` at this step. Of the copies, that of the file `b`.
    pub fn requests(self, id: &str) -> When {
        let list = |folder: &str| {
            let prefix = format!("prefix={folder}%2F{id}%2F");
            When::op(List).and(move |request| request.query.contains(&prefix))
        };
        let put = |name: &'static str| {
            let put = When::op(Put).key_starts_with(format!("saved/{id}/"));
            put.and(move |request| request.key.ends_with(name))
        };
        match self {
            FirstListOfDraft => list("drafts"),
            FirstListOfCopies => list("saved-files"),
            SecondListOfDraft => list("drafts").after(1),
            SecondListOfCopies => list("saved-files").after(1),
            CopyFile => When::op(Copy)
                .key_starts_with(format!("saved-files/{id}/"))
                .and(|request| request.key.ends_with("/b")),
            CreateManifest => put("/files.json"),
            CreateDocument => put("/draft_content.json"),
        }
    }
}

/// A fault, and the result of a save that meets it once, twice and at every attempt.
type Row = (&'static str, fn() -> Fault, [End; 3]);

const RETRIED: [End; 3] = [Saved, Saved, Unavailable];

#[rustfmt::skip]
const LIST_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,                RETRIED),
    ("503 SlowDown",              || Fault::SLOW_DOWN,                     RETRIED),
    ("closed before the response", || Fault::Cut,                          RETRIED),
    ("reset in the body",         || Fault::CutBody(300),                  RETRIED),
    ("body too short",            || Fault::ShortBody(300),                RETRIED),
    ("response lost",             || Fault::LoseResponse,                  RETRIED),
    ("200 with an error",         || Fault::error_in_ok("InternalError"),   RETRIED),
    ("403",                       || Fault::ACCESS_DENIED,                 [Failed; 3]),
    ("404 NoSuchBucket",          || Fault::Error(404, "NoSuchBucket"),    [Failed; 3]),
];

#[rustfmt::skip]
const COPY_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,                RETRIED),
    ("503 SlowDown",              || Fault::SLOW_DOWN,                     RETRIED),
    ("closed before the response", || Fault::Cut,                          RETRIED),
    ("reset before the response", || Fault::Reset,                         RETRIED),
    ("done, response lost",       || Fault::LoseResponse,                  RETRIED),
    ("done, reset in the body",   || Fault::CutBody(100),                  [Saved; 3]),
    ("404",                       || Fault::Error(404, "NoSuchKey"),       RETRIED),
    ("409",                       || Fault::CONFLICT,                      RETRIED),
    ("412",                       || Fault::Error(412, "PreconditionFailed"), RETRIED),
    ("200 with InternalError",    || Fault::error_in_ok("InternalError"),   RETRIED),
    ("200 with SlowDown",         || Fault::error_in_ok("SlowDown"),        RETRIED),
    ("200 with 412",              || Fault::error_in_ok("PreconditionFailed"), RETRIED),
    ("200 with AccessDenied",     || Fault::error_in_ok("AccessDenied"),    [Failed; 3]),
    ("400",                       || Fault::Error(400, "InvalidRequest"),  [Failed; 3]),
    ("403",                       || Fault::ACCESS_DENIED,                 [Failed; 3]),
    ("404 NoSuchBucket",          || Fault::Error(404, "NoSuchBucket"),    [Failed; 3]),
    ("501",                       || Fault::Error(501, "NotImplemented"),  [Failed; 3]),
];

#[rustfmt::skip]
const CREATE_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,                RETRIED),
    ("503 SlowDown",              || Fault::SLOW_DOWN,                     RETRIED),
    ("closed before the response", || Fault::Cut,                          RETRIED),
    ("409",                       || Fault::CONFLICT,                      RETRIED),
    ("403",                       || Fault::ACCESS_DENIED,                 [Failed; 3]),
    // S3 refuses the damaged body, and the client has to repeat the save.
    ("damaged on the way",        || Fault::CorruptRequest,                [Unavailable; 3]),
];

const LOST_MANIFEST: &[Row] = &[("done, response lost", || Fault::LoseResponse, RETRIED)];

const LOST_DOCUMENT: &[Row] = &[(
    "done, response lost",
    || Fault::LoseResponse,
    [Saved, Saved, UnavailableButSaved],
)];

/// Checks that the draft `id` has no version, or one that is complete, depending on `end`.
#[track_caller]
pub fn assert_end(s3: &S3, id: &str, document: &[u8], files: &Files, end: End, case: &str) {
    let versions = versions(s3, BUCKET, id);
    let expected = usize::from(matches!(end, Saved | UnavailableButSaved));
    assert_eq!(versions.len(), expected, "{case}: versions {versions:?}");
    for version in versions {
        let saved = read_version(s3, BUCKET, id, &version);
        assert!(saved.0 == document && saved.1 == *files, "{case}");
    }
}

#[tokio::test]
async fn each_fault_at_each_step_once_twice_and_for_ever() {
    let steps = [
        (FirstListOfDraft, LIST_FAULTS),
        (FirstListOfCopies, LIST_FAULTS),
        (CopyFile, COPY_FAULTS),
        (SecondListOfDraft, LIST_FAULTS),
        (SecondListOfCopies, LIST_FAULTS),
        (CreateManifest, CREATE_FAULTS),
        (CreateManifest, LOST_MANIFEST),
        (CreateDocument, CREATE_FAULTS),
        (CreateDocument, LOST_DOCUMENT),
    ];
    let mut tasks = JoinSet::new();
    for (step, rows) in steps {
        // Few rows for each function: the SDK retries less after many failures.
        for rows in rows.chunks(3) {
            tasks.spawn(check_faults(step, rows));
        }
    }
    tasks.join_all().await;
}

async fn check_faults(step: Step, rows: &[Row]) {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function) = (&test_env.s3, &test_env.function);
    for (row, (name, fault, ends)) in rows.iter().enumerate() {
        for (times, end) in [1, 2, usize::MAX].into_iter().zip(ends) {
            let id = format!("fault-{row}-{times:x}");
            let case = format!("{name} at {step:?}, {times} times");
            let document = put_document(s3, &id);
            let files = put_files(s3, &id, ["a", "b", "c"]);
            let scripted = s3.fault(step.requests(&id).times(times), fault());
            let first = save(function, &id).await;
            let status = match end {
                Saved => 200,
                Unavailable | UnavailableButSaved => 503,
                Failed => 500,
            };
            assert_eq!(first.status, status, "{case}: {}", first.line);
            assert!(scripted.hits() >= 1, "{case}");
            assert_end(s3, &id, &document, &files, *end, &case);
            if step == CopyFile && status != 200 {
                let error = first.line["error"].as_str().expect("an error");
                assert!(
                    error.contains(&format!("saved-files/{id}/")),
                    "{case}: {error}"
                );
                assert!(error.contains("/b failed"), "{case}: {error}");
            }

            scripted.clear();
            let next = save(function, &id).await;
            next.assert_saved(s3, &id, &document, &files);
            assert_end(s3, &id, &document, &files, Saved, &case);
            let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
            assert_eq!(copies.len(), files.len(), "{case}: {copies:?}");
        }
    }
}

#[tokio::test]
async fn a_save_that_runs_out_of_time_is_continued_by_the_next() {
    const FILES: u64 = 20;
    const BEFORE: u64 = 12;
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, function, id) = (&test_env.s3, &test_env.function, "late");
    let document = put_document(s3, id);
    let paths: Vec<_> = (0..FILES)
        .map(|number| format!("assets/{number}"))
        .collect();
    let files = put_files(s3, id, paths.iter().map(String::as_str));
    // The start of the function is not part of the time.
    assert_eq!(save(function, "missing").await.status, 404);

    let after = usize::try_from(BEFORE).expect("small");
    let stall = s3.fault(When::op(Copy).after(after), Fault::Stall);
    let late = save_within(function, id, Duration::from_secs(2)).await;
    late.assert_error(503, "time");
    assert_eq!(late.line["files_copied"], BEFORE, "{}", late.line);
    assert_end(s3, id, &document, &files, Unavailable, "after the deadline");

    stall.clear();
    s3.clear_requests();
    let saved = save(function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    assert_eq!(saved.line["files_copied"], FILES - BEFORE, "{}", saved.line);
}
