//! Without the usual loop: `redrive run` for cron, and a node that only accepts.

use std::collections::HashSet;
use std::process::{Output, Stdio};
use std::time::Duration;

use reqwest::StatusCode;

use crate::support::database::new_ids;
use crate::support::node::{QUICK, redrive};
use crate::support::{Database, Kind, Node, Proxy, Sink, Yaml, free_port};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_only_accepts_leaves_the_sending_to_a_run() {
    for kind in Kind::ALL {
        let sink = Sink::start().await;
        let database = Database::fresh(kind).await;
        let yaml = Yaml::on(&database).source("crm", &sink.source(""));
        let mut node = Node::start(&yaml.clone().poller("enabled: false, lease: 4s, interval: 100ms")).await;
        let mut sent = HashSet::new();
        for number in 0..50 {
            let accepted = node.publish("crm", format!("{number}")).await;
            assert_eq!((accepted.status, &accepted.body["state"]), (StatusCode::ACCEPTED, &"pending".into()), "{kind:?}: {accepted:?}");
            sent.insert(accepted.id().to_owned());
        }
        let later = node.publish("crm?delay=1h", "later").await;
        let inserted = new_ids(700);
        database.insert("crm", &inserted).await;
        sent.extend(inserted.iter().map(ToString::to_string));
        // Time for ten polls.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(sink.distinct(), 0, "{kind:?}: it sends nothing");
        if kind == Kind::Sqlite {
            // Only one process at a time may send from a file, and a run is one.
            node.signal(rustix::process::Signal::TERM);
            assert_eq!(node.exit(Duration::from_secs(30)).await.code(), Some(0));
        }

        run(&Node::new(&yaml)).await;
        assert_eq!(sink.copies().into_keys().collect::<HashSet<_>>(), sent, "{kind:?}: all that is due is sent");
        assert!(sink.copies().values().all(|count| *count == 1), "{kind:?}: once");
        let records = database.records().await;
        assert!(records.iter().all(|(id, record)| record.state == if id == later.id() { "pending" } else { "succeeded" }), "{kind:?}: {records:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_although_a_destination_is_away() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Postgres).await;
    let dead = format!("{{ kind: http, url: \"http://127.0.0.1:{}/\", {QUICK} }}", free_port());
    let yaml = Yaml::on(&database).source("crm", &sink.source("")).source("dead", &dead);
    let node = Node::start(&yaml.clone().poller("enabled: false, lease: 4s")).await;
    let (good, waiting) = (new_ids(100), new_ids(100));
    database.insert("dead", &waiting).await;
    database.insert("crm", &good).await;
    run(&Node::new(&yaml)).await;
    assert_eq!(sink.distinct(), 100);
    let records = database.records().await;
    assert!(waiting.iter().all(|id| ["pending", "retrying"].contains(&records[&id.to_string()].state.as_str())), "{records:?}");
    drop(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_a_connection_to_the_database_that_breaks() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Postgres).await;
    let node = Node::start(&Yaml::on(&database).source("crm", &sink.source("")).poller("enabled: false, lease: 4s")).await;
    let ids = new_ids(10);
    database.insert("crm", &ids).await;
    drop(node);
    sink.hold();
    let port = free_port();
    let proxy = Proxy::at(port, database.server()).await;
    let (yaml, names) =
        (Yaml::with_store(&database.store_behind(port)).source("crm", &sink.source("")), ids.iter().map(ToString::to_string).collect::<Vec<_>>());
    let outage = async {
        sink.received(&names, "a run begins".to_owned(), Duration::from_secs(20)).await;
        proxy.vanish().await;
        // Time for ten looks.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let proxy = Proxy::at(port, database.server()).await;
        sink.let_go();
        proxy
    };
    let node = Node::new(&yaml);
    let (_proxy, _) = tokio::join!(outage, run(&node));
    assert!(sink.copies().values().all(|count| *count == 1), "{:?}", sink.copies());
    let records = database.records().await;
    assert!(records.values().all(|record| (record.state.as_str(), record.attempts) == ("succeeded", 1)), "{records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_sends_what_lacks_a_due_time() {
    for kind in Kind::ALL {
        let sink = Sink::start().await;
        let database = Database::fresh(kind).await;
        let node = Node::new(&Yaml::on(&database).source("crm", &sink.source("")));
        run(&node).await;
        let id = new_ids(1)[0].to_string();
        let long_ago = if kind == Kind::Sqlite { "0" } else { "'2020-01-01 00:00:00'" };
        let row = format!("INSERT INTO resend_log (id, source, due_at, created_at) VALUES ('{id}', 'crm', NULL, {long_ago})");
        database.session().await.run(&row).await;
        let said = run(&node).await;
        assert_eq!(sink.copies().get(&id), Some(&1), "{kind:?}: {:?}; it said {said}", database.records().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_although_nothing_can_be_claimed() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Sqlite).await;
    let node = Node::new(&Yaml::on(&database).source("crm", &sink.source("")));
    run(&node).await;
    database.session().await.run("CREATE TRIGGER refuse BEFORE INSERT ON redrive_sheet BEGIN SELECT RAISE(ABORT, 'no'); END").await;
    database.insert("crm", &new_ids(1)).await;
    let output = output(&node).await;
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_although_an_outcome_is_refused() {
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Sqlite).await;
    let node = Node::new(&Yaml::on(&database).source("crm", &sink.source("")));
    run(&node).await;
    let never = "CREATE TRIGGER never BEFORE UPDATE ON resend_log WHEN NEW.state = 'succeeded' BEGIN SELECT RAISE(ABORT, 'never'); END";
    database.session().await.run(never).await;
    let ids = new_ids(2);
    database.insert("crm", &ids).await;
    // Long before three leases are over.
    run(&node).await;
    assert!(ids.iter().all(|id| sink.copies().get(&id.to_string()) == Some(&1)), "{:?}", sink.copies());
}

/// Runs successfully; returns its log.
async fn run(node: &Node) -> String {
    let output = output(node).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

async fn output(node: &Node) -> Output {
    let run = redrive(&["run"], &node.config()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    tokio::time::timeout(Duration::from_secs(45), run).await.expect("a run ends").unwrap()
}
