#!/usr/bin/env bash
# Checks what ships beside the program: shell scripts, man pages, completion, the unit, rules and dashboard.
# Part of `make check`; contrib/setup.sh test installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# silent WHAT COMMAND…: it succeeds and says nothing.
silent() {
    local what=$1 said
    shift
    if ! said=$("$@" 2>&1) || [[ -n $said ]]; then
        echo "$what: $said" >&2
        exit 1
    fi
}

shellcheck contrib/*.sh contrib/package/*.sh .ci/run packs/*/actions/*.sh packs/*/sensors/*.sh

go build -o "$work/attune" ./daemon/attune
"$work/attune" manual "$work/man1"
for page in "$work"/man1/*.1; do
    silent "$page" groff -man -ww -z -Tutf8 "$page"
    lexgrog "$page" >/dev/null || { echo "$page: man -k would not find it" >&2; exit 1; }
done
"$work/attune" completion bash >"$work/attune.bash"
"$work/attune" completion zsh >"$work/_attune"
"$work/attune" completion fish >"$work/attune.fish"
bash -n "$work/attune.bash"
zsh -n "$work/_attune"
fish --no-config --no-execute "$work/attune.fish"
"$work/attune" version --sbom | grep -q '"bomFormat": "CycloneDX"'

# As it is installed: the program must be there for verify, and the exposure is that of F108.
mkdir "$work/unit"
sed "s|/usr/bin/attune|$work/attune|" contrib/systemd/attune.service >"$work/unit/attune.service"
cp contrib/systemd/attune.socket "$work/unit/"
silent "the units" systemd-analyze verify --man=no "$work/unit/attune.service" "$work/unit/attune.socket"
systemd-analyze security --offline=yes --threshold=20 "$work/unit/attune.service" | tail -1

promtool check rules contrib/prometheus/attune.rules.yml >/dev/null
promtool test rules contrib/prometheus/attune.rules_test.yml >/dev/null
promtool check config --syntax-only contrib/prometheus/prometheus.yml >/dev/null
