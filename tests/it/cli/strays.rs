//! What a run does with rows that nobody can send.

use super::{PLAIN, done, folder, raw};

#[tokio::test]
async fn a_row_that_the_database_refuses_to_fail_keeps_no_other_from_it() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut raw = raw(folder).await;
    for key in ["a", "bad", "b"] {
        raw.run(&format!("INSERT INTO resend_log (source, msg_key, created_at) VALUES ('nobody', '{key}', 0)")).await;
    }
    let refused = "NEW.msg_key = 'bad' AND NEW.state = 'failed'";
    raw.run(&format!("CREATE TRIGGER bad BEFORE UPDATE ON resend_log WHEN {refused} BEGIN SELECT RAISE(ABORT, 'no'); END")).await;
    done(folder, &["run"]);
    assert_eq!(raw.number("SELECT count(*) FROM resend_log WHERE state = 'failed'").await, 2);
}

#[tokio::test]
async fn an_attempt_that_is_lost_where_nobody_knows_its_source_is_told_as_any_other() {
    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut raw = raw(folder).await;
    // The second and the third attempt were lost, and the third is not on record yet.
    raw.run(&format!(
        "INSERT INTO resend_log (id, source, created_at, state, attempts, lease_token, lease_until, lease_node, attempt_started_at,
            log_count, log_tail, log_tail_outcome) VALUES ('{ID}', 'nobody', 0, 'sending', 3, 7, 1, 'node-3', 1, 1, 2, 'lost')"
    ))
    .await;
    raw.run(&format!(
        "INSERT INTO attempt_log (message_id, epoch, number, project, attempts, node, started_at, outcome)
         VALUES ('{ID}', 1, 2, 'orders', 1, 'node-2', 1, 'lost')"
    ))
    .await;
    done(folder, &["run"]);
    assert_eq!(raw.number("SELECT count(*) FROM resend_log WHERE state = 'failed' AND log_count = 1").await, 1);
    assert_eq!(raw.number("SELECT count(*) FROM attempt_log").await, 1, "they are one entry");
    assert_eq!(raw.number("SELECT count(*) FROM attempt_log WHERE attempts = 2 AND node = 'node-3'").await, 1, "of the node that lost it");
}
