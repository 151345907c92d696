//! A node: the real binary with a configuration of its own, which the test kills, stops and starts again.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::metrics::Metrics;
use super::{Database, eventually, free_port};

/// Options for every source of these tests, so that an outage is over quickly.
pub(crate) const QUICK: &str =
    "retry: { first_delay: 200ms, base_delay: 500ms, multiplier: 1, unreachable_delay: 1s }, breaker: { after: 5, probe: 500ms }";

/// How long a node may take to be ready; the machine may be busy.
const START: Duration = Duration::from_secs(20);

/// A configuration.
#[derive(Clone, Debug)]
pub(crate) struct Yaml {
    store: String,
    sources: String,
    poller: String,
    more: String,
}

impl Yaml {
    /// A configuration with short leases.
    pub(crate) fn on(database: &Database) -> Self {
        Self::with_store(&database.store())
    }

    /// The same, with `store:` given.
    pub(crate) fn with_store(store: &str) -> Self {
        Self { store: store.to_owned(), sources: String::new(), poller: "lease: 4s, interval: 200ms".to_owned(), more: String::new() }
    }

    pub(crate) fn source(mut self, name: &str, source: &str) -> Self {
        writeln!(self.sources, "  {name}: {source}").unwrap();
        self
    }

    pub(crate) fn poller(mut self, poller: &str) -> Self {
        poller.clone_into(&mut self.poller);
        self
    }

    /// Adds to `store:`; begins with a comma.
    pub(crate) fn store_more(mut self, more: &str) -> Self {
        self.store.push_str(more);
        self
    }

    /// Adds another section, such as `shutdown: { … }`.
    pub(crate) fn section(mut self, section: &str) -> Self {
        writeln!(self.more, "{section}").unwrap();
        self
    }

    fn text(&self, port: u16) -> String {
        let Self { store, sources, poller, more } = self;
        format!("project: outage\nstore: {{ {store} }}\napi: {{ listen: \"127.0.0.1:{port}\" }}\npoller: {{ {poller} }}\n{more}sources:\n{sources}")
    }
}

/// The binary under test, in an environment without anything that redrive reads.
pub(crate) fn redrive(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
    command.args(arguments).arg("-c").arg(config);
    command.env_remove("REDRIVE_CONFIG").env_remove("REDRIVE_LOG").env_remove("RUST_LOG");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn id(&self) -> &str {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id in {self:?}"))
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
    runs: u32,
    client: Client,
}

impl Node {
    /// A node that is ready.
    pub(crate) async fn start(yaml: &Yaml) -> Self {
        let mut node = Self::new(yaml);
        node.respawn().await;
        node
    }

    /// A node that was not started yet.
    pub(crate) fn new(yaml: &Yaml) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        std::fs::write(folder.path().join("redrive.yaml"), yaml.text(port)).unwrap();
        let client = Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
        Self { folder, port, child: None, runs: 0, client }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("redrive.yaml")
    }

    /// Starts the process; can be repeated with the same configuration.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.runs += 1;
        let log = std::fs::File::create(self.log_file(self.runs)).unwrap();
        self.child = Some(redrive(&["serve"], &self.config()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn respawn(&mut self) {
        self.spawn();
        let mut child = self.child.take().expect("it runs");
        tokio::select! {
            () = self.ready() => {}
            status = child.wait() => panic!("it ended instead of getting ready: {status:?}"),
        }
        self.child = Some(child);
    }

    fn log_file(&self, run: u32) -> PathBuf {
        self.folder.path().join(format!("stderr-{run}.log"))
    }

    /// What all runs wrote to stderr.
    pub(crate) fn log(&self) -> String {
        (1..=self.runs).map(|run| std::fs::read_to_string(self.log_file(run)).unwrap_or_default()).collect()
    }

    /// Waits for `/readyz` to say 200.
    pub(crate) async fn ready(&self) {
        self.answers("/readyz", StatusCode::OK, START).await;
    }

    /// Waits until a path is answered with this status; returns the body.
    pub(crate) async fn answers(&self, path: &str, status: StatusCode, within: Duration) -> Value {
        eventually(format!("{path} says {status}"), within, async || match self.try_get(path).await {
            Ok(answer) if answer.status == status => Ok(answer.body),
            Ok(answer) => Err(format!("{answer:?}")),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) async fn try_get(&self, path: &str) -> reqwest::Result<Answer> {
        answer(self.client.get(self.url(path)).send().await?).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap()
    }

    /// Submits a payload as it is; `to` is the source and, after a `?`, further query parameters.
    pub(crate) async fn publish(&self, to: &str, payload: impl Into<reqwest::Body>) -> Answer {
        answer(self.client.post(self.url(&format!("/v1/publish/{to}"))).body(payload).send().await.unwrap()).await.unwrap()
    }

    /// Submits this many messages at once; returns their ids.
    pub(crate) async fn submit(&self, source: &str, count: usize) -> Vec<String> {
        let items = vec![serde_json::json!({ "source": source, "payload": "x" }); count];
        let request = self.client.post(self.url("/v1/messages/batch")).header("content-type", "application/json");
        let answer = answer(request.body(Value::Array(items).to_string()).send().await.unwrap()).await.unwrap();
        assert_eq!(answer.body["accepted"], count, "{answer:?}");
        answer.body["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics(self.client.get(self.url("/metrics")).send().await.unwrap().text().await.unwrap())
    }

    /// The peak memory of the process, in MiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
    }

    fn pid(&self) -> Pid {
        let pid = self.child.as_ref().and_then(Child::id).expect("it runs");
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.exit(Duration::from_secs(10)).await;
    }

    /// Waits for the process to end.
    pub(crate) async fn exit(&mut self, within: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let status = tokio::time::timeout(within, child.wait()).await.expect("it ends in time").unwrap();
        self.child = None;
        status
    }
}

async fn answer(response: reqwest::Response) -> reqwest::Result<Answer> {
    let status = response.status();
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let body = response.bytes().await?;
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
    Ok(Answer { status, retry_after, body })
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Short enough that the logs of several nodes don't push the failure out of sight.
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the end of what the node on port {} logged:", self.port);
            for line in &lines[lines.len().saturating_sub(12)..] {
                eprintln!("  {}", line.chars().take(250).collect::<String>());
            }
        }
    }
}
