#!/bin/sh
# After files were installed. deb: configure [OLD VERSION]; rpm: 1 (install) or 2 (upgrade).
#
# A new service is neither enabled nor started: the operator says when. One that runs is restarted after
# an upgrade, and lets its running actions finish first.
set -e

case ${1:-} in
configure) if [ -n "${2:-}" ]; then upgrade=yes; else upgrade=no; fi ;;
1) upgrade=no ;;
2) upgrade=yes ;;
*) exit 0 ;; # deb: abort-upgrade, abort-remove, …: nothing has changed
esac

systemd-sysusers /usr/lib/sysusers.d/attune.conf
# It wants /proc, which a chroot may lack; the unit and the next boot make the same folders.
systemd-tmpfiles --create /usr/lib/tmpfiles.d/attune.conf || true

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ "$upgrade" = yes ]; then
        if [ -x /usr/bin/deb-systemd-invoke ]; then
            deb-systemd-invoke try-restart attune.service || true
        else
            systemctl try-restart attune.service || true
        fi
    fi
fi

if [ "$upgrade" = no ]; then
    echo "attune: start it with 'systemctl enable --now attune'; the configuration is /etc/attune/attune.toml."
fi
