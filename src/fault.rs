//! A fault in a configuration: where it is, and what to do about it.

use std::fmt;

/// One fault. Faults are collected and shown together, so that a file can be fixed in one go.
///
/// ```
/// let fault: Box<dyn std::error::Error> = redrive::fault::Fault::new("retry.jitter", "2 is not between 0 and 1").into();
/// assert_eq!(fault.to_string(), "retry.jitter: 2 is not between 0 and 1");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The path of the key, relative to the section that is being checked: `retry.jitter`; empty for the whole section.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Fault {
    /// A fault at a key.
    pub fn new(path: impl Into<String>, message: impl fmt::Display) -> Self {
        Self { path: path.into(), message: message.to_string() }
    }

    /// The same fault as seen from the enclosing section.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.path = match (outer.is_empty(), self.path.is_empty()) {
            (true, _) => self.path,
            (false, true) => outer.to_owned(),
            (false, false) => format!("{outer}.{}", self.path),
        };
        self
    }
}

/// Faults on one line, for an error that lists all of them.
pub(crate) fn line(faults: impl IntoIterator<Item = impl fmt::Display>) -> String {
    faults.into_iter().map(|fault| fault.to_string()).collect::<Vec<_>>().join("; ")
}

/// The same for faults of a section.
pub(crate) fn line_within(outer: &str, faults: Vec<Fault>) -> String {
    line(faults.into_iter().map(|fault| fault.within(outer)))
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}
