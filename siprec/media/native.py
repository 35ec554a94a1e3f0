"""Empties sockets by the C extension, where it was built: the plain case is finished there, the rest left to Python.

A socket whose datagrams were all plainly right leaves none in the arena: they are counted in the table, and their
records come ready in `Fill.laid`. All others are left as `receive.BatchReceiver` would leave them.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siprec import clock
from siprec.media import _native
from siprec.media.arena import HEADROOM, NAME, STRIDE, Arena
from siprec.media.receive import GROUP_SOCKETS, Fill, Laid, Sockets
from siprec.media.reception import RECEPTION
from siprec.media.rooms import Rooms
from siprec.media.streams import PAYLOAD_TYPES, StreamTable


class NativeReceiver:
    """Drains the streams of `table` into `rooms`; what takes thought goes to `arena`."""

    def __init__(self, arena: Arena, table: StreamTable, rooms: Rooms) -> None:
        self.arena = arena
        self.failures = 0
        self._table = table
        self._reception = table.reception
        self._counts = np.zeros(GROUP_SOCKETS, np.int64)
        self._rooms = rooms
        self._memory = self._addresses()

    def fill(self, sockets: Sockets, begin: int) -> Fill:
        if self._table.reception is not self._reception:  # the table has grown: all its arrays are other ones
            self._reception, self._memory = self._table.reception, self._addresses()
        room, memory = self._rooms.take(sockets.entries[begin : begin + GROUP_SOCKETS]), self._memory
        memory[-5], memory[-4], memory[-3] = sockets.memory
        memory[-2], memory[-1] = room.ends_address, room.address
        visited, used, size, packets, failures, most, unfinished = _native.drain(memory, begin, clock.monotonic())
        self.failures += failures
        laid = Laid(room.lend(size), room.ends[: visited + 1], packets) if packets else None
        counts = self._counts[:visited].tolist() if used else [0] * visited
        return Fill(counts, used, bool(unfinished), most, laid)

    def _addresses(self) -> array[int]:
        """What `struct memory` holds; the last five are filled in for each round. Raises ValueError when an array is
        not as long as the extension takes it to be."""
        arena, table = self.arena, self._table
        slots, streams = arena.slots, len(table.reception)
        found = [
            *(_address(getattr(arena, name), size * slots) for name, size in _BY_SLOT.items()),
            *(_address(getattr(table, name), size * streams) for name, size in _BY_STREAM.items()),
            _address(self._counts, 8 * GROUP_SOCKETS),
        ]
        return array("Q", [*found, slots, streams, GROUP_SOCKETS, self._rooms.room_size, 0, 0, 0, 0, 0])


_BY_SLOT = {"flat": STRIDE, "names": NAME, "truncated": 1, "length": 8, "time_ns": 8}
"""The arrays of the arena in the order of `struct memory`, with their bytes for each slot."""

_BY_STREAM = {
    "high": 8,
    "low": 8,
    "port": 2,
    "ssrc": 4,
    "settled": 1,
    "secure": 1,
    "writing": 1,
    "six": 1,
    "payload_types": PAYLOAD_TYPES,
    "templates": 2 * HEADROOM,
    "only": 1,
    "peers": NAME,
    "sums": 8,
    "accepted": 8,
    "octets": 8,
    "paused": 8,
    "first_ns": 8,
    "last_ns": 8,
    "last_at": 8,
    "reception": RECEPTION.itemsize,
}
"""The arrays of the table that follow, with their bytes for each stream."""


def _address(column: NDArray[Any], size: int) -> int:
    if column.nbytes != size or not column.flags.c_contiguous:
        raise ValueError(f"an array of {column.nbytes} bytes where the C extension takes {size}")
    return column.ctypes.data
