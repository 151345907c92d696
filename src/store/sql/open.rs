//! From the configuration to a store: every fault at once, nothing is connected.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use url::Url;

use super::SqlStore;
use super::dialect::Dialect;
use super::listen;
use super::migrate;
use super::mysql::Mysql;
use super::pool::Core;
use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::template::Names;
use crate::fault::Fault;
use crate::store::config::Migrate;
use crate::store::{Config, Observer, Store};

/// The longest table prefix: names of indexes must fit PostgreSQL's 63 bytes.
const MOST_PREFIX: usize = 30;

/// The database that a URL names.
pub(super) enum Target {
    Sqlite(PathBuf),
    Postgres(String),
    Mysql(String),
}

/// What a URL asks for. The URL may hold a password and is never repeated.
pub(super) fn target(config: &Config) -> Result<Target, Vec<Fault>> {
    let (path, text) = match &config.url_file {
        None => ("url", config.url.expose().to_owned()),
        Some(file) => match crate::secret::read(file) {
            Ok(url) => ("url_file", url.expose().trim().to_owned()),
            Err(message) => return Err(vec![Fault::new("url_file", message)]),
        },
    };
    let fault = |message: &str| Err(vec![Fault::new(path, message)]);
    match text.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => file(&text["sqlite:".len()..]).map(Target::Sqlite).or_else(fault),
        Some(scheme @ ("postgres" | "postgresql" | "mysql" | "mariadb")) => match Url::from_str(&text) {
            Ok(_) if scheme.starts_with("postgres") => Ok(Target::Postgres(text)),
            Ok(mut url) => {
                if scheme == "mariadb" {
                    // Both are special to nobody, so the change is always allowed.
                    let _ = url.set_scheme("mysql");
                }
                Ok(Target::Mysql(url.into()))
            }
            Err(error) => fault(&format!("is no URL: {error}")),
        },
        _ => fault("must begin with sqlite:, postgres: or mysql:"),
    }
}

/// The file that a URL of SQLite names, from behind its scheme: `//redrive.db`, `redrive.db`, `///var/lib/redrive.db`, and, as other tools write
/// a path from the root, `////var/lib/redrive.db`.
pub(crate) fn file(rest: &str) -> Result<PathBuf, &'static str> {
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (file, query) = rest.split_once('?').unwrap_or((rest, ""));
    if file.is_empty() || file.contains(":memory:") {
        return Err("names no file; write sqlite://redrive.db or sqlite:///var/lib/redrive/redrive.db");
    }
    // What drivers are told so is what is done anyway.
    if !matches!(query, "" | "mode=rwc") {
        return Err("takes nothing behind its `?` but mode=rwc; take it out, and write %3F for a `?` in the name of the file");
    }
    let file = percent_encoding::percent_decode_str(file).decode_utf8().map_err(|_| "is no UTF-8 once decoded")?;
    Ok(match file.trim_start_matches('/') {
        relative if relative.len() == file.len() => PathBuf::from(relative),
        below_root => PathBuf::from(format!("/{below_root}")),
    })
}

pub(super) fn names(config: &Config, project: &str) -> Result<Names, Vec<Fault>> {
    let mut faults = Vec::new();
    let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if config.table_prefix.len() > MOST_PREFIX || !word(&config.table_prefix) || config.table_prefix.starts_with(|c: char| c.is_ascii_digit()) {
        faults.push(Fault::new(
            "table_prefix",
            format!("must be at most {MOST_PREFIX} lower-case letters, digits and `_`, not beginning with a digit"),
        ));
    }
    if let Some(schema) = &config.schema
        && (schema.is_empty() || schema.len() > 63 || schema.bytes().any(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))))
    {
        faults.push(Fault::new("schema", "must be 1 to 63 letters, digits, `_` and `-`"));
    }
    if !(1..=1000).contains(&config.pool) {
        faults.push(Fault::new("pool", "must be between 1 and 1000"));
    }
    if config.timeout.get() < Duration::from_millis(100) {
        faults.push(Fault::new("timeout", "must be at least 100ms"));
    }
    if faults.is_empty() {
        Ok(Names { schema: config.schema.clone(), prefix: config.table_prefix.clone(), project: project.to_owned() })
    } else {
        Err(faults)
    }
}

/// What only some databases can.
fn only(config: &Config, postgres: bool, sqlite: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !postgres && config.schema.is_some() {
        faults.push(Fault::new("schema", "is for PostgreSQL alone; on MySQL the URL names the database, and table_prefix keeps names apart"));
    }
    if !postgres && config.notify {
        faults.push(Fault::new("notify", "is for PostgreSQL alone; elsewhere poller.interval bounds the wait"));
    }
    if sqlite && config.tls.is_some() {
        faults.push(Fault::new("tls", "makes no sense with a file"));
    }
    let files = config.tls.iter().flat_map(|tls| [("tls.ca", &tls.ca), ("tls.cert", &tls.cert), ("tls.key", &tls.key)]);
    for (path, file) in files.filter_map(|(path, file)| Some((path, file.as_ref()?))) {
        // A driver that finds no file says so as if the server were away.
        if let Err(error) = std::fs::File::open(file) {
            faults.push(Fault::new(path, format!("{} can't be read: {error}", file.display())));
        }
    }
    faults
}

pub(super) fn open(config: &Config, project: &str, observer: Observer) -> Result<Arc<dyn Store>, Vec<Fault>> {
    let (target, names) = match (target(config), names(config, project)) {
        (Ok(target), Ok(names)) => (target, names),
        (target, names) => return Err(target.err().into_iter().flatten().chain(names.err().into_iter().flatten()).collect()),
    };
    let faults = only(config, matches!(target, Target::Postgres(_)), matches!(target, Target::Sqlite(_)));
    if !faults.is_empty() {
        return Err(faults);
    }
    let (timeout, keep) = (config.timeout.get(), config.statement_cache > 0);
    match target {
        Target::Sqlite(file) => {
            let create = config.migrate == Migrate::Auto;
            let dialect = Sqlite { file, create, busy: timeout.mul_f32(0.9), cache: config.statement_cache as usize };
            Ok(store(config, names, dialect, timeout, true, true, observer))
        }
        Target::Postgres(url) => Ok(store(config, names, Postgres::try_new(&url, config)?, timeout, keep, false, observer)),
        Target::Mysql(url) => Ok(store(config, names, Mysql::try_new(&url, config)?, Mysql::timeout(config), keep, false, observer)),
    }
}

fn store<D: Dialect>(
    config: &Config,
    names: Names,
    dialect: D,
    timeout: Duration,
    keep: bool,
    one_writer: bool,
    observer: Observer,
) -> Arc<dyn Store> {
    let core = Core::new(dialect, names, timeout, keep, config.pool, one_writer, observer);
    Arc::new(SqlStore { core: Arc::new(core), migrate: config.migrate, lapsed: Mutex::default() })
}

/// Why there is no SQL to print.
#[derive(Debug)]
pub enum Unprinted {
    /// Every fault of the configuration.
    Faults(Vec<Fault>),
    /// There is no migration of that name; there are these.
    Unknown(Vec<&'static str>),
}

/// The SQL that `redrive migrate` would run on an empty database, or on one where `from` is the last migration that was applied: the record of
/// it included, and the trigger of `store.notify`, which may be made again.
///
/// # Errors
/// Faults of the configuration, or a migration that is none.
pub fn print_sql(config: &Config, project: &str, from: Option<&str>) -> Result<String, Unprinted> {
    let names = names(config, project).map_err(Unprinted::Faults)?;
    match target(config).map_err(Unprinted::Faults)? {
        Target::Sqlite(_) => print::<Sqlite>(&names, from),
        Target::Postgres(_) => {
            let mut sql = print::<Postgres>(&names, from)?;
            if config.notify {
                sql.push_str("-- store.notify\n");
                sql.push_str(&listen::create(&names));
                sql.push('\n');
            }
            Ok(sql)
        }
        Target::Mysql(_) => print::<Mysql>(&names, from),
    }
}

fn print<D: Dialect>(names: &Names, from: Option<&str>) -> Result<String, Unprinted> {
    let versions = migrate::versions::<D>();
    let applied = from.map_or(Some(0), |from| versions.iter().position(|version| *version == from).map(|last| last + 1));
    applied.map(|applied| migrate::print::<D>(names, applied)).ok_or(Unprinted::Unknown(versions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Secret;

    fn file(url: &str) -> Result<PathBuf, String> {
        let config = Config { url: Secret::new(url), ..Config::default() };
        match target(&config) {
            Ok(Target::Sqlite(file)) => Ok(file),
            Ok(_) => Err("another database".to_owned()),
            Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn a_url_of_sqlite_names_a_file_below_the_root_or_the_working_directory() {
        for (url, expected) in [
            ("sqlite:redrive.db", "redrive.db"),
            ("sqlite://redrive.db", "redrive.db"),
            ("sqlite://data/redrive.db?mode=rwc", "data/redrive.db"),
            ("sqlite:/data/redrive.db", "/data/redrive.db"),
            ("sqlite:///data/redrive.db", "/data/redrive.db"),
            ("sqlite:////data/redrive.db", "/data/redrive.db"),
            ("sqlite://a%3Fb%20c.db?", "a?b c.db"),
        ] {
            assert_eq!(file(url).as_deref(), Ok(std::path::Path::new(expected)), "{url}");
        }
    }

    #[test]
    fn what_a_url_of_sqlite_asks_for_and_does_not_get_is_told() {
        for query in ["mode=ro", "mode=memory", "mode=rwc&cache=shared", "cache=shared", "hunter2"] {
            let said = file(&format!("sqlite:///data/redrive.db?{query}")).unwrap_err();
            assert!(said.starts_with("url: takes nothing behind its `?`") && !said.contains("hunter2"), "{said}");
        }
        for url in ["sqlite:", "sqlite://", "sqlite://?mode=rwc", "sqlite::memory:", "sqlite://:memory:"] {
            assert!(file(url).unwrap_err().contains("names no file"), "{url}");
        }
    }
}
