"""The SRC is cut off from its recorder, or finds it restarted, and comes back with Replaces.

With root the SRC lives in a network namespace and the link goes down; without, its packets are led into a black hole
and it stays silent in SIP. Either way packets go on being numbered, as an SRC that does not know goes on sending.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from siprec.client.call import LiveCall
from siprec.client.media import PortPair, Remote, RtpStream
from tests.failover.calls import Calls, calling, counted, expect_one_each, expect_told, rendered
from tests.failover.figures import Row, count, mark
from tests.support import foreign
from tests.support.server import Server, serving

T = TypeVar("T")

AWAY_SECONDS = 5.0
QUICK_SECONDS = 1.5

NOTICED_SECONDS = 0.15
"""From the link's return to the SRC's: its packets arrive first, and mostly are not read yet (a tick is 0.2 s) when its
INVITE is."""

ALLOWED_MS = 250
"""Beyond the absence: a tick of the drain and what the SRC takes to send its INVITE."""

ALLOW = "127.0.0.0/8,10.0.0.0/8"


class Link:
    """The way from SRC to server. `address`: where the server is on it."""

    address = "127.0.0.1"

    def __init__(self) -> None:
        self._hole: PortPair | None = None
        self._ways: list[tuple[RtpStream, Remote | None]] = []

    def cut(self, calls: Calls) -> None:
        """Nothing arrives any more."""
        self._hole = PortPair(self.address)
        self._ways = [(stream, stream.remote) for stream in calls.streams]
        for stream in calls.streams:
            stream.connect(Remote(self.address, self._hole.port, self._hole.port + 1))

    def mend(self) -> None:
        """What is sent arrives again."""
        for stream, remote in self._ways:
            stream.connect(remote)
        if self._hole is not None:
            self._hole.close()


class Cable(Link):
    """A veth pair into a network namespace; its end on the server's side is the one that is unplugged."""

    def __init__(self, host: foreign.ForeignHost, outside: Executor) -> None:
        super().__init__()
        self.address = host.ours
        self._outside = outside

    def cut(self, calls: Calls) -> None:
        self._set("down")

    def mend(self) -> None:
        self._set("up")

    def _set(self, state: str) -> None:
        command = ["ip", "link", "set", foreign.OURS, state]
        self._outside.submit(partial(subprocess.run, command, check=True)).result()


async def cut_off(root: Path, quick: bool) -> list[Row]:
    """The link fails and returns; the server lives on, or is restarted meanwhile."""
    return await asyncio.to_thread(_both, root, quick)


def _both(root: Path, quick: bool) -> list[Row]:
    # Threads inherit the namespace of the one that starts them, and so do servers: this one is ours.
    with _executor() as outside, _link_and_runner(quick, outside) as (link, run):
        return [
            run(partial(_measure, root / name, quick, link=link, outside=outside, restart=restart))
            for name, restart in (("lives", False), ("restarted", True))
        ]


@contextmanager
def _executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(int).result()
        yield executor


@contextmanager
def _link_and_runner(
    quick: bool, outside: Executor
) -> Iterator[tuple[Link, Callable[[Callable[[], Awaitable[Row]]], Row]]]:
    """How to run what the SRC does, where it lives."""
    if quick or foreign.missing() is not None:
        yield Link(), _run
        return
    with foreign.foreign_host() as host, ThreadPoolExecutor(1) as inside:
        inside.submit(_enter, host.namespace).result()
        yield Cable(host, outside), lambda work: inside.submit(_run, work).result()


def _run(work: Callable[[], Awaitable[Row]]) -> Row:
    async def main() -> Row:
        return await work()

    return asyncio.run(main())


def _enter(namespace: str) -> None:
    """Move this thread into a network namespace; its sockets are then opened there."""
    clone_newnet = 0x40000000
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, clone_newnet):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


async def _measure(root: Path, quick: bool, *, link: Link, outside: Executor, restart: bool) -> Row:
    sessions, away = (1, QUICK_SECONDS) if quick else (10, AWAY_SECONDS)
    what = "server restarted meanwhile" if restart else "the same process"
    bar = f"its absence + {ALLOWED_MS} ms; same id, one recording"
    row = Row(f"SRC cut off, returns with Replaces: {what}", bar, sessions)
    row.details["cut"] = "link down" if isinstance(link, Cable) else "silence"
    root.mkdir()
    loop = asyncio.get_running_loop()

    async def elsewhere(job: Callable[[], T]) -> T:
        return await loop.run_in_executor(outside, job)

    environ = {"CAPTURE_KEEP": "always", "SIP_HOST": link.address, "SIP_ALLOW": ALLOW, "SESSION_TIMEOUT": "60s"}
    with ExitStack() as stack:
        server = await elsewhere(lambda: stack.enter_context(serving(root, **environ)))
        uri = f"sip:{link.address}:{server.port}"
        async with calling(uri, sessions, timeout=10.0) as calls:
            before = [folder.session_id for folder in server.recordings()]
            marks, began = mark(calls.streams), time.monotonic()
            link.cut(calls)
            if restart:
                server = await elsewhere(partial(_restarted, stack, server, root, environ))
            await asyncio.sleep(away - (time.monotonic() - began))
            link.mend()
            await asyncio.sleep(NOTICED_SECONDS)
            calls.live = await _come_back(row, calls, uri)
            absent_ms = (time.monotonic() - began - NOTICED_SECONDS) * 1000
            await asyncio.sleep(1.0)
            await calls.bye(row)
            await rendered(server, sessions)
            row.expect(server.stop() == 0, "the server did not stop in order")
        expect_one_each(row, server, before, how="replaces")
        count(row, server.recordings(), calls.streams, [marks])
        expect_told(row)
    row.details["absent_ms"] = round(absent_ms)
    row.expect(max(row.milliseconds) <= absent_ms + ALLOWED_MS, "the gap is longer than the absence")
    return row


def _restarted(stack: ExitStack, server: Server, root: Path, environ: dict[str, str]) -> Server:
    server.kill_all()
    again = stack.enter_context(serving(root, **environ, SIP_PORT=str(server.port)))
    again.wait_for("ready to record")
    return again


async def _come_back(row: Row, calls: Calls, uri: str) -> list[LiveCall]:
    taken = [calls.client.take_over(lost, counted(uri, 0), replaces=True) for lost in calls.live]
    answers = await asyncio.gather(*(call.answer() for call in taken))
    row.details["answered_ms"] = round(max(each.setup_ms or 0.0 for each in answers))
    row.expect(all(each.answered for each in answers), f"answers: {[each.status for each in answers]}")
    return taken
