//! Saves for what is not HTTP: each trigger's payload through the real binary, to what
//! the trigger takes for done, or for failed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, event_names, sample_draft,
};
use test_support::runtime::{Outcome, with_timeout};
use test_support::s3::{Fault, Op, When};

use crate::common::TestEnv;

/// Those of `events/` that are not HTTP, with what each is answered once its draft is saved.
fn events_and_answers(version: &str, saved: &str) -> Vec<(&'static str, Value)> {
    let saves = json!({
        "saves": [{"draft_id": DRAFT_ID, "version": version, "saved": saved}],
        "skipped": 0,
    });
    let by_id = json!({"draft_id": DRAFT_ID, "version": version, "saved": saved});
    let by_url = json!({"draft_url": DRAFT_URL, "version": version, "saved": saved});
    vec![
        ("direct-id", by_id),
        ("direct-url", by_url),
        ("eventbridge-draft-url", saves.clone()),
        ("eventbridge-s3", saves.clone()),
        ("s3", saves.clone()),
        ("s3-test-event", json!({"saves": [], "skipped": 1})),
        ("sns", saves),
        ("sqs", json!({"batchItemFailures": []})),
    ]
}

/// The records of an S3 notification for these keys.
fn s3_records<'a>(keys: impl IntoIterator<Item = &'a str>) -> Value {
    let template = event("s3")["Records"][0].clone();
    let records = keys.into_iter().map(|key| {
        let mut record = template.clone();
        record["s3"]["object"]["key"] = json!(key);
        record
    });
    json!({"Records": records.collect::<Vec<_>>()})
}

/// An EventBridge event of S3 for this key.
fn s3_event(key: &str) -> Value {
    let mut event = event("eventbridge-s3");
    event["detail"]["object"]["key"] = json!(key);
    event
}

/// An SNS notification with this message.
fn sns(message: &Value) -> Value {
    let mut event = event("sns");
    event["Records"][0]["Sns"]["Message"] = json!(message.to_string());
    event
}

/// An SQS batch with these bodies, whose ids are `message-0`, `message-1` …
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

/// The answer to a batch of which these have failed.
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

fn nothing_done(skipped: usize) -> Outcome {
    Outcome::Response(json!({"saves": [], "skipped": skipped}))
}

impl TestEnv {
    /// The version of the only save of a draft, or nothing.
    #[track_caller]
    fn version(&self, id: &str) -> Option<String> {
        let keys = self.versions(id);
        assert!(keys.len() <= 1, "{keys:?}");
        keys.first()?.split('/').nth(2).map(str::to_owned)
    }
}

#[tokio::test]
async fn each_event_is_saved_and_answered_in_its_own_form() {
    let test_env = TestEnv::start().await;
    let first = test_env
        .function
        .invoke(&event("direct-id"))
        .await
        .response();
    let version = first["version"].as_str().expect("a version").to_owned();
    let key = format!("saved/{DRAFT_ID}/{version}/draft_content.json");
    for saved in ["unchanged", "created"] {
        for (name, answer) in events_and_answers(&version, saved) {
            if saved == "created" {
                test_env.s3.delete(BUCKET, &key);
            }
            test_env.s3.clear_requests();
            let outcome = test_env.function.invoke(&event(name)).await;
            assert_eq!(outcome, Outcome::Response(answer), "{name}");
            // However often the draft is in it, it costs one save.
            let saves = usize::from(name != "s3-test-event");
            assert_eq!(test_env.gets_and_puts(), (saves, saves), "{name}");
            if name != "s3-test-event" {
                assert_eq!(
                    test_env.s3.get(BUCKET, &key),
                    Some(sample_draft()),
                    "{name}"
                );
            } else if saved == "created" {
                assert_eq!(test_env.version(DRAFT_ID), None);
                test_env
                    .function
                    .invoke(&event("direct-id"))
                    .await
                    .response();
            }
        }
    }
}

#[tokio::test]
async fn http_is_never_taken_for_an_event_nor_an_event_for_http() {
    let test_env = TestEnv::start().await;
    let others = events_and_answers("", "");
    for name in event_names() {
        let other = others.iter().any(|&(other, _)| other == name);
        let is_http = |outcome: &Outcome| match outcome {
            Outcome::Response(response) => response.get("statusCode").is_some(),
            _ => false,
        };
        let original = event(&name);
        let outcome = test_env.function.invoke(&original).await;
        assert!(
            matches!(outcome, Outcome::Response(_)),
            "{name}: {outcome:?}"
        );
        assert_eq!(is_http(&outcome), !other, "{name}: {outcome:?}");

        // With what the others are told by, it is still what it is.
        let mut mixed = original.clone();
        let foreign = if other {
            json!({"httpMethod": "POST", "rawPath": "/save_draft", "path": "/save_draft",
                "version": "2.0", "headers": {}, "isBase64Encoded": false, "routeKey": "$default",
                "body": json!({"draft_url": DRAFT_URL}).to_string()})
        } else {
            json!({"Records": event("s3")["Records"], "detail-type": "Object Created",
                "source": "aws.s3", "detail": event("eventbridge-s3")["detail"],
                "draft_url": DRAFT_URL, "draft_id": DRAFT_ID, "Message": "{}",
                "Event": "s3:TestEvent"})
        };
        for (field, value) in foreign.as_object().expect("an object") {
            if mixed.get(field).is_none() {
                mixed[field] = value.clone();
            }
        }
        let outcome = test_env.function.invoke(&mixed).await;
        assert!(
            matches!(outcome, Outcome::Response(_)),
            "{name}: {outcome:?}"
        );
        assert_eq!(is_http(&outcome), !other, "{name}: {outcome:?}");

        // And where one of its fields is missing, or null, it is that or a failure.
        for field in original.as_object().expect("an object").keys() {
            for absent in [true, false] {
                let mut event = original.clone();
                event[field] = Value::Null;
                if absent {
                    event.as_object_mut().expect("an object").remove(field);
                }
                let outcome = test_env.function.invoke(&event).await;
                let failed = matches!(&outcome, Outcome::Error { error_type, .. }
                    if error_type == "InvalidRequest");
                let kept = matches!(outcome, Outcome::Response(_)) && is_http(&outcome) != other;
                assert!(failed || kept, "{name} without {field}: {outcome:?}");
            }
        }
    }
}

#[tokio::test]
async fn http_that_is_not_whole_is_a_failure_and_no_save() {
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
    // Nor is HTTP in a queue.
    for name in [
        "alb",
        "api-gateway-rest",
        "api-gateway-http",
        "function-url",
    ] {
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
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}

#[tokio::test]
async fn a_failure_tells_its_kind() {
    let test_env = TestEnv::start().await;
    let (missing, broken) = ("20251126220753b7e35362", "broken");
    test_env.put_draft(broken, b"{");
    let invalid_url = error("InvalidRequest", "Invalid draft_url format");
    let invalid_id = error("InvalidRequest", "Invalid draft_id format");
    let not_found = error("DraftNotFound", "Draft does not exist");
    let failed = error("SaveFailed", "Save failed");
    let both = "Only one of draft_url and draft_id is allowed";
    for (event, expected) in [
        (json!({"draft_url": "no URL"}), &invalid_url),
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
        (s3_records([draft_key(missing).as_str()]), &not_found),
        (s3_event(&draft_key(missing)), &not_found),
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
    assert_eq!(test_env.version(DRAFT_ID), None);
}

#[tokio::test]
async fn an_event_that_nobody_understands_is_a_failure() {
    let test_env = TestEnv::start().await;
    let record = event("s3")["Records"][0].clone();
    let with = |pointer: &str, value: Value| {
        let mut record = record.clone();
        *record.pointer_mut(pointer).expect("the field is there") = value;
        json!({"Records": [record]})
    };
    let mut deep = json!({"draft_id": DRAFT_ID});
    for _ in 0..4 {
        deep = sns(&deep);
    }
    let not_understood = [
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
    for event in &not_understood {
        assert_eq!(test_env.function.invoke(event).await, unknown(), "{event}");
    }
    // In a queue they come back one by one, and what is beside them is saved.
    let texts = ["", " ", "text", "{", "{\"draft_id\"", "\u{0}"].map(|text| json!(text));
    let bodies: Vec<_> = not_understood.into_iter().chain(texts).collect();
    let count = bodies.len();
    let batch = sqs(bodies.into_iter().chain([json!({"draft_id": DRAFT_ID})]));
    assert_eq!(test_env.function.invoke(&batch).await, failures(0..count));
    assert!(test_env.version(DRAFT_ID).is_some());
    assert_eq!(test_env.gets_and_puts(), (1, 1));
}

#[tokio::test]
async fn a_message_without_an_id_fails_the_whole_batch() {
    let test_env = TestEnv::start().await;
    let mut batch = sqs([json!({"draft_id": DRAFT_ID}), json!({"draft_id": DRAFT_ID})]);
    let message = batch["Records"][1].as_object_mut().expect("an object");
    message.remove("messageId");
    assert_eq!(test_env.function.invoke(&batch).await, unknown());
    assert_eq!(test_env.gets_and_puts(), (1, 1));
}

#[tokio::test]
async fn a_failing_record_does_not_keep_the_others_from_being_saved() {
    let test_env = TestEnv::start().await;
    test_env.put_draft("broken", b"{\"tracks\": [");
    test_env.put_draft("good-1", sample_draft());
    test_env.put_draft("good-2", sample_draft());
    let keys = ["good-1", "broken", "missing", "good-2"].map(draft_key);
    let records = s3_records(keys.iter().map(String::as_str));
    // Of two kinds the one is told that a look at the log is due for.
    let failed = error("SaveFailed", "Save failed");
    assert_eq!(test_env.function.invoke(&records).await, failed);
    assert!(test_env.version("good-1").is_some() && test_env.version("good-2").is_some());
    assert_eq!(
        (test_env.version("broken"), test_env.version("missing")),
        (None, None)
    );

    // What may work on the next try comes first: then the trigger makes one.
    let slow = When::op(Op::GetObject).key_starts_with(draft_key("good-2"));
    let slow = test_env.s3.fault(slow, Fault::SLOW_DOWN);
    assert_eq!(test_env.function.invoke(&records).await, unavailable());
    slow.clear();

    // A record that nobody understands, among good ones.
    test_env.put_draft("good-3", sample_draft());
    let mut records = s3_records([draft_key("good-3").as_str(), ""]);
    records["Records"][1]["eventName"] = Value::Null;
    assert_eq!(test_env.function.invoke(&records).await, unknown());
    assert!(test_env.version("good-3").is_some());
}

#[tokio::test]
async fn of_a_batch_just_the_failed_messages_come_back() {
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
        json!("no JSON"),
        sns(&s3_event(&draft_key("broken"))),
        event("s3-test-event"),
        event("sns"),
    ]);
    let outcome = test_env.function.invoke(&batch).await;
    assert_eq!(outcome, failures([1, 3, 4, 6, 7, 8]));
    assert!(test_env.version("good").is_some() && test_env.version(DRAFT_ID).is_some());

    // They come again, and what has been mended is saved then.
    slow.clear();
    test_env.put_draft("missing", sample_draft());
    test_env.put_draft("broken", sample_draft());
    assert_eq!(test_env.function.invoke(&batch).await, failures([3, 7]));
    for id in ["slow", "missing", "broken", "good", DRAFT_ID] {
        assert!(test_env.version(id).is_some(), "{id}");
    }
}

#[tokio::test]
async fn envelopes_are_opened() {
    let test_env = TestEnv::start().await;
    let direct = json!({"draft_id": DRAFT_ID});
    // SNS puts its notification into a queue as it is, without a record around it.
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
    // Other stores that speak S3 say the same, with other names.
    let mut records = event("s3");
    records["Records"][0]["eventSource"] = json!("minio:s3");
    records["Records"][0]["eventName"] = json!("s3:ObjectCreated:Put");
    let outcome = test_env.function.invoke(&records).await.response();
    assert_eq!(outcome["saves"][0]["draft_id"], DRAFT_ID);
}

#[tokio::test]
async fn a_duplicate_delivery_is_one_version() {
    let test_env = TestEnv::start().await;
    for name in ["sqs", "s3", "eventbridge-s3", "sns", "direct-url", "sqs"] {
        for _ in 0..2 {
            test_env.function.invoke(&event(name)).await.response();
        }
    }
    assert!(test_env.version(DRAFT_ID).is_some());
}

#[tokio::test]
async fn a_thousand_records_over_ten_drafts_are_ten_versions() {
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
        let version = test_env.version(id).expect("it was saved");
        json!({"draft_id": id, "version": version, "saved": "created"})
    });
    let expected = json!({"saves": expected.collect::<Vec<_>>(), "skipped": 0});
    assert_eq!(response, expected);

    // And the same as a batch of a thousand messages: one that is broken fails them all.
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
async fn what_is_not_the_document_of_a_draft_is_skipped() {
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
            let pending = test_env.function.begin(event);
            let id = pending.request_id.clone();
            assert_eq!(pending.outcome().await, nothing_done(1), "{event}");
            let told = test_env.function.logs_for(&id).await;
            assert_eq!(told[0]["outcome"], "skipped", "{event}");
        }
        let batch = sqs([records.clone(), event.clone(), sns(records), sns(event)]);
        assert_eq!(
            test_env.function.invoke(&batch).await,
            failures([]),
            "{event}"
        );
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0));

    // Beside them, a draft is saved.
    let key = draft_key(DRAFT_ID);
    let records = s3_records(["drafts/cover.jpg", key.as_str(), "drafts/cover.jpg"]);
    let response = test_env.function.invoke(&records).await.response();
    assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID);
    assert_eq!(response["skipped"], 2);
}

#[tokio::test]
async fn what_the_function_writes_never_triggers_a_save() {
    for (draft, saved) in [
        (
            "drafts/{draft_id}/draft_content.json",
            "saved/{draft_id}/{version}/draft_content.json",
        ),
        ("d{draft_id}", "s{draft_id}{version}"),
    ] {
        let test_env = TestEnv::with(&[("DRAFT_KEY", draft), ("SAVED_KEY", saved)]).await;
        let key = draft.replace("{draft_id}", DRAFT_ID);
        test_env.s3.put(BUCKET, &key, sample_draft());
        let before = test_env.s3.keys(BUCKET, "");
        test_env
            .function
            .invoke(&event("direct-id"))
            .await
            .response();
        let mut keys = test_env.s3.keys(BUCKET, "");
        keys.retain(|key| !before.contains(key));
        assert_eq!(keys.len(), 1, "{keys:?}");
        test_env.s3.clear_requests();
        for event in [s3_records([keys[0].as_str()]), s3_event(&keys[0])] {
            assert_eq!(
                test_env.function.invoke(&event).await,
                nothing_done(1),
                "{saved}"
            );
        }
        assert_eq!(test_env.gets_and_puts(), (0, 0));
    }
}

#[tokio::test]
async fn keys_in_notifications_are_url_encoded() {
    let test_env = TestEnv::with(&[("DRAFT_KEY", "my drafts/草稿+{draft_id}.json")]).await;
    let key = format!("my drafts/草稿+{DRAFT_ID}.json");
    test_env.s3.put(BUCKET, &key, sample_draft());
    for encoded in [
        format!("my+drafts/%E8%8D%89%E7%A8%BF%2B{DRAFT_ID}.json"),
        format!("my%20drafts/%e8%8d%89%e7%a8%bf%2b{DRAFT_ID}.json"),
        format!("my+drafts%2F草稿%2B%32{}%2Ejson", &DRAFT_ID[1..]),
    ] {
        let response = test_env
            .function
            .invoke(&s3_records([encoded.as_str()]))
            .await;
        let response = response.response();
        assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID, "{encoded}");
    }
    // Decoded once, and no more.
    let twice = format!("my+drafts/%25E8%258D%2589%25E7%25A8%25BF%252B{DRAFT_ID}.json");
    assert_eq!(
        test_env
            .function
            .invoke(&s3_records([twice.as_str()]))
            .await,
        nothing_done(1)
    );
    assert_eq!(
        test_env.function.invoke(&s3_records([key.as_str()])).await,
        nothing_done(1)
    );
    // EventBridge sends the key as it is.
    let response = test_env.function.invoke(&s3_event(&key)).await.response();
    assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID);
    let encoded = format!("my+drafts/%E8%8D%89%E7%A8%BF%2B{DRAFT_ID}.json");
    assert_eq!(
        test_env.function.invoke(&s3_event(&encoded)).await,
        nothing_done(1)
    );
}

#[tokio::test]
async fn hosts_that_are_not_allowed_name_no_draft() {
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
async fn sixteen_saves_of_a_batch_run_side_by_side() {
    // With a second invocation beside the batch, which shows that the function goes on.
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

    // A save has begun with its GET, and has not ended before its PUT.
    let mut running = 0_usize;
    for request in test_env.s3.requests() {
        match request.op {
            _ if !request.key.contains("/batch-") => {}
            Op::GetObject => running += 1,
            _ => running -= 1,
        }
        assert!(running <= 16, "{running} at once");
    }
    assert!(ids.iter().all(|id| test_env.version(id).is_some()));
}

#[tokio::test]
async fn what_a_batch_has_no_time_for_comes_back_as_failed() {
    let test_env = TestEnv::start().await;
    let ids: Vec<_> = (0..20).map(|number| format!("batch-{number:02}")).collect();
    for (id, seed) in ids.iter().zip(0..) {
        test_env.put_draft(id, draft_of_size(4096, seed));
    }
    // All of the first sixteen but one hang; the one makes room for one more, which hangs.
    let hangs = When::op(Op::GetObject).and(|request| !request.key.contains("batch-05"));
    let stall = test_env.s3.fault(hangs, Fault::Stall);
    let batch = sqs(ids.iter().map(|id| json!({"draft_id": id})));
    let (left, begin) = (Duration::from_secs(4), Instant::now());
    let outcome = test_env.function.begin_within(batch.to_string(), left);
    let outcome = outcome.outcome().await;
    assert!(begin.elapsed() < left, "{:?}", begin.elapsed());
    assert_eq!(outcome, failures((0..20).filter(|&number| number != 5)));
    // Three were not even begun.
    assert_eq!(test_env.gets_and_puts(), (17, 1));

    stall.clear();
    assert_eq!(test_env.function.invoke(&batch).await, failures([]));
    assert!(ids.iter().all(|id| test_env.version(id).is_some()));

    // The same for what has no partial answer: it is a failure, to be tried again.
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
async fn maintenance_is_a_failure_that_is_tried_again() {
    let test_env = TestEnv::with(&[("MAINTENANCE", "true")]).await;
    for (name, _) in events_and_answers("", "") {
        let outcome = test_env.function.invoke(&event(name)).await;
        match name {
            "s3-test-event" => assert_eq!(outcome, nothing_done(1)),
            "sqs" => {
                let failed = outcome.response()["batchItemFailures"].clone();
                // All but the test event of S3.
                assert_eq!(failed.as_array().map(Vec::len), Some(5), "{failed}");
            }
            _ => assert_eq!(outcome, unavailable(), "{name}"),
        }
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0));
}
