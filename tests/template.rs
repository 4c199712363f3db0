//! `template.yaml` and `docs/openapi.yaml`, held against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use save_draft::config::{
    DEFAULT_DRAFT_KEY, DEFAULT_MAX_DRAFT_BYTES, DEFAULT_SAVED_KEY, VARIABLES,
};
use save_draft::error::Error;
use save_draft::telemetry::{DIMENSION, METRICS, NAMESPACE};
use serde_json::{Value, json};

/// The path of the documented URL.
const PATH: &str = "/openapi/capcut-mate/v1/save_draft";

/// A YAML file of the repository. Tags are dropped: `!Ref X` is "X", `!If [C, A, B]` a list.
fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn template() -> Value {
    yaml("template.yaml")
}

fn properties<'a>(template: &'a Value, resource: &str) -> &'a Value {
    let properties = &template["Resources"][resource]["Properties"];
    assert!(properties.is_object(), "there is a {resource}");
    properties
}

fn resources<'a>(template: &'a Value, kind: &str) -> Vec<(&'a str, &'a Value)> {
    let all = template["Resources"].as_object().unwrap().iter();
    all.filter(|(_, resource)| resource["Type"] == kind)
        .map(|(name, resource)| (name.as_str(), &resource["Properties"]))
        .collect()
}

fn keys(object: &Value) -> BTreeSet<&str> {
    object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// The text or the texts that a policy has at one place.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
        _ => panic!("{value} is neither a text nor a list"),
    }
}

/// The statements of the function's role, those of a condition along with the others.
fn statements(template: &Value) -> Vec<&Value> {
    let policies = properties(template, "Role")["Policies"].as_array().unwrap();
    assert_eq!(policies.len(), 1);
    let statements = policies[0]["PolicyDocument"]["Statement"]
        .as_array()
        .unwrap();
    statements
        .iter()
        .map(|statement| match statement {
            Value::Array(choice) => {
                assert_eq!(choice[2], "AWS::NoValue", "{statement}");
                &choice[1]
            }
            _ => statement,
        })
        .collect()
}

/// A key's template as the pattern of a policy or an event rule.
fn pattern(key: &str) -> String {
    key.replace("{draft_id}", "*").replace("{version}", "*")
}

/// What all keys of a template begin with.
fn prefix(key: &str) -> &str {
    key.split('{').next().unwrap()
}

#[test]
fn the_function_gets_the_variables_that_it_reads() {
    let template = template();
    let function = properties(&template, "SaveDraft");
    let given = keys(&function["Environment"]["Variables"]);

    let mut read = VARIABLES.iter().copied().collect::<BTreeSet<_>>();
    // The SDK reads it.
    read.insert("AWS_ENDPOINT_URL_S3");
    // The policies are made for their defaults.
    for fixed in ["DRAFT_KEY", "SAVED_KEY", "SAVED_BUCKET"] {
        assert!(read.remove(fixed), "{fixed} is read");
    }
    assert_eq!(given, read);

    // `sam local` passes on no other.
    let local = yaml("events/env.json");
    assert!(keys(&local["SaveDraft"]).is_subset(&given));

    let most = &template["Parameters"]["MaxDraftBytes"]["Default"];
    assert_eq!(most, DEFAULT_MAX_DRAFT_BYTES);
}

#[test]
fn the_role_allows_what_a_save_needs_and_no_more() {
    let template = template();
    let mut s3 = BTreeMap::new();
    for statement in statements(&template) {
        assert_eq!(statement["Effect"], "Allow");
        for action in texts(&statement["Action"]) {
            assert!(!action.contains('*'), "{action}");
            let (service, name) = action.split_once(':').unwrap();
            if service == "s3" {
                s3.insert(name, statement);
            } else {
                assert!(!name.starts_with("Delete") || service == "sqs", "{action}");
            }
            if statement["Resource"] == "*" {
                assert_eq!(service, "xray", "{action} is for one resource");
            }
        }
    }

    let bucket = json!({"Name": ["MakeBucket", "Bucket", "ExistingBucket"]});
    let in_bucket = |path: &str| {
        json!([
            format!("arn:${{AWS::Partition}}:s3:::${{Name}}{path}"),
            bucket
        ])
    };
    assert_eq!(
        keys(&json!(s3)),
        BTreeSet::from(["GetObject", "ListBucket", "PutObject"])
    );
    let read = in_bucket(&format!("/{}", pattern(DEFAULT_DRAFT_KEY)));
    assert_eq!(s3["GetObject"]["Resource"], read);
    let write = in_bucket(&format!("/{}", pattern(DEFAULT_SAVED_KEY)));
    assert_eq!(s3["PutObject"]["Resource"], write);
    assert_eq!(s3["ListBucket"]["Resource"], in_bucket(""));
    let drafts = format!("{}*", prefix(DEFAULT_DRAFT_KEY));
    let condition = json!({"StringLike": {"s3:prefix": drafts}});
    assert_eq!(s3["ListBucket"]["Condition"], condition);
}

#[test]
fn the_bucket_refuses_unconditional_writes_of_versions_and_plain_http() {
    let template = template();
    let policy = &properties(&template, "BucketPolicy")["PolicyDocument"]["Statement"];
    let saved = format!("${{Bucket.Arn}}/{}*", prefix(DEFAULT_SAVED_KEY));
    assert_eq!(
        *policy,
        json!([
            {
                "Sid": "DenyInsecureTransport",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": ["Bucket.Arn", "${Bucket.Arn}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}}
            },
            {
                "Sid": "DenyUnconditionalWritesOfVersions",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:PutObject",
                "Resource": saved,
                "Condition": {"Null": {"s3:if-none-match": "true"}}
            }
        ])
    );
    for kept in ["Bucket", "BucketPolicy"] {
        let resource = &template["Resources"][kept];
        assert_eq!(resource["DeletionPolicy"], "Retain");
        assert_eq!(resource["UpdateReplacePolicy"], "Retain");
    }
}

#[test]
fn autosave_reports_what_failed_and_waits_for_what_is_under_way() {
    let template = template();
    let sources = resources(&template, "AWS::Lambda::EventSourceMapping");
    assert_eq!(sources.len(), 1);
    let (_, source) = sources[0];
    assert_eq!(
        source["FunctionResponseTypes"],
        json!(["ReportBatchItemFailures"])
    );

    // "Using Lambda with Amazon SQS" (AWS Lambda Developer Guide): at least six times the
    // function's timeout, and the batching window.
    let queue = properties(&template, "AutosaveQueue");
    let timeout = template["Parameters"]["Timeout"]["MaxValue"]
        .as_u64()
        .unwrap();
    let window = source["MaximumBatchingWindowInSeconds"].as_u64().unwrap();
    let visibility = queue["VisibilityTimeout"].as_u64().unwrap();
    assert!(visibility >= 6 * timeout + window, "{visibility} s");
    assert_eq!(
        queue["RedrivePolicy"]["deadLetterTargetArn"],
        "AutosaveDeadLetters.Arn"
    );

    let rule = &properties(&template, "AutosaveRule")["EventPattern"]["detail"];
    let key = json!([{"wildcard": pattern(DEFAULT_DRAFT_KEY)}]);
    assert_eq!(rule["object"]["key"], key);
}

#[test]
fn the_gateway_answers_as_the_function_does() {
    let template = template();
    let api = properties(&template, "Api");
    let answers = api["GatewayResponses"].as_object().unwrap();
    let detail = |kind: &str| -> String {
        let body = answers[kind]["ResponseTemplates"]["application/json"]
            .as_str()
            .unwrap();
        let body: BTreeMap<String, String> = serde_json::from_str(body).unwrap();
        assert_eq!(body.keys().collect::<Vec<_>>(), ["detail"], "{kind}");
        body["detail"].clone()
    };
    for kind in answers.keys() {
        assert!(!detail(kind).is_empty(), "{kind}");
    }

    let unavailable = Error::unavailable("");
    let failed = Error::save_failed("");
    for (kind, status, text, retry) in [
        ("MISSING_AUTHENTICATION_TOKEN", 404, "Not Found", false),
        ("RESOURCE_NOT_FOUND", 404, "Not Found", false),
        ("REQUEST_TOO_LARGE", 413, "Request Too Long", false),
        ("THROTTLED", 429, "Too Many Requests", true),
        ("QUOTA_EXCEEDED", 429, "Too Many Requests", false),
        ("API_CONFIGURATION_ERROR", 500, failed.detail(), false),
        ("INTEGRATION_FAILURE", 503, unavailable.detail(), true),
        ("INTEGRATION_TIMEOUT", 503, unavailable.detail(), true),
        ("DEFAULT_5XX", 503, unavailable.detail(), true),
    ] {
        assert_eq!(answers[kind]["StatusCode"], status, "{kind}");
        assert_eq!(detail(kind), text, "{kind}");
        let after = &answers[kind]["ResponseParameters"]["Headers"]["Retry-After"];
        let wanted = if retry { json!("'1'") } else { Value::Null };
        assert_eq!(*after, wanted, "{kind}");
    }
    // They would set the status of every type that has none of its own.
    assert_eq!(answers["DEFAULT_4XX"]["StatusCode"], Value::Null);

    let paths = api["DefinitionBody"]["paths"].as_object().unwrap();
    let stage = api["StageName"].as_str().unwrap();
    let urls: Vec<_> = paths.keys().map(|path| format!("/{stage}{path}")).collect();
    assert_eq!(urls, [PATH]);
    // Lambda has to be done first.
    let wait = &paths.values().next().unwrap()["x-amazon-apigateway-any-method"];
    let wait = &wait["x-amazon-apigateway-integration"]["timeoutInMillis"];
    let timeout = template["Parameters"]["Timeout"]["MaxValue"]
        .as_u64()
        .unwrap();
    assert!(wait.as_u64().unwrap() > timeout * 1000);
}

#[test]
fn alarms_and_dashboard_show_the_metrics_that_are_written() {
    let template = template();
    let metrics = METRICS.iter().copied().collect::<BTreeSet<_>>();
    for (name, alarm) in resources(&template, "AWS::CloudWatch::Alarm") {
        if alarm["Namespace"] == NAMESPACE {
            assert!(
                metrics.contains(alarm["MetricName"].as_str().unwrap()),
                "{name}"
            );
            let dimensions = json!([{"Name": DIMENSION, "Value": "SaveDraft"}]);
            assert_eq!(alarm["Dimensions"], dimensions, "{name}");
        }
        for actions in ["AlarmActions", "OKActions"] {
            let topic = json!(["HasAlarmTopic", ["AlarmTopicArn"], "AWS::NoValue"]);
            assert_eq!(alarm[actions], topic, "{name}");
        }
    }

    let body = properties(&template, "Dashboard")["DashboardBody"]
        .as_str()
        .unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let widgets = body["widgets"].as_array().unwrap().iter();
    let lines = widgets.flat_map(|widget| widget["properties"]["metrics"].as_array().unwrap());
    let mut shown = BTreeSet::new();
    for line in lines.filter(|line| line[0] == NAMESPACE) {
        assert_eq!(
            (&line[2], &line[3]),
            (&json!(DIMENSION), &json!("${SaveDraft}"))
        );
        shown.insert(line[1].as_str().unwrap());
    }
    assert_eq!(shown, metrics);
}

#[test]
fn the_openapi_document_has_the_path_and_the_texts() {
    let document = yaml("docs/openapi.yaml");
    assert_eq!(keys(&document["paths"]), BTreeSet::from([PATH]));
    let answers = &document["paths"][PATH]["post"]["responses"];
    let detail = |status: &str| {
        let content = &answers[status]["content"]["application/json"];
        content["example"]["detail"].as_str().unwrap().to_owned()
    };
    assert_eq!(detail("500"), Error::save_failed("").detail());
    assert_eq!(detail("503"), Error::unavailable("").detail());
    let missing = &answers["404"]["content"]["application/json"]["examples"]["draft"];
    assert_eq!(
        missing["value"]["detail"],
        Error::draft_not_found("").detail()
    );
}
