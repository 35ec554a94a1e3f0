"""Measures capture to disk against a C program that receives the same packets and throws them away.

    python tests/load/bench_capture.py [--streams 1000] [--seconds 6]

Both run beside a generator of 20 ms G.711, one after the other; the CPU time of the receiving process alone is
counted. Prints one JSON line; seconds per million packets are microseconds per packet. Not run by the tests.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from siprec.media.capture import Capture, Fault
from siprec.media.pcap import PcapReader
from siprec.media.ports import PortPool

HERE = Path(__file__).parent
ADDRESS, FIRST_PORT, SOURCE_PORT = "127.0.0.1", 20_000, 28_000
MARGIN = 1.0
WARM_UP = 1.5
"""Seconds after which all streams are settled; setting up calls is not what is measured here."""


def build(name: str, folder: Path) -> str:
    program = folder / name
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True)
    return str(program)


def arguments(streams: int, seconds: float) -> list[str]:
    return [ADDRESS, str(FIRST_PORT), str(streams), str(seconds)]


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def bare(folder: Path, streams: int, seconds: float) -> dict[str, float]:
    receiver = [build("bare_receiver", folder), *arguments(streams, seconds + MARGIN)]
    generator = [build("rtp_generator", folder), *arguments(streams, seconds), str(SOURCE_PORT)]
    with subprocess.Popen(receiver, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sent = int(subprocess.run(generator, stdout=subprocess.PIPE, text=True, check=True).stdout)
        packets, used = process.stdout.read().split()
    return {"sent": sent, "received": int(packets), "s_per_million": float(used) / int(packets) * 1e6}


def capture(folder: Path, target: Path, *, streams: int, seconds: float) -> dict[str, float]:
    """Two streams a session, all checks on; the descriptors, ports and files of real use."""
    generator = [build("rtp_generator", folder), *arguments(streams, seconds), str(SOURCE_PORT)]
    faults: list[Fault] = []
    pool = PortPool(ADDRESS, FIRST_PORT, FIRST_PORT + 2 * streams - 1, choose=random.Random(1))
    pairs = sorted((pool.acquire(0.0) for _ in range(streams)), key=lambda pair: pair.port)
    engine = Capture(on_fault=faults.append)
    sessions = []
    for first in range(0, streams, 2):
        directory = target / f"{first:05d}"
        directory.mkdir()
        session = engine.open(directory)
        for index in range(first, min(first + 2, streams)):
            remote = (ADDRESS, SOURCE_PORT + index)
            session.add(pairs[index], channel=index % 2, payload_types=frozenset({8}), remote=remote)
        sessions.append(session)
    engine.start()
    with subprocess.Popen(generator, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        time.sleep(WARM_UP)
        began, before = cpu(), engine.totals().packets
        sent = int(process.stdout.read())
    time.sleep(MARGIN)
    totals = engine.totals()
    used, packets = cpu() - began, totals.packets - before
    results = [session.close() for session in sessions]
    files = [path for each in results for path in each.result(30).files]
    engine.stop()
    for pair in pairs:
        pool.release(pair, 0.0)
    pool.close()
    on_disk = sum(len(batch.offset) for path in files for batch in PcapReader(path).batches())
    assert not faults, faults
    return {
        "sent": sent,
        "received": on_disk,
        "kernel_drops": totals.kernel_drops,
        "late_ticks": totals.late_ticks,
        "s_per_million": used / packets * 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = folder / "recordings"
        target.mkdir()
        limit = bare(folder, options.streams, options.seconds)
        ours = capture(folder, target, streams=options.streams, seconds=options.seconds)
    ratio = round(ours["s_per_million"] / limit["s_per_million"], 2)
    calls = round(10_000 / ours["s_per_million"])
    line = {"streams": options.streams, "bare": limit, "capture": ours, "ratio": ratio, "calls_per_core": calls}
    json.dump(line, sys.stdout)
    print()


if __name__ == "__main__":
    main()
