//! The connections of a port, which are so many at the most. Where all places are taken, whoever has been idle longest makes room for the next: else
//! clients that say nothing, and need no token for that, would keep everybody else out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::connection::Activity;

/// Who has been idle for less than this is about to say something: many that connect at once don't throw each other out.
const FRESH: Duration = Duration::from_millis(200);
/// Where nobody could make room, somebody is looked for again after this.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Who is connected.
#[derive(Debug)]
pub(super) struct Crowd {
    places: Arc<Semaphore>,
    there: Mutex<There>,
}

#[derive(Debug, Default)]
struct There {
    next: u64,
    all: HashMap<u64, Arc<Activity>>,
}

impl Crowd {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))), there: Mutex::default() })
    }

    fn there(&self) -> MutexGuard<'_, There> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place: one that is free, or that somebody idle leaves. `None` if there will be none.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Place> {
        let slot = loop {
            if self.places.available_permits() == 0 {
                self.make_room();
            }
            // Nobody may leave: all are at work, or the one that was asked has just been given a request.
            if let Ok(slot) = timeout(LOOK_EVERY, Arc::clone(&self.places).acquire_owned()).await {
                break slot.ok()?;
            }
        };
        let activity = Arc::new(Activity::new());
        let mut there = self.there();
        let number = there.next;
        there.next = there.next.wrapping_add(1);
        there.all.insert(number, Arc::clone(&activity));
        drop(there);
        Some(Place { crowd: Arc::clone(self), number, activity, _slot: slot })
    }

    /// Asks the one that has been idle longest to leave, which it does unless it has been given a request meanwhile.
    fn make_room(&self) {
        let there = self.there();
        let idle = there.all.values().filter_map(|activity| Some((activity.idle_since()?, activity)));
        if let Some((since, longest)) = idle.min_by_key(|(since, _)| *since)
            && since + FRESH <= Instant::now()
        {
            longest.leave();
        }
    }
}

/// A place among the connections, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    /// What the connection is doing.
    pub(super) activity: Arc<Activity>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.there().all.remove(&self.number);
    }
}
