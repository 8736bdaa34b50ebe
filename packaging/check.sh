#!/usr/bin/env bash
# Checks what is packaged, as far as this machine can: packaging/check.sh <tidegate>
#
# The gateway checks the unit's configuration; systemd-analyze checks the unit, if it is there.
set -euo pipefail

gateway=$(realpath "$1")
cd "$(dirname "$0")"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# A reload rereads secrets, so they must not be copies that systemd makes at a start. Both guides must create
# the file that the configuration names.
secret=$(sed -n 's/^secret_file = "\(.*\)"$/\1/p' systemd/tidegate.toml)
! grep -q '^LoadCredential' systemd/tidegate.service || { echo "packaging: LoadCredential= is not read again at a reload" >&2; exit 1; }
for guide in README.md ../docs/operations.md; do
  grep -qx "install -o root -g tidegate -m 0640 /dev/null $secret" $guide || { echo "packaging: $guide does not make $secret" >&2; exit 1; }
done

# The files that the packages take from here are there, and their scripts are shell.
for file in $(sed -n -e 's#.*src: ${STAGE}/\(systemd/.*\)#\1#p' -e 's#.*: packaging/\(release/.*\)#\1#p' release/nfpm.yaml); do
  [ -f "$file" ] || { echo "packaging: release/nfpm.yaml names $file, which is not there" >&2; exit 1; }
done
for script in release/*-*.sh; do sh -n "$script"; done
bash -n ../scripts/release
"$gateway" man > "$dir/tidegate.1"
grep -q '^\.TH tidegate 1' "$dir/tidegate.1" || { echo "packaging: there is no manual page" >&2; exit 1; }
release/try.sh "$gateway" --not-static
# What .dockerignore lets through is all that the image is built from: Cargo reads the workspace from it, and finds the
# licences that go with the binary: of a crate, of C sources in crates, of the standard library, of what is linked.
mkdir "$dir/context"
(cd .. && cp -r --parents $(sed -n 's/^!//p' .dockerignore) "$dir/context")
"$dir/context/scripts/notices" x86_64-unknown-linux-musl > "$dir/licences"
for holder in 'Tokio Contributors' 'Jason Evans' 'fiat-crypto authors' 'The Rust Project Developers (see' 'Rich Felker'; do
  grep -q "$holder" "$dir/licences" || { echo "packaging: scripts/notices prints no licence of $holder" >&2; exit 1; }
done

openssl rand -base64 48 > "$dir/token-secret"
sed -e "s#/etc/tidegate/#$dir/#" -e "s#/var/lib/tidegate#$dir/data#" systemd/tidegate.toml > "$dir/tidegate.toml"
"$gateway" config check --config "$dir/tidegate.toml"

if ! command -v systemd-analyze >/dev/null; then
  echo "packaging: no systemd-analyze here; the unit was not looked at"
  exit 0
fi
# It checks that the unit's binary exists.
sed "s#/usr/bin/tidegate#$gateway#" systemd/tidegate.service > "$dir/tidegate.service"
# It reports unknown settings, but exits with success.
told=$(systemd-analyze verify "$dir/tidegate.service" 2>&1) || { echo "$told" >&2; exit 1; }
[ -z "$told" ] || { echo "$told" >&2; exit 1; }
# In tenths of its score, from 0 to 100; lower is tighter.
systemd-analyze security --offline=yes --threshold=15 --no-pager "$dir/tidegate.service" | tail -n 1
# The gateway stops before systemd kills it, and has room for its files.
seconds() { sed -n "s/^$1=\([0-9]*\)s$/\1/p" systemd/tidegate.service; }
window=$(sed -n 's/^window = "\([0-9]*\)s"$/\1/p' systemd/tidegate.toml)
[ "$(seconds TimeoutStopSec)" -ge $((window + 10)) ] || { echo "TimeoutStopSec is too short for drain.window" >&2; exit 1; }
files=$(sed -n 's/^LimitNOFILE=//p' systemd/tidegate.service)
connections=$(sed -n 's/^connections = \(.*\)$/\1/p' systemd/tidegate.toml | tr -d _)
[ "$files" -ge $((connections + 4096 + 2048)) ] || { echo "LimitNOFILE is too low for limits.connections" >&2; exit 1; }
