"""Sessions in this process's memory: they survive a lost network or an SRC's restart, not ours."""

from __future__ import annotations

from collections import defaultdict

from siprec.errors import Conflict, NotFound, NotOwner
from siprec.store.base import Index, SessionRecord


def keys_of(record: SessionRecord) -> set[tuple[Index, str]]:
    """The index entries under which a session can be found."""
    keys: set[tuple[Index, str]] = {("call_id", each.dialog.call_id) for each in record.dialogs}
    keys |= {("dialog", " ".join(each.dialog.key)) for each in record.dialogs}
    keys |= {("media", f"{record.call.node}:{each.port}") for each in record.call.channels if each.open}
    return keys | {("cs_id", session_id) for session_id in record.metadata.sessions if session_id}


class InMemorySessionStore:
    """A `SessionStore` that keeps the live objects themselves."""

    def __init__(self) -> None:
        self._records: dict[str, SessionRecord] = {}
        self._fences: dict[str, int] = {}
        self._index: defaultdict[tuple[Index, str], set[str]] = defaultdict(set)
        self._keys: dict[str, set[tuple[Index, str]]] = {}

    async def create(self, record: SessionRecord) -> None:
        if record.call.session_id in self._records:
            raise Conflict(record.call.session_id)
        self._keep(record)

    async def load(self, session_id: str) -> SessionRecord:
        try:
            return self._records[session_id]
        except KeyError:
            raise NotFound(session_id) from None

    async def save(self, record: SessionRecord) -> None:
        session_id = record.call.session_id
        if session_id not in self._records:
            raise NotFound(session_id)
        if record.call.fence < self._fences[session_id]:
            raise NotOwner(session_id)
        self._keep(record)

    async def find(self, index: Index, key: str) -> list[str]:
        return sorted(self._index.get((index, key), ()))

    async def owned(self, node: str) -> list[str]:
        return [session_id for session_id, record in self._records.items() if record.call.node == node]

    async def adopt(self, session_id: str, node: str, expected_fence: int) -> SessionRecord:
        record = await self.load(session_id)
        if self._fences[session_id] != expected_fence:
            raise NotOwner(session_id)
        record.call.fence = self._fences[session_id] = expected_fence + 1
        record.call.node = node
        return record

    async def tombstone(self, session_id: str) -> None:
        if self._records.pop(session_id, None) is not None:
            self._forget_keys(session_id)
            del self._fences[session_id]

    def _keep(self, record: SessionRecord) -> None:
        session_id = record.call.session_id
        self._records[session_id] = record
        self._fences[session_id] = record.call.fence
        self._forget_keys(session_id)
        self._keys[session_id] = keys_of(record)
        for key in self._keys[session_id]:
            self._index[key].add(session_id)

    def _forget_keys(self, session_id: str) -> None:
        for key in self._keys.pop(session_id, ()):
            self._index[key].discard(session_id)
            if not self._index[key]:
                del self._index[key]
