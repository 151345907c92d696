//! Futures dropped at any moment, sessions that hold locks, servers that stall, and an application that keeps working beside it all.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use redrive::message::State;
use redrive::store::{self, Changed, Claim, Completion, Error, Held, Idempotency, NewMessage, Store, Verdict};
use redrive::units::{Secret, Span};
use url::Url;
use uuid::Uuid;

use super::act::one_in;
use super::fixture::{Fixture, LONG, SHORT, failed, ids, message, ready, refused, sorted, succeeded};
use crate::support::{Proxy, eventually};

/// Not for ever, even on a busy machine.
const SOON: Duration = Duration::from_secs(15);

pub(crate) async fn what_was_answered_is_there_whatever_was_dropped(cx: Fixture) {
    const INSERTS: usize = 3000;
    cx.store().await;
    let config = store::Config { pool: 3, ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    store.prepare().await.unwrap();
    // Dropped at any time between the first moment and a little after an answer would have come, however busy the machine is: the limit goes down
    // after an answer, and up after none.
    let longest = AtomicU64::new(10_000);
    // Plain inserts, and some with an idempotency key, which take more than one statement; claims beside them.
    let inserts = futures::stream::iter(0..INSERTS).map(|number| {
        let idempotency = (number % 2 == 0).then(|| Idempotency { key: format!("key-{number}"), digest: [0; 32] });
        let new = NewMessage { idempotency, leased: number % 5 == 0, ..message("billing") };
        let (id, insert, claim, store) = (new.id, cx.insertion(vec![new]), Claim { limit: 3, ..cx.claim_of("billing") }, store.clone());
        let longest = &longest;
        async move {
            let most = longest.load(Ordering::Relaxed);
            let patience = Duration::from_micros(rand::random_range(0..most));
            if number % 10 == 3 {
                let _ = tokio::time::timeout(patience, store.claim(claim)).await;
            }
            match tokio::time::timeout(patience, store.insert(insert)).await {
                Ok(Ok(inserted)) => {
                    longest.store((most - most / 16).max(100), Ordering::Relaxed);
                    Some((id, inserted.verdicts[0]))
                }
                Ok(Err(error)) => panic!("{error:?}"),
                Err(_) => {
                    longest.store(most + most / 16, Ordering::Relaxed);
                    None
                }
            }
        }
    });
    let answers: Vec<_> = inserts.buffer_unordered(12).filter_map(std::future::ready).collect().await;
    assert!((100..INSERTS).contains(&answers.len()), "{} of {INSERTS} were answered: no storm", answers.len());
    assert!(answers.iter().all(|(_, verdict)| *verdict == Verdict::New));
    let there: HashSet<Uuid> =
        cx.raw().await.rows("SELECT id FROM resend_log").await.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    let missing = answers.iter().filter(|(id, _)| !there.contains(id)).count();
    assert_eq!(missing, 0, "of {} that were answered", answers.len());
    // And the store keeps working.
    assert_eq!(store.insert(cx.insertion(vec![message("billing")])).await.unwrap().verdicts, [Verdict::New]);
    store.close().await;
}

/// A store that gives up soon.
async fn impatient(cx: &Fixture) -> Arc<dyn Store> {
    cx.store().await;
    let config = store::Config { timeout: Span::secs(1), ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    eventually(SOON, async || store.prepare().await.ok()).await;
    store
}

pub(crate) async fn a_lock_of_another_session_ends_in_time(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    let store = impatient(&cx).await;
    let mut raw = cx.test.raw().await;
    raw.run(if cx.backend.is_sqlite() { "BEGIN IMMEDIATE" } else { "BEGIN" }).await;
    raw.run(&format!("UPDATE resend_log SET topic = 'mine' WHERE id = '{id}'")).await;
    let started = Instant::now();
    let error = store.cancel(&cx.project, vec![id]).await.unwrap_err();
    // The server answers first, however short the store's timeout: otherwise it would be considered away.
    assert!(matches!(error, Error::Contended(_)) || cx.backend.is_sqlite() && matches!(error, Error::TimedOut(_)), "{error:?}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    raw.run("ROLLBACK").await;
    let cancelled = eventually(SOON, async || store.cancel(&cx.project, vec![id]).await.ok()).await;
    assert_eq!(cancelled, [Changed::Done(State::Cancelled)]);

    // The whole table.
    raw.run(if cx.backend.is_mysql() {
        "LOCK TABLES resend_log WRITE"
    } else if cx.backend.is_sqlite() {
        "BEGIN IMMEDIATE"
    } else {
        "BEGIN"
    })
    .await;
    if cx.backend.is_postgres() {
        raw.run("LOCK TABLE resend_log IN ACCESS EXCLUSIVE MODE").await;
    }
    let started = Instant::now();
    let (insert, claim) = (cx.insertion(vec![message("billing")]), cx.claim_of("billing"));
    let (inserted, claimed) = tokio::join!(store.insert(insert), store.claim(claim));
    for error in [inserted.unwrap_err(), claimed.unwrap_err()] {
        assert!(matches!(error, Error::TimedOut(_) | Error::Contended(_)), "{error:?}");
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    raw.run(if cx.backend.is_mysql() { "UNLOCK TABLES" } else { "ROLLBACK" }).await;
    let inserted = eventually(SOON, async || store.insert(cx.insertion(vec![message("billing")])).await.ok()).await;
    assert_eq!(inserted.verdicts, [Verdict::New]);
    store.close().await;
}

pub(crate) async fn a_server_that_stalls_ends_in_time(cx: Fixture) {
    cx.store().await;
    let mut url: Url = cx.test.config.url.expose().parse().unwrap();
    let proxy = Proxy::to(&format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())).await;
    url.set_port(Some(proxy.port())).unwrap();
    let config = store::Config { url: Secret::new(url.as_str()), timeout: Span::secs(1), ..cx.test.config.clone() };
    let store = store::open(&config, &cx.project).unwrap();
    eventually(SOON, async || store.prepare().await.ok()).await;
    proxy.stall();
    for _ in 0..2 {
        let started = Instant::now();
        let (insert, count) = (store.insert(cx.insertion(vec![message("billing")])), store.counts(&cx.project));
        let (inserted, counted) = tokio::join!(insert, count);
        for error in [inserted.unwrap_err(), counted.unwrap_err()] {
            assert!(matches!(error, Error::TimedOut(_) | Error::Unavailable(_)), "{error:?}");
        }
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    }
    proxy.open();
    eventually(SOON, async || store.insert(cx.insertion(vec![message("billing")])).await.ok()).await;
    store.close().await;
}

/// The server ends the transaction of a node that says nothing more, well within the shortest lease.
pub(crate) async fn a_node_that_stops_during_a_claim_holds_up_no_other(cx: Fixture) {
    let (put, limit) = (cx.put("billing", 2).await, 1);
    let first = ids(&cx.claim(Claim { limit, ..cx.claim_of("billing") }).await.rows);
    assert_eq!(first.len(), 1, "from now on the source has a turn");
    let mut url: Url = cx.test.config.url.expose().parse().unwrap();
    let proxy = Proxy::to(&format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())).await;
    url.set_port(Some(proxy.port())).unwrap();
    let stopped = store::open(&store::Config { url: Secret::new(url.as_str()), ..cx.test.config.clone() }, &cx.project).unwrap();
    stopped.prepare().await.unwrap();

    // It waits for its turn, is stopped, and has its turn then.
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    raw.rows("SELECT source FROM redrive_turn FOR UPDATE").await;
    let claim = tokio::spawn({
        let (store, claim) = (stopped.clone(), Claim { limit, ..cx.claim_of("billing") });
        async move { store.claim(claim).await }
    });
    let waits = if cx.backend.is_postgres() {
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%redrive_turn%' AND query LIKE '%' || current_schema() || '%'"
    } else {
        "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE '%redrive_turn%' AND id <> CONNECTION_ID()"
    };
    eventually(SOON, async || (cx.raw().await.number(waits).await > 0).then_some(())).await;
    proxy.stall();
    raw.run("ROLLBACK").await;
    let claimed = eventually(SOON, async || cx.store().await.claim(cx.claim_of("billing")).await.ok()).await;
    assert_eq!(sorted([first, ids(&claimed.rows)].concat()), sorted(put));
    assert!(claimed.waited < Duration::from_secs(4), "{:?}", claimed.waited);
    claim.abort();
    proxy.open();
    stopped.close().await;
}

pub(crate) async fn rows_that_a_stopped_application_holds_are_skipped(cx: Fixture) {
    let now = cx.now().await;
    let batch: Vec<_> =
        (0..4).map(|number| NewMessage { due: store::Due::At(now - Duration::from_secs(60 - number)), ..message("billing") }).collect();
    let put: Vec<_> = batch.iter().map(|message| message.id).collect();
    cx.insert(batch).await;
    let store = cx.store().await;
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    raw.run(&format!("UPDATE resend_log SET topic = 'mine' WHERE id IN ('{}', '{}')", put[0], put[2])).await;
    // A claim that waited would end with an error, after half of the store's timeout.
    let claimed = store.claim(cx.claim_of("billing")).await.unwrap();
    assert_eq!(ids(&claimed.rows), [put[1], put[3]]);
    raw.run("ROLLBACK").await;
    assert_eq!(ids(&store.claim(cx.claim_of("billing")).await.unwrap().rows), [put[0], put[2]]);
}

pub(crate) async fn a_row_that_somebody_holds_keeps_no_lapsed_lease_from_being_taken_over(cx: Fixture) {
    let put = cx.put("billing", 3).await;
    let claim = Claim { lease: cx.lease(SHORT), ..cx.claim_of("billing") };
    assert_eq!(cx.claim(claim).await.rows.len(), 3);
    cx.lapse("billing").await;
    let store = cx.store().await;
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    raw.run(&format!("UPDATE resend_log SET topic = 'mine' WHERE id = '{}'", put[1])).await;
    let taken = async || sorted(store.take_over(cx.take_over_of(&["billing"])).await.unwrap().iter().map(|row| row.id).collect());
    assert_eq!(taken().await, [put[0], put[2]]);
    assert!(cx.outlook(&["billing"]).await.lapsed, "it is not forgotten");
    raw.run("ROLLBACK").await;
    assert_eq!(taken().await, [put[1]]);
    assert!(taken().await.is_empty());
}

pub(crate) async fn rows_that_somebody_holds_keep_no_later_claims_from_being_taken_over(cx: Fixture) {
    let mut claims = Vec::new();
    for _ in 0..6 {
        let ids = cx.put("billing", 2).await;
        let claim = Claim { lease: cx.lease(SHORT), ..cx.claim_of("billing") };
        assert_eq!(cx.claim(claim).await.rows.len(), 2);
        claims.push(ids);
    }
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    // More of them than are looked at together.
    for id in claims[..5].iter().flatten() {
        assert_eq!(raw.run(&format!("UPDATE resend_log SET topic = 'mine' WHERE id = '{id}'")).await, 1);
    }
    // The last of them ends last.
    let store = cx.store().await;
    let taken = eventually(Duration::from_secs(5), async || {
        Some(store.take_over(cx.take_over_of(&["billing"])).await.unwrap()).filter(|taken| !taken.is_empty())
    });
    assert_eq!(sorted(taken.await.iter().map(|row| row.id).collect()), sorted(claims[5].clone()));
    raw.run("ROLLBACK").await;
}

pub(crate) async fn a_claim_says_how_long_it_waited_for_its_turn(cx: Fixture) {
    cx.put("billing", 2).await;
    let one = Claim { limit: 1, ..cx.claim_of("billing") };
    assert!(cx.claim(one).await.waited < SOON);
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    raw.rows("SELECT 1 FROM redrive_turn WHERE source = 'billing' FOR UPDATE").await;
    let (claimed, ()) = tokio::join!(cx.claim(cx.claim_of("billing")), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        raw.run("COMMIT").await;
    });
    assert!(claimed.waited >= Duration::from_millis(200), "{:?}", claimed.waited);
    assert_eq!(claimed.rows.len(), 1);
}

pub(crate) async fn what_somebody_has_locked_is_told_at_once(cx: Fixture) {
    let put = cx.put("billing", 4).await;
    let store = cx.store().await;
    assert!(store.locked(put.clone()).await.unwrap().is_empty());
    assert_eq!(cx.claim(Claim { limit: 2, ..cx.claim_of("billing") }).await.rows.len(), 2);
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    raw.run(&format!("UPDATE resend_log SET topic = 'mine' WHERE id IN ('{}', '{}')", put[1], put[3])).await;
    let (asked, started) = ([put.clone(), vec![Uuid::now_v7()]].concat(), Instant::now());
    assert_eq!(sorted(store.locked(asked).await.unwrap()), [put[1], put[3]]);
    assert!(started.elapsed() < Duration::from_secs(1), "it waits for nobody: {:?}", started.elapsed());
    raw.run("ROLLBACK").await;
    assert!(store.locked(put).await.unwrap().is_empty());
}

/// MySQL locks whatever a statement passes: one that read the table, or much of an index, to find the messages that it names would wait.
pub(crate) async fn rows_that_somebody_holds_keep_nobody_waiting_who_names_others(cx: Fixture) {
    let mut others = Vec::new();
    for &state in State::ALL {
        others.push(one_in(&cx, state).await);
    }
    let store = cx.store().await;
    let mut raw = cx.test.raw().await;
    raw.run("BEGIN").await;
    for id in &others {
        assert_eq!(raw.run(&format!("UPDATE resend_log SET topic = 'mine' WHERE id = '{id}'")).await, 1);
    }
    // A claim that waited would end with an error, after half of the store's timeout.
    let (_, held) = cx.claimed("billing").await;
    let id = held.id;
    assert!(store.renew(vec![held], LONG).await.unwrap().is_empty());
    assert_eq!(cx.complete(vec![refused(held, Duration::ZERO)]).await, [true]);
    let (_, held) = cx.take(id, "billing", LONG).await;
    assert_eq!(store.release(vec![held]).await.unwrap(), 1);
    let (_, held) = cx.take(id, "billing", LONG).await;
    assert_eq!(cx.complete(vec![Completion { attempt: 2, retries: 2, ..failed(held) }]).await, [true]);
    assert_eq!(store.replace_payload(&cx.project, id, "better".into()).await.unwrap(), Changed::Done(State::Failed));
    assert_eq!(store.retry(&cx.project, vec![id]).await.unwrap(), [Changed::Done(State::Pending)]);
    assert_eq!(store.cancel(&cx.project, vec![id]).await.unwrap(), [Changed::Done(State::Cancelled)]);
    assert_eq!(store.retry(&cx.project, vec![id]).await.unwrap(), [Changed::Done(State::Pending)]);
    let (row, held) = cx.take(id, "billing", LONG).await;
    assert_eq!(cx.complete(vec![Completion { epoch: row.message.epoch, ..succeeded(held) }]).await, [true]);
    raw.run("ROLLBACK").await;
}

pub(crate) async fn an_application_that_inserts_sees_no_deadlock(cx: Fixture) {
    let store = cx.store().await.clone();
    let over = Arc::new(AtomicBool::new(false));
    let inserted = Arc::new(AtomicUsize::new(0));
    let mut applications = Vec::new();
    for worker in 0..3 {
        let (mut raw, over, inserted) = (cx.test.raw().await, over.clone(), inserted.clone());
        applications.push(tokio::spawn(async move {
            const ROW: &str = "INSERT INTO resend_log (source, topic, msg_key, payload) VALUES ('billing', 't', 'k', 'hello')";
            while !over.load(Ordering::Relaxed) {
                let whole = worker % 2 == 0;
                if whole {
                    raw.run("BEGIN").await;
                }
                for _ in 0..5 {
                    raw.run(ROW).await;
                    inserted.fetch_add(1, Ordering::Relaxed);
                }
                if whole {
                    raw.run("COMMIT").await;
                }
            }
        }));
    }
    let ends = Instant::now() + Duration::from_millis(1500);
    let claimers = (0..3).map(|claimer: i64| {
        let (store, claim) = (store.clone(), Claim { limit: 20, ..cx.claim_of("billing") });
        tokio::spawn(async move {
            let mut sent = 0;
            for round in 1.. {
                if Instant::now() > ends {
                    break;
                }
                let token = claimer * 1_000_000_000 + 1_000_000 + round;
                let lease = store::Lease { token, node: "node-1".into(), ttl: LONG };
                match store.claim(Claim { lease, ..claim.clone() }).await {
                    Ok(claimed) => {
                        let rows = ready(claimed.rows);
                        let done: Vec<_> = rows.iter().map(|row| succeeded(Held { id: row.message.id, token })).collect();
                        if done.is_empty() {
                            tokio::task::yield_now().await;
                            continue;
                        }
                        let done = Arc::new(done);
                        while let Err(error) = store.complete(done.clone()).await {
                            assert!(error.is_transient(), "{error:?}");
                        }
                        sent += rows.len();
                    }
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
            }
            sent
        })
    });
    let sent: usize = futures::future::join_all(claimers).await.into_iter().map(Result::unwrap).sum();
    over.store(true, Ordering::Relaxed);
    for application in applications {
        application.await.expect("the application saw an error");
    }
    assert!(sent > 20 && inserted.load(Ordering::Relaxed) > 20, "{sent} of {inserted:?}");
}
