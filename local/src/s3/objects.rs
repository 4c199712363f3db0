//! Objects as plain files.
//!
//! ```text
//! {root}/{bucket}/{key}                     an object; a user may put files there too
//! {root}/.s3/keys/{bucket}/{digest}/        an object whose key cannot be a path (`a//b`, `../a`, `a/`, `a/b` beside `a`,
//!                                           a long name): `object`, and `key`, which contains the key
//! {root}/.s3/versions/{bucket}/{digest}/    earlier versions of an object by their ids, delete markers, and `key`
//! {root}/.s3/versioned/{bucket}             exists if the bucket keeps versions
//! {root}/.s3/metadata/…                     ETag and headers of one state of an object
//! {root}/.s3/tmp/…                          objects that are being written
//! ```
//!
//! An object appears by one rename of a complete file, so a reader never sees a part of it. Metadata belongs to a file
//! with a certain modification time and length, and is ignored once another file is in that place.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use s3s::crypto::{Checksum as _, Crc64Nvme, Md5, Sha256};
use serde_json::json;
use tempfile::NamedTempFile;

use super::BUCKET;
use super::checksum::{self, CRC64NVME};

/// Maximum length of a key in bytes ("Naming Amazon S3 objects").
const MAX_KEY_BYTES: usize = 1024;
/// A file that was modified more recently may change again without a change of its modification time.
const SETTLED: Duration = Duration::from_secs(2);
const CHANGED: &str = "the file changed while it was read";
/// Maximum length of a file name in bytes on the usual file systems.
const MAX_NAME_BYTES: usize = 255;
/// The stored header with the id of a version.
pub const VERSION_ID: &str = "x-amz-version-id";
/// The id of an object that was written while its bucket kept no versions.
const NULL_VERSION: &str = "null";
/// The end of the name of a file that is a delete marker.
const MARKER: &str = ".deleted";

/// Headers that are stored with an object: content type, user metadata, checksums.
pub type Headers = BTreeMap<String, String>;

/// An object without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The `ETag`, without quotes.
    pub etag: String,
    /// The headers that are stored with the object.
    pub headers: Headers,
    /// The time of the last write; S3 shows it in whole seconds.
    pub modified: SystemTime,
    /// The length in bytes.
    pub size: u64,
    /// The file.
    pub path: PathBuf,
}

impl ObjectInfo {
    fn version_id(&self) -> &str {
        let id = self.headers.get(VERSION_ID);
        id.map_or(NULL_VERSION, String::as_str)
    }
}

/// The condition under which an object is written or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// None.
    Always,
    /// The object does not exist (`If-None-Match: *`).
    Absent,
    /// The object exists and has this `ETag`, without quotes (`If-Match`).
    Matches(String),
}

impl Precondition {
    fn check(&self, object: Option<&ObjectInfo>) -> Result<()> {
        match (self, object) {
            (Self::Absent, Some(_)) => Err(Error::PreconditionFailed),
            (Self::Matches(_), None) => Err(Error::NoSuchKey),
            (Self::Matches(etag), Some(object)) if object.etag != *etag => {
                Err(Error::PreconditionFailed)
            }
            _ => Ok(()),
        }
    }
}

/// The reason why an operation failed.
#[derive(Debug)]
pub enum Error {
    /// The object exists, or has another `ETag`.
    PreconditionFailed,
    /// The object does not exist, but has to.
    NoSuchKey,
    /// A file cannot be read or written.
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A version of an object, or a delete marker.
pub struct Version {
    /// Its id.
    pub id: String,
    /// A delete marker has no content.
    pub is_marker: bool,
    /// The version.
    pub info: ObjectInfo,
    /// The opened file.
    pub file: File,
}

/// Buckets and their objects below one folder.
pub struct Objects {
    root: PathBuf,
    /// Locked for writing while an object changes. Contains the time of the newest change.
    last_change: RwLock<SystemTime>,
    /// The time at which the clock is stopped.
    clock: Mutex<Option<SystemTime>>,
}

impl Objects {
    /// Opens the folder, which is created if it does not exist.
    pub fn open(root: PathBuf, versioned: bool) -> Result<Self> {
        let objects = Self {
            root,
            last_change: RwLock::new(SystemTime::UNIX_EPOCH),
            clock: Mutex::default(),
        };
        objects.temporary_file()?;
        objects.has_bucket(BUCKET)?;
        if versioned {
            objects.enable_versioning(BUCKET)?;
        }
        Ok(objects)
    }

    /// The path of an object whose key can be a path.
    fn plain_path(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        let plain = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME_BYTES;
        let plain = key.split('/').all(plain) && !key.contains('\0');
        plain.then(|| self.root.join(bucket).join(key))
    }

    /// The folder with files of one key: `kind` is `keys` or `versions`.
    fn key_folder(&self, kind: &str, bucket: &str, key: &str) -> PathBuf {
        let folder = self.root.join(".s3").join(kind).join(bucket);
        folder.join(sha256_hex(key.as_bytes()))
    }

    /// Creates the folder with files of one key.
    fn create_key_folder(&self, kind: &str, bucket: &str, key: &str) -> Result<PathBuf> {
        let folder = self.key_folder(kind, bucket, key);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join("key"), key))
            .map_err(|error| with_path(&folder, &error))?;
        Ok(folder)
    }

    /// Collects the keys with this prefix that have such a folder with a file besides `key`.
    fn keys_with_folder(&self, kind: &str, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for folder in read_dir(&self.root.join(".s3").join(kind).join(bucket))? {
            let folder = folder.path();
            if let Ok(key) = fs::read_to_string(folder.join("key"))
                && key.starts_with(prefix)
                && read_dir(&folder)?.len() > 1
            {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// The path at which an object is written.
    fn create_path(&self, bucket: &str, key: &str) -> Result<PathBuf> {
        let plain = self.plain_path(bucket, key);
        if let Some(path) = plain.filter(|path| create_parent(path).is_ok() && !path.is_dir()) {
            return Ok(path);
        }
        Ok(self.create_key_folder("keys", bucket, key)?.join("object"))
    }

    /// The names of all buckets and the times of their folders, in order.
    pub fn buckets(&self) -> Result<Vec<(String, SystemTime)>> {
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

    /// Returns whether the bucket exists. The default bucket is created if it does not, also later.
    pub fn has_bucket(&self, bucket: &str) -> Result<bool> {
        let path = self.root.join(bucket);
        let exists = path.is_dir();
        if !exists && bucket == BUCKET {
            fs::create_dir_all(&path).map_err(|error| with_path(&path, &error))?;
            return Ok(true);
        }
        Ok(exists)
    }

    /// Creates a bucket; returns `false` if it exists.
    pub fn create_bucket(&self, bucket: &str) -> Result<bool> {
        let exists = self.has_bucket(bucket)?;
        fs::create_dir_all(self.root.join(bucket))?;
        Ok(!exists)
    }

    fn versioned_path(&self, bucket: &str) -> PathBuf {
        self.root.join(".s3/versioned").join(bucket)
    }

    /// Returns whether the bucket keeps versions.
    pub fn is_versioned(&self, bucket: &str) -> bool {
        self.versioned_path(bucket).exists()
    }

    /// Lets the bucket keep versions from now on.
    pub fn enable_versioning(&self, bucket: &str) -> Result<()> {
        let path = self.versioned_path(bucket);
        create_parent(&path)?;
        Ok(fs::write(path, "")?)
    }

    /// Creates an empty file that no listing shows and that is deleted when it is dropped.
    pub fn temporary_file(&self) -> Result<NamedTempFile> {
        let folder = self.root.join(".s3/tmp");
        fs::create_dir_all(&folder)
            .and_then(|()| NamedTempFile::new_in(&folder))
            .map_err(|error| with_path(&folder, &error))
    }

    /// Opens an object for reading.
    pub fn find(&self, bucket: &str, key: &str) -> Result<Option<(ObjectInfo, File)>> {
        let _lock = self.last_change.read();
        self.find_locked(bucket, key)
    }

    /// Prevents changes while the guard exists, so that several calls of the methods that end in `_locked` show one
    /// moment.
    pub fn lock(&self) -> RwLockReadGuard<'_, SystemTime> {
        self.last_change.read()
    }

    /// Opens an object while the caller has the [lock](Objects::lock).
    pub fn find_locked(&self, bucket: &str, key: &str) -> Result<Option<(ObjectInfo, File)>> {
        let plain = self.plain_path(bucket, key);
        let other = self.key_folder("keys", bucket, key).join("object");
        for path in plain.into_iter().chain([other]) {
            // To open a named pipe would wait for its writer.
            let is_file = fs::metadata(&path).map(|metadata| metadata.is_file());
            let opened = is_file.and_then(|is_file| is_file.then(|| File::open(&path)).transpose());
            match opened {
                Ok(Some(mut file)) => return Ok(Some((self.describe(path, &mut file)?, file))),
                Ok(None) => {}
                Err(error) => match error.kind() {
                    ErrorKind::NotFound | ErrorKind::NotADirectory => {}
                    _ => return Err(with_path(&path, &error)),
                },
            }
        }
        Ok(None)
    }

    /// Describes an object while the caller has the [lock](Objects::lock).
    pub fn info_locked(&self, bucket: &str, key: &str) -> Result<Option<ObjectInfo>> {
        // The file of most objects need not be opened.
        if let Some(path) = self.plain_path(bucket, key)
            && let Ok(metadata) = fs::metadata(&path)
            && let info = self.stored_info(path, &metadata)?
            && !info.etag.is_empty()
        {
            return Ok(Some(info));
        }
        Ok(self.find_locked(bucket, key)?.map(|(info, _)| info))
    }

    /// Describes the object in a file by the stored metadata. Without them, it has no `ETag`.
    fn stored_info(&self, path: PathBuf, metadata: &Metadata) -> Result<ObjectInfo> {
        let mut info = ObjectInfo {
            etag: String::new(),
            headers: Headers::new(),
            modified: metadata.modified()?,
            size: metadata.len(),
            path,
        };
        let stored = fs::read(self.metadata_path(&info)).ok();
        if let Some(stored) = stored.and_then(|text| serde_json::from_slice(&text).ok()) {
            (info.etag, info.headers) = stored;
        }
        Ok(info)
    }

    /// Describes the object in a file: by the stored metadata, or by its bytes if a user has put the file there.
    fn describe(&self, path: PathBuf, file: &mut File) -> Result<ObjectInfo> {
        let mut info = self.stored_info(path, &file.metadata()?)?;
        if !info.etag.is_empty() {
            return Ok(info);
        }
        let (etag, crc) = copy(file, &mut io::sink())?;
        file.rewind()?;
        check_unchanged(&info, file)?;
        info.etag = etag;
        info.headers = Headers::from([(CRC64NVME.to_owned(), crc)]);
        if info.modified.elapsed().is_ok_and(|age| age > SETTLED) {
            // It saves time only, and the folder may not be writable.
            let _ = self.write_metadata(&info);
        }
        Ok(info)
    }

    /// Sets the time of a new file. Times follow the order of the changes, and no two are the same.
    fn set_time(&self, last_change: &mut SystemTime, file: &File) -> io::Result<(SystemTime, u64)> {
        let now = self.clock.lock().unwrap_or_else(SystemTime::now);
        file.set_modified(now.max(*last_change + Duration::from_micros(1)))?;
        let stamp = stamp(file)?;
        *last_change = stamp.0;
        Ok(stamp)
    }

    /// Writes an object, as a whole or not at all. The `ETag` is the MD5 digest of the content where none is given.
    pub fn write(
        &self,
        (bucket, key): (&str, &str),
        content: &mut dyn Read,
        etag: Option<String>,
        mut headers: Headers,
        precondition: &Precondition,
    ) -> Result<ObjectInfo> {
        let mut temporary = self.temporary_file()?;
        let (md5, crc) = copy(content, temporary.as_file_mut())?;
        if etag.is_none()
            && !headers
                .keys()
                .any(|name| name.starts_with(checksum::PREFIX))
        {
            headers.insert(CRC64NVME.to_owned(), crc);
        }

        let mut last_change = self.last_change.write();
        let before = self.info_locked(bucket, key)?;
        precondition.check(before.as_ref())?;
        let (modified, size) = self.set_time(&mut last_change, temporary.as_file())?;
        headers.remove(VERSION_ID);
        if self.is_versioned(bucket) {
            headers.insert(VERSION_ID.to_owned(), version_id(modified));
            if let Some(before) = &before {
                self.keep_version(bucket, key, before)?;
            }
        }
        let info = ObjectInfo {
            etag: etag.unwrap_or(md5),
            headers,
            modified,
            size,
            path: self.create_path(bucket, key)?,
        };
        self.write_metadata(&info)?;
        if let Err(error) = temporary.persist(&info.path) {
            self.remove_metadata(&info);
            return Err(with_path(&info.path, &error.error));
        }
        if let Some(before) = before {
            self.remove_metadata(&before);
            if before.path != info.path {
                fs::remove_file(&before.path)?;
            }
        }
        Ok(info)
    }

    /// Adds the current object to its earlier versions.
    fn keep_version(&self, bucket: &str, key: &str, current: &ObjectInfo) -> Result<()> {
        let folder = self.create_key_folder("versions", bucket, key)?;
        let path = folder.join(current.version_id());
        // A version without an id replaces the one before.
        let _ = fs::remove_file(&path);
        // The target of a link may change, or be on another file system.
        let kept = if current.path.is_symlink() {
            fs::copy(&current.path, &path).and_then(|_| {
                let kept = File::options().write(true).open(&path)?;
                kept.set_modified(current.modified)
            })
        } else {
            fs::hard_link(&current.path, &path)
        };
        kept.map_err(|error| with_path(&path, &error))?;
        self.write_metadata(&ObjectInfo {
            path,
            ..current.clone()
        })
    }

    /// Deletes an object, if it exists. In a bucket with versions, it becomes an earlier version, and the id of the
    /// delete marker is returned.
    pub fn delete(
        &self,
        bucket: &str,
        key: &str,
        precondition: &Precondition,
    ) -> Result<Option<String>> {
        let mut last_change = self.last_change.write();
        let current = self.info_locked(bucket, key)?;
        precondition.check(current.as_ref())?;
        let is_versioned = self.is_versioned(bucket);
        if let Some(info) = &current {
            if is_versioned {
                self.keep_version(bucket, key, info)?;
            }
            self.remove(bucket, info)?;
        }
        if !is_versioned {
            return Ok(None);
        }
        let marker = self.temporary_file()?;
        let (modified, _) = self.set_time(&mut last_change, marker.as_file())?;
        let id = version_id(modified);
        let folder = self.create_key_folder("versions", bucket, key)?;
        let persisted = marker.persist(folder.join(format!("{id}{MARKER}")));
        persisted.map_err(io::Error::from)?;
        Ok(Some(id))
    }

    /// Removes the file of an object or a version, and the folders that are empty without it.
    fn remove(&self, bucket: &str, info: &ObjectInfo) -> Result<()> {
        fs::remove_file(&info.path).map_err(|error| with_path(&info.path, &error))?;
        self.remove_metadata(info);
        let bucket = self.root.join(bucket);
        let mut folder = info.path.parent();
        while let Some(path) = folder.filter(|path| path.starts_with(&bucket) && **path != bucket) {
            folder = fs::remove_dir(path).ok().and(path.parent());
        }
        Ok(())
    }

    /// Returns the versions of an object and its delete markers, the newest first, while the caller has the
    /// [lock](Objects::lock).
    pub fn versions_locked(&self, bucket: &str, key: &str) -> Result<Vec<Version>> {
        let mut versions = Vec::new();
        for entry in read_dir(&self.key_folder("versions", bucket, key))? {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name == "key" {
                continue;
            }
            let marker = name.strip_suffix(MARKER);
            let (id, is_marker) = (marker.unwrap_or(&name).to_owned(), marker.is_some());
            let mut file = File::open(&path)?;
            versions.push(Version {
                id,
                is_marker,
                info: self.describe(path, &mut file)?,
                file,
            });
        }
        versions.sort_by_cached_key(|version| {
            Reverse(match &*version.id {
                NULL_VERSION => version_id(version.info.modified),
                id => id.to_owned(),
            })
        });
        if let Some((info, file)) = self.find_locked(bucket, key)? {
            let current = Version {
                id: info.version_id().to_owned(),
                is_marker: false,
                info,
                file,
            };
            versions.insert(0, current);
        }
        Ok(versions)
    }

    /// Opens a version or a delete marker.
    pub fn find_version(&self, bucket: &str, key: &str, id: &str) -> Result<Option<Version>> {
        let _lock = self.last_change.read();
        let mut versions = self.versions_locked(bucket, key)?.into_iter();
        Ok(versions.find(|version| version.id == id))
    }

    /// Deletes a version or a delete marker for ever; the newest version that is left becomes the object, unless it is
    /// a delete marker. Returns whether there was a delete marker with this id.
    pub fn delete_version(&self, bucket: &str, key: &str, id: &str) -> Result<bool> {
        let _lock = self.last_change.write();
        let mut versions = self.versions_locked(bucket, key)?;
        let Some(index) = versions.iter().position(|version| version.id == id) else {
            return Ok(false);
        };
        let deleted = versions.remove(index);
        self.remove(bucket, &deleted.info)?;
        let next = versions.first().filter(|_| index == 0);
        if let Some(next) = next.filter(|next| !next.is_marker) {
            let path = self.create_path(bucket, key)?;
            let info = ObjectInfo {
                path,
                ..next.info.clone()
            };
            self.write_metadata(&info)?;
            fs::rename(&next.info.path, &info.path)?;
            self.remove_metadata(&next.info);
        }
        Ok(deleted.is_marker)
    }

    /// Changes the time of an object; returns `false` if it does not exist.
    pub fn set_modified(&self, bucket: &str, key: &str, time: SystemTime) -> Result<bool> {
        let _lock = self.last_change.write();
        let Some((mut info, file)) = self.find_locked(bucket, key)? else {
            return Ok(false);
        };
        let writable = File::options().write(true).open(&info.path)?;
        writable.set_modified(time)?;
        self.remove_metadata(&info);
        info.modified = stamp(&file)?.0;
        self.write_metadata(&info)?;
        Ok(true)
    }

    /// Stops the clock at `time`.
    pub fn set_clock(&self, time: SystemTime) {
        *self.clock.lock() = Some(time);
    }

    /// Returns the first `limit` keys that start with `prefix` and follow `after`, in the order of their bytes.
    pub fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<String>> {
        let mut walk = Walk {
            prefix,
            after,
            limit,
            keys: Vec::new(),
        };
        walk.folder(&self.root.join(bucket), "")?;
        let mut keys = walk.keys;
        let others = self.keys_with_folder("keys", bucket, prefix)?;
        keys.extend(others.into_iter().filter(|key| **key > *after));
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(limit);
        Ok(keys)
    }

    /// Returns the keys with this prefix of all objects, versions and delete markers, in the order of their bytes.
    pub fn list_versioned(&self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let mut keys = self.list(bucket, prefix, "", usize::MAX)?;
        keys.extend(self.keys_with_folder("versions", bucket, prefix)?);
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    fn metadata_path(&self, info: &ObjectInfo) -> PathBuf {
        let path = info.path.strip_prefix(&self.root).unwrap_or(&info.path);
        let path = sha256_hex(path.as_os_str().as_encoded_bytes());
        let age = info.modified.duration_since(SystemTime::UNIX_EPOCH);
        let time = age.unwrap_or_default().as_nanos();
        let name = format!("{path}-{time}-{}", info.size);
        self.root.join(".s3/metadata").join(name)
    }

    fn write_metadata(&self, info: &ObjectInfo) -> Result<()> {
        let path = self.metadata_path(info);
        create_parent(&path)?;
        let metadata = json!((&info.etag, &info.headers)).to_string();
        Ok(fs::write(path, metadata)?)
    }

    fn remove_metadata(&self, info: &ObjectInfo) {
        // A file that a user has put there may have none.
        let _ = fs::remove_file(self.metadata_path(info));
    }
}

/// The modification time and the length of a file, which distinguish its states.
fn stamp(file: &File) -> io::Result<(SystemTime, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.modified()?, metadata.len()))
}

/// Reads a range of an object's bytes, unless the file has changed since it was opened.
pub fn read(info: &ObjectInfo, mut file: &File, range: Range<u64>) -> Result<Vec<u8>> {
    let size = range.end - range.start;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.seek(SeekFrom::Start(range.start))?;
    file.take(size).read_to_end(&mut bytes)?;
    check_unchanged(info, file)?;
    Ok(bytes)
}

/// Returns an error if the file has changed since it was opened.
pub fn check_unchanged(info: &ObjectInfo, file: &File) -> Result<()> {
    if stamp(file)? != (info.modified, info.size) {
        return Err(with_path(&info.path, &io::Error::other(CHANGED)));
    }
    Ok(())
}

/// Copies all bytes; returns their MD5 digest in hexadecimal digits and their CRC-64/NVME in Base64.
pub fn copy(from: &mut dyn Read, to: &mut dyn Write) -> Result<(String, String)> {
    let (mut md5, mut crc) = (Md5::new(), Crc64Nvme::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok((
                hex::encode(md5.finalize()),
                checksum::base64(crc.finalize()),
            ));
        }
        md5.update(&buffer[..count]);
        crc.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

/// A walk through the files of a bucket.
struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    keys: Vec<String>,
}

impl Walk<'_> {
    /// Collects the keys of the files below `folder`, which start with `base`, in the order of their bytes.
    fn folder(&mut self, folder: &Path, base: &str) -> Result<()> {
        let mut entries = Vec::new();
        for entry in read_dir(folder)? {
            let mut key = [base.as_bytes(), entry.file_name().as_encoded_bytes()].concat();
            let prefix = self.prefix.as_bytes();
            if !key.starts_with(prefix) && !prefix.starts_with(&key) {
                continue;
            }
            let mut file_type = entry.file_type()?;
            if file_type.is_symlink() {
                let target = fs::metadata(entry.path());
                let target = target.map_err(|error| with_path(&entry.path(), &error))?;
                file_type = target.file_type();
            }
            if file_type.is_dir() {
                key.push(b'/');
            } else if !file_type.is_file() || !key.starts_with(prefix) {
                // A named pipe, for example, is no object.
                continue;
            }
            let problem = match String::from_utf8(key) {
                Err(_) => "the name is not UTF-8, so it cannot be a part of a key",
                Ok(key) if key.len() > MAX_KEY_BYTES => {
                    "the path in the bucket is longer than a key can be, 1024 bytes"
                }
                Ok(key) => {
                    // All keys in a folder start with its key.
                    let is_folder = key.ends_with('/') && self.after.starts_with(&key);
                    if *key > *self.after || is_folder {
                        entries.push(key);
                    }
                    continue;
                }
            };
            let error = io::Error::new(ErrorKind::InvalidFilename, problem);
            return Err(with_path(&entry.path(), &error));
        }
        entries.sort_unstable();
        for key in entries {
            if self.keys.len() >= self.limit {
                break;
            }
            if key.ends_with('/') {
                self.folder(&folder.join(&key[base.len()..]), &key)?;
            } else {
                self.keys.push(key);
            }
        }
        Ok(())
    }
}

/// Returns the entries of a folder, which may not exist.
fn read_dir(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder).and_then(Iterator::collect) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.map_err(|error| with_path(folder, &error)),
    }
}

/// The id of a version that was written at this time.
fn version_id(modified: SystemTime) -> String {
    let age = modified.duration_since(SystemTime::UNIX_EPOCH);
    format!("{:020}", age.unwrap_or_default().as_nanos())
}

fn create_parent(path: &Path) -> Result<()> {
    let created = path.parent().map_or(Ok(()), fs::create_dir_all);
    created.map_err(|error| with_path(path, &error))
}

fn with_path(path: &Path, error: &io::Error) -> Error {
    let text = format!("{}: {error}", path.display());
    Error::Io(io::Error::new(error.kind(), text))
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::checksum(bytes))
}
