"""The worker dies by kill -9 under its keeper, or is replaced by SIGHUP, while calls are recorded."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.failover.calls import calling, expect_one_each, heard, rendered
from tests.failover.figures import Marks, Row, count, mark
from tests.support.server import Server, serving

TICK_PACKETS = 10
"""Fewer than a drain reads of a stream in one tick. What a kill catches between reading and writing is not lost, but
for the packets of the one socket that is being emptied."""

BETWEEN_SECONDS = (0.7, 1.1)
"""From one start to the next kill; drawn, so that kills hit every phase of the drain's tick."""


async def killed(root: Path, quick: bool) -> list[Row]:
    """kill -9 of the worker, again and again."""
    kills, sessions = (2, 4) if quick else (20, 25)
    row = Row(
        f"worker killed with -9, {kills} times", f"median 0 packets, at most {TICK_PACKETS}; same id; BYE 200", sessions
    )

    await repeated(row, root, kills, Server.kill_worker, proof="worker died")
    row.expect(row.line()["packets_lost_median"] == 0, "the median is above 0")
    row.expect(max(row.packets_lost) <= TICK_PACKETS, "more than a tick was lost")
    return [row]


async def upgraded(root: Path, quick: bool) -> list[Row]:
    """SIGHUP: the keeper replaces the worker."""
    times, sessions = (1, 4) if quick else (5, 25)
    row = Row(f"upgrade by SIGHUP, {times} times", "0 packets; same id; BYE 200", sessions)
    await repeated(row, root, times, lambda server: server.process.send_signal(signal.SIGHUP), proof="handing over")
    row.expect(max(row.packets_lost) == 0, "packets were lost")
    return [row]


async def repeated(
    row: Row, root: Path, times: int, replace: Callable[[Server], None], *, proof: str, **environ: str
) -> None:
    """Have the worker replaced so often, and count. `proof`: what the log must say of each time."""
    marks: list[Marks] = []
    down: list[float] = []
    replaced: list[int] = []
    between = random.Random(row.failure)
    with serving(root, CAPTURE_KEEP="always", **environ) as server:
        await heard(server, "ready to record")
        async with calling(server.uri, row.sessions) as calls:
            before = [folder.session_id for folder in server.recordings()]
            for _ in range(times):
                marks.append(mark(calls.streams))
                replaced.append(server.worker)
                down.append(await _replaced(server, replace))
                await asyncio.sleep(between.uniform(*BETWEEN_SECONDS))
            await calls.bye(row)
            await rendered(server, row.sessions)
            row.expect(server.stop() == 0, "the server did not stop in order")
        expect_one_each(row, server, before, how="restart")
        count(row, server.recordings(), calls.streams, marks)
        said = [line for line in server.log if line["event"] == proof]
        row.details["workers_replaced"] = len(said)
        row.expect(len(said) == times, f"{times} blows, {len(said)} times {proof!r}")
        died = [line["pid"] for line in said if "pid" in line]
        row.expect(died in ([], replaced), f"workers {replaced} were to be hit, {died} died")
    row.details["down_ms"] = {"median": sorted(down)[len(down) // 2], "worst": max(down)}


async def _replaced(server: Server, replace: Callable[[Server], None]) -> float:
    """Replace the worker; milliseconds until the next one is ready."""
    old, began = server.worker, time.monotonic()
    replace(server)
    while (await heard(server, "ready to record"))["pid"] == old:
        pass
    return round((time.monotonic() - began) * 1000)
