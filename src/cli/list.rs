//! `redrive list`

use std::io::Write;

use bytes::Bytes;
use chrono::Utc;

use super::filter::Filter;
use super::{ConfigFile, Failure, Terminal, output};
use crate::store::config::Migrate;
use crate::store::{Id, List, MAX_PAGE_BYTES, Page, Store};
use crate::view::{MessageView, PageView};

/// At most so many messages are asked for at once.
pub(super) const CHUNK: u32 = 500;
/// The longest list.
const MOST: u32 = 100_000;

/// List messages, the newest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Examples:
  redrive list                                  the newest messages
  redrive list --state failed --since 2h        what failed lately
  redrive list --source billing --error-code http_503
  redrive list --state failed --json | jq -r '.items[].id'")]
pub(super) struct Command {
    #[command(flatten)]
    file: ConfigFile,
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

/// At most `limit` messages, asked for in parts; with payloads, until they weigh enough.
pub(super) async fn collect(store: &dyn Store, mut list: List, limit: u32) -> Result<Page, Failure> {
    let (mut all, mut weight) = (Page::default(), 0);
    loop {
        let missing = limit.saturating_sub(u32::try_from(all.items.len()).unwrap_or(u32::MAX));
        list.limit = missing.min(CHUNK);
        if list.limit == 0 {
            return Ok(all);
        }
        let page = store.list(list.clone()).await?;
        weight += page.items.iter().filter_map(|record| record.payload.as_ref()).map(Bytes::len).sum::<usize>();
        all.items.extend(page.items);
        list.after.clone_from(&page.next);
        all.next = page.next;
        if list.after.is_none() || weight >= MAX_PAGE_BYTES {
            return Ok(all);
        }
    }
}

impl Command {
    pub(super) async fn run(self, terminal: Terminal<'_>) -> Result<(), Failure> {
        let opened = self.file.open(terminal.registry, Migrate::Verify).await?;
        let narrowed = self.filter.state.is_some() || self.filter.source.is_some() || self.filter.since.is_some() || self.filter.error_code.is_some();
        let list = List { after: self.after, payload: self.payload, ..self.filter.list(&opened.config.project) };
        let page = collect(opened.store.as_ref(), list, self.limit).await?;
        opened.store.close().await;
        let page = PageView::new(page, |source| opened.max_retries(source), self.payload);
        if self.json {
            return output::json(terminal.out, &page);
        }
        if page.items.is_empty() {
            let hint = if narrowed { "; fewer filters may show more" } else { ": submit one with `redrive send`, or by POST /v1/messages" };
            return Ok(writeln!(terminal.out, "no messages of project {}{hint}", opened.config.project)?);
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
    let mut table = output::table(["id", "state", "source", "topic", "key", "attempts", "created", "due", "last error"]);
    for item in items {
        let due = match (item.state.is_finished(), item.due_at) {
            (false, Some(due)) => output::relative(due, now),
            _ => "-".to_owned(),
        };
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
            due,
            output::plain(&error, 80),
        ]);
    }
    output::show(out, &table)
}
