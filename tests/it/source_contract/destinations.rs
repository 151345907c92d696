//! Destinations behind a connection that need no server: a Kafka cluster and an HTTP endpoint inside the process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use redrive::message::Message;
use redrive::outcome::Class;
use redrive::source::{http, kafka};
use serde_json::{Value, json};

use super::{Arrival, Destination, Leaving, Refusing, SOON, Secretive, Shown, State};
use crate::support::Proxy;
use crate::support::endpoint::{Request, Server, answer};
use crate::support::sends::message;

const TOPIC: &str = "orders";

pub(crate) struct MockKafka(MockCluster<'static, DefaultProducerContext>);

impl Destination for MockKafka {
    const KIND: &'static str = "kafka";

    async fn set_up() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        Self(cluster)
    }

    fn section(&self) -> Value {
        json!({ "brokers": [self.0.bootstrap_servers()], "topic": TOPIC })
    }

    fn strict_section(&self) -> Value {
        json!({ "brokers": [self.0.bootstrap_servers()] })
    }

    fn topic(&self) -> &str {
        TOPIC
    }
}

impl Secretive for MockKafka {
    type Config = kafka::Config;

    fn secret_section(&self) -> Value {
        let properties = json!({ "ssl.key.password": "hunter2" });
        json!({ "brokers": [self.0.bootstrap_servers()], "username": "redrive", "password": "hunter2", "properties": properties })
    }
}

impl Shown for MockKafka {
    const TOMBSTONE: Option<&'static [u8]> = None;

    async fn arrived(&self) -> Vec<Arrival> {
        records(&self.0.bootstrap_servers(), TOPIC)
    }
}

impl Refusing for MockKafka {
    fn refused(&self) -> Vec<(Message, Class, &'static str)> {
        vec![(message(TOPIC, vec![b'x'; 2_000_000]), Class::Permanent, "kafka_msg_size_too_large")]
    }
}

impl Leaving for MockKafka {
    fn be(&self, state: State) {
        // Not `broker_down`: it opens its port anew, and aborts the process if that is still open in a child that another test is just starting.
        for key in [RDKafkaApiKey::ApiVersion, RDKafkaApiKey::Metadata, RDKafkaApiKey::Produce] {
            self.0.clear_request_errors(key);
            if state == State::Away {
                self.0.request_errors(key, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT; 1000]);
            }
        }
        // Answers come later than anybody waits.
        let answers = if state == State::Still { Duration::from_secs(60) } else { Duration::ZERO };
        self.0.broker_round_trip_time(-1, answers).unwrap();
    }
}

/// Everything in a topic's only partition.
pub(crate) fn records(servers: &str, topic: &str) -> Vec<Arrival> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers).set("group.id", "reader").create().unwrap();
    let (first, next) = consumer.fetch_watermarks(topic, 0, SOON).unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(first)).unwrap();
    consumer.assign(&list).unwrap();
    let count = usize::try_from(next - first).unwrap();
    let deadline = Instant::now() + SOON;
    let mut records = Vec::with_capacity(count);
    while records.len() < count {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            records.push(record(&message));
        }
        assert!(Instant::now() < deadline, "{} of {count} were read", records.len());
    }
    records
}

fn record(message: &BorrowedMessage<'_>) -> Arrival {
    let mut headers = BTreeMap::new();
    for header in message.headers().unwrap().iter() {
        let value = String::from_utf8(header.value.unwrap().to_vec()).unwrap();
        assert_eq!(headers.insert(header.key.to_owned(), value), None, "{} stands twice", header.key);
    }
    Arrival {
        id: headers.remove("redrive-id").unwrap(),
        attempt: headers.remove("redrive-attempt").unwrap(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

/// An HTTP server behind a proxy that can take it away.
pub(crate) struct Endpoint {
    server: Server,
    proxy: Proxy,
}

impl Destination for Endpoint {
    const KIND: &'static str = "http";

    async fn set_up() -> Self {
        let server = Server::start(|request| answer(status(request), "", ""));
        let proxy = Proxy::to(&server.address().to_string()).await;
        Self { server, proxy }
    }

    fn section(&self) -> Value {
        let url = format!("http://{}/hook?token=hunter2", self.proxy.address);
        json!({ "url": url, "bearer": "hunter2", "headers": { "X-Api-Key": "hunter2" } })
    }

    fn strict_section(&self) -> Value {
        json!({ "url": format!("http://{}/hook/{{topic}}", self.proxy.address) })
    }

    fn topic(&self) -> &str {
        TOPIC
    }
}

fn status(request: &Request) -> &'static str {
    match request.header("redrive-topic") {
        "nonsense" => "422 Unprocessable Content",
        "broken" => "500 Internal Server Error",
        _ => "200 OK",
    }
}

impl Secretive for Endpoint {
    type Config = http::Config;
}

impl Shown for Endpoint {
    async fn arrived(&self) -> Vec<Arrival> {
        // Only what it accepted.
        self.server.requests().into_iter().filter(|request| status(request) == "200 OK").map(request).collect()
    }
}

fn request(request: Request) -> Arrival {
    Arrival {
        id: request.header("redrive-id").to_owned(),
        attempt: request.header("redrive-attempt").to_owned(),
        key: request.headers.get("redrive-key").map(|key| percent_decode_str(key).collect()),
        payload: Some(request.body),
        headers: request.headers,
    }
}

impl Refusing for Endpoint {
    fn refused(&self) -> Vec<(Message, Class, &'static str)> {
        vec![(message("nonsense", "hunter3"), Class::Permanent, "http_422"), (message("broken", "hunter3"), Class::Refused, "http_500")]
    }
}

impl Leaving for Endpoint {
    fn be(&self, state: State) {
        state.of(&self.proxy);
    }
}
