//! Commands that change many messages.

use serde_json::Value;

use super::{PLAIN, code, done, err, folder, json, out, raw, run};

#[tokio::test]
async fn what_was_changed_before_the_store_failed_is_told() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut raw = raw(folder).await;
    // One more than a statement changes.
    raw.run(
        "INSERT INTO resend_log (source, topic, msg_key, payload)
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 501) SELECT 'l', 't', 'k', 'p' FROM numbers",
    )
    .await;
    let ids: Vec<String> = raw.rows("SELECT id FROM resend_log ORDER BY id").await.into_iter().map(|mut row| row.remove(0).unwrap()).collect();
    let last = ids.last().unwrap();
    raw.run(&format!("CREATE TRIGGER no BEFORE UPDATE ON resend_log WHEN NEW.id = '{last}' BEGIN SELECT RAISE(ABORT, 'not this one'); END")).await;

    for (command, told) in [("cancel", "  cancelled"), ("retry", "  put back, now pending")] {
        let mut arguments = vec![command];
        arguments.extend(ids.iter().map(String::as_str));
        let output = run(folder, &arguments);
        assert!(code(&output) != 0 && !err(&output).is_empty(), "{command}: {output:?}");
        let said = out(&output);
        let told = said.lines().filter(|line| line.ends_with(told)).count();
        assert_eq!(told, 500, "{command}: {} {}", said.lines().count(), err(&output));
    }

    let mut arguments = vec!["cancel", "--json"];
    arguments.extend(ids.iter().map(String::as_str));
    let output = run(folder, &arguments);
    let items: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((code(&output) == 0, items["items"].as_array().map(Vec::len)), (false, Some(500)));
    // Where nothing was done there is nothing to report.
    let output = run(folder, &["retry", "--json", last]);
    assert_eq!((code(&output) == 0, out(&output).as_str()), (false, ""));

    // Messages that filters find are changed from the newest on: now the failing one comes last.
    let (last, before) = (&ids[0], &ids[1]);
    raw.run("DROP TRIGGER no; UPDATE resend_log SET state = 'pending', finished_at = NULL").await;
    raw.run(&format!("CREATE TRIGGER no BEFORE UPDATE ON resend_log WHEN NEW.id = '{last}' BEGIN SELECT RAISE(ABORT, 'not this one'); END")).await;
    let output = run(folder, &["cancel", "--source", "l"]);
    assert!(code(&output) != 0 && !err(&output).is_empty(), "{output:?}");
    let said = out(&output);
    assert_eq!((said.lines().count(), said.lines().last().unwrap()), (501, format!("more follow: go on with --after {before}").as_str()));
}

/// The ids of the messages that a command has changed, and where to continue.
fn changed(answer: &Value) -> (Vec<&str>, Option<&str>) {
    let items = answer["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item.get("error").is_none()), "{answer}");
    (items.iter().map(|item| item["id"].as_str().unwrap()).collect(), answer["next"].as_str())
}

#[tokio::test]
async fn a_further_retry_comes_to_what_the_ones_before_left() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut raw = raw(folder).await;
    for topic in ["t", "t", "u", "t", "t"] {
        raw.run(&format!("INSERT INTO resend_log (source, topic, payload, state, finished_at) VALUES ('l', '{topic}', 'x', 'failed', 0)")).await;
    }
    let rows = raw.rows("SELECT id FROM resend_log WHERE topic = 't' ORDER BY id DESC").await;
    let ids: Vec<String> = rows.into_iter().map(|mut row| row.remove(0).unwrap()).collect();

    let first = json(folder, &["retry", "--topic", "t", "--limit", "2", "--json"]);
    assert_eq!(changed(&first), (vec![ids[0].as_str(), &ids[1]], Some(ids[1].as_str())));
    // They fail again, and are not in the way.
    raw.run("UPDATE resend_log SET state = 'failed', finished_at = 0").await;
    let second = done(folder, &["retry", "--topic", "t", "--limit", "1", "--after", &ids[1]]);
    assert_eq!(second, format!("{0}  put back, now pending\nmore follow: go on with --after {0}\n", ids[2]));
    let third = json(folder, &["retry", "--topic", "t", "--after", &ids[2], "--json"]);
    assert_eq!(changed(&third), (vec![ids[3].as_str()], None));
    assert_eq!(raw.number("SELECT count(*) FROM resend_log WHERE state = 'failed'").await, 3, "of another topic, and the first two");

    // Cancelled by the same filters, and by their ids: nothing is left to continue with.
    let cancelled = json(folder, &["cancel", "--topic", "t", "--json"]);
    assert_eq!(changed(&cancelled), (vec![ids[2].as_str(), &ids[3]], None));
    assert_eq!(changed(&json(folder, &["retry", &ids[2], "--json"])), (vec![ids[2].as_str()], None));
    assert!(done(folder, &["retry", "--state", "cancelled"]).starts_with(&ids[3]), "a state is a filter");
}
