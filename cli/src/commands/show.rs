//! `drafts show`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use save_draft::draft::DraftId;
use serde::Serialize;

use super::Context;
use crate::contents::{Contents, total_bytes};
use crate::document::{Document, Summary};
use crate::error::{Outcome, Result};
use crate::history::{History, SavedVersion};
use crate::output::{HEADER, YELLOW, count, printable, size, video_time};
use crate::relink::KnownPaths;
use crate::values;

/// Show the files, tracks and materials of a version
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Also lists the media that the document names and the version does not have. Of an encrypted \
                  document, only the size is shown.\n\nExample:\n  drafts show 2025092811473036584258 20250928T1147"
)]
pub struct Args {
    /// Id or URL of the draft
    #[arg(value_parser = values::draft_id)]
    id: DraftId,
    /// Name of the version, a beginning of it, or latest
    #[arg(default_value = "latest")]
    version: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    version: &'a str,
    state_time: Timestamp,
    saved_at: Timestamp,
    document: DocumentShown<'a>,
    /// True if the version has the draft's other files.
    has_files: bool,
    files: Vec<FileShown<'a>>,
    /// Media that the document names and the version does not have.
    missing_media: Vec<Media<'a>>,
}

#[derive(Serialize)]
struct DocumentShown<'a> {
    name: &'a str,
    bytes: u64,
    is_encrypted: bool,
    #[serde(flatten)]
    summary: Option<&'a Summary>,
}

#[derive(Serialize)]
struct FileShown<'a> {
    path: &'a str,
    bytes: u64,
}

#[derive(Serialize)]
struct Media<'a> {
    material: &'a str,
    path: &'a str,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    let history = History::read(&context.store, &args.id).await?;
    let version = history.find(&args.version)?;
    let contents = Contents::read(&context.store, &args.id, version).await?;
    let document = Document::read(&contents.document);
    let shown = Shown {
        version: version.name.as_str(),
        state_time: version.state_time(),
        saved_at: version.saved_at,
        document: DocumentShown {
            name: version.document_name.as_str(),
            bytes: version.document.size,
            is_encrypted: matches!(document, Document::Encrypted),
            summary: document.summary(),
        },
        has_files: version.manifest.is_some(),
        files: contents
            .files
            .iter()
            .map(|file| FileShown {
                path: &file.path,
                bytes: file.size,
            })
            .collect(),
        missing_media: missing_media(&args.id, &document, &contents),
    };
    if context.output.is_json() {
        context.output.json(&shown)?;
    } else {
        context
            .output
            .print(&text(context, version, &document, &shown))?;
    }
    Ok(Outcome::Success)
}

/// Returns the media that the document names and the version does not have, each path once.
fn missing_media<'a>(
    id: &'a DraftId,
    document: &'a Document,
    contents: &'a Contents,
) -> Vec<Media<'a>> {
    let Some(summary) = document.summary() else {
        return Vec::new();
    };
    let mut paths = KnownPaths::default();
    for file in &contents.files {
        paths.add(&file.path);
    }
    let missing = summary
        .media(id.as_str())
        .filter(|(_, path)| !paths.has_end_of(path));
    let by_path: BTreeMap<_, _> = missing.map(|(material, path)| (path, material)).collect();
    let media = by_path.into_iter();
    media
        .map(|(path, material)| Media { material, path })
        .collect()
}

fn text(
    context: &Context,
    version: &SavedVersion,
    document: &Document,
    shown: &Shown<'_>,
) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{HEADER}{name:<11}{HEADER:#}{value}");
    };
    line("version", shown.version);
    line("state", &context.output.time(shown.state_time));
    line("saved", &context.output.time(shown.saved_at));
    let kind = match document {
        Document::Plain(_) => String::new(),
        Document::Encrypted => ", encrypted".to_owned(),
        Document::Invalid(problem) => format!(", {problem}"),
    };
    let document_size = size(version.document.size);
    line(
        "document",
        &format!("{}, {document_size}{kind}", shown.document.name),
    );
    if let Some(summary) = shown.document.summary {
        for (name, value) in summary_lines(summary) {
            line(name, &value);
        }
    }
    if shown.has_files {
        let bytes = total_bytes(shown.files.iter().map(|file| file.bytes));
        let files = count(shown.files.len() as u64, "file");
        line("files", &format!("{files}, {}", size(bytes)));
    } else {
        line("files", "none: the version has the document only");
    }
    for file in &shown.files {
        let _ = writeln!(text, "{:>12}  {}", size(file.bytes), printable(file.path));
    }
    if !shown.missing_media.is_empty() {
        let media = count(shown.missing_media.len() as u64, "media file");
        let _ = writeln!(
            text,
            "{YELLOW}{media} of the document not in the version:{YELLOW:#}"
        );
        for media in &shown.missing_media {
            let _ = writeln!(
                text,
                "  {:<10}  {}",
                printable(media.material),
                printable(media.path)
            );
        }
    }
    text
}

/// Returns the lines about a plain document: names and values.
fn summary_lines(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(duration) = summary.duration {
        lines.push(("duration", video_time(duration)));
    }
    if let Some(canvas) = &summary.canvas {
        let ratio = match canvas.ratio.as_str() {
            "" => String::new(),
            ratio => format!(", {}", printable(ratio)),
        };
        let fps = summary.fps.map(|fps| format!(", {fps} fps"));
        let fps = fps.unwrap_or_default();
        lines.push((
            "canvas",
            format!("{} x {}{ratio}{fps}", canvas.width, canvas.height),
        ));
    }
    for (index, track) in summary.tracks.iter().enumerate() {
        let name = if index == 0 { "tracks" } else { "" };
        let segments = count(track.segments.len() as u64, "segment");
        lines.push((name, format!("{}: {segments}", track.label())));
    }
    let kinds = summary.materials.iter();
    let kinds = kinds.filter(|(_, materials)| !materials.is_empty());
    let kinds: Vec<_> = kinds
        .map(|(kind, materials)| format!("{} {}", materials.len(), printable(kind)))
        .collect();
    if !kinds.is_empty() {
        lines.push(("materials", kinds.join(", ")));
    }
    lines
}
