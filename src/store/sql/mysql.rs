//! MySQL 8 and later, MariaDB 10.6 and later: no RETURNING and no array parameters. Batches are passed as JSON; rows are locked, changed and read in
//! one transaction.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::error::{BoxDynError, DatabaseError};
use sqlx::mysql::{MySql as Driver, MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlRow, MySqlSslMode};
use sqlx::{Arguments as _, ConnectOptions as _, Connection as _, Row as _};
use uuid::Uuid;

use super::decode;
use super::dialect::{Bad, Batch, Dialect, Id, Kind, Role, Value, driver};
use super::nodelay;
use super::open::Login;
use super::pool::{Core, Work};
use crate::fault::Fault;
use crate::store::config::Migrate;
use crate::store::{Config, Error};
use crate::tls::Pem;

/// The tables' collation, on MariaDB and on MySQL: every byte counts, including a trailing blank.
const COLLATIONS: [&str; 2] = ["utf8mb4_nopad_bin", "utf8mb4_0900_bin"];
/// Both collations, each in a comment that only its own server executes.
const COLLATION: &str = "CHARACTER SET utf8mb4 /*M!100600 COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */";

/// The minimum time limit of a unit of work. The minimum wait for a lock is a second, and MySQL checks only once a second whether it is over. The
/// server's answer must come before our own limit, or one row that somebody has locked would be mistaken for an outage.
const LEAST: Duration = Duration::from_secs(3);

/// MySQL or MariaDB.
#[derive(Clone)]
pub(super) struct Mysql {
    options: MySqlConnectOptions,
    /// The settings of every session.
    session: String,
}

impl fmt::Debug for Mysql {
    // The options would show the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mysql").field("session", &self.session).finish_non_exhaustive()
    }
}

impl Mysql {
    /// From where the server is and the certificates.
    pub(super) fn try_new(login: &Login, config: &Config, pem: Option<Pem>) -> Result<Self, Vec<Fault>> {
        // sqlx's own message may repeat parts of the URL.
        let options = MySqlConnectOptions::from_str(&login.url)
            .map_err(|_| vec![Fault::new("url", "is not a valid MySQL URL (check the port and the parameters)")])?;
        let options = login.password.iter().fold(options, |options, password| options.password(password.expose()));
        if options.get_database().is_none_or(str::is_empty) {
            return Err(vec![Fault::new("url", "does not name a database; write mysql://user:password@host/database")]);
        }
        let cache = usize::try_from(config.statement_cache).unwrap_or(0);
        let mut options = options
            .disable_statement_logging()
            .statement_cache_capacity(cache)
            .charset("utf8mb4")
            .timezone(Some("+00:00".to_owned()))
            .pipes_as_concat(false);
        if let Some(Pem { ca, identity }) = pem {
            if ca.is_some() {
                options = options.ssl_mode(MySqlSslMode::VerifyIdentity);
            } else if !matches!(options.get_ssl_mode(), MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity) {
                options = options.ssl_mode(MySqlSslMode::Required);
            }
            if let Some(ca) = ca {
                options = options.ssl_ca_from_pem(ca);
            }
            if let Some((cert, key)) = identity {
                options = options.ssl_client_cert_from_pem(cert).ssl_client_key_from_pem(key);
            }
        }
        Ok(Self { options, session: session(Self::timeout(config)) })
    }

    /// How long a unit of work may take.
    pub(super) fn timeout(config: &Config) -> Duration {
        config.timeout.get().max(LEAST)
    }
}

/// READ COMMITTED: at the default level, claims that skip locked rows hold up an application's inserts. And nothing of ours keeps a lock for long: a
/// transaction that waits for a stopped node is ended (on MariaDB; MySQL can only end its idle session), and so is a connection whose client stopped
/// reading.
fn session(timeout: Duration) -> String {
    let limit = timeout.as_secs().clamp(1, 3600);
    let lock = (limit / 2).max(1);
    format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', SESSION autocommit = 1,
             SESSION innodb_lock_wait_timeout = {lock}, SESSION lock_wait_timeout = {lock}, SESSION net_write_timeout = 5
             /*M!100600 , SESSION idle_transaction_timeout = 2, SESSION max_statement_time = {limit} */
             /*!80000 , SESSION wait_timeout = 3, SESSION max_execution_time = {}, SESSION information_schema_stats_expiry = 0 */;",
        limit * 1000
    )
}

impl Dialect for Mysql {
    type Db = Driver;

    const MIGRATIONS: &'static [(&'static str, &'static str)] = &[
        ("0001_tables", include_str!("../../../migrations/mysql/0001_tables.sql")),
        ("0002_sheets", include_str!("../../../migrations/mysql/0002_sheets.sql")),
        ("0004_sample", include_str!("../../../migrations/mysql/0004_sample.sql")),
    ];
    const NOW: &'static str = "UTC_TIMESTAMP(6)";
    // MariaDB does not have OF, and does not need it.
    const LOCK: &'static str = "FOR UPDATE /*!80000 OF l */";
    const SKIP: &'static str = "FOR UPDATE SKIP LOCKED";
    const BEGIN: &'static str = "START TRANSACTION";
    const ONCE: &'static str = "/*+ SUBQUERY(MATERIALIZATION) */";
    const COMPARES_PAIRS: bool = false;
    const JOINED: bool = true;
    // The claim's index holds finished rows too: leaping from source to source is cheap, looking for a waiting row is not.
    const WAITING: &'static str = "";
    const DATED: &'static str = "(due_at IS NOT NULL) = TRUE";
    const LEAPS: bool = false;
    const FAR: &'static str = "'9999-12-31 00:00:00'";
    const CLAIM_INDEX: &'static str = "FORCE INDEX ({p}resend_log_claim)";
    const JOIN: &'static str = "STRAIGHT_JOIN";
    const BY_KEY: &'static str = "FORCE INDEX (PRIMARY)";
    const AS_OLD: &'static str = "";
    const SCHEMA_SETTINGS: Option<&'static str> =
        Some("SET SESSION lock_wait_timeout = 60 /*M!100600 , SESSION max_statement_time = 0 */ /*!80000 , SESSION max_execution_time = 0 */");
    const LOCK_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS {schema}{p}redrive_lock (name varchar(16) NOT NULL PRIMARY KEY,
        token bigint NOT NULL, held_until datetime(6) NOT NULL) ENGINE = InnoDB";
    const VERSION: &'static str = "SELECT CONCAT(CASE WHEN VERSION() LIKE '%MariaDB%' THEN 'MariaDB ' ELSE 'MySQL ' END, VERSION())";

    // If the column could be NULL, MySQL would run the subquery again for each row.
    fn on_sheets() -> String {
        format!("COALESCE(u.id, '') AS h_id FROM {{sheet}} s, JSON_TABLE(s.ids, '$[*]' COLUMNS (id char(36) {COLLATION} PATH '$')) AS u")
    }

    fn plus(time: &str, micros: &str) -> String {
        format!("DATE_ADD({time}, INTERVAL {micros} MICROSECOND)")
    }

    fn later(one: &str, other: &str) -> String {
        format!("GREATEST({one}, {other})")
    }

    // As a number. An invalid date such as 0000-00-00 or 2024-00-00 has none: it counts as the year 0, which sorts the same.
    fn select_time(time: &str) -> String {
        format!(
            "COALESCE(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', {time}), CASE WHEN ({time} IS NOT NULL) = TRUE THEN -62167219200000000 END)"
        )
    }

    fn table(alias: &str, columns: &[(&str, Kind)]) -> String {
        let columns: Vec<_> = columns
            .iter()
            .enumerate()
            .map(|(index, (name, kind))| {
                let kind = match kind {
                    Kind::Id => format!("char(36) {COLLATION}"),
                    Kind::Int => "bigint".to_owned(),
                    Kind::Time => "datetime(6)".to_owned(),
                    Kind::Text | Kind::Bytes => format!("varchar(4000) {COLLATION}"),
                };
                format!("{name} {kind} PATH '$[{index}]'")
            })
            .collect();
        format!("JSON_TABLE(?, '$[*]' COLUMNS ({})) AS {alias}", columns.join(", "))
    }

    fn upsert(_: &str, assignments: &[(&str, String)]) -> String {
        let assignments: Vec<_> = assignments.iter().map(|(column, value)| format!("{column} = {value}")).collect();
        format!("ON DUPLICATE KEY UPDATE {}", assignments.join(", "))
    }

    fn present(table: &str, column: &str) -> String {
        format!("{{{table}}}.{column}")
    }

    fn proposed(column: &str) -> String {
        format!("VALUES({column})")
    }

    fn exists(_: Option<&str>, table: &str) -> String {
        format!("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{table}'")
    }

    fn project_default(_: Option<&str>, table: &str) -> String {
        format!(
            "SELECT column_default FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = '{table}' AND column_name = 'project'"
        )
    }

    fn estimate(_: Option<&str>, table: &str) -> String {
        format!("SELECT CAST(table_rows AS SIGNED) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{table}'")
    }

    fn bind(arguments: &mut MySqlArguments, value: &Value<'_>) -> Result<(), BoxDynError> {
        match value {
            Value::Int(int) => sqlx::Arguments::add(arguments, *int),
            Value::Text(text) => sqlx::Arguments::add(arguments, *text),
            Value::MaybeText(text) => sqlx::Arguments::add(arguments, *text),
            Value::MaybeBytes(bytes) => sqlx::Arguments::add(arguments, *bytes),
            Value::Ids(ids) => arguments.add(super::dialect::listed(ids)),
            Value::Tie(tie) => arguments.add(Uuid::from_u128(*tie).as_hyphenated().to_string()),
            Value::Id(id) => sqlx::Arguments::add(arguments, id.as_hyphenated().to_string()),
            Value::Time(at) => sqlx::Arguments::add(arguments, at.map(|at| at.naive_utc())),
            Value::Batch(batch) => Self::bind_batch(arguments, batch),
        }
    }

    fn bind_batch(arguments: &mut MySqlArguments, batch: &Batch<'_>) -> Result<(), BoxDynError> {
        arguments.add(batch.to_json(|at: DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S%.6f").to_string().into()))
    }

    fn int(row: &MySqlRow, index: usize) -> Result<Option<i64>, Bad> {
        Ok(row.try_get_unchecked(index)?)
    }

    // Unchecked: the driver takes some of the server's texts for binary.
    fn text(row: &MySqlRow, index: usize) -> Result<Option<String>, Bad> {
        Ok(row.try_get_unchecked(index)?)
    }

    fn bytes(row: &MySqlRow, index: usize) -> Result<Option<Vec<u8>>, Bad> {
        Ok(row.try_get_unchecked(index)?)
    }

    fn time(row: &MySqlRow, index: usize) -> Result<Option<i64>, Bad> {
        Self::int(row, index)
    }

    fn id(row: &MySqlRow, index: usize) -> Result<Id, Bad> {
        Self::text(row, index)?.map(Id::of).ok_or_else(|| Bad("is NULL".to_owned()))
    }

    fn before(id: &Id) -> Option<(&'static str, Value<'_>)> {
        matches!(id, Id::Known(_) | Id::Text(_)).then(|| ("id < ?", id.into()))
    }

    async fn connect(&self, _: Role) -> Result<MySqlConnection, sqlx::Error> {
        let mut connection = nodelay::connect(self.options.get_port(), MySqlConnection::connect_with(&self.options)).await?;
        Self::script(&mut connection, self.session.clone()).await?;
        Ok(connection)
    }

    driver!();

    // Clients that strip comments from the output of `migrate --print-sql` create tables that treat `A` and `a` as equal.
    async fn settle(core: &Arc<Core<Self>>, _: Migrate) -> Result<(), Error> {
        let collation = core.run(Work::Read, |session| {
            Box::pin(async move {
                let sql = "SELECT table_collation FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?";
                let table = session.core.names.plain("resend_log");
                let rows = session.rows_once(sql, &[Value::Text(&table)]).await?;
                Ok(rows.first().and_then(|row| decode::maybe_text::<Self>(row, 0)))
            })
        });
        match collation.await? {
            Some(collation) if !COLLATIONS.contains(&&*collation) => Err(Error::Schema(format!(
                "the tables have the collation {collation}, and not {}: have what `redrive migrate --print-sql` prints run anew, with its comments \
                 (`mysql --comments`)",
                COLLATIONS.join(" or ")
            ))),
            _ => Ok(()),
        }
    }

    fn lock_schema(prefix: &str) -> Option<String> {
        Some(format!("SELECT GET_LOCK(SUBSTRING(SHA2(CONCAT('redrive', DATABASE(), '{prefix}'), 256), 1, 32), 60)"))
    }

    fn unlock_schema(prefix: &str) -> Option<String> {
        Some(format!("SELECT RELEASE_LOCK(SUBSTRING(SHA2(CONCAT('redrive', DATABASE(), '{prefix}'), 256), 1, 32))"))
    }

    // Percona XtraDB Cluster has no error number of its own for this; MariaDB's is the general one for what is not supported.
    fn refuses_lock(error: &dyn DatabaseError) -> bool {
        let number = error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number);
        matches!(number, Some(1105 | 1235)) && error.message().contains("GET_LOCK")
    }

    fn judge(error: &dyn DatabaseError, timeout: Duration) -> Error {
        let text = error.message().to_owned();
        let Some(error) = error.try_downcast_ref::<MySqlDatabaseError>() else { return Error::Refused(text) };
        match error.number() {
            // Lock wait timeout, deadlock, record changed since last read, lock aborted.
            1205 | 1213 | 1020 | 3058 | 3572 => Error::Contended(text),
            // max_statement_time, max_execution_time.
            1969 | 3024 => Error::TimedOut(timeout),
            // Too many connections in total or of a user, too many errors of a host, no thread; too many prepared statements, or an unknown one;
            // shutdown, aborted, killed, read-only (a replica), idle for too long, WSREP not ready, a group that is changing its primary.
            1040 | 1203 | 1226 | 1129 | 1135 | 1461 | 1615 | 1053 | 1152 | 1317 | 1927 | 1290 | 1792 | 1836 | 4030 | 4031 | 1047 | 3100 | 3101
            // A full disk, table or lock table, a failed write or commit, no memory: once somebody makes room, what was refused gets written.
            | 1021 | 1114 | 1206 | 1026 | 1030 | 1180 | 1037 | 1038 | 1041
            // What a proxy reports about the server behind it: unreachable, gone away, and ProxySQL's own errors.
            | 2000..=2099 | 9000..=9099 => Error::Unavailable(text),
            // No such table, no such column.
            1146 | 1054 => Error::Schema(text),
            // Access denied, unknown database, authentication plugins.
            1044 | 1045 | 1049 | 1130 | 1698 | 1524 | 3159 => Error::Config(text),
            _ => Error::Refused(text),
        }
    }
}
