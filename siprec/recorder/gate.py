"""Who is let in, and how many: asked before a request costs any memory, and before its body is looked at.

Overload is told by lateness. Whatever is too slow, the processor or another program on it, everything waits for the
event loop in the end: if that has been late for a while without a break, new calls would only make all of them wait
longer, those let in already too. Then they get 503 with Retry-After, cheaply, until the loop is in time again. It is
looked at from an INVITE on and until it is in time: an idle server need not wake for that. Requests in a dialog, and
INVITEs that carry a session on, are always served. A disk that stands still makes nothing late but the calls that wait
for it: those being set up are counted too.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from siprec import clock
from siprec.log import Logger
from siprec.session.admission import SOURCES_LIMIT, RateLimiter, RecordingSource, identify, identity_of
from siprec.sip.flow import Flow
from siprec.sip.message import Request

RETRY_AFTER = 5
"""Seconds after which a refused SRC may come again: long enough to end a few calls, short enough to be useful."""

BEAT_SECONDS = 0.02
"""After an INVITE, and as long as it is late, the loop's lateness is looked at this often."""

LATE_SECONDS = 0.05
"""A loop so late answers an INVITE, which takes it several turns, after a quarter of a second."""

PATIENCE_SECONDS = 2.0
"""Late without a break for so long is overload. Less is a burst, 200 calls at once say, or a hiccup of the machine: an
SRC that has its 100 Trying waits that long, and a call that is refused is not recorded."""

SETUPS_LIMIT = 1000
"""INVITEs let in and not answered yet: two seconds' worth at 500 a second. Only a disk that stands still, or a burst
that would take longer than that, leaves more of them waiting."""

TELL_SECONDS = 60.0
"""A source that is not listed is logged this often."""

TELL_REFUSED_SECONDS = 1.0
"""Refusals for one reason are logged this often: an overload must not be made worse by its log."""

TOLD_LIMIT = 1000
"""Unlisted sources remembered for that; a flood from more only costs log lines."""

DISK_CHECK_SECONDS = 1.0
"""How old our idea of the free disk space may be: new calls at full rate cannot fill 1 GiB in this time."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is let in; plain values, see siprec.config."""

    sources: Sequence[RecordingSource]
    max_sessions: int
    rate: float
    disk_reserve: int
    plain_calls: bool
    accept_unknown_replaces: bool = True


class Lateness:
    """Whether something that was expected time and again has been late for too long. Times in seconds."""

    def __init__(self) -> None:
        self._due = 0.0
        self._late_since: float | None = None

    def expect(self, now: float) -> float:
        """It is to happen; returns when it is due."""
        self._due = now + BEAT_SECONDS
        return self._due

    def beat(self, now: float) -> bool:
        """It happens; returns whether it is late."""
        late = now - self._due >= LATE_SECONDS
        if not late:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        return late

    def too_long(self, now: float) -> bool:
        """Whether it has always come late for `PATIENCE_SECONDS`. Once is not enough: the machine stood still."""
        return self._late_since is not None and now - self._late_since >= PATIENCE_SECONDS


class Gate:
    """`live` and `setting_up` count sessions; `subject_of`: who the peer of a TLS connection proved to be."""

    def __init__(
        self,
        limits: Limits,
        root: Path,
        *,
        live: Callable[[], int],
        setting_up: Callable[[], int],
        subject_of: Callable[[Flow], str | None],
        log: Logger,
    ) -> None:
        self._limits = limits
        self._root = root
        self._live = live
        self._setting_up = setting_up
        self._subject_of = subject_of
        self._log = log
        self._rate = RateLimiter(limits.rate)
        self._lateness = Lateness()
        self._watching = False
        self._free: tuple[float, bool] = (-DISK_CHECK_SECONDS, True)
        self._sources: dict[str, RecordingSource | None] = {}
        self._told: dict[str, float] = {}
        self._told_refused: dict[str, tuple[float, int]] = {}
        self.draining = False
        self.refused: Counter[str] = Counter()

    # ------------------------------------------------------------------ asked by the endpoint

    def admit(self, request: Request, flow: Flow, now: float) -> int | None:
        """Whether a request outside a dialog is let in: None, or the seconds after which it may come again.

        The endpoint then answers 503 by itself.
        """
        if request.method not in {"INVITE", "OPTIONS"}:
            return None
        reason = self._overload(request.method, flow, now, carries_on="Replaces" in request.headers)
        if reason is None:
            return None
        self.refused[reason] += 1
        self._tell_refused(reason, request.method, flow, now)
        return RETRY_AFTER

    def _overload(self, method: str, flow: Flow, now: float, *, carries_on: bool) -> str | None:
        if self.draining:
            return "shutting down"
        if not carries_on and self._live() >= self._limits.max_sessions:
            return "MAX_SESSIONS reached"
        if not self._disk_has_room(now):
            return "less than DISK_RESERVE free"
        if method != "INVITE":
            return None
        if not self._watching:
            self._expect_beat()
        if not carries_on and self._lateness.too_long(now):
            return "too many calls for this machine"
        if not carries_on and self._setting_up() >= SETUPS_LIMIT:
            return "too many calls wait for the disk"
        source = self.identify(flow)
        if not self._rate.allow(source.name if source else flow.remote[0], now):
            return "SIP_RATE exceeded"
        return None

    def _expect_beat(self) -> None:
        self._watching = True
        self._lateness.expect(clock.monotonic())
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        self._watching = False
        if self._lateness.beat(clock.monotonic()):
            self._expect_beat()

    def _tell_refused(self, reason: str, method: str, flow: Flow, now: float) -> None:
        at, count = self._told_refused.get(reason, (now - TELL_REFUSED_SECONDS, 0))
        if now - at >= TELL_REFUSED_SECONDS:
            self._log.warning("refused for now", reason=reason, method=method, source=flow.remote[0], count=count + 1)
            at, count = now, -1
        self._told_refused[reason] = at, count + 1

    def _disk_has_room(self, now: float) -> bool:
        checked, room = self._free
        if now - checked >= DISK_CHECK_SECONDS:
            room = free_bytes(self._root) > self._limits.disk_reserve
            self._free = (now, room)
        return room

    # ------------------------------------------------------------------ who it is

    def is_listed(self, address: str) -> bool:
        """Whether SIP_ALLOW lists `address`; asked before anything from it is parsed."""
        return self._source(address) is not None

    def identify(self, flow: Flow) -> RecordingSource | None:
        """Whose request it is, None if SIP_ALLOW does not list it."""
        source = self._source(flow.remote[0])
        return None if source is None else identity_of(source, self._subject_of(flow))

    def _source(self, address: str) -> RecordingSource | None:
        if address not in self._sources:
            if len(self._sources) >= SOURCES_LIMIT:
                self._sources.clear()
            self._sources[address] = identify(self._limits.sources, address)
        return self._sources[address]

    def count_refused(self, address: str, transport: str) -> None:
        """Something came from an address that SIP_ALLOW does not list; said once a minute for each address."""
        self.refused["SIP_ALLOW"] += 1
        now = clock.monotonic()
        if now - self._told.get(address, -TELL_SECONDS) >= TELL_SECONDS:
            if len(self._told) >= TOLD_LIMIT:
                self._told.clear()
            self._told[address] = now
            self._log.warning("source is not listed", source=address, transport=transport, setting="SIP_ALLOW")


def free_bytes(path: Path) -> int:
    """Bytes free for us on the file system of `path`; 0 when it cannot be asked."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0
