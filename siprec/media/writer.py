"""Puts capture records on disk: one thread writes, another makes what was written durable.

The drain hands over one piece per session and tick. A piece is written at the file's end or not at all: after
a short write or an error the file is cut back to its last whole record, and the piece waits in memory. What
waits is tried again several times a second and never given up while the session lives; the drain watches
`waiting_bytes` and lets the sockets wait when that grows too large. So a disk that is full or slow for a while
costs nothing, and one that is so for long costs packets in the kernel, which are counted there.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

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

    Opened by any thread, then the writer's alone. `offset` is the end of the last whole record. `first` is the number
    of the row's first file here, which is created unless its `descriptor` is given. Raises ArchiveError when it cannot
    be created. `segment_ends`: when the next file is due, on `clock.monotonic`.
    """

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
        self._first = first
        self.outages = OutageLog()
        self.paths: list[Path] = []
        self.octets = 0
        self._ragged = False
        self.finish: Callable[[], None] | None = None
        self.finish_by = 0.0
        self.synced_ns = clock.wall_ns()
        self._segment_seconds = segment_seconds
        self.segment_ends = now + segment_seconds if segment_seconds else None
        self.descriptor = create(directory, first) if descriptor is None else descriptor
        self.offset = pcap.FILE_HEADER
        self.paths.append(path_of(directory, first))
        self.device = os.fstat(self.descriptor).st_dev

    def write(self, data: Data) -> None:
        """Append `data` as a whole. Raises OSError, and then the file ends where it ended before."""
        if self._ragged:
            self.cut()
        try:
            done = os.pwrite(self.descriptor, data, self.offset)
            while done < len(data):  # a signal, or a disk that fills up right now
                done += os.pwrite(self.descriptor, memoryview(data)[done:], self.offset + done)
        except OSError:
            self._ragged = True
            with contextlib.suppress(OSError):
                self.cut()
            raise
        self.offset += done
        self.octets += done

    def cut(self) -> None:
        """Take off what a failed write left behind the last whole record. Raises OSError."""
        if self._ragged:
            os.ftruncate(self.descriptor, self.offset)
            self._ragged = False

    def rotate(self, now: float) -> int:
        """Begin the next segment; gives the old descriptor, to be synced and closed. Raises OSError."""
        old = self.descriptor
        number = self._first + len(self.paths)
        self.descriptor, self.offset = _create(path_of(self.directory, number)), pcap.FILE_HEADER
        self.paths.append(path_of(self.directory, number))
        self.segment_ends = now + self._segment_seconds
        return old


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
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
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
        self._dirty: dict[int, CaptureFile] = {}
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

    def touched(self, files: Iterable[CaptureFile]) -> None:
        """The writer has written to them."""
        self._dirty.update((file.descriptor, file) for file in files)

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
        if close:
            self._dirty.pop(descriptor, None)
        try:
            if file.octets:  # without a record there is nothing to lose
                os.fsync(descriptor)
                _sync_directory(file.directory)
        except OSError as error:
            self._lost(file, error)
        if close:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        done()

    def _sync_all(self) -> None:
        """One syncfs for each device written to; where that is not to be had, one fsync for each file."""
        dirty, self._dirty = self._dirty, {}
        devices: set[int] = set()
        failed = False
        for descriptor, file in list(dirty.items()):  # a late touch may still reach this table
            if file.device in devices:
                continue
            at = clock.wall_ns()
            try:
                if self._syncfs is None:
                    os.fsync(descriptor)
                else:
                    devices.add(file.device)
                    _call(self._syncfs, descriptor)
            except OSError as error:
                failed = True
                self._lost(file, error)
            else:
                file.synced_ns = at
        if self._failing and not failed:
            self._failing = False
            self._on_fault(Fault("disk", False, "syncing works again"))

    def _lost(self, file: CaptureFile, error: OSError) -> None:
        """After a failed sync nobody knows which pages are on disk: said, never tried again as if nothing was."""
        now = clock.wall_ns()
        file.outages.add(Outage(file.synced_ns, now, "disk"))
        if not self._failing:
            self._failing = True
            self._on_fault(Fault("disk", True, f"cannot sync {file.directory}: {error.strerror}"))


class Writer:
    """The thread that writes. `waiting_bytes` may be read by any thread."""

    def __init__(self, on_fault: Callable[[Fault], None]) -> None:
        self._on_fault = on_fault
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

    def start(self) -> None:
        self.syncer.start()
        self._thread.start()

    def stop(self) -> None:
        """Write what can be written, give up the rest, sync, end. All futures are done afterwards."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self.syncer.stop()

    def write(self, pieces: list[tuple[CaptureFile, Data]], total: int, *, now: float) -> None:
        """Append each piece to its file; `total` is their length together."""
        self._queued += total
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
            if self._troubled and clock.monotonic() >= self._retry_at:
                self._retry()
        self._retry()
        for file in list(self._troubled):
            self._give_up(file)

    def _write_all(self, pieces: list[tuple[CaptureFile, Data]], now: float) -> None:
        """Thousands of times a second, so nothing is done for each piece that can be done for all."""
        troubled, written = self._troubled, 0
        try:
            for file, data in pieces:
                if troubled and file in troubled:
                    troubled[file].append(bytes(data))
                    continue
                try:
                    if file.segment_ends is not None and now >= file.segment_ends:
                        self._rotate(file, now)
                    file.write(data)
                except OSError as error:
                    self._trouble(file, data, error)
                else:
                    written += len(data)
        finally:
            self._done += written
            self.written += written
            self.syncer.touched(file for file, _ in pieces)

    def _rotate(self, file: CaptureFile, now: float) -> None:
        self.syncer.flush(file, file.rotate(now), close=True, done=_nothing)

    def _trouble(self, file: CaptureFile, data: Data, error: OSError) -> None:
        """Keep a copy: `data` is a view into a buffer shared with other sessions."""
        self.errors += 1
        if not self._troubled:
            self._retry_at = clock.monotonic() + RETRY_SECONDS
        self._troubled[file] = deque([bytes(data)])
        if not self.failing:
            self.failing = True
            self._on_fault(Fault("disk", True, f"cannot write {file.paths[-1]}: {error.strerror}"))

    def _retry(self) -> None:
        now = clock.monotonic()
        self._retry_at = now + RETRY_SECONDS
        for file in list(self._troubled):
            if self._catch_up(file):
                del self._troubled[file]
                if file.finish:
                    file.finish()
            elif file.finish and now >= file.finish_by:
                self._give_up(file)
        if self.failing and not self._troubled:
            self.failing = False
            self._on_fault(Fault("disk", False, "writing works again"))

    def _catch_up(self, file: CaptureFile) -> bool:
        try:
            waiting = self._troubled[file]
            while waiting:
                file.write(waiting[0])
                size = len(waiting.popleft())
                self._done += size
                self.written += size
            self.syncer.touched([file])
        except OSError:
            self.errors += 1
            return False
        return True

    def _give_up(self, file: CaptureFile) -> None:
        """Nothing more can be done for this file: what waits is lost, with its cause."""
        for data in self._troubled.pop(file, ()):
            first_ns, last_ns, packets = pcap.span(data)
            file.outages.add(Outage(first_ns, last_ns, "disk", packets=packets))
            self._done += len(data)
        with contextlib.suppress(OSError):
            file.cut()
        if file.finish:
            file.finish()

    def _sync(self, file: CaptureFile, future: Future[None]) -> None:
        self.syncer.flush(file, file.descriptor, close=False, done=lambda: resolve(future, None))

    def _close(self, file: CaptureFile, done: Callable[[], None]) -> None:
        file.finish = lambda: self.syncer.flush(file, file.descriptor, close=True, done=done)
        file.finish_by = clock.monotonic() + CLOSE_PATIENCE
        if file not in self._troubled:
            file.finish()


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
