# What is done often; `just` lists it.

default:
    @just --list

# Format, lint and test without servers
quick:
    ./scripts/test --quick

# Every check, on real servers
test:
    ./scripts/test

# The outage in front of one's eyes
demo:
    ./scripts/demo

# The API's documentation
doc:
    cargo doc --no-deps --open
