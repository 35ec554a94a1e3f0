"""A recording server as small as can be, to test the client against: it answers, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Sequence
from typing import Literal, Self

from siprec import clock
from siprec.client.media import PortPair
from siprec.net.signalling import Pump
from siprec.net.tcp import TcpListener
from siprec.net.udp import UdpListener
from siprec.sdp.model import Origin, SessionDescription, parse
from siprec.sdp.negotiate import NegotiatedStream, build_answer, plan
from siprec.sip.dialog import Dialog
from siprec.sip.endpoint import METHODS, Endpoint
from siprec.sip.events import AckReceived, Cancelled, Event, RequestFailed, RequestReceived, ResponseReceived
from siprec.sip.message import Request, Response
from siprec.sip.multipart import parse_body

HOST = "127.0.0.1"
SDP = (("Content-Type", "application/sdp"),)


class Srs:
    """`answers`: the statuses that an INVITE outside a dialog gets, one after another. `ready` as in `plan`."""

    def __init__(
        self,
        *,
        transport: Literal["udp", "tcp"] = "udp",
        answers: Sequence[int] = (200,),
        methods: tuple[str, ...] = METHODS,
    ) -> None:
        self.transport, self.answers = transport, answers
        self.ready = True
        self.describes = True
        self.refuse_bye = False
        self.refuse_changes = False
        self.deaf = False
        """Nothing but INVITE is answered."""
        self.sinks: list[PortPair] = []
        self.offers: list[SessionDescription] = []
        self.received: list[Request] = []
        self.dialogs: list[Dialog] = []
        self.plan: list[NegotiatedStream] = []
        self.acks: list[Request] = []
        self.arrived: dict[str, asyncio.Queue[Request]] = {}
        self._version = 0
        self._waiting: dict[str, asyncio.Future[Response]] = {}
        self.endpoint = Endpoint(token=lambda: secrets.token_hex(8), methods=methods)
        self._pump = Pump(self.endpoint, self._on_event, clock=clock.monotonic, on_defect=self._on_defect)
        self._defects: list[Exception] = []
        self._unanswered: list[RequestReceived] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        listen = UdpListener if self.transport == "udp" else TcpListener
        self._listener = listen(HOST, 0, pump=self._pump, allow=lambda _: True, refused=lambda *_: None, setting="test")
        self.port = self._listener.address[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pump.close()
        self._listener.close()
        for sink in self.sinks:
            sink.close()
        assert not self._defects

    @property
    def contact(self) -> str:
        return f"<sip:srs@{HOST}:{self.port};transport={self.transport}>;+sip.srs"

    @property
    def target(self) -> str:
        return f"sip:{HOST}:{self.port}"

    # -- for the test

    async def next(self, method: str) -> Request:
        """The next request of that method, in or out of a dialog; "ACK" and "CANCEL" too."""
        async with asyncio.timeout(5):
            return await self.arrived.setdefault(method, asyncio.Queue()).get()

    async def request(self, method: str, *, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> Response:
        """A request of the server in its last dialog; the final response."""
        transaction = self.endpoint.request(
            method, self.dialogs[-1], headers=headers, body=body, now=clock.monotonic(), auto_ack=True
        )
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[transaction] = future
        self._pump.flush()
        async with asyncio.timeout(5):
            return await future

    def answer_late(self) -> None:
        """Accept the INVITE that no answer was foreseen for."""
        self._accept(self._unanswered.pop(), 200)
        self._pump.flush()

    def description(self, direction: str | None = None, *, base: int = 0) -> bytes:
        """The server's side as an offer: its last answer, in another direction or on the sinks from `base` on."""
        self._version += 1
        text = str(self._answer(base))
        return (text if direction is None else text.replace("a=recvonly", f"a={direction}")).encode()

    def open_sinks(self, count: int) -> None:
        for _ in range(count):
            ports = PortPair(HOST)
            ports.rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self.sinks.append(ports)

    def packets(self, sink: int) -> list[bytes]:
        """The RTP that came to a sink since the last look."""
        found = []
        while True:
            try:
                found.append(self.sinks[sink].rtp.recv(4096))
            except BlockingIOError:
                return found

    async def until_packets(self, sink: int, count: int) -> list[bytes]:
        """At least `count` more packets of a sink."""
        found: list[bytes] = []
        async with asyncio.timeout(5):
            while len(found) < count:
                await readable(self.sinks[sink].rtp)
                found += self.packets(sink)
        return found

    # -- from the pump

    def _on_defect(self, error: Exception, event: Event | None) -> None:
        self._defects.append(error)

    def _on_event(self, event: Event, now: float) -> None:
        if isinstance(event, RequestReceived):
            self.received.append(event.request)
            self._handle(event)
            self._tell(event.request.method, event.request)
        elif isinstance(event, AckReceived):
            self._tell("ACK", event.request)
        elif isinstance(event, Cancelled):
            self._tell("CANCEL", event.request)
        elif isinstance(event, ResponseReceived) and event.response.status >= 200:
            self._waiting.pop(event.transaction).set_result(event.response)
        elif isinstance(event, RequestFailed):
            self._waiting.pop(event.transaction).cancel()

    def _tell(self, method: str, request: Request) -> None:
        self.arrived.setdefault(method, asyncio.Queue()).put_nowait(request)

    def _handle(self, event: RequestReceived) -> None:
        if event.request.method == "INVITE":
            self._on_invite(event)
        elif not (self.deaf or (event.request.method == "BYE" and self.refuse_bye)):
            self._respond(event, 200)

    def _on_invite(self, event: RequestReceived) -> None:
        if event.dialog is not None and self.refuse_changes:
            self._respond(event, 488)
            return
        self._take_offer(event.request)
        if event.dialog is None and not self.answers:
            self._unanswered.append(event)
        for status in self.answers if event.dialog is None else (200,):
            if status < 200 or status >= 300:
                self._respond(event, status)
                continue
            self._accept(event, status)

    def _accept(self, event: RequestReceived, status: int) -> None:
        self._version += 1
        body = bytes(self._answer()) if self.describes else b""
        dialog = self._respond(event, status, headers=SDP if body else (), body=body)
        if event.dialog is None and dialog is not None:
            self.dialogs.append(dialog)

    def _respond(
        self, event: RequestReceived, status: int, *, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> Dialog | None:
        return self.endpoint.respond(
            event.transaction, status, now=clock.monotonic(), headers=headers, body=body, contact=self.contact
        )

    def _take_offer(self, request: Request) -> None:
        for part in parse_body(request.headers, request.body):
            if part.content_type.name == "application/sdp":
                self.offers.append(parse(part.body))
                self.plan = plan(self.offers[-1], codecs=("PCMU", "PCMA", "G722", "L16"), ready=self.ready)
                self.open_sinks(len(self.plan) - len(self.sinks))

    def _answer(self, base: int = 0) -> SessionDescription:
        ports = {index: (HOST, sink.port) for index, sink in enumerate(self.sinks[base:])}
        return build_answer(self.offers[-1], self.plan, ports=ports, origin=Origin.at(HOST, 7, version=self._version))


async def readable(ready: socket.socket) -> None:
    """Wait until `ready` has something to read."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(ready, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(ready)
