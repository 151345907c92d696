//! `log:` in the configuration, and where log lines go: JSON lines on stderr when it is not a terminal, text when it is.

pub mod metrics;
pub mod throttle;

use std::io::{self, IsTerminal};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::fault::Fault;

/// What is logged, and how.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `auto`: text on a terminal, else JSON lines. `json` or `text`: always that.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,redrive::engine=debug`. `REDRIVE_LOG` and `RUST_LOG` go before it.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::Auto, level: "info".to_owned() }
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Text on a terminal, else JSON lines.
    #[default]
    Auto,
    /// JSON lines.
    Json,
    /// Text.
    Text,
}

impl Config {
    /// What is wrong with it.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        match filter(&self.level) {
            Ok(_) => Vec::new(),
            Err(message) => vec![Fault::new("level", message)],
        }
    }
}

/// Sends log lines to stderr from here on. `overriding` goes before the configuration's level: what `REDRIVE_LOG` or `RUST_LOG` says.
///
/// # Errors
/// What is wrong with the level. A second call changes nothing.
pub fn init(config: &Config, overriding: Option<&str>) -> Result<(), String> {
    let filter = filter(overriding.unwrap_or(&config.level))?;
    let json = match config.format {
        Format::Auto => !io::stderr().is_terminal(),
        Format::Json => true,
        Format::Text => false,
    };
    // That a line could not be written would be said on the stderr that takes none, which panics.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    // Fails only if a program that embeds redrive has set its own up before: then that one holds.
    let _ = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init_quietly()
    } else {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        lines.with_ansi(colours).try_init_quietly()
    };
    Ok(())
}

/// Sets the global subscriber, if there is none.
trait TryInit {
    fn try_init_quietly(self) -> bool;
}

impl<S: Into<tracing::Dispatch>> TryInit for S {
    fn try_init_quietly(self) -> bool {
        tracing::dispatcher::set_global_default(self.into()).is_ok()
    }
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    const SHAPE: &str = "must be error, warn, info, debug, trace or off, or directives such as `info,redrive::engine=debug`";
    let is_level = |text: &str| !text.trim().is_empty() && text.trim().parse::<LevelFilter>().is_ok();
    // By itself the filter takes `verbose` for the name of a module, and silences everything else.
    let is_directive = |part: &str| match part.rsplit_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level),
        None => is_level(part),
    };
    if !level.split(',').all(is_directive) {
        return Err(SHAPE.to_owned());
    }
    let level: Vec<&str> = level.split(',').map(str::trim).collect();
    // lapin writes a line for each thing that the source reports itself, and a message that comes back whole, payload and all.
    let level = format!("lapin=off,{},lapin::returned_messages=off", level.join(","));
    EnvFilter::builder().parse(level).map_err(|_| SHAPE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_directives() {
        for level in ["info", "WARN", "off", "info,redrive::engine=debug", "warn, sqlx=info"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["", "verbose", "info,=,", "loud,redrive=debug", "redrive=shout"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }

    #[test]
    fn a_message_that_a_broker_returns_is_never_logged() {
        for level in ["trace", "lapin=trace", "lapin::returned_messages=trace"] {
            let lines = tracing_subscriber::fmt().with_env_filter(filter(level).unwrap()).finish();
            tracing::subscriber::with_default(lines, || {
                assert!(!tracing::enabled!(target: "lapin::returned_messages", tracing::Level::ERROR), "{level}");
            });
        }
    }
}
