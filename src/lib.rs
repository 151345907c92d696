#![doc = include_str!("../README.md")]

pub mod api;
pub mod app;
#[doc(hidden)]
pub mod bench;
mod bounded;
pub mod cli;
pub mod clock;
pub mod config;
#[doc(hidden)]
pub mod demo;
pub mod engine;
pub mod fault;
pub mod message;
pub mod outcome;
pub mod retry;
mod secret;
pub mod shutdown;
pub mod source;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod units;
#[doc(hidden)]
pub mod view;

// For implementations of `Source` and of its configuration: the versions that their traits name.
pub use async_trait::async_trait;
pub use schemars;
