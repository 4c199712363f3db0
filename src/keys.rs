//! Where things lie in S3: the templates of object keys.

use std::str::FromStr;

use thiserror::Error;

use crate::draft::{DraftId, Version};

/// Why a text is not a template.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidTemplate {
    /// A placeholder is missing, or there twice.
    #[error("it needs {0} exactly once")]
    NotOnce(&'static str),
    /// A brace that belongs to no placeholder, or a control character.
    #[error("it has a control character, or a brace that belongs to none of its placeholders")]
    Stray,
    /// Longer than a key can be once the placeholders are filled in.
    #[error("its keys would be longer than the {MAX_KEY_BYTES} bytes that S3 allows")]
    TooLong,
}

const DRAFT_ID: &str = "{draft_id}";
const VERSION: &str = "{version}";

/// "Naming Amazon S3 objects" (Amazon S3 User Guide): at most 1,024 bytes of UTF-8.
const MAX_KEY_BYTES: usize = 1024;

/// Checks that each of `placeholders` is once in `text`, and that a key made of it
/// is no longer than S3 allows; a placeholder comes with its value's most bytes.
fn check(text: &str, placeholders: &[(&'static str, usize)]) -> Result<(), InvalidTemplate> {
    let mut rest = text.to_owned();
    let mut longest = 0;
    for &(name, most) in placeholders {
        if text.matches(name).count() != 1 {
            return Err(InvalidTemplate::NotOnce(name));
        }
        rest = rest.replace(name, "");
        longest += most;
    }
    if rest.contains(|c: char| c.is_control() || matches!(c, '{' | '}')) {
        return Err(InvalidTemplate::Stray);
    }
    if longest + rest.len() > MAX_KEY_BYTES {
        return Err(InvalidTemplate::TooLong);
    }
    Ok(())
}

/// The key of a draft's document, with `{draft_id}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DraftKey {
    prefix: String,
    suffix: String,
}

impl FromStr for DraftKey {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check(text, &[(DRAFT_ID, DraftId::MAX_BYTES)])?;
        let (prefix, suffix) = text.split_once(DRAFT_ID).unwrap_or_default();
        Ok(Self {
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
        })
    }
}

impl DraftKey {
    /// The key of the document of the draft `id`.
    #[must_use]
    pub fn of(&self, id: &DraftId) -> String {
        format!("{}{id}{}", self.prefix, self.suffix)
    }

    /// The id of the draft whose document has this `key`, if it is one.
    #[must_use]
    pub fn id_in(&self, key: &str) -> Option<DraftId> {
        let rest = key.strip_prefix(self.prefix.as_str())?;
        rest.strip_suffix(self.suffix.as_str())?.parse().ok()
    }
}

/// The key of a saved version, with `{draft_id}` and `{version}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedKey(String);

impl FromStr for SavedKey {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let placeholders = [(DRAFT_ID, DraftId::MAX_BYTES), (VERSION, Version::BYTES)];
        check(text, &placeholders).map(|()| Self(text.to_owned()))
    }
}

impl SavedKey {
    /// The key of the `version` of the draft `id`.
    #[must_use]
    pub fn of(&self, id: &DraftId, version: &Version) -> String {
        let key = self.0.replace(DRAFT_ID, id.as_str());
        key.replace(VERSION, version.as_str())
    }

    /// Whether some saved version could have a key that `drafts` takes for a draft's,
    /// so that saving it would set off the next save.
    ///
    /// Reads a placeholder as "one or more characters of an id", which a version's are
    /// too, so it also refuses a pair that only the lengths keep apart.
    #[must_use]
    pub fn may_match(&self, drafts: &DraftKey) -> bool {
        let saved = self.0.replace(DRAFT_ID, ANY).replace(VERSION, ANY);
        let draft = format!("{}{ANY}{}", drafts.prefix, drafts.suffix);
        intersect(&pattern(&saved), &pattern(&draft))
    }
}

/// Stands for a placeholder in a pattern: templates have no control characters.
const ANY: &str = "\0";

/// The bytes of `text`, with `None` for [`ANY`].
fn pattern(text: &str) -> Vec<Option<u8>> {
    text.bytes()
        .map(|byte| (byte != 0).then_some(byte))
        .collect()
}

/// Whether one text fits both patterns, in which `None` stands for one or more
/// bytes of an id.
fn intersect(a: &[Option<u8>], b: &[Option<u8>]) -> bool {
    let fits = |x: Option<u8>, y: Option<u8>| match (x, y) {
        (Some(x), Some(y)) => x == y,
        (Some(byte), None) | (None, Some(byte)) => DraftId::allows(byte),
        (None, None) => true,
    };
    // `reach[j]`: some text takes the first i of `a` and the first j of `b`, the last
    // byte of it by both. A placeholder that took a byte may take the next one too.
    let mut reach = vec![false; b.len() + 1];
    reach[0] = true;
    for &x in a {
        let mut next = vec![false; b.len() + 1];
        for (j, &y) in b.iter().enumerate() {
            let stay_a = x.is_none() && next[j];
            let stay_b = y.is_none() && reach[j + 1];
            next[j + 1] = fits(x, y) && (reach[j] || stay_a || stay_b);
        }
        reach = next;
    }
    reach[b.len()]
}
