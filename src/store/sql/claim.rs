//! Taking messages under a lease, renewing it, handing them back, and looking for what is due next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::decode;
use super::dialect::{Bad, Batch, Column, Dialect, Id, Value, known_id};
use super::insert::{clock, micros, now};
use super::part::{self, Parts};
use super::pool::{Fail, Session};
use super::shape::{HELD, Matched, NAMED};
use super::sheet;
use crate::message::Message;
use crate::store::{Claim, Claimed, Error, Held, Mark, NextDue, Outlook, Ready, Row, Unusable, Upcoming};

/// The levels of priority of a source, each of which is a queue.
pub(super) const LEVELS: &str = "(SELECT 0 AS n_level UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9) AS n";

pub(super) async fn claim<D: Dialect>(session: &mut Session<D>, claim: &Claim) -> Result<Claimed, Fail> {
    let asked = Instant::now();
    sheet::turn(session, &claim.project, &claim.source).await?;
    let waited = asked.elapsed();
    let mut parts = Parts::within(session.core.timeout);
    let (mut taken, mut seen, mut read_at) = (Taken::default(), 0, None);
    let cut = loop {
        let Pick { now, seen: rows, cut } = pick(session, claim, seen).await?;
        let count = rows.len();
        read_at = read_at.or(now);
        seen += count;
        taken.rows.reserve(count);
        taken.ids.reserve(count);
        for row in rows {
            taken.add(session, row, &mut parts).await?;
        }
        // Rows whose ids can't be mended stay where they are. If there is nothing else among these, look behind them.
        if !taken.ids.is_empty() || count < claim.limit as usize || parts.are_over() {
            break cut;
        }
    };
    let Taken { mut rows, ids, large, last } = taken;
    let now = match read_at {
        Some(now) => now,
        None => now(session).await?,
    };
    if !ids.is_empty() {
        payloads(session, large, &mut rows).await?;
        sheet::write(session, claim, &ids, last.unwrap_or(Mark { due_at: now, row: u128::MAX })).await?;
    }
    Ok(Claimed { now, rows, seen, last, cut, waited, refused: parts.refused() })
}

/// The rows that a claim takes.
#[derive(Default)]
struct Taken {
    rows: Vec<Row>,
    ids: Vec<Uuid>,
    /// Those whose payloads are still to be read.
    large: Vec<Uuid>,
    last: Option<Mark>,
}

impl Taken {
    /// Adds a row, unless its id would have to be mended and can't be.
    async fn add<D: Dialect>(&mut self, session: &mut Session<D>, seen: Seen, parts: &mut Parts) -> Result<(), Fail> {
        let Seen { id, due_at, tie, read, is_large } = seen;
        let Some((id, odd)) = mended(session, id, parts).await? else {
            self.last = self.last.max(due_at.zip(tie).map(|(due_at, row)| Mark { due_at, row }));
            return Ok(());
        };
        self.last = self.last.max(due_at.map(|due_at| Mark { due_at, row: tie.unwrap_or(id.as_u128()) }));
        if is_large {
            self.large.push(id);
        }
        self.ids.push(id);
        self.rows.push(match (read, odd) {
            (Ok(mut ready), None) => {
                ready.message.id = id;
                Row::Ready(ready)
            }
            (Ok(ready), Some(detail)) => {
                Row::Unusable(Unusable { id, epoch: ready.message.epoch, attempt: ready.message.attempt, code: "invalid_row", detail })
            }
            (Err(unusable), _) => Row::Unusable(Unusable { id, ..unusable }),
        });
        Ok(())
    }
}

/// What a claim is going to take.
struct Pick {
    /// The database's clock; `None` if no row was found.
    now: Option<DateTime<Utc>>,
    seen: Vec<Seen>,
    /// Whether something was left behind because of the limit on weight.
    cut: bool,
}

/// A row as a claim saw it.
struct Seen {
    id: Result<Id, Bad>,
    due_at: Option<DateTime<Utc>>,
    tie: Option<u128>,
    /// The id may be any; it is mended later.
    read: Result<Box<Ready>, Unusable>,
    /// Its payload is still to be read.
    is_large: bool,
}

/// Locks and reads the rows that go on a sheet, without changing them; those behind the first `passed`.
async fn pick<D: Dialect>(session: &mut Session<D>, claim: &Claim, passed: usize) -> Result<Pick, Fail> {
    let address = if session.core.dialect.is_addressed() { "{address}" } else { "NULL" };
    // Nearly always 0.
    let offset = if passed > 0 { "OFFSET ?" } else { "" };
    let pick = |unheld: &str| {
        format!(
            "SELECT {}, {address}, {{row}} FROM {{log}} {{claim-index}}
             WHERE project = ? AND source = ? AND level = ? AND due_at <= {{now}} AND {unheld}
             ORDER BY due_at, {{tie}} LIMIT ? {offset} {{skip}}",
            decode::CLAIMED
        )
    };
    let payload = bytes(claim.max_payload);
    let (project, source, level) = (Value::Text(&claim.project), Value::Text(&claim.source), Value::Int(i64::from(claim.level)));
    let (inline, limit) = (Value::Int(payload.min(WITH_LOCK)), Value::Int(claim.limit.into()));
    let names = if passed > 0 { ["claim_past", "claim_after_past"] } else { ["claim", "claim_after"] };
    let (sql, mut values) = match claim.after {
        None => {
            let sql = session.sql(names[0], || pick("id NOT IN ({on-sheets} WHERE s.project = ? AND s.source = ?)"));
            (sql, vec![inline, project, source, level, project, source, limit])
        }
        Some(Mark { due_at, row }) => {
            let sql = session.sql(names[1], || {
                // Other nodes may have gone further. Nothing is held behind the furthest of all sheets.
                let furthest = |column: &str| {
                    format!(
                        "coalesce((SELECT {column} FROM {{sheet}} WHERE project = ? AND source = ? AND level = ? AND (last_due, last_row) > (?, ?)
                                   ORDER BY last_due DESC, last_row DESC LIMIT 1), ?)"
                    )
                };
                let (due, row) = (furthest("last_due"), furthest("last_row"));
                if D::COMPARES_PAIRS {
                    pick(&format!("(due_at, {{tie}}) > ({due}, {row})"))
                } else {
                    pick(&format!("(due_at > {due} OR (due_at = {due} AND {{tie}} > {row}))"))
                }
            });
            let (due, row) = (Value::Time(Some(due_at)), Value::Tie(row));
            let furthest = |otherwise| [project, source, level, due, row, otherwise];
            let (dues, rows) = (furthest(due), furthest(row));
            let again = if D::COMPARES_PAIRS { &[][..] } else { &dues };
            (sql, [&[inline, project, source, level][..], &dues, again, &rows, &[limit]].concat())
        }
    };
    if passed > 0 {
        values.push(Value::Int(i64::try_from(passed).unwrap_or(i64::MAX)));
    }
    let (mut clock_read, mut left) = (None, Some(bytes(claim.max_bytes)));
    let picked = session.each(sql, &values, |row| {
        left?;
        let read = decode::claimed::<D>(&row, &claim.project, &claim.source, claim.max_payload);
        let size = D::int(&row, decode::CLAIMED_SIZE).ok().flatten().filter(|size| *size <= payload).unwrap_or(0);
        // A row that can't be sent needs no payload.
        let is_large = size > WITH_LOCK && read.is_ok();
        let unread = if is_large { size } else { 0 };
        let weight = read.as_ref().map_or(0, |ready| i64::try_from(ready.message.weight()).unwrap_or(i64::MAX).saturating_add(unread));
        // The first row is taken whatever its weight. Once one does not fit, none after it is taken, so that they go out in order.
        left = left.filter(|left| clock_read.is_none() || weight <= *left).map(|left| left.saturating_sub(weight));
        left?;
        clock_read.get_or_insert_with(|| clock::<D>(&row, decode::CLAIMED_NOW));
        let due_at = read.as_ref().map_or_else(|_| decode::maybe_time::<D>(&row, decode::CLAIMED_DUE), |ready| Some(ready.due_at));
        Some(Seen { id: D::id(&row, 0), due_at, tie: D::tie(&row), read, is_large })
    });
    let seen = picked.await?;
    Ok(Pick { now: clock_read.transpose()?, seen, cut: left.is_none() })
}

/// Reads the payloads of rows that are locked.
async fn payloads<D: Dialect>(session: &mut Session<D>, large: Vec<Uuid>, rows: &mut [Row]) -> Result<(), Fail> {
    if large.is_empty() {
        return Ok(());
    }
    let count = large.len();
    let sql = session.sql("claim_payloads", || format!("SELECT id, {{bytes payload}} FROM {{table b b_id:id}} {NAMED}"));
    let read = session.each(sql, &[Value::Batch(&Batch::ids(large))], |row| Some((known_id::<D>(&row)?, D::bytes(&row, 1)))).await?;
    let mut read: HashMap<_, _> = read.into_iter().collect();
    if read.len() < count {
        // Never seen. Sent without its payload, it would be a different message.
        return Err(Error::Refused("rows that were locked can't be read again".to_owned()).into());
    }
    for row in rows {
        let Row::Ready(ready) = row else { continue };
        match read.remove(&ready.message.id) {
            None => {}
            Some(Ok(payload)) => ready.message.payload = payload.map(Into::into),
            Some(Err(Bad(detail))) => {
                let Message { id, epoch, attempt, .. } = ready.message;
                *row = Row::Unusable(Unusable { id, epoch, attempt, code: "invalid_row", detail: format!("column payload: {detail}") });
            }
        }
    }
    Ok(())
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Payloads up to this many bytes are read with the lock; larger ones only once it is known which rows are taken, to bound memory.
const WITH_LOCK: i64 = 16 << 10;

/// The id of a row that was taken. An id that is a UUID in another notation is rewritten the way redrive writes ids, so that the row can be found;
/// one that is not a UUID is replaced by a new one, and the answer says so.
pub(super) async fn mend<D: Dialect>(session: &mut Session<D>, id: Result<Id, Bad>) -> Result<(Uuid, Option<String>), Fail> {
    let odd = match id {
        Ok(Id::Known(id)) => return Ok((id, None)),
        Ok(odd) => odd,
        Err(bad) => return Err(Error::Refused(format!("the id of a row can't be read: {}", bad.0)).into()),
    };
    let (old, meant, detail) = match &odd {
        Id::Raw(bytes) => (Value::MaybeBytes(Some(bytes)), None, "column id: is not UTF-8".to_owned()),
        Id::Text(text) => (Value::Text(text), Uuid::try_parse(text).ok(), format!("column id: `{}` is not a UUID", text.escape_debug())),
        Id::Bytes(bytes) => (Value::MaybeBytes(Some(bytes)), Uuid::from_slice(bytes).ok(), "column id: is not a UUID".to_owned()),
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

/// As [`mend`], in a part of the transaction, since the table's owner may forbid it. In that case `None`: the row, which can't be named, is left for
/// later.
async fn mended<D: Dialect>(session: &mut Session<D>, id: Result<Id, Bad>, parts: &mut Parts) -> Result<Option<(Uuid, Option<String>)>, Fail> {
    if let Ok(Id::Known(id)) = id {
        return Ok(Some((id, None)));
    }
    if parts.are_over() {
        return Ok(None);
    }
    part::begin(session).await?;
    let mended = mend(session, id).await;
    parts.end(session, mended).await
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

pub(super) async fn upcoming<D: Dialect>(session: &mut Session<D>, upcoming: &Upcoming) -> Result<Outlook, Fail> {
    if upcoming.queues.is_empty() {
        return Ok(Outlook { now: now(session).await?, due: Vec::new(), lapsed: false, next_lapse: None });
    }
    let sources = Batch::texts(upcoming.queues.iter().map(|queues| &*queues.source));
    let levels = upcoming.queues.iter().map(|queues| Some(i64::from(queues.levels))).collect();
    let queues =
        Batch::new(sources.rows, vec![Column::Texts(upcoming.queues.iter().map(|queues| Some(&*queues.source)).collect()), Column::Ints(levels)]);
    let sql = session.sql("upcoming", || {
        let ours = "source {in SELECT s_source FROM {table s s_source:text}}";
        let (rows, sheets) = ("{log} WHERE project = ? AND state = 'sending'", "{sheet} WHERE project = ?");
        // Each of these conditions is a single look into the index. A row without a lease may be `sending` because an application wrote that.
        let lapsed = |held: &str, lease: &str| format!("EXISTS (SELECT 1 FROM {held} AND {lease} AND {ours})");
        let past = "lease_until <= {now}";
        let lapsed = [lapsed(rows, past), lapsed(rows, "lease_until IS NULL"), lapsed(sheets, past)].join(" OR ");
        let next = |held: &str| {
            format!(
                "(SELECT {{time lease_until}} FROM {held} AND lease_until > {{now}} AND lease_until <= {{plus {{now}}|?}} AND {ours}
                    ORDER BY project, lease_until LIMIT 1)"
            )
        };
        let (next_row, next_sheet) = (next(rows), next(sheets));
        format!(
            "SELECT b_source, n_level,
                CASE WHEN (b_levels >> n_level) & 1 = 1 THEN
                    (SELECT {{time due_at}} FROM {{log}} {{claim-index}} WHERE project = ? AND source = b_source AND level = n_level AND {{dated}} AND id NOT IN ({{on-sheets}} WHERE s.project = ?)
                        ORDER BY project, source, level, due_at LIMIT 1) END,
                {{time {{now}}}}, CASE WHEN {lapsed} THEN 1 ELSE 0 END, {next_row}, {next_sheet}
             FROM {{table b b_source:text b_levels:int}} CROSS JOIN {LEVELS}"
        )
    });
    let (project, sources, queues) = (Value::Text(&upcoming.project), Value::Batch(&sources), Value::Batch(&queues));
    let lapsed = [project, sources];
    let next = [project, Value::Int(micros(upcoming.horizon)), sources];
    let values = [&[project, project][..], &lapsed, &lapsed, &lapsed, &next, &next, &[queues]].concat();
    let rows = session.rows(sql, &values).await?;
    let now = match rows.first() {
        Some(row) => clock::<D>(row, 3)?,
        None => now(session).await?,
    };
    let lapsed = rows.first().is_some_and(|row| D::int(row, 4).ok().flatten() == Some(1));
    let next_lapse = rows.first().and_then(|row| [5, 6].into_iter().filter_map(|column| decode::maybe_time::<D>(row, column)).min());
    let mut due = Vec::new();
    for row in &rows {
        let Some(at) = D::time(row, 2).ok().flatten().and_then(earliest) else { continue };
        let level = u8::try_from(D::int(row, 1).ok().flatten().unwrap_or(0)).unwrap_or(0);
        let name = decode::maybe_text::<D>(row, 0).unwrap_or_default();
        if let Some(queues) = upcoming.queues.iter().find(|queues| *queues.source == *name) {
            due.push(NextDue { source: Arc::clone(&queues.source), level, at });
        }
    }
    Ok(Outlook { now, due, lapsed, next_lapse })
}

/// A due time as the moment to look: one before the calendar begins has passed, one after its end never comes.
pub(super) fn earliest(micros: i64) -> Option<DateTime<Utc>> {
    decode::moment(micros).or_else(|| (micros < 0).then_some(DateTime::UNIX_EPOCH))
}

pub(super) async fn renew<D: Dialect>(session: &mut Session<D>, held: &[Held], ttl: Duration) -> Result<Vec<Uuid>, Fail> {
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
    // `attempts` is set first: MySQL sees the values that it has just assigned.
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

/// Splits items into rounds, in each of which a message occurs at most once: a node that lost a message and took it again may name it twice, and each
/// occurrence is answered separately. Each round is in the order of the ids, so that two batches never deadlock.
pub(super) fn rounds<T>(items: impl IntoIterator<Item = T>, id: impl Fn(&T) -> Uuid) -> Vec<Vec<T>> {
    let mut round: Vec<T> = items.into_iter().collect();
    round.sort_by_key(&id);
    let mut rounds = Vec::new();
    while !round.is_empty() {
        let mut last = None;
        let again = round.extract_if(.., |item| last.replace(id(item)) == Some(id(item))).collect();
        rounds.push(std::mem::replace(&mut round, again));
    }
    rounds
}
