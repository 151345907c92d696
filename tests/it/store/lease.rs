//! Leases: prolonged, handed back, run out, taken over, and never held by two.

use std::collections::HashSet;
use std::time::Duration;

use redrive::message::{AttemptOutcome, Entry, Key, State};
use redrive::retry;
use redrive::store::{self, Claim, Completion, Config, Due, Error, Held, Insert, Lapsed, Lease, NewMessage, TakeOver};
use redrive::units::Span;

use super::fixture::{Fixture, LONG, NONE, SHORT, failed, message, refused, sorted, succeeded};
use crate::support::assert_near;

async fn take_over(cx: &Fixture, take: TakeOver) -> Vec<Lapsed> {
    cx.store().await.take_over(take).await.unwrap()
}

pub(crate) async fn renewed_it_holds_longer(cx: Fixture) {
    let (kept, left) = (cx.put("billing", 1).await[0], cx.put("refund", 1).await[0]);
    let (_, held) = cx.take(kept, "billing", SHORT).await;
    cx.take(left, "refund", SHORT).await;
    assert_eq!(cx.store().await.renew(vec![held], LONG).await.unwrap(), NONE);
    cx.lapse("refund").await;
    assert!(!cx.outlook(&["billing"]).await.lapsed, "the other lease, of the same length, has run out; this one was prolonged");
    let taken = take_over(&cx, cx.take_over_of(&["billing", "refund"])).await;
    assert_eq!(taken.iter().map(|row| row.id).collect::<Vec<_>>(), [left]);
    assert_eq!(cx.complete(vec![succeeded(held)]).await, [true]);
}

pub(crate) async fn renewing_says_what_is_lost(cx: Fixture) {
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(cx.claimed("billing").await.1);
    }
    let store = cx.store().await;
    cx.complete(vec![succeeded(all[1])]).await;
    store.release(vec![all[2]]).await.unwrap();
    let foreign = Held { token: all[3].token + 1000, ..all[3] };
    let unknown = Held { id: uuid::Uuid::now_v7(), token: 1 };
    let lost = store.renew(vec![all[0], all[1], all[2], foreign, unknown], LONG).await.unwrap();
    assert_eq!(sorted(lost), sorted(vec![all[1].id, all[2].id, foreign.id, unknown.id]));
    // One whose lease has run out and that nobody took is still ours.
    let id = cx.put("refund", 1).await[0];
    let (_, held) = cx.take(id, "refund", SHORT).await;
    cx.lapse("refund").await;
    assert_eq!(store.renew(vec![held], LONG).await.unwrap(), NONE);
    assert!(!cx.outlook(&["refund"]).await.lapsed);
    // Many at once.
    cx.put("many", 1000).await;
    let claim = cx.claim_of("many");
    let token = claim.lease.token;
    let mut held: Vec<_> = super::fixture::ids(&cx.claim(claim).await.rows).into_iter().map(|id| Held { id, token }).collect();
    held[500].token += 1000;
    assert_eq!(store.renew(held.clone(), LONG).await.unwrap(), [held[500].id]);
}

pub(crate) async fn released_it_is_as_if_never_claimed(cx: Fixture) {
    let (row, held) = cx.claimed("billing").await;
    let store = cx.store().await;
    let foreign = Held { token: held.token + 1000, ..held };
    assert_eq!(store.release(vec![foreign]).await.unwrap(), 0);
    assert_eq!(cx.state(held.id).await, State::Sending);
    assert_eq!(store.release(vec![held, foreign]).await.unwrap(), 1);
    let shown = cx.get(held.id).await;
    assert_eq!((shown.state, shown.attempts, shown.retries), (State::Pending, 0, 0));
    assert_eq!(shown.due_at, Some(row.due_at), "it keeps its place");
    assert_eq!(store.release(vec![held]).await.unwrap(), 0, "handed back once");
    let (row, held) = cx.take(held.id, "billing", LONG).await;
    assert_eq!(row.message.attempt, 1, "the number is free again");
    cx.complete(vec![refused(held, Duration::ZERO)]).await;
    // The same for one that has been tried before.
    let (row, held) = cx.take(held.id, "billing", LONG).await;
    assert_eq!(row.message.attempt, 2);
    assert_eq!(store.release(vec![held]).await.unwrap(), 1);
    let shown = cx.get(held.id).await;
    assert_eq!((shown.state, shown.attempts, shown.retries), (State::Pending, 1, 1));
    assert_eq!(cx.take(held.id, "billing", LONG).await.0.message.attempt, 2);
}

pub(crate) async fn taken_over_only_after_it_ran_out(cx: Fixture) {
    let retry = retry::Config { max_retries: Some(7), ..retry::Config::default() };
    let new = NewMessage { retry: retry.clone().overrides(), expires_after: Some(LONG), ..message("billing") };
    let id = new.id;
    cx.insert(vec![new]).await;
    let (_, held) = cx.take(id, "billing", LONG).await;
    cx.complete(vec![Completion { expires_at: cx.get(id).await.expires_at, ..refused(held, Duration::ZERO) }]).await;
    let (row, held) = cx.take(id, "billing", SHORT).await;
    let (_, holds) = cx.claimed("billing").await;
    let began = cx.now().await;
    cx.lapse("billing").await;
    assert!(take_over(&cx, cx.take_over_of(&["refund"])).await.is_empty(), "not ours to send");
    let take = TakeOver { lease: Lease { node: "node-2".into(), ..cx.lease(LONG) }, ..cx.take_over_of(&["refund", "billing"]) };
    let token = take.lease.token;
    let mut lost = take_over(&cx, take).await;
    assert_eq!(lost.len(), 1, "the other lease holds");
    assert_eq!(cx.complete(vec![succeeded(holds)]).await, [true]);
    let lapsed = lost.remove(0);
    assert_eq!((lapsed.id, &*lapsed.source, lapsed.epoch, lapsed.attempt, &*lapsed.node), (id, "billing", 1, 2, "node-1"));
    assert_near(lapsed.started_at, began, Duration::from_secs(10), "started");
    assert_eq!((lapsed.standing.retries, lapsed.standing.logged), (1, 1));
    assert_eq!(lapsed.standing.last_entry, Some(Entry { number: 1, outcome: AttemptOutcome::Refused }));
    assert_eq!(lapsed.standing.expires_at, row.standing.expires_at);
    assert_eq!((lapsed.retry.unwrap().max_retries, lapsed.created_at), (retry.max_retries, row.created_at));
    assert_eq!(lapsed.due_at, row.due_at);

    let shown = cx.get(id).await;
    assert_eq!((shown.state, shown.attempts), (State::Sending, 2), "no attempt begins");
    assert!(!cx.outlook(&["billing"]).await.lapsed);
    assert!(take_over(&cx, cx.take_over_of(&["billing"])).await.is_empty());
    let outcome = Completion { attempt: 2, retries: 1, outcome: AttemptOutcome::Lost, ..refused(Held { id, token }, Duration::ZERO) };
    assert_eq!(cx.complete(vec![succeeded(held)]).await, [false], "the node that lost it");
    assert_eq!(cx.complete(vec![outcome]).await, [true]);
    assert_eq!(cx.take(id, "billing", LONG).await.0.message.attempt, 3);
}

pub(crate) async fn of_two_takers_one_wins(cx: Fixture) {
    const ROWS: usize = 200;
    cx.put("billing", ROWS).await;
    let mut claim = cx.claim_of("billing");
    claim.lease.ttl = SHORT;
    cx.claim(claim).await;
    cx.lapse("billing").await;
    let stores = [cx.store().await.clone(), cx.test.prepared().await];
    let takers = (0..6).map(|taker| {
        let store = stores[taker % 2].clone();
        let wishes: Vec<_> = (0..40).map(|_| TakeOver { limit: 20, ..cx.take_over_of(&["billing"]) }).collect();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            for wish in wishes {
                match store.take_over(wish).await {
                    Ok(lapsed) => taken.extend(lapsed.into_iter().map(|row| row.id)),
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
            taken
        })
    });
    let mut taken: Vec<_> = futures::future::join_all(takers).await.into_iter().flat_map(Result::unwrap).collect();
    taken.extend(take_over(&cx, cx.take_over_of(&["billing"])).await.into_iter().map(|row| row.id));
    assert_eq!(taken.len(), ROWS);
    assert_eq!(taken.into_iter().collect::<HashSet<_>>().len(), ROWS);
}

pub(crate) async fn the_old_token_is_fenced_off(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    let (_, old) = cx.take(id, "billing", SHORT).await;
    cx.lapse("billing").await;
    let take = cx.take_over_of(&["billing"]);
    let new = Held { id, token: take.lease.token };
    assert_eq!(take_over(&cx, take).await.len(), 1);
    let before = cx.everything_about(id).await;
    for completion in [succeeded(old), refused(old, LONG), failed(old), Completion { delete: true, ..succeeded(old) }] {
        assert_eq!(cx.complete(vec![completion]).await, [false]);
    }
    assert_eq!(cx.store().await.renew(vec![old], LONG).await.unwrap(), [id]);
    assert_eq!(cx.store().await.release(vec![old]).await.unwrap(), 0);
    assert_eq!(cx.everything_about(id).await, before);
    assert_eq!(cx.complete(vec![succeeded(new)]).await, [true]);
}

pub(crate) async fn two_tokens_of_one_message_do_not_hide_each_other(cx: Fixture) {
    // As on a node that lost a lease, took it again, and has the first send still running.
    for old_first in [true, false] {
        let id = cx.put("billing", 1).await[0];
        let (_, old) = cx.take(id, "billing", SHORT).await;
        cx.lapse("billing").await;
        let take = TakeOver { lease: cx.lease(Duration::from_millis(400)), ..cx.take_over_of(&["billing"]) };
        let new = Held { id, token: take.lease.token };
        assert_eq!(take_over(&cx, take).await.len(), 1);
        let both = if old_first { vec![old, new] } else { vec![new, old] };
        let store = cx.store().await;
        store.renew(both.clone(), LONG).await.unwrap();
        assert_eq!(cx.complete(vec![succeeded(old)]).await, [false]);
        let other = cx.put("refund", 1).await[0];
        let (_, other) = cx.take(other, "refund", Duration::from_millis(450)).await;
        cx.lapse("refund").await;
        assert!(!cx.outlook(&["billing"]).await.lapsed, "the lease that is ours was prolonged");
        assert_eq!(cx.complete(vec![succeeded(other)]).await, [true]);
        assert_eq!(store.release(both.clone()).await.unwrap(), 1);
        let answers = [refused(both[0], LONG), refused(both[1], LONG)];
        assert_eq!(cx.complete(answers.to_vec()).await, [false, false]);
        assert_eq!(store.cancel(&cx.project, vec![id]).await.unwrap().len(), 1);
        cx.put("crm", 1).await;
        let claim = cx.claim_of("crm");
        let new = Held { id: super::fixture::ids(&cx.claim(claim.clone()).await.rows)[0], token: claim.lease.token };
        let old = Held { token: new.token + 1000, ..new };
        let both = if old_first { vec![failed(old), succeeded(new)] } else { vec![succeeded(new), failed(old)] };
        assert_eq!(cx.complete(both).await, [!old_first, old_first], "of one batch too");
        assert_eq!(cx.state(new.id).await, State::Succeeded);
    }
}

pub(crate) async fn a_leased_insert_lapses_like_a_claim(cx: Fixture) {
    let leased = NewMessage { leased: true, due: Due::Now, ..message("billing") };
    let id = leased.id;
    let insert = Insert { lease: cx.lease(SHORT), ..cx.insertion(vec![leased]) };
    let old = Held { id, token: insert.lease.token };
    cx.store().await.insert(insert).await.unwrap();
    cx.lapse("billing").await;
    let lapsed = take_over(&cx, cx.take_over_of(&["billing"])).await.remove(0);
    assert_eq!((lapsed.id, lapsed.epoch, lapsed.attempt, &*lapsed.node), (id, 1, 1, "node-1"));
    assert_eq!(cx.complete(vec![succeeded(old)]).await, [false]);
}

pub(crate) async fn at_most_the_limit_is_taken_over(cx: Fixture) {
    cx.put("billing", 5).await;
    let mut claim = cx.claim_of("billing");
    claim.lease.ttl = SHORT;
    cx.claim(claim).await;
    cx.lapse("billing").await;
    let mut taken = HashSet::new();
    for expected in [2, 2, 1, 0] {
        let lapsed = take_over(&cx, TakeOver { limit: 2, ..cx.take_over_of(&["billing"]) }).await;
        assert_eq!(lapsed.len(), expected);
        taken.extend(lapsed.into_iter().map(|row| row.id));
    }
    assert_eq!(taken.len(), 5);
}

pub(crate) async fn what_is_excepted_is_not_taken_over(cx: Fixture) {
    let batch: Vec<_> = (0..3).map(|_| NewMessage { leased: true, due: Due::Now, ..message("billing") }).collect();
    let put: Vec<_> = batch.iter().map(|message| message.id).collect();
    cx.store().await.insert(Insert { lease: cx.lease(SHORT), ..cx.insertion(batch) }).await.unwrap();
    cx.lapse("billing").await;
    let taken = async |except| {
        let lapsed = take_over(&cx, TakeOver { except, ..cx.take_over_of(&["billing"]) }).await;
        sorted(lapsed.iter().map(|row| row.id).collect())
    };
    assert_eq!(taken(vec![put[1], uuid::Uuid::now_v7()]).await, sorted(vec![put[0], put[2]]));
    assert!(cx.outlook(&["billing"]).await.lapsed, "it is not forgotten");
    assert_eq!(taken(vec![]).await, [put[1]]);
}

/// On SQLite, where rows can be made up without a server's help.
pub(crate) async fn what_is_refused_is_not_gone_through_anew_each_time(cx: Fixture) {
    let id = uuid::Uuid::now_v7();
    let bad = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        INSERT INTO resend_log (source, msg_key, state, lease_until) SELECT 'billing', 'bad', 'sending', i FROM n";
    cx.sql(bad).await;
    // The last of them to lapse.
    cx.sql(&format!("INSERT INTO resend_log (id, source, state, lease_until) VALUES ('{id}', 'billing', 'sending', 2000)")).await;
    cx.sql("CREATE TRIGGER unmoved BEFORE UPDATE ON resend_log WHEN NEW.msg_key = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END").await;
    // No time for all of them at once.
    let config = Config { timeout: Span::millis(200), ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    store.prepare().await.unwrap();
    for _ in 0..1000 {
        match store.take_over(TakeOver { limit: 8, ..cx.take_over_of(&["billing"]) }).await {
            Ok(taken) => {
                assert_eq!(taken.iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
                return;
            }
            Err(error) => assert!(matches!(error, Error::Refused(_)) || error.is_transient(), "{error:?}"),
        }
    }
    panic!("its turn never comes");
}

pub(crate) async fn one_that_is_refused_keeps_no_other_from_being_taken_over(cx: Fixture) {
    let keyed = |key: &str| NewMessage { key: Some(Key::Text(key.to_owned())), ..message("billing") };
    let some = || ["a", "bad", "b", "c"].map(keyed);
    // Held by their own rows, and by a claim.
    let (by_rows, by_claim) = (some().map(|new| NewMessage { leased: true, ..new }), some());
    let good: Vec<_> = [&by_rows, &by_claim].iter().flat_map(|four| [four[0].id, four[2].id, four[3].id]).collect();
    let insert = Insert { lease: cx.lease(SHORT), ..cx.insertion(by_rows.to_vec()) };
    let token = insert.lease.token;
    cx.store().await.insert(insert).await.unwrap();
    cx.insert(by_claim.to_vec()).await;
    let mut claim = cx.claim_of("billing");
    claim.lease.ttl = SHORT;
    assert_eq!(cx.claim(claim).await.rows.len(), 4);
    // As the table's owner may have it.
    let (refuse, allow) = if cx.backend.is_sqlite() {
        let moved = format!("NEW.msg_key = 'bad' AND NEW.lease_token NOT IN (0, {token})");
        let refuse = format!("CREATE TRIGGER unmoved BEFORE UPDATE ON resend_log WHEN {moved} BEGIN SELECT RAISE(ABORT, 'no'); END");
        (refuse, "DROP TRIGGER unmoved")
    } else {
        let unmoved = format!("msg_key <> 'bad' OR lease_token IN (0, {token})");
        (format!("ALTER TABLE resend_log ADD CONSTRAINT unmoved CHECK ({unmoved})"), "ALTER TABLE resend_log DROP CONSTRAINT unmoved")
    };
    cx.sql(&refuse).await;
    tokio::time::sleep(SHORT * 2).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        let some = take_over(&cx, TakeOver { limit: 2, ..cx.take_over_of(&["billing"]) }).await;
        assert_eq!(some.len(), 2);
        taken.extend(some.into_iter().map(|row| row.id));
    }
    assert_eq!(sorted(taken), sorted(good));
    let refused = cx.store().await.take_over(cx.take_over_of(&["billing"])).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "what is left is told of: {refused:?}");
    cx.sql(allow).await;
    assert_eq!(take_over(&cx, cx.take_over_of(&["billing"])).await.len(), 2);
}

pub(crate) async fn one_that_never_expires_does_not_once_it_is_lost(cx: Fixture) {
    let never = match () {
        () if cx.backend.is_postgres() => "'infinity'",
        () if cx.backend.is_mysql() => "'9999-12-31 23:59:59'",
        () => "9223372036854775807",
    };
    let id = cx.put("billing", 1).await[0];
    cx.sql(&format!("UPDATE resend_log SET expires_at = {never}")).await;
    cx.take(id, "billing", SHORT).await;
    cx.lapse("billing").await;
    let lost = take_over(&cx, cx.take_over_of(&["billing"])).await;
    assert_eq!(lost[0].standing.expires_at.unwrap().format("%Y").to_string(), "9999");
}

/// What is too much at once is asked for in smaller portions.
pub(crate) async fn no_more_is_written_out_than_befits_what_is_taken(cx: Fixture) {
    cx.put("billing", 40).await;
    cx.claim(Claim { lease: cx.lease(SHORT), ..cx.claim_of("billing") }).await;
    cx.lapse("billing").await;
    let mut taken = take_over(&cx, TakeOver { limit: 1, ..cx.take_over_of(&["billing"]) }).await;
    let of = async |state: &str| cx.raw().await.number(&format!("SELECT count(*) FROM resend_log WHERE state = '{state}'")).await;
    assert_eq!((taken.len(), of("sending").await, of("pending").await), (1, 8, 32));
    while taken.len() < 40 {
        let more = take_over(&cx, TakeOver { limit: 10, ..cx.take_over_of(&["billing"]) }).await;
        assert!(!more.is_empty());
        taken.extend(more);
    }
    assert_eq!(taken.into_iter().map(|row| row.id).collect::<HashSet<_>>().len(), 40);
}
