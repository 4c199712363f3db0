//! Prune beside saves: `drafts prune`, one step for each request that changes an object.
//!
//! A run deletes versions, lists the copies, reads the manifests, and deletes the old copies that no manifest names.
//! After the longest time that a save may take, it looks again, and removes the delete markers of objects that a version
//! needs.
//!
//! All manifests, or all copies, are read in one step, although a run reads them one after the other. The moment of the
//! step is that at which the run begins to read: what is created later is not seen. A run that sees some of it deletes
//! less or restores more. A run may also end its deletions early, so that all results of later reads are covered.

use crate::s3::{CONTENTS, FILES, Name, Versioned};
use crate::{GRACE, Instance, LONGEST_SAVE, Rule, State};

/// File and content of a copy.
type CopyKey = (usize, u8);

/// A process that prunes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pruner {
    /// Not at work.
    #[default]
    Idle,
    /// Deletes versions.
    Versions {
        /// Number of the run.
        run: u8,
        /// The version of which one of two objects is deleted.
        half: Option<Name>,
    },
    /// Has listed the copies, or read the manifests in place of it if the order is wrong.
    Listed {
        /// Number of the run.
        run: u8,
        /// Old copies, or copies without a manifest.
        keys: Vec<CopyKey>,
    },
    /// Deletes copies.
    Copies {
        /// Number of the run.
        run: u8,
        /// Old copies that no manifest names.
        keys: Vec<CopyKey>,
    },
    /// Waits for the end of the longest save.
    Wait {
        /// Number of the run.
        run: u8,
    },
    /// Restores manifests.
    RestoreManifests {
        /// Number of the run.
        run: u8,
        /// Versions, with the id of the marker of their manifest.
        markers: Vec<(Name, u8)>,
    },
    /// Restores copies.
    RestoreCopies {
        /// Number of the run.
        run: u8,
        /// Copies, with the id of their marker.
        markers: Vec<(CopyKey, u8)>,
    },
}

/// A step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begins a run.
    Start,
    /// Deletes the document of a version.
    DeleteDocument(Name),
    /// Deletes a manifest.
    DeleteManifest(Name),
    /// Lists the copies.
    ListCopies,
    /// Reads the manifests.
    ReadManifests,
    /// Deletes a copy.
    DeleteCopy(CopyKey),
    /// Ends the deletions.
    Wait,
    /// Looks for versions whose manifest has a delete marker.
    LookForManifests,
    /// Removes the delete marker of a manifest.
    RestoreManifest(Name),
    /// Reads the manifests, and looks for copies with a delete marker that they name.
    LookForCopies,
    /// Removes the delete marker of a copy.
    RestoreCopy(CopyKey),
    /// Ends the run.
    End,
    /// The process is killed.
    Kill,
}

impl Pruner {
    /// Lists the possible next steps.
    pub fn actions(&self, instance: &Instance, state: &State, add: &mut impl FnMut(Action)) {
        match self {
            Self::Idle => {
                if state.runs_left > 0 {
                    add(Action::Start);
                }
                return;
            }
            Self::Versions { half: None, .. } => {
                for version in &state.saved.versions {
                    if version.document.exists() && state.drops_left > 0 {
                        add(if instance.leaves_out(Rule::DocumentBeforeManifest) {
                            Action::DeleteManifest(version.name)
                        } else {
                            Action::DeleteDocument(version.name)
                        });
                    }
                    let is_orphan = version.manifest.exists() && !version.document.exists();
                    if is_orphan && is_old(instance, state, &version.manifest) {
                        add(Action::DeleteManifest(version.name));
                    }
                }
                add(if instance.leaves_out(Rule::CopiesBeforeManifests) {
                    Action::ReadManifests
                } else {
                    Action::ListCopies
                });
            }
            Self::Versions {
                half: Some(name), ..
            } => add(if instance.leaves_out(Rule::DocumentBeforeManifest) {
                Action::DeleteDocument(*name)
            } else {
                Action::DeleteManifest(*name)
            }),
            Self::Listed { .. } => add(if instance.leaves_out(Rule::CopiesBeforeManifests) {
                Action::ListCopies
            } else {
                Action::ReadManifests
            }),
            Self::Copies { keys, .. } => {
                for &key in keys {
                    add(Action::DeleteCopy(key));
                }
                add(Action::Wait);
            }
            Self::Wait { run } => {
                if instance.leaves_out(Rule::SecondLook) {
                    add(Action::End);
                } else if is_over(instance, state, *run) {
                    add(Action::LookForManifests);
                }
            }
            Self::RestoreManifests { markers, .. } => {
                for (name, _) in markers {
                    add(Action::RestoreManifest(*name));
                }
                if markers.is_empty() {
                    add(Action::LookForCopies);
                }
            }
            Self::RestoreCopies { markers, .. } => {
                for (key, _) in markers {
                    add(Action::RestoreCopy(*key));
                }
                if markers.is_empty() {
                    add(Action::End);
                }
            }
        }
        if instance.kills_pruner {
            add(Action::Kill);
        }
    }

    /// Makes a step.
    pub fn step(self, instance: &Instance, state: &mut State, action: Action) -> Self {
        let now = state.now;
        match (self, action) {
            (_, Action::Kill) => Self::Idle,
            (_, Action::Start) => {
                state.runs_left -= 1;
                let run = state.runs_left;
                for index in 0..state.saved.versions.len() {
                    let version = &state.saved.versions[index];
                    let is_complete = version.document.exists() && state.saved.is_complete(version);
                    state.saved.versions[index].was_complete |= is_complete;
                }
                Self::Versions { run, half: None }
            }
            (Self::Versions { run, half }, Action::DeleteDocument(name)) => {
                let version = state.saved.version(name);
                // It is never restored.
                version.document = Versioned::default();
                version.was_complete = false;
                state.drops_left = state.drops_left.saturating_sub(1);
                let has_manifest = version.manifest.exists();
                Self::Versions {
                    run,
                    half: (half.is_none() && has_manifest).then_some(name),
                }
            }
            (Self::Versions { run, half }, Action::DeleteManifest(name)) => {
                let version = state.saved.version(name);
                delete(instance, &mut version.manifest, run, now);
                let has_document = version.document.exists();
                state.unfinished_runs |= 1 << run;
                Self::Versions {
                    run,
                    half: (half.is_none() && has_document).then_some(name),
                }
            }
            (Self::Versions { run, .. }, Action::ListCopies) => Self::Listed {
                run,
                keys: old_copies(instance, state).collect(),
            },
            (Self::Versions { run, .. }, Action::ReadManifests) => Self::Listed {
                run,
                keys: unnamed_copies(instance, state).collect(),
            },
            (Self::Listed { run, mut keys }, action) => {
                let others: Vec<_> = if action == Action::ReadManifests {
                    unnamed_copies(instance, state).collect()
                } else {
                    old_copies(instance, state).collect()
                };
                keys.retain(|key| others.contains(key));
                if keys.is_empty() {
                    Self::Wait { run }
                } else {
                    Self::Copies { run, keys }
                }
            }
            (Self::Copies { run, mut keys }, Action::DeleteCopy(key)) => {
                delete(instance, state.saved.copy_mut(key), run, now);
                state.unfinished_runs |= 1 << run;
                keys.retain(|&other| other != key);
                if keys.is_empty() {
                    Self::Wait { run }
                } else {
                    Self::Copies { run, keys }
                }
            }
            (Self::Copies { run, .. }, _) => Self::Wait { run },
            (Self::Wait { run }, Action::LookForManifests) => {
                let versions = state.saved.versions.iter();
                let markers = versions.filter_map(|version| {
                    let marker = version.manifest.marker?;
                    let is_needed = version.document.exists()
                        && !instance.leaves_out(Rule::RestoredManifests)
                        && is_looked_at(instance, run, marker.id);
                    is_needed.then_some((version.name, marker.id))
                });
                Self::RestoreManifests {
                    run,
                    markers: markers.collect(),
                }
            }
            (Self::RestoreManifests { run, mut markers }, Action::RestoreManifest(name)) => {
                markers.retain(|&(other, id)| {
                    if other == name {
                        state.saved.version(name).manifest.remove_marker(id);
                    }
                    other != name
                });
                Self::RestoreManifests { run, markers }
            }
            (Self::RestoreManifests { run, .. }, Action::LookForCopies) => {
                let mut markers = Vec::new();
                for key in all_copies() {
                    let marker = state.saved.copy(key).marker;
                    if let Some(marker) = marker
                        && state.saved.is_named(key)
                        && is_looked_at(instance, run, marker.id)
                    {
                        markers.push((key, marker.id));
                    }
                }
                Self::RestoreCopies { run, markers }
            }
            (Self::RestoreCopies { run, mut markers }, Action::RestoreCopy(key)) => {
                markers.retain(|&(other, id)| {
                    if other == key {
                        state.saved.copy_mut(key).remove_marker(id);
                    }
                    other != key
                });
                Self::RestoreCopies { run, markers }
            }
            (Self::Wait { run } | Self::RestoreCopies { run, .. }, _) => {
                // A run restores what killed runs deleted. Several runs at once are not killed.
                state.unfinished_runs &= if instance.kills_pruner {
                    0
                } else {
                    !(1 << run)
                };
                Self::Idle
            }
            (pruner, action) => unreachable!("{action:?} in {pruner:?}"),
        }
    }
}

/// Keys of all copies.
pub fn all_copies() -> impl Iterator<Item = CopyKey> {
    (0..FILES).flat_map(|file| (0..CONTENTS).map(move |content| (file, content as u8)))
}

fn old_copies(instance: &Instance, state: &State) -> impl Iterator<Item = CopyKey> {
    all_copies().filter(|&key| is_old(instance, state, state.saved.copy(key)))
}

fn unnamed_copies(instance: &Instance, state: &State) -> impl Iterator<Item = CopyKey> {
    all_copies().filter(|&key| !state.saved.is_named(key) || instance.leaves_out(Rule::NamedCopies))
}

/// Returns whether the object exists and is older than the day of grace.
fn is_old(instance: &Instance, state: &State, object: &Versioned) -> bool {
    object.current().is_some_and(|object| {
        state.now > object.written + GRACE || instance.leaves_out(Rule::Grace)
    })
}

fn delete(instance: &Instance, object: &mut Versioned, run: u8, now: u8) {
    if instance.leaves_out(Rule::Versioning) {
        *object = Versioned::default();
    } else {
        object.delete(run, now);
    }
}

/// Returns whether every save that may have seen one of the deleted objects has ended.
fn is_over(instance: &Instance, state: &State, run: u8) -> bool {
    let manifests = state.saved.versions.iter().map(|version| version.manifest);
    let copies = all_copies().map(|key| *state.saved.copy(key));
    let mut markers = manifests.chain(copies).filter_map(|object| object.marker);
    instance.leaves_out(Rule::Wait)
        || markers.all(|marker| {
            !is_looked_at(instance, run, marker.id) || state.now > marker.written + LONGEST_SAVE
        })
}

fn is_looked_at(instance: &Instance, run: u8, marker: u8) -> bool {
    run == marker || !instance.leaves_out(Rule::MarkersOfOtherRuns)
}
