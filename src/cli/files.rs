//! How many files a node may have open: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Open files besides the connections of producers and those to the store: connections to destinations and for health, the log, the database's files.
const RESERVE: u64 = 100;

/// Raises the soft limit to the hard one, and logs if that is less than the configuration may use.
///
/// The soft limit is usually 1024, for the sake of programs that call `select(2)`; `api.max_connections` alone may take as many. Processes of
/// `command` sources inherit the raised limit: between `fork` and `exec` nothing could safely lower it again.
pub(super) fn raise(config: &Config) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // If the hard limit is more than the system allows (macOS), the soft one stays.
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
