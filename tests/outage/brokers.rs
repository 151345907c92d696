//! Tests that kill brokers: nothing else may use them meanwhile, so these run one after another.

mod killed;
mod outbox;
mod stalled;
mod starts;
