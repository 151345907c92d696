//! What people may do: retry, cancel, replace a payload.

use std::time::Duration;

use bytes::Bytes;
use redrive::message::State;
use redrive::store::{Changed, Completion, Due, NewMessage};
use uuid::Uuid;

use super::fixture::{Fixture, LONG, NONE, failed, message, refused, succeeded};
use crate::support::assert_near;

const NEAR: Duration = Duration::from_secs(10);

async fn retry(cx: &Fixture, ids: &[Uuid]) -> Vec<Changed> {
    cx.store().await.retry(&cx.project, ids.to_vec()).await.unwrap()
}

async fn cancel(cx: &Fixture, ids: &[Uuid]) -> Vec<Changed> {
    cx.store().await.cancel(&cx.project, ids.to_vec()).await.unwrap()
}

/// A message in each state, brought there the way it really happens (except blocked, which nothing leads to yet).
pub(crate) async fn one_in(cx: &Fixture, state: State) -> Uuid {
    if matches!(state, State::Pending | State::Cancelled | State::Blocked) {
        let later = NewMessage { due: Due::After(LONG), ..message("billing") };
        let id = later.id;
        cx.insert(vec![later]).await;
        match state {
            State::Cancelled => assert_eq!(cancel(cx, &[id]).await, [Changed::Done(State::Cancelled)]),
            State::Blocked => assert_eq!(cx.sql(&format!("UPDATE resend_log SET state = 'blocked' WHERE id = '{id}'")).await, 1),
            _ => {}
        }
        return id;
    }
    let (_, held) = cx.claimed("billing").await;
    match state {
        State::Retrying => assert_eq!(cx.complete(vec![refused(held, LONG)]).await, [true]),
        State::Succeeded => assert_eq!(cx.complete(vec![succeeded(held)]).await, [true]),
        State::Failed => assert_eq!(cx.complete(vec![failed(held)]).await, [true]),
        _ => {}
    }
    held.id
}

pub(crate) async fn a_retry_begins_a_new_epoch(cx: Fixture) {
    let new = NewMessage { expires_after: Some(Duration::from_millis(1)), ..message("billing") };
    let id = new.id;
    cx.insert(vec![new]).await;
    // The age limit is passed along with each outcome, as the engine does.
    let (row, held) = cx.take(id, "billing", LONG).await;
    let expires_at = row.standing.expires_at;
    cx.complete(vec![Completion { expires_at, ..refused(held, Duration::ZERO) }]).await;
    let (_, held) = cx.take(id, "billing", LONG).await;
    cx.complete(vec![Completion { attempt: 2, retries: 2, expires_at, ..failed(held) }]).await;
    let before = cx.get(id).await;
    assert!(expires_at.is_some() && before.expires_at == expires_at, "{before:?}");

    assert_eq!(retry(&cx, &[id]).await, [Changed::Done(State::Pending)]);
    let (now, shown) = (cx.now().await, cx.get(id).await);
    assert_eq!((shown.state, shown.epoch, shown.attempts, shown.retries, shown.finished_at), (State::Pending, 2, 0, 0, None));
    assert_near(shown.due_at.unwrap(), now, NEAR, "due now");
    assert_eq!(shown.created_at, before.created_at);
    assert_eq!(shown.expires_at, None, "the age limit starts afresh: whoever claims it reckons it anew");
    let (row, held) = cx.take(id, "billing", LONG).await;
    assert_eq!((row.message.epoch, row.message.attempt, row.standing.retries, row.standing.expires_at), (2, 1, 0, None));
    cx.complete(vec![Completion { epoch: 2, ..failed(held) }]).await;
    assert_eq!(cx.store().await.attempts(&cx.project, id).await.unwrap().unwrap().len(), 3, "(epoch, number) is unique");

    // A cancelled message comes back the same way.
    let id = one_in(&cx, State::Cancelled).await;
    assert_eq!(retry(&cx, &[id]).await, [Changed::Done(State::Pending)]);
    let shown = cx.get(id).await;
    assert_eq!((shown.state, shown.epoch, shown.attempts, shown.finished_at), (State::Pending, 2, 0, None));
    assert_eq!(cx.take(id, "billing", LONG).await.0.message.epoch, 2, "due now, though it was due later");
}

pub(crate) async fn a_retry_of_what_waits_makes_it_due(cx: Fixture) {
    let (pending, retrying) = (one_in(&cx, State::Pending).await, one_in(&cx, State::Retrying).await);
    assert_eq!(cx.claim_ids("billing").await, NONE);
    assert_eq!(retry(&cx, &[pending, retrying]).await, [Changed::Done(State::Pending), Changed::Done(State::Retrying)]);
    for (id, state, attempts) in [(pending, State::Pending, 0), (retrying, State::Retrying, 1)] {
        let shown = cx.get(id).await;
        assert_eq!((shown.state, shown.epoch, shown.attempts, shown.retries), (state, 1, attempts, attempts));
        assert_near(shown.due_at.unwrap(), cx.now().await, NEAR, state);
    }
    assert_eq!(cx.claim_ids("billing").await.len(), 2);
    // One that has been due for a long time keeps its place.
    let now = cx.now().await;
    let old = NewMessage { due: Due::At(now - LONG), ..message("refund") };
    let id = old.id;
    cx.insert(vec![old]).await;
    assert_eq!(retry(&cx, &[id]).await, [Changed::Done(State::Pending)]);
    assert!(cx.get(id).await.due_at.unwrap() <= cx.now().await);
}

pub(crate) async fn a_retry_is_refused_elsewhere(cx: Fixture) {
    for state in [State::Sending, State::Succeeded, State::Blocked] {
        let id = one_in(&cx, state).await;
        let before = cx.everything_about(id).await;
        assert_eq!(retry(&cx, &[id]).await, [Changed::Wrong(state)]);
        assert_eq!(cx.everything_about(id).await, before, "{state}");
    }
    assert_eq!(retry(&cx, &[Uuid::now_v7()]).await, [Changed::NotFound]);
}

pub(crate) async fn a_cancel_gives_up_what_waits(cx: Fixture) {
    for state in [State::Pending, State::Retrying, State::Blocked] {
        let id = one_in(&cx, state).await;
        assert_eq!(cancel(&cx, &[id]).await, [Changed::Done(State::Cancelled)], "{state}");
        let shown = cx.get(id).await;
        assert_eq!((shown.state, shown.epoch), (State::Cancelled, 1));
        assert_near(shown.finished_at.unwrap(), cx.now().await, NEAR, state);
        retry(&cx, &[id]).await;
        assert_eq!(cancel(&cx, &[id]).await, [Changed::Done(State::Cancelled)], "and again");
    }
    assert_eq!(cx.claim_ids("billing").await, NONE);
}

pub(crate) async fn a_cancel_is_refused_elsewhere(cx: Fixture) {
    for state in [State::Sending, State::Succeeded, State::Failed, State::Cancelled] {
        let id = one_in(&cx, state).await;
        let before = cx.everything_about(id).await;
        assert_eq!(cancel(&cx, &[id]).await, [Changed::Wrong(state)]);
        assert_eq!(cx.everything_about(id).await, before, "{state}");
    }
    assert_eq!(cancel(&cx, &[Uuid::now_v7()]).await, [Changed::NotFound]);
}

pub(crate) async fn the_answers_are_in_order(cx: Fixture) {
    let mut ids = Vec::new();
    for state in [State::Succeeded, State::Pending, State::Failed, State::Sending, State::Retrying, State::Cancelled] {
        ids.push(one_in(&cx, state).await);
    }
    let unknown = Uuid::now_v7();
    ids.insert(3, unknown);
    // The same id twice: the second finds the state that the first left.
    ids.push(ids[2]);
    let expected = [
        Changed::Wrong(State::Succeeded),
        Changed::Done(State::Pending),
        Changed::Done(State::Pending),
        Changed::NotFound,
        Changed::Wrong(State::Sending),
        Changed::Done(State::Retrying),
        Changed::Done(State::Pending),
        Changed::Done(State::Pending),
    ];
    assert_eq!(retry(&cx, &ids).await, expected);
    assert_eq!(cx.get(ids[2]).await.epoch, 2, "and begins no third epoch");
    let given_up = cancel(&cx, &ids[..7]).await;
    let done = Changed::Done(State::Cancelled);
    assert_eq!(given_up, [Changed::Wrong(State::Succeeded), done, done, Changed::NotFound, Changed::Wrong(State::Sending), done, done]);
}

pub(crate) async fn a_payload_is_replaced_only_once_failed(cx: Fixture) {
    let store = cx.store().await;
    let new = Bytes::from_static(b"\x00better\xff");
    for &state in State::ALL {
        let id = one_in(&cx, state).await;
        let changed = store.replace_payload(&cx.project, id, new.clone()).await.unwrap();
        if state == State::Failed {
            assert_eq!(changed, Changed::Done(State::Failed));
            assert_eq!(cx.get(id).await.payload.as_ref(), Some(&new));
            retry(&cx, &[id]).await;
            assert_eq!(cx.take(id, "billing", LONG).await.0.message.payload.as_ref(), Some(&new));
        } else {
            assert_eq!(changed, Changed::Wrong(state));
            assert_eq!(cx.get(id).await.payload, message("billing").payload);
        }
    }
    assert_eq!(store.replace_payload(&cx.project, Uuid::now_v7(), new).await.unwrap(), Changed::NotFound);
}

pub(crate) async fn a_thousand_at_once(cx: Fixture) {
    let ids = cx.put("billing", 1000).await;
    assert_eq!(cancel(&cx, &ids).await, vec![Changed::Done(State::Cancelled); 1000]);
    assert_eq!(retry(&cx, &ids).await, vec![Changed::Done(State::Pending); 1000]);
    assert_eq!(cx.claim_ids("billing").await.len(), 1000);
}
