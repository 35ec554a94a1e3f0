"""The pump: the one place where bytes, events and timers of an endpoint meet the event loop.

Inputs are taken one at a time: each is fed, its events go to the user, what is to be sent goes out, and only then
comes the next. One timer of the loop stands for all timers of the endpoint. The one catch-all of the signalling
side is here too: a handler that fails ends its request with 500, and nothing else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from siprec.sip.endpoint import Endpoint
from siprec.sip.events import Event, RequestReceived, UnknownDialog
from siprec.sip.flow import Flow, Transport
from siprec.sip.message import MessageError


class Sender(Protocol):
    """A listener that messages leave by."""

    @property
    def transport(self) -> Transport: ...

    def serves(self, flow: Flow) -> int:
        """How well this listener fits: 0 not at all, 2 it is the one that `flow` names."""

    def send(self, flow: Flow, data: bytes) -> None:
        """Send one message; failures are told by `Pump.transport_failed`."""


class Pump:
    """Feeds an endpoint. `user(event, now)` handles one event; `on_defect(error, event)` hears of every exception
    that it, or the endpoint itself (event None), let through. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        user: Callable[[Event, float], None],
        *,
        clock: Callable[[], float],
        on_defect: Callable[[Exception, Event | None], None],
    ) -> None:
        self.endpoint = endpoint
        self._user = user
        self._clock = clock
        self._on_defect = on_defect
        self._senders: list[Sender] = []
        self._inputs: deque[Callable[[float], None]] = deque()
        self._running = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._connections = 0

    # --- from the listeners --------------------------------------------------------------------------------

    def attach(self, sender: Sender) -> None:
        self._senders.append(sender)

    def detach(self, sender: Sender) -> None:
        self._senders.remove(sender)

    def new_connection(self) -> int:
        """A number for a connection, unique over all listeners of this pump."""
        self._connections += 1
        return self._connections

    def receive(self, data: bytes, flow: Flow) -> None:
        """One whole message came in."""
        self._take(partial(self.endpoint.receive, data, flow))

    def receive_broken(self, error: MessageError, flow: Flow) -> None:
        """Something came in that is no message."""
        self._take(lambda now: self.endpoint.receive_broken(error, flow))

    def transport_failed(self, flow: Flow) -> None:
        """A connection is gone, or a message could not be sent."""
        self._take(partial(self.endpoint.transport_failed, flow))

    # --- from the user -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Deliver what calls to the endpoint outside an event handler have produced."""
        self._take(lambda now: None)

    def close(self) -> None:
        """Stop the timer; whatever still comes in is ignored."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- private -------------------------------------------------------------------------------------------

    def _take(self, action: Callable[[float], None]) -> None:
        """Queue an input; run it unless one is being run, which then comes to it."""
        if self._closed:
            return
        self._inputs.append(action)
        if self._running:
            return
        self._running = True
        try:
            while self._inputs:
                now = self._clock()
                self._guard(partial(self._inputs.popleft(), now), None)
                self._drain(now)
        finally:
            self._running = False
        self._rearm()

    def _drain(self, now: float) -> None:
        moved = True
        while moved:
            events, outgoing = self.endpoint.events(), self.endpoint.outgoing()
            for event in events:
                if not self._guard(partial(self._user, event, now), event):
                    self._answer_defect(event, now)
            for message in outgoing:
                self._guard(partial(self._send, message.flow, message.data), None)
            moved = bool(events or outgoing)

    def _guard(self, action: Callable[[], None], event: Event | None) -> bool:
        try:
            action()
        except Exception as error:  # noqa: BLE001  the one catch-all: a defect ends its own request only
            self._on_defect(error, event)
            return False
        return True

    def _answer_defect(self, event: Event, now: float) -> None:
        if isinstance(event, RequestReceived | UnknownDialog):
            self._guard(lambda: self._fail(event.transaction, now), None)

    def _fail(self, transaction: str, now: float) -> None:
        self.endpoint.respond(transaction, 500, now=now)

    def _send(self, flow: Flow, data: bytes) -> None:
        best, fit = None, 0
        for sender in self._senders:
            if sender.transport == flow.transport and (serves := sender.serves(flow)) > fit:
                best, fit = sender, serves
        if best is None:
            self.transport_failed(flow)
        else:
            best.send(flow, data)

    def _rearm(self) -> None:
        """One timer, moved only when it would come too late: an early one finds nothing due and is armed again."""
        deadline = self.endpoint.deadline()
        if deadline is None or self._closed:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, deadline - self._clock())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._take(self.endpoint.tick)
