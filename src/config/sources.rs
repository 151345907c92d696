//! `sources:` in the configuration. Each source is split into the options of every source and the keys of its kind, and built.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Scope;
use super::load::{Loading, concealed};
use super::tree::{Content, Entry, Meaning, Node, Step};
use super::wording::unknown;
use crate::engine::SourceSpec;
use crate::fault::Fault;
use crate::source::options::RESERVED;
use crate::source::registry::is_name;
use crate::source::{Context, Options, Registry, Sender};

/// The maximum number of sources.
const MOST: usize = 1000;
/// How many times the build of one source is tried, each time to find its next fault, or its next number that is meant as text.
const MAX_ROUNDS: usize = 1000;

/// The options of each source, by name, and the sources themselves.
pub(super) fn build(
    loading: &mut Loading<'_>,
    declared: Option<Node>,
    registry: &Registry,
    project: &Arc<str>,
    lease: Duration,
    scope: Scope<'_>,
) -> (BTreeMap<String, Options>, Vec<SourceSpec>) {
    let root = Step::Key("sources".to_owned());
    let mut all = BTreeMap::new();
    let mut specs = Vec::new();
    let Some(declared) = declared.filter(|node| !node.is_null()) else { return (all, specs) };
    let Content::Map(entries) = declared.content else {
        loading.fault(&[root], "expected a mapping of names to sources, such as `billing: { kind: amqp, … }`".to_owned());
        return (all, specs);
    };
    if entries.len() > MOST {
        loading.fault(&[root], format!("there may be at most {MOST} sources"));
        return (all, specs);
    }
    for Entry { key: name, node, .. } in entries {
        let at = [root.clone(), Step::Key(name.clone())];
        if !is_name(&name) {
            let message = "is not a valid source name; write 1 to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or digit";
            loading.fault(&at, message.to_owned());
        }
        let Some((kind, options, own)) = split(loading, &at, node, registry) else { continue };
        if scope.builds(&name) {
            let cx =
                Context { project: project.clone(), name: name.as_str().into(), options: options.clone(), lease, folder: loading.folder.clone() };
            if let Some(sender) = sender(loading, &at, &kind, own, &cx, registry) {
                specs.push(SourceSpec { name: cx.name, kind, options: cx.options, sender });
            }
        }
        all.insert(name, options);
    }
    (all, specs)
}

/// The kind of a source, its options, and the remaining keys, which belong to its kind; `None` if there is no such kind.
fn split(loading: &mut Loading<'_>, at: &[Step], node: Node, registry: &Registry) -> Option<(String, Options, Node)> {
    let line = node.line;
    let kinds: Vec<&str> = registry.names().collect();
    let Content::Map(entries) = node.content else {
        loading.fault(at, format!("expected a mapping that begins with `kind:` and one of {}", kinds.join(", ")));
        return None;
    };
    let mut kind = None;
    let (mut common, mut own) = (Vec::new(), Vec::new());
    for entry in entries {
        if entry.key == "kind" {
            kind = Some(entry);
        } else if Options::KEYS.contains(&entry.key.as_str()) {
            common.push(entry);
        } else {
            own.push(entry);
        }
    }
    let map = |entries| Node { line, content: Content::Map(entries), written: None };
    let options: Options = loading.settle(&mut map(common), at, &[]);
    let name = match at.last() {
        Some(Step::Key(name)) => name.as_str(),
        _ => "",
    };
    loading.faults(options.faults().into_iter().map(|fault| fault.within(&format!("sources.{name}"))));

    let path: Vec<Step> = at.iter().cloned().chain([Step::Key("kind".to_owned())]).collect();
    match kind.as_ref().and_then(|entry| entry.node.text()) {
        Some(text) if kinds.contains(&text) => {
            let faults = unknown_codes(&options, text, registry).into_iter().chain(unused_tls(&options, text, registry));
            loading.faults(faults.map(|fault| fault.within(&format!("sources.{name}"))));
            Some((text.to_owned(), options, map(own)))
        }
        Some(text) => {
            loading.fault(&path, unknown("kind of source", text, &kinds));
            None
        }
        None => {
            loading.fault(&path, format!("is missing; write one of {}", kinds.join(", ")));
            None
        }
    }
}

/// The keys of `outcomes:` that no send of this kind can produce, and which would have no effect. (The empty key gets a message of its own.)
fn unknown_codes(options: &Options, kind: &str, registry: &Registry) -> Vec<Fault> {
    let Some(codes) = registry.codes(kind) else { return Vec::new() };
    let shown: Vec<String> = codes.iter().map(ToString::to_string).collect();
    let known: Vec<&str> = shown.iter().map(String::as_str).collect();
    let unknown_ones = options.outcomes.keys().filter(|key| !key.is_empty() && !codes.iter().any(|code| code.is(key)));
    unknown_ones.map(|key| Fault::new(format!("outcomes.{key}"), unknown("error code", key, &known))).collect()
}

/// Certificates that a kind doesn't use: whoever wrote them would believe that they protect something.
fn unused_tls(options: &Options, kind: &str, registry: &Registry) -> Option<Fault> {
    let unused = options.tls.is_some() && !registry.uses_tls(kind);
    unused.then(|| Fault::new("tls", format!("has no effect: sources of kind `{kind}` use no certificates")))
}

/// Builds the sender of a source. When a key is at fault, it is reported and removed, and the build is tried again to find the next fault.
fn sender(loading: &mut Loading<'_>, at: &[Step], kind: &str, mut own: Node, cx: &Context, registry: &Registry) -> Option<Sender> {
    // Scalars that are read as text because their kind refused them as numbers, with its message, which counts if it takes no text either.
    let mut quoted: HashMap<Vec<Step>, String> = HashMap::new();
    let mut faultless = true;
    for _ in 0..MAX_ROUNDS {
        let faults = match registry.build(kind, own.to_json(), cx) {
            Ok(sender) => return faultless.then_some(sender),
            Err(faults) => faults,
        };
        let [fault] = faults.as_slice() else {
            // Several at once: the kind has checked everything.
            for fault in faults {
                let path = own.steps(&fault.path);
                report(loading, at, &path, &fault.message);
            }
            return None;
        };
        let path = own.steps(&fault.path);
        if fault.message.starts_with("invalid type: ")
            && let Some(Node { content: Content::Scalar { text, plain }, .. }) = own.at_mut(&path)
            && *plain
            && !matches!(Meaning::of(text), Meaning::Text | Meaning::Null)
            && !quoted.contains_key(&path)
        {
            // A password may be all digits, and a property may be `00123`.
            *plain = false;
            quoted.insert(path, fault.message.clone());
            continue;
        }
        faultless = false;
        let first = quoted.remove(&path).filter(|_| fault.message.starts_with("invalid type: "));
        let message = first.unwrap_or_else(|| unquoted(loading, &own, &path, fault, kind, cx, registry));
        let path = report(loading, at, &path, &message);
        let gone = own.remove(&path).is_some();
        loading.gathered.take_out(at.iter().chain(&path).cloned().collect());
        if !gone {
            return None;
        }
    }
    if faultless {
        loading.fault(at, format!("more than {MAX_ROUNDS} numbers where text is expected; put quotes around them"));
    }
    None
}

/// A kind's message without the value of a variable: the message it gives when it sees `${VAR}` itself.
fn unquoted(loading: &Loading<'_>, own: &Node, path: &[Step], fault: &Fault, kind: &str, cx: &Context, registry: &Registry) -> String {
    if loading.gathered.redact(&fault.message) == fault.message {
        return fault.message.clone();
    }
    let again = concealed(own, path).and_then(|own| registry.build(kind, own.to_json(), cx).err());
    let same = again.and_then(|faults| faults.into_iter().find(|other| other.path == fault.path));
    same.map_or_else(|| fault.message.clone(), |fault| fault.message)
}

/// Reports a fault inside a source and returns the path of its key. For an unknown key, the name comes from the message.
fn report(loading: &mut Loading<'_>, at: &[Step], path: &[Step], message: &str) -> Vec<Step> {
    let also: &[&str] = if path.len() <= 1 { &RESERVED } else { &[] };
    let mut path = path.to_vec();
    if let Some(rest) = message.strip_prefix("unknown field `")
        && let Some((key, _)) = rest.split_once('`')
        && path.last() != Some(&Step::Key(key.to_owned()))
    {
        path.push(Step::Key(key.to_owned()));
    }
    let whole: Vec<Step> = at.iter().chain(&path).cloned().collect();
    // What a kind says of a section as a whole, but for its keys and its type, may be the consequence of a value at fault in it.
    let of_form = ["missing field `", "unknown field `", "invalid type: "].iter().any(|start| message.starts_with(start));
    if of_form || !loading.gathered.is_torn(&whole) {
        loading.report(&whole, message, also);
    }
    path
}
