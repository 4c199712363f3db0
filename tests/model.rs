//! Random sequences of writes, saves and restores, with faults, with and without `SAVE_FILES`: after each step the
//! bucket is equal to a model.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use serde_json::Value;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, long_tests};
use test_support::s3::{Fault, S3};
use tokio::runtime::Runtime;

use crate::common::drafts::{
    Files, SAVE_FILES, file_key, read_folder, read_version, save, state_digest, versions,
};
use crate::common::{TestEnv, start_function};
use crate::faults::Step::{
    self, CopyFile, CreateDocument, CreateManifest, FindCopy, ListDraft, ReadDocument,
};

const DRAFTS: [&str; 3] = [
    "20251126220753b7e35362",
    "2f52a63b-8c6a-4417-8b01-1b2a569ccb6c",
    "2025092811473036584259",
];
const PATHS: [&str; 4] = ["a", "b", "assets/c d", "assets/你"];
static FAULTS: [Fault; 6] = [
    Fault::INTERNAL_ERROR,
    Fault::SLOW_DOWN,
    Fault::Cut,
    // No response of S3 is shorter.
    Fault::ShortBody(20),
    Fault::ACCESS_DENIED,
    Fault::LoseResponse,
];

/// 2025-09-28T11:00:00Z, the start of each sequence, in seconds since the epoch.
const START: u64 = 1_759_057_200;

#[derive(Clone, Debug)]
enum Change {
    /// Writes the document. Few contents, so that drafts return to earlier states.
    Document(u64),
    IncompleteDocument,
    DeleteDocument,
    /// Writes a file: path, content.
    File(&'static str, u8),
    DeleteFile(&'static str),
    /// Replaces the folder by one of the versions, if there is one.
    Restore(Index),
}

#[derive(Clone, Debug)]
enum Action {
    /// Changes a draft, in the same second as the last change or in the next.
    Change(&'static str, Change, bool),
    /// Saves a draft, with a fault: the step, the index in [`FAULTS`], and the number of attempts.
    Save(&'static str, Option<(Step, usize, usize)>),
}

fn actions(save_files: bool) -> impl Strategy<Value = Vec<Action>> {
    let mut steps = vec![ReadDocument, CreateDocument];
    if save_files {
        steps.extend([ListDraft, FindCopy, CopyFile, CreateManifest]);
    }
    let files = u32::from(save_files) * 3;
    let change = prop_oneof![
        5 => (0..4_u64).prop_map(Change::Document),
        1 => select(vec![Change::IncompleteDocument, Change::DeleteDocument]),
        2 => any::<Index>().prop_map(Change::Restore),
        // A weight must not be 0.
        1 + files => (select(&PATHS[..]), 0..3_u8).prop_map(|(path, content)| Change::File(path, content)),
        1 + files => select(&PATHS[..]).prop_map(Change::DeleteFile),
    ];
    let fault = (
        select(steps),
        0..FAULTS.len(),
        select(vec![1, 2, usize::MAX]),
    )
        // Whether a copy exists decides the result of a save that can never see it.
        .prop_map(|(step, fault, times)| match step {
            FindCopy => (step, fault, times.min(2)),
            _ => (step, fault, times),
        });
    let id = || select(&DRAFTS[..]);
    let action = prop_oneof![
        9 => (id(), change, any::<bool>()).prop_map(|(id, change, later)| Action::Change(id, change, later)),
        4 => id().prop_map(|id| Action::Save(id, None)),
        4 => (id(), fault).prop_map(|(id, fault)| Action::Save(id, Some(fault))),
    ];
    vec(action, 1..30)
}

#[derive(Debug, Default)]
struct Draft {
    /// The document, and the time at which it was written in seconds since [`START`].
    document: Option<(Vec<u8>, u64)>,
    files: BTreeMap<String, (Vec<u8>, u64)>,
}

impl Draft {
    fn files(&self) -> Files {
        let files = self.files.iter();
        files
            .map(|(path, (content, _))| (path.clone(), content.clone()))
            .collect()
    }
}

/// The real process and its bucket, and their expected state.
struct Model {
    env: TestEnv,
    save_files: bool,
    /// Seconds since [`START`].
    time: u64,
    drafts: BTreeMap<&'static str, Draft>,
    versions: BTreeMap<(&'static str, String), (Vec<u8>, Files)>,
}

impl Model {
    async fn new(save_files: bool) -> Self {
        // Without the example draft, which has a later time.
        let s3 = Arc::new(S3::start_empty().await.expect("the S3 server starts"));
        let variables = &[SAVE_FILES][..usize::from(save_files)];
        let function = start_function(&s3, variables).await;
        Self {
            env: TestEnv { s3, function },
            save_files,
            time: 0,
            drafts: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    async fn apply(&mut self, action: &Action) {
        match action {
            Action::Change(id, change, later) => {
                self.time += u64::from(*later);
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(START + self.time);
                self.env.s3.set_clock(time);
                self.change(id, change);
            }
            Action::Save(id, fault) => {
                let scripted = fault.map(|(step, fault, times)| {
                    let requests = step.requests(id).times(times);
                    self.env.s3.fault(requests, FAULTS[fault].clone())
                });
                let saved = save(&self.env.function, id).await;
                self.env.s3.clear_faults();
                let is_hit = scripted.is_some_and(|scripted| scripted.hits() > 0);
                let expected = self.expect_save(id, fault.filter(|_| is_hit));
                let result = (saved.status, &*saved.outcome, saved.version);
                assert_eq!(result, expected, "{fault:?}: {}", saved.line);
            }
        }
    }

    fn change(&mut self, id: &'static str, change: &Change) {
        let draft = self.drafts.entry(id).or_default();
        match change {
            Change::Document(seed) => {
                draft.document = Some((draft_of_size(500, *seed), self.time));
            }
            Change::IncompleteDocument => {
                draft.document = Some((draft_of_size(500, 0)[..250].to_vec(), self.time));
            }
            Change::DeleteDocument => draft.document = None,
            Change::File(path, content) => {
                let file = (vec![*content; 100], self.time);
                draft.files.insert((*path).to_owned(), file);
            }
            Change::DeleteFile(path) => drop(draft.files.remove(*path)),
            Change::Restore(index) => {
                let versions = self.versions.iter().filter(|((draft, _), _)| *draft == id);
                let versions: Vec<_> = versions.map(|(_, version)| version).collect();
                if !versions.is_empty() {
                    let (document, files) = index.get(&versions);
                    draft.document = Some((document.clone(), self.time));
                    let files = files.iter();
                    let files = files.map(|(path, file)| (path.clone(), (file.clone(), self.time)));
                    draft.files = files.collect();
                }
            }
        }
        // The folder gets the expected state. What was not written now stays as it is.
        let s3 = &self.env.s3;
        for path in read_folder(s3, id)
            .keys()
            .filter(|path| !draft.files.contains_key(*path))
        {
            s3.delete(BUCKET, &file_key(id, path));
        }
        let files = draft
            .files
            .iter()
            .map(|(path, file)| (file_key(id, path), file));
        let document = draft
            .document
            .as_ref()
            .map(|document| (draft_key(id), document));
        for (key, (content, written)) in files.chain(document) {
            if *written == self.time {
                s3.put(BUCKET, &key, content);
            }
        }
        if draft.document.is_none() {
            s3.delete(BUCKET, &draft_key(id));
        }
    }

    /// Returns the expected status, outcome and version of a save, and adds the version that it creates.
    fn expect_save(
        &mut self,
        id: &'static str,
        fault: Option<(Step, usize, usize)>,
    ) -> (u64, &'static str, String) {
        let fault = fault.map(|(step, fault, times)| (step, &FAULTS[fault], times));
        let is_lost = matches!(
            fault,
            Some((CreateDocument, Fault::LoseResponse | Fault::ShortBody(_), _))
        );
        let error = match fault {
            // Without an answer, the file is copied. A copy whose response cannot be read was made.
            Some(
                (FindCopy, Fault::Error(403, _) | Fault::ShortBody(_), _)
                | (CopyFile, Fault::ShortBody(_), _),
            ) => None,
            Some((_, Fault::Error(403, _), _)) => Some(500),
            Some((_, _, usize::MAX)) => Some(503),
            _ => None,
        };
        if let Some(status) = error.filter(|_| !is_lost) {
            return (status, "", String::new());
        }
        let draft = self.drafts.entry(id).or_default();
        let Some((document, written)) = draft.document.clone() else {
            return (404, "", String::new());
        };
        if serde_json::from_slice::<Value>(&document).is_err() {
            return (500, "", String::new());
        }
        let files = if self.save_files {
            draft.files()
        } else {
            Files::new()
        };
        let times = draft.files.values().map(|(_, written)| *written);
        let latest = times.filter(|_| self.save_files).fold(written, u64::max);
        let etag = |path: &str| self.env.s3.metadata(BUCKET, &file_key(id, path));
        let etags = files
            .keys()
            .map(|path| (path.clone(), etag(path).expect("it exists").etag));
        let digest = state_digest(&document, &etags.collect());
        let version = format!("20250928T11{:02}{:02}Z-{digest}", latest / 60, latest % 60);
        let name = (id, version.clone());
        let existing = self.versions.insert(name, (document, files));
        match error {
            Some(status) => (status, "", String::new()),
            None if is_lost || existing.is_some() => (200, "unchanged", version),
            None => (200, "created", version),
        }
    }

    /// Compares the bucket with the model.
    fn check(&self) {
        let s3 = &self.env.s3;
        let mut stored = BTreeMap::new();
        for id in DRAFTS {
            let draft = self.drafts.get(id);
            let document = draft.and_then(|draft| Some(draft.document.as_ref()?.0.clone()));
            assert_eq!(s3.get(BUCKET, &draft_key(id)), document);
            let files = draft.map(Draft::files).unwrap_or_default();
            assert_eq!(read_folder(s3, id), files);
            for name in versions(s3, BUCKET, id) {
                let version = read_version(s3, BUCKET, id, &name);
                stored.insert((id, name), version);
            }
        }
        assert!(stored == self.versions, "{:?}", stored.keys());
        for key in s3.keys(BUCKET, "saved-files/") {
            // The key names the content.
            let etag = s3.metadata(BUCKET, &key).expect("the copy exists").etag;
            assert_eq!(key.split('/').nth(2), Some(&*etag));
        }
    }
}

/// Runs 16 sequences, or 300 with `LONG=1`.
fn check_sequences(save_files: bool) {
    let config = ProptestConfig {
        cases: if long_tests() { 300 } else { 16 },
        failure_persistence: None,
        // Each step takes milliseconds.
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&actions(save_files), |actions| {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut model = Model::new(save_files).await;
            for action in &actions {
                model.apply(action).await;
                model.check();
            }
        });
        Ok(())
    });
    result.expect("the bucket equals the model");
}

#[test]
fn any_sequence_of_changes_and_saves_fits_the_model() {
    check_sequences(false);
    check_sequences(true);
}
