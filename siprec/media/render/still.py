"""Timestamps that stand still while packets go on: some senders forget to count.

An audio packet whose timestamp is that of the packet before it would be laid over it, and nothing but the last would be
heard. When such packets also arrive at the pace of their length, each is laid behind the one before it. Packets that
come at once stay where they say they lie. Telephone events (RFC 4733) share a timestamp rightly and are never moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siprec.media.render.decode import Buffers, ticks
from siprec.media.render.source import Records, distinct
from siprec.rtp.codecs import Codec

PACE = 0.5
"""Of their length, in which packets have to come to be one after the other: jitter and bursts of a few keep to it over
a while, a sender that says each packet twice does not."""

MAX_MISSING = 50
"""Packets that may be missing where a timestamp stands still; after more than a second it may as well be a hold."""


class Still:
    """One line's timestamps. Packets come in order of sequence, with timestamps unwrapped."""

    def __init__(self) -> None:
        self._last: tuple[int, int, int] | None = None  # sequence, timestamp and ticks (0: no audio) of the last packet
        self._since = 0  # arrival of the packet at which the timestamp stopped
        self._run = 0  # ticks from that packet on, each laid behind the other
        self._laid = 0  # those of them by which the latest packet is moved
        self._behind = 0  # what the sender's clock has lost for good

    @property
    def shift(self) -> int:
        """Ticks by which the latest packets are moved."""
        return self._behind + self._laid

    def steady(self, records: Records, codecs: Sequence[Codec], buffers: Buffers) -> None:
        """Moves those of `records` that stood still, and what comes after where the sender's clock has lost time."""
        fresh = self._last is None or int(records["sequence"][0]) > self._last[0]
        before = self._last if self._last is not None and fresh else (int(records["sequence"][0]) - 1, -1, 0)
        media = records["media"]
        if int(media[0]) == before[1] or (media[1:] == media[:-1]).any() or self._run or not fresh:
            self._follow(records, _ticks(records, codecs, buffers), codecs)
            return
        last = records[-1:]
        self._last = (int(last["sequence"][0]), int(media[-1]), int(_ticks(last, codecs, buffers)[0]))
        self._since = int(last["arrival"][0])
        if self._behind:
            records["media"] += self._behind

    def _follow(self, records: Records, lasts: NDArray[np.int64], codecs: Sequence[Codec]) -> None:
        clocks = [codecs[number].clock_rate for number in records["codec"].tolist()]
        rows = zip(records["sequence"].tolist(), records["media"].tolist(), records["arrival"].tolist(),
                   lasts.tolist(), clocks, strict=True)  # fmt: skip
        moved = [self._shift(*row) for row in rows]
        records["media"] += np.array(moved, np.int64)

    def _shift(self, sequence: int, media: int, arrival: int, length: int, clock: int) -> int:
        if self._last is None:
            self._last, self._since = (sequence, media, length), arrival
            return 0
        before, stood, usual = self._last
        if sequence <= before:  # what comes too late tells nothing
            return self.shift
        steps = sequence - before
        if media == stood and length and usual and steps <= MAX_MISSING:
            self._run += usual * steps
            if (arrival - self._since) * clock >= PACE * self._run * 1e9:
                self._laid = self._run
        else:
            step = media - stood
            if abs(step - usual * steps) < abs(step - usual * steps - self._laid):
                self._behind += self._laid  # it goes on from where it stood, and not from where it would be
            self._run = self._laid = 0
            self._since = arrival
        self._last = (sequence, media, length)
        return self.shift


def _ticks(records: Records, codecs: Sequence[Codec], buffers: Buffers) -> NDArray[np.int64]:
    """How long each packet's audio lasts by its RTP clock; 0 for what is no audio."""
    numbers = distinct(records["codec"])
    if len(numbers) == 1:
        return ticks(records, buffers, codecs[numbers[0]])
    result = np.zeros(records.size, np.int64)
    for number in numbers:
        mine = records["codec"] == number
        result[mine] = ticks(records.compress(mine), buffers, codecs[number])
    return result
