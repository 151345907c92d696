//! A load on the HTTP API: a number of connections with one request under way on each, as fast as they are answered or at a steady rate.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::histogram::Histogram;
use super::http::Connection;
use super::options::Body;
use super::payload::{AT, Payloads, write_number};
use super::screen::Phase;
use super::{Error, all};

/// A connection that was told to wait tries again after this.
const REFUSED: Duration = Duration::from_millis(20);
/// With more refusals than this the load is given up: it would only measure refusals.
const MOST_REFUSED: usize = 100_000;

/// What is submitted, and how.
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) source: String,
    pub(super) topic: String,
    pub(super) payloads: Payloads,
    pub(super) body: Body,
    pub(super) connections: u32,
    /// `delay` and `mode`, as `key=value`.
    pub(super) extra: Vec<(&'static str, &'static str)>,
    /// Ends after this many messages.
    pub(super) messages: Option<u64>,
    /// Ends after this time.
    pub(super) span: Option<Duration>,
    /// Messages a second.
    pub(super) rate: Option<u32>,
}

/// The result of a load.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Messages that were submitted, numbered from 0.
    pub(super) submitted: u64,
    /// The numbers of those that were refused.
    pub(super) refused: Vec<u64>,
    pub(super) took: Duration,
    /// The time from when a request should have been sent until it was answered.
    pub(super) latencies: Histogram,
}

impl Loaded {
    pub(super) fn accepted(&self) -> u64 {
        self.submitted.saturating_sub(self.refused.len() as u64)
    }
}

/// What the connections share.
struct Shared {
    next: AtomicU64,
    answered: AtomicU64,
    refused: Mutex<Vec<u64>>,
    begun: Instant,
    end: Option<Instant>,
    most: u64,
    /// Nanoseconds between two messages.
    step: Option<u64>,
}

impl Shared {
    /// When a message should be sent: by the schedule, or now.
    fn due(&self, number: u64) -> Instant {
        self.step.map_or_else(Instant::now, |step| self.begun + Duration::from_nanos(step.saturating_mul(number)))
    }
}

impl Load {
    /// Runs it to its end; `phase` shows the progress.
    pub(super) async fn run(self, phase: &Phase) -> Result<Loaded, Error> {
        let template = self.template();
        let begun = Instant::now();
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refused: Mutex::default(),
            begun,
            end: self.span.map(|span| begun + span),
            most: self.messages.unwrap_or(u64::MAX),
            step: self.rate.map(|rate| 1_000_000_000 / u64::from(rate.max(1))),
        });
        let mut tasks = JoinSet::new();
        for _ in 0..self.connections {
            tasks.spawn(work(self.address, template.clone(), shared.clone()));
        }
        let mut loaded = Loaded::default();
        let work = all(tasks, |latencies| loaded.latencies.merge(&latencies));
        phase.follow(work, || shared.answered.load(Ordering::Relaxed)).await?;
        loaded.took = begun.elapsed();
        loaded.submitted = shared.answered.load(Ordering::Relaxed);
        loaded.refused = std::mem::take(&mut *shared.refused.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(loaded)
    }

    /// A request without its numbers, which are filled in later.
    fn template(&self) -> Template {
        let Self { source, topic, .. } = self;
        let payload = String::from_utf8(self.payloads.of(0)).unwrap_or_default();
        let object = || {
            let extra: Vec<_> = self.extra.iter().map(|(key, value)| format!(r#""{key}":"{value}","#)).collect();
            format!(r#"{{"source":"{source}","topic":"{topic}",{}"payload":{payload}}}"#, extra.concat())
        };
        let (path, content_type, body) = match self.body {
            Body::Raw => {
                let query: Vec<_> = self.extra.iter().map(|(key, value)| format!("{key}={value}")).collect();
                (format!("/v1/publish/{source}/{topic}?{}", query.join("&")), None, payload.clone())
            }
            Body::Json => ("/v1/messages".to_owned(), Some("application/json"), object()),
            Body::Ndjson => {
                let lines: Vec<_> = (0..self.body.messages()).map(|_| object()).collect();
                ("/v1/messages/batch".to_owned(), Some("application/x-ndjson"), lines.join("\n"))
            }
        };
        let content_type = content_type.map_or_else(String::new, |kind| format!("Content-Type: {kind}\r\n"));
        let path = path.trim_end_matches('?');
        let text = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{content_type}Content-Length: {}\r\n\r\n{body}", body.len());
        // The payload appears in the request unchanged.
        let before = payload.get(..AT).unwrap_or_default();
        let numbers = text.match_indices(before).map(|(at, found)| at + found.len()).collect();
        Template { bytes: text.into_bytes(), numbers }
    }
}

#[derive(Clone)]
struct Template {
    bytes: Vec<u8>,
    /// Where the numbers go.
    numbers: Vec<usize>,
}

/// The work of one connection.
async fn work(address: SocketAddr, mut template: Template, shared: Arc<Shared>) -> Result<Histogram, Error> {
    let mut latencies = Histogram::default();
    let mut connection = Connection::open(address).await?;
    let count = template.numbers.len() as u64;
    loop {
        // Numbers are taken only if their messages will be submitted, so that all below the last one were.
        let first = shared.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (next < shared.most && shared.end.is_none_or(|end| shared.due(next) < end)).then_some(next + count)
        });
        let Ok(first) = first else { return Ok(latencies) };
        let due = shared.due(first);
        if shared.step.is_some() {
            tokio::time::sleep_until(due).await;
        }
        for (number, at) in (first..).zip(&template.numbers) {
            write_number(&mut template.bytes, *at, number);
        }
        let answer = connection.ask(&template.bytes).await?;
        let took = due.elapsed();
        let refused = match answer.status {
            202 => false,
            200 => count > 1 && !answer.body.windows(12).any(|window| window == br#""rejected":0"#),
            429 | 503 => true,
            status => return Err(Error::Failed(format!("the API answered {status}: {}", String::from_utf8_lossy(answer.body)))),
        };
        // A refusal is fast, and says nothing about how long it takes to accept a message.
        if answer.status < 300 {
            latencies.record(took);
        }
        if refused {
            let many = {
                let mut all = shared.refused.lock().unwrap_or_else(PoisonError::into_inner);
                all.extend(first..first + count);
                all.len() > MOST_REFUSED
            };
            if many {
                return Err(Error::Failed(format!("more than {MOST_REFUSED} messages were refused (429 or 503)")));
            }
            tokio::time::sleep(REFUSED).await;
        }
        shared.answered.fetch_add(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::payload::DIGITS;
    use super::super::screen::Screen;
    use super::*;

    fn load(body: Body) -> Load {
        Load {
            address: ([127, 0, 0, 1], 1).into(),
            source: "events".to_owned(),
            topic: "t".to_owned(),
            payloads: Payloads::new("abcd1234", 64),
            body,
            connections: 1,
            extra: vec![("delay", "30d")],
            messages: None,
            span: None,
            rate: None,
        }
    }

    #[test]
    fn a_request_has_a_place_for_each_number() {
        for body in [Body::Raw, Body::Json, Body::Ndjson] {
            let mut template = load(body).template();
            assert_eq!(template.numbers.len(), body.messages());
            for (number, at) in (7..).zip(&template.numbers) {
                write_number(&mut template.bytes, *at, number);
                assert_eq!(&template.bytes[*at..*at + DIGITS], format!("{number:0DIGITS$}").as_bytes());
            }
            let text = String::from_utf8(template.bytes).unwrap();
            let (head, content) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", content.len())), "{head}");
            for line in content.lines() {
                assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
            }
        }
    }

    #[tokio::test]
    async fn a_quick_refusal_is_not_among_the_latencies() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (status, pause) in [("429 Too Many Requests", 0), ("202 Accepted", 50)] {
                assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
            }
        });
        let phase = Screen::new(true).phase("load", 2);
        let loaded = Load { address, messages: Some(2), ..load(Body::Raw) }.run(&phase).await.unwrap();
        assert_eq!((loaded.submitted, loaded.refused.len()), (2, 1));
        assert!(loaded.latencies.quantile_ms(0.01).unwrap() >= 50.0);
    }
}
