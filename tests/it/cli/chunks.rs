//! Commands that change many messages.

use serde_json::Value;

use super::{PLAIN, code, done, err, folder, out, raw, run};

#[tokio::test]
async fn what_was_changed_before_the_store_failed_is_told() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut raw = raw(folder).await;
    // One more than are changed by one statement.
    raw.run(
        "INSERT INTO resend_log (source, topic, msg_key, payload)
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 501) SELECT 'l', 't', 'k', 'p' FROM numbers",
    )
    .await;
    let ids: Vec<String> = raw.rows("SELECT id FROM resend_log ORDER BY id").await.into_iter().map(|mut row| row.remove(0).unwrap()).collect();
    let last = ids.last().unwrap();
    raw.run(&format!("CREATE TRIGGER no BEFORE UPDATE ON resend_log WHEN NEW.id = '{last}' BEGIN SELECT RAISE(ABORT, 'not this one'); END")).await;

    for (command, state) in [("cancel", "cancelled"), ("retry", "pending")] {
        let mut arguments = vec![command];
        arguments.extend(ids.iter().map(String::as_str));
        let output = run(folder, &arguments);
        assert!(code(&output) != 0 && !err(&output).is_empty(), "{command}: {output:?}");
        let said = out(&output);
        let told: Vec<&str> = said.lines().filter(|line| line.ends_with(&format!("now {state}"))).collect();
        assert_eq!(told.len(), 500, "{command}: {} {}", said.lines().count(), err(&output));
    }

    let mut arguments = vec!["cancel", "--json"];
    arguments.extend(ids.iter().map(String::as_str));
    let output = run(folder, &arguments);
    let items: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((code(&output) == 0, items["items"].as_array().map(Vec::len)), (false, Some(500)));
    // Where nothing was done there is nothing to tell.
    let output = run(folder, &["retry", "--json", last]);
    assert_eq!((code(&output) == 0, out(&output).as_str()), (false, ""));
}
