//! Integration tests: one binary, a module per subject. Tests that need a server are below `servers`, so that `cargo test --test it -- --skip
//! servers::` needs none. A test whose server is absent fails; it is never skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that fails says so; Clippy knows only functions marked #[test]"
)]

mod amqp_mock;
mod api;
mod bench;
mod cli;
mod command_source;
mod config;
mod demo;
mod deploy;
mod embedding;
mod http_source;
mod kafka_mock;
mod logging;
mod sending;
mod servers;
mod source_contract;
mod store;
mod support;
