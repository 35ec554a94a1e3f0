"""The disk is full for a while, then there is room again. Needs root, for a small file system of its own."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from pathlib import Path

from siprec.media.ports import RECEIVE_BUFFER, buffered_seconds
from tests.failover.calls import TOLD_MS, calling, expect_one_each, rendered
from tests.failover.figures import Row, count, mark
from tests.support.disk import fill, small_disk
from tests.support.server import serving

DISK_MIB = 96
"""Audio and captures of all calls, also while they are rendered."""

FULL_SECONDS = 5.0

OVERFULL_SECONDS = 8.0
"""With hardly any RTP_BACKLOG packets wait in their sockets, as long as `net.core.rmem_max` allows, up to 50 s; the
disk stays full for so much longer, and what does not fit is lost.
"""

OVERFULL_SESSIONS = 5

ALLOWED_MS = 1000

GAP_MS = 200
"""From so long a gap on, the verdict tells of it."""


async def filled(root: Path, quick: bool) -> list[Row]:
    """A full disk with the usual memory for what waits, and with next to none."""
    sessions = 2 if quick else 25
    rows = [await _measure(root / "usual", sessions, 1.0 if quick else FULL_SECONDS)]
    if not quick:
        seconds = socket_seconds() + OVERFULL_SECONDS
        rows.append(await _measure(root / "tight", OVERFULL_SESSIONS, seconds, RTP_BACKLOG="64KiB"))
    return rows


def socket_seconds() -> float:
    """How long a stream's packets fit into its socket on this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        return math.ceil(buffered_seconds(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)))


async def _measure(root: Path, sessions: int, seconds: float, **environ: str) -> Row:
    held = f"RTP_BACKLOG {environ['RTP_BACKLOG']}" if environ else "RTP_BACKLOG as it is"
    row = Row(f"disk full for {seconds:g} s, {held}", f"fault + {ALLOWED_MS} ms; cause `disk` told; no crash", sessions)
    root.mkdir()
    if os.geteuid() != 0:
        row.details["skipped"] = "a file system of its own needs root"
        return row
    with small_disk(root, DISK_MIB), serving(root, CAPTURE_KEEP="always", **environ) as server:
        async with calling(server.uri, sessions) as calls:
            worker, before = server.worker, [folder.session_id for folder in server.recordings()]
            marks, began = mark(calls.streams), time.monotonic()
            filler = await asyncio.to_thread(fill, root)
            await asyncio.sleep(seconds - (time.monotonic() - began))
            filler.unlink()
            fault_ms = (time.monotonic() - began) * 1000
            await asyncio.sleep(1.5)
            await calls.bye(row)
            await rendered(server, sessions)
            row.expect(server.worker == worker, "the worker did not survive")
            row.expect(server.stop() == 0, "the server did not stop in order")
        expect_one_each(row, server, before, how=None)
        count(row, server.recordings(), calls.streams, [marks])
        causes = sorted({gap.cause for folder in server.recordings() for gap in folder.read().gaps})
        gap_ms = max((gap.length for folder in server.recordings() for gap in folder.read().gaps), default=0.0) * 1000
        verdicts = sorted({str(folder.read().verdict) for folder in server.recordings()})
        row.details |= {"recording_says_ms": round(gap_ms), "verdicts": verdicts}
        row.expect(abs(gap_ms - max(row.milliseconds)) <= TOLD_MS, "the recordings tell of another gap")
        row.expect(verdicts == (["gaps"] if max(row.milliseconds) >= GAP_MS else ["ok"]), f"verdicts: {verdicts}")
        said = [line for line in server.log if line["event"] == "capture in trouble"]
    row.details |= {"fault_ms": round(fault_ms), "causes_of_gaps": causes, "said": [each["cause"] for each in said]}
    row.expect(any(each["cause"] == "disk" for each in said), "the log does not tell of the disk")
    row.expect(causes == (["disk"] if any(row.packets_lost) else []), f"causes of gaps: {causes}")
    row.expect(max(row.milliseconds) <= fault_ms + ALLOWED_MS, "the gap is longer than the fault")
    return row
