//! Tests against real servers; `scripts/services up` starts them and `scripts/services env` says where they are.

mod amqp;
mod bench;
mod cli;
mod demo;
mod kafka;
mod source;
mod store;
