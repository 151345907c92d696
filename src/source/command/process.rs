//! One process, from its start to the end of its group.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::output::{self, Head, Tail};
use super::table;
use crate::outcome::Outcome;
use crate::source::answer;

/// The time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// How often a process that was told to end is checked.
const LOOK: Duration = Duration::from_millis(20);
/// How long to wait for a process's output after it has ended: a grandchild that goes on may hold the pipes open for ever.
const LINGER: Duration = Duration::from_millis(200);
/// How long ending a group takes, with a margin. It takes longer only if even SIGKILL does not reach a process at once.
pub(super) const ENDS_WITHIN: Duration = GRACE.saturating_add(LINGER).saturating_add(Duration::from_millis(100));

/// What is run for each message.
pub(super) struct Program {
    /// The program and its arguments; never empty.
    pub(super) argv: Vec<OsString>,
    /// Its environment, without the facts of the message.
    pub(super) variables: Vec<(OsString, OsString)>,
    /// Its working directory.
    pub(super) directory: PathBuf,
    /// How long it may run.
    pub(super) timeout: Duration,
    /// Whether its output is kept.
    pub(super) keep_result: bool,
}

/// What ended a process.
enum End {
    /// The process itself, or a signal from elsewhere.
    Own(io::Result<ExitStatus>),
    /// Its time was up.
    Late,
    /// It could not be waited for any longer.
    Unwanted,
}

/// Runs the program once. Cancelling `unwanted` means that its outcome can't be waited for any longer, and ends the process group.
pub(super) async fn run(program: &Program, facts: Vec<(&'static str, String)>, payload: Bytes, unwanted: CancellationToken) -> Outcome {
    let [name, arguments @ ..] = program.argv.as_slice() else {
        return Outcome::refused("command_not_found", "no program is configured");
    };
    let mut command = tokio::process::Command::new(name);
    command
        .args(arguments)
        .env_clear()
        .envs(program.variables.iter().map(|(name, value)| (name, value)))
        .envs(facts)
        .current_dir(&program.directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return table::not_started(&error, name, &program.directory),
    };
    let mut group = Group::new(child);
    let (stdin, stdout, stderr) = (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
    let (mut head, mut tail) = (Head::default(), Tail::default());
    let end = {
        let streams = async { tokio::join!(output::read(stdout, &mut head), output::read(stderr, &mut tail)) };
        let feeding = feed(stdin, &payload);
        let late = sleep(program.timeout);
        tokio::pin!(streams, feeding, late);
        let (mut streams_open, mut feeds) = (true, true);
        let end = loop {
            tokio::select! {
                biased;
                status = group.child.wait() => break End::Own(status),
                () = &mut late => break End::Late,
                () = unwanted.cancelled() => break End::Unwanted,
                _ = &mut streams, if streams_open => streams_open = false,
                () = &mut feeding, if feeds => feeds = false,
            }
        };
        match end {
            End::Own(_) => group.over(),
            End::Late | End::Unwanted => group.end().await,
        }
        if streams_open {
            let _ = timeout(LINGER, streams).await;
        }
        end
    };
    let said = tail.last_lines();
    let (outcome, code) = match end {
        End::Own(Ok(status)) => (table::ended(status, &said), status.code().unwrap_or(-1)),
        End::Own(Err(error)) => (Outcome::unreachable("command_lost", format!("the process could not be waited for: {error}")), -1),
        End::Late => (Outcome::unreachable("command_timeout", ended(&format!("did not end within {:?}", program.timeout), &said)), -1),
        End::Unwanted => (Outcome::unreachable("command_stopped", ended("was still running when redrive stopped", &said)), -1),
    };
    if program.keep_result { outcome.with_result(answer::json("exit", code.into(), "output", head.bytes())) } else { outcome }
}

fn ended(why: &str, said: &str) -> String {
    let what = format!("{why}; its process group was ended");
    if said.is_empty() { what } else { format!("{what}: {said}") }
}

/// Writes the payload to the process, which may close the pipe if it does not want it.
async fn feed(stdin: Option<ChildStdin>, payload: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(payload).await;
        let _ = stdin.shutdown().await;
    }
}

/// A process and the group that it leads. If it is dropped before its end, which happens when the runtime stops, the group is killed at once.
struct Group {
    child: Child,
    /// The group's number, as long as it may be used: until the leader has been waited for, the kernel does not reuse it.
    id: Option<Pid>,
}

impl Group {
    fn new(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, id }
    }

    /// The leader has ended by itself and been waited for. Anything it left running is its own business.
    fn over(&mut self) {
        self.id = None;
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // This fails if nobody is left, which is the aim anyway.
            let _ = kill_process_group(id, signal);
        }
    }

    /// Ends the group: SIGTERM, then SIGKILL for what is left, once the leader has ended or the grace period is over.
    async fn end(&mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline && !self.leader_has_ended() {
            sleep(LOOK).await;
        }
        self.signal(Signal::KILL);
        self.id = None;
        // SIGKILL can't be refused, but a process that is waiting for a dead disk dies late: the runtime waits for it later.
        let _ = timeout(GRACE, self.child.wait()).await;
    }

    /// Whether the leader has ended; it is not waited for yet, so that the group keeps its number.
    fn leader_has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        self.id.is_none_or(|id| !matches!(waitid(WaitId::Pid(id), options), Ok(None)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
