//! How SQLite finds rows, by its own account: while a table is small, nothing else reveals a statement that reads all of it.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use tempfile::TempDir;
use uuid::Uuid;

use super::super::dialect::{Batch, Dialect};
use super::super::pool::{Core, Work};
use super::super::template::Names;
use super::super::{leftovers, look, migrate, purge, strays};
use super::Sqlite;
use crate::message::State;
use crate::store::config::Migrate;
use crate::store::{Id, Lease, List, Purge, Strays, Sweep};

/// In the claim's index, everything that waits for one project, or everything without a project.
const ALL_THAT_WAITS: &str = "SEARCH resend_log USING INDEX resend_log_claim (project=?)";

/// Empty tables.
async fn tables() -> (Arc<Core<Sqlite>>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let limit = Duration::from_secs(10);
    let dialect = Sqlite { file: folder.path().join("redrive.db"), create: true, busy: limit, cache: 100 };
    let names = Names { schema: None, prefix: String::new(), project: "orders".to_owned() };
    let core = Arc::new(Core::new(dialect, names, limit, true, 1, true, Arc::new(|_, _| {})));
    migrate::prepare(&core, Migrate::Auto).await.unwrap();
    (core, folder)
}

/// The steps of a statement.
async fn steps(core: &Arc<Core<Sqlite>>, sql: &str) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {sql}");
    let told = core.run(Work::Read, move |session| {
        Box::pin(async move { Ok(session.rows_once(&explain, &[]).await?.iter().filter_map(|row| Sqlite::text(row, 3).ok()?).collect()) })
    });
    told.await.unwrap()
}

#[tokio::test]
async fn rows_without_a_source_are_looked_for_where_they_are() {
    let (core, _folder) = tables().await;
    let lease = Lease { token: 1, node: "node-1".into(), ttl: Duration::from_secs(60) };
    let strays = Strays { project: "orders".into(), sources: vec!["billing".into()], min_age: Duration::ZERO, limit: 100, lease };
    let looks = steps(&core, &format!("SELECT {}", strays::any(&strays, &Batch::texts(["billing"])).0)).await;
    assert_eq!(looks.iter().filter(|step| *step == ALL_THAT_WAITS).count(), 1, "for those without a project alone: {looks:#?}");

    core.run(Work::Transaction, move |session| Box::pin(async move { strays::take(session, &strays).await })).await.unwrap();
    let pick = steps(&core, &core.sql("strays_sourceless_pick", String::new)).await;
    for range in ["(project=? AND source=? AND level>?)", "(project=? AND source>?)"] {
        let step = format!("SEARCH resend_log USING INDEX resend_log_claim {range}");
        assert!(looks.contains(&step) && pick.contains(&step), "{looks:#?}, {pick:#?}");
    }
    assert!(!pick.iter().any(|step| step == ALL_THAT_WAITS), "{pick:#?}");
}

#[tokio::test]
async fn a_page_of_a_state_is_read_from_the_index_of_that_state() {
    let (core, _folder) = tables().await;
    for &state in State::ALL {
        let found = match state {
            State::Sending => "SEARCH resend_log USING INDEX resend_log_lease (project=?)",
            // There is no index: nearly all rows are in this state.
            State::Succeeded => continue,
            _ => "SEARCH resend_log USING INDEX resend_log_state (project=? AND state=?)",
        };
        let steps = steps(&core, &look::page(Some(state), "")).await;
        assert!(steps.iter().any(|step| step == found), "{state}: {steps:#?}");
    }
}

#[tokio::test]
async fn what_finished_lately_is_found_by_that_and_a_further_page_behind_the_last() {
    let (core, _folder) = tables().await;
    let page = async |list: List| steps(&core, &look::page(list.state, &look::narrower::<Sqlite>(&list).unwrap().0)).await;
    let (some_time, some_id) = (Some(DateTime::UNIX_EPOCH), Some(Id::Known(Uuid::nil())));
    for state in [None, Some(State::Succeeded), Some(State::Failed), Some(State::Cancelled)] {
        let found = "SEARCH resend_log USING INDEX resend_log_finished (project=? AND state=? AND finished_at>?)";
        let steps = page(List { state, finished_since: some_time, ..List::default() }).await;
        assert!(steps.iter().any(|step| step == found), "{state:?}: {steps:#?}");
    }
    let failed = List { state: Some(State::Failed), ..List::default() };
    for (list, range) in [
        (List { finished_since: some_time, after: some_id, ..failed.clone() }, "(project=? AND state=? AND id<?)"),
        (List { finished_until: some_time, ..failed }, "(project=? AND state=?)"),
    ] {
        let steps = page(list).await;
        assert!(steps.contains(&format!("SEARCH resend_log USING INDEX resend_log_state {range}")), "{steps:#?}");
    }
}

#[tokio::test]
async fn rows_are_estimated_without_a_look_at_them() {
    let (core, _folder) = tables().await;
    let steps = steps(&core, &Sqlite::estimate(None, "resend_log")).await;
    assert!(!steps.iter().any(|step| step.starts_with("SCAN resend_log")), "{steps:#?}");
    assert_eq!(steps.iter().filter(|step| *step == "SEARCH resend_log").count(), 2, "either end: {steps:#?}");
}

#[tokio::test]
async fn the_attempt_log_is_looked_at_from_where_the_last_look_ended() {
    let (core, _folder) = tables().await;
    let sweep = Sweep { project: "orders".into(), after: Uuid::nil(), limit: 100 };
    core.run(Work::Read, move |session| Box::pin(async move { leftovers::look(session, &sweep).await })).await.unwrap();
    let steps = steps(&core, &core.sql("log_piece", String::new)).await;
    assert_eq!(steps, ["SEARCH attempt_log USING PRIMARY KEY (message_id>?)"], "no sort, and nothing before it");
}

#[tokio::test]
async fn keys_past_their_time_are_deleted_one_by_one() {
    let (core, _folder) = tables().await;
    let old = "INSERT INTO resend_key (project, source, idem_key, digest, message_id, taken_by, expires_at) VALUES ('orders', 'billing', 'k', '', '', 1, 1)";
    core.run(Work::Write, move |session| Box::pin(async move { Ok(session.script(old.to_owned()).await?) })).await.unwrap();
    let purge = Purge { project: "orders".into(), keep: Vec::new(), max_rows: 1000, surplus: None, batch: 100 };
    core.run(Work::Transaction, move |session| Box::pin(async move { purge::purge(session, &purge).await })).await.unwrap();
    let steps = steps(&core, &core.sql("keys_forget", String::new)).await;
    assert!(steps.iter().any(|step| step.starts_with("SEARCH resend_key USING PRIMARY KEY")), "{steps:#?}");
}
