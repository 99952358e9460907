#!/usr/bin/env bash
# Hostile input, bounded: mutated films against a running worker, then each target of `cargo fuzz`
# for FUZZ_SECONDS (60). FUZZ_FILES is the number of films (1000), FUZZ_SEED the seed of the mutations.
# Without cargo-fuzz that half is left out, in plain words.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
seconds=${FUZZ_SECONDS:-60}

"$target/debug/hostile" --files "${FUZZ_FILES:-1000}" ${FUZZ_SEED:+--seed "$FUZZ_SEED"}

if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is not there (cargo install cargo-fuzz): its targets were NOT run" >&2
  exit 0
fi
# Sanitizers are unstable options of the compiler.
if rustup run nightly rustc --version >/dev/null 2>&1; then
  nightly=+nightly
else
  nightly=
  export RUSTC_BOOTSTRAP=1
fi
seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
"$target/debug/hostile" --write-seeds "$seeds"
cd tests/fuzz
# shellcheck disable=SC2086 # no word where there is no nightly toolchain
for name in $(cargo $nightly fuzz list); do
  mkdir -p "corpus/$name" "$seeds/$name"
  echo "== $name, $seconds s"
  env -u CARGO_TARGET_DIR cargo $nightly fuzz run "$name" "corpus/$name" "$seeds/$name" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0
done
