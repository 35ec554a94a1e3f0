"""siprec's capture as a program of its own, to be measured beside the C receivers, with the same manners.

    python -m tests.load.capture_receiver ADDRESS FIRST_PORT STREAMS FOLDER FIRST_SOURCE_PORT TIER

Two streams a session, sources as an SDP would tell them, all checks on; sockets, files and threads of real use.
Prints "ready" when bound and, after SIGTERM and the last write, one line of JSON.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path

from siprec.media.capture import Fault
from siprec.media.local import LocalCapture
from siprec.media.ports import PortPair, PortPool
from siprec.media.rooms import create_memory
from siprec.media.tiers import Tier, available
from tests.load.machine import raise_descriptor_limit

CLOSE_SECONDS = 60.0
PAYLOAD_TYPES = frozenset({8})


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def bound(pool: PortPool, streams: int) -> list[PortPair]:
    """All pairs of the pool, in the order of the generator's streams."""
    return sorted((pool.acquire(0.0) for _ in range(streams)), key=lambda pair: pair.port)


def main(address: str, first_port: int, streams: int, folder: Path, source_port: int, tier: Tier) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    raise_descriptor_limit()
    faults: list[Fault] = []
    pool = PortPool(address, first_port, first_port + 2 * streams - 1, choose=random.Random(1))
    engine = LocalCapture(on_fault=faults.append, receive=tier, memory=create_memory())
    empty = resident_kib()
    pairs = bound(pool, streams)
    sessions = []
    for first in range(0, streams, 2):
        directory = folder / f"{first:05d}"
        directory.mkdir()
        session = engine.open(directory)
        for index in range(first, min(first + 2, streams)):
            remote = (address, source_port + index)
            session.add(pairs[index], channel=index % 2, payload_types=PAYLOAD_TYPES, remote=remote)
        sessions.append(session)
    engine.start()
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    used = resident_kib() - empty
    results = [each.close() for each in sessions]
    closed = [each.result(CLOSE_SECONDS) for each in results]
    engine.stop()
    totals = engine.totals()
    told = {
        "packets": sum(counters.accepted for result in closed for _, counters in result.counters),
        "kernel_drops": totals.kernel_drops,
        "late_ticks": totals.late_ticks,
        "grown_mib": round(used / 1024, 1),
        "faults": [each.detail for each in faults],
    }
    print(json.dumps(told))


def _tier(name: str) -> Tier:
    return next(each for each in available() if each == name)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), _tier(sys.argv[6]))
