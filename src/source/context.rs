//! What a source is built with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Options;
use crate::fault::Fault;
use crate::units::Secret;

/// How long a claim holds if nothing else is said.
const LEASE: Duration = Duration::from_secs(30);

/// What a kind of source may use to build itself. A new facility becomes a new field, so the signature of [`Config::build`](super::Config::build) stays the same.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// The project whose messages are sent.
    pub project: Arc<str>,
    /// The name of the source in the YAML.
    pub name: Arc<str>,
    /// The options that every source has.
    pub options: Options,
    /// How long a claim holds without renewal. Anything that can't be stopped once it was handed to a client library must end well within it.
    pub lease: Duration,
    /// The folder of the configuration file, against which relative paths are resolved.
    pub folder: PathBuf,
}

impl Context {
    /// The context of a source without options, in the working directory; its fields can be set.
    ///
    /// ```
    /// use redrive::source::Context;
    /// let mut cx = Context::new("shop", "audit");
    /// cx.folder = "/etc/redrive".into();
    /// assert_eq!(cx.path("token".as_ref()), std::path::Path::new("/etc/redrive/token"));
    /// ```
    pub fn new(project: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { project: project.into(), name: name.into(), options: Options::default(), lease: LEASE, folder: PathBuf::from(".") }
    }

    /// A path from the configuration, resolved against the folder of its file.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// A secret that is given as `key`, or read from the file that `{key}_file` names.
    ///
    /// # Errors
    /// Both are given, or the file holds no secret.
    pub fn secret(&self, key: &str, value: Option<Secret>, file: Option<&Path>) -> Result<Option<Secret>, Fault> {
        let Some(file) = file else { return Ok(value) };
        if value.is_some() {
            return Err(Fault::new(format!("{key}_file"), format!("give {key} or {key}_file, not both")));
        }
        crate::secret::read(&self.path(file)).map(Some).map_err(|message| Fault::new(format!("{key}_file"), message))
    }
}
