//! `redrive bench lag`: how long it takes, at a steady rate, from the moment a message is due until its destination has acknowledged it.
//!
//! The row says when the message was due, when its attempt began and how many whole milliseconds that took; adding one gives an upper bound. Both
//! times are the database's clock, the second as the sidecar keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::arena::{Arena, rate};
use super::database::{Due, Kind, Table};
use super::histogram::Histogram;
use super::load::{Load, Loaded};
use super::options::{Lag, Via};
use super::report::Report;
use super::{Error, all};

/// The number of connections for inserting rows, one row per commit.
const INSERTERS: u32 = 16;
/// The first fifth of the time in which messages come in, but at most this long, is left out of the percentiles.
const LONGEST_WARM_UP_MS: u64 = 2000;

pub(super) async fn run(options: &Lag, arena: &Arena) -> Result<Report, Error> {
    let mut report = Report::new("lag");
    let mut overrides = arena.overrides();
    if arena.deletes() {
        // The times are read from the rows.
        overrides.keep = Some("never".to_owned());
    }
    overrides.poll = options.poll.map(|poll| poll.to_string());
    let mut sidecars = [arena.sidecar(&overrides).await?];
    let before = arena.meters(&sidecars).await;
    let begun = clock(arena).await?;
    let loaded = match options.via {
        Via::Api => submit(options, arena, sidecars[0].address()).await?,
        Via::Sql => insert(options, arena).await?,
    };
    arena.delivered(&mut sidecars[0], loaded.accepted()).await?;
    let after = arena.meters(&sidecars).await;
    before.used(after, loaded.accepted(), loaded.took, &mut report);
    (report.rate, report.rows) = (rate(loaded.accepted(), loaded.took), Some(loaded.accepted()));
    report.latencies(&latencies(options, arena, &begun).await?);
    report.refused = Some(loaded.refused.len() as u64);
    report.rss_peak_bytes = sidecars[0].rss_peak();
    let [sidecar] = sidecars;
    sidecar.stop().await;
    arena.count(&mut report, loaded.submitted, &loaded.refused).await?;
    Ok(report)
}

async fn submit(options: &Lag, arena: &Arena, address: std::net::SocketAddr) -> Result<Loaded, Error> {
    let span = Duration::from_secs(options.seconds);
    let load = Load { extra: vec![("mode", "write_ahead")], span: Some(span), rate: Some(options.rate), ..arena.load(address, options.body) };
    let phase = arena.screen.phase("lag", u64::from(options.rate) * options.seconds);
    load.run(&phase).await
}

/// As an application does: one row per commit.
async fn insert(options: &Lag, arena: &Arena) -> Result<Loaded, Error> {
    let most = options.common.messages.unwrap_or(u64::MAX).min(u64::from(options.rate) * options.seconds);
    let phase = arena.screen.phase("lag", most);
    let (next, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let step = Duration::from_secs(1) / options.rate.max(1);
    let mut tasks = JoinSet::new();
    let inserters = if arena.place.database.kind() == Kind::Sqlite { 1 } else { INSERTERS };
    for _ in 0..inserters {
        let mut connection = arena.place.database.connect().await?;
        let (next, table, payloads) = (next.clone(), arena.place.table.clone(), arena.payloads.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    return Ok::<_, sqlx::Error>(());
                }
                tokio::time::sleep_until(begun + step.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))).await;
                connection.insert(&table, &[payloads.of(number)], Due::Now).await?;
            }
        });
    }
    phase.follow(all(tasks, drop), || next.load(Ordering::Relaxed).min(most)).await?;
    Ok(Loaded { submitted: most, took: begun.elapsed(), ..Loaded::default() })
}

/// The time on the database's clock, as its statements write it.
async fn clock(arena: &Arena) -> Result<String, Error> {
    let now = match arena.place.database.kind() {
        Kind::Sqlite => "SELECT CAST(CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) AS TEXT)",
        Kind::Postgres => "SELECT clock_timestamp()::text",
        Kind::Mysql => "SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)",
    };
    let said = arena.place.database.connect().await?.words(now).await?;
    said.into_iter().next().ok_or_else(|| Error::Failed("the database has no clock".to_owned()))
}

/// How much is left out at the beginning, in milliseconds.
fn warm_up(options: &Lag) -> u64 {
    let all = options.common.messages.map_or(u64::MAX, |messages| messages.saturating_mul(1000) / u64::from(options.rate.max(1)));
    ((options.seconds * 1000).min(all) / 5).min(LONGEST_WARM_UP_MS)
}

/// The time from due to acknowledged, of all messages of this run that were delivered after the warm-up.
async fn latencies(options: &Lag, arena: &Arena, begun: &str) -> Result<Histogram, Error> {
    let Table { log, source, topic, .. } = &arena.place.table;
    // The first messages meet a destination that has only just been connected, and cold caches.
    let warm = warm_up(options);
    let (micros, begun, steady) = match arena.place.database.kind() {
        Kind::Sqlite => ("(min(finished_at, attempt_started_at + attempt_ms + 1) - due_at) * 1000", begun.to_owned(), format!("{begun} + {warm}")),
        Kind::Postgres => (
            "(extract(epoch FROM least(finished_at, attempt_started_at + (attempt_ms + 1) * interval '1 millisecond') - due_at) * 1000000)::bigint",
            format!("timestamptz '{begun}'"),
            format!("timestamptz '{begun}' + {warm} * interval '1 millisecond'"),
        ),
        Kind::Mysql => (
            "least(timestampdiff(MICROSECOND, due_at, finished_at), timestampdiff(MICROSECOND, due_at, attempt_started_at) + (attempt_ms + 1) * 1000)",
            format!("TIMESTAMP'{begun}'"),
            format!("TIMESTAMP'{begun}' + INTERVAL {warm}000 MICROSECOND"),
        ),
    };
    // In a table that others use too, there may be older ones.
    let ours = format!("source = '{source}' AND topic = '{topic}' AND created_at >= {begun} AND due_at >= {steady}");
    let mut connection = arena.place.database.connect().await?;
    let all = connection.numbers(&format!("SELECT {micros} FROM {log} WHERE state = 'succeeded' AND {ours}")).await?;
    let mut histogram = Histogram::default();
    for micros in all {
        histogram.record_micros(u64::try_from(micros).unwrap_or(0));
    }
    Ok(histogram)
}
