//! One connection: what it is doing, for how long, and when it is cut.
//!
//! On its own, hyper has no limit for a body that trickles in or an answer that nobody reads, and a shutdown waits for a half-sent request as long as
//! that takes. Instead one timer per connection watches it, which costs a request nothing.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::listener::Door;

/// The maximum size of a request's line and headers, in bytes. The largest headers of a message fit.
const MAX_HEAD: usize = 128 << 10;
/// How long a request that is still being sent gets once the listener has closed.
const HALF_SENT: Duration = Duration::from_millis(500);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It waits for a request.
    Idle,
    /// The head of a request is arriving.
    Head,
    /// The request is refused, and the rest of its body is being discarded.
    Refused,
    /// The body of an accepted request is arriving.
    Body,
    /// A handler is at work.
    Handling,
    /// The answer is being written.
    Writing,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Idle, Self::Head, Self::Refused, Self::Body, Self::Handling, Self::Writing];
}

/// What a connection is doing, and since when: the phase in the lowest three bits, and above them the milliseconds since the connection began.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    state: AtomicU64,
    /// Notified when the rest of a body is no longer waited for.
    enough: Notify,
    /// Notified when somebody else needs the place.
    leave: Notify,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), state: AtomicU64::new(Phase::Idle as u64), enough: Notify::new(), leave: Notify::new() }
    }

    /// Records that the connection is in this phase now, or has made progress in it.
    pub(super) fn enter(&self, phase: Phase) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX >> 3);
        self.state.store((millis << 3) | phase as u64, Ordering::Relaxed);
    }

    /// Waits until the rest of a body is no longer waited for.
    pub(super) async fn enough(&self) {
        self.enough.notified().await;
    }

    /// Asks the connection to end if no request is under way.
    pub(super) fn leave(&self) {
        self.leave.notify_one();
    }

    /// Since when no request has been under way; an idle keep-alive connection does not count as waiting for a request head. A head that is still
    /// arriving does not count as a request yet, and a refused request no longer does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let (phase, since) = self.now();
        matches!(phase, Phase::Idle | Phase::Head | Phase::Refused).then_some(since)
    }

    fn now(&self) -> (Phase, Instant) {
        let state = self.state.load(Ordering::Relaxed);
        let index = usize::try_from(state & 7).unwrap_or(0);
        (Phase::ALL.get(index).copied().unwrap_or(Phase::Idle), self.began + Duration::from_millis(state >> 3))
    }

    fn phase(&self) -> Phase {
        self.now().0
    }
}

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For sending a request's head, and for staying idle.
    pub(super) head: Duration,
    /// For reading some more of the answer.
    pub(super) answer: Duration,
}

impl Patience {
    /// When the connection is to be cut; `None` while it is the gate or a handler that takes the time.
    fn deadline(&self, activity: &Activity) -> Option<Instant> {
        let (phase, since) = activity.now();
        match phase {
            Phase::Idle | Phase::Head => Some(since + self.head),
            Phase::Writing => Some(since + self.answer),
            // The gate has a time limit of its own.
            Phase::Refused | Phase::Body | Phase::Handling => None,
        }
    }

    /// The minimum interval between checks of the clock: a phase that began since the last check can't be overdue before the next one.
    fn shortest(&self) -> Duration {
        self.head.min(self.answer)
    }
}

/// Serves a connection until it ends, is overdue, or is told to stop. `stop` lets the request under way finish, `cut` does not.
pub(super) async fn serve<S>(
    stream: S,
    door: Door,
    gate: Arc<Gate>,
    patience: Patience,
    activity: Arc<Activity>,
    stop: CancellationToken,
    cut: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let watched = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| {
            let (gate, activity) = (Arc::clone(&gate), Arc::clone(&activity));
            async move { Ok::<_, std::convert::Infallible>(gate.answer(request, &activity, door).await) }
        })
    };
    let mut server = http1::Builder::new();
    // A client that has shut down its writing side may still read its answer. And nothing is read while a handler is at work: hyper, looking for the
    // end of the stream, would allocate a new buffer each time.
    server.header_read_timeout(None).max_buf_size(MAX_HEAD).half_close(true);
    let mut connection = pin!(server.serve_connection(watched, service));
    let mut watch = pin!(sleep_until(Instant::now() + patience.shortest()));
    let mut stopping = false;
    loop {
        tokio::select! {
            // What has arrived is read before anything else: a connection that is asked to leave may have a request by now.
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    // A client that goes away is nothing to report.
                    tracing::debug!(error.detail = error.to_string(), "a connection was lost");
                }
                return;
            }
            () = watch.as_mut() => {
                let now = Instant::now();
                match activity.phase() {
                    Phase::Idle | Phase::Head if stopping => return,
                    // The gate answers that nothing was kept.
                    Phase::Refused | Phase::Body if stopping => activity.enough.notify_one(),
                    _ => {}
                }
                match patience.deadline(&activity) {
                    Some(deadline) if deadline <= now => {
                        tracing::debug!(connection.phase = ?activity.phase(), "a connection took too long");
                        return;
                    }
                    deadline => {
                        let next = if stopping { HALF_SENT } else { patience.shortest() };
                        watch.as_mut().reset(deadline.map_or(now + next, |deadline| deadline.min(now + next)));
                    }
                }
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
                watch.as_mut().reset(Instant::now() + HALF_SENT);
            }
            () = cut.cancelled() => return,
            () = activity.leave.notified() => {
                if activity.idle_since().is_some() {
                    tracing::debug!(connection.phase = ?activity.phase(), "an idle connection made room for another");
                    return;
                }
            }
        }
    }
}

/// A stream that reports progress.
struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.activity.phase() == Phase::Idle {
            self.activity.enter(Phase::Head);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(&polled);
        polled
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        // hyper flushes once everything it has of the answer is written.
        if matches!(polled, Poll::Ready(Ok(()))) && self.activity.phase() == Phase::Writing {
            self.activity.enter(Phase::Idle);
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Watched<S> {
    /// Restarts the time limit of an answer that makes progress.
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(1..))) && self.activity.phase() == Phase::Writing {
            self.activity.enter(Phase::Writing);
        }
    }
}
