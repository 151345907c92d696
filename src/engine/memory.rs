//! What messages under way may hold in memory: a part for each lane, whatever the others do, and one for whoever needs more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What all lanes together may hold, in bytes: one half is theirs in equal shares, the other is for all.
#[derive(Debug)]
pub(super) struct Memory {
    /// What is there for all.
    common: usize,
    /// How much of it is used.
    used: AtomicUsize,
    /// What each lane has to itself.
    share: usize,
    /// What a claim waits for. First sends leave it free, or they could keep a lane from claiming for as long as messages come in.
    reserve: usize,
    freed: Notify,
}

impl Memory {
    /// `max` bytes for so many lanes.
    pub(super) fn new(max: usize, lanes: usize) -> Self {
        let share = max / 2 / lanes.max(1);
        let common = max - share * lanes;
        Self { common, used: AtomicUsize::new(0), share, reserve: (share / 2).min((common + share) / 8), freed: Notify::new() }
    }
}

/// What one lane holds of it.
#[derive(Debug)]
pub(super) struct Budget {
    memory: Arc<Memory>,
    bytes: AtomicUsize,
}

impl Budget {
    /// That of a lane which holds nothing yet.
    pub(super) const fn of(memory: Arc<Memory>) -> Self {
        Self { memory, bytes: AtomicUsize::new(0) }
    }

    /// The bytes that the lane may still take.
    pub(super) fn free(&self) -> usize {
        let own = self.memory.share.saturating_sub(self.bytes.load(Ordering::Relaxed));
        // A change may be seen before the one that it follows: less than nothing is nothing.
        let used = Some(self.memory.used.load(Ordering::Relaxed)).filter(|used| *used <= usize::MAX / 2).unwrap_or(0);
        own + self.memory.common.saturating_sub(used)
    }

    /// Whether a first send of so many bytes leaves a claim what it needs.
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

    /// How much of so many bytes is not the lane's own share.
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
