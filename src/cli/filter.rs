//! Which messages are meant, and times as people give them.

use chrono::{DateTime, Utc};
use clap::Args;

use super::output;
use crate::message::State;
use crate::store::List;
use crate::units::Span;
use crate::view::rfc3339;

/// Narrows which messages are meant.
#[derive(Args, Clone, Debug)]
#[group(id = "filter")]
pub(super) struct Filter {
    /// Only messages of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only messages that name this topic
    #[arg(long)]
    topic: Option<String>,
    /// Only messages with this key
    #[arg(long)]
    key: Option<String>,
    /// Only the message submitted with this idempotency key
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Only messages whose last error has this code, such as http_503
    #[arg(long, value_name = "CODE")]
    error_code: Option<String>,
    /// Only messages created since: RFC 3339, or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<DateTime<Utc>>,
    /// Only messages created before: RFC 3339, or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = past)]
    until: Option<DateTime<Utc>>,
    /// Only messages that were delivered, failed or cancelled since: RFC 3339, or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = past)]
    finished_since: Option<DateTime<Utc>>,
    /// Only messages that were delivered, failed or cancelled before: RFC 3339, or so long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = past)]
    finished_until: Option<DateTime<Utc>>,
}

impl Filter {
    /// The same for the store, of the messages in a state.
    pub(super) fn list(self, project: &str, state: Option<State>) -> List {
        List {
            project: project.to_owned(),
            state,
            source: self.source,
            topic: self.topic,
            key: self.key,
            idempotency_key: self.idempotency_key,
            error_code: self.error_code,
            since: self.since,
            until: self.until,
            finished_since: self.finished_since,
            finished_until: self.finished_until,
            ..List::default()
        }
    }
}

/// What narrows a list, as the command line spells it; empty where nothing does.
pub(super) fn spelt(list: &List) -> String {
    let texts = [
        ("state", list.state.map(|state| state.to_string())),
        ("source", list.source.clone()),
        ("topic", list.topic.clone()),
        ("key", list.key.clone()),
        ("idempotency-key", list.idempotency_key.clone()),
        ("error-code", list.error_code.clone()),
        ("after", list.after.as_ref().map(ToString::to_string)),
    ];
    let times = [("since", list.since), ("until", list.until), ("finished-since", list.finished_since), ("finished-until", list.finished_until)];
    let times = times.map(|(name, time)| (name, time.map(rfc3339)));
    let given = texts.into_iter().chain(times).filter_map(|(name, value)| Some(format!("--{name} {}", output::plain(&value?, 80))));
    given.collect::<Vec<_>>().join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_narrows_is_spelt_out() {
        let time = Some(DateTime::UNIX_EPOCH);
        let all = List {
            project: "orders".to_owned(),
            state: Some(State::Failed),
            source: Some("crm".to_owned()),
            topic: Some("t".to_owned()),
            key: Some("o\n17".to_owned()),
            idempotency_key: Some("i".to_owned()),
            error_code: Some("http_503".to_owned()),
            since: time,
            until: time,
            finished_since: time,
            finished_until: time,
            limit: 50,
            after: Some("01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap()),
            payload: true,
        };
        let epoch = "1970-01-01T00:00:00.000000Z";
        assert_eq!(
            spelt(&all),
            format!(
                "--state failed --source crm --topic t --key o\\n17 --idempotency-key i --error-code http_503 --after \
                 01890a5d-ac96-774b-bcce-b302099a8057 --since {epoch} --until {epoch} --finished-since {epoch} --finished-until {epoch}"
            )
        );
        assert_eq!(spelt(&List { project: "orders".to_owned(), limit: 50, payload: true, ..List::default() }), "");
    }
}
