//! Which nodes are alive, and what nobody serves.

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

/// A look for strays goes through at most this many sources. If an application invents more, these are reported first.
pub(super) const MOST_KINDS: i64 = 200;
/// A source stays known this long after its last node signed off or stopped beating: the node may come back, and the messages wait for it.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// No beat is valid for longer than this. An expiry further ahead was written before the database's clock was set back, by a node that has not beaten
/// since.
const FURTHEST: Duration = Duration::from_secs(60);
/// At most this many nodes are deleted at once.
const MOST_FORGOTTEN: i64 = 500;
/// At most this many lost attempts are looked at: a dead node may leave behind everything that it was sending.
const MOST_LOST: i64 = 10_000;

/// True of rows that are being sent, or were when their node died.
const SENDING: &str = "AND state = 'sending'";
/// Leases that have run out. A row without a lease may be `sending` because an application wrote that.
pub(super) const LAPSED: [&str; 2] = ["lease_until <= {now}", "lease_until IS NULL"];

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

/// The sources of a node as its row lists them: those that it serves, or those that it only takes messages for.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Names {
    Served(Vec<String>),
    Accepted { accepts: Vec<String> },
}

/// The sources that a node recorded; `None` if they can't be read, for example because a later release wrote them.
fn written<D: Dialect>(row: &Row<D>, index: usize) -> Option<Names> {
    serde_json::from_str(&decode::maybe_text::<D>(row, index)?).ok()
}

/// Marks this node as stopped, and [deletes](forget) the rows of nodes that expired: a run from cron has no other occasion to.
pub(super) async fn sign_off<D: Dialect>(session: &mut Session<D>, project: &str, node: &str) -> Result<(), Fail> {
    let end = session.sql("sign_off", || "UPDATE {node} SET expires_at = {now} WHERE project = ? AND node = ? AND expires_at > {now}".to_owned());
    session.execute(end, &[Value::Text(project), Value::Text(node)]).await?;
    forget(session, project).await
}

/// Deletes the rows of nodes that expired long ago, since nobody needs to know any more what they knew, and of those with the same
/// sources as one that lived longer: a process that is restarted over and over leaves one row, not one per start. They are looked for without a lock, so that no
/// heartbeat has to wait.
pub(super) async fn forget<D: Dialect>(session: &mut Session<D>, project: &str) -> Result<(), Fail> {
    let over = session.sql("nodes_over", || {
        format!(
            "SELECT {{text node}} FROM {{node}} AS n WHERE n.project = ? AND n.expires_at <= {{now}} AND (n.expires_at < {{plus {{now}}|?}}
                OR EXISTS (SELECT 1 FROM {{node}} AS o WHERE o.project = n.project AND o.sources = n.sources AND o.expires_at > n.expires_at))
             ORDER BY n.node LIMIT {MOST_FORGOTTEN}"
        )
    });
    let over = decode::texts::<D>(&session.rows(over, &[Value::Text(project), Value::Int(-micros(KNOWN_FOR))]).await?);
    let forget = session.sql("nodes_forget", || "DELETE FROM {node} WHERE project = ? AND node = ? AND expires_at <= {now}".to_owned());
    for node in &over {
        session.execute(forget.clone(), &[Value::Text(project), Value::Text(node)]).await?;
    }
    Ok(())
}

/// The sources that live nodes serve, by project.
pub(super) async fn served<D: Dialect>(session: &mut Session<D>) -> Result<BTreeMap<String, HashSet<String>>, Fail> {
    let sql = session
        .sql("served", || "SELECT {text project}, {text sources} FROM {node} WHERE expires_at > {now} AND expires_at <= {plus {now}|?}".to_owned());
    let mut served: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    for row in session.rows(sql, &[Value::Int(micros(FURTHEST))]).await? {
        let Some(Names::Served(sources)) = written::<D>(&row, 1) else { continue };
        served.entry(decode::maybe_text::<D>(&row, 0).unwrap_or_default()).or_default().extend(sources);
    }
    Ok(served)
}

/// The sources that nodes of a project know, including nodes that died within the last day.
pub(super) struct Known {
    pub(super) sources: HashSet<String>,
    /// Whether the list is complete: if not, no other source may be considered unknown.
    pub(super) is_all: bool,
}

pub(super) async fn known<D: Dialect>(session: &mut Session<D>, project: &str) -> Result<Known, Fail> {
    let sql = session.sql("known", || "SELECT {text sources} FROM {node} WHERE project = ? AND expires_at > {plus {now}|?}".to_owned());
    let rows = session.rows(sql, &[Value::Text(project), Value::Int(-micros(KNOWN_FOR))]).await?;
    let mut known = Known { sources: HashSet::new(), is_all: true };
    for row in &rows {
        match written::<D>(row, 0) {
            Some(Names::Served(sources) | Names::Accepted { accepts: sources }) => known.sources.extend(sources),
            None => known.is_all = false,
        }
    }
    Ok(known)
}

/// The sources of a project's waiting rows.
pub(super) async fn kinds<D: Dialect>(session: &mut Session<D>, project: &str) -> Result<Vec<String>, Fail> {
    leaps(session, ["kinds", "kinds_first", "kinds_next"], "source", Some(project), "{waiting}").await
}

/// The projects with rows that are waiting or being sent.
async fn projects<D: Dialect>(session: &mut Session<D>) -> Result<BTreeSet<String>, Fail> {
    let mut projects: BTreeSet<_> =
        leaps(session, ["projects", "projects_first", "projects_next"], "project", None, "{waiting}").await?.into_iter().collect();
    // Where the claim's index holds all rows, it includes those that are being sent.
    if D::LEAPS {
        projects.extend(leaps(session, ["projects_sending", "", ""], "project", None, SENDING).await?);
    }
    Ok(projects)
}

/// The distinct values of a column among such rows, in general or within a project. They are found by leaping through an index from one value to the
/// next instead of reading it all: in one statement or, in the claim's index, with one statement per leap.
async fn leaps<D: Dialect>(
    session: &mut Session<D>,
    names: [&'static str; 3],
    column: &str,
    project: Option<&str>,
    rows: &str,
) -> Result<Vec<String>, Fail> {
    let lead: Vec<_> = project.map(Value::Text).into_iter().collect();
    let (of, l_of, order) = if lead.is_empty() { ("", "", "") } else { ("project = ? AND ", "l.project = ? AND ", "project, ") };
    if D::LEAPS {
        let sql = session.sql(names[0], || {
            format!(
                "WITH RECURSIVE kinds ({column}, n) AS (
                    SELECT {column}, 1 FROM (SELECT {column} FROM {{log}} WHERE {of}{column} IS NOT NULL {rows} ORDER BY {column} LIMIT 1) AS first
                    UNION ALL
                    SELECT (SELECT l.{column} FROM {{log}} l WHERE {l_of}l.{column} > kinds.{column} {rows} ORDER BY l.{column} LIMIT 1), kinds.n + 1
                    FROM kinds WHERE kinds.{column} IS NOT NULL AND kinds.n < {MOST_KINDS}
                 ) SELECT {{text {column}}} FROM kinds WHERE {column} IS NOT NULL"
            )
        });
        let found = session.rows(sql, &lead.repeat(2)).await?;
        return Ok(decode::texts::<D>(&found));
    }
    let leap =
        |than: &str| format!("SELECT {{text {column}}} FROM {{log}} {{claim-index}} WHERE {of}{column} {than} ? ORDER BY {order}{column} LIMIT 1");
    let (first, next) = (session.sql(names[1], || leap(">=")), session.sql(names[2], || leap(">")));
    let mut found: Vec<String> = Vec::new();
    for _ in 0..MOST_KINDS {
        let (sql, last) = found.last().map_or((&first, ""), |last| (&next, last.as_str()));
        let answer = session.rows(sql.clone(), &[&lead[..], &[Value::Text(last)][..]].concat()).await?;
        let Some(name) = answer.first().and_then(|row| decode::maybe_text::<D>(row, 0)) else { break };
        found.push(name);
    }
    Ok(found)
}

/// A condition, with its parameters, that is true if rows of the project wait for sources other than these. It looks into the gaps between their
/// names, so that the many entries of these sources, including those of rows delivered long ago, are never read.
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

/// A condition that is true if rows of the project are being sent under such a lease for sources other than these; its parameters are the project and
/// a batch of the sources.
pub(super) fn orphaned(lease: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM {{log}} WHERE project = ? {SENDING} AND {lease}
            AND ({{sourceless}} OR source NOT IN (SELECT s_source FROM {{table s s_source:text}})))"
    )
}

/// Evaluates a condition that is seldom asked for.
pub(super) async fn is_true<D: Dialect>(session: &mut Session<D>, condition: &str, values: &[Value<'_>]) -> Result<bool, Fail> {
    let rows = session.rows_once(&format!("SELECT CASE WHEN {condition} THEN 1 ELSE 0 END"), values).await?;
    Ok(rows.first().is_some_and(|row| D::int(row, 0).ok().flatten() == Some(1)))
}

/// How long the message that has been due longest, and that nobody is sending, has waited: for each of these sources, and for every source with lost
/// attempts.
pub(super) async fn overdue<'a, D: Dialect>(
    session: &mut Session<D>,
    project: &str,
    sources: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Duration>, Fail> {
    let mut oldest = oldest_due(session, project, sources).await?;
    for (source, age) in lost(session, project).await? {
        lengthen(&mut oldest, source, age);
    }
    Ok(oldest)
}

/// The same, for the messages on a level.
async fn oldest_due<'a, D: Dialect>(
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
        lengthen(&mut oldest, source, age);
    }
    Ok(oldest)
}

/// Records how long a message of a source has waited, if none has waited longer.
fn lengthen(oldest: &mut BTreeMap<String, Duration>, source: String, age: Duration) {
    let longest = oldest.entry(source).or_default();
    *longest = age.max(*longest);
}

/// For each source, how long the longest due message has waited whose attempt is lost and that nobody has taken over. Such messages are on no level
/// and on no sheet.
async fn lost<D: Dialect>(session: &mut Session<D>, project: &str) -> Result<BTreeMap<String, Duration>, Fail> {
    let sql = session.sql("lost", || {
        let [past, none] = LAPSED;
        format!(
            "SELECT {{text source}}, {{time min(due_at)}}, {{time min(lease_until)}}, {{time {{now}}}}
             FROM (SELECT source, due_at, lease_until FROM {{log}} WHERE project = ? {SENDING} AND ({past} OR {none}) LIMIT {MOST_LOST}) AS l
             GROUP BY source"
        )
    });
    let mut lost = BTreeMap::new();
    for row in session.rows(sql, &[Value::Text(project)]).await? {
        let Some(source) = decode::maybe_text::<D>(&row, 0) else { continue };
        // If the due time is missing or invalid, the lease's end is used.
        let Some(since) = [1, 2].into_iter().filter_map(|column| D::time(&row, column).ok().flatten().and_then(earliest)).min() else { continue };
        if let Ok(age) = (clock::<D>(&row, 3)? - since).to_std() {
            lengthen(&mut lost, source, age);
        }
    }
    Ok(lost)
}

/// A condition, with its parameters, that is true if there may be rows that wait for a node other than the asking one.
fn others<'a, D: Dialect>(own: &'a Served, sources: &'a Batch<'a>) -> (String, Vec<Value<'a>>) {
    let (foreign, names) = foreign(&own.project, &own.sources);
    let project = Value::Text(&own.project);
    let (mut any, mut values) = (Vec::new(), Vec::new());
    // Where the claim's index holds all rows, it includes those that are being sent.
    let kinds = if D::WAITING.is_empty() { 1 } else { 2 };
    for rows in ["{waiting}", SENDING].into_iter().take(kinds) {
        for other in ["<", ">"] {
            any.push(format!("EXISTS (SELECT 1 FROM {{log}} {{claim-index}} WHERE project {other} ? {rows})"));
            values.push(project);
        }
    }
    for lease in LAPSED {
        any.push(orphaned(lease));
        values.extend([project, Value::Batch(sources)]);
    }
    any.push(foreign);
    values.extend(names);
    (any.join(" OR "), values)
}

pub(super) async fn unserved<D: Dialect>(session: &mut Session<D>, own: &Served, min_age: Duration, limit: u32) -> Result<Vec<Unserved>, Fail> {
    let sources = Batch::texts(own.sources.iter().map(|source| &**source));
    let (others, values) = others::<D>(own, &sources);
    if !is_true(session, &others, &values).await? {
        return Ok(Vec::new());
    }
    let mut served = served(session).await?;
    served.entry(own.project.to_string()).or_default().extend(own.sources.iter().map(ToString::to_string));
    let mut found = Vec::new();
    for project in projects(session).await? {
        let live = served.get(&project);
        let is_nobodys = |source: &str| !live.is_some_and(|live| live.contains(source));
        let kinds = kinds(session, &project).await?;
        let kinds = kinds.iter().map(String::as_str).filter(|source| is_nobodys(source));
        let overdue = overdue(session, &project, kinds).await?;
        for (source, oldest) in overdue.into_iter().filter(|(source, oldest)| is_nobodys(source) && *oldest >= min_age) {
            if found.len() >= limit as usize {
                return Ok(found);
            }
            found.push(Unserved { project: project.clone(), source, oldest });
        }
    }
    Ok(found)
}
