"""Sessions that move between nodes: brought here because their SRC came here, let go because it went elsewhere.

Two owners of a session cost duplicate packets, which rendering unites; a gap costs audio for ever. So a node that lets
a session go sends no more SIP for it and closes nothing, but captures under its old fence until all is quiet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from siprec import clock
from siprec.cluster.base import Cluster, Wish
from siprec.errors import SiprecError, StoreError
from siprec.log import Logger
from siprec.recorder.call import Call
from siprec.recorder.facilities import Facilities
from siprec.recorder.finish import finish
from siprec.recorder.items import HungUp, Released
from siprec.session.admission import RecordingSource
from siprec.session.recovery import PARALLEL_SECONDS, YOUNG_SECONDS
from siprec.store.base import SessionRecord

ASK_SECONDS = 0.3
"""How long the owner of a session has to answer; an SRC waits for its 200 meanwhile."""


class Neighbours:
    """`calls` are the live ones here; `start` takes up an adopted one."""

    def __init__(
        self, facilities: Facilities, *, calls: Mapping[str, Call], start: Callable[[Call], None], log: Logger
    ) -> None:
        self._use = facilities
        self._calls = calls
        self._start = start
        self._log = log
        self._adopting: dict[str, asyncio.Future[Call | None]] = {}
        self._lost_early: set[str] | None = set()

    @property
    def _cluster(self) -> Cluster:
        return self._use.cluster

    async def adopt(self, record: SessionRecord, source: RecordingSource, *, insist: bool) -> Call | None:
        """Bring a session here, without media until an INVITE brings some; None when it is not to be had.

        `insist`: the SRC named this very session, so that a living owner's wish to keep it does not count.
        """
        session_id = record.call.session_id
        while (under_way := self._adopting.get(session_id)) is not None:  # for another request of the same SRC
            if (call := await asyncio.shield(under_way)) is not None or not insist:
                return call
        self._adopting[session_id] = under_way = asyncio.ensure_future(self._bring(record, source, insist=insist))
        under_way.add_done_callback(lambda _: self._adopting.pop(session_id))
        return await asyncio.shield(under_way)

    async def _bring(self, record: SessionRecord, source: RecordingSource, *, insist: bool) -> Call | None:
        if (known := self._calls.get(record.call.session_id)) is not None:
            return known
        session_id, store, from_node = record.call.session_id, self._use.store, record.call.node
        try:
            if record.call.node != self._use.policy.node and not await self._released(session_id) and not insist:
                return None
            record = await store.load(session_id)
            record = await store.adopt(session_id, self._use.policy.node, self._use.boot, record.call.fence)
        except StoreError as error:
            self._log.warning("session not adopted", session=session_id, error=repr(error))
            return self._calls.get(session_id)
        call = Call(self._use, record, source, record.call.source)
        call.adopt(from_node)
        self._start(call)
        return call

    async def _released(self, session_id: str) -> bool:
        """Whether its owner lets the session go, or does not answer in time: then nobody is there to keep it."""
        try:
            return await asyncio.wait_for(self._cluster.ask_release(session_id), ASK_SECONDS)
        except (StoreError, TimeoutError):
            return True

    async def release(self, session_id: str, to_node: str, wish: Wish) -> bool:
        """Another node wants a session of ours; False when its streams live and nobody but they should end it, or
        when it is to be ended, or there, and is not.
        """
        call = self._calls.get(session_id)
        if wish != "release":
            if call is not None and wish == "end":
                call.post(HungUp(to_node))
            return call is not None
        if call is None:
            return True
        now = clock.monotonic()
        if call.active and (call.young(now, YOUNG_SECONDS) or not call.quiet(now - PARALLEL_SECONDS)):
            return False
        call.post(Released(to_node))
        return True

    def lost(self, session_id: str) -> None:
        """Another node has taken a session of ours over."""
        call = self._calls.get(session_id)
        if call is not None:
            call.post(Released("another node"))
        elif self._lost_early is not None:
            self._lost_early.add(session_id)

    def restored(self, session_ids: Iterable[str]) -> None:
        """All sessions that were ours are here again. A store may have told before who has them by now."""
        lost, self._lost_early = self._lost_early or set(), None
        for session_id in lost.intersection(session_ids):
            self.lost(session_id)

    async def finish_orphans(self) -> None:
        """Render what dead nodes left, if their folders can be seen here and no other node was first."""
        policy = self._use.policy
        for orphan in await self._cluster.orphans(policy.session_timeout):
            store = self._use.store
            try:
                record = await store.load(orphan.session_id)
                if not (folder := policy.folder(orphan.session_id)).is_dir():
                    continue
                await store.adopt(orphan.session_id, policy.node, self._use.boot, record.call.fence)
                done = await self._use.pool.run(finish, folder, policy.finish)
                await store.tombstone(orphan.session_id, "lost")
            except (SiprecError, OSError) as error:
                self._log.warning("orphan not finished", session=orphan.session_id, error=repr(error))
            else:
                self._log.info("orphan finished", session=orphan.session_id, node=orphan.node, verdict=done.verdict)
