#!/usr/bin/env bash
# core.noop: prints its message, if it has one, and exits as asked.
set -euo pipefail

message=${ATTUNE_ACTION_MESSAGE:-}
exit_code=${ATTUNE_ACTION_EXIT_CODE:-0}

if [[ ! $exit_code =~ ^[0-9]{1,3}$ ]] || ((10#$exit_code > 255)); then
    printf 'ERROR: exit_code must be a whole number from 0 to 255, not "%s"\n' "$exit_code" >&2
    exit 1
fi
if [[ -n $message ]]; then
    printf '%s\n' "$message"
fi
exit "$((10#$exit_code))"
