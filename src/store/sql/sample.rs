//! What waits, counted once for all nodes of a project: a count reads the whole backlog, and each node would make the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode;
use super::dialect::{Dialect, Value};
use super::insert::micros;
use super::pool::{Fail, Session};
use crate::store::Count;

/// Whether a count is due and now this caller's to make; and if not, what the last one found.
pub(super) enum Turn {
    Ours,
    Told(Option<Vec<Count>>),
}

/// As it is written down: source, states and their numbers, microseconds overdue.
type Written = Vec<(String, BTreeMap<String, u64>, u64)>;

/// Whoever comes first when a count is due makes it; the next is due `every` later. One that is due only after `longest` was put off before the
/// database's clock was set back: it is due now.
pub(super) async fn turn<D: Dialect>(session: &mut Session<D>, project: &str, every: Duration, longest: Duration) -> Result<Turn, Fail> {
    let project = Value::Text(project);
    for _ in 0..2 {
        let take = session.sql("sample_take", || {
            "UPDATE {sample} SET due_at = {plus {now}|?} WHERE project = ? AND (due_at <= {now} OR due_at > {plus {now}|?})".to_owned()
        });
        if session.execute(take, &[Value::Int(micros(every)), project, Value::Int(micros(longest))]).await? > 0 {
            return Ok(Turn::Ours);
        }
        let read = session.sql("sample_read", || "SELECT {text counts} FROM {sample} WHERE project = ?".to_owned());
        if let Some(row) = session.rows(read, &[project]).await?.first() {
            return Ok(Turn::Told(decode::maybe_text::<D>(row, 0).and_then(|text| read_back(&text))));
        }
        let make = session.sql("sample_make", || {
            let as_it_is = [("project", D::proposed("project"))];
            format!("INSERT INTO {{sample}} {} (project, due_at) VALUES (?, {{now}}) {}", D::AS_OLD, D::upsert("project", &as_it_is))
        });
        session.execute(make, &[project]).await?;
    }
    // Somebody else took the turn as soon as there was one.
    Ok(Turn::Told(None))
}

/// Writes down what a count found; the next is made after a rest at least, also where this one failed (it may have taken all the time that it had).
pub(super) async fn tell<D: Dialect>(session: &mut Session<D>, project: &str, counts: Option<Vec<Count>>, rest: Duration) -> Result<(), Fail> {
    let tell = session.sql("sample_tell", || {
        "UPDATE {sample} SET counts = coalesce(?, counts), due_at = {later due_at|{plus {now}|?}} WHERE project = ?".to_owned()
    });
    let counts = counts.map(written);
    session.execute(tell, &[Value::MaybeText(counts.as_deref()), Value::Int(micros(rest)), Value::Text(project)]).await?;
    Ok(())
}

fn written(counts: Vec<Count>) -> String {
    let written: Written = counts
        .into_iter()
        .map(|Count { source, states, overdue }| {
            let states = states.iter().map(|(state, messages)| (state.as_str().to_owned(), *messages)).collect();
            (source, states, overdue.as_micros().try_into().unwrap_or(u64::MAX))
        })
        .collect();
    serde_json::to_string(&written).unwrap_or_default()
}

fn read_back(text: &str) -> Option<Vec<Count>> {
    let written: Written = serde_json::from_str(text).ok()?;
    let count = |(source, states, overdue): (_, BTreeMap<String, _>, _)| Count {
        source,
        states: states.into_iter().filter_map(|(state, messages)| Some((state.parse().ok()?, messages))).collect(),
        overdue: Duration::from_micros(overdue),
    };
    Some(written.into_iter().map(count).collect())
}
