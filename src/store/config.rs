//! `store:` in the configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tls::Tls;
use crate::units::{Secret, Span};

/// The database that holds the resend log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `sqlite://redrive.db`, `postgres://user:password@host/database`, `mysql://…` (MySQL and MariaDB). In user and password, write
    /// `@ / ? # %` as `%40 %2F %3F %23 %25`.
    pub url: Secret,
    /// A file that holds the URL instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// PostgreSQL, MySQL, MariaDB: the password, without percent-encoding, instead of one in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// A file that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Certificates for the connection. With a `ca`, the server's certificate and name are verified; without one, they are not: see docs/database.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// PostgreSQL: the schema that holds the tables, 1 to 63 letters, digits, `_` and `-`. Default: the user's search path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// A prefix for the name of every table: at most 30 lower-case letters, digits and `_`, not starting with a digit.
    pub table_prefix: String,
    /// `auto`: create and upgrade the tables at start. `verify`: only check them (see `redrive migrate --print-sql`).
    pub migrate: Migrate,
    /// The maximum number of open connections, 1 to 1000.
    pub pool: u32,
    /// The number of prepared statements cached per connection; 0 for PgBouncer in transaction mode.
    pub statement_cache: u32,
    /// PostgreSQL: a trigger notifies the poller of new rows, which makes inserts slightly slower. `false` does not remove an existing trigger: other
    /// nodes may need it.
    pub notify: bool,
    /// How long one unit of work may take, from 100ms. MySQL and MariaDB can't wait less than a second for a lock: there, less than `3s` counts as
    /// `3s`.
    pub timeout: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Secret::new("sqlite://redrive.db"),
            url_file: None,
            password: None,
            password_file: None,
            tls: None,
            schema: None,
            table_prefix: String::new(),
            migrate: Migrate::Auto,
            pool: 8,
            statement_cache: 100,
            notify: false,
            timeout: Span::secs(10),
        }
    }
}

/// What to do with the tables at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Migrate {
    /// Create and upgrade the tables.
    #[default]
    Auto,
    /// Only check the tables.
    Verify,
}
