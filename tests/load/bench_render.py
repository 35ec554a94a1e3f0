"""Rendering: CPU of a 5-minute two-channel G.711 call, and memory of a call of many hours, both to a WAV file.

The captures lie in the file cache, as after a call; each rendering runs in a process of its own, as in the server,
and the first one counts too: most calls are rendered once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from siprec.archive.audio import write_audio
from siprec.media import pcap
from siprec.media.render import render
from siprec.rtp import packets
from tests.load import machine
from tests.support.captures import SECOND, START, Channel, Folder, noise

MINUTES = 5.0
HOURS = 24.0
ROUNDS = 5
REQUIRED_MS, AIM_MS = 100, 30

CHANNELS = 2
RATE = 50  # packets a second
TICKS = 160  # of the RTP clock in a packet
BATCH = 10  # packets of one stream that a drain each 200 ms finds
BLOCK_SECONDS = 600  # of capture made at a time
BYTES_PER_SECOND = CHANNELS * (RATE * (44 + 172) + 8000 * 2)
"""Of disk: capture and audio."""

RECORD_AT, RTP_AT = 0, pcap.RECORD_HEADER + pcap.IPV4_HEADERS


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of the short call (default {MINUTES:g})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"renderings of it (default {ROUNDS})")
    parser.add_argument(
        "--hours", type=float, default=HOURS, help=f"of the long call, 5 GiB of disk for {HOURS:g} (default), 0: none"
    )


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The CPU of the short call, then the memory of the long one."""
    with tempfile.TemporaryDirectory(prefix="siprec-bench-") as name:
        folder = Path(name)
        short = call(folder / "short", options.minutes * 60)
        found = [_apart(short, folder / "short.wav") for _ in range(options.rounds)]
        yield _cpu(options.minutes, found)
        hours = _affordable(options.hours, folder)
        if hours:
            print(f"a call of {hours:g} hours", file=sys.stderr)
            yield _memory(hours, _apart(call(folder / "long", hours * 3600), folder / "long.wav"), found[0])


def _cpu(minutes: float, found: list[dict[str, float]]) -> dict[str, Any]:
    first = statistics.median(each["cpu_ms"] for each in found)
    again = statistics.median(each["again_ms"] for each in found)
    return {
        "bench": "render",
        "minutes": minutes,
        "channels": CHANNELS,
        "cpu_ms": round(first, 1),
        "cpu_ms_again": round(again, 1),
        "s_per_million": round(first * 1000 / (minutes * 60 * RATE * CHANNELS), 2),
        "peak_mib": found[0]["peak_mib"],
        "required": {"cpu_ms": REQUIRED_MS},
        "aim": {"cpu_ms": AIM_MS},
        "met": first <= REQUIRED_MS * minutes / MINUTES,
    }


def _memory(hours: float, found: dict[str, float], short: dict[str, float]) -> dict[str, Any]:
    return {
        "bench": "render-memory",
        "hours": hours,
        "channels": CHANNELS,
        "peak_mib": found["peak_mib"],
        "peak_mib_short": short["peak_mib"],
        "peak_mib_idle": short["idle_mib"],
        "cpu_s": round(found["cpu_ms"] / 1000, 1),
        "wall_s": found["wall_s"],
    }


def _affordable(hours: float, folder: Path) -> float:
    """`hours`, or as many whole ones as half of the free disk holds."""
    most = shutil.disk_usage(folder).free / 2 / BYTES_PER_SECOND / 3600
    return hours if hours <= most else float(int(most))


# ---------------------------------------------------------------------- the capture


def call(path: Path, seconds: float) -> Path:
    """A part with two streams, records in the order a drain writes them; made by vectors, as it may be large."""
    channels = [Channel(port=10_000 + 2 * index) for index in range(CHANNELS)]
    Folder(channels=channels, end=int(seconds * SECOND)).write(path, [])
    with (path / "capture-0001.pcap").open("ab") as file:
        for begin in range(0, int(seconds), BLOCK_SECONDS):
            file.write(_records(begin * RATE, min(int(seconds) - begin, BLOCK_SECONDS) * RATE).data)
    return path


def _records(first: int, count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """`count` packets of each stream, which begin with number `first`; `count` is a multiple of BATCH."""
    number = np.arange(first, first + count, dtype=np.int64)
    sides = np.stack([_side(index, number) for index in range(CHANNELS)])
    return sides.reshape(CHANNELS, count // BATCH, BATCH, -1).swapaxes(0, 1).reshape(-1)


def _side(index: int, number: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    packet = packets.build(0, 0, timestamp=0, ssrc=index + 1, payload=bytes(TICKS))
    record = pcap.record(START, packet, source=("192.0.2.1", 40_000), destination=("192.0.2.9", 10_000 + 2 * index))
    rows = np.tile(np.frombuffer(record, np.uint8), (len(number), 1))
    seconds, rest = np.divmod(START + number * (SECOND // RATE), SECOND)
    rows[:, RECORD_AT : RECORD_AT + 8] = np.stack([seconds, rest], axis=1).astype("<u4").view(np.uint8)
    rows[:, RTP_AT + 2 : RTP_AT + 4] = (number[:, None] & 0xFFFF).astype(">u2").view(np.uint8)
    rows[:, RTP_AT + 4 : RTP_AT + 8] = (number[:, None] * TICKS & 0xFFFFFFFF).astype(">u4").view(np.uint8)
    payload = noise(len(number), seed=index)
    rows[:, RTP_AT + packets.FIXED_HEADER :] = payload.reshape(len(number), TICKS)
    return rows


# ---------------------------------------------------------------------- a rendering process


def _apart(part: Path, target: Path) -> dict[str, float]:
    """What `measure` finds in a fresh process."""
    command = [sys.executable, "-m", "tests.load.bench_render", str(part), str(target)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=machine.ROOT, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(part: Path, target: Path) -> dict[str, float]:
    """The first rendering of this process, and a second one if that was short."""
    idle = _peak_mib()
    began = time.monotonic()
    first = _render(part, target)
    wall = time.monotonic() - began
    peak = _peak_mib()
    again = _render(part, target) if first < 1.0 else first
    return {
        "cpu_ms": first * 1000,
        "again_ms": again * 1000,
        "wall_s": round(wall, 2),
        "peak_mib": peak,
        "idle_mib": idle,
    }


def _render(part: Path, target: Path) -> float:
    """Seconds of CPU, report included."""
    begun = time.process_time()
    rendering = render([part])
    write_audio(target, rendering.blocks(), rate=rendering.rate, channels=rendering.channels, format="wav")
    report = rendering.report
    spent = time.process_time() - begun
    assert not report.gaps, "nothing was lost"
    assert not report.problems, report.problems
    return spent


def _peak_mib() -> float:
    """Of this program: ru_maxrss would also tell of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 1024, 1)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))))
