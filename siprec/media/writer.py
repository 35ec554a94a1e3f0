"""Puts capture records on disk: one thread writes, another makes what was written durable.

The drain hands over one piece per session and tick, hundreds of them in each buffer (`Pieces`), which an *appender*
writes in one go: `append`, or the C extension without the interpreter. A piece is written at the file's end or not at
all: after a short write or an error the file is cut back to its last whole record, and the piece waits in memory. What
waits is tried again several times a second and never given up while the session lives; the drain watches
`waiting_bytes` and lets the sockets wait when that grows too large. So a disk that is full or slow for a while
costs nothing, and one that is so for long costs packets in the kernel, which are counted there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siprec import clock
from siprec.errors import ArchiveError
from siprec.media import pcap
from siprec.media.part import Outage

RETRY_SECONDS = 0.25
"""Between attempts on a disk in trouble: audio is back on disk well within 1 s of the trouble's end."""

SYNC_SECONDS = 1.0
"""A power cut costs at most about this much audio."""

CLOSE_PATIENCE = 60.0
"""Seconds for which a closed session's last packets wait for its disk before they are dropped as an outage."""

MAX_OUTAGES = 1000
"""Outages kept per session; more are added to the last one."""

FILE_MODE = 0o640

Data = memoryview | bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Trouble that someone should know of, when it begins (`active`) and when it is over."""

    cause: Literal["disk", "backlog", "internal", "worker"]
    active: bool
    detail: str


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


class Pieces(NamedTuple):
    """What to append to `files`, each of them once: to the one at `place`, the bytes of `data` from `cuts[place]` to
    `cuts[place + 1]`. `descriptors` are those of `files`; `segments`: some of them have an end. `copied`: what `data`
    is a copy of, to be held until it is written (`rooms`)."""

    files: Sequence[CaptureFile]
    descriptors: NDArray[np.int32]
    segments: bool
    data: Data
    cuts: NDArray[np.int64]
    copied: object = None

    def piece(self, place: int) -> Data:
        return self.data[int(self.cuts[place]) : int(self.cuts[place + 1])]


def pieces_of(parts: Sequence[tuple[CaptureFile, Data]]) -> Pieces:
    """One piece for each of some files."""
    files = [file for file, _ in parts]
    cuts = np.cumsum([0, *(len(data) for _, data in parts)])
    data = parts[0][1] if len(parts) == 1 else b"".join(data for _, data in parts)
    return Pieces(files, *about(files), data, cuts)


def about(files: Sequence[CaptureFile]) -> tuple[NDArray[np.int32], bool]:
    """What `Pieces` says of `files`."""
    return np.array([each.descriptor for each in files], np.int32), any(each.segment_ends < math.inf for each in files)


Appender = Callable[[NDArray[np.int32], Data, NDArray[np.int64], int, int], tuple[int, int, int]]
"""Appends the pieces (descriptors, data, cuts) from one place to before another, in order, until one fails. Gives back
its place, how much of it is written, and errno; if none fails, the last place, 0 and 0."""


def append(
    descriptors: NDArray[np.int32], data: Data, cuts: NDArray[np.int64], first: int, last: int
) -> tuple[int, int, int]:
    """The appender that is always there."""
    numbers, edges = descriptors[first:last].tolist(), cuts[first : last + 1].tolist()
    for place, (descriptor, begin, end) in enumerate(zip(numbers, edges, edges[1:], strict=False), first):
        at = begin
        try:
            while at < end:  # more than once after a signal, or when a disk fills up right now
                at += os.write(descriptor, data[at:end])
        except OSError as error:
            return place, at - begin, error.errno or errno.EIO
    return last, 0, 0


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


class Syncer:
    """The thread that waits for the disk: fsync on demand, the whole file system about once a second."""

    def __init__(self, on_fault: Callable[[Fault], None]) -> None:
        self._on_fault = on_fault
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._touched: dict[int, Sequence[CaptureFile]] = {}  # by its id: mostly they are the same tables each tick
        self._failing = False
        self._syncfs: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        self._thread = threading.Thread(target=self._run, name="capture-sync", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish all jobs, then end."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def touched(self, files: Sequence[CaptureFile]) -> None:
        """The writer has written to them."""
        self._touched[id(files)] = files

    def flush(self, file: CaptureFile, descriptor: int, *, close: bool, done: Callable[[], None]) -> None:
        """fsync `descriptor` and its directory, `close` it if asked, then call `done`."""
        self._jobs.put(lambda: self._flush(file, descriptor, close=close, done=done))

    def _run(self) -> None:
        due = clock.monotonic() + SYNC_SECONDS
        while True:
            try:
                job = self._jobs.get(timeout=max(0.0, due - clock.monotonic()))
            except Empty:
                job = _nothing
            if job is None:
                return
            guarded(job, self._on_fault)
            if clock.monotonic() >= due:
                guarded(self._sync_all, self._on_fault)
                due = clock.monotonic() + SYNC_SECONDS

    def _flush(self, file: CaptureFile, descriptor: int, *, close: bool, done: Callable[[], None]) -> None:
        try:
            octets = os.fstat(descriptor).st_size - pcap.FILE_HEADER
            if octets:  # without a record there is nothing to lose
                os.fsync(descriptor)
                _sync_directory(file.directory)
            if close:
                file.octets += octets
        except OSError as error:
            self._lost([file], error)
        if close:
            if descriptor == file.descriptor:
                file.descriptor = -1
            with contextlib.suppress(OSError):
                os.close(descriptor)
        done()

    def _sync_all(self) -> None:
        """One syncfs for each device written to; where that is not to be had, one fsync for each file."""
        touched, self._touched = self._touched, {}
        together: dict[int, list[CaptureFile]] = {}
        for file in dict.fromkeys(chain(*list(touched.values()))):  # a late touch may still reach this table
            if file.descriptor >= 0:
                together.setdefault(file.device if self._syncfs else file.descriptor, []).append(file)
        failed = False
        for files in together.values():
            at = clock.wall_ns()
            try:
                if self._syncfs is None:
                    os.fsync(files[0].descriptor)
                else:
                    _call(self._syncfs, files[0].descriptor)
            except OSError as error:
                failed = True
                self._lost(files, error)
            else:
                for file in files:
                    file.synced_ns = at
        if self._failing and not failed:
            self._failing = False
            self._on_fault(Fault("disk", False, "syncing works again"))

    def _lost(self, files: Sequence[CaptureFile], error: OSError) -> None:
        """After a failed sync nobody knows which pages are on disk: said, never tried again as if nothing was."""
        now = clock.wall_ns()
        for file in files:
            file.outages.add(Outage(file.synced_ns, now, "disk"))
        if not self._failing:
            self._failing = True
            self._on_fault(Fault("disk", True, f"cannot sync {files[0].directory}: {error.strerror}"))


class Writer:
    """The thread that writes, by `appender`. `waiting_bytes` may be read by any thread."""

    def __init__(self, on_fault: Callable[[Fault], None], appender: Appender = append) -> None:
        self._on_fault = on_fault
        self._append = appender
        self.failing = False
        self.errors = 0
        self.written = 0
        self._queued = 0  # only the drain adds to this, only the writer to `_done`: no lock is needed
        self._done = 0
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._troubled: dict[CaptureFile, deque[bytes]] = {}  # with what could not be written yet
        self._retry_at = 0.0
        self.syncer = Syncer(on_fault)
        self._thread = threading.Thread(target=self._run, name="capture-write", daemon=True)

    # ---- for the drain ---------------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """What was handed over and is neither in a file nor given up."""
        return self._queued - self._done

    @property
    def troubled(self) -> int:
        """Files that cannot be written now."""
        return len(self._troubled)

    def start(self) -> None:
        self.syncer.start()
        self._thread.start()

    def stop(self) -> None:
        """Write what can be written, give up the rest, sync, end. All futures are done afterwards."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self.syncer.stop()

    def write(self, pieces: Pieces, *, now: float) -> None:
        self._queued += int(pieces.cuts[-1] - pieces.cuts[0])
        self._jobs.put(lambda: self._write_all(pieces, now))

    def sync(self, file: CaptureFile, future: Future[None]) -> None:
        """`future` is done when all that was handed over before is durable."""
        self._jobs.put(lambda: self._sync(file, future))

    def close(self, file: CaptureFile, done: Callable[[], None]) -> None:
        """After all that was handed over before: sync and close `file`, then call `done` (in the sync thread)."""
        self._jobs.put(lambda: self._close(file, done))

    # ---- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=RETRY_SECONDS if self._troubled else None)
            except Empty:
                job = _nothing
            if job is None:
                break
            guarded(job, self._on_fault)
            del job  # and with it the buffer it held
            if self._troubled and clock.monotonic() >= self._retry_at:
                self._retry()
        self._retry()
        self._give_up(list(self._troubled))

    def _write_all(self, pieces: Pieces, now: float) -> None:
        """Thousands of pieces a second, so nothing is done for each that can be done for all."""
        troubled, files, at = self._troubled, pieces.files, 0
        odd: list[int] = []
        if troubled or pieces.segments:
            odd = [place for place, file in enumerate(files) if now >= file.segment_ends or file in troubled]
        try:
            for place in odd:
                self._write_some(pieces, at, place)
                self._write_odd(pieces, place, now)
                at = place + 1
            self._write_some(pieces, at, len(files))
        finally:
            self.syncer.touched(files)

    def _write_some(self, pieces: Pieces, first: int, last: int) -> None:
        """Those from `first` to before `last`."""
        while first < last:
            place, done, code = self._append(pieces.descriptors, pieces.data, pieces.cuts, first, last)
            self._count(int(pieces.cuts[place] - pieces.cuts[first]))
            if code:
                pieces.files[place].failed(done)
                self._trouble(pieces.files[place], pieces.piece(place), code)
                place += 1
            first = place

    def _write_odd(self, pieces: Pieces, place: int, now: float) -> None:
        """That of a file in trouble, or whose segment is over."""
        file, data = pieces.files[place], pieces.piece(place)
        if not data:
            return
        if file in self._troubled:
            self._troubled[file].append(bytes(data))
            return
        try:
            self.syncer.flush(file, file.rotate(now), close=True, done=_nothing)
        except OSError as error:
            self._trouble(file, data, error.errno or errno.EIO)
        else:
            self._write_some(pieces, place, place + 1)

    def _count(self, octets: int) -> None:
        self._done += octets
        self.written += octets

    def _trouble(self, file: CaptureFile, data: Data, code: int) -> None:
        """Keep a copy: `data` is a view into a buffer shared with other sessions."""
        self.errors += 1
        if not self._troubled:
            self._retry_at = clock.monotonic() + RETRY_SECONDS
        self._troubled[file] = deque([bytes(data)])
        if not self.failing:
            self.failing = True
            self._on_fault(Fault("disk", True, f"cannot write {file.paths[-1]}: {os.strerror(code)}"))

    def _retry(self) -> None:
        now = clock.monotonic()
        self._retry_at = now + RETRY_SECONDS
        given_up = []
        for file in list(self._troubled):
            if self._catch_up(file):
                del self._troubled[file]
                _finish(file)
            elif file.finish and now >= file.finish_by:
                given_up.append(file)
        self._give_up(given_up)
        if self.failing and not self._troubled:
            self.failing = False
            if not given_up:
                self._on_fault(Fault("disk", False, "writing works again"))

    def _catch_up(self, file: CaptureFile) -> bool:
        waiting = self._troubled[file]
        try:
            file.cut()
        except OSError:
            self.errors += 1
            return False
        while waiting:
            pieces = pieces_of([(file, waiting[0])])
            _, done, code = self._append(pieces.descriptors, pieces.data, pieces.cuts, 0, 1)
            if code:
                file.failed(done)
                self.errors += 1
                return False
            self._count(len(waiting.popleft()))
        self.syncer.touched([file])
        return True

    def _give_up(self, files: Sequence[CaptureFile]) -> None:
        """Nothing more can be done for these files: what waits is lost, with its cause."""
        lost = 0
        for file in files:
            for data in self._troubled.pop(file):
                first_ns, last_ns, packets = pcap.span(data)
                file.outages.add(Outage(first_ns, last_ns, "disk", packets=packets))
                self._done += len(data)
                lost += packets
            with contextlib.suppress(OSError):
                file.cut()
        if lost:
            self._on_fault(Fault("disk", True, f"{lost} packets of {len(files)} calls waited in vain, and are lost"))
        for file in files:
            _finish(file)

    def _sync(self, file: CaptureFile, future: Future[None]) -> None:
        self.syncer.flush(file, file.descriptor, close=False, done=lambda: resolve(future, None))

    def _close(self, file: CaptureFile, done: Callable[[], None]) -> None:
        file.finish = lambda: self.syncer.flush(file, file.descriptor, close=True, done=done)
        file.finish_by = clock.monotonic() + CLOSE_PATIENCE
        if file not in self._troubled:
            _finish(file)


def _finish(file: CaptureFile) -> None:
    """Do what is to be done once all is written. It is let go of: it holds the file, and the session whose that is."""
    finish, file.finish = file.finish, None
    if finish is not None:
        finish()


def guarded(job: Callable[[], None], on_fault: Callable[[Fault], None]) -> None:
    """Run `job`; a defect of ours is reported and ends that job, not the thread that all sessions share."""
    try:
        job()
    except Exception as error:  # noqa: BLE001
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_name}:{where.tb_lineno}" if where else ""
        on_fault(Fault("internal", True, f"{type(error).__name__} in {place}: {error}"))


def _nothing() -> None:
    """The job of a thread that was woken by its clock, and what follows a job that nobody waits for."""


def resolve(future: Future[Any], result: object) -> None:
    """Set the result unless the one who waited has cancelled."""
    if future.set_running_or_notify_cancel():
        future.set_result(result)


def _call(function: Callable[[int], int], descriptor: int) -> None:
    if function(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
