//! Whether the store can be used, judging by the last request to it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::store::Error;
use crate::telemetry::throttle::Throttle;
use crate::units::millis;

/// How often the failure is logged while the store is away.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// After this many refused messages in a row, the fault lies not with the messages but with the database.
const REFUSALS: u32 = 3;
/// How long that verdict lasts if no further message is handed in: a node that is not ready may not be given any.
const REFUSES_FOR: Duration = Duration::from_secs(60);

/// The state of the store as this node sees it. One line is logged when it goes away, one a minute while it is away, and
/// one when it is back; a store that comes and goes is logged about once a minute.
#[derive(Debug)]
pub(super) struct StoreHealth {
    up: watch::Sender<bool>,
    why: Mutex<Why>,
    /// How many messages in a row it refused to keep, or could not keep because of a lock.
    refusals: AtomicU32,
    /// Notified when the store answers a question although it could not be written to.
    doubt: Notify,
}

/// The kind of request that the store failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// To change something.
    Write,
    /// Something that changes nothing.
    Question,
    /// Something other than sending, which may be slow.
    Beside,
    /// To write what could not be written before.
    Again,
}

#[derive(Debug)]
struct Why {
    reason: String,
    /// The same, without details, for everybody.
    word: &'static str,
    since: Instant,
    /// Whether it is considered away because it could not be written to; a standby, or a full database, can still be read.
    unwritable: bool,
    /// When it was last logged that the store is away, and whether that was logged for the present outage: a store that comes and goes is logged once
    /// in a while.
    reported: Option<Instant>,
    said: bool,
    /// When it last refused to keep a message.
    refused: Option<Instant>,
    /// Limits the lines about failures that do not mean that the store is away.
    others: Throttle,
}

impl Default for StoreHealth {
    /// Away until it answers for the first time.
    fn default() -> Self {
        let word = "the store has not answered yet";
        let others = Throttle::new(10, REPORT_EVERY);
        let why = Why { reason: word.to_owned(), word, since: Instant::now(), unwritable: false, reported: None, said: false, refused: None, others };
        Self { up: watch::Sender::new(false), why: Mutex::new(why), refusals: AtomicU32::new(0), doubt: Notify::new() }
    }
}

impl StoreHealth {
    /// The store carried out a write.
    pub(super) fn answered(&self) {
        if *self.up.borrow() {
            return;
        }
        if self.up.send_replace(true) {
            return;
        }
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.unwritable = false;
        if std::mem::take(&mut why.said) {
            tracing::info!(store.away_ms = millis(why.since.elapsed()), "the store is back");
        }
    }

    /// The store answered a question, which does not prove that it can be written to.
    pub(super) fn answered_question(&self) {
        if *self.up.borrow() {
            return;
        }
        if self.why.lock().unwrap_or_else(PoisonError::into_inner).unwritable {
            self.doubt.notify_one();
        } else {
            self.answered();
        }
    }

    /// Waits until the store answers questions although it could not be written to: somebody should check whether it can be now.
    pub(super) async fn is_doubtful(&self) {
        self.doubt.notified().await;
    }

    /// The store kept a message.
    pub(super) fn kept(&self) {
        self.answered();
        // Read first, since it is almost always 0 and all committers share it.
        if self.refusals.load(Ordering::Relaxed) > 0 {
            self.refusals.store(0, Ordering::Relaxed);
        }
    }

    /// The store answers, but refused to keep a message.
    pub(super) fn refused(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        self.why.lock().unwrap_or_else(PoisonError::into_inner).refused = Some(Instant::now());
    }

    /// Whether the store refuses every message. It is given more all the same, to see whether that has changed.
    fn refuses(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) >= REFUSALS
            && self.why.lock().unwrap_or_else(PoisonError::into_inner).refused.is_some_and(|at| at.elapsed() < REFUSES_FOR)
    }

    /// A write failed. Only an error that means that the store is away changes the state.
    pub(super) fn failed(&self, op: &'static str, error: &Error) {
        self.note(op, error, Asked::Write);
    }

    /// The same for a question.
    pub(super) fn failed_question(&self, op: &'static str, error: &Error) {
        self.note(op, error, Asked::Question);
    }

    /// The same for work other than sending that may be slow in a large table: a timeout does not mean that the store is away.
    pub(super) fn failed_beside(&self, op: &'static str, error: &Error) {
        self.note(op, error, Asked::Beside);
    }

    /// The same for a write that has failed before and may itself be at fault: other requests show whether the store is away.
    pub(super) fn failed_again(&self, op: &'static str, error: &Error) {
        self.note(op, error, Asked::Again);
    }

    fn note(&self, op: &'static str, error: &Error, asked: Asked) {
        let is_of_outage = match error {
            Error::TimedOut(_) => asked != Asked::Beside,
            Error::Unavailable(_) | Error::Schema(_) | Error::InUse(_) | Error::Config(_) => true,
            Error::Busy(_) | Error::Contended(_) | Error::Refused(_) => false,
        };
        let away = is_of_outage && asked != Asked::Again;
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if away || !self.is_up() {
            (why.reason, why.word) = (error.to_string(), error.in_a_word());
        }
        if !away {
            // That the store is away has its own line.
            let is_known = is_of_outage && !self.is_up();
            if !is_known && let Some(held_back) = why.others.pass(now) {
                tracing::warn!(store.op = op, error.detail = error.to_string(), lines.held_back = held_back, "the store failed");
            }
            return;
        }
        why.unwritable |= asked != Asked::Question;
        if self.up.send_replace(false) {
            why.since = now;
        }
        if why.reported.is_none_or(|at| now.duration_since(at) >= REPORT_EVERY) {
            (why.reported, why.said) = (Some(now), true);
            tracing::warn!(store.op = op, error.detail = error.to_string(), "the store is away");
        }
    }

    /// Whether the store answered the last request.
    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Why it is away, for people; `None` if it is not.
    pub(super) fn reason(&self) -> Option<String> {
        (!self.is_up()).then(|| self.why.lock().unwrap_or_else(PoisonError::into_inner).reason.clone())
    }

    /// Why no message can be kept, in words that are safe for everybody: `/readyz` requires no token.
    pub(super) fn word(&self) -> Option<&'static str> {
        if !self.is_up() {
            return Some(self.why.lock().unwrap_or_else(PoisonError::into_inner).word);
        }
        self.refuses().then_some("the database keeps no messages")
    }

    /// Waits until it answers.
    pub(super) async fn is_back(&self) {
        let mut up = self.up.subscribe();
        // The sender lives as long as `self`, so the channel can't be closed here.
        let _ = up.wait_for(|up| *up).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_is_slow_beside_sending_does_not_take_the_store_away() {
        let health = StoreHealth::default();
        health.answered();
        let slow = Error::TimedOut(Duration::from_secs(10));
        health.failed_beside("sample", &slow);
        assert!(health.is_up());
        health.failed("claim", &slow);
        assert!(!health.is_up());
        health.answered();
        health.failed_beside("sample", &Error::Unavailable("gone".to_owned()));
        assert!(!health.is_up());
    }

    #[test]
    fn what_can_not_be_written_however_often_does_not_take_the_store_away_again() {
        let (health, full) = (StoreHealth::default(), Error::Unavailable("full".to_owned()));
        health.answered();
        health.failed_again("complete", &full);
        assert!(health.is_up());
        health.failed("complete", &full);
        health.failed_again("complete", &full);
        assert!(!health.is_up(), "nor does it bring it back");
    }

    #[test]
    fn what_can_not_be_written_because_the_store_is_away_needs_no_line_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = tracing_subscriber::fmt().with_writer(Arc::new(file.reopen().unwrap())).finish();
        let (health, gone) = (StoreHealth::default(), Error::Unavailable("gone".to_owned()));
        tracing::subscriber::with_default(lines, || {
            health.answered();
            health.failed("heartbeat", &gone);
            health.failed_again("complete", &gone);
            health.failed_again("complete", &Error::Refused("never".to_owned()));
            health.answered();
            health.failed_again("complete", &gone);
        });
        let said = std::fs::read_to_string(file.path()).unwrap();
        let words = ["the store is away", "the store failed", "the store is back"].map(|words| said.matches(words).count());
        assert_eq!(words, [1, 2, 1], "{said}");
    }

    #[tokio::test]
    async fn what_can_be_read_is_not_back_until_it_can_be_written_to() {
        let (health, gone) = (StoreHealth::default(), Error::Unavailable("gone".to_owned()));
        health.answered();
        health.failed_question("upcoming", &gone);
        health.answered_question();
        assert!(health.is_up(), "it was not written to meanwhile");
        health.failed("heartbeat", &gone);
        health.answered_question();
        assert!(!health.is_up());
        health.is_doubtful().await;
        health.answered();
        assert!(health.is_up());
        health.failed_question("upcoming", &gone);
        health.answered_question();
        assert!(health.is_up(), "what was before is over");
    }

    #[test]
    fn until_it_answers_the_last_failure_is_the_reason() {
        let health = StoreHealth::default();
        health.failed("prepare", &Error::Refused("permission denied for schema public".to_owned()));
        assert!(health.reason().unwrap().contains("permission denied"));
        assert_eq!(health.word(), Some("the database refused"));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_refuses_several_messages_in_a_row_is_not_ready_until_it_keeps_one() {
        let health = StoreHealth::default();
        health.kept();
        for _ in 1..REFUSALS {
            health.refused();
        }
        assert_eq!(health.word(), None, "they may be at fault themselves");
        health.kept();
        for _ in 0..REFUSALS {
            assert!(!health.refuses());
            health.refused();
        }
        assert!(health.word().is_some() && health.is_up(), "more is handed in all the same");
        health.answered();
        assert!(health.refuses(), "another answer says nothing of that");
        tokio::time::advance(REFUSES_FOR).await;
        assert!(!health.refuses(), "nobody has handed in any since");
        health.refused();
        assert!(health.refuses());
        health.kept();
        assert!(!health.refuses());
    }
}
