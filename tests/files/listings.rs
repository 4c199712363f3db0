//! Listings that are incomplete, repeat an object, or have other objects.

use std::time::{Duration, SystemTime};

use test_support::fixtures::{BUCKET, draft_key};
use test_support::runtime::memory_kib;
use test_support::s3::{Fault, RawResponse, RecordedRequest, S3, When};

use super::{Copy, Get, List};
use crate::common::TestEnv;
use crate::common::drafts::{Files, SAVE_FILES, file_key, put_document, put_files, save, versions};

/// The time of all objects of the draft: in listings, and in seconds since the epoch.
const TIME: (&str, u64) = ("2025-09-28T11:47:30.000Z", 1_759_060_050);
/// A path that S3 encodes in listings.
const ENCODED: &str = "a b+c%2B";

/// An entry of a listing: its key as it is in the XML, and the object that it shows.
fn entry(s3: &S3, listed_key: &str, key: &str) -> String {
    let object = s3.metadata(BUCKET, key).expect("the object exists");
    format!(
        "<Contents><Key>{listed_key}</Key><LastModified>{}</LastModified>\
         <ETag>&quot;{}&quot;</ETag><Size>{}</Size></Contents>",
        TIME.0, object.etag, object.size
    )
}

/// A listing with these entries, of which `KeyCount` says that there are `count`. `rest` is the XML before them.
fn listing(rest: &str, count: usize, entries: &[&str]) -> String {
    let entries = entries.concat();
    format!("<ListBucketResult>{rest}<KeyCount>{count}</KeyCount>{entries}</ListBucketResult>")
}

fn respond(xml: impl Into<Vec<u8>>) -> Fault {
    Fault::Respond(RawResponse::new(200).body(xml))
}

/// The listings of the folder of a draft.
fn list_drafts() -> When {
    When::op(List).and(|request| request.query.contains("prefix=drafts"))
}

/// Puts a draft with the files `a`, `b` and [`ENCODED`]. Returns its document, its files, and the entries of a listing: the
/// files and the document.
fn put_draft(s3: &S3, id: &str) -> (Vec<u8>, Files, [String; 4]) {
    let document = put_document(s3, id);
    let files = put_files(s3, id, ["a", "b", ENCODED]);
    let entries = ["a", "b", ENCODED, "draft_content.json"].map(|path| {
        let key = file_key(id, path);
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(TIME.1);
        s3.set_last_modified(BUCKET, &key, time);
        entry(s3, &key, &key)
    });
    (document, files, entries)
}

#[tokio::test]
async fn a_listing_that_is_incomplete_or_wrong_is_refused() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "refused");
    let (_, _, entries) = put_draft(s3, id);
    let [a, b, c, document] = entries.each_ref().map(String::as_str);
    let whole = "<IsTruncated>false</IsTruncated>";
    let truncated = "<IsTruncated>true</IsTruncated>";
    let same_token = format!("{truncated}<NextContinuationToken>t</NextContinuationToken>");
    let complete = listing(whole, 4, &[a, document, b, c]);
    // The document is in it, and a file is missing.
    let cut = &complete[..complete.rfind("<Contents>").expect("an entry")];
    let closed = RawResponse::new(200).header("Transfer-Encoding", "identity");
    let closed = Fault::Respond(closed.body(cut));
    let ended = format!("{cut}</ListBucketResult>");
    let without = |text: &str| respond(complete.replace(text, ""));
    let other_size = b.replace("<Size>", "<Size>1");
    let other_draft = entry(s3, "drafts/other/x", &draft_key(id));
    let no_etag = format!("<Contents><Key>drafts/{id}/a</Key></Contents>");
    let huge = "<Contents/>".repeat(760_000);
    #[rustfmt::skip]
    let cases = [
        ("cut, with its length", respond(cut), 503, ""),
        ("cut, ended by closing the connection", closed, 503, ""),
        ("cut, and closed", respond(ended), 503, ""),
        ("one entry too few", respond(listing(whole, 4, &[a, b, document])), 503, "KeyCount"),
        ("without IsTruncated", without(whole), 503, "IsTruncated"),
        ("without KeyCount", without("<KeyCount>4</KeyCount>"), 503, "KeyCount"),
        ("760,000 empty entries", respond(listing(whole, 760_000, &[&huge])), 503, ""),
        ("a file in two states", respond(listing(whole, 5, &[a, b, c, document, &other_size])), 503, "two states"),
        ("not the last page, without a token", respond(listing(truncated, 0, &[])), 500, "not the last one"),
        ("the same token twice", respond(listing(&same_token, 0, &[])), 500, "not the last one"),
        ("another draft", respond(listing(whole, 2, &[document, &other_draft])), 500, "key: \"drafts/other/x\""),
        ("without ETag", respond(listing(whole, 2, &[document, &no_etag])), 500, "ETag"),
    ];
    for (case, fault, status, text) in cases {
        let fault = s3.fault(list_drafts(), fault);
        println!("{case}");
        save(&test_env.function, id)
            .await
            .assert_error(status, text);
        assert_eq!(s3.keys(BUCKET, "saved"), [""; 0], "{case}");
        assert_eq!(s3.count(Copy), 0, "{case}");
        fault.clear();
    }
    let peak = memory_kib(test_env.function.pid(), "VmHWM") / 1024;
    assert!(peak < 80, "the function used {peak} MiB");
}

#[tokio::test]
async fn listings_of_several_forms_are_read() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "read");
    let (content, files, entries) = put_draft(s3, id);
    let [a, b, c, document] = entries.each_ref().map(String::as_str);
    let whole = "<IsTruncated>false</IsTruncated>";
    let url = format!("{whole}<EncodingType>url</EncodingType>");
    // S3 encodes a space as `+`. A store that ignores `encoding-type` does not encode.
    let encoded = entry(s3, "drafts/read/a+b%2Bc%252B", &file_key(id, ENCODED));
    for (case, listing) in [
        ("in another order", listing(whole, 4, &[document, c, b, a])),
        (
            "an object twice",
            listing(whole, 5, &[b, a, b, c, document]),
        ),
        ("encoded", listing(&url, 4, &[a, b, &encoded, document])),
    ] {
        let fault = s3.fault(list_drafts(), respond(listing));
        println!("{case}");
        save(&test_env.function, id)
            .await
            .assert_saved(s3, id, &content, &files);
        fault.clear();
    }

    // A page that is not the last may be empty.
    let is_next = |request: &RecordedRequest| request.query.contains("continuation-token=t");
    let next = listing(whole, 4, &[a, b, c, document]);
    s3.fault(list_drafts().and(is_next), respond(next));
    let token = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>";
    s3.fault(list_drafts(), respond(listing(token, 0, &[])));
    save(&test_env.function, id)
        .await
        .assert_saved(s3, id, &content, &files);
    assert_eq!(versions(s3, BUCKET, id).len(), 1, "all show one state");
}

#[tokio::test]
async fn the_mark_of_a_weak_etag_is_left_out_of_the_comparison() {
    let test_env = TestEnv::with(&[SAVE_FILES]).await;
    let (s3, id) = (&test_env.s3, "weak");
    let (document, files, _) = put_draft(s3, id);
    let object = s3.metadata(BUCKET, &draft_key(id));
    let etag = object.expect("a document").etag;
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
    let (document, files, _) = put_draft(s3, id);
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(TIME.1 + 10);
    s3.set_last_modified(BUCKET, &draft_key(id), later);
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

    // A file that is written again within the second of the newest object is no other state.
    s3.set_last_modified(BUCKET, &file_key(id, "a"), later);
    let next = save(&test_env.function, id).await;
    assert_eq!(
        (next.status, &*next.outcome, next.version),
        (200, "unchanged", saved.version)
    );
}
