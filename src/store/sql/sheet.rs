//! Sheets: a claim is one row, the sheet, that names the messages it took.
//!
//! Marking each message as being sent would write its row, payload and all, only to write it again or delete it a moment later. So a claim leaves the
//! rows alone. A message is held if it waits and a sheet names it. Where that is needed, because its lease has run out or its attempt failed, it is
//! [written out](write_out), and then held by its own row like any other.
//!
//! This is safe because:
//! - Claims of a source are made [one at a time](turn), and each sees the sheets of those before it.
//! - They lock the rows that they take, so anybody else who changes one either did so before, or does so after and sees the sheet.
//! - An attempt is on record from its claim on: the sheet is its record, and its number is one more than the row has.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::decode;
use super::dialect::{Batch, Dialect, Row, Value, known};
use super::insert::micros;
use super::part::{self, Parts};
use super::pool::{Fail, Session};
use super::shape::{self, Matched, in_order};
use crate::store::{Claim, Error, Held, Mark};

/// At most this many expired sheets are looked at together.
const LAPSED: i64 = 4;
/// This many messages are written out for each that is taken at once, so that the next ones are found without looking at sheets.
const WRITTEN: usize = 8;

/// Takes the turn of a source: until the transaction ends, nobody else can claim from it, and all earlier claims are visible. The turn is a row that
/// is locked and never changed: versions of it would pile up behind a snapshot that somebody holds.
pub(super) async fn turn<D: Dialect>(session: &mut Session<D>, project: &str, source: &str) -> Result<(), Fail> {
    if D::LOCK.is_empty() {
        // There is a single writer.
        return Ok(());
    }
    let take = session.sql("turn", || "SELECT 1 FROM {turn} AS l WHERE project = ? AND source = ? {lock}".to_owned());
    let values = [Value::Text(project), Value::Text(source)];
    if session.rows(take.clone(), &values).await?.is_empty() {
        let make = session.sql("turn_make", || {
            let same = [("source", D::proposed("source"))];
            format!("INSERT INTO {{turn}} {} (project, source) VALUES (?, ?) {}", D::AS_OLD, D::upsert("project, source", &same))
        });
        session.execute(make, &values).await?;
        session.rows(take, &values).await?;
    }
    Ok(())
}

/// Writes the sheet of a claim: what it took, and where it ended.
pub(super) async fn write<D: Dialect>(session: &mut Session<D>, claim: &Claim, ids: &[Uuid], last: Mark) -> Result<(), Fail> {
    let sql = session.sql("sheet", || {
        "INSERT INTO {sheet} (token, project, source, level, node, begun_at, lease_until, last_due, last_row, ids)
         VALUES (?, ?, ?, ?, ?, {now}, {plus {now}|?}, ?, ?, ?)"
            .to_owned()
    });
    let values = [
        Value::Int(claim.lease.token),
        Value::Text(&claim.project),
        Value::Text(&claim.source),
        Value::Int(i64::from(claim.level)),
        Value::Text(&claim.lease.node),
        Value::Int(micros(claim.lease.ttl)),
        Value::Time(Some(last.due_at)),
        Value::Tie(last.row),
        Value::Ids(ids),
    ];
    session.execute(sql, &values).await?;
    Ok(())
}

/// Deletes sheets under which nothing is held any more.
pub(super) async fn close<D: Dialect>(session: &mut Session<D>, tokens: Vec<i64>) -> Result<(), Fail> {
    let sql = session
        .sql("sheet_close", || if D::JOINED { format!("DELETE l FROM {NAMED}") } else { format!("DELETE FROM {{sheet}} WHERE {TOKEN_NAMED}") });
    session.execute(sql, &[Value::Batch(&Batch::ints(tokens))]).await?;
    Ok(())
}

/// A sheet as it was read.
struct Sheet {
    token: i64,
    node: String,
    begun_at: Option<DateTime<Utc>>,
    lease_until: Option<DateTime<Utc>>,
    ids: Vec<Uuid>,
}

/// The sheets that a batch of tokens names.
const NAMED: &str = "{table b b_token:int} {join} {sheet} l {by-key} ON l.token = b.b_token";
/// The condition for them, where a change does not join.
const TOKEN_NAMED: &str = "token {in SELECT b_token FROM {table b b_token:int}}";

const SHEET: &str = "token, {text node}, {time begun_at}, {time lease_until}, {text ids}";

fn read<D: Dialect>(row: &Row<D>) -> Result<Sheet, Fail> {
    let ids = D::ids(row, 4).map_err(|bad| Error::Refused(format!("the sheet of a claim can't be read: {}", bad.0)))?;
    Ok(Sheet {
        token: D::int(row, 0).ok().flatten().unwrap_or(0),
        node: decode::maybe_text::<D>(row, 1).unwrap_or_default(),
        begun_at: decode::maybe_time::<D>(row, 2),
        lease_until: decode::maybe_time::<D>(row, 3),
        ids,
    })
}

/// The tokens under which messages are held, without duplicates.
pub(super) fn tokens<'a>(held: impl Iterator<Item = &'a Held>) -> Batch<'static> {
    let mut tokens: Vec<_> = held.map(|held| held.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    Batch::ints(tokens)
}

/// Locks the sheets under whose tokens messages are held, in the order of the tokens.
async fn lock<D: Dialect>(session: &mut Session<D>, held: &[Held]) -> Result<Vec<Sheet>, Fail> {
    let tokens = tokens(held.iter());
    let sql = session.sql("sheets", || format!("SELECT {SHEET} FROM {NAMED} ORDER BY token {{lock}}"));
    session.rows(sql, &[Value::Batch(&tokens)]).await?.iter().map(read::<D>).collect()
}

/// The messages that the sheets with these tokens name at this moment.
pub(super) async fn named<D: Dialect>(session: &mut Session<D>, tokens: &Batch<'_>) -> Result<HashSet<Held>, Fail> {
    let sql = session.sql("sheets_read", || format!("SELECT {SHEET} FROM {NAMED}"));
    let mut named = HashSet::new();
    for row in session.rows(sql, &[Value::Batch(tokens)]).await? {
        let Sheet { token, ids, .. } = read::<D>(&row)?;
        named.extend(ids.into_iter().map(|id| Held { id, token }));
    }
    Ok(named)
}

/// Drops messages from a sheet that it should no longer name.
async fn shorten<D: Dialect>(session: &mut Session<D>, sheet: &Sheet, keep: impl Fn(&Uuid) -> bool) -> Result<(), Fail> {
    let left: Vec<_> = sheet.ids.iter().copied().filter(keep).collect();
    if left.is_empty() {
        return close(session, vec![sheet.token]).await;
    }
    if left.len() < sheet.ids.len() {
        let sql = session.sql("sheet_shorten", || "UPDATE {sheet} SET ids = ? WHERE token = ?".to_owned());
        session.execute(sql, &[Value::Ids(&left), Value::Int(sheet.token)]).await?;
    }
    Ok(())
}

/// Moves messages from sheets to their own rows, which then hold them with the same token: being sent, with the attempt's number taken.
pub(super) async fn write_out<D: Dialect>(session: &mut Session<D>, held: &[Held]) -> Result<(), Fail> {
    for sheet in lock(session, held).await? {
        let asked: HashSet<_> = held.iter().filter(|held| held.token == sheet.token).map(|held| held.id).collect();
        write_rows(session, &sheet, named_of(&sheet, &asked)).await?;
        shorten(session, &sheet, |id| !asked.contains(id)).await?;
    }
    Ok(())
}

/// Writes out the messages on those sheets of a project whose lease has run out. Messages whose rows are locked stay on their sheet until next time:
/// they must not keep the others waiting. Nor must those that the database refuses to change, if it is done in parts.
///
/// Starts behind the sheet with the token `after`, writes out as many messages as suit a transaction that takes over `limit` of them, and returns the
/// token behind which to continue: 0 if there are no more sheets.
pub(super) async fn write_out_lapsed<D: Dialect>(
    session: &mut Session<D>,
    project: &str,
    mut after: i64,
    limit: u32,
    mut parts: Option<&mut Parts>,
) -> Result<i64, Fail> {
    let sql = session.sql("sheets_lapsed", || {
        format!("SELECT {SHEET} FROM {{sheet}} WHERE project = ? AND lease_until <= {{now}} AND token > ? ORDER BY token LIMIT ? {{skip}}")
    });
    let (mut written, mut is_over, most) = (0, false, WRITTEN.saturating_mul(limit as usize));
    // Continues past sheets on which all that remains is locked.
    while written == 0 && !is_over {
        let rows = session.rows(sql.clone(), &[Value::Text(project), Value::Int(after), Value::Int(LAPSED)]).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        for row in rows {
            let sheet = read::<D>(&row)?;
            after = sheet.token;
            let free = free(session, &sheet.ids).await?;
            let mut ids = named_of(&sheet, &free);
            ids.truncate(most.saturating_sub(written));
            match parts.as_deref_mut() {
                None => write_rows(session, &sheet, ids).await?,
                Some(parts) => write_most(session, &sheet, ids, parts).await?,
            }
            let left = waiting(session, &sheet.ids).await?;
            shorten(session, &sheet, |id| left.contains(id)).await?;
            written += sheet.ids.len() - left.len();
            is_over = parts.as_deref().is_some_and(Parts::are_over);
            if written >= most || is_over {
                break;
            }
        }
    }
    Ok(after)
}

/// Moves messages of a sheet to their own rows; the sheet itself stays as it is.
async fn write_rows<D: Dialect>(session: &mut Session<D>, sheet: &Sheet, ids: Vec<Uuid>) -> Result<(), Fail> {
    const WRITE_OUT: Matched = Matched {
        names: ["write_out", "write_out_lock"],
        columns: "b_id:id",
        set: "attempts = {raised}, state = 'sending', lease_token = ?, lease_node = ?, attempt_started_at = ?, lease_until = ?, updated_at = {now}",
        condition: "{waits}",
    };
    let lead = [Value::Int(sheet.token), Value::Text(&sheet.node), Value::Time(sheet.begun_at), Value::Time(sheet.lease_until)];
    if !ids.is_empty() {
        WRITE_OUT.run(session, &Batch::ids(ids), &lead).await?;
    }
    Ok(())
}

/// The same for those that the database accepts: a batch that it refuses is halved.
async fn write_most<D: Dialect>(session: &mut Session<D>, sheet: &Sheet, ids: Vec<Uuid>, parts: &mut Parts) -> Result<(), Fail> {
    let mut left = vec![ids];
    while let Some(mut ids) = left.pop() {
        part::begin(session).await?;
        let written = write_rows(session, sheet, ids.clone()).await;
        if parts.end(session, written).await?.is_none() && ids.len() > 1 {
            let rest = ids.split_off(ids.len() / 2);
            left.extend([rest, ids]);
        }
        // At least one is tried, however long it took to find it.
        if parts.are_over() {
            break;
        }
    }
    Ok(())
}

/// Those of these messages that a sheet names, in the order in which rows are changed everywhere.
fn named_of(sheet: &Sheet, asked: &HashSet<Uuid>) -> Vec<Uuid> {
    let mut ids: Vec<_> = sheet.ids.iter().copied().filter(|id| asked.contains(id)).collect();
    ids.sort_unstable();
    ids
}

/// Extends the leases of sheets, which then name only messages that still wait; returns those of `held` that are on them.
pub(super) async fn renew<D: Dialect>(session: &mut Session<D>, held: &[Held], ttl: Duration) -> Result<HashSet<Held>, Fail> {
    let mut ours = HashSet::new();
    for sheet in lock(session, held).await? {
        let waiting = waiting(session, &sheet.ids).await?;
        shorten(session, &sheet, |id| waiting.contains(id)).await?;
        ours.extend(held.iter().copied().filter(|held| held.token == sheet.token && waiting.contains(&held.id)));
    }
    let sql = session.sql("sheets_renew", || {
        let set = "SET lease_until = {plus {now}|?}";
        if D::JOINED { format!("UPDATE {NAMED} {set}") } else { format!("UPDATE {{sheet}} {set} WHERE {TOKEN_NAMED}") }
    });
    let tokens = tokens(held.iter());
    session.execute(sql, &in_order::<D>(&[Value::Int(micros(ttl))], &tokens)).await?;
    Ok(ours)
}

/// Whatever its state was before, it becomes pending.
const HANDED_BACK: Matched = Matched {
    names: ["handed_back", "handed_back_lock"],
    columns: "b_id:id",
    set: "state = 'pending', updated_at = {now}",
    condition: "{waits} AND state <> 'pending'",
};

/// Hands back messages that sheets hold; returns their ids.
pub(super) async fn release<D: Dialect>(session: &mut Session<D>, held: &[Held]) -> Result<HashSet<Held>, Fail> {
    let mut ours = HashSet::new();
    for sheet in lock(session, held).await? {
        let named: HashSet<_> = sheet.ids.iter().copied().collect();
        let asked: Vec<_> = held.iter().filter(|held| held.token == sheet.token && named.contains(&held.id)).map(|held| held.id).collect();
        let waiting = waiting(session, &asked).await?;
        shorten(session, &sheet, |id| !waiting.contains(id)).await?;
        ours.extend(waiting.into_iter().map(|id| Held { id, token: sheet.token }));
    }
    if !ours.is_empty() {
        let mut ids: Vec<_> = ours.iter().map(|held| held.id).collect();
        ids.sort_unstable();
        HANDED_BACK.run(session, &Batch::ids(ids), &[]).await?;
    }
    Ok(ours)
}

/// Those of these messages that are waiting.
async fn waiting<D: Dialect>(session: &mut Session<D>, ids: &[Uuid]) -> Result<HashSet<Uuid>, Fail> {
    waiting_and(session, ids, "waiting", "").await
}

/// As [`waiting`], locking the rows and leaving out those that somebody else has locked.
async fn free<D: Dialect>(session: &mut Session<D>, ids: &[Uuid]) -> Result<HashSet<Uuid>, Fail> {
    waiting_and(session, ids, "waiting_free", "{lock} {or-skip}").await
}

async fn waiting_and<D: Dialect>(session: &mut Session<D>, ids: &[Uuid], name: &'static str, lock: &str) -> Result<HashSet<Uuid>, Fail> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = session.sql(name, || format!("SELECT id FROM {{table b b_id:id}} {} WHERE {{waits}} {lock}", shape::NAMED));
    let rows = session.rows(sql, &[Value::Batch(&Batch::ids(ids.iter().copied()))]).await?;
    Ok(known::<D>(&rows).into_iter().collect())
}

/// Which of these messages are on sheets. If their rows are locked, this stays true until the transaction ends.
pub(super) async fn on_sheets<D: Dialect>(session: &mut Session<D>, project: &str, ids: &[Uuid]) -> Result<HashSet<Uuid>, Fail> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    // A CASE, so that the sheets are read once. It compares the rows' own ids, which are never NULL, so that MySQL does so too.
    let sql = session.sql("on_sheets", || {
        format!("SELECT id FROM {{table b b_id:id}} {} WHERE CASE WHEN l.id IN ({{on-sheets}} WHERE s.project = ?) THEN 1 END = 1", shape::NAMED)
    });
    let rows = session.rows(sql, &[Value::Batch(&Batch::ids(ids.iter().copied())), Value::Text(project)]).await?;
    Ok(known::<D>(&rows).into_iter().collect())
}
