//! Objects as plain files.
//!
//! ```text
//! {root}/{bucket}/{key}            an object; a user may put files there too
//! {root}/.s3/keys/{bucket}/…       an object whose key cannot be a path: `a//b`, `../a`, `a/`, `a/b` beside `a`
//! {root}/.s3/metadata/{bucket}/…   ETag and headers of one state of an object
//! {root}/.s3/tmp/…                 objects that are being written
//! ```
//!
//! An object appears by one rename of a complete file, so a reader never sees a part of it. Metadata belongs to a file
//! with a certain modification time and length, and is ignored once another file is in that place.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek as _, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::crypto::{Checksum as _, Crc64Nvme, Md5, Sha256};
use tempfile::NamedTempFile;

use super::checksum::{self, CRC64NVME};

/// Maximum length of a key in bytes ("Naming Amazon S3 objects").
const MAX_KEY_BYTES: usize = 1024;
/// A file that was modified more recently may change again without a change of its modification time.
const SETTLED: Duration = Duration::from_secs(2);
const CHANGED: &str = "the file changed while it was read";

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

/// The condition under which an object is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// None.
    Always,
    /// The object does not exist (`If-None-Match: *`).
    Absent,
    /// The object exists and has this `ETag`, without quotes (`If-Match`).
    Matches(String),
}

/// The reason why an object was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object exists, or has another `ETag`.
    PreconditionFailed,
    /// The object does not exist, but has to.
    NoSuchKey,
}

/// Buckets and their objects below one folder.
pub struct Objects {
    root: PathBuf,
    /// Buckets that are created again when their folder is removed.
    buckets: Vec<String>,
    /// Locked for writing while an object changes. Contains the time of the newest change.
    last_change: RwLock<SystemTime>,
    /// The time at which the clock is stopped.
    clock: Mutex<Option<SystemTime>>,
}

impl Objects {
    /// Opens the folder, which is created if it does not exist.
    pub fn open(root: PathBuf, buckets: Vec<String>) -> io::Result<Self> {
        let objects = Self {
            root,
            buckets,
            last_change: RwLock::new(SystemTime::UNIX_EPOCH),
            clock: Mutex::default(),
        };
        objects.temporary_file()?;
        for bucket in &objects.buckets {
            objects.has_bucket(bucket)?;
        }
        Ok(objects)
    }

    /// The path of an object whose key can be a path.
    fn plain_path(&self, bucket: &str, key: &str) -> Option<PathBuf> {
        let plain = |segment| !matches!(segment, "" | "." | "..");
        let plain = key.split('/').all(plain) && !key.contains(['\0', '\\']);
        plain.then(|| self.root.join(bucket).join(key))
    }

    /// The path of any other object.
    fn escaped_path(&self, bucket: &str, key: &str) -> PathBuf {
        let name = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string();
        self.root.join(".s3/keys").join(bucket).join(name)
    }

    /// The path at which an object is written.
    fn create_path(&self, bucket: &str, key: &str) -> io::Result<PathBuf> {
        let plain = self.plain_path(bucket, key);
        if let Some(path) = plain.filter(|path| create_parent(path).is_ok() && !path.is_dir()) {
            return Ok(path);
        }
        let path = self.escaped_path(bucket, key);
        create_parent(&path)?;
        Ok(path)
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

    /// Returns whether the bucket exists.
    pub fn has_bucket(&self, bucket: &str) -> io::Result<bool> {
        let path = self.root.join(bucket);
        if self.buckets.iter().any(|name| name == bucket) {
            fs::create_dir_all(&path).map_err(|error| with_path(&path, &error))?;
        }
        Ok(path.is_dir())
    }

    /// Creates a bucket; returns `false` if it exists.
    pub fn create_bucket(&self, bucket: &str) -> io::Result<bool> {
        let exists = self.has_bucket(bucket)?;
        fs::create_dir_all(self.root.join(bucket))?;
        Ok(!exists)
    }

    /// Creates an empty file that no listing shows and that is deleted when it is dropped.
    pub fn temporary_file(&self) -> io::Result<NamedTempFile> {
        let folder = self.root.join(".s3/tmp");
        fs::create_dir_all(&folder)
            .and_then(|()| NamedTempFile::new_in(&folder))
            .map_err(|error| with_path(&folder, &error))
    }

    /// Opens an object for reading.
    pub fn find(&self, bucket: &str, key: &str) -> io::Result<Option<(ObjectInfo, File)>> {
        let _lock = self.last_change.read();
        self.find_locked(bucket, key)
    }

    /// Prevents changes while the guard exists, so that several calls of [`Objects::find_locked`] show one moment.
    pub fn lock(&self) -> RwLockReadGuard<'_, SystemTime> {
        self.last_change.read()
    }

    /// Opens an object while the caller has the [lock](Objects::lock).
    pub fn find_locked(&self, bucket: &str, key: &str) -> io::Result<Option<(ObjectInfo, File)>> {
        let plain = self.plain_path(bucket, key);
        for path in plain.into_iter().chain([self.escaped_path(bucket, key)]) {
            let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.is_file(), file)));
            match opened {
                Ok((true, mut file)) => return Ok(Some((self.describe(path, &mut file)?, file))),
                Ok((false, _)) => {}
                Err(error) => match error.kind() {
                    ErrorKind::NotFound | ErrorKind::NotADirectory => {}
                    _ => return Err(with_path(&path, &error)),
                },
            }
        }
        Ok(None)
    }

    /// Describes the object in a file: by the stored metadata, or by its bytes if a user has put the file there.
    fn describe(&self, path: PathBuf, file: &mut File) -> io::Result<ObjectInfo> {
        let (modified, size) = stamp(file)?;
        let mut info = ObjectInfo {
            etag: String::new(),
            headers: Headers::new(),
            modified,
            size,
            path,
        };
        let stored = fs::read(self.metadata_path(&info)).ok();
        if let Some(stored) = stored.and_then(|text| serde_json::from_slice(&text).ok()) {
            (info.etag, info.headers) = stored;
            return Ok(info);
        }
        let (etag, crc) = copy(file, &mut io::sink())?;
        file.rewind()?;
        if stamp(file)? != (modified, size) {
            return Err(with_path(&info.path, &io::Error::other(CHANGED)));
        }
        let content_type = ("content-type".to_owned(), "binary/octet-stream".to_owned());
        info.etag = etag;
        info.headers = [content_type, (CRC64NVME.to_owned(), crc)].into();
        if modified.elapsed().is_ok_and(|age| age > SETTLED) {
            // It saves time only, and the folder may not be writable.
            let _ = self.write_metadata(&info);
        }
        Ok(info)
    }

    /// Writes an object, as a whole or not at all. The `ETag` is the MD5 digest of the content where none is given.
    ///
    /// With [`Precondition::Absent`], one of any number of writers succeeds, also if they are different processes.
    pub fn write(
        &self,
        (bucket, key): (&str, &str),
        content: &mut dyn Read,
        etag: Option<String>,
        mut headers: Headers,
        precondition: &Precondition,
    ) -> io::Result<Result<ObjectInfo, Refused>> {
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
        let before = self.find_locked(bucket, key)?.map(|(info, _)| info);
        match (precondition, &before) {
            (Precondition::Absent, Some(_)) => return Ok(Err(Refused::PreconditionFailed)),
            (Precondition::Matches(_), None) => return Ok(Err(Refused::NoSuchKey)),
            (Precondition::Matches(etag), Some(before)) if before.etag != *etag => {
                return Ok(Err(Refused::PreconditionFailed));
            }
            _ => {}
        }
        // Times follow the order of the changes, and no two are the same.
        let now = self.clock.lock().unwrap_or_else(SystemTime::now);
        let time = now.max(*last_change + Duration::from_micros(1));
        temporary.as_file().set_modified(time)?;
        let (modified, size) = stamp(temporary.as_file())?;
        *last_change = modified;
        let info = ObjectInfo {
            etag: etag.unwrap_or(md5),
            headers,
            modified,
            size,
            path: self.create_path(bucket, key)?,
        };
        self.write_metadata(&info)?;
        let moved = if *precondition == Precondition::Absent {
            temporary.persist_noclobber(&info.path)
        } else {
            temporary.persist(&info.path)
        };
        if let Err(error) = moved {
            self.remove_metadata(&info);
            return match error.error.kind() {
                // Another process has created it.
                ErrorKind::AlreadyExists if *precondition == Precondition::Absent => {
                    Ok(Err(Refused::PreconditionFailed))
                }
                _ => Err(with_path(&info.path, &error.error)),
            };
        }
        if let Some(before) = before {
            self.remove_metadata(&before);
            if before.path != info.path {
                fs::remove_file(&before.path)?;
            }
        }
        Ok(Ok(info))
    }

    /// Deletes an object, if it exists, and the folders that are empty without it.
    pub fn delete(&self, bucket: &str, key: &str) -> io::Result<()> {
        let _lock = self.last_change.write();
        let Some((info, _)) = self.find_locked(bucket, key)? else {
            return Ok(());
        };
        fs::remove_file(&info.path).map_err(|error| with_path(&info.path, &error))?;
        self.remove_metadata(&info);
        let bucket = self.root.join(bucket);
        let mut folder = info.path.parent();
        while let Some(path) = folder.filter(|path| path.starts_with(&bucket) && **path != bucket) {
            folder = fs::remove_dir(path).ok().and(path.parent());
        }
        Ok(())
    }

    /// Changes the time of an object; returns `false` if it does not exist.
    pub fn set_modified(&self, bucket: &str, key: &str, time: SystemTime) -> io::Result<bool> {
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

    /// Returns the keys with this prefix, in the order of their bytes.
    pub fn list(&self, bucket: &str, prefix: &str) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        list(&self.root.join(bucket), "", prefix, &mut keys)?;
        let mut names = Vec::new();
        list(&self.root.join(".s3/keys").join(bucket), "", "", &mut names)?;
        let decoded = names.iter().map(|name| percent_decode_str(name));
        let decoded = decoded.map(|name| name.decode_utf8_lossy().into_owned());
        keys.extend(decoded.filter(|key| key.starts_with(prefix)));
        keys.sort_unstable();
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

    fn write_metadata(&self, info: &ObjectInfo) -> io::Result<()> {
        let path = self.metadata_path(info);
        create_parent(&path)?;
        fs::write(path, serde_json::to_vec(&(&info.etag, &info.headers))?)
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
pub fn read(info: &ObjectInfo, mut file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let size = range.end - range.start;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.seek(SeekFrom::Start(range.start))?;
    file.take(size).read_to_end(&mut bytes)?;
    if stamp(file)? != (info.modified, info.size) {
        return Err(with_path(&info.path, &io::Error::other(CHANGED)));
    }
    Ok(bytes)
}

/// Copies all bytes; returns their MD5 digest in hexadecimal digits and their CRC-64/NVME in Base64.
pub fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<(String, String)> {
    let (mut md5, mut crc) = (Md5::new(), Crc64Nvme::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex(&md5.finalize()), checksum::base64(crc.finalize())));
        }
        md5.update(&buffer[..count]);
        crc.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

/// Collects the keys of all files below a folder that start with `prefix`.
fn list(folder: &Path, base: &str, prefix: &str, keys: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| with_path(folder, &error))?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(segment) = entry.file_name().into_string() else {
            continue;
        };
        // It may have been deleted by now. A link to one of its parents ends with the longest key.
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        let key = format!("{base}{segment}");
        if key.len() > MAX_KEY_BYTES {
            continue;
        }
        if metadata.is_dir() {
            let base = key + "/";
            if base.starts_with(prefix) || prefix.starts_with(&base) {
                list(&entry.path(), &base, prefix, keys)?;
            }
        } else if key.starts_with(prefix) {
            keys.push(key);
        }
    }
    Ok(())
}

fn create_parent(path: &Path) -> io::Result<()> {
    let created = path.parent().map_or(Ok(()), fs::create_dir_all);
    created.map_err(|error| with_path(path, &error))
}

fn with_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// `bytes` in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::checksum(bytes))
}
