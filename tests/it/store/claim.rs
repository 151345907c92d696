//! What a claim takes, in what order, and what it leaves.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use redrive::message::{AttemptOutcome, Entry, Headers, State};
use redrive::store::{Claim, Due, Mark, NewMessage, Row};
use uuid::Uuid;

use super::fixture::{Fixture, LONG, NONE, ids, message, ready, refused, sorted};
use crate::support::{assert_near, eventually};

/// Commits messages of the source that became due this many seconds ago.
async fn due_ago(cx: &Fixture, ago: &[u64]) -> (Vec<Uuid>, DateTime<Utc>) {
    let now = cx.now().await;
    let due = |seconds: u64| Due::At(now - Duration::from_secs(seconds));
    let messages: Vec<_> = ago.iter().map(|seconds| NewMessage { due: due(*seconds), ..message("billing") }).collect();
    let ids = messages.iter().map(|message| message.id).collect();
    cx.insert(messages).await;
    (ids, now)
}

pub(crate) async fn the_longest_due_first_and_level_by_level(cx: Fixture) {
    let now = cx.now().await;
    let spread = [(0, 30), (9, 10), (0, 50), (4, 20), (9, 40), (0, 10)];
    let messages: Vec<_> = spread
        .iter()
        .map(|(priority, ago)| NewMessage { priority: *priority, due: Due::At(now - Duration::from_secs(*ago)), ..message("billing") })
        .collect();
    let put: Vec<_> = messages.iter().map(|message| message.id).collect();
    cx.insert(messages).await;
    cx.put("refund", 3).await;
    for (level, expected) in [(9, vec![put[4], put[1]]), (4, vec![put[3]]), (1, vec![]), (0, vec![put[2], put[0], put[5]])] {
        let claimed = cx.claim(Claim { level, ..cx.claim_of("billing") }).await;
        assert_eq!(ids(&claimed.rows), expected, "level {level}");
        assert_near(claimed.now, now, Duration::from_secs(5), "the answer brings the clock along");
    }
}

pub(crate) async fn nothing_before_its_time(cx: Fixture) {
    let soon = NewMessage { due: Due::After(Duration::from_millis(150)), ..message("billing") };
    let later = NewMessage { due: Due::After(LONG), ..message("billing") };
    let id = soon.id;
    cx.insert(vec![soon, later]).await;
    let due_at = cx.get(id).await.due_at.unwrap();
    let taken = eventually(Duration::from_secs(5), async || {
        let claimed = cx.claim(cx.claim_of("billing")).await;
        if claimed.now < due_at - Duration::from_millis(2) {
            assert!(claimed.rows.is_empty(), "{} is before {due_at}", claimed.now);
        }
        (!claimed.rows.is_empty()).then_some(ids(&claimed.rows))
    })
    .await;
    assert_eq!(taken, [id]);
}

pub(crate) async fn at_most_the_limit(cx: Fixture) {
    let (put, _) = due_ago(&cx, &[50, 40, 30, 20, 10]).await;
    for expected in [&put[..2], &put[2..4], &put[4..], &[]] {
        let claimed = cx.claim(Claim { limit: 2, ..cx.claim_of("billing") }).await;
        assert_eq!(ids(&claimed.rows), expected);
    }
}

pub(crate) async fn at_most_so_many_bytes_but_always_one(cx: Fixture) {
    let now = cx.now().await;
    // The size of the payload, and of a header that is sent with it.
    let sizes = [(400, 0), (400, 0), (400, 0), (5000, 0), (10, 2000), (10, 0)];
    let mut put = Vec::new();
    for (index, (size, header)) in sizes.into_iter().enumerate() {
        let due = Due::At(now - Duration::from_secs(60 - index as u64));
        let headers = Headers::new(vec![("x".to_owned(), "y".repeat(header))]);
        let new = NewMessage { due, headers, payload: Some(vec![b'x'; size].into()), ..message("billing") };
        put.push(new.id);
        cx.insert(vec![new]).await;
    }
    for (expected, cut) in [(&put[..2], true), (&put[2..3], true), (&put[3..4], true), (&put[4..5], true), (&put[5..], false)] {
        // Room for two of the lightest, including each message's overhead.
        let claimed = cx.claim(Claim { max_bytes: 1500, ..cx.claim_of("billing") }).await;
        assert_eq!((ids(&claimed.rows).as_slice(), claimed.cut), (expected, cut));
        assert!(claimed.rows.iter().all(|row| matches!(row, Row::Ready(_))));
    }
    for id in put {
        assert_eq!(cx.get(id).await.attempts, 1, "what was left behind was not touched");
    }
}

pub(crate) async fn from_a_mark_on(cx: Fixture) {
    let (put, now) = due_ago(&cx, &[50, 30, 10]).await;
    let later = Claim { after: Some(Mark { due_at: now - Duration::from_secs(40), row: 0 }), ..cx.claim_of("billing") };
    assert_eq!(ids(&cx.claim(later).await.rows), put[1..]);
    assert_eq!(cx.claim_ids("billing").await, put[..1], "a claim without a mark finds what the others left");
}

pub(crate) async fn those_due_at_one_time_from_a_mark_on(cx: Fixture) {
    let due = Due::At(cx.now().await - Duration::from_secs(10));
    let batch: Vec<_> = (0..7).map(|_| NewMessage { due, ..message("billing") }).collect();
    let put = sorted(batch.iter().map(|message| message.id).collect());
    cx.insert(batch).await;
    let (mut last, mut taken) = (None, Vec::new());
    for count in [2, 2, 2, 1, 0] {
        let claimed = cx.claim(Claim { limit: 2, after: last, ..cx.claim_of("billing") }).await;
        assert_eq!((claimed.rows.len(), claimed.last.is_some()), (count, count > 0));
        taken.extend(ids(&claimed.rows));
        last = claimed.last.or(last);
    }
    assert_eq!(sorted(taken), put, "each of them once");
}

/// SQLite alone: a column of times accepts any number.
pub(crate) async fn due_times_with_a_fraction(cx: Fixture) {
    cx.store().await;
    for index in 0..12 {
        let due = 1_700_000_000_000_u64 + index / 4;
        cx.sql(&format!("INSERT INTO resend_log (source, payload, due_at) VALUES ('billing', 'x', {due}.{index})")).await;
    }
    let (mut last, mut taken) = (None, Vec::new());
    for _ in 0..12 {
        let claimed = cx.claim(Claim { limit: 3, after: last, ..cx.claim_of("billing") }).await;
        taken.extend(ids(&claimed.rows));
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), taken.len(), "none of them twice");
        // With nothing behind the mark, a claim starts over.
        last = claimed.last;
    }
    assert_eq!(taken.len(), 12);
}

pub(crate) async fn from_where_others_ended_on(cx: Fixture) {
    let (put, _) = due_ago(&cx, &[50, 40, 30, 20, 10]).await;
    let first = cx.claim(Claim { limit: 1, ..cx.claim_of("billing") }).await;
    cx.claim(Claim { limit: 2, ..cx.claim_of("billing") }).await;
    for expected in [&put[3..4], &put[4..], &[]] {
        let claimed = cx.claim(Claim { limit: 1, after: first.last, ..cx.claim_of("billing") }).await;
        assert_eq!(ids(&claimed.rows), expected, "what another took meanwhile is passed over, and nothing else");
    }
}

pub(crate) async fn a_payload_too_large_is_not_read(cx: Fixture) {
    let now = cx.now().await;
    let sized = |size: usize, ago| NewMessage {
        payload: Some(Bytes::from(vec![b'x'; size])),
        due: Due::At(now - Duration::from_secs(ago)),
        ..message("billing")
    };
    let batch = vec![sized(100, 30), sized(101, 20), sized(5, 10)];
    let put: Vec<_> = batch.iter().map(|message| message.id).collect();
    cx.insert(batch).await;
    let claimed = cx.claim(Claim { max_payload: 100, ..cx.claim_of("billing") }).await;
    assert_eq!(ids(&claimed.rows), put);
    assert!(matches!(&claimed.rows[0], Row::Ready(row) if row.message.payload.as_ref().unwrap().len() == 100));
    let Row::Unusable(unusable) = &claimed.rows[1] else { panic!("{:?}", claimed.rows[1]) };
    assert_eq!((unusable.code, unusable.epoch, unusable.attempt), ("payload_too_large", 1, 1));
    assert!(unusable.detail.contains("101"), "{}", unusable.detail);
    assert!(matches!(&claimed.rows[2], Row::Ready(_)));
}

pub(crate) async fn what_is_taken_is_not_taken_again(cx: Fixture) {
    let put = cx.put("billing", 5).await;
    assert_eq!(sorted(cx.claim_ids("billing").await), put);
    assert_eq!(cx.claim_ids("billing").await, NONE);
    for id in put {
        let shown = cx.get(id).await;
        assert_eq!((shown.state, shown.attempts, shown.retries, shown.epoch), (State::Sending, 1, 0, 1));
    }
}

pub(crate) async fn it_says_where_a_message_stands(cx: Fixture) {
    let expires_after = Some(Duration::from_secs(3600));
    let new = NewMessage { expires_after, ..message("billing") };
    let id = new.id;
    cx.insert(vec![new]).await;
    let (first, held) = cx.take(id, "billing", LONG).await;
    assert_eq!((first.standing.retries, first.standing.logged, &first.standing.last_entry), (0, 0, &None));
    let shown = cx.get(id).await;
    assert_eq!((first.standing.expires_at, first.created_at, Some(first.due_at)), (shown.expires_at, shown.created_at, shown.due_at));

    let expires_at = first.standing.expires_at.map(|at| at + Duration::from_secs(60));
    cx.complete(vec![redrive::store::Completion { expires_at, ..refused(held, Duration::ZERO) }]).await;
    let (second, _) = cx.take(id, "billing", LONG).await;
    assert_eq!((second.message.epoch, second.message.attempt, second.standing.retries, second.standing.logged), (1, 2, 1, 1));
    assert_eq!(second.standing.last_entry, Some(Entry { number: 1, outcome: AttemptOutcome::Refused }));
    assert_eq!(second.standing.expires_at, expires_at, "as the completion said");
    assert_eq!(second.created_at, first.created_at);
    assert!(second.due_at >= first.due_at);
}

pub(crate) async fn retrying_messages_come_again(cx: Fixture) {
    let (_, held) = cx.claimed("billing").await;
    cx.complete(vec![refused(held, LONG)]).await;
    let shown = cx.get(held.id).await;
    assert_eq!((shown.state, shown.attempts, shown.retries), (State::Retrying, 1, 1));
    assert_eq!(cx.claim_ids("billing").await, NONE);
    let (row, held) = cx.claimed("billing").await;
    cx.complete(vec![refused(held, Duration::from_millis(60))]).await;
    let again = eventually(Duration::from_secs(5), async || ready(cx.claim(cx.claim_of("billing")).await.rows).pop()).await;
    assert_eq!((again.message.id, again.message.attempt), (row.message.id, 2));
}

pub(crate) async fn many_claimers_take_no_row_twice(cx: Fixture) {
    const ROWS: usize = 2000;
    let mut put = HashSet::new();
    for _ in 0..2 {
        put.extend(cx.put("billing", ROWS / 2).await);
    }
    let stores = [cx.store().await.clone(), cx.test.prepared().await];
    let claimers = (0..8).map(|claimer| {
        let store = stores[claimer % 2].clone();
        let claims: Vec<_> = (0..400).map(|_| Claim { limit: 30, ..cx.claim_of("billing") }).collect();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            for claim in claims {
                match store.claim(claim).await {
                    Ok(claimed) if claimed.rows.is_empty() => break,
                    Ok(claimed) => taken.extend(ready(claimed.rows).into_iter().map(|row| (row.message.id, row.message.attempt))),
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
            taken
        })
    });
    let mut taken: Vec<_> = futures::future::join_all(claimers).await.into_iter().flat_map(Result::unwrap).collect();
    // A claimer may have found every row locked by the others, and given up.
    taken.extend(cx.claim_ids("billing").await.into_iter().map(|id| (id, 1)));
    assert_eq!(taken.len(), ROWS, "rows were taken twice, or not at all");
    assert!(taken.iter().all(|(id, attempt)| put.contains(id) && *attempt == 1));
    assert_eq!(taken.iter().map(|(id, _)| *id).collect::<HashSet<_>>().len(), ROWS);
}
