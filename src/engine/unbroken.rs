//! Work that is finished even if whoever waits for it goes away; only then does it cost a task.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// A future that continues in its own task when it is dropped.
pub(super) struct Unbroken<F: Future<Output: Send> + Send + 'static> {
    /// `None` once it has ended.
    work: Option<Pin<Box<F>>>,
    tracker: TaskTracker,
}

impl<F: Future<Output: Send> + Send + 'static> Unbroken<F> {
    pub(super) fn new(work: F, tracker: TaskTracker) -> Self {
        Self { work: Some(Box::pin(work)), tracker }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Unbroken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Unbroken<F> {
    fn drop(&mut self) {
        // Without a runtime nothing can continue.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tracker.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_ends_for_who_waits_and_without_them() {
        let tracker = TaskTracker::new();
        assert_eq!(Unbroken::new(async { 1 }, tracker.clone()).await, 1);
        assert!(tracker.is_empty(), "no task was needed");

        let (go, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut work = Unbroken::new(
            async move {
                let _ = gone.await;
                let _ = tell.send(2);
            },
            tracker,
        );
        assert!(futures::poll!(&mut work).is_pending());
        drop(work);
        go.send(()).unwrap();
        assert_eq!(told.await.unwrap(), 2);
    }
}
