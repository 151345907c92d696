//! How many files a node may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// What is open besides the connections of producers and those to the store: those to destinations and of health, the log, the database's files.
const RESERVE: u64 = 100;

/// Raises the soft limit to the hard one, and says so if that is less than the configuration may use.
///
/// The soft one is 1024 in most places, for programs that call `select(2)`; it is as much as `api.max_connections` alone may take. Processes of
/// `command` sources inherit what it is raised to: between `fork` and `exec` nothing safe could lower it again.
pub(super) fn raise(config: &Config) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where the hard limit is more than the system gives (macOS), the soft one stays.
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(error.detail = error.to_string(), "the limit of open files can't be raised");
    }
    let needed = u64::from(config.api.max_connections) + u64::from(config.store.pool) + RESERVE;
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < needed
    {
        tracing::warn!(files.limit = limit, files.needed = needed, "fewer files may be open than the configuration may use");
    }
}
