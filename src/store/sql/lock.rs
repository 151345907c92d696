//! What sees to it that one node at a time changes the tables: a lock of the server's, or, where it gives none, a row that says whose it is.
//!
//! Clusters refuse MySQL's GET_LOCK, Percona's in its strict mode for one. The lock of a row is no way out: it ends with the first table that is
//! made, and another member does not see it. That a row was committed they agree on. It holds until a time, so that a node that dies holds up others
//! no longer than a change of the tables may take.

use std::time::Duration;

use tokio::time::Instant;

use super::decode;
use super::dialect::{Dialect, Value};
use super::insert::micros;
use super::pool::{Fail, Session};
use super::template::expand;
use crate::store::Error;

/// How long another's row is waited for; a server waits as long for its own lock.
const PATIENCE: Duration = Duration::from_secs(60);
/// The wait before it is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What is held.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// The server's, of the session or of the transaction.
    Server,
    /// The row, with the token of this process.
    Row,
}

/// Waits for the lock. Where it is a row, it is given up after `limit`, if [`let_go`] was not called by then.
pub(super) async fn take<D: Dialect>(session: &mut Session<D>, limit: Duration) -> Result<Lock, Fail> {
    let Some(lock) = D::lock_schema(&session.core.names.prefix) else { return Ok(Lock::Server) };
    match session.rows_once(&lock, &[]).await {
        Ok(rows) if decode::number::<D>(&rows) == Some(1) => Ok(Lock::Server),
        Ok(_) => Err(taken()),
        Err(sqlx::Error::Database(error)) if D::refuses_lock(error.as_ref()) => take_row(session, limit).await,
        Err(error) => Err(error.into()),
    }
}

/// Lets go of it.
pub(super) async fn let_go<D: Dialect>(session: &mut Session<D>, lock: Lock) -> Result<(), Fail> {
    match lock {
        Lock::Row => {
            let token = Value::Int(session.core.token);
            session.rows_once("DELETE FROM {schema}{p}redrive_lock WHERE token = ?", &[token]).await?;
        }
        Lock::Server => {
            if let Some(unlock) = D::unlock_schema(&session.core.names.prefix) {
                session.rows_once(&unlock, &[]).await?;
            }
        }
    }
    Ok(())
}

fn taken() -> Fail {
    Error::Contended("another node is changing the tables".to_owned()).into()
}

async fn take_row<D: Dialect>(session: &mut Session<D>, limit: Duration) -> Result<Lock, Fail> {
    let make = expand::<D>(&session.core.names, D::LOCK_TABLE);
    session.script(make).await?;
    let began = Instant::now();
    loop {
        match put_row(session, limit).await {
            Ok(()) => return Ok(Lock::Row),
            // It is there, or another member of the cluster was faster.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() || is_contended(session, error.as_ref()) => {}
            Err(error) => return Err(error.into()),
        }
        if began.elapsed() >= PATIENCE {
            return Err(taken());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_contended<D: Dialect>(session: &Session<D>, error: &dyn sqlx::error::DatabaseError) -> bool {
    matches!(D::judge(error, session.core.timeout), Error::Contended(_))
}

/// Two statements, each for itself: of several who find that an old row has had its time, one puts its own there. A row of this process is one that it
/// could not let go of: the connection broke.
async fn put_row<D: Dialect>(session: &mut Session<D>, limit: Duration) -> Result<(), sqlx::Error> {
    let token = Value::Int(session.core.token);
    session.rows_once("DELETE FROM {schema}{p}redrive_lock WHERE held_until <= {now} OR token = ?", &[token]).await?;
    let put = "INSERT INTO {schema}{p}redrive_lock (name, token, held_until) VALUES ('tables', ?, {plus {now}|?})";
    session.rows_once(put, &[token, Value::Int(micros(limit))]).await?;
    Ok(())
}
