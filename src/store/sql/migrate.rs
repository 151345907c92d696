//! The tables: created and upgraded by a small migrator of our own (sqlx's migrations table may be in use by the application), or only checked.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::decode;
use super::dialect::{Dialect, Value};
use super::lock;
use super::pool::{Core, Fail, Session, Work};
use super::template::{Names, expand, render};
use crate::store::Error;
use crate::store::config::Migrate;

/// How long changing the tables may take.
const LIMIT: Duration = Duration::from_secs(600);

/// How long checking them may take: it is the first query to a server that may only just be starting.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The checksum of a migration's file, so that prefix and project make no difference.
fn checksum(text: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The statement that records a migration.
fn record(version: &str, text: &str) -> String {
    format!("INSERT INTO {{migrations}} (version, checksum) VALUES ('{version}', '{}');", checksum(text))
}

/// The names of the migrations, in order.
pub(super) fn versions<D: Dialect>() -> Vec<&'static str> {
    D::MIGRATIONS.iter().map(|(version, _)| *version).collect()
}

/// Everything that `auto` would run on an empty database, or on one where the first `applied` migrations were applied.
pub(super) fn print<D: Dialect>(names: &Names, applied: usize) -> String {
    let mut out = String::new();
    if let (Some(schema), 0) = (&names.schema, applied) {
        let _ = writeln!(out, "CREATE SCHEMA IF NOT EXISTS \"{schema}\";\n");
    }
    for (version, text) in D::MIGRATIONS.iter().skip(applied) {
        let _ = writeln!(out, "-- {version}\n{}\n{}\n", expand::<D>(names, text).trim_end(), expand::<D>(names, &record(version, text)));
    }
    out
}

/// Creates, upgrades or checks the tables; returns the versions that were applied.
pub(super) async fn prepare<D: Dialect>(core: &Arc<Core<D>>, mode: Migrate) -> Result<Vec<String>, Error> {
    let missing = if core.dialect.is_absent() {
        D::MIGRATIONS.to_vec()
    } else {
        core.run_within(Work::Loose, core.timeout.max(PATIENCE), |session| Box::pin(async move { missing(session).await })).await?
    };
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    if mode == Migrate::Verify {
        let missing: Vec<_> = missing.iter().map(|(version, _)| *version).collect();
        return Err(Error::Schema(format!("{} not applied{}: {}", missing.join(", "), core.dialect.place(), advice::<D>(&missing))));
    }
    // On MySQL a lock outside of transactions guards the work, and each statement commits on its own; elsewhere all of it is one transaction.
    let work = if D::unlock_schema("").is_some() { Work::Loose } else { Work::Transaction };
    let applied = core
        .run_within(work, LIMIT, |session| {
            Box::pin(async move {
                if let Some(settings) = D::SCHEMA_SETTINGS {
                    session.script(settings.to_owned()).await?;
                }
                let lock = lock::take(session, LIMIT).await?;
                let done = apply(session).await;
                let freed = lock::let_go(session, lock).await;
                // The first error says more.
                let versions = done?;
                freed?;
                Ok(versions)
            })
        })
        .await;
    // Long timeouts were set on this session, which other work should not inherit.
    core.forget();
    applied
}

/// What to do about tables that lack migrations.
fn advice<D: Dialect>(missing: &[&str]) -> String {
    let applied = versions::<D>().into_iter().take_while(|version| !missing.contains(version)).last();
    let from = applied.map_or_else(String::new, |version| format!(" --from {version}"));
    format!("run `redrive migrate`, or have the SQL that `redrive migrate --print-sql{from}` prints run by somebody who may change the tables")
}

async fn apply<D: Dialect>(session: &mut Session<D>) -> Result<Vec<String>, Fail> {
    let names = session.core.names.clone();
    if let Some(schema) = &names.schema {
        // Checked first: CREATE SCHEMA IF NOT EXISTS requires the right to create even if the schema exists.
        let rows = session.rows_once("SELECT count(*) FROM information_schema.schemata WHERE schema_name = ?", &[Value::Text(schema)]).await?;
        if decode::number::<D>(&rows) == Some(0) {
            session.script(format!("CREATE SCHEMA \"{schema}\"")).await?;
        }
    }
    // Another node may have been faster.
    let mut applied = Vec::new();
    for (version, text) in missing(session).await? {
        session.script(expand::<D>(&names, text)).await?;
        session.script(render::<D>(&names, &record(version, text))).await?;
        applied.push(version.to_owned());
    }
    Ok(applied)
}

/// The migrations that have not been applied yet.
async fn missing<D: Dialect>(session: &mut Session<D>) -> Result<Vec<(&'static str, &'static str)>, Fail> {
    let names = session.core.names.clone();
    let exists = D::exists(names.schema.as_deref(), &names.plain("redrive_migrations"));
    let there = decode::number::<D>(&session.rows_once(&exists, &[]).await?).unwrap_or(0) > 0;
    let mut applied = Vec::new();
    if there {
        for row in session.rows_once("SELECT {text version}, {text checksum} FROM {migrations} ORDER BY version", &[]).await? {
            applied.push((decode::maybe_text::<D>(&row, 0).unwrap_or_default(), decode::maybe_text::<D>(&row, 1).unwrap_or_default()));
        }
    }
    for (version, sum) in &applied {
        match D::MIGRATIONS.iter().find(|(known, _)| known == version) {
            Some((_, text)) if checksum(text) == *sum => {}
            Some(_) => {
                return Err(
                    Error::Schema(format!("migration {version} was applied with other contents; the tables were not made by this redrive")).into()
                );
            }
            None => return Err(Error::Schema(format!("migration {version} comes from a newer redrive; run that one")).into()),
        }
    }
    Ok(D::MIGRATIONS.iter().filter(|(version, _)| !applied.iter().any(|(done, _)| done == version)).copied().collect())
}

/// The column default of `project`.
pub(super) async fn default_project<D: Dialect>(session: &mut Session<D>) -> Result<Option<String>, Fail> {
    let names = session.core.names.clone();
    let sql = D::project_default(names.schema.as_deref(), &names.plain("resend_log"));
    let rows = session.rows_once(&sql, &[]).await?;
    let text = rows.first().and_then(|row| decode::maybe_text::<D>(row, 0));
    Ok(text.map(|text| unquoted(&text)).filter(|text| !text.is_empty() && text != "NULL"))
}

/// A default without the quoting and type that databases add: `'orders'::text` or `orders`.
fn unquoted(text: &str) -> String {
    match text.strip_prefix('\'').and_then(|rest| rest.split_once('\'')) {
        Some((inside, _)) => inside.to_owned(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_is_read_as_each_database_writes_it() {
        assert_eq!(unquoted("'orders'::text"), "orders");
        assert_eq!(unquoted("'orders'"), "orders");
        assert_eq!(unquoted("orders"), "orders");
    }
}
