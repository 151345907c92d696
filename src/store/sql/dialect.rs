//! The differences between the databases, and nothing else: constants, a few SQL phrases, how values are bound and cells read.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Database;
use sqlx::error::BoxDynError;
use tokio::sync::Notify;
use uuid::Uuid;

pub(super) use super::batch::{Batch, Column, Kind, Value};
use super::pool::Core;
pub(super) use crate::store::Id;
use crate::store::config::Migrate;
use crate::store::{Address, Error};

pub(super) type Connection<D> = <<D as Dialect>::Db as Database>::Connection;
pub(super) type Row<D> = <<D as Dialect>::Db as Database>::Row;
pub(super) type Arguments<D> = <<D as Dialect>::Db as Database>::Arguments;

/// A database.
pub(super) trait Dialect: Sized + Send + Sync + fmt::Debug + 'static {
    type Db: Database;

    /// The files in `migrations/`, in order: name and content.
    const MIGRATIONS: &'static [(&'static str, &'static str)];
    /// The current time, in the columns' format.
    const NOW: &'static str;
    /// Ends a SELECT whose rows of the table `l` are about to be changed. A batch that is joined to it can't be locked.
    const LOCK: &'static str;
    /// Ends a SELECT from one table, skipping rows that others have locked.
    const SKIP: &'static str;
    /// Begins a transaction that writes.
    const BEGIN: &'static str;
    /// Whether parameters are numbered.
    const NUMBERED: bool = false;
    /// Whether a change can cheaply return the rows that it changed: MySQL can't at all, SQLite copies them aside first. Where it can't, rows are
    /// read, locked and changed by several statements of one transaction.
    const RETURNING: bool = false;
    /// The ids on all [sheets](super::sheet) `s`: a query without its SELECT, with the one column `h_id`.
    fn on_sheets() -> String;
    /// Follows the SELECT of a subquery that should be run once and looked up in, where the database would otherwise run it again for each row.
    const ONCE: &'static str = "";
    /// Whether comparing two columns with a pair of values uses an index.
    const COMPARES_PAIRS: bool = true;
    /// Whether UPDATE and DELETE join the table to the batch that names its rows: given a subquery instead, MySQL would read the whole table.
    const JOINED: bool = false;
    /// The column that identifies a row between the statements of one transaction.
    const ROW: &'static str = "id";
    /// The column that orders rows with the same due time, as the claim's index does.
    const TIE: &'static str = "id";
    /// The tie of a row whose last column is [`Self::ROW`], if that is not the id.
    fn tie(row: &Row<Self>) -> Option<u128> {
        let _ = row;
        None
    }
    /// The column, if there is one, by which a row is found without an index as long as nobody has changed it.
    const ADDRESS: Option<&'static str> = None;
    /// Whether statements may use it.
    fn is_addressed(&self) -> bool {
        Self::ADDRESS.is_some()
    }
    /// Reads an address.
    fn address(row: &Row<Self>, index: usize) -> Option<Address> {
        let _ = (row, index);
        None
    }
    /// True of waiting rows, where the claim's index holds only those.
    const WAITING: &'static str = "AND level IS NOT NULL";
    /// True of a row that has a due time, phrased so that a queue is read from one end rather than scanned.
    const DATED: &'static str = "due_at IS NOT NULL";
    /// Whether a recursive query can leap through an index from one name to the next. If not, each leap is a statement.
    const LEAPS: bool = true;
    /// A time after which nothing is ever due: later are only invalid text, infinity, and years that nobody will see.
    const FAR: &'static str;
    /// Forces the claim's index, where the optimizer would guess.
    const CLAIM_INDEX: &'static str = "";

    /// A time plus a number of microseconds.
    fn plus(time: &str, micros: &str) -> String;
    /// The later of two times.
    fn later(one: &str, other: &str) -> String;
    /// How a time is selected, for [`Self::time`].
    fn select_time(time: &str) -> String {
        time.to_owned()
    }
    /// How a text is selected, for [`Self::text`].
    fn select_text(text: &str) -> String {
        text.to_owned()
    }
    /// How a binary value is selected, for [`Self::bytes`].
    fn select_bytes(bytes: &str) -> String {
        bytes.to_owned()
    }
    /// True of rows whose source is not text, and for which `more` (`AND …`) holds as well.
    fn sourceless(more: &str) -> String {
        format!("(source IS NULL {more})")
    }
    /// The set of values in the first column of a query, to follow `id`.
    fn within(query: &str) -> String {
        format!("IN ({query})")
    }
    /// A [`Batch`] as a table with these columns.
    fn table(alias: &str, columns: &[(&str, Kind)]) -> String;
    /// How a batch is joined to a table, with the batch leading.
    const JOIN: &'static str = "JOIN";
    /// Makes the database read a joined table by its primary key.
    const BY_KEY: &'static str = "";
    /// Whether DELETE supports USING. Where it doesn't there is a single writer, so a subquery sees the rows that are deleted.
    const DELETE_USING: bool = false;
    /// Whether a batch may hold binary columns.
    const ARRAYS: bool = false;
    /// Follows the table's name in an upsert, so that [`Self::present`] can refer to the old row.
    const AS_OLD: &'static str = "AS o";
    /// The clause of an INSERT that handles an existing key.
    fn upsert(key: &str, assignments: &[(&str, String)]) -> String {
        let assignments: Vec<_> = assignments.iter().map(|(column, value)| format!("{column} = {value}")).collect();
        format!("ON CONFLICT ({key}) DO UPDATE SET {}", assignments.join(", "))
    }
    /// The present value of a column, in an upsert into `{table}`.
    fn present(table: &str, column: &str) -> String {
        let _ = table;
        format!("o.{column}")
    }
    /// The new value of a column in an upsert.
    fn proposed(column: &str) -> String {
        format!("excluded.{column}")
    }
    /// Whether a table exists: a query that returns a number.
    fn exists(schema: Option<&str>, table: &str) -> String;
    /// The default of the column `project` in the database's notation: a query that returns text.
    fn project_default(schema: Option<&str>, table: &str) -> String;
    /// Roughly how many rows a table has: a query that returns a number, negative if unknown.
    fn estimate(schema: Option<&str>, table: &str) -> String;

    /// Binds a value.
    fn bind(arguments: &mut Arguments<Self>, value: &Value<'_>) -> Result<(), BoxDynError>;
    /// Binds the columns of a batch, as [`Self::table`] expects them.
    fn bind_batch(arguments: &mut Arguments<Self>, batch: &Batch<'_>) -> Result<(), BoxDynError>;

    /// Reads a number.
    fn int(row: &Row<Self>, index: usize) -> Result<Option<i64>, Bad>;
    /// Reads a text.
    fn text(row: &Row<Self>, index: usize) -> Result<Option<String>, Bad>;
    /// Reads a binary value.
    fn bytes(row: &Row<Self>, index: usize) -> Result<Option<Vec<u8>>, Bad>;
    /// Reads a time in microseconds since 1970.
    fn time(row: &Row<Self>, index: usize) -> Result<Option<i64>, Bad>;
    /// Reads an id.
    fn id(row: &Row<Self>, index: usize) -> Result<Id, Bad>;
    /// True of the rows that come before one with this id; `None` if no row can have such an id.
    fn before(id: &Id) -> Option<(&'static str, Value<'_>)> {
        matches!(id, Id::Known(_)).then(|| ("id < ?", id.into()))
    }
    /// Reads a list of ids: a JSON list, where the database has no [arrays](Self::ARRAYS).
    fn ids(row: &Row<Self>, index: usize) -> Result<Vec<Uuid>, Bad> {
        let text = Self::text(row, index)?.unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| Bad(error.to_string()))
    }

    /// Where the tables are, to complete a message about them where the configuration alone does not say.
    fn place(&self) -> String {
        String::new()
    }
    /// Whether there is no database, and none should be created.
    fn is_absent(&self) -> bool {
        false
    }

    /// Connects and sets the session up.
    fn connect(&self, role: Role) -> impl Future<Output = Result<Connection<Self>, sqlx::Error>> + Send;
    /// Runs a statement and returns what `take` makes of each row as it arrives.
    fn fetch<T: Send>(
        connection: &mut Connection<Self>,
        sql: Arc<str>,
        arguments: Arguments<Self>,
        keep: bool,
        take: impl FnMut(Row<Self>) -> Option<T> + Send,
    ) -> impl Future<Output = Result<Vec<T>, sqlx::Error>> + Send;
    /// Runs a statement and returns the number of rows that it changed (on MySQL: matched).
    fn execute(
        connection: &mut Connection<Self>,
        sql: Arc<str>,
        arguments: Arguments<Self>,
        keep: bool,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    /// Runs statements unprepared, all in one round trip.
    fn script(connection: &mut Connection<Self>, sql: String) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// What follows BEGIN in the same round trip, for sessions that are shared between clients.
    fn session(&self) -> Option<&str> {
        None
    }
    /// Takes the lock for changing the tables, inside a transaction. It must hold until [`Self::unlock_schema`] or the end of the transaction.
    fn lock_schema(prefix: &str) -> Option<String>;
    /// Releases it, where the end of the transaction does not.
    fn unlock_schema(prefix: &str) -> Option<String> {
        let _ = prefix;
        None
    }
    /// Whether this error to the attempt means that the server does not offer such a lock. A [row](super::lock) of [`Self::LOCK_TABLE`] then takes
    /// its place.
    fn refuses_lock(error: &dyn sqlx::error::DatabaseError) -> bool {
        let _ = error;
        false
    }
    /// Creates the table for that row, if it does not exist.
    const LOCK_TABLE: &'static str = "";
    /// Settings for a session that is about to change tables, which may take long.
    const SCHEMA_SETTINGS: Option<&'static str> = None;
    /// Asks for the server's name and version: a query that returns text.
    const VERSION: &'static str;

    /// What remains to be done once the tables are as they should be.
    fn settle(core: &Arc<Core<Self>>, mode: Migrate) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = (core, mode);
        std::future::ready(Ok(()))
    }
    /// Wakes whenever others commit rows. Never returns where the database can't tell.
    fn listen(core: Arc<Core<Self>>, wake: Arc<Notify>) -> impl Future<Output = ()> + Send {
        let _ = (core, wake);
        std::future::pending()
    }

    /// What an error of the server means.
    fn judge(error: &dyn sqlx::error::DatabaseError, timeout: Duration) -> Error;
}

/// Ids as a JSON list, for databases without arrays.
pub(super) fn listed(ids: &[Uuid]) -> String {
    let mut out = String::with_capacity(ids.len() * 39 + 2);
    for (index, id) in ids.iter().enumerate() {
        out.push_str(if index == 0 { "[\"" } else { ",\"" });
        out.push_str(id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        out.push('"');
    }
    out.push_str(if ids.is_empty() { "[]" } else { "]" });
    out
}

/// The ids in the first column of these rows. Malformed ids are skipped: no batch can have named them.
pub(super) fn known<D: Dialect>(rows: &[Row<D>]) -> Vec<Uuid> {
    rows.iter().filter_map(known_id::<D>).collect()
}

/// The id in the first column of a row, if it is written the way redrive writes ids.
pub(super) fn known_id<D: Dialect>(row: &Row<D>) -> Option<Uuid> {
    if let Ok(Id::Known(id)) = D::id(row, 0) { Some(id) } else { None }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Anything.
    Write,
    /// Reading only.
    Read,
}

/// Why a cell can't be read, in words.
#[derive(Clone, Debug)]
pub(super) struct Bad(pub(super) String);

impl From<sqlx::Error> for Bad {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<BoxDynError> for Bad {
    fn from(error: BoxDynError) -> Self {
        Self(error.to_string())
    }
}

/// The three calls to a driver, whose trait bounds can't be written once for all databases.
macro_rules! driver {
    () => {
        async fn fetch<T: Send>(
            connection: &mut $crate::store::sql::dialect::Connection<Self>,
            sql: std::sync::Arc<str>,
            arguments: $crate::store::sql::dialect::Arguments<Self>,
            keep: bool,
            mut take: impl FnMut($crate::store::sql::dialect::Row<Self>) -> Option<T> + Send,
        ) -> Result<Vec<T>, sqlx::Error> {
            use futures::TryStreamExt;
            let mut rows = sqlx::query_with(sqlx::AssertSqlSafe(sql), arguments).persistent(keep).fetch(connection);
            let mut taken = Vec::new();
            while let Some(row) = rows.try_next().await? {
                taken.extend(take(row));
            }
            Ok(taken)
        }

        async fn execute(
            connection: &mut $crate::store::sql::dialect::Connection<Self>,
            sql: std::sync::Arc<str>,
            arguments: $crate::store::sql::dialect::Arguments<Self>,
            keep: bool,
        ) -> Result<u64, sqlx::Error> {
            Ok(sqlx::query_with(sqlx::AssertSqlSafe(sql), arguments).persistent(keep).execute(connection).await?.rows_affected())
        }

        async fn script(connection: &mut $crate::store::sql::dialect::Connection<Self>, sql: String) -> Result<(), sqlx::Error> {
            use sqlx::Executor;
            connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await?;
            Ok(())
        }
    };
}
pub(super) use driver;
