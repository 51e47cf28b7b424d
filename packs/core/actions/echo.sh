#!/usr/bin/env bash
# core.echo: prints its message.
set -euo pipefail

message=${ATTUNE_ACTION_MESSAGE-Hello, World!}
uppercase=${ATTUNE_ACTION_UPPERCASE:-false}

case $uppercase in
true) printf '%s\n' "${message^^}" ;;
false) printf '%s\n' "$message" ;;
*)
    printf 'ERROR: uppercase must be true or false, not "%s"\n' "$uppercase" >&2
    exit 1
    ;;
esac
