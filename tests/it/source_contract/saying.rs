//! What a source reports, and what it keeps to itself.

use redrive::outcome::{Class, cut};

use super::{Destination, SOON, Secretive, built, messages, send};
use crate::support::changed;
use crate::support::sends::message;

pub(crate) async fn check_refuses_a_topic_exactly_when_a_send_would<D: Destination>(destination: &D) {
    let sender = built(destination, destination.strict_section(), "5s");
    // Other topics don't get past the intake, which accepts 1 to 1024 bytes without control characters.
    let long = [250, 256, 1024].map(|count| "x".repeat(count));
    let topics = [destination.topic(), ".", "..", "a b", "a/b", "ä"].into_iter().chain(long.iter().map(String::as_str));
    let with = |topic: Option<&str>| changed(message("", "hunter3"), |message| message.topic = topic.map(str::to_owned));
    let sent: Vec<_> = topics.map(Some).chain([None]).map(with).collect();
    let outcomes = send(destination, &sender, sent.clone(), SOON).await;
    for message in sent {
        let (outcome, topic) = (&outcomes[&message.id], message.topic.as_deref());
        let unsendable = outcome.class == Class::Permanent && !outcome.asked;
        let checked = sender.check(topic);
        assert_eq!(checked.is_err(), unsendable, "{:?}: {checked:?}, {outcome:?}", topic.map(|topic| cut(topic, 20)));
    }
    assert_eq!(sender.check(Some(destination.topic())), Ok(()));
    sender.close(SOON).await;
}

pub(crate) async fn nothing_secret_is_shown<D: Secretive>(destination: &D) {
    let section = destination.secret_section();
    assert!(section.to_string().contains("hunter2"), "there is nothing to keep secret");
    let config: D::Config = serde_json::from_value(section.clone()).unwrap();
    let sender = built(destination, section, "5s");
    let shown = format!("{config:?} {sender:?}");
    assert!(!shown.contains("hunter"), "{shown}");
    // Whatever the outcomes are: only their text matters here.
    send(destination, &sender, messages(destination, 3), SOON).await;
    sender.close(SOON).await;
}
