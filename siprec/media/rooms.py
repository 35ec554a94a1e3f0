"""Where records are laid before they are appended to their files: memory that may outlive this process.

A packet that was read is no longer in its socket, and until its record is appended it is in no file. So records are
laid into a *room*, and all rooms lie in one memfd that somebody else may hold as well. The head of a room tells which
sockets' records it takes and to which file those belong, then how far records are laid; once they are appended, that
none is due any more. Whoever comes after a process that was killed calls `redo` with that memory (the keeper has
kept it, or the process that had started a media worker), and the records that it left behind are written.

What is written twice costs nothing, since rendering drops duplicates; so a successor need not know exactly how far its
predecessor came, and nothing here waits for anything.
"""

from __future__ import annotations

import contextlib
import heapq
import mmap
import os
import threading
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siprec.errors import ArchiveError
from siprec.media import pcap
from siprec.media.arena import SLOTS, STRIDE, private_memory
from siprec.media.file import create, following
from siprec.media.receive import GROUP_SOCKETS

MAX_ROOMS = 32
"""Kept, of 2 MiB each with G.711: two rounds of sockets in thought for each of 10 000 streams. More are used while the
disk is slow, given back afterwards, and not left to anybody."""

REVIEW_TAKES = 300
"""Rooms taken, a minute's with few streams, after which those that were not needed meanwhile are given back."""

MAX_FILES = 16_384
"""Captures at once whose folders are known: more than the ports of two addresses admit. Of others nothing is redone."""

FOLDER_BYTES = 512
"""For the folder of one; a longer path is not known either."""

_MARK = b"siprec rooms 2"  # another layout is another number
_PAGE = 4096
_FOLDERS = _PAGE
_ROOMS = _FOLDERS + MAX_FILES * FOLDER_BYTES
_ENDS = 8 * (GROUP_SOCKETS + 1)
_DUE = _ENDS + 4 * GROUP_SOCKETS
_HEAD = 3 * _PAGE


class Room:
    """One round's records. `octets`: they themselves. `ends`: 0, then for each socket where its records end, to be set
    once they are laid."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.ends: NDArray[np.int64] = memory[:_ENDS].view(np.int64)
        self._entries: NDArray[np.uint32] = memory[_ENDS:_DUE].view(np.uint32)
        self._due = memory[_DUE : _DUE + 1]
        self._lent_parts: list[weakref.ref[NDArray[np.uint8]]] = []
        self.octets = memory[_HEAD:]
        self.address, self.ends_address = self.octets.ctypes.data, self.ends.ctypes.data

    @property
    def free(self) -> bool:
        return not self._lent_parts

    def begin(self, entries: NDArray[np.uint32]) -> None:
        """From now on it is for sockets whose records go to the files of `entries`."""
        self.ends.fill(0)
        self._entries[: len(entries)] = entries
        self._due[0] = 1  # last, else the records of last time would be said to belong to these

    def lend(self, size: int) -> memoryview:
        """The first `size` bytes: taken, and due to be written, until this and all that is cut from it is gone."""
        part, due, parts = self.octets[:size], self._due, self._lent_parts

        def written(_: object) -> None:
            due[0] = 0
            parts.clear()

        parts.append(weakref.ref(part, written))
        return part.data


class Rooms:
    """Rooms for the records of `slots` datagrams each, in the `memory` that `create_memory` made for as many; None
    where nobody outlives us. The descriptor stays the caller's to close, at any time. `room_size`: bytes that each has
    for records."""

    def __init__(self, slots: int = SLOTS, memory: int | None = None) -> None:
        self._size = _size(slots)
        self.room_size = self._size - _HEAD
        self._memory = None if memory is None else mmap.mmap(memory, os.fstat(memory).st_size)
        self._rooms: list[Room] = []
        self._taken = 0
        self._needed = 0  # rooms, since they were reviewed
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._entered = 0

    def take(self, entries: NDArray[np.uint32]) -> Room:
        """One that nobody holds a part of, begun. The first: so those come to rest that only a slow disk needed."""
        self._taken += 1
        if self._taken % REVIEW_TAKES == 0:
            self._give_back()
        number = 0
        while number < len(self._rooms) and not self._rooms[number].free:
            number += 1
        found = self._rooms[number] if number < len(self._rooms) else Room(self._area(number))
        if number == len(self._rooms) < MAX_ROOMS:
            self._rooms.append(found)
        self._needed = max(self._needed, number + 1)
        if self._memory is not None:
            found.begin(entries)
        return found

    def _area(self, number: int) -> NDArray[np.uint8]:
        if self._memory is None or number >= MAX_ROOMS:
            return private_memory(self._size)
        return np.frombuffer(self._memory, np.uint8, self._size, _ROOMS + number * self._size)

    def _give_back(self) -> None:
        while len(self._rooms) > self._needed and self._rooms[-1].free:
            self._rooms.pop()
            if self._memory is not None:
                with contextlib.suppress(OSError):  # a kernel that cannot takes them back with all the rest
                    self._memory.madvise(mmap.MADV_REMOVE, _ROOMS + len(self._rooms) * self._size, self._size)
        self._needed = 0

    # ---- any thread ------------------------------------------------------------------------------------------

    def enter(self, directory: Path) -> int:
        """An entry for the file of a capture in `directory`; 0, which is none, where nobody would look it up."""
        name = os.fsencode(directory.absolute())
        if self._memory is None or len(name) > FOLDER_BYTES:
            return 0
        with self._lock:
            if not self._free and self._entered == MAX_FILES - 1:
                return 0
            self._entered += not self._free
            entry = heapq.heappop(self._free) if self._free else self._entered
        at = _FOLDERS + entry * FOLDER_BYTES
        self._memory[at : at + FOLDER_BYTES] = name.ljust(FOLDER_BYTES, b"\0")
        return entry

    def leave(self, entry: int) -> None:
        """All is written that belongs to that file."""
        if entry:
            with self._lock:
                heapq.heappush(self._free, entry)


def create_memory(slots: int = SLOTS) -> int:
    """A descriptor of memory for rooms. Raises OSError."""
    descriptor = os.memfd_create("siprec-rooms", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _ROOMS + MAX_ROOMS * _size(slots))
    os.pwrite(descriptor, _MARK, 0)
    return descriptor


def _size(slots: int) -> int:
    return _HEAD + -(-slots * STRIDE // _PAGE) * _PAGE


def redo(memory: int) -> int:
    """Write what a process that is gone has left in `memory`, as a further file of each capture that it belongs to.

    Gives back the number of packets. A capture whose folder is gone, or whose disk takes nothing now, is left out.
    """
    if os.pread(memory, len(_MARK), 0) != _MARK:
        return 0
    left: dict[bytes, list[bytes]] = {}
    for entry, records in _left(memory):
        folder = os.pread(memory, FOLDER_BYTES, _FOLDERS + entry * FOLDER_BYTES).rstrip(b"\0")
        left.setdefault(folder, []).append(records)
    return sum(_save(Path(os.fsdecode(folder)), b"".join(records)) for folder, records in left.items() if folder)


def _left(memory: int) -> Iterator[tuple[int, bytes]]:
    """What is laid and not known to be written, with its entry. Reading in this way makes no page of memory real."""
    size = (os.fstat(memory).st_size - _ROOMS) // MAX_ROOMS
    for at in range(_ROOMS, _ROOMS + MAX_ROOMS * size, size):
        head = os.pread(memory, _DUE + 1, at)
        if not head[_DUE]:
            continue
        ends, entries = np.frombuffer(head[:_ENDS], np.int64), np.frombuffer(head[_ENDS:_DUE], np.uint32)
        for entry, (begin, end) in zip(entries.tolist(), pairwise(ends.tolist()), strict=True):
            if end < begin:  # no socket after this one had been emptied yet
                break
            if entry and end > begin:
                yield entry, os.pread(memory, end - begin, at + _HEAD + begin)


def _save(directory: Path, records: bytes) -> int:
    try:
        captures = sorted(directory.glob("capture-*.pcap"))
        written = b"".join(_last(path, 2 * len(records)) for path in captures[-2:])  # a new one may just have begun
        missing = [each for each in pcap.split(records) if each not in written]
        if missing:
            with open(create(directory, following(captures)), "wb") as file:
                file.write(b"".join(missing))
    except (OSError, ArchiveError, ValueError):  # the last: somebody has put a file of another name there
        return 0
    return len(missing)


def _last(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - count))
        return file.read(count)
