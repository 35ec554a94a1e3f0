"""Memory in which a media worker shows what it counts, and the process that speaks SIP reads it without asking."""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

from siprec.media.streams import ROW

MAX_STREAMS = 65_536
"""All pairs of ports there are, over IPv4 and IPv6. Only pages with a stream on them take memory."""

_BYTES = MAX_STREAMS * ROW.itemsize


class Board:
    """A row of numbers for each stream, by slot; zeros until its worker has seen it in a tick. `stream` of a row is its
    slot plus 1. Each number is whole; those of one row may be of two ticks."""

    def __init__(self, descriptor: int) -> None:
        self._rows: NDArray[np.void] = np.frombuffer(mmap.mmap(descriptor, _BYTES), ROW)

    @staticmethod
    def create() -> int:
        """A descriptor of such memory, empty. Raises OSError."""
        descriptor = os.memfd_create("siprec-board", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _BYTES)
        return descriptor

    def put(self, slots: NDArray[np.int64], rows: NDArray[np.void]) -> None:
        """Show `rows`, whose `stream` says which of `slots` each is of."""
        slots = slots[rows["stream"]]
        rows["stream"] = slots + 1
        self._rows[slots] = rows

    def clear(self, slot: int) -> None:
        self._rows[slot] = np.zeros((), ROW)

    def told(self, slot: int) -> bool:
        """Whether there is a row."""
        return bool(self._rows["stream"][slot])

    def __getitem__(self, slot: int) -> np.void:
        row: np.void = self._rows[slot]
        return row
