"""TCP peers that are slow, many, deaf or idle: bounded, cut off, and others are served meanwhile (SECURITY A12)."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from siprec.sip.framing import StreamFramer
from tests.load.mutations import RESET
from tests.load.spray import request
from tests.support.counting import resident_kib
from tests.support.server import Server, serving

SLOW = 2_000
"""What one source may hold: half of net.tcp.MAX_CONNECTIONS."""
MORE = 50
GROWTH_KIB = 32 * 1024


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connect(server: Server, source: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(10.0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.bind((source, 0))
    sock.connect(("127.0.0.1", server.port))
    return sock


def asked(sock: socket.socket, number: int) -> None:
    """An OPTIONS is answered with 200."""
    framer = StreamFramer()
    sock.sendall(request("OPTIONS", number))
    while not (messages := framer.feed(sock.recv(65_535), 0.0)):
        pass
    assert messages[0].startswith(b"SIP/2.0 200")


def open_ones(sockets: list[socket.socket]) -> list[socket.socket]:
    """Those that the server has not closed."""
    poll = select.poll()
    for sock in sockets:
        poll.register(sock, select.POLLIN | select.POLLHUP)
    ended = {number for number, _ in poll.poll(0)}
    return [sock for sock in sockets if sock.fileno() not in ended]


def test_two_thousand_slow_connections_are_bounded_and_cut(tmp_path: Path) -> None:
    """One source holds its half and no more; another is served meanwhile; in the end the slow ones are gone, also one
    that goes on sending."""
    with serving(tmp_path) as server, ExitStack() as stack:
        idle = stack.enter_context(connect(server, "127.0.0.2"))
        asked(idle, 0)
        before = resident_kib(server.worker)
        slow = [stack.enter_context(connect(server)) for _ in range(SLOW + MORE)]
        for number, sock in enumerate(slow):
            whole = request("OPTIONS", number)
            with contextlib.suppress(OSError):
                sock.sendall(whole[: (1, 40, len(whole) - 1)[number % 3]])
        other = stack.enter_context(connect(server, "127.0.0.2"))
        asked(other, 1)
        assert len(open_ones(slow)) <= SLOW
        trickling = slow[0]
        while open_ones(slow):
            with contextlib.suppress(OSError):
                trickling.sendall(b"O")
            time.sleep(0.1)
        asked(idle, 2)
        asked(stack.enter_context(connect(server)), 3)
        assert resident_kib(server.worker) <= before + GROWTH_KIB


def test_a_peer_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    with serving(tmp_path) as server, ExitStack() as stack:
        asked(stack.enter_context(connect(server)), 0)
        before = resident_kib(server.worker)
        deaf = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.settimeout(10.0)
        deaf.connect(("127.0.0.1", server.port))
        flood = b"".join(request("OPTIONS", number) for number in range(200_000))
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            deaf.sendall(flood)
        asked(stack.enter_context(connect(server)), 1)
        assert resident_kib(server.worker) <= before + GROWTH_KIB


def test_connections_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server, connect(server) as first:
        asked(first, 0)
        descriptors = Path(f"/proc/{server.worker}/fd")
        before = len(list(descriptors.iterdir()))
        for number in range(500):
            with connect(server) as sock:
                sock.sendall(request("OPTIONS", number)[: number % 300])
        deadline = time.monotonic() + 10
        while len(list(descriptors.iterdir())) > before and time.monotonic() < deadline:
            asked(first, 1)
        assert len(list(descriptors.iterdir())) <= before
