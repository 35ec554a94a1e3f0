"""The processes that render: few, spawned, polite, and replaced when they break.

Rendering a call costs CPU that live calls must not miss, so it runs in processes of its own at low
priority; the number of jobs under way at once is bounded by the number of processes.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

NICENESS = 10
"""Live calls come first: a renderer yields the processor to them."""

_PR_SET_PDEATHSIG = 1


class RenderPool:
    """A process pool that is rebuilt when a worker dies, and retries the job once."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or max(1, (os.cpu_count() or 2) - 1)
        self._pool = self._build()

    def _build(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, initializer=_become_renderer, initargs=(os.getpid(),))

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`job(*args)` in a worker. Raises what the job raises, or BrokenProcessPool when it broke two workers."""
        pool = self._pool
        try:
            return await asyncio.wrap_future(pool.submit(job, *args, **kwargs))
        except BrokenProcessPool:
            if pool is self._pool:
                pool.shutdown(wait=False)
                self._pool = self._build()
            return await asyncio.wrap_future(self._pool.submit(job, *args, **kwargs))

    def close(self) -> None:
        """Stop now: what is under way is abandoned, and finished at the next start."""
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.kill()
        # Waits for the pool's own thread, which ends with its processes: left running, it would trip over the exit.
        self._pool.shutdown(wait=True, cancel_futures=True)


def _become_renderer(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call above could notice
        os._exit(1)
    os.nice(NICENESS)
