#!/usr/bin/env bash
# The fuzz bodies under LLVM's libFuzzer, coverage-guided: run.sh SECONDS_PER_BODY [BODY…]
#
# Needs a stable Rust toolchain and a C++ compiler (c++ of GCC or clang; CXX names another), nothing
# else: no nightly, no cargo-fuzz, no sanitizer. The first build takes a few minutes and goes to its own
# folder below target/, for everything is built with counters in it.
#
# Each body starts from its corpus (tests/fuzz/corpus) and from what earlier runs have found
# (target/fuzz/found, which may be deleted). An input that breaks a law, takes too long or too much
# memory is kept in target/fuzz/crashes, and its path printed; the other bodies run all the same. Again:
#   cargo run -p fuzz-bodies -- replay BODY FILE
#
# Exit status: 0 all laws hold, 1 one is broken, 2 it could not be built.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
seconds=${1:?run.sh SECONDS_PER_BODY [BODY…]}
shift
bodies=("$@")
if [ ${#bodies[@]} = 0 ]; then
    # Each body has a corpus of its name; the replay test sees to it.
    for folder in "$here"/corpus/*/; do bodies+=("$(basename "$folder")"); done
fi

if ! command -v "${CXX:-c++}" >/dev/null; then
    echo 'run.sh: a C++ compiler is missing: sudo apt-get install g++' >&2
    exit 2
fi

# With a target named, build scripts and macros are built without counters.
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Ccodegen-units=1
    -Cdebug-assertions
    -Coverflow-checks
)
RUSTFLAGS=${flags[*]} CARGO_TARGET_DIR=$target/fuzz/build cargo build --locked --release \
    --manifest-path "$root/Cargo.toml" --package fuzz-bodies --features libfuzzer \
    --bin fuzz-libfuzzer --target "$host" || exit 2
fuzzer=$target/fuzz/build/$host/release/fuzz-libfuzzer

broken=()
mkdir -p "$target/fuzz/crashes" "$target/fuzz/logs"
for body in "${bodies[@]}"; do
    found=$target/fuzz/found/$body
    log=$target/fuzz/logs/$body.log
    mkdir -p "$found"
    status=0
    FUZZ_BODY=$body "$fuzzer" "$found" "$here/corpus/$body" -dict="$here/words.dict" \
        -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=1024 \
        -artifact_prefix="$target/fuzz/crashes/$body-" -print_final_stats=1 -verbosity=1 \
        >"$log" 2>&1 || status=$?
    summary=$(grep -E '^#[0-9]+.*cov: ' "$log" | tail -n 1 | tr '\t' ' ' || true)
    printf '%-12s %s\n' "$body" "${summary:-no input was tried}"
    if [ "$status" != 0 ]; then
        broken+=("$body")
        grep -E 'panicked at|ERROR: |Test unit written|no body' -A 4 "$log" | head -n 20 | cut -c 1-500 || true
    fi
done
if [ ${#broken[@]} != 0 ]; then
    echo "broken: ${broken[*]} (see $target/fuzz/crashes and $target/fuzz/logs)" >&2
    exit 1
fi
