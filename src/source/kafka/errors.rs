//! The error table of Kafka: what each code of the client or the broker means for a message.

use std::borrow::Cow;

use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};

use crate::outcome::{Class, Outcome};
use crate::source::codes;

/// The codes that are not simply refused, and those that people will look up. The names are librdkafka's.
pub(super) const TABLE: &[(Code, &str, Class)] = &[
    // Nothing will ever make the message fit.
    (Code::MessageSizeTooLarge, "kafka_msg_size_too_large", Class::Permanent),
    (Code::InvalidMessageSize, "kafka_invalid_msg_size", Class::Permanent),
    (Code::MessageBatchTooLarge, "kafka_record_list_too_large", Class::Permanent),
    (Code::InvalidRecord, "kafka_invalid_record", Class::Permanent),
    (Code::InvalidTopic, "kafka_topic_exception", Class::Permanent),
    // An operator can fix these while the message waits.
    (Code::UnknownTopicOrPartition, "kafka_unknown_topic_or_part", Class::Refused),
    (Code::UnknownTopic, "kafka_unknown_topic", Class::Refused),
    (Code::UnknownPartition, "kafka_unknown_partition", Class::Refused),
    (Code::TopicAuthorizationFailed, "kafka_topic_authorization_failed", Class::Refused),
    (Code::ClusterAuthorizationFailed, "kafka_cluster_authorization_failed", Class::Refused),
    (Code::PolicyViolation, "kafka_policy_violation", Class::Refused),
    (Code::InvalidConfig, "kafka_invalid_config", Class::Refused),
    (Code::InvalidTimestamp, "kafka_invalid_timestamp", Class::Refused),
    (Code::InvalidMessage, "kafka_invalid_msg", Class::Refused),
    (Code::UnsupportedCompressionType, "kafka_unsupported_compression_type", Class::Refused),
    (Code::InvalidDifferentRecord, "kafka_invalid_different_record", Class::Unreachable),
    // The broker could not be reached, or its answer was lost.
    (Code::MessageTimedOut, "kafka_msg_timed_out", Class::Unreachable),
    (Code::TimedOutQueue, "kafka_timed_out_queue", Class::Unreachable),
    (Code::OperationTimedOut, "kafka_timed_out", Class::Unreachable),
    (Code::QueueFull, "kafka_queue_full", Class::Unreachable),
    (Code::BrokerTransportFailure, "kafka_transport", Class::Unreachable),
    (Code::BrokerDestroy, "kafka_destroy", Class::Unreachable),
    (Code::DestroyBroker, "kafka_destroy_broker", Class::Unreachable),
    (Code::AllBrokersDown, "kafka_all_brokers_down", Class::Unreachable),
    (Code::Resolve, "kafka_resolve", Class::Unreachable),
    (Code::SSL, "kafka_ssl", Class::Unreachable),
    (Code::Authentication, "kafka_authentication", Class::Unreachable),
    (Code::SaslAuthenticationFailed, "kafka_sasl_authentication_failed", Class::Unreachable),
    (Code::ISRInsufficient, "kafka_isr_insuff", Class::Unreachable),
    (Code::UnknownBroker, "kafka_unknown_broker", Class::Unreachable),
    (Code::WaitCache, "kafka_wait_cache", Class::Unreachable),
    (Code::Retry, "kafka_retry", Class::Unreachable),
    (Code::PurgeQueue, "kafka_purge_queue", Class::Unreachable),
    (Code::PurgeInflight, "kafka_purge_inflight", Class::Unreachable),
    (Code::LeaderNotAvailable, "kafka_leader_not_available", Class::Unreachable),
    (Code::NotLeaderForPartition, "kafka_not_leader_for_partition", Class::Unreachable),
    (Code::FencedLeaderEpoch, "kafka_fenced_leader_epoch", Class::Unreachable),
    (Code::UnknownLeaderEpoch, "kafka_unknown_leader_epoch", Class::Unreachable),
    (Code::RequestTimedOut, "kafka_request_timed_out", Class::Unreachable),
    (Code::BrokerNotAvailable, "kafka_broker_not_available", Class::Unreachable),
    (Code::ReplicaNotAvailable, "kafka_replica_not_available", Class::Unreachable),
    (Code::NetworkException, "kafka_network_exception", Class::Unreachable),
    (Code::CoordinatorLoadInProgress, "kafka_coordinator_load_in_progress", Class::Unreachable),
    (Code::CoordinatorNotAvailable, "kafka_coordinator_not_available", Class::Unreachable),
    (Code::NotCoordinator, "kafka_not_coordinator", Class::Unreachable),
    (Code::NotEnoughReplicas, "kafka_not_enough_replicas", Class::Unreachable),
    (Code::NotEnoughReplicasAfterAppend, "kafka_not_enough_replicas_after_append", Class::Unreachable),
    (Code::KafkaStorageError, "kafka_storage_error", Class::Unreachable),
    (Code::ThrottlingQuotaExceeded, "kafka_throttling_quota_exceeded", Class::Unreachable),
    (Code::RebootstrapRequired, "kafka_rebootstrap_required", Class::Unreachable),
    // The idempotent producer lost its place. The next producer starts afresh; the message is not at fault.
    (Code::Fatal, "kafka_fatal", Class::Unreachable),
    (Code::Inconsistent, "kafka_inconsistent", Class::Unreachable),
    (Code::GaplessGuarantee, "kafka_gapless_guarantee", Class::Unreachable),
    (Code::OutOfOrderSequenceNumber, "kafka_out_of_order_sequence_number", Class::Unreachable),
    (Code::DuplicateSequenceNumber, "kafka_duplicate_sequence_number", Class::Unreachable),
    (Code::UnknownProducerId, "kafka_unknown_producer_id", Class::Unreachable),
    (Code::InvalidProducerEpoch, "kafka_invalid_producer_epoch", Class::Unreachable),
    (Code::ProducerFenced, "kafka_producer_fenced", Class::Unreachable),
    (Code::Fenced, "kafka_fenced", Class::Unreachable),
];

/// The codes with which a broker refuses a whole batch because of one of its records or their total size.
const OF_A_BATCH: [Code; 5] =
    [Code::MessageSizeTooLarge, Code::MessageBatchTooLarge, Code::InvalidRecord, Code::InvalidDifferentRecord, Code::InvalidTimestamp];

/// Whether a broker may have refused a message because of those that were sent along with it.
pub(super) fn is_of_a_batch(code: Code) -> bool {
    OF_A_BATCH.contains(&code)
}

/// The codes that mean that no broker could be reached at all.
const AWAY: [Code; 5] = [Code::BrokerTransportFailure, Code::AllBrokersDown, Code::Resolve, Code::OperationTimedOut, Code::RequestTimedOut];

/// Whether no broker could be reached at all, for code that produces or consumes beside the source.
pub(crate) fn is_away(error: &KafkaError) -> bool {
    let code = if let KafkaError::AdminOp(code) = error { Some(*code) } else { error.rdkafka_error_code() };
    code.is_some_and(|code| AWAY.contains(&code))
}

/// The name and class of a code. A code that is in no table is refused, under a name derived from the client's own.
pub(super) fn classify(code: Code) -> (Cow<'static, str>, Class) {
    TABLE
        .iter()
        .find(|(have, _, _)| *have == code)
        .map_or_else(|| (format!("kafka_{}", snake(&format!("{code:?}"))).into(), Class::Refused), |(_, name, class)| (Cow::Borrowed(*name), *class))
}

/// The codes of this source itself.
const OWN: [&str; 4] = ["kafka_client", "kafka_closed", "kafka_invalid_topic", "kafka_no_topic"];

/// All names that a code may have: those of the source itself, and what [`classify`] makes of each number that the client knows.
pub(super) fn codes() -> Vec<codes::Code> {
    let named = (-200_i32..1000).filter_map(|number| RDKafkaRespErr::try_from(number).ok()).map(|code| codes::Code::One(classify(code.into()).0));
    named.chain(OWN.map(codes::Code::from)).collect()
}

/// The outcome of a send that failed with a code. `last` is the client's last complaint: it says why the broker was silent.
pub(super) fn outcome(code: Code, topic: &str, last: Option<&str>) -> Outcome {
    let (name, class) = classify(code);
    match last {
        Some(last) if class == Class::Unreachable => {
            Outcome::failure(class, name, format_args!("topic {topic}: {code}; the client's last error: {last}"))
        }
        _ => Outcome::failure(class, name, format_args!("topic {topic}: {code}")),
    }
}

fn snake(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 8);
    let mut after_lower = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && after_lower {
            text.push('_');
        }
        after_lower = letter.is_ascii_lowercase() || letter.is_ascii_digit();
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_code_stands_twice_and_every_name_can_be_kept() {
        for (index, (code, name, class)) in TABLE.iter().enumerate() {
            assert!(!TABLE[..index].iter().any(|(other, text, _)| other == code || text == name), "{name}");
            assert!(name.starts_with("kafka_") && name.len() <= crate::outcome::MAX_CODE, "{name}");
            assert_ne!(*class, Class::Succeeded);
        }
    }

    #[test]
    fn every_code_is_in_the_docs_under_its_class() {
        let docs = include_str!("../../../docs/sources-brokers.md");
        for (_, name, class) in TABLE {
            let line = docs.lines().find(|line| line.contains(&format!("`{name}`"))).unwrap_or_else(|| panic!("{name}"));
            assert!(line.contains(&format!("| {class} |")), "{name}: {line}");
        }
    }

    #[test]
    fn a_code_in_no_table_is_refused_under_its_own_name() {
        assert_eq!(classify(Code::InvalidRequiredAcks), ("kafka_invalid_required_acks".into(), Class::Refused));
        assert_eq!(classify(Code::SecurityDisabled).0, "kafka_security_disabled");
    }

    #[test]
    fn a_missing_topic_is_refused_and_a_silent_broker_is_unreachable() {
        assert_eq!(classify(Code::UnknownTopicOrPartition).1, Class::Refused);
        let outcome = outcome(Code::MessageTimedOut, "orders", Some("Connection refused"));
        assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Unreachable, "kafka_msg_timed_out"));
        assert!(outcome.detail.contains("Connection refused"), "{}", outcome.detail);
    }
}
