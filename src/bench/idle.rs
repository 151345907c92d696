//! `redrive bench idle`: what an idle sidecar costs.

use std::time::Duration;

use super::Error;
use super::arena::{Arena, rate};
use super::options::Idle;
use super::place::Filling;
use super::process;
use super::report::Report;

/// The work of starting is over after this.
const SETTLE: Duration = Duration::from_secs(3);
/// The database's meters may lag by this much.
const METERS: Duration = Duration::from_millis(1500);

pub(super) async fn run(options: &Idle, arena: &Arena) -> Result<Report, Error> {
    let mut report = Report::new("idle");
    let waiting = options.common.messages.unwrap_or(0);
    if waiting > 0 {
        let phase = arena.screen.phase("filling the table", waiting);
        arena.place.fill(waiting, Filling::Waiting, &arena.payloads, &phase).await?;
    }
    let mut sidecars = [arena.sidecar(&arena.overrides()).await?];
    report.ready_ms = Some(sidecars[0].ready_after.as_secs_f64() * 1000.0);
    let database = &arena.place.database;
    let span = Duration::from_secs(options.seconds);
    let phase = arena.screen.phase("doing nothing", options.seconds);
    tokio::time::sleep(SETTLE + METERS).await;
    let statements = database.read(database.statement_meter()).await;
    let operations = sidecars[0].operations().await?;
    let before = arena.meters(&sidecars).await;
    let begun = tokio::time::Instant::now();
    for second in 0..options.seconds {
        tokio::time::sleep_until(begun + Duration::from_secs(second + 1)).await;
        phase.set(second + 1);
    }
    let after = arena.meters(&sidecars).await;
    let took = begun.elapsed();
    let [sidecar] = &mut sidecars;
    let operations = sidecar.operations().await?.saturating_sub(operations);
    report.operations_per_s = rate(operations, took);
    report.connections = database.port().map(|port| process::connections(sidecar.pid(), port));
    if statements.is_some() {
        tokio::time::sleep(METERS).await;
    }
    let statements = statements.zip(database.read(database.statement_meter()).await);
    before.used(after, 0, took, &mut report);
    // Besides the sidecar, this process used the database: for the meters themselves. Those statements are few, and left in.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let per_second = |count: i64| count as f64 / (span + METERS).as_secs_f64();
    report.statements_per_s = statements.map(|(before, after)| per_second(after - before));
    report.rss_peak_bytes = process::rss(sidecar.pid()).max(sidecar.rss_peak());
    report.rows = Some(waiting);
    let [sidecar] = sidecars;
    sidecar.stop().await;
    Ok(report)
}
