//! Endings: of destinations, of sources, and of sends that nobody waits for any longer. Nothing hangs, and no outcome is lost.

use std::pin::pin;
use std::time::{Duration, Instant};

use redrive::outcome::Class;
use redrive::source::Sender;

use super::{Destination, GRACE, Leaving, SOON, State, assert_all, judge, messages, send, sender};
use crate::support::sends::{deliveries, until};

/// Whether a new message succeeds.
async fn succeeds<D: Destination>(destination: &D, sender: &Sender) -> bool {
    send(destination, sender, messages(destination, 1), SOON).await.values().all(|outcome| outcome.class == Class::Succeeded)
}

pub(crate) async fn one_that_is_away_is_unreachable_in_time_and_used_again<D: Leaving>(destination: &D) {
    goes_and_comes(destination, State::Away).await;
}

pub(crate) async fn one_that_stands_still_is_unreachable_in_time_and_used_again<D: Leaving>(destination: &D) {
    goes_and_comes(destination, State::Still).await;
}

async fn goes_and_comes<D: Leaving>(destination: &D, state: State) {
    let sender = sender(destination, "2s");
    assert!(succeeds(destination, &sender).await);
    destination.be(state);
    let within = Duration::from_secs(2) + GRACE;
    // Few enough that as many processes start quickly even on a busy machine.
    assert_all(&send(destination, &sender, messages(destination, 10), within).await, Class::Unreachable);
    destination.be(State::There);
    until("it is used again", Duration::from_secs(15), async || succeeds(destination, &sender).await).await;
    sender.close(SOON).await;
}

pub(crate) async fn a_close_waits_for_what_is_under_way<D: Destination>(destination: &D) {
    let sender = sender(destination, "10s");
    let sends = send(destination, &sender, messages(destination, 50), SOON);
    // The sends are polled first: each is under way when the source is closed.
    let (outcomes, ()) = tokio::join!(biased; sends, sender.close(Duration::from_secs(10)));
    assert_all(&outcomes, Class::Succeeded);
    // Later sends are refused, if the source needs what it has closed.
    let late = send(destination, &sender, messages(destination, 3), SOON).await;
    if matches!(sender, Sender::Pipelined(_)) {
        assert!(late.values().all(|outcome| outcome.class == Class::Unreachable && outcome.code.ends_with("_closed")), "{late:?}");
    }
}

pub(crate) async fn what_is_pending_at_the_close_gets_an_outcome<D: Leaving>(destination: &D) {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let sender = sender(destination, "4s");
    destination.be(State::Still);
    let begun = Instant::now();
    let sends = send(destination, &sender, messages(destination, 20), TIMEOUT + GRACE);
    let close = async {
        sender.close(Duration::from_millis(300)).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    };
    let (outcomes, ()) = tokio::join!(biased; sends, close);
    assert_all(&outcomes, Class::Unreachable);
    // A future that continues without its source has until its timeout; whatever a closed pipeline holds would never be finished.
    assert!(matches!(sender, Sender::Each(_)) || begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    destination.be(State::There);
}

pub(crate) async fn a_send_that_is_dropped_loses_no_outcome<D: Destination>(destination: &D) {
    let sender = sender(destination, "5s");
    let Sender::Pipelined(pipeline) = &sender else { panic!("it is sent one message at a time") };
    let (batch, outcomes) = deliveries(messages(destination, 300));
    {
        let mut sends = pin!(pipeline.send(batch));
        let _ = futures::poll!(&mut sends);
    }
    let outcomes = tokio::time::timeout(Duration::from_secs(5) + GRACE, outcomes.all()).await.expect("an outcome was lost");
    judge(destination, &outcomes);
    assert!(outcomes.values().all(|outcome| matches!(outcome.class, Class::Succeeded | Class::Unreachable)), "{outcomes:?}");
    until("the next is sent", Duration::from_secs(15), async || succeeds(destination, &sender).await).await;
    sender.close(SOON).await;
}
