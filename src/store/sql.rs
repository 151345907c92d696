//! Being built.

use std::sync::Arc;

use super::{Config, Store};
use crate::fault::Fault;

/// Being built.
pub(super) fn open(_config: &Config, _project: &str) -> Result<Arc<dyn Store>, Vec<Fault>> {
    Err(vec![Fault::new("url", "is not built yet")])
}
