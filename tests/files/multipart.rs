//! Files that are copied in parts. The tests make the parts small.

use std::sync::Arc;
use std::time::{Duration, Instant};

use save_draft::error::ErrorKind;
use save_draft::save::Saver;
use test_support::fixtures::{BUCKET, draft_of_size};
use test_support::s3::{Fault, Op, RawResponse, S3, When};
use tokio::task::JoinSet;

use super::change_at;
use crate::common::drafts::{Files, SAVE_FILES, file_key, put_document, read_version, versions};
use crate::common::{self, Endpoint};

/// Minimum size of a part, and of the files in these tests one byte less.
const PART_BYTES: usize = 5 << 20;

use Op::{
    AbortMultipartUpload as Abort, CompleteMultipartUpload as Complete,
    CreateMultipartUpload as Create, HeadObject as Head, UploadPartCopy as Part,
};

/// A saver that copies all files in parts.
fn saver(s3: &S3) -> Saver {
    let mut config = common::config(BUCKET, &[SAVE_FILES]);
    config.storage.max_copy_bytes = 0;
    config.storage.min_part_bytes = PART_BYTES as u64;
    common::saver_with(&Endpoint::of(s3).sdk(), config)
}

/// The result of a save: the version, or the kind and the cause of the error.
async fn save(saver: &Saver, id: &str) -> Result<String, (ErrorKind, String)> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let report = saver.save(id.parse().expect("an id"), deadline).await;
    match report.result {
        Ok(saved) => Ok(saved.version.to_string()),
        Err(error) => Err((error.kind(), error.cause_chain())),
    }
}

/// Puts a document and the file `large`, of two parts.
fn put_draft(s3: &S3, id: &str) -> (Vec<u8>, Files) {
    let document = put_document(s3, id);
    let content = draft_of_size(PART_BYTES + 1, 7);
    s3.put(BUCKET, &file_key(id, "large"), &content);
    (document, Files::from([("large".to_owned(), content)]))
}

#[tokio::test]
async fn a_large_file_is_copied_in_parts_with_conditions() {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let (saver, id) = (saver(&s3), "parts");
    let document = put_document(&s3, id);
    let content = draft_of_size(2 * PART_BYTES + 1000, 7);
    let client = common::client(&Endpoint::of(&s3).sdk());
    let key = file_key(id, "a b+ä.mp4");
    let put = client.put_object().bucket(BUCKET).key(&key);
    let put = put.content_type("video/mp4").metadata("made-by", "test");
    let put = put.cache_control("no-store").body(content.clone().into());
    put.send().await.expect("the file is written");
    let etag = s3.metadata(BUCKET, &key).expect("the file exists").etag;
    s3.clear_requests();

    let version = save(&saver, id).await.expect("it is saved");
    let files = Files::from([("a b+ä.mp4".to_owned(), content)]);
    assert!(read_version(&s3, BUCKET, id, &version) == (document, files));
    let copy = format!("saved-files/{id}/{etag}/a b+ä.mp4");
    let head = client.head_object().bucket(BUCKET).key(&copy).send().await;
    let head = head.expect("the copy exists");
    assert_eq!(head.content_type(), Some("video/mp4"));
    assert_eq!(head.cache_control(), Some("no-store"));
    let metadata = head.metadata().expect("metadata");
    assert_eq!(metadata.get("made-by").map(String::as_str), Some("test"));

    let requests = s3.requests();
    let of = |op: Op| requests.iter().filter(move |request| request.op == op);
    let mut ranges: Vec<_> = of(Part)
        .map(|request| request.header("x-amz-copy-source-range"))
        .collect();
    ranges.sort_unstable();
    assert_eq!(
        ranges,
        [
            "bytes=0-5242879",
            "bytes=10485760-10486759",
            "bytes=5242880-10485759"
        ]
    );
    for part in of(Part) {
        let condition = part.header("x-amz-copy-source-if-match");
        assert_eq!(condition.trim_matches('"'), etag);
    }
    let source = of(Head).find(|request| request.key == key);
    let condition = source.expect("a HEAD of the source").header("if-match");
    assert_eq!(condition.trim_matches('"'), etag);
    for complete in of(Complete) {
        assert_eq!(complete.header("if-none-match"), "*");
    }
    let counts = [Create, Complete, Abort].map(|op| of(op).count());
    assert_eq!(counts, [1, 1, 0]);

    // The ETag of the copy is another one, so that only the size is compared.
    assert_eq!(save(&saver, id).await.as_ref(), Ok(&version));
    assert_eq!(s3.count(Create), 1, "it is not copied again");
}

/// The result of a save with a fault once, twice and at every attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Saved,
    Unavailable,
    Failed,
}

use End::{Failed, Saved, Unavailable};

type Row = (&'static str, fn() -> Fault, [End; 3]);

const RETRIED: [End; 3] = [Saved, Saved, Unavailable];

#[rustfmt::skip]
const FAULTS: &[Row] = &[
    ("500",                        || Fault::INTERNAL_ERROR,                RETRIED),
    ("503 SlowDown",               || Fault::SLOW_DOWN,                     RETRIED),
    ("closed before the response", || Fault::Cut,                           RETRIED),
    ("404 NoSuchUpload",           || Fault::Error(404, "NoSuchUpload"),    RETRIED),
    ("409",                        || Fault::CONFLICT,                      RETRIED),
    ("412",                        || Fault::Error(412, "PreconditionFailed"), [Saved, Saved, Failed]),
    ("403",                        || Fault::ACCESS_DENIED,                 [Failed; 3]),
    ("501",                        || Fault::Error(501, "NotImplemented"),  [Failed; 3]),
];

#[rustfmt::skip]
const BODY_FAULTS: &[Row] = &[
    ("200 with InternalError",     || Fault::error_in_ok("InternalError"),  RETRIED),
    ("200 with 412",               || Fault::error_in_ok("PreconditionFailed"), [Saved, Saved, Failed]),
    ("200 with AccessDenied",      || Fault::error_in_ok("AccessDenied"),   [Failed; 3]),
    ("200 that cannot be read",    || Fault::Respond(RawResponse::new(200).body("done")), RETRIED),
];

#[rustfmt::skip]
const LOST: &[Row] = &[
    ("done, response lost",        || Fault::LoseResponse,                  RETRIED),
];

// The copy exists after the first attempt.
#[rustfmt::skip]
const LOST_COMPLETION: &[Row] = &[
    ("done, response lost",        || Fault::LoseResponse,                  [Saved, Saved, Unavailable]),
];

#[tokio::test]
async fn each_fault_at_each_step_once_twice_and_for_ever() {
    let steps = [
        (Head, FAULTS),
        (Create, FAULTS),
        (Create, LOST),
        (Part, FAULTS),
        (Part, BODY_FAULTS),
        (Part, LOST),
        (Complete, FAULTS),
        (Complete, BODY_FAULTS),
        (Complete, LOST_COMPLETION),
    ];
    let mut tasks = JoinSet::new();
    for (op, rows) in steps {
        // Few rows for each saver: the SDK retries less after many failures.
        for rows in rows.chunks(3) {
            tasks.spawn(check_faults(op, rows));
        }
    }
    tasks.join_all().await;
}

async fn check_faults(op: Op, rows: &[Row]) {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let saver = saver(&s3);
    for (row, (name, fault, ends)) in rows.iter().enumerate() {
        for (times, end) in [1, 2, usize::MAX].into_iter().zip(ends) {
            let id = format!("fault-{row}-{times:x}");
            let case = format!("{name} at {op:?}, {times} times");
            let (document, files) = put_draft(&s3, &id);
            let folder = format!("/{id}/");
            // Of the HEAD operations, that of the source.
            let when = When::op(op).and(move |request| {
                let is_source = request.key.starts_with("drafts/");
                request.key.contains(&folder) && (op != Head || is_source)
            });
            let scripted = s3.fault(when.times(times), fault());
            let end_of_save = match save(&saver, &id).await {
                Ok(version) => {
                    assert!(
                        read_version(&s3, BUCKET, &id, &version)
                            == (document.clone(), files.clone()),
                        "{case}"
                    );
                    Saved
                }
                Err((kind, cause)) => {
                    assert_eq!(versions(&s3, BUCKET, &id), [""; 0], "{case}");
                    assert!(cause.contains("/large failed"), "{case}: {cause}");
                    if kind == ErrorKind::SaveFailed {
                        Failed
                    } else {
                        Unavailable
                    }
                }
            };
            assert_eq!(end_of_save, *end, "{case}");
            assert!(scripted.hits() >= 1, "{case}");
            scripted.clear();
            let version = save(&saver, &id).await;
            let version = version.unwrap_or_else(|error| panic!("{case}: {error:?}"));
            assert!(
                read_version(&s3, BUCKET, &id, &version) == (document, files),
                "{case}"
            );
            let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
            assert_eq!(copies.len(), 1, "{case}: {copies:?}");
            s3.delete(BUCKET, &file_key(&id, "large"));
            s3.delete(BUCKET, &copies[0]);
        }
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_between_its_parts_is_never_mixed() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let (saver, id) = (saver(&s3), "replaced");
    let (document, _) = put_draft(&s3, id);
    let other = draft_of_size(PART_BYTES + 1, 8);
    let written = other.clone();
    change_at(&s3, When::op(Part).after(1).once(), move |s3| {
        s3.put(BUCKET, &file_key(id, "large"), &written);
    });
    let version = save(&saver, id).await.expect("it is saved");
    let files = Files::from([("large".to_owned(), other)]);
    assert!(read_version(&s3, BUCKET, id, &version) == (document, files));
    assert_eq!(s3.keys(BUCKET, "saved-files/").len(), 1);
    assert_eq!(s3.count(Abort), 1, "the first upload is aborted");
}

#[tokio::test]
async fn a_copy_that_another_save_completes_first_is_used() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let (saver, id) = (saver(&s3), "met");
    let (document, files) = put_draft(&s3, id);
    let content = files["large"].clone();
    let etag = s3
        .metadata(BUCKET, &file_key(id, "large"))
        .expect("it exists")
        .etag;
    let copy = format!("saved-files/{id}/{etag}/large");
    change_at(&s3, When::op(Complete).once(), move |s3| {
        s3.put(BUCKET, &copy, &content);
    });
    let version = save(&saver, id).await.expect("it is saved");
    assert!(read_version(&s3, BUCKET, id, &version) == (document, files));
    assert_eq!(s3.count(Create), 1);
    assert_eq!(s3.count(Abort), 1, "the upload is aborted");
}

#[tokio::test]
async fn concurrent_saves_of_large_files_end_with_one_copy() {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let id = "both";
    let (document, files) = put_draft(&s3, id);
    let (first, second) = (saver(&s3), saver(&s3));
    let (first, second) = tokio::join!(save(&first, id), save(&second, id));
    let version = first.expect("it is saved");
    assert_eq!(second, Ok(version.clone()));
    assert!(read_version(&s3, BUCKET, id, &version) == (document, files));
    assert_eq!(s3.keys(BUCKET, "saved-files/").len(), 1);
}
