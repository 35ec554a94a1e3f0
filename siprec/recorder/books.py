"""Where a call is written down while it lives: recording.json and its part by the leg, its record by the store.

A disk or a store in trouble never ends a call: what could not be written is told, and written at the next occasion.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from siprec import clock
from siprec.archive.manifest import Manifest
from siprec.errors import NotOwner, StoreError
from siprec.recorder import describe
from siprec.recorder.items import Released
from siprec.session.transitions import State
from siprec.store.base import SessionStore

if TYPE_CHECKING:
    from siprec.recorder.call import Call
    from siprec.recorder.leg import Leg

JOURNAL_SECONDS = 0.5
"""How long a 200 OK waits for the journal; then it goes out and the session is marked `unjournaled`."""


class Books:
    """The books of one call."""

    def __init__(self, call: Call, store: SessionStore) -> None:
        self._call = call
        self._store = store
        self._unsaved = False

    def manifest(self) -> Manifest:
        """recording.json as it should be now."""
        leg = self._call.leg
        return describe.manifest(self._call.record, refused=leg.refused, sent=leg.sent)

    async def put_down(self, leg: Leg) -> None:
        """Have disk and journal know, before the 200 OK, what it will make of the session on `leg`. Raises OSError,
        NotOwner.
        """
        manifest = self.manifest()
        if self._call.data.state is State.OFFERED:
            manifest.state = str(State.RECORDING if self._call.active else State.PAUSED)  # else it is written twice
            await asyncio.gather(leg.save(manifest), self.journal())
        else:  # the journal must not know a leg whose papers cannot be written
            await leg.save(manifest)
            await self.journal()

    async def journal(self) -> None:
        """Have the session stored before the 200 OK goes out, as long as that does not take too long."""
        call, store = self._call, self._store
        try:
            async with asyncio.timeout(JOURNAL_SECONDS):
                if call.data.fence > 1:
                    await store.save(call.record)
                    await store.flush()
                else:
                    await store.create(call.record)
        except (TimeoutError, StoreError) as error:
            call.data.unjournaled = True
            call.log.warning("session is unjournaled", error=repr(error))
            call.leg.note("unjournaled", reason=repr(error))

    async def save(self) -> None:
        """Bring recording.json, part.json and the record in the store up to date."""
        call = self._call
        if call.leg.opened:  # one adopted without media has no part here, and the folder may be elsewhere
            try:
                await (call.leg.save if call.data.live else call.leg.save_at_last)(self.manifest())
            except NotOwner:  # another node carries it on, and we never heard of it
                call.post(Released("another node"))
                return
            except OSError as error:
                if not self._unsaved:
                    call.log.error("recording.json cannot be written", error=str(error), setting="RECORDING_DIR")
                self._unsaved = True
            else:
                self._unsaved = False
        await self.keep()

    async def note(self) -> None:
        """Write the events and bodies that wait; with a disk in trouble they wait longer."""
        with contextlib.suppress(OSError):
            await self._call.leg.write_papers()

    async def keep(self) -> None:
        """Have the store know the newest state."""
        self._call.data.saved_ns = clock.wall_ns()
        with contextlib.suppress(StoreError):  # a store that is down says so itself; the call goes on
            await self._store.save(self._call.record)

    async def catch_up(self) -> None:
        """Write what could not be written before."""
        if self._call.data.unjournaled and await self._journaled():
            self._call.data.unjournaled = False
            self._call.leg.note("journaled")
            self._call.log.info("session is journaled")
            self._unsaved = True
        if self._unsaved:
            await self.save()

    async def _journaled(self) -> bool:
        try:
            async with asyncio.timeout(JOURNAL_SECONDS):
                await self._store.flush()
        except (TimeoutError, StoreError):
            return False
        return True
