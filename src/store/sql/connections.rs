//! Connections: a pool of our own, because sqlx's lacks what keeps an idle node at a single one. The connection that was used last is used next, and
//! where units of work overlap only seldom, one waits for the other's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::dialect::{Connection, Dialect, Role};

/// A connection that has been idle for this long is closed when another one is returned.
const IDLE: Duration = Duration::from_secs(10);
/// A connection that has been idle for this long is checked before it is used.
const DOUBTFUL: Duration = Duration::from_secs(1);
/// Where all connections are in use, this many units of work a second wait this long for one before they open another.
pub(super) const WAITS: u32 = 3;
pub(super) const PATIENCE: Duration = Duration::from_millis(25);
/// How long a connection may take to close.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pool<D: Dialect> {
    size: usize,
    /// One for each connection that may be open.
    pub(super) permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle<D>>>,
    /// Told when a connection is given back.
    given: Notify,
    /// How many units of work have waited for one, and since when that is counted.
    waits: Mutex<(Instant, u32)>,
    role: Role,
}

pub(super) struct Idle<D: Dialect> {
    connection: Connection<D>,
    since: Instant,
}

impl<D: Dialect> std::fmt::Debug for Idle<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle").field("since", &self.since).finish_non_exhaustive()
    }
}

impl<D: Dialect> Pool<D> {
    pub(super) fn new(size: u32, role: Role) -> Self {
        let size = size.max(1) as usize;
        let waits = Mutex::new((Instant::now(), 0));
        Self { size, permits: Arc::new(Semaphore::new(size)), idle: Mutex::default(), given: Notify::new(), waits, role }
    }

    pub(super) fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle<D>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a unit of work, which holds a permit, may wait for the connection of another one. A pool that is used by many at once grows instead.
    fn may_wait(&self) -> bool {
        if self.permits.available_permits() + 1 >= self.size {
            return false;
        }
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.0.elapsed() >= Duration::from_secs(1) {
            *waits = (Instant::now(), 0);
        }
        waits.1 = waits.1.saturating_add(1);
        waits.1 <= WAITS
    }

    /// The connection that was used last, or a new one. The caller holds a permit.
    pub(super) async fn connection(&self, dialect: &D) -> Result<Connection<D>, sqlx::Error> {
        if self.idle().is_empty() && self.may_wait() {
            let given = async {
                while self.idle().is_empty() {
                    self.given.notified().await;
                }
            };
            let _ = timeout(PATIENCE, given).await;
        }
        loop {
            let Some(mut idle) = self.idle().pop() else { break };
            if idle.since.elapsed() < DOUBTFUL {
                return Ok(idle.connection);
            }
            if matches!(timeout(GOODBYE, idle.connection.ping()).await, Ok(Ok(()))) {
                return Ok(idle.connection);
            }
            // If one is dead, so are the others.
            self.idle().clear();
        }
        dialect.connect(self.role).await
    }

    pub(super) fn give_back(&self, connection: Connection<D>) {
        let mut old = Vec::new();
        // Asked for under the lock, so that `close` finds whatever comes back before it.
        let mut idle = self.idle();
        if self.permits.is_closed() {
            old.push(connection);
        } else {
            idle.push(Idle { connection, since: Instant::now() });
            let stale = idle.iter().take_while(|idle| idle.since.elapsed() > IDLE).count();
            old.extend(idle.drain(..stale).map(|idle| idle.connection));
            self.given.notify_one();
        }
        drop(idle);
        if !old.is_empty() {
            tokio::spawn(goodbye::<D>(old));
        }
    }

    pub(super) async fn close(&self) {
        self.permits.close();
        let old = std::mem::take(&mut *self.idle());
        goodbye::<D>(old.into_iter().map(|idle| idle.connection).collect()).await;
    }
}

async fn goodbye<D: Dialect>(connections: Vec<Connection<D>>) {
    for connection in connections {
        // Whether the server noticed does not matter.
        let _ = timeout(GOODBYE, connection.close()).await;
    }
}
