//! MySQL and MariaDB.

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;

use super::{CLAIM, Connection, Due, Table};
use crate::store::sql::nodelay;

pub(super) struct Mysql(MySqlConnection);

pub(super) async fn connect(options: &MySqlConnectOptions) -> Result<Mysql, sqlx::Error> {
    let mut connection = nodelay::connect(options.get_port(), MySqlConnection::connect_with(options)).await?;
    // At the default level, claims block the inserts of others.
    sqlx::raw_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").execute(&mut connection).await?;
    Ok(Mysql(connection))
}

/// The id of a row; the server may return an ASCII column as bytes.
fn id(row: &MySqlRow) -> Result<String, sqlx::Error> {
    let bytes: Vec<u8> = row.try_get_unchecked(0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[async_trait]
impl Connection for Mysql {
    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await.map(drop)
    }

    async fn numbers(&mut self, sql: &str) -> Result<Vec<i64>, sqlx::Error> {
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.0).await?;
        rows.iter().map(|row| Ok(row.try_get_unchecked::<Option<i64>, _>(0)?.unwrap_or_default())).collect()
    }

    async fn words(&mut self, sql: &str) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.0).await?.iter().map(id).collect()
    }

    async fn insert(&mut self, table: &Table, payloads: &[Vec<u8>], due: Due) -> Result<(), sqlx::Error> {
        let Table { log, source, topic, .. } = table;
        let (column, value) = if due == Due::InAMonth { (", due_at", ", UTC_TIMESTAMP(6) + INTERVAL 30 DAY") } else { ("", "") };
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
        let pick = format!(
            "SELECT id, topic, msg_key, headers, payload FROM {log}
             WHERE project = '{project}' AND source = '{source}' AND level = 0 AND due_at <= UTC_TIMESTAMP(6)
             ORDER BY due_at LIMIT {CLAIM} FOR UPDATE SKIP LOCKED"
        );
        self.run("BEGIN").await?;
        let rows = sqlx::query(AssertSqlSafe(pick)).fetch_all(&mut self.0).await?;
        let ids = rows.iter().map(|row| Ok(format!("'{}'", id(row)?))).collect::<Result<Vec<_>, sqlx::Error>>()?;
        if ids.is_empty() {
            self.run("COMMIT").await?;
            return Ok(0);
        }
        let ids = ids.join(",");
        self.run(&format!(
            "UPDATE {log} SET state = 'sending', attempts = attempts + 1, lease_token = 1, lease_until = UTC_TIMESTAMP(6) + INTERVAL 30 SECOND,
                attempt_started_at = UTC_TIMESTAMP(6) WHERE id IN ({ids})"
        ))
        .await?;
        self.run("COMMIT").await?;
        self.run(&if delete {
            format!("DELETE FROM {log} WHERE id IN ({ids}) AND lease_token = 1")
        } else {
            format!(
                "UPDATE {log} SET state = 'succeeded', finished_at = UTC_TIMESTAMP(6), lease_until = NULL WHERE id IN ({ids}) AND lease_token = 1"
            )
        })
        .await?;
        Ok(rows.len())
    }
}
