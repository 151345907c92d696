//! What commands print: JSON for programs, tables and relative times for people.

use std::io::{self, IsTerminal, Write};

use chrono::{DateTime, Utc};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use uuid::Uuid;

use super::Failure;
use crate::store::{Changed, Id};
use crate::view::ChangeView;

/// Writes one JSON value: over several lines on a terminal, otherwise on one.
pub(super) fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        serde_json::to_writer_pretty(&mut *out, value)?;
    } else {
        serde_json::to_writer(&mut *out, value)?;
    }
    Ok(writeln!(out)?)
}

/// An empty table with a header. It has no lines, so that other programs can split it, and takes as much width as it needs when piped.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table.set_content_arrangement(if io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
    table
}

/// Writes a table.
pub(super) fn show(out: &mut dyn Write, table: &Table) -> Result<(), Failure> {
    Ok(writeln!(out, "{}", table.trim_fmt())?)
}

/// Text on a single line, without anything that a terminal would interpret, cut to `longest`.
pub(super) fn plain(text: &str, longest: usize) -> String {
    let escaped: String = text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if escaped.chars().count() <= longest {
        return escaped;
    }
    let mut cut: String = escaped.chars().take(longest.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// How far a time is from now, in its largest unit: `12m ago`, `in 3h`, `now`.
pub(super) fn relative(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (time - now).num_seconds();
    let size = seconds.unsigned_abs();
    let (count, unit) = match size {
        0 => return "now".to_owned(),
        1..=119 => (size, "s"),
        120..=7_199 => (size / 60, "m"),
        7_200..=172_799 => (size / 3_600, "h"),
        _ => (size / 86_400, "d"),
    };
    if seconds < 0 { format!("{count}{unit} ago") } else { format!("in {count}{unit}") }
}

/// Prints the result for each message, or for the first ones if there are fewer results, and where to continue; fails if something was not done.
pub(super) fn changes(out: &mut dyn Write, ids: &[Uuid], changes: &[Changed], next: Option<&Id>, verb: &str, as_json: bool) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Items {
        items: Vec<ChangeView>,
        next: Option<String>,
    }
    let items: Vec<ChangeView> = ids.iter().zip(changes).map(|(id, changed)| ChangeView::new(*id, *changed, verb)).collect();
    let refused = items.iter().any(|item| item.error.is_some());
    if as_json {
        json(out, &Items { items, next: next.map(ToString::to_string) })?;
    } else {
        for item in &items {
            match (&item.error, item.state) {
                (Some(error), _) => writeln!(out, "{}  not {verb}: {}", item.id, error.detail)?,
                (None, Some(state)) if state.as_str() != verb => writeln!(out, "{}  {verb}, now {state}", item.id)?,
                (None, _) => writeln!(out, "{}  {verb}", item.id)?,
            }
        }
        if let Some(next) = next {
            writeln!(out, "more follow: go on with --after {next}")?;
        }
    }
    if refused { Err(Failure::Partly) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn times_are_told_from_now() {
        let now = Utc::now();
        let told = |seconds| relative(now + TimeDelta::seconds(seconds), now);
        assert_eq!([told(0), told(-45), told(300), told(-10_000), told(1_000_000)], ["now", "45s ago", "in 5m", "2h ago", "in 11d"]);
        assert!(relative(DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC).starts_with("in "));
    }

    #[test]
    fn nothing_that_a_terminal_would_obey_is_printed() {
        assert_eq!(plain("a\u{1b}[31mb\nc", 80), "a\\u{1b}[31mb\\nc");
        assert_eq!(plain("ééééé", 3), "éé…");
    }
}
