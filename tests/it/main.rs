//! Integration tests: one binary, a module a subject. What needs a server lives under `servers`, so that
//! `cargo test --test it -- --skip servers::` needs none. A test whose server is absent fails; it is never skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "what a test shares with others is not seen as a test by the lint")]

mod servers;
mod store;
mod support;
