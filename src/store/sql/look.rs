//! Looking at messages: one, a page, the attempts of one, how many wait.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::decode;
use super::dialect::{Batch, Dialect, Id, Row, Value, known, known_id};
use super::nodes;
use super::pool::{Fail, Session};
use super::shape::NAMED;
use crate::message::{AttemptOutcome, State};
use crate::outcome::cut;
use crate::store::{Attempt, Count, List, MAX_SHOWN_PAYLOAD, Record};

/// The most messages of a page.
const MOST_ROWS: u32 = 10_000;
/// So many sources that no node knows are counted by name, those whose messages wait longest.
const MOST_FOREIGN: usize = 100;
/// And of such a name so many bytes are told.
const MOST_NAME: usize = 100;
/// A count that falls into more groups, besides those of known sources, is not read whole: the largest are looked at.
const MOST_GROUPS: usize = 2000;

/// No payload is as small as this.
const NO_PAYLOAD: Value<'_> = Value::Int(-1);

pub(super) async fn get<D: Dialect>(session: &mut Session<D>, project: &str, id: &Id, payload: bool) -> Result<Option<Record>, Fail> {
    let sql = session.sql("get", || format!("SELECT {} FROM {{log}} WHERE project = ? AND id = ?", decode::SHOWN));
    let most = if payload { Value::Int(i64::from(MAX_SHOWN_PAYLOAD)) } else { NO_PAYLOAD };
    let rows = session.rows(sql, &[most, Value::Text(project), id.into()]).await?;
    Ok(rows.first().and_then(decode::shown::<D>))
}

/// Those of these rows that a locking query passes over.
pub(super) async fn locked<D: Dialect>(session: &mut Session<D>, ids: Vec<Uuid>) -> Result<Vec<Uuid>, Fail> {
    let named = |lock: &str| format!("SELECT id FROM {{table b b_id:id}} {NAMED} {lock}");
    let batch = Batch::ids(ids);
    let sql = session.sql("unlocked", || named("{lock} {or-skip}"));
    let free: HashSet<_> = known::<D>(&session.rows(sql, &[Value::Batch(&batch)]).await?).into_iter().collect();
    if free.len() == batch.rows {
        return Ok(Vec::new());
    }
    let sql = session.sql("there", || named(""));
    let there = known::<D>(&session.rows(sql, &[Value::Batch(&batch)]).await?);
    Ok(there.into_iter().filter(|id| !free.contains(id)).collect())
}

/// The time, or the nearest that every database can hold: no row lies beyond it.
fn storable(at: DateTime<Utc>) -> DateTime<Utc> {
    // The years 0 to 9999.
    let seconds = at.timestamp().clamp(-62_167_219_200, decode::LAST_SECOND);
    if seconds == at.timestamp() { at } else { DateTime::from_timestamp(seconds, 0).unwrap_or(at) }
}

/// Rows of a state, which is written out, so that the planner sees which partial index serves. What that leaves out is named again, for SQLite.
fn of(state: State) -> String {
    let again = if matches!(state, State::Sending | State::Succeeded) { "" } else { " AND state NOT IN ('sending', 'succeeded')" };
    format!("state = '{state}'{again}")
}

/// The query of a page whose rows say themselves in which state they are, with further conditions.
pub(super) fn page(state: Option<State>, narrower: &str) -> String {
    let condition = match state {
        None => String::new(),
        Some(state @ (State::Pending | State::Retrying)) => format!("AND {} {{free}}", of(state)),
        Some(state) => format!("AND {}", of(state)),
    };
    format!("SELECT {} FROM {{log}} WHERE project = ? {condition}{narrower} ORDER BY id DESC LIMIT ?", decode::SHOWN)
}

/// What narrows a page besides its one state, and the parameters of that; nothing where no row can be meant.
pub(super) fn narrower<D: Dialect>(list: &List) -> Option<(String, Vec<Value<'_>>)> {
    let (mut sql, mut values) = (String::new(), Vec::new());
    if list.finished_since.is_some() || list.finished_until.is_some() {
        match list.state {
            None => sql.push_str(" AND state IN ('succeeded', 'failed', 'cancelled')"),
            Some(state) if state.is_finished() => {}
            Some(_) => return None,
        }
    }
    let texts = [
        (" AND source = ?", &list.source),
        (" AND topic = ?", &list.topic),
        (" AND msg_key = ?", &list.key),
        (" AND idempotency_key = ?", &list.idempotency_key),
        (" AND error_code = ?", &list.error_code),
    ];
    for (condition, text) in texts {
        if let Some(text) = text {
            sql.push_str(condition);
            values.push(Value::Text(text));
        }
    }
    // What finished lately is little, and is found by that. What finished before some time may be nearly all there is: said so that no planner takes it
    // for a way to find rows, which would then have to be sorted by their ids.
    let finished_until = if list.finished_since.is_some() { " AND finished_at < ?" } else { " AND CASE WHEN finished_at < ? THEN 1 END = 1" };
    let times = [
        (" AND created_at >= ?", list.since),
        (" AND created_at < ?", list.until),
        (" AND finished_at >= ?", list.finished_since),
        (finished_until, list.finished_until),
    ];
    for (condition, at) in times {
        if let Some(at) = at {
            sql.push_str(condition);
            values.push(Value::Time(Some(storable(at))));
        }
    }
    if let Some(after) = &list.after {
        let (condition, value) = D::before(after)?;
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.push(value);
    }
    Some((sql, values))
}

/// A page, without payloads: its messages with their ids as they stand in the table, and where the next one starts.
pub(super) async fn list<D: Dialect>(session: &mut Session<D>, list: &List) -> Result<(Vec<(Id, Record)>, Option<Id>), Fail> {
    let Some((sql, narrowing)) = narrower::<D>(list) else { return Ok((Vec::new(), None)) };
    let mut values = vec![NO_PAYLOAD, Value::Text(&list.project)];
    values.extend(narrowing);
    let limit = list.limit.clamp(1, MOST_ROWS);
    values.push(Value::Int(i64::from(limit) + 1));
    let mut rows = session.rows_once(&page(list.state, &sql), &values).await?;
    if list.state == Some(State::Sending) {
        // A sheet holds these.
        let (from, condition) = on_sheets::<D>();
        let page = format!("(SELECT l.id AS p_id FROM {from} WHERE project = ? AND {condition}{sql} ORDER BY l.id DESC LIMIT ?) AS p");
        let held = format!("SELECT {} FROM {page} {{join}} {{log}} l {{by-key}} ON l.id = p_id", decode::SHOWN);
        rows.extend(session.rows_once(&held, &values).await?);
        let id = known_id::<D>;
        rows.sort_by_cached_key(|row| std::cmp::Reverse(id(row)));
        // It may have been written out in between.
        rows.dedup_by(|one, other| id(one).is_some() && id(one) == id(other));
    }
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    // Whether or not it can be shown.
    let next = if more { rows.last().and_then(|last| D::id(last, 0).ok()) } else { None };
    Ok((rows.iter().filter_map(|row| Some((D::id(row, 0).ok()?, decode::shown::<D>(row)?))).collect(), next))
}

/// The rows that sheets hold, and what is true of them. MySQL is led there by their ids.
const fn on_sheets<D: Dialect>() -> (&'static str, &'static str) {
    if D::JOINED { ("{being-sent}", "{waits}") } else { ("{log} AS l", "{waits} AND id {in {on-sheets}}") }
}

pub(super) async fn attempts<D: Dialect>(session: &mut Session<D>, project: &str, id: Uuid) -> Result<Option<Vec<Attempt>>, Fail> {
    let sql = session.sql("attempts_own", || {
        "SELECT id, {text state}, epoch, attempts, {text lease_node}, {time attempt_started_at}, attempt_ms, {text result} FROM {log}
         WHERE project = ? AND id = ?"
            .to_owned()
    });
    let rows = session.rows(sql, &[Value::Text(project), Value::Id(id)]).await?;
    let Some(own) = rows.first() else { return Ok(None) };
    let sql = session.sql("attempts", || format!("SELECT {} FROM {{attempt}} WHERE message_id = ? ORDER BY epoch, number", decode::LOGGED));
    let mut attempts: Vec<_> = session.rows(sql, &[Value::Id(id)]).await?.iter().map(decode::logged::<D>).collect();
    // The attempt that succeeded is kept on the message's own row.
    if decode::state(decode::maybe_text::<D>(own, 1).as_deref()) == State::Succeeded {
        attempts.push(Attempt {
            epoch: decode::about::<D>(own, 2),
            number: decode::about::<D>(own, 3),
            count: 1,
            node: decode::maybe_text::<D>(own, 4).unwrap_or_default(),
            started_at: decode::about_time::<D>(own, 5),
            last_at: None,
            duration: Duration::from_millis(u64::from(decode::about::<D>(own, 6))),
            outcome: AttemptOutcome::Succeeded,
            error: None,
            result: decode::maybe_text::<D>(own, 7),
        });
    }
    Ok(Some(attempts))
}

/// The states that a count asks for one by one, and what is on sheets.
const PARTS: usize = 5;

/// What counts waiting messages by what a source is called.
fn counted<D: Dialect>(source: &str, by: &str) -> String {
    // Each part has an index that holds its rows and few others. What waits on levels PostgreSQL counts in the index alone, without a look at the
    // rows: whichever of them wait for a retry, or are on sheets, are counted once more, for what they are.
    let part = |state: &str, listed: u8, from: &str, condition: &str, and: &str| {
        format!("SELECT {source}, {{text {state}}}, {listed}, count(*) FROM {from} WHERE project = ? AND {condition} GROUP BY {by}{and}")
    };
    let mut parts = vec![part("'pending'", 0, "{log}", "level IS NOT NULL", ""), part("'sending'", 0, "{log}", "state = 'sending'", "")];
    parts.extend([State::Retrying, State::Blocked].map(|state| part(&format!("'{state}'"), 0, "{log}", &of(state), "")));
    let (from, condition) = on_sheets::<D>();
    parts.push(part("state", 1, from, condition, ", state"));
    parts.join(" UNION ALL ")
}

/// What a count found, by source and state.
fn by_source<D: Dialect>(rows: &[Row<D>]) -> BTreeMap<String, BTreeMap<State, i64>> {
    let mut sources: BTreeMap<String, BTreeMap<State, i64>> = BTreeMap::new();
    for row in rows {
        let int = |index| D::int(row, index).ok().flatten().unwrap_or(0);
        let (state, listed, messages) = (decode::state(decode::maybe_text::<D>(row, 1).as_deref()), int(2) == 1, int(3));
        let states = sources.entry(decode::maybe_text::<D>(row, 0).unwrap_or_default()).or_default();
        // Where it was counted before.
        if listed {
            *states.entry(state).or_default() -= messages;
        } else if state == State::Retrying {
            *states.entry(State::Pending).or_default() -= messages;
        }
        *states.entry(if listed { State::Sending } else { state }).or_default() += messages;
    }
    sources
}

/// Counts what waits: by name of the sources that nodes know, `own` among them, and of [`MOST_FOREIGN`] others. All else goes under no name, for an
/// application may make up as many as it has messages.
pub(super) async fn counts<D: Dialect>(session: &mut Session<D>, project: &str, own: &[Arc<str>]) -> Result<Vec<Count>, Fail> {
    let mut told = nodes::known(session, project).await?.sources;
    told.extend(own.iter().map(ToString::to_string));
    let most = MOST_GROUPS + PARTS * told.len();
    let sql = session.sql("counts", || format!("{} ORDER BY 4 DESC LIMIT ?", counted::<D>("{text source}", "source")));
    let mut values = vec![Value::Text(project); PARTS];
    values.push(Value::Int(i64::try_from(most).unwrap_or(i64::MAX - 1) + 1));
    let rows = session.rows(sql, &values).await?;
    let (mut sources, is_whole) = (by_source::<D>(&rows), rows.len() <= most);
    drop(rows);
    let names: BTreeSet<&str> = sources.keys().chain(&told).map(String::as_str).collect();
    let overdue = nodes::overdue(session, project, names.into_iter()).await?;
    let mut others: Vec<_> = sources
        .iter()
        .filter(|(source, _)| !source.is_empty() && !told.contains(*source))
        .map(|(source, states)| (overdue.get(source).copied().unwrap_or_default(), states.values().sum::<i64>(), source.clone()))
        .collect();
    others.sort_unstable();
    told.extend(others.into_iter().rev().take(MOST_FOREIGN).map(|(_, _, source)| source));
    if !is_whole {
        // Not all groups were read: these are counted again, and the others together.
        let is_told = "coalesce(source, '') IN (SELECT {once} coalesce(k_source, '') FROM {table k k_source:text})";
        let sql = session.sql("counts_of_some", || counted::<D>(&format!("CASE WHEN {is_told} THEN {{text source}} END"), "1"));
        let names = Batch::texts(told.iter().map(String::as_str));
        sources = by_source::<D>(&session.rows(sql, &[Value::Batch(&names), Value::Text(project)].repeat(PARTS)).await?);
    }
    let name = |source: &str| if told.contains(source) { cut(source, MOST_NAME).to_owned() } else { String::new() };
    let mut counts: BTreeMap<String, (BTreeMap<State, i64>, Duration)> = BTreeMap::new();
    for (source, states) in sources {
        let (all, _) = counts.entry(name(&source)).or_default();
        for (state, messages) in states {
            *all.entry(state).or_default() += messages;
        }
    }
    for (source, age) in overdue {
        if let Some((_, longest)) = counts.get_mut(&name(&source)) {
            *longest = age.max(*longest);
        }
    }
    let some = |(state, messages)| u64::try_from(messages).ok().filter(|messages| *messages > 0).map(|messages| (state, messages));
    let count = |(source, (states, overdue)): (String, (BTreeMap<_, _>, Duration))| Count {
        source,
        states: states.into_iter().filter_map(some).collect(),
        overdue,
    };
    Ok(counts.into_iter().map(count).collect())
}
