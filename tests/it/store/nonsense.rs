//! Rows with nonsense from applications: each ends with its reason, and its neighbours go on.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use redrive::message::State;
use redrive::store::{Claim, Completion, Held, Ready, Row, Served};
use uuid::Uuid;

use super::fixture::{Fixture, failed, ids, succeeded};
use super::strays::strays_of;
use crate::support::assert_near;

/// What a node that serves `billing` does with the table: strays and rows that can't be sent are failed with their code, the rest is delivered. Three
/// rounds, so that whatever one round leaves to the next is dealt with too.
async fn serve(cx: &Fixture) -> (HashMap<Uuid, Ready>, HashMap<Uuid, &'static str>) {
    let (mut sent, mut refused) = (HashMap::new(), HashMap::new());
    for _ in 0..3 {
        let strays = strays_of(cx, &["billing"]);
        let token = strays.lease.token;
        for stray in cx.store().await.take_strays(strays).await.unwrap().strays {
            let held = Held { id: stray.id, token };
            let failure = Completion { begun: false, epoch: stray.epoch, attempt: stray.attempt, ..failed(held) };
            assert_eq!(cx.complete(vec![failure]).await, [true], "{stray:?}");
            assert!(refused.insert(stray.id, stray.code).is_none(), "{stray:?} is over");
        }
        for level in 0..=9 {
            let claim = Claim { level, max_payload: 1 << 20, ..cx.claim_of("billing") };
            let token = claim.lease.token;
            let claimed = cx.claim(claim).await;
            for row in claimed.rows {
                match row {
                    Row::Ready(row) => {
                        let (id, epoch, attempt) = (row.message.id, row.message.epoch, row.message.attempt);
                        let done = Completion { epoch, attempt, ..succeeded(Held { id, token }) };
                        assert_eq!(cx.complete(vec![done]).await, [true], "{row:?}");
                        assert!(sent.insert(id, *row).is_none(), "{id} is sent once");
                    }
                    Row::Unusable(row) => {
                        let failure = Completion { begun: false, epoch: row.epoch, attempt: row.attempt, ..failed(Held { id: row.id, token }) };
                        assert_eq!(cx.complete(vec![failure]).await, [true], "{row:?}");
                        assert!(!row.detail.is_empty());
                        assert!(refused.insert(row.id, row.code).is_none(), "{row:?} is over");
                    }
                }
            }
            cx.store().await.close_claims(vec![token]).await.unwrap();
        }
    }
    (sent, refused)
}

/// Inserts a row with these columns and values, of the source `billing` unless they include another; returns its id, which is written the way redrive
/// does.
async fn insert(cx: &Fixture, columns: &str, values: &str) -> Uuid {
    try_insert(cx, columns, values).await.unwrap()
}

async fn try_insert(cx: &Fixture, columns: &str, values: &str) -> Result<Uuid, sqlx::Error> {
    let id = Uuid::now_v7();
    let (source, billing) = if columns.contains("source") { ("", "") } else { ("source, ", "'billing', ") };
    let (payload, hello) = if columns.contains("payload") { ("", "") } else { (", payload", ", 'hello'") };
    let sql = format!("INSERT INTO resend_log (id, {source}{columns}{payload}) VALUES ('{id}', {billing}{values}{hello})");
    cx.raw().await.try_run(&sql).await?;
    Ok(id)
}

/// All of them are shown, whatever they contain, and are finished.
async fn all_over(cx: &Fixture, ids: &[Uuid]) {
    let shown = cx.all().await;
    for id in ids {
        let record = shown.iter().find(|record| record.id == *id).unwrap();
        assert!(record.state.is_finished(), "{record:?}");
        assert!(cx.store().await.attempts(&cx.project, *id).await.unwrap().is_some());
    }
}

pub(crate) async fn a_row_without_a_project_or_due_time_goes_the_usual_way(cx: Fixture) {
    let rows = [
        insert(&cx, "project", "NULL").await,
        insert(&cx, "due_at", "NULL").await,
        insert(&cx, "project, due_at, topic, msg_key", "NULL, NULL, NULL, NULL").await,
        insert(&cx, "priority, headers, order_key, max_retries, expires_at", "NULL, NULL, NULL, NULL, NULL").await,
    ];
    let good = cx.put("billing", 2).await;
    let (sent, refused) = serve(&cx).await;
    assert!(refused.is_empty(), "{refused:?}");
    assert!(rows.iter().chain(&good).all(|id| sent.contains_key(id)), "{sent:?}");
    let row = &sent[&rows[2]];
    assert_eq!(&*row.message.project, "orders");
    assert_near(row.due_at, cx.now().await, Duration::from_secs(5), "due");
    all_over(&cx, &rows).await;
}

pub(crate) async fn a_priority_out_of_range_is_clamped(cx: Fixture) {
    let mut rows = Vec::new();
    for (priority, level) in [("-5", 0), ("99", 9), ("NULL", 0), ("10", 9), ("32767", 9), ("-32768", 0), ("7", 7)] {
        rows.push((insert(&cx, "priority", priority).await, level));
    }
    for (id, level) in &rows {
        assert_eq!(cx.get(*id).await.priority, *level);
    }
    let mut levels: Vec<_> = cx.outlook(&["billing"]).await.due.iter().map(|next| next.level).collect();
    levels.sort_unstable();
    assert_eq!(levels, [0, 7, 9], "the node is told where to look");
    for level in 0..=9 {
        let mut expected: Vec<_> = rows.iter().filter(|row| row.1 == level).map(|row| row.0).collect();
        expected.sort();
        let claimed = cx.claim(Claim { level, ..cx.claim_of("billing") }).await;
        assert_eq!(super::fixture::sorted(super::fixture::ids(&claimed.rows)), expected, "level {level}");
    }
}

pub(crate) async fn headers_that_are_none(cx: Fixture) {
    let mut bad = Vec::new();
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    for headers in ["[]", "{", "7", "{\"a\":{\"b\":1}}", "{\"a\":null}", "nonsense", deep.as_str()] {
        bad.push(insert(&cx, "headers", &format!("'{headers}'")).await);
    }
    let plain = insert(&cx, "headers", "'{\"a\": \"1\", \"n\": 7}'").await;
    let empty = insert(&cx, "headers", "''").await;
    let good = cx.put("billing", 2).await;
    let (sent, refused) = serve(&cx).await;
    for id in &bad {
        assert_eq!(refused.get(id), Some(&"invalid_headers"), "{sent:?}");
    }
    assert_eq!(refused.len(), bad.len());
    assert!(good.iter().chain([&plain, &empty]).all(|id| sent.contains_key(id)));
    assert_eq!(sent[&plain].message.headers.iter().collect::<Vec<_>>(), [("a", "1"), ("n", "7")]);
    assert_eq!(cx.get(bad[5]).await.headers.as_deref(), Some("nonsense"), "a person sees what is there");
    let shown = cx.get(bad[0]).await;
    assert_eq!((shown.state, shown.attempts), (State::Failed, 0));
    all_over(&cx, &bad).await;
}

pub(crate) async fn a_payload_of_none_or_of_text(cx: Fixture) {
    let none = insert(&cx, "payload", "NULL").await;
    let empty = insert(&cx, "payload", "''").await;
    let text = insert(&cx, "payload", "'hello'").await;
    let bytes = insert(&cx, "payload", &cx.bytes(b"\x00\xff'\\")).await;
    let (sent, refused) = serve(&cx).await;
    assert!(refused.is_empty());
    let payload = |id| sent[&id].message.payload.as_deref();
    assert_eq!((payload(none), payload(empty)), (None, Some(&b""[..])), "a tombstone is not an empty body");
    assert_eq!((payload(text), payload(bytes)), (Some(&b"hello"[..]), Some(&b"\x00\xff'\\"[..])));
    assert_eq!(cx.get(none).await.payload, None);
    if cx.backend.is_sqlite() {
        // SQLite keeps what it is given: text, a number.
        let text = insert(&cx, "payload", "'grüße'").await;
        let number = insert(&cx, "payload, topic, msg_key", "17, 4, 5").await;
        let blobs = insert(&cx, "topic, msg_key, headers", "X'ff00', X'fe', X'7b7d'").await;
        let (sent, refused) = serve(&cx).await;
        assert_eq!(sent[&text].message.payload.as_deref(), Some("grüße".as_bytes()));
        assert_eq!(sent[&number].message.payload.as_deref(), Some(&b"17"[..]));
        assert!(sent.contains_key(&blobs) || refused.contains_key(&blobs));
        all_over(&cx, &[text, number, blobs]).await;
    }
}

pub(crate) async fn absurd_retries_are_clamped(cx: Fixture) {
    let mut rows = Vec::new();
    for (retries, expected) in [("-1", Some(0)), ("-2147483648", Some(0)), ("2147483647", None), ("3", Some(3)), ("0", Some(0))] {
        rows.push((insert(&cx, "max_retries", retries).await, expected));
    }
    let absurd = try_insert(&cx, "max_retries", "9223372036854775807").await.ok();
    let (sent, refused) = serve(&cx).await;
    assert!(refused.is_empty(), "{refused:?}");
    for (id, expected) in rows.iter().copied().chain(absurd.map(|id| (id, None))) {
        let retry = sent[&id].retry.as_deref().expect("what the column says");
        assert!(retry.faults().is_empty(), "a policy that can be applied: {retry:?}");
        if expected.is_some() {
            assert_eq!(retry.max_retries, expected);
        } else {
            assert!(retry.max_retries.unwrap() >= 10_000, "clamped, not forgotten: {retry:?}");
        }
    }
}

pub(crate) async fn absurd_counters_do_not_stop_the_others(cx: Fixture) {
    let mut rows = Vec::new();
    for column in ["attempts", "epoch", "retries"] {
        for value in ["9223372036854775807", "2147483647", "-1", "-9223372036854775808"] {
            let id = insert(&cx, "topic", "'t'").await;
            // If the column does not accept a number of this size, there is nothing to test.
            if cx.raw().await.try_run(&format!("UPDATE resend_log SET {column} = {value} WHERE id = '{id}'")).await.is_ok() {
                rows.push(id);
            } else {
                cx.sql(&format!("DELETE FROM resend_log WHERE id = '{id}'")).await;
            }
        }
    }
    assert!(rows.len() >= 6);
    assert_eq!(cx.all().await.len(), rows.len());
    let good = cx.put("billing", 2).await;
    let (sent, refused) = serve(&cx).await;
    assert!(good.iter().all(|id| sent.contains_key(id)));
    assert!(rows.iter().all(|id| sent.contains_key(id) || refused.contains_key(id)), "{refused:?}");
    all_over(&cx, &rows).await;
    // Changes that people ask for cope with them too.
    cx.sql("UPDATE resend_log SET state = 'failed'").await;
    let all: Vec<_> = rows.iter().chain(&good).copied().collect();
    let changed = cx.store().await.retry(&cx.project, all.clone()).await.unwrap();
    assert_eq!(changed.len(), all.len());
    assert!(good.iter().all(|id| all.iter().zip(&changed).any(|pair| pair == (id, &redrive::store::Changed::Done(State::Pending)))), "{changed:?}");
    let (sent, _) = serve(&cx).await;
    assert!(good.iter().all(|id| sent.contains_key(id)));
}

pub(crate) async fn what_fails_by_its_numbers_goes_where_no_failure_is_kept(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    cx.sql("UPDATE resend_log SET epoch = -7").await;
    let claim = cx.claim_of("billing");
    let token = claim.lease.token;
    let claimed = cx.claim(claim).await;
    let Row::Unusable(row) = &claimed.rows[0] else { panic!("{claimed:?}") };
    let (epoch, attempt) = (row.epoch, row.attempt);
    let failure = Completion { epoch, attempt, begun: false, delete: true, ..failed(Held { id, token }) };
    assert_eq!(cx.complete(vec![failure]).await, [true]);
    assert_eq!(cx.raw().await.number("SELECT count(*) FROM resend_log").await, 0);
}

pub(crate) async fn an_id_that_can_not_be_mended_keeps_no_later_message(cx: Fixture) {
    cx.store().await;
    for key in ["bad", "good"] {
        let id = Uuid::now_v7().to_string().to_uppercase();
        cx.sql(&format!("INSERT INTO resend_log (id, source, msg_key, payload) VALUES ('{id}', 'billing', '{key}', 'x')")).await;
    }
    cx.sql("CREATE TRIGGER unmoved BEFORE UPDATE ON resend_log WHEN NEW.msg_key = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END").await;
    let id = cx.put("billing", 1).await[0];
    // One at a time, as behind an open breaker.
    let probed = cx.claim(Claim { limit: 1, ..cx.claim_of("billing") }).await;
    assert_eq!((probed.rows.len(), probed.seen), (1, 2), "it looks behind one that stays");
    let claimed = cx.claim(cx.claim_of("billing")).await;
    assert_eq!(ids(&claimed.rows), [id]);
    let nothing = cx.claim(Claim { limit: 1, ..cx.claim_of("billing") }).await;
    assert_eq!((nothing.rows.len(), nothing.seen), (0, 1));
    assert_eq!(cx.raw().await.number("SELECT count(*) FROM redrive_sheet").await, 2, "none without messages");
    assert!(claimed.refused.is_some(), "it is told");
    cx.sql("DROP TRIGGER unmoved").await;
    assert_eq!(cx.claim(cx.claim_of("billing")).await.rows.len(), 1, "it was left where it is");
}

pub(crate) async fn a_time_that_is_none_is_a_stray(cx: Fixture) {
    let junk: &[&str] = if cx.backend.is_postgres() {
        &["'infinity'", "'-infinity'"]
    } else if cx.backend.is_mysql() {
        cx.sql("SET SESSION sql_mode = ''").await;
        &["'0000-00-00 00:00:00'", "'9999-12-31 23:59:59'", "'nonsense'", "'2024-00-00 00:00:00'"]
    } else {
        &["'tomorrow'", "''", "X'00'", "9223372036854775807", "-9223372036854775808", "'2026-13-45'", "1e300"]
    };
    let mut bad = Vec::new();
    for due_at in junk {
        bad.push(insert(&cx, "due_at", due_at).await);
        // The age is judged where it is known; a row does not get stuck because of it.
        bad.push(insert(&cx, "expires_at", due_at).await);
    }
    let good = cx.put("billing", 2).await;
    assert_eq!(cx.all().await.len(), bad.len() + 2, "they are shown");
    let outlook = cx.outlook(&["billing"]).await;
    assert!(outlook.due.iter().any(|due| due.at <= outlook.now), "what sorts first hides nothing: {outlook:?}");
    cx.store().await.counts(&cx.project).await.unwrap();
    cx.store().await.unserved(Served { project: cx.project.clone(), sources: Vec::new() }, Duration::ZERO, 10).await.unwrap();
    let (sent, refused) = serve(&cx).await;
    assert!(good.iter().all(|id| sent.contains_key(id)));
    for (id, code) in &refused {
        assert!(["invalid_due_at", "invalid_row"].contains(code), "{id}: {code}");
    }
    for (index, id) in bad.iter().enumerate() {
        assert!(sent.contains_key(id) || refused.contains_key(id), "{} as {}", junk[index / 2], ["due_at", "expires_at"][index % 2]);
    }
    // An age limit after the calendar's end is the usual way to say that there is none.
    let never = junk.iter().position(|junk| ["'infinity'", "'9999-12-31 23:59:59'", "9223372036854775807"].contains(junk)).unwrap();
    assert!(sent.contains_key(&bad[2 * never + 1]), "it never expires");
    all_over(&cx, &bad).await;
    let first = if cx.backend.is_mysql() { bad[2] } else { bad[0] };
    assert_eq!(refused.get(&first), Some(&"invalid_due_at"), "never due, and told so");
}

pub(crate) async fn times_as_applications_write_them(cx: Fixture) {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let moment = at("2024-02-03T04:05:06Z");
    let mut times = vec![("'2024-02-03 04:05:06'", moment), ("'2024-02-03 04:05:06.250'", at("2024-02-03T04:05:06.250Z"))];
    if cx.backend.is_postgres() {
        cx.sql("SET TIME ZONE 'UTC'").await;
    }
    if !cx.backend.is_mysql() {
        times.extend([
            ("'2024-02-03T04:05:06Z'", moment),
            ("'2024-02-03T09:05:06+05:00'", moment),
            ("'2024-02-03T04:05:06.250Z'", at("2024-02-03T04:05:06.250Z")),
            ("'2024-02-03T01:35:06-02:30'", moment),
        ]);
    }
    if cx.backend.is_sqlite() {
        times.extend([("1706933106000", moment), ("'2024-02-03'", at("2024-02-03T00:00:00Z"))]);
    }
    let mut rows = Vec::new();
    for (sql, time) in &times {
        rows.push((insert(&cx, "due_at", sql).await, *time));
    }
    let far = insert(&cx, "due_at", "'2199-01-01 00:00:00'").await;
    let old = insert(&cx, "expires_at", "'2024-02-03 04:05:06'").await;
    for (id, time) in &rows {
        assert_eq!(cx.get(*id).await.due_at, Some(*time));
    }
    let (sent, refused) = serve(&cx).await;
    assert!(refused.is_empty(), "{refused:?}");
    for (id, time) in &rows {
        assert_eq!(sent[id].due_at, *time);
    }
    assert_eq!(sent[&old].standing.expires_at, Some(moment), "the age is the engine's to judge");
    assert_eq!(cx.state(far).await, State::Pending, "in its time");
    assert_eq!(cx.get(far).await.due_at, Some(at("2199-01-01T00:00:00Z")));
}

pub(crate) async fn an_id_of_its_own_kind(cx: Fixture) {
    // Too large to be read with the lock of a claim, which matters where a row is not found by its id.
    let large = "x".repeat(20_000);
    // Any UUID is an id, whatever its version.
    let four = Uuid::from_u128(0x4b1d_0f4e_5d9c_4b0f_9a4e_0123_4567_89ab);
    let upper = four.to_string().replace('4', "5").to_uppercase();
    for id in [four.to_string(), upper.clone(), Uuid::nil().to_string(), Uuid::max().to_string()] {
        cx.sql(&format!("INSERT INTO resend_log (id, source, payload) VALUES ('{id}', 'billing', '{large}')")).await;
    }
    let foreign = ["order-17", "", "017", "{4b1d0f4e-5d9c-4b0f-9a4e-0123456789ab}", "4b1d0f4e5d9c4b0f9a4e0123456789ac"];
    let mut strange = 0;
    if !cx.backend.is_postgres() {
        for id in foreign {
            let sql = format!("INSERT INTO resend_log (id, source, payload) VALUES ('{id}', 'billing', '{large}')");
            strange += u64::from(cx.raw().await.try_run(&sql).await.is_ok());
        }
    }
    if cx.backend.is_sqlite() {
        for id in ["NULL", "X'00'", "17", "CAST(X'ff' AS TEXT)"] {
            let sql = format!("INSERT INTO resend_log (id, source, payload) VALUES ({id}, 'billing', '{large}')");
            strange += u64::from(cx.raw().await.try_run(&sql).await.is_ok());
        }
    }
    let good = cx.put("billing", 2).await;
    cx.all().await;
    let (sent, refused) = serve(&cx).await;
    let kept = [four, upper.parse().unwrap(), Uuid::nil(), Uuid::max()];
    assert!(good.iter().chain(&kept).all(|id| sent.contains_key(id)), "{sent:?} {refused:?}");
    let waiting = cx.raw().await.rows("SELECT id, state, attempts FROM resend_log WHERE state NOT IN ('succeeded', 'failed')").await;
    assert!(waiting.is_empty(), "of {strange} rows with strange ids these are not over: {waiting:?}");
    for id in kept {
        assert_eq!(cx.state(id).await, State::Succeeded);
        assert_eq!(sent[&id].message.payload.as_ref().map(|payload| payload.len()), Some(large.len()));
    }
}
