//! Which messages are meant, and times as people give them.

use chrono::{DateTime, Utc};
use clap::Args;

use crate::message::State;
use crate::store::List;
use crate::units::Span;

/// Narrows what is listed.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only messages in this state: pending, sending, retrying, blocked, succeeded, failed or cancelled
    #[arg(long, value_name = "STATE")]
    pub(super) state: Option<State>,
    /// Only messages of this source
    #[arg(long, value_name = "NAME")]
    pub(super) source: Option<String>,
    /// Only messages that name this topic
    #[arg(long)]
    pub(super) topic: Option<String>,
    /// Only messages with this key
    #[arg(long)]
    pub(super) key: Option<String>,
    /// Only the message submitted with this idempotency key
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// Only messages whose last error has this code, such as http_503
    #[arg(long, value_name = "CODE")]
    pub(super) error_code: Option<String>,
    /// Only messages created since: RFC 3339, or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub(super) since: Option<DateTime<Utc>>,
    /// Only messages created before: RFC 3339, or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub(super) until: Option<DateTime<Utc>>,
}

impl Filter {
    /// The same for the store.
    pub(super) fn list(self, project: &str) -> List {
        List {
            project: project.to_owned(),
            state: self.state,
            source: self.source,
            topic: self.topic,
            key: self.key,
            idempotency_key: self.idempotency_key,
            error_code: self.error_code,
            since: self.since,
            until: self.until,
            ..List::default()
        }
    }
}

/// A time: RFC 3339.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc)).map_err(|_| "write a time such as 2026-01-31T12:00:00Z".to_owned())
}

/// A time: RFC 3339, or so long ago.
fn past(text: &str) -> Result<DateTime<Utc>, String> {
    match text.parse::<Span>() {
        Ok(span) => Ok(Utc::now() - span.get()),
        Err(_) => time(text).map_err(|error| format!("{error}, or how long ago, such as 2h")),
    }
}
