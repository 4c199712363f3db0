//! Saves that are killed, and concurrent saves of a draft that changes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use save_draft::error::ErrorKind;
use save_draft::save::Saver;
use test_support::fixtures::{BUCKET, draft_key, draft_of_size, long_tests, post_id};
use test_support::runtime::with_timeout;
use test_support::s3::{Fault, S3, When};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::faults::End::{Saved, Unavailable};
use super::faults::assert_end;
use super::{Files, SAVE_FILES, file_key, put_document, put_files, read_version, save, versions};
use crate::common::{self, Endpoint};

#[tokio::test]
async fn a_killed_function_leaves_no_version_or_a_complete_one() {
    const FILES: usize = 5;
    let rounds = if long_tests() { 200 } else { 20 };
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let mut function = common::start_function(&s3, &[SAVE_FILES]).await;
    let mut found = 0;
    for round in 0..rounds {
        let id = format!("killed-{round}");
        let document = put_document(&s3, &id);
        let paths: Vec<_> = (0..FILES).map(|number| format!("{number}.mp4")).collect();
        let files = put_files(&s3, &id, paths.iter().map(String::as_str));

        // Before the request is served, after it, or while the function goes on.
        let (fault, request) = (random.usize(0..3), random.usize(0..FILES + 7));
        let case = format!("seed {seed}, round {round}: fault {fault}, request {request}");
        let fault = match fault {
            0 => Fault::Stall,
            1 => Fault::StallResponse,
            _ => Fault::Run(Arc::new(|_| {})),
        };
        let fault = s3.fault(When::any().after(request).once(), fault);
        let pending = function.begin(&post_id(&id));
        fault.wait_for_hits(1).await;
        function.kill().await;
        drop(pending);
        let versions = versions(&s3, BUCKET, &id);
        let end = if versions.is_empty() {
            Unavailable
        } else {
            Saved
        };
        found += versions.len();
        assert_end(&s3, &id, &document, &files, end, &case);

        fault.clear();
        function = common::start_function(&s3, &[SAVE_FILES]).await;
        let next = save(&function, &id).await;
        assert_eq!(next.status, 200, "{case}: {}", next.line);
        next.assert_saved(&s3, &id, &document, &files);
        assert_end(&s3, &id, &document, &files, Saved, &case);
        let copies = s3.keys(BUCKET, &format!("saved-files/{id}/"));
        assert_eq!(copies.len(), FILES, "{case}");
    }
    println!("{rounds} kills, {found} of them after the version was created");
}

/// A draft that is changed while it is saved.
struct Race {
    s3: S3,
    /// All states so far. The last may not have been written yet.
    states: Mutex<Vec<(Vec<u8>, Files)>>,
    /// Number of states that have been written.
    written: AtomicUsize,
    /// The last state that had been written when a save began that was successful.
    saved: watch::Sender<usize>,
}

const RACED: &str = "raced";

impl Race {
    /// Changes the document or a file: overwrites, adds or deletes it.
    fn change(&self, random: &mut fastrand::Rng, number: usize) {
        let path = format!("assets/{}", random.u8(0..8));
        let (mut document, mut files) = {
            let states = self.states.lock().expect("not poisoned");
            states.last().expect("a first state").clone()
        };
        // Some contents repeat, so that a file returns to a state of which there is a copy.
        let content = format!("{path} {}", random.u8(0..20)).into_bytes();
        let choice = random.u8(0..8);
        match choice {
            0 | 1 => document = draft_of_size(2_000, number as u64),
            2 | 3 => drop(files.remove(&path)),
            _ => drop(files.insert(path.clone(), content.clone())),
        }
        {
            let mut states = self.states.lock().expect("not poisoned");
            states.push((document.clone(), files));
        }
        match choice {
            0 | 1 => drop(self.s3.put(BUCKET, &draft_key(RACED), document)),
            2 | 3 => self.s3.delete(BUCKET, &file_key(RACED, &path)),
            _ => drop(self.s3.put(BUCKET, &file_key(RACED, &path), content)),
        }
        self.written.fetch_add(1, SeqCst);
    }

    /// Saves once. Returns whether it succeeded; any version must be a state that the draft had
    /// during the save.
    async fn save(&self, saver: &Saver) -> Option<String> {
        let from = self.written.load(SeqCst) - 1;
        let deadline = Instant::now() + Duration::from_mins(1);
        let report = saver.save(RACED.parse().expect("an id"), deadline).await;
        let version = match report.result {
            Ok(saved) => saved.version.to_string(),
            Err(error) => {
                let cause = error.cause_chain();
                assert_eq!(error.kind(), ErrorKind::ServiceUnavailable, "{cause}");
                return None;
            }
        };
        let to = self.states.lock().expect("not poisoned").len();
        let saved = read_version(&self.s3, BUCKET, RACED, &version);
        let states = self.states.lock().expect("not poisoned");
        assert!(
            states[from..to].contains(&saved),
            "{version} is none of the states {from} to {to}; is it any state of the draft: {}",
            states.contains(&saved)
        );
        drop(states);
        self.saved.send_modify(|saved| *saved = from.max(*saved));
        Some(version)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_savers_save_states_that_existed_at_one_moment() {
    const SAVERS: usize = 32;
    let rounds = if long_tests() { 200 } else { 12 };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let s3 = S3::start_empty().await.expect("the S3 starts");
    let sdk = Endpoint::of(&s3).sdk();
    let document = put_document(&s3, RACED);
    let files = put_files(&s3, RACED, ["assets/0", "assets/1", "cover.jpg"]);
    let race = Arc::new(Race {
        s3,
        states: Mutex::new(vec![(document, files)]),
        written: AtomicUsize::new(1),
        saved: watch::Sender::new(0),
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let mut savers = JoinSet::new();
    for _ in 0..SAVERS {
        let (race, is_over) = (Arc::clone(&race), Arc::clone(&is_over));
        let saver = common::saver_with(&sdk, common::config(BUCKET, &[SAVE_FILES]));
        savers.spawn(async move {
            let mut versions = BTreeSet::new();
            while !is_over.load(SeqCst) {
                versions.extend(race.save(&saver).await);
            }
            let last = race.save(&saver).await;
            (versions, last.expect("nothing changes any more"))
        });
    }
    let requests = Arc::new(watch::Sender::new(0));
    let counter = Arc::clone(&requests);
    let count = Fault::Run(Arc::new(move |_| counter.send_modify(|count| *count += 1)));
    race.s3.fault(When::any(), count);
    let mut number = 0;
    for _ in 0..rounds {
        // A few changes, with some requests of the savers between them.
        for _ in 0..random.usize(1..5) {
            race.change(&mut random, number);
            number += 1;
            let pause = *requests.borrow() + random.usize(0..40);
            let mut requests = requests.subscribe();
            drop(with_timeout(requests.wait_for(|count| *count >= pause)).await);
        }
        // Then none until a state that is not older was saved.
        if random.bool() {
            let state = race.written.load(SeqCst) - 1;
            let mut saved = race.saved.subscribe();
            drop(with_timeout(saved.wait_for(|saved| *saved >= state)).await);
        }
    }
    is_over.store(true, SeqCst);
    let (versions, last): (Vec<_>, BTreeSet<_>) = savers.join_all().await.into_iter().unzip();
    assert_eq!(
        last.len(),
        1,
        "all savers end with the same version: {last:?}"
    );
    let reported: BTreeSet<_> = versions.into_iter().flatten().chain(last).collect();
    println!(
        "{number} changes, {} versions, {} requests",
        reported.len(),
        *requests.borrow()
    );
    // Each object that looks like a version is complete, also those of saves that failed.
    let states = race.states.lock().expect("not poisoned");
    let stored: BTreeSet<_> = super::versions(&race.s3, BUCKET, RACED)
        .into_iter()
        .collect();
    for version in &stored {
        let saved = read_version(&race.s3, BUCKET, RACED, version);
        assert!(states.contains(&saved), "{version} is no state");
    }
    assert!(reported.is_subset(&stored));
}
