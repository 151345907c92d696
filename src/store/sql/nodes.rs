//! Who lives, what nobody serves.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::claim::{LEVELS, earliest};
use super::decode;
use super::dialect::{Batch, Dialect, Row, Value};
use super::insert::{clock, micros};
use super::pool::{Fail, Session};
use crate::store::{Heartbeat, Served, Unserved};

/// The most kinds of rows that a look for strays goes through. An application that makes up more is told of these first.
const MOST_KINDS: i64 = 200;
/// What a node knew is not unknown for so long after its last beat: it may be back, and its messages wait for it.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn heartbeat<D: Dialect>(session: &mut Session<D>, beat: &Heartbeat) -> Result<(), Fail> {
    let sources: Vec<_> = beat.sources.iter().map(ToString::to_string).collect();
    let sources = if beat.sends { Names::Served(sources) } else { Names::Accepted { accepts: sources } };
    let sources = serde_json::to_string(&sources).unwrap_or_default();
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

/// The sources of a node as its row has them: those that it serves, or those that it takes messages for and leaves to others.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Names {
    Served(Vec<String>),
    Accepted { accepts: Vec<String> },
}

/// The sources that a node wrote down.
fn written<D: Dialect>(row: &Row<D>, index: usize) -> Names {
    decode::maybe_text::<D>(row, index).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Names::Served(Vec::new()))
}

/// Notes that a node lives no more, and forgets those that have not lived for long: nobody asks any more what they knew.
pub(super) async fn sign_off<D: Dialect>(session: &mut Session<D>, project: &str, node: &str) -> Result<(), Fail> {
    let end = session.sql("sign_off", || "UPDATE {node} SET expires_at = {now} WHERE project = ? AND node = ? AND expires_at > {now}".to_owned());
    session.execute(end, &[Value::Text(project), Value::Text(node)]).await?;
    let forget = session.sql("nodes_forget", || "DELETE FROM {node} WHERE project = ? AND expires_at < {plus {now}|?}".to_owned());
    session.execute(forget, &[Value::Text(project), Value::Int(-micros(KNOWN_FOR))]).await?;
    Ok(())
}

/// What live nodes serve, by project.
pub(super) async fn served<D: Dialect>(session: &mut Session<D>) -> Result<BTreeMap<String, HashSet<String>>, Fail> {
    let sql = session.sql("served", || "SELECT {text project}, {text sources} FROM {node} WHERE expires_at > {now}".to_owned());
    let mut served: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    for row in session.rows(sql, &[]).await? {
        let Names::Served(sources) = written::<D>(&row, 1) else { continue };
        served.entry(decode::maybe_text::<D>(&row, 0).unwrap_or_default()).or_default().extend(sources);
    }
    Ok(served)
}

/// The sources that a node of the project knows, or one that lived lately.
pub(super) async fn known<D: Dialect>(session: &mut Session<D>, project: &str) -> Result<HashSet<String>, Fail> {
    let sql = session.sql("known", || "SELECT {text sources} FROM {node} WHERE project = ? AND expires_at > {plus {now}|?}".to_owned());
    let rows = session.rows(sql, &[Value::Text(project), Value::Int(-micros(KNOWN_FOR))]).await?;
    let names = rows.iter().flat_map(|row| match written::<D>(row, 0) {
        Names::Served(sources) | Names::Accepted { accepts: sources } => sources,
    });
    Ok(names.collect())
}

/// The sources for which rows of a project wait.
pub(super) async fn kinds<D: Dialect>(session: &mut Session<D>, project: &str) -> Result<Vec<String>, Fail> {
    leaps(session, ["kinds", "kinds_first", "kinds_next"], "source", Some(project)).await
}

/// The projects of which rows wait.
async fn projects<D: Dialect>(session: &mut Session<D>) -> Result<Vec<String>, Fail> {
    leaps(session, ["projects", "projects_first", "projects_next"], "project", None).await
}

/// What a column of the claim's index holds of rows that wait, of all or of a project: found by leaps from one value to the next rather than by
/// reading it, in one statement or each leap a statement.
async fn leaps<D: Dialect>(session: &mut Session<D>, names: [&'static str; 3], column: &str, project: Option<&str>) -> Result<Vec<String>, Fail> {
    let lead: Vec<_> = project.map(Value::Text).into_iter().collect();
    let (of, l_of, order) = if lead.is_empty() { ("", "", "") } else { ("project = ? AND ", "l.project = ? AND ", "project, ") };
    if D::LEAPS {
        let sql = session.sql(names[0], || {
            format!(
                "WITH RECURSIVE kinds ({column}, n) AS (
                    SELECT {column}, 1 FROM (SELECT {column} FROM {{log}} WHERE {of}{column} IS NOT NULL {{waiting}} ORDER BY {column} LIMIT 1) AS first
                    UNION ALL
                    SELECT (SELECT l.{column} FROM {{log}} l WHERE {l_of}l.{column} > kinds.{column} {{waiting}} ORDER BY l.{column} LIMIT 1), kinds.n + 1
                    FROM kinds WHERE kinds.{column} IS NOT NULL AND kinds.n < {MOST_KINDS}
                 ) SELECT {{text {column}}} FROM kinds WHERE {column} IS NOT NULL"
            )
        });
        let rows = session.rows(sql, &lead.repeat(2)).await?;
        return Ok(rows.iter().filter_map(|row| decode::maybe_text::<D>(row, 0)).collect());
    }
    let leap =
        |than: &str| format!("SELECT {{text {column}}} FROM {{log}} {{claim-index}} WHERE {of}{column} {than} ? ORDER BY {order}{column} LIMIT 1");
    let (first, next) = (session.sql(names[1], || leap(">=")), session.sql(names[2], || leap(">")));
    let mut found: Vec<String> = Vec::new();
    for _ in 0..MOST_KINDS {
        let (sql, last) = found.last().map_or((&first, ""), |last| (&next, last.as_str()));
        let rows = session.rows(sql.clone(), &[&lead[..], &[Value::Text(last)][..]].concat()).await?;
        let Some(name) = rows.first().and_then(|row| decode::maybe_text::<D>(row, 0)) else { break };
        found.push(name);
    }
    Ok(found)
}

/// Whether rows of a project wait for other sources than these: a condition, and its parameters. It looks into the gaps between them, so that the
/// rows of its own, those that are long gone and still in the index too, are never passed over.
pub(super) fn foreign<'a>(project: &'a str, sources: &'a [Arc<str>]) -> (String, Vec<Value<'a>>) {
    let names: BTreeSet<&str> = sources.iter().map(|source| &**source).collect();
    let (mut gaps, mut values, mut last) = (Vec::new(), Vec::new(), None);
    for next in names.into_iter().map(Some).chain([None]) {
        let above = if last.is_some() { "AND source > ?" } else { "" };
        let below = if next.is_some() { "AND source < ?" } else { "" };
        gaps.push(format!("EXISTS (SELECT 1 FROM {{log}} {{claim-index}} WHERE project = ? {above} {below} {{waiting}})"));
        values.push(Value::Text(project));
        values.extend([last, next].into_iter().flatten().map(Value::Text));
        last = next;
    }
    (gaps.join(" OR "), values)
}

/// Whether a condition holds that is asked seldom.
pub(super) async fn is_true<D: Dialect>(session: &mut Session<D>, condition: &str, values: &[Value<'_>]) -> Result<bool, Fail> {
    let rows = session.rows_once(&format!("SELECT CASE WHEN {condition} THEN 1 ELSE 0 END"), values).await?;
    Ok(rows.first().is_some_and(|row| D::int(row, 0).ok().flatten() == Some(1)))
}

/// How long the longest due message of each source has waited that nobody is sending.
pub(super) async fn oldest_due<'a, D: Dialect>(
    session: &mut Session<D>,
    project: &str,
    sources: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Duration>, Fail> {
    let batch = Batch::texts(sources);
    let mut oldest: BTreeMap<String, Duration> = BTreeMap::new();
    if batch.rows == 0 {
        return Ok(oldest);
    }
    let sql = session.sql("oldest", || {
        format!(
            "SELECT b_source, (SELECT {{time due_at}} FROM {{log}} {{claim-index}} WHERE project = ? AND source = b_source AND level = n_level
                AND {{dated}} AND id NOT IN ({{on-sheets}} WHERE s.project = ? AND s.lease_until > {{now}}) ORDER BY project, source, level, due_at LIMIT 1),
                {{time {{now}}}} FROM {{table b b_source:text}} CROSS JOIN {LEVELS}"
        )
    });
    let project = Value::Text(project);
    for row in session.rows(sql, &[project, project, Value::Batch(&batch)]).await? {
        let Some(due) = D::time(&row, 1).ok().flatten().and_then(earliest) else { continue };
        let Ok(age) = (clock::<D>(&row, 2)? - due).to_std() else { continue };
        let source = decode::maybe_text::<D>(&row, 0).unwrap_or_default();
        let longest = oldest.entry(source).or_default();
        *longest = age.max(*longest);
    }
    Ok(oldest)
}

pub(super) async fn unserved<D: Dialect>(session: &mut Session<D>, own: &Served, min_age: Duration, limit: u32) -> Result<Vec<Unserved>, Fail> {
    let (foreign, names) = foreign(&own.project, &own.sources);
    let of = |other: &str| format!("EXISTS (SELECT 1 FROM {{log}} {{claim-index}} WHERE project {other} ? {{waiting}})");
    let project = Value::Text(&own.project);
    if !is_true(session, &format!("{} OR {} OR {foreign}", of("<"), of(">")), &[&[project, project][..], &names].concat()).await? {
        return Ok(Vec::new());
    }
    let mut served = served(session).await?;
    served.entry(own.project.to_string()).or_default().extend(own.sources.iter().map(ToString::to_string));
    let mut found = Vec::new();
    for project in projects(session).await? {
        let live = served.get(&project);
        let kinds: Vec<_> = kinds(session, &project).await?.into_iter().filter(|source| !live.is_some_and(|live| live.contains(source))).collect();
        if kinds.is_empty() {
            continue;
        }
        let oldest = oldest_due(session, &project, kinds.iter().map(String::as_str)).await?;
        for (source, oldest) in oldest.into_iter().filter(|(_, oldest)| *oldest >= min_age) {
            if found.len() >= limit as usize {
                return Ok(found);
            }
            found.push(Unserved { project: project.clone(), source, oldest });
        }
    }
    Ok(found)
}
