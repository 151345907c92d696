//! How only one node at a time changes the tables: a lock of the server's or, where the server offers none, a row that names its holder.
//!
//! Clusters refuse MySQL's GET_LOCK, for example Percona's in its strict mode. A row lock is not an alternative: it ends with the first table that is
//! created, and the other members of the cluster don't see it. But they do agree on which row was committed. The row has an expiry, so that a node
//! that dies holds up the others no longer than a change of the tables may take.

use std::time::Duration;

use tokio::time::Instant;

use super::decode;
use super::dialect::{Dialect, Value};
use super::insert::micros;
use super::pool::{Fail, Session};
use super::template::expand;
use crate::store::Error;

/// How long to wait for another node's row; a server waits as long for its own lock.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// The lock that is held.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// The server's, bound to the session or the transaction.
    Server,
    /// The row, with this process's token.
    Row,
}

/// Waits for the lock. If it is a row, it expires after `limit` unless [`let_go`] was called by then.
pub(super) async fn take<D: Dialect>(session: &mut Session<D>, limit: Duration) -> Result<Lock, Fail> {
    let Some(lock) = D::lock_schema(&session.core.names.prefix) else { return Ok(Lock::Server) };
    match session.rows_once(&lock, &[]).await {
        Ok(rows) if decode::number::<D>(&rows) == Some(1) => Ok(Lock::Server),
        Ok(_) => Err(taken()),
        Err(sqlx::Error::Database(error)) if D::refuses_lock(error.as_ref()) => take_row(session, limit).await,
        Err(error) => Err(error.into()),
    }
}

/// Releases it.
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
            // The row exists, or another member of the cluster was faster.
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

/// Two statements, each on its own: of several nodes that find an expired row, only one succeeds in inserting its own. A row with this process's
/// token is a leftover: the connection broke before it was deleted.
async fn put_row<D: Dialect>(session: &mut Session<D>, limit: Duration) -> Result<(), sqlx::Error> {
    let token = Value::Int(session.core.token);
    session.rows_once("DELETE FROM {schema}{p}redrive_lock WHERE held_until <= {now} OR token = ?", &[token]).await?;
    let put = "INSERT INTO {schema}{p}redrive_lock (name, token, held_until) VALUES ('tables', ?, {plus {now}|?})";
    session.rows_once(put, &[token, Value::Int(micros(limit))]).await?;
    Ok(())
}
