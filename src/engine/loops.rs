//! The loops of an engine. No panic in them goes unnoticed: it is reported to whoever runs the engine, which then exits as it does for a bug.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::store::Guard;

/// The payload of a panic.
pub type Panic = Box<dyn Any + Send>;

/// The running loops.
#[derive(Clone, Debug)]
pub(super) struct Loops {
    tracker: TaskTracker,
    /// Nobody else may use the store until the last loop has ended.
    _guard: Option<Arc<Guard>>,
    broken: CancellationToken,
    panic: Arc<Mutex<Option<Panic>>>,
}

impl Loops {
    pub(super) fn new(tracker: TaskTracker, guard: Option<Guard>) -> Self {
        Self { tracker, _guard: guard.map(Arc::new), broken: CancellationToken::new(), panic: Arc::default() }
    }

    /// Starts a loop, which ends when its work does or when `stop` is cancelled.
    pub(super) fn spawn(&self, stop: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
        let (stop, all) = (stop.clone(), self.clone());
        self.tracker.spawn(async move {
            if let Some(Err(panic)) = stop.run_until_cancelled(AssertUnwindSafe(work).catch_unwind()).await {
                *all.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                all.broken.cancel();
            }
        });
    }

    /// Waits until a loop has panicked, which none ever should.
    pub(super) async fn panicked(&self) -> Panic {
        self.broken.cancelled().await;
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        panic.unwrap_or_else(|| Box::new("a loop of the engine panicked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_is_told_of_and_one_that_ends_is_not() {
        fn panics() {
            panic!("on purpose")
        }
        let (loops, stop) = (Loops::new(TaskTracker::new(), None), CancellationToken::new());
        loops.spawn(&stop, async {});
        loops.spawn(&stop, std::future::pending());
        stop.cancel();
        loops.tracker.close();
        loops.tracker.wait().await;
        assert!(loops.panicked().now_or_never().is_none());
        loops.spawn(&CancellationToken::new(), async { panics() });
        assert_eq!(loops.panicked().await.downcast_ref(), Some(&"on purpose"));
    }
}
