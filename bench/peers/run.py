"""scripts/bench-peers: redrive and its peers in turns, on the same database and the same broker."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from harness import logical, measure, report
from harness.database import Failed, Server
from harness.peer import BUILD, PEERS, REPOSITORY, Peer, load
from harness.process import listener
from harness.say import say
from harness.topic import PARTITIONS

POSTGRES, KAFKA = "REDRIVE_TEST_POSTGRES_URL", "REDRIVE_TEST_KAFKA"


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    peers = load(options.only)
    try:
        version = install(peers)
        if options.install_only:
            return
        with ExitStack() as stack:
            shared = find_servers()
            second = second_server(peers, shared, stack)
            results = compare(peers, options, shared, second)
            about = {"servers": servers(shared, second), "machine": report.machine(), "redrive": version}
    except Failed as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("stopped; what was made is removed") from None
    text = report.markdown(results, about, command(options))
    report.write(text, options.out)
    print(text)
    say(f"written to {options.out}")
    if any(result.failures or not result.drained for result in results):
        raise SystemExit("some runs failed: see above")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench-peers", description=__doc__)
    parser.add_argument("--messages", type=int, default=600_000, help="backlog of each run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="turns; the table shows medians (default: %(default)s)")
    parser.add_argument("--only", type=lambda names: names.split(","), default=[], metavar="NAME,…", help="folders of bench/peers")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/benchmarks.md", help="Markdown file (default: docs/benchmarks.md)")
    parser.add_argument("--no-kill", action="store_true", help="leave the second part out: kill -9 at half way")
    parser.add_argument("--install-only", action="store_true", help="install and build what is missing, measure nothing")
    options = parser.parse_args()
    if options.messages < 1000 or options.runs < 1:
        parser.error("at least 1000 messages and one run")
    return options


def command(options: argparse.Namespace) -> str:
    words = ["./scripts/bench-peers", "--messages", str(options.messages), "--runs", str(options.runs)]
    words += ["--only", ",".join(options.only)] if options.only else []
    words += ["--no-kill"] if options.no_kill else []
    return shlex.join(words)


def install(peers: list[Peer]) -> str:
    """Builds what is missing; the tools decide what that is. Returns the version of redrive."""
    BUILD.mkdir(exist_ok=True)
    done = set()
    for words in [["go", "build", "-o", str(BUILD / "consume"), "./consume"], *(command for peer in peers for command in peer.install)]:
        words = tuple(word.format(build=BUILD, peers=PEERS) for word in words)
        if words not in done:
            done.add(words)
            say("installing: " + " ".join(Path(word).name if word.startswith("/") else word for word in words))
            if subprocess.run(words, cwd=PEERS, stdout=sys.stderr).returncode:
                raise Failed("cannot install: " + shlex.join(words))
    return redrive() if any(peer.name == "redrive" for peer in peers) else ""


def redrive() -> str:
    binary = Path(os.environ.setdefault("REDRIVE_BIN", str(REPOSITORY / "target/release/redrive"))).resolve()
    if not binary.exists():
        say("building redrive")
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=REPOSITORY, check=True)
    os.environ["REDRIVE_BIN"] = str(binary)
    return subprocess.run([binary, "--version"], text=True, capture_output=True, check=True).stdout.split()[-1]


def second_server(peers: list[Peer], shared: measure.Servers, stack: ExitStack) -> measure.Servers:
    """For those that read the database's log; the shared one if it can be read."""
    if shared.postgres.logical() or not any(peer.logical for peer in peers):
        return shared
    return measure.Servers(stack.enter_context(logical.server(shared.postgres)), shared.brokers, shared.broker_pid)


def compare(peers: list[Peer], options: argparse.Namespace, shared: measure.Servers, second: measure.Servers) -> list[report.Result]:
    results = [report.Result(peer) for peer in peers]
    parts = [(f"run {run + 1} of {options.runs}", measure.drain) for run in range(options.runs)]
    parts += [] if options.no_kill else [("kill -9 at half way", measure.kill)]
    for part, (title, what) in enumerate(parts):
        for index, result in enumerate(results):
            peer = result.peer
            name = f"redrive_peers_{os.getpid()}_{part}_{index}"
            outcome = measure.attempt(f"{title}: {peer.title}", what, peer, second if peer.logical else shared, options.messages, name)
            record(result, outcome)
    return results


def record(result: report.Result, outcome) -> None:
    if outcome is None:
        result.failures += 1
    elif isinstance(outcome, measure.Drained):
        result.drained.append(outcome)
        own = report.number(None if outcome.cpu_s is None else outcome.cpu_s * 1e6 / outcome.messages, ".1f")
        say(f"    {outcome.rate():,.0f}/s in {outcome.seconds:.1f} s, {own} CPU s per 1M, {outcome.rss_bytes // report.MIB} MiB, "
            f"{outcome.copies} copies, {outcome.lost} lost")
    else:
        result.recovered = outcome
        when, _ = report.recovery(outcome)
        say(f"    {when}, {outcome.copies} copies, {outcome.lost} lost")


def find_servers() -> measure.Servers:
    missing = [name for name in (POSTGRES, KAFKA) if name not in os.environ]
    if missing:
        raise Failed(f"{' and '.join(missing)} not set; scripts/services up postgres kafka && eval \"$(scripts/services env)\"")
    brokers = os.environ[KAFKA]
    return measure.Servers(Server(os.environ[POSTGRES]), brokers, listener(int(brokers.split(",")[0].rpartition(":")[2])))


def servers(shared: measure.Servers, second: measure.Servers) -> str:
    text = f"PostgreSQL {shared.postgres.version()} and Kafka, topics of {PARTITIONS} partitions, payloads of 512 bytes"
    return text if second is shared else f"{text}; {logical.NOTE}"


if __name__ == "__main__":
    main()
