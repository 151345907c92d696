//! Who lives, what nobody serves.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::claim::{LEVELS, earliest, mend};
use super::decode;
use super::dialect::{Batch, Dialect, Row, Value};
use super::insert::{clock, micros};
use super::pool::{Fail, Session};
use super::shape::{Parameters, Picked};
use super::sheet;
use crate::store::{Heartbeat, Stray, Strays, Unserved};

/// The most kinds of rows that a look for strays goes through. An application that makes up more is told of these first.
const MOST_KINDS: i64 = 200;

pub(super) async fn heartbeat<D: Dialect>(session: &mut Session<D>, beat: &Heartbeat) -> Result<(), Fail> {
    let sources = serde_json::to_string(&beat.sources.iter().map(|source| &**source).collect::<Vec<_>>()).unwrap_or_default();
    let sql = session.sql("heartbeat", || {
        let new = |column: &'static str| (column, D::proposed(column));
        format!(
            "INSERT INTO {{node}} {} (project, node, sources, seen_at, expires_at) VALUES (?, ?, ?, {{now}}, {{plus {{now}}|?}}) {}",
            D::AS_OLD,
            D::upsert("project, node", &[new("sources"), new("seen_at"), new("expires_at")])
        )
    });
    let values = [Value::Text(&beat.project), Value::Text(&beat.node), Value::Text(&sources), Value::Int(micros(beat.ttl))];
    session.execute(sql, &values).await?;
    Ok(())
}

/// The sources that a node wrote down.
fn written<D: Dialect>(row: &Row<D>, index: usize) -> Vec<String> {
    decode::maybe_text::<D>(row, index).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// Takes a node off the list, and those that died long ago with it.
pub(super) async fn sign_off<D: Dialect>(session: &mut Session<D>, project: &str, node: &str) -> Result<(), Fail> {
    let sql = session.sql("sign_off", || "DELETE FROM {node} WHERE project = ? AND (node = ? OR expires_at < {plus {now}|?})".to_owned());
    session.execute(sql, &[Value::Text(project), Value::Text(node), Value::Int(-micros(Duration::from_secs(24 * 3600)))]).await?;
    Ok(())
}

/// What live nodes serve, by project.
async fn served<D: Dialect>(session: &mut Session<D>) -> Result<BTreeMap<String, HashSet<String>>, Fail> {
    let sql = session.sql("served", || "SELECT {text project}, {text sources} FROM {node} WHERE expires_at > {now}".to_owned());
    let mut served: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    for row in session.rows(sql, &[]).await? {
        served.entry(decode::maybe_text::<D>(&row, 0).unwrap_or_default()).or_default().extend(written::<D>(&row, 1));
    }
    Ok(served)
}

fn texts<D: Dialect>(rows: &[Row<D>]) -> Vec<String> {
    rows.iter().filter_map(|row| decode::maybe_text::<D>(row, 0)).collect()
}

/// The names in an index, each leap a statement.
async fn leap<D: Dialect>(session: &mut Session<D>, first: Arc<str>, next: Arc<str>, lead: &[Value<'_>]) -> Result<Vec<String>, Fail> {
    let mut names: Vec<String> = Vec::new();
    for _ in 0..MOST_KINDS {
        let (sql, last) = names.last().map_or((&first, ""), |last| (&next, last.as_str()));
        let values: Vec<_> = lead.iter().copied().chain([Value::Text(last)]).collect();
        let rows = session.rows(sql.clone(), &values).await?;
        let Some(name) = rows.first().and_then(|row| decode::maybe_text::<D>(row, 0)) else { break };
        names.push(name);
    }
    Ok(names)
}

/// The sources for which rows of a project wait, found by leaps through the index rather than by reading it.
async fn kinds<D: Dialect>(session: &mut Session<D>, project: &str) -> Result<Vec<String>, Fail> {
    if !D::LEAPS {
        let from = "FROM {log} {claim-index} WHERE project = ? AND source";
        let first = session.sql("kinds_first", || format!("SELECT {{text source}} {from} >= ? ORDER BY project, source LIMIT 1"));
        let next = session.sql("kinds_next", || format!("SELECT {{text source}} {from} > ? ORDER BY project, source LIMIT 1"));
        return leap(session, first, next, &[Value::Text(project)]).await;
    }
    let sql = session.sql("kinds", || {
        format!(
            "WITH RECURSIVE kinds (source, n) AS (
                SELECT source, 1 FROM (SELECT source FROM {{log}} WHERE project = ? AND source IS NOT NULL {{waiting}} ORDER BY source LIMIT 1) AS first
                UNION ALL
                SELECT (SELECT l.source FROM {{log}} l WHERE l.project = ? AND l.source > kinds.source {{waiting}} ORDER BY l.source LIMIT 1), kinds.n + 1
                FROM kinds WHERE kinds.source IS NOT NULL AND kinds.n < {MOST_KINDS}
             ) SELECT {{text source}} FROM kinds WHERE source IS NOT NULL"
        )
    });
    let project = Value::Text(project);
    Ok(texts::<D>(&session.rows(sql, &[project, project]).await?))
}

/// The projects of which rows wait.
async fn projects<D: Dialect>(session: &mut Session<D>) -> Result<Vec<String>, Fail> {
    if !D::LEAPS {
        let from = "FROM {log} {claim-index} WHERE project";
        let first = session.sql("projects_first", || format!("SELECT {{text project}} {from} >= ? ORDER BY project LIMIT 1"));
        let next = session.sql("projects_next", || format!("SELECT {{text project}} {from} > ? ORDER BY project LIMIT 1"));
        return leap(session, first, next, &[]).await;
    }
    let sql = session.sql("projects", || {
        format!(
            "WITH RECURSIVE kinds (project, n) AS (
                SELECT project, 1 FROM (SELECT project FROM {{log}} WHERE project IS NOT NULL {{waiting}} ORDER BY project LIMIT 1) AS first
                UNION ALL
                SELECT (SELECT l.project FROM {{log}} l WHERE l.project > kinds.project {{waiting}} ORDER BY l.project LIMIT 1), kinds.n + 1
                FROM kinds WHERE kinds.project IS NOT NULL AND kinds.n < {MOST_KINDS}
             ) SELECT {{text project}} FROM kinds WHERE project IS NOT NULL"
        )
    });
    Ok(texts::<D>(&session.rows(sql, &[]).await?))
}

pub(super) async fn unserved<D: Dialect>(session: &mut Session<D>, min_age: Duration, limit: u32) -> Result<Vec<Unserved>, Fail> {
    let served = served(session).await?;
    let mut found = Vec::new();
    for project in projects(session).await? {
        let live = served.get(&project);
        let kinds: Vec<_> = kinds(session, &project).await?.into_iter().filter(|source| !live.is_some_and(|live| live.contains(source))).collect();
        if kinds.is_empty() {
            continue;
        }
        let sql = session.sql("oldest", || {
            format!(
                "SELECT b_source, (SELECT {{time due_at}} FROM {{log}} {{claim-index}} WHERE project = ? AND source = b_source AND level = n_level
                    AND {{dated}} ORDER BY project, source, level, due_at LIMIT 1), {{time {{now}}}} FROM {{table b b_source:text}} CROSS JOIN {LEVELS}"
            )
        });
        let batch = Batch::texts(kinds.iter().map(String::as_str));
        let mut oldest: BTreeMap<String, Duration> = BTreeMap::new();
        for row in session.rows(sql, &[Value::Text(&project), Value::Batch(&batch)]).await? {
            let Some(due) = D::time(&row, 1).ok().flatten().and_then(earliest) else { continue };
            let Ok(age) = (clock::<D>(&row, 2)? - due).to_std() else { continue };
            let source = decode::maybe_text::<D>(&row, 0).unwrap_or_default();
            let longest = oldest.entry(source).or_default();
            *longest = age.max(*longest);
        }
        for (source, oldest) in oldest.into_iter().filter(|(_, oldest)| *oldest >= min_age) {
            if found.len() >= limit as usize {
                return Ok(found);
            }
            found.push(Unserved { project: project.clone(), source, oldest });
        }
    }
    Ok(found)
}

const STRAY_SET: &str =
    "state = 'sending', lease_token = ?, lease_until = {plus {now}|?}, lease_node = ?, attempt_started_at = NULL, updated_at = {now}";
const STRAY: &str = "id, {text source}, epoch, attempts, retries, {time expires_at}, {time attempt_started_at}";

pub(super) async fn take_strays<D: Dialect>(session: &mut Session<D>, strays: &Strays) -> Result<Vec<Stray>, Fail> {
    const UNKNOWN: Picked = Picked {
        names: ["strays_unknown", "strays_unknown_pick", "strays_read"],
        from: "FROM {log} WHERE project = ? AND source = ? AND level IS NOT NULL {free}
            AND created_at <= {plus {now}|?} LIMIT ?",
        set: STRAY_SET,
        columns: STRAY,
    };
    const SOURCELESS: Picked = Picked {
        names: ["strays_sourceless", "strays_sourceless_pick", "strays_read"],
        from: "FROM {log} WHERE project = ? AND {sourceless} AND level IS NOT NULL
            AND created_at <= {plus {now}|?} LIMIT ?",
        set: STRAY_SET,
        columns: STRAY,
    };
    // What another node was sending, or failing, when it died, and whose source nobody serves any more.
    const ORPHANED: Picked = Picked {
        names: ["strays_orphaned", "strays_orphaned_pick", "strays_orphaned_read"],
        from: "FROM {log} WHERE project = ? AND state = 'sending' AND (lease_until <= {now} OR lease_until IS NULL)
            AND ({sourceless} OR source NOT IN (SELECT s_source FROM {table s s_source:text}))
            AND created_at <= {plus {now}|?} ORDER BY lease_until LIMIT ?",
        set: "lease_token = ?, lease_until = {plus {now}|?}, lease_node = ?, updated_at = {now}",
        columns: STRAY,
    };
    const TIMELESS: Picked = Picked {
        names: ["strays_timeless", "strays_timeless_pick", "strays_read"],
        from: "FROM {log} WHERE project = ? AND source = ? AND level = ? AND due_at > {far}
            AND created_at <= {plus {now}|?} LIMIT ?",
        set: STRAY_SET,
        columns: STRAY,
    };
    const HOMELESS: Picked = Picked {
        names: ["adopt_homeless", "adopt_homeless_pick", "adopt_read"],
        from: "FROM {log} WHERE project IS NULL AND level IS NOT NULL
            AND created_at <= {plus {now}|?} LIMIT ?",
        set: "project = ?, due_at = coalesce(due_at, {now}), updated_at = {now}",
        columns: "id",
    };
    const UNDATED: Picked = Picked {
        names: ["adopt_undated", "adopt_undated_pick", "adopt_read"],
        from: "FROM {log} WHERE project = ? AND source = ? AND level = ? AND due_at IS NULL
            AND created_at <= {plus {now}|?} LIMIT ?",
        set: "due_at = {now}, updated_at = {now}",
        columns: "id",
    };
    let project = Value::Text(&strays.project);
    let age = Value::Int(-micros(strays.min_age));
    let limit = Value::Int(i64::from(strays.limit));
    HOMELESS.run(session, &Parameters { pick: &[age, limit], set: &[project], cut: None }).await?;
    let set = [Value::Int(strays.lease.token), Value::Int(micros(strays.lease.ttl)), Value::Text(&strays.lease.node)];
    let mut taken: Vec<Stray> = Vec::new();
    let left = |taken: &Vec<Stray>| i64::from(strays.limit).saturating_sub(i64::try_from(taken.len()).unwrap_or(i64::MAX));

    let pick = [project, age, Value::Int(left(&taken))];
    let rows = SOURCELESS.run(session, &Parameters { pick: &pick, set: &set, cut: None }).await?;
    gather(session, &rows, "no_source", &mut taken).await?;

    sheet::write_out_lapsed(session, &strays.project).await?;
    let served = served(session).await?;
    let live = served.get(&*strays.project);
    let known = Batch::texts(strays.sources.iter().map(|source| &**source).chain(live.into_iter().flatten().map(String::as_str)));
    let pick = [project, Value::Batch(&known), age, Value::Int(left(&taken))];
    let rows = ORPHANED.run(session, &Parameters { pick: &pick, set: &set, cut: None }).await?;
    for row in &rows {
        let stray = stray(session, row, "unknown_source").await?;
        taken.push(Stray { lost: decode::maybe_time::<D>(row, 6), ..stray });
    }

    let kinds = kinds(session, &strays.project).await?;
    let is_served = |source: &str| strays.sources.iter().any(|known| &**known == source) || live.is_some_and(|live| live.contains(source));
    for source in kinds.iter().filter(|source| !is_served(source)) {
        if left(&taken) <= 0 {
            return Ok(taken);
        }
        sheet::turn(session, &strays.project, source).await?;
        let pick = [project, Value::Text(source), age, Value::Int(left(&taken))];
        let rows = UNKNOWN.run(session, &Parameters { pick: &pick, set: &set, cut: None }).await?;
        gather(session, &rows, "unknown_source", &mut taken).await?;
    }
    // Its own sources are always looked at, however many names of others the index holds.
    let own = strays.sources.iter().map(|source| &**source);
    let others = kinds.iter().map(String::as_str).filter(|source| is_served(source) && !strays.sources.iter().any(|own| **own == **source));
    for (source, level, odd) in oddities(session, &strays.project, own.chain(others)).await? {
        if odd.undated {
            let pick = [project, Value::Text(&source), Value::Int(level), age, limit];
            UNDATED.run(session, &Parameters { pick: &pick, set: &[], cut: None }).await?;
        }
        if odd.timeless {
            if left(&taken) <= 0 {
                return Ok(taken);
            }
            let pick = [project, Value::Text(&source), Value::Int(level), age, Value::Int(left(&taken))];
            let rows = TIMELESS.run(session, &Parameters { pick: &pick, set: &set, cut: None }).await?;
            gather(session, &rows, "invalid_due_at", &mut taken).await?;
        }
    }
    Ok(taken)
}

async fn gather<D: Dialect>(session: &mut Session<D>, rows: &[Row<D>], code: &'static str, taken: &mut Vec<Stray>) -> Result<(), Fail> {
    for row in rows {
        taken.push(stray(session, row, code).await?);
    }
    Ok(())
}

/// A row that was taken, as one of which no attempt was lost.
async fn stray<D: Dialect>(session: &mut Session<D>, row: &Row<D>, code: &'static str) -> Result<Stray, Fail> {
    let (id, _): (Uuid, _) = mend(session, row).await?;
    let source = if code == "no_source" { None } else { decode::maybe_text::<D>(row, 1) };
    Ok(Stray {
        id,
        epoch: decode::about::<D>(row, 2),
        attempt: decode::about::<D>(row, 3),
        retries: decode::about::<D>(row, 4),
        expires_at: decode::maybe_time::<D>(row, 5),
        lost: None,
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

/// Looks at both ends of each queue: a due time that is no time sorts last, one that is missing first (or last).
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
            "SELECT b_source, n_level,
                CASE WHEN (SELECT due_at FROM {{log}} {{claim-index}} WHERE project = ? AND source = b_source AND level = n_level AND {{dated}}
                           ORDER BY project DESC, source DESC, level DESC, due_at DESC LIMIT 1) > {{far}} THEN 1 ELSE 0 END,
                CASE WHEN EXISTS (SELECT 1 FROM {{log}} {{claim-index}} WHERE project = ? AND source = b_source AND level = n_level AND due_at IS NULL)
                     THEN 1 ELSE 0 END
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
