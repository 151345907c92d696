//! The YAML file as a tree that remembers its lines.

use std::fmt::{self, Write as _};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};
use serde_json::Value;

use super::faults::{Gathered, Located};
use super::interpolate::{self, Environment};

/// The largest file that is read, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// The most values that a file may hold.
const MAX_NODES: usize = 20_000;
/// The deepest nesting.
const MAX_DEPTH: usize = 32;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The line of the value, from 1.
    pub(super) line: usize,
    /// The value.
    pub(super) content: Content,
    /// What the file says, where variables were put in: shown in place of the value.
    pub(super) written: Option<Box<str>>,
}

/// What a node holds.
#[derive(Clone)]
pub(super) enum Content {
    /// Text; without quotes (`plain`) it may mean a number, a boolean or nothing.
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
        // A scalar may be a secret; nobody knows which yet.
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
    /// A whole number past `i64`.
    Large(u64),
    /// Any other number.
    Number(f64),
    /// Text.
    Text,
}

impl Meaning {
    /// The meaning of plain text by YAML's core schema, `.inf` and `.nan` aside: no key takes them.
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
    /// An empty mapping, which stands for an empty file.
    pub(super) const fn empty() -> Self {
        Self { line: 1, content: Content::Map(Vec::new()), written: None }
    }

    /// Whether it says nothing.
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

    /// Takes the node at a path out of the tree.
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

    /// The line of the key at a path, or of the nearest that there is above it.
    pub(super) fn line_of(&self, path: &[Step]) -> usize {
        let Some((first, rest)) = path.split_first() else { return self.line };
        match (first, &self.content) {
            (Step::Key(key), Content::Map(entries)) => match entries.iter().find(|entry| entry.key == *key) {
                Some(entry) if rest.is_empty() => entry.line,
                Some(entry) if matches!(entry.node.content, Content::Scalar { .. }) => entry.line,
                Some(entry) => match entry.node.line_of(rest) {
                    // A step that isn't there: the key above says more than the first line of what it holds.
                    _ if entry.node.at(&rest[..1]).is_none() => entry.line,
                    line => line,
                },
                None => self.line,
            },
            (Step::Index(index), Content::List(items)) => items.get(*index).map_or(self.line, |item| item.line_of(rest)),
            _ => self.line,
        }
    }

    /// The steps of a dotted path as a checking part writes it: `argv[0].x` or `argv.0.x`. Keys may hold dots themselves (`properties.security.protocol`):
    /// the longest key that there is wins; what is not in the tree is taken at its word.
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

    /// The same as JSON, for the kinds of sources.
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

/// A path as people read it: `sources.crm.argv[0]`.
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

/// Reads the text of a file. What is at fault goes to `gathered`; where a value is, its default will take over.
///
/// `None` where the text can't be read to its end: nothing more can be said about it.
pub(super) fn read(text: &str, environment: Environment<'_>, gathered: &mut Gathered) -> Option<Node> {
    // A byte order mark, as some editors leave it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (text, variables) = interpolate::shield(text);
    let mut reader = Reader { parser: Parser::new_from_str(&text), variables, environment, gathered, path: Vec::new(), nodes: 0 };
    match reader.document() {
        Ok(node) => Some(node),
        Err(Stop::Syntax(error)) => {
            let message = format!("this is not YAML: {}", explain(error.info()));
            // The scanner counts columns from 0.
            gathered.push(Located { line: Some(error.marker().line()), path: String::new(), message });
            None
        }
        Err(Stop::Refused { line, message }) => {
            gathered.push(Located { line: Some(line), path: String::new(), message });
            None
        }
    }
}

/// What the scanner says, with what to do about it where that is not plain.
fn explain(info: &str) -> String {
    if info.contains("recursion limit") {
        format!("nested deeper than {MAX_DEPTH} levels")
    } else if info.contains("tab") {
        format!("{info}; indent with spaces")
    } else if info.contains("mapping values are not allowed") {
        format!("{info}; put quotes around text that holds `: `")
    } else {
        info.to_owned()
    }
}

enum Stop {
    Syntax(ScanError),
    Refused { line: usize, message: String },
}

struct Reader<'a, 'text> {
    parser: Parser<'text, StrInput<'text>>,
    variables: Vec<&'text str>,
    environment: Environment<'a>,
    gathered: &'a mut Gathered,
    path: Vec<Step>,
    nodes: usize,
}

impl<'text> Reader<'_, 'text> {
    fn next(&mut self) -> Result<(Event<'text>, usize), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, Span { start, .. }))) => Ok((event, start.line())),
            Some(Err(error)) => Err(Stop::Syntax(error)),
            None => Ok((Event::StreamEnd, 1)),
        }
    }

    fn fault(&mut self, line: usize, message: impl Into<String>) {
        let path = dotted(&self.path);
        self.gathered.push(Located { line: Some(line), path, message: message.into() });
        self.gathered.take_out(self.path.clone());
    }

    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root.unwrap_or_else(Node::empty)),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => {
                    return Err(Stop::Refused { line, message: "a second document; a file holds one project".to_owned() });
                }
                event => root = Some(self.node(event, line)?.unwrap_or_else(Node::empty)),
            }
        }
    }

    /// One value; `None` where it is at fault.
    fn node(&mut self, event: Event<'text>, line: usize) -> Result<Option<Node>, Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Stop::Refused { line, message: format!("more than {MAX_NODES} values; this is no configuration") });
        }
        if self.path.len() > MAX_DEPTH {
            return Err(Stop::Refused { line, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        let content = match event {
            Event::Scalar(text, style, _, tag) => {
                let mut plain = style == ScalarStyle::Plain;
                if let Some(tag) = tag {
                    match (tag.is_yaml_core_schema() || tag.handle == "!!", tag.suffix.as_str()) {
                        (true, "str") => plain = false,
                        (true, "int" | "float" | "bool" | "null") => {}
                        _ => {
                            self.fault(line, format!("the tag `{tag}` means nothing here; leave it out"));
                            return Ok(None);
                        }
                    }
                }
                return Ok(self.scalar(&text, plain, line));
            }
            Event::SequenceStart(..) => Content::List(self.list()?),
            Event::MappingStart(..) => Content::Map(self.map()?),
            Event::Alias(_) => {
                self.fault(line, "aliases (`*name`) are not taken; write the value out");
                return Ok(None);
            }
            _ => return Err(Stop::Refused { line, message: "a value is missing here".to_owned() }),
        };
        Ok(Some(Node { line, content, written: None }))
    }

    fn scalar(&mut self, text: &str, plain: bool, line: usize) -> Option<Node> {
        let text = interpolate::unshield(text, &self.variables);
        match interpolate::fill(&text, self.environment) {
            Ok(interpolate::Filled { text: filled, values }) => {
                let written = (!values.is_empty()).then(|| text.into_boxed_str());
                // A variable that holds `null` or `~` holds that: a token that is dropped without a word would open the door.
                let plain = plain && (written.is_none() || Meaning::of(&filled) != Meaning::Null);
                for (name, value) in values {
                    self.gathered.conceal(value, format!("${{{name}}}"));
                }
                Some(Node { line, content: Content::Scalar { text: filled, plain }, written })
            }
            Err(messages) => {
                for message in messages {
                    self.fault(line, message);
                }
                None
            }
        }
    }

    fn list(&mut self) -> Result<Vec<Node>, Stop> {
        let mut items = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            self.path.push(Step::Index(items.len()));
            let item = self.node(event, line)?;
            self.path.pop();
            items.extend(item);
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, line) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, ..) => interpolate::unshield(&text, &self.variables),
                _ => return Err(Stop::Refused { line, message: "a key must be text".to_owned() }),
            };
            self.path.push(Step::Key(key.clone()));
            let (event, value_line) = self.next()?;
            let first = entries.iter().find(|entry| entry.key == key).map(|entry| entry.line);
            if let Some(first) = first {
                let message = format!("this key is given twice, first on line {first}; remove one");
                let path = dotted(&self.path);
                self.gathered.push(Located { line: Some(line), path, message });
            }
            let node = self.node(event, value_line)?;
            self.path.pop();
            if let Some(node) = node
                && first.is_none()
            {
                entries.push(Entry { key, line, node });
            }
        }
    }
}
