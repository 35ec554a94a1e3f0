"""An endpoint on real sockets of the loopback, for tests of the network shells."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from siprec.net.signalling import Pump
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import Event, RequestReceived

PATIENCE = 10.0
EventT = TypeVar("EventT")


def token() -> str:
    return secrets.token_hex(10)


class Shell:
    """A pump whose events can be waited for; requests are answered with `status` (None: not at all)."""

    def __init__(self, *, status: int | None = 200) -> None:
        self.endpoint = Endpoint(token=token)
        self.status = status
        self.defects: list[tuple[Exception, Event | None]] = []
        self.refused: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.on_event: Callable[[Event], None] = lambda event: None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.pump = Pump(self.endpoint, self._handle, clock=time.monotonic, on_defect=self._defect)

    async def event(self, kind: type[EventT]) -> EventT:
        """The next event of a kind."""
        async with asyncio.timeout(PATIENCE):
            while not isinstance(event := await self._events.get(), kind):
                pass
            return event

    def note_refused(self, ip: str, transport: str) -> None:
        self.refused.put_nowait((ip, transport))

    def _handle(self, event: Event, now: float) -> None:
        self._events.put_nowait(event)
        self.on_event(event)
        if isinstance(event, RequestReceived) and self.status is not None:
            self.endpoint.respond(event.transaction, self.status, now=now)

    def _defect(self, error: Exception, event: Event | None) -> None:
        self.defects.append((error, event))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  nothing sets an Event where the kernel or asyncio acts
            await asyncio.sleep(0.005)
