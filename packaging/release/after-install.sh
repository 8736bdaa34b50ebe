#!/bin/sh
# After the files are in place (.deb: "configure"; .rpm: 1 for a first installation, 2 for an upgrade).
set -e

systemd-sysusers tidegate.conf
chown root:tidegate /etc/tidegate /etc/tidegate/tidegate.toml

# The secret that signs readers' tokens; an upgrade leaves it.
if [ ! -e /etc/tidegate/token-secret ]; then
  install -o root -g tidegate -m 0640 /dev/null /etc/tidegate/token-secret
  head -c 48 /dev/urandom | base64 -w 0 > /etc/tidegate/token-secret
fi

# Not in an image that is being built.
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  # A gateway that runs is restarted into the new version: it drains, and its readers come back.
  systemctl try-restart tidegate.service || echo "tidegate: the restart failed; systemctl status tidegate says why" >&2
fi

case "$1:$2" in
  configure:|1:)
    echo "tidegate: look at /etc/tidegate/tidegate.toml, then: systemctl enable --now tidegate"
    ;;
esac
