//! Direct access to the database: to fill tables fast, to read its meters, and to measure what the smallest possible code achieves.

mod mysql;
mod postgres;
mod sqlite;

use std::path::PathBuf;
use std::str::FromStr as _;

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::Error;
use super::process::{self, Server};
use crate::store::{self, Config};

/// The number of messages that one claim of the smallest possible code takes.
pub(super) const CLAIM: usize = 1000;

/// One connection.
#[async_trait]
pub(super) trait Connection: Send {
    /// Runs SQL text.
    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error>;

    /// The numbers of a query's only column; NULL is 0.
    async fn numbers(&mut self, sql: &str) -> Result<Vec<i64>, sqlx::Error>;

    /// The texts of a query's only column.
    async fn words(&mut self, sql: &str) -> Result<Vec<String>, sqlx::Error>;

    /// Commits messages that are due in a month.
    async fn insert(&mut self, table: &Table, payloads: &[Vec<u8>], due: Due) -> Result<(), sqlx::Error>;

    /// Claims one batch of what is due and completes it; returns the number of messages.
    async fn claim_and_complete(&mut self, table: &Table, delete: bool) -> Result<usize, sqlx::Error>;
}

/// When an inserted message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// By the table's default.
    Now,
    InAMonth,
}

/// The table under test. Nothing in it needs escaping: names of tables, sources and topics consist of letters, digits and a few signs.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Its name as statements write it.
    pub(super) log: String,
    pub(super) project: String,
    pub(super) source: String,
    pub(super) topic: String,
}

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
    Mysql,
}

/// A database that can be connected to.
#[derive(Clone)]
pub(super) struct Database {
    target: Target,
    /// The URL, of which only host and port are used.
    url: String,
}

#[derive(Clone)]
enum Target {
    Sqlite(PathBuf),
    Postgres(Box<PgConnectOptions>),
    Mysql(Box<MySqlConnectOptions>),
}

impl Database {
    /// The database of a configuration that has been checked.
    pub(super) fn of(config: &Config) -> Result<Self, Error> {
        // The driver's own message may repeat parts of the URL.
        let wrong = |_| Error::Usage("store.url is not a valid URL of a database".to_owned());
        let url = config.url.expose().to_owned();
        let target = match url.split(':').next() {
            Some("sqlite") => Target::Sqlite(sqlite_file(&url)),
            Some("postgres" | "postgresql") => {
                let mut options = PgConnectOptions::from_str(&url).map_err(wrong)?.application_name("redrive-bench");
                options = config.password.iter().fold(options, |options, password| options.password(password.expose()));
                if let Some(tls) = &config.tls {
                    options = options.ssl_mode(if tls.ca.is_some() { PgSslMode::VerifyFull } else { PgSslMode::Require });
                    options = tls.ca.iter().fold(options, PgConnectOptions::ssl_root_cert);
                    options = tls.cert.iter().fold(options, PgConnectOptions::ssl_client_cert);
                    options = tls.key.iter().fold(options, PgConnectOptions::ssl_client_key);
                }
                Target::Postgres(Box::new(options.statement_cache_capacity(config.statement_cache as usize)))
            }
            _ => {
                let mut options = MySqlConnectOptions::from_str(&url.replacen("mariadb:", "mysql:", 1)).map_err(wrong)?;
                options = config.password.iter().fold(options, |options, password| options.password(password.expose()));
                if let Some(tls) = &config.tls {
                    options = options.ssl_mode(if tls.ca.is_some() { MySqlSslMode::VerifyIdentity } else { MySqlSslMode::Required });
                    options = tls.ca.iter().fold(options, MySqlConnectOptions::ssl_ca);
                    options = tls.cert.iter().fold(options, MySqlConnectOptions::ssl_client_cert);
                    options = tls.key.iter().fold(options, MySqlConnectOptions::ssl_client_key);
                }
                Target::Mysql(Box::new(options))
            }
        };
        Ok(Self { target, url })
    }

    pub(super) const fn kind(&self) -> Kind {
        match self.target {
            Target::Sqlite(_) => Kind::Sqlite,
            Target::Postgres(_) => Kind::Postgres,
            Target::Mysql(_) => Kind::Mysql,
        }
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Connection>, Error> {
        Ok(match &self.target {
            Target::Sqlite(file) => Box::new(sqlite::connect(file).await?),
            Target::Postgres(options) => Box::new(postgres::connect(options).await?),
            Target::Mysql(options) => Box::new(mysql::connect(options).await?),
        })
    }

    /// The server's port.
    pub(super) fn port(&self) -> Option<u16> {
        let url = url::Url::parse(&self.url).ok()?;
        url.port().or(match self.kind() {
            Kind::Sqlite => None,
            Kind::Postgres => Some(5432),
            Kind::Mysql => Some(3306),
        })
    }

    /// The server's process, if it runs on this machine and can be seen.
    pub(super) async fn server(&self) -> Option<Server> {
        let port = process::local_port(&self.url, self.port()?)?;
        if self.kind() == Kind::Postgres {
            // The backend reports its own process, even through a pooler.
            let mut connection = self.connect().await.ok()?;
            let pid = *connection.numbers("SELECT pg_backend_pid()::bigint").await.ok()?.first()?;
            return Server::parent_of(u32::try_from(pid).ok()?, "postgres");
        }
        Server::listening(port, &["mysqld", "mariadbd"])
    }

    /// The server's meter of what it wrote to its log, in bytes.
    pub(super) fn wal_meter(&self) -> Option<&'static str> {
        match self.kind() {
            Kind::Sqlite => None,
            Kind::Postgres => Some("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"),
            Kind::Mysql => {
                Some("SELECT CAST(variable_value AS SIGNED) FROM {status} WHERE variable_name IN ('Innodb_os_log_written', 'Innodb_lsn_current')")
            }
        }
    }

    /// The server's meter of statements. Reading it counts too.
    pub(super) fn statement_meter(&self) -> Option<&'static str> {
        match self.kind() {
            Kind::Sqlite => None,
            Kind::Postgres => Some("SELECT (xact_commit + xact_rollback)::bigint FROM pg_stat_database WHERE datname = current_database()"),
            Kind::Mysql => Some("SELECT CAST(variable_value AS SIGNED) FROM {status} WHERE variable_name = 'Questions'"),
        }
    }

    /// Reads a meter.
    pub(super) async fn read(&self, meter: Option<&str>) -> Option<i64> {
        let meter = meter?;
        let mut connection = self.connect().await.ok()?;
        // MySQL and MariaDB keep this table in different places.
        for place in ["performance_schema.global_status", "information_schema.global_status"] {
            // Where it is switched off, one of them exists and is empty.
            if let Ok([number, ..]) = connection.numbers(&meter.replace("{status}", place)).await.as_deref() {
                return Some(*number);
            }
        }
        None
    }
}

/// The file that a SQLite URL names; the URL has been checked.
pub(super) fn sqlite_file(url: &str) -> PathBuf {
    store::sqlite_file(url.trim_start_matches("sqlite:")).unwrap_or_default()
}
