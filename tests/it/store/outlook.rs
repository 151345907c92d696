//! What is due next, who is alive, what is waiting.

use std::time::Duration;

use redrive::message::State;
use redrive::store::{Count, Due, Insert, NewMessage, NextDue, Queues, Sample, Served, Unserved, Upcoming};

use super::fixture::{Fixture, LONG, SHORT, message, refused, succeeded};
use crate::support::{assert_near, eventually};

pub(crate) async fn the_earliest_of_each_source_and_level(cx: Fixture) {
    let now = cx.now().await;
    assert!(cx.outlook(&["billing", "refund", "crm"]).await.due.is_empty());
    let at = |source, priority, seconds: i64| {
        let due = Due::At(now + chrono::TimeDelta::seconds(seconds));
        NewMessage { priority, due, ..message(source) }
    };
    let batch = vec![
        at("billing", 0, -5),
        at("billing", 0, -20),
        at("billing", 9, 600),
        at("billing", 9, 900),
        at("refund", 3, 5),
        at("refund", 3, 60),
        at("crm", 0, 1),
    ];
    cx.insert(batch).await;
    let mut due = cx.outlook(&["billing", "refund", "nothing"]).await.due;
    due.sort_by(|a, b| (&a.source, a.level).cmp(&(&b.source, b.level)));
    let expected = [("billing", 0, -20), ("billing", 9, 600), ("refund", 3, 5)];
    assert_eq!(due.len(), expected.len(), "{due:?}");
    for (next, (source, level, seconds)) in due.iter().zip(expected) {
        assert_eq!((&*next.source, next.level), (source, level));
        assert_near(next.at, now + chrono::TimeDelta::seconds(seconds), Duration::from_millis(2), next);
    }
    // A message that waits for its retry counts; one that is being sent, or is finished, does not.
    let id = cx.put("orders", 1).await[0];
    let (_, held) = cx.take(id, "orders", LONG).await;
    assert!(cx.outlook(&["orders"]).await.due.is_empty());
    cx.complete(vec![refused(held, Duration::ZERO)]).await;
    let due = cx.outlook(&["orders"]).await.due;
    assert_eq!(due, [NextDue { source: "orders".into(), level: 0, at: cx.get(id).await.due_at.unwrap() }]);
    let (_, held) = cx.take(id, "orders", LONG).await;
    cx.complete(vec![succeeded(held)]).await;
    assert!(cx.outlook(&["orders"]).await.due.is_empty());
}

pub(crate) async fn only_of_the_levels_asked_for(cx: Fixture) {
    let batch = [0, 3, 9].map(|priority| NewMessage { priority, ..message("billing") });
    cx.insert(batch.to_vec()).await;
    let queues = vec![Queues { source: "billing".into(), levels: 1 << 9 | 1 << 4 | 1 }];
    let outlook = cx.store().await.upcoming(Upcoming { project: cx.project.clone(), queues, horizon: LONG }).await.unwrap();
    let mut levels: Vec<_> = outlook.due.iter().map(|next| next.level).collect();
    levels.sort_unstable();
    assert_eq!(levels, [0, 9]);
}

pub(crate) async fn nothing_of_others(cx: Fixture) {
    cx.put("billing", 1).await;
    let theirs = Upcoming { project: "invoices".into(), queues: vec![Queues::all("billing".into())], horizon: LONG };
    let outlook = cx.store().await.upcoming(theirs).await.unwrap();
    assert!(outlook.due.is_empty() && !outlook.lapsed);
    let wall = chrono::Utc::now();
    assert_near(outlook.now, wall, Duration::from_secs(5), "one machine, one clock");
}

pub(crate) async fn a_lapsed_lease_is_told(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    cx.take(id, "billing", SHORT).await;
    cx.lapse("billing").await;
    assert!(!cx.outlook(&["refund"]).await.lapsed, "of these sources");
    let theirs = Upcoming { project: "invoices".into(), queues: vec![Queues::all("billing".into())], horizon: LONG };
    assert!(!cx.store().await.upcoming(theirs).await.unwrap().lapsed, "of this project");
}

pub(crate) async fn the_next_end_of_a_lease_is_told_beforehand(cx: Fixture) {
    let next = async |source| cx.outlook(&[source]).await.next_lapse;
    let (soon, sooner, tolerance) = (LONG / 2, LONG / 4, Duration::from_secs(3));
    let now = cx.now().await;
    // Held by their own rows, and by a sheet: the one that ends next is reported.
    let hold = async |ttl| {
        let insert = Insert { lease: cx.lease(ttl), ..cx.insertion(vec![NewMessage { leased: true, ..message("billing") }]) };
        cx.store().await.insert(insert).await.unwrap();
    };
    hold(LONG * 2).await;
    assert_eq!(next("billing").await, None, "behind the horizon");
    hold(soon).await;
    assert_near(next("billing").await.unwrap(), now + soon, tolerance, "of a row");
    let id = cx.put("billing", 1).await[0];
    cx.take(id, "billing", sooner).await;
    assert_near(next("billing").await.unwrap(), now + sooner, tolerance, "of a sheet");
    assert_eq!(next("refund").await, None, "of these sources");
    assert!(!cx.outlook(&["billing"]).await.lapsed);
    // A lease that has run out is not one that will.
    let id = cx.put("crm", 1).await[0];
    cx.take(id, "crm", SHORT).await;
    cx.lapse("crm").await;
    assert_eq!(next("crm").await, None);
}

fn nothing(cx: &Fixture) -> Served {
    Served { project: cx.project.clone(), sources: Vec::new() }
}

async fn unserved(cx: &Fixture, min_age: Duration, limit: u32) -> Vec<(String, String)> {
    names(cx.store().await.unserved(nothing(cx), min_age, limit).await.unwrap())
}

async fn told_to(cx: &Fixture, own: Served) -> Vec<(String, String)> {
    names(cx.store().await.unserved(own, Duration::ZERO, 10).await.unwrap())
}

fn names(told: Vec<Unserved>) -> Vec<(String, String)> {
    let mut told: Vec<_> = told.into_iter().map(|Unserved { project, source, .. }| (project, source)).collect();
    told.sort();
    told
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(project, source)| ((*project).to_owned(), (*source).to_owned())).collect()
}

pub(crate) async fn unserved_rows_are_told(cx: Fixture) {
    cx.put("billing", 3).await;
    cx.put("refund", 1).await;
    cx.sql("INSERT INTO resend_log (project, source, payload) VALUES ('invoices', 'billing', 'x')").await;
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, pairs(&[("invoices", "billing"), ("orders", "billing"), ("orders", "refund")]));
    assert_eq!(unserved(&cx, LONG, 10).await, [], "too young");
    assert_eq!(unserved(&cx, Duration::ZERO, 2).await.len(), 2);
    cx.beat("node-1", &["billing"], LONG).await;
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, pairs(&[("invoices", "billing"), ("orders", "refund")]), "a node serves its own project");
    let told = cx.store().await.unserved(nothing(&cx), Duration::ZERO, 10).await.unwrap();
    assert!(told.iter().all(|rows| rows.oldest < Duration::from_secs(30)), "{told:?}");
    // What the asking node serves is not reported, wherever in the order of names the others are.
    let own = |names: &[&str]| Served { sources: names.iter().map(|&name| name.into()).collect(), ..nothing(&cx) };
    assert_eq!(told_to(&cx, own(&["billing", "refund"])).await, pairs(&[("invoices", "billing")]));
    cx.sql("DELETE FROM resend_log WHERE project = 'invoices'").await;
    cx.store().await.sign_off(&cx.project, "node-1").await.unwrap();
    let (billing, refund) = (("orders", "billing"), ("orders", "refund"));
    for (names, told) in [
        (&["billing"][..], &[refund][..]),
        (&["refund"], &[billing]),
        (&["apples", "crm", "refund"], &[billing]),
        (&["crm"], &[billing, refund]),
        (&["refund", "billing"], &[]),
    ] {
        assert_eq!(told_to(&cx, own(names)).await, pairs(told), "{names:?}");
    }
}

pub(crate) async fn a_node_lives_as_long_as_it_beats(cx: Fixture) {
    cx.put("billing", 1).await;
    cx.put("refund", 1).await;
    let (both, refund) = (pairs(&[("orders", "billing"), ("orders", "refund")]), pairs(&[("orders", "refund")]));
    cx.beat("acceptor", &[], LONG).await;
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, both, "a node that only accepts serves nothing");
    cx.beat("node-1", &["billing", "refund"], LONG).await;
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, []);
    cx.beat("node-1", &["billing"], LONG).await;
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, refund, "the last beat counts");
    cx.store().await.sign_off(&cx.project, "node-1").await.unwrap();
    cx.store().await.sign_off(&cx.project, "node-1").await.unwrap();
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, both);
    cx.beat("node-1", &["billing"], SHORT).await;
    eventually(Duration::from_secs(5), async || (unserved(&cx, Duration::ZERO, 10).await == both).then_some(())).await;
}

pub(crate) async fn waiting_messages_are_counted(cx: Fixture) {
    let now = cx.now().await;
    let due = |due| NewMessage { due, ..message("billing") };
    cx.insert(vec![due(Due::At(now - Duration::from_secs(100))), due(Due::After(LONG)), due(Due::After(LONG))]).await;
    // However long ago it was due: it is not waiting, it is being sent.
    let sent = NewMessage { due: Due::At(now - Duration::from_secs(100)), ..message("held") };
    let id = sent.id;
    cx.insert(vec![sent]).await;
    cx.take(id, "held", LONG).await;
    // One waits for its retry, two are being sent: for the first time, and again.
    for (source, delay) in [("refund", LONG), ("refund", Duration::ZERO), ("orders", LONG), ("orders", LONG)] {
        let (_, held) = cx.claimed(source).await;
        cx.complete(vec![refused(held, delay)]).await;
        if delay.is_zero() {
            assert_eq!(cx.claim_ids(source).await.len(), 1);
        }
    }
    cx.claimed("refund").await;
    let (_, held) = cx.claimed("crm").await;
    cx.complete(vec![succeeded(held)]).await;
    cx.sql("INSERT INTO resend_log (project, source, payload) VALUES ('invoices', 'billing', 'x')").await;
    let mut counts = cx.store().await.counts(&cx.project).await.unwrap();
    counts.sort_by(|a, b| a.source.cmp(&b.source));
    let facts: Vec<_> =
        counts.iter().flat_map(|count| count.states.iter().map(|(state, messages)| (count.source.as_str(), *state, *messages))).collect();
    assert_eq!(
        facts,
        [
            ("billing", State::Pending, 3),
            ("held", State::Sending, 1),
            ("orders", State::Retrying, 2),
            ("refund", State::Sending, 2),
            ("refund", State::Retrying, 1)
        ]
    );
    let overdue: Vec<_> = counts.iter().map(|count| count.overdue.as_secs()).collect();
    assert!((100..110).contains(&overdue[0]) && overdue[1] == 0, "{overdue:?}");
}

pub(crate) async fn one_counts_for_all(cx: Fixture) {
    let pending = |counts: Option<Vec<Count>>| counts.map(|counts| counts.iter().filter_map(|count| count.states.get(&State::Pending)).sum::<u64>());
    let sample = |every, share| Sample { project: cx.project.clone(), sources: Vec::new(), every, share };
    cx.put("billing", 2).await;
    let (one, other) = (cx.store().await, cx.test.open());
    assert_eq!(pending(one.sample(sample(LONG, 0)).await.unwrap()), Some(2), "whoever comes first counts");
    let first = other.sample(sample(LONG, 0)).await.unwrap().unwrap();
    assert_eq!(first[0].source, "billing");
    cx.put("billing", 1).await;
    assert_eq!(other.sample(sample(LONG, 0)).await.unwrap().unwrap(), first, "all are told the same until the next is due");
    let theirs = Sample { project: "invoices".into(), ..sample(LONG, 0) };
    assert_eq!(pending(other.sample(theirs).await.unwrap()), Some(0), "of the project alone");
    cx.sql("UPDATE redrive_sample SET due_at = (SELECT min(created_at) FROM resend_log)").await;
    assert_eq!(pending(other.sample(sample(Duration::ZERO, 0)).await.unwrap()), Some(3), "whoever comes first then");
    let seldom = || sample(Duration::ZERO, u32::MAX);
    assert_eq!(pending(one.sample(seldom()).await.unwrap()), Some(3));
    cx.put("billing", 1).await;
    assert_eq!(pending(one.sample(seldom()).await.unwrap()), Some(3), "what took long is not repeated soon");
    cx.sql("UPDATE redrive_sample SET due_at = (SELECT min(created_at) FROM resend_log)").await;
    cx.sql("ALTER TABLE resend_log RENAME TO elsewhere").await;
    one.sample(seldom()).await.unwrap_err();
    cx.sql("ALTER TABLE elsewhere RENAME TO resend_log").await;
    assert_eq!(pending(one.sample(seldom()).await.unwrap()), Some(3), "nor is what failed");
    cx.sql("UPDATE redrive_sample SET counts = NULL").await;
    assert_eq!(one.sample(seldom()).await.unwrap(), None, "the first is being made");
}

pub(crate) async fn made_up_sources_are_counted_together(cx: Fixture) {
    let store = cx.store().await;
    let sample = || Sample { project: cx.project.clone(), sources: vec!["billing".into()], every: Duration::ZERO, share: 0 };
    let (long, late) = ("x".repeat(200), cx.now().await - Duration::from_secs(100));
    cx.insert(vec![NewMessage { due: Due::At(late), ..message(&long) }, message(&long), message("billing")]).await;
    cx.beat("node-2", &["refund"], LONG).await;
    cx.put("refund", 1).await;
    let mut made_up = 0;
    // More than are reported by name, and more than are read.
    for more in [150, 2500] {
        let messages: Vec<_> = (made_up..made_up + more).map(|number| message(&format!("made-up-{number}"))).collect();
        for part in messages.chunks(500) {
            cx.insert(part.to_vec()).await;
        }
        made_up += more;
        let counts = store.sample(sample()).await.unwrap().unwrap();
        let of = |source: &str| counts.iter().find(|count| count.source == source).unwrap_or_else(|| panic!("{source} is not told"));
        let pending = |count: &Count| count.states.get(&State::Pending).copied().unwrap_or(0);
        assert_eq!(counts.len(), 2 + 100 + 1, "what nodes know, a hundred others, and the rest");
        assert_eq!((pending(of("billing")), pending(of("refund"))), (1, 1));
        assert_eq!((pending(of(&long[..100])), of(&long[..100]).overdue.as_secs() >= 100), (2, true), "the most overdue is among them");
        assert_eq!((pending(of("")), counts.iter().map(pending).sum::<u64>()), (made_up - 99, made_up + 4), "{more}");
        let told = cx.raw().await.number("SELECT length(counts) FROM redrive_sample").await;
        assert!(told < 10_000, "{told} bytes for all nodes");
    }
}

pub(crate) async fn what_was_written_before_the_clock_was_set_back_holds_nothing_up(cx: Fixture) {
    const HOUR: i64 = 3_600_000;
    let sample = || Sample { project: cx.project.clone(), sources: Vec::new(), every: LONG, share: 1 };
    let store = cx.store().await;
    cx.put("billing", 1).await;
    store.sample(sample()).await.unwrap();
    cx.beat("node-1", &["billing"], LONG).await;
    cx.put("billing", 1).await;
    cx.sql(&format!("UPDATE redrive_sample SET due_at = {}", cx.time(HOUR))).await;
    cx.sql(&format!("UPDATE redrive_node SET expires_at = {}", cx.time(HOUR))).await;
    let counts = store.sample(sample()).await.unwrap().unwrap();
    assert_eq!(counts[0].states.get(&State::Pending), Some(&2), "it is not put off for so long");
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, pairs(&[("orders", "billing")]), "no beat is good for so long");
    cx.beat("node-1", &["billing"], LONG).await;
    assert_eq!(unserved(&cx, Duration::ZERO, 10).await, [], "it lives after all");
}

pub(crate) async fn lost_attempts_that_nobody_takes_over_are_told(cx: Fixture) {
    let now = cx.now().await;
    let leased = |source, due| NewMessage { leased: true, due, ..message(source) };
    let old = Due::At(now - Duration::from_secs(100));
    let hold = async |ttl, messages| {
        let insert = Insert { lease: cx.lease(ttl), ..cx.insertion(messages) };
        cx.store().await.insert(insert).await.unwrap();
    };
    hold(LONG, vec![leased("held", old)]).await;
    hold(SHORT, vec![leased("refund", old), leased("refund", Due::Now), leased("served", old)]).await;
    // Of another project, of which nothing else is waiting.
    cx.sql(&format!(
        "INSERT INTO resend_log (project, source, payload, state, lease_until) VALUES ('invoices', 'crm', 'x', 'sending', {})",
        cx.time(-1000)
    ))
    .await;
    cx.lapse("refund").await;
    cx.beat("node-1", &["served"], LONG).await;
    let told = cx.store().await.unserved(nothing(&cx), Duration::ZERO, 10).await.unwrap();
    assert!(told.iter().any(|rows| rows.source == "refund" && (100..130).contains(&rows.oldest.as_secs())), "{told:?}");
    assert_eq!(names(told), pairs(&[("invoices", "crm"), ("orders", "refund")]), "neither what is held nor what is served");
    let own = Served { sources: vec!["refund".into()], ..nothing(&cx) };
    assert_eq!(told_to(&cx, own).await, pairs(&[("invoices", "crm")]));
    assert_eq!(unserved(&cx, LONG, 10).await, pairs(&[("orders", "refund")]), "the other is too young");
    // The gauge includes them too.
    let counts = cx.store().await.counts(&cx.project).await.unwrap();
    let overdue = |source: &str| counts.iter().find(|count| count.source == source).unwrap().overdue.as_secs();
    assert!((100..130).contains(&overdue("refund")) && overdue("held") == 0, "{counts:?}");
}

pub(crate) async fn nodes_that_died_are_forgotten(cx: Fixture) {
    const DAY: i64 = 24 * 3_600_000;
    let store = cx.store().await;
    let refund = cx.put("refund", 1).await[0];
    // None of them signed off; how long ago the next beat of each was due, in milliseconds.
    for (node, sources, ago) in [
        ("long-ago", &["later"][..], DAY + 60_000),
        ("lately", &["refund"], DAY - 60_000),
        ("started-again", &["refund"], 60_000),
        ("lives-with-others", &["refund", "billing"], -30_000),
        ("before-it", &["crm"], 1000),
        ("lives", &["crm"], -30_000),
    ] {
        cx.beat(node, sources, LONG).await;
        cx.sql(&format!("UPDATE redrive_node SET expires_at = {} WHERE node = '{node}'", cx.time(-ago))).await;
    }
    let nodes = async || {
        let rows = cx.raw().await.rows("SELECT node FROM redrive_node ORDER BY node").await;
        rows.into_iter().filter_map(|mut row| row.remove(0)).collect::<Vec<_>>()
    };
    store.forget_nodes("invoices").await.unwrap();
    assert_eq!(nodes().await.len(), 6, "of the project alone");
    store.forget_nodes(&cx.project).await.unwrap();
    assert_eq!(nodes().await, ["lives", "lives-with-others", "started-again"], "one that died lately is kept, unless another knows the same");
    let strays = super::strays::take(&cx, super::strays::strays_of(&cx, &["billing"])).await;
    assert!(!strays.contains_key(&refund), "what it knew is known");
}
