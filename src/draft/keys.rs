//! Templates of object keys.

use std::borrow::Cow;
use std::str::FromStr;

use thiserror::Error;

use crate::draft::{DraftId, Sha256Digest, Version};

/// The error for a string that is not a key template.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InvalidTemplate {
    /// A placeholder is missing or repeated.
    #[error("must contain {0} exactly once")]
    PlaceholderCount(&'static str),
    /// The template contains another brace or a control character.
    #[error("must not contain control characters or other placeholders")]
    ForbiddenCharacter,
    /// The placeholders of `FILES_KEY` are in another order, or not separated.
    #[error(
        "must contain {{draft_id}}/, {{etag}}/ and {{path}} in this order, {{path}} at the end"
    )]
    PlaceholderOrder,
    /// A key could be longer than S3 allows.
    #[error("must not give keys longer than {MAX_KEY_BYTES} bytes")]
    TooLong,
}

const DRAFT_ID: &str = "{draft_id}";
const ETAG: &str = "{etag}";
const PATH: &str = "{path}";
const VERSION: &str = "{version}";

/// File name of the manifest.
const MANIFEST: &str = "files.json";

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

    /// Returns whether the template has a folder for each draft.
    #[must_use]
    pub fn has_folder(&self) -> bool {
        self.suffix.contains('/')
    }

    /// Returns the prefix of all objects in the folder of the draft `id`; see [`Self::has_folder`].
    #[must_use]
    pub fn render_folder(&self, id: &DraftId) -> String {
        let rest_of_name = self.suffix.split('/').next().unwrap_or_default();
        format!("{}{id}{rest_of_name}/", self.prefix)
    }

    /// Returns the part before the placeholder.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        &self.prefix
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

    /// Returns whether the template has a folder for each version, in which `files.json` is a valid
    /// key of its own.
    #[must_use]
    pub fn has_room_for_manifest(&self) -> bool {
        let after_version = self.0.split_once(VERSION).map_or("", |(_, rest)| rest);
        let has_own_folder = after_version.contains('/') && !after_version.contains(DRAFT_ID);
        let manifest: Result<Self, _> = manifest_beside(&self.0).parse();
        has_own_folder && manifest.is_ok_and(|manifest| manifest != *self)
    }

    /// Returns the key of the manifest of the version `version` of the draft `id`, `files.json` in
    /// the folder of the version; see [`Self::has_room_for_manifest`].
    #[must_use]
    pub fn render_manifest(&self, id: &DraftId, version: &Version) -> String {
        manifest_beside(&self.render(id, version))
    }

    /// Returns the part before the first placeholder.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        literal_prefix(&self.0)
    }
}

/// Returns the key of `files.json` in the folder of `key`.
fn manifest_beside(key: &str) -> String {
    let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{MANIFEST}")
}

/// The template `FILES_KEY`: the key of the copy of a file, with the placeholders `{draft_id}`,
/// `{etag}` and `{path}`, in this order and with `{path}` at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesKey(String);

impl FromStr for FilesKey {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let placeholders = [
            (DRAFT_ID, DraftId::MAX_BYTES),
            (ETAG, MAX_ETAG_BYTES),
            (PATH, 1),
        ];
        check(text, &placeholders)?;
        // Without the separators, two ids or two files could have the same key.
        let is_separated = text.contains("{draft_id}/") && text.contains("{etag}/");
        if !is_separated || !text.ends_with(PATH) || text.find(DRAFT_ID) > text.find(ETAG) {
            return Err(InvalidTemplate::PlaceholderOrder);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FilesKey {
    /// Returns the common prefix of all copies for the draft `id`.
    #[must_use]
    pub fn render_prefix(&self, id: &DraftId) -> String {
        let (prefix, _) = self.0.split_once(ETAG).unwrap_or_default();
        prefix.replace(DRAFT_ID, id.as_str())
    }

    /// Returns the key of the copy of the file `path` with the `ETag` `etag`.
    #[must_use]
    pub fn render(&self, id: &DraftId, etag: &str, path: &str) -> String {
        let rest = self.0.split_once(ETAG).map_or("", |(_, rest)| rest);
        let separator = rest.strip_suffix(PATH).unwrap_or_default();
        format!(
            "{}{}{separator}{path}",
            self.render_prefix(id),
            etag_text(etag)
        )
    }

    /// Returns the part before the first placeholder.
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        literal_prefix(&self.0)
    }
}

/// Maximum length of an `ETag` in a key, in bytes.
const MAX_ETAG_BYTES: usize = 64;

/// Returns an `ETag` as key text: without quotes, or its SHA-256 if it has other characters than
/// letters, digits and `-`.
fn etag_text(etag: &str) -> Cow<'_, str> {
    let text = etag.trim_matches('"');
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if (1..=MAX_ETAG_BYTES).contains(&text.len()) && text.bytes().all(is_allowed) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(Sha256Digest::of(etag.as_bytes()).to_string())
    }
}

fn literal_prefix(template: &str) -> &str {
    template.split('{').next().unwrap_or_default()
}

/// Returns whether one of two literal prefixes begins with the other, so that their templates may
/// give the same key.
#[must_use]
pub fn prefixes_overlap(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

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
            let (draft_key, saved_key) = (draft_key(draft), saved_key(saved));
            let actual = prefixes_overlap(draft_key.literal_prefix(), saved_key.literal_prefix());
            assert_eq!(actual, overlaps, "{draft} and {saved}");
        }
    }

    #[test]
    fn the_folder_of_a_draft_ends_after_its_id() {
        let id: DraftId = "abc".parse().expect("a valid id");
        for (template, folder) in [
            ("drafts/{draft_id}/draft_content.json", "drafts/abc/"),
            ("drafts/{draft_id}.d/a/b.json", "drafts/abc.d/"),
        ] {
            assert!(draft_key(template).has_folder(), "{template}");
            assert_eq!(draft_key(template).render_folder(&id), folder);
        }
        assert!(!draft_key("drafts/{draft_id}.json").has_folder());
    }

    #[test]
    fn the_manifest_is_in_the_folder_of_the_version() {
        let id: DraftId = "abc".parse().expect("a valid id");
        let version = Version::new(OffsetDateTime::UNIX_EPOCH, &Sha256Digest::of(b"{}"));
        let version = version.expect("a valid year");
        let key = saved_key("saved/{draft_id}/{version}/a.json");
        assert!(key.has_room_for_manifest());
        let manifest = key.render_manifest(&id, &version);
        assert_eq!(manifest, format!("saved/abc/{version}/files.json"));
        for template in [
            "saved/{draft_id}/{version}.json",
            "saved/{version}/{draft_id}/a.json",
            "saved/{draft_id}/{version}/files.json",
            &format!(
                "saved/{{draft_id}}/{{version}}/{}/a",
                "x".repeat(1024 - 6 - 64 - 1 - 81 - 3)
            ),
        ] {
            assert!(!saved_key(template).has_room_for_manifest(), "{template}");
        }
    }

    #[test]
    fn copies_have_the_state_of_the_file_in_their_key() {
        let id: DraftId = "abc".parse().expect("a valid id");
        let key: FilesKey = "saved-files/{draft_id}/{etag}/{path}"
            .parse()
            .expect("a template");
        assert_eq!(key.render_prefix(&id), "saved-files/abc/");
        let path = "assets/{etag} a+b%20/你.mp4";
        let copy = key.render(&id, "\"0123456789abcdef-2\"", path);
        assert_eq!(copy, format!("saved-files/abc/0123456789abcdef-2/{path}"));
        let copy = key.render(&id, "\"a/b\"", "x");
        let hash = Sha256Digest::of(b"\"a/b\"");
        assert_eq!(copy, format!("saved-files/abc/{hash}/x"));
        for template in [
            "saved-files/{etag}/{draft_id}/{path}",
            "saved-files/{draft_id}/{path}/{etag}",
            "saved-files/{draft_id}/{etag}/{path}/x",
            "saved-files/{draft_id}/{etag}{path}",
            "saved-files/{draft_id}{etag}/{path}",
        ] {
            let error = template.parse::<FilesKey>();
            assert_eq!(error, Err(InvalidTemplate::PlaceholderOrder), "{template}");
        }
    }
}
