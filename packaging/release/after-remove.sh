#!/bin/sh
# After the files have gone. /etc/tidegate/token-secret and /var/lib/tidegate stay: they are the operator's.
set -e

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
