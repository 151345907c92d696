//! From the configuration to a store: every fault at once, nothing is connected.

use std::path::{Path, PathBuf};
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
use crate::secret;
use crate::store::config::Migrate;
use crate::store::{Config, Observer, Store};
use crate::tls::{self, Pem};
use crate::units::Secret;

/// The longest table prefix: names of indexes must fit PostgreSQL's 63 bytes.
const MOST_PREFIX: usize = 30;

/// The database that a configuration names.
pub(super) enum Target {
    Sqlite(PathBuf),
    Postgres(Login),
    Mysql(Login),
}

/// Where a server is, and the password, if it is not in the URL.
pub(super) struct Login {
    pub(super) url: String,
    pub(super) password: Option<Secret>,
}

/// What a configuration asks for.
pub(super) fn target(config: &Config) -> Result<Target, Vec<Fault>> {
    let mut faults = Vec::new();
    sought(config, &mut faults).filter(|_| faults.is_empty()).ok_or(faults)
}

/// What a configuration asks for, even if something is wrong with it. The URL may hold a password and is never repeated.
fn sought(config: &Config, faults: &mut Vec<Fault>) -> Option<Target> {
    let mut fault = |path: &str, message: &str| faults.push(Fault::new(path, message));
    let (path, text) = match &config.url_file {
        None => ("url", Some(config.url.expose().to_owned())),
        Some(file) => {
            let url = secret::read(file).map_err(|message| fault("url_file", &message)).ok();
            ("url_file", url.map(|url| url.expose().trim().to_owned()))
        }
    };
    let (key, password) = match (&config.password, &config.password_file) {
        (Some(_), Some(_)) => {
            fault("password_file", "give password or password_file, not both");
            ("password_file", None)
        }
        (None, Some(file)) => ("password_file", secret::read(file).map_err(|message| fault("password_file", &message)).ok()),
        (password, None) => ("password", password.clone()),
    };
    let text = text?;
    match text.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => {
            if password.is_some() {
                fault(key, "does not apply to SQLite");
            }
            file(&text["sqlite:".len()..]).map(Target::Sqlite).map_err(|message| fault(path, message)).ok()
        }
        Some(scheme @ ("postgres" | "postgresql" | "mysql" | "mariadb")) => {
            let mut url = server(&text).map_err(|message| fault(path, &message)).ok()?;
            if password.is_some() && (url.password().is_some() || url.query_pairs().any(|(key, _)| key == "password")) {
                fault(key, "the URL holds a password too; leave one of them out");
            }
            if scheme.starts_with("postgres") {
                return Some(Target::Postgres(Login { url: text, password }));
            }
            if scheme == "mariadb" {
                // Both are special to nobody, so the change is always allowed.
                let _ = url.set_scheme("mysql");
            }
            Some(Target::Mysql(Login { url: url.into(), password }))
        }
        _ => {
            fault(path, "must begin with sqlite:, postgres: or mysql:");
            None
        }
    }
}

/// The URL of a server. What the parser says of one repeats nothing of it.
fn server(text: &str) -> Result<Url, String> {
    const ENCODED: &str =
        "in a user or password write @ / ? # % as %40 %2F %3F %23 %25, or leave the password out and give it as it is, as store.password";
    let url = Url::from_str(text).map_err(|error| format!("is not a valid URL ({error}); {ENCODED}"))?;
    // What stands before such a character in a password may pass for a port, and the rest for a path, parameters or a fragment.
    let torn = url.path().contains('@') || url.fragment().is_some() || url.query_pairs().any(|(key, _)| key.contains('@'));
    if torn { Err(format!("is not a valid URL; {ENCODED}")) } else { Ok(url) }
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
        return Err("accepts nothing after its `?` except `mode=rwc`; remove it, or write %3F for a `?` in the name of the file");
    }
    let file = percent_encoding::percent_decode_str(file).decode_utf8().map_err(|_| "is not UTF-8 once decoded")?;
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

/// What is asked for and only PostgreSQL has.
fn of_postgres(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    if config.schema.is_some() {
        faults.push(Fault::new("schema", "is for PostgreSQL only; on MySQL the URL names the database, and table_prefix keeps names apart"));
    }
    if config.notify {
        faults.push(Fault::new("notify", "is for PostgreSQL only; elsewhere poller.interval bounds the wait"));
    }
    faults
}

/// The certificates; they are read even if the URL is at fault, for their own faults.
fn certificates(config: &Config, target: Option<&Target>) -> Result<Option<Pem>, Vec<Fault>> {
    match (&config.tls, target) {
        (Some(_), Some(Target::Sqlite(_))) => Err(vec![Fault::new("tls", "does not apply to SQLite")]),
        (Some(tls), _) => tls.read(Path::new(""), tls::PKCS8).map(Some),
        (None, _) => Ok(None),
    }
}

pub(super) fn open(config: &Config, project: &str, observer: Observer) -> Result<Arc<dyn Store>, Vec<Fault>> {
    let mut faults = Vec::new();
    let target = sought(config, &mut faults);
    let names = or_faults(names(config, project), &mut faults);
    if matches!(target, Some(Target::Sqlite(_) | Target::Mysql(_))) {
        faults.extend(of_postgres(config));
    }
    let pem = or_faults(certificates(config, target.as_ref()), &mut faults).flatten();
    let (timeout, keep) = (config.timeout.get(), config.statement_cache > 0);
    let opened = match target {
        Some(Target::Sqlite(file)) => {
            let create = config.migrate == Migrate::Auto;
            let dialect = Sqlite { file, create, busy: timeout.mul_f32(0.9), cache: config.statement_cache as usize };
            names.map(|names| store(config, names, dialect, timeout, true, true, observer))
        }
        Some(Target::Postgres(login)) => {
            let dialect = or_faults(Postgres::try_new(&login, config, pem), &mut faults);
            names.zip(dialect).map(|(names, dialect)| store(config, names, dialect, timeout, keep, false, observer))
        }
        Some(Target::Mysql(login)) => {
            let dialect = or_faults(Mysql::try_new(&login, config, pem), &mut faults);
            names.zip(dialect).map(|(names, dialect)| store(config, names, dialect, Mysql::timeout(config), keep, false, observer))
        }
        None => None,
    };
    opened.filter(|_| faults.is_empty()).ok_or(faults)
}

/// The value, if there is one; what is wrong otherwise goes to the other faults.
fn or_faults<T>(result: Result<T, Vec<Fault>>, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|more| faults.extend(more)).ok()
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
    let mut faults = Vec::new();
    let target = or_faults(target(config), &mut faults);
    let names = or_faults(names(config, project), &mut faults);
    let (Some(target), Some(names)) = (target, names) else { return Err(Unprinted::Faults(faults)) };
    match target {
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
            assert!(said.starts_with("url: accepts nothing after its `?` except `mode=rwc`; remove it") && !said.contains("hunter2"), "{said}");
        }
        for url in ["sqlite:", "sqlite://", "sqlite://?mode=rwc", "sqlite::memory:", "sqlite://:memory:"] {
            assert!(file(url).unwrap_err().contains("names no file"), "{url}");
        }
    }

    #[test]
    fn a_password_that_tears_the_url_apart_is_told_how_to_be_written() {
        for password in ["hunter2/", "hunter2#x", "hunter2?x", "12/x", "12#x", "12?x", "/x", "?x"] {
            let url = format!("postgres://redrive:{password}@db.internal:5432/orders?sslmode=require");
            let said = file(&url).unwrap_err();
            assert!(said.starts_with("url: is not a valid URL") && said.contains("as %40 %2F %3F %23 %25"), "{password}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        // Whoever writes it so is taken at his word.
        for url in ["postgres://redrive:p%2F%23%3F%40%25@db/orders", "mysql://a%40b:c@db/x?ssl-mode=REQUIRED", "postgres:///x?host=/run&user=a@b"] {
            assert_eq!(file(url), Err("another database".to_owned()), "{url}");
        }
    }

    #[test]
    fn a_password_stands_beside_the_url_or_in_it() {
        let of = |url: &str, password: Option<&str>, file: Option<PathBuf>| {
            let config = Config { url: Secret::new(url), password: password.map(Secret::new), password_file: file, ..Config::default() };
            match target(&config) {
                Ok(Target::Sqlite(_)) => Ok(None),
                Ok(Target::Postgres(login) | Target::Mysql(login)) => Ok(login.password.map(|password| password.expose().to_owned())),
                Err(faults) => Err(faults.iter().map(ToString::to_string).collect::<String>()),
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("password");
        std::fs::write(&written, "p@/?#%20\n").unwrap();
        let taken = Ok(Some("p@/?#%20".to_owned()));
        for url in ["postgres://redrive@db/orders", "mysql://redrive@db/orders", "mariadb://db/orders", "postgres:///orders?host=/run"] {
            assert_eq!(of(url, Some("p@/?#%20"), None), taken, "{url}");
            assert_eq!(of(url, None, Some(written.clone())), taken, "{url}");
            assert_eq!(of(url, None, None), Ok(None), "{url}");
        }
        for (url, said) in [
            ("postgres://u:hunter2@db/x", "password: the URL holds a password too; leave one of them out"),
            ("postgres://db/x?user=u&password=hunter2", "password: the URL holds a password too; leave one of them out"),
            ("sqlite://redrive.db", "password: does not apply to SQLite"),
        ] {
            assert_eq!(of(url, Some("hunter3"), None), Err(said.to_owned()), "{url}");
        }
        let of_a_file = of("sqlite://redrive.db", None, Some(written.clone())).unwrap_err();
        assert_eq!(of_a_file, "password_file: does not apply to SQLite");
        assert!(of("postgres://db/x", Some("hunter2"), Some(written)).unwrap_err().starts_with("password_file: give password or"));
        assert!(of("postgres://db/x", None, Some("/absent".into())).unwrap_err().starts_with("password_file: /absent can't be read"));
    }
}
