//! The command line as a script sees it: output, exit codes, and nothing started if something is wrong.

mod chunks;
mod files;
mod health;
mod nodes;
mod payload;
mod sqlite;
mod strays;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::Raw;
use crate::support::process::{gone, line, pid};

/// A folder with a configuration on SQLite.
pub(crate) fn folder(yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("redrive.yaml"), yaml).unwrap();
    folder
}

pub(crate) const PLAIN: &str =
    "project: orders\nstore: { url: 'sqlite://t.db' }\nsources: { l: { kind: log, max_payload: 100, retry: { max_retries: 7 } } }\n";

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redrive"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    for variable in ["REDRIVE_CONFIG", "REDRIVE_LOG", "RUST_LOG", "REDRIVE_HEALTH_URL", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The database of a folder, as an application sees it.
async fn raw(folder: &Path) -> Raw {
    Raw::connect(&format!("sqlite://{}", folder.join("t.db").display()).parse().unwrap()).await
}

/// The output of a command, which must succeed.
fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(code(&output), 0, "{arguments:?}: {}", err(&output));
    out(&output)
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(folder, arguments)).unwrap()
}

#[test]
fn a_wrong_command_line_exits_2_and_help_exits_0() {
    let folder = folder(PLAIN);
    for arguments in
        [&[][..], &["srve"], &["show"], &["show", "no-id"], &["retry"], &["cancel"], &["list", "--state", "lost"], &["list", "--payload"]]
    {
        let output = run(folder.path(), arguments);
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{arguments:?}");
    }
    for change in ["retry", "cancel"] {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        // Ids and filters exclude each other, and a limit or a start alone is not a filter.
        for arguments in [&[id, "--source", "l"][..], &[id, "--state", "pending"], &[id, "--limit", "5"], &["--limit", "5"], &["--after", id]] {
            let output = run(folder.path(), &[&[change], arguments].concat());
            assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{change} {arguments:?}");
        }
        let nothing = err(&run(folder.path(), &[change]));
        let usage = format!("Usage: redrive {change} [OPTIONS] <ID>...\n       redrive {change} [OPTIONS] <FILTERS>, such as --source NAME");
        assert!(nothing.contains(&usage), "{nothing}");
        let wrong = run(folder.path(), &[change, "--state", "succeeded"]);
        assert!(code(&wrong) == 2 && err(&wrong).contains("a message that is succeeded can't be"), "{}", err(&wrong));
    }
    for command in ["serve", "run", "check", "schema", "migrate", "purge", "send", "list", "show", "retry", "cancel", "payload", "health", "demo"] {
        let help = done(folder.path(), &[command, "--help"]);
        assert!(help.contains("Example"), "{command}");
    }
    assert!(done(folder.path(), &["--help"]).contains("64  the configuration is wrong"));
    assert!(done(folder.path(), &["--version"]).starts_with("redrive "));
}

#[test]
fn a_wrong_configuration_exits_64_with_every_fault_whatever_the_command() {
    let folder = folder("project: Orders!\nstore: { pol: 1 }\nsources: { l: { kind: lgo } }\n");
    for arguments in [&["serve"][..], &["run"], &["check"], &["list"], &["migrate"], &["purge"], &["health"], &["send", "l", "--payload", "x"]] {
        let output = run(folder.path(), arguments);
        let said = err(&output);
        assert_eq!(code(&output), 64, "{arguments:?}: {said}");
        for line in ["redrive.yaml:1: project:", "redrive.yaml:2: store.pol: unknown key; did you mean `pool`?", "redrive.yaml:3: sources.l.kind:"] {
            assert!(said.contains(line), "{arguments:?}: {said}");
        }
        assert_eq!(out(&output), "");
    }
    let missing = run(folder.path(), &["check", "-c", "none.yaml"]);
    assert_eq!(code(&missing), 64);
    assert!(err(&missing).contains("none.yaml: can't be read"));
    let verdict = run(folder.path(), &["check", "--json"]);
    assert_eq!(code(&verdict), 64);
    let verdict: Value = serde_json::from_str(&out(&verdict)).unwrap();
    assert_eq!((verdict["ok"].as_bool(), verdict["faults"][1]["line"].as_u64()), (Some(false), Some(2)));
}

#[test]
fn beyond_loopback_without_a_token_nothing_is_bound() {
    // The port is taken: if redrive had tried to bind it, the fault would be a different one.
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = folder(&format!(
        "project: orders\nstore: {{ url: 'sqlite://t.db' }}\napi: {{ listen: '0.0.0.0:{port}' }}\nhealth: {{ listen: '127.0.0.1:0' }}\n"
    ));
    let output = run(folder.path(), &["serve"]);
    assert_eq!(code(&output), 64);
    assert!(err(&output).contains("redrive.yaml:3: api.listen:") && err(&output).contains("api.token"), "{}", err(&output));
    assert!(!folder.path().join("t.db").exists(), "the store was touched");
}

#[test]
fn the_configuration_is_found_by_flag_then_variable_then_name() {
    let folder = folder(PLAIN);
    std::fs::write(folder.path().join("other.yaml"), "project: others\n").unwrap();
    let checked = |command: &mut Command| out(&command.output().unwrap());
    assert!(checked(&mut command(folder.path(), &["check"])).contains("project orders"));
    assert!(checked(command(folder.path(), &["check"]).env("REDRIVE_CONFIG", "other.yaml")).contains("project others"));
    assert!(checked(command(folder.path(), &["check", "-c", "redrive.yaml"]).env("REDRIVE_CONFIG", "other.yaml")).contains("project orders"));
}

#[test]
fn the_schema_is_json() {
    let folder = folder(PLAIN);
    assert_eq!(json(folder.path(), &["schema"])["required"], serde_json::json!(["project"]));
}

#[test]
fn a_message_goes_its_way_by_commands_alone() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    for early in [&["list"][..], &["send", "l", "--payload", "x"], &["purge"]] {
        let output = run(folder, early);
        let (said, file) = (err(&output), folder.join("t.db"));
        assert_eq!((code(&output), out(&output).as_str()), (1, ""), "{early:?}");
        assert!(said.contains("redrive migrate") && said.contains(&format!("{}, which is not there", file.display())), "{said}");
        assert!(!file.exists(), "{early:?}");
    }
    assert!(done(folder, &["migrate"]).contains("applied"));
    assert!(done(folder, &["migrate"]).contains("up to date"));
    assert!(done(folder, &["list"]).contains("no messages of project orders"));

    let mut child = command(folder, &["send", "l", "--topic", "t", "--key", "k", "--header", "a=b=c", "--priority", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\0hello").unwrap();
    let output = child.wait_with_output().unwrap();
    let id = out(&output).trim().to_owned();
    assert_eq!(id.len(), 36, "{id}");

    let page = json(folder, &["list", "--json", "--state", "pending", "--source", "l", "--since", "1h"]);
    let item = &page["items"][0];
    assert_eq!((item["id"].as_str(), item["state"].as_str(), item["priority"].as_u64()), (Some(id.as_str()), Some("pending"), Some(3)));
    assert_eq!((&item["headers"]["a"], &item["max_retries"]), (&Value::from("b=c"), &Value::from(7)), "max_retries is the source's");
    assert!(page["next"].is_null() && item.get("payload_base64").is_none());
    assert!(done(folder, &["list"]).contains(&id));

    let whole = json(folder, &["show", &id, "--json", "--payload"]);
    assert_eq!((whole["payload_base64"].as_str(), whole["attempt_log"].as_array().map(Vec::len)), (Some("AGhlbGxv"), Some(0)));
    assert_eq!(done(folder, &["show", &id, "--payload"]), "\0hello");
    let shown = done(folder, &["show", &id]);
    assert!(shown.contains("0 in epoch 1, 0 refused attempts, at most 7 retries\n") && shown.contains("no attempts on record"), "{shown}");

    assert_eq!(done(folder, &["cancel", &id]), format!("{id}  cancelled\n"));
    let again = run(folder, &["cancel", &id, "--json"]);
    let verdict: Value = serde_json::from_str(&out(&again)).unwrap();
    assert_eq!((code(&again), verdict["items"][0]["error"]["code"].as_str()), (1, Some("wrong_state")));
    assert!(done(folder, &["retry", "--source", "l", "--state", "cancelled"]).contains("now pending"));
    assert_eq!(json(folder, &["show", &id, "--json"])["epoch"], 2);
    assert_eq!(done(folder, &["retry", "--source", "l"]), "no messages of project orders match --state failed --source l\n");

    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    let missing = run(folder, &["retry", nobody]);
    assert_eq!(code(&missing), 1);
    assert!(out(&missing).contains("no such message"));
    assert_eq!(code(&run(folder, &["show", nobody])), 1);
    assert_eq!(json(folder, &["purge", "--json"])["rows"]["failed"], 0);
    assert!(done(folder, &["purge"]).starts_with("deleted: 0 succeeded"));
}

#[test]
fn a_command_runs_in_the_folder_of_a_configuration_that_is_named_without_one() {
    let folder = folder("project: orders\nstore: { url: 'sqlite://t.db' }\nsources: { c: { kind: command, argv: [./it.sh] } }\n");
    let folder = folder.path();
    let script = folder.join("it.sh");
    std::fs::write(&script, "#!/bin/sh\ntest -f redrive.yaml\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    done(folder, &["migrate"]);
    let id = done(folder, &["send", "c", "--payload", "x"]).trim().to_owned();
    done(folder, &["run"]);
    let message = json(folder, &["show", &id, "--json"]);
    assert_eq!(message["state"], "succeeded", "{message}");
}

#[tokio::test]
async fn the_age_limit_of_a_message_is_kept_with_it_for_when_it_is_put_back() {
    let folder = folder(PLAIN);
    let path = folder.path();
    done(path, &["migrate"]);
    let mut kept = Vec::new();
    for arguments in [&["--expires-after", "never"][..], &["--expires-after", "2h", "--max-retries", "3"], &[]] {
        let id = done(path, &[&["send", "l", "--payload", "x"], arguments].concat()).trim().to_owned();
        let mut raw = raw(path).await;
        let retry = raw.one(&format!("SELECT retry FROM resend_log WHERE id = '{id}'")).await;
        kept.push(retry.map(|retry| serde_json::from_str::<Value>(&retry).unwrap()));
    }
    let of = |text: &str| Some(serde_json::from_str(text).unwrap());
    assert_eq!(kept, [of(r#"{"expires_after":"never"}"#), of(r#"{"max_retries":3,"expires_after":"2h"}"#), None]);
}

#[test]
fn what_can_not_be_sent_is_refused_before_it_is_kept() {
    let more = ", h: { kind: http, url: 'http://127.0.0.1:1/{topic}' }, q: { kind: amqp, url: 'amqp://127.0.0.1:1', exchange: e } }\n";
    let folder = folder(&format!("{}{more}", PLAIN.strip_suffix(" }\n").unwrap()));
    let folder = folder.path();
    done(folder, &["migrate"]);
    let refused = |arguments: &[&str], words: &str| {
        let output = run(folder, arguments);
        assert!(code(&output) != 0 && err(&output).contains(words), "{arguments:?}: {}", err(&output));
        assert_eq!(out(&output), "");
    };
    refused(&["send", "m", "--payload", "x"], "the sources are h, l, q");
    refused(&["send", "l", "--payload", &"x".repeat(101)], "max_payload");
    refused(&["send", "l", "--payload", "x", "--topic", ""], "topic");
    refused(&["send", "l", "--payload", "x", "--header", "a b=c"], "headers");
    refused(&["send", "l", "--payload", "x", "--header", "a=1", "--header", "a=2"], "headers: `a` is given twice");
    refused(&["send", "l", "--payload", "x", "--priority", "10"], "priority");
    refused(&["send", "l", "--payload", "x", "--key-base64", "???"], "--key-base64");
    refused(&["send", "l", "--file", "none"], "none");
    refused(&["send", "l", "--payload", "x", "--delay", "5"], "unit");
    refused(&["send", "h", "--payload", "x"], "topic");
    refused(&["send", "q", "--payload", "x"], "the message must name a topic");
    let first = json(folder, &["send", "l", "--payload", "x", "--idempotency-key", "k", "--json"]);
    let second = json(folder, &["send", "l", "--payload", "x", "--idempotency-key", "k", "--json"]);
    assert_eq!((&first["id"], &second["duplicate"]), (&second["id"], &Value::from(true)));
    refused(&["send", "l", "--payload", "y", "--idempotency-key", "k"], "other content");
    assert_eq!(json(folder, &["list", "--json"])["items"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_list_is_paged_and_a_reader_that_goes_away_is_no_failure() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    for _ in 0..3 {
        done(folder, &["send", "l", "--tombstone"]);
    }
    let first = json(folder, &["list", "--json", "--limit", "2"]);
    let next = first["next"].as_str().unwrap();
    let second = json(folder, &["list", "--json", "--limit", "2", "--after", next]);
    assert_eq!((first["items"].as_array().unwrap().len(), second["items"].as_array().unwrap().len()), (2, 1));

    // `redrive schema | head -c 1`: the output is larger than a pipe holds.
    let mut child = command(folder, &["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), err(&output).as_str()), (0, ""));
}

#[test]
fn the_statements_are_printed_without_a_database() {
    let folder = folder(PLAIN);
    let sql = done(folder.path(), &["migrate", "--print-sql"]);
    assert!(sql.contains("CREATE TABLE resend_log") && sql.contains("DEFAULT 'orders'"));
    let newer = done(folder.path(), &["migrate", "--print-sql", "--from", "0003_queue"]);
    assert!(newer.starts_with("-- 0004_sample\n") && sql.ends_with(&newer));
    let unknown = run(folder.path(), &["migrate", "--print-sql", "--from", "0003"]);
    assert_eq!((code(&unknown), out(&unknown).as_str()), (2, ""));
    assert!(err(&unknown).contains("`0003`; the migrations are 0001_tables, 0002_sheets, 0003_queue, 0004_sample"), "{}", err(&unknown));
    assert_eq!(code(&run(folder.path(), &["migrate", "--from", "0003_queue"])), 2, "it would run all that is missing");
    assert!(!folder.path().join("t.db").exists());
}

#[test]
fn a_store_that_can_not_be_reached_exits_69() {
    // Nobody listens on port 1.
    let folder = folder("project: orders\nstore: { url: 'postgres://redrive:hunter2@127.0.0.1:1/x', timeout: 1s }\n");
    let output = run(folder.path(), &["list"]);
    assert_eq!(code(&output), 69, "{}", err(&output));
    assert!(!err(&output).contains("hunter2"));
}

#[test]
fn a_store_whose_connection_is_lost_during_the_handshake_exits_69() {
    // Closed with or without something unread, which resets the connection.
    for reads in [true, false] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        std::thread::spawn(move || {
            for connection in server.incoming() {
                let (mut connection, mut hello) = (connection.unwrap(), [0; 16 << 10]);
                let asked = connection.read_exact(&mut hello[..8]).and_then(|()| connection.write_all(b"S"));
                // Either way the client has said hello.
                let _ = asked.and_then(|()| if reads { connection.read(&mut hello) } else { connection.peek(&mut hello) });
            }
        });
        let folder = folder(&format!("project: orders\nstore: {{ url: 'postgres://redrive@{address}/x?sslmode=require', timeout: 5s }}\n"));
        let output = run(folder.path(), &["list"]);
        assert_eq!(code(&output), 69, "{reads} {}", err(&output));
        assert!(err(&output).contains("the connection was lost during the TLS handshake"), "{reads} {}", err(&output));
    }
}

#[test]
fn a_run_waits_for_no_store_that_somebody_must_mend() {
    let (wanting, began) = (folder(&PLAIN.replace("t.db'", "t.db', migrate: verify")), Instant::now());
    let output = run(wanting.path(), &["run"]);
    assert_eq!(code(&output), 1, "{}", err(&output));
    assert!(err(&output).contains("redrive migrate"), "{}", err(&output));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_run_that_is_stopped_before_all_is_sent_exits_1() {
    let folder = folder(
        "project: orders\nstore: { url: 'sqlite://t.db' }\nshutdown: { accept_for: 0s, grace: 1s }\n\
         sources: { c: { kind: command, argv: [sh, -c, 'touch begun; exec sleep 60'] } }\n",
    );
    let folder = folder.path();
    done(folder, &["migrate"]);
    done(folder, &["send", "c", "--payload", "x"]);
    let child = command(folder, &["run"]).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !folder.join("begun").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 1, "{}", err(&output));
    assert!(err(&output).contains("redrive: stopped before all that is due was sent"), "{}", err(&output));
}

#[tokio::test]
async fn a_second_signal_ends_the_commands_too() {
    let folder = folder(
        "project: orders\nstore: { url: 'sqlite://t.db' }\napi: { listen: '127.0.0.1:0' }\n\
         sources: { c: { kind: command, argv: [sh, -c, 'echo $$$$ > leader; exec sleep 60'] } }\n",
    );
    let folder = folder.path();
    done(folder, &["migrate"]);
    done(folder, &["send", "c", "--payload", "x"]);
    let mut child = command(folder, &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let leader = pid(&line(&folder.join("leader")).await);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    // Two signals that arrive before the first is handled count as one.
    assert!(log.any(|line| line.unwrap().contains("stopping")));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    gone(leader).await;
}

#[test]
fn a_node_whose_log_nobody_reads_any_more_stops_when_it_is_told_to() {
    let folder = folder("project: orders\nstore: { url: 'sqlite://t.db' }\napi: { listen: '127.0.0.1:0' }\nsources: { l: { kind: log } }\n");
    let mut child = command(folder.path(), &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("listening")));
    drop(log);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(15);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            None => {
                child.kill().unwrap();
                panic!("it goes on");
            }
        }
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn each_line_of_the_log_is_json_where_stderr_is_no_terminal() {
    let folder =
        folder("project: orders\nstore: { url: 'sqlite://t.db' }\nsources: { c: { kind: command, argv: [sh, it.sh], retry: { max_retries: 0 } } }\n");
    let folder = folder.path();
    // Its output is on one line of the log, including line ends and quotes.
    std::fs::write(folder.join("it.sh"), "printf 'it said \"no\"\\n\\\\ and\\tno' >&2\nexit 1\n").unwrap();
    done(folder, &["migrate"]);
    let id = done(folder, &["send", "c", "--payload", "x"]).trim().to_owned();
    let output = command(folder, &["run"]).env("REDRIVE_LOG", "debug").output().unwrap();
    assert_eq!(code(&output), 0, "{}", err(&output));
    let lines = err(&output);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    for line in &lines {
        assert!(["timestamp", "level", "target"].iter().all(|field| line[field].is_string()), "{line}");
    }
    let failed = lines.iter().find(|line| line["message.id"] == id && line["message"] == "the message failed").unwrap();
    assert_eq!((&failed["level"], &failed["error.code"]), (&Value::from("WARN"), &Value::from("exit_1")), "{failed}");
    assert!(failed["error.detail"].as_str().unwrap().contains("it said \"no\""), "{failed}");
}

#[test]
fn what_filters_do_not_find_is_no_all_clear() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let id = done(folder, &["send", "l", "--payload", "x"]).trim().to_owned();
    for (arguments, filters) in [
        (&["list", "--key", "o-17"][..], "--key o-17"),
        (&["list", "--topic", "t"], "--topic t"),
        (&["list", "--idempotency-key", "i"], "--idempotency-key i"),
        (&["list", "--until", "2020-01-01T00:00:00Z"], "--until 2020-01-01T00:00:00.000000Z"),
        (&["list", "--after", &id], &format!("--after {id}")),
        (&["list", "--source", "ll"], "--source ll; the configuration has no such source"),
        (&["retry", "--source", "ll"], "--state failed --source ll; the configuration has no such source"),
        (&["retry", "--error-code", "http_503"], "--state failed --error-code http_503"),
        (&["cancel", "--topic", "t"], "--state pending --topic t"),
    ] {
        assert_eq!(done(folder, arguments), format!("no messages of project orders match {filters}\n"), "{arguments:?}");
    }
    assert_eq!(json(folder, &["retry", "--source", "ll", "--json"]), serde_json::json!({"items": [], "next": null}));
}

#[tokio::test]
async fn what_failed_lately_is_listed_by_when_it_failed() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut raw = raw(folder).await;
    let now = chrono::Utc::now().timestamp_millis();
    for (key, hours_ago) in [("old", 5), ("lately", 1)] {
        let finished_at = now - hours_ago * 3_600_000;
        raw.run(&format!(
            "INSERT INTO resend_log (source, msg_key, payload, state, created_at, finished_at) VALUES ('l', '{key}', 'x', 'failed', 0, {finished_at})"
        ))
        .await;
    }
    let keys = |arguments: &[&str]| {
        let page = json(folder, &[&["list", "--state", "failed", "--json"], arguments].concat());
        page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys(&["--since", "2h"]), Vec::<String>::new(), "they were created long before");
    assert_eq!(keys(&["--finished-since", "2h"]), ["lately"]);
    assert_eq!(keys(&["--finished-until", "2h"]), ["old"]);
    let table = done(folder, &["list", "--finished-since", "2h"]);
    assert!(table.contains(" finished ") && table.contains("60m ago"), "{table}");
}

#[tokio::test]
async fn a_purge_by_hand_warns_of_failed_messages() {
    let folder = folder(PLAIN);
    let folder = folder.path();
    done(folder, &["migrate"]);
    let mut raw = raw(folder).await;
    for state in ["failed", "succeeded"] {
        raw.run(&format!("INSERT INTO resend_log (source, payload, state, finished_at) VALUES ('l', 'x', '{state}', 0)")).await;
    }
    drop(raw);
    let output = run(folder, &["purge"]);
    assert_eq!((code(&output), out(&output).as_str()), (0, "deleted: 1 succeeded, 1 failed, 0 cancelled messages and 0 idempotency keys\n"));
    let line: Value = serde_json::from_str(err(&output).trim()).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&Value::from("WARN"), &Value::from("purged history, including failed messages")));
    assert_eq!((&line["rows.failed"], &line["rows.succeeded"]), (&Value::from(1), &Value::from(1)));
    assert_eq!((code(&run(folder, &["purge"])), err(&run(folder, &["purge"])).as_str()), (0, ""), "nothing is no news");
}

#[test]
fn a_log_level_that_is_none_is_told() {
    let folder = folder(PLAIN);
    for arguments in [&["list"][..], &["check"]] {
        let output = command(folder.path(), arguments).env("REDRIVE_LOG", "loud").output().unwrap();
        assert_eq!((code(&output), out(&output).as_str()), (64, ""), "{arguments:?}");
        assert!(err(&output).contains("REDRIVE_LOG"), "{arguments:?}: {}", err(&output));
    }
    let output = command(folder.path(), &["check", "--json"]).env("REDRIVE_LOG", "loud").output().unwrap();
    let verdict: Value = serde_json::from_str(&out(&output)).unwrap();
    assert_eq!((code(&output), &verdict["ok"], &verdict["faults"][0]["path"]), (64, &false.into(), &"REDRIVE_LOG".into()), "{verdict}");
}

#[test]
fn what_other_programs_find_in_their_variable_stops_nothing() {
    let folder = folder(PLAIN);
    for (arguments, value) in [(["migrate"], "my_app"), (["list"], " "), (["check"], "my_app=debug,hyper"), (["list"], "my_app=debug")] {
        let output = command(folder.path(), &arguments).env("RUST_LOG", value).output().unwrap();
        assert_eq!((code(&output), err(&output).matches("RUST_LOG is ignored").count()), (0, 1), "{arguments:?}: {}", err(&output));
    }
}
