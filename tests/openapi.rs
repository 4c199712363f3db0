//! Checks that the OpenAPI documents describe the responses of the function, and that importers accept them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use test_support::fixtures::{DRAFT_ID, post, post_id, post_url, read_yaml};

use crate::common::TestEnv;

const OPENAPI: &str = "docs/openapi.yaml";
const OPENAPI_CODE: &str = "docs/openapi-code.yaml";

/// Returns an OpenAPI document with its references resolved.
fn openapi(path: &str) -> Value {
    fn resolve(value: &mut Value, document: &Value) {
        while let Some(reference) = value["$ref"].as_str() {
            let target = document.pointer(reference.trim_start_matches('#'));
            *value = target.expect(reference).clone();
        }
        if let Some(fields) = value.as_object_mut() {
            for field in fields.values_mut() {
                resolve(field, document);
            }
        }
    }
    let document = read_yaml(path);
    let mut resolved = document.clone();
    resolve(&mut resolved, &document);
    resolved
}

/// Returns the only operation of an OpenAPI document.
fn operation(document: &Value) -> &Value {
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 1);
    &paths.values().next().unwrap()["post"]
}

/// Returns the example bodies of a response.
fn examples(response: &Value) -> Vec<&Value> {
    let content = &response["content"]["application/json"];
    let examples = content["examples"].as_object().into_iter().flatten();
    let examples = examples.map(|(_, example)| &example["value"]);
    examples.chain(content.get("example")).collect()
}

/// Returns the status and the detail of each error in the OpenAPI document.
fn documented_errors() -> BTreeSet<(String, String)> {
    let document = openapi(OPENAPI);
    let responses = operation(&document)["responses"].as_object().unwrap();
    let errors = responses.iter().flat_map(|(status, response)| {
        let details = examples(response).into_iter();
        let details = details.filter_map(|example| example["detail"].as_str());
        details
            .map(|detail| (status.clone(), detail.to_owned()))
            .collect::<Vec<_>>()
    });
    errors.collect()
}

/// Returns the code and the message of each error in the OpenAPI document of the format `code`.
fn documented_codes() -> BTreeSet<(String, String)> {
    let document = openapi(OPENAPI_CODE);
    let errors = examples(&operation(&document)["responses"]["200"]).into_iter();
    let errors = errors.filter(|example| example["code"] != 0);
    errors
        .map(|example| (example["code"].to_string(), text(&example["message"])))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Returns the responses of a function with these variables to a request for each documented error.
async fn responses_of_errors(env: &[(&str, &str)]) -> Vec<Value> {
    let test_env = TestEnv::with(env).await;
    test_env.put_draft("damaged", "{");
    let mut get = post_id(DRAFT_ID);
    get["requestContext"]["http"]["method"] = "GET".into();
    let mut other_path = post_id(DRAFT_ID);
    other_path["rawPath"] = "/capcut-mate/v1/create_draft".into();
    let maintenance = [env, &[("MAINTENANCE", "true")]].concat();
    let in_maintenance = TestEnv::with(&maintenance).await;

    let mut responses = Vec::new();
    for (test_env, event) in [
        (&test_env, post("")),
        (&test_env, post("{}")),
        (&test_env, post_url("")),
        (&test_env, post("[]")),
        (&test_env, post_url(5)),
        (&test_env, post_url("https://example.com/")),
        (&test_env, post_id("missing")),
        (&test_env, other_path),
        (&test_env, get),
        (&test_env, post_id("damaged")),
        (&in_maintenance, post_id(DRAFT_ID)),
    ] {
        let mut response = test_env.function.invoke(&event).await.response();
        response["body"] = serde_json::from_str(response["body"].as_str().unwrap()).unwrap();
        responses.push(response);
    }
    responses
}

#[tokio::test]
async fn the_function_returns_the_documented_errors() {
    let responses = responses_of_errors(&[]).await.into_iter();
    let errors: BTreeSet<_> = responses
        .map(|response| {
            (
                response["statusCode"].to_string(),
                text(&response["body"]["detail"]),
            )
        })
        .collect();
    let mut documented = documented_errors();
    // Errors of the gateway.
    documented.retain(|(status, _)| !["403", "413", "429"].contains(&status.as_str()));
    assert_eq!(errors, documented, "{OPENAPI}");

    let mut errors = BTreeSet::new();
    for response in responses_of_errors(&[("RESPONSE_FORMAT", "code")]).await {
        let body = &response["body"];
        assert_eq!(response["statusCode"], 200, "{body}");
        assert_eq!(body.as_object().map(Map::len), Some(2), "{body}");
        errors.insert((body["code"].to_string(), text(&body["message"])));
    }
    assert_eq!(errors, documented_codes(), "{OPENAPI_CODE}");
}

/// Coze Studio checks a document with `Openapi3T.Validate` in `backend/crossdomain/plugin/model/openapi.go`.
#[test]
fn coze_studio_accepts_the_document_of_the_format_code() {
    let document = openapi(OPENAPI_CODE);
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
        assert_eq!(types["application/json"]["schema"]["type"], "object");
    }

    // Both formats have the same requests.
    let other = openapi(OPENAPI);
    let schema = "/requestBody/content/application~1json/schema";
    assert_eq!(
        operation.pointer(schema),
        self::operation(&other).pointer(schema)
    );
}
