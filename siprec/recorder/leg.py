"""One leg of a session: the dialog that carries it for a while, with its SDP state, ports, capture and part folder.

Most sessions have one leg. Another begins when the SRC comes again after a failure (Replaces, or a fresh INVITE for
the same call), or when another process or node carries the session on: then the new leg has a higher fence, writes a
part of its own, and the old one is let go once the new one stands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from siprec import clock, log
from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import Manifest, RefusedEntry
from siprec.errors import ArchiveError, LocalError, Overload
from siprec.media.capture import CaptureResult, SessionCapture
from siprec.media.part import Cause, Outage, Part
from siprec.media.ports import PortPair
from siprec.media.writer import CLOSE_PATIENCE, RETRY_SECONDS
from siprec.recorder.dossier import Dossier, Papers, timestamp
from siprec.recorder.facilities import Facilities, contact
from siprec.recorder.intake import Intake, srtp_terms
from siprec.recorder.negotiation import Negotiation
from siprec.recorder.refresh import Refresh, TimerDue
from siprec.recorder.waiting import Flag
from siprec.session import bodies, headers
from siprec.session.admission import RecordingSource
from siprec.session.model import CallData, DialogInfo
from siprec.sip.dialog import Dialog
from siprec.sip.events import Flow, RequestReceived
from siprec.sip.session_timer import SessionTimer

NOTES_LIMIT = 1000
"""Events that wait for a full disk: a busy call has some tens."""

ABSENCE_NS = 250_000_000
"""A leg whose last packet is older than this has lost its SRC: its part ends with that packet."""

UNTOLD_FENCES = 100
"""Processes before us that may have died in turn before the journal heard of their fence; a part tells of each."""

RESUMED_REFRESH_SECONDS = 1.0
"""After a restart a session timer that is ours is refreshed this soon: by then the listeners are open."""

T = TypeVar("T")
HeaderList = tuple[tuple[str, str], ...]

PRACK_SECONDS = 0.5
"""How long a 200 waits for the PRACK of the 183 before it (T1). RFC 3262 section 3 lets it go out without; peers that
take things in order like it better this way."""


class Leg:
    """`fence` numbers its part; `wake` is told when the session timer wants something."""

    def __init__(
        self,
        facilities: Facilities,
        data: CallData,
        *,
        source: RecordingSource,
        remote: str,
        fence: int,
        wake: Callable[[TimerDue], None],
        takes_over: bool = False,
    ) -> None:
        self._use = facilities
        self._data = data
        self._source = source
        self._papers = Papers()
        self._bodies = 0
        self._told_of_keys = False
        self._dossier: Dossier | None = None
        self._intake: Intake | None = None
        self._ahead: asyncio.Future[None] | None = None
        self.fence = fence
        self.opened_at = clock.monotonic()
        self.answered_at: float | None = None
        self.info: DialogInfo | None = None
        self.refresh = Refresh(wake)
        self.negotiation = Negotiation(
            data,
            ports=facilities.ports,
            external=facilities.policy.external,
            source=remote,
            entropy=facilities.entropy,
            keyring=facilities.keyring,
            strict=facilities.policy.strict,
            fresh=takes_over,
        )

    # ------------------------------------------------------------------ folder and capture

    def open(self, folder: RecordingFolder, *, started_ns: int) -> None:
        """Be ready to plan this leg's part, which `begin` will make in `folder`."""
        self._dossier = Dossier(folder)
        self._plan(started_ns)

    async def begin(self, manifest: Manifest, *, new: bool) -> None:
        """Make the part (`new`: and the folder) with all that is known by now, and capture what is planned.

        Raises OSError, ArchiveError, NotOwner.
        """
        papers, self._papers = self._papers, Papers()
        begin = partial(self.dossier.begin, papers, self.part, manifest, new=new, capture=self._capture)
        self.intake.begin(await self.on_disk(begin))

    def _capture(self, directory: Path) -> SessionCapture:
        return self._use.capture.open(directory, segment_seconds=self._use.policy.segment_seconds)

    def reopen(self, folder: RecordingFolder, pairs: dict[int, PortPair], *, started_ns: int, cause: Cause) -> None:
        """Make a further part that captures a restored session's open channels; each socket is taken out of `pairs`.
        `cause`: of what is missing before it.

        To be called in a files thread, before anybody else knows of this leg. Raises OSError, ArchiveError, LocalError.
        """
        self._dossier = dossier = Dossier(folder)
        try:
            self._make_further()
            self._plan(started_ns)
            self.intake.begin(self._capture(dossier.part.path))
        except (OSError, ArchiveError):  # it may be tried again
            self._dossier = self._intake = None
            with contextlib.suppress(OSError):
                dossier.undo()
            raise
        now_ns = clock.wall_ns()
        for channel in self._data.channels:
            if channel.index in pairs:
                self.intake.open(channel, pairs[channel.index], now_ns)
                del pairs[channel.index]
        self.part.outages.append(Outage(self._data.saved_ns, now_ns, cause))
        with contextlib.suppress(OSError):  # then it is written with the next save
            dossier.write(Papers(), self.part)  # without it nobody could read the capture, should we die right now

    def _make_further(self) -> None:
        for _ in range(UNTOLD_FENCES):
            with contextlib.suppress(FileExistsError):
                return self.dossier.make(self.fence, self._use.policy.node)
            self._data.fence = self.fence = self._data.fence + 1
        raise LocalError(f"there is a part of each fence up to {self.fence}")

    def _plan(self, started_ns: int) -> None:
        policy, data = self._use.policy, self._data
        part = Part(data.session_id, policy.node, self.fence, started_ns=started_ns)
        part.clock = list(self._use.capture.clock_steps())
        self._intake = Intake(
            part=part,
            ports=self._use.ports,
            policy=policy.rtp_source,
            networks=self._source.networks,
            now=clock.monotonic,
            keys=partial(srtp_terms, data, keyring=self._use.keyring),
        )

    @property
    def metadata_keep(self) -> frozenset[str]:
        """Which of `minimise.FIELDS` may be recorded."""
        return self._use.policy.metadata_keep

    @property
    def opened(self) -> bool:
        return self._intake is not None

    @property
    def dossier(self) -> Dossier:
        assert self._dossier is not None, "the leg is opened before anything is written of it"
        return self._dossier

    @property
    def intake(self) -> Intake:
        assert self._intake is not None, "the capture is planned together with the folder"
        return self._intake

    @property
    def current(self) -> DialogInfo:
        """The dialog, which must be known by now."""
        assert self.info is not None, "asked for only after `identify`"
        return self.info

    @property
    def part(self) -> Part:
        return self.intake.part

    @property
    def refused(self) -> list[RefusedEntry]:
        """Packets that were not written; complete once the leg is finished."""
        return self._intake.refused if self._intake else []

    @property
    def sent(self) -> dict[int, int]:
        """Packets the SRC says it has sent, by channel; complete once the leg is finished."""
        return self._intake.sent if self._intake else {}

    async def finish(self, at_ns: int, *, or_later: bool = False, saved: bool = False) -> CaptureResult | None:
        """Close the capture, write part.json for good, give everything back.

        `or_later`: the part ends with its last packet, when that came after `at_ns`. `saved`: the leg is saved right
        after this, and part.json with it.
        """
        self.refresh.stop()
        self.negotiation.withdraw()
        if self._intake is None or not self._intake.begun:
            await self.discard()
            return None
        result = await self._intake.finish(at_ns)
        if or_later:
            heard_ns = max((counters.last_packet_ns for _, counters in result.counters), default=0)
            self.part.ended_ns = max(at_ns, heard_ns)
        self.part.clock = list(self._use.capture.clock_steps())
        if not saved:
            await self.save_at_last()
        return result

    async def discard(self) -> None:
        """Close the capture and remove the part: nothing was answered, so there is nothing to hear in it."""
        if self._intake is not None:
            self._intake.withdraw()
            if self._intake.begun:
                await self._intake.finish(clock.wall_ns())
            self._intake = None
        self.negotiation.withdraw()
        self._papers = Papers()
        if self._dossier is not None:
            await self.on_disk(self._dossier.discard)
            self._dossier = None

    def last_packet_ns(self) -> int:
        """When the last packet of any stream came, 0 before the first."""
        return self._intake.last_packet_ns() if self._intake else 0

    def absent_since(self) -> int:
        """When the last packet came (ns), for a leg that has lost its SRC; 0 for one that still hears it."""
        last = self.last_packet_ns()
        return last if clock.wall_ns() - last > ABSENCE_NS else 0

    def interrupted_since(self, since_ns: int) -> None:
        """Packets missing between then and this leg's first are due to the failure that it came after."""
        self.part.outages.append(Outage(since_ns, clock.wall_ns(), "interrupted"))

    # ------------------------------------------------------------------ files

    async def leave(self) -> None:
        """Have part.json tell a successor what this process knows to be missing. Raises OSError."""
        if self._intake is not None and self._intake.note_outages():
            await self._write(None)

    async def save(self, manifest: Manifest) -> None:
        """Bring recording.json, part.json and the events up to date. Raises OSError, NotOwner."""
        await self._write(manifest)

    def note(self, event: str, **details: Any) -> None:
        """Remember a line for events.jsonl: written with the next save, or once the next event is handled."""
        self._papers.notes.append({"at": timestamp(clock.wall_ns()), "event": event, **details})

    def keep_body(self, body: bytes) -> str:
        """Remember an rs-metadata body, to be kept as received; returns its name. It is written with the events."""
        self._bodies += 1
        self._papers.bodies.append((self._bodies, body))
        return f"metadata/{self._bodies:04d}.xml"

    async def write_ahead(self, part: Part, seconds: float) -> None:
        """Write part.json as it will be. A disk that takes longer, or takes nothing, is for the next save to meet."""
        self._ahead = asyncio.ensure_future(self.on_disk(self.dossier.write, Papers(), part))
        with contextlib.suppress(OSError):  # a TimeoutError is one
            await asyncio.wait_for(asyncio.shield(self._ahead), seconds)

    async def write_papers(self) -> None:
        """Write the events and bodies that are remembered. Raises OSError."""
        if self._papers and self._intake is not None and self._intake.begun:
            await self._write(None)

    async def _write(self, manifest: Manifest | None) -> None:
        if self._ahead is not None:  # two writers of one file would come in each other's way
            with contextlib.suppress(OSError):
                await self._ahead
            self._ahead = None
        papers, self._papers = self._papers, Papers()
        try:
            await self.on_disk(self.dossier.write, papers, self.part, manifest)
        except OSError:  # a full disk: what was not written is remembered, as long as it is not too much
            papers.bodies += self._papers.bodies
            papers.notes += self._papers.notes
            del papers.notes[:-NOTES_LIMIT]
            self._papers = papers
            raise

    async def save_at_last(self, manifest: Manifest | None = None) -> None:
        """Write what is left; a full disk is waited for as captures wait for it. Raises OSError, NotOwner."""
        limit = clock.monotonic() + CLOSE_PATIENCE
        while True:
            try:
                return await self._write(manifest)
            except OSError:
                if clock.monotonic() > limit:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def on_disk(self, job: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """`job` in a files thread: a slow disk delays this call, not the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._use.files, partial(job, *args, **kwargs))

    # ------------------------------------------------------------------ signalling

    def contact(self, event: RequestReceived) -> str:
        """Our Contact in this leg's dialog."""
        return contact(event, self._use.policy.external)

    def respond(
        self, event: RequestReceived, status: int, *, extra: HeaderList = (), body: str = "", reliable: bool = False
    ) -> Dialog | None:
        """Answer a request; None when it is over already. A body is SDP."""
        if body:
            extra = (*extra, ("Content-Type", "application/sdp"))
            self._watch_keys(event.flow, body)
            body = self._use.keyring.revealed(body)
        dialog = self._use.endpoint.respond(
            event.transaction,
            status,
            headers=extra,
            body=body.encode(),
            contact=self.contact(event),
            reliable=reliable,
            now=clock.monotonic(),
        )
        self._use.flush()
        return dialog

    def pending(self, event: RequestReceived) -> bool:
        """Whether a request still waits for our answer: the SRC may have cancelled it."""
        return self._use.endpoint.pending(event.transaction)

    def ask(self, method: str, extra: HeaderList = (), body: bytes = b"") -> bool:
        """Send a request in the dialog; False when that is not possible now."""
        if self.info is None:
            return False
        body = self._use.keyring.revealed(body.decode()).encode()
        try:
            self._use.endpoint.request(method, self.info.dialog, headers=extra, body=body, now=clock.monotonic())
        except (LocalError, Overload):  # the dialog is gone, or busy
            return False
        self._use.flush()
        return True

    def send_bye(self) -> None:
        """End the dialog, if it is confirmed and not over."""
        if self.info is not None and self.info.dialog.state == "confirmed":
            self.ask("BYE")

    def _watch_keys(self, flow: Flow, body: str) -> None:
        """Many trunks inside private networks send SRTP keys without TLS: that is let pass, and told."""
        if "a=crypto:" in body and flow.transport != "tls" and not self._told_of_keys:
            self._told_of_keys = True
            self.note("srtp-keys-in-clear", transport=flow.transport)
            if self._source.name not in self._use.insecure:
                self._use.insecure.add(self._source.name)
                log.get().warning(
                    "SRTP keys come without TLS",
                    source=flow.remote[0],
                    transport=flow.transport,
                    setting="SIP_TLS_CERT",
                )

    async def provide_prack(self, event: RequestReceived, over: Flag, *, offered: bool) -> None:
        """A peer that requires reliable provisional responses gets one (RFC 3262), and time to acknowledge it: until
        `over` is set, by its PRACK or by what ends the INVITE.

        To an INVITE without an offer it would have to carry ours (section 5), which is for the 200: it gets none.
        """
        if offered and "100rel" in {each.lower() for each in event.request.headers.values("Require")}:
            over.clear()
            if self.respond(event, 183, reliable=True) is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), PRACK_SECONDS)

    def identify(self, event: RequestReceived, body: bodies.Bodies) -> bool:
        """Note the dialog that a 2xx to `event` will confirm, and its SRC's ways; False when the INVITE is over."""
        dialog = self._use.endpoint.dialog_of(event.transaction, contact=self.contact(event))
        if dialog is None:
            return False
        request = event.request
        if event.dialog is None and request.to.tag and not dialog.local_cseq:
            dialog.local_cseq = cseq_beyond(clock.wall_ns())
        self.info = DialogInfo(
            dialog,
            self._source.name,
            updates="UPDATE" in {each.upper() for each in request.headers.values("Allow")},
            siprec="siprec" in {each.lower() for each in request.headers.values("Require")},
            metadata_type=body.metadata[0].content_type.name.lower() if body.metadata else "",
        )
        for name, value in headers.external_ids(request).items():
            self._data.external_ids.setdefault(name, value)
        return True

    def run_timer(self, timer: SessionTimer | None) -> None:
        """Follow the session timer of the newest 2xx, None for none, and have a successor know it."""
        self.refresh.start(timer)
        if self.info is not None:
            self.info.session_expires = timer.interval if timer else 0
            self.info.refreshes = timer is not None and timer.ours

    def resume_timer(self) -> None:
        """Run the session timer of a restored dialog. Nobody knows how much of it is left: if it is us who refresh,
        we do so soon, else the SRC gets all of the interval.
        """
        if self.info is not None and self.info.session_expires:
            interval, ours = self.info.session_expires, self.info.refreshes
            elapsed = interval / 2 - RESUMED_REFRESH_SECONDS if ours else 0.0
            self.refresh.start(SessionTimer(interval, ours, clock.monotonic() - elapsed))


def cseq_beyond(at_ns: int) -> int:
    """A CSeq above any that was used in a dialog whose state is lost: half the seconds since 1970, as RFC 3261
    section 8.1.1.5 suggests. Below 2**31 until 2106.
    """
    return at_ns // 2_000_000_000
