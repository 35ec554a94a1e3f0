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

BLOCK_BYTES = 256 * 1024
"""Some 500 rows; mapped apart from the heap, so that it goes back to the system at once."""

BUCKETS = 256
"""Of the index: with 20 000 rows a look-up searches 5 KiB."""

_RECORD = Struct("=d?HI")
"""When it has had its time, whether it counts still, how many hashes follow, the length of the frame after those."""

_HASH = Struct("=q")
_PLACE = Struct("=qQ")
"""Of a bucket: a hash, and where its row lies (number of the block and offset)."""

_MOST_HASHES = 0xFFFF


@dataclass(slots=True)
class _Block:
    data: mmap.mmap
    used: int = 0


class Graves:
    """Rows by the hashes of their ids and keys. One thread writes; `get` and `rows` may be called by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[_Block] = deque()
        self._gone = 0  # blocks that have gone
        self._oldest = 0  # offset of the oldest row in the first block
        self._count = 0
        self._buckets = [bytearray() for _ in range(BUCKETS)]

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
        record = _RECORD.pack(until, True, len(under), len(frame)) + b"".join(map(_HASH.pack, under)) + frame
        with self._lock:
            self._forget_session(row.session_id)
            place = self._append(record)
            for each in under:
                self._buckets[each % BUCKETS] += _PLACE.pack(each, place)
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

    def _append(self, record: bytes) -> int:
        if not self._blocks or self._blocks[-1].used + len(record) > len(self._blocks[-1].data):
            self._blocks.append(_Block(mmap.mmap(-1, max(BLOCK_BYTES, len(record)))))
        block = self._blocks[-1]
        place = (self._gone + len(self._blocks) - 1) << 32 | block.used
        block.data[block.used : block.used + len(record)] = record
        block.used += len(record)
        return place

    def _at(self, place: int) -> tuple[mmap.mmap, int]:
        return self._blocks[(place >> 32) - self._gone].data, place & 0xFFFFFFFF

    def _head(self, place: int) -> tuple[float, bool, int, int]:
        until, counts, hashes, length = _RECORD.unpack_from(*self._at(place))
        return until, counts, hashes, length

    def _size(self, place: int) -> int:
        _, _, hashes, length = self._head(place)
        return _RECORD.size + hashes * _HASH.size + length

    def _read(self, place: int) -> Row:
        data, at = self._at(place)
        _, _, hashes, length = self._head(place)
        at += _RECORD.size + hashes * _HASH.size
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
            at = 0

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
            self._gone, self._oldest = self._gone + 1, 0
        return False

    # ---- index

    def _under(self, key: int) -> Iterator[tuple[int, Row]]:
        return ((place, self._read(place)) for place in list(self._places(key)))

    def _places(self, key: int) -> Iterator[int]:
        bucket, wanted, at = self._buckets[key % BUCKETS], _HASH.pack(key), 0
        while (at := bucket.find(wanted, at)) >= 0:
            if at % _PLACE.size == 0:
                yield _PLACE.unpack_from(bucket, at)[1]
            at += 1

    def _forget_session(self, session_id: str) -> None:
        for place, row in self._under(hash(session_id)):
            if row.session_id == session_id:
                self._forget(place)

    def _forget(self, place: int) -> None:
        data, at = self._at(place)
        until, _, hashes, length = self._head(place)
        for number in range(hashes):
            (key,) = _HASH.unpack_from(data, at + _RECORD.size + number * _HASH.size)
            self._unlink(key, place)
        _RECORD.pack_into(data, at, until, False, hashes, length)
        self._count -= 1

    def _unlink(self, key: int, place: int) -> None:
        bucket, wanted, at = self._buckets[key % BUCKETS], _PLACE.pack(key, place), 0
        while (at := bucket.find(wanted, at)) >= 0:
            if at % _PLACE.size == 0:
                del bucket[at : at + _PLACE.size]
                return
            at += 1
