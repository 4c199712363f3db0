//! Checks the variables and texts that `template.yaml` shares with the code and with `docs/openapi.yaml`.
//! `tests/deployed` checks how the deployed stack behaves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use test_support::fixtures::read_yaml;

use crate::common;

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
    let config = common::config("drafts", &[]);
    assert_eq!(*maximum, config.max_draft_bytes);
}

#[test]
fn the_autosave_queue_hides_a_message_for_six_timeouts() {
    let template = template();
    let source = properties(&template, "AutosaveSource");
    let window = source["MaximumBatchingWindowInSeconds"].as_u64().unwrap();
    let timeouts = &template["Parameters"]["Timeout"]["AllowedValues"];
    let timeouts = timeouts.as_array().unwrap().iter();
    let timeouts = timeouts.map(|timeout| timeout.as_u64().unwrap());
    let expected: BTreeMap<_, _> = timeouts
        .map(|timeout| (timeout.to_string(), 6 * timeout + window))
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
    assert_eq!(body(&responses["DEFAULT_5XX"]), content("503")["example"]);
    // `!If [RequiresIam, NoValue, …]`
    let unknown_path = body(&responses["MISSING_AUTHENTICATION_TOKEN"][2]);
    assert_eq!(unknown_path, content("404")["examples"]["path"]["value"]);
}
