//! PostgreSQL 13 and later: changes return their rows, arrays are parameters, LISTEN and NOTIFY.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::encode::IsNull;
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::postgres::types::Oid;
use sqlx::postgres::{
    PgArgumentBuffer, PgArguments, PgConnectOptions, PgConnection, PgRow, PgSslMode, PgTypeInfo, PgValueFormat, Postgres as Driver,
};
use sqlx::{Arguments as _, ConnectOptions as _, Connection as _, Row as _, ValueRef as _};
use tokio::sync::Notify;
use uuid::Uuid;

use super::dialect::{Bad, Batch, Column, Dialect, Id, Kind, Role, Value, driver};
use super::listen;
use super::nodelay;
use super::open::Login;
use super::pool::Core;
use crate::fault::Fault;
use crate::store::config::Migrate;
use crate::store::{Address, Config, Error};
use crate::tls::Pem;

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
const EPOCH: i64 = 946_684_800_000_000;

/// PostgreSQL.
#[derive(Clone)]
pub(super) struct Postgres {
    pub(super) options: PgConnectOptions,
    /// The settings of a new session.
    setup: Option<String>,
    /// The settings as they are repeated in each transaction, for sessions behind PgBouncer in transaction mode, where settings don't last.
    pub(super) session: Option<String>,
    /// Whether a trigger notifies of new rows.
    pub(super) notify: bool,
}

impl fmt::Debug for Postgres {
    // The options would show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("session", &self.session).field("notify", &self.notify).finish_non_exhaustive()
    }
}

impl Postgres {
    /// From where the server is and the certificates.
    pub(super) fn try_new(login: &Login, config: &Config, pem: Option<Pem>) -> Result<Self, Vec<Fault>> {
        // sqlx's own message may repeat parts of the URL.
        let options = PgConnectOptions::from_str(&login.url)
            .map_err(|_| vec![Fault::new("url", "is not a valid PostgreSQL URL (check the port and the parameters)")])?;
        let options = login.password.iter().fold(options, |options, password| options.password(password.expose()));
        let mut options = options.disable_statement_logging().statement_cache_capacity(config.statement_cache as usize).extra_float_digits(None);
        if options.get_application_name().is_none() {
            options = options.application_name("redrive");
        }
        if let Some(Pem { ca, identity }) = pem {
            let mode = if ca.is_some() { PgSslMode::VerifyFull } else { PgSslMode::Require };
            // The URL may ask for something stricter than TLS without an authority.
            if ca.is_some() || !matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull) {
                options = options.ssl_mode(mode);
            }
            if let Some(ca) = ca {
                options = options.ssl_root_cert_from_pem(ca);
            }
            if let Some((cert, key)) = identity {
                options = options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key);
            }
        }
        let settings = settings(config.timeout.get());
        let (setup, session) = if config.statement_cache == 0 {
            // In PgBouncer's transaction mode a session belongs to nobody.
            (None, Some(script("SET LOCAL", settings)))
        } else {
            // With the first three the server notices a node that vanished silently; with the last one, a node that no longer reads the answers it
            // asked for, though its machine is alive: it might hold others up.
            let alive =
                [("tcp_keepalives_idle", "30"), ("tcp_keepalives_interval", "10"), ("tcp_keepalives_count", "3"), ("tcp_user_timeout", "5000")];
            (Some(script("SET", settings.into_iter().chain(alive.map(|(name, value)| (name, value.to_owned()))))), None)
        };
        Ok(Self { options, setup, session, notify: config.notify })
    }

    /// Gives a new session its settings.
    pub(super) async fn set_up(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        match &self.setup {
            Some(setup) => Self::script(connection, setup.clone()).await,
            None => Ok(()),
        }
    }
}

/// SET statements, not startup options, which PgBouncer refuses, or drops if configured to.
fn script(set: &str, settings: impl IntoIterator<Item = (&'static str, String)>) -> String {
    settings.into_iter().map(|(name, value)| format!("{set} {name} = '{value}'")).collect::<Vec<_>>().join("; ")
}

/// The settings of every session. Nothing of ours keeps a lock, or the server, busy for long: a transaction that waits for a stopped node ends well
/// within the shortest lease, so that its rows can be taken over.
///
/// They also make sure that messages are found by an index. A prepared statement keeps its plan: one that was made while the table was nearly empty,
/// or from the statistics of a quiet hour, would read the whole table for each batch of the burst that follows. With `enable_seqscan` off, a table
/// that can only be read whole looks expensive enough for the query to be compiled first, hence `jit`.
pub(super) fn settings(timeout: Duration) -> Vec<(&'static str, String)> {
    let limit = timeout.as_millis().clamp(100, 3_600_000);
    vec![
        ("statement_timeout", format!("{limit}ms")),
        ("lock_timeout", format!("{}ms", (limit / 2).max(50))),
        ("idle_in_transaction_session_timeout", "1500ms".to_owned()),
        ("default_transaction_isolation", "read committed".to_owned()),
        ("enable_seqscan", "off".to_owned()),
        ("enable_hashjoin", "off".to_owned()),
        ("enable_mergejoin", "off".to_owned()),
        ("jit", "off".to_owned()),
    ]
}

impl Dialect for Postgres {
    type Db = Driver;

    const MIGRATIONS: &'static [(&'static str, &'static str)] = &[
        ("0001_tables", include_str!("../../../migrations/postgres/0001_tables.sql")),
        ("0002_sheets", include_str!("../../../migrations/postgres/0002_sheets.sql")),
        ("0003_queue", include_str!("../../../migrations/postgres/0003_queue.sql")),
        ("0004_sample", include_str!("../../../migrations/postgres/0004_sample.sql")),
    ];
    const NOW: &'static str = "statement_timestamp()";
    const LOCK: &'static str = "FOR UPDATE OF l";
    const SKIP: &'static str = "FOR UPDATE SKIP LOCKED";
    // Whatever the default is: each statement must see what was committed before it, including the sheets of other claims.
    const BEGIN: &'static str = "BEGIN ISOLATION LEVEL READ COMMITTED";
    const NUMBERED: bool = true;
    const RETURNING: bool = true;
    const DELETE_USING: bool = true;
    const ARRAYS: bool = true;
    const ADDRESS: Option<&'static str> = Some("ctid");
    const FAR: &'static str = "timestamptz '9999-12-31 00:00:00+00'";
    const SCHEMA_SETTINGS: Option<&'static str> = Some("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'");
    const VERSION: &'static str = "SELECT 'PostgreSQL ' || current_setting('server_version')";

    // For a type that it does not know, sqlx runs a simple query between Parse and Bind, which discards an unnamed statement.
    fn is_addressed(&self) -> bool {
        self.session.is_none()
    }

    // A block number of 4 bytes, and a position in the block of 2.
    fn address(row: &PgRow, index: usize) -> Option<Address> {
        let bytes = raw(row, index).ok().flatten()?;
        let mut address = [0; 8];
        address.get_mut(2..)?.copy_from_slice(<&[u8; 6]>::try_from(bytes).ok()?);
        Some(Address(u64::from_be_bytes(address)))
    }

    fn on_sheets() -> String {
        "unnest(s.ids) AS h_id FROM {sheet} s".to_owned()
    }

    fn plus(time: &str, micros: &str) -> String {
        format!("({time} + {micros} * interval '1 microsecond')")
    }

    fn later(one: &str, other: &str) -> String {
        format!("greatest({one}, {other})")
    }

    // Not IN: given an array, the planner uses the key's index whatever it believes about the number of rows, and runs the query once.
    fn within(query: &str) -> String {
        format!("= ANY (ARRAY ({query}))")
    }

    // In the select list, not in FROM, where each array would first become a table of its own, stored and read again.
    fn table(alias: &str, columns: &[(&str, Kind)]) -> String {
        let columns: Vec<_> = columns.iter().map(|(name, _)| format!("unnest(?) AS {name}")).collect();
        format!("(SELECT {}) AS {alias}", columns.join(", "))
    }

    fn exists(schema: Option<&str>, table: &str) -> String {
        format!("SELECT CASE WHEN to_regclass('{}') IS NULL THEN 0 ELSE 1 END", full(schema, table))
    }

    // Not information_schema, which shows defaults to the table's owner alone.
    fn project_default(schema: Option<&str>, table: &str) -> String {
        format!(
            "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
             WHERE a.attrelid = to_regclass('{}') AND a.attname = 'project'",
            full(schema, table)
        )
    }

    fn estimate(schema: Option<&str>, table: &str) -> String {
        format!("SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass('{}')", full(schema, table))
    }

    fn bind(arguments: &mut PgArguments, value: &Value<'_>) -> Result<(), BoxDynError> {
        match value {
            Value::Int(int) => arguments.add(*int),
            Value::Text(text) => arguments.add(*text),
            Value::MaybeText(text) => arguments.add(*text),
            Value::MaybeBytes(bytes) => arguments.add(*bytes),
            Value::Id(id) => arguments.add(*id),
            Value::Tie(tie) => arguments.add(Uuid::from_u128(*tie)),
            Value::Ids(ids) => arguments.add(*ids),
            Value::Time(at) => arguments.add(*at),
            Value::Batch(batch) => Self::bind_batch(arguments, batch),
        }
    }

    fn bind_batch(arguments: &mut PgArguments, batch: &Batch<'_>) -> Result<(), BoxDynError> {
        for column in &batch.columns {
            match column {
                Column::Ids(ids) => arguments.add(ids)?,
                Column::Ints(ints) => arguments.add(ints)?,
                Column::Texts(texts) => arguments.add(texts)?,
                Column::Bytes(bytes) => arguments.add(bytes)?,
                Column::Times(times) => arguments.add(times)?,
                Column::Addresses(addresses) => arguments.add(Tids(addresses))?,
            }
        }
        Ok(())
    }

    fn int(row: &PgRow, index: usize) -> Result<Option<i64>, Bad> {
        let Some(bytes) = raw(row, index)? else { return Ok(None) };
        let number = match bytes.len() {
            2 => bytes.try_into().ok().map(i16::from_be_bytes).map(i64::from),
            4 => bytes.try_into().ok().map(i32::from_be_bytes).map(i64::from),
            _ => bytes.try_into().ok().map(i64::from_be_bytes),
        };
        number.map(Some).ok_or_else(|| Bad("is not a number".to_owned()))
    }

    fn text(row: &PgRow, index: usize) -> Result<Option<String>, Bad> {
        let Some(bytes) = raw(row, index)? else { return Ok(None) };
        std::str::from_utf8(bytes).map(|text| Some(text.to_owned())).map_err(|error| Bad(error.to_string()))
    }

    fn bytes(row: &PgRow, index: usize) -> Result<Option<Vec<u8>>, Bad> {
        Ok(raw(row, index)?.map(<[u8]>::to_vec))
    }

    // Not sqlx's own decoding, which panics on dates that PostgreSQL has and the calendar here does not.
    fn time(row: &PgRow, index: usize) -> Result<Option<i64>, Bad> {
        Ok(Self::int(row, index)?.map(|micros| micros.saturating_add(EPOCH)))
    }

    fn id(row: &PgRow, index: usize) -> Result<Id, Bad> {
        let bytes = raw(row, index)?.ok_or_else(|| Bad("is NULL".to_owned()))?;
        Uuid::from_slice(bytes).map(Id::Known).map_err(|error| Bad(error.to_string()))
    }

    // Over no rows, array_agg returns NULL.
    fn ids(row: &PgRow, index: usize) -> Result<Vec<Uuid>, Bad> {
        Ok(row.try_get::<Option<Vec<Uuid>>, _>(index)?.unwrap_or_default())
    }

    async fn connect(&self, _: Role) -> Result<PgConnection, sqlx::Error> {
        let mut connection = nodelay::connect(self.options.get_port(), PgConnection::connect_with(&self.options)).await?;
        self.set_up(&mut connection).await?;
        Ok(connection)
    }

    driver!();

    fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    fn lock_schema(prefix: &str) -> Option<String> {
        // Held until the transaction ends, so that it works through PgBouncer too.
        Some(format!("SELECT 1 FROM (SELECT pg_advisory_xact_lock(hashtext('redrive'), hashtext('{prefix}'))) AS l"))
    }

    async fn settle(core: &Arc<Core<Self>>, mode: Migrate) -> Result<(), Error> {
        listen::settle(core, mode).await
    }

    async fn listen(core: Arc<Core<Self>>, wake: Arc<Notify>) {
        // PgBouncer in transaction mode does not pass on notifications.
        if core.dialect.notify && core.dialect.session.is_none() {
            listen::listen(core, wake).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn judge(error: &dyn DatabaseError, timeout: Duration) -> Error {
        let text = error.message().to_owned();
        let code = error.code().unwrap_or_default();
        match &*code {
            // serialization_failure, deadlock_detected, lock_not_available
            "40001" | "40P01" | "55P03" => Error::Contended(text),
            // query_canceled: by statement_timeout, or by somebody
            "57014" => Error::TimedOut(timeout),
            // idle_in_transaction_session_timeout, transaction_timeout, read_only_sql_transaction (a standby); a prepared statement that is gone, or
            // whose table was altered: the next connection prepares it again
            "25P03" | "25P04" | "25006" | "26000" => Error::Unavailable(text),
            "0A000" if text.starts_with("cached plan") => Error::Unavailable(text),
            // undefined_table, undefined_column, undefined_function, invalid_schema_name
            "42P01" | "42703" | "42883" | "3F000" => Error::Schema(text),
            // invalid_catalog_name
            "3D000" => Error::Config(text),
            code if code.starts_with("28") => Error::Config(text),
            // Transactions that the server rolled back for reasons of its own, such as its shutdown; insufficient resources (connections, a full
            // disk) and system errors: once somebody makes room, what was refused gets written.
            code if ["40", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Error::Unavailable(text),
            // Connection exceptions. PgBouncer reports everything as 08P01, even a wrong password.
            "08P01" if is_misconfigured(&text) => Error::Config(text),
            code if code.starts_with("08") => Error::Unavailable(text),
            _ => Error::Refused(text),
        }
    }
}

/// Whether PgBouncer's message means a wrong user, password or database.
fn is_misconfigured(text: &str) -> bool {
    ["authentication failed", "no such user", "no such database"].iter().any(|words| text.contains(words))
        || (text.starts_with("database ") && text.ends_with("does not exist"))
}

fn full(schema: Option<&str>, table: &str) -> String {
    schema.map_or_else(|| table.to_owned(), |schema| format!("\"{schema}\".{table}"))
}

/// Addresses as PostgreSQL's `tid[]`, which sqlx does not support; the numbers are from `pg_type.dat`.
struct Tids<'a>(&'a [Address]);

impl Tids<'_> {
    const TID: u32 = 27;
    const LIST: u32 = 1010;
}

impl sqlx::Type<Driver> for Tids<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(Self::LIST))
    }
}

impl sqlx::Encode<'_, Driver> for Tids<'_> {
    // The binary form of an array: the number of dimensions, whether there are NULLs, the element type; the length and the first index; each item
    // after its length.
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        for word in [1, 0, Self::TID, u32::try_from(self.0.len())?, 1] {
            out.extend(word.to_be_bytes());
        }
        for Address(address) in self.0 {
            out.extend(6_u32.to_be_bytes());
            out.extend_from_slice(&address.to_be_bytes()[2..]);
        }
        Ok(IsNull::No)
    }
}

/// A cell as it arrived, in the binary format.
fn raw(row: &PgRow, index: usize) -> Result<Option<&[u8]>, Bad> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(None);
    }
    if value.format() != PgValueFormat::Binary {
        return Err(Bad("is not in the binary format".to_owned()));
    }
    Ok(Some(value.as_bytes()?))
}
