"""The recording client (SRC, RFC 7866): one SIP user agent that makes many recording sessions.

    async with RecordingClient(local="127.0.0.1") as client:
        call = await client.start(CallOptions(target="sip:127.0.0.1:5060"))
        await call.run(5.0)
        await call.bye()

One endpoint, one pump, one socket for signalling and one task for media serve all calls.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import uuid
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

from siprec import clock
from siprec.client.call import LiveCall, Pending
from siprec.client.media import PortPair, RtpStream, Sender
from siprec.client.options import CallOptions, CallResult, Header, Party
from siprec.client.scene import Scene
from siprec.client.security import StreamSecurity
from siprec.client.tracks import CODECS, tracks
from siprec.errors import ListenError, SipError
from siprec.net.address import family_of
from siprec.net.signalling import Pump
from siprec.net.tcp import TcpListener
from siprec.net.tls import client_context
from siprec.net.udp import UdpListener, source_address
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import AckMissing, AckReceived, Event, RequestFailed, RequestReceived, ResponseReceived
from siprec.sip.flow import Address, Flow
from siprec.sip.uri import SipUri

USER_AGENT = "siprec-src"
DEFAULT_PORT = 5060
DEFAULT_TLS_PORT = 5061

SUPPORTED = ("siprec", "replaces", "100rel")
"""No "timer": a session that the server wants refreshed is refreshed by the server (RFC 4028 section 9)."""

Transport = Literal["udp", "tcp", "tls"]


class RecordingClient:
    """`local`: the address that Contact and SDP name and that every socket is bound to; `port` 0 takes any.
    `tls`: how to speak TLS; by default to any server, without a certificate of our own.

    An asynchronous context manager; on exit everything is closed, and calls that still live are cut without BYE.
    Entry raises ListenError when the address is not this machine's or the port is taken.
    """

    def __init__(
        self,
        *,
        local: str = "127.0.0.1",
        port: int = 0,
        transport: Transport = "udp",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.local, self.port, self.transport = local, port, transport
        self._tls = (tls or client_context()) if transport == "tls" else None
        self.calls: set[LiveCall] = set()
        self.stopping = False
        self.sender = Sender()
        self._dialogs: dict[DialogKey, LiveCall] = {}
        self._pending: dict[str, Pending] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.endpoint = Endpoint(token=_token, user_agent=USER_AGENT, supported=SUPPORTED)
        self._pump = Pump(self.endpoint, self._on_event, clock=clock.monotonic, on_defect=self._on_defect)
        self._defects: list[Exception] = []

    @classmethod
    def towards(
        cls, target: str, *, transport: Transport = "udp", local: str | None = None, tls: ssl.SSLContext | None = None
    ) -> Self:
        """A client on `local`, or on the address from which the route to the SIP URI `target` leaves.

        Raises SipError for a target that is no SIP URI, ListenError for one without address or route.
        """
        return cls(local=local or _route_source(target), transport=transport, tls=tls)

    async def __aenter__(self) -> Self:
        listen = UdpListener if self.transport == "udp" else partial(TcpListener, tls_client=self._tls)
        self._listener: UdpListener | TcpListener = listen(
            self.local, self.port, pump=self._pump, allow=_anybody, refused=_uncounted, setting="the local address"
        )
        self.port = self._listener.address[1]
        self.sender.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for call in list(self.calls):
            call.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sender.stop()
        self._pump.close()
        self._listener.close()
        if self._defects and error is None:
            raise self._defects[0]

    # -- for the user

    async def start(self, options: CallOptions, *, voices: int | None = None) -> LiveCall:
        """Call and wait for the final response; see `LiveCall.result` for what it was. Media flows on 2xx."""
        call = self.begin(options, voices=voices)
        await call.answer()
        return call

    async def call(self, options: CallOptions, *, voices: int | None = None) -> CallResult:
        """A whole call: set up, `options.duration` seconds of media, BYE. Never raises for what the server does."""
        call = await self.start(options, voices=voices)
        call.limit(options.duration)
        await call.run(options.duration)
        return await call.bye()

    def begin(self, options: CallOptions, *, voices: int | None = None) -> LiveCall:
        """A call whose INVITE goes out with `answer()`. `voices`: seed of the conversation if not `options.seed`.

        Raises KeyError for a codec not in CODECS, ListenError when no UDP port is free.
        """
        session = uuid.UUID(options.session_id) if options.session_id else uuid.uuid4()
        scene = Scene(self.local, CODECS[options.codec], session=session)
        call = LiveCall(self, options, scene)
        try:
            for party in options.parties:
                call.streams.append(self.open_stream(scene, options, party, voices=voices))
        except ListenError:
            for stream in call.streams:
                stream.close()
            raise
        if options.inactive:
            for channel in scene.channels:
                channel.direction = "inactive"
        self.calls.add(call)
        return call

    def take_over(self, lost: LiveCall, options: CallOptions, *, replaces: bool = False) -> LiveCall:
        """The session of `lost` in a new dialog with `options.target`, as an SRC fails over: new Call-ID, the same
        metadata, and the same RTP streams, which go on without a break. `replaces` names the old dialog (RFC 3891).

        The old call keeps its dialog, without streams: end it by `abandon()`, or leave it to the server's BYE. When
        the new INVITE is refused, the old call has its streams back and may be taken elsewhere.
        """
        named = (("Replaces", replaces_header(lost.dialog)),) if replaces and lost.dialog else ()
        call = LiveCall(self, options, lost.scene, headers=named, heir_of=lost)
        call.streams, lost.streams = lost.streams, []
        self.calls.add(call)
        return call

    def hang_up(self) -> None:
        """End the media of all calls now; each then sends its BYE. No further calls of a load are begun."""
        self.stopping = True
        for call in self.calls:
            call.hang_up()

    # -- for a call

    def open_stream(self, scene: Scene, options: CallOptions, party: Party, *, voices: int | None = None) -> RtpStream:
        """A stream for `party`, who joins `scene`."""
        ports = PortPair(self.local)
        channel = scene.join(party, ports.port)
        security = StreamSecurity.new(options.srtp) if options.srtp else None
        channel.crypto = str(security.offered) if security else None
        seed = options.seed if voices is None else voices
        index = len(scene.channels) - 1
        speakers = max(len(options.parties), index + 1)
        track = tracks(options.duration, codec=options.codec, speakers=speakers, seed=seed)[index]
        return RtpStream(
            track, ports, seed=options.seed, label=channel.label,
            impairments=options.impairments, counter=options.counter, reports=options.reports, security=security,
        )  # fmt: skip

    async def flow_to(self, target: str) -> Flow:
        """The way to the SIP URI `target`; a host name is resolved without blocking the other calls."""
        host, port = destination(target, DEFAULT_TLS_PORT if self.transport == "tls" else DEFAULT_PORT)
        if family_of(host) is not None:
            return Flow(self.transport, (self.local, self.port), (host, port))
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as problem:
            raise ListenError(f"{host} has no address: {problem.strerror}") from problem
        # each entry ends with the address; take one of the family that we listen on
        hosts = [str(each[4][0]) for each in found]
        ours = next((each for each in hosts if (":" in each) == (":" in self.local)), hosts[0])
        return Flow(self.transport, (self.local, self.port), (ours, port))

    def invite(self, call: LiveCall, headers: Sequence[Header], body: bytes, pending: Pending) -> str:
        """Send the INVITE that opens `call`; the transaction's number."""
        assert call.flow is not None
        transaction = self.endpoint.invite(
            call.options.target, call.flow,
            from_=f'"{USER_AGENT}" <sip:src@{_bracketed(self.local)}>', to=f"<{call.options.target}>",
            contact=self._contact(), headers=headers, body=body, now=clock.monotonic(),
        )  # fmt: skip
        self._pending[transaction] = pending
        self.flush()
        return transaction

    def request(self, method: str, dialog: Dialog, headers: Sequence[Header], body: bytes, pending: Pending) -> None:
        """Send a request within `dialog`."""
        transaction = self.endpoint.request(method, dialog, headers=headers, body=body, now=clock.monotonic())
        self._pending[transaction] = pending
        self.flush()

    def respond(self, transaction: str, status: int, *, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        """Answer a request of the server."""
        self.endpoint.respond(
            transaction, status, now=clock.monotonic(), headers=headers, body=body, contact=self._contact()
        )

    def cancel(self, transaction: str) -> None:
        """Take an INVITE back."""
        self.endpoint.cancel(transaction, now=clock.monotonic())
        self.flush()

    def give_up(self, transaction: str) -> None:
        """Take an INVITE back and wait for nothing more; a 2xx that comes all the same is ended."""
        self._pending.pop(transaction, None)
        self.cancel(transaction)

    def flush(self) -> None:
        """Put on the wire what the endpoint has to send."""
        self._pump.flush()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` beside everything else, for as long as the client lives."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def discard(self, call: LiveCall, *, keep_dialog: bool) -> None:
        """`call` is over; requests in a dialog that is kept still reach it."""
        self.calls.discard(call)
        if call.dialog is not None and not keep_dialog:
            self._dialogs.pop(call.dialog.key, None)

    # -- from the pump

    def _on_event(self, event: Event, now: float) -> None:
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _on_response(self, event: ResponseReceived) -> None:
        pending = self._pending.get(event.transaction)
        if pending is None:
            self._stray(event)
        elif event.response.status >= 200:
            del self._pending[event.transaction]
            self._confirm(pending, event)
            pending.final(event.response)
        else:
            pending.provisional(event.response)

    def _confirm(self, pending: Pending, event: ResponseReceived) -> None:
        """At once, not when the call's task wakes up: the server's first request may come with its 2xx."""
        if pending.call is not None and event.dialog is not None and event.response.status < 300:
            pending.call.dialog = event.dialog
            self._dialogs[event.dialog.key] = pending.call

    def _stray(self, event: ResponseReceived) -> None:
        """A 2xx that nobody waits for any more, or a second one of a forked INVITE: it made a dialog, so end it."""
        if event.dialog is not None and event.request.method == "INVITE" and 200 <= event.response.status < 300:
            self.endpoint.request("BYE", event.dialog, now=clock.monotonic())

    def _on_failure(self, event: RequestFailed) -> None:
        pending = self._pending.pop(event.transaction, None)
        if pending is not None:
            pending.failed(event.cause)

    def _on_ack(self, event: AckReceived) -> None:
        call = self._dialogs.get(event.dialog.key)
        if call is not None:
            call.acknowledged(event.request)

    def _on_missing_ack(self, event: AckMissing) -> None:
        call = self._dialogs.get(event.dialog.key)
        if call is not None:
            call.hang_up()

    def _on_defect(self, error: Exception, event: Event | None) -> None:
        """Our own mistake: told when the client is left, so that it does not end the other calls."""
        self._defects.append(error)

    def _on_request(self, event: RequestReceived) -> None:
        call = self._dialogs.get(event.dialog.key) if event.dialog else None
        if call is not None:
            call.received(event)
        elif event.request.method == "OPTIONS":
            self.respond(event.transaction, 200)
        else:  # a call to us, or to a call that is over: this user agent only calls
            self.respond(event.transaction, 481 if event.dialog else 403)

    # -- private

    def _contact(self) -> str:
        """Contact with the feature tag of an SRC (RFC 7866 section 6.1.1)."""
        transport = "" if self.transport == "udp" else f";transport={self.transport}"
        return f"<sip:src@{_bracketed(self.local)}:{self.port}{transport}>;+sip.src"


_HANDLERS: dict[type, Callable[[RecordingClient, Any], None]] = {
    RequestReceived: RecordingClient._on_request,
    ResponseReceived: RecordingClient._on_response,
    RequestFailed: RecordingClient._on_failure,
    AckReceived: RecordingClient._on_ack,
    AckMissing: RecordingClient._on_missing_ack,
}


def _anybody(address: str) -> bool:
    return True


def _uncounted(address: str, transport: str) -> None:
    """Nobody is refused, so nothing is counted."""


def _token() -> str:
    return secrets.token_hex(8)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def replaces_header(dialog: Dialog) -> str:
    """The value of Replaces that names `dialog`, in the tags as its other side knows them (RFC 3891 section 3)."""
    return f"{dialog.call_id};to-tag={dialog.remote_tag};from-tag={dialog.local_tag}"


def destination(target: str, default_port: int = DEFAULT_PORT) -> Address:
    """Host and port of a SIP URI. Raises SipError."""
    uri = SipUri.parse(target)
    if not uri.host:
        raise SipError("the target names no host: write it as sip:127.0.0.1:5060")
    return uri.host.strip("[]"), uri.port or default_port


def _route_source(target: str) -> str:
    """The address of ours from which packets to `target` leave. Raises ListenError without a route."""
    host, port = destination(target)
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4]
        return source_address((str(address[0]), port))
    except OSError as problem:
        raise ListenError(f"no way to {host}: {problem.strerror}") from problem
