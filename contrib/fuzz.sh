#!/usr/bin/env bash
# Runs each fuzz test for a while: contrib/fuzz.sh [TIMES], 1000x by default. Counted, not timed: when its time
# is over while an input runs, go test calls that a failure (context deadline exceeded).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-1000x}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
grep -rlE '^func Fuzz' --include='*_test.go' daemon exec reconcile | sort | while read -r file; do
    grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | cut -d' ' -f2 | while read -r name; do
        echo "fuzz $name, $time"
        if ! go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./${file%/*}" >"$log" 2>&1; then
            cat "$log" >&2
            exit 1
        fi
    done
done
