"""What is too long for the tests: many calls against a real server, and what is left of them.

Progress goes to stderr, one JSON line per scenario to stdout, with what each process of the server held before and
after (descriptors, threads, resident memory). Exit code 1 when a scenario found a problem; its folder is then kept.

    scripts/soak                        all scenarios (about 15 minutes)
    scripts/soak calls                  one of them
    scripts/soak crowd --scale 0.1      a tenth of the calls, to see whether it works at all
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from siprec.client.load import VOICE_SETS
from siprec.client.options import CallOptions
from siprec.client.src import RecordingClient
from tests.load import adopters, hostile, restart
from tests.load.held import Held, left_over, settled, state_files
from tests.support.server import COMMAND, Server, serving

CALLS, CALL_SECONDS, WARM_UP_CALLS = 1000, 0.2, 50
"""After fifty calls everything that is made once is made: renderers, threads, caches, arenas of the allocator."""

CROWD, CROWD_SECONDS, CROWDS = 200, 3.0, 5

GROWTH_MIB = {"keeper": 1.0, "worker": 16.0, "renderer": 16.0}
"""Resident memory that a process may have gained: the allocator's slack, and what is remembered of ended sessions for
ten minutes, half a KiB a call."""

SIP_SECONDS = 33.0
"""SIP transactions are remembered for 64 * T1 = 32 s (RFC 3261 section 17): only then a call is over for the server."""

POOLED_THREADS = 10
"""Pools of threads are filled one by one, as they are needed: 4 for files, 6 of asyncio on two cores."""

PROGRESS = 100

MAX_PROBLEMS, MAX_PROBLEM = 20, 300
"""What of them fits in a line: the first ones, and their beginning. All is in `problems.txt` beside the recordings."""

READY_SECONDS = 120.0


@dataclass(slots=True)
class Outcome:
    """What a scenario found; it is all right when there are no `problems`."""

    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: bool, problem: str) -> None:
        if not condition:
            self.problems.append(problem)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run(folder, scale)`: `scale` times the usual number of calls, against a server whose root is `folder`."""

    summary: str
    run: Callable[[Path, float], Outcome]


# ---------------------------------------------------------------------- scenarios


def calls(root: Path, scale: float) -> Outcome:
    """One call after the other."""
    outcome = Outcome()
    count = max(1, round(CALLS * scale))
    with serving(root) as server:
        asyncio.run(_one_by_one(server, WARM_UP_CALLS, outcome))
        _rendered(server, WARM_UP_CALLS)
        before, files = _quiet(server), state_files(server)
        began = time.monotonic()
        grown = asyncio.run(_one_by_one(server, count, outcome))
        rate = round(count / (time.monotonic() - began), 1)
        outcome.figures |= {"calls": count, "calls_per_s": rate, f"worker_mib_each_{PROGRESS}": grown}
        _rendered(server, count)
        _compare(outcome, before, _quiet(server))
        outcome.expect(state_files(server) <= files, f"{state_files(server)} files of state, before {files}")
        _finish(outcome, server, WARM_UP_CALLS + count)
    return outcome


def crowd(root: Path, scale: float) -> Outcome:
    """Many calls at once, again and again; the first crowd is the warm-up."""
    outcome = Outcome()
    count = max(1, round(CROWD * scale))
    outcome.figures |= {"at_once": count, "times": CROWDS}
    with serving(root) as server:
        _at_once(server, count, outcome)
        before = _quiet(server)
        for number in range(2, CROWDS + 1):
            _at_once(server, count, outcome)
            _say(f"{number} of {CROWDS} crowds, the worker has {Held.by(server.worker).resident_mib} MiB")
        _compare(outcome, before, _quiet(server))
        _finish(outcome, server, count * CROWDS)
    return outcome


def adopters_race(_: Path, scale: float) -> Outcome:
    """Two nodes for one session, again and again."""
    result = adopters.measure(max(1, round(adopters.ROUNDS * scale)))
    outcome = Outcome(asdict(result))
    outcome.expect(result.good, "a session had two owners, or none")
    return outcome


def restarted(root: Path, scale: float) -> Outcome:
    """Kill a server with thousands of sessions."""
    return Outcome(*restart.measure(root, scale))


def _hostile(name: str) -> Callable[[Path, float], Outcome]:
    return lambda root, scale: Outcome(hostile.run(name, root, scale=scale))


SCENARIOS = {
    "calls": Scenario(f"{CALLS} calls of {CALL_SECONDS:g} s one after the other", calls),
    "crowd": Scenario(f"{CROWD} calls at once, {CROWDS} times", crowd),
    "adopters": Scenario(f"two nodes adopt one session, {adopters.ROUNDS} times", adopters_race),
    "restart": Scenario(
        f"{restart.SESSIONS} stored sessions captured again in {restart.CAPTURING_SECONDS:g} s", restarted
    ),
    **{name: Scenario(each.summary, _hostile(name)) for name, each in hostile.SCENARIOS.items()},
}


# ---------------------------------------------------------------------- calls


async def _one_by_one(server: Server, count: int, outcome: Outcome) -> list[float]:
    """Makes `count` calls; the worker's resident memory after each hundred: a leak is a slope that does not flatten."""
    grown: list[float] = []
    async with RecordingClient.towards(server.uri) as client:
        for number in range(count):
            options = CallOptions(target=server.uri, duration=CALL_SECONDS, seed=number)
            result = await client.call(options, voices=number % VOICE_SETS)
            outcome.expect(result.ok, f"call {number}: {result.status} {result.problem}")
            if (number + 1) % PROGRESS == 0:
                grown.append(Held.by(server.worker).resident_mib)
                _say(f"{number + 1} of {count} calls, the worker has {grown[-1]} MiB")
    return grown


def _at_once(server: Server, count: int, outcome: Outcome) -> None:
    """By the command that a user has, in a process of its own."""
    wanted = {"target": server.uri, "calls": count, "rate": count, "duration": CROWD_SECONDS}
    arguments = [text for name, value in wanted.items() for text in (f"--{name}", str(value))]
    done = subprocess.run([*COMMAND, "call", *arguments], capture_output=True, text=True, check=False)
    outcome.expect(done.returncode == 0, done.stdout + done.stderr)
    _rendered(server, count)


def _rendered(server: Server, count: int) -> None:
    for _ in range(count):
        server.wait_for("recording ready", seconds=READY_SECONDS)


# ---------------------------------------------------------------------- what is left


def _quiet(server: Server) -> dict[str, Held]:
    """What is held once every call is over."""
    _say(f"waiting {SIP_SECONDS:g} s for SIP to forget")
    time.sleep(SIP_SECONDS)
    return settled(server)


def _compare(outcome: Outcome, before: dict[str, Held], after: dict[str, Held]) -> None:
    outcome.figures |= {"before": _plain(before), "after": _plain(after)}
    for name in before.keys() & after.keys():
        had, has = before[name], after[name]
        outcome.expect(has.descriptors <= had.descriptors, f"{name}: {has.descriptors} descriptors, {had.descriptors}")
        allowed = had.threads + POOLED_THREADS
        outcome.expect(has.threads <= allowed, f"{name}: {has.threads} threads, before {had.threads}")
        grown = has.resident_mib - had.resident_mib
        outcome.expect(grown <= GROWTH_MIB[name], f"{name}: {grown:.1f} MiB more, {GROWTH_MIB[name]:g} are allowed")


def _finish(outcome: Outcome, server: Server, count: int) -> None:
    """Stop the server and look at its recordings."""
    outcome.expect(server.stop() == 0, "the server did not exit with 0")
    server.close()
    verdicts = Counter(str(each.read().verdict) for each in server.recordings())
    stopped = [line for line in server.log if line["event"] == "stopped"]
    left = {key: value for key, value in (stopped or [{}])[-1].items() if "left" in key}
    outcome.figures |= {"verdicts": dict(verdicts), **left}
    outcome.expect(verdicts == {"ok": count}, f"{count} recordings should be ok")
    outcome.expect(bool(left) and not any(left.values()), f"left at the stop: {left}")
    files = list(left_over(server))
    outcome.expect(not files, f"{len(files)} files are left, as {files[:3]}")


def _plain(held: dict[str, Held]) -> dict[str, Any]:
    return {name: asdict(each) for name, each in held.items()}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------- the command


def soak(name: str, scale: float) -> bool:
    """Run one scenario and print its line; whether all was well."""
    _say(f"{name}: {SCENARIOS[name].summary}")
    root = Path(tempfile.mkdtemp(prefix=f"siprec-soak-{name}-"))
    began = time.monotonic()
    try:
        outcome = SCENARIOS[name].run(root, scale)
    except (AssertionError, OSError, subprocess.TimeoutExpired) as problem:
        outcome = Outcome(problems=[f"{type(problem).__name__}: {problem}"])
    line = {"soak": name, "ok": not outcome.problems, "seconds": round(time.monotonic() - began), **outcome.figures}
    print(json.dumps(line | {"problems": [each[:MAX_PROBLEM] for each in outcome.problems[:MAX_PROBLEMS]]}), flush=True)
    if outcome.problems:
        (root / "problems.txt").write_text("\n".join(outcome.problems))
        _say(f"{name}: {len(outcome.problems)} problems; recordings and problems.txt are kept in {root}")
    else:
        shutil.rmtree(root)
    return not outcome.problems


def main() -> int:
    names = "\n".join(f"    {name:12} {each.summary}" for name, each in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description=f"{__doc__}\nscenarios:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios to run, all when none is given")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual number of calls (default 1)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}: there are {', '.join(SCENARIOS)}")
    results = [soak(name, options.scale) for name in options.names or SCENARIOS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
