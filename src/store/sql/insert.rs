//! Committing messages, and their idempotency keys.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use uuid::Uuid;

use super::decode;
use super::dialect::{Batch, Column, Dialect, Id, Value};
use super::pool::{Fail, Session};
use crate::message::Key;
use crate::store::{Due, Error, Insert, Inserted, NewMessage, Verdict};

/// What a statement of several rows may weigh: servers bound their packets.
const MOST_BYTES: usize = 4 << 20;

/// The sizes of statements, each prepared once: few for a batch of any size. SQLite takes 32766 parameters, which is 1560 rows.
const SIZES: [(usize, &str); 5] = [(256, "insert_256"), (64, "insert_64"), (16, "insert_16"), (4, "insert_4"), (1, "insert_1")];

/// A span in microseconds.
pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

/// The database's clock, as a query answers it in a column.
pub(super) fn clock<D: Dialect>(row: &super::dialect::Row<D>, index: usize) -> Result<DateTime<Utc>, Fail> {
    decode::maybe_time::<D>(row, index).ok_or_else(|| Error::Refused("the database's clock can't be read".to_owned()).into())
}

/// Asks the database for its clock.
pub(super) async fn now<D: Dialect>(session: &mut Session<D>) -> Result<DateTime<Utc>, Fail> {
    let sql = session.sql("now", || "SELECT {time {now}}".to_owned());
    let rows = session.rows(sql, &[]).await?;
    rows.first().map_or_else(|| Err(Error::Refused("the database tells no time".to_owned()).into()), |row| clock::<D>(row, 0))
}

/// Whether an insert is one statement.
pub(super) fn is_single<D: Dialect>(insert: &Insert) -> bool {
    D::ARRAYS && insert.messages.iter().all(|message| message.idempotency.is_none())
}

pub(super) async fn insert<D: Dialect>(session: &mut Session<D>, insert: &Insert) -> Result<Inserted, Fail> {
    let verdicts = verdicts(session, insert).await?;
    let fresh: Vec<&NewMessage> =
        insert.messages.iter().zip(&verdicts).filter(|(_, verdict)| matches!(verdict, Verdict::New)).map(|(message, _)| message).collect();
    let now = if fresh.is_empty() {
        now(session).await?
    } else if D::ARRAYS {
        arrays(session, insert, &fresh).await?
    } else {
        values(session, insert, &fresh).await?
    };
    Ok(Inserted { now, verdicts })
}

/// Takes the idempotency keys. The first item of a batch with a key speaks for it; the others are judged by what it found.
async fn verdicts<D: Dialect>(session: &mut Session<D>, insert: &Insert) -> Result<Vec<Verdict>, Fail> {
    let mut verdicts = vec![Verdict::New; insert.messages.len()];
    // In order of the keys, so that two batches never wait for each other crosswise.
    let mut keys: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (index, message) in insert.messages.iter().enumerate() {
        if let Some(idempotency) = &message.idempotency {
            keys.entry((&message.source, &idempotency.key)).or_default().push(index);
        }
    }
    if keys.is_empty() {
        return Ok(verdicts);
    }
    let digests: Vec<String> =
        insert.messages.iter().map(|message| message.idempotency.as_ref().map(|it| hex(&it.digest)).unwrap_or_default()).collect();
    let firsts: Vec<_> = keys.iter().filter_map(|((source, key), items)| Some((*source, *key, *items.first()?))).collect();
    let names = || {
        let sources = firsts.iter().map(|(source, _, _)| Some(*source)).collect();
        vec![Column::Texts(sources), Column::Texts(firsts.iter().map(|(_, key, _)| Some(*key)).collect())]
    };
    let mut columns = names();
    columns.extend([
        Column::Texts(firsts.iter().map(|(_, _, item)| digests.get(*item).map(String::as_str)).collect()),
        Column::Ids(firsts.iter().filter_map(|(_, _, item)| insert.messages.get(*item).map(|message| message.id)).collect()),
    ]);
    let batch = Batch::new(firsts.len(), columns);
    // What this call writes carries a number that no other call's does: a message that is submitted again has the same id.
    let taker = rand::random::<i64>();
    let sql = session.sql("keys_take", || {
        let stale = format!("{} <= {{now}}", D::present("key", "expires_at"));
        let take = |column: &'static str| (column, format!("CASE WHEN {stale} THEN {} ELSE {} END", D::proposed(column), D::present("key", column)));
        // The column that says whether the old row is stale goes last: MySQL reads what it has just written.
        format!(
            "INSERT INTO {{key}} {} (project, source, idem_key, digest, message_id, taken_by, expires_at)
             SELECT ?, b_source, b_key, b_digest, b_id, ?, {{plus {{now}}|?}} FROM {{table b b_source:text b_key:text b_digest:text b_id:id}} WHERE 1 = 1 {}",
            D::AS_OLD,
            D::upsert("project, source, idem_key", &[take("digest"), take("message_id"), take("taken_by"), take("expires_at")])
        )
    });
    let values = [Value::Text(&insert.project), Value::Int(taker), Value::Int(micros(insert.keep_keys)), Value::Batch(&batch)];
    session.execute(sql, &values).await?;
    let names = Batch::new(firsts.len(), names());
    let sql = session.sql("keys_read", || {
        // Where a plan is kept: one of a time when there were no keys would read all of the project for each batch.
        let key = if D::ARRAYS {
            "CROSS JOIN LATERAL (SELECT * FROM {key} WHERE project = ? AND source = b_source AND idem_key = b_key OFFSET 0) AS k"
        } else {
            "{join} {key} k {by-key} ON k.project = ? AND k.source = b_source AND k.idem_key = b_key"
        };
        format!(
            "SELECT {{text k.source}}, {{text k.idem_key}}, {{text k.digest}}, message_id, taken_by FROM {{table b b_source:text b_key:text}} {key}"
        )
    });
    let mut known: HashMap<(String, String), (String, Uuid, bool)> = HashMap::new();
    for row in session.rows(sql, &[Value::Batch(&names), Value::Text(&insert.project)]).await? {
        if let (Some(source), Some(key), Some(digest), Ok(Id::Known(id))) =
            (decode::maybe_text::<D>(&row, 0), decode::maybe_text::<D>(&row, 1), decode::maybe_text::<D>(&row, 2), D::id(&row, 3))
        {
            let ours = D::int(&row, 4).ok().flatten() == Some(taker);
            known.insert((source, key), (digest, id, ours));
        }
    }
    for ((source, key), items) in keys {
        let Some((digest, first, ours)) = known.get(&(source.to_owned(), key.to_owned())) else {
            // Never seen. A message that may have been taken before must not be taken for a new one.
            return Err(Error::Refused("an idempotency key that was just written can't be read again".to_owned()).into());
        };
        for (place, item) in items.into_iter().enumerate() {
            let (Some(own), Some(verdict)) = (digests.get(item), verdicts.get_mut(item)) else { continue };
            *verdict = match (*ours && place == 0, own == digest) {
                (true, _) => Verdict::New,
                (false, true) => Verdict::Duplicate(*first),
                (false, false) => Verdict::Conflict(*first),
            };
        }
    }
    Ok(verdicts)
}

fn hex(digest: &[u8]) -> String {
    let mut text = String::with_capacity(digest.len() * 2);
    for byte in digest {
        // Writing to a string doesn't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A time that every database takes.
fn bounded(at: DateTime<Utc>) -> DateTime<Utc> {
    if at.year() < 1000 {
        DateTime::UNIX_EPOCH
    } else if at.year() > 9000 {
        // As far as a due time makes sense, with room for the age that is added to it.
        DateTime::from_timestamp(221_845_305_600, 0).unwrap_or_default()
    } else {
        at
    }
}

fn text_key(message: &NewMessage) -> Option<&str> {
    match &message.key {
        Some(Key::Text(text)) => Some(text),
        _ => None,
    }
}

fn binary_key(message: &NewMessage) -> Option<&[u8]> {
    match &message.key {
        Some(Key::Binary(bytes)) => Some(bytes),
        _ => None,
    }
}

fn retry(message: &NewMessage) -> Option<String> {
    message.retry.as_ref().and_then(|overrides| serde_json::to_string(overrides).ok())
}

/// All rows in one statement, a parameter a column.
async fn arrays<D: Dialect>(session: &mut Session<D>, insert: &Insert, fresh: &[&NewMessage]) -> Result<DateTime<Utc>, Fail> {
    let headers: Vec<_> = fresh.iter().map(|message| message.headers.to_json()).collect();
    let retries: Vec<_> = fresh.iter().map(|message| retry(message)).collect();
    let batch = Batch::new(
        fresh.len(),
        vec![
            Column::Ids(fresh.iter().map(|message| message.id).collect()),
            Column::Texts(fresh.iter().map(|message| Some(&*message.source)).collect()),
            Column::Texts(fresh.iter().map(|message| message.topic.as_deref()).collect()),
            Column::Texts(fresh.iter().map(|message| text_key(message)).collect()),
            Column::Bytes(fresh.iter().map(|message| binary_key(message)).collect()),
            Column::Bytes(fresh.iter().map(|message| message.payload.as_deref()).collect()),
            Column::Texts(headers.iter().map(Option::as_deref).collect()),
            Column::Ints(fresh.iter().map(|message| Some(i64::from(message.priority))).collect()),
            Column::Times(
                fresh
                    .iter()
                    .map(|message| match message.due {
                        Due::At(at) => Some(bounded(at)),
                        _ => None,
                    })
                    .collect(),
            ),
            Column::Ints(
                fresh
                    .iter()
                    .map(|message| match message.due {
                        Due::After(wait) => Some(micros(wait)),
                        _ => None,
                    })
                    .collect(),
            ),
            Column::Ints(fresh.iter().map(|message| message.expires_after.map(micros)).collect()),
            Column::Texts(retries.iter().map(Option::as_deref).collect()),
            Column::Texts(fresh.iter().map(|message| message.idempotency.as_ref().map(|it| it.key.as_str())).collect()),
            Column::Ints(fresh.iter().map(|message| Some(i64::from(message.leased))).collect()),
        ],
    );
    let sql = session.sql("insert", || {
        "WITH put AS (
            INSERT INTO {log} (id, project, source, topic, msg_key, msg_key_bytes, payload, headers, priority, due_at, expires_at, retry, idempotency_key,
                state, attempts, lease_token, lease_until, lease_node, attempt_started_at, created_at, updated_at)
            SELECT b_id, ?, b_source, b_topic, b_key, b_key_bytes, b_payload, b_headers, b_priority, b_due,
                {plus {later {now}|b_due}|b_expires_after}, b_retry, b_idem,
                CASE WHEN b_leased = 1 THEN 'sending' ELSE 'pending' END, b_leased, CASE WHEN b_leased = 1 THEN ? ELSE 0 END,
                CASE WHEN b_leased = 1 THEN {plus {now}|?} END, CASE WHEN b_leased = 1 THEN ? END, CASE WHEN b_leased = 1 THEN {now} END, {now}, {now}
            FROM (SELECT b.*, coalesce(b_at, {plus {now}|coalesce(b_after, 0)}) AS b_due
                  FROM {table b b_id:id b_source:text b_topic:text b_key:text b_key_bytes:bytes b_payload:bytes b_headers:text b_priority:int b_at:time
                                b_after:int b_expires_after:int b_retry:text b_idem:text b_leased:int}) AS c
        ) SELECT {time {now}}"
            .to_owned()
    });
    let lease = &insert.lease;
    let values =
        [Value::Text(&insert.project), Value::Int(lease.token), Value::Int(micros(lease.ttl)), Value::Text(&lease.node), Value::Batch(&batch)];
    let rows = session.rows(sql, &values).await?;
    rows.first().map_or_else(|| Err(Error::Refused("the insert was not answered".to_owned()).into()), |row| clock::<D>(row, 0))
}

/// Rows in several statements of one transaction, a parameter a cell.
async fn values<D: Dialect>(session: &mut Session<D>, insert: &Insert, fresh: &[&NewMessage]) -> Result<DateTime<Utc>, Fail> {
    let now = now(session).await?;
    let after = |from: DateTime<Utc>, span: Duration| from + TimeDelta::microseconds(micros(span).min(micros(crate::units::LONGEST)));
    let mut rest = fresh;
    while !rest.is_empty() {
        let (size, name) =
            SIZES.into_iter().find(|(size, _)| rest.get(..*size).is_some_and(|rows| weight(rows) <= MOST_BYTES)).unwrap_or((1, "insert_1"));
        let (rows, others) = rest.split_at(size.min(rest.len()));
        rest = others;
        let sql = session.sql(name, || {
            let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            format!(
                "INSERT INTO {{log}} (id, project, source, topic, msg_key, msg_key_bytes, payload, headers, priority, due_at, expires_at, retry,
                    idempotency_key, state, attempts, lease_token, lease_until, lease_node, attempt_started_at, created_at, updated_at)
                 VALUES {}",
                vec![row; size].join(", ")
            )
        });
        let headers: Vec<_> = rows.iter().map(|message| message.headers.to_json()).collect();
        let retries: Vec<_> = rows.iter().map(|message| retry(message)).collect();
        let mut values = Vec::with_capacity(size * 21);
        for ((message, headers), retry) in rows.iter().zip(&headers).zip(&retries) {
            let due = match message.due {
                Due::Now => now,
                Due::After(wait) => after(now, wait),
                Due::At(at) => bounded(at),
            };
            let expires = message.expires_after.map(|age| after(now.max(due), age));
            let leased = |value| if message.leased { value } else { None };
            values.extend([
                Value::Id(message.id),
                Value::Text(&insert.project),
                Value::Text(&message.source),
                Value::MaybeText(message.topic.as_deref()),
                Value::MaybeText(text_key(message)),
                Value::MaybeBytes(binary_key(message)),
                Value::MaybeBytes(message.payload.as_deref()),
                Value::MaybeText(headers.as_deref()),
                Value::Int(i64::from(message.priority)),
                Value::Time(Some(due)),
                Value::Time(expires),
                Value::MaybeText(retry.as_deref()),
                Value::MaybeText(message.idempotency.as_ref().map(|it| it.key.as_str())),
                Value::Text(if message.leased { "sending" } else { "pending" }),
                Value::Int(i64::from(message.leased)),
                Value::Int(if message.leased { insert.lease.token } else { 0 }),
                Value::Time(leased(Some(after(now, insert.lease.ttl)))),
                Value::MaybeText(if message.leased { Some(&insert.lease.node) } else { None }),
                Value::Time(leased(Some(now))),
                Value::Time(Some(now)),
                Value::Time(Some(now)),
            ]);
        }
        session.execute(sql, &values).await?;
    }
    Ok(now)
}

fn weight(rows: &[&NewMessage]) -> usize {
    rows.iter().map(|message| message.payload.as_ref().map_or(0, bytes::Bytes::len)).sum()
}
