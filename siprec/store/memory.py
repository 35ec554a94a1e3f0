"""Sessions in this process's memory: they survive a lost network or an SRC's restart, not ours."""

from __future__ import annotations

from collections.abc import Callable

from siprec import clock
from siprec.store import codec
from siprec.store.base import Health, Index, Reason, SessionRecord
from siprec.store.table import Change, Table


class InMemorySessionStore:
    """A `SessionStore` whose rows are its memory. Stores that keep more hear of every change by `_note`.

    `boot` is the boot id under which this process owns what it creates.
    """

    def __init__(self, *, boot: str = "", now: Callable[[], float] = clock.monotonic) -> None:
        self._boot = boot
        self._now = now
        self._table = Table(now, self._dropped)

    async def create(self, record: SessionRecord) -> None:
        self._note(self._table.create(codec.encode(record, self._boot), codec.keys_of(record)))

    async def load(self, session_id: str) -> SessionRecord:
        return codec.decode(self._table.get(session_id))

    async def save(self, record: SessionRecord) -> None:
        self._note(self._table.save(codec.encode(record, self._boot), codec.keys_of(record)))

    async def find(self, index: Index, key: str) -> list[str]:
        return self._table.find(index, key)

    async def owned(self, node: str) -> list[str]:
        return self._table.owned(node)

    async def strays(self, node: str) -> dict[str, str]:
        return self._table.strays(node)

    async def adopt(self, session_id: str, node: str, boot: str, expected_fence: int | None) -> SessionRecord:
        change = self._table.adopt(session_id, node, boot, expected_fence=expected_fence)
        self._note(change)
        return codec.decode(change.row)

    async def tombstone(self, session_id: str, reason: Reason = "bye", newest: SessionRecord | None = None) -> None:
        change = self._table.tombstone(session_id, reason, newest)
        if change is not None:
            self._note(change)

    async def flush(self) -> None:
        """Nothing is more durable than memory here."""

    async def publish(self) -> None:
        """There are no other nodes."""

    def health(self) -> Health:
        return Health()

    async def close(self) -> None:
        """Nothing is left to save."""

    def _note(self, change: Change) -> None:
        """Called after each change of a row."""

    def _dropped(self, session_id: str) -> None:
        """Called when a tombstone has had its time."""
