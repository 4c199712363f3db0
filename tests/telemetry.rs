//! Log lines and metrics: one line for each save, and one record of metrics for each invocation.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use save_draft::lambda::telemetry::{DIMENSION, METRICS, NAMESPACE};
use serde_json::{Value, json};
use test_support::fixtures::{
    DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, post_url, sample_draft,
};
use test_support::runtime::FUNCTION_NAME;
use test_support::s3::{Fault, Op, When};

use crate::common::TestEnv;

/// Checks that a line of the log has exactly these fields and those of all lines. In `fields`, 0
/// stands for any number, and an empty text for any text.
#[track_caller]
fn assert_line(line: &Value, level: &str, message: &str, fields: &Value) {
    let mut expected = json!({
        "timestamp": "", "level": level, "message": message, "request_id": "",
        "target": "save_draft::lambda::telemetry",
    });
    let fields = fields.as_object().expect("an object");
    expected
        .as_object_mut()
        .expect("an object")
        .extend(fields.clone());
    let mut actual = line.clone();
    for (name, value) in actual.as_object_mut().expect("an object") {
        match value {
            Value::Number(_) if expected[name] == 0 => *value = json!(0),
            Value::String(_) if expected[name] == "" => *value = json!(""),
            _ => {}
        }
    }
    assert_eq!(actual, expected, "{line}");
}

/// Checks that a record has the form of the "Specification: Embedded metric format" (Amazon
/// CloudWatch User Guide) and these counts, with 0 for all others.
#[track_caller]
fn assert_metrics(record: &Value, counts: &[(&str, u64)]) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("a time after 1970");
    let written = record["_aws"]["Timestamp"].as_u64().expect("milliseconds");
    let age = now.checked_sub(Duration::from_millis(written));
    let minute = Duration::from_mins(1);
    assert!(
        age.is_some_and(|age| age < minute),
        "the timestamp is now, got {written}"
    );

    let directives = record["_aws"]["CloudWatchMetrics"]
        .as_array()
        .expect("a list");
    assert_eq!(directives.len(), 1);
    assert_eq!(directives[0]["Namespace"], NAMESPACE);
    assert_eq!(directives[0]["Dimensions"], json!([[DIMENSION]]));
    assert_eq!(record[DIMENSION], FUNCTION_NAME);
    let metrics = directives[0]["Metrics"].as_array().expect("a list");
    for metric in metrics {
        let name = metric["Name"].as_str().expect("a name");
        assert!(METRICS.contains(&name), "{name}");
        let unit = match name {
            "SaveMs" | "ReadMs" | "WriteMs" => "Milliseconds",
            "DraftBytes" => "Bytes",
            _ => "Count",
        };
        assert_eq!(metric["Unit"], unit, "{name}");
        let value = &record[name];
        if !value.is_number() {
            // Several values, each with its count.
            let [values, counts] = ["Values", "Counts"].map(|list| value[list].as_array());
            let (values, counts) = (values.expect("a list"), counts.expect("a list"));
            assert!(
                (2..=100).contains(&values.len()),
                "{name}: {}",
                values.len()
            );
            assert_eq!(values.len(), counts.len(), "{name}");
            assert!(values.iter().all(Value::is_number), "{name}: {values:?}");
            assert!(counts.iter().all(Value::is_u64), "{name}: {counts:?}");
        }
    }
    let names: BTreeSet<_> = metrics
        .iter()
        .map(|metric| metric["Name"].to_string())
        .collect();
    assert_eq!(names.len(), metrics.len(), "each metric is listed once");

    for name in [
        "Created",
        "Unchanged",
        "Invalid",
        "NotFound",
        "Unavailable",
        "Failed",
        "ColdStart",
    ] {
        let count = counts.iter().find(|(counted, _)| *counted == name);
        assert_eq!(
            record[name],
            count.map_or(0, |(_, count)| *count),
            "{name}: {record}"
        );
    }
}

#[tokio::test]
async fn a_save_is_logged_in_one_line_with_one_record_of_metrics() {
    let test_env = TestEnv::start().await;
    let bytes = sample_draft().len();
    for (outcome, cold) in [("created", 1), ("unchanged", 0)] {
        let (response, lines, metrics) = test_env.invoke_logged(&post_url(DRAFT_URL)).await;
        let version = response.response()["headers"]["draft-version"].clone();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        let fields = json!({"draft_id": DRAFT_ID, "version": version, "outcome": outcome,
            "bytes": bytes, "ms": 0, "read_ms": 0, "write_ms": 0});
        assert_line(&lines[0], "INFO", "saved", &fields);
        let counted = if cold == 1 { "Created" } else { "Unchanged" };
        assert_metrics(&metrics, &[(counted, 1), ("ColdStart", cold)]);
        assert_eq!(metrics["DraftBytes"], bytes);
        for name in ["SaveMs", "ReadMs", "WriteMs"] {
            assert!(metrics[name].is_number(), "{name}: {metrics}");
        }
        let listed = metrics["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array();
        let listed = listed
            .expect("a list")
            .iter()
            .map(|metric| metric["Name"].as_str());
        let listed: BTreeSet<_> = listed.map(|name| name.expect("a name")).collect();
        let files = ["Files", "FilesCopied", "CopiedBytes"];
        let expected = METRICS.iter().filter(|name| !files.contains(name));
        assert_eq!(
            listed,
            expected.copied().collect(),
            "all but those of files"
        );
    }
}

#[tokio::test]
async fn a_failed_save_is_logged_in_one_line_with_its_cause() {
    let test_env = TestEnv::start().await;
    test_env
        .function
        .invoke(&event("direct-id"))
        .await
        .response();
    test_env.put_draft("broken", b"{\"a\": ");
    let save = |id: &str| json!({"draft_id": id});

    let (_, lines, metrics) = test_env.invoke_logged(&save("missing")).await;
    let fields = json!({"draft_id": "missing", "outcome": "DraftNotFound", "retryable": false,
        "error": "", "ms": 0, "read_ms": 0});
    assert_line(&lines[0], "WARN", "not saved", &fields);
    assert_metrics(&metrics, &[("NotFound", 1)]);
    assert_eq!(lines.len(), 1);

    let (_, lines, metrics) = test_env.invoke_logged(&save("broken")).await;
    let fields = json!({"draft_id": "broken", "outcome": "SaveFailed", "retryable": false,
        "error": "the document is not valid JSON: incomplete JSON at line 1, column 6", "bytes": 6, "ms": 0, "read_ms": 0});
    assert_line(&lines[0], "ERROR", "not saved", &fields);
    assert_metrics(&metrics, &[("Failed", 1)]);
    assert_eq!(lines.len(), 1);

    for (fault, code, kind, retryable, counted) in [
        (
            Fault::ACCESS_DENIED,
            "AccessDenied",
            "SaveFailed",
            false,
            "Failed",
        ),
        (
            Fault::SLOW_DOWN,
            "SlowDown",
            "ServiceUnavailable",
            true,
            "Unavailable",
        ),
    ] {
        let fault = test_env.s3.fault(When::op(Op::PutObject), fault);
        let (_, lines, metrics) = test_env.invoke_logged(&save(DRAFT_ID)).await;
        let fields = json!({"draft_id": DRAFT_ID, "outcome": kind, "retryable": retryable,
            "error": "", "bytes": sample_draft().len(), "ms": 0, "read_ms": 0, "write_ms": 0});
        assert_line(&lines[0], "ERROR", "not saved", &fields);
        let error = lines[0]["error"].as_str().expect("a text");
        assert!(
            error.contains("PutObject") && error.contains(code),
            "{error}"
        );
        assert_metrics(&metrics, &[(counted, 1)]);
        assert_eq!(lines.len(), 1);
        fault.clear();
    }

    let (_, lines, metrics) = test_env.invoke_logged(&post_url("not a URL")).await;
    let fields = json!({"outcome": "InvalidRequest", "detail": "Invalid draft_url format",
        "retryable": false, "error": ""});
    assert_line(&lines[0], "WARN", "invalid request", &fields);
    assert_metrics(&metrics, &[("Invalid", 1)]);
    assert_eq!(lines.len(), 1);
}

#[tokio::test]
async fn a_batch_has_a_line_for_each_save_and_one_record_of_metrics() {
    let test_env = TestEnv::start().await;
    // A metric may have at most 100 values in one record.
    let ids: Vec<_> = (0..150).map(|number| format!("draft-{number}")).collect();
    for (id, seed) in ids.iter().zip(0..) {
        test_env.put_draft(id, draft_of_size(2000 + id.len(), seed));
    }
    test_env.put_draft("draft-7", b"");
    let mut records = event("s3");
    let template = records["Records"][0].clone();
    let keys = ids
        .iter()
        .map(|id| draft_key(id))
        .chain(["drafts/cover.jpg".to_owned()]);
    let keys = keys.map(|key| {
        let mut record = template.clone();
        record["s3"]["object"]["key"] = json!(key);
        record
    });
    records["Records"] = keys.collect();
    let (outcome, lines, metrics) = test_env.invoke_logged(&records).await;
    assert_eq!(outcome.error().0, "SaveFailed");
    let count = |outcome: &str| {
        lines
            .iter()
            .filter(|line| line["outcome"] == outcome)
            .count()
    };
    assert_eq!(
        (count("created"), count("SaveFailed"), count("skipped")),
        (149, 1, 1)
    );
    assert_eq!(lines.len(), 151);
    let skipped = lines.iter().find(|line| line["outcome"] == "skipped");
    let fields = json!({"outcome": "skipped", "key": "drafts/cover.jpg",
        "reason": "the object is not the document of a draft"});
    assert_line(skipped.expect("it is there"), "INFO", "skipped", &fields);
    assert_metrics(
        &metrics,
        &[("Created", 149), ("Failed", 1), ("ColdStart", 1)],
    );
}

#[tokio::test]
async fn the_log_level_is_configurable() {
    for (level, saved, invalid) in [("DEBUG", 1, 1), ("WARN", 0, 1), ("ERROR", 0, 0)] {
        let test_env = TestEnv::with(&[("AWS_LAMBDA_LOG_LEVEL", level)]).await;
        let (_, lines, metrics) = test_env.invoke_logged(&event("direct-id")).await;
        assert_eq!(lines.len(), saved, "{level}: {lines:#?}");
        // Metrics are written at every level.
        assert_metrics(&metrics, &[("Created", 1), ("ColdStart", 1)]);
        let (_, lines, _) = test_env.invoke_logged(&json!({"draft_id": ""})).await;
        assert_eq!(lines.len(), invalid, "{level}: {lines:#?}");
    }
}
