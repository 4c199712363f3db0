//! A folder beside the target of a download, which becomes the target when it is complete.

use std::fs::{self, File, FileTimes};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use tempfile::{TempDir, TempPath};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use crate::concurrent::panicked;
use crate::error::{Error, Result};

/// Number of writes at the same time.
const MAX_WRITES: u32 = 16;

/// Size from which on a file is written before it is complete, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// A temporary folder beside the target. It is removed when it is dropped.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    parent: PathBuf,
    folder: TempDir,
    writes: Arc<Semaphore>,
}

/// Writes files into a [`Staging`].
#[derive(Clone, Debug)]
pub struct Writer {
    root: PathBuf,
    writes: Arc<Semaphore>,
}

/// A file that is being written.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    /// `None` until the first bytes are written.
    file: Option<File>,
    buffer: Vec<u8>,
    writes: Arc<Semaphore>,
}

impl Staging {
    /// Creates a temporary folder beside `target`, which must not exist, except as an empty folder if
    /// `may_be_folder`.
    pub fn create(target: &Path, may_be_folder: bool) -> Result<Self> {
        let target = std::path::absolute(target)
            .map_err(|error| Error::io(format!("cannot use {}", target.display()), &error))?;
        let (Some(parent), Some(_)) = (target.parent(), target.file_name()) else {
            return Err(Error::new(format!("{} exists", target.display()))
                .advise("Name a new folder or file."));
        };
        check_absent(&target, may_be_folder)?;
        let folder = tempfile::Builder::new()
            .prefix(".drafts-")
            .suffix(".partial")
            .tempdir_in(parent)
            .map_err(|error| Error::io(format!("cannot write to {}", parent.display()), &error))?;
        Ok(Self {
            parent: parent.to_owned(),
            target,
            folder,
            writes: Arc::new(Semaphore::new(MAX_WRITES as usize)),
        })
    }

    /// The absolute path of the target.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The path of the folder or file that becomes the target.
    pub fn path(&self) -> PathBuf {
        // In the temporary folder, which only its owner may read, and with the usual permissions.
        self.folder.path().join("new")
    }

    /// Returns a writer for the files of a folder.
    pub fn writer(&self) -> Writer {
        Writer {
            root: self.path(),
            writes: Arc::clone(&self.writes),
        }
    }

    /// Makes the complete folder the target.
    pub async fn publish_folder(self) -> Result<()> {
        let path = self.path();
        let root = path.clone();
        let synced = spawn_blocking(move || sync_folders(&root));
        synced.await.map_err(panicked)??;
        // A rename replaces an empty folder, and nothing else. On Windows it replaces nothing.
        #[cfg(windows)]
        let _ = fs::remove_dir(&self.target);
        fs::rename(&path, &self.target).map_err(|error| {
            Error::io(format!("cannot create {}", self.target.display()), &error)
        })?;
        sync_folder(&self.parent)
    }

    /// Makes the complete file the target.
    pub fn publish_file(self) -> Result<()> {
        let failed = |error: &io::Error| {
            Error::io(format!("cannot create {}", self.target.display()), error)
        };
        let path = TempPath::try_from_path(self.path()).map_err(|error| failed(&error))?;
        path.persist_noclobber(&self.target)
            .map_err(|error| failed(&error.error))?;
        sync_folder(&self.parent)
    }

    /// Removes the temporary folder.
    pub async fn discard(self) {
        // A write that was begun creates files until it ends, also if nobody waits for it.
        let _writes = self.writes.acquire_many(MAX_WRITES).await;
        // A file that was not begun is refused.
        self.writes.close();
        // It is beside the target, and its name says that it is not complete.
        let _ = self.folder.close();
    }
}

fn check_absent(target: &Path, may_be_folder: bool) -> Result<()> {
    let exists = || Error::new(format!("{} exists", target.display()));
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(
            format!("cannot read {}", target.display()),
            &error,
        )),
        Ok(metadata) if metadata.is_dir() && may_be_folder => {
            let is_empty = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
            is_empty
                .then_some(())
                .ok_or_else(|| exists().advise("Name a new folder, or one that is empty."))
        }
        Ok(_) => Err(exists().advise("Name a new one.")),
    }
}

/// Lets the names of all files in `folder` survive a crash of the machine. Their contents do already.
fn sync_folders(folder: &Path) -> Result<()> {
    let failed = |error: io::Error| Error::io(format!("cannot read {}", folder.display()), &error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<()> {
    // Windows does not open folders.
    if cfg!(unix) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| Error::io(format!("cannot write {}", folder.display()), &error))?;
    }
    Ok(())
}

impl Writer {
    /// The folder of the files.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts to write the file `path`, which must be below the folder.
    pub fn file(&self, path: PathBuf) -> NewFile {
        NewFile {
            path,
            file: None,
            buffer: Vec::new(),
            writes: Arc::clone(&self.writes),
        }
    }
}

impl NewFile {
    /// Adds bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush(None).await?;
        }
        Ok(())
    }

    /// Completes the file, which then has the time `modified` and survives a crash of the machine.
    pub async fn finish(mut self, modified: Timestamp) -> Result<()> {
        // Some systems cannot express all times.
        let modified = SystemTime::try_from(modified);
        self.flush(Some(modified.unwrap_or(SystemTime::UNIX_EPOCH)))
            .await
    }

    async fn flush(&mut self, end: Option<SystemTime>) -> Result<()> {
        let permit: OwnedSemaphorePermit = Arc::clone(&self.writes)
            .acquire_owned()
            .await
            .map_err(|error| Error::new(error.to_string()))?;
        let (path, opened) = (self.path.clone(), self.file.take());
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = spawn_blocking(move || {
            let mut file = match opened {
                Some(file) => file,
                None => create(&path)?,
            };
            file.write_all(&buffer)?;
            buffer.clear();
            if let Some(modified) = end {
                file.set_times(FileTimes::new().set_modified(modified))?;
                file.sync_all()?;
            }
            drop(permit);
            Ok((file, buffer))
        });
        let written: io::Result<_> = written.await.map_err(panicked)?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => Error::problem(format!(
                "two files of the version are the same file here: {}",
                self.path.display()
            ))
            .advise("The file system may not tell upper and lower case apart. Use --zip."),
            _ => Error::io(format!("cannot write {}", self.path.display()), &error),
        };
        let (file, buffer) = written.map_err(failed)?;
        (self.file, self.buffer) = (Some(file), buffer);
        Ok(())
    }
}

/// Creates a file and the folders that contain it.
fn create(path: &Path) -> io::Result<File> {
    match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            File::create_new(path)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    async fn write(staging: &Staging, path: &str, bytes: &[u8]) -> Result<()> {
        let writer = staging.writer();
        let path = writer.root().join(path);
        let mut file = writer.file(path);
        file.write(bytes).await?;
        file.finish(Timestamp::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn the_target_appears_when_it_is_complete() {
        let parent = tempfile::tempdir().expect("a folder");
        let target = parent.path().join("draft");
        for _ in 0..2 {
            let staging = Staging::create(&target, true).expect("no such folder");
            let large = vec![7; 3 * BUFFER_BYTES + 1];
            write(&staging, "a/b/c", &large).await.expect("a file");
            write(&staging, "d", b"").await.expect("a file");
            assert!(!target.join("d").exists());
            staging.publish_folder().await.expect("it is published");
            assert_eq!(names(parent.path()), ["draft"]);
            assert_eq!(names(&target), ["a", "d"]);
            assert!(fs::read(target.join("a/b/c")).expect("a file") == large);
            let modified = fs::metadata(target.join("d")).expect("a file").modified();
            assert_eq!(modified.expect("a time"), SystemTime::UNIX_EPOCH);

            let error = Staging::create(&target, true).expect_err("it is not empty");
            assert!(error.to_string().ends_with("draft exists"), "{error}");
            // Once more, as an empty folder.
            fs::remove_dir_all(&target).expect("it is removed");
            fs::create_dir(&target).expect("an empty folder");
        }
        Staging::create(&target, false).expect_err("a file cannot replace a folder");
    }

    #[tokio::test]
    async fn a_file_that_appears_meanwhile_is_not_replaced() {
        let parent = tempfile::tempdir().expect("a folder");
        for (name, may_be_folder) in [("a.zip", false), ("folder", true)] {
            let target = parent.path().join(name);
            let staging = Staging::create(&target, may_be_folder).expect("no such file");
            fs::write(&target, "mine").expect("a file");
            let published = if may_be_folder {
                write(&staging, "a", b"a").await.expect("a file");
                staging.publish_folder().await
            } else {
                fs::write(staging.path(), "new").expect("a file");
                staging.publish_file()
            };
            published.expect_err("the target exists");
            assert_eq!(fs::read(&target).expect("a file"), b"mine");
        }
        assert_eq!(names(parent.path()), ["a.zip", "folder"]);
    }

    #[tokio::test]
    async fn nothing_stays_after_a_discard() {
        let parent = tempfile::tempdir().expect("a folder");
        let staging = Staging::create(&parent.path().join("draft"), true).expect("a folder");
        write(&staging, "a/b", b"a").await.expect("a file");
        let error = write(&staging, "a/b", b"a")
            .await
            .expect_err("the file exists");
        assert!(error.to_string().contains("are the same file"), "{error}");
        write(&staging, "a/b/c", b"a")
            .await
            .expect_err("a file is no folder");
        staging.discard().await;
        assert_eq!(names(parent.path()), [""; 0]);
    }
}
