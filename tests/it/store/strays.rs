//! Strays: rows that nobody can claim.

use std::collections::HashMap;
use std::time::Duration;

use redrive::message::judge::Log;
use redrive::message::{AttemptOutcome, Entry, State};
use redrive::store::{Completion, Due, Error, Heartbeat, Held, Lease, NewMessage, Stray, Strays};
use uuid::Uuid;

use super::fixture::{Fixture, LONG, SHORT, failed, message, refused, sorted};
use crate::support::Backend;

pub(crate) fn strays_of(cx: &Fixture, sources: &[&str]) -> Strays {
    let sources = sources.iter().map(|&source| source.into()).collect();
    Strays { project: cx.project.clone(), sources, min_age: Duration::ZERO, limit: 100, lease: cx.lease(LONG) }
}

pub(crate) async fn take(cx: &Fixture, strays: Strays) -> HashMap<Uuid, Stray> {
    cx.store().await.take_strays(strays).await.unwrap().strays.into_iter().map(|stray| (stray.id, stray)).collect()
}

pub(crate) async fn an_unknown_source_is_taken_once_old_enough(cx: Fixture) {
    let id = cx.put("nowhere", 1).await[0];
    assert!(take(&cx, Strays { min_age: LONG, ..strays_of(&cx, &["billing"]) }).await.is_empty(), "too young");
    assert!(take(&cx, strays_of(&cx, &["billing", "nowhere"])).await.is_empty(), "the node's configuration names it");
    let strays = strays_of(&cx, &["billing"]);
    let held = Held { id, token: strays.lease.token };
    let taken = take(&cx, strays).await;
    let stray = &taken[&id];
    assert_eq!((stray.source.as_deref(), stray.code, stray.epoch, stray.attempt), (Some("nowhere"), "unknown_source", 1, 0));
    let shown = cx.get(id).await;
    assert_eq!((shown.state, shown.attempts), (State::Sending, 0), "no attempt begins");
    assert!(take(&cx, strays_of(&cx, &["billing"])).await.is_empty(), "it is taken");
    let failure = Completion { begun: false, attempt: 0, ..failed(held) };
    assert_eq!(cx.complete(vec![failure]).await, [true]);
    let shown = cx.get(id).await;
    assert_eq!((shown.state, shown.attempts), (State::Failed, 0));
}

pub(crate) async fn what_a_node_knew_within_the_last_day_is_left(cx: Fixture) {
    let store = cx.store().await;
    let (served, accepted) = (cx.put("refund", 1).await[0], cx.put("later", 1).await[0]);
    let held = cx.put("crm", 1).await[0];
    cx.take(held, "crm", SHORT).await;
    cx.lapse("crm").await;
    cx.beat("node-2", &["refund", "crm"], LONG).await;
    let sources = vec!["later".into()];
    let acceptor = Heartbeat { project: cx.project.clone(), node: "node-3".into(), sources, sends: false, ttl: LONG };
    store.heartbeat(acceptor).await.unwrap();
    assert!(take(&cx, strays_of(&cx, &["billing"])).await.is_empty());
    // A restarted node finds its messages as it left them.
    store.sign_off(&cx.project, "node-2").await.unwrap();
    store.sign_off(&cx.project, "node-3").await.unwrap();
    assert!(take(&cx, strays_of(&cx, &["billing"])).await.is_empty());
    // What a later release may write.
    cx.sql(
        "INSERT INTO redrive_node (project, node, sources, seen_at, expires_at)
        SELECT project, 'node-4', '{\"serves\": [\"refund\"]}', seen_at, expires_at FROM redrive_node WHERE node = 'node-3'",
    )
    .await;
    let long_ago = if cx.backend == Backend::Sqlite { "0" } else { "'2020-01-01 00:00:00'" };
    cx.sql(&format!("UPDATE redrive_node SET expires_at = {long_ago} WHERE node <> 'node-4'")).await;
    assert!(take(&cx, strays_of(&cx, &["billing"])).await.is_empty(), "who knows what that node knows");
    cx.sql(&format!("UPDATE redrive_node SET expires_at = {long_ago}")).await;
    let taken = take(&cx, strays_of(&cx, &["billing"])).await;
    assert_eq!(sorted(taken.keys().copied().collect()), sorted(vec![served, accepted, held]));
    assert!(taken.values().all(|stray| stray.code == "unknown_source"));
}

pub(crate) async fn what_a_dead_node_was_sending_for_a_source_of_nobody(cx: Fixture) {
    let id = cx.put("gone", 1).await[0];
    cx.take(id, "gone", SHORT).await;
    cx.lapse("gone").await;
    assert!(take(&cx, strays_of(&cx, &["billing", "gone"])).await.is_empty(), "it is taken over by whoever serves it");
    let strays = strays_of(&cx, &["billing"]);
    let held = Held { id, token: strays.lease.token };
    let taken = take(&cx, strays).await;
    let stray = &taken[&id];
    assert_eq!((stray.code, stray.attempt, stray.lost.is_some()), ("unknown_source", 1, true));
    assert!(take(&cx, strays_of(&cx, &["billing"])).await.is_empty(), "it is taken");
    assert_eq!(cx.complete(vec![failed(held)]).await, [true]);
    // One that was taken by a node that died before it recorded the outcome.
    let id = cx.put("gone", 1).await[0];
    let strays = Strays { lease: cx.lease(SHORT), ..strays_of(&cx, &["billing"]) };
    assert!(take(&cx, strays).await.contains_key(&id));
    cx.lapse("gone").await;
    let taken = take(&cx, strays_of(&cx, &["billing"])).await;
    assert_eq!((taken[&id].attempt, taken[&id].lost), (0, None), "no attempt was begun");
}

pub(crate) async fn who_lost_it_and_what_is_on_record_is_told(cx: Fixture) {
    let (_, held) = cx.claimed("gone").await;
    assert_eq!(cx.complete(vec![refused(held, Duration::ZERO)]).await, [true]);
    cx.take(held.id, "gone", SHORT).await;
    for node in ["node-2", "node-3"] {
        cx.lapse("gone").await;
        let strays = Strays { lease: Lease { node: node.into(), ..cx.lease(SHORT) }, ..strays_of(&cx, &["billing"]) };
        let taken = take(&cx, strays).await;
        let stray = &taken[&held.id];
        assert_eq!((&*stray.node, stray.attempt, stray.lost.is_some()), ("node-1", 2, true), "whoever took it since, and died too");
        assert_eq!((stray.standing.retries, stray.standing.logged), (1, 1));
        assert_eq!(stray.standing.last_entry, Some(Entry { number: 1, outcome: AttemptOutcome::Refused }));
    }
}

pub(crate) async fn one_that_is_refused_keeps_no_other_kind_from_being_taken(cx: Fixture) {
    cx.sql("INSERT INTO resend_log (topic, msg_key, payload) VALUES ('invoices', 'bad', 'hello')").await;
    let id = cx.put("nowhere", 1).await[0];
    // As the table's owner may have set it up.
    let refuse = if cx.backend.is_sqlite() {
        "CREATE TRIGGER unmoved BEFORE UPDATE ON resend_log WHEN NEW.msg_key = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END"
    } else {
        "ALTER TABLE resend_log ADD CONSTRAINT unmoved CHECK (msg_key <> 'bad' OR lease_token = 0)"
    };
    cx.sql(refuse).await;
    assert_eq!(take(&cx, strays_of(&cx, &["billing"])).await.into_keys().collect::<Vec<_>>(), [id]);
    let refused = cx.store().await.take_strays(strays_of(&cx, &["billing"])).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "what is left is told of: {refused:?}");
}

pub(crate) async fn without_a_source(cx: Fixture) {
    cx.sql("INSERT INTO resend_log (topic, payload) VALUES ('invoices', 'hello')").await;
    let id = cx.all().await[0].id;
    assert_eq!(cx.get(id).await.source, "");
    let taken = take(&cx, strays_of(&cx, &["billing"])).await;
    assert_eq!((taken[&id].code, &taken[&id].source), ("no_source", &None));
}

pub(crate) async fn at_most_the_limit(cx: Fixture) {
    cx.put("nowhere", 5).await;
    for expected in [(2, true), (2, true), (1, false), (0, false)] {
        let taken = cx.store().await.take_strays(Strays { limit: 2, ..strays_of(&cx, &["billing"]) }).await.unwrap();
        assert_eq!((taken.strays.len(), taken.more), expected);
    }
}

pub(crate) async fn of_however_many_sources_all_are_taken_in_one_go(cx: Fixture) {
    const MADE_UP: usize = 450;
    cx.insert((0..MADE_UP).map(|number| message(&format!("made-up-{number}"))).collect()).await;
    let mut gone = 0;
    loop {
        let strays = Strays { limit: 1000, ..strays_of(&cx, &["billing"]) };
        let token = strays.lease.token;
        let taken = cx.store().await.take_strays(strays).await.unwrap();
        gone += taken.strays.len();
        let failure = |stray: &Stray| Completion { begun: false, attempt: 0, log: Log::Own, delete: true, ..failed(Held { id: stray.id, token }) };
        cx.complete(taken.strays.iter().map(failure).collect()).await;
        if !taken.more {
            break;
        }
    }
    assert_eq!(gone, MADE_UP);
}

pub(crate) async fn what_lacks_a_project_or_a_due_time_is_given_it_up_to_the_limit(cx: Fixture) {
    for column in ["project", "due_at"] {
        for _ in 0..5 {
            cx.sql(&format!("INSERT INTO resend_log (source, {column}, topic, payload) VALUES ('billing', NULL, 'invoices', 'hello')")).await;
        }
        for expected in [(2, true), (2, true), (1, false), (0, false)] {
            let taken = cx.store().await.take_strays(Strays { limit: 2, ..strays_of(&cx, &["billing"]) }).await.unwrap();
            assert!(taken.strays.is_empty(), "{column}");
            assert_eq!((cx.claim_ids("billing").await.len(), taken.more), expected, "{column}");
        }
    }
}

pub(crate) async fn what_is_served_comes_before_what_nobody_serves(cx: Fixture) {
    cx.sql("INSERT INTO resend_log (topic, payload) VALUES ('invoices', 'hello')").await;
    cx.put("nobody", 3).await;
    cx.put("nowhere", 3).await;
    cx.beat("node-2", &["refund"], LONG).await;
    let never = match cx.backend {
        Backend::Sqlite => "never",
        Backend::Mariadb | Backend::Mysql => "9999-12-31 23:59:59",
        _ => "infinity",
    };
    let (mut undated, mut timeless) = (Vec::new(), Vec::new());
    for source in ["billing", "refund"] {
        undated.push((source, cx.put(source, 1).await[0]));
        cx.sql(&format!("UPDATE resend_log SET due_at = NULL WHERE source = '{source}'")).await;
        timeless.push(cx.put(source, 1).await[0]);
        cx.sql(&format!("UPDATE resend_log SET due_at = '{never}' WHERE source = '{source}' AND due_at IS NOT NULL")).await;
    }
    let taken = take(&cx, Strays { limit: 2, ..strays_of(&cx, &["billing"]) }).await;
    assert_eq!(sorted(taken.into_keys().collect()), sorted(timeless));
    for (source, id) in undated {
        assert_eq!(cx.claim_ids(source).await, [id]);
    }
}

pub(crate) async fn neighbours_are_left_alone(cx: Fixture) {
    let later = NewMessage { due: Due::After(LONG), ..message("nowhere") };
    let far = later.id;
    cx.insert(vec![later]).await;
    let ours = cx.put("billing", 2).await;
    let (_, held) = cx.claimed("crm").await;
    let done = cx.put("gone", 1).await[0];
    cx.store().await.cancel(&cx.project, vec![done]).await.unwrap();
    let taken = take(&cx, strays_of(&cx, &["billing"])).await;
    for id in ours.iter().chain([&held.id, &done]) {
        assert!(!taken.contains_key(id));
    }
    // Whether an unknown source is reported before or when the message is due is up to the store; the message is not lost.
    assert!(taken.contains_key(&far) || cx.state(far).await == State::Pending);
    assert_eq!(cx.state(held.id).await, State::Sending);
    assert_eq!(cx.state(done).await, State::Cancelled);
    assert_eq!(cx.claim_ids("billing").await.len(), 2);
}
