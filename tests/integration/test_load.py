"""Many calls at once, and that nothing of them is left in the server afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.server import COMMAND, Server, serving

GROWTH_KIB = 32 * 1024
"""What 200 calls at once may leave in the resident size: allocator arenas, not calls."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds: open descriptors, threads, resident memory in KiB."""

    descriptors: int
    threads: int
    resident_kib: int

    @classmethod
    def by(cls, pid: int) -> Held:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return cls(
            len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"]), int(status["VmRSS"].split()[0])
        )


def load(server: Server, calls: int, rate: int, seconds: float) -> str:
    """Place calls by the command that a user has, and wait until all are rendered."""
    arguments = ["--target", server.uri, "--calls", str(calls), "--rate", str(rate), "--duration", str(seconds)]
    done = subprocess.run([*COMMAND, "call", *arguments], capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for _ in range(calls):
        server.wait_for("recording ready")
    return done.stdout


def test_two_hundred_calls_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        load(server, 20, 50, 0.5)  # what is made once: renderers, threads, caches
        before = Held.by(server.worker)
        told = load(server, 200, 100, 3.0)
        after = Held.by(server.worker)
        assert server.stop() == 0
        verdicts = Counter(each.read().verdict for each in server.recordings())
    print(f"before {before}", f"after  {after}", told, sep="\n", file=sys.stderr)
    assert verdicts == {"ok": 220}
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads + (os.cpu_count() or 1)
    assert after.resident_kib < before.resident_kib + GROWTH_KIB
    assert server.log[-1]["tasks_left"] == 0
    assert server.log[-1]["recordings_left_for_next_start"] == 0
    assert not list(tmp_path.glob("*/*/*/*/parts"))
