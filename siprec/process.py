"""What this process is to those around it: the one holder of its state folder, told how to end by signals, alive."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from siprec import clock, log
from siprec.errors import ConfigurationError
from siprec.fdstore import AGAIN_SECONDS, EXIT_REPLACE, FdStore

LOCK = "l0"
"""What the lock is called in the store: kept like a socket, so that no other server slips in while we are restarted."""

PULSES = 10
"""Signs of life in the time that whoever watches us would let us be silent: nine may be lost or late."""

PULSE_SECONDS = 1.0
"""Between them when nobody watches: they also tell whether there is still somebody who would start us again."""

EXIT_NOW = 1


class Ending:
    """How this process is to end. A second request to stop, AGAIN_SECONDS after the first or later, ends it at once."""

    def __init__(self, now: Callable[[], float] = clock.monotonic) -> None:
        self._now = now
        self._told = asyncio.Event()
        self._stopped_at: float | None = None
        self.hand_over = False
        """Whether a successor takes everything over, so that nothing may be closed towards the peers."""

    async def wait(self) -> None:
        await self._told.wait()

    @property
    def exit_code(self) -> int:
        return EXIT_REPLACE if self.hand_over else 0

    def stop(self) -> None:
        if self._stopped_at is None:
            self._stopped_at = self._now()
        elif self._now() - self._stopped_at >= AGAIN_SECONDS:
            os._exit(EXIT_NOW)
        self.hand_over = False
        self._told.set()

    def replace(self) -> None:
        if not self._told.is_set():
            self.hand_over = True
            self._told.set()


@contextmanager
def ended_by_signals(ending: Ending, store: FdStore) -> Iterator[None]:
    """Within: SIGTERM and SIGINT stop, SIGUSR1 (of the keeper) and SIGHUP (of systemd) hand over to a successor."""
    loop = asyncio.get_running_loop()

    def replace() -> None:
        if store.status("handing over"):
            ending.replace()
        else:
            log.get().warning("not replaced", reason="nobody is there to start a successor")

    actions = {
        signal.SIGTERM: ending.stop,
        signal.SIGINT: ending.stop,
        signal.SIGUSR1: replace,
        signal.SIGHUP: replace if store.present else ending.stop,
    }
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


@contextmanager
def collecting_later() -> Iterator[None]:
    """Within: no search for garbage. What a start brings back stays, and is looked through again and again else: that
    took half of the time of starting with thousands of sessions.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def freeze_modules() -> None:
    """Search for garbage never again in what is there now: modules; no session may be among it. What is new is searched
    as often as ever: a flood of damaged messages would hold tens of MB else.
    """
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def pulse(store: FdStore) -> AsyncIterator[None]:
    """Within: tell whoever keeps our sockets that we live, and the log when nobody keeps them any more."""
    beating = asyncio.create_task(_beat(store)) if store.present else None
    try:
        yield
    finally:
        if beating is not None:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating


async def _beat(store: FdStore) -> None:
    seconds = store.watchdog_seconds / PULSES if store.watchdog_seconds else PULSE_SECONDS
    heard = True
    while True:
        before, heard = heard, store.watchdog()
        if before and not heard:
            log.get().error(
                "keeper is gone",
                pid=os.getpid(),
                effect="recording goes on, but a restart would now lose what comes meanwhile",
            )
        await asyncio.sleep(seconds)


@contextmanager
def locked(directory: Path, store: FdStore) -> Iterator[None]:
    """Hold `directory` for this process and its successors. Raises ConfigurationError when another server does."""
    path = directory / "lock"
    inherited = next(iter(store.taken.pop(LOCK, ())), None)
    if inherited is not None and not _same_file(inherited, path):  # STATE_DIR has changed
        store.remove(LOCK)
        os.close(inherited)
        inherited = None
    fd = inherited if inherited is not None else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        _lock(fd, directory)
        store.put(LOCK, fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, directory: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            [f"STATE_DIR: {directory} is in use by another siprec: stop it, or give this one its own"]
        ) from None


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
