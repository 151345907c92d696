//! History is deleted when its time has come, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redrive::engine;
use redrive::message::State;
use redrive::store::{self, Completion, Error, Idempotency, Insert, NewMessage, Purge, Purged, Sweep, Swept};
use uuid::Uuid;

use super::act::one_in;
use super::fixture::{Fixture, LONG, failed, message};
use crate::support::eventually;

fn purge_of(cx: &Fixture, keep: &[(State, Option<u64>)]) -> Purge {
    let keep = keep.iter().map(|(state, seconds)| (*state, seconds.map(Duration::from_secs))).collect();
    Purge { project: cx.project.clone(), keep, max_rows: 1_000_000, surplus: None, batch: 1000 }
}

/// Each finished state, kept for so many seconds.
fn each_for(seconds: Option<u64>) -> Vec<(State, Option<u64>)> {
    State::FINISHED.iter().map(|state| (*state, seconds)).collect()
}

async fn purge(cx: &Fixture, purge: Purge) -> Purged {
    cx.store().await.purge(purge).await.unwrap()
}

/// Moves a message's finish into the past.
async fn finished_ago(cx: &Fixture, id: Uuid, seconds: i64) {
    let time = cx.time(-1000 * seconds);
    assert_eq!(cx.sql(&format!("UPDATE resend_log SET finished_at = {time} WHERE id = '{id}'")).await, 1);
}

async fn left(cx: &Fixture) -> BTreeSet<Uuid> {
    cx.all().await.into_iter().map(|record| record.id).collect()
}

fn deleted(purged: &Purged) -> BTreeMap<State, u64> {
    purged.rows.clone()
}

pub(crate) async fn exactly_what_is_past_its_retention(cx: Fixture) {
    const KEEP: [(State, u64); 3] = [(State::Succeeded, 100), (State::Failed, 200), (State::Cancelled, 300)];
    let (mut stay, mut go) = (BTreeSet::new(), Vec::new());
    for (state, keep) in KEEP {
        for (around, past) in [(-20, false), (20, true), (10_000, true), (-1_000_000, false)] {
            let id = one_in(&cx, state).await;
            finished_ago(&cx, id, i64::try_from(keep).unwrap() + around).await;
            if past { go.push(id) } else { assert!(stay.insert(id)) }
        }
        stay.insert(one_in(&cx, state).await);
    }
    for state in [State::Pending, State::Sending, State::Retrying, State::Blocked] {
        let id = one_in(&cx, state).await;
        let time = cx.time(-1_000_000_000);
        cx.sql(&format!("UPDATE resend_log SET created_at = {time}, updated_at = {time} WHERE id = '{id}'")).await;
        stay.insert(id);
    }
    let purged = purge(&cx, purge_of(&cx, &KEEP.map(|(state, keep)| (state, Some(keep))))).await;
    assert_eq!(deleted(&purged), KEEP.iter().map(|(state, _)| (*state, 2)).collect());
    // The number of rows is only checked by a call that finds none that are too old.
    let again = purge(&cx, purge_of(&cx, &KEEP.map(|(state, keep)| (state, Some(keep))))).await;
    assert!(purged.more && deleted(&again).is_empty() && !again.more);
    assert_eq!(left(&cx).await, stay);
    for id in go {
        assert!(cx.everything_about(id).await.is_empty(), "its attempts go along");
    }
    let attempts = cx.raw().await.number("SELECT count(*) FROM attempt_log").await;
    assert_eq!(attempts, 4, "those of three failed and of a retrying message stay");
}

/// On SQLite, where a table can be made to accept no more rows, as if the disk were full.
pub(crate) async fn one_that_can_be_no_smaller_is_not_tried_again(cx: Fixture) {
    let id = one_in(&cx, State::Succeeded).await;
    finished_ago(&cx, id, 1_000_000_000).await;
    for sql in [
        "CREATE TABLE room (n INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO room VALUES (9223372036854775807)",
        "CREATE TRIGGER no_room AFTER DELETE ON resend_log BEGIN INSERT INTO room VALUES (NULL); END",
    ] {
        cx.sql(sql).await;
    }
    let tries = Arc::new(AtomicU32::new(0));
    let counter = tries.clone();
    let count = move |verb: &'static str, _: Duration| {
        if verb == "purge" {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let store = store::open_observed(&cx.test.config, &cx.project, Arc::new(count)).unwrap();
    store.prepare().await.unwrap();
    let history = engine::config::History { batch: 1, ..engine::config::History::default() };
    let purge = engine::purge::Purge { store, project: cx.project.clone(), history };
    let error = purge.run(|_| true).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert_eq!(tries.load(Ordering::Relaxed), 1);
}

pub(crate) async fn never_is_never(cx: Fixture) {
    let mut all = BTreeSet::new();
    for &state in State::ALL {
        let id = one_in(&cx, state).await;
        if state.is_finished() {
            finished_ago(&cx, id, 3_000_000_000).await;
        }
        all.insert(id);
    }
    let never = each_for(None);
    let purged = purge(&cx, purge_of(&cx, &never)).await;
    assert!(deleted(&purged).is_empty() && !purged.more, "{purged:?}");
    assert_eq!(left(&cx).await, all);
    let purged = purge(&cx, purge_of(&cx, &each_for(Some(0)))).await;
    assert_eq!(deleted(&purged), State::FINISHED.iter().map(|state| (*state, 1)).collect(), "none is kept at all");
    assert_eq!(left(&cx).await.len(), 4);
}

pub(crate) async fn at_most_so_many_rows_stay(cx: Fixture) {
    let waiting = [one_in(&cx, State::Pending).await, one_in(&cx, State::Retrying).await];
    let mut finished = Vec::new();
    for age in 0..12 {
        let id = one_in(&cx, State::FINISHED[age % 3]).await;
        finished_ago(&cx, id, 10 + 10 * i64::try_from(age).unwrap()).await;
        finished.push(id);
    }
    let never = each_for(None);
    let some = Purge { max_rows: 12, ..purge_of(&cx, &never) };
    assert!(deleted(&purge(&cx, some).await).is_empty());
    let mut counts = Vec::new();
    let mut request = Purge { max_rows: 5, batch: 2, ..purge_of(&cx, &never) };
    for _ in 0..10 {
        let purged = purge(&cx, request.clone()).await;
        counts.push((deleted(&purged).values().sum::<u64>(), purged.surplus.is_some()));
        if !purged.more {
            break;
        }
        // Known surplus isn't counted again.
        request.surplus = purged.surplus;
    }
    assert_eq!(counts, [(2, true), (2, true), (0, false), (2, true), (1, false), (0, false)], "what went, and whether the rest need not be counted");
    // Of every three, one is delivered and the next failed.
    let left_over = [finished[1], finished[4], finished[7], finished[10], finished[2]];
    assert_eq!(left(&cx).await, left_over.iter().chain(&waiting).copied().collect(), "what failed goes last; what waits is not history");
}

pub(crate) async fn of_those_that_ended_together_no_more_than_are_too_many(cx: Fixture) {
    let ids = cx.put("billing", 9).await;
    cx.store().await.cancel(&cx.project, ids).await.unwrap();
    let never = each_for(None);
    let mut request = Purge { max_rows: 4, batch: 2, ..purge_of(&cx, &never) };
    for _ in 0..10 {
        let purged = purge(&cx, request.clone()).await;
        if !purged.more {
            break;
        }
        request.surplus = purged.surplus;
    }
    assert_eq!(left(&cx).await.len(), 4);
}

pub(crate) async fn in_bounded_batches(cx: Fixture) {
    let ids = cx.put("billing", 10).await;
    cx.store().await.cancel(&cx.project, ids).await.unwrap();
    let keep = purge_of(&cx, &[(State::Cancelled, Some(0))]);
    let mut counts = Vec::new();
    loop {
        let purged = purge(&cx, Purge { batch: 4, ..keep.clone() }).await;
        counts.push(deleted(&purged).values().sum::<u64>());
        if !purged.more || counts.len() > 9 {
            break;
        }
    }
    assert_eq!(counts.iter().sum::<u64>(), 10);
    assert!(counts.iter().all(|count| *count <= 4) && counts.len() <= 4, "{counts:?}");
}

pub(crate) async fn keys_past_their_time(cx: Fixture) {
    let keyed = |key: &str| NewMessage { idempotency: Some(Idempotency { key: key.to_owned(), digest: [1; 32] }), ..message("billing") };
    let kept = Insert { keep_keys: LONG, ..cx.insertion(vec![keyed("kept")]) };
    let brief = Insert { keep_keys: Duration::from_millis(1), ..cx.insertion(vec![keyed("a"), keyed("b")]) };
    cx.store().await.insert(kept).await.unwrap();
    cx.store().await.insert(brief).await.unwrap();
    let mut keys = 0;
    let never = purge_of(&cx, &each_for(None));
    keys += purge(&cx, never.clone()).await.keys;
    let rest = eventually(Duration::from_secs(5), async || {
        let purged = purge(&cx, never.clone()).await;
        (keys + purged.keys == 2).then_some(purged.keys)
    })
    .await;
    assert_eq!(keys + rest, 2);
    assert_eq!(purge(&cx, never).await.keys, 0);
    assert_eq!(left(&cx).await.len(), 3, "the messages themselves stay");
}

pub(crate) async fn only_of_its_own_project(cx: Fixture) {
    let id = one_in(&cx, State::Succeeded).await;
    let theirs = Purge { project: "invoices".into(), max_rows: 0, ..purge_of(&cx, &each_for(Some(0))) };
    assert!(deleted(&purge(&cx, theirs).await).is_empty());
    assert_eq!(left(&cx).await, BTreeSet::from([id]));
}

pub(crate) async fn what_was_put_back_is_not_purged(cx: Fixture) {
    let id = one_in(&cx, State::Failed).await;
    finished_ago(&cx, id, 1_000_000).await;
    cx.store().await.retry(&cx.project, vec![id]).await.unwrap();
    let purged = purge(&cx, Purge { max_rows: 0, ..purge_of(&cx, &each_for(Some(0))) }).await;
    assert!(deleted(&purged).is_empty());
    assert_eq!(cx.state(id).await, State::Pending);
}

async fn sweep(cx: &Fixture, project: &str, after: Uuid, limit: u32) -> Swept {
    cx.store().await.sweep(Sweep { project: project.into(), after, limit }).await.unwrap()
}

/// Sweeps everything in small pieces; returns how many entries were deleted, and how many pieces there were.
async fn swept(cx: &Fixture, project: &str) -> (u64, u64) {
    let (mut after, mut gone, mut pieces) = (Uuid::nil(), 0, 0);
    loop {
        let swept = sweep(cx, project, after, 2).await;
        assert!(swept.attempts <= 2, "{swept:?}");
        (gone, pieces) = (gone + swept.attempts, pieces + 1);
        let Some(next) = swept.after else { return (gone, pieces) };
        assert!(next > after, "{next} comes after {after}");
        after = next;
    }
}

pub(crate) async fn attempts_of_messages_that_somebody_deleted(cx: Fixture) {
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(one_in(&cx, State::Failed).await);
    }
    let entries = async || cx.raw().await.rows("SELECT message_id FROM attempt_log ORDER BY message_id").await;
    assert_eq!(entries().await.len(), 6);
    assert_eq!(swept(&cx, "orders").await.0, 0, "all are there");
    for id in [ids[1], ids[4], ids[5]] {
        assert_eq!(cx.sql(&format!("DELETE FROM resend_log WHERE id = '{id}'")).await, 1);
    }
    assert_eq!(swept(&cx, "invoices").await.0, 0, "they are another project's");
    let (gone, pieces) = swept(&cx, "orders").await;
    assert_eq!((gone, pieces), (3, 4), "three full pieces, and one that finds no more");
    let left: Vec<_> = entries().await.into_iter().map(|row| row[0].clone().unwrap()).collect();
    let stay: BTreeSet<_> = [ids[0], ids[2], ids[3]].iter().map(ToString::to_string).collect();
    assert_eq!(left.into_iter().collect::<BTreeSet<_>>(), stay);
    assert_eq!(swept(&cx, "orders").await.0, 0);

    // One that began recently may belong to a message that was inserted again.
    let (_, held) = cx.claimed("billing").await;
    assert_eq!(cx.complete(vec![Completion { started_at: cx.now().await, ..failed(held) }]).await, [true]);
    assert_eq!(cx.sql(&format!("DELETE FROM resend_log WHERE id = '{}'", held.id)).await, 1);
    assert_eq!(swept(&cx, "orders").await.0, 0);
    assert_eq!(entries().await.len(), 4);
}

pub(crate) async fn turns_of_sources_that_no_node_knows(cx: Fixture) {
    for source in ["billing", "held", "made-up", "made-up-too"] {
        assert!(cx.claim_ids(source).await.is_empty());
    }
    cx.beat("node-1", &["billing", "idle"], LONG).await;
    let turns = async || {
        let rows = cx.raw().await.rows("SELECT source FROM redrive_turn ORDER BY source").await;
        rows.into_iter().map(|row| row[0].clone().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(sweep(&cx, "invoices", Uuid::nil(), 100).await.turns, 0, "they are another project's");
    let mut claim = cx.test.raw().await;
    claim.run("BEGIN").await;
    claim.rows("SELECT source FROM redrive_turn WHERE project = 'orders' AND source = 'held' FOR UPDATE").await;
    let began = std::time::Instant::now();
    assert_eq!(sweep(&cx, "orders", Uuid::nil(), 100).await.turns, 2);
    assert!(began.elapsed() < Duration::from_secs(3), "what a claim has is not waited for: {:?}", began.elapsed());
    assert_eq!(turns().await, ["billing", "held"]);
    claim.run("ROLLBACK").await;
    assert_eq!(sweep(&cx, "orders", Uuid::nil(), 100).await.turns, 1);
    assert_eq!(turns().await, ["billing"]);
    let id = cx.put("made-up", 1).await[0];
    assert_eq!(cx.claim_ids("made-up").await, [id], "whoever claims makes it anew");
}
