#![doc = include_str!("../README.md")]

pub mod api;
pub mod app;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
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
pub mod view;
