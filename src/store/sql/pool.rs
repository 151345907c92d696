//! The unit of work on a connection. It is never dropped half-way, so that no transaction is left open for the connection's next user.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::connections::Pool;
use super::dialect::{Arguments, Connection, Dialect, Role, Row, Value};
use super::template::{Names, render};
use crate::store::{Error, Observer};

/// People who look at messages share a quarter of the connections, at least one.
const LOOKERS: u32 = 4;
/// And wait this long for one.
const TURN: Duration = Duration::from_secs(2);

/// The kind of a unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// One statement that reads.
    Read,
    /// One statement that writes (or several in a transaction, where changes don't return rows).
    Write,
    /// Several statements that take effect together or not at all.
    Transaction,
    /// Several statements, each on its own.
    Loose,
}

/// Why a unit of work failed.
#[derive(Debug)]
pub(super) enum Fail {
    Sql(sqlx::Error),
    Store(Error),
}

impl From<sqlx::Error> for Fail {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fail {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// What all units of work of a store share.
#[derive(Debug)]
pub(super) struct Core<D: Dialect> {
    pub(super) dialect: D,
    pub(super) names: Names,
    pub(super) timeout: Duration,
    /// Identifies this process when it changes the tables.
    pub(super) token: i64,
    /// Cancelled once the store is closed.
    pub(super) closed: CancellationToken,
    /// Whether statements stay prepared on their connection.
    keep: bool,
    statements: RwLock<HashMap<&'static str, Arc<str>>>,
    write: Pool<D>,
    read: Option<Pool<D>>,
    lookers: Arc<Semaphore>,
    observer: Observed,
}

/// The observer of how long units of work take.
struct Observed(Observer);

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observed")
    }
}

/// Whether a TLS handshake failed because the connection ended, and not because of what either side wants.
fn is_lost(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        // For the end of the connection OpenSSL has only these words.
        matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof))
            || error.to_string().to_ascii_lowercase().contains("unexpected eof")
    })
}

/// A connection while a unit of work is using it.
pub(super) struct Session<D: Dialect> {
    pub(super) core: Arc<Core<D>>,
    connection: Connection<D>,
}

impl<D: Dialect> Core<D> {
    pub(super) fn new(dialect: D, names: Names, timeout: Duration, keep: bool, pool: u32, one_writer: bool, observer: Observer) -> Self {
        let (write, read) = if one_writer { (1, Some(Pool::new(pool, Role::Read))) } else { (pool, None) };
        Self {
            dialect,
            names,
            timeout,
            token: rand::random(),
            closed: CancellationToken::new(),
            keep,
            statements: RwLock::default(),
            write: Pool::new(write, Role::Write),
            read,
            lookers: Arc::new(Semaphore::new((pool / LOOKERS).max(1) as usize)),
            observer: Observed(observer),
        }
    }

    /// The SQL of a statement, rendered on first use.
    pub(super) fn sql(&self, name: &'static str, template: impl FnOnce() -> String) -> Arc<str> {
        if let Some(sql) = self.statements.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return sql.clone();
        }
        let sql: Arc<str> = render::<D>(&self.names, &template()).into();
        self.statements.write().unwrap_or_else(PoisonError::into_inner).insert(name, sql.clone());
        sql
    }

    /// Runs a unit of work in a task of its own, so that it is finished or undone whatever happens to the caller. A unit that is still waiting for a
    /// connection is dropped along with its caller.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: Work,
        unit: impl for<'c> FnOnce(&'c mut Session<D>) -> BoxFuture<'c, Result<T, Fail>> + Send + 'static,
    ) -> Result<T, Error> {
        self.run_within(work, self.timeout, unit).await
    }

    /// As [`Self::run`]; the observer is given the duration, including the wait for a connection.
    pub(super) async fn observed<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        work: Work,
        unit: impl for<'c> FnOnce(&'c mut Session<D>) -> BoxFuture<'c, Result<T, Fail>> + Send + 'static,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = self.run(work, unit).await;
        (self.observer.0)(name, began.elapsed());
        result
    }

    /// As [`Self::observed`], for people who look at messages: however many there are, and however long the database takes, sending always finds a
    /// connection.
    pub(super) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        unit: impl for<'c> FnOnce(&'c mut Session<D>) -> BoxFuture<'c, Result<T, Fail>> + Send + 'static,
    ) -> Result<T, Error> {
        let Ok(Ok(turn)) = timeout(TURN, self.lookers.clone().acquire_owned()).await else { return Err(Error::Busy(TURN)) };
        self.observed(name, Work::Read, move |session| {
            Box::pin(async move {
                // The permit belongs to the unit of work, not to the caller, who may go away before it is done.
                let _turn = turn;
                unit(session).await
            })
        })
        .await
    }

    /// As [`Self::run`], with a different time limit: changing the tables may take long.
    pub(super) async fn run_within<T: Send + 'static>(
        self: &Arc<Self>,
        work: Work,
        limit: Duration,
        unit: impl for<'c> FnOnce(&'c mut Session<D>) -> BoxFuture<'c, Result<T, Fail>> + Send + 'static,
    ) -> Result<T, Error> {
        let deadline = tokio::time::Instant::now() + limit;
        let permit = match timeout_at(deadline, self.pool(work).permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(self.judge(&sqlx::Error::PoolClosed)),
            Err(_) => return Err(Error::TimedOut(limit)),
        };
        match tokio::spawn(self.clone().unit(work, permit, (deadline, limit), unit)).await {
            Ok(result) => result,
            // If one message makes it panic, the rest of the batch should not suffer: a refused batch is halved.
            Err(error) if error.is_panic() => Err(Error::Refused("redrive panicked; this is a bug in redrive, please report it".to_owned())),
            Err(error) => Err(Error::Unavailable(format!("the work was cut off: {error}"))),
        }
    }

    fn pool(&self, work: Work) -> &Pool<D> {
        match (&self.read, work) {
            (Some(read), Work::Read) => read,
            _ => &self.write,
        }
    }

    async fn unit<T: Send + 'static>(
        self: Arc<Self>,
        work: Work,
        permit: OwnedSemaphorePermit,
        (deadline, limit): (tokio::time::Instant, Duration),
        unit: impl for<'c> FnOnce(&'c mut Session<D>) -> BoxFuture<'c, Result<T, Fail>> + Send + 'static,
    ) -> Result<T, Error> {
        let pool = self.pool(work);
        let connection = match timeout_at(deadline, pool.connection(&self.dialect)).await {
            Ok(Ok(connection)) => connection,
            // Whatever the server answers to a connection attempt, it is not a verdict on the statement that was to follow.
            Ok(Err(error)) => {
                return Err(match self.judge(&error) {
                    Error::Refused(why) => Error::Unavailable(why),
                    error => error,
                });
            }
            Err(_) => return Err(Error::TimedOut(limit)),
        };
        let bracket = match work {
            Work::Transaction => true,
            Work::Write => !D::RETURNING || self.dialect.session().is_some(),
            Work::Read | Work::Loose => self.dialect.session().is_some(),
        };
        let mut session = Session { core: self.clone(), connection };
        let done = timeout_at(deadline, session.perform(bracket, work, unit)).await;
        let (result, healthy) = match done {
            Ok((Ok(value), healthy)) => (Ok(value), healthy),
            Ok((Err(Fail::Store(error)), healthy)) => (Err(error), healthy),
            Ok((Err(Fail::Sql(error)), healthy)) => {
                let healthy = healthy && matches!(error, sqlx::Error::Database(_));
                let error = self.judge(&error);
                let healthy = healthy && !matches!(error, Error::Unavailable(_));
                (Err(error), healthy)
            }
            Err(_) => (Err(Error::TimedOut(limit)), false),
        };
        if healthy {
            pool.give_back(session.connection);
        } else {
            // Dropping the connection ends its session and any open transaction.
            drop(session);
            if matches!(result, Err(Error::Unavailable(_))) {
                pool.idle().clear();
            }
        }
        drop(permit);
        result
    }

    /// What an error of the driver means.
    pub(super) fn judge(&self, error: &sqlx::Error) -> Error {
        match error {
            sqlx::Error::Database(error) => D::judge(error.as_ref(), self.timeout),
            sqlx::Error::Configuration(error) => Error::Config(format!("the database can't be reached as configured: {error}")),
            sqlx::Error::Tls(error) if is_lost(&**error) => Error::Unavailable(format!("the connection was lost during the TLS handshake: {error}")),
            sqlx::Error::Tls(error) => Error::Config(format!("the TLS connection to the database failed: {error}")),
            sqlx::Error::Encode(error) => Error::Refused(format!("a value can't be written: {error}")),
            sqlx::Error::PoolClosed => Error::Unavailable("the store is closed".to_owned()),
            other => Error::Unavailable(other.to_string()),
        }
    }

    /// Drops the idle connections.
    pub(super) fn forget(&self) {
        self.write.idle().clear();
        if let Some(read) = &self.read {
            read.idle().clear();
        }
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        self.write.close().await;
        if let Some(read) = &self.read {
            read.close().await;
        }
    }
}

impl<D: Dialect> Session<D> {
    /// Runs the work between BEGIN and COMMIT, where it needs them. Also returns whether the connection can be used again.
    async fn perform<T>(
        &mut self,
        bracket: bool,
        work: Work,
        unit: impl for<'c> FnOnce(&'c mut Self) -> BoxFuture<'c, Result<T, Fail>>,
    ) -> (Result<T, Fail>, bool) {
        if !bracket {
            return (unit(self).await, true);
        }
        let begin = if work == Work::Read { "BEGIN" } else { D::BEGIN };
        let begin = self.core.dialect.session().map_or_else(|| begin.to_owned(), |settings| format!("{begin}; {settings}"));
        if let Err(error) = self.script(begin).await {
            return (Err(error.into()), false);
        }
        match unit(self).await {
            Ok(value) => match self.script("COMMIT".to_owned()).await {
                Ok(()) => (Ok(value), true),
                Err(error) => (Err(error.into()), false),
            },
            Err(fail) => {
                let healthy = match &fail {
                    Fail::Sql(sqlx::Error::Database(_)) | Fail::Store(_) => self.script("ROLLBACK".to_owned()).await.is_ok(),
                    Fail::Sql(_) => false,
                };
                (Err(fail), healthy)
            }
        }
    }

    fn arguments(values: &[Value<'_>]) -> Result<Arguments<D>, sqlx::Error> {
        let mut arguments = Arguments::<D>::default();
        for value in values {
            D::bind(&mut arguments, value).map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }

    /// Runs a statement and returns its rows.
    pub(super) async fn rows(&mut self, sql: Arc<str>, values: &[Value<'_>]) -> Result<Vec<Row<D>>, sqlx::Error> {
        self.each(sql, values, Some).await
    }

    /// Runs a statement and returns what `take` makes of its rows. Each is read and dropped as it arrives, while it is in the processor's cache.
    pub(super) async fn each<T: Send>(
        &mut self,
        sql: Arc<str>,
        values: &[Value<'_>],
        take: impl FnMut(Row<D>) -> Option<T> + Send,
    ) -> Result<Vec<T>, sqlx::Error> {
        D::fetch(&mut self.connection, sql, Self::arguments(values)?, self.core.keep, take).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    pub(super) async fn execute(&mut self, sql: Arc<str>, values: &[Value<'_>]) -> Result<u64, sqlx::Error> {
        D::execute(&mut self.connection, sql, Self::arguments(values)?, self.core.keep).await
    }

    /// As [`Self::rows`], for a statement that is run seldom and not kept prepared.
    pub(super) async fn rows_once(&mut self, template: &str, values: &[Value<'_>]) -> Result<Vec<Row<D>>, sqlx::Error> {
        let sql = render::<D>(&self.core.names, template).into();
        D::fetch(&mut self.connection, sql, Self::arguments(values)?, false, Some).await
    }

    /// Runs statements unprepared.
    pub(super) async fn script(&mut self, sql: String) -> Result<(), sqlx::Error> {
        D::script(&mut self.connection, sql).await
    }

    /// The SQL of a statement, rendered on first use.
    pub(super) fn sql(&self, name: &'static str, template: impl FnOnce() -> String) -> Arc<str> {
        self.core.sql(name, template)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::connections::{PATIENCE, WAITS};
    use super::super::sqlite::Sqlite;
    use super::*;

    /// A node keeps one connection while it has little to do, and a busy one gets more.
    #[tokio::test]
    async fn what_overlaps_seldom_shares_a_connection() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_secs(10);
        let dialect = Sqlite { file: folder.path().join("redrive.db"), create: true, busy: limit, cache: 100 };
        let names = Names { schema: None, prefix: String::new(), project: "orders".to_owned() };
        let core = Arc::new(Core::new(dialect, names, limit, true, 4, false, Arc::new(|_, _| {})));
        let spare = || core.write.idle().len();
        let held = |count: usize| {
            let core = core.clone();
            async move {
                let (begun, begins) = oneshot::channel();
                let (release, released) = oneshot::channel::<()>();
                let one = core.run(Work::Read, |_| {
                    Box::pin(async move {
                        let _ = begun.send(());
                        let _ = released.await;
                        Ok(())
                    })
                });
                let others = async {
                    begins.await.unwrap();
                    let others = (0..count).map(|_| core.run(Work::Read, |_| Box::pin(async { Ok(()) })));
                    // They ask for their connections before the first gives its own back.
                    tokio::join!(biased; futures::future::join_all(others), async { release.send(()) }).0
                };
                tokio::join!(one, others).0.unwrap();
            }
        };
        // On a machine that stands still for long enough, one is opened after all.
        let mut rounds = 0;
        while {
            core.forget();
            held(1).await;
            spare() > 1
        } {
            rounds += 1;
            assert!(rounds < 20, "each has a connection of its own");
            tokio::time::sleep(PATIENCE).await;
        }
        for _ in 0..=WAITS {
            held(2).await;
        }
        assert!(spare() > 1, "where much overlaps, more are opened");
    }
}
