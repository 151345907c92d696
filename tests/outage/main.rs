//! What must be shown for the whole system: the real binary against real databases and brokers that are killed while it runs.
//!
//! Some tests kill brokers, which nothing else may use meanwhile: `cargo test --test outage -- --test-threads=1 brokers::`. The others can run side
//! by side: `cargo test --test outage -- --test-threads=2 --skip brokers::`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod brokers;
mod cancel_storm;
mod crash;
mod nodes;
mod nonsense;
mod on_failure;
mod one_shot;
mod process;
mod shutdown;
mod support;
mod waiting;
