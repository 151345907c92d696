//! `kind: amqp`: publishes to RabbitMQ, or another AMQP 0-9-1 broker, with publisher confirms.
//!
//! One connection, several channels. Each channel sends a batch, waits for all of its confirms and judges every message by its own id (see `lane.rs`
//! for why). The connection is made when it is needed, and cut as soon as anything on it is late.

mod connection;
mod errors;
mod lane;
mod publishing;

use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::ShortString;
use lapin::uri::{AMQPScheme, AMQPUri};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::connection::{Links, Target};
use self::lane::{BATCH, Lane, Route, Row};
use self::publishing::routing_key_fault;
use super::codes::Code;
use super::{Context, Delivery, Pipeline, Sender};
use crate::fault::Fault;
use crate::outcome::Outcome;
use crate::tls;
use crate::units::{Secret, Span};

/// How long a send may take unless `timeout` is set.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `kind: amqp`: publishes to RabbitMQ, or another AMQP 0-9-1 broker.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…`. Without a path the vhost is `/`; a `/` in its name is written `%2f`.
    pub url: Option<Secret>,
    /// A file that holds the URL instead.
    pub url_file: Option<PathBuf>,
    /// The exchange to publish to, at most 255 bytes; the default exchange reaches the queue that is named by the routing key.
    pub exchange: String,
    /// The routing key of messages without a topic.
    pub routing_key: Option<String>,
    /// Whether a message that no queue takes is returned, and refused. Without this such a message is lost silently.
    pub mandatory: bool,
    /// The connection is given up after two of these without any traffic from the broker. Whole seconds, 1s to 65535s.
    pub heartbeat: Span,
    /// The user, instead of the one in the URL.
    pub username: Option<String>,
    /// The password, instead of the one in the URL.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// The connection's name on the broker's own pages. Default: `redrive <project> <source>`.
    pub connection_name: Option<String>,
    /// The number of channels used side by side, 1 to 64.
    pub channels: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            exchange: String::new(),
            routing_key: None,
            mandatory: true,
            heartbeat: Span::secs(10),
            username: None,
            password: None,
            password_file: None,
            connection_name: None,
            channels: 4,
        }
    }
}

impl super::Config for Config {
    fn build(self, cx: &Context) -> Result<Sender, Vec<Fault>> {
        let mut faults = Vec::new();
        let timeout = cx.options.timeout.map_or(TIMEOUT, Duration::from);
        let exchange = ShortString::try_new(self.exchange.as_str()).unwrap_or_else(|_| {
            faults.push(Fault::new("exchange", "has at most 255 bytes"));
            ShortString::default()
        });
        if let Some(fault) = self.routing_key.as_deref().and_then(routing_key_fault) {
            faults.push(Fault::new("routing_key", fault));
        }
        if !(1..=64).contains(&self.channels) {
            faults.push(Fault::new("channels", "must be between 1 and 64"));
        }
        let uri = self.uri(cx, &mut faults);
        let tls = certificates(cx, uri.as_ref(), &mut faults);
        let Some(uri) = uri.filter(|_| faults.is_empty()) else { return Err(faults) };
        let target = Target {
            source: cx.name.clone(),
            uri,
            tls,
            name: self.connection_name.unwrap_or_else(|| format!("redrive {} {}", cx.project, cx.name)),
            within: timeout / 2,
        };
        let route = Route { links: Links::new(target), exchange, routing_key: self.routing_key, mandatory: self.mandatory, timeout };
        Ok(Sender::pipelined(Amqp { route: Arc::new(route), channels: self.channels, lanes: StdMutex::new(Lanes::NotYet) }))
    }

    fn codes() -> Option<Vec<Code>> {
        Some(errors::CODES.map(Code::from).to_vec())
    }

    fn uses_tls() -> bool {
        true
    }
}

impl Config {
    /// Where the broker is and how to connect to it, for code that produces or consumes beside the source.
    pub(crate) fn broker(&self, cx: &Context) -> Result<(AMQPUri, OwnedTLSConfig), Vec<Fault>> {
        let mut faults = Vec::new();
        let uri = self.uri(cx, &mut faults);
        let tls = certificates(cx, uri.as_ref(), &mut faults);
        uri.filter(|_| faults.is_empty()).map(|uri| (uri, tls)).ok_or(faults)
    }

    fn uri(&self, cx: &Context, faults: &mut Vec<Fault>) -> Option<AMQPUri> {
        let url = match cx.secret("url", self.url.clone(), self.url_file.as_deref()) {
            Ok(Some(url)) => url,
            Ok(None) => {
                faults.push(Fault::new("url", "is needed, such as amqp://user:password@localhost:5672/vhost"));
                return None;
            }
            Err(fault) => {
                faults.push(fault);
                return None;
            }
        };
        let path = if self.url_file.is_some() { "url_file" } else { "url" };
        // Neither the URL nor the parser's message is repeated: either may contain a password.
        let (Ok(parsed), Ok(mut uri)) = (url::Url::parse(url.expose()), url.expose().parse::<AMQPUri>()) else {
            faults.push(Fault::new(path, "is not an AMQP URL, such as amqp://user:password@localhost:5672/vhost"));
            return None;
        };
        match parsed.host() {
            // lapin mistakes an IPv6 address for a missing host, which it takes as localhost.
            Some(url::Host::Ipv6(address)) => uri.authority.host = address.to_string(),
            Some(_) => {}
            None => {
                faults.push(Fault::new(path, "does not name a host"));
                return None;
            }
        }
        if let Some(username) = &self.username {
            uri.authority.userinfo.username.clone_from(username);
        }
        match cx.secret("password", self.password.clone(), self.password_file.as_deref()) {
            Ok(Some(password)) => password.expose().clone_into(&mut uri.authority.userinfo.password),
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
        let heartbeat = self.heartbeat.get();
        match u16::try_from(heartbeat.as_secs()) {
            Ok(seconds) if seconds > 0 && heartbeat.subsec_nanos() == 0 => {
                uri.query.heartbeat.get_or_insert(seconds);
            }
            _ => faults.push(Fault::new("heartbeat", "must be whole seconds, from 1s to 65535s")),
        }
        Some(uri)
    }
}

fn certificates(cx: &Context, uri: Option<&AMQPUri>, faults: &mut Vec<Fault>) -> OwnedTLSConfig {
    let Some(tls) = &cx.options.tls else { return OwnedTLSConfig::default() };
    if uri.is_some_and(|uri| uri.scheme == AMQPScheme::AMQP) {
        faults.push(Fault::new("tls", "is given, but the URL begins with amqp:// and not amqps://"));
    }
    match tls.read(&cx.folder, tls::PKCS8) {
        Ok(files) => OwnedTLSConfig {
            identity: files.identity.map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }),
            cert_chain: files.ca.map(|ca| String::from_utf8_lossy(&ca).into_owned()),
        },
        Err(more) => {
            faults.extend(more);
            OwnedTLSConfig::default()
        }
    }
}

struct Amqp {
    route: Arc<Route>,
    channels: u16,
    lanes: StdMutex<Lanes>,
}

enum Lanes {
    /// Starting them requires the runtime, which may not exist yet when the source is built.
    NotYet,
    Open(mpsc::Sender<Row>, JoinSet<()>),
    Closed,
}

impl Amqp {
    /// Where rows go in; `None` once the source is closed.
    fn entrance(&self) -> Option<mpsc::Sender<Row>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        match &*lanes {
            Lanes::Open(rows, _) => Some(rows.clone()),
            Lanes::Closed => None,
            Lanes::NotYet => {
                let (rows, waiting) = mpsc::channel(BATCH);
                let waiting = Arc::new(Mutex::new(waiting));
                let mut tasks = JoinSet::new();
                for _ in 0..self.channels {
                    tasks.spawn(Lane::new(self.route.clone()).run(waiting.clone()));
                }
                *lanes = Lanes::Open(rows.clone(), tasks);
                Some(rows)
            }
        }
    }
}

#[async_trait]
impl Pipeline for Amqp {
    async fn send(&self, batch: Vec<Delivery>) {
        let since = Instant::now();
        let entrance = self.entrance();
        for delivery in batch {
            let (message, receipt) = delivery.split();
            let Some(rows) = &entrance else {
                receipt.finish(Outcome::unreachable("amqp_closed", "the source is being closed"));
                continue;
            };
            // The lanes take what they find, or send it back within the timeout, so this never waits longer than that.
            if let Err(mpsc::error::SendError(row)) = rows.send(Row { message, receipt, since }).await {
                row.receipt.finish(Outcome::unreachable("amqp_closed", "the source is being closed"));
            }
        }
    }

    fn check(&self, topic: Option<&str>) -> Result<(), String> {
        match topic {
            Some(topic) => routing_key_fault(topic).map_or(Ok(()), Err),
            None if self.route.routing_key.is_some() => Ok(()),
            None => Err("the source has no routing_key: the message must name a topic".to_owned()),
        }
    }

    fn blocked(&self) -> Option<String> {
        self.route.links.blocked()
    }

    async fn close(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let lanes = std::mem::replace(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner), Lanes::Closed);
        if let Lanes::Open(rows, mut tasks) = lanes {
            drop(rows);
            // Each ends once it has sent what was waiting; an aborted send is unreachable.
            let _ = tokio::time::timeout_at(deadline, async { while tasks.join_next().await.is_some() {} }).await;
            tasks.shutdown().await;
        }
        self.route.links.close(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Tls;

    fn context() -> Context {
        Context { folder: "/".into(), ..Context::new("test", "queue") }
    }

    fn uri(json: &str) -> Result<AMQPUri, String> {
        let config: Config = serde_json::from_str(json).unwrap();
        let mut faults = Vec::new();
        let uri = config.uri(&context(), &mut faults);
        uri.filter(|_| faults.is_empty()).ok_or_else(|| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_url_is_taken_apart_and_credentials_override_it() {
        let parsed = uri(r#"{"url":"amqps://u:p%40@[::1]:5671/%2fa?heartbeat=7","username":"x"}"#).unwrap();
        assert_eq!((parsed.authority.host.as_str(), parsed.authority.port, parsed.vhost.as_str()), ("::1", 5671, "/a"));
        assert_eq!((parsed.authority.userinfo.username.as_str(), parsed.authority.userinfo.password.as_str()), ("x", "p@"));
        assert_eq!(parsed.query.heartbeat, Some(7));
        let plain = uri(r#"{"url":"amqp://localhost","heartbeat":"30s","password":"q"}"#).unwrap();
        assert_eq!((plain.vhost.as_str(), plain.query.heartbeat, plain.authority.userinfo.password.as_str()), ("/", Some(30), "q"));
    }

    #[test]
    fn a_fault_never_repeats_the_url() {
        for url in ["http://hunter2@h", "hunter2", "amqp://h:hunter2/", "amqp:hunter2"] {
            let fault = uri(&format!(r#"{{"url":"{url}"}}"#)).unwrap_err();
            assert!(fault.starts_with("url: ") && !fault.contains("hunter2"), "{fault}");
        }
        assert!(uri("{}").unwrap_err().contains("url: is needed"));
        assert!(uri(r#"{"url":"amqp://h","heartbeat":"1500ms"}"#).unwrap_err().starts_with("heartbeat"));
        let config: Config = serde_json::from_str(r#"{"url":"amqp://u:hunter2@h","password":"hunter3"}"#).unwrap();
        assert!(!format!("{config:?}").contains("hunter"));
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let mut cx = context();
        cx.options.tls = Some(Tls { ca: Some("/missing".into()), cert: Some("/missing".into()), key: None });
        let config: Config = serde_json::from_value(serde_json::json!({"url": "amqp://h", "channels": 0, "exchange": "x".repeat(256)})).unwrap();
        let faults: Vec<_> = super::super::Config::build(config, &cx).unwrap_err().into_iter().map(|fault| fault.path).collect();
        for path in ["exchange", "channels", "tls", "tls.ca", "tls.cert", "tls.key"] {
            assert!(faults.iter().any(|have| have == path), "{path}: {faults:?}");
        }
    }
}
