//! `redrive bench drain`: how fast a backlog goes out.

use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::arena::{Arena, rate};
use super::database::{Connection, Kind};
use super::limit;
use super::options::Drain;
use super::place::Filling;
use super::report::Report;
use super::sidecar::Sidecar;

/// The default number of messages.
const MESSAGES: u64 = 1_000_000;

pub(super) async fn run(options: &Drain, arena: &Arena) -> Result<Report, Error> {
    let messages = options.common.messages.unwrap_or(MESSAGES);
    if options.nodes > 1 && arena.place.database.kind() == Kind::Sqlite {
        return Err(Error::Usage("--nodes: SQLite serves one sidecar at a time".to_owned()));
    }
    if options.hold_snapshot && arena.place.database.kind() != Kind::Postgres {
        return Err(Error::Usage("--hold-snapshot is for PostgreSQL".to_owned()));
    }
    let mut report = Report::new("drain");
    let sql_before = limit::claim_and_complete(arena, messages).await?;
    {
        let phase = arena.screen.phase("limit: producing alone", messages);
        report.produce_rate = arena.destination.alone(&arena.payloads, messages, &phase).await?;
    }
    {
        let phase = arena.screen.phase("filling the table", messages);
        arena.place.fill(messages, Filling::Due, &arena.payloads, &phase).await?;
    }
    let snapshot = if options.hold_snapshot { Some(hold_snapshot(arena).await?) } else { None };
    let before = arena.meters(&[]).await;
    let begun = Instant::now();
    let mut sidecars = Vec::new();
    for index in 0..options.nodes {
        let mut overrides = arena.overrides();
        overrides.node = format!("{}-{index}", overrides.node);
        sidecars.push(arena.sidecar(&overrides).await?);
    }
    // From the moment the first sidecar could have begun.
    let begun = begun + sidecars.first().map_or(Duration::ZERO, |sidecar| sidecar.ready_after);
    arena.drained(&mut sidecars, messages).await?;
    let took = begun.elapsed();
    let after = arena.meters(&sidecars).await;
    // The CPU time since their start is all theirs.
    before.with_no_cpu().used(after, messages, took, &mut report);
    drop(snapshot);
    (report.rate, report.rows) = (rate(messages, took), Some(messages));
    report.rss_peak_bytes = sidecars.iter().filter_map(Sidecar::rss_peak).max();
    for sidecar in sidecars {
        sidecar.stop().await;
    }
    let left = if arena.place.is_own() { arena.place.count("state <> 'succeeded'").await? } else { 0 };
    if left > 0 {
        return Err(Error::Failed(format!("{left} messages are not delivered although {messages} were reported as delivered")));
    }
    arena.count(&mut report, messages, &[]).await?;
    report.sql_rate = limit::both(sql_before, limit::claim_and_complete(arena, messages).await?);
    report.limit = [report.sql_rate, report.produce_rate].into_iter().flatten().reduce(f64::min);
    Ok(report)
}

/// A transaction that sees the table as it is now, for as long as it stays open.
async fn hold_snapshot(arena: &Arena) -> Result<Box<dyn Connection>, Error> {
    let mut connection = arena.place.database.connect().await?;
    connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    connection.numbers("SELECT 1::bigint").await?;
    Ok(connection)
}
