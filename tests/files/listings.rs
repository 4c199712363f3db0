//! Listings that are incomplete, repeat an object, or have other objects.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use test_support::fixtures::{BUCKET, draft_key, draft_of_size};
use test_support::runtime::memory_kib;
use test_support::s3::{Fault, RawResponse, RecordedRequest, S3, When};

use super::{Copy, Get, List, operations};
use crate::common::TestEnv;
use crate::common::drafts::{Files, SAVE_FILES, file_key, put_document, put_files, save};

const TIME: &str = "2025-09-28T11:47:30.000Z";

/// An entry of a listing: its key as it is in the XML, and the object that it shows.
fn entry(s3: &S3, listed_key: &str, key: &str) -> String {
    let object = s3.metadata(BUCKET, key).expect("the object exists");
    format!(
        "<Contents><Key>{listed_key}</Key><LastModified>{TIME}</LastModified>\
         <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
        object.etag, object.size
    )
}

/// A listing with these entries. `rest` is the XML before them.
fn listing(rest: &str, entries: &[String]) -> String {
    let entries = entries.concat();
    format!("<ListBucketResult>{rest}{entries}</ListBucketResult>")
}

fn respond(xml: impl Into<Vec<u8>>) -> Fault {
    Fault::Respond(RawResponse::new(200).body(xml))
}

/// The listings of the folder of a draft.
fn list_drafts() -> When {
    When::op(List).and(|request| request.query.contains("prefix=drafts"))
}

/// Puts a draft with the files `a` and `b`, with the time of the listings. Returns the entries of a
/// listing: `a`, `b` and the document.
fn put_draft(s3: &S3, id: &str) -> (Vec<u8>, Files, [String; 3]) {
    let document = put_document(s3, id);
    let files = put_files(s3, id, ["a", "b"]);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050);
    let keys = [file_key(id, "a"), file_key(id, "b"), draft_key(id)];
    let entries = keys.each_ref().map(|key| {
        s3.set_last_modified(BUCKET, key, time);
        entry(s3, key, key)
    });
    (document, files, entries)
}

#[tokio::test]
async fn a_listing_that_does_not_prove_that_it_is_complete_is_a_503() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "cut");
    let (document, files, entries) = put_draft(s3, id);
    let whole = "<KeyCount>3</KeyCount><IsTruncated>false</IsTruncated>";
    let complete = listing(whole, &entries);
    // The entry of the document is the second: a file is missing.
    let [a, b, last] = entries.clone();
    let reordered = listing(whole, &[a.clone(), last.clone(), b]);
    let end = reordered.rfind("<Contents>").expect("an entry");
    let cut = &reordered[..end];
    let without = |text: &str| complete.replace(text, "");
    let closed = RawResponse::new(200).header("Transfer-Encoding", "identity");
    for (case, fault) in [
        ("cut, with its length", respond(cut)),
        (
            "cut, ended by closing the connection",
            Fault::Respond(closed.body(cut)),
        ),
        (
            "cut, and closed",
            respond(format!("{cut}</ListBucketResult>")),
        ),
        (
            "one entry too few",
            respond(listing(whole, &[a.clone(), last.clone()])),
        ),
        (
            "without IsTruncated",
            respond(without("<IsTruncated>false</IsTruncated>")),
        ),
        (
            "without KeyCount",
            respond(without("<KeyCount>3</KeyCount>")),
        ),
    ] {
        let fault = s3.fault(list_drafts(), fault);
        let failed = save(&test_env.function, id).await;
        assert_eq!(failed.status, 503, "{case}: {}", failed.line);
        assert_eq!(s3.keys(BUCKET, "saved"), [""; 0], "{case}");
        fault.clear();
    }
    let fault = s3.fault(list_drafts(), respond(complete));
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    fault.clear();
}

#[tokio::test]
async fn a_page_that_is_not_the_last_has_a_new_token_and_may_be_empty() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "pages");
    let (document, files, entries) = put_draft(s3, id);
    let truncated = "<KeyCount>0</KeyCount><IsTruncated>true</IsTruncated>";
    let with_token = format!("{truncated}<NextContinuationToken>t</NextContinuationToken>");
    for page in [truncated, &with_token] {
        let fault = s3.fault(list_drafts(), respond(listing(page, &[])));
        let failed = save(&test_env.function, id).await;
        failed.assert_error(500, "the page is not the last one");
        fault.clear();
    }
    assert_eq!(s3.keys(BUCKET, "saved"), [""; 0]);

    let is_next = |request: &RecordedRequest| request.query.contains("continuation-token=t");
    let whole = "<KeyCount>3</KeyCount><IsTruncated>false</IsTruncated>";
    s3.fault(
        list_drafts().and(is_next),
        respond(listing(whole, &entries)),
    );
    s3.fault(list_drafts(), respond(listing(&with_token, &[])));
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
}

#[tokio::test]
async fn an_object_that_is_listed_twice_is_in_the_version_once() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "twice");
    let (document, files, [a, b, last]) = put_draft(s3, id);
    let whole = "<KeyCount>4</KeyCount><IsTruncated>false</IsTruncated>";
    let entries = [b.clone(), a.clone(), b.clone(), last.clone()];
    let fault = s3.fault(list_drafts(), respond(listing(whole, &entries)));
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    fault.clear();
    let again = save(&test_env.function, id).await;
    assert_eq!(
        (&*again.outcome, again.version),
        ("unchanged", saved.version)
    );

    let other = b.replace("<Size>", "<Size>1");
    let fault = s3.fault(list_drafts(), respond(listing(whole, &[a, b, other, last])));
    let failed = save(&test_env.function, id).await;
    failed.assert_error(503, "an object in two states");
    fault.clear();
}

#[tokio::test]
async fn an_object_of_another_draft_in_a_listing_is_refused() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "outside");
    let (_, _, [a, b, last]) = put_draft(s3, id);
    put_document(s3, "other");
    let other = entry(s3, "drafts/other/x", &draft_key("other"));
    let whole = "<KeyCount>4</KeyCount><IsTruncated>false</IsTruncated>";
    s3.fault(list_drafts(), respond(listing(whole, &[a, b, last, other])));
    let failed = save(&test_env.function, id).await;
    failed.assert_error(500, "another key: \"drafts/other/x\"");
    assert_eq!(s3.count(Copy), 0);
}

#[tokio::test]
async fn a_listing_without_a_field_that_is_needed_is_a_500() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "fields");
    put_document(s3, id);
    let whole = "<KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>";
    let entry = "<Contents><Key>drafts/fields/a</Key></Contents>".to_owned();
    s3.fault(list_drafts(), respond(listing(whole, &[entry])));
    save(&test_env.function, id).await.assert_error(500, "ETag");
}

#[tokio::test]
async fn keys_in_listings_are_decoded() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "encoded");
    let (document, mut files, [a, b, last]) = put_draft(s3, id);
    files.extend(put_files(s3, id, ["a b+c%2B"]));
    // S3 encodes a space as `+`. A store that ignores `encoding-type` does not encode.
    for (encoding, key) in [
        (
            "<EncodingType>url</EncodingType>",
            "drafts/encoded/a+b%2Bc%252B",
        ),
        ("", "drafts/encoded/a b+c%2B"),
    ] {
        let whole = format!("<KeyCount>4</KeyCount><IsTruncated>false</IsTruncated>{encoding}");
        let encoded = entry(s3, key, &file_key(id, "a b+c%2B"));
        let entries = [encoded, a.clone(), b.clone(), last.clone()];
        let fault = s3.fault(list_drafts(), respond(listing(&whole, &entries)));
        let saved = save(&test_env.function, id).await;
        saved.assert_saved(s3, id, &document, &files);
        fault.clear();
    }
}

#[tokio::test]
async fn a_page_of_more_entries_than_a_page_may_have_takes_little_memory() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "empty");
    put_document(s3, id);
    let mut xml =
        "<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>760000</KeyCount>".to_owned();
    for _ in 0..760_000 {
        xml.push_str("<Contents/>");
    }
    write!(xml, "</ListBucketResult>").expect("a string takes all");
    s3.fault(When::op(List), respond(xml));
    let failed = save(&test_env.function, id).await;
    assert_eq!(failed.status, 503, "{}", failed.line);
    let peak = memory_kib(test_env.function.pid(), "VmHWM") / 1024;
    assert!(peak < 80, "the function used {peak} MiB");
}

#[tokio::test]
async fn the_mark_of_a_weak_etag_is_left_out_of_the_comparison() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "weak");
    let (document, files, _) = put_draft(s3, id);
    let etag = s3
        .metadata(BUCKET, &draft_key(id))
        .expect("a document")
        .etag;
    // As a proxy that compresses sends it.
    let response = RawResponse::new(200)
        .header("ETag", format!("W/\"{etag}\""))
        .header("Last-Modified", "Sun, 28 Sep 2025 11:47:30 GMT")
        .body(document.clone());
    let when = When::op(Get).key_starts_with("drafts/");
    s3.fault(when, Fault::Respond(response));
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
}

#[tokio::test]
async fn a_manifest_that_somebody_else_wrote_is_a_500_that_names_it() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "planted");
    let document = put_document(s3, id);
    let files = put_files(s3, id, ["a", "b"]);
    let saved = save(&test_env.function, id).await;
    let folder = format!("saved/{id}/{}", saved.version);
    let key = format!("{folder}/files.json");
    let manifest = s3.get(BUCKET, &key).expect("a manifest");

    s3.delete(BUCKET, &format!("{folder}/draft_content.json"));
    let mut other = manifest.clone();
    let last = other.len() - 1;
    other[last] = b' ';
    for planted in [&b"{}"[..], &manifest[..last], &other] {
        s3.put(BUCKET, &key, planted);
        let failed = save(&test_env.function, id).await;
        failed.assert_error(500, &key);
        assert_eq!(s3.keys(BUCKET, &format!("saved/{id}/")), [&*key]);
    }
    // That of a save that was interrupted is the same.
    s3.put(BUCKET, &key, &manifest);
    let next = save(&test_env.function, id).await;
    assert_eq!((&*next.outcome, &next.version), ("created", &saved.version));
    next.assert_saved(s3, id, &document, &files);
}

#[tokio::test]
async fn a_file_that_is_written_again_within_the_second_of_the_newest_is_no_other_state() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "second");
    let (document, files, _) = put_draft(s3, id);
    let time = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_759_060_050 + seconds);
    s3.set_last_modified(BUCKET, &draft_key(id), time(10));
    let saved = save(&test_env.function, id).await;
    saved.assert_saved(s3, id, &document, &files);
    s3.set_last_modified(BUCKET, &file_key(id, "a"), time(10));
    let next = save(&test_env.function, id).await;
    assert_eq!(
        (next.status, &*next.outcome, next.version),
        (200, "unchanged", saved.version)
    );
}

#[tokio::test]
async fn a_manifest_is_read_again_if_the_transfer_fails() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "compared");
    s3.put(BUCKET, &draft_key(id), draft_of_size(2_000, 1));
    put_files(s3, id, ["a", "b"]);
    let saved = save(&test_env.function, id).await;
    let get = || When::op(Get).key_starts_with("saved/");
    for (fault, statuses) in [
        (Fault::CutBody(100), [200, 200, 503]),
        (Fault::INTERNAL_ERROR, [200, 200, 503]),
        (Fault::ACCESS_DENIED, [500, 500, 500]),
    ] {
        for (times, status) in [1, 2, usize::MAX].into_iter().zip(statuses) {
            let fault = s3.fault(get().times(times), fault.clone());
            let next = save(&test_env.function, id).await;
            assert_eq!(next.status, status, "{}", next.line);
            if status == 200 {
                assert_eq!(
                    (&*next.outcome, &next.version),
                    ("unchanged", &saved.version)
                );
            }
            fault.clear();
        }
    }
    // It was deleted after the attempt to create it.
    operations(s3);
    let once = get().once();
    s3.fault(once, Fault::Error(404, "NoSuchKey"));
    let next = save(&test_env.function, id).await;
    assert_eq!((next.status, &*next.outcome), (200, "unchanged"));
}
