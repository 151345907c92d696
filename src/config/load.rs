//! Turns the text of a file into a checked configuration, collecting faults on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::faults::{Faults, Gathered, Located};
use super::interpolate::Environment;
use super::tree::{Content, Node, Step, dotted};
use super::wording::{self, Said};
use super::{Config, File, Scope, de, sources, yaml};
use crate::fault::Fault;
use crate::source::Registry;
use crate::units::Secret;
use crate::{bounded, engine, secret, store};

/// Reads the text of a file.
pub(super) fn text(file: &Path) -> Result<String, Faults> {
    let unreadable = |message: String| Faults::unreadable(file, message);
    let bytes = bounded::read(file, yaml::MAX_BYTES as u64)
        .map_err(|error| unreadable(format!("can't be read ({error}); name the file with -c or REDRIVE_CONFIG")))?
        .ok_or_else(|| unreadable(format!("is larger than {} bytes; this is not a configuration", yaml::MAX_BYTES)))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].split(|byte| *byte == b'\n').count();
        unreadable(format!("line {line} is not UTF-8; save the file as UTF-8"))
    })
}

/// Parses a configuration.
pub(super) fn parse(text: &str, file: &Path, environment: Environment<'_>, registry: &Registry, scope: Scope<'_>) -> Result<Config, Faults> {
    if text.len() > yaml::MAX_BYTES {
        return Err(Faults::unreadable(file, format!("is larger than {} bytes; this is not a configuration", yaml::MAX_BYTES)));
    }
    let mut gathered = Gathered::default();
    let Some(origin) = yaml::read(text, environment, &|path| scope.looks_at(path), &mut gathered) else {
        return Err(gathered.finish(file).unwrap_or_else(|| Faults::unreadable(file, "can't be read".to_owned())));
    };
    // The parent of a bare file name is an empty path, in which no process can be started.
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_owned);
    let mut loading = Loading { origin: &origin, gathered, folder };
    let config = loading.whole(registry, scope);
    match loading.gathered.finish(file) {
        None => Ok(config),
        Some(faults) => Err(faults),
    }
}

/// A load in progress.
pub(super) struct Loading<'a> {
    /// The file as it was read, used to look up lines.
    pub(super) origin: &'a Node,
    /// The faults so far.
    pub(super) gathered: Gathered,
    /// The file's folder.
    pub(super) folder: PathBuf,
}

impl Loading<'_> {
    fn whole(&mut self, registry: &Registry, scope: Scope<'_>) -> Config {
        let mut tree = self.origin.clone();
        let declared = tree.remove(&[Step::Key("sources".to_owned())]);
        let mut read: File = self.settle(&mut tree, &[], &["sources"]);
        let project: Arc<str> = self.project(read.project.as_deref()).into();
        let node = self.node(read.node);

        if let Some(url) = self.secret("store", "url", "url_file", read.store.url_file.as_deref()) {
            read.store.url = url;
        }
        if let Some(password) = self.secret("store", "password", "password_file", read.store.password_file.as_deref()) {
            read.store.password = Some(password);
        }
        if scope.serves()
            && let Some(token) = self.secret("api", "token", "token_file", read.api.token_file.as_deref())
        {
            read.api.token = Some(token);
        }
        // These files have been read, relative to the right folder, and must not be read again.
        let (url_file, password_file) = (read.store.url_file.take().is_some(), read.store.password_file.take().is_some());
        let token_file = read.api.token_file.take().is_some();
        let gone = |key: &str| self.gathered.is_known(&[Step::Key("api".to_owned()), Step::Key(key.to_owned())]);
        if read.api.token.is_none() && (token_file || gone("token") || gone("token_file")) {
            // A token was configured. Either the reason why it can't be read has been reported, or this command doesn't need it; to report it as
            // missing would only confuse. This random one is known to nobody.
            read.api.token = Some(Secret::new(format!("{:032x}", rand::random::<u128>())));
        }
        if let Some(tls) = &mut read.store.tls {
            for path in [&mut tls.ca, &mut tls.cert, &mut tls.key].into_iter().flatten() {
                *path = self.folder.join(&*path);
            }
        }

        let engine = engine::Config {
            poller: read.poller,
            history: read.history,
            idempotency: read.idempotency,
            shutdown: read.shutdown,
            limits: read.limits,
        };
        self.faults(engine.faults());
        self.faults(read.api.faults().into_iter().map(|fault| at_file(fault, "token", token_file).within("api")));
        self.faults(read.log.faults().into_iter().map(|fault| fault.within("log")));
        if let Err(faults) = store::open(&read.store, &project) {
            let place = |fault| at_file(at_file(fault, "url", url_file), "password", password_file);
            self.faults(faults.into_iter().map(|fault| place(fault).within("store")));
        }
        if let (Some(api), Some(health)) = (read.api.listen, read.health.listen)
            && api.port() == health.port()
            && api.port() != 0
            && (api.ip() == health.ip() || api.ip().is_unspecified() || health.ip().is_unspecified())
        {
            let message =
                format!("port {} is already used by the API, which serves health too; leave out `health` or choose another port", health.port());
            self.faults([Fault::new("health.listen", message)]);
        }

        let lease = engine.poller.lease.get();
        let (options, sources) = sources::build(self, declared, registry, &project, lease, scope);
        Config { project, node, store: read.store, api: read.api, health: read.health, engine, log: read.log, options, sources }
    }

    fn project(&mut self, project: Option<&str>) -> String {
        const SHAPE: &str = "write 1 to 63 lower-case letters, digits, `-` and `_`, beginning with a letter or digit";
        let path = [Step::Key("project".to_owned())];
        let Some(project) = project else {
            self.fault(&path, format!("is missing: the name of the application that the messages belong to; {SHAPE}"));
            return "none".to_owned();
        };
        let valid = (1..=63).contains(&project.len())
            && project.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && project.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'));
        if !valid {
            self.fault(&path, format!("`{}` is not a valid project name; {SHAPE}", project.chars().take(80).collect::<String>().escape_debug()));
        }
        project.to_owned()
    }

    fn node(&mut self, node: Option<String>) -> Arc<str> {
        let Some(node) = node else { return default_node().into() };
        if !(1..=100).contains(&node.len()) || !node.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.fault(&[Step::Key("node".to_owned())], "must be 1 to 100 visible ASCII characters, without spaces".to_owned());
        }
        node.into()
    }

    /// The secret in the file that a `*_file` key names. It is a fault if the key itself is given too.
    fn secret(&mut self, section: &str, key: &str, file_key: &str, file: Option<&Path>) -> Option<Secret> {
        let file = self.folder.join(file?);
        let path = [Step::Key(section.to_owned()), Step::Key(file_key.to_owned())];
        let both = self.origin.at(&path[..1]).and_then(|section| section.entry(key)).is_some_and(|entry| !entry.node.is_null());
        if both {
            self.fault(&path, format!("`{section}.{key}` is given too; leave one of them out"));
        }
        let secret = secret::read(&file).map_err(|message| self.fault(&path, message)).ok()?;
        self.gathered.conceal(secret.expose().to_owned(), "[redacted]".to_owned());
        Some(secret)
    }

    /// Deserialises a tree. A value at fault is reported and removed, so that its default applies, until the rest is valid.
    /// `at` is the path of the tree in the file; `also` are keys that are allowed at its top in addition to those of `T`.
    pub(super) fn settle<T: DeserializeOwned + Default>(&mut self, tree: &mut Node, at: &[Step], also: &[&str]) -> T {
        // This ends: each round removes something from a tree of bounded size.
        loop {
            let error = match de::from_node::<T>(tree) {
                Ok(value) => return value,
                Err(error) => error,
            };
            let path = error.path();
            // Try again with variables as they are written: their values must not be shown, not even in part.
            let message = match concealed(tree, &path) {
                Some(shown) => match de::from_node::<T>(&shown) {
                    Err(again) if again.path() == path => again.message().to_owned(),
                    _ => "the value of the variable does not fit here".to_owned(),
                },
                None => error.message().to_owned(),
            };
            let whole: Vec<Step> = at.iter().chain(&path).cloned().collect();
            self.report(&whole, &message, if path.len() <= 1 { also } else { &[] });
            self.gathered.take_out(whole);
            if self.gathered.is_full() || tree.remove(&path).is_none() {
                return T::default();
            }
        }
    }

    /// Reports a deserialiser's message about a path.
    pub(super) fn report(&mut self, path: &[Step], message: &str, also: &[&str]) {
        let written = self.origin.at(path);
        let of_variable = written.is_some_and(|node| node.written.is_some() && matches!(node.content, Content::Scalar { plain: true, .. }));
        match wording::reword(message, also, of_variable) {
            Said::Unknown { key, message } => {
                let mut path = path.to_vec();
                if path.last() != Some(&Step::Key(key.clone())) {
                    path.push(Step::Key(key));
                }
                self.fault(&path, message);
            }
            Said::Missing { key } => {
                let mut path = path.to_vec();
                path.push(Step::Key(key));
                self.fault(&path, "is missing".to_owned());
            }
            Said::Other(message) => self.fault(path, message),
        }
    }

    /// Adds a fault at a path, unless it is only the consequence of a removed value.
    pub(super) fn fault(&mut self, path: &[Step], message: String) {
        if !self.gathered.is_known(path) {
            let message = match self.origin.at(path) {
                Some(node) => shown_as_written(node, &message),
                None => message,
            };
            self.gathered.push(Located { line: Some(self.origin.line_of(path)), path: dotted(path), message });
        }
    }

    /// Adds faults with dotted paths from the root.
    pub(super) fn faults(&mut self, faults: impl IntoIterator<Item = Fault>) {
        for fault in faults {
            let path = self.origin.steps(&fault.path);
            self.fault(&path, fault.message);
        }
    }
}

/// Moves a fault to the key that names the file, if the secret came from one.
fn at_file(fault: Fault, key: &str, from_file: bool) -> Fault {
    if from_file && fault.path == key { Fault::new(format!("{key}_file"), fault.message) } else { fault }
}

/// The tree with the variables at and below a path as the file has them; `None` if there are none.
pub(super) fn concealed(tree: &Node, path: &[Step]) -> Option<Node> {
    fn conceal(node: &mut Node) -> bool {
        let written = node.written.take();
        match &mut node.content {
            Content::Scalar { text, plain } => {
                let Some(written) = written else { return false };
                (*text, *plain) = (written.into(), false);
                true
            }
            Content::List(items) => items.iter_mut().map(conceal).fold(false, std::ops::BitOr::bitor),
            Content::Map(entries) => entries.iter_mut().map(|entry| conceal(&mut entry.node)).fold(false, std::ops::BitOr::bitor),
        }
    }
    let mut tree = tree.clone();
    let found = conceal(tree.at_mut(path)?);
    found.then_some(tree)
}

/// The message with the value of a scalar replaced by what the file says, variables included.
fn shown_as_written(node: &Node, message: &str) -> String {
    match (&node.written, node.text()) {
        (Some(written), Some(text)) if !text.is_empty() => message.replace(text, written),
        _ => message.to_owned(),
    }
}

/// The host's name and a random suffix, so that two processes on one host are two nodes.
fn default_node() -> String {
    let host = rustix::system::uname();
    let host: String = host.nodename().to_string_lossy().chars().filter(char::is_ascii_graphic).take(64).collect();
    let host = if host.is_empty() { "node".to_owned() } else { host };
    format!("{host}-{:06x}", rand::random::<u32>() & 0xff_ffff)
}
