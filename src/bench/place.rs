//! Where a benchmark keeps its tables: a schema (PostgreSQL), a table prefix (MySQL, MariaDB) or a file (SQLite) of its own, which it fills and
//! removes.

use std::path::PathBuf;

use super::Error;
use super::database::{Connection, Database, Kind, Table, sqlite_file};
use super::payload::{DIGITS, Payloads};
use super::screen::Phase;
use crate::fault;
use crate::store::{self, Config};
use crate::units::Secret;

/// The number of rows that one statement inserts.
const CHUNK: u64 = 10_000;
/// Suffixes of the files that SQLite keeps beside its own, and of the sidecar's lock.
const BESIDE: [&str; 4] = ["-wal", "-shm", "-journal", ".lock"];

/// The tables of one run.
pub(super) struct Place {
    pub(super) config: Config,
    pub(super) database: Database,
    pub(super) table: Table,
    made: Made,
}

/// What was made and has to be removed.
#[derive(Debug)]
enum Made {
    Nothing,
    Schema(String),
    Prefix(String),
    File(PathBuf),
}

/// The kind of rows to fill the table with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// Due now.
    Due,
    /// Due in a month.
    Waiting,
    /// Delivered just now.
    Finished,
    /// Delivered a year ago.
    Old,
}

impl Place {
    /// Makes the tables, in a place of their own or in the one that `into` names.
    pub(super) async fn make(config: &Config, project: &str, source: &str, name: &str, topic: &str, into: Option<&str>) -> Result<Self, Error> {
        let mut config = config.clone();
        let database = Database::of(&config)?;
        // Tables that are not its own stay as their owner made them.
        if into.is_none() {
            config.migrate = store::config::Migrate::Auto;
        }
        let prefix = format!("{}_", name.replace('-', "_"));
        let (database, made) = match database.kind() {
            Kind::Sqlite => {
                let configured = sqlite_file(config.url.expose());
                let file = into.map_or_else(|| configured.with_file_name(format!("{name}.db")), PathBuf::from);
                let encoded = percent_encoding::utf8_percent_encode(&file.to_string_lossy(), percent_encoding::NON_ALPHANUMERIC).to_string();
                config.url = Secret::new(format!("sqlite://{encoded}"));
                (Database::of(&config)?, Made::File(file))
            }
            Kind::Postgres => {
                let mut connection = database.connect().await?;
                let may = connection.numbers("SELECT has_database_privilege(current_database(), 'CREATE')::int::bigint").await?;
                if into.is_some() || may.first() == Some(&1) {
                    let schema = into.unwrap_or(name).to_owned();
                    (config.schema, config.table_prefix) = (Some(schema.clone()), String::new());
                    (database, Made::Schema(schema))
                } else {
                    config.table_prefix.clone_from(&prefix);
                    // A trigger comes with a function, which has no place of its own here.
                    config.notify = false;
                    (database, Made::Prefix(prefix))
                }
            }
            Kind::Mysql => {
                config.table_prefix = into.map_or(prefix, |into| into.replace('-', "_"));
                let prefix = config.table_prefix.clone();
                (database, Made::Prefix(prefix))
            }
        };
        let schema = config.schema.as_ref().map_or_else(String::new, |schema| format!("\"{schema}\"."));
        let table = Table {
            log: format!("{schema}{}resend_log", config.table_prefix),
            project: project.to_owned(),
            source: source.to_owned(),
            topic: topic.to_owned(),
        };
        let place = Self { config, database, table, made: if into.is_some() { Made::Nothing } else { made } };
        if let Err(error) = place.prepare(project).await {
            // Part of it may exist already.
            let _ = place.remove().await;
            return Err(error);
        }
        if into.is_some() {
            place.nothing_waits().await?;
        }
        Ok(place)
    }

    /// Refuses a table with waiting messages: they would be sent and counted along with the benchmark's own, and those of other sources would fail,
    /// since the node under test knows only its own.
    async fn nothing_waits(&self) -> Result<(), Error> {
        let Table { log, project, .. } = &self.table;
        let unfinished = format!(
            "SELECT count(*) FROM (SELECT 1 AS one FROM {log}
             WHERE (project = '{project}' OR project IS NULL) AND (level IS NOT NULL OR state IN ('sending', 'blocked')) LIMIT 1) AS f"
        );
        match self.database.connect().await?.numbers(&unfinished).await?.first() {
            Some(0) => Ok(()),
            _ => Err(Error::Usage(format!("--into: messages wait in {log}; let them be sent, or cancel them, before anything is measured there"))),
        }
    }

    async fn prepare(&self, project: &str) -> Result<(), Error> {
        let store = self.store(project)?;
        let prepared = store.prepare().await;
        store.close().await;
        prepared?;
        Ok(())
    }

    /// The store as the sidecar uses it.
    pub(super) fn store(&self, project: &str) -> Result<std::sync::Arc<dyn store::Store>, Error> {
        store::open(&self.config, project).map_err(|faults| Error::Usage(fault::line_within("store", faults)))
    }

    /// Removes what was made.
    pub(super) async fn remove(&self) -> Result<(), Error> {
        match &self.made {
            Made::Nothing => {}
            Made::Schema(schema) => self.database.connect().await?.run(&format!("DROP SCHEMA IF EXISTS \"{schema}\" CASCADE")).await?,
            Made::Prefix(prefix) => {
                let (here, before, after) = match (self.database.kind(), &self.config.schema) {
                    (Kind::Mysql, _) => ("database()".to_owned(), "`".to_owned(), '`'),
                    (_, Some(schema)) => (format!("'{schema}'"), format!("\"{schema}\".\""), '"'),
                    (_, None) => ("current_schema()".to_owned(), "\"".to_owned(), '"'),
                };
                let mut connection = self.database.connect().await?;
                // An underscore in LIKE matches any character: the prefix is compared instead.
                let tables = format!(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = {here} AND substr(table_name, 1, {}) = '{prefix}'",
                    prefix.len()
                );
                for table in connection.words(&tables).await? {
                    connection.run(&format!("DROP TABLE {before}{table}{after}")).await?;
                }
            }
            Made::File(file) => {
                for name in std::iter::once(String::new()).chain(BESIDE.map(str::to_owned)) {
                    let mut path = file.clone().into_os_string();
                    path.push(name);
                    match std::fs::remove_file(&path) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts `count` rows into the table, numbered from 0.
    pub(super) async fn fill(&self, count: u64, filling: Filling, payloads: &Payloads, phase: &Phase) -> Result<(), Error> {
        self.checkpoint().await?;
        let mut connection = self.database.connect().await?;
        let mut first = 0;
        while first < count {
            let end = count.min(first + CHUNK);
            connection.run(&self.filling(first, end, filling, payloads)).await?;
            phase.add(end - first);
            first = end;
        }
        self.settle(&mut *connection).await
    }

    /// Makes the database do now what it would otherwise do in the middle of the measurement.
    async fn settle(&self, connection: &mut dyn Connection) -> Result<(), Error> {
        let log = &self.table.log;
        connection
            .run(&match self.database.kind() {
                Kind::Sqlite => "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
                Kind::Postgres => format!("VACUUM ANALYZE {log}"),
                Kind::Mysql => format!("ANALYZE TABLE {log}"),
            })
            .await?;
        Ok(())
    }

    /// Makes PostgreSQL write to disk what it would otherwise write during the measurement, if the user may ask for that. After a checkpoint it also
    /// logs each page whole when it first changes: the next one should not come in the middle.
    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        if self.database.kind() == Kind::Postgres {
            let _ = self.database.connect().await?.run("CHECKPOINT").await;
        }
        Ok(())
    }

    /// Whether everything in the table is the benchmark's.
    pub(super) const fn is_own(&self) -> bool {
        !matches!(self.made, Made::Nothing)
    }

    /// Empties the table, which must be the benchmark's own.
    pub(super) async fn empty(&self) -> Result<(), Error> {
        if !self.is_own() {
            return Err(Error::Failed("a table that is not the benchmark's own is not emptied".to_owned()));
        }
        let log = &self.table.log;
        let sql = if self.database.kind() == Kind::Sqlite { format!("DELETE FROM {log}") } else { format!("TRUNCATE TABLE {log}") };
        let mut connection = self.database.connect().await?;
        connection.run(&sql).await?;
        self.settle(&mut *connection).await
    }

    /// The statement that inserts the rows with these numbers. The payloads are assembled in the database.
    fn filling(&self, first: u64, end: u64, filling: Filling, payloads: &Payloads) -> String {
        let Table { log, source, topic, .. } = &self.table;
        let (before, after) = payloads.around();
        let kind = self.database.kind();
        let payload = match kind {
            Kind::Sqlite => format!("CAST('{before}' || substr('{:0DIGITS$}' || n, -{DIGITS}) || '{after}' AS BLOB)", 0),
            Kind::Postgres => format!("convert_to('{before}' || lpad(n::text, {DIGITS}, '0') || '{after}', 'UTF8')"),
            Kind::Mysql => format!("concat('{before}', lpad(n, {DIGITS}, '0'), '{after}')"),
        };
        let at = |days: i32| match kind {
            Kind::Sqlite => format!("CAST(round((julianday('now') - 2440587.5 + {days}) * 86400000.0) AS INTEGER)"),
            Kind::Postgres => format!("now() + interval '{days} days'"),
            Kind::Mysql => format!("UTC_TIMESTAMP(6) + INTERVAL {days} DAY"),
        };
        let finished = |days| {
            let (at, state) = (at(days), ", state, attempts, created_at, due_at, finished_at");
            (state, format!(", 'succeeded', 1, {at}, {at}, {at}"))
        };
        let (columns, values) = match filling {
            Filling::Due => ("", String::new()),
            Filling::Waiting => (", due_at", format!(", {}", at(30))),
            Filling::Finished => finished(0),
            Filling::Old => finished(-365),
        };
        let digit = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
            UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
        format!(
            "INSERT INTO {log} (source, topic, payload{columns}) SELECT '{source}', '{topic}', {payload}{values}
             FROM (SELECT {first} + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n FROM {digit} AS a CROSS JOIN {digit} AS b CROSS JOIN {digit} AS c CROSS JOIN {digit} AS e) AS g
             WHERE n < {end}"
        )
    }

    /// How many rows fulfil a condition.
    pub(super) async fn count(&self, condition: &str) -> Result<u64, Error> {
        let sql = format!("SELECT count(*) FROM {} WHERE {condition}", self.table.log);
        let counted = self.database.connect().await?.numbers(&sql).await?;
        Ok(counted.first().and_then(|count| u64::try_from(*count).ok()).unwrap_or(0))
    }
}
