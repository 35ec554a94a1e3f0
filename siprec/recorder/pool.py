"""The processes that render: few, spawned, polite, and replaced when they break.

Rendering a call costs CPU that live calls must not miss, so it runs in processes of its own at low priority; the number
of jobs under way at once is bounded by the number of processes.

Each has one job at a time and a pipe of its own, which the event loop reads: a call that ends wakes no thread here. (A
`ProcessPoolExecutor` hands each job through three threads of this process, and its result through two.)
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import multiprocessing
import multiprocessing.popen_spawn_posix  # else the first call that ends waits for it
import multiprocessing.resource_tracker
import os
import pickle
import select
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, ParamSpec, TypeVar

from siprec import log
from siprec.errors import RenderError

P = ParamSpec("P")
T = TypeVar("T")

NICENESS = 10
"""Live calls come first: a renderer yields the processor to them."""

ATTEMPTS = 2
"""A job that kills two renderers is to blame itself."""

AGAIN_SECONDS = 1.0
"""Before another process is begun when the machine had none to give (EAGAIN, ENOMEM)."""

KEPT_BYTES = 64 << 20
"""Of memory that a renderer has used and keeps for the next recording: a few minutes of G.711 take 40 MB. The C library
gives it back after each, and to get it again, page by page, took a quarter of a rendering's time.
"""

LARGE_BYTES = 6 << 20
"""What is larger, such as the blocks in which a long capture is read, is got and given back singly: kept among the
rest, it would leave holes that nothing fits in.
"""

IDLE_SECONDS = 2.0
"""A renderer that has had nothing to do for so long gives back what it keeps."""

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


@dataclass(slots=True, eq=False)
class _Job:
    """`message`: what the renderer is told."""

    message: bytes
    future: asyncio.Future[Any]
    attempts: int = 0


@dataclass(slots=True, eq=False)
class _Renderer:
    process: SpawnProcess
    pipe: Connection
    job: _Job | None = None


class RenderPool:
    """Renders with at most `workers` processes (`most`), begun as they are needed and kept; a job whose process dies is
    tried once more.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.most = workers or max(1, (os.cpu_count() or 2) - 1)
        self._context = multiprocessing.get_context("spawn")
        self._renderers: list[_Renderer] = []
        self._idle: list[_Renderer] = []
        self._waiting: deque[_Job] = deque()
        self._again: asyncio.TimerHandle | None = None

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`job(*args)` in a renderer. Raises RenderError with what the job raised, or when it broke two of them."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Job(pickle.dumps((job, args, kwargs)), future))
        self._go_on()
        return await future

    def close(self) -> None:
        """Stop now: what is under way is abandoned, and finished at the next start."""
        self._waiting.clear()
        if self._again is not None:
            self._again.cancel()
        for renderer in self._renderers:
            self._let_go(renderer)
        self._renderers.clear()
        self._idle.clear()

    # ------------------------------------------------------------------ private

    def _go_on(self) -> None:
        """Give the jobs that wait to the renderers that do not."""
        while self._waiting and (self._idle or len(self._renderers) < self.most):
            if self._waiting[0].future.done():  # whoever waited has gone
                self._waiting.popleft()
                continue
            try:
                renderer = self._idle.pop() if self._idle else self._begin()
            except OSError as error:
                self._try_later(error)
                return
            renderer.job = job = self._waiting.popleft()
            job.attempts += 1
            with contextlib.suppress(OSError):  # it has died, which its pipe tells next
                renderer.pipe.send_bytes(job.message)

    def _try_later(self, error: OSError) -> None:
        """The jobs keep their places; a renderer that becomes free meanwhile takes one."""
        if self._again is None:
            log.get().warning("no process for rendering, trying again", error=error.strerror, jobs=len(self._waiting))
            self._again = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._retry)

    def _retry(self) -> None:
        self._again = None
        self._go_on()

    def _begin(self) -> _Renderer:
        """Raises OSError when the machine has no further process, or no pipe, to give."""
        ours, theirs = self._context.Pipe()
        try:
            process = self._context.Process(target=_render, args=(theirs, os.getpid()), daemon=True)
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        renderer = _Renderer(process, ours)
        self._renderers.append(renderer)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable, renderer)
        return renderer

    def _readable(self, renderer: _Renderer) -> None:
        job, renderer.job = renderer.job, None
        try:
            answer = renderer.pipe.recv_bytes()
        except (EOFError, OSError):
            self._died(renderer, job)
        else:
            self._idle.append(renderer)
            if job is not None and not job.future.done():
                _settle(job.future, answer)
        self._go_on()

    def _died(self, renderer: _Renderer, job: _Job | None) -> None:
        self._renderers.remove(renderer)
        if renderer in self._idle:
            self._idle.remove(renderer)
        self._let_go(renderer)
        if job is None or job.future.done():
            return
        if job.attempts < ATTEMPTS:
            self._waiting.appendleft(job)
        else:
            job.future.set_exception(RenderError(f"{ATTEMPTS} renderers died of it"))

    def _let_go(self, renderer: _Renderer) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be over
            asyncio.get_running_loop().remove_reader(renderer.pipe.fileno())
        renderer.pipe.close()
        renderer.process.kill()
        renderer.process.join()
        renderer.process.close()


def _settle(future: asyncio.Future[Any], answer: bytes) -> None:
    result, trouble = pickle.loads(answer)  # noqa: S301  from a process of ours
    if trouble is None:
        future.set_result(result)
    else:
        future.set_exception(RenderError(trouble))


def _render(pipe: Connection, parent: int) -> None:
    """A renderer: one job after another until its parent is gone."""
    _become_renderer(parent)
    give_back = _keep_memory()
    gc.freeze()
    idle = select.poll()
    idle.register(pipe, select.POLLIN)
    while True:
        if not idle.poll(IDLE_SECONDS * 1000):
            give_back(0)
        try:
            job, args, kwargs = pipe.recv()
        except EOFError:
            return
        pipe.send_bytes(_answer(job, args, kwargs))


def _answer(job: Callable[..., Any], args: Any, kwargs: Any) -> bytes:
    """The result, and what went wrong as text: not every exception survives the way."""
    try:
        return pickle.dumps((job(*args, **kwargs), None))
    except Exception as error:  # noqa: BLE001  one job that fails is no reason to end
        return pickle.dumps((None, str(error) or repr(error)))


def _become_renderer(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call above could notice
        os._exit(1)
    os.nice(NICENESS)


def _keep_memory() -> Callable[[int], object]:
    """Have the C library keep what was freed, if it can be told to; returns what gives it back."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return lambda _: None
    library.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    library.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    return library.malloc_trim
