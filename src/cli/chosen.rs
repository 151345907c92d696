//! The messages that a command changes: the named ones, or those that filters find.

use std::io::Write;

use clap::Args;
use uuid::Uuid;

use super::filter::Filter;
use super::open::Opened;
use super::{Failure, list, output};
use crate::message::State;
use crate::store::{self, Changed, Id, List};

/// The maximum number of messages that one statement changes.
const CHUNK: usize = 500;

/// Which messages to change, and how the result is printed.
#[derive(Args, Clone, Debug)]
pub(super) struct Chosen {
    /// The messages' ids; or filters instead
    #[arg(value_name = "ID", required_unless_present = "filter", conflicts_with_all = ["filter", "limit", "after"])]
    ids: Vec<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// With filters: at most this many, the newest first
    #[arg(long, default_value_t = 1000, requires = "filter", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// With filters: only those that follow this message (the `next` of the run before)
    #[arg(long, value_name = "ID", requires = "filter")]
    after: Option<Id>,
    /// Print one JSON object: {"items": [{"id", "state"} or {"id", "state", "error": {"code", "detail"}}], "next"}. A message that does not exist has no
    /// "state"; "next" is for --after, null at the end
    #[arg(long)]
    json: bool,
}

impl Chosen {
    /// Changes them (those that filters find, in the given state) and prints the result for each; `verb` names the change.
    pub(super) async fn change<F>(
        self,
        opened: &Opened,
        out: &mut dyn Write,
        state: State,
        verb: &str,
        change: impl FnMut(Vec<Uuid>) -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<Vec<Changed>, store::Error>>,
    {
        let list = List { after: self.after, ..self.filter.list(&opened.config.project, Some(state)) };
        let is_named = !self.ids.is_empty();
        let (ids, mut next) = if is_named { (self.ids, None) } else { found(opened, list.clone(), self.limit).await? };
        let (changed, unfinished) = in_chunks(&ids, change).await?;
        opened.store.close().await;
        if unfinished.is_some() && !is_named {
            // The next run begins behind the last message that this one got to.
            next = ids.get(..changed.len()).and_then(|changed| changed.last()).copied().map(Id::Known);
        }
        if ids.is_empty() && !self.json {
            return Ok(writeln!(out, "{}", opened.nothing(&list))?);
        }
        let told = output::changes(out, &ids, &changed, next.as_ref(), verb, self.json);
        unfinished.map_or(told, |error| Err(error.into()))
    }
}

/// The ids that were asked for, and the position after them. Nothing else is kept of the messages, since there may be a hundred thousand.
async fn found(opened: &Opened, wanted: List, limit: u32) -> Result<(Vec<Uuid>, Option<Id>), Failure> {
    let mut ids = Vec::new();
    let next = list::walk(opened.store.as_ref(), wanted, limit, |page| {
        ids.extend(page.into_iter().map(|record| record.id));
        true
    })
    .await?;
    Ok((ids, next))
}

/// Changes messages in chunks; returns the results in their order, and the error that ended it early, if any. Whatever was changed by then stays
/// changed, and has to be reported.
///
/// # Errors
/// The store's, if it came before anything was changed.
async fn in_chunks<F>(ids: &[Uuid], mut change: impl FnMut(Vec<Uuid>) -> F) -> Result<(Vec<Changed>, Option<store::Error>), store::Error>
where
    F: Future<Output = Result<Vec<Changed>, store::Error>>,
{
    let mut changed = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        match change(chunk.to_vec()).await {
            Ok(more) => changed.extend(more),
            Err(error) if changed.is_empty() => return Err(error),
            Err(error) => return Ok((changed, Some(error))),
        }
    }
    Ok((changed, None))
}
