//! Transactions and statements that are too large or take too long for the database, as in a cluster: smaller ones succeed.

use std::time::Duration;

use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::time::sleep;

use super::{number, run, submit, until, writer};
use crate::api::{Client, client};

/// A table that accepts no more rows: SQLite reports that it is full, as it does for a disk.
const ROOM: [&str; 3] =
    ["CREATE TABLE written (at REAL)", "CREATE TABLE room (n INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO room VALUES (9223372036854775807)"];

async fn no_room(session: &mut SqliteConnection, trigger: &'static str) {
    for sql in ROOM {
        run(session, sql).await;
    }
    run(session, trigger).await;
}

async fn proven(yaml: &str) -> (Client, SqliteConnection) {
    let client = client(yaml).await;
    let first = client.submitted("").await;
    client.until(&first, "succeeded").await;
    let session = writer(client.app.folder()).await;
    (client, session)
}

const WIDE: &str = "sources: { main: { kind: scripted, in_flight: 100 } }";

async fn no_lease_was_lost(client: &Client) -> bool {
    client.get("/metrics").await.text.lines().filter(|line| line.starts_with("redrive_leases_lost_total{")).all(|line| line.ends_with(" 0"))
}

#[tokio::test]
async fn outcomes_are_written_in_parts() {
    // The clock stands still within a statement.
    const EIGHT: &str = "CREATE TRIGGER eight AFTER UPDATE ON resend_log WHEN NEW.state = 'succeeded' BEGIN
        INSERT INTO written VALUES (julianday('now'));
        INSERT INTO room SELECT NULL WHERE (SELECT count(*) FROM written WHERE at = julianday('now')) > 8; END";
    let (client, mut other) = proven(WIDE).await;
    no_room(&mut other, EIGHT).await;
    let ids = submit(&client, 40, r#","topic":"hold""#).await;
    client.app.hold.add_permits(ids.len());
    for id in &ids {
        assert_eq!(client.until(id, "succeeded").await["attempts"], 1);
    }
    assert!(no_lease_was_lost(&client).await);
    other.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn outcomes_that_are_too_much_by_themselves_hold_up_no_others() {
    const BAD: &str = "CREATE TRIGGER bad AFTER UPDATE ON resend_log WHEN NEW.state = 'succeeded' AND NEW.msg_key = 'bad' BEGIN
        INSERT INTO room VALUES (NULL); END";
    let (client, mut other) = proven(WIDE).await;
    no_room(&mut other, BAD).await;
    // If each were waited for as in an outage, the others would come too late.
    let bad = submit(&client, 12, r#","topic":"hold","key":"bad""#).await;
    let good = submit(&client, 20, r#","topic":"hold""#).await;
    client.app.hold.add_permits(bad.len() + good.len());
    for id in &good {
        client.until(id, "succeeded").await;
    }
    client.until_ready().await;
    let later = client.submitted("").await;
    client.until(&later, "succeeded").await;
    for id in &bad {
        assert_eq!(client.message(id).await["state"], "sending");
    }
    run(&mut other, "DROP TRIGGER bad").await;
    for id in bad.iter().chain(&good) {
        assert_eq!(client.until(id, "succeeded").await["attempts"], 1);
    }
    assert!(no_lease_was_lost(&client).await);
    other.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn claims_ask_for_less() {
    const EIGHT: &str = "CREATE TRIGGER eight AFTER INSERT ON redrive_sheet WHEN json_array_length(NEW.ids) > 8 BEGIN
        INSERT INTO room VALUES (NULL); END";
    let (client, mut other) = proven(WIDE).await;
    no_room(&mut other, EIGHT).await;
    let ids = submit(&client, 40, r#","delay":"500ms""#).await;
    for id in &ids {
        assert_eq!(client.until(id, "succeeded").await["attempts"], 1);
    }
    other.close().await.unwrap();
    client.app.end().await;
}

#[tokio::test]
async fn a_purge_deletes_in_smaller_batches() {
    const EIGHT: &str = "CREATE TRIGGER eight AFTER DELETE ON resend_log BEGIN
        INSERT INTO written VALUES (julianday('now'));
        INSERT INTO room SELECT NULL WHERE (SELECT count(*) FROM written WHERE at = julianday('now')) > 8; END";
    let client = client("history: { every: 200ms, batch: 40, keep: { succeeded: 1s } }").await;
    let mut other = writer(client.app.folder()).await;
    no_room(&mut other, EIGHT).await;
    let old = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
        INSERT INTO resend_log (source, state, finished_at) SELECT 'main', 'succeeded', i FROM n";
    run(&mut other, old).await;
    sleep(Duration::from_millis(500)).await;
    assert!(number(&mut other, "SELECT count(*) FROM resend_log").await > 20, "it took them at once");
    until(&mut other, "SELECT count(*) = 0 FROM resend_log").await;
    other.close().await.unwrap();
    client.app.end().await;
}
