#!/bin/sh
# A producer that submits one order a second, and repeats each order until it is accepted.
# The idempotency key makes the repetition harmless. It contains the start time: a container that is started again keeps its name
# and counts from 1 again, but its orders are new ones.
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
