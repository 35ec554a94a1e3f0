"""What a failure cost: one row of the table, and how lost packets are told from the captures.

Every packet of a counted call carries its own number (`CallOptions(counter=True)`), so what is not in the capture of
any part was lost, whoever may claim what. A packet stands for 20 ms of audio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from siprec.archive.folder import RecordingFolder
from siprec.client.media import RtpStream
from siprec.client.tracks import FRAME_SECONDS
from tests.support.counting import captured

PACKET_MS = FRAME_SECONDS * 1000

BEFORE = 100
"""Packets (2 s) before a mark that still count as lost by the failure: what was read and not yet written."""


@dataclass(slots=True)
class Row:
    """One failure. `packets_lost` and `milliseconds` (the longest gap): an entry for each stream and occurrence."""

    failure: str
    bar: str
    sessions: int = 0
    streams: int = 0
    packets_lost: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)

    @property
    def ok(self) -> bool:
        return not self.problems

    def add(self, losses: Iterable[Loss]) -> None:
        """Count what streams lost."""
        for loss in losses:
            self.packets_lost.append(loss.packets)
            self.milliseconds.append(loss.longest * PACKET_MS)

    def line(self) -> dict[str, Any]:
        """The row as it is printed."""
        lost, times = self.packets_lost or [0], self.milliseconds or [0.0]
        return {
            "failure": self.failure,
            "sessions": self.sessions,
            "streams": self.streams,
            "packets_lost_median": median(lost),
            "packets_lost_max": max(lost),
            "milliseconds_median": round(median(times)),
            "milliseconds_max": round(max(times)),
            "bar": self.bar,
            "ok": self.ok,
            **self.details,
            "problems": self.problems,
        }


@dataclass(frozen=True, slots=True)
class Loss:
    """What one stream lost by one failure: packets in all, and the longest row of them."""

    packets: int
    longest: int


Marks = dict[int, int]
"""By SSRC, the number of the next packet at the moment of a failure."""


def mark(streams: Iterable[RtpStream]) -> Marks:
    """How far each stream is now."""
    return {stream.ssrc: stream.numbered for stream in streams}


def losses(found: Counter[int], stream: RtpStream, marks: Sequence[Marks]) -> list[Loss]:
    """What `stream` lost by each of the failures at `marks`. `found` is how often each number was written."""
    edges = [max(0, each[stream.ssrc] - BEFORE) for each in marks[1:]]
    bounds = [0, *edges, stream.numbered]
    return [_loss([number for number in range(*each) if not found[number]]) for each in pairwise(bounds)]


def _loss(missing: list[int]) -> Loss:
    longest = run = 0
    before = -2
    for number in missing:
        run = run + 1 if number == before + 1 else 1
        longest, before = max(longest, run), number
    return Loss(len(missing), longest)


def count(row: Row, folders: Iterable[RecordingFolder], streams: Sequence[RtpStream], marks: Sequence[Marks]) -> None:
    """Count into `row` what all `streams` lost, whichever of `folders` holds them."""
    found: dict[int, Counter[int]] = {}
    for folder in folders:
        for ssrc, numbers in captured(folder).items():
            found.setdefault(ssrc, Counter()).update(numbers)
    row.streams = len(streams)
    doubled = 0
    for stream in streams:
        numbers = found.get(stream.ssrc, Counter())
        row.add(losses(numbers, stream, marks))
        doubled += sum(times - 1 for times in numbers.values())
    row.details |= {"packets_sent": sum(stream.numbered for stream in streams), "packets_twice": doubled}
    row.details["streams_with_loss"] = f"{sum(each > 0 for each in row.packets_lost)} of {len(row.packets_lost)}"


def table(rows: Iterable[Row]) -> str:
    """The failure table, as Markdown."""
    lines = [
        "| failure | streams | packets lost: median, worst | longest gap: median, worst | bar | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        it = row.line()
        lost = f"{it['packets_lost_median']:g}, {it['packets_lost_max']}"
        gap = f"{it['milliseconds_median']} ms, {it['milliseconds_max']} ms"
        lines.append(f"| {row.failure} | {row.streams} | {lost} | {gap} | {row.bar} | {'ok' if row.ok else 'FAILED'} |")
    return "\n".join(lines)
