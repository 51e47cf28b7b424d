#!/usr/bin/env bash
# core.sleep: waits, and says for how long it did.
set -euo pipefail

seconds=${ATTUNE_ACTION_SECONDS:-1}
message=${ATTUNE_ACTION_MESSAGE:-}

# The length is checked first: what is longer than four digits would overflow the comparison.
if [[ ! $seconds =~ ^[0-9]{1,4}$ ]] || ((10#$seconds > 3600)); then
    printf 'ERROR: seconds must be a whole number from 0 to 3600, not "%s"\n' "$seconds" >&2
    exit 1
fi
if [[ -n $message ]]; then
    printf '%s\n' "$message"
fi
sleep "$seconds"
printf 'Slept for %s seconds\n' "$seconds"
