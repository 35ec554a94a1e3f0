"""Packets in order: sequence numbers and timestamps unwrapped, duplicates dropped, losses counted.

What was received out of order is put right by waiting: a stretch is passed on only up to where nothing earlier
can still come. Two recorders of one call, or two parts of it, are one case: the same SSRC and the same extended
sequence number is the same packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from siprec.media.render.source import FOREVER, RECORD, Records, SenderReport, Source, Stretch, distinct, joined
from siprec.media.render.still import Still
from siprec.rtp.sequence import MAX_DROPOUT, unwrap16, unwrap32

REORDER_NS = 2_000_000_000
"""A packet may arrive this long after its successors and still be put in order; later ones are placed, too, but
a decoder with memory has gone on without them."""

MAX_MISORDER = 1000
"""A step back of more than this is a sender that started anew (RFC 3550 appendix A.1 says 100, for networks; the
clocks of two recorders may differ by a second)."""

FAR_BACK = 100
"""With a timestamp that goes on, a step back of more than this is a new start (MAX_MISORDER of appendix A.1)."""

RESTART = 1 << 20
"""Added to extended sequence numbers at a new start, so that they stay unique: no 16-bit step reaches so far."""

RESTART_TICKS = 8000
"""With a timestamp that much higher, any step back is a new start; up to there it may be an event packet, whose
timestamp is that of its beginning."""

RECENT = 4096
"""Numbers remembered to know a duplicate that comes after its stretch was passed on."""

LOWEST = -(2**62)
"""Below any extended sequence number; those may be negative, when the first packet to arrive was not the first."""

MAX_LINES = 1000
"""SSRCs of one channel, each with tables of its own: what comes from further ones stays in the capture, and the report
says so."""


@dataclass(slots=True)
class Line:
    """One SSRC on one channel and the account of its packets."""

    channel: int
    ssrc: int
    packets: int = 0
    lost: int = 0
    duplicate: int = 0
    reordered: int = 0
    held: Records = field(default_factory=lambda: np.empty(0, RECORD))
    last_arrived: tuple[int, int] | None = None  # extended sequence number and timestamp of the last to arrive
    highest: int = LOWEST
    tops: dict[int, int] = field(default_factory=dict)  # highest sequence number by part
    released_top: int | None = None
    last_media: int | None = None
    recent: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    still: Still = field(default_factory=Still)
    repeated: int = 0
    """Packets dropped as duplicates by their sequence numbers, whose timestamps say that they were none."""

    def take(self, table: Records, until_ns: int) -> Records:
        """Adds packets in order of arrival; returns those that are now in order, without duplicates."""
        if table.size:
            self._mark_late(table, rising=self._unwrap(table))
            table = joined([self.held, table]) if self.held.size else table
        else:
            table = self.held
        table = self._distinct(table)
        count = table.size
        if until_ns < FOREVER:
            done = np.flatnonzero(table["arrival"] < until_ns - REORDER_NS)
            count = int(done[-1]) + 1 if done.size else 0
        self.held = joined([table[count:]])
        return self._release(table[:count])

    def _unwrap(self, table: Records) -> bool:
        """Makes numbers that do not wrap; whether each is above all before it."""
        raw = table["sequence"].astype(np.uint16)
        last = self.last_arrived[0] if self.last_arrived else None
        extended = unwrap16(raw, last=last)
        ticks = table["media"].astype(np.uint32)
        rising = int(extended[0]) > self.highest and bool((extended[1:] > extended[:-1]).all())
        if not rising:
            steps = np.diff(extended, prepend=extended[0] if last is None else last)
            before = np.uint32(ticks[0] if self.last_arrived is None else self.last_arrived[1])
            ahead = np.diff(ticks, prepend=before).view(np.int32)
            anew = (
                (steps < -MAX_MISORDER) | ((steps < -FAR_BACK) & (ahead > 0)) | ((steps < 0) & (ahead > RESTART_TICKS))
                # a number that stands still while the timestamp goes on: no duplicate of what was just there
                | ((steps == 0) & (ahead > 0))
            )  # fmt: skip
            if anew.any():
                self._restart(extended, np.flatnonzero(anew).tolist())
        table["sequence"] = extended
        self.highest = max(self.highest, int(extended.max()))
        self.last_arrived = (int(extended[-1]), int(ticks[-1]))
        return rising

    def _restart(self, extended: NDArray[np.int64], starts: list[int]) -> None:
        """Moves what comes from each of `starts` on above all that came before."""
        top, done = self.highest, 0
        for start, end in zip(starts, [*starts[1:], extended.size], strict=True):
            if start > done:
                top = max(top, int(extended[done:start].max()))
            extended[start:end] += top + RESTART - int(extended[start])
            top, done = max(top, int(extended[start:end].max())), end

    def _mark_late(self, table: Records, *, rising: bool) -> None:
        """Marks what comes after a later one, seen by the recorder that took it."""
        parts = distinct(table["part"])
        if rising and len(parts) == 1:
            self.tops[parts[0]] = int(table["sequence"][-1])
            return
        for part in parts:
            mine = table["part"] == part if len(parts) > 1 else slice(None)
            sequence = table["sequence"][mine]
            top = np.maximum.accumulate(sequence)
            top = np.maximum(top, self.tops.get(part, LOWEST))
            table["late"][mine] = sequence < top
            self.tops[part] = int(top[-1])

    def _distinct(self, table: Records) -> Records:
        sequence = table["sequence"]
        if (sequence[1:] > sequence[:-1]).all():
            return table
        table = table.take(np.argsort(sequence, kind="stable"))
        again = np.diff(table["sequence"], prepend=table["sequence"][0] - 1) == 0
        if not again.any():
            return table
        self.repeated += int(np.count_nonzero(again & (np.diff(table["media"], prepend=table["media"][0]) != 0)))
        copies = np.sort(table["sequence"] * (1 << 16) + table["part"])
        self.duplicate += int(np.count_nonzero(np.diff(copies) == 0))
        return table.compress(~again)

    def _release(self, table: Records) -> Records:
        if self.released_top is not None and table.size and table["sequence"][0] <= self.released_top:
            table = self._without_known(table, self.released_top)
        if not table.size:
            return table
        sequence = table["sequence"]
        top = int(sequence[0]) - 1 if self.released_top is None else self.released_top
        if int(sequence[-1]) - top != sequence.size or int(sequence[0]) <= top:  # else each number is there
            steps = np.diff(sequence[sequence > top], prepend=top)
            self.lost += int((steps[(steps > 1) & (steps <= MAX_DROPOUT)] - 1).sum())
        self.packets += table.size
        self.reordered += int(np.count_nonzero(table["late"]))
        self.released_top = max(int(sequence[-1]), top)
        self.recent = np.concatenate([self.recent, sequence[-RECENT:]])[-RECENT:]
        media = unwrap32(table["media"].astype(np.uint32), last=self.last_media)
        table["media"] = media
        self.last_media = int(media[-1])
        return table

    def _without_known(self, table: Records, top: int) -> Records:
        """Drops what was passed on before; what was thought lost and comes after all is lost no more."""
        behind = table["sequence"] <= top
        known = behind & np.isin(table["sequence"], self.recent)
        self.duplicate += int(np.count_nonzero(known))
        if self.last_media is not None:
            ahead = (table["media"] - self.last_media).astype(np.uint32).view(np.int32)
            self.repeated += int(np.count_nonzero(known & (ahead > 0)))
        found = np.count_nonzero(behind & ~known)
        self.lost = max(self.lost - int(found), 0)  # those from before the first packet were never thought lost
        return table.compress(~known)


class Order:
    """Sorts a source's stretches by line."""

    def __init__(self) -> None:
        self.lines: dict[tuple[int, int], Line] = {}
        self.beyond = 0
        """Packets of SSRCs beyond MAX_LINES, which are dropped."""
        self._count: dict[int, int] = {}

    def lines_of(self, channel: int) -> list[Line]:
        """The lines of a channel in the order they appeared."""
        return [line for line in self.lines.values() if line.channel == channel]

    def sort(self, stretch: Stretch) -> list[tuple[Line, Records]]:
        """What is in order now, by line."""
        arrived: dict[tuple[int, int], Records] = {}
        for channel, table in stretch.channels.items():
            ssrcs = distinct(table["ssrc"])
            if len(ssrcs) > 1:  # in the order they appeared
                _, first = np.unique(table["ssrc"], return_index=True)
                ssrcs = table["ssrc"][np.sort(first)].tolist()
            for ssrc in ssrcs:
                packets = table[table["ssrc"] == ssrc] if len(ssrcs) > 1 else table
                if (line := self._line(channel, ssrc)) is not None:
                    arrived[(line.channel, line.ssrc)] = packets
                else:
                    self.beyond += packets.size
        result = []
        for place, line in self.lines.items():
            if place in arrived or line.held.size:
                table = line.take(arrived.get(place, line.held[:0]), stretch.until_ns)
                if table.size:
                    result.append((line, table))
        return result

    def _line(self, channel: int, ssrc: int) -> Line | None:
        line = self.lines.get((channel, ssrc))
        if line is None and self._count.get(channel, 0) < MAX_LINES:
            line = self.lines[(channel, ssrc)] = Line(channel, ssrc)
            self._count[channel] = self._count.get(channel, 0) + 1
        return line


@dataclass(frozen=True, slots=True)
class Ordered:
    """What is in order up to about `until_ns`, by line, with the bytes that its records point into."""

    until_ns: int
    lines: list[tuple[Line, Records]]
    reports: list[SenderReport]
    buffers: dict[int, NDArray[np.uint8]]


def ordered(source: Source, order: Order) -> Iterator[Ordered]:
    """All packets of `source` once, in order; `order` (a new one) holds the accounts when it is exhausted."""
    buffers: dict[int, NDArray[np.uint8]] = {}
    for stretch in source.stretches():
        buffers |= stretch.buffers
        lines = order.sort(stretch)
        for line, table in lines:
            line.still.steady(table, source.codecs, buffers)
        yield Ordered(stretch.until_ns, lines, stretch.reports, buffers)
        used = {number for line in order.lines.values() for number in distinct(line.held["buffer"])}
        buffers = {number: data for number, data in buffers.items() if number in used}
