//! Any bytes as the document of a draft: what is taken, and what is refused, against another
//! reader of JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use save_draft::draft::check_document;
use serde::de::IgnoredAny;

/// How deep a document may nest: as `docs/operations.md` tells.
const MAX_DEPTH: usize = 10_000;

fuzz_target!(|bytes: &[u8]| {
    let taken = check_document(bytes);
    assert_eq!(
        taken.is_ok(),
        is_document(bytes),
        "{taken:?}: {}",
        String::from_utf8_lossy(bytes)
    );
});

/// What `check_document` is to find, by serde_json.
fn is_document(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let begin = text.trim_start_matches([' ', '\t', '\r', '\n']);
    let (plain, depth) = without_python(text);
    // Skipping a value, serde_json takes lone surrogates and any depth, as Python and we do.
    begin.starts_with('{')
        && depth <= MAX_DEPTH
        && serde_json::from_str::<IgnoredAny>(&plain).is_ok()
}

/// `text` with a plain word in place of what is JSON only to Python; and how deep it nests.
fn without_python(text: &str) -> (String, usize) {
    let mut plain = String::with_capacity(text.len());
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !in_string
            && let Some(after) = ["NaN", "Infinity", "-Infinity"]
                .iter()
                .find_map(|word| rest.strip_prefix(word))
        {
            plain.push_str("null");
            rest = after;
            continue;
        }
        match c {
            '"' if !escaped => in_string = !in_string,
            '{' | '[' if !in_string => depth += 1,
            '}' | ']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = in_string && c == '\\' && !escaped;
        deepest = deepest.max(depth);
        plain.push(c);
        rest = &rest[c.len_utf8()..];
    }
    (plain, deepest)
}
