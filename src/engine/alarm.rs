//! An alarm clock: whoever knows of something due sets it, and whoever looks for due messages sleeps until it rings.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Rings at the earliest moment requested since it last rang.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    at: Mutex<Option<Instant>>,
    sooner: Notify,
}

impl Alarm {
    /// Rings at `moment` at the latest.
    pub(super) fn ring_by(&self, moment: Instant) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.is_none_or(|set| moment < set) {
            *at = Some(moment);
            drop(at);
            self.sooner.notify_one();
        }
    }

    /// Waits until it rings, or until `latest`, and clears it.
    pub(super) async fn wait(&self, latest: Instant) {
        loop {
            let at = self.at.lock().unwrap_or_else(PoisonError::into_inner).map_or(latest, |set| set.min(latest));
            tokio::select! {
                () = tokio::time::sleep_until(at) => break,
                () = self.sooner.notified() => {}
            }
        }
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_rings_at_the_earliest_moment_though_it_is_set_while_one_sleeps() {
        let alarm = Arc::new(Alarm::default());
        let now = Instant::now();
        alarm.ring_by(now + Duration::from_secs(1000));
        let sleeper = tokio::spawn({
            let alarm = alarm.clone();
            async move { alarm.wait(now + Duration::from_secs(2000)).await }
        });
        tokio::task::yield_now().await;
        alarm.ring_by(now);
        tokio::time::timeout(Duration::from_secs(60), sleeper).await.unwrap().unwrap();
    }
}
