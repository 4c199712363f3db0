//! Templates of object keys.

use std::str::FromStr;

use thiserror::Error;

use crate::draft::{DraftId, Version};

/// The error for a string that is not a key template.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidTemplate {
    /// A placeholder is missing or repeated.
    #[error("must contain {0} exactly once")]
    PlaceholderCount(&'static str),
    /// The template contains another brace or a control character.
    #[error("must not contain control characters or other placeholders")]
    ForbiddenCharacter,
    /// A key could be longer than S3 allows.
    #[error("must not give keys longer than {MAX_KEY_BYTES} bytes")]
    TooLong,
}

const DRAFT_ID: &str = "{draft_id}";
const VERSION: &str = "{version}";

/// Maximum length of a key, in bytes of UTF-8 ("Naming Amazon S3 objects", Amazon S3 User Guide).
pub const MAX_KEY_BYTES: usize = 1024;

/// Checks that `template` contains each of `placeholders` once, and nothing that a key must not
/// contain. Each placeholder comes with the maximum length of its values, in bytes.
fn check(template: &str, placeholders: &[(&'static str, usize)]) -> Result<(), InvalidTemplate> {
    let mut literal = template.to_owned();
    let mut max_bytes = 0;
    for &(placeholder, max_value_bytes) in placeholders {
        if template.matches(placeholder).count() != 1 {
            return Err(InvalidTemplate::PlaceholderCount(placeholder));
        }
        literal = literal.replace(placeholder, "");
        max_bytes += max_value_bytes;
    }
    if literal.contains(|c: char| c.is_control() || matches!(c, '{' | '}')) {
        return Err(InvalidTemplate::ForbiddenCharacter);
    }
    if max_bytes + literal.len() > MAX_KEY_BYTES {
        return Err(InvalidTemplate::TooLong);
    }
    Ok(())
}

/// The template `DRAFT_KEY`: the key of a draft's document, with the placeholder `{draft_id}`.
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
    /// Returns the key of the document of the draft `id`.
    #[must_use]
    pub fn render(&self, id: &DraftId) -> String {
        format!("{}{id}{}", self.prefix, self.suffix)
    }

    /// Returns the id of the draft whose document has the key `key`, or `None` if `key` is not the
    /// key of a document.
    #[must_use]
    pub fn parse_id(&self, key: &str) -> Option<DraftId> {
        let rest = key.strip_prefix(self.prefix.as_str())?;
        rest.strip_suffix(self.suffix.as_str())?.parse().ok()
    }
}

/// The template `SAVED_KEY`: the key of a version, with the placeholders `{draft_id}` and
/// `{version}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedKey(String);

impl FromStr for SavedKey {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let placeholders = [(DRAFT_ID, DraftId::MAX_BYTES), (VERSION, Version::BYTES)];
        check(text, &placeholders)?;
        Ok(Self(text.to_owned()))
    }
}

impl SavedKey {
    /// Returns the key of the version `version` of the draft `id`.
    #[must_use]
    pub fn render(&self, id: &DraftId, version: &Version) -> String {
        self.0
            .replace(DRAFT_ID, id.as_str())
            .replace(VERSION, version.as_str())
    }

    /// Returns whether versions and drafts may share keys in one bucket: whether the literal prefix
    /// of one template begins with that of the other.
    #[must_use]
    pub fn overlaps(&self, draft_key: &DraftKey) -> bool {
        let prefix = self.0.split('{').next().unwrap_or_default();
        prefix.starts_with(&draft_key.prefix) || draft_key.prefix.starts_with(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft_key(text: &str) -> DraftKey {
        text.parse().expect("a valid template")
    }

    fn saved_key(text: &str) -> SavedKey {
        text.parse().expect("a valid template")
    }

    #[test]
    fn renders_keys_and_reads_their_ids() {
        let key = draft_key("drafts/{draft_id}/draft_content.json");
        let id: DraftId = "abc".parse().expect("a valid id");
        assert_eq!(key.render(&id), "drafts/abc/draft_content.json");
        assert_eq!(key.parse_id("drafts/abc/draft_content.json"), Some(id));
        for other in [
            "drafts/abc/draft_meta_info.json",
            "drafts/abc/x/draft_content.json",
            "drafts//draft_content.json",
            "saved/abc/draft_content.json",
            "drafts/../draft_content.json",
        ] {
            assert_eq!(key.parse_id(other), None, "{other}");
        }
    }

    #[test]
    fn refuses_templates_that_cannot_give_keys() {
        use InvalidTemplate::{ForbiddenCharacter, PlaceholderCount, TooLong};

        let fill = |count: usize| "a".repeat(count);
        for (template, error) in [
            ("drafts/x.json".to_owned(), PlaceholderCount("{draft_id}")),
            (
                "{draft_id}{draft_id}".to_owned(),
                PlaceholderCount("{draft_id}"),
            ),
            ("{draft_id}/{version}".to_owned(), ForbiddenCharacter),
            ("{draft_id}}".to_owned(), ForbiddenCharacter),
            ("{draft_id}\n".to_owned(), ForbiddenCharacter),
            (format!("{{draft_id}}{}", fill(1024 - 63)), TooLong),
        ] {
            assert_eq!(template.parse::<DraftKey>(), Err(error), "{template:?}");
        }
        let longest = format!("{{draft_id}}{}", fill(1024 - 64));
        assert!(
            longest.parse::<DraftKey>().is_ok(),
            "1,024 bytes are allowed"
        );
        let saved = "saved/{draft_id}".parse::<SavedKey>();
        assert_eq!(saved, Err(PlaceholderCount("{version}")));
    }

    #[test]
    fn overlap_is_decided_by_the_literal_prefixes() {
        for (draft, saved, overlaps) in [
            (
                "drafts/{draft_id}/a.json",
                "saved/{draft_id}/{version}/a.json",
                false,
            ),
            (
                "drafts/{draft_id}/a.json",
                "drafts-saved/{draft_id}/{version}",
                false,
            ),
            (
                "drafts/{draft_id}/a.json",
                "drafts/{draft_id}/{version}/a.json",
                true,
            ),
            (
                "drafts/{draft_id}/a.json",
                "drafts/saved/{draft_id}/{version}",
                true,
            ),
            ("drafts/new/{draft_id}", "drafts/{draft_id}/{version}", true),
            ("{draft_id}/a.json", "saved/{draft_id}/{version}", true),
            ("drafts/{draft_id}", "{version}/{draft_id}", true),
        ] {
            let actual = saved_key(saved).overlaps(&draft_key(draft));
            assert_eq!(actual, overlaps, "{draft} and {saved}");
        }
    }
}
