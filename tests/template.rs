//! Checks the names and texts that `template.yaml` and `docs/openapi.yaml` share with the code.
//! `tests/deployed` checks how the deployed stack behaves.

use std::collections::BTreeSet;

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

/// Returns the first resource ARN of the policy statement with the given `Sid`.
fn resource_of(statements: &Value, sid: &str) -> String {
    let statements = statements.as_array().unwrap();
    let statement = statements.iter().find(|statement| statement["Sid"] == sid);
    let resource = &statement.unwrap_or_else(|| panic!("no statement {sid}"))["Resource"];
    // A list of ARNs, or of the text and the variables of `!Sub`.
    let text = resource[0].as_str();
    let text = text.unwrap_or_else(|| panic!("{sid} has no resource: {resource}"));
    text.to_owned()
}

#[test]
fn the_function_gets_the_variables_that_it_reads() {
    let template = template();
    let given = keys(&properties(&template, "SaveDraft")["Environment"]["Variables"]);

    let mut read = common::variables();
    // The AWS SDK reads it.
    read.insert("AWS_ENDPOINT_URL_S3");
    // The template's policies have their defaults.
    for fixed in ["DRAFT_PREFIX", "SAVED_BUCKET"] {
        assert!(read.remove(fixed), "the function no longer reads {fixed}");
    }
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
    let role = &properties(&template, "Role")["Policies"][0]["PolicyDocument"]["Statement"];
    let read = resource_of(role, "ReadDrafts");
    assert!(read.ends_with(&format!("/{}", "drafts/*/draft_content.json")));
    let create = resource_of(role, "CreateVersions");
    assert!(create.ends_with(&format!("/{}", "saved/*/*/draft_content.json")));

    let policy = &properties(&template, "BucketPolicy")["PolicyDocument"]["Statement"];
    for sid in ["DenyOverwritesOfVersions", "DenyDeletesOfVersions"] {
        let resource = resource_of(policy, sid);
        assert!(resource.ends_with(&format!("/{}*", "saved/")));
    }

    let rule = &properties(&template, "AutosaveRule")["EventPattern"]["detail"]["object"]["key"];
    assert_eq!(*rule, json!([{"wildcard": "drafts/*/draft_content.json"}]));
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
    let widgets = body["widgets"].as_array().unwrap().iter();
    let lines = widgets.flat_map(|widget| widget["properties"]["metrics"].as_array().unwrap());
    let mut shown = BTreeSet::new();
    for line in lines.filter(|line| line[0] == NAMESPACE) {
        assert_eq!(line[2], DIMENSION, "{line}");
        shown.insert(line[1].as_str().unwrap());
    }
    assert_eq!(shown, written);
}
