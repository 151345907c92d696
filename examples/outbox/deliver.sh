#!/bin/sh
# A command gets the payload on standard input and the rest in the environment. Exit code 0: delivered; 75: try again later; 65: never try again.
set -eu
printf '%s %s %s %s\n' "$REDRIVE_ID" "$REDRIVE_TOPIC" "${REDRIVE_KEY:-}" "$(cat)" >>"${DELIVERED:-delivered.txt}"
