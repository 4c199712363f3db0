//! `drafts versions`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::future::ready;
use std::hash::{BuildHasher as _, RandomState};

use futures_util::{StreamExt as _, stream};
use indicatif::ProgressBar;
use jiff::Timestamp;
use save_draft::draft::{DraftId, keys};
use serde::Serialize;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::Context;
use crate::concurrent::panicked;
use crate::contents::{Contents, total_bytes};
use crate::error::{Error, Outcome, Result};
use crate::history::{History, MemoryBudget, SavedVersion, is_manifest};
use crate::output::{Align, count, size};
use crate::store::{Bucket, CONCURRENCY, Object, Store};
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
    has_manifest: bool,
    /// Number of the other files; none if only the document was saved, or the manifest is not readable.
    files: Option<u64>,
    files_bytes: Option<u64>,
    unshared_bytes: u64,
}

/// The content of a manifest: its `ETag` and size. Many versions differ in their document only.
type Content = (String, u64);

/// The copies in a manifest: the hash of the key and the size of each. Or the problem of the manifest.
type Copies = std::result::Result<Vec<(u64, u64)>, String>;

/// The versions that use a copy.
#[derive(Clone, Copy)]
enum Users {
    One(usize),
    Several,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    // The manifests are read while the versions are listed.
    let (sender, listed) = mpsc::unbounded_channel();
    let bar = context.output.count_bar("manifests", 0);
    let reads = read_manifests(context.store.clone(), args.id.clone(), bar, listed);
    let reads = tokio::spawn(reads);
    // Nothing receives them after an error, which `reads` returns.
    let on_object = move |object: &Object| drop(sender.send(object.clone()));
    let (history, copies) = tokio::try_join!(
        History::read_with(&context.store, &args.id, on_object),
        async { reads.await.map_err(panicked)? },
    )?;
    let (rows, stored) = rows(context, &history, &copies);
    let is_damaged = |row: &Row<'_>| row.has_manifest && row.files.is_none();
    let outcome = if rows.iter().any(is_damaged) {
        Outcome::ProblemsFound
    } else {
        Outcome::Success
    };
    if context.output.is_json() {
        return Error::printed(context.output.json(&rows), outcome);
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
    Error::printed(context.output.print(&text), outcome)
}

/// Reads those of the listed objects that are manifests, each content once.
async fn read_manifests(
    store: Store,
    id: DraftId,
    bar: ProgressBar,
    mut listed: UnboundedReceiver<Object>,
) -> Result<HashMap<Content, Copies>> {
    let memory = MemoryBudget::default();
    let hasher = RandomState::new();
    let mut contents = HashSet::new();
    let listed = stream::poll_fn(|cx| listed.poll_recv(cx));
    let new =
        listed.filter(|object| ready(is_manifest(&object.key) && contents.insert(content(object))));
    let mut reads = new
        .map(|manifest| {
            bar.inc_length(1);
            let (store, id, hasher) = (store.clone(), id.clone(), hasher.clone());
            let memory = memory.clone();
            tokio::spawn(async move {
                let _memory = memory.reserve_bytes(manifest.size).await;
                let copies = match Contents::read_manifest(&store, &id, &manifest).await {
                    Ok(files) => {
                        let copies = files.iter();
                        let copies = copies
                            .map(|file| (hasher.hash_one((&file.path, &file.etag)), file.size));
                        Ok(copies.collect())
                    }
                    Err(error) if error.is_problem() => Err(error.to_string()),
                    Err(error) => return Err(error),
                };
                Ok((content(&manifest), copies))
            })
        })
        .buffer_unordered(CONCURRENCY);
    let mut read = HashMap::new();
    while let Some(manifest) = reads.next().await {
        read.extend([manifest.map_err(panicked)??]);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(read)
}

fn content(manifest: &Object) -> Content {
    (manifest.etag.clone(), manifest.size)
}

/// Returns the rows, newest first, and the size of all objects.
fn rows<'a>(
    context: &Context,
    history: &'a History,
    copies: &HashMap<Content, Copies>,
) -> (Vec<Row<'a>>, u64) {
    let mut rows: Vec<_> = history.versions.iter().map(Row::new).collect();
    let mut versions: HashMap<Content, Vec<usize>> = HashMap::new();
    for (index, version) in history.versions.iter().enumerate() {
        if let Some(manifest) = &version.manifest {
            versions.entry(content(manifest)).or_default().push(index);
        }
    }
    let mut users: HashMap<u64, (Users, u64)> = HashMap::new();
    for (content, versions) in versions {
        let copies = match copies.get(&content) {
            Some(Ok(copies)) => copies,
            Some(Err(problem)) => {
                context.output.warn(problem);
                continue;
            }
            None => continue,
        };
        for &index in &versions {
            rows[index].files = Some(copies.len() as u64);
            rows[index].files_bytes = Some(total_bytes(copies.iter().map(|(_, size)| *size)));
        }
        let set_users = match versions.as_slice() {
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
    let mut stored = total_bytes(rows.iter().map(|row| row.unshared_bytes));
    for (users, size) in users.into_values() {
        stored = stored.saturating_add(size);
        if let Users::One(index) = users {
            let row = &mut rows[index];
            row.unshared_bytes = row.unshared_bytes.saturating_add(size);
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
