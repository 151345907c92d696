//! A configuration as a tree that remembers its lines.

use std::fmt::{self, Write as _};

use serde_json::Value;

/// A value and its place in the file.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The line of the value, from 1.
    pub(super) line: usize,
    /// The value.
    pub(super) content: Content,
    /// The text in the file, if variables were filled in: shown instead of the value.
    pub(super) written: Option<Box<str>>,
}

/// What a node holds.
#[derive(Clone)]
pub(super) enum Content {
    /// Text; without quotes (`plain`) it may mean a number, a boolean or null.
    Scalar {
        /// The text.
        text: String,
        /// Whether it has no quotes.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Any scalar may be a secret; at this point it is unknown which are.
        match self {
            Self::Scalar { .. } => f.write_str("[redacted]"),
            Self::List(items) => items.fmt(f),
            Self::Map(entries) => entries.fmt(f),
        }
    }
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The key.
    pub(super) key: String,
    /// The line of the key.
    pub(super) line: usize,
    /// The value.
    pub(super) node: Node,
}

/// One step down the tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// What a plain scalar means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning {
    /// Nothing: empty, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Whole(i64),
    /// A whole number beyond `i64`.
    Large(u64),
    /// Any other number.
    Number(f64),
    /// Text.
    Text,
}

impl Meaning {
    /// The meaning of plain text in YAML's core schema, except for `.inf` and `.nan`, which no key accepts.
    pub(super) fn of(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !digits.contains(|c: char| c.is_ascii_digit()) {
            return Self::Text;
        }
        let radix = |prefix: &str, radix| text.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, radix).ok());
        if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
            return i64::try_from(number).map_or(Self::Large(number), Self::Whole);
        }
        if let Ok(number) = text.parse() {
            return Self::Whole(number);
        }
        if let Ok(number) = text.parse() {
            return Self::Large(number);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Self::Number(number),
            _ => Self::Text,
        }
    }
}

impl Node {
    /// An empty mapping, which represents an empty file.
    pub(super) const fn empty() -> Self {
        Self { line: 1, content: Content::Map(Vec::new()), written: None }
    }

    /// Whether it is null.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if Meaning::of(text) == Meaning::Null)
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        if let Content::Scalar { text, .. } = &self.content { Some(text) } else { None }
    }

    /// The entries of a mapping; none if it is something else.
    pub(super) fn entries(&self) -> &[Entry] {
        if let Content::Map(entries) = &self.content { entries } else { &[] }
    }

    /// The entry of a key.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The node at a path.
    pub(super) fn at(&self, path: &[Step]) -> Option<&Self> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match (first, &self.content) {
            (Step::Key(key), Content::Map(entries)) => entries.iter().find(|entry| entry.key == *key)?.node.at(rest),
            (Step::Index(index), Content::List(items)) => items.get(*index)?.at(rest),
            _ => None,
        }
    }

    /// The node at a path, to be changed.
    pub(super) fn at_mut(&mut self, path: &[Step]) -> Option<&mut Self> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match (first, &mut self.content) {
            (Step::Key(key), Content::Map(entries)) => entries.iter_mut().find(|entry| entry.key == *key)?.node.at_mut(rest),
            (Step::Index(index), Content::List(items)) => items.get_mut(*index)?.at_mut(rest),
            _ => None,
        }
    }

    /// Removes the node at a path from the tree.
    pub(super) fn remove(&mut self, path: &[Step]) -> Option<Self> {
        let (last, parent) = path.split_last()?;
        match (last, &mut self.at_mut(parent)?.content) {
            (Step::Key(key), Content::Map(entries)) => {
                let index = entries.iter().position(|entry| entry.key == *key)?;
                Some(entries.remove(index).node)
            }
            (Step::Index(index), Content::List(items)) if *index < items.len() => Some(items.remove(*index)),
            _ => None,
        }
    }

    /// The line of the key at a path, or of its nearest ancestor that exists.
    pub(super) fn line_of(&self, path: &[Step]) -> usize {
        let Some((first, rest)) = path.split_first() else { return self.line };
        match (first, &self.content) {
            (Step::Key(key), Content::Map(entries)) => match entries.iter().find(|entry| entry.key == *key) {
                Some(entry) if rest.is_empty() => entry.line,
                Some(entry) if matches!(entry.node.content, Content::Scalar { .. }) => entry.line,
                Some(entry) => match entry.node.line_of(rest) {
                    // The next step doesn't exist: the line of the key above is more helpful than the first line of its value.
                    _ if entry.node.at(&rest[..1]).is_none() => entry.line,
                    line => line,
                },
                None => self.line,
            },
            (Step::Index(index), Content::List(items)) => items.get(*index).map_or(self.line, |item| item.line_of(rest)),
            _ => self.line,
        }
    }

    /// The steps of a dotted path as the checks write it: `argv[0].x` or `argv.0.x`. Keys may contain dots themselves, as in
    /// `properties.security.protocol`: the longest existing key wins. A part that is not in the tree is split at its dots.
    pub(super) fn steps(&self, dotted: &str) -> Vec<Step> {
        let dotted = dotted.strip_prefix('.').unwrap_or(dotted);
        if dotted.is_empty() {
            return Vec::new();
        }
        let mut steps = Vec::new();
        let (rest, child) = match &self.content {
            Content::List(items) => {
                let inner = dotted.strip_prefix('[').unwrap_or(dotted);
                let digits = inner.bytes().take_while(u8::is_ascii_digit).count();
                let Ok(index) = inner[..digits].parse::<usize>() else { return vec![Step::Key(dotted.to_owned())] };
                steps.push(Step::Index(index));
                (inner[digits..].trim_start_matches(']'), items.get(index))
            }
            Content::Map(entries) => {
                let fits =
                    |entry: &&Entry| dotted.strip_prefix(entry.key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
                if let Some(entry) = entries.iter().filter(fits).max_by_key(|entry| entry.key.len()) {
                    steps.push(Step::Key(entry.key.clone()));
                    (&dotted[entry.key.len()..], Some(&entry.node))
                } else {
                    (dotted, None)
                }
            }
            Content::Scalar { .. } => return vec![Step::Key(dotted.to_owned())],
        };
        match child {
            Some(child) => steps.extend(child.steps(rest)),
            None => steps.extend(rest.split(['.', '[']).filter(|word| !word.is_empty()).map(|word| {
                let index = word.strip_suffix(']').and_then(|digits| digits.parse().ok());
                index.map_or_else(|| Step::Key(word.to_owned()), Step::Index)
            })),
        }
        steps
    }

    /// The node as JSON, for the kinds of sources.
    pub(super) fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar { text, plain: false } => Value::String(text.clone()),
            Content::Scalar { text, plain: true } => match Meaning::of(text) {
                Meaning::Null => Value::Null,
                Meaning::Bool(flag) => flag.into(),
                Meaning::Whole(number) => number.into(),
                Meaning::Large(number) => number.into(),
                Meaning::Number(number) => number.into(),
                Meaning::Text => Value::String(text.clone()),
            },
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Map(entries) => Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect()),
        }
    }
}

/// A path in readable form: `sources.crm.argv[0]`.
pub(super) fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Index(index) => {
                let _ = write!(text, "[{index}]");
            }
        }
    }
    text
}
