#!/usr/bin/env bash
# Times PlexBeam against other programs, with optimised programs and the static cartridge that Plex
# hosts get. Arguments go to the program (`tests/bench.sh --help`), e.g. --only engine, --rounds 5 or
# --save.
#
# Ratios say something on any machine; run it where nothing else is busy all the same.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
"$cargo" build --locked --release -p plexbeam-worker -p plexbeam-mount -p plexbeam-tests --bins
cartridge=$(${MAKE:-make} --no-print-directory cartridge-static | tail -n 1)
exec "${CARGO_TARGET_DIR:-target}/release/bench" --cartridge "$cartridge" "$@"
