//! What a person wants done with messages.

use std::collections::HashMap;

use bytes::Bytes;
use uuid::Uuid;

use super::decode;
use super::dialect::{Batch, Dialect, Id, Value, known_id};
use super::pool::{Fail, Session};
use super::shape::{Matched, NAMED};
use super::sheet;
use crate::message::State;
use crate::store::Changed;

/// A change to the messages of some states, and the state that it leaves them in; `None` for the one they have.
struct Change {
    from: &'static [State],
    to: Option<State>,
    matched: &'static Matched<'static>,
}

pub(super) async fn retry<D: Dialect>(session: &mut Session<D>, project: &str, ids: &[Uuid]) -> Result<Vec<Changed>, Fail> {
    const AGAIN: Matched = Matched {
        names: ["retry_again", "retry_again_lock"],
        columns: "b_id:id",
        set:
            "state = 'pending', due_at = {now}, epoch = CASE WHEN epoch BETWEEN 0 AND 2147483646 THEN epoch + 1 ELSE 1 END, attempts = 0, retries = 0,
            log_count = 0, log_tail = 0, log_tail_outcome = NULL, expires_at = NULL, finished_at = NULL, lease_token = 0, lease_until = NULL,
            attempt_started_at = NULL, attempt_ms = NULL, updated_at = {now}",
        condition: "CASE WHEN state IN ('failed', 'cancelled') THEN 1 END = 1",
    };
    // What is due already keeps its place in the queue.
    const NOW: Matched = Matched {
        names: ["retry_now", "retry_now_lock"],
        columns: "b_id:id",
        set: "due_at = CASE WHEN due_at <= {now} THEN due_at ELSE {now} END, updated_at = {now}",
        condition: "CASE WHEN state NOT IN ('sending', 'succeeded', 'failed', 'cancelled', 'blocked') THEN 1 END = 1",
    };
    let changes = [
        Change { from: &[State::Failed, State::Cancelled], to: Some(State::Pending), matched: &AGAIN },
        Change { from: &[State::Pending, State::Retrying], to: None, matched: &NOW },
    ];
    change(session, project, ids, &changes).await
}

pub(super) async fn cancel<D: Dialect>(session: &mut Session<D>, project: &str, ids: &[Uuid]) -> Result<Vec<Changed>, Fail> {
    const CANCEL: Matched = Matched {
        names: ["cancel", "cancel_lock"],
        columns: "b_id:id",
        set: "state = 'cancelled', finished_at = {now}, updated_at = {now}",
        condition: "CASE WHEN state NOT IN ('sending', 'succeeded', 'failed', 'cancelled') THEN 1 END = 1",
    };
    let from = &[State::Pending, State::Retrying, State::Blocked];
    change(session, project, ids, &[Change { from, to: Some(State::Cancelled), matched: &CANCEL }]).await
}

/// Locks the messages, and does to each what its state allows.
async fn change<D: Dialect>(session: &mut Session<D>, project: &str, ids: &[Uuid], changes: &[Change]) -> Result<Vec<Changed>, Fail> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.is_empty() {
        return Ok(Vec::new());
    }
    let sql = session.sql("states", || {
        if D::RETURNING {
            "SELECT id, {text state} FROM {log} AS l WHERE id {in SELECT b_id FROM {table b b_id:id}} AND project = ? ORDER BY id {lock}".to_owned()
        } else {
            format!("SELECT id, {{text state}} FROM {{table b b_id:id}} {NAMED} WHERE project = ? {{lock}}")
        }
    });
    let batch = Batch::ids(sorted);
    let mut states: HashMap<Uuid, State> = HashMap::new();
    for row in session.rows(sql, &[Value::Batch(&batch), Value::Text(project)]).await? {
        if let Some(id) = known_id::<D>(&row) {
            states.insert(id, decode::state(decode::maybe_text::<D>(&row, 1).as_deref()));
        }
    }
    let waiting: Vec<_> = states.iter().filter(|(_, state)| matches!(state, State::Pending | State::Retrying)).map(|(id, _)| *id).collect();
    states.extend(sheet::on_sheets(session, project, &waiting).await?.into_iter().map(|id| (id, State::Sending)));
    let mut done: HashMap<Uuid, State> = HashMap::new();
    for change in changes {
        let of: Vec<_> = states.iter().filter(|(_, state)| change.from.contains(state)).map(|(id, _)| *id).collect();
        if of.is_empty() {
            continue;
        }
        for id in change.matched.run(session, &Batch::ids(of), &[]).await? {
            let before = states.get(&id).copied().unwrap_or(State::Pending);
            done.insert(id, change.to.unwrap_or(before));
        }
    }
    Ok(ids
        .iter()
        .map(|id| match (done.get(id), states.get(id)) {
            (Some(state), _) => Changed::Done(*state),
            (None, Some(state)) => Changed::Wrong(*state),
            (None, None) => Changed::NotFound,
        })
        .collect())
}

pub(super) async fn replace_payload<D: Dialect>(session: &mut Session<D>, project: &str, id: Uuid, payload: &Bytes) -> Result<Changed, Fail> {
    let sql = session
        .sql("replace_payload", || "UPDATE {log} SET payload = ?, updated_at = {now} WHERE project = ? AND id = ? AND state = 'failed'".to_owned());
    if session.execute(sql, &[Value::MaybeBytes(Some(payload)), Value::Text(project), Value::Id(id)]).await? > 0 {
        return Ok(Changed::Done(State::Failed));
    }
    Ok(super::look::get(session, project, &Id::Known(id), false).await?.map_or(Changed::NotFound, |record| Changed::Wrong(record.state)))
}
