//! What a node does besides sending: sends heartbeats, fails rows that no node can claim, reports rows that no node serves, samples the gauges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::Keep;
use super::node::Node;
use crate::message::judge::{self, Log};
use crate::message::{AttemptOutcome, ErrorClass, State};
use crate::outcome::cut;
use crate::store::{Completion, Count, Error, Failure, Heartbeat, Held, Sample, Served, Stray, Strays, Taken, Unserved};
use crate::telemetry::throttle::Throttle;
use crate::units::millis;

/// How often a node sends its heartbeat; it is considered dead after [`TTL`].
const BEAT: Duration = Duration::from_secs(2);
const TTL: Duration = Duration::from_secs(6);
/// How long rows of an unknown source are left alone: another node that knows it may be about to start.
const MIN_AGE: Duration = Duration::from_secs(5);
/// The number of beats between two looks for strays, two reports of unserved rows, and two samples of the gauges.
const STRAYS_EVERY: u32 = 4;
const UNSERVED_EVERY: u32 = 6;
const SAMPLE_EVERY: u32 = 10;
/// How often a look for strays that a run depends on is tried, and the pause between tries, if the store fails: nothing else finds a row without a
/// due time.
const SORT_OUT_TRIES: u32 = 5;
const SORT_OUT_PAUSE: Duration = Duration::from_millis(200);
/// The number of reports of unserved rows between two rounds of forgetting dead nodes.
const FORGET_EVERY: u32 = 5;
/// How long a sample is good for all nodes. No longer: a node that was just started would report what was there before.
const SAMPLE_GOOD_FOR: Duration = Duration::from_secs(10);
/// The most strays failed at once, and the most kinds of unserved rows in a report.
const STRAYS: u32 = 500;
const UNSERVED: u32 = 20;
/// How many bytes are shown of a name that a row gives, which may be of any length.
pub(super) const SHOWN: usize = 100;
/// The largest share of the time that sampling, which counts rows, may take.
const SAMPLE_SHARE: u32 = 20;

/// What a node does besides sending.
#[derive(Debug)]
pub(super) struct Upkeep {
    node: Arc<Node>,
    /// What this process is called among live nodes. Unlike the node's name it is not shared with the process that ran before a restart, whose
    /// configuration may have had other sources, which stay known; nor with a `redrive run` beside a `serve`.
    pub(super) process: Arc<str>,
    keep: Keep,
    /// Rows that no node serves, for `/readyz`.
    pub(super) unserved: Mutex<Vec<Unserved>>,
    stray_lines: Mutex<Throttle>,
}

impl Upkeep {
    pub(super) fn new(node: Arc<Node>, keep: Keep) -> Self {
        let process = format!("{} {:016x}", node.ledger.node(), rand::random::<u64>()).into();
        let stray_lines = Mutex::new(Throttle::new(10, Duration::from_secs(60)));
        Self { node, process, keep, unserved: Mutex::default(), stray_lines }
    }

    /// Runs until `stop` is cancelled.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (ask_strays, strays_asked) = mpsc::channel(1);
        let (ask_unserved, unserved_asked) = mpsc::channel(1);
        let (ask_sample, sample_asked) = mpsc::channel(1);
        let work = async {
            let mut beats = 0_u32;
            let mut ticks = tokio::time::interval(BEAT);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            self.node.health.is_back().await;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = self.node.health.is_doubtful() => {}
                }
                // The beat is what finds out that the store can be written to again.
                self.beat().await;
                if !self.node.health.is_up() {
                    continue;
                }
                // Work that is still running is not started again, and holds up no beat.
                if self.node.sends && beats % STRAYS_EVERY == 2 {
                    let _ = ask_strays.try_send(());
                }
                if beats % UNSERVED_EVERY == 4 {
                    let _ = ask_unserved.try_send(());
                }
                if beats.is_multiple_of(SAMPLE_EVERY) {
                    let _ = ask_sample.try_send(());
                }
                beats = beats.wrapping_add(1);
            }
        };
        tokio::select! {
            () = work => {}
            () = self.strays(strays_asked) => {}
            () = self.report_unserved(unserved_asked) => {}
            () = self.sample(sample_asked) => {}
            () = stop.cancelled() => {}
        }
    }

    fn serves(&self) -> Served {
        Served { project: self.node.project.clone(), sources: if self.node.sends { self.node.lanes.names() } else { Vec::new() } }
    }

    async fn beat(&self) {
        let (project, node, sources) = (self.node.project.clone(), self.process.clone(), self.node.lanes.names());
        let beat = Heartbeat { project, node, sources, sends: self.node.sends, ttl: TTL };
        match self.node.store.heartbeat(beat).await {
            Ok(()) => self.node.health.answered(),
            Err(error) => {
                self.node.health.failed("heartbeat", &error);
                // The database refused this row, which still counts as an answer to a write.
                if matches!(error, Error::Refused(_)) {
                    self.node.health.answered();
                }
            }
        }
        self.node.metrics.store_up(self.node.health.is_up());
        self.node.lanes.iter().for_each(|lane| lane.show_held_back());
    }

    /// Fails rows that no node can claim, whenever asked to.
    async fn strays(&self, mut asked: mpsc::Receiver<()>) {
        while asked.recv().await.is_some() {
            self.fail_all_strays().await;
        }
    }

    /// The same at once, trying again if the store fails. A run may end before its first beat; it says what sources it knows first, so that these do
    /// not count as unknown.
    pub(super) async fn sort_out(&self) {
        self.beat().await;
        for _ in 0..SORT_OUT_TRIES {
            if self.fail_all_strays().await.is_some() {
                return;
            }
            tokio::time::sleep(SORT_OUT_PAUSE).await;
        }
    }

    /// Repeats this for as long as there may be more; `None` if the store failed before it said that there are none.
    async fn fail_all_strays(&self) -> Option<()> {
        while self.fail_strays().await? {}
        Some(())
    }

    /// Fails rows that no node of the project can ever claim, with the reason. Returns whether there may be more; `None` if the store failed.
    async fn fail_strays(&self) -> Option<bool> {
        let lease = self.node.ledger.lease();
        let token = lease.token;
        let strays = Strays { project: self.node.project.clone(), sources: self.node.lanes.names(), min_age: MIN_AGE, limit: STRAYS, lease };
        let Taken { strays, more } = match self.node.store.take_strays(strays).await {
            Ok(taken) => taken,
            Err(error) => {
                self.node.health.failed_beside("take_strays", &error);
                return None;
            }
        };
        if strays.is_empty() {
            return Some(more);
        }
        let mut failed = 0;
        let mut parts = vec![&strays[..]];
        while let Some(part) = parts.pop() {
            let completions = part.iter().map(|stray| self.failure(stray, token)).collect();
            match self.node.store.complete(Arc::new(completions)).await {
                Ok(ours) => failed += self.failed(part, &ours),
                // A refused row must not keep others from failing.
                Err(Error::Refused(_)) if part.len() > 1 => {
                    let (part, rest) = part.split_at(part.len() / 2);
                    parts.extend([rest, part]);
                }
                // Their lease expires and they are found again.
                Err(error) => {
                    self.node.health.failed("complete", &error);
                    if !matches!(error, Error::Refused(_)) {
                        return None;
                    }
                }
            }
        }
        Some(more && failed > 0)
    }

    /// Counts and logs the strays that were ours and have failed; returns how many.
    fn failed(&self, strays: &[Stray], ours: &[bool]) -> usize {
        let failed: Vec<_> = strays.iter().zip(ours).filter_map(|(stray, ours)| ours.then_some(stray)).collect();
        for stray in &failed {
            match stray.source.as_deref().and_then(|source| self.node.lanes.get(source)) {
                Some(lane) => {
                    lane.metrics.failed_invalid.inc();
                }
                None => self.node.metrics.stray_failed(),
            }
        }
        if let Some(first) = failed.first()
            && let Some(held_back) = self.stray_lines.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now())
        {
            tracing::warn!(messages = failed.len(), error.code = first.code, message.id = %first.id,
                source.name = cut(first.source.as_deref().unwrap_or(""), SHOWN),
                lines.held_back = held_back, "unroutable rows were failed");
        }
        failed.len()
    }

    fn failure(&self, stray: &Stray, token: i64) -> Completion {
        let detail = match (stray.code, &stray.source) {
            ("unknown_source", Some(source)) => {
                format!("no node of project `{}` has a source `{}`", self.node.project, cut(source, SHOWN))
            }
            ("no_source", _) => "the row names no source".to_owned(),
            ("invalid_due_at", _) => "due_at is not a time at which anything can be sent".to_owned(),
            (code, _) => code.to_owned(),
        };
        let (outcome, node, log) = match stray.lost {
            Some(_) => (AttemptOutcome::Lost, &stray.node, judge::log(AttemptOutcome::Lost, &stray.standing)),
            None => (AttemptOutcome::Permanent, self.node.ledger.node(), Log::Own),
        };
        Completion {
            held: Held { id: stray.id, token },
            address: None,
            epoch: stray.epoch,
            attempt: stray.attempt,
            begun: stray.lost.is_some(),
            state: State::Failed,
            delay: Duration::ZERO,
            retries: stray.standing.retries,
            expires_at: stray.standing.expires_at,
            outcome,
            error: Some(Failure { class: ErrorClass::Invalid, code: stray.code.to_owned(), detail }),
            result: None,
            started_at: stray.lost.unwrap_or_default(),
            duration: Duration::ZERO,
            node: node.clone(),
            log,
            delete: self.keep.deletes(State::Failed),
        }
    }

    /// Reports waiting rows that no live node serves, and forgets dead nodes: one that was killed can't sign off.
    async fn report_unserved(&self, mut asked: mpsc::Receiver<()>) {
        let mut lines = Throttle::new(1, Duration::from_secs(60));
        let mut reports = 0_u32;
        while asked.recv().await.is_some() {
            if reports.is_multiple_of(FORGET_EVERY)
                && let Err(error) = self.node.store.forget_nodes(&self.node.project).await
            {
                self.node.health.failed_beside("forget_nodes", &error);
            }
            reports = reports.wrapping_add(1);
            let found = match self.node.store.unserved(self.serves(), MIN_AGE, UNSERVED).await {
                Ok(found) => found,
                Err(error) => {
                    self.node.health.failed_beside("unserved", &error);
                    continue;
                }
            };
            for row in &found {
                if let Some(held_back) = lines.pass(Instant::now()) {
                    tracing::warn!(
                        project = cut(&row.project, SHOWN),
                        source.name = cut(&row.source, SHOWN),
                        oldest_ms = millis(row.oldest),
                        lines.held_back = held_back,
                        "messages are waiting that no live node serves"
                    );
                }
            }
            *self.unserved.lock().unwrap_or_else(PoisonError::into_inner) = found;
        }
    }

    /// Samples the table-wide gauges.
    async fn sample(&self, mut asked: mpsc::Receiver<()>) {
        let served = self.node.lanes.names();
        let mut others: BTreeSet<String> = BTreeSet::new();
        while asked.recv().await.is_some() {
            match self.counted().await {
                Ok(counts) => {
                    let mut counts: BTreeMap<_, _> = counts.into_iter().map(|count| (count.source.clone(), count)).collect();
                    // Sources that this node does not serve are reported only while they have messages waiting; their names may be made up, and
                    // different each time.
                    for gone in others.iter().filter(|source| !counts.contains_key(*source)) {
                        self.node.metrics.forget_waiting(gone);
                    }
                    others = counts.keys().filter(|source| self.node.lanes.get(source).is_none()).cloned().collect();
                    for source in &served {
                        counts.entry(source.to_string()).or_insert_with(|| Count { source: source.to_string(), ..Count::default() });
                    }
                    for Count { source, states, overdue } in counts.into_values() {
                        self.node.metrics.overdue(&source, overdue);
                        for state in State::WAITING {
                            self.node.metrics.waiting(&source, state.as_str(), states.get(state).copied().unwrap_or(0));
                        }
                    }
                }
                Err(error) => self.node.health.failed_beside("sample", &error),
            }
        }
    }

    /// The number of waiting messages, counted by this node or another; the first count is waited for.
    async fn counted(&self) -> Result<Vec<Count>, Error> {
        loop {
            let sample = Sample { project: self.node.project.clone(), sources: self.node.lanes.names(), every: SAMPLE_GOOD_FOR, share: SAMPLE_SHARE };
            match self.node.store.sample(sample).await? {
                Some(counts) => return Ok(counts),
                None => tokio::time::sleep(BEAT).await,
            }
        }
    }
}
