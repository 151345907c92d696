//! The limits: what the smallest possible code achieves with the same database. They are never measured in a table that others use: their rows would
//! be completed without being sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::arena::{Arena, rate};
use super::database::{Connection, Due, Kind};
use super::place::Filling;
use super::screen::Phase;
use super::{Error, all};

/// The number of rows in a batched INSERT, and of connections for it.
const BATCH: usize = 100;
const WRITERS: usize = 2;
/// The number of connections that claim and complete at once.
const CLAIMERS: usize = 4;
/// The minimum and maximum number of messages for each half of a limit.
const ROWS: std::ops::RangeInclusive<u64> = 500..=100_000;
/// How long each half of one-row commits is measured.
const ONE_ROW: Duration = Duration::from_millis(2500);

/// How much was done in what time. A limit has two halves, one before the load and one after it, since a machine that others use too is not always
/// equally fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) done: u64,
    pub(super) took: Duration,
}

/// The rate of both halves together, per second.
pub(super) fn both(before: Option<Pace>, after: Option<Pace>) -> Option<f64> {
    let (before, after) = before.zip(after)?;
    rate(before.done + after.done, before.took + after.took)
}

/// The number of messages for half a limit: both halves together have as many as the load, so that the tables fit into memory equally well, unless
/// that would take all day.
fn part(messages: u64) -> u64 {
    (messages / 2).clamp(*ROWS.start(), *ROWS.end())
}

/// Batched INSERT alone.
pub(super) async fn batched_insert(arena: &Arena, messages: u64) -> Result<Option<Pace>, Error> {
    if !arena.place.is_own() {
        return Ok(None);
    }
    arena.place.empty().await?;
    let batches = part(messages).div_ceil(BATCH as u64);
    let phase = arena.screen.phase("limit: batched INSERT alone", batches * BATCH as u64);
    // SQLite has a single writer.
    let writers = if arena.place.database.kind() == Kind::Sqlite { 1 } else { WRITERS };
    let connections = connections(arena, writers).await?;
    let left = AtomicI64::new(i64::try_from(batches).unwrap_or(i64::MAX));
    let pace = insert(arena, connections, BATCH, left, None, Some(&phase)).await?;
    arena.place.empty().await?;
    Ok(Some(pace))
}

/// One row per commit, on as many of the wanted connections as the database allows; returns their number too.
pub(super) async fn one_row(arena: &Arena, wanted: u32) -> Result<Option<(Pace, u64)>, Error> {
    if !arena.place.is_own() {
        return Ok(None);
    }
    let connections = match arena.place.database.kind() {
        Kind::Sqlite => connections(arena, 1).await?,
        Kind::Postgres | Kind::Mysql => as_many(arena, wanted as usize).await?,
    };
    let count = connections.len() as u64;
    let _phase = arena.screen.phase(&format!("one row a commit on {count} connections"), ONE_ROW.as_secs());
    let pace = insert(arena, connections, 1, AtomicI64::new(i64::MAX), Some(ONE_ROW), None).await?;
    arena.place.empty().await?;
    Ok(Some((pace, count)))
}

async fn connections(arena: &Arena, count: usize) -> Result<Vec<Box<dyn Connection>>, Error> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(arena.place.database.connect().await?);
    }
    Ok(connections)
}

/// As many connections as are wanted, or as the server allows; a few are left to others.
async fn as_many(arena: &Arena, wanted: usize) -> Result<Vec<Box<dyn Connection>>, Error> {
    const OTHERS: usize = 4;
    let mut connections = connections(arena, 1).await?;
    while connections.len() < wanted {
        let Ok(connection) = arena.place.database.connect().await else {
            connections.truncate(connections.len().saturating_sub(OTHERS).max(1));
            break;
        };
        connections.push(connection);
    }
    Ok(connections)
}

/// Inserts batches on all connections until none are `left` or the time is up; `phase`, if given, counts rows.
async fn insert(
    arena: &Arena,
    connections: Vec<Box<dyn Connection>>,
    batch: usize,
    left: AtomicI64,
    within: Option<Duration>,
    phase: Option<&Phase>,
) -> Result<Pace, Error> {
    let (left, done, begun) = (Arc::new(left), Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let (left, done, table) = (left.clone(), done.clone(), arena.place.table.clone());
        let payloads: Vec<Vec<u8>> = (0..batch as u64).map(|number| arena.payloads.of(number)).collect();
        tasks.spawn(async move {
            while left.fetch_sub(1, Ordering::Relaxed) > 0 && within.is_none_or(|within| begun.elapsed() < within) {
                connection.insert(&table, &payloads, Due::InAMonth).await?;
                done.fetch_add(batch as u64, Ordering::Relaxed);
            }
            Ok::<_, sqlx::Error>(())
        });
    }
    match phase {
        Some(phase) => phase.follow(all(tasks, drop), || done.load(Ordering::Relaxed)).await?,
        None => all(tasks, drop).await?,
    }
    Ok(Pace { done: done.load(Ordering::Relaxed), took: begun.elapsed() })
}

/// Claims and completes with SQL alone. Leaves the table empty.
pub(super) async fn claim_and_complete(arena: &Arena, messages: u64) -> Result<Option<Pace>, Error> {
    if !arena.place.is_own() {
        return Ok(None);
    }
    arena.place.empty().await?;
    let (rows, delete) = (part(messages), arena.deletes());
    {
        let phase = arena.screen.phase("limit: filling the table", rows);
        arena.place.fill(rows, Filling::Due, &arena.payloads, &phase).await?;
    }
    let phase = arena.screen.phase("limit: claim and complete with SQL alone", rows);
    let claimers = if arena.place.database.kind() == Kind::Sqlite { 1 } else { CLAIMERS };
    let connections = connections(arena, claimers).await?;
    let (done, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let (done, table) = (done.clone(), arena.place.table.clone());
        tasks.spawn(async move {
            // A claim that finds nothing may only have found what others hold.
            let mut empty = 0;
            while empty < 3 {
                let count = connection.claim_and_complete(&table, delete).await?;
                done.fetch_add(count as u64, Ordering::Relaxed);
                empty = if count == 0 { empty + 1 } else { 0 };
            }
            Ok::<_, sqlx::Error>(())
        });
    }
    phase.follow(all(tasks, drop), || done.load(Ordering::Relaxed)).await?;
    let took = begun.elapsed();
    arena.place.empty().await?;
    Ok(Some(Pace { done: done.load(Ordering::Relaxed), took }))
}
