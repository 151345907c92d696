#![doc = include_str!("../README.md")]
//!
//! # As a library
//!
//! A program with [sources](source) of its own gets the whole command line around them:
//!
//! ```no_run
//! use redrive::source::Registry;
//!
//! fn main() -> std::process::ExitCode {
//!     let registry = Registry::default(); // and registry.register::<MyConfig>("mine")
//!     redrive::cli::main(&registry)
//! }
//! ```
//!
//! Or it embeds a node: [`App::build`](app::App::build) starts it, [`App::handle`](app::App::handle) is the way in, and [`App::run`](app::App::run)
//! serves until it is told to stop, with or without a port. [`Sender`](source::Sender) shows how a source is tested.
//!
//! The library logs with `tracing` and sets no global state: a program that embeds it installs its own subscriber and allocator. The `redrive` binary
//! uses mimalloc, because messages are allocated on one thread and freed on another; so should a program with much traffic.
//!
//! ## What may change
//!
//! Versions follow [Semantic Versioning](https://semver.org), for what this documentation shows:
//!
//! - Types that are `#[non_exhaustive]` may gain fields and variants in a minor version, and so may all structs below [`config::Config`], which has
//!   one for each section of the file. Load a configuration and assign to its fields, rather than write one out.
//! - The traits of a source may gain methods that have defaults.
//! - What is public but hidden from the documentation is there for redrive's own tests and may change at any time.

pub mod api;
pub mod app;
#[doc(hidden)]
pub mod bench;
mod bounded;
pub mod cli;
mod clock;
pub mod config;
#[doc(hidden)]
pub mod demo;
pub mod engine;
pub mod fault;
pub mod message;
pub mod outcome;
pub mod retry;
mod secret;
mod shutdown;
pub mod source;
pub mod store;
#[doc(hidden)]
pub mod telemetry;
pub mod tls;
pub mod units;
#[doc(hidden)]
pub mod view;

/// For implementations of [`Source`](source::Source) and [`Pipeline`](source::Pipeline), in the version that these traits are made with.
pub use async_trait::async_trait;
/// For payloads and binary keys.
pub use bytes;
/// For the times of a [`Message`](message::Message), a [`Record`](store::Record) and of [`Due`](engine::Due).
pub use chrono;
/// For implementations of [`source::Config`], each of which has a JSON Schema.
pub use schemars;
/// For the ids of messages.
pub use uuid;
