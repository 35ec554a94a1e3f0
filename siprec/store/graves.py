"""Rows of sessions that are over, in blocks of bytes.

Tens of thousands are kept for minutes, and they come while the memory of their calls is being given back. As objects of
their own they would lie scattered among what is free, and each would keep a page, or a whole arena of the allocator,
from going back to the system: after a burst of calls the process would stay as large as it ever was.

They come and go in one order: a row is appended to the newest block, and the oldest block goes when all in it are gone.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct

from siprec.store import frames
from siprec.store.codec import Row

BLOCK_BYTES = 1024 * 1024
"""Some 2 000 rows; mapped apart from the heap, so that it takes what is used of it and goes back to the system at once.
"""

CHAINS = 4096
"""Of the index that each block begins with: what lies under a hash is one or two steps away, in each of the ten blocks
of 20 000 rows."""

_RECORD = Struct("=d?HI")
"""When it has had its time, whether it counts still, how many links follow, the length of the frame after those."""

_LINK = Struct("=qII")
"""A hash under which a record is found, where the record begins, and the next link of this chain (0: the last)."""

_HEAD = Struct("=I")
"""The newest link of a chain."""

_FIRST = CHAINS * _HEAD.size
"""Where the first record of a block lies."""

_MOST_HASHES = 0xFFFF


@dataclass(slots=True)
class _Block:
    data: mmap.mmap
    used: int = _FIRST


class Graves:
    """Rows by the hashes of their ids and keys. One thread writes; `get` and `rows` may be called by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[_Block] = deque()
        self._gone = 0  # blocks that have gone
        self._oldest = _FIRST  # offset of the oldest row in the first block
        self._count = 0

    def __len__(self) -> int:
        return self._count

    # ---- reading

    def get(self, session_id: str) -> Row | None:
        """The row of a session."""
        with self._lock:
            return next((row for _, row in self._under(hash(session_id)) if row.session_id == session_id), None)

    def find(self, key: int) -> Iterator[Row]:
        """Rows under the hash of a key, oldest first."""
        return (row for _, row in self._under(key))

    def rows(self) -> list[Row]:
        """All of them, oldest first."""
        with self._lock:
            return [self._read(place) for place in self._all()]

    # ---- writing

    def add(self, row: Row, hashes: Iterable[int], until: float) -> None:
        """Keep a row until `until` under its id and the hashes of its keys, instead of an earlier one of its session.

        Times must not go back.
        """
        frame = frames.pack(b"s", row)
        under = [hash(row.session_id), *hashes][:_MOST_HASHES]
        size = _RECORD.size + len(under) * _LINK.size + len(frame)
        with self._lock:
            self._forget_session(row.session_id)
            block = self._with_room(size)
            at, block.used = block.used, block.used + size
            _RECORD.pack_into(block.data, at, until, True, len(under), len(frame))
            for number, key in enumerate(under):
                _link(block.data, at + _RECORD.size + number * _LINK.size, key, at)
            block.data[block.used - len(frame) : block.used] = frame
            self._count += 1

    def drop(self, session_id: str) -> None:
        """Forget a row before its time."""
        with self._lock:
            self._forget_session(session_id)

    def expire(self, now: float, limit: int) -> list[str]:
        """Forget the rows that have had their time, and the oldest of more than `limit`; returns their ids."""
        ids: list[str] = []
        with self._lock:
            while self._sweep() and (self._count > limit or self._head(self._front)[0] <= now):
                ids.append(self._read(self._front).session_id)
                self._forget(self._front)
        return ids

    # ---- blocks

    def _with_room(self, size: int) -> _Block:
        """The block to append to."""
        if not self._blocks or self._blocks[-1].used + size > len(self._blocks[-1].data):
            self._blocks.append(_Block(mmap.mmap(-1, _FIRST + max(BLOCK_BYTES, size))))
        return self._blocks[-1]

    def _at(self, place: int) -> tuple[mmap.mmap, int]:
        return self._blocks[(place >> 32) - self._gone].data, place & 0xFFFFFFFF

    def _head(self, place: int) -> tuple[float, bool, int, int]:
        until, counts, links, length = _RECORD.unpack_from(*self._at(place))
        return until, counts, links, length

    def _size(self, place: int) -> int:
        _, _, links, length = self._head(place)
        return _RECORD.size + links * _LINK.size + length

    def _read(self, place: int) -> Row:
        data, at = self._at(place)
        _, _, links, length = self._head(place)
        at += _RECORD.size + links * _LINK.size
        found = frames.unpack(data[at : at + length])
        assert found is not None, "nobody else writes here"
        return found[1]

    def _all(self) -> Iterator[int]:
        """Places of the rows that count, oldest first."""
        at = self._oldest
        for number, block in enumerate(self._blocks, self._gone):
            while at < block.used:
                place = number << 32 | at
                if self._head(place)[1]:
                    yield place
                at += self._size(place)
            at = _FIRST

    @property
    def _front(self) -> int:
        return self._gone << 32 | self._oldest

    def _sweep(self) -> bool:
        """Let go of what does not count at the front, whole blocks of it; whether a row that counts is there then."""
        while self._blocks:
            while self._oldest < self._blocks[0].used:
                if self._head(self._front)[1]:
                    return True
                self._oldest += self._size(self._front)
            self._blocks.popleft().data.close()
            self._gone, self._oldest = self._gone + 1, _FIRST
        return False

    # ---- index

    def _under(self, key: int) -> Iterator[tuple[int, Row]]:
        return ((place, self._read(place)) for place in self._places(key))

    def _places(self, key: int) -> Iterator[int]:
        """Of the rows that count, oldest first."""
        for number, block in enumerate(list(self._blocks), self._gone):
            records = [at for at in _chain(block.data, key) if _RECORD.unpack_from(block.data, at)[1]]
            yield from (number << 32 | at for at in reversed(records))

    def _forget_session(self, session_id: str) -> None:
        for place, row in self._under(hash(session_id)):
            if row.session_id == session_id:
                self._forget(place)

    def _forget(self, place: int) -> None:
        """Its links stay: they lead to a row that counts no more, until its block goes."""
        until, _, links, length = self._head(place)
        _RECORD.pack_into(*self._at(place), until, False, links, length)
        self._count -= 1


def _link(data: mmap.mmap, at: int, key: int, record: int) -> None:
    """Put a link at `at` before the others of its chain."""
    head = key % CHAINS * _HEAD.size
    _LINK.pack_into(data, at, key, record, *_HEAD.unpack_from(data, head))
    _HEAD.pack_into(data, head, at)


def _chain(data: mmap.mmap, key: int) -> Iterator[int]:
    """Records of a block under a hash, newest first."""
    (at,) = _HEAD.unpack_from(data, key % CHAINS * _HEAD.size)
    while at:
        found, record, at = _LINK.unpack_from(data, at)
        if found == key:
            yield record
