"""`siprec demo --failover`: two nodes, a call into one of them, that node's death, and one recording all the same.

The nodes are real ones, `siprec serve` on loopback, each with a keeper, a worker and a state directory of its own. They
share the folder of recordings and Redis, which is started for the demonstration unless REDIS_URL names one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from siprec import clock
from siprec.archive.folder import RecordingFolder, find
from siprec.client.call import LiveCall
from siprec.client.failover import go_over, watch
from siprec.client.options import CallOptions, Failover
from siprec.client.src import RecordingClient
from siprec.config import Configuration
from siprec.errors import LocalError

KILL_SECONDS = 3.0
"""From the answer to the kill: long enough to hear that something was recorded before."""

START_SECONDS = 20.0
RENDER_SECONDS = 30.0
REDIS_SECONDS = 5.0

NO_REDIS = (
    "redis-server is not installed, and the nodes share their sessions by it: "
    "apt install redis-server (Debian, Ubuntu), dnf install redis (Fedora), or set REDIS_URL"
)

Report = Callable[[str], None]


async def demo(configuration: Configuration, options: CallOptions, *, report: Report) -> RecordingFolder:
    """Kill a node under a call of `options.duration` seconds, and report each step on one time line.

    Returns the recording. Raises LocalError when something did not come as it should.
    """
    settings = configuration.settings
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="siprec-demo-")))
        given = settings.REDIS_URL
        url = given.get_secret_value() if given else await stack.enter_async_context(_redis(root))
        shared = {
            "SIP_HOST": "127.0.0.1",
            "RECORDING_DIR": str(settings.recording_dir),
            "REDUNDANCY_STORAGE_TYPE": "redis",
            "ENABLE_REDUNDANCY": "true",
            "REDIS_URL": url,
            "LOG_FORMAT": "json",
        }
        a, b = await asyncio.gather(
            *(
                stack.enter_async_context(_node(name, root, shared | _ports(configuration, number)))
                for number, name in enumerate(("a", "b"))
            )
        )
        report(f"nodes    A {a.uri}, B {b.uri}, sessions shared by {'REDIS_URL' if given else 'a Redis of our own'}")
        report(f"folder   recordings of both go to {settings.recording_dir}")
        wanted = replace(options, target=a.uri, failover=Failover(b.uri))
        async with RecordingClient.towards(a.uri, transport=options.transport) as client:
            session = await _Play(a, b, report).run(client, wanted)
        folder = find(settings.recording_dir, session)
        manifest = folder.read()
        report(f"verdict  {manifest.verdict}: {manifest.verdict_reason}")
    return folder


class Node:
    """A `siprec serve` of ours: keeper, worker, and what they log."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())
        self._worker = 0
        self._said_last = "it said nothing"
        self.uri = ""

    @property
    def port(self) -> str:
        return self.uri.rpartition(":")[2]

    async def started(self) -> None:
        """Wait until it records. Raises LocalError."""
        self.uri = (await self.said("listening", START_SECONDS))["sip"]
        self._worker = (await self.said("ready to record", START_SECONDS))["pid"]

    async def said(self, event: str, seconds: float) -> dict[str, Any]:
        """The next line of its log with this event. Raises LocalError when none comes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while line := await self._lines.get():
                    if line.get("event") == event:
                        return line
        raise LocalError(f"the node {self.uri or 'that was started'} did not come to {event!r}: {self._said_last}")

    def kill(self) -> None:
        """kill -9, the keeper first, so that it starts no other worker."""
        with suppress(ProcessLookupError):
            self._process.kill()
        if self._worker:
            with suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGKILL)
            self._worker = 0

    async def stop(self) -> None:
        """End it in order, or not, when it was killed before."""
        if self._worker:
            with suppress(ProcessLookupError):
                self._process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), RENDER_SECONDS)
        self.kill()
        self._reader.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            try:
                self._lines.put_nowait(json.loads(raw))
            except ValueError:  # an error before there was a log
                self._said_last = raw.decode("utf-8", "replace").strip()
        self._lines.put_nowait({})


class _Play:
    """What happens, and what is said of it: a line has the seconds since the answer and what each node does."""

    def __init__(self, a: Node, b: Node, report: Report) -> None:
        self._a, self._b, self._report = a, b, report
        self._began = clock.monotonic()

    async def run(self, client: RecordingClient, options: CallOptions) -> str:
        """The id of the session that was recorded. Raises LocalError."""
        call = await client.start(options)
        if not call.result.answered:
            raise LocalError(call.result.problem or f"the call was answered {call.result.status}")
        self._began = clock.monotonic()
        self._report(f"{'t':>6}   {f'A ({self._a.port})':<10} {f'B ({self._b.port})':<10}")
        self._say("● 1 call", "○", " and ".join(party.name for party in options.parties) + " are recorded on A")
        await call.run(KILL_SECONDS)
        self._a.kill()
        self._say("✘", "○", "kill -9 of keeper and worker of A; the SRC goes on sending")
        call = await self._move(client, call, options)
        await call.run(options.duration - (clock.monotonic() - self._began))
        result = await call.bye()
        self._say("✘", "○", f"BYE answered {result.bye_status}; B renders the parts of both nodes")
        line = await self._b.said("recording ready", RENDER_SECONDS)
        self._say("✘", "✔", f"one recording of {line['seconds']} s, {line['session']}")
        return str(line["session"])

    async def _move(self, client: RecordingClient, call: LiveCall, options: CallOptions) -> LiveCall:
        reason = await watch(call, options.duration)
        self._say("✘", "○", f"the SRC has noticed: {reason}")
        assert options.failover is not None
        moved = await go_over(client, call, options.failover, report=lambda text: self._say("✘", "○", text))
        if moved is None:
            raise LocalError("B did not take the call over")
        line = await self._b.said("call carried on", RENDER_SECONDS)
        how, took = line.get("how"), moved.result.setup_ms or 0.0
        self._say("✘", "● 1 call", f"INVITE with Replaces answered in {took:.0f} ms: B carries the session on ({how})")
        return moved

    def _say(self, a: str, b: str, text: str) -> None:
        self._report(f"{clock.monotonic() - self._began:6.1f}   {a:<10} {b:<10} {text}")


def _ports(configuration: Configuration, number: int) -> dict[str, str]:
    """Ports of node `number`: those of the settings, and two above for the second; 0 stays any."""
    settings = configuration.settings
    ports = {"SIP_PORT": settings.SIP_PORT, "SIP_TLS_PORT": settings.SIP_TLS_PORT, "HTTP_PORT": settings.HTTP_PORT}
    return {name: str(port and port + 2 * number) for name, port in ports.items()}


@asynccontextmanager
async def _node(name: str, root: Path, environ: Mapping[str, str]) -> AsyncIterator[Node]:
    state = root / name
    state.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "siprec.cli", "serve"),
        env={**os.environ, **environ, "NODE_ID": f"demo-{name}", "STATE_DIR": str(state)},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
    )
    node = Node(process)
    try:
        await node.started()
        yield node
    finally:
        await node.stop()


@asynccontextmanager
async def _redis(root: Path) -> AsyncIterator[str]:
    """A Redis on a free port, which keeps nothing; its URL. Raises LocalError."""
    program = shutil.which("redis-server")
    if program is None:
        raise LocalError(NO_REDIS)
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        *(program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(root)),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        await _reachable(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _reachable(port: int) -> None:
    try:
        async with asyncio.timeout(REDIS_SECONDS):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise LocalError("redis-server did not start") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
