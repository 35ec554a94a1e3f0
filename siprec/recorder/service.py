"""All calls of this server: who is let in, which call an event belongs to, and how it all stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections import ChainMap
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from pyee import EventEmitter

from siprec import clock, log
from siprec.cluster.base import Wish
from siprec.errors import PeerError, SipError, SiprecError, StoreError
from siprec.fdstore import FdStore
from siprec.media.writer import CLOSE_PATIENCE
from siprec.recorder import refusal
from siprec.recorder.call import Call
from siprec.recorder.ebb import Ebb, give_memory_back, keep_low_iterators
from siprec.recorder.facilities import Facilities, contact
from siprec.recorder.finish import finish, mark_failed
from siprec.recorder.gate import RETRY_AFTER, Gate, Limits
from siprec.recorder.items import Check, How, Item, MovedInto, Stop, TakeOver
from siprec.recorder.neighbours import Neighbours
from siprec.recorder.recovery import Anew, Found, Recovery, Refused
from siprec.recorder.rendering import Renderings
from siprec.recorder.restart import Restart
from siprec.recorder.salvage import leftovers
from siprec.recorder.waiting import Flag
from siprec.session import bodies
from siprec.session.admission import Recognition, RecordingSource, recognise, source_named
from siprec.session.model import CallData
from siprec.session.recovery import replaces_of
from siprec.session.transitions import State
from siprec.sip.checks import has_offer
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.events import (
    AckMissing,
    AckReceived,
    Cancelled,
    DialogEnded,
    Event,
    MessageRefused,
    ProvisionalAcknowledged,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
    UnknownDialog,
)
from siprec.sip.flow import Flow
from siprec.sip.message import Request
from siprec.store.base import SessionRecord

WATCH_SECONDS = 0.5
"""How often interrupted sessions are looked at: RTP that returns should be seen at once."""

LOOK_SECONDS = 0.02
"""Between two looks whether the disk has what waits for it: an upgrade is not to be noticed."""

TELL_SECONDS = 1.0
"""A hand-over that waits longer for the disk says so, and asks for time."""

FINISHED = frozenset({State.ENDED, State.FAILED})

CLOSE_SECONDS = 5.0
"""A stop waits this long for captures to be closed and noted, whatever SHUTDOWN_TIMEOUT grants to rendering."""


AT_OWNER: dict[str, Wish] = {"BYE": "end", "OPTIONS": "alive"}
"""What needs no media: answered for a session that lives on another node, which is told. Others move it here."""


class Recorder:
    """The user of the SIP endpoint. `subject_of`: who the peer of a TLS connection proved to be, None if nobody."""

    def __init__(
        self, facilities: Facilities, limits: Limits, *, subject_of: Callable[[Flow], str | None] = lambda _: None
    ) -> None:
        self._use = facilities
        self._limits = limits
        self._by_dialog: dict[DialogKey, Call] = {}
        self._by_invite: dict[str, Call] = {}
        self._calls: dict[str, Call] = {}
        self._arriving = 0  # INVITEs let in, whose session is still being looked for
        self._renderings = Renderings(facilities)
        self._offered: set[Call] = set()  # new sessions that are not answered yet
        self.log = log.get()
        self.gate = Gate(
            limits,
            facilities.policy.root,
            live=self._live_at_most,
            setting_up=lambda: self._arriving + len(self._offered),
            subject_of=subject_of,
            log=self.log,
        )
        self.neighbours = Neighbours(facilities, calls=self._calls, start=self._start, log=log.get())
        self._recovery = Recovery(
            facilities,
            calls=self._calls,
            by_dialog=self._by_dialog,
            adopt=self.neighbours.adopt,
            accept_unknown=limits.accept_unknown_replaces,
        )
        self._restart = Restart(
            facilities,
            source_of=lambda data: source_named(limits.sources, data.identity, data.source),
            start=self._start,
            await_disk=self._await_disk,
            log=log.get(),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        facilities.observers.on("error", lambda error: self.log.error("observer failed", error=repr(error)))

    @property
    def live(self) -> int:
        """Sessions that hold ports now, or are about to."""
        return self._arriving + sum(call.data.live or call.data.state is State.OFFERED for call in self._calls.values())

    def _live_at_most(self) -> int:
        """`live` where it may matter: counting them for each of many INVITEs costs more than the INVITE."""
        most = self._arriving + len(self._calls)
        return most if most < self._limits.max_sessions else self.live

    # ------------------------------------------------------------------ called by the pump

    def handle(self, event: Event, now: float) -> None:
        """Hand an event of the endpoint to the call it belongs to."""
        self._HANDLERS[type(event)](self, event, now)

    # ------------------------------------------------------------------ events

    def _request(self, event: RequestReceived, now: float) -> None:
        if self._contradicts(event, now):
            return
        if event.dialog is not None:
            self._in_dialog(event, event.dialog, now)
        elif event.request.method == "INVITE":
            self._invite(event, now)
        elif event.request.method == "OPTIONS":
            self._options(event, now)
        else:
            self._answer(event, 481 if event.request.method == "BYE" else 405, now)

    def _contradicts(self, event: RequestReceived, now: float) -> bool:
        """Answer a Replaces of a form that RFC 3891 section 3 forbids: 400, before anything else is looked at."""
        try:
            replaces_of(event.request)
        except SipError as error:
            self._count(error.reason, event)
            self._answer(event, error.status, now)
            return True
        return False

    def _in_dialog(self, event: RequestReceived, dialog: Dialog, now: float) -> None:
        call = self._by_dialog.get(dialog.key)
        answering = None if call else self._by_invite.get(self._use.endpoint.invite_in(dialog) or "")
        call = call or answering
        source = self.gate.identify(event.flow)
        if call is None:
            self._answer(event, 481, now)
        elif source is None or source.name != call.data.identity:
            self._count("request of another identity", event)
            self._answer(event, 403, now)
        elif "Replaces" in event.request.headers:
            self._spawn(self._recover(event, source, call))
        elif answering and event.request.method == "BYE":  # at once: what the call is busy with is over by it
            self._answer(event, 200, now)
        else:
            call.post(event)

    def _unknown_dialog(self, event: UnknownDialog, now: float) -> None:
        """A request in a dialog that is not here: it may be stored, or an INVITE may bring its own recovery."""
        source = self.gate.identify(event.flow)
        received = RequestReceived(event.transaction, event.request, event.flow, None)
        if self._contradicts(received, now):
            return
        if source is None:
            self._answer(received, 403, now)
        elif event.request.method == "INVITE" and "Replaces" in event.request.headers:
            self._spawn(self._recover(received, source, None))
        else:
            self._spawn(self._find_dialog(received, source))

    def _invite(self, event: RequestReceived, now: float) -> None:
        source = self.gate.identify(event.flow)
        assert source is not None, "unlisted sources are dropped before parsing"
        if self._is_wanted(event, now):
            self._arriving += 1
            self._spawn(self._arrive(event, source))

    def _is_wanted(self, event: RequestReceived, now: float) -> bool:
        """Whether an INVITE may begin a recording; else it has its answer."""
        try:
            found = self._recognised(event.request)
        except PeerError as error:
            self.log.warning("INVITE refused", source=event.flow.remote[0], status=error.status, reason=error.reason)
            self._answer(event, error.status, now, refusal.explained(error))
            return False
        if not found.is_recording_session and not self._limits.plain_calls:
            self._count("not a recording session", event, setting="RECORD_PLAIN_CALLS")
            self._answer(event, 403, now)
            return False
        return True

    def _recognised(self, request: Request) -> Recognition:
        strict = self._use.policy.strict
        return request.once("recognised", lambda _: recognise(request, bodies.read(request).parts, strict=strict))

    # ------------------------------------------------------------------ sessions that are carried on

    async def _arrive(self, event: RequestReceived, source: RecordingSource) -> None:
        try:
            await self._recover(event, source, None)
        finally:
            self._arriving -= 1

    async def _recover(self, event: RequestReceived, source: RecordingSource, own: Call | None) -> None:
        """Find out whether an INVITE carries a session on, and hand it to that session or to a new one.

        `own` is the session whose dialog a re-INVITE came in.
        """
        now = clock.monotonic()
        replaces = replaces_of(event.request)
        if replaces is not None:
            found = await self._recovery.replaced(replaces, source)
        else:
            found = await self._recovery.correlated(event.request, bodies.read(event.request), source)
        match found:
            case Refused():
                self._count(found.reason, event)
                retry = [("Retry-After", str(RETRY_AFTER))] if found.status == 500 else []
                self._answer_and_flush(event, found.status, retry)
            case Found(call):
                how: How = "fresh-invite" if replaces is None else "reinvite" if event.request.to.tag else "replaces"
                self._by_invite[event.transaction] = call
                call.invites.append(event.transaction)
                call.post(_take_over(event, how, source, found, own))
            case Anew() if own is not None:
                own.post(event)
            case Anew() if event.request.to.tag and not self._is_wanted(event, now):
                self._use.flush()  # it came in a dialog, so that nobody has looked at it yet
            case Anew():
                self._begin(event, source, found)
        self.log.debug("recovery decided", found=type(found).__name__, seconds=round(clock.monotonic() - now, 4))

    async def _find_dialog(self, event: RequestReceived, source: RecordingSource) -> None:
        request = event.request
        key = DialogKey(request.call_id, request.to.tag or "", request.from_.tag or "")
        wish = AT_OWNER.get(request.method)
        try:
            if wish is not None and await self._recovery.at_owner(key, source, wish):
                self._answer_and_flush(event, 200, [("Accept", ", ".join(bodies.ACCEPT))])
                return
            brings_media = request.method == "INVITE" or has_offer(request)
            call = await self._recovery.of_dialog(key, source, wanted=brings_media)
        except (StoreError, TimeoutError):
            # Never 481 while it cannot be known: an SBC ends the recording on it.
            self._answer_and_flush(event, 500, [("Retry-After", str(RETRY_AFTER))])
            return
        if call is None:
            self._answer_and_flush(event, 481)
        else:
            self._use.endpoint.admit(event.transaction, now=clock.monotonic())
            self._use.flush()

    async def restore(self) -> None:
        """Take up the sessions that an earlier process of this node left in the store; they are captured on return."""
        await self._restart.run()
        self.neighbours.restored(list(self._calls))

    async def restore_shared(self) -> None:
        """Take up what was found in the shared store alone, once this node's name is known to be its own."""
        await self._restart.run_shared()

    async def _finish_orphans(self, interval: float) -> None:
        """A task of its own: it waits for the rendering of what dead nodes left, and live calls are looked after."""
        while True:
            await asyncio.sleep(interval)
            with contextlib.suppress(StoreError):  # said by the store itself, and asked again next time
                await self.neighbours.finish_orphans()

    def _start(self, call: Call) -> None:
        for each in call.record.dialogs:
            self._by_dialog[each.dialog.key] = call
        self._calls[call.data.session_id] = call
        self._spawn(self._run(call))

    def _await_disk(self, call: Call, waits: bool) -> None:
        for each in call.record.dialogs:
            if waits:
                self._by_dialog[each.dialog.key] = call
            else:
                self._by_dialog.pop(each.dialog.key, None)

    def watch(self, interval: float) -> None:
        """Look after all sessions every `interval` seconds, after interrupted ones more often, until `stop`."""
        self._spawn(self._restart.tell())
        self._spawn(self._watch(interval))
        self._spawn(self._finish_orphans(interval))

    async def _watch(self, interval: float) -> None:
        next_round, ebb = 0.0, Ebb()
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, interval))
            now = clock.monotonic()
            everyone = now >= next_round
            crowd_gone = ebb.is_due(len(self._calls) + len(self._renderings.calls), now)
            if crowd_gone:
                keep_low_iterators()
            if everyone or crowd_gone:
                await asyncio.to_thread(give_memory_back, thoroughly=crowd_gone)
            if everyone:
                next_round = now + interval
            for call in list(self._calls.values()):
                if call.settled.is_set() and (everyone or call.data.state is State.INTERRUPTED):
                    call.post(Check())

    # ------------------------------------------------------------------ counting and beginning

    def _count(self, reason: str, event: RequestReceived, **details: str) -> None:
        self.gate.refused[reason] += 1
        self.log.warning(
            "request refused", reason=reason, method=event.request.method, source=event.flow.remote[0], **details
        )

    def _begin(self, event: RequestReceived, source: RecordingSource, anew: Anew) -> None:
        call = Call.answering(self._use, event, source)
        call.data.continues, call.data.replica_of = anew.continues, anew.replica_of
        call.data.plain = not self._recognised(event.request).evidence
        call.log.info("call offered", source=event.flow.remote[0], identity=source.name)
        self._calls[call.data.session_id] = call
        self._offered.add(call)
        self._by_invite[event.transaction] = call
        call.invites.append(event.transaction)
        self._spawn(self._run(call))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("defect", error=repr(error), exc_info=error)

    def _has_dialog(self, call: Call, key: DialogKey) -> None:
        self._by_dialog[key] = call
        self._offered.discard(call)

    async def _run(self, call: Call) -> None:
        try:
            await call.run(self._has_dialog)
        finally:
            if call.to_render:  # before it is none of ours any more, and taken for what an earlier process left
                self._renderings.add(call.record)
            self._offered.discard(call)
            self._recovery.bury(call)
            self._calls.pop(call.data.session_id, None)
            for invite in call.invites:
                self._by_invite.pop(invite, None)
            for each in call.record.dialogs:
                if self._by_dialog.get(each.dialog.key) is call:  # a dialog may have moved to another session
                    del self._by_dialog[each.dialog.key]
        for item in call.left():
            if isinstance(item, TakeOver):  # it crossed the end: what it named is over now
                self._spawn(self._recover(item.event, item.source, None))
            elif isinstance(item, RequestReceived):
                self._answer_and_flush(item, 200 if item.request.method == "BYE" else 481)
        call.dissolve()

    def _options(self, event: RequestReceived, now: float) -> None:
        self._answer(event, 200, now, [("Accept", ", ".join(bodies.ACCEPT))])

    def _of_dialog(self, event: AckReceived | AckMissing, _: float) -> None:
        self._post(self._by_dialog.get(event.dialog.key), event)

    def _of_invite(self, event: Cancelled | ProvisionalAcknowledged, _: float) -> None:
        self._post(self._by_invite.get(event.transaction), event)

    def _of_ours(self, event: ResponseReceived | RequestFailed, _: float) -> None:
        """What became of a request that we sent in a dialog."""
        if isinstance(event, RequestFailed):
            cause, method = event.cause, event.request.method
            self.log.info("no answer to our request", method=method, cause=cause, call_id=event.request.call_id)
        if event.dialog is not None:
            self._post(self._by_dialog.get(event.dialog.key), event)

    def _dropped(self, event: MessageRefused, _: float) -> None:
        self.gate.refused[event.reason] += 1
        self.log.debug("message refused", source=event.flow.remote[0], reason=event.reason)

    def _over(self, event: DialogEnded, _: float) -> None:
        """The call has heard of it by the request that ended the dialog."""

    _HANDLERS: dict[type, Callable[..., None]] = {
        RequestReceived: _request,
        UnknownDialog: _unknown_dialog,
        AckReceived: _of_dialog,
        AckMissing: _of_dialog,
        Cancelled: _of_invite,
        ProvisionalAcknowledged: _of_invite,
        ResponseReceived: _of_ours,
        RequestFailed: _of_ours,
        MessageRefused: _dropped,
        DialogEnded: _over,
    }

    # ------------------------------------------------------------------ start and stop

    def observe_end(self, tell: Callable[[SessionRecord], None]) -> None:
        """Have `tell` called with each session once its recording is finished, for good or bad."""
        self._use.observers.on("session", lambda record: tell(record) if record.call.state in FINISHED else None)

    def salvage(self) -> None:
        """Finish, in the background, what an earlier process of this node left."""
        self._spawn(self._finish_leftovers())

    async def _finish_leftovers(self) -> None:
        policy, known = self._use.policy, ChainMap[str, Any](self._calls, self._renderings.calls, self._restart.waiting)
        nodes = {policy.node}
        if policy.former is not None and self._use.cluster.alone:  # else another server may bear that name now
            nodes.add(policy.former)
        found = await asyncio.to_thread(lambda: list(leftovers(policy.root, nodes, live=known)))
        for number, folder in enumerate(found, 1):
            log_ = self.log.bind(session=folder.session_id, leftover=f"{number} of {len(found)}")
            try:
                done = await self._use.pool.run(finish, folder.path, policy.finish)
                log_.info(
                    "recording salvaged", verdict=done.verdict, reason=done.reason, seconds=round(done.duration, 2)
                )
            except (SiprecError, OSError) as error:
                log_.error("recording could not be salvaged, its capture is kept", error=str(error))
                with contextlib.suppress(SiprecError, OSError):  # the next start tries again
                    await asyncio.to_thread(mark_failed, folder.path, str(error))

    async def await_disk(self, store: FdStore, *, still: Callable[[], bool]) -> None:
        """Record on until the disk has what was read by now, or CLOSE_PATIENCE seconds, while `still` holds."""
        began, first, told = clock.monotonic(), self._use.capture.totals(), False
        while still() and (waited := clock.monotonic() - began) < CLOSE_PATIENCE:
            now = self._use.capture.totals()
            if not now.troubled and (now.written >= first.written + first.backlog or not now.backlog):
                return
            if waited >= TELL_SECONDS and not told:
                self.log.error("handing over waits for the disk", bytes=now.backlog, limit_s=CLOSE_PATIENCE)
                told = store.extend(CLOSE_PATIENCE + CLOSE_SECONDS) or True
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self, timeout: float, store: FdStore) -> int:
        """No new calls, BYE to live ones, captures closed, rendering for `timeout` seconds. With a disk in trouble it
        takes CLOSE_PATIENCE seconds more at most, for which `store`, who may be waiting for our end, is asked.

        Returns how many recordings were left for the next start.
        """
        self.gate.draining = True
        calls = list(self._calls.values())
        for call in calls:
            call.post(Stop("server stopped"))
        if calls or self._renderings.calls:
            self.log.info("stopping", calls=len(calls), rendering_for_s=timeout)
            await _all([call.closed for call in calls], CLOSE_SECONDS)
            if troubled := self._use.capture.totals().troubled:
                self.log.error("stop waits for the disk", files=troubled, limit_s=CLOSE_PATIENCE)
                store.extend(CLOSE_PATIENCE + timeout + CLOSE_SECONDS)
                await _all([call.closed for call in calls], CLOSE_PATIENCE)
            await self._renderings.finish(timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ended = [*(call.data for call in calls), *self._renderings.left()]
        left = {each.session_id: each for each in ended if each.state not in FINISHED}
        for data in left.values():
            await self._give_up(data)
        return len(left)

    async def _give_up(self, data: CallData) -> None:
        """Have the store know that a session is over although it is not rendered: its folder will be salvaged."""
        with contextlib.suppress(StoreError):
            await self._use.store.tombstone(data.session_id, "bye" if data.ended_by_src else "lost")

    async def hand_over(self) -> None:
        """Leave every call where it stands to a successor: no BYE, no rendering, no port given back."""
        self.gate.draining = True
        calls = list(self._calls.values())
        for call in calls:
            if call.data.session_id in self._calls:  # it may have ended while others were kept
                await call.books.keep_now()
        await self._renderings.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._use.capture.totals().troubled:  # what waits is given up with this, and known then
            await asyncio.to_thread(self._use.capture.stop)
        for call in calls:
            with contextlib.suppress(OSError):  # the log has told
                await call.leg.leave()

    # ------------------------------------------------------------------ private

    def _post(self, call: Call | None, item: Item) -> None:
        if call is not None:
            call.post(item)

    def _answer_and_flush(self, event: RequestReceived, status: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        """From a task: the pump is not there to send what was answered."""
        self._answer(event, status, clock.monotonic(), headers)
        self._use.flush()

    def _answer(self, event: RequestReceived, status: int, now: float, headers: Sequence[tuple[str, str]] = ()) -> None:
        own = contact(event, self._use.policy.external)
        self._use.endpoint.respond(event.transaction, status, headers=headers, contact=own, now=now)


def _take_over(event: RequestReceived, how: How, source: RecordingSource, found: Found, own: Call | None) -> TakeOver:
    """What the session that is carried on is told; `own` is the one whose dialog the INVITE came in."""
    call = found.call
    if own is None or own is call:
        return TakeOver(event, how, source, found.from_node)
    return TakeOver(
        event,
        how,
        source,
        found.from_node,
        moved=lambda session_id: own.post(MovedInto(session_id)),
        local_sdp=own.data.local_sdp,
    )


async def _all(events: Sequence[Flag], timeout: float) -> None:
    """Wait until all are set, for at most `timeout` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            for each in events:
                await each.wait()


def observers() -> EventEmitter:
    """Who watches sessions from outside: web, webhooks, metrics. Told after state is committed, never before."""
    return EventEmitter()
