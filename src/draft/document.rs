//! Validation of a draft's document: one complete JSON object, as Python's `json` module reads it, or
//! an encrypted document.

use std::borrow::Cow;
use std::io::{self, BufReader, Read};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::IgnoredAny;

use crate::error::{BoxError, redact_json_error};

/// The form of a valid document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A JSON object.
    Plain,
    /// One run of Base64, as Jianying 6 and newer write it. Its content cannot be checked, so that an
    /// incomplete document may not be recognized.
    Encrypted,
}

/// Maximum depth of a document with more than [`MAX_UNCHECKED_BRACKETS`] opening brackets. Python's
/// `json` stops at about 1,000 levels.
const MAX_DEPTH: usize = 10_000;

/// Number of opening brackets up to which the depth of a document is not checked. `serde_json`
/// allocates one byte for each level, which is then 1 MiB at most.
const MAX_UNCHECKED_BRACKETS: usize = 1 << 20;

/// The byte order mark in UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Minimum length of an encrypted document, in characters.
const MIN_ENCRYPTED_CHARS: usize = 1024;

/// Checks that `bytes` are a complete document, and returns its form.
///
/// A plain document is one JSON object, as Python's `json.loads` reads it from UTF-8: `NaN`, `Infinity`,
/// `-Infinity`, lone surrogate escapes and a byte order mark are accepted, because editors write them.
///
/// # Errors
///
/// Returns the first problem, without the content of the document.
pub fn validate(bytes: &[u8]) -> Result<DocumentKind, BoxError> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| "the document is not UTF-8")?;
    match text.trim_ascii().as_bytes() {
        // An editor that overwrites in place was interrupted.
        [] => return Err("the document is empty".into()),
        [b'{', ..] => {}
        other => return validate_encrypted(other),
    }
    check_depth(bytes)?;
    let parsed = match serde_json::from_str::<IgnoredAny>(text) {
        Err(_) if text.contains("NaN") || text.contains("Infinity") => {
            serde_json::from_reader(BufReader::new(PythonConstants::new(bytes)))
        }
        parsed => parsed,
    };
    if let Err(error) = parsed {
        let problem = redact_json_error(&error);
        return Err(format!("the document is not valid JSON: {problem}").into());
    }
    Ok(DocumentKind::Plain)
}

/// Returns the JSON of a plain document: without a byte order mark, and with `[]` in place of the
/// constants that only Python reads.
pub fn to_json(document: &[u8]) -> Cow<'_, [u8]> {
    let bytes = document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document);
    if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        Cow::Borrowed(bytes)
    } else {
        PythonConstants::new(bytes).collect()
    }
}

/// Checks that `text` has the form of an encrypted document: Base64 with padding (RFC 4648, section 4).
fn validate_encrypted(text: &[u8]) -> Result<DocumentKind, BoxError> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    // A number or a constant of JSON is Base64 too.
    if !text.iter().all(is_base64) || serde_json::from_slice::<IgnoredAny>(text).is_ok() {
        return Err("the document is not a JSON object".into());
    }
    let is_complete = text.len() >= MIN_ENCRYPTED_CHARS
        && text.split_last_chunk::<4>().is_some_and(|(rest, end)| {
            rest.len() % 4 == 0 && !rest.contains(&b'=') && BASE64_STANDARD.decode(end).is_ok()
        });
    if is_complete {
        return Ok(DocumentKind::Encrypted);
    }
    let problem = format!(
        "the document is not a JSON object, nor a complete encrypted document: Base64 with padding, of \
         at least {MIN_ENCRYPTED_CHARS} characters, got {}",
        text.len()
    );
    Err(problem.into())
}

/// Refuses documents with many brackets and more than [`MAX_DEPTH`] levels of nesting.
fn check_depth(bytes: &[u8]) -> Result<(), BoxError> {
    if opening_brackets(bytes) <= MAX_UNCHECKED_BRACKETS {
        return Ok(());
    }
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => drop(bytes.next()),
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("the document is nested deeper than {MAX_DEPTH} levels").into());
        }
    }
    Ok(())
}

/// Counts `{` and `[`, which differ in one bit. Written so that the compiler vectorizes it.
fn opening_brackets(bytes: &[u8]) -> usize {
    let is_bracket = |byte: &u8| u8::from(byte | 0x20 == b'{');
    let chunks = bytes.chunks(255);
    let counts = chunks.map(|chunk| chunk.iter().map(is_bracket).sum::<u8>());
    counts.map(usize::from).sum()
}

/// Reads JSON text with the constants that only Python accepts replaced by `[]` and spaces of the
/// same length. An empty array is a value wherever a constant is one, and nowhere else. In strings
/// the replacement changes nothing: it has no quote and no backslash.
struct PythonConstants<'a> {
    rest: &'a [u8],
    /// The rest of the replacement of the last constant.
    pending: &'a [u8],
}

impl<'a> PythonConstants<'a> {
    const CONSTANTS: [&'static [u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    /// As long as the longest constant.
    const REPLACEMENT: &'static [u8] = b"[]       ";

    const fn new(text: &'a [u8]) -> Self {
        Self {
            rest: text,
            pending: b"",
        }
    }
}

impl Iterator for PythonConstants<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        if self.pending.is_empty() {
            let is_next = |constant: &&[u8]| self.rest.starts_with(constant);
            if let Some(constant) = Self::CONSTANTS.into_iter().find(is_next) {
                self.rest = &self.rest[constant.len()..];
                self.pending = &Self::REPLACEMENT[..constant.len()];
            }
        }
        let byte = self.pending.split_off_first();
        byte.or_else(|| self.rest.split_off_first()).copied()
    }
}

impl Read for PythonConstants<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        for (slot, byte) in buffer.iter_mut().zip(self) {
            *slot = byte;
            written += 1;
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: impl AsRef<[u8]>) -> String {
        validate(text.as_ref())
            .expect_err("the document is not valid")
            .to_string()
    }

    #[test]
    fn accepts_objects_that_python_reads() {
        for text in [
            "{}",
            " \t\r\n{} ",
            "\u{feff}{}",
            r#"{"a":NaN,"b":[Infinity,-Infinity, NaN ],"NaN":"Infinity \" NaN"}"#,
            r#"{"a":"\ud800","a":"\uDFFF\n","c":1e999,"d":-0.5E-7}"#,
            r#"{"a":"\"","b":NaN,"c\\":"\\","d":-Infinity}"#,
            r#"{"text":"你好 \\","t":true,"f":false,"n":null}"#,
        ] {
            let kind = validate(text.as_bytes()).ok();
            assert_eq!(kind, Some(DocumentKind::Plain), "{text}");
            let json = to_json(text.as_bytes());
            let parsed = serde_json::from_slice::<IgnoredAny>(&json);
            assert!(parsed.is_ok(), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn accepts_one_run_of_base64_as_an_encrypted_document() {
        let run = "a3e6VQ4f/+Zm9v7x".repeat(64);
        for text in [
            run.clone(),
            format!("{run}Zg=="),
            format!("{run}Zm8=\n"),
            format!("\u{feff}{run}"),
        ] {
            let kind = validate(text.as_bytes()).ok();
            assert_eq!(kind, Some(DocumentKind::Encrypted), "{text}");
        }
        for text in [
            // Cut off.
            &run[..1023],
            &run[..1020],
            &format!("{run}Zg="),
            &format!("{run}Zh=="),
            &format!("{run}===="),
            &format!("{run}Zg==Zg=="),
            // Other alphabets, several runs.
            &run.replace('/', "_"),
            &format!("{run}\n{run}"),
            &format!("{run} {run}"),
            &format!("\"{run}\""),
            // Valid JSON.
            &"1234".repeat(256),
        ] {
            let problem = problem(text);
            assert!(
                problem.starts_with("the document is not a JSON object"),
                "{text}: {problem}"
            );
        }
    }

    #[test]
    fn refuses_what_is_not_one_complete_object() {
        for text in [
            r#"{"a":1"#,
            r#"{"a"}"#,
            r#"{"a":}"#,
            "{} {}",
            "{},",
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":+1}"#,
            "{\"a\":\"\n\"}",
            r#"{"a":"\x"}"#,
            "{'a':1}",
            r#"{"a":1,}"#,
            "{a:1}",
            r#"{"a":nan}"#,
            r#"{"a":-NaN}"#,
            r#"{"a":1NaN}"#,
            r#"{"a":NaN1}"#,
            "{NaN:1}",
            r#"{"a":NaNNaN}"#,
            r#"{"a":--Infinity}"#,
            r#"{"a":Infinity0}"#,
            r#"{"a":[NaN}"#,
            r#"{"a":tNaN}"#,
            r#"{"NaN""#,
        ] {
            let problem = problem(text);
            assert!(
                problem.starts_with("the document is not valid JSON: "),
                "{text}: {problem}"
            );
        }
    }

    #[test]
    fn names_the_problem_and_its_place_without_the_content() {
        for (text, expected) in [
            ("", "the document is empty"),
            (" \n", "the document is empty"),
            ("[]", "the document is not a JSON object"),
            ("123", "the document is not a JSON object"),
            ("\"secret\"", "the document is not a JSON object"),
            (
                "a3e6VQ4f/+Zm9v\n",
                "the document is not a JSON object, nor a complete encrypted document: Base64 with padding, of at least 1024 characters, got 14",
            ),
            (
                r#"{"secret":sesame}"#,
                "the document is not valid JSON: invalid JSON at line 1, column 11",
            ),
            (
                r#"{"NaN":NaN,"secret":sesame}"#,
                "the document is not valid JSON: invalid JSON at line 1, column 21",
            ),
            (
                r#"{"a":[NaN,Infinity,-Infinity],"secret":sesame}"#,
                "the document is not valid JSON: invalid JSON at line 1, column 40",
            ),
            (
                r#"{"secret":"#,
                "the document is not valid JSON: incomplete JSON at line 1, column 10",
            ),
        ] {
            assert_eq!(problem(text), expected, "{text:?}");
        }
        assert_eq!(problem(b"{\"\xff\":1}"), "the document is not UTF-8");
    }

    /// A document of `size` bytes or more in small containers, and `inner`.
    fn large(container: &str, size: usize, inner: &str) -> String {
        let padding = container.repeat(size / container.len().max(1));
        format!(r#"{{"a":[{padding}{inner}]}}"#)
    }

    #[test]
    fn limits_the_depth_of_documents_with_many_brackets_only() {
        const LARGE: usize = 4 << 20;
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let is_valid = |text: &str| match validate(text.as_bytes()) {
            Ok(_) => true,
            Err(error)
                if error.to_string() == "the document is nested deeper than 10000 levels" =>
            {
                false
            }
            Err(error) => panic!("{error}"),
        };
        assert!(is_valid(&large("", 0, &nested(100_000))));
        for container in ["[],", "{},"] {
            assert!(is_valid(&large(container, LARGE, &nested(MAX_DEPTH - 2))));
            assert!(!is_valid(&large(container, LARGE, &nested(MAX_DEPTH - 1))));
        }
        assert!(!is_valid(&large("", 0, &nested(LARGE))));
        assert!(!is_valid(&format!(r#"{{"a":{}"#, "[".repeat(LARGE))));
        // Brackets in strings do not count, also after an escaped quote.
        let brackets = "[".repeat(2 * MAX_DEPTH);
        assert!(is_valid(&large("[],", LARGE, &format!(r#""{brackets}""#))));
        assert!(is_valid(&large(
            "[],",
            LARGE,
            &format!(r#""\"{brackets}""#)
        )));
        let closing = "]".repeat(MAX_DEPTH);
        let too_deep = format!(
            r#"{}"{closing}",{}{}"#,
            "[".repeat(MAX_DEPTH - 100),
            nested(200),
            "]".repeat(MAX_DEPTH - 100)
        );
        assert!(!is_valid(&large("[],", LARGE, &too_deep)));
    }
}
