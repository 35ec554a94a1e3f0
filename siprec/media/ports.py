"""UDP port pairs for media: even for RTP, the odd one above it for RTCP (RFC 3550 section 11).

A pair is taken at random, so that nobody can guess where the next call listens, and rests after release, so
that late packets of one call never reach the next.
"""

from __future__ import annotations

import errno
import random
import socket
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from siprec.errors import ListenError, PortsExhausted

SO_TIMESTAMPNS = 35
"""Kernel arrival time with each datagram (asm-generic/socket.h); Python's socket module has no name for it."""

RECEIVE_BUFFER = 1 << 20
"""Asked of the kernel per RTP socket: 25 s of G.711. net.core.rmem_max caps it silently, so it is read back."""

REST_SECONDS = 30.0
"""How long a pair stays unused after release."""

BIND_ATTEMPTS = 16
"""Ports tried for one pair when other programs sit in the range."""

_BYTES_PER_PACKET = 832  # what the kernel charges for a 20 ms G.711 datagram on loopback; NIC drivers charge more
_PACKETS_PER_SECOND = 50
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EINVAL})  # the latter for link-local IPv6 without its scope
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True, eq=False)
class PortPair:
    """Two bound, non-blocking sockets. `receive_buffer` is what the kernel granted the RTP socket, in bytes."""

    rtp: socket.socket
    rtcp: socket.socket
    address: str
    port: int
    receive_buffer: int

    @property
    def rtcp_port(self) -> int:
        return self.rtcp.getsockname()[1]  # type: ignore[no-any-return]

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


def buffered_seconds(receive_buffer: int) -> float:
    """How long one G.711 stream fits into a socket's `receive_buffer` while nobody reads (on loopback)."""
    return receive_buffer / _BYTES_PER_PACKET / _PACKETS_PER_SECOND


class PortPool:
    """All pairs of a local address within [`low`, `high`]; with `also`, each on that one or another of its family.

    While a pool is open it holds one socket with kernel time stamps on: the kernel switches stamping on for
    the whole machine and asynchronously, and would stamp the first packets of the first call too late.
    Raises ListenError when `host`, or one of `also`, is not an address of this machine.
    """

    def __init__(
        self,
        host: str,
        low: int,
        high: int,
        *,
        also: Sequence[str] = (),
        rest_seconds: float = REST_SECONDS,
        choose: random.Random | None = None,
    ) -> None:
        self.host = host
        self._hosts = (host, *also)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._rest_seconds = rest_seconds
        self._choose = choose or random.SystemRandom()
        # Arrays: as objects of their own the numbers, made while a burst of calls goes, would each pin memory of it.
        self._range = range(low + low % 2, high, 2)
        self._free = array("H", self._range)
        self._places = array("H", bytes(2 << 16))  # by port: where it is in `_free`, counted from 1
        for place, port in enumerate(self._free, 1):
            self._places[port] = place
        self._used: set[int] = set()
        self._resting = array("H")
        self._rested = array("d")
        self._stamping: list[socket.socket] = []
        for each in self._hosts:
            try:
                self._stamping.append(_bound(self._family, each, 0))
            except OSError as error:
                self.close()
                raise ListenError(f"cannot receive media on {each}: {error.strerror}") from error

    @property
    def free(self) -> int:
        """Pairs that can be acquired now; resting ones are counted only once `acquire` has woken them."""
        return len(self._free)

    @property
    def used(self) -> int:
        return len(self._used)

    def acquire(self, now: float, *, host: str = "") -> PortPair:
        """A pair bound to a random free port, on `host` if that is one of ours. Raises PortsExhausted; ListenError when
        the address is gone.
        """
        host = host if host in self._hosts else self.host
        self._wake(now)
        for _ in range(min(BIND_ATTEMPTS, len(self._free))):
            port = self._choose.choice(self._free)
            self._take(port)
            try:
                pair = self._open(host, port)
            except OSError as error:
                self._rest(port, now)
                _raise_unless_busy(host, error)
                continue
            self._used.add(port)
            return pair
        raise PortsExhausted("no RTP port pair is free")

    def reopen(self, port: int, *, host: str = "") -> PortPair:
        """The pair at `port`, which an earlier process of this node had, on `host` while this machine has that address.
        Raises ListenError when it cannot be had.
        """
        host = host or self.host
        try:
            pair = self._open(host, port)
        except OSError as error:
            if error.errno in _NOT_HERE and host != self.host:
                return self.reopen(port)
            raise ListenError(f"port {port} of {host} cannot be had again: {error.strerror}") from error
        self._take(port)
        self._used.add(port)
        return pair

    def release(self, pair: PortPair, now: float) -> None:
        """Close both sockets; the port rests, or is gone where the range no longer has it. The capture must have let go
        of them."""
        self._used.remove(pair.port)
        pair.close()
        self._rest(pair.port, now)

    def adopt(self, rtp: socket.socket, rtcp: socket.socket) -> PortPair:
        """A pair whose sockets were bound by an earlier life of this process. Raises OSError if they are not."""
        address, port = rtp.getsockname()[:2]
        self._take(port)
        self._used.add(port)
        return PortPair(rtp, rtcp, address, port, rtp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))

    def close(self) -> None:
        """Let stamping go; pairs still in use stay open."""
        for each in self._stamping:
            each.close()

    def _rest(self, port: int, now: float) -> None:
        if port not in self._range:  # of a restored session, from before the settings changed
            return
        self._resting.append(port)
        self._rested.append(now + self._rest_seconds)

    def _wake(self, now: float) -> None:
        """Have the ports taken again that have rested."""
        count = 0
        while count < len(self._rested) and self._rested[count] <= now:
            count += 1
        for port in self._resting[:count]:
            self._free.append(port)
            self._places[port] = len(self._free)
        del self._resting[:count], self._rested[:count]

    def _take(self, port: int) -> None:
        """Take a port out, if it is in. The last one moves to its place: a start takes thousands, without a search."""
        place = self._places[port]
        if not place:
            return
        last = self._free.pop()
        if last != port:
            self._free[place - 1] = last
            self._places[last] = place
        self._places[port] = 0

    def _open(self, host: str, port: int) -> PortPair:
        rtp = _bound(self._family, host, port)
        try:
            rtcp = _bound(self._family, host, port + 1)
        except OSError:
            rtp.close()
            raise
        granted = rtp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return PortPair(rtp, rtcp, host, port, granted)


def _raise_unless_busy(host: str, error: OSError) -> None:
    if error.errno in _OUT_OF_RESOURCES:
        raise PortsExhausted(f"no socket for media: {error.strerror}") from error
    if error.errno not in (errno.EADDRINUSE, errno.EACCES):
        raise ListenError(f"cannot receive media on {host}: {error.strerror}") from error


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """A non-blocking UDP socket; stamping is set before bind, so that no packet comes unstamped."""
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
