//! The error table of AMQP: what a reply, a returned message or a lost connection means for a message.

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use crate::outcome::Outcome;

/// All codes of this source.
pub(super) const CODES: [&str; 22] = [
    "amqp_access_refused",
    "amqp_blocked",
    "amqp_channel_closed",
    "amqp_closed",
    "amqp_connect",
    "amqp_connection_lost",
    "amqp_content_type_too_long",
    "amqp_header_name_too_long",
    "amqp_header_reserved",
    "amqp_headers_too_large",
    "amqp_message_id",
    "amqp_message_too_large",
    "amqp_nack",
    "amqp_no_consumers",
    "amqp_no_routing_key",
    "amqp_not_confirmed",
    "amqp_not_found",
    "amqp_precondition_failed",
    "amqp_resource_locked",
    "amqp_routing_key_too_long",
    "amqp_timeout",
    "amqp_unroutable",
];

/// The broker's reason for closing a channel or the connection.
fn said(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    if let ErrorKind::ProtocolError(error) = error.kind() { Some(error.kind()) } else { None }
}

/// An error that closes only the channel, not the connection: it is about what was sent.
fn soft(error: &lapin::Error) -> Option<&AMQPSoftError> {
    if let Some(AMQPErrorKind::Soft(soft)) = said(error) { Some(soft) } else { None }
}

/// Whether the error is about what was sent on one channel. What was still on its way when the broker closed that channel may arrive after lapin has
/// agreed to the closing, on a channel that no longer exists: the broker then closes the connection.
pub(super) fn is_of_channel(error: &lapin::Error) -> bool {
    matches!(said(error), Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(AMQPHardError::CHANNELERROR)))
}

/// The outcome of a send when the broker closed its channel. `alone` says that nothing else was on the channel.
///
/// Only a message that was alone may be refused for it: the broker closes the channel on all of them, and does not say which one it is about.
pub(super) fn closed(error: &lapin::Error, alone: bool) -> Outcome {
    let Some(soft) = soft(error) else { return Outcome::unreachable("amqp_connection_lost", error) };
    if !alone {
        return Outcome::unreachable("amqp_channel_closed", error);
    }
    match soft {
        AMQPSoftError::NOTFOUND => Outcome::refused("amqp_not_found", error),
        AMQPSoftError::ACCESSREFUSED => Outcome::refused("amqp_access_refused", error),
        AMQPSoftError::RESOURCELOCKED => Outcome::refused("amqp_resource_locked", error),
        AMQPSoftError::CONTENTTOOLARGE => Outcome::permanent("amqp_message_too_large", error),
        // RabbitMQ's text for a message larger than its max_message_size.
        AMQPSoftError::PRECONDITIONFAILED if error.to_string().contains("larger than") => Outcome::permanent("amqp_message_too_large", error),
        AMQPSoftError::PRECONDITIONFAILED => Outcome::refused("amqp_precondition_failed", error),
        AMQPSoftError::NOROUTE => Outcome::refused("amqp_unroutable", error),
        AMQPSoftError::NOCONSUMERS => Outcome::refused("amqp_no_consumers", error),
    }
}

/// A message that the broker returned: no queue is bound for it.
pub(super) fn returned(code: u16, text: &str, exchange: &str, routing_key: &str) -> Outcome {
    Outcome::refused("amqp_unroutable", format_args!("{code} {text}: exchange `{exchange}`, routing key `{routing_key}`"))
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;
    use crate::outcome::Class;

    fn error(kind: impl Into<AMQPErrorKind>, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())).into()
    }

    #[test]
    fn only_what_was_alone_is_refused_for_a_closed_channel() {
        let missing = error(AMQPSoftError::NOTFOUND, "no exchange 'x' in vhost '/'");
        assert_eq!(closed(&missing, true).code, "amqp_not_found");
        assert_eq!(closed(&missing, true).class, Class::Refused);
        assert_eq!((closed(&missing, false).class, closed(&missing, false).code.as_ref()), (Class::Unreachable, "amqp_channel_closed"));
    }

    #[test]
    fn a_lost_connection_is_unreachable_even_to_one_alone() {
        let forced = error(AMQPHardError::CONNECTIONFORCED, "broker forced connection closure");
        assert_eq!((closed(&forced, true).class, closed(&forced, true).code.as_ref()), (Class::Unreachable, "amqp_connection_lost"));
        assert_eq!(closed(&ErrorKind::MissingHeartbeatError.into(), true).class, Class::Unreachable);
    }

    #[test]
    fn a_publish_behind_the_end_of_its_channel_is_about_that_channel() {
        assert!(is_of_channel(&error(AMQPHardError::CHANNELERROR, "expected 'channel.open'")));
        assert!(is_of_channel(&error(AMQPSoftError::ACCESSREFUSED, "access refused")));
        assert!(!is_of_channel(&error(AMQPHardError::CONNECTIONFORCED, "broker forced connection closure")));
    }

    #[test]
    fn one_that_is_too_large_fails_for_good() {
        let large = error(AMQPSoftError::PRECONDITIONFAILED, "message size 20 is larger than configured max size 10");
        assert_eq!(closed(&large, true).class, Class::Permanent);
        assert_eq!(closed(&error(AMQPSoftError::PRECONDITIONFAILED, "other"), true).class, Class::Refused);
    }
}
