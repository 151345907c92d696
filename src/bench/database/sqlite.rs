//! SQLite.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;

use super::{CLAIM, Connection, Due, Table};

pub(super) struct Sqlite(SqliteConnection);

const NOW: &str = "CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)";

pub(super) async fn connect(file: &Path) -> Result<Sqlite, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    Ok(Sqlite(SqliteConnection::connect_with(&options).await?))
}

#[async_trait]
impl Connection for Sqlite {
    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await.map(drop)
    }

    async fn numbers(&mut self, sql: &str) -> Result<Vec<i64>, sqlx::Error> {
        let rows = sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(sql)).fetch_all(&mut self.0).await?;
        Ok(rows.into_iter().map(Option::unwrap_or_default).collect())
    }

    async fn words(&mut self, sql: &str) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut self.0).await
    }

    async fn insert(&mut self, table: &Table, payloads: &[Vec<u8>], due: Due) -> Result<(), sqlx::Error> {
        let Table { log, source, topic, .. } = table;
        let (column, value) = if due == Due::InAMonth { (", due_at", format!(", {NOW} + 2592000000")) } else { ("", String::new()) };
        let row = format!("(?, '{source}', '{topic}', ?{value})");
        let sql = format!("INSERT INTO {log} (id, source, topic, payload{column}) VALUES {}", vec![row.as_str(); payloads.len()].join(", "));
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for payload in payloads {
            query = query.bind(Uuid::now_v7().as_hyphenated().to_string()).bind(payload.as_slice());
        }
        query.execute(&mut self.0).await.map(drop)
    }

    async fn claim_and_complete(&mut self, table: &Table, delete: bool) -> Result<usize, sqlx::Error> {
        let Table { log, project, source, .. } = table;
        let claim = format!(
            "UPDATE {log} SET state = 'sending', attempts = attempts + 1, lease_token = 1, lease_until = {NOW} + 30000, attempt_started_at = {NOW}
             WHERE rowid IN (SELECT rowid FROM {log} WHERE project = '{project}' AND source = '{source}' AND level = 0 AND due_at <= {NOW}
                ORDER BY due_at LIMIT {CLAIM}) RETURNING id, topic, msg_key, headers, payload"
        );
        let rows = sqlx::query(AssertSqlSafe(claim)).fetch_all(&mut self.0).await?;
        let ids: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let complete = if delete {
            format!("DELETE FROM {log} WHERE id IN (SELECT value FROM json_each(?)) AND lease_token = 1")
        } else {
            format!(
                "UPDATE {log} SET state = 'succeeded', finished_at = {NOW}, lease_until = NULL
                 WHERE id IN (SELECT value FROM json_each(?)) AND lease_token = 1"
            )
        };
        if !ids.is_empty() {
            sqlx::query(AssertSqlSafe(complete)).bind(serde_json::to_string(&ids).unwrap_or_default()).execute(&mut self.0).await?;
        }
        Ok(rows.len())
    }
}
