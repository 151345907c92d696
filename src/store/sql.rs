//! Being built.

use std::sync::Arc;

use super::{Config, Error, Observer, Store};
use crate::fault::Fault;

/// Being built.
pub(super) fn open(_config: &Config, _project: &str, _observer: Option<Observer>) -> Result<Arc<dyn Store>, Vec<Fault>> {
    Err(vec![Fault::new("url", "is not built yet")])
}

/// Being built.
#[derive(Debug)]
pub struct Guard;

/// Being built.
pub fn guard(_config: &Config) -> Result<Option<Guard>, Error> {
    Ok(None)
}
