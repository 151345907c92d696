//! PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;

use super::{CLAIM, Connection, Due, Table};
use crate::store::sql::nodelay;

pub(super) struct Postgres(PgConnection);

pub(super) async fn connect(options: &PgConnectOptions) -> Result<Postgres, sqlx::Error> {
    Ok(Postgres(nodelay::connect(options.get_port(), PgConnection::connect_with(options)).await?))
}

#[async_trait]
impl Connection for Postgres {
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
        let (column, value) = if due == Due::InAMonth { (", due_at", ", now() + interval '30 days'") } else { ("", "") };
        if let [payload] = payloads {
            let sql = format!("INSERT INTO {log} (id, source, topic, payload{column}) VALUES ($1, '{source}', '{topic}', $2{value})");
            return sqlx::query(AssertSqlSafe(sql)).bind(Uuid::now_v7()).bind(payload).execute(&mut self.0).await.map(drop);
        }
        let ids: Vec<Uuid> = payloads.iter().map(|_| Uuid::now_v7()).collect();
        let sql = format!(
            "INSERT INTO {log} (id, source, topic, payload{column})
             SELECT unnest($1::uuid[]), '{source}', '{topic}', unnest($2::bytea[]){value}"
        );
        sqlx::query(AssertSqlSafe(sql)).bind(ids).bind(payloads).execute(&mut self.0).await.map(drop)
    }

    async fn claim_and_complete(&mut self, table: &Table, delete: bool) -> Result<usize, sqlx::Error> {
        let Table { log, project, source, .. } = table;
        let claim = format!(
            "WITH picked AS MATERIALIZED (SELECT id FROM {log} WHERE project = '{project}' AND source = '{source}' AND level = 0 AND due_at <= now()
                ORDER BY due_at LIMIT {CLAIM} FOR UPDATE SKIP LOCKED)
             UPDATE {log} SET state = 'sending', attempts = attempts + 1, lease_token = 1, lease_until = now() + interval '30 s', attempt_started_at = now()
             WHERE id = ANY (ARRAY (SELECT id FROM picked)) RETURNING id, topic, msg_key, headers, payload"
        );
        let rows = sqlx::query(AssertSqlSafe(claim)).fetch_all(&mut self.0).await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let complete = if delete {
            format!("DELETE FROM {log} WHERE id = ANY ($1) AND lease_token = 1")
        } else {
            format!("UPDATE {log} SET state = 'succeeded', finished_at = now(), lease_until = NULL WHERE id = ANY ($1) AND lease_token = 1")
        };
        if !ids.is_empty() {
            sqlx::query(AssertSqlSafe(complete)).bind(ids).execute(&mut self.0).await?;
        }
        Ok(rows.len())
    }
}
