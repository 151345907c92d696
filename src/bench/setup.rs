//! The user's configuration as a benchmark needs it: all of it, and the section of the source under test.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Error;
use crate::config::{Config, Scope};
use crate::message::Message;
use crate::outcome::Outcome;
use crate::source::{Context, Registry, Section, Sender, Source};

/// The source under test, as it is configured.
#[derive(Clone)]
pub(super) struct Subject {
    pub(super) kind: String,
    pub(super) section: Value,
    pub(super) context: Context,
}

impl Subject {
    /// Its section, parsed as its kind's configuration.
    pub(super) fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(Section(self.section.clone())).map_err(|error| Error::Failed(error.to_string()))
    }
}

/// The configuration and the source under test.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) subject: Subject,
}

impl Setup {
    /// Reads the file; `source` selects the source under test if there are several.
    pub(super) fn load(file: &Path, registry: &Registry, source: Option<&str>) -> Result<Self, Error> {
        let found: Arc<Mutex<Vec<Subject>>> = Arc::default();
        let (seen, real) = (found.clone(), registry.clone());
        let spying = registry.built_by(move |kind, section, cx| {
            // The real source is built too, so that its faults are found before anything is made, and then dropped at once.
            real.build(kind, section.clone(), cx)?;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.retain(|other: &Subject| other.context.name != cx.name);
            seen.push(Subject { kind: kind.to_owned(), section, context: cx.clone() });
            Ok(Sender::each(Nowhere))
        });
        let config = Config::load(file, &spying, Scope::Whole)?;
        let mut subjects = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
        let names = subjects.iter().map(|subject| subject.context.name.to_string()).collect::<Vec<_>>().join(", ");
        let subject = match source {
            Some(name) => subjects
                .into_iter()
                .find(|subject| &*subject.context.name == name)
                .ok_or_else(|| Error::Usage(format!("--source: there is no `{name}`; the sources are {names}")))?,
            None if subjects.len() > 1 => return Err(Error::Usage(format!("which source? Choose with --source; the sources are {names}"))),
            None => subjects.pop().ok_or_else(|| Error::Usage("the configuration has no source; one of `kind: log` will do".to_owned()))?,
        };
        Ok(Self { config, subject })
    }
}

/// Stands in for a source that is not under test.
pub(super) struct Nowhere;

#[async_trait]
impl Source for Nowhere {
    async fn send(&self, _: &Message) -> Outcome {
        Outcome::unreachable("bench", "this source is not under test")
    }
}
