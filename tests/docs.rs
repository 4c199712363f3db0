//! Checks that the documentation names what the code has. The commands that it shows are run by `local/tests`.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use test_support::fixtures::{
    DRAFT_ID, event_names, in_repository, post, post_id, post_url, read_yaml,
};

use crate::common::{self, TestEnv};

fn read(path: &str) -> String {
    let text = fs::read_to_string(in_repository(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn pages_name_variables_parameters_outputs_and_events() {
    let operations = read("docs/operations.md");
    let template = read_yaml("template.yaml");
    let parameters = template["Parameters"].as_object().unwrap().keys();
    let names = parameters.map(String::as_str).chain(common::variables());
    for name in names {
        let is_named = operations.contains(&format!("`{name}`"));
        assert!(is_named, "docs/operations.md does not name {name}");
    }
    let readme = read("README.md");
    for name in event_names() {
        let is_linked = readme.contains(&format!("(events/{name}.json)"));
        assert!(is_linked, "README.md does not link events/{name}.json");
    }
    for path in ["docs/operations.md", "docs/api.md", "README.md"] {
        let text = read(path);
        let used = text.split("$(output ").skip(1);
        for rest in used.chain(text.split("OutputKey=='").skip(1)) {
            let name = rest.chars().take_while(char::is_ascii_alphanumeric);
            let name: String = name.collect();
            // `$1` is the parameter of a shell function.
            let exists = rest.starts_with("$1") || template["Outputs"][&name].is_object();
            assert!(exists, "{path}: template.yaml has no output {name:?}");
        }
    }
}

/// In a column with the heading "tests", `module::test` is a test, `module` is a file or a folder of `tests/`,
/// `module::tests` are the unit tests of a module of `src/`, and `local::…` is below `local/tests/`.
#[test]
fn pages_name_existing_tests() {
    let source = |path: &str| {
        let paths = [format!("{path}.rs"), format!("{path}/mod.rs")];
        let mut paths = paths.iter().map(in_repository);
        paths.find_map(|path| fs::read_to_string(path).ok())
    };
    let has = |path: String, text: &str| source(&path).is_some_and(|it| it.contains(text));
    let exists = |name: &str| {
        let path = name.replace("::", "/");
        if let Some((module, test)) = path
            .strip_prefix("local/")
            .and_then(|it| it.rsplit_once('/'))
        {
            return has(format!("local/tests/{module}"), &format!("fn {test}("));
        }
        match path.rsplit_once('/') {
            None => {
                source(&format!("tests/{path}")).is_some()
                    || in_repository("tests").join(path).is_dir()
            }
            Some((module, "tests")) => has(format!("src/{module}"), "mod tests {"),
            Some((module, test)) => has(format!("tests/{module}"), &format!("fn {test}(")),
        }
    };
    for path in ["docs/reliability.md", "docs/threat-model.md"] {
        let mut is_table_of_tests = false;
        for line in read(path).lines() {
            is_table_of_tests &= line.starts_with('|');
            if is_table_of_tests {
                let cell = line.trim_end_matches([' ', '|']).rsplit(" | ").next();
                let names = cell.unwrap_or_default().split('`').skip(1).step_by(2);
                for name in names {
                    assert!(exists(name), "{path}: there is no test {name}");
                }
            }
            is_table_of_tests |= line.ends_with("| tests |");
        }
    }
}

#[tokio::test]
async fn the_function_returns_the_documented_errors() {
    let test_env = TestEnv::start().await;
    test_env.put_draft("damaged", "{");
    let mut get = post_id(DRAFT_ID);
    get["requestContext"]["http"]["method"] = "GET".into();
    let mut other_path = post_id(DRAFT_ID);
    other_path["rawPath"] = "/capcut-mate/v1/create_draft".into();
    let in_maintenance = TestEnv::with(&[("MAINTENANCE", "true")]).await;

    let mut errors = BTreeSet::new();
    for (test_env, event) in [
        (&test_env, post("")),
        (&test_env, post("[]")),
        (&test_env, post_url("https://example.com/")),
        (&test_env, post_id("missing")),
        (&test_env, other_path),
        (&test_env, get),
        (&test_env, post_id("damaged")),
        (&in_maintenance, post_id(DRAFT_ID)),
    ] {
        let response = test_env.function.invoke(&event).await.response();
        let body: Value = serde_json::from_str(response["body"].as_str().unwrap()).unwrap();
        let detail = body["detail"].as_str().unwrap().to_owned();
        errors.insert((response["statusCode"].to_string(), detail));
    }
    let document = read_yaml("docs/openapi.yaml");
    let responses = &document["paths"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap()["post"]["responses"];
    let mut documented = BTreeSet::new();
    for (status, response) in responses.as_object().unwrap() {
        let content = &response["content"]["application/json"];
        let examples = content["examples"].as_object().into_iter().flatten();
        let examples = examples.map(|(_, example)| &example["value"]);
        for example in examples.chain([&content["example"]]) {
            // Those are errors of the gateway.
            let is_ours = !["403", "413", "429"].contains(&status.as_str());
            if let Some(detail) = example["detail"].as_str().filter(|_| is_ours) {
                documented.insert((status.clone(), detail.to_owned()));
            }
        }
    }
    assert_eq!(errors, documented);
}
