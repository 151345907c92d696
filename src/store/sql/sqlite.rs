//! SQLite: a file beside the sidecar. One writer, many readers, times in whole milliseconds since 1970.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::sqlite::{Sqlite as Driver, SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{Arguments as _, ConnectOptions as _, Connection as _, Row as _, TypeInfo as _, ValueRef as _};
use tokio::time::Instant;

use super::dialect::{Bad, Batch, Dialect, Id, Kind, Role, Value, driver, listed};
use crate::store::Error;

#[cfg(test)]
mod plans;

/// The pause before reopening a file that another process is switching to WAL.
const PAUSE: Duration = Duration::from_millis(20);

/// The mode of files that redrive creates, before the umask: they contain every payload.
pub(super) const MODE: u32 = 0o660;

/// Creates the file, which SQLite on its own would make readable for everybody; SQLite gives the files beside it the same mode. An existing file is
/// left as it is, and not opened: closing it would release the locks that this process has on it.
fn make(file: &Path) {
    // SQLite opens it next, and reports whatever is wrong.
    let _ = OpenOptions::new().write(true).create_new(true).mode(MODE).open(file);
}

/// SQLite.
#[derive(Clone, Debug)]
pub(super) struct Sqlite {
    pub(super) file: PathBuf,
    /// Whether the file is created if it does not exist.
    pub(super) create: bool,
    pub(super) busy: Duration,
    pub(super) cache: usize,
}

impl Dialect for Sqlite {
    type Db = Driver;

    const MIGRATIONS: &'static [(&'static str, &'static str)] = &[
        ("0001_tables", include_str!("../../../migrations/sqlite/0001_tables.sql")),
        ("0002_sheets", include_str!("../../../migrations/sqlite/0002_sheets.sql")),
        ("0003_queue", include_str!("../../../migrations/sqlite/0003_queue.sql")),
        ("0004_sample", include_str!("../../../migrations/sqlite/0004_sample.sql")),
    ];
    // Not unixepoch('subsec'): the tables' defaults run in the application's version of SQLite, and both must agree.
    const NOW: &'static str = "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)";
    const LOCK: &'static str = "";
    const SKIP: &'static str = "";
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    // Found without the key's index, and present whatever an application wrote as the id.
    const ROW: &'static str = "rowid";
    const TIE: &'static str = "rowid";
    // SQLite does not reorder a CROSS JOIN.
    const JOIN: &'static str = "CROSS JOIN";
    // Text and blobs sort after every number.
    const FAR: &'static str = "253402300799999";
    const VERSION: &'static str = "SELECT 'SQLite ' || sqlite_version()";

    fn tie(row: &SqliteRow) -> Option<u128> {
        Self::int(row, row.len() - 1).ok()?.map(|rowid| u128::try_from(rowid).unwrap_or(0))
    }

    fn on_sheets() -> String {
        "u.value AS h_id FROM {sheet} s, json_each(s.ids) AS u".to_owned()
    }

    fn plus(time: &str, micros: &str) -> String {
        format!("({time} + {micros} / 1000)")
    }

    fn later(one: &str, other: &str) -> String {
        format!("max({one}, {other})")
    }

    fn select_text(text: &str) -> String {
        format!("CAST({text} AS TEXT)")
    }

    fn select_bytes(bytes: &str) -> String {
        format!("CAST({bytes} AS BLOB)")
    }

    // Each half uses a partial index only if it states the index's own condition.
    fn sourceless(more: &str) -> String {
        format!("(source IS NULL {more} OR source >= x'' {more})")
    }

    fn table(alias: &str, columns: &[(&str, Kind)]) -> String {
        let columns: Vec<_> = columns.iter().enumerate().map(|(index, (name, _))| format!("json_extract(value, '$[{index}]') AS {name}")).collect();
        format!("(SELECT {} FROM json_each(?)) AS {alias}", columns.join(", "))
    }

    fn exists(_: Option<&str>, table: &str) -> String {
        format!("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{table}'")
    }

    fn project_default(_: Option<&str>, table: &str) -> String {
        format!("SELECT dflt_value FROM pragma_table_info('{table}') WHERE name = 'project'")
    }

    fn estimate(_: Option<&str>, table: &str) -> String {
        // A query for both at once would read the whole table.
        format!("SELECT coalesce((SELECT max(rowid) FROM {table}) - (SELECT min(rowid) FROM {table}) + 1, 0)")
    }

    fn bind(arguments: &mut SqliteArguments, value: &Value<'_>) -> Result<(), BoxDynError> {
        match value {
            Value::Int(int) => arguments.add(*int),
            Value::Text(text) => arguments.add((*text).to_owned()),
            Value::MaybeText(text) => arguments.add(text.map(str::to_owned)),
            Value::MaybeBytes(bytes) => arguments.add(bytes.map(<[u8]>::to_vec)),
            Value::Ids(ids) => arguments.add(listed(ids)),
            Value::Id(id) => arguments.add(id.as_hyphenated().to_string()),
            Value::Tie(rowid) => arguments.add(i64::try_from(*rowid).unwrap_or(i64::MAX)),
            Value::Time(at) => arguments.add(at.map(|at| at.timestamp_millis())),
            Value::Batch(batch) => Self::bind_batch(arguments, batch),
        }
    }

    fn bind_batch(arguments: &mut SqliteArguments, batch: &Batch<'_>) -> Result<(), BoxDynError> {
        arguments.add(batch.to_json(|at: DateTime<Utc>| at.timestamp_millis().into()))
    }

    fn int(row: &SqliteRow, index: usize) -> Result<Option<i64>, Bad> {
        Ok(row.try_get(index)?)
    }

    fn text(row: &SqliteRow, index: usize) -> Result<Option<String>, Bad> {
        Ok(row.try_get_unchecked(index)?)
    }

    fn bytes(row: &SqliteRow, index: usize) -> Result<Option<Vec<u8>>, Bad> {
        Ok(row.try_get_unchecked(index)?)
    }

    fn time(row: &SqliteRow, index: usize) -> Result<Option<i64>, Bad> {
        let value = row.try_get_raw(index)?;
        if value.is_null() {
            return Ok(None);
        }
        let millis = match value.type_info().name() {
            // An application's own arithmetic may leave a fraction. Rounded up, so that no row lies behind the mark that is made of it.
            "REAL" => {
                let millis: f64 = row.try_get_unchecked(index)?;
                #[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
                let millis = millis.ceil() as i64;
                millis
            }
            "INTEGER" | "INT4" | "INT8" => row.try_get_unchecked(index)?,
            other => return Err(Bad(format!("is {other}, not a time"))),
        };
        Ok(Some(millis.saturating_mul(1000)))
    }

    fn id(row: &SqliteRow, index: usize) -> Result<Id, Bad> {
        let value = row.try_get_raw(index)?;
        if value.type_info().name() == "BLOB" {
            return Ok(Id::Bytes(row.try_get_unchecked(index)?));
        }
        let bytes: Vec<u8> = row.try_get_unchecked(index)?;
        Ok(String::from_utf8(bytes).map_or_else(|error| Id::Raw(error.into_bytes()), Id::of))
    }

    fn before(id: &Id) -> Option<(&'static str, Value<'_>)> {
        Some((if matches!(id, Id::Raw(_)) { "id < CAST(? AS TEXT)" } else { "id < ?" }, id.into()))
    }

    fn place(&self) -> String {
        // A relative path starts at whatever folder redrive was started in.
        let file = std::path::absolute(&self.file).unwrap_or_else(|_| self.file.clone());
        format!(" in {}{}", file.display(), if self.is_absent() { ", which is not there" } else { "" })
    }

    fn is_absent(&self) -> bool {
        !self.create && !self.file.exists()
    }

    async fn connect(&self, role: Role) -> Result<SqliteConnection, sqlx::Error> {
        let creates = self.create && role == Role::Write;
        if creates {
            make(&self.file);
        }
        let options = SqliteConnectOptions::new()
            .filename(&self.file)
            .create_if_missing(creates)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(self.busy)
            .foreign_keys(false)
            // What a transaction may have to roll back stays in memory: a container may have no place for temporary files.
            .pragma("temp_store", "memory")
            .statement_cache_capacity(self.cache.max(16))
            .disable_statement_logging();
        let deadline = Instant::now() + self.busy;
        loop {
            match SqliteConnection::connect_with(&options).await {
                // SQLite does not wait for another process that is switching the file to WAL (https://sqlite.org/c3ref/busy_handler.html).
                Err(sqlx::Error::Database(error))
                    if matches!(Self::judge(error.as_ref(), self.busy), Error::Contended(_)) && Instant::now() < deadline =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                connection => return connection,
            }
        }
    }

    driver!();

    fn lock_schema(_: &str) -> Option<String> {
        None
    }

    fn judge(error: &dyn DatabaseError, _: Duration) -> Error {
        let text = error.message().to_owned();
        let code = error.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or(0);
        match code & 0xff {
            5 | 6 => Error::Contended(text),
            // Out of memory, a read-only file, an I/O error, a full disk: once somebody makes room, what was refused gets written.
            7 | 8 | 10 | 13 | 15 => Error::Unavailable(text),
            14 | 23 | 26 => Error::Config(format!("the SQLite file can't be used: {text}")),
            1 if text.starts_with("no such table") || text.starts_with("no such column") => Error::Schema(text),
            _ => Error::Refused(text),
        }
    }
}
