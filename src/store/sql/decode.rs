//! Rows into messages, cell by cell. Applications write these rows: what can't be read is said of its row and stops no other.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::dialect::{Bad, Dialect, Id, Row};
use crate::message::{AttemptOutcome, Entry, Headers, Key, Message, Standing, State};
use crate::retry;
use crate::store::{Attempt, LastError, Ready, Record, Unusable};

/// What a claim reads. Its one parameter is the largest payload. Numbers that nearly every row has come as NULL, which costs either side less.
pub(super) const CLAIMED: &str = "id, {text topic}, {text msg_key}, {bytes msg_key_bytes},
    {bytes CASE WHEN octet_length(payload) <= ? THEN payload END}, octet_length(payload), {text headers}, NULLIF(epoch, 1), NULLIF({raised}, 1),
    NULLIF(retries, 0), {time expires_at}, NULLIF(log_count, 0), NULLIF(log_tail, 0), {text log_tail_outcome}, {text retry}, max_retries,
    {time created_at}, {time due_at}, CASE WHEN order_key IS NOT NULL THEN 1 END, {time {now}}";
/// The clock in [`CLAIMED`].
pub(super) const CLAIMED_NOW: usize = 19;
/// The due time in [`CLAIMED`].
pub(super) const CLAIMED_DUE: usize = 17;
/// The length of the payload in [`CLAIMED`].
pub(super) const CLAIMED_SIZE: usize = 5;
/// The address of a row, behind [`CLAIMED`].
const CLAIMED_ADDRESS: usize = 20;

/// What is read of a message that is shown. Its one parameter is the largest payload, -1 for none.
pub(super) const SHOWN: &str = "id, {text project}, {text source}, {text topic}, {text msg_key}, {bytes msg_key_bytes},
    {bytes CASE WHEN octet_length(payload) <= ? THEN payload END}, {text headers}, {text state}, priority, epoch, attempts, retries, {text retry}, max_retries,
    {time due_at}, {time created_at}, {time updated_at}, {time finished_at}, {time expires_at}, {text idempotency_key},
    {text error_class}, {text error_code}, {text error_detail}, {text result}, {is-listed},
    octet_length(payload)";

/// What is read of a row whose lease ran out.
pub(super) const LAPSED: &str = "id, {text source}, epoch, attempts, {time attempt_started_at}, {text lease_node}, retries, {time expires_at},
    log_count, log_tail, {text log_tail_outcome}, {text retry}, max_retries, {time created_at}, {time due_at}, {time {now}}";

/// The SQL of a verb's row: what is wrong with the row, for people.
type Wrong = (&'static str, String);

fn wrong(column: &str) -> impl Fn(Bad) -> Wrong {
    move |Bad(detail)| ("invalid_row", format!("column {column}: {detail}"))
}

/// A number as the engine counts: nonsense is said, not wrapped.
fn count<D: Dialect>(row: &Row<D>, index: usize, column: &str, usual: i64) -> Result<u32, Wrong> {
    let number = D::int(row, index).map_err(wrong(column))?.unwrap_or(usual);
    u32::try_from(number)
        .ok()
        .filter(|number| *number < u32::MAX)
        .ok_or_else(|| ("invalid_row", format!("column {column}: {number} is out of range")))
}

/// A number as near as the engine can hold it.
pub(super) fn about<D: Dialect>(row: &Row<D>, index: usize) -> u32 {
    about_or::<D>(row, index, 0)
}

fn about_or<D: Dialect>(row: &Row<D>, index: usize, usual: i64) -> u32 {
    let number = D::int(row, index).ok().flatten().unwrap_or(usual);
    u32::try_from(number.max(0)).unwrap_or(u32::MAX - 1)
}

/// What a query of one number answered.
pub(super) fn number<D: Dialect>(rows: &[Row<D>]) -> Option<i64> {
    rows.first().and_then(|row| D::int(row, 0).ok().flatten())
}

/// A time that a row must hold.
fn time<D: Dialect>(row: &Row<D>, index: usize, column: &str) -> Result<Option<DateTime<Utc>>, Wrong> {
    let Some(micros) = D::time(row, index).map_err(wrong(column))? else { return Ok(None) };
    moment(micros).map(Some).ok_or_else(|| ("invalid_row", format!("column {column}: is no time that a calendar knows")))
}

/// The last second of the year 9999, since 1970.
pub(super) const LAST_SECOND: i64 = 253_402_300_799;

/// A time in microseconds since 1970, within the years that every database and calendar here knows.
pub(super) fn moment(micros: i64) -> Option<DateTime<Utc>> {
    use chrono::Datelike;
    DateTime::from_timestamp_micros(micros).filter(|at| (0..=9999).contains(&at.year()))
}

/// An age limit. One after all calendars, as PostgreSQL's `infinity` is, is as good as none; one before them has passed.
fn age_limit(micros: i64) -> DateTime<Utc> {
    let clamped = || DateTime::from_timestamp(if micros < 0 { 0 } else { LAST_SECOND }, 0);
    moment(micros).or_else(clamped).unwrap_or_default()
}

/// A time, if the row holds one.
pub(super) fn maybe_time<D: Dialect>(row: &Row<D>, index: usize) -> Option<DateTime<Utc>> {
    D::time(row, index).ok().flatten().and_then(moment)
}

/// A time as near as a calendar can hold it.
pub(super) fn about_time<D: Dialect>(row: &Row<D>, index: usize) -> DateTime<Utc> {
    maybe_time::<D>(row, index).unwrap_or_default()
}

/// A text, if the row holds one.
pub(super) fn maybe_text<D: Dialect>(row: &Row<D>, index: usize) -> Option<String> {
    D::text(row, index).ok().flatten()
}

/// The texts of rows of one, without those that hold none.
pub(super) fn texts<D: Dialect>(rows: &[Row<D>]) -> Vec<String> {
    rows.iter().filter_map(|row| maybe_text::<D>(row, 0)).collect()
}

/// What a message overrides. The column that applications write goes first; absurd numbers count as the nearest that makes sense.
fn policy<D: Dialect>(row: &Row<D>, retry: usize, max_retries: usize) -> Result<retry::Overrides, Wrong> {
    let text = D::text(row, retry).map_err(wrong("retry"))?;
    let mut overrides = match &text {
        Some(text) => serde_json::from_str::<retry::Config>(text).map_err(|error| ("invalid_row", format!("column retry: {error}")))?.overrides(),
        None => None,
    };
    if let Some(number) = D::int(row, max_retries).map_err(wrong("max_retries"))? {
        overrides.get_or_insert_default().max_retries = Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX).min(retry::MOST_RETRIES));
    }
    Ok(overrides)
}

pub(super) fn standing<D: Dialect>(row: &Row<D>, retries: u32, expires_at: Option<DateTime<Utc>>, log: usize) -> Standing {
    let outcome = maybe_text::<D>(row, log + 2).and_then(|text| text.parse::<AttemptOutcome>().ok());
    let logged = about::<D>(row, log);
    let last_entry = outcome.filter(|_| logged > 0).map(|outcome| Entry { number: about::<D>(row, log + 1), outcome });
    Standing { retries, expires_at, logged, last_entry }
}

fn key<D: Dialect>(row: &Row<D>, text: usize) -> Result<Option<Key>, Wrong> {
    match D::bytes(row, text + 1).map_err(wrong("msg_key_bytes"))? {
        Some(bytes) => Ok(Some(Key::Binary(bytes.into()))),
        None => Ok(D::text(row, text).map_err(wrong("msg_key"))?.map(Key::Text)),
    }
}

/// A claimed row, whose id is still to be filled in.
pub(super) fn claimed<D: Dialect>(row: &Row<D>, project: &Arc<str>, source: &Arc<str>, max_payload: u64) -> Result<Box<Ready>, Unusable> {
    ready::<D>(row, project, source, max_payload).map_err(|(code, detail)| Unusable {
        id: Uuid::nil(),
        epoch: about_or::<D>(row, 7, 1),
        attempt: about_or::<D>(row, 8, 1),
        code,
        detail,
    })
}

fn ready<D: Dialect>(row: &Row<D>, project: &Arc<str>, source: &Arc<str>, max_payload: u64) -> Result<Box<Ready>, Wrong> {
    let size = D::int(row, CLAIMED_SIZE).map_err(wrong("payload"))?;
    if let Some(size) = size
        && u64::try_from(size).unwrap_or(0) > max_payload
    {
        return Err(("payload_too_large", format!("the payload has {size} bytes; at most {max_payload} are sent")));
    }
    let headers = match D::text(row, 6).map_err(|Bad(detail)| ("invalid_headers", detail))? {
        Some(text) => Headers::from_json(&text).map_err(|detail| ("invalid_headers", detail))?,
        None => Headers::default(),
    };
    let (epoch, attempt) = (count::<D>(row, 7, "epoch", 1)?, count::<D>(row, 8, "attempts", 1)?);
    let retries = count::<D>(row, 9, "retries", 0)?;
    if attempt == 0 || attempt > i32::MAX.unsigned_abs() {
        // The claim raises no number out of this range.
        return Err(("invalid_row", "column attempts: is out of range".to_owned()));
    }
    let expires_at = D::time(row, 10).map_err(wrong("expires_at"))?.map(age_limit);
    let message = Message {
        id: Uuid::nil(),
        project: project.clone(),
        source: source.clone(),
        topic: D::text(row, 1).map_err(wrong("topic"))?,
        key: key::<D>(row, 2)?,
        payload: D::bytes(row, 4).map_err(wrong("payload"))?.map(Bytes::from),
        headers,
        epoch,
        attempt,
        began_at: None,
    };
    Ok(Box::new(Ready {
        message,
        standing: standing::<D>(row, retries, expires_at, 11),
        retry: policy::<D>(row, 14, 15)?,
        created_at: time::<D>(row, 16, "created_at")?.unwrap_or_default(),
        due_at: time::<D>(row, CLAIMED_DUE, "due_at")?.unwrap_or_default(),
        ordered: D::int(row, 18).ok().flatten() == Some(1),
        address: D::address(row, CLAIMED_ADDRESS),
    }))
}

/// A row whose lease ran out: whatever it holds, it is ours to decide.
pub(super) fn lapsed<D: Dialect>(row: &Row<D>, id: Uuid) -> crate::store::Lapsed {
    let begun = maybe_time::<D>(row, 4);
    crate::store::Lapsed {
        id,
        source: maybe_text::<D>(row, 1).unwrap_or_default().into(),
        epoch: about::<D>(row, 2),
        attempt: if begun.is_some() { about::<D>(row, 3) } else { 0 },
        started_at: begun.unwrap_or_else(|| about_time::<D>(row, 15)),
        node: maybe_text::<D>(row, 5).unwrap_or_default().into(),
        standing: standing::<D>(row, about::<D>(row, 6), D::time(row, 7).ok().flatten().map(age_limit), 8),
        retry: policy::<D>(row, 11, 12).unwrap_or_default(),
        created_at: about_time::<D>(row, 13),
        due_at: about_time::<D>(row, 14),
    }
}

/// The state of a row. One that is none counts as waiting.
pub(super) fn state(text: Option<&str>) -> State {
    text.and_then(|text| text.parse().ok()).unwrap_or(State::Pending)
}

fn last_error<D: Dialect>(row: &Row<D>, class: usize) -> Option<LastError> {
    let text = |index| maybe_text::<D>(row, index).unwrap_or_default();
    maybe_text::<D>(row, class).map(|class_name| LastError { class: class_name, code: text(class + 1), detail: text(class + 2) })
}

/// A message that is shown: what can't be read is left out.
pub(super) fn shown<D: Dialect>(row: &Row<D>) -> Option<Record> {
    let id = match D::id(row, 0).ok()? {
        Id::Known(id) => id,
        Id::Text(text) => Uuid::try_parse(&text).ok()?,
        Id::Bytes(_) | Id::Raw(_) => return None,
    };
    // A message that a sheet holds is being sent, though its row does not say so.
    let listed = D::int(row, 25).ok().flatten() == Some(1);
    Some(Record {
        id,
        project: maybe_text::<D>(row, 1).unwrap_or_default(),
        source: maybe_text::<D>(row, 2).unwrap_or_default(),
        topic: maybe_text::<D>(row, 3),
        key: key::<D>(row, 4).ok().flatten(),
        payload: D::bytes(row, 6).ok().flatten().map(Bytes::from),
        payload_bytes: D::int(row, 26).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok()),
        headers: maybe_text::<D>(row, 7),
        state: if listed { State::Sending } else { state(maybe_text::<D>(row, 8).as_deref()) },
        priority: u8::try_from(D::int(row, 9).ok().flatten().unwrap_or(0).clamp(0, 9)).unwrap_or(0),
        epoch: about::<D>(row, 10),
        attempts: about::<D>(row, 11).saturating_add(u32::from(listed)),
        retries: about::<D>(row, 12),
        retry: policy::<D>(row, 13, 14).unwrap_or_default(),
        due_at: maybe_time::<D>(row, 15),
        created_at: about_time::<D>(row, 16),
        updated_at: about_time::<D>(row, 17),
        finished_at: maybe_time::<D>(row, 18),
        expires_at: maybe_time::<D>(row, 19),
        idempotency_key: maybe_text::<D>(row, 20),
        last_error: last_error::<D>(row, 21),
        result: maybe_text::<D>(row, 24),
    })
}

/// What is read of an entry of the attempt log.
pub(super) const LOGGED: &str = "epoch, number, attempts, {text node}, {time started_at}, {time last_at}, duration_ms, {text outcome},
    {text error_class}, {text error_code}, {text error_detail}, {text result}";

/// An entry of the attempt log.
pub(super) fn logged<D: Dialect>(row: &Row<D>) -> Attempt {
    Attempt {
        epoch: about::<D>(row, 0),
        number: about::<D>(row, 1),
        count: about::<D>(row, 2),
        node: maybe_text::<D>(row, 3).unwrap_or_default(),
        started_at: about_time::<D>(row, 4),
        last_at: maybe_time::<D>(row, 5),
        duration: std::time::Duration::from_millis(u64::from(about::<D>(row, 6))),
        outcome: maybe_text::<D>(row, 7).and_then(|text| text.parse().ok()).unwrap_or(AttemptOutcome::Lost),
        error: last_error::<D>(row, 8),
        result: maybe_text::<D>(row, 11),
    }
}
