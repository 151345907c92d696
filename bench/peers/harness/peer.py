"""A peer as its peer.toml describes it: what to install, how to fill its tables, what to run, when it is done."""

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent
REPOSITORY = PEERS.parent.parent
BUILD = PEERS / ".build"


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    about: str
    # deletes or keeps: what becomes of a row that was sent.
    finished: str
    # FROM and WHERE of the rows that are still to be done; in a form that an index answers, since it is asked often.
    # Empty: the peer marks nothing in the database, and is done when the topic is full.
    unfinished: str
    run: list[str]
    fill: Path
    install: list[list[str]] = field(default_factory=list)
    prepare: list[list[str]] = field(default_factory=list)
    settings: list[list[str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    # The most messages that it is given: for those that would take all night.
    most: int | None = None
    # Whether it reads the log of the database, which the server must be set up for.
    logical: bool = False

    @property
    def home(self) -> Path:
        return self.fill.parent

    def messages(self, wanted: int) -> int:
        return min(wanted, self.most or wanted)

    def version(self) -> str:
        return ", ".join(f"{name} {version_of(where)}" for name, where in self.versions.items())


def load(names: list[str]) -> list[Peer]:
    """The peers of these folders, or all; ours comes first, so that each turn has something to be compared with."""
    known = sorted((path.parent.name for path in PEERS.glob("*/peer.toml")), key=lambda name: (name != "redrive", name))
    for name in names:
        if name not in known:
            raise SystemExit(f"no such peer: {name}; there are {', '.join(known)}")
    return [peer for name in known if not names or name in names for peer in variants(name)]


def variants(name: str) -> list[Peer]:
    folder = PEERS / name
    told = tomllib.loads((folder / "peer.toml").read_text())
    each = told.pop("variants", [{}])
    return [Peer(name=name, fill=folder / "fill.sql", **{**told, **variant}) for variant in each]


def version_of(where: str) -> str:
    """What the lock file or the manifest says: `go:module`, `npm:package`, `cargo:folder:crate`, or the version itself."""
    kind, _, what = where.partition(":")
    if kind == "go":
        return found(rf"^\s*{re.escape(what)} v(\S+)", PEERS / "go.mod")
    if kind == "npm":
        return json.loads((PEERS / "package-lock.json").read_text())["packages"][f"node_modules/{what}"]["version"]
    if kind == "cargo":
        folder, _, crate = what.partition(":")
        return found(rf'^name = "{re.escape(crate)}"\nversion = "([^"]+)"', PEERS / folder / "Cargo.lock")
    return where


def found(pattern: str, file: Path) -> str:
    match = re.search(pattern, file.read_text(), re.MULTILINE)
    return match.group(1) if match else "?"
