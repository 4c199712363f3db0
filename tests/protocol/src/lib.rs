//! A model of how saves and prune use S3, and a search of all its interleavings.
//!
//! One editor writes, replaces and deletes the document and the files of a draft; savers save it; prune deletes versions
//! and copies. Each request to S3 is one step, and the steps of all of them happen in every order. Time passes in ticks.
//!
//! | here | stands for |
//! |---|---|
//! | `saver` | `Saver::run_with` and `FileSaver::save` in `src/save` |
//! | `prune` | `Prune::plan` and `Prune::run` in `cli/src/commands/prune.rs` |
//! | `s3` | both buckets, through `src/s3` |
//!
//! The search visits every state that can be reached within the limits of an [`Instance`], and checks the properties in
//! `Instance::properties` in each. With a [`Rule`] left out, it finds the shortest sequence of steps to a state that
//! violates one of them.

mod prune;
mod s3;
mod saver;

use stateright::{Checker as _, HasDiscoveries, Model, Property};

use crate::prune::Pruner;
use crate::s3::{FILES, Folder, KEYS, Object, Saved, Tick, Version, Versioned};
use crate::saver::{Run, Saver};

/// Longest time that a save may take, in ticks: the function's timeout.
pub const LONGEST_SAVE: Tick = 1;

/// Age up to which prune keeps a copy that no manifest names, in ticks: the day of grace.
pub const GRACE: Tick = 1;

/// A rule that can be left out, to see whether the search finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A listing of several pages counts only if the next one is equal.
    SecondListing,
    /// The listing must show the document.
    ListedDocument,
    /// The listing must show the document with the `ETag` that was read.
    EtagOfListedDocument,
    /// The listing must show the document with the `Last-Modified` that was read.
    LastModifiedOfListedDocument,
    /// The key of a copy has the `ETag` of the file.
    EtagInKeyOfCopy,
    /// A copy is made only if the file has the listed `ETag`.
    ConditionOnSource,
    /// Each part of a multipart copy has the condition, not only the first.
    ConditionOnEachPart,
    /// A copy is created with `If-None-Match: *`.
    ConditionOnCopy,
    /// After a copy that was refused, and does not exist, the folder is listed again.
    ListingAfterRefusedCopy,
    /// The manifest is created with `If-None-Match: *`.
    ConditionOnManifest,
    /// A manifest that exists is read and compared.
    ComparisonOfManifest,
    /// The times of the files in both manifests are not compared.
    ComparisonWithoutTimes,
    /// The document is written last.
    DocumentLast,
    /// The document is created with `If-None-Match: *`.
    ConditionOnDocument,
    /// A save ends after the longest time that it may take.
    Deadline,
    /// Prune needs a bucket with versioning.
    Versioning,
    /// Prune deletes the document of a version before its manifest.
    DocumentBeforeManifest,
    /// Prune deletes only copies that no manifest names.
    NamedCopies,
    /// Prune deletes only copies and manifests without a document that are older than a day.
    Grace,
    /// Prune lists the copies before it reads the manifests.
    CopiesBeforeManifests,
    /// Prune looks again after its deletions.
    SecondLook,
    /// Prune waits before the second look, for the longest time that a save may take.
    Wait,
    /// The second look includes the delete markers of earlier runs.
    MarkersOfOtherRuns,
    /// The second look removes all delete markers of an object, not only the newest.
    AllMarkers,
    /// The second look restores manifests too.
    RestoredManifests,
}

/// Objects of earlier saves, older than the day of grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// None.
    None,
    /// The draft has a version of its state, and a copy that no manifest names.
    Version,
    /// The same, but the document of the version is missing: the save or prune was killed.
    Manifest,
}

/// Limits of a search, and the rule that is left out.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Instance {
    /// Number of saves, all at once.
    pub savers: usize,
    /// The files that the draft has at the start.
    pub files: [bool; FILES],
    /// Number of edits.
    pub edits: u8,
    /// Number of contents that the editor writes, at most `CONTENTS`.
    pub contents: u8,
    /// Several edits can have the same `Last-Modified`.
    pub edits_share_times: bool,
    /// Number of ticks that pass.
    pub ticks: Tick,
    /// Maximum number of keys on a page of a listing; S3 may return fewer. The folder has at most `KEYS`.
    pub page_keys: usize,
    /// The first file is copied in parts.
    pub has_large_file: bool,
    /// Number of writes whose answer is lost.
    pub lost_answers: u8,
    /// Reads of the document in one save (`MAX_READS`).
    pub reads: u8,
    /// Listings after a read (`MAX_LISTINGS`).
    pub listings: u8,
    /// Objects of earlier saves.
    pub history: History,
    /// Number of processes that prune.
    pub pruners: usize,
    /// Number of runs of prune, with those that are started again.
    pub runs: u8,
    /// Number of versions that prune deletes.
    pub drops: u8,
    /// A run of prune can be killed at any step.
    pub kills_pruner: bool,
    /// A deletion is repeated if its answer is lost, as the SDK does.
    pub repeats_deletions: bool,
    /// The rule that is left out.
    pub left_out: Option<Rule>,
}

/// A state of the draft, the buckets and all processes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The time.
    pub now: Tick,
    /// Edits that are left.
    pub edits_left: u8,
    /// Answers that may still be lost.
    pub lost_left: u8,
    /// Runs of prune that are left.
    pub runs_left: u8,
    /// Versions that prune may still delete.
    pub drops_left: u8,
    /// The draft bucket.
    pub draft: Folder,
    /// The saved bucket.
    pub saved: Saved,
    /// All savers.
    pub savers: Vec<Saver>,
    /// All processes that prune.
    pub pruners: Vec<Pruner>,
    /// Runs of prune that have deleted manifests or copies and not restored them, one bit each.
    pub unfinished_runs: u8,
    /// An object of the saved bucket was replaced.
    pub is_replaced: bool,
    /// A version was created whose state did not exist at one moment of the save.
    pub is_mixed: bool,
}

/// A step of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The editor writes a content to a key of the draft's folder, or deletes the object.
    Edit(usize, Option<u8>),
    /// Time passes. Savers without time left are stopped.
    Tick,
    /// A saver makes a request.
    Save(usize, saver::Action),
    /// A saver makes a request, and the answer is lost.
    LoseAnswer(usize, saver::Action),
    /// A process that prunes makes a step.
    Prune(usize, prune::Action),
    /// A process that prunes deletes an object, the answer is lost, and it will delete the object again.
    RepeatDeletion(usize, prune::Action),
}

/// Result of a search.
#[derive(Debug)]
pub struct Report {
    /// Number of different states.
    pub states: usize,
    /// Violated properties, each with the steps that lead to it.
    pub violations: Vec<(&'static str, Vec<Action>)>,
    /// Situations that no sequence of steps leads to, although they should occur.
    pub unreached: Vec<&'static str>,
}

/// Properties that can be violated when a rule is left out.
pub mod property {
    #![allow(missing_docs, reason = "the texts are sentences")]

    pub const MIXED: &str = "a version is a state that existed at one moment";
    pub const FAILED: &str = "a save of a folder that nobody edits ends with a version";
    pub const REPLACED: &str = "no object of a version is replaced";
    pub const INCOMPLETE: &str = "a version is complete unless a prune is unfinished";
    pub const LOST: &str = "prune started again can restore every version";
    pub const INTERRUPTED: &str =
        "a version of before a prune, or of new copies, is always complete";
}

use property::{FAILED, INCOMPLETE, INTERRUPTED, LOST, MIXED, REPLACED};

impl Instance {
    /// Returns whether `rule` is left out.
    pub fn leaves_out(&self, rule: Rule) -> bool {
        self.left_out == Some(rule)
    }

    /// Visits all states, with `threads` threads, or until a property is violated.
    pub fn search(&self, threads: usize) -> Report {
        let checker = self.clone().checker().threads(threads);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures);
        let checker = checker.spawn_bfs().join();
        let mut violations = Vec::new();
        let mut unreached = Vec::new();
        let mut discoveries = checker.discoveries();
        for property in self.properties() {
            let path = discoveries.remove(property.name);
            if !property.expectation.discovery_is_failure() {
                if path.is_none() {
                    unreached.push(property.name);
                }
            } else if let Some(path) = path {
                violations.push((property.name, path.into_actions()));
            }
        }
        Report {
            states: checker.unique_state_count(),
            violations,
            unreached,
        }
    }
}

impl Model for Instance {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let object = |content| Object {
            content,
            written: 0,
        };
        let draft = Folder {
            document: Some(object(0)),
            files: self.files.map(|exists| exists.then(|| object(0))),
        };
        let mut saved = Saved::default();
        saved.keys_have_no_etag = self.leaves_out(Rule::EtagInKeyOfCopy);
        if self.history != History::None {
            if let Some(name) = draft.name() {
                let version = saved.version(name);
                version.manifest = Versioned::object(0, 0);
                if self.history == History::Version {
                    version.document = Versioned::object(name.document, 0);
                }
            }
            *saved.copy_mut((0, 0)) = Versioned::object(0, 0);
            *saved.copy_mut((0, 1)) = Versioned::object(1, 0);
        }
        vec![State {
            now: self.start(),
            edits_left: self.edits,
            lost_left: self.lost_answers,
            runs_left: self.runs,
            drops_left: self.drops,
            draft,
            saved,
            savers: vec![Saver::Ready; self.savers],
            pruners: vec![Pruner::Idle; self.pruners],
            unfinished_runs: 0,
            is_replaced: false,
            is_mixed: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.edits_left > 0 {
            for key in 0..KEYS {
                for content in 0..self.contents {
                    actions.push(Action::Edit(key, Some(content)));
                }
                if state.draft.get(key).is_some() {
                    actions.push(Action::Edit(key, None));
                }
            }
        }
        if state.now < self.ticks + self.start() {
            actions.push(Action::Tick);
        }
        for (index, saver) in state.savers.iter().enumerate() {
            let mut add = |action: saver::Action| {
                actions.push(Action::Save(index, action));
                if state.lost_left > 0 && action.is_write() {
                    actions.push(Action::LoseAnswer(index, action));
                }
            };
            match saver {
                // All savers are alike, so that their order of starting does not matter.
                Saver::Ready if index == 0 || state.savers[index - 1] != Saver::Ready => {
                    add(saver::Action::Read);
                }
                Saver::Running(run) => run.actions(self, state, &mut add),
                _ => {}
            }
        }
        for (index, pruner) in state.pruners.iter().enumerate() {
            pruner.actions(self, state, &mut |action| {
                actions.push(Action::Prune(index, action));
                if state.lost_left > 0 && action.is_deletion() && self.repeats_deletions {
                    actions.push(Action::RepeatDeletion(index, action));
                }
            });
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Edit(key, content) => {
                let written = if self.edits_share_times {
                    state.now
                } else {
                    1 + self.edits - state.edits_left
                };
                let object = content.map(|content| Object { content, written });
                state.draft.set(key, object);
                state.edits_left -= 1;
                for saver in &mut state.savers {
                    if let Saver::Running(run) = saver {
                        run.observe(&state.draft);
                    }
                }
            }
            Action::Tick => {
                state.now += 1;
                for saver in &mut state.savers {
                    if let Saver::Running(run) = saver
                        && state.now > run.started + LONGEST_SAVE
                        && !self.leaves_out(Rule::Deadline)
                    {
                        *saver = Saver::Stopped;
                    }
                }
            }
            Action::Save(index, action) => self.save(&mut state, index, action),
            Action::LoseAnswer(index, action) => {
                self.save(&mut state, index, action);
                // The save does not know, and makes the same request again.
                state.savers[index].clone_from(&before.savers[index]);
                state.lost_left -= 1;
            }
            Action::Prune(index, action) => self.prune(&mut state, index, action),
            Action::RepeatDeletion(index, action) => {
                self.prune(&mut state, index, action);
                state.pruners[index].clone_from(&before.pruners[index]);
                state.lost_left -= 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(MIXED, |_, state: &State| !state.is_mixed),
            Property::always(REPLACED, |_, state: &State| !state.is_replaced),
            Property::always(INCOMPLETE, |_, state: &State| {
                state.unfinished_runs != 0 || incomplete(state).next().is_none()
            }),
            Property::always(LOST, |_, state: &State| {
                incomplete(state).all(|version| is_restorable(state, version))
            }),
            Property::always(FAILED, |_, state: &State| {
                !state.savers.contains(&Saver::Failed { alone: true })
            }),
            Property::always("a save that has not ended has a next step", all_have_steps),
            Property::sometimes("all saves have saved", |_, state: &State| {
                state.savers.iter().all(|saver| *saver == Saver::Saved)
            }),
        ];
        // The second deletion of an object, by the same run or another one, may delete a new copy.
        if self.pruners < 2 && !self.repeats_deletions {
            properties.push(Property::always(INTERRUPTED, |_, state: &State| {
                incomplete(state).all(|version| may_be_incomplete(state, version))
            }));
        }
        if self.drops > 0 {
            properties.push(Property::sometimes(
                "prune restores a manifest",
                |_, state: &State| state.pruners.iter().any(|pruner| pruner.restores(false)),
            ));
        }
        if self.runs > 0 && self.edits > 0 {
            properties.push(Property::sometimes(
                "prune restores a copy",
                |_, state: &State| state.pruners.iter().any(|pruner| pruner.restores(true)),
            ));
            let copies_over_marker = "a save copies over a delete marker";
            properties.push(Property::sometimes(
                copies_over_marker,
                |_, state: &State| {
                    let mut savers = state.savers.iter();
                    savers.any(|saver| saver.copies_over_marker(state))
                },
            ));
        }
        properties
    }
}

/// Returns whether every save that has not ended has a next step.
fn all_have_steps(instance: &Instance, state: &State) -> bool {
    state.savers.iter().all(|saver| {
        let Saver::Running(run) = saver else {
            return true;
        };
        let mut has_step = false;
        run.actions(instance, state, &mut |_| has_step = true);
        has_step
    })
}

impl Instance {
    /// Returns the time of the start.
    fn start(&self) -> Tick {
        if self.history == History::None {
            0
        } else {
            GRACE + LONGEST_SAVE + 1
        }
    }

    fn save(&self, state: &mut State, index: usize, action: saver::Action) {
        let saver = std::mem::replace(&mut state.savers[index], Saver::Stopped);
        let mut run = match saver {
            Saver::Running(run) => run,
            _ => Box::new(Run::start(self, state)),
        };
        let end = run.step(self, state, action);
        state.savers[index] = end.unwrap_or(Saver::Running(run));
    }

    fn prune(&self, state: &mut State, index: usize, action: prune::Action) {
        let pruner = std::mem::take(&mut state.pruners[index]);
        state.pruners[index] = pruner.step(self, state, action);
    }
}

/// Versions whose document exists, but not all of their other objects.
fn incomplete(state: &State) -> impl Iterator<Item = &Version> {
    let versions = state.saved.versions.iter();
    versions.filter(|version| version.document.exists() && !state.saved.is_complete(version))
}

/// Returns whether all objects that `version` needs exist or are hidden by delete markers.
fn is_restorable(state: &State, version: &Version) -> bool {
    version.manifest.data.is_some()
        && version.files().all(|(file, content)| {
            let copy = state.saved.copy((file, content)).data;
            copy.is_some_and(|copy| copy.content == content)
        })
}

/// Returns whether `version` was created while prune was at work, and uses an object that was older than a day by then.
fn may_be_incomplete(state: &State, version: &Version) -> bool {
    let Some(created) = version.document.data.map(|document| document.written) else {
        return false;
    };
    let is_old = |object: Versioned| {
        object.exists()
            || object
                .data
                .is_some_and(|data| data.written + GRACE < created)
    };
    !version.was_complete
        && version
            .files()
            .all(|(file, content)| is_old(state.saved.copy((file, content))))
}
