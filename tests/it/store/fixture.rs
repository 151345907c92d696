//! The basis of every test of the suite: a store of its own, a session beside it, and messages to put in.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use redrive::message::judge::Log;
use redrive::message::{AttemptOutcome, ErrorClass, Headers, Key, State};
use redrive::store::{
    Claim, Claimed, Completion, Due, Failure, Heartbeat, Held, Insert, LastError, Lease, List, NewMessage, Outlook, Queues, Ready, Record, Row,
    Store, TakeOver, Upcoming, Verdict,
};
use tokio::sync::{Mutex, MutexGuard, OnceCell};
use uuid::Uuid;

use crate::support::{Backend, Raw, TestStore};

/// A lease that no test outlives.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// A lease that runs out as soon as a test waits for it.
pub(crate) const SHORT: Duration = Duration::from_millis(60);
/// No message at all.
pub(crate) const NONE: [Uuid; 0] = [];
/// A test that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs one test of the suite on a store of its own.
pub(crate) async fn run<F: Future<Output = ()>>(backend: Backend, test: impl FnOnce(Fixture) -> F) {
    let fixture = Fixture::new(backend.fresh().await);
    tokio::time::timeout(DEADLINE, test(fixture)).await.expect("the test hangs");
}

/// A store of a test's own, prepared at first use.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) backend: Backend,
    pub(crate) project: Arc<str>,
    store: OnceCell<Arc<dyn Store>>,
    raw: OnceCell<Mutex<Raw>>,
    tokens: AtomicI64,
    // The last field: the connections must be dropped before what they are connected to.
    pub(crate) test: TestStore,
}

impl Fixture {
    fn new(test: TestStore) -> Self {
        let project = test.project.as_str().into();
        Self { backend: test.backend, project, store: OnceCell::default(), raw: OnceCell::default(), tokens: AtomicI64::new(0), test }
    }

    /// The store, prepared.
    pub(crate) async fn store(&self) -> &Arc<dyn Store> {
        self.store.get_or_init(|| self.test.prepared()).await
    }

    /// The application's session. The tables exist by then.
    pub(crate) async fn raw(&self) -> MutexGuard<'_, Raw> {
        self.store().await;
        self.raw.get_or_init(async || Mutex::new(self.test.raw().await)).await.lock().await
    }

    /// Runs statements of an application.
    pub(crate) async fn sql(&self, sql: &str) -> u64 {
        self.raw().await.run(sql).await
    }

    /// A lease with a token that no other has.
    pub(crate) fn lease(&self, ttl: Duration) -> Lease {
        Lease { token: self.tokens.fetch_add(1, Ordering::Relaxed) + 1, node: "node-1".into(), ttl }
    }

    /// The database's clock.
    pub(crate) async fn now(&self) -> DateTime<Utc> {
        self.outlook(&["billing"]).await.now
    }

    /// What is due, and which lease ends next, unless that is later than a [`LONG`] one from now.
    pub(crate) async fn outlook(&self, sources: &[&str]) -> Outlook {
        let queues = sources.iter().map(|&source| Queues::all(source.into())).collect();
        self.store().await.upcoming(Upcoming { project: self.project.clone(), queues, horizon: LONG }).await.unwrap()
    }

    pub(crate) async fn beat(&self, node: &str, sources: &[&str], ttl: Duration) {
        let sources = sources.iter().map(|&source| source.into()).collect();
        let beat = Heartbeat { project: self.project.clone(), node: node.into(), sources, sends: true, ttl };
        self.store().await.heartbeat(beat).await.unwrap();
    }

    /// An insert of these messages, with a new lease.
    pub(crate) fn insertion(&self, messages: Vec<NewMessage>) -> Insert {
        Insert { project: self.project.clone(), messages: Arc::new(messages), lease: self.lease(LONG), keep_keys: LONG }
    }

    pub(crate) async fn insert(&self, messages: Vec<NewMessage>) -> Vec<Verdict> {
        self.store().await.insert(self.insertion(messages)).await.unwrap().verdicts
    }

    /// Commits plain messages of a source; returns their ids.
    pub(crate) async fn put(&self, source: &str, count: usize) -> Vec<Uuid> {
        let messages: Vec<_> = (0..count).map(|_| message(source)).collect();
        let ids = messages.iter().map(|message| message.id).collect();
        assert_eq!(self.insert(messages).await, vec![Verdict::New; count]);
        ids
    }

    /// Commits one message, and claims it.
    pub(crate) async fn claimed(&self, source: &str) -> (Ready, Held) {
        let id = self.put(source, 1).await[0];
        self.take(id, source, LONG).await
    }

    /// Claims the only message of a source that is due, which must be this one.
    pub(crate) async fn take(&self, id: Uuid, source: &str, ttl: Duration) -> (Ready, Held) {
        let claim = Claim { lease: self.lease(ttl), ..self.claim_of(source) };
        let token = claim.lease.token;
        let mut rows = ready(self.claim(claim).await.rows);
        assert_eq!(rows.iter().map(|row| row.message.id).collect::<Vec<_>>(), [id]);
        (rows.remove(0), Held { id, token })
    }

    /// A claim of everything of a source at level 0.
    pub(crate) fn claim_of(&self, source: &str) -> Claim {
        Claim {
            project: self.project.clone(),
            source: source.into(),
            level: 0,
            limit: 1000,
            max_bytes: 64 << 20,
            max_payload: 16 << 20,
            after: None,
            lease: self.lease(LONG),
        }
    }

    pub(crate) async fn claim(&self, claim: Claim) -> Claimed {
        self.store().await.claim(claim).await.unwrap()
    }

    /// The ids of everything of a source at level 0 that can be claimed.
    pub(crate) async fn claim_ids(&self, source: &str) -> Vec<Uuid> {
        ids(&self.claim(self.claim_of(source)).await.rows)
    }

    pub(crate) async fn complete(&self, completions: Vec<Completion>) -> Vec<bool> {
        self.store().await.complete(Arc::new(completions)).await.unwrap()
    }

    /// A take-over of everything of these sources that has lapsed.
    pub(crate) fn take_over_of(&self, sources: &[&str]) -> TakeOver {
        let sources = sources.iter().map(|&source| source.into()).collect();
        TakeOver { project: self.project.clone(), sources, except: Vec::new(), limit: 1000, lease: self.lease(LONG) }
    }

    pub(crate) async fn get(&self, id: Uuid) -> Record {
        self.store().await.get(&self.project, id, true).await.unwrap().expect("there is such a message")
    }

    pub(crate) async fn state(&self, id: Uuid) -> State {
        self.get(id).await.state
    }

    /// All messages of the project, the newest first.
    pub(crate) async fn all(&self) -> Vec<Record> {
        let list = List { project: self.project.to_string(), limit: 1000, payload: true, ..List::default() };
        self.store().await.list(list).await.unwrap().items
    }

    /// Waits until a lease of this source has run out.
    pub(crate) async fn lapse(&self, source: &str) {
        crate::support::eventually(Duration::from_secs(5), async || self.outlook(&[source]).await.lapsed.then_some(())).await;
    }

    /// Every column of a row and of its attempts, so that a test can check that nothing changed.
    pub(crate) async fn everything_about(&self, id: Uuid) -> Vec<Vec<Option<String>>> {
        let mut raw = self.raw().await;
        let mut rows = raw.rows(&format!("SELECT * FROM resend_log WHERE id = '{id}'")).await;
        rows.extend(raw.rows(&format!("SELECT * FROM attempt_log WHERE message_id = '{id}' ORDER BY 1, 2, 3")).await);
        rows
    }

    /// SQL for the database's time this many milliseconds from now, in redrive's format.
    pub(crate) fn time(&self, from_now_ms: i64) -> String {
        if self.backend.is_postgres() {
            format!("clock_timestamp() + interval '{from_now_ms} milliseconds'")
        } else if self.backend.is_mysql() {
            format!("TIMESTAMPADD(MICROSECOND, {from_now_ms} * 1000, UTC_TIMESTAMP(6))")
        } else {
            format!("CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) + {from_now_ms}")
        }
    }

    /// SQL for bytes.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        });
        if self.backend.is_postgres() { format!("'\\x{hex}'::bytea") } else { format!("X'{hex}'") }
    }
}

/// A plain message of a source, due now.
pub(crate) fn message(source: &str) -> NewMessage {
    NewMessage {
        id: Uuid::now_v7(),
        source: source.into(),
        topic: Some("invoices".to_owned()),
        key: Some(Key::Text("o-17".to_owned())),
        payload: Some(Bytes::from_static(b"{\"any\": \"json\"}")),
        headers: Headers::default(),
        priority: 0,
        due: Due::Now,
        expires_after: None,
        retry: None,
        idempotency: None,
        leased: false,
    }
}

/// The rows, all of which can be sent.
pub(crate) fn ready(rows: Vec<Row>) -> Vec<Ready> {
    rows.into_iter()
        .map(|row| match row {
            Row::Ready(ready) => *ready,
            Row::Unusable(unusable) => panic!("{unusable:?}"),
        })
        .collect()
}

/// The ids of rows, in order.
pub(crate) fn ids(rows: &[Row]) -> Vec<Uuid> {
    rows.iter()
        .map(|row| match row {
            Row::Ready(ready) => ready.message.id,
            Row::Unusable(unusable) => unusable.id,
        })
        .collect()
}

/// Sorted, for comparing sets.
pub(crate) fn sorted<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items
}

/// The first attempt of the message succeeded.
pub(crate) fn succeeded(held: Held) -> Completion {
    Completion {
        held,
        address: None,
        epoch: 1,
        attempt: 1,
        begun: true,
        state: State::Succeeded,
        delay: Duration::ZERO,
        retries: 0,
        expires_at: None,
        outcome: AttemptOutcome::Succeeded,
        error: None,
        result: None,
        started_at: DateTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        duration: Duration::from_millis(7),
        node: "node-1".into(),
        log: Log::Own,
        delete: false,
    }
}

/// The first attempt of the message was refused; there will be another after `delay`.
pub(crate) fn refused(held: Held, delay: Duration) -> Completion {
    Completion {
        state: State::Retrying,
        delay,
        retries: 1,
        outcome: AttemptOutcome::Refused,
        error: Some(failure(ErrorClass::Refused, "http_503")),
        log: Log::Insert,
        ..succeeded(held)
    }
}

/// The first attempt of the message failed it for good.
pub(crate) fn failed(held: Held) -> Completion {
    Completion {
        state: State::Failed,
        outcome: AttemptOutcome::Permanent,
        error: Some(failure(ErrorClass::Permanent, "http_410")),
        log: Log::Insert,
        ..succeeded(held)
    }
}

pub(crate) fn failure(class: ErrorClass, code: &str) -> Failure {
    Failure { class, code: code.to_owned(), detail: "the destination said no".to_owned() }
}

/// How a failure reads.
pub(crate) fn error(class: &str, code: &str) -> LastError {
    LastError { class: class.to_owned(), code: code.to_owned(), detail: "the destination said no".to_owned() }
}
