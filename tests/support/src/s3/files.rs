//! Objects as plain files.
//!
//! ```text
//! {root}/{bucket}/{key}          the object, where its key can be a path
//! {root}/.s3/odd/{bucket}/…      the object, where it cannot: `a//b`, `../x`, `dir/`, `a/b` beside `a`
//! {root}/.s3/meta/{bucket}/…     what S3 knows of an object besides its bytes
//! {root}/.s3/tmp/…               objects that are being written
//! ```
//!
//! An object appears by one rename of a file that is complete, so nobody ever sees a part of it, and a reader keeps
//! the file that it has opened. Metadata belongs to a file with a certain time and length; it counts for nothing once
//! somebody has put another file there by hand.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::digest;

/// The longest key that S3 takes, in bytes ("Creating object key names").
const MAX_KEY_BYTES: usize = 1024;
/// The longest name of a file on common file systems, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The length of the pieces that an escaped key is cut into, to stay below [`MAX_NAME_BYTES`].
const PIECE_BYTES: usize = 200;
/// How many descriptions of objects are kept in memory.
const MAX_KNOWN: usize = 4096;
/// A file whose time is younger may change again without that its time shows it.
const SETTLED: Duration = Duration::from_secs(2);
/// How often a file is read again that somebody rewrites in place meanwhile.
const MAX_READS: usize = 100;
/// Files left over by a process that was killed are removed after this time.
const STALE: Duration = Duration::from_hours(1);

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// By bucket and key: which state of the object, and what is known of it.
type Known = HashMap<(String, String), (Stamp, Arc<ObjectMetadata>)>;

/// Buckets and their objects below one folder.
pub struct Files {
    root: PathBuf,
    /// Held to write while an object changes, to read while one is looked up; in it the time of the newest change.
    changes: RwLock<SystemTime>,
    known: Mutex<Known>,
    /// What the clock shows, where it does not show the time of this machine.
    clock: Mutex<Option<SystemTime>>,
}

/// What S3 knows of an object besides its bytes, time and length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMetadata {
    /// MD5 of the bytes, in hex, without quotes.
    pub etag: String,
    /// Headers that come back with the object: content type, user metadata, checksums.
    pub headers: BTreeMap<String, String>,
}

/// An object without its bytes.
#[derive(Clone, Debug)]
pub struct Stat {
    /// `ETag` and headers.
    pub meta: Arc<ObjectMetadata>,
    /// When it was written; S3 shows it in whole seconds.
    pub modified: SystemTime,
    /// Its length in bytes.
    pub len: u64,
}

/// What has to hold for an object to be written or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Always,
    /// There is none (`If-None-Match: *`).
    Absent,
    /// There is one (`If-Match: *`).
    Present,
    /// There is one with this `ETag`, without quotes (`If-Match`).
    Matches(String),
}

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is an object, or one with another `ETag`.
    Precondition,
    /// There is no object where one has to be.
    Missing,
}

/// Tells one state of a file from the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    len: u64,
}

struct Found {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    meta: Option<Arc<ObjectMetadata>>,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            modified: metadata.modified()?,
            len: metadata.len(),
        })
    }
}

impl ObjectMetadata {
    /// What is known of bytes that came without a request.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let headers = [
            ("content-type".to_owned(), "binary/octet-stream".to_owned()),
            (
                "x-amz-checksum-crc64nvme".to_owned(),
                digest::checksum("crc64nvme", bytes),
            ),
        ];
        Self {
            etag: digest::md5_hex(bytes),
            headers: headers.into(),
        }
    }
}

impl Files {
    /// Opens the folder, made where it is missing.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        let temporary = root.join(".s3/tmp");
        fs::create_dir_all(&temporary)?;
        for entry in fs::read_dir(&temporary)?.flatten() {
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .map(|time| time.elapsed());
            if matches!(age, Ok(Ok(age)) if age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self {
            root,
            changes: RwLock::new(SystemTime::UNIX_EPOCH),
            known: Mutex::default(),
            clock: Mutex::default(),
        })
    }

    /// Where a user finds the object, or puts it; `None` for a key that cannot be a path.
    pub fn path(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        let plain = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.len() <= MAX_NAME_BYTES
                && !segment.contains(['\0', '\\'])
        };
        key.split('/')
            .all(plain)
            .then(|| self.bucket(bucket).join(key))
    }

    /// The names of all buckets and the times of their folders, in order.
    pub fn buckets(&self) -> io::Result<Vec<(String, SystemTime)>> {
        let mut buckets = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let metadata = fs::metadata(entry.path())?;
            match entry.file_name().into_string() {
                Ok(name) if metadata.is_dir() && s3s::path::check_bucket_name(&name) => {
                    buckets.push((name, metadata.modified()?));
                }
                _ => {}
            }
        }
        buckets.sort();
        Ok(buckets)
    }

    /// Whether there is such a bucket.
    pub fn has_bucket(&self, bucket: &str) -> bool {
        self.bucket(bucket).is_dir()
    }

    /// Makes a bucket; `false` when there is one.
    pub fn create_bucket(&self, bucket: &str) -> io::Result<bool> {
        match fs::create_dir(self.bucket(bucket)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a bucket; `false` when there are objects in it.
    pub fn delete_bucket(&self, bucket: &str) -> io::Result<bool> {
        let _change = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        if !self.list(bucket, "", "")?.is_empty() {
            return Ok(false);
        }
        // Empty folders are no objects.
        fs::remove_dir_all(self.bucket(bucket))?;
        Ok(true)
    }

    /// The object, in one of its states.
    pub fn read(&self, bucket: &str, key: &str) -> io::Result<Option<(Stat, Vec<u8>)>> {
        for _ in 0..MAX_READS {
            let Some(mut found) = self.look_up(bucket, key)? else {
                return Ok(None);
            };
            if let Some(bytes) = found.bytes()? {
                let meta = found
                    .meta
                    .take()
                    .unwrap_or_else(|| self.describe(bucket, key, found.stamp, &bytes));
                return Ok(Some((found.stat(meta), bytes)));
            }
        }
        Err(io::Error::other(format!("{key} changes all the time")))
    }

    /// The object without its bytes.
    pub fn stat(&self, bucket: &str, key: &str) -> io::Result<Option<Stat>> {
        let Some(mut found) = self.look_up(bucket, key)? else {
            return Ok(None);
        };
        match found.meta.take() {
            Some(meta) => Ok(Some(found.stat(meta))),
            None => Ok(self.read(bucket, key)?.map(|(stat, _)| stat)),
        }
    }

    /// Writes an object, as a whole or not at all. With [`Precondition::Absent`], one of any number of writers wins, also when
    /// they are different processes.
    pub fn write(
        &self,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        meta: ObjectMetadata,
        rule: &Precondition,
    ) -> io::Result<Result<Stat, Refused>> {
        // All the slow work is done on a file that nobody sees.
        let mut temporary = NamedTempFile::new_in(self.root.join(".s3/tmp"))?;
        temporary.write_all(bytes)?;

        let mut newest = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let before = self.look_up_locked(bucket, key)?;
        if let Err(refused) = self.check(bucket, key, before.as_ref(), rule)? {
            return Ok(Err(refused));
        }
        // Times follow the order of the changes, and no two are the same.
        let time = self.now().max(*newest + Duration::from_micros(1));
        temporary.as_file().set_modified(time)?;
        let stamp = Stamp::of(temporary.as_file())?;
        *newest = stamp.modified;

        let meta = Arc::new(meta);
        let target = self.target(bucket, key)?;
        self.remember(bucket, key, stamp, &meta)?;
        if *rule == Precondition::Absent {
            if let Err(error) = temporary.persist_noclobber(&target) {
                self.forget(bucket, key, stamp);
                return match error.error.kind() {
                    ErrorKind::AlreadyExists => Ok(Err(Refused::Precondition)),
                    _ => Err(error.error),
                };
            }
        } else {
            temporary.persist(&target)?;
        }
        if let Some(before) = before {
            self.forget(bucket, key, before.stamp);
            if before.path != target {
                fs::remove_file(&before.path)?;
            }
        }
        self.known().insert(
            (bucket.to_owned(), key.to_owned()),
            (stamp, Arc::clone(&meta)),
        );
        Ok(Ok(Stat {
            meta,
            modified: stamp.modified,
            len: stamp.len,
        }))
    }

    /// Stops the clock at `time`: objects written from now on have it, or the least later one that keeps
    /// their order.
    pub fn set_clock(&self, time: SystemTime) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = Some(time);
    }

    fn now(&self) -> SystemTime {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.unwrap_or_else(SystemTime::now)
    }

    /// Deletes an object, and the folders that are empty without it.
    pub fn delete(
        &self,
        bucket: &str,
        key: &str,
        rule: &Precondition,
    ) -> io::Result<Result<(), Refused>> {
        let _change = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let found = self.look_up_locked(bucket, key)?;
        if let Err(refused) = self.check(bucket, key, found.as_ref(), rule)? {
            return Ok(Err(refused));
        }
        let Some(found) = found else {
            return Ok(Ok(()));
        };
        fs::remove_file(&found.path)?;
        self.forget(bucket, key, found.stamp);
        let roots = [self.bucket(bucket), self.hidden("odd", bucket)];
        let folders = found
            .path
            .ancestors()
            .skip(1)
            .take_while(|folder| !roots.iter().any(|root| root == folder));
        for folder in folders {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(Ok(()))
    }

    /// Changes the time of an object; `false` when there is none.
    pub fn set_modified(&self, bucket: &str, key: &str, time: SystemTime) -> io::Result<bool> {
        let Some(stat) = self.stat(bucket, key)? else {
            return Ok(false);
        };
        let _change = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = self.look_up_locked(bucket, key)? else {
            return Ok(false);
        };
        File::options()
            .write(true)
            .open(&found.path)?
            .set_modified(time)?;
        self.forget(bucket, key, found.stamp);
        self.remember(bucket, key, Stamp::of(&found.file)?, &stat.meta)?;
        Ok(true)
    }

    /// The keys with this prefix that come after `after`, in the order of their bytes.
    pub fn list(&self, bucket: &str, prefix: &str, after: &str) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        let wanted =
            |key: &str| key.starts_with(prefix) && key > after && key.len() <= MAX_KEY_BYTES;
        let mut take = |key: String| {
            if wanted(&key) {
                keys.push(key);
            }
        };
        // A folder that is a link to itself ends with the longest key.
        let may_hold = |folder: &str| {
            folder.len() < MAX_KEY_BYTES
                && (folder.starts_with(prefix) || prefix.starts_with(folder))
                && (folder > after || after.starts_with(folder))
        };
        walk(&self.bucket(bucket), "", &may_hold, &mut take)?;
        walk(&self.hidden("odd", bucket), "", &|_| true, &mut |path| {
            take(unescape(&path));
        })?;
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    fn bucket(&self, bucket: &str) -> PathBuf {
        self.root.join(bucket)
    }

    fn hidden(&self, what: &str, bucket: &str) -> PathBuf {
        self.root.join(".s3").join(what).join(bucket)
    }

    /// Where an object goes: where a user looks for it, unless a folder is there, or an object where a folder has to be.
    fn target(&self, bucket: &str, key: &str) -> io::Result<PathBuf> {
        if let Some(path) = self.path(bucket, key)
            && path
                .parent()
                .is_some_and(|folder| fs::create_dir_all(folder).is_ok())
            && !path.is_dir()
        {
            return Ok(path);
        }
        let path = self.hidden("odd", bucket).join(escape(key));
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(path)
    }

    fn look_up(&self, bucket: &str, key: &str) -> io::Result<Option<Found>> {
        let _no_change = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        self.look_up_locked(bucket, key)
    }

    fn look_up_locked(&self, bucket: &str, key: &str) -> io::Result<Option<Found>> {
        let odd = self.hidden("odd", bucket).join(escape(key));
        for path in self.path(bucket, key).into_iter().chain([odd]) {
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {}
                Ok(_) => continue,
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            }
            let file = File::open(&path)?;
            let stamp = Stamp::of(&file)?;
            let meta = self.recall(bucket, key, stamp);
            return Ok(Some(Found {
                path,
                file,
                stamp,
                meta,
            }));
        }
        Ok(None)
    }

    fn check(
        &self,
        bucket: &str,
        key: &str,
        found: Option<&Found>,
        rule: &Precondition,
    ) -> io::Result<Result<(), Refused>> {
        Ok(match (rule, found) {
            (Precondition::Always, _)
            | (Precondition::Absent, None)
            | (Precondition::Present, Some(_)) => Ok(()),
            (Precondition::Absent, Some(_)) => Err(Refused::Precondition),
            (Precondition::Present | Precondition::Matches(_), None) => Err(Refused::Missing),
            (Precondition::Matches(etag), Some(found)) => {
                let meta = match &found.meta {
                    Some(meta) => Arc::clone(meta),
                    None => self.describe(bucket, key, found.stamp, &fs::read(&found.path)?),
                };
                if meta.etag == *etag {
                    Ok(())
                } else {
                    Err(Refused::Precondition)
                }
            }
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known
    }

    fn sidecar(&self, bucket: &str, key: &str, stamp: Stamp) -> PathBuf {
        let age = stamp
            .modified
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("{}~{}-{}", escape(key), age.as_nanos(), stamp.len);
        self.hidden("meta", bucket).join(name)
    }

    fn recall(&self, bucket: &str, key: &str, stamp: Stamp) -> Option<Arc<ObjectMetadata>> {
        let name = (bucket.to_owned(), key.to_owned());
        match self.known().get(&name) {
            Some((known, meta)) if *known == stamp => return Some(Arc::clone(meta)),
            _ => {}
        }
        let text = fs::read(self.sidecar(bucket, key, stamp)).ok()?;
        let meta: Arc<ObjectMetadata> = Arc::new(serde_json::from_slice(&text).ok()?);
        self.known().insert(name, (stamp, Arc::clone(&meta)));
        Some(meta)
    }

    fn remember(
        &self,
        bucket: &str,
        key: &str,
        stamp: Stamp,
        meta: &ObjectMetadata,
    ) -> io::Result<()> {
        let path = self.sidecar(bucket, key, stamp);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, serde_json::to_vec(meta)?)
    }

    fn forget(&self, bucket: &str, key: &str, stamp: Stamp) {
        // It may never have had metadata.
        let _ = fs::remove_file(self.sidecar(bucket, key, stamp));
        self.known().remove(&(bucket.to_owned(), key.to_owned()));
    }

    /// Describes a file that was put there by hand.
    fn describe(&self, bucket: &str, key: &str, stamp: Stamp, bytes: &[u8]) -> Arc<ObjectMetadata> {
        let meta = Arc::new(ObjectMetadata::of_bytes(bytes));
        if stamp.modified.elapsed().is_ok_and(|age| age > SETTLED) {
            self.known().insert(
                (bucket.to_owned(), key.to_owned()),
                (stamp, Arc::clone(&meta)),
            );
        }
        meta
    }
}

impl Found {
    /// The bytes, unless the file changes meanwhile.
    fn bytes(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.stamp.len).unwrap_or_default());
        self.file.read_to_end(&mut bytes)?;
        let same = bytes.len() as u64 == self.stamp.len && Stamp::of(&self.file)? == self.stamp;
        Ok(same.then_some(bytes))
    }

    fn stat(&self, meta: Arc<ObjectMetadata>) -> Stat {
        Stat {
            meta,
            modified: self.stamp.modified,
            len: self.stamp.len,
        }
    }
}

/// The paths of all files below a folder, relative to it, where `enter` lets it into the folders on the way.
fn walk(
    folder: &Path,
    base: &str,
    enter: &dyn Fn(&str) -> bool,
    take: &mut dyn FnMut(String),
) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let mut kind = entry.file_type()?;
        if kind.is_symlink() {
            let Ok(metadata) = fs::metadata(entry.path()) else {
                continue;
            };
            kind = metadata.file_type();
        }
        let path = format!("{base}{name}");
        if kind.is_file() {
            take(path);
        } else if kind.is_dir() {
            let path = path + "/";
            if enter(&path) {
                walk(&entry.path(), &path, enter, take)?;
            }
        }
    }
    Ok(())
}

/// A relative path for any key, and never the same for two: `+` ends the names of folders.
fn escape(key: &str) -> String {
    let escaped: Vec<char> = utf8_percent_encode(key, PLAIN)
        .flat_map(str::chars)
        .collect();
    let pieces: Vec<String> = escaped
        .chunks(PIECE_BYTES)
        .map(|piece| piece.iter().collect())
        .collect();
    pieces.join("+/")
}

fn unescape(path: &str) -> String {
    percent_decode_str(&path.replace("+/", ""))
        .decode_utf8_lossy()
        .into_owned()
}
