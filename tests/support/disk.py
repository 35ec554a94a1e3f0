"""Disks that take nothing more."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 20


class FileSize:
    """A limit on every file of this process: writing past it is short, then fails, as on a full disk.

    A test lifts it before it ends: pytest's own output may be a file too.
    """

    def __init__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def lift(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@contextmanager
def small_disk(root: Path, mebibytes: int) -> Iterator[None]:
    """A file system of its own at `root`; only root may have it."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "siprec-test", str(root)]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def fill(root: Path) -> Path:
    """Write until nothing fits any more; returns the file that is in the way."""
    filler = root / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (CHUNK, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler
