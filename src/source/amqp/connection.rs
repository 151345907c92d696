//! The connection: made when it is needed, discarded as a whole when anything about it is in doubt.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{LongString, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, Event};
use tokio::time::Instant;

use crate::outcome::{Outcome, cut};

/// The wait before the second attempt to connect; it doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait between two attempts to connect.
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);
/// When a broker held publishers back and the connection that would report the end of it is gone, the broker is tried again after this long.
const HELD_BACK: Duration = Duration::from_secs(5);

/// The parameters of a connection.
pub(super) struct Target {
    pub(super) source: Arc<str>,
    pub(super) uri: AMQPUri,
    pub(super) tls: OwnedTLSConfig,
    pub(super) name: String,
    /// How long one attempt may take.
    pub(super) within: Duration,
}

/// A live connection.
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) frame_max: u32,
    plug: Plug,
    dead: AtomicBool,
    listener: tokio::task::AbortHandle,
}

impl Link {
    /// Whether it can still be used.
    pub(super) fn alive(&self) -> bool {
        !self.dead.load(Ordering::Acquire) && self.connection.status().connected()
    }

    /// Cuts it, with everything on it. Nothing else cancels a publish that timed out: it would stay in memory and go out later.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.plug.pull();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// The one connection of a source.
pub(super) struct Links {
    target: Target,
    state: tokio::sync::Mutex<State>,
    held: Arc<Held>,
}

#[derive(Default)]
struct State {
    link: Option<Arc<Link>>,
    failures: u32,
    retry_at: Option<Instant>,
    last: String,
}

impl Links {
    pub(super) fn new(target: Target) -> Self {
        Self { target, state: tokio::sync::Mutex::default(), held: Arc::default() }
    }

    /// Why the broker is holding back publishers.
    pub(super) fn blocked(&self) -> Option<String> {
        // The end of it is reported on the same connection: without that connection, sending must be tried.
        if let Ok(state) = self.state.try_lock()
            && !state.link.as_ref().is_some_and(|link| link.alive())
        {
            self.held.connection_lost(Instant::now());
        }
        self.held.reason(Instant::now())
    }

    /// The connection, made anew if necessary.
    ///
    /// # Errors
    /// An unreachable outcome: it could not be made, now or a moment ago.
    pub(super) async fn get(&self) -> Result<Arc<Link>, Outcome> {
        let mut state = self.state.lock().await;
        if let Some(link) = &state.link {
            if link.alive() {
                return Ok(link.clone());
            }
            link.kill();
            state.link = None;
        }
        if state.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(Outcome::unreachable("amqp_connect", &state.last));
        }
        match connect(&self.target, self.held.clone()).await {
            Ok(link) => {
                if state.failures > 0 {
                    tracing::info!(source.name = %self.target.source, source.kind = "amqp", connect.failures = state.failures, "connected again");
                }
                *state = State { link: Some(link.clone()), ..State::default() };
                Ok(link)
            }
            Err(error) => {
                // One line per outage: the engine's breaker reports the rest.
                if state.failures == 0 {
                    tracing::warn!(source.name = %self.target.source, source.kind = "amqp", error.detail = error, "the broker can't be reached");
                }
                state.failures = state.failures.saturating_add(1);
                let wait = FIRST_BACKOFF.saturating_mul(1 << state.failures.min(10)).min(LONGEST_BACKOFF);
                state.retry_at = Some(Instant::now() + wait);
                state.last = error;
                Err(Outcome::unreachable("amqp_connect", &state.last))
            }
        }
    }

    /// Closes the connection in good order, or cuts it if that fails.
    pub(super) async fn close(&self, within: Duration) {
        let Ok(mut state) = tokio::time::timeout(within, self.state.lock()).await else { return };
        if let Some(link) = state.link.take() {
            let _ = tokio::time::timeout(within, link.connection.close(200, ShortString::try_new("OK").unwrap_or_default())).await;
            link.kill();
        }
    }
}

async fn connect(target: &Target, held: Arc<Held>) -> Result<Arc<Link>, String> {
    let properties = ConnectionProperties::default().with_connection_name(LongString::from(target.name.as_str()));
    let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
    let plug = Plug::default();
    let (tls, socket, within) = (target.tls.clone(), plug.clone(), target.within);
    let connecting = Connection::connector(
        target.uri.clone(),
        runtime,
        async move |uri, runtime| {
            let addresses = tokio::net::lookup_host((uri.authority.host.as_str(), uri.authority.port)).await?.collect();
            let stream = first_that_answers(addresses, within, |address| AsyncTcpStream::connect(&runtime, address)).await?;
            if let AsyncTcpStream::Plain(stream) = &stream {
                socket.insert(stream.get_ref())?;
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                AMQPScheme::AMQPS => Ok(stream.into_tls(&uri.authority.host, tls.as_ref()).await?),
            }
        },
        properties,
    );
    let connected = tokio::time::timeout(target.within, connecting).await;
    let connection = match connected {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            plug.pull();
            return Err(cut(&error.to_string(), 400).to_owned());
        }
        Err(_) => {
            // Otherwise a thread of lapin's would wait for the broker as long as the socket is open.
            plug.pull();
            return Err(format!("no connection within {}", humantime::format_duration(target.within)));
        }
    };
    let mut events = Box::pin(connection.events_listener());
    let listener = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => held.block(&reason),
                Event::ConnectionUnblocked => held.unblock(),
                _ => {}
            }
        }
    });
    let frame_max = connection.configuration().frame_max();
    Ok(Arc::new(Link { connection, frame_max, plug, dead: AtomicBool::new(false), listener: listener.abort_handle() }))
}

/// Connects to the first of several addresses that answers, tried in turn. Together they have half the time, in equal shares, so that a silent one
/// leaves the others theirs, and the broker its half.
async fn first_that_answers<T, F: Future<Output = std::io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    within: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> std::io::Result<T> {
    let mut last = std::io::Error::other("the name has no addresses");
    let each = within / 2 / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    for address in addresses {
        last = match tokio::time::timeout(each, connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => std::io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => std::io::Error::new(std::io::ErrorKind::TimedOut, format!("{address}: no answer")),
        };
    }
    Err(last)
}

/// A second handle to the socket, by which it can be shut whatever lapin is doing.
#[derive(Clone, Default)]
struct Plug(Arc<Mutex<Wire>>);

#[derive(Default)]
enum Wire {
    #[default]
    None,
    In(std::net::TcpStream),
    Pulled,
}

impl Plug {
    fn insert(&self, stream: &tokio::net::TcpStream) -> std::io::Result<()> {
        use std::os::fd::AsFd;
        let handle = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        handle.set_nodelay(true)?;
        let mut wire = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*wire, Wire::Pulled) {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "given up"));
        }
        *wire = Wire::In(handle);
        Ok(())
    }

    fn pull(&self) {
        let wire = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Wire::Pulled);
        if let Wire::In(socket) = wire {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Whether the broker is holding back publishers, and why.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Option<Hold>>);

#[derive(Debug)]
struct Hold {
    reason: String,
    /// Set when the connection that would report the end of it is gone.
    until: Option<Instant>,
}

impl Held {
    fn block(&self, reason: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Hold { reason: cut(reason, 200).to_owned(), until: None });
    }

    fn unblock(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn connection_lost(&self, now: Instant) {
        if let Some(hold) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            hold.until.get_or_insert(now + HELD_BACK);
        }
    }

    fn reason(&self, now: Instant) -> Option<String> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().and_then(|hold| hold.until).is_some_and(|until| now >= until) {
            *held = None;
        }
        held.as_ref().map(|hold| format!("the broker is holding back publishers: {}", hold.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_from_which_nothing_comes_back_leaves_the_others_their_time() {
        let silent: SocketAddr = ([192, 0, 2, 1], 5672).into();
        let (refuses, answers) = (SocketAddr::from(([192, 0, 2, 2], 5672)), SocketAddr::from(([192, 0, 2, 3], 5672)));
        let connect = async |address| match address {
            _ if address == answers => Ok(address),
            _ if address == refuses => Err(std::io::ErrorKind::ConnectionRefused.into()),
            _ => std::future::pending().await,
        };
        let (within, began) = (Duration::from_secs(5), Instant::now());
        assert_eq!(first_that_answers(vec![silent, refuses, answers], within, connect).await.unwrap(), answers);
        assert!(began.elapsed() < within / 2);
        let error = first_that_answers(vec![refuses, silent], within, connect).await.unwrap_err();
        assert!(error.to_string().contains("192.0.2.1:5672"), "{error}");
    }

    #[test]
    fn a_hold_ends_when_the_broker_says_so_or_a_while_after_the_connection_is_gone() {
        let held = Held::default();
        let now = Instant::now();
        assert_eq!(held.reason(now), None);
        held.block("low on memory");
        assert!(held.reason(now + Duration::from_secs(3600)).unwrap().contains("low on memory"));
        held.unblock();
        assert_eq!(held.reason(now), None);
        held.block("low on disk");
        held.connection_lost(now);
        held.connection_lost(now + HELD_BACK / 2);
        assert!(held.reason(now + HELD_BACK / 2).is_some());
        assert_eq!(held.reason(now + HELD_BACK), None);
    }
}
