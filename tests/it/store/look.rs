//! What people see.

use std::time::Duration;

use bytes::Bytes;
use redrive::message::{AttemptOutcome, Key, State};
use redrive::store::{Due, Id, List, MAX_SHOWN_PAYLOAD, NewMessage};
use uuid::Uuid;

use super::fixture::{Fixture, LONG, NONE, error, failed, message, refused, sorted, succeeded};
use crate::support::eventually;

async fn list(cx: &Fixture, list: List) -> Vec<Uuid> {
    let list = List { project: cx.project.to_string(), limit: 100, ..list };
    cx.store().await.list(list).await.unwrap().items.iter().map(|record| record.id).collect()
}

pub(crate) async fn one_message(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    let store = cx.store().await;
    assert!(store.get(&cx.project, Uuid::now_v7(), true).await.unwrap().is_none());
    assert!(store.get("invoices", id, true).await.unwrap().is_none());
    let with = store.get(&cx.project, id, true).await.unwrap().unwrap();
    let without = store.get(&cx.project, id, false).await.unwrap().unwrap();
    assert_eq!((with.payload, without.payload), (message("billing").payload, None));
    assert_eq!((with.id, without.id, without.topic.as_deref()), (id, id, Some("invoices")));
}

pub(crate) async fn a_payload_too_large_is_told_and_not_shown(cx: Fixture) {
    if cx.backend.is_mysql() {
        // A payload of this size does not fit into its packets, unless somebody changed that.
        return;
    }
    let ids = cx.put("billing", 3).await;
    for (id, bytes) in [(ids[0], MAX_SHOWN_PAYLOAD), (ids[1], MAX_SHOWN_PAYLOAD + 1)] {
        let payload = if cx.backend.is_sqlite() { format!("zeroblob({bytes})") } else { format!("convert_to(repeat('x', {bytes}), 'UTF8')") };
        cx.sql(&format!("UPDATE resend_log SET payload = {payload} WHERE id = '{id}'")).await;
    }
    cx.sql(&format!("UPDATE resend_log SET payload = NULL WHERE id = '{}'", ids[2])).await;
    let most = MAX_SHOWN_PAYLOAD as usize;
    let mut shown = Vec::new();
    for id in &ids {
        let record = cx.get(*id).await;
        shown.push((record.payload.map(|payload| payload.len()), record.payload_bytes));
    }
    assert_eq!(shown, [(Some(most), Some(most as u64)), (None, Some(most as u64 + 1)), (None, None)]);
    let listed: Vec<_> = cx.all().await.into_iter().map(|record| (record.id, record.payload_bytes, record.payload.is_some())).collect();
    assert_eq!(listed, [(ids[2], None, false), (ids[1], shown[1].1, false), (ids[0], shown[0].1, true)]);
}

pub(crate) async fn every_filter_narrows(cx: Fixture) {
    let key = |text: &str| Some(Key::Text(text.to_owned()));
    let topic = |text: &str| Some(text.to_owned());
    let a = NewMessage { topic: topic("red"), key: key("k1"), payload: Some(Bytes::from_static(b"A")), ..message("billing") };
    let b = NewMessage { topic: topic("blue"), key: key("k2"), due: Due::After(LONG), ..message("billing") };
    let c = NewMessage { topic: topic("red"), key: key("K1"), due: Due::After(LONG), ..message("refund") };
    let (a, b, c) = (a.clone(), b.clone(), c.clone());
    let (ida, idb, idc) = (a.id, b.id, c.id);
    cx.insert(vec![a]).await;
    let (_, held) = cx.take(ida, "billing", LONG).await;
    cx.complete(vec![failed(held)]).await;
    let since = cx.now().await;
    cx.insert(vec![b, c]).await;

    assert_eq!(list(&cx, List::default()).await, [idc, idb, ida], "the newest first");
    assert_eq!(list(&cx, List { state: Some(State::Failed), ..List::default() }).await, [ida]);
    assert_eq!(list(&cx, List { state: Some(State::Pending), ..List::default() }).await, [idc, idb]);
    assert_eq!(list(&cx, List { state: Some(State::Blocked), ..List::default() }).await, NONE);
    assert_eq!(list(&cx, List { source: Some("refund".to_owned()), ..List::default() }).await, [idc]);
    assert_eq!(list(&cx, List { topic: topic("red"), ..List::default() }).await, [idc, ida]);
    assert_eq!(list(&cx, List { topic: topic("RED"), ..List::default() }).await, NONE, "as it is written");
    assert_eq!(list(&cx, List { key: topic("k1"), ..List::default() }).await, [ida]);
    assert_eq!(list(&cx, List { key: topic("k1 "), ..List::default() }).await, NONE);
    assert_eq!(list(&cx, List { error_code: topic("http_410"), ..List::default() }).await, [ida]);
    assert_eq!(list(&cx, List { error_code: topic("http_503"), ..List::default() }).await, NONE);
    assert_eq!(list(&cx, List { idempotency_key: topic("none"), ..List::default() }).await, NONE);
    assert_eq!(list(&cx, List { since: Some(since), ..List::default() }).await, [idc, idb]);
    assert_eq!(list(&cx, List { until: Some(since), ..List::default() }).await, [ida]);
    // In another time zone these are years within the calendar.
    let [first, last] = ["0000-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"].map(|time| Some(time.parse().unwrap()));
    assert_eq!(list(&cx, List { since: first, until: last, ..List::default() }).await, [idc, idb, ida]);
    assert_eq!(
        (list(&cx, List { until: first, ..List::default() }).await, list(&cx, List { since: last, ..List::default() }).await),
        (vec![], vec![])
    );
    let created = cx.get(idb).await.created_at;
    assert!(list(&cx, List { since: Some(created), ..List::default() }).await.contains(&idb), "at this time or later");
    assert!(!list(&cx, List { until: Some(created), ..List::default() }).await.contains(&idb), "before this time");
    let several = List { topic: topic("red"), source: Some("billing".to_owned()), state: Some(State::Failed), key: topic("k1"), ..List::default() };
    assert_eq!(list(&cx, several).await, [ida]);
    assert_eq!(
        list(&cx, List { topic: topic("red"), source: Some("billing".to_owned()), state: Some(State::Pending), ..List::default() }).await,
        NONE
    );

    let page = |payload| List { project: cx.project.to_string(), state: Some(State::Failed), limit: 5, payload, ..List::default() };
    let with = cx.store().await.list(page(true)).await.unwrap().items.remove(0);
    let without = cx.store().await.list(page(false)).await.unwrap().items.remove(0);
    assert_eq!((with.payload.as_deref(), without.payload), (Some(&b"A"[..]), None));
    assert_eq!(with.last_error, Some(error("permanent", "http_410")));
}

pub(crate) async fn what_finished_within_a_time(cx: Fixture) {
    let (first, second, waiting) = (cx.put("billing", 1).await[0], cx.put("refund", 1).await[0], cx.put("invoices", 1).await[0]);
    let finished_at = async |id| cx.get(id).await.finished_at.unwrap();
    let (_, held) = cx.take(second, "refund", LONG).await;
    cx.complete(vec![succeeded(held)]).await;
    let early = finished_at(second).await;
    eventually(Duration::from_secs(5), async || (cx.now().await > early).then_some(())).await;
    let (_, held) = cx.take(first, "billing", LONG).await;
    cx.complete(vec![failed(held)]).await;
    let late = finished_at(first).await;
    // What an application writes there means nothing for a waiting message.
    cx.sql(&format!("UPDATE resend_log SET finished_at = {} WHERE id = '{waiting}'", cx.time(0))).await;

    let within = |finished_since, finished_until| List { finished_since, finished_until, ..List::default() };
    assert_eq!(list(&cx, within(Some(early), None)).await, [second, first], "the newest first, not what finished last; at this time or later");
    assert_eq!(list(&cx, within(Some(late), None)).await, [first]);
    assert_eq!(list(&cx, within(None, Some(late))).await, [second], "before this time");
    assert_eq!(list(&cx, within(None, Some(early))).await, NONE);
    assert_eq!(list(&cx, within(Some(early), Some(late))).await, [second]);
    let [year_0, year_9999] = ["0000-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"].map(|time| Some(time.parse().unwrap()));
    assert_eq!(list(&cx, within(year_0, year_9999)).await, [second, first]);
    for &state in State::ALL {
        let of_it = match state {
            State::Succeeded => vec![second],
            State::Failed => vec![first],
            _ => vec![],
        };
        for narrowed in [within(Some(early), None), within(None, year_9999)] {
            assert_eq!(list(&cx, List { state: Some(state), ..narrowed }).await, of_it, "{state}");
        }
    }
    let behind = |list: List| List { after: Some(Id::Known(second)), ..list };
    assert_eq!(list(&cx, behind(within(Some(early), None))).await, [first]);
    assert_eq!(list(&cx, behind(within(None, Some(late)))).await, NONE);
    assert_eq!(list(&cx, List { source: Some("refund".to_owned()), ..within(Some(early), None) }).await, [second]);
}

pub(crate) async fn page_by_page(cx: Fixture) {
    let mut put = cx.put("billing", 250).await;
    put.sort_unstable_by(|a, b| b.cmp(a));
    cx.put("refund", 20).await;
    for limit in [1000, 250, 249, 125, 37] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let list = List { project: cx.project.to_string(), source: Some("billing".to_owned()), limit, after, ..List::default() };
            let page = cx.store().await.list(list).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            seen.extend(page.items.iter().map(|record| record.id));
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, put, "{limit} a page");
        assert_eq!(pages, 250u32.div_ceil(limit), "{limit} a page, and none in vain");
    }
}

pub(crate) async fn ids_of_their_own_kind_end_no_list(cx: Fixture) {
    if cx.backend.is_postgres() {
        // Ids are UUIDs there, and nothing comes after another kind of id.
        let list = List { project: cx.project.to_string(), limit: 1, after: Some(Id::Text("order-17".to_owned())), ..List::default() };
        assert!(cx.store().await.list(list).await.unwrap().items.is_empty());
        return;
    }
    let upper: Vec<_> = (0..3).map(|_| Uuid::now_v7()).collect();
    let mut shown = cx.put("billing", 3).await;
    let odd = ["order-17", "", "~", "text:", "0"].map(|id| format!("'{id}'")).into_iter().chain(upper.iter().map(|id| format!("UPPER('{id}')")));
    let odd: Vec<_> =
        if cx.backend.is_sqlite() { odd.chain(["X'00ff'", "CAST(X'ff41' AS TEXT)", "17"].map(str::to_owned)).collect() } else { odd.collect() };
    for id in &odd {
        cx.sql(&format!("INSERT INTO resend_log (id, source, topic, msg_key, payload) VALUES ({id}, 'billing', 't', 'k', 'p')")).await;
    }
    shown.extend(upper);
    let rows = shown.len() + odd.len() - 3;
    for (limit, payload) in [(1, false), (1, true), (2, false), (5, true), (100, false)] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let list = List { project: cx.project.to_string(), limit, after, payload, ..List::default() };
            let page = cx.store().await.list(list).await.unwrap();
            assert!(page.items.iter().all(|record| record.payload.is_some() == payload));
            seen.extend(page.items.iter().map(|record| record.id));
            pages += 1;
            after = page.next.map(|next| next.to_string().parse().unwrap());
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, rows.div_ceil(limit as usize), "{limit} a page");
        assert_eq!(sorted(seen), sorted(shown.clone()), "{limit} a page: each that can be shown, once");
    }
}

pub(crate) async fn attempts_in_order(cx: Fixture) {
    let store = cx.store().await;
    assert!(store.attempts(&cx.project, Uuid::now_v7()).await.unwrap().is_none());
    let id = cx.put("billing", 1).await[0];
    assert!(store.attempts("invoices", id).await.unwrap().is_none());
    assert_eq!(store.attempts(&cx.project, id).await.unwrap().unwrap().len(), 0);
    let (_, held) = cx.take(id, "billing", LONG).await;
    cx.complete(vec![refused(held, Duration::ZERO)]).await;
    let (_, held) = cx.take(id, "billing", LONG).await;
    cx.complete(vec![redrive::store::Completion { attempt: 2, ..failed(held) }]).await;
    store.retry(&cx.project, vec![id]).await.unwrap();
    let (row, held) = cx.take(id, "billing", LONG).await;
    assert_eq!((row.message.epoch, row.message.attempt, row.standing.logged, row.standing.last_entry), (2, 1, 0, None));
    cx.complete(vec![redrive::store::Completion { epoch: 2, ..succeeded(held) }]).await;
    let attempts = store.attempts(&cx.project, id).await.unwrap().unwrap();
    let facts: Vec<_> = attempts.iter().map(|attempt| (attempt.epoch, attempt.number, attempt.outcome)).collect();
    assert_eq!(facts, [(1, 1, AttemptOutcome::Refused), (1, 2, AttemptOutcome::Permanent), (2, 1, AttemptOutcome::Succeeded)]);
    assert_eq!(attempts[1].error, Some(error("permanent", "http_410")));
}
