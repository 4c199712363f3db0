//! The versions of a draft.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use save_draft::draft::keys::{self, DocumentName};
use save_draft::draft::{DraftId, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::output;
use crate::store::{Bucket, CONCURRENCY, Object, Store};

/// Selects the newest version.
const LATEST: &str = "latest";

/// Number of digits of the hash in a short name.
const SHORT_DIGITS: usize = 8;

/// A version: a document, and the manifest of its other files if there are any.
#[derive(Clone, Debug)]
pub struct SavedVersion {
    pub name: Version,
    pub document_name: DocumentName,
    pub document: Object,
    /// `None` if the version has no other files.
    pub manifest: Option<Object>,
    /// The time of the save.
    pub saved_at: Timestamp,
}

/// All versions of a draft.
#[derive(Debug)]
pub struct History {
    pub id: DraftId,
    /// From the oldest to the newest.
    pub versions: Vec<SavedVersion>,
    /// Objects that belong to no version, such as the manifest of an interrupted save.
    pub other: Vec<Object>,
}

impl SavedVersion {
    /// Returns the time of the state.
    pub fn state_time(&self) -> Timestamp {
        // The name has a valid time, which has the range of a timestamp.
        let time = self.name.time();
        let time = time.and_then(|time| Timestamp::from_second(time.unix_timestamp()).ok());
        time.unwrap_or_default()
    }
}

impl History {
    /// Reads the versions of the draft `id`. A version exists when its document does.
    ///
    /// Requests: one for each 1,000 objects, and one for each version whose state was written in the same second
    /// as another.
    pub async fn read(store: &Store, id: &DraftId) -> Result<Self> {
        Self::read_with(store, id, |_| {}).await
    }

    /// Reads the versions like [`Self::read`], and passes each object to `on_object` as soon as it is listed.
    pub async fn read_with(
        store: &Store,
        id: &DraftId,
        mut on_object: impl FnMut(&Object),
    ) -> Result<Self> {
        let prefix = keys::versions(id);
        let mut folders: BTreeMap<Version, Vec<Object>> = BTreeMap::new();
        let mut other = Vec::new();
        let mut pages = store.pages(Bucket::Saved, &prefix);
        while let Some(page) = pages.next().await? {
            for object in page {
                on_object(&object);
                let path = object.key.strip_prefix(&prefix).unwrap_or_default();
                let folder = path.split_once('/');
                match folder.and_then(|(name, _)| name.parse().ok()) {
                    Some(name) => folders.entry(name).or_default().push(object),
                    None => other.push(object),
                }
            }
        }
        let mut versions = Vec::with_capacity(folders.len());
        for (name, objects) in folders {
            versions.extend(version(id, name, objects, &mut other));
        }
        let mut history = Self {
            id: id.clone(),
            versions,
            other,
        };
        history.sort(store).await?;
        Ok(history)
    }

    /// Sorts the versions by the time of their state, and those of one second by the time of their save.
    async fn sort(&mut self, store: &Store) -> Result<()> {
        let times: Vec<_> = self.versions.iter().map(SavedVersion::state_time).collect();
        let is_equal = |a: usize, b: usize| times.get(a).is_some_and(|a| times.get(b) == Some(a));
        let shared =
            (0..times.len()).filter(|&i| is_equal(i, i + 1) || (i > 0 && is_equal(i, i - 1)));
        let versions = &self.versions;
        let saved_at: Vec<(usize, Option<Timestamp>)> = stream::iter(shared)
            .map(|index| async move {
                let head = store.head(Bucket::Saved, &versions[index].document.key);
                let metadata = head.await?.map(|head| head.metadata).unwrap_or_default();
                let saved_at = metadata.get("saved-at");
                let saved_at = saved_at.and_then(|time| time.parse().ok());
                Ok::<_, Error>((index, saved_at))
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await?;
        for (index, time) in saved_at {
            if let Some(time) = time {
                self.versions[index].saved_at = time;
            }
        }
        self.versions.sort_by_cached_key(|version| {
            (version.state_time(), version.saved_at, version.name.clone())
        });
        Ok(())
    }

    /// Returns the version that `selector` names: `latest`, the name of a version, or a beginning that only one
    /// version has.
    pub fn find(&self, selector: &str) -> Result<&SavedVersion> {
        if selector.is_empty() {
            return Err(Error::new("the name of the version is empty"));
        }
        let id = &self.id;
        let Some(latest) = self.versions.last() else {
            return Err(Error::new(format!("the draft {id} has no versions"))
                .advise("Check the id, --saved-bucket and --bucket."));
        };
        if selector == LATEST {
            return Ok(latest);
        }
        let matches = |version: &&SavedVersion| version.name.as_str().starts_with(selector);
        let found: Vec<_> = self.versions.iter().filter(matches).collect();
        match found.as_slice() {
            [version] => Ok(version),
            [] => Err(
                Error::new(format!("the draft {id} has no version {selector}"))
                    .advise(format!("List its versions with `drafts versions {id}`.")),
            ),
            several => Err(Error::new(format!(
                "{} begin with {selector}",
                output::count(several.len() as u64, "version")
            ))
            .advise("Give more characters of the name.")),
        }
    }

    /// Returns a beginning of each name that no other version has, by name.
    pub fn short_names(&self) -> HashMap<&str, &str> {
        let mut names: Vec<_> = self.versions.iter().collect();
        names.sort_unstable_by_key(|version| &version.name);
        let lengths = names.iter().enumerate().map(|(index, version)| {
            let neighbours = [index.checked_sub(1), Some(index + 1)];
            let neighbours = neighbours.into_iter().flatten();
            let neighbours = neighbours.filter_map(|index| names.get(index));
            short_length(version, neighbours.copied())
        });
        let pairs = names.iter().zip(lengths);
        let pairs = pairs.map(|(version, length)| {
            let name = version.name.as_str();
            (name, &name[..length])
        });
        pairs.collect()
    }

    /// Returns a beginning of the version's name that no other version has.
    pub fn short_name<'a>(&self, version: &'a SavedVersion) -> &'a str {
        let others = self.versions.iter();
        let others = others.filter(|other| other.name != version.name);
        &version.name.as_str()[..short_length(version, others)]
    }
}

/// Returns whether `key` is that of a manifest.
pub fn is_manifest(key: &str) -> bool {
    let mut parts = key.rsplit('/');
    let is_named = parts.next() == Some(keys::MANIFEST);
    let version = parts.next().and_then(|name| name.parse::<Version>().ok());
    // `saved/{draft_id}` is before it.
    is_named && version.is_some() && parts.count() == 2
}

/// Returns the length of a beginning of the version's name that none of the others has.
fn short_length<'a>(
    version: &SavedVersion,
    others: impl Iterator<Item = &'a SavedVersion>,
) -> usize {
    let name = version.name.as_str();
    let common = |other: &SavedVersion| {
        let pairs = name.bytes().zip(other.name.as_str().bytes());
        pairs.take_while(|(a, b)| a == b).count()
    };
    let longest = others.map(common).max().unwrap_or_default();
    let shortest = name.len() - version.name.digest().len() + SHORT_DIGITS;
    shortest.max(longest + 1).min(name.len())
}

/// Memory for the manifests that are read at the same time. A large draft has one of some 10 MB.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Semaphore>);

impl Default for MemoryBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(Self::KIB as usize)))
    }
}

impl MemoryBudget {
    /// In KiB of manifests; the parsed files take about as much again.
    const KIB: u32 = 16 << 10;

    /// Waits until there is room for the manifest of `version`. A larger one gets all of it.
    pub async fn reserve(&self, version: &SavedVersion) -> Option<OwnedSemaphorePermit> {
        self.reserve_bytes(version.manifest.as_ref()?.size).await
    }

    /// Waits until there is room for a manifest of this size. A larger one gets all of it.
    pub async fn reserve_bytes(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let permits = Arc::clone(&self.0).acquire_many_owned(kib.clamp(1, Self::KIB));
        // It is never closed.
        permits.await.ok()
    }
}

/// Returns the version with these objects, if its document is among them. Adds the objects that do not belong to
/// it to `other`.
fn version(
    id: &DraftId,
    name: Version,
    objects: Vec<Object>,
    other: &mut Vec<Object>,
) -> Option<SavedVersion> {
    let mut document = None;
    let mut manifest = None;
    let manifest_key = keys::manifest(id, &name);
    for object in objects {
        let is_named =
            |document: &DocumentName| object.key == keys::version_document(id, &name, *document);
        let document_name = DocumentName::ALL.into_iter().find(is_named);
        match document_name {
            Some(document_name) if document.is_none() => document = Some((document_name, object)),
            None if object.key == manifest_key => manifest = Some(object),
            _ => other.push(object),
        }
    }
    let Some((document_name, document)) = document else {
        other.extend(manifest);
        return None;
    };
    Some(SavedVersion {
        name,
        document_name,
        saved_at: document.last_modified,
        document,
        manifest,
    })
}
