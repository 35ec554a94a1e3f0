"""One recorded call: takes its SIP events one by one and carries out what the session's table says.

A call's events wait in its own queue and one task handles them in order, so that a slow folder or a late answer never
lets a BYE overtake the INVITE it ends. A failing call ends that call only. What belongs to one dialog of the session
(SDP, ports, capture, part folder) is the current leg; a call that was taken over has had several.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from siprec import clock, log
from siprec.archive.folder import RecordingFolder, new_session_id
from siprec.errors import PeerError
from siprec.media.part import Cause
from siprec.media.ports import PortPair
from siprec.recorder import answer, describe, refusal
from siprec.recorder.books import Books
from siprec.recorder.contact import Contact
from siprec.recorder.facilities import Facilities
from siprec.recorder.items import Check, HungUp, Item, Keep, MovedInto, Released, Restored, Stop, TakeOver
from siprec.recorder.learn import learn
from siprec.recorder.leg import HeaderList, Leg
from siprec.recorder.refresh import TimerDue
from siprec.recorder.waiting import Flag, Inbox
from siprec.session import bodies, recovery
from siprec.session.admission import RecordingSource
from siprec.session.model import CallData, Recovery
from siprec.session.transitions import Effect, Event, State
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.events import (
    AckMissing,
    AckReceived,
    Cancelled,
    ProvisionalAcknowledged,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
)
from siprec.store.base import SessionRecord

QUIET_SECONDS = 1.0
"""A released session whose streams sent nothing for so long has moved for good."""

OVER = frozenset({State.ENDING, State.ENDED, State.FAILED})
"""Nothing that a peer does changes such a session."""

RETIRE_SECONDS = 2.0
"""A dialog that was taken over gets its BYE this long after the 200 OK, if no ACK came before."""


class Call:
    """One recording session and its task. `closed` is set when its capture and its end are on disk, or never will be;
    then `to_render` tells whether it is to be rendered.

    `invites`: transactions of the INVITEs that were handed to it; `came_from`: the node it was brought here from.
    """

    def __init__(self, facilities: Facilities, record: SessionRecord, source: RecordingSource, remote: str) -> None:
        self._use = facilities
        self.source = source
        self._inbox: Inbox[Item] = Inbox()
        self.prack_over = Flag()
        self._acknowledged = Flag()
        self.on_dialog: Callable[[Call, DialogKey], None] = _nobody_hears
        self._retiring: list[asyncio.Task[None]] = []
        self._ended_at = 0
        self.contact = Contact(self, facilities.policy)
        self.books = Books(self, facilities.store, alone=facilities.cluster.alone)
        self.record = record
        self.invites: list[str] = []
        self.came_from = ""
        self._gone = False  # to another node
        self.closed = Flag()
        self.to_render = False
        self.settled = Flag(is_set=True)  # cleared for a restored session until that is on disk
        self.log = log.get(session=record.call.session_id, call_id=record.call.call_id)
        self.leg = self._new_leg(remote, fence=record.call.fence, takes_over=False)

    @classmethod
    def answering(cls, facilities: Facilities, invite: RequestReceived, source: RecordingSource) -> Call:
        """The call of a new session; `invite` is its first event."""
        now_ns = clock.wall_ns()
        data = CallData(
            session_id=new_session_id(now_ns, facilities.entropy(10)),
            node=facilities.policy.node,
            source=invite.flow.remote[0],
            identity=source.name,
            call_id=invite.request.call_id,
            offered_ns=now_ns,
        )
        call = cls(facilities, SessionRecord(data), source, invite.flow.remote[0])
        call.post(invite)
        return call

    @property
    def data(self) -> CallData:
        return self.record.call

    # ------------------------------------------------------------------ called by the service

    def post(self, item: Item) -> None:
        """Hand the call its next event."""
        if isinstance(item, ProvisionalAcknowledged | Cancelled):
            self.prack_over.set()
        if not isinstance(item, ProvisionalAcknowledged):
            self._inbox.put(item)

    async def run(self, on_dialog: Callable[[Call, DialogKey], None]) -> None:
        """Handle events until the session is over. Never raises for what a peer sends.

        `on_dialog` is told the key of each dialog the session gets, before its next event can arrive.
        """
        self.on_dialog = on_dialog
        item: Item | None = None
        try:
            while not self._gone and self.data.state not in OVER:
                item = await self._inbox.get()
                await self._take(item)
                if not isinstance(item, AckReceived | Keep):  # nothing in a note of theirs is worth a write of its own
                    await self.books.note()
                item = None  # a request with its body would be held until the next comes
        except Exception as error:
            self.log.error("call failed", error=repr(error), exc_info=True)
            await self._abandon(item)
        finally:
            self.leg.refresh.stop()
            self.books.forget()
            self.settled.set()
            self.closed.set()

    def left(self) -> list[Item]:
        """What nobody takes up any more once `run` has returned."""
        return self._inbox.left()

    def dissolve(self) -> None:
        """Let go of what refers to us, when `run` has returned: else all of it would stay until garbage is searched."""
        del self.contact, self.books, self.leg, self.on_dialog

    def recapture(self, pairs: dict[int, PortPair], *, lasting: bool, cause: Cause) -> None:
        """In a files thread: a part of its own for a stored session, on the sockets it had. `lasting`: they outlived
        the old process; what came meanwhile waits in them, stamped with its arrival. `cause`: of what is missing.
        """
        started_ns = self.data.started_ns if lasting else None
        self.leg.reopen(self.folder, pairs, started_ns=started_ns or clock.wall_ns(), cause=cause)

    def resume(self) -> None:
        """Carry a stored session on; what tells of it is written when it gets `Restored`."""
        self.settled.clear()
        for each in recovery.open_dialogs(self.record.dialogs):
            self._use.endpoint.resume(each, now=clock.monotonic())
        self.leg.resume_timer()
        self._recovered("restart", self.data.node)
        if self.data.state is State.OFFERED:  # it was stored just before our 200 OK, which may have gone out
            self._step(Event.ANSWERED if self.active else Event.ANSWERED_INACTIVE)
        self._step(Event.CONTACT_LOST)
        self.contact.restored()
        self.leg.note("restored", fence=self.data.fence)

    async def withdraw(self) -> None:
        """Let go of a stored session that cannot be carried on."""
        self.leg.refresh.stop()
        self._forget_dialogs()
        with contextlib.suppress(OSError):
            await self.leg.discard()

    async def _restored(self, _: Restored) -> None:
        state = self.data.state
        await self.contact.check()  # its packets may be back by now
        if self.data.live:
            self.log.info("call restored", state=str(self.data.state), fence=self.data.fence)
            if self.data.state is state:
                await self.books.save()
                self._use.observers.emit("session", self.record)
        self.settled.set()

    def adopt(self, from_node: str = "") -> None:
        """Stand for a session that another process had: its dialogs are known, its media is to come."""
        self.came_from = from_node
        self.leg.info = recovery.recalled(self.record.dialogs)
        for dialog in recovery.open_dialogs(self.record.dialogs):
            self._use.endpoint.restore(dialog)

    async def _let_go(self, item: Released) -> None:
        """Leave the session to another node: no SIP any more, its packets for as long as they come."""
        self._gone = True
        self.leg.refresh.stop()
        self._forget_dialogs()
        self.log.info("call released", to_node=item.to_node, fence=self.data.fence)
        while not self.quiet(clock.monotonic() - QUIET_SECONDS):  # noqa: ASYNC110  the drain thread tells only who asks
            await asyncio.sleep(QUIET_SECONDS)
        await self.leg.finish(self.leg.last_packet_ns() or clock.wall_ns())
        await asyncio.gather(*self._retiring)

    def _forget_dialogs(self) -> None:
        for each in self.record.dialogs:
            self._use.endpoint.forget(each.dialog)

    def quiet(self, since: float) -> bool:
        """Whether no stream that should send has sent since then (monotonic seconds)."""
        return not self.leg.opened or self.leg.intake.quiet(self.data.channels, since)

    def age(self, now: float) -> float:
        """Seconds since the current leg began, here."""
        return now - self.leg.opened_at

    def young(self, now: float, seconds: float) -> bool:
        """Whether the current dialog was confirmed less than `seconds` ago, by this process."""
        return self.leg.answered_at is not None and now - self.leg.answered_at < seconds

    # ------------------------------------------------------------------ events

    async def _take(self, item: Item) -> None:
        await self._TAKERS[type(item)](self, item)

    async def _request(self, event: RequestReceived) -> None:
        handler = self._HANDLERS.get(event.request.method)
        if handler is None:
            self.leg.respond(event, 501)
        elif self._is_over(event.dialog) and event.request.method != "BYE":
            self.leg.respond(event, 481)
        else:
            await self._answered(event, partial(handler, self, event))

    def _is_over(self, dialog: Dialog | None) -> bool:
        """Whether a request's dialog has ended since it came, alone (an early one whose INVITE failed) or with all."""
        return dialog is not None and (not self.data.live or dialog.state == "terminated")

    async def _answered(self, event: RequestReceived, handle: Callable[[], Awaitable[object]]) -> None:
        """Run `handle`; what it raises becomes the final answer. A refused change leaves the session as it was."""
        try:
            await handle()
        except refusal.ANSWERED as error:
            await self._refuse(event, *refusal.of(error, event.request.method, self.log))

    async def _refuse(self, event: RequestReceived, status: int, extra: HeaderList) -> None:
        self.leg.respond(event, status, extra=extra)
        if self.data.state is State.OFFERED:
            await self.end(Event.REFUSED, f"answered {status}")

    async def _cancelled(self, event: Cancelled) -> None:
        """The INVITE is over; one that would have carried this session on leaves it as it is."""
        if self.data.state is State.OFFERED:
            await self.end(Event.REFUSED, f"cancelled ({event.cause})")

    # ------------------------------------------------------------------ INVITE outside a dialog

    async def _invite(self, event: RequestReceived) -> None:
        if event.dialog is not None:
            await self._change(event)
        elif await answer.accept(self, event, self.leg):
            await self.fire(
                Event.ANSWERED if self.active else Event.ANSWERED_INACTIVE, on_paper=not self.data.unjournaled
            )
            people = describe.names(self.record)
            self.log.info("call recording", state=str(self.data.state), streams=len(self.data.channels), people=people)
        elif self.data.state is State.OFFERED:  # the event that says so may have come before this call was there
            await self.end(Event.REFUSED, "cancelled")

    # ------------------------------------------------------------------ a session that is carried on

    async def _taken_over(self, item: TakeOver) -> None:
        """Another INVITE carries this session on: a new leg, and the old one goes once the new one stands."""
        if self.leg.opened and self.leg.info is not None and item.event.dialog is self.leg.info.dialog:
            await self._reaffirmed(item)
            return
        leg = self._new_leg(item.event.flow.remote[0], fence=self.data.fence + 1, takes_over=True)
        leg.negotiation.local_sdp = item.local_sdp
        old, accepted = self.leg, False
        self._acknowledged.clear()

        async def accept() -> None:
            nonlocal accepted
            accepted = await answer.accept(self, item.event, leg)

        await self._answered(item.event, accept)
        if not accepted:
            await leg.discard()
            return
        if item.moved is not None:
            item.moved(self.data.session_id)
        ended_ns = old.absent_since() or clock.wall_ns()
        self.leg = leg
        self._recovered(item.how, item.from_node)
        await self.fire(Event.TAKEN_OVER)
        await self.fire(Event.RECOVERED if self.active else Event.INACTIVE)
        retiring = asyncio.ensure_future(self._retire(old, ended_ns))
        self._retiring.append(retiring)
        retiring.add_done_callback(self._retiring.remove)
        await self.contact.heard()
        self.log.info("call carried on", how=item.how, fence=self.data.fence, from_node=item.from_node)

    async def _reaffirmed(self, item: TakeOver) -> None:
        """A re-INVITE that names its own dialog in Replaces: the SRC had lost us, and goes on where it was."""
        absent, changed = self.leg.absent_since(), False

        async def change() -> None:
            nonlocal changed
            changed = await answer.change(self, item.event)

        await self._answered(item.event, change)
        if changed:
            if absent:
                self.leg.interrupted_since(absent)
            self._recovered(item.how, item.from_node)
            self.log.info("call carried on in its dialog", how=item.how)
            await self.books.save()

    async def _moved_into(self, item: MovedInto) -> None:
        """Our dialog lives on in the session that it named: this one is over, without a BYE."""
        moved, self.leg.info = self.leg.info, None
        self.record.dialogs[:] = [each for each in self.record.dialogs if each is not moved]
        self.data.merged_into = item.session_id
        await self.end(Event.STOPPED, "its dialog moved to another session")

    async def _retire(self, leg: Leg, ended_ns: int) -> None:
        """Let the old leg go: BYE to its dialog once the new one has its ACK, then its last packets."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._acknowledged.wait(), RETIRE_SECONDS)
        current = self.leg.info
        if leg.info is not None and (current is None or leg.info.dialog is not current.dialog):
            leg.send_bye()
        if leg.opened:
            await leg.finish(ended_ns, or_later=True)  # packets may have come that were not read when we decided

    def _recovered(self, how: str, from_node: str) -> None:
        self.data.recoveries.append(Recovery(clock.wall_ns(), how, from_node, self._use.policy.node))

    # ------------------------------------------------------------------ requests in a dialog

    async def _change(self, event: RequestReceived) -> None:
        brings_media = event.request.method == "INVITE" or bodies.read(event.request).sdp is not None
        if not self.leg.opened and brings_media:  # it was brought here by this, from another node
            await self._taken_over(TakeOver(event, "reinvite", self.source, self.came_from))
        else:
            await answer.change(self, event)

    async def _bye(self, event: RequestReceived) -> None:
        self.leg.respond(event, 200)
        current = self.leg.info is None or event.dialog is None or event.dialog.key == self.leg.info.dialog.key
        if not current:
            return  # the SRC closes a dialog that was taken over
        if self.data.live:
            with contextlib.suppress(PeerError):  # whatever its body is, it ends the call
                learn(self.record, self.leg, event.request, body=bodies.read(event.request), log=self.log)
        await self.end(Event.HANGUP, "BYE")

    async def _alive(self, event: RequestReceived) -> None:
        """OPTIONS, INFO: what they ask for is that we are there."""
        self.leg.respond(event, 200, extra=(("Accept", ", ".join(bodies.ACCEPT)),))
        await self.contact.heard()

    _HANDLERS: dict[str, Callable[[Call, RequestReceived], Awaitable[object]]] = {
        "INVITE": _invite,
        "UPDATE": _change,
        "BYE": _bye,
        "OPTIONS": _alive,
        "INFO": _alive,
    }

    async def _ack(self, event: AckReceived) -> None:
        """The ACK of a 2xx."""
        self._acknowledged.set()
        self.contact.acknowledged()
        if self.leg.negotiation.proposing and self.data.live:
            await answer.conclude(self, event)
        else:
            self.leg.note("ack")
            self.books.keep_soon()  # else a successor would go on repeating our 200

    async def _ack_missing(self, event: AckMissing) -> None:
        if self.leg.info is not None and event.dialog.key == self.leg.info.dialog.key:
            await self.end(Event.STOPPED, "no ACK came for the 200 OK")

    async def _hung_up(self, item: HungUp) -> None:
        self._forget_dialogs()
        await self.end(Event.HANGUP, f"BYE to {item.at_node}")

    async def _check(self, _: Check) -> None:
        await self.contact.check()
        await self.books.catch_up()

    # ------------------------------------------------------------------ the session's table

    def _step(self, event: Event) -> tuple[Effect, ...]:
        return self.data.fire(event, at_ns=clock.wall_ns(), monotonic=clock.monotonic())

    async def fire(self, event: Event, *, on_paper: bool = False) -> None:
        """Take a step and carry out its effects. `on_paper`: recording.json tells of it already."""
        effects = self._step(event)
        after = self.data.state
        for effect in effects:
            if on_paper and effect is Effect.SAVE:
                self.books.keep_soon()
            else:
                await self._EFFECTS[effect](self)
        if effects and self.data.state is after:  # an effect that took a further step has told of it
            self._use.observers.emit("session", self.record)

    @property
    def active(self) -> bool:
        return any(each.mode == "active" for each in self.data.channels)

    async def follow_activity(self) -> None:
        """Pause when the last stream fell silent by agreement, go on when one speaks again."""
        before = self.data.state
        await self.fire(Event.ACTIVE if self.active else Event.INACTIVE)
        if self.data.state is before:
            await self.books.save()
        else:
            self.log.info("call resumed" if self.active else "call paused", state=str(self.data.state))

    async def end(self, event: Event, reason: str, at_ns: int = 0) -> None:
        """Take the step that ends the session; `at_ns` is when it really ended, now if 0."""
        self._ended_at = self._ended_at or at_ns or clock.wall_ns()
        self.leg.refresh.stop()
        if self.data.live:
            self.data.ended_ns = self._ended_at
            self.log.info("call ended", reason=reason)
            self.leg.note("ended", reason=reason)
        elif self.data.state is State.OFFERED:
            self.log.info("call not recorded", reason=reason)
        self.data.ended_by_src = event is Event.HANGUP
        await self.fire(event)

    async def _send_bye(self) -> None:
        self.leg.send_bye()

    async def _close_capture(self) -> None:
        self._acknowledged.set()
        await self.books.catch_up()
        await asyncio.gather(*self._retiring)
        if self.data.started_ns is None:
            await self.leg.discard()
            return
        result = await self.leg.finish(self._ended_at or clock.wall_ns(), saved=True)
        if result is not None:
            packets = sum(counters.accepted for _, counters in result.counters)
            self.log.debug("capture closed", packets=packets, octets=result.octets)

    async def _render(self) -> None:
        self.to_render = True

    _EFFECTS: dict[Effect, Callable[[Call], Awaitable[None]]] = {
        Effect.SEND_BYE: _send_bye,
        Effect.CLOSE_CAPTURE: _close_capture,
        Effect.SAVE: lambda call: call.books.save(),
        Effect.RENDER: _render,
        Effect.RELEASE: lambda call: call.books.bury(),
    }

    async def _abandon(self, item: Item | None) -> None:
        """After a defect of ours, met with `item`: give back what can be given back; the capture stays for the next
        start.
        """
        event = item.event if isinstance(item, TakeOver) else item
        if isinstance(event, RequestReceived):
            self.leg.respond(event, 500)
        await self.leg.finish(clock.wall_ns())
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._send_bye()

    _TAKERS: dict[type, Callable[..., Awaitable[None]]] = {
        RequestReceived: _request,
        AckReceived: _ack,
        AckMissing: _ack_missing,
        Cancelled: _cancelled,
        ResponseReceived: lambda call, item: call.contact.answered(item),
        RequestFailed: lambda call, item: call.contact.unanswered(item),
        TimerDue: lambda call, item: call.contact.timer(item),
        Check: _check,
        Keep: lambda call, _: call.books.keep(),
        TakeOver: _taken_over,
        MovedInto: _moved_into,
        Released: _let_go,
        Restored: _restored,
        HungUp: _hung_up,
        Stop: lambda call, item: call.end(Event.STOPPED, item.reason),
    }

    def _new_leg(self, remote: str, *, fence: int, takes_over: bool) -> Leg:
        return Leg(
            self._use,
            self.data,
            source=self.source,
            remote=remote,
            fence=fence,
            wake=self.post,
            takes_over=takes_over,
        )

    @property
    def folder(self) -> RecordingFolder:
        return RecordingFolder(self._use.policy.folder(self.data.session_id))


def _nobody_hears(_: Call, __: DialogKey) -> None:
    """Of the dialogs of a call that does not run yet."""
