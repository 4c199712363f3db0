//! Documents: generated JSON, and a comparison with Python's `json`.

use std::io::{ErrorKind, Write as _};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use save_draft::draft::document::validate;
use test_support::skip_or_fail;

/// Generates JSON objects, with white space and the constants that only Python accepts.
fn json_texts() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        select(
            r#"null true false NaN Infinity -Infinity 0 -0 1.5 -12e+3 1E9 "" "\ud800" "\udc00\ud800" "\"\\\n\u00e9" "草稿""#
                .split(' ')
                .collect::<Vec<_>>(),
        )
        .prop_map(str::to_owned),
        any::<f64>().prop_map(|number| serde_json::json!(number).to_string()),
        any::<String>().prop_map(|text| serde_json::json!(text).to_string()),
    ];
    let value = scalar.prop_recursive(5, 40, 5, |inner| {
        let name = any::<String>().prop_map(|name| serde_json::json!(name).to_string());
        let space = select(vec!["", " ", "\n\t", "\r\n  "]);
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..5), space.clone())
                .prop_map(|(values, space)| format!("[{space}{}{space}]", values.join(","))),
            object(inner, name, space),
        ]
    });
    object(
        value,
        "[a-z]{0,3}".prop_map(|name| format!("\"{name}\"")),
        select(vec!["", " "]),
    )
}

fn object(
    value: impl Strategy<Value = String>,
    name: impl Strategy<Value = String>,
    space: impl Strategy<Value = &'static str>,
) -> impl Strategy<Value = String> {
    (prop::collection::vec((name, value), 0..5), space).prop_map(|(fields, space)| {
        let fields = fields
            .iter()
            .map(|(name, value)| format!("{name}{space}:{space}{value}"));
        let fields: Vec<_> = fields.collect();
        format!("{{{space}{}{space}}}", fields.join(&format!("{space},")))
    })
}

/// Generates edits of a text: a position, the number of bytes to remove, and the text to insert.
fn edits() -> impl Strategy<Value = Vec<(Index, usize, String)>> {
    let piece = prop_oneof![
        select(
            r#"|{|}|[|]|:|,|"|\|\u|\ud800|/|-|+|.|e|0|1|N|NaN|Infinity|-Infinity|nul|true| |'|{}|"a":"#
                .split('|')
                .chain(["\n", "\0", "\u{1f}", "\u{7f}", "\u{a0}", "\u{feff}", "\u{2028}"])
                .collect::<Vec<_>>(),
        )
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec((any::<Index>(), 0..3_usize, piece), 0..4)
}

fn edit(text: &str, edits: &[(Index, usize, String)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (at, removed, piece) in edits {
        let at = at.index(bytes.len() + 1);
        let end = (at + removed).min(bytes.len());
        bytes.splice(at..end, piece.bytes());
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_complete_document_is_valid_and_no_prefix_of_it_is(text in json_texts()) {
        prop_assert!(validate(text.as_bytes()).is_ok(), "{}", text);
        for end in 0..text.trim_end().len() {
            prop_assert!(validate(&text.as_bytes()[..end]).is_err(), "{}", &text[..end]);
        }
    }
}

/// Validates documents with `json`, one a line.
const PYTHON: &str = r#"
import json, sys
for line in sys.stdin:
    try:
        text = bytes.fromhex(line).decode("utf-8")
        print(isinstance(json.loads(text.removeprefix("\ufeff")), dict))
    except (ValueError, RecursionError):
        print(False)
"#;

#[test]
fn exactly_the_documents_that_python_reads_are_valid() {
    let mut runner = TestRunner::default();
    let documents = (0..2048).map(|_| {
        let document = (json_texts(), edits()).new_tree(&mut runner);
        let (text, edits) = document.expect("a document").current();
        edit(&text, &edits)
    });
    let documents: Vec<_> = documents.collect();

    let mut python = Command::new("python3");
    python.args(["-I", "-c", PYTHON]);
    let python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut python = match python {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return skip_or_fail("python3, to compare with, is not installed");
        }
        python => python.expect("python3 starts"),
    };
    let mut stdin = python.stdin.take().expect("a pipe");
    for document in &documents {
        writeln!(stdin, "{}", hex::encode(document)).expect("python3 reads");
    }
    drop(stdin);
    let output = python.wait_with_output().expect("python3 ends");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.lines().count(), documents.len());
    for (document, line) in documents.iter().zip(output.lines()) {
        let text = String::from_utf8_lossy(document);
        assert_eq!(validate(document).is_ok(), line == "True", "{text}");
    }
}
