//! A connection with which a test runs SQL as an application would.

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row, SqliteConnection};
use url::Url;

/// One session at the database.
#[derive(Debug)]
pub(crate) enum Raw {
    Postgres(PgConnection),
    Mysql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// Rows as text, whatever the columns' types.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

macro_rules! each {
    ($raw:expr, $connection:ident => $body:expr) => {
        match $raw {
            Raw::Postgres($connection) => $body,
            Raw::Mysql($connection) => $body,
            Raw::Sqlite($connection) => $body,
        }
    };
}

impl Raw {
    pub(crate) async fn connect(url: &Url) -> Self {
        match url.scheme() {
            "postgres" | "postgresql" => Self::Postgres(PgConnection::connect(url.as_str()).await.unwrap()),
            "mysql" | "mariadb" => Self::Mysql(MySqlConnection::connect(url.as_str()).await.unwrap()),
            _ => {
                let mut connection = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
                connection.execute("PRAGMA busy_timeout = 5000").await.unwrap();
                Self::Sqlite(connection)
            }
        }
    }

    /// Runs statements; returns how many rows they touched.
    pub(crate) async fn try_run(&mut self, sql: &str) -> Result<u64, sqlx::Error> {
        each!(self, connection => Ok(connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?.rows_affected()))
    }

    /// The same, when nothing may go wrong.
    #[track_caller]
    pub(crate) fn run(&mut self, sql: &str) -> impl Future<Output = u64> {
        let caller = std::panic::Location::caller();
        async move { self.try_run(sql).await.unwrap_or_else(|error| panic!("{caller}: {error}\n{sql}")) }
    }

    /// The rows of a query.
    #[track_caller]
    pub(crate) fn rows(&mut self, sql: &str) -> impl Future<Output = Rows> {
        let caller = std::panic::Location::caller();
        async move {
            // The text protocol gives every type as text.
            let rows: Result<Rows, sqlx::Error> = each!(self, connection => async {
                let rows = connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
                rows.iter().map(|row| (0..row.len()).map(|column| row.try_get_unchecked::<Option<String>, _>(column)).collect()).collect()
            }.await);
            rows.unwrap_or_else(|error| panic!("{caller}: {error}\n{sql}"))
        }
    }

    /// The only column of the only row.
    #[track_caller]
    pub(crate) fn one(&mut self, sql: &str) -> impl Future<Output = Option<String>> {
        let rows = self.rows(sql);
        async move {
            let mut rows = rows.await;
            assert_eq!(rows.len(), 1, "{sql}");
            rows.remove(0).remove(0)
        }
    }

    /// The same as a number.
    #[track_caller]
    pub(crate) fn number(&mut self, sql: &str) -> impl Future<Output = i64> {
        let one = self.one(sql);
        async move { one.await.unwrap().parse().unwrap() }
    }
}
