//! All interleavings of an editor, savers and prune, in a model of what they ask of S3: the package `save-protocol`.

use save_protocol::property::{FAILED, INCOMPLETE, INTERRUPTED, LOST, MIXED, REPLACED};
use save_protocol::{History, Instance, Rule};

/// A save of a folder that is listed on one page or several, with a large file, and with a write whose answer is lost.
const SAVE: Instance = Instance {
    savers: 1,
    files: [true, true],
    edits: 2,
    contents: 2,
    edits_share_times: true,
    ticks: 1,
    page_keys: 3,
    has_large_file: true,
    lost_answers: 1,
    reads: 2,
    listings: 3,
    history: History::None,
    pruners: 0,
    runs: 0,
    drops: 0,
    kills_pruner: false,
    repeats_deletions: false,
    left_out: None,
};

/// Two saves at once.
const SAVES: Instance = Instance {
    savers: 2,
    edits: 1,
    has_large_file: false,
    lost_answers: 0,
    ..SAVE
};

/// Two saves at once that do not start again.
const BRIEF_SAVES: Instance = Instance {
    edits: 0,
    reads: 1,
    listings: 2,
    ..SAVES
};

/// A listing takes at least two pages.
const PAGES: Instance = Instance {
    edits: 4,
    ticks: 0,
    page_keys: 2,
    has_large_file: false,
    lost_answers: 0,
    ..SAVE
};

/// One run of prune beside a save.
const PRUNE: Instance = Instance {
    files: [true, false],
    edits: 1,
    ticks: 3,
    has_large_file: false,
    lost_answers: 0,
    history: History::Version,
    pruners: 1,
    runs: 1,
    drops: 1,
    ..SAVE
};

/// One run of prune beside a save that needs an old manifest without a document.
const PRUNE_MANIFEST: Instance = Instance {
    edits: 0,
    history: History::Manifest,
    drops: 0,
    ..PRUNE
};

/// A run of prune that is killed and started again, beside a save.
const KILLED_PRUNE: Instance = Instance {
    ticks: 4,
    runs: 2,
    kills_pruner: true,
    ..PRUNE
};

/// Two runs of prune at once, beside a save.
const TWO_PRUNERS: Instance = Instance {
    ticks: 2,
    reads: 1,
    // Two runs can delete a copy while a save waits for it.
    listings: 5,
    pruners: 2,
    runs: 2,
    drops: 0,
    ..PRUNE
};

/// Number of threads of the long searches.
const THREADS: usize = 2;

/// Visits all states of `instance`, and expects that every property holds.
fn assert_right(name: &str, instance: &Instance, threads: usize) {
    let report = instance.search(threads);
    println!("{name}: {} states", report.states);
    assert_eq!(report.violations, [], "{name}: violated properties");
    assert_eq!(
        report.unreached, [""; 0],
        "{name}: situations that do not occur"
    );
}

#[test]
fn a_save_is_right_in_every_interleaving() {
    assert_right("a save", &SAVE, 1);
    assert_right("two saves", &SAVES, 1);
    assert_right("a save with several pages", &PAGES, 1);
}

#[test]
fn prune_beside_a_save_is_right_in_every_interleaving() {
    assert_right("prune", &PRUNE, 1);
    assert_right("prune of a manifest", &PRUNE_MANIFEST, 1);
}

#[test]
#[ignore = "takes minutes: tests/soak.sh protocol"]
fn larger_instances_are_right_in_every_interleaving() {
    let instances = [
        ("two saves, two edits", Instance { edits: 2, ..SAVES }),
        (
            "two saves, a large file, a lost answer",
            Instance {
                has_large_file: true,
                lost_answers: 1,
                ..SAVES
            },
        ),
        ("a save, three edits", Instance { edits: 3, ..SAVE }),
        (
            "a save with several pages, five edits in one second",
            Instance { edits: 5, ..PAGES },
        ),
        (
            "a save with several pages, four edits at different times",
            Instance {
                edits_share_times: false,
                ..PAGES
            },
        ),
        (
            "prune beside two saves",
            Instance {
                savers: 2,
                ticks: 2,
                drops: 0,
                ..PRUNE
            },
        ),
        (
            "prune deletes a version beside two saves",
            Instance {
                savers: 2,
                edits: 0,
                ..PRUNE
            },
        ),
        (
            "prune of a manifest beside two saves",
            Instance {
                savers: 2,
                ticks: 4,
                ..PRUNE_MANIFEST
            },
        ),
        ("prune that is killed and started again", KILLED_PRUNE),
        (
            "prune that repeats a deletion",
            Instance {
                lost_answers: 1,
                repeats_deletions: true,
                listings: 4,
                ..PRUNE
            },
        ),
        ("two runs of prune", TWO_PRUNERS),
        (
            "two runs of prune that delete a version",
            Instance {
                edits: 0,
                drops: 1,
                ..TWO_PRUNERS
            },
        ),
    ];
    for (name, instance) in instances {
        assert_right(name, &instance, THREADS);
    }
}

/// A listing that is equal to the previous one is no proof if objects get back to an earlier state meanwhile. Six edits
/// during the listings of one save are far from what an editor does.
#[test]
#[ignore = "takes minutes: tests/soak.sh protocol"]
fn equal_listings_are_no_proof_against_six_edits() {
    let deletions = Instance {
        files: [false, true],
        edits: 6,
        contents: 1,
        edits_share_times: false,
        ..PAGES
    };
    assert_found("files deleted and created in turn", &deletions, MIXED, 12);
}

/// Expects that `instance` violates `property` after this number of steps.
fn assert_found(name: &str, instance: &Instance, property: &str, steps: usize) {
    let report = instance.search(1);
    println!("{name}: {} states", report.states);
    let mut violations = report.violations.iter();
    let found = violations.find(|(violated, _)| *violated == property);
    let found = found.map(|(_, actions)| actions.len());
    assert_eq!(found, Some(steps), "{name}: {report:#?}");
}

/// docs/reliability.md explains each.
#[test]
fn each_rule_is_needed() {
    let killed_prune = Instance {
        drops: 0,
        ..KILLED_PRUNE
    };
    let saves_of_equal_files = Instance {
        files: [true, false],
        edits: 2,
        contents: 1,
        ..BRIEF_SAVES
    };
    for (rule, instance, property, steps) in [
        (Rule::SecondListing, SAVE, MIXED, 11),
        (Rule::ListedDocument, SAVE, MIXED, 8),
        (Rule::EtagOfListedDocument, SAVE, MIXED, 8),
        (Rule::LastModifiedOfListedDocument, SAVE, MIXED, 9),
        (Rule::EtagInKeyOfCopy, SAVE, INCOMPLETE, 13),
        (Rule::ConditionOnSource, SAVE, INCOMPLETE, 8),
        (Rule::ConditionOnEachPart, SAVE, INCOMPLETE, 10),
        (Rule::ConditionOnCopy, BRIEF_SAVES, REPLACED, 9),
        (Rule::ListingAfterRefusedCopy, SAVE, INCOMPLETE, 9),
        (Rule::DocumentLast, SAVE, INCOMPLETE, 6),
        (Rule::ConditionOnManifest, BRIEF_SAVES, REPLACED, 14),
        (
            Rule::ComparisonWithoutTimes,
            saves_of_equal_files,
            FAILED,
            13,
        ),
        (Rule::ConditionOnDocument, BRIEF_SAVES, REPLACED, 16),
        (Rule::Deadline, PRUNE, INCOMPLETE, 15),
        (Rule::Versioning, PRUNE, LOST, 10),
        (Rule::DocumentBeforeManifest, PRUNE, INTERRUPTED, 5),
        (Rule::NamedCopies, PRUNE, INTERRUPTED, 5),
        (Rule::Grace, PRUNE, INTERRUPTED, 12),
        (Rule::CopiesBeforeManifests, PRUNE, INTERRUPTED, 14),
        (Rule::SecondLook, PRUNE, INCOMPLETE, 11),
        (Rule::Wait, PRUNE, INCOMPLETE, 13),
        (Rule::MarkersOfOtherRuns, killed_prune, INCOMPLETE, 17),
        (Rule::AllMarkers, TWO_PRUNERS, INCOMPLETE, 24),
        (Rule::RestoredManifests, PRUNE_MANIFEST, INCOMPLETE, 18),
    ] {
        let instance = Instance {
            left_out: Some(rule),
            ..instance
        };
        assert_found(&format!("{rule:?}"), &instance, property, steps);
    }
}

/// The name of a version fixes the files in its manifest, so that the comparison only finds foreign objects.
#[test]
#[ignore = "takes minutes: tests/soak.sh protocol"]
fn the_comparison_of_manifests_has_no_counterexample() {
    let killed_prune = Instance {
        drops: 0,
        ..KILLED_PRUNE
    };
    for instance in [SAVE, SAVES, PAGES, PRUNE, killed_prune] {
        let instance = Instance {
            left_out: Some(Rule::ComparisonOfManifest),
            ..instance
        };
        assert_right("without the comparison of manifests", &instance, THREADS);
    }
}
