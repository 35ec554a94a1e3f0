"""Sessions in memory and in one SQLite file: they survive kill -9, a reboot and a power cut on one machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from siprec import clock
from siprec.store.base import Health, SessionRecord
from siprec.store.journal import Journal, JournalHealth
from siprec.store.memory import InMemorySessionStore
from siprec.store.table import Change, Part

JOURNAL = "journal.sqlite"


class SqliteSessionStore(InMemorySessionStore):
    """A `SessionStore` with a journal in `state_dir`. What it cannot write it keeps in memory, and says so in `health`.

    A session is kept on from the moment `create` is called; who waits for it waits for the disk, and gets
    StoreUnavailable when that fails.
    """

    def __init__(self, state_dir: Path, *, boot: str = "", now: Callable[[], float] = clock.monotonic) -> None:
        super().__init__(boot=boot, now=now)
        self._journal = Journal(state_dir / JOURNAL, self._table.row, self._table.ids, now=now)
        self._unreadable = self._table.restore(self._journal.start())

    @classmethod
    async def open(cls, state_dir: Path, *, boot: str = "") -> SqliteSessionStore:
        """Read the journal of `state_dir`, however damaged, in a thread."""
        return await asyncio.to_thread(cls, state_dir, boot=boot)

    async def create(self, record: SessionRecord) -> None:
        await super().create(record)
        await self.flush()

    async def flush(self) -> None:
        await asyncio.wrap_future(self._journal.barrier())

    def health(self) -> Health:
        return _health(self._journal.health(), self._unreadable)

    async def close(self) -> None:
        await asyncio.to_thread(self._journal.close)

    def _note(self, change: Change) -> None:
        super()._note(change)
        self._journal.mark(change.row.session_id, change.parts)

    def _dropped(self, session_id: str) -> None:
        super()._dropped(session_id)
        self._journal.mark(session_id, Part.ALL)


def _health(journal: JournalHealth, unreadable: int) -> Health:
    return Health(
        degraded=bool(journal.error),
        detail=journal.error or ("a damaged journal was put aside" if journal.damaged else ""),
        dirty=journal.dirty,
        oldest_dirty_seconds=journal.oldest_dirty_seconds,
        set_aside=unreadable + journal.damaged,
    )
