#!/usr/bin/env bash
# Edit this line while the daemon runs: the next greeting is the new one.
printf 'Hello, %s!\n' "${ATTUNE_ACTION_NAME}"
