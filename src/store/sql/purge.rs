//! Deleting what is past its retention, a bounded batch at a time.

use std::time::Duration;

use chrono::{DateTime, Utc};
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
/// Rows that are too many are counted for so many batches at once: the count reads all that may stay.
const COUNTED_BATCHES: u64 = 100;

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
    // What is too old goes first, so that it isn't counted.
    if !purged.more {
        surplus(session, purge, batch, &mut purged).await?;
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
    let gone = shape.run(session, &Batch::ids(ids), &[]).await?;
    let count = gone.len() as u64;
    forget_attempts(session, gone).await?;
    Ok(count)
}

/// Deletes a batch of what is too many, the oldest first, whatever their state.
async fn surplus<D: Dialect>(session: &mut Session<D>, purge: &Purge, batch: usize, purged: &mut Purged) -> Result<(), Fail> {
    if let Some(until) = purge.surplus {
        let full = delete_oldest(session, purge, Some(until), batch, purged).await? >= batch;
        purged.surplus = full.then_some(until);
        // Whoever is left is counted by the next call.
        purged.more = true;
        return Ok(());
    }
    let excess = excess(session, purge).await?;
    if excess == 0 {
        return Ok(());
    }
    let gone = excess.min(batch as u64);
    delete_oldest(session, purge, None, usize::try_from(gone).unwrap_or(batch), purged).await?;
    if excess > gone {
        purged.surplus = nth(session, purge, excess - gone).await?;
        purged.more = true;
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

/// When the oldest finished row ended that has `place` before it.
async fn nth<D: Dialect>(session: &mut Session<D>, purge: &Purge, place: u64) -> Result<Option<DateTime<Utc>>, Fail> {
    let sql = session.sql("finished_nth", || {
        // One look along the index for each state; a query of all three at once would sort the whole history.
        let of = |state: State| {
            format!(
                "SELECT finished_at FROM (SELECT finished_at FROM {{log}} WHERE project = ? AND state = '{state}' AND finished_at IS NOT NULL
                 ORDER BY finished_at LIMIT ?) AS {state}"
            )
        };
        let all = State::FINISHED.map(of).join(" UNION ALL ");
        format!("SELECT {{time finished_at}} FROM ({all}) AS f ORDER BY finished_at LIMIT 1 OFFSET ?")
    });
    let (project, place) = (Value::Text(&purge.project), i64::try_from(place).unwrap_or(i64::MAX));
    let most = Value::Int(place.saturating_add(1));
    let rows = session.rows(sql, &[project, most, project, most, project, most, Value::Int(place)]).await?;
    Ok(rows.first().and_then(|row| decode::maybe_time::<D>(row, 0)))
}

/// Deletes the oldest finished rows, whatever their state: those that ended before a moment, or any; answers how many there were.
async fn delete_oldest<D: Dialect>(
    session: &mut Session<D>,
    purge: &Purge,
    before: Option<DateTime<Utc>>,
    most: usize,
    purged: &mut Purged,
) -> Result<usize, Fail> {
    let before = before.map_or(i64::MAX, |before| before.timestamp_micros());
    let mut candidates = Vec::new();
    for state in State::FINISHED {
        candidates.extend(oldest(session, purge, state, None, most).await?.into_iter().map(|(id, at)| (at, id, state)));
    }
    candidates.retain(|(at, _, _)| *at < before);
    candidates.sort_unstable_by_key(|(at, id, _)| (*at, *id));
    candidates.truncate(most);
    for state in State::FINISHED {
        let ids = candidates.iter().filter(|(_, _, of)| *of == state).map(|(_, id, _)| *id).collect();
        let gone = delete(session, state, ids).await?;
        count(purged, state, gone);
    }
    Ok(candidates.len())
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
            "DELETE FROM {key} WHERE project = ? AND expires_at <= {now} AND (source, idem_key) IN
                (SELECT b_source, b_key FROM {table b b_source:text b_key:text})"
                .to_owned()
        }
    });
    let (project, batch) = (Value::Text(&purge.project), Value::Batch(&batch));
    let values = if D::JOINED { [batch, project] } else { [project, batch] };
    Ok(session.execute(sql, &values).await?)
}
