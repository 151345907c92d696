//! The error table of AMQP: what a reply, a return or a lost connection means to a message.

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

/// What the broker said when it closed a channel or the connection.
fn said(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    if let ErrorKind::ProtocolError(error) = error.kind() { Some(error.kind()) } else { None }
}

/// An error that closes the channel and not the connection: it is about what was sent.
fn soft(error: &lapin::Error) -> Option<&AMQPSoftError> {
    if let Some(AMQPErrorKind::Soft(soft)) = said(error) { Some(soft) } else { None }
}

/// Whether it is about what was sent on one channel. What was on its way when the broker closed that may reach it after lapin has agreed,
/// on a channel that is none any more: the broker closes the connection for that.
pub(super) fn is_of_channel(error: &lapin::Error) -> bool {
    matches!(said(error), Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(AMQPHardError::CHANNELERROR)))
}

/// What a send came to that was alone on its channel when the broker closed it, or that can't be told apart from those beside it.
///
/// Only what was alone may be refused for it: the broker closes the channel on everyone.
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
        // RabbitMQ says this of a message over its max_message_size.
        AMQPSoftError::PRECONDITIONFAILED if error.to_string().contains("larger than") => Outcome::permanent("amqp_message_too_large", error),
        AMQPSoftError::PRECONDITIONFAILED => Outcome::refused("amqp_precondition_failed", error),
        AMQPSoftError::NOROUTE => Outcome::refused("amqp_unroutable", error),
        AMQPSoftError::NOCONSUMERS => Outcome::refused("amqp_no_consumers", error),
    }
}

/// A message that the broker gave back: no queue is bound for it.
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
