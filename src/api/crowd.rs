//! The connections of a port, limited in number. When all places are taken, the connection that has been idle longest makes room for the next:
//! otherwise clients that send nothing, for which they need no token, could keep everybody else out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::connection::Activity;

/// A connection that has been idle for less than this is about to send something: clients that connect at the same time don't evict each other.
const FRESH: Duration = Duration::from_millis(200);
/// If nobody could make room, the search is repeated after this.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The connections that exist.
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

    /// Waits for a place: a free one, or one that an idle connection leaves. `None` if there won't be one.
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Place> {
        let slot = loop {
            if self.places.available_permits() == 0 {
                self.make_room();
            }
            // Nobody could leave: all are busy, or the one that was asked has just received a request.
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

    /// Asks the connection that has been idle longest to leave, which it does unless it has received a request in the meantime.
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

/// A place among the connections, returned when it is dropped.
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
