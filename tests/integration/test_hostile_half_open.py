"""INVITEs that nobody acknowledges: counted as sessions, refused beyond the limit, gone after 64*T1 (SECURITY A6)."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from siprec import app, config
from siprec.client.options import CallOptions
from siprec.client.src import RecordingClient
from siprec.sip.timers import Timings
from tests.load.half_open import flood
from tests.support.counting import assert_whole, folder_of, resident_kib
from tests.support.server import serving

SESSIONS = 40
FLOOD = 300
"""scripts/soak sends 10 000 at the default limit."""
GROWTH_KIB = 32 * 1024


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the server does by itself: 300 recordings are rendered in 5 s by two idle processors."""
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.01)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_flood_fills_the_sessions_and_all_come_back(tmp_path: Path) -> None:
    """With T1 of 20 ms in place of 500, so that 64*T1 pass within the test."""
    settings = {
        "SIP_HOST": "127.0.0.1", "SIP_PORT": "0", "RECORDING_DIR": str(tmp_path), "DISK_RESERVE": "0",
        "MAX_SESSIONS": str(SESSIONS),
    }  # fmt: skip
    configuration = config.read(settings, tmp_path / ".env")
    ended: set[str] = set()
    async with AsyncExitStack() as stack:
        configuration.settings.state_dir.mkdir()
        running = await app.start(configuration, stack, timings=Timings(t1=0.02, t2=0.16))
        running.recorder.observe_end(lambda record: ended.add(record.call.session_id))
        await asyncio.to_thread(flood, running.sip_port, SESSIONS, prefix="warm")
        await until(lambda: len(ended) == SESSIONS)
        before, sockets = resident_kib(os.getpid()), descriptors()
        outcome = await asyncio.to_thread(flood, running.sip_port, FLOOD)
        statuses = list(outcome.statuses.values())
        accepted = statuses.count(200)
        assert accepted + statuses.count(503) == FLOOD
        assert outcome.retry_after == statuses.count(503)
        assert SESSIONS <= accepted < FLOOD
        await until(lambda: len(ended) == SESSIONS + accepted)
        await until(lambda: running.recorder.live == 0)
        await until(lambda: descriptors() <= sockets)
        assert resident_kib(os.getpid()) <= before + GROWTH_KIB
        again = await asyncio.to_thread(flood, running.sip_port, SESSIONS, prefix="again")
        assert set(again.statuses.values()) == {200}
        await until(lambda: len(ended) == 2 * SESSIONS + accepted)


async def test_a_flood_leaves_live_calls_alone(tmp_path: Path) -> None:
    with serving(tmp_path, CAPTURE_KEEP="always", MAX_SESSIONS=str(SESSIONS)) as server:
        async with RecordingClient() as client:
            calls = [await client.start(CallOptions(target=server.uri, counter=True, duration=30.0)) for _ in range(4)]
            outcome = await asyncio.to_thread(flood, server.port, FLOOD)
            for call in calls:
                await call.bye()
            for call in calls:
                assert (call.result.ended_by, call.result.bye_status) == ("us", 200)
            for _ in calls:
                server.wait_for("recording ready")
        for call in calls:
            assert_whole(folder_of(server.recordings(), call), call)
    assert set(outcome.statuses.values()) == {200, 503}


def test_no_more_than_max_sessions_are_let_in(tmp_path: Path) -> None:
    with serving(tmp_path, MAX_SESSIONS=str(SESSIONS)) as server:
        outcome = flood(server.port, FLOOD)
    statuses = Counter(outcome.statuses.values())
    assert statuses == {200: SESSIONS, 503: FLOOD - SESSIONS}
    assert outcome.retry_after == statuses[503]
