"""A simulated link: two endpoints, a seeded network between them, a clock moved by hand.

    link = Link()
    invite = link.alice.invite()
    link.run(1.0)
    link.bob.events_of(RequestReceived)

`Side` is an endpoint with its inbox of events. What goes wrong on the way is one call: `link.drop(...)`,
`link.duplicate(...)`, `link.delay(...)`, or `Link(loss=0.2, seed=7)`.
"""

import heapq
import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from siprec.sip.dialog import Dialog
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import Event, RequestReceived
from siprec.sip.flow import Flow, Outgoing, Transport
from siprec.sip.message import Message, Request, Response, parse

ALICE = ("192.0.2.1", 5060)
BOB = ("192.0.2.2", 5060)
LATENCY = 0.01
# Between the first byte and a call's last timer lie less than 200 s; a link that is still busy then goes in circles.
SETTLED = 400.0

EventT = TypeVar("EventT")
Match = Callable[[Message], bool]


class Tokens:
    """Tokens from a seed, so that each run is the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self) -> str:
        return f"{self._random.getrandbits(80):020x}"


class Side:
    """One endpoint: `on_request` answers what comes in; without it the test does."""

    def __init__(self, link: "Link", name: str, endpoint: Endpoint, local: tuple[str, int]) -> None:
        self.link = link
        self.name = name
        self.endpoint = endpoint
        self.local = local
        self.events: list[Event] = []
        self.received: list[Message] = []
        self.on_request: Callable[[Side, RequestReceived], object] | None = None

    def events_of(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.events if isinstance(event, kind)]

    def one(self, kind: type[EventT]) -> EventT:
        """The only event of a kind."""
        found = self.events_of(kind)
        assert len(found) == 1, f"{self.name} has {len(found)} {kind.__name__} in {self.events}"
        return found[0]

    def requests(self, method: str) -> list[Request]:
        """Every request of a method that came in on the wire, repetitions too."""
        return [message for message in self.received if isinstance(message, Request) and message.method == method]

    def statuses(self, method: str) -> list[int]:
        """Every response status to a method that came in on the wire."""
        return [
            message.status
            for message in self.received
            if isinstance(message, Response) and message.cseq.method == method
        ]

    # --- short forms of the endpoint's calls ---------------------------------------------------------------

    def invite(self, *, headers: Iterable[tuple[str, str]] = (), body: bytes = b"", auto_ack: bool = True) -> str:
        return self.endpoint.invite(
            "sip:bob@192.0.2.2",
            self.link.flow_from(self),
            from_="Alice <sip:alice@example.com>",
            to="<sip:bob@example.com>",
            contact="<sip:alice@192.0.2.1>;+sip.src",
            headers=headers,
            body=body,
            now=self.link.now,
            auto_ack=auto_ack,
        )

    def respond(self, transaction: str, status: int, *, reliable: bool = False, body: bytes = b"") -> Dialog | None:
        return self.endpoint.respond(
            transaction,
            status,
            now=self.link.now,
            reliable=reliable,
            body=body,
            contact=f"<sip:{self.name}@{self.local[0]}>" if status < 300 else None,
        )

    def request(self, method: str, dialog: Dialog, *, body: bytes = b"", auto_ack: bool = True) -> str:
        headers = [("Content-Type", "application/sdp")] if body else []
        return self.endpoint.request(method, dialog, now=self.link.now, headers=headers, body=body, auto_ack=auto_ack)


class Link:
    """The network: `loss` of all messages vanish, `jitter` seconds at most come on top of the latency."""

    def __init__(
        self,
        *,
        seed: int = 1,
        loss: float = 0.0,
        jitter: float = 0.0,
        copies: float = 0.0,
        transport: Transport = "udp",
        alice: Endpoint | None = None,
        bob: Endpoint | None = None,
    ) -> None:
        self.now = 100.0
        self.transport: Transport = transport
        self._random = random.Random(seed)
        self._loss, self._jitter, self._copies = loss, jitter, copies
        self._rules: list[tuple[Match, list[str]]] = []
        self._travelling: list[tuple[float, int, Side, bytes]] = []
        self._sent = 0
        self._held: list[tuple[Side, bytes]] = []
        self.alice = Side(self, "alice", alice or Endpoint(token=Tokens(seed), user_agent="alice"), ALICE)
        self.bob = Side(self, "bob", bob or Endpoint(token=Tokens(-seed - 1), user_agent="bob"), BOB)

    # --- what goes wrong -----------------------------------------------------------------------------------

    def drop(self, match: Match, times: int = 1) -> None:
        """The next `times` messages that match are lost."""
        self._rules.append((match, ["drop"] * times))

    def duplicate(self, match: Match, times: int = 1) -> None:
        self._rules.append((match, ["duplicate"] * times))

    def hold(self, match: Match, times: int = 1) -> None:
        """The next `times` messages that match wait for `release`."""
        self._rules.append((match, ["hold"] * times))

    def release(self) -> None:
        """Deliver what was held."""
        held, self._held = self._held, []
        for side, data in held:
            self._travel(side, data)

    # --- time ----------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        self.run_until(self.now + seconds)

    def run_until(self, end: float) -> None:
        self._collect()
        while (at := self._next()) is not None and at <= end:
            self.now = max(self.now, at)
            self._step()
        self.now = max(self.now, end)

    def settle(self) -> None:
        """Run until nothing travels and no timer is left."""
        end = self.now + SETTLED
        self._collect()
        while (at := self._next()) is not None:
            assert at <= end, "the link does not come to rest"
            self.now = max(self.now, at)
            self._step()

    # --- bytes from elsewhere ------------------------------------------------------------------------------

    def inject(self, side: Side, data: bytes, remote: tuple[str, int]) -> None:
        """Hand a message of the test's own to a side, as coming from `remote`."""
        side.endpoint.receive(data, Flow(self.transport, side.local, remote, self._connection()), self.now)
        self._collect()

    def flow_from(self, side: Side) -> Flow:
        return Flow(self.transport, side.local, self.other(side).local, self._connection())

    def other(self, side: Side) -> Side:
        return self.bob if side is self.alice else self.alice

    # --- private -------------------------------------------------------------------------------------------

    def _connection(self) -> int:
        return 0 if self.transport == "udp" else 1

    def _next(self) -> float | None:
        times = [self.alice.endpoint.deadline(), self.bob.endpoint.deadline()]
        if self._travelling:
            times.append(self._travelling[0][0])
        known = [at for at in times if at is not None]
        return min(known) if known else None

    def _step(self) -> None:
        for side in (self.alice, self.bob):
            side.endpoint.tick(self.now)
        while self._travelling and self._travelling[0][0] <= self.now:
            _, _, side, data = heapq.heappop(self._travelling)
            side.received.append(parse(data))
            side.endpoint.receive(data, self.flow_from(side), self.now)
            self._collect()
        self._collect()

    def _collect(self) -> None:
        for side in (self.alice, self.bob):
            moved = True
            while moved:
                events = side.endpoint.events()
                side.events += events
                for event in events:
                    if side.on_request and isinstance(event, RequestReceived):
                        side.on_request(side, event)
                outgoing = side.endpoint.outgoing()
                for message in outgoing:
                    self._send(side, message)
                moved = bool(events or outgoing)

    def _send(self, side: Side, message: Outgoing) -> None:
        if message.flow.remote != self.other(side).local:
            return  # to somebody who is not on this link
        target, fate = self.other(side), self._fate(message.data)
        if fate == "drop" or self._random.random() < self._loss:
            return
        if fate == "hold":
            self._held.append((target, message.data))
            return
        self._travel(target, message.data)
        if fate == "duplicate" or self._random.random() < self._copies:
            self._travel(target, message.data)

    def _fate(self, data: bytes) -> str | None:
        message = parse(data)
        for match, fates in self._rules:
            if fates and match(message):
                return fates.pop()
        return None

    def _travel(self, target: Side, data: bytes) -> None:
        self._sent += 1
        at = self.now + LATENCY + self._random.random() * self._jitter
        heapq.heappush(self._travelling, (at, self._sent, target, data))


def is_request(method: str) -> Match:
    return lambda message: isinstance(message, Request) and message.method == method


def is_response(status: int, method: str | None = None) -> Match:
    return lambda message: (
        isinstance(message, Response) and message.status == status and method in (None, message.cseq.method)
    )


def accept_all(side: Side, event: RequestReceived) -> None:
    """Answers each request with 200."""
    side.respond(event.transaction, 200)


def call(link: Link) -> tuple[Dialog, Dialog]:
    """A call that Alice makes and Bob accepts: her dialog and his."""
    link.bob.on_request = accept_all
    link.alice.invite(headers=[("Content-Type", "application/sdp")], body=b"v=0\r\n")
    link.run(1.0)
    (hers,), (his,) = link.alice.endpoint.dialogs.values(), link.bob.endpoint.dialogs.values()
    return hers, his
