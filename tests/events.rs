//! The events in `events/` and their variants, and the result that each trigger gets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, event_names, sample_draft,
};
use test_support::runtime::{Outcome, with_timeout};
use test_support::s3::{Fault, Op, When};

use crate::common::TestEnv;
use crate::http::HttpResponse;

/// The form of the result that the sender of an event expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A response for API Gateway (REST API).
    RestApi,
    /// A response for API Gateway (HTTP API) or a function URL.
    HttpApi,
    /// A response for an Application Load Balancer.
    LoadBalancer,
    /// The draft with its `draft_id`.
    DraftId,
    /// The draft with its `draft_url`.
    DraftUrl,
    /// A list of saves.
    Saves,
    /// A list of saves, which is empty because the event does not require one.
    Skipped,
    /// The messages that failed.
    Batch,
}

/// All files in `events/`. To add one, see CONTRIBUTING.md.
pub const EVENTS: [(&str, Form); 20] = [
    ("alb", Form::LoadBalancer),
    ("alb-multi-value", Form::LoadBalancer),
    ("api-gateway-http", Form::HttpApi),
    ("api-gateway-http-jwt", Form::HttpApi),
    ("api-gateway-rest", Form::RestApi),
    ("api-gateway-rest-cognito", Form::RestApi),
    ("direct-id", Form::DraftId),
    ("direct-url", Form::DraftUrl),
    ("eventbridge-draft-url", Form::Saves),
    ("eventbridge-s3", Form::Saves),
    ("function-url", Form::HttpApi),
    ("function-url-iam", Form::HttpApi),
    ("s3", Form::Saves),
    ("s3-minio", Form::Saves),
    ("s3-test-event", Form::Skipped),
    ("sns", Form::Saves),
    ("sqs", Form::Batch),
    ("sqs-fifo", Form::Batch),
    ("sqs-raw-sns", Form::Batch),
    ("sqs-sns-envelope", Form::Batch),
];

impl Form {
    /// Returns whether events with this form are HTTP requests.
    pub fn is_http(self) -> bool {
        matches!(self, Self::RestApi | Self::HttpApi | Self::LoadBalancer)
    }

    /// Returns the result for an event of the example draft, after it was saved.
    fn saved(self, version: &str, saved: &str) -> Value {
        let with =
            |field: &str, draft: &str| json!({field: draft, "version": version, "saved": saved});
        match self {
            Self::RestApi | Self::HttpApi | Self::LoadBalancer => {
                HttpResponse::saved(DRAFT_URL, version, saved).to_json(self)
            }
            Self::DraftId => with("draft_id", DRAFT_ID),
            Self::DraftUrl => with("draft_url", DRAFT_URL),
            Self::Saves => json!({"saves": [with("draft_id", DRAFT_ID)], "skipped": 0}),
            Self::Skipped => json!({"saves": [], "skipped": 1}),
            Self::Batch => json!({"batchItemFailures": []}),
        }
    }
}

#[test]
fn every_file_in_events_is_listed() {
    for name in event_names() {
        assert!(
            EVENTS.iter().any(|(listed, _)| *listed == name),
            "events/{name}.json is not tested: add it to EVENTS in tests/events.rs with the form of \
             its result, and to the table of events in README.md"
        );
    }
    assert_eq!(EVENTS.len(), event_names().len(), "each file exists");
}

/// Returns an S3 notification with a record for each of `keys`.
fn s3_records<'a>(keys: impl IntoIterator<Item = &'a str>) -> Value {
    let template = event("s3")["Records"][0].clone();
    let records = keys.into_iter().map(|key| {
        let mut record = template.clone();
        record["s3"]["object"]["key"] = json!(key);
        record
    });
    json!({"Records": records.collect::<Vec<_>>()})
}

/// Returns an EventBridge event of S3 for `key`.
fn s3_event(key: &str) -> Value {
    let mut event = event("eventbridge-s3");
    event["detail"]["object"]["key"] = json!(key);
    event
}

/// Returns an SNS notification with this message.
fn sns(message: &Value) -> Value {
    let mut event = event("sns");
    event["Records"][0]["Sns"]["Message"] = json!(message.to_string());
    event
}

/// Returns an SQS batch with these bodies and the ids `message-0`, `message-1` and so on.
fn sqs(bodies: impl IntoIterator<Item = Value>) -> Value {
    let template = event("sqs")["Records"][0].clone();
    let messages = bodies.into_iter().enumerate().map(|(number, body)| {
        let mut message = template.clone();
        message["messageId"] = json!(format!("message-{number}"));
        message["body"] = match body {
            Value::String(text) => json!(text),
            body => json!(body.to_string()),
        };
        message
    });
    json!({"Records": messages.collect::<Vec<_>>()})
}

/// The result of a batch of which these messages failed.
fn failures(numbers: impl IntoIterator<Item = usize>) -> Outcome {
    let failures = numbers.into_iter();
    let failures = failures.map(|n| json!({"itemIdentifier": format!("message-{n}")}));
    Outcome::Response(json!({"batchItemFailures": failures.collect::<Vec<_>>()}))
}

fn error(error_type: &str, error_message: &str) -> Outcome {
    Outcome::Error {
        error_type: error_type.to_owned(),
        error_message: error_message.to_owned(),
    }
}

fn unknown() -> Outcome {
    error(
        "InvalidRequest",
        "The event is not one that this function knows",
    )
}

fn unavailable() -> Outcome {
    error("ServiceUnavailable", "Service unavailable")
}

fn nothing_saved(skipped: usize) -> Outcome {
    Outcome::Response(json!({"saves": [], "skipped": skipped}))
}

impl TestEnv {
    /// Returns the only version of the draft `id`, or `None` if it has none.
    #[track_caller]
    fn version(&self, id: &str) -> Option<String> {
        let keys = self.versions(id);
        assert!(keys.len() <= 1, "{id} has at most one version: {keys:?}");
        keys.first()?.split('/').nth(2).map(str::to_owned)
    }
}

#[tokio::test]
async fn each_event_saves_its_draft_once_and_gets_the_result_in_its_form() {
    let test_env = TestEnv::start().await;
    for (name, form) in EVENTS {
        let saves = usize::from(form != Form::Skipped);
        for saved in ["created", "unchanged"] {
            let outcome = test_env.function.invoke(&event(name)).await;
            assert_eq!(test_env.gets_and_puts(), (saves, saves), "{name}, {saved}");
            let version = test_env.version(DRAFT_ID).unwrap_or_default();
            let expected = Outcome::Response(form.saved(&version, saved));
            assert_eq!(outcome, expected, "{name}, {saved}");
        }
        for key in test_env.versions(DRAFT_ID) {
            let version = test_env.s3.get(BUCKET, &key);
            assert_eq!(
                version,
                Some(sample_draft()),
                "{name}: the version is the draft"
            );
            test_env.s3.delete(BUCKET, &key);
        }
    }
}

#[tokio::test]
async fn http_and_events_are_told_apart_whatever_other_fields_they_have() {
    let test_env = TestEnv::start().await;
    for (name, form) in EVENTS {
        let original = event(name);
        let result = test_env.function.invoke(&original).await;
        let kept_or_refused = |outcome: &Outcome| match outcome {
            Outcome::Response(response) => response.get("statusCode").is_some() == form.is_http(),
            Outcome::Error { error_type, .. } => error_type == "InvalidRequest",
            Outcome::Exited => false,
        };
        // With all fields of the other kind.
        let mut mixed = if form.is_http() {
            json!({"Records": event("s3")["Records"], "detail-type": "Object Created",
                "source": "aws.s3", "detail": event("eventbridge-s3")["detail"],
                "draft_url": DRAFT_URL, "draft_id": DRAFT_ID, "Message": "{}",
                "Event": "s3:TestEvent"})
        } else {
            json!({"httpMethod": "POST", "rawPath": "/save_draft", "path": "/save_draft",
                "version": "2.0", "headers": {}, "isBase64Encoded": false, "routeKey": "$default",
                "body": json!({"draft_url": DRAFT_URL}).to_string()})
        };
        let fields = original.as_object().expect("the event is an object");
        if fields.contains_key("Records") || fields.contains_key("detail-type") {
            mixed["draft_id"] = json!("another-draft");
        }
        mixed
            .as_object_mut()
            .expect("the event is an object")
            .extend(fields.clone());
        let outcome = test_env.function.invoke(&mixed).await;
        // The first save of the draft creates its version.
        let same = |outcome: &Outcome| format!("{outcome:?}").replace("created", "unchanged");
        assert_eq!(same(&outcome), same(&result), "{name} with other fields");

        // Without one of its fields.
        for field in fields.keys() {
            let mut event = original.clone();
            event[field] = Value::Null;
            let outcome = test_env.function.invoke(&event).await;
            assert!(
                kept_or_refused(&outcome),
                "{name} without {field} stays what it is, or is refused: {outcome:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_http_event_without_a_method_or_in_a_message_is_refused() {
    let test_env = TestEnv::start().await;
    for name in ["alb", "api-gateway-rest", "api-gateway-http"] {
        let mut event = event(name);
        event["draft_url"] = json!(DRAFT_URL);
        if name == "api-gateway-http" {
            event["requestContext"]["http"]["method"] = json!("NO METHOD");
        } else {
            event["httpMethod"] = json!("NO METHOD");
        }
        assert_eq!(test_env.function.invoke(&event).await, unknown(), "{name}");
        let batch = sqs([event.clone()]);
        assert_eq!(
            test_env.function.invoke(&batch).await,
            failures([0]),
            "{name}"
        );
    }
    // HTTP requests are not messages.
    for (name, _) in EVENTS.iter().filter(|(_, form)| form.is_http()) {
        let batch = sqs([event(name)]);
        assert_eq!(
            test_env.function.invoke(&batch).await,
            failures([0]),
            "{name}"
        );
        let notification = sns(&event(name));
        assert_eq!(
            test_env.function.invoke(&notification).await,
            unknown(),
            "{name}"
        );
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");
}

#[tokio::test]
async fn a_failed_invocation_has_the_kind_of_the_error() {
    let test_env = TestEnv::start().await;
    let (missing, broken) = ("20251126220753b7e35362", "broken");
    test_env.put_draft(broken, b"{");
    let invalid_url = error("InvalidRequest", "Invalid draft_url format");
    let invalid_id = error("InvalidRequest", "Invalid draft_id format");
    let not_found = error("DraftNotFound", "Draft does not exist");
    let failed = error("SaveFailed", "Save failed");
    let both = "Only one of draft_url and draft_id is allowed";
    for (event, expected) in [
        (json!({"draft_url": "not a URL"}), &invalid_url),
        (json!({"draft_url": ""}), &invalid_url),
        (json!({"draft_url": 1}), &invalid_url),
        (json!({"draft_id": ""}), &invalid_id),
        (json!({"draft_id": "../1"}), &invalid_id),
        (json!({"draft_id": 20_250_928}), &invalid_id),
        (json!({"draft_id": "a".repeat(65)}), &invalid_id),
        (
            json!({"draft_id": DRAFT_ID, "draft_url": DRAFT_URL}),
            &error("InvalidRequest", both),
        ),
        (json!({"draft_id": missing}), &not_found),
        (sns(&json!({"draft_id": missing})), &not_found),
        (json!({"draft_id": broken}), &failed),
        (s3_records([draft_key(broken).as_str()]), &failed),
        (s3_event(&draft_key(broken)), &failed),
        (sns(&json!({"draft_id": broken})), &failed),
        (sns(&json!({"draft_id": "../1"})), &invalid_id),
    ] {
        assert_eq!(test_env.function.invoke(&event).await, *expected, "{event}");
    }
    let slow = test_env.s3.fault(When::any(), Fault::SLOW_DOWN);
    for name in ["direct-id", "direct-url", "s3", "eventbridge-s3", "sns"] {
        assert_eq!(
            test_env.function.invoke(&event(name)).await,
            unavailable(),
            "{name}"
        );
    }
    slow.clear();
    assert_eq!(test_env.version(DRAFT_ID), None, "nothing is saved");
}

#[tokio::test]
async fn an_unknown_event_is_refused() {
    let test_env = TestEnv::start().await;
    let record = event("s3")["Records"][0].clone();
    let with = |pointer: &str, value: Value| {
        let mut record = record.clone();
        *record.pointer_mut(pointer).expect("an existing field") = value;
        json!({"Records": [record]})
    };
    let mut deep = json!({"draft_id": DRAFT_ID});
    for _ in 0..4 {
        deep = sns(&deep);
    }
    let unknown_events = [
        json!({}),
        json!([]),
        json!([{"draft_id": DRAFT_ID}]),
        json!(null),
        json!(true),
        json!(42),
        json!("draft_id"),
        json!({"Draft_Id": DRAFT_ID}),
        json!({"draft_url": null}),
        json!({"draft_id": null}),
        json!({"body": {"draft_id": DRAFT_ID}}),
        json!({"Event": "s3:OtherEvent", "Bucket": BUCKET}),
        json!({"Event": 1}),
        json!({"Records": []}),
        json!({"Records": null}),
        json!({"Records": {}}),
        json!({"Records": "aws:s3"}),
        json!({"Records": [1]}),
        json!({"Records": [{}]}),
        json!({"Records": [{"eventSource": "aws:s3"}]}),
        json!({"Records": [{"eventSource": "aws:sns"}]}),
        json!({"Records": [{"eventSource": "aws:dynamodb", "draft_id": DRAFT_ID}]}),
        json!({"Records": [{"eventSource": null}]}),
        json!({"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}),
        json!({"detail-type": "Object Created", "source": "aws.s3", "detail": {}}),
        json!({"detail-type": "Object Created", "source": "aws.s3"}),
        json!({"detail-type": "x", "source": "y", "detail": "draft_id"}),
        with("/s3/object/key", Value::Null),
        with("/s3/object/key", json!("drafts/%FF/draft_content.json")),
        with("/s3/bucket/name", Value::Null),
        with("/eventName", Value::Null),
        with("/eventSource", json!("aws:kinesis")),
        sns(&json!({})),
        sns(&json!("text")),
        deep,
    ];
    for event in &unknown_events {
        assert_eq!(test_env.function.invoke(event).await, unknown(), "{event}");
    }
    // In a batch, only those messages fail.
    let texts = ["", " ", "text", "{", "{\"draft_id\"", "\u{0}"].map(|text| json!(text));
    let bodies: Vec<_> = unknown_events.into_iter().chain(texts).collect();
    let count = bodies.len();
    let batch = sqs(bodies.into_iter().chain([json!({"draft_id": DRAFT_ID})]));
    assert_eq!(test_env.function.invoke(&batch).await, failures(0..count));
    assert_eq!(
        test_env.gets_and_puts(),
        (1, 1),
        "the draft in the last message is saved"
    );
}

#[tokio::test]
async fn a_failed_record_fails_the_event_after_the_others_are_saved() {
    let test_env = TestEnv::start().await;
    test_env.put_draft("broken", b"{\"tracks\": [");
    test_env.put_draft("good-1", sample_draft());
    test_env.put_draft("good-2", sample_draft());
    let keys = ["good-1", "broken", "missing", "good-2"].map(draft_key);
    let records = s3_records(keys.iter().map(String::as_str));
    // Of two errors, the one that an operator has to look at is reported.
    let failed = error("SaveFailed", "Save failed");
    assert_eq!(test_env.function.invoke(&records).await, failed);
    for (id, is_saved) in [
        ("good-1", true),
        ("good-2", true),
        ("broken", false),
        ("missing", false),
    ] {
        assert_eq!(test_env.version(id).is_some(), is_saved, "{id}");
    }

    // A retryable error takes precedence, so that the trigger retries the event.
    let slow = When::op(Op::GetObject).key_starts_with(draft_key("good-2"));
    let slow = test_env.s3.fault(slow, Fault::SLOW_DOWN);
    assert_eq!(test_env.function.invoke(&records).await, unavailable());
    slow.clear();

    // A record that cannot be parsed.
    test_env.put_draft("good-3", sample_draft());
    let mut records = s3_records([draft_key("good-3").as_str(), ""]);
    records["Records"][1]["eventName"] = Value::Null;
    assert_eq!(test_env.function.invoke(&records).await, unknown());
    assert!(test_env.version("good-3").is_some(), "good-3 is saved");
}

#[tokio::test]
async fn a_batch_reports_only_the_messages_that_failed() {
    let test_env = TestEnv::start().await;
    test_env.put_draft("broken", b"");
    test_env.put_draft("slow", sample_draft());
    test_env.put_draft("good", sample_draft());
    let slow = When::any().and(|request| request.key.contains("/slow/"));
    let slow = test_env.s3.fault(slow, Fault::SLOW_DOWN);
    let two = [draft_key("good"), draft_key("missing")];
    let batch = sqs([
        json!({"draft_id": "good"}),
        json!({"draft_id": "missing"}),
        json!({"draft_url": "https://example.com/?draft_id=good"}),
        json!({"draft_url": "https://example.com/"}),
        s3_event(&draft_key("slow")),
        s3_records([draft_key("good").as_str()]),
        s3_records(two.iter().map(String::as_str)),
        json!("not JSON"),
        sns(&s3_event(&draft_key("broken"))),
        event("s3-test-event"),
        event("sns"),
    ]);
    let outcome = test_env.function.invoke(&batch).await;
    assert_eq!(outcome, failures([1, 3, 4, 7, 8]));
    for id in ["good", DRAFT_ID] {
        assert!(test_env.version(id).is_some(), "{id} is saved");
    }

    // SQS delivers them again, when some can be saved.
    slow.clear();
    test_env.put_draft("missing", sample_draft());
    test_env.put_draft("broken", sample_draft());
    assert_eq!(test_env.function.invoke(&batch).await, failures([3, 7]));
    for id in ["slow", "missing", "broken", "good", DRAFT_ID] {
        assert!(test_env.version(id).is_some(), "{id} is saved");
    }
}

#[tokio::test]
async fn messages_may_be_wrapped_by_sns() {
    let test_env = TestEnv::start().await;
    let direct = json!({"draft_id": DRAFT_ID});
    // SNS delivers its notification to SQS without a record around it.
    let message_of = |message: &Value| {
        let text = json!(message.to_string());
        json!({"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:123456789012:t", "Message": text})
    };
    let url = event("eventbridge-draft-url");
    for inner in [&direct, &event("s3"), &event("eventbridge-s3"), &url] {
        let outcome = test_env.function.invoke(&sns(inner)).await.response();
        assert_eq!(outcome["saves"][0]["draft_id"], DRAFT_ID, "{inner}");
        let batch = sqs([inner.clone(), message_of(inner), sns(inner)]);
        test_env.s3.clear_requests();
        assert_eq!(
            test_env.function.invoke(&batch).await,
            failures([]),
            "{inner}"
        );
        assert_eq!(test_env.gets_and_puts(), (1, 1), "{inner}");
    }

    let twice = message_of(&message_of(&event("s3")));
    let batch = sqs([twice.clone(), message_of(&twice)]);
    assert_eq!(
        test_env.function.invoke(&batch).await,
        failures([1]),
        "at most two messages may be around an event"
    );
}

#[tokio::test]
async fn a_draft_is_saved_once_for_all_its_records() {
    let test_env = TestEnv::start().await;
    let ids: Vec<_> = (0..10).map(|number| format!("draft-{number}")).collect();
    for (id, seed) in ids.iter().zip(0..) {
        test_env.put_draft(id, draft_of_size(4096, seed));
    }
    let keys: Vec<_> = (0..1000).map(|n: usize| draft_key(&ids[n % 10])).collect();
    let records = s3_records(keys.iter().map(String::as_str));
    let response = test_env.function.invoke(&records).await.response();
    assert_eq!(test_env.gets_and_puts(), (10, 10));
    let expected = ids.iter().map(|id| {
        let version = test_env.version(id).expect("a saved version");
        json!({"draft_id": id, "version": version, "saved": "created"})
    });
    let expected = json!({"saves": expected.collect::<Vec<_>>(), "skipped": 0});
    assert_eq!(response, expected);

    // In a batch, all messages of a draft that is not saved fail.
    let bodies = || keys.iter().map(|key| s3_event(key));
    assert_eq!(test_env.function.invoke(&sqs(bodies())).await, failures([]));
    assert_eq!(test_env.gets_and_puts(), (10, 10));
    test_env.put_draft("draft-3", b"");
    let hundred = (0..1000).filter(|number| number % 10 == 3);
    assert_eq!(
        test_env.function.invoke(&sqs(bodies())).await,
        failures(hundred)
    );
}

#[tokio::test]
async fn events_of_other_objects_are_skipped() {
    let test_env = TestEnv::start().await;
    let mut skipped = vec![];
    for key in [
        "drafts/2025092811473036584258/draft_meta_info.json",
        "drafts/2025092811473036584258/assets/draft_content.json",
        "drafts//draft_content.json",
        "drafts/draft_content.json",
        "drafts/2025092811473036584258/draft_content.json/",
        "x/drafts/2025092811473036584258/draft_content.json",
        "Drafts/2025092811473036584258/draft_content.json",
        "drafts/../draft_content.json",
        "drafts/a.b/draft_content.json",
        "",
    ] {
        skipped.push((s3_records([key]), s3_event(key)));
    }
    let (mut records, mut event) = (event("s3"), event("eventbridge-s3"));
    records["Records"][0]["s3"]["bucket"]["name"] = json!("other");
    event["detail"]["bucket"]["name"] = json!("other");
    skipped.push((records, event));
    for (name, detail_type) in [
        ("ObjectRemoved:Delete", "Object Deleted"),
        ("ObjectRemoved:DeleteMarkerCreated", "Object Deleted"),
        ("LifecycleExpiration:Delete", "Object Deleted"),
        ("ObjectRestore:Completed", "Object Restore Completed"),
        ("ObjectTagging:Put", "Object Tags Added"),
    ] {
        let key = draft_key(DRAFT_ID);
        let (mut records, mut event) = (s3_records([key.as_str()]), s3_event(&key));
        records["Records"][0]["eventName"] = json!(name);
        event["detail-type"] = json!(detail_type);
        skipped.push((records, event));
    }
    for (records, event) in &skipped {
        for event in [records, event] {
            let (outcome, lines) = test_env.invoke_logged(event).await;
            assert_eq!(outcome, nothing_saved(1), "{event}");
            assert_eq!(
                lines[0]["outcome"], "skipped",
                "the reason is logged: {event}"
            );
        }
        let batch = sqs([records.clone(), event.clone(), sns(records), sns(event)]);
        assert_eq!(
            test_env.function.invoke(&batch).await,
            failures([]),
            "{event}"
        );
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");

    // A draft in the same event is saved.
    let key = draft_key(DRAFT_ID);
    let records = s3_records(["drafts/cover.jpg", key.as_str(), "drafts/cover.jpg"]);
    let response = test_env.function.invoke(&records).await.response();
    assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID);
    assert_eq!(response["skipped"], 2);
}

#[tokio::test]
async fn an_event_of_a_document_that_was_deleted_is_skipped() {
    let test_env = TestEnv::start().await;
    let deleted = "20251126220753b7e35362";
    let key = draft_key(deleted);
    let (records, object_event) = (s3_records([key.as_str()]), s3_event(&key));
    for event in [&records, &object_event, &sns(&records)] {
        let (outcome, lines) = test_env.invoke_logged(event).await;
        assert_eq!(outcome, nothing_saved(1), "{event}");
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["outcome"], "skipped");
        assert_eq!(lines[0]["reason"], "the draft has been deleted");
        assert_eq!(lines[0]["draft_id"], deleted);
        assert!(lines[0].get("NotFound").is_none(), "{}", lines[0]);
    }
    let batch = sqs([records.clone(), object_event.clone(), sns(&records)]);
    assert_eq!(test_env.function.invoke(&batch).await, failures([]));

    // A message that names the draft itself fails, beside one about its document.
    let named = json!({"draft_id": deleted});
    let mut custom = event("eventbridge-draft-url");
    custom["detail"]["draft_url"] = json!(format!("https://example.com/?draft_id={deleted}"));
    let batch = sqs([records.clone(), named, object_event, custom]);
    assert_eq!(test_env.function.invoke(&batch).await, failures([1, 3]));

    // Other drafts of the event are saved.
    let records = s3_records([key.as_str(), draft_key(DRAFT_ID).as_str()]);
    let response = test_env.function.invoke(&records).await.response();
    assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID);
    assert_eq!(response["skipped"], 1);
}

#[tokio::test]
async fn of_many_skipped_records_the_first_ten_are_logged_and_all_are_counted() {
    let test_env = TestEnv::start().await;
    for (count, logged) in [(10, 10), (11, 11), (9_000, 11)] {
        let records = s3_records((0..count).map(|_| "drafts/cover.jpg"));
        // Each of two messages has a part of them.
        let batch = sqs([records.clone(), records]);
        for (event, total) in [(&batch, 2 * count), (&batch["Records"][0]["body"], count)] {
            let event = match event.as_str() {
                Some(text) => serde_json::from_str(text).expect("a notification"),
                None => event.clone(),
            };
            let (outcome, lines) = test_env.invoke_logged(&event).await;
            outcome.response();
            let expected = if total > 10 { 11 } else { logged };
            assert_eq!(lines.len(), expected, "{total} records");
            if total > 10 {
                let last = &lines[10];
                assert_eq!(last["message"], "more skipped");
                assert_eq!(last["skipped"], total);
            }
        }
    }
}

#[tokio::test]
async fn saves_that_are_not_started_before_the_deadline_are_one_record() {
    let test_env = TestEnv::start().await;
    let records = (0..10_000).map(|number| draft_key(&format!("draft-{number}")));
    let records: Vec<_> = records.collect();
    let event = s3_records(records.iter().map(String::as_str));
    let pending = test_env
        .function
        .begin_within(event.to_string(), Duration::from_millis(400));
    let request_id = pending.request_id.clone();
    assert_eq!(pending.outcome().await, unavailable());
    let lines = test_env.function.logs_for(&request_id).await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0]["level"], "ERROR");
    assert_eq!(lines[0]["outcome"], "ServiceUnavailable");
    assert_eq!(lines[0]["Unavailable"], 10_000);
    assert_eq!(test_env.gets_and_puts(), (0, 0), "no save is started");
}

#[tokio::test]
async fn an_event_of_a_version_is_skipped() {
    let test_env = TestEnv::start().await;
    test_env
        .s3
        .put(BUCKET, &draft_key(DRAFT_ID), sample_draft());
    test_env
        .function
        .invoke(&event("direct-id"))
        .await
        .response();
    let keys = test_env.s3.keys(BUCKET, "saved/");
    assert_eq!(keys.len(), 1, "{keys:?}");
    test_env.s3.clear_requests();
    for event in [s3_records([keys[0].as_str()]), s3_event(&keys[0])] {
        assert_eq!(test_env.function.invoke(&event).await, nothing_saved(1));
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");
}

#[tokio::test]
async fn keys_are_url_encoded_in_notifications_but_not_in_eventbridge() {
    let test_env = TestEnv::with(&[("DRAFT_PREFIX", "my drafts/草稿+/")]).await;
    let key = format!("my drafts/草稿+/{DRAFT_ID}/draft_content.json");
    test_env.s3.put(BUCKET, &key, sample_draft());
    for encoded in [
        format!("my+drafts/%E8%8D%89%E7%A8%BF%2B/{DRAFT_ID}/draft_content.json"),
        format!("my%20drafts/%e8%8d%89%e7%a8%bf%2b/{DRAFT_ID}/draft_content.json"),
        format!(
            "my+drafts%2F草稿%2B/%32{}/draft_content%2Ejson",
            &DRAFT_ID[1..]
        ),
    ] {
        let response = test_env
            .function
            .invoke(&s3_records([encoded.as_str()]))
            .await;
        let response = response.response();
        assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID, "{encoded}");
    }
    // Keys are decoded once.
    let twice = format!("my+drafts/%25E8%258D%2589%25E7%25A8%25BF%252B{DRAFT_ID}.json");
    assert_eq!(
        test_env
            .function
            .invoke(&s3_records([twice.as_str()]))
            .await,
        nothing_saved(1)
    );
    assert_eq!(
        test_env.function.invoke(&s3_records([key.as_str()])).await,
        nothing_saved(1)
    );
    // EventBridge does not encode keys.
    let response = test_env.function.invoke(&s3_event(&key)).await.response();
    assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID);
    let encoded = format!("my+drafts/%E8%8D%89%E7%A8%BF%2B/{DRAFT_ID}/draft_content.json");
    assert_eq!(
        test_env.function.invoke(&s3_event(&encoded)).await,
        nothing_saved(1)
    );
}

#[tokio::test]
async fn events_may_name_only_allowed_hosts() {
    let test_env = TestEnv::with(&[("DRAFT_URL_HOSTS", "example.com")]).await;
    let invalid = error("InvalidRequest", "Invalid draft_url format");
    assert_eq!(
        test_env.function.invoke(&event("direct-url")).await,
        invalid
    );
    let other = event("eventbridge-draft-url");
    assert_eq!(test_env.function.invoke(&other).await, invalid);
    let allowed = format!("https://example.com/?draft_id={DRAFT_ID}");
    let batch = sqs([
        json!({"draft_url": DRAFT_URL}),
        json!({"draft_url": allowed}),
    ]);
    assert_eq!(test_env.function.invoke(&batch).await, failures([0]));
}

#[tokio::test]
async fn sixteen_saves_of_a_batch_run_concurrently() {
    // A second invocation beside the batch shows that the function goes on.
    let test_env = TestEnv::with(&[("AWS_LAMBDA_MAX_CONCURRENCY", "2")]).await;
    let ids: Vec<_> = (0..40).map(|number| format!("batch-{number}")).collect();
    for (id, seed) in ids.iter().zip(0..) {
        test_env.put_draft(id, draft_of_size(4096, seed));
    }
    let stall = When::op(Op::GetObject).key_starts_with("drafts/batch-");
    let stall = test_env.s3.fault(stall, Fault::Stall);
    let bodies = ids.iter().map(|id| json!({"draft_id": id}));
    let batch = test_env.function.begin(&sqs(bodies));
    with_timeout(stall.wait_for_hits(16)).await;
    for _ in 0..3 {
        test_env
            .function
            .invoke(&event("direct-id"))
            .await
            .response();
    }
    assert_eq!(stall.hits(), 16);
    stall.clear();
    assert_eq!(batch.outcome().await, failures([]));

    // A save runs from its GET to its PUT.
    let mut running = 0_usize;
    for request in test_env.s3.requests() {
        match request.op {
            _ if !request.key.contains("/batch-") => {}
            Op::GetObject => running += 1,
            _ => running -= 1,
        }
        assert!(
            running <= 16,
            "at most 16 saves run concurrently, got {running}"
        );
    }
    assert!(ids.iter().all(|id| test_env.version(id).is_some()));
}

#[tokio::test]
async fn messages_that_are_not_saved_before_the_deadline_fail() {
    let test_env = TestEnv::start().await;
    let ids: Vec<_> = (0..20).map(|number| format!("batch-{number:02}")).collect();
    for (id, seed) in ids.iter().zip(0..) {
        test_env.put_draft(id, draft_of_size(4096, seed));
    }
    // Of the first sixteen saves all but one hang, so that one more is started.
    let hangs = When::op(Op::GetObject).and(|request| !request.key.contains("batch-05"));
    let stall = test_env.s3.fault(hangs, Fault::Stall);
    let batch = sqs(ids.iter().map(|id| json!({"draft_id": id})));
    // The start of the process is not part of an invocation.
    test_env.function.invoke(&json!({})).await;
    let (left, begin) = (Duration::from_secs(4), Instant::now());
    let outcome = test_env.function.begin_within(batch.to_string(), left);
    let outcome = outcome.outcome().await;
    assert!(begin.elapsed() < left, "{:?}", begin.elapsed());
    assert_eq!(outcome, failures((0..20).filter(|&number| number != 5)));
    // Three saves were not started.
    assert_eq!(test_env.gets_and_puts(), (17, 1), "17 saves were started");

    stall.clear();
    assert_eq!(test_env.function.invoke(&batch).await, failures([]));
    assert!(ids.iter().all(|id| test_env.version(id).is_some()));

    // Other events fail with a retryable error.
    let left = Duration::from_secs(1);
    let stall = test_env.s3.fault(When::op(Op::PutObject), Fault::Stall);
    for name in ["direct-id", "s3"] {
        let pending = test_env
            .function
            .begin_within(event(name).to_string(), left);
        assert_eq!(pending.outcome().await, unavailable(), "{name}");
    }
    stall.clear();
}

#[tokio::test]
async fn in_maintenance_mode_every_event_fails_with_a_retryable_error() {
    let test_env = TestEnv::with(&[("MAINTENANCE", "true")]).await;
    for (name, form) in EVENTS {
        let outcome = test_env.function.invoke(&event(name)).await;
        let response = |outcome: Outcome| outcome.response();
        match form {
            Form::RestApi | Form::HttpApi | Form::LoadBalancer => {
                assert_eq!(response(outcome)["statusCode"], 503, "{name}");
            }
            Form::Skipped => assert_eq!(outcome, nothing_saved(1)),
            Form::Batch => {
                let failures = response(outcome)["batchItemFailures"].clone();
                let messages = event(name)["Records"].clone();
                // All messages but the test event of S3 in sqs.json.
                let expected = messages.as_array().map_or(0, Vec::len) - usize::from(name == "sqs");
                assert_eq!(failures.as_array().map(Vec::len), Some(expected), "{name}");
            }
            Form::DraftId | Form::DraftUrl | Form::Saves => {
                assert_eq!(outcome, unavailable(), "{name}");
            }
        }
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");
}
