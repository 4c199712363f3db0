#!/usr/bin/env bash
# Runs fuzz targets, each for a number of seconds. An input that fails is kept in target/fuzz/artifacts.
#
#     tests/fuzz/run.sh [SECONDS] [TARGET...]     default: 600 seconds, the targets document event request
#
# Needs a C++ compiler and cargo-fuzz (cargo install --locked cargo-fuzz).
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-600}
if (($# > 1)); then targets=("${@:2}"); else targets=(document event request); fi
output=${CARGO_TARGET_DIR:-target}/fuzz
# Without optimization across crates, so that the targets build faster.
export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_LTO=off

for target in "${targets[@]}"; do
  corpus=$output/corpus/$target
  artifacts=$output/artifacts/$target/
  mkdir -p "$corpus" "$artifacts"
  case $target in
    document) cp local/sample/draft_content.json "$corpus" ;;
    event) cp events/*.json "$corpus" ;;
  esac
  printf '== %s\n' "$target"
  # Without a sanitizer, so that it works with stable Rust: the project has no unsafe code.
  cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz --target-dir "$output" "$target" "$corpus" -- \
    -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
    -dict=tests/fuzz/words.dict -artifact_prefix="$artifacts" -print_final_stats=1
done
