//! What a claim holds, against others who look at it, want it, or are late.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redrive::message::State;
use redrive::store::{Changed, Claim, Claimed, Completion, Held, List, Strays};
use uuid::Uuid;

use super::fixture::{Fixture, LONG, NONE, ids, ready, refused, sorted, succeeded};
use crate::support::Backend;

/// Claims all of `billing`; returns what it holds, in the order of the ids.
async fn claimed(cx: &Fixture) -> (Vec<Held>, Claimed) {
    let claim = cx.claim_of("billing");
    let token = claim.lease.token;
    let claimed = cx.claim(claim).await;
    (sorted(ids(&claimed.rows)).into_iter().map(|id| Held { id, token }).collect(), claimed)
}

async fn listed(cx: &Fixture, state: State) -> Vec<Uuid> {
    let list = List { project: cx.project.to_string(), state: Some(state), limit: 100, ..List::default() };
    sorted(cx.store().await.list(list).await.unwrap().items.into_iter().map(|record| record.id).collect())
}

async fn counted(cx: &Fixture, state: State) -> u64 {
    cx.store().await.counts(&cx.project).await.unwrap().iter().filter_map(|count| count.states.get(&state)).sum()
}

pub(crate) async fn it_is_told_as_being_sent(cx: Fixture) {
    cx.put("billing", 5).await;
    let (held, _) = claimed(&cx).await;
    let waits = cx.put("billing", 2).await;
    assert_eq!(listed(&cx, State::Sending).await, held.iter().map(|held| held.id).collect::<Vec<_>>());
    assert_eq!(listed(&cx, State::Pending).await, waits);
    assert_eq!((counted(&cx, State::Sending).await, counted(&cx, State::Pending).await), (5, 2));
    for one in &held {
        let shown = cx.get(one.id).await;
        assert_eq!((shown.state, shown.attempts), (State::Sending, 1));
    }
    // Some are finished, the others still held.
    let outcomes = vec![succeeded(held[0]), refused(held[1], LONG), Completion { delete: true, ..succeeded(held[2]) }];
    assert_eq!(cx.complete(outcomes).await, [true; 3]);
    assert_eq!(listed(&cx, State::Sending).await, [held[3].id, held[4].id]);
    assert_eq!(listed(&cx, State::Retrying).await, [held[1].id]);
    assert_eq!((counted(&cx, State::Sending).await, counted(&cx, State::Retrying).await), (2, 1));
    assert_eq!(sorted(cx.claim_ids("billing").await), waits);
    let outlook = cx.outlook(&["billing"]).await;
    assert!(matches!(&outlook.due[..], [retry] if retry.at > outlook.now), "what is held is not due: {outlook:?}");
}

pub(crate) async fn a_claim_that_is_closed_leaves_the_others(cx: Fixture) {
    cx.put("billing", 4).await;
    let (held, _) = claimed(&cx).await;
    assert_eq!(cx.complete(vec![succeeded(held[0]), refused(held[1], Duration::ZERO)]).await, [true, true]);
    let store = cx.store().await;
    assert_eq!(store.release(vec![held[2]]).await.unwrap(), 1);
    let again = sorted(vec![held[1].id, held[2].id]);
    let (taken, _) = claimed(&cx).await;
    assert_eq!(taken.iter().map(|held| held.id).collect::<Vec<_>>(), again, "an outcome and a hand-back let go of one message each");
    assert_eq!(cx.complete(vec![Completion { delete: true, ..succeeded(held[3]) }]).await, [true]);
    store.close_claims(vec![held[0].token, 17]).await.unwrap();
    assert_eq!(sorted(listed(&cx, State::Sending).await), again, "the other claim holds");
    assert_eq!(cx.claim_ids("billing").await, NONE);
    let attempts = [2, 1].map(|attempt| if again[0] == held[1].id { attempt } else { 3 - attempt });
    let outcomes = taken.iter().zip(attempts).map(|(held, attempt)| Completion { attempt, ..succeeded(*held) });
    assert_eq!(cx.complete(outcomes.collect()).await, [true, true]);
    for (held, attempts) in taken.iter().zip(attempts) {
        let shown = cx.get(held.id).await;
        assert_eq!((shown.state, shown.attempts), (State::Succeeded, attempts));
    }
}

pub(crate) async fn the_claim_of_another_does_not_serve(cx: Fixture) {
    cx.put("billing", 2).await;
    let first = Claim { limit: 1, ..cx.claim_of("billing") };
    let second = cx.claim_of("billing");
    let tokens = [first.lease.token, second.lease.token];
    let (one, other) = (ids(&cx.claim(first).await.rows)[0], ids(&cx.claim(second).await.rows)[0]);
    let waits = cx.put("billing", 1).await[0];
    let before = [cx.everything_about(one).await, cx.everything_about(other).await, cx.everything_about(waits).await];
    for (id, token) in [(one, tokens[1]), (other, tokens[0]), (waits, tokens[0])] {
        let wrong = Held { id, token };
        for completion in [succeeded(wrong), Completion { delete: true, ..succeeded(wrong) }, refused(wrong, Duration::ZERO)] {
            assert_eq!(cx.complete(vec![completion]).await, [false]);
        }
        assert_eq!(cx.store().await.renew(vec![wrong], LONG).await.unwrap(), [id]);
        assert_eq!(cx.store().await.release(vec![wrong]).await.unwrap(), 0);
    }
    assert_eq!([cx.everything_about(one).await, cx.everything_about(other).await, cx.everything_about(waits).await], before);
    let right = [(one, tokens[0]), (other, tokens[1])].map(|(id, token)| succeeded(Held { id, token }));
    // An earlier attempt of the same message is no longer ours.
    let early = Completion { attempt: 0, ..right[0].clone() };
    assert_eq!(cx.complete(vec![early]).await, [false]);
    assert_eq!(cx.complete(right.to_vec()).await, [true, true]);
}

/// As a node works: outcomes of several claims in one batch, two batches at once, and leases that are renewed meanwhile.
pub(crate) async fn outcomes_of_the_same_claims_do_not_wait_crosswise(cx: Fixture) {
    const ROUNDS: usize = 40;
    let store = cx.store().await;
    cx.put("billing", 4 * ROUNDS).await;
    let [mut one, mut other] = [Vec::new(), Vec::new()];
    for half in [&mut one, &mut other] {
        let claim = Claim { limit: u32::try_from(2 * ROUNDS).unwrap(), ..cx.claim_of("billing") };
        let token = claim.lease.token;
        half.extend(ids(&cx.claim(claim).await.rows).into_iter().map(|id| Held { id, token }));
    }
    let (last_one, last_other) = (one[2 * ROUNDS - 1], other[2 * ROUNDS - 1]);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    for _ in 0..ROUNDS {
        let mut batch = |fails: bool| {
            let [a, b] = [one.next().unwrap(), other.next().unwrap()];
            let (failed, done) = if fails { (a, b) } else { (b, a) };
            Arc::new(vec![refused(failed, LONG), succeeded(done)])
        };
        let (first, second) = (store.complete(batch(true)), store.complete(batch(false)));
        let (first, second, renewed) = tokio::join!(first, second, store.renew(vec![last_one, last_other], LONG));
        assert_eq!([first.unwrap(), second.unwrap()].concat(), [true; 4]);
        renewed.unwrap();
    }
}

pub(crate) async fn it_is_found_where_it_stood_and_where_it_went(cx: Fixture) {
    let put = cx.put("billing", 7).await;
    let claim = cx.claim_of("billing");
    let token = claim.lease.token;
    let mut rows = ready(cx.claim(claim).await.rows);
    rows.sort_by_key(|row| row.message.id);
    let tells = matches!(cx.backend, Backend::Postgres | Backend::Postgres18);
    assert!(rows.iter().all(|row| row.address.is_some() == tells));
    let at = |index: usize| Completion { address: rows[index].address, ..succeeded(Held { id: put[index], token }) };
    // These two have moved.
    cx.sql(&format!("UPDATE resend_log SET topic = 'moved' WHERE id IN ('{}', '{}')", put[1], put[3])).await;
    // And this one claims to be where another is.
    let misled = Completion { address: rows[6].address, ..at(5) };
    let outcomes = vec![at(0), at(1), Completion { delete: true, ..at(2) }, Completion { delete: true, ..at(3) }, misled];
    assert_eq!(cx.complete(outcomes).await, [true; 5]);
    for (index, topic) in [(0, "invoices"), (1, "moved"), (5, "invoices")] {
        let shown = cx.get(put[index]).await;
        assert_eq!((shown.state, shown.topic.as_deref()), (State::Succeeded, Some(topic)));
    }
    assert_eq!(sorted(cx.all().await.into_iter().map(|record| record.id).collect()), [put[0], put[1], put[4], put[5], put[6]]);
    let late = Completion { held: Held { id: put[4], token: token ^ 1 }, ..at(4) };
    let foreign = Completion { held: Held { id: put[6], token: token ^ 1 }, delete: true, ..at(6) };
    assert_eq!(cx.complete(vec![late, foreign]).await, [false, false], "an address alone opens nothing");
    assert_eq!(listed(&cx, State::Sending).await, [put[4], put[6]]);
}

/// Claims in small portions beside somebody else who wants the rows, until that one is done and nothing is left; returns what each of them got.
async fn claims_beside<F: Future<Output = HashSet<Uuid>> + Send + 'static>(cx: &Fixture, other: F) -> (HashSet<Uuid>, HashSet<Uuid>) {
    let (other, store) = (tokio::spawn(other), cx.store().await.clone());
    let mut claimed = HashSet::new();
    for limit in (1..=7).cycle() {
        match store.claim(Claim { limit, ..cx.claim_of("billing") }).await {
            Ok(taken) => {
                let empty = taken.rows.is_empty();
                claimed.extend(ids(&taken.rows));
                if empty && other.is_finished() {
                    break;
                }
            }
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
        tokio::task::yield_now().await;
    }
    (claimed, other.await.unwrap())
}

pub(crate) async fn it_is_claimed_or_cancelled_never_both(cx: Fixture) {
    const ROWS: usize = 300;
    let put = cx.put("billing", ROWS).await;
    let (store, project, newest_first) = (cx.test.prepared().await, cx.project.clone(), put.iter().rev().copied().collect::<Vec<_>>());
    let (claimed, cancelled) = claims_beside(&cx, async move {
        let mut cancelled = HashSet::new();
        for ids in newest_first.chunks(3) {
            let changed = loop {
                match store.cancel(&project, ids.to_vec()).await {
                    Ok(changed) => break changed,
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            };
            for (id, changed) in ids.iter().zip(changed) {
                match changed {
                    Changed::Done(State::Cancelled) => assert!(cancelled.insert(*id)),
                    other => assert_eq!(other, Changed::Wrong(State::Sending)),
                }
            }
        }
        cancelled
    })
    .await;
    assert!(claimed.is_disjoint(&cancelled));
    assert_eq!(claimed.len() + cancelled.len(), ROWS);
    for id in &put {
        assert_eq!(cx.state(*id).await, if claimed.contains(id) { State::Sending } else { State::Cancelled });
    }
}

pub(crate) async fn it_is_claimed_or_a_stray_never_both(cx: Fixture) {
    const ROWS: usize = 300;
    cx.put("billing", ROWS).await;
    let store = cx.test.prepared().await;
    let strays = Strays { project: cx.project.clone(), sources: Vec::new(), min_age: Duration::ZERO, limit: 3, lease: cx.lease(LONG) };
    let (claimed, strays) = claims_beside(&cx, async move {
        let mut taken = HashSet::new();
        for _ in 0..ROWS / 4 {
            match store.take_strays(strays.clone()).await {
                Ok(round) => taken.extend(round.strays.into_iter().map(|stray| stray.id)),
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
        }
        taken
    })
    .await;
    assert!(claimed.is_disjoint(&strays));
    assert_eq!(claimed.len() + strays.len(), ROWS);
}
