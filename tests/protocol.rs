//! All interleavings of an editor, savers and prune, in a model of what they ask of S3: the package `save-protocol`.

use save_protocol::{History, Instance, Report, Rule};

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

fn print(name: &str, report: &Report) {
    println!(
        "{name}: {} states, {} steps between them, depth {}, {:.1} s",
        report.states,
        report.steps,
        report.depth,
        report.elapsed.as_secs_f64()
    );
}

/// Visits all states of `instance`, and expects that every property holds.
fn assert_right(name: &str, instance: &Instance, threads: usize) {
    let report = instance.search(threads);
    print(name, &report);
    assert_eq!(report.violations, [], "{name}: violated properties");
    let unreached = Vec::<&str>::new();
    assert_eq!(
        report.unreached, unreached,
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
    assert_found("files deleted and created in turn", &deletions, MIXED);
}

const MIXED: &str = "a version is a state that existed at one moment";
const FAILED: &str = "a save of a folder that nobody edits ends with a version";
const REPLACED: &str = "no object of a version is replaced";
const INCOMPLETE: &str = "a version is complete unless a prune is unfinished";
const LOST: &str = "prune started again can restore every version";
const INTERRUPTED: &str = "a version of before a prune, or of new copies, is always complete";

/// Expects that `instance` violates `property`, and prints the number of steps that lead there.
fn assert_found(name: &str, instance: &Instance, property: &str) {
    let report = instance.search(1);
    print(name, &report);
    let mut violations = report.violations.iter();
    let Some((_, steps)) = violations.find(|(violated, _)| *violated == property) else {
        panic!("{name}: a violation of {property:?} expected, got {report:#?}");
    };
    println!(
        "{name}: {} steps to a violation of {property:?}",
        steps.len()
    );
}

macro_rules! rules_that_are_needed {
    ($($name:ident: $rule:ident in $instance:expr => $property:ident;)*) => {
        mod each_rule_is_needed {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let instance = Instance { left_out: Some(Rule::$rule), ..$instance };
                    assert_found(stringify!($rule), &instance, $property);
                }
            )*
        }
    };
}

rules_that_are_needed! {
    second_listing: SecondListing in SAVE => MIXED;
    listed_document: ListedDocument in SAVE => MIXED;
    etag_of_the_listed_document: EtagOfListedDocument in SAVE => MIXED;
    last_modified_of_the_listed_document: LastModifiedOfListedDocument in SAVE => MIXED;
    etag_in_the_key_of_a_copy: EtagInKeyOfCopy in SAVE => INCOMPLETE;
    condition_on_the_source: ConditionOnSource in SAVE => INCOMPLETE;
    condition_on_each_part: ConditionOnEachPart in SAVE => INCOMPLETE;
    condition_on_the_copy: ConditionOnCopy in BRIEF_SAVES => REPLACED;
    listing_after_a_refused_copy: ListingAfterRefusedCopy in SAVE => INCOMPLETE;
    document_last: DocumentLast in SAVE => INCOMPLETE;
    condition_on_the_manifest: ConditionOnManifest in BRIEF_SAVES => REPLACED;
    comparison_without_times: ComparisonWithoutTimes in Instance { files: [true, false], edits: 2, contents: 1, ..BRIEF_SAVES } => FAILED;
    condition_on_the_document: ConditionOnDocument in BRIEF_SAVES => REPLACED;
    deadline: Deadline in PRUNE => INCOMPLETE;
    versioning: Versioning in PRUNE => LOST;
    document_before_manifest: DocumentBeforeManifest in PRUNE => INTERRUPTED;
    named_copies: NamedCopies in PRUNE => INTERRUPTED;
    grace: Grace in PRUNE => INTERRUPTED;
    copies_before_manifests: CopiesBeforeManifests in PRUNE => INTERRUPTED;
    second_look: SecondLook in PRUNE => INCOMPLETE;
    wait: Wait in PRUNE => INCOMPLETE;
    markers_of_other_runs: MarkersOfOtherRuns in Instance { drops: 0, ..KILLED_PRUNE } => INCOMPLETE;
    all_markers: AllMarkers in TWO_PRUNERS => INCOMPLETE;
    restored_manifests: RestoredManifests in PRUNE_MANIFEST => INCOMPLETE;
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
