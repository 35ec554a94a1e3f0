"""What a server holds, seen from outside: its processes' descriptors, threads, memory, and what lies in its folders."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.server import Server

STILL_SECONDS = 0.5
"""Two looks this far apart that find the same number of descriptors: what a call held has been let go."""

PATIENCE_SECONDS = 10.0

RESULTS = frozenset({"audio.wav", "recording.json", "events.jsonl"})
"""Of a faultless recording; beside them only `metadata`."""


@dataclass(frozen=True, slots=True)
class Held:
    """Of one process: open descriptors, threads, resident memory in MiB and what of it is no mapped file."""

    descriptors: int
    threads: int
    resident_mib: float
    anonymous_mib: float

    @classmethod
    def by(cls, pid: int) -> Held:
        """Raises FileNotFoundError when there is no such process."""
        process = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        resident, anonymous = (round(int(status[name].split()[0]) / 1024, 1) for name in ("VmRSS", "RssAnon"))
        return cls(len(list((process / "fd").iterdir())), int(status["Threads"]), resident, anonymous)


def children(pid: int) -> list[int]:
    lists = (task / "children" for task in Path(f"/proc/{pid}/task").iterdir())
    return sorted(int(child) for each in lists for child in each.read_text().split())


def processes(server: Server) -> dict[str, Held]:
    """Keeper, worker, and the greatest of the worker's children (renderers)."""
    found = {"keeper": Held.by(server.process.pid), "worker": Held.by(server.worker)}
    offspring = [Held.by(child) for child in children(server.worker)]
    if offspring:
        found["renderer"] = max(offspring, key=lambda held: held.resident_mib)
    return found


def settled(server: Server) -> dict[str, Held]:
    """`processes`, once they have stopped letting go of things."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    last = processes(server)
    while time.monotonic() < deadline:
        time.sleep(STILL_SECONDS)
        now = processes(server)
        if all(now[name].descriptors == last[name].descriptors for name in now.keys() & last.keys()):
            return now
        last = now
    return last


def left_over(server: Server) -> Iterator[str]:
    """Files that should not lie in the folders of faultless recordings, relative to the root."""
    for folder in server.recordings():
        for path in sorted(folder.path.rglob("*")):
            name = path.relative_to(folder.path)
            if path.is_file() and str(name) not in RESULTS and name.parts[0] != "metadata":
                yield str(path.relative_to(server.root))


def state_files(server: Server) -> int:
    """How many files the server keeps for itself."""
    return sum(path.is_file() for path in (server.root / ".state").rglob("*"))
