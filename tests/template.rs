//! Checks the names and texts that `template.yaml` and `docs/openapi.yaml` share with the code.
//! `tests/deployed` checks how the deployed stack behaves.

use std::collections::{BTreeMap, BTreeSet};

use save_draft::draft::keys::{COPIES, DocumentName, MANIFEST, VERSIONS};
use save_draft::error::Error;
use serde_json::{Value, json};
use test_support::fixtures::read_yaml;

use crate::common;
use crate::telemetry::{DIMENSION, METRICS, NAMESPACE};

/// Path of the documented URL.
const PATH: &str = "/openapi/capcut-mate/v1/save_draft";

fn template() -> Value {
    read_yaml("template.yaml")
}

/// Returns the properties of a resource, which must exist.
fn properties<'a>(template: &'a Value, resource: &str) -> &'a Value {
    let properties = &template["Resources"][resource]["Properties"];
    assert!(
        properties.is_object(),
        "template.yaml has no resource {resource}"
    );
    properties
}

fn keys(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

/// Returns the resources of the policy statement with the given `Sid`, without their buckets.
fn resources_of(statements: &Value, sid: &str) -> BTreeSet<String> {
    /// Adds the texts of nested lists: `!Sub` is a text, or a list of a text and its variables.
    fn add(resource: &Value, found: &mut BTreeSet<String>) {
        match resource {
            Value::String(arn) => {
                let (_, key) = arn.split_once('/').unwrap_or_default();
                found.insert(key.to_owned());
            }
            Value::Array(list) => list.iter().for_each(|resource| add(resource, found)),
            _ => {}
        }
    }
    let statements = statements.as_array().unwrap();
    let statement = statements.iter().find(|statement| statement["Sid"] == sid);
    let statement = statement.unwrap_or_else(|| panic!("no statement {sid}"));
    let mut found = BTreeSet::new();
    add(&statement["Resource"], &mut found);
    found
}

/// Returns `pattern` for each name that a document may have.
fn documents(pattern: &str) -> BTreeSet<String> {
    let names = DocumentName::ALL.map(DocumentName::as_str);
    names.map(|name| format!("{pattern}{name}")).into()
}

#[test]
fn the_function_gets_the_variables_that_it_reads() {
    let template = template();
    let given = keys(&properties(&template, "SaveDraft")["Environment"]["Variables"]);

    let mut read = common::variables();
    // The AWS SDK reads it.
    read.insert("AWS_ENDPOINT_URL_S3");
    assert_eq!(given, read);

    // SAM CLI ignores variables that the template does not define.
    let local = read_yaml("events/env.json");
    assert!(keys(&local["SaveDraft"]).is_subset(&given));

    let maximum = &template["Parameters"]["MaxDraftBytes"]["Default"];
    assert_eq!(
        maximum,
        common::config("drafts", &[]).storage.max_draft_bytes
    );
}

#[test]
fn policies_and_rules_have_the_functions_keys() {
    let template = template();
    let drafts = documents("${DraftPrefix}*/");
    let versions = documents(&format!("{VERSIONS}*/*/"));
    let manifests = format!("{VERSIONS}*/*/{MANIFEST}");
    let copies = format!("{COPIES}*");

    let policies = properties(&template, "Role")["Policies"]
        .as_array()
        .unwrap();
    let role = &policies[0]["PolicyDocument"]["Statement"];
    assert_eq!(resources_of(role, "ReadDrafts"), drafts);
    assert_eq!(resources_of(role, "CreateVersions"), versions);
    // `!If [SavesFiles, …]`
    let files = &policies[1][1]["PolicyDocument"]["Statement"];
    let read = BTreeSet::from([copies.clone(), manifests.clone()]);
    assert_eq!(resources_of(files, "ReadCopiesAndManifests"), read);
    assert_eq!(resources_of(files, "CreateCopies"), [copies.clone()].into());
    assert_eq!(resources_of(files, "CreateManifests"), [manifests].into());

    let policy = &properties(&template, "BucketPolicy")["PolicyDocument"]["Statement"];
    let protected = BTreeSet::from([copies, format!("{VERSIONS}*")]);
    for sid in [
        "DenyOverwritesOfVersions",
        "DenyImportsOfVersions",
        "DenyDeletesOfVersions",
    ] {
        assert_eq!(resources_of(policy, sid), protected, "{sid}");
    }

    let rule = &properties(&template, "AutosaveRule")["EventPattern"]["detail"]["object"]["key"];
    let wildcards = rule.as_array().unwrap().iter();
    let wildcards = wildcards.map(|key| key["wildcard"].as_str().unwrap().to_owned());
    assert_eq!(wildcards.collect::<BTreeSet<_>>(), drafts);
}

#[test]
fn the_autosave_queue_hides_a_message_for_six_timeouts() {
    let template = template();
    let timeouts = template["Parameters"]["Timeout"]["AllowedValues"].as_array();
    let timeouts = timeouts
        .unwrap()
        .iter()
        .map(|timeout| timeout.as_u64().unwrap());
    let window = properties(&template, "AutosaveSource")["MaximumBatchingWindowInSeconds"].as_u64();
    let expected: BTreeMap<_, _> = timeouts
        .map(|timeout| (timeout.to_string(), 6 * timeout + window.unwrap()))
        .collect();
    let mapped = &template["Mappings"]["AutosaveQueue"]["VisibilityTimeoutOf"];
    assert_eq!(*mapped, json!(expected));
}

#[test]
fn the_api_has_the_documented_path_and_texts() {
    let template = template();
    let document = read_yaml("docs/openapi.yaml");
    assert_eq!(keys(&document["paths"]), BTreeSet::from([PATH]));
    let documented = &document["paths"][PATH]["post"]["responses"];
    let content = |status: &str| &documented[status]["content"]["application/json"];

    let unavailable = Error::unavailable("");
    let missing = Error::draft_not_found("");
    let failed = Error::save_failed("");
    let unknown_path = &content("404")["examples"]["path"]["value"];
    let examples = &content("404")["examples"];
    assert_eq!(examples["draft"]["value"]["detail"], missing.detail());
    assert_eq!(content("500")["example"]["detail"], failed.detail());
    assert_eq!(content("503")["example"]["detail"], unavailable.detail());

    let api = properties(&template, "Api");
    let stage = api["StageName"].as_str().unwrap();
    for path in keys(&api["DefinitionBody"]["paths"]) {
        assert_eq!(format!("/{stage}{path}"), PATH);
    }
    let responses = &api["DefinitionBody"]["x-amazon-apigateway-gateway-responses"];
    let body = |response: &Value| -> Value {
        let text = response["responseTemplates"]["application/json"].as_str();
        serde_json::from_str(text.unwrap()).unwrap()
    };
    assert_eq!(
        body(&responses["DEFAULT_5XX"]),
        content("503")["example"],
        "DEFAULT_5XX"
    );
    // `!If [RequiresIam, NoValue, …]`
    assert_eq!(
        body(&responses["MISSING_AUTHENTICATION_TOKEN"][2]),
        *unknown_path
    );
}

#[test]
fn alarms_and_dashboard_show_the_metrics_that_are_written() {
    let template = template();
    let written: BTreeSet<_> = METRICS.map(|(name, _)| name).into();
    let resources = template["Resources"].as_object().unwrap();
    for (name, resource) in resources {
        let alarm = &resource["Properties"];
        if resource["Type"] == "AWS::CloudWatch::Alarm" && alarm["Namespace"] == NAMESPACE {
            let metric = alarm["MetricName"].as_str().unwrap();
            assert!(written.contains(metric), "{name} watches {metric}");
            assert_eq!(alarm["Dimensions"][0]["Name"], DIMENSION, "{name}");
        }
    }

    let body = properties(&template, "Dashboard")["DashboardBody"].as_str();
    let body: Value = serde_json::from_str(body.unwrap()).unwrap();
    let mut shown = BTreeSet::new();
    for widget in body["widgets"].as_array().unwrap() {
        // "." repeats the value of the metric before, "..." all of them.
        let mut metric = Vec::new();
        for line in widget["properties"]["metrics"].as_array().unwrap() {
            let values: Vec<_> = line
                .as_array()
                .unwrap()
                .iter()
                .map_while(Value::as_str)
                .collect();
            if values != ["..."] {
                let values = values.iter().enumerate();
                metric = values
                    .map(|(index, value)| if *value == "." { metric[index] } else { *value })
                    .collect();
            }
            if metric[0] == NAMESPACE {
                assert_eq!(metric[2], DIMENSION, "{line}");
                shown.insert(metric[1]);
            }
        }
    }
    assert_eq!(shown, written);
}
