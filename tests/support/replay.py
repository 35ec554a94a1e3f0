"""A whole recorder in this process, and SRCs that play it messages from files.

    async with recording_server(tmp_path) as server:
        oracle = server.src("oracle")
        await oracle.send("invite")
        await oracle.ack()
        await oracle.speak("16777227")
        recorded = await oracle.bye()
        assert recorded.heard == ["Alice", "Bob"]

Everything is what `siprec serve` builds, but for three things: SIP goes in and out without a network, through a
`Flow` of the SRC's own; rendering runs in a thread, since a process takes longer to start than a scenario to run;
and `advance` moves the clock, so that a timer of half an hour is no wait. RTP is real: a few packets from the
address and port that the offer names (127.0.0.0/8) to the port of the answer.

A message file is text with line feeds; `send` makes CRLF of them, fills in `${to_tag}` and `${length}`, and leaves
every other byte alone. A file that holds CRLF is sent as it is.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest

from siprec import app, clock, config, log
from siprec.archive.folder import RecordingFolder, walk
from siprec.archive.manifest import Manifest
from siprec.media.capture import Capture
from siprec.media.local import LocalCapture
from siprec.media.ports import PortPair
from siprec.net.signalling import Pump
from siprec.process import Ending
from siprec.recorder.intake import Ports
from siprec.recorder.pool import RenderPool
from siprec.rtp import packets as rtp
from siprec.sdp.model import MediaDescription, SessionDescription, literal
from siprec.sdp.model import parse as parse_sdp
from siprec.sip.flow import Flow, Transport
from siprec.sip.message import Headers, MessageError, Request, Response, parse
from siprec.sip.multipart import decoded, parse_body
from siprec.store.base import SessionRecord, SessionStore

VECTORS = Path(__file__).parents[1] / "vectors" / "dialects"
FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"

SRS = ("127.0.0.1", 5060)
SRC = ("127.0.0.20", 5060)
PATIENCE = 5.0
TICK_SECONDS = 0.02
FRAME = 160  # RTP clock units of 20 ms of G.711

SETTINGS = {
    "SIP_HOST": "127.0.0.1",
    "SIP_PORT": "0",
    "SIP_ALLOW": "127.0.0.0/8",
    "RTP_PORT_MIN": "20000",
    "RTP_PORT_MAX": "23999",
    "DISK_RESERVE": "0",
    "NODE_ID": "test",
    "CAPTURE_KEEP": "always",
}

P = ParamSpec("P")
T = TypeVar("T")


class Clock:
    """Monotonic seconds that can be moved on."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.offset


class RenderHere(RenderPool):
    """Renders in a thread of this process."""

    def __init__(self, workers: int | None = None) -> None:
        self.most = workers or 1

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(job, *args, **kwargs)

    def close(self) -> None:
        pass


class Wire:
    """A sender of the pump that hands each message to the SRC it is for."""

    def __init__(self, transport: Transport) -> None:
        self.transport: Transport = transport
        self.sources: dict[bytes, Src] = {}  # by Call-ID

    def serves(self, flow: Flow) -> int:
        return 3

    def send(self, flow: Flow, data: bytes) -> None:
        source = self.sources.get(call_id_of(data))
        if source is not None and source.flow.remote == flow.remote:
            source.receive(data)


@dataclass(frozen=True)
class Recorded:
    """A recording as it lies on disk."""

    folder: RecordingFolder
    manifest: Manifest

    @property
    def heard(self) -> list[str | None]:
        """Who is on which channel."""
        return [each.participant for each in self.manifest.channels]

    @property
    def labels(self) -> list[str | None]:
        return [each.label for each in self.manifest.channels]

    @property
    def names(self) -> list[str | None]:
        return [each.name for each in self.manifest.participants]

    @property
    def ssrcs(self) -> list[list[int]]:
        return [each.ssrcs for each in self.manifest.channels]

    @property
    def causes(self) -> set[tuple[int, str]]:
        """(channel, cause) of each gap that is no lost packet."""
        return {(each.channel, each.cause) for each in self.manifest.gaps if each.cause != "loss"}

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.folder.path / "events.jsonl"
        lines = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in lines.splitlines()]

    @cached_property
    def bodies(self) -> list[bytes]:
        """The metadata bodies as kept."""
        return [each.read_bytes() for each in sorted((self.folder.path / "metadata").glob("*.xml"))]


class Server:
    """The recorder under test."""

    def __init__(self, root: Path, pump: Pump, capture: Capture, now: Clock, lines: io.StringIO) -> None:
        self.root = root
        self.pump = pump
        self.capture = capture
        self._now = now
        self._lines = lines
        self._wires: dict[Transport, Wire] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._sources = 0
        self.store: SessionStore
        self.pairs: list[PortPair] = []
        for transport in ("udp", "tcp"):
            wire = Wire(transport)
            self._wires[wire.transport] = wire
            pump.attach(wire)

    def src(
        self, dialect: str = "", *, address: tuple[str, int] = SRC, transport: Transport = "udp", folder: Path = VECTORS
    ) -> Src:
        """An SRC that sends the messages in `folder`/`dialect`."""
        connection = 0 if transport == "udp" else self.pump.new_connection()
        return Src(self, folder / dialect, Flow(transport, SRS, address, connection))

    def next_ssrc(self) -> int:
        """The first SSRC of another SRC: no two have one in common."""
        self._sources += 1
        return self._sources << 16

    def deliver(self, data: bytes, source: Src) -> None:
        """What an SRC sends; answers to that Call-ID are for it."""
        self._wires[source.flow.transport].sources[call_id_of(data)] = source
        self.pump.receive(data, source.flow)

    def attach(self, source: Src) -> None:
        """From now on an SRC in a dialog is one of this recorder's: what is sent in that dialog reaches it."""
        assert source.invite is not None
        source.server = self
        self._wires[source.flow.transport].sources[source.invite.call_id.encode()] = source

    def detach(self) -> None:
        """Leave sending to real listeners from here on."""
        for wire in self._wires.values():
            self.pump.detach(wire)

    def advance(self, seconds: float) -> None:
        """Let that much time pass for every timer, those of `asyncio.timeout` too; the wall clock and the audio stay
        where they are.
        """
        self._now.offset += seconds
        self.pump.flush()

    @property
    def open_ports(self) -> list[int]:
        """RTP ports that are received on now."""
        return [each.port for each in self.pairs if each.rtp.fileno() >= 0]

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line so far."""
        return [json.loads(line) for line in self._lines.getvalue().splitlines()]

    def recordings(self) -> list[Recorded]:
        """All recordings, live ones too, oldest first."""
        return [Recorded(each, each.read()) for each in walk(self.root)]

    def of(self, call_id: str) -> Recorded:
        """The recording that has a dialog of this Call-ID."""
        found = [each for each in self.recordings() if each.manifest.call_id == call_id]
        assert len(found) == 1, f"{len(found)} recordings of {call_id}"
        return found[0]

    async def live(self, call_id: str, where: Callable[[Recorded], bool]) -> Recorded:
        """The recording of a call that goes on, once what is on disk satisfies `where`: an answer goes out before
        recording.json is written.
        """
        async with asyncio.timeout(PATIENCE):
            while not where(found := self.of(call_id)):  # noqa: ASYNC110  files tell nobody that they changed
                await asyncio.sleep(TICK_SECONDS / 4)
        return found

    async def ended(self, call_id: str) -> Recorded:
        """The recording of that call, once it is rendered."""
        await asyncio.wait_for(self._event(call_id).wait(), PATIENCE)
        return self.of(call_id)

    def told(self, record: SessionRecord) -> None:
        self._event(record.call.call_id).set()

    def _event(self, call_id: str) -> asyncio.Event:
        return self._ended.setdefault(call_id, asyncio.Event())


@dataclass
class _Voice:
    """Where the RTP of one label has got to."""

    ssrc: int
    sequence: int = 1000
    timestamp: int = 50_000
    last: float = 0.0
    source: tuple[str, int] | None = None


@dataclass
class Src:
    """One SRC and its dialog. `offer` and `answer` are those in force."""

    server: Server
    folder: Path
    flow: Flow
    received: list[Request | Response] = field(default_factory=list)
    invite: Request | None = None
    to_tag: str = ""
    cseq: int = 0
    offer: SessionDescription | None = None
    answer: SessionDescription | None = None
    offer_before: SessionDescription | None = None
    on_request: Callable[[Request], tuple[int, list[tuple[str, str]], bytes]] = lambda _: (200, [], b"")

    def __post_init__(self) -> None:
        self._arrived = asyncio.Event()
        self._voices: dict[str, _Voice] = {}
        self._first_ssrc = self.server.next_ssrc()
        self._sent = 0

    # ------------------------------------------------------------------ signalling

    async def send(
        self, name: str = "invite", *, line_end: bytes = b"\r\n", replace: Mapping[str, str] | None = None
    ) -> Response:
        """Send the message in `name`.sip and wait for its final response. `line_end` is that of the body;
        `replace`: text in the file to change first.
        """
        return await self.exchange(self.load(name, line_end=line_end, replace=replace))

    def load(self, name: str, *, line_end: bytes = b"\r\n", replace: Mapping[str, str] | None = None) -> bytes:
        """The bytes of the message in `name`.sip."""
        data = (self.folder / f"{name}.sip").read_bytes()
        for old, new in (replace or {}).items():
            assert old.encode() in data, f"{old!r} is not in {name}.sip"
            data = data.replace(old.encode(), new.encode())
        data = data.replace(b"${to_tag}", self.to_tag.encode())
        if b"\r\n" in data:
            return data
        head, _, body = data.partition(b"\n\n")
        body = body.replace(b"\n", line_end)
        head = head.replace(b"${length}", str(len(body)).encode()).replace(b"\n", b"\r\n")
        return head + b"\r\n\r\n" + body

    async def relay(self, data: bytes, *, media: Mapping[bytes, bytes]) -> Response:
        """Send somebody else's message as the next one of our dialog: with our Via, CSeq and To tag, and with
        addresses in the body changed as `media` says. An offer in a 2xx is answered by the ACK.
        """
        request = parse(data)
        assert isinstance(request, Request)
        for old, new in media.items():
            request.body = request.body.replace(old, new)
        self.cseq += 1
        host, port = self.flow.remote
        branch = f"z9hG4bK-{self.to_tag}-{self.cseq}"
        request.headers.set("Via", f"SIP/2.0/{self.flow.transport.upper()} {host}:{port};branch={branch}")
        request.headers.set("CSeq", f"{self.cseq} {request.method}")
        to = request.headers.get("To") or ""
        request.headers.set("To", f"{to};tag={self.to_tag}" if self.to_tag else to)
        response = await self.exchange(bytes(request))
        if response.status == 200 and request.method == "INVITE":
            body = b"" if sdp_of(request) else str(self.offer_before).encode()
            await self.ack(body=body)
        return response

    async def exchange(self, data: bytes) -> Response:
        """Send a request and wait for its final response; its offer and the answer count from then on."""
        try:
            request = parse(data)
        except MessageError as error:
            request = error.partial  # type: ignore[assignment]
        assert isinstance(request, Request)
        self.post(data)
        response = await self.response(request)
        if response.status < 300 and request.method in ("INVITE", "UPDATE"):
            self._agree(request, response)
        return response

    def post(self, data: bytes) -> None:
        """Send without waiting."""
        self.server.deliver(data, self)

    async def response(self, request: Request) -> Response:
        """The final response to `request`."""

        def found() -> Response | None:
            finals = (each for each in self.received if isinstance(each, Response) and each.status >= 200)
            return next((each for each in finals if each.cseq == request.cseq), None)

        return await self._until(found)

    async def provisional(self, status: int) -> Response:
        """The first such provisional response."""

        def found() -> Response | None:
            ours = (each for each in self.received if isinstance(each, Response))
            return next((each for each in ours if each.status == status), None)

        return await self._until(found)

    async def request(self, method: str) -> Request:
        """The first request of that method which the recorder sends us."""

        def found() -> Request | None:
            ours = (each for each in self.received if isinstance(each, Request))
            return next((each for each in ours if each.method == method), None)

        return await self._until(found)

    def build(
        self,
        method: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        content_type: str = "application/sdp",
        branch: str | None = None,
        cseq: int | None = None,
    ) -> bytes:
        """A request in our dialog, outside of any file."""
        assert self.invite is not None
        number = self.cseq + (method not in ("ACK", "CANCEL")) if cseq is None else cseq
        self.cseq = max(self.cseq, number)
        lines = Headers()
        via = self.invite.headers.get("Via") or ""
        lines.add(
            "Via", via.replace(self.invite.via.branch or "", branch or f"z9hG4bK-{self.to_tag}-{method}-{number}")
        )
        lines.add("Max-Forwards", "70")
        lines.add("From", self.invite.headers.get("From") or "")
        to = self.invite.headers.get("To") or ""
        lines.add("To", f"{to};tag={self.to_tag}" if self.to_tag and "tag=" not in to else to)
        lines.add("Call-ID", self.invite.call_id)
        lines.add("CSeq", f"{number} {method}")
        if body:
            lines.add("Content-Type", content_type)
        for name, value in (headers or {}).items():
            lines.add(name, value)
        return bytes(Request(method, self.invite.uri, lines, body))

    async def ack(self, *, body: bytes = b"", branch: str | None = None) -> None:
        """Acknowledge the last 2xx. With `body`, an answer to the offer that came in it."""
        headers = {"Contact": (self.invite and self.invite.headers.get("Contact")) or "<sip:src@example.com>"}
        if body:
            self.answer, self.offer = self.offer, parse_sdp(body)
        self.post(self.build("ACK", body=body, branch=branch, cseq=self._last_invite_cseq(), headers=headers))
        await asyncio.sleep(0)

    async def bye(self, name: str | None = None) -> Recorded:
        """End the call with BYE (the one in `name`.sip) and wait for its recording."""
        assert self.invite is not None
        data = self.load(name) if name else self.build("BYE")
        response = await self.exchange(data)
        assert response.status == 200, response.status
        return await self.server.ended(self.invite.call_id)

    def receive(self, data: bytes) -> None:
        """Called by the wire."""
        message = parse(data)
        self.received.append(message)
        self._arrived.set()
        if isinstance(message, Request) and message.method != "ACK":
            asyncio.get_running_loop().call_soon(self._respond, message)

    def _respond(self, request: Request) -> None:
        status, headers, body = self.on_request(request)
        echoed = [(name, value) for name in ("Via", "From", "To", "Call-ID", "CSeq")
                  for value in request.headers.all(name)]  # fmt: skip
        self.post(bytes(Response(status, "", Headers([*echoed, *headers]), body)))

    async def finals(self, count: int) -> list[Response]:
        """The first final responses, to whatever they answer."""

        def found() -> list[Response] | None:
            finals = [each for each in self.received if isinstance(each, Response) and each.status >= 200]
            return finals if len(finals) >= count else None

        return await self._until(found)

    async def _until(self, found: Callable[[], T | None]) -> T:
        async with asyncio.timeout(PATIENCE):
            while (result := found()) is None:
                self._arrived.clear()
                await self._arrived.wait()
        return result

    def _agree(self, request: Request, response: Response) -> None:
        if request.method == "INVITE":
            self.invite = self.invite or request
            self.to_tag = response.to.tag or ""
        self.cseq = max(self.cseq, request.cseq.number)
        self._invite_cseq = request.cseq.number if request.method == "INVITE" else self._last_invite_cseq()
        offered = sdp_of(request)
        answered = sdp_of(response)
        self.offer_before = self.offer
        if offered is not None:
            self.offer, self.answer = offered, answered
        elif answered is not None:  # the recorder offers, our ACK will answer
            self.offer = answered

    def _last_invite_cseq(self) -> int:
        return getattr(self, "_invite_cseq", self.cseq)

    # ------------------------------------------------------------------ media

    def forget_voices(self) -> None:
        """Speak with other SSRCs from here on."""
        self._voices = {
            label: _Voice(ssrc=each.ssrc + 0x100, source=each.source) for label, each in self._voices.items()
        }

    async def reports(self, label: str | None) -> bytes:
        """The first RTCP packet that comes for a label once it has spoken."""
        offered, _ = self.line(label)
        assert offered.address is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing:
            hearing.bind((offered.address, offered.port + 1))
            hearing.setblocking(False)
            await self.speak(label)
            self.server.advance(10)
            waiting = asyncio.get_running_loop().sock_recv(hearing, 2048)
            return await asyncio.wait_for(waiting, PATIENCE / 2)

    def line(self, label: str | None) -> tuple[MediaDescription, MediaDescription]:
        """What was offered and answered for a label, None for the only m-line."""
        assert self.offer is not None
        assert self.answer is not None
        for ours, theirs in zip(self.offer.media, self.answer.media, strict=True):
            if label is None or ours.label == label:
                return ours, theirs
        raise AssertionError(f"no m-line is labelled {label}")

    def ssrc(self, label: str | None) -> int:
        """The SSRC that this SRC uses for a label."""
        return self._voice(label).ssrc

    async def speak(self, label: str | None = None, *, packets: int = 5, taken: bool = True) -> None:
        """Send RTP of a label, and wait until the recorder has `taken` it."""
        offered, answered = self.line(label)
        assert answered.port, f"{label} was refused"
        assert answered.address is not None
        source, voice = (literal(offered.address) or self.flow.remote[0], offered.port), self._voice(label)
        if voice.source not in {None, source}:  # the capture lets go of the old source only after our 200 is out
            await asyncio.sleep(2 * TICK_SECONDS)
        voice.source = source
        payload_type = int(answered.formats[0])
        before = self.server.capture.totals().packets
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sender.bind(source)
            for packet in self._packets(voice, payload_type, packets):
                sender.sendto(packet, (answered.address, answered.port))
        if taken:
            async with asyncio.timeout(PATIENCE):
                while self.server.capture.totals().packets < before + packets:  # noqa: ASYNC110  the drain has no event
                    await asyncio.sleep(TICK_SECONDS / 4)

    def _voice(self, label: str | None) -> _Voice:
        return self._voices.setdefault(label or "", _Voice(ssrc=self._first_ssrc + len(self._voices)))

    @staticmethod
    def _packets(voice: _Voice, payload_type: int, count: int) -> list[bytes]:
        """Frames of 20 ms; between two calls the timestamps go on as the time did."""
        now = time.monotonic()
        if voice.last:
            voice.timestamp += max(0, int((now - voice.last) * 8000) // FRAME * FRAME)
        found = []
        for number in range(count):
            payload = bytes((voice.ssrc + number + each) % 100 for each in range(FRAME))
            found.append(
                rtp.build(payload_type, voice.sequence, timestamp=voice.timestamp, ssrc=voice.ssrc, payload=payload)
            )
            voice.sequence += 1
            voice.timestamp += FRAME
        voice.last = now
        return found


def call_id_of(data: bytes) -> bytes:
    """The Call-ID of a message, b"" when it has none."""
    found = re.search(rb"\r\n(?:Call-ID|i)[ \t]*:[ \t]*(\S+)", data, re.IGNORECASE)
    return found[1] if found else b""


def sdp_of(message: Request | Response) -> SessionDescription | None:
    """The session description in a message's body."""
    if not message.body:
        return None
    parts = parse_body(message.headers, message.body)
    found = (decoded(each).body for each in parts if each.content_type.name.lower() == "application/sdp")
    return next(map(parse_sdp, found), None)


@dataclass
class _Taps:
    """The parts of a recorder that a test looks into, once they are made; `pairs`: every port pair it took."""

    now: Clock
    pairs: list[PortPair] = field(default_factory=list)
    pump: Pump | None = None
    capture: Capture | None = None
    store: SessionStore | None = None


@contextmanager
def _tapped() -> Iterator[_Taps]:
    """The parts that `app` makes meanwhile are looked into, quicker than usual, and without a network for SIP."""
    taps = _Taps(Clock())
    open_store: Callable[..., Awaitable[SessionStore]] = vars(app)["open_store"]

    class TappedPump(Pump):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            taps.pump = self

    class QuickCapture(LocalCapture):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(tick=TICK_SECONDS, **kwargs)
            taps.capture = self

    class TappedPorts(Ports):
        def acquire(self, address: str | None, now: float, *, local: str = "") -> PortPair:
            taps.pairs.append(super().acquire(address, now, local=local))
            return taps.pairs[-1]

        def restore(self, address: str, port: int) -> tuple[PortPair, bool]:
            pair, held_over = super().restore(address, port)
            taps.pairs.append(pair)
            return pair, held_over

    async def tapped_store(*args: Any, **kwargs: Any) -> SessionStore:
        taps.store = await open_store(*args, **kwargs)
        return taps.store

    instead = {
        "RenderPool": RenderHere,
        "_listen": lambda *_: SRS[1],
        "Pump": TappedPump,
        "LocalCapture": QuickCapture,
        "open_store": tapped_store,
        "Ports": TappedPorts,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "monotonic", taps.now)
        patch.setattr(asyncio.get_running_loop(), "time", taps.now)
        for name, part in instead.items():
            patch.setattr(app, name, part)
        yield taps


@asynccontextmanager
async def recording_server(root: Path, *, dies: bool = False, **environ: str) -> AsyncIterator[Server]:
    """A recorder with these settings. Nothing it logged may tell of a defect when the block ends.

    With `dies` it goes without a word to anybody: calls stay as they are in its journal, its sockets are closed.
    """
    lines = io.StringIO()
    log.configure("info", "json", lines)
    with _tapped() as taps:
        async with AsyncExitStack() as stack:
            ending = Ending()
            ending.hand_over = dies
            settings = SETTINGS | {"RECORDING_DIR": str(root)} | environ
            running = await app.start(config.read(settings, root / "none.env"), stack, ending=ending)
            assert taps.pump is not None
            assert taps.capture is not None
            assert taps.store is not None
            server = Server(root, taps.pump, taps.capture, taps.now, lines)
            server.store = taps.store
            server.pairs = taps.pairs
            running.recorder.observe_end(server.told)
            yield server
            if dies:  # what the test has seen happen is in the journal by then
                await asyncio.sleep(0.1)
                await server.store.flush()
        for pair in taps.pairs if dies else ():  # as the kernel does when a process ends
            pair.rtp.close()
            pair.rtcp.close()
    wrong = [each for each in server.log if each["event"] in {"defect", "call failed"}]
    assert not wrong, wrong
