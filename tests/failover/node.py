"""One of two nodes dies; its SRC goes to the other. They share Redis and the folder of recordings, nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import get_args

from siprec.client.call import LiveCall
from siprec.client.failover import go_over
from siprec.client.options import Failover, FailoverStyle
from tests.failover.calls import Calls, calling, expect_one_each, expect_told, rendered
from tests.failover.figures import Row, count, mark
from tests.support import redis_server
from tests.support.server import Server, serving

NOTICED_SECONDS = 1.0
"""After A's death the SRC goes to B."""

ANSWER_MS = 1000
ALLOWED_MS = 250

TOLD_AS: dict[FailoverStyle, str] = {"replaces": "replaces", "fresh": "fresh-invite", "reinvite": "reinvite"}


async def lost(root: Path, quick: bool) -> list[Row]:
    """kill -9 of all of A, and each of the ways in which an SRC goes to B."""
    if not redis_server.installed():
        return [Row("node A killed", "runs", details={"skipped": redis_server.MISSING})]
    with redis_server.running() as redis:
        return [await _measure(root, style, redis.url, 1 if quick else 10) for style in get_args(FailoverStyle)]


@contextmanager
def node(root: Path, name: str, url: str, **environ: str) -> Iterator[Server]:
    """A node of a cluster: everything but Redis and the recordings is its own."""
    (root / name).mkdir(parents=True, exist_ok=True)
    settings = {
        "NODE_ID": name,
        "STATE_DIR": str(root / name),
        "REDUNDANCY_STORAGE_TYPE": "redis",
        "REDIS_URL": url,
        "CAPTURE_KEEP": "always",
        **environ,
    }
    recordings = root / "recordings"
    recordings.mkdir(exist_ok=True)
    with serving(recordings, **settings) as server:
        server.wait_for("ready to record")
        yield server


async def _measure(root: Path, style: FailoverStyle, url: str, sessions: int) -> Row:
    bar = f"answered within {ANSWER_MS} ms; absence + {ALLOWED_MS} ms; same id, one recording"
    row = Row(f"node A killed, SRC goes to B: {style}", bar, sessions)
    root = root / style
    with ExitStack() as stack:
        starting = (partial(stack.enter_context, node(root, name, url)) for name in (f"a-{style}", f"b-{style}"))
        a, b = await asyncio.gather(*map(asyncio.to_thread, starting))
        async with calling(a.uri, sessions, failover=Failover(b.uri, style)) as calls:
            before = [folder.session_id for folder in a.recordings()]
            marks, killed_at = mark(calls.streams), time.monotonic()
            await asyncio.to_thread(a.kill_all)
            await asyncio.sleep(NOTICED_SECONDS)
            await _move(row, calls, Failover(b.uri, style))
            absent_ms = (time.monotonic() - killed_at) * 1000
            await asyncio.sleep(1.0)
            await calls.bye(row)
            await rendered(b, sessions)
            row.expect(b.stop() == 0, "B did not stop in order")
        expect_one_each(row, b, before, how=TOLD_AS[style])
        count(row, b.recordings(), calls.streams, [marks])
        expect_told(row)
        parts = [[part.node for part in folder.parts()] for folder in b.recordings()]
        row.expect(all(set(each) == {f"a-{style}", f"b-{style}"} for each in parts), f"parts are of {parts}")
    row.details["absent_ms"] = round(absent_ms)
    row.expect(max(row.milliseconds) <= absent_ms + ALLOWED_MS, "the gap is longer than the absence")
    return row


async def _move(row: Row, calls: Calls, failover: Failover) -> None:
    """Every call goes to B."""
    told: list[str] = []

    async def move(call: LiveCall) -> tuple[LiveCall | None, float]:
        began = time.monotonic()
        return await go_over(calls.client, call, failover, report=told.append), time.monotonic() - began

    moved = await asyncio.gather(*(move(call) for call in calls.live))
    slowest = max(seconds for _, seconds in moved) * 1000
    calls.live = [call for call, _ in moved if call is not None]
    row.details["answered_ms"] = round(slowest)
    row.expect(len(calls.live) == len(moved), "B did not take all calls over")
    row.expect(not told, f"refused at first: {told}")
    row.expect(slowest <= ANSWER_MS, f"B answered after {slowest:.0f} ms")
