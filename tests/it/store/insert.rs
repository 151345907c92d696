//! Messages that redrive commits.

use std::time::Duration;

use bytes::Bytes;
use redrive::message::{Headers, Key, State};
use redrive::retry::{self, Unreachable};
use redrive::store::{Due, NewMessage, Verdict};
use redrive::units::{Limit, Span};

use super::fixture::{Fixture, message, ready, sorted, succeeded};
use crate::support::assert_near;

const NEAR: Duration = Duration::from_secs(10);

pub(crate) async fn what_was_submitted_is_read_back(cx: Fixture) {
    let headers = Headers::new(vec![("b".to_owned(), "ü \" \\ \n".to_owned()), ("a".to_owned(), String::new())]);
    let bytes: Bytes = (0..=255u8).collect::<Vec<_>>().into();
    let messages = [
        NewMessage { payload: Some(bytes.clone()), headers: headers.clone(), priority: 0, ..message("billing") },
        NewMessage { payload: None, key: None, topic: None, ..message("billing") },
        NewMessage { payload: Some(Bytes::new()), key: Some(Key::Binary(bytes)), topic: Some("thé 🦀 '--".to_owned()), ..message("billing") },
        NewMessage { key: Some(Key::Text(String::new())), topic: Some(String::new()), ..message("billing") },
        NewMessage { payload: Some(b"{\"n\": 12345678901234567890, \"n\": 1}".as_slice().into()), ..message("billing") },
    ];
    for message in &messages {
        assert_eq!(cx.insert(vec![message.clone()]).await, [Verdict::New]);
        let shown = cx.get(message.id).await;
        assert_eq!((&shown.topic, &shown.key, &shown.payload), (&message.topic, &message.key, &message.payload));
        assert_eq!(shown.headers, message.headers.to_json());
        assert_eq!((&*shown.project, &*shown.source, shown.state, shown.epoch, shown.attempts), ("orders", "billing", State::Pending, 1, 0));
        let (taken, _) = cx.take(message.id, "billing", Duration::from_secs(60)).await;
        let taken = taken.message;
        assert_eq!((&taken.topic, &taken.key, &taken.payload, &taken.headers), (&message.topic, &message.key, &message.payload, &message.headers));
    }
}

pub(crate) async fn an_empty_batch_is_nothing(cx: Fixture) {
    assert_eq!(cx.insert(vec![]).await, []);
}

pub(crate) async fn when_it_is_due(cx: Fixture) {
    let now = cx.now().await;
    let hour = Duration::from_secs(3600);
    let cases = [(Due::Now, now), (Due::After(hour), now + hour), (Due::At(now + 2 * hour), now + 2 * hour), (Due::At(now - hour), now - hour)];
    let messages: Vec<_> = cases.iter().map(|(due, _)| NewMessage { due: *due, ..message("billing") }).collect();
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    cx.insert(messages).await;
    for (id, (due, at)) in ids.iter().zip(&cases) {
        let shown = cx.get(*id).await;
        assert_near(shown.due_at.unwrap(), *at, NEAR, due);
        assert_near(shown.created_at, now, NEAR, due);
    }
    assert_eq!(cx.claim_ids("billing").await, [ids[3], ids[0]], "the longest due first, and what is not due not at all");
}

pub(crate) async fn when_it_expires(cx: Fixture) {
    let (hour, now) = (Duration::from_secs(3600), cx.now().await);
    let cases = [
        (Due::Now, None, None),
        (Due::Now, Some(hour), Some(now + hour)),
        // The age counts from the creation or the due time, whichever is later.
        (Due::After(hour), Some(hour), Some(now + 2 * hour)),
        (Due::At(now + 3 * hour), Some(hour), Some(now + 4 * hour)),
        (Due::At(now - hour), Some(hour), Some(now + hour)),
    ];
    for (due, expires_after, at) in cases {
        let message = NewMessage { due, expires_after, ..message("billing") };
        let id = message.id;
        cx.insert(vec![message]).await;
        let expires_at = cx.get(id).await.expires_at;
        assert_eq!(expires_at.is_some(), at.is_some(), "{due:?}");
        if let (Some(got), Some(want)) = (expires_at, at) {
            assert_near(got, want, NEAR, due);
        }
    }
}

pub(crate) async fn a_leased_message_is_being_sent(cx: Fixture) {
    let (leased, plain) = (NewMessage { leased: true, ..message("billing") }, message("billing"));
    let (id, other) = (leased.id, plain.id);
    let insert = cx.insertion(vec![leased, plain]);
    let token = insert.lease.token;
    let inserted = cx.store().await.insert(insert).await.unwrap();
    assert_eq!(inserted.verdicts, [Verdict::New, Verdict::New]);
    let shown = cx.get(id).await;
    assert_eq!((shown.state, shown.epoch, shown.attempts), (State::Sending, 1, 1));
    assert_near(shown.created_at, inserted.now, NEAR, "created");
    assert_eq!(cx.claim_ids("billing").await, [other], "it needs no claim, and has none");
    assert_eq!(cx.complete(vec![succeeded(redrive::store::Held { id, token })]).await, [true]);
    assert_eq!(cx.state(id).await, State::Succeeded);
}

pub(crate) async fn a_thousand_at_once(cx: Fixture) {
    let ids = cx.put("billing", 1000).await;
    assert_eq!(sorted(cx.claim_ids("billing").await), ids);
}

pub(crate) async fn a_payload_of_some_mebibytes(cx: Fixture) {
    let payload: Bytes = vec![0xa5; 6 << 20].into();
    let large = NewMessage { payload: Some(payload.clone()), ..message("billing") };
    cx.insert(vec![large]).await;
    let row = ready(cx.claim(cx.claim_of("billing")).await.rows).remove(0);
    assert!(row.message.payload == Some(payload));
}

pub(crate) async fn an_override_of_the_policy_is_kept(cx: Fixture) {
    let policy = retry::Config {
        max_retries: Some(0),
        first_delay: Some(Span::millis(1500)),
        base_delay: Some(Span::secs(60)),
        multiplier: Some(2.5),
        max_delay: Some(Span::secs(90)),
        jitter: Some(0.1),
        expires_after: Some(Limit::Never),
        unreachable: Some(Unreachable::Count),
        unreachable_delay: Some(Span::secs(3)),
    };
    let some = retry::Config { max_retries: Some(8), ..retry::Config::default() };
    for retry in [policy, some] {
        let retry = retry.overrides();
        let message = NewMessage { retry: retry.clone(), ..message("billing") };
        let id = message.id;
        cx.insert(vec![message]).await;
        assert_eq!(cx.get(id).await.retry, retry);
        assert_eq!(cx.take(id, "billing", Duration::from_secs(60)).await.0.retry, retry);
    }
}
