//! `drafts diff`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hash, RandomState};

use anstyle::Style;
use save_draft::draft::{DraftId, Sha256Digest};
use serde::Serialize;

use super::Context;
use crate::contents::{Contents, VersionFile};
use crate::document::{Canvas, Document, Material, Part, Summary, Track};
use crate::error::{Outcome, Result};
use crate::history::{History, SavedVersion};
use crate::output::{GREEN, HEADER, RED, YELLOW, count, printable, size, video_time};
use crate::values;

/// Show what differs between two versions
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Lists the files that were added (+), removed (-) and changed (~), and for documents that are not \
                  encrypted the tracks, segments and materials.\n\nExample:\n  drafts diff 2025092811473036584258 20250928T1147 latest"
)]
pub struct Args {
    /// Id or URL of the draft
    #[arg(value_parser = values::draft_id)]
    id: DraftId,
    /// Name of the first version, a beginning of it, or latest
    old: String,
    /// Name of the second version, a beginning of it, or latest
    new: String,
}

/// The differences between two versions.
#[derive(Serialize)]
struct Diff {
    old: String,
    new: String,
    document: DocumentDiff,
    files: Changes<FileChange>,
}

#[derive(Serialize)]
struct DocumentDiff {
    old: Side,
    new: Side,
    is_changed: bool,
    /// `None` unless both documents are plain.
    parts: Option<PartsDiff>,
}

/// The document of one version.
#[derive(Serialize)]
struct Side {
    name: &'static str,
    bytes: u64,
    is_encrypted: bool,
}

#[derive(Serialize)]
struct PartsDiff {
    duration_us: Option<Change<Option<u64>>>,
    canvas: Option<Change<Option<Canvas>>>,
    fps: Option<Change<Option<f64>>>,
    tracks: Changes<TrackChange>,
    /// By kind, like `videos`.
    materials: BTreeMap<String, Changes<MaterialChange>>,
}

#[derive(Serialize)]
struct Change<T> {
    old: T,
    new: T,
}

#[derive(Serialize)]
struct Changes<T> {
    added: Vec<T>,
    removed: Vec<T>,
    changed: Vec<T>,
}

#[derive(Serialize)]
struct FileChange {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_bytes: Option<u64>,
}

#[derive(Serialize)]
struct TrackChange {
    id: String,
    label: String,
    /// The fields of the track, other than its segments, differ.
    has_changed_fields: bool,
    segments: Changes<String>,
}

#[derive(Serialize)]
struct MaterialChange {
    id: String,
    name: Option<String>,
    path: Option<String>,
}

/// A document and the files of a version.
struct Version {
    side: Side,
    document: Document,
    digest: Sha256Digest,
    files: Vec<VersionFile>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    let history = History::read(&context.store, &args.id).await?;
    let (old, new) = (history.find(&args.old)?, history.find(&args.new)?);
    let (old_name, new_name) = (history.short_name(old), history.short_name(new));
    let diff = Diff::new(
        (old.name.to_string(), read(context, &args.id, old).await?),
        (new.name.to_string(), read(context, &args.id, new).await?),
    );
    if context.output.is_json() {
        context.output.json(&diff)?;
    } else {
        context.output.print(&diff.text(old_name, new_name))?;
    }
    Ok(Outcome::Success)
}

/// Reads a version. Only the parts of its document stay in memory.
async fn read(context: &Context, id: &DraftId, version: &SavedVersion) -> Result<Version> {
    let contents = Contents::read(&context.store, id, version).await?;
    let document = Document::read(&contents.document);
    Ok(Version {
        side: Side {
            name: version.document_name.as_str(),
            bytes: version.document.size,
            is_encrypted: matches!(document, Document::Encrypted),
        },
        digest: Sha256Digest::of(&contents.document),
        document,
        files: contents.files,
    })
}

impl Diff {
    fn new((old_name, old): (String, Version), (new_name, new): (String, Version)) -> Self {
        let key = |file: &VersionFile| file.path.clone();
        let is_equal = |a: &VersionFile, b: &VersionFile| (a.size, &a.etag) == (b.size, &b.etag);
        let files = Changes::between(&old.files, &new.files, key, is_equal, |old, new| {
            FileChange {
                path: old
                    .or(new)
                    .map(|file| file.path.clone())
                    .unwrap_or_default(),
                old_bytes: old.map(|file| file.size),
                new_bytes: new.map(|file| file.size),
            }
        });
        let parts = match (old.document.summary(), new.document.summary()) {
            (Some(old), Some(new)) => Some(PartsDiff::new(old, new)),
            _ => None,
        };
        Self {
            old: old_name,
            new: new_name,
            document: DocumentDiff {
                is_changed: old.digest != new.digest,
                old: old.side,
                new: new.side,
                parts,
            },
            files,
        }
    }

    fn text(&self, old_name: &str, new_name: &str) -> String {
        let mut lines = Lines::default();
        let DocumentDiff {
            old,
            new,
            is_changed,
            parts,
        } = &self.document;
        lines.header(&format!("{old_name} -> {new_name}"));
        if old.name != new.name {
            lines.changed(&format!("document  {} -> {}", old.name, new.name));
        }
        if *is_changed {
            let sizes = match (size(old.bytes), size(new.bytes)) {
                (old, new) if old == new => new,
                (old, new) => format!("{old} -> {new}"),
            };
            let encrypted = match (old.is_encrypted, new.is_encrypted) {
                (false, false) => "",
                (true, true) => ", encrypted",
                (false, true) => ", now encrypted",
                (true, false) => ", no longer encrypted",
            };
            lines.changed(&format!("document  {sizes}{encrypted}"));
        }
        if let Some(parts) = parts {
            parts.write(&mut lines);
        }
        lines.changes(&self.files, |file| {
            let sizes = match (file.old_bytes, file.new_bytes) {
                (Some(old), Some(new)) => format!("{} -> {}", size(old), size(new)),
                (old, new) => size(old.or(new).unwrap_or_default()),
            };
            format!("file  {}  {sizes}", printable(&file.path))
        });
        lines.finish()
    }
}

impl PartsDiff {
    fn new(old: &Summary, new: &Summary) -> Self {
        let kinds: BTreeSet<_> = old.materials.keys().chain(new.materials.keys()).collect();
        let materials = kinds.into_iter().map(|kind| {
            let changes = Changes::between(
                materials(old, kind),
                materials(new, kind),
                |material: &Material| material.id.clone(),
                |a, b| a.digest == b.digest,
                |old, new| MaterialChange::new(new.or(old)),
            );
            (kind.clone(), changes)
        });
        let materials = materials.filter(|(_, changes)| !changes.is_empty());
        Self {
            duration_us: Change::between(old.duration, new.duration),
            canvas: Change::between(old.canvas.clone(), new.canvas.clone()),
            fps: Change::between(old.fps, new.fps),
            materials: materials.collect(),
            tracks: Changes::between(
                &old.tracks,
                &new.tracks,
                |track: &Track| track.id.clone(),
                |a, b| {
                    let digest = |part: &Part| part.digest;
                    a.digest == b.digest
                        && a.segments
                            .iter()
                            .map(digest)
                            .eq(b.segments.iter().map(digest))
                },
                TrackChange::new,
            ),
        }
    }

    fn write(&self, lines: &mut Lines) {
        if let Some(Change { old, new }) = &self.duration_us {
            let time = |time: Option<u64>| time.map_or("none".to_owned(), video_time);
            lines.changed(&format!("duration  {} -> {}", time(*old), time(*new)));
        }
        if let Some(Change { old, new }) = &self.canvas {
            let canvas = |canvas: &Option<Canvas>| match canvas {
                Some(canvas) => format!("{} x {}", canvas.width, canvas.height),
                None => "none".to_owned(),
            };
            lines.changed(&format!("canvas  {} -> {}", canvas(old), canvas(new)));
        }
        if let Some(Change { old, new }) = &self.fps {
            let fps = |fps: &Option<f64>| fps.map_or("none".to_owned(), |fps| fps.to_string());
            lines.changed(&format!("fps  {} -> {}", fps(old), fps(new)));
        }
        lines.changes(&self.tracks, |track| {
            let segments = &track.segments;
            let counts = [
                (segments.added.len(), "added"),
                (segments.removed.len(), "removed"),
                (segments.changed.len(), "changed"),
            ];
            let counts = counts.iter().filter(|(number, _)| *number > 0);
            let mut changes: Vec<_> = counts
                .map(|&(number, what)| format!("{} {what}", count(number as u64, "segment")))
                .collect();
            if track.has_changed_fields {
                changes.push("properties changed".to_owned());
            }
            if changes.is_empty() {
                changes.push("segments reordered".to_owned());
            }
            format!("track  {}: {}", track.label, changes.join(", "))
        });
        for (kind, changes) in &self.materials {
            lines.changes(changes, |material| {
                let name = material.name.as_ref().or(material.path.as_ref());
                let name = name.unwrap_or(&material.id);
                format!("material  {}: {}", printable(kind), printable(name))
            });
        }
    }
}

fn materials<'a>(summary: &'a Summary, kind: &str) -> &'a [Material] {
    summary.materials.get(kind).map_or(&[], Vec::as_slice)
}

impl TrackChange {
    /// A track that was added or removed has all its segments as added or removed.
    fn new(old: Option<&Track>, new: Option<&Track>) -> Self {
        let track = new.or(old);
        Self {
            id: track.map(|track| track.id.clone()).unwrap_or_default(),
            label: track.map(Track::label).unwrap_or_default(),
            has_changed_fields: old
                .zip(new)
                .is_some_and(|(old, new)| old.digest != new.digest),
            segments: Changes::between(
                old.map_or(&[], |track| &track.segments),
                new.map_or(&[], |track| &track.segments),
                |segment: &Part| segment.id.clone(),
                |a, b| a.digest == b.digest,
                |old, new| {
                    new.or(old)
                        .map(|segment| segment.id.clone())
                        .unwrap_or_default()
                },
            ),
        }
    }
}

impl MaterialChange {
    fn new(material: Option<&Material>) -> Self {
        let text = |text: fn(&Material) -> Option<&String>| material.and_then(text).cloned();
        Self {
            id: text(|material| Some(&material.id)).unwrap_or_default(),
            name: text(|material| material.name.as_ref()),
            path: text(|material| material.path.as_ref()),
        }
    }
}

impl<T: PartialEq> Change<T> {
    fn between(old: T, new: T) -> Option<Self> {
        (old != new).then_some(Self { old, new })
    }
}

impl<C> Changes<C> {
    /// Pairs the items with equal keys, the first with the first, and so on, and compares the pairs.
    fn between<'a, T, K: Hash + Eq>(
        old: &'a [T],
        new: &'a [T],
        key: impl Fn(&T) -> K,
        is_equal: impl Fn(&T, &T) -> bool,
        change: impl Fn(Option<&'a T>, Option<&'a T>) -> C,
    ) -> Self {
        let mut old_by_key: HashMap<(K, usize), &T> = HashMap::new();
        for (key, item) in numbered(old, &key) {
            old_by_key.insert(key, item);
        }
        let mut changes = Self {
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
        };
        for (key, item) in numbered(new, &key) {
            match old_by_key.remove(&key) {
                None => changes.added.push(change(None, Some(item))),
                Some(old) if is_equal(old, item) => {}
                Some(old) => changes.changed.push(change(Some(old), Some(item))),
            }
        }
        // In the order of the old items.
        for (key, item) in numbered(old, &key) {
            if old_by_key.contains_key(&key) {
                changes.removed.push(change(Some(item), None));
            }
        }
        changes
    }

    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

/// Numbers the items with equal keys.
fn numbered<T, K: Hash + Eq>(
    items: &[T],
    key: impl Fn(&T) -> K,
) -> impl Iterator<Item = ((K, usize), &T)> {
    let hasher = RandomState::new();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    items.iter().map(move |item| {
        let key = key(item);
        let number = counts.entry(hasher.hash_one(&key)).or_default();
        *number += 1;
        ((key, *number), item)
    })
}

/// Lines with a sign and a colour.
#[derive(Default)]
struct Lines {
    text: String,
    count: usize,
}

impl Lines {
    fn header(&mut self, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{HEADER}{text}{HEADER:#}");
    }

    fn changed(&mut self, text: &str) {
        self.line(YELLOW, '~', text);
    }

    fn changes<T>(&mut self, changes: &Changes<T>, text: impl Fn(&T) -> String) {
        let groups = [
            (GREEN, '+', &changes.added),
            (RED, '-', &changes.removed),
            (YELLOW, '~', &changes.changed),
        ];
        for (style, sign, changes) in groups {
            for change in changes {
                self.line(style, sign, &text(change));
            }
        }
    }

    fn line(&mut self, style: Style, sign: char, text: &str) {
        let _ = writeln!(self.text, "{style}{sign} {text}{style:#}");
        self.count += 1;
    }

    fn finish(mut self) -> String {
        if self.count == 0 {
            self.text
                .push_str("no differences: the same content was written again\n");
        }
        self.text
    }
}
