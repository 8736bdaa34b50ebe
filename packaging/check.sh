#!/usr/bin/env bash
# Checks what is packaged, as far as this machine can: packaging/check.sh <tidegate>
#
# The configuration of the unit by the gateway itself; the unit by systemd-analyze, where there is one.
set -euo pipefail

gateway=$(realpath "$1")
cd "$(dirname "$0")"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# A reload reads secrets again, so they are no copies that systemd makes at a start; and both guides make
# the file that the configuration names.
secret=$(sed -n 's/^secret_file = "\(.*\)"$/\1/p' systemd/tidegate.toml)
! grep -q '^LoadCredential' systemd/tidegate.service || { echo "packaging: LoadCredential= is not read again at a reload" >&2; exit 1; }
for guide in README.md ../docs/operations.md; do
  grep -qx "install -o root -g tidegate -m 0640 /dev/null $secret" $guide || { echo "packaging: $guide does not make $secret" >&2; exit 1; }
done

openssl rand -base64 48 > "$dir/token-secret"
sed -e "s#/etc/tidegate/#$dir/#" -e "s#/var/lib/tidegate#$dir/data#" systemd/tidegate.toml > "$dir/tidegate.toml"
"$gateway" config check --config "$dir/tidegate.toml"

if ! command -v systemd-analyze >/dev/null; then
  echo "packaging: no systemd-analyze here; the unit was not looked at"
  exit 0
fi
# It looks whether what the unit starts is there.
sed "s#/usr/bin/tidegate#$gateway#" systemd/tidegate.service > "$dir/tidegate.service"
# What it does not know it tells, and calls it a success.
told=$(systemd-analyze verify "$dir/tidegate.service" 2>&1) || { echo "$told" >&2; exit 1; }
[ -z "$told" ] || { echo "$told" >&2; exit 1; }
# In tenths of its score, from 0 to 100; the lower the tighter.
systemd-analyze security --offline=yes --threshold=15 --no-pager "$dir/tidegate.service" | tail -n 1
# It stops before systemd loses its patience, and has room for the files that it may open.
seconds() { sed -n "s/^$1=\([0-9]*\)s$/\1/p" systemd/tidegate.service; }
window=$(sed -n 's/^window = "\([0-9]*\)s"$/\1/p' systemd/tidegate.toml)
[ "$(seconds TimeoutStopSec)" -ge $((window + 10)) ] || { echo "TimeoutStopSec is too short for drain.window" >&2; exit 1; }
files=$(sed -n 's/^LimitNOFILE=//p' systemd/tidegate.service)
connections=$(sed -n 's/^connections = \(.*\)$/\1/p' systemd/tidegate.toml | tr -d _)
[ "$files" -ge $((connections + 4096 + 2048)) ] || { echo "LimitNOFILE is too low for limits.connections" >&2; exit 1; }
