//! What the tests share.

pub(crate) mod app;
mod backend;
pub(crate) mod endpoint;
pub(crate) mod process;
mod proxy;
mod raw;
pub(crate) mod schema;
pub(crate) mod sends;
pub(crate) mod yaml;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use redrive::message::Message;

pub(crate) use backend::{Backend, TestStore};
pub(crate) use proxy::Proxy;
pub(crate) use raw::Raw;

/// The value of a variable that `scripts/services env` prints.
pub(crate) fn service(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `scripts/services up` and `eval \"$(scripts/services env)\"`"))
}

/// A name that no other test, and no other run, has used: lower-case letters, digits and underscores. It contains the time, so that the age of what a
/// killed run left behind is known.
pub(crate) fn unique_name() -> String {
    let seconds = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    format!("rdt_{seconds:x}_{:010x}", rand::random::<u64>() >> 24)
}

/// A message with something changed.
pub(crate) fn changed(mut message: Message, change: impl FnOnce(&mut Message)) -> Message {
    change(&mut message);
    message
}

/// Asks again and again until there is an answer, and fails the test once `deadline` has passed.
#[track_caller]
pub(crate) fn eventually<T, F, A>(deadline: Duration, ask: A) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
    A: Fn() -> F,
{
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(started.elapsed() < deadline, "{caller}: not within {deadline:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Asserts that two times are no further apart than `within`.
#[track_caller]
pub(crate) fn assert_near(got: chrono::DateTime<chrono::Utc>, want: chrono::DateTime<chrono::Utc>, within: Duration, what: impl Debug) {
    let apart = (got - want).abs().to_std().unwrap();
    assert!(apart <= within, "{what:?}: {got} is {apart:?} away from {want}");
}
