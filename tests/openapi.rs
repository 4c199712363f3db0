//! Checks that the OpenAPI documents describe the responses of the function, and that importers accept them.

use std::collections::BTreeSet;

use serde_json::Value;
use test_support::fixtures::{DRAFT_ID, method_mut, post, post_id, post_url, read_yaml};

use crate::common::TestEnv;

const OPENAPI: &str = "docs/openapi.yaml";
const OPENAPI_CODE: &str = "docs/openapi-code.yaml";

/// Returns the only operation of an OpenAPI document.
fn operation(document: &Value) -> &Value {
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 1);
    &paths.values().next().unwrap()["post"]
}

/// Returns the status and the example bodies of each response in an OpenAPI document.
fn examples(document: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let responses = operation(document)["responses"].as_object().unwrap();
    responses.iter().flat_map(|(status, response)| {
        let content = &response["content"]["application/json"];
        let examples = content["examples"].as_object().into_iter().flatten();
        let examples = examples.map(|(_, example)| &example["value"]);
        let examples = examples.chain(content.get("example"));
        examples.map(|example| (status.as_str(), example))
    })
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Returns the status and the body of the responses of a function with these variables to a request for each documented
/// error.
async fn responses_of_errors(env: &[(&str, &str)]) -> Vec<(String, Value)> {
    let test_env = TestEnv::with(env).await;
    test_env.put_draft("damaged", "{");
    let mut get = post_id(DRAFT_ID);
    *method_mut(&mut get) = "GET".into();
    let mut other_path = post_id(DRAFT_ID);
    other_path["rawPath"] = "/capcut-mate/v1/create_draft".into();
    let maintenance = [env, &[("MAINTENANCE", "true")]].concat();
    let in_maintenance = TestEnv::with(&maintenance).await;

    let mut responses = Vec::new();
    for (test_env, event) in [
        (&test_env, post("")),
        (&test_env, post("[]")),
        (&test_env, post_url(5)),
        (&test_env, post_url("https://example.com/")),
        (&test_env, post_id("missing")),
        (&test_env, other_path),
        (&test_env, get),
        (&test_env, post_id("damaged")),
        (&in_maintenance, post_id(DRAFT_ID)),
    ] {
        let response = test_env.invoke(&event).await.response();
        let body = serde_json::from_str(response["body"].as_str().unwrap());
        responses.push((response["statusCode"].to_string(), body.unwrap()));
    }
    responses
}

#[tokio::test]
async fn the_function_returns_the_documented_errors() {
    let responses = responses_of_errors(&[]).await.into_iter();
    let errors = responses.map(|(status, body)| (status, text(&body["detail"])));
    let document = read_yaml(OPENAPI);
    // Without the errors of the gateway.
    let documented = examples(&document)
        .filter(|(status, _)| !["200", "403", "413", "429"].contains(status))
        .map(|(status, body)| (status.to_owned(), text(&body["detail"])));
    let documented: BTreeSet<_> = documented.collect();
    assert_eq!(errors.collect::<BTreeSet<_>>(), documented, "{OPENAPI}");

    let mut errors = BTreeSet::new();
    for (status, body) in responses_of_errors(&[("RESPONSE_FORMAT", "code")]).await {
        assert_eq!(status, "200", "{body}");
        errors.insert(body.to_string());
    }
    let document = read_yaml(OPENAPI_CODE);
    let documented = examples(&document)
        .filter(|(status, body)| *status == "200" && body["code"] != 0)
        .map(|(_, body)| body.to_string());
    let documented: BTreeSet<_> = documented.collect();
    assert_eq!(errors, documented, "{OPENAPI_CODE}");
}

/// Coze Studio checks a document with `Openapi3T.Validate` in `backend/crossdomain/plugin/model/openapi.go`.
#[test]
fn coze_studio_accepts_the_document_of_the_format_code() {
    let document = read_yaml(OPENAPI_CODE);
    for field in ["title", "description"] {
        assert!(!text(&document["info"][field]).is_empty(), "info.{field}");
    }
    let servers = document["servers"].as_array().expect("servers");
    assert_eq!(servers.len(), 1, "one server");
    let server = text(&servers[0]["url"]);
    assert!(server.starts_with("https://") && server.len() <= 512);

    let operation = operation(&document);
    for field in ["operationId", "summary"] {
        assert!(!text(&operation[field]).is_empty(), "{field}");
    }
    assert!(operation.get("parameters").is_none());
    let responses = operation["responses"].as_object().expect("responses");
    assert_eq!(responses.keys().collect::<Vec<_>>(), ["200", "default"]);
    for content in [
        &operation["requestBody"]["content"],
        &responses["200"]["content"],
    ] {
        let types = content.as_object().expect("media types");
        assert_eq!(types.keys().collect::<Vec<_>>(), ["application/json"]);
        let reference = text(&types["application/json"]["schema"]["$ref"]);
        let schema = document.pointer(reference.trim_start_matches('#'));
        assert_eq!(schema.expect("a schema")["type"], "object");
    }

    // Both formats have the same requests.
    let other = read_yaml(OPENAPI);
    let request = |document: &Value| document["components"]["schemas"]["SaveDraftRequest"].clone();
    assert_eq!(request(&document), request(&other));
}
