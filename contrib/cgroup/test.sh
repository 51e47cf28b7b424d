#!/usr/bin/env bash
# Lets fork bombs go off in cgroups that bound processes, which are not to be had where another hierarchy has that
# controller, as in most containers: in a kernel that runs as a program (user-mode-linux), on this machine's files.
# Called by `make cgroup-test`, as root, on Debian; takes a minute, and fetches that kernel unless there is one.
set -euo pipefail
cd "$(dirname "$0")/../.."
((EUID == 0)) || { echo "cgroup-test: wants root" >&2; exit 2; }

work=$(mktemp -d)
chmod 0711 "$work"
trap 'rm -rf "$work"' EXIT
kernel=$(command -v linux.uml || true)
if [[ -z $kernel ]]; then
    (cd "$work" && apt-get -q download user-mode-linux >"$work/log" 2>&1 && dpkg-deb -x user-mode-linux_*.deb .) ||
        { cat "$work/log" >&2; exit 1; }
    kernel=$work/usr/bin/linux.uml
fi
go test -c -o "$work/child.test" ./exec/child
go test -tags faults -c -o "$work/faults.test" ./daemon/faults
mkdir "$work/tmp"

# It sees this machine's files as they are, so it gets its own of what it changes, and nothing else.
cat >"$work/init" <<END
#!/bin/bash
export PATH=$PATH HOME=/root TMPDIR=$work/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs $work/tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
ip link set lo up
{
    echo "+pids +memory +cpu" >/sys/fs/cgroup/cgroup.subtree_control
    cd $PWD/exec/child && $work/child.test -test.v -test.run 'Cgroup' -test.timeout 5m &&
        cd $PWD/daemon/faults && $work/faults.test -test.v -test.run 'InACgroup' -test.timeout 5m
    echo "ended with \$?"
} >$work/out 2>&1
poweroff -f
END
chmod +x "$work/init"
timeout 600 "$kernel" mem=1500M rootfstype=hostfs rootflags=/ rw init="$work/init" con=null con0=null,fd:1 quiet \
    </dev/null >"$work/console" 2>&1 || true
grep -E '^ *(---|ended|[a-z_]+_test\.go)' "$work/out" || cat "$work/console" >&2
grep -qx 'ended with 0' "$work/out" || { tail -50 "$work/out" >&2; exit 1; }
# What is passed over is not tested.
if grep -q -e '--- SKIP' "$work/out"; then
    echo "cgroup-test: some of it cannot run in this kernel" >&2
    exit 1
fi
