//! `redrive list`

use std::io::Write;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::filter::Filter;
use super::{ConfigFile, Failure, Terminal, output};
use crate::message::State;
use crate::store::config::Migrate;
use crate::store::{Id, List, MAX_PAGE_BYTES, Page, Record, Store};
use crate::view::{MessageView, PageView};

/// At most so many messages are asked for at once.
const CHUNK: u32 = 500;
/// The longest list.
const MOST: u32 = 100_000;

/// List messages, the newest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive list                                       the newest messages
  redrive list --state failed --finished-since 2h    what failed lately
  redrive list --source billing --error-code http_503
  redrive list --state failed --json | jq -r '.items[].id'")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
    /// Only messages in this state: pending, sending, retrying, blocked, succeeded, failed or cancelled
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    #[command(flatten)]
    filter: Filter,
    /// At most so many messages
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    limit: u32,
    /// Those that follow this message (the `next` of the list before)
    #[arg(long, value_name = "ID")]
    after: Option<Id>,
    /// With payloads; only with --json. The list ends early once they weigh 16 MiB: go on with --after
    #[arg(long, requires = "json")]
    payload: bool,
    /// Print one JSON object: {"items": [message…], "next"}, as the API does
    #[arg(long)]
    json: bool,
}

/// Gives at most `limit` messages to `take`, page by page, for as long as it wants more; answers where the next page starts.
pub(super) async fn walk(store: &dyn Store, mut list: List, limit: u32, mut take: impl FnMut(Vec<Record>) -> bool) -> Result<Option<Id>, Failure> {
    let mut missing = limit;
    loop {
        list.limit = missing.min(CHUNK);
        let Page { items, next } = store.list(list.clone()).await?;
        missing = missing.saturating_sub(u32::try_from(items.len()).unwrap_or(u32::MAX));
        list.after = next;
        if !take(items) || list.after.is_none() || missing == 0 {
            return Ok(list.after);
        }
    }
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let list = List { after: self.after, payload: self.payload, ..self.filter.list(&opened.config.project, self.state) };
        let (mut items, mut weight) = (Vec::new(), 0);
        let next = walk(opened.store.as_ref(), list.clone(), self.limit, |page| {
            weight += page.iter().filter_map(|record| record.payload.as_ref()).map(Bytes::len).sum::<usize>();
            items.extend(page);
            weight < MAX_PAGE_BYTES
        })
        .await?;
        opened.store.close().await;
        let page = PageView::new(Page { items, next }, |source| opened.max_retries(source), self.payload);
        if self.json {
            return output::json(terminal.out, &page);
        }
        if page.items.is_empty() {
            return Ok(writeln!(terminal.out, "{}", opened.nothing(&list))?);
        }
        table(terminal.out, &page.items)?;
        if let Some(next) = page.next {
            writeln!(terminal.out, "more follow: --after {next}, or a larger --limit")?;
        }
        Ok(())
    }
}

fn table(out: &mut dyn Write, items: &[MessageView]) -> Result<(), Failure> {
    let now = Utc::now();
    let told = |time: Option<DateTime<Utc>>| time.map_or_else(|| "-".to_owned(), |time| output::relative(time, now));
    let mut table = output::table(["id", "state", "source", "topic", "key", "attempts", "created", "due", "finished", "last error"]);
    for item in items {
        let (due, finished) = if item.state.is_finished() { (None, item.finished_at) } else { (item.due_at, None) };
        let error = item.last_error.as_ref().map_or_else(String::new, |error| format!("{}: {}", error.code, error.detail));
        let key = item.key.as_deref().or(item.key_base64.as_deref()).unwrap_or("-");
        table.add_row([
            item.id.to_string(),
            item.state.to_string(),
            output::plain(&item.source, 40),
            output::plain(item.topic.as_deref().unwrap_or("-"), 40),
            output::plain(key, 40),
            item.attempts.to_string(),
            output::relative(item.created_at, now),
            told(due),
            told(finished),
            output::plain(&error, 80),
        ]);
    }
    output::show(out, &table)
}
