//! Checks that the documentation agrees with the code, and that its two languages agree with each other.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{env, fs, io, thread};

use save_draft::draft::Sha256Digest;
use serde_json::{Map, Value};
use tempfile::TempDir;
use test_support::fixtures::{DRAFT_ID, post, post_id, post_url};
use test_support::skip_or_fail;

use crate::common::{self, TestEnv};

const README: &str = "README.md";
const API: &str = "docs/api.md";
const DESIGN: &str = "docs/design.md";
const OPERATIONS: &str = "docs/operations.md";
const VERSIONS: &str = "docs/versions.md";
/// The sample draft of the local endpoint.
const SAMPLE: &[u8] = include_bytes!("../local/sample/draft_content.json");

fn read(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A part of a Markdown page: a heading, and the text up to the next one.
#[derive(Debug, Default)]
struct Section {
    /// Number of `#`; 0 for text before the first heading.
    level: usize,
    heading: String,
    /// Text outside of code blocks.
    lines: Vec<String>,
    /// Code blocks with their languages.
    blocks: Vec<String>,
}

impl Section {
    /// Returns the texts between backticks.
    fn code_spans(&self) -> BTreeSet<&str> {
        let lines = self.lines.iter();
        lines
            .flat_map(|line| line.split('`').skip(1).step_by(2))
            .collect()
    }

    /// Returns the numbers outside of code.
    fn numbers(&self) -> BTreeSet<&str> {
        let lines = self.lines.iter();
        let prose = lines.flat_map(|line| line.split('`').step_by(2));
        prose
            .flat_map(|text| text.split(|c: char| !c.is_ascii_digit() && !matches!(c, ',' | '.')))
            .map(|number| number.trim_matches([',', '.']))
            .filter(|number| !number.is_empty())
            .collect()
    }

    /// Returns the targets of links, without the language and the heading.
    fn links(&self) -> BTreeSet<String> {
        let lines = self.lines.iter();
        lines
            .flat_map(|line| line.split("](").skip(1))
            .filter_map(|rest| rest.split([')', '#']).next())
            .map(|target| target.replace(".zh.md", ".md"))
            .collect()
    }

    /// Returns the first table as rows of cells, without its header.
    fn table(&self) -> Vec<Vec<&str>> {
        let rows = self.lines.iter().map(|line| line.trim());
        rows.skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect()
    }
}

fn sections(path: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    let mut block: Option<String> = None;
    for line in read(path).lines() {
        let section = sections.last_mut().unwrap();
        if let Some(mut text) = block.take() {
            if line.trim() == "```" {
                section.blocks.push(text);
            } else {
                text.push('\n');
                text.push_str(line);
                block = Some(text);
            }
        } else if let Some(language) = line.trim().strip_prefix("```") {
            block = Some(language.to_owned());
        } else if line.starts_with('#') {
            let heading = line.trim_start_matches('#');
            sections.push(Section {
                level: line.len() - heading.len(),
                heading: heading.trim().to_owned(),
                ..Section::default()
            });
        } else {
            section.lines.push(line.to_owned());
        }
    }
    assert_eq!(block, None, "{path}: a code block is not closed");
    sections
}

fn section(path: &str, heading: &str) -> Section {
    let mut sections = sections(path).into_iter();
    sections
        .find(|section| section.heading == heading)
        .unwrap_or_else(|| panic!("{path} has no section {heading:?}"))
}

/// Checks that both sets are the same, and prints the difference if they are not.
fn assert_same<T: Debug + Ord>(left: &BTreeSet<T>, right: &BTreeSet<T>, name: &str) {
    let only_left: Vec<_> = left.difference(right).collect();
    let only_right: Vec<_> = right.difference(left).collect();
    assert!(
        only_left.is_empty() && only_right.is_empty(),
        "{name} differ: only the first has {only_left:?}, only the second {only_right:?}"
    );
}

/// Returns the text of a cell that consists of code.
fn code(cell: &str) -> &str {
    cell.trim_matches('`')
}

#[test]
fn both_languages_have_the_same_sections_code_numbers_and_links() {
    for (english, chinese) in [
        (README, "README.zh.md"),
        (API, "docs/api.zh.md"),
        (VERSIONS, "docs/versions.zh.md"),
        ("docs/migrating.md", "docs/migrating.zh.md"),
        ("docs/coze.md", "docs/coze.zh.md"),
    ] {
        let pages = (sections(english), sections(chinese));
        let levels =
            |page: &[Section]| -> Vec<_> { page.iter().map(|section| section.level).collect() };
        assert_eq!(
            levels(&pages.0),
            levels(&pages.1),
            "levels of the headings in {english} and {chinese}"
        );
        for (english, chinese) in pages.0.iter().zip(&pages.1) {
            let name = format!("{:?} and {:?}", english.heading, chinese.heading);
            assert_same(&english.code_spans(), &chinese.code_spans(), &name);
            assert_same(&english.numbers(), &chinese.numbers(), &name);
            assert_same(&english.links(), &chinese.links(), &name);
            let rows = |section: &Section| -> usize {
                let rows = section.lines.iter();
                rows.filter(|line| line.starts_with('|')).count()
            };
            assert_eq!(rows(english), rows(chinese), "rows of tables in {name}");
            // Diagrams are translated, other code is not.
            let blocks = |section: &Section| -> Vec<String> {
                let blocks = section.blocks.iter();
                blocks
                    .filter(|block| !block.starts_with("mermaid"))
                    .cloned()
                    .collect()
            };
            assert_eq!(blocks(english), blocks(chinese), "{name}");
        }
        for (page, other) in [(english, chinese), (chinese, english)] {
            let other = other.trim_start_matches("docs/");
            let switch = read(page).lines().nth(2).unwrap_or_default().to_owned();
            assert!(
                switch.contains(&format!("]({other})")),
                "the third line of {page} must link to {other}, got {switch:?}"
            );
        }
    }
}

#[test]
fn operations_lists_every_variable() {
    let section = section(OPERATIONS, "Variables");
    let documented: BTreeSet<_> = section.table().iter().map(|row| code(row[0])).collect();
    assert_same(
        &documented,
        &common::variables(),
        "the first table of \"Variables\" in docs/operations.md and the variables that the function reads",
    );
}

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
    let document: Value = serde_saphyr::from_str(&read(path)).unwrap();
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

#[test]
fn the_reference_lists_every_documented_error() {
    let section = section(API, "Errors");
    let listed: BTreeSet<_> = section
        .table()
        .iter()
        .map(|row| (row[0].to_owned(), code(row[1]).to_owned()))
        .collect();
    assert_same(
        &listed,
        &documented_errors(),
        "\"Errors\" in docs/api.md, and docs/openapi.yaml",
    );
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
    let errors = responses
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
    let name = format!("The errors of the function, and {OPENAPI}");
    assert_same(&errors, &documented, &name);

    let mut errors = BTreeSet::new();
    for response in responses_of_errors(&[("RESPONSE_FORMAT", "code")]).await {
        let body = &response["body"];
        assert_eq!(response["statusCode"], 200, "{body}");
        assert_eq!(body.as_object().map(Map::len), Some(2), "{body}");
        errors.insert((body["code"].to_string(), text(&body["message"])));
    }
    let name = format!("The errors of the function in the format code, and {OPENAPI_CODE}");
    assert_same(&errors, &documented_codes(), &name);

    let section = section(API, "The format `code`");
    let listed = section.table().into_iter().skip(1).map(|row| {
        let body: Value = serde_json::from_str(code(row[2])).unwrap();
        (body["code"].to_string(), text(&body["message"]))
    });
    let name = format!("\"The format `code`\" in {API}, and {OPENAPI_CODE}");
    assert_same(&listed.collect(), &documented_codes(), &name);
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

#[test]
fn readme_links_every_event() {
    let folder = format!("{}/events", env!("CARGO_MANIFEST_DIR"));
    let files: BTreeSet<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        // The variables for SAM local.
        .filter(|name| name != "env.json")
        .map(|name| format!("events/{name}"))
        .collect();
    let mut linked = section(README, "Events").links();
    linked.retain(|link| link.starts_with("events/"));
    assert_same(
        &linked,
        &files,
        "\"Events\" in README.md, and the files in events/",
    );
}

#[test]
fn design_lists_every_library() {
    let libraries = section(DESIGN, "Libraries");
    let table = libraries.table();
    let listed = table
        .iter()
        .flat_map(|row| row[0].split(", "))
        .map(|library| code(library).to_owned())
        .collect();
    let dependencies = read("Cargo.toml")
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once([' ', '.'])?.0.to_owned()))
        .collect();
    assert_same(
        &listed,
        &dependencies,
        "\"Libraries\" in docs/design.md, and [dependencies] in Cargo.toml",
    );
}

#[test]
fn pages_name_existing_tests() {
    let main = read("tests/main.rs");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let source = |module: &str| {
        let module = module.replace("::", "/");
        let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
        files
            .into_iter()
            .find_map(|file| fs::read_to_string(file).ok())
    };
    let contains =
        |module: String, text: &str| source(&module).is_some_and(|source| source.contains(text));
    let exists = |name: &str| match name.rsplit_once("::") {
        None => main.contains(&format!("\nmod {name};")) || tests.join(name).is_dir(),
        Some((module, "tests")) => contains(format!("src::{module}"), "mod tests {"),
        Some((module, test)) => contains(format!("tests::{module}"), &format!("fn {test}(")),
    };
    for path in ["docs/reliability.md", "docs/threat-model.md"] {
        for section in sections(path) {
            let Some(header) = section.lines.iter().find(|line| line.starts_with('|')) else {
                continue;
            };
            if !header.ends_with("| tests |") {
                continue;
            }
            for row in section.table() {
                let names = row.last().unwrap().split('`').skip(1).step_by(2);
                for name in names {
                    assert!(
                        exists(name),
                        "{path} names the test {name}, which does not exist"
                    );
                }
            }
        }
    }
}

#[test]
fn operations_lists_every_parameter_and_uses_existing_outputs() {
    let template: Value = serde_saphyr::from_str(&read("template.yaml")).unwrap();
    let names = |key: &str| -> BTreeSet<String> {
        template[key].as_object().unwrap().keys().cloned().collect()
    };
    let parameters = section(OPERATIONS, "Parameters");
    let table = parameters.table();
    let listed = table
        .iter()
        .flat_map(|row| row[0].split(", "))
        .map(|parameter| code(parameter).to_owned())
        .collect();
    assert_same(
        &listed,
        &names("Parameters"),
        "\"Parameters\" in docs/operations.md, and template.yaml",
    );

    let outputs = names("Outputs");
    for path in [OPERATIONS, API, README] {
        let text = read(path);
        let used = text.split("$(output ").skip(1);
        let used = used.chain(text.split("OutputKey=='").skip(1));
        for rest in used {
            let name: String = rest
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect();
            // `$1` is the parameter of a shell function.
            assert!(
                rest.starts_with("$1") || outputs.contains(&name),
                "{path} uses the output {name:?}, which template.yaml does not have"
            );
        }
    }
}

/// A running `examples/local`, which is stopped on drop.
struct LocalEndpoint {
    process: Child,
    /// Address of the function, `127.0.0.1` and its port.
    function: String,
    /// Address of the S3 server.
    s3: String,
    folder: TempDir,
}

impl LocalEndpoint {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Beside `deps`, the folder of this executable.
        let executable = env::current_exe().unwrap();
        let local = executable.ancestors().nth(2).unwrap().join("local");
        let mut process = Command::new(local)
            .args(["--port", "0", "--s3-port", "0", "--data-dir"])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("`cargo build --example local` must have built the local endpoint");
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut address = |before: &str, after: char| loop {
            let mut line = String::new();
            let bytes = output.read_line(&mut line).unwrap();
            assert_ne!(bytes, 0, "the local endpoint did not print {before:?}");
            if let Some((_, rest)) = line.split_once(before) {
                break rest.split(after).next().unwrap().trim().to_owned();
            }
        };
        let function = address("http://", '/');
        let s3 = address("S3 is at http://", ' ');
        thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        Self {
            process,
            function,
            s3,
            folder,
        }
    }

    /// Runs `code` of the documentation with `command`, with the addresses of this endpoint, and
    /// returns its output.
    fn run(&self, command: &[&str], code: &str) -> String {
        let code = code
            .replace("127.0.0.1:3000", &self.function)
            .replace("127.0.0.1:9000", &self.s3);
        let output = Command::new(command[0])
            .args(&command[1..])
            .arg(&code)
            .current_dir(self.folder.path())
            .env("NO_PROXY", "127.0.0.1")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env_remove("AWS_PROFILE")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{code}\n{text}\n{errors}");
        text
    }
}

impl Drop for LocalEndpoint {
    fn drop(&mut self) {
        // Fails if the process has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns whether `program` can be run.
fn has(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    let found = output.is_ok_and(|output| output.status.success());
    if !found {
        skip_or_fail(&format!("{program} is not installed"));
    }
    found
}

fn block(section: &Section, language: &str) -> String {
    let prefix = format!("{language}\n");
    let mut blocks = section.blocks.iter();
    let block = blocks.find_map(|block| block.strip_prefix(&prefix));
    block
        .unwrap_or_else(|| panic!("{:?} has no block of {language}", section.heading))
        .to_owned()
}

#[test]
fn documented_examples_save_the_draft() {
    let endpoint = LocalEndpoint::start();
    for (path, heading, language, command) in [
        (README, "Call", "sh", ["bash", "-euc"]),
        (API, "curl", "sh", ["bash", "-euc"]),
        (API, "Python", "python", ["python3", "-c"]),
        (API, "JavaScript", "javascript", ["node", "-e"]),
    ] {
        let program = if language == "sh" { "curl" } else { command[0] };
        if !has(program) {
            continue;
        }
        let output = endpoint.run(&command, &block(&section(path, heading), language));
        assert!(
            output.contains("created") || output.contains("unchanged"),
            "{heading:?} in {path} printed {output:?}"
        );
        assert!(
            output.contains(&Sha256Digest::of(SAMPLE).to_string()),
            "{heading:?} in {path} printed {output:?}"
        );
    }
}

#[test]
fn documented_commands_list_download_and_link_versions() {
    if !["aws", "bash", "curl"].into_iter().all(has) {
        return;
    }
    let endpoint = LocalEndpoint::start();
    endpoint.run(&["bash", "-euc"], &block(&section(README, "Call"), "sh"));
    let versions = section(VERSIONS, "With the AWS CLI only");
    let commands = |text: &str| -> &str {
        let mut blocks = versions.blocks.iter();
        let block = blocks.find(|block| block.starts_with("sh\n") && block.contains(text));
        block.unwrap_or_else(|| panic!("{VERSIONS} has no {text}"))[3..].trim()
    };
    let script = format!(
        "export AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_REGION=us-east-1 \
         AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local-secret
         DRAFT_BUCKET=drafts SAVED_BUCKET=drafts DRAFT_ID={DRAFT_ID}
         {list} | tee list
         VERSION=$(awk -F / '{{print $(NF - 1)}}' list)
         {download}
         mv \"$VERSION/draft_content.json\" .
         curl -fsS \"$({link})\" -o linked.json",
        list = commands("aws s3 ls"),
        download = commands("\"$VERSION/\""),
        link = commands("aws s3 presign"),
    );
    let output = endpoint.run(&["bash", "-euo", "pipefail", "-c"], &script);
    let digest = Sha256Digest::of(SAMPLE).to_string();
    assert!(output.contains(&digest), "the list is {output:?}");
    for file in ["draft_content.json", "linked.json"] {
        let bytes = fs::read(endpoint.folder.path().join(file)).unwrap();
        assert!(bytes == SAMPLE, "{file} is not the saved document");
    }
}
