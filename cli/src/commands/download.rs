//! `drafts download`: a complete and verified folder or zip, or nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use save_draft::draft::DraftId;
use save_draft::draft::document::{self, DocumentKind};
use save_draft::draft::keys::DocumentName;
use serde::Serialize;
use tokio::task::block_in_place;

use super::Context;
use crate::archive::Archive;
use crate::concurrent::{for_each, interrupted};
use crate::contents::{Contents, VersionFile};
use crate::error::{Error, Outcome, Result};
use crate::hash::{Comparison, EtagHasher};
use crate::history::History;
use crate::output;
use crate::paths::{self, Place};
use crate::relink::{KnownPaths, relink};
use crate::staging::{Staging, Writer};
use crate::store::{Bucket, CONCURRENCY, Reader, Store};
use crate::values;

/// Size up to which a file of a zip is read before its turn, in bytes.
const MAX_AHEAD_BYTES: u64 = 1 << 20;
/// Number of files of a zip that are read before their turn.
const FILES_AHEAD: usize = 16;

/// Download a version as a complete folder, or as a zip
///
/// The files are written beside DIR, verified, and only then get its name. A wrong or missing file is an error
/// (exit status 1), and DIR does not appear.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  drafts download 2025092811473036584258 --to my-draft
  drafts download 2025092811473036584258 20250928T114730Z --zip my-draft.zip")]
pub struct Args {
    /// Id or URL of the draft
    #[arg(value_parser = values::draft_id)]
    id: DraftId,
    /// Name of a version, a unique beginning of one, or latest
    #[arg(default_value = "latest")]
    version: String,
    /// New folder for the files
    #[arg(long, value_name = "DIR", required_unless_present = "zip")]
    to: Option<PathBuf>,
    /// New zip for the files
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    zip: Option<PathBuf>,
    /// Adapt absolute paths of the version's files in the document to DIR
    #[arg(long, conflicts_with = "zip")]
    relink: bool,
}

/// The result of a download.
#[derive(Debug, Serialize)]
struct Report {
    draft_id: String,
    version: String,
    /// The new folder or zip.
    path: String,
    /// Number of files, with the document.
    files: u64,
    bytes: u64,
    /// Number of files whose hash was compared, with the document; of the others only the size is known.
    hashes: u64,
    /// Number of paths that were adapted, by document.
    #[serde(skip_serializing_if = "Option::is_none")]
    relinked: Option<BTreeMap<&'static str, usize>>,
}

/// A download in progress.
struct Download {
    store: Store,
    id: DraftId,
    has_md5_etags: bool,
    bar: ProgressBar,
    hashes: AtomicU64,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    let (target, place) = match (&args.to, &args.zip) {
        (Some(folder), _) => (folder, Place::Folder),
        (None, Some(file)) => (file, Place::Archive),
        (None, None) => return Err(Error::new("--to DIR or --zip FILE is missing")),
    };
    let staging = Staging::create(target, place == Place::Folder)?;
    let target = staging.target().to_owned();
    let result = tokio::select! {
        result = fetch(context, &args, &staging, place) => result,
        () = interrupted() => Err(Error::new(format!("stopped: {} was not created", target.display()))),
    };
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            staging.discard().await;
            return Err(error);
        }
    };
    match place {
        Place::Folder => staging.publish_folder().await?,
        Place::Archive => staging.publish_file()?,
    }
    print(context, &report)?;
    Ok(Outcome::Success)
}

fn print(context: &Context, report: &Report) -> Result<()> {
    if context.output.is_json() {
        return context.output.json(report);
    }
    let mut text = format!(
        "downloaded {} ({}) of version {} to {}\n",
        output::count(report.files, "file"),
        output::size(report.bytes),
        report.version,
        output::printable(&report.path),
    );
    for (document, count) in report.relinked.iter().flatten() {
        let count = output::count(*count as u64, "path");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "adapted {count} in {document}");
    }
    let unknown = report.files - report.hashes;
    if unknown > 0 {
        context.output.note(&format!(
            "{} could be checked by size only: their ETags are no hashes",
            output::count(unknown, "file")
        ));
    }
    context.output.print(&text)
}

/// Downloads the version into `staging`.
async fn fetch(context: &Context, args: &Args, staging: &Staging, place: Place) -> Result<Report> {
    let store = &context.store;
    let history = History::read(store, &args.id).await?;
    let version = history.find(&args.version)?;
    let contents = Contents::read(store, &args.id, version).await?;
    check_paths(&contents, place)?;
    if args.relink && !is_plain(&contents.document) {
        let name = contents.version.document_name.as_str();
        return Err(
            Error::new(format!("--relink cannot adapt {name}: it is encrypted"))
                .advise("Download without --relink, and link the media in the editor."),
        );
    }
    let bytes = contents.bytes();
    let download = Arc::new(Download {
        store: store.clone(),
        id: args.id.clone(),
        has_md5_etags: contents.has_md5_etags,
        bar: context.output.bytes_bar("downloading", bytes),
        // The document.
        hashes: AtomicU64::new(1),
    });
    let relinked = match place {
        Place::Folder => {
            let writer = staging.writer();
            download.write_files(&writer, &contents.files).await?;
            let target = args.relink.then(|| staging.target());
            write_documents(&writer, &args.id, &contents, target).await?
        }
        Place::Archive => {
            download.write_zip(staging, &contents).await?;
            None
        }
    };
    download.bar.finish_and_clear();
    Ok(Report {
        draft_id: args.id.to_string(),
        version: contents.version.name.to_string(),
        path: staging.target().display().to_string(),
        files: contents.files.len() as u64 + 1,
        bytes,
        hashes: download.hashes.load(Ordering::Relaxed),
        relinked,
    })
}

/// Checks that all files of the version can be files of their own at `place`.
fn check_paths(contents: &Contents, place: Place) -> Result<()> {
    let document = contents.version.document_name.as_str();
    for file in &contents.files {
        let checked = match paths::check(&file.path, place) {
            Ok(()) if file.path == document => Err("it is that of the document"),
            result => result,
        };
        checked.map_err(|problem| {
            let path = output::printable(&file.path).into_owned();
            Error::problem(format!(
                "the version has a file with the path {path:?}: {problem}"
            ))
            .advise("`drafts restore --as NEW_ID` copies the version within S3, where every path is allowed.")
        })?;
    }
    Ok(())
}

fn is_plain(document: &[u8]) -> bool {
    matches!(document::validate(document), Ok(DocumentKind::Plain))
}

/// Writes the document of the version. With a target, its paths are adapted, and so are those of the document with
/// the other name, if it is one of the files: editors read either.
async fn write_documents(
    writer: &Writer,
    id: &DraftId,
    contents: &Contents,
    target: Option<&Path>,
) -> Result<Option<BTreeMap<&'static str, usize>>> {
    let name = contents.version.document_name;
    let modified = contents.document_modified();
    let path = writer.root().join(name.as_str());
    let Some(target) = target else {
        let mut file = writer.file(path);
        file.write(&contents.document).await?;
        file.finish(modified).await?;
        return Ok(None);
    };
    let mut known = KnownPaths::default();
    contents.files.iter().for_each(|file| known.add(&file.path));
    let mut target = target.display().to_string();
    if cfg!(windows) {
        // Editors write `/` there too.
        target = target.replace('\\', "/");
    }
    let mut relinked = BTreeMap::new();
    let (document, count) = relink(&contents.document, id.as_str(), &target, &known);
    relinked.insert(name.as_str(), count);
    let mut file = writer.file(path);
    file.write(&document).await?;
    file.finish(modified).await?;
    for other in DocumentName::ALL {
        let listed = contents
            .files
            .iter()
            .find(|file| file.path == other.as_str());
        let Some(listed) = listed else { continue };
        let path = writer.root().join(other.as_str());
        let failed =
            |error: io::Error| Error::io(format!("cannot read {}", path.display()), &error);
        let document = fs::read(&path).map_err(failed)?;
        if !is_plain(&document) {
            continue;
        }
        let (document, count) = relink(&document, id.as_str(), &target, &known);
        relinked.insert(other.as_str(), count);
        if count > 0 {
            fs::remove_file(&path).map_err(failed)?;
            let mut file = writer.file(path.clone());
            file.write(&document).await?;
            file.finish(listed.last_modified).await?;
        }
    }
    Ok(Some(relinked))
}

impl Download {
    async fn write_files(self: &Arc<Self>, writer: &Writer, files: &[VersionFile]) -> Result<()> {
        for_each(files, CONCURRENCY, |file| {
            let download = Arc::clone(self);
            let path = paths::in_folder(writer.root(), &file.path);
            let (file, mut output) = (file.clone(), writer.file(path));
            async move {
                let mut input = CheckedFile::open(&download, &file).await?;
                while let Some(bytes) = input.next().await? {
                    output.write(&bytes).await?;
                }
                output.finish(file.last_modified).await
            }
        })
        .await
    }

    /// Writes the files in the order of the manifest, and the document as the last. Small files are read before
    /// their turn.
    async fn write_zip(&self, staging: &Staging, contents: &Contents) -> Result<()> {
        let failed = |error: io::Error| {
            Error::io(
                format!("cannot write {}", staging.target().display()),
                &error,
            )
        };
        let mut archive = Archive::create(&staging.path()).map_err(failed)?;
        let mut files = stream::iter(&contents.files)
            .map(|file| async move {
                let is_small = file.size <= MAX_AHEAD_BYTES;
                let mut bytes = None;
                if is_small {
                    let mut input = CheckedFile::open(self, file).await?;
                    let bytes = bytes.insert(BytesMut::new());
                    while let Some(chunk) = input.next().await? {
                        bytes.extend_from_slice(&chunk);
                    }
                }
                Ok::<_, Error>((file, bytes))
            })
            .buffered(FILES_AHEAD);
        while let Some((file, bytes)) = files.try_next().await? {
            block_in_place(|| archive.begin(&file.path, file.size, file.last_modified))
                .map_err(failed)?;
            if let Some(bytes) = bytes {
                block_in_place(|| archive.write(&bytes)).map_err(failed)?;
                continue;
            }
            let mut input = CheckedFile::open(self, file).await?;
            while let Some(bytes) = input.next().await? {
                block_in_place(|| archive.write(&bytes)).map_err(failed)?;
            }
        }
        let name = contents.version.document_name.as_str();
        let (document, modified) = (&contents.document, contents.document_modified());
        block_in_place(|| {
            archive.begin(name, document.len() as u64, modified)?;
            archive.write(document)?;
            archive.finish()
        })
        .map_err(failed)
    }
}

/// The copy of a file, which is checked while it is read.
struct CheckedFile<'a> {
    download: &'a Download,
    file: &'a VersionFile,
    reader: Reader<'a>,
    hasher: Option<EtagHasher>,
}

impl<'a> CheckedFile<'a> {
    async fn open(download: &'a Download, file: &'a VersionFile) -> Result<Self> {
        let key = file.key(&download.id);
        let reader = download.store.read(Bucket::Saved, &key).await?;
        let reader = reader.ok_or_else(|| {
            let (path, url) = (
                output::printable(&file.path),
                download.store.url(Bucket::Saved, &key),
            );
            Error::problem(format!("{path} is missing: there is no {url}"))
        })?;
        let size = reader.head.object.size;
        if size != file.size {
            return Err(Error::problem(format!(
                "{} is not what was saved: it has {size} bytes instead of {}",
                output::printable(&file.path),
                file.size
            )));
        }
        Ok(Self {
            download,
            file,
            reader,
            hasher: Some(EtagHasher::new(&file.etag, file.size)),
        })
    }

    /// Returns the next bytes, or `None` after the last if all of them are what was saved.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(bytes) = self.reader.next().await? {
            self.download.bar.inc(bytes.len() as u64);
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes);
            }
            return Ok(Some(bytes));
        }
        match self.hasher.take().map(EtagHasher::finish) {
            Some(Comparison::Equal) => {
                self.download.hashes.fetch_add(1, Ordering::Relaxed);
            }
            Some(Comparison::Different) if self.download.has_md5_etags => {
                return Err(Error::problem(format!(
                    "{} is not what was saved: its MD5 is not {}",
                    output::printable(&self.file.path),
                    self.file.etag
                )));
            }
            _ => {}
        }
        Ok(None)
    }
}
