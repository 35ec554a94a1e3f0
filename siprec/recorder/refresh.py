"""The session timer of one call (RFC 4028): when to refresh, when to give the session up.

The rules are in `sip.session_timer`; here a timer of the event loop wakes the call when one of its two times comes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from siprec import clock
from siprec.sip import session_timer
from siprec.sip.message import Response
from siprec.sip.session_timer import SessionTimer

GLARE_SECONDS = 2.0
"""At most, before a refresh that met the peer's own request (491) is tried again: some time from 0 on, for the SRC,
which owns the Call-ID, waits longer (RFC 3261 section 14.1)."""

RETRY_SECONDS = 5.0
"""Before a refresh is tried again that was refused for a while, where no Retry-After tells."""

RETRY_DIGITS = 4
"""Of a Retry-After that is believed: longer ones are beyond any session timer."""


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

    def refused(self, response: Response) -> None:
        """The refresh came to nothing: try again as the SRC says, if the session has not expired by then."""
        wanted = session_timer.minimum_of(response) if response.status == 422 else None
        if self.timer is not None and wanted is not None and wanted > self.timer.interval:
            self.timer = replace(self.timer, interval=wanted)  # RFC 4028 section 7.3; it runs from the last 2xx
            self.again(0.0)
        elif response.status == 491:
            self.again(random.uniform(0.0, GLARE_SECONDS))  # noqa: S311  to be apart from the SRC, not to be secret
        else:
            told = (response.headers.get("Retry-After") or "").partition(";")[0].partition("(")[0].strip()
            usable = told.isascii() and told.isdigit() and len(told) <= RETRY_DIGITS
            self.again(float(told) if usable else RETRY_SECONDS)

    def again(self, after: float = RETRY_SECONDS) -> None:
        """Try again after so many seconds; a session that has expired by then ends in its time."""
        if self.timer is not None:
            at = clock.monotonic() + after
            soon = at < self.timer.bye_at
            self._arm(at if soon else self.timer.bye_at, "refresh" if soon else "expired")

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
