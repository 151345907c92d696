#!/bin/sh
# A producer that hands redrive one order a second, and the same order again until it is accepted.
# The idempotency key makes the repetition harmless.
set -eu
number=0
while :; do
    number=$((number + 1))
    key=o-$(hostname)-$number
    until curl --silent --show-error --fail --max-time 5 --output /dev/null "$REDRIVE_URL/v1/messages" \
        --header "Authorization: Bearer $REDRIVE_TOKEN" --header 'Content-Type: application/json' \
        --data "{\"source\": \"orders-events\", \"key\": \"$key\", \"payload\": {\"order\": \"$key\"}, \"idempotency_key\": \"$key\"}"; do
        echo "not accepted, trying again: $key"
        sleep 1
    done
    echo "accepted: $key"
    sleep 1
done
