//! Parts of a transaction, each in a savepoint. If the database refuses something for good, through a CHECK or a trigger of the table's owner, only
//! that part is undone.

use std::time::{Duration, Instant};

use super::dialect::Dialect;
use super::pool::{Fail, Session};
use crate::store::Error;

/// Parts together take at most this fraction of their transaction's time limit: others wait for it meanwhile. What remains is for the next
/// transaction.
const SHARE: u32 = 16;

/// The parts of one transaction, one after another.
#[derive(Debug)]
pub(super) struct Parts {
    until: Instant,
    /// Why the database refused one of them.
    refused: Option<Error>,
}

impl Parts {
    /// The parts of a transaction that begins now and has this time limit.
    pub(super) fn within(time: Duration) -> Self {
        Self { until: Instant::now() + time / SHARE, refused: None }
    }

    /// Whether there is no time left for another.
    pub(super) fn are_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Ends a part with its result; `None` if the database refused it, in which case all of it is undone.
    pub(super) async fn end<D: Dialect, T>(&mut self, session: &mut Session<D>, part: Result<T, Fail>) -> Result<Option<T>, Fail> {
        let (done, refused) = match part {
            Ok(done) => (Some(done), None),
            Err(fail) => (None, Some(refusal(session, fail)?)),
        };
        if refused.is_some() {
            session.script("ROLLBACK TO SAVEPOINT a_part".to_owned()).await?;
            self.refused = refused;
        }
        session.script("RELEASE SAVEPOINT a_part".to_owned()).await?;
        Ok(done)
    }

    /// Why the database refused one of them, if it did.
    pub(super) fn refused(self) -> Option<Error> {
        self.refused
    }
}

/// Begins a part.
pub(super) async fn begin<D: Dialect>(session: &mut Session<D>) -> Result<(), Fail> {
    Ok(session.script("SAVEPOINT a_part".to_owned()).await?)
}

/// Why the database refused something for good; any other failure is passed on.
fn refusal<D: Dialect>(session: &Session<D>, fail: Fail) -> Result<Error, Fail> {
    match fail {
        Fail::Sql(error) => match session.core.judge(&error) {
            refused @ Error::Refused(_) => Ok(refused),
            _ => Err(Fail::Sql(error)),
        },
        Fail::Store(refused @ Error::Refused(_)) => Ok(refused),
        fail @ Fail::Store(_) => Err(fail),
    }
}
