"""Makes durable what was written: the thread that waits for the disk, so that no other has to."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue

from siprec import clock
from siprec.media import pcap
from siprec.media.file import CaptureFile
from siprec.media.part import Outage
from siprec.media.threads import Fault, guarded, nothing

SYNC_SECONDS = 1.0
"""A power cut costs at most about this much audio."""


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
                job = nothing
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
