"""Keeper and worker die together, and the server is started again on the same machine."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

from tests.failover.calls import calling, expect_one_each, expect_told, heard, rendered
from tests.failover.figures import Row, count, mark
from tests.support.server import serving

DOWN_SECONDS = 1.0
ALLOWED_MS = 250


async def restarted(root: Path, quick: bool) -> list[Row]:
    """kill -9 of keeper and worker, and a start on the same ports."""
    sessions = 2 if quick else 25
    row = Row(
        "keeper and worker killed with -9, server started again",
        f"time down + {ALLOWED_MS} ms; same ports, same id, one recording",
        sessions,
    )
    with ExitStack() as stack:
        first = stack.enter_context(serving(root, CAPTURE_KEEP="always"))
        await heard(first, "ready to record")
        async with calling(first.uri, sessions) as calls:
            before, ports = [folder.session_id for folder in first.recordings()], calls.ports()
            marks, killed_at = mark(calls.streams), time.monotonic()
            await asyncio.to_thread(first.kill_all)
            await asyncio.sleep(DOWN_SECONDS)
            again = serving(root, CAPTURE_KEEP="always", SIP_PORT=str(first.port))
            second = await asyncio.to_thread(stack.enter_context, again)
            await heard(second, "ready to record")
            down_ms = (time.monotonic() - killed_at) * 1000
            await asyncio.sleep(1.0)
            restored = sum(each["event"] == "call restored" for each in second.log)
            row.expect(restored == sessions, f"{restored} of {sessions} calls were restored")
            row.expect(calls.ports() == ports, "streams moved to other ports")
            await calls.bye(row)
            await rendered(second, sessions)
            row.expect(second.stop() == 0, "the server did not stop in order")
        expect_one_each(row, second, before, how="restart")
        count(row, second.recordings(), calls.streams, [marks])
        expect_told(row)
    row.details["down_ms"] = round(down_ms)
    row.expect(max(row.milliseconds) <= down_ms + ALLOWED_MS, "more was lost than the time down")
    return [row]
