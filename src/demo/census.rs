//! The contents of the demo's table, counted through the same store that the sidecar uses.

use std::collections::HashSet;

use uuid::Uuid;

use crate::engine::Handle;
use crate::message::State;
use crate::store::{Error, List};

/// What happened to a message that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was refused: it is in the table, with the reason.
    Failed,
    /// It is still to be sent: its broker is away.
    Waiting,
    Lost,
}

/// The messages of the table.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub(super) failed: HashSet<Uuid>,
    /// Messages that are still to be sent.
    pub(super) waiting: HashSet<Uuid>,
    /// Messages that took more than one attempt.
    pub(super) retried: usize,
    pub(super) attempts: u64,
}

impl Census {
    /// How many messages are waiting.
    pub(super) async fn waiting(handle: &Handle) -> Result<u64, Error> {
        Ok(handle.store().counts(handle.project()).await?.iter().flat_map(|count| count.states.values()).sum())
    }

    /// What happened to a message that did not arrive.
    pub(super) fn fate(&self, id: &Uuid) -> Fate {
        if self.failed.contains(id) {
            Fate::Failed
        } else if self.waiting.contains(id) {
            Fate::Waiting
        } else {
            Fate::Lost
        }
    }

    /// Counts all messages, page by page.
    pub(super) async fn take(handle: &Handle) -> Result<Self, Error> {
        let mut census = Self::default();
        let mut list = List { project: handle.project().to_string(), limit: 1000, ..List::default() };
        loop {
            let page = handle.store().list(list.clone()).await?;
            for record in &page.items {
                if record.state == State::Failed {
                    census.failed.insert(record.id);
                } else if !record.state.is_finished() {
                    census.waiting.insert(record.id);
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_or_waits_is_not_lost() {
        let [failed, waiting, gone] = [1, 2, 3].map(Uuid::from_u128);
        let census = Census { failed: HashSet::from([failed]), waiting: HashSet::from([waiting]), ..Census::default() };
        assert_eq!([failed, waiting, gone].map(|id| census.fate(&id)), [Fate::Failed, Fate::Waiting, Fate::Lost]);
    }
}
