//! `drafts restore`: copies a version over its draft, inside S3.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use save_draft::draft::DraftId;
use save_draft::draft::keys::{self, DocumentName};
use serde::Serialize;

use super::Context;
use crate::concurrent::{for_each, interrupted};
use crate::contents::{Contents, VersionFile};
use crate::copy::{Condition, Copier};
use crate::error::{Error, Outcome, Result};
use crate::history::{History, SavedVersion};
use crate::output::{self, Align};
use crate::present::Present;
use crate::restore_plan::{Change, Goal, Plan, is_same};
use crate::store::{Bucket, CONCURRENCY, Object};
use crate::values;

/// Number of files up to which the copy of each is asked for, without a listing.
const MAX_SINGLE_LOOKS: usize = 250;

/// Number of versions in which the present state is looked for after an interrupted restore.
const MAX_OTHER_VERSIONS: usize = 100;

/// Copy a version over its draft, or as a new draft
///
/// First checks that all of the version is there. Then copies inside S3 what is different in the draft, the
/// document last. Refuses to overwrite a state of the draft that is in no version. Interrupted and run again, it
/// ends in the same state.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  drafts restore 2025092811473036584258 20250928T114730Z --dry-run
  drafts restore 2025092811473036584258 latest --as my-copy")]
pub struct Args {
    /// Id or URL of the draft
    #[arg(value_parser = values::draft_id)]
    id: DraftId,
    /// Name of a version, a unique beginning of one, or latest
    version: String,
    /// Restore as the draft with this id
    #[arg(long = "as", value_name = "NEW_ID", value_parser = values::draft_id)]
    new_id: Option<DraftId>,
    /// Delete the files that the version does not have
    #[arg(long)]
    exact: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Overwrite the draft even if its present state is in no version
    #[arg(long)]
    discard_current: bool,
}

/// The steps of a restore.
#[derive(Serialize)]
struct Report<'a> {
    draft_id: &'a str,
    version: &'a str,
    /// The draft that is changed.
    to: &'a str,
    dry_run: bool,
    /// The name of the document, and what happens to it: `add`, `replace` or `keep`.
    document: (&'a str, &'static str),
    add: Vec<ReportedFile<'a>>,
    replace: Vec<ReportedFile<'a>>,
    remove: Vec<&'a str>,
    /// Number of files that are the same.
    unchanged: u64,
    /// Number of files that the version does not have and that stay.
    left: u64,
}

#[derive(Clone, Copy, Serialize)]
struct ReportedFile<'a> {
    path: &'a str,
    size: u64,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    let store = &context.store;
    let history = History::read(store, &args.id).await?;
    let version = history.find(&args.version)?;
    if args.exact && version.manifest.is_none() {
        return Err(Error::new(format!(
            "--exact needs a version with files, and {} has only a document",
            version.name
        ))
        .advise("Without --exact, the other files of the draft stay as they are."));
    }
    let contents = Contents::read(store, &args.id, version).await?;
    let target = args.new_id.as_ref().unwrap_or(&args.id);
    let present = Present::read(store, &context.prefix, target).await?;
    check_other_document(&args, &contents, &present, target)?;
    let plan = plan(context, &args, &contents, &present).await?;
    if plan.loses_something() && !args.discard_current {
        let target_history = match &args.new_id {
            None => history,
            Some(id) => History::read(store, id).await?,
        };
        let mut is_known = is_saved(context, &target_history, &present, &plan, &contents).await?;
        if !is_known {
            let original = present.with_original_etags(store, target).await?;
            if original.objects != present.objects {
                is_known = is_saved(context, &target_history, &original, &plan, &contents).await?;
            }
        }
        if !is_known {
            return Err(Error::new(format!(
                "the present state of the draft {target} is in no version"
            ))
            .advise("Save the draft first, or pass --discard-current to overwrite it."));
        }
    }
    if !args.dry_run {
        let restore = Restore {
            copier: Copier::new(store.clone()),
            prefix: context.prefix.folder(target),
            id: args.id.clone(),
            plan: &plan,
            contents: &contents,
            present: &present,
        };
        restore.run(context).await?;
    }
    let document = match &plan.document {
        None => "keep",
        Some(Condition::Absent) => "add",
        Some(Condition::Unchanged(_)) => "replace",
    };
    let files = |changes: &[Change]| {
        let files = changes.iter().map(|change| &contents.files[change.file]);
        let files = files.map(|file| (&*file.path, file.size));
        files
            .map(|(path, size)| ReportedFile { path, size })
            .collect()
    };
    let report = Report {
        draft_id: args.id.as_str(),
        version: contents.version.name.as_str(),
        to: target.as_str(),
        dry_run: args.dry_run,
        document: (contents.version.document_name.as_str(), document),
        add: files(&plan.added),
        replace: files(&plan.replaced),
        remove: plan.removed.iter().map(|(path, _)| &**path).collect(),
        unchanged: plan.unchanged,
        left: plan.left,
    };
    let has_manifest = contents.version.manifest.is_some();
    print(
        context,
        &report,
        contents.document.len() as u64,
        has_manifest,
    )?;
    if *target != args.id && has_path_of(&args.id, &contents.document) {
        context.output.warn(&format!(
            "the document has paths with the old id {}; they are not adapted",
            args.id
        ));
    }
    Ok(Outcome::Success)
}

/// Returns whether `document` has a path with the folder of the draft `id`, with `/` or `\` before it.
fn has_path_of(id: &DraftId, document: &[u8]) -> bool {
    let id = id.as_str().as_bytes();
    let mut places = document.windows(1 + id.len()).enumerate();
    places.any(|(start, window)| {
        let is_folder = matches!(window[0], b'/' | b'\\') && window[1..] == *id;
        is_folder
            && !document
                .get(start + window.len())
                .is_some_and(DraftId::is_allowed)
    })
}

/// Checks that a save will read the restored document: it reads the first of the two names that exists.
fn check_other_document(
    args: &Args,
    contents: &Contents,
    present: &Present,
    target: &DraftId,
) -> Result<()> {
    let name = contents.version.document_name;
    let first = DocumentName::ALL[0];
    let is_file = contents
        .files
        .iter()
        .any(|file| file.path == first.as_str());
    if name == first || args.exact || is_file || !present.objects.contains_key(first.as_str()) {
        return Ok(());
    }
    let (name, first) = (name.as_str(), first.as_str());
    let error = Error::new(format!(
        "the draft {target} has {first}, which saves read in place of {name}, the document of the version"
    ));
    Err(error.advise(if contents.version.manifest.is_some() {
        "Pass --exact to delete the files that the version does not have, or restore --as another draft."
            .to_owned()
    } else {
        format!("Delete {first} from the draft first, or restore --as another draft.")
    }))
}

/// Computes the changes, and checks that all copies that they need are there.
async fn plan(
    context: &Context,
    args: &Args,
    contents: &Contents,
    present: &Present,
) -> Result<Plan> {
    let name = contents.version.document_name;
    let document = &contents.version.document;
    let object = present.objects.get(name.as_str());
    // The bytes decide for the document that was read, and the `ETag` for the other one.
    let has_document = match &present.document {
        Some(read) if read.name == name => {
            read.sha256 == save_draft::draft::Sha256Digest::of(&contents.document)
        }
        _ => object.is_some_and(|it| it.size == document.size && it.etag == document.etag),
    };
    let needed = |file: &&VersionFile| {
        let object = present.objects.get(&file.path);
        !object.is_some_and(|object| is_same(object, file, None))
    };
    let needed: Vec<_> = contents.files.iter().filter(needed).collect();
    let mut found = find_copies(context, &args.id, &needed).await?;
    let missing: Vec<_> = needed
        .iter()
        .filter(|file| found.get(&*file.path).is_none_or(|it| it.size != file.size))
        .map(|file| output::printable(&file.path))
        .collect();
    if let Some(first) = missing.first() {
        let count = output::count(missing.len() as u64, "file");
        let version = &contents.version.name;
        return Err(Error::problem(format!(
            "the version {version} is incomplete: {count} missing or of another size, first {first:?}"
        ))
        .advise(format!("`drafts verify {}` lists all of them. Nothing was changed.", args.id)));
    }
    let copies = contents.files.iter().map(|file| {
        let copy = found.remove(&*file.path);
        copy.map(|copy| copy.etag)
    });
    let goal = Goal {
        document_name: name,
        has_document,
        files: &contents.files,
        copies: copies.collect(),
        exact: args.exact,
    };
    Ok(Plan::new(goal, present))
}

/// A copy of a file.
struct FoundCopy {
    size: u64,
    etag: String,
}

/// Looks for the copies of `files`; returns those that exist by path. Many are looked for in the listing of all
/// copies, as far as that takes fewer requests than to ask for each.
async fn find_copies<'a>(
    context: &Context,
    id: &DraftId,
    files: &[&'a VersionFile],
) -> Result<HashMap<&'a str, FoundCopy>> {
    let store = &context.store;
    let bar = context.output.count_bar("checking", files.len() as u64);
    let mut found = HashMap::with_capacity(files.len());
    let mut open: HashMap<String, &'a str> = files
        .iter()
        .map(|file| (file.key(id), &*file.path))
        .collect();
    if files.len() > MAX_SINGLE_LOOKS {
        let mut pages = store.pages(Bucket::Saved, &keys::copies(id));
        for _ in 0..files.len() / MAX_SINGLE_LOOKS {
            let Some(page) = pages.next().await? else {
                break;
            };
            for object in page {
                if let Some(path) = open.remove(&object.key) {
                    let (size, etag) = (object.size, object.etag);
                    found.insert(path, FoundCopy { size, etag });
                }
            }
            bar.set_position(found.len() as u64);
            if open.is_empty() {
                break;
            }
        }
    }
    let heads: Arc<Mutex<Vec<Object>>> = Arc::default();
    for_each(open.keys(), CONCURRENCY, |key| {
        let (store, key) = (store.clone(), key.clone());
        let (heads, bar) = (Arc::clone(&heads), bar.clone());
        async move {
            let head = store.head(Bucket::Saved, &key).await?;
            let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
            heads.extend(head.map(|head| head.object));
            bar.inc(1);
            Ok(())
        }
    })
    .await?;
    let mut heads = heads.lock().unwrap_or_else(PoisonError::into_inner);
    for object in heads.drain(..) {
        if let Some(path) = open.get(&object.key) {
            let (size, etag) = (object.size, object.etag);
            found.insert(path, FoundCopy { size, etag });
        }
    }
    bar.finish_and_clear();
    Ok(found)
}

/// Returns whether the versions have whatever the plan takes from the draft: its present state is that of a version,
/// or it is on the way from one to the version that is being restored, where an interrupted restore left it.
///
/// The time of the state does not count. The bytes of a restored draft have a new time.
async fn is_saved(
    context: &Context,
    history: &History,
    present: &Present,
    plan: &Plan,
    contents: &Contents,
) -> Result<bool> {
    if !has_copies(context, &history.id, present, plan, contents).await? {
        return Ok(false);
    }
    let digest = present.state_digest();
    let document = present.document.as_ref();
    let document_digest = document.map(|document| document.sha256.to_string());
    for version in &history.versions {
        let name = Some(version.name.digest());
        if name == digest.as_deref() {
            return Ok(true);
        }
        // A version without files is enough if the restore changes no more than the document.
        let is_document = version.manifest.is_none() && name == document_digest.as_deref();
        if is_document && !plan.touches_files() {
            return Ok(true);
        }
    }
    let new_name = contents.version.document_name;
    let is_new_document = plan.document.is_none() && document.is_none_or(|it| it.name == new_name);
    let has_document = |version: &&SavedVersion| {
        let object = document.and_then(|it| present.objects.get(it.name.as_str()));
        let Some(object) = object else { return true };
        is_new_document
            || (version.document.size == object.size && version.document.etag == object.etag)
    };
    let candidates = history.versions.iter().rev().filter(has_document);
    let candidates = candidates.filter(|version| version.manifest.is_some());
    let new: HashMap<_, _> = by_path(&contents.files);
    for version in candidates.take(MAX_OTHER_VERSIONS) {
        let old = match Contents::read_files(&context.store, &history.id, version).await {
            // Another version may have the state.
            Err(error) if error.is_problem() => continue,
            old => old?,
        };
        let old = by_path(&old);
        let is_known = present.files().all(|(path, object)| {
            let mut known = [old.get(path), new.get(path)].into_iter().flatten();
            known.any(|file| is_same(object, file, None))
        });
        if is_known {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether the files of the draft that the plan replaces or removes have copies: a version that was damaged may
/// lack them.
async fn has_copies(
    context: &Context,
    id: &DraftId,
    present: &Present,
    plan: &Plan,
    contents: &Contents,
) -> Result<bool> {
    let replaced = plan.replaced.iter();
    let replaced = replaced.map(|change| &contents.files[change.file].path);
    let removed = plan.removed.iter().map(|(path, _)| path);
    let document = present.document.as_ref().map(|it| it.name.as_str());
    let paths = replaced.chain(removed);
    let paths = paths.filter(|path| Some(&***path) != document);
    let files = paths.filter_map(|path| {
        let object = present.objects.get(path)?;
        Some(VersionFile {
            path: path.clone(),
            size: object.size,
            etag: object.etag.clone(),
            last_modified: contents.version.saved_at,
        })
    });
    let files: Vec<_> = files.collect();
    let found = find_copies(context, id, &files.iter().collect::<Vec<_>>()).await?;
    Ok(files.iter().all(|file| {
        found
            .get(&*file.path)
            .is_some_and(|it| it.size == file.size)
    }))
}

fn by_path(files: &[VersionFile]) -> HashMap<&str, &VersionFile> {
    files.iter().map(|file| (&*file.path, file)).collect()
}

/// A restore in progress.
struct Restore<'a> {
    copier: Copier,
    /// Prefix of all objects of the draft.
    prefix: String,
    /// The draft whose version is restored.
    id: DraftId,
    plan: &'a Plan,
    contents: &'a Contents,
    present: &'a Present,
}

impl Restore<'_> {
    async fn run(&self, context: &Context) -> Result<()> {
        let result = tokio::select! {
            result = self.apply(context) => result,
            () = interrupted() => Err(Error::new("stopped: the restore is not complete")
                .advise("Run the same command again to complete it.")),
        };
        if result.is_err() {
            self.copier.abort_all().await;
        }
        result
    }

    async fn apply(&self, context: &Context) -> Result<()> {
        let Self {
            plan,
            contents,
            present,
            ..
        } = self;
        let changes = || plan.added.iter().chain(&plan.replaced);
        let bytes = changes()
            .map(|change| contents.files[change.file].size)
            .sum();
        let bar = context.output.bytes_bar("copying", bytes);
        for changes in [&plan.added, &plan.replaced] {
            for_each(changes, CONCURRENCY, |change| {
                let file = &contents.files[change.file];
                let source = Object {
                    key: file.key(&self.id),
                    size: file.size,
                    etag: change.etag.clone(),
                    last_modified: file.last_modified,
                };
                let target = format!("{}{}", self.prefix, file.path);
                let condition = change.condition.clone();
                let (copier, bar) = (self.copier.clone(), bar.clone());
                async move {
                    copier.copy(&source, &target, &condition, None).await?;
                    bar.inc(source.size);
                    Ok(())
                }
            })
            .await?;
        }
        bar.finish_and_clear();
        let document = contents.version.document_name.as_str();
        let target = format!("{}{document}", self.prefix);
        if let Some(condition) = &plan.document {
            // Its metadata is that of the version.
            let content_type = Some("application/json");
            let source = &contents.head.object;
            self.copier
                .copy(source, &target, condition, content_type)
                .await?;
        } else if let Some(kept) = present.objects.get(document)
            && plan.changes_files()
        {
            self.copier.check_unchanged(&target, &kept.etag).await?;
        }
        for_each(&plan.removed, CONCURRENCY, |(path, etag)| {
            let key = format!("{}{path}", self.prefix);
            let (copier, etag) = (self.copier.clone(), etag.clone());
            async move { copier.delete(&key, &etag).await }
        })
        .await
    }
}

fn print(
    context: &Context,
    report: &Report<'_>,
    document_bytes: u64,
    has_manifest: bool,
) -> Result<()> {
    let output = &context.output;
    if output.is_json() {
        return output.json(report);
    }
    let row = |action: &str, path: &str, size: Option<u64>| {
        let size = size.map(output::size).unwrap_or_default();
        vec![
            action.to_owned(),
            output::printable(path).into_owned(),
            size,
        ]
    };
    let files = |action: &'static str, files: &[ReportedFile<'_>]| {
        let rows = files
            .iter()
            .map(|file| row(action, file.path, Some(file.size)));
        rows.collect::<Vec<_>>()
    };
    let mut rows = files("add", &report.add);
    rows.extend(files("replace", &report.replace));
    if report.document.1 != "keep" {
        rows.push(row(
            report.document.1,
            report.document.0,
            Some(document_bytes),
        ));
    }
    rows.extend(report.remove.iter().map(|path| row("remove", path, None)));
    let copied = |files: &[ReportedFile<'_>]| files.iter().map(|file| file.size).sum::<u64>();
    let (verb, to) = (
        if report.dry_run {
            "would restore"
        } else {
            "restored"
        },
        report.to,
    );
    let mut text = String::new();
    if report.dry_run && !rows.is_empty() {
        let columns = [
            ("action", Align::Left),
            ("path", Align::Left),
            ("size", Align::Right),
        ];
        text.push_str(&output.table(&columns, rows));
        text.push('\n');
    }
    let number = |count: usize, noun| output::count(count as u64, noun);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{verb} version {} to the draft {to}: {} added, {} replaced, {} removed, {} unchanged; document {}; {} copied",
        report.version,
        number(report.add.len(), "file"),
        report.replace.len(),
        report.remove.len(),
        report.unchanged,
        match report.document.1 {
            "keep" => "unchanged",
            "add" => "added",
            _ => "replaced",
        },
        output::size(copied(&report.add) + copied(&report.replace)),
    );
    output.print(&text)?;
    if report.left > 0 {
        let (stay, them) = match report.left {
            1 => ("stays", "it"),
            _ => ("stay", "them"),
        };
        let count = output::count(report.left, "other file");
        let hint = format!("; --exact deletes {them}");
        let hint = if has_manifest { &*hint } else { "" };
        output.note(&format!("{count} of the draft {stay}{hint}"));
    }
    Ok(())
}
