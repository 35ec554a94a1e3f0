"""Puts capture records on disk; `syncer` makes them durable.

The drain hands over one piece per session and tick, hundreds of them in each buffer (`Pieces`), which an *appender*
writes in one go: `append`, or the C extension without the interpreter. A piece is written at the file's end or not at
all: after a short write or an error the file is cut back to its last whole record, and the piece waits in memory. What
waits is tried again several times a second and never given up while the session lives; the drain watches
`waiting_bytes` and lets the sockets wait when that grows too large. So a disk that is full or slow for a while
costs nothing, and one that is so for long costs packets in the kernel, which are counted there.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from siprec import clock
from siprec.media import pcap
from siprec.media.file import CaptureFile
from siprec.media.part import Outage
from siprec.media.syncer import Syncer
from siprec.media.threads import Fault, guarded, nothing, resolve

RETRY_SECONDS = 0.25
"""Between attempts on a disk in trouble: audio is back on disk well within 1 s of the trouble's end."""

CLOSE_PATIENCE = 60.0
"""Seconds for which a closed session's last packets wait for its disk before they are dropped as an outage."""

Data = memoryview | bytes


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
                job = nothing
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
            self.syncer.flush(file, file.rotate(now), close=True, done=nothing)
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
