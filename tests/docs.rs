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
    let source = |path: &str| {
        let paths = [format!("{path}.rs"), format!("{path}/mod.rs")];
        let mut paths = paths.iter().map(in_repository);
        paths.find_map(|path| fs::read_to_string(path).ok())
    };
    let has = |path: String, text: &str| source(&path).is_some_and(|it| it.contains(text));
    let exists = |name: &str| {
        let path = name.replace("::", "/");
        match path.rsplit_once('/') {
            None => {
                let folders = [format!("tests/{path}"), format!("{path}/tests")];
                let is_folder = folders.iter().any(|path| in_repository(path).is_dir());
                is_folder || source(&format!("tests/{path}")).is_some()
            }
            Some((module, "tests")) => has(format!("src/{module}"), "mod tests {"),
            Some((module, test)) => {
                let in_package = module.split_once('/').map(|(package, module)| {
                    has(format!("{package}/tests/{module}"), &format!("fn {test}("))
                });
                in_package == Some(true) || has(format!("tests/{module}"), &format!("fn {test}("))
            }
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
