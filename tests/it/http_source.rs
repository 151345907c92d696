//! The contract of `kind: http`, against real servers on loopback.

mod faults;
mod tls;
mod trouble;
mod wire;
