//! What the function says: one line for each save, one record of metrics for each
//! invocation, and nothing that is nobody's business.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use save_draft::telemetry::{DIMENSION, METRICS, NAMESPACE};
use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, post, post_url, sample_draft,
};
use test_support::runtime::{FUNCTION_NAME, Outcome};
use test_support::s3::{Fault, Op, When};

use crate::common::TestEnv;

impl TestEnv {
    /// Invokes the function; returns what became of it, what was logged, and the metrics.
    async fn tell(&self, event: &Value) -> (Outcome, Vec<Value>, Value) {
        let pending = self.function.begin(event);
        let request_id = pending.request_id.clone();
        let outcome = pending.outcome().await;
        let mut lines = self.function.logs_for(&request_id).await;
        let metrics = lines.pop().expect("the metrics are the last");
        (outcome, lines, metrics)
    }
}

/// Checks a line of the log that has these fields and no others, beside those that all have,
/// where a number stands for any number, and an empty text for any text.
#[track_caller]
fn assert_line(line: &Value, level: &str, message: &str, fields: &Value) {
    let mut expected = json!({
        "timestamp": "", "level": level, "message": message, "request_id": "",
        "target": "save_draft::telemetry",
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

/// Checks a record of metrics against "Specification: Embedded metric format" (Amazon
/// CloudWatch User Guide): these counts and no others, and a value for each metric.
#[track_caller]
fn assert_metrics(record: &Value, counts: &[(&str, u64)]) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.expect("it is after 1970");
    let written = record["_aws"]["Timestamp"].as_u64().expect("milliseconds");
    let age = now.checked_sub(Duration::from_millis(written));
    let minute = Duration::from_mins(1);
    assert!(age.is_some_and(|age| age < minute), "{written} is not now");

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
            // Several of them, each with how often it was there: as AWS's own library has it.
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
    let told: BTreeSet<_> = metrics
        .iter()
        .map(|metric| metric["Name"].to_string())
        .collect();
    assert_eq!(told.len(), metrics.len(), "each once");

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
async fn each_save_is_one_line_and_each_invocation_one_record() {
    let test_env = TestEnv::start().await;
    let bytes = sample_draft().len();
    for (outcome, cold) in [("created", 1), ("unchanged", 0)] {
        let (response, lines, metrics) = test_env.tell(&post_url(DRAFT_URL)).await;
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
        assert_eq!(listed, METRICS.iter().copied().collect::<BTreeSet<_>>());
    }
}

#[tokio::test]
async fn each_failure_is_one_line_with_its_cause() {
    let test_env = TestEnv::start().await;
    test_env
        .function
        .invoke(&event("direct-id"))
        .await
        .response();
    test_env.put_draft("broken", b"{\"a\": ");
    let save = |id: &str| json!({"draft_id": id});

    let (_, lines, metrics) = test_env.tell(&save("missing")).await;
    let fields = json!({"draft_id": "missing", "outcome": "DraftNotFound", "retryable": false,
        "error": "", "ms": 0, "read_ms": 0});
    assert_line(&lines[0], "WARN", "not saved", &fields);
    assert_metrics(&metrics, &[("NotFound", 1)]);
    assert_eq!(lines.len(), 1);

    let (_, lines, metrics) = test_env.tell(&save("broken")).await;
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
        let (_, lines, metrics) = test_env.tell(&save(DRAFT_ID)).await;
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

    let (_, lines, metrics) = test_env.tell(&post_url("no URL")).await;
    let fields = json!({"outcome": "InvalidRequest", "detail": "Invalid draft_url format",
        "retryable": false, "error": ""});
    assert_line(&lines[0], "WARN", "invalid request", &fields);
    assert_metrics(&metrics, &[("Invalid", 1)]);
    assert_eq!(lines.len(), 1);
}

#[tokio::test]
async fn a_batch_is_a_line_for_each_save_and_one_record() {
    let test_env = TestEnv::start().await;
    // More than the hundred values that a metric may have in one record.
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
    let (outcome, lines, metrics) = test_env.tell(&records).await;
    assert_eq!(outcome.error().0, "SaveFailed");
    let of = |outcome: &str| {
        lines
            .iter()
            .filter(|line| line["outcome"] == outcome)
            .count()
    };
    assert_eq!(
        (of("created"), of("SaveFailed"), of("skipped")),
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

/// What must not come out again.
const SECRETS: [&str; 6] = [
    "local-secret",
    "the-secret-key",
    "the-session-token",
    "marked-content",
    "marked.url",
    "marked-body",
];

#[tokio::test]
async fn no_content_and_no_url_and_no_credential_comes_out() {
    let env = [
        ("AWS_SECRET_ACCESS_KEY", "the-secret-key"),
        ("AWS_SESSION_TOKEN", "the-session-token"),
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
    ];
    // The S3 refuses this one, and says what it was sent.
    let stranger = TestEnv::with(&env).await;
    let test_env = TestEnv::with(&[("AWS_LAMBDA_LOG_LEVEL", "TRACE")]).await;
    let url = format!("https://marked.url.example/?draft_id={DRAFT_ID}&marked.url#marked.url");
    let bad_urls = [
        "marked.url",
        "https://marked.url.example/?draft_id=",
        "https://marked.url.example:marked.url/?draft_id=1",
        "https://marked.url.example/?draft_id=marked.url.",
        "https://user:marked.url@example/?draft_id=1&draft_id=marked.url",
    ];
    let mut events = vec![post_url(url.as_str()), json!({"draft_url": url})];
    for bad in bad_urls {
        events.push(post_url(bad));
        events.push(json!({"draft_url": bad}));
        events.push(json!({"draft_id": bad}));
    }
    for bad in [
        json!(["marked.url"]),
        json!({"marked.url": "marked.url"}),
        json!("marked.url"),
    ] {
        events.push(post_url(bad.clone()));
        events.push(post(bad.to_string()));
        events.push(json!({"draft_url": bad}));
        events.push(json!({"draft_id": bad}));
        events.push(json!({"Records": bad}));
        events.push(json!({"Message": bad}));
        events.push(json!({"Event": bad}));
        events.push(json!({"detail-type": "x", "source": "y", "detail": bad}));
        events.push(json!({"detail-type": "x", "source": bad, "detail": {}}));
        events
            .push(json!({"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": bad}]}));
        events.push(json!({"Records": [{"eventSource": "aws:sqs", "messageId": "1", "body": bad.to_string()}]}));
        events.push(json!({"Records": [{"eventSource": "aws:sns", "Sns": bad}]}));
        events.push(json!({"Records": [{"eventSource": "aws:s3", "s3": bad}]}));
        events.push(bad);
    }
    for body in [
        "marked-body",
        "{\"marked-body\"",
        "[\"marked-body\"]",
        "{\"draft_url\": marked-body}",
    ] {
        events.push(post(body));
    }
    let content = "{\"text\": \"marked-content\"";
    for document in [
        format!("{content}}}"),
        content.to_owned(),
        format!("{content}, marked-content"),
    ] {
        test_env.put_draft(DRAFT_ID, &document);
        stranger.put_draft(DRAFT_ID, &document);
        for event in &events {
            test_env.function.invoke(event).await;
        }
        stranger.function.invoke(&events[0]).await;
        let cut = test_env
            .s3
            .fault(When::op(Op::GetObject), Fault::CutBody(20));
        test_env.function.invoke(&events[0]).await;
        cut.clear();
    }
    for test_env in [&test_env, &stranger] {
        // All that was said by now is read once the process is gone.
        test_env.function.kill().await;
        let lines = test_env.function.lines();
        assert!(lines.len() >= 6, "{lines:#?}");
        for line in lines {
            for secret in SECRETS {
                assert!(!line.contains(secret), "{line}");
            }
        }
    }
}

#[tokio::test]
async fn causes_are_in_the_log_and_nowhere_else() {
    let test_env = TestEnv::start().await;
    let denied = test_env.s3.fault(When::any(), Fault::ACCESS_DENIED);
    for event in [
        post_url(DRAFT_URL),
        event("direct-url"),
        event("s3"),
        event("sqs"),
    ] {
        let (outcome, lines, _) = test_env.tell(&event).await;
        let error = lines[0]["error"].as_str().expect("a text");
        assert!(error.contains("AccessDenied"), "{error}");
        let outcome = format!("{outcome:?}");
        for cause in ["AccessDenied", "GetObject", "S3 ", BUCKET] {
            // The bucket's name is in no URL of the example.
            assert!(!outcome.contains(cause), "{outcome}");
        }
    }
    denied.clear();
}

#[tokio::test]
async fn a_line_break_begins_no_line() {
    let test_env = TestEnv::start().await;
    test_env
        .function
        .invoke(&event("direct-id"))
        .await
        .response();
    let before = test_env.function.lines().len();
    let forged = "\n{\"forged\": true}\r\n{\"forged\": true}\u{2028}\u{85}\u{1b}[31m";
    let mut path = event("api-gateway-http");
    path["rawPath"] = json!(format!("/{forged}/save_draft"));
    path["requestContext"]["http"]["userAgent"] = json!(forged);
    path["headers"]["user-agent"] = json!(forged);
    let (mut key, mut name, mut source) = (event("s3"), event("eventbridge-s3"), event("s3"));
    key["Records"][0]["s3"]["object"]["key"] = json!("drafts/%0A%7B%22forged%22:true%7D%0D%0A");
    name["detail"]["object"]["key"] = json!(forged);
    source["Records"][0]["eventSource"] = json!(forged);
    let events = [
        post_url(format!("https://example.com/?draft_id=1{forged}")),
        post_url(format!(
            "https://example.com/?draft_id={}",
            "1%0A%7B%22forged%22:true%7D"
        )),
        post(forged),
        json!({"draft_id": forged}),
        json!({"draft_url": forged}),
        path,
        key,
        name,
        source,
    ];
    let count = events.len();
    for event in events {
        let (outcome, lines, _) = test_env.tell(&event).await;
        assert_eq!(lines.len(), 1, "{outcome:?} {lines:#?}");
    }
    test_env.function.kill().await;
    let lines = test_env.function.lines();
    assert_eq!(lines.len(), before + 2 * count, "{lines:#?}");
    for line in lines {
        let line: Value = serde_json::from_str(&line).expect("each line is JSON");
        assert_eq!(line.get("forged"), None, "{line}");
    }
}

#[tokio::test]
async fn the_level_of_the_log_is_the_one_that_is_set() {
    for (level, saved, refused) in [("DEBUG", 1, 1), ("WARN", 0, 1), ("ERROR", 0, 0)] {
        let test_env = TestEnv::with(&[("AWS_LAMBDA_LOG_LEVEL", level)]).await;
        let (_, lines, metrics) = test_env.tell(&event("direct-id")).await;
        assert_eq!(lines.len(), saved, "{level}: {lines:#?}");
        // The metrics are not a part of the log.
        assert_metrics(&metrics, &[("Created", 1), ("ColdStart", 1)]);
        let (_, lines, _) = test_env.tell(&json!({"draft_id": ""})).await;
        assert_eq!(lines.len(), refused, "{level}: {lines:#?}");
    }
}

#[tokio::test]
async fn a_panic_is_logged_as_json() {
    // The Lambda runtime panics where Lambda does not set what it always sets.
    let test_env = TestEnv::with(&[("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "much")]).await;
    let status = test_env.function.wait_for_exit().await;
    assert_eq!(status.code(), Some(101));
    let lines = test_env.function.lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let line: Value = serde_json::from_str(&lines[0]).expect("it is JSON");
    assert_eq!(
        (&line["level"], &line["message"]),
        (&json!("ERROR"), &json!("panicked"))
    );
    let error = line["error"].as_str().expect("the text of the panic");
    assert!(error.contains("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"), "{error}");
    assert!(
        line["location"].is_string(),
        "the place of the panic is logged: {line}"
    );
}
