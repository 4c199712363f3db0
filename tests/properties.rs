//! Properties of URLs, keys, versions and documents for generated input.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use save_draft::draft::document::validate;
use save_draft::draft::keys::{self, DocumentName, DraftPrefix};
use save_draft::draft::{DraftId, Sha256Digest, Version};
use time::{Duration, OffsetDateTime, UtcOffset};

use test_support::skip_or_fail;

/// Generates URLs of drafts, and texts that are similar to them.
fn urls() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => select(vec![
            "http", "https", "://", ":", "/", "//", "\\", "?", "&", "=", "#", "@", "%", "%2F",
            "%2e", "%00", "%0a", "..", ".", "example.com", "localhost", "[::1]", "draft_id",
            "draft_id=", "draft%5Fid", "2025092811473036584258", "20251126220753b7e35362", "a",
            "\u{0}", "\n", " ", "+", "１", "草稿", "ﬁ", "\u{202e}", "{draft_id}", "saved",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let parts = prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat());
    let begin = select(vec![
        "",
        "https://example.com/?draft_id=",
        "http://a/?x=1&draft_id=1",
    ]);
    (begin, parts).prop_map(|(begin, parts)| begin.to_owned() + &parts)
}

fn ids() -> impl Strategy<Value = DraftId> {
    "[A-Za-z0-9_-]{1,64}".prop_map(|id| id.parse().expect("a valid id"))
}

/// Generates times of the years 0 to 9999.
fn times() -> impl Strategy<Value = OffsetDateTime> {
    let seconds = -62_167_219_200_i64..=253_402_300_799;
    seconds.prop_map(|s| OffsetDateTime::from_unix_timestamp(s).expect("a year of four digits"))
}

fn digests() -> impl Strategy<Value = Sha256Digest> {
    any::<[u8; 8]>().prop_map(|seed| Sha256Digest::of(&seed))
}

fn version(time: OffsetDateTime, digest: &Sha256Digest) -> Version {
    Version::new(time, digest).expect("a year of four digits")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_url_gives_only_keys_of_the_template(url in urls()) {
        if let Ok(id) = DraftId::from_url(&url, &[]) {
            prop_assert!((1..=64).contains(&id.as_str().len()));
            prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
            let keys = DraftPrefix::default();
            let key = keys.document(&id, DocumentName::Content);
            let parts: Vec<_> = key.split('/').collect();
            prop_assert_eq!(&parts, &["drafts", id.as_str(), "draft_content.json"]);
            prop_assert_eq!(keys.parse_document(&key), Some(id));
        }
    }

    #[test]
    fn the_id_of_a_url_is_found_in_its_query(
        id in ids(), path in "[a-zA-Z0-9/._~-]{0,40}", more in "[a-ce-z]{1,9}=[^&#\\p{C} ]{0,20}",
    ) {
        let url = format!("https://example.com/{path}?{more}&draft_id={id}#{more}");
        let parsed = DraftId::from_url(&url, &["example.com".to_owned()]);
        prop_assert_eq!(parsed.expect("a valid URL"), id.clone());
        let other = DraftId::from_url(&url, &["example.org".to_owned()]);
        prop_assert!(other.is_err());
        let two = DraftId::from_url(&format!("https://a/?draft_id={id}&draft_id=x{id}"), &[]);
        prop_assert!(two.is_err());
    }

    #[test]
    fn the_id_of_a_key_renders_the_same_key(
        id in ids(), prefix in "[^\\p{Cc}]{0,9}/", name in select(DocumentName::ALL.to_vec()), other in any::<String>(),
    ) {
        let prefix: DraftPrefix = prefix.parse().expect("a valid prefix");
        prop_assert_eq!(prefix.parse_document(&prefix.document(&id, name)), Some(id));
        if let Some(id) = prefix.parse_document(&other) {
            let keys = DocumentName::ALL.map(|name| prefix.document(&id, name));
            prop_assert!(keys.contains(&other));
        }
    }

    #[test]
    fn the_same_state_has_the_same_version(
        time in times(), document in any::<Vec<u8>>(), hours in -23_i8..=23, nanoseconds in 0..1_000_000_000_i64,
    ) {
        let first = version(time, &Sha256Digest::of(&document));
        // In any time zone and with any fraction of a second.
        let offset = UtcOffset::from_hms(hours, 0, 0).expect("less than a day");
        let elsewhere = (time + Duration::nanoseconds(nanoseconds)).checked_to_offset(offset);
        let second = elsewhere.map(|time| version(time, &Sha256Digest::of(&document.clone())));
        prop_assert!(second.is_none_or(|second| second == first));
        prop_assert_eq!(first.as_str().len(), Version::BYTES);
        prop_assert!(first.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    }

    #[test]
    fn versions_sort_by_time(a in times(), b in times(), x in digests(), y in digests()) {
        let (first, second) = (version(a, &x), version(b, &y));
        if a != b {
            prop_assert_eq!(first.cmp(&second), a.cmp(&b));
        }
        prop_assert_eq!(first == second, a == b && x == y);
    }

    #[test]
    fn the_key_of_a_version_is_not_that_of_a_draft(
        id in ids(), time in times(), digest in digests(),
    ) {
        let key = keys::version_document(&id, &version(time, &digest), DocumentName::Content);
        prop_assert_eq!(DraftPrefix::default().parse_document(&key), None);
    }
}

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

/// A process of Python that validates documents with `json`, one a line.
struct Python {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

const PROGRAM: &str = r#"
import json, sys
for line in sys.stdin:
    try:
        text = bytes.fromhex(line).decode("utf-8")
        print(isinstance(json.loads(text.removeprefix("\ufeff")), dict), flush=True)
    except (ValueError, RecursionError):
        print(False, flush=True)
"#;

impl Python {
    /// Starts the process, or returns `None` if Python is not installed.
    fn start() -> Option<Self> {
        let mut python = Command::new("python3");
        python.args(["-I", "-c", PROGRAM]);
        let python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = match python {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            python => python.expect("python3 starts"),
        };
        Some(Self {
            stdin: child.stdin.take().expect("a pipe"),
            stdout: BufReader::new(child.stdout.take().expect("a pipe")),
            child,
        })
    }

    /// Returns whether `json.loads` reads `bytes` as an object.
    fn reads(&mut self, bytes: &[u8]) -> bool {
        let mut line = String::with_capacity(2 * bytes.len() + 1);
        for byte in bytes {
            write!(line, "{byte:02x}").expect("a string can be written to");
        }
        line.push('\n');
        self.stdin
            .write_all(line.as_bytes())
            .expect("python3 reads");
        line.clear();
        self.stdout.read_line(&mut line).expect("python3 responds");
        match line.trim_end() {
            "True" => true,
            "False" => false,
            other => panic!("unexpected response of python3: {other:?}"),
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn exactly_the_documents_that_python_reads_are_valid() {
    let Some(python) = Python::start() else {
        return skip_or_fail("python3, to compare with, is not installed");
    };
    let python = Mutex::new(python);
    let documents = (json_texts(), edits());
    proptest!(ProptestConfig::with_cases(2048), |((text, edits) in documents)| {
        let bytes = edit(&text, &edits);
        let passes = validate(&bytes).is_ok();
        let mut python = python.lock().unwrap_or_else(PoisonError::into_inner);
        prop_assert_eq!(passes, python.reads(&bytes), "{}", String::from_utf8_lossy(&bytes));
    });
}
