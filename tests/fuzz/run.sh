#!/bin/sh
# Fuzzes each target for a number of seconds, 600 by default: tests/fuzz/run.sh [SECONDS] [TARGET...]
#
# Needs cargo-fuzz (cargo install cargo-fuzz --locked) and a C++ compiler. What it builds and
# finds goes to target/fuzz; a find fails the script, and its input is kept there.
set -eu
cd "$(dirname "$0")/../.."

seconds=${1:-600}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- document event request

for target; do
    corpus=target/fuzz/corpus/$target
    artifacts=target/fuzz/artifacts/$target/
    mkdir -p "$corpus" "$artifacts"
    case $target in
        document) cp examples/draft_content.json "$corpus" ;;
        event) cp events/*.json "$corpus" ;;
    esac
    echo "== $target"
    # Without a sanitizer: there is no unsafe code here for it to look at, and so stable Rust
    # will do. Standard output is the function's log.
    cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz --target-dir target/fuzz "$target" "$corpus" -- \
        -max_total_time="$seconds" -max_len=16384 -timeout=10 -rss_limit_mb=2048 \
        -dict=tests/fuzz/words.dict -artifact_prefix="$artifacts" -print_final_stats=1 >/dev/null
done
