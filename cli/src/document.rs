//! The parts of a draft's document that people ask for: duration, canvas, tracks and materials.

use std::collections::BTreeMap;

use save_draft::draft::Sha256Digest;
use save_draft::draft::document::{self, DocumentKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::output::printable;

/// A document, as far as it can be read.
#[derive(Debug)]
pub enum Document {
    Plain(Box<Summary>),
    /// Written by Jianying 6 or newer.
    Encrypted,
    /// Contains the problem.
    Invalid(String),
}

/// The parts of a plain document. Whatever has an unexpected form is left out.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// In microseconds.
    #[serde(rename = "duration_us")]
    pub duration: Option<u64>,
    pub canvas: Option<Canvas>,
    pub fps: Option<f64>,
    pub tracks: Vec<Track>,
    /// The materials by their kind, like `videos`.
    pub materials: BTreeMap<String, Vec<Material>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Canvas {
    pub width: u64,
    pub height: u64,
    #[serde(default)]
    pub ratio: String,
}

#[derive(Debug, Serialize)]
pub struct Track {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub segments: Vec<Part>,
    /// Digest of the track without its segments.
    #[serde(skip)]
    pub digest: Sha256Digest,
}

/// A segment.
#[derive(Debug, Serialize)]
pub struct Part {
    pub id: String,
    #[serde(skip)]
    pub digest: Sha256Digest,
}

#[derive(Debug, Serialize)]
pub struct Material {
    pub id: String,
    pub name: Option<String>,
    pub path: Option<String>,
    #[serde(skip)]
    pub digest: Sha256Digest,
}

/// The fields of an object, each as it is written.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

impl Document {
    /// Reads a document.
    pub fn read(bytes: &[u8]) -> Self {
        match document::validate(bytes) {
            Ok(DocumentKind::Encrypted) => Self::Encrypted,
            Ok(DocumentKind::Plain) => Summary::read(&document::to_json(bytes)),
            Err(problem) => Self::Invalid(problem.to_string()),
        }
    }

    /// Returns the parts of a plain document.
    pub fn summary(&self) -> Option<&Summary> {
        match self {
            Self::Plain(summary) => Some(summary),
            _ => None,
        }
    }
}

impl Summary {
    fn read(json: &[u8]) -> Document {
        let fields: Fields<'_> = match serde_json::from_slice(json) {
            Ok(fields) => fields,
            Err(error) => return Document::Invalid(format!("the document is not read: {error}")),
        };
        let tracks = list(fields.get("tracks").copied());
        let materials: Fields<'_> = parse(fields.get("materials").copied()).unwrap_or_default();
        let materials = materials.into_iter().map(|(kind, raw)| {
            let materials = list(Some(raw)).into_iter().map(Material::read);
            (kind, materials.collect())
        });
        Document::Plain(Box::new(Self {
            duration: parse(fields.get("duration").copied()),
            canvas: parse(fields.get("canvas_config").copied()),
            fps: parse(fields.get("fps").copied()),
            tracks: tracks.into_iter().map(Track::read).collect(),
            materials: materials.collect(),
        }))
    }

    /// Returns the materials that are media files, with their kind and path: videos, images and sounds, and
    /// whatever lies in the folder of the draft `id`. Others, such as fonts and effects, belong to the editor.
    pub fn media<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let materials = self.materials.iter().flat_map(|(kind, materials)| {
            let paths = materials
                .iter()
                .filter_map(|material| material.path.as_deref());
            paths.map(move |path| (kind.as_str(), path))
        });
        materials.filter(move |(kind, path)| {
            let is_in_draft =
                || path.starts_with(PLACEHOLDER) || path.split(['/', '\\']).any(|part| part == id);
            !path.is_empty() && (matches!(*kind, "videos" | "audios") || is_in_draft())
        })
    }
}

/// Beginning of a path in the draft's folder, wherever the editor has it.
const PLACEHOLDER: &str = "##_draftpath_placeholder";

impl Track {
    /// Returns the type and the name, like `video "main"`.
    pub fn label(&self) -> String {
        let kind = printable(&self.kind);
        match self.name.as_str() {
            "" => kind.into_owned(),
            name => format!("{kind} \"{}\"", printable(name)),
        }
    }

    fn read(raw: &RawValue) -> Self {
        let mut fields: Fields<'_> = parse(Some(raw)).unwrap_or_default();
        let segments = list(fields.remove("segments")).into_iter().map(|raw| {
            let fields: Fields<'_> = parse(Some(raw)).unwrap_or_default();
            Part {
                id: text(&fields, "id").unwrap_or_default(),
                digest: digest(raw.get()),
            }
        });
        let segments = segments.collect();
        let without_segments: Vec<_> = fields
            .iter()
            .map(|(name, raw)| (name, digest(raw.get()).to_string()))
            .collect();
        Self {
            id: text(&fields, "id").unwrap_or_default(),
            kind: text(&fields, "type").unwrap_or_default(),
            name: text(&fields, "name").unwrap_or_default(),
            digest: Sha256Digest::of(&serde_json::to_vec(&without_segments).unwrap_or_default()),
            segments,
        }
    }
}

impl Material {
    fn read(raw: &RawValue) -> Self {
        let fields: Fields<'_> = parse(Some(raw)).unwrap_or_default();
        let path = text(&fields, "path").filter(|path| !path.is_empty());
        let names = ["material_name", "name"];
        let name = names.into_iter().find_map(|name| text(&fields, name));
        Self {
            id: text(&fields, "id").unwrap_or_default(),
            name: name.filter(|name| !name.is_empty()),
            path,
            digest: digest(raw.get()),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn list(raw: Option<&RawValue>) -> Vec<&RawValue> {
    parse(raw).unwrap_or_default()
}

fn text(fields: &Fields<'_>, name: &str) -> Option<String> {
    parse(fields.get(name).copied())
}

/// Returns the digest of a value, which does not depend on spaces and the order of fields.
fn digest(json: &str) -> Sha256Digest {
    let value: Option<Value> = serde_json::from_str(json).ok();
    let compact = value.map(|value| value.to_string());
    Sha256Digest::of(compact.as_deref().unwrap_or(json).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(json: &str) -> Summary {
        match Document::read(json.as_bytes()) {
            Document::Plain(summary) => *summary,
            other => panic!("expected a plain document, got {other:?}"),
        }
    }

    #[test]
    fn reads_the_parts_of_a_document() {
        let summary = summary(
            r#"{"duration":5000000,"fps":30.0,"canvas_config":{"width":1080,"height":1920,"ratio":"9:16"},
            "tracks":[{"id":"t","type":"video","name":"main","segments":[{"id":"s"}]}],
            "materials":{"videos":[{"id":"m","material_name":"a.mp4","path":"assets/a.mp4"}],"speeds":[]}}"#,
        );
        assert_eq!(summary.duration, Some(5_000_000));
        assert_eq!(
            summary.canvas.as_ref().map(|canvas| canvas.width),
            Some(1080)
        );
        assert_eq!(summary.tracks[0].name, "main");
        assert_eq!(summary.tracks[0].segments[0].id, "s");
        let material = &summary.materials["videos"][0];
        assert_eq!(material.name.as_deref(), Some("a.mp4"));
        assert_eq!(material.path.as_deref(), Some("assets/a.mp4"));
    }

    #[test]
    fn leaves_out_what_has_an_unexpected_form() {
        let summary = summary(
            r#"{"duration":"long","canvas_config":null,"tracks":[1,null,{"id":7,"segments":{}}],
            "tracks":[{"id":"last"}],"materials":{"videos":{"id":1},"texts":[NaN,{"name":"\ud800"}]}}"#,
        );
        assert_eq!(summary.duration, None);
        assert_eq!(summary.canvas, None);
        assert_eq!(summary.tracks.len(), 1);
        assert_eq!(summary.tracks[0].id, "last");
        assert_eq!(summary.materials["videos"].len(), 0);
        assert_eq!(summary.materials["texts"].len(), 2);
    }

    #[test]
    fn tells_encrypted_and_invalid_documents() {
        let encrypted = "QUJD".repeat(300);
        assert!(matches!(
            Document::read(encrypted.as_bytes()),
            Document::Encrypted
        ));
        for invalid in ["", "[]", "{", "QUJD"] {
            let document = Document::read(invalid.as_bytes());
            assert!(
                matches!(document, Document::Invalid(_)),
                "{invalid}: {document:?}"
            );
        }
    }

    #[test]
    fn media_are_videos_sounds_and_files_of_the_draft() {
        let summary = summary(
            r###"{"materials":{"videos":[{"path":"C:/a.mp4"},{"path":""},{}],"audios":[{"path":"assets/b.mp3"}],
            "effects":[{"path":"/cache/e"},{"path":"/app/draft/abc/e"},{"path":"##_draftpath_placeholder_1_##/e"}]}}"###,
        );
        let media: Vec<_> = summary.media("abc").collect();
        let expected = [
            ("audios", "assets/b.mp3"),
            ("effects", "/app/draft/abc/e"),
            ("effects", "##_draftpath_placeholder_1_##/e"),
            ("videos", "C:/a.mp4"),
        ];
        assert_eq!(media, expected);
    }

    #[test]
    fn digests_ignore_spaces_and_the_order_of_fields() {
        let digests = |json| summary(json).materials["texts"][0].digest;
        let one = digests(r#"{"materials":{"texts":[{"a":1,"b":[2]}]}}"#);
        assert_eq!(
            one,
            digests(r#"{"materials":{"texts":[{ "b": [ 2 ], "a": 1 }]}}"#)
        );
        assert_ne!(one, digests(r#"{"materials":{"texts":[{"a":1,"b":[3]}]}}"#));
    }
}
