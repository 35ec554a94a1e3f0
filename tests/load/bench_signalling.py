"""Signalling: how many calls a second one core sets up and tears down, how fast, and what happens above that.

A real `siprec serve` (keeper, worker, renderers) has one core, the generator another. Each call is an INVITE with the
SDP of two streams and the metadata of two participants, 200, ACK, BYE, 200; nobody sends RTP, so that signalling alone
is measured, with all that a call leaves behind: its folder, its place in the store, its verdict. Processor time counts
until the last recording is finished. How long an INVITE waits for its 200 is told at half of what the core finishes,
and at a given rate. Beside it, in the same run, the least that can answer a call, in C.

The overload: twice what the core can do, for ten seconds, while other calls with RTP go on. What is refused must be
refused with 503 and Retry-After, what is let in must come to its end, and the calls with RTP must lose nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.load import held, machine
from tests.support import redis_server
from tests.support.server import COMMAND, Server, serving

ADDRESS = "127.9.0.2"
"""A loopback address of its own: the port pairs of a call rest half a minute, and so nearly all ports are wanted."""

SETTINGS = {
    "SIP_HOST": ADDRESS,
    "RTP_BIND_IP": ADDRESS,
    "EXTERNAL_IP": ADDRESS,
    "RTP_PORT_MIN": "1024",
    "RTP_PORT_MAX": "65535",
    "SIP_RATE": "10000",
}

STORES = {
    "sqlite": {"REDUNDANCY_STORAGE_TYPE": "sqlite"},
    "memory": {"REDUNDANCY_STORAGE_TYPE": "memory"},
    "redis": {"REDUNDANCY_STORAGE_TYPE": "redis"},
    "noop": {"ENABLE_REDUNDANCY": "false"},
}

SECONDS = 5.0
OUTSTANDING = 20
RATE = 500
REQUIRED_P99_MS = 50.0

WARM_UP_SECONDS = 1.0
FINISH_SECONDS = 180.0
"""For the recordings of a stage to be finished."""

OVERLOAD_SECONDS = 10.0
TALKING = 10
"""Calls with RTP that go on during an overload."""

RECOVERY_MS, REQUIRED_RECOVERY_MS = 10_000, 5_000
TALKING_SECONDS = WARM_UP_SECONDS + OVERLOAD_SECONDS + RECOVERY_MS / 1000 + 5

READY = "recording ready"


@dataclass(frozen=True, slots=True)
class Usage:
    """Seconds of processor time so far."""

    worker: float
    keeper: float
    renderers: float

    @classmethod
    def of(cls, server: Server) -> Usage:
        children = sum(machine.cpu_seconds(each) for each in held.children(server.worker))
        return cls(machine.cpu_seconds(server.worker), machine.cpu_seconds(server.process.pid), children)

    def since(self, before: Usage, calls: int) -> dict[str, float]:
        """Milliseconds for each of `calls`."""
        told = {
            "worker": self.worker - before.worker,
            "keeper": self.keeper - before.keeper,
            "renderers": self.renderers - before.renderers,
        }
        return {name: round(value * 1000 / max(1, calls), 3) for name, value in told.items()}


def configure(parser: argparse.ArgumentParser) -> None:
    stores = ",".join(STORES)
    parser.add_argument("--stores", default=stores, help=f"where sessions are kept (default {stores})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each stage (default {SECONDS:g})")
    parser.add_argument("--rate", type=int, default=RATE, help=f"calls a second in the open loop (default {RATE})")
    parser.add_argument(
        "--outstanding", type=int, default=OUTSTANDING, help=f"calls at once in the closed loop (default {OUTSTANDING})"
    )
    parser.add_argument("--no-overload", action="store_true", help="leave the overload out")


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One figure for each store, then one for the overload. Raises ValueError for an unknown store."""
    stores = str(options.stores).split(",")
    if unknown := [each for each in stores if each not in STORES]:
        raise ValueError(f"--stores: {', '.join(unknown)} is none of {', '.join(STORES)}")
    with tempfile.TemporaryDirectory(prefix="siprec-bench-") as name:
        folder = Path(name)
        programs = machine.build(["sip_generator", "sip_responder"], folder)
        capacity = 0.0
        for store in stores:
            if store == "redis" and not redis_server.installed():
                print(redis_server.MISSING, file=sys.stderr)
                continue
            with _serving(folder / store, store) as server:
                figure = _figure(server, store, options, programs)
            capacity = capacity or figure["calls_per_second"]
            yield figure
        if not options.no_overload:
            with _serving(folder / "overload", stores[0]) as server:
                yield {"bench": "overload", "store": stores[0], **_overload(server, capacity, programs)}


@contextmanager
def _serving(root: Path, store: str) -> Iterator[Server]:
    """A server with all its threads on one core."""
    root.mkdir()
    with ExitStack() as stack:
        settings = SETTINGS | STORES[store]
        if store == "redis":
            settings["REDIS_URL"] = stack.enter_context(redis_server.running()).url
        server = stack.enter_context(serving(root, **settings))
        for pid in (server.process.pid, server.worker):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), machine.cores()[0])
        yield server


def _figure(server: Server, store: str, options: argparse.Namespace, programs: dict[str, str]) -> dict[str, Any]:
    generator = programs["sip_generator"]
    place = [ADDRESS, str(server.port)]
    bare_calls, bare_ms = _bare(programs, options)
    _finished(server, _generate(generator, *place, "closed", options.outstanding, WARM_UP_SECONDS)["answered"])
    before, began = Usage.of(server), time.monotonic()
    closed = _generate(generator, *place, "closed", options.outstanding, options.seconds)
    _finished(server, closed["answered"])
    took = time.monotonic() - began
    used = Usage.of(server).since(before, closed["answered"])
    half = _generate(generator, *place, "open", max(1, round(closed["ended"] / took / 2)), options.seconds)
    _finished(server, half["answered"])
    opened = _generate(generator, *place, "open", options.rate, options.seconds)
    _finished(server, opened["answered"])
    total = round(sum(used.values()), 3)
    return {
        "bench": "signalling",
        "store": store,
        "calls_per_second": round(closed["ended"] / closed["seconds"], 1),
        "finished_per_second": round(closed["ended"] / took, 1),
        "cpu_ms_per_call": total,
        "cpu_ms": used,
        "closed": closed,
        "half": {"rate": round(half["begun"] / options.seconds), **half},
        "open": {"rate": options.rate, **opened},
        "bare_calls_per_second": bare_calls,
        "bare_cpu_ms_per_call": bare_ms,
        "ratio_bare": round(total / bare_ms, 1),
        "required": {"open.p99_ms": REQUIRED_P99_MS, "open.answered": "all"},
        "met": opened["ended"] == opened["begun"] and opened["p99_ms"] < REQUIRED_P99_MS,
    }


def _bare(programs: dict[str, str], options: argparse.Namespace) -> tuple[float, float]:
    """Calls a second and processor ms a call of the C program."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((ADDRESS, 0))
        port = str(probe.getsockname()[1])
    with subprocess.Popen([programs["sip_responder"], ADDRESS, port], stdout=subprocess.PIPE) as process:
        try:
            os.sched_setaffinity(process.pid, machine.cores()[0])
            assert process.stdout is not None
            process.stdout.readline()
            found = _generate(programs["sip_generator"], ADDRESS, port, "closed", options.outstanding, WARM_UP_SECONDS)
            used = machine.cpu_seconds(process.pid)
        finally:
            process.kill()
    return round(found["ended"] / found["seconds"], 1), round(used * 1000 / found["ended"], 5)


def _overload(server: Server, capacity: float, programs: dict[str, str]) -> dict[str, Any]:
    generator, place = programs["sip_generator"], [ADDRESS, str(server.port)]
    rate = round(2 * capacity)
    with _talking(server) as talking:
        _generate(generator, *place, "closed", OUTSTANDING, WARM_UP_SECONDS)
        with _start(generator, *place, "open", rate, OVERLOAD_SECONDS) as flood:
            time.sleep(OVERLOAD_SECONDS)
            fresh = _generate(generator, *place, "closed", 1, RECOVERY_MS / 1000)
            found = json.loads(flood.communicate()[0])
        told = talking.communicate()[0].strip().splitlines()
    sent = int(next(each.split()[0] for each in told if "RTP packets sent" in each))
    recorded, lost = _talk(server)
    harmed = found["answered"] - found["ended"]
    recovered = 0 <= fresh["first_good_ms"] <= REQUIRED_RECOVERY_MS
    return {
        "rate": rate,
        **found,
        "harmed": harmed,
        "recovered_after_ms": fresh["first_good_ms"],
        "p99_ms_afterwards": fresh["p99_ms"],
        "talking": {"calls": TALKING, "sent": sent, "recorded": recorded, "lost": lost},
        "required": {"harmed": 0, "lost": 0, "recovered_after_ms": REQUIRED_RECOVERY_MS},
        "met": not (harmed or found["other"] or found["unfinished"] or found["lost"])
        and (found["refused"], recorded) == (found["retry_after"], sent)
        and recovered,
    }


@contextmanager
def _talking(server: Server) -> Iterator[subprocess.Popen[str]]:
    """Calls with RTP, all of them answered."""
    options = ["--calls", str(TALKING), "--rate", "100", "--duration", str(TALKING_SECONDS)]
    command = [*COMMAND, "call", "--target", f"sip:{ADDRESS}:{server.port}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, machine.cores()[1])
        try:
            for _ in range(TALKING):
                server.wait_for("call recording")
            yield process
        finally:
            process.kill()


def _talk(server: Server) -> tuple[int, int]:
    """Packets recorded and lost in all calls; those without RTP have none."""
    _finished(server, 0)
    channels = [each for folder in server.recordings() for each in folder.read().channels]
    return sum(each.packets for each in channels), sum(each.lost for each in channels)


def _start(program: str, *arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen([program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, machine.cores()[1])
    return process


def _generate(program: str, *arguments: object) -> dict[str, Any]:
    with _start(program, *arguments) as process:
        found: dict[str, Any] = json.loads(process.communicate()[0])
    return found


def _finished(server: Server, calls: int) -> None:
    """Wait until the recordings of so many calls more are finished; all that began, in any case."""
    deadline = time.monotonic() + FINISH_SECONDS
    with contextlib.suppress(AssertionError):
        for _ in range(calls):
            server.wait_for(READY, seconds=max(0.1, deadline - time.monotonic()))
    while time.monotonic() < deadline:
        events = [each["event"] for each in list(server.log)]
        if events.count(READY) >= events.count("call recording"):
            return
        time.sleep(0.5)
    raise RuntimeError(f"recordings were not finished after {FINISH_SECONDS:g} seconds")
