//! Rows that an application inserts in its own transaction.

use std::collections::HashSet;
use std::time::Duration;

use redrive::message::{Key, State};
use redrive::store::List;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use super::fixture::{Fixture, NONE, ready};
use crate::support::assert_near;

const FOUR: &str = "INSERT INTO resend_log (source, topic, msg_key, payload) VALUES ('billing', 'invoices', 'o-17', 'hello')";

pub(crate) async fn four_columns_are_enough(cx: Fixture) {
    cx.sql(FOUR).await;
    let now = cx.now().await;
    let near = Duration::from_secs(10);

    let row = cx.all().await.remove(0);
    assert_eq!(row.id.get_version_num(), 7, "{}", row.id);
    assert_near(written_in(row.id), now, near, "the id's time");
    assert_eq!((&*row.project, &*row.source), ("orders", "billing"));
    assert_eq!((row.topic.as_deref(), row.key), (Some("invoices"), Some(Key::Text("o-17".to_owned()))));
    assert_eq!(row.payload.as_deref(), Some(&b"hello"[..]));
    assert_eq!((row.state, row.priority, row.epoch, row.attempts, row.retries), (State::Pending, 0, 1, 0, 0));
    assert_near(row.due_at.unwrap(), now, near, "due");
    assert_near(row.created_at, now, near, "created");
    assert_near(row.updated_at, now, near, "updated");
    assert!(row.retry.is_none());
    assert_eq!((row.headers, row.finished_at, row.expires_at, row.idempotency_key, row.last_error, row.result), (None, None, None, None, None, None));

    let (ready, _) = cx.take(row.id, "billing", Duration::from_secs(60)).await;
    let message = ready.message;
    assert_eq!((&*message.project, &*message.source, message.epoch, message.attempt), ("orders", "billing", 1, 1));
    assert_eq!((message.topic.as_deref(), message.payload.as_deref()), (Some("invoices"), Some(&b"hello"[..])));
    assert!(message.headers.is_empty() && !ready.ordered && ready.retry.is_none());
}

/// The time in a UUIDv7.
pub(crate) fn written_in(id: Uuid) -> DateTime<Utc> {
    let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).unwrap(), nanos).unwrap()
}

pub(crate) async fn every_column_may_be_written(cx: Fixture) {
    let id = Uuid::now_v7();
    let (due, expires, key) = (cx.time(-5_000), cx.time(3_600_000), cx.bytes(b"\x00\xff"));
    cx.sql(&format!(
        "INSERT INTO resend_log (id, project, source, topic, msg_key_bytes, payload, headers, priority, due_at, expires_at, order_key, max_retries)
         VALUES ('{id}', 'orders', 'billing', 'invoices', {key}, 'hello', '{{\"b\": \"1\", \"a\": \"2\"}}', 7, {due}, {expires}, 'customer-4', 9)"
    ))
    .await;
    let now = cx.now().await;
    let mut claim = cx.claim_of("billing");
    claim.level = 7;
    let row = ready(cx.claim(claim).await.rows).remove(0);
    assert_eq!(row.message.id, id);
    assert_eq!(row.message.key, Some(Key::Binary(b"\x00\xff".as_slice().into())));
    assert_eq!(row.message.headers.iter().collect::<Vec<_>>(), [("b", "1"), ("a", "2")]);
    assert!(row.ordered);
    assert_eq!(row.retry.unwrap().max_retries, Some(9));
    assert_near(row.due_at, now - Duration::from_secs(5), Duration::from_secs(10), "due");
    assert_near(row.standing.expires_at.unwrap(), now + Duration::from_secs(3600), Duration::from_secs(10), "expires");
    let shown = cx.get(id).await;
    assert_eq!((shown.priority, shown.retry.unwrap().max_retries), (7, Some(9)));
}

pub(crate) async fn ids_are_unique(cx: Fixture) {
    let values = vec!["('billing', 'invoices', 'o-17', 'hello')"; 500].join(", ");
    for _ in 0..4 {
        cx.sql(&format!("INSERT INTO resend_log (source, topic, msg_key, payload) VALUES {values}")).await;
    }
    let ids: HashSet<Uuid> =
        cx.raw().await.rows("SELECT id FROM resend_log").await.into_iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    assert_eq!(ids.len(), 2000);
    assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
}

pub(crate) async fn only_what_is_committed_is_seen(cx: Fixture) {
    cx.store().await;
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    raw.run(FOUR).await;
    if !cx.backend.is_sqlite() {
        // SQLite has a single writer: a claim would wait for the application, as it should.
        assert_eq!(cx.claim_ids("billing").await, NONE);
    }
    assert!(cx.all().await.is_empty());
    raw.run("ROLLBACK").await;
    assert_eq!(cx.claim_ids("billing").await, NONE);
    raw.run("BEGIN").await;
    raw.run(FOUR).await;
    raw.run("COMMIT").await;
    assert_eq!(cx.claim_ids("billing").await.len(), 1);
}

pub(crate) async fn a_row_of_another_project_is_not_taken(cx: Fixture) {
    cx.sql("INSERT INTO resend_log (project, source, payload) VALUES ('invoices', 'billing', 'hello')").await;
    assert_eq!(cx.claim_ids("billing").await, NONE);
    assert!(cx.all().await.is_empty());
    let list = List { project: "invoices".to_owned(), limit: 10, ..List::default() };
    assert_eq!(cx.store().await.list(list).await.unwrap().items.len(), 1);
}

pub(crate) async fn a_key_of_bytes_goes_before_a_text(cx: Fixture) {
    let key = cx.bytes(b"bytes");
    cx.sql(&format!("INSERT INTO resend_log (source, msg_key, msg_key_bytes, payload) VALUES ('billing', 'text', {key}, 'hello')")).await;
    let row = ready(cx.claim(cx.claim_of("billing")).await.rows).remove(0);
    assert_eq!(row.message.key.unwrap().as_bytes(), b"bytes");
}
