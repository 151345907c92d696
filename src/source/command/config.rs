//! `kind: command` in the configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::process::Program;
use super::{Command, environment, table};
use crate::fault::Fault;
use crate::source::codes::Code;
use crate::source::{Context, Sender};
use crate::units::Secret;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// `kind: command`: runs a program for each message.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The program and its arguments; no shell is involved. A relative path with a slash (`./refund.sh`) starts at the configuration file's folder, a
    /// bare name is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Variables for the program in addition to the facts of the message.
    pub env: BTreeMap<String, Secret>,
    /// Names of redrive's own variables that the program gets. It always gets `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `TZ`, `TMPDIR`, `LANG`,
    /// `LANGUAGE`, `LC_*`. Others are not passed on, so that none leaks by accident. This is not a security boundary: a command runs as redrive's
    /// user, and can read redrive's environment in `/proc` and the files that hold its secrets.
    pub inherit_env: Vec<String>,
    /// The working directory. Default: the configuration file's folder.
    pub directory: Option<PathBuf>,
}

impl crate::source::Config for Config {
    fn build(self, cx: &Context) -> Result<Sender, Vec<Fault>> {
        let mut faults = Vec::new();
        if self.argv.first().is_none_or(String::is_empty) {
            faults.push(Fault::new("argv", "is missing; write the program and its arguments as a list, such as [./refund.sh, --fast]"));
        }
        for (index, argument) in self.argv.iter().enumerate() {
            if argument.contains('\0') {
                faults.push(Fault::new(format!("argv.{index}"), "must not contain NUL"));
            }
        }
        for (name, value) in &self.env {
            if let Err(message) = environment::check_name(name) {
                faults.push(Fault::new(format!("env.{name}"), message));
            } else if value.expose().contains('\0') {
                faults.push(Fault::new(format!("env.{name}"), "must not contain NUL"));
            }
        }
        for (index, name) in self.inherit_env.iter().enumerate() {
            if let Err(message) = environment::check_name(name) {
                faults.push(Fault::new(format!("inherit_env.{index}"), message));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let folder = std::path::absolute(&cx.folder).unwrap_or_else(|_| cx.folder.clone());
        let mut argv: Vec<OsString> = self.argv.into_iter().map(OsString::from).collect();
        if let Some(program) = argv.first_mut()
            && program.as_encoded_bytes().contains(&b'/')
        {
            *program = folder.join(&*program).into();
        }
        let mut variables = environment::inherited(&self.inherit_env);
        variables.extend(self.env.into_iter().map(|(name, value)| (name.into(), value.expose().into())));
        let program = Program {
            argv,
            variables,
            directory: self.directory.map_or_else(|| folder.clone(), |directory| folder.join(directory)),
            timeout: cx.options.timeout.map_or(DEFAULT_TIMEOUT, Into::into),
            keep_result: cx.options.keep_result,
        };
        Ok(Sender::each(Command { program: Arc::new(program), tracker: TaskTracker::new(), ending: CancellationToken::new() }))
    }

    fn codes() -> Option<Vec<Code>> {
        Some(table::codes())
    }
}
