//! Errors of a save, classified by what the caller should do next.

use std::error::Error as StdError;
use std::iter::successors;

use serde_json::error::Category;
use thiserror::Error as ThisError;

/// Any error, as the cause of another.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Classifies an error by what the caller should do next. HTTP status codes and the `errorType` of
/// a failed invocation are derived from it.
///
/// The order is the order of precedence where one invocation has several errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The request is invalid: the caller has to change it.
    InvalidRequest,
    /// No draft has that id.
    DraftNotFound,
    /// The save would fail again: an operator has to read the log.
    SaveFailed,
    /// The save may succeed when it is retried.
    ServiceUnavailable,
}

impl ErrorKind {
    /// Returns the name used as the `errorType` of a failed invocation, which state machines
    /// match on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "InvalidRequest",
            Self::DraftNotFound => "DraftNotFound",
            Self::SaveFailed => "SaveFailed",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// A failed save: a kind and a documented text for the caller, and a cause for the log.
#[derive(Debug, ThisError)]
#[error("{detail}")]
pub struct Error {
    kind: ErrorKind,
    detail: &'static str,
    #[source]
    cause: BoxError,
}

impl Error {
    /// Creates an error of the kind `InvalidRequest`; `detail` is sent to the caller.
    pub fn invalid_request(detail: &'static str, cause: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::InvalidRequest, detail, cause)
    }

    /// Creates an error of the kind `DraftNotFound`.
    pub fn draft_not_found(cause: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::DraftNotFound, "Draft does not exist", cause)
    }

    /// Creates an error of the kind `SaveFailed`.
    pub fn save_failed(cause: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::SaveFailed, "Save failed", cause)
    }

    /// Creates an error of the kind `ServiceUnavailable`.
    pub fn unavailable(cause: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::ServiceUnavailable, "Service unavailable", cause)
    }

    fn new(kind: ErrorKind, detail: &'static str, cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        Self {
            kind,
            detail,
            cause,
        }
    }

    /// Returns the kind of the error.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the text for the caller, as documented in `docs/openapi.yaml`.
    pub const fn detail(&self) -> &'static str {
        self.detail
    }

    /// Returns the cause and its sources in one line, for the log only.
    pub fn cause_chain(&self) -> String {
        chain(&*self.cause)
    }
}

/// Returns the texts of `error` and its sources in one line.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    for cause in successors(error.source(), |&cause| cause.source()) {
        let text = cause.to_string();
        // Many errors repeat their source in their own text.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
    }
    line
}

/// Describes `error` by its category and position only: its own text may quote the input, which
/// may contain credentials.
pub fn redact_json_error(error: &serde_json::Error) -> BoxError {
    let problem = match error.classify() {
        Category::Syntax => "invalid JSON",
        Category::Data => "unexpected JSON value",
        Category::Eof => "incomplete JSON",
        Category::Io => "unreadable JSON",
    };
    let (line, column) = (error.line(), error.column());
    format!("{problem} at line {line}, column {column}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_chain_has_each_text_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Cause {
            text: &'static str,
            source: std::num::ParseIntError,
        }

        let chain = |text| {
            let source = "x".parse::<u8>().expect_err("not a number");
            Error::unavailable(Cause { text, source }).cause_chain()
        };
        assert_eq!(chain("parse"), "parse: invalid digit found in string");
        let repeated = "parse: invalid digit found in string";
        assert_eq!(chain(repeated), repeated);
    }

    #[test]
    fn redacted_json_errors_do_not_quote_the_input() {
        for (input, expected) in [
            (r#""secret""#, "unexpected JSON value at line 1, column 8"),
            ("secret", "invalid JSON at line 1, column 1"),
            ("", "incomplete JSON at line 1, column 0"),
        ] {
            let error = serde_json::from_str::<u8>(input).expect_err("not a number");
            assert_eq!(redact_json_error(&error).to_string(), expected);
        }
    }
}
