//! Being built.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Context, Sender};
use crate::fault::Fault;

/// Being built.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {}

impl super::Config for Config {
    fn build(self, cx: &Context) -> Result<Sender, Vec<Fault>> {
        let _ = cx;
        Err(vec![Fault::new("kind", "is not built yet")])
    }
}
