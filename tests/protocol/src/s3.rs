//! The two buckets, with what S3 documents and nothing more: `docs/reliability.md` lists it.

/// Number of files in the folder of the draft, beside the document.
pub const FILES: usize = 2;

/// Number of different contents of the document and of each file. A content stands for the bytes and for the `ETag`.
pub const CONTENTS: u8 = 2;

/// Content of a copy whose parts come from different contents of the file.
pub const MIXED: u8 = u8::MAX;

/// Time in ticks. `Last-Modified` has the same precision: two writes in one tick have the same time.
pub type Tick = u8;

/// An object of the draft, or the data of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Object {
    /// Bytes and `ETag`.
    pub content: u8,
    /// `Last-Modified`.
    pub written: Tick,
}

/// The folder of the draft. The document's key sorts between those of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Folder {
    pub document: Option<Object>,
    pub files: [Option<Object>; FILES],
}

pub const KEYS: usize = FILES + 1;

/// Position of the document among the keys of the folder.
const DOCUMENT_KEY: usize = 1;

impl Folder {
    /// Returns the object with the key number `key`, in the order of a listing.
    pub fn get(&self, key: usize) -> Option<Object> {
        match key {
            DOCUMENT_KEY => self.document,
            _ if key < DOCUMENT_KEY => self.files[key],
            _ => self.files[key - 1],
        }
    }

    /// Sets the object with the key number `key`.
    pub fn set(&mut self, key: usize, object: Option<Object>) {
        match key {
            DOCUMENT_KEY => self.document = object,
            _ if key < DOCUMENT_KEY => self.files[key] = object,
            _ => self.files[key - 1] = object,
        }
    }

    /// Returns whether there are files beside the document.
    pub fn has_files(&self) -> bool {
        self.files.iter().any(Option::is_some)
    }

    /// Returns the name of the version of this state, or `None` without a document.
    pub fn name(&self) -> Option<Name> {
        let document = self.document?;
        let times = self.files.iter().flatten().map(|file| file.written);
        Some(Name {
            time: times.fold(document.written, Tick::max),
            document: document.content,
            files: self.files.map(|file| file.map(|file| file.content)),
        })
    }
}

/// Name of a version: the newest `Last-Modified`, and what the digest covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Newest `Last-Modified` of the state.
    pub time: Tick,
    pub document: u8,
    pub files: [Option<u8>; FILES],
}

/// All versions of an object with one key, as far as they can become current again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Versioned {
    /// The newest version that is no delete marker.
    pub data: Option<Object>,
    /// The delete markers above it: two bits for each run of prune, in the order of the runs. A bit stands for the
    /// version id: a run deletes an object once, or twice if an answer is lost.
    pub markers: u8,
    /// `Last-Modified` of the newest delete marker.
    pub deleted: Tick,
}

impl Versioned {
    /// An object that was written at `written`.
    pub fn object(content: u8, written: Tick) -> Self {
        Self {
            data: Some(Object { content, written }),
            ..Self::default()
        }
    }

    /// Returns the current version, or `None` if it is a delete marker.
    pub fn current(self) -> Option<Object> {
        self.data.filter(|_| self.markers == 0)
    }

    /// Returns whether a request without a version id finds the object.
    pub fn exists(self) -> bool {
        self.current().is_some()
    }

    /// Deletes the object without a version id, which adds a delete marker even if there is one.
    pub fn delete(&mut self, run: u8, now: Tick) {
        let marker = 1 << (2 * run);
        self.markers |= if self.markers & marker == 0 {
            marker
        } else {
            marker << 1
        };
        self.deleted = now;
    }

    /// Deletes delete markers by their version ids. Those that a newer version hides change nothing visible.
    pub fn remove_markers(&mut self, markers: u8) {
        self.markers &= !markers;
        if self.markers == 0 {
            self.deleted = 0;
        }
    }
}

/// Returns the bits of the delete markers of a run of prune.
pub fn markers_of(run: u8) -> u8 {
    0b11 << (2 * run)
}

/// The objects of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    pub name: Name,
    /// `files.json`. Its name fixes its content.
    pub manifest: Versioned,
    /// The document: the version exists while it does.
    pub document: Versioned,
    /// The version was complete when a run of prune began. For the properties only.
    pub was_complete: bool,
}

impl Version {
    /// Returns the number and the content of each file.
    pub fn files(&self) -> impl Iterator<Item = (usize, u8)> + use<> {
        let files = self.name.files.into_iter().enumerate();
        files.filter_map(|(file, content)| content.map(|content| (file, content)))
    }
}

/// The saved bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Saved {
    /// Copies, by file and by the content that their key names.
    copies: [[Versioned; CONTENTS as usize]; FILES],
    /// Versions, sorted by name.
    pub versions: Vec<Version>,
    /// The keys of copies name the path only, not the `ETag`.
    pub keys_have_no_etag: bool,
}

impl Saved {
    /// Returns the version `name`.
    pub fn version(&mut self, name: Name) -> &mut Version {
        let index = self
            .versions
            .binary_search_by_key(&name, |version| version.name);
        let index = index.unwrap_or_else(|index| {
            let version = Version {
                name,
                manifest: Versioned::default(),
                document: Versioned::default(),
                was_complete: false,
            };
            self.versions.insert(index, version);
            index
        });
        &mut self.versions[index]
    }

    /// Returns the copy of a file with the given content.
    pub fn copy(&self, (file, content): (usize, u8)) -> Versioned {
        let content = if self.keys_have_no_etag { 0 } else { content };
        self.copies[file][usize::from(content)]
    }

    /// Returns the copy of a file with the given content, to change it.
    pub fn copy_mut(&mut self, (file, content): (usize, u8)) -> &mut Versioned {
        let content = if self.keys_have_no_etag { 0 } else { content };
        &mut self.copies[file][usize::from(content)]
    }

    /// Returns whether a manifest names the copy of a file with the given content, whether or not its document exists.
    pub fn is_named(&self, (file, content): (usize, u8)) -> bool {
        let mut versions = self.versions.iter();
        versions
            .any(|version| version.manifest.exists() && version.name.files[file] == Some(content))
    }

    /// Returns whether the manifest and all copies of `version` exist, with the right content.
    pub fn is_complete(&self, version: &Version) -> bool {
        let has_manifest = version.manifest.exists() || version.files().next().is_none();
        has_manifest
            && version.files().all(|(file, content)| {
                let copy = self.copy((file, content)).current();
                copy.is_some_and(|copy| copy.content == content)
            })
    }
}
