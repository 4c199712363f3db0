//! Checks that the documentation agrees with the code, and that its two languages agree with each other.

use std::collections::BTreeSet;
use std::fs;

use save_draft::config::{
    DEFAULT_DRAFT_KEY, DEFAULT_MAX_DRAFT_BYTES, DEFAULT_SAVED_KEY, VARIABLES,
};
use serde_json::Value;

const README: &str = "README.md";
const API: &str = "docs/api.md";

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

/// Returns the text of a cell that consists of code.
fn code(cell: &str) -> &str {
    cell.trim_matches('`')
}

#[test]
fn both_languages_have_the_same_sections_code_numbers_and_links() {
    for (english, chinese) in [(README, "README.zh.md"), (API, "docs/api.zh.md")] {
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
            assert_eq!(english.code_spans(), chinese.code_spans(), "{name}");
            assert_eq!(english.numbers(), chinese.numbers(), "{name}");
            assert_eq!(english.links(), chinese.links(), "{name}");
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
fn readme_lists_every_variable_with_its_default() {
    let section = section(README, "Configuration");
    let table = section.table();
    let documented: BTreeSet<_> = table.iter().map(|row| code(row[0])).collect();
    let read: BTreeSet<_> = VARIABLES.iter().copied().collect();
    assert_eq!(
        documented, read,
        "the first table of \"Configuration\" in README.md and save_draft::config::VARIABLES"
    );
    let max_draft_bytes = DEFAULT_MAX_DRAFT_BYTES.to_string();
    for (variable, default) in [
        ("DRAFT_KEY", DEFAULT_DRAFT_KEY),
        ("SAVED_KEY", DEFAULT_SAVED_KEY),
        ("MAX_DRAFT_BYTES", &max_draft_bytes),
    ] {
        let row = table.iter().find(|row| code(row[0]) == variable).unwrap();
        assert_eq!(code(row[1]), default, "default of {variable} in README.md");
    }
}

#[test]
fn pages_list_every_documented_error() {
    let document: Value = serde_saphyr::from_str(&read("docs/openapi.yaml")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let responses = paths.values().next().unwrap()["post"]["responses"].as_object();
    let mut errors = BTreeSet::new();
    for (status, response) in responses.unwrap() {
        let content = &response["content"]["application/json"];
        let examples = content["examples"].as_object();
        let examples = examples
            .into_iter()
            .flat_map(|examples| examples.values().map(|example| &example["value"]));
        for example in examples.chain([&content["example"]]) {
            if let Some(detail) = example["detail"].as_str() {
                errors.insert((status.clone(), detail.to_owned()));
            }
        }
    }
    for (path, heading) in [(README, "Call"), (API, "Errors")] {
        let section = section(path, heading);
        let listed: BTreeSet<_> = section
            .table()
            .iter()
            .map(|row| (row[0].to_owned(), code(row[1]).to_owned()))
            .collect();
        assert_eq!(listed, errors, "{path}, {heading}, and docs/openapi.yaml");
    }
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
    let linked = section(README, "Events").links();
    assert_eq!(
        linked, files,
        "the table of \"Events\" in README.md must link to each file of events/"
    );
}
