"""Which session an INVITE carries on, if any: looked for here, then in the store.

The checks for Replaces come in the order of RFC 3891 section 3: 400, 481, 603, 403, 486; the media (488) is the call's
own. Any error leaves the named dialog as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from siprec import clock
from siprec.cluster.base import Wish
from siprec.errors import NotFound, StoreError, StoreUnavailable
from siprec.metadata import extensions
from siprec.metadata.model import Recording
from siprec.recorder.call import Call
from siprec.recorder.ended import Ended, EndedDialogs
from siprec.recorder.facilities import Facilities
from siprec.session import bodies, headers
from siprec.session.admission import RecordingSource
from siprec.session.recovery import PARALLEL_SECONDS, YOUNG_SECONDS, Replaces, correlating, cs_ids, external_ids
from siprec.session.transitions import State
from siprec.sip.dialog import DialogKey
from siprec.sip.message import Request
from siprec.store.base import Index, SessionRecord, dialog_key, external_key

STORE_SECONDS = 0.3
"""How long an answer may wait for the store; a timeout is the store's failure, never "no such session"."""

LOOKUPS_LIMIT = 16
"""Ids of an INVITE that are looked up: one session and a few external ids are usual."""

CANDIDATES_LIMIT = 16
"""Sessions under one id that are looked at; two recordings of a call, and their earlier tries, are usual."""


@dataclass(frozen=True, slots=True)
class Found:
    """The session that an INVITE names; `from_node` had it until now."""

    call: Call
    from_node: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it cannot be carried on, as a status."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Anew:
    """A recording of its own; `continues` the one that we had given up, `replica_of` one that still lives."""

    continues: str | None = None
    replica_of: str | None = None


class Adopter(Protocol):
    """Brings a session of another process or node here."""

    async def __call__(self, record: SessionRecord, source: RecordingSource, *, insist: bool) -> Call | None: ...


class Recovery:
    """`calls` are the live ones by session id, `by_dialog` by dialog; `adopt` brings in one from elsewhere."""

    def __init__(
        self,
        facilities: Facilities,
        *,
        calls: Mapping[str, Call],
        by_dialog: Mapping[DialogKey, Call],
        adopt: Adopter,
        accept_unknown: bool,
    ) -> None:
        self._use = facilities
        self._calls = calls
        self._by_dialog = by_dialog
        self._adopt = adopt
        self._accept_unknown = accept_unknown
        self._ended = EndedDialogs()

    def bury(self, call: Call) -> None:
        """Remember how a session ended, so that Replaces naming it is answered rightly."""
        data = call.data
        ended = Ended.of(data.session_id, data.identity, by_src=data.ended_by_src)
        for each in call.record.dialogs:
            self._ended.add(each.dialog.key, ended, clock.monotonic())

    async def replaced(self, replaces: Replaces, source: RecordingSource) -> Found | Refused | Anew:
        """What Replaces comes to: the session to carry on, an error, or a new recording."""
        call = self._by_dialog.get(replaces.key)
        if call is not None:
            return await self._judge(call.record, replaces, source)
        ended = self._ended.get(replaces.key, clock.monotonic())
        if ended is not None:
            return self._buried(ended, source)
        try:
            record = await self._stored("dialog", dialog_key(*replaces.key))
        except (StoreError, TimeoutError):
            if self._accept_unknown:
                return Anew()
            return Refused(500, "the store cannot be asked for the dialog")
        if record is None:
            return Refused(481, "no such dialog")
        return await self._judge(record, replaces, source)

    async def _judge(
        self, record: SessionRecord, replaces: Replaces, source: RecordingSource
    ) -> Found | Refused | Anew:
        call = record.call
        dialog = next((each.dialog for each in record.dialogs if each.dialog.key == replaces.key), None)
        if dialog is None or dialog.state == "early":
            return Refused(481, "the dialog is early, and not one that we began")
        if record.ended is not None or not call.live:
            by_src = call.ended_by_src if record.ended is None else record.ended == "bye"
            return self._buried(Ended.of(call.session_id, call.identity, by_src=by_src), source)
        if call.identity != source.name:
            return Refused(403, "the dialog belongs to another identity")
        if replaces.early_only:
            return Refused(486, "early-only, but the dialog is confirmed")
        from_node = call.node
        known = self._calls.get(call.session_id) or await self._adopt(record, source, insist=True)
        return Refused(481, "the dialog's session is not to be had") if known is None else Found(known, from_node)

    def _buried(self, ended: Ended, source: RecordingSource) -> Refused | Anew:
        if ended.by_src:
            return Refused(603, "the dialog was ended by BYE")
        if not ended.belonged_to(source.name):
            return Refused(403, "the dialog belonged to another identity")
        # 603 would stop a proxy from trying others; it was us who gave the session up.
        return Anew(continues=ended.session_id)

    async def correlated(self, request: Request, body: bodies.Bodies, source: RecordingSource) -> Found | Anew:
        """The one session of the same SRC that has the same call in its metadata or headers, and lost its SRC."""
        documents = [each for each in body.documents if isinstance(each, Recording)]
        wanted = cs_ids(documents)
        named = headers.external_ids(request)
        for document in documents:
            named |= extensions.external_ids(document)
        others = correlating(named)
        candidates: dict[str, SessionRecord] = {}
        lookups: list[tuple[Index, str]] = [("cs_id", each) for each in sorted(wanted)]
        lookups += [("external", external_key(name, value)) for name, value in sorted(others)]
        try:
            for index, key in lookups[:LOOKUPS_LIMIT]:
                for record in await self._all_stored(index, key):
                    if self._may_go_on(record, source) and _is_same_call(record, wanted, others):
                        candidates[record.call.session_id] = record
        except (StoreError, TimeoutError):
            return Anew()
        living = [each for each in candidates.values() if each.ended is None and each.call.live]
        found = living or list(candidates.values())  # one that was given up may have been carried on
        return await self._continue(found[0], source) if len(found) == 1 else Anew()

    @staticmethod
    def _may_go_on(record: SessionRecord, source: RecordingSource) -> bool:
        ended = record.ended == "bye" or (record.call.ended_by_src and not record.call.live)
        return record.call.identity == source.name and not ended

    async def _continue(self, record: SessionRecord, source: RecordingSource) -> Found | Anew:
        session_id = record.call.session_id
        if record.ended is not None:
            return Anew(continues=session_id)
        from_node, call = record.call.node, self._calls.get(session_id)
        if call is None:
            call = await self._adopt(record, source, insist=False) if record.call.live else None
            return Found(call, from_node) if call is not None else Anew(replica_of=session_id)
        if call.data.state is State.OFFERED:
            return Anew(replica_of=session_id)
        if not call.data.live:
            return Anew(continues=session_id)
        now = clock.monotonic()
        alive = not call.quiet(now - PARALLEL_SECONDS) or call.young(now, YOUNG_SECONDS) or not call.active
        return Anew(replica_of=session_id) if alive else Found(call, from_node)

    async def at_owner(self, key: DialogKey, source: RecordingSource, wish: Wish) -> bool:
        """Whether the living owner of a dialog, another node, has done what a request that came here wants of it.

        Raises StoreError, TimeoutError while the store cannot be asked.
        """
        record = await self._stored("dialog", dialog_key(*key))
        if record is None or record.ended is not None or record.call.identity != source.name:
            return False
        return record.call.node != self._use.policy.node and await self._use.cluster.tell(record.call.session_id, wish)

    async def of_dialog(self, key: DialogKey, source: RecordingSource, *, wanted: bool) -> Call | None:
        """The session whose dialog a request names that is unknown here; brought here if it is to be had.

        `wanted`: also if its owner lives, for the request brings its media here. Raises StoreError, TimeoutError while
        the store cannot be asked, or the session is not to be had.
        """
        record = await self._stored("dialog", dialog_key(*key))
        if record is None or record.ended is not None or record.call.identity != source.name:
            return None
        known = self._calls.get(record.call.session_id) or await self._adopt(record, source, insist=wanted)
        if known is None:
            raise StoreUnavailable("its owner keeps the session, or it cannot be had now")
        return known

    async def _stored(self, index: Index, key: str) -> SessionRecord | None:
        """The only session known under `key`; None when it is not exactly one. Raises StoreError, TimeoutError."""
        found = await self._all_stored(index, key)
        return found[0] if len(found) == 1 else None

    async def _all_stored(self, index: Index, key: str) -> list[SessionRecord]:
        """The sessions known under `key`, live ones as they are now. Raises StoreError, TimeoutError."""
        records = []
        async with asyncio.timeout(STORE_SECONDS):
            for session_id in (await self._use.store.find(index, key))[:CANDIDATES_LIMIT]:
                call = self._calls.get(session_id)
                with contextlib.suppress(NotFound):
                    records.append(call.record if call is not None else await self._use.store.load(session_id))
        return records


def _is_same_call(record: SessionRecord, wanted: set[str], others: set[tuple[str, str]]) -> bool:
    """Whether a session that an index named has one of the ids: an index is a hint. One that has ended has no
    metadata any more; its index was made from it.
    """
    if record.ended is not None:
        return True
    return bool(wanted & cs_ids(record.metadata) or others & external_ids(record.call, record.metadata))
