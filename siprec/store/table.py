"""Rows in memory, and the rules of who may write them: what all stores that keep anything are built on.

Keys are held as hashes, 30 bytes instead of 100 for each: what is found by one is verified against its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Flag
from itertools import chain, islice

from siprec.errors import Conflict, NotFound, NotOwner
from siprec.store import codec
from siprec.store.base import FIND_LIMIT, TOMBSTONE_LIMIT, TOMBSTONE_SECONDS, Index, IndexKey, Reason, SessionRecord
from siprec.store.codec import Row, Unreadable
from siprec.store.graves import Graves


class Part(Flag):
    """What of a row is to be written somewhere."""

    CORE = 1  # head and core
    SDP = 2
    XML = 4
    KEYS = 8  # what it is found under
    STATE = 16  # the state changed: worth an event
    ALL = 15


@dataclass(frozen=True, slots=True)
class Change:
    """What a step did to a row: its parts that changed, and the keys it is not found under any more, which only some
    want to know.
    """

    row: Row
    parts: Part
    gone: Callable[[], frozenset[IndexKey]] = frozenset


@dataclass(slots=True)
class _Entry:
    row: Row
    hashes: tuple[int, ...]


class Table:
    """The rows of this process. `now` gives monotonic seconds, for the age of tombstones.

    `expired` is called with the id of each tombstone that has had its time.
    """

    def __init__(self, now: Callable[[], float], expired: Callable[[str], None]) -> None:
        self._now = now
        self._expired = expired
        self._entries: dict[str, _Entry] = {}
        self._index: dict[int, str | dict[str, None]] = {}
        self._graves = Graves()

    def __len__(self) -> int:
        return len(self._entries) + len(self._graves)

    def __contains__(self, session_id: str) -> bool:
        return self.row(session_id) is not None

    # ---- reading

    def row(self, session_id: str) -> Row | None:
        """The row of a session; safe to be called by any thread."""
        entry = self._entries.get(session_id)
        return entry.row if entry is not None else self._graves.get(session_id)

    def ids(self) -> list[str]:
        """All ids; safe to be called by any thread."""
        return [*list(self._entries), *(each.session_id for each in self._graves.rows())]

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
        living = (self._entries[each].row for each in ((found,) if isinstance(found, str) else found))
        rows = islice(chain(living, self._graves.find(hash(wanted))), FIND_LIMIT)
        return sorted(each.session_id for each in rows if wanted in codec.keys(each))

    def owned(self, node: str) -> list[str]:
        """Ids of the living sessions of `node`."""
        return [each for each, entry in self._entries.items() if entry.row.node == node]

    def strays(self, node: str) -> dict[str, str]:
        """The living sessions of all others than `node`, with their node."""
        return {each: entry.row.node for each, entry in self._entries.items() if entry.row.node != node}

    # ---- writing

    def create(self, row: Row, keys: frozenset[IndexKey]) -> Change:
        """Take a new row, to be found under `keys`. Raises Conflict."""
        self._expire()
        if row.session_id in self:
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

    def adopt(self, session_id: str, node: str, boot: str, *, expected_fence: int | None) -> Change:
        """Give a row to another owner. Raises NotFound, Conflict."""
        known = self.living(session_id)
        if expected_fence not in {None, known.fence}:
            raise Conflict(session_id)
        return self._keep(replace(known, node=node, boot=boot, fence=known.fence + 1))

    def tombstone(self, session_id: str, reason: Reason, newest: SessionRecord | None = None) -> Change | None:
        """Note the end of a session, whose last state is `newest` where known; None when there is nothing to note."""
        known = self.row(session_id)
        if known is None or known.ended:
            return None
        if newest is None or newest.call.fence < known.fence:
            return self._keep(codec.bury(known, reason))
        keys = frozenset(each for each in codec.keys_of(newest) if each[0] != "media")
        return self._keep(codec.bury(known, reason, newest), keys)

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
        row = self.row(session_id)
        if row is None:
            return frozenset()
        self._unfile(session_id)
        self._graves.drop(session_id)
        return codec.keys(row)

    def _keep(self, row: Row, keys: frozenset[IndexKey] | None = None) -> Change:
        """`keys`: what is read from the row itself without them."""
        known = self._entries.get(row.session_id)
        old = known.row if known is not None else self._graves.get(row.session_id)
        row = _sharing(row, old)
        if known is not None and _same_keys(row, known.row):
            known.row = row
            return Change(row, _changed(row, old))
        return self._file(row, old, codec.keys(row) if keys is None else keys)

    def _file(self, row: Row, old: Row | None, keys: frozenset[IndexKey]) -> Change:
        """Keep a row that replaces `old`, and bring the index up to date."""
        known, hashes = self._entries.get(row.session_id), tuple(sorted(map(hash, keys)))
        if known is not None and known.hashes == hashes and not row.ended:
            known.row = row
            return Change(row, _changed(row, old))
        # A thread that asks meanwhile always finds a row: entries are looked at first.
        if row.ended:
            self._graves.add(row, hashes, self._now() + TOMBSTONE_SECONDS)
            self._unfile(row.session_id)
            self._expire()
        else:
            if known is not None:
                self._forget(row.session_id, known.hashes)
            self._entries[row.session_id] = _Entry(row, hashes)
            self._graves.drop(row.session_id)
            for each in hashes:
                self._enter(each, row.session_id)
        parts = _changed(row, old) | Part.KEYS
        return Change(row, parts) if old is None else Change(row, parts, lambda: codec.keys(old) - keys)

    def _unfile(self, session_id: str) -> None:
        entry = self._entries.pop(session_id, None)
        if entry is not None:
            self._forget(session_id, entry.hashes)

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
        for each in self._graves.expire(self._now(), TOMBSTONE_LIMIT):
            self._expired(each)

    def __iter__(self) -> Iterator[Row]:
        return iter([*(each.row for each in self._entries.values()), *self._graves.rows()])


def _same_keys(row: Row, old: Row) -> bool:
    """Whether a glance tells that both are found under the same keys."""
    return row.core == old.core and row.node == old.node and row.ended == old.ended


def _sharing(row: Row, old: Row | None) -> Row:
    """`row`, with the large bodies of `old` where they are equal: one copy, and a cheap comparison."""
    if old is None or row.ended or (row.sdp is old.sdp and row.xml is old.xml):  # one that has ended has none
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
