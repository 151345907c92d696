//! What arrives: each message whole, and once.

use std::collections::HashSet;

use redrive::message::{Headers, Key, Message};
use redrive::outcome::Class;

use super::{Destination, Refusing, SOON, Shown, assert_all, messages, send, sender};
use crate::support::changed;
use crate::support::sends::message;

const BATCH: usize = 300;

fn ids(messages: &[Message]) -> HashSet<String> {
    messages.iter().map(|message| message.id.to_string()).collect()
}

/// Exactly these arrived, each once.
async fn assert_arrived<D: Shown>(destination: &D, expected: &HashSet<String>) {
    let arrived = destination.arrived().await;
    assert_eq!(arrived.len(), expected.len(), "a copy, or a loss");
    assert_eq!(arrived.into_iter().map(|arrival| arrival.id).collect::<HashSet<_>>(), *expected);
}

pub(crate) async fn a_message_arrives_whole<D: Shown>(destination: &D) {
    let sender = sender(destination, "10s");
    let every: Vec<u8> = (0..=255).collect();
    let mut full = message(destination.topic(), [&b"hunter3"[..], &every[..]].concat());
    full.key = Some(Key::Binary(b"k%\0\xff 1".as_slice().into()));
    let headers = [("redrive-id", "of another"), ("tenant", "ä"), ("Redrive-Key", "of another")];
    full.headers = Headers::new(headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec());
    let mut empty = message(destination.topic(), "");
    if sender.check(None).is_ok() {
        // It has a topic of its own.
        empty.topic = None;
    }
    let tombstone = changed(message(destination.topic(), ""), |message| message.payload = None);
    let sent = [full, empty, tombstone];
    assert_all(&send(destination, &sender, sent.to_vec(), SOON).await, Class::Succeeded);

    let arrived = destination.arrived().await;
    assert_eq!(arrived.len(), sent.len(), "{arrived:?}");
    for message in sent {
        let arrival = arrived.iter().find(|arrival| arrival.id == message.id.to_string()).unwrap_or_else(|| panic!("{} in {arrived:?}", message.id));
        assert_eq!(arrival.payload.as_deref(), message.payload.as_deref().or(D::TOMBSTONE));
        assert_eq!(arrival.key.as_deref(), message.key.as_ref().map(Key::as_bytes));
        assert_eq!(arrival.headers.get("tenant").map(String::as_str), Some("ä"));
        assert_eq!(arrival.attempt, message.attempt.to_string());
        if D::FACTS_ARE_HEADERS {
            assert!(arrival.headers.values().all(|value| !value.contains("of another")), "{arrival:?}");
        }
    }
    sender.close(SOON).await;
}

pub(crate) async fn several_hundred_succeed<D: Destination>(destination: &D) {
    let sender = sender(destination, "20s");
    assert_all(&send(destination, &sender, messages(destination, BATCH), SOON).await, Class::Succeeded);
    assert_eq!(sender.blocked(), None);
    sender.close(SOON).await;
}

pub(crate) async fn several_hundred_arrive_once_each<D: Shown>(destination: &D) {
    let sender = sender(destination, "20s");
    let sent = messages(destination, BATCH);
    let expected = ids(&sent);
    assert_all(&send(destination, &sender, sent, SOON).await, Class::Succeeded);
    assert_eq!(sender.blocked(), None);
    sender.close(SOON).await;
    assert_arrived(destination, &expected).await;
}

pub(crate) async fn one_that_is_refused_takes_no_other_with_it<D: Refusing>(destination: &D) {
    let mut expected = HashSet::new();
    for (bad, class, code) in destination.refused() {
        let sender = sender(destination, "20s");
        let id = bad.id;
        let mut batch = messages(destination, 100);
        expected.extend(ids(&batch));
        batch.insert(37, bad);
        let mut outcomes = send(destination, &sender, batch, SOON).await;
        let outcome = outcomes.remove(&id).unwrap();
        assert_eq!((outcome.class, outcome.code.as_ref()), (class, code), "{outcome:?}");
        assert_all(&outcomes, Class::Succeeded);
        sender.close(SOON).await;
    }
    assert_arrived(destination, &expected).await;
}
