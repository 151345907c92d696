//! What the tests share.

pub(crate) mod amqp;
pub(crate) mod broker;
pub(crate) mod database;
pub(crate) mod kafka;
pub(crate) mod metrics;
pub(crate) mod node;
pub(crate) mod producer;
pub(crate) mod proxy;
pub(crate) mod session;
pub(crate) mod sink;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use broker::Broker;
pub(crate) use database::{Database, Kind};
pub(crate) use node::{Node, Yaml};
pub(crate) use producer::Producer;
pub(crate) use proxy::Proxy;
pub(crate) use sink::Sink;

/// The ids that a consumer saw, each with how many copies of it.
pub(crate) type Copies = HashMap<String, u32>;

/// The value of a variable that `scripts/services env` prints.
pub(crate) fn service(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `scripts/services up` and `eval \"$(scripts/services env)\"`"))
}

/// A name that no other test, and no other run, has used.
pub(crate) fn unique(what: &str) -> String {
    let seconds = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    format!("rdo_{what}_{seconds:x}_{:08x}", rand::random::<u32>())
}

/// A port below the range for outgoing connections, so that it is still free when a killed node comes back to it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(20_000 + (std::process::id().wrapping_mul(37).wrapping_add(step)) % 12_000).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Asks again and again until there is an answer, and fails the test once `within` has passed.
#[track_caller]
pub(crate) fn eventually<T, F, A>(what: impl std::fmt::Display, within: Duration, ask: A) -> impl Future<Output = T>
where
    F: Future<Output = Result<T, String>>,
    A: Fn() -> F,
{
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(so_far) => assert!(started.elapsed() < within, "{caller}: {what}: not within {within:?}; {so_far}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The number of messages by state, for printing.
pub(crate) type States = BTreeMap<String, u64>;
