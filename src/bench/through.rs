//! `redrive bench through`: messages come in and go out at the same time, for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::arena::{Arena, rate};
use super::load::Load;
use super::options::Through;
use super::report::Report;

pub(super) async fn run(options: &Through, arena: &Arena) -> Result<Report, Error> {
    let span = Duration::from_secs(options.seconds);
    let mut report = Report::new("through");
    let mut sidecars = [arena.sidecar(&arena.overrides()).await?];
    let before = arena.meters(&sidecars).await;
    let load = Load { span: Some(span), rate: options.rate, ..arena.load(sidecars[0].address(), options.body) };
    let begun = Instant::now();
    let loaded = {
        let expected = options.common.messages.unwrap_or_else(|| u64::from(options.rate.unwrap_or(20_000)) * options.seconds);
        let phase = arena.screen.phase("through", expected);
        load.run(&phase).await?
    };
    // Whatever is delivered by now went all the way within this time.
    let [sidecar] = &mut sidecars;
    let delivered = sidecar.delivered().await?;
    let took = begun.elapsed();
    report.backlog = Some(loaded.accepted().saturating_sub(delivered));
    arena.delivered(sidecar, loaded.accepted()).await?;
    let after = arena.meters(&sidecars).await;
    before.used(after, loaded.accepted(), begun.elapsed(), &mut report);
    (report.rate, report.rows) = (rate(delivered, took), Some(loaded.accepted()));
    report.latencies(&loaded.latencies);
    report.refused = Some(loaded.refused.len() as u64);
    report.rss_peak_bytes = sidecars[0].rss_peak();
    let [sidecar] = sidecars;
    sidecar.stop().await;
    arena.count(&mut report, loaded.submitted, &loaded.refused).await?;
    Ok(report)
}
