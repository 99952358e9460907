#!/usr/bin/env bash
# Fetches hls.js for the browser test into target/browser, unless it is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=1.7.4
file=target/browser/hls.min.js
[ ! -s "$file" ] || exit 0
if ! command -v npm >/dev/null; then
  sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq </dev/null
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm </dev/null
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "hls.js@$version" >/dev/null && tar -xzf ./*.tgz package/dist/hls.min.js package/LICENSE)
mkdir -p "$(dirname "$file")"
mv "$work/package/LICENSE" target/browser/hls.LICENSE
mv "$work/package/dist/hls.min.js" "$file"
