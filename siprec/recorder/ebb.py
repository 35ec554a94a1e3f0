"""Memory goes back to the system once a crowd of calls has gone; the heap keeps it otherwise.

A crowd leaves in steps: calls end, are rendered, their transactions are over half a minute later. And what stays behind
keeps whole pages: objects in the interpreter's free lists, which a search for garbage empties, and names in its type
cache. So all of it is done several times.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable

CROWD = 100
"""So many calls must have gone, and `OF_THOSE_LEFT` times those that are left: for each of these the search for garbage
takes up to 0.1 ms, in which nothing else is done."""

OF_THOSE_LEFT = 4

AFTER_SECONDS = (0.0, 2.0, 5.0, 35.0)
"""When it is done, from when the crowd had gone: what is left then are traces; the last are transactions (64*T1)."""

_ITERATORS = 255
"""Of futures that are awaited, as many as asyncio keeps for use again, never to give them back (FI_FREELIST_MAXLEN)."""

_CHOICE = 4
"""So many times as many are made to choose from."""


_clear_caches: Callable[[], None] = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
"""The former since Python 3.13."""


class Ebb:
    """Watches how many calls there are."""

    def __init__(self) -> None:
        self._most = 0
        self._before = 0
        self._due: list[float] = []

    def is_due(self, count: int, now: float) -> bool:
        """Whether a crowd has gone lately, and it is time to give memory back. To be asked about twice a second."""
        self._most = max(self._most, count)
        gone = self._most - count >= max(CROWD, OF_THOSE_LEFT * count)
        if gone and count == self._before:  # else more will have gone soon
            self._most, self._due = count, [now + each for each in AFTER_SECONDS]
        self._before = count
        due = bool(self._due) and self._due[0] <= now
        if due:
            del self._due[0]
        return due


def keep_low_iterators() -> None:
    """Exchange the iterators that asyncio keeps for some at lower addresses: after a crowd each of them keeps a page.

    To be called in the thread of the event loop.
    """
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    iterators = sorted((iter(future) for _ in range(_CHOICE * _ITERATORS)), key=id, reverse=True)
    while iterators:
        iterators.pop()  # what goes first is kept


def give_memory_back(*, thoroughly: bool) -> None:
    """What is free in the C heap; `thoroughly`: after having freed what the interpreter only keeps for later."""
    if thoroughly:
        gc.collect()
        _clear_caches()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
