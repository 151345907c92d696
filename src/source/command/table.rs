//! The error table: what an exit code, a signal or a failed start means. `docs/sources-endpoints.md` documents it.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use crate::outcome::{Class, Outcome};
use crate::source::codes::Code;

/// The class of an exit code, by the names of `sysexits.h`.
pub(super) const fn class(code: i32) -> Class {
    match code {
        0 => Class::Succeeded,
        // EX_DATAERR: the message itself is wrong
        65 => Class::Permanent,
        // EX_UNAVAILABLE, EX_TEMPFAIL: what the program needs is away; try later
        69 | 75 => Class::Unreachable,
        _ => Class::Refused,
    }
}

/// The codes of unsuccessful sends.
pub(super) fn codes() -> Vec<Code> {
    let others = ["exit_unknown", "command_timeout", "command_stopped", "command_not_found", "command_environment", "command_spawn", "command_lost"];
    [Code::Numbered("exit_", 1..=255), Code::Numbered("signal_", 1..=64)].into_iter().chain(others.map(Code::from)).collect()
}

/// The meaning of a program's end; `said` is the end of its standard error.
pub(super) fn ended(status: ExitStatus, said: &str) -> Outcome {
    let (class, code, what) = match (status.code(), status.signal()) {
        (Some(0), _) => return Outcome::succeeded(),
        (Some(code), _) => (class(code), format!("exit_{code}"), format!("ended with exit code {code}")),
        (None, Some(signal)) => (Class::Refused, format!("signal_{signal}"), format!("ended by signal {signal}")),
        (None, None) => (Class::Refused, "exit_unknown".into(), "ended in an unknown way".into()),
    };
    Outcome::failure(class, code, if said.is_empty() { what } else { format!("{what}: {said}") })
}

/// The meaning of a failure to start a program.
pub(super) fn not_started(error: &io::Error, program: &std::ffi::OsStr, directory: &std::path::Path) -> Outcome {
    use io::ErrorKind::{ArgumentListTooLong, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied};

    let detail = if directory.is_dir() {
        format!("{} can't be started: {error}", program.to_string_lossy())
    } else {
        format!("the working directory {} can't be entered: {error}", directory.display())
    };
    // ENOEXEC has no `ErrorKind`: a script without its first line, or a program for another machine.
    let no_program = error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error());
    match error.kind() {
        NotFound | NotADirectory | IsADirectory | PermissionDenied => Outcome::refused("command_not_found", detail),
        _ if no_program => Outcome::refused("command_not_found", detail),
        ArgumentListTooLong | InvalidInput => Outcome::unsendable("command_environment", detail),
        // No process, memory or descriptor available, or the program is being replaced: this machine's problem, not the message's.
        _ => Outcome::unreachable("command_spawn", detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_code_has_its_class() {
        let of = |class| (0..=255).filter(|code| self::class(*code) == class).collect::<Vec<i32>>();
        assert_eq!(of(Class::Succeeded), [0]);
        assert_eq!(of(Class::Permanent), [65]);
        assert_eq!(of(Class::Unreachable), [69, 75]);
    }
}
