//! Strays: rows that nobody can claim.

use uuid::Uuid;

use super::claim::{LEVELS, mend};
use super::decode;
use super::dialect::{Batch, Dialect, Row, Value};
use super::insert::micros;
use super::nodes::{Known, LAPSED, MOST_KINDS, foreign, is_true, kinds, known, orphaned};
use super::part::{self, Parts};
use super::pool::{Fail, Session};
use super::shape::Picked;
use super::sheet;
use crate::store::{Error, Stray, Strays, Taken};

const STRAY_SET: &str =
    "state = 'sending', lease_token = ?, lease_until = {plus {now}|?}, lease_node = ?, attempt_started_at = NULL, updated_at = {now}";
const STRAY: &str = "id, {text source}, epoch, attempts, retries, {time expires_at}, log_count, log_tail, {text log_tail_outcome}";
/// Rows whose attempt may be lost: also when it began, and the node.
const ORPHAN: &str = "id, {text source}, epoch, attempts, retries, {time expires_at}, log_count, log_tail, {text log_tail_outcome},
    {time attempt_started_at}, {text lease_node}";

/// The latest due time of a queue, if nothing is ever sent at it: such a time sorts last.
const TIMELESS_LAST: &str = "(SELECT due_at FROM {log} {claim-index} WHERE project = ? AND source = b_source AND level = n_level AND {dated}
    ORDER BY project DESC, source DESC, level DESC, due_at DESC LIMIT 1) > {far}";
/// A missing due time sorts first, or last.
const UNDATED_FIRST: &str =
    "EXISTS (SELECT 1 FROM {log} {claim-index} WHERE project = ? AND source = b_source AND level = n_level AND due_at IS NULL)";

const UNKNOWN: Picked = Picked {
    names: ["strays_unknown", "strays_unknown_pick"],
    from: "FROM {log} WHERE project = ? AND source = ? AND level IS NOT NULL {free}
        AND created_at <= {plus {now}|?} LIMIT ?",
    set: STRAY_SET,
    columns: STRAY,
};
const SOURCELESS: Picked = Picked {
    names: ["strays_sourceless", "strays_sourceless_pick"],
    from: "FROM {log} WHERE project = ? AND {sourceless AND level IS NOT NULL}
        AND created_at <= {plus {now}|?} LIMIT ?",
    set: STRAY_SET,
    columns: STRAY,
};
/// Rows that another node was sending, or failing, when it died, and whose source nobody knows any more. The row keeps the node's name: it is the one
/// that lost the attempt.
const ORPHANED: Picked = Picked {
    names: ["strays_orphaned", "strays_orphaned_pick"],
    from: "FROM {log} WHERE project = ? AND state = 'sending' AND (lease_until <= {now} OR lease_until IS NULL)
        AND ({sourceless} OR source NOT IN (SELECT s_source FROM {table s s_source:text}))
        AND created_at <= {plus {now}|?} ORDER BY lease_until LIMIT ?",
    set: "lease_token = ?, lease_until = {plus {now}|?}, updated_at = {now}",
    columns: ORPHAN,
};
const TIMELESS: Picked = Picked {
    names: ["strays_timeless", "strays_timeless_pick"],
    from: "FROM {log} WHERE project = ? AND source = ? AND level = ? AND due_at > {far}
        AND created_at <= {plus {now}|?} LIMIT ?",
    set: STRAY_SET,
    columns: STRAY,
};
const HOMELESS: Picked = Picked {
    names: ["adopt_homeless", "adopt_homeless_pick"],
    from: "FROM {log} WHERE project IS NULL AND level IS NOT NULL
        AND created_at <= {plus {now}|?} LIMIT ?",
    set: "project = ?, due_at = coalesce(due_at, {now}), updated_at = {now}",
    columns: "id",
};
const UNDATED: Picked = Picked {
    names: ["adopt_undated", "adopt_undated_pick"],
    from: "FROM {log} WHERE project = ? AND source = ? AND level = ? AND due_at IS NULL
        AND created_at <= {plus {now}|?} LIMIT ?",
    set: "due_at = {now}, updated_at = {now}",
    columns: "id",
};

/// Whether there may be strays at all: this only looks into indexes, while taking strays is a transaction of ten statements.
pub(super) async fn are_there<D: Dialect>(session: &mut Session<D>, strays: &Strays) -> Result<bool, Fail> {
    let own = Batch::texts(strays.sources.iter().map(|source| &**source));
    let (any, values) = any(strays, &own);
    is_true(session, &any, &values).await
}

/// The condition, and its parameters.
pub(super) fn any<'a>(strays: &'a Strays, own: &'a Batch<'a>) -> (String, Vec<Value<'a>>) {
    let (project, sources) = (Value::Text(&strays.project), Value::Batch(own));
    let (foreign, names) = foreign(&strays.project, &strays.sources);
    let [past, none] = LAPSED.map(orphaned);
    let any = format!(
        "EXISTS (SELECT 1 FROM {{log}} WHERE project IS NULL AND level IS NOT NULL)
            OR EXISTS (SELECT 1 FROM {{log}} WHERE project = ? AND {{sourceless AND level IS NOT NULL}})
            OR {past} OR {none}
            OR EXISTS (SELECT 1 FROM {{table b b_source:text}} CROSS JOIN {LEVELS} WHERE {TIMELESS_LAST} OR {UNDATED_FIRST}) OR {foreign}"
    );
    (any, [&[project, project, sources, project, sources, sources, project, project][..], &names].concat())
}

/// Each pick is a part: one that the database refuses doesn't keep it from the others, and the refusal is returned with the result.
pub(super) async fn take<D: Dialect>(session: &mut Session<D>, strays: &Strays) -> Result<(Taken, Option<Error>), Fail> {
    let project = Value::Text(&strays.project);
    let age = Value::Int(-micros(strays.min_age));
    let limit = Value::Int(i64::from(strays.limit));
    let set = [Value::Int(strays.lease.token), Value::Int(micros(strays.lease.ttl)), Value::Text(&strays.lease.node)];
    let mut parts = Parts::within(session.core.timeout);
    let mut more = adopt(session, &mut parts, &HOMELESS, &[age, limit], &[project]).await? >= strays.limit as usize;
    let mut taken: Vec<Stray> = Vec::new();
    let left = |taken: &Vec<Stray>| i64::from(strays.limit).saturating_sub(i64::try_from(taken.len()).unwrap_or(i64::MAX));

    let Known { sources: known, is_all } = known(session, &strays.project).await?;
    let kinds = kinds(session, &strays.project).await?;
    let is_own = |source: &str| strays.sources.iter().any(|own| **own == *source);
    // Rows of known sources come before those of unknown ones, which may use up the limit. The node's own sources are always looked at, however many
    // others the index holds.
    let own = strays.sources.iter().map(|source| &**source);
    let others = kinds.iter().map(String::as_str).filter(|source| known.contains(*source) && !is_own(source));
    for (source, level, odd) in oddities(session, &strays.project, own.chain(others)).await? {
        if odd.undated {
            let pick = [project, Value::Text(&source), Value::Int(level), age, limit];
            more |= adopt(session, &mut parts, &UNDATED, &pick, &[]).await? >= strays.limit as usize;
        }
        if odd.timeless {
            let pick = [project, Value::Text(&source), Value::Int(level), age, Value::Int(left(&taken))];
            taken.extend(gather(session, &mut parts, &TIMELESS, &pick, &set, "invalid_due_at").await?);
        }
    }

    let pick = [project, age, Value::Int(left(&taken))];
    taken.extend(gather(session, &mut parts, &SOURCELESS, &pick, &set, "no_source").await?);

    // A node whose sources can't be read may know any of these.
    if is_all {
        let mut sheets = Parts::within(session.core.timeout);
        sheet::write_out_lapsed(session, &strays.project, 0, strays.limit, Some(&mut sheets)).await?;
        let names = Batch::texts(strays.sources.iter().map(|source| &**source).chain(known.iter().map(String::as_str)));
        let pick = [project, Value::Batch(&names), age, Value::Int(left(&taken))];
        taken.extend(gather(session, &mut parts, &ORPHANED, &pick, &set[..2], "unknown_source").await?);
    }
    let before = taken.len();
    for source in kinds.iter().filter(|source| is_all && !known.contains(*source) && !is_own(source)) {
        if left(&taken) <= 0 {
            break;
        }
        sheet::turn(session, &strays.project, source).await?;
        let pick = [project, Value::Text(source), age, Value::Int(left(&taken))];
        taken.extend(gather(session, &mut parts, &UNKNOWN, &pick, &set, "unknown_source").await?);
    }
    // If there are more sources than were looked through, the rest come to light once these are gone.
    let is_cut_short = kinds.len() >= usize::try_from(MOST_KINDS).unwrap_or(usize::MAX);
    more |= left(&taken) <= 0 || (is_cut_short && taken.len() > before);
    Ok((Taken { strays: taken, more }, parts.refused()))
}

/// Gives rows what they lack; returns how many there were.
async fn adopt<D: Dialect>(session: &mut Session<D>, parts: &mut Parts, pick: &Picked, from: &[Value<'_>], set: &[Value<'_>]) -> Result<usize, Fail> {
    part::begin(session).await?;
    let rows = pick.run(session, from, set).await;
    Ok(parts.end(session, rows).await?.map_or(0, |rows| rows.len()))
}

/// Takes rows that are going to fail.
async fn gather<D: Dialect>(
    session: &mut Session<D>,
    parts: &mut Parts,
    pick: &Picked,
    from: &[Value<'_>],
    set: &[Value<'_>],
    code: &'static str,
) -> Result<Vec<Stray>, Fail> {
    part::begin(session).await?;
    let strays = picked(session, pick, from, set, code).await;
    Ok(parts.end(session, strays).await?.unwrap_or_default())
}

async fn picked<D: Dialect>(
    session: &mut Session<D>,
    pick: &Picked,
    from: &[Value<'_>],
    set: &[Value<'_>],
    code: &'static str,
) -> Result<Vec<Stray>, Fail> {
    let rows = pick.run(session, from, set).await?;
    let mut strays = Vec::with_capacity(rows.len());
    for row in &rows {
        strays.push(stray(session, row, code, pick.columns == ORPHAN).await?);
    }
    Ok(strays)
}

/// A row that was taken, and whose attempt may be lost.
async fn stray<D: Dialect>(session: &mut Session<D>, row: &Row<D>, code: &'static str, may_be_lost: bool) -> Result<Stray, Fail> {
    let (id, _): (Uuid, _) = mend(session, D::id(row, 0)).await?;
    let source = if code == "no_source" { None } else { decode::maybe_text::<D>(row, 1) };
    let (lost, node) = if may_be_lost { (decode::maybe_time::<D>(row, 9), decode::maybe_text::<D>(row, 10)) } else { (None, None) };
    Ok(Stray {
        id,
        epoch: decode::about::<D>(row, 2),
        attempt: decode::about::<D>(row, 3),
        standing: decode::standing::<D>(row, decode::about::<D>(row, 4), decode::maybe_time::<D>(row, 5), 6),
        lost,
        node: node.unwrap_or_default().into(),
        code: if source.is_none() { "no_source" } else { code },
        source,
    })
}

/// What is odd about the waiting rows of a source and level.
#[derive(Clone, Copy)]
struct Odd {
    timeless: bool,
    undated: bool,
}

/// Looks at both ends of each queue.
async fn oddities<'a, D: Dialect>(
    session: &mut Session<D>,
    project: &str,
    sources: impl Iterator<Item = &'a str>,
) -> Result<Vec<(String, i64, Odd)>, Fail> {
    let batch = Batch::texts(sources);
    if batch.rows == 0 {
        return Ok(Vec::new());
    }
    let sql = session.sql("oddities", || {
        format!(
            "SELECT b_source, n_level, CASE WHEN {TIMELESS_LAST} THEN 1 ELSE 0 END, CASE WHEN {UNDATED_FIRST} THEN 1 ELSE 0 END
             FROM {{table b b_source:text}} CROSS JOIN {LEVELS}"
        )
    });
    let project = Value::Text(project);
    let mut odd = Vec::new();
    for row in session.rows(sql, &[project, project, Value::Batch(&batch)]).await? {
        let flag = |index| D::int(&row, index).ok().flatten() == Some(1);
        let found = Odd { timeless: flag(2), undated: flag(3) };
        if found.timeless || found.undated {
            odd.push((decode::maybe_text::<D>(&row, 0).unwrap_or_default(), i64::from(decode::about::<D>(&row, 1)), found));
        }
    }
    Ok(odd)
}
