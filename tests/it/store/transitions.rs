//! The chart of states, checked against the store.

use std::time::Duration;

use redrive::message::{Event, State, TRANSITIONS};
use redrive::store::{Changed, Claim, Due, Held, NewMessage};

use super::fixture::{Fixture, LONG, failed, message, refused, succeeded};

const EVENTS: [Event; 7] = [Event::Claimed, Event::Succeeded, Event::Failed, Event::GaveUp, Event::HandedBack, Event::Retried, Event::Cancelled];

/// A message in a state, due, and the last token under which it was held.
async fn one_in(cx: &Fixture, state: State) -> Held {
    let (_, held) = cx.claimed("billing").await;
    let store = cx.store().await;
    match state {
        State::Sending => {}
        State::Retrying => assert_eq!(cx.complete(vec![refused(held, Duration::ZERO)]).await, [true]),
        State::Succeeded => assert_eq!(cx.complete(vec![succeeded(held)]).await, [true]),
        State::Failed => assert_eq!(cx.complete(vec![failed(held)]).await, [true]),
        _ => {
            assert_eq!(store.release(vec![held]).await.unwrap(), 1);
            if state == State::Cancelled {
                assert_eq!(store.cancel(&cx.project, vec![held.id]).await.unwrap(), [Changed::Done(State::Cancelled)]);
            } else if state == State::Blocked {
                cx.sql(&format!("UPDATE resend_log SET state = 'blocked' WHERE id = '{}'", held.id)).await;
            }
        }
    }
    assert_eq!(cx.state(held.id).await, state);
    held
}

/// Makes an event happen to a message; returns whether the store says that it took place.
async fn happens(cx: &Fixture, event: Event, held: Held, from: State) -> bool {
    let store = cx.store().await;
    let changed = |changed: Vec<Changed>| match changed[0] {
        Changed::Done(_) => true,
        Changed::Wrong(state) => {
            assert_eq!(state, from);
            false
        }
        _ => panic!("it is there"),
    };
    match event {
        Event::Claimed => !cx.claim(Claim { limit: 10, ..cx.claim_of("billing") }).await.rows.is_empty(),
        Event::Succeeded => cx.complete(vec![succeeded(held)]).await[0],
        Event::Failed => cx.complete(vec![refused(held, LONG)]).await[0],
        Event::GaveUp => cx.complete(vec![failed(held)]).await[0],
        Event::HandedBack => store.release(vec![held]).await.unwrap() == 1,
        Event::Retried => changed(store.retry(&cx.project, vec![held.id]).await.unwrap()),
        Event::Cancelled => changed(store.cancel(&cx.project, vec![held.id]).await.unwrap()),
    }
}

pub(crate) async fn those_on_the_chart_and_no_others(cx: Fixture) {
    for &from in State::ALL {
        for event in EVENTS {
            let held = one_in(&cx, from).await;
            let to = TRANSITIONS.iter().find(|(state, what, _)| (*state, *what) == (from, event)).map(|(_, _, to)| *to);
            let before = cx.everything_about(held.id).await;
            assert_eq!(happens(&cx, event, held, from).await, to.is_some(), "{from} {event:?}");
            assert_eq!(cx.state(held.id).await, to.unwrap_or(from), "{from} {event:?}");
            if to.is_none() {
                assert_eq!(cx.everything_about(held.id).await, before, "{from} {event:?} is refused and changes nothing");
            }
            cx.sql("DELETE FROM resend_log").await;
        }
    }
    // Two ways in: by a plain insert, and by a leased one.
    for (leased, state) in [(false, State::Pending), (true, State::Sending)] {
        let new = NewMessage { leased, due: Due::Now, ..message("billing") };
        let id = new.id;
        cx.insert(vec![new]).await;
        assert_eq!(cx.state(id).await, state);
    }
}
