//! The sample: what is waiting, counted once for all nodes of a project. A count reads the whole backlog, and each node would get the same result.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode;
use super::dialect::{Dialect, Value};
use super::insert::micros;
use super::pool::{Fail, Session};
use crate::store::Count;

/// Whether a count is due and the caller's turn to make it; if not, the previous result.
pub(super) enum Turn {
    Ours,
    Told(Option<Vec<Count>>),
}

/// The stored form: source, states and their counts, microseconds overdue.
type Written = Vec<(String, BTreeMap<String, u64>, u64)>;

/// The first caller when a count is due makes it; the next one is due `every` later. A count that is due more than `longest` from now was
/// scheduled before the database's clock was set back: it is due now.
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
    // Somebody else took the turn as soon as the row existed.
    Ok(Turn::Told(None))
}

/// Stores the result of a count. The next count is made after a rest of at least `rest`, even if this one failed: it may have used up all of its
/// time.
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
