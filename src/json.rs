//! JSON as Python's `json` reads it: RFC 8259, and `NaN`, `Infinity`, `-Infinity` and lone
//! surrogate escapes. (`serde_json` takes no `NaN`, `jiter` no lone surrogates.)

use thiserror::Error;

/// Why a text is not JSON; places are counted in bytes from 0.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NotJson {
    /// It ends where there has to be more.
    #[error("it is cut short")]
    CutShort,
    /// It has something in it that does not belong there.
    #[error("it is mangled at byte {0}")]
    Unexpected(usize),
    /// Over [`MAX_DEPTH`].
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// How deep a text may nest: past what Python's `json` reads (its recursion limit is
/// 1,000), so that only a hostile text is refused for it.
pub const MAX_DEPTH: usize = 10_000;

/// Checks that `text` is one complete value. Builds nothing: beside the text this needs
/// one byte for each level of nesting.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn check(text: &str) -> Result<(), NotJson> {
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
    };
    scanner.value()?;
    scanner.space();
    match scanner.peek() {
        None => Ok(()),
        Some(_) => Err(NotJson::Unexpected(scanner.at)),
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    /// The next byte.
    at: usize,
}

impl Scanner<'_> {
    /// Passes over a value, and all that is in it.
    fn value(&mut self) -> Result<(), NotJson> {
        // What ends each of the containers that this is inside of.
        let mut open = Vec::new();
        loop {
            self.space();
            let container = match self.next()? {
                b'{' => Some(b'}'),
                b'[' => Some(b']'),
                first => {
                    self.scalar(first)?;
                    None
                }
            };
            if let Some(end) = container {
                if open.len() == MAX_DEPTH {
                    return Err(NotJson::TooDeep);
                }
                self.space();
                if !self.take(end) {
                    open.push(end);
                    if end == b'}' {
                        self.key()?;
                    }
                    continue;
                }
            }
            // A value has ended: to the next beside it, and out of what ends with it.
            loop {
                let Some(&end) = open.last() else {
                    return Ok(());
                };
                self.space();
                match self.next()? {
                    b',' if end == b'}' => break self.key()?,
                    b',' => break,
                    byte if byte == end => open.pop(),
                    _ => return Err(self.unexpected()),
                };
            }
        }
    }

    fn scalar(&mut self, first: u8) -> Result<(), NotJson> {
        match first {
            b'"' => self.string(),
            b'-' if self.peek() == Some(b'I') => self.word("Infinity"),
            b'-' => {
                let digit = self.next()?;
                self.number(digit)
            }
            b'0'..=b'9' => self.number(first),
            b't' => self.word("rue"),
            b'f' => self.word("alse"),
            b'n' => self.word("ull"),
            b'N' => self.word("aN"),
            b'I' => self.word("nfinity"),
            _ => Err(self.unexpected()),
        }
    }

    /// The name of a field, and the colon behind it.
    fn key(&mut self) -> Result<(), NotJson> {
        self.space();
        if self.next()? != b'"' {
            return Err(self.unexpected());
        }
        self.string()?;
        self.space();
        match self.next()? {
            b':' => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// The rest of a string.
    fn string(&mut self) -> Result<(), NotJson> {
        let special = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().position(|&byte| special(byte));
            self.at += plain.ok_or(NotJson::CutShort)?;
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
            b'u' => {
                for _ in 0..4 {
                    if !self.next()?.is_ascii_hexdigit() {
                        return Err(self.unexpected());
                    }
                }
            }
            _ => return Err(self.unexpected()),
        }
        Ok(())
    }

    /// The rest of a number without its sign, whose first digit was `first`.
    fn number(&mut self, first: u8) -> Result<(), NotJson> {
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.unexpected()),
        }
        if self.take(b'.') {
            self.digit()?;
            self.digits();
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digit()?;
            self.digits();
        }
        Ok(())
    }

    fn digit(&mut self) -> Result<(), NotJson> {
        match self.next()? {
            b'0'..=b'9' => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn word(&mut self, rest: &str) -> Result<(), NotJson> {
        for byte in rest.bytes() {
            if self.next()? != byte {
                return Err(self.unexpected());
            }
        }
        Ok(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Takes the next byte if it is `byte`.
    fn take(&mut self, byte: u8) -> bool {
        let taken = self.peek() == Some(byte);
        self.at += usize::from(taken);
        taken
    }

    fn next(&mut self) -> Result<u8, NotJson> {
        let byte = self.peek().ok_or(NotJson::CutShort)?;
        self.at += 1;
        Ok(byte)
    }

    /// The last byte does not belong there.
    fn unexpected(&self) -> NotJson {
        NotJson::Unexpected(self.at - 1)
    }
}
