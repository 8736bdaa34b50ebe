#!/usr/bin/env bash
# Follows docs/operations.md as a stranger would: every block that is marked there, as it stands, from a
# machine without Tidegate to an HTTPS gateway behind nginx, and through its keys, upgrades and backups.
#
#   tests/operations.sh docs/operations.md target/debug/tidegate     (as root)
#
# It runs in namespaces of its own: what it writes to /etc, /var and /usr/local/bin is gone with them,
# its ports are those of a network with nothing else in it, and no process of it stays behind. What a
# stage of a test cannot do is done by functions that say so: apt-get and cargo have run before, and
# systemd is here only what the unit says to it.
set -euo pipefail

if [ "${1:-}" != inside ]; then
  text=$(realpath "${1:-docs/operations.md}")
  program=$(realpath "${2:-target/debug/tidegate}")
  unshare --mount --net true || {
    echo "operations: it runs in namespaces, which takes root, and a container that allows it" >&2
    exit 1
  }
  scratch=$(mktemp -d)
  trap 'rmdir "$scratch"' EXIT
  unshare --mount --net --pid --fork --kill-child --mount-proc "$0" inside "$text" "$program" "$scratch"
  exit
fi
text=$2
program=$3
export scratch=$4
checkout=$(dirname "$(dirname "$(realpath "$0")")")

# A machine of its own, as far as files and ports go.
mount -t tmpfs -o mode=0755 tmpfs "$scratch"
for place in /etc /var/lib /var/log /var/backups /usr/local/bin /run; do
  mkdir -p "$scratch/machine$place"
done
cp -a /etc/. "$scratch"/machine/etc/
mkdir -p "$scratch"/machine/var/lib/nginx "$scratch"/machine/var/log/nginx
for place in /etc /var/lib /var/log /var/backups /usr/local/bin /run; do
  mount --bind "$scratch/machine$place" "$place"
done
rm -f /etc/nginx/conf.d/*
ip link set lo up
mkdir -p "$scratch"/checkout/target/release
cp -r "$checkout/packaging" "$scratch"/checkout/packaging
cp "$program" "$scratch"/checkout/target/release/tidegate
cd "$scratch"/checkout
reference=$("$program" config reference)

# The blocks, each with its name and what it needs of the gateway; none may be without a mark.
script=$scratch/script.sh
awk '
  /^<!-- run: / { mark = $0; sub(/^<!-- run: /, "", mark); sub(/ -->$/, "", mark); next }
  /^```sh$/ {
    if (mark == "") { print "operations: line " NR " begins a block that nothing runs" > "/dev/stderr"; exit 1 }
    name = needs = mark; sub(/;.*/, "", name); if (!sub(/.*; needs: /, "", needs)) needs = ""
    printf "if block \"%s\" \"%s\"; then\n", name, needs; inside = 1; mark = ""; next
  }
  /^```$/ && inside { printf "ended \"%s\"\nfi\n", name; inside = 0; next }
  inside { print }
' "$text" > "$scratch"/blocks.sh
[ "$(grep -c '^if block' "$scratch"/blocks.sh)" -ge 12 ] || { echo "operations: too few blocks in $text" >&2; exit 1; }

# TODO(merge): what is spoken of and not there yet is told of, until all of it is in one tree; then: exit 1.
lacking() { echo "operations: the gateway lacks $1" >&2; }
export -f lacking
export text

# The bounds that security.md lists are those of the gateway, all of them.
awk '
  /^### `(limits|dedup\.max|tail\.(org_)?max|log\.max)/ { gsub(/[#` ]/, ""); key = $0 }
  /^- Default: / && key != "" { sub(/^- Default: /, ""); gsub(/[`"_]/, ""); print "| `" key "` | " $0 " |"; key = "" }
' <<<"$reference" > "$scratch"/bounds
[ "$(wc -l < "$scratch"/bounds)" -ge 30 ] || { echo "operations: too few bounds in the reference" >&2; exit 1; }
sed 's/\([0-9]\),/\1/g' "$checkout/docs/security.md" | tr -d _ > "$scratch"/security
while read -r row; do
  grep -qF "$(tr -d _ <<<"$row")" "$scratch"/security || { echo "operations: docs/security.md lacks $row" >&2; exit 1; }
done < "$scratch"/bounds

# So are the log lines that operations.md speaks of.
cat "$checkout"/crates/*/src/{,*/,*/*/}*.rs 2>/dev/null | sed -z 's/\\\n *//g' > "$scratch"/sources
sed -n '/^| line | means/,$p' "$text" | grep '^| `' | cut -d'|' -f2 | grep -oE '`[^`]+`' | tr -d '`' | while read -r line; do
  grep -qF "$line" "$scratch"/sources || echo "$line"
done > "$scratch"/unsaid
while read -r line; do lacking "the log line: $line"; done < "$scratch"/unsaid

# TODO(merge): both go once listen.trusted_proxies and packaging/systemd are in the same tree.
grep -qF 'listen.trusted_proxies' <<<"$reference" || sed -i '/^trusted_proxies/d' "$scratch"/blocks.sh
if [ ! -f packaging/systemd/tidegate.service ]; then
  mkdir packaging/systemd
  printf '[Service]\nUser=tidegate\nExecStart=/usr/bin/tidegate serve --config /etc/tidegate/tidegate.toml\nStateDirectory=tidegate\n' > packaging/systemd/tidegate.service
fi

cat > "$script" <<'EOF_PREAMBLE'
set -euo pipefail
journal=/var/log/tidegate.journal
unit=/etc/systemd/system/tidegate.service
url=https://gateway.example.com/v1/orgs/acme
ca=/etc/tidegate/tls/fullchain.pem
fail() { echo "operations: $*" >&2; exit 1; }
block() { # name, what the gateway must know
  if [ -n "$2" ] && ! grep -qF "$2" "$scratch"/reference; then
    echo "-- $1: not run, for this gateway does not know \"$2\""
    return 1
  fi
  echo "-- $1"
}
ended() { local hook="after_${1// /_}"; if declare -F "$hook" >/dev/null; then "$hook"; fi; }
until_true() { # what, command...
  local what=$1 tries
  shift
  for tries in $(seq 600); do "$@" && return; sleep 0.1; done
  fail "waited in vain for $what"
}

apt-get() { echo "(installed before: $*)"; }
cargo() { echo "(built before: cargo $*)"; }
journalctl() { cat "$journal"; }
of() { sed -n "s/^$1=//p" "$unit" | tail -n 1; }
running() { [ -n "${pid:-}" ] && kill -0 "$pid" 2>/dev/null; }
ready() { running || { cat "$journal" >&2; fail "the gateway ended"; }; curl -fs -o /dev/null http://127.0.0.1:8081/readyz; }
start() {
  local user state command
  user=$(of User) state=$(of StateDirectory) command=$(of ExecStart)
  [ -z "$state" ] || install -d -o "$user" -g "$user" -m "$(of StateDirectoryMode | grep . || echo 0700)" "/var/lib/$state"
  # Copies of files that root alone may read, for the service alone; without them systemd starts nothing.
  while IFS=: read -r id file; do
    [ -z "$id" ] || install -D -o "$user" -g "$user" -m 0400 "$file" "/run/credentials/tidegate.service/$id"
  done < <(sed -n 's/^LoadCredential=//p' "$unit")
  # shellcheck disable=SC2086
  setpriv --reuid="$user" --regid="$user" --init-groups --no-new-privs $command >>"$journal" 2>&1 &
  pid=$!
  until_true "the gateway to be ready" ready
}
stop() { kill -TERM "$pid"; wait "$pid" || fail "the gateway ended with $?"; }
systemctl() {
  case "$*" in
    daemon-reload) ;;
    "enable --now tidegate" | "start tidegate") start ;;
    "stop tidegate") stop ;;
    "restart tidegate") stop; start ;;
    "reload tidegate") kill -HUP "$pid" ;;
    "restart nginx") nginx ;;
    *) fail "systemctl $* is not known here" ;;
  esac
}

publish() { curl -sS --cacert "$ca" "$url/events" -H "Authorization: Bearer $1" -H 'Content-Type: application/json' -d "$2"; }
answer() { # key, body, what the answer must hold
  local text
  text=$(publish "$1" "$2")
  [[ $text == *"$3"* ]]
}
cursor() { curl -fsS --cacert "$ca" "$url/cursor" -H "Authorization: Bearer $1"; }
mode() { stat -c '%a %U:%G' "$1"; }

after_start() {
  [ "$(ps -o user= -p "$pid")" = "$(of User)" ] || fail "the gateway does not run as its user"
}
after_first_event() {
  [ "$(mode /etc/tidegate/token-secret)" = "640 root:tidegate" ] || fail "the secret's mode is $(mode /etc/tidegate/token-secret)"
  [ "$(mode /var/lib/tidegate)" = "700 tidegate:tidegate" ] || fail "the directory's mode is $(mode /var/lib/tidegate)"
  [ "$(mode /var/lib/tidegate/keys.toml)" = "600 tidegate:tidegate" ] || fail "the keys' mode is $(mode /var/lib/tidegate/keys.toml)"
  # From outside there is nginx, and nothing else.
  ! ss -ltnH | awk '{ print $4 }' | grep -vE '^(127\.0\.0\.1:(8080|8081)|(0\.0\.0\.0|\[::\]):(80|443))$' || fail "something else listens"
  [ "$(curl -sS --cacert "$ca" -o /dev/null -w '%{http_code}' https://gateway.example.com/metrics)" = 404 ] || fail "metrics are shown outside"
  answer "$KEY" '{"service":"finance","event":"invoice.paid","id":"inv-42","data":{"amount":"1200.00"}}' '"duplicate":true' || fail "an id is stored twice"
}
after_watch() {
  local many name
  # One refusal, for its series comes with the first.
  many=$(printf '{"service":"finance","event":"e","data":1},%.0s' {1..1001})
  answer "$KEY" "[${many%,}]" '"limit":"limits.events_per_batch"' || fail "a batch over the bound is let in"
  curl -fsS http://127.0.0.1:8081/metrics > /run/metrics
  for name in $(grep -oE '\b(tidegate|process)_[a-z_]+' "$text" | sed -E 's/_(total|bucket|count)$//' | sort -u); do
    grep -q "^# TYPE $name " /run/metrics || lacking "the metric $name"
  done
}
after_keys() {
  refused() { answer "$OLD" '{"service":"finance","event":"e","data":1}' '"status":401'; }
  until_true "a revoked key to be refused" refused
  answer "$KEY" '{"service":"finance","event":"e","data":1}' '"duplicate":false' || fail "another key is refused"
}
after_rotate() {
  new=$(runuser -u tidegate -- tidegate token create --config /etc/tidegate/tidegate.toml --org acme --user alice --services '*' --kid 2026-12)
  taken() { cursor "$new" >/dev/null 2>&1; }
  until_true "a token by the new key to be taken" taken
  cursor "$TOKEN" >/dev/null || fail "a token by the old key is refused"
}
after_upgrade() { cursor "$TOKEN" >/dev/null || fail "the stream is not there after an upgrade"; }
after_backup() {
  # What the backup does not hold, and a reader that has seen it.
  answer "$KEY" '{"service":"finance","event":"after.backup","id":"later","data":1}' '"duplicate":false' || fail "publish after the backup"
  seen=$(cursor "$TOKEN" | sed 's/.*"cursor":"\([^"]*\)".*/\1/')
}
after_restore() {
  curl -fsS --cacert "$ca" "$url/events" -H "Authorization: Bearer $TOKEN" > /run/history
  grep -q inv-42 /run/history || fail "the restored log does not hold what was backed up"
  ! grep -q after.backup /run/history || fail "the restored log holds more than was backed up"
  local gap
  gap=$(grep -m1 '"type":"gap"' <(curl -sN --cacert "$ca" "$url/stream?cursor=$seen" -H "Authorization: Bearer $TOKEN"))
  [[ $gap == *'"reason":"epoch"'* ]] || fail "a reader that has seen more than the backup holds is not told"
}
EOF_PREAMBLE
echo "$reference" > "$scratch"/reference
cat "$scratch"/blocks.sh >> "$script"
cat >> "$script" <<'EOF_END'
for secret in "$KEY" "$TOKEN" "$(cat /etc/tidegate/token-secret)"; do
  ! grep -rqF "$secret" /var/log || fail "a log holds a secret"
done
nginx -s stop
stop
EOF_END

bash "$script" > "$scratch"/out 2>&1 || { cat "$scratch"/out; echo "--- the gateway's log ---"; cat /var/log/tidegate.journal; exit 1; }
cat "$scratch"/out
for wanted in '"duplicate":false' '"event":"invoice.paid"' '"ready":true' 'tidegate_connections{'; do
  grep -qF "$wanted" "$scratch"/out || { echo "operations: the output lacks $wanted" >&2; exit 1; }
done
echo "ok operations: $(grep -c '^-- ' "$scratch"/out) blocks, $(grep -c ': not run' "$scratch"/out || true) of them not run"
