//! What the demo's table holds, counted through the same store that the sidecar uses.

use crate::engine::Handle;
use crate::message::State;
use crate::store::{Error, List};

/// The messages of the table.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub(super) failed: usize,
    /// Messages that took more than one attempt.
    pub(super) retried: usize,
    pub(super) attempts: u64,
}

impl Census {
    /// How many messages wait.
    pub(super) async fn waiting(handle: &Handle) -> Result<u64, Error> {
        Ok(handle.store().counts(handle.project()).await?.iter().flat_map(|count| count.states.values()).sum())
    }

    /// Counts all messages, page by page.
    pub(super) async fn take(handle: &Handle) -> Result<Self, Error> {
        let mut census = Self::default();
        let mut list = List { project: handle.project().to_string(), limit: 1000, ..List::default() };
        loop {
            let page = handle.store().list(list.clone()).await?;
            for record in &page.items {
                census.failed += usize::from(record.state == State::Failed);
                census.retried += usize::from(record.attempts > 1);
                census.attempts += u64::from(record.attempts);
            }
            if page.next.is_none() {
                return Ok(census);
            }
            list.after = page.next;
        }
    }
}
