//! The records of the log: one JSON line for each save, with its metrics.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, event, eventbridge_event, post_url, sample_draft,
};
use test_support::runtime::FUNCTION_NAME;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::common::TestEnv;

/// CloudWatch namespace of the metrics.
const NAMESPACE: &str = "SaveDraft";
/// The only dimension of the metrics.
const DIMENSION: &str = "FunctionName";
/// All metrics, and their units.
const METRICS: [(&str, &str); 14] = [
    ("Created", "Count"),
    ("Unchanged", "Count"),
    ("Invalid", "Count"),
    ("NotFound", "Count"),
    ("Unavailable", "Count"),
    ("Failed", "Count"),
    ("SaveMs", "Milliseconds"),
    ("ReadMs", "Milliseconds"),
    ("WriteMs", "Milliseconds"),
    ("DraftBytes", "Bytes"),
    ("Files", "Count"),
    ("FilesCopied", "Count"),
    ("CopiedBytes", "Bytes"),
    ("ColdStart", "Count"),
];

/// Checks that a record has exactly these fields and those of all records of invocations, and that its
/// figures are metrics in the form of the "Specification: Embedded metric format" (Amazon CloudWatch
/// User Guide). In `fields`, 0 stands for any number, and an empty text for any text.
#[track_caller]
pub fn assert_record(record: &Value, level: &str, message: &str, fields: &Value) {
    let mut expected =
        json!({"timestamp": "", "level": level, "message": message, "request_id": ""});
    let expected_fields = expected.as_object_mut().expect("an object");
    expected_fields.extend(fields.as_object().expect("an object").clone());
    let mut metrics = Vec::new();
    for (name, unit) in METRICS {
        if expected_fields.contains_key(name) {
            metrics.push(json!({"Name": name, "Unit": unit}));
        }
    }
    if !metrics.is_empty() {
        expected_fields.insert(DIMENSION.to_owned(), json!(FUNCTION_NAME));
    }
    let mut actual = record.clone();
    let actual_fields = actual.as_object_mut().expect("an object");
    let metadata = actual_fields.remove("_aws");
    for (name, value) in actual_fields {
        match value {
            Value::Number(_) if expected[name] == 0 => *value = json!(0),
            Value::String(text) if expected[name] == "" && !text.is_empty() => *value = json!(""),
            _ => {}
        }
    }
    assert_eq!(actual, expected, "{record}");

    let timestamp = record["timestamp"].as_str().expect("a text");
    let time = OffsetDateTime::parse(timestamp, &Rfc3339).expect("a time of RFC 3339");
    let age = OffsetDateTime::from(SystemTime::now()) - time;
    assert!(
        age.is_positive() && age < Duration::from_mins(1),
        "{timestamp} is now"
    );
    assert_eq!(metadata.is_some(), !metrics.is_empty(), "{record}");
    let Some(metadata) = metadata else {
        return;
    };
    let milliseconds = time.unix_timestamp_nanos() / 1_000_000;
    assert_eq!(
        metadata["Timestamp"].as_i64().map(i128::from),
        Some(milliseconds)
    );
    let directives = metadata["CloudWatchMetrics"].as_array().expect("a list");
    assert_eq!(directives.len(), 1, "{metadata}");
    assert_eq!(directives[0]["Namespace"], NAMESPACE);
    assert_eq!(directives[0]["Dimensions"], json!([[DIMENSION]]));
    let listed = directives[0]["Metrics"].as_array().expect("a list");
    let texts =
        |metrics: &[Value]| -> BTreeSet<_> { metrics.iter().map(Value::to_string).collect() };
    assert_eq!(texts(listed), texts(&metrics), "{record}");
    assert_eq!(listed.len(), metrics.len(), "each metric is listed once");
}

#[tokio::test]
async fn a_save_is_one_record_with_its_metrics() {
    let test_env = TestEnv::start().await;
    let bytes = sample_draft().len();
    for (outcome, counter) in [("created", "Created"), ("unchanged", "Unchanged")] {
        let (response, records) = test_env.invoke_logged(&post_url(DRAFT_URL)).await;
        let version = response.response()["headers"]["draft-version"].clone();
        let mut fields = json!({"draft_id": DRAFT_ID, "document": "draft_content.json",
            "version": version, "outcome": outcome,
            "DraftBytes": bytes, "SaveMs": 0, "ReadMs": 0, "WriteMs": 0, counter: 1});
        if outcome == "created" {
            fields["ColdStart"] = json!(1);
        }
        assert_eq!(records.len(), 1, "{records:#?}");
        assert_record(&records[0], "INFO", "saved", &fields);
    }
}

/// `security` has the records of failed saves.
#[tokio::test]
async fn what_needs_no_save_or_is_invalid_is_one_record() {
    let test_env = TestEnv::start().await;
    let invalid = json!({"outcome": "InvalidRequest", "detail": "Invalid draft_url format",
        "retryable": false, "error": "", "Invalid": 1, "ColdStart": 1});
    let skipped = json!({"outcome": "skipped", "key": "drafts/cover.jpg",
        "reason": "the object is not the document of a draft"});
    let cover = eventbridge_event("drafts/cover.jpg");
    for (event, level, message, fields) in [
        (post_url("not a URL"), "WARN", "invalid request", invalid),
        (cover, "INFO", "skipped", skipped),
    ] {
        let (_, records) = test_env.invoke_logged(&event).await;
        assert_eq!(records.len(), 1, "{records:#?}");
        assert_record(&records[0], level, message, &fields);
    }
}

#[tokio::test]
async fn a_save_of_a_whole_draft_counts_its_files() {
    let test_env = TestEnv::with(&[("SAVE_FILES", "true")]).await;
    let cover = format!("drafts/{DRAFT_ID}/cover.jpg");
    test_env.s3.put(BUCKET, &cover, [b'a'; 1000]);
    let (_, records) = test_env.invoke_logged(&event("direct-id")).await;
    let fields = json!({"draft_id": DRAFT_ID, "document": "draft_content.json", "version": "",
        "outcome": "created",
        "DraftBytes": sample_draft().len(), "SaveMs": 0, "ReadMs": 0, "WriteMs": 0, "Created": 1,
        "Files": 1, "FilesCopied": 1, "CopiedBytes": 1000, "ColdStart": 1});
    assert_record(&records[0], "INFO", "saved", &fields);
}
