//! Files that are copied in parts. The tests make the parts small.

use std::sync::Arc;
use std::time::Duration;

use save_draft::save::Saver;
use test_support::fixtures::{BUCKET, draft_of_size};
use test_support::s3::{Op, S3, When};

use super::change_at;
use crate::common::drafts::{
    Files, Response, SAVE_FILES, file_key, put_document, read_folder, save_by,
};
use crate::common::{self, Endpoint};

/// Minimum size of a part.
const PART_BYTES: usize = 5 << 20;

use Op::{
    AbortMultipartUpload as Abort, CompleteMultipartUpload as Complete,
    CreateMultipartUpload as Create, HeadObject as Head, UploadPartCopy as Part,
};

/// Returns a saver that copies all files in parts.
pub fn multipart_saver(s3: &S3) -> Saver {
    let mut config = common::config(BUCKET, &[SAVE_FILES]);
    config.max_copy_bytes = 0;
    config.min_part_bytes = PART_BYTES as u64;
    common::saver_with(&Endpoint::of(s3).sdk(), config)
}

async fn save(s3: &S3, id: &str) -> Response {
    save_by(&multipart_saver(s3), id, Duration::from_mins(1)).await
}

#[tokio::test]
async fn a_large_file_is_copied_in_parts_with_conditions() {
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let id = "parts";
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

    let saved = save(&s3, id).await;
    let files = Files::from([("a b+ä.mp4".to_owned(), content)]);
    saved.assert_saved(&s3, id, &document, &files);
    let copy = format!("saved-files/{id}/{etag}/a b+ä.mp4");
    let head = client.head_object().bucket(BUCKET).key(&copy).send().await;
    let head = head.expect("the copy exists");
    assert_eq!(head.content_type(), Some("video/mp4"));
    assert_eq!(head.cache_control(), Some("no-store"));
    assert_eq!(head.metadata().expect("metadata")["made-by"], "test");

    let requests = s3.requests();
    let of = |op: Op| requests.iter().filter(move |request| request.op == op);
    let ranges = of(Part).map(|request| request.header("x-amz-copy-source-range"));
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable();
    let expected = [
        "bytes=0-5242879",
        "bytes=10485760-10486759",
        "bytes=5242880-10485759",
    ];
    assert_eq!(ranges, expected);
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
    let again = save(&s3, id).await;
    assert_eq!(
        (&*again.outcome, again.version),
        ("unchanged", saved.version)
    );
    assert_eq!(s3.count(Create), 1, "it is not copied again");
}

#[tokio::test]
async fn a_file_that_is_replaced_between_its_parts_is_never_mixed() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let id = "replaced";
    let document = put_document(&s3, id);
    let file = |seed: u64| draft_of_size(PART_BYTES + 1, seed);
    s3.put(BUCKET, &file_key(id, "large"), file(7));
    change_at(&s3, When::op(Part).after(1).once(), move |s3| {
        s3.put(BUCKET, &file_key(id, "large"), file(8));
    });
    let saved = save(&s3, id).await;
    let files = Files::from([("large".to_owned(), file(8))]);
    saved.assert_saved(&s3, id, &document, &files);
    assert_eq!(s3.keys(BUCKET, "saved-files/").len(), 1);
    assert_eq!(s3.count(Abort), 1, "the first upload is aborted");
}

#[tokio::test]
async fn a_copy_that_another_save_completes_first_is_used() {
    let s3 = Arc::new(S3::start_empty().await.expect("the S3 starts"));
    let id = "met";
    let document = put_document(&s3, id);
    let etag = s3.put(BUCKET, &file_key(id, "large"), b"content");
    let copy = format!("saved-files/{id}/{etag}/large");
    change_at(&s3, When::op(Complete).once(), move |s3| {
        s3.put(BUCKET, &copy, b"content");
    });
    let saved = save(&s3, id).await;
    saved.assert_saved(&s3, id, &document, &read_folder(&s3, id));
    assert_eq!(s3.count(Create), 1);
    assert_eq!(s3.count(Abort), 1, "the upload is aborted");
}
