//! `redrive bench growth`: what a claim costs in a large table, compared with a small one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::arena::{Arena, rate};
use super::histogram::Histogram;
use super::options::Growth;
use super::place::Filling;
use super::report::Report;
use crate::store::{Claim, Claimed, Lease, Mark, Store};

/// The default number of waiting messages, and their number in the small table.
const MESSAGES: u64 = 1_000_000;
const SMALL: u64 = 10_000;
/// The number of claims that are measured, of those before them that only warm up, and of rows in each.
const CLAIMS: u32 = 100;
const WARM: u32 = 10;
const ROWS: u32 = 50;
/// Fewer messages than all these claims take would not be enough.
pub(super) const LEAST: u64 = (WARM + CLAIMS) as u64 * ROWS as u64;

pub(super) async fn run(options: &Growth, arena: &Arena) -> Result<Report, Error> {
    let messages = options.common.messages.unwrap_or(MESSAGES);
    let mut report = Report::new("growth");
    {
        let phase = arena.screen.phase("filling the small table", SMALL.min(messages));
        arena.place.fill(SMALL.min(messages), Filling::Due, &arena.payloads, &phase).await?;
    }
    let small = claims(arena).await?;
    arena.place.empty().await?;
    {
        let phase = arena.screen.phase("filling the table with finished messages", options.finished);
        arena.place.fill(options.finished, Filling::Finished, &arena.payloads, &phase).await?;
    }
    {
        let phase = arena.screen.phase("filling the table with waiting messages", messages);
        arena.place.fill(messages, Filling::Due, &arena.payloads, &phase).await?;
    }
    let large = claims(arena).await?;
    (report.limit, report.rate) = (rate(small.rows, small.took), rate(large.rows, large.took));
    report.rows = Some(messages.saturating_add(options.finished));
    report.latencies(&large.latencies);
    Ok(report)
}

struct Measured {
    rows: u64,
    took: Duration,
    latencies: Histogram,
}

/// Claims batch after batch with the product's own store, each behind the previous one, as the engine does.
async fn claims(arena: &Arena) -> Result<Measured, Error> {
    let _phase = arena.screen.phase("claiming", u64::from(CLAIMS));
    let store = arena.place.store(&arena.config.project)?;
    store.prepare().await?;
    let mut measured = Measured { rows: 0, took: Duration::ZERO, latencies: Histogram::default() };
    let mut last = None;
    for number in 0..WARM + CLAIMS {
        let begun = Instant::now();
        let claimed = claim(arena, &*store, number, last).await?;
        let took = begun.elapsed();
        last = claimed.last;
        if number >= WARM {
            measured.rows += claimed.rows.len() as u64;
            measured.took += took;
            measured.latencies.record(took);
        }
    }
    store.close_claims((0..WARM + CLAIMS).map(token).collect()).await?;
    store.close().await;
    Ok(measured)
}

const fn token(number: u32) -> i64 {
    number as i64 + 1
}

async fn claim(arena: &Arena, store: &dyn Store, number: u32, after: Option<Mark>) -> Result<Claimed, Error> {
    let lease = Lease { token: token(number), node: Arc::from("redrive-bench"), ttl: Duration::from_secs(600) };
    let claim = Claim {
        project: arena.config.project.clone(),
        source: arena.subject.context.name.clone(),
        level: 0,
        limit: ROWS,
        max_bytes: 64 << 20,
        max_payload: 64 << 20,
        after,
        lease,
    };
    Ok(store.claim(claim).await?)
}
