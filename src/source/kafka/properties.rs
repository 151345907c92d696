//! The librdkafka properties that a configuration may set, and those that it may not.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::fault::Fault;
use crate::source::Context;
use crate::units::Secret;

/// Properties that redrive's guarantees depend on, each with the reason that is shown.
pub(super) const GUARDED: &[(&str, &str)] = &[
    ("bootstrap.servers", "write `brokers` instead"),
    ("metadata.broker.list", "write `brokers` instead"),
    ("enable.idempotence", "is always on: without it a retry inside the client makes copies and changes the order"),
    ("acks", "is always all: a message counts as delivered only when every in-sync replica has it"),
    ("request.required.acks", "is always all: a message counts as delivered only when every in-sync replica has it"),
    ("max.in.flight", "is set by the client for idempotence"),
    ("max.in.flight.requests.per.connection", "is set by the client for idempotence"),
    ("message.timeout.ms", "write `timeout` instead: it is checked against the lease"),
    ("delivery.timeout.ms", "write `timeout` instead: it is checked against the lease"),
    ("message.send.max.retries", "is bounded by `timeout` alone; idempotence needs the retries"),
    ("retries", "is bounded by `timeout` alone; idempotence needs the retries"),
    ("enable.gapless.guarantee", "would make one lost message end the producer"),
    ("queuing.strategy", "must stay fifo for idempotence"),
    ("msg_order_cmp", "must stay fifo for idempotence"),
    ("partitioner", "is always murmur2_random, which places a key where every Java producer places it"),
    ("partitioner_cb", "is always murmur2_random, which places a key where every Java producer places it"),
    ("transactional.id", "redrive sends no transactions"),
    ("transaction.timeout.ms", "redrive sends no transactions"),
    ("delivery.report.only.error", "would hide that a message was delivered"),
    ("dr_cb", "redrive needs the delivery reports itself"),
    ("dr_msg_cb", "redrive needs the delivery reports itself"),
    ("allow.auto.create.topics", "is always off: a topic that is missing must be seen, not made with default settings"),
    ("reconnect.backoff.max.ms", "is derived from the lease: reports of failed messages come that much later"),
    ("topic.metadata.propagation.max.ms", "is derived from the timeout, so that a missing topic can be told from a silent broker"),
    ("queue.buffering.max.messages", "follows `in_flight`"),
    ("plugin.library.paths", "would load code into redrive"),
    ("interceptors", "would load code into redrive"),
    ("ssl.engine.location", "would load code into redrive"),
    ("log.queue", "redrive reads the client's log itself"),
    ("log_level", "redrive reads the client's log itself; set the level of redrive's log instead"),
    ("enabled_events", "redrive reads the client's events itself"),
    ("internal.termination.signal", "redrive handles signals itself"),
];

/// Alternative names of a property; if both were given, it would be up to chance which one counts.
const ALIASES: &[(&str, &str)] =
    &[("sasl.mechanism", "sasl.mechanisms"), ("linger.ms", "queue.buffering.max.ms"), ("compression.type", "compression.codec")];

/// Properties that are paths, resolved against the folder of the configuration file.
const PATHS: &[&str] = &[
    "ssl.ca.location",
    "https.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "sasl.kerberos.keytab",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
];

/// The value of a librdkafka property, as it is written. Never printed, since any of them may be a secret.
///
/// The YAML may contain numbers and booleans too. The loader passes on their text, because this type asks for text: as a number, `00123` would become
/// 123.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Property(Secret);

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for Property {
    fn schema_name() -> Cow<'static, str> {
        "KafkaProperty".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "The value of a librdkafka property.", "type": ["string", "number", "boolean"]})
    }
}

/// Adds the configured properties to what is `given` to the client.
pub(super) fn take(properties: &BTreeMap<String, Property>, cx: &Context, given: &mut BTreeMap<String, String>, faults: &mut Vec<Fault>) {
    for (name, value) in properties {
        let path = format!("properties.{name}");
        if let Some((_, why)) = GUARDED.iter().find(|(guarded, _)| guarded == name) {
            faults.push(Fault::new(path, why));
            continue;
        }
        let key = ALIASES.iter().find(|(alias, _)| alias == name).map_or(name.as_str(), |(_, canonical)| canonical);
        let mut value = value.0.expose().to_owned();
        if PATHS.contains(&key) && value != "probe" && !value.is_empty() {
            value = cx.path(Path::new(&value)).to_string_lossy().into_owned();
        }
        if let Some(fault) = judge(key, &value) {
            faults.push(Fault::new(path, fault));
        } else if given.insert(key.to_owned(), value).is_some() {
            faults.push(Fault::new(path, format!("is another name of {key}; write one of them")));
        }
    }
}

/// The client library's objection to a property, if any.
fn judge(key: &str, value: &str) -> Option<String> {
    let secret = ["password", "secret", "passphrase", "pem", "key", "token", "oauthbearer"].iter().any(|word| key.contains(word));
    match ClientConfig::new().set(key, value).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Some("is not a librdkafka property".to_owned()),
        Err(KafkaError::ClientConfig(_, why, ..)) if !secret => Some(why),
        Err(_) => Some("is not a value that librdkafka accepts".to_owned()),
    }
}
