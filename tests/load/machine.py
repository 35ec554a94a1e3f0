"""What the measurements need of the machine: cores apart, C programs built, CPU time of another process, its name."""

from __future__ import annotations

import mmap
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

BUSY = 0.25
"""Load average per core from which others disturb the figures; said, not forbidden."""

WARM_BYTES = 1 << 30
"""More than any single measurement writes."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def compiler() -> str | None:
    """The C compiler, None when there is none."""
    return shutil.which("gcc") or shutil.which("cc")


def build(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Compile `names` of this folder; where each program lies. Raises RuntimeError without a compiler."""
    found = compiler()
    if found is None:
        raise RuntimeError("no C compiler (gcc)")
    programs = {name: str(folder / name) for name in names}
    for name, program in programs.items():
        subprocess.run([found, "-O2", "-Wall", "-o", program, str(HERE / f"{name}.c")], check=True)
    return programs


def cores() -> tuple[set[int], set[int]]:
    """Where the measured process runs, and where everything else does: two cores, or the only one for both."""
    available = sorted(os.sched_getaffinity(0))
    return {available[0]}, set(available[1:2] or available)


def keep_on(pid: int, core: set[int]) -> None:
    """Keep a process on `core`: all its threads, and what they start from now on."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), core)


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of the process, to the nanosecond (CPUCLOCK_SCHED of another process)."""
    return time.clock_gettime(~pid << 3 | 2)


def warm_memory() -> None:
    """Have the kernel hold pages that were used before.

    A virtual machine pays its host 8 us for the first use of each page, ten times what writing to it costs: that is
    the price of a machine's first gigabytes, not of a recorder that has run for a minute. A process of its own does
    this: what is started from one that was ever as large is told to have been as large itself (ru_maxrss).
    """
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    size = min(WARM_BYTES, free // 2)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
    subprocess.run([sys.executable, "-c", f"import mmap; mmap.mmap(-1, {size}, flags={flags})"], check=True)


def disturbed() -> str | None:
    """A sentence when the machine is busy with something else."""
    load, count = os.getloadavg()[0], os.cpu_count() or 1
    if load / count < BUSY:
        return None
    return f"the machine is busy (load {load:.2f} on {count} cores): figures will scatter"


def describe() -> dict[str, str | int | float]:
    """The machine, and how busy it is, in words that may be published: no names, no addresses."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(models, platform.machine()),
        "cores": os.cpu_count() or 1,
        "linux": ".".join(platform.release().split("-")[0].split(".")[:2]),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load": round(os.getloadavg()[0], 2),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }
