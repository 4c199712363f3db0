//! Checks that the documentation names what the code has. The commands that it shows are run by `local/tests`.

use std::fs;

use test_support::fixtures::{event_names, in_repository, read_yaml};

use crate::common;

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

/// In a column with the heading "tests", `module::test` is a test, `module` is a file or a folder of `tests/` or a package,
/// `package::module::test` is a test of a package, and `module::tests` are the unit tests of a module of `src/`.
#[test]
fn pages_name_existing_tests() {
    let source = |path: String| {
        let paths = [format!("{path}.rs"), format!("{path}/mod.rs")].map(in_repository);
        paths.map(|path| fs::read_to_string(path).unwrap_or_default())
    };
    let exists = |name: &str| {
        let path = name.replace("::", "/");
        let Some((module, test)) = path.rsplit_once('/') else {
            let paths = [
                format!("tests/{path}"),
                format!("tests/{path}.rs"),
                format!("{path}/tests"),
            ];
            return paths.iter().any(|path| in_repository(path).exists());
        };
        let (package, rest) = module.split_once('/').unwrap_or_default();
        let files = [
            format!("tests/{module}"),
            format!("src/{module}"),
            format!("{package}/tests/{rest}"),
        ];
        let text = files.map(|file| source(file).concat()).concat();
        text.contains(&format!("fn {test}(")) || text.contains(&format!("mod {test} {{"))
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
