#!/usr/bin/env bash
# Follows docs/operations.md as a newcomer would: runs every marked block as it is, from a machine without
# Tidegate to an HTTPS gateway behind nginx, then keys, upgrades and backups.
#
#   tests/operations.sh docs/operations.md target/debug/tidegate     (as root)
#
# It runs in its own namespaces: changes to /etc, /var and /usr/local/bin disappear with them, its ports are
# those of a separate network, and no process stays behind. Parts that are impossible in a test are replaced
# by functions: apt-get and cargo have run before, and systemd is replaced by the unit's own commands.
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

# A separate machine, as far as files and ports are concerned.
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

# The blocks with their names; every block must have a mark.
script=$scratch/script.sh
awk '
  /^<!-- run: / { name = $0; sub(/^<!-- run: /, "", name); sub(/ -->$/, "", name); next }
  /^```sh$/ {
    if (name == "") { print "operations: line " NR " begins a block that nothing runs" > "/dev/stderr"; exit 1 }
    printf "block \"%s\"\n", name; inside = 1; next
  }
  /^```$/ && inside { printf "ended \"%s\"\n", name; inside = 0; name = ""; next }
  inside { print }
' "$text" > "$scratch"/blocks.sh
blocks=$(grep -c '^block ' "$scratch"/blocks.sh)
[ "$blocks" -ge 14 ] || { echo "operations: too few blocks in $text" >&2; exit 1; }

# Everything that is mentioned but does not exist is listed, and then this run fails.
lacking() { echo "operations: there is no $1" >&2; touch "$scratch"/lacking; }
export -f lacking
export text

# The bounds table of security.md must be the gateway's, complete and with the same defaults.
awk '
  /^### `(limits|dedup\.max|tail\.(org_)?max|log\.max)/ { gsub(/[#` ]/, ""); key = $0 }
  /^- Default: / && key != "" { sub(/^- Default: /, ""); gsub(/[`"_]/, ""); print "| `" key "` | " $0 " |"; key = "" }
' <<<"$reference" > "$scratch"/bounds
[ "$(wc -l < "$scratch"/bounds)" -ge 30 ] || { echo "operations: too few bounds in the reference" >&2; exit 1; }
sed 's/\([0-9]\),/\1/g' "$checkout/docs/security.md" | tr -d _ > "$scratch"/security
while read -r row; do
  grep -qF "$(tr -d _ <<<"$row")" "$scratch"/security || { echo "operations: docs/security.md lacks $row" >&2; exit 1; }
done < "$scratch"/bounds

# The log lines that operations.md explains must be those that the gateway writes at warn and above, all of
# them except those of `tidegate dev`. For a line that ends with a value, the table has its beginning.
said=$(sed -n '/^| line | means/,$p' "$text" | grep '^| `' | cut -d'|' -f2 | grep -oE '`[^`]+`' | tr -d '`')
perl -0777 -ne '
  s/\\\n\s*//g;
  while (/tracing::(?:warn|error)!(\((?:[^()"]++|"(?:[^"\\]|\\.)*"|(?1))*\))/g) {
    # The message is the longest text in there.
    my ($line) = sort { length $b <=> length $a } $1 =~ /"((?:[^"\\]|\\.)*)"/g;
    print "$line\n" if $line !~ /made-up|make up/;
  }' $(find "$checkout"/crates/tidegate-{server,engine,core}/src -name '*.rs') > "$scratch"/lines
[ "$(wc -l < "$scratch"/lines)" -ge 30 ] || { echo "operations: too few log lines in the sources" >&2; exit 1; }
while read -r line; do grep -qF "$line" "$scratch"/lines || lacking "log line that says: $line"; done <<<"$said"
while read -r line; do
  while read -r known; do [[ $line != *"$known"* ]] || continue 2; done <<<"$said"
  lacking "word in $text on the log line: $line"
done < "$scratch"/lines

# Keys, files, test programs and anchors that the documents name must exist.
for document in "$text" "$checkout/docs/security.md" "$checkout/packaging/README.md" "$checkout/README.md"; do
  at=${document##*/}
  for key in $(grep -oE '`(listen|node|log|dedup|auth|tail|ping|slow|drain|logs|limits\.org|limits)\.[a-z_]+' "$document" | tr -d '`' | sort -u); do
    grep -qF "### \`$key\`" <<<"$reference" || lacking "key $key ($at)"
  done
  # Files of this repository, relative to its root or to the usual folder of their kind.
  for file in $(grep -oE '`([a-z0-9_.-]+/)*[a-z0-9_-]+\.(rs|mjs|sh|conf|service|toml)`' "$document" | tr -d '`' | sort -u); do
    case $file in log.dir/* | keys.toml | */dev.toml | dev.toml | tidegate.toml) continue ;; esac  # of an installation
    for root in . packaging tests tests/npm crates/tidegate-server/tests crates/tidegate-server/src; do
      [ ! -f "$checkout/$root/$file" ] || continue 2
    done
    lacking "file $file ($at)"
  done
  for audit in $(grep -oE '`tidegate-audit [a-z]+' "$document" | cut -d' ' -f2 | sort -u); do
    grep -qF "\"\$audit\" $audit " "$checkout/test" || lacking "stage of tidegate-audit $audit ($at)"
  done
  for link in $(grep -oE '\]\([^)]+\)' "$document" | sed 's/^](//; s/)$//' | grep -v '^https\?:' | sort -u); do
    file=${link%%#*} anchor=${link#"${link%%#*}"}
    file=${file:+$(dirname "$document")/$file}
    [ -e "${file:=$document}" ] || { lacking "file $link ($at)"; continue; }
    # As GitHub makes them: lower case, no punctuation, dashes for spaces.
    [ -z "$anchor" ] || grep '^#' "$file" | sed 's/^#* //' | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9 _\n-' | tr ' ' - |
      grep -qxF -- "${anchor#\#}" || lacking "heading $link ($at)"
  done
done

cat > "$script" <<'EOF_PREAMBLE'
set -euo pipefail
journal=/var/log/tidegate.journal
unit=/etc/systemd/system/tidegate.service
url=https://gateway.example.com/v1/orgs/acme
ca=/etc/tidegate/tls/fullchain.pem
fail() { echo "operations: $*" >&2; exit 1; }
hook() { if declare -F "${1// /_}" >/dev/null; then "${1// /_}"; fi; }
block() { echo "-- $1"; hook "before_$1"; }
ended() { hook "after_$1"; }
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
  # Only nginx is reachable from outside.
  ! ss -ltnH | awk '{ print $4 }' | grep -vE '^(127\.0\.0\.1:(8080|8081)|(0\.0\.0\.0|\[::\]):(80|443))$' || fail "something else listens"
  [ "$(curl -sS --cacert "$ca" -o /dev/null -w '%{http_code}' https://gateway.example.com/metrics)" = 404 ] || fail "metrics are shown outside"
  answer "$KEY" '{"service":"finance","event":"invoice.paid","id":"inv-42","data":{"amount":"1200.00"}}' '"duplicate":true' || fail "an id is stored twice"
}
after_watch() {
  local many name
  # A refusal is counted under the key of its limit.
  many=$(printf '{"service":"finance","event":"e","data":1},%.0s' {1..1001})
  answer "$KEY" "[${many%,}]" '"limit":"limits.events_per_batch"' || fail "a batch over the bound is let in"
  curl -fsS http://127.0.0.1:8081/metrics > /run/metrics
  grep -q '^tidegate_refusals_total{limit="limits.events_per_batch"} 1$' /run/metrics || fail "the refusal is not counted"
  # Those of single orgs are there once metrics.health_orgs lists some, or one is near a quota.
  for name in $(grep -oE '\b(tidegate|process)_[a-z_]+' "$text" | sed -E 's/_(total|bucket|count)$//' | grep -vE '^tidegate_(client_org|org_quota)_' | sort -u); do
    grep -qE "^# TYPE $name(_total)? " /run/metrics || lacking "metric $name"
  done
}
after_quotas() {
  grep -q '"quota":"connections","limit":50000,"used":1,"set_by":"operator"' "$scratch"/out || fail "the quota is not shown"
  ! grep -q '"operator"' <(curl -fsS http://127.0.0.1:8081/v1/orgs/acme/quotas) || fail "a quota that was taken back holds"
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
  grep -q '^tidegate_config_rereads_total{outcome="taken"} 1$' <(curl -fsS http://127.0.0.1:8081/metrics) || fail "the reread is not counted"
  grep -q 'the configuration is taken over' "$journal" || fail "the log does not tell of the reread"
}
before_connections() {
  curl -sN --cacert "$ca" "$url/stream" -H "Authorization: Bearer $TOKEN" > /run/stream &
  reader=$!
  open() { grep -q '"type":"hello"' /run/stream; }
  until_true "a stream" open
}
after_connections() {
  wait "$reader" || true
  grep -q '"code":"revoked"' /run/stream || fail "a stream that was closed is not told"
}
after_upgrade() { cursor "$TOKEN" >/dev/null || fail "the stream is not there after an upgrade"; }
after_backup() {
  # An event that is not in the backup, and a reader that has seen it.
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
before_damage() {
  # A bit of an event that was acknowledged.
  segment=$(grep -l inv-42 /var/lib/tidegate/segments/*.seg | head -n 1)
  printf X | dd of="$segment" bs=1 seek="$(grep -abo inv-42 "$segment" | head -n 1 | cut -d: -f1)" conv=notrunc status=none
}
after_damage() {
  [ -n "$(ls /var/lib/tidegate/damaged)" ] || fail "a repair keeps no copy of what was damaged"
  [ "$(stat -c %U "$segment")" = tidegate ] || fail "a repaired segment does not belong to the gateway's user"
  grep -q 'in use by another process' <(runuser -u tidegate -- tidegate log check --config /etc/tidegate/tidegate.toml 2>&1) || fail "a log in use is checked"
  answer "$KEY" '{"service":"finance","event":"e","data":1}' '"duplicate":false' || fail "publish after a repair"
}
EOF_PREAMBLE
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
for wanted in '"duplicate":false' '"event":"invoice.paid"' '"ready":true' 'tidegate_connections{' '"user":"alice"' '{"closed":1}'; do
  grep -qF "$wanted" "$scratch"/out || { echo "operations: the output lacks $wanted" >&2; exit 1; }
done
ran=$(grep -c '^-- ' "$scratch"/out)
[ "$ran" -eq "$blocks" ] || { echo "operations: of $blocks blocks ran $ran" >&2; exit 1; }
[ ! -e "$scratch"/lacking ] || { echo "operations: the documents speak of what is not there" >&2; exit 1; }
echo "ok operations: $blocks blocks"
