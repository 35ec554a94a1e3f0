"""SIP over TCP and TLS: connections that peers open to us, and those that we open to them.

Whoever is not listed is closed before a byte is read, and before any TLS handshake. A message must be complete within
5 s of its first byte; between messages a connection may stay idle for ever, since a trunk does. A peer that does not
read what we send is cut off when its buffer is full.
"""

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from siprec.net.address import bare, bound_socket, family_of, sendable
from siprec.net.signalling import Pump
from siprec.sip.flow import Flow, Transport
from siprec.sip.framing import StreamError, StreamFramer

# SECURITY A12: a slow attacker who is listed may hold half of what there is.
MAX_CONNECTIONS = 4000
# The kernel's queue of connections not yet accepted: all SRCs may come back at once after a failover.
BACKLOG = 1024
# Connections accepted before other callbacks get their turn.
ACCEPT_BATCH = 64
# A peer that lets this much pile up does not read: a few of the largest messages, 300 INVITEs. As much may wait for a
# connection to open.
MAX_UNSENT_BYTES = 1024 * 1024
CONNECT_SECONDS = 5.0
HANDSHAKE_SECONDS = 5.0
# How long accepting rests when no descriptor is left.
REST_SECONDS = 1.0
# TCP's own keep-alive finds dead peers without closing living idle ones.
KEEP_ALIVE_SECONDS = 30

_OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Connection(asyncio.Protocol):
    """One connection, either way round."""

    def __init__(self, listener: "TcpListener", number: int) -> None:
        self._listener = listener
        self._framer = StreamFramer()
        self._number = number
        self._transport: asyncio.Transport | None = None
        self.flow: Flow | None = None

    @property
    def number(self) -> int:
        return self._number

    @property
    def deadline(self) -> float | None:
        """When the message that has begun to come in must be complete."""
        return self._framer.deadline()

    @property
    def peer_certificate(self) -> Mapping[str, Any] | None:
        return self._transport.get_extra_info("peercert") if self._transport else None

    # --- called by the event loop --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport was expected")
        self._transport = transport
        local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if not local or not remote:  # gone before it was set up
            transport.abort()
            return
        _keep_alive(transport.get_extra_info("socket"))
        self.flow = Flow(
            self._listener.transport, (bare(local[0]), local[1]), (bare(remote[0]), remote[1]), self._number
        )
        self._listener.made(self)

    def data_received(self, data: bytes) -> None:
        flow = self.flow
        if flow is None:
            return
        try:
            messages = self._framer.feed(data, self._listener.time())
        except StreamError as error:
            self._broken(error, flow)
            return
        if self._framer.pongs:
            self.write(b"\r\n" * self._framer.pongs)
            self._framer.pongs = 0
        for message in messages:
            self._listener.pump.receive(message, flow)
        self._listener.watch(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.lost(self)

    # --- called by the listener ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _broken(self, error: StreamError, flow: Flow) -> None:
        """After an error nobody knows where the next message starts: answer, then close."""
        for message in error.messages:
            self._listener.pump.receive(message, flow)
        self._listener.pump.receive_broken(error, flow)
        if self._transport is not None:
            self._transport.close()


class TcpListener:
    """A listening socket and all its connections; TLS with `tls` (server side) and `tls_client` (our side).

    With `tls_client` alone only connections of ours are made; whoever comes is turned away.

    Raises ListenError when the address cannot be had. `allow`, `refused` and `sock` as for UDP; `refused` also hears of
    connections closed for a limit. Connections that we open use the same limits.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        pump: Pump,
        allow: Callable[[str], bool],
        refused: Callable[[str, str], None],
        tls: ssl.SSLContext | None = None,
        tls_client: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        setting: str | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        self.transport: Transport = "tls" if tls or tls_client else "tcp"
        name = setting or ("SIP_HOST, SIP_TLS_PORT" if self.transport == "tls" else "SIP_HOST, SIP_PORT")
        self._socket = sock or bound_socket(socket.SOCK_STREAM, host, port, setting=name)
        self._socket.setblocking(False)
        self._socket.listen(BACKLOG)
        self._host, self._port = self._socket.getsockname()[:2]
        self._tls, self._tls_client = tls, tls_client
        self._allow, self._refused = allow, refused
        self._limit = max_connections
        self._loop = asyncio.get_running_loop()
        self._connections: dict[int, Connection] = {}
        self._by_remote: dict[tuple[str, int], Connection] = {}
        self._sources: dict[int, str] = {}  # every connection that counts, handshakes included
        self._per_source: Counter[str] = Counter()
        self._waiting: dict[tuple[str, int], list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished: dict[int, float] = {}  # deadlines in order, since all messages get the same time
        self._watchdog: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._closed = False
        self.pump = pump
        self.dropped = 0
        """Messages that found too much waiting for their connection; what they asked times out."""
        self._loop.add_reader(self._socket, self._acceptable)
        pump.attach(self)

    @property
    def address(self) -> tuple[str, int]:
        return self._host, self._port

    def __len__(self) -> int:
        """Connections that count against the limit."""
        return len(self._sources)

    def close(self) -> None:
        """Stop listening and drop all connections."""
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._socket.close()
        self.pump.detach(self)
        for timer in (self._watchdog, self._resting):
            if timer is not None:
                timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._connections.values()):
            connection.abort()

    def peer_certificate(self, flow: Flow) -> Mapping[str, Any] | None:
        """What the peer of a connection proved to be (as `ssl.SSLSocket.getpeercert`), None without mutual TLS."""
        connection = self._connections.get(flow.connection)
        return connection.peer_certificate if connection else None

    # --- called by the event loop --------------------------------------------------------------------------

    def _acceptable(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._rest()
                return
            self._accepted(sock, bare(address[0]))

    def _accepted(self, sock: socket.socket, remote: str) -> None:
        plain = self.transport == "tls" and self._tls is None
        if plain or not self._allow(remote) or not self._room(remote):
            self._refused(remote, self.transport)
            sock.close()
            return
        number = self._count(remote)
        self._spawn(self._welcome(sock, number))

    async def _welcome(self, sock: socket.socket, number: int) -> None:
        sock.setblocking(False)
        timeout = HANDSHAKE_SECONDS if self._tls else None
        try:
            await self._loop.connect_accepted_socket(
                lambda: Connection(self, number), sock, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except OSError:  # the handshake failed (ssl.SSLError is one) or the peer has gone
            sock.close()
            self._discount(number)
        except asyncio.CancelledError:
            sock.close()
            raise

    def _rest(self) -> None:
        """Without descriptors accept() fails at once and for ever: look again a little later."""
        self._loop.remove_reader(self._socket)
        self._resting = self._loop.call_later(REST_SECONDS, self._wake)

    def _wake(self) -> None:
        self._resting = None
        self._loop.add_reader(self._socket, self._acceptable)

    def _overdue(self) -> None:
        """Messages that are not complete in time cost their connection."""
        self._watchdog = None
        now = self.time()
        for number, deadline in list(self._unfinished.items()):
            if deadline > now:
                break
            del self._unfinished[number]
            self._connections[number].abort()
        self._watch()

    # --- called by connections -----------------------------------------------------------------------------

    def time(self) -> float:
        """Monotonic seconds of the event loop, for deadlines of unfinished messages."""
        return self._loop.time()

    def made(self, connection: Connection) -> None:
        if self._closed:
            connection.abort()
        elif connection.flow is not None:
            self._connections[connection.number] = connection
            self._by_remote[connection.flow.remote] = connection

    def watch(self, connection: Connection) -> None:
        """See that what `connection` has begun to send gets complete."""
        deadline = connection.deadline
        if deadline == self._unfinished.get(connection.number):
            return
        self._unfinished.pop(connection.number, None)
        if deadline is not None:
            self._unfinished[connection.number] = deadline
            self._watch()

    def lost(self, connection: Connection) -> None:
        self._connections.pop(connection.number, None)
        self._unfinished.pop(connection.number, None)
        self._discount(connection.number)
        if connection.flow is not None:
            if self._by_remote.get(connection.flow.remote) is connection:
                del self._by_remote[connection.flow.remote]
            self.pump.transport_failed(connection.flow)

    # --- called by the pump --------------------------------------------------------------------------------

    def serves(self, flow: Flow) -> int:
        if flow.connection in self._connections:
            return 2
        return 1 if family_of(flow.remote[0]) == self._socket.family else 0

    def send(self, flow: Flow, data: bytes) -> None:
        connection = self._connections.get(flow.connection) or self._by_remote.get(flow.remote)
        if connection is not None:
            connection.write(data)
        elif flow.connection or not sendable(*flow.remote):
            self.pump.transport_failed(flow)
        else:
            self._open(flow, data)

    # --- private -------------------------------------------------------------------------------------------

    def _open(self, flow: Flow, data: bytes) -> None:
        waiting = self._waiting.get(flow.remote)
        if waiting is not None:
            if sum(map(len, waiting)) + len(data) > MAX_UNSENT_BYTES:
                self.dropped += 1
                return
            waiting.append(data)
        elif self._closed or self._tls_missing() or not self._room(flow.remote[0]):
            self.pump.transport_failed(flow)
        else:
            self._waiting[flow.remote] = [data]
            self._spawn(self._connect(flow, self._count(flow.remote[0])))

    async def _connect(self, flow: Flow, number: int) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self, number), *flow.remote, ssl=self._tls_client
                )
        except OSError:  # TimeoutError and ssl.SSLError are of the family
            self._waiting.pop(flow.remote, None)
            self._discount(number)
            self.pump.transport_failed(flow)
            return
        for data in self._waiting.pop(flow.remote, []):
            connection.write(data)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tls_missing(self) -> bool:
        return self.transport == "tls" and self._tls_client is None

    def _room(self, remote: str) -> bool:
        return len(self._sources) < self._limit and self._per_source[remote] < max(1, self._limit // 2)

    def _count(self, remote: str) -> int:
        number = self.pump.new_connection()
        self._sources[number] = remote
        self._per_source[remote] += 1
        return number

    def _discount(self, number: int) -> None:
        remote = self._sources.pop(number, None)
        if remote is not None:
            self._per_source[remote] -= 1
            if not self._per_source[remote]:
                del self._per_source[remote]

    def _watch(self) -> None:
        if self._watchdog is None and self._unfinished and not self._closed:
            self._watchdog = self._loop.call_at(next(iter(self._unfinished.values())), self._overdue)


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_SECONDS)
