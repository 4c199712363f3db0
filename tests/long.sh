#!/usr/bin/env bash
#
# The long part of docs/reliability.md: all that `cargo test` has no time for.
#
#     tests/long.sh              every part, one after another; the first that fails ends it
#     tests/long.sh PART...      these parts: races model bad-input load fuzz ceph
#
# FUZZ_SECONDS (default 600) is how long each fuzz target runs; `fuzz` needs cargo-fuzz, and
# `ceph` Ceph's packages, which tests/ceph.sh installs for root.

set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

run_tests() { cargo test --test main -- --include-ignored --nocapture --test-threads 1 "$@"; }

run() {
  case $1 in
    # 200 savers that never rest, and 200 kills.
    races) LONG=1 run_tests races:: \
      --skip racing_savers_against_another_store --skip racing_savers_outlast_an_outage ;;
    # 500 stories.
    model) LONG=1 run_tests model:: ;;
    # 100,000 requests and events.
    bad-input) run_tests a_hundred_thousand_bad_inputs ;;
    # A minute of the local endpoint, with 1% faults.
    load) cargo build --example local && run_tests load:: ;;
    fuzz) tests/fuzz/run.sh "${FUZZ_SECONDS:-600}" ;;
    ceph) tests/ceph.sh ;;
    *)
      printf 'There is no part %s: races model bad-input load fuzz ceph\n' "$1" >&2
      exit 2
      ;;
  esac
}

(($#)) || set -- races model bad-input load fuzz ceph
for part; do
  printf '\n== %s\n' "$part"
  SECONDS=0
  run "$part"
  printf '== %s: passed in %d s\n' "$part" "$SECONDS"
done
