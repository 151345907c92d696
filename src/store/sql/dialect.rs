//! What differs between the databases, and nothing else: constants, a few phrases of SQL, how a value is bound and a cell is read.

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

/// A connection of a dialect.
pub(super) type Connection<D> = <<D as Dialect>::Db as Database>::Connection;
/// A row of a dialect.
pub(super) type Row<D> = <<D as Dialect>::Db as Database>::Row;
/// The arguments of a statement of a dialect.
pub(super) type Arguments<D> = <<D as Dialect>::Db as Database>::Arguments;

/// A database.
pub(super) trait Dialect: Sized + Send + Sync + fmt::Debug + 'static {
    /// Its driver.
    type Db: Database;

    /// The files of `migrations/`, in order: name and text.
    const MIGRATIONS: &'static [(&'static str, &'static str)];
    /// The present time as the columns hold it.
    const NOW: &'static str;
    /// Follows a SELECT whose rows of the table `l` are about to be changed. A batch that is joined with it can't be locked.
    const LOCK: &'static str;
    /// Follows a SELECT of one table, passing over rows that others hold.
    const SKIP: &'static str;
    /// Begins a transaction that writes.
    const BEGIN: &'static str;
    /// Whether parameters are numbered.
    const NUMBERED: bool = false;
    /// Whether a change answers the rows that it changed, at no great cost: MySQL's answers none, SQLite puts them aside first. Where not, rows
    /// are read, locked and changed by several statements of one transaction.
    const RETURNING: bool = false;
    /// The ids on all [sheets](super::sheet) `s`: a query from its column on, which is called `h_id`.
    fn on_sheets() -> String;
    /// Follows the SELECT of a query whose answer is looked into for each row of another, where it would be asked for each of them.
    const ONCE: &'static str = "";
    /// Whether two columns that are compared with two values at once are looked up in an index.
    const COMPARES_PAIRS: bool = true;
    /// Whether UPDATE and DELETE join the table to the batch that names its rows: MySQL would look for what a subquery names by reading all.
    const JOINED: bool = false;
    /// What names a row from one statement of a transaction to the next.
    const ROW: &'static str = "id";
    /// What orders those that are due at one time, as the claim's index does.
    const TIE: &'static str = "id";
    /// The same of a row whose last column is [`Self::ROW`], where that is not its id.
    fn tie(row: &Row<Self>) -> Option<u128> {
        let _ = row;
        None
    }
    /// The column by which a row is found without an index for as long as nobody changes it, if there is one.
    const ADDRESS: Option<&'static str> = None;
    /// Whether statements may name it.
    fn is_addressed(&self) -> bool {
        Self::ADDRESS.is_some()
    }
    /// Reads an address.
    fn address(row: &Row<Self>, index: usize) -> Option<Address> {
        let _ = (row, index);
        None
    }
    /// True of the rows that wait, where the claim's index holds those alone.
    const WAITING: &'static str = "AND level IS NOT NULL";
    /// True of a row that has a due time, said so that a queue is read from one end and not looked through.
    const DATED: &'static str = "due_at IS NOT NULL";
    /// Whether a recursive query leaps through an index from one name to the next. Where not, each leap is a statement.
    const LEAPS: bool = true;
    /// A time after which nothing is ever due: text that is no time, infinity, or a year that nobody sees.
    const FAR: &'static str;
    /// What makes a rule of the claim's index where the optimizer would guess.
    const CLAIM_INDEX: &'static str = "";

    /// A time so many microseconds after another.
    fn plus(time: &str, micros: &str) -> String;
    /// The later of two times.
    fn later(one: &str, other: &str) -> String;
    /// A time as it is selected, for [`Self::time`].
    fn select_time(time: &str) -> String {
        time.to_owned()
    }
    /// A text as it is selected, for [`Self::text`].
    fn select_text(text: &str) -> String {
        text.to_owned()
    }
    /// A binary value as it is selected, for [`Self::bytes`].
    fn select_bytes(bytes: &str) -> String {
        bytes.to_owned()
    }
    /// True of rows whose source is no text and of which more holds, if `AND …` is given.
    fn sourceless(more: &str) -> String {
        format!("(source IS NULL {more})")
    }
    /// A set of the first column of a query, for `id …`.
    fn within(query: &str) -> String {
        format!("IN ({query})")
    }
    /// A table of the columns of a [`Batch`].
    fn table(alias: &str, columns: &[(&str, Kind)]) -> String;
    /// How a batch is joined to a table, the batch leading.
    const JOIN: &'static str = "JOIN";
    /// Has a joined table read by its key.
    const BY_KEY: &'static str = "";
    /// Whether DELETE takes USING. Where not, there is one writer, so that a subquery sees what is deleted.
    const DELETE_USING: bool = false;
    /// Whether a batch may hold binary columns.
    const ARRAYS: bool = false;
    /// What follows the table's name in an upsert, so that [`Self::present`] can name the old row.
    const AS_OLD: &'static str = "AS o";
    /// The answer of an INSERT to a key that is there.
    fn upsert(key: &str, assignments: &[(&str, String)]) -> String {
        let assignments: Vec<_> = assignments.iter().map(|(column, value)| format!("{column} = {value}")).collect();
        format!("ON CONFLICT ({key}) DO UPDATE SET {}", assignments.join(", "))
    }
    /// The present value of a column in an upsert into `{table}`.
    fn present(table: &str, column: &str) -> String {
        let _ = table;
        format!("o.{column}")
    }
    /// The new value of a column in an upsert.
    fn proposed(column: &str) -> String {
        format!("excluded.{column}")
    }
    /// Whether a table exists: a query that answers a number.
    fn exists(schema: Option<&str>, table: &str) -> String;
    /// The default of the column `project` as the database tells it: a query that answers a text.
    fn project_default(schema: Option<&str>, table: &str) -> String;
    /// About how many rows a table has: a query that answers a number, negative when it is not known.
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
    /// True of the rows that come before one with this id; nothing where none can have such an id.
    fn before(id: &Id) -> Option<(&'static str, Value<'_>)> {
        matches!(id, Id::Known(_)).then(|| ("id < ?", id.into()))
    }
    /// Reads a list of ids: a JSON list, where there are no [arrays](Self::ARRAYS).
    fn ids(row: &Row<Self>, index: usize) -> Result<Vec<Uuid>, Bad> {
        let text = Self::text(row, index)?.unwrap_or_default();
        serde_json::from_str(&text).map_err(|error| Bad(error.to_string()))
    }

    /// Where the tables are, to follow what is said of them, if the configuration alone does not tell.
    fn place(&self) -> String {
        String::new()
    }
    /// Whether there is no database at all, and none is to be made.
    fn is_absent(&self) -> bool {
        false
    }

    /// Connects and sets the session up.
    fn connect(&self, role: Role) -> impl Future<Output = Result<Connection<Self>, sqlx::Error>> + Send;
    /// Runs a statement and gives what is taken of its rows, each as it comes.
    fn fetch<T: Send>(
        connection: &mut Connection<Self>,
        sql: Arc<str>,
        arguments: Arguments<Self>,
        keep: bool,
        take: impl FnMut(Row<Self>) -> Option<T> + Send,
    ) -> impl Future<Output = Result<Vec<T>, sqlx::Error>> + Send;
    /// Runs a statement and gives the number of rows that it changed (matched, on MySQL).
    fn execute(
        connection: &mut Connection<Self>,
        sql: Arc<str>,
        arguments: Arguments<Self>,
        keep: bool,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    /// Runs statements as they are, all in one.
    fn script(connection: &mut Connection<Self>, sql: String) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// What follows BEGIN in the same round trip; for sessions that belong to nobody.
    fn session(&self) -> Option<&str> {
        None
    }
    /// Takes the lock under which tables are changed, inside a transaction. It must hold until [`Self::unlock_schema`] or the transaction's end.
    fn lock_schema(prefix: &str) -> Option<String>;
    /// Lets go of it, where the end of the transaction does not.
    fn unlock_schema(prefix: &str) -> Option<String> {
        let _ = prefix;
        None
    }
    /// Whether an answer to it says that this server gives no such lock: a [row](super::lock) of [`Self::LOCK_TABLE`] takes its place.
    fn refuses_lock(error: &dyn sqlx::error::DatabaseError) -> bool {
        let _ = error;
        false
    }
    /// Makes the table of that row, if it is not there.
    const LOCK_TABLE: &'static str = "";
    /// What a session that changes tables is told first: that may take long.
    const SCHEMA_SETTINGS: Option<&'static str> = None;
    /// Asks the server what it is: a query that answers a text.
    const VERSION: &'static str;

    /// What is left to do once the tables are as they should be.
    fn settle(core: &Arc<Core<Self>>, mode: Migrate) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = (core, mode);
        std::future::ready(Ok(()))
    }
    /// Wakes whenever rows are committed by others. Where that can't be told, never returns.
    fn listen(core: Arc<Core<Self>>, wake: Arc<Notify>) -> impl Future<Output = ()> + Send {
        let _ = (core, wake);
        std::future::pending()
    }

    /// What an answer of the server means.
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

/// The ids of rows whose first column is one. Odd ones can't have been named by a batch.
pub(super) fn known<D: Dialect>(rows: &[Row<D>]) -> Vec<Uuid> {
    rows.iter().filter_map(known_id::<D>).collect()
}

/// The id of a row whose first column is one, if it is written as redrive writes it.
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

/// Why a cell can't be read, for people.
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

/// The three calls of a driver, whose bounds can't be written once for all databases.
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
