//! Deleting what is past its retention, a bounded batch at a time.

use std::time::Duration;

use uuid::Uuid;

use super::complete::forget_attempts;
use super::decode;
use super::dialect::{Batch, Dialect, Id, Row, Value};
use super::insert::micros;
use super::pool::{Fail, Session};
use super::shape::Matched;
use crate::message::State;
use crate::store::{Purge, Purged};

/// Up to so many rows are counted; past that an estimate is asked first whether there can be too many.
const COUNTED: u64 = 100_000;

pub(super) async fn purge<D: Dialect>(session: &mut Session<D>, purge: &Purge) -> Result<Purged, Fail> {
    let mut purged = Purged::default();
    let batch = usize::try_from(purge.batch.max(1)).unwrap_or(1);
    for (state, keep) in &purge.keep {
        if let (true, Some(keep)) = (state.is_finished(), keep) {
            let old: Vec<Uuid> = oldest(session, purge, *state, Some(*keep), batch).await?.into_iter().map(|(id, _)| id).collect();
            purged.more |= old.len() >= batch;
            let gone = delete(session, *state, old).await?;
            count(&mut purged, *state, gone);
        }
    }
    let excess = excess(session, purge, &purged).await?;
    if excess > 0 {
        purged.more |= excess > batch as u64;
        surplus(session, purge, usize::try_from(excess).unwrap_or(batch).min(batch), &mut purged).await?;
    }
    purged.keys = keys(session, purge).await?;
    purged.more |= purged.keys >= u64::from(purge.batch.max(1));
    Ok(purged)
}

fn count(purged: &mut Purged, state: State, gone: u64) {
    if gone == 0 {
        return;
    }
    match purged.rows.iter_mut().find(|(known, _)| *known == state) {
        Some((_, rows)) => *rows += gone,
        None => purged.rows.push((state, gone)),
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
    let name = match state {
        State::Succeeded => "oldest_succeeded",
        State::Failed => "oldest_failed",
        _ => "oldest_cancelled",
    };
    let sql = session.sql(name, || {
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
    const SUCCEEDED: Matched =
        Matched { names: ["purge_succeeded", "purge_succeeded_lock"], columns: "b_id:id", set: "", condition: "state = 'succeeded'" };
    const FAILED: Matched = Matched { names: ["purge_failed", "purge_failed_lock"], columns: "b_id:id", set: "", condition: "state = 'failed'" };
    const CANCELLED: Matched =
        Matched { names: ["purge_cancelled", "purge_cancelled_lock"], columns: "b_id:id", set: "", condition: "state = 'cancelled'" };
    if ids.is_empty() {
        return Ok(0);
    }
    let shape = match state {
        State::Succeeded => SUCCEEDED,
        State::Failed => FAILED,
        _ => CANCELLED,
    };
    let gone = shape.run_delete(session, &Batch::ids(ids)).await?;
    let count = gone.len() as u64;
    forget_attempts(session, gone).await?;
    Ok(count)
}

/// How many finished rows there are too many.
async fn excess<D: Dialect>(session: &mut Session<D>, purge: &Purge, purged: &Purged) -> Result<u64, Fail> {
    let most = purge.max_rows;
    if most > COUNTED {
        let sql = D::estimate(session.core.names.schema.as_deref(), &session.core.names.plain("resend_log"));
        let rows = session.rows_once(&sql, &[]).await?;
        let about = rows.first().and_then(|row| D::int(row, 0).ok().flatten()).and_then(|rows| u64::try_from(rows).ok());
        // Estimates may be half the truth.
        if about.is_some_and(|about| about.saturating_mul(2) < most) {
            return Ok(0);
        }
    }
    let _ = purged;
    let sql = session.sql("finished", || {
        "SELECT count(*) FROM (SELECT 1 AS one FROM {log} WHERE project = ? AND state IN ('succeeded', 'failed', 'cancelled')
            AND finished_at IS NOT NULL LIMIT ?) AS f"
            .to_owned()
    });
    let bound = most.saturating_add(u64::from(purge.batch.max(1))).saturating_add(1);
    let values = [Value::Text(&purge.project), Value::Int(i64::try_from(bound).unwrap_or(i64::MAX))];
    let rows = session.rows(sql, &values).await?;
    let there = rows.first().and_then(|row| D::int(row, 0).ok().flatten()).and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0);
    Ok(there.saturating_sub(most))
}

/// Deletes the oldest finished rows, whatever their state.
async fn surplus<D: Dialect>(session: &mut Session<D>, purge: &Purge, excess: usize, purged: &mut Purged) -> Result<(), Fail> {
    let mut candidates = Vec::new();
    for state in State::FINISHED {
        candidates.extend(oldest(session, purge, state, None, excess).await?.into_iter().map(|(id, at)| (at, id, state)));
    }
    candidates.sort_unstable_by_key(|(at, id, _)| (*at, *id));
    candidates.truncate(excess);
    for state in State::FINISHED {
        let ids = candidates.iter().filter(|(_, _, of)| *of == state).map(|(_, id, _)| *id).collect();
        let gone = delete(session, state, ids).await?;
        count(purged, state, gone);
    }
    Ok(())
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
        if D::RETURNING {
            "DELETE FROM {key} WHERE project = ? AND expires_at <= {now} AND (source, idem_key) IN
                (SELECT b_source, b_key FROM {table b b_source:text b_key:text})"
                .to_owned()
        } else {
            "DELETE k FROM {table b b_source:text b_key:text} STRAIGHT_JOIN {key} k FORCE INDEX (PRIMARY) ON k.project = ? AND k.source = b.b_source AND k.idem_key = b.b_key
             WHERE k.expires_at <= {now}"
                .to_owned()
        }
    });
    let (project, batch) = (Value::Text(&purge.project), Value::Batch(&batch));
    let values = if D::RETURNING { [project, batch] } else { [batch, project] };
    Ok(session.execute(sql, &values).await?)
}
