"""Frames and descriptors between two processes of ours, over a pair of connected stream sockets (unix(7)).

Both ends are trusted. Nothing here ever waits but `finish`: what the other end does not take yet is kept in order.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from siprec import clock

MAX_FRAME = 16 << 20
"""The end of a session with all its outages and refusals takes some hundred KiB: more is damage."""

MAX_DESCRIPTORS = 2
"""In one frame: the sockets of a port pair."""

CHUNK = 256 << 10
"""Read in one system call."""

_HEAD = struct.Struct("<IB")
_EXTRA = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
_LATER = frozenset({errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})  # too much is on its way: the reader is behind


@dataclass(slots=True)
class _Outgoing:
    data: memoryview
    descriptors: tuple[int, ...]
    give: bool


class Link:
    """One end. `blocked`: the other end must read before more can be sent."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._outgoing: deque[_Outgoing] = deque()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self.blocked = False

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def waiting(self) -> int:
        """Frames not sent yet."""
        return len(self._outgoing)

    def send(self, body: bytes, *, descriptors: Sequence[int] = (), give: bool = False) -> None:
        """`give`: the descriptors are ours to close once they are sent. Raises OSError when nobody is there."""
        head = _HEAD.pack(len(body), len(descriptors))
        self._outgoing.append(_Outgoing(memoryview(head + body), tuple(descriptors), give))
        if not self.blocked:
            self.flush()

    def flush(self) -> None:
        """Send what can be sent now. Raises OSError when nobody is there."""
        self.blocked = False
        while self._outgoing:
            frame = self._outgoing[0]
            rights = array.array("i", frame.descriptors)
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
            try:
                sent = self._sock.sendmsg([frame.data], extra, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self.blocked = True
                return
            except OSError as error:
                if error.errno in _LATER:
                    return
                raise
            _close(frame)
            frame.descriptors = ()
            frame.data = frame.data[sent:]
            if not frame.data:
                self._outgoing.popleft()

    def finish(self, seconds: float) -> None:
        """Wait until all is sent, for at most so long. Raises OSError when nobody is there."""
        until = clock.monotonic() + seconds
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        while self._outgoing and clock.monotonic() < until:
            poll.poll((until - clock.monotonic()) * 1000)
            self.flush()

    def receive(self) -> Iterator[tuple[bytes, list[int]]]:
        """Body and descriptors of each frame that has come; the descriptors are the caller's. Raises EOFError
        at the end, also after a damaged frame."""
        try:
            data, extra, flags, _ = self._sock.recvmsg(CHUNK, _EXTRA, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            raise EOFError(error.strerror) from error
        for level, kind, value in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors.extend(array.array("i", value[: len(value) - len(value) % 4]))
        if not data or flags & socket.MSG_CTRUNC:
            raise EOFError("end" if not data else "no room for more descriptors")
        self._received += data
        yield from self._frames()

    def _frames(self) -> Iterator[tuple[bytes, list[int]]]:
        at = 0
        try:
            while len(self._received) >= at + _HEAD.size:
                length, count = _HEAD.unpack_from(self._received, at)
                if length > MAX_FRAME or count > MAX_DESCRIPTORS:
                    raise EOFError("damaged")
                end = at + _HEAD.size + length
                if len(self._received) < end:
                    return
                body = bytes(self._received[at + _HEAD.size : end])
                at = end
                yield body, [self._descriptors.popleft() for _ in range(count)]
        finally:
            del self._received[:at]

    def close(self) -> None:
        """Also what was given and never sent, or received and never taken."""
        for frame in self._outgoing:
            _close(frame)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._outgoing.clear()
        self._descriptors.clear()
        self._sock.close()


def _close(frame: _Outgoing) -> None:
    if frame.give:
        for descriptor in frame.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
