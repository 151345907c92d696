"""The topic of one run, made, watched, counted and removed by bench/peers/consume."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

from .database import Failed
from .peer import BUILD
from .process import Process

CONSUME = BUILD / "consume"
PARTITIONS = 4


class Topic:
    def __init__(self, brokers: str, name: str, work: Path):
        self.brokers, self.name, self.work = brokers, name, work

    def __enter__(self):
        self.tool("create", str(PARTITIONS))
        return self

    def __exit__(self, *_):
        self.tool("delete")

    def tool(self, command: str, *more: str) -> str:
        done = subprocess.run([CONSUME, command, self.name, *more], env=self.env(), text=True, capture_output=True, start_new_session=True)
        if done.returncode:
            raise Failed(done.stderr.strip())
        return done.stdout

    def env(self) -> dict[str, str]:
        return {**os.environ, "KAFKA": self.brokers}

    def count(self, messages: int) -> dict[str, int]:
        return json.loads(self.tool("count", str(messages)))

    def watch(self, every_ms: int) -> "Watch":
        return Watch(self, every_ms)


class Watch:
    """How many messages the topic holds; None until the first answer."""

    def __init__(self, topic: Topic, every_ms: int):
        self.total: int | None = None
        self.changed = time.monotonic()
        self.first = threading.Event()
        words = [str(CONSUME), "watch", topic.name, str(every_ms)]
        self.process = Process(words, topic.env(), topic.work, topic.work / "watch.log", stdout=subprocess.PIPE)
        self.reader = threading.Thread(target=self.read, daemon=True)

    def __enter__(self):
        self.reader.start()
        return self

    def __exit__(self, *_):
        self.process.stop()

    def read(self) -> None:
        try:
            for line in self.process.child.stdout:
                self.total, self.changed = int(line), time.monotonic()
                if self.total > 0:
                    self.first.set()
        except ValueError:
            pass  # Closed while we read: the run is over.
