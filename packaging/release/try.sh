#!/usr/bin/env bash
# Runs a binary that was just built: packaging/release/try.sh <tidegate> [runner | --not-static]
#
# It must be static, serve, take an event, keep it over a restart, and stop cleanly. The runner is qemu for an
# architecture that this machine has not. With --not-static it may need the libraries of this machine.
set -euo pipefail

binary=$(realpath "$1")
run=("$binary")
static=1
case ${2:-} in
  --not-static) static= ;;
  ?*) run=("$2" "$binary") ;;
esac
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || :; rm -rf "$dir"' EXIT
fail() { echo "release: $binary: $*" >&2; cat "$dir/log" >&2 2>/dev/null || :; exit 1; }

# A static binary names no interpreter (program header 3, PT_INTERP).
[ -z "$static" ] || python3 - "$binary" <<'E_PY' || fail "is not static"
import struct, sys
elf = open(sys.argv[1], 'rb').read()
at, size, count = struct.unpack_from('<Q', elf, 32)[0], *struct.unpack_from('<HH', elf, 54)
sys.exit(any(struct.unpack_from('<I', elf, at + size * n)[0] == 3 for n in range(count)))
E_PY

"${run[@]}" version || fail "does not run"
cd "$dir"
start() {
  # The answer of an earlier start must not be taken for that of this one.
  rm -f said
  "${run[@]}" dev --json --no-feed --listen 127.0.0.1:0 >said 2>log &
  pid=$!
  for _ in $(seq 600); do
    kill -0 "$pid" 2>/dev/null || fail "ended"
    [ ! -s said ] || break
    sleep 0.1
  done
  url=$(sed -n 's/.*"url":"\([^"]*\)".*/\1/p' said)
  [ -n "$url" ] || fail "is not ready after a minute"
}
stop() {
  kill -TERM "$pid"
  wait "$pid" || fail "ended with $?"
  pid=
}
# Org and key are those of the development directory.
send() { "${run[@]}" publish --json --url "$url" --service release --event tried --id once --data '{"ok":true}'; }
start
send || fail "takes no event"
stop
start
send > again || fail "takes no event after a restart"
grep -q '"duplicates":1' again || { cat again >&2; fail "has forgotten the event over a restart"; }
stop
