"""Capture to disk: CPU of siprec beside a C program that throws packets away and one that records in the usual way.

Each of the three receives the same 20 ms G.711 packets from the same generator on another core, one after the other,
several times; medians are told, ratios of what came in the same round, and beside them the ratio of the least, for on
a busy machine others add to the time but never take from it. The processor time of the receiving process alone counts,
all its threads, without start and warm-up; seconds per million packets are microseconds per packet. After each run
every packet sent must be accounted for, and every record must be on disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from siprec.media.capture import TICK_SECONDS
from siprec.media.pcap import FILE_HEADER, IPV4_HEADERS, RECORD_HEADER
from siprec.media.tiers import Tier, available
from tests.load import machine

ADDRESS = "127.5.0.60"
"""A loopback address that other programs hardly use, so that the ports are free."""

FIRST_PORT = 8_700
LAST_PORT = 32_767  # the ephemeral ports of other programs begin here
PORTS_PER_STREAM = 3  # RTP, RTCP, and the generator's
DESCRIPTORS_PER_STREAM = 2.5
DESCRIPTORS_SPARE = 200

STREAMS = "200,1000,2000,4000,8000"
ROUNDS = 5

BARE_TICK_SECONDS = 0.2

SECONDS = math.lcm(round(TICK_SECONDS * 1000), round(BARE_TICK_SECONDS * 1000)) / 1000
"""Ten looks of ours at 0.22 s, eleven of the bare receiver: what is measured is a whole number of either, so that
it does not matter when in a tick the measurement begins."""

WARM_UP_SECONDS = 4 * TICK_SECONDS
"""Three ticks and the generator's start: sources are learned, files begun; setting up calls is not measured here."""

COOL_DOWN_SECONDS = TICK_SECONDS
"""Packets still come when the measurement ends."""

SETTLE_SECONDS = 2.25 * TICK_SECONDS
"""Two ticks and the writer: what was sent has been received and written."""

PACKETS_PER_SECOND = 50

ATTEMPTS, BETWEEN_SECONDS = 4, 1.0
"""To make a run that nothing disturbed."""

LATE_MS = 20.0
"""A packet time: a generator that is later did not send evenly."""

TIERS: dict[Tier, dict[str, dict[str, float]]] = {
    "native": {"required": {"ratio_bare": 1.8, "ratio_epoll": 0.6, "lost": 0}, "aim": {"ratio_bare": 1.5}},
    "batch": {"required": {"ratio_bare": 3.0, "ratio_epoll": 1.0, "lost": 0}, "aim": {"ratio_bare": 2.2}},
}
"""What is measured of ours: with the C extension, where it was built, and without."""

RECORD = RECORD_HEADER + IPV4_HEADERS + 172
"""A 20 ms G.711 packet in a capture file."""


@dataclass(frozen=True, slots=True)
class Run:
    """One receiver, once. `octets` is what its files hold, without their headers."""

    sent: int
    received: int
    s_per_million: float
    octets: int
    late_ms: float
    told: dict[str, Any]


Command = Callable[[int, str], list[str]]
"""The command line of a receiver, given the number of streams and a folder for its files."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", default=STREAMS, help=f"numbers of streams, two a call (default {STREAMS})")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help=f"measured in each run, a multiple of {SECONDS:g} (default {SECONDS:g})",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each, for the median (default {ROUNDS})")
    parser.add_argument(
        "--burst-us", type=int, default=1000, help="packets due within this time are sent together (default 1000)"
    )


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Figures for each number of streams: one for each of our tiers, or why not. Raises ValueError."""
    numbers = [_number(each) for each in str(options.streams).split(",")]
    with tempfile.TemporaryDirectory(prefix="siprec-bench-") as name:
        folder = Path(name)
        names = ["rtp_generator", "bare_receiver", "epoll_recorder"]
        programs = machine.build(names, folder) if machine.compiler() else {}
        if not programs:
            _say("no C compiler (gcc): nothing to compare with, and packets come from a generator in Python")
        receivers = _receivers(programs)
        for streams in numbers:
            if obstacle := _obstacle(streams):
                yield {"bench": "capture", "streams": streams, "skipped": obstacle}
                continue
            generate = _generator(programs.get("rtp_generator"), streams, options.burst_us)
            seconds = _whole_ticks(options.seconds)
            runs: dict[str, list[Run]] = {each: [] for each in receivers}
            for number in range(options.rounds):
                for each, command in receivers.items():
                    runs[each].append(_patiently(partial(_once, command, generate, streams, seconds)))
                    told = f"{runs[each][-1].s_per_million:.2f} s per million"
                    _say(f"{streams} streams, round {number + 1} of {options.rounds}, {each}: {told}")
            yield from (_figure(tier, streams, seconds, runs) for tier in TIERS if tier in runs)


def stand_ins(streams: int, seconds: float, folder: Path) -> dict[str, Run]:
    """What the two C receivers, `bare` and `epoll`, need for so many streams, by name. Needs a C compiler."""
    programs = machine.build(["rtp_generator", "bare_receiver", "epoll_recorder"], folder)
    generate = _generator(programs["rtp_generator"], streams, 1000)
    receivers = _receivers(programs)
    return {
        name: _patiently(partial(_once, receivers[name], generate, streams, _whole_ticks(seconds)))
        for name in ("bare", "epoll")
    }


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--streams: {text!r} is no number from 1")
    return int(text)


def _obstacle(streams: int) -> str | None:
    """Why so many streams cannot be run on this machine."""
    descriptors = int(streams * DESCRIPTORS_PER_STREAM + DESCRIPTORS_SPARE)
    if descriptors > (limit := machine.raise_descriptor_limit()):
        return f"{descriptors} open files are needed, {limit} allowed (ulimit -Hn)"
    if FIRST_PORT + PORTS_PER_STREAM * streams > LAST_PORT:
        return f"{PORTS_PER_STREAM * streams} ports are needed, {LAST_PORT - FIRST_PORT} are there"
    return None


def _whole_ticks(seconds: float) -> float:
    return max(1, round(seconds / SECONDS)) * SECONDS


def _receivers(programs: dict[str, str]) -> dict[str, Command]:
    """By name; ours alone without `programs`."""

    def place(streams: int) -> list[str]:
        return [ADDRESS, str(FIRST_PORT), str(streams)]

    found: dict[str, Command] = {}
    if programs:
        found["bare"] = lambda streams, _: [programs["bare_receiver"], *place(streams)]
        found["epoll"] = lambda streams, folder: [programs["epoll_recorder"], *place(streams), folder]
    for tier in TIERS:
        if tier in available():
            found[tier] = partial(_ours, tier)
    return found


def _ours(tier: Tier, streams: int, folder: str) -> list[str]:
    place = [ADDRESS, str(FIRST_PORT), str(streams), folder, str(_sources(streams))]
    return [sys.executable, "-m", "tests.load.capture_receiver", *place, tier]


def _sources(streams: int) -> int:
    """The generator's first port, behind those of the receiver."""
    return FIRST_PORT + 2 * streams


Generator = Callable[[float], subprocess.Popen[str]]
"""Sends for so many seconds, then tells packets sent, and by how many milliseconds the last was late."""


def _generator(program: str | None, streams: int, burst_us: int) -> Generator:
    command = [program] if program else [sys.executable, "-m", "tests.load.rtp_generator"]
    elsewhere = machine.cores()[1]

    def generate(seconds: float) -> subprocess.Popen[str]:
        place = [ADDRESS, str(FIRST_PORT), str(streams), str(seconds), str(_sources(streams)), str(burst_us)]
        process = subprocess.Popen([*command, *place], stdout=subprocess.PIPE, text=True, cwd=machine.ROOT)
        os.sched_setaffinity(process.pid, elsewhere)
        return process

    return generate


def _patiently(attempt: Callable[[], Run]) -> Run:
    """A run that other programs disturbed is tried again, the last attempt counts: they may hold one of thousands of
    ports for a moment, or keep the generator from its core. Raises RuntimeError when the ports stay taken."""
    for _ in range(ATTEMPTS - 1):
        try:
            found = attempt()
        except RuntimeError as problem:
            _say(f"once more: {problem}")
        else:
            if found.late_ms <= LATE_MS:
                return found
            _say(f"once more: the generator was {found.late_ms} ms late")
        time.sleep(BETWEEN_SECONDS)
    return attempt()


def _once(command: Command, generate: Generator, streams: int, seconds: float) -> Run:
    os.sync()  # what the run before has left for the disk is not to be paid by this one
    machine.warm_memory()
    with tempfile.TemporaryDirectory(prefix="siprec-bench-") as folder:
        process = subprocess.Popen(command(streams, folder), stdout=subprocess.PIPE, text=True, cwd=machine.ROOT)
        try:
            _place(process, machine.cores()[0])
            used, sent, late_ms = _measured(process, generate, seconds)
            process.terminate()
            told = json.loads(process.communicate()[0])
        finally:
            process.kill()
            process.wait()
        files = [each.stat().st_size - FILE_HEADER for each in Path(folder).rglob("*.pcap")]
    details = told if isinstance(told, dict) else {"packets": told}
    packets = streams * PACKETS_PER_SECOND * seconds
    return Run(sent, details["packets"], used / packets * 1e6, sum(files), late_ms, details)


def _measured(process: subprocess.Popen[str], generate: Generator, seconds: float) -> tuple[float, int, float]:
    """CPU seconds of `process` during `seconds` of steady reception; all packets sent; how late the generator was."""
    with generate(WARM_UP_SECONDS + seconds + COOL_DOWN_SECONDS) as generator:
        time.sleep(WARM_UP_SECONDS)
        began = machine.cpu_seconds(process.pid)
        time.sleep(seconds)
        used = machine.cpu_seconds(process.pid) - began
        answer = generator.communicate()[0].split()
    if generator.returncode:
        raise RuntimeError("the generator did not run")
    time.sleep(SETTLE_SECONDS)
    return used, int(answer[0]), float(answer[1])


def _place(process: subprocess.Popen[str], core: set[int]) -> None:
    """Wait until it is bound, and keep it, all threads, on `core`."""
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"a receiver did not start: are ports from {FIRST_PORT} to {LAST_PORT} in use?")
    machine.keep_on(process.pid, core)


def _figure(tier: Tier, streams: int, seconds: float, runs: dict[str, list[Run]]) -> dict[str, Any]:
    ours = runs[tier]
    middle = statistics.median(each.s_per_million for each in ours)
    figure: dict[str, Any] = {
        "bench": "capture",
        "tier": tier,
        "streams": streams,
        "s_per_million": round(middle, 2),
        "lost": max(each.sent - each.received for each in ours),
        "records_missing": max(each.sent - each.octets // RECORD for each in ours),
        "kernel_drops": max(each.told["kernel_drops"] for each in ours),
        "late_ticks": max(each.told["late_ticks"] for each in ours),
        "faults": sum(len(each.told["faults"]) for each in ours),
        "grown_mib": max(each.told["grown_mib"] for each in ours),
        "calls_per_core": round(10_000 / middle),
        "spread": _spread([each.s_per_million for each in ours]),
        "late_ms": max(each.late_ms for each in ours),
        "rounds": len(ours),
        "seconds": round(seconds, 1),
    }
    if "bare" in runs:
        figure |= _compared(tier, runs, figure["lost"])
    return figure


def _compared(tier: Tier, runs: dict[str, list[Run]], lost: int) -> dict[str, Any]:
    middle = {name: statistics.median(each.s_per_million for each in found) for name, found in runs.items()}
    least = {name: min(each.s_per_million for each in found) for name, found in runs.items()}
    figure: dict[str, Any] = {
        "bare": round(middle["bare"], 2),
        "epoll": round(middle["epoll"], 2),
        "ratio_bare": _ratio(runs[tier], runs["bare"]),
        "ratio_epoll": _ratio(runs[tier], runs["epoll"]),
        "ratio_bare_least": round(least[tier] / least["bare"], 2),
        "ratio_epoll_least": round(least[tier] / least["epoll"], 2),
        "lost_bare": max(each.sent - each.received for each in runs["bare"]),
        "lost_epoll": max(each.sent - each.octets // RECORD for each in runs["epoll"]),
        **TIERS[tier],
    }
    found = {**figure, "lost": lost}
    return figure | {"met": all(found[name] <= most for name, most in TIERS[tier]["required"].items())}


def _ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """The median of what each round says: within a round the machine is about as fast for all."""
    return round(statistics.median(a.s_per_million / b.s_per_million for a, b in zip(ours, theirs, strict=True)), 2)


def _spread(values: Sequence[float]) -> float:
    """How far apart the runs were, as a share of their median."""
    return round((max(values) - min(values)) / statistics.median(values), 2)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
