//! Deleting what is past its retention, a bounded batch at a time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::complete::forget_attempts;
use super::decode;
use super::dialect::{Batch, Dialect, Id, Row, Value};
use super::insert::{micros, now};
use super::pool::{Fail, Session};
use super::shape::Matched;
use crate::message::State;
use crate::store::{Purge, Purged, Surplus};

/// Up to so many rows are counted; past that an estimate is asked first whether there can be too many.
const COUNTED: u64 = 100_000;
/// Rows that are too many are counted for so many batches at once: the count reads all that may stay.
const COUNTED_BATCHES: u64 = 100;

pub(super) async fn purge<D: Dialect>(session: &mut Session<D>, purge: &Purge) -> Result<Purged, Fail> {
    let mut purged = Purged::default();
    let batch = usize::try_from(purge.batch.max(1)).unwrap_or(1);
    for (state, keep) in &purge.keep {
        if let (true, Some(keep)) = (state.is_finished(), keep) {
            let old = oldest(session, purge, *state, Some(*keep), batch).await?.into_iter().map(|(id, _)| id).collect();
            let gone = delete(session, *state, old).await?;
            count(&mut purged, *state, gone);
        }
    }
    purged.keys = keys(session, purge).await?;
    if purged.rows.is_empty() && purged.keys == 0 {
        surplus(session, purge, batch, &mut purged).await?;
    } else {
        // What is too old goes first, so that it isn't counted; and a count that takes too long takes nothing of it back.
        purged.more = true;
    }
    Ok(purged)
}

/// Which of three is that of a finished state.
fn of<T>(state: State, [succeeded, failed, cancelled]: [T; 3]) -> T {
    match state {
        State::Succeeded => succeeded,
        State::Failed => failed,
        _ => cancelled,
    }
}

fn count(purged: &mut Purged, state: State, gone: u64) {
    if gone > 0 {
        *purged.rows.entry(state).or_default() += gone;
    }
}

/// The finished rows of a state, the oldest first, with the time when each finished.
async fn oldest<D: Dialect>(
    session: &mut Session<D>,
    purge: &Purge,
    state: State,
    keep: Option<Duration>,
    limit: usize,
) -> Result<Vec<(Uuid, i64)>, Fail> {
    // The state is written out, so that the planner sees which partial index serves.
    let sql = session.sql(of(state, ["oldest_succeeded", "oldest_failed", "oldest_cancelled"]), || {
        format!(
            "SELECT id, {{time finished_at}} FROM {{log}} WHERE project = ? AND state = '{state}' AND finished_at <= {{plus {{now}}|?}}
             ORDER BY finished_at LIMIT ? {{skip}}"
        )
    });
    let age = keep.map_or(0, micros);
    let values = [Value::Text(&purge.project), Value::Int(-age), Value::Int(i64::try_from(limit).unwrap_or(i64::MAX))];
    let rows = session.rows(sql, &values).await?;
    Ok(rows.iter().filter_map(finished::<D>).collect())
}

fn finished<D: Dialect>(row: &Row<D>) -> Option<(Uuid, i64)> {
    match D::id(row, 0) {
        Ok(Id::Known(id)) => Some((id, D::time(row, 1).ok().flatten().unwrap_or(0))),
        _ => None,
    }
}

async fn delete<D: Dialect>(session: &mut Session<D>, state: State, ids: Vec<Uuid>) -> Result<u64, Fail> {
    // A row that a person put back meanwhile stays.
    const SUCCEEDED: Matched = Matched {
        names: ["purge_succeeded", "purge_succeeded_lock"],
        columns: "b_id:id",
        set: "",
        condition: "CASE state WHEN 'succeeded' THEN 1 END = 1",
    };
    const FAILED: Matched =
        Matched { names: ["purge_failed", "purge_failed_lock"], columns: "b_id:id", set: "", condition: "CASE state WHEN 'failed' THEN 1 END = 1" };
    const CANCELLED: Matched = Matched {
        names: ["purge_cancelled", "purge_cancelled_lock"],
        columns: "b_id:id",
        set: "",
        condition: "CASE state WHEN 'cancelled' THEN 1 END = 1",
    };
    if ids.is_empty() {
        return Ok(0);
    }
    let gone = of(state, [SUCCEEDED, FAILED, CANCELLED]).run(session, &Batch::ids(ids), &[]).await?;
    let count = gone.len() as u64;
    forget_attempts(session, gone).await?;
    Ok(count)
}

/// What goes first where there are too many rows: a failed one is somebody's to deal with.
const LEAST_MISSED_FIRST: [State; 3] = [State::Succeeded, State::Cancelled, State::Failed];

/// Deletes a batch of what is too many, the oldest of a state first.
async fn surplus<D: Dialect>(session: &mut Session<D>, purge: &Purge, batch: usize, purged: &mut Purged) -> Result<(), Fail> {
    if let Some(Surplus { state, until }) = purge.surplus {
        let full = delete_oldest(session, purge, state, Some(until), batch, purged).await? >= batch;
        purged.surplus = full.then_some(Surplus { state, until });
        // Whoever is left is counted by the next call.
        purged.more = true;
        return Ok(());
    }
    let excess = excess(session, purge).await?;
    let most = usize::try_from(excess).unwrap_or(usize::MAX).min(batch);
    for state in LEAST_MISSED_FIRST {
        let gone = if excess == 0 { 0 } else { delete_oldest(session, purge, state, None, most, purged).await? as u64 };
        if gone > 0 {
            purged.more = gone < excess;
            if purged.more {
                // All that there are, if they are fewer.
                let until = match nth(session, purge, state, excess - gone).await? {
                    Some(until) => until,
                    None => now(session).await?,
                };
                purged.surplus = Some(Surplus { state, until });
            }
            return Ok(());
        }
    }
    Ok(())
}

/// How many finished rows there are too many, those of [`COUNTED_BATCHES`] at the most.
async fn excess<D: Dialect>(session: &mut Session<D>, purge: &Purge) -> Result<u64, Fail> {
    let most = purge.max_rows;
    if most > COUNTED {
        let sql = D::estimate(session.core.names.schema.as_deref(), &session.core.names.plain("resend_log"));
        let rows = session.rows_once(&sql, &[]).await?;
        let about = decode::number::<D>(&rows).and_then(|rows| u64::try_from(rows).ok());
        // Estimates may be half the truth.
        if about.is_some_and(|about| about.saturating_mul(2) < most) {
            return Ok(0);
        }
    }
    let sql = session.sql("finished", || {
        "SELECT count(*) FROM (SELECT 1 AS one FROM {log} WHERE project = ? AND state IN ('succeeded', 'failed', 'cancelled')
            AND finished_at IS NOT NULL LIMIT ?) AS f"
            .to_owned()
    });
    let bound = most.saturating_add(u64::from(purge.batch.max(1)).saturating_mul(COUNTED_BATCHES));
    let values = [Value::Text(&purge.project), Value::Int(i64::try_from(bound).unwrap_or(i64::MAX))];
    let rows = session.rows(sql, &values).await?;
    let there = decode::number::<D>(&rows).and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0);
    Ok(there.saturating_sub(most))
}

/// When the finished row of a state ended that has `place` older ones before it.
async fn nth<D: Dialect>(session: &mut Session<D>, purge: &Purge, state: State, place: u64) -> Result<Option<DateTime<Utc>>, Fail> {
    let names = ["succeeded_nth", "failed_nth", "cancelled_nth"];
    let sql = session.sql(of(state, names), || {
        format!(
            "SELECT {{time finished_at}} FROM {{log}} WHERE project = ? AND state = '{state}' AND finished_at IS NOT NULL
             ORDER BY finished_at LIMIT 1 OFFSET ?"
        )
    });
    let values = [Value::Text(&purge.project), Value::Int(i64::try_from(place).unwrap_or(i64::MAX))];
    let rows = session.rows(sql, &values).await?;
    Ok(rows.first().and_then(|row| decode::maybe_time::<D>(row, 0)))
}

/// Deletes the oldest finished rows of a state: those that ended before a moment, or any; answers how many there were.
async fn delete_oldest<D: Dialect>(
    session: &mut Session<D>,
    purge: &Purge,
    state: State,
    before: Option<DateTime<Utc>>,
    most: usize,
    purged: &mut Purged,
) -> Result<usize, Fail> {
    let before = before.map_or(i64::MAX, |before| before.timestamp_micros());
    let oldest = oldest(session, purge, state, None, most).await?;
    let ids: Vec<_> = oldest.into_iter().filter(|(_, at)| *at < before).map(|(id, _)| id).collect();
    let found = ids.len();
    let gone = delete(session, state, ids).await?;
    count(purged, state, gone);
    Ok(found)
}

/// Deletes idempotency keys past their time.
async fn keys<D: Dialect>(session: &mut Session<D>, purge: &Purge) -> Result<u64, Fail> {
    let sql = session.sql("keys_old", || {
        "SELECT {text source}, {text idem_key} FROM {key} WHERE project = ? AND expires_at <= {now} ORDER BY expires_at LIMIT ? {skip}".to_owned()
    });
    let rows = session.rows(sql, &[Value::Text(&purge.project), Value::Int(i64::from(purge.batch.max(1)))]).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let old: Vec<_> = rows.iter().filter_map(|row| Some((decode::maybe_text::<D>(row, 0)?, decode::maybe_text::<D>(row, 1)?))).collect();
    let batch = Batch::new(
        old.len(),
        vec![
            super::dialect::Column::Texts(old.iter().map(|(source, _)| Some(source.as_str())).collect()),
            super::dialect::Column::Texts(old.iter().map(|(_, key)| Some(key.as_str())).collect()),
        ],
    );
    let sql = session.sql("keys_forget", || {
        if D::JOINED {
            "DELETE k FROM {table b b_source:text b_key:text}
             {join} {key} k {by-key} ON k.project = ? AND k.source = b.b_source AND k.idem_key = b.b_key WHERE k.expires_at <= {now}"
                .to_owned()
        } else {
            // By the key, and not by the time, which all that are past theirs have in common.
            "DELETE FROM {key} WHERE project = ? AND CASE WHEN expires_at <= {now} THEN 1 END = 1 AND (source, idem_key) IN
                (SELECT b_source, b_key FROM {table b b_source:text b_key:text})"
                .to_owned()
        }
    });
    let (project, batch) = (Value::Text(&purge.project), Value::Batch(&batch));
    let values = if D::JOINED { [batch, project] } else { [project, batch] };
    Ok(session.execute(sql, &values).await?)
}
