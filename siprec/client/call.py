"""One recording session as its SRC lives it (RFC 7866): from the INVITE to the BYE, and what happens between.

The call knows nothing of sockets: it speaks through the endpoint that its client shares among all calls, and its
streams are sent by the client's `Sender`. Requests of the server arrive by `received`, from the client's dispatch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

from siprec import clock
from siprec.client.media import Remote, RtpStream
from siprec.client.options import RINGING_SECONDS, CallOptions, CallResult, Header, Party, StreamResult
from siprec.client.scene import SDP_TYPE, Channel, Scene
from siprec.client.tracks import FRAME_SECONDS
from siprec.errors import LocalError, Overload, PeerError, SipError
from siprec.metadata import xml
from siprec.metadata.model import SnapshotRequest
from siprec.sdp import model
from siprec.sdp.model import Direction, SessionDescription
from siprec.sdp.negotiate import NegotiatedStream, read_answer
from siprec.sip.dialog import Dialog
from siprec.sip.events import RequestReceived
from siprec.sip.flow import Flow
from siprec.sip.message import Request, Response
from siprec.sip.multipart import BodyPart, parse_body

if TYPE_CHECKING:
    from siprec.client.src import RecordingClient

GLARE_ATTEMPTS = 3
"""Re-INVITEs that met 491 are tried again this often; two sides that draw different waits meet once, rarely twice."""

GLARE_WAIT = (2.1, 4.0)
"""Seconds before the next try, for the side that made the Call-ID (RFC 3261 section 14.1)."""

REQUIRE: tuple[Header, ...] = (("Require", "siprec"),)
"""RFC 7866 section 11.1.1."""

_NO_REPLY = {"timeout": (408, "no answer in time"), "transport": (503, "could not be sent")}
"""RFC 3261 section 8.1.3.1: what a missing response counts as."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a request of ours. Without a response the status is 408 (timeout) or 503 (transport failure), as
    RFC 3261 section 8.1.3.1 wants, and `response` is None."""

    status: int
    reason: str
    seconds: float
    response: Response | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Pending:
    """A request of ours that waits for its final response. `call`: the call that an INVITE opens."""

    def __init__(self, call: LiveCall | None = None) -> None:
        self.call = call
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._began = clock.monotonic()

    def provisional(self, response: Response) -> None:
        if self.call is not None:
            self.call.progress(response)

    def final(self, response: Response) -> None:
        self._settle(Reply(response.status, response.reason, clock.monotonic() - self._began, response))

    def failed(self, cause: Literal["timeout", "transport"]) -> None:
        self._settle(Reply(*_NO_REPLY[cause], clock.monotonic() - self._began))

    def _settle(self, reply: Reply) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)


class LiveCall:
    """A call of `RecordingClient.begin`. `result` is up to date at any time; `streams` are by m-line.

    `snapshots_requested` counts the server's requests for full metadata (RFC 7866 section 9.2); `requests` lists the
    methods that the server sent in the dialog.
    """

    def __init__(
        self,
        client: RecordingClient,
        options: CallOptions,
        scene: Scene,
        *,
        headers: Sequence[Header] = (),
        heir_of: LiveCall | None = None,
    ) -> None:
        self.client, self.options, self.scene = client, options, scene
        self.streams: list[RtpStream] = []
        self.result = CallResult(options.target)
        self.dialog: Dialog | None = None
        self.flow: Flow | None = None
        self.ended = asyncio.Event()
        self.snapshots_requested = 0
        self.requests: list[str] = []
        self._enough = asyncio.Event()
        self._progress = asyncio.Event()
        self._transaction: str | None = None
        self._peer_allows: frozenset[str] = frozenset()
        self._answering: asyncio.Task[None] | None = None
        self._extra = tuple(headers)
        self._heir_of = heir_of
        self._random = Random(repr((options.seed, "call")))  # noqa: S311 - a back-off, no secret
        self._answered_at = 0.0
        self._silent = False

    # -- for the user: the life of the call

    async def answer(self) -> CallResult:
        """Wait for the final response to the INVITE; on 2xx media flows to the answered addresses."""
        if self._answering is None:
            self._answering = asyncio.create_task(self._invite())
        await asyncio.shield(self._answering)
        return self.result

    async def run(self, seconds: float) -> CallResult:
        """Let media flow for `seconds`, or until either side ends the call."""
        if self.result.answered and not self.ended.is_set():
            waits = [asyncio.create_task(event.wait()) for event in (self.ended, self._enough)]
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return self.result

    def limit(self, seconds: float) -> None:
        """No stream has more media than fills `seconds`."""
        for stream in self.streams:
            stream.limit = round(seconds / FRAME_SECONDS)

    async def bye(self) -> CallResult:
        """Stop the media and end the call; nothing happens when it is over already."""
        if self.dialog is not None and not self.ended.is_set():
            self._stop_media()
            self.result.ended_by = "us"
            reply = await self._request("BYE", seconds=self.options.timeout)
            self.result.bye_status = reply.status if reply.response else 0
            if not reply.ok:
                self.result.problem = f"BYE: {reply.status} {reply.reason}"
            self._end()
        return self.result

    async def cancel(self) -> CallResult:
        """Take back an INVITE that is not answered yet; the result's status is 487 when the server agreed, and when
        its 2xx crossed our CANCEL the call is ended by BYE."""
        if self._transaction is not None:
            self.client.cancel(self._transaction)
        await self.answer()
        return await self.bye()

    def abandon(self) -> None:
        """Fall silent without BYE, as an SRC that lost its power: requests of the server get no answer either."""
        self._silent = True
        self.result.ended_by = self.result.ended_by or "failure"
        self._end()

    def retarget(self, host: str, port: int) -> None:
        """Send the further requests of the dialog to another address: another node behind the same name."""
        if self.dialog is not None:
            self.dialog.remote_target = f"sip:{f'[{host}]' if ':' in host else host}:{port}"

    def hang_up(self) -> None:
        """End `run` now, or before it began; whoever runs the call sends the BYE."""
        self._enough.set()

    # -- for the user: requests within the call

    async def reinvite(
        self, *, metadata: bool = True, headers: Sequence[Header] = (), seconds: float | None = None
    ) -> Reply:
        """Offer the scene as it is now, with full metadata unless told otherwise; the answer moves the media.

        A 491 (both sides re-INVITE at once) is tried again after the wait of RFC 3261 section 14.1. `seconds`: wait no
        longer than this for an answer (408 then).
        """
        for _ in range(GLARE_ATTEMPTS):
            content, body = self.scene.invitation(metadata=metadata)
            extra = (*REQUIRE, *headers, *content)
            reply = await self._request("INVITE", headers=extra, body=body, seconds=seconds)
            if reply.status != 491:
                break
            await asyncio.sleep(self._random.uniform(*GLARE_WAIT))
        if reply.ok and reply.response is not None:
            self._take_answer(reply.response)
        return reply

    async def hold(self, *labels: str) -> Reply:
        """Offer the streams `labels` (all by default) as a=inactive: recording pauses (RFC 7866 section 7.1.1.1)."""
        return await self._direct("inactive", labels)

    async def resume(self, *labels: str) -> Reply:
        """Offer the streams `labels` (all by default) as a=sendonly again."""
        return await self._direct("sendonly", labels)

    async def add_stream(self, party: Party) -> Reply:
        """`party` joins the call with a stream of its own: a new m-line and full metadata."""
        stream = self.client.open_stream(self.scene, self.options, party)
        self.streams.append(stream)
        reply = await self.reinvite()
        if reply.ok:
            self.client.sender.add(stream)
        else:  # a refused re-INVITE changes nothing (RFC 3261 section 14.1)
            self.streams.remove(stream)
            self.scene.channels.pop()
            stream.close()
        return reply

    async def remove_stream(self, label: str) -> Reply:
        """The stream's party leaves: port 0 in the offer (RFC 3264 section 8.2), and said so in the metadata."""
        for channel in self.scene.channels:
            if channel.label == label:
                self.scene.leave(channel)
        return await self.reinvite()

    async def update(
        self, *, body: bytes | None = None, content: Sequence[Header] | None = None, headers: Sequence[Header] = ()
    ) -> Reply:
        """An UPDATE with metadata only (RFC 7866 section 9.1): the full snapshot, or `body` with `content` headers."""
        described, snapshot = self.scene.snapshot()
        content = described if content is None else content
        body = snapshot if body is None else body
        return await self._request("UPDATE", headers=(*REQUIRE, *headers, *content), body=body)

    async def options_ping(self, *, seconds: float | None = None) -> Reply:
        """OPTIONS in the dialog, as SBCs probe their recorder: 200 while it knows the call, 481 when it does not, 408
        when nothing came within `seconds`."""
        return await self._request("OPTIONS", seconds=seconds)

    async def info(self, body: bytes, content_type: str) -> Reply:
        """INFO in the dialog with any body."""
        return await self._request("INFO", headers=(("Content-Type", content_type),), body=body)

    # -- for the client: what the server sent

    def progress(self, response: Response) -> None:
        """A provisional response to the INVITE."""
        self.result.provisional.append(response.status)
        self._progress.set()

    def received(self, event: RequestReceived) -> None:
        """A request of the server within the dialog."""
        self.requests.append(event.request.method)
        if self._silent:
            return
        handler = _HANDLERS.get(event.request.method)
        if handler is None:
            self.client.respond(event.transaction, 501)
        else:
            handler(self, event)

    def acknowledged(self, request: Request) -> None:
        """The server's ACK of our 2xx; it holds the answer when the server's re-INVITE held no offer."""
        if request.body:
            self._take_answer(request)

    def _on_bye(self, event: RequestReceived) -> None:
        self.client.respond(event.transaction, 200)
        self.result.ended_by = "server"
        self._end()

    def _on_options(self, event: RequestReceived) -> None:
        self.client.respond(event.transaction, 200)

    def _on_info(self, event: RequestReceived) -> None:
        self.client.respond(event.transaction, 200)

    def _on_offer(self, event: RequestReceived) -> None:
        """A re-INVITE, or an UPDATE with an offer: our streams stay, the server may move or pause them. Without an
        offer we make one, and the ACK answers it (RFC 3261 section 14.2)."""
        try:
            offer = _session_description(event.request)
            agreed = None if offer is None else read_answer(self.scene.offer(), offer)
        except PeerError as problem:
            self.client.respond(event.transaction, problem.status)
            return
        ours = self.scene.offer() if agreed is None else self.scene.answer(agreed)
        self.client.respond(event.transaction, 200, headers=(("Content-Type", SDP_TYPE),), body=bytes(ours))
        if agreed is not None:
            self._move(agreed)

    def _on_update(self, event: RequestReceived) -> None:
        try:
            parts = _parts(event.request)
        except PeerError as problem:
            self.client.respond(event.transaction, problem.status)
            return
        if any(part.content_type.name == SDP_TYPE for part in parts):
            self._on_offer(event)
            return
        self.client.respond(event.transaction, 200)
        if any(_asks_for_snapshot(part) for part in parts):
            self.snapshots_requested += 1
            self.client.spawn(self._send_snapshot())

    async def _send_snapshot(self) -> None:
        """RFC 7866 section 9.2: at once, in a separate UPDATE, or a re-INVITE for a server that has no UPDATE."""
        await (self.update() if "UPDATE" in self._peer_allows else self.reinvite())

    # -- setting up

    async def _invite(self) -> None:
        try:
            self.flow = await self.client.flow_to(self.options.target)
            content, body = self.scene.invitation(metadata=self.options.metadata)
            headers = (*REQUIRE, *self.options.headers, *self._extra, *content)
            pending = Pending(self)
            self._transaction = self.client.invite(self, headers, body, pending)
        except (SipError, LocalError, Overload) as problem:
            self.result.problem = str(problem)
        else:
            await self._final(pending.reply)
            self._transaction = None
        if not self.result.answered:
            self.result.ended_by = "failure"
            if self._heir_of is not None:
                self._heir_of.streams, self.streams = self.streams, []
            self._end()

    async def _final(self, reply: asyncio.Future[Reply]) -> None:
        """Take the final response, or give up on a server that stays silent or only ever rings."""
        progress = asyncio.ensure_future(self._progress.wait())
        await asyncio.wait((reply, progress), timeout=self.options.timeout, return_when=asyncio.FIRST_COMPLETED)
        progress.cancel()
        if not reply.done() and self._progress.is_set():
            await asyncio.wait((reply,), timeout=RINGING_SECONDS)
        if reply.done():
            self._settle(reply.result())
        elif self._transaction is not None:
            self.client.give_up(self._transaction)
            self.result.problem = self._silence()

    def _silence(self) -> str:
        host, port = self.flow.remote if self.flow else ("", 0)
        if self.result.provisional:
            last = self.result.provisional[-1]
            return f"{host}:{port} answered {last} but nothing final within {RINGING_SECONDS:g} s"
        where = f"{host}:{port} ({self.options.transport})"
        asked = "is siprec serve running, and do we stand in its SIP_ALLOW?"
        return f"no answer from {where} within {self.options.timeout:g} s: {asked}"

    def _settle(self, reply: Reply) -> None:
        result = self.result
        if reply.response is None:
            result.problem = self._silence() if reply.status == 408 else self._unreachable()
            return
        result.status, result.reason, result.setup_ms = reply.status, reply.reason, reply.seconds * 1000
        if not reply.ok:
            result.problem = f"the server refused the call: {reply.status} {reply.reason}"
            return
        if not self._take_answer(reply.response):
            result.problem = "the server's 200 holds no session description that answers our offer"
        self._answered_at = clock.monotonic()
        for stream in self.streams:
            self.client.sender.add(stream)

    def _unreachable(self) -> str:
        host, port = self.flow.remote if self.flow else ("", 0)
        return f"nobody listens at {host}:{port} ({self.options.transport}): is siprec serve running?"

    # -- media

    def _take_answer(self, message: Request | Response) -> bool:
        """Send as `message` answers (RFC 3264 section 7); False when it holds no session description we can use."""
        self._peer_allows = frozenset(message.headers.values("Allow")) or self._peer_allows
        try:
            answer = _session_description(message)
            if answer is None or self.scene.offered is None:
                return False
            agreed = read_answer(self.scene.offered, answer)
        except PeerError:
            return False
        self.result.answer = str(answer)
        self._move(agreed)
        return True

    def _move(self, agreed: Sequence[NegotiatedStream]) -> None:
        """Point each stream where its m-line says; silence the streams that are held or refused. A call whose streams
        another one has taken over has none to move."""
        if not self.streams:
            return
        for stream, channel, line in zip(self.streams, self.scene.channels, agreed, strict=True):
            if stream.security is not None:
                stream.security.agree(line.crypto)
            stream.connect(_remote(line))
            stream.active = line.direction == "sendonly" and stream.remote is not None and self._heard(channel)
        self.result.streams = [
            StreamResult(channel.label, channel.party.name, line.accepted, stream.counts)
            for stream, channel, line in zip(self.streams, self.scene.channels, agreed, strict=True)
        ]

    def _heard(self, channel: Channel) -> bool:
        return not self.options.one_way or channel is self.scene.channels[0]

    # -- private

    async def _direct(self, direction: Direction, labels: Sequence[str]) -> Reply:
        chosen = [each for each in self.scene.channels if each.port and (not labels or each.label in labels)]
        before = [channel.direction for channel in chosen]
        for channel in chosen:
            channel.direction = direction
        reply = await self.reinvite()
        if not reply.ok:
            for channel, previous in zip(chosen, before, strict=True):
                channel.direction = previous
        return reply

    async def _request(
        self, method: str, *, headers: Sequence[Header] = (), body: bytes = b"", seconds: float | None = None
    ) -> Reply:
        if self.dialog is None or self.ended.is_set():
            return Reply(481, "the call is over", 0.0)
        pending = Pending()
        try:
            self.client.request(method, self.dialog, headers, body, pending)
        except LocalError as problem:  # over, or another re-INVITE is pending
            over = self.dialog.state == "terminated"
            return Reply(481 if over else 491, str(problem), 0.0)
        await asyncio.wait((pending.reply,), timeout=seconds)
        return pending.reply.result() if pending.reply.done() else Reply(*_NO_REPLY["timeout"], seconds or 0.0)

    def _stop_media(self) -> None:
        for stream in self.streams:
            self.client.sender.remove(stream)
        if self.result.answered and not self.ended.is_set():
            self.result.seconds = clock.monotonic() - self._answered_at

    def _end(self) -> None:
        self._stop_media()
        for stream in self.streams:
            stream.close()
        if not self.ended.is_set():
            self.ended.set()
            self.client.discard(self, keep_dialog=self._silent)


_HANDLERS: dict[str, Callable[[LiveCall, RequestReceived], None]] = {
    "BYE": LiveCall._on_bye,
    "OPTIONS": LiveCall._on_options,
    "INFO": LiveCall._on_info,
    "INVITE": LiveCall._on_offer,
    "UPDATE": LiveCall._on_update,
}


def _parts(message: Request | Response) -> list[BodyPart]:
    return parse_body(message.headers, message.body) if message.body else []


def _session_description(message: Request | Response) -> SessionDescription | None:
    """The SDP of `message`, None without any. Raises PeerError when it cannot be parsed."""
    for part in _parts(message):
        if part.content_type.name == SDP_TYPE:
            return model.parse(part.body)
    return None


def _remote(line: NegotiatedStream) -> Remote | None:
    """Where the m-line wants its packets; None when it wants none (port 0, c=0.0.0.0)."""
    if not line.accepted or line.remote_address is None:
        return None
    rtcp_port = line.remote_rtcp[1] if line.remote_rtcp else line.remote_port
    return Remote(line.remote_address, line.remote_port, rtcp_port)


def _asks_for_snapshot(part: BodyPart) -> bool:
    if not part.content_type.subtype.startswith("rs-metadata"):
        return False
    try:
        return isinstance(xml.parse(part.body), SnapshotRequest)
    except PeerError:
        return False
