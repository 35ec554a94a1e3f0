"""Redis stops, hangs, is flushed and is restarted, one after another, while a node records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from siprec.store import layout
from tests.failover.calls import Calls, calling, counted, expect_one_each, rendered
from tests.failover.figures import Row, count, mark
from tests.failover.node import node
from tests.support import redis_server
from tests.support.redis_server import RedisServer
from tests.support.server import Server

AWAY_SECONDS = 10.0
QUICK_SECONDS = 1.0

SYNCED_MS = 2000
LOOK_SECONDS = 0.02

Fault = Callable[[RedisServer], Coroutine[None, None, None]]
"""Do something to Redis, which is back at the end."""


async def lost(root: Path, quick: bool) -> list[Row]:
    """All faults of Redis in one row of calls."""
    bar = f"0 packets, 0 sessions; re-synced within {SYNCED_MS} ms of its return"
    row = Row("Redis stopped, paused, flushed, restarted", bar, 2 if quick else 25)
    if not redis_server.installed():
        row.details["skipped"] = redis_server.MISSING
        return [row]
    away = QUICK_SECONDS if quick else AWAY_SECONDS
    with redis_server.running() as redis, node(root, "a", redis.url) as server:
        async with calling(server.uri, row.sessions) as calls:
            ids = [folder.session_id for folder in server.recordings()]
            await _synced(row, redis, ids, "start")
            marks = []
            for name, fault in _faults(away).items():
                marks.append(mark(calls.streams))
                broken = asyncio.create_task(fault(redis))
                await asyncio.sleep(0)
                await _one_more(row, calls, server, name)
                await broken
                await _synced(row, redis, ids, name)
            await calls.bye(row)
            await rendered(server, row.sessions + len(marks))
            row.expect(server.stop() == 0, "the server did not stop in order")
        others = [each.session_id for each in server.recordings() if each.session_id not in ids]
        expect_one_each(row, server, ids + others, how=None)
        row.expect(len(others) == len(marks), f"{len(marks)} calls placed meanwhile, {len(others)} recorded")
        count(row, server.recordings(), calls.streams, marks)
        row.expect(sum(each["event"] == "ready to record" for each in server.log) == 1, "the worker was restarted")
    row.expect(max(row.packets_lost) == 0, "packets were lost")
    return [row]


def _faults(away: float) -> dict[str, Fault]:
    async def stopped(redis: RedisServer) -> None:
        await asyncio.to_thread(redis.stop)
        await asyncio.sleep(away)
        await asyncio.to_thread(redis.start)

    async def paused(redis: RedisServer) -> None:
        redis.pause()
        await asyncio.sleep(away)
        redis.resume()

    async def flushed(redis: RedisServer) -> None:
        assert redis.ask("FLUSHALL") == b"+OK"

    async def restarted(redis: RedisServer) -> None:
        await asyncio.to_thread(redis.restart)

    return {"stopped": stopped, "paused": paused, "flushed": flushed, "restarted": restarted}


async def _synced(row: Row, redis: RedisServer, ids: list[str], fault: str) -> None:
    """Wait until all living sessions are in Redis (again)."""
    began = time.monotonic()
    missing = set(ids)
    while missing and time.monotonic() - began < 3 * SYNCED_MS / 1000:
        missing = {each for each in missing if not await asyncio.to_thread(_holds, redis, each)}
        await asyncio.sleep(LOOK_SECONDS)
    took = round((time.monotonic() - began) * 1000)
    row.details[f"synced_after_{fault}_ms"] = took
    row.expect(not missing and took <= SYNCED_MS, f"{fault}: {len(missing)} sessions not there after {took} ms")


def _holds(redis: RedisServer, session_id: str) -> bool:
    try:
        return redis.ask("EXISTS", layout.session(session_id)) == b":1"
    except OSError:
        return False


async def _one_more(row: Row, calls: Calls, server: Server, fault: str) -> None:
    """A call that begins and ends while Redis is away."""
    number = 1000 + len(row.details)
    result = await calls.client.call(counted(server.uri, number, duration=0.4), voices=0)
    row.details[f"new_call_while_{fault}_ms"] = round(result.setup_ms or 0.0)
    row.expect(result.ok, f"a new call while Redis is {fault}: {result.status} {result.problem}")
