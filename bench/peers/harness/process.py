"""Processes that are measured: CPU and memory of the whole tree, from /proc; ended by pid."""

import os
import signal
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# What a peer is given to end in an orderly way.
GRACE_S = 10


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, those of other threads too."""
    pids, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        pids.append(one)
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except OSError:
                pass
    return pids


def fields(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on: the second may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent(pid: int) -> int:
    return int(fields(pid)[1])


def cpu_s(pid: int | None) -> float | None:
    """CPU seconds of the tree: of those that live (14, 15), and of children that ended (16, 17)."""
    if pid is None:
        return None
    ticks = 0
    for one in tree(pid):
        try:
            ticks += sum(map(int, fields(one)[11:15]))
        except (OSError, ValueError):
            pass
    return ticks / TICKS


def peak_rss_bytes(pid: int) -> int:
    """The sum of what each process of the tree held at most."""
    total = 0
    for one in tree(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return total


def listener(port: int) -> int | None:
    """Who listens on a port of this machine. None where that cannot be seen: another machine, or no right to look."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            part = line.split()
            if part[3] == "0A" and int(part[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{part[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in sockets:
                return int(link.parts[2])
        except OSError:
            pass
    return None


class Process:
    """A child in a session of its own, so that Ctrl-C reaches it through us alone."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, log: Path, stdout=None, **options):
        self.log = log
        with open(log, "ab") as output:
            self.child = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout or output,
                                          stderr=output, start_new_session=True, **options)
        self.pid = self.child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def ended(self) -> int | None:
        return self.child.poll()

    def kill(self) -> None:
        """SIGKILL to the whole tree at once: the way a power cut takes it."""
        for pid in tree(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.child.wait()

    def stop(self) -> None:
        if self.ended() is None:
            self.child.terminate()
            try:
                self.child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.child.stdout:
            self.child.stdout.close()

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(what: str, condition, seconds: float, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
