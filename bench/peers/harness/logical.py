"""A second PostgreSQL, for those that read the log: `wal_level` cannot be changed under the others."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .database import Failed, Server
from .process import Process, wait_until
from .say import say

NOTE = "Debezium on a second PostgreSQL of the same build and settings but for `wal_level = logical`"
# Taken from the shared server: what is compared must not be a setting. Durability stays as it comes.
SHARED = ("max_connections", "max_wal_size", "shared_buffers")
OWN = {"timezone": "UTC", "wal_level": "logical", "listen_addresses": "127.0.0.1"}


@contextmanager
def server(shared: Server):
    """Started for this run, in a temporary folder; it is gone afterwards."""
    user = unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="redrive-peers-postgres-"))
    try:
        if user != getpass.getuser():
            shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
        port = free_port()
        programs = newest_programs()
        say(f"a PostgreSQL with wal_level=logical on port {port}")
        (log := folder / "server.log").touch()
        create(programs, folder, user)
        words = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
        words += [word for name, value in settings(shared).items() for word in ("-c", f"{name}={value}")]
        with Process(words, dict(os.environ, LC_ALL="C.UTF-8"), folder, log, **as_user(user)) as process:
            ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
            wait_until("PostgreSQL", lambda: subprocess.run(ready, check=False).returncode == 0, 30)
            yield Server(f"postgres://postgres:postgres@127.0.0.1:{port}/postgres?sslmode=disable")
            # Sessions of a peer that was killed must not hold it up.
            process.child.send_signal(2)
            process.child.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settings(shared: Server) -> dict[str, str]:
    return {**{name: shared.psql(f"SHOW {name}") for name in SHARED}, **OWN}


def create(programs: Path, folder: Path, user: str) -> None:
    words = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8"]
    done = subprocess.run(words, text=True, capture_output=True, cwd=folder, **as_user(user))
    if done.returncode:
        raise Failed(f"initdb: {done.stderr.strip()}")


def unprivileged() -> str:
    """PostgreSQL refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else getpass.getuser()


def as_user(user: str) -> dict:
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def newest_programs() -> Path:
    """The release that scripts/services runs for the others."""
    for folder in (Path("/usr/lib/postgresql/15/bin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
        if (folder / "initdb").exists():
            return folder
    raise Failed("no PostgreSQL server programs in /usr/lib/postgresql")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
