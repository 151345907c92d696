"""Medians, and the table between two comments of docs/benchmarks.md."""

import os
import platform
from pathlib import Path
from statistics import median

from .measure import WHOLE_AGAIN_S, Drained, Recovered
from .peer import Peer

BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"
MIB = 1024 * 1024
NONE = "–"


class Result:
    def __init__(self, peer: Peer):
        self.peer = peer
        self.drained: list[Drained] = []
        self.recovered: Recovered | None = None
        self.failures = 0

    def rate(self) -> float | None:
        return middle(one.rate() for one in self.drained)

    def per_million(self, which: str) -> float | None:
        return middle(None if getattr(one, which) is None else getattr(one, which) * 1e6 / one.messages for one in self.drained)


def middle(values) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def number(value: float | None, form: str = ".0f") -> str:
    return NONE if value is None else format(value, form).replace(",", " ")


def markdown(results: list[Result], about: dict[str, str], command: str) -> str:
    parts = [f"Made by `{command}`: {about['servers']}, {about['machine']}.", ""]
    for finished, title in (("deletes", "Finished rows are deleted"), ("keeps", "Finished rows are kept")):
        group = [result for result in results if result.peer.finished == finished]
        if group:
            parts += [f"**{title}**", "", *table(group), ""]
    parts += ["Versions and settings:", ""]
    told = set()
    for result in results:
        if result.peer.name not in told:
            told.add(result.peer.name)
            parts += settings(result.peer, about)
    return "\n".join(parts)


def table(group: list[Result]) -> list[str]:
    ours = next((result.rate() for result in group if result.peer.name == "redrive"), None)
    # The fastest first, ours above all.
    group = sorted(group, key=lambda result: (result.peer.name != "redrive", -(result.rate() or 0)))
    return [
        "| | rows | messages/s | redrive is | CPU s per 1M | database | broker | RSS MiB | copies, lost | after kill -9: whole again | copies, lost |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(row(result, ours) for result in group),
    ]


def row(result: Result, ours: float | None) -> str:
    rate, runs = result.rate(), result.drained
    faster = f"{ours / rate:.1f} ×" if ours and rate and result.peer.name != "redrive" else ""
    failed = f" ({result.failures} failed)" if result.failures else ""
    cells = [
        result.peer.title + failed,
        number(runs[0].messages if runs else None, ",d"),
        number(rate, ",.0f"),
        faster,
        *(number(result.per_million(which), ".1f") for which in ("cpu_s", "db_cpu_s", "broker_cpu_s")),
        number(middle(one.rss_bytes / MIB for one in runs)),
        f"{sum(one.copies for one in runs)}, {sum(one.lost for one in runs)}" if runs else NONE,
        *recovery(result.recovered),
    ]
    return f"| {' | '.join(cells)} |"


def recovery(recovered: Recovered | None) -> list[str]:
    if recovered is None:
        return [NONE, NONE]
    if recovered.seconds is None:
        return [f"stuck: {number(recovered.left, ',d')} rows after {WHOLE_AGAIN_S} s", f"{recovered.copies}, {recovered.lost}"]
    return [f"{recovered.seconds:.1f} s", f"{recovered.copies}, {recovered.lost}"]


def settings(peer: Peer, about: dict[str, str]) -> list[str]:
    version = about["redrive"] if peer.name == "redrive" else peer.version()
    title = peer.title.split(",")[0]
    return [f"- **{title}** ({version}): {peer.about}", *(f"  - {what}: {why}" for what, why in peer.settings)]


def machine() -> str:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{os.cpu_count()} cores, {gib:.0f} GiB, {platform.system()} {platform.machine()}, everything on one machine"


def write(text: str, file: Path) -> None:
    page = file.read_text() if file.exists() else ""
    if BEGIN not in page or END not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    file.write_text(f"{before}{BEGIN}\n{text.rstrip()}\n{END}{after}")
