//! JSON as Python's `json` reads it: RFC 8259, and `NaN`, `Infinity`, `-Infinity` and lone
//! surrogate escapes. (`serde_json` takes no `NaN`, `jiter` no lone surrogates.)

#![allow(
    clippy::inline_always,
    reason = "as one loop it is faster, which the compiler does not see"
)]

use thiserror::Error;
use wide::u8x16;

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
        block: 0,
        marks: 0,
    };
    scanner.mark();
    scanner.text().map_err(|stop| match stop {
        Stop::TooDeep => NotJson::TooDeep,
        Stop::Here if scanner.at > text.len() => NotJson::CutShort,
        Stop::Here => NotJson::Unexpected(scanner.at - 1),
    })
}

/// Why the scanner goes no further. As small as this, a result fits into a register.
#[derive(Clone, Copy)]
enum Stop {
    /// The byte that was taken last does not belong there, or there was none.
    Here,
    TooDeep,
}

/// Stands for the end of the text: a byte that belongs nowhere in JSON.
const END: u8 = 0;

struct Scanner<'a> {
    bytes: &'a [u8],
    /// The next byte. Past the end of the text once that was taken.
    at: usize,
    /// Where the block begins that was looked through last.
    block: usize,
    /// Which of the block's bytes are [`specials`].
    marks: u64,
}

/// How many bytes are looked through at a time.
const BLOCK: usize = 64;

impl Scanner<'_> {
    fn text(&mut self) -> Result<(), Stop> {
        self.value()?;
        self.token();
        if self.at > self.bytes.len() {
            Ok(())
        } else {
            Err(Stop::Here)
        }
    }

    /// Passes over a value, and all that is in it.
    fn value(&mut self) -> Result<(), Stop> {
        // What ends each of the containers that this is inside of.
        let mut open = Vec::new();
        let mut first = self.token();
        loop {
            match first {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    if open.len() == MAX_DEPTH {
                        return Err(Stop::TooDeep);
                    }
                    let end = if first == b'{' { b'}' } else { b']' };
                    let token = self.token();
                    if token != end {
                        open.push(end);
                        first = self.member(end, token)?;
                        continue;
                    }
                }
                _ => self.scalar(first)?,
            }
            // A value has ended: to the next beside it, and out of what ends with it.
            loop {
                let Some(&end) = open.last() else {
                    return Ok(());
                };
                match self.token() {
                    b',' => {
                        let token = self.token();
                        first = self.member(end, token)?;
                        break;
                    }
                    token if token == end => open.pop(),
                    _ => return Err(Stop::Here),
                };
            }
        }
    }

    /// Passes over the name before a value, if it is in an object; `token` is the first of
    /// both. Returns the value's first byte.
    #[inline(always)]
    fn member(&mut self, end: u8, token: u8) -> Result<u8, Stop> {
        if end == b']' {
            return Ok(token);
        }
        if token != b'"' {
            return Err(Stop::Here);
        }
        self.string()?;
        match self.token() {
            b':' => Ok(self.token()),
            _ => Err(Stop::Here),
        }
    }

    fn scalar(&mut self, first: u8) -> Result<(), Stop> {
        match first {
            b'0'..=b'9' => self.number(first),
            b'-' => match self.next() {
                b'I' => self.word(b"nfinity"),
                digit => self.number(digit),
            },
            b't' => self.word(b"rue"),
            b'f' => self.word(b"alse"),
            b'n' => self.word(b"ull"),
            b'N' => self.word(b"aN"),
            b'I' => self.word(b"nfinity"),
            _ => Err(Stop::Here),
        }
    }

    /// The rest of a string.
    #[inline(always)]
    fn string(&mut self) -> Result<(), Stop> {
        loop {
            match self.special() {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                _ => return Err(Stop::Here),
            }
        }
    }

    /// Passes over what stands for itself in a string; takes what comes behind it.
    #[inline(always)]
    fn special(&mut self) -> u8 {
        loop {
            let done = self.at - self.block;
            if done < BLOCK {
                let marks = self.marks >> done;
                if marks != 0 {
                    self.at += marks.trailing_zeros() as usize;
                    return self.next();
                }
                self.at = self.block + BLOCK;
            }
            self.mark();
        }
    }

    /// Looks through the block that begins with the next byte.
    fn mark(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.block = self.at;
        self.marks = if let Some(block) = rest.first_chunk() {
            specials(block)
        } else {
            // What is beyond the end is marked, so that no search goes on there.
            let mut block = [END; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            specials(&block)
        };
    }

    fn escape(&mut self) -> Result<(), Stop> {
        match self.next() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => (0..4).try_for_each(|_| match self.next() {
                byte if byte.is_ascii_hexdigit() => Ok(()),
                _ => Err(Stop::Here),
            }),
            _ => Err(Stop::Here),
        }
    }

    /// The rest of a number without its sign, whose first digit was `first`.
    fn number(&mut self, first: u8) -> Result<(), Stop> {
        let mut behind = match first {
            b'0' => self.next(),
            b'1'..=b'9' => self.digits(),
            _ => return Err(Stop::Here),
        };
        if behind == b'.' {
            let digit = self.next();
            behind = self.some_digits(digit)?;
        }
        if matches!(behind, b'e' | b'E') {
            let digit = match self.next() {
                b'+' | b'-' => self.next(),
                digit => digit,
            };
            self.some_digits(digit)?;
        }
        // What is behind the number was only looked at.
        self.at -= 1;
        Ok(())
    }

    /// Takes the digits behind `first`, which has to be one too, and what is behind them.
    #[inline(always)]
    fn some_digits(&mut self, first: u8) -> Result<u8, Stop> {
        if first.is_ascii_digit() {
            Ok(self.digits())
        } else {
            Err(Stop::Here)
        }
    }

    /// Takes all digits that come, and what is behind them.
    #[inline(always)]
    fn digits(&mut self) -> u8 {
        loop {
            let byte = self.next();
            if !byte.is_ascii_digit() {
                return byte;
            }
        }
    }

    fn word(&mut self, rest: &[u8]) -> Result<(), Stop> {
        for &byte in rest {
            if self.next() != byte {
                return Err(Stop::Here);
            }
        }
        Ok(())
    }

    /// Takes the next byte that is no white space.
    #[inline(always)]
    fn token(&mut self) -> u8 {
        loop {
            let byte = self.next();
            if byte > b' ' || !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return byte;
            }
        }
    }

    /// Takes the next byte.
    #[inline(always)]
    fn next(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(END);
        self.at += 1;
        byte
    }
}

/// Marks the bytes of `block` that do not stand for themselves in a string, a bit for each,
/// the lowest first: quotes, backslashes, control characters.
#[inline(always)]
fn specials(block: &[u8; BLOCK]) -> u64 {
    let (lanes, _) = block.as_chunks();
    lanes.iter().rev().fold(0, |marks, lane| {
        let lane = u8x16::new(*lane);
        let control = lane.min(u8x16::splat(b' ' - 1)).simd_eq(lane);
        let quote = lane.simd_eq(u8x16::splat(b'"'));
        let backslash = lane.simd_eq(u8x16::splat(b'\\'));
        marks << 16 | u64::from((control | quote | backslash).to_bitmask())
    })
}
