//! The changes to a draft by a restore, computed before the first of them is made.

use std::collections::BTreeSet;

use save_draft::draft::keys::DocumentName;

use crate::contents::VersionFile;
use crate::copy::Condition;
use crate::present::{Present, PresentObject};

/// The changes, in the order in which they are made: an interrupted restore leaves files that the old document does
/// not name, then replaced files, and at the end the new document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files that the draft does not have.
    pub added: Vec<Change>,
    /// Files that are different in the draft.
    pub replaced: Vec<Change>,
    /// The state of the draft's document, if it is different from that of the version.
    pub document: Option<Condition>,
    /// Paths and `ETag`s of the objects that the version does not have and that are deleted.
    pub removed: Vec<(String, String)>,
    /// Number of files that are the same.
    pub unchanged: u64,
    /// Number of objects that the version does not have and that stay.
    pub left: u64,
}

/// A file to copy.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// The index of the file in the version.
    pub file: usize,
    /// `ETag` of the copy.
    pub etag: String,
    pub condition: Condition,
}

/// Returns whether the object of a draft is this file of a version. It may also be a copy of the file's copy, which
/// has the `ETag` `copy`: a file that was uploaded in other parts has another `ETag` than its copies.
pub fn is_same(object: &PresentObject, file: &VersionFile, copy: Option<&str>) -> bool {
    let is_copy = copy == Some(&object.etag);
    object.size == file.size && (object.etag == file.etag || is_copy)
}

/// The state that a restore is to reach.
pub struct Goal<'a> {
    pub document_name: DocumentName,
    /// True if the draft has the document of the version already.
    pub has_document: bool,
    pub files: &'a [VersionFile],
    /// The `ETag`s of the copies of the files, or `None` where the draft has the file.
    pub copies: Vec<Option<String>>,
    /// Removes what the version does not have.
    pub exact: bool,
}

impl Plan {
    /// Computes the changes from `present` to `goal`.
    pub fn new(goal: Goal<'_>, present: &Present) -> Self {
        let mut plan = Self::default();
        let document = goal.document_name.as_str();
        let unchanged = |object: &PresentObject| Condition::Unchanged(object.etag.clone());
        for (index, (file, copy)) in goal.files.iter().zip(goal.copies).enumerate() {
            let object = present.objects.get(&file.path);
            let etag = match (copy, object) {
                (None, _) => None,
                (Some(etag), Some(object)) if is_same(object, file, Some(&etag)) => None,
                (copy, _) => copy,
            };
            let Some(etag) = etag else {
                plan.unchanged += 1;
                continue;
            };
            let change = |condition| Change {
                file: index,
                etag,
                condition,
            };
            match object {
                None => plan.added.push(change(Condition::Absent)),
                Some(object) => plan.replaced.push(change(unchanged(object))),
            }
        }
        if !goal.has_document {
            let object = present.objects.get(document);
            plan.document = Some(object.map_or(Condition::Absent, unchanged));
        }
        let known: BTreeSet<&str> = goal.files.iter().map(|file| &*file.path).collect();
        for (path, object) in &present.objects {
            if path == document || known.contains(&**path) {
                continue;
            }
            if goal.exact {
                plan.removed.push((path.clone(), object.etag.clone()));
            } else {
                plan.left += 1;
            }
        }
        plan
    }

    /// Returns whether the restore replaces or removes a file of the draft, its document apart.
    pub fn touches_files(&self) -> bool {
        !self.replaced.is_empty() || !self.removed.is_empty()
    }

    /// Returns whether the restore adds, replaces or removes a file of the draft, its document apart.
    pub fn changes_files(&self) -> bool {
        self.touches_files() || !self.added.is_empty()
    }

    /// Returns whether something of the draft is no longer there after the restore.
    pub fn loses_something(&self) -> bool {
        let replaces_document = matches!(self.document, Some(Condition::Unchanged(_)));
        self.touches_files() || replaces_document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, etag: &str) -> VersionFile {
        VersionFile {
            path: path.to_owned(),
            size: 1,
            etag: etag.to_owned(),
            last_modified: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn present(objects: &[(&str, &str)]) -> Present {
        let objects = objects.iter().map(|(path, etag)| {
            let object = PresentObject {
                size: 1,
                etag: (*etag).to_owned(),
            };
            ((*path).to_owned(), object)
        });
        Present {
            objects: objects.collect(),
            document: None,
        }
    }

    fn unchanged(etag: &str) -> Condition {
        Condition::Unchanged(etag.to_owned())
    }

    #[test]
    fn copies_what_differs_and_removes_the_rest_only_if_asked() {
        let files = [
            file("a", "1"),
            file("b", "2"),
            file("c", "3-2"),
            file("d", "4"),
        ];
        let present = present(&[
            ("a", "1"),
            ("b", "x"),
            ("c", "3-1"),
            ("draft_content.json", "5"),
            ("draft_info.json", "6"),
            ("z", "7"),
        ]);
        let copies = || vec![None, Some("2".into()), Some("3-1".into()), Some("4".into())];
        for exact in [false, true] {
            let goal = Goal {
                document_name: DocumentName::Content,
                has_document: false,
                files: &files,
                copies: copies(),
                exact,
            };
            let removed = [("draft_info.json", "6"), ("z", "7")];
            let removed = removed.map(|(path, etag)| (path.to_owned(), etag.to_owned()));
            let expected = Plan {
                added: vec![Change {
                    file: 3,
                    etag: "4".into(),
                    condition: Condition::Absent,
                }],
                replaced: vec![Change {
                    file: 1,
                    etag: "2".into(),
                    condition: unchanged("x"),
                }],
                document: Some(unchanged("5")),
                removed: if exact { removed.into() } else { Vec::new() },
                unchanged: 2,
                left: if exact { 0 } else { 2 },
            };
            assert_eq!(Plan::new(goal, &present), expected);
        }
    }

    #[test]
    fn a_plan_tells_what_it_loses() {
        let files = [file("a", "1")];
        let plan = |copies, has_document, exact, objects: &[(&str, &str)]| {
            let goal = Goal {
                document_name: DocumentName::Info,
                has_document,
                files: &files,
                copies,
                exact,
            };
            Plan::new(goal, &present(objects))
        };
        let copy = || vec![Some("1".to_owned())];
        let done = [("a", "1"), ("draft_info.json", "2")];
        assert!(!plan(vec![None], true, true, &done).loses_something());
        assert!(!plan(copy(), false, true, &[]).loses_something());
        let document = plan(vec![None], false, false, &done);
        assert!(document.loses_something() && !document.touches_files());
        assert!(plan(copy(), true, false, &[("a", "x")]).touches_files());
        assert!(plan(vec![None], true, true, &[("a", "1"), ("b", "1")]).touches_files());
    }
}
