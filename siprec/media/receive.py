"""Two ways to empty many sockets into an arena, with the same result byte for byte (`native` is a third).

`BatchReceiver` takes hundreds of datagrams in one system call by recvmmsg(2) through ctypes, which lets go
of the interpreter lock meanwhile. It writes C structures by hand, so it runs on 64-bit little-endian Linux
only. `SingleReceiver` takes one datagram per call and runs wherever Python has `recvmsg_into`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from siprec import clock
from siprec.media.arena import HEADROOM, NAME, SLOT, STRIDE, Arena
from siprec.media.ports import SO_TIMESTAMPNS

GROUP_SOCKETS = 720
"""Most sockets emptied before their records are handed to the writer: that and what surrounds it costs as much as some
hundred packets, and meanwhile what it works with has left the processor's cache. More would leave it themselves."""

ARENA_SOCKETS = 360
"""The same where datagrams are worked on in the arena, so that they are still in the cache, and so that what comes in a
tick fits there: then they are the same sockets each time."""

PER_SOCKET = 2048
"""Datagrams taken from one socket in one visit of a tick: 8 times what a default buffer holds. A flood on one
port then delays the others by milliseconds, and what it sends beyond that the kernel drops."""

MAX_VLEN = 1024
"""recvmmsg takes no more (UIO_MAXIOV, recvmmsg(2))."""

RETRIES = 8
"""Errors queued on one socket (ICMP, seen as ECONNREFUSED) that are taken off it in one visit."""

_CONTROL = 64  # CMSG_SPACE(struct timespec) is 32; twice that, should a socket have another option set
_STAMP = 32
_SCM_TIMESTAMPNS = SO_TIMESTAMPNS
_NS = 1_000_000_000
_AGAIN = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})
_RETRIED = frozenset({errno.ECONNREFUSED, errno.EINTR, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET})

# struct mmsghdr, struct iovec and the one control message we ask for, as 64-bit Linux lays them out
_MMSGHDR = np.dtype(
    {
        "names": ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags", "length"],
        "formats": ["<u8", "<u4", "<u8", "<u8", "<u8", "<u8", "<i4", "<u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
_IOVEC = np.dtype([("base", "<u8"), ("length", "<u8")])
_CMSG = np.dtype(
    {
        "names": ["level", "type", "seconds", "nanoseconds"],
        "formats": ["<i4", "<i4", "<i8", "<i8"],
        "offsets": [8, 12, 16, 24],
        "itemsize": _CONTROL,
    }
)


class Sockets:
    """Sockets in the order of reading. `kinds` says what comes there: 2 x stream, plus 1 for RTCP. `entries`: to which
    file it belongs (`rooms`). `memory`: the addresses of `descriptors` and `kinds`, and their length."""

    __slots__ = ("descriptors", "entries", "kinds", "memory", "numbers", "objects")

    def __init__(self, objects: Sequence[socket.socket], kinds: Sequence[int], entries: Sequence[int] = ()) -> None:
        self.objects = objects
        self.numbers = [each.fileno() for each in objects]
        self.descriptors = np.array(self.numbers, np.int32)
        self.kinds = np.array(kinds, np.int64)
        self.entries = np.array(entries, np.uint32)
        self.memory = (self.descriptors.ctypes.data, self.kinds.ctypes.data, len(kinds))


class Laid(NamedTuple):
    """Records that are ready: `ends` has a 0 and, for each visited socket, where its records end in `data`."""

    data: memoryview
    ends: NDArray[np.int64]
    packets: int


class Fill(NamedTuple):
    """What one round brought: datagrams in the arena per visited socket, their sum, whether the last socket has more,
    the most that one socket gave, and records of other sockets that are finished already."""

    counts: list[int]
    used: int
    unfinished: bool
    most: int
    laid: Laid | None = None


class Receiver(Protocol):
    """Empties sockets into its arena; `failures` counts errors that are neither "nothing there" nor transient."""

    arena: Arena
    failures: int

    def fill(self, sockets: Sockets, begin: int) -> Fill:
        """Read from the sockets in order from `begin` until the arena or the group is full."""


class BatchReceiver:
    """recvmmsg(2) by ctypes. Never asks for more datagrams than there are slots left: a longer answer would
    be written past the end of the arena."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.failures = 0
        slots = arena.slots
        index = np.arange(slots, dtype=np.uint64)
        self._iovecs = np.zeros(slots, _IOVEC)
        self._iovecs["base"] = _address(arena.rows) + HEADROOM + index * STRIDE
        self._iovecs["length"] = SLOT
        self._control = np.zeros(slots, _CMSG)
        self._headers = np.zeros(slots, _MMSGHDR)
        self._headers["name"] = _address(arena.names) + index * NAME
        self._headers["iov"] = _address(self._iovecs) + index * _IOVEC.itemsize
        self._headers["iovlen"] = 1
        self._headers["control"] = _address(self._control) + index * _CONTROL
        self._base = int(_address(self._headers))
        self._reset(slots)
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
        # The same without errno and without conversion of arguments: a third less for each socket and tick.
        self._fast = ctypes.CDLL(None).recvmmsg
        self._at = [ctypes.c_void_p(self._base + slot * 64) for slot in range(slots)]

    def fill(self, sockets: Sockets, begin: int) -> Fill:
        recvmmsg, at, slots, flags = self._fast, self._at, self.arena.slots, socket.MSG_DONTWAIT
        counts: list[int] = []
        used, got, asked = 0, 0, 1
        for number in islice(sockets.numbers, begin, begin + ARENA_SOCKETS):
            room = slots - used
            asked = room if room < MAX_VLEN else MAX_VLEN  # min() would cost as much as the rest of the loop
            got = recvmmsg(number, at[used], asked, flags, None)
            if got < 0 or got == asked:
                got = self._go_on(number, used, got) if got > 0 else self._ask_again(number, used, asked)
            counts.append(got)
            used += got
            if used == slots:
                break
        self._settle(used)
        return Fill(counts, used, used == slots and got < PER_SOCKET, max(counts, default=0))

    def _ask_again(self, number: int, used: int, asked: int) -> int:
        """A socket that gave nothing: once more, to be told why."""
        got: int = self._recvmmsg(number, self._base + used * 64, asked, socket.MSG_DONTWAIT, None)
        if got < 0 and ctypes.get_errno() in _AGAIN:
            return 0
        return self._go_on(number, used, got) if got < 0 or got == asked else got

    def _go_on(self, number: int, used: int, got: int) -> int:
        """All that a socket has when one call did not tell: it failed (`got` is -1), or gave all it was asked."""
        total, retries, limit = 0, RETRIES, min(self.arena.slots - used, PER_SOCKET)
        while True:
            asked = min(limit - total, MAX_VLEN)
            if got < 0:
                error = ctypes.get_errno()
                if error not in _RETRIED or retries == 0:
                    self.failures += error not in _AGAIN and error not in _RETRIED
                    return total
                retries -= 1
            else:
                total += got
                asked = min(limit - total, MAX_VLEN)
                if asked == 0:
                    return total
            got = self._recvmmsg(number, self._base + (used + total) * 64, asked, socket.MSG_DONTWAIT, None)
            if 0 <= got < asked:
                return total + got

    def _settle(self, used: int) -> None:
        """Copy what the kernel said into the arena, and make the headers ready for the next round."""
        headers, control, arena = self._headers[:used], self._control[:used], self.arena
        arena.length[:used] = headers["length"]
        arena.truncated[:used] = headers["flags"] & socket.MSG_TRUNC != 0
        arena.time_ns[:used] = control["seconds"] * _NS + control["nanoseconds"]
        stamped = (headers["controllen"] >= _STAMP) & (control["type"] == _SCM_TIMESTAMPNS)
        stamped &= control["level"] == socket.SOL_SOCKET
        if not stamped.all():
            arena.time_ns[:used][~stamped] = clock.wall_ns()
        self._reset(used)

    def _reset(self, used: int) -> None:
        self._headers["namelen"][:used] = NAME
        self._headers["controllen"][:used] = _CONTROL


class SingleReceiver:
    """recvmsg(2) as Python offers it: one datagram a call."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.failures = 0
        self._slots = [memoryview(arena.rows[slot])[HEADROOM:] for slot in range(arena.slots)]

    def fill(self, sockets: Sockets, begin: int) -> Fill:
        slots = self.arena.slots
        counts: list[int] = []
        used, got = 0, 0
        for sock in islice(sockets.objects, begin, begin + ARENA_SOCKETS):
            got = self._empty(sock, used)
            counts.append(got)
            used += got
            if used == slots:
                break
        return Fill(counts, used, used == slots and got < PER_SOCKET, max(counts, default=0))

    def _empty(self, sock: socket.socket, used: int) -> int:
        total, retries = 0, RETRIES
        while total < min(self.arena.slots - used, PER_SOCKET):
            try:
                self._take(sock, used + total)
            except OSError as error:
                if error.errno not in _RETRIED or retries == 0:
                    self.failures += error.errno not in _AGAIN and error.errno not in _RETRIED
                    return total
                retries -= 1
            else:
                total += 1
        return total

    def _take(self, sock: socket.socket, slot: int) -> None:
        arena = self.arena
        length, ancillary, flags, source = sock.recvmsg_into([self._slots[slot]], _CONTROL, socket.MSG_DONTWAIT)
        arena.length[slot] = length
        arena.truncated[slot] = flags & socket.MSG_TRUNC != 0
        arena.time_ns[slot] = _stamp(ancillary)
        arena.put_name(slot, source[0], source[1])


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SCM_TIMESTAMPNS:
            half = len(data) // 2
            seconds = int.from_bytes(data[:half], sys.byteorder)
            return seconds * _NS + int.from_bytes(data[half:], sys.byteorder)
    return clock.wall_ns()


def disconnect(sock: socket.socket) -> None:
    """Undo connect(2) on a UDP socket, so that it hears every sender again; its port stays. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    unspecified = struct.pack("=H", socket.AF_UNSPEC) + bytes(14)
    if libc.connect(sock.fileno(), unspecified, len(unspecified)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _address(array: NDArray[np.generic]) -> np.uint64:
    return np.uint64(array.ctypes.data)
