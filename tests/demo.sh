#!/usr/bin/env bash
# Plays a film through worker, mount and cartridge on this machine and takes everything down again.
#
#   tests/demo.sh            with a clip that ffmpeg makes
#   MEDIA=/path tests/demo.sh  with a film of yours: its first video and its first audio stream
#
# A fake Plex Media Server starts the cartridge with a command line that a real one has used. The
# worker does not see the folder of the film; it gets it by the mount's media route.
#
#   MEDIA          the film [a clip of 30 s, 1920x1080]
#   DEMO_DIR       logs and what was played [.demo]
#   DEMO_PROFILE   debug or release programs [debug]
set -euo pipefail
cd "$(dirname "$0")/.."
repo=$PWD
out=${DEMO_DIR:-$repo/.demo}
profile=${DEMO_PROFILE:-debug}

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# ---- cleaning up -------------------------------------------------------------------------------

work='' worker='' mounter='' player=''

# Processes whose program lies in the work directory: the cartridge, as "Plex Transcoder".
of_demo() {
  find /proc -maxdepth 2 -name exe -lname "$work/*" 2>/dev/null | cut -d / -f 3
}

# Waits for a process for some tenths of a second, then kills it.
end() {
  local pid=$1 tenths=$2
  kill "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null && [ "$tenths" -gt 0 ]; do sleep 0.1; tenths=$((tenths - 1)); done
  kill -9 "$pid" 2>/dev/null || true
}

cleanup() {
  local rc=$? pid
  trap - EXIT
  trap '' INT TERM HUP
  [ -n "$work" ] || exit "$rc"
  [ -z "$player" ] || end "$player" 20
  for pid in $(of_demo); do kill -9 "$pid" 2>/dev/null || true; done
  [ -z "$mounter" ] || end "$mounter" 100
  if grep -qs " $work/transcode " /proc/self/mounts; then
    fusermount3 -uz "$work/transcode" 2>/dev/null || umount -l "$work/transcode" || true
  fi
  [ -z "$worker" ] || end "$worker" 100
  wait 2>/dev/null || true
  rm -rf "$work"
  if grep -qs " $work" /proc/self/mounts || [ -e "$work" ] || [ -n "$(of_demo)" ]; then
    echo "demo: something was left behind: $work" >&2
    [ "$rc" != 0 ] || rc=1
  else
    echo "cleaned up: no process, no mount and no temporary file of the demo is left"
  fi
  exit "$rc"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# ---- what is played ----------------------------------------------------------------------------

say "Building ($profile)"
build=(--locked -p plexbeam-worker -p plexbeam-mount -p plexbeam-cartridge -p plexbeam-tests --bins)
[ "$profile" = debug ] || build+=(--release)
"${CARGO:-cargo}" build "${build[@]}"
programs=${CARGO_TARGET_DIR:-$repo/target}/$profile

mkdir -p "$out"
out=$(realpath "$out")
rm -rf "$out/logs" "$out/played.mkv"
mkdir -p "$out/logs"
if [ -n "${MEDIA:-}" ]; then
  media=$(realpath -e -- "$MEDIA") || fail "MEDIA=$MEDIA: there is no such file"
else
  media=$out/media/clip.mkv
  if [ ! -s "$media" ]; then
    say "Making a clip: 30 s, 1920x1080, H.264 of 10 Mb/s, E-AC-3 5.1"
    mkdir -p "$out/media"
    ffmpeg -v error -nostdin -y \
      -f lavfi -i testsrc2=size=1920x1080:rate=24000/1001:duration=30 \
      -f lavfi -i sine=frequency=440:sample_rate=48000:duration=30 \
      -c:v libx264 -preset ultrafast -g 48 -bf 2 -b:v 10M -c:a eac3 -ac 6 "$media.part.mkv"
    mv "$media.part.mkv" "$media"
  fi
fi

ask() { ffprobe -v error -select_streams "$1" -show_entries "$2" -of default=nk=1:nw=1 -- "$media" 2>/dev/null | head -n 1; }
video=$(ask V:0 stream=index)
audio=$(ask a:0 stream=index)
[ -n "$video" ] && [ -n "$audio" ] || fail "$media: the demo needs a video and an audio stream"
seconds=$(ask V:0 format=duration)
rate=$(ask V:0 stream=r_frame_rate | awk -F/ '{ printf "%.3f", $1 / ($2 ? $2 : 1) }')
# The largest picture within 1280x720 that is not larger than the film's, divisible by four.
read -r width height < <(awk -v w="$(ask V:0 stream=width)" -v h="$(ask V:0 stream=height)" 'BEGIN {
  s = 1; if (1280 / w < s) s = 1280 / w; if (720 / h < s) s = 720 / h
  printf "%d %d\n", int(w * s / 4 + 0.5) * 4, int(h * s / 4 + 0.5) * 4 }')
codec() { case "$1" in ac3 | eac3 | truehd | mlp) echo "$1_eae" ;; *) echo "$1" ;; esac; }

work=$(mktemp -d "${TMPDIR:-/tmp}/plexbeam-demo.XXXXXX")
work=$(realpath "$work")
mkdir -p "$work/transcode" "$work/cache" "$work/spool" "$work/tmp" "$work/none" "$work/kept"

# sp-01 is what a server without a GPU sent: libx264, DASH of 3 s. What differs from film to film
# is put in as the server would.
line=$work/line.json
sed -n '/"id": *"sp-01"/{p;q}' tests/fixtures/commands.jsonl | sed \
  -e "s/w=2276:h=1280/w=$width:h=$height/" -e "s/\"23\.975999999999999\"/\"$rate\"/" \
  -e "s/\[0:0\]scale/[0:$video]scale/" -e "s/\[0:1\] aresample/[0:$audio] aresample/" \
  -e "s/\"-codec:0\", *\"libdav1d\"/\"-codec:$video\", \"$(ask V:0 stream=codec_name)\"/" \
  -e "s/\"-codec:1\", *\"eac3_eae\"/\"-codec:$audio\", \"$(codec "$(ask a:0 stream=codec_name)")\"/" \
  -e "s/\"-eae_prefix:1\"/\"-eae_prefix:$audio\"/" > "$line"
[ -s "$line" ] || fail "tests/fixtures/commands.jsonl has no line sp-01"

# ---- worker and mount --------------------------------------------------------------------------

# By the environment: arguments are visible to every user of a machine.
PLEXBEAM_API_KEY=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export PLEXBEAM_API_KEY

say "Starting the worker, which does not see the film"
serve=("$programs/plexbeam-worker" serve --listen 127.0.0.1:0 --address-file "$work/address"
  --spool "$work/spool" --hw none)
folder=$(dirname "$media")
hidden=no
inside() { case "$1/" in "$2"/*) return 0 ;; *) return 1 ;; esac; }
# As root: an empty folder in the place of the film's, for the worker alone. Not where that would
# hide the worker's own files.
if [ "$(id -u)" = 0 ] && [ "$folder" != / ] && ! inside "$work" "$folder" && ! inside "$programs" "$folder" \
  && unshare -m -- mount -t tmpfs tmpfs "$folder" 2>/dev/null; then
  hidden=yes
  # shellcheck disable=SC2016
  serve=(unshare -m -- sh -c 'mount -t tmpfs tmpfs "$1" && shift && exec "$@"' hide "$folder" "${serve[@]}")
else
  serve+=(--media-root "$work/none")
fi
"${serve[@]}" > "$out/logs/worker.log" 2>&1 &
worker=$!

# Waits for a condition, at most 60 s, as long as the process lives.
until_ready() {
  local pid=$1 log=$2 n=0
  shift 2
  until "$@"; do
    kill -0 "$pid" 2>/dev/null || { tail -n 5 "$log" >&2; fail "it ended; its log is $log"; }
    [ "$n" -lt 600 ] || fail "not ready within 60 s; the log is $log"
    n=$((n + 1))
    sleep 0.1
  done
}
worker_ready() { [ -s "$work/address" ] && curl -fsS -m 2 -o /dev/null "http://$(cat "$work/address")/ready" \
  -H @<(echo "X-API-Key: $PLEXBEAM_API_KEY") 2>/dev/null; }
until_ready "$worker" "$out/logs/worker.log" worker_ready
url=http://$(cat "$work/address")
if [ "$hidden" = yes ]; then
  [ ! -e "/proc/$worker/root$media" ] || fail "the worker sees $media"
  echo "worker at $url; for it $folder is an empty folder"
else
  echo "worker at $url; it may read no file but those below an empty folder"
fi

say "Mounting"
"$programs/plexbeam-mount" "$work/transcode" --worker "$url" --cache-dir "$work/cache" --cache-size 512MiB \
  --export-media 127.0.0.1:0 --foreground > "$out/logs/mount.log" 2>&1 &
mounter=$!
mount_ready() { getfattr -n user.plexbeam.workers "$work/transcode" >/dev/null 2>&1; }
until_ready "$mounter" "$out/logs/mount.log" mount_ready
echo "mounted on $work/transcode; the film is offered to the worker by signed URLs"

# ---- the play ----------------------------------------------------------------------------------

say "Playing $(basename "$media") (${width}x$height, segments of 3 s)"
# An empty file, so that settings of this machine do not count; a local job would be a fault here.
: > "$work/cartridge.toml"
status=0
env TMPDIR="$work/tmp" PLEXBEAM_CONFIG="$work/cartridge.toml" PLEXBEAM_LOG_DIR="$out/logs/cartridge" \
  PLEXBEAM_ORIGINAL=/bin/false PLEXBEAM_FALLBACK_TO_LOCAL=false \
  "$programs/fake-pms" --mount "$work/transcode" --cartridge "$programs/plexbeam-cartridge" \
  --argv "$line" --media "$media" --keep "$work/kept" &
player=$!
# A shell that waits takes signals at once.
wait "$player" || status=$?
player=''
[ "$status" = 0 ] || fail "the fake Plex Media Server found fault (exit $status); see $out/logs"

say "Checking what was read"
kept=$work/kept/0
for stream in 0 1; do
  cat "$kept/init-stream$stream.m4s" "$kept"/chunk-stream"$stream"-*.m4s > "$work/$stream.mp4"
done
errors=$(ffmpeg -v error -nostdin -xerror -i "$work/0.mp4" -i "$work/1.mp4" -map 0:v -map 1:a -f null - 2>&1) \
  || fail "ffmpeg cannot decode it: $errors"
[ -z "$errors" ] || fail "ffmpeg decodes it with errors: $errors"
ffmpeg -v error -nostdin -y -i "$work/0.mp4" -i "$work/1.mp4" -map 0:v -map 1:a -c copy "$out/played.mkv"
length=$(ffprobe -v error -show_entries format=duration -of default=nk=1:nw=1 "$out/played.mkv")
awk -v a="$length" -v b="$seconds" 'BEGIN { d = a - b; exit !(d < 1 && d > -1) }' \
  || fail "the film is $seconds s long, $length s were played"
echo "ffmpeg decodes all of it without a message: $length s of $seconds s"

say "Where to look"
cat <<END
what was played     $out/played.mkv
the worker's log    $out/logs/worker.log
the mount's log     $out/logs/mount.log
the cartridge's log $out/logs/cartridge/master.log and sessions/
END
