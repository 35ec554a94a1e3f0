"""Empties sockets by the C extension, where it was built: the plain case is finished there, the rest left to Python.

A socket whose datagrams were all plainly right leaves none in the arena: they are counted in the table, and their
records come ready in `Fill.laid`. All others are left as `receive.BatchReceiver` would leave them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from siprec import clock
from siprec.media import _native
from siprec.media.arena import STRIDE, Arena
from siprec.media.receive import GROUP_SOCKETS, Fill, Laid, Sockets
from siprec.media.streams import StreamTable


class NativeReceiver:
    """Drains the streams of `table`; what takes thought goes to `arena`."""

    def __init__(self, arena: Arena, table: StreamTable) -> None:
        self.arena = arena
        self.failures = 0
        self._table = table
        self._reception = table.reception
        self._tables = _by_stream(table)
        self._counts = np.zeros(GROUP_SOCKETS, np.int64)
        self._ends = np.zeros(GROUP_SOCKETS + 1, np.int64)
        self._out = np.empty(arena.slots * STRIDE, np.uint8)

    def fill(self, sockets: Sockets, begin: int) -> Fill:
        arrays = self._arrays(sockets)
        visited, used, size, packets, failures, unfinished = _native.drain(arrays, begin, clock.monotonic())
        self.failures += failures
        laid = Laid(memoryview(self._out[:size].tobytes()), self._ends[: visited + 1], packets) if packets else None
        return Fill(self._counts[:visited].tolist(), used, unfinished, laid)

    def _arrays(self, sockets: Sockets) -> tuple[NDArray[Any], ...]:
        """In the order of `struct memory`."""
        if self._table.reception is not self._reception:  # the table has grown: all its arrays are other ones
            self._reception, self._tables = self._table.reception, _by_stream(self._table)
        arena, out = self.arena, (self._counts, self._ends, self._out)
        slots = (arena.flat, arena.names, arena.truncated, arena.length, arena.time_ns)
        return (*slots, *self._tables, sockets.descriptors, sockets.kinds, *out)


def _by_stream(table: StreamTable) -> tuple[NDArray[Any], ...]:
    return (
        table.high,
        table.low,
        table.port,
        table.ssrc,
        table.settled,
        table.secure,
        table.writing,
        table.six,
        table.payload_types,
        table.templates,
        table.sums,
        table.accepted,
        table.octets,
        table.paused,
        table.first_ns,
        table.last_ns,
        table.last_at,
        table.reception.view(np.uint8),  # the buffer of a structured array takes longer to ask for than all others
    )
