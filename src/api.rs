//! The HTTP API.

pub mod config;

pub use config::Config;
