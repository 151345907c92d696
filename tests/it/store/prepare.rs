//! Tables: made once, verified, printed, beside an application's own.

use std::time::{Duration, Instant};

use redrive::store::config::Migrate;
use redrive::store::{self, Claim, Error, Held, Insert, List, Store};
use redrive::units::Secret;
use url::Url;

use super::fixture::{Fixture, ids, message, sorted, succeeded};
use crate::support::Proxy;

pub(crate) async fn once_by_several_nodes_at_once(cx: Fixture) {
    let stores: Vec<_> = (0..5).map(|_| cx.test.open()).collect();
    let prepared = futures::future::join_all(stores.iter().map(|store| store.prepare())).await;
    let prepared: Vec<_> = prepared.into_iter().map(Result::unwrap).collect();
    let mut applied: Vec<_> = prepared.iter().flat_map(|prepared| prepared.applied.clone()).collect();
    assert!(!applied.is_empty());
    let count = applied.len();
    applied.sort();
    applied.dedup();
    assert_eq!(applied.len(), count, "no migration was applied twice");
    for prepared in &prepared {
        assert_eq!(prepared.default_project.as_deref(), Some("orders"));
        assert!(!prepared.server.is_empty());
    }
    assert!(stores[0].prepare().await.unwrap().applied.is_empty(), "and never again");
    assert_eq!(cx.put("billing", 1).await.len(), 1);
}

/// MySQL and MariaDB alone: as a cluster that refuses GET_LOCK answers, which a function here does in its place.
pub(crate) async fn once_by_several_nodes_at_once_where_no_lock_is_given(cx: Fixture) {
    let mut raw = cx.test.raw().await;
    raw.run(
        "CREATE FUNCTION GET_LUCK(name varchar(64), seconds int) RETURNS int DETERMINISTIC NO SQL BEGIN
            SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1105,
                MESSAGE_TEXT = 'Percona-XtraDB-Cluster prohibits use of GET_LOCK with pxc_strict_mode = ENFORCING';
            RETURN 1;
        END",
    )
    .await;
    let mut url: Url = cx.test.config.url.expose().parse().unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let proxy = Proxy::saying_instead(&target, "GET_LOCK", "GET_LUCK").await;
    url.set_port(Some(proxy.port())).unwrap();
    // In clear, so that the proxy finds the word.
    url.query_pairs_mut().append_pair("ssl-mode", "disabled");
    let config = store::Config { url: Secret::new(url.as_str()), ..cx.test.config.clone() };

    let stores: Vec<_> = (0..4).map(|_| store::open(&config, &cx.project).unwrap()).collect();
    let prepared = futures::future::join_all(stores.iter().map(|store| store.prepare())).await;
    let mut applied: Vec<_> = prepared.into_iter().flat_map(|prepared| prepared.unwrap().applied).collect();
    let (count, first) = (applied.len(), applied.first().cloned());
    applied.sort();
    applied.dedup();
    assert!(first.is_some() && applied.len() == count, "each migration was applied once: {applied:?}");
    assert_eq!(raw.number("SELECT count(*) FROM redrive_lock").await, 0, "the row was made, and let go of");

    // One that died while it changed the tables holds up the others for as long as that may take, and no longer.
    let undo = "DROP TABLE redrive_sample; DELETE FROM redrive_migrations WHERE version = '0004_sample'";
    raw.run(undo).await;
    raw.run("INSERT INTO redrive_lock (name, token, held_until) VALUES ('tables', 7, UTC_TIMESTAMP(6) + INTERVAL 2 SECOND)").await;
    let began = Instant::now();
    assert_eq!(stores[0].prepare().await.unwrap().applied, ["0004_sample"]);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());

    // One that could not let go of its row, as when its connection breaks, does not lock itself out.
    raw.run(undo).await;
    raw.run("CREATE TRIGGER kept BEFORE DELETE ON redrive_lock FOR EACH ROW SIGNAL SQLSTATE '45000'").await;
    assert!(stores[0].prepare().await.is_err());
    raw.run("DROP TRIGGER kept").await;
    assert_eq!(raw.number("SELECT count(*) FROM redrive_lock").await, 1);
    raw.run(undo).await;
    assert_eq!(stores[0].prepare().await.unwrap().applied, ["0004_sample"]);
    futures::future::join_all(stores.iter().map(|store| store.close())).await;
}

/// SQLite alone: its busy timeout does not cover the switch to WAL while another writes, be it a node that switches too.
pub(crate) async fn a_writer_is_waited_for(cx: Fixture) {
    let mut writer = cx.test.raw().await;
    writer.run("BEGIN IMMEDIATE").await;
    writer.run("CREATE TABLE theirs (id INTEGER)").await;
    let store = cx.test.open();
    let mut preparing = tokio::spawn(async move { store.prepare().await });
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut preparing).await.is_err(), "neither refused nor through");
    writer.run("COMMIT").await;
    assert!(!preparing.await.unwrap().unwrap().applied.is_empty());
}

pub(crate) async fn a_later_start_with_another_project_leaves_the_default(cx: Fixture) {
    cx.store().await;
    let prepared = cx.test.open_for("invoices").prepare().await.unwrap();
    assert_eq!(prepared.default_project.as_deref(), Some("orders"));
    cx.sql("INSERT INTO resend_log (source, topic, msg_key, payload) VALUES ('billing', 't', 'k', 'p')").await;
    assert_eq!(cx.all().await[0].project, "orders");
}

pub(crate) async fn what_an_older_build_left_goes_on(cx: Fixture) {
    let put = cx.put("billing", 5).await;
    // The tables as they were before they were changed last, and what was being sent.
    let (held, applied) = if cx.backend.is_mysql() {
        let held = put.iter().copied().take(2).collect::<Vec<_>>();
        for id in &held {
            cx.sql(&format!(
                "UPDATE resend_log SET state = 'sending', attempts = 1, lease_token = 7, lease_until = '2999-01-01', lease_node = 'old' WHERE id = '{id}'"
            ))
            .await;
        }
        cx.sql("DROP TABLE redrive_sheet").await;
        cx.sql("DROP TABLE redrive_turn").await;
        (held, "0002_sheets")
    } else {
        let held = ids(&cx.claim(Claim { limit: 2, ..cx.claim_of("billing") }).await.rows);
        if cx.backend.is_postgres() {
            cx.sql("DROP INDEX resend_log_queue").await;
            cx.sql("CREATE INDEX resend_log_claim ON resend_log (project, source, level, due_at) WHERE level IS NOT NULL").await;
        }
        cx.sql("ALTER TABLE redrive_sheet DROP COLUMN last_row").await;
        (held, "0003_queue")
    };
    cx.sql(&format!("DELETE FROM redrive_migrations WHERE version = '{applied}'")).await;
    let store = cx.test.open();
    assert_eq!(store.prepare().await.unwrap().applied, [applied]);
    let first = store.claim(Claim { limit: 1, ..cx.claim_of("billing") }).await.unwrap();
    let others = store.claim(cx.claim_of("billing")).await.unwrap();
    let claimed = [held, ids(&first.rows), ids(&others.rows)];
    assert_eq!(claimed.each_ref().map(Vec::len), [2, 1, 2]);
    assert_eq!(sorted(claimed.concat()), sorted(put));
    if cx.backend.is_mysql() {
        assert_eq!(cx.complete(vec![succeeded(Held { id: claimed[0][0], token: 7 })]).await, [true], "a row's own lease goes on");
    }
}

pub(crate) async fn verify_changes_nothing(cx: Fixture) {
    let verifying = verifying(&cx);
    let error = verifying.prepare().await.unwrap_err();
    assert!(matches!(error, Error::Schema(_)), "{error:?}");
    assert!(!error.is_transient());
    assert!(error.to_string().contains("`redrive migrate --print-sql`"), "{error}");
    assert!(verifying.prepare().await.is_err(), "it made nothing the first time");
    cx.store().await;
    let prepared = verifying.prepare().await.unwrap();
    assert!(prepared.applied.is_empty());
    assert_eq!(prepared.default_project.as_deref(), Some("orders"));
}

pub(crate) async fn printed_sql_makes_a_store_that_verifies(cx: Fixture) {
    let sql = store::sql::print_sql(&cx.test.config, &cx.project, None).unwrap();
    // The raw session is opened directly: the fixture's would prepare the store first.
    let mut raw = cx.test.raw().await;
    raw.run(&sql).await;
    let verifying = verifying(&cx);
    assert_eq!(verifying.prepare().await.unwrap().default_project.as_deref(), Some("orders"));
    let insert = cx.insertion(vec![message("billing")]);
    verifying.insert(insert).await.unwrap();
    assert_eq!(raw.number("SELECT count(*) FROM resend_log").await, 1);
    assert!(cx.test.open().prepare().await.unwrap().applied.is_empty(), "what was printed counts as applied");
}

pub(crate) async fn printed_sql_upgrades_the_tables_of_an_older_build(cx: Fixture) {
    let id = cx.put("billing", 1).await[0];
    // As they were before the last migration.
    cx.sql("DROP TABLE redrive_sample").await;
    cx.sql("DELETE FROM redrive_migrations WHERE version = '0004_sample'").await;
    let last = if cx.backend.is_mysql() { "0002_sheets" } else { "0003_queue" };
    let error = verifying(&cx).prepare().await.unwrap_err().to_string();
    assert!(error.contains("0004_sample not applied") && error.contains(&format!("`redrive migrate --print-sql --from {last}`")), "{error}");
    let sql = store::sql::print_sql(&cx.test.config, &cx.project, Some(last)).unwrap();
    cx.sql(&sql).await;
    verifying(&cx).prepare().await.unwrap();
    assert_eq!(cx.claim_ids("billing").await, [id]);
    assert_eq!(store::sql::print_sql(&cx.test.config, &cx.project, Some("0004_sample")).unwrap(), "");
}

pub(crate) async fn tables_that_take_capitals_for_small_letters_are_refused(cx: Fixture) {
    let sql = store::sql::print_sql(&cx.test.config, &cx.project, None).unwrap();
    // As clients print it on that leave comments out.
    let mut bare = String::new();
    for (index, part) in sql.split("/*").enumerate() {
        bare.push_str(if index == 0 { part } else { part.split_once("*/").unwrap().1 });
    }
    cx.test.raw().await.run(&bare).await;
    let error = verifying(&cx).prepare().await.unwrap_err().to_string();
    assert!(error.contains("utf8mb4_nopad_bin") && error.contains("--comments"), "{error}");
}

fn verifying(cx: &Fixture) -> std::sync::Arc<dyn Store> {
    let config = store::Config { migrate: Migrate::Verify, ..cx.test.config.clone() };
    store::open(&config, &cx.project).unwrap()
}

pub(crate) async fn a_prefix_keeps_stores_apart(cx: Fixture) {
    let mut stores = Vec::new();
    for prefix in ["a_", "b_"] {
        let config = store::Config { table_prefix: prefix.to_owned(), ..cx.test.config.clone() };
        let store = store::open(&config, &cx.project).unwrap();
        store.prepare().await.unwrap();
        stores.push(store);
    }
    let insert: Insert = cx.insertion(vec![message("billing")]);
    stores[0].insert(insert).await.unwrap();
    let claimed = stores[1].claim(cx.claim_of("billing")).await.unwrap();
    assert!(claimed.rows.is_empty());
    let claimed = stores[0].claim(cx.claim_of("billing")).await.unwrap();
    assert_eq!(claimed.rows.len(), 1);
    let list = List { project: cx.project.to_string(), limit: 10, ..List::default() };
    assert_eq!(stores[1].list(list).await.unwrap().items.len(), 0);
    let mut raw = cx.test.raw().await;
    assert_eq!(raw.number("SELECT count(*) FROM a_resend_log").await, 1);
    assert_eq!(raw.number("SELECT count(*) FROM b_resend_log").await, 0);
    assert!(raw.try_run("SELECT 1 FROM resend_log").await.is_err(), "every table carries the prefix");
    assert!(raw.try_run("SELECT 1 FROM attempt_log").await.is_err(), "every table carries the prefix");
}

pub(crate) async fn the_tables_of_an_application_are_left_alone(cx: Fixture) {
    let mut raw = cx.test.raw().await;
    // The names that the application's own migrations are likely to have.
    for table in ["_sqlx_migrations", "schema_migrations", "migrations", "messages", "nodes"] {
        raw.run(&format!("CREATE TABLE {table} (note varchar(20))")).await;
        raw.run(&format!("INSERT INTO {table} VALUES ('mine')")).await;
    }
    cx.put("billing", 1).await;
    for table in ["_sqlx_migrations", "schema_migrations", "migrations", "messages", "nodes"] {
        assert_eq!(raw.one(&format!("SELECT note FROM {table}")).await.as_deref(), Some("mine"));
    }
}

pub(crate) async fn a_closed_store_has_no_connection(cx: Fixture) {
    cx.store().await.counts(&cx.project).await.unwrap();
    cx.store().await.close().await;
    assert!(cx.store().await.counts(&cx.project).await.is_err());
}
