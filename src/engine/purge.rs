//! Deletes messages past their retention, and orphaned rows, in bounded batches that leave the database time for other work in between.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::config;
use super::node::Node;
use super::portion::Portion;
use crate::message::State;
use crate::store::{self, Purged, Store, Surplus, Sweep, Swept};

/// The rest between two batches while there is more to delete, as a multiple of the time the last batch took: a purge takes a quarter of one
/// connection's time and leaves the database to those who send.
const REST: u32 = 3;
/// The same for a purge that is still running when the next one would begin.
const REST_BEHIND: u32 = 1;

/// A batch that may be too large for the database is retried in smaller ones, at most `TRIES` times in a row, each after `PAUSE`, before the purge is
/// given up; the next purge starts with the size reached. A batch of one is not retried: its size is not the problem.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// How many entries of the attempt log are checked at once for messages that no longer exist.
const LOOK: u32 = 1000;
/// How many such checks a purge of a running node makes; the next purge goes on from there.
const LOOKS: u32 = 20;

/// The purge of one project.
#[derive(Clone, Debug)]
pub struct Purge {
    /// The resend log.
    pub store: Arc<dyn Store>,
    /// The project.
    pub project: Arc<str>,
    /// How long finished messages are kept.
    pub history: config::History,
}

impl Purge {
    /// Deletes until nothing is past its retention, or until `progress`, which is called with each batch, returns `false`. Logs what was deleted
    /// here, so that no failed message that nobody dealt with disappears without a line.
    pub async fn run(&self, progress: impl FnMut(&Purged) -> bool + Send) -> Result<Purged, store::Error> {
        self.run_in(&mut self.portion(), progress).await
    }

    /// The same, with a batch size that may have been reduced before.
    async fn run_in(&self, portion: &mut Portion, progress: impl FnMut(&Purged) -> bool + Send) -> Result<Purged, store::Error> {
        let mut total = Purged::default();
        let done = self.delete(portion, progress, &mut total).await;
        report(&total);
        done.map(|()| total)
    }

    async fn delete(&self, portion: &mut Portion, mut progress: impl FnMut(&Purged) -> bool + Send, total: &mut Purged) -> Result<(), store::Error> {
        let (began, mut failures) = (Instant::now(), 0);
        loop {
            let asked = Instant::now();
            let purged = match self.store.purge(self.request(total.surplus, portion)).await {
                Ok(purged) => purged,
                Err(error) => {
                    let size = portion.size();
                    if !portion.failed(size, &error, Instant::now()) || size == 1 || failures == TRIES {
                        return Err(error);
                    }
                    failures += 1;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let took = asked.elapsed();
            failures = 0;
            let largest = purged.rows.values().copied().max().unwrap_or(0).max(purged.keys);
            portion.worked(usize::try_from(largest).unwrap_or(usize::MAX), Instant::now());
            total.surplus = purged.surplus;
            for (state, rows) in &purged.rows {
                *total.rows.entry(*state).or_default() += rows;
            }
            total.keys += purged.keys;
            if !progress(&purged) || !purged.more {
                return Ok(());
            }
            let is_behind = began.elapsed() > self.history.every.get();
            tokio::time::sleep(took * if is_behind { REST_BEHIND } else { REST }).await;
        }
    }

    /// Deletes orphaned rows, going through the whole attempt log: a command remembers no position in it.
    pub async fn sweep(&self) -> Result<Swept, store::Error> {
        self.sweep_some(&mut Uuid::nil(), u32::MAX).await
    }

    /// The same, for at most `looks` pieces of the log, starting at `place`, which becomes where the next call goes on; after the end, that is the
    /// beginning.
    async fn sweep_some(&self, place: &mut Uuid, looks: u32) -> Result<Swept, store::Error> {
        let mut total = Swept::default();
        for _ in 0..looks {
            let asked = Instant::now();
            let swept = self.store.sweep(Sweep { project: self.project.clone(), after: *place, limit: LOOK }).await?;
            let took = asked.elapsed();
            total.attempts += swept.attempts;
            total.turns += swept.turns;
            *place = swept.after.unwrap_or_default();
            if swept.after.is_none() {
                break;
            }
            tokio::time::sleep(took * REST).await;
        }
        Ok(total)
    }

    fn portion(&self) -> Portion {
        Portion::new(self.history.batch as usize)
    }

    fn request(&self, surplus: Option<Surplus>, portion: &Portion) -> store::Purge {
        store::Purge {
            project: self.project.clone(),
            keep: State::FINISHED.iter().map(|state| (*state, self.history.keep.of(*state))).collect(),
            max_rows: self.history.max_rows,
            surplus,
            batch: u32::try_from(portion.size()).unwrap_or(self.history.batch),
        }
    }

    /// Purges at the configured interval until `stop` is cancelled.
    pub(super) async fn keep(self, node: Arc<Node>, stop: CancellationToken) {
        let (mut place, mut portion) = (Uuid::nil(), self.portion());
        loop {
            node.health.is_back().await;
            let counted = |purged: &Purged| {
                for (state, rows) in &purged.rows {
                    node.metrics.purged(state.as_str(), *rows);
                }
                !stop.is_cancelled()
            };
            if let Err(error) = self.run_in(&mut portion, counted).await {
                node.health.failed_beside("purge", &error);
            }
            match self.sweep_some(&mut place, LOOKS).await {
                Ok(Swept { attempts: 0, turns: 0, .. }) => {}
                Ok(Swept { attempts, turns, .. }) => tracing::info!(attempts, turns, "deleted orphaned attempt-log rows"),
                Err(error) => node.health.failed_beside("sweep", &error),
            }
            tokio::select! {
                () = tokio::time::sleep(self.history.every.get()) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

fn report(total: &Purged) {
    let of = |state: State| total.rows.get(&state).copied().unwrap_or(0);
    let (succeeded, failed, cancelled) = (of(State::Succeeded), of(State::Failed), of(State::Cancelled));
    if failed > 0 {
        tracing::warn!(
            rows.failed = failed,
            rows.succeeded = succeeded,
            rows.cancelled = cancelled,
            keys = total.keys,
            "purged history, including failed messages"
        );
    } else if succeeded + cancelled > 0 {
        tracing::info!(rows.succeeded = succeeded, rows.cancelled = cancelled, keys = total.keys, "purged history");
    }
}
