//! What the process says of itself: logs and metrics.

pub mod metrics;
pub mod throttle;
