#!/usr/bin/env bash
# Runs the long tests, and stops at the first that fails.
#
#     tests/soak.sh [PART...]     default: all parts
#
#     races       LONG=1: 200 rounds of each race, 200 killed processes of each kind
#     model       LONG=1: 300 random sequences of each kind
#     protocol    all interleavings of saves and prune in a model: larger instances than in `cargo test`
#     cpu         large documents and folders with a small share of a CPU
#     memory      the largest folders side by side
#     fuzz        each fuzz target, for FUZZ_SECONDS (600); needs cargo-fuzz
#     ceph        the store tests against Ceph; tests/ceph.sh installs it if it is run by root
set -euo pipefail
cd "$(dirname "$0")/.."

run_tests() { cargo test --test main -- --include-ignored --nocapture --test-threads 1 "$@"; }

run_part() {
  case $1 in
    races) LONG=1 run_tests races:: --skip external_store --skip outage ;;
    model) LONG=1 run_tests model:: ;;
    protocol) run_tests protocol:: ;;
    cpu) run_tests with_little_cpu slowest_documents ;;
    memory) LONG=1 run_tests side_by_side_fit_into_the_memory ;;
    fuzz) tests/fuzz/run.sh "${FUZZ_SECONDS:-600}" ;;
    ceph) tests/ceph.sh ;;
  esac
}

parts='races model protocol cpu memory fuzz ceph'
# shellcheck disable=SC2086  # One argument for each part.
(($#)) || set -- $parts
for part; do
  if [[ " $parts " != *" $part "* ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' tests/soak.sh >&2
    exit 2
  fi
done
for part; do
  printf '\n== %s\n' "$part"
  SECONDS=0
  run_part "$part"
  printf '== %s: passed in %d s\n' "$part" "$SECONDS"
done
