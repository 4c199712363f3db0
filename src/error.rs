//! Why a draft was not saved, by what the caller should do next.

use std::error::Error as StdError;
use std::fmt;

/// The kinds of failure. Each is one instruction to the caller; HTTP statuses
/// and the `errorType` of a failed invocation follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The request is wrong: sending it again will not help.
    InvalidRequest,
    /// There is no draft with that id.
    DraftNotFound,
    /// It will not work, and somebody has to look at the log.
    SaveFailed,
    /// It may work if it is tried again.
    ServiceUnavailable,
}

impl Kind {
    /// The name that state machines catch and retry on, the `errorType` of a
    /// failed invocation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "InvalidRequest",
            Self::DraftNotFound => "DraftNotFound",
            Self::SaveFailed => "SaveFailed",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// What an error was caused by.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// The cause that `error` is, without what it found in the JSON: `serde_json` repeats that,
/// and it may be a URL with a password in it.
#[must_use]
pub fn unread(error: &serde_json::Error) -> Cause {
    let text = error.to_string();
    match text.rsplit_once(", expected ") {
        Some((_, expected)) => format!("expected {expected}").into(),
        None => text.into(),
    }
}

/// A save that did not happen: a kind and a text for the caller, and a cause
/// that is only for the log.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    detail: &'static str,
    cause: Cause,
}

impl Error {
    /// The request is wrong in the way that `detail` tells its sender.
    pub fn invalid_request(detail: &'static str, cause: impl Into<Cause>) -> Self {
        Self::new(Kind::InvalidRequest, detail, cause)
    }

    /// No draft has the id that was asked for.
    pub fn draft_not_found(cause: impl Into<Cause>) -> Self {
        Self::new(Kind::DraftNotFound, "Draft does not exist", cause)
    }

    /// The save failed, and would fail again.
    pub fn save_failed(cause: impl Into<Cause>) -> Self {
        Self::new(Kind::SaveFailed, "Save failed", cause)
    }

    /// The save failed for now.
    pub fn unavailable(cause: impl Into<Cause>) -> Self {
        Self::new(Kind::ServiceUnavailable, "Service unavailable", cause)
    }

    fn new(kind: Kind, detail: &'static str, cause: impl Into<Cause>) -> Self {
        Self {
            kind,
            detail,
            cause: cause.into(),
        }
    }

    /// What the caller should do next.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The text for the caller, as the API documents it.
    #[must_use]
    pub const fn detail(&self) -> &'static str {
        self.detail
    }

    /// The whole chain of causes in one line, for the log.
    #[must_use]
    pub fn causes(&self) -> String {
        let mut line = self.cause.to_string();
        let mut next = self.cause.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Many errors repeat their source in their own text.
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            next = cause.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.cause.as_ref())
    }
}
