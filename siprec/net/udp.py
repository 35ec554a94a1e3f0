"""SIP over UDP: one socket, read in batches from the event loop (asyncio's own transport costs five times more).

When bound to a wildcard address the kernel tells which of our addresses each datagram hit, and the reply leaves from
that one: a peer behind a firewall or with a connected socket would not take it from another.
"""

import asyncio
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from siprec.net.address import bare, bound_socket, family_of, is_wildcard, sendable
from siprec.net.signalling import Pump
from siprec.sip.flow import Flow, Transport
from siprec.sip.limits import MAX_DATAGRAM_BYTES

# Datagrams read before other callbacks get their turn: most of what the receive buffer holds. The sooner an INVITE has
# its 100, or its 503 when there are too many, the fewer are repeated; 512 of them take a tenth of a second.
BATCH = 512
# Asked from the kernel (it caps at net.core.rmem_max): 1 000 INVITEs of 3 kB with their bookkeeping.
RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
# Datagrams waiting for a full socket to drain; SIP repeats what is lost, so the rest is dropped and counted.
MAX_QUEUED = 1024
# Flows known by their addresses: transactions and dialogs hold them for long, and a peer's all share one.
MAX_FLOWS = 1024

_IP_PKTINFO = 8  # linux/in.h; the socket module lacks it before Python 3.14
_PKTINFO4 = struct.Struct("=i4s4s")  # interface, local address, destination in the header
_PKTINFO6 = struct.Struct("=16si")
_ANCILLARY_BYTES = 128  # two control messages with room to spare


class UdpListener:
    """A bound UDP socket at work. Raises ListenError when the address cannot be had.

    `allow(ip)` is asked before anything is looked at; what it does not let in is counted by `refused(ip, "udp")` and
    gets no answer. `sock` is a socket that is already bound (handed over by another process).
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        pump: Pump,
        allow: Callable[[str], bool],
        refused: Callable[[str, str], None],
        setting: str = "SIP_HOST, SIP_PORT",
        sock: socket.socket | None = None,
    ) -> None:
        self.transport: Transport = "udp"
        self._socket = sock or bound_socket(socket.SOCK_DGRAM, host, port, setting=setting)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._host, self._port = self._socket.getsockname()[:2]
        self._wildcard = is_wildcard(self._host)
        if self._wildcard:
            self._ask_destination()
        self._pump = pump
        self._allow = allow
        self._refused = refused
        self._buffer = memoryview(bytearray(MAX_DATAGRAM_BYTES))
        self._queue: deque[tuple[Flow, bytes]] = deque()
        self.dropped = 0
        """Messages that were not sent because the queue was full."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)
        pump.attach(self)

    @property
    def address(self) -> tuple[str, int]:
        return self._host, self._port

    @property
    def receive_buffer_bytes(self) -> int:
        """What the kernel granted (it doubles what it grants for its own use)."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._pump.detach(self)
        self._socket.close()

    # --- called by the event loop --------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(BATCH):
            try:
                length, ancillary, _flags, source = self._socket.recvmsg_into([self._buffer], _ANCILLARY_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error to something we sent: ECONNREFUSED and its kin; the next read is clean
            self._datagram(length, ancillary, source)

    def _datagram(self, length: int, ancillary: list[tuple[int, int, bytes]], source: tuple[str, int]) -> None:
        remote = (bare(source[0]), source[1])
        if not self._allow(remote[0]):
            self._refused(remote[0], "udp")
            return
        local = self._destination(ancillary) if self._wildcard else self._host
        if local is not None and remote[1]:
            # The scope of a link-local source is needed to answer it.
            flow = _flow(local, self._port, source[0], source[1])
            self._pump.receive(bytes(self._buffer[:length]), flow)

    def _writable(self) -> None:
        while self._queue:
            flow, data = self._queue[0]
            if not self._transmit(flow, data):
                return
            self._queue.popleft()
        self._loop.remove_writer(self._socket)

    # --- called by the pump --------------------------------------------------------------------------------

    def serves(self, flow: Flow) -> int:
        if family_of(flow.remote[0]) != self._socket.family:
            return 0
        return 2 if flow.local[1] == self._port and (self._wildcard or flow.local[0] == self._host) else 1

    def send(self, flow: Flow, data: bytes) -> None:
        if not sendable(*flow.remote):
            self._pump.transport_failed(flow)
        elif self._queue:
            self._enqueue(flow, data)
        elif not self._transmit(flow, data):
            self._enqueue(flow, data)
            self._loop.add_writer(self._socket, self._writable)

    # --- private -------------------------------------------------------------------------------------------

    def _enqueue(self, flow: Flow, data: bytes) -> None:
        if len(self._queue) >= MAX_QUEUED:
            self.dropped += 1
            return
        self._queue.append((flow, data))

    def _transmit(self, flow: Flow, data: bytes) -> bool:
        """Send at once; False when the socket is full."""
        try:
            self._socket.sendmsg([data], self._source(flow.local[0]), 0, flow.remote)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:  # that one tells of an earlier datagram, to whomever
                self._pump.transport_failed(flow)
        return True

    def _ask_destination(self) -> None:
        if self._socket.family == socket.AF_INET:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    def _destination(self, ancillary: list[tuple[int, int, bytes]]) -> str | None:
        """Our address that a datagram was sent to; None for broadcast and multicast, which get no answer."""
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                _, local, header = _PKTINFO4.unpack_from(data)
                return socket.inet_ntop(socket.AF_INET, local) if local == header else None
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                address, _ = _PKTINFO6.unpack_from(data)
                return socket.inet_ntop(socket.AF_INET6, address) if address[0] != 0xFF else None
        return None

    def _source(self, host: str) -> list[tuple[int, int, bytes]]:
        """The control message that makes a datagram leave from `host`."""
        if not self._wildcard or family_of(host) != self._socket.family or is_wildcard(host):
            return []
        packed = socket.inet_pton(self._socket.family, bare(host))
        if self._socket.family == socket.AF_INET:
            return [(socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO4.pack(0, packed, bytes(4)))]
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(packed, 0))]


@lru_cache(maxsize=MAX_FLOWS)
def _flow(host: str, port: int, remote: str, remote_port: int) -> Flow:
    return Flow("udp", (host, port), (remote, remote_port))


def source_address(remote: tuple[str, int]) -> str:
    """Our address that a datagram to `remote` would leave from. Raises OSError without a route."""
    family = family_of(remote[0])
    if family is None:
        raise OSError(errno.EADDRNOTAVAIL, "not an IP address")
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(remote)  # sends nothing
        return str(sock.getsockname()[0])
