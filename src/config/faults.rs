//! Everything that is wrong with a configuration, in words that say what to write instead.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::tree::Step;

/// The maximum number of faults that are shown.
pub(super) const MOST: usize = 200;

/// A fault with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Located {
    /// The line, from 1; `None` if the file itself is at fault.
    pub line: Option<usize>,
    /// The path of the key: `sources.crm.timeout`; empty for the whole file.
    pub path: String,
    /// What is wrong and what to write instead. Never the value of a secret or of a variable.
    pub message: String,
}

/// Every fault of a configuration, ordered by line.
#[derive(Clone, Debug)]
pub struct Faults {
    file: PathBuf,
    list: Vec<Located>,
}

impl std::error::Error for Faults {}

impl Faults {
    /// The one fault of a file that can't be read.
    pub(super) fn unreadable(file: &Path, message: String) -> Self {
        Self { file: file.to_owned(), list: vec![Located { line: None, path: String::new(), message }] }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The faults.
    #[must_use]
    pub fn list(&self) -> &[Located] {
        &self.list
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        for (index, fault) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{file}:")?;
            if let Some(line) = fault.line {
                write!(f, "{line}:")?;
            }
            if !fault.path.is_empty() {
                // A key may contain anything, including control characters for a terminal.
                write!(f, " {}:", fault.path.escape_debug())?;
            }
            write!(f, " {}", fault.message)?;
        }
        Ok(())
    }
}

/// The faults found so far, and the values that must not be shown.
#[derive(Default)]
pub(super) struct Gathered {
    list: Vec<Located>,
    /// The paths of values at fault, which were removed from the tree or replaced, so that the consequences aren't reported as well.
    removed: HashSet<Vec<Step>>,
    /// The values of variables and of files with secrets, each with what is shown instead.
    hidden: Vec<(String, String)>,
}

impl Gathered {
    pub(super) fn push(&mut self, fault: Located) {
        let doubled = self.list.iter().any(|have| have.path == fault.path && have.line == fault.line && have.message == fault.message);
        if !doubled && self.list.len() < MOST {
            self.list.push(fault);
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MOST
    }

    /// Remembers that the value at this path was at fault and has been removed or replaced.
    pub(super) fn take_out(&mut self, path: Vec<Step>) {
        self.removed.insert(path);
    }

    /// Whether a fault at this path is only the consequence of a removed value.
    pub(super) fn is_known(&self, path: &[Step]) -> bool {
        (0..=path.len()).any(|end| self.removed.contains(&path[..end]))
            || self.removed.iter().any(|gone| matches!(gone.split_last(), Some((Step::Index(_), list)) if list == path))
    }

    /// Whether a value below this path is at fault.
    pub(super) fn is_torn(&self, path: &[Step]) -> bool {
        self.removed.iter().any(|gone| gone.len() > path.len() && gone.starts_with(path))
    }

    /// Keeps a value out of every message.
    pub(super) fn conceal(&mut self, value: String, instead: String) {
        self.hidden.push((value, instead));
    }

    /// The message without what must not be shown.
    pub(super) fn redact(&self, message: &str) -> String {
        let mut text = message.to_owned();
        for (value, instead) in &self.hidden {
            let escaped = value.escape_debug().to_string();
            for shape in [value.as_str(), escaped.as_str()] {
                // A value of a few characters occurs in many words by chance. There it reveals nothing, and cutting it out would garble the message.
                if shape.len() >= 4 {
                    text = text.replace(shape, instead);
                } else if !shape.is_empty() {
                    text = text.replace(&format!("`{shape}`"), &format!("`{instead}`")).replace(&format!("\"{shape}\""), &format!("\"{instead}\""));
                    if let Some(rest) = text.strip_prefix(&format!("{shape} ")) {
                        text = format!("{instead} {rest}");
                    }
                }
            }
        }
        text
    }

    /// All faults that were found; `None` if there are none.
    pub(super) fn finish(mut self, file: &Path) -> Option<Faults> {
        if self.list.is_empty() {
            return None;
        }
        let mut list = std::mem::take(&mut self.list);
        for fault in &mut list {
            fault.message = self.redact(&fault.message);
        }
        // The sort is stable: faults on the same line stay in the order in which they were found.
        list.sort_by_key(|fault| fault.line);
        if list.len() >= MOST {
            list.push(Located { line: None, path: String::new(), message: format!("only the first {MOST} faults are shown") });
        }
        Some(Faults { file: file.to_owned(), list })
    }
}
