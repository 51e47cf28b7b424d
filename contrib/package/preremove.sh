#!/bin/sh
# Before files are removed. deb: remove, or upgrade NEW VERSION; rpm: 0 (erase) or 1 (upgrade). An upgrade
# leaves the service running: it is restarted when the new files are there.
set -e

case ${1:-} in
remove | 0) ;;
*) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
    if [ -x /usr/bin/deb-systemd-invoke ]; then
        deb-systemd-invoke stop attune.service || true
    else
        systemctl stop attune.service || true
    fi
fi
# Also where systemd does not run: in a chroot, for an image.
systemctl --quiet disable attune.service || true
