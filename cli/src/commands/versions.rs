//! `drafts versions`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use save_draft::draft::{DraftId, keys};
use serde::Serialize;

use super::Context;
use crate::concurrent::panicked;
use crate::contents::Contents;
use crate::error::{Outcome, Result};
use crate::history::{History, MemoryBudget, SavedVersion};
use crate::output::{Align, count, size};
use crate::store::{Bucket, CONCURRENCY, Object};
use crate::values;

/// List the versions of a draft, newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "UNSHARED are the stored bytes that no other version shares.\n\nExample:\n  drafts versions 2025092811473036584258"
)]
pub struct Args {
    /// Id or URL of the draft
    #[arg(value_parser = values::draft_id)]
    id: DraftId,
}

/// A row of the table.
#[derive(Serialize)]
struct Row<'a> {
    version: &'a str,
    /// The time of the state.
    state_time: Timestamp,
    /// The time of the save.
    saved_at: Timestamp,
    document: &'a str,
    document_bytes: u64,
    /// Number of the other files; none if only the document was saved, or the manifest is not readable.
    files: Option<u64>,
    files_bytes: Option<u64>,
    unshared_bytes: u64,
    #[serde(skip)]
    has_manifest: bool,
}

/// The files of one or more versions, which have equal manifests.
struct FileSet {
    versions: Vec<usize>,
    /// Hash of the key, and size of each copy; or the problem of the manifest.
    copies: std::result::Result<Vec<(u64, u64)>, String>,
}

/// The versions that use a copy.
#[derive(Clone, Copy)]
enum Users {
    One(usize),
    Several,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    let history = History::read(&context.store, &args.id).await?;
    let sets = read_files(context, &history).await?;
    let (rows, stored) = rows(&history, &sets);
    if context.output.is_json() {
        context.output.json(&rows)?;
        return Ok(Outcome::Success);
    }
    if rows.is_empty() {
        let url = context.store.url(Bucket::Saved, &keys::versions(&args.id));
        context
            .output
            .note(&format!("there are no versions in {url}"));
        return Ok(Outcome::Success);
    }
    let names = history.short_names();
    let columns = [
        ("VERSION", Align::Left),
        ("STATE", Align::Left),
        ("SAVED", Align::Left),
        ("DOCUMENT", Align::Right),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        ("UNSHARED", Align::Right),
    ];
    let unknown = |row: &Row<'_>| if row.has_manifest { "?" } else { "-" }.to_owned();
    let cells = rows.iter().map(|row| {
        vec![
            names
                .get(row.version)
                .copied()
                .unwrap_or(row.version)
                .to_owned(),
            context.output.time(row.state_time),
            context.output.time(row.saved_at),
            size(row.document_bytes),
            row.files
                .map_or_else(|| unknown(row), |files| files.to_string()),
            row.files_bytes.map_or_else(|| unknown(row), size),
            size(row.unshared_bytes),
        ]
    });
    let mut text = context.output.table(&columns, cells);
    let versions = count(rows.len() as u64, "version");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{versions}, {} stored", size(stored));
    context.output.print(&text)?;
    Ok(Outcome::Success)
}

/// Reads the manifests, each content once: many versions differ in their document only.
async fn read_files(context: &Context, history: &History) -> Result<Vec<FileSet>> {
    let mut versions_of: HashMap<(&str, u64), Vec<usize>> = HashMap::new();
    for (index, version) in history.versions.iter().enumerate() {
        if let Some(Object { etag, size, .. }) = &version.manifest {
            versions_of.entry((etag, *size)).or_default().push(index);
        }
    }
    let bar = context
        .output
        .count_bar("manifests", versions_of.len() as u64);
    let memory = MemoryBudget::default();
    let hasher = RandomState::new();
    let mut sets = stream::iter(versions_of.into_values())
        .map(|versions| {
            let (store, id, hasher) = (context.store.clone(), history.id.clone(), hasher.clone());
            let memory = memory.clone();
            let version = history.versions[versions[0]].clone();
            tokio::spawn(async move {
                let _memory = memory.reserve(&version).await;
                let copies = match Contents::read_files(&store, &id, &version).await {
                    Ok(files) => {
                        let copies = files.iter();
                        let copies = copies
                            .map(|file| (hasher.hash_one((&file.path, &file.etag)), file.size));
                        Ok(copies.collect())
                    }
                    Err(error) if error.is_problem() => Err(error.to_string()),
                    Err(error) => return Err(error),
                };
                Ok(FileSet { versions, copies })
            })
        })
        .buffer_unordered(CONCURRENCY);
    let mut read = Vec::new();
    while let Some(set) = sets.next().await {
        let set = set.map_err(panicked)??;
        if let Err(problem) = &set.copies {
            bar.suspend(|| context.output.warn(problem));
        }
        read.push(set);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(read)
}

/// Returns the rows, newest first, and the size of all objects.
fn rows<'a>(history: &'a History, sets: &[FileSet]) -> (Vec<Row<'a>>, u64) {
    let mut rows: Vec<_> = history.versions.iter().map(Row::new).collect();
    let mut users: HashMap<u64, (Users, u64)> = HashMap::new();
    for set in sets {
        let Ok(copies) = &set.copies else {
            continue;
        };
        for &index in &set.versions {
            rows[index].files = Some(copies.len() as u64);
            rows[index].files_bytes = Some(copies.iter().map(|(_, size)| size).sum());
        }
        let set_users = match set.versions.as_slice() {
            &[index] => Users::One(index),
            _ => Users::Several,
        };
        for &(copy, size) in copies {
            let known = users.entry(copy);
            known
                .and_modify(|(users, _)| *users = Users::Several)
                .or_insert((set_users, size));
        }
    }
    let mut stored: u64 = rows.iter().map(|row| row.unshared_bytes).sum();
    for (users, size) in users.into_values() {
        stored += size;
        if let Users::One(index) = users {
            rows[index].unshared_bytes += size;
        }
    }
    rows.reverse();
    (rows, stored)
}

impl<'a> Row<'a> {
    /// Creates the row of a version, without its files.
    fn new(version: &'a SavedVersion) -> Self {
        let manifest_bytes = version
            .manifest
            .as_ref()
            .map_or(0, |manifest| manifest.size);
        Self {
            version: version.name.as_str(),
            state_time: version.state_time(),
            saved_at: version.saved_at,
            document: version.document_name.as_str(),
            document_bytes: version.document.size,
            files: None,
            files_bytes: None,
            unshared_bytes: version.document.size + manifest_bytes,
            has_manifest: version.manifest.is_some(),
        }
    }
}
