//! The whole application in this process: a real configuration, a real store, its own ports.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redrive::app::App;
use redrive::config::{Config, Scope};
use redrive::message::Message;
use redrive::outcome::Outcome;
use redrive::source::{Delivery, Kind, Pipeline, Registry, Sender, Source};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A running application, and its folder.
pub(crate) struct Running {
    pub(crate) api: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) stop: CancellationToken,
    /// Each permit releases one send with the topic `hold`.
    pub(crate) hold: Arc<Semaphore>,
    folder: TempDir,
    task: JoinHandle<Result<(), redrive::app::Error>>,
}

/// A source of kind `scripted`, which does what a message's topic says: `refuse`, `forbid`, `away`, `forge`, `absurd`, `raw`, `hold`; anything else
/// succeeds.
struct Scripted {
    hold: Arc<Semaphore>,
}

#[async_trait]
impl Source for Scripted {
    async fn send(&self, message: &Message) -> Outcome {
        match message.topic.as_deref() {
            Some("refuse") => Outcome::refused("scripted_no", "not this time"),
            Some("forbid") => Outcome::permanent("scripted_never", "never"),
            Some("away") => Outcome::unreachable("scripted_away", "nobody there"),
            Some("forge") => Outcome::unreachable("scripted_away", "gone\n1999-12-31T00:00:00Z ERROR forged \u{1b}[31m"),
            Some("absurd") => Outcome::unsendable("scripted_absurd", "makes no sense"),
            Some("raw") => {
                let mut outcome = Outcome::permanent("", "");
                outcome.code = "x".repeat(100).into();
                outcome.detail = format!("a\0b{}", "x".repeat(2000));
                outcome.result = Some("x".repeat(3000));
                outcome
            }
            Some("hold") => {
                if let Ok(permit) = self.hold.acquire().await {
                    permit.forget();
                }
                Outcome::succeeded()
            }
            _ => Outcome::succeeded().with_result(r#"{"took":"it"}"#),
        }
    }

    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        if topic == Some("no such") { Err("must not hold spaces".to_owned()) } else { Ok(()) }
    }
}

/// A pipeline of kind `fragile`, which panics at a topic `panic`, and at a topic `hold` once it is let go.
struct Fragile {
    hold: Arc<Semaphore>,
}

#[async_trait]
impl Pipeline for Fragile {
    async fn send(&self, batch: Vec<Delivery>) {
        for delivery in batch {
            match delivery.message().topic.as_deref() {
                Some("panic") => panic!("on purpose"),
                Some("hold") => {
                    let _permit = self.hold.acquire().await;
                    panic!("on purpose")
                }
                _ => delivery.finish(Outcome::succeeded()),
            }
        }
    }
}

/// A source of kind `rude`, which panics at everything but a send, and at a send with a topic: `now`, `later`, or `late`, when the send is dropped.
struct Rude;

/// Panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

impl Source for Rude {
    // As a source may do without the macro.
    fn send<'a, 'b, 'c>(&'a self, message: &'b Message) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
    {
        assert_ne!(message.topic.as_deref(), Some("now"), "on purpose");
        Box::pin(async {
            match message.topic.as_deref() {
                Some("later") => panic!("on purpose"),
                Some("late") => {
                    let _grenade = Grenade;
                    std::future::pending().await
                }
                _ => Outcome::succeeded().with_result("1"),
            }
        })
    }

    fn check(&self, _topic: Option<&str>) -> Result<(), String> {
        panic!("on purpose")
    }

    fn blocked(&self) -> Option<String> {
        panic!("on purpose")
    }

    fn keeps_result(&self) -> bool {
        panic!("on purpose")
    }
}

/// A pipeline of kind `narrow`, which accepts nothing more while it is busy with a topic `hold`.
struct Narrow {
    hold: Arc<Semaphore>,
}

#[async_trait]
impl Pipeline for Narrow {
    async fn send(&self, batch: Vec<Delivery>) {
        for delivery in batch {
            let holds = delivery.message().topic.as_deref() == Some("hold");
            if holds && let Ok(permit) = self.hold.acquire().await {
                permit.forget();
            }
            delivery.finish(Outcome::succeeded());
        }
    }
}

/// A pipeline of kind `slow`: one message after another, 250 a second, and none that has waited for more than a second.
struct Slow(mpsc::UnboundedSender<(Delivery, Instant)>);

impl Slow {
    fn open() -> Self {
        let (entrance, mut line) = mpsc::unbounded_channel::<(Delivery, Instant)>();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            loop {
                ticks.tick().await;
                let mut taken = 0;
                while taken < 5 {
                    let Some((delivery, since)) = line.recv().await else { return };
                    if since.elapsed() > Duration::from_secs(1) {
                        delivery.finish(Outcome::unreachable("slow_timeout", "waited for too long"));
                    } else {
                        delivery.finish(Outcome::succeeded());
                        taken += 1;
                    }
                }
            }
        });
        Self(entrance)
    }
}

#[async_trait]
impl Pipeline for Slow {
    async fn send(&self, batch: Vec<Delivery>) {
        for delivery in batch {
            self.0.send((delivery, Instant::now())).ok();
        }
    }
}

/// Starts an application on SQLite, or on the store that `yaml` names. `yaml` adds to a configuration with a project, a store and ports.
pub(crate) async fn start(yaml: &str) -> Running {
    start_in(tempfile::tempdir().expect("a folder"), yaml).await
}

/// The same, in a folder where one may have run before.
pub(crate) async fn start_in(folder: TempDir, yaml: &str) -> Running {
    let mut text = yaml.to_owned();
    for (section, default) in [
        ("project:", "project: test".to_owned()),
        ("store:", format!("store: {{ url: \"sqlite://{}\" }}", folder.path().join("redrive.db").display())),
        ("api:", "api: { listen: \"127.0.0.1:0\" }".to_owned()),
        ("health:", "health: { listen: \"127.0.0.1:0\" }".to_owned()),
        // There is a test of its own for a producer that stops late; the others need not wait for it.
        ("shutdown:", "shutdown: { accept_for: 0s, grace: 10s }".to_owned()),
        ("sources:", "sources: { main: { kind: scripted } }".to_owned()),
    ] {
        if !text.lines().any(|line| line.starts_with(section)) {
            text = format!("{text}\n{default}");
        }
    }
    let hold = Arc::new(Semaphore::new(0));
    let mut registry = Registry::default();
    let gate = hold.clone();
    registry.register_kind("scripted", Kind::new(move |_: Value, _| Ok(Sender::each(Scripted { hold: gate.clone() }))));
    let gate = hold.clone();
    registry.register_kind("narrow", Kind::new(move |_: Value, _| Ok(Sender::pipelined(Narrow { hold: gate.clone() }))));
    let gate = hold.clone();
    registry.register_kind("fragile", Kind::new(move |_: Value, _| Ok(Sender::pipelined(Fragile { hold: gate.clone() }))));
    registry.register_kind("rude", Kind::new(|_: Value, _| Ok(Sender::each(Rude))));
    registry.register_kind("slow", Kind::new(|_: Value, _| Ok(Sender::pipelined(Slow::open()))));
    let file = folder.path().join("redrive.yaml");
    let config = Config::parse(&text, &file, &|_| None, &registry, Scope::Whole).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    let app = App::build(config).await.unwrap_or_else(|error| panic!("{error}"));
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let (api, health) = (app.address().unwrap_or(nowhere), app.health_address().unwrap_or(nowhere));
    let stop = CancellationToken::new();
    let task = tokio::spawn(app.run(stop.clone().cancelled_owned()));
    Running { api, health, stop, hold, folder, task }
}

impl Running {
    /// The address of a path of the API.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.api)
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The URL of its store, if that is SQLite.
    pub(crate) fn store_url(&self) -> String {
        format!("sqlite://{}", self.folder.path().join("redrive.db").display())
    }

    /// Drops it in the middle of what it does, and returns its folder.
    pub(crate) async fn cut(self) -> TempDir {
        self.task.abort();
        assert!(self.task.await.is_err_and(|ended| ended.is_cancelled()));
        self.folder
    }

    /// Waits until it ends because of a bug.
    pub(crate) async fn bug(self) -> JoinError {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        ended.expect("ends in time").expect_err("a panic")
    }

    /// Stops it and returns its folder.
    pub(crate) async fn end(self) -> TempDir {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), self.task).await;
        ended.expect("ends in time").expect("no panic").expect("no error");
        self.folder
    }
}
