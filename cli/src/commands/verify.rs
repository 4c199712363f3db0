//! `drafts verify`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use save_draft::draft::{DraftId, Sha256Digest, keys};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::Context;
use crate::concurrent::panicked;
use crate::contents::{self, VersionFile};
use crate::error::{Error, Outcome, Result};
use crate::hash::{Comparison, EtagHasher};
use crate::history::{History, MemoryBudget, SavedVersion};
use crate::output::{GREEN, RED, count, printable, size};
use crate::store::{Bucket, CONCURRENCY, Object, Store};
use crate::values;

/// Check that versions are complete and unchanged
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Compares each document and each manifest with the hash in the name of its version, and checks that \
                  every copy of a file is there with its size. The exit status is 1 if anything is wrong.\n\n\
                  Examples:\n  drafts verify\n  drafts verify 2025092811473036584258 --read 100"
)]
pub struct Args {
    /// Ids or URLs of drafts [default: all]
    #[arg(value_name = "ID", value_parser = values::draft_id)]
    ids: Vec<DraftId>,
    /// Percentage of the files to read and to compare with their hashes, chosen at random
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = percent)]
    read: f64,
}

/// Number of drafts that are verified at the same time.
const CONCURRENT_DRAFTS: usize = 4;
/// Maximum number of times that a draft is verified while versions of it are deleted.
const MAX_ATTEMPTS: u32 = 3;

/// The result of a verification.
#[derive(Default, Serialize)]
struct Report {
    drafts: u64,
    versions: u64,
    /// Number and size of the copies of files.
    files: u64,
    files_bytes: u64,
    /// Number and size of the files that were read.
    files_read: u64,
    read_bytes: u64,
    /// Number of files that were read, and whose `ETag` is no known hash of their bytes.
    files_without_hash: u64,
    /// Number of objects that belong to no version. Interrupted saves leave manifests.
    other_objects: u64,
    problems: Vec<Problem>,
}

/// Something wrong with an object.
#[derive(Serialize)]
struct Problem {
    draft_id: String,
    /// A version that has the object.
    version: String,
    /// Number of versions that have the object.
    versions: u64,
    kind: ProblemKind,
    key: String,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum ProblemKind {
    /// The document is missing, or is not the one in the name.
    Document,
    /// The manifest is missing, or is not the one in the name.
    Manifest,
    /// The copy of a file is missing.
    MissingCopy,
    /// The copy of a file has another size.
    CopySize,
    /// The copy of a file has other bytes.
    CopyBytes,
}

/// The verification of one draft.
struct Draft {
    store: Store,
    id: DraftId,
    /// Part of the files to read, between 0 and 1.
    read: f64,
    random: RandomState,
    limits: Limits,
    state: Mutex<DraftState>,
    bar: ProgressBar,
}

/// Bounds for all drafts together.
#[derive(Clone)]
struct Limits {
    transfers: Arc<Semaphore>,
    memory: MemoryBudget,
}

#[derive(Default)]
struct DraftState {
    copies: HashMap<CopyId, CopyState>,
    report: Report,
    problems: BTreeMap<(ProblemKind, String), Problem>,
}

/// Half of the SHA-256 of a key: the keys of 100,000 copies take 10 MB.
type CopyId = [u8; 16];

struct CopyState {
    size: u64,
    is_counted: bool,
    is_read: bool,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    let mut ids = if args.ids.is_empty() {
        all_drafts(context).await?
    } else {
        args.ids
    };
    ids.sort_unstable();
    ids.dedup();
    let bar = context.output.bytes_bar("verifying", 0);
    let limits = Limits {
        transfers: Arc::new(Semaphore::new(CONCURRENCY)),
        memory: MemoryBudget::default(),
    };
    let mut reports = stream::iter(&ids)
        .map(|id| {
            let draft = Arc::new(Draft {
                store: context.store.clone(),
                id: id.clone(),
                read: args.read / 100.0,
                random: RandomState::new(),
                limits: limits.clone(),
                state: Mutex::default(),
                bar: bar.clone(),
            });
            tokio::spawn(draft.verify_present())
        })
        .buffered(CONCURRENT_DRAFTS)
        .zip(stream::iter(&ids));
    let mut total = Report::default();
    let mut without_versions = None;
    while let Some((report, id)) = reports.next().await {
        let report = report.map_err(panicked)??;
        if report.versions == 0 {
            without_versions.get_or_insert(id);
        }
        total.add(report);
    }
    bar.finish_and_clear();
    if total.versions == 0 {
        return Err(no_versions(context, without_versions));
    }
    let printed = if context.output.is_json() {
        context.output.json(&total)
    } else {
        context.output.print(&total.text())
    };
    let outcome = match (total.problems.is_empty(), without_versions) {
        (false, _) => Outcome::ProblemsFound,
        (true, Some(id)) => return Err(no_versions(context, Some(id))),
        (true, None) => Outcome::Success,
    };
    Error::printed(printed, outcome)
}

/// Returns the ids of all drafts that have versions.
async fn all_drafts(context: &Context) -> Result<Vec<DraftId>> {
    let folders = context.store.folders(Bucket::Saved, keys::VERSIONS);
    let ids = folders.await?.into_iter();
    Ok(ids.filter_map(|id| id.parse().ok()).collect())
}

/// Versions that were not found are not verified.
fn no_versions(context: &Context, id: Option<&DraftId>) -> Error {
    let prefix = id.map_or(keys::VERSIONS.to_owned(), keys::versions);
    let url = context.store.url(Bucket::Saved, &prefix);
    Error::new(format!("there are no versions in {url}"))
        .advise("Check the id, --saved-bucket (SAVED_BUCKET) and --bucket (DRAFT_BUCKET).")
}

impl Draft {
    /// Verifies the draft, and again if a version with a problem is gone: its objects were deleted with it.
    async fn verify_present(self: Arc<Self>) -> Result<Report> {
        let mut attempt = 1;
        loop {
            let report = Arc::clone(&self).verify().await?;
            if report.problems.is_empty() || attempt == MAX_ATTEMPTS {
                return Ok(report);
            }
            let history = History::read(&self.store, &self.id).await?;
            let versions = history.versions.iter();
            let versions: HashSet<_> = versions.map(|version| version.name.as_str()).collect();
            let mut problems = report.problems.iter();
            if problems.all(|problem| versions.contains(&*problem.version)) {
                return Ok(report);
            }
            attempt += 1;
        }
    }

    async fn verify(self: Arc<Self>) -> Result<Report> {
        self.with_state(|state| *state = DraftState::default());
        let history = History::read(&self.store, &self.id).await?;
        let documents = history.versions.iter().map(|version| version.document.size);
        self.bar.inc_length(documents.sum());
        if history
            .versions
            .iter()
            .any(|version| version.manifest.is_some())
        {
            self.list_copies().await?;
        }
        self.with_state(|state| {
            state.report.drafts = u64::from(!history.versions.is_empty());
            state.report.versions = history.versions.len() as u64;
            state.report.other_objects = history.other.len() as u64;
        });
        let versions = stream::iter(history.versions)
            .map(|version| {
                let draft = Arc::clone(&self);
                tokio::spawn(async move { draft.verify_version(&version).await })
            })
            .buffer_unordered(CONCURRENCY)
            .map(|result| result.map_err(panicked)?);
        versions.try_collect::<()>().await?;
        Ok(self.with_state(|state| {
            let mut report = std::mem::take(&mut state.report);
            report.problems = std::mem::take(&mut state.problems).into_values().collect();
            report
        }))
    }

    async fn list_copies(&self) -> Result<()> {
        let prefix = keys::copies(&self.id);
        let mut pages = self.store.pages(Bucket::Saved, &prefix);
        while let Some(page) = pages.next().await? {
            self.with_state(|state| {
                for Object { key, size, .. } in page {
                    let copy = CopyState {
                        size,
                        is_counted: false,
                        is_read: false,
                    };
                    state.copies.insert(copy_id(&key), copy);
                }
            });
        }
        Ok(())
    }

    async fn verify_version(&self, version: &SavedVersion) -> Result<()> {
        // First the memory: files wait for transfers while it is held.
        let memory = self.limits.memory.reserve(version).await;
        let permit = self.limits.transfers.acquire().await;
        let Some(document) = self.read_document(version).await? else {
            return Ok(());
        };
        let Some(manifest) = &version.manifest else {
            self.check_plain(version, &document);
            return Ok(());
        };
        let read = self.store.read_all(Bucket::Saved, &manifest.key).await;
        let Some((_, bytes)) = self.found(version, ProblemKind::Manifest, &manifest.key, read)?
        else {
            return Ok(());
        };
        drop(permit);
        let files = match contents::parse(&bytes, &self.id) {
            Ok(files) => files,
            Err(problem) => {
                let text = format!("not a manifest: {problem}");
                self.problem(version, ProblemKind::Manifest, &manifest.key, text);
                return Ok(());
            }
        };
        drop(bytes);
        self.check_state(version, &manifest.key, &document, &files);
        let to_read = self.check_copies(version, &files);
        let to_read_bytes = to_read.iter().map(|&index| files[index].size);
        self.bar.inc_length(to_read_bytes.sum());
        stream::iter(to_read.into_iter().map(Ok))
            .try_for_each_concurrent(CONCURRENCY, |index| {
                self.read_file(version, &files[index], document.has_md5_etag)
            })
            .await?;
        drop(memory);
        Ok(())
    }

    /// Reads and hashes the document. Returns `None` if that is a problem.
    async fn read_document(&self, version: &SavedVersion) -> Result<Option<DocumentRead>> {
        let Object { key, size, .. } = &version.document;
        let reader = self.store.read(Bucket::Saved, key).await;
        let Some(mut reader) = self.found(version, ProblemKind::Document, key, reader)? else {
            return Ok(None);
        };
        let metadata = &reader.head.metadata;
        let source_etag = metadata
            .get("source-etag")
            .map_or("", |etag| etag.trim_matches('"'));
        let mut md5 = EtagHasher::new(source_etag, *size);
        let mut sha256 = Sha256::new();
        loop {
            let chunk = reader.next().await;
            match self.found(version, ProblemKind::Document, key, chunk.map(Some))? {
                None => return Ok(None),
                Some(None) => break,
                Some(Some(chunk)) => {
                    self.bar.inc(chunk.len() as u64);
                    sha256.update(&chunk);
                    md5.update(&chunk);
                }
            }
        }
        let metadata = &reader.head.metadata;
        Ok(Some(DocumentRead {
            digest: Sha256Digest::from_hasher(sha256),
            saved_digest: metadata.get("sha256").cloned(),
            has_md5_etag: md5.finish() == Comparison::Equal,
        }))
    }

    /// Checks a version without a manifest.
    fn check_plain(&self, version: &SavedVersion, document: &DocumentRead) {
        let digest = document.digest.to_string();
        if digest == version.name.digest() {
            return;
        }
        if document.is_as_saved() {
            let key = keys::manifest(&self.id, &version.name);
            let text = "missing: the document is as it was saved, but the version had other files";
            self.problem(version, ProblemKind::Manifest, &key, text);
        } else {
            let text = format!("changed: its hash is {digest}");
            self.problem(version, ProblemKind::Document, &version.document.key, text);
        }
    }

    /// Checks the document and the files of a version with a manifest against its name.
    fn check_state(
        &self,
        version: &SavedVersion,
        manifest_key: &str,
        document: &DocumentRead,
        files: &[VersionFile],
    ) {
        let digest = contents::digest_of(&document.digest, files).to_string();
        if digest != version.name.digest() {
            if document.digest.to_string() == version.name.digest() {
                let text = "added: the version has no other files";
                self.problem(version, ProblemKind::Manifest, manifest_key, text);
            } else if document.is_as_saved() {
                let text = "changed: the document is as it was saved, but the hash is not that of the files";
                self.problem(version, ProblemKind::Manifest, manifest_key, text);
            } else {
                let text = "changed: it does not have the hash in the name of the version";
                self.problem(version, ProblemKind::Document, &version.document.key, text);
            }
            return;
        }
        // The hash does not cover the times of the files.
        let state_time = version.state_time();
        let is_newer = |file: &VersionFile| file.last_modified.as_second() > state_time.as_second();
        if files.iter().any(is_newer) {
            let text = "changed: a file is newer than the version";
            self.problem(version, ProblemKind::Manifest, manifest_key, text);
        }
    }

    /// Checks that there is a copy of each file with its size. Returns the indexes of the files to read.
    fn check_copies(&self, version: &SavedVersion, files: &[VersionFile]) -> Vec<usize> {
        let mut to_read = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let key = file.key(&self.id);
            let id = copy_id(&key);
            let is_chosen = self.is_chosen(&id);
            let problem = self.with_state(|state| {
                let DraftState { copies, report, .. } = state;
                let Some(copy) = copies.get_mut(&id) else {
                    return Some((ProblemKind::MissingCopy, "missing".to_owned()));
                };
                if !copy.is_counted {
                    copy.is_counted = true;
                    report.files += 1;
                    report.files_bytes += copy.size;
                }
                if copy.size != file.size {
                    let text = format!("has {} bytes instead of {}", copy.size, file.size);
                    return Some((ProblemKind::CopySize, text));
                }
                if is_chosen && !copy.is_read {
                    copy.is_read = true;
                    to_read.push(index);
                }
                None
            });
            if let Some((kind, text)) = problem {
                self.problem(version, kind, &key, text);
            }
        }
        to_read
    }

    /// Chooses the files to read, others in each run.
    fn is_chosen(&self, id: &CopyId) -> bool {
        let random = u32::try_from(self.random.hash_one(id) >> 32).unwrap_or_default();
        f64::from(random) + 0.5 < self.read * 2_f64.powi(32)
    }

    async fn read_file(
        &self,
        version: &SavedVersion,
        file: &VersionFile,
        has_md5_etag: bool,
    ) -> Result<()> {
        let _permit = self.limits.transfers.acquire().await;
        let key = file.key(&self.id);
        let reader = self.store.read(Bucket::Saved, &key).await;
        let Some(mut reader) = self.found(version, ProblemKind::MissingCopy, &key, reader)? else {
            return Ok(());
        };
        let mut hasher = EtagHasher::new(&file.etag, file.size);
        let mut bytes = 0;
        loop {
            let chunk = reader.next().await;
            match self.found(version, ProblemKind::CopyBytes, &key, chunk.map(Some))? {
                None => return Ok(()),
                Some(None) => break,
                Some(Some(chunk)) => {
                    self.bar.inc(chunk.len() as u64);
                    bytes += chunk.len() as u64;
                    hasher.update(&chunk);
                }
            }
        }
        let comparison = hasher.finish();
        self.with_state(|state| {
            state.report.files_read += 1;
            state.report.read_bytes += bytes;
        });
        match comparison {
            Comparison::Equal => {}
            Comparison::Different if has_md5_etag => {
                let text = "changed: its bytes do not have the hash of the saved file";
                self.problem(version, ProblemKind::CopyBytes, &key, text);
            }
            // With KMS, an ETag has the form of an MD5 and is none.
            Comparison::Different | Comparison::Unknown => {
                self.with_state(|state| state.report.files_without_hash += 1);
            }
        }
        Ok(())
    }

    /// Notes a missing or corrupt object as a problem, and returns `None` for it.
    fn found<T>(
        &self,
        version: &SavedVersion,
        kind: ProblemKind,
        key: &str,
        read: Result<Option<T>>,
    ) -> Result<Option<T>> {
        match read {
            Ok(Some(value)) => return Ok(Some(value)),
            Ok(None) => self.problem(version, kind, key, "missing"),
            Err(error) if error.is_problem() => self.problem(version, kind, key, error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn problem(
        &self,
        version: &SavedVersion,
        kind: ProblemKind,
        key: &str,
        text: impl Into<String>,
    ) {
        self.with_state(|state| {
            let problem = state.problems.entry((kind, key.to_owned()));
            let problem = problem.or_insert_with(|| Problem {
                draft_id: self.id.to_string(),
                version: version.name.to_string(),
                versions: 0,
                kind,
                key: key.to_owned(),
                text: text.into(),
            });
            problem.versions += 1;
        });
    }

    fn with_state<T>(&self, run: impl FnOnce(&mut DraftState) -> T) -> T {
        run(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The hashes and the metadata of a document.
struct DocumentRead {
    digest: Sha256Digest,
    /// The SHA-256 that the save noted.
    saved_digest: Option<String>,
    /// The draft's objects had MD5s as `ETag`s.
    has_md5_etag: bool,
}

impl DocumentRead {
    /// Returns whether the document has the hash that its metadata names. Anyone who changes a document may change
    /// the metadata too: this only helps to find the reason of a problem.
    fn is_as_saved(&self) -> bool {
        self.saved_digest.as_deref() == Some(&*self.digest.to_string())
    }
}

impl Report {
    fn add(&mut self, other: Self) {
        self.drafts += other.drafts;
        self.versions += other.versions;
        self.files += other.files;
        self.files_bytes += other.files_bytes;
        self.files_read += other.files_read;
        self.read_bytes += other.read_bytes;
        self.files_without_hash += other.files_without_hash;
        self.other_objects += other.other_objects;
        self.problems.extend(other.problems);
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for problem in &self.problems {
            let others = match problem.versions {
                1 => String::new(),
                versions => format!(" ({})", count(versions, "version")),
            };
            let (key, problem) = (printable(&problem.key), printable(&problem.text));
            lines.push(format!("{RED}{key}{RED:#}: {problem}{others}"));
        }
        let (drafts, versions) = (count(self.drafts, "draft"), count(self.versions, "version"));
        let (files, bytes) = (count(self.files, "file"), size(self.files_bytes));
        let read = match self.files_read {
            0 => String::new(),
            files => format!(
                "; read {} ({})",
                count(files, "file"),
                size(self.read_bytes)
            ),
        };
        let result = match self.problems.len() {
            0 => format!("{GREEN}no problems{GREEN:#}"),
            problems => format!("{RED}{}{RED:#}", count(problems as u64, "problem")),
        };
        lines.push(format!(
            "{drafts}, {versions}, {files} ({bytes}){read}: {result}"
        ));
        if self.files_without_hash > 0 {
            let files = count(self.files_without_hash, "file");
            lines.push(format!(
                "{files} not compared: the ETag is no known hash of the bytes"
            ));
        }
        if self.other_objects > 0 {
            let objects = count(self.other_objects, "object");
            lines.push(format!(
                "{objects} of no version, as interrupted saves leave them"
            ));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn copy_id(key: &str) -> CopyId {
    let digest = Sha256Digest::of(key.as_bytes());
    let (half, _) = digest.as_bytes().split_at(16);
    // The half of 32 bytes.
    half.try_into().unwrap_or_default()
}

fn percent(text: &str) -> std::result::Result<f64, String> {
    let number: Option<f64> = text.trim_end_matches('%').parse().ok();
    let number = number.filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "must be a number between 0 and 100".to_owned())
}
