//! `redrive bench accept`: how fast messages are taken, with nothing being sent.

use super::Error;
use super::arena::{Arena, rate};
use super::limit;
use super::load::Load;
use super::options::{Accept, Body, When};
use super::place::Filling;
use super::plain::Plain;
use super::report::Report;
use super::sidecar::Listener;

/// Messages unless told.
const MESSAGES: u64 = 500_000;

pub(super) async fn run(options: &Accept, arena: &Arena) -> Result<Report, Error> {
    let messages = options.common.messages.unwrap_or(MESSAGES);
    let mut report = Report::new("accept");
    match options.mode {
        When::WriteAhead => {
            report.limit = limit::batched_insert(arena, messages).await?;
            let (one_row, connections) = limit::one_row(arena, options.common.connections).await?;
            (report.one_row_rate, report.one_row_connections) = (one_row, one_row.map(|_| connections));
        }
        When::OnFailure => report.limit = through_plain_server(options, arena, messages).await?,
    }
    if options.purge > 0 {
        let phase = arena.screen.phase("filling the table with finished messages", options.purge);
        arena.place.fill(options.purge, Filling::Old, &arena.payloads, &phase).await?;
    }
    // A node purges as it starts.
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
        // Nothing that was answered for may be missing in the table.
        let kept = arena.place.count("state = 'pending'").await?;
        if kept < loaded.accepted() {
            return Err(Error::Failed(format!("{} messages were accepted and {kept} are in the table", loaded.accepted())));
        }
    }
    let [sidecar] = sidecars;
    sidecar.stop().await;
    Ok(report)
}

/// Producing alone through an HTTP server, where that can be done.
async fn through_plain_server(options: &Accept, arena: &Arena, messages: u64) -> Result<Option<f64>, Error> {
    // It knows nothing of batches.
    let Some(topic) = arena.destination.beside().filter(|_| options.body != Body::Ndjson) else { return Ok(None) };
    let plain = Plain { source: arena.source().to_owned(), topic: topic.to_owned() };
    let listener = Listener::start("plain", &options.common.config, &plain).await?;
    let phase = arena.screen.phase("limit: producing alone through an HTTP server", messages);
    let loaded = load(options, arena, messages, listener.address).run(&phase).await?;
    listener.stop().await;
    Ok(rate(loaded.accepted(), loaded.took))
}

fn load(options: &Accept, arena: &Arena, messages: u64, address: std::net::SocketAddr) -> Load {
    let extra = match options.mode {
        // So far that no send competes.
        When::WriteAhead => vec![("delay", "30d")],
        When::OnFailure => vec![("mode", options.mode.mode().as_str())],
    };
    Load {
        address,
        source: arena.source().to_owned(),
        topic: arena.topic().to_owned(),
        payloads: arena.payloads.clone(),
        body: options.body,
        connections: options.common.connections,
        extra,
        messages: Some(messages),
        span: None,
        rate: options.rate,
    }
}
