//! The outcome of a send: the vocabulary in which every source reports.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The maximum length of an error text, in bytes.
pub const MAX_DETAIL: usize = 1024;
/// The maximum length of a result, in bytes.
pub const MAX_RESULT: usize = 2048;
/// The maximum length of an error code, in bytes.
pub const MAX_CODE: usize = 64;

/// The four classes of outcome. What each means for the message is in docs/state-machine.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The destination has it.
    Succeeded,
    /// Refused for good: the message fails at once.
    Permanent,
    /// Refused this time: counts against `max_retries`.
    Refused,
    /// The destination could not be reached, or its answer was lost: does not count.
    Unreachable,
}

impl Class {
    /// The name in logs, metrics and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Permanent => "permanent",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The outcome of one attempt.
///
/// ```
/// use redrive::outcome::{Class, Outcome};
/// let outcome = Outcome::refused("http_503", "Service Unavailable");
/// assert_eq!(outcome.class, Class::Refused);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// One of the four classes.
    pub class: Class,
    /// A stable, short, lower-case code (`http_503`, `kafka_msg_size_too_large`); empty if the send succeeded. At most [`MAX_CODE`] bytes.
    pub code: Cow<'static, str>,
    /// What went wrong, in words. At most [`MAX_DETAIL`] bytes; never a payload or a secret.
    pub detail: String,
    /// The wait that the destination asked for (`Retry-After`).
    pub retry_after: Option<Duration>,
    /// What the destination answered, as JSON text. At most [`MAX_RESULT`] bytes.
    pub result: Option<String>,
    /// Whether the destination was asked at all. A refusal without asking says nothing about the destination: the breaker ignores it.
    pub asked: bool,
}

impl Outcome {
    /// The destination has it.
    #[must_use]
    pub const fn succeeded() -> Self {
        Self { class: Class::Succeeded, code: Cow::Borrowed(""), detail: String::new(), retry_after: None, result: None, asked: true }
    }

    /// Refused for good.
    pub fn permanent(code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self::failure(Class::Permanent, code, detail)
    }

    /// Refused for good without asking the destination: its protocol can't express the message.
    pub fn unsendable(code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self::permanent(code, detail).unasked()
    }

    /// Refused this time.
    pub fn refused(code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self::failure(Class::Refused, code, detail)
    }

    /// The destination could not be reached, or its answer was lost.
    pub fn unreachable(code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self::failure(Class::Unreachable, code, detail)
    }

    /// A failure whose class was looked up in a table.
    pub fn failure(class: Class, code: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self { class, code: code.into(), detail: detail.to_string(), retry_after: None, result: None, asked: true }.fitted()
    }

    /// The same with texts that every database can store, however they were put into it.
    pub(crate) fn fitted(mut self) -> Self {
        if !fits(&self.code, MAX_CODE) {
            self.code = fitting(self.code.into_owned(), MAX_CODE).into();
        }
        self.detail = fitting(self.detail, MAX_DETAIL);
        self.result = self.result.map(|result| fitting(result, MAX_RESULT));
        self
    }

    /// The same for a send that ended before the destination was asked.
    #[must_use]
    pub const fn unasked(mut self) -> Self {
        self.asked = false;
        self
    }

    /// Adds the destination's answer, cut to [`MAX_RESULT`] bytes.
    #[must_use]
    pub fn with_result(mut self, result: impl Into<String>) -> Self {
        self.result = Some(fitting(result.into(), MAX_RESULT));
        self
    }

    /// Adds the wait that the destination asked for.
    #[must_use]
    pub const fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
}

/// `text` in a form that every database can store: at most `max` bytes and without NUL, which PostgreSQL's text does not allow.
pub(crate) fn fitting(text: String, max: usize) -> String {
    if fits(&text, max) {
        return text;
    }
    cut(&text, max).replace('\0', "?")
}

fn fits(text: &str, max: usize) -> bool {
    text.len() <= max && !text.contains('\0')
}

/// The longest prefix of `text` of at most `max` bytes that ends between two characters.
#[doc(hidden)]
#[must_use]
pub fn cut(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("aéé", 2), "a");
        assert_eq!(cut("aéé", 3), "aé");
        let outcome = Outcome::refused("x", "é".repeat(2000));
        assert_eq!(outcome.detail.len(), MAX_DETAIL);
    }

    #[test]
    fn what_ends_without_asking_says_so() {
        let outcomes = [Outcome::refused("x", "").unasked(), Outcome::unsendable("x", ""), Outcome::refused("x", "")];
        assert_eq!(outcomes.map(|outcome| outcome.asked), [false, false, true]);
    }

    #[test]
    fn nothing_that_is_written_holds_a_nul_or_is_too_long() {
        let outcome = Outcome::refused("a\0b".to_owned(), "a\0b").with_result("a\0b");
        let mended = "a?b";
        assert_eq!((&*outcome.code, &*outcome.detail, outcome.result.as_deref()), (mended, mended, Some(mended)));
        let nuls = "\0".repeat(MAX_RESULT);
        let outcome = Outcome::refused(nuls.clone(), &nuls).with_result(nuls);
        assert!(outcome.code.len() <= MAX_CODE && outcome.detail.len() <= MAX_DETAIL && outcome.result.unwrap().len() <= MAX_RESULT);
    }
}
