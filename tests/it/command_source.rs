//! The contract of `kind: command`, with real processes.

mod ends;
mod facts;

use std::path::Path;
use std::sync::Arc;

use redrive::source::Source;
use serde_json::{Value, json};

use crate::support::endpoint::build;

/// A source that runs a shell script given as text.
fn shell(script: &str, options: Value, folder: &Path) -> Arc<dyn Source> {
    build("command", json!({ "argv": ["sh", "-c", script] }), options, folder).unwrap()
}
