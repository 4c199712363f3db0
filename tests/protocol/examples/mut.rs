use save_protocol::*;
fn main() {
    let base = Instance { savers: 1, edits: 2, ticks: 1, page_keys: 3, has_large_file: true, lost_answers: 0,
      reads: 2, listings: 3, has_history: false, pruners: 0, runs: 0, drops: 0, kills_pruner: false, left_out: None, contents: 2, edits_share_times: true };
    let pages = Instance { page_keys: 2, edits: 3, has_large_file: false, ticks: 1, ..base.clone() };
    let two = Instance { savers: 2, edits: 1, has_large_file: false, ..base.clone() };
    let prune = Instance { edits: 1, ticks: 3, has_large_file: false, has_history: true, pruners: 1, runs: 1, drops: 1, ..base.clone() };
    let killed = Instance { ticks: 4, runs: 2, kills_pruner: true, ..prune.clone() };
    use Rule::*;
    let all = [SecondListing, ListedDocument, EtagOfListedDocument, LastModifiedOfListedDocument, EtagInKeyOfCopy, ConditionOnSource, ConditionOnEachPart, ConditionOnCopy, CheckAfterCopies, ListingAfterCreatedCopies, ConditionOnManifest, ComparisonOfManifest, DocumentLast, ConditionOnDocument, Deadline, Versioning, DocumentBeforeManifest, NamedCopies, Grace, CopiesBeforeManifests, SecondLook, Wait, MarkersOfOtherRuns, RestoredManifests];
    let pick: Option<String> = std::env::args().nth(1);
    for rule in all {
        if let Some(p) = &pick { if format!("{rule:?}") != *p { continue } }
        let mut found = false;
        for (n, i) in [("base", &base), ("pages", &pages), ("two", &two), ("prune", &prune), ("killed", &killed)] {
            let i = Instance { left_out: Some(rule), ..i.clone() };
            let r = i.search(1);
            if let Some((p, t)) = r.violations.first() {
                println!("{rule:?}: {n} {} states {:?} {} steps: {p}", r.states, r.elapsed, t.len());
                if pick.is_some() { for a in t { println!("   {a:?}"); } }
                found = true;
                break;
            }
        }
        if !found { println!("{rule:?}: NOT FOUND"); }
    }
}
