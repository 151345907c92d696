//! Temporary stores: a schema, a database or a file per test, removed with it.

use std::sync::Arc;
use std::time::Duration;

use redrive::store::{self, Store};
use redrive::units::{Secret, Span};
use tokio::sync::OnceCell;
use url::Url;

use super::{Raw, service, unique_name};

/// Leftovers of killed runs are removed at this age: nothing runs that long.
const LEFTOVER: Duration = Duration::from_secs(3600);

/// A database that redrive works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
    Postgres18,
    /// PostgreSQL through PgBouncer in transaction mode.
    Pgbouncer,
    Mariadb,
    Mysql,
}

impl Backend {
    pub(crate) const fn is_sqlite(self) -> bool {
        matches!(self, Self::Sqlite)
    }

    pub(crate) const fn is_postgres(self) -> bool {
        matches!(self, Self::Postgres | Self::Postgres18 | Self::Pgbouncer)
    }

    pub(crate) const fn is_mysql(self) -> bool {
        matches!(self, Self::Mariadb | Self::Mysql)
    }

    /// Where redrive connects.
    fn url(self) -> Url {
        let name = match self {
            Self::Sqlite => return "sqlite:".parse().unwrap(),
            Self::Postgres => "REDRIVE_TEST_POSTGRES_URL",
            Self::Postgres18 => "REDRIVE_TEST_POSTGRES18_URL",
            Self::Pgbouncer => "REDRIVE_TEST_PGBOUNCER_URL",
            Self::Mariadb => "REDRIVE_TEST_MARIADB_URL",
            Self::Mysql => "REDRIVE_TEST_MYSQL_URL",
        };
        service(name).parse().unwrap()
    }

    /// Where the test itself connects: it keeps sessions, which PgBouncer in transaction mode does not.
    fn direct_url(self) -> Url {
        if self == Self::Pgbouncer { Self::Postgres.url() } else { self.url() }
    }

    /// An empty store: no tables yet.
    pub(crate) async fn fresh(self) -> TestStore {
        let name = unique_name();
        let mut direct = self.direct_url();
        let mut config = store::Config { pool: 4, timeout: Span::secs(10), ..store::Config::default() };
        let mut folder = None;
        if self.is_sqlite() {
            let dir = tempfile::tempdir().unwrap();
            direct = format!("sqlite://{}", dir.path().join("redrive.db").display()).parse().unwrap();
            config.url = Secret::new(direct.as_str());
            folder = Some(dir);
        } else {
            let mut admin = Raw::connect(&direct).await;
            sweep(self, &mut admin).await;
            if self.is_postgres() {
                admin.run(&format!("CREATE SCHEMA {name}")).await;
                config.schema = Some(name.clone());
                config.url = Secret::new(self.url().as_str());
            } else {
                admin.run(&format!("CREATE DATABASE {name}")).await;
                direct.set_path(&name);
                config.url = Secret::new(direct.as_str());
            }
        }
        if self == Self::Pgbouncer {
            config.statement_cache = 0;
        }
        TestStore { backend: self, project: "orders".to_owned(), config, name, direct, folder }
    }
}

/// Removes what killed runs left behind, once per process and server.
async fn sweep(backend: Backend, admin: &mut Raw) {
    static SWEPT: [OnceCell<()>; 6] = [const { OnceCell::const_new() }; 6];
    SWEPT[backend as usize]
        .get_or_init(async || {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            for row in admin.rows("SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE 'rdt!_%' ESCAPE '!'").await {
                let name = row[0].clone().unwrap();
                let made = name.split('_').nth(1).and_then(|hex| u64::from_str_radix(hex, 16).ok());
                if made.is_some_and(|made| Duration::from_secs(made) + LEFTOVER < now) {
                    // Another process may be sweeping too.
                    let _ = admin.try_run(&drop_statement(backend, &name)).await;
                }
            }
        })
        .await;
}

fn drop_statement(backend: Backend, name: &str) -> String {
    if backend.is_postgres() { format!("DROP SCHEMA IF EXISTS {name} CASCADE") } else { format!("DROP DATABASE IF EXISTS {name}") }
}

/// A store of one test. Its contents go when it is dropped.
#[derive(Debug)]
pub(crate) struct TestStore {
    pub(crate) backend: Backend,
    /// The project whose name the tables are created with.
    pub(crate) project: String,
    pub(crate) config: store::Config,
    name: String,
    direct: Url,
    folder: Option<tempfile::TempDir>,
}

impl TestStore {
    /// The store, not prepared.
    pub(crate) fn open(&self) -> Arc<dyn Store> {
        self.open_for(&self.project)
    }

    /// The store for another project, not prepared.
    pub(crate) fn open_for(&self, project: &str) -> Arc<dyn Store> {
        store::open(&self.config, project).unwrap()
    }

    /// The store, prepared.
    pub(crate) async fn prepared(&self) -> Arc<dyn Store> {
        let store = self.open();
        store.prepare().await.unwrap();
        store
    }

    /// A connection like an application's: `resend_log` means this store's table.
    pub(crate) async fn raw(&self) -> Raw {
        let mut raw = Raw::connect(&self.direct).await;
        if self.backend.is_postgres() {
            raw.run(&format!("SET search_path = {}", self.name)).await;
        }
        raw
    }
}

impl Drop for TestStore {
    fn drop(&mut self) {
        if self.folder.is_some() {
            return;
        }
        let (backend, name, mut url) = (self.backend, self.name.clone(), self.direct.clone());
        if backend.is_mysql() {
            url.set_path("");
        }
        // In a thread of its own: the test's runtime may be the one that drops this, and may be unwinding.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut admin = Raw::connect(&url).await;
                // A failed test may have left a transaction open, which must not hold up the others.
                let patience = if backend.is_postgres() { "SET lock_timeout = '3s'" } else { "SET SESSION lock_wait_timeout = 3" };
                admin.run(patience).await;
                admin.try_run(&drop_statement(backend, &name)).await.map(drop)
            })
        })
        .join();
        match cleaned {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("{} stays behind: {error}", self.name),
            Err(_) => eprintln!("{} stays behind", self.name),
        }
    }
}
