//! The two shapes in which rows are changed: those that a batch names, and those that a query picks.
//!
//! Where UPDATE answers its rows, each is one statement; on MySQL the rows are locked, changed and read in one transaction.

use std::sync::Arc;

use uuid::Uuid;

use super::dialect::{Batch, Column, Dialect, Id, Row, Value};
use super::pool::{Fail, Session};

/// Changes the rows that a batch names. The batch's first column is `b_id`.
pub(super) struct Matched {
    /// The statement's name, and that of the locking query.
    pub(super) names: [&'static str; 2],
    /// The batch's columns, as `{table b …}` takes them.
    pub(super) columns: &'static str,
    /// What SET says.
    pub(super) set: &'static str,
    /// What must hold of the row.
    pub(super) condition: &'static str,
}

impl Matched {
    /// Runs it; answers the ids of the rows that it changed.
    pub(super) async fn run<D: Dialect>(&self, session: &mut Session<D>, batch: &Batch<'_>, lead: &[Value<'_>]) -> Result<Vec<Uuid>, Fail> {
        let Self { names, columns, set, condition } = self;
        if D::RETURNING {
            let sql = session.sql(names[0], || {
                format!("UPDATE {{log}} AS l SET {set} FROM {{table b {columns}}} WHERE l.id = b.b_id AND {condition} RETURNING id")
            });
            // The parameters of SET come first.
            let values: Vec<_> = lead.iter().copied().chain([Value::Batch(batch)]).collect();
            return Ok(known::<D>(&session.rows(sql, &values).await?));
        }
        let lock = session
            .sql(names[1], || format!("SELECT id FROM {{table b {columns}}} STRAIGHT_JOIN {{log}} l ON l.id = b.b_id WHERE {condition} {{lock}}"));
        let ids = known::<D>(&session.rows(lock, &[Value::Batch(batch)]).await?);
        if !ids.is_empty() {
            let sql = session
                .sql(names[0], || format!("UPDATE {{table b {columns}}} STRAIGHT_JOIN {{log}} l ON l.id = b.b_id SET {set} WHERE {condition}"));
            let values: Vec<_> = [Value::Batch(batch)].into_iter().chain(lead.iter().copied()).collect();
            session.execute(sql, &values).await?;
        }
        Ok(ids)
    }
}

impl Matched {
    /// Deletes the rows instead; answers the ids of those that went.
    pub(super) async fn run_delete<D: Dialect>(&self, session: &mut Session<D>, batch: &Batch<'_>) -> Result<Vec<Uuid>, Fail> {
        let Self { names, columns, condition, .. } = self;
        if D::RETURNING {
            let sql = session.sql(names[0], || {
                if D::DELETE_USING {
                    format!("DELETE FROM {{log}} AS l USING {{table b {columns}}} WHERE l.id = b.b_id AND {condition} RETURNING id")
                } else {
                    format!(
                        "DELETE FROM {{log}} WHERE id {{in SELECT l.id FROM {{table b {columns}}} JOIN {{log}} l ON l.id = b.b_id WHERE {condition}}}
                         RETURNING id"
                    )
                }
            });
            return Ok(known::<D>(&session.rows(sql, &[Value::Batch(batch)]).await?));
        }
        let lock = session
            .sql(names[1], || format!("SELECT id FROM {{table b {columns}}} STRAIGHT_JOIN {{log}} l ON l.id = b.b_id WHERE {condition} {{lock}}"));
        let ids = known::<D>(&session.rows(lock, &[Value::Batch(batch)]).await?);
        if !ids.is_empty() {
            let sql =
                session.sql(names[0], || format!("DELETE l FROM {{table b {columns}}} STRAIGHT_JOIN {{log}} l ON l.id = b.b_id WHERE {condition}"));
            session.execute(sql, &[Value::Batch(batch)]).await?;
        }
        Ok(ids)
    }
}

/// The ids of rows whose first column is one. Odd ones can't have been named by a batch.
fn known<D: Dialect>(rows: &[Row<D>]) -> Vec<Uuid> {
    rows.iter()
        .filter_map(|row| match D::id(row, 0) {
            Ok(Id::Known(id)) => Some(id),
            _ => None,
        })
        .collect()
}

/// Changes the rows that a query picks, and reads what they hold then.
pub(super) struct Picked {
    /// The names of the statement, the locking query and the reading one.
    pub(super) names: [&'static str; 3],
    /// The query, up to its lock: `id`, the order in which a cut is made (`due_at`), and `size`.
    pub(super) pick: &'static str,
    /// Whether rows are cut off where their sizes add up to too much.
    pub(super) cut: bool,
    /// What SET says.
    pub(super) set: &'static str,
    /// What is read of each row.
    pub(super) columns: &'static str,
}

/// The parameters of a [`Picked`].
pub(super) struct Parameters<'a> {
    pub(super) pick: &'a [Value<'a>],
    pub(super) set: &'a [Value<'a>],
    /// Where to cut, in bytes.
    pub(super) most: i64,
    pub(super) columns: &'a [Value<'a>],
}

impl Picked {
    pub(super) async fn run<D: Dialect>(&self, session: &mut Session<D>, parameters: &Parameters<'_>) -> Result<Vec<Row<D>>, Fail> {
        let Self { names, pick, cut, set, columns } = self;
        if D::RETURNING {
            let sql = session.sql(names[0], || {
                if *cut {
                    format!(
                        "WITH picked AS ({pick} {{skip}}),
                        cut AS (SELECT id, row_number() OVER w AS n, sum(size) OVER w AS total FROM picked WINDOW w AS (ORDER BY due_at, id))
                        UPDATE {{log}} SET {set} WHERE id {{in SELECT id FROM cut WHERE n = 1 OR total <= ?}} RETURNING {columns}"
                    )
                } else {
                    format!("WITH picked AS ({pick} {{skip}}) UPDATE {{log}} SET {set} WHERE id {{in SELECT id FROM picked}} RETURNING {columns}")
                }
            });
            let most = [Value::Int(parameters.most)];
            let most: &[Value<'_>] = if *cut { &most } else { &[] };
            let values: Vec<_> = [parameters.pick, parameters.set, most, parameters.columns].concat();
            return Ok(session.rows(sql, &values).await?);
        }
        let lock = session.sql(names[1], || format!("{pick} {{skip}}"));
        let locked = session.rows(lock, parameters.pick).await?;
        let ids = self.kept::<D>(&locked, parameters.most);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<_> = ids.iter().map(|id| Some(id.as_str())).collect();
        let batch = Batch::new(texts.len(), vec![Column::Texts(texts)]);
        let change: Arc<str> = session.sql(names[0], || format!("UPDATE {{table b b_id:id}} STRAIGHT_JOIN {{log}} l ON l.id = b.b_id SET {set}"));
        let values: Vec<_> = [Value::Batch(&batch)].into_iter().chain(parameters.set.iter().copied()).collect();
        session.execute(change, &values).await?;
        let read = session.sql(names[2], || format!("SELECT {columns} FROM {{table b b_id:id}} STRAIGHT_JOIN {{log}} l ON l.id = b.b_id"));
        let values: Vec<_> = parameters.columns.iter().copied().chain([Value::Batch(&batch)]).collect();
        Ok(session.rows(read, &values).await?)
    }

    /// The picked rows up to where they would weigh too much, the first in any case.
    fn kept<D: Dialect>(&self, rows: &[Row<D>], most: i64) -> Vec<String> {
        let mut ids = Vec::with_capacity(rows.len());
        let mut total = 0_i64;
        for row in rows {
            if self.cut {
                total = total.saturating_add(D::int(row, 2).ok().flatten().unwrap_or(0));
                if total > most && !ids.is_empty() {
                    break;
                }
            }
            match D::id(row, 0) {
                Ok(Id::Known(id)) => ids.push(id.to_string()),
                Ok(Id::Text(text)) => ids.push(text),
                Ok(Id::Bytes(_)) | Err(_) => {}
            }
        }
        ids
    }
}
