//! Faults between the function and S3: each fault at each request of a save, once, twice and in all attempts. The response
//! is correct and in time, and the store contains the whole version or nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use save_draft::save::Saver;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size};
use test_support::runtime::Bootstrap;
use test_support::s3::{Fault, Op, RawResponse, S3, When};
use tokio::task::JoinSet;

use crate::common::drafts::{
    Files, Response, SAVE_FILES, file_key, put_files, read_version, save, save_by, save_within,
    versions,
};
use crate::common::{Endpoint, TestEnv, saver, start_function};
use crate::files::multipart::multipart_saver;

/// A request of a save, in the order in which a save makes them. Without `SAVE_FILES` only the first and the last exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    ReadDocument,
    ListDraft,
    /// The copies of many files.
    ListCopies,
    /// The copies of few files.
    FindCopy,
    CopyFile,
    /// The four requests of a copy in parts.
    ReadSource,
    CreateUpload,
    CopyPart,
    CompleteUpload,
    CreateManifest,
    /// The manifest exists.
    ReadManifest,
    CreateDocument,
}

use Step::{
    CompleteUpload, CopyFile, CopyPart, CreateDocument, CreateManifest, CreateUpload, FindCopy,
    ListCopies, ListDraft, ReadDocument, ReadManifest, ReadSource,
};

impl Step {
    /// The requests of the draft `id` at this step. Of the copies, that of the file `b`.
    pub fn requests(self, id: &str) -> When {
        let list = |folder: &str| {
            let prefix = format!("prefix={folder}%2F{id}%2F");
            When::op(Op::ListObjectsV2).and(move |request| request.query.contains(&prefix))
        };
        let put = |name: &'static str| {
            let put = When::op(Op::PutObject).key_starts_with(format!("saved/{id}/"));
            put.and(move |request| request.key.ends_with(name))
        };
        let copy_of_b = |op| {
            When::op(op)
                .key_starts_with(format!("saved-files/{id}/"))
                .and(|request| request.key.ends_with("/b"))
        };
        match self {
            ReadDocument => When::op(Op::GetObject).key_starts_with(draft_key(id)),
            ListDraft => list("drafts"),
            ListCopies => list("saved-files"),
            FindCopy => copy_of_b(Op::HeadObject),
            CopyFile => copy_of_b(Op::CopyObject),
            ReadSource => When::op(Op::HeadObject).key_starts_with(file_key(id, "b")),
            CreateUpload => copy_of_b(Op::CreateMultipartUpload),
            CopyPart => copy_of_b(Op::UploadPartCopy),
            CompleteUpload => copy_of_b(Op::CompleteMultipartUpload),
            ReadManifest => When::op(Op::GetObject).key_starts_with(format!("saved/{id}/")),
            CreateManifest => put("/files.json"),
            CreateDocument => put("/draft_content.json"),
        }
    }
}

/// The expected result of a save, and of the store after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// 200, `created`.
    Created,
    /// 200, `unchanged`: an earlier attempt has created the version.
    Unchanged,
    /// 200, `created` or `unchanged`: the store may still execute an attempt that was given up.
    Saved,
    /// 500, and no version.
    Failed,
    /// 503, and no version.
    Unavailable,
    /// 503, and the version exists.
    UnavailableButSaved,
}

use End::{Created, Failed, Saved, Unavailable, UnavailableButSaved, Unchanged};

impl End {
    fn status(self) -> u64 {
        match self {
            Created | Unchanged | Saved => 200,
            Failed => 500,
            Unavailable | UnavailableButSaved => 503,
        }
    }

    fn has_version(self) -> bool {
        !matches!(self, Failed | Unavailable)
    }
}

/// A fault, the result of a save that meets it once, twice and at every attempt, and the number of attempts if all meet it.
type Row = (&'static str, fn() -> Fault, [End; 3], usize);

const RETRIED: [End; 3] = [Created, Created, Unavailable];
const LOST: [End; 3] = [Unchanged, Unchanged, UnavailableButSaved];
/// A store that refuses all conditional copies does not support them.
const UNSUPPORTED: [End; 3] = [Created, Created, Failed];
const TIMES: [usize; 3] = [1, 2, usize::MAX];
/// Copies are attempted again after the folder was listed again, at most for ten listings.
const SEVERAL: usize = 0;
/// Size of the part of a body before a fault.
const PART_BYTES: usize = DRAFT_BYTES / 4;
/// Size of a document in bytes: several packets.
const DRAFT_BYTES: usize = 100_000;

#[rustfmt::skip]
const READ_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,        RETRIED,     3),
    ("503 SlowDown",              || Fault::SLOW_DOWN,             RETRIED,     3),
    ("403",                       || Fault::ACCESS_DENIED,         [Failed; 3], 1),
    ("closed before the response", || Fault::Cut,                  RETRIED,     3),
    ("reset before the response", || Fault::Reset,                 RETRIED,     3),
    ("reset in the body",         || Fault::CutBody(PART_BYTES),   RETRIED,     3),
    ("reset before the body",     || Fault::CutBody(0),            RETRIED,     3),
    ("incomplete body",           || Fault::ShortBody(PART_BYTES), RETRIED,     3),
    ("last byte missing",         || Fault::ShortBody(DRAFT_BYTES - 1), RETRIED,     3),
    ("corrupt body",              || Fault::CorruptBody,           RETRIED,     3),
    ("wrong checksum",            || Fault::WrongChecksum,         RETRIED,     3),
];

#[rustfmt::skip]
const LIST_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,        RETRIED,     3),
    ("503 SlowDown",              || Fault::SLOW_DOWN,             RETRIED,     3),
    ("closed before the response", || Fault::Cut,                  RETRIED,     3),
    ("reset in the body",         || Fault::CutBody(300),          RETRIED,     3),
    ("body too short",            || Fault::ShortBody(300),        RETRIED,     3),
    ("response lost",             || Fault::LoseResponse,          RETRIED,     3),
    ("200 with an error",         || Fault::error_in_ok("InternalError"), RETRIED, 3),
    ("403",                       || Fault::ACCESS_DENIED,         [Failed; 3], 1),
    ("404 NoSuchBucket",          || Fault::Error(404, "NoSuchBucket"), [Failed; 3], 1),
];

#[rustfmt::skip]
const FIND_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,        RETRIED,     3),
    ("503 SlowDown",              || Fault::SLOW_DOWN,             RETRIED,     3),
    ("closed before the response", || Fault::Cut,                  RETRIED,     3),
    ("response lost",             || Fault::LoseResponse,          RETRIED,     3),
    // The copy may exist or not.
    ("403",                       || Fault::ACCESS_DENIED,         [Created; 3], 1),
    ("404",                       || Fault::Error(404, "NoSuchKey"), [Created; 3], 1),
    ("400",                       || Fault::Error(400, "InvalidRequest"), [Failed; 3], 1),
];

/// For each request of a copy.
#[rustfmt::skip]
const COPY_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,        RETRIED,     SEVERAL),
    ("503 SlowDown",              || Fault::SLOW_DOWN,             RETRIED,     SEVERAL),
    ("closed before the response", || Fault::Cut,                  RETRIED,     SEVERAL),
    ("reset before the response", || Fault::Reset,                 RETRIED,     SEVERAL),
    ("done, response lost",       || Fault::LoseResponse,          RETRIED,     SEVERAL),
    ("404",                       || Fault::Error(404, "NoSuchUpload"), RETRIED, SEVERAL),
    ("409",                       || Fault::CONFLICT,              RETRIED,     SEVERAL),
    ("412",                       || Fault::Error(412, "PreconditionFailed"), UNSUPPORTED, SEVERAL),
    ("400",                       || Fault::Error(400, "InvalidRequest"), [Failed; 3], 1),
    ("403",                       || Fault::ACCESS_DENIED,         [Failed; 3], 1),
    ("501",                       || Fault::Error(501, "NotImplemented"), [Failed; 3], 1),
];

/// For those whose response has a body.
#[rustfmt::skip]
const COPY_BODY_FAULTS: &[Row] = &[
    ("200 with InternalError",    || Fault::error_in_ok("InternalError"), RETRIED, SEVERAL),
    ("200 with SlowDown",         || Fault::error_in_ok("SlowDown"), RETRIED,   SEVERAL),
    ("200 with 412",              || Fault::error_in_ok("PreconditionFailed"), UNSUPPORTED, SEVERAL),
    ("200 that cannot be read",   || Fault::Respond(RawResponse::new(200).body("copied")), RETRIED, SEVERAL),
    ("200 with AccessDenied",     || Fault::error_in_ok("AccessDenied"), [Failed; 3], 1),
    ("404 NoSuchBucket",          || Fault::Error(404, "NoSuchBucket"), [Failed; 3], 1),
];
const COPIED: &[Row] = &[(
    "done, reset in the body",
    || Fault::CutBody(100),
    [Created; 3],
    SEVERAL,
)];

#[rustfmt::skip]
const MANIFEST_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,        RETRIED,     3),
    ("403",                       || Fault::ACCESS_DENIED,         [Failed; 3], 1),
    // It was deleted after the attempt to create it.
    ("404",                       || Fault::Error(404, "NoSuchKey"), RETRIED,   3),
    ("reset in the body",         || Fault::CutBody(100),          RETRIED,     3),
    ("incomplete body",           || Fault::ShortBody(100),        RETRIED,     3),
];

#[rustfmt::skip]
const CREATE_FAULTS: &[Row] = &[
    ("500",                       || Fault::INTERNAL_ERROR,        RETRIED,     3),
    ("503 SlowDown",              || Fault::SLOW_DOWN,             RETRIED,     3),
    ("403",                       || Fault::ACCESS_DENIED,         [Failed; 3], 1),
    CONFLICT,
    ("closed before the response", || Fault::Cut,                  RETRIED,     3),
    ("reset before the response", || Fault::Reset,                 RETRIED,     3),
    // The SDK does not retry BadDigest.
    ("corrupt upload",            || Fault::CorruptRequest,        [Unavailable; 3], 1),
];
const CONFLICT: Row = ("409", || Fault::CONFLICT, RETRIED, 8);
const LOST_MANIFEST: &[Row] = &[("done, response lost", || Fault::LoseResponse, RETRIED, 3)];
const LOST_DOCUMENT: &[Row] = &[("done, response lost", || Fault::LoseResponse, LOST, 3)];

/// Faults after which nothing is sent.
#[rustfmt::skip]
const STALLS: [(Step, Row); 4] = [
    (ReadDocument,   ("stalled",          || Fault::Stall,                 RETRIED, 3)),
    (ReadDocument,   ("body stalled",     || Fault::StallBody(PART_BYTES), RETRIED, 3)),
    (CreateDocument, ("stalled",          || Fault::Stall,                 RETRIED, 3)),
    (CreateDocument, ("response stalled", || Fault::StallResponse,         LOST,    3)),
];

/// More time than all attempts need.
const LONG_TIME: Duration = Duration::from_mins(1);
/// Less time than a stalled attempt takes.
const SHORT_TIME: Duration = Duration::from_millis(2500);
/// Time limit of an attempt in [`saver_with_short_timeouts`].
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// A draft in a store.
struct Draft<'a> {
    s3: &'a S3,
    id: String,
    document: Vec<u8>,
    files: Files,
}

impl<'a> Draft<'a> {
    fn new(s3: &'a S3, id: String, paths: &[&str]) -> Self {
        let document = draft_of_size(DRAFT_BYTES, id.len() as u64);
        s3.put(BUCKET, &draft_key(&id), &document);
        let files = put_files(s3, &id, paths.iter().copied());
        Self {
            s3,
            id,
            document,
            files,
        }
    }

    /// Checks that there is nothing but the draft and, if it is expected, one version that is complete.
    #[track_caller]
    fn assert_end(&self, end: End, case: &str) {
        assert_end(self.s3, &self.id, &self.document, &self.files, end, case);
    }

    /// Saves the draft, and checks the response, its time and the store.
    async fn assert_save(
        &self,
        program: &Program,
        end: End,
        limit: Duration,
        case: &str,
    ) -> Response {
        let start = Instant::now();
        let response = match program {
            Process(function) => save_within(function, &self.id, limit).await,
            InProcess(saver) => save_by(saver, &self.id, limit).await,
        };
        let elapsed = start.elapsed();
        assert!(elapsed < limit, "{case}: {elapsed:?}");
        assert_eq!(response.status, end.status(), "{case}: {}", response.line);
        let outcomes: &[_] = match end {
            Created => &["created"],
            Unchanged => &["unchanged"],
            Saved => &["created", "unchanged"],
            Failed | Unavailable | UnavailableButSaved => &[""],
        };
        assert!(
            outcomes.contains(&&*response.outcome),
            "{case}: {outcomes:?}"
        );
        if response.status == 200 {
            response.assert_saved(self.s3, &self.id, &self.document, &self.files);
        }
        self.assert_end(end, case);
        response
    }

    /// Saves the draft with a fault, and then without.
    async fn assert_saves(
        &self,
        program: &Program,
        (step, row, times): (Step, &Row, usize),
        limit: Duration,
    ) -> Response {
        let (name, fault, ends, attempts) = row;
        let end = ends[times.min(3) - 1];
        let case = format!("{name} at {step:?}, {times} times");
        let scripted = self.s3.fault(step.requests(&self.id).times(times), fault());
        let first = self.assert_save(program, end, limit, &case).await;
        if *attempts == SEVERAL || limit < LONG_TIME {
            assert!(scripted.hits() >= 1, "{case}");
        } else {
            assert_eq!(scripted.hits(), times.min(*attempts), "{case}: attempts");
        }

        scripted.clear();
        let case = format!("{case}, second save");
        let end = match fault() {
            _ if end.has_version() => Unchanged,
            Fault::Stall if step == CreateDocument => Saved,
            _ => Created,
        };
        self.assert_save(program, end, LONG_TIME, &case).await;
        first
    }
}

/// The function in a process of its own, or a saver in this process.
enum Program {
    Process(Bootstrap),
    InProcess(Saver),
}

use Program::{InProcess, Process};

/// Checks that the draft `id` has no version, or one that is complete, depending on `end`.
#[track_caller]
pub fn assert_end(s3: &S3, id: &str, document: &[u8], files: &Files, end: End, case: &str) {
    let versions = versions(s3, BUCKET, id);
    let expected = usize::from(end.has_version());
    assert_eq!(versions.len(), expected, "{case}: versions {versions:?}");
    for version in &versions {
        let saved = read_version(s3, BUCKET, id, version);
        assert!(saved.0 == document && saved.1 == *files, "{case}");
    }
    if files.is_empty() {
        let saved = s3.keys(BUCKET, "saved").into_iter();
        let saved: Vec<_> = saved.filter(|key| key.contains(id)).collect();
        assert_eq!(saved.len(), expected, "{case}: {saved:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_at_each_step_once_twice_and_for_ever() {
    let without_files = [
        (ReadDocument, READ_FAULTS),
        (CreateDocument, CREATE_FAULTS),
        (CreateDocument, LOST_DOCUMENT),
    ];
    let with_files = [
        (ListDraft, LIST_FAULTS),
        (ListCopies, LIST_FAULTS),
        (FindCopy, FIND_FAULTS),
        (CopyFile, COPY_FAULTS),
        (CopyFile, COPY_BODY_FAULTS),
        (CopyFile, COPIED),
        (CreateManifest, CREATE_FAULTS),
        (CreateManifest, LOST_MANIFEST),
        (ReadManifest, MANIFEST_FAULTS),
        (CreateDocument, CREATE_FAULTS),
        (CreateDocument, LOST_DOCUMENT),
    ];
    check_all_faults(false, &without_files).await;
    check_all_faults(true, &with_files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_at_each_step_of_a_copy_in_parts() {
    let steps = [
        (ReadSource, COPY_FAULTS),
        (CreateUpload, COPY_FAULTS),
        (CopyPart, COPY_FAULTS),
        (CopyPart, COPY_BODY_FAULTS),
        (CompleteUpload, COPY_FAULTS),
        (CompleteUpload, COPY_BODY_FAULTS),
        (CompleteUpload, COPIED),
    ];
    check_all_faults(true, &steps).await;
}

async fn check_all_faults(save_files: bool, steps: &[(Step, &'static [Row])]) {
    let mut tasks = JoinSet::new();
    for (step, rows) in steps {
        // Few rows for each function: the SDK retries less after many failures.
        for rows in rows.chunks(3) {
            tasks.spawn(check_faults(save_files, *step, rows));
        }
    }
    tasks.join_all().await;
}

async fn check_faults(save_files: bool, step: Step, rows: &[Row]) {
    let paths: Vec<_> = ('a'..='z').map(String::from).collect();
    let count = match (save_files, step) {
        (false, _) => 0,
        (true, ListCopies) => paths.len(),
        (true, _) => 3,
    };
    let paths: Vec<_> = paths.iter().take(count).map(String::as_str).collect();
    let s3 = S3::start_empty().await.expect("the S3 server starts");
    let program = match step {
        // The function copies only files over 256 MiB in parts.
        ReadSource | CreateUpload | CopyPart | CompleteUpload => InProcess(multipart_saver(&s3)),
        _ => {
            let variables = &[SAVE_FILES][..usize::from(save_files)];
            Process(start_function(&s3, variables).await)
        }
    };
    for (number, row) in rows.iter().enumerate() {
        for times in TIMES {
            let id = format!("fault-{number}-{times:x}");
            let draft = Draft::new(&s3, id, &paths);
            if step == ReadManifest {
                let saved = draft.assert_save(&program, Created, LONG_TIME, "first");
                let saved = saved.await;
                let version = format!("saved/{}/{}", draft.id, saved.version);
                s3.delete(BUCKET, &format!("{version}/draft_content.json"));
            }
            let fault = (step, row, times);
            let first = draft.assert_saves(&program, fault, LONG_TIME).await;
            let is_copy = [CopyFile, ReadSource, CreateUpload, CopyPart, CompleteUpload];
            if is_copy.contains(&step) && first.status != 200 {
                let error = first.line["error"].as_str().expect("an error");
                let case = format!("{} at {step:?}, {times} times", row.0);
                assert!(error.contains("/b failed"), "{case}: {error}");
            }
            let copies = s3.keys(BUCKET, &format!("saved-files/{}/", draft.id));
            assert_eq!(copies.len(), paths.len(), "{}: {copies:?}", row.0);
        }
    }
}

#[tokio::test]
async fn the_response_comes_before_the_deadline_while_a_request_stalls_or_conflicts() {
    let mut cases = JoinSet::new();
    for (step, row) in STALLS.into_iter().chain([(CreateDocument, CONFLICT)]) {
        cases.spawn(async move {
            let TestEnv { s3, function } = TestEnv::start().await;
            // The start of the process is not part of the time.
            assert_eq!(save(&function, "missing").await.status, 404);
            let draft = Draft::new(&s3, "late".to_owned(), &[]);
            let fault = (step, &row, usize::MAX);
            let program = Process(function);
            draft.assert_saves(&program, fault, SHORT_TIME).await;
        });
    }
    cases.join_all().await;
}

#[tokio::test]
async fn a_save_that_runs_out_of_time_is_continued_by_the_next() {
    const FILES: u64 = 20;
    const BEFORE: u64 = 12;
    let TestEnv { s3, function } = TestEnv::with(&[SAVE_FILES]).await;
    let paths: Vec<_> = (0..FILES)
        .map(|number| format!("assets/{number}"))
        .collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let draft = Draft::new(&s3, "late".to_owned(), &paths);
    // The start of the function is not part of the time.
    assert_eq!(save(&function, "missing").await.status, 404);

    let after = usize::try_from(BEFORE).expect("small");
    let stall = s3.fault(When::op(Op::CopyObject).after(after), Fault::Stall);
    let (program, limit) = (Process(function), Duration::from_secs(2));
    let late = draft
        .assert_save(&program, Unavailable, limit, "late")
        .await;
    late.assert_error(503, "time");
    assert_eq!(late.line["FilesCopied"], BEFORE, "{}", late.line);

    stall.clear();
    let saved = draft
        .assert_save(&program, Created, LONG_TIME, "continued")
        .await;
    assert_eq!(saved.line["FilesCopied"], FILES - BEFORE, "{}", saved.line);
}

fn saver_with_short_timeouts(s3: &S3) -> Saver {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT);
    let stalls = StalledStreamProtectionConfig::enabled().grace_period(ATTEMPT_TIMEOUT);
    let sdk_config = Endpoint::of(s3).sdk().into_builder();
    let sdk_config = sdk_config
        .timeout_config(timeouts.build())
        .stalled_stream_protection(stalls.build());
    saver(&sdk_config.build(), BUCKET)
}

#[tokio::test]
async fn a_stalled_request_is_retried() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 server starts"));
    // Created before the requests: in a debug build it blocks the thread.
    let saver = saver_with_short_timeouts(&s3);
    let mut cases = JoinSet::new();
    for (number, (step, row)) in STALLS.into_iter().enumerate() {
        for times in TIMES {
            let (s3, program) = (Arc::clone(&s3), InProcess(saver.clone()));
            cases.spawn(async move {
                let draft = Draft::new(&s3, format!("stalled-{number}-{times:x}"), &[]);
                let fault = (step, &row, times);
                draft.assert_saves(&program, fault, LONG_TIME).await;
            });
        }
    }
    cases.join_all().await;
}

#[tokio::test]
async fn refused_connections_are_unavailable_until_the_store_is_back() {
    for step in [ReadDocument, CreateDocument] {
        let TestEnv { s3, function } = TestEnv::start().await;
        let draft = Draft::new(&s3, "refused".to_owned(), &[]);
        let case = format!("refused at {step:?}");
        let program = Process(function);
        let requests = step.requests(&draft.id);
        let fault = s3.fault(requests, Fault::Refuse);
        for _ in 0..2 {
            draft
                .assert_save(&program, Unavailable, LONG_TIME, &case)
                .await;
        }
        assert_eq!(fault.hits(), 1, "{case}: requests before the refusal");
        fault.clear();
        s3.reopen().await;
        draft.assert_save(&program, Created, LONG_TIME, &case).await;
    }
}

#[tokio::test]
async fn a_short_refusal_of_connections_is_retried() {
    for step in [ReadDocument, CreateDocument] {
        let s3 = S3::start_empty().await.expect("the S3 server starts");
        // The time until the store is back depends on the machine.
        let retries = RetryConfig::standard()
            .with_max_attempts(20)
            .with_initial_backoff(Duration::from_millis(50));
        let sdk_config = Endpoint::of(&s3).sdk().into_builder();
        let saver = saver(&sdk_config.retry_config(retries).build(), BUCKET);
        let draft = Draft::new(&s3, "refused".to_owned(), &[]);
        let fault = s3.fault(step.requests(&draft.id).once(), Fault::Refuse);
        let case = format!("refused once at {step:?}");
        let reopen = async {
            fault.wait_for_hits(1).await;
            s3.reopen().await;
        };
        let program = InProcess(saver);
        let save = draft.assert_save(&program, Created, LONG_TIME, &case);
        tokio::join!(save, reopen);
    }
}
