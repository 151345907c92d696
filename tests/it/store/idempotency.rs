//! Keys under which a producer may submit again.

use std::time::Duration;

use redrive::message::State;
use redrive::store::{Due, Idempotency, Insert, List, NewMessage, Verdict};

use super::fixture::{Fixture, LONG, message, sorted, succeeded};
use crate::support::eventually;

fn keyed(source: &str, key: &str, digest: u8) -> NewMessage {
    NewMessage { idempotency: Some(Idempotency { key: key.to_owned(), digest: [digest; 32] }), ..message(source) }
}

pub(crate) async fn a_known_key_is_a_duplicate_or_a_conflict(cx: Fixture) {
    let first = keyed("billing", "o-17", 1);
    let id = first.id;
    assert_eq!(cx.insert(vec![first]).await, [Verdict::New]);
    assert_eq!(cx.insert(vec![keyed("billing", "o-17", 1)]).await, [Verdict::Duplicate(id)]);
    assert_eq!(cx.insert(vec![keyed("billing", "o-17", 2)]).await, [Verdict::Conflict(id)]);
    assert_eq!(cx.all().await.len(), 1);
    assert_eq!(cx.get(id).await.idempotency_key.as_deref(), Some("o-17"));
    let list = List { project: cx.project.to_string(), idempotency_key: Some("o-17".to_owned()), limit: 10, ..List::default() };
    assert_eq!(cx.store().await.list(list).await.unwrap().items[0].id, id);

    // The key outlives its row, even if that is deleted.
    let (_, held) = cx.take(id, "billing", LONG).await;
    cx.complete(vec![redrive::store::Completion { delete: true, ..succeeded(held) }]).await;
    assert_eq!(cx.insert(vec![keyed("billing", "o-17", 1)]).await, [Verdict::Duplicate(id)]);
    assert!(cx.all().await.is_empty());
}

pub(crate) async fn a_batch_goes_on_around_known_keys(cx: Fixture) {
    let first = keyed("billing", "a", 1);
    let known = first.id;
    cx.insert(vec![first]).await;
    let batch = vec![message("billing"), keyed("billing", "a", 1), keyed("billing", "b", 1), keyed("billing", "a", 9), message("billing")];
    let ids: Vec<_> = batch.iter().map(|message| message.id).collect();
    let verdicts = cx.insert(batch).await;
    assert_eq!(verdicts, [Verdict::New, Verdict::Duplicate(known), Verdict::New, Verdict::Conflict(known), Verdict::New]);
    assert_eq!(sorted(cx.claim_ids("billing").await), [known, ids[0], ids[2], ids[4]]);
}

pub(crate) async fn twice_in_one_batch(cx: Fixture) {
    let batch = vec![keyed("billing", "a", 1), keyed("billing", "a", 1), keyed("billing", "a", 2), keyed("billing", "b", 1)];
    let ids: Vec<_> = batch.iter().map(|message| message.id).collect();
    let verdicts = cx.insert(batch).await;
    assert_eq!(verdicts, [Verdict::New, Verdict::Duplicate(ids[0]), Verdict::Conflict(ids[0]), Verdict::New]);
    assert_eq!(sorted(cx.claim_ids("billing").await), [ids[0], ids[3]]);
}

pub(crate) async fn a_key_is_forgotten_after_its_time(cx: Fixture) {
    let keep = |messages, keep_keys| Insert { keep_keys, ..cx.insertion(messages) };
    let (brief, kept) = (keyed("billing", "brief", 1), keyed("billing", "kept", 1));
    cx.store().await.insert(keep(vec![brief], Duration::from_millis(30))).await.unwrap();
    cx.store().await.insert(keep(vec![kept], LONG)).await.unwrap();
    // The same key with other content is new once the first one is forgotten, purged or not; and then it is known again.
    let again = eventually(Duration::from_secs(5), async || {
        let again = NewMessage { due: Due::After(LONG), ..keyed("billing", "brief", 2) };
        let id = again.id;
        (cx.insert(vec![again]).await == [Verdict::New]).then_some(id)
    })
    .await;
    assert_eq!(cx.insert(vec![keyed("billing", "brief", 2)]).await, [Verdict::Duplicate(again)]);
    assert!(matches!(cx.insert(vec![keyed("billing", "kept", 1)]).await[..], [Verdict::Duplicate(_)]));
}

pub(crate) async fn a_key_belongs_to_its_project_and_source(cx: Fixture) {
    assert_eq!(cx.insert(vec![keyed("billing", "a", 1), keyed("refund", "a", 2)]).await, [Verdict::New, Verdict::New]);
    let other = Insert { project: "invoices".into(), ..cx.insertion(vec![keyed("billing", "a", 3)]) };
    assert_eq!(cx.store().await.insert(other).await.unwrap().verdicts, [Verdict::New]);
}

pub(crate) async fn keys_differ_by_every_byte(cx: Fixture) {
    let long = "k".repeat(255);
    let keys = ["a", "a ", " a", "A", "á", "a\u{301}", "ß", "ss", "", "%", "a%", long.as_str()];
    let batch: Vec<_> = keys.iter().map(|key| keyed("billing", key, 1)).collect();
    let ids: Vec<_> = batch.iter().map(|message| message.id).collect();
    assert_eq!(cx.insert(batch).await, vec![Verdict::New; keys.len()]);
    let again = cx.insert(keys.iter().map(|key| keyed("billing", key, 1)).collect()).await;
    assert_eq!(again, ids.iter().map(|id| Verdict::Duplicate(*id)).collect::<Vec<_>>());
    for (key, id) in keys.iter().zip(ids) {
        let list = List { project: cx.project.to_string(), idempotency_key: Some((*key).to_owned()), limit: 10, ..List::default() };
        let found: Vec<_> = cx.store().await.list(list).await.unwrap().items.iter().map(|record| record.id).collect();
        assert_eq!(found, [id], "{key:?}");
    }
}

pub(crate) async fn at_once_from_many_one_is_new(cx: Fixture) {
    let store = cx.store().await;
    let messages: Vec<_> = (0..12).map(|_| vec![keyed("billing", "a", 1), keyed("billing", "b", 1), message("billing")]).collect();
    let inserts = messages.iter().map(|messages| {
        let (insert, store) = (cx.insertion(messages.clone()), store.clone());
        tokio::spawn(async move { store.insert(insert).await.unwrap().verdicts })
    });
    let verdicts: Vec<_> = futures::future::join_all(inserts).await.into_iter().map(Result::unwrap).collect();
    for column in 0..2 {
        let winners: Vec<_> = (0..12).filter(|row| verdicts[*row][column] == Verdict::New).collect();
        assert_eq!(winners.len(), 1, "{verdicts:?}");
        let id = messages[winners[0]][column].id;
        assert!((0..12).all(|row| row == winners[0] || verdicts[row][column] == Verdict::Duplicate(id)));
        assert_eq!(cx.state(id).await, State::Pending);
    }
    assert!(verdicts.iter().all(|verdicts| verdicts[2] == Verdict::New));
    assert_eq!(cx.all().await.len(), 14);
}
