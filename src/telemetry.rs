//! The `log:` section of the configuration, and where log lines go: JSON lines on stderr if it is not a terminal, text if it is.

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
    /// `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,redrive::engine=debug`. `REDRIVE_LOG` and `RUST_LOG` take precedence.
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { format: Format::Auto, level: "info".to_owned() }
    }
}

/// The format of log lines.
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
    /// What is wrong with the configuration.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        match filter(&self.level) {
            Ok(_) => Vec::new(),
            Err(message) => vec![Fault::new("level", message)],
        }
    }
}

/// Sends log lines to stderr from here on. `REDRIVE_LOG` or `RUST_LOG`, which are read through `variable`, take precedence over the configured level.
///
/// # Errors
/// What is wrong with the level, and where it was set. A second call changes nothing.
pub fn init(config: &Config, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), Fault> {
    let (filter, ignored) = choose(&config.level, variable)?;
    let json = match config.format {
        Format::Auto => !io::stderr().is_terminal(),
        Format::Json => true,
        Format::Text => false,
    };
    // An error in writing a line would be reported on the very stderr that failed, which panics.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    // This fails only if a program that embeds redrive has installed its own subscriber before: then that one is used.
    let _ = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init_quietly()
    } else {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        lines.with_ansi(colours).try_init_quietly()
    };
    if let Some(message) = ignored {
        tracing::warn!(error.detail = message, "RUST_LOG is ignored; REDRIVE_LOG sets the level of redrive only");
    }
    Ok(())
}

/// The filter to use, and what is wrong with `RUST_LOG` if that was ignored: other programs use it too, so it must neither stop this one nor silence it.
fn choose(level: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<(EnvFilter, Option<String>), Fault> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let strict = |place: &str, level: &str| filter(level).map_err(|message| Fault::new(place, message));
    if let Some(own) = set("REDRIVE_LOG") {
        return Ok((strict("REDRIVE_LOG", &own)?, None));
    }
    match set("RUST_LOG").map(|shared| if is_for_us(&shared) { filter(&shared) } else { Err("sets no level for redrive".to_owned()) }) {
        Some(Ok(filter)) => Ok((filter, None)),
        ignored => Ok((strict("log.level", level)?, ignored.and_then(Result::err))),
    }
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

/// Whether one of the directives is for every program or for this one. Without any, nothing would be logged at all.
fn is_for_us(level: &str) -> bool {
    level.split(',').any(|part| match part.rsplit_once('=') {
        Some((target, _)) => target.trim().split([':', '[']).next() == Some("redrive"),
        None => true,
    })
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    const SHAPE: &str = "must be error, warn, info, debug, trace or off, or directives such as `info,redrive::engine=debug`";
    let is_level = |text: &str| !text.trim().is_empty() && text.trim().parse::<LevelFilter>().is_ok();
    // On its own, the filter would take `verbose` for the name of a module, and silence everything else.
    let is_directive = |part: &str| match part.rsplit_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level),
        None => is_level(part),
    };
    if !level.split(',').all(is_directive) {
        return Err(SHAPE.to_owned());
    }
    let level: Vec<&str> = level.split(',').map(str::trim).collect();
    // lapin logs everything that the source reports itself, and returned messages as a whole, payload included.
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
    fn only_what_is_for_redrive_alone_must_be_understood() {
        let choose = |level: &str, own: &str, shared: &str| {
            let variable = |name: &str| Some(if name == "REDRIVE_LOG" { own } else { shared }.to_owned());
            choose(level, &variable).map(|(filter, ignored)| (filter.max_level_hint(), ignored.is_some())).map_err(|fault| fault.path)
        };
        for (own, shared, holds, ignored) in [
            ("", "", LevelFilter::ERROR, false),
            ("", "debug", LevelFilter::DEBUG, false),
            ("warn", "debug", LevelFilter::WARN, false),
            ("warn", "my_app", LevelFilter::WARN, false),
            ("", "my_app", LevelFilter::ERROR, true),
            ("", "info,my_app", LevelFilter::ERROR, true),
            ("", " ", LevelFilter::ERROR, true),
            ("", "my_app=debug", LevelFilter::ERROR, true),
            ("", "my_app=trace,redriver=debug,[redrive]=debug", LevelFilter::ERROR, true),
            ("", "my_app=off,debug", LevelFilter::DEBUG, false),
            ("", "my_app=off,redrive=warn", LevelFilter::WARN, false),
            ("", "redrive::engine=debug", LevelFilter::DEBUG, false),
        ] {
            assert_eq!(choose("error", own, shared), Ok((Some(holds), ignored)), "{own:?} {shared:?}");
        }
        assert_eq!(choose("error", "my_app", "debug"), Err("REDRIVE_LOG".to_owned()));
        assert_eq!(choose("loud", "", "my_app"), Err("log.level".to_owned()));
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
