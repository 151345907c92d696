//! A message under way, and the duty to report what became of it.

use std::fmt;

use crate::message::Message;
use crate::outcome::Outcome;

/// The code of an outcome after a panic of the source.
pub(crate) const PANICKED: &str = "panic";
/// The code of the outcome of a delivery that was dropped.
pub(crate) const DROPPED: &str = "dropped";

/// The outcome of a send that panicked, which says nothing about the destination.
pub(crate) fn panicked() -> Outcome {
    Outcome::refused(PANICKED, "the source panicked; this is a bug in it").unasked()
}

/// A message under way in a [`Pipeline`](super::Pipeline). It must be finished exactly once; one that is dropped counts as unreachable, or as refused if a panic dropped
/// it, so that none is forgotten.
pub struct Delivery {
    message: Message,
    receipt: Receipt,
}

impl Delivery {
    /// A delivery whose outcome goes to `finish`, which must neither block nor panic.
    pub fn new(message: Message, finish: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self { message, receipt: Receipt(Some(Box::new(finish))) }
    }

    /// The message to be sent.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Reports the outcome.
    pub fn finish(self, outcome: Outcome) {
        self.receipt.finish(outcome);
    }

    /// Splits it into the message and its receipt, so that the message can be dropped early if a client library has made its own copy.
    #[must_use]
    pub fn split(self) -> (Message, Receipt) {
        (self.message, self.receipt)
    }
}

impl fmt::Debug for Delivery {
    /// Shows which message it is, and nothing of its contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("id", &self.message.id).finish_non_exhaustive()
    }
}

/// The remaining duty of a [`Delivery`]: to report its outcome.
pub struct Receipt(Option<Box<dyn FnOnce(Outcome) + Send>>);

impl Receipt {
    /// Reports the outcome.
    pub fn finish(mut self, outcome: Outcome) {
        if let Some(finish) = self.0.take() {
            finish(outcome);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").finish_non_exhaustive()
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(finish) = self.0.take() {
            finish(if std::thread::panicking() {
                panicked()
            } else {
                Outcome::unreachable(DROPPED, "the source dropped the message without reporting its outcome")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::outcome::Class;

    #[test]
    fn what_is_shown_of_one_is_harmless() {
        let message = Message::new("crm", "hunter2");
        let (id, delivery) = (message.id, Delivery::new(message, drop));
        assert_eq!(format!("{delivery:?}"), format!("Delivery {{ id: {id}, .. }}"));
        assert_eq!(format!("{:?}", delivery.split().1), "Receipt { .. }");
    }

    #[test]
    fn one_that_is_dropped_is_reported_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let delivery = || {
            let sink = seen.clone();
            Delivery::new(Message::new("log", "x"), move |outcome| sink.lock().unwrap().push(outcome.class))
        };
        drop(delivery());
        delivery().finish(Outcome::succeeded());
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _delivery = delivery();
            panic!("on purpose")
        }));
        assert!(panics.is_err());
        assert_eq!(*seen.lock().unwrap(), [Class::Unreachable, Class::Succeeded, Class::Refused]);
    }
}
