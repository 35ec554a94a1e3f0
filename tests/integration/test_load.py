"""Many calls at once, and that nothing of them is left in the server afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.load.held import Held
from tests.load.soak import POOLED_THREADS
from tests.support.server import COMMAND, Server, serving

GROWTH_MIB = 32
"""What 200 calls at once may leave in the resident size: allocator arenas, not calls."""


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
        told = load(server, 200, 50, 5.0)  # slowly enough for a busy machine
        after = Held.by(server.worker)
        assert server.stop() == 0
        verdicts = Counter(each.read().verdict for each in server.recordings())
    print(f"before {before}", f"after  {after}", told, sep="\n", file=sys.stderr)
    assert verdicts == {"ok": 220}
    assert after.descriptors <= before.descriptors
    assert after.threads <= before.threads + POOLED_THREADS
    assert after.resident_mib < before.resident_mib + GROWTH_MIB
    assert server.log[-1]["tasks_left"] == 0
    assert server.log[-1]["recordings_left_for_next_start"] == 0
    assert not list(tmp_path.glob("*/*/*/*/parts"))
