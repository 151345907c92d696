#!/bin/sh
# What a command gets: the payload on standard input, the facts in the environment. Exit code 0: delivered; 75: try later; 65: never.
set -eu
printf '%s %s %s %s\n' "$REDRIVE_ID" "$REDRIVE_TOPIC" "${REDRIVE_KEY:-}" "$(cat)" >>"${DELIVERED:-delivered.txt}"
