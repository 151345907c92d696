//! PostgreSQL's LISTEN: a hint that rows were committed. Polling remains the source of truth.
//!
//! Transactions that notify commit one after another, each with a flush of its own. So at most one statement in [`APART_MS`] notifies: a sequence,
//! which is not subject to transactions, holds the time of the last notification. Rows of the statements that don't notify may be committed slightly
//! later than the one that did, which is why a listener looks again after each notification.

use std::sync::Arc;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::decode;
use super::dialect::Dialect;
use super::pool::{Core, Work};
use super::postgres::Postgres;
use super::template::{Names, expand};
use crate::store::Error;
use crate::store::config::Migrate;

/// The first wait before the listener is rebuilt.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(30);
/// The minimum interval between notifications, in milliseconds.
const APART_MS: u32 = 10;
/// When to look again for rows whose statement did not notify because another had just done so.
const AGAIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(30)];
/// A connection that has been silent for this long is checked.
const QUIET: Duration = Duration::from_secs(30);

/// Wakes whenever rows are committed, until the store is closed.
pub(super) async fn listen(core: Arc<Core<Postgres>>, wake: Arc<Notify>) {
    let core = &core;
    let mut wait = FIRST;
    while !core.closed.is_cancelled() {
        // sqlx's listener does not recover from every error, so it is rebuilt after any.
        let outcome = hear(core, &wake, &mut wait).await;
        if core.closed.is_cancelled() {
            return;
        }
        if let Err(error) = outcome {
            tracing::debug!(error.detail = error.to_string(), retry_ms = wait.as_millis(), "the database's wake-ups are not heard; polling goes on");
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = core.closed.cancelled() => return,
        }
        wait = (wait * 2).min(LONGEST);
    }
}

async fn hear(core: &Core<Postgres>, wake: &Notify, wait: &mut Duration) -> Result<(), sqlx::Error> {
    let connecting = tokio::time::timeout(core.timeout, connect(core)).await;
    let (mut listener, channel) = connecting.map_err(|_| sqlx::Error::PoolTimedOut)??;
    *wait = FIRST;
    // For what was committed while nobody was listening.
    wake.notify_one();
    let (mut heard_at, mut looks) = (Instant::now(), AGAIN.len());
    loop {
        let again = AGAIN.get(looks).copied();
        tokio::select! {
            heard = listener.try_recv() => match heard? {
                Some(_) => {
                    wake.notify_one();
                    (heard_at, looks) = (Instant::now(), 0);
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(heard_at + again.unwrap_or_default()), if again.is_some() => {
                wake.notify_one();
                looks += 1;
            }
            () = tokio::time::sleep(QUIET) => {
                // Without this, a server that vanished silently would never be noticed.
                tokio::time::timeout(core.timeout, listener.listen(&channel)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
            }
            () = core.closed.cancelled() => return Ok(()),
        }
    }
}

async fn connect(core: &Core<Postgres>) -> Result<(PgListener, String), sqlx::Error> {
    let (options, dialect): (PgConnectOptions, _) = (core.dialect.options.clone(), core.dialect.clone());
    let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None).after_connect(move |connection, _| {
        let dialect = dialect.clone();
        Box::pin(async move { dialect.set_up(connection).await })
    });
    let pool = pool.connect_with(options).await?;
    let channel: String = sqlx::query_scalar(AssertSqlSafe(expand::<Postgres>(&core.names, CHANNEL))).fetch_one(&pool).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.ignore_pool_close_event(true);
    listener.eager_reconnect(false);
    listener.listen(&channel).await?;
    Ok((listener, channel))
}

/// The channel of a table. It is derived from the table that the search path finds, so that everybody gets the same one.
const CHANNEL: &str = "SELECT 'redrive_' || md5(n.nspname || '.' || c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('{log}')";

/// Notifies of inserted rows. It runs with its owner's rights, so that applications need none on the sequence.
const CREATE: &str = "CREATE SEQUENCE IF NOT EXISTS {schema}{p}resend_log_told MINVALUE 0;
CREATE OR REPLACE FUNCTION {schema}{p}resend_log_notify() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told regclass := quote_ident(TG_TABLE_SCHEMA) || '.{p}resend_log_told';
    now_ms bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
BEGIN
    -- A clock that was set back is told of too.
    IF (now_ms - coalesce(pg_sequence_last_value(told), 0)) BETWEEN 0 AND {apart} THEN
        RETURN NULL;
    END IF;
    PERFORM setval(told, now_ms), pg_notify('redrive_' || md5(TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME), '');
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS {p}resend_log_notify ON {log};
CREATE TRIGGER {p}resend_log_notify AFTER INSERT ON {log} FOR EACH STATEMENT EXECUTE FUNCTION {schema}{p}resend_log_notify();";

/// Removes the trigger. Printed for people and never run: redrive can't know who else wants it. Another node may share the table, and a node that
/// starts later may lack the rights to create the trigger again.
const DROP: &str =
    "DROP TRIGGER {p}resend_log_notify ON {log}; DROP FUNCTION {schema}{p}resend_log_notify(); DROP SEQUENCE {schema}{p}resend_log_told";

const THERE: &str = "SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass('{log}') AND tgname = '{p}resend_log_notify'";

/// The SQL of the trigger, for those who print it.
pub(super) fn create(names: &Names) -> String {
    expand::<Postgres>(names, &CREATE.replace("{apart}", &(APART_MS - 1).to_string()))
}

/// Creates the trigger if the configuration asks for it; under `verify` it only reports what is wrong. A trigger that exists without being asked for
/// stays.
pub(super) async fn settle(core: &Arc<Core<Postgres>>, mode: Migrate) -> Result<(), Error> {
    let wanted = core.dialect.notify;
    let there = core
        .run(Work::Loose, |session| Box::pin(async move { Ok(decode::number::<Postgres>(&session.rows_once(THERE, &[]).await?).unwrap_or(0) > 0) }));
    if there.await? {
        if !wanted {
            let sql = expand::<Postgres>(&core.names, DROP);
            tracing::info!(sql = %sql,
                "a trigger notifies of new rows although `store.notify` is false; it stays, since other nodes may use it: drop it yourself if none does");
        }
        return Ok(());
    }
    if !wanted {
        return Ok(());
    }
    let change = async {
        if mode == Migrate::Verify {
            return Err(Error::Schema("`store.migrate: verify` changes nothing".to_owned()));
        }
        core.run(Work::Transaction, move |session| {
            Box::pin(async move {
                let names = session.core.names.clone();
                if let Some(lock) = Postgres::lock_schema(&names.prefix) {
                    session.rows_once(&lock, &[]).await?;
                }
                // Another node may have been faster.
                if decode::number::<Postgres>(&session.rows_once(THERE, &[]).await?).unwrap_or(0) == 0 {
                    session.script(create(&names)).await?;
                }
                Ok(())
            })
        })
        .await
    };
    match change.await {
        Ok(()) => {}
        Err(error) if error.is_transient() => return Err(error),
        // It is only a hint: the store works without it.
        Err(error) => tracing::warn!(error.detail = error.to_string(), "the trigger that notifies of new rows could not be created"),
    }
    Ok(())
}
