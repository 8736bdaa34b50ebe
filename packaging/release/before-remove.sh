#!/bin/sh
# Before the files go (.deb: "remove"; .rpm: 0). An upgrade leaves the gateway running until its restart.
set -e

case "$1" in
  remove|0)
    if [ -d /run/systemd/system ]; then
      systemctl disable --now tidegate.service || :
    fi
    ;;
esac
