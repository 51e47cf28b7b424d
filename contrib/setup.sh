#!/usr/bin/env bash
# Installs what Attune needs on this machine, and nothing that is there already.
#
#   contrib/setup.sh        what `make run` needs: PostgreSQL's server programs, interpreters
#   contrib/setup.sh test   also what `make test` and `make check` use: a C compiler, editors, Prometheus, …
#   contrib/setup.sh package   also what `make package-test` uses: a Debian to install into
#
# It starts no service and makes no database cluster. Run again, it does nothing.
set -euo pipefail

want=${1:-run}
case $want in
run | test | package) ;;
*)
    echo "usage: contrib/setup.sh [run|test|package]" >&2
    exit 2
    ;;
esac

umask 022 # what it installs is for every user

have() { command -v "$1" >/dev/null 2>&1; }

have_postgres() {
    local server
    for server in /usr/lib/postgresql/{14,15,16,17,18}/bin/postgres /usr/pgsql-{14,15,16,17,18}/bin/postgres; do
        if [[ -x $server ]]; then return 0; fi
    done
    have postgres && have initdb
}

have_python_module() { [[ -x /usr/bin/python3 ]] && /usr/bin/python3 -c "import $1" 2>/dev/null; }

packages=() # Debian's names
reasons=()
need() {
    packages+=("$1")
    reasons+=("$2")
}

have_postgres || need postgresql "PostgreSQL server programs, 14 or newer"
[[ -x /usr/bin/python3 ]] || need python3 "Python 3.8 or newer, for Python actions"
have_python_module requests || need python3-requests "the Python package requests, for core.http_request"
have node || need nodejs "Node.js, for node actions"
have bash || need bash "bash, for shell actions"
[[ -e /etc/ssl/certs/ca-certificates.crt ]] || need ca-certificates "certificates, for HTTPS"
if [[ $want != run ]]; then
    have_python_module ensurepip || need python3-venv "virtual environments of packs"
    have_python_module pip || need python3-pip "what packs require of Python"
    have npm || need npm "what packs require of node"
    have gcc || need gcc "a C compiler, for Go's race detector"
    [[ -e /usr/include/stdlib.h ]] || need libc6-dev "C headers, for Go's race detector"
    have vim || need vim "an editor that saves in three ways"
    have emacs || need emacs-nox "an editor that saves with locks and backups"
    have nano || need nano "an editor that writes in place"
    have curl || need curl "the README's call of a webhook"
    have rsync || need rsync "a copier that saves by rename"
    have git || need git "checkouts that swap files"
    have pgbouncer || [[ -x /usr/sbin/pgbouncer ]] || need pgbouncer "a pooler between the daemon and PostgreSQL"
    have faketime || need faketime "a PostgreSQL whose clock is wrong"
    have prometheus || need prometheus "a Prometheus that scrapes the daemon"
    have systemd-analyze || need systemd "systemd-analyze, for the unit file"
    have supervisord || need supervisor "a supervisor that restarts of sensors are measured against"
    have shellcheck || need shellcheck "checks of shell scripts"
    have man || need man-db "checks of man pages"
    have groff || need groff "checks of man pages"
    have zsh || need zsh "a shell that completes"
    have fish || need fish "a shell that completes"
    [[ -e /usr/share/bash-completion/bash_completion ]] || need bash-completion "completion of bash"
fi
if [[ $want == package ]]; then
    have debootstrap || need debootstrap "a fresh Debian"
    have systemd-nspawn || need systemd-container "a systemd of its own for the fresh Debian"
    have rpm || need rpm "the other kind of package"
fi

# again COMMAND…: a network that fails once is asked twice more.
again() {
    local try
    for try in 1 2; do
        if "$@"; then return 0; fi
        sleep $((5 * try))
    done
    "$@"
}

# Go fetches modules where it needs them, and gives up with the first that does not come.
modules() {
    cd "$1"
    if GOPROXY=off go list -deps -test ./... >/dev/null 2>&1; then return 0; fi
    again go mod download
}
if [[ $want != run ]]; then
    here=$(cd "$(dirname "$0")" && pwd)
    for folder in "$here/.." "$here/bench"; do
        (modules "$folder") || echo "setup: not all modules were fetched, Go tries again where it needs them" >&2
    done
fi

if ((${#packages[@]} == 0)); then exit 0; fi

if ! have apt-get; then
    echo "setup: there is no apt-get here; please install:" >&2
    for i in "${!packages[@]}"; do
        echo "  - ${reasons[i]} (Debian: ${packages[i]})" >&2
    done
    exit 1
fi

as_root=()
if ((EUID != 0)); then
    if ! have sudo; then
        echo "setup: root is needed to install packages; please run: apt-get install ${packages[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

echo "setup: installing ${packages[*]}"
for i in "${!packages[@]}"; do
    echo "  - ${packages[i]}: ${reasons[i]}"
done

# Debian makes and starts a cluster with the server package, and starts other services with theirs.
# Attune runs its own cluster, so both are held back, the second for the time of the installation.
config=/etc/postgresql-common/createcluster.conf
if [[ " ${packages[*]} " == *" postgresql "* && ! -e $config ]]; then
    "${as_root[@]}" mkdir -p "${config%/*}"
    echo "create_main_cluster = false" | "${as_root[@]}" tee "$config" >/dev/null
fi
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi

log=$(mktemp)
# Another apt-get, which most machines run by themselves once a day, is waited for.
options=(-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${options[@]}" "${packages[@]}" </dev/null >"$log" 2>&1
}
# The package list may be old or missing: it is fetched only when the first try fails.
if ! install; then
    "${as_root[@]}" apt-get update -q "${options[@]}" </dev/null >>"$log" 2>&1 || true
    if ! install; then
        cat "$log" >&2
        rm -f "$log"
        echo "setup: cannot install ${packages[*]}: see above" >&2
        exit 1
    fi
fi
rm -f "$log"
echo "setup: done"
