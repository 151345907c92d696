//! The AMQP source against real brokers: RabbitMQ 3.10 and 4.x.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use redrive::outcome::Class;
use redrive::source::{Context, Sender};
use redrive::tls::Tls;
use serde_json::{Value, json};
use tokio::sync::RwLock;
use uuid::Uuid;

use crate::support::sends::{build, context, context_with_timeout, message, send_all, send_one, until};
use crate::support::{Proxy, service};

/// The brokers: their names in `scripts/services` and the variables with their URLs.
pub(super) const RABBIT: (&str, &str, &str) = ("rabbitmq", "REDRIVE_TEST_AMQP_URL", "REDRIVE_TEST_AMQPS_URL");
pub(super) const RABBIT4: (&str, &str, &str) = ("rabbitmq4", "REDRIVE_TEST_AMQP4_URL", "REDRIVE_TEST_AMQPS4_URL");
const BOTH: [(&str, &str, &str); 2] = [RABBIT, RABBIT4];

/// The test that makes a broker hold back its publishers needs it for itself.
pub(super) static WHOLE_BROKER: RwLock<()> = RwLock::const_new(());

/// A direct exchange with one queue, both of their own.
pub(super) struct Route {
    pub(super) channel: Channel,
    _connection: Connection,
    pub(super) name: String,
}

pub(super) fn short(text: &str) -> ShortString {
    text.into()
}

impl Route {
    async fn new(variable: &str, kind: ExchangeKind) -> Self {
        Self::with(variable, kind, QueueDeclareOptions { durable: true, ..Default::default() }).await
    }

    async fn with(variable: &str, kind: ExchangeKind, options: QueueDeclareOptions) -> Self {
        let connection = Connection::connect(&service(variable), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let name = format!("redrive-test-{}", Uuid::now_v7());
        channel.queue_declare(short(&name), options, FieldTable::default()).await.unwrap();
        channel.exchange_declare(short(&name), kind, ExchangeDeclareOptions::default(), FieldTable::default()).await.unwrap();
        channel.queue_bind(short(&name), short(&name), short("ok"), QueueBindOptions::default(), FieldTable::default()).await.unwrap();
        Self { channel, _connection: connection, name }
    }

    pub(super) async fn direct(variable: &str) -> Self {
        Self::new(variable, ExchangeKind::Direct).await
    }

    /// The ids of all messages in the queue, with how often each is there.
    async fn drain(&self) -> HashMap<String, usize> {
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut consumer = self.channel.basic_consume(short(&self.name), short("drain"), options, FieldTable::default()).await.unwrap();
        let mut ids = HashMap::new();
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(1), consumer.next()).await {
            *ids.entry(message.unwrap().properties.message_id().as_ref().unwrap().as_str().to_owned()).or_insert(0) += 1;
        }
        self.channel.basic_cancel(short("drain"), BasicCancelOptions::default()).await.unwrap();
        ids
    }

    pub(super) async fn remove(self) {
        let _ = self.channel.queue_delete(short(&self.name), QueueDeleteOptions::default()).await;
        let _ = self.channel.exchange_delete(short(&self.name), ExchangeDeleteOptions::default()).await;
    }
}

fn source(variable: &str, section: Value) -> Sender {
    source_with(variable, section, &context())
}

fn source_with(variable: &str, mut section: Value, cx: &Context) -> Sender {
    section["url"] = json!(service(variable));
    build("amqp", section, cx)
}

/// The URL with the proxy's address in place of the broker's.
pub(super) fn through(variable: &str, proxy: &Proxy) -> String {
    let mut uri: AMQPUri = service(variable).parse().unwrap();
    "127.0.0.1".clone_into(&mut uri.authority.host);
    uri.authority.port = proxy.port();
    uri.to_string()
}

pub(super) async fn proxy_to(variable: &str) -> Proxy {
    let uri: AMQPUri = service(variable).parse().unwrap();
    Proxy::to(&format!("{}:{}", uri.authority.host, uri.authority.port)).await
}

fn ctl(broker: &str, arguments: &[&str]) {
    let status = Command::new(service("REDRIVE_SERVICES")).args(["ctl", broker]).args(arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_exchange_reaches_a_queue_by_its_name() {
    let _shared = WHOLE_BROKER.read().await;
    let route = Route::direct(RABBIT.1).await;
    let sender = source(RABBIT.1, json!({}));
    assert_eq!(send_one(&sender, message(&route.name, "x")).await.class, Class::Succeeded);
    assert_eq!(route.drain().await.len(), 1);
    let missing = send_one(&sender, message(&format!("redrive-missing-{}", Uuid::now_v7()), "x")).await;
    assert_eq!((missing.class, missing.code.as_ref()), (Class::Refused, "amqp_unroutable"), "{missing:?}");
    assert!(missing.detail.contains("312"), "{missing:?}");
    let permanent = send_one(&sender, message(&"x".repeat(256), "x")).await;
    assert_eq!((permanent.class, permanent.code.as_ref()), (Class::Permanent, "amqp_routing_key_too_long"));
    let quiet = source(RABBIT.1, json!({"mandatory": false}));
    assert_eq!(send_one(&quiet, message("redrive-nowhere", "x")).await.class, Class::Succeeded);
    route.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_pipelined_with_one_in_thirty_unroutable_are_each_judged_right() {
    let _shared = WHOLE_BROKER.read().await;
    // A transient queue confirms at once, and many messages in one frame: that is when lapin mixes up returns.
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    let transient = QueueDeclareOptions { exclusive: true, ..Default::default() };
    for ((broker, variable, _), queue) in [(RABBIT, durable), (RABBIT, transient), (RABBIT4, durable), (RABBIT4, transient)] {
        let route = Route::with(variable, ExchangeKind::Direct, queue).await;
        let sender = source(variable, json!({"exchange": route.name}));
        let messages: Vec<_> = (0..10_000).map(|n| message(if n % 30 == 7 { "nowhere" } else { "ok" }, n.to_string())).collect();
        let unroutable: HashSet<_> = messages.iter().filter(|m| m.topic.as_deref() == Some("nowhere")).map(|m| m.id).collect();
        let start = Instant::now();
        let outcomes = send_all(&sender, messages, Duration::from_secs(30)).await;
        println!("{broker}: {:.0}/s", 10_000.0 / start.elapsed().as_secs_f64());
        let wrong = outcomes
            .iter()
            .filter(|(id, outcome)| {
                let expected = if unroutable.contains(*id) { (Class::Refused, "amqp_unroutable") } else { (Class::Succeeded, "") };
                (outcome.class, outcome.code.as_ref()) != expected
            })
            .count();
        assert_eq!(wrong, 0, "of {}", outcomes.len());
        let arrived = route.drain().await;
        assert_eq!(arrived.len(), 10_000 - unroutable.len());
        assert!(arrived.values().all(|copies| *copies == 1));
        route.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_exchange_is_refused_to_all_and_heals_when_it_is_made() {
    let _shared = WHOLE_BROKER.read().await;
    for (_, variable, _) in BOTH {
        let route = Route::direct(variable).await;
        let sender = source(variable, json!({"exchange": route.name}));
        assert_eq!(send_one(&sender, message("ok", "x")).await.class, Class::Succeeded);
        // Deleted while the channel is open, so that a publish is the first to notice.
        route.channel.exchange_delete(short(&route.name), ExchangeDeleteOptions::default()).await.unwrap();
        for count in [1, 300] {
            let outcomes = send_all(&sender, (0..count).map(|_| message("ok", "x")).collect(), Duration::from_secs(20)).await;
            for outcome in outcomes.values() {
                assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Refused, "amqp_not_found"), "{outcome:?}");
            }
        }
        route
            .channel
            .exchange_declare(short(&route.name), ExchangeKind::Direct, ExchangeDeclareOptions::default(), FieldTable::default())
            .await
            .unwrap();
        route
            .channel
            .queue_bind(short(&route.name), short(&route.name), short("ok"), QueueBindOptions::default(), FieldTable::default())
            .await
            .unwrap();
        assert_eq!(send_one(&sender, message("ok", "x")).await.class, Class::Succeeded);
        route.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_for_which_the_broker_closes_the_channel_takes_no_other_with_it() {
    let _shared = WHOLE_BROKER.read().await;
    for (broker, variable, _) in BOTH {
        let route = Route::new(variable, ExchangeKind::Topic).await;
        ctl(broker, &["set_topic_permissions", "-p", "redrive", "redrive", &route.name, "^ok$", ".*"]);
        // A connection caches permissions for a while; the source's is new.
        let sender = source(variable, json!({"exchange": route.name}));
        let messages: Vec<_> = (0..300).map(|n| message(if n % 100 == 50 { "forbidden" } else { "ok" }, n.to_string())).collect();
        let guilty: HashSet<_> = messages.iter().filter(|m| m.topic.as_deref() == Some("forbidden")).map(|m| m.id).collect();
        let outcomes = send_all(&sender, messages, Duration::from_secs(20)).await;
        for (id, outcome) in &outcomes {
            let expected = if guilty.contains(id) { (Class::Refused, "amqp_access_refused") } else { (Class::Succeeded, "") };
            assert_eq!((outcome.class, outcome.code.as_ref()), expected, "{outcome:?}");
        }
        assert_eq!(route.drain().await.len(), 297);
        ctl(broker, &["clear_topic_permissions", "-p", "redrive", "redrive", &route.name]);
        route.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_port_and_wrong_credentials_are_unreachable() {
    let _shared = WHOLE_BROKER.read().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sender = build("amqp", json!({"url": format!("amqp://127.0.0.1:{port}")}), &context());
    for outcome in send_all(&sender, (0..500).map(|_| message("q", "x")).collect(), Duration::from_secs(20)).await.values() {
        assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Unreachable, "amqp_connect"), "{outcome:?}");
    }
    let sender = source(RABBIT.1, json!({"username": "redrive", "password": "hunter2"}));
    let outcome = send_one(&sender, message("q", "x")).await;
    assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Unreachable, "amqp_connect"), "{outcome:?}");
    assert!(outcome.detail.contains("ACCESS") && !outcome.detail.contains("hunter2"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stood_still_leaves_no_thread_behind_and_is_sent_nothing_that_was_given_up() {
    let _shared = WHOLE_BROKER.read().await;
    for (_, variable, _) in BOTH {
        let route = Route::direct(variable).await;
        let proxy = proxy_to(variable).await;
        let sender = build("amqp", json!({"url": through(variable, &proxy), "exchange": route.name}), &context_with_timeout("2s"));
        assert_eq!(send_one(&sender, message("ok", "first")).await.class, Class::Succeeded);
        proxy.stall();
        let stalled: Vec<_> = (0..500).map(|n| message("ok", n.to_string())).collect();
        let ids: Vec<_> = stalled.iter().map(|m| m.id.to_string()).collect();
        send_all(&sender, stalled, Duration::from_secs(20)).await;
        // These are connection attempts that hang. The threads of other tests come and go meanwhile.
        let before = client_threads();
        for _ in 0..3 {
            send_one(&sender, message("ok", "x")).await;
        }
        until("the client's threads end", Duration::from_secs(60), async || client_threads() <= before).await;
        proxy.open();
        until("the broker is used again", Duration::from_secs(10), async || {
            send_one(&sender, message("ok", "again")).await.class == Class::Succeeded
        })
        .await;
        // At most what the proxy already had.
        let arrived = route.drain().await;
        let late = ids.iter().filter(|id| arrived.contains_key(*id)).count();
        assert!(late < 500, "{late}");
        route.remove().await;
    }
}

/// Threads of lapin in this process.
fn client_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("lapin"))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_the_middle_loses_nothing_and_judges_nothing_wrong() {
    let _shared = WHOLE_BROKER.read().await;
    for (_, variable, _) in BOTH {
        let route = Route::direct(variable).await;
        let proxy = proxy_to(variable).await;
        let sender = build("amqp", json!({"url": through(variable, &proxy), "exchange": route.name}), &context_with_timeout("5s"));
        let messages: Vec<_> = (0..5000).map(|n| message(if n % 30 == 7 { "nowhere" } else { "ok" }, n.to_string())).collect();
        let unroutable: HashSet<_> = messages.iter().filter(|m| m.topic.as_deref() == Some("nowhere")).map(|m| m.id).collect();
        let (outcomes, ()) = tokio::join!(send_all(&sender, messages, Duration::from_secs(40)), async {
            tokio::time::sleep(Duration::from_millis(120)).await;
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(300)).await;
            proxy.open();
        });
        let mut succeeded = HashSet::new();
        for (id, outcome) in &outcomes {
            match outcome.class {
                Class::Succeeded => assert!(!unroutable.contains(id) && succeeded.insert(id.to_string())),
                Class::Refused => assert!(unroutable.contains(id), "{outcome:?}"),
                Class::Unreachable => {}
                Class::Permanent => panic!("{outcome:?}"),
            }
        }
        let arrived = route.drain().await;
        assert!(succeeded.iter().all(|id| arrived.contains_key(id)), "something that succeeded did not arrive");
        until("it is used again", Duration::from_secs(10), async || send_one(&sender, message("ok", "x")).await.class == Class::Succeeded).await;
        route.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_private_authority_and_a_client_certificate() {
    let _shared = WHOLE_BROKER.read().await;
    let certificate = |name: &str| Some(PathBuf::from(service("REDRIVE_TEST_CERTS")).join(name));
    for (_, variable, tls_variable) in BOTH {
        assert_eq!(service(tls_variable).parse::<AMQPUri>().unwrap().scheme, AMQPScheme::AMQPS);
        let route = Route::direct(variable).await;
        let section = json!({"exchange": route.name});
        for (tls, class) in [
            (Tls { ca: certificate("ca.pem"), cert: None, key: None }, Class::Succeeded),
            (Tls { ca: certificate("ca.pem"), cert: certificate("client.pem"), key: certificate("client.key") }, Class::Succeeded),
            (Tls { ca: certificate("ca.pem"), cert: certificate("other-client.pem"), key: certificate("other-client.key") }, Class::Unreachable),
            (Tls { ca: certificate("other-ca.pem"), cert: None, key: None }, Class::Unreachable),
            (Tls::default(), Class::Unreachable),
        ] {
            let mut cx = context_with_timeout("5s");
            cx.options.tls = Some(tls.clone());
            let outcome = send_one(&source_with(tls_variable, section.clone(), &cx), message("ok", "x")).await;
            assert_eq!(outcome.class, class, "{tls:?} {outcome:?}");
        }
        route.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_holds_back_publishers_is_told_and_used_again() {
    let _alone = WHOLE_BROKER.write().await;
    let (broker, variable, _) = RABBIT4;
    let route = Route::direct(variable).await;
    let sender = source_with(variable, json!({"exchange": route.name}), &context_with_timeout("2s"));
    assert_eq!(send_one(&sender, message("ok", "x")).await.class, Class::Succeeded);
    assert_eq!(sender.blocked(), None);
    struct Restore(&'static str);
    impl Drop for Restore {
        fn drop(&mut self) {
            ctl(self.0, &["set_vm_memory_high_watermark", "0.6"]);
        }
    }
    let restore = Restore(broker);
    ctl(broker, &["set_vm_memory_high_watermark", "absolute", "1MB"]);
    let held = send_all(&sender, (0..200).map(|n| message("ok", n.to_string())).collect(), Duration::from_secs(20)).await;
    let told = sender.blocked();
    drop(restore);
    assert!(told.is_some_and(|reason| reason.contains("memory")), "{:?}", held.values().next());
    assert!(held.values().all(|outcome| matches!(outcome.class, Class::Unreachable | Class::Succeeded)), "{held:?}");
    assert!(held.values().any(|outcome| outcome.class == Class::Unreachable));
    until("it is used again", Duration::from_secs(20), async || {
        sender.blocked().is_none() && send_one(&sender, message("ok", "x")).await.class == Class::Succeeded
    })
    .await;
    route.remove().await;
}
