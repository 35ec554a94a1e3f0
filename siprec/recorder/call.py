"""One recorded call: takes its SIP events one by one and carries out what the session's table says.

A call's events wait in its own queue and one task handles them in order, so that a slow folder or a late answer never
lets a BYE overtake the INVITE it ends. A failing call ends that call only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from siprec import clock, log
from siprec.archive.folder import new_session_id
from siprec.errors import ArchiveError, LocalError, MetadataError, Overload, PeerError, SdpError, SipError
from siprec.media.part import Part
from siprec.metadata import merge, xml
from siprec.metadata.model import Recording
from siprec.recorder import describe
from siprec.recorder.dossier import Dossier, timestamp
from siprec.recorder.facilities import Facilities, contact
from siprec.recorder.finish import finish, mark_failed
from siprec.recorder.intake import Intake
from siprec.recorder.negotiation import Negotiation, Prepared
from siprec.recorder.refresh import Refresh, TimerDue
from siprec.session import bodies, headers
from siprec.session.admission import RecordingSource
from siprec.session.model import CallData, Channel, DialogInfo
from siprec.session.transitions import Effect, Event, State
from siprec.sip import session_timer
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
from siprec.sip.message import Request
from siprec.store.base import SessionRecord

T = TypeVar("T")
HeaderList = tuple[tuple[str, str], ...]

PRACK_SECONDS = 0.5
"""How long a 200 waits for the PRACK of the 183 before it (T1). RFC 3262 section 3 lets it go out without; peers that
take things in order like it better this way."""

STREAMS_LIMIT = 8
"""Streams offered in answer to an INVITE without an offer, however many its metadata names."""


@dataclass(frozen=True, slots=True)
class Stop:
    """We end the session; `reason` is for the log and the events file."""

    reason: str


Item = (
    RequestReceived
    | AckReceived
    | AckMissing
    | Cancelled
    | ProvisionalAcknowledged
    | ResponseReceived
    | RequestFailed
    | TimerDue
    | Stop
)


class Call:
    """One recording session and its task. `done` is set when its audio is on disk, or never will be."""

    def __init__(self, facilities: Facilities, invite: RequestReceived, source: RecordingSource) -> None:
        now_ns = clock.wall_ns()
        session_id = new_session_id(now_ns, facilities.entropy(10))
        self._use = facilities
        self._source = source
        self._invite = invite
        self._dossier: Dossier | None = None
        self._intake: Intake | None = None
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        self._acknowledged = asyncio.Event()
        self._ended_at = 0
        self._notes: list[dict[str, Any]] = []
        self._on_dialog: Callable[[DialogKey], None] = lambda _: None
        self._refresh = Refresh(self.post)
        self.done = asyncio.Event()
        self.record = SessionRecord(
            CallData(
                session_id=session_id,
                node=facilities.policy.node,
                source=invite.flow.remote[0],
                identity=source.name,
                call_id=invite.request.call_id,
                offered_ns=now_ns,
                external_ids=headers.external_ids(invite.request),
            )
        )
        self._negotiation = Negotiation(
            self.data,
            ports=facilities.ports,
            external=facilities.policy.external,
            source=invite.flow.remote[0],
            entropy=facilities.entropy,
        )
        self.log = log.get(session=session_id, call_id=invite.request.call_id)

    @property
    def data(self) -> CallData:
        return self.record.call

    # ------------------------------------------------------------------ called by the service

    def post(self, item: Item) -> None:
        """Hand the call its next event."""
        if isinstance(item, ProvisionalAcknowledged):
            self._acknowledged.set()
        else:
            self._queue.put_nowait(item)

    async def run(self, on_dialog: Callable[[DialogKey], None]) -> None:
        """Handle events until the recording is on disk. Never raises for what a peer sends.

        `on_dialog` is told the key of each dialog the session gets, before its next event can arrive.
        """
        self._on_dialog = on_dialog
        self.post(self._invite)
        try:
            while self.data.state not in {State.ENDED, State.FAILED}:
                await self._take(await self._queue.get())
                await self._write_notes()
        except Exception as error:
            self.log.error("call failed", error=repr(error), exc_info=True)
            await self._abandon()
        finally:
            self._refresh.stop()
            self.done.set()

    async def _take(self, item: Item) -> None:
        match item:
            case RequestReceived():
                await self._request(item)
            case AckReceived():
                await self._ack(item)
            case AckMissing():
                await self._end(Event.STOPPED, "no ACK came for the 200 OK")
            case Cancelled():
                await self._end(Event.REFUSED, f"cancelled ({item.cause})")
            case ResponseReceived():
                await self._response(item)
            case RequestFailed():
                await self._unanswered(item)
            case TimerDue():
                await self._timer(item)
            case Stop():
                await self._end(Event.STOPPED, item.reason)

    # ------------------------------------------------------------------ requests

    async def _request(self, event: RequestReceived) -> None:
        handler = self._HANDLERS.get(event.request.method)
        try:
            if event.dialog is None:
                await self._establish(event)
            elif handler is None:
                self._respond(event, 501)
            elif not self.data.live and event.request.method != "BYE":
                self._respond(event, 481)
            else:
                await handler(self, event)
        except IntervalTooSmall as error:
            await self._refuse(event, error.status, error.headers)
        except PeerError as error:
            self.log.warning("request refused", method=event.request.method, status=error.status, reason=error.reason)
            await self._refuse(event, error.status)
        except Overload as error:
            self.log.warning("overload", reason=error.reason)
            await self._refuse(event, 503, (("Retry-After", str(error.retry_after)),))
        except (OSError, ArchiveError) as error:
            self.log.error("recording folder cannot be written", error=str(error), setting="RECORDING_DIR")
            await self._refuse(event, 503, (("Retry-After", "30"),))

    async def _refuse(self, event: RequestReceived, status: int, extra: HeaderList = ()) -> None:
        """A final error; a refused change leaves the session as it was (RFC 6141)."""
        if status == 415:
            extra = (*extra, ("Accept", ", ".join(bodies.ACCEPT)))
        self._respond(event, status, extra=extra)
        if event.dialog is None:
            await self._end(Event.REFUSED, f"answered {status}")

    async def _establish(self, event: RequestReceived) -> None:
        timer = self._agree_timer(event)
        body = bodies.read(event.request)
        prepared = self._negotiation.prepare(body.sdp, held=self._held) if body.sdp is not None else None
        try:
            await self._open_folder()
            await self._learn(event.request, body)
            if not body.metadata:
                merge.apply(
                    self.record.metadata, headers.described(event.request), at_ns=self._received_at(event.request)
                )
            await self._provide_prack(event)
        except (OSError, ArchiveError):
            if prepared is not None:
                self._negotiation.release(prepared)
            raise
        description = self._describe(prepared)
        self.data.started_ns = self._part.started_ns = clock.wall_ns()
        await self._on_disk(self._write)
        dialog = self._respond(event, 200, extra=(*timer.headers, *_SDP), body=description)
        if dialog is None:  # cancelled meanwhile: the event that says so is waiting in the queue
            self.data.started_ns = None
            return
        self._refresh.start(timer.timer(clock.monotonic()))
        self._on_dialog(dialog.key)
        self.record.dialogs.append(DialogInfo(dialog, self._source.name))
        await self._use.store.create(self.record)
        await self._fire(Event.ANSWERED if self._active else Event.ANSWERED_INACTIVE)
        self._announce("call recording", streams=len(self.data.channels), participants=describe.names(self.record))

    async def _change(self, event: RequestReceived) -> None:
        """A re-INVITE or UPDATE: metadata, a new offer, both, or nothing but a refresh."""
        timer = self._agree_timer(event)
        body = bodies.read(event.request)
        await self._learn(event.request, body)
        description = b""
        if body.sdp is not None:
            prepared = self._negotiation.prepare(body.sdp, held=self._held)
            description = self._describe(prepared)
        elif event.request.method == "INVITE":
            description = self._describe(None)
        sdp_headers = _SDP if description else ()
        self._respond(event, 200, extra=(*timer.headers, *sdp_headers), body=description)
        self._refresh.start(timer.timer(clock.monotonic()))
        self._note(event.request.method.lower(), channels=self._modes())
        await self._follow_activity()

    async def _bye(self, event: RequestReceived) -> None:
        self._respond(event, 200)
        if self.data.live:
            with contextlib.suppress(PeerError):  # whatever its body is, it ends the call
                await self._learn(event.request, bodies.read(event.request))
        await self._end(Event.HANGUP, "BYE")

    async def _options(self, event: RequestReceived) -> None:
        self._respond(event, 200, extra=(("Accept", ", ".join(bodies.ACCEPT)),))

    async def _info(self, event: RequestReceived) -> None:
        self._respond(event, 200)

    _HANDLERS: dict[str, Callable[[Call, RequestReceived], Awaitable[None]]] = {
        "INVITE": _change,
        "UPDATE": _change,
        "BYE": _bye,
        "OPTIONS": _options,
        "INFO": _info,
    }

    async def _ack(self, event: AckReceived) -> None:
        """The ACK of a 2xx; it carries the answer when the INVITE came without an offer (RFC 3261 13.2.1)."""
        if not self._negotiation.proposing or not self.data.live:
            self._note("ack")
            return
        try:
            body = bodies.read(event.request)
            if body.sdp is None:
                raise SdpError("the ACK brings no answer to our offer")
            prepared = self._negotiation.conclude(body.sdp, held=self._held)
        except PeerError as error:
            self.log.warning("answer refused", reason=error.reason)
            self._negotiation.withdraw()
            if not self.data.channels:
                await self._end(Event.STOPPED, error.reason)
            return
        self._negotiation.commit(prepared, self._open_intake)
        await self._learn(event.request, body)
        self._note("ack", channels=self._modes())
        await self._follow_activity()

    def _describe(self, prepared: Prepared | None) -> bytes:
        """Our SDP: the answer to the offer that came, which now takes effect, or an offer where none came."""
        if prepared is None:
            wanted = sum(each.span.open for each in self.record.metadata.streams.values()) or 1
            return self._negotiation.propose(min(wanted, STREAMS_LIMIT))
        self._negotiation.commit(prepared, self._open_intake)
        describe.assign_participants(self.record)
        return self._negotiation.answer(prepared)

    async def _provide_prack(self, event: RequestReceived) -> None:
        """A peer that requires reliable provisional responses gets one (RFC 3262), and time to acknowledge it."""
        if "100rel" not in {each.lower() for each in event.request.headers.values("Require")}:
            return
        self._use.endpoint.respond(
            event.transaction,
            183,
            reliable=True,
            contact=contact(event.flow, self._use.policy.external),
            now=clock.monotonic(),
        )
        self._use.flush()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._acknowledged.wait(), PRACK_SECONDS)

    def _respond(
        self, event: RequestReceived, status: int, *, extra: HeaderList = (), body: bytes = b""
    ) -> Dialog | None:
        dialog = self._use.endpoint.respond(
            event.transaction,
            status,
            headers=extra,
            body=body,
            contact=contact(event.flow, self._use.policy.external),
            now=clock.monotonic(),
        )
        self._use.flush()
        return dialog

    # ------------------------------------------------------------------ session timer

    def _agree_timer(self, event: RequestReceived) -> session_timer.Negotiated:
        """What our 2xx says of session expiration. Raises SipError 422 for an interval that is too small."""
        agreed = session_timer.negotiate(event.request)
        if agreed.status == 422:
            raise IntervalTooSmall(agreed.headers)
        return agreed

    async def _timer(self, item: TimerDue) -> None:
        if item.what == "expired":
            await self._end(Event.STOPPED, "the session timer expired without a refresh")
        elif self.data.live and self._refresh.timer is not None:
            self._send_refresh(self._refresh.timer.headers())

    def _send_refresh(self, extra: HeaderList) -> None:
        """UPDATE without SDP where the peer takes it, else a re-INVITE with the SDP as it is (RFC 4028 section 7.4)."""
        dialog = self.record.dialogs[-1].dialog
        update = "UPDATE" in {each.upper() for each in self._invite.request.headers.values("Allow")}
        try:
            if update:
                self._use.endpoint.request("UPDATE", dialog, headers=extra, now=clock.monotonic())
            else:
                sdp = self.data.local_sdp.encode()
                self._use.endpoint.request("INVITE", dialog, headers=(*extra, *_SDP), body=sdp, now=clock.monotonic())
        except (LocalError, Overload):
            self._refresh.again()
        else:
            self._refresh.sent()
            self._use.flush()

    async def _response(self, event: ResponseReceived) -> None:
        if event.request.method not in {"UPDATE", "INVITE"} or event.response.status < 200:
            return
        status = event.response.status
        if status < 300:
            agreed = session_timer.accepted(event.response, now=clock.monotonic())
            self._refresh.start(agreed)
        elif status in {408, 481}:
            await self._end(Event.STOPPED, f"the SRC answered our refresh with {status}")
        elif status == 491:
            self._refresh.again()

    async def _unanswered(self, event: RequestFailed) -> None:
        if event.request.method in {"UPDATE", "INVITE"}:
            await self._end(Event.STOPPED, f"the SRC does not answer ({event.cause})")

    # ------------------------------------------------------------------ metadata

    async def _learn(self, request: Request, body: bodies.Bodies) -> None:
        """Keep each metadata body as it came and merge what it says; a bad one is a flag, never a lost call."""
        for part in body.metadata:
            name = await self._on_disk(self.dossier.keep_body, part.body)
            try:
                update = xml.parse(part.body, charset=part.content_type.params.get("charset"))
                if isinstance(update, Recording):
                    changes = merge.apply(self.record.metadata, update, at_ns=self._received_at(request))
                    self._note("metadata", file=name, changes=[_told(each) for each in changes])
            except MetadataError as error:
                self.record.metadata.faults.append(f"{name}: {error.reason}")
                self.log.warning("metadata cannot be read", file=name, reason=error.reason)
                self._note("metadata-error", file=name, reason=error.reason)
        describe.assign_participants(self.record)

    def _received_at(self, request: Request) -> int:
        return headers.received_at(request, clock.wall_ns())

    def _held(self, channel: Channel) -> bool:
        """Whether the metadata says that those heard on `channel` send it no more: the call holds it."""
        people = [self.record.metadata.participants[key] for key in channel.participants]
        return bool(people) and not any(channel.stream_id in each.sending for each in people)

    # ------------------------------------------------------------------ the session's table

    async def _fire(self, event: Event) -> None:
        effects = self.data.fire(event, at_ns=clock.wall_ns(), monotonic=clock.monotonic())
        for effect in effects:
            await self._EFFECTS[effect](self)
        if effects:
            self._use.observers.emit("session", self.record)

    @property
    def _active(self) -> bool:
        return any(each.mode == "active" for each in self.data.channels)

    async def _follow_activity(self) -> None:
        """Pause when the last stream fell silent by agreement, go on when one speaks again."""
        before = self.data.state
        await self._fire(Event.ACTIVE if self._active else Event.INACTIVE)
        if self.data.state is before:
            await self._save()
        else:
            self._announce("call resumed" if self._active else "call paused")

    async def _end(self, event: Event, reason: str) -> None:
        self._ended_at = self._ended_at or clock.wall_ns()
        self._refresh.stop()
        if self.data.live:
            self.data.ended_ns = self._ended_at
            self.log.info("call ended", reason=reason)
            self._note("ended", reason=reason)
        elif self.data.state is State.OFFERED:
            self.log.info("call not recorded", reason=reason)
        await self._fire(event)

    async def _send_bye(self) -> None:
        for each in self.record.dialogs:
            if each.dialog.state != "terminated":
                with contextlib.suppress(LocalError, Overload):  # gone already: there is nobody left to tell
                    self._use.endpoint.request("BYE", each.dialog, now=clock.monotonic())
        self._use.flush()

    async def _close_capture(self) -> None:
        self._negotiation.withdraw()
        if self._intake is not None:
            result = await self._intake.finish(self._ended_at or clock.wall_ns())
            self._part.clock = list(self._use.capture.clock_steps())
            packets = sum(counters.accepted for _, counters in result.counters)
            self.log.debug("capture closed", packets=packets, octets=result.octets)

    async def _save(self) -> None:
        await self._on_disk(self._write)
        await self._write_notes()
        await self._use.store.save(self.record)

    async def _render(self) -> None:
        self._announce("rendering")
        try:
            found = await self._use.pool.run(finish, self.dossier.folder.path, self._use.policy.finish)
        except (LocalError, OSError, RuntimeError) as error:
            self.log.error("recording could not be rendered, its capture is kept", error=str(error))
            await self._on_disk(mark_failed, self.dossier.folder.path, str(error))
            await self._fire(Event.RENDER_FAILED)
            return
        self.log.info(
            "recording ready",
            verdict=found.verdict,
            reason=found.reason,
            seconds=round(found.duration, 2),
            file=str(found.audio),
        )
        await self._fire(Event.RENDERED)

    async def _release(self) -> None:
        if self.data.started_ns is None and self._dossier is not None:
            await self._on_disk(self._dossier.discard)
            self._notes.clear()
        await self._use.store.tombstone(self.data.session_id)

    _EFFECTS: dict[Effect, Callable[[Call], Awaitable[None]]] = {
        Effect.SEND_BYE: _send_bye,
        Effect.CLOSE_CAPTURE: _close_capture,
        Effect.SAVE: _save,
        Effect.RENDER: _render,
        Effect.RELEASE: _release,
    }

    async def _abandon(self) -> None:
        """After a defect of ours: give back what can be given back; the capture stays for the next start."""
        self._negotiation.withdraw()
        if self._intake is not None:
            await self._intake.finish(clock.wall_ns())
        await self._send_bye()

    # ------------------------------------------------------------------ files and logs

    @property
    def dossier(self) -> Dossier:
        assert self._dossier is not None, "the folder is made before anything is written to it"
        return self._dossier

    @property
    def _open_intake(self) -> Intake:
        assert self._intake is not None, "the capture is opened together with the folder"
        return self._intake

    @property
    def _part(self) -> Part:
        return self._open_intake.part

    async def _open_folder(self) -> None:
        data, policy = self.data, self._use.policy
        create = partial(Dossier.create, policy.root, data.session_id, fence=data.fence, node=data.node)
        self._dossier = await self._on_disk(create)
        part = Part(data.session_id, data.node, data.fence, started_ns=data.offered_ns)
        part.clock = list(self._use.capture.clock_steps())
        self._intake = Intake(
            self._use.capture.open(self._dossier.part.path, segment_seconds=policy.segment_seconds),
            part=part,
            ports=self._use.ports,
            policy=policy.rtp_source,
            networks=self._source.networks,
            now=clock.monotonic,
        )
        self._note("invite", source=data.source, identity=data.identity)

    def _write(self) -> None:
        refused = self._intake.refused if self._intake else []
        self.dossier.write(describe.manifest(self.record, refused=refused), self._part)

    def _note(self, event: str, **details: Any) -> None:
        """Remember a line for events.jsonl: written with the next save, at the latest once the event is handled."""
        self._notes.append({"at": timestamp(clock.wall_ns()), "event": event, **details})

    async def _write_notes(self) -> None:
        if self._notes and self._dossier is not None:
            notes, self._notes = self._notes, []
            await self._on_disk(self._dossier.part.append_events, notes)

    async def _on_disk(self, job: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._use.files, partial(job, *args, **kwargs))

    def _modes(self) -> list[str]:
        return [f"{each.label or each.index}:{each.mode}" for each in self.data.channels]

    def _announce(self, event: str, **details: Any) -> None:
        self.log.info(event, state=str(self.data.state), source=self.data.source, **details)


_SDP: HeaderList = (("Content-Type", "application/sdp"),)


class IntervalTooSmall(SipError):
    """Session-Expires below the least that RFC 4028 allows; `headers` tell the peer what that is."""

    status = 422

    def __init__(self, extra: HeaderList) -> None:
        super().__init__("session interval too small")
        self.headers = extra


def _told(change: merge.Change) -> dict[str, str]:
    """A change of the metadata as events.jsonl has it."""
    told = {"what": change.what, "kind": change.kind, "id": change.id, "at": timestamp(change.at_ns)}
    return told | {key: value for key, value in (("before", change.before), ("after", change.after)) if value}
