"""A database for each run, through psql. What was made is dropped, whatever happens."""

import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from . import process

# 512 bytes of JSON that carry their number; the consumer knows them by it. Not compressed anywhere.
PAYLOAD = """
CREATE FUNCTION pg_temp.payload(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT rpad('{"id": ' || n || ', "text": "', 510, 'abcdefghijklmnopqrstuvwxyz') || '"}' $$;
"""


class Failed(Exception):
    """Something that a run needs did not work; the message says what."""


class Server:
    def __init__(self, url: str):
        self.url = url
        self.pid = self.postmaster()

    def psql(self, sql: str) -> str:
        with closing(Session(self.url)) as session:
            return session.ask(sql)

    def postmaster(self) -> int | None:
        """The parent of any session's process; None where the server isn't on this machine."""
        with closing(Session(self.url)) as session:
            pid = int(session.ask("SELECT pg_backend_pid()"))
            try:
                return process.parent(pid) if Path(f"/proc/{pid}/comm").read_text().strip() == "postgres" else None
            except OSError:
                return None

    def version(self) -> str:
        return self.psql("SHOW server_version").split()[0]

    def logical(self) -> bool:
        return self.psql("SHOW wal_level") == "logical"

    def database(self, name: str) -> "Database":
        return Database(self, name)


class Database:
    def __init__(self, server: Server, name: str):
        self.server, self.name = server, name
        parts = urlsplit(server.url)
        # Clients differ in what they do unless told: some would encrypt on loopback and others not.
        self.url = urlunsplit(parts._replace(path=f"/{name}", query=parts.query or "sslmode=disable"))

    def __enter__(self):
        self.server.psql(f"CREATE DATABASE {self.name} TEMPLATE template0 ENCODING 'UTF8'")
        return self

    def __exit__(self, *_):
        # A slot outlives its reader, and no database with one is dropped.
        self.server.psql(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{self.name}' AND active")
        for slot in self.server.psql(f"SELECT slot_name FROM pg_replication_slots WHERE database = '{self.name}'").split():
            with closing(Session(self.url)) as session:
                session.ask(f"SELECT pg_drop_replication_slot('{slot}')")
        # Not FORCE, which stumbles over autovacuum; without it that is sent away, and only our own sessions are in the way.
        self.server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.name}' AND usename = current_user")
        self.server.psql(f"DROP DATABASE IF EXISTS {self.name}")

    def fill(self, script: Path, messages: int, topic: str) -> None:
        run_script(self.url, PAYLOAD + script.read_text(), messages=messages, topic=topic)
        # The same start for all: statistics are there, and nobody cleans up behind the INSERT while we measure.
        run_script(self.url, "SET client_min_messages = error; VACUUM (ANALYZE);")


def run_script(url: str, sql: str, **variables) -> None:
    told = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
    done = subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *told, url], input=sql, text=True, capture_output=True, start_new_session=True)
    if done.returncode:
        raise Failed(f"psql: {done.stderr.strip()}")


class Session:
    """One psql that stays connected, so that asking often costs a statement and no more."""

    END = "--redrive-end--"

    def __init__(self, url: str):
        self.child = subprocess.Popen(["psql", "-X", "-q", "-A", "-t", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def ask(self, sql: str) -> str:
        try:
            self.child.stdin.write(f"{sql};\n\\echo {self.END}\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"psql: {self.child.stdout.read().strip()}") from None
        lines = []
        for line in self.child.stdout:
            if line.strip() == self.END:
                answer = "\n".join(lines)
                if "ERROR:" in answer or "FATAL:" in answer:
                    raise Failed(f"psql: {answer}")
                return answer
            lines.append(line.rstrip("\n"))
        raise Failed("psql: " + "\n".join(lines))

    def close(self) -> None:
        self.child.stdin.close()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()


class Progress(Session):
    """Asks how much is left. By index: a scan would read everything that died while the backlog was worked off."""

    def __init__(self, url: str, unfinished: str):
        super().__init__(url)
        self.unfinished = unfinished
        self.ask("SET enable_seqscan = off")

    def done(self) -> bool:
        return not self.unfinished or self.ask(f"SELECT EXISTS (SELECT 1 FROM {self.unfinished})") == "f"

    def left(self) -> int:
        return int(self.ask(f"SELECT count(*) FROM {self.unfinished}")) if self.unfinished else 0
