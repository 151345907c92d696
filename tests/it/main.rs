//! Integration tests: one binary, a module a subject. What needs a server lives under `servers`, so that
//! `cargo test --test it -- --skip servers::` needs none. A test whose server is absent fails; it is never skipped.

mod servers;
mod store;
mod support;
