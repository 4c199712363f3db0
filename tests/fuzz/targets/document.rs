//! Validates any bytes as the document of a draft, and compares the result with that of a second implementation.

#![no_main]

use libfuzzer_sys::fuzz_target;
use save_draft::draft::document;
use serde::de::IgnoredAny;

fuzz_target!(|bytes: &[u8]| {
    let result = document::validate(bytes);
    assert_eq!(
        result.is_ok(),
        is_document(bytes),
        "{result:?}: {}",
        String::from_utf8_lossy(bytes)
    );
});

fn is_document(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let text = replace_constants(text);
    text.trim_ascii_start().starts_with('{') && is_json(&text)
}

/// Replaces `NaN`, `Infinity` and `-Infinity` outside strings, which only Python's `json` reads, by `null`.
fn replace_constants(text: &str) -> String {
    let mut replaced = String::with_capacity(text.len());
    let mut in_string = false;
    let mut is_escaped = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let constants = ["NaN", "Infinity", "-Infinity"];
        let after = constants.iter().find_map(|name| rest.strip_prefix(name));
        if let Some(after) = after.filter(|_| !in_string) {
            replaced.push_str("null");
            rest = after;
            continue;
        }
        in_string ^= c == '"' && !is_escaped;
        is_escaped = in_string && c == '\\' && !is_escaped;
        replaced.push(c);
        rest = &rest[c.len_utf8()..];
    }
    replaced
}

/// Returns whether `text` is JSON, without a limit of depth and with lone surrogate escapes.
fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}
