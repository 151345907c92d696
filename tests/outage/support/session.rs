//! A session with a database, in which a test runs SQL as an application would.

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row, SqliteConnection};
use url::Url;

#[derive(Debug)]
pub(crate) enum Session {
    Postgres(PgConnection),
    Mysql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// Rows as text, whatever the columns' types.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

macro_rules! each {
    ($session:expr, $connection:ident => $body:expr) => {
        match $session {
            Session::Postgres($connection) => $body,
            Session::Mysql($connection) => $body,
            Session::Sqlite($connection) => $body,
        }
    };
}

impl Session {
    pub(crate) async fn open(url: &Url) -> Self {
        match url.scheme() {
            "postgres" => Self::Postgres(PgConnection::connect(url.as_str()).await.unwrap()),
            "mysql" => Self::Mysql(MySqlConnection::connect(url.as_str()).await.unwrap()),
            _ => {
                let mut connection = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
                connection.execute("PRAGMA busy_timeout = 20000").await.unwrap();
                Self::Sqlite(connection)
            }
        }
    }

    /// Runs statements.
    pub(crate) async fn try_run(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        each!(self, connection => Ok(connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?.rows_affected()))
    }

    /// The same, when nothing may go wrong.
    pub(crate) async fn run(&mut self, sql: &str) -> u64 {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{error}\n{}", &sql[..sql.len().min(500)]))
    }

    /// The rows of a query, as text.
    pub(crate) async fn rows(&mut self, sql: &str) -> Rows {
        // The text protocol gives every type as text.
        let rows: Result<Rows, sqlx::Error> = each!(self, connection => async {
            let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
            rows.iter().map(|row| (0..row.len()).map(|column| row.try_get_unchecked::<Option<String>, _>(column)).collect()).collect()
        }.await);
        rows.unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// The only column of the only row, as a number.
    pub(crate) async fn number(&mut self, sql: &str) -> u64 {
        let rows = self.rows(sql).await;
        rows[0][0].as_deref().unwrap_or("0").parse().unwrap_or_else(|error| panic!("{error}: {rows:?}\n{sql}"))
    }
}
