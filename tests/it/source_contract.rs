//! The contract suite of sources: what every sender promises, whatever its kind, checked for every destination. A destination is one line; those that
//! need a server are in `servers/source.rs`.
//!
//! A line names the groups of tests that its destination supports, and the compiler holds it to that: `secret` needs [`Secretive`], `shown`
//! [`Shown`], `refusing` [`Refusing`], `leaving` [`Leaving`]. `pipelined` is for a kind that is a `Pipeline`.

pub(crate) mod arriving;
pub(crate) mod destinations;
pub(crate) mod ending;
mod local;
pub(crate) mod saying;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use redrive::message::Message;
use redrive::outcome::{Class, Outcome};
use redrive::source::{Registry, Sender};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::support::Proxy;
use crate::support::sends::{context_with_timeout, message, send_all};

/// A test that takes longer than this hangs.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long working sends may take, on a machine that is busy with much else.
pub(crate) const SOON: Duration = Duration::from_secs(40);
/// This long after a source's timeout the engine abandons a send by itself.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// Where messages go, and the source that takes them there.
pub(crate) trait Destination: Sized {
    /// The kind in the YAML.
    const KIND: &'static str;

    async fn set_up() -> Self;

    /// The source's section in the YAML, without the kind and the common options.
    fn section(&self) -> Value;

    /// A section with which as many topics as possible are wrong.
    fn strict_section(&self) -> Value {
        self.section()
    }

    /// A topic that exists.
    fn topic(&self) -> &str;

    /// The folder of the configuration's file.
    fn folder(&self) -> &Path {
        Path::new("/")
    }

    fn registry(&self) -> Registry {
        Registry::default()
    }

    fn remove(self) -> impl Future<Output = ()> {
        std::future::ready(())
    }
}

/// A destination that is given secrets.
pub(crate) trait Secretive: Destination {
    /// The parsed configuration of its kind.
    type Config: DeserializeOwned + Debug;

    /// A section with `hunter2` for every secret; messages sent with it need not arrive.
    fn secret_section(&self) -> Value {
        self.section()
    }
}

/// A destination that shows what arrived.
pub(crate) trait Shown: Destination {
    /// The payload that a tombstone arrives with.
    const TOMBSTONE: Option<&'static [u8]> = Some(b"");
    /// Whether redrive's own facts are among the headers, so that no message may bring imitations of them.
    const FACTS_ARE_HEADERS: bool = true;

    /// Everything that has arrived, including copies.
    async fn arrived(&self) -> Vec<Arrival>;
}

/// A destination that does not accept every message.
pub(crate) trait Refusing: Shown {
    /// Messages that it refuses, each with the resulting class and code.
    fn refused(&self) -> Vec<(Message, Class, &'static str)>;
}

/// A destination that can be taken away and brought back.
pub(crate) trait Leaving: Destination {
    fn be(&self, state: State);
}

/// The state of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    There,
    /// Nobody is there, which shows at once where possible.
    Away,
    /// Messages are taken, and never answered.
    Still,
}

impl State {
    /// Puts whatever is behind a proxy into this state.
    pub(crate) fn of(self, proxy: &Proxy) {
        match self {
            Self::There => proxy.open(),
            Self::Away => proxy.cut(),
            Self::Still => proxy.stall(),
        }
    }
}

/// A message as it arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) id: String,
    pub(crate) attempt: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, String>,
}

/// The source with this section, built as the configuration builds it.
pub(crate) fn built<D: Destination>(destination: &D, section: Value, timeout: &str) -> Sender {
    let mut cx = context_with_timeout(timeout);
    cx.folder = destination.folder().into();
    destination.registry().build(D::KIND, section, &cx).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// The source as it is used.
pub(crate) fn sender<D: Destination>(destination: &D, timeout: &str) -> Sender {
    built(destination, destination.section(), timeout)
}

/// This many messages, whose payloads can be recognised in any text.
pub(crate) fn messages<D: Destination>(destination: &D, count: usize) -> Vec<Message> {
    (0..count).map(|number| message(destination.topic(), format!("hunter3 {number}"))).collect()
}

/// Sends messages in one batch: each gets exactly one outcome in time, and the general rules for outcomes hold.
pub(crate) async fn send<D: Destination>(destination: &D, sender: &Sender, batch: Vec<Message>, within: Duration) -> HashMap<Uuid, Outcome> {
    let outcomes = send_all(sender, batch, within).await;
    judge(destination, &outcomes);
    outcomes
}

/// A code says what went wrong, if anything did, and is one that the kind lists; and no text repeats a secret or a payload.
pub(crate) fn judge<D: Destination>(destination: &D, outcomes: &HashMap<Uuid, Outcome>) {
    let codes = destination.registry().codes(D::KIND);
    for outcome in outcomes.values() {
        let fine = outcome.class == Class::Succeeded;
        assert_eq!(outcome.code.is_empty(), fine, "{outcome:?}");
        let listed = codes.as_ref().is_none_or(|codes| codes.iter().any(|code| code.is(&outcome.code)));
        assert!(fine || listed, "{outcome:?}");
        assert!(!format!("{outcome:?}").contains("hunter"), "{outcome:?}");
    }
}

#[track_caller]
pub(crate) fn assert_all(outcomes: &HashMap<Uuid, Outcome>, class: Class) {
    if let Some(other) = outcomes.values().find(|outcome| outcome.class != class) {
        panic!("not {class}: {other:?}");
    }
}

/// Runs a test of the suite.
pub(crate) async fn in_time(test: impl Future<Output = ()>) {
    tokio::time::timeout(DEADLINE, test).await.expect("the test hangs");
}

/// The suite for one destination, as far as it supports it.
macro_rules! contract {
    ($destination:ty => $($group:ident)+) => {
        $($crate::source_contract::group! { $group $destination })+
    };
}
pub(crate) use contract;

/// The tests of a group, by what they need from the destination.
macro_rules! group {
    (always $destination:ty) => {
        $crate::source_contract::suite! { $destination;
            saying: check_refuses_a_topic_exactly_when_a_send_would;
            ending: a_close_waits_for_what_is_under_way;
        }
    };
    (secret $destination:ty) => {
        $crate::source_contract::suite! { $destination; saying: nothing_secret_is_shown; }
    };
    (pipelined $destination:ty) => {
        $crate::source_contract::suite! { $destination; ending: a_send_that_is_dropped_loses_no_outcome; }
    };
    (unseen $destination:ty) => {
        $crate::source_contract::suite! { $destination; arriving: several_hundred_succeed; }
    };
    (shown $destination:ty) => {
        $crate::source_contract::suite! { $destination; arriving: a_message_arrives_whole several_hundred_arrive_once_each; }
    };
    (refusing $destination:ty) => {
        $crate::source_contract::suite! { $destination; arriving: one_that_is_refused_takes_no_other_with_it; }
    };
    (leaving $destination:ty) => {
        $crate::source_contract::suite! { $destination;
            ending:
                one_that_is_away_is_unreachable_in_time_and_used_again one_that_stands_still_is_unreachable_in_time_and_used_again
                what_is_pending_at_the_close_gets_an_outcome;
        }
    };
}
pub(crate) use group;

/// A `#[tokio::test]` for each name, each with a destination of its own.
macro_rules! suite {
    ($destination:ty; $($module:ident: $($test:ident)+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let destination = <$destination as $crate::source_contract::Destination>::set_up().await;
                $crate::source_contract::in_time($crate::source_contract::$module::$test(&destination)).await;
                $crate::source_contract::Destination::remove(destination).await;
            }
        )+)+
    };
}
pub(crate) use suite;

/// librdkafka's mock cluster, which runs inside the process.
mod kafka {
    super::contract! { super::destinations::MockKafka => always secret pipelined shown refusing leaving }
}

mod http {
    super::contract! { super::destinations::Endpoint => always secret shown refusing leaving }
}

mod command {
    super::contract! { super::local::Command => always secret shown refusing leaving }
}

/// It accepts everything, is always there, and deliberately shows no payload.
mod log {
    super::contract! { super::local::Log => always unseen }
}

/// A program's own `impl Source`.
mod custom {
    super::contract! { super::local::Shelf => always shown refusing leaving }
}
