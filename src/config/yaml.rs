//! Turns the text of a YAML file into a tree, with the variables filled in.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::faults::{Gathered, Located};
use super::interpolate::{self, Environment};
use super::tree::{Content, Entry, Meaning, Node, Step, dotted};

/// The maximum size of a file, in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// The maximum number of values in a file.
const MAX_NODES: usize = 20_000;
/// The maximum depth of nesting.
const MAX_DEPTH: usize = 32;

/// Whether the value at a path is used.
pub(super) type LookedAt<'a> = &'a dyn Fn(&[Step]) -> bool;

/// What stands in for a value whose variables are at fault.
const STAND_IN: &str = "unset";

/// Reads the text of a file. Faults go to `gathered`; a value at fault is left out, so that its default applies, or if a variable is to blame, another
/// stands in for it, so that nothing seems to be missing. A missing variable in a value that is not used is no fault.
///
/// `None` if the text can't be read to its end, so that nothing more can be said about it.
pub(super) fn read(text: &str, environment: Environment<'_>, looked_at: LookedAt<'_>, gathered: &mut Gathered) -> Option<Node> {
    // Some editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (text, variables) = interpolate::shield(text);
    let mut reader = Reader { parser: Parser::new_from_str(&text), variables, environment, looked_at, gathered, path: Vec::new(), nodes: 0 };
    match reader.document() {
        Ok(node) => Some(node),
        Err(Stop::Syntax(error)) => {
            let message = format!("this is not YAML: {}", explain(error.info()));
            // A text that ends too early is reported after its last line; that last line is the one to look at.
            let last = text.trim_end().lines().count().max(1);
            gathered.push(Located { line: Some(error.marker().line().min(last)), path: String::new(), message });
            None
        }
        Err(Stop::Refused { line, message }) => {
            gathered.push(Located { line: Some(line), path: String::new(), message });
            None
        }
    }
}

/// The scanner's message, with what to do about it if that isn't obvious.
fn explain(info: &str) -> String {
    if info.contains("recursion limit") {
        format!("nested deeper than {MAX_DEPTH} levels")
    } else if info.contains("tab") {
        format!("{info}; indent with spaces")
    } else if info.contains("mapping values are not allowed") {
        format!("{info}; put quotes around text that contains `: `")
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
    looked_at: LookedAt<'a>,
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

    /// One value; `None` if it is left out.
    fn node(&mut self, event: Event<'text>, line: usize) -> Result<Option<Node>, Stop> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Stop::Refused { line, message: format!("more than {MAX_NODES} values; this is not a configuration") });
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
                            self.fault(line, format!("the tag `{tag}` has no meaning here; remove it"));
                            return Ok(None);
                        }
                    }
                }
                return Ok(self.scalar(&text, plain, line));
            }
            Event::SequenceStart(..) => Content::List(self.list()?),
            Event::MappingStart(..) => Content::Map(self.map()?),
            Event::Alias(_) => {
                self.fault(line, "aliases (`*name`) are not supported; write the value out");
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
                // A variable that contains `null` or `~` is that text, not null: silently dropping a token would leave the API open.
                let plain = plain && (written.is_none() || Meaning::of(&filled) != Meaning::Null);
                for (name, value) in values {
                    self.gathered.conceal(value, format!("${{{name}}}"));
                }
                Some(Node { line, content: Content::Scalar { text: filled, plain }, written })
            }
            Err(messages) if (self.looked_at)(&self.path) => {
                for message in messages {
                    self.fault(line, message);
                }
                Some(Node { line, content: Content::Scalar { text: STAND_IN.to_owned(), plain: false }, written: None })
            }
            Err(_) => {
                self.gathered.take_out(self.path.clone());
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
