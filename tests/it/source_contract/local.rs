//! Destinations without a connection: programs, the log, and a source registered by a program.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use redrive::message::{Key, Message};
use redrive::outcome::{Class, Outcome};
use redrive::source::{Kind, Registry, Sender, Source, command};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use super::{Arrival, Destination, Leaving, Refusing, Secretive, Shown, State};
use crate::support::sends::message;

const TOPIC: &str = "orders";

/// A script, and the folder where it puts what it is given.
pub(crate) struct Command(TempDir);

/// Each success leaves a file of its own, named after the message and the process: a copy is another file.
const SCRIPT: &str = r#"
[ ! -e still ] || exec sleep 600
[ ! -e away ] || exit 75
case "$REDRIVE_TOPIC" in nonsense) exit 65 ;; broken) exit 1 ;; esac
env -0 > "facts/$REDRIVE_ID.$$" && cat > "payloads/$REDRIVE_ID.$$"
"#;

impl Destination for Command {
    const KIND: &'static str = "command";

    async fn set_up() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["facts", "payloads"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self(folder)
    }

    fn section(&self) -> Value {
        json!({ "argv": ["sh", "-c", SCRIPT], "env": { "TOKEN": "hunter2" } })
    }

    fn topic(&self) -> &str {
        TOPIC
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }
}

impl Secretive for Command {
    type Config = command::Config;
}

impl Shown for Command {
    const FACTS_ARE_HEADERS: bool = false;

    async fn arrived(&self) -> Vec<Arrival> {
        let payloads = std::fs::read_dir(self.0.path().join("payloads")).unwrap();
        payloads.map(|file| self.arrival(&file.unwrap().path())).collect()
    }
}

impl Command {
    fn arrival(&self, payload: &Path) -> Arrival {
        let facts = std::fs::read_to_string(self.0.path().join("facts").join(payload.file_name().unwrap())).unwrap();
        let facts: BTreeMap<_, _> = facts.split_terminator('\0').filter_map(|fact| fact.split_once('=')).collect();
        let key = facts.get("REDRIVE_KEY_BASE64").map(|key| STANDARD.decode(key).unwrap());
        Arrival {
            id: facts["REDRIVE_ID"].to_owned(),
            attempt: facts["REDRIVE_ATTEMPT"].to_owned(),
            key: key.or_else(|| facts.get("REDRIVE_KEY").map(|key| key.as_bytes().to_vec())),
            payload: Some(std::fs::read(payload).unwrap()),
            headers: serde_json::from_str(facts["REDRIVE_HEADERS"]).unwrap(),
        }
    }
}

impl Refusing for Command {
    fn refused(&self) -> Vec<(Message, Class, &'static str)> {
        vec![(message("nonsense", "hunter3"), Class::Permanent, "exit_65"), (message("broken", "hunter3"), Class::Refused, "exit_1")]
    }
}

impl Leaving for Command {
    fn be(&self, state: State) {
        for (name, of) in [("away", State::Away), ("still", State::Still)] {
            let file = self.0.path().join(name);
            if state == of {
                std::fs::write(file, "").unwrap();
            } else {
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

/// The log of the test run.
pub(crate) struct Log;

impl Destination for Log {
    const KIND: &'static str = "log";

    async fn set_up() -> Self {
        Self
    }

    fn section(&self) -> Value {
        json!({})
    }

    fn topic(&self) -> &str {
        TOPIC
    }
}

/// Keeps what it is sent.
#[derive(Clone)]
pub(crate) struct Shelf {
    kept: Arc<Mutex<Vec<Message>>>,
    state: watch::Sender<State>,
}

/// The source that sends to a [`Shelf`].
struct Keeper {
    shelf: Shelf,
    timeout: Duration,
}

#[async_trait]
impl Source for Keeper {
    async fn send(&self, message: &Message) -> Outcome {
        if let Err(detail) = self.check(message.topic.as_deref()) {
            return Outcome::unsendable("shelf_topic", detail);
        }
        let mut state = self.shelf.state.subscribe();
        let away = *state.borrow() == State::Away;
        if away || tokio::time::timeout(self.timeout, state.wait_for(|state| *state == State::There)).await.is_err() {
            return Outcome::unreachable("shelf_away", "nobody is there");
        }
        if message.topic.as_deref() == Some("nonsense") {
            return Outcome::permanent("shelf_nonsense", "is not kept");
        }
        self.shelf.kept.lock().unwrap().push(message.clone());
        Outcome::succeeded()
    }

    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        if topic == Some("..") { Err("has no place on the shelf".to_owned()) } else { Ok(()) }
    }
}

impl Destination for Shelf {
    const KIND: &'static str = "shelf";

    async fn set_up() -> Self {
        Self { kept: Arc::default(), state: watch::Sender::new(State::There) }
    }

    fn section(&self) -> Value {
        json!({})
    }

    fn topic(&self) -> &str {
        TOPIC
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let shelf = self.clone();
        let kind = Kind::new(move |_: Value, cx| {
            let timeout = cx.options.timeout.expect("each test sets one").get();
            Ok(Sender::each(Keeper { shelf: shelf.clone(), timeout }))
        });
        registry.register_kind(Self::KIND, kind);
        registry
    }
}

impl Shown for Shelf {
    const TOMBSTONE: Option<&'static [u8]> = None;
    const FACTS_ARE_HEADERS: bool = false;

    async fn arrived(&self) -> Vec<Arrival> {
        let kept = self.kept.lock().unwrap();
        let arrival = |message: &Message| Arrival {
            id: message.id.to_string(),
            attempt: message.attempt.to_string(),
            key: message.key.as_ref().map(|key: &Key| key.as_bytes().to_vec()),
            payload: message.payload.as_ref().map(|payload| payload.to_vec()),
            headers: message.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        };
        kept.iter().map(arrival).collect()
    }
}

impl Refusing for Shelf {
    fn refused(&self) -> Vec<(Message, Class, &'static str)> {
        vec![(message("nonsense", "hunter3"), Class::Permanent, "shelf_nonsense")]
    }
}

impl Leaving for Shelf {
    fn be(&self, state: State) {
        self.state.send_replace(state);
    }
}
