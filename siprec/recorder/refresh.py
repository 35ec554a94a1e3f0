"""The session timer of one call (RFC 4028): when to refresh, when to give the session up.

The rules are in `sip.session_timer`; here a timer of the event loop wakes the call when one of its two times comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from siprec import clock
from siprec.sip.session_timer import SessionTimer

GLARE_SECONDS = 3.0
"""Before a refresh that met the peer's own request (491) is tried again (RFC 3261 section 14.1: 2.1 to 4 s)."""


@dataclass(frozen=True, slots=True)
class TimerDue:
    """The session timer wants something done."""

    what: Literal["refresh", "expired"]


class Refresh:
    """`wake` hands the call its `TimerDue`."""

    __slots__ = ("_handle", "_wake", "timer")

    def __init__(self, wake: Callable[[TimerDue], None]) -> None:
        self._wake = wake
        self._handle: asyncio.TimerHandle | None = None
        self.timer: SessionTimer | None = None

    def start(self, timer: SessionTimer | None) -> None:
        """Follow the timer of the newest 2xx; None ends session expiration."""
        self.stop()
        self.timer = timer
        if timer is None:
            return
        if timer.refresh_at is not None:
            self._arm(timer.refresh_at, "refresh")
        else:
            self._arm(timer.bye_at, "expired")

    def sent(self) -> None:
        """A refresh is on its way: should it come to nothing, the session expires."""
        if self.timer is not None:
            self._arm(self.timer.bye_at, "expired")

    def again(self) -> None:
        """The refresh met a request of the peer: try again soon."""
        self._arm(clock.monotonic() + GLARE_SECONDS, "refresh")

    def stop(self) -> None:
        """No more wake-ups."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.timer = None

    def _arm(self, at: float, what: Literal["refresh", "expired"]) -> None:
        if self._handle is not None:
            self._handle.cancel()
        delay = max(0.0, at - clock.monotonic())
        self._handle = asyncio.get_running_loop().call_later(delay, self._wake, TimerDue(what))
