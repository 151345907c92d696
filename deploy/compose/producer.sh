#!/bin/sh
# A producer that hands redrive one order a second, and the same order again until it is accepted.
# The idempotency key makes the repetition harmless. The start time is in it: a container that is started again keeps its name,
# counts from 1 again, and means other orders.
set -eu
started=$(date +%s)
number=0
while :; do
    number=$((number + 1))
    key=o-$(hostname)-$started-$number
    until curl --silent --show-error --fail --max-time 5 --output /dev/null "$REDRIVE_URL/v1/messages" \
        --header "Authorization: Bearer $REDRIVE_TOKEN" --header 'Content-Type: application/json' \
        --data "{\"source\": \"orders-events\", \"key\": \"$key\", \"payload\": {\"order\": \"$key\"}, \"idempotency_key\": \"$key\"}"; do
        echo "not accepted, trying again: $key"
        sleep 1
    done
    echo "accepted: $key"
    sleep 1
done
