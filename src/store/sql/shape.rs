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
    ELSE level IS NOT NULL AND epoch = b_epoch AND {raised} = b_attempt AND {listed} END";
/// The sheet names it. The parameter is a batch of the tokens.
pub(super) const LISTED: &str = "(b_token, b_id) IN (SELECT s.token, {named} WHERE s.token {in SELECT t_token FROM {table t t_token:int}})";
/// The same where changes are several statements anyway: the sheets were read before. MySQL would lock them, after rows, and so wait for others
/// crosswise.
pub(super) const LISTED_BEFORE: &str = "b_listed = 1";

/// The number of attempts once a claim has raised it. One that is nonsense stays as it is: the row is found unusable, and no sum runs over.
pub(super) const RAISED: &str = "CASE WHEN attempts BETWEEN 0 AND 2147483646 THEN attempts + 1 ELSE attempts END";

/// Follows a batch `b` in a join: the rows that it names. MySQL is told to read them by their key: it would read, and so lock, the whole of a
/// small table.
pub(super) const NAMED: &str = "{join} {log} l {by-key} ON l.id = b.b_id";

/// The parameters of a change, those of SET and its batch, in the order in which its SQL names them.
pub(super) fn in_order<'a, D: Dialect>(set: &[Value<'a>], batch: &'a Batch<'a>) -> Vec<Value<'a>> {
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
    /// What must hold of the row, a CASE where it is about the state or the time: else a planner that believes such rows to be few reads all of them
    /// for each row of the batch.
    pub(super) condition: &'static str,
}

impl Matched<'_> {
    /// Runs it, with the parameters of SET; answers the ids of the rows that it changed.
    pub(super) async fn run<D: Dialect>(&self, session: &mut Session<D>, batch: &Batch<'_>, lead: &[Value<'_>]) -> Result<Vec<Uuid>, Fail> {
        self.run_if(session, batch, lead, &[]).await
    }

    /// The same, with the parameters of the condition too; only where changes answer their rows.
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

    /// Makes the change. Where it answers no rows, their number tells: nearly always all that a batch names are changed. Only if not, the change
    /// is taken back and made once more on rows that were looked at and locked.
    async fn change<D: Dialect>(
        &self,
        session: &mut Session<D>,
        batch: &Batch<'_>,
        values: &[Value<'_>],
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
        let ids = known::<D>(&session.rows(lock, &[Value::Batch(batch)]).await?);
        if !ids.is_empty() {
            session.execute(change, values).await?;
        }
        Ok(ids)
    }
}

/// Changes the rows that a query picks, and reads what they hold. What is read is nothing that SET changes.
pub(super) struct Picked {
    /// The names of the statement and of the locking query.
    pub(super) names: [&'static str; 2],
    /// The query from FROM on, up to its lock.
    pub(super) from: &'static str,
    /// What SET says.
    pub(super) set: &'static str,
    /// What is read of each row, `id` first.
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
