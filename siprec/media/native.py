"""Empties sockets by the C extension, where it was built: the plain case is finished there, the rest left to Python.

A socket whose datagrams were all plainly right leaves none in the arena: they are counted in the table, and their
records come ready in `Fill.laid`. All others are left as `receive.BatchReceiver` would leave them.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siprec import clock
from siprec.media import _native
from siprec.media.arena import STRIDE, Arena
from siprec.media.receive import GROUP_SOCKETS, Fill, Laid, Sockets
from siprec.media.streams import StreamTable

MAX_ROOMS = 32
"""Buffers kept, of a MiB each with G.711: the rounds of one tick at 12 000 streams. More are used while the disk is
slow, and given back."""


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
        self._rooms: list[_Room] = []

    def fill(self, sockets: Sockets, begin: int) -> Fill:
        room = self._room()
        arrays = self._arrays(sockets, room.octets)
        visited, used, size, packets, failures, unfinished = _native.drain(arrays, begin, clock.monotonic())
        self.failures += failures
        laid = Laid(room.lend(size), self._ends[: visited + 1], packets) if packets else None
        return Fill(self._counts[:visited].tolist(), used, bool(unfinished), laid)

    def _arrays(self, sockets: Sockets, out: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        """In the order of `struct memory`."""
        if self._table.reception is not self._reception:  # the table has grown: all its arrays are other ones
            self._reception, self._tables = self._table.reception, _by_stream(self._table)
        arena = self.arena
        slots = (arena.flat, arena.names, arena.truncated, arena.length, arena.time_ns)
        return (*slots, *self._tables, sockets.descriptors, sockets.kinds, self._counts, self._ends, out)

    def _room(self) -> _Room:
        """One that nobody holds a part of."""
        found = next((each for each in self._rooms if each.free()), None)
        if found is None:
            found = _Room(self.arena.slots * STRIDE)
            if len(self._rooms) < MAX_ROOMS:
                self._rooms.append(found)
        return found


class _Room:
    """Where the records of a round are laid. Pages that have been written to once cost nothing any more."""

    def __init__(self, size: int) -> None:
        self.octets = np.empty(size, np.uint8)
        self._lent: weakref.ref[NDArray[np.uint8]] | None = None

    def free(self) -> bool:
        return self._lent is None or self._lent() is None

    def lend(self, size: int) -> memoryview:
        """The first `size` bytes; taken until this and all that is cut from it is gone."""
        part = self.octets[:size]
        self._lent = weakref.ref(part)
        return part.data


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
        table.only,
        table.peers,
        table.sums,
        table.accepted,
        table.octets,
        table.paused,
        table.first_ns,
        table.last_ns,
        table.last_at,
        table.reception.view(np.uint8),  # the buffer of a structured array takes longer to ask for than all others
    )
