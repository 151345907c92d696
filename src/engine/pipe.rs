//! A pipeline as the engine feeds it: every delivery ends, even if the pipeline forgets it, and a message that makes the pipeline panic is found.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dispatcher::{End, late};
use super::lane::Lane;
use crate::message::Message;
use crate::outcome::Outcome;
use crate::source::{DROPPED, Delivery, PANICKED, Pipeline};

/// After a panic over several messages, those that are tried again are sent one by one for at least this long.
const ONE_BY_ONE: Duration = Duration::from_secs(60);
/// So many batches are remembered before those that have ended are looked for.
const BATCHES: usize = 64;

/// A pipeline, and what it has been given.
pub(super) struct Pipe {
    lane: Arc<Lane>,
    pipeline: Arc<dyn Pipeline>,
    /// How long a delivery, or a call, may take.
    limit: Duration,
    /// In the order in which their time is up.
    batches: VecDeque<(Instant, Weak<Batch>)>,
    /// How many batches are remembered before those that have ended are forgotten.
    most: usize,
    shared: Arc<Shared>,
}

struct Shared {
    /// When a panic last dropped several messages.
    panicked: Mutex<Option<Instant>>,
    /// Cancelled when the engine gives up what is under way.
    abandon: CancellationToken,
}

/// The ends of one batch. Each is taken by whoever comes first: the pipeline, or the clock.
struct Batch {
    ends: Vec<Mutex<Option<End>>>,
    /// How many messages it has: some were not to be sent after all.
    count: AtomicUsize,
    shared: Arc<Shared>,
}

impl Pipe {
    pub(super) fn new(lane: &Arc<Lane>, pipeline: Arc<dyn Pipeline>, limit: Duration, abandon: CancellationToken) -> Self {
        let shared = Arc::new(Shared { panicked: Mutex::default(), abandon });
        Self { lane: lane.clone(), pipeline, limit, batches: VecDeque::new(), most: BATCHES, shared }
    }

    /// Hands messages, `most` of them at most, to the pipeline, and waits until it takes more.
    pub(super) async fn send(&mut self, most: usize, messages: impl Iterator<Item = (Message, End)> + Send) {
        // A dispatcher with something to send each time it looks never waits for the clock.
        self.end();
        let until = Instant::now() + self.limit;
        if !self.is_careful() {
            let batch = self.watch(until, most, messages);
            return self.call(until, batch).await;
        }
        let (alone, together): (Vec<_>, Vec<_>) = messages.partition(|(message, _)| message.attempt > 1);
        let batch = self.watch(until, together.len(), together.into_iter());
        self.call(until, batch).await;
        for (message, end) in alone {
            // They share the time, of which each needs as much as the source may take for it.
            if until.saturating_duration_since(Instant::now()) < self.limit / 2 {
                end.hand_back();
                continue;
            }
            let batch = self.watch(until, 1, std::iter::once((message, end)));
            self.call(until, batch).await;
        }
    }

    /// Whether the pipeline panicked over several messages lately, one of which may make it panic again. Unless their policy says otherwise, all of
    /// them are due again by then.
    fn is_careful(&self) -> bool {
        let lately = ONE_BY_ONE.max(self.lane.policy.unreachable_delay().saturating_mul(3));
        lock(&self.shared.panicked).is_some_and(|at| at.elapsed() < lately)
    }

    async fn call(&mut self, until: Instant, batch: Vec<Delivery>) {
        if batch.is_empty() {
            return;
        }
        let pipeline = self.pipeline.clone();
        // What it had not finished is reported as it is dropped. Also caught is a panic before there is a future, or when it is dropped.
        let send = AssertUnwindSafe(async { tokio::time::timeout_at(until, pipeline.send(batch)).await }).catch_unwind();
        tokio::pin!(send);
        let sent = loop {
            tokio::select! {
                // What is late is reported as that before it is dropped.
                biased;
                () = self.overdue() => {}
                sent = &mut send => break sent,
            }
        };
        let source = self.lane.name();
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!(source.name = %source, "the source took no more messages, and was interrupted; this is a bug in it"),
            Err(_) => tracing::error!(source.name = %source, "the source panicked; this is a bug in it"),
        }
    }

    /// The deliveries that the pipeline gets for these messages.
    fn watch(&mut self, until: Instant, most: usize, messages: impl Iterator<Item = (Message, End)>) -> Vec<Delivery> {
        if self.batches.len() >= self.most {
            self.batches.retain(|(_, batch)| batch.strong_count() > 0);
            self.most = BATCHES.max(2 * self.batches.len());
        }
        let ends = (0..most).map(|_| Mutex::default()).collect();
        let batch = Arc::new(Batch { ends, count: AtomicUsize::new(0), shared: self.shared.clone() });
        self.batches.push_back((until, Arc::downgrade(&batch)));
        let mut deliveries = Vec::with_capacity(most);
        for ((message, end), place) in messages.zip(&batch.ends) {
            *lock(place) = Some(end);
            let (batch, index) = (batch.clone(), deliveries.len());
            deliveries.push(Delivery::new(message, move |outcome| batch.finish(index, outcome)));
        }
        batch.count.store(deliveries.len(), Ordering::Relaxed);
        deliveries
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
                for end in batch.ends.iter().filter_map(|end| lock(end).take()) {
                    end.finish(late(self.limit));
                }
            }
            self.batches.pop_front();
        }
    }
}

impl Batch {
    fn finish(&self, index: usize, outcome: Outcome) {
        let Some(end) = self.ends.get(index).and_then(|end| lock(end).take()) else { return };
        match &*outcome.code {
            // The engine itself dropped it.
            DROPPED if self.shared.abandon.is_cancelled() => {}
            // The fault of one message at most, which is refused once it is sent on its own.
            PANICKED if std::thread::panicking() && self.count.load(Ordering::Relaxed) > 1 => {
                *lock(&self.shared.panicked) = Some(Instant::now());
                end.cut(Outcome::unreachable(DROPPED, "the source panicked over this message or one beside it; it is sent again on its own"));
            }
            _ => end.finish(outcome),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::sync::oneshot::{self, error::TryRecvError};

    use super::super::dispatcher::Tried;
    use super::super::memory::Memory;
    use super::*;
    use crate::engine::SourceSpec;
    use crate::outcome::Class;
    use crate::source::{Options, Sender};
    use crate::telemetry::metrics::Metrics;

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

    struct Bench {
        pipe: Pipe,
        odd: Arc<Odd>,
        abandon: CancellationToken,
        under_way: Vec<(String, oneshot::Receiver<Outcome>)>,
    }

    type Ended = Vec<(String, Class, String)>;

    fn bench() -> Bench {
        let (odd, abandon) = (Arc::new(Odd::default()), CancellationToken::new());
        let sender = Sender::Pipelined(odd.clone());
        let spec = SourceSpec { name: "main".into(), kind: "odd".to_owned(), options: Options::default(), sender };
        let (lane, _) = Lane::new(spec, Metrics::new("test".into()).lane("main"), Arc::new(Memory::new(1 << 20, 1)));
        Bench { pipe: Pipe::new(&lane, odd.clone(), LIMIT, abandon.clone()), odd, abandon, under_way: Vec::new() }
    }

    impl Bench {
        /// Sends messages with these topics; returns what has ended by then.
        async fn send(&mut self, attempt: u32, topics: &[&str]) -> Ended {
            self.send_of(topics.len(), attempt, topics).await;
            self.ended()
        }

        /// The same of a batch that might have been as large as this.
        async fn send_of(&mut self, most: usize, attempt: u32, topics: &[&str]) {
            let mut batch = Vec::new();
            for topic in topics {
                let (waiter, outcome) = oneshot::channel();
                self.under_way.push(((*topic).to_owned(), outcome));
                let message = Message { topic: Some((*topic).to_owned()), attempt, ..Message::new("main", "") };
                let lane = &self.pipe.lane;
                batch.push((message, End::Tried(Box::new(Tried::new(lane, lane.try_enter(0).unwrap(), waiter)))));
            }
            self.pipe.send(most, batch.into_iter()).await;
        }

        fn ended(&mut self) -> Ended {
            let mut ended = Vec::new();
            self.under_way.retain_mut(|(topic, outcome)| match outcome.try_recv() {
                Ok(outcome) => {
                    ended.push((topic.clone(), outcome.class, outcome.code.into_owned()));
                    false
                }
                Err(_) => true,
            });
            ended
        }
    }

    fn end(topic: &str, class: Class, code: &str) -> (String, Class, String) {
        (topic.to_owned(), class, code.to_owned())
    }

    fn too_late(topic: &str) -> (String, Class, String) {
        end(topic, Class::Unreachable, "timeout")
    }

    fn fine(topic: &str) -> (String, Class, String) {
        end(topic, Class::Succeeded, "")
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_pipeline_keeps_for_itself_ends_in_time_and_once() {
        let mut bench = bench();
        assert_eq!(bench.send(1, &["fine", "keep"]).await, [fine("fine")]);
        tokio::time::advance(LIMIT / 2).await;
        assert!(bench.pipe.overdue().now_or_never().is_none());
        bench.pipe.overdue().await;
        assert_eq!(bench.ended(), [too_late("keep")]);
        lock(&bench.odd.0).pop().unwrap().finish(Outcome::succeeded());
        // Also if something is sent all the time.
        bench.send(1, &["keep"]).await;
        tokio::time::advance(LIMIT).await;
        assert_eq!(bench.send(1, &["fine"]).await, [too_late("keep"), fine("fine")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipeline_that_takes_no_more_is_interrupted() {
        let mut bench = bench();
        bench.send(1, &["keep"]).await;
        tokio::time::advance(LIMIT / 2).await;
        let began = Instant::now();
        assert_eq!(bench.send(1, &["hang", "never seen"]).await, ["keep", "hang", "never seen"].map(too_late));
        assert!(began.elapsed() < LIMIT + Duration::from_millis(5), "{:?}", began.elapsed());
        assert_eq!(bench.send(1, &["fine"]).await, [fine("fine")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_makes_a_pipeline_panic_is_found_among_others() {
        let mut bench = bench();
        let beside = |topic| end(topic, Class::Unreachable, "dropped");
        let all = ["panic", "1", "2", "3", "4", "5", "6"];
        assert_eq!(bench.send(1, &[&["0"], &all[..]].concat()).await, [vec![fine("0")], all.map(beside).to_vec()].concat());
        assert!(!bench.pipe.lane.is_open(), "the destination is not to blame");
        tokio::time::advance(Duration::from_secs(30)).await;
        let alone = [end("panic", Class::Refused, "panic"), fine("1")];
        assert_eq!(bench.send(2, &["panic", "1"]).await, alone);
        // Only lately: a batch is worth its while.
        tokio::time::advance(ONE_BY_ONE).await;
        assert_eq!(bench.send(3, &["panic", "1"]).await, ["panic", "1"].map(beside));
    }

    #[tokio::test(start_paused = true)]
    async fn those_sent_one_by_one_share_their_time() {
        let mut bench = bench();
        bench.send(1, &["panic", "1"]).await;
        let began = Instant::now();
        assert_eq!(bench.send(2, &["1", "hang", "hang", "2"]).await, [fine("1"), too_late("hang")]);
        assert!(began.elapsed() < LIMIT + Duration::from_millis(5), "{:?}", began.elapsed());
        for (topic, outcome) in &mut bench.under_way {
            assert_eq!(outcome.try_recv(), Err(TryRecvError::Closed), "{topic} was given back");
        }
    }

    #[tokio::test]
    async fn one_that_is_alone_after_all_is_refused() {
        let mut bench = bench();
        bench.send_of(7, 1, &["panic"]).await;
        assert_eq!(bench.ended(), [end("panic", Class::Refused, "panic")]);
    }

    #[tokio::test]
    async fn what_the_engine_gives_up_is_not_the_source_s_fault() {
        let mut bench = bench();
        bench.send(1, &["keep"]).await;
        bench.abandon.cancel();
        lock(&bench.odd.0).clear();
        let (_, outcome) = bench.under_way.pop().unwrap();
        assert!(outcome.await.is_err(), "nothing is reported");
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
