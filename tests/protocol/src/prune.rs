//! Prune beside saves: `Prune::plan` and `Prune::run`, one step for each request that changes an object.
//!
//! A run deletes versions, lists the copies, reads the manifests, and deletes the old copies that no manifest names.
//! After the longest time that a save may take, it looks again, and removes the delete markers of the manifests and
//! copies that a version needs.
//!
//! All manifests, or all copies, are read in one step, although a run reads them one after the other. The step stands
//! for the moment at which the run begins to read, so that it sees nothing that is created meanwhile. A run that sees
//! some of that deletes less or restores more. A run may end its deletions at any time, which covers the former.

use crate::s3::{CONTENTS, FILES, Name, Tick, Versioned, markers_of};
use crate::{GRACE, Instance, LONGEST_SAVE, Rule, State};

/// File and content of a copy.
type CopyKey = (usize, u8);

/// A process that prunes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pruner {
    #[default]
    Idle,
    /// The number of the run, and its next step.
    Running(u8, Stage),
}

/// The next step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Versions are deleted, and old manifests without a document.
    Versions {
        /// Versions that had such a manifest when the run began.
        orphans: Vec<Name>,
        /// The version of which the first of two objects is deleted.
        half: Option<Name>,
    },
    /// `Prune::unnamed_copies`: the copies are listed, and the manifests are read next; the other way round without
    /// [`Rule::CopiesBeforeManifests`].
    Listed(Vec<CopyKey>),
    /// Old copies that no manifest names are deleted.
    Copies(Vec<CopyKey>),
    /// `Prune::wait`: the longest save is waited for.
    Wait,
    /// `Prune::recover`: the delete markers that `Prune::lost_manifests` found are removed.
    RestoreManifests(Vec<(Name, u8)>),
    /// `Prune::recover`: the delete markers that `Prune::named` found are removed.
    RestoreCopies(Vec<(CopyKey, u8)>),
}

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    DeleteDocument(Name),
    DeleteManifest(Name),
    /// Deletes a manifest that had no document.
    DeleteOrphan(Name),
    ListCopies,
    ReadManifests,
    DeleteCopy(CopyKey),
    /// Ends the deletions.
    Wait,
    /// Looks for versions whose manifest has a delete marker.
    LookForManifests,
    RestoreManifest(Name, u8),
    /// Reads the manifests, and looks for copies with a delete marker that they name.
    LookForCopies,
    RestoreCopy(CopyKey, u8),
    End,
    Kill,
}

impl Action {
    /// Returns whether the request deletes a manifest or a copy.
    pub fn is_deletion(self) -> bool {
        matches!(
            self,
            Self::DeleteManifest(_) | Self::DeleteOrphan(_) | Self::DeleteCopy(_)
        )
    }
}

impl Pruner {
    /// Returns whether the run removes a delete marker next, of a manifest or of a copy.
    pub fn restores(&self, copies: bool) -> bool {
        match self {
            Self::Running(_, Stage::RestoreManifests(markers)) => !copies && !markers.is_empty(),
            Self::Running(_, Stage::RestoreCopies(markers)) => copies && !markers.is_empty(),
            _ => false,
        }
    }

    /// Lists the possible next steps.
    pub fn actions(&self, instance: &Instance, state: &State, add: &mut impl FnMut(Action)) {
        let Self::Running(run, stage) = self else {
            if state.runs_left > 0 {
                add(Action::Start);
            }
            return;
        };
        if instance.kills_pruner {
            add(Action::Kill);
        }
        let (list, then) = if instance.leaves_out(Rule::CopiesBeforeManifests) {
            (Action::ReadManifests, Action::ListCopies)
        } else {
            (Action::ListCopies, Action::ReadManifests)
        };
        let is_manifest_first = instance.leaves_out(Rule::DocumentBeforeManifest);
        match stage {
            Stage::Versions {
                half: None,
                orphans,
            } => {
                for version in &state.saved.versions {
                    if version.document.exists() && state.drops_left > 0 {
                        add(if is_manifest_first {
                            Action::DeleteManifest(version.name)
                        } else {
                            Action::DeleteDocument(version.name)
                        });
                    }
                }
                for &name in orphans {
                    add(Action::DeleteOrphan(name));
                }
                add(list);
            }
            Stage::Versions {
                half: Some(name), ..
            } => add(if is_manifest_first {
                Action::DeleteDocument(*name)
            } else {
                Action::DeleteManifest(*name)
            }),
            Stage::Listed(_) => add(then),
            Stage::Copies(keys) => {
                for &key in keys {
                    add(Action::DeleteCopy(key));
                }
                add(Action::Wait);
            }
            Stage::Wait if instance.leaves_out(Rule::SecondLook) => add(Action::End),
            Stage::Wait if is_over(instance, state, *run) => add(Action::LookForManifests),
            Stage::Wait => {}
            Stage::RestoreManifests(markers) if markers.is_empty() => add(Action::LookForCopies),
            Stage::RestoreManifests(markers) => {
                for &(name, marker) in markers {
                    add(Action::RestoreManifest(name, marker));
                }
            }
            Stage::RestoreCopies(markers) if markers.is_empty() => add(Action::End),
            Stage::RestoreCopies(markers) => {
                for &(key, marker) in markers {
                    add(Action::RestoreCopy(key, marker));
                }
            }
        }
    }

    /// Makes a step.
    #[must_use]
    pub fn step(self, instance: &Instance, state: &mut State, action: Action) -> Self {
        match (self, action) {
            (Self::Idle, _) => start(instance, state),
            (Self::Running(..), Action::Kill) => Self::Idle,
            (Self::Running(run, _), Action::End) => {
                // A run also restores what killed runs deleted. Several runs at once are not killed.
                state.unfinished_runs &= if instance.kills_pruner {
                    0
                } else {
                    !(1 << run)
                };
                Self::Idle
            }
            (Self::Running(run, stage), action) => {
                Self::Running(run, stage.step(instance, state, action, run))
            }
        }
    }
}

fn start(instance: &Instance, state: &mut State) -> Pruner {
    let run = instance.runs - state.runs_left;
    state.runs_left -= 1;
    for index in 0..state.saved.versions.len() {
        let version = &state.saved.versions[index];
        let is_complete = version.document.exists() && state.saved.is_complete(version);
        state.saved.versions[index].was_complete |= is_complete;
    }
    let versions = state.saved.versions.iter();
    let orphans = versions
        .filter(|version| !version.document.exists() && is_old(instance, state, version.manifest));
    let orphans = orphans.map(|version| version.name).collect();
    Pruner::Running(
        run,
        Stage::Versions {
            half: None,
            orphans,
        },
    )
}

impl Stage {
    fn step(self, instance: &Instance, state: &mut State, action: Action, run: u8) -> Self {
        match (self, action) {
            (Self::Versions { half, orphans }, Action::DeleteDocument(name)) => {
                let version = state.saved.version(name);
                // Its delete marker is never removed.
                version.document = Versioned::default();
                version.was_complete = false;
                state.drops_left = state.drops_left.saturating_sub(1);
                let has_manifest = version.manifest.exists();
                Self::Versions {
                    half: (half.is_none() && has_manifest).then_some(name),
                    orphans,
                }
            }
            (Self::Versions { half, orphans }, Action::DeleteManifest(name)) => {
                delete_manifest(instance, state, name, run);
                let has_document = state.saved.version(name).document.exists();
                Self::Versions {
                    half: (half.is_none() && has_document).then_some(name),
                    orphans,
                }
            }
            (Self::Versions { mut orphans, .. }, Action::DeleteOrphan(name)) => {
                delete_manifest(instance, state, name, run);
                orphans.retain(|&other| other != name);
                Self::Versions {
                    half: None,
                    orphans,
                }
            }
            (Self::Versions { .. }, action) => {
                Self::Listed(deletable_copies(instance, state, action))
            }
            (Self::Listed(mut keys), action) => {
                let others = deletable_copies(instance, state, action);
                keys.retain(|key| others.contains(key));
                Self::copies(keys)
            }
            (Self::Copies(mut keys), Action::DeleteCopy(key)) => {
                let now = state.now;
                delete(instance, state.saved.copy_mut(key), run, now);
                state.unfinished_runs |= 1 << run;
                keys.retain(|&other| other != key);
                Self::copies(keys)
            }
            (Self::Copies(_), _) => Self::Wait,
            (Self::Wait, _) => {
                let mut markers = Vec::new();
                for version in &state.saved.versions {
                    if version.document.exists() && !instance.leaves_out(Rule::RestoredManifests) {
                        for marker in removable_markers(instance, version.manifest, run) {
                            markers.push((version.name, marker));
                        }
                    }
                }
                Self::RestoreManifests(markers)
            }
            (Self::RestoreManifests(mut markers), Action::RestoreManifest(name, marker)) => {
                state.saved.version(name).manifest.remove_markers(marker);
                markers.retain(|&other| other != (name, marker));
                Self::RestoreManifests(markers)
            }
            (Self::RestoreManifests(_), _) => {
                let mut markers = Vec::new();
                for key in all_copies().filter(|&key| state.saved.is_named(key)) {
                    for marker in removable_markers(instance, state.saved.copy(key), run) {
                        markers.push((key, marker));
                    }
                }
                Self::RestoreCopies(markers)
            }
            (Self::RestoreCopies(mut markers), Action::RestoreCopy(key, marker)) => {
                state.saved.copy_mut(key).remove_markers(marker);
                markers.retain(|&other| other != (key, marker));
                Self::RestoreCopies(markers)
            }
            (stage, action) => unreachable!("{action:?} in {stage:?}"),
        }
    }

    fn copies(keys: Vec<CopyKey>) -> Self {
        if keys.is_empty() {
            Self::Wait
        } else {
            Self::Copies(keys)
        }
    }
}

/// Keys of all copies.
fn all_copies() -> impl Iterator<Item = CopyKey> {
    (0..FILES).flat_map(|file| (0..CONTENTS).map(move |content| (file, content)))
}

/// Returns the copies that may be deleted, according to the listing of the copies or to the manifests.
fn deletable_copies(instance: &Instance, state: &State, action: Action) -> Vec<CopyKey> {
    let is_deletable = |key: &CopyKey| {
        if action == Action::ListCopies {
            is_old(instance, state, state.saved.copy(*key))
        } else {
            !state.saved.is_named(*key) || instance.leaves_out(Rule::NamedCopies)
        }
    };
    all_copies().filter(is_deletable).collect()
}

/// Returns whether the object exists and is older than the day of grace.
fn is_old(instance: &Instance, state: &State, object: Versioned) -> bool {
    object.current().is_some_and(|object| {
        state.now > object.written + GRACE || instance.leaves_out(Rule::Grace)
    })
}

fn delete_manifest(instance: &Instance, state: &mut State, name: Name, run: u8) {
    let now = state.now;
    delete(instance, &mut state.saved.version(name).manifest, run, now);
    state.unfinished_runs |= 1 << run;
}

fn delete(instance: &Instance, object: &mut Versioned, run: u8, now: Tick) {
    if instance.leaves_out(Rule::Versioning) {
        *object = Versioned::default();
    } else {
        object.delete(run, now);
    }
}

/// Returns whether every save that may have seen one of the deleted objects has ended.
fn is_over(instance: &Instance, state: &State, run: u8) -> bool {
    let manifests = state.saved.versions.iter().map(|version| version.manifest);
    let mut objects = manifests.chain(all_copies().map(|key| state.saved.copy(key)));
    instance.leaves_out(Rule::Wait)
        || objects.all(|object| {
            object.markers & markers_looked_at(instance, run) == 0
                || state.now > object.deleted + LONGEST_SAVE
        })
}

/// Returns the delete markers of `object` that the second look removes, if the object is needed.
fn removable_markers(instance: &Instance, object: Versioned, run: u8) -> impl Iterator<Item = u8> {
    let mut markers = object.markers & markers_looked_at(instance, run);
    if instance.leaves_out(Rule::AllMarkers) && markers != 0 {
        markers = 1 << markers.ilog2();
    }
    let bits = (0..u8::BITS).map(|bit| 1 << bit);
    bits.filter(move |bit| markers & bit != 0)
}

fn markers_looked_at(instance: &Instance, run: u8) -> u8 {
    if instance.leaves_out(Rule::MarkersOfOtherRuns) {
        markers_of(run)
    } else {
        u8::MAX
    }
}
