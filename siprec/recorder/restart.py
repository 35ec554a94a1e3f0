"""A start: the sessions that an earlier process of this node left go on, their packets before anything else.

In this order, each step for all sessions before the next: their sockets are taken from the keeper, or bound again, and
the kernel holds what comes from then on; their captures begin, some tens at a time in the files threads; SIP may begin.
What tells of the restart (recording.json, the journal) comes last, a few sessions at a time: calls are answered
meanwhile, and a session that has something to do is not made to wait for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from siprec import clock
from siprec.errors import ConfigurationError, NotFound, StoreError, is_disk_trouble
from siprec.log import Logger
from siprec.media.part import Cause
from siprec.media.ports import PortPair
from siprec.recorder.call import Call
from siprec.recorder.facilities import Facilities
from siprec.recorder.items import Restored
from siprec.recorder.negotiation import shown
from siprec.session.admission import RecordingSource
from siprec.session.model import CallData
from siprec.session.transitions import State
from siprec.store.base import Reason

BREATH = 20
"""Sessions looked at between two turns of the event loop: some milliseconds."""

CAPTURES_AT_ONCE = 50
"""Captures begun by one job of a files thread. One job at a time: two would only wait for each other's Python."""

DISK_PATIENCE = 60.0
"""How long sessions wait for a disk that cannot take their captures: some seconds of packets wait in the sockets, and
what comes after those is worth having too."""

RETRY_SECONDS = 0.25
"""Between two tries, as in `media.writer`."""

TOLD_AT_ONCE = 4
"""Restored sessions that are written about at the same time: as many as there are files threads."""


@dataclass(frozen=True, slots=True)
class Held:
    """A session that comes back, and its sockets by channel index; `lasting`: all of them outlived the old process."""

    call: Call
    pairs: dict[int, PortPair]
    lasting: bool


class Restart:
    """`source_of` names the SRC of a stored session, None when SIP_ALLOW lists it no more; `start` takes a call up.

    `await_disk` is told of a call that cannot be captured yet (True), and when that is over (False): requests in its
    dialogs wait meanwhile.
    """

    def __init__(
        self,
        facilities: Facilities,
        *,
        source_of: Callable[[CallData], RecordingSource | None],
        start: Callable[[Call], None],
        await_disk: Callable[[Call, bool], None],
        log: Logger,
    ) -> None:
        self._use = facilities
        self._source_of = source_of
        self._start = start
        self._await_disk = await_disk
        self._log = log
        self._back: list[Call] = []
        self._elsewhere: list[str] = []
        self.waiting: dict[str, Held] = {}
        """For the disk, by session id."""

    async def run(self) -> None:
        """Take up all sessions that the store holds for this node; they are captured on return.

        One that cannot be taken up is given up: its folder is then salvaged like any other leftover.
        """
        owned = await self._use.store.owned(self._use.policy.node)
        await self._take_up([*owned, *await self._renamed()])

    async def _renamed(self) -> list[str]:
        """The sessions of an earlier life under another name, as far as they may be taken up. With other nodes, one of
        them may bear that name now: then they are left alone, and to whichever node finishes what has no owner.
        """
        now, alone = self._use.policy.node, self._use.cluster.alone
        strays = await self._use.store.strays(now)
        for former, sessions in Counter(strays.values()).items():
            effect = "they are carried on" if alone else f"they are not carried on, unless NODE_ID is {former} again"
            hint = f"STATE_DIR holds {sessions} sessions of node {former}; NODE_ID is now {now}"
            self._log.warning("node renamed", hint=hint, effect=effect)
        return list(strays) if alone else []

    async def run_shared(self) -> None:
        """Take up the sessions of this node that `run` found in the store of all nodes but not in this one's own:
        STATE_DIR was lost. To be called once other nodes know us.
        """
        lost, self._elsewhere = self._elsewhere, []
        if not lost:
            return
        named = self._use.cluster.named
        effect = "they are carried on" if named else "each waits until its SRC comes"
        self._log.warning(
            "sessions of this node are in Redis alone", sessions=len(lost), setting="STATE_DIR", effect=effect
        )
        if named:
            await self._take_up(lost, shared=True)

    async def _take_up(self, session_ids: Sequence[str], *, shared: bool = False) -> None:
        began, held = clock.monotonic(), []
        for number, session_id in enumerate(session_ids, 1):
            if (each := await self._hold(session_id, shared=shared)) is not None:
                held.append(each)
            if number % BREATH == 0:
                await asyncio.sleep(0)
        sockets_at = clock.monotonic()
        held.sort(key=lambda each: not each.pairs)  # where all streams are closed, no packet waits
        batches = [held[at : at + CAPTURES_AT_ONCE] for at in range(0, len(held), CAPTURES_AT_ONCE)]
        in_files = asyncio.get_running_loop().run_in_executor
        for batch in batches:
            for each, error in await in_files(self._use.files, self._capture, batch):
                if is_disk_trouble(error):
                    self._await_disk(each.call, True)
                    self.waiting[each.call.data.session_id] = each
                else:
                    await self._begin(each, error)
        if self._back:
            seconds = {"sockets_s": sockets_at - began, "captured_s": clock.monotonic() - began}
            rounded = {name: round(each, 3) for name, each in seconds.items()}
            self._log.info("sessions captured again", sessions=len(self._back), **rounded)

    async def tell(self) -> None:
        """Write about those that came back, and go on with those that wait for the disk."""
        await self._tell_all()
        if self.waiting:
            self._log.error("captures wait for the disk", sessions=len(self.waiting), setting="RECORDING_DIR")
        limit = clock.monotonic() + DISK_PATIENCE
        while self.waiting:
            await asyncio.sleep(RETRY_SECONDS)
            in_files = asyncio.get_running_loop().run_in_executor
            for each, error in await in_files(self._use.files, self._capture, list(self.waiting.values())):
                if not is_disk_trouble(error) or clock.monotonic() > limit:
                    self._await_disk(each.call, False)
                    await self._begin(each, error)
                    del self.waiting[each.call.data.session_id]
            await self._tell_all()

    async def _tell_all(self) -> None:
        calls, self._back = iter(self._back), []
        await asyncio.gather(*(self._tell(calls) for _ in range(TOLD_AT_ONCE)))

    # ------------------------------------------------------------------ private

    async def _hold(self, session_id: str, *, shared: bool) -> Held | None:
        """Own a session again, stand for its dialogs, hold its sockets; None when it is over or cannot go on."""
        pairs: dict[int, PortPair] = {}
        store, policy = self._use.store, self._use.policy
        try:
            fence = (await store.load(session_id)).call.fence if shared else None
            record = await store.adopt(session_id, policy.node, self._use.boot, fence)
            data = record.call
            if not (data.live or data.state is State.OFFERED):
                await self._tombstone(session_id, "bye" if data.ended_by_src else "lost")
                return None
            source = self._source_of(data)
            if source is None:
                raise ConfigurationError([f"SIP_ALLOW: {data.identity} is not listed any more"])
            call = Call(self._use, record, source, data.source)
            lasting = []
            for channel in data.channels:
                if channel.open:
                    pairs[channel.index], lasted = self._use.ports.restore(channel.address, channel.port)
                    lasting.append(lasted)
                    channel.address = shown(pairs[channel.index], channel.address, policy.external)
            call.adopt()
            return Held(call, pairs, bool(lasting) and all(lasting))
        except NotFound:
            self._elsewhere.append(session_id)
            return None
        except StoreError as error:
            self._log.warning("session waits until its SRC comes", session=session_id, error=repr(error))
            return None
        except Exception as error:  # noqa: BLE001  whatever a record holds, the other sessions go on
            self._release(pairs)
            await self._give_up(session_id, error)
            return None

    def _capture(self, batch: Sequence[Held]) -> list[tuple[Held, Exception | None]]:
        """In a files thread: begin the captures; what went wrong with each, whose sockets are then still held."""
        outcomes: list[tuple[Held, Exception | None]] = []
        for each in batch:
            try:
                # A disk that took nothing took nothing either of what the old process had in memory.
                cause: Cause = "disk" if each.call.data.session_id in self.waiting else "interrupted"
                each.call.recapture(each.pairs, lasting=each.lasting, cause=cause)
                outcomes.append((each, None))
            except Exception as error:  # noqa: BLE001  as above
                outcomes.append((each, error))
        return outcomes

    async def _begin(self, held: Held, error: Exception | None) -> None:
        try:
            if error is not None:
                raise error
            held.call.resume()
        except Exception as problem:  # noqa: BLE001  as above
            await held.call.withdraw()
            self._release(held.pairs)
            await self._give_up(held.call.data.session_id, problem)
        else:
            self._back.append(held.call)
            self._start(held.call)

    async def _tell(self, calls: Iterator[Call]) -> None:
        for call in calls:
            call.post(Restored())
            await call.settled.wait()

    def _release(self, pairs: dict[int, PortPair]) -> None:
        for pair in pairs.values():
            self._use.ports.release(pair, clock.monotonic())

    async def _give_up(self, session_id: str, error: Exception) -> None:
        self._log.error("session cannot be restored", session=session_id, error=repr(error), exc_info=error)
        await self._tombstone(session_id, "lost")

    async def _tombstone(self, session_id: str, reason: Reason) -> None:
        with contextlib.suppress(StoreError):
            await self._use.store.tombstone(session_id, reason)
