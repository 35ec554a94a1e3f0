"""Captures in processes of their own: one of these dies by kill -9, or the process that speaks SIP does."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

from tests.failover.calls import calling, expect_one_each, heard, rendered
from tests.failover.figures import Marks, Row, count, mark
from tests.failover.worker import BETWEEN_SECONDS, TICK_PACKETS, repeated
from tests.support.server import Server, serving

WORKERS = 2


async def killed(root: Path, quick: bool) -> list[Row]:
    """kill -9 of a media worker, and of the worker that has one."""
    kills, sessions = (2, 4) if quick else (20, 25)
    return [await _media_killed(root / "media", kills, sessions), await _worker_killed(root / "sip", kills, sessions)]


async def _media_killed(root: Path, kills: int, sessions: int) -> Row:
    row = Row(f"one of {WORKERS} media workers killed with -9, {kills} times", f"at most {TICK_PACKETS}", sessions)
    root.mkdir()
    marks: list[Marks] = []
    down: list[float] = []
    between = random.Random(row.failure)
    with serving(root, CAPTURE_KEEP="always", MEDIA_WORKERS=str(WORKERS)) as server:
        await heard(server, "ready to record")
        async with calling(server.uri, sessions) as calls:
            before = [folder.session_id for folder in server.recordings()]
            for number in range(kills):
                marks.append(mark(calls.streams))
                down.append(await _killed(server, number % WORKERS))
                await asyncio.sleep(between.uniform(*BETWEEN_SECONDS))
            await calls.bye(row)
            await rendered(server, sessions)
            left = server.media_workers()
            row.expect(len(left) == WORKERS, f"media workers are {left}")
            row.expect(server.stop() == 0, "the server did not stop in order")
            row.expect(not [pid for pid in left if Path(f"/proc/{pid}").exists()], "a media worker outlived the server")
        expect_one_each(row, server, before, how=None)
        count(row, server.recordings(), calls.streams, marks)
        row.details["captures_continued"] = _continued(row, server)
    row.details["down_ms"] = {"median": sorted(down)[len(down) // 2], "worst": max(down)}
    row.expect(max(row.packets_lost) <= TICK_PACKETS, "more than a tick was lost")
    return row


async def _killed(server: Server, which: int) -> float:
    """Kill a media worker; milliseconds until its sessions are captured again."""
    pid, began = server.media_workers()[which], time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await heard(server, "capture in trouble", cause="worker")
    await heard(server, "capture out of trouble", cause="worker")
    return round((time.monotonic() - began) * 1000)


def _continued(row: Row, server: Server) -> int:
    """How many files were begun because of a death: each is told of as an outage in its part."""
    continued = 0
    for folder in server.recordings():
        (part,) = folder.parts()
        more = len(part.captures()) - 1
        told = part.control.read_text().count('"interrupted"')
        row.expect(told == more, f"{more} deaths, of which part.json tells {told}")
        continued += more
    return continued


async def _worker_killed(root: Path, kills: int, sessions: int) -> Row:
    """The media worker reads what has come and writes it before it ends, so that not even a tick is lost."""
    row = Row(f"worker with a media worker killed with -9, {kills} times", "0 packets; same id; BYE 200", sessions)
    root.mkdir()
    await repeated(row, root, kills, Server.kill_worker, proof="worker died", MEDIA_WORKERS="1")
    row.expect(max(row.packets_lost) == 0, "packets were lost")
    return row
