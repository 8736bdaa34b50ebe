#!/usr/bin/env bash
# What loopback cannot show: clients that vanish without a word, over a network in which their packets are
# lost. Also clients that pool connections, around the end of the time for which the gateway keeps them.
#
#   tests/network.sh target/debug/tidegate     (as root)
#
# It runs in namespaces of its own, of which nothing stays behind.
set -euo pipefail

if [ "${1:-}" != inside ]; then
  program=$(realpath "${1:-target/debug/tidegate}")
  unshare --net true || {
    echo "network: it runs in namespaces, which takes root, and a container that allows it" >&2
    exit 1
  }
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  unshare --net --mount --pid --fork --kill-child --mount-proc "$0" inside "$program" "$dir"
  exit
fi
program=$2
dir=$3
here=$(dirname "$(realpath "$0")")
fail() {
  echo "network: $*" >&2
  [ ! -e "$dir"/log ] || tail -n 30 "$dir"/log >&2
  exit 1
}
until_true() { # what, command...
  local what=$1 tries
  shift
  for ((tries = 0; tries < 300; tries++)); do
    if "$@"; then return; fi
    sleep 0.1
  done
  fail "$what never came"
}

# The gateway is at 10.9.0.1, its clients at 10.9.0.2 in another namespace.
ip link set lo up
unshare --net sleep infinity &
clients=$!
other_namespace() { [ "$(readlink /proc/$clients/ns/net)" != "$(readlink /proc/self/ns/net)" ]; }
until_true "the clients' namespace" other_namespace
at_clients() { nsenter --net=/proc/$clients/ns/net "$@"; }
ip link add gateway type veth peer name clients netns $clients
ip addr add 10.9.0.1/24 dev gateway
ip link set gateway up
at_clients ip addr add 10.9.0.2/24 dev clients
at_clients ip link set clients up
# Both know each other's hardware, so that nothing but silence answers once the clients are gone.
hardware() { sed -n 's#.*link/ether \([0-9a-f:]*\).*#\1#p'; }
ip neigh replace 10.9.0.2 lladdr "$(at_clients ip link show clients | hardware)" dev gateway nud permanent

config=$dir/tidegate.toml
cat >"$config" <<EOF_TOML
[listen]
public = "10.9.0.1:8080"
admin = "10.9.0.1:8081"
[log]
dir = "$dir/data"
[[auth.keys]]
secret = "a secret that this test alone uses"
EOF_TOML
key=$("$program" key create --config "$config" --org acme --services '*' 2>"$dir"/log)
token=$("$program" token create --config "$config" --org acme --user ann --services '*')
at=http://10.9.0.1:8080/v1/orgs/acme
start() { # settings...
  local setting settings=()
  for setting; do settings+=(--set "$setting"); done
  "$program" serve --config "$config" "${settings[@]}" 2>"$dir"/log &
  gateway=$!
  ready() { curl -fsS http://10.9.0.1:8081/readyz >"$dir"/ready 2>&1; }
  until_true "the gateway" ready
}
stop() {
  kill -TERM $gateway
  wait $gateway || fail "the gateway ended with $?"
}
metric() { curl -fsS http://10.9.0.1:8081/metrics | sed -n "s/^$1 //p"; }

start limits.idle_timeout=4s limits.first_frame_timeout=2s
node "$here"/npm/pool.mjs "$at/events" "$key"
stop

# Pings come each second. Without TCP_USER_TIMEOUT the kernel would try for 15 minutes.
start ping.interval=1s ping.timeout=500ms limits.write_timeout=1s limits.first_frame_timeout=1s
at_clients curl -sN "$at/stream" -H "Authorization: Bearer $token" >"$dir"/http1 &
at_clients curl -sN --http2-prior-knowledge "$at/stream" -H "Authorization: Bearer $token" >"$dir"/http2 &
# An operator's connection that stays open after its answer.
at_clients bash -c 'exec 5<>/dev/tcp/10.9.0.1/8081
  printf "GET /healthz HTTP/1.1\r\nHost: 10.9.0.1\r\n\r\n" >&5; cat <&5' >"$dir"/operator &
pinged() { grep -q '"type":"ping"' "$dir"/http1 && grep -q '"type":"ping"' "$dir"/http2 && grep -q ok "$dir"/operator; }
until_true "the pings" pinged
[ "$(metric 'tidegate_connections{transport="sse"}')" = 2 ] || fail "two streams are not open"
# A network change: the address is gone, and whatever still comes for it is dropped without an answer.
at_clients ip addr flush dev clients
left() { [ "$(metric 'tidegate_connections{transport="sse"}')" = 0 ]; }
until_true "the end of the streams of clients that vanished" left
# Each end is counted: over HTTP/1.1 by what the kernel reports, over HTTP/2 by the PING that nobody answered.
[ "$(metric 'tidegate_closes_total{code="ping_timeout"}')" = 2 ] || fail "the ends are not counted"
# Also what the kernel keeps of connections that the gateway has closed.
forgotten() { [ -z "$(ss -Htn state connected exclude time-wait dst 10.9.0.2)" ]; }
until_true "the end of their sockets" forgotten
stop
echo "ok network: pooled connections, vanished clients"
