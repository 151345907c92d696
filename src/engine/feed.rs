//! Where the writers to the store take their batches from: small batches are written one at a time, so that items that arrive meanwhile join the next
//! one.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, MutexGuard};

/// From this many items on, a batch is worth a transaction beside the one that is under way.
const WORTH: usize = 64;
/// A smaller batch waits no longer than this for its turn: the one under way may be large, or the store slow.
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// A queue from which several workers take batches.
#[derive(Debug)]
pub(super) struct Feed<T> {
    queue: Mutex<UnboundedReceiver<T>>,
    turn: Mutex<()>,
}

/// Held while a batch is written: small batches wait for it.
#[derive(Debug)]
#[must_use]
pub(super) struct Turn<'a> {
    _turn: Option<MutexGuard<'a, ()>>,
}

impl<T> Feed<T> {
    pub(super) fn new(queue: UnboundedReceiver<T>) -> Self {
        Self { queue: Mutex::new(queue), turn: Mutex::default() }
    }

    /// Takes no more, and drops what is queued: whoever waits for an item learns that it will not be written.
    pub(super) async fn close(&self) {
        let mut queue = self.queue.lock().await;
        queue.close();
        // Until nobody is about to add one either.
        while queue.recv().await.is_some() {}
    }

    /// Waits for items and adds at most `most` of them to an empty batch. `None` once nothing more will come.
    pub(super) async fn take(&self, batch: &mut Vec<T>, most: usize) -> Option<Turn<'_>> {
        let mut queue = self.queue.lock().await;
        if queue.recv_many(batch, most).await == 0 {
            return None;
        }
        let mut wait = std::pin::pin!(tokio::time::sleep(LONGEST_WAIT));
        let turn = loop {
            if batch.len() >= WORTH.min(most) {
                break self.turn.try_lock().ok();
            }
            tokio::select! {
                biased;
                turn = self.turn.lock() => break Some(turn),
                more = queue.recv_many(batch, most - batch.len()) => if more == 0 { break None },
                () = &mut wait => break None,
            }
        };
        while batch.len() < most
            && let Ok(item) = queue.try_recv()
        {
            batch.push(item);
        }
        Some(Turn { _turn: turn })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    const MOST: usize = 100;

    fn feed() -> (mpsc::UnboundedSender<usize>, Arc<Feed<usize>>) {
        let (items, queue) = mpsc::unbounded_channel();
        (items, Arc::new(Feed::new(queue)))
    }

    async fn taken(feed: &Feed<usize>) -> Option<usize> {
        let mut batch = Vec::new();
        feed.take(&mut batch, MOST).await.map(|_| batch.len())
    }

    #[tokio::test]
    async fn what_comes_while_a_batch_is_written_joins_the_next() {
        let (items, feed) = feed();
        items.send(1).unwrap();
        let turn = feed.take(&mut Vec::new(), MOST).await.unwrap();
        items.send(2).unwrap();
        let next = tokio::spawn({
            let feed = feed.clone();
            async move { taken(&feed).await }
        });
        tokio::task::yield_now().await;
        items.send(3).unwrap();
        drop(turn);
        assert_eq!(next.await.unwrap(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_batch_waits_for_none_and_a_small_one_not_for_long() {
        let (items, feed) = feed();
        items.send(0).unwrap();
        let _turn = feed.take(&mut Vec::new(), MOST).await.unwrap();
        let began = Instant::now();
        (0..WORTH).for_each(|item| items.send(item).unwrap());
        assert_eq!((taken(&feed).await, began.elapsed()), (Some(WORTH), Duration::ZERO));
        items.send(0).unwrap();
        assert_eq!((taken(&feed).await, began.elapsed()), (Some(1), LONGEST_WAIT));
        (0..=MOST).for_each(|item| items.send(item).unwrap());
        assert_eq!(taken(&feed).await, Some(MOST));
        // The last ones wait for nothing that could join them.
        drop(items);
        let began = Instant::now();
        assert_eq!((taken(&feed).await, taken(&feed).await, began.elapsed()), (Some(1), None, Duration::ZERO));
    }
}
