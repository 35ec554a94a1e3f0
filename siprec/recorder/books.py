"""Where a call is written down while it lives: recording.json and its part by the leg, its record by the store.

A disk or a store in trouble never ends a call: what could not be written is told, and written at the next occasion.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING

from siprec import clock
from siprec.archive.manifest import Manifest
from siprec.errors import NotOwner, StoreError
from siprec.recorder import describe
from siprec.recorder.items import Keep, Released
from siprec.session.transitions import State
from siprec.store.base import Reason, SessionRecord, SessionStore

if TYPE_CHECKING:
    from siprec.recorder.call import Call
    from siprec.recorder.leg import Leg

JOURNAL_SECONDS = 0.5
"""How long a 200 OK waits for the journal; then it goes out and the session is marked `unjournaled`."""

KEEP_SECONDS = 0.05
"""How long the store may not know that a 200 was sent, or got its ACK: the ACK mostly comes within, and both are kept
as one. Until then a successor takes the session for one whose 200 went out and lost its way.
"""


class Books:
    """The books of one call. `alone`: no other node would render what this one leaves unrendered."""

    __slots__ = ("_alone", "_buried", "_call", "_keeping", "_store", "_unsaved")

    def __init__(self, call: Call, store: SessionStore, *, alone: bool) -> None:
        self._call = call
        self._store = store
        self._alone = alone
        self._buried = False
        self._unsaved = False
        self._keeping: asyncio.TimerHandle | None = None

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
            after = State.RECORDING if self._call.active else State.PAUSED  # else all is written twice
            manifest.state = str(after)
            # The journal comes first: encoding is done before a files thread begins to want the interpreter too.
            await asyncio.gather(self._journal(self._create(after)), leg.begin(manifest, new=True))
        else:  # the journal must not know a leg whose papers cannot be written
            await leg.begin(manifest, new=False)
            await self._journal(self._save(self._call.record))

    async def announce(self, foreseen: SessionRecord, at_ns: int) -> None:
        """Have disk and journal know, before the 200 OK, what it will make of the streams from `at_ns` on: a successor
        takes up what the journal knows of, and what comes after a resume is heard only if part.json tells of that.
        """
        leg = self._call.leg
        if leg.opened and foreseen.call.channels != self._call.data.channels:
            part = leg.intake.foreseen(foreseen.call.channels, at_ns)
            await asyncio.gather(leg.write_ahead(part, JOURNAL_SECONDS), self._journal(self._save(foreseen)))

    async def _create(self, state: State) -> None:
        record = self._call.record
        stored = replace(record, call=replace(record.call, state=state))
        try:
            await self._store.create(stored)
        finally:  # what was made of them serves the next time
            record.metadata_at_rest, record.sdp_at_rest = stored.metadata_at_rest, stored.sdp_at_rest

    async def _save(self, record: SessionRecord) -> None:
        await self._store.save(record)
        await self._store.flush()

    async def _journal(self, storing: Coroutine[None, None, None]) -> None:
        """Have the session stored before the 200 OK goes out, as long as that does not take too long."""
        call = self._call
        call.data.saved_ns = clock.wall_ns()
        try:
            async with asyncio.timeout(JOURNAL_SECONDS):
                await storing
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

    def keep_soon(self) -> None:
        """Have the store know the newest state within `KEEP_SECONDS`, unless something else makes that needless."""
        if self._keeping is None:
            self._keeping = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._call.post, Keep())

    async def keep_now(self) -> None:
        """Do what `keep_soon` has promised."""
        if self._keeping is not None:
            await self.keep()

    async def keep(self) -> None:
        """Have the store know the newest state."""
        self.forget()
        if self._alone and self._call.data.state is State.ENDING:  # its folder tells a successor all it needs
            await self.bury()
            return
        self._call.data.saved_ns = clock.wall_ns()
        try:
            await self._store.save(self._call.record)
        except NotOwner:  # as above
            self._call.post(Released("another node"))
        except StoreError:  # a store that is down says so itself; the call goes on
            pass

    async def bury(self) -> None:
        """Have the store know that the session is over."""
        if not self._buried:
            self._buried = True
            with contextlib.suppress(StoreError):
                reason: Reason = "bye" if self._call.data.ended_by_src else "lost"
                await self._store.tombstone(self._call.data.session_id, reason, self._call.record)

    def forget(self) -> None:
        """Nothing is to be kept any more that is not kept yet."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None

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
