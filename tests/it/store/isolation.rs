//! A row is visible only within its project.

use std::time::Duration;

use bytes::Bytes;
use redrive::message::State;
use redrive::store::{Changed, Claim, Heartbeat, List, Purge, Queues, Served, Strays, TakeOver, Upcoming};

use super::fixture::{Fixture, LONG, NONE, SHORT, failed};

pub(crate) async fn every_verb_keeps_to_its_project(cx: Fixture) {
    let store = cx.store().await;
    let theirs: std::sync::Arc<str> = "invoices".into();
    let (_, held) = cx.claimed("billing").await;
    cx.complete(vec![failed(held)]).await;
    let failed = held.id;
    let pending = cx.put("billing", 1).await[0];
    let lapsed = cx.put("refund", 1).await[0];
    cx.take(lapsed, "refund", SHORT).await;
    cx.lapse("refund").await;
    let all = [failed, pending, lapsed];
    let mut before = Vec::new();
    for id in all {
        before.push(cx.everything_about(id).await);
    }

    let sources: Vec<std::sync::Arc<str>> = vec!["billing".into(), "refund".into()];
    let outlook = store
        .upcoming(Upcoming { project: theirs.clone(), queues: sources.iter().cloned().map(Queues::all).collect(), horizon: LONG })
        .await
        .unwrap();
    assert!(outlook.due.is_empty() && !outlook.lapsed);
    assert!(cx.claim(Claim { project: theirs.clone(), ..cx.claim_of("billing") }).await.rows.is_empty());
    let take = TakeOver { project: theirs.clone(), ..cx.take_over_of(&["billing", "refund"]) };
    assert!(store.take_over(take).await.unwrap().is_empty());
    let strays = Strays { project: theirs.clone(), sources: vec!["x".into()], min_age: Duration::ZERO, limit: 100, lease: cx.lease(LONG) };
    assert!(store.take_strays(strays).await.unwrap().strays.is_empty());
    assert!(store.counts(&theirs).await.unwrap().is_empty());
    assert!(store.list(List { project: theirs.to_string(), limit: 100, ..List::default() }).await.unwrap().items.is_empty());
    for id in all {
        assert!(store.get(&theirs, id, true).await.unwrap().is_none());
        assert!(store.attempts(&theirs, id).await.unwrap().is_none());
        assert_eq!(store.replace_payload(&theirs, id, Bytes::from_static(b"theirs")).await.unwrap(), Changed::NotFound);
    }
    assert_eq!(store.retry(&theirs, all.to_vec()).await.unwrap(), [Changed::NotFound; 3]);
    assert_eq!(store.cancel(&theirs, all.to_vec()).await.unwrap(), [Changed::NotFound; 3]);
    let keep = State::FINISHED.iter().map(|state| (*state, Some(Duration::ZERO))).collect();
    store.purge(Purge { project: theirs.clone(), keep, max_rows: 0, surplus: None, batch: 1000 }).await.unwrap();

    // If one of their nodes serves a source of the same name, it serves none of ours.
    let own = Served { project: theirs.clone(), sources: sources.clone() };
    store.heartbeat(Heartbeat { project: theirs.clone(), node: "node-1".into(), sources, sends: true, ttl: LONG }).await.unwrap();
    assert!(store.unserved(own.clone(), Duration::ZERO, 10).await.unwrap().iter().any(|rows| rows.project == "orders" && rows.source == "billing"));
    cx.beat("node-1", &["billing"], LONG).await;
    store.sign_off(&theirs, "node-1").await.unwrap();
    assert!(!store.unserved(own.clone(), Duration::ZERO, 10).await.unwrap().iter().any(|rows| rows.project == "orders" && rows.source == "billing"));

    for (id, before) in all.into_iter().zip(before) {
        assert_eq!(cx.everything_about(id).await, before);
    }
    // Names are compared byte by byte: a project is not confused with another that the database considers equal.
    for near in ["Orders", "orders ", "order", "orders%"] {
        assert!(store.get(near, pending, true).await.unwrap().is_none(), "{near:?}");
        assert!(cx.claim(Claim { project: near.into(), ..cx.claim_of("billing") }).await.rows.is_empty(), "{near:?}");
    }
    for near in ["Billing", "billing ", "billin_"] {
        assert_eq!(cx.claim_ids(near).await, NONE, "{near:?}");
    }
}
