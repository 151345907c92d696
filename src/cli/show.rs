//! `redrive show`

use std::io::Write;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{ConfigFile, Failure, Terminal, output};
use crate::store::MAX_SHOWN_PAYLOAD;
use crate::store::config::Migrate;
use crate::view::{AttemptView, MessageView, rfc3339};

/// Show one message and its attempts
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive show 01890a5d-ac96-774b-bcce-b302099a8057
  redrive show ID --payload > payload.bin       the payload itself, nothing else
  redrive show ID --json | jq .attempt_log")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// The message's id
    id: Uuid,
    /// Print the payload's bytes and nothing else; with --json add it as payload_base64
    #[arg(long)]
    payload: bool,
    /// Print one JSON object: the message as the API shows it, with its attempts as attempt_log
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    message: MessageView,
    attempt_log: Vec<AttemptView>,
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let project = &opened.config.project;
        let record = opened.store.get(project, self.id, self.payload).await?;
        let attempts = opened.store.attempts(project, self.id).await?;
        opened.store.close().await;
        let (Some(record), Some(attempts)) = (record, attempts) else {
            return Err(opened.no_message(self.id));
        };
        if self.payload && !self.json {
            if let (None, Some(bytes)) = (&record.payload, record.payload_bytes) {
                return Err(Failure::Failed(format!("the payload has {bytes} bytes; at most {MAX_SHOWN_PAYLOAD} are shown, so read it by SQL")));
            }
            return Ok(terminal.out.write_all(record.payload.as_deref().unwrap_or_default())?);
        }
        let max_retries = opened.max_retries(&record.source);
        let message = MessageView::new(record, max_retries, self.payload);
        let attempt_log: Vec<AttemptView> = attempts.into_iter().map(Into::into).collect();
        if self.json { output::json(terminal.out, &Whole { message, attempt_log }) } else { describe(terminal.out, &message, &attempt_log) }
    }
}

/// A number of things, which are called differently if there is one.
fn counted(count: u32, [one, more]: [&str; 2]) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn describe(out: &mut dyn Write, message: &MessageView, attempts: &[AttemptView]) -> Result<(), Failure> {
    let now = Utc::now();
    let time = |time: DateTime<Utc>| format!("{} ({})", rfc3339(time), output::relative(time, now));
    let mut line = |name: &str, value: String| writeln!(out, "{name:<16} {value}");
    line("id", message.id.to_string())?;
    line("state", message.state.to_string())?;
    line("project", output::plain(&message.project, 80))?;
    line("source", output::plain(&message.source, 80))?;
    for (name, value) in
        [("topic", &message.topic), ("key", &message.key), ("key (base64)", &message.key_base64), ("idempotency key", &message.idempotency_key)]
    {
        if let Some(value) = value {
            line(name, output::plain(value, 200))?;
        }
    }
    line("payload", message.payload_bytes.map_or_else(|| "none".to_owned(), |bytes| format!("{bytes} bytes")))?;
    line("headers", output::plain(message.headers.get(), 1000))?;
    line("priority", message.priority.to_string())?;
    let refused = counted(message.retries, ["refused attempt", "refused attempts"]);
    let most = message.max_retries.map_or_else(String::new, |most| format!(", at most {}", counted(most, ["retry", "retries"])));
    line("attempts", format!("{} in epoch {}, {refused}{most}", message.attempts, message.epoch))?;
    line("created", time(message.created_at))?;
    line("changed", time(message.updated_at))?;
    for (name, value) in [("due", message.due_at), ("finished", message.finished_at), ("expires", message.expires_at)] {
        if let Some(value) = value {
            line(name, time(value))?;
        }
    }
    if let Some(error) = &message.last_error {
        line("last error", format!("{} ({}): {}", error.code, error.class, output::plain(&error.detail, 1000)))?;
    }
    if let Some(result) = &message.result {
        line("result", output::plain(result.get(), 1000))?;
    }
    if attempts.is_empty() {
        return Ok(writeln!(out, "\nno attempts on record")?);
    }
    let mut table = output::table(["epoch", "attempt", "outcome", "started", "took", "node", "error"]);
    for attempt in attempts {
        let number = if attempt.count > 1 { format!("{} (and {} like it)", attempt.number, attempt.count - 1) } else { attempt.number.to_string() };
        let outcome = serde_json::to_value(attempt.outcome).ok().and_then(|outcome| outcome.as_str().map(str::to_owned)).unwrap_or_default();
        let error = attempt.error.as_ref().map_or_else(String::new, |error| format!("{}: {}", error.code, error.detail));
        table.add_row([
            attempt.epoch.to_string(),
            number,
            outcome,
            rfc3339(attempt.started_at),
            format!("{}ms", attempt.duration_ms),
            output::plain(&attempt.node, 60),
            output::plain(&error, 200),
        ]);
    }
    writeln!(out)?;
    output::show(out, &table)
}
