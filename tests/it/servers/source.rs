//! The contract suite of sources on real servers: one line per destination.

use lapin::options::BasicGetOptions;
use lapin::types::AMQPValue;
use lapin::uri::AMQPUri;
use redrive::message::Message;
use redrive::outcome::Class;
use redrive::source::{amqp, kafka};
use serde_json::{Value, json};
use tokio::sync::RwLockReadGuard;

use super::amqp::{RABBIT, RABBIT4, Route, WHOLE_BROKER, proxy_to, short, through};
use super::kafka::Topic;
use crate::source_contract::destinations::records;
use crate::source_contract::{Arrival, Destination, Leaving, Refusing, Secretive, Shown, State};
use crate::support::sends::message;
use crate::support::{Proxy, changed, service};

/// A client goes to the address that the broker advertises, past any proxy: `tests/outage` takes this one away.
mod kafka_4 {
    crate::source_contract::contract! { super::Kafka => always secret pipelined shown refusing }
}

mod rabbitmq_3_10 {
    crate::source_contract::contract! { super::Rabbit<3> => always secret pipelined shown refusing leaving }
}

mod rabbitmq_4 {
    crate::source_contract::contract! { super::Rabbit<4> => always secret pipelined shown refusing leaving }
}

/// A topic that accepts only some records.
struct Kafka(Topic);

impl Destination for Kafka {
    const KIND: &'static str = "kafka";

    async fn set_up() -> Self {
        let settings = [("max.message.bytes", "100000"), ("cleanup.policy", "compact"), ("message.timestamp.before.max.ms", "3600000")];
        Self(Topic::with(1, &settings).await)
    }

    fn section(&self) -> Value {
        // Messages that are sent together arrive together, so that one record is refused along with the rest of its batch.
        json!({ "brokers": [service("REDRIVE_TEST_KAFKA")], "topic": self.0.name, "properties": { "linger.ms": "50" } })
    }

    fn strict_section(&self) -> Value {
        json!({ "brokers": [service("REDRIVE_TEST_KAFKA")] })
    }

    fn topic(&self) -> &str {
        &self.0.name
    }

    async fn remove(self) {
        self.0.remove().await;
    }
}

impl Secretive for Kafka {
    type Config = kafka::Config;

    fn secret_section(&self) -> Value {
        json!({ "brokers": [service("REDRIVE_TEST_KAFKA_SASL_PLAINTEXT")], "username": "redrive", "password": "hunter2" })
    }
}

impl Shown for Kafka {
    const TOMBSTONE: Option<&'static [u8]> = None;

    async fn arrived(&self) -> Vec<Arrival> {
        records(&service("REDRIVE_TEST_KAFKA"), &self.0.name)
    }
}

impl Refusing for Kafka {
    fn refused(&self) -> Vec<(Message, Class, &'static str)> {
        let large = message(&self.0.name, vec![b'x'; 150_000]);
        let keyless = changed(message(&self.0.name, "hunter3"), |message| message.key = None);
        let yesterday = chrono::Utc::now() - chrono::Duration::days(1);
        let old = changed(message(&self.0.name, "hunter3"), |message| message.began_at = Some(yesterday));
        vec![
            (large, Class::Permanent, "kafka_msg_size_too_large"),
            (keyless, Class::Permanent, "kafka_invalid_record"),
            (old, Class::Refused, "kafka_invalid_timestamp"),
        ]
    }
}

/// An exchange and a queue behind a proxy that can take them away.
struct Rabbit<const VERSION: u8> {
    route: Route,
    proxy: Proxy,
    _shared: RwLockReadGuard<'static, ()>,
}

impl<const VERSION: u8> Rabbit<VERSION> {
    const URL: &'static str = if VERSION == 4 { RABBIT4.1 } else { RABBIT.1 };
}

impl<const VERSION: u8> Destination for Rabbit<VERSION> {
    const KIND: &'static str = "amqp";

    async fn set_up() -> Self {
        let shared = WHOLE_BROKER.read().await;
        Self { route: Route::direct(Self::URL).await, proxy: proxy_to(Self::URL).await, _shared: shared }
    }

    fn section(&self) -> Value {
        json!({ "url": through(Self::URL, &self.proxy), "exchange": self.route.name, "routing_key": "ok" })
    }

    fn strict_section(&self) -> Value {
        json!({ "url": service(Self::URL), "exchange": self.route.name })
    }

    fn topic(&self) -> &'static str {
        "ok"
    }

    async fn remove(self) {
        self.route.remove().await;
    }
}

impl<const VERSION: u8> Secretive for Rabbit<VERSION> {
    type Config = amqp::Config;

    fn secret_section(&self) -> Value {
        let mut uri: AMQPUri = service(Self::URL).parse().unwrap();
        "hunter2".clone_into(&mut uri.authority.userinfo.password);
        json!({ "url": uri.to_string(), "exchange": self.route.name, "username": "redrive", "password": "hunter2" })
    }
}

impl<const VERSION: u8> Shown for Rabbit<VERSION> {
    async fn arrived(&self) -> Vec<Arrival> {
        let mut arrived = Vec::new();
        let once = BasicGetOptions { no_ack: true };
        while let Some(got) = self.route.channel.basic_get(short(&self.route.name), once).await.unwrap() {
            let properties = &got.properties;
            assert_eq!((*properties.delivery_mode(), got.routing_key.as_str()), (Some(2), "ok"));
            let headers = properties.headers().as_ref().unwrap().inner();
            let bytes = |value: &AMQPValue| match value {
                AMQPValue::LongString(text) => text.as_bytes().to_vec(),
                other => panic!("{other:?}"),
            };
            let text = |value: &AMQPValue| String::from_utf8(bytes(value)).unwrap();
            arrived.push(Arrival {
                id: properties.message_id().as_ref().unwrap().as_str().to_owned(),
                attempt: headers.get("redrive-attempt").map(text).unwrap(),
                key: headers.get("redrive-key").map(bytes),
                payload: Some(got.data.clone()),
                headers: headers
                    .iter()
                    .filter(|(name, _)| name.as_str() != "redrive-key")
                    .map(|(name, value)| (name.as_str().to_owned(), text(value)))
                    .collect(),
            });
        }
        arrived
    }
}

impl<const VERSION: u8> Refusing for Rabbit<VERSION> {
    fn refused(&self) -> Vec<(Message, Class, &'static str)> {
        let mut refused = vec![(message("nowhere", "hunter3"), Class::Refused, "amqp_unroutable")];
        if VERSION == 4 {
            // The older one accepts 128 MiB.
            refused.push((message("ok", vec![b'x'; 17 << 20]), Class::Permanent, "amqp_message_too_large"));
        }
        refused
    }
}

impl<const VERSION: u8> Leaving for Rabbit<VERSION> {
    fn be(&self, state: State) {
        state.of(&self.proxy);
    }
}
