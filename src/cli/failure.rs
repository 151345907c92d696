//! Why a command did not do it, and the exit code of that.

use std::io;

use crate::config::Faults;
use crate::fault::Fault;
use crate::{app, shutdown, store};

/// Failed.
pub(super) const FAILED: u8 = 1;
/// The command line is wrong.
pub(super) const USAGE: u8 = 2;
/// The configuration is wrong.
pub(super) const CONFIG: u8 = 64;
/// Something needed can't be reached.
pub(super) const UNREACHABLE: u8 = 69;
/// A bug.
pub(super) const BUG: u8 = 70;

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The configuration has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// The configuration has faults, which were printed.
    #[error("the configuration is wrong")]
    FaultsShown,
    /// The configuration is wrong in a way that only connecting shows.
    #[error("{0}")]
    Config(String),
    /// The command line asks for what can't be.
    #[error("{0}")]
    Usage(String),
    /// Something needed can't be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// Some of what was asked for was not done; which is printed already.
    #[error("not all was done")]
    Partly,
    /// A second signal came; which is logged already.
    #[error("stopped at once")]
    StoppedHard,
    /// What there is to say could not be written.
    #[error("writing the output failed: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Faults(_) | Self::FaultsShown | Self::Config(_) => CONFIG,
            Self::Usage(_) => USAGE,
            Self::Unreachable(_) => UNREACHABLE,
            Self::StoppedHard => shutdown::STOPPED_HARD,
            // `redrive list | head` has done what was wanted.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Failed(_) | Self::Partly | Self::Output(_) => FAILED,
        }
    }

    /// What to say about it on stderr, if it is not said yet.
    pub(super) fn message(&self) -> Option<String> {
        match self {
            Self::FaultsShown | Self::Partly | Self::StoppedHard => None,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            Self::Faults(faults) => {
                let count = faults.list().len();
                let faults_word = if count == 1 { "fault" } else { "faults" };
                Some(format!("{faults}\nredrive: {count} {faults_word} in the configuration; nothing was started"))
            }
            other => Some(format!("redrive: {other}")),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Config(fault.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

impl From<app::Error> for Failure {
    fn from(error: app::Error) -> Self {
        match error {
            app::Error::Config(_) => Self::Config(error.to_string()),
            app::Error::Store(error) => error.into(),
            app::Error::NotReady { .. } => Self::Unreachable(error.to_string()),
            app::Error::Bind(_) | app::Error::Api(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Config(message) => Self::Config(format!("store: {message}")),
            error if error.is_transient() => Self::Unreachable(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}
