//! The memory that messages under way may use: a guaranteed share for each lane, and a common part for whichever lane needs more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The memory of all lanes together, in bytes: one half is divided into equal shares, the other is common to all.
#[derive(Debug)]
pub(super) struct Memory {
    /// The size of the common part.
    common: usize,
    /// How much of the common part is used.
    used: AtomicUsize,
    /// The share of each lane.
    share: usize,
    /// What a claim waits for. First sends leave it free; otherwise they could keep a lane from claiming for as long as messages come in.
    reserve: usize,
    freed: Notify,
}

impl Memory {
    /// `max` bytes for this many lanes.
    pub(super) fn new(max: usize, lanes: usize) -> Self {
        let share = max / 2 / lanes.max(1);
        let common = max - share * lanes;
        Self { common, used: AtomicUsize::new(0), share, reserve: (share / 2).min((common + share) / 8), freed: Notify::new() }
    }
}

/// The part of the memory that one lane uses.
#[derive(Debug)]
pub(super) struct Budget {
    memory: Arc<Memory>,
    bytes: AtomicUsize,
}

impl Budget {
    /// The budget of a lane that uses nothing yet.
    pub(super) const fn of(memory: Arc<Memory>) -> Self {
        Self { memory, bytes: AtomicUsize::new(0) }
    }

    /// How many more bytes the lane may use.
    pub(super) fn free(&self) -> usize {
        let own = self.memory.share.saturating_sub(self.bytes.load(Ordering::Relaxed));
        // Changes may be seen out of order, so the counter may seem to be below zero.
        let used = Some(self.memory.used.load(Ordering::Relaxed)).filter(|used| *used <= usize::MAX / 2).unwrap_or(0);
        own + self.memory.common.saturating_sub(used)
    }

    /// Whether a first send of `bytes` bytes leaves enough for a claim.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.free() >= bytes + self.memory.reserve
    }

    pub(super) fn take(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.memory.used.fetch_add(self.beyond(before + bytes) - self.beyond(before), Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.used.fetch_sub(self.beyond(before) - self.beyond(before - bytes), Ordering::Relaxed);
        self.memory.freed.notify_waiters();
    }

    /// How much of `bytes` exceeds the lane's own share.
    fn beyond(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.memory.share)
    }

    /// Waits until a claim has what it needs.
    pub(super) async fn has_reserve(&self) {
        loop {
            let freed = self.memory.freed.notified();
            if self.free() >= self.memory.reserve {
                return;
            }
            freed.await;
        }
    }
}
