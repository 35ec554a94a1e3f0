"""One session's capture on disk: a row of pcap files, and for what times audio may be missing from them."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from siprec import clock
from siprec.errors import ArchiveError
from siprec.media import pcap
from siprec.media.part import Outage

MAX_OUTAGES = 1000
"""Outages kept per session; more are added to the last one."""

FILE_MODE = 0o640


class OutageLog:
    """The outages of one session; any thread may add to it."""

    __slots__ = ("_lock", "_outages")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outages: list[Outage] = []

    def add(self, outage: Outage) -> None:
        """Outages of one cause and channel that touch become one."""
        with self._lock:
            for index in range(len(self._outages) - 1, max(-1, len(self._outages) - 9), -1):
                last = self._outages[index]
                full = len(self._outages) >= MAX_OUTAGES
                same = last.cause == outage.cause and last.channel == outage.channel
                if full or (same and outage.start_ns <= last.end_ns):
                    self._outages[index] = replace(
                        last,
                        start_ns=min(last.start_ns, outage.start_ns),
                        end_ns=max(last.end_ns, outage.end_ns),
                        packets=last.packets + outage.packets,
                    )
                    return
            self._outages.append(outage)

    def all(self) -> tuple[Outage, ...]:
        with self._lock:
            return tuple(self._outages)


class CaptureFile:
    """One session's capture in one part, as a row of files `capture-0001.pcap`, ...

    Opened by any thread, then the writer's alone. `first` is the number of the row's first file here, which is created
    unless its `descriptor` is given; that number stays the same from file to file. `octets` counts the bytes of records
    in files that are closed. Raises ArchiveError when it cannot be created. `segment_ends`: when the next file is due,
    on `clock.monotonic`. `entry`: where `rooms` finds the directory.
    """

    __slots__ = (
        "_first",
        "_last",
        "_segment_seconds",
        "_whole",
        "descriptor",
        "device",
        "directory",
        "entry",
        "finish",
        "finish_by",
        "octets",
        "outages",
        "segment_ends",
        "synced_ns",
    )

    def __init__(
        self,
        directory: Path,
        *,
        segment_seconds: float = 0.0,
        now: float = 0.0,
        first: int = 1,
        descriptor: int | None = None,
    ) -> None:
        self.directory = directory
        self.entry = 0
        self._first = first
        self.outages = OutageLog()
        self._last = first
        self.octets = 0
        self._whole: int | None = None  # where to cut the file, when what is behind is not whole
        self.finish: Callable[[], None] | None = None
        self.finish_by = 0.0
        self.synced_ns = clock.wall_ns()
        self._segment_seconds = segment_seconds
        self.segment_ends = now + segment_seconds if segment_seconds else math.inf
        self.descriptor = create(directory, first) if descriptor is None else descriptor
        self.device = os.fstat(self.descriptor).st_dev

    @property
    def paths(self) -> list[Path]:
        """The files of the row so far."""
        return [path_of(self.directory, number) for number in range(self._first, self._last + 1)]

    def failed(self, done: int) -> None:
        """A write failed after `done` bytes."""
        self._whole = os.fstat(self.descriptor).st_size - done
        with contextlib.suppress(OSError):
            self.cut()

    def cut(self) -> None:
        """Take off what a failed write left behind the last whole record. Raises OSError."""
        if self._whole is not None:
            os.ftruncate(self.descriptor, self._whole)
            self._whole = None

    def rotate(self, now: float) -> int:
        """Begin the next segment; gives the old file's new descriptor, to be synced and closed. Raises OSError."""
        new = _create(path_of(self.directory, self._last + 1))
        try:
            old = fcntl.fcntl(self.descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
            os.dup2(new, self.descriptor, inheritable=False)
        finally:
            os.close(new)
        self._last += 1
        self.segment_ends = now + self._segment_seconds
        return old


def following(files: Sequence[Path]) -> int:
    """The number of the next file of a row that ends with the last of `files`, in their order."""
    return int(files[-1].stem.rpartition("-")[2]) + 1 if files else 1


def path_of(directory: Path, number: int) -> Path:
    """A file of the row."""
    return directory / f"capture-{number:04d}.pcap"


def create(directory: Path, number: int) -> int:
    """The descriptor of a new, locked capture file, its header written. Raises ArchiveError."""
    try:
        return _create(path_of(directory, number))
    except OSError as error:
        raise ArchiveError(f"cannot create a capture in {directory}: {error.strerror}") from error


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        # For as long as it is open: tells a later process that this part is still being written.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        header = pcap.write_header()
        if os.write(descriptor, header) != len(header):
            raise OSError(28, "short write")
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor
