//! Waiting messages are a load on nobody: 100,000 messages for a dead broker, one for somebody else's lock.

use std::time::{Duration, Instant};

use reqwest::StatusCode;

use crate::support::database::new_ids;
use crate::support::node::QUICK;
use crate::support::{Database, Kind, Node, Producer, Proxy, Sink, Yaml, eventually, free_port};

const WAITING: usize = 100_000;
const PROBE: Duration = Duration::from_millis(500);
const WATCHED: Duration = Duration::from_secs(8);
const BRISK: usize = 2000;

#[tokio::test(flavor = "multi_thread")]
async fn for_a_dead_kafka_on_postgres() {
    let source = format!("{{ kind: kafka, brokers: [\"127.0.0.1:{}\"], topic: nowhere, {QUICK} }}", free_port());
    wait_for_a_dead_broker(Kind::Postgres, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn for_a_dead_rabbitmq_on_sqlite() {
    let source = format!("{{ kind: amqp, url: \"amqp://127.0.0.1:{}\", routing_key: nowhere, {QUICK} }}", free_port());
    wait_for_a_dead_broker(Kind::Sqlite, &source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn for_a_lock_of_somebody_else() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Postgres).await;
    let node = Node::start(&Yaml::on(&database).source("crm", &sink.source("")).poller("lease: 4s, interval: 1s")).await;
    let ids: Vec<_> = new_ids(2).iter().map(ToString::to_string).collect();
    let mut session = database.session().await;
    // One goes out first, so that the queue was emptied; the other comes due while it is locked.
    for (id, wait) in ids.iter().zip([0, 2]) {
        session.run(&format!("INSERT INTO resend_log (id, source, due_at) VALUES ('{id}', 'crm', now() + interval '{wait} s')")).await;
    }
    session.run("BEGIN").await;
    session.rows(&format!("SELECT id FROM resend_log WHERE id = '{}' FOR UPDATE", ids[1])).await;
    sink.received(&ids[..1], "the first is sent".to_owned(), Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let claims = async || node.metrics().await.sum("redrive_store_seconds_count", &[("op", "claim")]);
    let before = claims().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let made = claims().await - before;
    assert!((1.0..=8.0).contains(&made), "{made} claims in three polls' time");
    session.run("COMMIT").await;
    sink.received(&ids, "the other is sent".to_owned(), Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_of_others_while_somebody_locks_messages_under_way() {
    for kind in Kind::SHARED {
        let (sinks, brisk) = ([Sink::start().await, Sink::start().await], Sink::start().await);
        let database = Database::fresh(kind).await;
        let yaml = Yaml::on(&database).store_more(", timeout: 2s").source("brisk", &brisk.source(""));
        let yaml = ["one", "two"].iter().zip(&sinks).fold(yaml, |yaml, (name, sink)| yaml.source(name, &sink.source("")));
        let node = Node::start(&yaml).await;
        let mut session = database.session().await;
        let (mut locked, mut beside) = (Vec::new(), Vec::new());
        for (name, sink) in ["one", "two"].iter().zip(&sinks) {
            sink.hold();
            for ids in [&mut locked, &mut beside] {
                ids.push(node.publish(name, "x").await.id().to_owned());
            }
        }
        for (sink, index) in sinks.iter().zip(0..) {
            sink.received(&[locked[index].clone(), beside[index].clone()], format!("{kind:?}: they are under way"), Duration::from_secs(10)).await;
        }
        session.run("BEGIN").await;
        // One by one: for both at once MariaDB would read, and lock, the whole of such a small table.
        for id in &locked {
            session.rows(&format!("SELECT id FROM resend_log WHERE id = '{id}' FOR UPDATE")).await;
        }
        // Each worker has a batch with a locked message in it.
        for sink in &sinks {
            sink.let_go();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        beside.push(node.publish("brisk", "x").await.id().to_owned());
        eventually(format!("{kind:?}: all others are on record"), Duration::from_secs(15), async || {
            let records = database.records().await;
            let left = beside.iter().filter(|id| records[*id].state != "succeeded").count();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        })
        .await;
        session.run("COMMIT").await;
        database.finished(Duration::from_secs(10)).await;
        let records = database.records().await;
        assert!(locked.iter().all(|id| records[id].state == "succeeded" && records[id].attempts == 1), "{kind:?}: {records:?}");
        assert!(sinks.iter().all(|sink| sink.copies().values().all(|copies| *copies == 1)), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_of_others_while_somebody_locks_a_message_under_way() {
    for kind in Kind::SHARED {
        let (sink, brisk) = (Sink::start().await, Sink::start().await);
        let database = Database::fresh(kind).await;
        let yaml = Yaml::on(&database).store_more(", timeout: 2s").poller("lease: 3s, interval: 500ms");
        let yaml = yaml.source("crm", &sink.source(", timeout: 60s")).source("brisk", &brisk.source(""));
        let (node, _other) = (Node::start(&yaml).await, Node::start(&yaml).await);
        let mut session = database.session().await;
        sink.hold();
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(node.publish("crm", "x").await.id().to_owned());
        }
        sink.received(&ids, format!("{kind:?}: they are under way"), Duration::from_secs(10)).await;
        session.run("BEGIN").await;
        session.rows(&format!("SELECT id FROM resend_log WHERE id = '{}' FOR UPDATE", ids[0])).await;
        // Longer than two leases.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let inserted = new_ids(1);
        database.insert("brisk", &inserted).await;
        let inserted = [inserted[0].to_string()];
        brisk.received(&inserted, format!("{kind:?}: what comes due is found meanwhile"), Duration::from_secs(3)).await;
        sink.let_go();
        session.run("COMMIT").await;
        database.finished(Duration::from_secs(20)).await;
        let (records, copies) = (database.records().await, sink.copies());
        assert!(ids[1..].iter().all(|id| copies[id] == 1 && records[id].attempts == 1), "{kind:?}: {copies:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_under_way_that_was_locked_for_longer_than_its_lease_is_this_nodes_still() {
    for kind in Kind::SHARED {
        let sink = Sink::start().await;
        let database = Database::fresh(kind).await;
        let yaml = Yaml::on(&database).store_more(", timeout: 2s").poller("lease: 2s, interval: 100ms");
        let node = Node::start(&yaml.source("crm", &sink.source(", timeout: 60s"))).await;
        let mut session = database.session().await;
        sink.hold();
        // They are committed together, but for the first perhaps, and so their leases are renewed together.
        let ids = node.submit("crm", 8).await;
        sink.received(&ids, format!("{kind:?}: they are under way"), Duration::from_secs(10)).await;
        session.run("BEGIN").await;
        session.rows(&format!("SELECT id FROM resend_log WHERE id = '{}' FOR UPDATE", ids[7])).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        session.run("COMMIT").await;
        // Time enough to look several times at what has lapsed.
        tokio::time::sleep(Duration::from_secs(1)).await;
        sink.let_go();
        database.finished(Duration::from_secs(20)).await;
        let (records, copies) = (database.records().await, sink.copies());
        assert!(ids.iter().all(|id| copies[id] == 1 && records[id].attempts == 1), "{kind:?}: {copies:?}, {records:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_beside_one_that_moved_and_is_locked_are_told_of() {
    const MESSAGES: usize = 20;
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Postgres).await;
    let yaml = Yaml::on(&database).store_more(", timeout: 2s").poller("lease: 20s, interval: 200ms");
    let node = Node::start(&yaml.source("crm", &sink.source(", timeout: 15s"))).await;
    let finished = async |count: f64| {
        eventually("they are told of", Duration::from_secs(15), async || {
            let told = node.metrics().await.sum("redrive_finished_total", &[("source", "crm"), ("state", "succeeded")]);
            if told >= count { Ok(()) } else { Err(format!("{told} of {count}")) }
        })
        .await;
    };
    // A destination that has answered is sent all of them at once.
    node.publish("crm", "x").await;
    finished(1.0).await;
    sink.hold();
    // Claimed: the addresses of their rows are known.
    let ids = new_ids(MESSAGES);
    database.insert("crm", &ids).await;
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    sink.received(&ids, "they are under way".to_owned(), Duration::from_secs(10)).await;
    let mut session = database.session().await;
    session.run(&format!("UPDATE resend_log SET created_at = created_at WHERE id = '{}'", ids[MESSAGES / 2])).await;
    session.run("BEGIN").await;
    session.rows(&format!("SELECT id FROM resend_log WHERE id = '{}' FOR UPDATE", ids[MESSAGES / 2])).await;
    sink.let_go();
    // All but the locked one: they are recorded before it is found that it can't be.
    finished(20.0).await;
    session.run("COMMIT").await;
    finished(21.0).await;
    assert!(node.metrics().await.sum("redrive_leases_lost_total", &[]) < 1.0, "nobody else had them");
}

#[tokio::test(flavor = "multi_thread")]
async fn for_an_answer_that_was_lost() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Postgres).await;
    let port = free_port();
    let proxy = Proxy::at(port, database.server()).await;
    let node = Node::start(&Yaml::with_store(&database.store_behind(port)).source("crm", &sink.source(""))).await;
    let finished = async || node.metrics().await.sum("redrive_finished_total", &[("source", "crm"), ("state", "succeeded")]);
    let all_finished = async |count: f64| {
        eventually("all are told of", Duration::from_secs(20), async || {
            let told = finished().await;
            if told >= count { Ok(()) } else { Err(format!("{told} of {count}")) }
        })
        .await;
    };
    // By then the connections have prepared their statements.
    for number in 1..=20 {
        node.publish("crm", "x").await;
        all_finished(f64::from(number)).await;
    }
    sink.hold();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(node.publish("crm", "x").await.id().to_owned());
    }
    sink.received(&ids, "they are under way".to_owned(), Duration::from_secs(10)).await;
    proxy.mute(true);
    sink.let_go();
    eventually("an outcome is written", Duration::from_secs(10), async || {
        let written = database.records().await.values().filter(|record| record.state == "succeeded").count();
        if written > 20 { Ok(()) } else { Err(format!("{written}")) }
    })
    .await;
    eventually("its beats are not answered either", Duration::from_secs(20), async || {
        let up = node.metrics().await.sum("redrive_store_up", &[]);
        if up < 1.0 { Ok(()) } else { Err(String::new()) }
    })
    .await;
    proxy.mute(false);
    all_finished(30.0).await;
    let metrics = node.metrics().await;
    assert!(metrics.sum("redrive_leases_lost_total", &[]) < 1.0, "nobody else had them");
    eventually("the store is up", Duration::from_secs(10), async || {
        if node.metrics().await.sum("redrive_store_up", &[]) > 0.0 { Ok(()) } else { Err(String::new()) }
    })
    .await;
}

async fn wait_for_a_dead_broker(kind: Kind, dead: &str) {
    let sink = Sink::start().await;
    let database = Database::fresh(kind).await;
    let node = Node::start(&Yaml::on(&database).source("dead", dead).source("brisk", &sink.source(""))).await;
    let alone = time_of(&node, &sink, BRISK).await;

    database.insert("dead", &new_ids(WAITING)).await;
    eventually("the breaker opens", Duration::from_secs(30), async || {
        let open = node.metrics().await.sum("redrive_breaker_state", &[("source", "dead")]);
        if open > 0.0 { Ok(()) } else { Err(String::new()) }
    })
    .await;
    // What was under way when it opened is finished first; a probe of Kafka takes longer than the time to the next.
    eventually("the burst before it opened is over", Duration::from_secs(30), async || {
        let under_way = node.metrics().await.sum("redrive_in_flight", &[("source", "dead")]);
        if under_way <= 10.0 { Ok(()) } else { Err(format!("{under_way} are under way")) }
    })
    .await;

    let attempts_so_far = async || node.metrics().await.sum("redrive_attempts_total", &[("source", "dead")]);
    let (before, began) = (attempts_so_far().await, Instant::now());
    let beside = time_of(&node, &sink, BRISK).await;
    tokio::time::sleep(WATCHED.saturating_sub(began.elapsed())).await;
    let (tries, probes) = (attempts_so_far().await - before, began.elapsed().as_secs_f64() / PROBE.as_secs_f64());
    eprintln!(
        "{kind:?}: {BRISK} messages of another source took {alone:?} alone, {beside:?} beside {WAITING} waiting; {tries} tries in {probes:.1} probes"
    );
    assert!(tries >= 1.0, "it goes on trying");
    assert!(tries <= probes + 2.0, "{tries} tries in {probes} probes");
    assert!(beside < alone * 3 + Duration::from_secs(1), "alone {alone:?}, beside the dead one {beside:?}");

    let mut session = database.session().await;
    let attempts = session.number("SELECT count(*) FROM attempt_log").await;
    let rows = session.number("SELECT count(*) FROM resend_log WHERE source = 'dead' AND state IN ('pending', 'retrying', 'sending')").await;
    assert_eq!(rows, WAITING as u64, "none of them failed");
    eprintln!("{kind:?}: {attempts} rows in attempt_log, {} lines in the log", node.log().lines().count());
    // A burst of at most one claim was under way when the breaker opened; the rest are probes.
    assert!(attempts < 3000, "{attempts} rows in attempt_log");
    assert!(node.log().lines().count() < 100, "{}", node.log());
    assert_eq!(node.get("/readyz").await.status, StatusCode::OK);
}

/// How long it takes from the first of this many submissions until all are sent.
async fn time_of(node: &Node, sink: &Sink, count: usize) -> Duration {
    let (already, began) = (sink.distinct(), Instant::now());
    let producer = Producer::of(node, "brisk", 16);
    producer.up_to(count);
    producer.accepted(count, Duration::from_secs(60)).await;
    eventually("all are sent", Duration::from_secs(60), async || match sink.distinct() - already {
        sent if sent >= count => Ok(()),
        sent => Err(format!("{sent} are sent")),
    })
    .await;
    began.elapsed()
}
