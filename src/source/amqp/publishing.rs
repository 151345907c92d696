//! From a message to its AMQP form: routing key, properties and headers, each checked before lapin sees it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use uuid::Uuid;

use crate::message::{Key, Message};
use crate::outcome::Outcome;
use crate::source::is_own_header;

/// Headers that RabbitMQ interprets as further routing keys. As text they would close the channel.
const ROUTES: [&str; 2] = ["CC", "BCC"];
/// A generous size for the fixed properties and the frame around them.
const OVERHEAD: usize = 512;

/// A message in AMQP's form.
pub(super) struct Publishing {
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
}

/// What is wrong with a routing key.
pub(super) fn routing_key_fault(key: &str) -> Option<String> {
    (key.len() > 255).then(|| format!("a routing key may have at most 255 bytes, not {}", key.len()))
}

impl Publishing {
    /// Converts a message; without a topic of its own it gets the source's routing key. `frame_max` is the broker's limit for a frame (0: none).
    ///
    /// # Errors
    /// Why it can't be sent, ever.
    pub(super) fn of(message: &Message, default_key: Option<&str>, frame_max: u32) -> Result<Self, Outcome> {
        let Some(key) = message.topic.as_deref().or(default_key) else {
            return Err(Outcome::unsendable("amqp_no_routing_key", "neither the message nor the source has a routing key"));
        };
        if let Some(fault) = routing_key_fault(key) {
            return Err(Outcome::unsendable("amqp_routing_key_too_long", fault));
        }
        let routing_key = short(key, "amqp_routing_key_too_long", "the routing key")?;

        let mut id = Uuid::encode_buffer();
        let id: &str = message.id.hyphenated().encode_lower(&mut id);
        let mut properties = BasicProperties::default().with_delivery_mode(2).with_message_id(short(id, "amqp_message_id", "the id")?);
        let mut table = FieldTable::default();
        let mut weight = OVERHEAD + key.len();
        let mut typed = false;
        for (name, value) in message.headers.iter().filter(|(name, _)| !is_own_header(name)) {
            weight = weight.saturating_add(name.len()).saturating_add(value.len()).saturating_add(8);
            if !typed && name.eq_ignore_ascii_case("content-type") {
                typed = true;
                properties = properties.with_content_type(short(value, "amqp_content_type_too_long", "the content type")?);
                continue;
            }
            if ROUTES.contains(&name) {
                return Err(Outcome::unsendable("amqp_header_reserved", format_args!("RabbitMQ takes the header {name} for further routing keys")));
            }
            table.insert(short(name, "amqp_header_name_too_long", "the name of a header")?, text(value.as_bytes()));
        }
        if let Some(key) = message.key.as_ref().map(Key::as_bytes) {
            weight = weight.saturating_add(key.len());
            table.insert(ShortString::try_new("redrive-key").unwrap_or_default(), text(key));
        }
        table.insert(ShortString::try_new("redrive-attempt").unwrap_or_default(), text(message.attempt.to_string().as_bytes()));
        if frame_max != 0 && weight > usize::try_from(frame_max).unwrap_or(usize::MAX) {
            return Err(Outcome::unsendable("amqp_headers_too_large", format_args!("key and headers must fit into one frame of {frame_max} bytes")));
        }
        Ok(Self { routing_key, properties: properties.with_headers(table) })
    }
}

fn short(value: &str, code: &'static str, what: &str) -> Result<ShortString, Outcome> {
    ShortString::try_new(value).map_err(|_| Outcome::unsendable(code, format_args!("{what} may have at most 255 bytes, not {}", value.len())))
}

fn text(bytes: &[u8]) -> AMQPValue {
    AMQPValue::LongString(LongString::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;
    use crate::outcome::Class;

    fn message(headers: &[(&str, &str)]) -> Message {
        let mut message = Message::new("log", "x");
        message.topic = Some("orders".to_owned());
        message.headers = Headers::new(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        message
    }

    fn refusal(message: &Message) -> Outcome {
        let Err(outcome) = Publishing::of(message, None, 131_072) else { panic!("it was taken") };
        outcome
    }

    #[test]
    fn the_content_type_becomes_a_property_and_is_not_repeated() {
        let publishing = Publishing::of(&message(&[("content-type", "text/plain"), ("a", "ä")]), None, 131_072).unwrap();
        assert_eq!(publishing.properties.content_type().as_ref().map(ShortString::as_str), Some("text/plain"));
        let headers = publishing.properties.headers().as_ref().unwrap();
        assert!(!headers.contains_key("content-type") && headers.contains_key("redrive-attempt"));
        assert_eq!(headers.inner().get("a"), Some(&AMQPValue::LongString("ä".into())));
    }

    #[test]
    fn what_a_message_brings_under_our_names_is_left_out() {
        let publishing = Publishing::of(&message(&[("redrive-key", "k"), ("Redrive-Id", "x"), ("redrive-attempt", "9")]), None, 131_072).unwrap();
        let headers = publishing.properties.headers().as_ref().unwrap().inner();
        let own: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(own, [("redrive-attempt", &AMQPValue::LongString("1".into()))]);
    }

    #[test]
    fn what_is_too_long_for_amqp_fails_for_good_and_nothing_panics() {
        let long = "x".repeat(256);
        let mut key = message(&[]);
        key.topic = Some(long.clone());
        for (message, code) in [
            (key, "amqp_routing_key_too_long"),
            (message(&[(&long, "v")]), "amqp_header_name_too_long"),
            (message(&[("Content-Type", &long)]), "amqp_content_type_too_long"),
            (message(&[("a", &"x".repeat(200_000))]), "amqp_headers_too_large"),
            (message(&[("CC", "elsewhere")]), "amqp_header_reserved"),
        ] {
            let outcome = refusal(&message);
            assert_eq!((outcome.class, outcome.code.as_ref()), (Class::Permanent, code));
        }
        assert!(Publishing::of(&message(&[("a", &"x".repeat(200_000))]), None, 0).is_ok());
    }

    #[test]
    fn a_message_without_a_topic_takes_the_source_s_routing_key() {
        let mut message = message(&[]);
        message.topic = None;
        assert_eq!(refusal(&message).code, "amqp_no_routing_key");
        assert_eq!(Publishing::of(&message, Some("r"), 0).unwrap().routing_key.as_str(), "r");
    }
}
