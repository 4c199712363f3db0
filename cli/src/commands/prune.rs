//! `drafts prune`: deletes old versions by a policy, and the copies of files that no version has.
//!
//! Saves run at the same time: one may use an old copy, or an old manifest, at the moment at which it is deleted. So
//! nothing is deleted for good: deletes leave markers, which a second look removes from whatever a version needs,
//! after the longest time that a save may take. The order of the steps matters; `tests/protocol` checks it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use save_draft::draft::keys::{self, DocumentName};
use save_draft::draft::{DraftId, Version};
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::Context;
use crate::clock::Clock;
use crate::concurrent::{for_each, interrupted, panicked};
use crate::contents::parse;
use crate::error::{Error, Outcome, Result};
use crate::history::{History, MemoryBudget, is_manifest};
use crate::output::{self, Align};
use crate::retention::{Count, Policy, Span};
use crate::store::{Bucket, CONCURRENCY, Object, ObjectVersion, Store};
use crate::values;

/// Maximum number of rounds in which the second look finds something new.
const MAX_LOOKS: u32 = 10;

/// Delete versions by a policy, and the files that no version has
///
/// Keeps the versions that one of the rules keeps, as `restic forget` does, and deletes the others. Then deletes
/// copies of files that no version has and that are older than a day, waits for the saves that may be in progress
/// (20 minutes), and recovers what a new version needs. Needs a bucket with versioning, whose lifecycle deletes the
/// data for good.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  drafts prune 2025092811473036584258 --keep-last 10 --dry-run
  drafts prune --all --keep-within 7d --keep-daily 30 --keep-monthly 12")]
pub struct Args {
    /// Ids or URLs of the drafts
    #[arg(value_parser = values::draft_id, required_unless_present = "all", value_name = "ID")]
    ids: Vec<DraftId>,
    /// All drafts that have versions
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Keep the newest N versions of a draft, or unlimited
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_last: Count,
    /// Keep the newest version of each of the last N hours that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_hourly: Count,
    /// Keep the newest version of each of the last N days that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_daily: Count,
    /// Keep the newest version of each of the last N weeks that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_weekly: Count,
    /// Keep the newest version of each of the last N months that have one
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true)]
    keep_monthly: Count,
    /// Keep the versions that are less than TIME older than the newest, such as 1y6m7d12h
    #[arg(long, value_name = "TIME")]
    keep_within: Option<Span>,
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before deleting
    #[arg(long)]
    yes: bool,
    /// Age from which on a copy may be deleted, in seconds
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 24 * 60 * 60)]
    min_age: u32,
    /// Longest time that a save may take, in seconds
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 20 * 60)]
    max_save: u32,
}

impl Args {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            within: self.keep_within,
        }
    }
}

/// The objects of a draft that are deleted.
struct DraftPlan {
    id: DraftId,
    /// From the newest to the oldest.
    versions: Vec<PlannedVersion>,
    /// Keys of the documents, which are deleted first.
    documents: Vec<String>,
    /// Keys of the manifests: those of the versions, and old ones without a version.
    manifests: Vec<String>,
    /// Number of the manifests without a version.
    unused_manifests: usize,
    /// Number of the copies that no manifest names.
    copies: usize,
    copies_bytes: u64,
}

struct PlannedVersion {
    name: Version,
    state_time: Timestamp,
    /// The reasons to keep it. Without one, it is deleted.
    reasons: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    drafts: Vec<DraftReport>,
    /// Number of copies and manifests that the second look recovered.
    recovered: u64,
    /// Keys of copies that a version needs and that are gone.
    missing: Vec<String>,
    /// Drafts with a manifest that cannot be read.
    failed: Vec<FailedReport>,
}

#[derive(Serialize)]
struct FailedReport {
    draft_id: String,
    problem: String,
}

#[derive(Serialize)]
struct DraftReport {
    draft_id: String,
    keep: Vec<KeptReport>,
    remove: Vec<String>,
    /// Manifests without a version.
    unused_manifests: usize,
    unused_files: usize,
    unused_bytes: u64,
}

#[derive(Serialize)]
struct KeptReport {
    version: String,
    reasons: Vec<String>,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    if args.policy().is_empty() {
        return Err(Error::new("no rule keeps a version")
            .advise("Pass at least one of --keep-last, --keep-hourly, --keep-daily, --keep-weekly, --keep-monthly and --keep-within."));
    }
    if !args.yes && !args.dry_run && !io::stdin().is_terminal() {
        return Err(
            Error::new("prune asks before it deletes, and there is no terminal")
                .advise("Pass --yes to delete without a question, or --dry-run."),
        );
    }
    let store = &context.store;
    let (clock, is_versioned) = Clock::read(store).await?;
    if !is_versioned {
        let bucket = store.name(Bucket::Saved);
        return Err(
            Error::new(format!("the bucket {bucket} has no versioning")).advise(
                "Enable it: without versioning, a file that a save is about to use would be lost.",
            ),
        );
    }
    let prune = Prune {
        store: store.clone(),
        clock,
        min_age: SignedDuration::from_secs(args.min_age.into()),
        max_save: SignedDuration::from_secs(args.max_save.into()),
        hasher: RandomState::new(),
    };
    let mut ids = if args.all {
        prune.all_drafts().await?
    } else {
        args.ids.clone()
    };
    ids.sort_unstable();
    ids.dedup();
    let bar = context.output.count_bar("reading", ids.len() as u64);
    let mut plans = Vec::new();
    let mut failed = Vec::new();
    for id in ids {
        match prune.plan(context, &id, &args.policy()).await {
            Ok(plan) => plans.push(plan),
            Err(error) if error.is_problem() => {
                let problem = format!("nothing of the draft {id} is deleted: {error}");
                failed.push(FailedReport::new(&id, problem));
            }
            Err(error) => return Err(error),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut report = report(&args, &plans, failed);
    if !context.output.is_json() {
        match print_plan(context, &plans) {
            // A closed pipe too: nothing was deleted.
            Err(error) if !args.dry_run => return Err(Error::new(error.to_string())),
            Err(error) => return Error::printed(Err(error), report.outcome()),
            Ok(()) => {}
        }
    }
    if !args.dry_run {
        let is_empty = plans.iter().all(DraftPlan::is_empty);
        if !is_empty && !args.yes && !confirm(&report).await? {
            return Err(Error::new("nothing was deleted"));
        }
        let result = tokio::select! {
            result = prune.run(context, plans, &mut report) => result,
            () = interrupted() => Err(Error::new("stopped before the last look")),
        };
        result.map_err(|error| error.advise_also(RUN_AGAIN))?;
    }
    Error::printed(print_result(context, &report), report.outcome())
}

/// Advice for an error while something is deleted.
const RUN_AGAIN: &str =
    "Run the same command again soon: a version of the meantime may lack files until then.";

impl FailedReport {
    fn new(id: &DraftId, problem: String) -> Self {
        let draft_id = id.to_string();
        Self { draft_id, problem }
    }
}

impl Report {
    fn outcome(&self) -> Outcome {
        if self.missing.is_empty() && self.failed.is_empty() {
            Outcome::Success
        } else {
            Outcome::ProblemsFound
        }
    }
}

/// Asks the user.
async fn confirm(report: &Report) -> Result<bool> {
    let question = format!("Delete {}? [y/N] ", summary(report));
    let answer = spawn_blocking(move || {
        let mut answer = String::new();
        io::stderr().write_all(question.as_bytes())?;
        io::stdin().read_line(&mut answer)?;
        Ok(answer)
    });
    let answer: io::Result<String> = answer.await.map_err(panicked)?;
    let answer = answer.map_err(|error| Error::io("cannot ask", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn report(args: &Args, plans: &[DraftPlan], failed: Vec<FailedReport>) -> Report {
    let drafts = plans.iter().map(|plan| {
        let versions = plan.versions.iter();
        let (remove, keep): (Vec<_>, Vec<_>) =
            versions.partition(|version| version.reasons.is_empty());
        let keep = keep.into_iter().map(|version| KeptReport {
            version: version.name.to_string(),
            reasons: version.reasons.clone(),
        });
        let remove = remove.into_iter().map(|version| version.name.to_string());
        DraftReport {
            draft_id: plan.id.to_string(),
            keep: keep.collect(),
            remove: remove.collect(),
            unused_manifests: plan.unused_manifests,
            unused_files: plan.copies,
            unused_bytes: plan.copies_bytes,
        }
    });
    Report {
        dry_run: args.dry_run,
        drafts: drafts.collect(),
        recovered: 0,
        missing: Vec::new(),
        failed,
    }
}

fn summary(report: &Report) -> String {
    let sum =
        |count: fn(&DraftReport) -> usize| report.drafts.iter().map(count).sum::<usize>() as u64;
    let bytes = report.drafts.iter().map(|draft| draft.unused_bytes).sum();
    let manifests = sum(|draft| draft.unused_manifests);
    let mut text = format!(
        "{} and {} ({}) that no other version has",
        output::count(sum(|draft| draft.remove.len()), "version"),
        output::count(sum(|draft| draft.unused_files), "file"),
        output::size(bytes),
    );
    if manifests > 0 {
        let _ = write!(
            text,
            ", and {} of interrupted saves",
            output::count(manifests, "manifest")
        );
    }
    text
}

fn print_plan(context: &Context, plans: &[DraftPlan]) -> Result<()> {
    let output = &context.output;
    for plan in plans {
        if plan.versions.is_empty() && plan.is_empty() {
            continue;
        }
        let rows = plan.versions.iter().map(|version| {
            let is_kept = !version.reasons.is_empty();
            let action = if is_kept { "keep" } else { "delete" };
            vec![
                action.to_owned(),
                version.name.as_str().to_owned(),
                output.time(version.state_time),
                version.reasons.join(", "),
            ]
        });
        let columns = [
            ("action", Align::Left),
            ("version", Align::Left),
            ("time of the state", Align::Left),
            ("kept as", Align::Left),
        ];
        output.print(&format!(
            "draft {}\n{}{} to delete that no other version has ({})\n\n",
            plan.id,
            output.table(&columns, rows),
            output::count(plan.copies as u64, "file"),
            output::size(plan.copies_bytes),
        ))?;
    }
    Ok(())
}

fn print_result(context: &Context, report: &Report) -> Result<()> {
    let output = &context.output;
    if output.is_json() {
        output.json(report)?;
    } else {
        let verb = if report.dry_run {
            "would delete"
        } else {
            "deleted"
        };
        let mut text = format!("{verb} {}\n", summary(report));
        if report.recovered > 0 {
            let count = output::count(report.recovered, "object");
            let _ = writeln!(text, "recovered {count} that a new version needs");
        }
        output.print(&text)?;
    }
    for key in &report.missing {
        let url = context.store.url(Bucket::Saved, key);
        output.warn(&format!("a version needs {url}, which is gone"));
    }
    for failed in &report.failed {
        output.warn(&failed.problem);
    }
    Ok(())
}

impl DraftPlan {
    fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.manifests.is_empty() && self.copies == 0
    }
}

/// The work on the saved bucket.
struct Prune {
    store: Store,
    clock: Clock,
    /// Age from which on a copy, or a manifest without a document, may be deleted.
    min_age: SignedDuration,
    /// Longest time that a save may take.
    max_save: SignedDuration,
    /// Keys are compared by their hashes, which take less memory. Two keys with one hash keep both objects.
    hasher: RandomState,
}

impl Prune {
    /// Returns the ids of all drafts that have versions or copies.
    async fn all_drafts(&self) -> Result<Vec<DraftId>> {
        let mut folders = self.store.folders(Bucket::Saved, keys::VERSIONS).await?;
        folders.extend(self.store.folders(Bucket::Saved, keys::COPIES).await?);
        folders.sort_unstable();
        folders.dedup();
        Ok(folders
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect())
    }

    fn is_old(&self, time: Timestamp) -> bool {
        self.clock.now().duration_since(time) >= self.min_age
    }

    async fn plan(&self, context: &Context, id: &DraftId, policy: &Policy) -> Result<DraftPlan> {
        let history = History::read(&self.store, id).await?;
        let times = history.versions.iter().rev();
        let times = times.map(|version| context.output.zoned(version.state_time()));
        let reasons = policy.apply(&times.collect::<Vec<_>>(), self.clock.now());
        let (mut versions, mut documents, mut manifests) = (Vec::new(), Vec::new(), Vec::new());
        let mut removed_names = HashSet::new();
        for (version, reasons) in history.versions.into_iter().rev().zip(reasons) {
            let state_time = version.state_time();
            if reasons.is_empty() {
                documents.push(version.document.key);
                manifests.extend(version.manifest.map(|manifest| manifest.key));
                removed_names.insert(version.name.to_string());
            }
            versions.push(PlannedVersion {
                name: version.name,
                state_time,
                reasons,
            });
        }
        let removed_manifests = manifests.len();
        let prefix = keys::versions(id);
        for object in history.other {
            let path = object.key.strip_prefix(&prefix).unwrap_or_default();
            let Some((version, name)) = path.split_once('/') else {
                continue;
            };
            let is_document = DocumentName::ALL.iter().any(|it| it.as_str() == name);
            if is_document && removed_names.contains(version) {
                documents.push(object.key);
            } else if is_manifest(&object.key) && self.is_old(object.last_modified) {
                manifests.push(object.key);
            }
        }
        let gone = manifests.iter().map(String::as_str).collect();
        let copies = self.unnamed_copies(id, &gone).await?;
        Ok(DraftPlan {
            id: id.clone(),
            versions,
            documents,
            unused_manifests: manifests.len() - removed_manifests,
            manifests,
            copies: copies.len(),
            copies_bytes: copies.iter().map(|copy| copy.size).sum(),
        })
    }

    /// Returns the copies that are old enough and that no manifest names, but those in `without`.
    ///
    /// Reads the copies before the manifests: the other way round, a program that was suspended in between would
    /// take a copy for old that a save of the meantime names. Reads the manifests also if no copy is old enough: a
    /// damaged one counts for the whole draft.
    async fn unnamed_copies(&self, id: &DraftId, without: &HashSet<&str>) -> Result<Vec<Object>> {
        let mut copies = Vec::new();
        let mut pages = self.store.pages(Bucket::Saved, &keys::copies(id));
        while let Some(page) = pages.next().await? {
            copies.extend(
                page.into_iter()
                    .filter(|copy| self.is_old(copy.last_modified)),
            );
        }
        let named = self.named_copies(id, without).await?;
        copies.retain(|copy| !named.contains(&self.hash(&copy.key)));
        Ok(copies)
    }

    fn hash(&self, key: &str) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Returns the hashes of the keys of all copies that the manifests of a draft name, but those in `without`.
    async fn named_copies(&self, id: &DraftId, without: &HashSet<&str>) -> Result<HashSet<u64>> {
        let named = Arc::new(Mutex::new(HashSet::new()));
        let hasher = self.hasher.clone();
        let add = {
            let named = Arc::clone(&named);
            move |keys: &[String]| {
                let mut named = named.lock().unwrap_or_else(PoisonError::into_inner);
                named.extend(keys.iter().map(|key| hasher.hash_one(key.as_str())));
            }
        };
        self.for_each_manifest(id, without, add).await?;
        let mut named = named.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *named))
    }

    /// Calls `visit` with the keys that each manifest of a draft names, those without a document included.
    async fn for_each_manifest(
        &self,
        id: &DraftId,
        without: &HashSet<&str>,
        visit: impl Fn(&[String]) + Clone + Send + 'static,
    ) -> Result<()> {
        let mut manifests = Vec::new();
        let mut pages = self.store.pages(Bucket::Saved, &keys::versions(id));
        while let Some(page) = pages.next().await? {
            let is_wanted =
                |object: &Object| is_manifest(&object.key) && !without.contains(&*object.key);
            manifests.extend(page.into_iter().filter(is_wanted));
        }
        let memory = MemoryBudget::default();
        for_each(manifests, CONCURRENCY, |Object { key, size, .. }| {
            let (store, id, visit) = (self.store.clone(), id.clone(), visit.clone());
            let memory = memory.clone();
            async move {
                let _memory = memory.reserve_bytes(size).await;
                let url = store.url(Bucket::Saved, &key);
                // Without this manifest, its files would look as if no version had them.
                let read = store.read_all(Bucket::Saved, &key).await?;
                let (_, bytes) = read.ok_or_else(|| {
                    Error::problem(format!("{url} was deleted meanwhile"))
                        .advise("Run the command again.")
                })?;
                let files = parse(&bytes, &id).map_err(|problem| {
                    Error::problem(format!("{url} is not a manifest: {problem}"))
                        .advise("No file is deleted while it is there.")
                })?;
                let keys: Vec<_> = files.iter().map(|file| file.key(&id)).collect();
                visit(&keys);
                Ok(())
            }
        })
        .await
    }

    /// Deletes what the plans name, and takes the second look. Adds to the report what was recovered, what is gone,
    /// and the drafts with a manifest that cannot be read.
    async fn run(
        &self,
        context: &Context,
        plans: Vec<DraftPlan>,
        report: &mut Report,
    ) -> Result<()> {
        let ids: Vec<_> = plans.iter().map(|plan| plan.id.clone()).collect();
        let bar = context.output.count_bar("deleting", plans.len() as u64);
        for plan in plans {
            match self.delete(&plan).await {
                Err(error) if error.is_problem() => {
                    let problem = format!("no file of the draft {} was deleted: {error}", plan.id);
                    report.failed.push(FailedReport::new(&plan.id, problem));
                }
                result => result?,
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        let marked = self.wait(context, &ids).await?;
        let bar = context
            .output
            .count_bar("looking again", marked.len() as u64);
        for id in marked {
            match self.recover(&id, report).await {
                Err(error) if error.is_problem() => {
                    let problem = format!("versions of the draft {id} may lack files: {error}");
                    report.failed.push(FailedReport::new(&id, problem));
                }
                result => result?,
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Deletes what the plan names.
    async fn delete(&self, plan: &DraftPlan) -> Result<()> {
        // A version without its document is none. Without its manifest, it would be incomplete.
        self.store.delete(Bucket::Saved, &plan.documents).await?;
        self.store.delete(Bucket::Saved, &plan.manifests).await?;
        // Once more: time has passed since the plan was made.
        let copies = self.unnamed_copies(&plan.id, &HashSet::new()).await?;
        let copies: Vec<_> = copies.into_iter().map(|copy| copy.key).collect();
        self.store.delete(Bucket::Saved, &copies).await
    }

    /// Waits until all saves have ended that may have used something before it was deleted: by this run, or by
    /// another one that was stopped. Returns the drafts with such objects.
    async fn wait(&self, context: &Context, ids: &[DraftId]) -> Result<Vec<DraftId>> {
        let mut marked = Vec::new();
        let mut youngest: Option<Timestamp> = None;
        for id in ids {
            let manifests = self.markers(&keys::versions(id)).await?;
            let manifests = manifests
                .into_values()
                .filter(|marker| is_manifest(&marker.key));
            let copies = self.markers(&keys::copies(id)).await?.into_values();
            let times = manifests.chain(copies).map(|marker| marker.time);
            if let Some(time) = times.max() {
                marked.push(id.clone());
                youngest = youngest.max(Some(time));
            }
        }
        let Some(end) = youngest.and_then(|time| time.checked_add(self.max_save).ok()) else {
            return Ok(marked);
        };
        let left = end.duration_since(self.clock.now());
        // The time of an object has no fractions of a second.
        let left = Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1);
        if end >= self.clock.now() {
            context.output.note(&format!(
                "waiting until {} for saves that may be in progress; a run that is stopped now has to be repeated",
                context.output.time(end)
            ));
            sleep(left).await;
        }
        Ok(marked)
    }

    /// Returns the delete markers that are the newest versions of their objects, by key.
    async fn markers(&self, prefix: &str) -> Result<BTreeMap<String, Marker>> {
        let is_marker = |it: &ObjectVersion| it.is_latest && it.is_delete_marker;
        let versions = self
            .store
            .object_versions(Bucket::Saved, prefix, is_marker)
            .await?;
        let markers = versions.into_iter().map(Marker::from);
        Ok(markers.map(|marker| (marker.key.clone(), marker)).collect())
    }

    /// Recovers the manifests and copies of a draft that versions need. Adds their number, and the keys of copies
    /// that are gone, to the report.
    async fn recover(&self, id: &DraftId, report: &mut Report) -> Result<()> {
        // Several runs may have added a marker each.
        for _ in 0..MAX_LOOKS {
            let manifests = self.lost_manifests(id).await?;
            self.remove(&manifests).await?;
            report.recovered += manifests.len() as u64;
            if manifests.is_empty() {
                break;
            }
        }
        for _ in 0..MAX_LOOKS {
            let markers = self.markers(&keys::copies(id)).await?;
            if markers.is_empty() {
                break;
            }
            let lost = self.named(id, markers).await?;
            self.remove(&lost).await?;
            report.recovered += lost.len() as u64;
            if lost.is_empty() {
                break;
            }
        }
        report.missing.extend(self.missing_copies(id).await?);
        Ok(())
    }

    /// Returns the markers of manifests of versions that exist.
    async fn lost_manifests(&self, id: &DraftId) -> Result<Vec<Marker>> {
        let prefix = keys::versions(id);
        let is_latest = |it: &ObjectVersion| it.is_latest;
        let versions = self
            .store
            .object_versions(Bucket::Saved, &prefix, is_latest)
            .await?;
        let folder = |key: &str| Some(key.rsplit_once('/')?.0.to_owned());
        let (markers, objects): (Vec<_>, Vec<_>) =
            versions.into_iter().partition(|it| it.is_delete_marker);
        let documents: HashSet<_> = objects
            .iter()
            .filter(|it| !is_manifest(&it.object.key))
            .filter_map(|it| folder(&it.object.key))
            .collect();
        let markers = markers.into_iter().map(Marker::from);
        let markers = markers.filter(|marker| is_manifest(&marker.key));
        Ok(markers
            .filter(|marker| folder(&marker.key).is_some_and(|it| documents.contains(&it)))
            .collect())
    }

    /// Returns those of the markers whose copies a manifest names.
    async fn named(&self, id: &DraftId, markers: BTreeMap<String, Marker>) -> Result<Vec<Marker>> {
        let markers = Arc::new(Mutex::new((markers, Vec::new())));
        let find = {
            let markers = Arc::clone(&markers);
            move |keys: &[String]| {
                let mut markers = markers.lock().unwrap_or_else(PoisonError::into_inner);
                let (markers, found) = &mut *markers;
                found.extend(keys.iter().filter_map(|key| markers.remove(key)));
            }
        };
        self.for_each_manifest(id, &HashSet::new(), find).await?;
        let mut markers = markers.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut markers.1))
    }

    /// Removes markers, so that the versions below them are the newest ones again. A marker that is gone, or no
    /// longer the newest version, does no harm.
    async fn remove(&self, markers: &[Marker]) -> Result<()> {
        let versions = markers
            .iter()
            .map(|marker| (marker.key.clone(), marker.version_id.clone()));
        self.store
            .delete_versions(Bucket::Saved, &versions.collect::<Vec<_>>())
            .await
    }

    /// Returns the keys of the copies that manifests name and that do not exist.
    async fn missing_copies(&self, id: &DraftId) -> Result<Vec<String>> {
        let mut existing = HashSet::new();
        let mut pages = self.store.pages(Bucket::Saved, &keys::copies(id));
        while let Some(page) = pages.next().await? {
            existing.extend(page.iter().map(|copy| self.hash(&copy.key)));
        }
        let missing: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let find = {
            let (missing, hasher) = (Arc::clone(&missing), self.hasher.clone());
            let existing = Arc::new(existing);
            move |keys: &[String]| {
                let keys = keys
                    .iter()
                    .filter(|key| !existing.contains(&hasher.hash_one(key.as_str())));
                let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
                missing.extend(keys.cloned());
            }
        };
        self.for_each_manifest(id, &HashSet::new(), find).await?;
        let mut missing = missing.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *missing).into_iter().collect())
    }
}

/// A delete marker that is the newest version of its object.
struct Marker {
    key: String,
    version_id: String,
    time: Timestamp,
}

impl From<ObjectVersion> for Marker {
    fn from(version: ObjectVersion) -> Self {
        Self {
            key: version.object.key,
            version_id: version.version_id,
            time: version.object.last_modified,
        }
    }
}
