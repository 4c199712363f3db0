//! A save with `SAVE_FILES=true`: `Saver::run` and `FileSaver::save`, one step for each request.

use crate::s3::{FILES, Folder, KEYS, MIXED, Name, Object, Tick, Versioned};
use crate::{Instance, Rule, State};

/// The file that is copied in parts. The others are copied by one `CopyObject`.
const LARGE_FILE: usize = 0;

/// A saver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Saver {
    /// Not started.
    Ready,
    /// At work.
    Running(Box<Run>),
    /// Saved a version, as `created` or as `unchanged`.
    Saved,
    /// Found no document (`DraftNotFound`).
    NotFound,
    /// Gave up because the folder changed all the time (`ServiceUnavailable`).
    /// `alone` is true if no edit was made since it started.
    GaveUp {
        /// No edit was made since the saver started.
        alone: bool,
    },
    /// Stopped at any step: by its deadline, or killed.
    Stopped,
}

/// A save at work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Time of the start.
    pub started: Tick,
    /// No edit was made since the start.
    alone: bool,
    /// Reads of the document that are left (`MAX_READS`).
    reads: u8,
    /// Listings that are left after this read (`MAX_LISTINGS`).
    listings: u8,
    /// The document as it was read.
    document: Object,
    /// The files of the previous listing.
    previous: Option<[Option<Object>; FILES]>,
    /// Names of all states since the document was read. For the properties only.
    history: Vec<Name>,
    step: Step,
}

/// The next request of a save.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// `Store::read`: GET of the document.
    Read,
    /// `FileSaver::list_files`: the next page of the listing.
    List {
        /// Objects on the pages so far.
        seen: Folder,
        /// First key of the next page.
        next: usize,
    },
    /// `FileSaver::missing_copies`: the copies are listed or asked for one by one, in any order.
    Look {
        files: [Option<Object>; FILES],
        is_consistent: bool,
        unseen: Files,
        missing: Files,
    },
    /// `FileSaver::copy`: the missing files are copied, many at a time.
    Copy {
        files: [Option<Object>; FILES],
        is_consistent: bool,
        missing: Files,
        /// All copies so far were created by this save.
        all_created: bool,
        upload: Option<Upload>,
    },
    /// `Saver::write`: the manifest is created.
    Manifest { version: Commit },
    /// The manifest exists: it is read and compared.
    Compare { version: Commit },
    /// `Saver::write`: the document is created, which commits the version.
    Document { version: Commit },
}

/// A set of files.
type Files = [bool; FILES];

/// A multipart copy at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Upload {
    /// Content of the parts so far.
    content: u8,
    /// The second part is copied too.
    is_whole: bool,
}

/// The version that is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Commit {
    name: Name,
    /// The state existed at one moment of this save.
    existed: bool,
}

/// A step of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// GET of the document.
    Read,
    /// A page of the listing of the folder, with this number of keys.
    ListPage(usize),
    /// The copy of a file is looked for.
    Look(usize),
    /// `CopyObject` of a file.
    Copy(usize),
    /// `CreateMultipartUpload` and `UploadPartCopy` of the first part.
    FirstPart,
    /// `UploadPartCopy` of the second part.
    SecondPart,
    /// `CompleteMultipartUpload`.
    Complete,
    /// PUT of the manifest.
    Manifest,
    /// GET of a manifest that exists.
    Compare,
    /// PUT of the document of the version.
    Document,
}

impl Action {
    /// Returns whether the answer can be lost after the request was executed, so that it is sent again.
    pub fn is_write(self) -> bool {
        matches!(
            self,
            Self::Copy(_) | Self::Complete | Self::Manifest | Self::Document
        )
    }
}

impl Saver {
    /// Returns whether the saver is at work.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running(_))
    }

    /// Returns whether a missing file of which prune has deleted the copy is being copied.
    pub fn copies_over_marker(&self, state: &State) -> bool {
        let Self::Running(run) = self else {
            return false;
        };
        let Step::Copy { files, missing, .. } = &run.step else {
            return false;
        };
        members(missing).any(|file| {
            let key = files[file].map(|source| (file, source.content));
            key.is_some_and(|key| state.saved.copy(key).markers != 0)
        })
    }
}

impl Run {
    /// The first request.
    pub fn start(instance: &Instance, state: &State) -> Self {
        Self {
            started: state.now,
            alone: true,
            reads: instance.reads,
            listings: 0,
            document: Object::default(),
            previous: None,
            history: Vec::new(),
            step: Step::Read,
        }
    }

    /// Records a state of the folder.
    pub fn observe(&mut self, folder: &Folder) {
        self.alone = false;
        let is_recorded = !matches!(
            self.step,
            Step::Read | Step::Manifest { .. } | Step::Compare { .. } | Step::Document { .. }
        );
        if let (true, Some(name)) = (is_recorded, folder.name()) {
            self.record(name);
        }
    }

    fn record(&mut self, name: Name) {
        if let Err(index) = self.history.binary_search(&name) {
            self.history.insert(index, name);
        }
    }

    /// Lists the possible next steps.
    pub fn actions(&self, instance: &Instance, state: &State, add: &mut impl FnMut(Action)) {
        match &self.step {
            Step::Read => add(Action::Read),
            Step::List { next, .. } => {
                let left = (*next..KEYS).filter(|&key| state.draft.get(key).is_some());
                let left = left.count();
                for keys in 1..=left.clamp(1, instance.page_keys) {
                    add(Action::ListPage(keys));
                }
            }
            Step::Look { unseen, .. } => {
                for file in members(unseen) {
                    add(Action::Look(file));
                }
            }
            Step::Copy {
                missing, upload, ..
            } => {
                for file in members(missing) {
                    add(if file != LARGE_FILE || !instance.has_large_file {
                        Action::Copy(file)
                    } else {
                        match upload {
                            None => Action::FirstPart,
                            Some(upload) if !upload.is_whole => Action::SecondPart,
                            Some(_) => Action::Complete,
                        }
                    });
                }
            }
            Step::Manifest { .. } => add(Action::Manifest),
            Step::Compare { .. } => add(Action::Compare),
            Step::Document { .. } => add(Action::Document),
        }
    }

    /// Makes a step. If `is_lost`, the store executes the request, and the save sends it again.
    pub fn step(
        mut self: Box<Self>,
        instance: &Instance,
        state: &mut State,
        action: Action,
        is_lost: bool,
    ) -> Saver {
        let step = std::mem::replace(&mut self.step, Step::Read);
        match (step, action) {
            (_, Action::Read) => self.read(instance, state),
            (Step::List { seen, next }, Action::ListPage(keys)) => {
                self.list_page(instance, state, seen, next, keys)
            }
            (
                Step::Look {
                    files,
                    is_consistent,
                    mut unseen,
                    mut missing,
                },
                Action::Look(file),
            ) => {
                unseen[file] = false;
                if let Some(source) = files[file] {
                    missing[file] = !state.saved.copy((file, source.content)).exists();
                }
                if unseen.contains(&true) {
                    self.step = Step::Look {
                        files,
                        is_consistent,
                        unseen,
                        missing,
                    };
                    return Saver::Running(self);
                }
                self.looked(instance, files, is_consistent, missing)
            }
            (
                Step::Copy {
                    files,
                    is_consistent,
                    missing,
                    all_created,
                    upload,
                },
                _,
            ) => {
                let mut copying = Copying {
                    missing,
                    all_created,
                    upload,
                };
                let before = copying;
                copying.step(instance, state, files, action);
                if is_lost {
                    copying = before;
                }
                if copying.missing.contains(&true) {
                    self.step = Step::Copy {
                        files,
                        is_consistent,
                        missing: copying.missing,
                        all_created: copying.all_created,
                        upload: copying.upload,
                    };
                    return Saver::Running(self);
                }
                self.copied(instance, files, is_consistent, copying.all_created)
            }
            (Step::Manifest { version }, _) => self.put_manifest(instance, state, version, is_lost),
            (Step::Compare { version }, _) => {
                let exists = state.saved.version(version.name).manifest.exists();
                self.step = if exists {
                    Step::Document { version }
                } else {
                    Step::Manifest { version }
                };
                Saver::Running(self)
            }
            (Step::Document { version }, _) => self.put_document(instance, state, version, is_lost),
            (step, action) => unreachable!("{action:?} in {step:?}"),
        }
    }

    fn read(mut self: Box<Self>, instance: &Instance, state: &State) -> Saver {
        self.history.clear();
        self.previous = None;
        let Some(document) = state.draft.document else {
            return Saver::NotFound;
        };
        self.document = document;
        self.reads -= 1;
        self.listings = instance.listings;
        self.history.extend(state.draft.name());
        self.list(instance)
    }

    /// Begins a listing, or gives up.
    fn list(mut self: Box<Self>, _: &Instance) -> Saver {
        if self.listings == 0 {
            return Saver::GaveUp { alone: self.alone };
        }
        self.listings -= 1;
        self.step = Step::List {
            seen: Folder::default(),
            next: 0,
        };
        Saver::Running(self)
    }

    fn list_page(
        mut self: Box<Self>,
        instance: &Instance,
        state: &State,
        mut seen: Folder,
        first: usize,
        keys: usize,
    ) -> Saver {
        let mut left = (first..KEYS).filter(|&key| state.draft.get(key).is_some());
        let mut next = first;
        for key in left.by_ref().take(keys) {
            seen.set(key, state.draft.get(key));
            next = key + 1;
        }
        if left.next().is_some() {
            self.step = Step::List { seen, next };
            return Saver::Running(self);
        }

        let has_document = seen.document.is_some_and(|document| {
            let has_etag = document.content == self.document.content
                || instance.leaves_out(Rule::EtagOfListedDocument);
            let has_time = document.written == self.document.written
                || instance.leaves_out(Rule::LastModifiedOfListedDocument);
            has_etag && has_time
        });
        if !has_document && !instance.leaves_out(Rule::ListedDocument) {
            return if self.reads == 0 {
                Saver::GaveUp { alone: self.alone }
            } else {
                self.previous = None;
                self.history.clear();
                self.step = Step::Read;
                Saver::Running(self)
            };
        }
        let is_one_page = first == 0;
        let is_consistent = is_one_page
            || self.previous == Some(seen.files)
            || instance.leaves_out(Rule::SecondListing);
        let present = seen.files.map(|file| file.is_some());
        if !present.contains(&true) {
            return self.looked(instance, seen.files, is_consistent, present);
        }
        self.step = Step::Look {
            files: seen.files,
            is_consistent,
            unseen: present,
            missing: [false; FILES],
        };
        Saver::Running(self)
    }

    fn looked(
        mut self: Box<Self>,
        instance: &Instance,
        files: [Option<Object>; FILES],
        is_consistent: bool,
        missing: Files,
    ) -> Saver {
        if missing.contains(&true) {
            self.step = Step::Copy {
                files,
                is_consistent,
                missing,
                all_created: true,
                upload: None,
            };
            Saver::Running(self)
        } else if is_consistent {
            self.commit(instance, files)
        } else {
            self.previous = Some(files);
            self.list(instance)
        }
    }

    fn copied(
        mut self: Box<Self>,
        instance: &Instance,
        files: [Option<Object>; FILES],
        is_consistent: bool,
        all_created: bool,
    ) -> Saver {
        let is_trusted = instance.leaves_out(Rule::CheckAfterCopies)
            || (instance.leaves_out(Rule::ListingAfterCreatedCopies) && all_created);
        if is_consistent && is_trusted {
            return self.commit(instance, files);
        }
        self.previous = Some(files);
        self.list(instance)
    }

    /// Accepts a state, and begins to write its version.
    fn commit(mut self: Box<Self>, instance: &Instance, files: [Option<Object>; FILES]) -> Saver {
        let folder = Folder {
            document: Some(self.document),
            files,
        };
        let Some(name) = folder.name() else {
            unreachable!("a state without a document");
        };
        let version = Commit {
            name,
            existed: self.history.contains(&name),
        };
        self.history.clear();
        self.previous = None;
        self.listings = 0;
        self.reads = 0;
        self.document = Object::default();
        self.step = if folder.has_files() && !instance.leaves_out(Rule::DocumentLast) {
            Step::Manifest { version }
        } else {
            Step::Document { version }
        };
        Saver::Running(self)
    }

    fn put_manifest(
        mut self: Box<Self>,
        instance: &Instance,
        state: &mut State,
        version: Commit,
        is_lost: bool,
    ) -> Saver {
        let now = state.now;
        let is_conditional = !instance.leaves_out(Rule::ConditionOnManifest);
        let manifest = &mut state.saved.version(version.name).manifest;
        let is_created = create(manifest, 0, now, is_conditional, &mut state.is_overwritten);
        self.step = if is_lost {
            Step::Manifest { version }
        } else if instance.leaves_out(Rule::DocumentLast) {
            return Saver::Saved;
        } else if is_created || instance.leaves_out(Rule::ComparisonOfManifest) {
            Step::Document { version }
        } else {
            Step::Compare { version }
        };
        Saver::Running(self)
    }

    fn put_document(
        mut self: Box<Self>,
        instance: &Instance,
        state: &mut State,
        version: Commit,
        is_lost: bool,
    ) -> Saver {
        let now = state.now;
        let is_conditional = !instance.leaves_out(Rule::ConditionOnDocument);
        let document = &mut state.saved.version(version.name).document;
        let content = version.name.document;
        create(
            document,
            content,
            now,
            is_conditional,
            &mut state.is_overwritten,
        );
        state.is_mixed |= !version.existed;
        if is_lost {
            self.step = Step::Document { version };
            Saver::Running(self)
        } else if instance.leaves_out(Rule::DocumentLast)
            && version.name.files.iter().any(Option::is_some)
        {
            self.step = Step::Manifest { version };
            Saver::Running(self)
        } else {
            Saver::Saved
        }
    }
}

/// The copies of a save that are not made yet.
#[derive(Clone, Copy)]
struct Copying {
    missing: Files,
    all_created: bool,
    upload: Option<Upload>,
}

impl Copying {
    fn step(
        &mut self,
        instance: &Instance,
        state: &mut State,
        files: [Option<Object>; FILES],
        action: Action,
    ) {
        match action {
            Action::Copy(file) => {
                let is_conditional = !instance.leaves_out(Rule::ConditionOnSource);
                let content = read_source(state, files, file, is_conditional);
                self.finish(instance, state, files, file, content);
            }
            Action::FirstPart => {
                let is_conditional = !instance.leaves_out(Rule::ConditionOnSource);
                match read_source(state, files, LARGE_FILE, is_conditional) {
                    None => self.finish(instance, state, files, LARGE_FILE, None),
                    Some(content) => {
                        self.upload = Some(Upload {
                            content,
                            is_whole: false,
                        });
                    }
                }
            }
            Action::SecondPart => {
                let is_conditional = !instance.leaves_out(Rule::ConditionOnSource)
                    && !instance.leaves_out(Rule::ConditionOnEachPart);
                match (
                    read_source(state, files, LARGE_FILE, is_conditional),
                    self.upload,
                ) {
                    (Some(second), Some(Upload { content: first, .. })) => {
                        let content = if first == second { first } else { MIXED };
                        self.upload = Some(Upload {
                            content,
                            is_whole: true,
                        });
                    }
                    _ => self.finish(instance, state, files, LARGE_FILE, None),
                }
            }
            _ => {
                let content = self.upload.map(|upload| upload.content);
                self.finish(instance, state, files, LARGE_FILE, content);
            }
        }
    }

    /// Creates the copy of `file` with `content`, or aborts it.
    fn finish(
        &mut self,
        instance: &Instance,
        state: &mut State,
        files: [Option<Object>; FILES],
        file: usize,
        content: Option<u8>,
    ) {
        self.missing[file] = false;
        if file == LARGE_FILE {
            self.upload = None;
        }
        let is_created = match (content, files[file]) {
            (Some(content), Some(source)) => {
                let now = state.now;
                let is_conditional = !instance.leaves_out(Rule::ConditionOnCopy);
                let copy = state.saved.copy_mut((file, source.content));
                create(
                    copy,
                    content,
                    now,
                    is_conditional,
                    &mut state.is_overwritten,
                )
            }
            _ => false,
        };
        self.all_created &= is_created;
    }
}

/// Reads the source of a copy: the content of `file`, if it has the listed `ETag`.
fn read_source(
    state: &State,
    files: [Option<Object>; FILES],
    file: usize,
    is_conditional: bool,
) -> Option<u8> {
    let content = state.draft.files[file]?.content;
    let is_listed = files[file].is_some_and(|listed| listed.content == content);
    (is_listed || !is_conditional).then_some(content)
}

/// Creates an object with `If-None-Match: *`, or without if not `is_conditional`. Returns whether it was created.
fn create(
    object: &mut Versioned,
    content: u8,
    now: Tick,
    is_conditional: bool,
    is_overwritten: &mut bool,
) -> bool {
    if object.exists() {
        if is_conditional {
            return false;
        }
        *is_overwritten = true;
    }
    *object = Versioned::object(content, now);
    true
}

fn members(files: &Files) -> impl Iterator<Item = usize> {
    files
        .iter()
        .enumerate()
        .filter_map(|(file, &is_member)| is_member.then_some(file))
}
