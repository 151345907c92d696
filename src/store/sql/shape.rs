//! The two shapes in which rows are changed: those that a batch names, and those that a query picks.
//!
//! Where changes answer their rows, each is one statement; elsewhere it is a few of one transaction.

use sqlx::Row as _;
use uuid::Uuid;

use super::dialect::{Bad, Batch, Dialect, Row, Value, known};
use super::pool::{Fail, Session};
use crate::store::Error;

/// What must hold of a message that is held, in a batch with `b_token`. Written so that no planner takes it for a way to find the rows: by
/// statistics of a quiet hour it would read all that are being sent, for each row of the batch.
pub(super) const HELD: &str = "CASE WHEN state = 'sending' THEN lease_token END = b_token";

/// The same where a [sheet](super::sheet) may hold it instead of its own row: the sheet names it, and no attempt came after this one. The batch
/// has `b_epoch` and `b_attempt` too.
pub(super) const HELD_OR_LISTED: &str = "CASE WHEN state = 'sending' THEN lease_token = b_token
    ELSE level IS NOT NULL AND epoch = b_epoch AND {raised} = b_attempt
        AND (b_token, b_id) IN (SELECT s.token, {on-sheets} WHERE s.token {in SELECT t_token FROM {table t t_token:int}}) END";

/// Follows a batch `b` in a join: the rows that it names. MySQL is told to read them by their key: it would read, and so lock, the whole of a
/// small table.
pub(super) const NAMED: &str = "{join} {log} l {by-key} ON l.id = b.b_id";

/// The parameters of a change, those of SET and its batch, in the order in which its SQL names them.
fn in_order<'a, D: Dialect>(set: &[Value<'a>], batch: &'a Batch<'a>) -> Vec<Value<'a>> {
    let batch = [Value::Batch(batch)];
    if D::JOINED { [&batch, set].concat() } else { [set, &batch].concat() }
}

/// Changes the rows that a batch names, or deletes them. The batch's first column is `b_id`.
pub(super) struct Matched<'a> {
    /// The statement's name, and that of the locking query.
    pub(super) names: [&'static str; 2],
    /// The batch's columns, as `{table b …}` takes them.
    pub(super) columns: &'a str,
    /// What SET says; nothing where the rows are deleted.
    pub(super) set: &'static str,
    /// What must hold of the row.
    pub(super) condition: &'static str,
}

impl Matched<'_> {
    /// Runs it, with the parameters of SET; answers the ids of the rows that it changed.
    pub(super) async fn run<D: Dialect>(&self, session: &mut Session<D>, batch: &Batch<'_>, lead: &[Value<'_>]) -> Result<Vec<Uuid>, Fail> {
        self.run_if(session, batch, lead, &[]).await
    }

    /// The same, with the parameters of the condition too.
    pub(super) async fn run_if<D: Dialect>(
        &self,
        session: &mut Session<D>,
        batch: &Batch<'_>,
        lead: &[Value<'_>],
        tail: &[Value<'_>],
    ) -> Result<Vec<Uuid>, Fail> {
        let Self { columns, set, condition, .. } = self;
        self.change(session, batch, &[&in_order::<D>(lead, batch), tail].concat(), tail, || match (set.is_empty(), D::JOINED) {
            (false, true) => format!("UPDATE {{table b {columns}}} {NAMED} SET {set} WHERE {condition}"),
            (false, false) => format!("UPDATE {{log}} AS l SET {set} FROM {{table b {columns}}} WHERE l.id = b.b_id AND {condition}"),
            (true, true) => format!("DELETE l FROM {{table b {columns}}} {NAMED} WHERE {condition}"),
            (true, false) if D::DELETE_USING => {
                format!("DELETE FROM {{log}} AS l USING {{table b {columns}}} WHERE l.id = b.b_id AND {condition}")
            }
            (true, false) => format!("DELETE FROM {{log}} WHERE {{row}} IN (SELECT l.{{row}} FROM {{table b {columns}}} {NAMED} WHERE {condition})"),
        })
        .await
    }

    /// Makes the change. Where it answers no rows, their number tells: nearly always all that a batch names are changed. Only if not, the change
    /// is taken back and made once more on rows that were looked at and locked.
    async fn change<D: Dialect>(
        &self,
        session: &mut Session<D>,
        batch: &Batch<'_>,
        values: &[Value<'_>],
        tail: &[Value<'_>],
        change: impl FnOnce() -> String,
    ) -> Result<Vec<Uuid>, Fail> {
        let Self { names, columns, condition, .. } = self;
        if D::RETURNING {
            // One row of all ids, not a row each, which would cost either side more.
            let sql = session.sql(names[0], || format!("WITH changed AS ({} RETURNING id) SELECT array_agg(id) FROM changed", change()));
            let rows = session.rows(sql, values).await?;
            let ids = rows.first().map_or(Ok(Vec::new()), |row| D::ids(row, 0));
            return ids.map_err(|Bad(detail)| Error::Refused(format!("the ids of changed rows can't be read: {detail}")).into());
        }
        let change = session.sql(names[0], change);
        session.script("SAVEPOINT untouched".to_owned()).await?;
        if session.execute(change.clone(), values).await? == batch.rows as u64 {
            return Ok(batch.named());
        }
        session.script("ROLLBACK TO SAVEPOINT untouched".to_owned()).await?;
        let lock = session.sql(names[1], || format!("SELECT id FROM {{table b {columns}}} {NAMED} WHERE {condition} {{lock}}"));
        let ids = known::<D>(&session.rows(lock, &[&[Value::Batch(batch)], tail].concat()).await?);
        if !ids.is_empty() {
            session.execute(change, values).await?;
        }
        Ok(ids)
    }
}

/// Changes the rows that a query picks, and reads what they hold. What is read is nothing that SET changes, but for `{raised}`.
pub(super) struct Picked {
    /// The names of the statement, the locking query and the reading one.
    pub(super) names: [&'static str; 3],
    /// The query from FROM on, up to its lock.
    pub(super) from: &'static str,
    /// What SET says.
    pub(super) set: &'static str,
    /// What is read of each row, `id` first. Where payloads are read, its one parameter is the largest.
    pub(super) columns: &'static str,
}

/// The parameters of a [`Picked`].
pub(super) struct Parameters<'a> {
    /// Those of the query.
    pub(super) pick: &'a [Value<'a>],
    pub(super) set: &'a [Value<'a>],
    /// Where payloads are read.
    pub(super) cut: Option<Cut>,
}

/// The bounds on what a [`Picked`] reads, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// The largest payload that is read.
    pub(super) payload: i64,
    /// Rows are cut off, the latest due first, where their payloads add up to more.
    pub(super) most: i64,
}

/// What a row weighs at a cut. The parameter is the largest payload that is read.
pub(super) const WEIGHT: &str = "coalesce(CASE WHEN octet_length(payload) <= ? THEN octet_length(payload) END, 0)";
/// The number of attempts once a claim has raised it. One that is nonsense stays as it is: the row is found unusable, and no sum runs over.
pub(super) const RAISED: &str = "CASE WHEN attempts BETWEEN 0 AND 2147483646 THEN attempts + 1 ELSE attempts END";
/// Payloads up to so many bytes come with the lock; larger ones are read once the cut is made, to bound memory.
pub(super) const WITH_LOCK: i64 = 16 << 10;

/// The rows that were picked by a statement before, from a batch of what names them.
pub(super) const PICKED: &str = "{table b b_row:id} {join} {log} l {by-key} ON l.{row} = b.b_row";

/// The rows that fit the bounds, the first in any case, and whether the payload of each is still to be read. Their last columns are what a row
/// weighs and what names it.
pub(super) fn fitting<D: Dialect>(rows: Vec<Row<D>>, cut: Option<Cut>) -> Vec<(Row<D>, bool)> {
    let (mut fit, mut total) = (Vec::with_capacity(rows.len()), 0_i64);
    for row in rows {
        let size = D::int(&row, row.len() - 2).ok().flatten().unwrap_or(0);
        total = total.saturating_add(size);
        if cut.is_some_and(|cut| total > cut.most) && !fit.is_empty() {
            break;
        }
        fit.push((row, size > WITH_LOCK));
    }
    fit
}

impl Picked {
    pub(super) async fn run<D: Dialect>(&self, session: &mut Session<D>, parameters: &Parameters<'_>) -> Result<Vec<Row<D>>, Fail> {
        if D::RETURNING { self.at_once(session, parameters).await } else { self.step_by_step(session, parameters).await }
    }

    async fn at_once<D: Dialect>(&self, session: &mut Session<D>, parameters: &Parameters<'_>) -> Result<Vec<Row<D>>, Fail> {
        let Self { names, from, set, columns } = self;
        let sql = session.sql(names[0], || {
            // What it was raised to.
            let columns = columns.replace("{raised}", "attempts");
            format!("WITH picked AS (SELECT id {from} {{skip}}) UPDATE {{log}} SET {set} WHERE id {{in SELECT id FROM picked}} RETURNING {columns}")
        });
        Ok(session.rows(sql, &[parameters.pick, parameters.set].concat()).await?)
    }

    async fn step_by_step<D: Dialect>(&self, session: &mut Session<D>, parameters: &Parameters<'_>) -> Result<Vec<Row<D>>, Fail> {
        let Self { names, from, set, columns } = self;
        let Parameters { pick, set: set_values, cut } = *parameters;
        let size = if cut.is_some() { WEIGHT } else { "0" };
        let lock = session.sql(names[1], || format!("SELECT {columns}, {size}, {{text {{row}}}} {from} {{skip}}"));
        // What is read with the lock, and what a row weighs.
        let payloads = cut.map(|cut| [Value::Int(cut.payload.min(WITH_LOCK)), Value::Int(cut.payload)]);
        let values: Vec<_> = payloads.into_iter().flatten().chain(pick.iter().copied()).collect();
        let locked = session.rows(lock, &values).await?;
        let (mut rows, mut named, mut large) = (Vec::with_capacity(locked.len()), Vec::with_capacity(locked.len()), Vec::new());
        for (row, is_large) in fitting::<D>(locked, cut) {
            let Some(name) = D::text(&row, row.len() - 1).ok().flatten() else { continue };
            if is_large {
                large.push(name.clone());
            } else {
                rows.push(row);
            }
            named.push(name);
        }
        if named.is_empty() {
            return Ok(rows);
        }
        let change = session.sql(names[0], || {
            if D::JOINED {
                format!("UPDATE {PICKED} SET {set}")
            } else {
                format!("UPDATE {{log}} SET {set} WHERE {{row}} IN (SELECT b_row FROM {{table b b_row:id}})")
            }
        });
        let named = Batch::texts(named.iter().map(String::as_str));
        session.execute(change, &in_order::<D>(set_values, &named)).await?;
        if !large.is_empty() {
            let read = session.sql(names[2], || format!("SELECT {} FROM {PICKED}", columns.replace("{raised}", "attempts")));
            let named = Batch::texts(large.iter().map(String::as_str));
            let values: Vec<_> = cut.map(|cut| Value::Int(cut.payload)).into_iter().chain([Value::Batch(&named)]).collect();
            rows.extend(session.rows(read, &values).await?);
        }
        Ok(rows)
    }
}
