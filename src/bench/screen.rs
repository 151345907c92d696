//! What is shown while a benchmark runs: a line per phase, with a bar on a terminal. Everything goes to stderr.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::MissedTickBehavior;

/// How often the progress of work is shown that does not report it itself.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// The phases of a run.
#[derive(Debug)]
pub(super) struct Screen {
    quiet: bool,
}

impl Screen {
    pub(super) const fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    /// Begins a phase of known length.
    #[allow(clippy::print_stderr, reason = "a command that is there to be looked at")]
    pub(super) fn phase(&self, what: &str, length: u64) -> Phase {
        if self.quiet {
            return Phase(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        if bar.is_hidden() {
            eprintln!("{what} …");
        }
        if let Ok(style) = ProgressStyle::with_template("{msg:<44} [{bar:30}] {human_pos}/{human_len} {per_sec} {elapsed}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        Phase(bar)
    }
}

/// One phase; its bar disappears when it is dropped.
#[derive(Debug)]
pub(super) struct Phase(ProgressBar);

impl Phase {
    pub(super) fn set(&self, position: u64) {
        self.0.set_position(position);
    }

    pub(super) fn add(&self, more: u64) {
        self.0.inc(more);
    }

    /// Shows the progress of some work until it is done.
    pub(super) async fn follow<T>(&self, work: impl Future<Output = T>, position: impl Fn() -> u64) -> T {
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => self.set(position()),
            }
        }
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
