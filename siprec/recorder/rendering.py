"""Recordings that wait to be rendered, and those that are.

After a burst of calls, or while live ones take the processor, thousands wait. So nothing is held of them but whose they
are: no task, no dialog, no metadata. All else is in their folders, where the next start finds what still waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any

from siprec import clock, log
from siprec.errors import RenderError, StoreError
from siprec.recorder.facilities import Facilities
from siprec.recorder.finish import finish, mark_failed
from siprec.session.model import CallData
from siprec.session.transitions import Event
from siprec.store.base import Reason, SessionRecord


class Renderings:
    """Rendered in the order of their end, as many at once as there are renderers.

    `calls`: those that wait or are under way, by session id.
    """

    def __init__(self, facilities: Facilities) -> None:
        self._use = facilities
        self._alone = facilities.cluster.alone
        self._waiting: deque[CallData] = deque()
        self._untold: dict[str, SessionRecord] = {}  # what the store is yet to be told of, with all that finds it
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.calls: dict[str, CallData] = {}

    def add(self, record: SessionRecord) -> None:
        """Have a session that is closed rendered; its folder tells all that is needed for it."""
        call = record.call
        if self._alone:  # the store knows
            call.local_sdp, call.external_ids, call.channels, call.history = "", {}, [], []
        else:
            self._untold[call.session_id] = record
        self.calls[call.session_id] = call
        self._waiting.append(call)
        if len(self._tasks) < self._use.pool.most and not self._stopped:
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self, timeout: float) -> None:
        """Wait until all are rendered, for at most `timeout` seconds, and leave the others where they are."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        await self.stop()

    async def stop(self) -> None:
        """Leave all where they are, and what is added from now on."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def left(self) -> list[CallData]:
        """The sessions that are not rendered."""
        return list(self.calls.values())

    async def _work(self) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            logger = log.get(session=call.session_id, call_id=call.call_id)
            try:
                await self._render(call, logger)
            except Exception as error:  # a defect of ours ends this one; the others have their turn
                logger.error("call failed", error=repr(error), exc_info=True)
            del self.calls[call.session_id]
            self._untold.pop(call.session_id, None)

    async def _render(self, call: CallData, logger: log.Logger) -> None:
        policy = self._use.policy
        folder = policy.folder(call.session_id)
        logger.debug("rendering")
        try:
            found = await self._use.pool.run(finish, folder, policy.finish)
        except (RenderError, OSError) as error:
            logger.error("recording could not be rendered, its capture is kept", error=str(error))
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._use.files, mark_failed, folder, str(error))
            except OSError as refused:  # unfinished as it is, it is a leftover for the next start
                logger.error("RECORDING_DIR takes nothing for now, failure not noted", error=str(refused))
            event = Event.RENDER_FAILED
        else:
            details: dict[str, Any] = {"verdict": found.verdict, "reason": found.reason, "file": str(found.audio)}
            logger.info("recording ready", seconds=round(found.duration, 2), **details)
            event = Event.RENDERED
        call.fire(event, at_ns=clock.wall_ns(), monotonic=clock.monotonic())
        record = self._untold.get(call.session_id)
        if record is not None:
            reason: Reason = "bye" if call.ended_by_src else "lost"
            with contextlib.suppress(StoreError):
                await self._use.store.tombstone(call.session_id, reason, record)
        self._use.observers.emit("session", record or SessionRecord(call))
