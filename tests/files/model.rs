//! Random sequences of changes, saves and restores, compared with an in-memory model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use save_draft::error::ErrorKind;
use save_draft::s3::CreateOutcome;
use save_draft::save::Saver;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, long_tests};
use test_support::s3::{Fault, S3};
use tokio::runtime::Runtime;

use super::faults::Step::{self, CreateDocument};
use super::{Files, SAVE_FILES, file_key, read_folder, read_version, versions};
use crate::common::{self, Endpoint};

/// An action on the draft of the model.
#[derive(Clone, Debug)]
enum Action {
    WriteDocument(u64),
    DeleteDocument,
    /// Overwrites or adds a file: path, content.
    WriteFile(u8, u8),
    DeleteFile(u8),
    /// Saves without faults.
    Save,
    /// Saves with this fault at this step: the index of a fault, and the number of times.
    SaveWithFault(Step, usize, usize),
    /// Replaces the folder by one of the versions.
    Restore(Index),
}

const MODEL_FAULTS: [Fault; 4] = [
    Fault::INTERNAL_ERROR,
    Fault::ACCESS_DENIED,
    Fault::LoseResponse,
    Fault::Cut,
];

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let steps = select(Step::ALL.to_vec());
    let times = select(vec![1, 2, usize::MAX]);
    let action = prop_oneof![
        3 => (0..4_u64).prop_map(Action::WriteDocument),
        1 => Just(Action::DeleteDocument),
        4 => (0..4_u8, 0..3_u8).prop_map(|(path, content)| Action::WriteFile(path, content)),
        2 => (0..4_u8).prop_map(Action::DeleteFile),
        4 => Just(Action::Save),
        4 => (steps, 0..MODEL_FAULTS.len(), times)
            .prop_map(|(step, fault, times)| Action::SaveWithFault(step, fault, times)),
        1 => any::<Index>().prop_map(Action::Restore),
    ];
    vec(action, 1..16)
}

/// The expected content of the bucket.
struct Model {
    s3: S3,
    saver: Saver,
    document: Option<Vec<u8>>,
    files: Files,
    versions: BTreeMap<String, (Vec<u8>, Files)>,
}

impl Model {
    const ID: &str = "model";

    async fn new() -> Self {
        let s3 = S3::start_empty().await.expect("the S3 starts");
        let config = common::config(BUCKET, &[SAVE_FILES]);
        let saver = common::saver_with(&Endpoint::of(&s3).sdk(), config);
        Self {
            s3,
            saver,
            document: None,
            files: Files::new(),
            versions: BTreeMap::new(),
        }
    }

    async fn apply(&mut self, action: &Action) {
        let path =
            |number: u8| ["a", "b", "assets/c d", "assets/你"][usize::from(number)].to_owned();
        match action {
            Action::WriteDocument(seed) => self.document = Some(draft_of_size(1_000, *seed)),
            Action::DeleteDocument => self.document = None,
            Action::WriteFile(number, content) => {
                self.files.insert(path(*number), vec![*content; 100]);
            }
            Action::DeleteFile(number) => drop(self.files.remove(&path(*number))),
            Action::Save => self.save(None).await,
            Action::SaveWithFault(step, fault, times) => {
                let when = step.requests(Self::ID).times(*times);
                self.s3.fault(when, MODEL_FAULTS[*fault].clone());
                self.save(Some(action)).await;
                self.s3.clear_faults();
            }
            Action::Restore(index) => {
                let versions: Vec<_> = self.versions.values().collect();
                if !versions.is_empty() {
                    let (document, files) = index.get(&versions);
                    (self.document, self.files) = (Some(document.clone()), files.clone());
                }
            }
        }
        if !matches!(action, Action::Save | Action::SaveWithFault(..)) {
            self.write();
        }
    }

    /// Changes the folder to the expected state. Files that are equal are not written again.
    fn write(&self) {
        let stored = read_folder(&self.s3, Self::ID);
        for (path, content) in &self.files {
            if stored.get(path) != Some(content) {
                self.s3.put(BUCKET, &file_key(Self::ID, path), content);
            }
        }
        for path in stored.keys().filter(|path| !self.files.contains_key(*path)) {
            self.s3.delete(BUCKET, &file_key(Self::ID, path));
        }
        match &self.document {
            Some(document) => drop(self.s3.put(BUCKET, &draft_key(Self::ID), document)),
            None => self.s3.delete(BUCKET, &draft_key(Self::ID)),
        }
    }

    async fn save(&mut self, fault: Option<&Action>) {
        let id = Self::ID.parse().expect("an id");
        let report = self
            .saver
            .save(id, Instant::now() + Duration::from_mins(1))
            .await;
        let state = self
            .document
            .clone()
            .map(|document| (document, self.files.clone()));
        let stored: BTreeSet<_> = versions(&self.s3, BUCKET, Self::ID).into_iter().collect();
        let added = stored
            .iter()
            .filter(|name| !self.versions.contains_key(*name));
        let added: Vec<_> = added.cloned().collect();
        match (&report.result, state) {
            (Ok(saved), Some(state)) => {
                let name = saved.version.to_string();
                let is_new = !self.versions.contains_key(&name);
                assert_eq!(added.is_empty(), !is_new, "{added:?}");
                // After a lost response the version may be found instead of created.
                if fault.is_none() {
                    assert_eq!(saved.outcome == CreateOutcome::Created, is_new);
                }
                self.versions.insert(name, state);
            }
            (Err(error), None) => {
                assert_eq!(error.kind(), ErrorKind::DraftNotFound);
                assert_eq!(added, [""; 0]);
            }
            (Err(error), Some(state)) => {
                let expected = match fault {
                    Some(Action::SaveWithFault(_, 1, _)) => ErrorKind::SaveFailed,
                    Some(_) => ErrorKind::ServiceUnavailable,
                    None => panic!("{}", error.cause_chain()),
                };
                assert_eq!(error.kind(), expected, "{}", error.cause_chain());
                // The response to the last request of a complete save was lost.
                if let Some(Action::SaveWithFault(CreateDocument, 2, _)) = fault {
                    self.versions
                        .extend(added.into_iter().map(|name| (name, state.clone())));
                } else {
                    assert_eq!(added, [""; 0]);
                }
            }
            (Ok(saved), None) => panic!("{saved:?} without a document"),
        }
    }

    /// Compares the bucket with the model.
    fn check(&self) {
        assert_eq!(self.s3.get(BUCKET, &draft_key(Self::ID)), self.document);
        assert_eq!(read_folder(&self.s3, Self::ID), self.files);
        let stored = versions(&self.s3, BUCKET, Self::ID).into_iter();
        let stored = stored.map(|name| {
            let state = read_version(&self.s3, BUCKET, Self::ID, &name);
            (name, state)
        });
        assert!(stored.collect::<BTreeMap<_, _>>() == self.versions);
        for key in self.s3.keys(BUCKET, "saved-files/") {
            // The key names the content.
            let etag = self
                .s3
                .metadata(BUCKET, &key)
                .expect("the copy exists")
                .etag;
            assert_eq!(key.split('/').nth(2), Some(&*etag));
        }
    }
}

#[test]
fn any_sequence_of_changes_saves_and_restores_fits_the_model() {
    let config = ProptestConfig {
        cases: if long_tests() { 300 } else { 12 },
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&actions(), |actions| {
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let mut model = Model::new().await;
            for action in &actions {
                model.apply(action).await;
                model.check();
            }
        });
        Ok(())
    });
    result.expect("the bucket equals the model");
}
