//! What a producer submits, and what it gets back.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::message::{Headers, Key, State};
use crate::retry::{self, Policy};
use crate::source::options::Mode;
use crate::store::{Due, Idempotency, NewMessage};
use crate::units::Limit;

/// The longest topic, in bytes.
pub const MAX_TOPIC: usize = 1024;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 16 * 1024;
/// The most headers.
pub const MAX_HEADERS: usize = 100;
/// The longest name of a header, in bytes.
pub const MAX_HEADER_NAME: usize = 256;
/// The heaviest headers, names and values together, in bytes.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The longest idempotency key, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;
/// The highest priority.
pub const MAX_PRIORITY: u8 = 9;

/// A message as a producer submits it.
///
/// ```
/// use redrive::engine::{Due, Key, Submission};
/// let mut submission = Submission::new("crm", r#"{"order": 17}"#);
/// submission.key = Some(Key::Text("o-17".to_owned()));
/// submission.due = Some(Due::After(std::time::Duration::from_secs(60)));
/// assert_eq!(submission.check(), Ok(()));
/// ```
///
/// Its `Debug` shows no contents.
#[derive(Clone)]
#[non_exhaustive]
pub struct Submission {
    /// The name of its source.
    pub source: String,
    /// The topic, where it names its own.
    pub topic: Option<String>,
    /// The record key.
    pub key: Option<Key>,
    /// The payload; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// The headers.
    pub headers: Headers,
    /// 0 to 9, larger first.
    pub priority: u8,
    /// When it is due, if not at once.
    pub due: Option<Due>,
    /// Its own age limit.
    pub expires_after: Option<Limit>,
    /// What it overrides of its source's retry policy.
    pub retry: retry::Config,
    /// Its idempotency key.
    pub idempotency_key: Option<String>,
    /// How it is to be accepted, if not as its source says.
    pub mode: Option<Mode>,
}

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, topic, due, mode, .. } = self;
        f.debug_struct("Submission").field("source", source).field("topic", topic).field("due", due).field("mode", mode).finish_non_exhaustive()
    }
}

/// A submission that is well-formed but asks for something out of bounds: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invalid {
    /// The field, as the API names it: `topic`, `retry.max_retries`.
    pub field: Cow<'static, str>,
    /// What is wrong with it, for display.
    pub detail: String,
}

impl Submission {
    /// A message for a source, due at once; its other fields can be set.
    pub fn new(source: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            source: source.into(),
            topic: None,
            key: None,
            payload: Some(payload.into()),
            headers: Headers::default(),
            priority: 0,
            due: None,
            expires_after: None,
            retry: retry::Config::default(),
            idempotency_key: None,
            mode: None,
        }
    }

    /// Checks everything that can be checked without knowing the source.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn check(&self) -> Result<(), Invalid> {
        let invalid = |field: &'static str, detail: String| Err(Invalid { field: field.into(), detail });
        if let Some(topic) = &self.topic {
            if topic.is_empty() || topic.len() > MAX_TOPIC {
                return invalid("topic", format!("must be 1 to {MAX_TOPIC} bytes long"));
            }
            if topic.chars().any(char::is_control) {
                return invalid("topic", "must not hold control characters".to_owned());
            }
        }
        if self.key.as_ref().is_some_and(|key| key.as_bytes().len() > MAX_KEY) {
            return invalid("key", format!("must be at most {MAX_KEY} bytes long"));
        }
        if matches!(&self.key, Some(Key::Text(key)) if key.contains('\0')) {
            // PostgreSQL can't store such text.
            return invalid("key", "must not hold NUL; send `key_base64`".to_owned());
        }
        if self.priority > MAX_PRIORITY {
            return invalid("priority", format!("must be between 0 and {MAX_PRIORITY}"));
        }
        self.check_headers()?;
        if let Some(key) = &self.idempotency_key
            && (key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY || key.chars().any(char::is_control))
        {
            return invalid("idempotency_key", format!("must be 1 to {MAX_IDEMPOTENCY_KEY} bytes long, without control characters"));
        }
        match self.retry.faults().into_iter().next() {
            None => Ok(()),
            Some(fault) => Err(Invalid { field: format!("retry.{}", fault.path).into(), detail: fault.message }),
        }
    }

    fn check_headers(&self) -> Result<(), Invalid> {
        let invalid = |detail: String| Err(Invalid { field: "headers".into(), detail });
        if self.headers.iter().len() > MAX_HEADERS {
            return invalid(format!("must be at most {MAX_HEADERS}"));
        }
        let mut bytes = 0;
        for (index, (name, value)) in self.headers.iter().enumerate() {
            bytes += name.len() + value.len();
            if self.headers.iter().take(index).any(|(before, _)| before == name) {
                // Only one of them would arrive.
                return invalid(format!("`{}` is given twice", name.escape_debug()));
            }
            if name.is_empty() || name.len() > MAX_HEADER_NAME || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
                return invalid(format!(
                    "`{}`: a name must be 1 to {MAX_HEADER_NAME} bytes long, without spaces or control characters",
                    name.escape_debug()
                ));
            }
            if value.contains(['\0', '\r', '\n']) {
                return invalid(format!("`{name}`: a value must not hold NUL or line ends"));
            }
        }
        if bytes > MAX_HEADER_BYTES {
            return invalid(format!("must be at most {MAX_HEADER_BYTES} bytes in all"));
        }
        Ok(())
    }

    /// The message for the store, under the policy of its source; whoever commits it may put it under a lease.
    #[must_use]
    pub(crate) fn into_message(self, source: Arc<str>, policy: &Policy) -> NewMessage {
        let idempotency = self.idempotency();
        // Kept with the message, since a manual retry starts its age over.
        let retry = retry::Config { expires_after: self.expires_after.or(self.retry.expires_after), ..self.retry };
        NewMessage {
            id: Uuid::now_v7(),
            source,
            topic: self.topic,
            key: self.key,
            payload: self.payload,
            headers: self.headers,
            priority: self.priority,
            due: self.due.unwrap_or(Due::Now),
            expires_after: retry.expires_after.map_or(policy.expires_after(), Limit::get),
            retry: retry.overrides(),
            idempotency,
            leased: false,
        }
    }

    /// The idempotency key with the digest of topic, key, payload and headers.
    #[must_use]
    pub(crate) fn idempotency(&self) -> Option<Idempotency> {
        use sha2::{Digest, Sha256};
        let key = self.idempotency_key.clone()?;
        let mut hash = Sha256::new();
        // Each part goes in with its length, so that no two contents run together.
        let mut part = |bytes: Option<&[u8]>| {
            hash.update(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
            hash.update(bytes.unwrap_or_default());
        };
        part(self.topic.as_deref().map(str::as_bytes));
        part(self.key.as_ref().map(Key::as_bytes));
        part(self.payload.as_deref());
        // Producers that build headers from a map send them in any order.
        let mut headers: Vec<_> = self.headers.iter().collect();
        headers.sort_unstable();
        for (name, value) in headers {
            part(Some(name.as_bytes()));
            part(Some(value.as_bytes()));
        }
        Some(Idempotency { key, digest: hash.finalize().into() })
    }
}

/// The result for a submission that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accepted {
    /// It is committed, in this state.
    #[non_exhaustive]
    Kept {
        /// Its id.
        id: Uuid,
        /// `pending` or `sending`; after an `on_failure` send that failed `retrying` or `failed`.
        state: State,
    },
    /// It was delivered and left no row (`on_failure`).
    #[non_exhaustive]
    Delivered {
        /// Its id, as the consumer sees it.
        id: Uuid,
        /// What the destination answered, as JSON text, where the source keeps results.
        result: Option<String>,
    },
    /// Its idempotency key is already known, with the same content.
    #[non_exhaustive]
    Duplicate {
        /// The id of the first message.
        id: Uuid,
    },
}

impl Accepted {
    /// The id of the message; for a duplicate, that of the first one.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        let (Self::Kept { id, .. } | Self::Delivered { id, .. } | Self::Duplicate { id }) = self;
        *id
    }
}

/// Why a submission was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The configuration has no such source.
    #[error("there is no source `{name}` in this project{}", hint(known))]
    UnknownSource {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A field is out of bounds.
    #[error("{field}: {detail}")]
    Invalid {
        /// The field, as the API names it.
        field: Cow<'static, str>,
        /// What is wrong with it.
        detail: String,
    },
    /// The payload is larger than the source takes.
    #[error("the payload has {bytes} bytes; source `{name}` takes at most {max}")]
    TooLarge {
        /// The source.
        name: String,
        /// The payload's size.
        bytes: usize,
        /// The source's `max_payload`.
        max: usize,
    },
    /// The idempotency key is already known, with different content.
    #[error("the idempotency key was used for message {id} with other content")]
    Conflict {
        /// The id of the first message.
        id: Uuid,
    },
    /// Too many messages are waiting to be committed.
    #[error("too many messages wait to be committed; try again in {after:?}")]
    Overloaded {
        /// When to try again.
        after: Duration,
    },
    /// The store answers, but refused to keep the message: a missing right, a trigger that raises an error.
    #[error("not kept: {detail}")]
    NotKept {
        /// What is wrong.
        detail: String,
    },
    /// The store can't be reached, or its answer was lost: it is unknown whether the message was kept.
    #[error("not known to be kept: {detail}")]
    Unavailable {
        /// What is wrong.
        detail: String,
    },
    /// The node is stopping and accepts no more messages.
    #[error("the node is stopping")]
    Draining,
}

fn hint(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; known sources: {}", known.join(", ")) }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid { field: invalid.field, detail: invalid.detail }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::message::Message;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        Headers::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn submission() -> Submission {
        Submission {
            topic: Some("orders".to_owned()),
            key: Some(Key::Text("o-17".to_owned())),
            headers: headers(&[("tenant", "a"), ("trace", "b")]),
            idempotency_key: Some("k-1".to_owned()),
            ..Submission::new("crm", "paid")
        }
    }

    fn digest(submission: &Submission) -> [u8; 32] {
        submission.idempotency().unwrap().digest
    }

    #[test]
    fn what_is_shown_of_one_is_harmless() {
        let submission = Submission { topic: Some("orders".to_owned()), ..Submission::new("crm", "hunter2") };
        let shown = format!("{submission:?}");
        assert!(shown.contains("orders") && !shown.contains("hunter2"), "{shown}");
        let committed = submission.into_message("crm".into(), &Policy::default());
        assert!(!format!("{committed:?}").contains("hunter2"));
        let shown = format!("{:?}", Message::new("crm", "hunter2"));
        assert!(shown.contains("payload_bytes: Some(7)") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn whatever_changes_of_the_content_changes_the_digest() {
        let payload = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
        let topic = |topic: &str| Some(topic.to_owned());
        let text = |key: &str| Some(Key::Text(key.to_owned()));
        let with = |pairs: &[(&str, &str)]| Submission { headers: headers(pairs), ..submission() };
        let contents = [
            ("as it is", submission()),
            ("another topic", Submission { topic: topic("invoices"), ..submission() }),
            ("no topic", Submission { topic: None, ..submission() }),
            ("another key", Submission { key: text("o-18"), ..submission() }),
            ("an empty key", Submission { key: text(""), ..submission() }),
            ("no key", Submission { key: None, ..submission() }),
            ("another payload", Submission { payload: payload(b"Paid"), ..submission() }),
            ("an empty payload", Submission { payload: payload(b""), ..submission() }),
            ("a tombstone", Submission { payload: None, ..submission() }),
            ("topic and key run together", Submission { topic: topic("order"), key: text("so-17"), ..submission() }),
            ("key and payload run together", Submission { key: text("o-17p"), payload: payload(b"aid"), ..submission() }),
            ("another value", with(&[("tenant", "a"), ("trace", "c")])),
            ("another name", with(&[("tenant", "a"), ("span", "b")])),
            ("values exchanged", with(&[("tenant", "b"), ("trace", "a")])),
            ("name and value run together", with(&[("tenant", "a"), ("trac", "eb")])),
            ("one header less", with(&[("tenant", "a")])),
            ("one header more", with(&[("tenant", "a"), ("trace", "b"), ("x", "")])),
            ("no headers", with(&[])),
        ];
        let mut seen = HashSet::new();
        for (what, content) in contents {
            assert!(seen.insert(digest(&content)), "{what}: taken for a repeat of other content");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_told_with_the_path_of_its_field() {
        let retry = |max_retries| retry::Config { max_retries: Some(max_retries), ..retry::Config::default() };
        assert_eq!(Submission { retry: retry(retry::MOST_RETRIES), ..submission() }.check(), Ok(()));
        let invalid = Submission { retry: retry(retry::MOST_RETRIES + 1), ..submission() }.check().unwrap_err();
        assert_eq!((&*invalid.field, invalid.detail.as_str()), ("retry.max_retries", "1000001 is more than 1000000"));
        let invalid = Submission { priority: u8::MAX, ..submission() }.check().unwrap_err();
        assert_eq!((&*invalid.field, invalid.detail.as_str()), ("priority", "must be between 0 and 9"));
    }

    #[test]
    fn what_is_no_content_leaves_the_digest_as_it_is() {
        let same = [
            ("headers in another order", Submission { headers: headers(&[("trace", "b"), ("tenant", "a")]), ..submission() }),
            ("a priority", Submission { priority: 9, ..submission() }),
            ("a due time", Submission { due: Some(Due::After(Duration::from_secs(5))), ..submission() }),
            ("a mode", Submission { mode: Some(Mode::OnFailure), ..submission() }),
            ("a policy", Submission { retry: retry::Config { max_retries: Some(9), ..retry::Config::default() }, ..submission() }),
            // The store keeps keys by source; each of two keys has content of its own.
            ("another source", Submission { source: "erp".to_owned(), ..submission() }),
            ("another idempotency key", Submission { idempotency_key: Some("k-2".to_owned()), ..submission() }),
        ];
        for (what, content) in same {
            assert_eq!(digest(&content), digest(&submission()), "{what}");
        }
        assert_eq!(Submission { idempotency_key: None, ..submission() }.idempotency(), None);
    }
}
