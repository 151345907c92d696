//! A pipeline as the engine feeds it: every delivery ends, even if the pipeline forgets it, and a message that makes the pipeline panic is found.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use crate::outcome::Outcome;
use crate::source::{Delivery, PANICKED, Pipeline, Receipt};

/// After a panic over several messages, those that are tried again within this time are sent one by one. They are due again within half of it, unless
/// their policy says otherwise.
const ONE_BY_ONE: Duration = Duration::from_secs(60);
/// So many batches are remembered before those that have ended are looked for.
const BATCHES: usize = 64;

/// A pipeline, and what it has been given.
pub(super) struct Pipe {
    source: Arc<str>,
    pipeline: Arc<dyn Pipeline>,
    /// How long a delivery, or a call, may take.
    limit: Duration,
    batches: VecDeque<(Instant, Weak<Batch>)>,
    /// How many batches are remembered before those that have ended are forgotten.
    most: usize,
    panicked: Arc<Mutex<Option<Instant>>>,
}

/// The receipts of one batch. Each is taken by whoever ends its delivery first: the pipeline, or the clock.
struct Batch {
    receipts: Vec<Mutex<Option<Receipt>>>,
    panicked: Arc<Mutex<Option<Instant>>>,
}

impl Pipe {
    pub(super) fn new(source: Arc<str>, pipeline: Arc<dyn Pipeline>, limit: Duration) -> Self {
        Self { source, pipeline, limit, batches: VecDeque::new(), most: BATCHES, panicked: Arc::default() }
    }

    /// Hands deliveries to the pipeline, and waits until it takes more.
    pub(super) async fn send(&mut self, batch: Vec<Delivery>) {
        // A dispatcher with something to send each time it looks never waits for the clock.
        self.end();
        let is_careful = self.is_careful();
        let (alone, together): (Vec<_>, Vec<_>) = batch.into_iter().partition(|delivery| is_careful && delivery.message().attempt > 1);
        if !together.is_empty() {
            self.call(together).await;
        }
        for delivery in alone {
            self.call(vec![delivery]).await;
        }
    }

    /// Whether the pipeline panicked over several messages lately, one of which may make it panic again.
    fn is_careful(&self) -> bool {
        lock(&self.panicked).is_some_and(|at| at.elapsed() < ONE_BY_ONE)
    }

    async fn call(&mut self, batch: Vec<Delivery>) {
        let batch = self.watch(batch);
        let pipeline = self.pipeline.clone();
        // What it had not finished is reported as it is dropped.
        let send = tokio::time::timeout(self.limit, AssertUnwindSafe(pipeline.send(batch)).catch_unwind());
        tokio::pin!(send);
        loop {
            tokio::select! {
                biased;
                sent = &mut send => {
                    match sent {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => tracing::error!(source.name = %self.source, "the source panicked; this is a bug in it"),
                        Err(_) => {
                            self.end();
                            tracing::error!(source.name = %self.source, "the source took no more messages, and was interrupted; this is a bug in it");
                        }
                    }
                    return;
                }
                () = self.overdue() => {}
            }
        }
    }

    /// The deliveries that the pipeline gets for these.
    fn watch(&mut self, batch: Vec<Delivery>) -> Vec<Delivery> {
        if self.batches.len() >= self.most {
            self.batches.retain(|(_, batch)| batch.strong_count() > 0);
            self.most = BATCHES.max(2 * self.batches.len());
        }
        let (messages, receipts): (Vec<_>, Vec<_>) = batch.into_iter().map(Delivery::split).unzip();
        let receipts = receipts.into_iter().map(|receipt| Mutex::new(Some(receipt))).collect();
        let batch = Arc::new(Batch { receipts, panicked: self.panicked.clone() });
        self.batches.push_back((Instant::now() + self.limit, Arc::downgrade(&batch)));
        let delivery = |(index, message)| {
            let batch = batch.clone();
            Delivery::new(message, move |outcome| batch.finish(index, outcome))
        };
        messages.into_iter().enumerate().map(delivery).collect()
    }

    /// Waits until the time of a batch is up, and ends what is left of it.
    pub(super) async fn overdue(&mut self) {
        while self.batches.front().is_some_and(|(_, batch)| batch.strong_count() == 0) {
            self.batches.pop_front();
        }
        match self.batches.front() {
            Some((until, _)) => tokio::time::sleep_until(*until).await,
            None => std::future::pending().await,
        }
        self.end();
    }

    /// Ends what is left of the batches whose time is up.
    fn end(&mut self) {
        let now = Instant::now();
        while let Some((until, batch)) = self.batches.front()
            && *until <= now
        {
            if let Some(batch) = batch.upgrade() {
                for index in 0..batch.receipts.len() {
                    batch.finish(index, Outcome::unreachable("timeout", format!("no outcome within {} ms", self.limit.as_millis())));
                }
            }
            self.batches.pop_front();
        }
    }
}

impl Batch {
    fn finish(&self, index: usize, outcome: Outcome) {
        let Some(receipt) = self.receipts.get(index).and_then(|receipt| lock(receipt).take()) else { return };
        // The panic is the fault of one message at most, which is refused once it is sent on its own.
        let others = std::thread::panicking() && outcome.code == PANICKED && self.receipts.len() > 1;
        if others {
            *lock(&self.panicked) = Some(Instant::now());
            receipt.finish(Outcome::unreachable(PANICKED, "the source panicked over this message or one beside it; it is sent again on its own"));
        } else {
            receipt.finish(outcome);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::FutureExt;

    use super::*;
    use crate::message::Message;
    use crate::outcome::Class;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Does what a message's topic says: `keep`, `hang`, `panic`; anything else succeeds.
    #[derive(Default)]
    struct Odd(Mutex<Vec<Delivery>>);

    #[async_trait]
    impl Pipeline for Odd {
        async fn send(&self, batch: Vec<Delivery>) {
            for delivery in batch {
                match delivery.message().topic.as_deref() {
                    Some("keep") => lock(&self.0).push(delivery),
                    Some("hang") => std::future::pending().await,
                    Some("panic") => panic!("on purpose"),
                    _ => delivery.finish(Outcome::succeeded()),
                }
            }
        }
    }

    type Ended = Arc<Mutex<Vec<(String, Class, String)>>>;

    struct Bench {
        pipe: Pipe,
        odd: Arc<Odd>,
        ended: Ended,
    }

    fn bench() -> Bench {
        let odd = Arc::new(Odd::default());
        Bench { pipe: Pipe::new("main".into(), odd.clone(), LIMIT), odd, ended: Ended::default() }
    }

    impl Bench {
        /// Sends messages with these topics; returns what has ended by then.
        async fn send(&mut self, attempt: u32, topics: &[&str]) -> Vec<(String, Class, String)> {
            let delivery = |topic: &&str| {
                let (topic, ended) = ((*topic).to_owned(), self.ended.clone());
                let message = Message { topic: Some(topic.clone()), attempt, ..Message::new("main", "") };
                Delivery::new(message, move |outcome| lock(&ended).push((topic, outcome.class, outcome.code.into_owned())))
            };
            let batch = topics.iter().map(delivery).collect();
            self.pipe.send(batch).await;
            self.ended()
        }

        fn ended(&self) -> Vec<(String, Class, String)> {
            std::mem::take(&mut *lock(&self.ended))
        }
    }

    fn end(topic: &str, class: Class, code: &str) -> (String, Class, String) {
        (topic.to_owned(), class, code.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pipeline_keeps_for_itself_ends_in_time_and_once() {
        let mut bench = bench();
        assert_eq!(bench.send(1, &["fine", "keep"]).await, [end("fine", Class::Succeeded, "")]);
        tokio::time::advance(LIMIT / 2).await;
        assert!(bench.pipe.overdue().now_or_never().is_none());
        bench.pipe.overdue().await;
        assert_eq!(bench.ended(), [end("keep", Class::Unreachable, "timeout")]);
        lock(&bench.odd.0).pop().unwrap().finish(Outcome::succeeded());
        assert_eq!(bench.ended(), []);
        // Also if something is sent all the time.
        bench.send(1, &["keep"]).await;
        tokio::time::advance(LIMIT).await;
        assert_eq!(bench.send(1, &["fine"]).await, [end("keep", Class::Unreachable, "timeout"), end("fine", Class::Succeeded, "")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_takes_no_more_is_interrupted() {
        let mut bench = bench();
        bench.send(1, &["keep"]).await;
        tokio::time::advance(LIMIT / 2).await;
        let began = Instant::now();
        let timeout = |topic| end(topic, Class::Unreachable, "timeout");
        assert_eq!(bench.send(1, &["hang", "never seen"]).await, [timeout("keep"), timeout("hang"), timeout("never seen")]);
        assert!(began.elapsed() < LIMIT + Duration::from_millis(5), "{:?}", began.elapsed());
        assert_eq!(bench.send(1, &["fine"]).await, [end("fine", Class::Succeeded, "")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_makes_a_pipeline_panic_is_found_among_others() {
        let mut bench = bench();
        let beside = |topic| end(topic, Class::Unreachable, "panic");
        assert_eq!(bench.send(1, &["fine", "panic", "after"]).await, [end("fine", Class::Succeeded, ""), beside("panic"), beside("after")]);
        tokio::time::advance(Duration::from_secs(30)).await;
        let alone = [end("panic", Class::Refused, "panic"), end("after", Class::Succeeded, "")];
        assert_eq!(bench.send(2, &["panic", "after"]).await, alone);
        // Only lately: a batch is worth its while.
        tokio::time::advance(ONE_BY_ONE).await;
        assert_eq!(bench.send(3, &["panic", "after"]).await, ["panic", "after"].map(beside));
    }

    #[tokio::test]
    async fn batches_that_ended_are_forgotten_behind_one_that_has_not() {
        let mut bench = bench();
        bench.send(1, &["keep"]).await;
        for _ in 0..10 * BATCHES {
            bench.send(1, &["fine"]).await;
        }
        assert!(bench.pipe.batches.len() <= 2 * BATCHES, "{}", bench.pipe.batches.len());
    }
}
