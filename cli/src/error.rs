//! Results of a command: success, problems that it found, and errors that say what to do.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use save_draft::error::chain;

/// The result of whatever can fail in a command.
pub type Result<T> = std::result::Result<T, Error>;

/// The end of a command that did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Exit status 0.
    Success,
    /// Exit status 1: the command found problems, and has printed them.
    ProblemsFound,
}

impl Outcome {
    /// Returns the exit status.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Success => ExitCode::SUCCESS,
            Self::ProblemsFound => ExitCode::from(1),
        }
    }
}

/// The reason why a command could not do its work. Its text says what is wrong and where, and its advice what to
/// do.
#[derive(Debug)]
pub struct Error {
    text: String,
    advice: Option<String>,
    is_closed_pipe: bool,
    is_problem: bool,
}

impl Error {
    /// Creates an error with this text: no capital, no full stop.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            advice: None,
            is_closed_pipe: false,
            is_problem: false,
        }
    }

    /// Creates the error for a version that is damaged or incomplete. Its exit status is that of a found problem.
    pub fn problem(text: impl Into<String>) -> Self {
        Self {
            is_problem: true,
            ..Self::new(text)
        }
    }

    /// Returns whether the error is a found problem.
    pub fn is_problem(&self) -> bool {
        self.is_problem
    }

    /// Adds what to do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds what to do, beside the advice that the error has.
    pub fn advise_also(self, advice: &str) -> Self {
        let first = self.advice.as_deref();
        let advice = first.map_or_else(|| advice.to_owned(), |first| format!("{first} {advice}"));
        self.advise(advice)
    }

    /// Creates the error of an operation on a file or on the terminal; `action` is like `cannot write x.json`.
    pub fn io(action: impl fmt::Display, error: &io::Error) -> Self {
        Self {
            is_closed_pipe: error.kind() == io::ErrorKind::BrokenPipe,
            ..Self::new(format!("{action}: {}", chain(error)))
        }
    }

    /// Returns the outcome after the output was printed. If nobody reads it, problems that were found still count.
    pub fn printed(printed: Result<()>, outcome: Outcome) -> Result<Outcome> {
        match printed {
            Err(error) if error.is_closed_pipe => Ok(outcome),
            printed => printed.map(|()| outcome),
        }
    }

    /// Prints the error and returns the exit status: 1 for a found problem, else 2. A reader of the output that
    /// stops reading, like `head`, is no error.
    pub fn report(&self) -> ExitCode {
        if self.is_closed_pipe {
            return ExitCode::SUCCESS;
        }
        let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
        let mut stderr = anstream::stderr().lock();
        // Nobody reads an error of standard error.
        let _ = writeln!(stderr, "{red}error:{red:#} {}", self.text);
        if let Some(advice) = &self.advice {
            let _ = writeln!(stderr, "  {advice}");
        }
        ExitCode::from(if self.is_problem { 1 } else { 2 })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Error {}
