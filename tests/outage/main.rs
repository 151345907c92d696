//! What must be shown of the whole thing: the real binary against real databases and brokers that are killed under it.
//!
//! It kills brokers, so nothing else may use them meanwhile and the tests run one after another:
//! `cargo test --test outage -- --test-threads=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod broker_outage;
mod cancel_storm;
mod crash;
mod nodes;
mod nonsense;
mod on_failure;
mod one_shot;
mod outbox;
mod process;
mod shutdown;
mod starts;
mod support;
mod waiting;
