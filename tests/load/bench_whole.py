"""The whole of a call: SIP, RTP and rendering together, by the number of calls that are up at once.

A real `siprec serve` (keeper, worker, renderers) has one core; caller and generator have the other. Calls of two
streams begin at a steady rate until so many are up, and then as many end, and are rendered, as begin: the rate of calls
of two minutes. During that time the processor time of all processes of the server counts, for each second of each call.
Afterwards every packet that was sent must be in a recording, and every verdict be `ok`.

Nobody wants to wait two minutes until the first call of that length ends: those that end while it is measured are
shorter, and what rendering a second more would have cost is added, as measured by rendering calls of one second. Beside
it, in the same run, what the C receivers of the capture bench need for the same RTP.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.load import bench_capture, held, machine
from tests.load.caller import Outcome
from tests.support.server import Server, serving

ADDRESS = "127.5.0.61"
"""Where RTP is received: an address that other programs hardly use, so that nearly all its ports are free."""

SETTINGS = {"RTP_BIND_IP": ADDRESS, "RTP_PORT_MIN": "1024", "RTP_PORT_MAX": "65535"}
"""Port pairs rest half a minute after a call: short calls take a multiple of the ports of long ones."""

CALLS = "100,500,1000,2000"
CALL_SECONDS = 120.0
RAMP_SECONDS = 40.0
SECONDS = 10.0
STAND_IN_SECONDS = 2.0

WARM_UP_CALLS, WARM_UP_SECONDS = 10, 1.0
"""What is made once is made by them: renderers, threads, caches."""

FINISH_SECONDS = 120.0
"""For all recordings to be finished after the last call."""

GROWTH = 1.5
"""From one number of calls to the next when the limit is looked for."""

LATE_MS = 1000.0
"""A generator that is later has less than a core, its own work or that of other programs being too much."""

FULL = 0.97
"""Share of a core from which it is the limit."""

MOST_WAITING = 20
"""Recordings that may wait for a renderer."""

PACKETS_PER_SECOND = 100
"""Of a call: of two streams."""

REQUIRED = {"lost": 0, "verdicts": "ok"}
REQUIRED_KIB = 40.0
REQUIRED_CALLS = 2000

ENDED, READY = "call ended", "recording ready"


@dataclass(frozen=True, slots=True)
class Moment:
    """What the server has used and done so far: processor seconds by kind of process, calls ended and rendered."""

    at: float
    worker: int
    cpu: dict[str, float]
    resident_kib: dict[str, float]
    descriptors: int
    ended: int
    ready: int

    @classmethod
    def of(cls, server: Server) -> Moment:
        """Raises RuntimeError when there is no worker for the moment."""
        events = Counter(str(line["event"]) for line in list(server.log))
        worker = server.worker
        try:
            renderers = sum(machine.cpu_seconds(each) for each in held.children(worker))
            processes = held.processes(server)
            used = {"keeper": machine.cpu_seconds(server.process.pid), "worker": machine.cpu_seconds(worker)}
        except OSError:
            raise RuntimeError("the worker of the server has ended") from None
        return cls(
            time.monotonic(),
            worker,
            used | {"renderers": renderers},
            {name: 1024 * processes[name].resident_mib for name in ("keeper", "worker")},
            processes["worker"].descriptors,
            events[ENDED],
            events[READY],
        )

    def render_ms_since(self, earlier: Moment) -> float:
        """Of processor time, for each recording that has become ready since."""
        return 1000 * (self.cpu["renderers"] - earlier.cpu["renderers"]) / max(1, self.ready - earlier.ready)


@dataclass(frozen=True, slots=True)
class Run:
    """So many calls, once. Moments: `warm` and `before` around renderings of one second, then all calls up, and the end
    of the measurement. `lags`: seconds from a call's end to its recording. `rendered_seconds`: how long the rendered
    calls were. `complaints`: warnings of the server, with their number. `most`: calls at once that it takes."""

    calls: int
    seconds_each: float
    warm: Moment
    before: Moment
    begin: Moment
    end: Moment
    outcome: Outcome
    lags: list[float]
    rendered_seconds: float
    verdicts: Counter[str]
    recorded: int
    complaints: dict[str, int]
    most: int

    @property
    def call_seconds(self) -> float:
        """Of all calls between `begin` and `end`."""
        spans = ((max(begun, self.begin.at), min(ended, self.end.at)) for _, begun, ended in self.outcome.calls)
        return sum(max(0.0, end - begin) for begin, end in spans)

    @property
    def render_ms(self) -> float:
        """To render a call of `seconds_each`, as a straight line through the two lengths that were rendered."""
        short, long = self.before.render_ms_since(self.warm), self.end.render_ms_since(self.begin)
        slope = max(0.0, long - short) / (self.rendered_seconds - WARM_UP_SECONDS)
        return long + slope * (self.seconds_each - self.rendered_seconds)

    @property
    def cpu_ms(self) -> dict[str, float]:
        """For each second of a call, by kind of process."""
        found = {
            name: 1000 * (self.end.cpu[name] - self.begin.cpu[name]) / self.call_seconds
            for name in ("keeper", "worker")
        }
        return found | {"renderers": self.render_ms / self.seconds_each}

    @property
    def core_busy(self) -> float:
        """Share of the core that the server really took."""
        return (sum(self.end.cpu.values()) - sum(self.begin.cpu.values())) / (self.end.at - self.begin.at)

    @property
    def kib_each(self) -> dict[str, float]:
        """Of resident memory that each call takes in keeper and worker; the sockets' buffers are the kernel's."""
        before, now = self.before.resident_kib, self.begin.resident_kib
        return {name: (now[name] - before[name]) / self.calls for name in now}

    @property
    def kib_per_call(self) -> float:
        return sum(self.kib_each.values())

    @property
    def lost(self) -> int:
        return self.outcome.sent - self.recorded

    @property
    def faults(self) -> list[str]:
        """Why these are too many calls; empty when all was well."""
        waiting = self.end.ended - self.end.ready
        found = {
            "packets lost": self.lost != 0,
            "verdicts": bool(self.verdicts.keys() - {"ok"}),
            "calls failed": bool(self.outcome.problems),
            "complaints": bool(self.complaints),
            "rendering falls behind": waiting > max(MOST_WAITING, (self.end.ended - self.begin.ended) / 4),
        }
        return [name for name, wrong in found.items() if wrong]

    @property
    def disturbed(self) -> bool:
        """Whether the generator was late though it had little to do."""
        return self.outcome.late_ms >= LATE_MS and self.outcome.busy < FULL / 2

    @property
    def limit(self) -> str | None:
        """What stands in the way of more calls, None when nothing does."""
        causes = {
            "core of the server": self.core_busy >= FULL,
            "core of the generator": self.outcome.busy >= FULL or self.outcome.late_ms >= LATE_MS,
            "disk": "session is unjournaled" in self.complaints,
            "ports or open files": self.calls >= self.most,
        }
        found = [name for name, stands in causes.items() if stands]
        return ", ".join(found) or ("unknown" if self.faults else None)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", default=CALLS, help=f"numbers of calls at once (default {CALLS})")
    parser.add_argument(
        "--each", type=float, default=CALL_SECONDS, help=f"seconds of a call (default {CALL_SECONDS:g})"
    )
    parser.add_argument(
        "--ramp", type=float, default=RAMP_SECONDS, help=f"seconds until all calls are up (default {RAMP_SECONDS:g})"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"measured (default {SECONDS:g})")
    parser.add_argument("--limit", action="store_true", help="go on with more calls until they are too many")


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A figure for each number of calls, up to the first that is too many, and one for what limits them.

    Raises ValueError for a number that makes no sense, or without a C compiler.
    """
    numbers = _numbers(str(options.calls))
    if not machine.compiler():
        raise ValueError("a C compiler (gcc) is needed for the generator")
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="siprec-bench-") as name:
        folder = Path(name)
        generator = machine.build(["call_generator"], folder)["call_generator"]
        while numbers and not (runs and runs[-1].faults):
            calls = numbers.pop(0)
            try:
                runs.append(_undisturbed(generator, calls, options))
            except RuntimeError as problem:
                yield {"bench": "whole", "calls": calls, "faults": [str(problem)], "required": REQUIRED, "met": False}
                yield _limit(runs, calls)
                return
            _say(f"{calls} calls: {sum(runs[-1].cpu_ms.values()):.3f} ms a second of a call, {runs[-1].faults or 'ok'}")
            yield _figure(runs[-1], _stand_ins(calls, folder), options.seconds)
            if options.limit and not numbers and calls < runs[-1].most:
                numbers = [min(round(calls * GROWTH), runs[-1].most)]
    yield _limit(runs, next((each.calls for each in runs if each.faults), None))


def _stand_ins(calls: int, folder: Path) -> dict[str, bench_capture.Run]:
    """What the C receivers need; nothing, which is said, where they cannot run: the figure of the calls stands."""
    try:
        return bench_capture.stand_ins(2 * calls, STAND_IN_SECONDS, folder)
    except RuntimeError as problem:
        _say(f"nothing to compare with: {problem}")
        return {}


def _numbers(text: str) -> list[int]:
    found = [int(each) for each in text.split(",") if each.isdecimal()]
    if len(found) != len(text.split(",")) or not all(found):
        raise ValueError(f"--calls: {text!r} is no list of numbers")
    return sorted(found)


def _figure(run: Run, stand_ins: dict[str, bench_capture.Run], seconds: float) -> dict[str, Any]:
    cost = sum(run.cpu_ms.values())
    setup = [1000 * (answered - begun) for begun, answered, _ in run.outcome.calls if begun >= run.begin.at]
    theirs = {name: each.s_per_million * PACKETS_PER_SECOND / 1000 for name, each in stand_ins.items()}
    return {
        "bench": "whole",
        "calls": run.calls,
        "call_seconds": run.seconds_each,
        "cpu_ms_per_call_second": round(cost, 3),
        "cpu_ms": {name: round(each, 3) for name, each in run.cpu_ms.items()},
        "calls_per_core": round(1000 / cost),
        "core_busy": round(run.core_busy, 2),
        "lost": run.lost,
        "sent": run.outcome.sent,
        "verdicts": dict(run.verdicts),
        "faults": run.faults,
        "setup_ms_p50": _percentile(setup, 50),
        "setup_ms_p99": _percentile(setup, 99),
        "render_lag_s_p50": _percentile(run.lags, 50),
        "render_lag_s_p99": _percentile(run.lags, 99),
        "render_ms_per_call": round(run.render_ms, 1),
        "rendered_seconds": round(run.rendered_seconds, 1),
        "render_ms_of_a_second": round(run.before.render_ms_since(run.warm), 1),
        "kib_per_call": round(run.kib_per_call, 1),
        "kib": {name: round(each, 1) for name, each in run.kib_each.items()},
        "descriptors": run.begin.descriptors,
        "seconds": seconds,
        "late_ms": run.outcome.late_ms,
        "generator_busy": run.outcome.busy,
        "repeated": run.outcome.repeated,
        "problems": run.outcome.problems,
        "complaints": run.complaints,
        **{name: round(each, 4) for name, each in theirs.items()},
        **{f"ratio_{name}": round(cost / each, 2) for name, each in theirs.items()},
        "required": REQUIRED | ({"kib_per_call": REQUIRED_KIB} if _many(run) else {}),
        "met": not run.faults and (run.kib_per_call <= REQUIRED_KIB or not _many(run)),
    }


def _many(run: Run) -> bool:
    """With fewer, what the process needs once weighs more than what a call needs."""
    return run.calls >= REQUIRED_CALLS


def _limit(runs: Sequence[Run], too_many: int | None) -> dict[str, Any]:
    held = [each.calls for each in runs if not each.faults]
    cost = [sum(each.cpu_ms.values()) for each in runs if not each.faults]
    return {
        "bench": "whole-limit",
        "held": max(held, default=0),
        "too_many": too_many,
        "limit": runs[-1].limit if runs else None,
        "most_by_ports_and_descriptors": runs[-1].most if runs else None,
        "cost_last_to_first": round(cost[-1] / cost[0], 2) if cost else None,
    }


def _percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 2) if values else 0.0


# ---------------------------------------------------------------------- a run


@contextmanager
def _cores(server: Server) -> Iterator[None]:
    """The server on one core, this process and what it starts on the other."""
    own, theirs = machine.cores()[1], os.sched_getaffinity(0)
    for pid in (server.process.pid, server.worker):
        machine.keep_on(pid, machine.cores()[0])
    machine.keep_on(os.getpid(), own)
    try:
        yield
    finally:
        machine.keep_on(os.getpid(), theirs)


def _undisturbed(generator: str, calls: int, options: argparse.Namespace) -> Run:
    """A run, made once more when it went wrong and other programs kept the generator from its core."""
    found = _once(generator, calls, options)
    if not (found.faults and found.disturbed):
        return found
    _say(f"once more: the generator was {found.outcome.late_ms} ms late")
    return _once(generator, calls, options)


def _once(generator: str, calls: int, options: argparse.Namespace) -> Run:
    """Raises RuntimeError when the calls cannot be made."""
    short = (WARM_UP_CALLS, WARM_UP_SECONDS, WARM_UP_SECONDS, WARM_UP_SECONDS)
    with tempfile.TemporaryDirectory(prefix="siprec-bench-") as name, serving(Path(name), **SETTINGS) as server:
        most = int(server.wait_for("ready to record")["max_sessions"])
        with _cores(server):
            _calls(server, generator, *short)
            _finished(server)
            warm = Moment.of(server)
            _calls(server, generator, *short)
            _finished(server)
            before, warm_lines = Moment.of(server), len(server.log)
            outcome, begin, end = _calls(server, generator, calls, options.each, options.ramp, options.seconds)
            lags = _finished(server)[begin.ready : end.ready]
            if len({moment.worker for moment in (before, begin, end, Moment.of(server))}) > 1:
                raise RuntimeError("the worker of the server has been replaced")
        lengths = [line["seconds"] for line in server.log if line["event"] == READY]
        manifests = [each.read() for each in server.recordings()][before.ready :]
        lines = server.log[warm_lines:]
        complaints = dict(Counter(str(line["event"]) for line in lines if line.get("level") != "info"))
    return Run(
        calls, options.each, warm, before, begin, end, outcome, lags,
        float(np.mean(lengths[begin.ready : end.ready] or [options.ramp])),
        Counter(str(each.verdict) for each in manifests),
        sum(channel.packets for each in manifests for channel in each.channels),
        complaints,
        most,
    )  # fmt: skip


def _calls(
    server: Server, generator: str, calls: int, seconds_each: float, ramp: float, seconds: float
) -> tuple[Outcome, Moment, Moment]:
    """Make the calls; what the server held when all were up, and `seconds` later."""
    arguments = (generator, server.port, ADDRESS, calls, seconds_each, ramp, seconds)
    command = [sys.executable, "-m", "tests.load.caller", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=machine.ROOT) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            begin = Moment.of(server)
            time.sleep(seconds)
            end = Moment.of(server)
            told = process.communicate()[0]
        finally:
            process.kill()
    if process.returncode:
        raise RuntimeError("the calls could not be made")
    return Outcome(**json.loads(told)), begin, end


def _finished(server: Server) -> list[float]:
    """Wait until all recordings are finished; for each, in this order, the seconds since the end of its call.

    Those that are not finished in time will show as lost packets.
    """
    deadline = time.monotonic() + FINISH_SECONDS
    while time.monotonic() < deadline:
        events = Counter(str(line["event"]) for line in list(server.log))
        if events[READY] >= events["call recording"]:
            break
        time.sleep(0.2)
    else:
        _say(f"some recordings were not finished after {FINISH_SECONDS:g} s")
    return _lags(list(server.log))


def _lags(log: list[dict[str, Any]]) -> list[float]:
    at = {(line["event"], line["session"]): line["ts"] for line in log if line["event"] in {ENDED, READY}}
    pairs = ((at.get((ENDED, session)), ts) for (event, session), ts in at.items() if event == READY)
    return [(datetime.fromisoformat(ts) - datetime.fromisoformat(end)).total_seconds() for end, ts in pairs if end]


def _say(text: str) -> None:
    print(text, file=sys.stderr)
