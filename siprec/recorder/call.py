"""One recorded call: takes its SIP events one by one and carries out what the session's table says.

A call's events wait in its own queue and one task handles them in order, so that a slow folder or a late
answer never lets a BYE overtake the INVITE it ends. A failing call ends that call only.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pyee import EventEmitter

from siprec import clock, log
from siprec.archive.folder import new_session_id
from siprec.errors import ArchiveError, LocalError, MetadataError, Overload, PeerError, SdpError
from siprec.media.capture import Capture
from siprec.media.part import Part
from siprec.media.source import SourcePolicy
from siprec.metadata import merge, xml
from siprec.metadata.model import Recording
from siprec.recorder import describe
from siprec.recorder.dossier import Dossier, timestamp
from siprec.recorder.finish import Finished, FinishOptions, finish, mark_failed
from siprec.recorder.intake import Intake, Ports, local_address_towards, reserve
from siprec.recorder.pool import RenderPool
from siprec.sdp import model as sdp
from siprec.sdp import negotiate
from siprec.session import bodies, streams
from siprec.session.admission import RecordingSource
from siprec.session.model import CallData, Channel, DialogInfo
from siprec.session.transitions import Effect, Event, State
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import AckMissing, AckReceived, Cancelled, Flow, RequestReceived
from siprec.sip.message import Request
from siprec.store.base import SessionRecord, SessionStore

T = TypeVar("T")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decide how a call is recorded; plain values, see siprec.config for their meaning."""

    root: Path
    node: str
    external: tuple[IpAddress, ...] = ()
    rtp_source: SourcePolicy = SourcePolicy.ADDRESS
    segment_seconds: float = 0
    finish: FinishOptions = field(default_factory=FinishOptions)


@dataclass(frozen=True, slots=True)
class Facilities:
    """What every call works with; one set for the server."""

    policy: Policy
    endpoint: Endpoint
    capture: Capture
    ports: Ports
    store: SessionStore
    pool: RenderPool
    files: Executor
    entropy: Callable[[int], bytes]
    flush: Callable[[], None]
    observers: EventEmitter


@dataclass(frozen=True, slots=True)
class Stop:
    """We end the session; `reason` is for the log and the events file."""

    reason: str


Item = RequestReceived | AckReceived | AckMissing | Cancelled | Stop


class Call:
    """One recording session and its task. `done` is set when its audio is on disk, or never will be."""

    def __init__(self, facilities: Facilities, invite: RequestReceived, source: RecordingSource) -> None:
        now_ns = clock.wall_ns()
        session_id = new_session_id(now_ns, facilities.entropy(10))
        self._use = facilities
        self._source = source
        self._dossier: Dossier | None = None
        self._intake: Intake | None = None
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        self._invite = invite
        self._ended_at = 0
        self._notes: list[dict[str, Any]] = []
        self._on_dialog: Callable[[DialogKey], None] = lambda _: None
        self.done = asyncio.Event()
        self.record = SessionRecord(
            CallData(
                session_id=session_id,
                node=facilities.policy.node,
                source=invite.flow.remote[0],
                identity=source.name,
                call_id=invite.request.call_id,
                offered_ns=now_ns,
            )
        )
        self.log = log.get(session=session_id, call_id=invite.request.call_id)

    @property
    def data(self) -> CallData:
        return self.record.call

    # ------------------------------------------------------------------ called by the service

    def post(self, item: Item) -> None:
        """Hand the call its next event."""
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
            self.done.set()

    async def _take(self, item: Item) -> None:
        match item:
            case RequestReceived():
                await self._request(item)
            case AckReceived():
                self._note("ack")
            case AckMissing():
                await self._end(Event.STOPPED, "no ACK came for the 200 OK")
            case Cancelled():
                await self._end(Event.REFUSED, "cancelled")
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
            elif self.data.state is State.ENDING and event.request.method != "BYE":
                self._respond(event, 481)
            else:
                await handler(self, event)
        except PeerError as error:
            self.log.warning("request refused", method=event.request.method, status=error.status, reason=error.reason)
            await self._refuse(event, error.status, ())
        except Overload as error:
            self.log.warning("overload", reason=error.reason)
            await self._refuse(event, 503, (("Retry-After", str(error.retry_after)),))
        except (OSError, ArchiveError) as error:
            self.log.error("recording folder cannot be written", error=str(error), setting="RECORDING_DIR")
            await self._refuse(event, 503, (("Retry-After", "30"),))

    async def _refuse(self, event: RequestReceived, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        if status == 415:
            headers = (*headers, ("Accept", ", ".join(bodies.ACCEPT)))
        self._respond(event, status, headers=headers)
        if event.dialog is None:
            await self._end(Event.REFUSED, f"answered {status}")

    async def _establish(self, event: RequestReceived) -> None:
        body = bodies.read(event.request)
        if body.sdp is None:
            raise SdpError("an INVITE without an offer is not served")
        offer = sdp.parse(body.sdp)
        plan = self._plan(offer)
        if not any(each.accepted for each in plan):
            raise SdpError("; ".join(sorted({each.reason or "" for each in plan})) or "the offer has no streams")
        changes = streams.changes((), plan)
        pairs = reserve(self._use.ports, [each.channel for each in changes], clock.monotonic())
        try:
            await self._open_folder()
        except (OSError, ArchiveError):
            for pair in pairs.values():
                self._use.ports.release(pair, clock.monotonic())
            raise
        self._apply(changes, pairs)
        await self._learn(event.request, body)
        await self._answer(event, offer, plan)
        await self._use.store.create(self.record)
        self._announce("call recording", streams=len(self.data.channels), participants=describe.names(self.record))

    async def _reinvite(self, event: RequestReceived) -> None:
        body = bodies.read(event.request)
        if body.sdp is None and event.request.method == "INVITE":
            raise SdpError("a re-INVITE without an offer is not served")
        if body.sdp is None:
            await self._learn(event.request, body)
            self._respond(event, 200)
        else:
            offer = sdp.parse(body.sdp)
            plan = self._plan(offer)
            changes = streams.changes(self.data.channels, plan)
            opened = [each.channel for each in changes if each.kind == "opened"]
            pairs = reserve(self._use.ports, opened, clock.monotonic())
            self._apply(changes, pairs)
            await self._learn(event.request, body)
            await self._answer(event, offer, plan)
        self._note(event.request.method.lower(), channels=[f"{c.label}:{c.mode}" for c in self.data.channels])
        await self._follow_activity()

    async def _bye(self, event: RequestReceived) -> None:
        body = bodies.read(event.request)
        self._respond(event, 200)
        if self.data.live:
            await self._learn(event.request, body)
        await self._end(Event.HANGUP, "BYE")

    async def _options(self, event: RequestReceived) -> None:
        self._respond(event, 200, headers=(("Accept", ", ".join(bodies.ACCEPT)),))

    async def _info(self, event: RequestReceived) -> None:
        self._respond(event, 200)

    _HANDLERS: dict[str, Callable[[Call, RequestReceived], Awaitable[None]]] = {
        "INVITE": _reinvite,
        "UPDATE": _reinvite,
        "BYE": _bye,
        "OPTIONS": _options,
        "INFO": _info,
    }

    # ------------------------------------------------------------------ offer and answer

    def _plan(self, offer: sdp.SessionDescription) -> list[negotiate.NegotiatedStream]:
        return negotiate.plan(offer, codecs=streams.DECODED, undecodable=streams.CAPTURED)

    def _apply(self, changes: list[streams.Change], pairs: dict[int, Any]) -> None:
        """Make the capture follow the offer. Ports are reserved by now, so nothing here can be refused."""
        assert self._intake is not None
        at_ns = clock.wall_ns()
        for change in changes:
            channel = change.channel
            if change.kind == "opened":
                pair = pairs[channel.index]
                channel = replace(channel, port=pair.port, rtcp_port=pair.port + 1)
                self._intake.open(channel, pair, at_ns)
            elif change.kind == "changed":
                self._intake.change(channel, at_ns)
            else:
                self._intake.close(channel, at_ns)
            self._keep(channel)

    def _keep(self, channel: Channel) -> None:
        if channel.index == len(self.data.channels):
            self.data.channels.append(channel)
        else:
            self.data.channels[channel.index] = channel

    async def _answer(
        self, event: RequestReceived, offer: sdp.SessionDescription, plan: list[negotiate.NegotiatedStream]
    ) -> None:
        at = next(each.remote_address or event.flow.remote[0] for each in plan)
        address = self._address_towards(at)
        lines = {each.mline: (address, each.port) for each in self.data.channels if each.open}
        previous = sdp.parse(self.data.answer) if self.data.answer else None
        origin = sdp.Origin.at(address, int.from_bytes(self._use.entropy(4), "big"))
        answer = negotiate.revise(previous, negotiate.build_answer(offer, plan, ports=lines, origin=origin))
        self.data.answer = str(answer)
        initial = event.dialog is None
        if initial:
            self.data.started_ns = self.part.started_ns = clock.wall_ns()
            await self._on_disk(self._write)
        headers = (("Content-Type", "application/sdp"),)
        dialog = self._respond(event, 200, headers=headers, body=str(answer).encode())
        if initial and dialog is not None:
            self._on_dialog(dialog.key)
            self.record.dialogs.append(DialogInfo(dialog, self._source.name))
            active = any(each.mode == "active" for each in self.data.channels)
            await self._fire(Event.ANSWERED if active else Event.ANSWERED_INACTIVE)

    def _address_towards(self, remote: str) -> str:
        """The address to put in SDP: EXTERNAL_IP of the family, else the source of the route to `remote`."""
        version = ipaddress.ip_address(remote).version
        for each in self._use.policy.external:
            if each.version == version:
                return str(each)
        return local_address_towards(remote)

    def _respond(
        self, event: RequestReceived, status: int, *, headers: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> Dialog | None:
        dialog = self._use.endpoint.respond(
            event.transaction,
            status,
            headers=headers,
            body=body,
            contact=contact(event.flow, self._use.policy.external),
            now=clock.monotonic(),
        )
        self._use.flush()
        return dialog

    # ------------------------------------------------------------------ metadata

    async def _learn(self, request: Request, body: bodies.Bodies) -> None:
        """Keep each metadata body as it came and merge what it says; a bad one is a flag, never a lost call."""
        for part in body.metadata:
            name = await self._on_disk(self.dossier.keep_body, part.body)
            try:
                update = xml.parse(part.body, charset=part.content_type.params.get("charset"))
                if isinstance(update, Recording):
                    changes = merge.apply(self.record.metadata, update, at_ns=clock.wall_ns())
                    self._note("metadata", file=name, changes=[_told(each) for each in changes])
            except MetadataError as error:
                self.record.metadata.faults.append(f"{name}: {error.reason}")
                self.log.warning("metadata cannot be read", file=name, reason=error.reason)
                self._note("metadata-error", file=name, reason=error.reason)
        describe.assign_participants(self.record)

    # ------------------------------------------------------------------ the session's table

    async def _fire(self, event: Event) -> None:
        effects = self.data.fire(event, at_ns=clock.wall_ns(), monotonic=clock.monotonic())
        for effect in effects:
            await self._EFFECTS[effect](self)
        if effects:
            self._use.observers.emit("session", self.record)

    async def _follow_activity(self) -> None:
        """Pause when the last stream fell silent by agreement, go on when one speaks again."""
        active = any(each.mode == "active" for each in self.data.channels)
        before = self.data.state
        await self._fire(Event.ACTIVE if active else Event.INACTIVE)
        if self.data.state is before:
            await self._save()
        else:
            self._announce("call resumed" if active else "call paused")

    async def _end(self, event: Event, reason: str) -> None:
        self._ended_at = self._ended_at or clock.wall_ns()
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
                self._use.endpoint.request("BYE", each.dialog, now=clock.monotonic())
        self._use.flush()

    async def _close_capture(self) -> None:
        if self._intake is not None:
            result = await self._intake.finish(self._ended_at or clock.wall_ns())
            packets = sum(counters.accepted for _, counters in result.counters)
            self.log.debug("capture closed", packets=packets, octets=result.octets)

    async def _save(self) -> None:
        if self._dossier is not None:
            await self._on_disk(self._write)
        await self._write_notes()
        if self.data.state is not State.OFFERED and self.data.version > 1:
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
        self._announce_result(found)
        await self._fire(Event.RENDERED)

    async def _release(self) -> None:
        if self.data.state is State.FAILED and self.data.started_ns is None and self._dossier is not None:
            await self._on_disk(self._dossier.discard)
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
        if self._intake is not None:
            await self._intake.finish(clock.wall_ns())
        await self._send_bye()

    # ------------------------------------------------------------------ files and logs

    @property
    def dossier(self) -> Dossier:
        assert self._dossier is not None, "the folder is made before anything is written to it"
        return self._dossier

    @property
    def part(self) -> Part:
        assert self._intake is not None, "the capture is opened together with the folder"
        return self._intake.part

    async def _open_folder(self) -> None:
        data, policy = self.data, self._use.policy
        create = partial(Dossier.create, policy.root, data.session_id, fence=data.fence, node=data.node)
        self._dossier = await self._on_disk(create)
        part = Part(data.session_id, data.node, data.fence, started_ns=data.offered_ns)
        part.clock.append((int(clock.monotonic() * 1e9), clock.offset_ns()))
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
        self.dossier.write(describe.manifest(self.record, refused=refused), self.part)

    def _note(self, event: str, **details: Any) -> None:
        """Remember a line for events.jsonl: written with the next save, at the latest once the event is handled."""
        self._notes.append({"at": timestamp(clock.wall_ns()), "event": event, **details})

    async def _write_notes(self) -> None:
        if self._notes and self._dossier is not None and self.data.state is not State.FAILED:
            notes, self._notes = self._notes, []
            await self._on_disk(self._dossier.part.append_events, notes)

    async def _on_disk(self, job: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._use.files, partial(job, *args, **kwargs))

    def _announce(self, event: str, **details: Any) -> None:
        self.log.info(event, state=str(self.data.state), source=self.data.source, **details)

    def _announce_result(self, found: Finished) -> None:
        self.log.info(
            "recording ready",
            verdict=found.verdict,
            reason=found.reason,
            seconds=round(found.duration, 2),
            file=str(found.audio),
        )


def _told(change: merge.Change) -> dict[str, str]:
    """A change of the metadata as events.jsonl has it."""
    told = {"what": change.what, "kind": change.kind, "id": change.id, "at": timestamp(change.at_ns)}
    return told | {key: value for key, value in (("before", change.before), ("after", change.after)) if value}


def contact(flow: Flow, external: tuple[IpAddress, ...] = ()) -> str:
    """Our Contact in a dialog over `flow`, saying that we are an SRS (RFC 7866 section 6.2).

    Its address is the one of `external` (EXTERNAL_IP) of the same family, else the one the request hit.
    """
    host, port = flow.local
    version = ipaddress.ip_address(host).version
    host = next((str(each) for each in external if each.version == version), host)
    host = f"[{host}]" if version == 6 else host
    transport = "" if flow.transport == "udp" else f";transport={flow.transport}"
    return f"<sip:{host}:{port}{transport}>;+sip.srs"
