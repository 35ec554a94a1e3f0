"""Damaged messages into the server while it records: no packet lost, no memory kept, new calls answered."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from siprec.client.src import RecordingClient
from tests.support.calls import live, options
from tests.support.counting import assert_whole, folder_of, resident_kib
from tests.support.server import Server, serving

MESSAGES = 2_500
"""Over each transport; scripts/soak sends 200 000."""
GROWTH_KIB = 32 * 1024


async def attack(port: int, count: int, seed: int, transport: str, call_ids: list[str]) -> dict[str, Any]:
    """Runs tests.load.mutations; returns what it tells."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.load.mutations", str(port), str(count), str(seed), transport, *call_ids,
        cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await process.communicate()
    assert process.returncode == 0
    outcome: dict[str, Any] = json.loads(told)
    return outcome


async def is_served(client: RecordingClient, server: Server) -> None:
    """A new call is answered and ended."""
    fresh = await client.start(options(server))
    assert fresh.result.status == 200
    await fresh.bye()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_damaged_messages_cost_a_recorded_call_nothing(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path, CAPTURE_KEEP="always") as server:
        await attack(server.port, 300, 1, transport, [])  # what is made once: renderers, threads, caches
        before = resident_kib(server.worker)
        async with live(server, counter=True, duration=60.0) as call:
            assert call.dialog is not None
            outcome = await attack(server.port, MESSAGES, 2, transport, [call.dialog.call_id])
            after = resident_kib(server.worker)
            await is_served(call.client, server)
            assert not call.ended.is_set()
            await call.bye()
        call_id = call.dialog.call_id
        server.wait_for("recording ready", where=lambda line: line["call_id"] == call_id)
        assert_whole(folder_of(server.recordings(), call), call)
    print(outcome, f"resident {before} -> {after} KiB", file=sys.stderr)
    assert outcome["sent"] == MESSAGES
    assert after <= before + GROWTH_KIB
