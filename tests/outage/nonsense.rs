//! Rows with nonsense from applications: each ends as `failed` with its reason, and its neighbours go on.

use std::time::{Duration, Instant};

use futures::future::join_all;
use uuid::Uuid;

use crate::support::database::{insert_statement, new_ids};
use crate::support::{Database, Kind, Node, Sink, Yaml, eventually};

/// What must happen to a row.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// It fails with this code.
    Failed(&'static str),
    /// It is sent nevertheless.
    Sent,
    /// It is sent or fails with a reason; it must not stay.
    Over,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_nonsense_fails_with_its_reason_and_its_neighbours_go_on() {
    join_all(Kind::ALL.map(judge)).await;
}

/// Columns, values and what happens to them; the source is `crm` unless they include another.
fn rows(kind: Kind) -> Vec<(&'static str, String, Ends)> {
    let row = |columns, values: &str, ends| (columns, values.to_owned(), ends);
    let mut rows = vec![
        row("source, payload", "NULL, 'x'", Ends::Failed("no_source")),
        row("source, payload", "'nobody', 'x'", Ends::Failed("unknown_source")),
        row("source, payload", "'', 'x'", Ends::Over),
        row("source, payload, headers", "'crm', 'x', '[]'", Ends::Failed("invalid_headers")),
        row("source, payload, headers", "'crm', 'x', '{'", Ends::Failed("invalid_headers")),
        row("source, payload, headers", "'crm', 'x', '{\"a\":{\"b\":1}}'", Ends::Failed("invalid_headers")),
        row("source, payload, priority", "'crm', 'x', -5", Ends::Sent),
        row("source, payload, priority", "'crm', 'x', 32767", Ends::Sent),
        row("source, payload, max_retries", "'crm', 'x', -1", Ends::Sent),
        row("source, payload, max_retries", "'crm', 'x', 2147483647", Ends::Sent),
        row("source, payload, attempts", "'crm', 'x', 2147483647", Ends::Sent),
        row("source, payload, attempts", "'crm', 'x', -1", Ends::Failed("invalid_row")),
        row("source, payload, retries", "'crm', 'x', 2147483647", Ends::Sent),
        row("source, payload, epoch", "'crm', 'x', -7", Ends::Failed("invalid_row")),
        row("source, payload, state", "'crm', 'x', 'nonsense'", Ends::Sent),
        row("source, payload, order_key", "'crm', 'x', 'o'", Ends::Sent),
        row("source, payload, topic", &format!("'crm', 'x', '{}'", "t".repeat(2000)), Ends::Sent),
        row("source, payload, msg_key", "'crm', NULL, NULL", Ends::Sent),
    ];
    let megabytes = 100 << 20;
    match kind {
        Kind::Postgres => {
            rows.push(row("source, payload", &format!("'crm', convert_to(repeat('x', {megabytes}), 'UTF8')"), Ends::Failed("payload_too_large")));
            rows.push(row("source, payload, due_at", "'crm', 'x', 'infinity'", Ends::Failed("invalid_due_at")));
            rows.push(row("source, payload, due_at", "'crm', 'x', '-infinity'", Ends::Failed("invalid_row")));
            rows.push(row("source, payload, expires_at", "'crm', 'x', 'infinity'", Ends::Sent));
        }
        Kind::Mariadb => {
            rows.push(row("source, payload", &format!("'crm', repeat('x', {megabytes})"), Ends::Failed("payload_too_large")));
            rows.push(row("source, payload, due_at", "'crm', 'x', '0000-00-00 00:00:00'", Ends::Sent));
            rows.push(row("source, payload, due_at", "'crm', 'x', '9999-12-31 23:59:59.999999'", Ends::Failed("invalid_due_at")));
        }
        Kind::Sqlite => {
            rows.push(row("source, payload", &format!("'crm', zeroblob({megabytes})"), Ends::Failed("payload_too_large")));
            rows.push(row("source, payload, due_at", "'crm', 'x', 9223372036854775807", Ends::Failed("invalid_due_at")));
            rows.push(row("source, payload, due_at", "'crm', 'x', 'tomorrow'", Ends::Failed("invalid_due_at")));
            rows.push(row("source, payload, due_at", "'crm', 'x', 1e999", Ends::Failed("invalid_due_at")));
            rows.push(row("source, payload, priority", "'crm', 'x', 'high'", Ends::Sent));
        }
    }
    rows
}

async fn judge(kind: Kind) {
    let sink = Sink::start().await;
    let database = Database::fresh(kind).await;
    let node = Node::start(&Yaml::on(&database).source("crm", &sink.source(""))).await;
    let mut session = database.session().await;
    if kind == Kind::Mariadb {
        session.run("SET SESSION sql_mode = ''").await;
    }
    let (mut bad, mut neighbours) = (Vec::new(), Vec::new());
    let (good, inserted) = (new_ids(200), rows(kind).len());
    for (index, (columns, values, ends)) in rows(kind).into_iter().enumerate() {
        let id = Uuid::now_v7();
        // Where a column does not accept such a value there is nothing to test.
        if let Err(error) = session.try_run(&format!("INSERT INTO resend_log (id, {columns}) VALUES ('{id}', {values})")).await {
            assert!(!matches!(ends, Ends::Failed(_)), "{kind:?}: {columns}: {error}");
            continue;
        }
        let what = format!("{kind:?}: {columns} = {}", &values[..values.len().min(60)]);
        bad.push((id.to_string(), what, ends));
        // A neighbour beside each, and the rest after them.
        session.run(&insert_statement("crm", &good[index..=index])).await;
        neighbours.push(good[index]);
    }
    session.run(&insert_statement("crm", &good[inserted..])).await;
    let neighbours: Vec<_> = neighbours.iter().chain(&good[inserted..]).map(ToString::to_string).collect();
    // Neighbours are sent while the nonsense is being looked at, not after.
    sink.received(&neighbours, format!("neighbours are sent, on {kind:?}"), Duration::from_secs(20)).await;
    eventually(format!("all is over, on {kind:?}"), Duration::from_secs(40), async || {
        let records = database.session().await.rows("SELECT id, state FROM resend_log").await;
        let left: Vec<_> = records.into_iter().filter(|row| !["succeeded", "failed"].contains(&row[1].as_deref().unwrap_or_default())).collect();
        let what = |id: &Option<String>| bad.iter().find(|bad| Some(&bad.0) == id.as_ref()).map(|bad| bad.1.clone());
        if left.is_empty() { Ok(()) } else { Err(format!("{:?}", left.iter().map(|row| (what(&row[0]), &row[1])).collect::<Vec<_>>())) }
    })
    .await;

    let mut wrong = Vec::new();
    for (id, what, ends) in &bad {
        let shown = node.get(&format!("/v1/messages/{id}")).await;
        assert!(shown.status.is_success(), "{what}: a person can look at it: {shown:?}");
        let (state, code) = (shown.body["state"].as_str().unwrap(), shown.body["last_error"]["code"].as_str());
        let is_right = match ends {
            Ends::Failed(expected) => (state, code) == ("failed", Some(*expected)),
            Ends::Sent => (state, code) == ("succeeded", None),
            Ends::Over => state == "succeeded" || code.is_some_and(|code| !code.is_empty()),
        };
        if !is_right {
            wrong.push(format!("{what} should be {ends:?}: {state}, {}", shown.body["last_error"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!node.log().contains("panicked"), "{kind:?}: {}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_can_not_be_sent_take_places_and_no_memory() {
    const ROWS: usize = 200;
    const PLACES: u64 = 32;
    let sink = Sink::start().await;
    let database = Database::fresh(Kind::Postgres).await;
    let node = Node::start(&Yaml::on(&database).source("crm", &sink.source(&format!(", in_flight: {PLACES}")))).await;
    let mut session = database.session().await;
    // Recording an outcome takes longer than claiming a message.
    session
        .run(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE UPDATE ON resend_log FOR EACH ROW WHEN (NEW.state = 'failed') EXECUTE FUNCTION slow()",
        )
        .await;
    session.run("BEGIN").await;
    for (index, id) in new_ids(ROWS).into_iter().enumerate() {
        let bytes = if index < 40 { 8_000_000 } else { 10 };
        let values = format!("'{id}', 'crm', '{{\"tenant\": null}}', convert_to(repeat('x', {bytes}), 'UTF8')");
        session.run(&format!("INSERT INTO resend_log (id, source, headers, payload) VALUES ({values})")).await;
    }
    session.run("COMMIT").await;
    let (mut most, began) = (0, Instant::now());
    while session.number("SELECT count(*) FROM resend_log WHERE state = 'failed'").await < ROWS as u64 {
        most = most.max(session.number("SELECT coalesce(sum(cardinality(ids)), 0)::bigint FROM redrive_sheet").await);
        assert!(began.elapsed() < Duration::from_secs(40), "not all have failed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((1..=PLACES).contains(&most), "{most} were held");
    assert!(node.memory() < 128, "{} MiB", node.memory());
}
