"""One place in the crew: the media worker that holds it, and how it is started, watched and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import astuple

from siprec import clock
from siprec.media import rooms
from siprec.media.capture import Totals
from siprec.media.workers.board import Board
from siprec.media.workers.link import Link
from siprec.media.workers.wire import Orders

FREE_STARTS = 3
"""Ends within STEADY_SECONDS that are answered at once; only what never gets to work is made to wait."""

FIRST_DELAY, LAST_DELAY = 0.25, 5.0
"""Seconds before the next start then; doubled each time."""

STEADY_SECONDS = 1.0
"""Who worked that long was fit to."""

SILENT_SECONDS = 4.0
"""A worker tells something each tick. One that has not for so long is stuck: a default buffer holds 5 s of a call."""

START_SECONDS = 30.0
"""For the interpreter and its imports, which take 0.3 s on an idle machine."""

REAP_SECONDS = 0.2
"""A killed process is gone by then, unless it hangs in the kernel: then it is looked after later."""


class Process:
    """`ready`: it has said that it listens. `sessions`: how many it has. `totals` is what it told last; `totals_before`
    what those before it did. `board` is where all of them show their rows."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._process: subprocess.Popen[bytes] | None = None
        self._lingering: list[subprocess.Popen[bytes]] = []
        self._failures = 0
        self._ready_at = 0.0
        self.link: Link | None = None
        self._memory = Board.create()
        self._rooms: int | None = None  # of the one that lives: another begins with empty ones
        self.board = Board(self._memory)
        self.ready = False
        self.told_to_stop = False
        self.start_at = 0.0
        self.heard_at = 0.0
        self.heard_ns = 0
        self.sessions = 0
        self.totals = Totals()
        self.totals_before = Totals()

    @property
    def pid(self) -> int:
        """0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Raises OSError when the system gives no process."""
        self._rooms = rooms.create_memory()
        ours, theirs = socket.socketpair()
        with theirs:
            shared = [theirs.fileno(), self._memory, self._rooms]
            numbers = (*shared, os.getpid(), *astuple(self._orders))
            command = [sys.executable, "-P", "-m", "siprec.media.workers.worker", *map(str, numbers)]
            try:
                self._process = subprocess.Popen(  # noqa: S603  no text of anybody else
                    command, stdin=subprocess.DEVNULL, pass_fds=shared
                )
            except OSError:
                ours.close()
                raise
        self.link = Link(ours)
        self.heard()

    def heard(self) -> None:
        self.heard_at, self.heard_ns = clock.monotonic(), clock.wall_ns()

    def begins(self) -> None:
        """It has said hello."""
        self.ready, self._ready_at = True, clock.monotonic()

    @property
    def overdue(self) -> bool:
        patience = SILENT_SECONDS if self.ready else START_SECONDS
        return self.link is not None and clock.monotonic() - self.heard_at > patience

    def close(self) -> None:
        """No other is to be started."""
        os.close(self._memory)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def end(self) -> str:
        """Take up what is left of it and say why it ended; the next may start at `start_at`."""
        cause = "not started"
        if self._process is not None:
            cause = self._reap(self._process)
        if self._rooms is not None:
            rooms.redo(self._rooms)
            os.close(self._rooms)
            self._rooms = None
        if self.link is not None:
            self.link.close()
        steady = self.ready and clock.monotonic() - self._ready_at >= STEADY_SECONDS
        self._failures = 0 if steady else self._failures + 1
        self.start_at = clock.monotonic() + self._delay()
        self._process, self.link, self.ready = None, None, False
        self.told_to_stop = False
        self.totals_before = summed(self.totals_before, self.totals)
        self.totals = Totals()
        return cause

    def _reap(self, process: subprocess.Popen[bytes]) -> str:
        """An end of the link that is not the process's own end is made to be."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(REAP_SECONDS)
        if process.returncode is None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(REAP_SECONDS)
        if process.returncode is None:
            self._lingering.append(process)
            return "killed"
        code = process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _delay(self) -> float:
        steps = self._failures - FREE_STARTS
        return 0.0 if steps < 0 else min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(steps, 10))

    def look_after(self) -> None:
        """Those that hung in the kernel when they were killed."""
        self._lingering = [each for each in self._lingering if each.poll() is None]


def summed(one: Totals, other: Totals) -> Totals:
    """Of two workers one after the other: streams, backlog and trouble are those of the living."""
    return Totals(
        packets=one.packets + other.packets,
        written=one.written + other.written,
        kernel_drops=one.kernel_drops + other.kernel_drops,
        write_errors=one.write_errors + other.write_errors,
        receive_errors=one.receive_errors + other.receive_errors,
        late_ticks=one.late_ticks + other.late_ticks,
    )
