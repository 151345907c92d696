//! Data whose owner is gone: attempts whose message somebody deleted by SQL, turns of sources that no node knows.
//!
//! The attempt log is looked through by its key, a piece at a time, each piece starting where the last one ended. Looking locks nothing; what was
//! found is deleted in a transaction of its own, which skips whatever is locked.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use super::decode;
use super::dialect::{Batch, Dialect, Value, known};
use super::insert::micros;
use super::nodes::{self, Known};
use super::pool::{Fail, Session};
use super::shape::NAMED;
use crate::store::{Sweep, Swept};

/// Attempts that began more recently than this stay: after the look, the message may have been inserted again with the same id.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// What a look found.
#[derive(Debug)]
pub(super) struct Found {
    /// Messages that have logged attempts but no longer exist.
    messages: Vec<Uuid>,
    /// Sources that have a turn but that no node knows.
    sources: Vec<String>,
    /// Where the next look begins; `None` at the end of the log.
    after: Option<Uuid>,
}

impl Found {
    /// The answer, if there is nothing to delete.
    pub(super) fn nothing(&self) -> Option<Swept> {
        (self.messages.is_empty() && self.sources.is_empty()).then(|| Swept { after: self.after, ..Swept::default() })
    }
}

pub(super) async fn look<D: Dialect>(session: &mut Session<D>, sweep: &Sweep) -> Result<Found, Fail> {
    let (messages, after) = gone(session, sweep).await?;
    // Once each time the log has been looked through, not with each piece of it.
    let sources = if after.is_none() { unknown(session, sweep).await? } else { Vec::new() };
    Ok(Found { messages, sources, after })
}

/// Messages in a piece of the log that no longer exist, and where the next piece begins.
async fn gone<D: Dialect>(session: &mut Session<D>, sweep: &Sweep) -> Result<(Vec<Uuid>, Option<Uuid>), Fail> {
    let sql = session.sql("log_piece", || "SELECT message_id FROM {attempt} WHERE message_id > ? ORDER BY message_id LIMIT ?".to_owned());
    let rows = session.rows(sql, &[Value::Id(sweep.after), Value::Int(i64::from(sweep.limit))]).await?;
    let is_full = rows.len() >= sweep.limit as usize;
    let mut logged = known::<D>(&rows);
    logged.dedup();
    let after = logged.last().copied().filter(|_| is_full);
    if logged.is_empty() {
        return Ok((logged, after));
    }
    // By their keys, one by one, and not by a condition on the log, for which a planner might read all messages.
    let sql = session.sql("log_owners", || format!("SELECT id FROM {{table b b_id:id}} {NAMED}"));
    let owners = session.rows(sql, &[Value::Batch(&Batch::ids(logged.iter().copied()))]).await?;
    let owners: HashSet<_> = known::<D>(&owners).into_iter().collect();
    logged.retain(|id| !owners.contains(id));
    Ok((logged, after))
}

/// Sources that have a turn but that no node of the project knows, or knew within the last day. Few sources are known, so this is quick.
async fn unknown<D: Dialect>(session: &mut Session<D>, sweep: &Sweep) -> Result<Vec<String>, Fail> {
    if D::LOCK.is_empty() {
        // With a single writer there are no turns.
        return Ok(Vec::new());
    }
    let Known { sources: known, is_all: true } = nodes::known(session, &sweep.project).await? else { return Ok(Vec::new()) };
    let sql = session.sql("turns_unknown", || {
        "SELECT {text source} FROM {turn} WHERE project = ? AND source NOT IN (SELECT b_source FROM {table b b_source:text}) ORDER BY source LIMIT ?"
            .to_owned()
    });
    let batch = Batch::texts(known.iter().map(String::as_str));
    let rows = session.rows(sql, &[Value::Text(&sweep.project), Value::Batch(&batch), Value::Int(i64::from(sweep.limit))]).await?;
    Ok(decode::texts::<D>(&rows))
}

/// Deletes what a look found, as far as it belongs to the project and nobody has it locked.
pub(super) async fn take_away<D: Dialect>(session: &mut Session<D>, project: &str, found: Found) -> Result<Swept, Fail> {
    let Found { messages, sources, after } = found;
    Ok(Swept { attempts: attempts(session, project, messages).await?, turns: turns(session, project, &sources).await?, after })
}

async fn attempts<D: Dialect>(session: &mut Session<D>, project: &str, messages: Vec<Uuid>) -> Result<u64, Fail> {
    if messages.is_empty() {
        return Ok(0);
    }
    let sql = session.sql("log_forget", || {
        let old = "project = ? AND coalesce(last_at, started_at) <= {plus {now}|?}";
        if D::JOINED {
            format!("DELETE a FROM {{table b b_id:id}} {{join}} {{attempt}} a {{by-key}} ON a.message_id = b.b_id WHERE {old}")
        } else {
            format!("DELETE FROM {{attempt}} WHERE message_id {{in SELECT b_id FROM {{table b b_id:id}}}} AND {old}")
        }
    });
    Ok(session.execute(sql, &[Value::Batch(&Batch::ids(messages)), Value::Text(project), Value::Int(-micros(OLD))]).await?)
}

/// A turn that a claim has locked is left alone, and a claim that waits for a turn that is deleted creates it anew.
async fn turns<D: Dialect>(session: &mut Session<D>, project: &str, sources: &[String]) -> Result<u64, Fail> {
    if sources.is_empty() {
        return Ok(0);
    }
    let named = "{table b b_source:text} {join} {turn} l {by-key} ON l.project = ? AND l.source = b.b_source";
    let lock = session.sql("turns_free", || format!("SELECT {{text l.source}} FROM {named} {{lock}} {{or-skip}}"));
    let batch = Batch::texts(sources.iter().map(String::as_str));
    let free = session.rows(lock, &[Value::Batch(&batch), Value::Text(project)]).await?;
    let free = decode::texts::<D>(&free);
    if free.is_empty() {
        return Ok(0);
    }
    let sql = session.sql("turns_forget", || {
        if D::JOINED {
            format!("DELETE l FROM {named}")
        } else {
            "DELETE FROM {turn} WHERE source IN (SELECT b_source FROM {table b b_source:text}) AND project = ?".to_owned()
        }
    });
    let batch = Batch::texts(free.iter().map(String::as_str));
    Ok(session.execute(sql, &[Value::Batch(&batch), Value::Text(project)]).await?)
}
