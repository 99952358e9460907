# What README and .ci/run call. `make demo` and `make test` do all the set-up themselves on a fresh
# Debian 12 with Rust.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

# Where Debian's packages have to be: a linker, libav for the worker, clang for bindgen, fuse3 for the
# mount helper, the rest for the tests.
PACKAGES := gcc binutils libc6-dev pkg-config clang libclang-dev libavcodec-dev libavformat-dev libavfilter-dev libavutil-dev \
  libswscale-dev libswresample-dev libass-dev ffmpeg fuse3 attr curl procps iproute2 mesa-vulkan-drivers
# The browser test needs these; they are large, and only `make test` asks for them.
BROWSER_PACKAGES := chromium nodejs

CARGO ?= cargo
STAMP := target/.setup
STATIC_TARGET := $(shell uname -m)-unknown-linux-gnu

.PHONY: help setup setup-browser build test golden lint demo corpus fuzz bench torture chaos cartridge-static clean-media

help: ## Say what can be made.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

setup: $(STAMP) ## Install what is missing of Debian's packages (sudo only when not root).

$(STAMP): Makefile
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' "$$p" 2>/dev/null | grep -q 'ok installed' || echo "$$p"; done); \
	if [ -n "$$missing" ]; then \
	  if ! command -v apt-get >/dev/null; then \
	    echo "make setup knows Debian only; please install:" $$missing >&2; exit 1; fi; \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq </dev/null; \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing </dev/null; \
	fi
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing; see https://rustup.rs" >&2; exit 1; }
	@mkdir -p $(@D); touch $@

setup-browser: setup ## Install what the browser test needs.
	@missing=$$(for p in $(BROWSER_PACKAGES); do dpkg-query -W -f '$${Status}' "$$p" 2>/dev/null | grep -q 'ok installed' || echo "$$p"; done); \
	if [ -n "$$missing" ]; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq </dev/null; \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing </dev/null; \
	fi
	@tests/browser/setup.sh

build: setup ## Build every program (debug).
	$(CARGO) build --locked --workspace --bins

# The end-to-end tests start the programs that `build` made.
test: setup setup-browser build ## Run all tests.
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(CARGO) nextest run --locked --workspace; \
	else \
	  $(CARGO) test --locked --workspace -- --test-threads=2; \
	fi
	$(CARGO) test --locked --workspace --doc

golden: setup ## Write the table of what leaves the Plex host anew (read the difference before committing it).
	PLEXBEAM_GOLDEN=write $(CARGO) test --locked -q -p plexbeam-cartridge --test classification
	@git --no-pager diff --stat cartridge/tests/classification/table.txt

lint: setup ## Formatting, clippy and documentation, warnings denied.
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

demo: setup ## Play a film through worker, mount and cartridge (MEDIA=/path to take your own).
	tests/demo.sh

corpus: build ## Judge all recorded command lines and their like against ffmpeg (CORPUS="names" for some).
	"$${CARGO_TARGET_DIR:-target}/debug/corpus" $(CORPUS)

fuzz: build ## Hostile films against a worker, then cargo fuzz (FUZZ_FILES, FUZZ_SECONDS; bounded).
	tests/fuzz.sh

bench: setup ## Print ratios against ffmpeg and compare them with the baseline.
	tests/bench.sh

torture: setup ## Long runs: fsx, pjdfstest, faults, many sessions, minutes of silence, seeks at random, throttling.
	@if ! command -v fsx >/dev/null || ! command -v pjdfstest >/dev/null; then \
	  dpkg-query -W libacl1-dev >/dev/null 2>&1 || { sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	    $$sudo apt-get update -qq </dev/null; $$sudo apt-get install -y -qq --no-install-recommends libacl1-dev </dev/null; }; \
	  $(CARGO) install --locked fsx pjdfstest; \
	fi
	$(CARGO) test --locked -p plexbeam-fusefs --test mount torture:: -- --ignored --nocapture --test-threads=1
	PLEXBEAM_ROUNDS=40 $(CARGO) test --locked -p plexbeam-worker --test pipeline again::p7_any -- --nocapture
	$(CARGO) test --locked -p plexbeam-cartridge --test playback torture_ -- --ignored
	$(CARGO) build --locked --workspace --bins
	$(CARGO) test --locked -p plexbeam-tests --test e2e torture_ -- --ignored --nocapture

chaos: setup ## Updates of Plex while transcodes start; the mount killed, frozen, aborted and upgraded, 20 times each.
	PLEXBEAM_CHAOS_ROUNDS=3000 $(CARGO) test --locked -p plexbeam-cartridge --test admin race:: -- --nocapture
	PLEXBEAM_ROUNDS=20 $(CARGO) test --locked -p plexbeam-mount --test life -- --nocapture --test-threads=1

cartridge-static: setup ## The cartridge as Plex hosts need it: static, optimised.
	RUSTFLAGS="-C target-feature=+crt-static" CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=symbols \
	  CARGO_PROFILE_RELEASE_LTO=thin CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1 $(CARGO) build --locked --release -p plexbeam-cartridge \
	  --target $(STATIC_TARGET) --target-dir target/static
	@echo "target/static/$(STATIC_TARGET)/release/plexbeam-cartridge"

clean-media: ## Forget the clips that the tests made.
	rm -rf target/plexbeam-media
