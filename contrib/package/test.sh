#!/usr/bin/env bash
# Tries the packages in a fresh Debian under its own systemd: that two builds are equal, and that installing,
# running, upgrading under work, removing and purging do what contrib/README.md says. Called by `make
# package-test`, as root; takes some five minutes and fetches a Debian.
#
#   VERSION=… COMMIT=… DATE=… contrib/package/test.sh [DEBIAN]
#
# DEBIAN is a folder with what debootstrap made before, to save the time.
set -euo pipefail
cd "$(dirname "$0")/../.."
((EUID == 0)) || { echo "package-test: wants root" >&2; exit 2; }

MIRROR=${MIRROR:-http://deb.debian.org/debian}
work=$(mktemp -d)
chmod 0711 "$work"
boot=
stop() {
    if [[ -n $boot ]]; then
        kill "$boot" 2>/dev/null || true
        wait "$boot" 2>/dev/null || true
    fi
    boot=
}
trap 'stop; rm -rf "$work"' EXIT

say() { printf '== %s\n' "$*"; }
fail() {
    printf 'FAIL: %s\n' "$*" >&2
    if [[ -n ${init:-} ]]; then inside journalctl --no-pager -q -n 60 -u attune >&2 || true; fi
    exit 1
}
# want WHAT COMMAND…: the command succeeds. never WHAT COMMAND…: it does not.
want() { local what=$1; shift; "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; fail "$what: $*"; }; }
never() { local what=$1; shift; if "$@" >"$work/out" 2>&1; then cat "$work/out" >&2; fail "$what: $*"; fi; }
# until WHAT COMMAND…: the command succeeds some day within two minutes.
until_() {
    local what=$1 i
    shift
    for ((i = 0; i < 480; i++)); do
        if "$@" >"$work/out" 2>&1; then return 0; fi
        sleep 0.25
    done
    cat "$work/out" >&2
    fail "$what never came: $*"
}

say "two builds of one commit are equal, also from another folder"
VERSION=v0.2.0 contrib/package/build.sh >"$work/first"
mkdir "$work/packages"
cp dist/attune_0.2.0-1_*.deb dist/attune-0.2.0-1.*.rpm "$work/packages"
cp -r . "$work/elsewhere"
(cd "$work/elsewhere" && VERSION=v0.2.0 TZ=Asia/Tokyo bash -c 'umask 077; contrib/package/build.sh' >"$work/second")
diff "$work/first" "$work/second" || fail "the builds differ"
rm -rf "$work/elsewhere"
VERSION=v0.1.0 contrib/package/build.sh >/dev/null
cp dist/attune_0.1.0-1_*.deb dist/attune-0.1.0-1.*.rpm "$work/packages"

say "a fresh Debian"
root=$work/root
if [[ -n ${1:-} ]]; then
    cp -a "$1" "$root"
else
    debootstrap --variant=minbase --include=systemd-sysv,postgresql-15,python3,python3-requests,ca-certificates \
        bookworm "$root" "$MIRROR" >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log" >&2; fail "debootstrap"; }
fi
cp "$work"/packages/* "$root/root/"
cp -a "$root" "$work/rpmroot"

# /run may lie on a disk here, which nspawn does not take for its own; a tmpfs in a mount namespace helps.
# systemd-nspawn(1) boots the tree as it is, its own systemd as process 1.
# shellcheck disable=SC2016 # the inner shell expands it
unshare --mount --propagation private bash -c '
    mount -t tmpfs tmpfs /run
    exec systemd-nspawn -q -D "$1" --register=no --keep-unit --boot --console=pipe --private-network' _ "$root" \
    >"$work/console" 2>&1 </dev/null &
boot=$!
init=
# leader finds process 1 of the machine: the child of nspawn, which is what unshare became.
leader() { init=$(pgrep -P "$boot" -x systemd | head -1) && [[ -n $init ]]; }
until_ "its process 1" leader
inside() { nsenter -t "$init" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root "$@"; }
until_ "its systemd" inside systemctl is-system-running

say "installing starts nothing, and leaves everything in place"
want "dpkg -i" inside sh -c 'dpkg -i /root/attune_0.1.0-1_*.deb'
never "enabled by surprise" inside systemctl is-enabled -q attune
never "started by surprise" inside systemctl is-active -q attune
want "the user" inside id attune
want "the unit" inside systemd-analyze verify --man=no attune.service
[[ ! -s $work/out ]] || fail "systemd-analyze verify said: $(cat "$work/out")"
want "the version" inside sh -c 'attune version | grep -F "attune v0.1.0 (commit '"$COMMIT"'"'
want "the configuration" inside attune config check
want "the folders of packs" inside sh -c 'attune config show | grep -F /usr/share/attune/packs | grep -F /etc/attune/packs'
want "the man page" inside test -s /usr/share/man/man1/attune-pack-list.1.gz
want "the completion" inside test -s /usr/share/bash-completion/completions/attune
want "the bill of materials" inside grep -q CycloneDX /usr/share/doc/attune/attune.cdx.json

say "the service runs with the shipped unit, and its children can work"
want "the start" inside systemctl enable --now attune
until_ "the answer" inside attune run core.echo message=hello
[[ $(inside attune run core.echo message=hello) == hello ]] || fail "the action printed something else"
want "Python in the sandbox" inside sh -c 'attune run core.http_request url=http://127.0.0.1:9753/-/healthy | grep -F 200'
want "health over TCP" inside python3 -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:9753/-/ready")'
[[ $(inside systemctl show -P User attune) == attune ]] || fail "it runs as another user"
[[ $(inside stat -c '%U:%G %a' /run/attune/attune.sock) == attune:attune\ 660 ]] || fail "the socket is $(inside stat -c '%U:%G %a' /run/attune/attune.sock)"
[[ $(inside stat -c '%U %a' /var/lib/attune) == "attune 700" ]] || fail "the state is $(inside stat -c '%U %a' /var/lib/attune)"
until_ "the status text" inside sh -c 'systemctl show -P StatusText attune | grep -F "rules"'
never "a stranger at the socket" inside setpriv --reuid=nobody --regid=nogroup --clear-groups attune status
want "a member of the group" inside setpriv --reuid=nobody --regid=nogroup --groups="$(inside getent group attune | cut -d: -f3)" attune status

say "the operator's packs are beside the shipped ones, and win with a warning"
want "a pack" inside cp -r /usr/share/doc/attune/tour /etc/attune/packs/tour
until_ "the pack in force" inside sh -c 'attune pack list -o name | grep -x tour'
want "a copy" inside cp -r /usr/share/attune/packs/core /etc/attune/packs/core
want "an edit" inside sed -i 's/^label: Core$/label: Ours/' /etc/attune/packs/core/pack.yaml
until_ "the operator's" inside sh -c 'attune pack show core -o json | grep -F "\"label\": \"Ours\""'
want "the warning" inside sh -c 'attune pack show core | grep -F "cannot load the pack of this name in /usr/share/attune/packs too"'
want "away with it" inside rm -rf /etc/attune/packs/core
until_ "the shipped one again" inside sh -c 'attune pack show core -o json | grep -F "\"label\": \"Core\""'

say "reload ends when the scan has"
want "reload" inside systemctl reload attune
[[ $(inside systemctl show -P ActiveState attune) == active ]] || fail "not active after the reload"

say "an upgrade lets running work end, and keeps what the operator changed"
want "an edit of the configuration" inside sed -i 's/^#drain = .*/drain = "50s"/' /etc/attune/attune.toml
before=$(inside systemctl show -P MainPID attune)
id=$(inside attune run core.sleep seconds=6 --detach)
until_ "the action runs" inside sh -c "attune execution list --status running -o name | grep -x $id"
want "dpkg -i of the next version" inside sh -c 'dpkg --force-confold -i /root/attune_0.2.0-1_*.deb'
until_ "the new daemon" inside sh -c 'attune status | grep -F "attune      v0.2.0, ready"'
[[ $(inside systemctl show -P MainPID attune) != "$before" ]] || fail "the old daemon still runs"
want "the work was finished" inside sh -c "attune execution show $id -o json | grep -F '\"status\": \"succeeded\"'"
want "the configuration was kept" inside grep -qx 'drain = "50s"' /etc/attune/attune.toml
want "the history was kept" inside sh -c 'attune execution list --action core.echo -o name | grep .'

say "what is killed or hangs comes back, and nothing is left of it"
before=$(inside systemctl show -P MainPID attune)
id=$(inside attune run core.sleep seconds=600 --detach)
until_ "it runs" inside sh -c "attune execution list --status running -o name | grep -x $id"
want "kill -9" inside sh -c "kill -9 $before"
until_ "a new daemon" inside sh -c 'attune status | grep -F ready'
until_ "the loss was told" inside sh -c "attune execution list --status lost -o name | grep -x $id"
never "a child was left" inside sh -c "grep -lsz '^ATTUNE_EXECUTION_ID=$id\$' /proc/[0-9]*/environ | grep ."
before=$(inside systemctl show -P MainPID attune)
want "SIGSTOP" inside sh -c "kill -STOP $before"
changed() { [[ $(inside systemctl show -P MainPID attune) != "$before" ]] && inside attune status; }
until_ "the watchdog's restart" changed

say "attune.socket: systemd holds the sockets, so that nobody is refused while the daemon starts anew"
want "the socket unit" inside systemd-analyze verify --man=no attune.socket
[[ ! -s $work/out ]] || fail "systemd-analyze verify said: $(cat "$work/out")"
want "the sockets" inside sh -c 'systemctl stop attune && systemctl start attune.socket'
never "a daemon that nobody asked for" inside systemctl is-active -q attune
want "who asks first starts it" inside attune run core.echo message=socket
[[ $(inside stat -c '%U:%G %a' /run/attune/attune.sock) == attune:attune\ 660 ]] || fail "the socket is $(inside stat -c '%U:%G %a' /run/attune/attune.sock)"
want "health by systemd's TCP socket" inside python3 -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:9753/-/ready")'
inside systemctl restart attune &
restarting=$!
for ((i = 0; i < 20; i++)); do want "a command while it starts anew" inside attune status -o json; done
wait "$restarting" || fail "the restart"
before=$(inside systemctl show -P MainPID attune)
want "kill -9" inside sh -c "kill -9 $before"
want "a command right after it was killed" inside attune status -o json
never "the daemon took the sockets with it" inside sh -c '! systemctl is-active -q attune.socket'
want "without the socket unit again" inside sh -c 'systemctl stop attune.socket attune && systemctl start attune'
want "its own socket" inside attune run core.echo message=there

say "credentials: a key, and the machine's own PostgreSQL by peer authentication"
want "a role and a database" inside setpriv --reuid=postgres --regid=postgres --clear-groups sh -c 'cd / && createuser attune && createdb -O attune attune'
want "the credentials" inside sh -c 'mkdir -p /etc/credstore && chmod 700 /etc/credstore && umask 077 &&
    echo "postgres:///attune?host=/var/run/postgresql" >/etc/credstore/attune.database-url && head -c 32 /dev/urandom | base64 >/etc/credstore/attune.key'
want "restart" inside systemctl restart attune
until_ "the other database" inside sh -c 'attune status -o json | grep -F "\"private\": false"'
want "work in it" inside attune run core.echo message=there
never "a credential as a secret" inside attune run core.echo message=@secret:attune.key

say "run-as.conf lets children be others"
want "the drop-in" inside sh -c 'mkdir -p /etc/systemd/system/attune.service.d && cp /usr/share/doc/attune/systemd/run-as.conf /etc/systemd/system/attune.service.d/ && systemctl daemon-reload && systemctl restart attune'
want "a pack" inside sh -c 'mkdir -p /etc/attune/packs/other/actions && cd /etc/attune/packs/other && printf "ref: other\nversion: 1.0.0\n" >pack.yaml &&
    printf "name: who\nentry_point: who.sh\nrun_as: nobody\n" >actions/who.yaml && printf "id -un\n" >actions/who.sh'
until_ "its action" inside attune run other.who
[[ $(inside attune run other.who) == nobody ]] || fail "it ran as $(inside attune run other.who)"

say "tree-limits.conf gives each child a cgroup of its own"
never "a cgroup without it" inside sh -c 'grep -rl attune.run. /proc/[0-9]*/cgroup | grep .'
want "the drop-in" inside sh -c 'cp /usr/share/doc/attune/systemd/tree-limits.conf /etc/systemd/system/attune.service.d/ && systemctl daemon-reload && systemctl restart attune'
want "work with it" inside attune run core.echo message=hello
want "an action" inside attune run core.sleep seconds=60 --detach
until_ "its cgroup" inside sh -c 'grep -h attune.run. /proc/[0-9]*/cgroup | grep .'

say "removing keeps state and configuration, purging removes all but the packs"
want "dpkg -r" inside dpkg -r attune
never "it still runs" inside systemctl is-active -q attune
never "a process was left" inside sh -c 'grep -lsz "^ATTUNE_RUN_ID=" /proc/[0-9]*/environ | grep .'
want "the state was kept" inside test -d /var/lib/attune/postgres
want "the configuration was kept" inside test -e /etc/attune/attune.toml
want "dpkg -P" inside dpkg -P attune
never "state was left" inside test -e /var/lib/attune
never "configuration was left" inside test -e /etc/attune/attune.toml
want "the packs were kept" inside test -e /etc/attune/packs/tour/pack.yaml
want "the user was kept" inside id attune
stop
init=

say "the .rpm: its scripts do the same where no systemd runs"
rpm() { command rpm --root "$work/rpmroot" --dbpath /var/lib/rpm "$@"; }
want "rpm -i" rpm -i --nodeps "$work"/packages/attune-0.1.0-1.*.rpm
want "the user" chroot "$work/rpmroot" id attune
never "enabled by surprise" chroot "$work/rpmroot" systemctl is-enabled -q attune
want "the version" chroot "$work/rpmroot" sh -c 'attune version | grep -F "attune v0.1.0"'
want "some state" install -d "$work/rpmroot/var/lib/attune"
want "an edit" sed -i 's/^#drain = .*/drain = "50s"/' "$work/rpmroot/etc/attune/attune.toml"
want "rpm -U" rpm -U --nodeps "$work"/packages/attune-0.2.0-1.*.rpm
want "the version" chroot "$work/rpmroot" sh -c 'attune version | grep -F "attune v0.2.0"'
want "the configuration was kept" grep -qx 'drain = "50s"' "$work/rpmroot/etc/attune/attune.toml"
want "rpm -e" rpm -e attune
never "the binary was left" test -e "$work/rpmroot/usr/bin/attune"
want "the state was kept" test -d "$work/rpmroot/var/lib/attune"
say "all passed"
