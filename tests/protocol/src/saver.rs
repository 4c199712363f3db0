//! A save with `SAVE_FILES=true`, one step for each request: `Saver::run_with`.

use crate::s3::{FILES, Folder, KEYS, MIXED, Name, Object, Tick, Versioned};
use crate::{Instance, Rule, State};

/// The file that is copied in parts. The others are copied by one `CopyObject`.
const LARGE_FILE: usize = 0;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Saver {
    Ready,
    Running(Box<Run>),
    /// Saved a version, as `created` or as `unchanged`.
    Saved,
    /// Found no document (`DraftNotFound`).
    NotFound,
    /// Gave up because the folder changed all the time (`ServiceUnavailable`), or the manifest is another one
    /// (`SaveFailed`).
    Failed {
        /// No edit was made since the saver started.
        alone: bool,
    },
    /// Stopped by its deadline. A saver that is killed makes no step until then.
    Stopped,
}

/// A save at work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    pub started: Tick,
    /// No edit was made since the start.
    alone: bool,
    /// Reads of the document that are left (`MAX_READS`).
    reads: u8,
    /// Listings that are left after this read (`MAX_LISTINGS`).
    listings: u8,
    document: Object,
    /// The files of the previous listing.
    previous: Option<Files>,
    /// Names of all states since the document was read. For the properties only.
    history: Vec<Name>,
    step: Step,
}

/// The files of a listing.
type Files = [Option<Object>; FILES];

/// The next request of a save.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// `Store::read`: GET of the document.
    Read,
    /// `FileSaver::list`: the next page of the listing.
    List {
        /// Objects on the pages so far.
        seen: Folder,
        /// First key of the next page.
        next: usize,
    },
    /// `FileSaver::copy_files`: the copies are looked for and made, many at a time.
    Copy(Copying),
    /// `Saver::create_manifest`: PUT of the manifest.
    Manifest(Commit),
    /// `Store::is_equal`: the manifest exists, and is read and compared.
    Compare(Commit),
    /// `Saver::write`: PUT of the document, which commits the version.
    Document(Commit),
}

/// The files of a state, and their copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Copying {
    files: Files,
    copies: [Copy; FILES],
    /// A copy was refused, and does not exist.
    is_refused: bool,
}

/// The copy of a file: `FileSaver::copy_file`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Copy {
    /// It is looked for: on a page of the listing in `FileSaver::find_copies`, or in `FileSaver::has_copy`.
    Unknown,
    /// It does not exist.
    Missing,
    /// The first part of a multipart upload is copied.
    HasFirstPart { content: u8, started: Tick },
    /// Both parts are copied.
    HasParts { content: u8, started: Tick },
    /// The store has refused to create it. It is looked for again.
    Refused,
    /// Nothing is left to do.
    Done,
}

/// The version that is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Commit {
    name: Name,
    /// Times of the files, which are in the manifest too.
    times: u8,
    /// The state existed at one moment of this save.
    existed: bool,
}

/// A step of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Read,
    /// A page of the listing of the folder, with this number of keys.
    ListPage(usize),
    /// The copy of a file is looked for.
    Look(usize),
    Copy(usize),
    /// `CreateMultipartUpload` and `UploadPartCopy` of the first part.
    FirstPart,
    SecondPart,
    Complete,
    Manifest,
    Compare,
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
    /// Returns whether a copy that prune has deleted is made again.
    pub fn copies_over_marker(&self, state: &State) -> bool {
        let Self::Running(run) = self else {
            return false;
        };
        let Step::Copy(Copying { files, copies, .. }) = &run.step else {
            return false;
        };
        files.iter().enumerate().any(|(file, source)| {
            let key = source.map(|source| (file, source.content));
            let is_missing = copies[file] == Copy::Missing;
            is_missing && key.is_some_and(|key| state.saved.copy(key).markers != 0)
        })
    }
}

impl Run {
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
        if let (Step::List { .. } | Step::Copy(_), Some(name)) = (&self.step, folder.name())
            && let Err(index) = self.history.binary_search(&name)
        {
            self.history.insert(index, name);
        }
    }

    /// Lists the possible next steps.
    pub fn actions(&self, instance: &Instance, state: &State, add: &mut impl FnMut(Action)) {
        match &self.step {
            Step::Read => add(Action::Read),
            Step::List { next, .. } => {
                let left = (*next..KEYS).filter(|&key| state.draft.get(key).is_some());
                for keys in 1..=left.count().clamp(1, instance.page_keys) {
                    add(Action::ListPage(keys));
                }
            }
            Step::Copy(Copying { copies, .. }) => {
                for (file, copy) in copies.iter().enumerate() {
                    match copy {
                        Copy::Unknown | Copy::Refused => add(Action::Look(file)),
                        Copy::Missing if file == LARGE_FILE && instance.has_large_file => {
                            add(Action::FirstPart);
                        }
                        Copy::Missing => add(Action::Copy(file)),
                        Copy::HasFirstPart { .. } => add(Action::SecondPart),
                        Copy::HasParts { .. } => add(Action::Complete),
                        Copy::Done => {}
                    }
                }
            }
            Step::Manifest(_) => add(Action::Manifest),
            Step::Compare(_) => add(Action::Compare),
            Step::Document(_) => add(Action::Document),
        }
    }

    /// Makes a step, and returns the end of the save if it ends.
    pub fn step(
        &mut self,
        instance: &Instance,
        state: &mut State,
        action: Action,
    ) -> Option<Saver> {
        match (self.step.clone(), action) {
            (Step::Read, _) => self.read(instance, state),
            (Step::List { seen, next }, Action::ListPage(keys)) => {
                self.list_page(instance, state, seen, (next, keys))
            }
            (Step::Copy(mut copying), action) => {
                copying.step(instance, state, action);
                self.copy(instance, copying)
            }
            (Step::Manifest(version), _) => self.put_manifest(instance, state, version),
            (Step::Compare(version), _) => self.compare(instance, state, version),
            (Step::Document(version), _) => self.put_document(instance, state, version),
            (step, action) => unreachable!("{action:?} in {step:?}"),
        }
    }

    fn read(&mut self, instance: &Instance, state: &State) -> Option<Saver> {
        let Some(document) = state.draft.document else {
            return Some(Saver::NotFound);
        };
        self.document = document;
        self.reads -= 1;
        self.listings = instance.listings;
        self.history.extend(state.draft.name());
        self.list()
    }

    /// Begins a listing, or gives up.
    fn list(&mut self) -> Option<Saver> {
        if self.listings == 0 {
            return Some(Saver::Failed { alone: self.alone });
        }
        self.listings -= 1;
        self.step = Step::List {
            seen: Folder::default(),
            next: 0,
        };
        None
    }

    fn list_page(
        &mut self,
        instance: &Instance,
        state: &State,
        mut seen: Folder,
        (first, keys): (usize, usize),
    ) -> Option<Saver> {
        let mut left = (first..KEYS).filter(|&key| state.draft.get(key).is_some());
        let mut next = first;
        for key in left.by_ref().take(keys) {
            seen.set(key, state.draft.get(key));
            next = key + 1;
        }
        if left.next().is_some() {
            self.step = Step::List { seen, next };
            return None;
        }

        let has_document = seen.document.is_some_and(|document| {
            let has_etag = document.content == self.document.content
                || instance.leaves_out(Rule::EtagOfListedDocument);
            let has_time = document.written == self.document.written
                || instance.leaves_out(Rule::LastModifiedOfListedDocument);
            has_etag && has_time
        });
        if !has_document && !instance.leaves_out(Rule::ListedDocument) {
            self.previous = None;
            self.history.clear();
            self.step = Step::Read;
            return (self.reads == 0).then_some(Saver::Failed { alone: self.alone });
        }
        let files = seen.files;
        let is_one_page = first == 0;
        let is_equal = self.previous == Some(files);
        self.previous = Some(files);
        if !is_one_page && !is_equal && !instance.leaves_out(Rule::SecondListing) {
            return self.list();
        }
        let copying = Copying {
            files,
            copies: files.map(|file| file.map_or(Copy::Done, |_| Copy::Unknown)),
            is_refused: false,
        };
        self.copy(instance, copying)
    }

    fn copy(&mut self, instance: &Instance, copying: Copying) -> Option<Saver> {
        if copying.copies != [Copy::Done; FILES] {
            self.step = Step::Copy(copying);
            None
        } else if copying.is_refused && !instance.leaves_out(Rule::ListingAfterRefusedCopy) {
            self.list()
        } else {
            self.commit(instance, copying.files);
            None
        }
    }

    /// Accepts a state, and begins to write its version.
    fn commit(&mut self, instance: &Instance, files: Files) {
        let folder = Folder {
            document: Some(self.document),
            files,
        };
        let Some(name) = folder.name() else {
            unreachable!("a state without a document");
        };
        let times = files.iter().flatten().map(|file| file.written);
        let version = Commit {
            name,
            times: times.fold(0, |times, time| 16 * times + time),
            existed: self.history.contains(&name),
        };
        // They are not read any more.
        self.history.clear();
        self.previous = None;
        self.listings = 0;
        self.reads = 0;
        self.document = Object::default();
        self.step = if folder.has_files() && !instance.leaves_out(Rule::DocumentLast) {
            Step::Manifest(version)
        } else {
            Step::Document(version)
        };
    }

    fn put_manifest(
        &mut self,
        instance: &Instance,
        state: &mut State,
        version: Commit,
    ) -> Option<Saver> {
        let is_conditional = !instance.leaves_out(Rule::ConditionOnManifest);
        let new = Object {
            content: version.times,
            written: state.now,
        };
        let manifest = &mut state.saved.version(version.name).manifest;
        let is_created = create(manifest, new, is_conditional, &mut state.is_replaced);
        self.step = if is_created || instance.leaves_out(Rule::ComparisonOfManifest) {
            Step::Document(version)
        } else {
            Step::Compare(version)
        };
        instance
            .leaves_out(Rule::DocumentLast)
            .then_some(Saver::Saved)
    }

    fn compare(
        &mut self,
        instance: &Instance,
        state: &mut State,
        version: Commit,
    ) -> Option<Saver> {
        // The name fixes the files, but not their times.
        match state.saved.version(version.name).manifest.current() {
            None => self.step = Step::Manifest(version),
            Some(manifest)
                if manifest.content != version.times
                    && instance.leaves_out(Rule::ComparisonWithoutTimes) =>
            {
                return Some(Saver::Failed { alone: self.alone });
            }
            Some(_) => self.step = Step::Document(version),
        }
        None
    }

    fn put_document(
        &mut self,
        instance: &Instance,
        state: &mut State,
        version: Commit,
    ) -> Option<Saver> {
        let is_conditional = !instance.leaves_out(Rule::ConditionOnDocument);
        let new = Object {
            content: version.name.document,
            written: state.now,
        };
        let document = &mut state.saved.version(version.name).document;
        create(document, new, is_conditional, &mut state.is_replaced);
        state.is_mixed |= !version.existed;
        let has_files = version.name.files.iter().any(Option::is_some);
        if has_files && instance.leaves_out(Rule::DocumentLast) {
            self.step = Step::Manifest(version);
            return None;
        }
        Some(Saver::Saved)
    }
}

impl Copying {
    /// Looks for the copy of a file, or makes a request to create it.
    fn step(&mut self, instance: &Instance, state: &mut State, action: Action) {
        let file = match action {
            Action::Look(file) | Action::Copy(file) => file,
            _ => LARGE_FILE,
        };
        let Some(listed) = self.files[file] else {
            unreachable!("a copy of a file that is not listed");
        };
        let key = (file, listed.content);
        let is_conditional = !instance.leaves_out(Rule::ConditionOnSource)
            && (action != Action::SecondPart || !instance.leaves_out(Rule::ConditionOnEachPart));
        let source = state.draft.files[file].map(|source| source.content);
        let source = source.filter(|&content| content == listed.content || !is_conditional);
        self.copies[file] = match (action, self.copies[file], source) {
            (Action::Look(_), _, _) if state.saved.copy(key).exists() => Copy::Done,
            (Action::Look(_), Copy::Refused, _) => {
                self.is_refused = true;
                Copy::Done
            }
            (Action::Look(_), _, _) => Copy::Missing,
            (Action::FirstPart, _, Some(content)) => Copy::HasFirstPart {
                content,
                started: state.now,
            },
            (Action::SecondPart, Copy::HasFirstPart { content, started }, Some(second)) => {
                let content = if content == second { content } else { MIXED };
                Copy::HasParts { content, started }
            }
            (Action::Complete, Copy::HasParts { content, started }, _) => {
                // Its `Last-Modified` is the time at which the upload was created.
                let written = started;
                create_copy(instance, state, key, Object { content, written })
            }
            (Action::Copy(_), _, Some(content)) => {
                let written = state.now;
                create_copy(instance, state, key, Object { content, written })
            }
            // The upload is aborted.
            _ => Copy::Refused,
        };
    }
}

fn create_copy(instance: &Instance, state: &mut State, key: (usize, u8), new: Object) -> Copy {
    let is_conditional = !instance.leaves_out(Rule::ConditionOnCopy);
    let copy = state.saved.copy_mut(key);
    if create(copy, new, is_conditional, &mut state.is_replaced) {
        Copy::Done
    } else {
        Copy::Refused
    }
}

/// Creates an object with `If-None-Match: *`, or without if not `is_conditional`. Returns whether it was created.
fn create(
    object: &mut Versioned,
    new: Object,
    is_conditional: bool,
    is_replaced: &mut bool,
) -> bool {
    if object.exists() {
        if is_conditional {
            return false;
        }
        *is_replaced = true;
    }
    *object = Versioned::object(new.content, new.written);
    true
}
