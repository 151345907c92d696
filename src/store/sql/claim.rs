//! Taking messages under a lease: what is due, what was lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::decode;
use super::dialect::{Batch, Column, Dialect, Id, Row, Value};
use super::insert::{clock, micros, now};
use super::pool::{Fail, Session};
use super::shape::{Cut, HELD, Matched, PICKED, Parameters, Picked, WEIGHT, WITH_LOCK, fitting};
use super::sheet;
use crate::store::{Claim, Claimed, Held, Lapsed, Mark, NextDue, Outlook, TakeOver, Unusable, Upcoming};

/// The queues of a source.
pub(super) const LEVELS: &str = "(SELECT 0 AS n_level UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9) AS n";

const CLAIM: Picked = Picked {
    names: ["claim", "claim_pick", "claim_read"],
    from: "FROM {log} {claim-index} WHERE project = ? AND source = ? AND level = ? AND due_at <= {now} ORDER BY due_at LIMIT ?",
    set: CLAIM_SET,
    columns: decode::CLAIMED,
};
const CLAIM_AFTER: Picked = Picked {
    names: ["claim_after", "claim_after_pick", "claim_read"],
    from: "FROM {log} {claim-index} WHERE project = ? AND source = ? AND level = ? AND due_at <= {now} AND due_at >= ? ORDER BY due_at LIMIT ?",
    set: CLAIM_SET,
    columns: decode::CLAIMED,
};
const CLAIM_SET: &str = "state = 'sending', attempts = {raised},
    lease_token = ?, lease_until = {plus {now}|?}, lease_node = ?, attempt_started_at = {now}, updated_at = {now}";

pub(super) async fn claim<D: Dialect>(session: &mut Session<D>, claim: &Claim) -> Result<Claimed, Fail> {
    let (mut rows, last) = if D::SHEETS { listed(session, claim).await? } else { marked(session, claim).await? };
    let Some(first) = rows.first() else { return Ok(Claimed { now: now(session).await?, rows: Vec::new(), last: None, open: false }) };
    let now = clock::<D>(first, decode::CLAIMED_NOW)?;
    rows.sort_by_cached_key(|row| D::time(row, decode::CLAIMED_DUE).ok().flatten());
    let (mut claimed, mut ids) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in &rows {
        let (id, odd) = mend(session, row).await?;
        ids.push(id);
        let row = match (decode::claimed::<D>(row, id, &claim.project, &claim.source, claim.max_payload), odd) {
            (Ok(ready), None) => crate::store::Row::Ready(ready),
            (Ok(ready), Some(detail)) => {
                crate::store::Row::Unusable(Unusable { id, epoch: ready.message.epoch, attempt: ready.message.attempt, code: "invalid_row", detail })
            }
            (Err(unusable), _) => crate::store::Row::Unusable(unusable),
        };
        claimed.push(row);
    }
    if D::SHEETS {
        sheet::write(session, claim, &ids, last.unwrap_or(Mark { due_at: now, row: u128::MAX })).await?;
    }
    Ok(Claimed { now, rows: claimed, last, open: D::SHEETS })
}

/// The furthest of rows, told apart from others that are due at the same time.
fn furthest<'a, D: Dialect>(rows: impl Iterator<Item = &'a Row<D>>, tie: impl Fn(&Row<D>) -> Option<u128>) -> Option<Mark> {
    rows.filter_map(|row| Some(Mark { due_at: decode::maybe_time::<D>(row, decode::CLAIMED_DUE)?, row: tie(row)? })).max()
}

/// Claims by marking each row as being sent.
async fn marked<D: Dialect>(session: &mut Session<D>, claim: &Claim) -> Result<(Vec<Row<D>>, Option<Mark>), Fail> {
    let limit = Value::Int(i64::from(claim.limit));
    let set = [Value::Int(claim.lease.token), Value::Int(micros(claim.lease.ttl)), Value::Text(&claim.lease.node)];
    let [project, source, level] = queue(claim);
    let plain = [project, source, level, limit];
    let after = [project, source, level, Value::Time(claim.after.map(|after| after.due_at)), limit];
    let (shape, pick): (_, &[Value<'_>]) = if claim.after.is_some() { (&CLAIM_AFTER, &after) } else { (&CLAIM, &plain) };
    let rows = shape.run(session, &Parameters { pick, set: &set, cut: Some(cut(claim)) }).await?;
    let last = furthest::<D>(rows.iter(), |_| Some(0));
    Ok((rows, last))
}

/// Locks and reads what is to go on a sheet, and leaves it as it is.
async fn listed<D: Dialect>(session: &mut Session<D>, claim: &Claim) -> Result<(Vec<Row<D>>, Option<Mark>), Fail> {
    sheet::turn(session, &claim.project, &claim.source).await?;
    let address = if session.core.dialect.is_addressed() { "{address}" } else { "NULL" };
    let pick = |unheld: &str| {
        format!(
            "SELECT {}, {address}, {WEIGHT}, {{row}} FROM {{log}} WHERE project = ? AND source = ? AND level = ? AND due_at <= {{now}} AND {unheld}
             ORDER BY due_at, {{tie}} LIMIT ? {{skip}}",
            decode::CLAIMED
        )
    };
    let cut = cut(claim);
    let [project, source, level] = queue(claim);
    let (payloads, limit) = ([Value::Int(cut.payload.min(WITH_LOCK)), Value::Int(cut.payload)], Value::Int(claim.limit.into()));
    let (sql, values) = match claim.after {
        None => {
            let sql = session.sql("claim", || pick("id NOT IN (SELECT {on-sheets} WHERE s.project = ? AND s.source = ?)"));
            (sql, [&payloads[..], &[project, source, level, project, source, limit]].concat())
        }
        Some(Mark { due_at, row }) => {
            let sql = session.sql("claim_after", || {
                // Other nodes may have gone further. Behind the furthest of all sheets nothing is held.
                let furthest = |column: &str| {
                    format!(
                        "coalesce((SELECT {column} FROM {{sheet}} WHERE project = ? AND source = ? AND level = ? AND (last_due, last_row) > (?, ?)
                                   ORDER BY last_due DESC, last_row DESC LIMIT 1), ?)"
                    )
                };
                pick(&format!("(due_at, {{tie}}) > ({}, {})", furthest("last_due"), furthest("last_row")))
            });
            let (due, row) = (Value::Time(Some(due_at)), Value::Tie(row));
            let furthest = |otherwise| [project, source, level, due, row, otherwise];
            (sql, [&payloads[..], &[project, source, level], &furthest(due), &furthest(row), &[limit]].concat())
        }
    };
    let picked = session.rows(sql, &values).await?;
    let (mut rows, mut large) = (Vec::with_capacity(picked.len()), Vec::new());
    for (row, is_large) in fitting::<D>(picked, Some(cut)) {
        if is_large { large.push(row) } else { rows.push(row) }
    }
    let last = furthest::<D>(rows.iter().chain(&large), D::tie);
    if !large.is_empty() {
        let sql = session.sql("claim_read", || format!("SELECT {} FROM {PICKED}", decode::CLAIMED));
        let named = D::named(&large);
        rows.extend(session.rows(sql, &[Value::Int(cut.payload), Value::Batch(&named)]).await?);
    }
    Ok((rows, last))
}

fn queue(claim: &Claim) -> [Value<'_>; 3] {
    [Value::Text(&claim.project), Value::Text(&claim.source), Value::Int(i64::from(claim.level))]
}

fn cut(claim: &Claim) -> Cut {
    let most = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    Cut { payload: most(claim.max_payload), most: most(claim.max_bytes) }
}

/// The id of a row that was taken. One that is written otherwise is rewritten as redrive writes ids, so that the row can be found;
/// one that is none is replaced by a new one, and the answer says so.
pub(super) async fn mend<D: Dialect>(session: &mut Session<D>, row: &Row<D>) -> Result<(Uuid, Option<String>), Fail> {
    let odd = match D::id(row, 0) {
        Ok(Id::Known(id)) => return Ok((id, None)),
        Ok(odd) => odd,
        Err(bad) => return Err(crate::store::Error::Refused(format!("the id of a row can't be read: {}", bad.0)).into()),
    };
    let (old, meant, detail) = match &odd {
        Id::Raw(bytes) => (Value::MaybeBytes(Some(bytes)), None, "column id: is not UTF-8".to_owned()),
        Id::Text(text) => (Value::Text(text), Uuid::try_parse(text).ok(), format!("column id: `{}` is no UUID", text.escape_debug())),
        Id::Bytes(bytes) => (Value::MaybeBytes(Some(bytes)), Uuid::from_slice(bytes).ok(), "column id: is no UUID".to_owned()),
        Id::Known(id) => return Ok((*id, None)),
    };
    if let Some(meant) = meant {
        let sql = session.sql("id_taken", || "SELECT id FROM {log} WHERE id = ?".to_owned());
        if session.rows(sql, &[Value::Id(meant)]).await?.is_empty() {
            rename(session, meant, old, false).await?;
            return Ok((meant, None));
        }
    }
    let new = Uuid::now_v7();
    rename(session, new, old, matches!(odd, Id::Raw(_))).await?;
    Ok((new, Some(detail)))
}

async fn rename<D: Dialect>(session: &mut Session<D>, new: Uuid, old: Value<'_>, raw: bool) -> Result<(), Fail> {
    let sql = if raw {
        session.sql("id_mend_raw", || "UPDATE {log} SET id = ? WHERE id = CAST(? AS TEXT)".to_owned())
    } else {
        session.sql("id_mend", || "UPDATE {log} SET id = ? WHERE id = ?".to_owned())
    };
    session.execute(sql, &[Value::Id(new), old]).await?;
    Ok(())
}

pub(super) async fn take_over<D: Dialect>(session: &mut Session<D>, take: &TakeOver) -> Result<Vec<Lapsed>, Fail> {
    // The node stays as it is: it is the one that lost the attempt.
    const TAKE_OVER: Picked = Picked {
        names: ["take_over", "take_over_pick", "take_over_read"],
        from: "FROM {log} WHERE project = ? AND state = 'sending'
            AND (lease_until <= {now} OR lease_until IS NULL) AND source IN (SELECT s_source FROM {table s s_source:text}) ORDER BY lease_until LIMIT ?",
        set: "lease_token = ?, lease_until = {plus {now}|?}, updated_at = {now}",
        columns: decode::LAPSED,
    };
    if take.sources.is_empty() {
        return Ok(Vec::new());
    }
    sheet::write_out_lapsed(session, &take.project).await?;
    let sources = Batch::texts(take.sources.iter().map(|source| &**source));
    let parameters = Parameters {
        pick: &[Value::Text(&take.project), Value::Batch(&sources), Value::Int(i64::from(take.limit))],
        set: &[Value::Int(take.lease.token), Value::Int(micros(take.lease.ttl))],
        cut: None,
    };
    let rows = TAKE_OVER.run(session, &parameters).await?;
    let mut taken = Vec::with_capacity(rows.len());
    for row in &rows {
        let (id, _) = mend(session, row).await?;
        taken.push(decode::lapsed::<D>(row, id));
    }
    Ok(taken)
}

pub(super) async fn upcoming<D: Dialect>(session: &mut Session<D>, upcoming: &Upcoming) -> Result<Outlook, Fail> {
    if upcoming.queues.is_empty() {
        return Ok(Outlook { now: now(session).await?, due: Vec::new(), lapsed: false });
    }
    let sources = Batch::texts(upcoming.queues.iter().map(|queues| &*queues.source));
    let levels = upcoming.queues.iter().map(|queues| Some(i64::from(queues.levels))).collect();
    let queues =
        Batch::new(sources.rows, vec![Column::Texts(upcoming.queues.iter().map(|queues| Some(&*queues.source)).collect()), Column::Ints(levels)]);
    // Two questions, each of them one look into the index: leases that ran out, and rows that an application made up as being sent.
    let lapsed = |lease: &str| {
        format!(
            "EXISTS (SELECT 1 FROM {{log}} WHERE project = ? AND state = 'sending' AND {lease} AND source IN (SELECT s_source FROM {{table s s_source:text}}))"
        )
    };
    let sql = session.sql("upcoming", || {
        let mut lapsed = format!("{} OR {}", lapsed("lease_until <= {now}"), lapsed("lease_until IS NULL"));
        if D::SHEETS {
            lapsed.push_str(
                " OR EXISTS (SELECT 1 FROM {sheet} WHERE project = ? AND lease_until <= {now} AND source IN (SELECT s_source FROM {table s s_source:text}))",
            );
        }
        let free = if D::SHEETS { "AND id NOT IN (SELECT {on-sheets} WHERE s.project = ?)" } else { "" };
        format!(
            "SELECT b_source, n_level,
                CASE WHEN (b_levels >> n_level) & 1 = 1 THEN
                    (SELECT {{time due_at}} FROM {{log}} {{claim-index}} WHERE project = ? AND source = b_source AND level = n_level AND {{dated}} {free}
                        ORDER BY project, source, level, due_at LIMIT 1) END,
                {{time {{now}}}}, CASE WHEN {lapsed} THEN 1 ELSE 0 END
             FROM {{table b b_source:text b_levels:int}} CROSS JOIN {LEVELS}"
        )
    });
    let (project, sources, queues) = (Value::Text(&upcoming.project), Value::Batch(&sources), Value::Batch(&queues));
    let rows = if D::SHEETS {
        // The same once more, where sheets are looked at too.
        session.rows(sql, &[project, project, project, sources, project, sources, project, sources, queues]).await?
    } else {
        session.rows(sql, &[project, project, sources, project, sources, queues]).await?
    };
    let now = match rows.first() {
        Some(row) => clock::<D>(row, 3)?,
        None => now(session).await?,
    };
    let lapsed = rows.first().is_some_and(|row| D::int(row, 4).ok().flatten() == Some(1));
    let mut due = Vec::new();
    for row in &rows {
        let Some(at) = D::time(row, 2).ok().flatten().and_then(earliest) else { continue };
        let level = u8::try_from(D::int(row, 1).ok().flatten().unwrap_or(0)).unwrap_or(0);
        let name = decode::maybe_text::<D>(row, 0).unwrap_or_default();
        if let Some(queues) = upcoming.queues.iter().find(|queues| *queues.source == *name) {
            due.push(NextDue { source: Arc::clone(&queues.source), level, at });
        }
    }
    Ok(Outlook { now, due, lapsed })
}

/// A due time that says when to look: one before all calendars has long come, one after them never comes.
pub(super) fn earliest(micros: i64) -> Option<DateTime<Utc>> {
    decode::moment(micros).or_else(|| (micros < 0).then_some(DateTime::UNIX_EPOCH))
}

pub(super) async fn renew<D: Dialect>(session: &mut Session<D>, held: &[Held], ttl: std::time::Duration) -> Result<Vec<Uuid>, Fail> {
    const RENEW: Matched = Matched {
        names: ["renew", "renew_lock"],
        columns: "b_id:id b_token:int",
        set: "lease_until = {plus {now}|?}, updated_at = {now}",
        condition: HELD,
    };
    let mut lost = Vec::new();
    let listed = sheet::renew(session, held, ttl).await?;
    for round in rounds(held.iter().copied().filter(|held| !listed.contains(held)), |held| held.id) {
        let kept: HashSet<_> = RENEW.run(session, &holding(&round), &[Value::Int(micros(ttl))]).await?.into_iter().collect();
        lost.extend(round.iter().map(|held| held.id).filter(|id| !kept.contains(id)));
    }
    Ok(lost)
}

pub(super) async fn release<D: Dialect>(session: &mut Session<D>, held: &[Held]) -> Result<u64, Fail> {
    // `attempts` goes first: MySQL reads what it has just written.
    const RELEASE: Matched = Matched {
        names: ["release", "release_lock"],
        columns: "b_id:id b_token:int",
        set: "attempts = CASE WHEN attempt_started_at IS NOT NULL AND attempts > 0 THEN attempts - 1 ELSE attempts END,
            state = 'pending', lease_token = 0, lease_until = NULL, attempt_started_at = NULL, updated_at = {now}",
        condition: HELD,
    };
    let listed = sheet::release(session, held).await?;
    let mut released = listed.len() as u64;
    for round in rounds(held.iter().copied().filter(|held| !listed.contains(held)), |held| held.id) {
        released += RELEASE.run(session, &holding(&round), &[]).await?.len() as u64;
    }
    Ok(released)
}

fn holding(held: &[Held]) -> Batch<'static> {
    Batch::new(
        held.len(),
        vec![Column::Ids(held.iter().map(|held| held.id).collect()), Column::Ints(held.iter().map(|held| Some(held.token)).collect())],
    )
}

/// Items in rounds that name no message twice, as a node may that lost a message and took it again: each is answered for itself.
/// In a round they are in order of their ids, so that two batches never wait for each other crosswise.
pub(super) fn rounds<T>(items: impl IntoIterator<Item = T>, id: impl Fn(&T) -> Uuid) -> Vec<Vec<T>> {
    let mut rounds: Vec<Vec<T>> = Vec::new();
    let mut seen: HashMap<Uuid, usize> = HashMap::new();
    for item in items {
        let times = seen.entry(id(&item)).or_insert(0);
        match rounds.get_mut(*times) {
            Some(round) => round.push(item),
            None => rounds.push(vec![item]),
        }
        *times += 1;
    }
    for round in &mut rounds {
        round.sort_unstable_by_key(&id);
    }
    rounds
}
