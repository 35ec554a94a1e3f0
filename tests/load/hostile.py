"""The hostile scenarios at full size: 20 calls are recorded meanwhile, and no packet of them may be lost.

scripts/soak runs them. `python -m tests.load.hostile NAME [SCALE]` runs one alone and prints what was measured as JSON.
An AssertionError is a finding.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siprec.client.call import LiveCall
from siprec.client.options import CallOptions
from siprec.client.src import RecordingClient
from tests.load.held import Held
from tests.support import foreign
from tests.support.counting import assert_whole
from tests.support.server import Server, serving

ROOT = Path(__file__).parents[2]
CALLS = 20
GROWTH_MIB = 32.0
"""Resident memory that 200 000 damaged messages may add, counted from before the first of them."""
BACK_MIB = 10.0
"""What a flood of half-open INVITEs may leave, of 25 that it takes: pages of the heap in which something else lies now,
tombstones, arrays that have grown."""
SETTLED_SECONDS = 2.0
"""Until calls have all that they need: buffers of 2 MiB come with the first packets."""
AGAIN_MIB = 4.0
"""What a second and larger one may add to that."""
SETUP_MS = 100.0
SPARE = 8
"""Descriptors beside those of calls that the server may have opened meanwhile: renderers, a file being written."""
SETUPS = 40
HALF_OPEN_SECONDS = 40.0
"""64*T1 are 32 s; the rest is for closing captures and for rendering on a busy machine."""
Found = dict[str, Any]


async def tool(*command: str) -> Any:
    """What a tool prints as JSON."""
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return json.loads(output)


def module(name: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, "-m", f"tests.load.{name}", *map(str, arguments))


@asynccontextmanager
async def live_calls(server: Server, count: int = CALLS) -> AsyncIterator[list[LiveCall]]:
    """Calls that are recorded meanwhile; afterwards every packet that they sent is found, and no other."""
    async with RecordingClient() as client:
        wanted = CallOptions(target=server.uri, counter=True, duration=60.0)
        calls = [await client.start(wanted) for _ in range(count)]
        assert all(call.result.status == 200 for call in calls)
        yield calls
        assert not any(call.ended.is_set() for call in calls)
        names = set()
        for call in calls:
            await call.bye()
            names.add(call.dialog.call_id if call.dialog else "")
        while names:
            line = await asyncio.to_thread(
                server.wait_for, "recording ready", where=lambda one: one["call_id"] in names
            )
            names.discard(line["call_id"])
        by_call = {folder.read().call_id: folder for folder in server.recordings()}
        for call in calls:
            assert call.dialog is not None
            assert_whole(by_call[call.dialog.call_id], call)


async def mutations(root: Path, size: int) -> Found:
    """Damaged messages, half over UDP and half over TCP: a new call takes at most 100 ms, and memory stays where it was
    before the first of them, but for 32 MiB.
    """
    with serving(root, CAPTURE_KEEP="always") as server:
        async with live_calls(server) as calls:
            memory = [_memory(server)]
            names = [call.dialog.call_id for call in calls if call.dialog]
            told = []
            for seed, (share, transport) in enumerate(((0.25, "udp"), (0.25, "udp"), (0.5, "tcp")), 1):
                count = round(size * share)
                told.append(await tool(*module("mutations", server.port, count, seed, transport, *names)))
                memory.append(_memory(server))
            fresh = await calls[0].client.start(CallOptions(target=server.uri))
            setup_ms = fresh.result.setup_ms or 0.0
            assert fresh.result.status == 200
            assert setup_ms < SETUP_MS
            await fresh.bye()
    assert max(memory)[0] <= memory[0][0] + GROWTH_MIB, memory
    return {"messages": told, "resident_and_anonymous_mib": memory, "setup_ms": round(setup_ms, 1)}


async def spray(root: Path, size: int) -> Found:
    """A foreign host at every port for `size` seconds. Needs root for its network namespace."""
    reason = foreign.missing()
    if reason is not None:
        return {"skipped": reason}
    settings = {"SIP_HOST": "0.0.0.0", "SIP_ALLOW": "127.0.0.0/8", "CAPTURE_KEEP": "always"}
    with foreign.foreign_host() as host, serving(root, **settings) as server:
        async with live_calls(server) as calls:
            first = [stream.remote.port for call in calls for stream in call.streams if stream.remote]
            ports = [port for each in first for port in (each, each + 1)]
            told = await tool(*host.command(*module("spray", "rtp", host.ours, size, *ports)))
        refused: Counter[str] = Counter()
        for folder in server.recordings():
            for each in folder.read().refused:
                refused[f"{each.reason} from {each.source}"] += each.packets
    return {"sent": told, "refused_before_the_lock": dict(refused)}


async def flood(root: Path, size: int) -> Found:
    """20 000 SIP messages a second from an unlisted source for `size` seconds: silence, and calls go on as before."""
    with serving(root, CAPTURE_KEEP="always", SIP_ALLOW="127.0.0.1/32") as server:
        async with live_calls(server) as calls:
            quiet = await _setup_ms(calls[0].client, server)
            attack = asyncio.create_task(tool(*module("spray", "flood", "127.0.0.1", server.port, size)))
            await asyncio.sleep(0.5)  # the attacker has to start
            busy = await _setup_ms(calls[0].client, server)
            assert not attack.done(), "the flood ended before the calls were set up"
            told = await attack
    assert not told.get("answered")
    return {**told, "setup_ms": {"quiet": quiet, "flooded": busy}}


async def _setup_ms(client: RecordingClient, server: Server) -> dict[str, float]:
    """Median and greatest of some calls, one after the other."""
    taken = []
    for _ in range(SETUPS):
        call = await client.start(CallOptions(target=server.uri))
        assert call.result.status == 200, call.result
        taken.append(call.result.setup_ms or 0.0)
        await call.bye()
    return {"median": round(sorted(taken)[SETUPS // 2], 1), "greatest": round(max(taken), 1)}


async def half_open(root: Path, size: int) -> Found:
    """INVITEs that are never acknowledged: to the limit and no further; sessions and sockets are back 40 s after the
    last one, and a second and larger flood leaves no more memory behind than the first.
    """
    limit = 1_000
    with serving(root, CAPTURE_KEEP="always", MAX_SESSIONS=str(limit)) as server:
        async with live_calls(server) as calls:
            await asyncio.sleep(SETTLED_SECONDS)
            with_calls, memory = descriptors(server), [_memory(server)]
            for count in (2 * limit, size):
                told = await tool(*module("half_open", server.port, count))
                begun = time.monotonic()
                await asyncio.to_thread(_wait, lambda: descriptors(server) <= with_calls + SPARE, HALF_OPEN_SECONDS)
                seconds, left = time.monotonic() - begun, descriptors(server)
                memory.append(_memory(server))
                await asyncio.sleep(max(0.0, HALF_OPEN_SECONDS - seconds))
                memory.append(_memory(server))
                assert told["retry_after"] == told["statuses"].get("503", 0)
                assert told["statuses"].get("200", 0) <= limit - len(calls), told
                assert left <= with_calls + SPARE, (with_calls, left)
    assert memory[-1][0] <= memory[2][0] + AGAIN_MIB, memory
    assert memory[-1][0] <= memory[0][0] + BACK_MIB, memory
    return {
        **told,
        "seconds_until_back": round(seconds, 1),
        "descriptors": (with_calls, left),
        "resident_and_anonymous_mib": memory,
    }


def _memory(server: Server) -> tuple[float, float]:
    """Resident memory of the worker, and what of it is no mapped file, in MiB."""
    held = Held.by(server.worker)
    return held.resident_mib, held.anonymous_mib


def descriptors(server: Server) -> int:
    """Of keeper and worker: the keeper holds the sockets of all calls too."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (server.process.pid, server.worker))


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run(folder, size)`: see the functions; `size` is the usual one."""

    summary: str
    size: int
    run: Callable[[Path, int], Coroutine[Any, Any, Found]]


SCENARIOS = {
    "mutations": Scenario(f"200 000 damaged messages while {CALLS} calls are recorded", 200_000, mutations),
    "spray": Scenario(f"a foreign host sprays the ports of {CALLS} calls for 10 s", 10, spray),
    "flood": Scenario(f"20 000 SIP messages a second from an unlisted source, {CALLS} calls", 10, flood),
    "half_open": Scenario(f"10 000 INVITEs without ACK while {CALLS} calls are recorded", 10_000, half_open),
}


def run(name: str, root: Path, *, scale: float = 1.0) -> Found:
    """Run one at `scale` times its size; returns figures, raises AssertionError for what must not be."""
    scenario = SCENARIOS[name]
    return asyncio.run(scenario.run(root, max(1, round(scenario.size * scale))))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(sys.argv[1], Path(folder), scale=float(sys.argv[2]) if sys.argv[2:] else 1.0)))
