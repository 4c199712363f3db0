//! The present state of a draft.

use std::collections::BTreeMap;

use save_draft::draft::keys::{self, DocumentName, DraftPrefix};
use save_draft::draft::{DraftId, Sha256Digest};
use save_draft::save::manifest::state_digest;

use crate::error::{Error, Result};
use crate::store::{Bucket, Store};

/// Maximum number of looks at a draft that is being edited.
const MAX_LOOKS: usize = 3;

/// The objects in the folder of a draft.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// All of them, by path.
    pub objects: BTreeMap<String, PresentObject>,
    /// The document that a save would read.
    pub document: Option<PresentDocument>,
}

/// An object of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresentObject {
    pub size: u64,
    /// Without quotes.
    pub etag: String,
}

/// The document of a draft.
#[derive(Clone, Debug)]
pub struct PresentDocument {
    pub name: DocumentName,
    pub sha256: Sha256Digest,
}

impl Present {
    /// Gives each file that was restored from a copy the `ETag` of the file that was copied: of a file that was
    /// uploaded in parts, a copy has another.
    pub async fn with_original_etags(&self, store: &Store, id: &DraftId) -> Result<Self> {
        let mut present = self.clone();
        let prefix = keys::copies(id);
        let mut pages = store.pages(Bucket::Saved, &prefix);
        while let Some(page) = pages.next().await? {
            for copy in page {
                let name = copy.key.strip_prefix(&prefix);
                let Some((etag, path)) = name.and_then(|name| name.split_once('/')) else {
                    continue;
                };
                if let Some(object) = present.objects.get_mut(path)
                    && (object.size, &object.etag) == (copy.size, &copy.etag)
                {
                    etag.clone_into(&mut object.etag);
                }
            }
        }
        Ok(present)
    }

    /// Lists the folder of the draft `id`, and reads its document.
    pub async fn read(store: &Store, prefix: &DraftPrefix, id: &DraftId) -> Result<Self> {
        let folder = prefix.folder(id);
        for _ in 0..MAX_LOOKS {
            let mut objects = BTreeMap::new();
            let mut pages = store.pages(Bucket::Drafts, &folder);
            while let Some(page) = pages.next().await? {
                for object in page {
                    let path = object.key.strip_prefix(&folder).unwrap_or(&object.key);
                    // An empty object that stands for a folder in the S3 console.
                    if path.is_empty() || (path.ends_with('/') && object.size == 0) {
                        continue;
                    }
                    let (size, etag) = (object.size, object.etag);
                    objects.insert(path.to_owned(), PresentObject { size, etag });
                }
            }
            let names = DocumentName::ALL.into_iter();
            let found = names.filter_map(|name| objects.get(name.as_str()).map(|it| (name, it)));
            let Some((name, listed)) = found.take(1).next() else {
                return Ok(Self {
                    objects,
                    document: None,
                });
            };
            let read = store
                .read_all(Bucket::Drafts, &prefix.document(id, name))
                .await?;
            if let Some((head, bytes)) = read
                && head.object.etag == listed.etag
            {
                let sha256 = Sha256Digest::of(&bytes);
                return Ok(Self {
                    objects,
                    document: Some(PresentDocument { name, sha256 }),
                });
            }
        }
        Err(Error::new(format!("the draft {id} changes all the time"))
            .advise("Run the command again when nobody edits the draft."))
    }

    /// Returns the files: all objects but the document.
    pub fn files(&self) -> impl Iterator<Item = (&str, &PresentObject)> {
        let document = self
            .document
            .as_ref()
            .map(|document| document.name.as_str());
        let objects = self.objects.iter().map(|(path, object)| (&**path, object));
        objects.filter(move |(path, _)| Some(*path) != document)
    }

    /// Returns the digest that a save gives to this state if it saves the files, or `None` without a document.
    pub fn state_digest(&self) -> Option<String> {
        let document = self.document.as_ref()?;
        let files: Vec<_> = self
            .files()
            .map(|(path, object)| (path, &*object.etag))
            .collect();
        // Without other files, the version is named by its document alone.
        Some(if files.is_empty() {
            document.sha256.to_string()
        } else {
            state_digest(&document.sha256, &files).to_string()
        })
    }
}
