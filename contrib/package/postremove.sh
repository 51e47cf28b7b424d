#!/bin/sh
# After files were removed. deb: remove, then perhaps purge; rpm: 0 (erase).
#
# Removing keeps the configuration and all state. Purging removes the daemon's state, its private database
# with it, but never the operator's packs: they are source that somebody wrote. The user stays, so that
# nobody else gets its number.
set -e

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi

if [ "${1:-}" = purge ]; then
    rm -rf /var/lib/attune /run/attune
    rmdir --ignore-fail-on-non-empty /etc/attune/packs /etc/attune 2>/dev/null || true
    if [ -d /etc/attune/packs ]; then
        echo 'attune: /etc/attune/packs is kept, since there are packs in it.'
    fi
fi
