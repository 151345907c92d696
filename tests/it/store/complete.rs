//! What is written about an attempt, and that only the lease's holder may write it.

use std::time::Duration;

use redrive::message::judge::Log;
use redrive::message::{AttemptOutcome, Entry, ErrorClass, State};
use redrive::store::{Attempt, Claim, Completion, Held};
use uuid::Uuid;

use super::fixture::{Fixture, LONG, NONE, error, failed, failure, message, ready, refused, succeeded};
use crate::support::assert_near;

const NEAR: Duration = Duration::from_secs(10);

async fn attempts(cx: &Fixture, id: Uuid) -> Vec<Attempt> {
    cx.store().await.attempts(&cx.project, id).await.unwrap().unwrap()
}

pub(crate) async fn success(cx: Fixture) {
    let (row, held) = cx.claimed("billing").await;
    let now = cx.now().await;
    let done = Completion { result: Some("{\"partition\":3}".to_owned()), started_at: now, ..succeeded(held) };
    assert_eq!(cx.complete(vec![done]).await, [true]);
    let shown = cx.get(held.id).await;
    assert_eq!((shown.state, shown.attempts, shown.retries, shown.last_error), (State::Succeeded, 1, 0, None));
    assert_eq!(shown.result.as_deref(), Some("{\"partition\":3}"));
    assert_near(shown.finished_at.unwrap(), now, NEAR, "finished");
    assert_near(shown.updated_at, now, NEAR, "updated");
    assert_eq!(shown.created_at, row.created_at);
    assert_eq!(cx.claim_ids("billing").await, NONE);
    // Its only attempt is on its own row.
    let attempts = attempts(&cx, held.id).await;
    assert_eq!(attempts.len(), 1);
    let attempt = &attempts[0];
    assert_eq!((attempt.epoch, attempt.number, attempt.count, &*attempt.node), (1, 1, 1, "node-1"));
    assert_eq!((attempt.outcome, &attempt.error, attempt.duration), (AttemptOutcome::Succeeded, &None, Duration::from_millis(7)));
    assert_eq!(attempt.result.as_deref(), Some("{\"partition\":3}"));
    assert_near(attempt.started_at, now, Duration::from_millis(2), "started");
    assert_eq!(cx.raw().await.number("SELECT count(*) FROM attempt_log").await, 0);
}

pub(crate) async fn a_retry_is_due_by_the_databases_clock(cx: Fixture) {
    let (_, held) = cx.claimed("billing").await;
    let expires_at = cx.now().await + 24 * LONG;
    let refusal = Completion { expires_at: Some(expires_at), ..refused(held, Duration::from_secs(100)) };
    assert_eq!(cx.complete(vec![refusal]).await, [true]);
    let now = cx.now().await;
    let shown = cx.get(held.id).await;
    assert_eq!((shown.state, shown.attempts, shown.retries, shown.finished_at), (State::Retrying, 1, 1, None));
    assert_near(shown.due_at.unwrap(), now + Duration::from_secs(100), NEAR, "due");
    assert_near(shown.expires_at.unwrap(), expires_at, Duration::from_millis(1), "expires");
    assert_eq!(shown.last_error, Some(error("refused", "http_503")));
    let attempts = attempts(&cx, held.id).await;
    assert_eq!(attempts.len(), 1);
    let attempt = &attempts[0];
    assert_eq!((attempt.epoch, attempt.number, attempt.count, attempt.outcome), (1, 1, 1, AttemptOutcome::Refused));
    assert_eq!((&attempt.error, &*attempt.node, attempt.duration), (&Some(error("refused", "http_503")), "node-1", Duration::from_millis(7)));
    assert_eq!(attempt.started_at, refused(held, LONG).started_at);
}

pub(crate) async fn failure_for_good(cx: Fixture) {
    let (_, held) = cx.claimed("billing").await;
    assert_eq!(cx.complete(vec![failed(held)]).await, [true]);
    let shown = cx.get(held.id).await;
    assert_eq!((shown.state, shown.attempts, shown.last_error), (State::Failed, 1, Some(error("permanent", "http_410"))));
    assert_near(shown.finished_at.unwrap(), cx.now().await, NEAR, "finished");
    assert_eq!(attempts(&cx, held.id).await.len(), 1);
    assert_eq!(cx.claim_ids("billing").await, NONE);
}

pub(crate) async fn nothing_was_sent(cx: Fixture) {
    // A row that can't be sent fails, and no attempt is recorded.
    let (_, held) = cx.claimed("billing").await;
    let unsent = |held, state| Completion { begun: false, state, error: Some(failure(ErrorClass::Invalid, "invalid_headers")), ..failed(held) };
    assert_eq!(cx.complete(vec![unsent(held, State::Failed)]).await, [true]);
    let shown = cx.get(held.id).await;
    assert_eq!((shown.state, shown.attempts), (State::Failed, 0));
    assert_eq!(shown.last_error, Some(error("invalid", "invalid_headers")));
    assert!(attempts(&cx, held.id).await.is_empty());
    // One that is only postponed gets the same number at its next claim.
    let (_, held) = cx.claimed("billing").await;
    let put_off = Completion { delay: Duration::ZERO, ..unsent(held, State::Retrying) };
    assert_eq!(cx.complete(vec![put_off]).await, [true]);
    assert!(attempts(&cx, held.id).await.is_empty());
    assert_eq!(cx.take(held.id, "billing", LONG).await.0.message.attempt, 1);
}

/// Fails the next attempt of a message; returns what the following claim finds.
async fn fail_next(cx: &Fixture, id: Uuid, number: u32, outcome: AttemptOutcome, log: Log) {
    let (row, held) = cx.take(id, "billing", LONG).await;
    assert_eq!(row.message.attempt, number);
    let started_at = refused(held, LONG).started_at + Duration::from_secs(number.into());
    let code = format!("code_{number}");
    let refusal = Completion {
        attempt: number,
        outcome,
        log,
        started_at,
        duration: Duration::from_millis(number.into()),
        error: outcome.error().map(|class| failure(class, &code)),
        ..refused(held, Duration::ZERO)
    };
    assert_eq!(cx.complete(vec![refusal]).await, [true]);
}

pub(crate) async fn the_attempt_log_grows_and_collapses(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    fail_next(&cx, id, 1, AttemptOutcome::Refused, Log::Insert).await;
    fail_next(&cx, id, 2, AttemptOutcome::Unreachable, Log::Insert).await;
    fail_next(&cx, id, 3, AttemptOutcome::Unreachable, Log::Extend(2)).await;
    fail_next(&cx, id, 4, AttemptOutcome::Unreachable, Log::Extend(2)).await;
    fail_next(&cx, id, 5, AttemptOutcome::Refused, Log::Insert).await;
    let log = attempts(&cx, id).await;
    let facts: Vec<_> = log.iter().map(|entry| (entry.number, entry.count, entry.outcome)).collect();
    assert_eq!(facts, [(1, 1, AttemptOutcome::Refused), (2, 3, AttemptOutcome::Unreachable), (5, 1, AttemptOutcome::Refused)]);
    let began = |number: u64| refused(Held { id, token: 1 }, LONG).started_at + Duration::from_secs(number);
    assert_eq!((log[1].started_at, log[1].last_at), (began(2), Some(began(4))), "the first and the last of them");
    assert_eq!(log[1].duration, Duration::from_millis(4));
    assert_eq!(log[1].error.as_ref().unwrap().code, "code_4");

    let (row, held) = cx.take(id, "billing", LONG).await;
    assert_eq!((row.message.attempt, row.standing.logged), (6, 3));
    assert_eq!(row.standing.last_entry, Some(Entry { number: 5, outcome: AttemptOutcome::Refused }));
    // A success after failures: all of them are reported, in order.
    cx.complete(vec![Completion { attempt: 6, ..succeeded(held) }]).await;
    let numbers: Vec<_> = attempts(&cx, id).await.iter().map(|entry| (entry.number, entry.outcome)).collect();
    assert_eq!(numbers.len(), 4);
    assert_eq!(numbers[3], (6, AttemptOutcome::Succeeded));
    assert_eq!(cx.get(id).await.attempts, 6);
}

pub(crate) async fn it_goes_without_history(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    fail_next(&cx, id, 1, AttemptOutcome::Refused, Log::Insert).await;
    let (_, held) = cx.take(id, "billing", LONG).await;
    let gone = Completion { attempt: 2, delete: true, ..succeeded(held) };
    let foreign = Completion { held: Held { token: held.token + 1000, ..held }, ..gone.clone() };
    assert_eq!(cx.complete(vec![foreign]).await, [false]);
    assert_eq!(cx.state(id).await, State::Sending);
    assert_eq!(cx.complete(vec![gone]).await, [true]);
    assert!(cx.store().await.get(&cx.project, id, true).await.unwrap().is_none());
    assert!(cx.store().await.attempts(&cx.project, id).await.unwrap().is_none());
    assert!(cx.everything_about(id).await.is_empty(), "its attempts go along");
}

pub(crate) async fn a_token_that_is_not_ours_changes_nothing(cx: Fixture) {
    let (_, held) = cx.claimed("billing").await;
    let before = cx.everything_about(held.id).await;
    for token in [held.token + 1000, 0, -1, i64::MAX] {
        let foreign = Held { id: held.id, token };
        let all = vec![succeeded(foreign), refused(foreign, LONG), failed(foreign), Completion { delete: true, ..succeeded(foreign) }];
        for completion in all {
            assert_eq!(cx.complete(vec![completion]).await, [false]);
        }
        assert_eq!(cx.everything_about(held.id).await, before);
    }
    let unknown = Held { id: Uuid::now_v7(), token: held.token };
    assert_eq!(cx.complete(vec![refused(unknown, LONG)]).await, [false]);
    assert_eq!(cx.raw().await.number("SELECT count(*) FROM attempt_log").await, 0);
    assert_eq!(cx.complete(vec![succeeded(held)]).await, [true]);
}

pub(crate) async fn a_mixed_batch_of_a_thousand_in_order(cx: Fixture) {
    cx.put("billing", 1000).await;
    let claim = Claim { limit: 1000, ..cx.claim_of("billing") };
    let token = claim.lease.token;
    let rows = ready(cx.claim(claim).await.rows);
    let completion = |index: usize| {
        let held = Held { id: rows[index].message.id, token };
        match index % 6 {
            0 => succeeded(held),
            1 => refused(held, LONG),
            2 => failed(held),
            3 => Completion { delete: true, ..succeeded(held) },
            4 => Completion { held: Held { token: token + 7777, ..held }, ..failed(held) },
            _ => Completion { begun: false, ..failed(held) },
        }
    };
    let answers = cx.complete((0..rows.len()).map(completion).collect()).await;
    assert_eq!(answers, (0..1000).map(|index| index % 6 != 4).collect::<Vec<_>>());
    let shown: std::collections::HashMap<_, _> = cx.all().await.into_iter().map(|record| (record.id, record)).collect();
    for (index, row) in rows.iter().enumerate() {
        let expected = match index % 6 {
            0 => Some((State::Succeeded, 1, 0)),
            1 => Some((State::Retrying, 1, 1)),
            2 => Some((State::Failed, 1, 0)),
            3 => None,
            4 => Some((State::Sending, 1, 0)),
            _ => Some((State::Failed, 0, 0)),
        };
        assert_eq!(shown.get(&row.message.id).map(|record| (record.state, record.attempts, record.retries)), expected, "{index}");
    }
    let logged = (0..1000).filter(|index| [1, 2].contains(&(index % 6))).count();
    assert_eq!(cx.raw().await.number("SELECT count(*) FROM attempt_log").await, i64::try_from(logged).unwrap());
}

pub(crate) async fn twice_counts_once(cx: Fixture) {
    // As after an answer that was lost: the second writes nothing, whatever its outcome.
    let (_, held) = cx.claimed("billing").await;
    assert_eq!(cx.complete(vec![refused(held, LONG)]).await, [true]);
    let before = cx.everything_about(held.id).await;
    assert_eq!(cx.complete(vec![refused(held, LONG)]).await, [false]);
    assert_eq!(cx.complete(vec![succeeded(held)]).await, [false]);
    assert_eq!(cx.everything_about(held.id).await, before);
    assert_eq!(attempts(&cx, held.id).await.len(), 1);
}

pub(crate) async fn nothing_is_nothing(cx: Fixture) {
    let store = cx.store().await;
    assert!(cx.complete(vec![]).await.is_empty());
    assert!(store.renew(vec![], LONG).await.unwrap().is_empty());
    assert_eq!(store.release(vec![]).await.unwrap(), 0);
    assert!(store.retry(&cx.project, vec![]).await.unwrap().is_empty());
    assert!(store.cancel(&cx.project, vec![]).await.unwrap().is_empty());
    assert!(!cx.outlook(&[]).await.lapsed);
    assert!(cx.outlook(&[]).await.due.is_empty());
    assert!(store.take_over(cx.take_over_of(&[])).await.unwrap().is_empty());
}

pub(crate) async fn counters_are_exact(cx: Fixture) {
    let new = message("billing");
    let id = new.id;
    cx.insert(vec![new]).await;
    let mut refusals = 0;
    for number in 1..=30 {
        let (row, held) = cx.take(id, "billing", LONG).await;
        assert_eq!((row.message.attempt, row.standing.retries), (number, refusals));
        refusals += number % 2;
        let outcome = if number % 2 == 1 { AttemptOutcome::Refused } else { AttemptOutcome::Unreachable };
        let log = if number <= 20 { Log::Insert } else { Log::Extend(20) };
        let next = Completion { attempt: number, retries: refusals, outcome, log, ..refused(held, Duration::ZERO) };
        assert_eq!(cx.complete(vec![next]).await, [true]);
    }
    let shown = cx.get(id).await;
    assert_eq!((shown.attempts, shown.retries), (30, 15));
    let log = attempts(&cx, id).await;
    assert_eq!(log.len(), 20);
    assert_eq!(log.iter().map(|entry| entry.count).sum::<u32>(), 30, "every attempt is on record");
}
