//! `redrive bench accept`: how fast messages are accepted while nothing is sent.

use super::Error;
use super::arena::{Arena, rate};
use super::limit::{self, Pace};
use super::load::Load;
use super::node::Overrides;
use super::options::{Accept, Body, When};
use super::place::Filling;
use super::plain::Plain;
use super::report::Report;
use super::sidecar::Listener;

/// The default number of messages.
const MESSAGES: u64 = 500_000;

pub(super) async fn run(options: &Accept, arena: &Arena) -> Result<Report, Error> {
    let messages = options.common.messages.unwrap_or(MESSAGES);
    let mut report = Report::new("accept");
    let limits_before = Limits::measure(options, arena, messages).await?;
    let mut without_purge = 0;
    if options.purge > 0 {
        let phase = arena.screen.phase("filling the table with finished messages", options.purge);
        arena.place.fill(options.purge, Filling::Old, &arena.payloads, &phase).await?;
        arena.place.checkpoint().await?;
        drop(phase);
        // Kept whatever their age and number.
        let keeping = Overrides { keep: Some("never".to_owned()), max_rows: Some(u64::MAX), ..arena.overrides() };
        let sidecar = arena.sidecar(&keeping).await?;
        // The filled rows are still being written to disk for a while, which would count against whichever load comes first.
        let phase = arena.screen.phase("accept until it runs smoothly", messages);
        let warm = load(options, arena, messages, sidecar.address()).run(&phase).await?;
        drop(phase);
        let phase = arena.screen.phase("accept without a purge", messages);
        let loaded = load(options, arena, messages, sidecar.address()).run(&phase).await?;
        sidecar.stop().await;
        report.without_purge(&loaded.latencies);
        without_purge = warm.accepted() + loaded.accepted();
    }
    // A node purges when it starts.
    let mut sidecars = [arena.sidecar(&arena.overrides()).await?];
    let before = arena.meters(&sidecars).await;
    let loaded = {
        let phase = arena.screen.phase("accept", messages);
        load(options, arena, messages, sidecars[0].address()).run(&phase).await?
    };
    let after = arena.meters(&sidecars).await;
    before.used(after, loaded.accepted(), loaded.took, &mut report);
    (report.rate, report.rows) = (rate(loaded.accepted(), loaded.took), Some(loaded.accepted()));
    report.latencies(&loaded.latencies);
    report.rss_peak_bytes = sidecars[0].rss_peak();
    report.refused = Some(loaded.refused.len() as u64);
    if options.purge > 0 {
        report.purged = Some(sidecars[0].metric("redrive_purged_total", "state=").await?);
    }
    if options.mode == When::OnFailure {
        arena.delivered(&mut sidecars[0], loaded.accepted()).await?;
        arena.count(&mut report, loaded.submitted, &loaded.refused).await?;
    } else {
        // No accepted message may be missing from the table.
        let kept = arena.place.count("state = 'pending'").await?;
        let accepted = without_purge + loaded.accepted();
        if kept < accepted {
            return Err(Error::Failed(format!("{accepted} messages were accepted and {kept} are in the table")));
        }
    }
    let [sidecar] = sidecars;
    sidecar.stop().await;
    let limits_after = Limits::measure(options, arena, messages).await?;
    report.limit = limit::both(limits_before.limit, limits_after.limit);
    report.one_row_rate = limit::both(limits_before.one_row.map(|(pace, _)| pace), limits_after.one_row.map(|(pace, _)| pace));
    report.one_row_connections = limits_after.one_row.map(|(_, connections)| connections);
    Ok(report)
}

/// The two halves of the limit that the load is compared with.
struct Limits {
    limit: Option<Pace>,
    one_row: Option<(Pace, u64)>,
}

impl Limits {
    async fn measure(options: &Accept, arena: &Arena, messages: u64) -> Result<Self, Error> {
        Ok(match options.mode {
            When::WriteAhead => {
                let limit = limit::batched_insert(arena, messages).await?;
                Self { limit, one_row: limit::one_row(arena, options.common.connections).await? }
            }
            When::OnFailure => Self { limit: through_plain_server(options, arena, messages.div_ceil(2)).await?, one_row: None },
        })
    }
}

/// Producing alone through an HTTP server, where that can be measured.
async fn through_plain_server(options: &Accept, arena: &Arena, messages: u64) -> Result<Option<Pace>, Error> {
    // That server does not support batches.
    let Some(topic) = arena.destination.beside().filter(|_| options.body != Body::Ndjson) else { return Ok(None) };
    let plain = Plain { source: arena.source().to_owned(), topic: topic.to_owned() };
    let listener = Listener::start("plain", &options.common.config, &plain).await?;
    let phase = arena.screen.phase("limit: producing alone through an HTTP server", messages);
    let loaded = load(options, arena, messages, listener.address).run(&phase).await?;
    listener.stop().await;
    Ok(Some(Pace { done: loaded.accepted(), took: loaded.took }))
}

fn load(options: &Accept, arena: &Arena, messages: u64, address: std::net::SocketAddr) -> Load {
    let extra = match options.mode {
        // So far ahead that no send interferes.
        When::WriteAhead => vec![("delay", "30d")],
        When::OnFailure => vec![("mode", options.mode.mode().as_str())],
    };
    Load { extra, messages: Some(messages), rate: options.rate, ..arena.load(address, options.body) }
}
