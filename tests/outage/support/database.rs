//! The resend log of one test: a schema, a database or a file of its own, removed with the test.

use std::collections::HashMap;
use std::time::Duration;

use url::Url;
use uuid::Uuid;

use super::session::Session;
use super::{States, eventually, service, unique};

/// The databases for which each promise is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Mariadb,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Mariadb];
    /// Those that several nodes may share.
    pub(crate) const SHARED: [Self; 2] = [Self::Postgres, Self::Mariadb];

    fn server(self) -> Url {
        let name = match self {
            Self::Sqlite => return "sqlite:".parse().unwrap(),
            Self::Postgres => "REDRIVE_TEST_POSTGRES_URL",
            Self::Mariadb => "REDRIVE_TEST_MARIADB_URL",
        };
        service(name).parse().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) kind: Kind,
    name: String,
    url: Url,
    _folder: Option<tempfile::TempDir>,
}

/// What a row says about its message.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) state: String,
    pub(crate) attempts: u32,
    pub(crate) error_code: Option<String>,
    pub(crate) error_detail: Option<String>,
}

impl Database {
    /// An empty one: no tables yet.
    pub(crate) async fn fresh(kind: Kind) -> Self {
        let name = unique("db");
        let mut url = kind.server();
        let mut folder = None;
        match kind {
            Kind::Sqlite => {
                let dir = tempfile::tempdir().unwrap();
                url = format!("sqlite://{}", dir.path().join("redrive.db").display()).parse().unwrap();
                folder = Some(dir);
            }
            Kind::Postgres => {
                let mut session = Session::open(&url).await;
                sweep(kind, &mut session).await;
                session.run(&format!("CREATE SCHEMA {name}")).await;
            }
            Kind::Mariadb => {
                let mut session = Session::open(&url).await;
                sweep(kind, &mut session).await;
                session.run(&format!("CREATE DATABASE {name}")).await;
                url.set_path(&name);
            }
        }
        Self { kind, name, url, _folder: folder }
    }

    /// The content of `store:` in the configuration.
    pub(crate) fn store(&self) -> String {
        self.store_at(&self.url)
    }

    /// The same, with the server reached through another port of this machine.
    pub(crate) fn store_behind(&self, port: u16) -> String {
        let mut url = self.url.clone();
        url.set_port(Some(port)).unwrap();
        self.store_at(&url)
    }

    fn store_at(&self, url: &Url) -> String {
        let schema = if self.kind == Kind::Postgres { format!(", schema: {}", self.name) } else { String::new() };
        format!("url: \"{url}\"{schema}")
    }

    /// `host:port` of the server.
    pub(crate) fn server(&self) -> String {
        format!("{}:{}", self.url.host_str().unwrap(), self.url.port().unwrap())
    }

    /// A session like an application's: `resend_log` means this one's table.
    pub(crate) async fn session(&self) -> Session {
        let mut session = Session::open(&self.url).await;
        if self.kind == Kind::Postgres {
            session.run(&format!("SET search_path = {}", self.name)).await;
        }
        session
    }

    /// How many messages there are, by state.
    pub(crate) async fn states(&self) -> States {
        let rows = self.session().await.rows("SELECT state, count(*) FROM resend_log GROUP BY state").await;
        rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].as_deref().unwrap().parse().unwrap())).collect()
    }

    /// All messages by id.
    pub(crate) async fn records(&self) -> HashMap<String, Record> {
        // What a claim has taken is named by its sheet (docs/database.md).
        let on_sheets = match self.kind {
            Kind::Postgres => "SELECT unnest(ids) FROM redrive_sheet",
            Kind::Sqlite => "SELECT u.value FROM redrive_sheet s, json_each(s.ids) AS u",
            Kind::Mariadb => "SELECT u.id FROM redrive_sheet s, JSON_TABLE(s.ids, '$[*]' COLUMNS (id char(36) PATH '$')) AS u",
        };
        let state = format!("CASE WHEN level IS NOT NULL AND id IN ({on_sheets}) THEN 'sending' ELSE state END");
        let rows = self.session().await.rows(&format!("SELECT id, {state}, attempts, error_code, error_detail FROM resend_log")).await;
        let record = |row: Vec<Option<String>>| {
            let [id, state, attempts, error_code, error_detail] = row.try_into().unwrap();
            let record = Record { state: state.unwrap(), attempts: attempts.unwrap().parse().unwrap(), error_code, error_detail };
            (id.unwrap(), record)
        };
        rows.into_iter().map(record).collect()
    }

    /// Every column of every row of both tables, to check whether anything has changed.
    pub(crate) async fn snapshot(&self) -> Vec<Vec<Option<String>>> {
        let mut session = self.session().await;
        let mut all = session.rows("SELECT * FROM resend_log ORDER BY id").await;
        all.extend(session.rows("SELECT * FROM attempt_log ORDER BY 1, 2, 3, 4").await);
        all
    }

    /// Waits until every message is finished.
    pub(crate) async fn finished(&self, within: Duration) {
        let what = format!("every message is over, on {:?}", self.kind);
        eventually(what, within, async || {
            let states = self.states().await;
            let over = |state: &str| ["succeeded", "failed", "cancelled"].contains(&state);
            if states.keys().all(|state| over(state)) { Ok(()) } else { Err(format!("{states:?}")) }
        })
        .await;
    }

    /// Inserts messages as an application does that chooses its own ids; a thousand per statement.
    pub(crate) async fn insert(&self, source: &str, ids: &[Uuid]) {
        let mut session = self.session().await;
        for ids in ids.chunks(1000) {
            session.run(&insert_statement(source, ids)).await;
        }
    }
}

/// One INSERT of messages whose payload is their id.
pub(crate) fn insert_statement(source: &str, ids: &[Uuid]) -> String {
    let values: Vec<_> = ids.iter().map(|id| format!("('{id}','{source}','k','{id}')")).collect();
    format!("INSERT INTO resend_log (id, source, msg_key, payload) VALUES {}", values.join(","))
}

pub(crate) fn new_ids(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::now_v7()).collect()
}

/// Removes what killed runs left behind more than an hour ago.
async fn sweep(kind: Kind, session: &mut Session) {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    for row in session.rows("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'rdo!_db!_%' ESCAPE '!'").await {
        let name = row[0].clone().unwrap();
        let made = name.split('_').nth(2).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        if made.is_some_and(|made| Duration::from_secs(made + 3600) < now) {
            let _ = session.try_run(&drop_statement(kind, &name)).await;
        }
    }
}

fn drop_statement(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Sqlite => String::new(),
        Kind::Postgres => format!("SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS {name} CASCADE"),
        Kind::Mariadb => format!("DROP DATABASE IF EXISTS {name}"),
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.kind == Kind::Sqlite {
            return;
        }
        let statement = drop_statement(self.kind, &self.name);
        let url = self.kind.server();
        // In a thread of its own: the test's runtime is the one that drops this, and may be unwinding.
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Session::open(&url).await.try_run(&statement).await })
        });
        match gone.join() {
            Ok(Ok(_)) => {}
            other => eprintln!("{} stays behind: {other:?}", self.name),
        }
    }
}
