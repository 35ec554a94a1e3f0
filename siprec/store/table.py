"""Rows in memory, and the rules of who may write them: what all stores that keep anything are built on.

Keys are held as hashes, 30 bytes instead of 100 for each: what is found by one is verified against its row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Flag
from itertools import islice

from siprec.errors import Conflict, NotFound, NotOwner
from siprec.store import codec
from siprec.store.base import FIND_LIMIT, TOMBSTONE_LIMIT, TOMBSTONE_SECONDS, Index, IndexKey, Reason
from siprec.store.codec import Row, Unreadable


class Part(Flag):
    """What of a row is to be written somewhere."""

    NOTHING = 0
    CORE = 1  # head and core
    SDP = 2
    XML = 4
    KEYS = 8  # what it is found under
    STATE = 16  # the state changed: worth an event
    ALL = 15


@dataclass(frozen=True, slots=True)
class Change:
    """What a step did to a row: its parts that changed, and the keys it is not found under any more."""

    row: Row
    parts: Part
    gone: frozenset[IndexKey] = frozenset()


@dataclass(slots=True)
class _Entry:
    """`hashes`: of its keys; of a row that has ended they are found again when it goes."""

    row: Row
    hashes: tuple[int, ...]

    def filed(self) -> tuple[int, ...]:
        """Hashes that the row is found under."""
        return _hashes(codec.keys(self.row)) if self.row.ended else self.hashes


class Table:
    """The rows of this process. `now` gives monotonic seconds, for the age of tombstones.

    `expired` is called with the id of each tombstone that has had its time.
    """

    def __init__(self, now: Callable[[], float], expired: Callable[[str], None]) -> None:
        self._now = now
        self._expired = expired
        self._entries: dict[str, _Entry] = {}
        self._index: dict[int, str | dict[str, None]] = {}
        self._tombstones: deque[tuple[float, str]] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._entries

    # ---- reading

    def row(self, session_id: str) -> Row | None:
        """The row of a session; safe to be called by any thread."""
        entry = self._entries.get(session_id)
        return entry.row if entry is not None else None

    def ids(self) -> list[str]:
        """All ids; safe to be called by any thread."""
        return list(self._entries)

    def get(self, session_id: str) -> Row:
        """The row of a session. Raises NotFound."""
        self._expire()
        row = self.row(session_id)
        if row is None:
            raise NotFound(session_id)
        return row

    def living(self, session_id: str) -> Row:
        """The row of a session that has not ended. Raises NotFound."""
        row = self.get(session_id)
        if row.ended:
            raise NotFound(f"{session_id} has ended")
        return row

    def find(self, index: Index, key: str) -> list[str]:
        """Ids of the sessions whose rows hold `key`; at most `FIND_LIMIT` are looked at."""
        self._expire()
        wanted = (index, key)
        found = self._index.get(hash(wanted), ())
        ids = (found,) if isinstance(found, str) else tuple(islice(found, FIND_LIMIT))
        return sorted(each for each in ids if wanted in codec.keys(self._entries[each].row))

    def owned(self, node: str) -> list[str]:
        """Ids of the living sessions of `node`."""
        return [each for each, entry in self._entries.items() if entry.row.node == node and not entry.row.ended]

    # ---- writing

    def create(self, row: Row, keys: frozenset[IndexKey]) -> Change:
        """Take a new row, to be found under `keys`. Raises Conflict."""
        self._expire()
        if row.session_id in self._entries:
            raise Conflict(row.session_id)
        return self._keep(row, keys)

    def save(self, row: Row, keys: frozenset[IndexKey]) -> Change:
        """Take a newer row, to be found under `keys`. Raises NotFound, NotOwner, Conflict."""
        known = self.living(row.session_id)
        if row.fence < known.fence or (row.fence == known.fence and row.node != known.node):
            raise NotOwner(row.session_id)
        if row.rank < known.rank:
            raise Conflict(row.session_id)
        if row.fence == known.fence and row.boot != known.boot:
            row = replace(row, boot=known.boot)  # who adopted it wrote down which boot that was
        return self._keep(row, keys)

    def adopt(self, session_id: str, node: str, boot: str, *, expected_fence: int) -> Change:
        """Give a row to another owner. Raises NotFound, Conflict."""
        known = self.living(session_id)
        if known.fence != expected_fence:
            raise Conflict(session_id)
        return self._keep(replace(known, node=node, boot=boot, fence=expected_fence + 1))

    def tombstone(self, session_id: str, reason: Reason) -> Change | None:
        """Note the end of a session; None when there is nothing to note."""
        known = self.row(session_id)
        if known is None or known.ended:
            return None
        return self._keep(codec.bury(known, reason))

    def restore(self, rows: Iterable[Row]) -> int:
        """Take rows as they were kept elsewhere; returns how many of them are unreadable and left out."""
        unreadable = 0
        for row in rows:
            try:
                self._keep(row)
            except Unreadable:
                unreadable += 1
        return unreadable

    def take(self, row: Row) -> Change:
        """Keep a row as it is, whatever was known."""
        return self._keep(row)

    def drop(self, session_id: str) -> frozenset[IndexKey]:
        """Forget a row; returns the keys it was found under."""
        entry = self._entries.pop(session_id, None)
        if entry is None:
            return frozenset()
        self._forget(session_id, entry.filed())
        return codec.keys(entry.row)

    def _keep(self, row: Row, keys: frozenset[IndexKey] | None = None) -> Change:
        """`keys`: what is read from the row itself without them."""
        session_id = row.session_id
        known = self._entries.get(session_id)
        old = known.row if known is not None else None
        row = _sharing(row, old)
        gone: frozenset[IndexKey] = frozenset()
        filed = False
        if known is not None and _same_keys(row, known.row):
            known.row = row
        else:
            gone, filed = self._file(row, known, codec.keys(row) if keys is None else keys)
        if row.ended and not (old is not None and old.ended):
            self._tombstones.append((self._now() + TOMBSTONE_SECONDS, session_id))
            self._expire()
        return Change(row, _changed(row, old) | (Part.KEYS if filed else Part.NOTHING), gone)

    def _file(self, row: Row, known: _Entry | None, keys: frozenset[IndexKey]) -> tuple[frozenset[IndexKey], bool]:
        """Bring the index up to date for a row that replaces `known`: the keys that are gone, whether any changed."""
        hashes = _hashes(keys)
        if known is not None and known.filed() == hashes and bool(row.ended) == bool(known.row.ended):
            known.row = row
            return frozenset(), False
        gone: frozenset[IndexKey] = frozenset()
        if known is not None:
            gone = codec.keys(known.row) - keys
            self._forget(row.session_id, known.filed())
        for each in hashes:
            self._enter(each, row.session_id)
        self._entries[row.session_id] = _Entry(row, () if row.ended else hashes)
        return gone, True

    def _enter(self, key: int, session_id: str) -> None:
        """Nearly all keys have one session, which is held bare; the others have a dict, however many they are."""
        found = self._index.setdefault(key, session_id)
        if isinstance(found, dict):
            found[session_id] = None
        elif found != session_id:
            self._index[key] = {found: None, session_id: None}

    def _forget(self, session_id: str, hashes: Iterable[int]) -> None:
        for each in hashes:
            found = self._index.get(each)
            if isinstance(found, dict) and len(found) > 1:
                found.pop(session_id, None)
            else:
                self._index.pop(each, None)

    def _expire(self) -> None:
        while self._tombstones and (len(self._tombstones) > TOMBSTONE_LIMIT or self._tombstones[0][0] <= self._now()):
            session_id = self._tombstones.popleft()[1]
            row = self.row(session_id)
            if row is not None and row.ended:
                self.drop(session_id)
                self._expired(session_id)

    def __iter__(self) -> Iterator[Row]:
        return (each.row for each in list(self._entries.values()))


def _hashes(keys: Iterable[IndexKey]) -> tuple[int, ...]:
    return tuple(sorted(map(hash, keys)))


def _same_keys(row: Row, old: Row) -> bool:
    """Whether a glance tells that both are found under the same keys."""
    return row.core == old.core and row.node == old.node and row.ended == old.ended


def _sharing(row: Row, old: Row | None) -> Row:
    """`row`, with the large bodies of `old` where they are equal: one copy, and a cheap comparison."""
    if old is None or (row.sdp is old.sdp and row.xml is old.xml):
        return row
    return replace(row, sdp=old.sdp if row.sdp == old.sdp else row.sdp, xml=old.xml if row.xml == old.xml else row.xml)


def _changed(row: Row, old: Row | None) -> Part:
    if old is None:
        return Part.ALL | Part.STATE
    parts = Part.CORE
    if row.sdp is not old.sdp:
        parts |= Part.SDP
    if row.xml is not old.xml:
        parts |= Part.XML
    if row.state != old.state or row.fence != old.fence:
        parts |= Part.STATE
    return parts
