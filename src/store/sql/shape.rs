//! The two ways in which rows are changed: those that a batch names, and those that a query picks.
//!
//! Where changes return their rows, each is one statement; elsewhere it is several in one transaction.

use sqlx::Row as _;
use uuid::Uuid;

use super::dialect::{Bad, Batch, Dialect, Row, Value, known};
use super::pool::{Fail, Session};
use crate::store::Error;

/// The condition for a message that is held, in a batch with `b_token`. It is a CASE so that no planner uses it to find the rows: misled by the
/// statistics of a quiet hour, it would read every row that is being sent for each row of the batch.
pub(super) const HELD: &str = "CASE WHEN state = 'sending' THEN lease_token END = b_token";

/// The condition where a [sheet](super::sheet) may hold the message instead of its own row: the sheet names it, and no later attempt has begun. The
/// batch needs `b_epoch` and `b_attempt` too.
pub(super) const HELD_OR_LISTED: &str = "CASE WHEN state = 'sending' THEN lease_token = b_token
    ELSE level IS NOT NULL AND epoch = b_epoch AND {raised} = b_attempt AND {listed} END";
/// True if the sheet names the message. The parameter is a batch of tokens.
pub(super) const LISTED: &str = "(b_token, b_id) IN (SELECT s.token, {named} WHERE s.token {in SELECT t_token FROM {table t t_token:int}})";
/// The same where a change is several statements anyway, and the sheets were read beforehand. As a subquery, MySQL would lock the sheets after the
/// rows, and so might deadlock with others.
pub(super) const LISTED_BEFORE: &str = "b_listed = 1";

/// The number of attempts after a claim has raised it. A nonsensical number stays as it is: the row is found to be unusable, and no sum overflows.
pub(super) const RAISED: &str = "CASE WHEN attempts BETWEEN 0 AND 2147483646 THEN attempts + 1 ELSE attempts END";

/// Joins a batch `b` to the rows that it names. MySQL is made to read them by their key: otherwise it would read, and so lock, the whole of a small
/// table.
pub(super) const NAMED: &str = "{join} {log} l {by-key} ON l.id = b.b_id";

/// The parameters of a change, those of SET and its batch, in the order in which its SQL names them.
pub(super) fn in_order<'a, D: Dialect>(set: &[Value<'a>], batch: &'a Batch<'a>) -> Vec<Value<'a>> {
    let batch = [Value::Batch(batch)];
    if D::JOINED { [&batch, set].concat() } else { [set, &batch].concat() }
}

/// Changes or deletes the rows that a batch names. The batch's first column is `b_id`.
pub(super) struct Matched<'a> {
    /// The names of the statement and of the locking query.
    pub(super) names: [&'static str; 2],
    /// The columns of the batch, as `{table b …}` takes them.
    pub(super) columns: &'a str,
    /// The SET clause; empty if the rows are deleted.
    pub(super) set: &'static str,
    /// The condition on the row. It must be a CASE if it is about the state or a time: otherwise a planner that believes such rows to be few reads
    /// all of them for each row of the batch.
    pub(super) condition: &'static str,
}

impl Matched<'_> {
    /// Runs it, with the parameters of SET; returns the ids of the rows that it changed.
    pub(super) async fn run<D: Dialect>(&self, session: &mut Session<D>, batch: &Batch<'_>, lead: &[Value<'_>]) -> Result<Vec<Uuid>, Fail> {
        self.run_if(session, batch, lead, &[]).await
    }

    /// As [`Self::run`], with parameters for the condition too; only where changes return their rows.
    pub(super) async fn run_if<D: Dialect>(
        &self,
        session: &mut Session<D>,
        batch: &Batch<'_>,
        lead: &[Value<'_>],
        tail: &[Value<'_>],
    ) -> Result<Vec<Uuid>, Fail> {
        let Self { columns, set, condition, .. } = self;
        self.change(session, batch, &[&in_order::<D>(lead, batch), tail].concat(), || match (set.is_empty(), D::JOINED) {
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

    /// Makes the change. Where it can't return rows, their number decides: nearly always every row that the batch names was changed. Only if not, the
    /// change is undone and made again on rows that were checked and locked.
    async fn change<D: Dialect>(
        &self,
        session: &mut Session<D>,
        batch: &Batch<'_>,
        values: &[Value<'_>],
        change: impl FnOnce() -> String,
    ) -> Result<Vec<Uuid>, Fail> {
        let Self { names, columns, condition, .. } = self;
        if D::RETURNING {
            // One row with all ids, not a row for each, which would be more expensive on both sides.
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
        let ids = known::<D>(&session.rows(lock, &[Value::Batch(batch)]).await?);
        if !ids.is_empty() {
            session.execute(change, values).await?;
        }
        Ok(ids)
    }
}

/// Changes the rows that a query picks, and reads them. SET must not change any column that is read.
pub(super) struct Picked {
    /// The names of the statement and of the locking query.
    pub(super) names: [&'static str; 2],
    /// The query from FROM on, without its locking clause.
    pub(super) from: &'static str,
    /// The SET clause.
    pub(super) set: &'static str,
    /// The columns to read, `id` first.
    pub(super) columns: &'static str,
}

impl Picked {
    /// Runs it, with the parameters of the query and those of SET.
    pub(super) async fn run<D: Dialect>(&self, session: &mut Session<D>, from: &[Value<'_>], set: &[Value<'_>]) -> Result<Vec<Row<D>>, Fail> {
        if D::RETURNING { self.at_once(session, &[from, set].concat()).await } else { self.step_by_step(session, from, set).await }
    }

    async fn at_once<D: Dialect>(&self, session: &mut Session<D>, values: &[Value<'_>]) -> Result<Vec<Row<D>>, Fail> {
        let Self { names, from, set, columns } = self;
        let sql = session.sql(names[0], || {
            format!("WITH picked AS (SELECT id {from} {{skip}}) UPDATE {{log}} SET {set} WHERE id {{in SELECT id FROM picked}} RETURNING {columns}")
        });
        Ok(session.rows(sql, values).await?)
    }

    async fn step_by_step<D: Dialect>(
        &self,
        session: &mut Session<D>,
        from_values: &[Value<'_>],
        set_values: &[Value<'_>],
    ) -> Result<Vec<Row<D>>, Fail> {
        let Self { names, from, set, columns } = self;
        let lock = session.sql(names[1], || format!("SELECT {columns}, {{text {{row}}}} {from} {{skip}}"));
        let rows = session.rows(lock, from_values).await?;
        let named: Vec<_> = rows.iter().filter_map(|row| D::text(row, row.len() - 1).ok().flatten()).collect();
        if named.is_empty() {
            return Ok(rows);
        }
        let change = session.sql(names[0], || {
            if D::JOINED {
                format!("UPDATE {{table b b_row:id}} {{join}} {{log}} l {{by-key}} ON l.{{row}} = b.b_row SET {set}")
            } else {
                format!("UPDATE {{log}} SET {set} WHERE {{row}} IN (SELECT b_row FROM {{table b b_row:id}})")
            }
        });
        let named = Batch::texts(named.iter().map(String::as_str));
        session.execute(change, &in_order::<D>(set_values, &named)).await?;
        Ok(rows)
    }
}
