//! What is shown of the demo: a moving line while it runs, a table at the end.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rdkafka::error::KafkaError;

use super::Options;
use super::broker::Consumer;
use super::census::{Census, Fate};
use super::producer::Producer;

/// The state of the demo while it runs.
pub(super) struct View {
    pub(super) elapsed: Duration,
    pub(super) broker_up: bool,
    pub(super) accepted: usize,
    pub(super) delivered: usize,
    pub(super) waiting: u64,
}

/// Draws on stderr; the final table goes to stdout.
pub(super) struct Screen {
    bar: ProgressBar,
    span: Duration,
    live: bool,
    last_second: std::cell::Cell<u64>,
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a command that is there to be looked at")]
impl Screen {
    pub(super) fn new(options: &Options, address: &str, broker: &str) -> Self {
        eprintln!("redrive demo: messages go to http://{address} at {}/s, and from there to a broker at {broker}.", options.rate);
        if options.kafka.is_some() {
            eprintln!("It is your broker: stop and start it while this runs, if you like.\n");
        } else {
            eprintln!("The broker is taken away after {} s and comes back after {} s.\n", options.span.as_secs() / 3, options.span.as_secs() * 2 / 3);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let live = !bar.is_hidden();
        if let Ok(style) = ProgressStyle::with_template("{prefix}  delivered [{bar:40}] {pos}/{len}  {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, span: options.span, live, last_second: std::cell::Cell::new(u64::MAX) }
    }

    pub(super) fn draw(&self, view: &View) {
        let broker = if view.broker_up { "broker up  " } else { "BROKER DOWN" };
        let phase = if view.elapsed < self.span { "submitting" } else { "draining" };
        if self.live {
            self.bar.set_length(view.accepted as u64);
            self.bar.set_position(view.delivered as u64);
            self.bar.set_prefix(format!("{:>4.1}s {broker}", view.elapsed.as_secs_f32()));
            self.bar.set_message(format!("waiting {:<5} {phase}", view.waiting));
            return;
        }
        // Not a terminal: one line per second.
        if self.last_second.replace(view.elapsed.as_secs()) != view.elapsed.as_secs() {
            let (seconds, accepted, delivered, waiting) = (view.elapsed.as_secs(), view.accepted, view.delivered, view.waiting);
            eprintln!("{seconds:>3}s  {broker}  accepted {accepted:<6} waiting {waiting:<6} delivered {delivered:<6} {phase}");
        }
    }

    /// Prints the table. Returns how many messages were lost.
    pub(super) fn finish(&self, producer: &Producer, consumer: &Consumer, census: &Census, took: Duration) -> usize {
        self.bar.finish_and_clear();
        let (mut lost, mut waiting, mut longest) = (0_usize, 0_usize, Duration::ZERO);
        producer.each(|id, submitted| match (consumer.first(id), census.fate(id)) {
            (Some(read), _) => longest = longest.max(read.saturating_duration_since(submitted)),
            (None, Fate::Failed) => {}
            (None, Fate::Waiting) => waiting += 1,
            (None, Fate::Lost) => lost += 1,
        });
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["", "messages"]);
        table.add_row(["accepted".to_owned(), producer.accepted().to_string()]);
        table.add_row(["delivered".to_owned(), consumer.distinct().to_string()]);
        table.add_row(["sent more than once, because the broker was away".to_owned(), census.retried.to_string()]);
        table.add_row(["attempts".to_owned(), census.attempts.to_string()]);
        table.add_row(["duplicates".to_owned(), consumer.duplicates().to_string()]);
        table.add_row(["failed".to_owned(), census.failed.len().to_string()]);
        table.add_row(["still waiting".to_owned(), waiting.to_string()]);
        table.add_row(["lost".to_owned(), lost.to_string()]);
        table.add_row(["longest wait".to_owned(), format!("{:.1} s", longest.as_secs_f32())]);
        println!("{table}");
        let verdict = match (lost, waiting) {
            (0, 0) => "Nothing was lost.",
            (0, _) => "Nothing was lost; waiting messages would be sent once the broker accepts them.",
            _ => "MESSAGES WERE LOST.",
        };
        println!("{verdict} The demo took {:.1} s.", took.as_secs_f32());
        lost
    }
}

/// Reports that a topic could not be deleted.
#[allow(clippy::print_stderr, reason = "a command that is there to be looked at")]
pub(super) fn left_behind(topic: &str, error: &KafkaError) {
    eprintln!("redrive demo: topic {topic} could not be deleted ({error}); delete it yourself.");
}
