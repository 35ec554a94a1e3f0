"""Sends our receiver reports, each at its own random time (RFC 3550 section 6.3)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import numpy as np

from siprec import clock
from siprec.media.arena import address_text
from siprec.media.streams import Stream, StreamTable

REPORT_SECONDS = 5.0
"""Mean time between two reports of a stream: the least that RFC 3550 section 6.2 recommends."""

MAX_PER_TICK = 512
"""Reports sent in one tick, some milliseconds of work: after a stall the rest wait for the next one."""


class Reporter:
    """Reports on every stream of `table` that has terms and a target. `chance` gives numbers from 0 to 1."""

    def __init__(
        self,
        table: StreamTable,
        *,
        seconds: float = REPORT_SECONDS,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._table = table
        self._seconds = seconds
        self._chance = chance or random.SystemRandom().random
        self._next = np.inf

    def begin(self, stream: Stream, now: float) -> None:
        """The first report of a stream comes after half the usual time (section 6.2)."""
        self._table.report_at[stream.index] = at = now + self._interval() / 2
        self._next = min(self._next, at)

    def send_due(self, now: float) -> None:
        """Send what is due. Where nothing may be sent yet, ask again as for a first report."""
        if now < self._next:
            return
        streams = self._table.streams
        due = np.flatnonzero(self._table.report_at[: len(streams)] <= now)
        for index in due[:MAX_PER_TICK].tolist():
            stream = streams[index]
            if stream is None or stream.exchange.terms is None:
                self._table.report_at[index] = np.inf
            else:
                interval = self._interval()
                self._table.report_at[index] = now + (interval if self._send(stream) else interval / 2)
        self._next = float(self._table.report_at[: len(streams)].min(initial=np.inf))

    def leave(self, stream: Stream) -> None:
        """Say BYE where reports went (section 6.3.7: who never sent anything says nothing)."""
        if stream.exchange.reports:
            self._send(stream, leaving=True)

    def _send(self, stream: Stream, *, leaving: bool = False) -> bool:
        exchange = stream.exchange
        target = exchange.target(stream.source)
        if target is None:
            return False
        row = self._table.reception[stream.index]
        datagram = exchange.compose(row, clock.wall_ns(), leaving=leaving)
        datagram = stream.secure.close(datagram)
        sock = stream.pair.rtp if exchange.mux else stream.pair.rtcp
        with contextlib.suppress(OSError):  # a report that cannot be sent is like one that was lost
            sock.sendto(datagram, (address_text(target[0], target[1]), target[2]))
            exchange.reports += 1
        return True

    def _interval(self) -> float:
        return self._seconds * (0.5 + self._chance())
