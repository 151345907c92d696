"""One turn of one peer: fill, drain, count; and the same with a kill -9 at half way."""

import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .database import Database, Failed, Progress, Server
from .peer import BUILD, PEERS, REPOSITORY, Peer
from .process import Process, cpu_s, peak_rss_bytes
from .say import say
from .topic import Topic

# How often the topic is looked at: asking costs the broker. Closely for the moment of a kill.
LOOK_MS, LOOK_CLOSELY_MS = 50, 5
# Nothing moved for so long: given up.
STUCK_S = 60
# A drain takes no longer.
MOST_S = 1800
# The JVM takes its time.
FIRST_MESSAGE_S = 120
# So long without a message is the end, for one that marks nothing.
QUIET_S = 1
# How long a peer may take to be whole again after a kill -9.
WHOLE_AGAIN_S = 120


@dataclass
class Drained:
    messages: int
    seconds: float
    cpu_s: float | None
    db_cpu_s: float | None
    broker_cpu_s: float | None
    rss_bytes: int
    copies: int
    lost: int

    def rate(self) -> float:
        return self.messages / self.seconds


@dataclass
class Recovered:
    messages: int
    # None: not within WHOLE_AGAIN_S.
    seconds: float | None
    left: int
    copies: int
    lost: int


@dataclass(frozen=True)
class Servers:
    postgres: Server
    brokers: str
    broker_pid: int | None


class Turn(ExitStack):
    """A database, a topic and a filled table; everything ends with the `with`."""

    def __init__(self, peer: Peer, servers: Servers, wanted: int, name: str, look_ms: int):
        super().__init__()
        self.peer, self.servers, self.messages, self.name, self.look_ms = peer, servers, peer.messages(wanted), name, look_ms

    def __enter__(self):
        super().__enter__()
        try:
            self.set_up()
        except BaseException:
            self.close()
            raise
        return self

    def set_up(self) -> None:
        self.work = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        self.callback(shutil.rmtree, self.work, ignore_errors=True)
        self.topic = self.enter_context(Topic(self.servers.brokers, self.name, self.work))
        self.database = self.enter_context(Database(self.servers.postgres, self.name))
        self.env = {**os.environ, "DATABASE_URL": self.database.url, "KAFKA": self.servers.brokers, "TOPIC": self.name, "WORK": str(self.work),
                    "MESSAGES": str(self.messages), **{key: self.told(value) for key, value in self.peer.env.items()}}
        for command in self.peer.prepare:
            self.prepare(command)
        self.database.fill(self.peer.fill, self.messages, self.name)
        self.watch = self.enter_context(self.topic.watch(self.look_ms))
        self.progress = Progress(self.database.url, self.peer.unfinished)
        self.callback(self.progress.close)

    def told(self, word: str) -> str:
        return word.format(build=BUILD, here=self.peer.home, peers=PEERS, repository=REPOSITORY, work=self.work)

    def prepare(self, command: list[str]) -> None:
        with self.start(command) as process:
            process.child.wait(60)
            if process.ended():
                raise Failed(f"{' '.join(command)}:\n{process.last_words()}")

    def start(self, command: list[str]) -> Process:
        return Process([self.told(word) for word in command], self.env, self.peer.home, self.work / "peer.log")

    def serve(self) -> Process:
        return self.enter_context(self.start(self.peer.run))

    def await_first(self, process: Process) -> None:
        deadline = time.monotonic() + FIRST_MESSAGE_S
        while not self.watch.first.wait(0.2):
            self.check(process)
            if time.monotonic() > deadline:
                raise Failed(f"no message within {FIRST_MESSAGE_S} s:\n{process.last_words()}")

    def await_total(self, process: Process, total: int) -> None:
        deadline = time.monotonic() + MOST_S
        while self.watch.total < total:
            self.check(process)
            if time.monotonic() > min(deadline, self.watch.changed + STUCK_S):
                raise Failed(f"{self.watch.total} of {total} messages, and then nothing more:\n{process.last_words()}")
            time.sleep(0.002)

    def check(self, process: Process) -> None:
        if process.ended() is not None:
            raise Failed(f"the process ended ({process.ended()}):\n{process.last_words()}")

    def cpu(self, process: Process) -> list[float | None]:
        return [cpu_s(pid) for pid in (process.pid, self.servers.postgres.pid, self.servers.broker_pid)]


def drain(peer: Peer, servers: Servers, wanted: int, name: str) -> Drained:
    """From the first message in the topic until all rows are marked: that an interpreter or a JVM starts slowly counts for nobody."""
    with Turn(peer, servers, wanted, name, LOOK_MS) as turn:
        process = turn.serve()
        turn.await_first(process)
        begun, before = time.monotonic(), turn.cpu(process)
        turn.await_total(process, turn.messages)
        await_done(turn, process)
        seconds, after = time.monotonic() - begun, turn.cpu(process)
        rss = peak_rss_bytes(process.pid)
        process.stop()
        counted = turn.topic.count(turn.messages)
        used = [None if then is None or now is None else now - then for then, now in zip(before, after)]
        return Drained(turn.messages, seconds, *used, rss, counted["copies"], counted["lost"])


def await_done(turn: Turn, process: Process) -> None:
    deadline = time.monotonic() + STUCK_S
    while not turn.progress.done():
        turn.check(process)
        if time.monotonic() > deadline:
            raise Failed(f"all messages are sent, but {turn.progress.left()} rows are not marked after {STUCK_S} s")
        time.sleep(0.02)


def kill(peer: Peer, servers: Servers, wanted: int, name: str) -> Recovered:
    """kill -9 when half of the messages are in the topic, start at once, touch nothing.

    In the midst of a batch: one that has just sent all that it claimed would look as if it never repeated or held on to anything.
    """
    with Turn(peer, servers, wanted, name, LOOK_CLOSELY_MS) as turn:
        process = turn.serve()
        turn.await_first(process)
        turn.await_total(process, turn.messages // 2)
        turn.await_total(process, turn.watch.total + 1)
        process.kill()
        begun = time.monotonic()
        process = turn.serve()
        whole = None
        while whole is None and time.monotonic() < begun + WHOLE_AGAIN_S:
            turn.check(process)
            time.sleep(0.1)
            whole = whole_since(turn)
        process.stop()
        counted = turn.topic.count(turn.messages)
        if whole is not None:
            return Recovered(turn.messages, whole - begun, 0, counted["copies"], counted["lost"])
        # What has not been sent yet may still be.
        return Recovered(turn.messages, None, turn.progress.left() if peer.unfinished else counted["lost"], counted["copies"], 0)


def whole_since(turn: Turn) -> float | None:
    """The topic first: it costs nothing to ask."""
    if turn.watch.total < turn.messages:
        return None
    if turn.peer.unfinished:
        return time.monotonic() if turn.progress.done() else None
    # Copies fill the topic as well as messages do: one that marks nothing is done when it is quiet and none is missing.
    quiet = time.monotonic() > turn.watch.changed + QUIET_S
    return turn.watch.changed if quiet and turn.topic.count(turn.messages)["lost"] == 0 else None


def attempt(what: str, run, *arguments):
    """A peer that fails leaves a line in the table, not a run without one."""
    say(what)
    try:
        return run(*arguments)
    except (Failed, OSError, TimeoutError) as error:
        say(f"{what}: FAILED: {error}")
        return None
