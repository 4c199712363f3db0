//! The events in `events/` and their variants, and the result that each trigger gets.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::fixtures::{
    BUCKET, DRAFT_ID, DRAFT_URL, draft_key, draft_of_size, event, event_names, eventbridge_event,
    method_mut, post_url, s3_notification, sample_draft, sns_notification, sqs_batch,
};
use test_support::runtime::Outcome;
use test_support::s3::{Fault, Op, When};

use crate::common::TestEnv;
use crate::http;

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

impl Form {
    /// Returns the form for `events/{name}.json`. To add an event, see CONTRIBUTING.md.
    fn of(name: &str) -> Self {
        match name {
            "alb" | "alb-multi-value" => Self::LoadBalancer,
            "api-gateway-rest" | "api-gateway-rest-cognito" => Self::RestApi,
            "api-gateway-http" | "api-gateway-http-jwt" | "function-url" | "function-url-iam" => {
                Self::HttpApi
            }
            "direct-id" => Self::DraftId,
            "direct-url" => Self::DraftUrl,
            "eventbridge-draft-url" | "eventbridge-s3" | "s3" | "s3-minio" | "sns" => Self::Saves,
            "s3-test-event" => Self::Skipped,
            "sqs" | "sqs-fifo" | "sqs-raw-sns" | "sqs-sns-envelope" => Self::Batch,
            _ => panic!("events/{name}.json is not tested: add the form of its result"),
        }
    }

    /// Returns whether events with this form are HTTP requests.
    fn is_http(self) -> bool {
        matches!(self, Self::RestApi | Self::HttpApi | Self::LoadBalancer)
    }

    /// Returns the result for an event of the example draft, after it was saved.
    fn saved(self, version: &str, saved: &str) -> Value {
        let with =
            |field: &str, draft: &str| json!({field: draft, "version": version, "saved": saved});
        match self {
            Self::RestApi | Self::HttpApi | Self::LoadBalancer => http::saved(self, version, saved),
            Self::DraftId => with("draft_id", DRAFT_ID),
            Self::DraftUrl => with("draft_url", DRAFT_URL),
            Self::Saves => json!({"saves": [with("draft_id", DRAFT_ID)], "skipped": 0}),
            Self::Skipped => json!({"saves": [], "skipped": 1}),
            Self::Batch => json!({"batchItemFailures": []}),
        }
    }
}

/// Returns the names of all events in `events/`, and the forms of their results.
fn events() -> impl Iterator<Item = (String, Form)> {
    event_names().into_iter().map(|name| {
        let form = Form::of(&name);
        (name, form)
    })
}

/// Returns the names of the HTTP requests in `events/`, and the forms of their responses.
pub fn http_events() -> impl Iterator<Item = (String, Form)> {
    events().filter(|(_, form)| form.is_http())
}

/// The result of a batch of which these messages failed.
fn failures(numbers: impl IntoIterator<Item = usize>) -> Outcome {
    let failures = numbers.into_iter();
    let failures = failures.map(|n| json!({"itemIdentifier": format!("message-{n}")}));
    Outcome::Response(json!({"batchItemFailures": failures.collect::<Vec<_>>()}))
}

fn unknown() -> Outcome {
    Outcome::from_error(
        "InvalidRequest",
        "The event is not one that this function knows",
    )
}

fn unavailable() -> Outcome {
    Outcome::from_error("ServiceUnavailable", "Service unavailable")
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

/// Returns `original` with fields of the other kind: an HTTP request with those of events, or the reverse.
fn with_fields_of_the_other_kind(original: &Value, form: Form) -> Value {
    let mut mixed = if form.is_http() {
        json!({"Records": event("s3")["Records"], "detail-type": "Object Created",
            "source": "aws.s3", "detail": event("eventbridge-s3")["detail"],
            "draft_url": DRAFT_URL, "draft_id": DRAFT_ID, "Message": "{}", "Event": "s3:TestEvent"})
    } else {
        json!({"httpMethod": "POST", "rawPath": "/save_draft", "path": "/save_draft",
            "version": "2.0", "headers": {}, "isBase64Encoded": false, "routeKey": "$default",
            "body": json!({"draft_url": DRAFT_URL}).to_string()})
    };
    let fields = original.as_object().expect("an object");
    if fields.contains_key("Records") || fields.contains_key("detail-type") {
        mixed["draft_id"] = json!("another-draft");
    }
    let mixed_fields = mixed.as_object_mut().expect("an object");
    mixed_fields.extend(fields.clone());
    mixed
}

#[tokio::test]
async fn each_event_saves_its_draft_once_and_gets_the_result_in_its_form() {
    let test_env = TestEnv::start().await;
    let version = test_env.put_dated(DRAFT_ID, &sample_draft());
    for (name, form) in events() {
        let original = event(&name);
        let mixed = with_fields_of_the_other_kind(&original, form);
        let saves = usize::from(form != Form::Skipped);
        for (event, saved) in [
            (&original, "created"),
            (&original, "unchanged"),
            (&mixed, "unchanged"),
        ] {
            let outcome = test_env.invoke(event).await;
            let expected = Outcome::Response(form.saved(&version, saved));
            assert_eq!(outcome, expected, "{name}, {saved}: {event}");
            assert_eq!(test_env.gets_and_puts(), (saves, saves), "{name}, {saved}");
        }
        for key in test_env.versions(DRAFT_ID) {
            let saved = test_env.s3.get(BUCKET, &key);
            assert_eq!(saved, Some(sample_draft()), "{name}: the draft is saved");
            test_env.s3.delete(BUCKET, &key);
        }
    }
}

#[tokio::test]
async fn each_event_gets_a_retryable_error_in_its_form() {
    let maintenance = TestEnv::with(&[("MAINTENANCE", "true")]).await;
    let throttled = TestEnv::start().await;
    throttled.s3.fault(When::any(), Fault::SLOW_DOWN);
    for test_env in [&maintenance, &throttled] {
        for (name, form) in events() {
            let event = event(&name);
            let expected = match form {
                Form::RestApi | Form::HttpApi | Form::LoadBalancer => {
                    Outcome::Response(http::error(form, 503, "Service unavailable"))
                }
                Form::DraftId | Form::DraftUrl | Form::Saves => unavailable(),
                Form::Skipped => nothing_saved(1),
                Form::Batch => {
                    let messages = event["Records"].as_array().expect("messages").iter();
                    // The test event of S3 requires no save.
                    let failed =
                        messages.filter(|it| !it["body"].to_string().contains("TestEvent"));
                    let failed = failed.map(|it| json!({"itemIdentifier": it["messageId"]}));
                    Outcome::Response(json!({"batchItemFailures": failed.collect::<Vec<_>>()}))
                }
            };
            assert_eq!(test_env.invoke(&event).await, expected, "{name}");
        }
    }
    assert_eq!(maintenance.gets_and_puts(), (0, 0), "the store is not used");
    // A retry after the maintenance would fail too.
    let outcome = maintenance.invoke(&post_url("not a URL")).await;
    let expected = http::error(Form::HttpApi, 400, "Invalid draft_url format");
    assert_eq!(outcome, Outcome::Response(expected));
}

/// `security` has failed saves of direct invocations.
#[tokio::test]
async fn a_failed_invocation_has_the_kind_of_the_error() {
    let test_env = TestEnv::start().await;
    test_env.put_draft("broken", b"{");
    let missing = json!({"draft_id": "missing"});
    let invalid_url = Outcome::from_error("InvalidRequest", "Invalid draft_url format");
    let invalid_id = Outcome::from_error("InvalidRequest", "Invalid draft_id format");
    let not_found = Outcome::from_error("DraftNotFound", "Draft does not exist");
    let failed = Outcome::from_error("SaveFailed", "Save failed");
    let both = Outcome::from_error(
        "InvalidRequest",
        "Only one of draft_url and draft_id is allowed",
    );
    for (event, expected) in [
        (json!({"draft_url": "not a URL"}), &invalid_url),
        (json!({"draft_url": 1}), &invalid_url),
        (json!({"draft_id": 20_250_928}), &invalid_id),
        (sns_notification(&json!({"draft_id": "../1"})), &invalid_id),
        (json!({"draft_id": "a", "draft_url": DRAFT_URL}), &both),
        (sns_notification(&missing), &not_found),
        (s3_notification([draft_key("broken")]), &failed),
        (eventbridge_event(&draft_key("broken")), &failed),
        (sns_notification(&json!({"draft_id": "broken"})), &failed),
    ] {
        assert_eq!(test_env.invoke(&event).await, *expected, "{event}");
    }
}

#[tokio::test]
async fn an_unknown_event_is_refused() {
    let test_env = TestEnv::start().await;
    let with = |pointer: &str, value: Value| {
        let mut event = event("s3");
        *event.pointer_mut(pointer).expect("an existing field") = value;
        event
    };
    let mut deep = json!({"draft_id": DRAFT_ID});
    for _ in 0..4 {
        deep = sns_notification(&deep);
    }
    let mut unknown_events = vec![
        json!({}),
        json!([]),
        json!([{"draft_id": DRAFT_ID}]),
        json!(null),
        json!(42),
        json!("draft_id"),
        json!({"Draft_Id": DRAFT_ID}),
        json!({"draft_id": null}),
        json!({"body": {"draft_id": DRAFT_ID}}),
        json!({"Event": "s3:OtherEvent", "Bucket": BUCKET}),
        json!({"Event": 1}),
        json!({"Records": []}),
        json!({"Records": {}}),
        json!({"Records": "aws:s3"}),
        json!({"Records": [1]}),
        json!({"Records": [{}]}),
        json!({"Records": [{"eventSource": "aws:s3"}]}),
        json!({"Records": [{"eventSource": "aws:sns"}]}),
        json!({"Records": [{"eventSource": "aws:dynamodb", "draft_id": DRAFT_ID}]}),
        json!({"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}),
        json!({"detail-type": "Object Created", "source": "aws.s3", "detail": {}}),
        json!({"detail-type": "Object Created", "source": "aws.s3"}),
        json!({"detail-type": "x", "source": "y", "detail": "draft_id"}),
        with("/Records/0/s3/object/key", Value::Null),
        with(
            "/Records/0/s3/object/key",
            json!("drafts/%FF/draft_content.json"),
        ),
        with("/Records/0/s3/bucket/name", Value::Null),
        with("/Records/0/eventName", Value::Null),
        with("/Records/0/eventSource", json!("aws:kinesis")),
        sns_notification(&json!("text")),
        deep,
    ];
    for (name, _) in http_events() {
        // An HTTP request is not a message, and without a method it is not a request.
        unknown_events.push(sns_notification(&event(&name)));
        let mut event = event(&name);
        event["draft_url"] = json!(DRAFT_URL);
        *method_mut(&mut event) = json!("NO METHOD");
        unknown_events.push(event);
    }
    for event in &unknown_events {
        assert_eq!(test_env.invoke(event).await, unknown(), "{event}");
    }
    // In a batch, only those messages fail.
    unknown_events.extend(http_events().map(|(name, _)| event(&name)));
    let count = unknown_events.len();
    unknown_events.push(json!({"draft_id": DRAFT_ID}));
    let outcome = test_env.invoke(&sqs_batch(unknown_events)).await;
    assert_eq!(outcome, failures(0..count));
    assert_eq!(
        test_env.gets_and_puts(),
        (1, 1),
        "the last message is saved"
    );
}

#[tokio::test]
async fn a_failed_record_fails_the_event_after_the_others_are_saved() {
    let test_env = TestEnv::start().await;
    test_env.put_draft("broken", b"{\"tracks\": [");
    test_env.put_draft("good-1", sample_draft());
    test_env.put_draft("good-2", sample_draft());
    let records = s3_notification(["good-1", "broken", "missing", "good-2"].map(draft_key));
    // Of two errors, the one that an operator has to look at is reported.
    let failed = Outcome::from_error("SaveFailed", "Save failed");
    assert_eq!(test_env.invoke(&records).await, failed);
    for id in ["good-1", "good-2"] {
        assert!(test_env.version(id).is_some(), "{id} is saved");
    }

    // A retryable error takes precedence, so that the trigger retries the event.
    let slow = When::op(Op::GetObject).key_starts_with(draft_key("good-2"));
    test_env.s3.fault(slow, Fault::SLOW_DOWN);
    assert_eq!(test_env.invoke(&records).await, unavailable());

    // A record that cannot be parsed.
    test_env.put_draft("good-3", sample_draft());
    let mut records = s3_notification([draft_key("good-3").as_str(), ""]);
    records["Records"][1]["eventName"] = Value::Null;
    assert_eq!(test_env.invoke(&records).await, unknown());
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
    // SNS delivers its notification to SQS without a record around it. At most two messages may be around an event.
    let message_of =
        |message: &Value| json!({"Type": "Notification", "Message": message.to_string()});
    let once = message_of(&event("eventbridge-draft-url"));
    let twice = message_of(&message_of(&event("s3")));
    let batch = sqs_batch([
        json!({"draft_id": "good"}),
        json!({"draft_id": "missing"}),
        json!({"draft_url": "https://example.com/?draft_id=good"}),
        json!({"draft_url": "https://example.com/"}),
        eventbridge_event(&draft_key("slow")),
        s3_notification(["good", "missing"].map(draft_key)),
        json!("not JSON"),
        sns_notification(&eventbridge_event(&draft_key("broken"))),
        sns_notification(&json!({"draft_id": "good"})),
        message_of(&twice),
        twice,
        once,
        event("s3-test-event"),
        event("sns"),
    ]);
    assert_eq!(test_env.invoke(&batch).await, failures([1, 3, 4, 6, 7, 9]));
    for id in ["good", DRAFT_ID] {
        assert!(test_env.version(id).is_some(), "{id} is saved");
    }

    // SQS delivers them again, when some can be saved.
    slow.clear();
    test_env.put_draft("missing", sample_draft());
    test_env.put_draft("broken", sample_draft());
    assert_eq!(test_env.invoke(&batch).await, failures([3, 6, 9]));
    for id in ["slow", "missing", "broken"] {
        assert!(test_env.version(id).is_some(), "{id} is saved");
    }
}

#[tokio::test]
async fn a_draft_is_saved_once_for_all_its_records() {
    let test_env = TestEnv::start().await;
    let ids: Vec<_> = (0..10).map(|number| format!("draft-{number}")).collect();
    for (id, seed) in ids.iter().zip(0..) {
        test_env.put_draft(id, draft_of_size(4096, seed));
    }
    let keys: Vec<_> = (0..1000).map(|n: usize| draft_key(&ids[n % 10])).collect();
    let outcome = test_env.invoke(&s3_notification(&keys)).await;
    assert_eq!(test_env.gets_and_puts(), (10, 10));
    let saves = ids.iter().map(|id| {
        let version = test_env.version(id).expect("a saved version");
        json!({"draft_id": id, "version": version, "saved": "created"})
    });
    let expected = json!({"saves": saves.collect::<Vec<_>>(), "skipped": 0});
    assert_eq!(outcome, Outcome::Response(expected));

    // In a batch, all messages of a draft that is not saved fail.
    test_env.put_draft("draft-3", b"");
    let batch = sqs_batch(keys.iter().map(|key| eventbridge_event(key)));
    let hundred = (0..1000).filter(|number| number % 10 == 3);
    assert_eq!(test_env.invoke(&batch).await, failures(hundred));
    assert_eq!(test_env.gets_and_puts(), (10, 9));
}

#[tokio::test]
async fn events_of_other_objects_are_skipped() {
    let test_env = TestEnv::start().await;
    let key = draft_key(DRAFT_ID);
    let version = test_env.put_dated(DRAFT_ID, &sample_draft());
    let created = ("drafts", "ObjectCreated:Put", "Object Created");
    let events_of = |(bucket, event_name, detail_type): (&str, &str, &str), key: &str| {
        let (mut notification, mut event) = (s3_notification([key]), eventbridge_event(key));
        notification["Records"][0]["s3"]["bucket"]["name"] = json!(bucket);
        notification["Records"][0]["eventName"] = json!(event_name);
        event["detail"]["bucket"]["name"] = json!(bucket);
        event["detail-type"] = json!(detail_type);
        [notification, event]
    };
    for [notification, event] in [
        events_of(
            created,
            "drafts/2025092811473036584258/draft_meta_info.json",
        ),
        events_of(
            created,
            "drafts/2025092811473036584258/a/draft_content.json",
        ),
        events_of(
            created,
            "x/drafts/2025092811473036584258/draft_content.json",
        ),
        events_of(
            created,
            &format!("saved/{DRAFT_ID}/{version}/draft_content.json"),
        ),
        events_of(created, ""),
        events_of(("other", "ObjectCreated:Put", "Object Created"), &key),
        events_of(("drafts", "ObjectRemoved:Delete", "Object Deleted"), &key),
        events_of(("drafts", "ObjectTagging:Put", "Object Tags Added"), &key),
    ] {
        for event in [&notification, &event] {
            let (outcome, lines) = test_env.invoke_logged(event).await;
            assert_eq!(outcome, nothing_saved(1), "{event}");
            assert_eq!(lines[0]["outcome"], "skipped", "{event}");
        }
        let wrapped = [sns_notification(&notification), sns_notification(&event)];
        let batch = sqs_batch(wrapped.into_iter().chain([notification, event]));
        assert_eq!(test_env.invoke(&batch).await, failures([]), "{batch}");
    }
    assert_eq!(test_env.gets_and_puts(), (0, 0), "the store is not used");

    // A draft in the same event is saved.
    let records = s3_notification(["drafts/cover.jpg", &key, "drafts/cover.jpg"]);
    let response = test_env.invoke(&records).await.response();
    assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID);
    assert_eq!(response["skipped"], 2);
}

#[tokio::test]
async fn an_event_of_a_document_that_was_deleted_is_skipped() {
    let test_env = TestEnv::start().await;
    let deleted = "20251126220753b7e35362";
    let key = draft_key(deleted);
    let (records, object_event) = (s3_notification([&key]), eventbridge_event(&key));
    for event in [&records, &object_event, &sns_notification(&records)] {
        let (outcome, lines) = test_env.invoke_logged(event).await;
        assert_eq!(outcome, nothing_saved(1), "{event}");
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["outcome"], "skipped");
        assert_eq!(lines[0]["reason"], "the draft has been deleted");
        assert_eq!(lines[0]["draft_id"], deleted);
        assert!(lines[0].get("NotFound").is_none(), "{}", lines[0]);
    }

    // A message that names the draft itself fails, beside one about its document.
    let named = json!({"draft_id": deleted});
    let mut custom = event("eventbridge-draft-url");
    custom["detail"]["draft_url"] = json!(format!("https://example.com/?draft_id={deleted}"));
    let batch = sqs_batch([records, named, object_event, custom]);
    assert_eq!(test_env.invoke(&batch).await, failures([1, 3]));

    // Other drafts of the event are saved.
    let records = s3_notification([key, draft_key(DRAFT_ID)]);
    let response = test_env.invoke(&records).await.response();
    assert_eq!(response["saves"][0]["draft_id"], DRAFT_ID);
    assert_eq!(response["skipped"], 1);
}

#[tokio::test]
async fn of_many_skipped_records_the_first_ten_are_logged_and_all_are_counted() {
    let test_env = TestEnv::start().await;
    for count in [10, 11, 9_000] {
        let records = s3_notification(vec!["drafts/cover.jpg"; count]);
        // Each of two messages has a part of them.
        let batch = sqs_batch([records.clone(), records.clone()]);
        for (event, total) in [(records, count), (batch, 2 * count)] {
            let (outcome, lines) = test_env.invoke_logged(&event).await;
            outcome.response();
            assert_eq!(lines.len(), total.min(11), "{total} records");
            if let Some(last) = lines.get(10) {
                assert_eq!(last["message"], "more skipped");
                assert_eq!(last["skipped"], total);
            }
        }
    }
}

#[tokio::test]
async fn buckets_and_the_prefix_may_be_configured() {
    let env = [
        ("DRAFT_PREFIX", "my drafts/草稿+/"),
        ("SAVED_BUCKET", "vault"),
    ];
    let test_env = TestEnv::with(&env).await;
    test_env.s3.create_bucket("vault");
    let key = format!("my drafts/草稿+/{DRAFT_ID}/draft_content.json");
    test_env.s3.put(BUCKET, &key, sample_draft());
    let encoded = format!("my+drafts/%E8%8D%89%E7%A8%BF%2B/{DRAFT_ID}/draft_content.json");
    let twice = encoded.replace('%', "%25");
    for (event, is_saved) in [
        // Keys are URL-encoded in notifications.
        (s3_notification([&encoded]), true),
        (
            s3_notification([encoded.replace('+', "%20").to_lowercase()]),
            true,
        ),
        (s3_notification([encoded.replace('/', "%2F")]), true),
        (s3_notification([&twice]), false),
        (s3_notification([&key]), false),
        // EventBridge does not encode them.
        (eventbridge_event(&key), true),
        (eventbridge_event(&encoded), false),
    ] {
        let response = test_env.invoke(&event).await.response();
        let saves = response["saves"].as_array().map(Vec::len);
        assert_eq!(saves, Some(usize::from(is_saved)), "{event}");
    }
    let saved = test_env.s3.keys("vault", "");
    assert_eq!(saved.len(), 1, "{saved:?}");
    assert!(
        saved[0].starts_with(&format!("saved/{DRAFT_ID}/")),
        "{saved:?}"
    );
    assert_eq!(test_env.s3.get("vault", &saved[0]), Some(sample_draft()));
    assert_eq!(test_env.s3.keys(BUCKET, "saved/"), [""; 0]);
}

#[tokio::test]
async fn only_allowed_hosts_may_be_named() {
    let test_env = TestEnv::with(&[("DRAFT_URL_HOSTS", "LOCALHOST, example.com")]).await;
    let url = |host: &str| format!("https://{host}/?draft_id={DRAFT_ID}");
    for (host, status) in [
        ("EXAMPLE.com:8443", 200),
        ("localhost", 200),
        ("example.com@example.org", 400),
        ("example.org", 400),
    ] {
        let response = test_env.invoke(&post_url(url(host))).await.response();
        assert_eq!(response["statusCode"], status, "{host}");
    }
    let invalid = Outcome::from_error("InvalidRequest", "Invalid draft_url format");
    for name in ["direct-url", "eventbridge-draft-url"] {
        assert_eq!(test_env.invoke(&event(name)).await, invalid, "{name}");
    }
    let urls = [DRAFT_URL.to_owned(), url("example.com")];
    let batch = sqs_batch(urls.map(|url| json!({"draft_url": url})));
    assert_eq!(test_env.invoke(&batch).await, failures([0]));
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
    let batch = sqs_batch(ids.iter().map(|id| json!({"draft_id": id})));
    // The start of the process is not part of an invocation.
    test_env.invoke(&json!({})).await;
    let (left, begin) = (Duration::from_secs(4), Instant::now());
    let pending = test_env.function.begin_within(batch.to_string(), left);
    let request_id = pending.request_id.clone();
    let outcome = pending.outcome().await;
    assert!(begin.elapsed() < left, "{:?}", begin.elapsed());
    assert_eq!(outcome, failures((0..20).filter(|&number| number != 5)));
    assert_eq!(test_env.gets_and_puts(), (17, 1), "17 saves were started");
    let lines = test_env.function.logs_for(&request_id).await;
    assert_eq!(lines.len(), 18, "one line for all that were not started");
    assert_eq!(lines[17]["level"], "ERROR");
    assert_eq!(lines[17]["outcome"], "ServiceUnavailable");
    assert_eq!(lines[17]["Unavailable"], 3);

    stall.clear();
    assert_eq!(test_env.invoke(&batch).await, failures([]));
    assert!(ids.iter().all(|id| test_env.version(id).is_some()));
}
